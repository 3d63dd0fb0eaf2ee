"""The three index files beside a segment: offset, time, aborted transactions.

    .index      n x {relative offset i32, position i32}: the last offset of a batch, and where that batch starts
    .timeindex  n x {timestamp i64, relative offset i32}: the largest timestamp so far, and the last offset of its batch
    .txnindex   n x {version i16 = 0, producer id, first offset, last offset, last stable offset: i64}

Entries are sparse (one batch in `index.interval.bytes`), sorted by both fields, and big-endian. They are written
behind: new ones wait in memory until `write` (a roll, a close, every few KiB); after a crash recovery rebuilds them
from the segment, so they need no fsync before the segment is sealed. Nothing is mapped: a lookup is a binary search
with preads, a dozen of them in a full index, and most readers need none (see `PartitionLog.read`).

Offsets here are absolute; files hold them relative to the segment's base offset. Layouts: Kafka's OffsetIndex,
TimeIndex, AbortedTxn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ottla.storage.files import Buffer, File
    from ottla.storage.open_files import OpenFiles

_OFFSET_ENTRY = struct.Struct(">ii")
_TIME_ENTRY = struct.Struct(">qi")
_TRANSACTION_ENTRY = struct.Struct(">hqqqq")
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")
#: Ranges up to this many entries are read at once and searched in memory.
_BLOCK_ENTRIES = 256
#: Waiting entries are written to the file at this size.
_PENDING_BYTES_MAX = 4096


class WouldBlockError(Exception):
    """A `nowait` lookup would have to wait for the disk: do it again off the loop."""


class TimeEntry(NamedTuple):
    """A timestamp and the last offset of the batch that has it as its largest."""

    timestamp: int
    offset: int


class AbortedTransaction(NamedTuple):
    """An entry of the transaction index."""

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


class _SortedFile:
    """Entries of one size, on disk and then in memory, sorted by each of their fields."""

    __slots__ = ("_pinned", "_state", "base_offset", "entry", "is_unsynced", "open_files", "path")

    def __init__(self, open_files: OpenFiles, path: str, base_offset: int, entry: struct.Struct) -> None:
        self.open_files = open_files
        self.path = path
        self.base_offset = base_offset
        self.entry = entry
        #: Whether entries were written since the last `sync`.
        self.is_unsynced = False
        # (entries in the file, entries after them): replaced as one, so that readers on other threads never see an
        # entry twice or not at all. -1: the file was not looked at yet.
        self._state: tuple[int, bytearray] = (-1, bytearray())
        self._pinned: File | None = None

    def _load(self) -> tuple[int, bytearray]:
        state = self._state
        if state[0] < 0:
            try:
                size = self.open_files.files.size(self.path)
            except FileNotFoundError:
                size = 0
            state = self._state = (size // self.entry.size, state[1])
        return state

    def pin(self) -> None:
        """Keep the file open for those who still read it: it is about to lose its name."""
        if self._load()[0]:
            self._pinned = self.open_files.get(self.path)

    @property
    def count(self) -> int:
        """How many entries there are."""
        written, pending = self._load()
        return written + len(pending) // self.entry.size

    def start_empty(self) -> None:
        """Forget all entries and empty the file (made if missing)."""
        files = self.open_files.files
        if not files.exists(self.path) or files.size(self.path):
            self.open_files.forget(self.path)
            files.open(self.path, create=True, truncate=True).close()
        self._state = (0, bytearray())

    def get(self, number: int, *, nowait: bool = False) -> tuple[int, int]:
        """Return entry `number` as it is stored."""
        written, pending = self._load()
        size = self.entry.size
        if number >= written:
            first, second = self.entry.unpack_from(pending, (number - written) * size)
        else:
            first, second = self.entry.unpack(self._read(size, number * size, nowait))
        return first, second

    def _read(self, size: int, position: int, nowait: bool) -> bytes | bytearray | memoryview:
        file = self._pinned or self._open()
        data = file.pread_nowait(size, position) if nowait else file.pread(size, position)
        if data is None:
            raise WouldBlockError(self.path)
        return data

    def _open(self) -> File:
        """Open the file by its name; if a swap has given that to another file meanwhile, the pinned one counts."""
        try:
            file = self.open_files.get(self.path)
        except FileNotFoundError:
            if self._pinned is None:
                raise
            return self._pinned
        return self._pinned or file

    def _last_up_to(
        self, field: struct.Struct, field_at: int, target: int, nowait: bool
    ) -> tuple[int, tuple[int, int]]:
        """Return how many entries have the field `<= target`, and the last of them as it is stored ((0, 0) if none)."""
        written, pending = self._load()
        size = self.entry.size
        unpack_from = field.unpack_from
        if pending and (not written or unpack_from(pending, field_at)[0] <= target):
            return self._last_in(pending, written, field, field_at, target)
        low, high = 0, written
        while high - low > _BLOCK_ENTRIES:
            middle = (low + high) // 2
            data = self._read(field.size, middle * size + field_at, nowait)
            if unpack_from(data, 0)[0] <= target:
                low = middle + 1
            else:
                high = middle
        # The entry before, too: it may be the one that is looked for.
        first = max(low - 1, 0)
        if first == high:
            return 0, (0, 0)
        return self._last_in(self._read((high - first) * size, first * size, nowait), first, field, field_at, target)

    def _last_in(
        self, data: Buffer, number: int, field: struct.Struct, field_at: int, target: int
    ) -> tuple[int, tuple[int, int]]:
        size = self.entry.size
        count = _bisect(data, len(data) // size, size, field.unpack_from, field_at, target)
        if not count:
            return number, (0, 0)
        first, second = self.entry.unpack_from(data, (count - 1) * size)
        return number + count, (first, second)

    def _count_up_to(self, field: struct.Struct, field_at: int, target: int, nowait: bool) -> int:
        return self._last_up_to(field, field_at, target, nowait)[0]

    def _add(self, first: int, second: int) -> None:
        _, pending = self._load()
        pending += self.entry.pack(first, second)
        if len(pending) >= _PENDING_BYTES_MAX:
            try:
                self.write()
            except OSError:
                pass  # the batch is in the log and the entry in memory: the next flush or roll meets the error

    def write(self) -> None:
        """Write waiting entries to the file. On an error they stay in memory and the file as it was."""
        written, pending = self._load()
        if not pending:
            return
        file = self.open_files.files.open(self.path, create=True)
        try:
            file.append(pending)
        except OSError:
            file.truncate(written * self.entry.size)
            raise
        finally:
            file.close()
        self._state = (written + len(pending) // self.entry.size, bytearray())
        self.is_unsynced = True

    def replace(self, entries: Iterable[tuple[int, int]]) -> None:
        """Write other entries, as they are stored, in the place of those that are there, in one step for readers."""
        data = b"".join(self.entry.pack(*entry) for entry in entries)
        self.open_files.files.write_atomic(self.path, data, sync=False)
        self.open_files.forget(self.path)
        self._state = (len(data) // self.entry.size, bytearray())
        self.is_unsynced = True

    def sync(self) -> None:
        """Make the entries in the file durable."""
        if self.is_unsynced:
            self.is_unsynced = False
            try:
                self.open_files.files.sync_file(self.path)
            except OSError:
                self.is_unsynced = True
                raise

    def _keep(self, count: int) -> None:
        """Drop all entries from number `count` on."""
        written, pending = self._load()
        if count >= written:
            del pending[(count - written) * self.entry.size :]
            return
        self.open_files.forget(self.path)
        file = self.open_files.files.open(self.path, create=True)
        try:
            file.truncate(count * self.entry.size)
        finally:
            file.close()
        self._state = (count, bytearray())
        self.is_unsynced = True

    def is_whole(self) -> bool:
        """Whether the file can be an index at all: whole entries, none of them the zeros Kafka preallocates."""
        try:
            size = self.open_files.files.size(self.path)
        except FileNotFoundError:
            return False
        if size % self.entry.size:
            return False
        if self._state[0] < 0:
            self._state = (size // self.entry.size, self._state[1])
        count = self.count
        return count < 2 or self.get(count - 1) > self.get(count - 2)


def _bisect(data: object, count: int, size: int, unpack_from: object, field_at: int, target: int) -> int:
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if unpack_from(data, middle * size + field_at)[0] <= target:  # type: ignore[operator]
            low = middle + 1
        else:
            high = middle
    return low


class OffsetIndex(_SortedFile):
    """From an offset to a position where a batch at or before it starts."""

    __slots__ = ()

    def __init__(self, open_files: OpenFiles, path: str, base_offset: int) -> None:
        super().__init__(open_files, path, base_offset, _OFFSET_ENTRY)

    def add(self, last_offset: int, position: int) -> None:
        """Note the batch that ends with `last_offset` and starts at `position`; both must be larger than before."""
        pending = self._state[1]
        if self._state[0] < 0 or len(pending) >= _PENDING_BYTES_MAX - 8:
            self._add(last_offset - self.base_offset, position)
        else:
            pending += _OFFSET_ENTRY.pack(last_offset - self.base_offset, position)

    def lookup(self, offset: int, *, nowait: bool = False) -> tuple[int, int] | None:
        """Return (last offset, position) of the last entry whose batch ends at or before `offset`; None if there is none."""
        number, (relative, position) = self._last_up_to(_I32, 0, offset - self.base_offset, nowait)
        return (self.base_offset + relative, position) if number else None

    def floor(self, limit: int, *, nowait: bool = False) -> tuple[int, int] | None:
        """Return (last offset, position) of the last entry with a position `<= limit`; None if there is none."""
        number, (relative, position) = self._last_up_to(_I32, 4, limit, nowait)
        return (self.base_offset + relative, position) if number else None

    def next_position(self, position: int) -> int | None:
        """Return the smallest indexed position behind `position`; None if there is none."""
        number = self._count_up_to(_I32, 4, position, False)
        return self.get(number)[1] if number < self.count else None

    def last_entry(self) -> tuple[int, int] | None:
        """Return (last offset, position) of the last entry; None if there is none."""
        count = self.count
        if not count:
            return None
        relative, position = self.get(count - 1)
        return self.base_offset + relative, position

    def truncate_to(self, offset: int) -> None:
        """Drop the entries at `offset` and above."""
        self._keep(self._count_up_to(_I32, 0, offset - self.base_offset - 1, False))

    def entries(self) -> list[tuple[int, int]]:
        """Return all entries as (last offset, position)."""
        return [(self.base_offset + relative, position) for relative, position in map(self.get, range(self.count))]


class TimeIndex(_SortedFile):
    """From a timestamp to an offset at or before which nothing larger was written."""

    __slots__ = ("_last_timestamp",)

    def __init__(self, open_files: OpenFiles, path: str, base_offset: int) -> None:
        super().__init__(open_files, path, base_offset, _TIME_ENTRY)
        self._last_timestamp: int | None = None

    def start_empty(self) -> None:
        super().start_empty()
        self._last_timestamp = -1

    def replace(self, entries: Iterable[tuple[int, int]]) -> None:
        super().replace(entries)
        self._last_timestamp = None

    def maybe_add(self, timestamp: int, offset: int) -> None:
        """Note the largest timestamp so far, unless it is in the index already."""
        last = self._last_timestamp
        if last is None:
            last = self.last_entry().timestamp
        if timestamp > last:
            self._add(timestamp, offset - self.base_offset)
            last = timestamp
        self._last_timestamp = last

    def last_entry(self) -> TimeEntry:
        """Return the last entry, or (-1, base offset) if there is none."""
        count = self.count
        if not count:
            return TimeEntry(-1, self.base_offset)
        timestamp, relative = self.get(count - 1)
        return TimeEntry(timestamp, self.base_offset + relative)

    def lookup(self, timestamp: int, *, nowait: bool = False) -> TimeEntry:
        """Return the last entry with a timestamp `<= timestamp`, or (-1, base offset) if there is none."""
        number, (found, relative) = self._last_up_to(_I64, 0, timestamp, nowait)
        return TimeEntry(found, self.base_offset + relative) if number else TimeEntry(-1, self.base_offset)

    def truncate_to(self, offset: int) -> None:
        """Drop the entries at `offset` and above."""
        self._keep(self._count_up_to(_I32, 8, offset - self.base_offset - 1, False))
        self._last_timestamp = None

    def entries(self) -> list[TimeEntry]:
        """Return all entries."""
        return [TimeEntry(stamp, self.base_offset + relative) for stamp, relative in map(self.get, range(self.count))]


class TransactionIndex:
    """The aborted transactions whose marker lies in this segment, in the order of their markers.

    Short and rare: written at once, kept in memory once read. The file exists only if there is an entry.
    """

    __slots__ = ("_entries", "is_checked", "open_files", "path")

    def __init__(self, open_files: OpenFiles, path: str) -> None:
        self.open_files = open_files
        self.path = path
        #: Whether what the file says was compared with the batches; what this process writes need not be.
        self.is_checked = False
        self._entries: list[AbortedTransaction] | None = None

    def entries(self) -> list[AbortedTransaction]:
        """Return all entries.

        Raises:
            ValueError: the file is no transaction index.
        """
        if self._entries is None:
            files = self.open_files.files
            data = files.read_bytes(self.path) if files.exists(self.path) else b""
            if len(data) % _TRANSACTION_ENTRY.size:
                raise ValueError(f"{self.path}: {len(data)} bytes are no whole number of entries")
            entries = []
            for version, *fields in _TRANSACTION_ENTRY.iter_unpack(data):
                if version != 0:
                    raise ValueError(f"{self.path}: entries of version {version}, this release reads version 0")
                entries.append(AbortedTransaction(*fields))
            self._entries = entries
        return self._entries

    def know_empty(self) -> None:
        """The caller has seen that there is no file."""
        self._entries = []
        self.is_checked = True

    def replace(self, entries: list[AbortedTransaction]) -> None:
        """Write other entries in the place of those that are there."""
        if entries:
            data = b"".join(_TRANSACTION_ENTRY.pack(0, *entry) for entry in entries)
            self.open_files.files.write_atomic(self.path, data)
        elif self.open_files.files.exists(self.path):
            self.open_files.files.remove(self.path)
        self._entries = list(entries)
        self.is_checked = True

    def add(self, entry: AbortedTransaction) -> None:
        """Write an entry behind the others."""
        entries = self.entries()
        file = self.open_files.files.open(self.path, create=True)
        try:
            file.append(_TRANSACTION_ENTRY.pack(0, *entry))
        except OSError:
            file.truncate(len(entries) * _TRANSACTION_ENTRY.size)
            raise
        finally:
            file.close()
        entries.append(entry)

    def truncate_to(self, offset: int) -> None:
        """Drop the transactions whose marker is at `offset` or above."""
        entries = self.entries()
        kept = [entry for entry in entries if entry.last_offset < offset]
        if len(kept) != len(entries):
            file = self.open_files.files.open(self.path, create=True)
            try:
                file.truncate(len(kept) * _TRANSACTION_ENTRY.size)
            finally:
                file.close()
            self._entries = kept

    def start_empty(self) -> None:
        """Forget all entries and remove the file."""
        if self.open_files.files.exists(self.path):
            self.open_files.files.remove(self.path)
        self._entries = []
        self.is_checked = True
