"""Loading: reads nodes of the tree and makes images of them. The whole tree, or the parts that a change names.

What is read is no snapshot: nodes may change between two reads. A change made meanwhile has a higher number than the one
the reader goes on from, so it is applied again later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ottla.cluster.decisions.features import finalized
from ottla.cluster.image import NO_LEADER, BrokerImage, ClusterImage, ConfigResource, PartitionImage, TopicImage
from ottla.cluster.nodes import (
    BROKER_IDS,
    BROKER_TOPICS,
    CHANGES,
    CLUSTER_ID,
    CONFIG,
    CONTROLLER,
    FEATURES,
    BrokerNode,
    ChangeNode,
    ClusterIdNode,
    ConfigNode,
    ControllerNode,
    DeletedNode,
    FeaturesNode,
    StateNode,
    TopicAssignment,
    TopicNode,
)
from ottla.cluster.tree import Node, NoNodeError, Tree


async def load_image(tree: Tree) -> ClusterImage:
    """Read the whole tree into an image.

    Raises:
        BadNodeError: a node contains something else than it should.
        TreeUnavailableError: the tree cannot be read.
    """
    try:
        numbers = [ChangeNode.number(name) for name in await tree.children(CHANGES)]
        cluster_id = ClusterIdNode.decode((await tree.get(CLUSTER_ID)).data)
    except NoNodeError:
        return ClusterImage()  # the tree has not been set up yet
    topics = {
        name: topic
        for name, topic in (await load_topics(tree, await tree.children(BROKER_TOPICS))).items()
        if topic is not None
    }
    brokers, controller_id = await load_brokers(tree)
    features, features_epoch = await load_features(tree)
    resources = [
        ConfigResource(kind, ConfigNode.name(name))
        for kind in await tree.children(CONFIG)
        for name in await tree.children(ConfigNode.kind_path(kind))
    ]
    configs = await load_configs(tree, resources)
    return ClusterImage(
        cluster_id=cluster_id,
        brokers=brokers,
        topics=topics,
        topic_names={topic.topic_id: name for name, topic in topics.items()},
        configs={resource: config for resource, config in configs.items() if config},
        controller_id=controller_id,
        epoch=max(numbers, default=-1),
        features=features,
        features_epoch=features_epoch,
    )


async def load_brokers(tree: Tree) -> tuple[dict[int, BrokerImage], int]:
    """Return the registered brokers by node id, and the node id of the controller (-1: there is none)."""
    node_ids = sorted(int(name) for name in await tree.children(BROKER_IDS))
    *nodes, controller = await tree.get_many([*map(BrokerNode.path, node_ids), CONTROLLER])
    brokers = {
        node_id: BrokerNode.decode(node_id, node.data, node.stat.czxid)
        for node_id, node in zip(node_ids, nodes, strict=True)
        if node is not None
    }
    return brokers, -1 if controller is None else ControllerNode.decode(controller.data)


async def load_features(tree: Tree) -> tuple[dict[str, int], int]:
    """Return the level of every feature, and their epoch."""
    node = (await tree.get_many([FEATURES]))[0]
    return (finalized({}), 0) if node is None else (finalized(FeaturesNode.decode(node.data)), node.stat.version)


async def load_configs(tree: Tree, resources: Sequence[ConfigResource]) -> dict[ConfigResource, Mapping[str, str]]:
    """Return the overrides of each resource; empty where there are none."""
    paths = [ConfigNode.path(*resource) for resource in resources]
    nodes = await tree.get_many(paths)
    return {
        resource: {} if node is None else ConfigNode.decode(path, node.data)
        for resource, path, node in zip(resources, paths, nodes, strict=True)
    }


async def load_topics(tree: Tree, names: Sequence[str]) -> dict[str, TopicImage | None]:
    """Return each topic with the states of its partitions; None where there is no such topic, or it is being deleted."""
    assignments: dict[str, TopicAssignment] = {}
    paths: list[str] = []
    for name, node in zip(names, await tree.get_many([TopicNode.path(name) for name in names]), strict=True):
        if node is not None:
            assignments[name] = assignment = TopicNode.decode(name, node.data)
            paths.append(DeletedNode.path(assignment.topic_id))
            paths += [StateNode.path(name, index) for index in range(len(assignment.partitions))]
    nodes = dict(zip(paths, await tree.get_many(paths), strict=True))
    topics: dict[str, TopicImage | None] = dict.fromkeys(names)
    for name, assignment in assignments.items():
        if nodes[DeletedNode.path(assignment.topic_id)] is None:
            topics[name] = _topic(name, assignment, nodes)
    return topics


async def load_states(
    tree: Tree, partitions: Iterable[tuple[TopicImage, int]]
) -> dict[tuple[str, int], PartitionImage]:
    """Return these partitions (a topic and an index each) with the states they have now."""
    known = {(topic.name, index): topic.partitions[index] for topic, index in partitions}
    paths = [StateNode.path(*key) for key in known]
    nodes = await tree.get_many(paths)
    return {
        key: _with_state(partition, path, node)
        for (key, partition), path, node in zip(known.items(), paths, nodes, strict=True)
    }


def _topic(name: str, assignment: TopicAssignment, nodes: Mapping[str, Node | None]) -> TopicImage:
    partitions = []
    for index, replicas in enumerate(assignment.partitions):
        # Without a state the topic is being made, or its maker died: nobody leads until the controller has decided.
        blank = PartitionImage(
            replicas, (), NO_LEADER, 0, 0, assignment.adding.get(index, ()), assignment.removing.get(index, ())
        )
        path = StateNode.path(name, index)
        partitions.append(_with_state(blank, path, nodes[path]))
    return TopicImage(name, assignment.topic_id, tuple(partitions))


def _with_state(partition: PartitionImage, path: str, node: Node | None) -> PartitionImage:
    if node is None:
        return partition._replace(isr=(), leader=NO_LEADER)
    state = StateNode.decode(path, node.data)
    return partition._replace(
        isr=state.isr, leader=state.leader, leader_epoch=state.leader_epoch, partition_epoch=node.stat.version
    )
