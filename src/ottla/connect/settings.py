"""What a worker and every connector can be configured with: Kafka's keys, defaults and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    one_of,
)
from ottla.connect.connectors import Connector, SinkConnector

JSON_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
HEADER_CONVERTER = "org.apache.kafka.connect.storage.SimpleHeaderConverter"

WORKER = ConfigDef(
    ConfigKey(
        name="bootstrap.servers",
        type=ConfigType.LIST,
        default="localhost:9092",
        importance=Importance.HIGH,
        documentation="The cluster.",
    ),
    ConfigKey(name="key.converter", default=JSON_CONVERTER, importance=Importance.HIGH, documentation="Bytes of keys."),
    ConfigKey(
        name="value.converter", default=JSON_CONVERTER, importance=Importance.HIGH, documentation="Bytes of values."
    ),
    ConfigKey(
        name="header.converter", default=HEADER_CONVERTER, importance=Importance.LOW, documentation="Bytes of headers."
    ),
    ConfigKey(
        name="offset.storage.file.filename",
        importance=Importance.HIGH,
        documentation="The file in which offsets of sources are kept, in the format of Java's standalone worker.",
    ),
    ConfigKey(
        name="offset.flush.interval.ms",
        type=ConfigType.LONG,
        default=60000,
        validator=at_least(1),
        importance=Importance.LOW,
        documentation="How often offsets are written down. What came after the last time comes again after a crash.",
    ),
    ConfigKey(
        name="task.shutdown.graceful.timeout.ms",
        type=ConfigType.LONG,
        default=5000,
        importance=Importance.LOW,
        documentation="How long connectors have to end before their processes are killed.",
    ),
    ConfigKey(
        name="plugin.modules",
        type=ConfigType.LIST,
        default="",
        documentation="ottla's own key: Python modules whose connectors (made by decorators, or classes) may be used.",
    ),
)

CONNECTOR = (
    ConfigKey(name="name", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="The connector's name."),
    ConfigKey(
        name="connector.class",
        importance=Importance.HIGH,
        documentation="A class of Java's that ottla has, a declared name, or MODULE:CLASS of a module in plugin.modules.",
    ),
    ConfigKey(
        name="tasks.max",
        type=ConfigType.INT,
        default=1,
        validator=at_least(1),
        importance=Importance.HIGH,
        documentation="How many tasks there are at most.",
    ),
    ConfigKey(name="key.converter", default=None, documentation="In the place of the worker's."),
    ConfigKey(name="value.converter", default=None, documentation="In the place of the worker's."),
    ConfigKey(name="header.converter", default=None, documentation="In the place of the worker's."),
    ConfigKey(name="transforms", type=ConfigType.LIST, default="", documentation="Names of transforms, in order."),
    ConfigKey(name="predicates", type=ConfigType.LIST, default="", documentation="Names of predicates."),
    ConfigKey(
        name="errors.retry.timeout",
        type=ConfigType.LONG,
        default=0,
        documentation="Milliseconds for which an operation that may work later is tried again; -1: for ever.",
    ),
    ConfigKey(
        name="errors.retry.delay.max.ms",
        type=ConfigType.LONG,
        default=60000,
        documentation="The longest pause between two attempts.",
    ),
    ConfigKey(
        name="errors.tolerance",
        default="none",
        validator=one_of("none", "all"),
        documentation="none: a record that does not convert fails the task; all: it is passed over.",
    ),
    ConfigKey(
        name="errors.log.enable",
        type=ConfigType.BOOLEAN,
        default=False,
        documentation="Whether a record that is passed over is logged.",
    ),
    ConfigKey(
        name="errors.log.include.messages",
        type=ConfigType.BOOLEAN,
        default=False,
        documentation="Whether the log names the topic, partition and offset of the record.",
    ),
)

SINK = (
    ConfigKey(name="topics", type=ConfigType.LIST, default="", importance=Importance.HIGH, documentation="The topics."),
    ConfigKey(name="topics.regex", default="", documentation="A pattern of topics, in the place of topics."),
    ConfigKey(
        name="errors.deadletterqueue.topic.name",
        default="",
        documentation="Where records go that are passed over; nowhere without it.",
    ),
    ConfigKey(
        name="errors.deadletterqueue.topic.replication.factor",
        type=ConfigType.SHORT,
        default=3,
        documentation="With how many replicas that topic is made if it is not there.",
    ),
    ConfigKey(
        name="errors.deadletterqueue.context.headers.enable",
        type=ConfigType.BOOLEAN,
        default=False,
        documentation="Whether headers __connect.errors.* say what was wrong.",
    ),
)


def settings_of(kind: type[Connector], config: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return typed values: what every connector has, and what this kind has.

    Raises:
        ConfigError: all that is wrong, one sentence each.
    """
    is_sink = issubclass(kind, SinkConnector)
    common = ConfigDef(*CONNECTOR, *(SINK if is_sink else ()))
    given = dict(config)
    if is_sink and not given.get("topics") and not given.get("topics.regex"):
        declared = getattr(kind, "TOPICS", ())
        if declared:
            given["topics"] = ",".join(declared)
    wrong = [error for part in (common, kind.CONFIG) for value in part.validate(given) for error in value.errors]
    if is_sink and bool(given.get("topics")) == bool(given.get("topics.regex")):
        wrong.append("Must configure one of topics or topics.regex")
    if is_sink and given.get("errors.deadletterqueue.topic.name", "x") in given.get("topics", "").split(","):
        wrong.append("The topic of the dead letters is one that the sink reads")
    if wrong:
        raise ConfigError("; ".join(dict.fromkeys(wrong)))
    return common.parse(given), kind.CONFIG.parse(given)


def below(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the keys below a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in config.items() if name.startswith(prefix)}


_CLIENT = ("security.", "sasl.", "ssl.")


def client_config(worker: Mapping[str, str], part: str) -> dict[str, str]:
    """Return the configuration of a client: the worker's security, and what stands below `producer.` or `consumer.`."""
    common = {name: value for name, value in worker.items() if name.startswith(_CLIENT)}
    return common | below(worker, f"{part}.")
