"""The snapshot files of one log: the state of its producers as of the offset in each name.

A roll and a close write one, a truncation and the deletion of a segment remove some. Recovery reads the newest one and
replays the batches behind it (`recovery.replay_producers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.storage.segment import DELETED_SUFFIX, SNAPSHOT_SUFFIX, file_name

if TYPE_CHECKING:
    from ottla.storage.log import PartitionLog


class ProducerSnapshots:
    """The snapshots of one log.

    Attributes:
        offsets: of the snapshots that exist, in no order.
    """

    __slots__ = ("_log", "offsets")

    def __init__(self, log: PartitionLog, offsets: list[int]) -> None:
        self.offsets = offsets
        self._log = log

    @property
    def newest(self) -> int:
        """The largest offset of a snapshot; 0 if there is none."""
        return max(self.offsets, default=0)

    def write(self, offset: int) -> None:
        """Write the present state of the producers as of `offset`. The next flush makes the file durable.

        Raises:
            OSError: the disk failed or is full.
        """
        log = self._log
        path = self._path(offset)
        log.files.write_atomic(path, log.producers.snapshot(), sync=False)
        if offset not in self.offsets:
            self.offsets.append(offset)
        log.flusher.note_snapshot(path)

    def retire(self, offset: int) -> str:
        """Rename the snapshot of `offset` to `.deleted`; return the new path.

        Raises:
            OSError: the disk failed.
        """
        path = self._path(offset)
        self._log.files.rename(path, path + DELETED_SUFFIX)
        self.offsets.remove(offset)
        return path + DELETED_SUFFIX

    def remove_above(self, offset: int) -> None:
        """Remove the snapshots of larger offsets than `offset`.

        Raises:
            OSError: the disk failed.
        """
        for snapshot in [known for known in self.offsets if known > offset]:
            self._log.files.remove(self.retire(snapshot))

    def _path(self, offset: int) -> str:
        return f"{self._log.directory}/{file_name(offset)}{SNAPSHOT_SUFFIX}"
