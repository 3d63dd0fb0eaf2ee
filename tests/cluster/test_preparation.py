"""Preparing a tree: a new one, one of the first releases, one of a newer release."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from random import Random

import pytest
from tests.cluster.cluster_support import CLUSTER, ENDPOINT, ManualClock
from tests.cluster.tree_support import subtree

from ottla.cluster.controller import Controller, ControllerSettings, NewTopic
from ottla.cluster.follow import MetadataFollower
from ottla.cluster.image import BROKERS, GROUPS
from ottla.cluster.nodes import (
    CLUSTER_ID,
    FEATURES,
    BrokerNode,
    ClusterIdNode,
    Features,
    FeaturesNode,
    StateNode,
    TopicIdNode,
    TopicNode,
)
from ottla.cluster.preparation import ForeignTreeError, NewerTreeError, check_ours, prepare_tree
from ottla.cluster.tree import Create, Delete, SetData
from ottla.cluster.trees.local import LocalTree
from ottla.cluster.trees.memory import MemoryStore
from ottla.offload import InlineOffload
from ottla.testing.simulated_ensemble import EnsembleFaults, SimulatedEnsemble
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

FIRST_RELEASES = Path(__file__).parent / "data" / "tree_of_format_1.sql"


@pytest.fixture
async def old_tree(tmp_path: Path) -> LocalTree:
    """A tree that a broker of the first releases wrote, and was killed."""
    path = tmp_path / "ottla.sqlite"
    with sqlite3.connect(path) as file:
        file.executescript(FIRST_RELEASES.read_text())
        file.execute("PRAGMA user_version=1")
    file.close()
    tree = LocalTree(str(path), InlineOffload())
    await tree.open()
    return tree


async def started(tree: LocalTree, *, clean: bool) -> tuple[MetadataFollower, Controller]:
    await prepare_tree(tree, CLUSTER)
    follower = MetadataFollower(tree)
    await follower.start()
    settings = ControllerSettings(node_id=1)
    controller = Controller(
        tree, follower, settings, random=Random(1), secret_bytes=Random(1).randbytes, clock=ManualClock()
    )
    await controller.start([ENDPOINT], clean=clean, directories=("d1",))
    return follower, controller


@pytest.mark.parametrize("clean", [False, True])
async def test_a_tree_of_the_first_releases_is_upgraded_in_place(old_tree: LocalTree, clean: bool) -> None:
    follower, controller = await started(old_tree, clean=clean)
    image = follower.image
    assert sorted(image.topics) == ["orders", "payments"]
    assert [len(topic.partitions) for topic in image.topics.values()] == [3, 2]
    assert [p.leader for topic in image.topics.values() for p in topic.partitions] == [1] * 5
    # As ever: after an unclean stop leaders begin a new epoch.
    epochs = [p.leader_epoch for p in image.topics["orders"].partitions]
    assert epochs == ([0, 6, 0] if clean else [1, 7, 1])
    assert image.topic_config("orders") == {"retention.ms": "5000"}
    assert image.config(BROKERS, "1") == {"log.retention.ms": "70000"}
    assert image.config(GROUPS, "g/1") == {"consumer.session.timeout.ms": "50000"}
    assert image.config(GROUPS, ".") == {"consumer.session.timeout.ms": "51000"}  # a name no ZooKeeper would take
    assert image.features["group.version"] == 0
    assert (await controller.allocate_producer_ids()).start == 1000
    for topic in image.topics.values():
        assert (await old_tree.get(TopicIdNode.path(topic.topic_id))).data
    assert FeaturesNode.decode((await old_tree.get(FEATURES)).data).tree_format == 1

    # It is a tree like any other from now on.
    assert (await controller.create_topics([NewTopic(name="new", num_partitions=150)]))[0].error.name == "NONE"
    assert (await controller.delete_topics(["orders"]))[0].error.name == "NONE"
    assert (await controller.create_partitions("payments", 3)).error.name == "NONE"
    await controller.stop()
    await follower.stop()
    before = [entry for entry in await subtree(old_tree) if not entry[1].stat.owner]
    await prepare_tree(old_tree, CLUSTER)
    assert [entry for entry in await subtree(old_tree) if not entry[1].stat.owner] == before
    await old_tree.close()


async def test_a_topic_that_was_half_made_by_the_first_releases_is_finished(old_tree: LocalTree) -> None:
    await old_tree.multi([Delete(StateNode.path("orders", 2)), Delete(StateNode.partition_path("orders", 2))])
    follower, controller = await started(old_tree, clean=True)
    topic = follower.image.topics["orders"]
    assert [p.leader for p in topic.partitions] == [1, 1, 1]
    assert topic.creating is None
    await controller.stop()
    await follower.stop()
    await old_tree.close()


async def test_what_a_stop_before_the_end_of_the_upgrade_leaves_is_made_up_for(old_tree: LocalTree) -> None:
    await prepare_tree(old_tree, CLUSTER)
    orders = TopicNode.decode("orders", (await old_tree.get(TopicNode.path("orders"))).data).topic_id
    features = await old_tree.get(FEATURES)
    old = FeaturesNode.encode(Features(FeaturesNode.decode(features.data).levels, 0))
    await old_tree.multi([Delete(TopicIdNode.path(orders)), SetData(FEATURES, old)])
    await prepare_tree(old_tree, CLUSTER)
    assert (await old_tree.get(TopicIdNode.path(orders))).data
    await old_tree.close()


async def test_the_first_releases_refuse_a_file_of_this_one(tmp_path: Path) -> None:
    tree = LocalTree(str(tmp_path / "t"), InlineOffload())
    await tree.open()
    await tree.close()
    with sqlite3.connect(tmp_path / "t") as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
    file.close()


async def test_a_tree_of_a_newer_release_is_refused_unchanged() -> None:
    tree = MemoryStore().session()
    await prepare_tree(tree, CLUSTER)
    await tree.multi([SetData(FEATURES, FeaturesNode.encode(Features({}, 99)))])
    before = await subtree(tree)
    with pytest.raises(NewerTreeError, match="has format 99, and this release knows 1: it was written by a newer one"):
        await prepare_tree(tree, CLUSTER)
    assert await subtree(tree) == before


def test_many_brokers_prepare_one_tree() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        ensemble = SimulatedEnsemble(Random(loop.random.random()), faults=EnsembleFaults(delay_seconds_max=0.01))
        trees = [await ensemble.connect() for _ in range(5)]
        assert await asyncio.gather(*[prepare_tree(tree, CLUSTER) for tree in trees]) == [CLUSTER] * 5

    for seed in range(20):
        run_virtual(seed, scenario)


#: What brokers of Apache Kafka 3.9 write.
KAFKA_BROKER = b"""{"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},"endpoints":["PLAINTEXT://h:9092"],
"jmx_port":-1,"features":{},"host":"h","timestamp":"1796023688462","port":9092,"version":5}"""
KAFKA_FEATURES = b'{"features":{},"version":2,"status":1}'


async def test_a_chroot_of_apache_kafka_is_left_alone() -> None:
    tree = MemoryStore().session()
    await check_ours(tree)  # a new one
    await tree.multi([Create("/cluster"), Create(CLUSTER_ID, ClusterIdNode.encode("kafkas"))])
    with pytest.raises(ForeignTreeError, match=r"the nodes of a cluster of Apache Kafka \(kafkas\)"):
        await check_ours(tree)
    await tree.multi([Create(FEATURES, KAFKA_FEATURES)])
    with pytest.raises(ForeignTreeError, match=r"the nodes of a cluster of Apache Kafka \(kafkas\)"):
        await check_ours(tree)


async def test_living_brokers_of_apache_kafka_are_named() -> None:
    tree = MemoryStore().session()
    await prepare_tree(tree, CLUSTER)
    await check_ours(tree)
    await tree.multi([Create(BrokerNode.path(7), KAFKA_BROKER, ephemeral=True)])
    with pytest.raises(ForeignTreeError, match=r"brokers of Apache Kafka \(7\) are registered in this chroot"):
        await check_ours(tree)
