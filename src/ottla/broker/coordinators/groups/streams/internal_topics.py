"""How many partitions the internal topics of a topology need, and which of them are missing.

Repartition topics get as many partitions as what flows into them has, unless the application fixed it; topics that are
joined must have equally many; a changelog has one partition per task. Learned from Kafka's InternalTopicManager,
RepartitionTopics, CopartitionedTopicsEnforcer and ChangelogTopics (KIP-1071); KIP-221 for fixed numbers.

Pure: partitions of existing topics are asked for, nothing is created here. Subtopologies are gone through in the order of
their ids (Kafka: of a hash map, which is the same for ids of one digit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from ottla.broker.coordinators.groups.streams.topology import InternalTopic, Subtopology, Topology
from ottla.errors import StreamsInvalidTopologyError, UnknownServerError

#: How many partitions a topic has; None if it does not exist.
PartitionsOf = Callable[[str], int | None]


class StatusCode(IntEnum):
    """What a heartbeat's answer says about the member's group."""

    STALE_TOPOLOGY = 0
    MISSING_SOURCE_TOPICS = 1
    INCORRECTLY_PARTITIONED_TOPICS = 2
    MISSING_INTERNAL_TOPICS = 3
    SHUTDOWN_APPLICATION = 4
    ASSIGNMENT_DELAYED = 5
    MISSING_CLIENT_TAGS = 6


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the application cannot run on the topics that there are."""

    code: StatusCode
    detail: str


@dataclass(frozen=True, slots=True)
class ConfiguredSubtopology:
    """A subtopology whose internal topics have their number of partitions."""

    subtopology: Subtopology
    tasks: int

    @property
    def is_stateful(self) -> bool:
        return bool(self.subtopology.state_changelog_topics)


@dataclass(frozen=True, slots=True)
class ConfiguredTopology:
    """A topology on the topics that there are. Without `subtopologies` if the topics do not fit."""

    topology: Topology
    subtopologies: Mapping[str, ConfiguredSubtopology] | None
    to_create: tuple[InternalTopic, ...] = ()
    problem: Problem | None = None

    @property
    def is_ready(self) -> bool:
        return self.problem is None


def configure(topology: Topology, partitions_of: PartitionsOf) -> ConfiguredTopology:
    """Return the topology as it stands on these topics.

    Raises:
        StreamsInvalidTopologyError: partitions cannot be decided, whatever topics there are.
        UnknownServerError: the topology contradicts itself.
    """
    try:
        return _configure(topology, partitions_of)
    except _MisfitError as misfit:
        return ConfiguredTopology(topology, None, (), misfit.problem)


class _MisfitError(Exception):
    """The topics that there are do not fit; never leaves this module."""

    def __init__(self, code: StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(code, detail)


def _configure(topology: Topology, partitions_of: PartitionsOf) -> ConfiguredTopology:
    parts = topology.subtopologies.values()
    copartitioned = [names for part in parts for names in part.copartitioned()]
    missing = {topic for part in parts for topic in part.source_topics if partitions_of(topic) is None}
    if missing:
        raise _MisfitError(
            StatusCode.MISSING_SOURCE_TOPICS, f"Source topics {summarized(sorted(missing))} are missing."
        )
    decided: dict[str, int] = {}

    def partitions(topic: str) -> int | None:
        existing = partitions_of(topic)
        return decided.get(topic) if existing is None else existing

    decided.update(_repartition_partitions(parts, partitions))
    fixed = {topic.name for part in parts for topic in part.repartition_source_topics if topic.partitions != 0}
    flexible = {topic.name for part in parts for topic in part.repartition_source_topics if topic.partitions == 0}
    for names in copartitioned:
        decided.update(_copartitioned(names, fixed, flexible, partitions))
    configured = {}
    for part in parts:
        counts = [_known(topic, partitions) for topic in part.sources]
        if not counts:
            raise StreamsInvalidTopologyError(f"No source topics found for subtopology {part.subtopology_id}")
        decided.update((topic.name, max(counts)) for topic in part.state_changelog_topics)
    for part in parts:
        configured[part.subtopology_id] = ConfiguredSubtopology(
            replace(
                part,
                repartition_source_topics=_with_partitions(part.repartition_source_topics, decided),
                state_changelog_topics=_with_partitions(part.state_changelog_topics, decided),
            ),
            max(_known(topic, partitions) for topic in part.sources),
        )
    to_create = _missing_internal(configured.values(), partitions_of)
    problem = None
    if to_create:
        names_of_missing = summarized([topic.name for topic in to_create])
        problem = Problem(StatusCode.MISSING_INTERNAL_TOPICS, f"Internal topics are missing: {names_of_missing}")
    return ConfiguredTopology(topology, configured, to_create, problem)


def _repartition_partitions(parts: Iterable[Subtopology], partitions: PartitionsOf) -> dict[str, int]:
    """Partitions of repartition topics: as fixed, else the most that flow in; found from the sources downwards."""
    parts = list(parts)
    counts = {
        topic.name: topic.partitions for part in parts for topic in part.repartition_source_topics if topic.partitions
    }
    undecided = [(topic, part) for part in parts for topic in part.repartition_sink_topics]
    while undecided := [(topic, part) for topic, part in undecided if topic not in counts]:
        before = len(counts)
        for topic, part in undecided:
            inflow = [counts[source.name] for source in part.repartition_source_topics if source.name in counts]
            inflow += [count for source in part.source_topics if (count := partitions(source)) is not None]
            if inflow and topic not in counts:
                counts[topic] = max(inflow)
        if len(counts) == before:
            raise StreamsInvalidTopologyError(
                "Failed to compute number of partitions for all repartition topics. There may be loops in the topology "
                "that cannot be resolved."
            )
    if any(topic.name not in counts for part in parts for topic in part.repartition_source_topics):
        raise StreamsInvalidTopologyError(
            "Failed to compute number of partitions for all repartition topics, because a repartition source topic is "
            "never used as a sink topic."
        )
    return counts


def _copartitioned(names: set[str], fixed: set[str], flexible: set[str], partitions: PartitionsOf) -> dict[str, int]:
    """Partitions of the repartition topics among topics that are joined."""
    if not names:
        return {}
    repartition = {topic: _known(topic, partitions) for topic in sorted(names & (fixed | flexible))}
    external = {topic: _known(topic, partitions) for topic in sorted(names - repartition.keys())}
    if external:
        count = _all_the_same(external, external)
    elif fixed:
        # As in Kafka, all fixed topics of the topology are compared, not only those of this group.
        count = _all_the_same({topic: _known(topic, partitions) for topic in fixed}, repartition)
    else:
        count = max(repartition.values())
        if count == 0:
            raise StreamsInvalidTopologyError("All topics in the copartition group had undefined partition number")
    for topic, has in repartition.items():
        if topic in fixed and has != count:
            raise _MisfitError(
                StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
                f"Number of partitions [{has}] of repartition topic [{topic}] doesn't match number of partitions "
                f"[{count}] of the source topic.",
            )
    return dict.fromkeys(repartition, count)


def _all_the_same(counts: Mapping[str, int], shown: Mapping[str, int]) -> int:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{topic}={count}" for topic, count in sorted(shown.items()))
        raise _MisfitError(
            StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
            f"Following topics do not have the same number of partitions: [{{{listed}}}]",
        )
    return next(iter(counts.values()))


def _with_partitions(topics: Iterable[InternalTopic], decided: Mapping[str, int]) -> tuple[InternalTopic, ...]:
    return tuple(replace(topic, partitions=topic.partitions or decided[topic.name]) for topic in topics)


def _missing_internal(
    configured: Iterable[ConfiguredSubtopology], partitions_of: PartitionsOf
) -> tuple[InternalTopic, ...]:
    wanted: dict[str, InternalTopic] = {}
    for part in configured:
        for topic in (*part.subtopology.repartition_source_topics, *part.subtopology.state_changelog_topics):
            wanted[topic.name] = topic
    for name in sorted(wanted):
        existing = partitions_of(name)
        if existing is None:
            continue
        expected = wanted.pop(name).partitions
        if existing != expected:
            raise _MisfitError(
                StatusCode.INCORRECTLY_PARTITIONED_TOPICS,
                f"Existing topic {name} has different number of partitions: expected {expected}, found {existing}",
            )
    return tuple(wanted[name] for name in sorted(wanted))


def _known(topic: str, partitions: PartitionsOf) -> int:
    count = partitions(topic)
    if count is None:
        raise UnknownServerError(f"Number of partitions is not set for topic: {topic}")
    return count


def summarized(topics: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    more = f" and {len(topics) - 3} additional topics" if len(topics) > 3 else ""
    return ", ".join(topics[:3]) + more
