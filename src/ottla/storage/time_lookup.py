"""Offsets by time: ListOffsets with a timestamp or MAX_TIMESTAMP (KIP-79, KIP-734).

Finds the first record whose timestamp is at least the one asked for. Reads the segments' largest timestamps, one time
index, one offset index, and the records of one batch. May wait for the disk: call it off the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ottla.protocol.records.batch import BatchHeader
from ottla.protocol.records.reader import read_records
from ottla.types import TimestampType

if TYPE_CHECKING:
    from ottla.storage.segment import Segment


class TimestampOffset(NamedTuple):
    """Where a timestamp was found. The leader epoch is that of its batch, -1 if it has none."""

    offset: int
    timestamp: int
    leader_epoch: int


def offset_for_timestamp(segments: Sequence[Segment], timestamp: int, start_offset: int) -> TimestampOffset | None:
    """Return the first record at or after `start_offset` with a timestamp `>= timestamp`."""
    for segment in segments:
        if segment.max_timestamp_ms >= timestamp:
            found = _search(segment, timestamp, start_offset)
            if found is not None:
                return found
    return None


def offset_of_max_timestamp(segments: Sequence[Segment], start_offset: int) -> TimestampOffset | None:
    """Return the first record that has the largest timestamp of all; None in an empty log."""
    best: Segment | None = None
    for segment in segments:
        if segment.max_timestamp_ms >= 0 and (best is None or segment.max_timestamp_ms > best.max_timestamp_ms):
            best = segment
    return None if best is None else _search(best, best.max_timestamp_ms, start_offset)


def _search(segment: Segment, timestamp: int, start_offset: int) -> TimestampOffset | None:
    entry = segment.time_index.lookup(timestamp)
    position = segment.offset_index.lookup(max(entry.offset, start_offset))
    for at, header in segment.headers(position):
        if header.max_timestamp >= timestamp and header.last_offset >= start_offset:
            found = _search_batch(segment, at, header, timestamp, start_offset)
            if found is not None:
                return found
    return None


def _search_batch(
    segment: Segment, position: int, header: BatchHeader, timestamp: int, start_offset: int
) -> TimestampOffset | None:
    epoch = header.partition_leader_epoch
    is_dense = header.record_count == header.last_offset_delta + 1
    if header.timestamp_type == TimestampType.LOG_APPEND_TIME and is_dense:
        # All records have the batch's time: the first one is the answer, and none needs to be decoded.
        return TimestampOffset(max(header.base_offset, start_offset), header.max_timestamp, epoch)
    for record in read_records(segment.file.pread(header.size, position)):
        if record.timestamp >= timestamp and record.offset >= start_offset:
            return TimestampOffset(record.offset, record.timestamp, epoch)
    return None
