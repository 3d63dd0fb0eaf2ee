"""/changes: what each transaction changed. Brokers watch only this one node, and read again what a new change names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ottla.cluster.nodes.encoding import dump, read

CHANGES: Final = "/changes"
CHANGE_PREFIX: Final = CHANGES + "/change_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one transaction changed.

    Attributes:
        topics: topics to read again as a whole: made, deleted, grown.
        partitions: single partitions whose state changed.
        configs: (kind, name) of configurations that changed.
        brokers: a broker or the controller came or went.
        features: a feature got another level.
        acls: paths of nodes with access rules that changed.
    """

    topics: tuple[str, ...] = ()
    partitions: tuple[tuple[str, int], ...] = ()
    configs: tuple[tuple[str, str], ...] = ()
    brokers: bool = False
    features: bool = False
    acls: tuple[str, ...] = ()


class ChangeNode:
    """/changes/change_<number>."""

    @staticmethod
    def path(number: int) -> str:
        return f"{CHANGE_PREFIX}{number:010d}"

    @staticmethod
    def encode(change: Change, timestamp_ms: int) -> bytes:
        return dump(
            {
                "version": 1,
                "timestamp": str(timestamp_ms),
                "topics": list(change.topics),
                "partitions": [list(partition) for partition in change.partitions],
                "configs": [list(config) for config in change.configs],
                "brokers": change.brokers,
                "features": change.features,
                **({"acls": list(change.acls)} if change.acls else {}),
            }
        )

    @staticmethod
    def decode(path: str, data: bytes) -> tuple[Change, int]:
        """Return the change and the time it was made."""

        def take(value: dict[str, Any]) -> tuple[Change, int]:
            change = Change(
                topics=tuple(value["topics"]),
                partitions=tuple((topic, partition) for topic, partition in value["partitions"]),
                configs=tuple((kind, name) for kind, name in value["configs"]),
                brokers=bool(value["brokers"]),
                features=bool(value.get("features", False)),  # younger than the other fields
                acls=tuple(value.get("acls", ())),
            )
            return change, int(value["timestamp"])

        return read(path, data, take)

    @staticmethod
    def number(name_or_path: str) -> int:
        """Return the number in the name of a change node."""
        return int(name_or_path.rpartition("_")[2])


def merge_changes(changes: Iterable[Change]) -> Change:
    """Return one change that names everything these name, each once, in the order of first mention."""
    topics: dict[str, None] = {}
    partitions: dict[tuple[str, int], None] = {}
    configs: dict[tuple[str, str], None] = {}
    acls: dict[str, None] = {}
    brokers = features = False
    for change in changes:
        topics.update(dict.fromkeys(change.topics))
        partitions.update(dict.fromkeys(change.partitions))
        configs.update(dict.fromkeys(change.configs))
        acls.update(dict.fromkeys(change.acls))
        brokers = brokers or change.brokers
        features = features or change.features
    return Change(
        topics=tuple(topics),
        partitions=tuple(p for p in partitions if p[0] not in topics),
        configs=tuple(configs),
        brokers=brokers,
        features=features,
        acls=tuple(acls),
    )
