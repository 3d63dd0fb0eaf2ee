"""Deleting old segments of a log: what retention lets go, and only after a walk over it.

`retention` decides. A segment whose bytes do not add up may hold more than its indexes say: neither time nor size
deletes it, or what comes behind it. The files are renamed at once and unlinked later by the owner.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ottla.storage.consistency import check_end, verify
from ottla.storage.damage import UnreadableError
from ottla.storage.retention import expired_segments
from ottla.storage.segment import DELETED_SUFFIX

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog
    from ottla.storage.retention import Expired
    from ottla.storage.segment import Segment

logger = logging.getLogger(__name__)


class SegmentDeleter:
    """Deletes segments of one log."""

    __slots__ = ("_log",)

    def __init__(self, log: PartitionLog) -> None:
        self._log = log

    def delete_old_segments(self, now_ms: int, *, by_time: bool = True) -> int:
        """Delete what retention lets go; return how many segments. See `PartitionLog.delete_old_segments`."""
        log = self._log
        total = 0
        expired_ms = now_ms if by_time else None
        while True:
            self._verify_expired(expired_ms)
            with log.lock:
                log.health.check()
                if log.swap.is_under_way:
                    return total
                expired = self._expired(expired_ms, verified_only=True)
                if not expired.segment_count:
                    return total
                if expired.segment_count == len(log.segments):
                    log.writer.roll(log.log_end_offset, now_ms)
                    continue
                doomed = log.segments[: expired.segment_count]
                log.move_log_start(log.segments[len(doomed)].base_offset)
                logger.info(
                    "%s: %d segments from offset %d on are deleted because of %s",
                    log.topic_partition,
                    len(doomed),
                    doomed[0].base_offset,
                    expired.reason,
                )
                self.remove(doomed)
                total += len(doomed)

    def _expired(self, now_ms: int | None, *, verified_only: bool = False) -> Expired:
        log = self._log
        return expired_segments(
            log.segments,
            log.config,
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
            high_watermark=log.high_watermark,
            now_ms=now_ms,
            verified_only=verified_only,
        )

    def _verify_expired(self, now_ms: int | None) -> None:
        """Walk over the segments that retention would delete next, without the lock; note what is unreadable."""
        segments, around_damage = self._log.segments, self._log.mender.around_damage
        try:
            expired = self._expired(now_ms)
            for segment in segments[: 0 if expired.is_by_log_start else expired.segment_count]:
                if segment.damages:
                    return
                around_damage(partial(verify, segment))
            if expired.is_by_size:
                for segment in segments[:-1]:
                    around_damage(partial(check_end, segment))
        except UnreadableError:
            return  # it is noted
        except FileNotFoundError:
            return  # removed or replaced meanwhile

    def remove(self, doomed: list[Segment]) -> None:
        """Take segments out of the log; their files are renamed now and unlinked later. Needs the lock.

        Raises:
            StorageError: the disk failed.
        """
        log = self._log
        gone = set(map(id, doomed))
        log.segments = [segment for segment in log.segments if id(segment) not in gone]
        log.flusher.forget(doomed)
        log.reader.forget_places()
        removed: list[str] = []
        try:
            for segment in doomed:
                log.aborted.forget_segment(segment)
                segment.rename(DELETED_SUFFIX)
                removed += [path for path in segment.paths() if log.files.exists(path)]
                base = segment.base_offset
                if base in log.snapshots.offsets and base != log.snapshots.newest:
                    removed.append(log.snapshots.retire(base))
        except OSError as error:
            raise log.health.fail(error) from error
        log.flusher.note_names()
        log.hooks.on_files_removed(log, removed)
