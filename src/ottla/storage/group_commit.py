"""Group commit: one round of fsyncs for all that wait for one, in one log directory.

Requests that come in the same turn of the loop, and all that come while a round runs, share the next round. A round of
few logs syncs them in a few lanes at once, because file systems merge journal commits of parallel fsyncs; each lane's
callers are called back as soon as it is through. A round of more logs syncs the file system as a whole, where that can be
done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ottla import failpoints
from ottla.errors import KafkaStorageError

if TYPE_CHECKING:
    from ottla.offload import Offload
    from ottla.storage.files import File, FileSystem
    from ottla.storage.flushing import FlushPoint
    from ottla.storage.log import PartitionLog

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
_Points = Mapping["PartitionLog", "FlushPoint | None"]
P = ParamSpec("P")
T = TypeVar("T")


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
        """Bring everything that was appended to `log` before this call to the disk, then call `then`.

        It gets None, or a `StorageError` if the fsync fails: the directory goes offline and there is no second try; a
        `KafkaStorageError` if no space, no descriptor or no thread is left: the next commit covers this one, too; a
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
                try:
                    await self._round(batch)
                except Exception as error:
                    # Who is never called back waits for ever, and with it everything that is appended behind it.
                    logger.exception("a round of fsyncs has ended early")
                    problem = KafkaStorageError(f"the fsync has not been ended: {error!r}")
                    for thens in batch.values():
                        _call_back(thens, problem)
        finally:
            self._task = None

    async def _round(self, batch: _Waiting) -> None:
        now_ms = self._wall_ms()
        # Up to where each log is to be on the disk is fixed before the fsync begins: what is appended meanwhile may be
        # there then, or not.
        points = {log: self._begin(log, now_ms) for log in batch}
        plain = [log for log, point in points.items() if point is not None]
        if len(plain) < SHARED_MIN or not self._may_share():
            await self._in_lanes(batch, points)
        elif len(plain) == len(batch):
            await self._together(batch, points)
        else:
            rest = {log: thens for log, thens in batch.items() if points[log] is None}
            shared = {log: batch[log] for log in plain}
            await asyncio.gather(self._in_lanes(rest, points), self._together(shared, points))

    def _begin(self, log: PartitionLog, now_ms: int) -> FlushPoint | None:
        try:
            return log.begin_flush(now_ms)
        except OSError:  # `flush` meets it again and says what it means
            return None

    def _may_share(self) -> bool:
        """Whether to sync the file system now."""
        if self._file_system is None:
            return False
        if self._rounds_without:
            self._rounds_without -= 1
            return False
        try:
            has_little = self._file_system.has_little_to_write()
        except (OSError, ValueError):  # the system does not say
            has_little = False
        if not has_little:
            self._rounds_without = ROUNDS_WITHOUT
            return False
        return True

    async def _together(self, batch: _Waiting, points: _Points) -> None:
        assert self._file_system is not None
        written = [point.file for log in batch if (point := points[log]) is not None and point.file is not None]
        error = await self._off_the_loop(batch, _sync, self._file_system, written[:1])
        if isinstance(error, KafkaStorageError):
            return
        if error is not None:
            await self._end(batch, points, [error] * len(batch))
            return
        if not self._has_shared:
            self._has_shared = True
            logger.info("fsyncs of several logs are made as one sync of their file system")
        await self._end(batch, points, [None] * len(batch))

    async def _in_lanes(self, batch: _Waiting, points: _Points) -> None:
        if len(batch) == 1:
            await self._lane(batch, points)
        else:
            items = list(batch.items())
            lanes = [dict(items[lane::LANES]) for lane in range(min(LANES, len(items)))]
            await asyncio.gather(*(self._lane(lane, points) for lane in lanes))

    async def _lane(self, batch: _Waiting, points: _Points) -> None:
        logs = list(batch)
        results = await self._off_the_loop(batch, _sync_all, logs, [points[log] for log in logs], self._wall_ms())
        if not isinstance(results, KafkaStorageError):
            await self._end(batch, points, results)

    async def _off_the_loop(
        self, batch: _Waiting, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | KafkaStorageError:
        """Return the result of `function`; a `KafkaStorageError`, which the callers have got, if no thread ran it."""
        try:
            return await self._offload.run(function, *args, **kwargs)
        except Exception as error:  # no thread was to be had
            problem = KafkaStorageError(f"the fsync could not be begun: {error}")
            logger.error("%s", problem)
            for thens in batch.values():
                _call_back(thens, problem)
            return problem
        except BaseException:
            for thens in batch.values():
                _call_back(thens, asyncio.CancelledError())
            raise

    async def _end(self, batch: _Waiting, points: _Points, errors: Sequence[Exception | None]) -> None:
        """The fsyncs of these logs have ended: move the recovery points and call the callers back."""
        late: _Waiting = {}
        for (log, thens), error in zip(batch.items(), errors, strict=True):
            point = points[log]
            if error is None and point is not None and not log.end_flush(point):
                late[log] = thens
            else:
                _call_back(thens, log.fail_flush(error) if isinstance(error, OSError) else error)
        if late:
            await self._lane(late, dict.fromkeys(late))

    async def drain(self) -> None:
        """Wait until the last round is through."""
        while self._task is not None:
            await asyncio.wait([self._task])


def _call_back(thens: list[Then], problem: BaseException | None) -> None:
    """Call each of these, once: none is left."""
    called, thens[:] = thens[:], []
    for then in called:
        try:
            then(problem)
        except Exception:
            logger.exception("what follows a commit failed")  # for one of them; the others are called


def _sync_all(logs: list[PartitionLog], points: list[FlushPoint | None], now_ms: int) -> list[Exception | None]:
    """Sync logs one by one; return what went wrong with each: an `OSError` is for the loop to make sense of."""
    results: list[Exception | None] = []
    for log, point in zip(logs, points, strict=True):
        try:
            if point is None:
                log.flush(now_ms=now_ms)
            elif point.file is not None:
                failpoints.hit("log.flush")
                point.file.datasync()
            results.append(None)
        except Exception as error:
            results.append(error)
    return results


def _sync(file_system: FileSystem, witness: list[File]) -> OSError | None:
    """Sync everything, then one of the files by itself: what happened to the file system that syncfs keeps quiet about."""
    failpoints.hit("log.flush")
    try:
        file_system.sync()
        for file in witness:
            file.datasync()
    except OSError as error:
        return error
    return None
