"""Producers as the broker knows them: InitProducerId (key 22, versions 0-5), DescribeProducers (61, version 0).

InitProducerId. v2: flexible. v3: resume an epoch (KIP-360). v4: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH.
v5: abortable errors (KIP-890). v6 (two-phase commit, KIP-939) is unstable in Kafka 4.4 and not announced. With a
transactional id it is a matter of the transaction coordinator; without one any broker answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route
from ottla.broker.coordinators.errors import client_error_code
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.errors import ErrorCode, KafkaError, error_for
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
    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.transactions.producer_id_block import ProducerIdBlock


_PRODUCER_FENCED: Final = 4


class ProducerHandlers:
    """Hands out producer ids, and lists the producers of partitions."""

    def __init__(
        self,
        replicas: ReplicaManager,
        producer_ids: ProducerIdBlock,
        transactions: CoordinatorRuntime[TransactionCoordinator],
    ) -> None:
        self._replicas = replicas
        self._producer_ids = producer_ids
        self._transactions = transactions

    def routes(self) -> Routes:
        return {
            ApiKey.INIT_PRODUCER_ID: Route(self.handle_init_producer_id),
            ApiKey.DESCRIBE_PRODUCERS: Route(self.handle_describe_producers),
        }

    async def handle_init_producer_id(
        self, context: RequestContext, request: InitProducerIdRequest
    ) -> InitProducerIdResponse:
        refused = InitProducerIdResponse(producer_id=-1, producer_epoch=-1)
        if (request.producer_id == -1) != (request.producer_epoch == -1):
            refused.error_code = ErrorCode.INVALID_REQUEST
            return refused
        transactional_id = request.transactional_id
        if transactional_id == "":
            refused.error_code = ErrorCode.INVALID_REQUEST
            return refused
        if transactional_id is None:
            return InitProducerIdResponse(producer_id=await self._producer_ids.next(), producer_epoch=0)
        expected = None if request.producer_id == -1 else (request.producer_id, request.producer_epoch)
        try:
            await self._producer_ids.reserve()
            found = await self._transactions.write(
                self._transactions.partition_for(transactional_id),
                lambda shard, now_ms: shard.init_producer_id(
                    transactional_id, request.transaction_timeout_ms, expected, now_ms
                ),
            )
        except KafkaError as error:
            refused.error_code = client_error_code(error)
            if refused.error_code == ErrorCode.PRODUCER_FENCED and context.version < _PRODUCER_FENCED:
                refused.error_code = ErrorCode.INVALID_PRODUCER_EPOCH
            return refused
        return InitProducerIdResponse(
            error_code=found.error_code, producer_id=found.producer_id, producer_epoch=found.producer_epoch
        )

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
