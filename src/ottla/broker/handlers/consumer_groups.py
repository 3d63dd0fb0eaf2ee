"""Groups of the consumer protocol (KIP-848): ConsumerGroupHeartbeat 0-1, ConsumerGroupDescribe 0-1.

ConsumerGroupHeartbeat: v1 subscriptions by pattern, and members make their own ids. Steady heartbeats are answered at once.
ConsumerGroupDescribe: v1 says which protocol a member speaks.
Where `group.coordinator.rebalance.protocols` does not name consumer: UNSUPPORTED_VERSION, and clients fall back or give up.

The rules are in `coordinators.groups.consumer`; here requests become values and errors codes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route, ShortCut
from ottla.broker.coordinators.groups.consumer.describe import describe
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.heartbeat import NOT_GIVEN, Heartbeat
from ottla.broker.coordinators.groups.consumer.member import LEAVE_EPOCH, LEAVE_STATIC_EPOCH
from ottla.broker.handlers.group_answers import described_groups, proven_heartbeat, refused_heartbeat
from ottla.cluster.decisions.features import GROUP_VERSION
from ottla.errors import (
    ErrorCode,
    GroupIdNotFoundError,
    InvalidRequestError,
    KafkaError,
    UnsupportedAssignorError,
    error_for,
)
from ottla.protocol.api import ApiKey
from ottla.protocol.heartbeat_frames import encode_alive, parse_consumer_heartbeat
from ottla.protocol.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.cluster.image import ClusterImage

_MEMBER_ID_FROM_CLIENT: Final = 1


class ConsumerGroupsHandler:
    """Heartbeats and descriptions of consumer groups."""

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        config: GroupConfig,
        *,
        image: Callable[[], ClusterImage],
        may_read_group: Callable[[Session, str], bool] | None = None,
    ) -> None:
        self._may_read_group = may_read_group
        self._runtime = runtime
        self._config = config
        self._image = image
        self._is_configured = "consumer" in config.rebalance_protocols

    def _is_enabled(self) -> bool:
        return self._is_configured and self._image().features[GROUP_VERSION] > 0

    def routes(self) -> Routes:
        return {
            ApiKey.CONSUMER_GROUP_HEARTBEAT: Route(
                self.handle_consumer_group_heartbeat,
                short_cut=ShortCut(self.handle_frame),
            ),
            ApiKey.CONSUMER_GROUP_DESCRIBE: Route(self.handle_consumer_group_describe),
        }

    def handle_frame(self, frame: memoryview, version: int, session: Session) -> bytes | None:
        """Answer a heartbeat that says nothing new in a group where nothing happens; None: it is to be decoded."""
        beat = parse_consumer_heartbeat(frame, version)
        if beat is None or not self._is_enabled() or beat.epoch <= 0:
            return None
        client_id, group_id, epoch, member_id, instance_id = beat
        if not (group_id.strip() and member_id.strip()) or (instance_id is not None and not instance_id.strip()):
            return None
        if self._may_read_group is not None and not self._may_read_group(session, group_id):
            return None
        heartbeat = Heartbeat(
            group_id, member_id, epoch, instance_id, client_id=client_id, client_host=f"/{session.client_host}"
        )
        answer = self._runtime.run_if_quiet(
            self._runtime.partition_for(group_id),
            lambda shard, now_ms: shard.consumers.quiet_heartbeat(heartbeat, now_ms),
        )
        if answer is None:
            return None
        return encode_alive(member_id, answer.member_epoch, answer.heartbeat_interval_ms)

    def handle_consumer_group_heartbeat(
        self, context: RequestContext, request: ConsumerGroupHeartbeatRequest
    ) -> ConsumerGroupHeartbeatResponse | Awaitable[ConsumerGroupHeartbeatResponse]:
        if not self._is_enabled():
            return _refused(error_for(ErrorCode.UNSUPPORTED_VERSION))
        try:
            self._validate(context.version, request)
            owned = request.topic_partitions
            heartbeat = Heartbeat(
                group_id=request.group_id,
                member_id=request.member_id,
                member_epoch=request.member_epoch,
                instance_id=request.instance_id,
                rack_id=request.rack_id,
                rebalance_timeout_ms=request.rebalance_timeout_ms,
                topic_names=request.subscribed_topic_names,
                topic_regex=request.subscribed_topic_regex,
                server_assignor=request.server_assignor,
                owned=None if owned is None else {each.topic_id: frozenset(each.partitions) for each in owned},
                client_id=context.client_id or "",
                client_host=f"/{context.session.client_host}",  # Java's InetAddress.toString, which tools expect
            )
            answer = self._runtime.write(
                self._runtime.partition_for(request.group_id),
                lambda shard, now_ms: shard.consumers.heartbeat(heartbeat, now_ms),
                refusal=_refused,
            )
        except KafkaError as error:
            return _refused(error)
        if answer.done() and answer.result().assignment is None:
            return answer.result()
        return self._given(request.group_id, answer)

    async def _given(
        self, group_id: str, answer: Awaitable[ConsumerGroupHeartbeatResponse]
    ) -> ConsumerGroupHeartbeatResponse:
        response = await answer
        if response.assignment is None:
            return response
        return await proven_heartbeat(self._runtime, group_id, response, ConsumerGroupHeartbeatResponse)

    def _validate(self, version: int, request: ConsumerGroupHeartbeatRequest) -> None:
        epoch = request.member_epoch
        if (version >= _MEMBER_ID_FROM_CLIENT or epoch > 0 or epoch == LEAVE_EPOCH) and not request.member_id.strip():
            raise InvalidRequestError("MemberId can't be empty.")
        if not request.group_id.strip():
            raise InvalidRequestError("GroupId can't be empty.")
        if request.instance_id is not None and not request.instance_id.strip():
            raise InvalidRequestError("InstanceId can't be empty.")
        if request.rack_id is not None and not request.rack_id.strip():
            raise InvalidRequestError("RackId can't be empty.")
        if epoch == 0:
            if request.rebalance_timeout_ms == NOT_GIVEN:
                raise InvalidRequestError("RebalanceTimeoutMs must be provided in first request.")
            if request.topic_partitions is None or request.topic_partitions:
                raise InvalidRequestError("TopicPartitions must be empty when (re-)joining.")
            if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
                raise InvalidRequestError(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
                )
        elif epoch == LEAVE_STATIC_EPOCH:
            if request.instance_id is None:
                raise InvalidRequestError("InstanceId can't be null.")
        elif epoch < LEAVE_STATIC_EPOCH:
            raise InvalidRequestError("MemberEpoch is invalid.")
        assignor = request.server_assignor
        if assignor is not None and assignor not in self._config.consumer_assignors:
            raise UnsupportedAssignorError(
                f"ServerAssignor {assignor} is not supported. Supported assignors: "
                f"{', '.join(self._config.consumer_assignors)}."
            )

    async def handle_consumer_group_describe(
        self, context: RequestContext, request: ConsumerGroupDescribeRequest
    ) -> ConsumerGroupDescribeResponse:
        image = self._image()
        groups = await described_groups(
            self._runtime,
            request.group_ids,
            DescribedGroup,
            lambda shard, group_id: describe(_committed(shard, group_id), self._config.consumer_assignors[0], image),
            is_enabled=self._is_enabled(),
            include_operations=request.include_authorized_operations,
        )
        return ConsumerGroupDescribeResponse(groups=groups)


def _committed(shard: GroupCoordinator, group_id: str) -> ConsumerGroup:
    group = shard.groups.get_committed(group_id)
    if group is None:
        raise GroupIdNotFoundError(f"Group {group_id} not found.")
    if not isinstance(group, ConsumerGroup):
        raise GroupIdNotFoundError(f"Group {group_id} is not a consumer group.")
    return group


def _refused(error: KafkaError) -> ConsumerGroupHeartbeatResponse:
    return refused_heartbeat(error, ConsumerGroupHeartbeatResponse)
