"""Offsets by time: ListOffsets with a timestamp or MAX_TIMESTAMP (KIP-79, KIP-734).

Finds the first record whose timestamp is at least the one asked for. Reads the segments' largest timestamps, one time
index, one offset index, and the records of one batch. May wait for the disk: call it off the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ottla.protocol.records.batch import BatchHeader
from ottla.protocol.records.reader import read_records
from ottla.storage.consistency import check_times, compare_times
from ottla.storage.damage import UnreadableError
from ottla.types import TimestampType

if TYPE_CHECKING:
    from ottla.storage.segment import Segment


class TimestampOffset(NamedTuple):
    """Where a timestamp was found. The leader epoch is that of its batch, -1 if it has none."""

    offset: int
    timestamp: int
    leader_epoch: int


def offset_for_timestamp(segments: Sequence[Segment], timestamp: int, start_offset: int) -> TimestampOffset | None:
    """Return the first record at or after `start_offset` with a timestamp `>= timestamp`.

    The last entry of a segment's time index says whether the record may be in there. It is compared with the batches
    where a wrong one would most likely hide the record: in the segment before the one that is found, and where times go
    back from one segment to the next.

    Raises:
        UnreliableIndexError: build that index anew and ask again.
        UnreadableError: the record may lie where the segment cannot be read.
    """
    largest = -1
    before: Segment | None = None
    for segment in segments:
        last = segment.max_timestamp_ms
        if last < largest:
            check_times(segment)
        largest = max(largest, last)
        if last >= timestamp:
            for neighbour in (before, segment):
                if neighbour is not None:
                    check_times(neighbour)
            found = _search(segment, timestamp, start_offset)
            if found is not None:
                return found
        before = segment
    for segment in segments[-2:]:
        check_times(segment)
    return None


def offset_of_max_timestamp(segments: Sequence[Segment], start_offset: int) -> TimestampOffset | None:
    """Return the first record that has the largest timestamp of all; None in an empty log."""
    best: Segment | None = None
    for segment in segments:
        if segment.max_timestamp_ms >= 0 and (best is None or segment.max_timestamp_ms > best.max_timestamp_ms):
            best = segment
    for segment in (*segments[-2:], *([best] if best is not None else [])):
        check_times(segment)
    return None if best is None else _search(best, best.max_timestamp_ms, start_offset)


def _search(segment: Segment, timestamp: int, start_offset: int) -> TimestampOffset | None:
    entry = segment.time_index.lookup(timestamp)
    is_checked = entry == (-1, segment.base_offset) or start_offset > entry.offset
    position = segment.position_before(max(entry.offset, start_offset))
    for at, header in segment.headers(position):
        if not is_checked and header.last_offset >= entry.offset:
            compare_times(segment, entry, header)
            is_checked = True
        if header.max_timestamp >= timestamp and header.last_offset >= start_offset:
            found = _search_batch(segment, at, header, timestamp, start_offset)
            if found is not None:
                if not is_checked:  # the entry says that no time before its offset is larger
                    compare_times(segment, entry, None)
                return found
    if not is_checked:
        compare_times(segment, entry, None)
    return None


def _search_batch(
    segment: Segment, position: int, header: BatchHeader, timestamp: int, start_offset: int
) -> TimestampOffset | None:
    epoch = header.partition_leader_epoch
    is_dense = header.record_count == header.last_offset_delta + 1
    if header.timestamp_type == TimestampType.LOG_APPEND_TIME and is_dense:
        # All records have the batch's time: the first one is the answer, and none needs to be decoded.
        return TimestampOffset(max(header.base_offset, start_offset), header.max_timestamp, epoch)
    batch = segment.file.pread(header.size, position)
    try:
        records = read_records(batch)
    except ValueError as error:
        raise UnreadableError(segment, position, header.base_offset, str(error)) from error
    for record in records:
        if record.timestamp >= timestamp and record.offset >= start_offset:
            return TimestampOffset(record.offset, record.timestamp, epoch)
    return None
