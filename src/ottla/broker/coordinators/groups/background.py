"""Work that would hold up the loop, on behalf of a shard: done elsewhere, its outcome comes back as a decision.

The shard stays a state machine: a task is a pure function of values taken when it was submitted, and what it found is applied
by an operation with the time and the state of then. Under one key only one task runs. If the partition is given away
meanwhile, the outcome is dropped with the shard's timers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import RunBackground
    from ottla.broker.coordinators.shard import Result, TimerKey, Timers

#: Applies an outcome: (what the task returned, the error it failed with, the time).
Then = Callable[[Any, BaseException | None, int], "Result[None]"]


class Background:
    """The tasks of one shard."""

    def __init__(self, timers: Timers, run: RunBackground) -> None:
        self._timers = timers
        self._run = run
        self._running: set[TimerKey] = set()

    def is_running(self, key: TimerKey) -> bool:
        """Whether a task under this key has not been applied yet."""
        return key in self._running

    def submit(self, key: TimerKey, task: Callable[[], Any], then: Then) -> None:
        """Run `task` beside the loop and `then` on it, unless a task of this key is under way."""
        if key in self._running:
            return
        self._running.add(key)

        def done(outcome: Any, error: BaseException | None) -> None:
            def apply(now_ms: int) -> Result[None]:
                self._running.discard(key)
                return then(outcome, error, now_ms)

            self._timers.schedule(("background", *key), 0, apply)

        self._run(task, done)
