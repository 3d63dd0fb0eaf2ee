"""Contradictions between several settings of a broker, by Kafka's rules.

Decides sentences from a configuration; each names the keys it is about, so that one about a key that is wrong by itself can
be left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.settings.selectors import LEADER_ONLY, RACK_AWARE

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig


class Contradiction(NamedTuple):
    """A sentence for the user, and the broker keys it is about."""

    sentence: str
    keys: frozenset[str]


def contradictions(config: BrokerConfig, text: Mapping[str, str]) -> Iterator[Contradiction]:
    """Return what does not fit together. `text` has the settings as they were written."""
    for holds, sentence, keys in (
        *_of_logs(config),
        *_of_connections(config),
        *_of_groups(config),
        *_others(config, text),
    ):
        if not holds:
            yield Contradiction(sentence, frozenset(keys))


#: Whether it holds, the sentence if it does not, the keys.
_Demand = tuple[bool, str, tuple[str, ...]]


def _of_logs(config: BrokerConfig) -> Iterator[_Demand]:
    log = config.topic_defaults
    for name, low, value in (("log.roll.ms", 1, log.segment_ms), ("log.flush.interval.ms", 0, log.flush_ms)):
        yield value >= low, f"{name} must be greater than or equal to {low}, but it is {value}", (name,)
    yield (
        log.segment_jitter_ms >= 0,
        "log.roll.jitter.ms must be greater than or equal to 0",
        ("log.roll.jitter.ms", "log.roll.jitter.hours"),
    )
    yield (
        log.retention_ms == -1 or log.retention_ms >= 1,
        "log.retention.ms must be unlimited (-1) or at least 1 millisecond",
        ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
    )
    yield (
        log.min_compaction_lag_ms <= log.max_compaction_lag_ms,
        f"log.cleaner.min.compaction.lag.ms ({log.min_compaction_lag_ms}) must not be greater than "
        f"log.cleaner.max.compaction.lag.ms ({log.max_compaction_lag_ms})",
        ("log.cleaner.min.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"),
    )
    yield (
        config.log_cleaner_dedupe_buffer_size >= 1 << 20,
        f"log.cleaner.dedupe.buffer.size must be at least 1048576, but it is {config.log_cleaner_dedupe_buffer_size}",
        ("log.cleaner.dedupe.buffer.size",),
    )


def _of_connections(config: BrokerConfig) -> Iterator[_Demand]:
    yield (
        config.queued_max_request_bytes <= 0 or config.queued_max_request_bytes >= config.socket_request_max_bytes,
        f"queued.max.request.bytes ({config.queued_max_request_bytes}) must be -1 or at least "
        f"socket.request.max.bytes ({config.socket_request_max_bytes})",
        ("queued.max.request.bytes", "socket.request.max.bytes"),
    )
    yield (
        config.max_connections_per_ip > 0 or bool(config.max_connections_per_ip_overrides),
        "max.connections.per.ip can be 0 only if max.connections.per.ip.overrides names the addresses that may connect",
        ("max.connections.per.ip", "max.connections.per.ip.overrides"),
    )


def _of_groups(config: BrokerConfig) -> Iterator[_Demand]:
    yield (
        config.group_min_session_timeout_ms <= config.group_max_session_timeout_ms,
        f"group.min.session.timeout.ms ({config.group_min_session_timeout_ms}) must not be greater than "
        f"group.max.session.timeout.ms ({config.group_max_session_timeout_ms})",
        ("group.min.session.timeout.ms", "group.max.session.timeout.ms"),
    )
    for kind in ("consumer", "share"):
        for name in ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"):
            keys = tuple(f"group.{kind}.{bound}{name}" for bound in ("min.", "", "max."))
            low, value, high = (getattr(config, key.replace(".", "_")) for key in keys)
            yield (
                low <= value <= high,
                f"{keys[1]} ({value}) must be between {keys[0]} ({low}) and {keys[2]} ({high})",
                keys,
            )
        keys = (f"group.{kind}.heartbeat.interval.ms", f"group.{kind}.session.timeout.ms")
        heartbeat, session = (getattr(config, key.replace(".", "_")) for key in keys)
        yield heartbeat < session, f"{keys[0]} ({heartbeat}) must be less than {keys[1]} ({session})", keys
    yield (
        "classic" in config.group_coordinator_rebalance_protocols,
        "group.coordinator.rebalance.protocols must contain classic: disabling it is not supported",
        ("group.coordinator.rebalance.protocols",),
    )
    yield (
        bool(config.group_consumer_assignors) and set(config.group_consumer_assignors) <= {"uniform", "range"},
        f"group.consumer.assignors can name uniform and range, but it is {', '.join(config.group_consumer_assignors)}",
        ("group.consumer.assignors",),
    )
    yield (
        config.group_share_assignors == ("simple",),
        f"group.share.assignors can only be simple, but it is {', '.join(config.group_share_assignors)}",
        ("group.share.assignors",),
    )


def _others(config: BrokerConfig, text: Mapping[str, str]) -> Iterator[_Demand]:
    yield (
        config.replica_selector_class in (None, RACK_AWARE, LEADER_ONLY),
        f"replica.selector.class can be {RACK_AWARE} or {LEADER_ONLY}, but it is {config.replica_selector_class}: other "
        "classes are Java's, and there is no JVM here to load them",
        ("replica.selector.class",),
    )
    yield (
        config.offsets_topic_compression_codec in range(5),
        f"offsets.topic.compression.codec must be 0 to 4, but it is {config.offsets_topic_compression_codec}",
        ("offsets.topic.compression.codec",),
    )
    roles = set((text.get("process.roles") or "broker").replace(" ", "").split(","))
    yield "broker" in roles, "process.roles must contain broker: an ottla node is always a broker", ("process.roles",)
    yield (
        config.zookeeper is None or config.ottla_tree_socket is None,
        "zookeeper.connect and ottla.tree.socket contradict each other: the tree is in one place",
        ("zookeeper.connect", "ottla.tree.socket"),
    )
    yield (
        config.zookeeper is None or any((text.get(name) or "-1") != "-1" for name in ("broker.id", "node.id")),
        "zookeeper.connect needs broker.id (--broker-id): a number that no other broker of the cluster has",
        ("zookeeper.connect", "broker.id", "node.id"),
    )
