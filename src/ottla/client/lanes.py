"""Which record may be worked on next, when several are at once: `run(handle, workers=, order=, retry=)` without waiting.

Records whose order counts go into one lane, one after the other. A record that failed waits for its next try at the head
of its lane, and only that lane waits. What is to be done about a failure is `Retry`'s to say.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal

from ottla.client.consumed import K, Record, V
from ottla.client.errors import ConfigurationError, DeserializationError
from ottla.client.keys import Duration, duration_s
from ottla.client.records import HeadersLike
from ottla.types import TopicPartition

#: partition: one after the other in each partition; key: in each key of a partition, records without a key in any order;
#: none: in any order.
Order = Literal["partition", "key", "none"]
#: Records that were taken and are not finished, at most.
OUTSTANDING_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """What `run()` does with a record whose handling has raised.

        ottla.Retry(delays=["1s", "10s", "1m"], dead_letter="orders.dlq")

    Args:
        delays: seconds or words: how long to wait before each further try. Only records that have to come after it wait.
        dead_letter: the topic it goes to when the last try has failed, with key, value and headers, and headers that say
            where it was and why it failed (`dead-letter.topic`, `.partition`, `.offset`, `.error`, `.attempts`). None:
            `run()` raises.
        on: exceptions that are tried again; others go to the dead letters at once, and so do records whose key or value
            cannot be deserialized, which no further try changes.
    """

    delays: tuple[float, ...]
    dead_letter: str | None
    on: tuple[type[Exception], ...]

    def __init__(
        self,
        delays: Iterable[Duration] = (),
        *,
        dead_letter: str | None = None,
        on: type[Exception] | Iterable[type[Exception]] = Exception,
    ) -> None:
        object.__setattr__(self, "delays", tuple(duration_s("delays", delay) for delay in delays))
        object.__setattr__(self, "dead_letter", dead_letter)
        object.__setattr__(self, "on", (on,) if isinstance(on, type) else tuple(on))

    def delay_s(self, failures: int, error: Exception) -> float | None:
        """Return how long to wait after so many failures; None: no more tries."""
        if isinstance(error, DeserializationError) or not isinstance(error, self.on) or failures > len(self.delays):
            return None
        return self.delays[failures - 1]


def dead_letter_headers(record: Record[Any, Any], error: Exception, attempts: int) -> HeadersLike:
    """Return the headers of a dead letter: the record's own, then where it was and what is wrong with it."""
    return [
        *record.headers.multi_items(),
        ("dead-letter.topic", record.topic),
        ("dead-letter.partition", str(record.partition)),
        ("dead-letter.offset", str(record.offset)),
        ("dead-letter.error", f"{type(error).__name__}: {error}"[:1_000]),
        ("dead-letter.attempts", str(attempts)),
    ]


class Job(Generic[K, V]):
    """A record that is to be handled, and how often that has failed."""

    __slots__ = ("failures", "lane", "record")

    def __init__(self, record: Record[K, V], lane: Hashable) -> None:
        self.record: Record[K, V] = record
        self.lane: Hashable = lane
        self.failures: int = 0


class Lanes(Generic[K, V]):
    """Records between being taken and being finished.

    Attributes:
        outstanding: how many.
        working: by partition, how many are being worked on.
    """

    outstanding: int

    def __init__(self, order: Order) -> None:
        if order not in ("partition", "key", "none"):
            raise ConfigurationError(f"order={order!r} is not valid: it takes 'partition', 'key' or 'none'.")
        self._order = order
        self.outstanding = 0
        self.working: dict[TopicPartition, int] = {}
        self._lanes: dict[Hashable, deque[Job[K, V]]] = {}
        self._ready: deque[Job[K, V]] = deque()
        self._waiting: list[tuple[float, int, Job[K, V]]] = []
        self._serial = 0

    def add(self, records: Sequence[Record[K, V]]) -> None:
        """Records were taken, in their order."""
        for record in records:
            self._serial += 1
            lane: Hashable = self._serial
            if self._order == "partition":
                lane = record.topic_partition
            elif self._order == "key" and record.key_bytes is not None:
                lane = (record.topic, record.partition, record.key_bytes)
            job = Job(record, lane)
            self.outstanding += 1
            queue = self._lanes.get(lane)
            if queue is None:
                self._lanes[lane] = deque([job])
                self._ready.append(job)
            else:
                queue.append(job)

    def take(self, now_s: float) -> Job[K, V] | None:
        """Return a record to work on, or None if none may be worked on now."""
        while self._waiting and self._waiting[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._waiting)[2])
        if not self._ready:
            return None
        job = self._ready.popleft()
        where = job.record.topic_partition
        self.working[where] = self.working.get(where, 0) + 1
        return job

    @property
    def due_s(self) -> float | None:
        """When the next try of a record is due."""
        return self._waiting[0][0] if self._waiting else None

    def on_failed(self, job: Job[K, V], retry_s: float) -> None:
        """The work failed; it is tried again then."""
        self._leave(job)
        if self._lanes.get(job.lane, (None,))[0] is job:  # else it was dropped
            self._serial += 1
            heapq.heappush(self._waiting, (retry_s, self._serial, job))

    def on_done(self, job: Job[K, V]) -> None:
        """The record is finished."""
        self._leave(job)
        queue = self._lanes.get(job.lane)
        if queue is None or queue[0] is not job:
            return  # it was dropped
        queue.popleft()
        self.outstanding -= 1
        if queue:
            self._ready.append(queue[0])
        else:
            del self._lanes[job.lane]

    def _leave(self, job: Job[K, V]) -> None:
        where = job.record.topic_partition
        left = self.working[where] - 1
        if left:
            self.working[where] = left
        else:
            del self.working[where]

    def drop(self, given_up: Callable[[TopicPartition], bool]) -> None:
        """Forget records of partitions that are given up; those that are being worked on are let be."""
        for lane, queue in list(self._lanes.items()):
            if given_up(queue[0].record.topic_partition):
                self.outstanding -= len(queue)
                del self._lanes[lane]
        self._ready = deque(job for job in self._ready if not given_up(job.record.topic_partition))
        self._waiting = [entry for entry in self._waiting if not given_up(entry[2].record.topic_partition)]
        heapq.heapify(self._waiting)
