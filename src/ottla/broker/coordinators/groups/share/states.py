"""Which share partitions of a group have begun: what the group knows of the state that the share coordinator keeps.

A share partition begins when the share coordinator has written its first state. The group writes down before that it is
*initializing*, after that it is *initialized* (only then is it assigned), and, before its state is deleted, that it is
*deleting*: after a crash in between, the coordinator finds here what is left to do. Values, never changed in place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ottla.broker.coordinators.groups.modern.assignor import Assignment


@dataclass(frozen=True, slots=True)
class TopicPartitions:
    """Some partitions of a topic."""

    name: str
    partitions: frozenset[int]

    def plus(self, partitions: Collection[int]) -> TopicPartitions:
        return TopicPartitions(self.name, self.partitions.union(partitions))


#: Topic id -> partitions.
Topics = Mapping[bytes, TopicPartitions]


@dataclass(frozen=True, slots=True)
class PartitionStates:
    """The record ShareGroupStatePartitionMetadata. `deleting` has the topics' names by their ids."""

    initializing: Topics = field(default_factory=dict)
    initialized: Topics = field(default_factory=dict)
    deleting: Mapping[bytes, str] = field(default_factory=dict)

    @property
    def assignable(self) -> Assignment:
        """What members may be given."""
        return {topic_id: topic.partitions for topic_id, topic in self.initialized.items()}

    def to_initialize(self, topics: Topics, partition_counts: Mapping[bytes, int]) -> PartitionStates:
        """Return this with partitions that are about to begin.

        What was to be deleted of their topics is not any more, once each partition of the topic is known otherwise: of the
        others there may be state left.
        """
        initializing = combined(self.initializing, topics)
        known = combined(initializing, self.initialized)
        deleting = {
            topic_id: name
            for topic_id, name in self.deleting.items()
            if topic_id not in topics or len(known[topic_id].partitions) < partition_counts[topic_id]
        }
        return PartitionStates(initializing, self.initialized, deleting)

    def with_initialized(self, topics: Topics) -> PartitionStates:
        """Return this with partitions that have begun."""
        return PartitionStates(
            _without(self.initializing, topics), combined(self.initialized, topics), dict(self.deleting)
        )

    def without_topics(self, topic_ids: Collection[bytes]) -> PartitionStates:
        """Return this without topics that are gone."""
        return PartitionStates(
            {topic_id: topic for topic_id, topic in self.initializing.items() if topic_id not in topic_ids},
            {topic_id: topic for topic_id, topic in self.initialized.items() if topic_id not in topic_ids},
            {topic_id: name for topic_id, name in self.deleting.items() if topic_id not in topic_ids},
        )


def combined(one: Topics, other: Topics) -> dict[bytes, TopicPartitions]:
    """Return the partitions of both."""
    both = dict(one)
    for topic_id, topic in other.items():
        known = both.get(topic_id)
        both[topic_id] = topic if known is None else topic.plus(known.partitions)
    return both


def _without(one: Topics, other: Topics) -> dict[bytes, TopicPartitions]:
    rest = {}
    for topic_id, topic in one.items():
        left = topic.partitions.difference(other[topic_id].partitions) if topic_id in other else topic.partitions
        if left:
            rest[topic_id] = TopicPartitions(topic.name, left)
    return rest
