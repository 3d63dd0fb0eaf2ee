"""The configuration of an application: Kafka Streams' keys, and those of its clients.

Keys that are not in the table here go to the clients that have them; `main.consumer.`, `restore.consumer.`, `producer.` and
`admin.` in front of a key give it to that client alone, `consumer.` to both consumers, `topic.` to the internal topics.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ottla.client.admin_settings import ADMIN_KEYS
from ottla.client.errors import ConfigurationError
from ottla.client.keys import CONSUMER_KEYS, INT_MAX, PRODUCER_KEYS, Key, choice, duration_ms, integer
from ottla.client.keys import _size as size_bytes
from ottla.client.keys import _text as text
from ottla.client.security import SECURITY_KEYS
from ottla.streams.runtime.copies import CopySettings
from ottla.streams.runtime.engine_settings import EngineSettings


def _interval(name: str, value: object) -> int:
    return int(duration_ms(name, value))  # type: ignore[arg-type]


def _server(name: str, value: object) -> tuple[str, int] | None:
    given = text(name, value)
    if not given:
        return None
    host, _, port = given.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{name}={given!r} is not valid: it is host:port, as in localhost:7070.")
    return host.strip("[]"), int(port)


_ROWS: Final = (
    Key(
        *("acceptable.recovery.lag", integer, 10_000, 0, None),
        "A task moves to an instance whose copy of its state is at most so many changelog offsets behind; another one makes "
        "a copy first (KIP-441).",
    ),
    Key(
        *("application.server", _server, None, None, None),
        "host:port at which this instance answers queries over HTTP, and others reach it. Port 0 is any free one; "
        "processes of one `run` take this port and those behind it. Without it nothing listens.",
    ),
    Key(
        *("buffered.records.per.partition", integer, 1000, 1, None),
        "Records of a partition that wait in memory; above that it is not read on.",
    ),
    Key(
        *("commit.interval.ms", _interval, None, 0, INT_MAX),
        "How often everything is committed: 30000, and 100 under exactly_once_v2.",
    ),
    Key(
        *("default.dsl.store", choice("sqlite", "rocksdb", "memory"), "sqlite", None, None),
        "Where stores are that do not say it (`home=`): sqlite, rocksdb (`ottla[rocksdb]`) or memory.",
    ),
    Key(
        *("group.protocol", choice("classic", "streams"), "classic", None, None),
        "How instances share the tasks: by an assignor of ours (`classic`), or as the broker says (`streams`: "
        "KIP-1071, Kafka 4.2).",
    ),
    Key(
        *("max.task.idle.ms", _interval, 0, -1, INT_MAX),
        "How long a task waits for records of a partition that is at its end, while others have some; -1 never waits.",
    ),
    Key(
        *("max.warmup.replicas", integer, 2, 1, None),
        "Tasks that may wait at one time for a copy on the instance they are to move to.",
    ),
    Key(
        *("num.standby.replicas", integer, 0, 0, None),
        "Copies of each store on instances in other state directories: a task whose instance dies is soon at work there.",
    ),
    Key(
        *("num.stream.threads", integer, 1, 1, None),
        "Threads of a process. Python has use for one: start more processes (`ottla streams run --processes`).",
    ),
    Key(
        *("poll.ms", _interval, 100, 0, INT_MAX),
        "How long an instance waits for records at most before it looks around.",
    ),
    Key(
        *("probing.rebalance.interval.ms", _interval, 600_000, 60_000, INT_MAX),
        "While tasks wait for a copy where they are to go, the group looks that often whether it is good enough.",
    ),
    Key(
        *("processing.guarantee", choice("at_least_once", "exactly_once_v2"), "at_least_once", None, None),
        "exactly_once_v2: results, state and offsets of an interval are committed together, in a transaction.",
    ),
    Key(
        *("repartition.purge.interval.ms", _interval, 30_000, 0, INT_MAX),
        "How often records of repartition topics are deleted that were read and committed.",
    ),
    Key(*("replication.factor", integer, -1, -1, 32767), "Of internal topics; -1 is the brokers' default."),
    Key(
        *("state.dir", text, None, None, None),
        "Where state is kept, a folder for each application. Default: ~/.local/state/ottla-streams (XDG_STATE_HOME).",
    ),
    Key(
        *("statestore.cache.max.bytes", size_bytes, 10 << 20, 0, None),
        "What the caches of all stores may hold: of many updates of a key between two commits only the last one is written "
        "and goes on. Above that they are emptied early. 0: every update goes on at once.",
    ),
    Key(
        *("statestore.uncommitted.max.bytes", size_bytes, 64 << 20, 1, None),
        "Uncommitted writes to stores wait in memory; above that a commit comes early.",
    ),
    Key(
        *("task.timeout.ms", _interval, 300_000, 0, INT_MAX),
        "How long a task waits for what it needs (its state directory, a partition's leader) before the instance gives up.",
    ),
)

#: Of the producer. Kafka's 16384 is full many times in `linger.ms`, and each batch wakes the thread that writes.
_BATCH_BYTES: Final = 1 << 18
#: Every key of Streams itself, by name.
STREAMS_KEYS: Final[Mapping[str, Key]] = {row.name: row for row in _ROWS}
_PREFIXES: Final = ("main.consumer.", "restore.consumer.", "consumer.", "producer.", "admin.")
#: What the runtime decides; a value of the user's would break its promises.
_FIXED: Final[Mapping[str, str]] = {
    "enable.auto.commit": "offsets are committed with the results",
    "group.id": "it is the application id",
    "group.instance.id": "give it as main.consumer.group.instance.id, one for each process",
    "isolation.level": "processing.guarantee decides it",
    "enable.idempotence": "results would be written twice",
    "transactional.id": "it is made of the application id, the process and its slot",
    "partition.assignment.strategy": "tasks have an assignor of their own",
    "max.poll.records": "buffered.records.per.partition is the bound",
}
#: What has no say with group.protocol=streams: the broker decides it, or has it not yet (Kafka 4.3).
_CLASSIC_ONLY: Final[Mapping[str, str]] = {
    "group.instance.id": "static members are for the classic protocol only",
    "num.standby.replicas": "it is streams.num.standby.replicas of the group (`ottla config set group NAME`)",
    "session.timeout.ms": "it is streams.session.timeout.ms of the group",
    "heartbeat.interval.ms": "it is streams.heartbeat.interval.ms of the group",
    "acceptable.recovery.lag": "the broker moves tasks without waiting for copies",
    "max.warmup.replicas": "the broker moves tasks without waiting for copies",
    "probing.rebalance.interval.ms": "the broker moves tasks without waiting for copies",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsSettings:
    """An application's configuration.

    Attributes:
        application_server: host and port.
        max_poll_interval_ms: how long an instance may take to give tasks up.
        main_consumer, restore_consumer, producer, admin: keys of the clients.
        topic: configs of internal topics.
    """

    application_id: str
    engine: EngineSettings
    state_dir: Path
    application_server: tuple[str, int] | None = None
    group_protocol: str = "classic"
    max_poll_interval_ms: int = 300_000
    default_store: str = "sqlite"
    poll_ms: int = 100
    copies: CopySettings = field(default_factory=CopySettings)
    cache_max_bytes: int = 10 << 20
    replication_factor: int = -1
    main_consumer: Mapping[str, Any] = field(default_factory=dict)
    restore_consumer: Mapping[str, Any] = field(default_factory=dict)
    producer: Mapping[str, Any] = field(default_factory=dict)
    admin: Mapping[str, Any] = field(default_factory=dict)
    topic: Mapping[str, str] = field(default_factory=dict)


def read_settings(application_id: str, config: Mapping[str, Any]) -> StreamsSettings:
    """Return what keys with dots say; `bootstrap.servers` is one of them.

    Raises:
        ConfigurationError: a key is unknown, or has a value it cannot have.
    """
    if not application_id or application_id in (".", "..") or not _is_name(application_id):
        raise ConfigurationError(
            f"application id {application_id!r} is not valid: it names topics and a folder: letters, digits, '.', '_', '-'."
        )
    keys = STREAMS_KEYS
    values: dict[str, Any] = {name: key.default for name, key in keys.items()}
    clients: dict[str, dict[str, Any]] = {prefix: {} for prefix in _PREFIXES}
    topic: dict[str, str] = {}
    for name, value in config.items():
        prefix = next((each for each in _PREFIXES if name.startswith(each)), None)
        if name in keys:
            values[name] = _parse(keys[name], value)
        elif prefix is not None:
            clients[prefix][name.removeprefix(prefix)] = value
        elif name.startswith("topic."):
            topic[name.removeprefix("topic.")] = str(value)
        elif name in _FIXED:
            raise ConfigurationError(f"{name} cannot be set for an application: {_FIXED[name]}.")
        else:
            _give(name, value, clients)
    _check(values)
    if values["group.protocol"] == "streams":
        _check_streams_group(config)
    exactly_once = values["processing.guarantee"] == "exactly_once_v2"
    interval_ms = values["commit.interval.ms"]
    consumer = clients["consumer."]
    producer = _with_defaults(clients["producer."], exactly_once)
    main = {**consumer, **clients["main.consumer."]}
    reset = str(main.pop("auto.offset.reset", "earliest"))
    if reset not in ("earliest", "latest", "none"):
        raise ConfigurationError(f"auto.offset.reset={reset!r} is not valid here: earliest, latest or none.")
    return StreamsSettings(
        application_id=application_id,
        engine=EngineSettings(
            exactly_once=exactly_once,
            commit_interval_ms=(100 if exactly_once else 30_000) if interval_ms is None else interval_ms,
            transaction_timeout_ms=int(
                duration_ms("transaction.timeout.ms", producer.get("transaction.timeout.ms", 10_000))
            ),
            max_task_idle_ms=values["max.task.idle.ms"],
            task_timeout_ms=values["task.timeout.ms"],
            buffered_records_per_partition=values["buffered.records.per.partition"],
            uncommitted_max_bytes=values["statestore.uncommitted.max.bytes"],
            repartition_purge_interval_ms=values["repartition.purge.interval.ms"],
            auto_offset_reset=reset,
        ),
        state_dir=Path(values["state.dir"] or default_state_dir()),
        application_server=values["application.server"],
        group_protocol=values["group.protocol"],
        max_poll_interval_ms=int(duration_ms("max.poll.interval.ms", main.get("max.poll.interval.ms", 300_000))),
        default_store=values["default.dsl.store"],
        poll_ms=values["poll.ms"],
        copies=CopySettings(
            standby_replicas=values["num.standby.replicas"],
            acceptable_lag=values["acceptable.recovery.lag"],
            warmup_max=values["max.warmup.replicas"],
            probing_interval_ms=values["probing.rebalance.interval.ms"],
        ),
        cache_max_bytes=values["statestore.cache.max.bytes"],
        replication_factor=values["replication.factor"],
        main_consumer=main,
        restore_consumer={
            **{name: value for name, value in consumer.items() if name != "auto.offset.reset"},
            **clients["restore.consumer."],
        },
        producer=producer,
        admin=clients["admin."],
        topic=topic,
    )


def _parse(key: Key, value: Any) -> Any:
    if value is None:
        return key.default
    found = key.parse(key.name, value)
    if isinstance(found, int | float) and (
        (key.low is not None and found < key.low) or (key.high is not None and found > key.high)
    ):
        raise ConfigurationError(f"{key.name}={value!r} is not valid: it lies between {key.low} and {key.high}.")
    return found


def _give(name: str, value: Any, clients: Mapping[str, dict[str, Any]]) -> None:
    """Give a key without a prefix to the clients that have it."""
    homes = {"consumer.": CONSUMER_KEYS, "producer.": PRODUCER_KEYS, "admin.": ADMIN_KEYS}
    found = False
    for prefix, known in homes.items():
        if name in known or name in SECURITY_KEYS or name == "bootstrap.servers":
            clients[prefix].setdefault(name, value)
            found = True
    if not found:
        every = [*STREAMS_KEYS, *CONSUMER_KEYS, *PRODUCER_KEYS, *SECURITY_KEYS]
        near = difflib.get_close_matches(name, every, 1)
        raise ConfigurationError(
            f"{name!r} is no key of an application or its clients.", f"Did you mean {near[0]!r}?" if near else ""
        )


def _check(values: Mapping[str, Any]) -> None:
    """Refuse what is not there yet, so that nobody relies on it."""
    if values["num.stream.threads"] != 1:
        raise ConfigurationError(
            "num.stream.threads is 1: threads do not make a Python process faster.",
            "Start more processes: `ottla streams run module:app --processes 4`.",
        )


def _check_streams_group(config: Mapping[str, Any]) -> None:
    """Refuse what has no say in a streams group."""
    for name in config:
        bare = name.removeprefix("main.").removeprefix("consumer.")
        reason = _CLASSIC_ONLY.get(bare)
        if reason is not None and config[name] is not None:
            raise ConfigurationError(f"{name} does nothing with group.protocol=streams: {reason}.")


def _with_defaults(given: Mapping[str, Any], exactly_once: bool) -> dict[str, Any]:
    """Kafka Streams' defaults of a producer where they differ from the producer's own."""
    found: dict[str, Any] = {"linger.ms": 100, "batch.size": _BATCH_BYTES, **given}
    if exactly_once:
        found.setdefault("transaction.timeout.ms", 10_000)
        found["delivery.timeout.ms"] = float("inf")
    else:
        found.pop("transaction.timeout.ms", None)
    return found


def default_state_dir() -> Path:
    """Return where state is kept if nothing is said: it survives a restart of the machine, as what is in /tmp does not."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ottla-streams"


def _is_name(text: str) -> bool:
    return len(text) <= 200 and all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in text)
