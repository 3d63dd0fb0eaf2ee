"""Where in a segment a read begins and ends: an entry of the offset index, then a scan over a few headers.

Works on headers only, in reads of 4 KiB. Bytes on the way that are no batch, or whose offsets go back, raise
`UnreadableError`; an index that names no batch `UnreliableIndexError`. With `nowait` nothing waits for the disk:
`WouldBlockError`. Kafka's LogSegment.read, translateOffset.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ottla.protocol.records.batch import HEADER_SIZE, LOG_OVERHEAD, MAGIC
from ottla.protocol.records.formats import check_any_crc, read_any_header
from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX
from ottla.storage.damage import UnreadableError, first_offset_at
from ottla.storage.segment import NO_OFFSET_LIMIT

if TYPE_CHECKING:
    from ottla.storage.files import Buffer
    from ottla.storage.segment import Segment

#: base offset, batch length, magic, last offset delta: all that finding a place needs.
_PLACE = struct.Struct(">qi4xb6xi")
_SCAN_BYTES = 4096


def locate(segment: Segment, offset: int, end: int, *, nowait: bool = False) -> tuple[int, int] | None:
    """Return (position, base offset) of the first batch that ends at `offset` or later; None if there is none.

    The base offset of a compressed message of format 0 or 1 counts as its last one.

    Args:
        offset: what is looked for.
        end: where the batches end; what lies behind is not looked at.
        nowait: raise `WouldBlockError` instead of waiting for the disk.

    Raises:
        UnreadableError: the bytes on the way, or those that should hold `offset`, are no batches.
        UnreliableIndexError: the offset index is wrong.
    """
    entry = segment.offset_index.lookup(offset, nowait=nowait) if offset > segment.base_offset else None
    last_offset, start = entry or (offset, 0)
    if not 0 <= start < max(end, 1):
        raise segment.wrong_index(start, f"the index names byte {start}, the batches end at {end}")
    position, expected = start, segment.base_offset
    for damage in segment.damages:
        if damage.first_offset <= offset < segment.offset_behind(damage):
            raise UnreadableError(segment, damage.position, damage.first_offset, damage.reason)
        if damage.next_offset <= offset and position <= damage.position:
            position, expected, last_offset = damage.end, damage.next_offset, NO_OFFSET_LIMIT
    try:
        place = _scan_to(segment, offset, position, expected, last_offset, end, nowait)
    except UnreadableError as error:
        if entry is None or error.position != start:
            raise
        raise segment.wrong_index(start, f"the index names byte {start}, but there {error.reason}") from None
    return place


def end_of_slice(
    segment: Segment,
    start: int,
    base: int,
    limit: int,
    upper_offset: int,
    *,
    min_one: bool,
    end: int,
    nowait: bool = False,
) -> tuple[int, int]:
    """Return (position, next offset) where a slice from `start`, offset `base`, ends: whole batches up to `limit`.

    Batches that reach `upper_offset` are left out, and what lies at or behind `end`. With `min_one` the first batch
    comes even if it crosses `limit`.

    Raises:
        UnreadableError, UnreliableIndexError: as `locate`. A slice that ends before the unreadable bytes is returned.
    """
    position = start
    behind = -1  # the offset behind the batches looked at so far, where one was
    if limit - start > _SCAN_BYTES:
        position = segment.trusted_position(segment.offset_index.floor(limit, nowait=nowait), nowait)
        if upper_offset <= segment.base_offset + RELATIVE_OFFSET_MAX:
            position = min(position, segment.position_before(upper_offset - 1, nowait=nowait))
        position = max(position, start)
    while position < end:
        left = end - position
        data = segment.read_at(min(_SCAN_BYTES, left), position, nowait)
        at, last = 0, len(data) - HEADER_SIZE
        while at <= last or (at < left and last < 0):
            if at <= last:
                first, length, magic, delta = _PLACE.unpack_from(data, at)
            else:
                first, length, magic, delta = 0, -1, 0, 0
            if magic != MAGIC or not HEADER_SIZE - LOG_OVERHEAD <= length <= left - at - LOG_OVERHEAD or delta < 0:
                try:
                    first, length, delta = _place(segment, data, at, position, left, base)
                except UnreadableError:
                    if position + at > start:
                        return position + at, base
                    raise
            stop = position + at + LOG_OVERHEAD + length
            if first + delta >= upper_offset:
                return position + at, behind if behind >= 0 else first
            if stop > limit and not (min_one and position + at == start):
                return position + at, behind if behind >= 0 else first
            base = behind = first + delta + 1
            at += LOG_OVERHEAD + length
            if stop >= limit:
                return stop, base
            if at >= left:
                break
        position += at
    return position, base


def check_batch(
    segment: Segment, position: int, lower: int, *, upper: int = NO_OFFSET_LIMIT, nowait: bool = False
) -> None:
    """Check the batch at `position`, the first one of an answer, as far as a look at it and its neighbour can show.

    A length or a base offset that is wrong shows where the next batch does not follow; then its checksum decides.

    Args:
        position: where it begins.
        lower: it has no smaller offset.
        upper: it ends before this offset, and before the next segment.
        nowait: raise `WouldBlockError` instead of waiting for the disk.

    Raises:
        UnreadableError: it is damaged.
    """
    try:
        header = segment.header_at(position, nowait)
    except ValueError as error:
        raise UnreadableError(segment, position, lower, str(error)) from None
    if header.base_offset < lower:
        raise UnreadableError(segment, position, lower, f"offset {header.base_offset} where at least {lower} belongs")
    behind = position + header.size
    if header.last_offset >= min(upper, segment.next_base_offset):
        reason = f"offset {header.last_offset} in a segment that ends before {min(upper, segment.next_base_offset)}"
        raise UnreadableError(segment, position, lower, reason)
    if behind >= segment.size:
        return
    try:
        following = segment.header_at(behind, nowait)
    except ValueError:
        following = None
    if following is not None and following.base_offset > header.last_offset:
        return
    if not check_any_crc(segment.read_at(header.size, position, nowait), 0, header):
        raise UnreadableError(segment, position, lower, "a wrong length or checksum")
    if following is None or following.base_offset < lower:
        return
    if first_offset_at(segment.file, position, header) > lower:
        reason = f"offset {header.base_offset} before offset {following.base_offset}"
        raise UnreadableError(segment, position, lower, reason, resume=behind)


def _scan_to(
    segment: Segment, offset: int, position: int, expected: int, expected_max: int, end: int, nowait: bool
) -> tuple[int, int] | None:
    """Scan from `position`, where a batch begins whose base offset lies from `expected` to `expected_max`."""
    start = position
    unpack_from = _PLACE.unpack_from
    while position < end:
        left = end - position
        data = segment.read_at(min(_SCAN_BYTES, left), position, nowait)
        at, limit = 0, len(data) - HEADER_SIZE
        while True:
            if at <= limit:
                base, length, magic, delta = unpack_from(data, at)
                if magic != MAGIC or not HEADER_SIZE - LOG_OVERHEAD <= length <= left - at - LOG_OVERHEAD or delta < 0:
                    base, length, delta = _place(segment, data, at, position, left, expected)
            elif at < left and limit < 0:  # the last bytes: less than a header of today's format
                base, length, delta = _place(segment, data, at, position, left, expected)
            else:
                break
            if base < expected:
                raise UnreadableError(
                    segment, position + at, expected, f"offset {base} where at least {expected} belongs"
                )
            if start and position + at == start and expected_max < NO_OFFSET_LIMIT:
                expected = max(expected, min(base, expected_max))  # an index named it
            if base > expected_max and start:
                raise UnreadableError(segment, position + at, expected, f"offset {base}, not {expected_max} at most")
            expected_max = NO_OFFSET_LIMIT
            if base + delta >= offset:
                if base > expected:  # compaction leaves such a hole, and so does a damaged base offset
                    check_batch(segment, position + at, expected, nowait=nowait)
                return position + at, base
            expected = base + delta + 1
            at += LOG_OVERHEAD + length
            if at >= left:
                break
        position += at
    return None


def _place(segment: Segment, data: Buffer, at: int, position: int, left: int, expected: int) -> tuple[int, int, int]:
    """Return base offset, length and last offset delta of a batch that is not one of today's format, or is none."""
    try:
        header = read_any_header(data, at, left - at)
    except ValueError as error:
        raise UnreadableError(segment, position + at, expected, str(error)) from None
    return header.base_offset, header.batch_length, header.last_offset_delta
