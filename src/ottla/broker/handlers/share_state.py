"""InitializeShareGroupState (83, version 0), ReadShareGroupState (84, 0), WriteShareGroupState (85, 0-1),
DeleteShareGroupState (86, 0), ReadShareGroupStateSummary (87, 0-1).

What brokers ask the share coordinator (KIP-932). Write and summary v1 know how many deliveries are complete (KIP-1226). As in
Kafka a request without a group, without topics, or (but for Initialize) with a topic without partitions is answered with
nothing at all, and every partition is decided on its own. Our brokers number the connections on which they send Initialize
and Delete (tagged fields of our own), so that late ones are refused (STALE_BROKER_EPOCH).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ottla.broker.context import Route
from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.share.batches import StateBatch
from ottla.broker.coordinators.share.coordinator import SharePartitionNotFoundError, Summary, Write
from ottla.broker.coordinators.share.records import ShareKey, ShareState
from ottla.broker.sender_fence import Sender, SenderFence
from ottla.broker.share.persister import read_state
from ottla.errors import KafkaError, StaleBrokerEpochError
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

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.share.coordinator import ShareCoordinator

Found = TypeVar("Found")
Row = TypeVar("Row")
Topic = TypeVar("Topic")


class ShareStateHandlers:
    """The share coordinator as other brokers see it."""

    def __init__(self, runtime: CoordinatorRuntime[ShareCoordinator]) -> None:
        self._runtime = runtime
        self._fence = SenderFence()

    def routes(self) -> Routes:
        return {
            ApiKey.INITIALIZE_SHARE_GROUP_STATE: Route(self.handle_initialize),
            ApiKey.READ_SHARE_GROUP_STATE: Route(self.handle_read),
            ApiKey.WRITE_SHARE_GROUP_STATE: Route(self.handle_write),
            ApiKey.DELETE_SHARE_GROUP_STATE: Route(self.handle_delete),
            ApiKey.READ_SHARE_GROUP_STATE_SUMMARY: Route(self.handle_read_summary),
        }

    async def handle_initialize(
        self, context: RequestContext, request: initialize.InitializeShareGroupStateRequest
    ) -> initialize.InitializeShareGroupStateResponse:
        def ask(key: ShareKey, asked: initialize.PartitionData) -> Awaitable[None]:
            self._check_sender(request)
            return self._runtime.write(
                self._partition(key),
                lambda shard, now_ms: shard.initialize(key, asked.state_epoch, asked.start_offset, now_ms),
            )

        return initialize.InitializeShareGroupStateResponse(
            results=await _results(
                request, ask, initialize.PartitionResult, initialize.InitializeStateResult, allows_gaps=True
            )
        )

    async def handle_read(
        self, context: RequestContext, request: read.ReadShareGroupStateRequest
    ) -> read.ReadShareGroupStateResponse:
        def ask(key: ShareKey, asked: read.PartitionData) -> Awaitable[ShareState]:
            return read_state(self._runtime, key, asked.leader_epoch)

        def fill(row: read.PartitionResult, found: ShareState) -> None:
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

        return read.ReadShareGroupStateResponse(
            results=await _results(request, ask, read.PartitionResult, read.ReadStateResult, fill)
        )

    async def handle_write(
        self, context: RequestContext, request: write.WriteShareGroupStateRequest
    ) -> write.WriteShareGroupStateResponse:
        def ask(key: ShareKey, asked: write.PartitionData) -> Awaitable[None]:
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
            return self._runtime.write(self._partition(key), lambda shard, now_ms: shard.write(key, wanted, now_ms))

        return write.WriteShareGroupStateResponse(
            results=await _results(request, ask, write.PartitionResult, write.WriteStateResult)
        )

    async def handle_delete(
        self, context: RequestContext, request: delete.DeleteShareGroupStateRequest
    ) -> delete.DeleteShareGroupStateResponse:
        def ask(key: ShareKey, asked: delete.PartitionData) -> Awaitable[None]:
            self._check_sender(request)
            return self._runtime.write(self._partition(key), lambda shard, _now_ms: shard.delete(key))

        return delete.DeleteShareGroupStateResponse(
            results=await _results(request, ask, delete.PartitionResult, delete.DeleteStateResult)
        )

    async def handle_read_summary(
        self, context: RequestContext, request: summary.ReadShareGroupStateSummaryRequest
    ) -> summary.ReadShareGroupStateSummaryResponse:
        async def ask(key: ShareKey, asked: summary.PartitionData) -> Summary:
            partition = self._partition(key)
            return await self._runtime.proven(
                partition, lambda: self._runtime.read(partition, lambda shard: shard.summarize(key))
            )

        def fill(row: summary.PartitionResult, found: Summary) -> None:
            row.state_epoch, row.leader_epoch = found.state_epoch, found.leader_epoch
            row.start_offset, row.delivery_complete_count = found.start_offset, found.delivery_complete_count

        return summary.ReadShareGroupStateSummaryResponse(
            results=await _results(request, ask, summary.PartitionResult, summary.ReadStateSummaryResult, fill)
        )

    def _partition(self, key: ShareKey) -> int:
        return self._runtime.partition_for(key.coordinator_key)

    def _check_sender(
        self, request: initialize.InitializeShareGroupStateRequest | delete.DeleteShareGroupStateRequest
    ) -> None:
        if not self._fence.admits(Sender(request.broker_id, request.broker_epoch, request.connection_number)):
            raise StaleBrokerEpochError("this was sent on a connection that its sender has given up")


async def _results(
    request: Any,
    ask: Callable[[ShareKey, Any], Awaitable[Found]],
    row_class: Callable[..., Row],
    topic_class: Callable[..., Topic],
    fill: Callable[[Row, Found], None] | None = None,
    *,
    allows_gaps: bool = False,
) -> list[Topic]:
    """Ask the coordinator about every partition; of two answers about the same partition the last counts.

    There are no answers if a part of the request is missing; with `allows_gaps` topics may have no partitions.

    Args:
        ask: sends the question about one partition to the coordinator.
        row_class, topic_class: make the answer about a partition, and about a topic.
        fill: puts what the coordinator found into the answer about a partition.
    """
    if not request.group_id or not (allows_gaps or all(topic.partitions for topic in request.topics)):
        return []

    async def answer(topic_id: bytes, asked: Any) -> Row:
        row: Any = row_class(partition=asked.partition)
        try:
            found = await ask(ShareKey(request.group_id, topic_id, asked.partition), asked)
        except KafkaError as error:
            is_own = isinstance(error, SharePartitionNotFoundError)
            row.error_code, row.error_message = error.code if is_own else client_error_code(error), error.message
        else:
            if fill is not None:
                fill(row, found)
        return cast(Row, row)

    questions = [(topic.topic_id, row) for topic in request.topics for row in topic.partitions]
    rows = await asyncio.gather(*(answer(topic_id, asked) for topic_id, asked in questions))
    by_topic: dict[bytes, dict[int, Row]] = {}
    for (topic_id, asked), row in zip(questions, rows, strict=True):
        by_topic.setdefault(topic_id, {})[asked.partition] = row
    return [topic_class(topic_id=topic_id, partitions=list(found.values())) for topic_id, found in by_topic.items()]
