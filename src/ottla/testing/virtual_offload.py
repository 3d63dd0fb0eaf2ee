"""Threads in virtual time: what is run off the loop begins and ends later, and others run in between.

A function still runs in one piece, so nothing is seen inside it; what is seen is everything that may happen between the
moment somebody asks for it, the moment it runs, and the moment the asker goes on.
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
