"""Histories of three brokers that are killed, lose power, sleep, stop and start, on an ensemble that errs. From one seed.

Whatever happens,

1. a leader epoch of a partition has one leader, and its epochs only grow,
2. a leader is a member of the ISR, and a clean one was admitted under an epoch that it continued,
3. a topic that was deleted is never led again, and one that was made is led in the end or not there,
4. when all is well again there is one controller, all brokers believe the same, and every partition has a leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from tests.cluster.world import Machine, World, simulate

from ottla.cluster.controller import NewTopic
from ottla.cluster.image import NO_LEADER, LogEnd
from ottla.cluster.nodes import BrokerEpochNode, DeletedNode, PartitionState, StateNode
from ottla.cluster.tree import TreeUnavailableError
from ottla.errors import ErrorCode, KafkaError
from ottla.testing.simulated_ensemble import EnsembleFaults
from ottla.types import TopicPartition

#: What has to happen in many seeds, or they prove nothing.
COVERAGE = (
    *("kill", "power", "sleep", "stop", "cut", "expire", "start", "created", "deleted", "elections", "recoveries"),
    *("answer_lost", "late_request", "connection_lost", "watch_lost", "early_end", "late_end"),
)
#: Events are transactions of the tree here, and each is a decision.
EVENTS_MIN = 20
STEPS = 30
FAULTS = EnsembleFaults(
    delay_seconds_max=0.01,
    answer_lost=0.02,
    late_request=0.02,
    connection_lost=0.01,
    watch_lost=0.1,
    early_end=0.2,
    late_end=0.1,
)


class History:
    """One history, and what is checked after each transaction."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.loop.random
        self.counter: Counter[str] = Counter()
        self._leaders: dict[tuple[bytes, str, int], int] = {}
        self._epochs: dict[tuple[bytes, str], int] = {}
        self._deleted: set[bytes] = set()

    async def run(self) -> None:
        world = self.world
        await world.start()
        for name, replicas in (("t", (1, 2, 3)), ("u", (2, 3, 1)), ("v", (3,)), ("w", (2, 1))):
            made = await world[1].controller.create_topics([NewTopic(name=name, assignments=[(0, replicas)])])
            assert made[0].error is ErrorCode.NONE
            for machine in world.machines.values():
                machine.ends[TopicPartition(name, 0)] = LogEnd(0, self.random.randrange(10))
        self._check_each_commit()
        world.ensemble.faults = FAULTS
        for _ in range(STEPS):
            await asyncio.sleep(self.random.random() * 4)
            await self._step(world[self.random.randrange(1, 4)])
        await self._settle()
        self.counter.update(world.ensemble.happened)

    def _check_each_commit(self) -> None:
        commit = self.world.ensemble.commit

        def checked(*args: object) -> object:
            result = commit(*args)  # type: ignore[arg-type]
            self.counter["events"] += 1
            self._check()
            return result

        self.world.ensemble.commit = checked  # type: ignore[method-assign, assignment]

    def _check(self) -> None:
        committed = self.world.ensemble.committed
        self._deleted |= {DeletedNode.topic_id(name) for name in committed.children("/deleted")}
        for topic in committed.children("/brokers/topics"):
            node = committed.node(StateNode.path(topic, 0))
            if node is None:
                continue
            state = StateNode.decode(topic, node.data)
            key = (state.topic_id, topic)
            before = self._epochs.get(key, -1)
            assert state.leader_epoch >= before, (topic, state)
            if state.leader_epoch == before:
                assert self._leaders[*key, before] == state.leader, (topic, state)
                continue
            self._epochs[key] = state.leader_epoch
            self._leaders[*key, state.leader_epoch] = state.leader
            self._check_election(state)

    def _check_election(self, state: PartitionState) -> None:
        self.counter["elections"] += 1
        if state.leader == NO_LEADER:
            return
        assert state.leader in state.isr, state
        assert state.topic_id not in self._deleted, state
        node = self.world.ensemble.committed.node(BrokerEpochNode.path(state.leader))
        assert node is not None
        admitted = state.isr_epochs[state.isr.index(state.leader)]
        assert admitted == node.stat.version, state  # it is registered under the epoch that the state names
        self.counter["recoveries"] += state.recovered_in == state.leader_epoch

    async def _step(self, machine: Machine) -> None:
        world, random = self.world, self.random
        kind = random.choice(["kill", "power", "sleep", "stop", "cut", "expire", "create", "delete"])
        if not machine.is_running:
            self.counter["start"] += 1
            try:
                await machine.start()
            except TreeUnavailableError:
                self.counter["start failed"] += 1
            return
        self.counter[kind] += 1
        if kind == "kill":
            machine.kill()
        elif kind == "power":
            machine.lose_power()
        elif kind == "stop":
            await machine.stop()
        elif kind == "sleep":
            machine.tree.swallow()
            world.loop.call_later(random.random() * 15, machine.tree.let_through)
        elif kind == "cut":
            world.ensemble.cut_off(random.randrange(3))
            world.loop.call_later(random.random() * 15, world.ensemble.heal)
        elif kind == "expire":
            world.ensemble.expire(machine.tree.session_id)
        else:
            await self._change_topics(machine, kind)

    async def _change_topics(self, machine: Machine, kind: str) -> None:
        controller = machine.controller
        try:
            async with asyncio.timeout(5):
                if kind == "create":
                    wanted = NewTopic(name=f"x{self.random.randrange(3)}", num_partitions=5, replication_factor=1)
                    made = (await controller.create_topics([wanted]))[0]
                    self.counter["created"] += made.error is ErrorCode.NONE
                else:
                    gone = (await controller.delete_topics([f"x{self.random.randrange(3)}"]))[0]
                    self.counter["deleted"] += gone.error is ErrorCode.NONE
        except (KafkaError, TimeoutError, TreeUnavailableError):
            self.counter["refused"] += 1

    async def _settle(self) -> None:
        world = self.world
        await asyncio.sleep(20)
        world.ensemble.heal()
        world.ensemble.faults = EnsembleFaults(delay_seconds_max=0.01)
        for machine in world.machines.values():
            if not machine.is_running:
                await machine.start()
        await asyncio.sleep(60)
        assert [machine.failures for machine in world.running] == [[], [], []]
        assert len(world.controllers()) == 1
        images = [await machine.follower.refresh() for machine in world.running]
        for image in images:
            assert sorted(image.brokers) == [1, 2, 3]
            assert image.topics == images[0].topics
            assert image.brokers == images[0].brokers
            for topic in image.topics.values():
                assert topic.creating is None
                assert topic.topic_id not in self._deleted
                assert all(partition.leader != NO_LEADER for partition in topic.partitions), topic


def run_seed(seed: int) -> Counter[str]:
    """Run one history; return what happened in it."""
    histories: list[History] = []

    async def scenario(world: World) -> None:
        histories.append(History(world))
        await histories[0].run()

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        simulate(scenario, seed, partitions_per_multi=2)
    finally:
        logging.disable(before)
    counter = histories[0].counter
    counter["crashes"] = counter["kill"] + counter["power"]
    return counter


def test_fifty_histories() -> None:
    total: Counter[str] = Counter()
    for seed in range(50):
        try:
            total += run_seed(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert [name for name in COVERAGE if not total[name]] == []


def test_a_seed_determines_everything() -> None:
    assert run_seed(11) == run_seed(11)
