"""Where a partition is read from when nothing says it: nothing is committed, or what is committed is gone."""

from __future__ import annotations

import logging

from ottla.streams.runtime.ports import Cluster, OutOfRange, TaskFailedError
from ottla.streams.topology import Topology
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)


class FirstOffsets:
    """Follows `auto.offset.reset` of the source, then that of the application."""

    def __init__(self, topology: Topology, cluster: Cluster, auto_offset_reset: str) -> None:
        self._repartition_topics = topology.repartition_topics
        self._cluster = cluster
        self._default = auto_offset_reset
        self._resets = {
            topic: source.offset_reset
            for sub in topology.tasks
            for source in sub.sources
            for topic in source.topics
            if source.offset_reset
        }

    def where_nothing_is_committed(self, where: TopicPartition) -> int:
        """Return where a partition begins of which nothing is committed.

        Raises:
            TaskFailedError: auto.offset.reset is none.
        """
        reset = self._resets.get(where.topic) or self._default
        if where.topic in self._repartition_topics:
            reset = "earliest"
        if reset not in ("earliest", "latest"):
            raise TaskFailedError(f"Nothing is committed for {where}, and auto.offset.reset is none.")
        start, end = self._cluster.bounds(where)
        return start if reset == "earliest" else end

    def where_it_is_gone(self, error: OutOfRange) -> dict[TopicPartition, int]:
        """Return where to go on with partitions whose logs do not have what is to be read next.

        Raises:
            TaskFailedError: of a repartition topic: records that no task has read are lost. Or of a source topic, where
                auto.offset.reset is none.
        """
        places = {}
        for where in error.partitions:
            parted = error.parted.get(where)
            if where.topic in self._repartition_topics:
                if parted is not None:
                    raise TaskFailedError(
                        f"The repartition topic {where} has lost records from offset {parted} on, by a leader that did not "
                        "have them: results are missing. `ottla streams reset` starts the application over."
                    )
                raise TaskFailedError(
                    f"Records of the repartition topic {where} are gone that no task has read. Was it purged or made anew by "
                    "hand? `ottla streams reset` starts the application over."
                )
            if parted is not None:
                # What was read of it is in the results, and will not come again: from the start it would count twice.
                places[where] = parted
                logger.error(
                    "%s has lost records from offset %d on that were processed, by a leader that did not have them "
                    "(unclean.leader.election.enable?): they stay in the results, and reading goes on from there",
                    *(where, parted),
                )
                continue
            reset = self._resets.get(where.topic) or self._default
            if reset not in ("earliest", "latest"):
                raise TaskFailedError(
                    f"{where} does not have the offset that is to be read next, and auto.offset.reset is none."
                )
            start, end = self._cluster.bounds(where)
            place = places[where] = start if reset == "earliest" else end
            logger.warning(
                "%s: the offset to read next is gone; going on at %d (auto.offset.reset=%s)", where, place, reset
            )
        return places
