"""From chunks of raw batches to records in the caller's hands: what was taken from the core and not handed out yet.

Positions move as records are handed out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Generic, NoReturn

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.handing import Front, Reading
from ottla.client._core.partitions import Chunk, PartitionState
from ottla.client.columns import NO_END, Columns, Pool
from ottla.client.consumed import K, Record, Source, V
from ottla.client.errors import DeserializationError
from ottla.client.finished import Finished
from ottla.client.reading import ChunkReader
from ottla.client.unreadable import ErrorPolicy, Unreadable, make
from ottla.errors import KafkaError
from ottla.protocol.records import column_kernels
from ottla.types import TopicPartition

#: Records that are made at once for a loop.
_PIECE: Final = 512

#: By partition, the offset from which on nothing is handed out; None: no limit.
Limits = Mapping[TopicPartition, int] | None


class _Reading(Reading, Generic[K, V]):
    """A chunk that is being handed out, and the records of its present batch, where they are rows."""

    __slots__ = ("following", "problem", "reader", "rest", "source")

    state: PartitionState
    records: list[Record[K, V]]

    def __init__(self, chunk: Chunk, reader: ChunkReader) -> None:
        super().__init__(chunk.state, chunk.generation)
        self.reader = reader
        self.following = -1
        #: With `on_error=`: what waits behind `records`, and why the first of it cannot be read.
        self.rest: list[Record[K, V]] = []
        self.problem: DeserializationError | None = None
        #: What the records of the last batch have in common.
        self.source: Source[K, V] | None = None


class Handing(Generic[K, V]):
    """The records of one consumer on their way to its caller. Not for use by itself."""

    _machine: ConsumerMachine
    _lock: AbstractContextManager[object]
    _finished: Finished
    _deserialize_key: Callable[[str, bytes], K] | None
    _deserialize_value: Callable[[str, bytes], V] | None

    def __init__(self) -> None:
        self._open: deque[_Reading[K, V]] = deque()
        #: Hands out the next record where that is all there is to do: what each record of a loop costs.
        self._front = Front(self._open)
        self._limits: Limits = None
        self._pool = Pool()
        self._scratch: Columns[K, V] | None = None
        #: What went wrong behind records that were handed out in the same call: the next call raises it.
        self._deferred: Exception | None = None
        #: What `on_error=` says; None: keys and values are deserialized when they are looked at.
        self._policy: ErrorPolicy | None = None

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
                        while end > start and reading.records[end - 1].offset >= limit:
                            end -= 1
                    if end > start:
                        found = reading.records[start:end]
                        with self._lock:
                            self._finished.hand_out(state, (record.offset for record in found), found[0].offset)
                            reading.index = end
                            state.position = found[-1].offset + 1
                        return found
            if not self._have_open(waiter):
                return []

    def _take_ready(self, limits: Limits) -> Record[K, V] | None:
        """Return the next record if it is at hand; None says nothing."""
        waiting = self._open
        if waiting:
            reading = waiting[0]
            index, records = reading.index, reading.records
            state = reading.state
            if index < len(records) and reading.generation == state.generation and not state.paused:
                record = records[index]
                following = record.offset + 1
                if limits is None or following <= limits.get(state.topic_partition, 0):
                    finished = self._finished
                    if finished.marks is None:
                        finished.current = record  # before the position: see `finished`
                    else:
                        with self._lock:
                            finished.hand_out(state, (following - 1,), following - 1)
                    reading.index = index + 1
                    state.position = following
                    return record
        return None

    def _take_columns(
        self, columns: Columns[K, V], count: int, waiter: Callable[[], object] | None = None
    ) -> Columns[K, V] | None:
        """Add records of one partition that are at hand to columns, which hold `count` rows at most then; return them, or
        None if nothing was added because nothing waits.

        Raises:
            KafkaError: as `_take`.
        """
        before = len(columns)
        while self._have_open(waiter, rows=False):
            reading = self._open[0]
            if self._fill(reading, columns, count):
                state = reading.state
                offsets: Sequence[int]
                with self._lock:
                    offsets = () if self._finished.marks is None else columns.offsets(before, len(columns))
                    self._finished.hand_out(state, offsets, columns.offset(before))
                    inside = reading.index < len(reading.records)
                    state.position = columns.offset(len(columns) - 1) + 1 if inside else reading.reader.next_offset
                    state.position_epoch = reading.reader.leader_epoch
                return columns
        return None

    def _fill(self, reading: _Reading[K, V], columns: Columns[K, V], count: int) -> bool:
        """Add records of the chunk at the front; return whether there were any."""
        state, before = reading.state, len(columns)
        limits = self._limits
        end = NO_END if limits is None else limits.get(state.topic_partition, 0)
        try:
            if reading.index < len(reading.records):
                self._fill_from_rows(reading, columns, end, count)
            else:
                reading.records, reading.index = [], 0
                reading.following = -1
                reading.reader.fill(columns, lambda epoch: columns.begin(self._source(reading, epoch)), end, count)
                self._machine.fetcher.counts.on_records(state.topic_partition.topic, len(columns) - before)
        except KafkaError as error:
            self._open.popleft()
            self._fail(reading, error)
        if len(columns) > before:
            return True
        if reading.index < len(reading.records):
            self._open.rotate(-1)  # behind the end
            return False
        following = reading.reader.next_offset
        state.position = max(state.position or 0, following)  # past markers, aborted and compacted records
        if following >= end:
            self._open.rotate(-1)
        return False

    def _fill_from_rows(self, reading: _Reading[K, V], columns: Columns[K, V], end: int, count: int) -> None:
        """Add records that a loop before has left over."""
        assert reading.source is not None
        rows = [record._row for record in reading.records[reading.index : reading.index + count - len(columns)]]
        rows = [row for row in rows if row[0] < end]
        columns.begin(reading.source)
        columns.add_rows(rows)
        reading.index += len(rows)

    def _have_open(self, waiter: Callable[[], object] | None, *, rows: bool = True) -> bool:
        """Bring a record that may be handed out to the front; return False if there is none, and have `waiter` called
        when that changes. Without `rows` what is at the front is not decoded yet, and may turn out to be nothing."""
        while not (self._advance() if rows else self._advance_chunk()):
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
                held_back = self._machine.fetcher.held_back
            self._open.append(_Reading(chunk, ChunkReader(chunk, self._machine.settings.isolation)))
            if held_back:
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
                    offset = reading.records[reading.index].offset
                    if limits is None or offset < limits.get(state.topic_partition, 0):
                        return True
                    waiting.rotate(-1)  # behind the limit
                    break
                if reading.problem is not None:
                    if limits is None or reading.rest[0].offset < limits.get(state.topic_partition, 0):
                        raise Unreadable(reading.problem)
                    waiting.rotate(-1)
                    break
                if reading.following >= 0:
                    self._pass(reading)
                if reading.reader.at_end:
                    waiting.popleft()
                    break
                try:
                    self._decode(reading)
                except KafkaError as error:
                    waiting.popleft()
                    self._fail(reading, error)
                except BaseException:
                    # Ctrl-C: what is lost of it is fetched again.
                    waiting.popleft()
                    with self._lock:
                        self._machine.fetcher.refetch(state)
                    self._wake()
                    raise
        return False

    def _decode(self, reading: _Reading[K, V]) -> None:
        """Make the next records of a chunk; perhaps none.

        So many at once as the processor's cache holds: a batch may have ten thousand records, which would be out of it
        again before the caller gets to them. By way of columns, which can go on in the middle of a batch; without compiled
        kernels, to which that is dear, batch by batch.
        """
        reader = reading.reader
        reading.index = 0
        if not column_kernels.COMPILED:
            rows = reader.next_rows() or []
            source = self._source(reading, reader.leader_epoch)
            reading.records = [Record(source, row) for row in rows]
        else:
            columns = self._scratch
            if columns is None:
                columns = self._scratch = Columns(self._pool)
            columns.clear()
            reading.records = []
            reader.fill(columns, lambda epoch: columns.begin(self._source(reading, epoch)), NO_END, _PIECE)
            reading.records = columns.records(0, len(columns))
        reading.following = -1 if reader.is_inside else reader.next_offset
        reading.state.position_epoch = reader.leader_epoch
        self._machine.fetcher.counts.on_records(reading.state.topic_partition.topic, len(reading.records))
        if self._policy is not None:
            self._make(reading, reading.records)

    def _make(self, reading: _Reading[K, V], records: list[Record[K, V]]) -> None:
        """Deserialize records, which are handed out up to the first that cannot be."""
        reading.records, reading.problem = make(records)
        reading.rest = records[len(reading.records) :]
        reading.index = 0

    def _pass_unreadable(self, problem: Unreadable, *, finished: bool) -> None:
        """Go past a record that cannot be read; unless it is finished, it counts as handed out."""
        for reading in self._open:
            state = reading.state
            if reading.problem is problem.error and reading.generation == state.generation:
                record, *rest = reading.rest
                offset = record.offset
                with self._lock:
                    if self._finished.marks is not None:
                        self._finished.hand_out(state, (offset,), offset)
                    elif not finished:
                        self._finished.current = record
                    state.position = offset + 1
                    if finished:
                        self._finished.mark(record)
                self._make(reading, rest)
                return

    def _advance_chunk(self) -> bool:
        """Bring a chunk to the front that has something left to read; return whether there is one."""
        waiting, limits = self._open, self._limits
        for _ in range(len(waiting)):
            reading = waiting[0]
            state = reading.state
            if state.generation != reading.generation:
                waiting.popleft()  # a seek, or the partition was given up
                continue
            offset = reading.reader.next_offset
            if reading.index < len(reading.records):
                offset = reading.records[reading.index].offset
            elif reading.reader.at_end:
                self._pass(reading)
                waiting.popleft()
                continue
            if state.paused or (limits is not None and offset >= limits.get(state.topic_partition, 0)):
                waiting.rotate(-1)
                continue
            return True
        return False

    def _source(self, reading: _Reading[K, V], leader_epoch: int) -> Source[K, V]:
        source = reading.source
        if source is None or source.leader_epoch != leader_epoch:
            topic, partition = reading.state.topic_partition
            source = reading.source = Source(
                topic, partition, leader_epoch, self._deserialize_key, self._deserialize_value, reading.state
            )
        return source

    def _fail(self, reading: _Reading[K, V], error: KafkaError) -> NoReturn:
        """A chunk cannot be read on: drop what was fetched, and raise."""
        state = reading.state
        with self._lock:
            self._machine.fail(state, error)
            state.error = None
        self._wake()
        raise error

    def _pass(self, reading: _Reading[K, V]) -> None:
        """All of a batch was handed out: move past records that are not, too (markers, aborted ones, compacted ones)."""
        reading.state.position = max(reading.state.position or 0, reading.following)

    def _wake(self) -> None:
        raise NotImplementedError
