"""Schedules of a task: what fires when stream time or the wall clock passes.

Numbers are Kafka Streams': by stream time the first one fires with the first record, by the wall clock one interval
after the start; a schedule that is behind fires once and goes on at the next multiple of its interval.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Schedule:
    """One schedule; `cancel()` ends it."""

    __slots__ = ("callback", "cancelled", "interval_ms", "name")

    def __init__(self, name: str, interval_ms: int, callback: Callable[[int], None]) -> None:
        self.name: str = name
        self.interval_ms: int = interval_ms
        self.callback: Callable[[int], None] = callback
        self.cancelled: bool = False

    def cancel(self) -> None:
        """Do not fire again."""
        self.cancelled = True


class Idleness:
    """How stream time follows the wall clock while a task has no records: first by all of the pause, then step by step.

    Attributes:
        due_ms: when, by the wall clock, stream time is to move on next.
    """

    def __init__(self, after_ms: int) -> None:
        self._after_ms = after_ms
        self._step_ms = max(after_ms // 10, 100)
        self.begin_anew(0)

    def begin_anew(self, now_ms: int) -> None:
        """A record has come, or is on its way."""
        self._since_ms = now_ms
        self.due_ms: int = now_ms + self._after_ms

    def passed(self, now_ms: int) -> int:
        """Return by how many ms stream time is to move on; 0: not yet."""
        if now_ms < self.due_ms:
            return 0
        passed_ms = now_ms - self._since_ms
        self._since_ms = now_ms
        self.due_ms = now_ms + self._step_ms
        return passed_ms


class Schedules:
    """The schedules of one task that follow one clock."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, Schedule]] = []
        self._order = count()

    @property
    def next_ms(self) -> int | None:
        """When the next one is due; None without any."""
        while self._queue and self._queue[0][2].cancelled:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def add(self, first_ms: int, schedule: Schedule) -> None:
        """Have a schedule fire at `first_ms`, and then again and again."""
        heapq.heappush(self._queue, (first_ms, next(self._order), schedule))

    def fire(self, now_ms: int, call: Callable[[Schedule, int], None]) -> None:
        """Call `call(schedule, now_ms)` for each that is due, once."""
        while (due := self.next_ms) is not None and due <= now_ms:
            _, _, schedule = heapq.heappop(self._queue)
            call(schedule, now_ms)
            if not schedule.cancelled:
                following = due + schedule.interval_ms
                if now_ms >= following:
                    following = due + ((now_ms - due) // schedule.interval_ms + 1) * schedule.interval_ms
                self.add(following, schedule)
