"""Requests of the classic protocol, as far as they are decided on: values without wire format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.classic.member import Protocols

#: The member id of a member that has none yet.
UNKNOWN_MEMBER_ID: Final = ""


class Join(NamedTuple):
    """A JoinGroup request."""

    group_id: str
    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    #: v4+: a new member is given an id first and joins with it (KIP-394).
    requires_member_id: bool = True
    #: v9+: a leader understands that the assignment stands and is not to be made again (KIP-814).
    can_skip_assignment: bool = True
    reason: str | None = None


class Sync(NamedTuple):
    """A SyncGroup request."""

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None
    protocol_type: str | None
    protocol_name: str | None
    assignments: dict[str, bytes]
