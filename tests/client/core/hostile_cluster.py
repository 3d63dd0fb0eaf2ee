"""A scripted cluster for the producer's core: three brokers that lose, delay, refuse, repeat, move and forget, from one seed.

No loop, no socket: a heap of events in virtual milliseconds. `Shell` does what the core asks for and reports what came
of it, as the real one does; `Cluster` answers as brokers do, checks sequences as Kafka's ProducerStateManager does, and
runs transactions of both versions. What was written where is in `Log.records`, for the test to compare.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from ottla.client._core.connections import Connect, Disconnect
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.requests import Send
from ottla.errors import ErrorCode, NetworkError, RequestTimedOutError
from ottla.protocol.api import APIS, VERSIONS, ApiKey
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopicResult,
)
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.find_coordinator import (
    Coordinator,
    FindCoordinatorRequest,
    FindCoordinatorResponse,
)
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from ottla.protocol.messages.produce import (
    BatchIndexAndErrorMessage,
    LeaderIdAndEpoch,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from ottla.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from ottla.protocol.records.batch import MAX_SEQUENCE, read_header
from ottla.protocol.records.reader import read_records
from ottla.protocol.schema import Message

BROKERS = (0, 1, 2)
POISON = b"poison"


class World:
    """Virtual time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ms = 0.0
        self.counter: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def after(self, delay_ms: float, action: Callable[[], None]) -> None:
        self.at(self.now_ms + delay_ms, action)

    def at(self, time_ms: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (time_ms, self._serial, action))

    def step(self) -> bool:
        """Run the next event; False if there is none."""
        if not self._heap:
            return False
        self.now_ms, _, action = heapq.heappop(self._heap)
        self.counter["events"] += 1
        action()
        return True

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


@dataclass(slots=True)
class Written:
    """One record in a log."""

    offset: int
    value: bytes
    producer_id: int
    visible: bool | None
    deleted: bool = False


@dataclass(slots=True)
class Producer:
    """What a partition knows of a producer: its epoch and the last five batches (first, last sequence, offset)."""

    epoch: int
    batches: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Log:
    """One partition."""

    leader: int
    leader_epoch: int = 1
    records: list[Written] = field(default_factory=list)
    producers: dict[int, Producer] = field(default_factory=dict)
    end_offset: int = 0


@dataclass(slots=True)
class TransactionalId:
    """What the coordinator knows."""

    producer_id: int
    epoch: int
    partitions: dict[tuple[str, int], None] = field(default_factory=dict)
    open: bool = False
    offsets: dict[str, int] = field(default_factory=dict)
    last_end: tuple[int, int, bool] | None = None


class Cluster:
    """The brokers. `calm` ends all mischief."""

    def __init__(
        self, world: World, topics: dict[str, int], *, transaction_version: int = 2, mischief: float = 1.0
    ) -> None:
        self.world = world
        self.logs = {
            (topic, number): Log(leader=world.random.choice(BROKERS))
            for topic, count in topics.items()
            for number in range(count)
        }
        self.ids = {topic: bytes([number + 1]) * 16 for number, topic in enumerate(topics)}
        self.down: set[int] = set()
        self.mischief = mischief
        self.transaction_version = transaction_version
        self.next_producer_id = 1000
        self.transactional: dict[str, TransactionalId] = {}
        self.committed_offsets: dict[str, int] = {}
        self.batch_bytes_max = 600
        self.old_versions = world.chance(0.3)
        self.stale: dict[int, dict[tuple[str, int], tuple[int, int]]] = {}

    def versions(self) -> dict[int, tuple[int, int]]:
        spans = dict(VERSIONS)
        if self.old_versions:
            spans[ApiKey.METADATA] = (0, 8)
            spans[ApiKey.PRODUCE] = (3, 12)
            spans[ApiKey.FIND_COORDINATOR] = (0, 3)
        return {int(key): span for key, span in spans.items()}

    def features(self) -> dict[str, int]:
        return {"transaction.version": self.transaction_version}

    def trouble(self, probability: float) -> bool:
        return self.world.chance(probability * self.mischief)

    # -- mischief by itself

    def act_up(self) -> None:
        """Move leaders, kill and revive brokers."""
        world = self.world
        if self.mischief and world.chance(0.4):
            key = world.random.choice(list(self.logs))
            self.move(key)
        if self.mischief and world.chance(0.2):
            broker = world.random.choice(BROKERS)
            if broker in self.down:
                self.down.discard(broker)
            else:
                self.crash(broker)

    def crash(self, broker: int) -> None:
        """A broker dies, unless it is the last one; others take over what it led."""
        if broker in self.down or len(self.down) == 2:
            return
        self.down.add(broker)
        self.world.counter["crashes"] += 1
        for key, log in self.logs.items():
            if log.leader == broker:
                self.move(key)

    def move(self, key: tuple[str, int]) -> None:
        log = self.logs[key]
        alive = [broker for broker in BROKERS if broker not in self.down]
        for broker in BROKERS:
            self.stale.setdefault(broker, {})[key] = (log.leader, log.leader_epoch)
        log.leader = self.world.random.choice(alive)
        log.leader_epoch += 1
        self.world.counter["leader moved"] += 1

    def revive(self) -> None:
        self.mischief = 0.0
        self.down.clear()
        self.stale.clear()

    # -- requests

    def answer(self, broker: int, request: Message, version: int) -> Any:
        match request:
            case MetadataRequest():
                return self.metadata(broker, request, version)
            case InitProducerIdRequest():
                return self.init_producer_id(request)
            case FindCoordinatorRequest():
                return self.find_coordinator(request, version)
            case ProduceRequest():
                return self.produce(broker, request, version)
            case AddPartitionsToTxnRequest():
                return self.add_partitions(request)
            case AddOffsetsToTxnRequest():
                return self.add_offsets(request)
            case TxnOffsetCommitRequest():
                return self.commit_offsets(request, version)
            case EndTxnRequest():
                return self.end(request, version)
        raise AssertionError(request)

    def metadata(self, broker: int, request: MetadataRequest, version: int) -> MetadataResponse:
        topics = []
        for wanted in request.topics or []:
            name = cast(str, wanted.name)
            count = sum(topic == name for topic, _ in self.logs)
            if not count or self.trouble(0.1):
                topics.append(MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, name=name))
                self.world.counter["topic unknown"] += 1
                continue
            partitions = []
            for number in range(count):
                log = self.logs[name, number]
                leader, epoch = log.leader, log.leader_epoch
                if self.trouble(0.3) and (old := self.stale.get(broker, {}).get((name, number))):
                    leader, epoch = old
                    self.world.counter["stale metadata"] += 1
                elif self.trouble(0.05):
                    leader = -1
                    self.world.counter["no leader"] += 1
                partitions.append(
                    MetadataResponsePartition(
                        partition_index=number,
                        leader_id=leader,
                        leader_epoch=epoch,
                        replica_nodes=list(BROKERS),
                        isr_nodes=list(BROKERS),
                    )
                )
            topics.append(MetadataResponseTopic(name=name, topic_id=self.ids[name], partitions=partitions))
        brokers = [
            MetadataResponseBroker(node_id=n, host=f"broker{n}", port=9092) for n in BROKERS if n not in self.down
        ]
        return MetadataResponse(brokers=brokers, topics=topics, controller_id=0, cluster_id="hostile")

    def init_producer_id(self, request: InitProducerIdRequest) -> InitProducerIdResponse:
        name = request.transactional_id
        if self.trouble(0.2):
            code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            if name is not None:
                code = self.world.random.choice([code, ErrorCode.NOT_COORDINATOR, ErrorCode.CONCURRENT_TRANSACTIONS])
            return InitProducerIdResponse(error_code=code)
        if name is None:
            self.next_producer_id += 1
            return InitProducerIdResponse(producer_id=self.next_producer_id, producer_epoch=0)
        state = self.transactional.get(name)
        if state is None:
            self.next_producer_id += 1
            state = self.transactional[name] = TransactionalId(self.next_producer_id, 0)
        else:
            if request.producer_id >= 0 and (request.producer_id, request.producer_epoch) != (
                state.producer_id,
                state.epoch,
            ):
                # KIP-360: a retry of a bump whose answer was lost names the epoch before.
                if (request.producer_id, request.producer_epoch) == (state.producer_id, state.epoch - 1):
                    return InitProducerIdResponse(producer_id=state.producer_id, producer_epoch=state.epoch)
                return InitProducerIdResponse(error_code=ErrorCode.PRODUCER_FENCED)
            if state.open:
                state.epoch += 1
                self.finish(state, committed=False)
                return InitProducerIdResponse(error_code=ErrorCode.CONCURRENT_TRANSACTIONS)
            state.epoch += 1
        return InitProducerIdResponse(producer_id=state.producer_id, producer_epoch=state.epoch)

    def find_coordinator(self, request: FindCoordinatorRequest, version: int) -> FindCoordinatorResponse:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE if self.trouble(0.2) else ErrorCode.NONE
        alive = [broker for broker in BROKERS if broker not in self.down]
        node = self.world.random.choice(alive)
        if version >= 4:
            found = Coordinator(
                key=request.coordinator_keys[0], node_id=node, host=f"broker{node}", port=9092, error_code=code
            )
            return FindCoordinatorResponse(coordinators=[found])
        return FindCoordinatorResponse(error_code=code, node_id=node, host=f"broker{node}", port=9092)

    def check_transaction(self, name: str, producer_id: int, epoch: int) -> tuple[int, TransactionalId | None]:
        state = self.transactional.get(name)
        if self.trouble(0.15):
            return self.world.random.choice(
                [ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.CONCURRENT_TRANSACTIONS]
            ), None
        if state is None or state.producer_id != producer_id:
            return ErrorCode.INVALID_PRODUCER_ID_MAPPING, None
        if state.epoch != epoch:
            return ErrorCode.PRODUCER_FENCED, None
        return ErrorCode.NONE, state

    def add_partitions(self, request: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse:
        code, state = self.check_transaction(
            request.v3_and_below_transactional_id,
            request.v3_and_below_producer_id,
            request.v3_and_below_producer_epoch,
        )
        results = []
        for topic in request.v3_and_below_topics:
            parts = []
            for number in topic.partitions:
                if state is not None:
                    state.open = True
                    state.partitions[topic.name, number] = None
                parts.append(AddPartitionsToTxnPartitionResult(partition_index=number, partition_error_code=code))
            results.append(AddPartitionsToTxnTopicResult(name=topic.name, results_by_partition=parts))
        return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=results)

    def add_offsets(self, request: AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse:
        code, state = self.check_transaction(request.transactional_id, request.producer_id, request.producer_epoch)
        if state is not None:
            state.open = True
        return AddOffsetsToTxnResponse(error_code=code)

    def commit_offsets(self, request: TxnOffsetCommitRequest, version: int) -> TxnOffsetCommitResponse:
        code, state = self.check_transaction(request.transactional_id, request.producer_id, request.producer_epoch)
        if code == ErrorCode.CONCURRENT_TRANSACTIONS:
            code = ErrorCode.NONE
            state = self.transactional[request.transactional_id]
            if state.epoch != request.producer_epoch:
                return self._offsets_answer(request, ErrorCode.PRODUCER_FENCED)
        if state is not None:
            if version >= 5:
                state.open = True
            assert state.open, "offsets without a transaction"
            for topic in request.topics:
                for part in topic.partitions:
                    state.offsets[f"{topic.name}-{part.partition_index}"] = part.committed_offset
        return self._offsets_answer(request, code)

    def _offsets_answer(self, request: TxnOffsetCommitRequest, code: int) -> TxnOffsetCommitResponse:
        return TxnOffsetCommitResponse(
            topics=[
                TxnOffsetCommitResponseTopic(
                    name=topic.name,
                    partitions=[
                        TxnOffsetCommitResponsePartition(partition_index=part.partition_index, error_code=code)
                        for part in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def end(self, request: EndTxnRequest, version: int) -> EndTxnResponse:
        state = self.transactional.get(request.transactional_id)
        second = version >= 5
        if (
            second
            and state is not None
            and state.last_end
            == (
                request.producer_id,
                request.producer_epoch,
                request.committed,
            )
        ):
            # KIP-890: the answer to the first attempt was lost.
            self.world.counter["end repeated"] += 1
            return EndTxnResponse(producer_id=state.producer_id, producer_epoch=state.epoch)
        code, state = self.check_transaction(request.transactional_id, request.producer_id, request.producer_epoch)
        if state is None:
            return EndTxnResponse(error_code=code)
        if not state.open and not second:
            if state.last_end == (request.producer_id, request.producer_epoch, request.committed):
                self.world.counter["end repeated"] += 1
                return EndTxnResponse()
            return EndTxnResponse(error_code=ErrorCode.INVALID_TXN_STATE)
        if not state.open and request.committed:
            return EndTxnResponse(error_code=ErrorCode.INVALID_TXN_STATE)
        state.last_end = (request.producer_id, request.producer_epoch, request.committed)
        self.finish(state, committed=request.committed)
        if second:
            state.epoch += 1
            return EndTxnResponse(producer_id=state.producer_id, producer_epoch=state.epoch)
        return EndTxnResponse()

    def finish(self, state: TransactionalId, *, committed: bool) -> None:
        """Write the markers."""
        for key in state.partitions:
            log = self.logs[key]
            for record in log.records:
                if record.producer_id == state.producer_id and record.visible is None:
                    record.visible = committed
            log.end_offset += 1
            if (known := log.producers.get(state.producer_id)) is not None and known.epoch < state.epoch:
                known.epoch, known.batches = state.epoch, []
        if committed:
            self.committed_offsets.update(state.offsets)
        state.offsets.clear()
        state.partitions.clear()
        state.open = False
        self.world.counter["committed" if committed else "aborted"] += 1

    def produce(self, broker: int, request: ProduceRequest, version: int) -> ProduceResponse:
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        topics = []
        for data in request.topic_data:
            name = names[data.topic_id] if version >= 13 else data.name
            parts = []
            for part in data.partition_data:
                assert part.records is not None
                answer = self.append(broker, request, version, (name, part.index), bytes(part.records))
                if self.trouble(0.02):
                    self.world.counter["partition left out"] += 1
                    continue
                parts.append(answer)
            topics.append(TopicProduceResponse(name=name, topic_id=self.ids[name], partition_responses=parts))
        return ProduceResponse(responses=topics)

    def append(
        self, broker: int, request: ProduceRequest, version: int, key: tuple[str, int], data: bytes
    ) -> PartitionProduceResponse:
        log = self.logs[key]
        part = PartitionProduceResponse(index=key[1])
        if log.leader != broker:
            self.world.counter["not the leader"] += 1
            part.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            if version >= 10 and self.world.chance(0.5):
                part.current_leader = LeaderIdAndEpoch(leader_id=log.leader, leader_epoch=log.leader_epoch)
            return part
        if self.trouble(0.15):
            part.error_code = self.world.random.choice(
                [
                    ErrorCode.NOT_ENOUGH_REPLICAS,
                    ErrorCode.CORRUPT_MESSAGE,
                    ErrorCode.KAFKA_STORAGE_ERROR,
                    ErrorCode.REQUEST_TIMED_OUT,
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                ]
            )
            self.world.counter["refused for now"] += 1
            return part
        if len(data) > self.batch_bytes_max:
            self.world.counter["too large"] += 1
            part.error_code = ErrorCode.MESSAGE_TOO_LARGE
            return part
        header = read_header(data)
        records = read_records(data, verify_crc=True)
        poisoned = [number for number, record in enumerate(records) if record.key == POISON]
        if poisoned:
            self.world.counter["poison"] += 1
            part.error_code = ErrorCode.INVALID_RECORD
            part.record_errors = [
                BatchIndexAndErrorMessage(batch_index=n, batch_index_error_message="bad") for n in poisoned
            ]
            return part
        if request.transactional_id is not None:
            state = self.transactional.get(request.transactional_id)
            assert header.is_transactional
            if state is None or state.epoch != header.producer_epoch:
                part.error_code = ErrorCode.INVALID_PRODUCER_EPOCH
                return part
            if version >= 12:
                assert self.transaction_version == 2
                state.open = True
                state.partitions[key] = None
            elif key not in state.partitions:
                part.error_code = ErrorCode.INVALID_TXN_STATE
                return part
        if header.producer_id >= 0:
            code, offset = self.check_sequence(log, header)
            if code or offset >= 0:
                part.error_code, part.base_offset = code, offset
                part.log_start_offset = log.end_offset if code == ErrorCode.UNKNOWN_PRODUCER_ID else 0
                return part
        part.base_offset = log.end_offset
        for record in records:
            assert record.value is not None
            visible = None if request.transactional_id is not None else True
            log.records.append(Written(log.end_offset, record.value, header.producer_id, visible))
            log.end_offset += 1
        self.world.counter["appended"] += 1
        if self.trouble(0.04):
            self.world.counter["written, and refused"] += 1
            part.error_code = self.world.random.choice(
                [ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, ErrorCode.REQUEST_TIMED_OUT]
            )
        return part

    def check_sequence(self, log: Log, header: Any) -> tuple[int, int]:
        """Return (error code, offset of the batch this one repeats or -1), as ProducerAppendInfo does."""
        known = log.producers.get(header.producer_id)
        first, last = header.base_sequence, header.last_sequence
        repeated = known is not None and any((first, last) == (start, end) for start, end, _ in known.batches)
        forgets = self.old_versions and not repeated and not header.is_transactional
        if known is not None and forgets and self.trouble(0.05):
            # Retention has deleted all that this producer wrote, and so the broker has forgotten it. Brokers since 2.5 take
            # any sequence then, and with it what overtook another batch: no client can help that.
            del log.producers[header.producer_id]
            for record in log.records:
                record.deleted |= record.producer_id == header.producer_id
            known = None
            self.world.counter["producer forgotten"] += 1
        if known is None:
            if self.old_versions and first and not header.is_transactional:
                self.world.counter["unknown producer"] += 1
                return ErrorCode.UNKNOWN_PRODUCER_ID, -1
            log.producers[header.producer_id] = Producer(header.producer_epoch, [(first, last, log.end_offset)])
            return 0, -1
        if header.producer_epoch < known.epoch:
            return ErrorCode.INVALID_PRODUCER_EPOCH, -1
        if header.producer_epoch > known.epoch:
            if first != 0:
                self.world.counter["out of order"] += 1
                return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
            known.epoch, known.batches = header.producer_epoch, [(first, last, log.end_offset)]
            self.world.counter["new epoch"] += 1
            return 0, -1
        for start, end, offset in known.batches:
            if (start, end) == (first, last):
                self.world.counter["duplicate"] += 1
                return 0, offset
        expected = (known.batches[-1][1] + 1) & MAX_SEQUENCE if known.batches else 0
        if first != expected:
            self.world.counter["out of order"] += 1
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        known.batches = [*known.batches[-4:], (first, last, log.end_offset)]
        return 0, -1


class Link:
    """One connection of the shell: requests and answers in order, until it breaks."""

    def __init__(self, shell: Shell, node_id: int, broker: int) -> None:
        self.shell = shell
        self.node_id = node_id
        self.broker = broker
        self.broken = False
        self.in_flight: list[Send] = []
        self._arrival = 0.0
        #: Requests that came while an answer is not there yet: brokers answer in order.
        self._behind: list[tuple[Send, bytes]] | None = None

    def send(self, send: Send) -> None:
        shell, world = self.shell, self.shell.world
        message = send.build(send.version)
        data = encode(message, send.version)  # while the batch is as it is now
        if send.answered:
            self.in_flight.append(send)
            world.after(send.timeout_ms, lambda: self.expire(send))
        slow = world.random.expovariate(0.2)
        if shell.cluster.trouble(0.02):
            slow += world.random.random() * 2 * send.timeout_ms
            world.counter["slow"] += 1
        self._arrival = max(self._arrival + 0.001, world.now_ms + slow)
        world.after(self._arrival - world.now_ms, lambda: self.arrive(send, data))
        if not send.answered:
            shell.machine.on_sent_unanswered(send, world.now_ms)

    def arrive(self, send: Send, data: bytes) -> None:
        """The broker gets the request, also when the client has left."""
        shell, world = self.shell, self.shell.world
        if self.broker in shell.cluster.down:
            self.break_down("broker gone")
            return
        if self._behind is not None:
            self._behind.append((send, data))
            return
        if shell.cluster.trouble(0.03) or (self.broken and world.chance(0.5)):
            self.break_down("request lost")
            return
        if self.broken and send.purpose == "transaction" and shell.cluster.transaction_version == 1:
            # What arrives late joins the next transaction of the same epoch: the hole that version 2 closes (KIP-890).
            return
        if self.broken and send.key == ApiKey.CONSUMER_GROUP_HEARTBEAT:
            # What an old one says of ownership is believed, in Kafka's protocol, too: no client can help that.
            return
        request, end = decode(APIS[send.key].request_class(), send.version, data)
        assert end == len(data)
        response = shell.cluster.answer(self.broker, request, send.version)
        if hasattr(response, "then") and response.answer is None:
            self._behind = []
            response.then.append(lambda answer: self.resume(send, answer))
            return
        self.respond(send, getattr(response, "answer", response))

    def resume(self, send: Send, answer: Message) -> None:
        """An answer that was kept back is there."""
        behind, self._behind = self._behind or [], None
        self.respond(send, answer)
        for later, data in behind:
            self.shell.world.after(0, lambda later=later, data=data: self.arrive(later, data))  # type: ignore[misc]

    def respond(self, send: Send, response: Message | None) -> None:
        shell, world = self.shell, self.shell.world
        if shell.cluster.trouble(0.03):
            self.break_down("answer lost")
            return
        if not send.answered or self.broken:
            return
        assert response is not None
        encoded = encode(response, send.version)
        self._arrival = max(self._arrival + 0.001, world.now_ms + world.random.expovariate(0.5))
        world.after(self._arrival - world.now_ms, lambda: self.deliver(send, encoded))

    def deliver(self, send: Send, data: bytes) -> None:
        if self.broken or send not in self.in_flight:
            return
        if self.in_flight[0] is not send:
            self.break_down("answer out of order")
            return
        self.in_flight.pop(0)
        response, _ = decode(APIS[send.key].response_class(), send.version, data)
        self.shell.machine.on_response(send, response, self.shell.world.now_ms)
        self.shell.poll_if_due()

    def expire(self, send: Send) -> None:
        if send in self.in_flight and not self.broken:
            self.break_down("no answer in time", RequestTimedOutError("no answer"))

    def break_down(self, why: str, error: Exception | None = None) -> None:
        if self.broken:
            return
        shell, world = self.shell, self.shell.world
        world.counter[why] += 1
        self.broken = True
        shell.links.pop(self.node_id, None)
        lost, self.in_flight = self.in_flight, []
        cause = error or NetworkError("the connection broke")
        for send in lost:
            shell.machine.on_failed(send, cause, world.now_ms)
        shell.machine.on_down(self.node_id, cause, world.now_ms)
        shell.poll()


class Shell:
    """Does what the core says."""

    link_class = Link

    def __init__(self, world: World, cluster: Cluster, machine: ProducerMachine) -> None:
        self.world = world
        self.cluster = cluster
        self.machine = machine
        self.links: dict[int, Link] = {}
        self._wake_ms = float("inf")
        self.batches: list[Any] = []

    def poll(self) -> None:
        machine, world = self.machine, self.world
        for _ in range(1_000):
            actions, wake_ms = machine.poll(world.now_ms)
            for action in actions:
                match action:
                    case Connect(node):
                        world.after(world.random.random() * 3, lambda node=node: self.connect(node.id, node.host))  # type: ignore[misc]
                    case Disconnect(node_id):
                        if node_id in self.links:
                            self.links[node_id].break_down("closed")
                    case Send():
                        link = self.links.get(action.node_id)
                        if link is None:  # broken while this turn's actions are done
                            machine.on_failed(action, NetworkError("closed"), world.now_ms)
                        else:
                            link.send(action)
            self.batches += machine.take_finished()
            for callback in machine.take_fired():
                callback()
            if wake_ms > world.now_ms:
                break
        else:
            raise AssertionError("the core asks to be polled again and again without an end")
        if wake_ms < self._wake_ms or self._wake_ms <= world.now_ms:
            self._wake_ms = wake_ms
            if wake_ms < float("inf"):
                world.at(wake_ms, self.poll)

    def poll_if_due(self) -> None:
        """After an answer: the core is polled where it says that it has something to do, and else must have nothing."""
        machine, world = self.machine, self.world
        if machine.due_ms() < self._wake_ms or self._wake_ms <= world.now_ms:
            self.poll()
            return
        world.counter["nothing left behind"] += 1
        assert machine.poll(world.now_ms)[0] == []
        self.batches += machine.take_finished()
        for callback in machine.take_fired():
            callback()

    def connect(self, node_id: int, host: str) -> None:
        world = self.world
        broker = int(host.removeprefix("broker"))
        if broker in self.cluster.down or self.cluster.trouble(0.1):
            world.counter["no connection"] += 1
            self.machine.on_down(node_id, NetworkError("refused"), world.now_ms)
        else:
            self.links[node_id] = self.link_class(self, node_id, broker)
            self.machine.on_connected(node_id, self.cluster.versions(), self.cluster.features(), world.now_ms)
        self.poll()
