"""What operators remember of time across commits and restarts: their stream time, and until when they have emitted.

It is kept in the task's store TIMES_STORE. So that it survives the loss of that store, it also goes to the changelog of
the
store that the operator works on: one tombstone of a key that no user has, whose headers say it. Java's restore deletes
nothing by it. A difference from Java, which starts at nothing and accepts late records again after a restart.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from ottla.streams.context import Headers, Output
from ottla.streams.store import Store
from ottla.streams.topology import StoreKind, StoreSpec

#: Name of the header, and the beginning of the record's key.
TIMES_HEADER = "ottla.times"
_PAIR = struct.Struct(">qq")
#: Stream time before the first record, as in Kafka.
UNKNOWN = -1
_ENDS = {
    StoreKind.WINDOW: bytes(12),
    StoreKind.TIMESTAMPED_WINDOW: bytes(12),
    StoreKind.SESSION: bytes(16),
    StoreKind.QUEUE: bytes(12),
}


class Times:
    """Of one operator.

    Attributes:
        stream_time: the largest timestamp of the records that reached it (ms), -1 before the first.
        emitted: until where it has emitted what is final (ms); what that means is the operator's.
    """

    __slots__ = ("changed", "emitted", "name", "spec", "stream_time")

    def __init__(self, name: str, spec: StoreSpec | None, stream_time: int, emitted: int) -> None:
        self.name: str = name
        self.spec: StoreSpec | None = spec
        self.stream_time: int = stream_time
        self.emitted: int = emitted
        self.changed: bool = False

    def advance(self, timestamp: int) -> int:
        """Move stream time on to a record's timestamp, never back; return it."""
        if timestamp > self.stream_time:
            self.stream_time = timestamp
            self.changed = True
        return self.stream_time

    def emit_until(self, timestamp: int) -> None:
        """Remember that everything final until then was emitted."""
        if timestamp != self.emitted:
            self.emitted = timestamp
            self.changed = True


class TimesBook:
    """All of one task."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._all: dict[str, Times] = {}

    def of(self, name: str, spec: StoreSpec | None) -> Times:
        """Return what one operator or store remembers, as it was committed."""
        found = self._all.get(name)
        if found is None:
            stored = None if self._store is None else self._store.get(name.encode())
            pair = (UNKNOWN, UNKNOWN) if stored is None else _PAIR.unpack(stored)
            found = self._all[name] = Times(name, spec, *pair)
        return found

    def all(self) -> Iterable[tuple[str, Times]]:
        """Return (name, times) of every operator and store that has some."""
        return self._all.items()

    def flush(self, emit: Callable[[Output], None], partition: int) -> None:
        """Store what has changed, and emit one record for each changelog whose operators it concerns."""
        if self._store is None:
            return
        changed: dict[str, StoreSpec] = {}
        for times in self._all.values():
            if times.changed:
                times.changed = False
                self._store.put(times.name.encode(), _PAIR.pack(times.stream_time, times.emitted))
                spec = times.spec
                if spec is not None and spec.changelog is not None and not spec.source_changelog:
                    changed[spec.changelog] = spec
        for changelog, spec in changed.items():
            mine = [times for times in self._all.values() if times.spec is not None and times.spec.name == spec.name]
            headers: Headers = tuple(
                (TIMES_HEADER, _PAIR.pack(times.stream_time, times.emitted) + times.name.encode()) for times in mine
            )
            key = TIMES_HEADER.encode() + _ENDS.get(spec.kind, b"")
            emit(Output(changelog, partition, key, None, max(0, *(times.stream_time for times in mine)), headers))


def pack_times(stream_time: int, emitted: int) -> bytes:
    """Return the value of an entry of TIMES_STORE."""
    return _PAIR.pack(stream_time, emitted)


def unpack_times(data: bytes) -> tuple[int, int]:
    """Return (stream time, emitted until) of an entry of TIMES_STORE."""
    stream_time, emitted = _PAIR.unpack(data)
    return stream_time, emitted


def restored_times(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the entries for TIMES_STORE that a changelog record carries."""
    size = _PAIR.size
    return [(value[size:], value[:size]) for name, value in headers if name == TIMES_HEADER and value is not None]


def is_times(output: Output) -> bool:
    """Tell whether a changelog record carries times, and nothing of the store. Java's changelogs have no such
    records."""
    return output.value is None and any(name == TIMES_HEADER for name, _ in output.headers)
