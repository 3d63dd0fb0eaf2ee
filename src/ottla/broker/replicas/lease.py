"""The lease: until when a leader that is alone in its ISR may take it that no other broker has been elected.

A leader with a second member in its ISR needs none: no other leader commits without that member. Alone, it commits by
itself, so it must know that its session with the coordination tree lives. A server that is cut off from the other servers
goes on answering reads and pings, so neither proves anything; a `sync` that was answered does, for as long as the session
lasts from its *sending* on. The lease is half of that, on a clock that counts time in which the machine slept.

The clock is passed in. A virtual machine that was paused sees no clock move; that case is not covered.
"""

from __future__ import annotations

from collections.abc import Callable


class Lease:
    """The lease of one broker; it begins with the first answered `sync` of a session in which the broker is registered.

    Args:
        now_ms: a clock that does not stand still while the machine sleeps (`Clock.boot_ms`).
    """

    __slots__ = ("_now_ms", "_until_ms")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._until_ms: int | None = None

    def holds(self) -> bool:
        """Whether no other broker can have been elected in the place of this one yet."""
        return self._until_ms is not None and self._now_ms() < self._until_ms

    def on_answer(self, sent_ms: int, session_timeout_ms: int) -> None:
        """A `sync` that was sent at `sent_ms` has been answered."""
        until_ms = sent_ms + session_timeout_ms // 2
        self._until_ms = until_ms if self._until_ms is None else max(self._until_ms, until_ms)

    def end(self) -> None:
        """The session has ended."""
        self._until_ms = None


def renewal_interval_ms(session_timeout_ms: int) -> int:
    """Return how often a `sync` is sent: two may get lost before the lease runs out."""
    return max(1, session_timeout_ms // 6)
