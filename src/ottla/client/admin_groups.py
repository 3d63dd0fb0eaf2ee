"""Admin calls about groups of all types: classic, consumer (KIP-848), share (KIP-932), streams (KIP-1071)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from ottla.client.admin_base import AdminBase, bounded, outcome, unwrap
from ottla.client.admin_results import GroupDescription, GroupListing, MemberDescription
from ottla.client.admin_words import operations
from ottla.client.keys import Duration
from ottla.errors import ErrorCode, KafkaError, RemoteProtocolError, UnsupportedVersionError, error_for
from ottla.protocol.embedded import decode_versioned
from ottla.protocol.messages import (
    consumer_group_describe,
    describe_groups,
    share_group_describe,
    streams_group_describe,
)
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from ottla.protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity
from ottla.protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from ottla.protocol.schema import Message
from ottla.types import TopicPartition

M = TypeVar("M", bound=Message)

#: Groups of these protocol types have ConsumerProtocol's metadata and assignments.
_CONSUMER: Final = "consumer"
#: A member of a consumer group is of the classic protocol, or of KIP-848's.
_MEMBER_CLASSIC, _MEMBER_CONSUMER = 0, 1
#: KIP-800's text in the broker's log.
_REASON: Final = "removed by an administrator"


class GroupCalls(AdminBase):
    """Groups."""

    @bounded
    async def list_groups(
        self,
        *,
        types: Iterable[str] | None = None,
        states: Iterable[str] | None = None,
        timeout: Duration | None = None,
    ) -> list[GroupListing]:
        """Return all groups of all brokers, by id.

        Args:
            types: only these: "classic", "consumer", "share", "streams" (Kafka 3.7).
            states: only these: "Stable", "Empty", ... (Kafka 2.6).

        Raises:
            UnsupportedVersionError: the broker is too old for what was asked.
        """
        wanted_types, wanted_states = list(types or ()), list(states or ())

        def build(version: int) -> ListGroupsRequest:
            if (wanted_types and version < 5) or (wanted_states and version < 4):
                raise UnsupportedVersionError("The broker is too old to look for groups by type or state.")
            request = ListGroupsRequest()
            if wanted_states:
                request.states_filter = wanted_states
            if wanted_types:
                request.types_filter = wanted_types
            return request

        brokers = [broker.node_id for broker in (await self._metadata([])).brokers]

        async def ask(left: list[int], deadline_ms: float) -> dict[int, list[Any] | KafkaError]:
            answers = await asyncio.gather(
                *(self._ask(build, ListGroupsResponse, node_id, deadline_ms=deadline_ms) for node_id in left)
            )
            return {
                node_id: outcome(answer.error_code, None, answer.groups)
                for node_id, answer in zip(left, answers, strict=True)
            }

        rows = await self._all(brokers, ask)
        found = {row.group_id: row for groups in rows.values() for row in groups}
        return [
            GroupListing(
                group_id=row.group_id,
                type=row.group_type.lower(),
                state=row.group_state,
                protocol_type=row.protocol_type,
            )
            for _, row in sorted(found.items())
        ]

    @bounded
    async def describe_group(
        self, group_id: str, *, authorized_operations: bool = False, timeout: Duration | None = None
    ) -> GroupDescription:
        """Return a group of any type: its state, members, and who reads what.

        Raises:
            GroupIdNotFoundError: there is no such group.
        """
        return (await self.describe_groups([group_id], authorized_operations=authorized_operations))[group_id]

    @bounded
    async def describe_groups(
        self, group_ids: Iterable[str], *, authorized_operations: bool = False, timeout: Duration | None = None
    ) -> dict[str, GroupDescription]:
        """Return groups by id, of whatever type each is.

        Raises:
            AdminErrors: some of several could not be described.
        """

        async def ask(node_id: int, ids: list[str], deadline_ms: float) -> dict[str, GroupDescription | KafkaError]:
            found: dict[str, GroupDescription | KafkaError] = {}
            left = ids
            for describe in (self._consumer_groups, self._share_groups, self._streams_groups, self._classic_groups):
                try:
                    part = await describe(node_id, left, deadline_ms, authorized_operations)
                except UnsupportedVersionError:
                    continue  # the broker has no groups of this type
                found.update(part)
                # "Not found" here: it may be of another type.
                left = [name for name in left if _is_missing(found.get(name))]
                if not left:
                    break
            return found

        return unwrap(await self._for_groups(group_ids, ask))

    async def _consumer_groups(
        self, node_id: int, ids: list[str], deadline_ms: float, authorized: bool
    ) -> dict[str, GroupDescription | KafkaError]:
        request = consumer_group_describe.ConsumerGroupDescribeRequest(
            group_ids=ids, include_authorized_operations=authorized
        )
        answer = await self._ask(
            request, consumer_group_describe.ConsumerGroupDescribeResponse, node_id, deadline_ms=deadline_ms
        )
        return {row.group_id: _modern(row, "consumer", node_id, authorized) for row in answer.groups}

    async def _share_groups(
        self, node_id: int, ids: list[str], deadline_ms: float, authorized: bool
    ) -> dict[str, GroupDescription | KafkaError]:
        request = share_group_describe.ShareGroupDescribeRequest(
            group_ids=ids, include_authorized_operations=authorized
        )
        answer = await self._ask(
            request, share_group_describe.ShareGroupDescribeResponse, node_id, deadline_ms=deadline_ms
        )
        return {row.group_id: _modern(row, "share", node_id, authorized) for row in answer.groups}

    async def _streams_groups(
        self, node_id: int, ids: list[str], deadline_ms: float, authorized: bool
    ) -> dict[str, GroupDescription | KafkaError]:
        request = streams_group_describe.StreamsGroupDescribeRequest(
            group_ids=ids, include_authorized_operations=authorized
        )
        answer = await self._ask(
            request, streams_group_describe.StreamsGroupDescribeResponse, node_id, deadline_ms=deadline_ms
        )
        return {row.group_id: _streams(row, node_id, authorized) for row in answer.groups}

    async def _classic_groups(
        self, node_id: int, ids: list[str], deadline_ms: float, authorized: bool
    ) -> dict[str, GroupDescription | KafkaError]:
        def build(version: int) -> describe_groups.DescribeGroupsRequest:
            request = describe_groups.DescribeGroupsRequest(groups=ids)
            if version >= 3:
                request.include_authorized_operations = authorized
            return request

        answer = await self._ask(build, describe_groups.DescribeGroupsResponse, node_id, deadline_ms=deadline_ms)
        return {row.group_id: _classic(row, node_id, authorized) for row in answer.groups}

    @bounded
    async def delete_group(self, group_id: str, *, timeout: Duration | None = None) -> None:
        """Delete a group of any type, with its committed offsets.

        Raises:
            NonEmptyGroupError: it has members.
            GroupIdNotFoundError: there is none.
        """
        await self.delete_groups([group_id])

    @bounded
    async def delete_groups(self, group_ids: Iterable[str], *, timeout: Duration | None = None) -> None:
        """Delete groups.

        Raises:
            AdminErrors: some of several were not deleted.
        """

        async def ask(node_id: int, ids: list[str], deadline_ms: float) -> dict[str, KafkaError | None]:
            answer = await self._ask(
                DeleteGroupsRequest(groups_names=ids), DeleteGroupsResponse, node_id, deadline_ms=deadline_ms
            )
            return {row.group_id: _failed(row) for row in answer.results}

        unwrap(await self._for_groups(group_ids, ask))

    @bounded
    async def remove_members(
        self, group_id: str, group_instance_ids: Iterable[str] | None = None, *, timeout: Duration | None = None
    ) -> None:
        """Remove static members (KIP-345), or all members, from a classic or consumer group; they join again if they live.

        Args:
            group_instance_ids: None removes everybody.

        Raises:
            UnknownMemberIdError: there is no such member.
            AdminErrors: some of several were not removed.
        """
        if group_instance_ids is None:
            members = (await self.describe_group(group_id)).members
            identities = [
                MemberIdentity(
                    member_id="" if member.group_instance_id else member.member_id,
                    group_instance_id=member.group_instance_id,
                    reason=_REASON,
                )
                for member in members
            ]
        else:
            identities = [
                MemberIdentity(group_instance_id=name, reason=_REASON) for name in dict.fromkeys(group_instance_ids)
            ]
        if not identities:
            return

        def build(version: int) -> LeaveGroupRequest:
            if version < 3:
                raise UnsupportedVersionError("The broker is too old to remove members (Kafka 2.4).")
            return LeaveGroupRequest(group_id=group_id, members=identities)

        async def ask(node_id: int, deadline_ms: float) -> dict[str, KafkaError | None]:
            answer = await self._ask(build, LeaveGroupResponse, node_id, deadline_ms=deadline_ms)
            if answer.error_code:
                raise error_for(answer.error_code)
            return {
                row.group_instance_id or row.member_id: outcome(row.error_code, None, None) for row in answer.members
            }

        unwrap(await self._for_group(group_id, ask))


_GROUP_TEXTS: Final[Mapping[int, str]] = {
    ErrorCode.GROUP_ID_NOT_FOUND: "There is no group {!r}.",
    ErrorCode.NON_EMPTY_GROUP: "Group {!r} has members: stop them first.",
}


def _is_missing(found: GroupDescription | KafkaError | None) -> bool:
    return isinstance(found, KafkaError) and found.code in (
        ErrorCode.GROUP_ID_NOT_FOUND,
        ErrorCode.UNSUPPORTED_VERSION,
    )


def _failed(row: Any) -> KafkaError | None:
    if not row.error_code:
        return None
    text = _GROUP_TEXTS.get(row.error_code, "").format(row.group_id)
    return error_for(row.error_code, text or row.error_message or None)


def _partitions(assignment: Any) -> tuple[TopicPartition, ...]:
    return tuple(
        TopicPartition(topic.topic_name, number)
        for topic in assignment.topic_partitions
        for number in sorted(topic.partitions)
    )


def _modern(row: Any, kind: str, node_id: int, authorized: bool) -> GroupDescription | KafkaError:
    error = _failed(row)
    if error is not None:
        return error
    return GroupDescription(
        group_id=row.group_id,
        type=kind,
        state=row.group_state,
        protocol_type=kind,
        assignor=row.assignor_name,
        coordinator=node_id,
        members=tuple(
            MemberDescription(
                member_id=member.member_id,
                group_instance_id=getattr(member, "instance_id", None),
                client_id=member.client_id,
                host=member.client_host,
                assignment=_partitions(member.assignment),
                target=_partitions(member.target_assignment) if hasattr(member, "target_assignment") else None,
                epoch=member.member_epoch,
                rack=member.rack_id,
                subscribed_topics=tuple(member.subscribed_topic_names),
                subscribed_pattern=getattr(member, "subscribed_topic_regex", None) or None,
                upgraded={_MEMBER_CONSUMER: True, _MEMBER_CLASSIC: False}.get(getattr(member, "member_type", -1)),
            )
            for member in row.members
        ),
        group_epoch=row.group_epoch,
        assignment_epoch=row.assignment_epoch,
        authorized_operations=operations(row.authorized_operations) if authorized else None,
    )


def _tasks(assignment: Any) -> tuple[TopicPartition, ...]:
    return tuple(
        TopicPartition(task.subtopology_id, number) for task in assignment.active_tasks for number in task.partitions
    )


def _streams(row: Any, node_id: int, authorized: bool) -> GroupDescription | KafkaError:
    error = _failed(row)
    if error is not None:
        return error
    subtopologies = (row.topology.subtopologies or ()) if row.topology is not None else ()
    return GroupDescription(
        group_id=row.group_id,
        type="streams",
        state=row.group_state,
        protocol_type="streams",
        assignor=getattr(row, "assignor_name", None) or "",
        coordinator=node_id,
        members=tuple(
            MemberDescription(
                member_id=member.member_id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                host=member.client_host,
                assignment=_tasks(member.assignment),
                target=_tasks(member.target_assignment),
                epoch=member.member_epoch,
                rack=member.rack_id,
                upgraded=not member.is_classic,
            )
            for member in row.members
        ),
        group_epoch=row.group_epoch,
        assignment_epoch=row.assignment_epoch,
        subtopologies=tuple(part.subtopology_id for part in subtopologies),
        authorized_operations=operations(row.authorized_operations) if authorized else None,
    )


def _classic(row: Any, node_id: int, authorized: bool) -> GroupDescription | KafkaError:
    error = _failed(row)
    if error is not None:
        return error
    if row.group_state == "Dead":
        # Before DescribeGroups version 6 a group that is not there is answered as a dead one.
        return error_for(ErrorCode.GROUP_ID_NOT_FOUND, f"There is no group {row.group_id!r}.")
    speaks_consumer = row.protocol_type in (_CONSUMER, "")
    return GroupDescription(
        group_id=row.group_id,
        type="classic",
        state=row.group_state,
        protocol_type=row.protocol_type,
        assignor=row.protocol_data,
        coordinator=node_id,
        members=tuple(
            MemberDescription(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                host=member.client_host,
                assignment=_classic_assignment(member.member_assignment) if speaks_consumer else (),
                subscribed_topics=_classic_topics(member.member_metadata) if speaks_consumer else (),
                upgraded=False,
            )
            for member in row.members
        ),
        authorized_operations=operations(row.authorized_operations) if authorized else None,
    )


def _classic_assignment(data: bytes) -> tuple[TopicPartition, ...]:
    """The partitions in a member's assignment; none if it is written in another way."""
    message = _embedded(ConsumerProtocolAssignment, data)
    if message is None:
        return ()
    return tuple(
        TopicPartition(topic.topic, number)
        for topic in message.assigned_partitions
        for number in sorted(topic.partitions)
    )


def _classic_topics(data: bytes) -> tuple[str, ...]:
    message = _embedded(ConsumerProtocolSubscription, data)
    return () if message is None else tuple(message.topics)


def _embedded(kind: type[M], data: bytes) -> M | None:
    try:
        return decode_versioned(kind, data)
    except RemoteProtocolError:  # another program's bytes
        return None
