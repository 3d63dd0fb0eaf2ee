"""StateWriter: writes partition states by compare-and-set, many in one transaction.

A transaction is all or nothing, so one stale version among a hundred would keep the others from being written. Here only what
failed is taken out, and the rest goes on. Each state is written together with checks that the topic still exists (versions of
a topic that was deleted and made again start at 0 again), and that the brokers it names as leader or admits have not been
registered anew since it was decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ottla.cluster.image import PartitionImage
from ottla.cluster.nodes import BrokerEpochNode, BrokerNode, Change, StateNode, TopicIdNode, state_of
from ottla.cluster.tree import Check, Create, Operation, SetData, TreeError

if TYPE_CHECKING:
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.tree import Tree
    from ottla.types import TopicPartition


class Written(Enum):
    """What became of one state."""

    DONE = "done"
    #: The state, or a broker it relies on, is not what it was when this was decided: read again, decide again.
    CONFLICT = "conflict"
    #: The topic does not exist any more.
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewState:
    """A state to write.

    Attributes:
        topic_id: of the topic it was decided for.
        partition: what is to be; its `partition_epoch` is the version it was decided on, -1 if there is no state yet.
        relies_on: broker epochs by node id, of brokers that must still be registered under them.
    """

    topic_id: bytes
    partition: PartitionImage
    relies_on: Mapping[int, int]


class StateWriter:
    """Writes states of this broker's change log."""

    def __init__(self, log: ChangeLog) -> None:
        self._log = log

    async def write(
        self,
        states: Mapping[TopicPartition, NewState],
        *,
        fence: Sequence[Operation],
        controller_epoch: int,
        tree: Tree | None = None,
    ) -> dict[TopicPartition, Written]:
        """Write each state, or say why not.

        Raises:
            TreeError: an operation of the fence was refused; nothing more was written.
            TreeUnavailableError: of what is not in the tree after a `sync` it is unknown whether it was written.
        """
        outcome: dict[TopicPartition, Written] = {}
        for chunk in self._log.chunks(list(states)):
            left = list(chunk)
            while left:
                wanted = {tp: states[tp] for tp in left}
                try:
                    operations = self._operations(wanted, controller_epoch)
                    await self._log.commit(operations, Change(partitions=tuple(left)), fence=fence, tree=tree)
                except TreeError as error:
                    failed = _depending_on(error.path, wanted)
                    if not failed:
                        raise
                    gone = error.path in {TopicIdNode.path(state.topic_id) for state in wanted.values()}
                    outcome |= dict.fromkeys(failed, Written.GONE if gone else Written.CONFLICT)
                    left = [tp for tp in left if tp not in outcome]
                else:
                    outcome |= dict.fromkeys(left, Written.DONE)
                    break
        return outcome

    def _operations(self, states: Mapping[TopicPartition, NewState], controller_epoch: int) -> list[Operation]:
        checks: dict[str, Operation] = {}
        writes: list[Operation] = []
        for (topic, index), state in states.items():
            path = TopicIdNode.path(state.topic_id)
            checks[path] = Check(path)
            for node_id, epoch in state.relies_on.items():
                checks[BrokerNode.path(node_id)] = Check(BrokerNode.path(node_id))
                checks[BrokerEpochNode.path(node_id)] = Check(BrokerEpochNode.path(node_id), epoch)
            data = StateNode.encode(state_of(state.partition, state.topic_id, controller_epoch))
            path = StateNode.path(topic, index)
            if state.partition.partition_epoch < 0:
                writes += [Create(StateNode.partition_path(topic, index)), Create(path, data)]
            else:
                writes.append(SetData(path, data, state.partition.partition_epoch))
        return [*checks.values(), *writes]


def _depending_on(path: str, states: Mapping[TopicPartition, NewState]) -> list[TopicPartition]:
    """Return those of the states whose operations include one on this path."""
    found = []
    for (topic, index), state in states.items():
        paths = {TopicIdNode.path(state.topic_id), StateNode.path(topic, index), StateNode.partition_path(topic, index)}
        for node_id in state.relies_on:
            paths |= {BrokerNode.path(node_id), BrokerEpochNode.path(node_id)}
        if path in paths:
            found.append((topic, index))
    return [tp for tp in states if tp in found]
