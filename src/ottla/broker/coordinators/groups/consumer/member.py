"""ConsumerMember: a member of a consumer group, an immutable value.

`assigned` are the partitions the member may use, each with the epoch at which it was given to it (KIP-1251); `revoking` are
those it was asked to give up and has not confirmed yet. No other member may be given a partition that is in either.

States (KIP-848): STABLE - has everything of its epoch; UNREVOKED - must give up `revoking` before it enters the next epoch;
UNRELEASED - in its epoch, but waits for partitions that others have not given up. UNKNOWN - from a later version.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from ottla.broker.coordinators.groups.modern.assignor import Assignment

#: Member epochs of requests that leave: for good, or (static members) to come back.
LEAVE_EPOCH: Final = -1
LEAVE_STATIC_EPOCH: Final = -2

#: Topic id -> partition -> the epoch at which it was assigned. Never changed in place.
OwnedPartitions = Mapping[bytes, Mapping[int, int]]
NOTHING: Final[OwnedPartitions] = {}


class MemberState(IntEnum):
    """States of a member; the numbers are those of the records."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    UNRELEASED_PARTITIONS = 2
    UNKNOWN = 127

    @staticmethod
    def of(value: int) -> MemberState:
        """Return the state with this number; UNKNOWN if there is none."""
        return MemberState(value) if value in (0, 1, 2) else MemberState.UNKNOWN


class ClassicMembership(NamedTuple):
    """What a member that speaks the classic protocol has said in JoinGroup."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]


class ConsumerMember(NamedTuple):
    """A member."""

    member_id: str
    member_epoch: int = 0
    previous_member_epoch: int = -1
    state: MemberState = MemberState.STABLE
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    client_id: str = ""
    client_host: str = ""
    topic_names: frozenset[str] = frozenset()
    #: Empty: none (librdkafka sends an empty one when it subscribes to names).
    topic_regex: str = ""
    server_assignor: str | None = None
    assigned: OwnedPartitions = NOTHING
    revoking: OwnedPartitions = NOTHING
    #: Not None: the member speaks the classic protocol (JoinGroup, SyncGroup).
    classic: ClassicMembership | None = None

    @property
    def uses_classic_protocol(self) -> bool:
        return self.classic is not None

    def is_reconciled_to(self, assignment_epoch: int) -> bool:
        """Whether the member has everything that the target assignment of this epoch gives it."""
        return self.state is MemberState.STABLE and self.member_epoch == assignment_epoch

    def subscription(self) -> tuple[object, ...]:
        """Return what is kept in the member's metadata record."""
        return (
            self.instance_id,
            self.rack_id,
            self.rebalance_timeout_ms,
            self.client_id,
            self.client_host,
            self.topic_names,
            self.topic_regex,
            self.server_assignor,
            self.classic,
        )

    def assignment_epoch(self, topic_id: bytes, partition: int) -> int | None:
        """Return the epoch at which the member got a partition it has, given up or not."""
        for owned in (self.assigned, self.revoking):
            epochs = owned.get(topic_id)
            if epochs is not None and partition in epochs:
                return epochs[partition]
        return None


def without_epochs(owned: OwnedPartitions) -> dict[bytes, frozenset[int]]:
    """Return the partitions alone."""
    return {topic_id: frozenset(epochs) for topic_id, epochs in owned.items()}


def with_epoch(assignment: Assignment, epoch: int) -> dict[bytes, dict[int, int]]:
    """Return the partitions, each assigned at this epoch."""
    return {topic_id: dict.fromkeys(sorted(partitions), epoch) for topic_id, partitions in assignment.items()}


def has_other_partitions(before: ConsumerMember, after: ConsumerMember) -> bool:
    """Whether the member may use other partitions than before."""
    if before.assigned is after.assigned or before.assigned == after.assigned:
        return False
    return without_epochs(before.assigned) != without_epochs(after.assigned)
