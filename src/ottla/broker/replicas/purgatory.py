"""Fetches that wait for bytes. (Appends that wait for the high watermark do so in `Partition.committed`.)

Nothing here polls: a partition that makes progress calls those who wait for it. A waiter belongs to several partitions
(a fetch asks for many) and leaves all of them when it is done, so an abandoned one cannot pile up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.broker.replicas.partition import Partition


class FetchWaiter:
    """Waits until partitions have made `bytes_wanted` bytes of progress, one changed otherwise, or time is up."""

    __slots__ = ("_partitions", "bytes_wanted", "done")

    def __init__(self, partitions: Iterable[Partition], bytes_wanted: int) -> None:
        self.bytes_wanted = bytes_wanted
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._partitions = list(partitions)
        for partition in self._partitions:
            partition.fetch_waiters[self] = None

    def on_progress(self, byte_count: int) -> None:
        """`byte_count` more bytes have become readable."""
        self.bytes_wanted -= byte_count
        if self.bytes_wanted <= 0:
            self.wake()

    def wake(self) -> None:
        """Answer now: a role, a log start or a topic has changed."""
        if not self.done.done():
            self.done.set_result(None)

    async def wait(self, timeout_ms: int) -> None:
        """Return when it is time to read again; then nobody calls this waiter any more."""
        handle = asyncio.get_running_loop().call_later(timeout_ms / 1000, self.wake)
        try:
            await self.done
        finally:
            handle.cancel()
            for partition in self._partitions:
                partition.fetch_waiters.pop(self, None)
