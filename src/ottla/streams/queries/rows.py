"""Committed rows of one store as objects, for readers: the same kinds, expiry and formats as the operators' (`states`).

Nothing of the running task is touched: rows come through a `HomeReader`, on a connection of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from ottla.streams.errors import StreamsError
from ottla.streams.expiring import Expiring
from ottla.streams.keys import split_timestamped
from ottla.streams.state.homes import HomeReader, scan
from ottla.streams.states import SessionState, WindowState
from ottla.streams.store import Entry
from ottla.streams.task import Task
from ottla.streams.times import Times, TimesBook
from ottla.streams.topology import TIMES_STORE, StoreKind, StoreSpec
from ottla.streams.versions import Versions

_LAST = (1 << 63) - 1
KEY_VALUE_KINDS = frozenset(
    (StoreKind.KEY_VALUE, StoreKind.TIMESTAMPED_KEY_VALUE, StoreKind.VERSIONED, StoreKind.EXPIRING)
)
WINDOW_KINDS = frozenset((StoreKind.WINDOW, StoreKind.TIMESTAMPED_WINDOW))
SESSION_KINDS = frozenset((StoreKind.SESSION,))
ASKABLE = KEY_VALUE_KINDS | WINDOW_KINDS | SESSION_KINDS


class Row(NamedTuple):
    """One row of a store.

    Attributes:
        start, end: of its window in ms; None in stores without windows.
        timestamp: of the record that made it (ms); -1 where the store keeps none.
    """

    key: bytes
    start: int | None
    end: int | None
    value: bytes
    timestamp: int


class CommittedStore:
    """A table of a task's home, as a `Store` that is only read."""

    def __init__(self, reader: HomeReader, table: str) -> None:
        self._reader = reader
        self._table = table

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value, or None."""
        return self._reader.get(self._table, key)

    def range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        """Yield committed entries in order."""
        return scan(self._reader, self._table, start, end)

    def reverse_range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        """Yield committed entries backwards."""
        return scan(self._reader, self._table, start, end, reverse=True)

    def prefix(self, prefix: bytes, /) -> Iterator[Entry]:
        """Yield committed entries whose keys begin so."""
        trimmed = prefix.rstrip(b"\xff")
        return self.range(prefix, trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else None)

    def put(self, key: bytes, value: bytes, /) -> None:
        """Refuse: queries write nothing."""
        raise StreamsError("a query writes nothing")

    def delete(self, key: bytes, /) -> None:
        """Refuse: queries write nothing."""
        raise StreamsError("a query writes nothing")

    def delete_range(self, start: bytes, end: bytes | None, /) -> None:
        """Refuse: queries write nothing."""
        raise StreamsError("a query writes nothing")


class _Times:
    """The part of a task that stores ask when they are opened: what was committed of stream time."""

    def __init__(self, reader: HomeReader) -> None:
        self._book = TimesBook(CommittedStore(reader, TIMES_STORE))

    def times_of(self, name: str, store: str | None = None) -> Times:
        """Return what was committed."""
        return self._book.of(name, None)


class Rows:
    """What can be asked of one store of one task. Make one for each query: it shows the stream time of its making.

    Args:
        reader: of the home that has the store.
        times: of the home that has TIMES_STORE; None if the task keeps none.
    """

    def __init__(self, spec: StoreSpec, reader: HomeReader, times: HomeReader | None) -> None:
        self.spec = spec
        store = CommittedStore(reader, spec.name)
        task = cast("Task", _Times(reader if times is None else times))
        if spec.kind not in ASKABLE:
            raise StreamsError(f"{spec.name} is a store of kind {spec.kind.value}: it is the operator's own.")
        self._store = store
        self._versions: Versions | None = None
        if spec.kind is StoreKind.VERSIONED:
            assert spec.retention_ms is not None
            assert spec.segment_interval_ms is not None
            stream_time = task.times_of(f"store {spec.name}").stream_time
            self._versions = Versions(store, spec.retention_ms, spec.segment_interval_ms, stream_time)
        self._expiring: Expiring | None = None
        if spec.kind is StoreKind.EXPIRING:
            assert spec.retention_ms is not None
            self._now = task.times_of(f"store {spec.name}").stream_time
            self._expiring = Expiring(store, spec.retention_ms)
        self._windows = WindowState(spec, store, task) if spec.kind in WINDOW_KINDS else None
        self._sessions = SessionState(spec, store, task) if spec.kind in SESSION_KINDS else None

    def get(self, key: bytes, as_of: int | None = None) -> Row | None:
        """Return the row of a key of a store without windows; of one with versions, what was valid at a time (ms)."""
        if self._versions is not None:
            found = self._versions.newest(key) if as_of is None else self._versions.get(key, as_of)
            return None if found is None else Row(key, None, None, found.value, found.since)
        if self._expiring is not None:
            alive = self._expiring.get(key, self._now)
            return None if alive is None else Row(key, None, None, *alive)
        data = self._store.get(key)
        return None if data is None else self._pair(key, data)

    def range(self, since: bytes | None, until: bytes | None) -> Iterator[Row]:
        """Yield rows of a store without windows, from one key to another, both included, in the order of their bytes."""
        if self._versions is not None:
            for key, found in self._versions.all(since or b"", None if until is None else until + b"\x00"):
                yield Row(key, None, None, found.value, found.since)
            return
        if self._expiring is not None:
            for key, value, timestamp in self._expiring.all(
                since or b"", None if until is None else until + b"\x00", self._now
            ):
                yield Row(key, None, None, value, timestamp)
            return
        for key, data in self._store.range(since or b"", None if until is None else until + b"\x00"):
            yield self._pair(key, data)

    def _pair(self, key: bytes, data: bytes) -> Row:
        if self.spec.kind is StoreKind.TIMESTAMPED_KEY_VALUE:
            value, timestamp = split_timestamped(data)
            return Row(key, None, None, value, timestamp)
        return Row(key, None, None, data, -1)

    def fetch(self, key: Any, name: bytes, since: int | None, until: int | None) -> Iterator[Row]:
        """Yield the windows of a key that start from `since` to `until`, both included (sessions: that overlap them).

        Args:
            key: as an object; `name` is the same in bytes.
        """
        first, last = 0 if since is None else since, _LAST if until is None else until
        if self._windows is not None:
            size = self.spec.window_size_ms or 0
            for start, value, timestamp in self._windows.fetch_raw(key, first, last):
                yield Row(name, start, start + size, value, timestamp)
            return
        assert self._sessions is not None
        for window, value in self._sessions.find(key, first, last):
            yield Row(name, window.start, window.end, self._sessions.value_bytes(value), -1)
