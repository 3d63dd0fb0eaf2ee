"""Several brokers' controllers in virtual time, on an ensemble that errs. Brokers here have no logs: what they hold is given.

A machine is killed (the page cache survives), loses power (it does not), sleeps, is cut off; it starts again when told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.cluster.cluster_support import CLUSTER

from ottla.cluster.controller import Controller, ControllerSettings, prepare_tree
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import ClusterImage, Endpoint, ImageDelta, LogEnd
from ottla.cluster.nodes import CHANGE_PREFIX, Change, ChangeNode, PartitionState, StateNode
from ottla.cluster.sessions import Sessions
from ottla.cluster.tree import Create, SetData
from ottla.testing.simulated_ensemble import EnsembleFaults, SimulatedEnsemble
from ottla.testing.simulated_tree import SimulatedTree
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import TopicPartition

TIMEOUT_MS = 6_000


class Machine:
    """One broker's machine.

    Attributes:
        ends: where its logs end, by partition.
        failures: sentences with which its processes ended.
    """

    def __init__(self, world: World, node_id: int, *, directories: tuple[str, ...] | None = None) -> None:
        self._world = world
        self.node_id = node_id
        self.directories = directories or (f"directory-{node_id}",)
        self.ends: dict[TopicPartition, LogEnd] = {}
        self.failures: list[str] = []
        self.boots = 0
        self.is_running = False
        self._was_clean = False
        self._life = 0
        self._trees: list[SimulatedTree] = []
        self.deltas: list[tuple[ClusterImage, ImageDelta]] = []
        self.sessions: Sessions
        self.follower: MetadataFollower
        self.controller: Controller

    @property
    def image(self) -> ClusterImage:
        return self.follower.image

    @property
    def tree(self) -> SimulatedTree:
        return self._trees[-1]

    async def start(self) -> Machine:
        """Start a process on this machine."""
        assert not self.is_running
        self.is_running = True
        try:
            self._life, _ = await self._world.loop.begin_life(self._main)
        except BaseException:
            self.kill()
            raise
        return self

    async def _main(self) -> None:
        self.sessions = Sessions(self._open)
        tree = await self.sessions.start()
        await prepare_tree(tree, CLUSTER)
        self.follower = MetadataFollower(tree)
        self.deltas = []
        self.follower.subscribe(lambda image, delta: self.deltas.append((image, delta)))
        await self.follower.start()
        random = Random(self._world.loop.random.random())
        self.controller = Controller(
            tree,
            self.follower,
            ControllerSettings(node_id=self.node_id, static=self._world.static),
            random=random,
            secret_bytes=random.randbytes,
            clock=self._world.clock,
            log_end=self.ends.get,
            partitions_per_multi=self._world.partitions_per_multi,
        )
        was_clean, self._was_clean = self._was_clean, False
        await self.controller.start(
            [Endpoint("PLAINTEXT", f"host{self.node_id}", 9092, "PLAINTEXT")],
            clean=was_clean,
            directories=self.directories,
            page_cache=f"boot {self.boots}",
        )
        self.sessions.keep(
            on_end=self.controller.end_session, on_begin=self.controller.begin_session, on_failure=self.failures.append
        )

    async def _open(self) -> SimulatedTree:
        self._trees.append(await self._world.ensemble.connect())
        return self._trees[-1]

    def kill(self) -> None:
        """kill -9: what was written is in the page cache."""
        self.is_running = False
        self._world.loop.end_life(self._life)
        if self._trees:
            self.tree.vanish()

    def lose_power(self) -> None:
        self.kill()
        self.boots += 1

    async def stop(self) -> None:
        """Stop cleanly."""
        await self.controller.hand_over(10)
        await self.controller.stop()
        await self.follower.stop()
        await self.sessions.stop()
        self._was_clean = True
        self.is_running = False
        self._world.loop.end_life(self._life)


class World:
    """Machines 1 to n and one ensemble."""

    def __init__(
        self, loop: VirtualLoop, count: int = 3, *, partitions_per_multi: int = 100, min_isr: int = 1, **faults: float
    ) -> None:
        self.loop = loop
        self.clock = VirtualClock(loop)
        self.static = {"min.insync.replicas": str(min_isr)}
        self.partitions_per_multi = partitions_per_multi
        self.ensemble = SimulatedEnsemble(
            Random(loop.random.random()),
            session_timeout_ms=TIMEOUT_MS,
            faults=EnsembleFaults(delay_seconds_max=0.005, **faults),
        )
        self.machines = {node_id: Machine(self, node_id) for node_id in range(1, count + 1)}

    def __getitem__(self, node_id: int) -> Machine:
        return self.machines[node_id]

    async def start(self, *node_ids: int) -> World:
        for node_id in node_ids or self.machines:
            await self.machines[node_id].start()
        return self

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.is_running]

    def controllers(self) -> list[int]:
        return [machine.node_id for machine in self.running if machine.controller.epoch]

    def state(self, topic: str, index: int = 0) -> PartitionState:
        """Return what is committed, whatever brokers believe."""
        path = StateNode.path(topic, index)
        node = self.ensemble.committed.node(path)
        assert node is not None, path
        return StateNode.decode(path, node.data)

    async def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = self.loop.time() + seconds
        while not condition():
            assert self.loop.time() < deadline, "it did not happen"
            await asyncio.sleep(0.02)

    async def has_leader(self, topic: str, leader: int, index: int = 0) -> PartitionState:
        await self.until(lambda: self.state(topic, index).leader == leader)
        return self.state(topic, index)

    def force(self, topic: str, index: int = 0, **changes: object) -> None:
        """Change a state as its leader would."""
        path = StateNode.path(topic, index)
        state = self.state(topic, index)
        values = {name: getattr(state, name) for name in PartitionState.__dataclass_fields__}
        note = ChangeNode.encode(Change(partitions=((topic, index),)), self.clock.wall_ms())
        data = StateNode.encode(PartitionState(**{**values, **changes}))
        self.ensemble.commit([SetData(path, data), Create(CHANGE_PREFIX, note, sequential=True)], 0)


def simulate(scenario: Callable[[World], Awaitable[None]], seed: int = 1, **options: float) -> World:
    """Run a scenario in a world of three machines, none started."""
    worlds: list[World] = []

    async def main(loop: VirtualLoop) -> None:
        worlds.append(World(loop, **options))  # type: ignore[arg-type]
        await scenario(worlds[0])

    run_virtual(seed, main)
    return worlds[0]
