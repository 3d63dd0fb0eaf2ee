"""What the group coordinator is configured with, as typed values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.broker.coordinators.groups.streams.config import StreamsConfig

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig

_MS_PER_MINUTE: Final = 60_000
INT_MAX: Final = 2**31 - 1


class Bounded(NamedTuple):
    """A setting that groups may have of their own: its group key, the broker's value, and the broker's bounds for groups."""

    group_key: str
    value: int
    lowest: int
    highest: int

    def of(self, overrides: Mapping[str, str]) -> int:
        """Return what holds for a group with these overrides. Bounds may have changed since they were set."""
        given = overrides.get(self.group_key)
        return self.value if given is None else min(max(int(given), self.lowest), self.highest)


class MigrationPolicy(Enum):
    """Whether groups may change between the classic and the consumer protocol."""

    BIDIRECTIONAL = "bidirectional"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    DISABLED = "disabled"

    @property
    def can_upgrade(self) -> bool:
        return self in (MigrationPolicy.BIDIRECTIONAL, MigrationPolicy.UPGRADE)

    @property
    def can_downgrade(self) -> bool:
        return self in (MigrationPolicy.BIDIRECTIONAL, MigrationPolicy.DOWNGRADE)


_SESSION_TIMEOUT_MS: Final = Bounded("consumer.session.timeout.ms", 45_000, 45_000, 60_000)
_HEARTBEAT_INTERVAL_MS: Final = Bounded("consumer.heartbeat.interval.ms", 5_000, 5_000, 15_000)
_ASSIGNMENT_INTERVAL_MS: Final = Bounded("consumer.assignment.interval.ms", 1_000, 0, 15_000)
_SHARE_SESSION_TIMEOUT_MS: Final = Bounded("share.session.timeout.ms", 45_000, 45_000, 60_000)
_SHARE_HEARTBEAT_INTERVAL_MS: Final = Bounded("share.heartbeat.interval.ms", 5_000, 5_000, 15_000)
_SHARE_ASSIGNMENT_INTERVAL_MS: Final = Bounded("share.assignment.interval.ms", 1_000, 0, 15_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Limits and times of groups; Kafka's keys and defaults.

    Attributes:
        session_timeout_ms_min, session_timeout_ms_max: `group.min.session.timeout.ms`, `group.max.session.timeout.ms`.
        initial_rebalance_delay_ms: how long an empty group waits for further members (`group.initial.rebalance.delay.ms`).
        size_max: members of a group (`group.max.size`).
        new_member_join_timeout_ms: how long a member that has never been in the group may wait for its first
            generation; it cannot send heartbeats yet. Fixed at 5 minutes in Kafka.
        offset_metadata_size_max: UTF-16 code units of an offset's metadata (`offset.metadata.max.bytes`; Kafka compares
            the length of the Java string).
        offsets_retention_ms: `offsets.retention.minutes`.
        offsets_retention_check_interval_ms: `offsets.retention.check.interval.ms`.
        rebalance_protocols: `group.coordinator.rebalance.protocols`.
        consumer_session_timeout_ms, consumer_heartbeat_interval_ms, consumer_assignment_interval_ms: what a group of the
            consumer protocol may set for itself within the broker's bounds (`group.consumer.*`).
        consumer_size_max: `group.consumer.max.size`.
        consumer_assignors: `group.consumer.assignors`; the first is the default.
        consumer_migration_policy: `group.consumer.migration.policy`.
        consumer_regex_refresh_interval_ms: `group.consumer.regex.refresh.interval.ms`.
        share_session_timeout_ms, share_heartbeat_interval_ms, share_assignment_interval_ms: the same for share groups
            (`group.share.*`).
        share_size_max: `group.share.max.size`.
        share_initialize_retry_interval_ms: `group.share.initialize.retry.interval.ms`.
        streams: of streams groups.
    """

    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    size_max: int = INT_MAX
    new_member_join_timeout_ms: int = 300_000
    offset_metadata_size_max: int = 4_096
    offsets_retention_ms: int = 7 * 24 * 60 * _MS_PER_MINUTE
    offsets_retention_check_interval_ms: int = 600_000
    rebalance_protocols: frozenset[str] = frozenset({"classic", "consumer", "streams"})
    consumer_session_timeout_ms: Bounded = _SESSION_TIMEOUT_MS
    consumer_heartbeat_interval_ms: Bounded = _HEARTBEAT_INTERVAL_MS
    consumer_assignment_interval_ms: Bounded = _ASSIGNMENT_INTERVAL_MS
    consumer_size_max: int = INT_MAX
    consumer_assignors: tuple[str, ...] = ("uniform", "range")
    consumer_migration_policy: MigrationPolicy = MigrationPolicy.BIDIRECTIONAL
    consumer_regex_refresh_interval_ms: int = 600_000
    share_session_timeout_ms: Bounded = _SHARE_SESSION_TIMEOUT_MS
    share_heartbeat_interval_ms: Bounded = _SHARE_HEARTBEAT_INTERVAL_MS
    share_assignment_interval_ms: Bounded = _SHARE_ASSIGNMENT_INTERVAL_MS
    share_size_max: int = 200
    share_initialize_retry_interval_ms: int = 30_000
    streams: StreamsConfig = field(default_factory=StreamsConfig)

    @staticmethod
    def from_broker(config: BrokerConfig) -> GroupConfig:
        """Return the group coordinator's part of a broker's configuration."""
        return GroupConfig(
            session_timeout_ms_min=config.group_min_session_timeout_ms,
            session_timeout_ms_max=config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            size_max=config.group_max_size,
            offset_metadata_size_max=config.offset_metadata_max_bytes,
            offsets_retention_ms=config.offsets_retention_minutes * _MS_PER_MINUTE,
            offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
            rebalance_protocols=frozenset(config.group_coordinator_rebalance_protocols),
            consumer_session_timeout_ms=Bounded(
                "consumer.session.timeout.ms",
                config.group_consumer_session_timeout_ms,
                config.group_consumer_min_session_timeout_ms,
                config.group_consumer_max_session_timeout_ms,
            ),
            consumer_heartbeat_interval_ms=Bounded(
                "consumer.heartbeat.interval.ms",
                config.group_consumer_heartbeat_interval_ms,
                config.group_consumer_min_heartbeat_interval_ms,
                config.group_consumer_max_heartbeat_interval_ms,
            ),
            consumer_assignment_interval_ms=Bounded(
                "consumer.assignment.interval.ms",
                config.group_consumer_assignment_interval_ms,
                config.group_consumer_min_assignment_interval_ms,
                config.group_consumer_max_assignment_interval_ms,
            ),
            consumer_size_max=config.group_consumer_max_size,
            consumer_assignors=config.group_consumer_assignors,
            consumer_migration_policy=MigrationPolicy(config.group_consumer_migration_policy.lower()),
            consumer_regex_refresh_interval_ms=config.group_consumer_regex_refresh_interval_ms,
            share_session_timeout_ms=Bounded(
                "share.session.timeout.ms",
                config.group_share_session_timeout_ms,
                config.group_share_min_session_timeout_ms,
                config.group_share_max_session_timeout_ms,
            ),
            share_heartbeat_interval_ms=Bounded(
                "share.heartbeat.interval.ms",
                config.group_share_heartbeat_interval_ms,
                config.group_share_min_heartbeat_interval_ms,
                config.group_share_max_heartbeat_interval_ms,
            ),
            share_assignment_interval_ms=Bounded(
                "share.assignment.interval.ms",
                config.group_share_assignment_interval_ms,
                config.group_share_min_assignment_interval_ms,
                config.group_share_max_assignment_interval_ms,
            ),
            share_size_max=config.group_share_max_size,
            share_initialize_retry_interval_ms=config.group_share_initialize_retry_interval_ms,
            streams=StreamsConfig.from_broker(config),
        )
