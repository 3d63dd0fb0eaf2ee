"""InitializeShareGroupState (83, version 0), ReadShareGroupState (84, 0), WriteShareGroupState (85, 0-1),
DeleteShareGroupState (86, 0), ReadShareGroupStateSummary (87, 0-1).

What brokers ask the share coordinator (KIP-932). Write and summary v1 know how many deliveries are complete (KIP-1226). As in
Kafka a request without a group, without topics, or with a topic without partitions is answered with nothing at all, and every
partition is decided on its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.share.batches import StateBatch
from ottla.broker.coordinators.share.coordinator import Write
from ottla.broker.coordinators.share.records import ShareKey
from ottla.errors import KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import (
    delete_share_group_state as delete,
)
from ottla.protocol.messages import (
    initialize_share_group_state as initialize,
)
from ottla.protocol.messages import (
    read_share_group_state as read,
)
from ottla.protocol.messages import (
    read_share_group_state_summary as summary,
)
from ottla.protocol.messages import (
    write_share_group_state as write,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.context import Handler, RequestContext
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.share.coordinator import ShareCoordinator

R = TypeVar("R")


class ShareStateHandlers:
    """The share coordinator as other brokers see it."""

    def __init__(self, runtime: CoordinatorRuntime[ShareCoordinator]) -> None:
        self._runtime = runtime

    def routes(self) -> dict[ApiKey, Handler]:
        return {
            ApiKey.INITIALIZE_SHARE_GROUP_STATE: self.handle_initialize,
            ApiKey.READ_SHARE_GROUP_STATE: self.handle_read,
            ApiKey.WRITE_SHARE_GROUP_STATE: self.handle_write,
            ApiKey.DELETE_SHARE_GROUP_STATE: self.handle_delete,
            ApiKey.READ_SHARE_GROUP_STATE_SUMMARY: self.handle_read_summary,
        }

    async def handle_initialize(
        self, context: RequestContext, request: initialize.InitializeShareGroupStateRequest
    ) -> initialize.InitializeShareGroupStateResponse:
        async def one(topic_id: bytes, asked: initialize.PartitionData) -> initialize.PartitionResult:
            row = initialize.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)
            await _ask(
                row,
                lambda: self._runtime.write(
                    self._partition(key),
                    lambda shard, now_ms: shard.initialize(key, asked.state_epoch, asked.start_offset, now_ms),
                ),
            )
            return row

        response = initialize.InitializeShareGroupStateResponse()
        for topic in _topics(request):
            rows = await asyncio.gather(*(one(topic.topic_id, asked) for asked in topic.partitions))
            response.results.append(initialize.InitializeStateResult(topic_id=topic.topic_id, partitions=list(rows)))
        return response

    async def handle_read(
        self, context: RequestContext, request: read.ReadShareGroupStateRequest
    ) -> read.ReadShareGroupStateResponse:
        async def one(topic_id: bytes, asked: read.PartitionData) -> read.PartitionResult:
            row = read.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)
            found = await _ask(
                row,
                lambda: self._runtime.write(
                    self._partition(key), lambda shard, now_ms: shard.read(key, asked.leader_epoch, now_ms)
                ),
            )
            if found is not None:
                row.state_epoch, row.start_offset = found.state_epoch, found.start_offset
                row.state_batches = [
                    read.StateBatch(
                        first_offset=batch.first,
                        last_offset=batch.last,
                        delivery_state=batch.state,
                        delivery_count=batch.deliveries,
                    )
                    for batch in found.batches
                ]
            return row

        response = read.ReadShareGroupStateResponse()
        for topic in _topics(request):
            rows = await asyncio.gather(*(one(topic.topic_id, asked) for asked in topic.partitions))
            response.results.append(read.ReadStateResult(topic_id=topic.topic_id, partitions=list(rows)))
        return response

    async def handle_write(
        self, context: RequestContext, request: write.WriteShareGroupStateRequest
    ) -> write.WriteShareGroupStateResponse:
        async def one(topic_id: bytes, asked: write.PartitionData) -> write.PartitionResult:
            row = write.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)
            wanted = Write(
                asked.state_epoch,
                asked.leader_epoch,
                asked.start_offset,
                asked.delivery_complete_count,
                [
                    StateBatch(batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
                    for batch in asked.state_batches
                ],
            )
            await _ask(
                row,
                lambda: self._runtime.write(
                    self._partition(key), lambda shard, now_ms: shard.write(key, wanted, now_ms)
                ),
            )
            return row

        response = write.WriteShareGroupStateResponse()
        for topic in _topics(request):
            rows = await asyncio.gather(*(one(topic.topic_id, asked) for asked in topic.partitions))
            response.results.append(write.WriteStateResult(topic_id=topic.topic_id, partitions=list(rows)))
        return response

    async def handle_delete(
        self, context: RequestContext, request: delete.DeleteShareGroupStateRequest
    ) -> delete.DeleteShareGroupStateResponse:
        async def one(topic_id: bytes, asked: delete.PartitionData) -> delete.PartitionResult:
            row = delete.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)
            await _ask(row, lambda: self._runtime.write(self._partition(key), lambda shard, _now_ms: shard.delete(key)))
            return row

        response = delete.DeleteShareGroupStateResponse()
        for topic in _topics(request):
            rows = await asyncio.gather(*(one(topic.topic_id, asked) for asked in topic.partitions))
            response.results.append(delete.DeleteStateResult(topic_id=topic.topic_id, partitions=list(rows)))
        return response

    async def handle_read_summary(
        self, context: RequestContext, request: summary.ReadShareGroupStateSummaryRequest
    ) -> summary.ReadShareGroupStateSummaryResponse:
        async def one(topic_id: bytes, asked: summary.PartitionData) -> summary.PartitionResult:
            row = summary.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)

            async def ask() -> Any:
                return self._runtime.read(self._partition(key), lambda shard: shard.summarize(key))

            found = await _ask(row, ask)
            if found is not None:
                row.state_epoch, row.leader_epoch = found.state_epoch, found.leader_epoch
                row.start_offset, row.delivery_complete_count = found.start_offset, found.delivery_complete_count
            return row

        response = summary.ReadShareGroupStateSummaryResponse()
        for topic in _topics(request):
            rows = await asyncio.gather(*(one(topic.topic_id, asked) for asked in topic.partitions))
            response.results.append(summary.ReadStateSummaryResult(topic_id=topic.topic_id, partitions=list(rows)))
        return response

    def _partition(self, key: ShareKey) -> int:
        return self._runtime.partition_for(key.coordinator_key)


def _topics(request: Any) -> list[Any]:
    """Return the topics of a request; none if a part of it is missing."""
    if not request.group_id or not all(topic.partitions for topic in request.topics):
        return []
    return list(request.topics)


async def _ask(row: Any, ask: Callable[[], Awaitable[R]]) -> R | None:
    """Return what the coordinator says, or note in `row` why it says nothing."""
    try:
        return await ask()
    except KafkaError as error:
        row.error_code, row.error_message = client_error_code(error), error.message
        return None
