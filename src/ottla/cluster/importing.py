"""Takes what the tree of a single node says over into the tree of a cluster, in which its directory becomes a broker's.

`read_single_node` says what there is, and refuses what is no single node's. `check_import` compares it with the cluster and
refuses names that exist. `write_import` writes, in transactions each of which leaves a cluster that is whole:

1. The reservation: the broker's epoch node with the ids of its log directories (no other directory can register under the
   broker's id from then on), the producer ids that were given out, levels of features.
2. Topics with the states of their partitions, each topic in one transaction; only very large ones grow in several.
   No broker leads them yet: the replica is away until the broker starts.
3. Settings, access rules, ids of deleted topics.

What an interrupted import has written is recognised when it is repeated: the reservation by the directories, topics by their
ids, other nodes by their data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, NO_LEADER
from ottla.cluster.nodes import (
    BROKER_TOPICS,
    CHANGE_PREFIX,
    CHANGES,
    CONFIG,
    CONTROLLER,
    CONTROLLER_EPOCH,
    FEATURES,
    PRODUCER_ID_BLOCK,
    BrokerEpoch,
    BrokerEpochNode,
    BrokerNode,
    Change,
    ChangeNode,
    ConfigNode,
    DeletedNode,
    Features,
    FeaturesNode,
    PartitionState,
    ProducerIdBlockNode,
    StateNode,
    TopicAssignment,
    TopicIdNode,
    TopicNode,
)
from ottla.cluster.nodes.acls import ACL_PATHS, ACLS
from ottla.cluster.nodes.topics import DELETED
from ottla.cluster.tree import REQUEST_BYTES_MAX, Check, Create, Node, Operation, SetData, Tree
from ottla.cluster.walking import persistent_nodes
from ottla.types import INTERNAL_TOPICS, ZERO_UUID

#: Not copied as they are: what belongs to one cluster or one session, and what is taken over with other contents.
_NOT_COPIED: Final = (
    "/brokers",
    "/cluster",
    "/admin",
    "/topic_ids",
    "/restored",
    DELETED,
    CHANGES,
    CONTROLLER,
    CONTROLLER_EPOCH,
    FEATURES,
    PRODUCER_ID_BLOCK,
)
#: Secrets that each cluster makes of itself: those of the cluster stay.
_OWN: Final = f"{CONFIG}/ottla/"
#: Partitions in the transaction that makes a topic. A larger topic grows; internal topics, whose keys are hashed with their
#: number of partitions, are always made at once.
PARTITIONS_AT_ONCE: Final = 500
#: Small topics and other nodes in one transaction.
_TOGETHER: Final = 100


class ImportRefusedError(Exception):
    """The import is not possible, and nothing was changed by this attempt. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTopic:
    """A topic of the single node, with the state of each partition."""

    name: str
    topic_id: bytes
    states: tuple[PartitionState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleNode:
    """What the tree of a single node says.

    Attributes:
        node_id: its broker id there.
        epoch: its epoch node.
        producer_ids: the block given out last; None if none was.
        deleted: data of the nodes under /deleted, by path.
        others: data of all nodes that are taken over as they are, by path, parents first.
    """

    node_id: int
    cluster_id: str
    epoch: BrokerEpoch
    topics: tuple[SourceTopic, ...]
    producer_ids: range | None
    levels: Mapping[str, int]
    deleted: Mapping[str, bytes]
    others: Mapping[str, bytes]


async def read_single_node(tree: Tree, cluster_id: str, node_id: int) -> SingleNode:
    """Read the tree of a stopped node.

    Raises:
        ImportRefusedError: there is something in it that no single node that stopped in order has.
        BadNodeError: a node contains something else than it should.
    """
    deleted = {p: n.data for p, n in (await persistent_nodes(tree, DELETED)).items() if p != DELETED}
    topics = []
    for name in await tree.children(BROKER_TOPICS):
        assignment = TopicNode.decode(name, (await tree.get(TopicNode.path(name))).data)
        if DeletedNode.path(assignment.topic_id) in deleted:
            continue  # it is being deleted
        states = await tree.get_many([StateNode.path(name, i) for i in range(len(assignment.partitions))])
        topics.append(_source_topic(name, assignment, states, node_id))
    epoch, features, block = await tree.get_many([BrokerEpochNode.path(node_id), FEATURES, PRODUCER_ID_BLOCK])
    return SingleNode(
        node_id=node_id,
        cluster_id=cluster_id,
        epoch=BrokerEpoch(directories=()) if epoch is None else BrokerEpochNode.decode(node_id, epoch.data),
        topics=tuple(topics),
        producer_ids=None if block is None else ProducerIdBlockNode.decode(block.data),
        levels={} if features is None else FeaturesNode.decode(features.data).levels,
        deleted=deleted,
        others={p: n.data for p, n in (await persistent_nodes(tree, without=_NOT_COPIED)).items() if p != "/"},
    )


def _source_topic(name: str, assignment: TopicAssignment, states: Sequence[Node | None], node_id: int) -> SourceTopic:
    found = []
    for index, (replicas, node) in enumerate(zip(assignment.partitions, states, strict=True)):
        if set(replicas) != {node_id}:
            raise ImportRefusedError(
                f"{name}-{index} has replicas on the brokers {', '.join(map(str, replicas))}: only the directory of a single "
                f"broker can be imported; move all partitions to broker {node_id} first"
            )
        state = None if node is None else StateNode.decode(StateNode.path(name, index), node.data)
        if state is None or assignment.creating is not None or state.topic_id not in (assignment.topic_id, ZERO_UUID):
            raise ImportRefusedError(
                f"topic {name} was being made when the node stopped: start the node once more, which finishes that, and "
                "stop it"
            )
        found.append(state)
    return SourceTopic(name=name, topic_id=assignment.topic_id, states=tuple(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """What is to be written.

    Attributes:
        node_id: the broker id in the cluster.
        reservation: operations of the first transaction; empty if an earlier attempt has written it.
        epoch: version that the broker's epoch node has after it.
        topics, deleted, others: what is not there yet.
    """

    node_id: int
    reservation: tuple[Operation, ...]
    epoch: int
    topics: tuple[SourceTopic, ...]
    grown: tuple[SourceTopic, ...]
    deleted: Mapping[str, bytes]
    others: Mapping[str, bytes]


async def check_import(tree: Tree, source: SingleNode, node_id: int, directories: Sequence[str]) -> ImportPlan:
    """Compare with the cluster; return what is to be written. The tree is prepared already (`prepare_tree`).

    Args:
        directories: ids of the node's log directories.

    Raises:
        ImportRefusedError: one sentence says why. Nothing was changed.
    """
    reservation, epoch = await _reserve(tree, source, node_id, directories)
    topics, grown = [], []
    for topic, node in zip(
        source.topics, await tree.get_many([TopicNode.path(t.name) for t in source.topics]), strict=True
    ):
        if node is None:
            topics.append(topic)
            continue
        there = TopicNode.decode(topic.name, node.data)
        if there.topic_id != topic.topic_id:
            raise ImportRefusedError(
                f"the cluster has a topic {topic.name} already: delete one of the two, or copy the records"
            )
        if len(there.partitions) < len(topic.states):
            grown.append(topic)
    others = _renamed(source, node_id)
    existing = dict(zip(others, await tree.get_many(list(others)), strict=True))
    for path, node in existing.items():
        if node is not None and node.data != others[path] and others[path] and not path.startswith(_OWN):
            raise ImportRefusedError(
                f"the cluster has {_described(path)} already, and other ones: remove one of the two"
            )
    deleted = dict(zip(source.deleted, await tree.get_many(list(source.deleted)), strict=True))
    return ImportPlan(
        node_id=node_id,
        reservation=reservation,
        epoch=epoch,
        topics=tuple(topics),
        grown=tuple(grown),
        deleted={path: source.deleted[path] for path, node in deleted.items() if node is None},
        others={path: others[path] for path, node in existing.items() if node is None},
    )


async def _reserve(
    tree: Tree, source: SingleNode, node_id: int, directories: Sequence[str]
) -> tuple[tuple[Operation, ...], int]:
    epoch_path = BrokerEpochNode.path(node_id)
    living, epoch_node, block_node, features_node = await tree.get_many(
        [BrokerNode.path(node_id), epoch_path, PRODUCER_ID_BLOCK, FEATURES]
    )
    if living is not None:
        raise ImportRefusedError(f"broker {node_id} runs in the cluster: choose another id (--broker-id)")
    stored = None if epoch_node is None else BrokerEpochNode.decode(node_id, epoch_node.data)
    if epoch_node is not None and stored is not None and stored.directories:
        if set(stored.directories) != set(directories):
            raise ImportRefusedError(
                f"broker id {node_id} belongs to other log directories in the cluster: choose another id (--broker-id)"
            )
        return (), epoch_node.stat.version
    if source.producer_ids is not None and block_node is not None:
        raise ImportRefusedError(
            "the cluster has given out producer ids, and so has the node: the same ids would be used twice; import into "
            "a cluster that no producer has used yet"
        )
    assert features_node is not None
    features = FeaturesNode.decode(features_node.data)
    different = sorted(name for name, level in source.levels.items() if features.levels.get(name, level) != level)
    if different:
        raise ImportRefusedError(
            f"the feature {different[0]} has level {features.levels[different[0]]} in the cluster and "
            f"{source.levels[different[0]]} on the node: bring them to the same level first"
        )
    version = 0 if epoch_node is None else epoch_node.stat.version + 1
    epoch = replace(source.epoch, directories=tuple(directories), continues=version, is_stopping=False, process="")
    data = BrokerEpochNode.encode(epoch)
    operations: list[Operation] = [
        Create(epoch_path, data) if epoch_node is None else SetData(epoch_path, data, epoch_node.stat.version)
    ]
    if source.producer_ids is not None:
        operations.append(Create(PRODUCER_ID_BLOCK, ProducerIdBlockNode.encode(node_id, source.producer_ids)))
    if source.levels:
        levels = Features({**features.levels, **source.levels}, features.tree_format)
        operations.append(SetData(FEATURES, FeaturesNode.encode(levels), features_node.stat.version))
    return tuple(operations), version


def _renamed(source: SingleNode, node_id: int) -> dict[str, bytes]:
    """Return the nodes that are taken over, with the broker's settings under its new id."""
    old, new = (ConfigNode.path(BROKERS, str(number)) for number in (source.node_id, node_id))
    return {new if path == old else path: data for path, data in source.others.items()}


def _described(path: str) -> str:
    parts = path[1:].split("/")
    if path.startswith(f"{CONFIG}/") and len(parts) == 3:
        name = ConfigNode.name(parts[1], parts[2])
        whose = f"all {parts[1]}" if name == DEFAULT_ENTITY else f"{parts[1]} {name}"
        return f"settings of {whose}"
    if path.startswith(ACLS):
        return f"access rules of {'/'.join(parts[1:])}"
    return path


async def write_import(
    tree: Tree, plan: ImportPlan, now_ms: int, step: Callable[[str], None] = lambda name: None
) -> None:
    """Write the plan.

    Args:
        step: called after each transaction, with what it was.

    Raises:
        TreeError: somebody has changed the cluster meanwhile: check again, and repeat.
        TreeUnavailableError: the tree cannot be reached; repeating is right.
    """
    fence = Check(BrokerEpochNode.path(plan.node_id), plan.epoch)

    async def commit(operations: Sequence[Operation], change: Change, name: str) -> None:
        note = Create(CHANGE_PREFIX, ChangeNode.encode(change, now_ms), sequential=True)
        await tree.multi([*operations, note] if name == "reservation" else [fence, *operations, note])
        step(name)

    if plan.reservation:
        await commit(plan.reservation, Change(brokers=True, features=True), "reservation")
    # Settings before topics: a topic must not be seen for a moment without its retention.
    for chunk in _chunks(plan.others):
        await commit([Create(path, plan.others[path]) for path in chunk], _change_of(chunk), "settings")
    for chunk in _chunks(plan.deleted):
        await commit([Create(path, plan.deleted[path]) for path in chunk], Change(), "deleted")
    for topics in _together(plan.topics):
        made = [operation for topic in topics for operation in _make(topic, plan)]
        await commit(made, Change(topics=tuple(topic.name for topic in topics)), "topics")
    for topic in (*plan.topics, *plan.grown):
        await _grow(tree, topic, plan, commit)


def _together(topics: Sequence[SourceTopic]) -> Iterator[list[SourceTopic]]:
    """Divide topics: small ones go into one transaction."""
    some: list[SourceTopic] = []
    room = _TOGETHER
    for topic in topics:
        if some and len(topic.states) > room:
            yield some
            some, room = [], _TOGETHER
        some.append(topic)
        room -= len(topic.states)
    if some:
        yield some


def _chunks(nodes: Mapping[str, bytes]) -> Iterator[list[str]]:
    """Divide nodes into transactions, by number and by size."""
    some: list[str] = []
    size = 0
    for path, data in nodes.items():
        if some and (len(some) == _TOGETHER or size + len(data) > REQUEST_BYTES_MAX // 3):
            yield some
            some, size = [], 0
        some.append(path)
        size += len(data)
    if some:
        yield some


def _change_of(paths: Sequence[str]) -> Change:
    configs, acls = [], []
    for path in paths:
        parts = path[1:].split("/")
        if path.startswith(f"{CONFIG}/") and len(parts) == 3:
            configs.append((parts[1], ConfigNode.name(parts[1], parts[2])))
        elif path.startswith((f"{ACLS}/", f"{ACLS}-extended/")) and path not in ACL_PATHS:
            acls.append(path)
    return Change(configs=tuple(configs), acls=tuple(acls))


def _make(topic: SourceTopic, plan: ImportPlan) -> list[Operation]:
    count = len(topic.states) if topic.name in INTERNAL_TOPICS else min(len(topic.states), PARTITIONS_AT_ONCE)
    return [
        Create(TopicIdNode.path(topic.topic_id), TopicIdNode.encode(topic.name)),
        Create(TopicNode.path(topic.name), _assignment(topic, plan, count)),
        Create(TopicNode.partitions_path(topic.name)),
        *(operation for index in range(count) for operation in _make_state(topic, index, plan)),
    ]


def _assignment(topic: SourceTopic, plan: ImportPlan, count: int) -> bytes:
    return TopicNode.encode(TopicAssignment(topic_id=topic.topic_id, partitions=((plan.node_id,),) * count))


def _make_state(topic: SourceTopic, index: int, plan: ImportPlan) -> Iterator[Operation]:
    before = topic.states[index]
    state = PartitionState(
        leader=NO_LEADER,
        leader_epoch=before.leader_epoch + 1,
        isr=(plan.node_id,),
        controller_epoch=0,
        isr_epochs=(plan.epoch,),
        topic_id=topic.topic_id,
    )
    yield Create(StateNode.partition_path(topic.name, index))
    yield Create(StateNode.path(topic.name, index), StateNode.encode(state))


async def _grow(
    tree: Tree,
    topic: SourceTopic,
    plan: ImportPlan,
    commit: Callable[[Sequence[Operation], Change, str], Awaitable[None]],
) -> None:
    """Give a large topic the partitions that it does not have yet."""
    while True:
        node = await tree.get(TopicNode.path(topic.name))
        count = len(TopicNode.decode(topic.name, node.data).partitions)
        total = min(len(topic.states), count + PARTITIONS_AT_ONCE)
        if count == total:
            return
        await commit(
            [
                SetData(TopicNode.path(topic.name), _assignment(topic, plan, total), node.stat.version),
                *(operation for index in range(count, total) for operation in _make_state(topic, index, plan)),
            ],
            Change(topics=(topic.name,)),
            "growth",
        )
