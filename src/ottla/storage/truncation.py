"""Cutting off the end of a log: a follower drops what its leader does not have, or begins anew at another offset.

All methods are called with the log's lock held. Readers are warned first: they see the new end before bytes go. A disk
that fails in the middle fails the log. Source: Kafka's UnifiedLog.truncateTo, truncateFullyAndStartAt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.storage.reading import first_at_or_before
from ottla.storage.recovery import replay_producers
from ottla.storage.segment import Segment, link_segments

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog


def truncate_to(log: PartitionLog, offset: int, now_ms: int) -> None:
    """Drop everything from `offset` on, and the batch that holds it; the log then ends at `offset`.

    Raises:
        StorageError: the disk failed.
    """
    if offset >= log.log_end_offset:
        log.leader_epochs.truncate_end(offset)
    elif offset <= log.segments[0].base_offset:
        start_over(log, offset, now_ms)
    else:
        log.swap.withdraw()
        try:
            _cut(log, offset, now_ms)
        except OSError as error:
            raise log.health.fail(error) from error


def _cut(log: PartitionLog, offset: int, now_ms: int) -> None:
    reader, flusher = log.reader, log.flusher
    flusher.begin_generation()
    number = first_at_or_before(log.segments, offset)
    active, doomed = log.segments[number], log.segments[number + 1 :]
    # Readers first: none of them may look for what is about to go.
    reader.leave_active()
    reader.publish(offset, active)
    log.log_end_offset = offset
    if doomed:
        log.deleter.remove(doomed)
    reader.is_cutting = True
    end_offset = active.truncate_to(offset)
    log.segments = link_segments(log.segments)
    log.active_segment = active
    flusher.note_cut()
    flusher.forget([active])
    reader.publish(offset, active)
    flusher.recovery_point = min(flusher.recovery_point, offset)
    log.log_start_offset = min(log.log_start_offset, offset)
    log.high_watermark = min(log.high_watermark, offset)
    reader.forget_places()
    log.leader_epochs.truncate_end(offset)
    log.snapshots.remove_above(offset)
    replay_producers(
        log.producers, log.segments, log.snapshots.offsets, log.log_start_offset, offset, now_ms, log.directory
    )
    log.producers.on_high_watermark(log.high_watermark)
    flusher.note_names()
    if end_offset < offset:
        # The cut went through a batch: between two segments no reader takes the hole for damage.
        log.writer.roll(offset, now_ms)
    reader.is_cutting = False


def start_over(log: PartitionLog, offset: int, now_ms: int) -> None:
    """Drop everything; the log is empty and goes on at `offset`.

    Raises:
        StorageError: the disk failed.
    """
    log.swap.withdraw()
    log.flusher.begin_generation()
    segment = Segment(log.open_files, log.directory, offset)
    try:
        log.reader.leave_active()
        log.deleter.remove(log.segments)
        segment.create(now_ms)
        log.snapshots.remove_above(-1)
    except OSError as error:
        raise log.health.fail(error) from error
    log.active_segment = segment
    log.segments = [segment]
    log.reader.publish(offset, segment)
    log.log_start_offset = log.log_end_offset = log.high_watermark = log.flusher.recovery_point = offset
    log.leader_epochs.clear()
    log.producers.clear(offset)
    log.aborted.clear()
    log.flusher.note_names()
