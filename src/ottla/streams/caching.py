"""Record caches of stores: of many updates of a key between two commits, only the last one is written and goes on.

The operators of a cached store save their results here and forward nothing. `flush` takes each key that changed, in the
order of the last changes, under the context of the record that made it: it writes to the store and its changelog, and
forwards the change from what the store held to what it holds now. That happens before each commit, and when all caches
together hold more than `statestore.cache.max.bytes`.

Source: Kafka Streams' CachingKeyValueStore, CachingWindowStore, CachingSessionStore and NamedCache.

Invariant: a read through the state sees what was saved last, flushed or not.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.streams.context import Headers, InputRecord, Process
from ottla.streams.keys import Window, Windowed, pack_long, session_key, split_session_key, split_window_key, window_key
from ottla.streams.records import Change
from ottla.streams.serdes import FLOAT64, INT64, RAW, TEXT
from ottla.streams.states import KeyValueState, SessionState, State, WindowState
from ottla.streams.store import Entry, Store, prefix_end
from ottla.streams.topology import StoreKind, StoreSpec

if TYPE_CHECKING:
    from ottla.streams.task import Task

#: What an entry is counted with beside its key and value.
_ENTRY_BYTES: Final = 150


class CacheBudget:
    """The memory that all caches of an instance share.

    Attributes:
        max_bytes: `statestore.cache.max.bytes`; 0: no caches.
        used: how much they hold, about.
    """

    __slots__ = ("max_bytes", "used")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: int = max_bytes
        self.used: int = 0


class _Pending(NamedTuple):
    """One change that was not flushed yet.

    Attributes:
        live: `value` is the object; else it is the object's bytes. None is a deletion.
        timestamp: of the value (ms).
        record, record_time: the record that made it, and its time in the task (ms).
    """

    live: bool
    value: Any
    timestamp: int
    headers: Headers
    record: InputRecord | None
    record_time: int
    size: int


class _Layer:
    """The store as its state scans it: with what is pending. Single reads and writes pass the cache."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.pending: dict[bytes, _Pending] = {}
        self._sorted: list[bytes] | None = None
        #: Makes stored bytes of a pending change; the state sets it.
        self.stored: Any = None
        self.get, self.put, self.delete, self.delete_range = store.get, store.put, store.delete, store.delete_range

    def add(self, name: bytes, change: _Pending) -> int:
        """Keep a change as the latest one; return by how much the cache grows."""
        before = self.pending.pop(name, None)
        self.pending[name] = change
        if before is not None:
            return change.size - before.size
        if self._sorted is not None:
            insort(self._sorted, name)
        return change.size

    def take(self, name: bytes) -> _Pending | None:
        """Remove and return a change."""
        self._sorted = None
        return self.pending.pop(name, None)

    def range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        return self._merged(start, end, backward=False)

    def reverse_range(self, start: bytes, end: bytes | None, /) -> Iterator[Entry]:
        return self._merged(start, end, backward=True)

    def prefix(self, prefix: bytes, /) -> Iterator[Entry]:
        return self._merged(prefix, prefix_end(prefix), backward=False)

    def _merged(self, start: bytes, end: bytes | None, *, backward: bool) -> Iterator[Entry]:
        rows = (self._store.reverse_range if backward else self._store.range)(start, end)
        if not self.pending:
            return rows
        if self._sorted is None:
            self._sorted = sorted(self.pending)
        last = len(self._sorted) if end is None else bisect_left(self._sorted, end)
        names = self._sorted[bisect_left(self._sorted, start) : last]
        if not names:
            return rows
        above = {name: self.stored(self.pending[name]) for name in names}
        below = {name: data for name, data in rows if name not in above}
        below.update((name, data) for name, data in above.items() if data is not None)
        return iter(sorted(below.items(), reverse=backward))


class _Cached(State):
    """What cached states share. They stand before the state of their kind."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        layer = _Layer(store)
        super().__init__(spec, layer, task)
        self._layer = layer
        layer.stored = self._stored
        assert task.cache is not None
        self._budget = task.cache
        self._unchanging = _unchanging_types(spec)
        self._forward: Process | None = None
        self._send_old = False

    @property
    def is_pending(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._layer.pending)

    @property
    def is_cached(self) -> bool:
        return True

    def listen(self, forward: Process, *, send_old: bool) -> bool:
        self._forward = forward
        self._send_old = send_old
        return True

    def flush(self) -> None:
        """Write and forward what is pending. `task.record` is left at the last one's record."""
        task, layer, budget = self.task, self._layer, self._budget
        forward, send_old = self._forward, self._send_old
        for name in list(layer.pending):
            change = layer.take(name)
            if change is None:
                continue
            budget.used -= change.size
            task.record, task.record_time = change.record, change.record_time
            value = self._object(change)
            old = None
            if forward is not None and (value is None or send_old):
                old = self._before(name)
                if value is None and old is None:
                    continue  # neither the store nor anybody behind it has heard of the key
            self._write(name, value, change)
            if forward is not None:
                key, when = self._key_and_time(name, change.timestamp)
                forward(key, Change(value, old if send_old else None), when, change.headers)

    def forget(self) -> None:
        """Drop what is pending."""
        self._budget.used -= sum(change.size for change in self._layer.pending.values())
        self._layer.pending.clear()
        self._layer._sorted = None

    def _pend(self, name: bytes, value: Any, timestamp: int, headers: Headers) -> None:
        live = value is None or type(value) in self._unchanging
        if not live:
            value = self.value_bytes(value)
        size = len(name) + _ENTRY_BYTES
        if isinstance(value, bytes | str):
            size += len(value)
        elif isinstance(value, tuple):
            size += 40 * len(value)
        task = self.task
        change = _Pending(live, value, timestamp, headers, task.record, task.record_time, size)
        self._budget.used += self._layer.add(name, change)

    def _object(self, change: _Pending) -> Any:
        return change.value if change.live else self.read_value(change.value)

    def _bytes(self, change: _Pending) -> bytes | None:
        if change.value is None:
            return None
        return self.value_bytes(change.value) if change.live else bytes(change.value)

    def _stored(self, change: _Pending) -> bytes | None:
        data = self._bytes(change)
        return None if data is None else pack_long(change.timestamp) + data

    def _before(self, name: bytes) -> Any:
        raise NotImplementedError

    def _write(self, name: bytes, value: Any, change: _Pending) -> None:
        raise NotImplementedError

    def _key_and_time(self, name: bytes, timestamp: int) -> tuple[Any, int]:
        raise NotImplementedError


class CachedKeyValueState(_Cached, KeyValueState):
    """A timestamped store of keys and values, with a cache."""

    def load(self, name: bytes) -> tuple[Any, int] | None:
        change = self._layer.pending.get(name)
        if change is None:
            return KeyValueState.load(self, name)
        return None if change.value is None else (self._object(change), change.timestamp)

    def save(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> None:
        self.keep(name, value, timestamp, headers)

    def keep(self, name: bytes, value: Any, timestamp: int, headers: Headers) -> None:
        """Save what a record with these headers has made of a key; the cache forwards it."""
        self._pend(name, value, timestamp, headers)

    def _before(self, name: bytes) -> Any:
        found = KeyValueState.load(self, name)
        return None if found is None else found[0]

    def _write(self, name: bytes, value: Any, change: _Pending) -> None:
        KeyValueState.save(self, name, value, change.timestamp)

    def _key_and_time(self, name: bytes, timestamp: int) -> tuple[Any, int]:
        return self.read_key(name), timestamp


class CachedWindowState(_Cached, WindowState):
    """A timestamped store of windows, with a cache. Its stream time moves on when entries are flushed, as in Java."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._newest = -1

    @property
    def observed(self) -> int:
        return max(self._newest, self._times.stream_time)

    def load(self, name: bytes, start: int) -> tuple[Any, int] | None:
        change = self._layer.pending.get(self._segment(start) + window_key(name, start))
        if change is None:
            return WindowState.load(self, name, start)
        return None if change.value is None else (self._object(change), change.timestamp)

    def save(self, name: bytes, value: Any, start: int, timestamp: int) -> None:
        self.keep(name, value, start, timestamp, ())

    def keep(self, name: bytes, value: Any, start: int, timestamp: int, headers: Headers) -> None:
        """Save what a record with these headers has made of a window; the cache forwards it."""
        self._newest = max(self._newest, start)
        self._pend(self._segment(start) + window_key(name, start), value, timestamp, headers)

    def _before(self, name: bytes) -> Any:
        key, start, _ = split_window_key(name[8:])
        found = WindowState.load(self, key, start)
        return None if found is None else found[0]

    def _write(self, name: bytes, value: Any, change: _Pending) -> None:
        key, start, _ = split_window_key(name[8:])
        WindowState.save(self, key, value, start, change.timestamp)

    def _key_and_time(self, name: bytes, timestamp: int) -> tuple[Any, int]:
        key, start, _ = split_window_key(name[8:])
        return Windowed(self.read_key(key), Window(start, start + self._size_ms)), timestamp


class CachedSessionState(_Cached, SessionState):
    """A store of sessions, with a cache."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._newest = -1

    @property
    def observed(self) -> int:
        return max(self._newest, self._times.stream_time)

    def get(self, key: Any, start: int, end: int) -> Any:
        change = self._layer.pending.get(self._segment(end) + session_key(self.key_bytes(key), start, end))
        return SessionState.get(self, key, start, end) if change is None else self._object(change)

    def put(self, key: Any, window: Window, value: Any, timestamp: int | None = None) -> None:
        self.keep(key, window, value, window.end if timestamp is None else timestamp, ())

    def keep(self, key: Any, window: Window, value: Any, timestamp: int, headers: Headers) -> None:
        """Save what a record with these headers has made of a session; the cache forwards it."""
        start, end = window
        self._newest = max(self._newest, end)
        self._pend(self._segment(end) + session_key(self.key_bytes(key), start, end), value, timestamp, headers)

    def _stored(self, change: _Pending) -> bytes | None:
        return self._bytes(change)

    def _before(self, name: bytes) -> Any:
        key, start, end = split_session_key(name[8:])
        return SessionState.get(self, self.read_key(key), start, end)

    def _write(self, name: bytes, value: Any, change: _Pending) -> None:
        key, start, end = split_session_key(name[8:])
        SessionState.put(self, self.read_key(key), Window(start, end), value, change.timestamp)

    def _key_and_time(self, name: bytes, timestamp: int) -> tuple[Any, int]:
        key, start, end = split_session_key(name[8:])
        return Windowed(self.read_key(key), Window(start, end)), end


AnyCachedState = CachedKeyValueState | CachedWindowState | CachedSessionState


def cached_state(spec: StoreSpec, store: Store, task: Task) -> AnyCachedState:
    """Return the state of a task's store, with a cache."""
    match spec.kind:
        case StoreKind.TIMESTAMPED_WINDOW:
            return CachedWindowState(spec, store, task)
        case StoreKind.SESSION:
            return CachedSessionState(spec, store, task)
        case _:
            assert spec.kind is StoreKind.TIMESTAMPED_KEY_VALUE
            return CachedKeyValueState(spec, store, task)


#: Objects that nobody can change, by the serde that would give back an equal one of the same type.
_IMMUTABLE: Final = ((INT64, int), (FLOAT64, float), (TEXT, str), (RAW, bytes))


def _unchanging_types(spec: StoreSpec) -> frozenset[type]:
    given = getattr(spec.value_serde, "unchanging", ())
    return frozenset([*given, *(kind for serde, kind in _IMMUTABLE if serde is spec.value_serde)])
