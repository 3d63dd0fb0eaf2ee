"""Which old segments of a log may go: by time, by size, by log start. Decides only; `PartitionLog` deletes.

Kafka's UnifiedLog.deleteOldSegments: always a run from the oldest on; never a segment that reaches above the high
watermark, never an empty active one; the active one only after rolling. One record with a timestamp in the future keeps
its segment, and all behind it, from going by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.storage.segment import Segment


class Expired(NamedTuple):
    """How many segments go, counted from the oldest, and why."""

    segment_count: int
    reason: str
    is_by_size: bool = False
    is_by_log_start: bool = False


def expired_segments(
    segments: Sequence[Segment],
    config: LogConfig,
    *,
    log_start_offset: int,
    log_end_offset: int,
    high_watermark: int,
    now_ms: int | None,
    verified_only: bool = False,
) -> Expired:
    """Return the run of segments that retention deletes next. Call again after deleting: reasons add up.

    Without `now_ms` (the clock is not right) none is deleted by time.

    With `verified_only` neither time nor size deletes a segment that was not walked over, or what comes behind it: if its
    bytes do not add up, it may hold more than its indexes say.
    """
    allowed = _deletable(segments, log_end_offset, high_watermark)
    if config.cleanup_delete:
        deletable = allowed
        if verified_only:
            allowed = sum(1 for _ in takewhile(lambda segment: segment.is_verified, segments[:deletable]))
        count = _by_time(segments, allowed, config.retention_ms, now_ms)
        if count:
            return Expired(count, f"retention.ms={config.retention_ms}")
        count = _by_size(segments, allowed, config.retention_bytes)
        if count:
            return Expired(count, f"retention.bytes={config.retention_bytes}", is_by_size=True)
        allowed = deletable
    count = _by_log_start(segments, allowed, log_start_offset)
    return Expired(count, f"log start offset {log_start_offset}", is_by_log_start=True)


def _deletable(segments: Sequence[Segment], log_end_offset: int, high_watermark: int) -> int:
    """Return how many of the oldest segments may go at all."""
    count = 0
    for number, segment in enumerate(segments):
        is_last = number + 1 == len(segments)
        upper = log_end_offset if is_last else segments[number + 1].base_offset
        if upper > high_watermark or (is_last and not segment.size):
            break
        count += 1
    return count


def _by_time(segments: Sequence[Segment], allowed: int, retention_ms: int, now_ms: int | None) -> int:
    if retention_ms < 0 or now_ms is None:
        return 0
    count = 0
    while count < allowed and now_ms - segments[count].largest_timestamp_ms > retention_ms:
        count += 1
    return count


def _by_size(segments: Sequence[Segment], allowed: int, retention_bytes: int) -> int:
    if retention_bytes < 0:
        return 0
    # Bytes that are known to be no records do not count: a file that grew by rot pushes nothing out.
    rot = sum(damage.end - damage.position for segment in segments for damage in segment.damages)
    surplus = sum(segment.size for segment in segments) - rot - retention_bytes
    count = 0
    while count < allowed and surplus - segments[count].size >= 0:
        surplus -= segments[count].size
        count += 1
    return count


def _by_log_start(segments: Sequence[Segment], allowed: int, log_start_offset: int) -> int:
    count = 0
    while count < allowed and count + 1 < len(segments) and segments[count + 1].base_offset <= log_start_offset:
        count += 1
    return count
