"""TopicWriter: makes, enlarges and deletes topics in the tree.

A topic of many partitions takes several transactions. The first says `creating` in the topic's node, with who makes it, the
last takes that away; as long as it is there and the maker is gone, the controller finishes, and what its maker itself could
not finish it finishes later (`finish_creations`). A deletion
begins with /deleted/<topic id>, from which on no broker sees the topic, and ends with the topic's node
(`finish_deletions`). Every broker makes and enlarges topics, by compare-and-set; only the controller deletes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topics import TopicPlan, new_partition
from ottla.cluster.image import TOPICS, ClusterImage, PartitionImage, TopicImage
from ottla.cluster.nodes import (
    DELETED,
    BrokerEpochNode,
    BrokerNode,
    Change,
    ConfigNode,
    DeletedNode,
    DeletedTopic,
    Maker,
    StateNode,
    TopicAssignment,
    TopicIdNode,
    TopicNode,
    state_of,
)
from ottla.cluster.tree import Check, Create, Delete, Operation, RequestTooLargeError, SetData, Tree, TreeError
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.registration import Registration

logger = logging.getLogger(__name__)

#: How long it is remembered that a topic was deleted: a broker that was away for longer keeps its log, set aside.
DELETED_AGE_MAX_MS = 7 * 24 * 3_600_000

_EXISTS = Refusal(
    ErrorCode.TOPIC_ALREADY_EXISTS, "Topic with this name already exists: another broker has just made it."
)


class TopicWriter:
    """Writes topics of this broker's change log.

    Args:
        registration: this broker, as the maker of topics.
        on_unfinished: called when a topic or a deletion could not be finished for now.
        is_clock_right: whether notes of deletions may be removed because they are old.
    """

    def __init__(
        self,
        log: ChangeLog,
        registration: Registration,
        clock: Clock,
        *,
        on_unfinished: Callable[[], None] = lambda: None,
        is_clock_right: Callable[[], bool] = lambda: True,
    ) -> None:
        self._is_clock_right = is_clock_right
        self._on_unfinished = on_unfinished
        #: Ids of topics that are being made or enlarged here now.
        self._making: set[bytes] = set()
        self.has_unfinished_deletions = False
        self._log = log
        self._registration = registration
        self._clock = clock

    # -- making

    async def create(
        self,
        plans: Sequence[TopicPlan],
        image: ClusterImage,
        *,
        fence: Sequence[Operation] = (),
        controller_epoch: int = 0,
    ) -> dict[str, Refusal | None]:
        """Make topics, several in one transaction as long as their partitions fit into it.

        Returns, by name, None for what was made, or why it was not: TOPIC_ALREADY_EXISTS if another broker was quicker,
        REQUEST_TIMED_OUT if a broker that is to hold a replica has come or gone since the image (plan again).
        """
        with self._making_of([plan.topic_id for plan in plans]):
            return await self._create(plans, image, fence, controller_epoch)

    async def _create(
        self, plans: Sequence[TopicPlan], image: ClusterImage, fence: Sequence[Operation], controller_epoch: int
    ) -> dict[str, Refusal | None]:
        outcome: dict[str, Refusal | None] = {}
        chunk: list[TopicPlan] = []
        room = self._log.partitions_per_multi
        for plan in plans:
            if chunk and len(plan.partitions) > room:
                outcome |= await self._create_together(chunk, image, fence, controller_epoch)
                chunk, room = [], self._log.partitions_per_multi
            chunk.append(plan)
            room -= len(plan.partitions)
        if chunk:
            outcome |= await self._create_together(chunk, image, fence, controller_epoch)
        return outcome

    async def _create_together(
        self, plans: Sequence[TopicPlan], image: ClusterImage, fence: Sequence[Operation], controller_epoch: int
    ) -> dict[str, Refusal | None]:
        tree = self._log.tree
        outcome: dict[str, Refusal | None] = {}
        left = list(plans)
        while left:
            operations: list[Operation] = []
            for plan in left:
                operations += self._new_topic(plan, controller_epoch)
            paths = [ConfigNode.path(TOPICS, plan.name) for plan in left]
            for path, node, plan in zip(paths, await tree.get_many(paths), left, strict=True):
                data = ConfigNode.encode(plan.configs)
                if node is not None:  # left by a topic that is gone
                    operations.append(SetData(path, data, node.stat.version) if plan.configs else Delete(path))
                elif plan.configs:
                    operations.append(Create(path, data))
            checks = _broker_checks([p for plan in left for p in plan.partitions[: self._log.partitions_per_multi]])
            change = Change(
                topics=tuple(plan.name for plan in left),
                configs=tuple((TOPICS, plan.name) for plan in left if plan.configs or image.topic_config(plan.name)),
            )
            try:
                await self._log.commit([*checks, *operations], change, fence=fence, tree=tree)
            except RequestTooLargeError:
                raise
            except TreeError as error:
                failed = [plan for plan in left if error.path in _paths_of(plan)]
                if not failed and any(error.path == check.path for check in checks):
                    failed = left  # a broker has come or gone: decide again with another image
                    outcome |= dict.fromkeys((p.name for p in failed), _brokers_changed())
                elif not failed:
                    raise
                else:
                    outcome |= dict.fromkeys((p.name for p in failed), _EXISTS)
                left = [plan for plan in left if plan.name not in outcome]
                continue
            for plan in left:
                with self._finishing(plan.name):
                    await self._write_rest(plan.name, plan.topic_id, plan.partitions, 0, fence, controller_epoch, tree)
                outcome[plan.name] = None
            break
        return outcome

    def _new_topic(self, plan: TopicPlan, controller_epoch: int) -> list[Operation]:
        """Return what makes a topic and the first of its states."""
        is_large = len(plan.partitions) > self._log.partitions_per_multi
        assignment = TopicAssignment(
            topic_id=plan.topic_id,
            partitions=tuple(partition.replicas for partition in plan.partitions),
            creating=self._maker() if is_large else None,
        )
        operations: list[Operation] = [
            Create(TopicNode.path(plan.name), TopicNode.encode(assignment)),
            Create(TopicNode.partitions_path(plan.name)),
            Create(TopicIdNode.path(plan.topic_id), TopicIdNode.encode(plan.name)),
        ]
        for index, partition in enumerate(plan.partitions[: self._log.partitions_per_multi]):
            operations += _new_state(plan.name, plan.topic_id, index, partition, controller_epoch)
        return operations

    async def _write_rest(
        self,
        name: str,
        topic_id: bytes,
        partitions: Sequence[PartitionImage],
        first: int,
        fence: Sequence[Operation],
        controller_epoch: int,
        tree: Tree,
    ) -> None:
        """Write the states that did not fit into the first transaction, and take `creating` away."""
        per_multi = self._log.partitions_per_multi
        if len(partitions) <= per_multi:
            return
        alive = Check(TopicIdNode.path(topic_id))
        for chunk in self._log.chunks(range(per_multi, len(partitions))):
            operations: list[Operation] = [alive, *_broker_checks([partitions[index] for index in chunk])]
            for index in chunk:
                operations += _new_state(name, topic_id, first + index, partitions[index], controller_epoch)
            change = Change(partitions=tuple((name, first + index) for index in chunk))
            await self._log.commit(operations, change, fence=fence, tree=tree)
        await self._end_creation(name, topic_id, fence, tree)

    async def _end_creation(self, name: str, topic_id: bytes, fence: Sequence[Operation], tree: Tree) -> None:
        node = await tree.get(TopicNode.path(name))
        assignment = TopicNode.decode(name, node.data)
        if assignment.topic_id == topic_id and assignment.creating is not None:
            data = TopicNode.encode(_replaced(assignment, creating=None))
            operations: list[Operation] = [
                Check(TopicIdNode.path(topic_id)),
                SetData(TopicNode.path(name), data, node.stat.version),
            ]
            await self._log.commit(operations, Change(topics=(name,)), fence=fence, tree=tree)

    @contextmanager
    def _making_of(self, topic_ids: Sequence[bytes]) -> Iterator[None]:
        """Keep `finish_creations` away from topics that are being made."""
        self._making.update(topic_ids)
        try:
            yield
        except BaseException:
            self._on_unfinished()
            raise
        finally:
            self._making.difference_update(topic_ids)

    @contextmanager
    def _finishing(self, name: str) -> Iterator[None]:
        """A topic is there with its first states; if brokers come or go before the others, those are decided anew."""
        try:
            yield
        except TreeError as error:
            logger.info("topic %s is finished later: %s", name, error)
            self._on_unfinished()

    def _maker(self) -> Maker:
        return Maker(node_id=self._registration.node_id, broker_epoch=self._registration.epoch)

    async def grow(
        self, topic: TopicImage, new: Sequence[PartitionImage], *, fence: Sequence[Operation], controller_epoch: int = 0
    ) -> Refusal | None:
        """Give a topic more partitions. Returns why not, if another broker was quicker."""
        with self._making_of([topic.topic_id]):
            return await self._grow(topic, new, fence, controller_epoch)

    async def _grow(
        self, topic: TopicImage, new: Sequence[PartitionImage], fence: Sequence[Operation], controller_epoch: int
    ) -> Refusal | None:
        tree = self._log.tree
        node = await tree.get(TopicNode.path(topic.name))
        assignment = TopicNode.decode(topic.name, node.data)
        first, per_multi = len(topic.partitions), self._log.partitions_per_multi
        if assignment.topic_id != topic.topic_id or len(assignment.partitions) != first or assignment.creating:
            return Refusal(ErrorCode.REQUEST_TIMED_OUT, f"The topic {topic.name} is being changed by another broker.")
        grown = _replaced(
            assignment,
            partitions=(*assignment.partitions, *(partition.replicas for partition in new)),
            creating=self._maker() if len(new) > per_multi else None,
        )
        operations: list[Operation] = [
            Check(TopicIdNode.path(topic.topic_id)),
            *_broker_checks(new[:per_multi]),
            SetData(TopicNode.path(topic.name), TopicNode.encode(grown), node.stat.version),
        ]
        for index, partition in enumerate(new[:per_multi], start=first):
            operations += _new_state(topic.name, topic.topic_id, index, partition, controller_epoch)
        try:
            await self._log.commit(operations, Change(topics=(topic.name,)), fence=fence, tree=tree)
        except RequestTooLargeError:
            raise
        except TreeError as error:
            if error.path in {operation.path for operation in fence}:
                raise
            return Refusal(ErrorCode.REQUEST_TIMED_OUT, f"The topic {topic.name} is being changed by another broker.")
        with self._finishing(topic.name):
            await self._write_rest(topic.name, topic.topic_id, new, first, fence, controller_epoch, tree)
        return None

    async def finish_creations(
        self, image: ClusterImage, *, fence: Sequence[Operation], controller_epoch: int, own: bool
    ) -> None:
        """Write the missing states of topics whose making was broken off, as far as a replica of each lives.

        Args:
            own: of those that this broker makes, under this epoch; False: of those whose makers are gone.
        """
        for topic in image.topics.values():
            if topic.creating is None or topic.topic_id in self._making:
                continue
            node_id, broker_epoch = topic.creating
            if own:
                is_ours = topic.creating == (self._registration.node_id, self._registration.epoch)
            else:
                maker = image.brokers.get(node_id)
                is_ours = maker is None or maker.broker_epoch != broker_epoch
            if not is_ours:
                continue
            missing = {
                index: new_partition(partition.replicas, image.brokers)
                for index, partition in enumerate(topic.partitions)
                if not partition.isr and any(replica in image.brokers for replica in partition.replicas)
            }
            tree = self._log.tree
            logger.info(
                "topic %s was not finished by broker %d: %d states are missing", topic.name, node_id, len(missing)
            )
            for chunk in self._log.chunks(list(missing)):
                parents = await tree.get_many([StateNode.partition_path(topic.name, index) for index in chunk])
                operations: list[Operation] = [Check(TopicIdNode.path(topic.topic_id))]
                operations += _broker_checks([missing[index] for index in chunk])
                for index, parent in zip(chunk, parents, strict=True):
                    made = _new_state(topic.name, topic.topic_id, index, missing[index], controller_epoch)
                    operations += made if parent is None else made[1:]
                change = Change(partitions=tuple((topic.name, index) for index in chunk))
                await self._log.commit(operations, change, fence=fence, tree=tree)
            if all(partition.isr or index in missing for index, partition in enumerate(topic.partitions)):
                await self._end_creation(topic.name, topic.topic_id, fence, tree)

    # -- deleting

    async def delete(self, topics: Iterable[TopicImage], image: ClusterImage, *, fence: Sequence[Operation]) -> None:
        """Delete topics and their settings. When it returns, their names are free."""
        found = list(topics)
        tree, now = self._log.tree, self._clock.wall_ms()
        for chunk in self._log.chunks(found):
            operations: list[Operation] = []
            for topic in chunk:
                note = DeletedNode.encode(DeletedTopic(name=topic.name, timestamp_ms=now))
                operations.append(Create(DeletedNode.path(topic.topic_id), note))
            operations += await _deletions(
                tree,
                [
                    *(TopicIdNode.path(topic.topic_id) for topic in chunk),
                    *(ConfigNode.path(TOPICS, topic.name) for topic in chunk),
                ],
            )
            change = Change(
                topics=tuple(topic.name for topic in chunk),
                configs=tuple((TOPICS, topic.name) for topic in chunk if image.topic_config(topic.name)),
            )
            await self._log.commit(operations, change, fence=fence, tree=tree)
        try:
            await self._remove([topic.name for topic in found], fence, tree)
        except BaseException:
            self.has_unfinished_deletions = True
            self._on_unfinished()
            raise

    async def _remove(self, names: Sequence[str], fence: Sequence[Operation], tree: Tree) -> None:
        """Take away the nodes of topics that are deleted, the states first, the topic's own last.

        Many topics at a time: one after the other, a thousand would take seven thousand round trips.
        """
        for some in self._log.chunks(names):
            parents = [TopicNode.partitions_path(name) for name in some]
            # What is in the tree counts, not what the image said: a topic that was growing may have some states only.
            there = [n for n, node in zip(some, await tree.get_many(parents), strict=True) if node is not None]
            indexes = await asyncio.gather(*(tree.children(TopicNode.partitions_path(name)) for name in there))
            partitions = [(name, int(index)) for name, own in zip(there, indexes, strict=True) for index in own]
            for chunk in self._log.chunks(partitions):
                paths = [
                    path
                    for name, index in chunk
                    for path in (StateNode.path(name, index), StateNode.partition_path(name, index))
                ]
                if operations := await _deletions(tree, paths):
                    await tree.multi([*fence, *operations])
            configs = await _deletions(tree, [ConfigNode.path(TOPICS, name) for name in some])
            own = await _deletions(
                tree, [path for n in some for path in (TopicNode.partitions_path(n), TopicNode.path(n))]
            )
            if configs or own:
                gone = {operation.path for operation in configs}
                change = Change(configs=tuple((TOPICS, name) for name in some if ConfigNode.path(TOPICS, name) in gone))
                await self._log.commit([*configs, *own], change, fence=fence, tree=tree)

    async def finish_deletions(self, *, fence: Sequence[Operation]) -> None:
        """Take away what an earlier controller left of deleted topics, and forget those deleted long ago."""
        tree = self._log.tree
        names = await tree.children(DELETED)
        paths = [f"{DELETED}/{name}" for name in names]
        found = {
            DeletedNode.topic_id(name): DeletedNode.decode(path, node.data)
            for name, path, node in zip(names, paths, await tree.get_many(paths), strict=True)
            if node is not None
        }
        topics = list(dict.fromkeys(topic.name for topic in found.values()))
        left = []
        for name, node in zip(topics, await tree.get_many([TopicNode.path(t) for t in topics]), strict=True):
            if node is not None and TopicNode.decode(name, node.data).topic_id in found:
                left.append(name)
        await self._remove(left, fence, tree)
        self.has_unfinished_deletions = False
        if not self._is_clock_right():
            return
        deadline = self._clock.wall_ms() - DELETED_AGE_MAX_MS
        old = [DeletedNode.path(topic_id) for topic_id, topic in found.items() if topic.timestamp_ms < deadline]
        for chunk in self._log.chunks(old):
            await tree.multi([*fence, *[Delete(path) for path in chunk]])

    async def are_free(self, names: Sequence[str]) -> bool:
        """Return whether no node of a topic has one of these names: a deletion that goes on holds its name."""
        return not any(await self._log.tree.get_many([TopicNode.path(name) for name in names]))


def _replaced(
    assignment: TopicAssignment, *, creating: Maker | None, partitions: tuple[tuple[int, ...], ...] | None = None
) -> TopicAssignment:
    return TopicAssignment(
        topic_id=assignment.topic_id,
        partitions=assignment.partitions if partitions is None else partitions,
        adding=assignment.adding,
        removing=assignment.removing,
        creating=creating,
    )


def _new_state(
    topic: str, topic_id: bytes, index: int, partition: PartitionImage, controller_epoch: int
) -> list[Operation]:
    data = StateNode.encode(state_of(partition, topic_id, controller_epoch))
    return [Create(StateNode.partition_path(topic, index)), Create(StateNode.path(topic, index), data)]


def _broker_checks(partitions: Iterable[PartitionImage]) -> list[Operation]:
    """Return the checks that all members of these partitions still are registered as they were when this was decided."""
    epochs: dict[int, int] = {}
    for partition in partitions:
        epochs |= zip(partition.isr, partition.isr_epochs, strict=False)
    checks: list[Operation] = []
    for node_id, epoch in sorted(epochs.items()):
        checks += [Check(BrokerNode.path(node_id)), Check(BrokerEpochNode.path(node_id), epoch)]
    return checks


def _paths_of(plan: TopicPlan) -> set[str]:
    return {TopicNode.path(plan.name), TopicNode.partitions_path(plan.name), ConfigNode.path(TOPICS, plan.name)}


def _brokers_changed() -> Refusal:
    return Refusal(ErrorCode.REQUEST_TIMED_OUT, "A broker came or went while the topic was made: try again.")


async def _deletions(tree: Tree, paths: Sequence[str]) -> list[Delete]:
    """Return the deletions of those of the nodes that exist."""
    return [Delete(p) for p, node in zip(paths, await tree.get_many(paths), strict=True) if node is not None]
