"""Reassigner: writes where replicas are to be, for the controller. What is to be written decides `decisions.reassignment`.

The partitions of one topic are written together, up to a transaction's worth: their places in the topic's node, by
compare-and-set, and their states.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.nodes import (
    BrokerEpochNode,
    BrokerNode,
    Change,
    StateNode,
    TopicAssignment,
    TopicIdNode,
    TopicNode,
    state_of,
)
from ottla.cluster.tree import Check, NoNodeError, Operation, SetData, TreeError
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.decisions.reassignment import Move
    from ottla.cluster.image import ClusterImage, TopicImage
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

CHANGED = Refusal(ErrorCode.REQUEST_TIMED_OUT, "The partition changed at the same time: try again.")


class Reassigner:
    """Writes moves of this broker's change log."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log

    async def write(
        self,
        image: ClusterImage,
        moves: Mapping[TopicPartition, Move],
        *,
        fence: Sequence[Operation],
        controller_epoch: int,
    ) -> dict[TopicPartition, Refusal | None]:
        """Write moves that were decided on `image`; return None for each that was written, or why it was not.

        Raises:
            TreeError: an operation of the fence was refused; nothing more was written.
            TreeUnavailableError: it is unknown what was written.
        """
        outcome: dict[TopicPartition, Refusal | None] = {}
        by_topic: dict[str, list[TopicPartition]] = {}
        for topic_partition in moves:
            by_topic.setdefault(topic_partition.topic, []).append(topic_partition)
        for name, names in by_topic.items():
            for chunk in self._log.chunks(names):
                done = await self._write(
                    image, image.topics[name], [(tp, moves[tp]) for tp in chunk], fence, controller_epoch
                )
                outcome |= dict.fromkeys(chunk, None if done else CHANGED)
        return outcome

    async def _write(
        self,
        image: ClusterImage,
        topic: TopicImage,
        moves: Sequence[tuple[TopicPartition, Move]],
        fence: Sequence[Operation],
        controller_epoch: int,
    ) -> bool:
        tree, path = self._log.tree, TopicNode.path(topic.name)
        try:
            node = await tree.get(path)
        except NoNodeError:
            return False
        assignment = TopicNode.decode(topic.name, node.data)
        if assignment.topic_id != topic.topic_id or any(
            assignment.partitions[tp.partition] != topic.partitions[tp.partition].replicas for tp, _ in moves
        ):
            return False
        checks: dict[str, Operation] = {}
        checks[TopicIdNode.path(topic.topic_id)] = Check(TopicIdNode.path(topic.topic_id))
        states: list[Operation] = []
        for tp, move in moves:
            if move.state is None:
                continue
            # Others delete their logs because of these: they must still be what they were when this was decided.
            for node_id in move.state.isr:
                if node_id in image.brokers:
                    registered, epoch = BrokerNode.path(node_id), BrokerEpochNode.path(node_id)
                    checks[registered] = Check(registered)
                    checks[epoch] = Check(epoch, image.brokers[node_id].broker_epoch)
            data = StateNode.encode(state_of(move.state, topic.topic_id, controller_epoch))
            states.append(SetData(StateNode.path(*tp), data, move.state.partition_epoch))
        data = TopicNode.encode(_moved(assignment, moves))
        operations = [*checks.values(), SetData(path, data, node.stat.version), *states]
        own = {operation.path for operation in operations}
        try:
            await self._log.commit(operations, Change(topics=(topic.name,)), fence=fence, tree=tree)
        except TreeError as error:
            if error.path not in own:
                raise
            logger.debug("a reassignment of %s is decided again: %s", topic.name, error)
            return False
        for tp, move in moves:
            logger.info("%s: replicas %s%s", tp, move.replicas, _explained(move))
        return True


def _moved(assignment: TopicAssignment, moves: Sequence[tuple[TopicPartition, Move]]) -> TopicAssignment:
    partitions = list(assignment.partitions)
    adding, removing = dict(assignment.adding), dict(assignment.removing)
    for (_, index), move in moves:
        partitions[index] = move.replicas
        for found, now in ((adding, move.adding), (removing, move.removing)):
            if now:
                found[index] = now
            else:
                found.pop(index, None)
    return replace(assignment, partitions=tuple(partitions), adding=adding, removing=removing)


def _explained(move: Move) -> str:
    if move.state is not None:
        return f", led by broker {move.state.leader} in epoch {move.state.leader_epoch}"
    return f", adding {move.adding}, removing {move.removing}"
