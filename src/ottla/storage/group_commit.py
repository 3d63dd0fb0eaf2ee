"""Group commit: one round of fsyncs for everybody who waits for one, in one log directory.

Requests that come in the same turn of the loop, and all that come while a round runs, share the next round. A round of
few logs syncs them in a few lanes at once, because file systems merge journal commits of parallel fsyncs; each lane's
waiters are told as soon as it is through. A round of more logs syncs the file system as a whole, where that can be done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ottla import failpoints

if TYPE_CHECKING:
    from ottla.offload import Offload
    from ottla.storage.files import FileSystem
    from ottla.storage.log import FlushPoint, PartitionLog

logger = logging.getLogger(__name__)

#: fsyncs at once.
LANES = 4
#: With so many logs one sync of the file system costs less than theirs.
SHARED_MIN = 3
#: When that was not wise, so many rounds do without asking again.
ROUNDS_WITHOUT = 100

Then = Callable[[BaseException | None], None]
"""Called on the loop when a commit has ended: with None or with what went wrong."""

_Waiting = dict["PartitionLog", list[Then]]


class GroupCommit:
    """Collects commits and runs the rounds. All methods belong to the loop's thread."""

    def __init__(self, offload: Offload, wall_ms: Callable[[], int], file_system: FileSystem | None = None) -> None:
        self._offload = offload
        self._wall_ms = wall_ms
        self._file_system = file_system
        self._rounds_without = 0
        self._has_shared = False
        self._waiting: _Waiting = {}
        self._task: asyncio.Task[None] | None = None

    def commit(self, log: PartitionLog, then: Then) -> None:
        """Have everything that was appended to `log` before this call brought to the disk; `then` is told.

        It gets a `StorageError` if the fsync fails: the directory goes offline and there is no second try; a
        `KafkaStorageError` if no space or no descriptor is left: the next commit covers this one, too; a
        `CancelledError` if the broker ends first.
        """
        waiting = self._waiting.get(log)
        if waiting is None:
            self._waiting[log] = [then]
        else:
            waiting.append(then)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._rounds())

    async def _rounds(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                points = self._begin_shared(batch)
                if not points:
                    await self._in_lanes(batch)
                elif len(points) == len(batch):
                    await self._together(batch, points)
                else:
                    shared = {log: batch[log] for log in points}
                    rest = {log: thens for log, thens in batch.items() if log not in points}
                    await asyncio.gather(self._in_lanes(rest), self._together(shared, points))
        finally:
            self._task = None

    def _begin_shared(self, batch: _Waiting) -> dict[PartitionLog, FlushPoint]:
        """Return the logs of a round that are to be synced with the file system, and up to where.

        That is fixed before the sync begins: what is appended meanwhile may be on the disk then, or not.
        """
        if self._file_system is None or len(batch) < SHARED_MIN:
            return {}
        if self._rounds_without:
            self._rounds_without -= 1
            return {}
        if not self._file_system.has_little_to_write():
            self._rounds_without = ROUNDS_WITHOUT
            return {}
        now_ms = self._wall_ms()
        points = {}
        for log in batch:
            point = log.begin_shared_flush(now_ms)
            if point is not None:
                points[log] = point
        return points if len(points) >= SHARED_MIN else {}

    async def _together(self, batch: _Waiting, points: dict[PartitionLog, FlushPoint]) -> None:
        assert self._file_system is not None
        try:
            error = await self._offload.run(_sync, self._file_system)
        except BaseException:
            _tell(batch, [asyncio.CancelledError()] * len(batch))
            raise
        if error is not None:
            _tell(batch, [log.fail_shared_flush(error) for log in batch])
            return
        if not self._has_shared:
            self._has_shared = True
            logger.info("fsyncs of several logs are made as one sync of their file system")
        late: _Waiting = {}
        for log, thens in batch.items():
            if not log.end_shared_flush(points[log]):
                late[log] = thens
                continue
            for then in thens:
                _tell_one(then, None)
        if late:
            await self._in_lanes(late)

    async def _in_lanes(self, batch: _Waiting) -> None:
        if len(batch) == 1:
            await self._lane(batch)
        else:
            items = list(batch.items())
            await asyncio.gather(*(self._lane(dict(items[lane::LANES])) for lane in range(min(LANES, len(items)))))

    async def _lane(self, batch: _Waiting) -> None:
        try:
            results = await self._offload.run(_flush_all, list(batch), self._wall_ms())
        except BaseException:
            _tell(batch, [asyncio.CancelledError()] * len(batch))
            raise
        _tell(batch, results)

    async def drain(self) -> None:
        """Wait until nobody waits."""
        while self._task is not None:
            await asyncio.wait([self._task])


def _tell(batch: _Waiting, results: Sequence[BaseException | None]) -> None:
    for thens, problem in zip(batch.values(), results, strict=True):
        for then in thens:
            _tell_one(then, problem)


def _tell_one(then: Then, problem: BaseException | None) -> None:
    try:
        then(problem)
    except Exception:
        logger.exception("what follows a commit failed")  # for one of them; the others are told


def _flush_all(logs: list[PartitionLog], now_ms: int) -> list[Exception | None]:
    results: list[Exception | None] = []
    for log in logs:
        try:
            log.flush(now_ms=now_ms)
            results.append(None)
        except Exception as error:
            results.append(error)
    return results


def _sync(file_system: FileSystem) -> OSError | None:
    failpoints.hit("log.flush")
    try:
        file_system.sync()
    except OSError as error:
        return error
    return None
