"""The end of a log: writing batches to the active segment, rolling it, and letting readers see what was written.

What may be appended is decided before (`appending`, `following`). All methods are called with the log's lock held. An
append that fails is cut off again, so that the log goes on where it was.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ottla import failpoints
from ottla.protocol.records.batch import CONTROL_BIT
from ottla.storage.consistency import check_end
from ottla.storage.damage import UnreadableError
from ottla.storage.files import PASSING
from ottla.storage.rolling import should_roll
from ottla.storage.segment import Segment

if TYPE_CHECKING:
    from ottla.protocol.records.batch import BatchHeader
    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.files import Buffer
    from ottla.storage.log import PartitionLog
    from ottla.storage.producer_state import CompletedTransaction

logger = logging.getLogger(__name__)


class LogWriter:
    """Writes to the end of one log."""

    __slots__ = ("_flusher", "_log", "_producers", "_reader")

    def __init__(self, log: PartitionLog) -> None:
        self._log = log
        self._flusher = log.flusher
        self._producers = log.producers
        self._reader = log.reader

    def write(self, data: Buffer) -> int:
        """Write whole batches to the active segment; return their position. Follow with `note` for each and `LogEnd.publish`.

        Raises:
            KafkaStorageError: no space or no descriptor is left; nothing was written.
            StorageError: the disk failed.
        """
        active = self._log.active_segment
        if not active.is_warm:
            active = self._warm_up(active)
        before = active.size
        try:
            if failpoints.ENABLED:
                _hit_failpoints(active, data)
            return active.append(data)
        except OSError as error:
            raise self.undo(active, before, error) from error

    def undo(self, active: Segment, before: int, error: OSError) -> Exception:
        """Cut off what a failed write left behind `before`; return what to raise."""
        health = self._log.health
        try:
            active.undo_append(before)
        except OSError as second:
            return health.fail(second)
        return health.refuse(error)

    def _warm_up(self, active: Segment) -> Segment:
        """Make the active segment ready for an append; return it, or a new one if nothing may be appended to it."""
        log = self._log
        try:
            log.mender.around_damage(partial(_warm_up, active))
        except UnreadableError as error:
            self.roll(log.log_end_offset, self._flusher.last_flush_ms)
            logger.error("%s: %s; the log goes on in a new segment", log.topic_partition, error)
            log.mender.around_damage(partial(_warm_up, log.active_segment))
        except OSError as error:
            raise log.health.refuse(error) from error
        return log.active_segment

    def note(
        self, header: BatchHeader, first: int, position: int, marker: EndTransactionMarker | None, now_ms: int
    ) -> None:
        """Take a written batch into indexes and producer state."""
        log = self._log
        last = first + header.last_offset_delta
        log.active_segment.note_batch(
            position, header.size, last, header.max_timestamp, log.config.index_interval_bytes
        )
        if header.producer_id >= 0:
            if marker is not None:
                completed = self._producers.add_marker(header, marker, first, now_ms)
                if completed is not None and completed.is_aborted:
                    self._index_aborted(completed)
            elif not header.attributes & CONTROL_BIT:
                self._producers.add_batch(header, first, now_ms)
        self._reader.note(first, position)

    def _index_aborted(self, completed: CompletedTransaction) -> None:
        log = self._log
        try:
            log.active_segment.transaction_index.add(self._producers.aborted_entry(completed))
        except OSError as error:
            # The marker is in the log; without its entry readers would get aborted records.
            raise log.health.fail(error) from error
        log.aborted.add_segment(log.active_segment)

    # -- roll

    def should_roll(self, size: int, last_offset: int, max_timestamp: int, now_ms: int) -> bool:
        """Whether `size` bytes that end with `last_offset` belong into a new segment.

        Raises:
            KafkaStorageError, StorageError: the time of the first batch cannot be read.
        """
        log = self._log
        try:
            return should_roll(
                log.active_segment,
                log.config,
                log.topic_partition,
                size=size,
                last_offset=last_offset,
                max_timestamp=max_timestamp,
                now_ms=now_ms,
            )
        except OSError as error:
            raise log.health.refuse(error) from error

    def roll(self, base_offset: int, now_ms: int) -> None:
        """Seal the active segment and begin a new one at `base_offset`.

        Raises:
            KafkaStorageError: no space or no descriptor is left; the active segment goes on.
            StorageError: the disk failed.
        """
        log = self._log
        sealed = log.active_segment
        segment = Segment(log.open_files, log.directory, base_offset)
        try:
            failpoints.hit("log.roll")
            sealed.finish()
            failpoints.hit("log.snapshot")
            log.snapshots.write(base_offset)
            segment.create(now_ms)
        except OSError as error:
            if error.errno in PASSING:
                try:
                    segment.remove()  # the sealed one goes on: no file may claim its offsets
                except OSError as second:
                    raise log.health.fail(second) from second
            raise log.health.refuse(error) from error
        self._flusher.note_names()
        self._flusher.note_sealed([sealed])
        sealed.next_base_offset = base_offset
        log.segments = [*log.segments, segment]
        self._reader.leave_active()
        log.active_segment = segment
        self._reader.publish(log.log_end_offset, segment)
        log.hooks.on_flush_due(log)


def _warm_up(active: Segment) -> None:
    check_end(active)  # nothing may be appended behind what is no batch
    active.warm_up()


def _hit_failpoints(active: Segment, data: Buffer) -> None:
    failpoints.hit("log.append.before")
    # Half of the batch reaches the file, then perhaps death; if not, the half is taken back.
    before = active.size
    active.append(memoryview(data)[: len(data) // 2])
    failpoints.hit("log.append.partial")
    active.undo_append(before)
