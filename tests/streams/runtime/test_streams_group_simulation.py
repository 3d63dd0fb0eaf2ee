"""Instances with group.protocol=streams against the coordinator of streams groups (KIP-1071): no task twice, none forgotten.

`StreamsMembership` is the real one, the coordinator is the broker's; between them a network that loses requests and answers,
and a log that fails. Instances come, go, die, are slow; they give tasks up late. Each reads its committed offset when it
begins with a task, goes on, and commits under its identity. Invariants, checked as it happens:

* nobody begins with a task that another member still has, as far as the coordinator counts that one in;
* a commit that is accepted goes on where the last accepted one ended: nobody else has worked on the task meanwhile;
* left in peace, each task runs once, and copies are on other processes than their task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.broker.coordinators.group_world import GroupWorld
from tests.support.seeds import run_covering, run_seeds, watching

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.streams.config import StreamsConfig
from ottla.broker.coordinators.groups.streams.group import StreamsGroup
from ottla.client._core.group import Assign, Fail, Lose, Revoke, Subscription
from ottla.client._core.streams_member import StreamsSettings
from ottla.cluster.image import GROUPS, ConfigResource, ImageDelta
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from ottla.streams import App
from ottla.streams.runtime.group_topology import told_topology
from ottla.streams.runtime.internal_topics import internal_topics
from ottla.streams.runtime.streams_group import StreamsMembership
from ottla.streams.topology import TaskId
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import TopicPartition

EVENTS_MIN = 150
SESSION_MS = 6_000
_DISTURBANCES = 30
COUNTS = {"lines": 4, "left": 3, "right": 3}
COVERAGE = (
    "began",
    "gave up",
    "lost",
    "died",
    "closed",
    "was slow",
    "request lost",
    "answer lost",
    "joined again",
    "standbys changed",
    "copies told",
    "committed",
    "commit refused",
    "log failed",
    "crashes",
    "quiet at last",
)


def _app() -> App:
    app = App("g", default_key=str, default_value=str)
    app.stream("lines", key=str, value=str).group_by(lambda key, value: value, name="words").count(store="counted")
    left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
    left.join(right, lambda one, two: one + two, within="1m", name="pair", store="pairs")
    return app


TOPOLOGY = _app().topology()
ALL_COUNTS = TOPOLOGY.partition_counts(COUNTS)
TOLD = told_topology(TOPOLOGY, {topic.name: topic for topic in internal_topics(TOPOLOGY, COUNTS)[0]}, -1)
TOPICS = {sub.id: sub.source_topics for sub in TOPOLOGY.tasks}
ALL_PARTITIONS = [TopicPartition(topic, number) for topic, count in ALL_COUNTS.items() for number in range(count)]
WITH_STATE = {sub.id for sub in TOPOLOGY.tasks if any(spec.changelog for spec in sub.stores)}
SUB_OF = {topic: sub for sub, topics in TOPICS.items() for topic in topics}


class Network:
    """What a member asks its client for: requests that may be lost, or whose answers may be."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.random = random.Random(simulation.random.random())
        self.dead = False

    def wake(self) -> None:
        """The program looks soon at any rate."""

    def delay_ms(self, failures: int) -> float:
        return min(50.0 * 2.0**failures, 1000.0)

    def ask(
        self,
        now_ms: float,
        actions: list[Any],
        node_id: int,
        key: Any,
        build: Callable[[int], Any],
        answered: Callable[[Any, Any, float], None],
        failed: Callable[[Any, Exception, float], None],
    ) -> None:
        self.simulation.soon(self._send(build(1), answered, failed))

    async def _send(self, request: Any, answered: Callable[..., None], failed: Callable[..., None]) -> None:
        sim = self.simulation
        await asyncio.sleep(sim.random.random() * 0.02)
        if sim.chance(0.02):
            sim.coverage["request lost"] += 1
            await asyncio.sleep(0.5)
            return self._fail(failed)
        response = await sim.world.handle(1, request)
        await asyncio.sleep(sim.random.random() * 0.02)
        if sim.chance(0.03):
            sim.coverage["answer lost"] += 1
            await asyncio.sleep(0.5)
            return self._fail(failed)
        if not self.dead:
            answered(None, response, sim.now_ms())
        return None

    def _fail(self, failed: Callable[..., None]) -> None:
        if not self.dead:
            failed(None, ConnectionError("lost"), self.simulation.now_ms())


class Reachable:
    """A coordinator that is always known."""

    node_id = 0

    def reach(self, now_ms: float, actions: list[Any]) -> None:
        return None

    def lose(self, now_ms: float) -> None: ...

    def on_code(self, code: int, now_ms: float) -> None: ...

    def take_error(self) -> None:
        return None


class Instance:
    """A program: does what its group wants in its own time, works on what it has, commits."""

    def __init__(self, simulation: Simulation, process: str) -> None:
        self.simulation = simulation
        self.process = process
        self.network = Network(simulation)
        self.copies: frozenset[TaskId] = frozenset()
        #: By partition, (what was committed when it began or last, how far it is).
        self.work: dict[TopicPartition, tuple[int, int]] = {}
        self.membership = StreamsMembership(
            cast(Any, self.network),
            cast(Any, Reachable()),
            StreamsSettings("g", TOLD, process, rebalance_timeout_ms=20_000),
            topics=TOPICS,
            counts=ALL_COUNTS,
            on_copies=self.on_copies,
            on_owners=lambda owners: None,
        )
        self.membership.subscribe(Subscription(tuple(ALL_COUNTS)))
        self.dead = self.closing = False

    @property
    def tasks(self) -> set[TaskId]:
        return {TaskId(SUB_OF[where.topic], where.partition) for where in self.work}

    @property
    def is_member(self) -> bool:
        """Whether what it has is still its own, as far as the coordinator knows."""
        membership = self.membership
        membership._look()
        return not (self.dead or membership._lost) and self.simulation.knows(membership.member)

    def on_copies(self, tasks: frozenset[TaskId]) -> None:
        self.simulation.coverage["copies told"] += bool(tasks)
        self.copies = tasks

    def heartbeat(self) -> None:
        if not self.dead:
            self.membership.poll(self.simulation.now_ms(), [])

    async def turn(self) -> None:
        """One call of the consumer's, then some work, then perhaps a commit."""
        sim, membership = self.simulation, self.membership
        while not self.dead and (step := membership.step()) is not None:
            match step:
                case Fail(error):
                    membership.done(step)
                    raise error
                case Assign(partitions):
                    membership.done(step)  # at once, as the consumer does
                    await self.begin(partitions)
                case Revoke(partitions):
                    if sim.chance(0.5):
                        await asyncio.sleep(sim.random.random() * 3)
                    await self.commit()
                    self.give_up(partitions)
                    sim.coverage["gave up"] += 1
                    membership.done(step)
                case Lose(partitions):
                    self.give_up(partitions)
                    sim.coverage["lost"] += 1
                    membership.done(step)
        for where, (base, position) in self.work.items():
            self.work[where] = (base, position + 1)
        if sim.random.random() < 0.2:
            await self.commit()

    async def begin(self, partitions: list[TopicPartition]) -> None:
        sim = self.simulation
        for other in sim.instances:
            shared = set(partitions) & other.work.keys()
            assert other is self or not shared or not other.is_member, f"{shared} at {self.process} and {other.process}"
        assert self.work.keys().isdisjoint(partitions)
        self.work.update(dict.fromkeys(partitions, (0, 0)))
        self.work.update({where: (offset, offset) for where, offset in (await sim.committed(partitions)).items()})
        sim.coverage["began"] += bool(partitions)

    def give_up(self, partitions: list[TopicPartition]) -> None:
        for where in partitions:
            del self.work[where]

    async def commit(self) -> None:
        """Commit as exactly once does: what is refused comes again from the committed offset."""
        sim, identity = self.simulation, self.membership.identity
        moved = {where: position for where, (base, position) in self.work.items() if position > base}
        if not moved or identity.generation_id < 0:
            return
        bases = {where: self.work[where][0] for where in moved}
        topics: dict[str, list[OffsetCommitRequestPartition]] = {}
        for where, position in moved.items():
            row = OffsetCommitRequestPartition(partition_index=where.partition, committed_offset=position)
            topics.setdefault(where.topic, []).append(row)
        before = await sim.committed(moved)
        response = await sim.world.handle(
            9,
            OffsetCommitRequest(
                group_id="g",
                generation_id_or_member_epoch=identity.generation_id,
                member_id=identity.member_id,
                topics=[OffsetCommitRequestTopic(name=name, partitions=rows) for name, rows in topics.items()],
            ),
        )
        codes = {
            TopicPartition(topic.name, row.partition_index): row.error_code
            for topic in response.topics
            for row in topic.partitions
        }
        for where in moved:
            accepted = codes[where] == ErrorCode.NONE
            sim.coverage["committed" if accepted else "commit refused"] += 1
            if accepted:
                assert before[where] == bases[where], (
                    f"{where}: begun at {bases[where]}, but {before[where]} was committed"
                )
        self.work.update({where: (offset, offset) for where, offset in (await sim.committed(moved)).items()})


class Simulation:
    """One seed."""

    def __init__(self, world: GroupWorld, seed: int, coverage: Counter[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.coverage = coverage
        self.instances: list[Instance] = []
        self.is_peace = False
        self.standbys = 0
        self.failures: list[BaseException] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self._number = 0

    def now_ms(self) -> float:
        return float(self.world.loop.time() * 1000)

    def chance(self, probability: float) -> bool:
        return not self.is_peace and self.random.random() < probability

    def soon(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)

        def over(task: asyncio.Task[Any]) -> None:
            self.tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failures.append(error)

        task.add_done_callback(over)

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return what a reader of stable offsets gets; 0 where nothing is committed."""
        topics: dict[str, list[int]] = {}
        for topic, number in partitions:
            topics.setdefault(topic, []).append(number)
        rows = [OffsetFetchRequestTopics(name=name, partition_indexes=numbers) for name, numbers in topics.items()]
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="g", topics=rows)], require_stable=True)
        while True:
            group = (await self.world.handle(9, request)).groups[0]
            found = [(topic.name, row) for topic in group.topics for row in topic.partitions]
            if group.error_code == ErrorCode.NONE and all(row.error_code == ErrorCode.NONE for _, row in found):
                return {TopicPartition(name, row.partition_index): max(row.committed_offset, 0) for name, row in found}
            await asyncio.sleep(0.05)

    def knows(self, member: Any) -> bool:
        if 0 not in self.world.runtime.loaded_partitions:
            return False
        group = self.world.shard().groups.get("g")
        known = group.members.get(member.member_id) if isinstance(group, StreamsGroup) else None
        return known is not None and known.member_epoch >= member.epoch > 0

    async def run(self) -> None:
        world = self.world
        for number, (name, count) in enumerate(COUNTS.items()):
            world.add_topic(name, 100 + number, count)
        beating = asyncio.ensure_future(self.beat())
        try:
            for _ in range(2):
                self.start_one()
            disturbances = 0
            while not self.failures and (disturbances < _DISTURBANCES or not self.coverage["crashes"]):
                disturbances += 1
                await asyncio.sleep(self.random.random() * 2)
                self.disturb()
            await self.settle_down()
        finally:
            for instance in self.instances:
                instance.dead = instance.network.dead = True
            beating.cancel()
            for task in list(self.tasks):
                task.cancel()
        if self.failures:
            raise self.failures[0]

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for instance in self.instances:
                instance.heartbeat()

    def start_one(self) -> None:
        self._number += 1
        # Two instances may share a process, as those of one `run` do.
        instance = Instance(self, f"p{self._number // 2}")
        self.instances.append(instance)
        self.coverage["joined again"] += self._number > 4
        self.soon(self.live(instance))

    async def live(self, instance: Instance) -> None:
        while not instance.dead:
            await asyncio.sleep(self.random.random() * 0.5)
            if self.chance(0.01):
                self.coverage["was slow"] += 1
                instance.membership.on_slow(self.now_ms())
                await asyncio.sleep(self.random.random() * 8)
            if instance.closing:
                await self.close(instance)
            elif not instance.dead:
                await instance.turn()

    def disturb(self) -> None:
        running = [each for each in self.instances if not (each.dead or each.closing)]
        what = self.random.random()
        if what < 0.15 and len(running) < 5:
            self.start_one()
        elif what < 0.22 and len(running) > 1:
            victim = self.random.choice(running)
            victim.dead = victim.network.dead = True
            self.coverage["died"] += 1
            self.coverage["crashes"] += 1
        elif what < 0.28 and len(running) > 1:
            self.random.choice(running).closing = True
        elif what < 0.35:
            self.world.log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), False))
            self.coverage["log failed"] += 1
        elif what < 0.4:
            self.set_standbys(self.random.randrange(3))

    async def close(self, instance: Instance) -> None:
        if not isinstance(instance.membership.step(), Lose):
            await instance.commit()
        instance.work.clear()
        instance.membership.leave()
        self.coverage["closed"] += 1
        for _ in range(200):
            if instance.membership.left:
                break
            await asyncio.sleep(0.05)
        instance.dead = True

    def set_standbys(self, number: int) -> None:
        self.standbys = number
        resource = ConfigResource(GROUPS, "g")
        config = {"streams.num.standby.replicas": str(number)}
        self.world.image = replace(self.world.image, configs={**self.world.image.configs, resource: config})
        self.world.runtime.on_image(self.world.image, ImageDelta(changed_configs=(resource,)))
        self.coverage["standbys changed"] += 1

    async def settle_down(self) -> None:
        self.is_peace = True
        self.world.log.failures.clear()
        await asyncio.sleep(12)
        running = [each for each in self.instances if not (each.dead or each.closing)]
        for _ in range(120):
            problem = self.unrest(running)
            if problem is None or self.failures:
                break
            await asyncio.sleep(0.5)
        assert self.failures or problem is None, problem
        self.coverage["quiet at last"] += 1

    def unrest(self, running: list[Instance]) -> str | None:
        """What is not as it should be in the end."""
        found = Counter(where for each in running for where in each.work)
        if found != Counter(ALL_PARTITIONS):
            return f"run: {sorted(found.elements())}"
        processes = {each.process for each in running}
        wanted = min(self.standbys, len(processes) - 1)
        copies = Counter(task for each in running for task in each.copies)
        for sub, topics in TOPICS.items():
            for number in range(max(ALL_COUNTS[topic] for topic in topics)):
                task = TaskId(sub, number)
                if copies[task] != (wanted if sub in WITH_STATE else 0):
                    return f"{task} has {copies[task]} copies, not {wanted}"
                owner = next(each.process for each in running if task in each.tasks)
                if any(task in each.copies for each in running if each.process == owner):
                    return f"a copy of {task} is beside it"
        return None


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    coverage: Counter[str] = Counter()

    async def main(loop: VirtualLoop) -> None:
        streams = StreamsConfig(
            session_timeout_ms=SESSION_MS,
            initial_rebalance_delay_ms=500,
            assignment_interval_ms=100,
            heartbeat_interval_ms=500,
        )
        world = GroupWorld(loop, config=GroupConfig(streams=streams), seed=seed)
        with watching(world.runtime, coverage):
            await world.start()
            try:
                await Simulation(world, seed, coverage).run()
            finally:
                await world.runtime.stop()

    run_virtual(seed, main)
    return coverage


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__], 20)


@pytest.mark.parametrize("seeds", [range(20, 35), range(35, 50)], ids=str)
def test_seeds_keep_the_invariants(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)
