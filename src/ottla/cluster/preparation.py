"""Preparing a tree: the nodes that always exist, the cluster's id, the format of what is in it.

A program refuses a tree of a newer format than it knows, and brings an older one to its own. Format 0 is what the first
releases wrote, on single nodes only.
"""

from __future__ import annotations

from ottla.cluster.nodes import (
    BROKER_IDS,
    BROKER_TOPICS,
    CLUSTER_ID,
    CONTROLLER_EPOCH,
    FEATURES,
    PERSISTENT_PATHS,
    TREE_FORMAT,
    BadNodeError,
    BrokerNode,
    ClusterIdNode,
    ControllerEpochNode,
    Features,
    FeaturesNode,
    Maker,
    StateNode,
    TopicAssignment,
    TopicIdNode,
    TopicNode,
)
from ottla.cluster.tree import Create, NoNodeError, Operation, SetData, Tree, TreeError

#: Topics upgraded in one transaction.
TOPICS_PER_MULTI = 100
TRIES_MAX = 10


class InconsistentClusterIdError(Exception):
    """The tree belongs to another cluster than the data directories."""


class NewerTreeError(Exception):
    """The tree was written by a newer release. The text is one sentence for the user."""


class ForeignTreeError(Exception):
    """The tree is used by Apache Kafka. The text is one sentence for the user."""


async def check_ours(tree: Tree) -> None:
    """Look whether a tree that is shared is new or of a cluster of ours.

    Raises:
        ForeignTreeError: Apache Kafka uses it, or has.
    """
    id_node, features = await tree.get_many([CLUSTER_ID, FEATURES])
    try:
        names = await tree.children(BROKER_IDS)
    except NoNodeError:
        names = []
    nodes = await tree.get_many([f"{BROKER_IDS}/{name}" for name in names])
    theirs = [name for name, node in zip(names, nodes, strict=True) if node and not BrokerNode.is_ours(node.data)]
    if theirs:
        raise ForeignTreeError(
            f"brokers of Apache Kafka ({', '.join(theirs)}) are registered in this chroot of ZooKeeper: they cannot "
            "share one with ottla's; name another chroot in zookeeper.connect"
        )
    if id_node is not None and (features is None or not _has_format(features.data)):
        raise ForeignTreeError(
            f"this chroot of ZooKeeper has the nodes of a cluster of Apache Kafka ({ClusterIdNode.decode(id_node.data)}): "
            "name another one in zookeeper.connect"
        )


def _has_format(data: bytes) -> bool:
    try:
        return FeaturesNode.decode(data).tree_format > 0  # 0 is what single nodes had, which shared no tree
    except BadNodeError:
        return False


async def cluster_id_of(tree: Tree) -> str | None:
    """Return the cluster id in the tree, None if the tree is new."""
    node = (await tree.get_many([CLUSTER_ID]))[0]
    return None if node is None else ClusterIdNode.decode(node.data)


async def prepare_tree(tree: Tree, cluster_id: str) -> str:
    """Make the nodes that always exist, and the cluster's id if there is none; upgrade the tree. Return the id in the tree.

    Several brokers may do it at the same time.

    Raises:
        InconsistentClusterIdError: the tree has another id.
        NewerTreeError: the tree was written by a newer release.
    """
    for attempt in range(TRIES_MAX):
        try:
            return await _prepare(tree, cluster_id)
        except TreeError:
            if attempt + 1 == TRIES_MAX:
                raise
            await tree.sync()  # another broker prepares it, too
    raise AssertionError


async def _prepare(tree: Tree, cluster_id: str) -> str:
    existing = await tree.get_many([*PERSISTENT_PATHS, CLUSTER_ID, CONTROLLER_EPOCH, FEATURES])
    missing: list[Operation] = [
        Create(path) for path, node in zip(PERSISTENT_PATHS, existing, strict=False) if node is None
    ]
    id_node, epoch_node, features_node = existing[-3:]
    found = None if features_node is None else FeaturesNode.decode(features_node.data)
    if found is not None and found.tree_format > TREE_FORMAT:
        raise NewerTreeError(
            f"the coordination tree has format {found.tree_format}, and this release knows {TREE_FORMAT}: it was written by "
            "a newer one"
        )
    if id_node is None:
        missing.append(Create(CLUSTER_ID, ClusterIdNode.encode(cluster_id)))
    elif ClusterIdNode.decode(id_node.data) != cluster_id:
        raise InconsistentClusterIdError(
            f"the coordination tree belongs to cluster {ClusterIdNode.decode(id_node.data)}, the data directories to "
            f"cluster {cluster_id}"
        )
    if epoch_node is None:
        missing.append(Create(CONTROLLER_EPOCH, ControllerEpochNode.encode(0)))
    if features_node is None:
        missing.append(Create(FEATURES, FeaturesNode.encode(Features({}))))
    if missing:
        await tree.multi(missing)
    if features_node is not None and found is not None and found.tree_format < TREE_FORMAT:
        await _upgrade_topics(tree)
        data = FeaturesNode.encode(Features(found.levels, TREE_FORMAT))
        await tree.multi([SetData(FEATURES, data, features_node.stat.version)])
    return cluster_id


async def _upgrade_topics(tree: Tree) -> None:
    """From format 0: make /topic_ids; a topic whose maker died half way says so from now on. What is done stays done."""
    names = await tree.children(BROKER_TOPICS)
    for first in range(0, len(names), TOPICS_PER_MULTI):
        some = names[first : first + TOPICS_PER_MULTI]
        operations: list[Operation] = []
        for name, node in zip(some, await tree.get_many([TopicNode.path(n) for n in some]), strict=True):
            if node is None:
                continue
            assignment = TopicNode.decode(name, node.data)
            states = await tree.get_many([StateNode.path(name, i) for i in range(len(assignment.partitions))])
            if None in states and assignment.creating is None:
                unfinished = TopicAssignment(
                    topic_id=assignment.topic_id,
                    partitions=assignment.partitions,
                    adding=assignment.adding,
                    removing=assignment.removing,
                    creating=Maker(node_id=-1, broker_epoch=-1),
                )
                operations.append(SetData(TopicNode.path(name), TopicNode.encode(unfinished), node.stat.version))
            path = TopicIdNode.path(assignment.topic_id)
            if (await tree.get_many([path]))[0] is None:
                operations.append(Create(path, TopicIdNode.encode(name)))
        if operations:
            await tree.multi(operations)
