"""Callbacks that come and go: who watches the children of a path, who watches the state of a session.

All trees share this. Callbacks run on the loop, in the order in which they were added; one that is removed while others run
does not run any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Listeners(Generic[P]):
    """Functions that are called with the same arguments."""

    def __init__(self) -> None:
        self._functions: list[Callable[P, object]] = []

    def add(self, function: Callable[P, object]) -> Callable[[], None]:
        """Add a function; return what removes it again."""
        self._functions.append(function)
        return lambda: self._functions.remove(function) if function in self._functions else None

    def __len__(self) -> int:
        return len(self._functions)

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        for function in list(self._functions):
            if function in self._functions:
                function(*args, **kwargs)

    def clear(self) -> None:
        self._functions.clear()


class ChildrenWatches:
    """Listeners by the path whose children they watch."""

    def __init__(self) -> None:
        self._by_path: dict[str, Listeners[[]]] = {}

    def add(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Add a callback; return what removes it again."""
        return self._by_path.setdefault(path, Listeners()).add(callback)

    @property
    def paths(self) -> list[str]:
        """The paths that are watched."""
        return [path for path, listeners in self._by_path.items() if listeners]

    def tell(self, paths: Iterable[str]) -> None:
        for path in paths:
            listeners = self._by_path.get(path)
            if listeners is not None:
                listeners.tell()

    def clear(self) -> None:
        for listeners in self._by_path.values():
            listeners.clear()
