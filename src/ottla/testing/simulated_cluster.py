"""A cluster in virtual time: real brokers on simulated machines, links that can be cut, one simulated ensemble.

    async def scenario(loop: VirtualLoop) -> None:
        cluster = SimulatedCluster(loop, 3)
        await cluster.start()
        await cluster.make_topic("orders", [(1, 2, 3)])
        cluster.isolate(2)
        cluster[1].kill()
        ...

    run_virtual(seed, scenario)

One seed, one thread: the same seed gives the same trace. What brokers believe is read from them, what is true from
`ensemble.committed`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from ottla.cluster.nodes import PartitionState, StateNode
from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.testing.simulated_ensemble import NO_FAULTS, EnsembleFaults, SimulatedEnsemble
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop
from ottla.testing.wire import WireClient

SESSION_TIMEOUT_MS = 6_000
#: Pause between two looks at whether something has happened.
LOOK_SECONDS = 0.02


class SimulatedCluster:
    """Machines 1 to `count` and an ensemble of three servers.

    Args:
        settings: of every broker, in Kafka's spelling.

    Attributes:
        machines: by broker id.
        ensemble: the servers of the coordination tree.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        count: int = 3,
        *,
        faults: EnsembleFaults = NO_FAULTS,
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
        **settings: object,
    ) -> None:
        self.loop = loop
        self.ensemble: SimulatedEnsemble = SimulatedEnsemble(
            random.Random(loop.random.random()), session_timeout_ms=session_timeout_ms, faults=faults
        )
        self.machines: dict[int, SimulatedBroker] = {}
        for node_id in range(1, count + 1):
            own = {"broker.id": node_id, "default.replication.factor": min(3, count), **settings}
            machine = SimulatedBroker(loop, **own).at(f"10.0.0.{node_id}")
            self.machines[node_id] = machine.join_ensemble(self.ensemble)

    def __getitem__(self, node_id: int) -> SimulatedBroker:
        return self.machines[node_id]

    async def start(self, *node_ids: int) -> SimulatedCluster:
        """Start these machines, all of them unless named."""
        for node_id in node_ids or self.machines:
            await self.machines[node_id].start()
        return self

    async def stop(self) -> None:
        """Stop what runs, one broker after the other."""
        for machine in self.machines.values():
            if machine.is_running:
                await machine.stop()

    @property
    def running(self) -> list[SimulatedBroker]:
        return [machine for machine in self.machines.values() if machine.is_running]

    # -- the network

    def cut(self, one: int, other: int, *, both_ways: bool = True) -> None:
        """Cut the link from one machine to another."""
        self.loop.cut(self[one].host, self[other].host)
        if both_ways:
            self.loop.cut(self[other].host, self[one].host)

    def isolate(self, node_id: int, *, from_tree: bool = True) -> None:
        """Cut a machine off from the other machines, and from the coordination tree. Clients still reach it."""
        for other in self.machines:
            if other != node_id:
                self.cut(node_id, other)
        if from_tree and self[node_id].is_running:
            self[node_id].tree.swallow()

    def heal(self) -> None:
        """Let everything through again."""
        self.loop.heal_all()
        for machine in self.running:
            machine.tree.let_through()
        self.ensemble.heal()

    # -- looking

    async def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is so."""
        deadline = self.loop.time() + seconds
        while not condition():
            assert self.loop.time() < deadline, f"it has not happened within {seconds} s"
            await asyncio.sleep(LOOK_SECONDS)

    def state(self, topic: str, index: int = 0) -> PartitionState:
        """Return what is committed in the tree, whatever brokers believe."""
        path = StateNode.path(topic, index)
        node = self.ensemble.committed.node(path)
        assert node is not None, path
        return StateNode.decode(path, node.data)

    async def has_isr(self, topic: str, *members: int, index: int = 0, seconds: float = 120) -> PartitionState:
        """Wait until exactly these replicas are in sync."""
        await self.until(lambda: set(self.state(topic, index).isr) == set(members), seconds)
        return self.state(topic, index)

    async def has_leader(self, topic: str, leader: int, index: int = 0) -> PartitionState:
        await self.until(lambda: self.state(topic, index).leader == leader)
        return self.state(topic, index)

    def log_bytes(self, node_id: int, topic: str, index: int = 0, *, upper: int | None = None) -> bytes:
        """Return what a machine's log of a partition holds, up to its high watermark unless told otherwise."""
        broker = self[node_id].broker
        assert broker is not None
        partition = broker.replicas.replica(topic, index)
        assert partition is not None, f"broker {node_id} holds no replica of {topic}-{index}"
        log = partition.log
        end = log.high_watermark if upper is None else upper
        data, offset = b"", log.log_start_offset
        while offset < end:
            part = log.read(offset, 1 << 30, upper_offset=end)
            if not part.size:
                break
            data += part.read()
            offset = part.next_offset
        return data

    # -- acting

    async def connect(self, node_id: int, client_id: str = "simulated") -> WireClient:
        return await self[node_id].connect(client_id)

    async def make_topic(self, name: str, assignments: Sequence[Sequence[int]], **configs: str) -> None:
        """Make a topic with these replicas, by way of the first broker that runs."""
        client = await self.running[0].connect()
        rows = [
            CreatableReplicaAssignment(partition_index=index, broker_ids=list(replicas))
            for index, replicas in enumerate(assignments)
        ]
        topic = CreatableTopic(
            name=name,
            num_partitions=-1,
            replication_factor=-1,
            assignments=rows,
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in configs.items()],
        )
        answer = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=30_000), 7, CreateTopicsResponse)
        assert not answer.topics[0].error_code, (ErrorCode(answer.topics[0].error_code), answer.topics[0].error_message)
        client.close()
        members = {node_id for replicas in assignments for node_id in replicas}
        await self.until(
            lambda: all(self._knows(machine, name) for n, machine in self.machines.items() if n in members)
        )

    def _knows(self, machine: SimulatedBroker, topic: str) -> bool:
        return machine.broker is None or topic in machine.broker.image.topics
