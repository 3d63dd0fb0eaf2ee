"""Making and deleting logs, beside the roles: nothing that waits for a disk holds up the cluster image or the controller.

Each log directory has a worker of its own, so that a disk that hangs holds up only what lies on it. Jobs of one directory
are done in the order in which they came, some hundred in one hand-over to a thread; each is reported by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.offload import Offload

#: Jobs in one hand-over to a thread.
TOGETHER_MAX = 200

Job = Callable[[], object]
Report = Callable[[Exception | None], None]


class LogWork:
    """The worker of one directory. Belongs to the loop's thread.

    Args:
        offload: where the jobs run.
    """

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._waiting: deque[tuple[Job, Report]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, job: Job, report: Report) -> None:
        """Run `job` on a thread when those before it are done, then `report` on the loop, with its error if it had one."""
        self._waiting.append((job, report))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain(), name="ottla-log-work")

    async def stop(self) -> None:
        """Do nothing more. A job that has begun is finished by its thread, and not reported."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER_MAX))]
                errors = await self._offload.run(_run_all, [job for job, _ in taken])
                for (_, report), error in zip(taken, errors, strict=True):
                    report(error)
        finally:
            self._task = None


def _run_all(jobs: list[Job]) -> list[Exception | None]:
    errors: list[Exception | None] = []
    for job in jobs:
        try:
            job()
        except Exception as error:
            errors.append(error)
        else:
            errors.append(None)
    return errors
