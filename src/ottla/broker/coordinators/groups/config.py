"""What the group coordinator is configured with, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig

_MS_PER_MINUTE: Final = 60_000
INT_MAX: Final = 2**31 - 1


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
    """

    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    size_max: int = INT_MAX
    new_member_join_timeout_ms: int = 300_000
    offset_metadata_size_max: int = 4_096
    offsets_retention_ms: int = 7 * 24 * 60 * _MS_PER_MINUTE
    offsets_retention_check_interval_ms: int = 600_000

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
        )
