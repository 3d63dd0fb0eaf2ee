"""Transactional clients of a simulated broker that is killed, and what must be true at the end.

Producers of both transaction versions write to several partitions and commit offsets in one transaction, commit or abort,
fall silent until they time out, vanish, and share transactional ids, so that some become zombies. A consumer reads with
`read_committed` all the time. What clients were told is kept in a `Ledger`, and in the end (I5, I6 of the reliability plan):

* a transaction whose commit was acknowledged is there, whole, every record once;
* one whose commit was never sent, or that was aborted, is not there at all, and was never shown;
* one whose outcome the client did not learn is there whole or not at all;
* the committed offset is that of the last transaction that committed one;
* nothing hangs: the last stable offset reaches the end of every partition, every transactional id is at rest.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.workload import connect

from ottla.errors import ErrorCode
from ottla.protocol.messages.add_offsets_to_txn import AddOffsetsToTxnRequest, AddOffsetsToTxnResponse
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
)
from ottla.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.protocol.schema import Message
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop
from ottla.testing.wire import WireClient

Place = tuple[str, int]

TOPICS = {"plain": {"segment.bytes": str(1 << 20)}, "small": {"internal.segment.bytes": "2000"}}
PARTITIONS = 2
PLACES = [(topic, index) for topic in TOPICS for index in range(PARTITIONS)]
#: Bytes of a batch that ends a transaction.
MARKER_SIZE = 78
WORKERS = 4
TRANSACTIONAL_IDS = 3
TIMEOUT_MS = 1_500

#: Ask again: the same request, by the same producer.
RETRIABLE = {
    ErrorCode.CONCURRENT_TRANSACTIONS,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
}
#: Somebody else has the transactional id, or the transaction was aborted meanwhile.
FENCED = {
    ErrorCode.INVALID_PRODUCER_EPOCH,
    ErrorCode.INVALID_PRODUCER_ID_MAPPING,
    ErrorCode.INVALID_TXN_STATE,
    ErrorCode.PRODUCER_FENCED,
    ErrorCode.TRANSACTION_ABORTABLE,
}


class FencedError(Exception):
    """This producer is shut out."""


@dataclass
class Transaction:
    """What one client knows of one transaction. `outcome` None: the commit was sent and not answered."""

    transactional_id: str
    values: dict[Place, list[str]] = field(default_factory=dict)
    offset: int | None = None
    outcome: bool | None = False


@dataclass
class Ledger:
    """What clients were told, and how often what happened. Transactions are in the order in which they began."""

    transactions: list[Transaction] = field(default_factory=list)
    seen: dict[Place, dict[int, str]] = field(default_factory=dict)
    next_offset: int = 1
    happened: Counter[str] = field(default_factory=Counter)


class Producer:
    """One life of a transactional producer."""

    def __init__(
        self, node: SimulatedBroker, ledger: Ledger, name: str, transactional_id: str, dice: random.Random
    ) -> None:
        self.node = node
        self.ledger = ledger
        self.name = name
        self.transactional_id = transactional_id
        self.dice = dice
        self.is_v2 = dice.random() < 0.6
        self.client: WireClient | None = None
        self.producer_id = -1
        self.epoch = -1
        self.sequences: Counter[Place] = Counter()

    async def ask(self, request: Message, version: int) -> Message:
        """Ask until there is an answer, over new connections if need be."""
        while True:
            if self.client is None or self.client.closed.done():
                self.client = await connect(self.node, self.name)
            try:
                return await self.client.send(request, version)
            except ConnectionError:
                self.ledger.happened["repeated after a lost connection"] += 1
                await asyncio.sleep(0.05)

    async def ask_until_settled(self, request: Message, version: int, code_of: str = "error_code") -> Message:
        """Ask until the answer is none that asks for patience.

        Raises:
            FencedError: the answer says so.
        """
        while True:
            answer = await self.ask(request, version)
            codes = _codes(answer)
            if not codes & RETRIABLE:
                if codes & FENCED:
                    self.ledger.happened["fenced"] += 1
                    raise FencedError(self.name)
                assert codes <= {ErrorCode.NONE}, (type(request).__name__, codes, answer)
                return answer
            self.ledger.happened["asked again"] += 1
            await asyncio.sleep(0.05)

    async def run(self) -> None:
        found = await self.ask_until_settled(
            FindCoordinatorRequest(key_type=1, coordinator_keys=[self.transactional_id]), 4
        )
        assert isinstance(found, FindCoordinatorResponse)
        expects = self.producer_id >= 0 and self.dice.random() < 0.5
        begun = await self.ask_until_settled(
            InitProducerIdRequest(
                transactional_id=self.transactional_id,
                transaction_timeout_ms=TIMEOUT_MS,
                producer_id=self.producer_id if expects else -1,
                producer_epoch=self.epoch if expects else -1,
            ),
            5,
        )
        assert isinstance(begun, InitProducerIdResponse)
        self.producer_id, self.epoch = begun.producer_id, begun.producer_epoch
        self.sequences.clear()
        for _ in range(self.dice.randint(1, 6)):
            transaction = Transaction(self.transactional_id)
            self.ledger.transactions.append(transaction)
            if not await self.transaction(transaction):
                return

    async def transaction(self, transaction: Transaction) -> bool:
        """Run one transaction; return False if the producer vanishes in the middle of it."""
        dice = self.dice
        places = dice.sample(PLACES, dice.randint(1, 3))
        if not self.is_v2:
            await self.ask_until_settled(
                AddPartitionsToTxnRequest(
                    v3_and_below_transactional_id=self.transactional_id,
                    v3_and_below_producer_id=self.producer_id,
                    v3_and_below_producer_epoch=self.epoch,
                    v3_and_below_topics=[AddPartitionsToTxnTopic(name=t, partitions=[p]) for t, p in places],
                ),
                3,
            )
        for place in places:
            for _ in range(dice.randint(1, 2)):
                await self.produce(transaction, place)
        if dice.random() < 0.4:
            await self.commit_offset(transaction)
        if dice.random() < 0.08:
            self.ledger.happened["vanished"] += 1
            return False
        if dice.random() < 0.05:
            self.ledger.happened["fell silent"] += 1
            await asyncio.sleep(TIMEOUT_MS / 1000 + 1)
        elif dice.random() < 0.3:
            await asyncio.sleep(dice.expovariate(10))
        if dice.random() < 0.06:
            await self.leave_while_committing(transaction)
            return False
        await self.end(transaction, commit=dice.random() < 0.7)
        return True

    async def produce(self, transaction: Transaction, place: Place) -> None:
        topic, index = place
        size = self.dice.randint(1, 3)
        number = len(self.ledger.transactions)
        known = transaction.values.get(place, [])
        values = [f"{self.name}:{number}:{topic}:{index}:{len(known) + i}" for i in range(size)]
        batch = build_batch(
            [Record(i, self.node.clock.wall_ms(), None, value.encode()) for i, value in enumerate(values)],
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            base_sequence=self.sequences[place],
            transactional=True,
        )
        # A record counts as part of the transaction before its acknowledgement: without one, nobody commits.
        transaction.values.setdefault(place, []).extend(values)
        await self.ask_until_settled(
            ProduceRequest(
                transactional_id=self.transactional_id,
                acks=-1,
                timeout_ms=5_000,
                topic_data=[
                    TopicProduceData(
                        name=topic, partition_data=[PartitionProduceData(index=index, records=bytes(batch))]
                    )
                ],
            ),
            12 if self.is_v2 else 11,
        )
        self.sequences[place] += size
        self.ledger.happened["records acknowledged"] += size

    async def commit_offset(self, transaction: Transaction) -> None:
        group = f"group-{self.transactional_id}"
        await self.ask_until_settled(FindCoordinatorRequest(key_type=0, coordinator_keys=[group]), 4)
        if not self.is_v2:
            await self.ask_until_settled(
                AddOffsetsToTxnRequest(
                    transactional_id=self.transactional_id,
                    producer_id=self.producer_id,
                    producer_epoch=self.epoch,
                    group_id=group,
                ),
                3,
            )
        self.ledger.next_offset += 1
        transaction.offset = self.ledger.next_offset
        await self.ask_until_settled(
            TxnOffsetCommitRequest(
                transactional_id=self.transactional_id,
                group_id=group,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                topics=[
                    TxnOffsetCommitRequestTopic(
                        name="plain",
                        partitions=[
                            TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=transaction.offset)
                        ],
                    )
                ],
            ),
            5 if self.is_v2 else 3,
        )
        self.ledger.happened["offset in a transaction"] += 1

    async def leave_while_committing(self, transaction: Transaction) -> None:
        """Send the commit and do not wait for the answer."""
        assert self.client is not None
        transaction.outcome = None
        request = EndTxnRequest(
            transactional_id=self.transactional_id,
            producer_id=self.producer_id,
            producer_epoch=self.epoch,
            committed=True,
        )
        answer = self.client.send(request, 5 if self.is_v2 else 3)
        answer.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.sleep(self.dice.choice((0, 0, 0.001)))
        self.client.close()
        self.ledger.happened["left while committing"] += 1

    async def end(self, transaction: Transaction, *, commit: bool) -> None:
        if commit:
            transaction.outcome = None
        answer = await self.ask_until_settled(
            EndTxnRequest(
                transactional_id=self.transactional_id,
                producer_id=self.producer_id,
                producer_epoch=self.epoch,
                committed=commit,
            ),
            5 if self.is_v2 else 3,
        )
        assert isinstance(answer, EndTxnResponse)
        transaction.outcome = commit
        self.ledger.happened["committed" if commit else "aborted"] += 1
        if self.is_v2:
            assert answer.producer_epoch == self.epoch + 1
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch
            self.sequences.clear()


def _codes(answer: Message) -> set[ErrorCode]:
    match answer:
        case FindCoordinatorResponse():
            found = [each.error_code for each in answer.coordinators]
        case AddPartitionsToTxnResponse():
            found = [
                part.partition_error_code
                for topic in answer.results_by_topic_v3_and_below
                for part in topic.results_by_partition
            ]
        case ProduceResponse():
            found = [part.error_code for topic in answer.responses for part in topic.partition_responses]
        case TxnOffsetCommitResponse():
            found = [part.error_code for topic in answer.topics for part in topic.partitions]
        case InitProducerIdResponse() | EndTxnResponse() | AddOffsetsToTxnResponse():
            found = [answer.error_code]
        case other:
            raise AssertionError(type(other))
    return {ErrorCode(code) for code in found}


async def worker(node: SimulatedBroker, ledger: Ledger, number: int, dice: random.Random, until: float) -> None:
    """Be one producer after another, sometimes with the identity of the one before."""
    loop = asyncio.get_running_loop()
    life = 0
    producer: Producer | None = None
    while loop.time() < until:
        life += 1
        transactional_id = f"tx-{dice.randrange(TRANSACTIONAL_IDS)}"
        before = producer
        producer = Producer(node, ledger, f"w{number}-{life}", transactional_id, dice)
        if before is not None and before.transactional_id == transactional_id:
            producer.producer_id, producer.epoch = before.producer_id, before.epoch
        try:
            await producer.run()
        except FencedError:
            producer.producer_id = producer.epoch = -1
        await asyncio.sleep(dice.expovariate(10))


async def nemesis(
    node: SimulatedBroker, ledger: Ledger, dice: random.Random, until: float, *, cuts_power: bool
) -> None:
    """Kill the broker, cut its power or stop it, at random moments and in the middle of markers; start it again."""
    loop = asyncio.get_running_loop()
    # The first is a crash, and comes while there is work: a seed without one shows little.
    pause = dice.uniform(0, 0.8) * (until - loop.time())
    while True:
        await asyncio.sleep(pause)
        if loop.time() >= until:
            return
        pause = dice.expovariate(0.7)
        kind = dice.choice(
            ("kill", "kill in a marker", "kill in a marker", "stop", "power cut" if cuts_power else "kill")
        )
        if kind == "stop" and not ledger.happened["crashes"]:
            kind = "kill"
        if kind == "kill in a marker":
            await _tear_a_write(node, dice)
        if kind == "stop":
            await node.stop()
        elif kind == "power cut" or (cuts_power and dice.random() < 0.5):
            node.power_cut()
        else:
            node.kill()
        ledger.happened[kind] += 1
        ledger.happened["crashes"] += kind != "stop"
        await asyncio.sleep(dice.random())
        await node.start()


async def _tear_a_write(node: SimulatedBroker, dice: random.Random) -> None:
    """Let the process die in the middle of a marker, or of one of the writes after it."""
    countdown = dice.randint(0, 3)
    marker_seen = False

    def torn(size: int) -> int | None:
        nonlocal countdown, marker_seen
        marker_seen |= size == MARKER_SIZE
        if not marker_seen:
            return None
        countdown -= 1
        return dice.randint(0, size - 1) if countdown == -1 and size else None

    life = node.files.life
    node.files.torn_append = torn
    for _ in range(100):
        await asyncio.sleep(0.01)
        if node.files.life != life:
            break
    node.files.torn_append = lambda _size: None


async def consumer(node: SimulatedBroker, ledger: Ledger, until: float | None) -> None:
    """Read what is committed; `until` None: to the end of every partition, which must be reached."""
    loop = asyncio.get_running_loop()
    positions = dict.fromkeys(PLACES, 0)
    client = await connect(node, "consumer")
    while until is None or loop.time() < until:
        request = FetchRequest(
            max_wait_ms=100,
            min_bytes=1,
            max_bytes=100_000,
            isolation_level=1,
            topics=[
                FetchTopic(
                    topic=topic,
                    partitions=[
                        FetchPartition(
                            partition=index, fetch_offset=positions[topic, index], partition_max_bytes=50_000
                        )
                        for index in range(PARTITIONS)
                    ],
                )
                for topic in TOPICS
            ],
        )
        try:
            answer = await client.ask(request, 11, FetchResponse)
        except ConnectionError:
            client = await connect(node, "consumer")
            continue
        is_at_end = True
        for topic in answer.responses:
            for part in topic.partitions:
                place = (topic.topic, part.partition_index)
                if part.error_code in RETRIABLE:
                    is_at_end = False
                    continue
                assert part.error_code == ErrorCode.NONE, (place, ErrorCode(part.error_code).name)
                positions[place] = _note_committed(ledger, place, positions[place], part)
                is_at_end &= positions[place] >= part.high_watermark
        if until is None and is_at_end:
            break
    client.close()


def _note_committed(ledger: Ledger, place: Place, position: int, part: PartitionData) -> int:
    """Take in the records of transactions that were not aborted, as a consumer does; return the next position."""
    data = part.records or b""
    waiting = sorted((each.first_offset, each.producer_id) for each in part.aborted_transactions or [])
    aborted: set[int] = set()
    seen = ledger.seen.setdefault(place, {})
    for at, header in iter_batches(data):
        assert header.last_offset < part.last_stable_offset, "shown beyond the last stable offset"
        while waiting and waiting[0][0] <= header.last_offset:
            aborted.add(waiting.pop(0)[1])
        if header.is_control:
            marker = read_marker(data, at)
            if marker is not None and marker.kind is ControlType.ABORT:
                aborted.discard(header.producer_id)
        elif not (header.is_transactional and header.producer_id in aborted):
            for record in read_records(data, at):
                if record.offset >= position:
                    assert record.value is not None
                    value = record.value.decode()
                    assert seen.setdefault(record.offset, value) == value, (place, record.offset)
                    ledger.happened["records read"] += 1
        position = max(position, header.last_offset + 1)
    return position


async def committed_offsets(node: SimulatedBroker) -> dict[str, int]:
    """Return the committed offset of each transactional id's group."""
    client = await connect(node, "reckoner")
    found: dict[str, int] = {}
    for number in range(TRANSACTIONAL_IDS):
        group = f"group-tx-{number}"
        while True:
            answer = await client.ask(
                OffsetFetchRequest(
                    groups=[
                        OffsetFetchRequestGroup(
                            group_id=group, topics=[OffsetFetchRequestTopics(name="plain", partition_indexes=[0])]
                        )
                    ],
                    require_stable=True,
                ),
                8,
                OffsetFetchResponse,
            )
            if not answer.groups[0].error_code:
                part = answer.groups[0].topics[0].partitions[0]
                assert part.error_code == ErrorCode.NONE, ErrorCode(part.error_code).name
                found[f"tx-{number}"] = part.committed_offset
                break
            if answer.groups[0].error_code == ErrorCode.NOT_COORDINATOR:
                break  # nobody has ever committed an offset
            await asyncio.sleep(0.05)
    client.close()
    return found


async def states(node: SimulatedBroker) -> set[str]:
    """Return the states that transactional ids are in."""
    client = await connect(node, "lister")
    while True:
        answer = await client.ask(ListTransactionsRequest(), 0, ListTransactionsResponse)
        if not answer.error_code:
            client.close()
            return {each.transaction_state for each in answer.transaction_states}
        await asyncio.sleep(0.05)


async def create_topics(node: SimulatedBroker) -> None:
    client = await connect(node, "admin")
    answer = await client.ask(
        CreateTopicsRequest(
            timeout_ms=10_000,
            topics=[
                CreatableTopic(
                    name=name,
                    num_partitions=PARTITIONS,
                    replication_factor=1,
                    configs=[CreatableTopicConfig(name=k, value=v) for k, v in configs.items()],
                )
                for name, configs in TOPICS.items()
            ],
        ),
        7,
        CreateTopicsResponse,
    )
    assert [t.error_code for t in answer.topics] == [0] * len(TOPICS), answer
    client.close()


async def run(loop: VirtualLoop, *, cuts_power: bool, seconds: float) -> Ledger:
    """One seed's story: clients and a nemesis for `seconds`, then peace, then the reckoning."""
    loop.time_limit = 3_600
    ledger = Ledger()
    settings: dict[str, object] = {
        "offsets.topic.num.partitions": 2,
        "transaction.state.log.num.partitions": 2,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 300,
        "log.cleaner.backoff.ms": 500,
        "log.initial.task.delay.ms": 500,
        "log.flush.offset.checkpoint.interval.ms": 2_000,
    }
    if cuts_power:
        settings["log.flush.interval.messages"] = 1
    node = SimulatedBroker(loop, **settings)
    node.slow_disk = loop.random.random() < 0.5
    if node.slow_disk:
        ledger.happened["slow disk"] += 1
        disk_dice = random.Random(loop.random.random())
        node.files.is_cold = lambda _path: disk_dice.random() < 0.2
        node.files.is_too_dirty = lambda: disk_dice.random() < 0.01
    await node.start()
    await create_topics(node)
    until = loop.time() + seconds

    def dice() -> random.Random:
        return random.Random(loop.random.random())

    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(worker(node, ledger, number, dice(), until))
        group.create_task(consumer(node, ledger, until))
        group.create_task(nemesis(node, ledger, dice(), until, cuts_power=cuts_power))
    if node.broker is None:
        await node.start()
    await asyncio.sleep(TIMEOUT_MS / 1000 + 2)  # what was left open times out
    await consumer(node, ledger, None)
    assert await states(node) <= {"Empty", "CompleteCommit", "CompleteAbort"}
    reckon(ledger, await committed_offsets(node))
    await node.stop()
    ledger.happened["events"] = loop.deliveries
    ledger.happened["synced as a whole"] = node.files.whole_syncs
    return ledger


def reckon(ledger: Ledger, offsets: dict[str, int]) -> None:
    """Compare what clients were told with what was read."""
    read = {place: Counter(values.values()) for place, values in ledger.seen.items()}
    last: dict[str, set[int]] = {}
    for transaction in ledger.transactions:
        counts = [read.get(place, Counter())[value] for place, values in transaction.values.items() for value in values]
        if transaction.outcome is True:
            assert set(counts) <= {1}, f"committed, but not there once: {transaction}"
        elif transaction.outcome is False:
            assert set(counts) <= {0}, f"never committed, but shown: {transaction}"
        else:
            assert set(counts) in ({0}, {1}, set()), f"torn: {transaction}"
            ledger.happened["outcome unknown: committed" if set(counts) == {1} else "outcome unknown: aborted"] += 1
        if transaction.offset is not None:
            known = last.setdefault(transaction.transactional_id, {-1})
            is_committed = transaction.outcome if transaction.outcome is not None else set(counts) == {1}
            if is_committed:
                known.clear()
                known.add(transaction.offset)
    for transactional_id, expected in last.items():
        assert offsets.get(transactional_id, -1) in expected, (transactional_id, offsets, expected)
