"""The follower: what changes in the tree reaches the image, once, in order, whatever was missed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.cluster.cluster_support import CLUSTER, ENDPOINT, running

from ottla.cluster.controller import NewTopic
from ottla.cluster.decisions.configs import Alteration
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import TOPICS, ConfigResource, ImageDelta
from ottla.cluster.loading import load_image
from ottla.cluster.nodes import (
    CHANGE_PREFIX,
    CHANGES,
    BrokerNode,
    Change,
    ChangeNode,
    PartitionState,
    StateNode,
    TopicAssignment,
    TopicNode,
)
from ottla.cluster.tree import Create, Delete, Node, SetData, TreeUnavailableError
from ottla.cluster.trees.memory import MemoryStore


async def test_the_first_image_is_everything_there_is() -> None:
    store = MemoryStore()
    async with running(store) as first:
        await first.controller.create_topics([NewTopic(name="t", num_partitions=2, configs={"retention.ms": "5"})])
        expected = first.image
    async with running(store, start=False) as second:
        image = second.image
        assert image.topics == expected.topics
        assert image.topic_names == expected.topic_names
        assert image.topic_config("t") == {"retention.ms": "5"}
        assert image.cluster_id == CLUSTER
        assert (image.brokers, image.controller_id) == ({}, -1)
        (told, delta) = second.deltas[0]
        assert told is image
        assert (delta.created, delta.changed_configs) == (("t",), (ConfigResource(TOPICS, "t"),))


async def test_each_change_is_told_with_what_it_touched() -> None:
    async with running() as c:
        c.deltas.clear()
        await c.controller.create_topics([NewTopic(name="t"), NewTopic(name="u", configs={"flush.ms": "1"})])
        await c.controller.create_partitions("t", 3)
        await c.controller.incremental_alter_configs(ConfigResource(TOPICS, "t"), [Alteration("flush.ms", 0, "2")])
        before = c.image.topics["t"]
        await c.controller.delete_topics(["t"])
        assert [delta for _, delta in c.deltas] == [
            ImageDelta(created=("t", "u"), changed_configs=(ConfigResource(TOPICS, "u"),)),
            ImageDelta(changed=("t",), changed_partitions={"t": (1, 2)}),
            ImageDelta(changed_configs=(ConfigResource(TOPICS, "t"),)),
            ImageDelta(deleted=(before,), changed_configs=(ConfigResource(TOPICS, "t"),)),
        ]
        assert list(c.image.topics) == ["u"]
        assert c.image.topic_config("t") == {}
        assert [image.epoch for image, _ in c.deltas] == sorted({image.epoch for image, _ in c.deltas})


async def test_a_topic_deleted_and_made_again_between_two_looks_is_both() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t")])
        old = c.image.topics["t"]
        c.deltas.clear()
        new_id = bytes(range(16))
        note = ChangeNode.encode(Change(topics=("t",)), 0)
        await c.tree.multi(
            [
                SetData(TopicNode.path("t"), TopicNode.encode(TopicAssignment(topic_id=new_id, partitions=((1,),)))),
                Create(CHANGE_PREFIX, note, sequential=True),
            ]
        )
        await c.follower.applied(c.image.epoch + 1)
        assert c.deltas[0][1] == ImageDelta(created=("t",), deleted=(old,))
        assert c.image.topic_names == {new_id: "t"}


async def test_a_partition_state_written_by_another_broker_arrives() -> None:
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t", num_partitions=3)])
        c.deltas.clear()
        state = PartitionState(leader=2, leader_epoch=9, isr=(2, 1), controller_epoch=1)
        note = ChangeNode.encode(Change(partitions=(("t", 1), ("gone", 0), ("t", 77))), 0)
        await c.tree.multi(
            [SetData(StateNode.path("t", 1), StateNode.encode(state)), Create(CHANGE_PREFIX, note, sequential=True)]
        )
        await c.follower.applied(c.image.epoch + 1)
        partition = c.image.topics["t"].partitions[1]
        assert (partition.leader, partition.leader_epoch, partition.isr, partition.partition_epoch) == (2, 9, (2, 1), 1)
        assert [delta for _, delta in c.deltas] == [ImageDelta(changed=("t",), changed_partitions={"t": (1,)})]


async def test_a_follower_that_fell_behind_the_purge_reads_everything_again() -> None:
    async with running() as c:
        stale = MetadataFollower(c.tree)
        await stale.start()
        await stale.stop()  # it sleeps while the world goes on
        for index in range(5):
            await c.controller.create_topics([NewTopic(name=f"t{index}")])
        names = await c.tree.children(CHANGES)
        await c.tree.multi([Delete(f"{CHANGES}/{name}") for name in names[:-1]])

        await stale._catch_up()

        assert stale.image == await load_image(c.tree)
        assert stale.image.epoch == c.image.epoch


@pytest.mark.parametrize("kind", ["a state", "a topic", "everything"])
async def test_torn_reload(kind: str) -> None:
    """`torn_reload`: a state that is read from a server that lags does not take a partition back to an earlier epoch."""
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t", num_partitions=2)])
        path = StateNode.path("t", 0)
        old = await c.tree.get(path)
        state = PartitionState(leader=1, leader_epoch=9, isr=(1,), controller_epoch=1)
        note = ChangeNode.encode(Change(partitions=(("t", 0),)), 0)
        await c.tree.multi([SetData(path, StateNode.encode(state)), Create(CHANGE_PREFIX, note, sequential=True)])
        await c.follower.applied(c.image.epoch + 1)
        before = c.image.topics["t"]
        assert before.partitions[0].leader_epoch == 9

        read = c.tree.get_many

        async def lagging(paths: Sequence[str]) -> list[Node | None]:
            nodes = await read(paths)
            return [
                old if p == path else None if p == StateNode.path("t", 1) else n
                for p, n in zip(paths, nodes, strict=True)
            ]

        c.tree.get_many = lagging  # type: ignore[method-assign]
        change = Change(topics=("t",)) if kind == "a topic" else Change(partitions=(("t", 0), ("t", 1)))
        for _ in range(3):
            note = ChangeNode.encode(change, 0)
            await c.tree.multi([Create(CHANGE_PREFIX, note, sequential=True)])
        if kind == "everything":
            names = await c.tree.children(CHANGES)
            await c.tree.multi([Delete(f"{CHANGES}/{name}") for name in names[:-1]])
        await c.follower.applied(int((await c.tree.children(CHANGES))[-1][-10:]))
        assert c.image.topics["t"] == before


async def test_a_broker_that_vanishes_is_noticed_without_a_change_node() -> None:
    store = MemoryStore()
    async with running(store) as c:
        other = store.session()
        await other.multi([Create(BrokerNode.path(2), BrokerNode.encode([ENDPOINT], "r", 0), ephemeral=True)])
        await _until(lambda: 2 in c.image.brokers)
        other.expire()
        await _until(lambda: 2 not in c.image.brokers)
        assert c.deltas[-1][1] == ImageDelta(brokers_changed=True)


async def test_a_node_that_cannot_be_read_does_not_stop_the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ottla.cluster.follow.RETRY_SECONDS", 0)
    async with running() as c:
        await c.controller.create_topics([NewTopic(name="t")])
        good = (await c.tree.get(TopicNode.path("t"))).data
        note = ChangeNode.encode(Change(topics=("t",)), 0)
        await c.tree.multi([SetData(TopicNode.path("t"), b"{"), Create(CHANGE_PREFIX, note, sequential=True)])
        await asyncio.sleep(0.01)
        await c.tree.multi([SetData(TopicNode.path("t"), good), Create(CHANGE_PREFIX, note, sequential=True)])
        await c.follower.applied(c.image.epoch + 2)
        assert "t" in c.image.topics


async def test_who_waits_for_a_change_is_told_when_the_broker_stops() -> None:
    async with running() as c:
        waiting = asyncio.ensure_future(c.follower.applied(10_000))
        await asyncio.sleep(0)
        await c.follower.stop()
        with pytest.raises(TreeUnavailableError):
            await waiting


async def test_a_change_is_applied_when_subscribers_are_done_with_it() -> None:
    async with running() as c:
        story: list[str] = []

        async def slow(image: object, delta: object) -> None:
            await asyncio.sleep(0.001)
            story.append("replicas made")

        def broken(image: object, delta: object) -> None:
            raise RuntimeError("a bug in a subscriber")

        c.follower.subscribe(broken)
        c.follower.subscribe(slow)
        await c.controller.create_topics([NewTopic(name="t")])
        story.append("answered")
        assert story == ["replicas made", "answered"]


async def _until(condition: object) -> None:
    assert callable(condition)
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")
