"""What an assignor is asked, and what it answers; the way from one target assignment to the next.

An assignor is a pure function: from the members' subscriptions and the assignment so far to the next assignment. It
assigns every partition of every subscribed topic to one subscriber (share groups: to one or several).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

#: Topic id -> partitions. Never changed in place.
Assignment = Mapping[bytes, frozenset[int]]

NO_ASSIGNMENT: Assignment = {}


class MemberSpec(NamedTuple):
    """A member as assignors see it.

    Attributes:
        topic_ids: what it subscribes to; every topic exists.
        target: its target assignment so far.
    """

    topic_ids: frozenset[bytes]
    target: Assignment = NO_ASSIGNMENT
    instance_id: str | None = None
    rack_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A group as assignors see it. `partition_counts` has every topic that a member subscribes to."""

    members: Mapping[str, MemberSpec]
    partition_counts: Mapping[bytes, int]

    @property
    def is_homogeneous(self) -> bool:
        """Every member subscribes to the same topics."""
        specs = iter(self.members.values())
        first = next(specs, None)
        return first is None or all(
            spec.topic_ids is first.topic_ids or spec.topic_ids == first.topic_ids for spec in specs
        )


class Assignor(Protocol):
    """Computes target assignments."""

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    def assign(self, spec: GroupSpec) -> dict[str, Assignment]:
        """Return the next target assignment of every member; a member that is not named gets nothing."""
        ...


def changed_targets(spec: GroupSpec, targets: Mapping[str, Assignment]) -> dict[str, Assignment]:
    """Return what is new in `targets`, for every member of `spec` that has another target than so far."""
    changed = {}
    for member_id, member in spec.members.items():
        target = targets.get(member_id, NO_ASSIGNMENT)
        if target != member.target:
            changed[member_id] = target
    return changed
