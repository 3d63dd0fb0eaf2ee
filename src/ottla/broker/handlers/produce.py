"""Produce (key 0, versions 3-13).

v3: one batch of magic 2 per partition. v5: log start offset. v7: zstd. v8: record errors and a message (KIP-467).
v9: flexible. v10: current leader (KIP-951). v11: TRANSACTION_ABORTABLE is known. v12: the partitions of a transaction are
added by the broker that gets the data (KIP-890 part 2); before, it is checked that the client has added them (part 1).
v13: topic ids (KIP-516).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ottla.broker.context import PartialResult, Route, ShortCut
from ottla.broker.deadlines import Deadlines
from ottla.broker.handlers.produce_commits import AwaitedBatch, CommittedAnswer
from ottla.broker.handlers.produce_requests import (
    ACKS_ALL,
    ACKS_LEADER,
    ACKS_NONE,
    is_transactional,
    name_of,
    refuse_whole,
    without_repetitions,
)
from ottla.broker.refused_batches import RefusedBatches
from ottla.broker.transactions.gate import data_error_code
from ottla.errors import (
    DuplicateSequenceNumberError,
    ErrorCode,
    KafkaError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
    RemoteProtocolError,
    RequestTimedOutError,
)
from ottla.observability.metrics import TopicMetrics
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.produce import (
    BatchIndexAndErrorMessage,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from ottla.protocol.produce_frames import (
    AcceptedPart,
    ProducedTopic,
    encode_accepted,
    encode_one,
    parse,
    parse_one,
)
from ottla.protocol.records.batch import (
    HEADER_SIZE,
    read_header,
)
from ottla.storage.validation import NotOneBatchError
from ottla.storage.verification import UNCHECKED
from ottla.types import INTERNAL_TOPICS, AppendOrigin, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.handlers.leader_hints import LeaderHints
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.broker.transactions.gate import TransactionGate
    from ottla.clock import Clock
    from ottla.observability.metrics import BrokerMetrics
    from ottla.storage.appended import AppendInfo
    from ottla.storage.verification import Verification, VerificationGuard

logger = logging.getLogger(__name__)

#: Kafka's admin client may write internal topics.
ADMIN_CLIENT_ID = "__admin_client"


_ABORTABLE_KNOWN = 11
_ADDS_PARTITIONS = 12
_LEADERS_SINCE = 10

#: What the transaction coordinator may say that older clients do not expect here. NOT_ENOUGH_REPLICAS makes them try again
#: without asking for metadata.
_TRY_AGAIN = frozenset(
    {
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.NOT_COORDINATOR,
    }
)

#: Refusals after which a producer gives up, or begins anew.
_ENDS_A_PRODUCER = frozenset(
    {
        ErrorCode.INVALID_PRODUCER_EPOCH,
        ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode.UNKNOWN_PRODUCER_ID,
    }
)

#: Refusals that Kafka decides before it looks at the partition's log: their answers have no log start offset.
_BEFORE_THE_LOG = frozenset(
    {
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.MESSAGE_TOO_LARGE,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.RECORD_LIST_TOO_LARGE,
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
    }
)


#: What comes with the leader's name (KIP-951); unlike Fetch, Produce is not asked for a leader epoch.
_NOT_LED_HERE = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER})


class CloseConnection(RemoteProtocolError):
    """With acks=0 there is no answer that could carry an error: Kafka closes the connection, so that the client notices."""


@dataclass(frozen=True, slots=True)
class PartlyAppended(PartialResult):
    """What became of the batches that the short cut appended, or failed to append, before it met one it cannot judge."""

    outcomes: Mapping[TopicPartition, AppendInfo | KafkaError]


_NOTHING_APPENDED = PartlyAppended({})


class ProduceHandler:
    """Appends batches and answers when they are as safe as the client asked."""

    def __init__(
        self,
        replicas: ReplicaManager,
        metrics: BrokerMetrics,
        gate: TransactionGate,
        *,
        clock: Clock,
        may_write: Callable[[Session, str], bool] | None = None,
        leaders: LeaderHints | None = None,
    ) -> None:
        self._leaders = leaders
        self._may_write = may_write
        self._replicas = replicas
        self._clock = clock
        self._metrics = metrics
        self._gate = gate
        self._deadlines: Deadlines[CommittedAnswer] = Deadlines(asyncio.get_running_loop())
        self._refused_batches = RefusedBatches()

    def routes(self) -> Routes:
        route = Route(
            self.handle_produce,
            short_cut=ShortCut(self.handle_frame, self.handle_produce),
            keeps_order=_is_appended_in_order,
        )
        return {ApiKey.PRODUCE: route}

    def handle_frame(
        self, frame: memoryview, version: int, session: Session
    ) -> bytes | CommittedAnswer | PartlyAppended | None:
        """Answer an ordinary request from its bytes, at once or when it is committed.

        None: nothing has been appended; the request has to be decoded and given to `handle_produce`.

        If a batch cannot be appended here although others of the same request have been, the result says what became of
        those: `handle_produce` takes it and answers for all of them.
        """
        one = parse_one(frame, version)
        if one is not None:
            return self._handle_one(version, session, *one)
        request = parse(frame, version)
        if request is None or request.acks not in (ACKS_LEADER, ACKS_ALL):
            return None
        found: list[tuple[str, ProducedTopic, list[tuple[Partition, memoryview]]]] = []
        replicas = self._replicas
        for topic in request.topics:
            name = name_of(topic.key, version, replicas)
            if name is None or name in INTERNAL_TOPICS:
                return None
            if self._may_write is not None and not self._may_write(session, name):
                return None
            batches: list[tuple[Partition, memoryview]] = []
            for index, records in topic.partitions:
                partition = replicas.partition(name, index)
                if partition is None:
                    return None
                batches.append((partition, records))
            found.append((name, topic, batches))
        if len(found) > 1 and len({name for name, _, _ in found}) < len(found):
            return None
        for _, topic, batches in found:
            if len(batches) > 1 and len({index for index, _ in topic.partitions}) < len(batches):
                return None
        now_ms = self._clock.wall_ms()
        answers: list[tuple[bytes, list[AcceptedPart]]] = []
        waits: list[AwaitedBatch] = []
        appended: list[tuple[Partition, AppendInfo | KafkaError]] = []
        for name, topic, batches in found:
            counts = self._metrics.topic(name)
            parts: list[AcceptedPart] = []
            for partition, records in batches:
                try:
                    info = partition.append_ordinary(records, now_ms, acks_all=request.acks == ACKS_ALL)
                except KafkaError as error:
                    appended.append((partition, error))
                    return _partly(appended)
                if info is None:
                    return _partly(appended) if appended else None
                appended.append((partition, info))
                size = len(records)
                counts.bytes_in += size
                counts.messages_in += info.last_offset - info.first_offset + 1
                if partition.log.high_watermark <= info.last_offset and _waits(request.acks, partition):
                    waits.append(
                        AwaitedBatch(partition, info.last_offset, parts, len(parts), acks_all=request.acks == ACKS_ALL)
                    )
                parts.append(
                    AcceptedPart(partition.topic_partition.partition, info.first_offset, -1, info.log_start_offset)
                )
            answers.append((topic.key, parts))
        for name, _, _ in found:
            self._metrics.topic(name).produce_requests += 1
        if waits:
            return CommittedAnswer(version, answers, waits, self._deadlines, request.timeout_ms / 1000)
        return encode_accepted(version, answers)

    def _handle_one(
        self,
        version: int,
        session: Session,
        acks: int,
        timeout_ms: int,
        key: bytes,
        index: int,
        records: memoryview,
    ) -> bytes | CommittedAnswer | PartlyAppended | None:
        """Do as `handle_frame` for a request of one batch (see `parse_one`), which most are."""
        name = name_of(key, version, self._replicas)
        if (
            name is None
            or name in INTERNAL_TOPICS
            or (acks != ACKS_ALL and acks != ACKS_LEADER)
            or (self._may_write is not None and not self._may_write(session, name))
        ):
            return None
        partition = self._replicas.partition(name, index)
        if partition is None:
            return None
        try:
            info = partition.append_ordinary(records, self._clock.wall_ms(), acks_all=acks == ACKS_ALL)
        except KafkaError as error:
            return _partly([(partition, error)])
        if info is None:
            return None
        first, last, _, log_start_offset, _ = info
        counts = self._metrics.topic(name)
        counts.produce_requests += 1
        counts.bytes_in += len(records)
        counts.messages_in += last - first + 1
        if partition.log.high_watermark <= last and _waits(acks, partition):
            parts = [AcceptedPart(index, first, -1, log_start_offset)]
            waits = [AwaitedBatch(partition, last, parts, 0, acks_all=acks == ACKS_ALL)]
            return CommittedAnswer(version, [(key, parts)], waits, self._deadlines, timeout_ms / 1000)
        return encode_one(version, key, index, first, log_start_offset)

    def handle_produce(
        self, context: RequestContext, request: ProduceRequest, done: PartlyAppended = _NOTHING_APPENDED
    ) -> Any | Awaitable[Any]:
        refusal = refuse_whole(request)
        if request.transactional_id is not None and not refusal:
            refusal, asked = self._begins_transaction(context, request)
            if asked:
                for topic in request.topic_data:
                    for data in topic.partition_data:
                        # A view of the connection's buffer, which is used for the next request while this one waits.
                        data.records = None if data.records is None else bytearray(data.records)
                return self._produce_admitted(context, request, asked)
        return self._produce(context, request, refusal, {}, {}, done.outcomes)

    def _begins_transaction(
        self, context: RequestContext, request: ProduceRequest
    ) -> tuple[ErrorCode, dict[TopicPartition, tuple[int, int]]]:
        """Return the partitions in which this request is the first of its transaction, with producer id and epoch."""
        asked: dict[TopicPartition, tuple[int, int]] = {}
        producers: set[tuple[int, int]] = set()
        for topic in request.topic_data:
            name, _ = self._replicas.topic_name(topic.name, topic.topic_id)
            for data in topic.partition_data:
                if not is_transactional(data.records):
                    continue
                header = read_header(data.records)  # type: ignore[arg-type]  # it has one
                producer = (header.producer_id, header.producer_epoch)
                producers.add(producer)
                partition = self._replicas.partition(name, data.index)
                if partition is None or (name in INTERNAL_TOPICS and context.client_id != ADMIN_CLIENT_ID):
                    continue
                known = partition.log.producers.entries.get(header.producer_id)
                if known is None or known.current_txn_first_offset < 0 or known.producer_epoch != header.producer_epoch:
                    asked[TopicPartition(name, data.index)] = producer
        if len(producers) > 1:
            return ErrorCode.INVALID_PRODUCER_ID_MAPPING, {}
        if self._gate.is_open(adds=context.version >= _ADDS_PARTITIONS):
            return ErrorCode.NONE, {}
        return ErrorCode.NONE, asked

    async def _produce_admitted(
        self, context: RequestContext, request: ProduceRequest, asked: dict[TopicPartition, tuple[int, int]]
    ) -> Any:
        """Ask the coordinator, then append what it admits, if the guards are still good by then."""
        assert request.transactional_id is not None
        adds = context.version >= _ADDS_PARTITIONS
        producer_id, producer_epoch = next(iter(asked.values()))
        # A partition that is led here no more refuses the append; until then any guard will do.
        partitions = {name: self._replicas.partition(*name) for name in asked}

        def begin(topic_partition: TopicPartition) -> VerificationGuard:
            partition = partitions[topic_partition]
            assert partition is not None, "it was there when it was asked for, in this turn"
            return partition.begin_verification(producer_id, producer_epoch)

        admissions = await self._gate.admit(
            request.transactional_id, producer_id, producer_epoch, list(asked), adds=adds, begin=begin
        )
        verifications: dict[TopicPartition, Verification] = {}
        refused: dict[TopicPartition, tuple[ErrorCode, str | None]] = {}
        for topic_partition, admission in admissions.items():
            verifications[topic_partition] = admission.verification
            code = data_error_code(admission.code, is_abortable_known=context.version >= _ABORTABLE_KNOWN)
            if code in _TRY_AGAIN or (code == ErrorCode.CONCURRENT_TRANSACTIONS and not adds):
                text = (
                    f"Unable to verify the partition has been added to the transaction. Underlying error: {code.name}"
                )
                refused[topic_partition] = (ErrorCode.NOT_ENOUGH_REPLICAS, text)
            elif code == ErrorCode.INVALID_TXN_STATE:
                refused[topic_partition] = (code, "Partition was not added to the transaction")
            elif code:
                refused[topic_partition] = (code, None)
        answer = self._produce(context, request, ErrorCode.NONE, refused, verifications)
        return await answer if isinstance(answer, Awaitable) else answer

    def _produce(
        self,
        context: RequestContext,
        request: ProduceRequest,
        refusal: ErrorCode,
        refused: Mapping[TopicPartition, tuple[ErrorCode, str | None]],
        verifications: Mapping[TopicPartition, Verification],
        appended: Mapping[TopicPartition, AppendInfo | KafkaError] = _NOTHING_APPENDED.outcomes,
    ) -> Any | Awaitable[Any]:
        response = ProduceResponse()
        # What was not verified must belong to a transaction that is open when it is appended.
        verifies = request.transactional_id is not None and not self._gate.is_open(
            adds=context.version >= _ADDS_PARTITIONS
        )
        waiting: list[tuple[PartitionProduceResponse, asyncio.Future[Any]]] = []
        for topic in without_repetitions(request.topic_data):
            name, error = self._replicas.topic_name(topic.name, topic.topic_id)
            answer = TopicProduceResponse(name=topic.name, topic_id=topic.topic_id)
            response.responses.append(answer)
            if not error and name in INTERNAL_TOPICS and context.client_id != ADMIN_CLIENT_ID:
                error = ErrorCode.INVALID_TOPIC_EXCEPTION
            error = refusal or error
            counts = self._metrics.topic(name) if name in self._replicas.image.topics else TopicMetrics()
            counts.produce_requests += 1
            for data in topic.partition_data:
                part = PartitionProduceResponse(
                    index=data.index, error_code=error, base_offset=-1, log_append_time_ms=-1, log_start_offset=-1
                )
                answer.partition_responses.append(part)
                if error:
                    continue
                partition = self._replicas.partition(name, data.index)
                if partition is None:
                    part.error_code = self._replicas.error(name, data.index)
                    self._refused_batches.note(TopicPartition(name, data.index), data.records, part.error_code)
                    continue
                if refused and (name, data.index) in refused:
                    part.error_code, part.error_message = refused[TopicPartition(name, data.index)]
                    counts.failed_produce_requests += 1
                    self._refused_batches.note(partition.topic_partition, data.records, part.error_code)
                    continue
                done = appended.get(TopicPartition(name, data.index)) if appended else None
                if isinstance(done, KafkaError):
                    self._refuse(part, done, partition, data.records, counts)
                    continue
                if done is not None:
                    part.base_offset = done.first_offset
                    part.log_start_offset = done.log_start_offset
                    commit = _commit(request.acks, partition, done.last_offset)
                    if commit is not None:
                        waiting.append((part, _retrieved(commit)))
                    continue
                counts.bytes_in += len(data.records or b"")
                verification = verifications.get(TopicPartition(name, data.index)) if verifies else UNCHECKED
                wait = self._append(context, request.acks, partition, data.records, verification, part, counts)
                if wait is not None:
                    waiting.append((part, _retrieved(asyncio.ensure_future(wait))))
        if waiting:
            return self._finish(context, request, response, waiting)
        return self._answer(context, request, response)

    def _append(
        self,
        context: RequestContext,
        acks: int,
        partition: Partition,
        records: Any,
        verification: Verification | None,
        part: PartitionProduceResponse,
        counts: TopicMetrics,
    ) -> Awaitable[Any] | None:
        """Append to one partition and fill `part`; return what has to happen first, if anything."""
        try:
            if self._refused_batches and (error := self._why_refused(partition, records)) is not None:
                raise error
            if context.version >= _ADDS_PARTITIONS and is_transactional(records):
                _check_first_sequence(partition, records)
            info = partition.append(
                records if records is not None else bytearray(),
                AppendOrigin.CLIENT,
                context.version,
                verification=verification,
                acks_all=acks == ACKS_ALL,
            )
        except KafkaError as error:
            if error.code in _ENDS_A_PRODUCER and not partition.is_sole:
                return self._refuse_if_led(error, acks, partition, part, _copy_of_header(records), counts)
            self._refuse(part, error, partition, records, counts)
            return None
        if isinstance(info, Awaitable):
            return self._append_later(info, acks, partition, part, _copy_of_header(records), counts)
        _accept(part, info, counts)
        return _commit(acks, partition, info.last_offset)

    def _why_refused(self, partition: Partition, records: Any) -> KafkaError | None:
        return self._refused_batches.why_refused(partition.topic_partition, records, partition.log.producers.entries)

    def _refuse(
        self,
        part: PartitionProduceResponse,
        error: KafkaError,
        partition: Partition,
        records: Any,
        counts: TopicMetrics,
    ) -> None:
        if error.retriable:
            self._refused_batches.note(partition.topic_partition, records, error.code)
        _refuse(part, error, partition, counts)

    async def _refuse_if_led(
        self,
        error: KafkaError,
        acks: int,
        partition: Partition,
        part: PartitionProduceResponse,
        header: Any,
        counts: TopicMetrics,
    ) -> None:
        """Refuse a batch for good only if this broker still leads: the leader after it may know more of the producer.

        A process that was stopped for a while believes that it leads until it hears otherwise.

        A batch that is in the log, but older than those that are kept, is answered with DUPLICATE_SEQUENCE_NUMBER as soon
        as it is committed, which clients take for success. Kafka calls it out of order. But Java's producer sends up to
        five batches to a new leader while one is on its way to the leader before; when it sends that one again it is older
        than five, and as the later ones were acknowledged it would send it again for ever, and nothing behind it.
        """
        if not await self._replicas.still_leads(partition):
            error = NotLeaderOrFollowerError(
                f"{partition.topic_partition}: it is not known that this broker still leads"
            )
        elif error.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER:
            end_offset = partition.log.producers.end_of_old_duplicates(read_header(header))
            if end_offset is not None:
                commit = _commit(acks, partition, end_offset - 1)
                if commit is not None:
                    await commit
                error = DuplicateSequenceNumberError(f"{partition.topic_partition}: {error.message}")
        self._refuse(part, error, partition, header, counts)

    async def _append_later(
        self,
        append: Awaitable[AppendInfo],
        acks: int,
        partition: Partition,
        part: PartitionProduceResponse,
        header: Any,
        counts: TopicMetrics,
    ) -> None:
        try:
            info = await append
        except KafkaError as error:
            if error.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER:  # what was refused was behind it in the queue
                error = self._why_refused(partition, header) or error
            if error.code in _ENDS_A_PRODUCER and not partition.is_sole:
                await self._refuse_if_led(error, acks, partition, part, header, counts)
            else:
                self._refuse(part, error, partition, header, counts)
            return
        commit = _commit(acks, partition, info.last_offset)
        if commit is not None:
            await commit
        _accept(part, info, counts)

    async def _finish(
        self,
        context: RequestContext,
        request: ProduceRequest,
        response: ProduceResponse,
        waiting: list[tuple[PartitionProduceResponse, asyncio.Future[Any]]],
    ) -> ProduceResponse | None:
        """Wait for all partitions, at most `timeout_ms`; one that fails or is late is answered with its error."""
        await asyncio.wait([future for _, future in waiting], timeout=request.timeout_ms / 1000)
        for part, future in waiting:
            error: BaseException | None = None
            if not future.done():
                # What was appended stays; what still waits for a slow disk is dropped, or a client that repeats could
                # fill the memory. The client must treat this as "unknown", as with any time-out.
                future.cancel()
                error = RequestTimedOutError()
            else:
                error = future.exception()
            if isinstance(error, KafkaError):
                part.error_code = error.code
                part.base_offset = part.log_append_time_ms = part.log_start_offset = -1
            elif error is not None:
                raise error
        return self._answer(context, request, response)

    def _answer(
        self, context: RequestContext, request: ProduceRequest, response: ProduceResponse
    ) -> ProduceResponse | None:
        failed = [p for t in response.responses for p in t.partition_responses if p.error_code]
        if request.acks == ACKS_NONE:
            if failed:
                raise CloseConnection(f"produce with acks=0 failed: {ErrorCode(failed[0].error_code).name}")
            return None
        if failed and self._leaders is not None and context.version >= _LEADERS_SINCE:
            response.node_endpoints = self._leaders.fill(
                context.session,
                ((t.name, t.topic_id, p.index, p) for t in response.responses for p in t.partition_responses),
                LeaderIdAndEpoch,
                NodeEndpoint,
                _NOT_LED_HERE,
            )
        return response


def _retrieved(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Retrieve the future's error when it ends: the connection may end before anything awaits the future."""
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


def _is_appended_in_order(request: ProduceRequest) -> bool:
    """A produce that waits for its commit has been appended, or has its place in the queue: the next one goes behind it.

    A produce of a transaction may have to wait for the coordinator's permission before it is appended.
    """
    return request.transactional_id is None


def _partly(appended: list[tuple[Partition, AppendInfo | KafkaError]]) -> PartlyAppended:
    return PartlyAppended({partition.topic_partition: outcome for partition, outcome in appended})


def _waits(acks: int, partition: Partition) -> bool:
    """Whether the answer waits for the high watermark. With flush.messages=1 no acknowledgement comes before the fsync."""
    return acks == ACKS_ALL or (acks == ACKS_LEADER and partition.log.flush_needed_before_ack)


def _commit(acks: int, partition: Partition, last_offset: int) -> asyncio.Future[None] | None:
    """Return what the answer waits for, if anything."""
    return partition.committed(last_offset, acks_all=acks == ACKS_ALL) if _waits(acks, partition) else None


def _copy_of_header(records: Any) -> Any:
    """Return what is left to look at when the connection's buffer has gone on to the next request."""
    return None if records is None else bytes(records[:HEADER_SIZE])


def _check_first_sequence(partition: Partition, records: Any) -> None:
    """With transaction version 2 the first batch of a producer that is not known here has sequence 0 (KIP-890).

    Raises:
        OutOfOrderSequenceNumberError: it has another one.
    """
    header = read_header(records)
    if header.base_sequence != 0 and header.producer_id not in partition.log.producers.entries:
        raise OutOfOrderSequenceNumberError(
            f"{partition.topic_partition}: the first batch of producer {header.producer_id} has sequence "
            f"{header.base_sequence}, not 0"
        )


def _accept(part: PartitionProduceResponse, info: AppendInfo, counts: TopicMetrics) -> None:
    if not info.duplicate:
        counts.messages_in += info.last_offset - info.first_offset + 1
    part.base_offset = info.first_offset
    part.log_append_time_ms = info.log_append_time_ms
    part.log_start_offset = info.log_start_offset


def _refuse(part: PartitionProduceResponse, error: KafkaError, partition: Partition, counts: TopicMetrics) -> None:
    counts.failed_produce_requests += 1
    part.error_code = error.code
    part.error_message = error.message
    if error.code not in _BEFORE_THE_LOG and not isinstance(error, NotOneBatchError):
        part.log_start_offset = partition.log.log_start_offset
    part.record_errors = [
        BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=message)
        for index, message in error.record_errors
    ]
