"""Brokers' controllers on a real ensemble: what the simulated one promises of it holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from random import Random

import pytest
from tests.cluster.cluster_support import CLUSTER
from tests.support import zookeeper_anchor
from tests.support.tcp_proxy import TcpProxy
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.clock import SystemClock
from ottla.cluster.controller import Controller, ControllerSettings, NewTopic, RegistrationRefusedError, prepare_tree
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import Endpoint, PartitionImage
from ottla.cluster.sessions import Sessions
from ottla.cluster.tree import Tree
from ottla.cluster.trees.zookeeper import ZooKeeperTree
from ottla.cluster.trees.zookeeper_options import ZooKeeperOptions
from ottla.errors import ErrorCode
from ottla.offload import ThreadOffload
from ottla.types import TopicPartition

pytestmark = pytest.mark.zookeeper

TIMEOUT_MS = 3_000


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(3)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


class Node:
    """One broker without logs, and the network between it and the ensemble."""

    def __init__(self, ensemble: ZooKeeperEnsemble, node_id: int, directory: str | None = None) -> None:
        self.node_id = node_id
        self._directory = directory or f"directory-{node_id}"
        self._offload = ThreadOffload(4)
        self.proxies = [TcpProxy(ensemble.port + number) for number in range(ensemble.count)]
        self.failures: list[str] = []

    async def start(self) -> Node:
        for proxy in self.proxies:
            await proxy.start()
        self.sessions = Sessions(self._open)
        tree = await self.sessions.start()
        await prepare_tree(tree, CLUSTER)
        self.follower = MetadataFollower(tree)
        await self.follower.start()
        self.controller = Controller(
            tree,
            self.follower,
            ControllerSettings(node_id=self.node_id),
            random=Random(),
            secret_bytes=Random().randbytes,
            clock=SystemClock(),
        )
        await self.controller.start(
            [Endpoint("PLAINTEXT", f"host{self.node_id}", 9092, "PLAINTEXT")], directories=[self._directory]
        )
        self.sessions.keep(
            on_end=self.controller.end_session, on_begin=self.controller.begin_session, on_failure=self.failures.append
        )
        return self

    async def _open(self) -> Tree:
        servers = tuple(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
        options = ZooKeeperOptions(
            servers=servers, chroot="/cluster", session_timeout_ms=TIMEOUT_MS, connection_timeout_ms=20_000
        )
        tree = ZooKeeperTree(options, self._offload)
        await tree.open()
        return tree

    def image_of(self, topic: str) -> Sequence[PartitionImage]:
        return self.follower.image.topics[topic].partitions

    def swallow(self, swallows: bool) -> None:
        for proxy in self.proxies:
            proxy.swallow(swallows)
            proxy.cut()

    async def stop(self) -> None:
        await self.controller.stop()
        await self.follower.stop()
        await self.sessions.stop()
        for proxy in self.proxies:
            await proxy.stop()
        self._offload.close()


@pytest.fixture
async def nodes(ensemble: ZooKeeperEnsemble) -> AsyncIterator[list[Node]]:
    nodes = [await Node(ensemble, node_id).start() for node_id in (1, 2, 3)]
    yield nodes
    await asyncio.gather(*[node.stop() for node in nodes])


async def until(condition: Callable[[], bool], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def test_a_cluster_on_a_real_ensemble(ensemble: ZooKeeperEnsemble, nodes: list[Node]) -> None:
    """1. Topics of many partitions, made by a broker that is not the controller. 2. The controller loses its session: another

    takes over, leadership moves, and it comes back under the next epoch. 3. A ZooKeeper server is killed: nothing changes.
    4. The topic is deleted, and made again.
    """
    one, two, three = nodes
    assert [node.controller.epoch > 0 for node in nodes] == [True, False, False]
    made = await three.controller.create_topics([NewTopic(name="t", num_partitions=450, replication_factor=3)])
    assert made[0].error is ErrorCode.NONE
    images = [await node.follower.refresh() for node in nodes]
    assert images[0].topics == images[1].topics == images[2].topics
    assert images[0].topics["t"].creating is None
    assert {p.leader for p in images[0].topics["t"].partitions} == {1, 2, 3}

    one.swallow(True)
    await until(lambda: two.controller.epoch > 0 or three.controller.epoch > 0)
    await until(lambda: all(p.leader in (2, 3) for p in two.image_of("t")))
    one.swallow(False)
    await until(lambda: 1 in two.follower.image.brokers and one.controller.broker_epoch == 2)
    assert one.controller.epoch == 0
    assert (await one.follower.refresh()).brokers[1].continues == 1
    assert one.failures == []

    victim = ensemble.leader()
    ensemble.kill(victim)
    epochs = [node.controller.broker_epoch for node in nodes]
    await asyncio.to_thread(ensemble.start_again, victim)
    for node in nodes:  # each has found a server again
        assert sorted((await node.follower.refresh()).brokers) == [1, 2, 3]
    assert [node.controller.broker_epoch for node in nodes] == epochs

    controller = next(node.controller for node in nodes if node.controller.epoch)
    assert (await controller.delete_topics(["t"]))[0].error is ErrorCode.NONE
    assert (await controller.create_topics([NewTopic(name="t")]))[0].error is ErrorCode.NONE
    assert (await one.follower.refresh()).partition(TopicPartition("t", 0)) is not None

    impostor = Node(ensemble, 2, "elsewhere")
    with pytest.raises(RegistrationRefusedError, match="broker id 2 is taken by a living broker at host2:9092"):
        await impostor.start()
    await impostor.stop()
