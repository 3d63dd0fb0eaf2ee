"""Records of repartition topics that were read and committed are deleted, now and then."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ottla.streams.runtime.ports import Cluster
from ottla.streams.runtime.tasks import EngineTask
from ottla.types import TopicPartition


class Purge:
    """Deletes up to the last acknowledged commit, and not a record further.

    Args:
        topics: the repartition topics.
    """

    def __init__(self, cluster: Cluster, topics: Collection[str], interval_ms: int, now_ms: int) -> None:
        self._cluster = cluster
        self._topics = topics
        self._interval_ms = interval_ms
        self._due_ms = now_ms + interval_ms
        self._purged: dict[TopicPartition, int] = {}

    def maybe_purge(self, tasks: Iterable[EngineTask], now_ms: int) -> None:
        """Delete, if `repartition.purge.interval.ms` have passed."""
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + self._interval_ms
        before = {
            where: offset
            for task in tasks
            for where, offset in task.committed.items()
            if where.topic in self._topics and offset > self._purged.get(where, 0)
        }
        if before:
            self._cluster.purge(before)
            self._purged.update(before)
