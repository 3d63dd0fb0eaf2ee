"""Transactions: AddPartitionsToTxn 0-5, AddOffsetsToTxn 0-4, EndTxn 0-5, WriteTxnMarkers 1-2, DescribeTransactions 0,
ListTransactions 0-2.

AddPartitionsToTxn: v2 PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (also AddOffsetsToTxn and EndTxn); v4 for brokers:
several transactions, and `verify_only` (KIP-890). If one partition does not exist none is added, and the others say
OPERATION_NOT_ATTEMPTED. EndTxn v5: the epoch rises and is returned (KIP-890 part 2). WriteTxnMarkers v2 says which
transaction version a marker belongs to (KIP-1228); our brokers number the connections on which they send markers (tagged
fields of our own), so that late ones are refused. ListTransactions v1: by duration; v2: by a pattern of the transactional id
(KIP-1152), RE2's syntax as far as Python's parser shares it.

The rules are in `coordinators.transactions`; here requests become values, errors become codes, and answers get their shape.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route
from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.transactions.state import EPOCH_BUMP_VERSION, TransactionState
from ottla.broker.sender_fence import Sender, SenderFence
from ottla.broker.transactions.markers import marker_error_code
from ottla.errors import ErrorCode, KafkaError, StaleBrokerEpochError, UnknownServerError, UnsupportedVersionError
from ottla.patterns import PatternError, compile_pattern
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import describe_transactions, list_transactions
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
    AddPartitionsToTxnTransaction,
)
from ottla.protocol.messages.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from ottla.protocol.records.control import ControlType, EndTransactionMarker
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.broker.transactions.markers import MarkerLog
    from ottla.broker.transactions.producer_id_block import ProducerIdBlock
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage

_PRODUCER_FENCED: Final = 2
_BATCHED_ADD: Final = 4
_EPOCH_BUMP: Final = 5

_STATES: Final = {state.text: state for state in TransactionState}


class TransactionsHandler:
    """Transactions as clients and administrators see them."""

    def __init__(
        self,
        runtime: CoordinatorRuntime[TransactionCoordinator],
        groups: CoordinatorRuntime[GroupCoordinator],
        marker_log: MarkerLog,
        producer_ids: ProducerIdBlock,
        *,
        ensure_topic: Callable[[str], Awaitable[object]],
        image: Callable[[], ClusterImage],
        clock: Clock,
    ) -> None:
        self._runtime = runtime
        self._groups = groups
        self._marker_log = marker_log
        self._producer_ids = producer_ids
        self._ensure_topic = ensure_topic
        self._image = image
        self._clock = clock
        self._marker_fence = SenderFence()

    def routes(self) -> Routes:
        return {
            ApiKey.ADD_PARTITIONS_TO_TXN: Route(self.handle_add_partitions_to_txn),
            ApiKey.ADD_OFFSETS_TO_TXN: Route(self.handle_add_offsets_to_txn),
            ApiKey.END_TXN: Route(self.handle_end_txn),
            ApiKey.WRITE_TXN_MARKERS: Route(self.handle_write_txn_markers),
            ApiKey.DESCRIBE_TRANSACTIONS: Route(self.handle_describe_transactions),
            ApiKey.LIST_TRANSACTIONS: Route(self.handle_list_transactions),
        }

    # ------------------------------------------------------------- partitions

    async def handle_add_partitions_to_txn(
        self, context: RequestContext, request: AddPartitionsToTxnRequest
    ) -> AddPartitionsToTxnResponse:
        if context.version >= _BATCHED_ADD:
            results = await asyncio.gather(*(self._add(context.version, each) for each in request.transactions))
            return AddPartitionsToTxnResponse(results_by_transaction=list(results))
        only = AddPartitionsToTxnTransaction(
            transactional_id=request.v3_and_below_transactional_id,
            producer_id=request.v3_and_below_producer_id,
            producer_epoch=request.v3_and_below_producer_epoch,
            topics=request.v3_and_below_topics,
        )
        result = await self._add(context.version, only)
        return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=result.topic_results)

    async def _add(self, version: int, request: AddPartitionsToTxnTransaction) -> AddPartitionsToTxnResult:
        topic_partitions = [TopicPartition(topic.name, index) for topic in request.topics for index in topic.partitions]
        known = self._image().topics
        missing = {
            topic_partition
            for topic_partition in topic_partitions
            if topic_partition.topic not in known
            or not 0 <= topic_partition.partition < len(known[topic_partition.topic].partitions)
        }
        coordinator_epoch = -1
        if missing:
            codes = [
                ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                if topic_partition in missing
                else ErrorCode.OPERATION_NOT_ATTEMPTED
                for topic_partition in topic_partitions
            ]
        else:
            codes, coordinator_epoch = await self._add_or_verify(version, request, topic_partitions)
        found = iter(codes)
        return AddPartitionsToTxnResult(
            transactional_id=request.transactional_id,
            topic_results=[
                AddPartitionsToTxnTopicResult(
                    name=topic.name,
                    results_by_partition=[
                        AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=next(found))
                        for index in topic.partitions
                    ],
                )
                for topic in request.topics
            ],
            # For brokers: it tells a later look at the partition whether the coordinator had been replaced.
            coordinator_epoch=coordinator_epoch if version >= _BATCHED_ADD else -1,
        )

    async def _add_or_verify(
        self, version: int, request: AddPartitionsToTxnTransaction, topic_partitions: list[TopicPartition]
    ) -> tuple[list[ErrorCode], int]:
        """Return a code for each partition, and the epoch of the coordinator that gave them."""
        transactional_id, producer_id, epoch = request.transactional_id, request.producer_id, request.producer_epoch
        partition = self._runtime.partition_for(transactional_id)
        # Clients of transaction version 2 add partitions by sending data; older clients, and brokers, send this request.
        client_version = EPOCH_BUMP_VERSION if version >= _BATCHED_ADD else 0
        try:
            coordinator_epoch = self._runtime.leader_epoch(partition)
            if request.verify_only:
                codes = await self._runtime.write(
                    partition,
                    lambda shard, _now_ms: shard.verify_partitions(
                        transactional_id, producer_id, epoch, topic_partitions
                    ),
                )
                return codes, coordinator_epoch
            await self._runtime.write(
                partition,
                lambda shard, now_ms: shard.add_partitions(
                    transactional_id, producer_id, epoch, topic_partitions, client_version, now_ms
                ),
            )
        except UnsupportedVersionError:
            raise  # of the request, not of a partition: no partition could be added at this level of transaction.version
        except KafkaError as error:
            return [_client_code(error, version)] * len(topic_partitions), -1
        return [ErrorCode.NONE] * len(topic_partitions), coordinator_epoch

    async def handle_add_offsets_to_txn(
        self, context: RequestContext, request: AddOffsetsToTxnRequest
    ) -> AddOffsetsToTxnResponse:
        if GROUP_METADATA_TOPIC not in self._image().topics:
            # How many partitions it has is true from then on only; brokers may be configured differently.
            await self._ensure_topic(GROUP_METADATA_TOPIC)
        topic_partition = TopicPartition(GROUP_METADATA_TOPIC, self._groups.partition_for(request.group_id))
        try:
            await self._runtime.write(
                self._runtime.partition_for(request.transactional_id),
                lambda shard, now_ms: shard.add_partitions(
                    request.transactional_id, request.producer_id, request.producer_epoch, [topic_partition], 0, now_ms
                ),
            )
        except KafkaError as error:
            return AddOffsetsToTxnResponse(error_code=_client_code(error, context.version))
        return AddOffsetsToTxnResponse()

    # --------------------------------------------------------------------- end

    async def handle_end_txn(self, context: RequestContext, request: EndTxnRequest) -> EndTxnResponse:
        client_version = EPOCH_BUMP_VERSION if context.version >= _EPOCH_BUMP else 0
        try:
            if client_version:
                await self._producer_ids.reserve()
            ended = await self._runtime.write(
                self._runtime.partition_for(request.transactional_id),
                lambda shard, now_ms: shard.end_transaction(
                    request.transactional_id,
                    request.producer_id,
                    request.producer_epoch,
                    request.committed,
                    client_version,
                    now_ms,
                ),
            )
        except KafkaError as error:
            return EndTxnResponse(error_code=_client_code(error, context.version), producer_id=-1, producer_epoch=-1)
        return EndTxnResponse(
            error_code=ended.error_code, producer_id=ended.producer_id, producer_epoch=ended.producer_epoch
        )

    async def handle_write_txn_markers(
        self, context: RequestContext, request: WriteTxnMarkersRequest
    ) -> WriteTxnMarkersResponse:
        sender = Sender(request.broker_id, request.broker_epoch, request.connection_number)
        # Kafka answers by partition: a marker that names none is not in the answer, a topic that names none neither.
        written = [
            self._write_markers(marker, sender)
            for marker in request.markers
            if any(topic.partition_indexes for topic in marker.topics)
        ]
        return WriteTxnMarkersResponse(markers=list(await asyncio.gather(*written)))

    async def _write_markers(self, request: WritableTxnMarker, sender: Sender) -> WritableTxnMarkerResult:
        """Append a marker to all its partitions in this turn, then wait for all of them."""
        waiting: list[tuple[WritableTxnMarkerPartitionResult, asyncio.Future[None]]] = []
        result = WritableTxnMarkerResult(producer_id=request.producer_id)
        for topic in request.topics:
            if not topic.partition_indexes:
                continue
            rows: list[WritableTxnMarkerPartitionResult] = []
            result.topics.append(WritableTxnMarkerTopicResult(name=topic.name, partitions=rows))
            for index in topic.partition_indexes:
                row = WritableTxnMarkerPartitionResult(partition_index=index)
                rows.append(row)
                try:
                    row.error_code, appended = ErrorCode.NONE, self._append_marker(request, sender, topic.name, index)
                except KafkaError as error:
                    row.error_code = marker_error_code(error)
                else:
                    waiting.append((row, asyncio.ensure_future(appended)))
        outcomes = await asyncio.gather(*(future for _, future in waiting), return_exceptions=True)
        for (row, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, KafkaError):
                row.error_code = marker_error_code(outcome)
            elif outcome is not None:
                raise outcome
        return result

    def _append_marker(self, request: WritableTxnMarker, sender: Sender, topic: str, index: int) -> Awaitable[None]:
        if not self._marker_fence.admits(sender):
            raise StaleBrokerEpochError("this marker was sent on a connection that its sender has given up")
        if request.producer_id < 0 or request.producer_epoch < 0:
            raise UnknownServerError  # no batch can carry it; Kafka fails while it builds one
        marker = EndTransactionMarker(
            ControlType.COMMIT if request.transaction_result else ControlType.ABORT, request.coordinator_epoch
        )
        producer = (request.producer_id, request.producer_epoch)
        return self._marker_log.append(TopicPartition(topic, index), producer, marker, request.transaction_version)

    # ----------------------------------------------------------- administration

    async def handle_describe_transactions(
        self, context: RequestContext, request: DescribeTransactionsRequest
    ) -> DescribeTransactionsResponse:
        return DescribeTransactionsResponse(
            transaction_states=[
                await self._describe(transactional_id) for transactional_id in request.transactional_ids
            ]
        )

    async def _describe(self, transactional_id: str) -> describe_transactions.TransactionState:
        row = describe_transactions.TransactionState(transactional_id=transactional_id)
        if not transactional_id:
            row.error_code = ErrorCode.INVALID_REQUEST
            return row
        try:
            partition = self._runtime.partition_for(transactional_id)
            found = await self._runtime.proven(
                partition, lambda: self._runtime.read(partition, lambda shard: shard.describe(transactional_id))
            )
        except KafkaError as error:
            row.error_code = client_error_code(error)
            return row
        if found is None:
            row.error_code = ErrorCode.TRANSACTIONAL_ID_NOT_FOUND
            return row
        row.transaction_state = found.state.text
        row.transaction_timeout_ms = found.timeout_ms
        row.transaction_start_time_ms = found.started_ms
        row.producer_id, row.producer_epoch = found.producer_id, found.producer_epoch
        by_topic: dict[str, list[int]] = {}
        for topic, index in sorted(found.partitions):
            by_topic.setdefault(topic, []).append(index)
        row.topics = [describe_transactions.TopicData(topic=name, partitions=ids) for name, ids in by_topic.items()]
        return row

    async def handle_list_transactions(
        self, context: RequestContext, request: ListTransactionsRequest
    ) -> ListTransactionsResponse:
        try:
            asked = request.transactional_id_pattern
            pattern = compile_pattern(asked) if asked else None
        except PatternError:
            return ListTransactionsResponse(error_code=ErrorCode.INVALID_REGULAR_EXPRESSION)
        states = {_STATES[name] for name in request.state_filters if name in _STATES}
        producer_ids = set(request.producer_id_filters)
        now_ms = self._clock.wall_ms()
        rows: list[list_transactions.TransactionState] = []
        try:
            await self._runtime.prove_all()
            for shard in self._runtime.read_all(lambda shard: shard.list_committed()):
                rows += (
                    list_transactions.TransactionState(
                        transactional_id=found.transactional_id,
                        producer_id=found.producer_id,
                        transaction_state=found.state.text,
                    )
                    for found in shard
                    if (not producer_ids or found.producer_id in producer_ids)
                    and (not request.state_filters or found.state in states)
                    and (request.duration_filter < 0 or now_ms - found.started_ms > request.duration_filter)
                    and (pattern is None or pattern.fullmatch(found.transactional_id))
                )
        except KafkaError as error:
            return ListTransactionsResponse(error_code=client_error_code(error))
        return ListTransactionsResponse(
            unknown_state_filters=[name for name in request.state_filters if name not in _STATES],
            transaction_states=rows,
        )


def _client_code(error: KafkaError, version: int) -> ErrorCode:
    code = client_error_code(error)
    if code == ErrorCode.PRODUCER_FENCED and version < _PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return code
