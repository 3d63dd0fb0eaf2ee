"""Broker keys: quotas. None can be set yet, so nothing is measured."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, at_least, row
from ottla.config.reasons import JAVA_CLASS, QUOTAS

CLASS = ConfigType.CLASS
INT = ConfigType.INT
LOW = "LOW"

# fmt: off
ROWS = (
    row("alter.log.dirs.replication.quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for moving replicas between directories.", inert=QUOTAS),
    row("alter.log.dirs.replication.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=QUOTAS),
    row("client.quota.callback.class", CLASS, None, ANYTHING, LOW,
        "A Java class that decides which quota applies.", refused=JAVA_CLASS),
    row("controller.quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for changes of topics.", inert=QUOTAS),
    row("controller.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=QUOTAS),
    row("quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for client quotas.", inert=QUOTAS),
    row("quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=QUOTAS),
    row("replication.quota.window.num", INT, "11", at_least(1), LOW,
        "Samples kept for replication.", inert=QUOTAS),
    row("replication.quota.window.size.seconds", INT, "1", at_least(1), LOW,
        "Length of such a sample.", inert=QUOTAS),
)
