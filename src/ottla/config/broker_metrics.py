"""Broker keys: metrics. The broker serves Prometheus text at /metrics on its own port."""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigType, Update, at_least, row
from ottla.config.reasons import PROMETHEUS

INT = ConfigType.INT
LIST = ConfigType.LIST
LONG = ConfigType.LONG
STRING = ConfigType.STRING
CLUSTER_WIDE = Update.CLUSTER_WIDE
LOW = "LOW"

# fmt: off
ROWS = (
    row("kafka.metrics.polling.interval.secs", INT, "10", at_least(1), LOW,
        "How often Kafka's old reporters are polled.", inert=PROMETHEUS),
    row("kafka.metrics.reporters", LIST, "", ANYTHING, LOW,
        "Java classes that report metrics.", inert=PROMETHEUS),
    row("metric.reporters", LIST, "org.apache.kafka.common.metrics.JmxReporter", ANYTHING, LOW,
        "Java classes that report metrics.", update=CLUSTER_WIDE, inert=PROMETHEUS),
    row("metrics.num.samples", INT, "2", at_least(1), LOW,
        "Samples kept per measured rate.", inert=PROMETHEUS),
    row("metrics.recording.level", STRING, "INFO", ANYTHING, LOW,
        "How much is measured.", inert=PROMETHEUS),
    row("metrics.sample.window.ms", LONG, "30000", at_least(1), LOW,
        "Length of a sample.", inert=PROMETHEUS),
)
