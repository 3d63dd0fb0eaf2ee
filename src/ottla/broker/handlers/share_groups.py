"""Share groups (KIP-932): ShareGroupHeartbeat 1, ShareGroupDescribe 1. (Version 0 was an early one of Kafka 4.0.)

ShareGroupHeartbeat: members make their own ids. Share partitions that have not begun are begun beside the answer, as in
Apache Kafka: a member is given them with its next heartbeat.

The rules are in `coordinators.groups.share`; here requests become values and errors codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.broker.coordinators.groups.share.describe import describe
from ottla.broker.coordinators.groups.share.family import Heartbeat
from ottla.broker.coordinators.groups.share.member import JOIN_EPOCH, LEAVE_EPOCH
from ottla.broker.handlers.group_answers import described_groups, proven_heartbeat, refused_heartbeat
from ottla.cluster.decisions.features import SHARE_VERSION
from ottla.errors import ErrorCode, InvalidRequestError, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.share_group_describe import (
    DescribedGroup,
    ShareGroupDescribeRequest,
    ShareGroupDescribeResponse,
)
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.share.group_states import GroupStates
    from ottla.cluster.image import ClusterImage


class ShareGroupsHandler:
    """Heartbeats and descriptions of share groups."""

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        states: GroupStates,
        *,
        image: Callable[[], ClusterImage],
    ) -> None:
        self._runtime = runtime
        self._states = states
        self._image = image

    def _is_enabled(self) -> bool:
        return self._image().features[SHARE_VERSION] > 0

    def routes(self) -> Routes:
        return {
            ApiKey.SHARE_GROUP_HEARTBEAT: Route(self.handle_share_group_heartbeat),
            ApiKey.SHARE_GROUP_DESCRIBE: Route(self.handle_share_group_describe),
        }

    async def handle_share_group_heartbeat(
        self, context: RequestContext, request: ShareGroupHeartbeatRequest
    ) -> ShareGroupHeartbeatResponse:
        if not self._is_enabled():
            return ShareGroupHeartbeatResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
        try:
            _validate(request)
            heartbeat = Heartbeat(
                group_id=request.group_id,
                member_id=request.member_id,
                member_epoch=request.member_epoch,
                rack_id=request.rack_id,
                topic_names=request.subscribed_topic_names,
                client_id=context.client_id or "",
                client_host=f"/{context.session.client_host}",  # Java's InetAddress.toString, which tools expect
            )
            result = await self._runtime.write(
                self._runtime.partition_for(request.group_id),
                lambda shard, now_ms: shard.shares.heartbeat(heartbeat, now_ms),
            )
        except KafkaError as error:
            return refused_heartbeat(error, ShareGroupHeartbeatResponse)
        if result.to_initialize is not None:
            self._states.initialize_soon(result.to_initialize)
        if result.response.assignment is not None:
            return await proven_heartbeat(self._runtime, request.group_id, result.response, ShareGroupHeartbeatResponse)
        return result.response

    async def handle_share_group_describe(
        self, context: RequestContext, request: ShareGroupDescribeRequest
    ) -> ShareGroupDescribeResponse:
        image = self._image()
        groups = await described_groups(
            self._runtime,
            request.group_ids,
            DescribedGroup,
            lambda shard, group_id: describe(shard.shares.committed_group(group_id), image),
            is_enabled=self._is_enabled(),
            include_operations=request.include_authorized_operations,
        )
        return ShareGroupDescribeResponse(groups=groups)


def _validate(request: ShareGroupHeartbeatRequest) -> None:
    for name, text in (("MemberId", request.member_id), ("GroupId", request.group_id), ("RackId", request.rack_id)):
        if text is not None and not text.strip():
            raise InvalidRequestError(f"{name} can't be empty.")
    if request.member_epoch == JOIN_EPOCH:
        if not request.subscribed_topic_names:
            raise InvalidRequestError("SubscribedTopicNames must be set in first request.")
    elif request.member_epoch < LEAVE_EPOCH:
        raise InvalidRequestError("MemberEpoch is invalid.")
