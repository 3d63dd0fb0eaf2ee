"""Membership: everything about the classic groups of one partition, put together.

SyncGroup, Heartbeat, LeaveGroup, records, loading, undoing and the change of a group's type are here; JoinGroup is in
`joining`, what follows from all of them in `rebalance`. Takes requests as values, the time and callbacks that give answers;
returns the records to write. Timers are set through `Timers`, randomness comes from a `random.Random`.

Membership is soft state: it changes at once, and only its outcome is written, the group with its assignment, before any
member learns its assignment. After a restart members have the generation of the last record and a new session.

Rules and error codes are Apache Kafka's (GroupMetadataManager): KIP-345 (static members), KIP-559 (protocol type and name in
Sync), KIP-800 (reasons).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.joining import Joining
from ottla.broker.coordinators.groups.classic.rebalance import Rebalance, nothing
from ottla.broker.coordinators.groups.classic.requests import UNKNOWN_MEMBER_ID
from ottla.broker.coordinators.groups.classic.states import GroupEvent, GroupState
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

    from ottla.broker.coordinators.groups.classic.member import RespondJoin, RespondSync
    from ottla.broker.coordinators.groups.classic.requests import Join, Sync
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.group import Group, Replay
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.timeline import TimelineDict
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.protocol.messages.leave_group import MemberIdentity
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)


class Membership:
    """Decides for the classic groups of one partition."""

    def __init__(
        self,
        groups: TimelineDict[str, Group],
        *,
        timers: Timers,
        config: GroupConfig,
        random: random.Random,
    ) -> None:
        self._groups = groups
        self._config = config
        self._rebalance = Rebalance(groups, timers=timers, config=config)
        self._joining = Joining(groups, self._rebalance, config=config, random=random)

    def _classic_groups(self) -> list[ClassicGroup]:
        return [group for group in self._groups.values() if isinstance(group, ClassicGroup)]

    def replays(self) -> Mapping[type[Message], Replay]:
        """Return how a group's record is applied."""
        return {GroupMetadataKey: self._replay}

    def _replay(self, key: GroupMetadataKey, value: GroupMetadataValue | None) -> None:
        if value is not None:
            self._groups[key.group] = ClassicGroup.from_record(key.group, value)
        elif self._rebalance.find(key.group) is not None:
            # The tombstone of a group that has become one of another type may come after that one's records.
            self._groups.pop(key.group)

    def join(self, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        """Handle a JoinGroup; see `Joining.join`."""
        return self._joining.join(request, respond, now_ms)

    def sync(self, request: Sync, respond: RespondSync, now_ms: int) -> Result[None]:
        """Handle a SyncGroup; `respond` is called once, now or when the leader's assignment is written."""

        def refuse(code: ErrorCode) -> Result[None]:
            respond(SyncGroupResponse(error_code=code))
            return nothing()

        group = self._rebalance.find(request.group_id)
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
        self._rebalance.on_sync(group, member)
        if group.state is GroupState.STABLE:
            respond(
                SyncGroupResponse(
                    protocol_type=group.protocol_type,
                    protocol_name=group.protocol_name,
                    assignment=member.assignment,
                )
            )
            return nothing()
        group.park_sync(member, respond)
        if not group.is_leader(member.member_id):
            return nothing()
        return self._rebalance.store_assignment(group, request, now_ms)

    def keep_alive(self, group: ClassicGroup, member_id: str) -> None:
        """A member gave a sign of life: its session starts anew."""
        self._rebalance.keep_alive(group, member_id)

    def heartbeat(self, group_id: str, member_id: str, group_instance_id: str | None, generation_id: int) -> ErrorCode:
        """Handle a Heartbeat; returns what to answer.

        While the assignment is awaited the answer is NONE, whatever comments in Kafka's source say: consumers send
        heartbeats as soon as they know the generation.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, COORDINATOR_NOT_AVAILABLE.
        """
        group = self._rebalance.find(group_id)
        if group is None:
            raise UnknownMemberIdError(f"Group {group_id} not found.")
        if group.state is GroupState.DEAD:
            raise CoordinatorNotAvailableError()
        group.validate_member(member_id, group_instance_id)
        if generation_id != group.generation_id:
            raise IllegalGenerationError()
        self._rebalance.keep_alive(group, member_id)
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def rebalance(self, group_id: str, reason: str, now_ms: int) -> Result[None]:
        """Have the members of a group join again, if it has any and is not at it already."""
        group = self._rebalance.find(group_id)
        if group is None or group.is_empty or not group.can_rebalance:
            return nothing()
        return self._rebalance.prepare(group, reason, now_ms)

    def leave(self, group_id: str, leaving: Sequence[MemberIdentity], now_ms: int) -> Result[list[MemberResponse]]:
        """Handle a LeaveGroup: by member id, or by instance id alone (an administrator's removal).

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID (no such group) or COORDINATOR_NOT_AVAILABLE.
        """
        group = self._rebalance.find(group_id)
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
        result = nothing()
        if left and group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
            result = self._rebalance.rebalance_or_complete(group, f"{', '.join(left)} left", now_ms)
        elif left:
            result = self._rebalance.maybe_complete(group, now_ms)
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
        self._rebalance.remove(group, member_id)
        return ErrorCode.NONE

    def on_loaded(self, now_ms: int) -> None:
        """Give every loaded member a fresh session."""
        for group in self._classic_groups():
            for member in group.members.values():
                self._rebalance.schedule_session(group, member.member_id, member.session_timeout_ms)
            if len(group.members) > self._config.size_max:
                self._rebalance.prepare(group, f"{len(group.members)} members are over group.max.size", now_ms)

    def on_unloaded(self, now_ms: int) -> None:
        """Another broker coordinates now: parked requests are answered with NOT_COORDINATOR."""
        for group in self._classic_groups():
            group.on(GroupEvent.UNLOADED, now_ms)
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
                self._rebalance.watch_join_phase(group)

    def send_away(self, group: ClassicGroup) -> None:
        """The group becomes one of another type: members with parked requests are to join again."""
        for member in list(group.members.values()):
            group.respond_join(
                member, JoinGroupResponse(member_id=member.member_id, error_code=ErrorCode.REBALANCE_IN_PROGRESS)
            )
            group.respond_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS))

    def take_over(self, group: ClassicGroup, reason: str, now_ms: int, *, rebalance: bool) -> None:
        """A group that was of another type is a classic one now: watch its members."""
        # Timers of the classic group that it was before, if it was one.
        self._rebalance.cancel_phases(group)
        for member in group.members.values():
            self._rebalance.keep_alive(group, member.member_id)
        if rebalance:
            result = self._rebalance.prepare(group, reason, now_ms)
            assert not result.records, "no member can have joined yet"

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Sequence[CoordinatorRecord]:
        """Members look at the topics themselves."""
        return ()

    def on_deleted(self, group: Group) -> None:
        """A group that goes is empty and has no timers that matter."""

    def _on_rolled_back(self, discarded: ClassicGroup, error: KafkaError) -> None:
        """The record that made this group could not be written, so there is no such group: answer its parked requests."""
        if self._groups.get(discarded.group_id) is discarded:
            return
        logger.warning("group %s could not be written: %s", discarded.group_id, error)
        code = client_error_code(error)
        for member in list(discarded.members.values()):
            self._rebalance.cancel_session(discarded, member.member_id)
            discarded.respond_join(member, JoinGroupResponse(member_id=member.member_id, error_code=code))
            discarded.respond_sync(member, SyncGroupResponse(error_code=code))


def _differs(given: str | None, known: str | None) -> bool:
    return given is not None and known is not None and given != known
