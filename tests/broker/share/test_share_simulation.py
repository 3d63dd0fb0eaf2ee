"""Random members of share groups, share partitions and their coordinator in virtual time, everything from the seed.

The state machine of the share partitions, the manager with its lock timers, the persister and the coordinator are the real
ones; the coordinator's log fails, stalls, loses what is not committed and is replayed, and the topic is a model: batches with
holes, some of an aborted transaction, a log start that moves. Invariants, checked as it happens:
* an offset is held by at most one member at a time, and by nobody else while its lock lasts;
* what was answered as acknowledged is never handed out again;
* the delivery count of an offset grows with every delivery and does not pass the limit, within one life of the broker;
* the start offset does not move back, except when offsets are altered;
* nothing of an aborted transaction, and nothing below the log start, is handed out;
and at the end: every record was acknowledged, given up, or lies below the log start; after a reload the coordinator's state
is what its log says.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple, cast

import pytest
from tests.broker.coordinators.memory_log import MemoryCoordinatorLog
from tests.support.seeds import further_seeds, run_covering, run_seeds

from ottla.broker.context import Session
from ottla.broker.coordinators.runtime import CoordinatorRuntime
from ottla.broker.coordinators.share import records
from ottla.broker.coordinators.share.config import ShareCoordinatorConfig
from ottla.broker.coordinators.share.coordinator import ShareCoordinator
from ottla.broker.coordinators.timeline import Timeline
from ottla.broker.replicas.manager import ReplicaManager
from ottla.broker.share.config import ShareConfig
from ottla.broker.share.manager import SharePartitionManager
from ottla.broker.share.persister import CoordinatorPersister, InitialState
from ottla.broker.share.share_partition import ACCEPT, GAP, REJECT, RELEASE, RENEW, Acknowledgement, AcquireRequest
from ottla.errors import ErrorCode, KafkaError, error_for
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import SHARE_GROUP_STATE_TOPIC, TopicIdPartition, TopicPartition

EVENTS_MIN = 1_000
VIRTUAL_SECONDS_MAX = 600
GROUP = "workers"
TOPIC_ID = b"t" * 16
PARTITIONS = 2
LIMIT = 4
LOCK_MS = 2_000
LOCKS_MAX = 60

#: What these seeds must have met, each at least once.
COVERAGE = (
    "acknowledgement failed",
    "acknowledgement refused",
    "altered",
    "append failed",
    "archived as aborted",
    "broker crash",
    "coordinator reload",
    "crash before the commit",
    "exact acquired",
    "full",
    "given up",
    "lock ran out",
    "log start moved",
    "member left",
    "pruned",
    "redelivered",
    "released",
    "renewed",
    "split",
    "snapshot written",
)


class Log(NamedTuple):
    """What a share partition asks of a log."""

    log_start_offset: int
    high_watermark: int


class ModelPartition:
    """A partition's batches: (first, last, aborted); between them are holes."""

    def __init__(self, index: int, random: random.Random) -> None:
        self.topic_partition = TopicPartition("jobs", index)
        self.topic_id = TOPIC_ID
        self.leader_epoch = 0
        self.log_start = 0
        self.batches: list[tuple[int, int, bool]] = []
        self.random = random

    @property
    def log(self) -> Log:
        return Log(self.log_start, self.end)

    @property
    def end(self) -> int:
        return self.batches[-1][1] + 1 if self.batches else 0

    def append(self) -> None:
        first = self.end + (self.random.random() < 0.1) * self.random.randint(1, 4)
        self.batches.append((first, first + self.random.randint(0, 9), self.random.random() < 0.1))

    def fetch(self, offset: int, count: int) -> list[tuple[int, int, bool]]:
        first = bisect_left(self.batches, offset, key=itemgetter(1))
        return self.batches[first : first + count]

    def is_aborted(self, offset: int) -> bool:
        [(first, _, aborted)] = self.fetch(offset, 1)
        return aborted and first <= offset


class Image(NamedTuple):
    topic_names: Mapping[bytes, str]


class ModelReplicas:
    """Stands in for the ReplicaManager: every partition is led here."""

    image = Image({TOPIC_ID: "jobs"})

    def __init__(self, partitions: list[ModelPartition]) -> None:
        self._partitions = partitions

    def partition(self, topic: str, index: int) -> ModelPartition:
        return self._partitions[index]

    def error(self, topic: str, index: int) -> ErrorCode:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


class Simulation:
    """One seed."""

    def __init__(self, loop: VirtualLoop, seed: int, coverage: Counter[str]) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.coverage = coverage
        self.log = MemoryCoordinatorLog()
        self.clock = VirtualClock(loop)
        self.partitions = [ModelPartition(index, self.random) for index in range(PARTITIONS)]
        self.config = ShareConfig(
            record_lock_duration_ms=LOCK_MS, delivery_count_limit=LIMIT, record_locks_max=LOCKS_MAX
        )
        self.runtime: CoordinatorRuntime[ShareCoordinator] = CoordinatorRuntime(
            topic=SHARE_GROUP_STATE_TOPIC,
            log=self.log,
            shard_factory=lambda partition, timeline, timers: self.shard(partition, timeline, timers),
            partition_count=lambda: 1,
            clock=self.clock,
        )

        async def ensure_topic(name: str) -> None:
            """It exists."""

        self.persister = CoordinatorPersister(self.runtime, ensure_topic)
        self.manager = self.new_manager()
        self.state_epoch = 1
        #: Who holds which offset until when, by partition.
        self.held: list[dict[int, tuple[str, int]]] = [{} for _ in range(PARTITIONS)]
        self.counts: list[Counter[int]] = [Counter() for _ in range(PARTITIONS)]
        self.finished: list[set[int]] = [set() for _ in range(PARTITIONS)]
        #: The same, but whose answer may yet come.
        self.asked: list[Counter[int]] = [Counter() for _ in range(PARTITIONS)]
        self.starts = [0] * PARTITIONS
        self.connection = Session(listener="PLAINTEXT", client_host="10.0.0.7")
        self.life = 0
        self.producing = True

    def shard(self, partition: int, timeline: Timeline, timers: object) -> ShareCoordinator:
        return ShareCoordinator(
            partition,
            timeline,
            timers,  # type: ignore[arg-type]
            config=ShareCoordinatorConfig(
                updates_per_snapshot=7, cold_snapshot_interval_ms=3_000, prune_interval_ms=1_000
            ),
            partition_count_of=lambda topic_id: PARTITIONS,
            prune=self.prune,
        )

    def prune(self, partition: int, before_offset: int) -> None:
        self.log.delete_before(partition, before_offset)
        self.coverage["pruned"] += 1

    def new_manager(self) -> SharePartitionManager:
        return SharePartitionManager(
            cast(ReplicaManager, ModelReplicas(self.partitions)),
            self.persister,
            config_of=lambda group_id: self.config,
            sessions_max=10,
            clock=self.clock,
        )

    # ---------------------------------------------------------------- members

    async def member(self, member_id: str) -> None:
        """Fetch and acknowledge for ever."""
        mine: list[tuple[int, int, int]] = []
        while True:
            await asyncio.sleep(self.random.choice((0, 0.01, 0.1, 0.5)))
            self.coverage["events"] += 1
            life = self.life
            if mine and self.random.random() < 0.7:
                await self.acknowledge(member_id, mine)
            elif self.random.random() < 0.03:
                self.coverage["member left"] += 1
                self.session(member_id)
                self.manager.on_member_left(GROUP, member_id)
                for held in self.held:
                    for offset in [offset for offset, holder in held.items() if holder[0] == member_id]:
                        del held[offset]
                mine.clear()
            else:
                mine += self.fetch(member_id, self.random.randrange(PARTITIONS))
            if life != self.life:
                mine.clear()

    def session(self, member_id: str) -> None:
        """Give the member a session with all partitions, so that leaving releases what it holds."""
        topic_id_partitions = [TopicIdPartition(TOPIC_ID, index) for index in range(PARTITIONS)]
        self.manager.sessions.open((GROUP, member_id), topic_id_partitions, has_acks=False, connection=self.connection)

    def fetch(self, member_id: str, index: int) -> list[tuple[int, int, int]]:
        partition, held, now = self.partitions[index], self.held[index], self.clock.monotonic_ms()
        led = self.manager.get_or_load(GROUP, TopicIdPartition(TOPIC_ID, index))
        state = led.state
        if state is None:
            return []
        if not state.can_acquire(self.config):
            self.coverage["full"] += 1
            return []
        if state.start_offset < partition.log_start:
            state.on_log_start(partition.log_start)
        assert state.start_offset >= self.starts[index], "the start offset has moved back"
        self.starts[index] = state.start_offset
        offset = state.next_fetch_offset()
        batches = partition.fetch(offset, self.random.randint(1, 4))
        exact = self.random.random() < 0.3
        wanted = self.random.randint(1, 15)
        acquired = state.acquire(
            AcquireRequest(member_id, wanted, self.random.choice((3, 500)), exact),
            offset,
            [(first, last) for first, last, _ in batches],
            [(first, last) for first, last, aborted in batches if aborted],
            self.config,
            now,
        )
        if any(aborted for _, _, aborted in batches):
            self.coverage["archived as aborted"] += 1
        if acquired:
            self.manager.on_acquired(led)
        if exact and acquired:
            self.coverage["exact acquired"] += 1
            assert sum(piece.last - piece.first + 1 for piece in acquired) <= wanted
        self.coverage["split"] += len(acquired) > 1
        for first, last, count in acquired:
            assert 1 <= count <= LIMIT, f"delivered {count} times"
            for each in range(first, last + 1):
                holder = held.get(each)
                # Given back a moment ago, its holder has not heard yet?
                is_answered = self.asked[index][each] > 0
                assert holder is None or holder[1] <= now or is_answered, f"{each} is held by {holder}"
                if holder is not None:
                    self.coverage["lock ran out"] += 1
                assert each not in self.finished[index], f"{each} was acknowledged"
                assert not partition.is_aborted(each), f"{each} is of an aborted transaction"
                assert each >= partition.log_start
                assert count > self.counts[index][each], f"{each}: {count} after {self.counts[index][each]}"
                self.coverage["redelivered"] += count > 1
                self.counts[index][each] = count
                held[each] = (member_id, now + LOCK_MS)
        return [(index, piece.first, piece.last) for piece in acquired]

    async def acknowledge(self, member_id: str, mine: list[tuple[int, int, int]]) -> None:
        index, first, last = mine.pop(self.random.randrange(len(mine)))
        if self.random.random() < 0.3 and first < last:
            middle = self.random.randint(first, last - 1)
            mine.append((index, middle + 1, last))
            last = middle
        if self.random.random() < 0.1:
            last += 1  # perhaps somebody else's, perhaps nobody's
        kinds = [self.random.choice((ACCEPT, ACCEPT, ACCEPT, RELEASE, REJECT, GAP)) for _ in range(first, last + 1)]
        types = kinds if self.random.random() < 0.3 else [self.random.choice((kinds[0], kinds[0], RENEW))]
        life, now = self.life, self.clock.monotonic_ms()
        each_type = {
            offset: types[0] if len(types) == 1 else types[offset - first] for offset in range(first, last + 1)
        }
        for offset in each_type:
            self.asked[index][offset] += 1
        wanted = {TopicIdPartition(TOPIC_ID, index): [Acknowledgement(first, last, types)]}
        before = self.starts[index]
        epoch = self.state_epoch
        try:
            error = (await self.manager.acknowledge(GROUP, member_id, wanted))[TopicIdPartition(TOPIC_ID, index)]
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if life == self.life or (task is not None and task.cancelling()):
                raise
            self.coverage["asked a broker that died"] += 1
            return
        finally:
            for offset in each_type:
                self.asked[index][offset] -= 1
        if error is not None:
            known = error.code in (ErrorCode.INVALID_RECORD_STATE, ErrorCode.INVALID_REQUEST)
            self.coverage["acknowledgement refused" if known else "acknowledgement failed"] += 1
            return
        if life != self.life or epoch != self.state_epoch:
            # Answered, but the broker or the group's offsets are not what they were: only what is persisted counts.
            if epoch == self.state_epoch:
                self.finished[index].update(
                    offset for offset, kind in each_type.items() if kind in (ACCEPT, REJECT, GAP) and offset >= before
                )
            return
        for offset, kind in each_type.items():
            if kind == RENEW:
                self.coverage["renewed"] += 1
                if self.held[index].get(offset, ("", 0))[0] == member_id:
                    self.held[index][offset] = (member_id, now + LOCK_MS)
                continue
            if self.held[index].get(offset, ("", 0))[0] == member_id:
                self.held[index].pop(offset)
            if kind == RELEASE:
                self.coverage["released"] += 1
                self.coverage["given up"] += self.counts[index][offset] >= LIMIT
            else:
                self.finished[index].add(offset)

    # ---------------------------------------------------------------- trouble

    async def producer(self) -> None:
        while self.producing:
            await asyncio.sleep(self.random.expovariate(8))
            self.random.choice(self.partitions).append()
            if self.random.random() < 0.02:
                index = self.random.randrange(PARTITIONS)
                partition = self.partitions[index]
                partition.log_start = self.random.randint(
                    partition.log_start, min(partition.end, partition.log_start + 10)
                )
                self.coverage["log start moved"] += 1

    async def trouble(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(0.5))
            match self.random.randrange(5):
                case 0:
                    self.log.hold = True
                    await asyncio.sleep(self.random.uniform(0, 0.5))
                    if self.random.random() < 0.4:
                        await self.reload()
                    self.log.hold = False
                    self.log.release()
                case 1:
                    code = self.random.choice((ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.MESSAGE_TOO_LARGE))
                    self.log.failures.append((error_for(code), self.random.random() < 0.3))
                    self.coverage["append failed"] += 1
                case 2:
                    await self.reload()
                case 3:
                    await self.crash()
                case 4:
                    await self.alter()

    async def reload(self) -> None:
        """The coordinator moves, perhaps with a power cut."""
        self.coverage["coordinator reload"] += 1
        self.log.hold = False
        if self.random.random() < 0.5:
            self.log.release()
        self.runtime.on_resign(0)
        self.coverage["crash before the commit"] += self.log.lose_uncommitted()
        self.runtime.on_leader(0, 1)
        for _ in range(50):
            await asyncio.sleep(0)
            if self.runtime.loaded_partitions:
                break
        if self.random.random() < 0.1:
            self.check_state()

    async def crash(self) -> None:
        """The broker that leads the share partitions dies, and comes back."""
        self.coverage["broker crash"] += 1
        self.coverage["crashes"] += 1
        self.life += 1
        old, self.manager = self.manager, self.new_manager()
        for index in range(PARTITIONS):
            self.held[index].clear()
            self.starts[index] = 0
            self.counts[index].clear()
        await self.reload()
        await old.stop()

    async def alter(self) -> None:
        """Offsets are altered: the group begins at the log start again."""
        if self.random.random() < 0.7:
            return
        epoch = self.state_epoch + 1
        index = self.random.randrange(PARTITIONS)
        start = self.partitions[index].log_start
        topic_id_partition = TopicIdPartition(TOPIC_ID, index)
        self.state_epoch = epoch
        [result] = await self.persister.initialize(GROUP, [InitialState(topic_id_partition, epoch, start)])
        # Whatever came of it: what was acknowledged before may be delivered again.
        self.manager.on_group_deleted(GROUP)
        self.finished[index].clear()
        self.life += 1
        for each in range(PARTITIONS):
            self.held[each].clear()
            self.starts[each] = 0
            self.counts[each].clear()
        if result.error_code == ErrorCode.NONE:
            self.coverage["altered"] += 1

    def check_state(self) -> None:
        """What is loaded is what the log says, replayed by an independent shard."""
        if not self.runtime.loaded_partitions:
            return
        fresh = self.shard(0, Timeline(tracks=False), None)
        for record in self.log.records(0):
            decoded = records.decode(record.key or b"", record.value)
            assert decoded is not None
            assert records.encode(decoded) == (record.key, record.value)
            fresh.replay(record.offset, -1, decoded)
            self.coverage["snapshot written"] += decoded.key.API_KEY == 0
        try:
            found = self.runtime.read(0, lambda shard: dict(shard.states.items_committed()))
        except KafkaError:
            return
        # How many updates there were before the snapshots that count is forgotten with them.
        assert {topic_id_partition: state._replace(updates=0) for topic_id_partition, state in found.items()} == {
            topic_id_partition: state._replace(updates=0) for topic_id_partition, state in fresh.states.items()
        }

    # -------------------------------------------------------------------- run

    async def run(self) -> None:
        self.runtime.start()
        self.runtime.on_leader(0, 0)
        topic_id_partitions = [InitialState(TopicIdPartition(TOPIC_ID, index), 1, 0) for index in range(PARTITIONS)]
        assert all(not row.error_code for row in await self.persister.initialize(GROUP, topic_id_partitions))
        members = [asyncio.ensure_future(self.member(f"m{number}")) for number in range(10)]
        others = [asyncio.ensure_future(self.producer()), asyncio.ensure_future(self.trouble())]
        tasks = [*members, *others]
        done: set[asyncio.Task[None]] = set()
        while not done and (self.coverage["events"] < EVENTS_MIN or not self.coverage["crashes"]):
            assert self.loop.time() < VIRTUAL_SECONDS_MAX, "it does not get on"
            done, _ = await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        await self.drain()
        self.check_state()
        await self.manager.stop()
        await self.runtime.stop()

    async def drain(self) -> None:
        """Without trouble everything comes to an end: after all locks have run out, one member takes and accepts the rest."""
        self.log.hold = False
        self.log.failures.clear()
        self.log.release()
        await self.crash()
        idle = 0
        while idle < 3 * PARTITIONS:
            taken = [piece for index in range(PARTITIONS) for piece in self.fetch("last", index)]
            for index, first, last in taken:
                wanted = {TopicIdPartition(TOPIC_ID, index): [Acknowledgement(first, last, [ACCEPT])]}
                answers = await self.manager.acknowledge(GROUP, "last", wanted)
                assert set(answers.values()) == {None}
                self.finished[index].update(range(first, last + 1))
                for offset in range(first, last + 1):
                    self.held[index].pop(offset)
            idle = 0 if taken else idle + 1
            await asyncio.sleep(0.05)
        for index, partition in enumerate(self.partitions):
            state = self.manager.get_or_load(GROUP, TopicIdPartition(TOPIC_ID, index)).state
            assert state is not None
            assert state.next_fetch_offset() >= partition.end or not partition.fetch(state.next_fetch_offset(), 1)


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; return what happened in it."""
    coverage: Counter[str] = Counter()
    run_virtual(seed, lambda loop: Simulation(loop, seed, coverage).run())
    return coverage


def test_in_the_first_seeds_everything_happens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        run_covering(sys.modules[__name__])


@pytest.mark.parametrize("seeds", further_seeds(), ids=str)
def test_seeds_keep_the_invariants(seeds: range, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        run_seeds(sys.modules[__name__], seeds)


def test_the_same_seed_does_the_same() -> None:
    assert run_seed(7) == run_seed(7)
