"""Where a write may run: on the loop while the disk is quick, off it while the disk is slow.

A write to the page cache takes microseconds and a hop to a thread costs more than it saves. But a write can block for
seconds when dirty pages are being written back, and then every connection would wait. So each write is timed; a slow
one sends the following ones of its directory off the loop, for a moment, and if they are slow there, too, until they have
been quick for a while.

Decides only: knows times, no files, no threads.
"""

from __future__ import annotations

#: A write on the loop that takes longer marks the disk as slow.
SLOW_MS = 20
#: The disk counts as quick again when no write was slow for this long.
CALM_MS = 5_000
#: One slow write alone may be this process that waited for a processor: then writes leave the loop for this long only.
BRIEF_MS = 250
#: Bytes of batches that may wait for a slow directory. One batch may always wait.
QUEUED_BYTES_MAX = 128 << 20


class DiskPace:
    """The pace of one log directory.

    Attributes:
        queued_bytes: batches that wait for the directory, over all its partitions; those who queue them count.
    """

    __slots__ = ("_slow_ms", "_slow_until_ms", "queued_bytes", "slow_writes")

    def __init__(self) -> None:
        self._slow_ms = -CALM_MS
        self._slow_until_ms = 0
        self.slow_writes = 0
        self.queued_bytes = 0

    def on_write(self, took_ms: int, now_ms: int) -> None:
        """Take note of a write that ended now."""
        if took_ms >= SLOW_MS:
            self.slow_writes += 1
            is_first = now_ms - self._slow_ms >= CALM_MS
            self._slow_ms = now_ms
            self._slow_until_ms = now_ms + (BRIEF_MS if is_first else CALM_MS)

    def is_slow(self, now_ms: int) -> bool:
        """Return whether writes must leave the loop."""
        return now_ms < self._slow_until_ms

    def has_room(self, size: int) -> bool:
        """Return whether another batch of `size` bytes may wait."""
        return not self.queued_bytes or self.queued_bytes + size <= QUEUED_BYTES_MAX
