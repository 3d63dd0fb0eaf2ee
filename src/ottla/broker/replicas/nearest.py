"""Which replica a consumer should read from (KIP-392), as Apache Kafka's RackAwareReplicaSelector. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class ReplicaView(NamedTuple):
    """A follower as its leader knows it: in sync, and with the offset that is asked for."""

    end_offset: int
    caught_up_ms: int
    node_id: int


def nearest(rack: str, leader: int, followers: Iterable[ReplicaView], racks: Mapping[int, str | None]) -> int | None:
    """Return the follower in the consumer's rack that has most and was caught up last; None for the leader.

    Args:
        rack: of the consumer; "" if it has none.
        racks: of the brokers that live.
    """
    if not rack or racks.get(leader) == rack:
        return None
    best = max((view for view in followers if racks.get(view.node_id) == rack), default=None)
    return None if best is None else best.node_id
