"""What requests and timers do to classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup and the end of patience.

Takes requests as values, the time and callbacks that give answers; returns the records to write. Timers are set through
`Timers`, dice come from a `random.Random`. Membership is soft state: it changes at once, and only its outcome is written -
the group with its assignment, before any member learns its assignment (so `Result.replay` is off throughout, and failed
writes are dealt with in `on_appended`). After a restart members have the generation of the last record and a new session.

Timers: ("heartbeat", group, member) for the session, or for a new member its first join; ("join", group) for the end of the
join phase; ("sync", group) for members that do not ask for their assignment in time: they are removed (KAFKA-9752).

Rules and error codes are Apache Kafka's (GroupMetadataManager): KIP-62 (rebalance timeout), KIP-134 (initial delay),
KIP-345 (static members), KIP-394 (member ids), KIP-559 (protocol type and name in Sync), KIP-800 (reasons), KIP-814 (skip
assignment).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.classic.group import (
    ClassicGroup,
    GroupState,
    Member,
    Protocols,
    RespondJoin,
    RespondSync,
)
from ottla.broker.coordinators.groups.group import Group, GroupType, Replay
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.errors import (
    CoordinatorNotAvailableError,
    ErrorCode,
    IllegalGenerationError,
    KafkaError,
    UnknownMemberIdError,
)
from ottla.protocol.messages.group_records import GroupMetadataKey, GroupMetadataValue
from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.leave_group import MemberResponse
from ottla.protocol.messages.sync_group import SyncGroupResponse

if TYPE_CHECKING:
    import random

    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.timeline import TimelineDict
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.protocol.messages.leave_group import MemberIdentity
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)

#: The member id of a member that has none yet.
UNKNOWN_MEMBER_ID = ""
#: Characters of a client id or instance id that go into a member id. A longer one, legal in a request, would make member
#: ids no response can carry (32,767 bytes): a group that nobody can join or describe any more.
MEMBER_NAME_MAX = 8_000


class Join(NamedTuple):
    """A JoinGroup request, as far as it is decided on."""

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
    #: v9+: a leader can be told that the assignment stands (KIP-814).
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


def _nothing() -> Result[None]:
    return Result(None)


class Membership:
    """Decides for the classic groups of one partition."""

    def __init__(
        self,
        groups: TimelineDict[str, Group],
        *,
        timers: Timers,
        config: GroupConfig,
        dice: random.Random,
    ) -> None:
        self._groups = groups
        self._timers = timers
        self._config = config
        self._dice = dice
        #: Rebalances that reached Stable since the start.
        self.completed_rebalances = 0

    def _group(self, group_id: str) -> ClassicGroup | None:
        """Return the group, if it is a classic one."""
        group = self._groups.get(group_id)
        return group if isinstance(group, ClassicGroup) else None

    def _classic_groups(self) -> list[ClassicGroup]:
        return [group for group in self._groups.values() if isinstance(group, ClassicGroup)]

    # ----------------------------------------------------------------- replay

    def replays(self) -> Mapping[type[Message], Replay]:
        """Return how a group's record is applied."""
        return {GroupMetadataKey: self._replay}

    def _replay(self, key: GroupMetadataKey, value: GroupMetadataValue | None) -> None:
        if value is not None:
            self._groups[key.group] = ClassicGroup.from_record(key.group, value)
        elif self._group(key.group) is not None:
            # The tombstone of a group that has become one of another type may come after that one's records.
            self._groups.pop(key.group)

    # ------------------------------------------------------------------- join

    def join(self, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        """Handle a JoinGroup; `respond` is called once, now or at the end of the join phase."""
        is_unknown = request.member_id == UNKNOWN_MEMBER_ID
        tombstones = self._replaced(request.group_id)
        group = None if tombstones else self._group(request.group_id)
        is_new_group = group is None
        if group is None:
            if not is_unknown:
                respond(JoinGroupResponse(member_id=request.member_id, error_code=ErrorCode.UNKNOWN_MEMBER_ID))
                return _nothing()
            group = ClassicGroup(request.group_id, state_timestamp_ms=now_ms)
            self._groups[request.group_id] = group
        if not self._accepts(group, request.member_id):
            self._remove(group, request.member_id)
            respond(JoinGroupResponse(error_code=ErrorCode.GROUP_MAX_SIZE_REACHED))
            result = _nothing()
        elif is_unknown:
            result = self._join_new(group, request, respond, now_ms)
        else:
            result = self._join_existing(group, request, respond, now_ms)
        if is_new_group and not result.records:
            # The group exists for others once a record of it is committed. If that fails: `on_rolled_back`.
            record = records.group_metadata(group.group_id, group.to_empty_record())
            return Result(None, [*tombstones, record], replay=False)
        if tombstones:
            return Result(None, [*tombstones, *result.records], on_appended=result.on_appended, replay=False)
        return result

    def _replaced(self, group_id: str) -> list[CoordinatorRecord]:
        """Return the tombstones of an empty group of another type, which gives way to a classic one (KIP-848)."""
        other = self._groups.get(group_id)
        if other is None or other.group_type not in (GroupType.CONSUMER, GroupType.STREAMS) or not other.is_empty:
            return []
        return other.tombstones()

    def _accepts(self, group: ClassicGroup, member_id: str) -> bool:
        """Whether there is room. In the join phase those who wait count, so that the last to come is left out."""
        member = group.members.get(member_id)
        match group.state:
            case GroupState.PREPARING_REBALANCE:
                return (member is not None and member.is_awaiting_join) or (
                    group.awaiting_join_count < self._config.size_max
                )
            case GroupState.COMPLETING_REBALANCE | GroupState.STABLE:
                return member is not None or len(group.members) < self._config.size_max
            case _:
                return True

    def _join_new(self, group: ClassicGroup, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        if group.state is GroupState.DEAD:
            respond(JoinGroupResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE))
            return _nothing()
        if not group.supports_protocols(request.protocol_type, request.protocols):
            respond(JoinGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
            return _nothing()
        instance_id = request.group_instance_id
        name = request.client_id if instance_id is None else instance_id
        member_id = f"{name[:MEMBER_NAME_MAX]}-{self._new_uuid()}"
        if instance_id is not None:
            current = group.static_members.get(instance_id)
            if current is not None:
                return self._replace_static(group, request, current, member_id, respond, now_ms)
            return self._add(group, request, member_id, respond, now_ms)
        if not request.requires_member_id:
            return self._add(group, request, member_id, respond, now_ms)
        group.pending_joins[member_id] = None
        self._schedule_heartbeat(group, member_id, request.session_timeout_ms)
        respond(JoinGroupResponse(member_id=member_id, error_code=ErrorCode.MEMBER_ID_REQUIRED))
        return _nothing()

    def _join_existing(self, group: ClassicGroup, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        member_id = request.member_id

        def refuse(code: ErrorCode) -> Result[None]:
            respond(JoinGroupResponse(member_id=member_id, error_code=code))
            return _nothing()

        if group.state is GroupState.DEAD:
            return refuse(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        if not group.supports_protocols(request.protocol_type, request.protocols):
            return refuse(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if member_id in group.pending_joins:
            if request.group_instance_id is not None:
                # Ids are handed out only to dynamic members. Apache Kafka fails here, with the same code.
                return refuse(ErrorCode.UNKNOWN_SERVER_ERROR)
            return self._add(group, request, member_id, respond, now_ms)
        try:
            group.validate_member(member_id, request.group_instance_id)
        except KafkaError as error:
            respond(JoinGroupResponse(member_id=member_id, protocol_name=None, error_code=error.code))
            return _nothing()
        member = group.members[member_id]
        same_metadata = request.protocols == member.protocols
        match group.state:
            case GroupState.PREPARING_REBALANCE:
                return self._update(group, member, request, respond, now_ms)
            case GroupState.COMPLETING_REBALANCE if same_metadata:
                # The answer to the first JoinGroup was lost.
                respond(self._generation_response(group, member))
                return _nothing()
            case GroupState.STABLE if same_metadata and not group.is_leader(member_id):
                # A leader may want a rebalance for reasons that its own metadata does not show, new partitions say.
                respond(self._generation_response(group, member))
                return _nothing()
            case GroupState.COMPLETING_REBALANCE | GroupState.STABLE:
                return self._update(group, member, request, respond, now_ms)
            case _:
                return refuse(ErrorCode.UNKNOWN_MEMBER_ID)

    def _generation_response(
        self, group: ClassicGroup, member: Member, *, skip_assignment: bool = False
    ) -> JoinGroupResponse:
        """Return the answer that carries the current generation; only the leader learns who the members are."""
        return JoinGroupResponse(
            members=group.response_members() if group.is_leader(member.member_id) else [],
            member_id=member.member_id,
            generation_id=group.generation_id,
            protocol_name=group.protocol_name,
            protocol_type=group.protocol_type,
            leader=group.leader_id or "",
            skip_assignment=skip_assignment,
        )

    def _add(
        self, group: ClassicGroup, request: Join, member_id: str, respond: RespondJoin, now_ms: int
    ) -> Result[None]:
        member = Member(
            member_id=member_id,
            group_instance_id=request.group_instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            session_timeout_ms=request.session_timeout_ms,
            protocol_type=request.protocol_type,
            protocols=request.protocols,
        )
        member.is_new = True
        if group.state is GroupState.PREPARING_REBALANCE and group.previous_state is GroupState.EMPTY:
            group.new_member_added = True
        group.add(member, respond)
        # It has no generation yet and sends no heartbeats. If its client goes away and comes back it joins as another,
        # so what is left of it has to go some time.
        self._schedule_heartbeat(group, member_id, self._config.new_member_join_timeout_ms)
        return self._rebalance_or_complete(group, f"member {member_id} joins{_because(request.reason)}", now_ms)

    def _update(
        self, group: ClassicGroup, member: Member, request: Join, respond: RespondJoin, now_ms: int
    ) -> Result[None]:
        group.update(
            member,
            protocols=request.protocols,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            session_timeout_ms=request.session_timeout_ms,
            respond_join=respond,
        )
        return self._rebalance_or_complete(
            group, f"member {member.member_id} joins again{_because(request.reason)}", now_ms
        )

    def _replace_static(
        self,
        group: ClassicGroup,
        request: Join,
        old_member_id: str,
        new_member_id: str,
        respond: RespondJoin,
        now_ms: int,
    ) -> Result[None]:
        """A static member comes back without its member id: it gets a new one, and keeps its place if it can."""
        assert request.group_instance_id is not None
        leader_before = group.leader_id
        member = group.replace_static(request.group_instance_id, old_member_id, new_member_id)
        self._cancel_heartbeat(group, old_member_id)
        self._schedule_heartbeat(group, new_member_id, member.session_timeout_ms)
        before = (member.protocols, member.rebalance_timeout_ms, member.session_timeout_ms)
        group.update(
            member,
            protocols=request.protocols,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            session_timeout_ms=request.session_timeout_ms,
            respond_join=respond,
        )
        reason = f"static member {request.group_instance_id} comes back as {new_member_id}{_because(request.reason)}"
        if group.state is GroupState.COMPLETING_REBALANCE:
            # The leader may be assigning to the old member id already.
            return self._prepare_rebalance(group, reason, now_ms)
        if group.state is not GroupState.STABLE:
            return self._maybe_complete(group, now_ms)
        if group.select_protocol() != group.protocol_name:
            return self._rebalance_or_complete(group, reason, now_ms)

        def on_appended(error: KafkaError | None) -> None:
            if group.members.get(new_member_id) is not member:
                return  # gone, or replaced again, and answered then
            if error is not None:
                logger.warning("group %s: static member %s not written: %s", group.group_id, new_member_id, error)
                group.respond_join(
                    member,
                    JoinGroupResponse(
                        generation_id=group.generation_id,
                        protocol_name=group.protocol_name,
                        protocol_type=group.protocol_type,
                        leader=leader_before or "",
                        error_code=client_error_code(error),
                    ),
                )
                protocols, rebalance_timeout_ms, session_timeout_ms = before
                group.update(
                    member,
                    protocols=protocols,
                    rebalance_timeout_ms=rebalance_timeout_ms,
                    session_timeout_ms=session_timeout_ms,
                    respond_join=None,
                )
                restored = group.replace_static(request.group_instance_id or "", new_member_id, old_member_id)
                self._cancel_heartbeat(group, new_member_id)
                self._schedule_heartbeat(group, old_member_id, restored.session_timeout_ms)
            elif group.state is not GroupState.STABLE:
                return  # a rebalance has begun, and this request waits for its end like the others
            elif request.can_skip_assignment:
                group.respond_join(
                    member,
                    self._generation_response(group, member, skip_assignment=group.is_leader(new_member_id)),
                )
            else:
                # A leader before v9 must not assign again: it is told of the leader that it was, and follows.
                group.respond_join(
                    member,
                    JoinGroupResponse(
                        member_id=new_member_id,
                        generation_id=group.generation_id,
                        protocol_name=group.protocol_name,
                        protocol_type=group.protocol_type,
                        leader=leader_before or "",
                    ),
                )

        assignments = {each.member_id: each.assignment for each in group.members.values()}
        return Result(
            None,
            [records.group_metadata(group.group_id, group.to_record(assignments))],
            on_appended=on_appended,
            replay=False,
        )

    # -------------------------------------------------------------- rebalance

    def _rebalance_or_complete(self, group: ClassicGroup, reason: str, now_ms: int) -> Result[None]:
        if group.can_rebalance:
            return self._prepare_rebalance(group, reason, now_ms)
        return self._maybe_complete(group, now_ms)

    def _prepare_rebalance(self, group: ClassicGroup, reason: str, now_ms: int) -> Result[None]:
        if group.state is GroupState.COMPLETING_REBALANCE:
            self._reset_assignments(group, ErrorCode.REBALANCE_IN_PROGRESS)
        group.pending_syncs.clear()
        self._timers.cancel(("sync", group.group_id))
        is_initial = group.is_empty
        logger.info("group %s: preparing to rebalance generation %d (%s)", group.group_id, group.generation_id, reason)
        group.transition_to(GroupState.PREPARING_REBALANCE, now_ms)
        if not is_initial:
            return self._complete_or_wait(group, now_ms)
        # More members are likely to come when a group starts: wait a little, again for each, up to the rebalance timeout.
        delay_ms = self._config.initial_rebalance_delay_ms
        self._schedule_initial(group, delay_ms, max(group.rebalance_timeout_ms - delay_ms, 0))
        return _nothing()

    def _schedule_initial(self, group: ClassicGroup, delay_ms: int, remaining_ms: int) -> None:
        self._timers.schedule(
            ("join", group.group_id),
            delay_ms,
            self._for_group(
                group.group_id, lambda current, now_ms: self._end_of_delay(current, delay_ms, remaining_ms, now_ms)
            ),
        )

    def _end_of_delay(self, group: ClassicGroup, delay_ms: int, remaining_ms: int, now_ms: int) -> Result[None]:
        if not group.new_member_added or remaining_ms == 0:
            return self._complete_join(group, now_ms)
        group.new_member_added = False
        next_delay_ms = min(self._config.initial_rebalance_delay_ms, remaining_ms)
        self._schedule_initial(group, next_delay_ms, max(remaining_ms - delay_ms, 0))
        return _nothing()

    def _complete_or_wait(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        if group.has_all_members_joined:
            return self._complete_join(group, now_ms)
        self._schedule_join_end(group)
        return _nothing()

    def _schedule_join_end(self, group: ClassicGroup) -> None:
        self._timers.schedule(
            ("join", group.group_id), group.rebalance_timeout_ms, self._for_group(group.group_id, self._complete_join)
        )

    def _maybe_complete(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        """End the join phase if everybody is here; an initial rebalance lasts its time all the same."""
        if (
            group.state is GroupState.PREPARING_REBALANCE
            and group.previous_state is not GroupState.EMPTY
            and group.has_all_members_joined
        ):
            return self._complete_join(group, now_ms)
        return _nothing()

    def _complete_join(self, group: ClassicGroup, now_ms: int) -> Result[None]:
        """End the join phase: dynamic members that did not come are out; the others learn the new generation."""
        self._timers.cancel(("join", group.group_id))
        for member in list(group.members.values()):
            if not member.is_awaiting_join and not member.is_static:
                logger.info("group %s: member %s did not rejoin and is removed", group.group_id, member.member_id)
                self._remove(group, member.member_id)
        if group.state is GroupState.DEAD:
            return _nothing()
        if not group.maybe_elect_joined_leader() and group.members:
            # Only static members are left and none has come. Their sessions end some time; wait once more.
            logger.warning("group %s: nobody rejoined, waiting again", group.group_id)
            self._schedule_join_end(group)
            return _nothing()
        group.start_next_generation(now_ms)
        if group.is_empty:
            logger.info("group %s: generation %d is empty", group.group_id, group.generation_id)

            def on_appended(error: KafkaError | None) -> None:
                if error is not None:
                    # At worst the generation before comes back after a restart, and times out.
                    logger.warning("group %s: empty generation not written: %s", group.group_id, error)

            return Result(
                None,
                [records.group_metadata(group.group_id, group.to_record({}))],
                on_appended=on_appended,
                replay=False,
            )
        logger.info("group %s: generation %d has %d members", group.group_id, group.generation_id, len(group.members))
        for member in list(group.members.values()):
            group.respond_join(member, self._generation_response(group, member))
            self._schedule_heartbeat(group, member.member_id, member.session_timeout_ms)
            member.is_new = False
            group.pending_syncs[member.member_id] = None
        generation_id = group.generation_id
        self._timers.schedule(
            ("sync", group.group_id),
            group.rebalance_timeout_ms,
            self._for_group(group.group_id, lambda current, now_ms: self._end_of_sync(current, generation_id, now_ms)),
        )
        return _nothing()

    def _end_of_sync(self, group: ClassicGroup, generation_id: int, now_ms: int) -> Result[None]:
        """Members that have not asked for their assignment in time are out, and the others start over."""
        if generation_id != group.generation_id or group.state not in (
            GroupState.COMPLETING_REBALANCE,
            GroupState.STABLE,
        ):
            return _nothing()
        late = list(group.pending_syncs)
        if not late:
            return _nothing()
        for member_id in late:
            self._remove(group, member_id)
        return self._prepare_rebalance(group, f"{', '.join(late)} did not sync in time", now_ms)

    # ------------------------------------------------------------------- sync

    def sync(self, request: Sync, respond: RespondSync, now_ms: int) -> Result[None]:
        """Handle a SyncGroup; `respond` is called once, now or when the leader's assignment is written."""

        def refuse(code: ErrorCode) -> Result[None]:
            respond(SyncGroupResponse(error_code=code))
            return _nothing()

        group = self._group(request.group_id)
        if group is None or group.is_empty:
            return refuse(ErrorCode.UNKNOWN_MEMBER_ID)
        if group.state is GroupState.DEAD:
            return refuse(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        try:
            group.validate_member(request.member_id, request.group_instance_id)
        except KafkaError as error:
            return refuse(error.code)
        if request.generation_id != group.generation_id:
            return refuse(ErrorCode.ILLEGAL_GENERATION)
        if _differs(request.protocol_type, group.protocol_type) or _differs(request.protocol_name, group.protocol_name):
            return refuse(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if group.state is GroupState.PREPARING_REBALANCE:
            return refuse(ErrorCode.REBALANCE_IN_PROGRESS)
        member = group.members[request.member_id]
        group.pending_syncs.pop(member.member_id, None)
        if not group.pending_syncs:
            self._timers.cancel(("sync", group.group_id))
        if group.state is GroupState.STABLE:
            respond(
                SyncGroupResponse(
                    protocol_type=group.protocol_type,
                    protocol_name=group.protocol_name,
                    assignment=member.assignment,
                )
            )
            return _nothing()
        group.park_sync(member, respond)
        if not group.is_leader(member.member_id):
            return _nothing()
        return self._store_assignment(group, request, now_ms)

    def _store_assignment(self, group: ClassicGroup, request: Sync, now_ms: int) -> Result[None]:
        assignments = {member_id: request.assignments.get(member_id, b"") for member_id in group.members}

        def on_appended(error: KafkaError | None) -> None:
            # Meanwhile a member may have come or gone: then the next rebalance has begun and this one is void.
            if group.state is not GroupState.COMPLETING_REBALANCE or group.generation_id != request.generation_id:
                return
            if error is not None:
                code = client_error_code(error)
                logger.warning("group %s: assignment not written: %s", group.group_id, error)
                self._reset_assignments(group, code)
                self._rebalance_or_complete(group, f"{code.name} while writing the assignment", now_ms)
                return
            for member in group.members.values():
                member.assignment = assignments.get(member.member_id, b"")
            self._propagate_assignments(group, ErrorCode.NONE)
            group.transition_to(GroupState.STABLE, now_ms)
            self.completed_rebalances += 1

        return Result(
            None,
            [records.group_metadata(group.group_id, group.to_record(assignments))],
            on_appended=on_appended,
            replay=False,
        )

    def _reset_assignments(self, group: ClassicGroup, code: ErrorCode) -> None:
        for member in group.members.values():
            member.assignment = b""
        self._propagate_assignments(group, code)

    def _propagate_assignments(self, group: ClassicGroup, code: ErrorCode) -> None:
        """Answer every parked SyncGroup; sessions start anew, since nobody was expected to speak while waiting."""
        failed = code != ErrorCode.NONE
        for member in list(group.members.values()):
            response = SyncGroupResponse(
                error_code=code,
                protocol_type=None if failed else group.protocol_type,
                protocol_name=None if failed else group.protocol_name,
                assignment=member.assignment,
            )
            if group.respond_sync(member, response):
                self._schedule_heartbeat(group, member.member_id, member.session_timeout_ms)

    # ------------------------------------------------------ heartbeat, leaving

    def heartbeat(self, group_id: str, member_id: str, group_instance_id: str | None, generation_id: int) -> ErrorCode:
        """Handle a Heartbeat; returns what to answer.

        While the assignment is awaited the answer is NONE, whatever comments in Kafka's source say: consumers send
        heartbeats as soon as they know the generation.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, COORDINATOR_NOT_AVAILABLE.
        """
        group = self._group(group_id)
        if group is None:
            raise UnknownMemberIdError(f"Group {group_id} not found.")
        if group.state is GroupState.DEAD:
            raise CoordinatorNotAvailableError()
        group.validate_member(member_id, group_instance_id)
        if generation_id != group.generation_id:
            raise IllegalGenerationError()
        self.keep_alive(group, member_id)
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def keep_alive(self, group: ClassicGroup, member_id: str) -> None:
        """A member gave a sign of life: its session starts anew."""
        self._schedule_heartbeat(group, member_id, group.members[member_id].session_timeout_ms)

    def leave(self, group_id: str, leaving: Sequence[MemberIdentity], now_ms: int) -> Result[list[MemberResponse]]:
        """Handle a LeaveGroup: by member id, or by instance id alone (an administrator's removal).

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID (no such group) or COORDINATOR_NOT_AVAILABLE.
        """
        group = self._group(group_id)
        if group is None:
            raise UnknownMemberIdError(f"Group {group_id} not found.")
        if group.state is GroupState.DEAD:
            raise CoordinatorNotAvailableError()
        responses: list[MemberResponse] = []
        left = []
        for identity in leaving:
            code = self._leave_one(group, identity)
            if code == ErrorCode.NONE:
                left.append(identity.member_id or str(identity.group_instance_id))
                logger.info("group %s: member %s leaves (%s)", group_id, left[-1], identity.reason or "no reason given")
            responses.append(
                MemberResponse(
                    member_id=identity.member_id, group_instance_id=identity.group_instance_id, error_code=code
                )
            )
        result = _nothing()
        if left and group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
            result = self._rebalance_or_complete(group, f"{', '.join(left)} left", now_ms)
        elif left:
            result = self._maybe_complete(group, now_ms)
        return Result(responses, result.records, on_appended=result.on_appended, replay=result.replay)

    def _leave_one(self, group: ClassicGroup, identity: MemberIdentity) -> ErrorCode:
        instance_id = identity.group_instance_id
        member_id = identity.member_id
        if member_id == UNKNOWN_MEMBER_ID:
            current = None if instance_id is None else group.static_members.get(instance_id)
            if current is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            member_id = current
        elif member_id not in group.pending_joins:
            try:
                group.validate_member(member_id, instance_id)
            except KafkaError as error:
                return error.code
        self._remove(group, member_id)
        return ErrorCode.NONE

    def _remove(self, group: ClassicGroup, member_id: str) -> None:
        self._cancel_heartbeat(group, member_id)
        group.remove(member_id)

    def _expire_heartbeat(self, group: ClassicGroup, member_id: str, now_ms: int) -> Result[None]:
        """A session has ended, or a pending member did not come."""
        if group.state is GroupState.DEAD:
            return _nothing()
        if member_id in group.pending_joins:
            group.remove(member_id)
        else:
            member = group.members.get(member_id)
            if member is None or member.has_satisfied_heartbeat:
                return _nothing()
            logger.info("group %s: member %s has failed and is removed", group.group_id, member_id)
            group.remove(member_id)
            if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
                return self._rebalance_or_complete(group, f"{member_id} failed", now_ms)
        if group.state is GroupState.PREPARING_REBALANCE and group.has_all_members_joined:
            return self._complete_join(group, now_ms)
        return _nothing()

    # ------------------------------------------------------ loading, unloading

    def on_loaded(self, now_ms: int) -> None:
        """Give every loaded member a fresh session."""
        for group in self._classic_groups():
            for member in group.members.values():
                self._schedule_heartbeat(group, member.member_id, member.session_timeout_ms)
            if len(group.members) > self._config.size_max:
                self._prepare_rebalance(group, f"{len(group.members)} members are over group.max.size", now_ms)

    def on_unloaded(self, now_ms: int) -> None:
        """Another broker coordinates now: send everybody who waits there."""
        for group in self._classic_groups():
            group.transition_to(GroupState.DEAD, now_ms)
            for member in list(group.members.values()):
                group.respond_join(
                    member, JoinGroupResponse(member_id=member.member_id, error_code=ErrorCode.NOT_COORDINATOR)
                )
                group.respond_sync(member, SyncGroupResponse(error_code=ErrorCode.NOT_COORDINATOR))

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """Groups whose first record could not be written never were."""
        for value in discarded:
            if isinstance(value, ClassicGroup):
                self._on_rolled_back(value, error)
        # A group whose change to another type was undone is back; its timers may have found it gone.
        for group in self._classic_groups():
            if group.state is GroupState.PREPARING_REBALANCE:
                self._timers.schedule_if_absent(
                    ("join", group.group_id),
                    group.rebalance_timeout_ms,
                    self._for_group(group.group_id, self._complete_join),
                )

    # ---------------------------------------------------- change of the type

    def send_away(self, group: ClassicGroup) -> None:
        """The group becomes one of another type: whoever waits in it is to join again."""
        for member in list(group.members.values()):
            group.respond_join(
                member, JoinGroupResponse(member_id=member.member_id, error_code=ErrorCode.REBALANCE_IN_PROGRESS)
            )
            group.respond_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS))

    def take_over(self, group: ClassicGroup, reason: str, now_ms: int, *, rebalance: bool) -> None:
        """A group that was of another type is a classic one now: watch its members."""
        # Timers of the classic group that it was before, if it was one.
        self._timers.cancel(("join", group.group_id))
        self._timers.cancel(("sync", group.group_id))
        for member in group.members.values():
            self.keep_alive(group, member.member_id)
        if rebalance:
            result = self._prepare_rebalance(group, reason, now_ms)
            assert not result.records, "nobody can have joined yet"

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        """Members look at the topics themselves."""
        return ()

    def on_deleted(self, group: Group) -> None:
        """A group that goes is empty and has no timers that matter."""

    def _on_rolled_back(self, discarded: ClassicGroup, error: KafkaError) -> None:
        """The record that made this group could not be written, so there is no such group: answer who waits in it."""
        if self._groups.get(discarded.group_id) is discarded:
            return
        logger.warning("group %s could not be written: %s", discarded.group_id, error)
        code = client_error_code(error)
        for member in list(discarded.members.values()):
            self._cancel_heartbeat(discarded, member.member_id)
            discarded.respond_join(member, JoinGroupResponse(member_id=member.member_id, error_code=code))
            discarded.respond_sync(member, SyncGroupResponse(error_code=code))

    # ----------------------------------------------------------------- timers

    def _for_group(
        self, group_id: str, operation: Callable[[ClassicGroup, int], Result[None]]
    ) -> Callable[[int], Result[None]]:
        """Bind a timer to a group by name: the object may have been replaced when it fires."""

        def run(now_ms: int) -> Result[None]:
            group = self._group(group_id)
            return _nothing() if group is None else operation(group, now_ms)

        return run

    def _schedule_heartbeat(self, group: ClassicGroup, member_id: str, timeout_ms: int) -> None:
        key = ("heartbeat", group.group_id, member_id)
        if not self._timers.postpone(key, timeout_ms):
            self._timers.schedule(
                key,
                timeout_ms,
                self._for_group(
                    group.group_id, lambda current, now_ms: self._expire_heartbeat(current, member_id, now_ms)
                ),
            )

    def _cancel_heartbeat(self, group: ClassicGroup, member_id: str) -> None:
        self._timers.cancel(("heartbeat", group.group_id, member_id))

    def _new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._dice.getrandbits(128), version=4)


def _differs(told: str | None, known: str | None) -> bool:
    return told is not None and known is not None and told != known


def _because(reason: str | None) -> str:
    """The reason a member gives (KIP-800), for the log; most give none."""
    return f": {reason}" if reason else ""
