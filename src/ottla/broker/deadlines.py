"""When answers are late. One timer for all of a kind: nearly none is ever late, and a timer each costs more than that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio


class Due(Protocol):
    """What waits. `due` is in the loop's time."""

    due: float

    def on_timeout(self) -> None:
        """Its time is over; it has been forgotten here."""
        ...


D = TypeVar("D", bound=Due)


class Deadlines(Generic[D]):
    """What waits, by the time when it has waited long enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[D, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: D, timeout_s: float) -> None:
        """Call `answer.on_timeout` when it is late, unless it is removed before."""
        answer.due = self._loop.time() + timeout_s
        self._waiting[answer] = None
        if self._timer is None or answer.due < self._timer.when():
            self._wake_at(answer.due)

    def remove(self, answer: D) -> None:
        """Forget an answer that has been given."""
        del self._waiting[answer]

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        self._timer = None
        for answer in [answer for answer in self._waiting if answer.due <= now]:
            if self._waiting.pop(answer, self) is None:
                answer.on_timeout()
        if self._waiting:
            self._wake_at(min(answer.due for answer in self._waiting))
