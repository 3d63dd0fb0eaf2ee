"""InitializeShareGroupState (83, version 0), ReadShareGroupState (84, 0), WriteShareGroupState (85, 0-1),
DeleteShareGroupState (86, 0), ReadShareGroupStateSummary (87, 0-1).

What brokers ask the share coordinator (KIP-932). Write and summary v1 know how many deliveries are complete (KIP-1226). As in
Kafka a request without a group, without topics, or (but for Initialize) with a topic without partitions is answered with
nothing at all, and every partition is decided on its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.share.batches import StateBatch
from ottla.broker.coordinators.share.coordinator import SharePartitionNotFoundError, Write
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
Row = TypeVar("Row")


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

        return initialize.InitializeShareGroupStateResponse(
            results=[
                initialize.InitializeStateResult(topic_id=topic_id, partitions=rows)
                for topic_id, rows in await _answers(request, one, allows_gaps=True)
            ]
        )

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

        return read.ReadShareGroupStateResponse(
            results=[
                read.ReadStateResult(topic_id=topic_id, partitions=rows)
                for topic_id, rows in await _answers(request, one)
            ]
        )

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

        return write.WriteShareGroupStateResponse(
            results=[
                write.WriteStateResult(topic_id=topic_id, partitions=rows)
                for topic_id, rows in await _answers(request, one)
            ]
        )

    async def handle_delete(
        self, context: RequestContext, request: delete.DeleteShareGroupStateRequest
    ) -> delete.DeleteShareGroupStateResponse:
        async def one(topic_id: bytes, asked: delete.PartitionData) -> delete.PartitionResult:
            row = delete.PartitionResult(partition=asked.partition)
            key = ShareKey(request.group_id, topic_id, asked.partition)
            await _ask(row, lambda: self._runtime.write(self._partition(key), lambda shard, _now_ms: shard.delete(key)))
            return row

        return delete.DeleteShareGroupStateResponse(
            results=[
                delete.DeleteStateResult(topic_id=topic_id, partitions=rows)
                for topic_id, rows in await _answers(request, one)
            ]
        )

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

        return summary.ReadShareGroupStateSummaryResponse(
            results=[
                summary.ReadStateSummaryResult(topic_id=topic_id, partitions=rows)
                for topic_id, rows in await _answers(request, one)
            ]
        )

    def _partition(self, key: ShareKey) -> int:
        return self._runtime.partition_for(key.coordinator_key)


async def _answers(
    request: Any, one: Callable[[bytes, Any], Awaitable[Row]], *, allows_gaps: bool = False
) -> list[tuple[bytes, list[Row]]]:
    """Ask about every partition, with `one`; of two answers about the same partition the last counts.

    There are no answers if a part of the request is missing; with `allows_gaps` topics may have no partitions.
    """
    if not request.group_id or not (allows_gaps or all(topic.partitions for topic in request.topics)):
        return []
    asked = [(topic.topic_id, row) for topic in request.topics for row in topic.partitions]
    rows = await asyncio.gather(*(one(topic_id, row) for topic_id, row in asked))
    found: dict[bytes, dict[int, Row]] = {}
    for (topic_id, question), row in zip(asked, rows, strict=True):
        found.setdefault(topic_id, {})[question.partition] = row
    return [(topic_id, list(by_partition.values())) for topic_id, by_partition in found.items()]


async def _ask(row: Any, ask: Callable[[], Awaitable[R]]) -> R | None:
    """Return what the coordinator says, or note in `row` why it says nothing."""
    try:
        return await ask()
    except KafkaError as error:
        is_own = isinstance(error, SharePartitionNotFoundError)
        row.error_code, row.error_message = error.code if is_own else client_error_code(error), error.message
        return None
