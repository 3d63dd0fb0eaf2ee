"""Several blocking calls in one hand-off to a thread.

A hand-off costs 60 to 80 us of CPU, several times what an append to the page cache takes. While a disk is slow every append
makes one; so those of all partitions of a directory that come in one turn of the loop go together, and those that come while
hand_offs are under way go together in the next. There are two lanes: a call that hangs holds up what shares its hand-off, and
no call that comes later until a second one hangs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.offload import Offload

T = TypeVar("T")

LANES = 2


class HandOffs:
    """Runs functions off the loop, together. All methods belong to the loop's thread."""

    __slots__ = ("_is_due", "_offload", "_running", "_waiting")

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._is_due = False

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Return what becomes the function's result; it runs even if its caller has given up."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((function, future))
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        self._is_due = False
        if self._waiting and len(self._running) < LANES:
            together, self._waiting = self._waiting, []
            self._running.add(asyncio.get_running_loop().create_task(self._hop(together)))

    async def _hop(self, together: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> None:
        try:
            outcomes = await self._offload.run(_run_all, [function for function, _ in together])
        except Exception as error:  # no thread was to be had
            outcomes = [(None, error)] * len(together)
        for (_, future), (result, problem) in zip(together, outcomes, strict=True):
            if future.done():
                continue
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)
        task = asyncio.current_task()
        assert task is not None
        self._running.discard(task)
        self._begin()


def _run_all(functions: list[Callable[[], Any]]) -> list[tuple[Any, Exception | None]]:
    outcomes: list[tuple[Any, Exception | None]] = []
    for function in functions:
        try:
            outcomes.append((function(), None))
        except Exception as error:
            outcomes.append((None, error))
    return outcomes
