"""Who of a classic group reads what: Kafka's assignors, and what one of your own looks like (`Assignor`).

An object with the members of `Assignor` goes into `partition_assignment_strategy=`. What its `user_data` returns reaches the
leader's `assign`; what that puts beside the partitions reaches each member's `on_assignment`.
"""

from ottla.client._core.assignors import (
    Assignor,
    CooperativeStickyAssignor,
    GroupMember,
    MemberAssignment,
    RangeAssignor,
    RoundRobinAssignor,
    StickyAssignor,
)

__all__ = [
    "Assignor",
    "CooperativeStickyAssignor",
    "GroupMember",
    "MemberAssignment",
    "RangeAssignor",
    "RoundRobinAssignor",
    "StickyAssignor",
]
