"""What of a log is not on the disk yet, and how a flush brings it there.

A flush takes down what is due with the lock held, lets go of the lock for its fsyncs, and moves the recovery point
afterwards, unless a truncation came between. Where only the data of the active segment is due, the owner may do the
fsync itself: `begin_flush`, `end_flush`, `fail_flush` (`group_commit`).

Invariant: everything below the recovery point is on the disk, names of files included. After a failed fsync it is unknown
what is on the disk: the log fails, and no second fsync is tried. An fsync that finds no descriptor was not begun: the
next flush does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ottla import failpoints
from ottla.storage.checkpoints import LEADER_EPOCH_FILE, PARTITION_METADATA_FILE
from ottla.storage.files import NO_DESCRIPTOR, PASSING
from ottla.storage.locking import try_locked
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ottla.errors import StorageError
    from ottla.storage.files import File
    from ottla.storage.log import PartitionLog
    from ottla.storage.segment import Segment


class FlushPoint(NamedTuple):
    """How far a log is on the disk when `file` is (None: it is already), and in which life between two truncations."""

    end_offset: int
    generation: int
    file: File | None


@dataclass(slots=True)
class _Due:
    """What the next flush makes durable besides the data of the segments.

    Attributes:
        snapshots: paths of producer snapshots.
        directory: whether names in the directory of the log changed.
        is_new: whether the directory itself, or its partition.metadata, is new.
        was_cut: whether the active segment became shorter.
    """

    snapshots: list[str] = field(default_factory=list)
    directory: bool = False
    is_new: bool = False
    was_cut: bool = False

    def __bool__(self) -> bool:
        return bool(self.snapshots or self.directory or self.is_new or self.was_cut)

    def add(self, earlier: _Due) -> None:
        """Add what an earlier flush could not do."""
        self.snapshots[:0] = earlier.snapshots
        self.directory |= earlier.directory
        self.is_new |= earlier.is_new
        self.was_cut |= earlier.was_cut


class _Work(NamedTuple):
    """What one flush does."""

    end_offset: int
    generation: int
    sealed: list[Segment]
    #: The data of the active segment, None if it is on the disk.
    file: File | None
    #: The active segment, if its indexes are made durable, too.
    indexed: Segment | None
    #: The new leader-epoch-checkpoint, None if it has not changed.
    epochs: bytes | None
    due: _Due


class LogFlusher:
    """Flushes one log.

    Attributes:
        recovery_point: everything below it is on the disk.
        last_flush_ms: when the log was last flushed, for `flush.ms`.
    """

    __slots__ = ("_due", "_generation", "_log", "_sealed", "last_flush_ms", "recovery_point")

    def __init__(self, log: PartitionLog, now_ms: int) -> None:
        self.recovery_point = log.log_start_offset
        self.last_flush_ms = now_ms
        self._log = log
        #: Sealed segments whose data is not on the disk.
        self._sealed: list[Segment] = []
        self._due = _Due()
        #: Grows with each truncation.
        self._generation = 0

    # -- what changed: called with the lock held

    def note_new(self) -> None:
        """Note that the directory of the log, or its partition.metadata, is new."""
        self._due.is_new = True

    def note_names(self) -> None:
        """Note that files of the log were made, renamed or removed."""
        self._due.directory = True

    def note_snapshot(self, path: str) -> None:
        """Note a new producer snapshot."""
        self._due.snapshots.append(path)
        self._due.directory = True

    def note_sealed(self, segments: Iterable[Segment]) -> None:
        """Note segments that are sealed and not on the disk."""
        self._sealed.extend(segments)

    def note_cut(self) -> None:
        """Note that the active segment became shorter, or may be in the page cache only."""
        self._due.was_cut = True

    def forget(self, segments: Iterable[Segment]) -> None:
        """Forget segments that are no sealed segments of the log any more."""
        gone = set(map(id, segments))
        self._sealed = [segment for segment in self._sealed if id(segment) not in gone]

    def begin_generation(self) -> None:
        """Note that a truncation begins: a flush that is under way moves no recovery point."""
        self._generation += 1

    # -- flush

    def flush(self, *, with_indexes: bool = False, now_ms: int | None = None) -> int:
        """Make everything appended so far durable; return the new recovery point. See `PartitionLog.flush`.

        Args:
            with_indexes: the indexes of the active segment, too, which recovery would rebuild.
            now_ms: the new `last_flush_ms`.
        """
        log = self._log
        with log.lock:
            work = self._take(with_indexes, now_ms)
        if work is None:
            return self.recovery_point
        passing = NO_DESCRIPTOR
        try:
            failpoints.hit("log.flush")
            self._sync_files(work)
            if work.epochs is not None:
                # A new file each time: it can be tried again even if it was its fsync that found no space.
                passing = PASSING
                log.files.write_atomic(f"{log.directory}/{LEADER_EPOCH_FILE}", work.epochs)
                passing = NO_DESCRIPTOR
            self._sync_names(work)
        except OSError as error:
            if error.errno not in passing:
                raise log.health.fail(error, is_lost=True) from error
            with log.lock:
                self._put_back(work.due, work.epochs)
            raise log.health.refuse(error) from error
        with log.lock:
            return self._settle(work)

    def _take(self, with_indexes: bool, now_ms: int | None) -> _Work | None:
        """Take down what is due, and count it as done; None if nothing is."""
        log = self._log
        if now_ms is not None:
            self.last_flush_ms = now_ms
        end, active, due = log.log_end_offset, log.active_segment, self._due
        is_behind = end != self.recovery_point
        indexed = active if with_indexes and active.has_unsynced_indexes else None
        if not (
            is_behind
            or self._sealed
            or due.snapshots
            or due.directory
            or due.was_cut
            or log.leader_epochs.is_dirty
            or indexed
        ):
            return None  # a directory that is new and holds nothing can wait
        epochs = log.leader_epochs.encode() if log.leader_epochs.is_dirty else None
        log.leader_epochs.is_dirty = False
        self._due = _Due()
        try:
            is_dirty = due.was_cut or (end > self.recovery_point and active.size > 0)
            file = active.open_for_append() if is_dirty else None
        except OSError as error:
            self._put_back(due, epochs)
            raise log.health.refuse(error) from error
        return _Work(end, self._generation, self._sealed[:], file, indexed, epochs, due)

    def _put_back(self, due: _Due, epochs: bytes | None) -> None:
        self._due.add(due)
        self._log.leader_epochs.is_dirty |= epochs is not None

    def _sync_files(self, work: _Work) -> None:
        for segment in work.sealed:
            self._sync_sealed(segment)
        if work.file is not None:
            work.file.datasync()
        if work.indexed is not None:
            work.indexed.sync_indexes()
        for path in work.due.snapshots:
            self._sync_path(path)

    def _sync_names(self, work: _Work) -> None:
        log, due = self._log, work.due
        if due.is_new and log.topic_id != ZERO_UUID:
            self._sync_path(f"{log.directory}/{PARTITION_METADATA_FILE}")
        if due.is_new or (due.directory and work.epochs is None):
            log.files.sync_dir(log.directory)
        if due.is_new:
            log.files.sync_dir(log.log_directory or ".")

    def _settle(self, work: _Work) -> int:
        if work.generation == self._generation:
            self.recovery_point = max(self.recovery_point, work.end_offset)
            for segment in work.sealed:
                segment.release()
            self.forget(work.sealed)
        return self.recovery_point

    def _sync_sealed(self, segment: Segment) -> None:
        try:
            segment.sync()
        except FileNotFoundError:
            if segment in self._log.segments:
                raise  # else it was deleted or cut off meanwhile

    def _sync_path(self, path: str) -> None:
        try:
            self._log.files.sync_file(path)
        except FileNotFoundError:
            pass  # removed meanwhile, with its segment

    # -- flushes whose fsync the owner does

    def begin_flush(self, now_ms: int) -> FlushPoint | None:
        """Return up to where one fsync makes the log durable, None if that takes more. See `PartitionLog.begin_flush`."""
        return try_locked(self._log.lock, self._begin_flush, now_ms)

    def _begin_flush(self, now_ms: int) -> FlushPoint | None:
        log = self._log
        if log.health.failure is not None or self._sealed or self._due or log.leader_epochs.is_dirty:
            return None
        end, active = log.log_end_offset, log.active_segment
        is_dirty = end > self.recovery_point and active.size > 0
        try:
            file = active.open_for_append() if is_dirty else None
        except OSError:
            return None
        self.last_flush_ms = now_ms
        return FlushPoint(end, self._generation, file)

    def end_flush(self, point: FlushPoint) -> bool:
        """Take in that `point` is on the disk. False: another thread changes the log right now, use `flush`."""
        return try_locked(self._log.lock, self._end_flush, point) is not None

    def _end_flush(self, point: FlushPoint) -> bool:
        if point.generation == self._generation:
            self.recovery_point = max(self.recovery_point, point.end_offset)
        return True

    def fail_flush(self, error: OSError) -> StorageError:
        """Take in that the fsync of a point failed: the log has failed. Return what to raise."""
        return self._log.health.fail(error, is_lost=True)
