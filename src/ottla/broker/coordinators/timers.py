"""The timers of one shard on the event loop.

A session timer is pushed back by every heartbeat, thousands of times for once that it fires. So pushing back only moves
the deadline; the loop's timer stays where it is and, when it fires too early, waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ottla.broker.coordinators.shard import TimerKey, TimerOperation


class _Timer:
    __slots__ = ("deadline", "fires_at", "handle", "operation")

    def __init__(self, deadline: float, operation: TimerOperation) -> None:
        self.deadline = deadline
        self.operation = operation
        self.fires_at = deadline
        self.handle: asyncio.TimerHandle | None = None


class ShardTimers:
    """Implements `Timers`. `run` is called with the operation of a timer that has come due."""

    __slots__ = ("_loop", "_run", "_timers")

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Callable[[TimerOperation], None]) -> None:
        self._loop = loop
        self._run = run
        self._timers: dict[TimerKey, _Timer] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def schedule(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None:
        """Run `operation` after `delay_ms`, instead of what was scheduled under this key."""
        deadline = self._loop.time() + delay_ms / 1000
        timer = self._timers.get(key)
        if timer is not None and timer.fires_at <= deadline:
            timer.deadline = deadline
            timer.operation = operation
            return
        if timer is not None and timer.handle is not None:
            timer.handle.cancel()
        timer = self._timers[key] = _Timer(deadline, operation)
        timer.handle = self._loop.call_at(deadline, self._fire, key, timer)

    def postpone(self, key: TimerKey, delay_ms: int) -> bool:
        """Run what is scheduled under this key after `delay_ms`; returns whether there is anything."""
        timer = self._timers.get(key)
        if timer is None:
            return False
        deadline = self._loop.time() + delay_ms / 1000
        if timer.fires_at <= deadline:
            timer.deadline = deadline
        else:
            self.schedule(key, delay_ms, timer.operation)
        return True

    def schedule_if_absent(self, key: TimerKey, delay_ms: int, operation: TimerOperation) -> None:
        """Run `operation` after `delay_ms`, unless something is scheduled under this key already."""
        if key not in self._timers:
            self.schedule(key, delay_ms, operation)

    def cancel(self, key: TimerKey) -> None:
        """Forget the timer, if there is one."""
        timer = self._timers.pop(key, None)
        if timer is not None and timer.handle is not None:
            timer.handle.cancel()

    def run_now(self, matching: Callable[[TimerKey], bool]) -> int:
        """Run what is scheduled under these keys as if its time had come; return how many there were."""
        due = [key for key in self._timers if matching(key)]
        for key in due:
            timer = self._timers[key]
            self.cancel(key)
            self._run(timer.operation)
        return len(due)

    def cancel_all(self) -> None:
        """Forget every timer."""
        for key in list(self._timers):
            self.cancel(key)

    def _fire(self, key: TimerKey, timer: _Timer) -> None:
        if self._timers.get(key) is not timer:
            return
        if timer.deadline > timer.fires_at:
            timer.fires_at = timer.deadline
            timer.handle = self._loop.call_at(timer.deadline, self._fire, key, timer)
            return
        del self._timers[key]
        self._run(timer.operation)
