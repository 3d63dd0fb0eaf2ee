"""A task's stores: uncommitted writes above committed state. Reads and range scans go through both.

Writes stay in memory until the commit that they belong to has succeeded; then `commit` moves them into the home, together
with the changelog positions that they stand for. `abort` drops them. So an unclean end leaves exactly the state of the
last commit behind.

Committed rows that were read or written lately are kept in memory, too, up to a number of bytes for each store: the keys
that come again and again are not read from disk again and again.

Invariant: what a home holds of a store is what its changelog, read up to the position of the store's note, says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ottla.streams.state.homes import Home, StoreNote, scan
from ottla.streams.state.memory import SortedTable

#: What an entry of an overlay is counted with beside its bytes: two objects and their places in tables.
_ENTRY_BYTES: Final = 120

#: Bytes of committed rows that one store keeps in memory; then it forgets all of them, and begins again.
_RECENT_BYTES_MAX: Final = 8 << 20

_ABSENT: Final = object()
Rows = Iterator[tuple[bytes, bytes]]


class OverlaidStore:
    """One store of a task (`ottla.streams.store.Store`). Writes are uncommitted until the task commits.

    Attributes:
        overlay: uncommitted writes; None is a key that goes.
        uncommitted_bytes: about how much memory they take.
    """

    __slots__ = ("_home", "_name", "_recent", "_recent_bytes", "overlay", "uncommitted_bytes")

    def __init__(self, name: str, home: Home) -> None:
        self._name = name
        self._home = home
        self.overlay: SortedTable = SortedTable()
        self.uncommitted_bytes: int = 0
        #: Committed rows, None for a key that is not there.
        self._recent: dict[bytes, bytes | None] = {}
        self._recent_bytes = 0

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, or None."""
        found = self.overlay.values.get(key, _ABSENT)
        if found is _ABSENT:
            found = self._recent.get(key, _ABSENT)
            if found is _ABSENT:
                found = self._home.get(self._name, key)
                self._remember(key, found)
        return found  # type: ignore[return-value]

    def _remember(self, key: bytes, value: bytes | None) -> None:
        self._recent_bytes += len(key) + len(value or b"") + _ENTRY_BYTES
        if self._recent_bytes > _RECENT_BYTES_MAX:
            self.forget_recent()
            return
        self._recent[key] = value

    def put(self, key: bytes, value: bytes, /) -> None:
        """Write one entry."""
        self._write(key, value)

    def delete(self, key: bytes, /) -> None:
        """Remove one entry; it need not be there."""
        self._write(key, None)

    def _write(self, key: bytes, value: bytes | None) -> None:
        before = self.overlay.values.get(key, _ABSENT)
        grown = len(value or b"")
        if before is _ABSENT:
            grown += len(key) + _ENTRY_BYTES
        else:
            grown -= len(before or b"")  # type: ignore[arg-type]
        self.uncommitted_bytes += grown
        self.overlay.put(key, value)

    def range(self, start: bytes, end: bytes | None, /) -> Rows:
        """Iterate over the entries with `start` <= key < `end` as they are now, in the order of their bytes."""
        return self._merge(start, end, reverse=False)

    def reverse_range(self, start: bytes, end: bytes | None, /) -> Rows:
        """Iterate over what `range` yields, backwards."""
        return self._merge(start, end, reverse=True)

    def prefix(self, prefix: bytes, /) -> Rows:
        """Iterate over all entries whose keys begin so, in order."""
        trimmed = prefix.rstrip(b"\xff")
        return self._merge(prefix, trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else None, reverse=False)

    def delete_range(self, start: bytes, end: bytes | None, /) -> None:
        """Remove what `range` would yield."""
        for key, _ in self._merge(start, end, reverse=False):
            self._write(key, None)

    def on_committed(self) -> None:
        """The uncommitted writes are in the home now."""
        written = self.overlay.values
        self._recent_bytes += self.uncommitted_bytes
        if self._recent_bytes > _RECENT_BYTES_MAX:
            self.forget_recent()
        else:
            self._recent.update(written)
        self.clear_overlay()

    def forget_recent(self) -> None:
        """Read committed rows from the home again."""
        self._recent.clear()
        self._recent_bytes = 0

    def clear_overlay(self) -> None:
        """Forget the uncommitted writes."""
        self.overlay.clear()
        self.uncommitted_bytes = 0

    def _merge(self, start: bytes, end: bytes | None, *, reverse: bool) -> Rows:
        """The home does not change before the next commit; of the overlay a copy is taken now."""
        below = scan(self._home, self._name, start, end, reverse=reverse)
        if not self.overlay.values:
            return below
        above = self.overlay.page(start, end, reverse=reverse, limit=len(self.overlay.values))
        return _merged(below, above, reverse) if above else below


def _merged(below: Rows, above: list[tuple[bytes, bytes | None]], reverse: bool) -> Rows:
    row = next(below, None)
    for key, value in above:
        while row is not None and (row[0] > key if reverse else row[0] < key):
            yield row
            row = next(below, None)
        if row is not None and row[0] == key:
            row = next(below, None)
        if value is not None:
            yield key, value
    if row is not None:
        yield row
        yield from below


class TaskState:
    """The stores of one task.

    Args:
        homes: by store, where its committed rows are. Stores of one home are committed in one step; homes one after the
            other, in the order in which they occur here.

    Attributes:
        stores: what the task works with, by name.
    """

    def __init__(self, homes: Mapping[str, Home]) -> None:
        self._homes = dict(homes)
        self.stores: dict[str, OverlaidStore] = {name: OverlaidStore(name, home) for name, home in homes.items()}

    @property
    def is_dirty(self) -> bool:
        """Whether there are uncommitted writes."""
        return any(store.overlay.values for store in self.stores.values())

    @property
    def uncommitted_bytes(self) -> int:
        """About how much memory the uncommitted writes take."""
        return sum(store.uncommitted_bytes for store in self.stores.values())

    def commit(self, notes: Mapping[str, StoreNote]) -> None:
        """Move the uncommitted writes into the homes, with notes by store.

        Raises:
            StateError: the disk refuses. The task cannot go on: its state is behind its changelog, which restoring mends.
        """
        by_home: dict[int, tuple[Home, list[str]]] = {}
        for name, home in self._homes.items():
            by_home.setdefault(id(home), (home, []))[1].append(name)
        for home, names in by_home.values():
            changes = {name: rows for name in names if (rows := self.stores[name].overlay.values)}
            noted = {name: notes[name] for name in names if name in notes}
            if changes or noted:
                home.commit(changes, noted)
        for store in self.stores.values():
            store.on_committed()

    def abort(self) -> None:
        """Drop the uncommitted writes."""
        for store in self.stores.values():
            store.clear_overlay()

    def note(self, name: str) -> StoreNote | None:
        """Return how far a store has come; None: it has seen nothing."""
        return self._homes[name].note(name)

    def wipe(self, name: str) -> None:
        """Empty a store and forget its note."""
        self.stores[name].clear_overlay()
        self.stores[name].forget_recent()
        self._homes[name].wipe(name)

    def close(self, *, clean: bool = True) -> None:
        """Drop the uncommitted writes and close the homes."""
        self.abort()
        for home in {id(home): home for home in self._homes.values()}.values():
            home.close(clean=clean)
