"""Producers as the broker knows them: InitProducerId (key 22, versions 0-5), DescribeProducers (61, version 0).

InitProducerId. v2: flexible. v3: resume an epoch (KIP-360). v4: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH.
v5: abortable errors (KIP-890). v6 (two-phase commit, KIP-939) is unstable in Kafka 4.4 and not announced.

Where we differ from Apache Kafka: a transactional id is answered with COORDINATOR_NOT_AVAILABLE until there is a
transaction coordinator; idempotent producers need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.cluster.decisions.topic_names import why_invalid
from ottla.errors import ErrorCode, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.context import Handler, RequestContext
    from ottla.broker.replicas.manager import ReplicaManager


class ProducerHandlers:
    """Hands out producer ids from blocks of 1,000 that the tree guards, and lists who produces."""

    def __init__(self, replicas: ReplicaManager, allocate_block: Callable[[], Awaitable[range]]) -> None:
        self._replicas = replicas
        self._allocate_block = allocate_block
        self._block = iter(range(0))

    def routes(self) -> dict[ApiKey, Handler]:
        return {
            ApiKey.INIT_PRODUCER_ID: self.handle_init_producer_id,
            ApiKey.DESCRIBE_PRODUCERS: self.handle_describe_producers,
        }

    async def handle_init_producer_id(
        self, context: RequestContext, request: InitProducerIdRequest
    ) -> InitProducerIdResponse:
        refused = InitProducerIdResponse(producer_id=-1, producer_epoch=-1)
        if request.transactional_id == "":
            refused.error_code = ErrorCode.INVALID_REQUEST
            return refused
        if request.transactional_id is not None:
            refused.error_code = ErrorCode.COORDINATOR_NOT_AVAILABLE
            return refused
        if (request.producer_id == -1) != (request.producer_epoch == -1):
            refused.error_code = ErrorCode.INVALID_REQUEST
            return refused
        return InitProducerIdResponse(producer_id=await self._next_id(), producer_epoch=0)

    async def _next_id(self) -> int:
        while True:
            for producer_id in self._block:
                return producer_id
            # Two requests may both find the block used up; each then takes one, and at worst 1,000 ids are skipped.
            self._block = iter(await self._allocate_block())

    def handle_describe_producers(
        self, context: RequestContext, request: DescribeProducersRequest
    ) -> DescribeProducersResponse:
        response = DescribeProducersResponse()
        for topic in request.topics:
            answer = TopicResponse(name=topic.name)
            response.topics.append(answer)
            invalid = why_invalid(topic.name)
            for index in topic.partition_indexes:
                part = PartitionResponse(partition_index=index)
                answer.partitions.append(part)
                if invalid is not None:
                    part.error_code = ErrorCode.INVALID_TOPIC_EXCEPTION
                    part.error_message = invalid
                    continue
                partition = self._replicas.partition(topic.name, index)
                if partition is None:
                    code = self._replicas.error(topic.name, index)
                    part.error_code, part.error_message = code, error_for(code).message
                    continue
                part.active_producers = [
                    ProducerState(
                        producer_id=state.producer_id,
                        producer_epoch=state.producer_epoch,
                        last_sequence=state.last_sequence,
                        last_timestamp=state.last_timestamp,
                        coordinator_epoch=state.coordinator_epoch,
                        current_txn_start_offset=state.current_txn_first_offset,
                    )
                    for state in partition.log.producers.active()
                ]
        return response
