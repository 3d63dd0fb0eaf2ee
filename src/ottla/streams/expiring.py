"""Values that live for a time, in a sorted store of bytes.

    "l" | key                    -> timestamp int64 | value
    "x" | timestamp int64 | key  -> 0

A value has gone once stream time has passed its timestamp by its time to live; `get` and `all` know that without removing
anything, so that what is seen does not depend on when `expire` was called last.
"""

from __future__ import annotations

from collections.abc import Iterator

from ottla.streams.keys import pack_long, split_timestamped, timestamped, unpack_long
from ottla.streams.store import Store, prefix_end

_LIVE, _INDEX = b"l", b"x"


class Expiring:
    """See the module. Times are in ms; `now` is stream time."""

    def __init__(self, store: Store, ttl_ms: int) -> None:
        self._store = store
        self._ttl_ms = ttl_ms

    def is_over(self, timestamp: int, now: int) -> bool:
        """Tell whether a value of that time has gone."""
        return timestamp + self._ttl_ms <= now

    def get(self, key: bytes, now: int) -> tuple[bytes, int] | None:
        """Return (value, timestamp) of a key, or None."""
        data = self._store.get(_LIVE + key)
        if data is None:
            return None
        found = split_timestamped(data)
        return None if self.is_over(found[1], now) else found

    def put(self, key: bytes, value: bytes | None, timestamp: int) -> None:
        """Write a value; None deletes."""
        name = _LIVE + key
        before = self._store.get(name)
        if before is not None:
            self._store.delete(_INDEX + before[:8] + key)
        if value is None:
            self._store.delete(name)
        else:
            self._store.put(name, timestamped(value, timestamp))
            self._store.put(_INDEX + pack_long(timestamp) + key, b"\x00")

    def all(self, since: bytes, until: bytes | None, now: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield (key, value, timestamp) in the order of keys, from `since` up to and not including `until`."""
        end = prefix_end(_LIVE) if until is None else _LIVE + until
        for name, data in self._store.range(_LIVE + since, end):
            value, timestamp = split_timestamped(data)
            if not self.is_over(timestamp, now):
                yield name[1:], value, timestamp

    def expire(self, now: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Remove what has gone, and yield (key, value, timestamp) of it, in the order of timestamps."""
        if now < self._ttl_ms:
            return
        for name, _ in self._store.range(_INDEX, _INDEX + pack_long(now - self._ttl_ms + 1)):
            key = name[9:]
            data = self._store.get(_LIVE + key)
            assert data is not None
            self._store.delete(_LIVE + key)
            self._store.delete(name)
            yield key, *split_timestamped(data)

    def first_due(self) -> int | None:
        """Return the stream time at which the first value goes; None: there are none."""
        entry = next(self._store.range(_INDEX, prefix_end(_INDEX)), None)
        return None if entry is None else unpack_long(entry[0][1:9]) + self._ttl_ms
