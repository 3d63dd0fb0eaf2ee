"""Whole brokers whose session with the coordination tree ends, and two of them on one tree."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from ottla.cluster.controller import InconsistentClusterIdError
from ottla.cluster.image import NO_LEADER
from ottla.cluster.trees.memory import MemoryStore, MemoryTree
from ottla.errors import ErrorCode
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def two_on(store: MemoryStore, loop: VirtualLoop) -> tuple[SimulatedBroker, SimulatedBroker]:
    settings = {"broker.id": 2, "listeners": "PLAINTEXT://127.0.0.1:9093"}
    return SimulatedBroker(loop).join(store), SimulatedBroker(loop, **settings).join(store)


def test_a_session_that_ends_costs_a_single_node_nothing() -> None:
    """It registers anew, is the controller again, makes topics, and goes on to lead what it leads, in the same epochs."""

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop)
        broker = await node.start()
        await broker.controller.ensure_topic("t")
        before = broker.image.topics["t"]
        for round_number in range(1, 4):
            assert isinstance(node._tree, MemoryTree)
            node._tree.expire()
            await asyncio.sleep(1)
            assert broker.is_ready
            assert not broker.failure.done()
            assert list(broker.image.brokers) == [1]
            assert broker.image.controller_id == 1
            assert broker.controller.broker_epoch == 1 + round_number
            assert (await broker.controller.ensure_topic(f"t{round_number}")).error is ErrorCode.NONE
        assert broker.image.topics["t"] == before
        partition = broker.replicas.partition("t", 0)
        assert partition is not None
        appended = partition.append(bytearray(build_batch([Record(0, 1, b"k", b"v")])))
        assert not isinstance(appended, Awaitable)
        assert appended.first_offset == 0
        await node.stop()

    run_virtual(1, scenario)


def test_two_brokers_on_one_tree() -> None:
    """A second broker joins: it sees the first one's topics, makes topics itself, and goes without a trace of unrest."""

    async def scenario(loop: VirtualLoop) -> None:
        store = MemoryStore()
        first, second = two_on(store, loop)
        one = await first.start()
        await one.controller.ensure_topic("t")
        two = await second.start()
        assert two.image.cluster_id == one.image.cluster_id
        assert (sorted(two.image.brokers), two.image.controller_id) == ([1, 2], 1)
        assert two.image.topics == one.image.topics
        assert two.replicas.partition("t", 0) is None
        assert two.replicas.error("t", 0) is ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (await two.controller.ensure_topic("u")).error is ErrorCode.NONE
        leader = (await one.follower.refresh()).topics["u"].partitions[0].leader
        assert (two if leader == 2 else one).replicas.partition("u", 0) is not None
        # The controller goes; the other one takes its office, and knows what has no leader.
        await first.stop()
        await asyncio.sleep(5)
        assert two.controller.epoch > 0
        assert two.image.topics["t"].partitions[0].leader == NO_LEADER
        one = await first.start()
        await asyncio.sleep(5)
        assert one.image.topics["t"].partitions[0].leader == 1
        assert one.replicas.partition("t", 0) is not None
        await second.stop()
        await first.stop()

    run_virtual(2, scenario)


def test_a_log_of_a_topic_that_was_deleted_meanwhile_is_deleted() -> None:
    """Only /deleted says so: a log whose topic is merely absent is set aside."""

    async def scenario(loop: VirtualLoop) -> None:
        store = MemoryStore()
        first, second = two_on(store, loop)
        one = await first.start()
        two = await second.start()
        while len({p.leader for t in two.image.topics.values() for p in t.partitions}) < 2:
            await two.controller.ensure_topic(f"t{len(two.image.topics)}")
        names = [n for n, t in two.image.topics.items() if t.partitions[0].leader == 2]
        second.kill()
        await one.controller.delete_topics(names)
        two = await second.start()
        assert not [tp for tp in two.logs.logs if tp.topic in names]
        kept = [path for path in second.files.listdir("data") if "-stray" in path]
        assert kept == []
        await second.stop()
        await first.stop()

    run_virtual(3, scenario)


def test_wrong_chroot() -> None:
    """`wrong_chroot`: a broker with logs founds no other cluster in an empty tree, and changes nothing there."""

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop).join(MemoryStore())
        await node.start()
        await node.stop()
        empty = node._store = MemoryStore()
        with pytest.raises(
            InconsistentClusterIdError, match="the coordination tree has no cluster: is it the right one"
        ):
            await node.start()
        assert empty.children("/") == []

    run_virtual(4, scenario)
