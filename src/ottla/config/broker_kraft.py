"""Broker keys: the node itself, and the KRaft quorum that ottla does not need."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, at_least, one_of, row
from ottla.config.reasons import NO_KRAFT

BOOLEAN = ConfigType.BOOLEAN
INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING
HIGH = "HIGH"
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("broker.id", INT, "-1", ANYTHING, HIGH,
        "The node's id under its old name; `node.id` comes first and must not contradict it."),
    row("node.id", INT, "1", at_least(0), HIGH,
        "The node's id. Kafka has no default; alone, 1 is as good as any, so ottla starts without one."),
    row("process.roles", LIST, "broker,controller", one_of("broker", "controller"), HIGH,
        "broker, controller, or both. Every ottla node is a broker and can be elected controller; "
        "`controller` alone is refused."),
    row("broker.heartbeat.interval.ms", INT, "2000", ANYTHING, MEDIUM,
        "How often a broker tells the KRaft controller that it lives.", inert=NO_KRAFT),
    row("broker.session.timeout.ms", INT, "9000", ANYTHING, MEDIUM,
        "After this silence the KRaft controller fences a broker.", inert=NO_KRAFT),
    row("controller.listener.names", LIST, "", ANYTHING, HIGH,
        "Listeners for the KRaft controller. They are left out of `listeners` and never opened."),
    row("controller.performance.always.log.threshold.ms", LONG, "2000", at_least(0), MEDIUM,
        "KRaft controller events slower than this are logged.", inert=NO_KRAFT, internal=True),
    row("controller.performance.sample.period.ms", LONG, "60000", at_least(100), MEDIUM,
        "How often KRaft controller events are summed up.", inert=NO_KRAFT, internal=True),
    row("controller.quorum.append.linger.ms", INT, "25", at_least(0), MEDIUM,
        "How long the KRaft leader gathers records.", inert=NO_KRAFT),
    row("controller.quorum.auto.join.enable", BOOLEAN, "false", ANYTHING, LOW,
        "Joins the KRaft quorum by itself.", inert=NO_KRAFT),
    row("controller.quorum.bootstrap.servers", LIST, "", ANYTHING, HIGH,
        "Where the KRaft quorum is found.", inert=NO_KRAFT),
    row("controller.quorum.election.backoff.max.ms", INT, "1000", at_least(0), HIGH,
        "Longest pause before a new KRaft election.", inert=NO_KRAFT),
    row("controller.quorum.election.timeout.ms", INT, "1000", at_least(0), HIGH,
        "How long a KRaft candidate waits for votes.", inert=NO_KRAFT),
    row("controller.quorum.fetch.max.bytes", INT, "1048576", at_least(1), LOW,
        "Bytes a KRaft follower asks for.", inert=NO_KRAFT),
    row("controller.quorum.fetch.snapshot.max.bytes", INT, "1048576", at_least(1), LOW,
        "Bytes of a snapshot a KRaft follower asks for.", inert=NO_KRAFT),
    row("controller.quorum.fetch.timeout.ms", INT, "2000", at_least(0), HIGH,
        "After this silence a KRaft follower becomes a candidate.", inert=NO_KRAFT),
    row("controller.quorum.request.timeout.ms", INT, "2000", at_least(0), MEDIUM,
        "Timeout of requests in the KRaft quorum.", inert=NO_KRAFT),
    row("controller.quorum.retry.backoff.ms", INT, "20", at_least(0), LOW,
        "Pause before a request in the KRaft quorum is repeated.", inert=NO_KRAFT),
    row("controller.quorum.voters", LIST, "", ANYTHING, HIGH,
        "The voters of the KRaft quorum.", inert=NO_KRAFT),
    row("controller.socket.timeout.ms", INT, "30000", ANYTHING, MEDIUM,
        "Timeout of connections to the KRaft controller.", inert=NO_KRAFT),
    row("initial.broker.registration.timeout.ms", INT, "60000", ANYTHING, MEDIUM,
        "How long a broker tries to register with the KRaft controller.", inert=NO_KRAFT),
    row("internal.metadata.delete.delay.millis", LONG, "60000", ANYTHING, LOW,
        "How long files of the KRaft log outlive their deletion.", inert=NO_KRAFT, internal=True),
    row("internal.metadata.log.segment.bytes", INT, None, ANYTHING, LOW,
        "Segment size of the KRaft log, for tests.", inert=NO_KRAFT, internal=True),
    row("internal.metadata.max.batch.size.in.bytes", INT, "8388608", ANYTHING, LOW,
        "Largest batch of the KRaft log.", inert=NO_KRAFT, internal=True),
    row("metadata.log.dir", STRING, None, ANYTHING, HIGH,
        "Where the KRaft log lies.", inert=NO_KRAFT),
    row("metadata.log.max.record.bytes.between.snapshots", LONG, "20971520", at_least(1), HIGH,
        "Bytes between two KRaft snapshots.", inert=NO_KRAFT),
    row("metadata.log.max.snapshot.interval.ms", LONG, "3600000", at_least(0), HIGH,
        "Time between two KRaft snapshots.", inert=NO_KRAFT),
    row("metadata.log.segment.bytes", INT, "1073741824", at_least(8388608), HIGH,
        "Segment size of the KRaft log.", inert=NO_KRAFT),
    row("metadata.log.segment.ms", LONG, "604800000", ANYTHING, HIGH,
        "Age of a segment of the KRaft log.", inert=NO_KRAFT),
    row("metadata.max.idle.interval.ms", INT, "500", at_least(0), LOW,
        "How often an idle KRaft leader writes a record.", inert=NO_KRAFT),
    row("metadata.max.retention.bytes", LONG, "104857600", ANYTHING, HIGH,
        "Size of the KRaft log.", inert=NO_KRAFT),
    row("metadata.max.retention.ms", LONG, "604800000", ANYTHING, HIGH,
        "Age of the KRaft log.", inert=NO_KRAFT),
    row("unstable.feature.versions.enable", BOOLEAN, "false", ANYTHING, HIGH,
        "Allows feature levels that are still under development.", inert=NO_KRAFT, internal=True),
)
