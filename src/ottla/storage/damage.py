"""What a segment holds that cannot be read: where it is, which offsets it takes away, where reading goes on.

A walk over batches (`batch_walk`) never just ends: it raises `UnreadableError` at the first place that does not add up.
`find_readable` then looks for the next batch whose offsets fit and whose checksum is right. What lies between is a
`Damage`: a fetch of its offsets gets CORRUPT_MESSAGE, everything before and behind it is served.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ottla.errors import CorruptMessageError
from ottla.protocol.records.batch import HEADER_SIZE, MAGIC, BatchHeader
from ottla.protocol.records.formats import SIZE_MIN, check_any_crc, read_any_header
from ottla.protocol.records.legacy import read_legacy_records

if TYPE_CHECKING:
    from ottla.storage.files import File
    from ottla.storage.segment import Segment

_WINDOW = 1 << 20


class Damage(NamedTuple):
    """A part of a segment that cannot be read.

    Attributes:
        position, end: the bytes from `position` up to `end` of the .log file.
        first_offset, next_offset: the offsets from `first_offset` up to `next_offset` cannot be read.
        reason: what does not add up, for people.
    """

    position: int
    end: int
    first_offset: int
    next_offset: int
    reason: str


class UnreadableError(CorruptMessageError):
    """A segment holds bytes that are no batch, or a batch where it cannot be. Clients get CORRUPT_MESSAGE.

    Attributes:
        segment: which one.
        position: where in its .log file.
        first_offset: everything below it is readable.
        reason: what does not add up.
        resume: where the next readable batch begins, if that is known.
    """

    def __init__(
        self, segment: Segment, position: int, first_offset: int, reason: str, *, resume: int | None = None
    ) -> None:
        super().__init__(f"{segment.name} cannot be read at byte {position}, offset {first_offset}: {reason}")
        self.segment = segment
        self.position = position
        self.first_offset = first_offset
        self.reason = reason
        self.resume = resume


class UnreliableIndexError(Exception):
    """An index of a segment contradicts its batches: build it anew, look again."""

    def __init__(self, segment: Segment, reason: str) -> None:
        super().__init__(f"{segment.name}: {reason}")
        self.segment = segment
        self.reason = reason


class UnreliableTransactionsError(Exception):
    """A transaction index contradicts the batches: it would show, or drop, what it must not."""


def find_readable(
    file: File, start: int, search_end: int, limit: int, lower: int, upper: int
) -> tuple[int, int] | None:
    """Return (position, base offset) of the first intact batch at or behind `start`; None if there is none.

    Args:
        file: the .log file.
        start: where to begin to look.
        search_end: its first bytes lie before this position.
        limit: where the file ends.
        lower, upper: the batch lies within these offsets, `upper` excluded.
    """
    pattern = _beginning_of_a_batch(lower, upper)
    position = start
    while search_end - position >= SIZE_MIN:
        data = file.pread(min(_WINDOW + HEADER_SIZE, search_end - position), position)
        is_last = position + len(data) >= search_end
        for match in pattern.finditer(data):
            at = match.start()
            if not is_last and at >= _WINDOW:
                break  # the next window has it whole
            base_offset = _intact_batch_at(file, position + at, limit, lower, upper)
            if base_offset is not None:
                return position + at, base_offset
        if is_last:
            return None
        position += _WINDOW
    return None


def _beginning_of_a_batch(lower: int, upper: int) -> re.Pattern[bytes]:
    """Return what the first 17 bytes of a batch with these offsets look like. Overlapping matches are all found."""
    first, last = lower.to_bytes(8, "big"), max(upper - 1, lower).to_bytes(8, "big")
    same = next((count for count in range(8) if first[count] != last[count]), 8)
    # base offset, a length that is neither 0 nor negative, leader epoch or CRC, magic
    shape = re.escape(first[:same]) + b".{%d}" % (8 - same) + rb"(?!\0{4})[\0-\x7f].{3}.{4}[\0-\x02]"
    return re.compile(b"(?=" + shape + b")", re.DOTALL)


def _intact_batch_at(file: File, position: int, limit: int, lower: int, upper: int) -> int | None:
    header = intact_header(file, position, limit)
    if header is None or header.base_offset < lower or header.last_offset >= upper:
        return None
    return None if is_contradicted(file, position, limit, header, lower) else first_offset_at(file, position, header)


def intact_header(file: File, position: int, limit: int) -> BatchHeader | None:
    """Return the header of the batch at `position` if its checksum is right; `limit` is where the file ends."""
    left = limit - position
    try:
        header = read_any_header(file.pread(min(left, HEADER_SIZE), position), 0, left)
    except ValueError:
        return None
    batch = file.pread(header.size, position)
    return header if len(batch) == header.size and check_any_crc(batch, 0, header) else None


def is_contradicted(file: File, position: int, limit: int, header: BatchHeader, lower: int) -> bool:
    """Whether an intact batch follows `header`, the one at `position`, with an offset between `lower` and its last one.

    No checksum covers offsets, and bytes that moved change them.
    """
    following = intact_header(file, position + header.size, limit)
    return following is not None and lower <= following.base_offset <= header.last_offset


def first_offset_at(file: File, position: int, header: BatchHeader) -> int:
    """Return the first offset of an intact batch; a compressed message of format 0 or 1 must be unpacked for that."""
    if header.magic == MAGIC or not header.compression_id:
        return header.base_offset
    try:
        records = read_legacy_records(file.pread(header.size, position))
    except ValueError:
        return header.base_offset
    # In format 0 the offsets inside are absolute and the checksum covers them: they show that the one outside is wrong.
    return records[0].offset if records[-1].offset == header.base_offset else header.base_offset
