"""Something a caller waits for: a flush, the beginning or end of a transaction."""

from __future__ import annotations

from collections.abc import Callable


class Operation:
    """Done or failed once. The core finishes it; the shell calls `callbacks` afterwards, when it holds no lock.

    Attributes:
        error: why it failed; None if it did not, or is not done.
    """

    __slots__ = ("callbacks", "done", "error", "name")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.done: bool = False
        self.error: Exception | None = None
        self.callbacks: list[Callable[[], object]] = []

    def finish(self, error: Exception | None = None) -> list[Callable[[], object]]:
        """Note the outcome; return who is to be called. Later outcomes do not count."""
        if self.done:
            return []
        self.done = True
        self.error = error
        callbacks, self.callbacks = self.callbacks, []
        return callbacks
