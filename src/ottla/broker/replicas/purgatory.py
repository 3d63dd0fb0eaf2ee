"""Fetches that wait for bytes. (Appends that wait for the high watermark do so in `Partition.committed`.)

Nothing here polls: a partition that makes progress calls those who wait for it. A waiter belongs to several partitions
(a fetch asks for many) and leaves all of them when it is done, so an abandoned one cannot pile up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from ottla.types import IsolationLevel

if TYPE_CHECKING:
    from ottla.broker.replicas.partition import Partition


class Waiter(Protocol):
    """Who waits for partitions to make progress."""

    def on_progress(self, byte_count: int, *, is_stable: bool) -> None:
        """See `FetchWaiter`."""
        ...

    def wake(self) -> None:
        """See `FetchWaiter`."""
        ...


class FetchWaiter:
    """Waits until there may be enough to read, something changed otherwise, or time is up: then look again.

    Args:
        partitions: what is waited for.
        bytes_wanted: how many more bytes are to become readable.
        isolation: READ_COMMITTED waits for the last stable offset to move: bytes of open transactions are of no use to it,
            and how many become readable with a decision only a look tells.
        of_follower: it waits for the end of the logs, whatever is committed.
    """

    __slots__ = ("_is_committed_only", "_of_follower", "_partitions", "bytes_wanted", "done")

    def __init__(
        self,
        partitions: Iterable[Partition],
        bytes_wanted: int,
        isolation: IsolationLevel,
        *,
        of_follower: bool = False,
    ) -> None:
        self.bytes_wanted = bytes_wanted
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_committed_only = isolation is IsolationLevel.READ_COMMITTED
        self._of_follower = of_follower
        self._partitions = list(partitions)
        for partition in self._partitions:
            (partition.replica_waiters if of_follower else partition.fetch_waiters)[self] = None

    def on_progress(self, byte_count: int, *, is_stable: bool) -> None:
        """The high watermark (of followers: the log end) has moved by `byte_count` bytes; `is_stable`: so has the last
        stable offset.
        """
        if self._is_committed_only:
            if is_stable:
                self.wake()
            return
        self.bytes_wanted -= byte_count
        if self.bytes_wanted <= 0:
            self.wake()

    def wake(self) -> None:
        """Look again: a role, a log start or a topic has changed."""
        if not self.done.done():
            self.done.set_result(None)

    async def wait(self, timeout_ms: int) -> None:
        """Return when it is time to look again; then no partition calls this waiter any more."""
        handle = asyncio.get_running_loop().call_later(timeout_ms / 1000, self.wake)
        try:
            await self.done
        finally:
            handle.cancel()
            self.leave()

    def leave(self) -> None:
        """Wait no more."""
        for partition in self._partitions:
            (partition.replica_waiters if self._of_follower else partition.fetch_waiters).pop(self, None)
