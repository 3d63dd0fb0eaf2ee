"""One log on its way to another log directory of its broker (KIP-113).

A copy grows beside the log, in `<target>/<topic>-<partition>.<...>-future`, while the log is used; when little is left the
log stands still for a moment: the copy gets the rest and takes its place. What a crash leaves behind: before the log's
directory has been renamed, the log and a copy of part of it, which the next start deletes; after that, a whole copy alone,
which the next start takes for the log (`LogManager.load`).

Shell around files: everything here waits for disks, and runs off the loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from ottla.errors import StorageError
from ottla.storage.log_directory import DELETE_SUFFIX, FUTURE_SUFFIX, parse_partition_name, renamed

if TYPE_CHECKING:
    from ottla.storage.appended import AppendInfo
    from ottla.storage.log import PartitionLog
    from ottla.types import TopicPartition

logger = logging.getLogger(__name__)

#: Bytes that one step copies.
STEP_BYTES = 1 << 20
#: The log stands still when no more than so many bytes are left to be copied.
REST_BYTES = 4 << 20
_NAME_MAX = 255


class Owner(Protocol):
    """What a relocation needs of the log manager."""

    def open_log(
        self,
        directory: str,
        like: PartitionLog,
        *,
        log_start_offset: int = 0,
        high_watermark: int | None = None,
        clean_at: int | None = None,
    ) -> PartitionLog:
        """Open a log of the partition of `like`; `clean_at`: it was closed and ends there."""
        ...

    def put_in_place(self, old: PartitionLog, new: PartitionLog, deleted: str) -> None:
        """From now on `new` is the partition's log; `deleted` is to be unlinked later."""
        ...

    def discard(self, log: PartitionLog) -> None:
        """Have a copy unlinked."""
        ...


class Relocation:
    """One move. Its methods wait for disks; one at a time.

    Attributes:
        target: the log directory to which the log moves.
        log: the log that moves, as it was when the move began.
        copy: what grows in the target; None before `begin`.
    """

    def __init__(self, owner: Owner, log: PartitionLog, target: str, unique: bytes) -> None:
        self.log = log
        self.target = target
        self.copy: PartitionLog | None = None
        self._owner = owner
        self._unique = unique

    def begin(self) -> None:
        """Make the copy, empty.

        Raises:
            StorageError, OSError: it cannot be made.
        """
        name = f"{self.log.topic_partition}.{self._unique.hex()[:8]}{FUTURE_SUFFIX}"
        if len(name) > _NAME_MAX:
            raise StorageError(f"the name of {self.log.topic_partition} is too long for a copy of it")
        self.copy = self._owner.open_log(f"{self.target}/{name}", self.log)

    @property
    def lag(self) -> int:
        """How many offsets the copy lacks."""
        return 0 if self.copy is None else max(0, self.log.log_end_offset - self.copy.log_end_offset)

    @property
    def is_near(self) -> bool:
        """Whether little is left to be copied."""
        copy, log = self.copy, self.log
        return copy is not None and log.size - copy.size <= REST_BYTES and copy.log_end_offset >= log.log_start_offset

    def copy_some(self, now_ms: int) -> int:
        """Copy about STEP_BYTES; return how many bytes that were, 0 at the end of the log.

        Raises:
            KafkaError, StorageError, OSError: the log cannot be read, or the copy not be written.
        """
        log, copy = self.log, self.copy
        assert copy is not None
        begins = log.log_start_offset
        if copy.log_end_offset < begins or self._has_diverged(copy):
            copy.truncate_fully_and_start_at(begins, now_ms=now_ms)
        at = copy.log_end_offset
        if at >= log.log_end_offset:
            return 0
        part = log.read(at, STEP_BYTES, upper_offset=log.log_end_offset)
        data = bytearray(part.read())
        if not data:
            raise StorageError(f"{log.topic_partition} has no batch from {at} to its end at {log.log_end_offset}")
        info: AppendInfo = copy.append_as_follower(data, now_ms=now_ms)
        if info.last_offset < at:
            raise StorageError(f"{log.topic_partition}: what was read at {at} does not go on there")
        return len(data)

    def _has_diverged(self, copy: PartitionLog) -> bool:
        """Whether the log was cut below what has been copied: as a follower it has to agree with its leader."""
        end = copy.log_end_offset
        if end > self.log.log_end_offset:
            return True
        latest = copy.leader_epochs.latest
        if latest < 0 or end == copy.log_start_offset:
            return False
        epoch, epoch_end = self.log.end_offset_for_epoch(latest)
        return epoch != latest or epoch_end < end

    def flush(self) -> None:
        """Bring the copy to the disk, so that little is left when the log stands still."""
        assert self.copy is not None
        self.copy.flush()

    def finish(self, now_ms: int) -> PartitionLog:
        """Have the copy take the log's place; return it. The log is of no use afterwards.

        Raises:
            KafkaError, StorageError, OSError: it could not; the log goes on if it has not failed.
        """
        log, copy = self.log, self.copy
        assert copy is not None
        with log.lock:  # nothing changes it any more; readers go on
            log.health.check()
            while self.copy_some(now_ms):
                pass
            copy.close()
            end, files = copy.log_end_offset, log.files
            parent, place = log.log_directory, f"{self.target}/{log.topic_partition}"
            deleted = f"{parent}/{renamed(log.topic_partition, self._unique, DELETE_SUFFIX)}"
            files.rename(log.directory, deleted)
            try:
                files.sync_dir(parent)
                files.rename(copy.directory, place)
                files.sync_dir(self.target)
                new = self._owner.open_log(
                    place, log, log_start_offset=log.log_start_offset, high_watermark=log.high_watermark, clean_at=end
                )
            except BaseException:
                log.abandon(f"{log.topic_partition} was moved to {self.target}, and that failed")
                raise
            log.fence()
            self._owner.put_in_place(log, new, deleted)
            log.abandon(f"{log.topic_partition} was moved to {self.target}")
        return new

    def give_up(self) -> None:
        """Forget the copy."""
        copy, self.copy = self.copy, None
        if copy is not None:
            copy.abandon(f"the move to {self.target} was given up")
            self._owner.discard(copy)


def partition_of_future(name: str) -> TopicPartition | None:
    """Return whose copy a directory of this name is, None if it is none."""
    if not name.endswith(FUTURE_SUFFIX):
        return None
    return parse_partition_name(name.rpartition(".")[0])
