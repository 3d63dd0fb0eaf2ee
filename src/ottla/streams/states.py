"""Stores as operators and users see them: objects in and out, over a `Store` of bytes, each change with its changelog
record.

Local keys of windowed kinds begin with the segment (int64, time // segment interval), so that a segment expires by one
`delete_range`; behind it they are Java's, as in the changelog. Expiry follows Java's persistent stores: a write is
dropped when its segment has expired, a read sees nothing older than the retention.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ottla.streams.context import Headers, Output, Process
from ottla.streams.errors import TopologyError
from ottla.streams.expiring import Expiring
from ottla.streams.keys import (
    Window,
    Windowed,
    pack_long,
    queue_key,
    session_key,
    split_session_key,
    split_timestamped,
    split_window_key,
    unpack_long,
    window_key,
)
from ottla.streams.store import Store, prefix_end
from ottla.streams.topology import StoreKind, StoreSpec
from ottla.streams.versions import Put, Versions

if TYPE_CHECKING:
    from ottla.streams.task import Task


_COUNTS = struct.Struct(">qq")


def open_state(spec: StoreSpec, store: Store, task: Task) -> Any:
    """Return the state of a task's store."""
    match spec.kind:
        case StoreKind.KEY_VALUE | StoreKind.TIMESTAMPED_KEY_VALUE:
            return KeyValueState(spec, store, task)
        case StoreKind.WINDOW | StoreKind.TIMESTAMPED_WINDOW:
            return WindowState(spec, store, task)
        case StoreKind.SESSION:
            return SessionState(spec, store, task)
        case StoreKind.BUFFER:
            return BufferState(spec, store, task)
        case StoreKind.VERSIONED:
            return VersionedState(spec, store, task)
        case StoreKind.QUEUE:
            return QueueState(spec, store, task)
        case StoreKind.EXPIRING:
            return (ExpiringTableState if spec.of_table else ExpiringState)(spec, store, task)
        case _:
            raise TopologyError(f"stores of kind {spec.kind.value} are not there yet ({spec.name})")


class State:
    """What all have: serdes, and a changelog."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        self.spec = spec
        self.store = store
        self.task = task
        #: The topic that serializers are told.
        self.topic: str = spec.changelog or spec.name
        if spec.key_serde is None or spec.value_serde is None:
            raise TopologyError(f"the store {spec.name} does not know how its keys or values are written")
        self._write_key = spec.key_serde.serialize
        self._read_key = spec.key_serde.deserialize
        self._write_value = spec.value_serde.serialize
        self._read_value = spec.value_serde.deserialize
        self._logged = spec.changelog is not None and not spec.source_changelog

    def key_bytes(self, key: Any) -> bytes:
        """Return a key as it is stored."""
        return self._write_key(self.topic, key)  # type: ignore[return-value]

    def value_bytes(self, value: Any) -> bytes:
        """Return a value as it is stored, without its timestamp."""
        return self._write_value(self.topic, value)  # type: ignore[return-value]

    def read_key(self, data: bytes) -> Any:
        """Return the key of stored bytes."""
        return self._read_key(self.topic, data)

    def read_value(self, data: bytes) -> Any:
        """Return the object of stored bytes."""
        return self._read_value(self.topic, data)

    @property
    def is_cached(self) -> bool:
        """Whether a cache forwards the changes of this store."""
        return False

    def listen(self, forward: Process, *, send_old: bool) -> bool:
        """Have a cache forward the changes of this store; False: there is none, so that the operator forwards them.

        Args:
            send_old: changes carry the value that the store held before.
        """
        return False

    def log(self, key: bytes, value: bytes | None, timestamp: int, headers: Headers = ()) -> None:
        """Emit a changelog record."""
        if self._logged:
            self.task.emit(Output(self.topic, self.task.partition, key, value, max(timestamp, 0), headers))


class KeyValueState(State):
    """Keys and values; of timestamped kinds each value has the time of the record that made it."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._timed = spec.kind is StoreKind.TIMESTAMPED_KEY_VALUE

    def get(self, key: Any) -> Any:
        """Return the value, or None."""
        found = self.get_timed(key)
        return None if found is None else found[0]

    def get_timed(self, key: Any) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms), or None. Without timestamps it is -1."""
        return self.load(self._write_key(self.topic, key))  # type: ignore[arg-type]

    def load(self, name: bytes) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms) of a key as bytes, or None."""
        data = self.store.get(name)
        if data is None:
            return None
        if not self._timed:
            return self._read_value(self.topic, data), -1
        return self._read_value(self.topic, data[8:]), unpack_long(data[:8])

    def put(self, key: Any, value: Any, timestamp: int | None = None, headers: Headers = ()) -> Put | None:
        """Write a value; None deletes.

        Args:
            timestamp: of the value and of the changelog record, in ms; without one the time of the record at hand.
            headers: of the changelog record.
        """
        self.save(self.key_bytes(key), value, self.task.record_time if timestamp is None else timestamp, headers)
        return None

    def keep(self, name: bytes, value: Any, timestamp: int, headers: Headers) -> None:
        """Save a result that the store's cache forwards; only stores with a cache have it."""
        raise NotImplementedError

    def save(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> None:
        """Write the value of a key as bytes; None deletes."""
        if value is None:
            self.store.delete(name)
            self.log(name, None, timestamp, headers)
            return
        data: bytes = self._write_value(self.topic, value)  # type: ignore[assignment]
        self.store.put(name, pack_long(timestamp) + data if self._timed else data)
        if self._logged:
            self.task.emit(
                Output(self.topic, self.task.partition, name, data, timestamp if timestamp > 0 else 0, headers)
            )

    def delete(self, key: Any) -> Any:
        """Remove a value, and return it."""
        found = self.get(key)
        self.put(key, None)
        return found

    def all(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value), in the order of the keys' bytes."""
        return self._objects(self.store.range(b"", None))

    def range(self, start: Any = None, end: Any = None) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) from `start` to `end`, both included, in the order of the keys' bytes; None: open."""
        first = b"" if start is None else self.key_bytes(start)
        last = None if end is None else self.key_bytes(end) + b"\x00"
        return self._objects(self.store.range(first, last))

    def prefix(self, prefix: bytes) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) of keys whose bytes begin so."""
        return self._objects(self.store.prefix(prefix))

    def _objects(self, entries: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[Any, Any]]:
        for key, data in entries:
            value = split_timestamped(data)[0] if self._timed else data
            yield self._read_key(self.topic, key), self._read_value(self.topic, value)


class VersionedState(KeyValueState):
    """Keys with versions of their values (KIP-889): `get(key)` is the newest, `get(key, as_of=ms)` what was valid then.

    Versions may be put in any order. One that is behind the largest timestamp so far by more than the history retention is
    passed over.
    """

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        assert spec.retention_ms is not None
        assert spec.segment_interval_ms is not None
        self._times = task.times_of(f"store {spec.name}", spec.name)
        self._versions = Versions(store, spec.retention_ms, spec.segment_interval_ms, self._times.stream_time)

    def get(self, key: Any, as_of: int | None = None) -> Any:
        """Return the newest value, or what was valid at a time (ms); None if there is none."""
        found = self.get_timed(key, as_of)
        return None if found is None else found[0]

    def get_timed(self, key: Any, as_of: int | None = None) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms), or None."""
        return self.load(self.key_bytes(key), as_of)

    def load(self, name: bytes, as_of: int | None = None) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms) of a key as bytes, or None."""
        found = self._versions.newest(name) if as_of is None else self._versions.get(name, as_of)
        return None if found is None else (self.read_value(found.value), found.since)

    def history(self, key: Any, since: int = 0, until: int = (1 << 63) - 1) -> Iterator[tuple[Any, int, int | None]]:
        """Yield (value, valid from, valid until) of what was valid from `since` to `until`, in ms, oldest first.

        A version is valid up to, and not including, the time at its end; None: it is the newest.
        """
        for value, start, end in self._versions.history(self.key_bytes(key), since, until):
            yield self.read_value(value), start, end

    def put(self, key: Any, value: Any, timestamp: int | None = None, headers: Headers = ()) -> Put:
        """Write a version, and say what it was; None deletes.

        Args:
            timestamp: from when on it is valid, in ms; without one the time of the record at hand.
            headers: of the changelog record.
        """
        when = self.task.record_time if timestamp is None else timestamp
        return self.write(self.key_bytes(key), value, when, headers)

    def write(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> Put:
        """Write a version of a key as bytes, and say what it was; None deletes. As in Java, the changelog gets it in any
        case."""
        data = None if value is None else self.value_bytes(value)
        done = self._versions.put(name, data, timestamp)
        self._times.advance(self._versions.stream_time)
        if not done.stored:
            self.task.drop(self.spec.name)
        self.log(name, data, timestamp, headers)
        return done

    def save(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> None:
        """Write a version of a key as bytes; None deletes."""
        self.write(name, value, timestamp, headers)

    def delete(self, key: Any, timestamp: int | None = None) -> Any:
        """Let a key have no value from a time on (ms; without one that of the record at hand); return what was valid
        then."""
        when = self.task.record_time if timestamp is None else timestamp
        found = self.get(key, when)
        self.put(key, None, when)
        return found

    def all(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, newest value), in the order of the keys' bytes."""
        return self.range()

    def range(self, start: Any = None, end: Any = None) -> Iterator[tuple[Any, Any]]:
        """Yield (key, newest value) from `start` to `end`, both included, in the order of the keys' bytes; None: open."""
        first = b"" if start is None else self.key_bytes(start)
        last = None if end is None else self.key_bytes(end) + b"\x00"
        return self._newest(first, last)

    def prefix(self, prefix: bytes) -> Iterator[tuple[Any, Any]]:
        """Yield (key, newest value) of keys whose bytes begin so."""
        return self._newest(prefix, prefix_end(prefix))

    def _newest(self, first: bytes, last: bytes | None) -> Iterator[tuple[Any, Any]]:
        for name, found in self._versions.all(first, last):
            yield self.read_key(name), self.read_value(found.value)


class ExpiringState(KeyValueState):
    """Keys and values that are gone once stream time, that of the task, has passed their timestamps by their time to live.

    Before a commit what is gone is removed, and deleted in the changelog.
    """

    _follows_task: bool = True

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        assert spec.retention_ms is not None
        self._times = task.times_of(f"store {spec.name}", spec.name)
        self._values = Expiring(store, spec.retention_ms)
        if self._follows_task:
            task.on_flush(self._expire)

    def _now(self) -> int:
        return max(self._times.stream_time, self.task.stream_time) if self._follows_task else self._times.stream_time

    def load(self, name: bytes) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms) of a key as bytes, or None."""
        found = self._values.get(name, self._now())
        return None if found is None else (self.read_value(found[0]), found[1])

    def save(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> None:
        """Write the value of a key as bytes; None deletes, and so does a value whose time is over already."""
        data = None if value is None else self.value_bytes(value)
        if data is not None and self._values.is_over(timestamp, self._now()):
            self.task.drop(self.spec.name)
            data = None
        self._values.put(name, data, timestamp)
        self.log(name, data, timestamp, headers)

    def all(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value), in the order of the keys' bytes."""
        return self._alive(b"", None)

    def range(self, start: Any = None, end: Any = None) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) from `start` to `end`, both included, in the order of the keys' bytes; None: open."""
        first = b"" if start is None else self.key_bytes(start)
        return self._alive(first, None if end is None else self.key_bytes(end) + b"\x00")

    def prefix(self, prefix: bytes) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) of keys whose bytes begin so."""
        return self._alive(prefix, prefix_end(prefix))

    def _alive(self, first: bytes, last: bytes | None) -> Iterator[tuple[Any, Any]]:
        for name, value, _ in self._values.all(first, last, self._now()):
            yield self.read_key(name), self.read_value(value)

    def _expire(self) -> None:
        now = self._times.advance(self.task.stream_time)
        for name, _, _ in self._values.expire(now):
            self.log(name, None, now)


class ExpiringTableState(ExpiringState):
    """The same of a table: time is that of its operator, which takes what is gone and tells it as changes."""

    _follows_task = False

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._due: int | None = self._values.first_due()

    @property
    def ttl_ms(self) -> int:
        """The time to live."""
        assert self.spec.retention_ms is not None
        return self.spec.retention_ms

    def advance(self, timestamp: int) -> list[tuple[bytes, Any, int]]:
        """A record has come to the operator: return (key as bytes, value, when it went) of what is gone since."""
        now = self._times.advance(timestamp)
        if self._due is None or now < self._due:
            return []
        gone = []
        for name, value, when in self._values.expire(now):
            self.log(name, None, now)
            gone.append((name, self.read_value(value), when + self.ttl_ms))
        self._due = self._values.first_due()
        return gone

    @property
    def stream_time(self) -> int:
        """The largest time of the records that came to the operator, in ms; -1 before the first."""
        return self._times.stream_time

    def is_over(self, timestamp: int) -> bool:
        """Whether a value of that time would be gone already."""
        return self._values.is_over(timestamp, self._times.stream_time)

    def save(self, name: bytes, value: Any, timestamp: int, headers: Headers = ()) -> None:
        """See `ExpiringState`."""
        super().save(name, value, timestamp, headers)
        if value is not None and (self._due is None or timestamp + self.ttl_ms < self._due):
            self._due = timestamp + self.ttl_ms


class QueueState(State):
    """Records in the order of their time, several of a key and time among them: what a join with grace holds back.

    Local keys and those of the changelog are Java's: 0 | time int64 | key | number int32.
    """

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._times = task.times_of(f"store {spec.name}", spec.name)
        self._sequence = task.times_of(f"sequence {spec.name}", spec.name)

    @property
    def stream_time(self) -> int:
        """The largest time that a record was added with, in ms; -1 before the first."""
        return self._times.stream_time

    def pass_time(self, passed_ms: int) -> None:
        """Move time on without a record (`idle_advance`)."""
        if self._times.stream_time >= 0:
            self._times.advance(self._times.stream_time + passed_ms)

    def add(self, key: Any, when: int, data: bytes) -> None:
        """Add a record; `data` is what its changelog has, without the time at the end."""
        self._times.advance(when)
        number = (max(self._sequence.stream_time, 0) + 1) & 0x7FFFFFFF
        self._sequence.stream_time = number
        self._sequence.changed = True
        name = queue_key(self.key_bytes(key), when, number)
        self.store.put(name, data)
        self.log(name, data + bytes(8), when)

    def until(self, when: int) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield (name, key as bytes, data) of records up to a time, that included, the oldest first, then by key."""
        if when < 0:
            return
        for name, data in self.store.range(b"", queue_key(b"", when + 1, 0)):
            yield name, name[9:-4], data

    def remove(self, name: bytes) -> None:
        """Remove a record."""
        self.store.delete(name)
        self.log(name, None, self._times.stream_time)


class SegmentedState(State):
    """What windowed kinds share: the store's stream time and the expiry of segments."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        assert spec.retention_ms is not None
        assert spec.segment_interval_ms is not None
        self._retention_ms = spec.retention_ms
        self._interval_ms = spec.segment_interval_ms
        self._times = task.times_of(f"store {spec.name}", spec.name)
        self._visible_ms = self._retention_ms - (0 if spec.time_ordered and spec.kind is not StoreKind.SESSION else 1)
        self._first_live = self._live(self._times.stream_time)

    @property
    def observed(self) -> int:
        """The largest window start (sessions: end) that was written, -1 before the first."""
        return self._times.stream_time

    def open_windows(self, stream_time: int) -> int:
        """Count the windows that still take records; it reads all of them."""
        assert self.spec.open_ms is not None
        return sum(1 for _ in self.entries(max(0, stream_time - self.spec.open_ms + 1), (1 << 63) - 1))

    def entries(self, since: int, until: int) -> Iterator[Any]:
        """Yield entries from one time to another."""
        raise NotImplementedError

    def _live(self, stream_time: int) -> int:
        return max(stream_time - self._retention_ms, 0) // self._interval_ms

    def _segment(self, timestamp: int) -> bytes:
        return pack_long(timestamp // self._interval_ms)

    def _observe(self, timestamp: int) -> bool:
        """Take note of a write's time; return whether its segment is alive. Expired ones are removed."""
        times = self._times
        if timestamp > times.stream_time:
            times.advance(timestamp)
            live = self._live(timestamp)
            if live > self._first_live:
                self.store.delete_range(b"", pack_long(live))
                self._first_live = live
        if timestamp // self._interval_ms < self._first_live:
            self.task.drop(self.spec.name)
            return False
        return True

    def _oldest(self, since: int) -> int:
        return max(since, self._times.stream_time - self._visible_ms)

    def _segments(self, since: int, until: int) -> range:
        last = max(self.observed, 0)
        return range(max(since, 0) // self._interval_ms, min(until, last) // self._interval_ms + 1)


class WindowState(SegmentedState):
    """Values by key and window start; a join's kind keeps several under one key and time."""

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        self._timed = spec.kind is StoreKind.TIMESTAMPED_WINDOW
        self._size_ms = spec.window_size_ms or 0
        self._duplicates = spec.retain_duplicates
        #: Of joins: the number of the last entry. Restored with the store, so that no entry is overwritten after a
        #: restart.
        self._sequence = task.times_of(f"sequence {spec.name}", spec.name) if spec.retain_duplicates else None

    def get(self, key: Any, start: int) -> Any:
        """Return the value of one window, or None."""
        found = self.get_timed(key, start)
        return None if found is None else found[0]

    def get_timed(self, key: Any, start: int) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms) of one window, or None."""
        return self.load(self.key_bytes(key), start)

    def load(self, name: bytes, start: int) -> tuple[Any, int] | None:
        """Return (value, timestamp in ms) of one window of a key as bytes, or None."""
        if start < self._times.stream_time - self._visible_ms:
            return None
        data = self.store.get(self._segment(start) + window_key(name, start))
        return None if data is None else self._timed_value(data)

    def add(self, key: Any, value: Any, timestamp: int, headers: Headers) -> None:
        """Write one more value of a key and time: joins keep all. Headers go to the changelog, as in Java."""
        assert self._sequence is not None
        alive = value is None or self._observe(timestamp)
        number = (max(self._sequence.stream_time, 0) + 1) & 0x7FFFFFFF
        self._sequence.stream_time = number
        self._sequence.changed = True
        name = window_key(self.key_bytes(key), timestamp, number)
        data = None if value is None else self.value_bytes(value)
        if data is not None and alive:
            self.store.put(self._segment(timestamp) + name, data)
        self.log(name, data, timestamp, headers)

    def put(self, key: Any, value: Any, start: int, timestamp: int | None = None) -> None:
        """Write the value of one window; None deletes. A window that has expired is dropped.

        Args:
            timestamp: of the value and its changelog record; without one the window's start.
        """
        self.save(self.key_bytes(key), value, start, start if timestamp is None else timestamp)

    def keep(self, name: bytes, value: Any, start: int, timestamp: int, headers: Headers) -> None:
        """Save a result that the store's cache forwards; only stores with a cache have it."""
        raise NotImplementedError

    def save(self, name: bytes, value: Any, start: int, timestamp: int) -> None:
        """Write the value of one window of a key as bytes; None deletes."""
        if not self._observe(start):
            return
        name = window_key(name, start)
        if value is None:
            self.store.delete(self._segment(start) + name)
            self.log(name, None, timestamp)
            return
        data = self.value_bytes(value)
        self.store.put(self._segment(start) + name, pack_long(timestamp) + data if self._timed else data)
        self.log(name, data, timestamp)

    def fetch(self, key: Any, since: int, until: int) -> Iterator[tuple[int, Any]]:
        """Yield (window start, value) of one key, for starts from `since` to `until`, both included."""
        for start, value, _ in self.fetch_timed(key, since, until):
            yield start, value

    def fetch_timed(
        self, key: Any, since: int, until: int, *, backward: bool = False
    ) -> Iterator[tuple[int, Any, int]]:
        """Yield (window start, value, timestamp in ms) of one key, in the order of starts."""
        for start, data, timestamp in self.fetch_raw(key, since, until, backward=backward):
            yield start, self._read_value(self.topic, data), timestamp

    def fetch_raw(
        self, key: Any, since: int, until: int, *, backward: bool = False
    ) -> Iterator[tuple[int, bytes, int]]:
        """Yield (window start, value as bytes, timestamp in ms) of one key, in the order of starts."""
        since = self._oldest(since)
        if until < since:
            return
        name = self.key_bytes(key)
        first, last = window_key(name, max(since, 0)), window_key(name, until, 0x7FFFFFFF) + b"\x00"
        length = len(name) + 20
        segments = self._segments(since, until)
        scan = self.store.reverse_range if backward else self.store.range
        for segment in reversed(segments) if backward else segments:
            head = pack_long(segment)
            for found, data in scan(head + first, head + last):
                if len(found) != length:  # a longer key that begins alike
                    continue
                start = split_window_key(found)[1]
                if self._timed:
                    value, timestamp = split_timestamped(data)
                    yield start, value, timestamp
                else:
                    yield start, data, -1

    def fetch_all(self, since: int = 0, until: int = (1 << 63) - 1) -> Iterator[tuple[Windowed, Any]]:
        """Yield (windowed key, value) of every key, for starts from `since` to `until`, both included."""
        for key, start, value, _ in self.entries(since, until):
            yield Windowed(self._read_key(self.topic, key), Window(start, start + self._size_ms)), value

    def entries(self, since: int, until: int) -> Iterator[tuple[bytes, int, Any, int]]:
        """Yield (key bytes, window start, value, timestamp)."""
        since = self._oldest(since)
        segments = self._segments(since, until)
        if not segments:
            return
        for found, data in self.store.range(pack_long(segments[0]), pack_long(segments[-1] + 1)):
            key, start, _ = split_window_key(found[8:])
            if since <= start <= until:
                value, timestamp = self._timed_value(data)
                yield key, start, value, timestamp

    def _timed_value(self, data: bytes) -> tuple[Any, int]:
        if not self._timed:
            return self._read_value(self.topic, data), -1
        value, timestamp = split_timestamped(data)
        return self._read_value(self.topic, value), timestamp


class SessionState(SegmentedState):
    """Values by key and session."""

    def get(self, key: Any, start: int, end: int) -> Any:
        """Return the value of one session, or None."""
        if end < self._times.stream_time - self._visible_ms:
            return None
        data = self.store.get(self._segment(end) + session_key(self.key_bytes(key), start, end))
        return None if data is None else self._read_value(self.topic, data)

    def put(self, key: Any, window: Window, value: Any, timestamp: int | None = None) -> None:
        """Write the value of one session; None removes it."""
        start, end = window
        if timestamp is None:
            timestamp = end
        name = session_key(self.key_bytes(key), start, end)
        if value is None:
            self._observe_only(end)
            self.store.delete(self._segment(end) + name)
            self.log(name, None, timestamp)
            return
        if not self._observe(end):
            return
        data = self.value_bytes(value)
        self.store.put(self._segment(end) + name, data)
        self.log(name, data, timestamp)

    def keep(self, key: Any, window: Window, value: Any, timestamp: int, headers: Headers) -> None:
        """Save a result that the store's cache forwards; only stores with a cache have it."""
        raise NotImplementedError

    def _observe_only(self, timestamp: int) -> None:
        if timestamp > self._times.stream_time:
            self._observe(timestamp)

    def find(self, key: Any, earliest_end: int, latest_start: int) -> Iterator[tuple[Window, Any]]:
        """Yield (session, value) of one key: sessions that end at `earliest_end` or later and start at `latest_start`
        or earlier."""
        since = self._oldest(earliest_end)
        name = self.key_bytes(key)
        length = len(name) + 24
        for segment in self._segments(since, self.observed):
            head = pack_long(segment)
            low = head + name + pack_long(max(since, 0))
            for found, data in self.store.range(low, head + name + b"\xff"):
                if len(found) != length:
                    continue
                _, start, end = split_session_key(found)
                if end >= since and start <= latest_start:
                    yield Window(start, end), self._read_value(self.topic, data)

    def entries(self, since: int, until: int) -> Iterator[tuple[bytes, Window, Any]]:
        """Yield (key bytes, session, value) of sessions that end from `since` to `until`."""
        if not self.spec.time_ordered:
            since = self._oldest(since)
        segments = self._segments(since, until)
        if not segments:
            return
        for found, data in self.store.range(pack_long(segments[0]), pack_long(segments[-1] + 1)):
            key, start, end = split_session_key(found[8:])
            if since <= end <= until:
                yield key, Window(start, end), self._read_value(self.topic, data)

    def fetch_all(self) -> Iterator[tuple[Windowed, Any]]:
        """Yield (windowed key, value) of every session."""
        for key, window, value in self.entries(0, (1 << 63) - 1):
            yield Windowed(self._read_key(self.topic, key), window), value


class BufferState(State):
    """Entries ordered by a time, one for each key; `operators.suppress` says what they are.

    Attributes:
        count, bytes: how many there are, and how large they count.
        dirty: keys that changed since the last commit, in order.
    """

    def __init__(self, spec: StoreSpec, store: Store, task: Task) -> None:
        super().__init__(spec, store, task)
        known = store.get(b"c")
        self.count, self.bytes = (0, 0) if known is None else _COUNTS.unpack(known)
        self._first: float | None = None
        self.dirty: dict[bytes, None] = {}

    @property
    def first_time(self) -> float:
        """The time of the oldest entry; infinite without any."""
        if self._first is None:
            first = next(self.store.prefix(b"t"), None)
            self._first = math.inf if first is None else unpack_long(first[0][1:9])
        return self._first

    def get(self, key: bytes) -> tuple[int, bytes] | None:
        """Return (time, entry) of a key, or None."""
        when = self.store.get(b"k" + key)
        if when is None:
            return None
        data = self.store.get(b"t" + when + key)
        assert data is not None
        return unpack_long(when), data

    def put(self, key: bytes, when: int, data: bytes, grown: int) -> None:
        """Write an entry; `grown` is by how much the bytes grow. The time of an entry that is there stays."""
        name = pack_long(when)
        if self.store.get(b"k" + key) is None:
            self.count += 1
            self.store.put(b"k" + key, name)
            if self._first is not None:
                self._first = min(self._first, when)
        self.bytes += grown
        self.store.put(b"t" + name + key, data)
        self.dirty[key] = None

    def remove(self, key: bytes, size: int) -> None:
        """Remove an entry of that size."""
        when = self.store.get(b"k" + key)
        if when is None:
            return
        self.store.delete(b"k" + key)
        self.store.delete(b"t" + when + key)
        self.count -= 1
        self.bytes -= size
        self._first = None
        self.dirty[key] = None

    def oldest(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield (key, time, entry), the oldest first, then by key."""
        for name, data in self.store.prefix(b"t"):
            yield name[9:], unpack_long(name[1:9]), data

    def flushed(self) -> None:
        """Store the counts; nothing is dirty any more."""
        if self.dirty:
            self.dirty.clear()
            self.store.put(b"c", _COUNTS.pack(self.count, self.bytes))
