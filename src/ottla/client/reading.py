"""From a chunk of raw batches to the records a consumer hands out: as rows, batch by batch, or into columns.

Checks CRCs, leaves out control records and, for readers of committed records, what aborted transactions wrote (KIP-98).
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ottla.client._core.partitions import Chunk
from ottla.client.consumed import Row
from ottla.errors import CorruptMessageError
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import MAGIC, MAGIC_POSITION, BatchHeader
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.legacy import read_legacy_records
from ottla.protocol.records.reader import read_body
from ottla.protocol.records.walk import iter_batches
from ottla.types import IsolationLevel, TimestampType

if TYPE_CHECKING:
    from ottla.client.columns import Columns

_EPOCH: Final = Struct(">i")
_EPOCH_AT: Final = 12


class ChunkReader:
    """Reads one chunk from front to back; rows and columns may take turns.

    Attributes:
        following: the offset behind the last batch that was begun; -1 before the first.
        leader_epoch: of that batch.
        next_offset: the offset of the first record that has not been read; a batch of which some were read is not passed.
    """

    __slots__ = (
        "_aborted",
        "_append_time",
        "_body",
        "_chunk",
        "_committed",
        "_header",
        "_left",
        "_place",
        "_position",
        "_rows",
        "_to_come",
        "_view",
        "following",
        "leader_epoch",
        "next_offset",
    )

    following: int
    leader_epoch: int
    next_offset: int

    def __init__(self, chunk: Chunk, isolation: IsolationLevel) -> None:
        self.following = self.leader_epoch = -1
        self.next_offset = chunk.offset
        self._chunk = chunk
        self._view = chunk.records
        self._position = 0
        self._committed = isolation is IsolationLevel.READ_COMMITTED
        self._to_come = deque(chunk.aborted)
        self._aborted: set[int] = set()
        self._header: BatchHeader | None = None
        self._rows: list[Row] | None = None
        self._body: bytes | memoryview = b""
        self._append_time: int | None = None
        self._place = self._left = 0

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to read."""
        return not self._left and self._position >= len(self._view)

    @property
    def is_inside(self) -> bool:
        """Whether a part of a batch has been read."""
        return self._left > 0

    def next_rows(self) -> list[Row] | None:
        """Return the records of the next batch, or what is left of one; perhaps none. None at the end of the chunk.

        Raises:
            CorruptMessageError: the batch is damaged.
        """
        if not self._left and not self._begin():
            return None
        header, left = self._header, self._left
        rows, self._rows = self._rows, None
        if rows is None and left:
            assert header is not None
            body = memoryview(self._body)[self._place :]
            try:
                rows = kernels.decode_records(body, left, header.base_offset, header.base_timestamp, self._append_time)
            except ValueError as error:
                raise self._damaged(header, str(error)) from error
        self._finish()
        if rows and rows[0][0] < self.next_offset:
            rows = [row for row in rows if row[0] >= self.next_offset]
        self.next_offset = max(self.next_offset, self.following)
        return rows or []

    def fill(self, columns: Columns[Any, Any], begin: Any, end: int, rows_max: int) -> None:
        """Add records of the next batch, or of several, to columns; perhaps none, before the end of the chunk, too.

        Args:
            begin: called with the leader epoch before records are added.
            end: nothing is added from this offset on.
            rows_max: rows that the columns may have in all.

        Raises:
            CorruptMessageError: a batch is damaged. Nothing was added, and nothing is missing before it.
        """
        if not self._left:
            if self._skim(columns, begin, end, rows_max) or not self._begin():
                return
            if not self._left:
                self.next_offset = max(self.next_offset, self.following)
                return
        header, rows = self._header, self._rows
        assert header is not None
        begin(self.leader_epoch)
        before = len(columns)
        if rows is not None:
            # Old formats, one by one: they are rare.
            wanted = [row for row in rows if row[0] >= self.next_offset]
            room = [row for row in wanted if row[0] < end][: rows_max - len(columns)]
            columns.add_rows(room)
            self._rows = wanted[len(room) :]
            self._left = len(self._rows)
        else:
            try:
                self._place, self._left = columns.add_body(
                    self._body,
                    self._place,
                    self._left,
                    header.base_offset,
                    header.base_timestamp,
                    self._append_time,
                    self.next_offset,
                    end,
                    rows_max,
                )
            except ValueError as error:
                raise self._damaged(header, str(error)) from error
        if self._left:
            if len(columns) > before:
                self.next_offset = max(self.next_offset, columns.offset(len(columns) - 1) + 1)
            elif before < rows_max:
                self.next_offset = max(self.next_offset, end)  # the next record is behind the end
        else:
            self._finish()
            self.next_offset = max(self.next_offset, self.following)

    def _skim(self, columns: Columns[Any, Any], begin: Any, end: int, rows_max: int) -> bool:
        """Add batches that need no thought, many in one call; return whether there were any."""
        view, position = self._view, self._position
        if len(view) - position <= MAGIC_POSITION or view[position + MAGIC_POSITION] != MAGIC:
            return False
        (epoch,) = _EPOCH.unpack_from(view, position + _EPOCH_AT)
        begin(epoch)
        plain = not self._committed or not (self._aborted or self._to_come)
        self._position, following = columns.add_batches(view, position, epoch, plain, self.next_offset, end, rows_max)
        if self._position == position:
            return False
        self.following = self.next_offset = following
        self.leader_epoch = epoch
        return True

    def _begin(self) -> bool:
        """Open the next batch; return False at the end."""
        view, position = self._view, self._position
        if position >= len(view):
            return False
        _, header = next(iter_batches(view, position))
        self._position = position + header.size
        # Before anything is believed: what the header says of offsets and kinds is covered by the CRC.
        if not check_any_crc(view, position, header):
            raise self._damaged(header, "its CRC is wrong")
        self._header = header
        self.leader_epoch = header.partition_leader_epoch
        self.following = following = header.next_offset
        aborted, to_come = self._aborted, self._to_come
        while to_come and to_come[0][1] < following:
            aborted.add(to_come.popleft()[0])
        if header.is_control:
            try:
                marker = read_marker(view, position) if header.has_producer_id else None
            except ValueError as error:
                raise self._damaged(header, str(error)) from error
            if marker is not None and marker.kind is ControlType.ABORT:
                aborted.discard(header.producer_id)
            return True
        if following <= self.next_offset:
            return True
        if self._committed and header.is_transactional and header.producer_id in aborted:
            return True
        try:
            if header.magic < MAGIC:
                self._rows = list(read_legacy_records(view, position))
                self._left = len(self._rows)
            elif header.record_count:
                self._body = read_body(view, position, header)
                stamped = header.timestamp_type is TimestampType.LOG_APPEND_TIME
                self._append_time = header.max_timestamp if stamped else None
                self._place, self._left = 0, header.record_count
        except ValueError as error:
            raise self._damaged(header, str(error)) from error
        return True

    def _finish(self) -> None:
        self._left = 0
        self._body = b""
        self._rows = None

    def _damaged(self, header: BatchHeader, problem: str) -> CorruptMessageError:
        where = f"{self._chunk.state.topic_partition}, offset {max(header.base_offset, self._chunk.offset)}"
        return CorruptMessageError(f"The batch at {where} is damaged: {problem}")
