"""One segment of a log: a .log file of batches and its index files, named by the first offset they may hold.

Knows batches by their headers only. Decides nothing about rolling, retention or validity: it answers the facts those
decisions need (`size`, `first_timestamp_ms`, `max_timestamp_ms`, whether an index is full). Only the last segment of a
log is active: it keeps its own descriptor; a sealed one reads through the shared, bounded `OpenFiles`.

Cheap to create: nothing is opened or read before it is needed, so that a log of thousands of segments opens at once.
Kafka's LogSegment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import HEADER_SIZE, LOG_OVERHEAD, BatchHeader, iter_headers, read_header
from ottla.storage.index import OffsetIndex, TimeIndex, TransactionIndex, WouldBlockError

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.storage.files import Buffer, File
    from ottla.storage.open_files import OpenFiles

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
TRANSACTION_INDEX_SUFFIX = ".txnindex"
SNAPSHOT_SUFFIX = ".snapshot"
DELETED_SUFFIX = ".deleted"
CLEANED_SUFFIX = ".cleaned"
SWAP_SUFFIX = ".swap"
SEGMENT_SUFFIXES = (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX)
#: Offsets in an index are int32 relative to the base.
RELATIVE_OFFSET_MAX = 0x7FFFFFFF

#: base offset, batch length, last offset delta: all that finding a place needs.
_PLACE = struct.Struct(">qi11xi")
#: From this size on a segment has space set aside for what comes (`File.reserve`): an eighth of what it has, 8 MiB at most.
RESERVE_FROM = 8 << 20
RESERVE_SHARE = 8
RESERVE_MAX = 8 << 20
_SCAN_BYTES = 4096
_READ_BYTES = 1 << 20


def file_name(offset: int) -> str:
    """Return the stem of the files of the segment that starts at `offset`: 20 digits."""
    return f"{offset:020d}"


class Segment:
    """The batches from `base_offset` up to the next segment's."""

    __slots__ = (
        "_bytes_since_index",
        "_file",
        "_first_timestamp",
        "_index_entries",
        "_max_timestamp",
        "_offset_index",
        "_pinned",
        "_reserved",
        "_size",
        "_time_index",
        "_transaction_index",
        "base_offset",
        "created_ms",
        "directory",
        "is_warm",
        "max_timestamp_offset",
        "open_files",
        "suffix",
    )

    def __init__(self, open_files: OpenFiles, directory: str, base_offset: int, *, suffix: str = "") -> None:
        self.open_files = open_files
        self.directory = directory
        self.base_offset = base_offset
        #: "" or, while compaction writes it, ".cleaned" or ".swap".
        self.suffix = suffix
        self.created_ms = 0
        #: Whether `warm_up` has nothing to do, the file being open.
        self.is_warm = False
        self.max_timestamp_offset = base_offset
        self._size = -1
        self._file: File | None = None
        self._pinned = False
        #: Up to where disk space is set aside, or there is no need to think about it.
        self._reserved = 0
        self._first_timestamp: int | None = None
        self._max_timestamp: int | None = None
        self._bytes_since_index = 0
        self._index_entries = 0
        self._offset_index: OffsetIndex | None = None
        self._time_index: TimeIndex | None = None
        self._transaction_index: TransactionIndex | None = None

    def __repr__(self) -> str:
        return f"Segment({self.path(LOG_SUFFIX)})"

    def path(self, kind: str) -> str:
        """Return the path of one of the segment's files, for example `path(".log")`."""
        return f"{self.directory}/{self.base_offset:020d}{kind}{self.suffix}"

    def paths(self) -> list[str]:
        """Return the paths of all files the segment may have."""
        return [self.path(kind) for kind in SEGMENT_SUFFIXES]

    # Files

    @property
    def size(self) -> int:
        """Bytes of batches."""
        if self._size < 0:
            self._size = self.open_files.files.size(self.path(LOG_SUFFIX))
        return self._size

    def create(self, now_ms: int) -> None:
        """Make the files, empty, and open the log for appending."""
        self._file = self.open_files.files.open(self.path(LOG_SUFFIX), create=True, truncate=True)
        self._size = 0
        self.created_ms = now_ms
        self.open_files.forget(self.path(LOG_SUFFIX))
        self.offset_index.start_empty()
        self.time_index.start_empty()
        self.transaction_index.start_empty()
        self._max_timestamp = -1
        self.is_warm = True

    def warm_up(self) -> None:
        """Open and read what `note_batch` needs: after the write it is too late for an error.

        Raises:
            OSError: nothing has changed.
        """
        self.open_for_append()
        _ = self.max_timestamp_ms, self.offset_index.count, self.time_index.count
        self.time_index.maybe_add(-1, self.base_offset)  # adds nothing, learns what is there
        self.is_warm = True

    def open_for_append(self) -> File:
        """Return the writable file of an active segment, opened now if it was not."""
        file = self._file
        if file is None:
            file = self._file = self.open_files.files.open(self.path(LOG_SUFFIX), create=True)
            self.open_files.forget(self.path(LOG_SUFFIX))
            file.release_reserve()
        return file

    @property
    def file(self) -> File:
        """The log file, open for reading at least."""
        if self._file is not None:
            return self._file
        try:
            file = self.open_files.get(self.path(LOG_SUFFIX))
        except FileNotFoundError:
            if self._file is None:
                raise
            return self._file
        # A swap may have given the name to another file since we looked; then this segment was pinned before.
        return self._file or file

    @property
    def offset_index(self) -> OffsetIndex:
        if self._offset_index is None:
            self._offset_index = OffsetIndex(self.open_files, self.path(INDEX_SUFFIX), self.base_offset)
        return self._offset_index

    @property
    def time_index(self) -> TimeIndex:
        if self._time_index is None:
            self._time_index = TimeIndex(self.open_files, self.path(TIME_INDEX_SUFFIX), self.base_offset)
        return self._time_index

    @property
    def transaction_index(self) -> TransactionIndex:
        if self._transaction_index is None:
            self._transaction_index = TransactionIndex(self.open_files, self.path(TRANSACTION_INDEX_SUFFIX))
        return self._transaction_index

    # Writing

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

    def _reserve(self, file: File, end: int) -> None:
        """Set space aside for what comes after `end`, in proportion to what is there: a small log claims none."""
        size = min(end // RESERVE_SHARE, RESERVE_MAX)
        if end < RESERVE_FROM:
            self._reserved = RESERVE_FROM
        elif file.reserve(size, end):
            self._reserved = end + size
        else:
            self._reserved = 1 << 63  # not here: do not ask again

    def _release_reserve(self) -> None:
        if self._reserved > RESERVE_FROM and self._file is not None:
            self._file.release_reserve()
        self._reserved = 0

    def undo_append(self, size: int) -> None:
        """Cut off what a failed append left behind `size`."""
        self.open_for_append().truncate(size)
        self._size = size
        self._reserved = 0

    def note_batch(
        self, position: int, size: int, last_offset: int, max_timestamp: int, index_interval_bytes: int
    ) -> None:
        """Keep the indexes: an entry for the first batch after each `index_interval_bytes`."""
        largest = self._max_timestamp
        if largest is None:
            largest = self.max_timestamp_ms
        if max_timestamp > largest:
            self._max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        if position == 0:
            self._first_timestamp = max_timestamp
        if self._bytes_since_index > index_interval_bytes:
            (self._offset_index or self.offset_index).add(last_offset, position)
            (self._time_index or self.time_index).maybe_add(self._max_timestamp or 0, self.max_timestamp_offset)
            self._bytes_since_index = 0
            # Too high after a truncation, which is harmless: then `is_index_full` looks closer.
            self._index_entries = self._index_entries + 1 if self._index_entries else self.offset_index.count
        self._bytes_since_index += size

    def finish(self) -> None:
        """Add the final time entry and write the indexes, give back space that was set aside: on a roll and on close."""
        self._release_reserve()
        if self._max_timestamp is not None:  # else nothing was appended since it was opened
            if self._max_timestamp >= 0:
                self.time_index.maybe_add(self._max_timestamp, self.max_timestamp_offset)
            self.offset_index.write()
            self.time_index.write()

    def sync(self, *, with_indexes: bool = True) -> None:
        """Make a sealed segment durable, indexes included."""
        self.open_for_append().datasync()
        if with_indexes:
            self.sync_indexes()

    @property
    def has_unsynced_indexes(self) -> bool:
        """Whether `sync_indexes` has anything to do."""
        offset_index, time_index = self._offset_index, self._time_index
        return bool((offset_index and offset_index.is_unsynced) or (time_index and time_index.is_unsynced))

    def sync_indexes(self) -> None:
        """Make the index files durable. Those of an active segment need it on close only: recovery rebuilds them."""
        self.offset_index.sync()
        self.time_index.sync()
        if self.transaction_index.entries():
            self.open_files.files.sync_file(self.transaction_index.path)

    def release(self) -> None:
        """Hand the descriptor of a sealed segment to the bounded cache."""
        self.is_warm = False
        file, self._file = self._file, None
        if file is not None:
            self.open_files.adopt(self.path(LOG_SUFFIX), file)

    def close(self) -> None:
        """Close what is open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self.forget()

    def forget(self) -> None:
        """Drop cached descriptors: before a rename or a removal."""
        self.is_warm = False
        self._file = None
        for path in self.paths():
            self.open_files.forget(path)

    def pin(self) -> None:
        """Keep all files open for readers that hold this segment still, before its files get other names."""
        self._file = self.file
        self.offset_index.pin()
        self.time_index.pin()
        self.transaction_index.entries()
        self._pinned = True

    def rename(self, suffix: str) -> None:
        """Give all files another suffix, the .log first as Kafka does: `recovery` relies on the order."""
        files = self.open_files.files
        old, file = self.paths(), self._file
        self.forget()
        if self._pinned:
            self._file = file
        self.suffix = suffix
        for source, target in zip(old, self.paths(), strict=True):
            if files.exists(source):
                files.rename(source, target)
            self.open_files.forget(target)
        if not self._pinned:
            self._offset_index = self._time_index = self._transaction_index = None

    def remove(self) -> None:
        """Delete the files."""
        self.forget()
        for path in self.paths():
            if self.open_files.files.exists(path):
                self.open_files.files.remove(path)

    # Facts for rolling and retention

    @property
    def first_timestamp_ms(self) -> int:
        """The largest timestamp of the first batch, from which `segment.ms` counts; -1 if there is none."""
        if self._first_timestamp is None:
            if not self.size:
                return -1
            self._first_timestamp = read_header(self.file.pread(HEADER_SIZE, 0)).max_timestamp
        return self._first_timestamp

    @property
    def max_timestamp_ms(self) -> int:
        """The largest timestamp of all batches; -1 if there is none."""
        if self._max_timestamp is None:
            entry = self.time_index.last_entry()
            self._max_timestamp, self.max_timestamp_offset = entry
        return self._max_timestamp

    @property
    def largest_timestamp_ms(self) -> int:
        """What time retention goes by: the largest timestamp, or the file's time if the batches have none."""
        timestamp = self.max_timestamp_ms
        return timestamp if timestamp >= 0 else self.open_files.files.mtime_ms(self.path(LOG_SUFFIX))

    def surely_fits(self, size: int, last_offset: int, max_timestamp: int, config: LogConfig) -> bool:
        """Whether one look tells that a batch belongs into this segment; if not, `rolling.should_roll` decides."""
        first_timestamp = self._first_timestamp
        return (
            0 < self._size <= config.segment_bytes - size
            and first_timestamp is not None
            and first_timestamp >= 0
            and max_timestamp - first_timestamp <= config.segment_ms
            and not config.segment_jitter_ms
            and last_offset - self.base_offset <= RELATIVE_OFFSET_MAX
            and self._index_entries < config.segment_index_bytes // 12 - 2
        )

    def is_index_full(self, config: LogConfig) -> bool:
        """Whether an index has no room for another entry (the time index: for two, one is kept for the roll)."""
        limit = config.segment_index_bytes
        if self._index_entries < limit // 12 - 2:
            return False
        return self.offset_index.count >= limit // 8 or self.time_index.count >= limit // 12 - 1

    # Reading

    def _read(self, size: int, position: int, nowait: bool) -> Buffer:
        file = self.file
        data = file.pread_nowait(size, position) if nowait else file.pread(size, position)
        if data is None:
            raise WouldBlockError(self.path(LOG_SUFFIX))
        return data

    def locate(self, offset: int, end: int, *, nowait: bool = False) -> tuple[int, int] | None:
        """Return (position, base offset) of the first batch that ends at `offset` or later; None if there is none.

        Args:
            offset: what is looked for.
            end: where the batches end; what lies behind is not looked at.
            nowait: raise `WouldBlockError` instead of waiting for the disk.
        """
        position = self.offset_index.lookup(offset, nowait=nowait) if offset > self.base_offset else 0
        return self._scan_to(offset, position, end, nowait)

    def _scan_to(self, offset: int, position: int, end: int, nowait: bool) -> tuple[int, int] | None:
        unpack_from = _PLACE.unpack_from
        while end - position >= HEADER_SIZE:
            want = min(_SCAN_BYTES, end - position)
            data = self._read(want, position, nowait)
            at, limit = 0, len(data) - HEADER_SIZE
            if limit < 0:
                return None
            while at <= limit:
                base, length, delta = unpack_from(data, at)
                if base + delta >= offset:
                    return position + at, base
                if length < HEADER_SIZE - LOG_OVERHEAD:
                    return None
                at += LOG_OVERHEAD + length
            position += at
        return None

    def end_of_slice(
        self, start: int, limit: int, upper_offset: int, *, min_one: bool, nowait: bool = False
    ) -> tuple[int, int]:
        """Return (position, next offset) where a slice from `start` ends: whole batches up to `limit` bytes.

        Batches that reach `upper_offset` are left out. With `min_one` the first batch comes even if it crosses `limit`.
        """
        position = start
        if limit - start > _SCAN_BYTES:
            position = self.offset_index.floor_position(limit, nowait=nowait)
            if upper_offset <= self.base_offset + RELATIVE_OFFSET_MAX:
                position = min(position, self.offset_index.lookup(upper_offset - 1, nowait=nowait))
            position = max(position, start)
        size = self.size
        base = -1
        while size - position >= HEADER_SIZE:
            data = self._read(min(_SCAN_BYTES, size - position), position, nowait)
            at, last = 0, len(data) - HEADER_SIZE
            if last < 0:
                break
            while at <= last:
                base, length, delta = _PLACE.unpack_from(data, at)
                end = position + at + LOG_OVERHEAD + length
                if base + delta >= upper_offset or length < HEADER_SIZE - LOG_OVERHEAD or end > size:
                    return position + at, base
                if end > limit and not (min_one and position + at == start):
                    return position + at, base
                base += delta + 1
                at += LOG_OVERHEAD + length
                if end >= limit:
                    return end, base
            position += at
        return position, base

    def headers(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, BatchHeader]]:
        """Yield (position, header) of each batch, reading only what the headers need where batches are large."""
        limit = self.size if end is None else end
        file = self.file
        position = start
        while limit - position >= HEADER_SIZE:
            data = file.pread(min(65536, limit - position), position)
            at, last = 0, len(data) - HEADER_SIZE
            if last < 0:
                return
            while at <= last:
                header = read_header(data, at)
                if header.batch_length < HEADER_SIZE - LOG_OVERHEAD or position + at + header.size > limit:
                    return
                yield position + at, header
                at += header.size
            position += at

    def batches(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, BatchHeader, memoryview]]:
        """Yield (position, header, bytes) of each whole batch, in big reads. The bytes are a view: use them at once."""
        limit = self.size if end is None else end
        file = self.file
        position = start
        want = _READ_BYTES
        while limit - position >= HEADER_SIZE:
            data = file.pread(min(want, limit - position), position)
            view = memoryview(data)
            at = 0
            for at_batch, header in iter_headers(data):
                at = at_batch + header.size
                yield position + at_batch, header, view[at_batch:at]
            if at:
                position += at
                want = _READ_BYTES
            else:  # not one whole batch: a larger read, a broken length, or the torn end
                size = read_header(data).size if len(data) >= HEADER_SIZE else 0
                if size < HEADER_SIZE or size > limit - position or size <= len(data):
                    return
                want = size

    # Changing

    def start_indexes_empty(self) -> None:
        """Forget what all three indexes say: the caller notes every batch again."""
        self.offset_index.start_empty()
        self.time_index.start_empty()
        self.transaction_index.start_empty()
        self._reset_notes()

    def rebuild_indexes(self, index_interval_bytes: int) -> None:
        """Write offset and time index anew from the batches."""
        self.offset_index.start_empty()
        self.time_index.start_empty()
        self._reset_notes()
        for position, header in self.headers():
            self.note_batch(position, header.size, header.last_offset, header.max_timestamp, index_interval_bytes)
        self.finish()

    def _reset_notes(self) -> None:
        self._max_timestamp = -1
        self.max_timestamp_offset = self.base_offset
        self._first_timestamp = None
        self._bytes_since_index = 0

    def truncate_to(self, offset: int) -> None:
        """Drop the batch that holds `offset` and all behind it."""
        found = self.locate(offset, self.size)
        if found is None:
            return
        self.open_for_append().truncate(found[0])
        self._size = found[0]
        self._reserved = 0
        self.offset_index.truncate_to(offset)
        self.time_index.truncate_to(offset)
        self.transaction_index.truncate_to(offset)
        self._bytes_since_index = 0
        entry = self.time_index.last_entry()
        self._max_timestamp, self.max_timestamp_offset = entry
        if not self._size:
            self._first_timestamp = None
        # A timestamp larger than the last entry may lie behind it.
        start = self.offset_index.lookup(entry.offset)
        for _, header in self.headers(start):
            if header.max_timestamp > self._max_timestamp:
                self._max_timestamp, self.max_timestamp_offset = header.max_timestamp, header.last_offset
