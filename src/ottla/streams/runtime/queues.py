"""The records of one task that wait, and which of them is next.

The next record is the one with the smallest timestamp among the heads of the task's partitions; of equal ones that of the
topic, and then the partition, that sorts first. A partition without records holds the task back for as long as records
of it may be on the way (KIP-695):

    lag unknown          wait; for longer than task.timeout.ms is an error that names the partition
    lag above 0          wait: the fetch is under way
    lag 0                caught up: wait `max.task.idle.ms` for new records, then go on without
    max.task.idle.ms -1  never wait
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ottla.streams.context import InputRecord
from ottla.streams.errors import StreamsError
from ottla.types import TopicPartition


class LagUnknownError(StreamsError):
    """The cluster has not said for task.timeout.ms how far a partition goes."""


class TaskQueues:
    """Waiting records of one task, by partition.

    Attributes:
        partitions: of the task, sorted.
        taken_from: the partition of the record that was taken last.
    """

    def __init__(
        self,
        partitions: Iterable[TopicPartition],
        timestamp_of: Callable[[InputRecord], int],
        *,
        max_task_idle_ms: int,
        task_timeout_ms: int,
    ) -> None:
        self.partitions: list[TopicPartition] = sorted(partitions)
        self.taken_from: TopicPartition = self.partitions[0]
        self.timestamp_of = timestamp_of
        #: With one partition there is nothing to choose, and no timestamp is asked for.
        self._alone = len(self.partitions) == 1
        self._waiting: dict[TopicPartition, deque[InputRecord]] = {where: deque() for where in self.partitions}
        #: Of each partition that has records, the timestamp of its head.
        self._heads: dict[TopicPartition, int] = {}
        self._idle_ms = max_task_idle_ms
        self._timeout_ms = task_timeout_ms
        self._unknown_since_ms: dict[TopicPartition, int] = {}
        self._idle_since_ms: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def count(self, partition: TopicPartition) -> int:
        """Return how many records of a partition wait."""
        return len(self._waiting[partition])

    def add(self, partition: TopicPartition, records: Sequence[InputRecord]) -> None:
        """Records of a partition came, in order."""
        if not records:
            return
        waiting = self._waiting[partition]
        waiting.extend(records)
        if partition not in self._heads:
            self._heads[partition] = 0 if self._alone else self.timestamp_of(waiting[0])
        self._unknown_since_ms.pop(partition, None)

    def clear(self) -> None:
        """Forget all records."""
        for waiting in self._waiting.values():
            waiting.clear()
        self._heads.clear()
        self._idle_since_ms = None
        self._unknown_since_ms.clear()

    def is_ready(self, now_ms: int, lag: Callable[[TopicPartition], int | None]) -> bool:
        """Whether a record may be taken now.

        Raises:
            LagUnknownError: a partition's lag was unknown for longer than task.timeout.ms.
        """
        heads = self._heads
        if not heads:
            return False
        if len(heads) == len(self.partitions):
            self._idle_since_ms = None
            return True
        if self._idle_ms < 0:
            return True
        caught_up = True
        for partition in self.partitions:
            if partition in heads:
                continue
            behind = lag(partition)
            if behind is None:
                since_ms = self._unknown_since_ms.setdefault(partition, now_ms)
                if now_ms - since_ms > self._timeout_ms:
                    raise LagUnknownError(
                        f"It is not known how many records {partition} has for {self._timeout_ms / 1000:g} s "
                        "(task.timeout.ms): the task waits for it. Is its leader reachable?"
                    )
                caught_up = False
                continue
            self._unknown_since_ms.pop(partition, None)
            caught_up = caught_up and behind == 0
        if not caught_up:
            self._idle_since_ms = None
            return False
        if self._idle_since_ms is None:
            self._idle_since_ms = now_ms
        return now_ms - self._idle_since_ms >= self._idle_ms

    def take_more(self, limit: int) -> list[InputRecord]:
        """Take up to `limit` records that follow the last one in its partition and that would come next anyway."""
        found: list[InputRecord] = []
        where = self.taken_from
        while len(found) < limit and self._waiting[where]:
            heads = self._heads
            if len(heads) > 1 and min(heads, key=lambda each: (heads[each], each)) != where:
                break
            found.append(self.take())
        return found

    def take(self) -> InputRecord:
        """Return the next record and forget it here."""
        heads = self._heads
        best = min(heads, key=lambda partition: (heads[partition], partition)) if len(heads) > 1 else next(iter(heads))
        self.taken_from = best
        waiting = self._waiting[best]
        record = waiting.popleft()
        if waiting:
            if not self._alone:
                heads[best] = self.timestamp_of(waiting[0])
        else:
            del heads[best]
        return record
