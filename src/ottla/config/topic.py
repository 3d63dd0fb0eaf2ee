"""Topic keys: what one topic can be told."""

from __future__ import annotations

from ottla.config.keys import (
    ANYTHING,
    LONG_MAX,
    THROTTLED_REPLICAS,
    ConfigType,
    at_least,
    between,
    between_or,
    one_of,
    row,
)
from ottla.config.reasons import DEAD_LETTERS, ONE_BROKER, PREALLOCATE, TESTS_ONLY, TIERED_STORAGE

BOOLEAN = ConfigType.BOOLEAN
DOUBLE = ConfigType.DOUBLE
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING
MEDIUM = "MEDIUM"

# fmt: off
ROWS = (
    row("cleanup.policy", LIST, "delete", one_of("compact", "delete"), MEDIUM,
        "What happens to old segments: `delete` drops them by age and size, `compact` keeps the last value of "
        "each key, both do both; an empty list keeps everything."),
    row("compression.gzip.level", INT, "-1", between_or(1, 9, -1), MEDIUM,
        "Level used when the broker itself compresses with gzip; -1 is zlib's default."),
    row("compression.lz4.level", INT, "9", between(1, 17), MEDIUM,
        "Level used when the broker itself compresses with lz4."),
    row("compression.type", STRING,
        "producer", one_of("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), MEDIUM,
        "`producer` stores batches as they came; a codec name makes the broker recompress what came in "
        "another codec; `uncompressed` stores plain."),
    row("compression.zstd.level", INT, "3", between(-131072, 22), MEDIUM,
        "Level used when the broker itself compresses with zstd."),
    row("delete.retention.ms", LONG, "86400000", at_least(0), MEDIUM,
        "How long a tombstone stays visible in a compacted topic, so that a slow reader still learns of the "
        "deletion."),
    row("errors.deadletterqueue.group.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Lets share groups write records they gave up on to this topic.", refused=DEAD_LETTERS),
    row("file.delete.delay.ms", LONG, "60000", at_least(0), MEDIUM,
        "How long a segment that was deleted stays on disk under its `.deleted` name, for readers that still "
        "hold it."),
    row("flush.messages", LONG, str(LONG_MAX), at_least(1), MEDIUM,
        "fsync after this many records; 1 means that an acknowledged record survives a power cut. All "
        "acknowledgements that wait share one fsync. By default none comes before the acknowledgement, as in Kafka: "
        "a crash of the broker loses nothing, a power cut may lose the last seconds."),
    row("flush.ms", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "fsync at the latest after this time."),
    row("follower.replication.throttled.replicas", LIST, "", THROTTLED_REPLICAS, MEDIUM,
        "Replicas whose catching up is throttled on the followers."),
    row("index.interval.bytes", INT, "4096", at_least(0), MEDIUM,
        "One entry of the offset index per this many bytes of log."),
    row("internal.segment.bytes", INT, None, ANYTHING, MEDIUM,
        "Segment size for tests, below the minimum of `segment.bytes`.", inert=TESTS_ONLY, internal=True),
    row("leader.replication.throttled.replicas", LIST, "", THROTTLED_REPLICAS, MEDIUM,
        "Replicas whose catching up is throttled on the leaders."),
    row("local.retention.bytes", LONG, "-2", at_least(-2), MEDIUM,
        "How much of a tiered topic stays on local disk.", inert=TIERED_STORAGE),
    row("local.retention.ms", LONG, "-2", at_least(-2), MEDIUM,
        "How long a tiered topic's segments stay on local disk.", inert=TIERED_STORAGE),
    row("max.compaction.lag.ms", LONG, str(LONG_MAX), at_least(1), MEDIUM,
        "At the latest after this time a record becomes eligible for compaction, whatever the dirty ratio."),
    row("max.decompressed.message.bytes", INT, "2147483639", between(1, 2147483639), MEDIUM,
        "A batch that would unpack to more than this is refused: the guard against compression bombs."),
    row("max.message.bytes", INT, "1048588", at_least(0), MEDIUM,
        "Largest batch the topic accepts, after compression, with its 12 bytes of log overhead."),
    row("message.timestamp.after.max.ms", LONG, "3600000", at_least(0), MEDIUM,
        "How far a record's timestamp may lie in the future with CreateTime. Replays of records stamped ahead "
        "need a larger value."),
    row("message.timestamp.before.max.ms", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "How far a record's timestamp may lie in the past with CreateTime."),
    row("message.timestamp.type", STRING, "CreateTime", one_of("CreateTime", "LogAppendTime"), MEDIUM,
        "`CreateTime` keeps the producer's timestamps, `LogAppendTime` stamps batches on arrival."),
    row("min.cleanable.dirty.ratio", DOUBLE, "0.5", between(0, 1), MEDIUM,
        "The part of the log that must be uncompacted before the cleaner takes it. Lower: less space, more "
        "work."),
    row("min.compaction.lag.ms", LONG, "0", at_least(0), MEDIUM,
        "A record younger than this is never compacted away."),
    row("min.insync.replicas", INT, "1", at_least(1), MEDIUM,
        "Replicas that must be in sync before a write with acks=all is accepted."),
    row("preallocate", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Reserve the whole file when a segment is made.", inert=PREALLOCATE),
    row("remote.copy.lag.bytes", LONG, "-1", at_least(-1), MEDIUM,
        "How far copying to remote storage may lag, in bytes.", inert=TIERED_STORAGE),
    row("remote.copy.lag.ms", LONG, "0", at_least(-1), MEDIUM,
        "How far copying to remote storage may lag, in time.", inert=TIERED_STORAGE),
    row("remote.log.copy.disable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Makes the remote part of a tiered topic read-only.", inert=TIERED_STORAGE),
    row("remote.log.delete.on.disable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Deletes the remote part when tiering is switched off.", inert=TIERED_STORAGE),
    row("remote.storage.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Moves old segments to remote storage.",
        refused=("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log "
            "storage.")),
    row("retention.bytes", LONG, "-1", ANYTHING, MEDIUM,
        "Size of one partition above which its oldest segments are deleted; -1 is no limit."),
    row("retention.ms", LONG, "604800000", at_least(-1), MEDIUM,
        "Age of a segment's newest record above which the segment is deleted; -1 is no limit."),
    row("segment.bytes", INT, "1073741824", at_least(1048576), MEDIUM,
        "Size at which a segment is closed and the next one begun. Retention and compaction work on closed "
        "segments."),
    row("segment.index.bytes", INT, "10485760", at_least(4), MEDIUM,
        "Space for a segment's offset and time index; a full index begins a new segment."),
    row("segment.jitter.ms", LONG, "0", at_least(0), MEDIUM,
        "A random part taken off `segment.ms`, so that many partitions do not roll at once."),
    row("segment.ms", LONG, "604800000", at_least(1), MEDIUM,
        "Age at which a segment is closed even if it is small."),
    row("unclean.leader.election.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Lets a replica that is not in sync become leader when no other is left, at the price of lost "
        "records.", inert=ONE_BROKER),
)
