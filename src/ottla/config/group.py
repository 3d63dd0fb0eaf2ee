"""Group keys: what one group can be told (IncrementalAlterConfigs, type GROUP)."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, OFFSET_RESET, ConfigType, at_least, one_of, row
from ottla.config.reasons import DEAD_LETTERS, SHARE_ASSIGNOR, STREAMS_ASSIGNOR, STREAMS_WARMUP

BOOLEAN = ConfigType.BOOLEAN
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("consumer.assignment.interval.ms", INT, "1000", at_least(0), MEDIUM,
        "Shortest time between two assignments of a group of the consumer protocol."),
    row("consumer.assignor.offload.enable", BOOLEAN, "true", ANYTHING, MEDIUM,
        "Computes assignments beside the coordinator.",
        inert="Assignments are computed where they are needed; groups are assigned once per interval at most.",
        internal=True),
    row("consumer.heartbeat.interval.ms", INT, "5000", at_least(1), MEDIUM,
        "Heartbeat interval the coordinator tells members of the consumer protocol."),
    row("consumer.session.timeout.ms", INT, "45000", at_least(1), MEDIUM,
        "Session timeout of members of the consumer protocol."),
    row("errors.deadletterqueue.copy.record.enable", BOOLEAN, "false", ANYTHING, MEDIUM,
        "Copies the whole record to the dead-letter topic.", refused=DEAD_LETTERS),
    row("errors.deadletterqueue.topic.name", STRING, "", ANYTHING, MEDIUM,
        "The dead-letter topic of a share group.", refused=DEAD_LETTERS),
    row("share.assignment.interval.ms", INT, "1000", at_least(0), MEDIUM,
        "Shortest time between two assignments of a share group."),
    row("share.assignor.offload.enable", BOOLEAN, "true", ANYTHING, MEDIUM,
        "Computes assignments beside the coordinator.", inert=SHARE_ASSIGNOR, internal=True),
    row("share.auto.offset.reset", STRING, "latest", OFFSET_RESET, MEDIUM,
        "Where a share group begins to read."),
    row("share.delivery.count.limit", INT, "5", at_least(2), MEDIUM,
        "How often a record is delivered before it is given up."),
    row("share.heartbeat.interval.ms", INT, "5000", at_least(1), MEDIUM,
        "Heartbeat interval of share group members."),
    row("share.isolation.level", STRING, "read_uncommitted", one_of("read_committed", "read_uncommitted"), MEDIUM,
        "Whether a share group sees records of open transactions."),
    row("share.partition.max.record.locks", INT, "2000", at_least(100), MEDIUM,
        "Records of one partition a share group may have in flight."),
    row("share.record.lock.duration.ms", INT, "30000", at_least(1000), MEDIUM,
        "How long a delivered record stays reserved for its receiver."),
    row("share.renew.acknowledge.enable", BOOLEAN, "true", ANYTHING, MEDIUM,
        "Lets a receiver prolong its reservation."),
    row("share.session.timeout.ms", INT, "45000", at_least(1), MEDIUM,
        "Session timeout of share group members."),
    row("streams.acceptable.recovery.lag", LONG, "10000", at_least(0), MEDIUM,
        "Lag below which a task counts as caught up.", internal=True),
    row("streams.assignment.interval.ms", INT, "1000", at_least(0), MEDIUM,
        "Shortest time between two assignments of a streams group."),
    row("streams.assignor.name", STRING, None, ANYTHING, MEDIUM,
        "The assignor of a streams group.", inert=STREAMS_ASSIGNOR),
    row("streams.assignor.offload.enable", BOOLEAN, "true", ANYTHING, MEDIUM,
        "Computes assignments beside the coordinator.", inert=STREAMS_ASSIGNOR, internal=True),
    row("streams.heartbeat.interval.ms", INT, "5000", at_least(1), MEDIUM,
        "Heartbeat interval of streams group members."),
    row("streams.initial.rebalance.delay.ms", INT, "3000", at_least(0), MEDIUM,
        "How long the first assignment of a streams group waits for more members."),
    row("streams.num.standby.replicas", INT, "0", at_least(0), MEDIUM,
        "Standby tasks per task."),
    row("streams.num.warmup.replicas", INT, "2", at_least(0), MEDIUM,
        "Tasks warmed up at once.", inert=STREAMS_WARMUP, internal=True),
    row("streams.rack.aware.assignment.tags", LIST, "", ANYTHING, LOW,
        "Client tags over which standby tasks are spread."),
    row("streams.session.timeout.ms", INT, "45000", at_least(1), MEDIUM,
        "Session timeout of streams group members."),
    row("streams.task.offset.interval.ms", INT, "60000", at_least(1), MEDIUM,
        "How often members report their tasks' offsets.", internal=True),
)
