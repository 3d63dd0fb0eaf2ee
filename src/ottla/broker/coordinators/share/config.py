"""What the share coordinator is configured with, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareCoordinatorConfig:
    """Kafka's keys and defaults.

    Attributes:
        updates_per_snapshot: `share.coordinator.snapshot.update.records.per.snapshot`.
        cold_snapshot_interval_ms: `share.coordinator.cold.partition.snapshot.interval.ms`.
        prune_interval_ms: `share.coordinator.state.topic.prune.interval.ms`.
    """

    updates_per_snapshot: int = 500
    cold_snapshot_interval_ms: int = 300_000
    prune_interval_ms: int = 300_000

    @staticmethod
    def from_broker(config: BrokerConfig) -> ShareCoordinatorConfig:
        """Return the share coordinator's part of a broker's configuration."""
        return ShareCoordinatorConfig(
            updates_per_snapshot=config.share_coordinator_snapshot_update_records_per_snapshot,
            cold_snapshot_interval_ms=config.share_coordinator_cold_partition_snapshot_interval_ms,
            prune_interval_ms=config.share_coordinator_state_topic_prune_interval_ms,
        )
