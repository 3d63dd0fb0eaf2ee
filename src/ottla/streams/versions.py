"""Versions of keys in a sorted store of bytes: what KIP-889 calls a versioned store.

Each version is valid from its timestamp to that of the next one, whatever the order in which they come; a deletion is a
version, too. The newest version of a key never expires. An older one can be read for as long as it was valid within the
retention: until the next version's timestamp is so far behind stream time.

    "l" | key                                   -> timestamp int64 | value            the newest version, unless it deletes
    "v" | length int32 | key | timestamp        -> 1 | value, or 0: deleted           those before it, and newest deletions
    "x" | segment int64 | length | key | timestamp -> 0                               what goes when a segment expires

The segment is that of the time until which a version is valid (of a newest deletion: its own). An index entry may be there
for a later segment, too, than the one that counts: a version that came late has made it valid for less long. So entries are
looked up by nobody; a version is removed with the first of its segments that expires.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ottla.streams.keys import pack_long, split_timestamped, timestamped, unpack_long
from ottla.streams.store import Store, prefix_end

_LENGTH = struct.Struct(">i")
_NEWEST, _OLDER, _INDEX = b"l", b"v", b"x"
_DELETED = b"\x00"
_LAST = (1 << 63) - 2


class Version(NamedTuple):
    """One version of a key: its value as bytes, and from when to when it is valid (ms; `until` is None: it is the
    newest)."""

    value: bytes
    since: int
    until: int | None


class Put(NamedTuple):
    """What a write was.

    Attributes:
        stored: False: its timestamp is behind stream time by more than the retention, and nothing was written.
        until: until when it is valid (ms); None: it is the newest version.
    """

    stored: bool
    until: int | None


_TOO_LATE = Put(stored=False, until=None)
_IS_NEWEST = Put(stored=True, until=None)


def segment_interval_ms(retention_ms: int) -> int:
    """Return how much of time expires at once, for a retention: Java's numbers."""
    for bound, parts, least in ((60_000, 3, 2_000), (300_000, 5, 20_000), (3_600_000, 12, 60_000)):
        if retention_ms <= bound:
            return max(retention_ms // parts, least)
    return max(retention_ms // 24, 300_000)


class Versions:
    """See the module.

    Attributes:
        stream_time: the largest timestamp that was written, in ms; -1 before the first.
    """

    def __init__(self, store: Store, retention_ms: int, interval_ms: int, stream_time: int) -> None:
        self._store = store
        self._retention_ms = retention_ms
        self._interval_ms = interval_ms
        self.stream_time: int = stream_time
        self._first_live = self._live()

    def newest(self, key: bytes) -> Version | None:
        """Return the newest version; None if it deletes, or there is none."""
        data = self._store.get(_NEWEST + key)
        if data is None:
            return None
        value, since = split_timestamped(data)
        return Version(value, since, None)

    def get(self, key: bytes, as_of: int) -> Version | None:
        """Return what was valid at a time (ms); None if that was nothing, or is forgotten."""
        newest = self.newest(key)
        if newest is not None and newest.since <= as_of:
            return newest
        if as_of < max(0, self.stream_time - self._retention_ms):
            return None
        as_of = min(as_of, _LAST)
        head = _older(key)
        for name, data in self._store.reverse_range(head, head + pack_long(as_of + 1)):
            if data == _DELETED:
                return None
            return Version(data[1:], unpack_long(name[-8:]), self._next(key, unpack_long(name[-8:]), newest))
        return None

    def history(self, key: bytes, since: int, until: int) -> Iterator[Version]:
        """Yield versions that were valid at some time from `since` to `until` (ms, both included), oldest first."""
        newest, until = self.newest(key), min(until, _LAST)
        if 0 <= until >= self.stream_time - self._retention_ms:
            first = max(since, self.stream_time - self._retention_ms)
            head = _older(key)
            behind = newest.since if newest is not None and newest.since <= until else self._next(key, until, newest)
            before: tuple[bytes, int] | None = None
            for name, data in [*self._store.range(head, head + pack_long(until + 1)), (b"", b"")]:
                start = unpack_long(name[-8:]) if name else behind
                if before is not None and before[0] != _DELETED and (start is None or start > first):
                    yield Version(before[0][1:], before[1], start)
                if start is not None:
                    before = data, start
        if newest is not None and newest.since <= until:
            yield newest

    def all(self, since: bytes = b"", until: bytes | None = None) -> Iterator[tuple[bytes, Version]]:
        """Yield (key, newest version), in the order of keys, from `since` up to and not including `until`."""
        end = prefix_end(_NEWEST) if until is None else _NEWEST + until
        for name, data in self._store.range(_NEWEST + since, end):
            value, when = split_timestamped(data)
            yield name[1:], Version(value, when, None)

    def put(self, key: bytes, value: bytes | None, timestamp: int) -> Put:
        """Write a version (timestamp in ms); None as a value deletes."""
        if timestamp < self.stream_time - self._retention_ms:
            return _TOO_LATE
        if timestamp > self.stream_time:
            self.stream_time = timestamp
            self._expire()
        newest = self.newest(key)
        until = self._next(key, timestamp, newest)
        if until is not None:
            self._put_older(key, value, timestamp, until)
            self._end_before(key, timestamp)
            return Put(stored=True, until=until)
        if newest is not None and timestamp > newest.since:
            self._put_older(key, newest.value, newest.since, timestamp)
        if value is None:
            self._store.delete(_NEWEST + key)
            self._put_older(key, None, timestamp, timestamp)
        else:
            self._store.put(_NEWEST + key, timestamped(value, timestamp))
            if newest is None:  # it may take the place of a deletion of the same time
                self._forget(key, timestamp, timestamp)
        return _IS_NEWEST

    def _next(self, key: bytes, timestamp: int, newest: Version | None) -> int | None:
        """Return when the first version behind a time begins; None if there is none."""
        if newest is not None and newest.since <= timestamp:
            return None
        head = _older(key)
        for name, _ in self._store.range(head + pack_long(timestamp + 1), prefix_end(head)):
            return unpack_long(name[-8:])
        return None if newest is None else newest.since

    def _end_before(self, key: bytes, timestamp: int) -> None:
        """The version before a new one is valid for less long now."""
        head = _older(key)
        for name, _ in self._store.reverse_range(head, head + pack_long(timestamp)):
            self._store.put(self._index(timestamp, name[1:]), _DELETED)
            return

    def _put_older(self, key: bytes, value: bytes | None, timestamp: int, until: int) -> None:
        self._forget(key, timestamp, timestamp)
        name = _older(key) + pack_long(timestamp)
        self._store.put(name, _DELETED if value is None else b"\x01" + value)
        self._store.put(self._index(until, name[1:]), _DELETED)

    def _forget(self, key: bytes, timestamp: int, until: int) -> None:
        """Remove a version that was valid for no time, and what would make another one of its time expire early."""
        name = _older(key) + pack_long(timestamp)
        if self._store.get(name) is not None:
            self._store.delete(name)
            self._store.delete(self._index(until, name[1:]))

    def _index(self, until: int, name: bytes) -> bytes:
        return _INDEX + pack_long(until // self._interval_ms) + name

    def _live(self) -> int:
        return max(self.stream_time - self._retention_ms, 0) // self._interval_ms

    def _expire(self) -> None:
        live = self._live()
        if live <= self._first_live:
            return
        end = _INDEX + pack_long(live)
        for name, _ in self._store.range(_INDEX, end):
            self._store.delete(_OLDER + name[9:])
        self._store.delete_range(_INDEX, end)
        self._first_live = live


def _older(key: bytes) -> bytes:
    return _OLDER + _LENGTH.pack(len(key)) + key
