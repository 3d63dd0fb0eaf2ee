"""Which topics there were, told by the data directories alone: when the coordination tree is lost. Pure.

Each partition's directory has a partition.metadata with the topic's id. Settings of topics are not in the data directories,
they are lost with the tree. The defaults could delete what was to be kept for good (a compacted topic above all), so rebuilt
topics keep everything until somebody sets their retention again. What internal topics are set to is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ottla.cluster.decisions.topic_names import why_invalid
from ottla.cluster.decisions.topics import TopicPlan, new_topic_id
from ottla.cluster.image import PartitionImage
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from random import Random


#: Settings of a topic whose own were lost.
KEEP_EVERYTHING = {"retention.bytes": "-1", "retention.ms": "-1"}


class FoundPartition(NamedTuple):
    """One partition directory. `topic_id` ZERO_UUID: it has no partition.metadata. `leader_epoch`: its latest, or -1."""

    topic: str
    partition: int
    topic_id: bytes = ZERO_UUID
    leader_epoch: int = -1


class Rebuilt(NamedTuple):
    """The topics to make again, and sentences about what was odd."""

    plans: tuple[TopicPlan, ...]
    notes: tuple[str, ...]


def rebuild_topics(
    found: Iterable[FoundPartition],
    node_id: int,
    random: Random,
    *,
    settings: Mapping[str, str] | None = None,
    internal_settings: Mapping[str, Mapping[str, str]] | None = None,
) -> Rebuilt:
    """Return the topics these directories belong to, each partition led by this broker in an epoch above its latest.

    Partitions missing below the highest one found are made empty. Directories of two topics with one name (an old one was
    being deleted): the id of most partitions wins, the others' directories are left for the log manager to refuse.

    Args:
        settings: of all topics but internal ones; `KEEP_EVERYTHING` unless given.
        internal_settings: of internal topics, by name.
    """
    settings = KEEP_EVERYTHING if settings is None else settings
    by_topic: dict[str, list[FoundPartition]] = {}
    for partition in sorted(found):
        by_topic.setdefault(partition.topic, []).append(partition)
    plans: list[TopicPlan] = []
    notes: list[str] = []
    for topic, partitions in by_topic.items():
        if why_invalid(topic) is not None:
            notes.append(f"the directories of {topic} are left alone: it is no name of a topic")
            continue
        counts: dict[bytes, int] = {}
        for partition in partitions:
            if partition.topic_id != ZERO_UUID:
                counts[partition.topic_id] = counts.get(partition.topic_id, 0) + 1
        topic_id = max(counts, key=lambda uuid: counts[uuid]) if counts else new_topic_id(random)
        if len(counts) > 1:
            notes.append(
                f"the directories of {topic} have {len(counts)} different topic ids; the one of most was taken"
            )
        epochs = {p.partition: p.leader_epoch for p in partitions if p.topic_id in (topic_id, ZERO_UUID)}
        count = max(epochs) + 1
        if len(epochs) < count:
            missing = [str(index) for index in range(count) if index not in epochs]
            notes.append(f"{topic} has no directory for partition {', '.join(missing)}: made again, empty")
        plans.append(
            TopicPlan(
                name=topic,
                topic_id=topic_id,
                partitions=tuple(
                    PartitionImage((node_id,), (node_id,), node_id, epochs.get(index, -1) + 1, 0)
                    for index in range(count)
                ),
                configs=dict((internal_settings or {}).get(topic, settings)),
            )
        )
    if settings and any(plan.configs == settings for plan in plans):
        text = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
        notes.append(f"the settings of topics were lost: rebuilt topics have {text} until you set them again")
    return Rebuilt(tuple(plans), tuple(notes))
