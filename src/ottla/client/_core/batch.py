"""One record batch of a producer, from its first record to its acknowledgement.

A batch is open while records are added, then closed for good, then sent until it succeeds or fails. Its records are
written as they come (`appending.Records`), those of a table many at once; one call packs them, and retries reuse that.
They are rows again only when rows are asked for: the batch fails, or is split. What the caller holds of a record is a
ticket, its batch and its place in it; the outcome is written into the batch once.

A batch that a broker finds too large is split (KIP-126). Then the parts have outcomes, and the batch one that is done
when all are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from ottla.client._core.appending import Records, read_timestamps
from ottla.errors import InvalidRecordError, KafkaError
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, increment_sequence
from ottla.protocol.records.builder import make_attributes, wrap_packed
from ottla.protocol.records.compression import compress
from ottla.types import CompressionType, TimestampType

if TYPE_CHECKING:
    from ottla.client._core.accumulator import PartitionQueue

Headers = tuple[tuple[str, bytes | None], ...]
#: (offset delta, timestamp in ms, key, value, headers), as the kernels take it.
Row = tuple[int, int, bytes | None, bytes | None, Headers]

#: The most a record of less than 8 KiB takes beside key, value and headers: length 2, attributes 1, timestamp delta 3,
#: offset delta 3, key and value length 2 each, header count 1.
RECORD_OVERHEAD = 14
#: The same for any record.
RECORD_OVERHEAD_MAX = 40
#: Up to here a record counts as small.
SMALL = 8_000


def record_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Return how many bytes a record takes in a batch at most, before compression."""
    size = (len(key) if key is not None else 0) + (len(value) if value is not None else 0)
    for name, content in headers:
        size += 4 * len(name) + 10 + (len(content) if content is not None else 0)
    return size + (RECORD_OVERHEAD if size < SMALL else RECORD_OVERHEAD_MAX)


class Outcome(Enum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


class Batch(Records):
    """See the module.

    Attributes:
        body: the records as they are written, once the batch is sent or came that way. Dropped when it is done.
        rows: the records of a batch that has failed or was split, for the error to name them.
        created_ms: when its first record came, by a clock that never goes back.
        order: among the batches of a partition; the parts of a split one come in its place.
        queued: whether it waits in its queue; it is on its way otherwise, or has its outcome.
        attempts: how often it was sent.
        retry_ms: not to be sent again before.
        base_sequence: -1 before it is sent for the first time, and without idempotence.
        doubtful: an attempt ended without an answer that says whether it was written.
        was_reset: its sequence was changed after it had been sent.
        base_offset: of the first record; -1 if the broker did not say (acks=0, or a duplicate older than it remembers).
        callbacks: called once when it is done or failed.
        table: a weak reference to what was given out for all records together; None where each has a ticket.
        timestamps: of the records of a batch that is done, if one of them has a ticket then.
        reported: records whose failure was told to the caller.
    """

    __slots__ = (
        "_encoded",
        "_packed",
        "_parts_open",
        "append_time_ms",
        "attempts",
        "base_offset",
        "base_sequence",
        "body",
        "callbacks",
        "created_ms",
        "doubtful",
        "drained_ms",
        "error",
        "in_flight",
        "order",
        "outcome",
        "packed_size",
        "parent",
        "parts",
        "producer_epoch",
        "producer_id",
        "queue",
        "queued",
        "record_errors",
        "reported",
        "retry_ms",
        "rows",
        "table",
        "timestamps",
        "urgent",
        "was_reset",
    )

    def __init__(self, queue: PartitionQueue, now_ms: float, order: tuple[int, ...]) -> None:
        super().__init__()
        self.queue: PartitionQueue = queue
        self.order: tuple[int, ...] = order
        self.queued: bool = False
        self.rows: list[Row] = []
        self.body: bytearray | None = None
        self.created_ms: float = now_ms
        self.drained_ms: float = 0.0
        self.urgent: bool = False
        self.in_flight: bool = False
        self.attempts: int = 0
        self.retry_ms: float = 0.0
        self.producer_id: int = NO_PRODUCER_ID
        self.producer_epoch: int = NO_PRODUCER_EPOCH
        self.base_sequence: int = NO_SEQUENCE
        self.was_reset: bool = False
        self.doubtful: bool = False
        self.outcome: Outcome = Outcome.PENDING
        self.base_offset: int = -1
        self.append_time_ms: int = -1
        self.error: Exception | None = None
        self.record_errors: Sequence[tuple[int, str]] = ()
        self.callbacks: list[Callable[[], object]] = []
        self.table: Callable[[], object] | None = None
        self.timestamps: Sequence[int] = ()
        self.reported: set[int] = set()
        self.parent: Batch | None = None
        self.parts: list[tuple[int, Batch]] = []
        self.packed_size: int = 0
        self._parts_open = 0
        self._packed: bytes | bytearray = b""
        self._encoded: bytearray | None = None

    @property
    def topic(self) -> str:
        return self.queue.topic

    @property
    def partition(self) -> int:
        return self.queue.partition

    @property
    def is_pending(self) -> bool:
        return self.outcome is Outcome.PENDING

    @property
    def has_sequence(self) -> bool:
        return self.base_sequence != NO_SEQUENCE

    @property
    def last_sequence(self) -> int:
        return increment_sequence(self.base_sequence, self.count - 1)

    def set_body(self, body: bytearray, count: int, base_timestamp: int, max_timestamp: int) -> None:
        """Take the records in as they are written. Nothing is added any more."""
        self.body = body
        self.count = count
        self.size: int = len(body)
        self.base_timestamp = base_timestamp
        self.max_timestamp = max_timestamp
        self.closed = True

    def unfold(self) -> list[Row]:
        """Return the rows, which are made now."""
        if not self.rows and (body := self._content()) is not None:
            self.rows = kernels.decode_records(body, self.count, 0, self.base_timestamp, None)
        return self.rows

    def _content(self) -> bytearray | None:
        """The records as they are written; None if they were dropped."""
        if self.body is None:
            self.body = self.take_body()
        return self.body

    def has_ticket(self, index: int) -> bool:
        """Return whether something that was given out for a record is still held."""
        return self.is_held(index) if self.table is None else self.table() is not None

    # -- sending ----------------------------------------------------------------------------------------------------

    def set_producer(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Give the batch its sequence, or another one."""
        if self.has_sequence:
            self.was_reset = True
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence
        # What was built may still be on its way out of this process: it is not touched any more.
        self._encoded = None

    def encode(self, compression: CompressionType, level: int | None, *, transactional: bool) -> bytearray:
        """Return the batch as bytes; the same object until the sequence changes."""
        if self._encoded is not None:
            return self._encoded
        if not self.packed_size:
            body = self._content()
            assert body is not None
            self._packed = compress(compression, body, level) if compression else body
            self.packed_size = len(self._packed)
        self._encoded = wrap_packed(
            self._packed,
            base_offset=0,
            last_offset_delta=self.count - 1,
            record_count=self.count,
            base_timestamp=self.base_timestamp,
            max_timestamp=self.max_timestamp,
            attributes=make_attributes(compression, TimestampType.CREATE_TIME, transactional, False, False),
            producer_id=self.producer_id,
            producer_epoch=self.producer_epoch,
            base_sequence=self.base_sequence,
        )
        return self._encoded

    def split(self, size_max: int) -> list[Batch]:
        """Return the records in batches of `size_max` bytes at most (or of one record), sequences in a row."""
        parts: list[Batch] = []
        start = 0
        for index, (_, timestamp_ms, key, value, headers) in enumerate(self.unfold()):
            size = record_size(key, value, headers)
            if not parts or parts[-1].size + size > size_max:
                part = Batch(self.queue, self.created_ms, (*self.order, len(parts)))
                part.closed = True
                part.parent = self
                part.attempts = self.attempts
                parts.append(part)
                self.parts.append((index, part))
                start = index
            parts[-1].add(timestamp_ms, key, value, headers, size)
        assert start, "a batch of one record cannot be split"
        # Together the parts hold as much memory as was counted for the batch, which is less for one that came encoded.
        left = self.size
        for part in parts:
            part.size = min(part.size, left)
            left -= part.size
        parts[-1].size += left
        if self.has_sequence:
            sequence = self.base_sequence
            for part in parts:
                part.set_producer(self.producer_id, self.producer_epoch, sequence)
                sequence = increment_sequence(sequence, part.count)
        self.rows = []
        self.body = None
        self._packed = b""
        self._encoded = None
        self._parts_open = len(parts)
        return parts

    # -- the outcome ------------------------------------------------------------------------------------------------

    def succeed(self, base_offset: int, append_time_ms: int) -> list[Batch]:
        """Note the acknowledgement; return the batches that are finished by it: this one, and one it was split from."""
        self.base_offset = base_offset
        self.append_time_ms = append_time_ms
        return self._finish(Outcome.DONE)

    def fail(self, error: Exception, record_errors: Sequence[tuple[int, str]] = ()) -> list[Batch]:
        """Note the failure; return the batches that are finished by it."""
        self.error = error
        self.record_errors = record_errors
        return self._finish(Outcome.FAILED)

    def _finish(self, outcome: Outcome) -> list[Batch]:
        assert self.is_pending
        self.outcome = outcome
        self._packed = b""
        self._encoded = None
        self.close()
        if outcome is Outcome.FAILED:
            self.unfold()  # for the error to name them
        parent = self.parent
        # What a ticket may still ask for are the timestamps; the tickets of a part are those of its parent.
        if outcome is Outcome.DONE and self.body is not None and (parent is not None or self.any_held):
            self.timestamps = read_timestamps(self.body, self.count, self.base_timestamp)
        self.body = None
        if parent is None:
            return [self]
        parent._parts_open -= 1
        if parent._parts_open:
            return [self]
        failed = any(part.outcome is Outcome.FAILED for _, part in parent.parts)
        return [self, *parent._finish(Outcome.FAILED if failed else Outcome.DONE)]

    def locate(self, index: int) -> tuple[Batch, int]:
        """Return the batch that holds a record now, and its place there: a part, if this one was split."""
        batch = self
        while batch.parts:
            start, part = next(pair for pair in reversed(batch.parts) if pair[0] <= index)
            batch, index = part, index - start
        return batch, index

    def error_of(self, index: int) -> Exception | None:
        """Return why a record failed; None if it did not. Of a refused batch, records that are not at fault say so."""
        batch, place = self.locate(index)
        if batch.outcome is not Outcome.FAILED:
            return None
        error = batch.error
        if batch.record_errors and isinstance(error, KafkaError):
            for number, text in batch.record_errors:
                if number == place:
                    return InvalidRecordError(text or error.message)
            return InvalidRecordError(
                "The record is not at fault: the broker refused the whole batch because of "
                f"{len(batch.record_errors)} other{'s' if len(batch.record_errors) > 1 else ''} in it."
            )
        return error

    def metadata_of(self, index: int) -> tuple[int, int]:
        """Return (offset, timestamp in ms) of an acknowledged record; the offset is -1 if the broker did not say."""
        batch, place = self.locate(index)
        offset = batch.base_offset + place if batch.base_offset >= 0 else -1
        if batch.append_time_ms >= 0:
            return offset, batch.append_time_ms
        return offset, batch.timestamps[place] if batch.timestamps else -1
