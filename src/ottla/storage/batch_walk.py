"""Walking over the batches of a segment file, to the end or to the first place that does not add up.

A walk checks structure and order: every batch is whole, its offsets lie behind those of the batch before it and within the
segment's. It looks one batch ahead: where two neighbours contradict each other, or no batch follows, the checksum of the
first shows whether its length or its last offset is wrong; if it is right, the one that does not fit between its own
neighbours is the damaged one (base offsets are not covered by a checksum). Other checksums are the caller's business: most
walks read headers only. A walk never just ends: `UnreadableError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import HEADER_SIZE, BatchHeader
from ottla.protocol.records.formats import check_any_crc, read_any_header
from ottla.storage.damage import UnreadableError, first_offset_at

if TYPE_CHECKING:
    from ottla.storage.segment import Segment

#: Offsets in an index are int32 relative to the base.
RELATIVE_OFFSET_MAX = 0x7FFFFFFF
#: Read at once at first, and at most, where headers are wanted. Far behind what was read, only a header is.
_HEADERS_BYTES_MIN = 4096
_HEADERS_BYTES = 65536
_BATCHES_BYTES = 1 << 20


class BatchWalk:
    """One walk over `segment`, whose batches end at `limit` bytes.

    `lower` is the first offset that may come; None: the first batch says, because an index named it.
    """

    def __init__(self, segment: Segment, limit: int, lower: int | None) -> None:
        self._segment = segment
        self._file = segment.file
        self._limit = limit
        self._lower = segment.base_offset if lower is None else lower
        self._trusts_first = lower is None
        self._upper = min(segment.next_base_offset, segment.base_offset + RELATIVE_OFFSET_MAX + 1)
        self._data = memoryview(b"")
        self._start = 0
        self._ahead = _HEADERS_BYTES_MIN

    def headers(self, position: int) -> Iterator[tuple[int, BatchHeader]]:
        """Yield (position, header) of each batch from `position` on.

        Raises:
            UnreadableError: here the batches do not add up; everything before was given.
        """
        if position >= self._limit:
            return
        header = self._first(position)
        while True:
            following = self._following(position, header)
            yield position, header
            position += header.size
            if position >= self._limit:
                return
            if isinstance(following, UnreadableError):
                raise following
            assert following is not None
            self._lower = header.last_offset + 1
            header = following

    def batches(self, position: int) -> Iterator[tuple[int, BatchHeader, memoryview]]:
        """Yield (position, header, bytes) of each batch. The bytes are a view: use them at once.

        Raises:
            UnreadableError: as `headers`.
        """
        for at, header in self.headers(position):
            self._ahead = _BATCHES_BYTES
            yield at, header, self._view(at, header.size)

    def _first(self, position: int) -> BatchHeader:
        header = self._header(position)
        if self._trusts_first and header.base_offset > self._lower:
            self._lower = header.base_offset
        if header.base_offset < self._lower:
            raise self._unreadable(position, f"offset {header.base_offset} where at least {self._lower} belongs")
        return header

    def _following(self, position: int, header: BatchHeader) -> BatchHeader | UnreadableError | None:
        """Return the batch behind `header`, or what is wrong there; None at the end.

        Raises:
            UnreadableError: it is `header` that is wrong.
        """
        behind = position + header.size
        if header.last_offset >= self._upper:
            resume = behind if self._fits(behind, self._lower) else None
            reason = f"offset {header.last_offset} in a segment that ends before {self._upper}"
            raise self._unreadable(position, reason, resume=resume)
        if behind >= self._limit:
            return None
        trouble: UnreadableError | None = None
        try:
            following = self._header(behind)
            if following.base_offset > header.last_offset:
                return following
        except UnreadableError as error:
            trouble = error
        # Is it the next batch, or the length or the last offset of this one? Its checksum shows it.
        if not check_any_crc(self._file.pread(header.size, position), 0, header):
            raise self._unreadable(position, "a wrong length or checksum")
        if trouble is not None:
            trouble.first_offset = header.last_offset + 1
            return trouble
        if self._fits(behind, self._lower) and first_offset_at(self._file, position, header) != self._lower:
            reason = f"offset {header.base_offset} before offset {following.base_offset}"
            raise self._unreadable(position, reason, resume=behind)
        reason = f"offset {following.base_offset} behind offset {header.last_offset}"
        return UnreadableError(self._segment, behind, header.last_offset + 1, reason)

    def _fits(self, position: int, lower: int) -> bool:
        """Whether two batches in order, or the last one, begin at `position`, from offset `lower` on."""
        for _ in range(2):
            if position >= self._limit:
                return True
            try:
                header = self._header(position)
            except UnreadableError:
                return False
            if not lower <= header.base_offset <= header.last_offset < self._upper:
                return False
            position, lower = position + header.size, header.last_offset + 1
        return True

    def _header(self, position: int) -> BatchHeader:
        left = self._limit - position
        view = self._view(position, min(left, HEADER_SIZE))
        if len(view) < min(left, HEADER_SIZE):
            raise self._unreadable(position, f"the file ends {left - len(view)} bytes early")
        try:
            header = read_any_header(view, 0, left)
        except ValueError as error:
            raise self._unreadable(position, str(error)) from None
        return header

    def _view(self, position: int, size: int) -> memoryview:
        at = position - self._start
        if at < 0 or at + size > len(self._data):
            ahead = self._ahead
            if ahead <= _HEADERS_BYTES:
                if at > len(self._data) + _HEADERS_BYTES // 2:
                    ahead = HEADER_SIZE
                self._ahead = min(self._ahead * 2, _HEADERS_BYTES)
            want = max(size, min(ahead, self._limit - position))
            self._data, self._start, at = memoryview(self._file.pread(want, position)), position, 0
        return self._data[at : at + size]

    def _unreadable(self, position: int, reason: str, *, resume: int | None = None) -> UnreadableError:
        return UnreadableError(self._segment, position, self._lower, reason, resume=resume)
