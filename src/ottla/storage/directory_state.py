"""What a log directory says of its partitions while no broker runs: how it was left, and its offset checkpoints.

Reads only, and does not stop at a file that is damaged: `LogDirectory` is what a broker opens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.errors import StorageError
from ottla.storage.checkpoints import (
    CLEAN_SHUTDOWN_FILE,
    CLEANER_FILE,
    HIGH_WATERMARK_FILE,
    LOCK_FILE,
    LOG_START_FILE,
    META_PROPERTIES_FILE,
    RECOVERY_POINT_FILE,
    CorruptCheckpointError,
    decode_offsets,
)
from ottla.storage.log_directory import MARKER_FILE, parse_partition_name
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.storage.files import FileLock, Files

OFFSET_FILES = (RECOVERY_POINT_FILE, LOG_START_FILE, HIGH_WATERMARK_FILE, CLEANER_FILE)
_OWN_FILES = {*OFFSET_FILES, META_PROPERTIES_FILE, CLEAN_SHUTDOWN_FILE, MARKER_FILE}


class InUseError(StorageError):
    """A broker holds the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOffsets:
    """What the directory knows of one partition; None where it says nothing.

    Attributes:
        is_clean: whether its log was closed: then it ends at `recovery_point`.
        is_recovery_point_lost: the checkpoint with it cannot be read: nothing says how much was on the disk.
        recovery_point: everything below was synced.
        log_start: where the log begins.
        high_watermark: what was replicated.
        cleaned_to: up to where compaction has come.
    """

    is_clean: bool = True
    is_recovery_point_lost: bool = False
    recovery_point: int | None = None
    log_start: int | None = None
    high_watermark: int | None = None
    cleaned_to: int | None = None

    def end_offset(self, newest_snapshot: int) -> int:
        """Return an offset that the log had reached for certain: two of three witnesses say so; 0 if none do."""
        others = [newest_snapshot, self.high_watermark or 0]
        if self.is_clean:
            return sorted([self.recovery_point or 0, *others])[1]
        return min(self.recovery_point or 0, max(others))


@dataclass(slots=True)
class DirectoryState:
    """A log directory as its files describe it.

    Attributes:
        path: without a slash at the end.
        names: what is in it.
        is_log_directory: whether any broker ever used it as one.
        is_clean: whether the last broker stopped cleanly.
        offsets: by checkpoint file, the offsets by partition; None where the file cannot be read.
        problems: why not.
    """

    path: str
    names: list[str]
    is_log_directory: bool
    is_clean: bool
    offsets: dict[str, dict[TopicPartition, int] | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def known(self, topic_partition: TopicPartition | None) -> KnownOffsets:
        """Return what is known of a partition; nothing if it has no name or lies outside of any log directory."""
        if topic_partition is None or not self.is_log_directory:
            return KnownOffsets()
        recovery_points = self.offsets[RECOVERY_POINT_FILE]
        rows = {name: (rows or {}).get(topic_partition) for name, rows in self.offsets.items()}
        return KnownOffsets(
            # A log without a checkpoint was not closed by the process that wrote the marker.
            is_clean=self.is_clean and recovery_points is not None and topic_partition in recovery_points,
            is_recovery_point_lost=recovery_points is None,
            recovery_point=rows[RECOVERY_POINT_FILE],
            log_start=rows[LOG_START_FILE],
            high_watermark=rows[HIGH_WATERMARK_FILE],
            cleaned_to=rows[CLEANER_FILE],
        )


def parent_of(path: str) -> str:
    """Return the directory that a directory is in."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def read_directory(files: Files, path: str) -> DirectoryState:
    """Read the small files of a log directory.

    Raises:
        OSError: the disk failed, or there is no such directory.
    """
    names = files.listdir(path)
    is_log_directory = any(
        name in _OWN_FILES or (parse_partition_name(name) and files.is_dir(f"{path}/{name}")) for name in names
    )
    state = DirectoryState(path, names, is_log_directory, CLEAN_SHUTDOWN_FILE in names)
    for name in OFFSET_FILES:
        state.offsets[name] = {}
        if name in names:
            try:
                state.offsets[name] = decode_offsets(files.read_bytes(f"{path}/{name}"), name)
            except OSError as error:
                state.offsets[name] = None
                state.problems[name] = error.strerror or str(error)
            except CorruptCheckpointError as error:
                state.offsets[name] = None
                state.problems[name] = str(error).removeprefix(f"{name}: ")
    return state


def lock_directory(files: Files, path: str, *, create: bool) -> FileLock | None:
    """Keep brokers out of a log directory until the lock is closed. None if there is no lock file, and none is made.

    Raises:
        InUseError: a broker runs.
        OSError: the disk failed.
    """
    name = f"{path}/{LOCK_FILE}"
    if not create and not files.exists(name):
        return None
    try:
        return files.lock(name)
    except BlockingIOError:
        raise InUseError(f"{path} is in use by a running broker: stop it first") from None
