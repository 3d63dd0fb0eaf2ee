"""A single node's tree taken over into a cluster's: what is written, what is refused, and repeating what was interrupted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.cluster.cluster_support import running

from ottla.cluster import importing
from ottla.cluster.controller import Controller, NewTopic, prepare_tree
from ottla.cluster.image import NO_LEADER
from ottla.cluster.importing import ImportRefusedError, check_import, read_single_node, write_import
from ottla.cluster.loading import load_image
from ottla.cluster.nodes import PRODUCER_ID_BLOCK, ProducerIdBlockNode, TopicNode
from ottla.cluster.tree import Create, SetData, Tree
from ottla.cluster.trees.memory import MemoryStore
from ottla.cluster.walking import persistent_nodes
from ottla.errors import ErrorCode

OTHER_CLUSTER = "BBBBBBBBBBBBBBBBBBBBBB"
DIRECTORIES = ["the-directory"]


class Interrupted(Exception):
    pass


async def make_topic(controller: Controller, name: str, partitions: int, **configs: str) -> None:
    new = NewTopic(name=name, num_partitions=partitions, replication_factor=1, configs=configs)
    (result,) = await controller.create_topics([new])
    assert result.error is ErrorCode.NONE, result


async def single_node(store: MemoryStore) -> Tree:
    """A node, stopped: two topics, settings, producer ids."""
    async with running(store) as node:
        await make_topic(node.controller, "orders", 3, **{"retention.ms": "1234"})
        await make_topic(node.controller, "__consumer_offsets", 5)
        await node.tree.multi(
            [
                Create("/config/groups/g", b'{"version":1,"config":{"consumer.session.timeout.ms":"50000"}}'),
                Create("/config/brokers/1", b'{"version":1,"config":{"log.cleaner.threads":"1"}}'),
                Create(PRODUCER_ID_BLOCK, ProducerIdBlockNode.encode(1, range(3000, 4000))),
            ]
        )
    return store.session()


async def empty_cluster(store: MemoryStore) -> Tree:
    tree = store.session()
    await prepare_tree(tree, OTHER_CLUSTER)
    return tree


async def run_import(
    source: Tree, target: Tree, node_id: int = 7, step: Callable[[str], None] = lambda name: None
) -> None:
    node = await read_single_node(source, "AAAAAAAAAAAAAAAAAAAAAA", 1)
    await write_import(target, await check_import(target, node, node_id, DIRECTORIES), 5, step)


async def test_everything_of_the_node_is_in_the_cluster() -> None:
    source, target = await single_node(MemoryStore()), await empty_cluster(MemoryStore())
    before = await load_image(source)
    await run_import(source, target)
    image = await load_image(target)
    assert image.cluster_id == OTHER_CLUSTER
    assert image.topic_names == before.topic_names
    for name, topic in image.topics.items():
        for mine, theirs in zip(topic.partitions, before.topics[name].partitions, strict=True):
            assert (mine.replicas, mine.isr, mine.leader) == ((7,), (7,), NO_LEADER)
            assert mine.leader_epoch > theirs.leader_epoch
    assert {r.name: dict(c) for r, c in image.configs.items()} == {
        "orders": {"retention.ms": "1234"},
        "g": {"consumer.session.timeout.ms": "50000"},
        "7": {"log.cleaner.threads": "1"},
    }
    assert ProducerIdBlockNode.decode((await target.get(PRODUCER_ID_BLOCK)).data) == range(3000, 4000)


async def test_a_broker_of_the_cluster_that_watches_sees_the_topics_at_once() -> None:
    source = await single_node(MemoryStore())
    async with running() as cluster:
        await run_import(source, cluster.tree)
        await cluster.follower.refresh()
        assert set(cluster.image.topics) == {"orders", "__consumer_offsets"}
        assert cluster.image.topic_config("orders") == {"retention.ms": "1234"}


async def test_an_import_interrupted_after_any_step_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PARTITIONS_AT_ONCE", 2)
    monkeypatch.setattr(importing, "_TOGETHER", 1)
    source, whole = await single_node(MemoryStore()), await empty_cluster(MemoryStore())
    steps: list[str] = []
    await run_import(source, whole, step=steps.append)
    assert set(steps) == {"reservation", "settings", "topics", "growth"}
    wanted = {p: n.data for p, n in (await persistent_nodes(whole, without=["/changes"])).items()}
    for last in range(len(steps)):
        target = await empty_cluster(MemoryStore())
        left = iter(range(last))

        def step(name: str, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise Interrupted

        with pytest.raises(Interrupted):
            await run_import(source, target, step=step)
        await run_import(source, target)
        assert {p: n.data for p, n in (await persistent_nodes(target, without=["/changes"])).items()} == wanted, last


async def test_an_internal_topic_never_has_fewer_partitions_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PARTITIONS_AT_ONCE", 2)
    source, target = await single_node(MemoryStore()), await empty_cluster(MemoryStore())
    node = await read_single_node(source, "AAAAAAAAAAAAAAAAAAAAAA", 1)
    plan = await check_import(target, node, 7, DIRECTORIES)

    def step(name: str) -> None:
        if name == "topics":
            raise Interrupted

    with pytest.raises(Interrupted):
        await write_import(target, plan, 5, step)
    made = TopicNode.decode("__consumer_offsets", (await target.get(TopicNode.path("__consumer_offsets"))).data)
    assert len(made.partitions) == 5


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("topic", "the cluster has a topic orders already"),
        ("settings", "the cluster has settings of groups g already, and other ones"),
        ("producer ids", "the cluster has given out producer ids, and so has the node"),
        ("directories", "broker id 7 belongs to other log directories in the cluster"),
        ("living", "broker 7 runs in the cluster"),
        ("features", "the feature transaction.version has level 1 in the cluster and 2 on the node"),
    ],
)
async def test_what_exists_is_refused_and_nothing_changes(spoil: str, sentence: str) -> None:
    source, store = await single_node(MemoryStore()), MemoryStore()
    if spoil in ("topic", "living"):
        async with running(store, node_id=7) as cluster:
            if spoil == "topic":
                await make_topic(cluster.controller, "orders", 1)
    target = await empty_cluster(store) if spoil not in ("topic", "living") else store.session()
    if spoil == "settings":
        await target.multi([Create("/config/groups/g", b'{"version":1,"config":{"a":"b"}}')])
    elif spoil == "producer ids":
        await target.multi([Create(PRODUCER_ID_BLOCK, ProducerIdBlockNode.encode(1, range(1000)))])
    elif spoil == "directories":
        await target.multi(
            [
                Create(
                    "/brokers/epochs/7",
                    b'{"directories":["x"],"page_cache":"","continues":0,"stopping":false,"process":""}',
                )
            ]
        )
    elif spoil == "features":
        for tree, level in ((source, 2), (target, 1)):
            data = b'{"version":2,"status":1,"features":{"transaction.version":%d},"ottla_format":1}' % level
            await tree.multi([SetData("/feature", data)])
    elif spoil == "living":
        await target.multi([Create("/brokers/ids/7", b"{}", ephemeral=True)])
    before = await persistent_nodes(target)
    with pytest.raises(ImportRefusedError, match=sentence):
        await run_import(source, target)
    assert await persistent_nodes(target) == before


async def test_a_directory_of_several_brokers_is_refused() -> None:
    store = MemoryStore()
    source = await single_node(store)
    node = await source.get("/brokers/topics/orders")
    await source.multi([SetData("/brokers/topics/orders", node.data.replace(b'"1":[1]', b'"1":[2]'))])
    with pytest.raises(ImportRefusedError, match="orders-1 has replicas on the brokers 2"):
        await run_import(source, await empty_cluster(MemoryStore()))
