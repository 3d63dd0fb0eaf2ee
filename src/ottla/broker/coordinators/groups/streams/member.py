"""A member of a streams group: one stream thread, what it said of itself, and where it stands.

Values: a change makes a new one, so that what was not committed can be undone. KIP-1071; Kafka's StreamsGroupMember.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ottla.broker.coordinators.groups.streams.tasks import NOTHING_ASSIGNED, AssignedTasks


class MemberState(IntEnum):
    """As the record of a member's assignment has it."""

    STABLE = 1
    #: Was asked to give tasks up, and has not confirmed.
    UNREVOKED_TASKS = 2
    #: Waits for tasks that others have not given up.
    UNRELEASED_TASKS = 3
    #: Written by a version that knew more states.
    UNKNOWN = 127


#: Epoch of a member that joins, of one that leaves, of a static one that leaves and may come back.
JOIN_EPOCH = 0
LEAVE_EPOCH = -1
STATIC_LEAVE_EPOCH = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsMember:
    """One member. Everything up to `client_tags` is in the member's record, the rest in that of its assignment."""

    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_ms: int = -1
    topology_epoch: int = -1
    process_id: str = ""
    #: Where it answers interactive queries: host and port.
    endpoint: tuple[str, int] | None = None
    client_tags: Mapping[str, str] = field(default_factory=dict)

    member_epoch: int = JOIN_EPOCH
    previous_member_epoch: int = JOIN_EPOCH
    state: MemberState = MemberState.STABLE
    assigned: AssignedTasks = NOTHING_ASSIGNED
    #: To be given up.
    revoking: AssignedTasks = NOTHING_ASSIGNED

    def is_reconciled_to(self, assignment_epoch: int) -> bool:
        """Whether it has all that the target of this epoch gives it, and nothing else."""
        return self.state is MemberState.STABLE and self.member_epoch == assignment_epoch
