"""Work off the event loop: the only module that makes threads.

Storage is synchronous; its caller decides whether it runs on the loop (appends to the page cache) or here
(fsync, recovery, cleaning, cold reads). In simulation and in tests everything runs inline, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class Offload(Protocol):
    """Runs a blocking function so that the loop does not wait for it."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`. Cancelling the caller does not stop a function that has begun."""
        ...

    def share(self, name: str) -> Offload:
        """Return threads for this name only, the same for the same name; they are closed with these.

        Each log directory has a share of its own, so that a disk that hangs holds up only what lies on it.
        """
        ...

    def close(self) -> None:
        """Wait for what runs; accept nothing more."""
        ...


class ThreadOffload:
    """A small pool of threads. `workers` bounds how many blocking calls run at once, here and in each share."""

    def __init__(self, workers: int, name: str = "ottla-offload") -> None:
        self._workers = workers
        self._name = name
        # Threads are made when they are needed.
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._shares: dict[str, ThreadOffload] = {}

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def share(self, name: str) -> ThreadOffload:
        found = self._shares.get(name)
        if found is None:
            found = self._shares[name] = ThreadOffload(self._workers, f"{self._name}-{len(self._shares) + 1}")
        return found

    def close(self) -> None:
        for share in self._shares.values():
            share.close()
        self._pool.shutdown(wait=True)


class InlineOffload:
    """Runs the function at once, on the caller's thread: for simulation and tests."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def share(self, name: str) -> Offload:
        return self

    def close(self) -> None:
        return None


async def run_to_end(offload: Offload, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `function(*args, **kwargs)`, run by `offload`. A caller that is cancelled goes on when no thread runs it.

    For functions that work on what the caller closes, or uses otherwise, right after it was cancelled: a generator that a
    thread still runs cannot be closed. What had not begun does not run at all; a failure after the cancellation is logged.
    """
    ended: Future[T] = Future()

    def work() -> T:
        if not ended.set_running_or_notify_cancel():
            raise asyncio.CancelledError
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            ended.set_exception(error)
            raise
        ended.set_result(result)
        return result

    try:
        return await offload.run(work)
    except asyncio.CancelledError:
        if not ended.cancel():
            here = asyncio.wrap_future(ended)
            while not here.done():
                try:
                    await asyncio.wait([here])
                except asyncio.CancelledError:
                    continue  # the first one goes on below
            if here.exception() is not None:
                logger.warning("work that was to be stopped failed: %s", here.exception())
        raise
