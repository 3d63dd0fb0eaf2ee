"""From chunks of raw batches to records in the caller's hands: what was taken from the core and not handed out yet.

Positions move as records are handed out. `_take_ready` is what each record of a loop costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Generic

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.partitions import Chunk
from ottla.client.consumed import K, Record, Row, Source, V
from ottla.client.finished import Finished
from ottla.client.reading import read_chunk
from ottla.errors import KafkaError
from ottla.types import TopicPartition

#: By partition, the offset from which on nothing is handed out; None: no limit.
Limits = Mapping[TopicPartition, int] | None


class _Reading(Generic[K, V]):
    """A chunk that is being handed out, and the records of its present batch."""

    __slots__ = ("batches", "following", "generation", "index", "records", "state")

    def __init__(self, chunk: Chunk, batches: Iterator[tuple[list[Row], int, int]]) -> None:
        self.state = chunk.state
        self.generation = chunk.generation
        self.batches = batches
        self.records: list[Record[K, V]] = []
        self.index = 0
        self.following = -1


class Handing(Generic[K, V]):
    """The records of one consumer on their way to its caller. Not for use by itself."""

    _machine: ConsumerMachine
    _lock: AbstractContextManager[object]
    _finished: Finished
    _deserialize_key: Callable[[str, bytes], K] | None
    _deserialize_value: Callable[[str, bytes], V] | None

    def __init__(self) -> None:
        self._open: deque[_Reading[K, V]] = deque()
        self._limits: Limits = None
        #: What went wrong behind records that were handed out in the same call: the next call raises it.
        self._deferred: Exception | None = None

    def _take(self, waiter: Callable[[], object] | None = None) -> Record[K, V] | None:
        """Return the next record of what was fetched, or None if nothing waits: then `waiter` is called when that changes.

        Raises:
            KafkaError: a partition's; the next call goes on.
        """
        while True:
            record = self._take_ready(self._limits)
            if record is not None:
                return record
            if not self._have_open(waiter):
                return None

    def _take_run(self, count: int, waiter: Callable[[], object] | None = None) -> list[Record[K, V]]:
        """Return up to `count` records of one partition that are at hand; as `_take`, but many. Empty if nothing waits."""
        while True:
            waiting, limits = self._open, self._limits
            if waiting:
                reading = waiting[0]
                state = reading.state
                if reading.generation == state.generation and not state.paused:
                    start = reading.index
                    end = min(start + count, len(reading.records))
                    if limits is not None:
                        limit = limits.get(state.topic_partition, 0)
                        while end > start and reading.records[end - 1]._row[0] >= limit:
                            end -= 1
                    if end > start:
                        found = reading.records[start:end]
                        with self._lock:
                            self._finished.hand_out(state, found, found[0]._row[0])
                            reading.index = end
                            state.position = found[-1]._row[0] + 1
                        return found
            if not self._have_open(waiter):
                return []

    def _take_ready(self, limits: Limits) -> Record[K, V] | None:
        """Return the next record if it is at hand; None says nothing. This is what each record costs."""
        waiting = self._open
        if waiting:
            reading = waiting[0]
            state = reading.state
            if reading.index < len(reading.records) and reading.generation == state.generation and not state.paused:
                record = reading.records[reading.index]
                following = record._row[0] + 1
                if limits is None or following <= limits.get(state.topic_partition, 0):
                    finished = self._finished
                    if finished.marks is None:
                        finished.current = record  # before the position: see `finished`
                    else:
                        with self._lock:
                            finished.hand_out(state, (record,), following - 1)
                    reading.index += 1
                    state.position = following
                    return record
        return None

    def _have_open(self, waiter: Callable[[], object] | None) -> bool:
        """Bring a record that may be handed out to the front; return False if there is none, and have `waiter` called
        when that changes."""
        while not self._advance():
            with self._lock:
                try:
                    chunk = self._machine.take()
                except BaseException:
                    self._wake()  # what failed is tried again
                    raise
                if chunk is None:
                    self._machine.check_topics()
                    if waiter is not None and waiter not in self._machine.waiters:
                        self._machine.waiters.append(waiter)
                    return False
            self._open.append(_Reading(chunk, read_chunk(chunk, self._machine.settings.isolation)))
            self._wake()
        return True

    def _advance(self) -> bool:
        """Decode the next batches of what is open, until a record can be handed out; return whether one can."""
        waiting, limits = self._open, self._limits
        for _ in range(len(waiting)):
            reading = waiting[0]
            state = reading.state
            if state.generation != reading.generation:
                waiting.popleft()  # a seek, or the partition was given up
                continue
            if state.paused:
                waiting.rotate(-1)
                continue
            while True:
                if reading.index < len(reading.records):
                    offset = reading.records[reading.index]._row[0]
                    if limits is None or offset < limits.get(state.topic_partition, 0):
                        return True
                    waiting.rotate(-1)  # behind the limit
                    break
                if reading.following >= 0:
                    self._pass(reading)
                try:
                    rows, leader_epoch, reading.following = next(reading.batches)
                except StopIteration:
                    waiting.popleft()
                    break
                except KafkaError as error:
                    waiting.popleft()
                    with self._lock:
                        self._machine.fail(state, error)
                        state.error = None
                    self._wake()
                    raise
                topic, partition = state.topic_partition
                source = Source(topic, partition, leader_epoch, self._deserialize_key, self._deserialize_value, state)
                reading.records = [Record(source, row) for row in rows]
                reading.index = 0
                state.position_epoch = leader_epoch
        return False

    def _pass(self, reading: _Reading[K, V]) -> None:
        """All of a batch was handed out: move past records that are not, too (markers, aborted ones, compacted ones)."""
        reading.state.position = max(reading.state.position or 0, reading.following)

    def _wake(self) -> None:
        raise NotImplementedError
