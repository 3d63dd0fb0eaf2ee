"""A member of a share group: what it subscribes to, and what it may fetch. A value: a change makes a new one."""

from __future__ import annotations

from typing import NamedTuple

from ottla.broker.coordinators.groups.modern.assignor import NO_ASSIGNMENT, Assignment

#: Epoch of a member that joins, and of one that leaves.
JOIN_EPOCH = 0
LEAVE_EPOCH = -1


class ShareMember(NamedTuple):
    """One member. Everything up to `topic_names` is in the member's record, the rest in that of its assignment."""

    member_id: str
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topic_names: frozenset[str] = frozenset()

    member_epoch: int = JOIN_EPOCH
    previous_member_epoch: int = JOIN_EPOCH
    assigned: Assignment = NO_ASSIGNMENT
