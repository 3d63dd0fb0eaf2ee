"""Real time that a test can move ahead: a loop and a clock that agree on by how much."""

from __future__ import annotations

import asyncio

from ottla.clock import SystemClock

#: Turns of the loop in which what has come due is done.
_TURNS = 20


class MovableLoop(asyncio.SelectorEventLoop):
    """A loop whose time is the machine's and `ahead_s`."""

    ahead_s: float = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    async def advance(self, seconds: float) -> None:
        """Let so much time have passed; return when the timers that came due have run."""
        self.ahead_s += seconds
        for _ in range(_TURNS):
            await asyncio.sleep(0)


class MovableClock(SystemClock):
    """The machine's clocks, ahead by what the loop is."""

    def __init__(self, loop: MovableLoop) -> None:
        self._loop = loop

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + int(self._loop.ahead_s * 1000)

    def wall_ms(self) -> int:
        return super().wall_ms() + int(self._loop.ahead_s * 1000)
