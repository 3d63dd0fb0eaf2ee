"""JoinGroup in classic groups: who may join, under which member id, and what a member that comes back keeps.

Rules and error codes are Apache Kafka's (GroupMetadataManager): KIP-345 (static members), KIP-394 (member ids), KIP-800
(reasons), KIP-814 (skip assignment). Member ids come from a `random.Random`.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.member import Member, RespondJoin
from ottla.broker.coordinators.groups.classic.rebalance import nothing
from ottla.broker.coordinators.groups.classic.requests import UNKNOWN_MEMBER_ID, Join
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.group import Group, GroupType
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.messages.join_group import JoinGroupResponse

if TYPE_CHECKING:
    import random

    from ottla.broker.coordinators.groups.classic.rebalance import Rebalance
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.timeline import TimelineDict

logger = logging.getLogger(__name__)

#: Characters of a client id or instance id that go into a member id. A longer one, legal in a request, would make member
#: ids no response can carry (32,767 bytes): such a group could not be joined or described any more.
MEMBER_NAME_MAX: Final = 8_000


class Joining:
    """Decides about JoinGroup requests to the classic groups of one partition."""

    def __init__(
        self,
        groups: TimelineDict[str, Group],
        rebalance: Rebalance,
        *,
        config: GroupConfig,
        random: random.Random,
    ) -> None:
        self._groups = groups
        self._rebalance = rebalance
        self._config = config
        self._random = random

    def join(self, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        """Handle a JoinGroup; `respond` is called once, now or at the end of the join phase."""
        is_unknown = request.member_id == UNKNOWN_MEMBER_ID
        tombstones = self._replaced(request.group_id)
        group = None if tombstones else self._rebalance.find(request.group_id)
        is_new_group = group is None
        if group is None:
            if not is_unknown:
                respond(JoinGroupResponse(member_id=request.member_id, error_code=ErrorCode.UNKNOWN_MEMBER_ID))
                return nothing()
            group = ClassicGroup(request.group_id, state_timestamp_ms=now_ms)
            self._groups[request.group_id] = group
        if not self._accepts(group, request.member_id):
            self._rebalance.remove(group, request.member_id)
            respond(JoinGroupResponse(error_code=ErrorCode.GROUP_MAX_SIZE_REACHED))
            result = nothing()
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
            return nothing()
        if not group.supports_protocols(request.protocol_type, request.protocols):
            respond(JoinGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
            return nothing()
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
        self._rebalance.schedule_session(group, member_id, request.session_timeout_ms)
        respond(JoinGroupResponse(member_id=member_id, error_code=ErrorCode.MEMBER_ID_REQUIRED))
        return nothing()

    def _join_existing(self, group: ClassicGroup, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        member_id = request.member_id

        def refuse(code: ErrorCode) -> Result[None]:
            respond(JoinGroupResponse(member_id=member_id, error_code=code))
            return nothing()

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
            return nothing()
        member = group.members[member_id]
        same_metadata = request.protocols == member.protocols
        match group.state:
            case GroupState.PREPARING_REBALANCE:
                return self._update(group, member, request, respond, now_ms)
            case GroupState.COMPLETING_REBALANCE if same_metadata:
                # The answer to the first JoinGroup was lost.
                respond(self._rebalance.generation_response(group, member))
                return nothing()
            case GroupState.STABLE if same_metadata and not group.is_leader(member_id):
                # A leader may want a rebalance for reasons that its own metadata does not show, new partitions say.
                respond(self._rebalance.generation_response(group, member))
                return nothing()
            case GroupState.COMPLETING_REBALANCE | GroupState.STABLE:
                return self._update(group, member, request, respond, now_ms)
            case _:
                return refuse(ErrorCode.UNKNOWN_MEMBER_ID)

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
        # so what is left of it has to go after a while.
        self._rebalance.schedule_session(group, member_id, self._config.new_member_join_timeout_ms)
        return self._rebalance.rebalance_or_complete(
            group, f"member {member_id} joins{_because(request.reason)}", now_ms
        )

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
        return self._rebalance.rebalance_or_complete(
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
        leader_before = group.leader_id or ""
        old = group.members[old_member_id]
        new = old.with_new_id(
            new_member_id,
            protocols=request.protocols,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            session_timeout_ms=request.session_timeout_ms,
        )
        self._swap(group, old, new)
        group.park_join(new, respond)
        reason = f"static member {request.group_instance_id} comes back as {new_member_id}{_because(request.reason)}"
        if group.state is GroupState.COMPLETING_REBALANCE:
            # The leader may be assigning to the old member id already.
            return self._rebalance.prepare(group, reason, now_ms)
        if group.state is not GroupState.STABLE:
            return self._rebalance.maybe_complete(group, now_ms)
        if group.select_protocol() != group.protocol_name:
            return self._rebalance.rebalance_or_complete(group, reason, now_ms)

        def on_appended(error: KafkaError | None) -> None:
            if group.members.get(new_member_id) is not new:
                return  # gone, or replaced again, and answered then
            if error is not None:
                logger.warning("group %s: static member %s not written: %s", group.group_id, new_member_id, error)
                group.respond_join(
                    new, _replacement_response(group, leader_before, error_code=client_error_code(error))
                )
                self._swap(group, new, old)
            elif (
                group.state is GroupState.STABLE
            ):  # else a rebalance has begun, and this request waits for its end, too
                group.respond_join(new, self._replaced_response(group, new, request, leader_before))

        assignments = {each.member_id: each.assignment for each in group.members.values()}
        return Result(
            None,
            [records.group_metadata(group.group_id, group.to_record(assignments))],
            on_appended=on_appended,
            replay=False,
        )

    def _swap(self, group: ClassicGroup, member: Member, successor: Member) -> None:
        """Put `successor` into the place of a static member, and watch it instead."""
        group.swap_static(member, successor)
        self._rebalance.cancel_session(group, member.member_id)
        self._rebalance.schedule_session(group, successor.member_id, successor.session_timeout_ms)

    def _replaced_response(
        self, group: ClassicGroup, member: Member, request: Join, leader_before: str
    ) -> JoinGroupResponse:
        if request.can_skip_assignment:
            return self._rebalance.generation_response(group, member, skip_assignment=group.is_leader(member.member_id))
        # A leader that does not know of skipping (before v9) would assign anew. The answer names the old member id as the
        # leader, so the client takes itself for a follower and only asks for its assignment.
        return _replacement_response(group, leader_before, member_id=member.member_id)

    def _new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128), version=4)


def _replacement_response(group: ClassicGroup, leader: str, **fields: Any) -> JoinGroupResponse:
    """Return an answer about the current generation with this leader."""
    return JoinGroupResponse(
        generation_id=group.generation_id,
        protocol_name=group.protocol_name,
        protocol_type=group.protocol_type,
        leader=leader,
        **fields,
    )


def _because(reason: str | None) -> str:
    """The reason a member gives (KIP-800), for the log; most give none."""
    return f": {reason}" if reason else ""
