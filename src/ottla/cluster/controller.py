"""Controller: the shell of the elected controller. Takes wishes, asks `decisions`, writes multis.

On a single node this broker is the controller as soon as it has registered. Wishes are served one at a time. Each is one
transaction (for topics of very many partitions several, the topic first): check that this is still the controller, change
the nodes, add a node to /changes. A method returns when the change is in the tree *and* in this broker's own image, so that
a client that asks next sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ottla.cluster.decisions.configs import (
    Alteration,
    apply_alterations,
    check_request,
    validate_broker_config,
    validate_client_metrics_config,
    validate_group_config,
    validate_topic_config,
)
from ottla.cluster.decisions.default_topics import ControllerSettings, default_topic, internal_topic_configs
from ottla.cluster.decisions.election import elect_on_request, elections_at_start
from ottla.cluster.decisions.features import FeatureUpdate, update_features
from ottla.cluster.decisions.recovery import FoundPartition, rebuild_topics
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.thread_counts import why_thread_counts_refused
from ottla.cluster.decisions.topic_names import CLUSTER_METADATA_TOPIC, why_invalid
from ottla.cluster.decisions.topics import NewTopic, TopicPlan, plan_growth, plan_topics
from ottla.cluster.image import (
    BROKERS,
    CLIENT_METRICS,
    DEFAULT_ENTITY,
    GROUPS,
    TOPICS,
    ClusterImage,
    ConfigResource,
    Endpoint,
    PartitionImage,
    TopicImage,
)
from ottla.cluster.nodes import (
    CHANGE_PREFIX,
    CHANGES,
    CLUSTER_ID,
    CONTROLLER_EPOCH,
    DELETED,
    FEATURES,
    PERSISTENT_PATHS,
    PRODUCER_ID_BLOCK,
    PRODUCER_ID_BLOCK_SIZE,
    BrokerNode,
    Change,
    ChangeNode,
    ClusterIdNode,
    ConfigNode,
    ControllerEpochNode,
    ControllerNode,
    DeletedNode,
    DeletedTopic,
    FeaturesNode,
    PartitionState,
    ProducerIdBlockNode,
    StateNode,
    TopicNode,
)
from ottla.cluster.tree import (
    ANY_VERSION,
    BadVersionError,
    Check,
    Create,
    Delete,
    Node,
    NoNodeError,
    Operation,
    SetData,
    Tree,
    TreeError,
    TreeUnavailableError,
)
from ottla.config import BROKER, GROUP, TOPIC, ConfigError
from ottla.config.effective import Levels
from ottla.errors import ErrorCode, KafkaError, KafkaStorageError, NotControllerError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from random import Random

    from ottla.clock import Clock
    from ottla.cluster.follow import MetadataFollower
    from ottla.config.keys import ConfigKey

logger = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["Controller", "ControllerSettings", "InconsistentClusterIdError", "NewTopic", "TopicResult", "prepare_tree"]

#: Changes older than this are forgotten; who missed them reads everything again (Kafka keeps its own as long).
CHANGE_AGE_MAX_MS = 15 * 60 * 1000
#: How many changes are made before old ones are looked for.
CHANGES_PER_PURGE = 100
#: Partitions (or topics) in one transaction. One stale version aborts it, and ZooKeeper takes at most 1 MiB.
PARTITIONS_PER_MULTI = 100
#: How long it is remembered that a topic was deleted: a broker that was away for longer keeps its log, set aside.
DELETED_AGE_MAX_MS = 7 * 24 * 3_600_000


class InconsistentClusterIdError(Exception):
    """The tree belongs to another cluster than the data directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicResult:
    """What became of one topic. `error` NONE: done (or, validate only: could be done)."""

    name: str | None
    topic_id: bytes = bytes(16)
    error: ErrorCode = ErrorCode.NONE
    message: str | None = None
    num_partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, str] = field(default_factory=dict)


async def prepare_tree(tree: Tree, cluster_id: str) -> str:
    """Make the nodes that always exist, and the cluster's id if there is none. Return the id in the tree.

    Raises:
        InconsistentClusterIdError: the tree has another id.
    """
    existing = await tree.get_many([*PERSISTENT_PATHS, CLUSTER_ID, CONTROLLER_EPOCH, FEATURES])
    missing: list[Operation] = [
        Create(path) for path, node in zip(PERSISTENT_PATHS, existing, strict=False) if node is None
    ]
    id_node, epoch_node, features_node = existing[-3:]
    if id_node is None:
        missing.append(Create(CLUSTER_ID, ClusterIdNode.encode(cluster_id)))
    elif ClusterIdNode.decode(id_node.data) != cluster_id:
        found = ClusterIdNode.decode(id_node.data)
        raise InconsistentClusterIdError(
            f"the coordination tree belongs to cluster {found}, the data directories to cluster {cluster_id}"
        )
    if epoch_node is None:
        missing.append(Create(CONTROLLER_EPOCH, ControllerEpochNode.encode(0)))
    if features_node is None:
        missing.append(Create(FEATURES, FeaturesNode.encode({})))
    if missing:
        await tree.multi(missing)
    return cluster_id


async def cluster_id_of(tree: Tree) -> str | None:
    """Return the cluster id in the tree, None if the tree is new."""
    node = (await tree.get_many([CLUSTER_ID]))[0]
    return None if node is None else ClusterIdNode.decode(node.data)


class Controller:
    """Registers this broker, becomes controller, serves wishes.

    Args:
        follower: started; its image is what decisions are made on.
        random: dice for placement and topic ids.
        check_broker_config: raises ConfigError if dynamic settings (for this broker, for all) do not fit together.
    """

    def __init__(
        self,
        tree: Tree,
        follower: MetadataFollower,
        settings: ControllerSettings,
        *,
        random: Random,
        clock: Clock,
        check_broker_config: Callable[[Mapping[str, str], Mapping[str, str]], object] = lambda broker, default: None,
        partitions_per_multi: int = PARTITIONS_PER_MULTI,
    ) -> None:
        self._tree = tree
        self._follower = follower
        self._settings = settings
        self._random = random
        self._clock = clock
        self._check_broker_config = check_broker_config
        self._partitions_per_multi = partitions_per_multi
        self._turn = asyncio.Lock()
        self._epoch = 0
        self._epoch_version = ANY_VERSION
        self._until_purge = 0

    @property
    def image(self) -> ClusterImage:
        return self._follower.image

    @property
    def epoch(self) -> int:
        """The controller epoch, 0 before `start`."""
        return self._epoch

    @property
    def levels(self) -> Levels:
        """This broker's settings, static and dynamic."""
        return Levels(
            static=self._settings.static,
            default=self.image.config(BROKERS, DEFAULT_ENTITY),
            broker=self.image.config(BROKERS, str(self._settings.node_id)),
        )

    async def start(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clean: bool = False,
        found: Sequence[FoundPartition] | None = None,
        keep_everything: bool = True,
    ) -> tuple[str, ...]:
        """Register this broker and become controller; give every partition a leader.

        Args:
            endpoints: where clients and brokers reach this one.
            clean: the last stop was a clean one, so leaders keep their epochs.
            found: the partition directories, if the tree was just made although data directories are not empty.
            keep_everything: topics rebuilt from `found` delete nothing until their settings are given again; False: the
                broker's defaults are known to be right for them.

        Returns:
            Sentences about what was odd while topics were rebuilt from `found`.
        """
        async with self._turn:
            node_id, now = self._settings.node_id, self._clock.wall_ms()
            await self._commit(
                [
                    Create(
                        BrokerNode.path(node_id), BrokerNode.encode(endpoints, self._settings.rack, now), ephemeral=True
                    )
                ],
                Change(brokers=True),
            )
            epoch_node = await self._tree.get(CONTROLLER_EPOCH)
            epoch = ControllerEpochNode.decode(epoch_node.data) + 1
            self._epoch_version = epoch_node.stat.version + 1
            await self._commit(
                [
                    Create(ControllerNode.path, ControllerNode.encode(node_id, now), ephemeral=True),
                    SetData(CONTROLLER_EPOCH, ControllerEpochNode.encode(epoch), epoch_node.stat.version),
                ],
                Change(brokers=True),
            )
            self._epoch = epoch
            notes: tuple[str, ...] = ()
            if found is not None and not self.image.topics:
                rebuilt = rebuild_topics(
                    found,
                    node_id,
                    self._random,
                    settings=None if keep_everything else {},
                    internal_settings=internal_topic_configs(self._settings, len(self.image.brokers)),
                )
                notes = rebuilt.notes
                await self._create(rebuilt.plans)
                await self._skip_producer_ids()
            elections = dict(elections_at_start(self.image, {node_id}, clean=clean or found is not None))
            await self._write_partitions(elections)
            await self._finish_deletions()
            await self._purge_changes()
        return notes

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        """One wish at a time; what keeps the tree from being written becomes an answer for the client.

        Raises:
            KafkaStorageError: the tree cannot be used now; whether the change was made is unknown.
            NotControllerError: another broker has become controller.
        """
        async with self._turn:
            try:
                yield
            except TreeUnavailableError as error:
                raise KafkaStorageError(str(error)) from error
            except BadVersionError as error:
                if error.path == CONTROLLER_EPOCH:
                    raise NotControllerError("another broker has become controller") from error
                raise

    async def create_topics(self, topics: Sequence[NewTopic], *, validate_only: bool = False) -> list[TopicResult]:
        """Make the topics that can be made, in one transaction. Names must be unique among them."""
        async with self._serving():
            plans = plan_topics(
                self.image,
                topics,
                num_partitions=self._settings.num_partitions,
                replication_factor=self._settings.default_replication_factor,
                levels=self.levels,
                random=self._random,
            )
            if not validate_only:
                await self._create([plan for plan in plans if isinstance(plan, TopicPlan)])
        return [
            TopicResult(name=topic.name, error=plan.error, message=plan.message)
            if isinstance(plan, Refusal)
            else _result_of(plan)
            for topic, plan in zip(topics, plans, strict=True)
        ]

    async def ensure_topic(self, name: str) -> TopicResult:
        """Make a topic with the broker's defaults if it does not exist: for Metadata, and for internal topics.

        Internal topics get Kafka's settings, and as many replicas as configured but never more than brokers are alive.
        """
        topic = self.image.topics.get(name)
        if topic is None:
            if name == CLUSTER_METADATA_TOPIC:
                return TopicResult(name=name, error=ErrorCode.INVALID_TOPIC_EXCEPTION)
            try:
                result = (await self.create_topics([default_topic(name, self._settings, len(self.image.brokers))]))[0]
            except KafkaError as error:
                return TopicResult(name=name, error=error.code, message=error.message)
            # Somebody else may have made it meanwhile: all the better.
            topic = self.image.topics.get(name)
            if topic is None:
                return result
        return TopicResult(
            name=name,
            topic_id=topic.topic_id,
            num_partitions=len(topic.partitions),
            replication_factor=len(topic.partitions[0].replicas),
        )

    async def delete_topics(self, names: Sequence[str]) -> list[TopicResult]:
        """Delete topics and their settings: once /deleted names a topic it is gone, and its nodes are taken away after."""
        async with self._serving():
            found = {name: self.image.topics[name] for name in names if name in self.image.topics}
            for topics in _chunks(list(found.values()), self._partitions_per_multi):
                now = self._clock.wall_ms()
                operations: list[Operation] = [
                    Create(
                        DeletedNode.path(t.topic_id), DeletedNode.encode(DeletedTopic(name=t.name, timestamp_ms=now))
                    )
                    for t in topics
                ]
                operations += await self._config_operations({ConfigResource(TOPICS, t.name): {} for t in topics})
                configs = tuple((TOPICS, t.name) for t in topics if self.image.topic_config(t.name))
                await self._commit(operations, Change(topics=tuple(t.name for t in topics), configs=configs))
            await self._remove_topics(list(found))
        return [
            TopicResult(name=name, topic_id=found[name].topic_id)
            if name in found
            else TopicResult(name=name, error=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            for name in names
        ]

    async def _remove_topics(self, names: Sequence[str]) -> None:
        """Take away the nodes of topics that are deleted, the states first, the topic's own last."""
        for name in names:
            partitions = TopicNode.partitions_path(name)
            # What is in the tree counts, not what the image said: a topic that was growing may have some states only.
            indexes = await self._tree.children(partitions) if await self._exists(partitions) else []
            for chunk in _chunks(indexes, self._partitions_per_multi):
                paths = [
                    path
                    for p in chunk
                    for path in (StateNode.path(name, int(p)), StateNode.partition_path(name, int(p)))
                ]
                await self._tree.multi([*self._fence(), *await self._deletions(paths)])
            operations = await self._config_operations({ConfigResource(TOPICS, name): {}})
            configs = ((TOPICS, name),) if operations else ()
            operations += await self._deletions([partitions, TopicNode.path(name)])
            if operations:
                await self._commit(operations, Change(configs=configs))

    async def _finish_deletions(self) -> None:
        """Take away what an earlier controller left of deleted topics, and forget those deleted long ago."""
        names = await self._tree.children(DELETED)
        paths = [f"{DELETED}/{name}" for name in names]
        found = {
            DeletedNode.topic_id(name): DeletedNode.decode(path, node.data)
            for name, path, node in zip(names, paths, await self._tree.get_many(paths), strict=True)
            if node is not None
        }
        topics = list(dict.fromkeys(topic.name for topic in found.values()))
        left = []
        for name, node in zip(topics, await self._tree.get_many([TopicNode.path(t) for t in topics]), strict=True):
            if node is not None and TopicNode.decode(name, node.data).topic_id in found:
                left.append(name)
        await self._remove_topics(left)
        deadline = self._clock.wall_ms() - DELETED_AGE_MAX_MS
        old = [DeletedNode.path(topic_id) for topic_id, topic in found.items() if topic.timestamp_ms < deadline]
        for chunk in _chunks(old, self._partitions_per_multi):
            await self._tree.multi([*self._fence(), *[Delete(path) for path in chunk]])

    async def _exists(self, path: str) -> bool:
        return (await self._tree.get_many([path]))[0] is not None

    async def _deletions(self, paths: Sequence[str]) -> list[Operation]:
        """Return the deletions of those of the nodes that exist."""
        return [Delete(p) for p, node in zip(paths, await self._tree.get_many(paths), strict=True) if node is not None]

    async def create_partitions(
        self, name: str, count: int, assignments: Sequence[Sequence[int]] | None = None, *, validate_only: bool = False
    ) -> TopicResult:
        """Grow a topic to `count` partitions."""
        async with self._serving():
            plan = plan_growth(self.image, name, count, assignments, self._random)
            if isinstance(plan, Refusal):
                return TopicResult(name=name, error=plan.error, message=plan.message)
            if not validate_only:
                await self._grow(self.image.topics[name], plan)
        return TopicResult(name=name, num_partitions=count)

    async def incremental_alter_configs(
        self, resource: ConfigResource, alterations: Sequence[Alteration], *, validate_only: bool = False
    ) -> Refusal | None:
        """Change single keys of one resource. Returns None if it was done."""
        refusal = check_request(alterations)
        if refusal is not None:
            return refusal
        async with self._serving():
            changed = apply_alterations(self.image.config(*resource), alterations, _keys_of(resource))
            if isinstance(changed, Refusal):
                # For a broker's own keys Kafka calls the request invalid, elsewhere the configuration.
                return changed
            return await self._alter(resource, changed, validate_only=validate_only)

    async def alter_configs(
        self, resource: ConfigResource, configs: Sequence[tuple[str, str | None]], *, validate_only: bool = False
    ) -> Refusal | None:
        """Replace all overrides of one resource (the old way). Returns None if it was done."""
        refusal = check_request([Alteration(name, 0, value) for name, value in configs])
        if refusal is not None:
            return refusal
        async with self._serving():
            changed = {name: value for name, value in configs if value is not None}
            return await self._alter(resource, changed, validate_only=validate_only)

    async def elect_leader(self, topic_partition: TopicPartition, election_type: int) -> Refusal | None:
        """Move leadership on request. Returns None if it was done."""
        async with self._serving():
            partition = elect_on_request(self.image, topic_partition, election_type)
            if isinstance(partition, Refusal):
                return partition
            await self._write_partitions({topic_partition: partition})
            return None

    async def update_features(self, updates: Sequence[FeatureUpdate], *, validate_only: bool = False) -> Refusal | None:
        """Give features other levels, all of them or none. Returns None if it was done."""
        async with self._serving():
            levels = update_features(self.image.features, updates)
            if isinstance(levels, Refusal):
                return levels
            if levels != self.image.features and not validate_only:
                data = FeaturesNode.encode(levels)
                await self._commit([SetData(FEATURES, data, self.image.features_epoch)], Change(features=True))
        return None

    async def update_partitions(
        self, partitions: Mapping[TopicPartition, PartitionImage]
    ) -> dict[TopicPartition, ErrorCode]:
        """Write leaders and ISRs decided elsewhere, if `partition_epoch` still is what the decision was made on."""
        results: dict[TopicPartition, ErrorCode] = {}
        async with self._serving():
            fitting: dict[TopicPartition, PartitionImage] = {}
            for topic_partition, partition in partitions.items():
                now = self.image.partition(topic_partition)
                if now is None:
                    results[topic_partition] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif now.partition_epoch != partition.partition_epoch:
                    results[topic_partition] = ErrorCode.INVALID_UPDATE_VERSION
                else:
                    results[topic_partition] = ErrorCode.NONE
                    fitting[topic_partition] = partition
            await self._write_partitions(fitting)
        return results

    async def allocate_producer_ids(self) -> range:
        """Return a block of 1,000 producer ids that nobody else has or will get."""
        while True:
            try:
                node = (await self._tree.get_many([PRODUCER_ID_BLOCK]))[0]
                start = 0 if node is None else ProducerIdBlockNode.decode(node.data).stop
                return await self._write_producer_id_block(node, start)
            except TreeUnavailableError as error:
                raise KafkaStorageError(str(error)) from error
            except TreeError:
                continue  # another broker took this block

    async def _write_producer_id_block(self, node: Node | None, start: int) -> range:
        block = range(start, start + PRODUCER_ID_BLOCK_SIZE)
        data = ProducerIdBlockNode.encode(self._settings.node_id, block)
        operation: Operation = (
            Create(PRODUCER_ID_BLOCK, data) if node is None else SetData(PRODUCER_ID_BLOCK, data, node.stat.version)
        )
        await self._tree.multi([operation])
        return block

    async def _skip_producer_ids(self) -> None:
        """Begin far from ids given out before the tree was lost: a second owner of an id would be taken for the first."""
        node = (await self._tree.get_many([PRODUCER_ID_BLOCK]))[0]
        if node is None:
            await self._write_producer_id_block(None, self._random.randrange(1 << 32, 1 << 48) // 1000 * 1000)

    async def _create(self, plans: Sequence[TopicPlan]) -> None:
        """Make topics, several in one transaction as long as their partitions fit into it."""
        chunk: list[TopicPlan] = []
        room = self._partitions_per_multi
        for plan in plans:
            if chunk and len(plan.partitions) > room:
                await self._create_together(chunk)
                chunk, room = [], self._partitions_per_multi
            chunk.append(plan)
            room -= len(plan.partitions)
        if chunk:
            await self._create_together(chunk)

    async def _create_together(self, plans: Sequence[TopicPlan]) -> None:
        if not all(node is None for node in await self._tree.get_many([TopicNode.path(plan.name) for plan in plans])):
            await self._finish_deletions()  # one that was interrupted
        operations = await self._config_operations({ConfigResource(TOPICS, p.name): p.configs for p in plans})
        later: dict[TopicPartition, PartitionImage] = {}
        for plan in plans:
            path = TopicNode.path(plan.name)
            replicas = [partition.replicas for partition in plan.partitions]
            operations.append(Create(path, TopicNode.encode(plan.topic_id, replicas)))
            operations.append(Create(TopicNode.partitions_path(plan.name)))
            for index, partition in enumerate(plan.partitions):
                if index < self._partitions_per_multi:
                    operations += self._new_state(plan.name, index, partition)
                else:
                    later[TopicPartition(plan.name, index)] = partition
        await self._commit(
            operations,
            Change(
                topics=tuple(plan.name for plan in plans),
                configs=tuple(
                    (TOPICS, plan.name) for plan in plans if plan.configs or self.image.topic_config(plan.name)
                ),
            ),
        )
        await self._write_partitions(later)

    def _new_state(self, topic: str, index: int, partition: PartitionImage) -> list[Operation]:
        return [
            Create(StateNode.partition_path(topic, index)),
            Create(StateNode.path(topic, index), self._state(partition)),
        ]

    def _state(self, partition: PartitionImage) -> bytes:
        return StateNode.encode(
            PartitionState(
                leader=partition.leader,
                leader_epoch=partition.leader_epoch,
                isr=partition.isr,
                controller_epoch=self._epoch,
            )
        )

    async def _grow(self, topic: TopicImage, new: Sequence[PartitionImage]) -> None:
        replicas = [partition.replicas for partition in (*topic.partitions, *new)]
        operations: list[Operation] = [SetData(TopicNode.path(topic.name), TopicNode.encode(topic.topic_id, replicas))]
        later: dict[TopicPartition, PartitionImage] = {}
        for index, partition in enumerate(new, start=len(topic.partitions)):
            if index - len(topic.partitions) < self._partitions_per_multi:
                operations += self._new_state(topic.name, index, partition)
            else:
                later[TopicPartition(topic.name, index)] = partition
        await self._commit(operations, Change(topics=(topic.name,)))
        await self._write_partitions(later)

    async def _write_partitions(self, partitions: Mapping[TopicPartition, PartitionImage]) -> None:
        """Write states, in as many transactions as needed. States that do not exist yet are made."""
        for chunk in _chunks(list(partitions.items()), self._partitions_per_multi):
            nodes = await self._tree.get_many(
                [path for tp, _ in chunk for path in (StateNode.partition_path(*tp), StateNode.path(*tp))]
            )
            operations: list[Operation] = []
            for (topic_partition, partition), parent, state in zip(chunk, nodes[::2], nodes[1::2], strict=True):
                if parent is None:
                    operations.append(Create(StateNode.partition_path(*topic_partition)))
                path = StateNode.path(*topic_partition)
                if state is None:
                    operations.append(Create(path, self._state(partition)))
                else:
                    operations.append(SetData(path, self._state(partition), partition.partition_epoch))
            await self._commit(operations, Change(partitions=tuple(tp for tp, _ in chunk)))

    async def _alter(
        self, resource: ConfigResource, changed: Mapping[str, str], *, validate_only: bool
    ) -> Refusal | None:
        refusal = self._validate(resource, changed)
        if refusal is None and not validate_only:
            operations = await self._config_operations({resource: changed})
            if operations:
                await self._commit(operations, Change(configs=((resource.kind, resource.name),)))
        return refusal

    def _validate(self, resource: ConfigResource, changed: Mapping[str, str]) -> Refusal | None:
        kind, name = resource
        if kind == TOPICS:
            if not name:
                return Refusal(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
            invalid = why_invalid(name)
            if invalid is not None:
                return Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, invalid)
            refusal = validate_topic_config(changed, self.levels)
            if refusal is None and name not in self.image.topics:
                refusal = Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
            return refusal
        if kind == GROUPS:
            return validate_group_config(name, changed, self.levels)
        if kind == CLIENT_METRICS:
            return validate_client_metrics_config(name, changed)
        assert kind == BROKERS
        refusal = validate_broker_config(changed, per_broker=name != DEFAULT_ENTITY)
        if refusal is None:
            before = self.levels
            if name == DEFAULT_ENTITY:
                after = replace(before, default=changed)
            else:
                after = replace(before, broker=changed)
            try:
                self._check_broker_config(after.broker, after.default)
                why = why_thread_counts_refused(before, after)
            except ConfigError as error:
                why = str(error)
            refusal = None if why is None else Refusal(ErrorCode.INVALID_REQUEST, why)
        return refusal

    async def _config_operations(self, configs: Mapping[ConfigResource, Mapping[str, str]]) -> list[Operation]:
        """Return what makes the overrides of these resources what they are to be."""
        paths = [ConfigNode.path(*resource) for resource in configs]
        operations: list[Operation] = []
        for path, node, config in zip(paths, await self._tree.get_many(paths), configs.values(), strict=True):
            if node is not None:
                operations.append(SetData(path, ConfigNode.encode(config)) if config else Delete(path))
            elif config:
                operations.append(Create(path, ConfigNode.encode(config)))
        return operations

    async def _commit(self, operations: Sequence[Operation], change: Change) -> None:
        """Write one transaction and wait until our own image has it."""
        note = Create(CHANGE_PREFIX, ChangeNode.encode(change, self._clock.wall_ms()), sequential=True)
        path = (await self._tree.multi([*self._fence(), *operations, note]))[-1]
        assert isinstance(path, str)
        await self._follower.applied(ChangeNode.number(path))
        self._until_purge -= 1
        if self._until_purge < 0 and self._epoch:
            await self._purge_changes()

    def _fence(self) -> list[Operation]:
        """Return the check that this still is the controller; nothing as long as it is none."""
        return [Check(CONTROLLER_EPOCH, self._epoch_version)] if self._epoch else []

    async def _purge_changes(self) -> None:
        """Remove changes that are old. The newest stays: its number tells who starts where to go on."""
        self._until_purge = CHANGES_PER_PURGE
        names = await self._tree.children(CHANGES)
        paths = [f"{CHANGES}/{name}" for name in names[:-1]]
        deadline = self._clock.wall_ms() - CHANGE_AGE_MAX_MS
        old: list[Operation] = []
        for path, node in zip(paths, await self._tree.get_many(paths), strict=True):
            if node is None or ChangeNode.decode(path, node.data)[1] > deadline:
                break
            old.append(Delete(path))
        for chunk in _chunks(old, self._partitions_per_multi):
            try:
                await self._tree.multi(chunk)
            except (NoNodeError, BadVersionError):  # another controller was quicker
                logger.debug("old changes were purged by somebody else")


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _result_of(plan: TopicPlan) -> TopicResult:
    return TopicResult(
        name=plan.name,
        topic_id=plan.topic_id,
        num_partitions=len(plan.partitions),
        replication_factor=len(plan.partitions[0].replicas),
        configs=plan.configs,
    )


def _keys_of(resource: ConfigResource) -> Mapping[str, ConfigKey]:
    """Return the keys whose types are known where lists grow and shrink; Kafka knows none of client metrics there."""
    return {TOPICS: TOPIC, GROUPS: GROUP, BROKERS: BROKER}.get(resource.kind, {})
