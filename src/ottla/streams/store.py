"""The store of bytes that tasks use. All kinds of stores are key formats over it (`keys`).

A task gives and takes bytes only. What lies behind is not its business: a dict or SQLite, with an overlay of
what was written since the last commit in front.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol

Entry = tuple[bytes, bytes]


class Store(Protocol):
    """A sorted map of bytes, ordered as memcmp orders.

    Every read sees every write made before it. A scan sees the entries of the moment in which it began: it is neither
    broken nor changed by writes made while it goes on.
    """

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, or None."""
        ...

    def put(self, key: bytes, value: bytes, /) -> None:
        """Write one entry."""
        ...

    def delete(self, key: bytes, /) -> None:
        """Remove one entry; it need not be there."""
        ...

    def range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        """Yield entries from `start` on, in order, up to and not including `end` (None: to the last one)."""
        ...

    def reverse_range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        """Yield what `range` yields, backwards."""
        ...

    def prefix(self, prefix: bytes, /) -> Iterator[Entry]:
        """Yield all entries whose keys begin so, in order."""
        ...

    def delete_range(self, start: bytes, end: bytes | None, /) -> None:
        """Remove what `range` would yield. This is how segments of windowed stores expire."""
        ...


class MemoryStore:
    """A store in a dict; its keys are sorted when a scan first needs them."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._sorted: list[bytes] | None = None

    def get(self, key: bytes, /) -> bytes | None:
        return self._values.get(key)

    def put(self, key: bytes, value: bytes, /) -> None:
        if key not in self._values and self._sorted is not None:
            insort(self._sorted, key)
        self._values[key] = value

    def delete(self, key: bytes, /) -> None:
        if self._values.pop(key, None) is not None and self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, key)]

    def range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        return iter([(key, self._values[key]) for key in self._between(start, end)])

    def reverse_range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        return iter([(key, self._values[key]) for key in reversed(self._between(start, end))])

    def prefix(self, prefix: bytes, /) -> Iterator[Entry]:
        return self.range(prefix, prefix_end(prefix))

    def delete_range(self, start: bytes, end: bytes | None, /) -> None:
        for key in self._between(start, end):
            self.delete(key)

    def copy(self) -> MemoryStore:
        """Return a store with the same entries."""
        made = MemoryStore()
        made._values = dict(self._values)
        made._sorted = None if self._sorted is None else list(self._sorted)
        return made

    def _between(self, start: bytes, end: bytes | None) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._values)
        last = len(self._sorted) if end is None else bisect_left(self._sorted, end)
        return self._sorted[bisect_left(self._sorted, start) : last]


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the first key behind all that begin with `prefix`; None if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else None
