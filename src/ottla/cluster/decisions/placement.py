"""Where new replicas go: spread over brokers, and over racks where brokers name theirs. Pure; randomness is passed in.

Brokers of one machine that name no rack count as one rack: they die together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.cluster.decisions.refusal import Refusal
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from ottla.cluster.image import BrokerImage


def place(
    brokers: Mapping[int, BrokerImage], partition_count: int, replication_factor: int, random: Random
) -> list[tuple[int, ...]] | Refusal:
    """Return the replicas of `partition_count` new partitions, the preferred leader first.

    Leaders go round the brokers, racks in turn, from a random start. The followers of a partition are taken from racks that
    have none yet as long as there are such.
    """
    unable = f"Unable to replicate the partition {replication_factor} time(s): "
    if not brokers:
        return Refusal(ErrorCode.INVALID_REPLICATION_FACTOR, unable + "All brokers are currently fenced.")
    if replication_factor > len(brokers):
        return Refusal(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"{unable}The target replication factor of {replication_factor} cannot be reached because only "
            f"{len(brokers)} broker(s) are registered or some brokers have all their log directories cordoned.",
        )
    ring = _racks_in_turn(brokers)
    start = random.randrange(len(ring))
    # Shifting the followers each time round keeps one broker's partitions from all having the same second replica.
    shift = random.randrange(len(ring))
    return [
        _replicas(ring, brokers, start + partition, shift + partition // len(ring), replication_factor)
        for partition in range(partition_count)
    ]


def _racks_in_turn(brokers: Mapping[int, BrokerImage]) -> list[int]:
    by_rack: dict[str, list[int]] = {}
    for node_id in sorted(brokers):
        by_rack.setdefault(_rack(brokers[node_id]) or "", []).append(node_id)
    racks = [by_rack[rack] for rack in sorted(by_rack)]
    longest = max(len(rack) for rack in racks)
    return [rack[place] for place in range(longest) for rack in racks if place < len(rack)]


def _replicas(
    ring: list[int], brokers: Mapping[int, BrokerImage], leader: int, shift: int, count: int
) -> tuple[int, ...]:
    first = ring[leader % len(ring)]
    others = [ring[(leader + 1 + (shift + step) % (len(ring) - 1)) % len(ring)] for step in range(len(ring) - 1)]
    chosen = [first]
    used = {_rack(brokers[first])}
    rest: list[int] = []
    for node_id in others:
        rack = _rack(brokers[node_id])
        if len(chosen) < count and rack is not None and rack not in used:
            chosen.append(node_id)
            used.add(rack)
        else:
            rest.append(node_id)
    return tuple(chosen + rest[: count - len(chosen)])


def _rack(broker: BrokerImage) -> str | None:
    """Return what a broker shares its fate with: its rack, or else its machine."""
    return broker.rack if broker.rack is not None else broker.machine or None
