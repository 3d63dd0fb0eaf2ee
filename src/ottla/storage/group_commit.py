"""Group commit: one fsync per log and round for everybody who waits for one, in one log directory.

Requests that come in the same turn of the loop, and all that come while a round's fsyncs run, share the next round. A round
syncs its logs in a few lanes at once, because file systems merge journal commits of parallel fsyncs; each lane's waiters
are told as soon as it is through.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.offload import Offload
    from ottla.storage.log import PartitionLog

#: fsyncs at once.
LANES = 4


class GroupCommit:
    """Collects commits and runs the rounds. All methods belong to the loop's thread."""

    def __init__(self, offload: Offload, wall_ms: Callable[[], int]) -> None:
        self._offload = offload
        self._wall_ms = wall_ms
        self._waiting: dict[PartitionLog, list[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def commit(self, log: PartitionLog) -> asyncio.Future[None]:
        """Return what resolves when everything appended to `log` before this call is on the disk.

        It fails with `StorageError` if the fsync fails: the directory goes offline and there is no second try; and with
        `KafkaStorageError` if no space or no descriptor is left: the next commit covers this one, too.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        # Nobody need look at it: a failure reaches the owner through the log's hooks, too.
        future.add_done_callback(_look_at)
        self._waiting.setdefault(log, []).append(future)
        if self._task is None:
            self._task = loop.create_task(self._rounds())
        return future

    async def _rounds(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                items = list(batch.items())
                lanes = [items[lane::LANES] for lane in range(min(LANES, len(items)))]
                if len(lanes) == 1:
                    await self._lane(lanes[0])
                else:
                    await asyncio.gather(*map(self._lane, lanes))
        finally:
            self._task = None

    async def _lane(self, items: list[tuple[PartitionLog, list[asyncio.Future[None]]]]) -> None:
        try:
            results = await self._offload.run(_flush_all, [log for log, _ in items], self._wall_ms())
        except BaseException:
            for _, futures in items:
                for future in futures:
                    future.cancel()
            raise
        for (_, futures), problem in zip(items, results, strict=True):
            for future in futures:
                if future.done():
                    continue
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)

    async def drain(self) -> None:
        """Wait until nobody waits."""
        while self._task is not None:
            await asyncio.wait([self._task])


def _look_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _flush_all(logs: list[PartitionLog], now_ms: int) -> list[Exception | None]:
    results: list[Exception | None] = []
    for log in logs:
        try:
            log.flush(now_ms=now_ms)
            results.append(None)
        except Exception as error:
            results.append(error)
    return results
