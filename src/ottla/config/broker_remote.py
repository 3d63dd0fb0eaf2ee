"""Broker keys: tiered storage."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, LONG_MAX, NOT_EMPTY, ConfigType, Update, at_least, between, row
from ottla.config.reasons import JAVA_CLASS, TIERED_STORAGE

BOOLEAN = ConfigType.BOOLEAN
DOUBLE = ConfigType.DOUBLE
INT = ConfigType.INT
LONG = ConfigType.LONG
STRING = ConfigType.STRING
CLUSTER_WIDE = Update.CLUSTER_WIDE
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("remote.fetch.max.wait.ms", INT, "500", at_least(1), MEDIUM,
        "How long a fetch waits for remote storage.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.list.offsets.request.timeout.ms", LONG, "30000", at_least(1), MEDIUM,
        "How long ListOffsets waits for remote storage.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.index.file.cache.total.size.bytes", LONG, "1073741824", at_least(1), LOW,
        "Size of the cache of remote indexes.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.index.file.cache.ttl.ms", LONG, "900000", at_least(-1), LOW,
        "How long a remote index stays cached.", inert=TIERED_STORAGE, internal=True),
    row("remote.log.manager.copier.thread.pool.size", INT, "10", at_least(1), MEDIUM,
        "Threads that copy segments.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.manager.copy.max.bytes.per.second", LONG, str(LONG_MAX), at_least(1), MEDIUM,
        "Limit of copying.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.manager.copy.quota.window.num", INT, "11", at_least(1), MEDIUM,
        "Samples kept for that limit.", inert=TIERED_STORAGE),
    row("remote.log.manager.copy.quota.window.size.seconds", INT, "1", at_least(1), MEDIUM,
        "Length of such a sample.", inert=TIERED_STORAGE),
    row("remote.log.manager.expiration.thread.pool.size", INT, "10", at_least(1), MEDIUM,
        "Threads that delete remote segments.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.manager.fetch.max.bytes.per.second", LONG, str(LONG_MAX), at_least(1), MEDIUM,
        "Limit of reading back.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.manager.fetch.quota.window.num", INT, "11", at_least(1), MEDIUM,
        "Samples kept for that limit.", inert=TIERED_STORAGE),
    row("remote.log.manager.fetch.quota.window.size.seconds", INT, "1", at_least(1), MEDIUM,
        "Length of such a sample.", inert=TIERED_STORAGE),
    row("remote.log.manager.follower.thread.pool.size", INT, "2", at_least(1), MEDIUM,
        "Threads of followers.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.manager.task.interval.ms", LONG, "30000", at_least(1), LOW,
        "How often segments to copy are looked for.", inert=TIERED_STORAGE),
    row("remote.log.manager.task.retry.backoff.max.ms", LONG, "30000", at_least(1), LOW,
        "Longest pause after an error.", inert=TIERED_STORAGE, internal=True),
    row("remote.log.manager.task.retry.backoff.ms", LONG, "500", at_least(1), LOW,
        "First pause after an error.", inert=TIERED_STORAGE, internal=True),
    row("remote.log.manager.task.retry.jitter", DOUBLE, "0.2", between(0, 0.5), LOW,
        "Random part of that pause.", inert=TIERED_STORAGE, internal=True),
    row("remote.log.manager.thread.pool.size", INT, "2", at_least(1), MEDIUM,
        "Threads in all.", inert=TIERED_STORAGE),
    row("remote.log.metadata.custom.metadata.max.bytes", INT, "128", at_least(0), LOW,
        "Bytes of its own a plug-in may keep per segment.", inert=TIERED_STORAGE),
    row("remote.log.metadata.manager.class.name", STRING,
        "org.apache.kafka.server.log.remote.metadata.storage.TopicBasedRemoteLogMetadataManager", NOT_EMPTY, MEDIUM,
        "The Java class that keeps remote metadata.", inert=TIERED_STORAGE),
    row("remote.log.metadata.manager.class.path", STRING, None, ANYTHING, MEDIUM,
        "Where that class is found.", inert=TIERED_STORAGE),
    row("remote.log.metadata.manager.impl.prefix", STRING, "rlmm.config.", NOT_EMPTY, MEDIUM,
        "Prefix of that class's own settings.", inert=TIERED_STORAGE),
    row("remote.log.metadata.manager.listener.name", STRING, None, NOT_EMPTY, MEDIUM,
        "Listener that class connects to.", inert=TIERED_STORAGE),
    row("remote.log.reader.max.pending.tasks", INT, "100", at_least(1), MEDIUM,
        "Remote reads that may wait.", inert=TIERED_STORAGE),
    row("remote.log.reader.threads", INT, "10", at_least(1), MEDIUM,
        "Threads that read from remote storage.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("remote.log.storage.manager.class.name", STRING, None, NOT_EMPTY, MEDIUM,
        "The Java class of the object store.", refused=JAVA_CLASS),
    row("remote.log.storage.manager.class.path", STRING, None, ANYTHING, MEDIUM,
        "Where that class is found.", inert=TIERED_STORAGE),
    row("remote.log.storage.manager.impl.prefix", STRING, "rsm.config.", NOT_EMPTY, MEDIUM,
        "Prefix of that class's own settings.", inert=TIERED_STORAGE),
    row("remote.log.storage.system.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Switches tiered storage on for the cluster.", refused="Tiered storage is not served yet."),
)
