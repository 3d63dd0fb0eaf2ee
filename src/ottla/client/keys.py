"""The keys of a client's configuration, one row each: Kafka's name, type, default, bounds, and what it does.

docs/client.md lists them. Numbers of keys that end in `.ms` are milliseconds; "200ms", "10s", "5m", "1h", "7d" and
`timedelta` are taken, too, and sizes as "32MiB".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ottla.client.errors import ConfigurationError

#: Seconds, or words ("1h"), or a timedelta.
Duration = float | timedelta | str
#: Milliseconds, or words, or a timedelta: what keys that end in `.ms` take.
Milliseconds = float | timedelta | str
#: Bytes, or words ("32MiB").
Size = int | str

INT_MAX = 2**31 - 1


class Key(NamedTuple):
    """One row: Kafka's name, how text becomes a value, default, bounds, what it does."""

    name: str
    parse: Callable[[str, Any], Any]
    default: Any
    low: float | None
    high: float | None
    text: str


_UNITS_MS: Final = {"ms": 1.0, "s": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_UNITS_BYTES: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "k": 2**10, "m": 2**20
}  # fmt: skip
_QUANTITY: Final = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def duration_ms(name: str, value: Milliseconds) -> float:
    """Return milliseconds; a bare number is milliseconds already."""
    if isinstance(value, timedelta):
        return value.total_seconds() * 1000
    return _quantity(name, value, _UNITS_MS, "milliseconds, or a duration such as '10s'")


def duration_s(name: str, value: Duration) -> float:
    """Return seconds; a bare number is seconds already."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str) and not _is_number(value):
        return duration_ms(name, value) / 1000
    return _quantity(name, value, {}, "seconds, or a duration such as '10s'")


def _is_number(text: str) -> bool:
    found = _QUANTITY.fullmatch(text)
    return found is not None and not found[2]


def _quantity(name: str, value: object, units: Mapping[str, float], expected: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _QUANTITY.fullmatch(value)) is not None:
        factor = units.get(found[2].lower(), None) if found[2] else 1.0
        if factor is not None:
            return float(found[1]) * factor
    raise ConfigurationError(f"{name}={value!r} is not valid: it takes {expected}.")


def _size(name: str, value: object) -> int:
    return int(_quantity(name, value, _UNITS_BYTES, "bytes, or a size such as '32MiB'"))


def integer(name: str, value: object) -> int:
    number = _quantity(name, value, {}, "a whole number")
    if number != int(number):
        raise ConfigurationError(f"{name}={value!r} is not valid: it takes a whole number.")
    return int(number)


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ConfigurationError(f"{name}={value!r} is not valid: it takes true or false.")


def _offset_reset(name: str, value: object) -> str:
    text = str(value).lower()
    if text in ("earliest", "latest", "none") or parse_period_ms(text) is not None:
        return text
    raise ConfigurationError(f"{name}={value!r} is not valid: it takes earliest, latest, none, or by_duration:P1D.")


def parse_period_ms(text: str) -> float | None:
    """Return the milliseconds of `by_duration:PnDTnHnMn.nS` (ISO 8601), or None if it is something else."""
    found = re.fullmatch(r"by_duration:p(?:(\d+)d)?(?:t(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?)?", text.lower())
    if found is None or not any(found.groups()):
        return None
    return sum(
        float(part or 0) * factor for part, factor in zip(found.groups(), (8.64e7, 3.6e6, 6e4, 1e3), strict=True)
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}={value!r} is not valid: it takes text.")
    return value


def _acks(name: str, value: object) -> int:
    found = {"all": -1, "-1": -1, "0": 0, "1": 1}.get(str(value).lower())
    if found is None:
        raise ConfigurationError(f"{name}={value!r} is not valid: it takes 'all', 1 or 0.")
    return found


def choice(*choices: str) -> Callable[[str, Any], str]:
    """Return what takes one of these words, in any case."""

    def parse(name: str, value: object) -> str:
        if str(value).lower() not in choices:
            raise ConfigurationError(f"{name}={value!r} is not valid: it takes {', '.join(choices)}.")
        return str(value).lower()

    return parse


_ROWS: Final = (
    Key(
        "acks",
        _acks,
        "all",
        None,
        None,
        "Who has to have a record before it counts as delivered: all in-sync replicas, the leader (1), no broker (0).",
    ),
    Key(
        "batch.size",
        _size,
        16_384,
        0,
        INT_MAX,
        "Bytes of a batch for one partition; 0 sends each record by itself.",
    ),
    Key(
        "buffer.memory",
        _size,
        33_554_432,
        0,
        None,
        "Bytes of records that wait for their acknowledgement; `send()` waits for room above it.",
    ),
    Key(
        "client.id",
        _text,
        "ottla",
        None,
        None,
        "The name under which brokers log and count this client.",
    ),
    Key(
        "compression.type",
        choice("none", "gzip", "snappy", "lz4", "zstd"),
        "none",
        None,
        None,
        "The codec of batches.",
    ),
    Key(
        "compression.gzip.level",
        integer,
        -1,
        -1,
        9,
        "Level of gzip; -1 is zlib's default.",
    ),
    Key(
        "compression.lz4.level",
        integer,
        9,
        1,
        17,
        "Level of lz4.",
    ),
    Key(
        "compression.zstd.level",
        integer,
        3,
        -131_072,
        22,
        "Level of zstd.",
    ),
    Key(
        "connections.max.idle.ms",
        duration_ms,
        540_000,
        None,
        None,
        "Connections that were not used for so long are closed.",
    ),
    Key(
        "delivery.timeout.ms",
        duration_ms,
        120_000,
        0,
        None,
        "From `send()` to the acknowledgement or failure of a record, retries included.",
    ),
    Key(
        "enable.idempotence",
        _boolean,
        True,
        None,
        None,
        "Retries are written once and in order. Needs acks=all, retries, and 5 requests in flight at most.",
    ),
    Key(
        "enable.metrics.push",
        _boolean,
        True,
        None,
        None,
        "Brokers that ask for this client's metrics get them (KIP-714).",
    ),
    Key(
        "linger.ms",
        duration_ms,
        5,
        0,
        None,
        "How long a batch waits for more records.",
    ),
    Key(
        "max.block.ms",
        duration_ms,
        60_000,
        0,
        None,
        "How long `send()` waits for room or for metadata, and how long the ends of a transaction wait.",
    ),
    Key(
        "max.in.flight.requests.per.connection",
        integer,
        5,
        1,
        None,
        "Requests sent to one broker that it has not answered.",
    ),
    Key(
        "max.request.size",
        _size,
        1_048_576,
        0,
        None,
        "Bytes of a request, and of a record before compression, at most.",
    ),
    Key(
        "metadata.max.age.ms",
        duration_ms,
        300_000,
        0,
        None,
        "The cluster is asked anew after so long, whatever happens.",
    ),
    Key(
        "metadata.max.idle.ms",
        duration_ms,
        300_000,
        5_000,
        None,
        "Topics that were not used for so long are not asked for any more.",
    ),
    Key(
        "metadata.recovery.strategy",
        choice("rebootstrap", "none"),
        "rebootstrap",
        None,
        None,
        "What to do when no known broker can be reached: begin with bootstrap.servers again.",
    ),
    Key(
        "partitioner.adaptive.partitioning.enable",
        _boolean,
        True,
        None,
        None,
        "Records without a key prefer partitions whose queue is short.",
    ),
    Key(
        "partitioner.ignore.keys",
        _boolean,
        False,
        None,
        None,
        "Records with a key go where records without one go.",
    ),
    Key(
        "receive.buffer.bytes",
        _size,
        -1,
        -1,
        None,
        "SO_RCVBUF; -1 leaves it to the system.",
    ),
    Key(
        "reconnect.backoff.max.ms",
        duration_ms,
        1_000,
        0,
        None,
        "The longest wait before a broker is dialled again.",
    ),
    Key(
        "reconnect.backoff.ms",
        duration_ms,
        50,
        0,
        None,
        "The first wait before a broker is dialled again; doubled each time.",
    ),
    Key(
        "request.timeout.ms",
        duration_ms,
        30_000,
        0,
        None,
        "A request that is not answered for so long ends its connection and is sent again.",
    ),
    Key(
        "retries",
        integer,
        INT_MAX,
        0,
        INT_MAX,
        "How often a batch is sent again; delivery.timeout.ms is the better bound.",
    ),
    Key(
        "retry.backoff.max.ms",
        duration_ms,
        1_000,
        0,
        None,
        "The longest wait before a request is sent again.",
    ),
    Key(
        "retry.backoff.ms",
        duration_ms,
        100,
        0,
        None,
        "The first wait before a request is sent again; doubled each time.",
    ),
    Key(
        "security.protocol",
        choice("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"),
        "plaintext",
        None,
        None,
        "SSL without ssl_context= or ssl.truststore.* takes the system's authorities; SASL needs `sasl=` or sasl.* keys.",
    ),
    Key(
        "send.buffer.bytes",
        _size,
        -1,
        -1,
        None,
        "SO_SNDBUF; -1 leaves it to the system.",
    ),
    Key(
        "socket.connection.setup.timeout.ms",
        duration_ms,
        10_000,
        0,
        None,
        "How long one attempt to connect may take.",
    ),
    Key(
        "transaction.timeout.ms",
        duration_ms,
        60_000,
        0,
        None,
        "The coordinator aborts a transaction that is open for longer.",
    ),
    Key(
        "transactional.id",
        _text,
        None,
        None,
        None,
        "Makes the producer transactional; each running instance needs one of its own that stays the same.",
    ),
)

#: Every key of a producer beside bootstrap.servers, by Kafka's name.
PRODUCER_KEYS: Final[Mapping[str, Key]] = {row.name: row for row in _ROWS}

_SHARED: Final = (
    "client.id",
    "connections.max.idle.ms",
    "enable.metrics.push",
    "metadata.max.age.ms",
    "metadata.recovery.strategy",
    "receive.buffer.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "security.protocol",
    "send.buffer.bytes",
    "socket.connection.setup.timeout.ms",
)
#: Java's names of assignors, and librdkafka's.
_ASSIGNOR_NAMES: Final = {
    "rangeassignor": "range",
    "roundrobinassignor": "roundrobin",
    "stickyassignor": "sticky",
    "cooperativestickyassignor": "cooperative-sticky",
}


def _assignors(name: str, value: object) -> list[Any]:
    """Names, Java's class names, and assignors of the caller's; "a,b" or a list."""
    parts: list[object] = list(value.split(",")) if isinstance(value, str) else list(value)  # type: ignore[call-overload]
    found: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            found.append(part)
            continue
        text = part.strip().rpartition(".")[2].lower()
        text = _ASSIGNOR_NAMES.get(text, text)
        if text not in _ASSIGNOR_NAMES.values():
            known = ", ".join(_ASSIGNOR_NAMES.values())
            raise ConfigurationError(f"{name}={value!r} is not valid: it takes {known}, or objects with assign().")
        found.append(text)
    if not found:
        raise ConfigurationError(f"{name} is empty.")
    return found


_CONSUMER_ROWS: Final = (
    Key(
        *("allow.auto.create.topics", _boolean, True, None, None),
        "Naming a topic that does not exist creates it, where the broker allows that.",
    ),
    Key(
        *("auto.commit.interval.ms", duration_ms, 5_000, 0, None),
        "How often what is finished is committed; also before a rebalance and at the end.",
    ),
    Key(
        *("auto.offset.reset", _offset_reset, "latest", None, None),
        "Where a partition begins, and where it goes on when its offset is gone: earliest, latest, none (an error), "
        "or by_duration:P1D.",
    ),
    Key(
        *("client.rack", _text, "", None, None),
        "Where this client runs: brokers that choose replicas by rack let it read from a near one (KIP-392).",
    ),
    Key(
        *("default.api.timeout.ms", duration_ms, 60_000, 0, None),
        "How long calls that ask the cluster wait (seek, position, end_offsets, commit).",
    ),
    Key(
        *("enable.auto.commit", _boolean, True, None, None),
        "true is commit='processed', false is commit='manual'.",
    ),
    Key(
        *("exclude.internal.topics", _boolean, True, None, None),
        "A pattern does not match internal topics.",
    ),
    Key(*("fetch.max.bytes", _size, 52_428_800, 0, None), "Bytes of an answer, and of what waits to be read, at most."),
    Key(*("fetch.max.wait.ms", duration_ms, 500, 0, None), "How long a broker waits for fetch.min.bytes."),
    Key(*("fetch.min.bytes", _size, 1, 0, None), "A broker answers at once when it has so many bytes."),
    Key(*("group.id", _text, None, None, None), "The group this consumer is a member of; None reads without one."),
    Key(
        *("group.instance.id", _text, None, None, None),
        "Makes the member static: after a restart within the session it gets its partitions back (KIP-345).",
    ),
    Key(
        *("group.protocol", choice("classic", "consumer"), "classic", None, None),
        "consumer: the broker assigns (KIP-848), where it can; classic: the members do.",
    ),
    Key(*("group.remote.assignor", _text, None, None, None), "The broker's assignor for group.protocol=consumer."),
    Key(
        *("heartbeat.interval.ms", duration_ms, 3_000, 1, None),
        "How often the member says that it is there (classic groups; else the broker decides).",
    ),
    Key(
        *("isolation.level", choice("read_uncommitted", "read_committed"), "read_uncommitted", None, None),
        "read_committed leaves out what open and aborted transactions wrote.",
    ),
    Key(
        *("max.partition.fetch.bytes", _size, 1_048_576, 0, None),
        "Bytes of one partition in an answer; one batch at least.",
    ),
    Key(
        *("max.poll.interval.ms", duration_ms, 300_000, 1, INT_MAX),
        "A program that does not come back to its consumer for so long loses its partitions to other members.",
    ),
    Key(*("max.poll.records", integer, 500, 1, None), "Records that `poll()` returns at most."),
    Key(
        *("partition.assignment.strategy", _assignors, "range,cooperative-sticky", None, None),
        "How classic groups share partitions out: range, roundrobin, sticky, cooperative-sticky, or objects of your own; "
        "the first that all members have.",
    ),
    Key(
        *("session.timeout.ms", duration_ms, 45_000, 1, INT_MAX),
        "A member that was not heard of for so long loses its partitions (classic groups; else the broker decides).",
    ),
)

#: Every key of a consumer beside bootstrap.servers, by Kafka's name.
CONSUMER_KEYS: Final[Mapping[str, Key]] = {
    row.name: row for row in (*_CONSUMER_ROWS, *(PRODUCER_KEYS[name] for name in _SHARED))
}

#: Every key of a member of a group of any type beside bootstrap.servers.
MEMBERSHIP_KEYS: Final[Mapping[str, Key]] = {
    name: CONSUMER_KEYS[name]
    for name in (
        *_SHARED,
        "group.id",
        "group.instance.id",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "session.timeout.ms",
    )
}

_SHARE_ROWS: Final = (
    Key(
        *("share.acknowledgement.mode", choice("implicit", "explicit"), "implicit", None, None),
        "implicit: asking for more accepts what was handed out and not acknowledged. explicit: it stays open until you say "
        "what has become of it, or its lock ends.",
    ),
    Key(
        *("share.acquire.mode", choice("batch_optimized", "record_limit"), "record_limit", None, None),
        "record_limit: no more records are acquired than asked for (KIP-1206; Kafka 4.2); batch_optimized (Kafka's default): "
        "whole batches, which keeps those records from other members.",
    ),
)
_SHARED_WITH_CONSUMERS: Final = (
    "client.rack",
    "default.api.timeout.ms",
    "fetch.max.bytes",
    "fetch.max.wait.ms",
    "fetch.min.bytes",
    "group.id",
    "max.poll.records",
)

#: Every key of a share consumer beside bootstrap.servers, by Kafka's name.
SHARE_KEYS: Final[Mapping[str, Key]] = {
    row.name: row
    for row in (
        *_SHARE_ROWS,
        *(CONSUMER_KEYS[name] for name in _SHARED_WITH_CONSUMERS),
        *(PRODUCER_KEYS[name] for name in _SHARED),
    )
}

#: librdkafka's name: (Kafka's name, factor).
ALIASES: Final[Mapping[str, tuple[str, float]]] = {
    "metadata.broker.list": ("bootstrap.servers", 1),
    "queue.buffering.max.ms": ("linger.ms", 1),
    "queue.buffering.max.kbytes": ("buffer.memory", 1024),
    "message.max.bytes": ("max.request.size", 1),
    "message.timeout.ms": ("delivery.timeout.ms", 1),
    "message.send.max.retries": ("retries", 1),
    "compression.codec": ("compression.type", 1),
    "request.required.acks": ("acks", 1),
    "topic.metadata.refresh.interval.ms": ("metadata.max.age.ms", 1),
    "socket.timeout.ms": ("request.timeout.ms", 1),
    "max.in.flight": ("max.in.flight.requests.per.connection", 1),
    "socket.send.buffer.bytes": ("send.buffer.bytes", 1),
    "socket.receive.buffer.bytes": ("receive.buffer.bytes", 1),
    "fetch.wait.max.ms": ("fetch.max.wait.ms", 1),
    "fetch.message.max.bytes": ("max.partition.fetch.bytes", 1),
    "sasl.mechanisms": ("sasl.mechanism", 1),
    "sasl.oauthbearer.client.id": ("sasl.oauthbearer.client.credentials.client.id", 1),
    "sasl.oauthbearer.client.secret": ("sasl.oauthbearer.client.credentials.client.secret", 1),
    "ssl.ca.location": ("ssl.truststore.location", 1),
    "ssl.ca.pem": ("ssl.truststore.certificates", 1),
}

#: Keys of other clients that mean something else here, or nothing: what to do instead.
ELSEWHERE: Final[Mapping[str, str]] = {
    "key.serializer": "Pass key_serializer= to the producer: a function, or one of ottla.serde.",
    "value.serializer": "Pass value_serializer= to the producer: a function, or one of ottla.serde.",
    "partitioner.class": "Pass partitioner= to the producer: 'consistent_random', 'round_robin', 'random' or a function.",
    "partitioner": "Pass partitioner= to the producer: 'consistent_random', 'round_robin', 'random' or a function.",
    "interceptor.classes": "Wrap send() instead.",
    "queue.buffering.max.messages": "Memory is bounded in bytes: buffer.memory.",
    "batch.num.messages": "Batches are bounded in bytes: batch.size.",
    "enable.gapless.guarantee": "enable.idempotence keeps the order; a record that fails for good leaves a gap.",
    "api.version.request": "Versions are always asked for.",
    "broker.version.fallback": "Versions are always asked for.",
    "transaction.two.phase.commit.enable": "Two-phase commit (KIP-939) is not there.",
}

#: Accepted without effect: they tune what is not there, and leaving them in harms nothing.
INERT: Final = frozenset(
    {
        "auto.include.jmx.reporter",
        "client.dns.lookup",
        "config.providers",
        "metadata.recovery.rebootstrap.trigger.ms",
        "metric.reporters",
        "metrics.num.samples",
        "metrics.recording.level",
        "metrics.sample.window.ms",
        "partitioner.availability.timeout.ms",
        "sasl.client.callback.handler.class",
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.min.time.before.relogin",
        "sasl.kerberos.ticket.renew.jitter",
        "sasl.kerberos.ticket.renew.window.factor",
        "sasl.login.callback.handler.class",
        "sasl.login.class",
        "sasl.oauthbearer.jwt.retriever.class",
        "sasl.oauthbearer.method",
        "security.providers",
        "socket.connection.setup.timeout.max.ms",
    }
)

#: The same for consumers.
CONSUMER_ELSEWHERE: Final[Mapping[str, str]] = {
    "key.deserializer": "Pass key_deserializer= to the consumer: a function, or one of ottla.serde.",
    "value.deserializer": "Pass value_deserializer= to the consumer: a function, or one of ottla.serde.",
    "interceptor.classes": "Wrap what is read instead.",
    "enable.auto.offset.store": "Pass commit='marked' and call mark(record) instead.",
    "enable.partition.eof": "records(until='end') ends at the end.",
    "queued.min.messages": "What waits is bounded in bytes: fetch.max.bytes.",
    "check.crcs": "CRCs are always checked.",
}

#: The same for share consumers.
SHARE_ELSEWHERE: Final[Mapping[str, str]] = {
    **CONSUMER_ELSEWHERE,
    "auto.offset.reset": "The group decides where it begins: admin.alter_configs('group', name, "
    "{'share.auto.offset.reset': 'earliest'}).",
    "isolation.level": "The group decides: share.isolation.level of its configuration.",
    "enable.auto.commit": "Share consumers acknowledge record by record: share.acknowledgement.mode.",
    "max.poll.interval.ms": "A record's lock limits how long it may take: max_processing=.",
    "group.instance.id": "Share groups have no static members.",
}
