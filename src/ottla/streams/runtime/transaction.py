"""The transaction that is open in one stream thread: what was sent in it, by whom, and where it ended up.

It begins at the first write, and holds what all tasks of the thread have written since the last commit. Without
exactly-once nothing is ever open, and the rest is the same: records sent, and the offsets behind them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

from ottla.clock import Clock
from ottla.streams.context import InputRecord, Output
from ottla.streams.runtime.ports import Cluster, Committed
from ottla.streams.runtime.tasks import EngineTask
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

#: Outputs after which the thread waits for acknowledgements, so that it can still say which input a refused one came from.
_UNACKNOWLEDGED_MAX: Final = 20_000


class Transaction:
    """See the module.

    Attributes:
        is_open: whether the cluster has one.
        ends: by partition that was written, the offset behind the last acknowledged record.
        slowest: how long the slowest record of it took, in ms, and the record.
    """

    def __init__(self, cluster: Cluster, clock: Clock, *, exactly_once: bool) -> None:
        self.is_open: bool = False
        self.ends: dict[TopicPartition, int] = {}
        self.slowest: tuple[int, InputRecord | None] = (0, None)
        self._cluster = cluster
        self._clock = clock
        self._exactly_once = exactly_once
        #: What was sent since the last wait for acknowledgements: task, record, and the number of its first output.
        self._sent: list[tuple[TaskId, InputRecord | None, int]] = []
        self._firsts: list[int] = []
        self._count = 0

    def begin(self) -> None:
        """Begin one, if there are transactions at all and none is open."""
        if not self.is_open and self._exactly_once:
            self._cluster.begin()
            self.is_open = True
            self.slowest = (0, None)

    def took(self, took_ms: int, record: InputRecord) -> None:
        """A record was processed."""
        if took_ms > self.slowest[0]:
            self.slowest = (took_ms, record)

    def write(
        self, task: EngineTask, record: InputRecord | None, outputs: Sequence[Output], first_place: int = 0
    ) -> None:
        """Send what came of a record. A transaction begins here, at its first write.

        Args:
            first_place: of the first output among those of the record.
        """
        self.begin()
        task.wrote = True
        self._sent.append((task.id, record, first_place))
        self._firsts.append(self._count)
        self._count += len(outputs)
        self._cluster.send(outputs)
        if self._count >= _UNACKNOWLEDGED_MAX:
            self.await_deliveries()

    def await_deliveries(self) -> None:
        """Wait until all that was sent is acknowledged."""
        for where, end in self._cluster.await_deliveries().items():
            self.ends[where] = max(end, self.ends.get(where, 0))
        self._forget_sent()

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit offsets and what was sent."""
        self.begin()
        self.await_deliveries()
        self._cluster.commit(offsets)

    def source_of(self, index: int) -> tuple[TaskId, InputRecord | None, int]:
        """Return the task, the record and the output's place of what was sent as number `index` (see `Refused`)."""
        place = bisect_right(self._firsts, index) - 1
        task_id, record, first_place = self._sent[place]
        return task_id, record, first_place + index - self._firsts[place]

    def forget(self) -> None:
        """It is aborted, or nobody knows: nothing of it counts."""
        self.is_open = False
        self._forget_sent()
        self.ends.clear()

    def _forget_sent(self) -> None:
        self._sent.clear()
        self._firsts.clear()
        self._count = 0
