"""Members that speak the classic protocol in a group of the consumer protocol (KIP-848).

To such a member its member epoch is the generation. JoinGroup reconciles it one step, without waiting for anybody, SyncGroup
gives it what it has, and Heartbeat sends it to join again (REBALANCE_IN_PROGRESS) when there is a newer target, when it has
to give up partitions, or when those it waits for are free. It says what it owns in the subscription that it joins with.

Timers, beside the session's: ("consumer-join", ...) - was sent to join again, and has not; ("consumer-sync", ...) -
has joined, and has not asked for its assignment. Both fence it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.classic.group import CONSUMER_PROTOCOL_TYPE
from ottla.broker.coordinators.groups.classic.member import RespondJoin, RespondSync
from ottla.broker.coordinators.groups.config import MigrationPolicy
from ottla.broker.coordinators.groups.consumer.embedded import (
    Subscription,
    read_subscription,
    version_of,
    write_assignment,
)
from ottla.broker.coordinators.groups.consumer.heartbeat import known_static_member
from ottla.broker.coordinators.groups.consumer.member import (
    ClassicMembership,
    ConsumerMember,
    MemberState,
    without_epochs,
)
from ottla.broker.coordinators.shard import CoordinatorRecord, Result
from ottla.errors import (
    ErrorCode,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    KafkaError,
    RebalanceInProgressError,
    RemoteProtocolError,
    UnknownMemberIdError,
)
from ottla.protocol.messages.join_group import JoinGroupResponse
from ottla.protocol.messages.leave_group import MemberResponse
from ottla.protocol.messages.sync_group import SyncGroupResponse
from ottla.types import uuid_to_text

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.classic.requests import Join, Sync
    from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
    from ottla.broker.coordinators.groups.consumer.heartbeat import ConsumerGroups
    from ottla.protocol.messages.leave_group import MemberIdentity

logger = logging.getLogger(__name__)


class ClassicMembers:
    """Decides for members of the classic protocol in the consumer groups of one partition."""

    def __init__(self, consumers: ConsumerGroups) -> None:
        self._consumers = consumers
        self._timers = consumers.parts.timers
        self._config = consumers.parts.config

    def join(self, group: ConsumerGroup, request: Join, respond: RespondJoin, now_ms: int) -> Result[None]:
        """Handle a JoinGroup; `respond` is called when the records are committed.

        Raises:
            KafkaError: INCONSISTENT_GROUP_PROTOCOL, GROUP_MAX_SIZE_REACHED, UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID.
        """
        consumers = self._consumers
        member_id = request.member_id or uuid_to_text(consumers.parts.random.getrandbits(128).to_bytes(16, "big"))
        self._check_join(group, request, member_id)
        is_unknown = not request.member_id
        instance_id = request.group_instance_id
        if is_unknown and instance_id is None and request.requires_member_id:
            respond(JoinGroupResponse(member_id=member_id, error_code=ErrorCode.MEMBER_ID_REQUIRED))
            return Result(None)
        subscription = self._subscription(request)
        written: list[CoordinatorRecord] = []
        replaced = None
        if instance_id is None:
            before = group.members.get(member_id) or ConsumerMember(member_id)
        else:
            replaced = group.static_member(instance_id)
            before = consumers.static_member(group, member_id, instance_id, written, joins=is_unknown, classic=True)
        downgrade = replaced is not None and consumers.conversion.should_downgrade_replacing(group, replaced)
        after = before._replace(
            instance_id=before.instance_id if instance_id is None else instance_id,
            rack_id=before.rack_id if subscription.rack_id is None else subscription.rack_id,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            topic_names=subscription.topic_names,
            topic_regex="",
            client_id=request.client_id,
            client_host=request.client_host,
            classic=ClassicMembership(request.session_timeout_ms, request.protocols),
        )
        change = consumers.write_subscription(group, before, after, written, now_ms)
        if is_unknown and replaced is not None:
            consumers.cancel_timers(group.group_id, replaced.member_id)
        epoch = consumers.write_epoch(group, before, after, written, bump=change.is_any)
        if downgrade and replaced is not None:
            rebalance = group.assignment_epoch < epoch
            if not rebalance:
                target = group.target_of(after.member_id, after.instance_id)
                after = consumers.reconcile(
                    group,
                    after,
                    group.assignment_epoch,
                    target,
                    written,
                    changed=change.is_any,
                    owned=subscription.owned,
                )
            consumers.conversion.to_classic_replacing(group, replaced, after, written, now_ms, rebalance=rebalance)
        else:
            after = consumers.advance(
                group, epoch, before, after, written, now_ms, changed=change.is_any, owned=subscription.owned
            )
        on_appended = self._answer_when_written(group.group_id, request, after, respond, downgrade=downgrade)
        return Result(None, written, on_appended=on_appended, replay=not downgrade, atomic=downgrade)

    def _check_join(self, group: ConsumerGroup, request: Join, member_id: str) -> None:
        if self._config.consumer_migration_policy is MigrationPolicy.DISABLED:
            raise InconsistentGroupProtocolError(
                f"Cannot join the consumer group {group.group_id} with the classic protocol because the group migration is "
                "disabled."
            )
        self._consumers.check_size(group, member_id)
        if not group.supports_classic_protocols(request.protocol_type, [name for name, _ in request.protocols]):
            raise InconsistentGroupProtocolError(
                f"Member {member_id}'s protocols are not supported by the group {group.group_id}."
            )

    def _answer_when_written(
        self, group_id: str, request: Join, member: ConsumerMember, respond: RespondJoin, *, downgrade: bool
    ) -> Callable[[KafkaError | None], None]:
        """Return what answers a JoinGroup when its records are committed, and watches the member from then on."""
        member_id = member.member_id

        def on_appended(error: KafkaError | None) -> None:
            if error is not None and error.code != ErrorCode.REQUEST_TIMED_OUT:
                respond(JoinGroupResponse(error_code=client_error_code(error)))
                return
            self._timers.cancel(("consumer-join", group_id, member_id))
            if not downgrade:  # watched also if that took too long: it may be written yet
                self._consumers.schedule_session(group_id, member_id, request.session_timeout_ms)
                self._timers.schedule(
                    ("consumer-sync", group_id, member_id),
                    request.rebalance_timeout_ms,
                    self._consumers.fencing(group_id, member_id),
                )
            if error is not None:
                respond(JoinGroupResponse(error_code=client_error_code(error)))
                return
            respond(
                JoinGroupResponse(
                    member_id=member_id,
                    generation_id=member.member_epoch,
                    protocol_type=CONSUMER_PROTOCOL_TYPE,
                    protocol_name=request.protocols[0][0],
                )
            )

        return on_appended

    def _subscription(self, request: Join) -> Subscription:
        try:
            return read_subscription(request.protocols[0][1], self._consumers.image())
        except RemoteProtocolError:
            raise InconsistentGroupProtocolError(
                "Malformed embedded consumer protocol in subscription deserialization."
            ) from None

    def sync(self, group: ConsumerGroup, request: Sync, respond: RespondSync) -> Result[None]:
        """Handle a SyncGroup: answer with the member's assignment, once that is committed.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, INCONSISTENT_GROUP_PROTOCOL or
                REBALANCE_IN_PROGRESS.
        """
        member, classic = self._member(group, request.member_id, request.group_instance_id)
        _check_generation(member, request.generation_id)
        protocol_name, metadata = classic.protocols[0]
        if request.protocol_type is not None and request.protocol_type != CONSUMER_PROTOCOL_TYPE:
            raise InconsistentGroupProtocolError()
        if request.protocol_name is not None and request.protocol_name != protocol_name:
            raise InconsistentGroupProtocolError()
        if group.assignment_epoch > member.member_epoch and member.state is not MemberState.UNREVOKED_PARTITIONS:
            raise RebalanceInProgressError()

        def on_appended(error: KafkaError | None) -> None:
            if error is not None:
                respond(SyncGroupResponse(error_code=client_error_code(error)))
                return
            self._timers.cancel(("consumer-sync", group.group_id, member.member_id))
            self._consumers.schedule_session(group.group_id, member.member_id, classic.session_timeout_ms)
            respond(
                SyncGroupResponse(
                    protocol_type=request.protocol_type,
                    protocol_name=request.protocol_name,
                    assignment=write_assignment(
                        without_epochs(member.assigned), version_of(metadata), self._consumers.image()
                    ),
                )
            )

        return Result(None, on_appended=on_appended, barrier=True)

    def heartbeat(
        self, group: ConsumerGroup, member_id: str, group_instance_id: str | None, generation_id: int
    ) -> ErrorCode:
        """Handle a Heartbeat; returns what to answer.

        Raises:
            KafkaError: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID or ILLEGAL_GENERATION.
        """
        member, classic = self._member(group, member_id, group_instance_id)
        _check_generation(member, generation_id)
        self._consumers.schedule_session(group.group_id, member.member_id, classic.session_timeout_ms)
        if (
            member.member_epoch >= group.assignment_epoch
            and member.state is not MemberState.UNREVOKED_PARTITIONS
            and (member.state is not MemberState.UNRELEASED_PARTITIONS or group.waits_for_others(member))
        ):
            return ErrorCode.NONE
        self._timers.schedule_if_absent(
            ("consumer-join", group.group_id, member.member_id),
            member.rebalance_timeout_ms,
            self._consumers.fencing(group.group_id, member.member_id),
        )
        return ErrorCode.REBALANCE_IN_PROGRESS

    def leave(
        self, group: ConsumerGroup, leaving: Sequence[MemberIdentity], now_ms: int
    ) -> Result[list[MemberResponse]]:
        """Handle a LeaveGroup: by member id, or by instance id (an administrator's removal), members of both protocols."""
        responses: list[MemberResponse] = []
        gone: dict[str, ConsumerMember] = {}
        for identity in leaving:
            code = ErrorCode.NONE
            try:
                member = self._leaving(group, identity)
                gone[member.member_id] = member
                logger.info("group %s: member %s leaves", group.group_id, member.member_id)
            except KafkaError as error:
                code = error.code
            responses.append(
                MemberResponse(
                    member_id=identity.member_id, group_instance_id=identity.group_instance_id, error_code=code
                )
            )
        return self._consumers.fence(list(gone.values()), group, responses, now_ms)

    def _leaving(self, group: ConsumerGroup, identity: MemberIdentity) -> ConsumerMember:
        if identity.group_instance_id is None:
            return group.member(identity.member_id)
        if identity.member_id:
            return known_static_member(group, identity.member_id, identity.group_instance_id)
        member = group.static_member(identity.group_instance_id)
        if member is None:
            raise UnknownMemberIdError()
        return member

    def _member(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None
    ) -> tuple[ConsumerMember, ClassicMembership]:
        if instance_id is None:
            member = group.member(member_id)
        else:
            member = known_static_member(group, member_id, instance_id)
        if member.classic is None:
            raise UnknownMemberIdError(f"Member {member.member_id} does not use the classic protocol.")
        return member, member.classic


def _check_generation(member: ConsumerMember, generation_id: int) -> None:
    if member.member_epoch != generation_id:
        raise IllegalGenerationError(
            f"The request generation id {generation_id} is not equal to the member epoch {member.member_epoch} of member "
            f"{member.member_id}."
        )
