"""What a worker and every connector can be configured with: Kafka's keys, defaults and units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ottla.connect.config_def import (
    NAME,
    NOT_EMPTY,
    TOPICS,
    VERSION_RANGE,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    Width,
    at_least,
    at_least_or_none,
    check,
    one_of,
    one_of_any_case,
    unique,
)
from ottla.connect.connectors import Connector, SinkConnector
from ottla.connect.java_regex import VALID_REGEX, compile_pattern

JSON_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
HEADER_CONVERTER = "org.apache.kafka.connect.storage.SimpleHeaderConverter"

#: What the process of a connector takes before it has done anything, about.
_LEAST_MEMORY = 64 << 20


def _memory(name: str, value: Any) -> None:
    if value and value < _LEAST_MEMORY:
        raise ConfigError.of(name, value, f"a number of bytes: 0, or at least {_LEAST_MEMORY}")


WORKER = (
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
        name="offset.flush.interval.ms",
        type=ConfigType.LONG,
        default=60000,
        validator=at_least(1),
        importance=Importance.LOW,
        documentation="How often offsets are written down. What came after the last time comes again after a crash.",
    ),
    ConfigKey(
        name="offset.flush.timeout.ms",
        type=ConfigType.LONG,
        default=5000,
        validator=at_least(1),
        importance=Importance.LOW,
        documentation="Workers of a group: how long one waits for offsets to be written before it gives tasks up, or ends. "
        "Java's worker waits so long every time that it writes offsets.",
    ),
    ConfigKey(
        name="task.shutdown.graceful.timeout.ms",
        type=ConfigType.LONG,
        default=5000,
        importance=Importance.LOW,
        documentation="How long connectors have to end before their processes are killed.",
    ),
    ConfigKey(
        name="connector.memory.limit",
        type=ConfigType.LONG,
        default=None,
        validator=check(_memory, f"0, or at least {_LEAST_MEMORY}"),
        importance=Importance.LOW,
        documentation="ottla's own key (Linux): how many bytes of memory the process of a connector may take. One that wants "
        "more ends, and its tasks are FAILED; all else goes on. Without it half of the machine's memory, and 2 GiB at least. "
        "0: no limit.",
    ),
    ConfigKey(
        name="listeners",
        type=ConfigType.LIST,
        default="http://localhost:8083",
        importance=Importance.LOW,
        documentation="Where the REST interface is: http:// or https:// addresses. Java's default lets in every machine, "
        "ottla's only this one. Empty: there is none.",
    ),
    ConfigKey(
        name="rest.advertised.host.name",
        default=None,
        importance=Importance.LOW,
        documentation="The host in the worker's id and addresses.",
    ),
    ConfigKey(
        name="rest.advertised.port",
        type=ConfigType.INT,
        default=None,
        importance=Importance.LOW,
        documentation="The port there.",
    ),
    ConfigKey(
        name="rest.extension.classes",
        type=ConfigType.LIST,
        default="",
        importance=Importance.LOW,
        documentation="org.apache.kafka.connect.rest.basic.auth.extension.BasicAuthSecurityRestExtension: requests need a "
        "name and a password of rest.basic.auth.file.",
    ),
    ConfigKey(
        name="rest.basic.auth.file",
        default=None,
        importance=Importance.LOW,
        documentation="ottla's own key: name=password lines. Java takes the file from a JAAS configuration of its JVM; "
        "without this key ottla does so from KAFKA_OPTS=-Djava.security.auth.login.config=FILE.",
    ),
    ConfigKey(
        name="rest.secrets",
        default="hidden",
        validator=one_of("hidden", "java"),
        importance=Importance.LOW,
        documentation="ottla's own key. hidden: answers show secrets in configurations as [hidden]; java: as they are.",
    ),
    ConfigKey(
        name="topic.tracking.enable",
        type=ConfigType.BOOLEAN,
        default=True,
        importance=Importance.LOW,
        documentation="Whether it is kept which topics a connector uses.",
    ),
    ConfigKey(
        name="topic.tracking.allow.reset",
        type=ConfigType.BOOLEAN,
        default=True,
        importance=Importance.LOW,
        documentation="Whether these may be forgotten on request.",
    ),
    ConfigKey(
        name="config.providers",
        type=ConfigType.LIST,
        default="",
        importance=Importance.LOW,
        documentation="Names of providers of values for files, directories and the environment.",
    ),
    ConfigKey(
        name="plugin.modules",
        type=ConfigType.LIST,
        default="",
        documentation="ottla's own key: Python modules whose connectors (made by decorators, or classes) may be used.",
    ),
)


STANDALONE = ConfigDef(
    *WORKER,
    ConfigKey(
        name="offset.storage.file.filename",
        importance=Importance.HIGH,
        documentation="The file in which offsets of sources are kept, in the format of Java's standalone worker.",
    ),
)


def _storage(part: str, partitions: int | None) -> tuple[ConfigKey, ...]:
    """Return the rows of one of the three topics of distributed workers."""
    what = {"config": "connectors", "offset": "offsets of sources", "status": "states of connectors and tasks"}[part]
    rows = [
        ConfigKey(
            name=f"{part}.storage.topic", importance=Importance.HIGH,
            documentation=f"The topic that keeps {what}; made if it is not there. All workers of a group have the same.",
        ),
        ConfigKey(
            name=f"{part}.storage.replication.factor", type=ConfigType.SHORT, default=3, importance=Importance.LOW,
            documentation="With how many replicas it is made; -1: as the brokers' default. A single broker needs 1 or -1.",
        ),
    ]  # fmt: skip
    if partitions is not None:
        rows.append(
            ConfigKey(
                name=f"{part}.storage.partitions", type=ConfigType.INT, default=partitions, importance=Importance.LOW,
                documentation="With how many partitions it is made; -1: as the brokers' default.",
            )
        )  # fmt: skip
    return tuple(rows)


def _duration(name: str, default: int, documentation: str, least: int = 1) -> ConfigKey:
    return ConfigKey(
        name=name, type=ConfigType.INT, default=default, validator=at_least(least), importance=Importance.HIGH,
        documentation=documentation,
    )  # fmt: skip


DISTRIBUTED = ConfigDef(
    *WORKER,
    ConfigKey(name="group.id", importance=Importance.HIGH, documentation="The group of workers that share tasks."),
    *_storage("config", None),
    *_storage("offset", 25),
    *_storage("status", 5),
    _duration("session.timeout.ms", 10000, "A worker not heard of for so long is gone; its tasks have ended by then."),
    _duration("heartbeat.interval.ms", 3000, "How often a worker is heard of; a third of session.timeout.ms at most."),
    _duration("rebalance.timeout.ms", 60000, "How long a rebalance waits for a worker."),
    _duration(
        "scheduled.rebalance.max.delay.ms", 300000,
        "How long tasks of a vanished worker wait for it before others get them; half of session.timeout.ms at least.",
        least=0,
    ),
    ConfigKey(
        name="exactly.once.source.support", default="disabled", importance=Importance.HIGH,
        validator=one_of_any_case("DISABLED", "PREPARING", "ENABLED"),
        documentation="enabled: records of sources and their offsets are in one transaction. All workers of a group have the "
        "same; those of a running group go from disabled to preparing first, one after the other, and then to enabled.",
    ),
)  # fmt: skip


def _common(name: str, order: int, width: Width, display_name: str, **more: Any) -> ConfigKey:
    return ConfigKey(name=name, group="Common", order=order, width=width, display_name=display_name, **more)


def _error(name: str, order: int, width: Width, display_name: str, **more: Any) -> ConfigKey:
    return ConfigKey(name=name, group="Error Handling", order=order, width=width, display_name=display_name, **more)


def _converter_rows(part: str, order: int) -> tuple[ConfigKey, ConfigKey]:
    title = f"{part.capitalize()} converter"
    return (
        _common(
            f"{part}.converter", order, Width.SHORT, f"{title} class", type=ConfigType.CLASS, default=None,
            importance=Importance.LOW, documentation=f"Bytes of {part}s, in the place of the worker's converter.",
        ),
        _common(
            f"{part}.converter.plugin.version", order + 1, Width.SHORT, f"{title} version", default=None,
            validator=VERSION_RANGE, importance=Importance.LOW, documentation="Which version of it.",
        ),
    )  # fmt: skip


#: What every connector has: Java's rows in Java's order, with our own words.
CONNECTOR = (
    _common(
        "name", 1, Width.MEDIUM, "Connector name",
        validator=NAME, importance=Importance.HIGH, documentation="The connector's name; no other one has it.",
    ),
    _common(
        "connector.class", 2, Width.LONG, "Connector class",
        importance=Importance.HIGH,
        documentation="A class of Java's that ottla has, a declared name, or MODULE:CLASS of a module in plugin.modules.",
    ),
    _common(
        "connector.plugin.version", 3, Width.MEDIUM, "Connector version",
        default=None, validator=VERSION_RANGE, documentation="Which version of it; only one is installed.",
    ),
    _common(
        "tasks.max", 4, Width.SHORT, "Tasks max",
        type=ConfigType.INT, default=1, validator=at_least(1), importance=Importance.HIGH,
        documentation="How many tasks there are at most.",
    ),
    _common(
        "tasks.max.enforce", 5, Width.SHORT, "Enforce tasks max",
        type=ConfigType.BOOLEAN, default=True, importance=Importance.LOW,
        documentation="Accepted, and means nothing: there are never more tasks than tasks.max.",
    ),
    *_converter_rows("key", 6),
    *_converter_rows("value", 8),
    *_converter_rows("header", 10),
    ConfigKey(
        name="transforms", type=ConfigType.LIST, default="", validator=unique("transformation aliases"),
        group="Transforms", order=12, width=Width.LONG, display_name="Transforms", importance=Importance.LOW,
        documentation="Names of transforms, in order.",
    ),
    ConfigKey(
        name="predicates", type=ConfigType.LIST, default="", validator=unique("predicate aliases"),
        group="Predicates", order=13, width=Width.LONG, display_name="Predicates", importance=Importance.LOW,
        documentation="Names of predicates.",
    ),
    _common(
        "config.action.reload", 14, Width.MEDIUM, "Reload Action",
        default="restart", validator=one_of("none", "restart"), importance=Importance.LOW,
        documentation="Accepted, and means nothing: files and variables are read when a connector starts.",
    ),
    _error(
        "errors.retry.timeout", 1, Width.MEDIUM, "Retry Timeout for Errors",
        type=ConfigType.LONG, default=0,
        documentation="Milliseconds for which an operation that may work later is tried again; -1: for ever.",
    ),
    _error(
        "errors.retry.delay.max.ms", 2, Width.MEDIUM, "Maximum Delay Between Retries for Errors",
        type=ConfigType.LONG, default=60000, documentation="The longest pause between two attempts.",
    ),
    _error(
        "errors.tolerance", 3, Width.SHORT, "Error Tolerance",
        default="none", validator=one_of("none", "all"),
        documentation="none: a record that does not convert fails the task; all: it is passed over.",
    ),
    _error(
        "errors.log.enable", 4, Width.SHORT, "Log Errors",
        type=ConfigType.BOOLEAN, default=False, documentation="Whether a record that is passed over is logged.",
    ),
    _error(
        "errors.log.include.messages", 5, Width.SHORT, "Log Error Details",
        type=ConfigType.BOOLEAN, default=False,
        documentation="Whether the log names the topic, partition and offset of the record.",
    ),
)  # fmt: skip

SINK = (
    _common(
        "topics", 4, Width.LONG, "Topics",
        type=ConfigType.LIST, default="", validator=TOPICS, importance=Importance.HIGH, documentation="The topics.",
    ),
    _common(
        "topics.regex", 4, Width.LONG, "Topics regex",
        default="", validator=VALID_REGEX, importance=Importance.HIGH,
        documentation="A pattern of topics, in the place of topics.",
    ),
    _error(
        "errors.deadletterqueue.topic.name", 6, Width.MEDIUM, "Dead Letter Queue Topic Name",
        default="", documentation="Where records go that are passed over; nowhere without it.",
    ),
    _error(
        "errors.deadletterqueue.topic.replication.factor", 7, Width.MEDIUM, "Dead Letter Queue Topic Replication Factor",
        type=ConfigType.SHORT, default=3, documentation="With how many replicas that topic is made if it is not there.",
    ),
    _error(
        "errors.deadletterqueue.context.headers.enable", 8, Width.MEDIUM, "Enable Error Context Headers",
        type=ConfigType.BOOLEAN, default=False, documentation="Whether headers __connect.errors.* say what was wrong.",
    ),
)  # fmt: skip

RESTART = _error(
    "errors.restart.enable", 9, Width.SHORT, "Restart Failed Tasks",
    type=ConfigType.BOOLEAN, default=False,
    documentation="ottla's own key. Whether a failed task is started again, after 1, 2, 4 ... 300 s; not after five failures "
    "with no new offset between them.",
)  # fmt: skip


def _address(name: str, value: Any) -> None:
    if value and not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):[0-9]+", value):
        raise ConfigError.of(name, value, "the host and the port of a worker, as its worker_id says: host:8083")


#: Keys of ottla's own: they stand among the others where they are given, so that what Java's tools read is Java's.
OWN = (
    RESTART,
    ConfigKey(
        name="worker",
        default="",
        validator=check(_address, "host:port"),
        importance=Importance.LOW,
        documentation="ottla's own key, for workers of a group: the one worker that runs this connector's tasks.",
    ),
)

SOURCE = (
    ConfigKey(
        name="topic.creation.groups", type=ConfigType.LIST, default="", validator=unique("topic creation groups"),
        group="Topic Creation", order=1, width=Width.LONG, display_name="Topic Creation Groups",
        importance=Importance.LOW, documentation="Accepted, and means nothing: topics are made by the broker.",
    ),
    ConfigKey(
        name="exactly.once.support", default="requested", validator=one_of_any_case("REQUIRED", "REQUESTED"),
        group="Exactly Once Support", order=2, width=Width.SHORT, display_name="Exactly once support",
        documentation="required: refused unless its workers (exactly.once.source.support) and its class give exactly once.",
    ),
    ConfigKey(
        name="transaction.boundary", default="poll", validator=one_of_any_case("INTERVAL", "POLL", "CONNECTOR"),
        group="Exactly Once Support", order=3, width=Width.SHORT, display_name="Transaction Boundary",
        documentation="Where transactions end: after each batch of poll, after an interval, or where the connector says.",
    ),
    ConfigKey(
        name="transaction.boundary.interval.ms", type=ConfigType.LONG, default=None, validator=at_least_or_none(0),
        group="Exactly Once Support", order=4, width=Width.SHORT, display_name="Transaction boundary interval",
        importance=Importance.LOW, documentation="That interval, in milliseconds; without it offset.flush.interval.ms.",
    ),
    ConfigKey(
        name="offsets.storage.topic", default=None, validator=NOT_EMPTY,
        group="offsets.topic", order=1, width=Width.LONG, display_name="Offsets topic",
        importance=Importance.LOW, documentation="Of distributed workers: a topic of its own for this connector's offsets.",
    ),
)  # fmt: skip


def settings_of(kind: type[Connector], config: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return typed values: what every connector has, and what this kind has.

    Raises:
        ConfigError: all that is wrong, one sentence each.
    """
    is_sink = issubclass(kind, SinkConnector)
    common = ConfigDef(*CONNECTOR, *(SINK if is_sink else SOURCE), *OWN)
    given = dict(config)
    if is_sink and not given.get("topics") and not given.get("topics.regex"):
        declared = getattr(kind, "TOPICS", ())
        if declared:
            given["topics"] = ",".join(declared)
    wrong = [error for part in (common, kind.CONFIG) for value in part.validate(given) for error in value.errors]
    if is_sink:
        wrong += [error for errors in sink_errors(given).values() for error in errors]
    if wrong:
        raise ConfigError("; ".join(dict.fromkeys(wrong)))
    return common.parse(given), kind.CONFIG.parse(given)


def sink_errors(given: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return what is wrong about the topics of a sink taken together, by key."""
    topics, pattern = given.get("topics") or "", given.get("topics.regex") or ""
    dead = (given.get("errors.deadletterqueue.topic.name") or "").strip()
    found: dict[str, list[str]] = {}
    if bool(topics.strip()) == bool(pattern.strip()):
        text = (
            "topics and topics.regex are mutually exclusive options, but both are set."
            if topics.strip()
            else "Must configure one of topics or topics.regex"
        )
        found = {"topics": [text], "topics.regex": [text]}
    names = list(dict.fromkeys(name.strip() for name in topics.split(",") if name.strip()))
    if dead and dead in names:
        found.setdefault("topics", []).append(
            f"The DLQ topic '{dead}' may not be included in the list of topics ('topics=[{', '.join(names)}]') consumed "
            "by the connector"
        )
    if dead and pattern.strip() and _matches(pattern, dead):
        found.setdefault("topics.regex", []).append(
            f"The DLQ topic '{dead}' may not be matched by the regex for the topics ('topics.regex={pattern}') consumed "
            "by the connector"
        )
    return found


def _matches(pattern: str, topic: str) -> bool:
    try:
        return compile_pattern(pattern).fullmatch(topic) is not None
    except re.error:
        return False  # the row of topics.regex says so


def below(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the keys below a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in config.items() if name.startswith(prefix)}


_CLIENT = ("security.", "sasl.", "ssl.")


def client_config(worker: Mapping[str, str], part: str, connector: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the configuration of a client: the worker's security, what stands below `producer.`, `consumer.` or `admin.`,
    and what a connector has below `producer.override.` and the like.
    """
    common = {name: value for name, value in worker.items() if name.startswith(_CLIENT)}
    return common | below(worker, f"{part}.") | below(connector or {}, f"{part}.override.")
