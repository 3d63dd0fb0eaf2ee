"""What a log calls its owner for: a flush that is due, files to unlink, errors, damage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog


class LogHooks(Protocol):
    """Called on the thread of the change, mostly with the log's lock held: only take note."""

    def on_flush_due(self, log: PartitionLog) -> None:
        """`flush.messages` was reached, or a segment was rolled: flush soon, off the loop."""
        ...

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        """These files were renamed to `.deleted`: unlink them after `file.delete.delay.ms`."""
        ...

    def on_refused(self, log: PartitionLog, error: OSError) -> None:
        """Something was not done because no space or no descriptor is left; it may be tried again."""
        ...

    def on_failed(self, log: PartitionLog, error: OSError) -> None:
        """The disk failed: its directory is to go offline."""
        ...

    def on_damaged(self, log: PartitionLog) -> None:
        """A part of the log cannot be read: see `PartitionLog.damages`. The rest goes on."""
        ...


class NoHooks:
    """Without an owner, removed files go at once."""

    def on_flush_due(self, log: PartitionLog) -> None:
        return None

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        for path in paths:
            log.files.remove(path)

    def on_refused(self, log: PartitionLog, error: OSError) -> None:
        return None

    def on_failed(self, log: PartitionLog, error: OSError) -> None:
        return None

    def on_damaged(self, log: PartitionLog) -> None:
        return None
