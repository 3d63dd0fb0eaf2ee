"""What an append changes: of the active segment, of its producer, of the log. Plain; `_ends_cy` is the compiled twin.

These are the bases of `Segment`, `ProducerEntry` and `LogAppender`, which do everything else. They hold the state that
every append reads and writes, so that the compiled ones have it as numbers: an object is made of a number only for those who
ask. Nobody else keeps a copy.

All methods are called with the log's lock held, `append_ordinary` takes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla import failpoints
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    ATTRIBUTES_END,
    COMPRESSION_MASK,
    HEADER_SIZE,
    MAX_SEQUENCE,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    OFFSET_LENGTH_EPOCH,
)
from ottla.protocol.records.checksum import crc32c
from ottla.storage.appended import BATCHES_KEPT, NOT_LED, AppendInfo, BatchMetadata
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX
from ottla.storage.validation import is_taken_as_it_is, look_into, ordinary_packed_header

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Buffer, File
    from ottla.storage.index import OffsetIndex, TimeIndex
    from ottla.storage.log import PartitionLog

#: A timestamp that was not looked up yet.
UNKNOWN = 1 - (1 << 63)
#: Behind this offset all appends go the long way: the compiled twin's numbers end not far from there.
_OFFSET_MAX = 1 << 62


class SegmentEnd:
    """The end of a segment: its file, how long it is, what its indexes are to say next.

    Attributes:
        is_warm: whether nothing has to be opened or read before an append.
        max_timestamp_offset: of the record with the largest timestamp, or of the last one in its batch.
        _size: bytes of batches; -1 if nobody has asked yet.
        _reserved: up to where disk space is set aside, or there is no need to think about it.
        _first_timestamp, _max_timestamp: the largest of the first batch, and of all; -1 if there is none, or `UNKNOWN`.
        _bytes_since_index, _index_entries: since the last entry of the indexes, and how many there are, at least.
    """

    __slots__ = (
        "_bytes_since_index",
        "_file",
        "_first_timestamp",
        "_index_entries",
        "_max_timestamp",
        "_offset_index",
        "_reserved",
        "_size",
        "_time_index",
        "base_offset",
        "is_warm",
        "max_timestamp_offset",
    )

    base_offset: int
    is_warm: bool
    max_timestamp_offset: int
    _size: int
    _reserved: int
    _first_timestamp: int
    _max_timestamp: int
    _bytes_since_index: int
    _index_entries: int
    _file: File | None
    _offset_index: OffsetIndex | None
    _time_index: TimeIndex | None

    if TYPE_CHECKING:  # what `Segment` adds, for what is not at hand yet

        @property
        def size(self) -> int: ...
        @property
        def max_timestamp_ms(self) -> int: ...
        @property
        def offset_index(self) -> OffsetIndex: ...
        @property
        def time_index(self) -> TimeIndex: ...
        def open_for_append(self) -> File: ...
        def _reserve(self, file: File, end: int) -> None: ...

    def surely_fits(self, size: int, last_offset: int, max_timestamp: int, config: LogConfig) -> bool:
        """Whether one look shows that a batch belongs into this segment; if not, `rolling.should_roll` decides."""
        return (
            0 < self._size <= config.segment_bytes - size
            and self._first_timestamp >= 0
            and max_timestamp - self._first_timestamp <= config.segment_ms
            and not config.segment_jitter_ms
            and last_offset - self.base_offset <= RELATIVE_OFFSET_MAX
            and self._index_entries < config.segment_index_bytes // 12 - 2
        )

    def append(self, records: Buffer) -> int:
        """Write whole batches at the end and return their position. Follow with `note_batch` for each.

        Raises:
            OSError: a part may have been written: `undo_append`.
        """
        position = self._size if self._size >= 0 else self.size
        file = self._file or self.open_for_append()
        end = position + len(records)
        if end > self._reserved:
            self._reserve(file, end)
        file.append(records)
        self._size = end
        return position

    def note_batch(
        self, position: int, size: int, last_offset: int, max_timestamp: int, index_interval_bytes: int
    ) -> None:
        """Keep the indexes: an entry for the first batch after each `index_interval_bytes`."""
        largest = self._max_timestamp
        if largest == UNKNOWN:
            largest = self.max_timestamp_ms
        if max_timestamp > largest:
            self._max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        if position == 0:
            self._first_timestamp = max_timestamp
        if self._bytes_since_index > index_interval_bytes:
            (self._offset_index or self.offset_index).add(last_offset, position)
            (self._time_index or self.time_index).maybe_add(self._max_timestamp, self.max_timestamp_offset)
            self._bytes_since_index = 0
            # Too high after a truncation, which is harmless: then `is_index_full` looks closer.
            self._index_entries = self._index_entries + 1 if self._index_entries else self.offset_index.count
        self._bytes_since_index += size


class ProducerEnd:
    """What a producer's last batches were.

    Attributes:
        producer_epoch: of all of them.
        current_txn_first_offset: where the open transaction began here; -1 outside of one.
        batches: the newest is the last; at most `BATCHES_KEPT`.
        last_timestamp: of its newest batch.
        last_seen_ms: when it was last heard of by this process: not part of snapshots.
    """

    __slots__ = ("batches", "current_txn_first_offset", "last_seen_ms", "last_timestamp", "producer_epoch")

    producer_epoch: int
    current_txn_first_offset: int
    batches: list[BatchMetadata]
    last_timestamp: int
    last_seen_ms: int

    def is_plainly_next(self, epoch: int, sequence: int) -> bool:
        """Whether one look shows that a batch outside of transactions is the next one; if not, `check_batch` knows."""
        batches = self.batches
        return (
            self.producer_epoch == epoch
            and self.current_txn_first_offset < 0
            and bool(batches)
            and (batches[-1].last_sequence + 1) & MAX_SEQUENCE == sequence
        )

    def take_in(self, sequence: int, delta: int, base_offset: int, timestamp: int, now_ms: int) -> None:
        """Remember a batch of `delta` + 1 records as the newest."""
        batches = self.batches
        if len(batches) >= BATCHES_KEPT:
            del batches[0]
        last_sequence = (sequence + delta) & MAX_SEQUENCE if sequence >= 0 else NO_SEQUENCE
        batches.append(BatchMetadata(last_sequence, base_offset + delta, delta, timestamp))
        self.last_timestamp = timestamp
        self.last_seen_ms = now_ms


class LogEnd:
    """The end of a log: whose appends are taken, and the append that nothing is remarkable about.

    Attributes:
        led_epoch: the leader epoch whose appends are taken, or `NOT_LED`. Set with the lock held, taken back without.
        followed_epoch: the leader epoch in which another broker is followed, or `NOT_LED`, likewise.
    """

    __slots__ = (
        "_epochs",
        "_flusher",
        "_health",
        "_lock",
        "_log",
        "_producers",
        "_reader",
        "_writer",
        "followed_epoch",
        "led_epoch",
    )

    def __init__(self, log: PartitionLog) -> None:
        self.led_epoch = NOT_LED
        self.followed_epoch = NOT_LED
        self._log = log
        self._lock = log.lock
        self._health = log.health
        self._epochs = log.leader_epochs
        self._producers = log.producers
        self._reader = log.reader
        self._writer = log.writer
        self._flusher = log.flusher

    def publish(self, end_offset: int) -> None:
        """Let readers see everything below `end_offset`; ask for a flush where `flush.messages` is reached."""
        log = self._log
        self._producers.end_offset = end_offset
        self._reader.publish(end_offset, log.active_segment)
        log.log_end_offset = end_offset
        if 1 < log.config.flush_messages <= end_offset - self._flusher.recovery_point:
            log.hooks.on_flush_due(log)

    def append_ordinary(self, records: memoryview, leader_epoch: int, now_ms: int) -> AppendInfo | None:
        """Append a client's batch if nothing about it, the producer or this log needs a second look.

        That is so for nearly every batch, and takes half of the time. None: nothing was done; `append_as_leader`
        appends the batch or refuses it. `records`, at least a batch's header, is patched in place.

        Raises:
            KafkaStorageError, StorageError: as for `append_as_leader`.
        """
        lock = self._lock
        if not lock.acquire(False):
            return None
        try:
            log = self._log
            config = log.config
            active = log.active_segment
            size = len(records)
            first = log.log_end_offset
            if (
                self._health.failure is not None
                or failpoints.ENABLED
                or not active.is_warm
                or leader_epoch != self.led_epoch
                or leader_epoch != self._epochs.latest
                or size <= HEADER_SIZE
                or first > _OFFSET_MAX
                or now_ms < 0
            ):
                return None
            packed = records[ATTRIBUTES_END] & COMPRESSION_MASK
            fields: tuple[int, ...] | None
            if packed:
                fields = ordinary_packed_header(records, config)
            else:
                fields, null_keys, smallest = kernels.check_batch(records, crc32c) or (None, 0, 0)
            if fields is None:
                return None
            _, length, _, _, _, attributes, delta, _, max_timestamp, producer_id, producer_epoch, sequence, _ = fields
            end = first + delta + 1
            if attributes != packed or not active.surely_fits(size, end - 1, max_timestamp, config):
                return None
            producer = None
            if producer_id >= 0:
                producer = self._producers.entries.get(producer_id)
                if producer is None or not producer.is_plainly_next(producer_epoch, sequence):
                    return None
            if packed:  # last: unpacking costs more than everything else together
                seen = look_into(records, fields, config)
                if seen is None:
                    return None
                null_keys, smallest = seen
            if not is_taken_as_it_is(records, size, null_keys, smallest, max_timestamp, config, now_ms):
                return None
            OFFSET_LENGTH_EPOCH.pack_into(records, 0, first, length, leader_epoch)
            try:
                position = active.append(records)
            except OSError as error:
                raise self._writer.undo(active, active.size, error) from error
            active.note_batch(position, size, end - 1, max_timestamp, config.index_interval_bytes)
            if producer is not None:
                producer.take_in(sequence, delta, first, max_timestamp, now_ms)
            self._reader.note(first, position)
            self.publish(end)
        finally:
            lock.release()
        return AppendInfo(first, end - 1, NO_TIMESTAMP, log.log_start_offset)
