"""One segment of a log: a .log file of batches and its index files, named by the first offset they may hold.

Knows batches by their headers only, of every format. Bytes that are no batch raise `UnreadableError`, an index that
contradicts the batches `UnreliableIndexError`: no read just ends before the end. Decides nothing about rolling, retention
or validity: it answers the facts those decisions need (`size`, `first_timestamp_ms`, `max_timestamp_ms`, whether an index
is full). Only the last segment of a log is active: it keeps its own descriptor; a sealed one reads through the shared,
bounded `OpenFiles`.

Cheap to create: nothing is opened or read before it is needed, so that a log of thousands of segments opens at once.
Kafka's LogSegment.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import HEADER_SIZE, BatchHeader
from ottla.protocol.records.formats import SIZE_MIN, read_any_header
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX, BatchWalk
from ottla.storage.damage import (
    Damage,
    UnreadableError,
    UnreliableIndexError,
    find_readable,
    first_offset_at,
)
from ottla.storage.ends import UNKNOWN, SegmentEnd
from ottla.storage.index import OffsetIndex, TimeIndex, TransactionIndex, WouldBlockError
from ottla.storage.index_builder import IndexBuilder

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

#: From this size on a segment has space set aside for what comes (`File.reserve`): an eighth of what it has, 8 MiB at most.
RESERVE_FROM = 8 << 20
RESERVE_SHARE = 8
RESERVE_MAX = 8 << 20
#: The end of a segment behind which no other begins yet.
NO_OFFSET_LIMIT = 1 << 63
_NO_RESERVE = (1 << 63) - 1


def link_segments(segments: list[Segment]) -> list[Segment]:
    """Set in each segment of a log, oldest first, where the next one begins; return them."""
    for segment, following in pairwise(segments):
        segment.next_base_offset = following.base_offset
    segments[-1].next_base_offset = NO_OFFSET_LIMIT
    return segments


def file_name(offset: int) -> str:
    """Return the stem of the files of the segment that starts at `offset`: 20 digits."""
    return f"{offset:020d}"


class Segment(SegmentEnd):
    """The batches from `base_offset` up to the next segment's."""

    __slots__ = (
        "_pinned",
        "_transaction_index",
        "are_times_checked",
        "created_ms",
        "damages",
        "directory",
        "is_mended",
        "is_verified",
        "next_base_offset",
        "open_files",
        "suffix",
    )

    def __init__(self, open_files: OpenFiles, directory: str, base_offset: int, *, suffix: str = "") -> None:
        self.open_files = open_files
        self.directory = directory
        self.base_offset = base_offset
        #: "" or, while compaction writes it, ".cleaned" or ".swap".
        self.suffix = suffix
        #: Offsets of this segment are smaller: the next one's base. The log sets it.
        self.next_base_offset = NO_OFFSET_LIMIT
        #: What is known to be unreadable here, by position. Replaced, never changed in place.
        self.damages: tuple[Damage, ...] = ()
        #: Whether `verify` has found that the batches add up; forgotten when they change.
        self.is_verified = False
        #: Whether the last entry of the time index was compared with the batches.
        self.are_times_checked = False
        #: Whether the indexes were built anew by this process: if they are wrong still, it is the batches.
        self.is_mended = False
        self.created_ms = 0
        #: Whether `warm_up` has nothing to do, the file being open.
        self.is_warm = False
        self.max_timestamp_offset = base_offset
        self._size = -1
        self._file = None
        self._pinned = False
        #: Up to where disk space is set aside, or there is no need to think about it.
        self._reserved = 0
        self._first_timestamp = UNKNOWN
        self._max_timestamp = UNKNOWN
        self._bytes_since_index = 0
        self._index_entries = 0
        self._offset_index = None
        self._time_index = None
        self._transaction_index: TransactionIndex | None = None

    def __repr__(self) -> str:
        return f"Segment({self.path(LOG_SUFFIX)})"

    @property
    def name(self) -> str:
        """Directory and number, for messages."""
        return f"{self.directory.rpartition('/')[2]}/{self.base_offset:020d}"

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
        self.is_warm = self.is_verified = self.are_times_checked = True

    def warm_up(self) -> None:
        """Open and read what `note_batch` needs: after the write it is too late for an error.

        Raises:
            OSError: nothing has changed.
            UnreliableIndexError: an index has to be built anew first.
        """
        if not (self.offset_index.is_whole() and self.time_index.is_whole()) and not self.is_mended:
            raise UnreliableIndexError(self, "an index is not whole")
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

    def _reserve(self, file: File, end: int) -> None:
        """Set space aside for what comes after `end`, in proportion to what is there: a small log claims none."""
        size = min(end // RESERVE_SHARE, RESERVE_MAX)
        if end < RESERVE_FROM:
            self._reserved = RESERVE_FROM
        elif file.reserve(size, end):
            self._reserved = end + size
        else:
            self._reserved = _NO_RESERVE  # not here: do not ask again

    def _release_reserve(self) -> None:
        if self._reserved > RESERVE_FROM and self._file is not None:
            self._file.release_reserve()
        self._reserved = 0

    def undo_append(self, size: int) -> None:
        """Cut off what a failed append left behind `size`."""
        self.open_for_append().truncate(size)
        self._size = size
        self._reserved = 0

    def finish(self) -> None:
        """Add the final time entry and write the indexes, give back space that was set aside: on a roll and on close."""
        self._release_reserve()
        if self._max_timestamp != UNKNOWN:  # else nothing was appended since it was opened
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
        if self._first_timestamp == UNKNOWN:
            if not self.size:
                return -1
            try:
                self._first_timestamp = self.header_at(0, nowait=False).max_timestamp
            except ValueError:
                return -1  # unreadable: what reads on reports it
        return self._first_timestamp

    @property
    def max_timestamp_ms(self) -> int:
        """The largest timestamp of all batches; -1 if there is none."""
        if self._max_timestamp == UNKNOWN:
            entry = self.time_index.last_entry()
            self._max_timestamp, self.max_timestamp_offset = entry
        return self._max_timestamp

    @property
    def largest_timestamp_ms(self) -> int:
        """What time retention goes by: the largest timestamp, or the file's time if the batches have none."""
        timestamp = self.max_timestamp_ms
        return timestamp if timestamp >= 0 else self.open_files.files.mtime_ms(self.path(LOG_SUFFIX))

    def is_index_full(self, config: LogConfig) -> bool:
        """Whether an index has no room for another entry (the time index: for two, one is kept for the roll)."""
        limit = config.segment_index_bytes
        if self._index_entries < limit // 12 - 2:
            return False
        return self.offset_index.count >= limit // 8 or self.time_index.count >= limit // 12 - 1

    # Reading

    def read_at(self, size: int, position: int, nowait: bool) -> Buffer:
        """Return the bytes at `position`, fewer than `size` at the end of the file.

        Raises:
            WouldBlockError: with `nowait`: they are not in memory.
        """
        file = self.file
        data = file.pread_nowait(size, position) if nowait else file.pread(size, position)
        if data is None:
            raise WouldBlockError(self.path(LOG_SUFFIX))
        return data

    def header_at(self, position: int, nowait: bool) -> BatchHeader:
        """Return the header of the batch at `position`.

        Raises:
            ValueError: no whole batch begins there; the text says why.
            WouldBlockError: with `nowait`: it is not in memory.
        """
        left = self.size - position
        if left < SIZE_MIN:
            raise ValueError(f"{left} bytes are left, too few for a batch")
        return read_any_header(self.read_at(min(left, HEADER_SIZE), position, nowait), 0, left)

    def position_before(self, offset: int, *, nowait: bool = False) -> int:
        """Return an indexed position at or before the batch that holds `offset`; 0 if the index knows none.

        Raises:
            UnreliableIndexError: there is no such batch at that position.
            WouldBlockError: with `nowait`: call again off the loop.
        """
        if offset <= self.base_offset:
            return 0
        return self.trusted_position(self.offset_index.lookup(offset, nowait=nowait), nowait)

    def trusted_position(self, entry: tuple[int, int] | None, nowait: bool) -> int:
        """Return the position that an entry of the offset index names, 0 for None.

        Raises:
            UnreliableIndexError: no batch that fits to the offset of the entry begins there.
            UnreadableError: the same, though the index was built anew by this process.
        """
        if entry is None:
            return 0
        last_offset, position = entry
        try:
            if position < 0:
                raise ValueError("no byte is")
            header = self.header_at(position, nowait)
        except ValueError as error:
            raise self.wrong_index(position, f"the index names byte {position}, but there {error}") from None
        # Older releases of Kafka made one entry for several batches: the first one's position, the last one's offset.
        if not self.base_offset <= header.base_offset <= last_offset < self.next_base_offset:
            raise self.wrong_index(
                position,
                f"the index says offset {last_offset} for byte {position}, where offset {header.base_offset} begins",
            )
        return position

    def wrong_index(self, position: int, reason: str) -> UnreliableIndexError | UnreadableError:
        """Return what to raise where the offset index names `position`, and the batches say otherwise."""
        if self.is_mended:  # it was built from the batches: they have changed since
            return UnreadableError(self, position, self.base_offset, reason)
        return UnreliableIndexError(self, reason)

    def readable_end(self, start: int) -> int:
        """Return where the batches that follow `start` end: at the end, or where something unreadable is known."""
        for damage in self.damages:
            if damage.position >= start:
                return damage.position
        return self.size

    def headers(self, start: int = 0, *, lower: int | None = None) -> Iterator[tuple[int, BatchHeader]]:
        """Yield (position, header) of each batch, reading only what the headers need where batches are large.

        Args:
            start: where the first one begins.
            lower: no offset is smaller. None: as the first batch says, or at the start of the file the base offset.

        Raises:
            UnreadableError: in the place of what cannot be read.
        """
        return self._walk(start, lower).headers(start)

    def batches(self, start: int = 0, *, lower: int | None = None) -> Iterator[tuple[int, BatchHeader, memoryview]]:
        """Yield (position, header, bytes) of each batch, in big reads. The bytes are a view: use them at once.

        Raises:
            UnreadableError: as `headers`.
        """
        return self._walk(start, lower).batches(start)

    def _walk(self, start: int, lower: int | None) -> BatchWalk:
        return BatchWalk(self, self.size, self.base_offset if lower is None and not start else lower)

    # What cannot be read

    def headers_around_damage(
        self, start: int = 0, *, end_offset: int = 0
    ) -> Iterator[tuple[int, BatchHeader] | Damage]:
        """Yield (position, header) of each readable batch, and a `Damage` in the place of what is not.

        `end_offset`: as in `extent_of`.
        """
        lower: int | None = None
        while True:
            try:
                yield from self.headers(start, lower=lower)
                return
            except UnreadableError as error:
                damage = self.extent_of(error, end_offset=end_offset)
            yield damage
            start, lower = damage.end, damage.next_offset
            if start >= self.size:
                return

    def extent_of(self, error: UnreadableError, *, end_offset: int = 0) -> Damage:
        """Return how far the damage reaches: to the next intact batch, else to the end. May read much: off the loop.

        Args:
            error: where reading met it.
            end_offset: where the log ends, in case that no segment follows and nothing readable does either. Unless it is
                known, such damage takes no offsets.
        """
        position, first_offset, size = error.position, error.first_offset, self.size
        upper = min(self.next_base_offset, self.base_offset + RELATIVE_OFFSET_MAX + 1)
        file = self.file
        found: tuple[int, int] | None = None
        if error.resume is not None:
            if error.resume < size:
                found = error.resume, first_offset_at(file, error.resume, self.header_at(error.resume, nowait=False))
        else:
            # Most often the next entry of the index bounds what has to be searched.
            bound = self.offset_index.next_position(position)
            if bound is not None and bound < size:
                found = find_readable(file, position + 1, bound + SIZE_MIN, size, first_offset, upper)
            if found is None:
                found = find_readable(file, position + 1, size, size, first_offset, upper)
        if found is None:
            behind = self.next_base_offset if self.next_base_offset < NO_OFFSET_LIMIT else min(end_offset, upper)
            return Damage(position, size, first_offset, max(behind, first_offset), error.reason)
        return Damage(position, found[0], first_offset, found[1], error.reason)

    def end_offset(self) -> int:
        """Return the offset behind the last batch that can be read."""
        end = self.base_offset
        for item in self.headers_around_damage(self._safe_position_before(self.next_base_offset - 1)):
            end = item.next_offset if isinstance(item, Damage) else item[1].next_offset
        return end

    def end_position(self) -> int:
        """Return the position behind the last batch that can be read."""
        end = 0
        for item in self.headers_around_damage(self._safe_position_before(self.next_base_offset - 1)):
            if not isinstance(item, Damage):
                end = item[0] + item[1].size
        return end

    def is_known_damage(self, position: int) -> bool:
        """Whether what is unreadable at `position` has been noted."""
        return any(damage.position <= position < max(damage.end, damage.position + 1) for damage in self.damages)

    def is_damaged_at(self, offset: int) -> bool:
        """Whether `offset` lies in what is known to be unreadable."""
        return any(damage.first_offset <= offset < self.offset_behind(damage) for damage in self.damages)

    def offset_behind(self, damage: Damage) -> int:
        """Return the first offset behind some damage: where it reaches the end of a sealed segment, the next one's base."""
        if damage.end < self.size or self.next_base_offset == NO_OFFSET_LIMIT:
            return damage.next_offset
        return max(damage.next_offset, self.next_base_offset)

    def note_damage(self, damage: Damage) -> None:
        """Remember what is unreadable: reads go around it from now on."""
        self.damages = tuple(sorted({*self.damages, damage}))
        self.is_verified = False

    # Changing

    def start_indexes_empty(self) -> None:
        """Forget what all three indexes say: the caller notes every batch again."""
        self.offset_index.start_empty()
        self.time_index.start_empty()
        self.transaction_index.start_empty()
        self._reset_notes()

    def rebuild_indexes(self, index_interval_bytes: int) -> None:
        """Write offset and time index of a sealed segment anew; what cannot be read is noted."""
        builder = IndexBuilder(self, index_interval_bytes)
        builder.read()
        builder.seal()
        self.adopt_indexes(builder)

    def adopt_indexes(self, builder: IndexBuilder) -> None:
        """Put indexes in force that were built anew, and note the damage that was met."""
        for damage in builder.damages:
            if not self.is_known_damage(damage.position):
                self.note_damage(damage)
        self.offset_index.replace(builder.offsets)
        self.time_index.replace(builder.times)
        self._max_timestamp, self.max_timestamp_offset = builder.largest_timestamp, builder.largest_offset
        self._bytes_since_index = builder.since_entry
        self._index_entries = len(builder.offsets)
        self.is_mended = self.are_times_checked = True

    def _reset_notes(self) -> None:
        self._max_timestamp = -1
        self.max_timestamp_offset = self.base_offset
        self._first_timestamp = UNKNOWN
        self._bytes_since_index = 0
        self.is_mended = self.are_times_checked = True

    def truncate_to(self, offset: int) -> int:
        """Drop the batch that holds `offset` and all behind it; return the offset behind the last batch that stays."""
        position, end_offset = self._cut_at(offset)
        if position >= self.size:
            return end_offset
        self.open_for_append().truncate(position)
        self._size = position
        self._reserved = 0
        self.damages = tuple(damage for damage in self.damages if damage.position < position)
        self.offset_index.truncate_to(offset)
        self.time_index.truncate_to(offset)
        self.transaction_index.truncate_to(offset)
        self._bytes_since_index = 0
        entry = self.time_index.last_entry()
        self._max_timestamp, self.max_timestamp_offset = entry
        if not self._size:
            self._first_timestamp = UNKNOWN
        # A timestamp larger than the last entry may lie behind it.
        for item in self.headers_around_damage(self._safe_position_before(entry.offset)):
            if not isinstance(item, Damage) and item[1].max_timestamp > self._max_timestamp:
                self._max_timestamp, self.max_timestamp_offset = item[1].max_timestamp, item[1].last_offset
        return end_offset

    def _cut_at(self, offset: int) -> tuple[int, int]:
        """Return where the batch that holds `offset`, or what cannot be read there, begins, and the offset before it."""
        position = end_offset = 0
        for item in self.headers_around_damage(self._safe_position_before(offset)):
            if isinstance(item, Damage):
                if item.next_offset > offset:
                    return item.position, item.first_offset
                position, end_offset = item.end, item.next_offset
            else:
                at, header = item
                if header.last_offset >= offset:
                    return at, end_offset or header.base_offset
                position, end_offset = at + header.size, header.next_offset
        return position, end_offset or self.base_offset

    def _safe_position_before(self, offset: int) -> int:
        try:
            return self.position_before(offset)
        except UnreliableIndexError:
            return 0
