"""Leader epochs of one partition: (epoch, first offset written in it), both growing.

They show where two logs part (KIP-101, KIP-279). Knows no files: `encode` and `decode` are the text of
leader-epoch-checkpoint. Kafka's LeaderEpochFileCache.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from ottla.storage.checkpoints import decode_rows, encode_rows

UNDEFINED_EPOCH = -1
UNDEFINED_OFFSET = -1


class EpochEntry(NamedTuple):
    """An epoch and the offset of the first batch written in it."""

    epoch: int
    start_offset: int


class LeaderEpochs:
    """The epochs of one log, oldest first. `is_dirty`: the file is behind."""

    __slots__ = ("_epochs", "_starts", "is_dirty")

    def __init__(self, entries: list[EpochEntry] | None = None) -> None:
        self._epochs = [entry.epoch for entry in entries or ()]
        self._starts = [entry.start_offset for entry in entries or ()]
        self.is_dirty = False

    @property
    def latest(self) -> int:
        """The newest epoch, -1 if none is known."""
        return self._epochs[-1] if self._epochs else UNDEFINED_EPOCH

    @property
    def first_start(self) -> int:
        """Where the oldest known epoch begins, -1 if none is known."""
        return self._starts[0] if self._starts else -1

    @property
    def entries(self) -> list[EpochEntry]:
        """All entries, oldest first."""
        return [EpochEntry(*pair) for pair in zip(self._epochs, self._starts, strict=True)]

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` writes from `start_offset` on; return whether anything changed.

        Entries that contradict it (a later epoch or a later start) belong to a log that was cut: they go.
        """
        epochs, starts = self._epochs, self._starts
        if epoch < 0 or (epochs and epochs[-1] == epoch):
            return False
        keep = min(bisect_left(epochs, epoch), bisect_left(starts, start_offset))
        if keep < len(epochs) and epochs[keep] == epoch and starts[keep] <= start_offset:
            return False
        del epochs[keep:], starts[keep:]
        epochs.append(epoch)
        starts.append(start_offset)
        self.is_dirty = True
        return True

    def end_offset_for(self, epoch: int, log_end_offset: int) -> tuple[int, int]:
        """Return (the largest known epoch up to `epoch`, the offset where it ends), (-1, -1) if nothing is known.

        An epoch before all known ones ends where the first known one starts.
        """
        epochs, starts = self._epochs, self._starts
        if epoch == UNDEFINED_EPOCH or not epochs:
            return UNDEFINED_EPOCH, UNDEFINED_OFFSET
        if epoch == epochs[-1]:
            return epoch, log_end_offset
        above = bisect_right(epochs, epoch)
        if above == len(epochs):
            return UNDEFINED_EPOCH, UNDEFINED_OFFSET
        if above == 0:
            return epoch, starts[0]
        return epochs[above - 1], starts[above]

    def epoch_for(self, offset: int) -> int:
        """Return the epoch in which `offset` was or will be written, -1 if unknown."""
        index = bisect_right(self._starts, offset)
        return self._epochs[index - 1] if index else UNDEFINED_EPOCH

    def truncate_end(self, end_offset: int) -> None:
        """Drop epochs that start at `end_offset` or later."""
        keep = bisect_left(self._starts, end_offset)
        if keep < len(self._starts):
            del self._epochs[keep:], self._starts[keep:]
            self.is_dirty = True

    def truncate_start(self, start_offset: int) -> None:
        """Drop epochs that end at `start_offset` or before; the one it lies in starts there."""
        gone = bisect_right(self._starts, start_offset)
        if not gone or (gone == 1 and self._starts[0] == start_offset):
            return
        del self._epochs[: gone - 1], self._starts[: gone - 1]
        self._starts[0] = start_offset
        self.is_dirty = True

    def replace(self, other: LeaderEpochs) -> None:
        """Take the entries of another, in the place of these."""
        self._epochs[:], self._starts[:] = other._epochs, other._starts
        self.is_dirty = True

    def clear(self) -> None:
        """Drop everything."""
        if self._epochs:
            self._epochs.clear()
            self._starts.clear()
            self.is_dirty = True

    def encode(self) -> bytes:
        """Return the text of leader-epoch-checkpoint."""
        return encode_rows(f"{epoch} {start}" for epoch, start in zip(self._epochs, self._starts, strict=True))

    @classmethod
    def decode(cls, data: bytes, where: str) -> LeaderEpochs:
        """Read the text of leader-epoch-checkpoint.

        Raises:
            CorruptCheckpointError: it is none.
        """
        return cls([EpochEntry(int(row[0]), int(row[1])) for row in decode_rows(data, 2, where)])
