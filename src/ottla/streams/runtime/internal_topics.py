"""The topics that an application makes for itself: repartition topics and changelogs, with Kafka Streams' configs.

Pure: says which are wanted, and what is wrong with those that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ottla.streams.errors import TopologyError
from ottla.streams.topology import StoreKind, Topology

_EVERY: Final = {"message.timestamp.type": "CreateTime"}
#: Read once, and purged: small segments, so that purging frees space; nothing else deletes records.
_REPARTITION: Final = {**_EVERY, "cleanup.policy": "delete", "segment.bytes": "52428800", "retention.ms": "-1"}
_CHANGELOG: Final = {**_EVERY, "cleanup.policy": "compact"}
_WINDOWED: Final = {**_EVERY, "cleanup.policy": "compact,delete"}
#: windowstore.changelog.additional.retention.ms
_ADDITIONAL_RETENTION_MS: Final = 86_400_000
_WINDOWED_KINDS: Final = (StoreKind.WINDOW, StoreKind.TIMESTAMPED_WINDOW, StoreKind.SESSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalTopic:
    """One topic to be there."""

    name: str
    partitions: int
    configs: Mapping[str, str]


def internal_topics(
    topology: Topology, known: Mapping[str, int], overrides: Mapping[str, str] | None = None
) -> tuple[list[InternalTopic], dict[str, int]]:
    """Return the topics that an application needs, and the number of partitions of all topics that it reads.

    Args:
        known: the numbers of partitions of all topics that exist.
        overrides: configs of the user's (`topic.`), for all of them.

    Raises:
        TopologyError: a topic that is read is not there; joined topics differ; an internal topic has another number than it
            needs.
    """
    counts = topology.partition_counts(known)
    wanted = [
        InternalTopic(
            name=name, partitions=counts[name], configs={**_REPARTITION, **topic.configs, **(overrides or {})}
        )
        for name, topic in topology.repartition_topics.items()
    ]
    for sub in topology.tasks:
        partitions = max((counts[topic] for topic in sub.source_topics), default=1)
        for spec in sub.stores:
            if spec.changelog is None or spec.source_changelog:
                continue
            configs: dict[str, str] = dict(_CHANGELOG)
            if spec.kind in _WINDOWED_KINDS:
                configs = dict(_WINDOWED)
                if spec.retention_ms is not None:
                    configs["retention.ms"] = str(spec.retention_ms + _ADDITIONAL_RETENTION_MS)
            configs |= {**spec.changelog_configs, **(overrides or {})}
            found = known.get(spec.changelog, partitions)
            if found != partitions:
                raise TopologyError(
                    f"the changelog {spec.changelog} has {found} partitions, and {', '.join(sub.source_topics)} "
                    f"{'has' if len(sub.source_topics) == 1 else 'have'} {partitions}: keys would be looked for in the wrong "
                    "task. Go back to the old number of partitions, or start over with `ottla streams reset`"
                )
            wanted.append(InternalTopic(name=spec.changelog, partitions=partitions, configs=configs))
    return wanted, counts
