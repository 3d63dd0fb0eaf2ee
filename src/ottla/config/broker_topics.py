"""Broker keys: topics, replicas and the defaults of both."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, Update, at_least, between, between_or, one_of, row
from ottla.config.reasons import EVENT_LOOP, JAVA_CLASS, ONE_BROKER, TIERED_STORAGE

BOOLEAN = ConfigType.BOOLEAN
CLASS = ConfigType.CLASS
INT = ConfigType.INT
LONG = ConfigType.LONG
STRING = ConfigType.STRING
CLUSTER_WIDE = Update.CLUSTER_WIDE
HIGH = "HIGH"
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("auto.create.topics.enable", BOOLEAN, "true", ANYTHING, HIGH,
        "A topic that a client asks for in Metadata is made if it does not exist."),
    row("auto.leader.rebalance.enable", BOOLEAN, "true", ANYTHING, HIGH,
        "Moves leadership back to preferred replicas.", inert=ONE_BROKER),
    row("broker.rack", STRING, None, ANYTHING, MEDIUM,
        "The rack this broker stands in, told to clients and used to spread replicas."),
    row("compression.gzip.level", INT, "-1", between_or(1, 9, -1), MEDIUM,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE),
    row("compression.lz4.level", INT, "9", between(1, 17), MEDIUM,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE),
    row("compression.type", STRING,
        "producer", one_of("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), HIGH,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE),
    row("compression.zstd.level", INT, "3", between(-131072, 22), MEDIUM,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE),
    row("controlled.shutdown.enable", BOOLEAN, "true", ANYTHING, MEDIUM,
        "Hands leadership over before stopping.", inert=ONE_BROKER),
    row("create.topic.policy.class.name", CLASS, None, ANYTHING, LOW,
        "A Java class that may veto new topics.", refused=JAVA_CLASS),
    row("alter.config.policy.class.name", CLASS, None, ANYTHING, LOW,
        "A Java class that may veto changed configurations.", refused=JAVA_CLASS),
    row("default.replication.factor", INT, "1", ANYTHING, MEDIUM,
        "Replicas of a topic made without saying how many."),
    row("delete.topic.enable", BOOLEAN, "true", ANYTHING, HIGH,
        "Allows topics to be deleted."),
    row("follower.fetch.last.tiered.offset.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Lets a new follower begin at the tiered part.", update=CLUSTER_WIDE, inert=TIERED_STORAGE),
    row("leader.imbalance.check.interval.seconds", LONG, "300", at_least(1), HIGH,
        "How often leadership is rebalanced.", inert=ONE_BROKER),
    row("max.decompressed.message.bytes", INT, "2147483639", between(1, 2147483639), MEDIUM,
        "Default of the topic key of the same name."),
    row("message.max.bytes", INT, "1048588", at_least(0), HIGH,
        "Default of the topic key `max.message.bytes`.", update=CLUSTER_WIDE),
    row("min.insync.replicas", INT, "1", at_least(1), HIGH,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE),
    row("num.partitions", INT, "1", at_least(1), MEDIUM,
        "Partitions of a topic made without saying how many."),
    row("num.replica.alter.log.dirs.threads", INT, None, ANYTHING, HIGH,
        "Threads that move replicas between directories.", inert=EVENT_LOOP),
    row("num.replica.fetchers", INT, "1", at_least(1), HIGH,
        "Fetchers per source broker.", update=CLUSTER_WIDE, inert=ONE_BROKER),
    row("replica.fetch.backoff.ms", INT, "1000", at_least(0), MEDIUM,
        "Pause of a follower after an error."),
    row("replica.fetch.max.bytes", INT, "1048576", at_least(0), MEDIUM,
        "Bytes a follower asks for per partition."),
    row("replica.fetch.min.bytes", INT, "1", ANYTHING, HIGH,
        "Bytes a follower waits for."),
    row("replica.fetch.response.max.bytes", INT, "10485760", at_least(0), MEDIUM,
        "Bytes a follower asks for per request."),
    row("replica.fetch.wait.max.ms", INT, "500", ANYTHING, HIGH,
        "How long a follower waits for data."),
    row("replica.high.watermark.checkpoint.interval.ms", LONG, "5000", ANYTHING, HIGH,
        "How often high watermarks are written to `replication-offset-checkpoint`."),
    row("replica.lag.time.max.ms", LONG, "30000", ANYTHING, HIGH,
        "A follower that lags this long leaves the in-sync replicas."),
    row("replica.selector.class", STRING, None, ANYTHING, MEDIUM,
        "Which replica consumers are sent to (KIP-392): `org.apache.kafka.common.replica.RackAwareReplicaSelector` "
        "sends one with `client.rack` to a replica in sync in its rack. Other classes cannot be loaded."),
    row("replica.socket.receive.buffer.bytes", INT, "65536", ANYTHING, HIGH,
        "SO_RCVBUF of connections to other brokers."),
    row("replica.socket.timeout.ms", INT, "30000", ANYTHING, HIGH,
        "Timeout of requests to other brokers."),
    row("unclean.leader.election.enable", BOOLEAN, "false", ANYTHING, HIGH,
        "Default of the topic key of the same name.", update=CLUSTER_WIDE, inert=ONE_BROKER),
    row("unclean.leader.election.interval.ms", LONG, "300000", at_least(1), MEDIUM,
        "How often unclean elections are tried.", inert=ONE_BROKER, internal=True),
)
