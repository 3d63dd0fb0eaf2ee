"""Broker keys: quotas of clients, and throttles of replication.

`DYNAMIC_ROWS` are the throttles of replication: Kafka reads them only where they are set on a running broker.
"""

from __future__ import annotations

from ottla.config.keys import ANYTHING, LONG_MAX, ConfigType, Update, at_least, row
from ottla.config.reasons import JAVA_CLASS, NO_MOVES, THROTTLES

CLASS = ConfigType.CLASS
INT = ConfigType.INT
LONG = ConfigType.LONG
CLUSTER_WIDE = Update.CLUSTER_WIDE
MEDIUM = "MEDIUM"
LOW = "LOW"

# fmt: off
ROWS = (
    row("alter.log.dirs.replication.quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for moving replicas between directories.", inert=NO_MOVES),
    row("alter.log.dirs.replication.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=NO_MOVES),
    row("client.quota.callback.class", CLASS, None, ANYTHING, LOW,
        "A Java class that decides which quota applies.", refused=JAVA_CLASS),
    row("controller.quota.window.num", INT, "11", at_least(1), LOW,
        "So many samples' worth of changes of topics (controller_mutation_rate) may be saved up and made at once."),
    row("controller.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample."),
    row("quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for client quotas: the rate is that over all of them. Fewer hold back sooner, and for shorter times."),
    row("quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample."),
    row("replication.quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for replication.", inert=THROTTLES),
    row("replication.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=THROTTLES),
)
DYNAMIC_ROWS = (
    row("follower.replication.throttled.rate", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "Bytes per second that followers fetch of replicas whose catching up is throttled.",
        update=CLUSTER_WIDE),
    row("leader.replication.throttled.rate", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "Bytes per second that leaders send of replicas whose catching up is throttled.",
        update=CLUSTER_WIDE),
    row("replica.alter.log.dirs.io.max.bytes.per.second", LONG, str(LONG_MAX), at_least(0), MEDIUM,
        "Bytes per second with which replicas move from one log directory to another.",
        update=CLUSTER_WIDE),
)
