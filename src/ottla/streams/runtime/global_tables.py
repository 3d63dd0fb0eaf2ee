"""Global tables: every instance holds the whole topic, in memory, read without a group.

They are filled up to the end that the topics have at the start, before any task begins, and follow from then on. As in Java
there is no common time with the streams that look things up in them. Their records are processed without transactions: they
change nothing but these stores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import ottla
from ottla.streams.errors import StreamsError
from ottla.streams.runtime.client_cluster import runs
from ottla.streams.runtime.settings import StreamsSettings
from ottla.streams.store import MemoryStore, Store
from ottla.streams.task import Task
from ottla.streams.topology import SubTopology, Topology
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: Records that are taken between two looks at other things.
_RECORDS: Final = 5_000


class GlobalTables:
    """All global tables of an instance. Belongs to its thread.

    Args:
        make_task: makes the task of a sub-topology, with stores.

    Attributes:
        stores: for all tasks, to read.
    """

    def __init__(
        self,
        topology: Topology,
        settings: StreamsSettings,
        make_task: Callable[[SubTopology, int, Mapping[str, Store]], Task],
    ) -> None:
        self.stores: dict[str, Store] = {}
        self._readers: dict[str, Task] = {}
        subs = [sub for sub in topology.sub_topologies if sub.is_global]
        for sub in subs:
            stores: dict[str, Store] = {spec.name: MemoryStore() for spec in sub.stores}
            self.stores.update({spec.name: stores[spec.name] for spec in sub.stores if spec.is_global})
            task = make_task(sub, 0, stores)
            self._readers.update(dict.fromkeys(sub.source_topics, task))
        self._consumer: ottla.Consumer[bytes | None, bytes | None] = ottla.Consumer(
            topics=list(self._readers),
            config={
                "client.id": f"{settings.application_id}-global",
                **settings.restore_consumer,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed" if settings.engine.exactly_once else "read_uncommitted",
                "allow.auto.create.topics": False,
            },
        )

    def fill(self, stopped: Callable[[], bool]) -> None:
        """Read up to the end that the topics have now; ends early once `stopped` says so."""
        ends = self._consumer.end_offsets()
        while not stopped() and any(not self._reached(where, end) for where, end in ends.items()):
            self._take(0.1)
        logger.info("global tables: %d records", sum(ends.values()))

    def _reached(self, where: TopicPartition, end: int) -> bool:
        return self._consumer.position(where) >= end

    def follow(self) -> None:
        """Take what has come since; does not wait."""
        self._take(0)

    def _take(self, wait_s: float) -> None:
        for where, records in runs(self._consumer.poll(_RECORDS, timeout=wait_s)):
            task = self._readers[where.topic]
            for record in records:
                if task.process(record):
                    raise StreamsError(
                        f"the operators of a global table wrote something for {where}: they may only keep it"
                    )

    def close(self) -> None:
        """Read no more."""
        self._consumer.close(timeout=1.0)
