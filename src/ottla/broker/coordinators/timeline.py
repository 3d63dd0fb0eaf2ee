"""Dictionaries and values with two views: what has been decided, and what is committed.

A coordinator applies its own records at once, so that the next decision sees them, while they are still on their way into
the log. Until they are committed no client may learn of them, and if the append fails they have to be undone. A `Timeline`
keeps, for every key changed since the last commit, the value it had before: reading the committed view is one extra
lookup, undoing is walking back. The idea is Kafka's `timeline` package (SnapshotRegistry, TimelineHashMap).

Changes are grouped by epoch: all changes between two calls of `advance` belong to one append and are committed together.
Invariant: epochs in the undo list never decrease, and a key has a before-image exactly while it has an uncommitted change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Before-image of a key that was not there.
_ABSENT: Final[Any] = object()


class Timeline:
    """What the dictionaries of one coordinator partition share: the current epoch and the list of what to undo."""

    __slots__ = ("_undo", "epoch", "tracks")

    def __init__(self, *, tracks: bool = True) -> None:
        self.epoch = 0
        #: False while a log is replayed: everything is committed already.
        self.tracks = tracks
        self._undo: deque[tuple[int, TimelineDict[Any, Any], Any]] = deque()

    @property
    def is_clean(self) -> bool:
        """True if everything decided is committed."""
        return not self._undo

    def advance(self) -> int:
        """Close the current epoch and return its number; later changes belong to the next one."""
        self.epoch += 1
        return self.epoch - 1

    def commit(self, epoch: int) -> None:
        """Make every change up to and including `epoch` part of the committed view."""
        undo = self._undo
        while undo and undo[0][0] <= epoch:
            _, table, key = undo.popleft()
            images = table._images[key]
            if len(images) == 1:
                del table._images[key]
            else:
                del images[0]

    def roll_back(self, epoch: int = 0) -> list[Any]:
        """Undo every uncommitted change of `epoch` and later ones, newest first; without it, all of them.

        Returns the values that are no longer there.
        """
        undo = self._undo
        discarded = []
        while undo and undo[-1][0] >= epoch:
            _, table, key = undo.pop()
            if key in table._values:
                discarded.append(table._values[key])
            images = table._images[key]
            _, before = images.pop()
            if not images:
                del table._images[key]
            if before is _ABSENT:
                table._values.pop(key, None)
            else:
                table._values[key] = before
        return discarded

    def _changed(self, table: TimelineDict[Any, Any], key: Any, before: Any) -> None:
        if not self.tracks:
            return
        images = table._images.get(key)
        if images is None:
            table._images[key] = [(self.epoch, before)]
        elif images[-1][0] == self.epoch:
            return  # the value before this epoch is what counts
        else:
            images.append((self.epoch, before))
        self._undo.append((self.epoch, table, key))


class TimelineDict(Generic[K, V]):
    """A dictionary on a timeline. Plain methods see everything decided; `*_committed` methods what is committed.

    Values must not be changed in place if the change is to be undone with the record that caused it.
    """

    __slots__ = ("_images", "_timeline", "_values")

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._values: dict[K, V] = {}
        self._images: dict[K, list[tuple[int, V]]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._timeline._changed(self, key, self._values.get(key, _ABSENT))
        self._values[key] = value

    def get(self, key: K) -> V | None:
        """Return the newest value, or None."""
        return self._values.get(key)

    def pop(self, key: K) -> V | None:
        """Remove the key; return its newest value, or None if it was not there."""
        value: V = self._values.get(key, _ABSENT)
        if value is _ABSENT:
            return None
        self._timeline._changed(self, key, value)
        del self._values[key]
        return value

    def values(self) -> list[V]:
        """Return the newest values, a copy that later changes do not touch."""
        return list(self._values.values())

    def items(self) -> list[tuple[K, V]]:
        """Return the newest items, a copy that later changes do not touch."""
        return list(self._values.items())

    @property
    def is_unused(self) -> bool:
        """True if it is empty in both views."""
        return not self._values and not self._images

    def get_committed(self, key: K) -> V | None:
        """Return the committed value, or None."""
        images = self._images.get(key)
        if images is None:
            return self._values.get(key)
        before = images[0][1]
        return None if before is _ABSENT else before

    @property
    def count_committed(self) -> int:
        """The number of committed items."""
        if not self._images:
            return len(self._values)
        added = removed = 0
        for key, images in self._images.items():
            if key in self._values:
                added += images[0][1] is _ABSENT
            else:
                removed += images[0][1] is not _ABSENT
        return len(self._values) - added + removed

    def items_committed(self) -> list[tuple[K, V]]:
        """Return the committed items: those that stayed in their order, those removed since at the end."""
        if not self._images:
            return list(self._values.items())
        items = []
        for key, value in self._values.items():
            images = self._images.get(key)
            if images is None:
                items.append((key, value))
            elif images[0][1] is not _ABSENT:
                items.append((key, images[0][1]))
        items += [
            (key, images[0][1])
            for key, images in self._images.items()
            if key not in self._values and images[0][1] is not _ABSENT
        ]
        return items


class TimelineValue(Generic[V]):
    """One value on a timeline. Put what belongs together into one immutable value: each of these costs two dictionaries."""

    __slots__ = ("_table",)

    def __init__(self, timeline: Timeline, value: V) -> None:
        self._table: TimelineDict[None, V] = TimelineDict(timeline)
        self._table._values[None] = value

    @property
    def value(self) -> V:
        """The newest value."""
        return self._table._values[None]

    @value.setter
    def value(self, value: V) -> None:
        self._table[None] = value

    @property
    def committed(self) -> V:
        """The committed value."""
        images = self._table._images.get(None)
        return self._table._values[None] if images is None else images[0][1]
