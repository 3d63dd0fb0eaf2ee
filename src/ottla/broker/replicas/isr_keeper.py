"""IsrKeeper: writes what leaders decide about their ISRs into the tree, many in one transaction.

A leader's change is on its way from its decision until the tree tells what became of it (`Leader`). If a write fails in any
way, a refusal included, the tree is read again after a `sync`: then either a newer state is there, which ends the change, or
the old one, and it was not made. Only that is told to the leader; then it decides anew.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from ottla.cluster.state_writer import NewState, Written
from ottla.cluster.tree import TreeError, TreeUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ottla.broker.replicas.leader import Leader
    from ottla.broker.replicas.partition import Partition
    from ottla.clock import Clock
    from ottla.cluster.decisions.isr import IsrChange
    from ottla.cluster.image import ClusterImage
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
#: Pause before the next decisions after a write was refused.
CONFLICT_SECONDS = 0.02


class StateStore(Protocol):
    """Where states are written: the cluster's tree, by this broker's session."""

    async def write_states(self, states: Mapping[TopicPartition, NewState]) -> dict[TopicPartition, Written]:
        """Write each state if nothing it rests on has changed.

        Raises:
            TreeError, TreeUnavailableError: of what is not in the tree after `refresh` it is known that it was not written.
        """
        ...

    async def refresh(self) -> ClusterImage:
        """Return an image of everything that was in the tree when this was called; it has been applied by then.

        Raises:
            TreeUnavailableError: the session ends before.
        """
        ...


class IsrKeeper:
    """Keeps the ISRs of the partitions that this broker leads.

    Args:
        partitions: those that are led here.
        lag_ms_max: returns replica.lag.time.max.ms; half as often everything is looked at.

    Attributes:
        shrinks, expansions: how many changes of each kind were made.
    """

    def __init__(
        self,
        store: StateStore,
        partitions: Callable[[], Iterable[Partition]],
        *,
        clock: Clock,
        lag_ms_max: Callable[[], int],
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._clock = clock
        self._lag_ms_max = lag_ms_max
        self._news = asyncio.Event()
        self._to_look_at: dict[Partition, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.shrinks = 0
        self.expansions = 0

    def start(self) -> None:
        """Begin to write."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(), name="isr-changes"),
            loop.create_task(self._look_regularly(), name="isr-lag"),
        ]

    async def stop(self) -> None:
        """Write nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look_at(self, partition: Partition) -> None:
        """Something has changed that may be a reason to change the ISR of a partition."""
        self._to_look_at[partition] = None
        self._news.set()

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(max(0.05, self._lag_ms_max() / 2000))
            for partition in self._partitions():
                leader = partition.leader
                if leader is not None and not leader.is_sole:
                    self.look_at(partition)

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            proposed = self._propose()
            if proposed:
                try:
                    await self._write(proposed)
                except Exception:
                    logger.exception("changes of ISRs could not be followed up")
                    await self._settle(proposed)

    def _propose(self) -> dict[Partition, tuple[Leader, IsrChange]]:
        looked_at, self._to_look_at = self._to_look_at, {}
        now_ms = self._clock.monotonic_ms()
        found: dict[Partition, tuple[Leader, IsrChange]] = {}
        for partition in looked_at:
            leader = partition.leader
            change = None if leader is None else leader.propose(now_ms)
            if leader is not None and change is not None:
                found[partition] = leader, change
                partition.on_role_facts()
        return found

    async def _write(self, proposed: dict[Partition, tuple[Leader, IsrChange]]) -> None:
        states = {
            partition.topic_partition: NewState(
                topic_id=partition.topic_id, partition=change.after, relies_on=change.relies_on
            )
            for partition, (_, change) in proposed.items()
        }
        outcome: dict[TopicPartition, Written] = {}
        try:
            outcome = await self._store.write_states(states)
        except (TreeError, TreeUnavailableError) as error:
            logger.debug("it is not known which ISRs were written: %s", error)
        unsettled = {}
        for partition, (leader, change) in proposed.items():
            if outcome.get(partition.topic_partition) is Written.DONE and leader.pending is not change:
                self._note(partition, change)
            else:
                unsettled[partition] = leader, change
        if unsettled:
            await self._settle(unsettled)

    async def _settle(self, unsettled: dict[Partition, tuple[Leader, IsrChange]]) -> None:
        """Find out what became of changes: no error tells, only the tree after a `sync`."""
        while True:
            try:
                image = await self._store.refresh()
                break
            except (TreeError, TreeUnavailableError) as error:
                logger.debug("what became of changes of ISRs is not known yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
        now_ms = self._clock.monotonic_ms()
        for partition, (leader, change) in unsettled.items():
            topic = image.topics.get(partition.topic_partition.topic)
            state = image.partition(partition.topic_partition)
            if leader.pending is not change:
                if state is not None and (state.isr, state.elr) == (change.after.isr, change.after.elr):
                    self._note(partition, change)  # it was made; the answer was lost
            elif state is not None and topic is not None and topic.topic_id == partition.topic_id:
                leader.on_unchanged(change, state, now_ms)
            if partition.leader is leader:
                partition.on_role_facts()
                self.look_at(partition)
        await asyncio.sleep(CONFLICT_SECONDS)

    def _note(self, partition: Partition, change: IsrChange) -> None:
        if change.is_expansion:
            self.expansions += 1
        if change.is_shrink:
            self.shrinks += 1
        before, after = change.before, change.after
        logger.info(
            "%s: in sync are %s, before %s%s",
            partition.topic_partition,
            list(after.isr),
            list(before.isr),
            f"; {list(after.elr)} may lead as well" if after.elr else "",
        )
