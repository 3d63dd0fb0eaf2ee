"""Streams groups (KIP-1071): StreamsGroupHeartbeat 0-1, StreamsGroupDescribe 0-1, StreamsGroupTopologyDescriptionUpdate 0.

StreamsGroupHeartbeat: v1 has acceptable_recovery_lag, and names client tags that are missing. Internal topics that the
group lacks are made before the answer goes out, where Apache Kafka makes them beside it; what could not be made is said in
the status either way. StreamsGroupDescribe: v1 topology descriptions and the assignor's name.
StreamsGroupTopologyDescriptionUpdate hands a description to a plug-in in Java; without one Kafka answers
UNSUPPORTED_VERSION, and so do we always.

The rules are in `coordinators.groups.streams`; here requests become values, errors become codes, topics are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route
from ottla.broker.coordinators.groups.streams.checks import check_request
from ottla.broker.coordinators.groups.streams.heartbeat import Beat
from ottla.broker.coordinators.groups.streams.internal_topics import StatusCode
from ottla.broker.coordinators.groups.streams.topology import InternalTopic
from ottla.broker.handlers.group_answers import described_groups, proven_heartbeat, refused_heartbeat
from ottla.cluster.controller import TopicResult
from ottla.cluster.decisions.features import STREAMS_VERSION
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.cluster.decisions.topics import NewTopic
from ottla.errors import ErrorCode, KafkaError, StreamsInvalidTopologyError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.streams_group_describe import (
    DescribedGroup,
    StreamsGroupDescribeRequest,
    StreamsGroupDescribeResponse,
)
from ottla.protocol.messages.streams_group_heartbeat import (
    StreamsGroupHeartbeatRequest,
    StreamsGroupHeartbeatResponse,
    Topology,
)
from ottla.protocol.messages.streams_group_topology_description_update import (
    StreamsGroupTopologyDescriptionUpdateRequest,
    StreamsGroupTopologyDescriptionUpdateResponse,
)
from ottla.types import INTERNAL_TOPICS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.groups.config import GroupConfig
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.cluster.image import ClusterImage

#: How many topics that could not be made a status names.
_FAILURES_SHOWN: Final = 3
#: A description was asked for and there is none.
_NO_DESCRIPTION: Final = 1


class StreamsGroupsHandler:
    """Streams groups.

    Args:
        image: what the cluster looks like.
        create_topics: makes topics; the answers are in the same order.
    """

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        config: GroupConfig,
        *,
        image: Callable[[], ClusterImage],
        create_topics: Callable[[Sequence[NewTopic]], Awaitable[list[TopicResult]]],
    ) -> None:
        self._runtime = runtime
        self._is_configured = "streams" in config.rebalance_protocols
        self._image = image
        self._create_topics = create_topics

    def _is_enabled(self) -> bool:
        return self._is_configured and self._image().features[STREAMS_VERSION] > 0

    def routes(self) -> Routes:
        return {
            ApiKey.STREAMS_GROUP_HEARTBEAT: Route(self.handle_heartbeat),
            ApiKey.STREAMS_GROUP_DESCRIBE: Route(self.handle_describe),
            ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE: Route(self.handle_topology_description_update),
        }

    async def handle_heartbeat(
        self, context: RequestContext, request: StreamsGroupHeartbeatRequest
    ) -> StreamsGroupHeartbeatResponse:
        if not self._is_enabled():
            return StreamsGroupHeartbeatResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
        beat = Beat(request, context.client_id or "", f"/{context.session.client_host}", context.version)
        try:
            if request.topology is not None:
                _check_topic_names(request.topology)
            check_request(request)
            partition = self._runtime.partition_for(request.group_id)
            result = await self._runtime.write(partition, lambda shard, now_ms: shard.streams.heartbeat(beat, now_ms))
        except KafkaError as error:
            return refused_heartbeat(error, StreamsGroupHeartbeatResponse)
        if result.to_create:
            await self._make(result.to_create, result.response)
        if result.response.active_tasks is not None:
            return await proven_heartbeat(
                self._runtime, request.group_id, result.response, StreamsGroupHeartbeatResponse
            )
        return result.response

    async def _make(self, topics: Sequence[InternalTopic], response: StreamsGroupHeartbeatResponse) -> None:
        """Make internal topics; say in the answer which could not be made."""
        new_topics = [
            NewTopic(
                name=topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication_factor or -1,
                configs=dict(topic.configs),
            )
            for topic in topics
        ]
        try:
            results = await self._create_topics(new_topics)
        except KafkaError as error:
            results = [TopicResult(name=topic.name, error=error.code, message=error.message) for topic in topics]
        failed = [
            f"{result.name} ({result.message or error_for(result.error).message})"
            for result in results
            if result.error not in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS)
        ]
        if not failed:
            return
        more = f" and {len(failed) - _FAILURES_SHOWN} more" if len(failed) > _FAILURES_SHOWN else ""
        for status in response.status or ():
            if status.status_code == StatusCode.MISSING_INTERNAL_TOPICS:
                status.status_detail += f"; Creation failed: {', '.join(failed[:_FAILURES_SHOWN])}{more}."

    async def handle_describe(
        self, context: RequestContext, request: StreamsGroupDescribeRequest
    ) -> StreamsGroupDescribeResponse:
        groups = await described_groups(
            self._runtime,
            request.group_ids,
            DescribedGroup,
            lambda shard, group_id: shard.streams.describe(group_id),
            is_enabled=self._is_enabled(),
            include_operations=request.include_authorized_operations,
        )
        if request.include_topology_description:
            for group in groups:
                if group.error_code == ErrorCode.NONE:
                    group.topology_description_status = _NO_DESCRIPTION
        return StreamsGroupDescribeResponse(groups=groups)

    def handle_topology_description_update(
        self, context: RequestContext, request: StreamsGroupTopologyDescriptionUpdateRequest
    ) -> StreamsGroupTopologyDescriptionUpdateResponse:
        return StreamsGroupTopologyDescriptionUpdateResponse(
            error_code=ErrorCode.UNSUPPORTED_VERSION,
            error_message="The broker has no streams group topology description plugin configured.",
        )


def _check_topic_names(topology: Topology) -> None:
    names = dict.fromkeys(
        name
        for part in topology.subtopologies
        for name in (
            *part.source_topics,
            *part.repartition_sink_topics,
            *(topic.name for topic in part.repartition_source_topics),
            *(topic.name for topic in part.state_changelog_topics),
        )
    )
    prohibited = [name for name in names if name in INTERNAL_TOPICS]
    if prohibited:
        raise StreamsInvalidTopologyError(
            f"Use of Kafka internal topics {','.join(prohibited)} in a Kafka Streams topology is prohibited."
        )
    invalid = [name for name in names if why_invalid(name) is not None]
    if invalid:
        raise StreamsInvalidTopologyError(f"Topic names {','.join(invalid)} are not valid topic names.")
