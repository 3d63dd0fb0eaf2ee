"""State that lives as long as the process: sorted tables in memory. A restart rebuilds it from the changelogs."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Mapping

from ottla.streams.state.homes import Changes, StoreKindError, StoreNote


class SortedTable:
    """Keys with values, in the order of the keys' bytes. Sorting waits until an order is asked for."""

    __slots__ = ("_fresh", "_keys", "_stale", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self._keys: list[bytes] = []
        #: Keys that are in `values` and not in `_keys` yet; whether `_keys` has some that are gone.
        self._fresh: list[bytes] = []
        self._stale = False

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a value; None is a value like others here."""
        if key not in self.values:
            self._fresh.append(key)
        self.values[key] = value

    def remove(self, key: bytes) -> None:
        """Forget a key."""
        if self.values.pop(key, self) is not self:
            self._stale = True

    def clear(self) -> None:
        """Forget everything."""
        self.values.clear()
        self._keys, self._fresh, self._stale = [], [], False

    def _order(self) -> list[bytes]:
        if self._stale:
            self._keys, self._fresh, self._stale = sorted(self.values), [], False
        elif self._fresh:
            if len(self._fresh) < 8:
                for key in self._fresh:
                    insort(self._keys, key)
            else:
                self._keys += self._fresh
                self._keys.sort()  # two ordered runs, mostly: linear
            self._fresh = []
        return self._keys

    def page(
        self, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes | None]]:
        """Return the first `limit` keys with `since` <= key < `until`, ordered, with their values."""
        keys = self._order()
        start = 0 if since is None else bisect_left(keys, since)
        end = len(keys) if until is None else bisect_left(keys, until)
        if reverse:
            found = keys[max(start, end - limit) : end][::-1]
        else:
            found = keys[start : min(end, start + limit)]
        return [(key, self.values[key]) for key in found]


class MemoryHome:
    """Tables of one task in memory. A lock keeps readers of other threads off half a commit."""

    def __init__(self) -> None:
        self._tables: dict[str, SortedTable] = {}
        self._kinds: dict[str, str] = {}
        self._notes: dict[str, StoreNote] = {}
        self._lock = threading.Lock()

    def open_table(self, table: str, kind: str) -> None:
        found = self._kinds.setdefault(table, kind)
        if found != kind:
            raise StoreKindError(f"Store {table!r} is {found!r}, not {kind!r}.")
        self._tables.setdefault(table, SortedTable())

    def get(self, table: str, key: bytes) -> bytes | None:
        with self._lock:
            return self._tables[table].values.get(key)

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        with self._lock:
            rows = self._tables[table].page(since, until, reverse=reverse, limit=limit)
        return [(key, value) for key, value in rows if value is not None]

    def commit(self, changes: Mapping[str, Changes], notes: Mapping[str, StoreNote]) -> None:
        with self._lock:
            for name, rows in changes.items():
                table = self._tables[name]
                for key, value in rows.items():
                    if value is None:
                        table.remove(key)
                    else:
                        table.put(key, value)
            self._notes.update(notes)

    def note(self, table: str) -> StoreNote | None:
        return self._notes.get(table)

    def wipe(self, table: str) -> None:
        with self._lock:
            self._tables[table].clear()
            self._notes.pop(table, None)

    def row_count(self, table: str) -> int:
        return len(self._tables[table].values)

    def reader(self) -> MemoryReader:
        return MemoryReader(self)

    def close(self, *, clean: bool = True) -> None:
        return


class MemoryReader:
    """The same tables for another thread."""

    def __init__(self, home: MemoryHome) -> None:
        self._home = home

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._home.get(table, key)

    def page(
        self, table: str, since: bytes | None, until: bytes | None, *, reverse: bool, limit: int
    ) -> list[tuple[bytes, bytes]]:
        return self._home.page(table, since, until, reverse=reverse, limit=limit)

    def note(self, table: str) -> StoreNote | None:
        return self._home.note(table)

    def close(self) -> None:
        return
