"""Threads in virtual time: what is run off the loop begins and ends later, and others run in between.

A function still runs in one piece, so nothing is seen inside it; what is seen is everything that may happen between the
moment somebody asks for it, the moment it runs, and the moment the asker goes on. That others meet it while it runs, and
holds a log's lock, is a matter of chance (`VirtualLock`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Mean of the time a function waits for a thread, and of the time its result takes to be seen.
MEAN_SECONDS = 0.0005
#: How often it is a disk that hesitates, and for how long at most.
LONG_CHANCE, LONG_SECONDS = 0.03, 0.1
#: How often a lock is found held, and the mean of the time for which it stays so.
HELD_CHANCE, HELD_SECONDS = 0.03, 0.005


class VirtualOffload:
    """Implements `Offload`. As with threads, a function whose asker was cancelled runs all the same.

    Args:
        is_hung: waited for before each function: returns when the disk does not hang.
    """

    def __init__(self, random: Random, is_hung: Callable[[], Awaitable[None]] | None = None) -> None:
        self._random = random
        self._is_hung = is_hung
        self._running: set[asyncio.Task[object]] = set()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def work() -> T:
            await self._pause()
            if self._is_hung is not None:
                await self._is_hung()
            try:
                return function(*args, **kwargs)
            finally:
                await self._pause()

        task = asyncio.get_running_loop().create_task(work())
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def _pause(self) -> None:
        kind = self._random.random()
        if kind < LONG_CHANCE:
            await asyncio.sleep(self._random.random() * LONG_SECONDS)
        elif kind < 0.7:
            await asyncio.sleep(self._random.expovariate(1 / MEAN_SECONDS))

    def share(self, name: str) -> VirtualOffload:
        return self

    def close(self) -> None:
        return None


class VirtualLock:
    """Stands in for the lock of a log: who would not wait for it finds at times that another thread holds it.

    Who waits gets it at once: functions run in one piece, and time stands still in them.

    Args:
        now: virtual time, in seconds.
        on_held: called when somebody is refused.
    """

    def __init__(self, random: Random, now: Callable[[], float], on_held: Callable[[], None] = lambda: None) -> None:
        self._random = random
        self._now = now
        self._on_held = on_held
        self._depth = 0
        self._held_until = 0.0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; False: another thread holds it, and the caller does not wait."""
        if not blocking and not self._depth and self._is_held():
            self._on_held()
            return False
        self._depth += 1
        return True

    def _is_held(self) -> bool:
        now = self._now()
        if now >= self._held_until and self._random.random() < HELD_CHANCE:
            self._held_until = now + self._random.expovariate(1 / HELD_SECONDS)
        return now < self._held_until

    def release(self) -> None:
        """Give it back."""
        self._depth -= 1

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
