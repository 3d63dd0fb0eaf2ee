"""Loading: reads nodes of the tree and makes images of them. The whole tree, or the parts that a change names.

What is read is no snapshot: nodes may change between two reads. A change made meanwhile has a higher number than the one
the reader goes on from, so it is applied again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ottla.cluster.decisions.features import finalized
from ottla.cluster.image import (
    CLIENTS,
    NO_LEADER,
    USERS,
    BrokerEnds,
    BrokerImage,
    ClusterImage,
    ConfigResource,
    PartitionImage,
    TopicImage,
)
from ottla.cluster.nodes import (
    BROKER_IDS,
    BROKER_TOPICS,
    CHANGES,
    CLUSTER_ID,
    CONFIG,
    CONTROLLER,
    DELETED,
    FEATURES,
    BrokerEpochNode,
    BrokerNode,
    ChangeNode,
    ClusterIdNode,
    ConfigNode,
    ControllerNode,
    DeletedNode,
    EndsNode,
    FeaturesNode,
    StateNode,
    TopicAssignment,
    TopicNode,
    UnfitNode,
    with_state,
)
from ottla.cluster.nodes.acls import RESOURCE_NAMES, AclNode
from ottla.cluster.tree import Node, NoNodeError, Tree
from ottla.security.acls import Pattern, PatternType, Rule
from ottla.types import ZERO_UUID

#: Questions to the tree that are on their way at the same time.
_AT_ONCE = 500


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
    brokers = await load_brokers(tree)
    features, features_epoch = await load_features(tree)
    configs = await load_configs(tree, await config_resources(tree))
    return ClusterImage(
        cluster_id=cluster_id,
        brokers=brokers.brokers,
        unfit=brokers.unfit,
        ends=brokers.ends,
        topics=topics,
        topic_names={topic.topic_id: name for name, topic in topics.items()},
        configs={resource: config for resource, config in configs.items() if config},
        controller_id=brokers.controller_id,
        epoch=max(numbers, default=-1),
        features=features,
        features_epoch=features_epoch,
        deleted=frozenset(DeletedNode.topic_id(name) for name in await tree.children(DELETED)),
        acls=await load_all_acls(tree),
    )


async def config_resources(tree: Tree) -> list[ConfigResource]:
    """Return everything that has settings of its own."""
    found: list[ConfigResource] = []
    for kind in await tree.children(CONFIG):
        names = await tree.children(ConfigNode.kind_path(kind))
        found += [ConfigResource(kind, ConfigNode.name(kind, name)) for name in names]
        if kind == USERS:
            for users in (names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE)):
                below = await asyncio.gather(*(tree.children(ConfigNode.path(USERS, user)) for user in users))
                for user in (user for user, children in zip(users, below, strict=True) if CLIENTS in children):
                    of_user = f"{user}/{CLIENTS}"
                    client_ids = await tree.children(ConfigNode.path(USERS, of_user))
                    found += [ConfigResource(USERS, f"{of_user}/{client_id}") for client_id in client_ids]
    return found


class Brokers(NamedTuple):
    """What the tree says of brokers; see ClusterImage."""

    brokers: dict[int, BrokerImage]
    unfit: dict[int, frozenset[tuple[bytes, int]]]
    ends: dict[int, BrokerEnds]
    controller_id: int


async def load_brokers(tree: Tree) -> Brokers:
    """Read who is registered, with its epoch, what it cannot lead and where its logs end, and who is the controller."""
    node_ids = sorted(int(name) for name in await tree.children(BROKER_IDS))
    kinds = (BrokerNode, BrokerEpochNode, UnfitNode, EndsNode)
    paths = [kind.path(node_id) for node_id in node_ids for kind in kinds]
    *nodes, controller = await tree.get_many([*paths, CONTROLLER])
    brokers: dict[int, BrokerImage] = {}
    unfit: dict[int, frozenset[tuple[bytes, int]]] = {}
    ends: dict[int, BrokerEnds] = {}
    for node_id, broker, epoch, cannot, end in zip(
        node_ids, nodes[::4], nodes[1::4], nodes[2::4], nodes[3::4], strict=True
    ):
        if broker is None:
            continue
        said = None if epoch is None else BrokerEpochNode.decode(node_id, epoch.data)
        brokers[node_id] = BrokerNode.decode(node_id, broker.data, 0 if epoch is None else epoch.stat.version, said)
        if cannot is not None and (partitions := UnfitNode.decode(node_id, cannot.data)):
            unfit[node_id] = partitions
        if end is not None:
            ends[node_id] = EndsNode.decode(node_id, end.data)
    return Brokers(brokers, unfit, ends, -1 if controller is None else ControllerNode.decode(controller.data))


async def load_features(tree: Tree) -> tuple[dict[str, int], int]:
    """Return the level of every feature, and their epoch."""
    node = (await tree.get_many([FEATURES]))[0]
    return (finalized({}), 0) if node is None else (finalized(FeaturesNode.decode(node.data).levels), node.stat.version)


async def load_all_acls(tree: Tree) -> dict[Pattern, tuple[Rule, ...]]:
    """Return all access rules."""
    paths = [
        f"{parent}/{name}"
        for pattern_type in (PatternType.LITERAL, PatternType.PREFIXED)
        for kind in RESOURCE_NAMES
        for parent in [AclNode.parent(pattern_type, kind)]
        for name in await tree.children(parent)
    ]
    return {pattern: rules for pattern, rules in (await load_acls(tree, paths)).items() if rules}


async def load_acls(tree: Tree, paths: Sequence[str]) -> dict[Pattern, tuple[Rule, ...]]:
    """Return the rules in these nodes; empty where there are none."""
    nodes = await tree.get_many(list(paths))
    return {
        AclNode.pattern(path): () if node is None else AclNode.decode(path, node.data)
        for path, node in zip(paths, nodes, strict=True)
    }


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
    known: dict[tuple[str, int], PartitionImage] = {}
    topic_ids: dict[str, bytes] = {}
    for topic, index in partitions:
        known[topic.name, index] = topic.partitions[index]
        topic_ids[topic.name] = topic.topic_id
    paths = [StateNode.path(*key) for key in known]
    nodes = await tree.get_many(paths)
    return {
        key: _with_state(partition, path, node, topic_ids[key[0]])
        for (key, partition), path, node in zip(known.items(), paths, nodes, strict=True)
    }


def _topic(name: str, assignment: TopicAssignment, nodes: Mapping[str, Node | None]) -> TopicImage:
    partitions = []
    for index, replicas in enumerate(assignment.partitions):
        # Without a state the topic is being made, or its maker died: no broker leads until the controller has decided.
        blank = PartitionImage(
            replicas, (), NO_LEADER, 0, 0, assignment.adding.get(index, ()), assignment.removing.get(index, ())
        )
        path = StateNode.path(name, index)
        partitions.append(_with_state(blank, path, nodes[path], assignment.topic_id))
    maker = assignment.creating
    creating = None if maker is None else (maker.node_id, maker.broker_epoch)
    return TopicImage(name, assignment.topic_id, tuple(partitions), creating)


def _with_state(partition: PartitionImage, path: str, node: Node | None, topic_id: bytes) -> PartitionImage:
    state = None if node is None else StateNode.decode(path, node.data)
    if node is None or state is None or state.topic_id not in (topic_id, ZERO_UUID):
        # None, or that of an earlier topic of this name.
        return PartitionImage(
            partition.replicas, (), NO_LEADER, 0, 0, partition.adding_replicas, partition.removing_replicas
        )
    return with_state(partition, state, node.stat.version)
