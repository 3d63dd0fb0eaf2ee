"""Runs what a shard of the group coordinator wants done beside the loop (`groups.background`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ottla.offload import Offload


class BackgroundRunner:
    """Calls back on the loop when a function has been run in a thread."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, task: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run `task` in a thread, then `done` with its outcome; `done` is not called if the loop ends before."""

        async def work() -> None:
            try:
                outcome = await self._offload.run(task)
            except Exception as error:
                done(None, error)
            else:
                done(outcome, None)

        running = asyncio.get_running_loop().create_task(work())
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)
