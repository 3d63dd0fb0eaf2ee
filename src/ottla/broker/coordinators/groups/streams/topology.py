"""The topology of a streams application, as its first member described it.

Values, equal if they say the same: a member that joins must bring the topology that the group has. Subtopologies are known
by their id, whatever their order. KIP-1071; Kafka's StreamsTopology.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from ottla.errors import UnknownServerError
from ottla.protocol.messages.group_records import (
    CopartitionGroup as CopartitionGroupRecord,
)
from ottla.protocol.messages.group_records import (
    StreamsGroupTopologyValue,
    StreamsGroupTopologyValueTopicInfo,
    TopicConfig,
)
from ottla.protocol.messages.group_records import (
    Subtopology as SubtopologyRecord,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InternalTopic:
    """A repartition or changelog topic. Partitions and replication factor 0: to be decided."""

    name: str
    partitions: int
    replication_factor: int
    configs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CopartitionGroup:
    """Topics of a subtopology that must have as many partitions, by their places in its lists."""

    source_topics: tuple[int, ...]
    source_topic_regex: tuple[int, ...]
    repartition_source_topics: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtopology:
    """A part of the topology that is connected by topics only."""

    subtopology_id: str
    source_topics: tuple[str, ...]
    source_topic_regex: tuple[str, ...]
    repartition_sink_topics: tuple[str, ...]
    repartition_source_topics: tuple[InternalTopic, ...]
    state_changelog_topics: tuple[InternalTopic, ...]
    copartition_groups: tuple[CopartitionGroup, ...]

    @property
    def sources(self) -> list[str]:
        """All topics it reads."""
        return [*self.source_topics, *(topic.name for topic in self.repartition_source_topics)]

    def copartitioned(self) -> Iterable[set[str]]:
        """Return the names of each copartition group.

        Raises:
            UnknownServerError: a place outside of the list it points into.
        """
        for group in self.copartition_groups:
            names = {_at(self.source_topics, place) for place in group.source_topics}
            names |= {_at(self.repartition_source_topics, place).name for place in group.repartition_source_topics}
            yield names


class _CarriesTopology(Protocol):
    """A heartbeat's topology or its record: both have the same shape."""

    epoch: int
    subtopologies: Any


@dataclass(frozen=True)
class Topology:
    """All subtopologies, by their id."""

    epoch: int
    subtopologies: Mapping[str, Subtopology]

    @classmethod
    def of(cls, carried: _CarriesTopology) -> Topology:
        """Return what a heartbeat or a record carries.

        Raises:
            UnknownServerError: an id comes twice.
        """
        subtopologies = {part.subtopology_id: _subtopology(part) for part in carried.subtopologies}
        if len(subtopologies) != len(carried.subtopologies):
            raise UnknownServerError()
        return cls(carried.epoch, dict(sorted(subtopologies.items())))

    @cached_property
    def reader_of(self) -> Mapping[str, str]:
        """The subtopology that reads a topic."""
        return {topic: part.subtopology_id for part in self.subtopologies.values() for topic in part.sources}

    @cached_property
    def required_topics(self) -> frozenset[str]:
        """All topics that have to exist: what is read, and changelogs."""
        changelogs = {topic.name for part in self.subtopologies.values() for topic in part.state_changelog_topics}
        return frozenset(self.reader_of.keys() | changelogs)

    def to_record(self) -> StreamsGroupTopologyValue:
        return StreamsGroupTopologyValue(
            epoch=self.epoch, subtopologies=[_record(part) for part in self.subtopologies.values()]
        )


def _at(items: Sequence[T], place: int) -> T:
    if not 0 <= place < len(items):
        raise UnknownServerError(f"Index {place} out of bounds for length {len(items)}")
    return items[place]


def _subtopology(part: Any) -> Subtopology:
    return Subtopology(
        subtopology_id=part.subtopology_id,
        source_topics=tuple(part.source_topics),
        source_topic_regex=tuple(part.source_topic_regex),
        repartition_sink_topics=tuple(part.repartition_sink_topics),
        repartition_source_topics=_internal_topics(part.repartition_source_topics),
        state_changelog_topics=_internal_topics(part.state_changelog_topics),
        copartition_groups=tuple(
            CopartitionGroup(
                tuple(group.source_topics), tuple(group.source_topic_regex), tuple(group.repartition_source_topics)
            )
            for group in part.copartition_groups
        ),
    )


def _internal_topics(carried: Any) -> tuple[InternalTopic, ...]:
    return tuple(
        InternalTopic(
            topic.name,
            topic.partitions,
            topic.replication_factor,
            tuple((config.key, config.value) for config in topic.topic_configs),
        )
        for topic in carried
    )


def _record(part: Subtopology) -> SubtopologyRecord:
    return SubtopologyRecord(
        subtopology_id=part.subtopology_id,
        source_topics=list(part.source_topics),
        source_topic_regex=list(part.source_topic_regex),
        repartition_sink_topics=list(part.repartition_sink_topics),
        repartition_source_topics=_topic_records(part.repartition_source_topics),
        state_changelog_topics=_topic_records(part.state_changelog_topics),
        copartition_groups=[
            CopartitionGroupRecord(
                source_topics=list(group.source_topics),
                source_topic_regex=list(group.source_topic_regex),
                repartition_source_topics=list(group.repartition_source_topics),
            )
            for group in part.copartition_groups
        ],
    )


def _topic_records(topics: Iterable[InternalTopic]) -> list[StreamsGroupTopologyValueTopicInfo]:
    return [
        StreamsGroupTopologyValueTopicInfo(
            name=topic.name,
            partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            topic_configs=[TopicConfig(key=key, value=value) for key, value in topic.configs],
        )
        for topic in topics
    ]
