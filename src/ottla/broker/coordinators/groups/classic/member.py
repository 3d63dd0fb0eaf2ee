"""One member of a classic group, and the requests it waits with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.sync_group import SyncGroupResponse

#: A protocol and the member's metadata for it; the order is the member's preference.
Protocols = tuple[tuple[str, bytes], ...]
RespondJoin = Callable[[JoinGroupResponse], None]
RespondSync = Callable[[SyncGroupResponse], None]


class Member:
    """A member of a classic group. `respond_join` and `respond_sync` are parked requests."""

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "group_instance_id",
        "is_new",
        "member_id",
        "protocol_type",
        "protocols",
        "rebalance_timeout_ms",
        "respond_join",
        "respond_sync",
        "session_timeout_ms",
    )

    def __init__(
        self,
        *,
        member_id: str,
        group_instance_id: str | None,
        client_id: str,
        client_host: str,
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        protocol_type: str,
        protocols: Protocols,
        assignment: bytes = b"",
    ) -> None:
        self.member_id = member_id
        self.group_instance_id = group_instance_id
        self.client_id = client_id
        self.client_host = client_host
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.session_timeout_ms = session_timeout_ms
        self.protocol_type = protocol_type
        self.protocols = protocols
        self.assignment = assignment
        self.respond_join: RespondJoin | None = None
        self.respond_sync: RespondSync | None = None
        #: Has never been part of a generation: it cannot send heartbeats, so waiting does not keep it alive for ever.
        self.is_new = False

    @property
    def is_static(self) -> bool:
        return self.group_instance_id is not None

    @property
    def is_awaiting_join(self) -> bool:
        return self.respond_join is not None

    @property
    def is_awaiting_sync(self) -> bool:
        return self.respond_sync is not None

    @property
    def has_satisfied_heartbeat(self) -> bool:
        """True while silence is no sign of death: the member waits for our answer."""
        return not self.is_new and (self.is_awaiting_join or self.is_awaiting_sync)

    def metadata(self, protocol_name: str) -> bytes:
        """Return the metadata for a protocol the member supports."""
        for name, metadata in self.protocols:
            if name == protocol_name:
                return metadata
        raise LookupError(f"member {self.member_id} does not support the protocol {protocol_name}")

    def vote(self, candidates: Sequence[str]) -> str:
        """Return the member's favourite among the protocols that all members support."""
        for name, _ in self.protocols:
            if name in candidates:
                return name
        raise LookupError(f"member {self.member_id} supports none of {candidates}")

    def with_new_id(
        self, member_id: str, *, protocols: Protocols, rebalance_timeout_ms: int, session_timeout_ms: int
    ) -> Member:
        """Return the static member under another member id, with what it says now; it keeps its assignment."""
        return Member(
            member_id=member_id,
            group_instance_id=self.group_instance_id,
            client_id=self.client_id,
            client_host=self.client_host,
            rebalance_timeout_ms=rebalance_timeout_ms,
            session_timeout_ms=session_timeout_ms,
            protocol_type=self.protocol_type,
            protocols=protocols,
            assignment=self.assignment,
        )
