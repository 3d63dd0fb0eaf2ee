"""What share partitions are configured with: the broker's defaults, and what a group says otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ottla.types import IsolationLevel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ottla.broker.config import BrokerConfig

_DURATION: Final = re.compile(
    r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,9}))?S)?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareConfig:
    """What holds for the share partitions of one group; Kafka's keys and defaults.

    Attributes:
        record_lock_duration_ms: how long a record that was delivered is kept for its receiver.
        delivery_count_limit: how often a record is delivered before it is given up.
        record_locks_max: records of one partition that may be in flight.
        auto_offset_reset: where a share partition begins: "earliest", "latest" or "by_duration:<ISO 8601>".
        isolation: whether records of open and aborted transactions are delivered.
        renew_enabled: whether a receiver may prolong its lock.
    """

    record_lock_duration_ms: int = 30_000
    delivery_count_limit: int = 5
    record_locks_max: int = 2_000
    auto_offset_reset: str = "latest"
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    renew_enabled: bool = True

    @staticmethod
    def for_group(broker: BrokerConfig, group: Mapping[str, str]) -> ShareConfig:
        """Return what holds for a group with these settings of its own, each within the broker's bounds."""

        def bounded(name: str, default: int, low: int, high: int) -> int:
            value = group.get(name)
            return default if value is None else min(max(int(value), low), high)

        return ShareConfig(
            record_lock_duration_ms=bounded(
                "share.record.lock.duration.ms",
                broker.group_share_record_lock_duration_ms,
                broker.group_share_min_record_lock_duration_ms,
                broker.group_share_max_record_lock_duration_ms,
            ),
            delivery_count_limit=bounded(
                "share.delivery.count.limit",
                broker.group_share_delivery_count_limit,
                broker.group_share_min_delivery_count_limit,
                broker.group_share_max_delivery_count_limit,
            ),
            record_locks_max=bounded(
                "share.partition.max.record.locks",
                broker.group_share_partition_max_record_locks,
                broker.group_share_min_partition_max_record_locks,
                broker.group_share_max_partition_max_record_locks,
            ),
            auto_offset_reset=group.get("share.auto.offset.reset", "latest").lower(),
            isolation=IsolationLevel.READ_COMMITTED
            if group.get("share.isolation.level", "").lower() == "read_committed"
            else IsolationLevel.READ_UNCOMMITTED,
            renew_enabled=group.get("share.renew.acknowledge.enable", "true").lower() == "true",
        )


def duration_ms(reset: str) -> int:
    """Return how far back "by_duration:<ISO 8601>" reaches.

    Raises:
        ValueError: it is no such duration.
    """
    matched = _DURATION.fullmatch(reset.partition(":")[2].strip())
    if matched is None:
        raise ValueError(f"{reset!r} has no duration")
    days, hours, minutes, seconds = (int(matched[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    fraction = int((matched["fraction"] or "0").ljust(9, "0")) // 1_000_000
    return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000 + fraction
