"""Duties: what the controller does about the cluster as it is.

Each run looks at the image, not at what has just happened, and does what is to be done: gives partitions leaders, finishes
what makers and earlier controllers left unfinished. What one run misses, because another broker was quicker or the tree
could not be reached, the next one does. What is to be done is decided in `decisions.election`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ottla.cluster.decisions.election import (
    ElectionRules,
    elections,
    preferred_elections,
    waits_for_ends,
    why_led_anew,
)
from ottla.cluster.decisions.reassignment import Move, finished, grown_min_isr, growth, is_reassigned
from ottla.cluster.image import NO_LEADER, ClusterImage, ImageDelta, PartitionImage, TopicImage
from ottla.cluster.reassigner import Reassigner
from ottla.cluster.state_writer import NewState, StateWriter, Written

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.decisions.refusal import Refusal
    from ottla.cluster.follow import MetadataFollower
    from ottla.cluster.office import Office
    from ottla.cluster.topic_writer import TopicWriter
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)


class Duties:
    """Does what the holder of the office has to do.

    Args:
        min_isr, is_unclean_allowed: settings of topics, by name.
        internal_replicas, internal_min_isr: how many replicas an internal topic is to have where there are as many brokers,
            and how many of them are to be in sync.
        set_min_isr: changes min.insync.replicas of a topic.
    """

    def __init__(
        self,
        log: ChangeLog,
        follower: MetadataFollower,
        office: Office,
        topics: TopicWriter,
        *,
        min_isr: Callable[[str], int],
        is_unclean_allowed: Callable[[str], bool],
        internal_replicas: Callable[[str], int] = lambda topic: 1,
        internal_min_isr: Callable[[str], int] = lambda topic: 1,
        set_min_isr: Callable[[str, int], Awaitable[object]] | None = None,
    ) -> None:
        self._internal_replicas = internal_replicas
        self._internal_min_isr = internal_min_isr
        self._set_min_isr = set_min_isr or _nothing
        self._log = log
        self._follower = follower
        self._office = office
        self._topics = topics
        self._states = StateWriter(log)
        self._reassigner = Reassigner(log)
        self._min_isr = min_isr
        self._is_unclean_allowed = is_unclean_allowed
        self._deletions_looked_at = 0
        #: Leaders that were elected, and those of them that may lack records.
        self.elections = self.unclean_elections = 0

    async def run(self, partitions: Iterable[tuple[TopicImage, int]] | None = None) -> None:
        """Do what is to be done about these partitions; all unless given.

        Raises:
            NotControllerError: this broker is not the controller.
            BadVersionError: with the path of /controller_epoch: another one has been elected.
            TreeUnavailableError: the tree cannot be reached.
        """
        fence, epoch = self._office.fence(), self._office.epoch
        if self._deletions_looked_at != epoch or self._topics.has_unfinished_deletions:
            await self._topics.finish_deletions(fence=fence)
            self._deletions_looked_at = epoch
        await self._topics.finish_creations(self._follower.image, fence=fence, controller_epoch=epoch, own=False)
        image = self._follower.image
        found = list(all_partitions(image)) if partitions is None else list(partitions)
        if any(waits_for_ends(image, topic, index, n) for topic, index in found for n in topic.partitions[index].isr):
            # An election that may lose records is decided on what is true, not on what a server knew some time ago.
            image = await self._follower.refresh()
            names = {(topic.name, index) for topic, index in found}
            found = [(topic, index) for topic, index in all_partitions(image) if (topic.name, index) in names]
        rules = ElectionRules(min_isr=self._min_isr, is_unclean_allowed=self._is_unclean_allowed)
        await self.write(image, dict(elections(image, found, rules)))
        await self._finish_reassignments(found)
        await self._grow_internal_topics({topic.name for topic, _ in found if topic.is_internal})
        await self._log.maybe_purge()

    async def _finish_reassignments(self, partitions: Iterable[tuple[TopicImage, int]]) -> None:
        """End what can end. What conflicts changes again, and is looked at again."""
        image = self._follower.image
        names = {(topic.name, index) for topic, index in partitions if is_reassigned(topic.partitions[index])}
        now = [(image.topics[n], i) for n, i in names if n in image.topics and i < len(image.topics[n].partitions)]
        await self.move(image, dict(finished(image, now)))

    async def _grow_internal_topics(self, names: set[str]) -> None:
        """Give these internal topics more replicas if brokers have come, a step at a time."""
        image = self._follower.image
        for name in sorted(names & image.topics.keys()):
            topic = image.topics[name]
            await self.move(image, dict(growth(image, topic, self._internal_replicas(name))))
            wanted = grown_min_isr(topic, image.topic_config(name), self._internal_min_isr(name))
            if wanted is not None:
                await self._set_min_isr(name, wanted)

    async def move(
        self, image: ClusterImage, moves: Mapping[TopicPartition, Move]
    ) -> dict[TopicPartition, Refusal | None]:
        """Write where replicas are to be; return None for what was written, or why it was not."""
        if not moves:
            return {}
        return await self._reassigner.write(
            image, moves, fence=self._office.fence(), controller_epoch=self._office.epoch
        )

    async def elect_preferred(self) -> None:
        """Move leadership back to preferred replicas."""
        image = self._follower.image
        await self.write(image, dict(preferred_elections(image)))

    async def write(
        self, image: ClusterImage, elected: Mapping[TopicPartition, PartitionImage]
    ) -> dict[TopicPartition, Written]:
        """Write partitions with their new leaders."""
        states: dict[TopicPartition, NewState] = {}
        for tp, partition in elected.items():
            topic = image.topics[tp.topic]
            relies_on = {}
            if partition.leader != NO_LEADER:
                names = {partition.leader}
                if partition.recovered_in == partition.leader_epoch:
                    names |= topic.partitions[tp.partition].admitted().keys()  # all whose log ends were compared
                relies_on = {node_id: image.brokers[node_id].broker_epoch for node_id in names}
            states[tp] = NewState(topic_id=topic.topic_id, partition=partition, relies_on=relies_on)
        if not states:
            return {}
        outcome = await self._states.write(states, fence=self._office.fence(), controller_epoch=self._office.epoch)
        for tp, result in outcome.items():
            if result is Written.DONE:
                self._note(tp, image, elected[tp])
        return outcome

    def _note(self, tp: TopicPartition, image: ClusterImage, elected: PartitionImage) -> None:
        """Count an election, and write it into the log with its reason."""
        why = why_led_anew(image, image.topics[tp.topic], tp.partition, elected)
        if elected.leader == NO_LEADER:
            isr = image.topics[tp.topic].partitions[tp.partition].isr
            logger.warning("%s has no leader (%s): none of %s can lead", tp, why, isr)
            return
        self.elections += 1
        led = f"{tp} is led by broker {elected.leader} in epoch {elected.leader_epoch} ({why})"
        if elected.recovered_in == elected.leader_epoch:
            logger.warning("%s, whose log was the longest of all", led)
        elif elected.leader_recovery_state:
            self.unclean_elections += 1
            logger.error("%s, after an unclean election: records may be lost", led)
        else:
            logger.info("%s", led)


async def _nothing(topic: str, min_isr: int) -> None:
    """Change no setting."""


def all_partitions(image: ClusterImage) -> Iterator[tuple[TopicImage, int]]:
    for topic in image.topics.values():
        for index in range(len(topic.partitions)):
            yield topic, index


def touched_partitions(image: ClusterImage, delta: ImageDelta) -> Iterator[tuple[TopicImage, int]]:
    """Yield the partitions about which there may be something to do after a change."""
    if delta.brokers_changed:
        yield from all_partitions(image)
        return
    for name in delta.created:
        if name in image.topics:
            yield from ((image.topics[name], index) for index in range(len(image.topics[name].partitions)))
    for name, indexes in delta.changed_partitions.items():
        if name in image.topics:
            yield from ((image.topics[name], i) for i in indexes if i < len(image.topics[name].partitions))
