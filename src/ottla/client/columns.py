"""Records as columns: buffers that kernels write into, and which rows are of which partition.

A slab is the memory of one batch. It goes back to its pool, and is written again, once nothing holds it any more: neither
the batch nor an Arrow library that was given its addresses (`arrow`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic

from ottla.client.consumed import K, Record, Row, Source, V, make_records
from ottla.protocol.records import column_kernels
from ottla.protocol.records._columns_plain import HEADERS_FULL, KEYS_FULL, ROWS_FULL, VALUES_FULL, Used
from ottla.protocol.records.builder import Record as BuiltRecord
from ottla.protocol.records.builder import build_batch
from ottla.protocol.records.checksum import crc32c

#: Rows, and bytes of each kind, that a slab has room for at first; it doubles.
_ROWS_MIN: Final = 4096
_BYTES_MIN: Final = 1 << 16
#: Slabs that a pool keeps, and the bytes that one of them may have.
_KEPT: Final = 3
_KEPT_BYTES_MAX: Final = 256 << 20

_KEYS, _VALUES, _HEADERS = 4, 7, 9
#: Which buffer is too small.
_FULL: Final = {KEYS_FULL: _KEYS, VALUES_FULL: _VALUES, HEADERS_FULL: _HEADERS}
#: No offset is as large.
NO_END: Final = (1 << 63) - 1

Buffers = tuple[bytearray, ...]


class Pool:
    """Memory of slabs that are not used any more."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[Buffers] = []

    def take(self) -> Slab:
        """Return a slab; what is in it is of no meaning."""
        try:
            buffers = self._free.pop()
        except IndexError:
            sizes = (8, 8, 8, 0, 0, 8, 0, 0, 8, 0)
            buffers = tuple(
                bytearray(size * (_ROWS_MIN + 8) if size else _ROWS_MIN // 8 if number in (3, 6) else _BYTES_MIN)
                for number, size in enumerate(sizes)
            )
        return Slab(self, buffers)

    def give_back(self, buffers: Buffers) -> None:
        if len(self._free) < _KEPT and sum(map(len, buffers)) <= _KEPT_BYTES_MAX:
            self._free.append(buffers)


class Slab:
    """The buffers of one batch, as `_columns_plain` describes them. What refers to it keeps it from being reused."""

    __slots__ = ("__weakref__", "_pool", "buffers")

    def __init__(self, pool: Pool, buffers: Buffers) -> None:
        self._pool = pool
        self.buffers: Buffers = buffers

    def __del__(self) -> None:
        self._pool.give_back(self.buffers)


class Columns(Generic[K, V]):
    """Records of one or more partitions, as columns, while they are gathered and after that.

    Attributes:
        slab: the memory.
        used: (rows, bytes of keys, of values, of headers).
        runs: (first row, what its records have in common), one after the other.
    """

    __slots__ = ("runs", "slab", "used")

    def __init__(self, pool: Pool) -> None:
        self.slab: Slab = pool.take()
        self.used: Used = (0, 0, 0, 0)
        self.runs: list[tuple[int, Source[K, V]]] = []

    def __len__(self) -> int:
        return self.used[0]

    def clear(self) -> None:
        """Forget the records; for one whose memory nothing else refers to."""
        self.used = (0, 0, 0, 0)
        self.runs = []

    def begin(self, source: Source[K, V]) -> None:
        """What is added from now on is of this source."""
        if self.runs and self.runs[-1][0] == self.used[0]:
            self.runs.pop()
        if not self.runs or not self.runs[-1][1].is_like(source):
            self.runs.append((self.used[0], source))

    # -- adding -----------------------------------------------------------------------------------------------------

    def add_batches(
        self,
        run: memoryview,
        position: int,
        leader_epoch: int,
        transactional: bool,
        first: int,
        end: int,
        rows_max: int,
    ) -> tuple[int, int]:
        """Add batches that need no thought; return (position, the offset behind them or `first`)."""
        self._make_room(rows_max, len(run) - position)
        position, following, self.used = column_kernels.append_batches(
            self.slab.buffers,
            self.used,
            run,
            position,
            leader_epoch,
            transactional,
            first,
            end,
            rows_max,
            crc32c,
        )
        return position, following

    def add_body(
        self,
        body: bytes | memoryview,
        position: int,
        left: int,
        base_offset: int,
        base_timestamp: int,
        append_time: int | None,
        first: int = 0,
        end: int = NO_END,
        rows_max: int = NO_END,
    ) -> tuple[int, int]:
        """Add `left` records of a batch's body; return (position, how many are left): some, if one of the limits is
        reached.

        Raises:
            ValueError: a record is malformed. Nothing of the body was added.
        """
        before = self.used
        while True:
            try:
                what, position, left, self.used = column_kernels.append_records(
                    self.slab.buffers,
                    self.used,
                    body,
                    position,
                    left,
                    base_offset,
                    base_timestamp,
                    append_time,
                    first,
                    end,
                    rows_max,
                )
            except ValueError:
                self.used = before
                raise
            if what == ROWS_FULL and self.used[0] < rows_max:
                self._grow_rows()
            elif what in _FULL:
                number = _FULL[what]
                _grow(self.slab.buffers[number], len(self.slab.buffers[number]) + len(body))
            else:
                return position, left

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add records that are rows already; of few of them, or of old formats."""
        records = [BuiltRecord(*row) for row in rows]
        if not records:
            return
        # Written as one batch and read again: there is one way into columns.
        base = records[0].offset
        batch = build_batch(records)
        self.add_body(memoryview(batch)[61:], 0, len(records), base, records[0].timestamp, None)

    def _make_room(self, rows_max: int, size: int) -> None:
        """Before a run of batches: room for what it most likely holds, so that it is read in one go."""
        rows, keys, values, headers = self.used
        buffers = self.slab.buffers
        while len(buffers[0]) // 8 - 8 < min(rows_max, rows + size // 64):
            self._grow_rows()
        for number, used in ((_KEYS, keys), (_VALUES, values), (_HEADERS, headers)):
            need = used + (size if number == _VALUES else size // 4)
            if len(buffers[number]) < need:
                _grow(buffers[number], need)

    def _grow_rows(self) -> None:
        for number in (0, 1, 2, 3, 5, 6, 8):
            buffer = self.slab.buffers[number]
            buffer += bytes(len(buffer))

    # -- rows -------------------------------------------------------------------------------------------------------

    def records(self, start: int, stop: int) -> list[Record[K, V]]:
        """Return records, made now."""
        found: list[Record[K, V]] = []
        for first, last, source in self.spans():
            if first < stop and last > start:
                found += make_records(source, self.slab.buffers, self.used, max(first, start), min(last, stop))
        return found

    def spans(self) -> Iterator[tuple[int, int, Source[K, V]]]:
        """Yield (first row, row behind the last, what they have in common)."""
        for number, (first, source) in enumerate(self.runs):
            last = self.runs[number + 1][0] if number + 1 < len(self.runs) else self.used[0]
            yield first, last, source

    @property
    def all_timed(self) -> bool:
        """Whether each record has a timestamp."""
        # Bytes that look like -1 across two others are none; then the rows are looked at one by one, for nothing.
        return self.slab.buffers[1].find(b"\xff" * 8, 0, 8 * len(self)) < 0

    def offset(self, row: int) -> int:
        """Return the offset of a row."""
        return memoryview(self.slab.buffers[0]).cast("q")[row]

    def offsets(self, start: int, stop: int) -> list[int]:
        """Return the offsets of rows."""
        return memoryview(self.slab.buffers[0]).cast("q")[start:stop].tolist()


def _grow(buffer: bytearray, size: int) -> None:
    buffer += bytes(max(size, 2 * len(buffer)) - len(buffer))
