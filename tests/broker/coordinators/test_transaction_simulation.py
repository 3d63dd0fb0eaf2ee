"""Random transactional producers against one coordinator, over a log that fails, stalls and is replayed, and partitions
that take their time for markers or refuse them for a while. Everything comes from the seed.

Producers of both transaction versions share transactional ids. What they write into the (modelled) partitions is admitted
by the real gate, whose answers take their time as if the coordinator were on another broker, and by the partitions' real
`ProducerState`; markers are written by the real `TransactionMarkers`. Invariants, checked with every marker:
* all records of a transaction have the same end, and it is the one its producer was told (I5);
* what nobody decided to commit is not committed (I5);
after every step of the coordinator:
* an epoch is given to one producer only, and a producer id to one transactional id;
* states follow each other as they may: what is decided stays decided until it is complete;
after every reload:
* the state is, in every field, what the log's last records say (I9);
and at the end:
* nothing hangs: every transactional id comes to rest, and every record has its marker.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, cast

import pytest
from tests.broker.coordinators.memory_log import MemoryCoordinatorLog
from tests.support.seeds import further_seeds, run_covering, run_seeds, watching

from ottla.broker.coordinators.runtime import CoordinatorRuntime, Producer
from ottla.broker.coordinators.shard import Result
from ottla.broker.coordinators.transactions import records
from ottla.broker.coordinators.transactions.config import TransactionConfig
from ottla.broker.coordinators.transactions.coordinator import Identity, TransactionCoordinator
from ottla.broker.coordinators.transactions.state import Transaction, TransactionState
from ottla.broker.transactions.gate import Admission, TransactionGate
from ottla.broker.transactions.markers import MarkerLog, TransactionMarkers
from ottla.errors import (
    ErrorCode,
    InvalidTxnStateError,
    KafkaError,
    KafkaStorageError,
    NotLeaderOrFollowerError,
    error_for,
)
from ottla.protocol.messages.transaction_records import TransactionLogKey, TransactionLogValue
from ottla.protocol.records.batch import read_header
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, EndTransactionMarker
from ottla.storage.producer_state import ProducerState
from ottla.storage.verification import Verification, VerificationGuard
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

#: How long producers are at work, at least; they go on until there were EVENTS_MIN events and a crash.
VIRTUAL_SECONDS = 4
EVENTS_MIN = 1_000
TOPIC_PARTITIONS = [TopicPartition("t", index) for index in range(4)]
IDS = ("alpha", "beta", "gamma")
TIMEOUT_MS = 1_000
#: The header of what producers write: what is checked of it is set for each.
RECORD = read_header(
    build_batch([Record(0, 0, b"k", b"v")], producer_id=1, producer_epoch=0, base_sequence=0, transactional=True)
)

#: What 200 seeds must have met, each at least once.
COVERAGE = (
    "aborted",
    "append failed",
    "commit of unknown outcome",
    "committed",
    "compared after a reload",
    "crash before the commit",
    "several batches in flight",
    "end answered CONCURRENT_TRANSACTIONS",
    "end answered PRODUCER_FENCED",
    "epoch resumed",
    "epochs used up",
    "expired",
    "init answered CONCURRENT_TRANSACTIONS",
    "init answered NOT_COORDINATOR",
    "late record refused",
    "late record written",
    "marker delayed",
    "marker refused for a while",
    "records written",
    "refused by the gate",
    "refused by the log with INVALID_TXN_STATE",
    "refused by the log with NOT_LEADER_OR_FOLLOWER",
    "reload",
    "reload while markers are written",
    "seen aborted",
    "vanished",
)


class Entry(NamedTuple):
    """What lies in a partition: a record of a transaction, or (`commit` not None) a marker."""

    producer: Producer
    transaction: int
    commit: bool | None = None


#: From a state of a transactional id to those that its next records may have. None: there is nothing known of it.
IDLE = (None, TransactionState.EMPTY, TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT)
FOLLOWS: dict[TransactionState, tuple[TransactionState | None, ...]] = {
    TransactionState.EMPTY: IDLE,
    TransactionState.ONGOING: (*IDLE[1:], TransactionState.ONGOING),
    TransactionState.PREPARE_COMMIT: (TransactionState.ONGOING,),
    TransactionState.PREPARE_ABORT: (*IDLE[1:], TransactionState.ONGOING),
    TransactionState.COMPLETE_COMMIT: (TransactionState.PREPARE_COMMIT,),
    TransactionState.COMPLETE_ABORT: (TransactionState.PREPARE_ABORT,),
}


class Partitions:
    """Partitions that fence and verify as a log does; stands in for `MarkerLog`. `on_end` hears how transactions ended."""

    def __init__(self, random: random.Random, coverage: Counter[str], on_end: Callable[[int, bool], None]) -> None:
        self.entries: dict[TopicPartition, list[Entry]] = {topic_partition: [] for topic_partition in TOPIC_PARTITIONS}
        self.open: dict[tuple[TopicPartition, int], list[int]] = {}
        self.epochs: dict[tuple[TopicPartition, int], int] = {}
        self.states = {topic_partition: ProducerState(topic_partition, 1 << 40) for topic_partition in TOPIC_PARTITIONS}
        self.leader_epochs = dict.fromkeys(TOPIC_PARTITIONS, 0)
        self._random = random
        self._coverage = coverage
        self._on_end = on_end

    def begin(self, topic_partition: TopicPartition, producer: Producer) -> VerificationGuard:
        return self.states[topic_partition].begin_verification(*producer, self.leader_epochs[topic_partition], 0)

    def change_leader(self, topic_partition: TopicPartition) -> None:
        """The partition has another leader, which knows what is in the log and no guards."""
        self.leader_epochs[topic_partition] += 1
        self.states[topic_partition].load(self.states[topic_partition].snapshot(), 0, 0)

    def write(
        self, topic_partition: TopicPartition, producer: Producer, transaction: int, verification: Verification
    ) -> bool:
        """Append a record; return whether the log takes it."""
        if producer[1] < self.epochs.get((topic_partition, producer[0]), -1):
            return True  # fenced
        header = RECORD._replace(producer_id=producer[0], producer_epoch=producer[1])
        try:
            self.states[topic_partition].check_verification(header, verification, self.leader_epochs[topic_partition])
        except (InvalidTxnStateError, NotLeaderOrFollowerError) as error:
            self._coverage[f"refused by the log with {error.code.name}"] += 1
            return False
        self.states[topic_partition].add_batch(header, len(self.entries[topic_partition]), 0)
        self.epochs[topic_partition, producer[0]] = producer[1]
        self.entries[topic_partition].append(Entry(producer, transaction))
        self.open.setdefault((topic_partition, producer[0]), []).append(transaction)
        return True

    def append(
        self,
        topic_partition: TopicPartition,
        producer: Producer,
        marker: EndTransactionMarker,
        transaction_version: int,
    ) -> Awaitable[None]:
        if self._random.random() < 0.1:
            self._coverage["marker refused for a while"] += 1
            raise NotLeaderOrFollowerError()
        assert producer[1] >= self.epochs.get((topic_partition, producer[0]), -1), "a marker comes too late"
        header = RECORD._replace(producer_id=producer[0], producer_epoch=producer[1])
        self.states[topic_partition].add_marker(header, marker, len(self.entries[topic_partition]), 0)
        self.epochs[topic_partition, producer[0]] = producer[1]
        self.entries[topic_partition].append(Entry(producer, -1, marker.kind is ControlType.COMMIT))
        for number in self.open.pop((topic_partition, producer[0]), ()):
            self._on_end(number, marker.kind is ControlType.COMMIT)
        fails = self._random.random() < 0.05
        delay = self._random.choice((0, 0, 0.01, 0.3))

        async def committed() -> None:
            if delay:
                self._coverage["marker delayed"] += 1
                await asyncio.sleep(delay)
            if fails:
                raise KafkaStorageError("the answer was lost")

        return committed()


class Told(NamedTuple):
    """What a producer knows of the end of its transaction: True, False, or None if it was not told."""

    commit: bool | None


class Simulation:
    def __init__(self, loop: VirtualLoop, seed: int, coverage: Counter[str]) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.coverage = coverage
        self.log = MemoryCoordinatorLog()
        clock = VirtualClock(loop)
        self.partitions = Partitions(self.random, coverage, self.on_end)
        self.markers = TransactionMarkers(cast(MarkerLog, self.partitions), leader_of=lambda _topic_partition: 1)
        self.next_id = 0
        self.told: dict[int, Told] = {}
        self.ends: dict[int, bool] = {}
        #: What is wrong with an end: said at the end, since markers that cannot be written are tried again.
        self.wrong_ends: list[str] = []
        #: The newest state of every transactional id, and the coordinator it was seen in.
        self.seen: dict[str, Transaction] = {}
        self.seen_in: TransactionCoordinator | None = None
        self.late: list[asyncio.Future[None]] = []
        self.identities: dict[Producer, object] = {}
        self.runtime: CoordinatorRuntime[TransactionCoordinator] = CoordinatorRuntime(
            topic=TRANSACTION_STATE_TOPIC,
            log=self.log,
            shard_factory=lambda partition, timeline, timers: TransactionCoordinator(
                partition,
                timeline,
                timers,
                config=TransactionConfig(
                    abort_check_interval_ms=200, id_expiration_ms=3_000, id_expiration_check_interval_ms=500
                ),
                send_markers=self.markers.send,
                take_producer_id=self.take_producer_id,
            ),
            partition_count=lambda: 1,
            clock=clock,
        )
        self.markers.transactions = self.runtime
        self.gate = TransactionGate(
            self.runtime, verifies=lambda: True, retry_backoff_ms=20, retry_ms_max=100, clock=clock
        )
        self.wall_ms = clock.wall_ms
        self.rollbacks = 0
        self.coordinator_epoch = 0

    def take_producer_id(self) -> int | None:
        if self.random.random() < 0.02:
            return None
        self.next_id += 1
        return self.next_id

    def on_end(self, number: int, commit: bool) -> None:
        """A marker has ended the records of a transaction in one partition."""
        if self.ends.setdefault(number, commit) != commit:
            self.wrong_ends.append(f"transaction {number} is torn")
        told = self.told[number].commit
        if told is not None and told != commit:
            self.wrong_ends.append(f"transaction {number}: told {told}, is {commit}")

    def check(self) -> None:
        """What must be true of the coordinator's memory after every step."""
        if not self.runtime.loaded_partitions:
            return
        assert not self.wrong_ends, self.wrong_ends
        shard = self.runtime.read(0, lambda shard: shard)
        rollbacks = self.runtime.counts.rollbacks
        now = dict(shard.transactions.items())
        if now == self.seen and self.seen_in is shard:
            return
        owners: dict[int, str] = {}
        for transactional_id, known in now.items():
            owner = owners.setdefault(known.producer_id, transactional_id)
            assert owner == transactional_id, f"{known.producer_id} belongs to {owner} and {transactional_id}"
            assert bool(known.partitions) or known.state is not TransactionState.ONGOING, known
            before = self.seen.get(transactional_id)
            # A failed append undoes what was decided, and a reload what was not written.
            if self.seen_in is not shard or self.rollbacks != rollbacks or before == known:
                continue
            assert (None if before is None else before.state) in FOLLOWS[known.state], f"{before} became {known}"
            if before is not None and before.producer_id == known.producer_id:
                assert known.producer_epoch >= before.producer_epoch, f"{before} became {known}"
        self.seen, self.seen_in, self.rollbacks = now, shard, rollbacks

    async def producer(self) -> None:
        """Be one producer after another."""
        producer: Producer | None = None
        transactional_id = ""
        while True:
            await asyncio.sleep(self.random.uniform(0, 0.5))
            resumes = producer is not None and self.random.random() < 0.5
            if not resumes:
                transactional_id = self.random.choice(IDS)
            producer = await self.init(transactional_id, producer if resumes else None)
            if producer is None:
                continue
            for _ in range(self.random.randint(1, 4)):
                producer = await self.transaction(transactional_id, producer)
                if producer is None:
                    break

    async def init(self, transactional_id: str, expected: Producer | None) -> Producer | None:
        while True:
            try:
                found = await self.runtime.write(
                    0,
                    lambda shard, now_ms: shard.init_producer_id(transactional_id, TIMEOUT_MS, expected, now_ms),
                )
                code = found.error_code
            except KafkaError as error:
                found, code = Identity(), error.code
            if code == ErrorCode.NONE:
                if expected is not None:
                    self.coverage["epoch resumed"] += 1
                identity = (found.producer_id, found.producer_epoch)
                # The repetition of a request whose answer was lost gets the same answer; nobody else may.
                assert expected is not None or identity not in self.identities, "one epoch for two producers"
                self.identities[identity] = self
                return identity
            self.coverage[f"init answered {code.name}"] += 1
            if code in (ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_ID_MAPPING):
                return None
            await asyncio.sleep(self.random.uniform(0.01, 0.1))

    async def transaction(self, transactional_id: str, producer: Producer) -> Producer | None:
        number = len(self.told)
        self.told[number] = Told(False)
        adds = self.random.random() < 0.6
        for topic_partition in self.random.sample(TOPIC_PARTITIONS, self.random.randint(1, 3)):
            if not adds and not await self.add(transactional_id, producer, topic_partition):
                return None
            if not adds and self.random.random() < 0.15:
                self.late.append(asyncio.ensure_future(self.write_late(transactional_id, producer, topic_partition)))
            for _ in range(20):
                admission = await self.admit(transactional_id, producer, topic_partition, adds=adds)
                if admission.code == ErrorCode.NONE:
                    if self.partitions.write(topic_partition, producer, number, admission.verification):
                        self.coverage["records written"] += 1
                        break
                    return None
                self.coverage["refused by the gate"] += 1
                if admission.code not in (
                    ErrorCode.CONCURRENT_TRANSACTIONS,
                    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
                    ErrorCode.COORDINATOR_NOT_AVAILABLE,
                    ErrorCode.NOT_COORDINATOR,
                ):
                    return None
                await asyncio.sleep(self.random.uniform(0, 0.05))
            else:
                return None
        if self.random.random() < 0.1:
            self.coverage["vanished"] += 1
            return None
        if self.random.random() < 0.05:
            await asyncio.sleep(2)
        return await self.end(transactional_id, producer, number, commit=self.random.random() < 0.7, bumps=adds)

    async def write_late(self, transactional_id: str, producer: Producer, topic_partition: TopicPartition) -> None:
        """Be a request that its producer has given up, and that arrives when its transaction may be over (KIP-890)."""
        number = len(self.told)
        self.told[number] = Told(None)
        await asyncio.sleep(self.random.uniform(0, 0.5))
        admission = await self.admit(transactional_id, producer, topic_partition, adds=False)
        await asyncio.sleep(self.random.choice((0, 0.05, 0.3)))
        if admission.code == ErrorCode.NONE and self.partitions.write(
            topic_partition, producer, number, admission.verification
        ):
            self.coverage["late record written"] += 1
        else:
            self.coverage["late record refused"] += 1

    async def admit(
        self, transactional_id: str, producer: Producer, topic_partition: TopicPartition, *, adds: bool
    ) -> Admission:
        """Ask the gate; its answer is under way for a while."""
        admissions = await self.gate.admit(
            transactional_id,
            *producer,
            [topic_partition],
            adds=adds,
            begin=lambda topic_partition: self.partitions.begin(topic_partition, producer),
        )
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.choice((0, 0.01, 0.3)))
        return admissions[topic_partition]

    async def add(self, transactional_id: str, producer: Producer, topic_partition: TopicPartition) -> bool:
        for _ in range(20):
            try:
                await self.runtime.write(
                    0,
                    lambda shard, now_ms: shard.add_partitions(
                        transactional_id, *producer, [topic_partition], 0, now_ms
                    ),
                )
            except KafkaError as error:
                if error.code in (ErrorCode.PRODUCER_FENCED, ErrorCode.INVALID_PRODUCER_ID_MAPPING):
                    return False
                await asyncio.sleep(self.random.uniform(0, 0.05))
            else:
                return True
        return False

    async def end(
        self, transactional_id: str, producer: Producer, number: int, *, commit: bool, bumps: bool
    ) -> Producer | None:
        if commit:
            self.told[number] = Told(None)
        is_repetition = False
        while True:
            try:
                found = await self.runtime.write(
                    0,
                    lambda shard, now_ms: shard.end_transaction(
                        transactional_id, *producer, commit, 2 if bumps else 0, now_ms
                    ),
                )
            except KafkaError as error:
                self.coverage[f"end answered {error.code.name}"] += 1
                if error.code in (
                    ErrorCode.PRODUCER_FENCED,
                    ErrorCode.INVALID_PRODUCER_ID_MAPPING,
                    ErrorCode.INVALID_TXN_STATE,
                ):
                    if commit:
                        self.coverage["commit of unknown outcome"] += 1
                    return None
                is_repetition = True
                await asyncio.sleep(self.random.uniform(0, 0.1))
                continue
            self.told[number] = Told(commit)
            self.coverage["committed" if commit else "aborted"] += 1
            if not bumps:
                return producer
            identity = (found.producer_id, found.producer_epoch)
            assert is_repetition or identity not in self.identities or not commit, "one epoch for two producers"
            self.identities[identity] = self
            return identity

    async def trouble(self) -> None:
        """Stall the log, let it fail, lose the partition, use up epochs."""
        while True:
            await asyncio.sleep(self.random.expovariate(1.5))
            match self.random.randrange(6):
                case 0:
                    self.log.hold = True
                    await asyncio.sleep(self.random.uniform(0, 0.5))
                    if self.random.random() < 0.4:
                        await self.reload()
                    self.log.hold = False
                    self.log.release()
                case 1:
                    code = self.random.choice((ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR))
                    self.log.failures.append((error_for(code), self.random.random() < 0.3))
                    self.coverage["append failed"] += 1
                case 2 | 3:
                    await self.reload()
                case 4:
                    self.use_up_epochs()
                case 5:
                    self.partitions.change_leader(self.random.choice(TOPIC_PARTITIONS))

    async def reload(self) -> None:
        if len(self.markers):
            self.coverage["reload while markers are written"] += 1
        self.coverage["reload"] += 1
        self.coverage["crashes"] += 1
        self.log.hold = False
        if self.random.random() < 0.5:
            self.log.release()
        self.runtime.on_resign(0)
        self.coverage["crash before the commit"] += self.log.lose_uncommitted()
        await asyncio.sleep(self.random.choice((0, 0.05)))
        self.coordinator_epoch += 1
        self.runtime.on_leader(0, self.coordinator_epoch)
        for _ in range(50):
            await asyncio.sleep(0)
            if self.runtime.loaded_partitions:
                break
        if self.runtime.loaded_partitions:
            expected: dict[str, Transaction] = {}
            for record in self.log.records(0):
                assert record.key is not None
                decoded = records.decode(record.key, record.value)
                assert decoded is not None
                assert isinstance(decoded.key, TransactionLogKey)
                expected.pop(decoded.key.transactional_id, None)
                if isinstance(decoded.value, TransactionLogValue):
                    expected[decoded.key.transactional_id] = records.to_transaction(
                        decoded.key.transactional_id, decoded.value
                    )
            held = self.runtime._held[0]
            if held.pipeline.is_idle:
                found = self.runtime.read(0, lambda shard: shard.list_committed())
                assert {each.transactional_id: in_records(each) for each in found} == {
                    name: in_records(each) for name, each in expected.items()
                }
                self.coverage["compared after a reload"] += 1

    def use_up_epochs(self) -> None:
        """Write a state with one of the last epochs, as years of transactions would."""
        for transactional_id in IDS:
            try:
                known = self.runtime.read(0, lambda shard, name=transactional_id: shard.transactions.get(name))  # type: ignore[misc]
            except KafkaError:
                return
            if known is not None and known.state.is_idle and known.producer_epoch < 32_000:
                aged = known.with_epoch(32_765 - self.random.randint(0, 1), -1, TIMEOUT_MS, self.wall_ms())
                future = self.runtime.write(0, lambda _s, _n, state=aged: Result(None, [records.transaction(state, 2)]))  # type: ignore[misc]
                future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                self.coverage["epochs used up"] += 1
                return

    async def run(self) -> None:
        self.runtime.start()
        self.runtime.on_leader(0, 0)
        tasks = [asyncio.ensure_future(self.producer()) for _ in range(5)]
        tasks.append(asyncio.ensure_future(self.trouble()))
        done: set[asyncio.Task[None]] = set()
        while not done and (
            self.loop.time() < VIRTUAL_SECONDS or self.coverage["events"] < EVENTS_MIN or not self.coverage["crashes"]
        ):
            done, _ = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
        for future in (*tasks, *self.late):
            future.cancel()
        await asyncio.gather(*tasks, *self.late, return_exceptions=True)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self.log.failures.clear()
        await self.reload()
        await asyncio.sleep(TIMEOUT_MS / 1000 + 3)
        left = self.runtime.read(0, lambda shard: shard.list_committed())
        assert all(each.state.is_idle for each in left), left
        self.reckon()
        await asyncio.sleep(10)
        if not self.runtime.read(0, lambda shard: shard.list_committed()):
            self.coverage["expired"] += 1
        assert len(self.markers) == 0
        assert not self.wrong_ends, self.wrong_ends
        await self.runtime.stop()

    def reckon(self) -> None:
        """Find the end of every record and compare it with what its producer was told."""
        ends: dict[int, set[bool]] = {}
        for entries in self.partitions.entries.values():
            open_records: dict[int, list[int]] = {}
            for entry in entries:
                if entry.commit is None:
                    open_records.setdefault(entry.producer[0], []).append(entry.transaction)
                else:
                    for number in open_records.pop(entry.producer[0], ()):
                        ends.setdefault(number, set()).add(entry.commit)
            assert not any(open_records.values()), "a record without a marker"
        for number, found in ends.items():
            told = self.told[number].commit
            assert len(found) == 1, f"transaction {number} is torn"
            assert told is None or found == {told}, f"transaction {number}: told {told}, is {found}"
            if told is False and found == {False}:
                self.coverage["seen aborted"] += 1


def in_records(transaction: Transaction) -> Transaction:
    """Return the part of a transaction that its record tells."""
    return replace(transaction, last_producer_epoch=-1, record_offset=-1)


def simulate(seed: int) -> tuple[Counter[str], str]:
    """Run one seed; return what happened in it, and its trace."""
    coverage: Counter[str] = Counter()

    async def main(loop: VirtualLoop) -> None:
        simulation = Simulation(loop, seed, coverage)
        with watching(simulation.runtime, coverage, simulation.check):
            await simulation.run()

    _, trace = run_virtual(seed, main)
    return coverage, trace


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    return simulate(seed)[0]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Failing appends are what these tests are made of."""
    logger = logging.getLogger("ottla")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__])


@pytest.mark.parametrize("seeds", further_seeds(), ids=str)
def test_seeds_keep_the_invariants(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)


def test_same_seed_same_trace() -> None:
    assert simulate(3) == simulate(3)
