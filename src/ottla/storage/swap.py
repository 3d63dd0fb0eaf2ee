"""Putting compacted segments in the place of the ones they were made from, so that a crash leaves either all or none.

The new segments lie beside the old ones as `.cleaned`. The swap renames them to `.swap`, makes these names durable,
renames the old ones to `.deleted` and the new ones to their own names. `recovery` finishes a swap that a crash
interrupted, or takes it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla import failpoints
from ottla.storage.files import NO_DESCRIPTOR, PASSING
from ottla.storage.reading import base_offset_of
from ottla.storage.segment import CLEANED_SUFFIX, DELETED_SUFFIX, SWAP_SUFFIX, Segment, link_segments

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog


class SegmentSwap:
    """Swaps segments of one log, one swap at a time."""

    __slots__ = ("_incoming", "_log")

    def __init__(self, log: PartitionLog) -> None:
        self._log = log
        #: Compacted segments that are about to take the place of others.
        self._incoming: list[Segment] = []

    @property
    def is_under_way(self) -> bool:
        """Whether segments are about to be replaced; known with the lock held."""
        return bool(self._incoming)

    def replace(self, new: list[Segment], old: list[Segment]) -> None:
        """Put `new` in the place of `old`. May take long: off the loop. See `PartitionLog.replace_segments`.

        The lock is let go for both fsyncs of the directory. That is safe: until the first one is through, the old
        segments are untouched and readers use them, appends and rolls only add names, retention waits for its next
        round, and a truncation takes the new segments back (`withdraw`). Once it is through, the disk holds old and
        new ones whatever happens, and recovery finishes the swap from any of the renames that follow; the second one
        merely has to come before the old files are unlinked.
        """
        log = self._log
        with log.lock:
            log.health.check()
            self._announce(new, old)
        try:
            log.files.sync_dir(log.directory)
        except OSError as error:
            with log.lock:
                if error.errno in NO_DESCRIPTOR:
                    self.withdraw()
                    raise log.health.refuse(error) from error
                raise log.health.fail(error, is_lost=True) from error
        with log.lock:
            log.health.check()
            if self._incoming is not new:
                raise ValueError(f"{log.topic_partition}: a segment to replace was cut off meanwhile")
            self._pin(old)
            removed = self._rename(new, old)
            self._put_in_force(new, old)
        try:
            log.files.sync_dir(log.directory)
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                raise log.health.fail(error, is_lost=True) from error
            log.flusher.note_names()  # the next flush does it; the old files stay until the next start
            return
        log.hooks.on_files_removed(log, removed)

    def _announce(self, new: list[Segment], old: list[Segment]) -> None:
        """Give the new segments the names from which recovery finishes the swap."""
        log = self._log
        if any(segment not in log.segments[:-1] for segment in old):
            raise ValueError(f"{log.topic_partition}: a segment to replace is not sealed or no longer there")
        try:
            for segment in sorted(new, key=base_offset_of, reverse=True):
                segment.rename(SWAP_SUFFIX)
                failpoints.hit("log.swap")
        except OSError as error:
            raise log.health.fail(error) from error
        self._incoming = new

    def _pin(self, old: list[Segment]) -> None:
        try:
            for segment in old:
                segment.pin()
        except OSError as error:
            if error.errno in PASSING:
                self.withdraw()
            raise self._log.health.refuse(error) from error

    def _rename(self, new: list[Segment], old: list[Segment]) -> list[str]:
        """Give old and new segments their last names; return the paths of the old files."""
        files = self._log.files
        removed: list[str] = []
        try:
            for segment in old:
                segment.rename(DELETED_SUFFIX)
                removed += [path for path in segment.paths() if files.exists(path)]
            failpoints.hit("log.swap.rename")
            for segment in new:
                segment.rename("")
        except OSError as error:
            raise self._log.health.fail(error) from error
        return removed

    def _put_in_force(self, new: list[Segment], old: list[Segment]) -> None:
        log = self._log
        gone = set(map(id, old))
        kept = [segment for segment in log.segments if id(segment) not in gone]
        log.flusher.forget(old)
        log.reader.forget_places()
        log.segments = link_segments(sorted([*kept, *new], key=base_offset_of))
        self._incoming = []
        for segment in old:
            log.aborted.forget_segment(segment)
        for segment in new:
            if segment.transaction_index.entries():
                log.aborted.add_segment(segment)

    def withdraw(self) -> None:
        """Take back segments that were about to replace others: `.cleaned` again, which recovery removes.

        Raises:
            StorageError: the disk failed.
        """
        incoming, self._incoming = self._incoming, []
        try:
            for segment in sorted(incoming, key=base_offset_of):
                segment.rename(CLEANED_SUFFIX)
        except OSError as error:
            raise self._log.health.fail(error) from error
