"""The states of a classic group, and the events that lead from one to the next."""

from __future__ import annotations

from enum import Enum
from typing import Final


class GroupState(Enum):
    """States of a classic group; the values are Kafka's names."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class GroupEvent(Enum):
    """What moves a group on."""

    #: A member joins with new metadata, leaves, fails or does not sync in time; the leader joins again.
    REBALANCE = "rebalance"
    #: All members have joined, or the time for it is up.
    JOINED = "joined"
    #: The join phase is over and no member is left.
    DESERTED = "deserted"
    #: The leader's assignment is committed.
    ASSIGNED = "assigned"
    #: The partition is no longer coordinated here.
    UNLOADED = "unloaded"


#: Where each event leads, by state. What is not here cannot happen.
TRANSITIONS: Final[dict[GroupState, dict[GroupEvent, GroupState]]] = {
    GroupState.EMPTY: {
        GroupEvent.REBALANCE: GroupState.PREPARING_REBALANCE,
        GroupEvent.UNLOADED: GroupState.DEAD,
    },
    GroupState.PREPARING_REBALANCE: {
        GroupEvent.JOINED: GroupState.COMPLETING_REBALANCE,
        GroupEvent.DESERTED: GroupState.EMPTY,
        GroupEvent.UNLOADED: GroupState.DEAD,
    },
    GroupState.COMPLETING_REBALANCE: {
        GroupEvent.ASSIGNED: GroupState.STABLE,
        GroupEvent.REBALANCE: GroupState.PREPARING_REBALANCE,
        GroupEvent.UNLOADED: GroupState.DEAD,
    },
    GroupState.STABLE: {
        GroupEvent.REBALANCE: GroupState.PREPARING_REBALANCE,
        GroupEvent.UNLOADED: GroupState.DEAD,
    },
    GroupState.DEAD: {
        GroupEvent.UNLOADED: GroupState.DEAD,
    },
}
