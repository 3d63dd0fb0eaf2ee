"""A member of a group of the classic protocol: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, without I/O.

Knows nothing of topics: what members tell each other, and who gets what, is the `Application`'s, of any protocol type.
The consumer's is `classic_group.py`; a connector can bring its own.

    IDLE -> JOINING -> (the leader: LEADING) -> SYNCING -> STABLE -> JOINING ...

Sources: Kafka's Java client (AbstractCoordinator); KIP-345 (static members), KIP-394 (a member id first), KIP-559,
KIP-800 (reasons), KIP-814 (a static leader that comes back assigns nothing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from ottla.client._core.client import ClientMachine
from ottla.client._core.coordinator import MOVED, Coordinator
from ottla.client._core.denials import error_of
from ottla.client._core.requests import FOREVER, Action, Send
from ottla.errors import ErrorCode, FencedInstanceIdError, KafkaError, RemoteProtocolError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    from collections.abc import Callable

#: A JoinGroup is answered when all have joined, or the rebalance timeout is over; the answer may take a while longer.
_JOIN_GRACE_MS: Final = 5_000
#: How often LeaveGroup is sent again.
_LEAVE_RETRIES_MAX: Final = 2
_FOR_NOW: Final = frozenset({*MOVED, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.REQUEST_TIMED_OUT})


class Phase(Enum):
    IDLE = "idle"
    JOINING = "joining"
    LEADING = "leading"
    SYNCING = "syncing"
    STABLE = "stable"


class JoinedMember(NamedTuple):
    """A member as the leader is told of it; `metadata` is what it sent for the protocol that was chosen."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


class Application(Protocol):
    """What a group is for."""

    def protocols(self) -> Sequence[tuple[str, bytes]]:
        """Return (name, metadata) of each protocol that this member knows, the best first."""
        ...

    def lead(self, protocol: str, members: Sequence[JoinedMember]) -> Mapping[str, bytes] | None:
        """Return what each member gets, by member id; None: not yet, ask again at the next turn."""
        ...

    def on_joined(self, protocol: str, assignment: bytes) -> None:
        """The group is stable, and this is what the member has got."""
        ...

    def on_rebalance(self) -> None:
        """The others rebalance: give up what has to be, then `join`."""
        ...

    def on_lost(self) -> None:
        """The group does not know the member any more; it is joining again, as another."""
        ...

    def on_failed(self, error: Exception) -> None:
        """The member cannot join, or is shut out."""
        ...


class MemberSettings(NamedTuple):
    """One member of one group; times in milliseconds."""

    group_id: str
    protocol_type: str
    group_instance_id: str | None
    session_timeout_ms: float
    rebalance_timeout_ms: float
    heartbeat_interval_ms: float


class ClassicMember:
    """One member.

    Attributes:
        member_id, generation_id: as the coordinator gave them; "" and -1 without.
        is_leader: whether this member assigned in the present generation.
        left: whether LeaveGroup was answered, or is not needed.
        confirmed_ms: when the request was sent that the coordinator has last answered as it answers a member; None before
            the first. What the group decided after that, the member does not know.
    """

    def __init__(
        self, machine: ClientMachine, coordinator: Coordinator, settings: MemberSettings, application: Application
    ) -> None:
        self.phase = Phase.IDLE
        self.member_id = ""
        self.generation_id = -1
        self.is_leader = False
        self.left = True
        self._machine = machine
        self._coordinator = coordinator
        self._settings = settings
        self._application = application
        self._protocol = ""
        self._members: Sequence[JoinedMember] = ()
        self._assignments: Mapping[str, bytes] = {}
        self._in_flight = False
        self._heartbeat_in_flight = False
        self._leaving = False
        self._leave_failures = 0
        self._attempt = 0
        self._reason = ""
        self._retry_ms = 0.0
        self._failures = 0
        self._heartbeat_ms = 0.0
        self.confirmed_ms: float | None = None

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def join(self, reason: str = "") -> None:
        """Join, or join again. What is under way of an earlier attempt does not count any more."""
        self.phase = Phase.JOINING
        self.is_leader = False
        self.left = False
        self._leaving = False
        self._reason = reason
        self._attempt += 1
        self._in_flight = False

    def leave(self, reason: str) -> None:
        """Leave. A static member only forgets that it was there: it may come back (KIP-345)."""
        if self._in_flight and self._coordinator.node_id is not None:
            # Brokers answer in order, and the answer to a JoinGroup may take minutes.
            self._machine.disconnect(self._coordinator.node_id)
        self._attempt += 1
        self._in_flight = False
        self.phase = Phase.IDLE
        if not self.member_id or self._settings.group_instance_id is not None or self._coordinator.node_id is None:
            self._forget()
            return
        self._leaving = True
        self._leave_failures = 0
        self._reason = reason

    def _forget(self) -> None:
        self.left = True
        self._leaving = False
        self.member_id = ""
        self.generation_id = -1

    # -- what to do next --------------------------------------------------------------------------------------------

    def poll(self, now_ms: float, actions: list[Action]) -> float:
        if self.phase is Phase.IDLE and not self._leaving:
            return FOREVER
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        return min(self._poll_membership(now_ms, actions), self._poll_heartbeat(now_ms, actions))

    def _poll_membership(self, now_ms: float, actions: list[Action]) -> float:
        if self._in_flight:
            return FOREVER
        if self._retry_ms > now_ms:
            return self._retry_ms
        if self._leaving:
            self._ask(now_ms, actions, ApiKey.LEAVE_GROUP, self._make_leave, self._on_left)
        elif self.phase is Phase.JOINING:
            grace_ms = max(
                self._settings.rebalance_timeout_ms + _JOIN_GRACE_MS - self._machine.core.request_timeout_ms, 0
            )
            self._ask(now_ms, actions, ApiKey.JOIN_GROUP, self._make_join(), self._on_join, wait_ms=grace_ms)
        elif self.phase is Phase.LEADING:
            try:
                assignments = self._application.lead(self._protocol, self._members)
            except Exception as error:  # an assignor of the caller's
                self._fail(error, now_ms)
                return self._retry_ms
            if assignments is None:
                return FOREVER  # metadata will come
            self._assignments = assignments
            self.phase = Phase.SYNCING
        if self.phase is Phase.SYNCING and not self._in_flight:
            self._ask(now_ms, actions, ApiKey.SYNC_GROUP, self._make_sync(), self._on_sync)
        return FOREVER

    def _poll_heartbeat(self, now_ms: float, actions: list[Action]) -> float:
        if self.generation_id < 0 or self.phase not in (Phase.STABLE, Phase.LEADING) or self._heartbeat_in_flight:
            return FOREVER
        if self._heartbeat_ms > now_ms:
            return self._heartbeat_ms
        retry_ms = self._coordinator.reach(now_ms, actions)
        if retry_ms is not None:
            return retry_ms
        settings, member_id, generation_id = self._settings, self.member_id, self.generation_id

        def build(version: int) -> Message:
            request = HeartbeatRequest(group_id=settings.group_id, generation_id=generation_id, member_id=member_id)
            if version >= 3:
                request.group_instance_id = settings.group_instance_id
            return request

        self._heartbeat_in_flight = True
        self._heartbeat_ms = now_ms + settings.heartbeat_interval_ms
        context = (member_id, generation_id, now_ms)
        node_id = cast(int, self._coordinator.node_id)
        self._machine.ask(
            now_ms,
            actions,
            node_id,
            ApiKey.HEARTBEAT,
            build,
            self._on_heartbeat,
            self._on_no_heartbeat,
            context=context,
        )
        return self._heartbeat_ms

    def _ask(
        self,
        now_ms: float,
        actions: list[Action],
        key: ApiKey,
        build: Callable[[int], Message],
        on_answer: Callable[[Send, Message, float], None],
        *,
        wait_ms: float = 0,
    ) -> None:
        attempt = self._attempt

        def answered(send: Send, response: Message, when_ms: float) -> None:
            if attempt == self._attempt:
                self._in_flight = False
                on_answer(send, response, when_ms)
                if self.phase is Phase.STABLE and key is ApiKey.SYNC_GROUP:
                    self.confirmed_ms = now_ms

        def failed(send: Send, error: Exception, when_ms: float) -> None:
            self._coordinator.lose(when_ms)
            if attempt != self._attempt:
                return
            self._in_flight = False
            if self._leaving and self._leave_failures >= _LEAVE_RETRIES_MAX:
                self._forget()
                self._machine.wake()
            elif self._leaving:
                # The first may have gone out on the connection that `leave` closes.
                self._leave_failures += 1
                self._retry(when_ms)
            elif isinstance(error, KafkaError) and not error.retriable:
                self._fail(error, when_ms)
            else:
                self._retry(when_ms)

        self._in_flight = True
        node_id = cast(int, self._coordinator.node_id)
        self._machine.ask(now_ms, actions, node_id, key, build, answered, failed, wait_ms=wait_ms)

    def _make_join(self) -> Callable[[int], Message]:
        settings = self._settings
        protocols = self._application.protocols()
        member_id, reason = self.member_id, self._reason

        def build(version: int) -> Message:
            request = JoinGroupRequest(
                group_id=settings.group_id,
                session_timeout_ms=int(settings.session_timeout_ms),
                rebalance_timeout_ms=int(settings.rebalance_timeout_ms),
                member_id=member_id,
                protocol_type=settings.protocol_type,
                protocols=[JoinGroupRequestProtocol(name=name, metadata=data) for name, data in protocols],
                reason=reason or None,
            )
            if version >= 5:
                request.group_instance_id = settings.group_instance_id
            return request

        return build

    def _make_sync(self) -> Callable[[int], Message]:
        settings = self._settings
        member_id, generation_id, protocol = self.member_id, self.generation_id, self._protocol
        assignments = self._assignments

        def build(version: int) -> Message:
            request = SyncGroupRequest(
                group_id=settings.group_id,
                generation_id=generation_id,
                member_id=member_id,
                protocol_type=settings.protocol_type,
                protocol_name=protocol,
                assignments=[
                    SyncGroupRequestAssignment(member_id=each, assignment=data) for each, data in assignments.items()
                ],
            )
            if version >= 3:
                request.group_instance_id = settings.group_instance_id
            return request

        return build

    def _make_leave(self, version: int) -> Message:
        settings = self._settings
        if version < 3:
            return LeaveGroupRequest(group_id=settings.group_id, member_id=self.member_id)
        member = MemberIdentity(
            member_id=self.member_id, group_instance_id=settings.group_instance_id, reason=self._reason or None
        )
        return LeaveGroupRequest(group_id=settings.group_id, members=[member])

    # -- what happened ----------------------------------------------------------------------------------------------

    def _on_left(self, send: Send, response: Message, now_ms: float) -> None:
        self._forget()
        self._machine.wake()

    def _on_join(self, send: Send, message: Message, now_ms: float) -> None:
        response = cast(JoinGroupResponse, message)
        code = response.error_code
        if code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = response.member_id
        elif code == ErrorCode.UNKNOWN_MEMBER_ID:
            self._lose(member_id_too=True)
        elif code == ErrorCode.REBALANCE_IN_PROGRESS:
            self._retry(now_ms)
        elif code != ErrorCode.NONE:
            self._on_code(code, now_ms)
        else:
            self._failures = 0
            self.member_id, self.generation_id = response.member_id, response.generation_id
            self._protocol = response.protocol_name or ""
            self.is_leader = response.leader == response.member_id
            self._members = [
                JoinedMember(each.member_id, each.group_instance_id, each.metadata) for each in response.members
            ]
            self._assignments = {}
            assigns = self.is_leader and not response.skip_assignment
            self.phase = Phase.LEADING if assigns else Phase.SYNCING
            self._heartbeat_ms = now_ms + self._settings.heartbeat_interval_ms

    def _on_sync(self, send: Send, message: Message, now_ms: float) -> None:
        response = cast(SyncGroupResponse, message)
        code = response.error_code
        if code == ErrorCode.NONE:
            self._failures = 0
            self.phase = Phase.STABLE
            self._heartbeat_ms = now_ms + self._settings.heartbeat_interval_ms
            try:
                self._application.on_joined(self._protocol, response.assignment)
            except RemoteProtocolError as error:  # what the leader sent
                self._fail(error, now_ms)
        elif code == ErrorCode.REBALANCE_IN_PROGRESS:
            self.join("the group rebalances again")
        elif code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION):
            self._lose(member_id_too=code == ErrorCode.UNKNOWN_MEMBER_ID)
        else:
            self._on_code(code, now_ms)

    def _on_no_heartbeat(self, send: Send, error: Exception, now_ms: float) -> None:
        self._heartbeat_in_flight = False
        self._heartbeat_ms = now_ms + self._machine.delay_ms(1)
        self._coordinator.lose(now_ms)

    def _on_heartbeat(self, send: Send, message: Message, now_ms: float) -> None:
        self._heartbeat_in_flight = False
        code = cast(HeartbeatResponse, message).error_code
        member_id, generation_id, sent_ms = cast(tuple[str, int, float], send.context)
        if code == ErrorCode.NONE:
            self.confirmed_ms = sent_ms
        if (member_id, generation_id) != (self.member_id, self.generation_id) or code == ErrorCode.NONE:
            return
        if code == ErrorCode.REBALANCE_IN_PROGRESS:
            if self.phase is Phase.STABLE:
                self._application.on_rebalance()
        elif self.phase is Phase.JOINING:
            return  # its answer tells
        elif code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION):
            self._lose(member_id_too=code == ErrorCode.UNKNOWN_MEMBER_ID)
        elif code in _FOR_NOW:
            self._coordinator.on_code(code, now_ms)
            self._heartbeat_ms = now_ms + self._machine.delay_ms(1)
        else:
            self._on_code(code, now_ms)

    def on_refused_commit(self, code: int) -> None:
        """A commit of the present generation was refused: the group does not know the member."""
        if self.phase is Phase.STABLE:
            self._lose(member_id_too=code == ErrorCode.UNKNOWN_MEMBER_ID)

    def _on_code(self, code: int, now_ms: float) -> None:
        error = error_of(code, group=("READ", self._settings.group_id))
        if code in _FOR_NOW:
            self._coordinator.on_code(code, now_ms)
            self._retry(now_ms)
        elif error.retriable:
            self._retry(now_ms)
        else:
            self._fail(_explained(error, self._settings), now_ms)

    def _fail(self, error: Exception, now_ms: float) -> None:
        """Tell the caller, and go on trying after a while: it may have been mended by then."""
        fenced = isinstance(error, FencedInstanceIdError)
        self._application.on_failed(error)
        self._retry(now_ms)
        if fenced:
            self.phase = Phase.IDLE
            self._forget()
        elif self.phase is not Phase.JOINING:
            self.join()

    def _lose(self, *, member_id_too: bool) -> None:
        if member_id_too:
            self.member_id = ""
        self.generation_id = -1
        self.join("the group did not know the member")
        self._application.on_lost()

    def _retry(self, now_ms: float) -> None:
        self._failures += 1
        self._retry_ms = now_ms + self._machine.delay_ms(self._failures)


def _explained(error: KafkaError, settings: MemberSettings) -> KafkaError:
    """Say what to do."""
    if error.code == ErrorCode.FENCED_INSTANCE_ID:
        error = FencedInstanceIdError(
            f"Another member of group {settings.group_id!r} has started with group.instance.id "
            f"{settings.group_instance_id!r}; this one is shut out."
        )
        error.hint = "Give each running instance a group.instance.id of its own."
    elif error.code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL:
        error.hint = (
            f"The other members of group {settings.group_id!r} share no partition.assignment.strategy with this one, "
            "or the group is of another type."
        )
    elif error.code == ErrorCode.INVALID_SESSION_TIMEOUT:
        error.hint = (
            "The broker bounds session.timeout.ms (group.min.session.timeout.ms, group.max.session.timeout.ms)."
        )
    return error
