"""Where a write may run: on the loop while the disk is quick, off it while the disk is slow.

A write to the page cache takes microseconds and a hand-off to a thread costs more than it saves. But a write can block for
seconds when dirty pages are being written back, and then every connection would wait. So each write is timed; one that
waited long sends the following ones of its directory off the loop, for a moment, and if they are slow there, too, until
they have been quick for a while. One that took long because others had the processor says nothing about the disk
(`Clock.thread_waits`): with clients on the same two cores that happens every second, and off the loop a request costs
three times as much.

Decides only: knows times and no files. Threads may report writes, too: of two at the same moment one may go uncounted.
"""

from __future__ import annotations

#: A write that waits and takes longer marks the disk as slow.
SLOW_MS = 20
#: The disk counts as quick again when no write was slow for this long.
CALM_MS = 5_000
#: One slow write alone may be a chance, or a system that does not tell who waits: then writes leave the loop for this long.
BRIEF_MS = 250
#: Bytes of batches that may wait for a slow directory. One batch may always wait.
QUEUED_BYTES_MAX = 128 << 20


class DiskPace:
    """The pace of one log directory.

    Attributes:
        queued_bytes: batches that wait for the directory, over all its partitions; those who queue them count.
        asked_ms, waits: how often the loop's thread had waited, and when that was asked.
    """

    __slots__ = ("_slow_ms", "_slow_until_ms", "asked_ms", "queued_bytes", "slow_writes", "waits")

    def __init__(self) -> None:
        self._slow_ms = -CALM_MS
        self._slow_until_ms = 0
        self.slow_writes = 0
        self.queued_bytes = 0
        self.asked_ms = -1
        self.waits = 0

    def on_write(self, took_ms: int, now_ms: int) -> None:
        """Take note of a write that waited for the disk and ended now."""
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
