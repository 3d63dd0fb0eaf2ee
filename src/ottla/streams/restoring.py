"""From the records of a changelog back to the entries of a store.

Knows no I/O: the runtime reads the topic and calls `apply` for each record, in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from ottla.streams.context import Headers, InputRecord
from ottla.streams.expiring import Expiring
from ottla.streams.keys import pack_long, split_session_key, split_window_key, timestamped
from ottla.streams.operators.suppress import Waiting, restored_entry
from ottla.streams.store import Store
from ottla.streams.times import UNKNOWN, pack_times, restored_times, unpack_times
from ottla.streams.topology import TIMES_STORE, StoreKind, StoreSpec
from ottla.streams.versions import Versions

_COUNTS = struct.Struct(">qq")


class Restorer:
    """Writes changelog records into one store of a task, and into its TIMES_STORE."""

    def __init__(self, spec: StoreSpec, stores: Mapping[str, Store]) -> None:
        """Begin, or go on, restoring `spec.name` among `stores`."""
        self._spec = spec
        self._store = stores[spec.name]
        self._times = stores.get(TIMES_STORE)
        kind = spec.kind
        self._times_name = f"store {spec.name}".encode()
        self._timed = kind in (StoreKind.TIMESTAMPED_KEY_VALUE, StoreKind.TIMESTAMPED_WINDOW)
        self._time_at = {StoreKind.WINDOW: 12, StoreKind.TIMESTAMPED_WINDOW: 12, StoreKind.SESSION: 16}.get(kind)
        self._observed = -1
        self._first_live = 0
        self._versions: Versions | None = None
        self._expiring: Expiring | None = None
        if kind is StoreKind.EXPIRING:
            assert spec.retention_ms is not None
            self._expiring = Expiring(self._store, spec.retention_ms)
        if kind is StoreKind.VERSIONED:
            assert spec.retention_ms is not None
            assert spec.segment_interval_ms is not None
            if self._times is not None and next(self._store.range(b"", None), None) is None:
                # The store was lost, and its time was not: what it says would make old versions late, newest ones too.
                self._times.delete(self._times_name)
            known = None if self._times is None else self._times.get(self._times_name)
            stream_time = UNKNOWN if known is None else unpack_times(known)[0]
            self._versions = Versions(self._store, spec.retention_ms, spec.segment_interval_ms, stream_time)

    def apply(self, key: bytes | None, value: bytes | None, timestamp: int, headers: Headers = ()) -> None:
        """Write one record (timestamp in ms); None as a value deletes. A record without a key is passed over."""
        if key is None:
            return
        if headers and value is None and (found := restored_times(headers)):
            if self._times is not None:
                for entry in found:
                    self._times.put(*entry)
            return
        if self._spec.kind is StoreKind.BUFFER:
            self._apply_waiting(key, value)
            return
        if self._expiring is not None:
            # What is gone by the stream time that comes with the changelog is not seen, and removed by the next commit.
            self._expiring.put(key, value, timestamp)
            return
        if self._versions is not None:
            self._versions.put(key, value, timestamp)
            self._observed = max(self._observed, timestamp)
            return
        if value is not None and self._spec.kind is StoreKind.QUEUE:
            value = value[:-8]
        name = key
        if self._time_at is not None:
            when = _time_of(key, self._spec.kind)
            interval, retention = self._spec.segment_interval_ms, self._spec.retention_ms
            assert interval is not None
            assert retention is not None
            if when > self._observed:
                self._observed = when
                live = max(when - retention, 0) // interval
                if live > self._first_live:
                    self._first_live = live
                    self._store.delete_range(b"", pack_long(live))
            if when // interval < self._first_live:
                return
            name = pack_long(when // interval) + key
        if value is None:
            self._store.delete(name)
        else:
            self._store.put(name, timestamped(value, timestamp) if self._timed else value)

    def apply_all(self, records: Iterable[InputRecord]) -> None:
        """Write records, in order."""
        apply = self.apply
        for _, _, _, timestamp, key, value, headers in records:
            apply(key, value, timestamp, headers)
        if self._versions is not None:
            # What is late is told by the stream time: a restart in the middle must know it.
            self.finish()

    def _apply_waiting(self, key: bytes, value: bytes | None) -> None:
        """Write one entry of a suppress buffer; its counts go along."""
        store = self._store
        known = store.get(b"c")
        count, size = (0, 0) if known is None else _COUNTS.unpack(known)
        when = store.get(b"k" + key)
        if when is not None:
            before = store.get(b"t" + when + key)
            count, size = count - 1, size - (0 if before is None else Waiting.unpack(before).size(key))
            store.delete(b"k" + key)
            store.delete(b"t" + when + key)
        if value is not None:
            at, data = restored_entry(value)
            store.put(b"k" + key, pack_long(at))
            store.put(b"t" + pack_long(at) + key, data)
            count, size = count + 1, size + Waiting.unpack(data).size(key)
        store.put(b"c", _COUNTS.pack(count, size))

    def finish(self) -> None:
        """Call it when the end is reached: a changelog without times (Java's) still tells the store's own stream
        time."""
        if self._observed < 0 or self._times is None:
            return
        known = self._times.get(self._times_name)
        if known is None or unpack_times(known)[0] < self._observed:
            self._times.put(self._times_name, pack_times(self._observed, UNKNOWN))


def _time_of(key: bytes, kind: StoreKind) -> int:
    if kind is StoreKind.SESSION:
        return split_session_key(key)[2]
    return split_window_key(key)[1]
