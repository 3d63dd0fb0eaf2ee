"""Groups: FindCoordinator 0-6, JoinGroup 0-9, Heartbeat 0-4, LeaveGroup 0-5, SyncGroup 0-5, DescribeGroups 0-6,
ListGroups 0-5, DeleteGroups 0-3.

FindCoordinator: v1 key types, v4 several keys (KIP-699), v6 share groups. The internal topic is made on the first
question and the answer waits for it, where Apache Kafka answers COORDINATOR_NOT_AVAILABLE at first.
JoinGroup: v0 has no rebalance timeout (the session timeout counts); v4 members get their id first (KIP-394); v5 static
members (KIP-345); v7 protocol type and nullable protocol name; v8 reason; v9 skip_assignment (KIP-814).
Heartbeat: answered NONE while the coordinator loads. LeaveGroup: v3 several members, by instance id too.
SyncGroup: v5 must name protocol type and protocol, and they must fit (KIP-559).
DescribeGroups: v3 authorized operations; v6 GROUP_ID_NOT_FOUND instead of a dead group (KIP-1043).
ListGroups: v4 filter by state (KIP-518), v5 by type (KIP-848). DeleteGroups: v3 error messages (there is nothing to say yet);
of a share group the state of its share partitions goes first, and if that fails the group stays.

The rules are in `coordinators.groups`; here requests become values, errors become codes, and answers get their shape.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final, TypeVar

from ottla.broker.context import Route, ShortCut
from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.classic.requests import Join, Sync
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.errors import ErrorCode, GroupIdNotFoundError, KafkaError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.heartbeat_frames import encode_heartbeat, parse_heartbeat
from ottla.protocol.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from ottla.protocol.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse
from ottla.protocol.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from ottla.protocol.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberIdentity,
    MemberResponse,
)
from ottla.protocol.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from ottla.types import (
    GROUP_METADATA_TOPIC,
    SHARE_GROUP_STATE_TOPIC,
    TRANSACTION_STATE_TOPIC,
    coordinator_partition,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.shard import Result
    from ottla.broker.handlers.addresses import Addresses
    from ottla.cluster.image import ClusterImage

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Key types of FindCoordinator.
GROUP_KEY, TRANSACTION_KEY, SHARE_KEY = 0, 1, 2
#: A share coordinator is asked for by group, topic id and partition (KIP-932).
_SHARE_KEY: Final = re.compile(r".+:[A-Za-z0-9_-]{22}:-?\d+")
_KEY_TYPES: Final = (GROUP_KEY, TRANSACTION_KEY, SHARE_KEY)
_COORDINATOR_TOPICS: Final = (GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC, SHARE_GROUP_STATE_TOPIC)
_NO_NODE: Final = (-1, "", -1)

#: Operations an unguarded group allows (KIP-430): READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS.
GROUP_OPERATIONS: Final = sum(1 << operation for operation in (3, 6, 8, 10, 11))

_BATCHED_FIND_COORDINATOR: Final = 4
_SHARE_FIND_COORDINATOR: Final = 6
_MEMBER_ID_REQUIRED: Final = 4
_NULLABLE_PROTOCOL_NAME: Final = 7
_SKIP_ASSIGNMENT: Final = 9
_BATCHED_LEAVE: Final = 3
_PROTOCOL_IN_SYNC: Final = 5
_GROUP_ID_NOT_FOUND: Final = 6


class GroupsHandler:
    """Membership and administration of groups.

    Args:
        ensure_topic: makes an internal topic unless it exists; returns when it is in the image.
        deleting_shares: deletes what share groups among these groups have elsewhere, and gives which must stay, and why.
    """

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        config: GroupConfig,
        *,
        image: Callable[[], ClusterImage],
        addresses: Addresses,
        ensure_topic: Callable[[str], Awaitable[object]],
        deleting_shares: Callable[[int, list[str]], AbstractAsyncContextManager[dict[str, ErrorCode]]],
        may_read_group: Callable[[Session, str], bool] | None = None,
    ) -> None:
        self._may_read_group = may_read_group
        self._runtime = runtime
        self._config = config
        self._image = image
        self._addresses = addresses
        self._ensure_topic = ensure_topic
        self._deleting_shares = deleting_shares

    def routes(self) -> Routes:
        return {
            ApiKey.FIND_COORDINATOR: Route(self.handle_find_coordinator),
            ApiKey.JOIN_GROUP: Route(self.handle_join_group),
            ApiKey.HEARTBEAT: Route(self.handle_heartbeat, short_cut=ShortCut(self.handle_frame)),
            ApiKey.LEAVE_GROUP: Route(self.handle_leave_group),
            ApiKey.SYNC_GROUP: Route(self.handle_sync_group),
            ApiKey.DESCRIBE_GROUPS: Route(self.handle_describe_groups),
            ApiKey.LIST_GROUPS: Route(self.handle_list_groups),
            ApiKey.DELETE_GROUPS: Route(self.handle_delete_groups),
        }

    # ------------------------------------------------------- find coordinator

    async def handle_find_coordinator(
        self, context: RequestContext, request: FindCoordinatorRequest
    ) -> FindCoordinatorResponse:
        if context.version < _BATCHED_FIND_COORDINATOR:
            code, (node_id, host, port) = await self._find(context, request.key_type, request.key)
            return FindCoordinatorResponse(
                error_code=code,
                error_message="NONE" if code == ErrorCode.NONE else error_for(code).message,
                node_id=node_id,
                host=host,
                port=port,
            )
        coordinators = []
        for key in request.coordinator_keys:
            code, (node_id, host, port) = await self._find(context, request.key_type, key)
            coordinators.append(
                Coordinator(
                    key=key,
                    node_id=node_id,
                    host=host,
                    port=port,
                    error_code=code,
                    # As Kafka: what is wrong with the whole request is explained, what is wrong with a key is not.
                    error_message="" if request.key_type in _KEY_TYPES else error_for(code).message,
                )
            )
        return FindCoordinatorResponse(coordinators=coordinators)

    async def _find(self, context: RequestContext, key_type: int, key: str) -> tuple[ErrorCode, tuple[int, str, int]]:
        if key_type not in _KEY_TYPES:
            return ErrorCode.INVALID_REQUEST, _NO_NODE
        if key_type == SHARE_KEY and (context.version < _SHARE_FIND_COORDINATOR or not _SHARE_KEY.fullmatch(key)):
            return ErrorCode.INVALID_REQUEST, _NO_NODE
        name = _COORDINATOR_TOPICS[key_type]
        if name not in self._image().topics:
            try:
                await self._ensure_topic(name)
            except KafkaError as error:
                logger.warning("%s could not be made: %s", name, error)
        topic = self._image().topics.get(name)
        if topic is None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE, _NO_NODE
        leader = topic.partitions[coordinator_partition(key, len(topic.partitions))].leader
        address = self._addresses.of_broker(leader, context.session)
        if address is None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE, _NO_NODE
        return ErrorCode.NONE, (address.node_id, address.host, address.port)

    # ------------------------------------------------------------- membership

    def handle_join_group(
        self, context: RequestContext, request: JoinGroupRequest
    ) -> JoinGroupResponse | Awaitable[JoinGroupResponse]:
        no_protocol_name = None if context.version >= _NULLABLE_PROTOCOL_NAME else ""

        def finished(response: JoinGroupResponse) -> JoinGroupResponse:
            response.protocol_name = response.protocol_name or no_protocol_name
            return response

        if not request.group_id:
            return finished(JoinGroupResponse(member_id=request.member_id, error_code=ErrorCode.INVALID_GROUP_ID))
        session_timeout_ms = request.session_timeout_ms
        if not self._config.session_timeout_ms_min <= session_timeout_ms <= self._config.session_timeout_ms_max:
            return finished(
                JoinGroupResponse(member_id=request.member_id, error_code=ErrorCode.INVALID_SESSION_TIMEOUT)
            )
        protocols: dict[str, bytes] = {}
        for protocol in request.protocols:
            protocols.setdefault(protocol.name, protocol.metadata)
        join = Join(
            group_id=request.group_id,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
            client_id=context.client_id or "",
            client_host=f"/{context.session.client_host}",  # Java's InetAddress.toString, which tools expect
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=session_timeout_ms if context.version == 0 else request.rebalance_timeout_ms,
            protocol_type=request.protocol_type,
            protocols=tuple(protocols.items()),
            requires_member_id=context.version >= _MEMBER_ID_REQUIRED,
            can_skip_assignment=context.version >= _SKIP_ASSIGNMENT,
            reason=request.reason,
        )
        return self._parked(
            join.group_id,
            lambda respond: (
                lambda shard, now_ms: shard.join(join, lambda response: respond(finished(response)), now_ms)
            ),
            lambda code: finished(JoinGroupResponse(error_code=code)),
        )

    def handle_sync_group(
        self, context: RequestContext, request: SyncGroupRequest
    ) -> SyncGroupResponse | Awaitable[SyncGroupResponse]:
        if context.version >= _PROTOCOL_IN_SYNC and (request.protocol_type is None or request.protocol_name is None):
            return SyncGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if not request.group_id:
            return SyncGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID)
        sync = Sync(
            group_id=request.group_id,
            generation_id=request.generation_id,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignments={each.member_id: each.assignment for each in request.assignments},
        )
        return self._parked(
            sync.group_id,
            lambda respond: lambda shard, now_ms: shard.sync(sync, respond, now_ms),
            lambda code: SyncGroupResponse(error_code=code),
        )

    def _parked(
        self,
        group_id: str,
        operation: Callable[[Callable[[T], None]], Callable[[GroupCoordinator, int], Result[None]]],
        refusal: Callable[[ErrorCode], T],
    ) -> T | Awaitable[T]:
        """Run an operation that answers through a callback, now or long after it is decided.

        Args:
            operation: makes the operation from the callback.
            refusal: makes the answer if the operation is refused, or what it writes cannot be written.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def respond(response: T) -> None:
            if not answer.done():
                answer.set_result(response)

        def fail(error: KafkaError) -> None:
            respond(refusal(client_error_code(error)))

        try:
            self._runtime.write(self._runtime.partition_for(group_id), operation(respond), refusal=fail)
        except KafkaError as error:
            fail(error)
        if not answer.done():
            return self._proven(group_id, answer, refusal)
        given = answer.result()
        if getattr(given, "error_code", ErrorCode.NONE):
            return given
        try:
            proof = self._runtime.prove(self._runtime.partition_for(group_id))
        except KafkaError as error:
            return refusal(client_error_code(error))
        return given if proof is None else self._given(given, proof, refusal)

    async def _proven(self, group_id: str, answer: asyncio.Future[T], refusal: Callable[[ErrorCode], T]) -> T:
        """Return what a member is given, once no other coordinator can have taken that away."""
        given = await answer
        if getattr(given, "error_code", ErrorCode.NONE):
            return given
        try:
            return await self._runtime.proven(self._runtime.partition_for(group_id), lambda: given)
        except KafkaError as error:
            return refusal(client_error_code(error))

    async def _given(self, given: T, proof: Awaitable[None], refusal: Callable[[ErrorCode], T]) -> T:
        try:
            await proof
        except KafkaError as error:
            return refusal(client_error_code(error))
        return given

    def handle_frame(self, frame: memoryview, version: int, session: Session) -> bytes | None:
        """Answer a Heartbeat that is not refused; None: it is to be decoded."""
        beat = parse_heartbeat(frame, version)
        if beat is None or not beat.group_id:
            return None
        _, group_id, generation_id, member_id, instance_id = beat
        if self._may_read_group is not None and not self._may_read_group(session, group_id):
            return None
        try:
            found = self._runtime.run_if_quiet(
                self._runtime.partition_for(group_id),
                lambda shard, now_ms: shard.heartbeat(group_id, member_id, instance_id, generation_id),
            )
        except KafkaError:
            return None
        return None if found is None else encode_heartbeat(version, found.response)

    def handle_heartbeat(self, context: RequestContext, request: HeartbeatRequest) -> HeartbeatResponse:
        group_id = request.group_id
        if not group_id:
            return HeartbeatResponse(error_code=ErrorCode.INVALID_GROUP_ID)
        try:
            code = self._runtime.run(
                self._runtime.partition_for(group_id),
                lambda shard, now_ms: shard.heartbeat(
                    group_id, request.member_id, request.group_instance_id, request.generation_id
                ),
            )
        except KafkaError as error:
            code = client_error_code(error)
            if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                code = ErrorCode.NONE  # nothing is known yet, and nothing is wrong
        return HeartbeatResponse(error_code=code)

    async def handle_leave_group(self, context: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse:
        is_batched = context.version >= _BATCHED_LEAVE
        if not request.group_id:
            return LeaveGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID)
        leaving = request.members if is_batched else [MemberIdentity(member_id=request.member_id)]
        try:
            members = await self._runtime.write(
                self._runtime.partition_for(request.group_id),
                lambda shard, now_ms: shard.leave(request.group_id, leaving, now_ms),
            )
        except KafkaError as error:
            code = client_error_code(error)
            if code != ErrorCode.UNKNOWN_MEMBER_ID:
                return LeaveGroupResponse(error_code=code)
            members = [
                MemberResponse(member_id=each.member_id, group_instance_id=each.group_instance_id, error_code=code)
                for each in leaving
            ]
        if is_batched:
            return LeaveGroupResponse(members=members)
        return LeaveGroupResponse(error_code=members[0].error_code)

    # --------------------------------------------------------- administration

    async def handle_describe_groups(
        self, context: RequestContext, request: DescribeGroupsRequest
    ) -> DescribeGroupsResponse:
        described = [await self._describe(context.version, group_id) for group_id in request.groups]
        if request.include_authorized_operations:
            for group in described:
                if group.error_code == ErrorCode.NONE:
                    group.authorized_operations = GROUP_OPERATIONS
        return DescribeGroupsResponse(groups=described)

    async def _describe(self, version: int, group_id: str) -> DescribedGroup:
        try:
            partition = self._runtime.partition_for(group_id)
            return await self._runtime.proven(
                partition, lambda: self._runtime.read(partition, lambda shard: shard.describe_group(group_id))
            )
        except GroupIdNotFoundError as error:
            if version < _GROUP_ID_NOT_FOUND:
                return DescribedGroup(group_id=group_id, group_state=GroupState.DEAD.value)
            return DescribedGroup(
                group_id=group_id,
                group_state=GroupState.DEAD.value,
                error_code=ErrorCode.GROUP_ID_NOT_FOUND,
                error_message=error.message,
            )
        except KafkaError as error:
            return DescribedGroup(group_id=group_id, error_code=client_error_code(error))

    async def handle_list_groups(self, context: RequestContext, request: ListGroupsRequest) -> ListGroupsResponse:
        groups: list[ListedGroup] = []
        try:
            await self._runtime.prove_all()
            for found in self._runtime.read_all(
                lambda shard: shard.list_groups(request.states_filter, request.types_filter)
            ):
                groups += found
        except KafkaError as error:
            return ListGroupsResponse(error_code=client_error_code(error))
        return ListGroupsResponse(groups=groups)

    async def handle_delete_groups(self, context: RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
        by_partition: dict[int, list[str]] = {}
        for group_id in dict.fromkeys(request.groups_names):
            by_partition.setdefault(self._runtime.partition_for(group_id), []).append(group_id)
        codes: dict[str, ErrorCode] = {}
        await asyncio.gather(
            *(self._delete_some(partition, group_ids, codes) for partition, group_ids in by_partition.items())
        )
        return DeleteGroupsResponse(
            results=[DeletableGroupResult(group_id=group_id, error_code=code) for group_id, code in codes.items()]
        )

    async def _delete_some(self, partition: int, group_ids: list[str], codes: dict[str, ErrorCode]) -> None:
        """Delete groups of one partition of the topic."""
        async with self._deleting_shares(partition, group_ids) as refused:
            codes.update(refused)
            rest = [group_id for group_id in group_ids if group_id not in refused]
            try:
                deleted = await self._runtime.write(partition, lambda shard, _now_ms: shard.delete_groups(rest))
                codes.update(zip(rest, deleted, strict=True))
            except KafkaError as error:
                codes.update(dict.fromkeys(rest, client_error_code(error)))
