"""When a segment is full: by size, by time, by its indexes, by the reach of relative offsets. Decides only.

Kafka's LogSegment.shouldRoll. Time counts from the largest timestamp of the segment's first batch to that of the new one, or,
if those have none, from the time the segment was made to now.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ottla.storage.batch_walk import RELATIVE_OFFSET_MAX

if TYPE_CHECKING:
    from ottla.storage.config import LogConfig
    from ottla.storage.segment import Segment
    from ottla.types import TopicPartition


def should_roll(
    active: Segment,
    config: LogConfig,
    topic_partition: TopicPartition,
    *,
    size: int,
    last_offset: int,
    max_timestamp: int,
    now_ms: int,
) -> bool:
    """Return whether `size` bytes that end with `last_offset` belong into a new segment."""
    if last_offset - active.base_offset > RELATIVE_OFFSET_MAX:
        return True
    active_size = active.size
    if not active_size:
        return False
    if active_size > config.segment_bytes - size:
        return True
    started = active.first_timestamp_ms
    waited = max_timestamp - started if started >= 0 else now_ms - active.created_ms
    limit = config.segment_ms
    if config.segment_jitter_ms:
        limit -= jitter_ms(active, config, topic_partition)
    return waited > limit or active.is_index_full(config)


def jitter_ms(segment: Segment, config: LogConfig, topic_partition: TopicPartition) -> int:
    """Return the part of segment.jitter.ms for this segment: spread over partitions, the same at each call."""
    limit = min(config.segment_jitter_ms, config.segment_ms)
    return zlib.crc32(f"{topic_partition}/{segment.base_offset}".encode()) % limit if limit > 0 else 0
