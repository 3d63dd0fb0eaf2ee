"""suppress(): changes wait in a buffer, ordered by time, which is a store of the task.

Local entries: "t" | time int64 | key -> the change and its record; "k" | key -> time; "c" -> count and bytes. The
changelog has, per key, what Java's has (version 3): record context, prior, old and new value, and the time that it
waits by.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ottla.streams.context import Headers, NodeContext, Output, Process
from ottla.streams.errors import StreamsError
from ottla.streams.keys import pack_long
from ottla.streams.operators.tables import Getter, Make, View
from ottla.streams.records import Change
from ottla.streams.states import BufferState

_LONG = struct.Struct(">q")
_INT = struct.Struct(">i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, and how much, is held back.

    Attributes:
        final: the time is the window's end, and deletions are not sent: nobody has seen what they delete.
        emit_early: a full buffer sends its oldest entry; else it stops the app.
    """

    wait_ms: int
    final: bool
    max_records: int | None
    max_bytes: int | None
    emit_early: bool


class SuppressView(View):
    """The view of a suppressed table: what others have seen of it."""

    def __init__(self, parent: View, buffer: str) -> None:
        super().__init__(None)
        self._parent = parent
        self._buffer = buffer
        parent.enable_old(force=True)  # what others have seen of a key that waits is the first old value
        self.send_old = True

    def stores(self) -> list[str]:
        return [self._buffer, *self._parent.stores()]

    def getter(self, context: NodeContext) -> Getter:
        """Return what looks up one key in a task."""
        state: BufferState = context.store(self._buffer)
        get = self._parent.getter(context)

        def look(key: Any) -> tuple[Any, int] | None:
            waiting = state.get(state.key_bytes(key))
            if waiting is None:
                return get(key)
            prior = Waiting.unpack(waiting[1]).prior
            return None if prior is None else (state.read_value(prior), -1)

        return look


class Waiting(NamedTuple):
    """One change that waits, as bytes, with the record that made it."""

    timestamp: int
    offset: int
    topic: str
    partition: int
    headers: Headers
    prior: bytes | None
    old: bytes | None
    new: bytes | None

    def pack(self) -> bytes:
        """Return Java's form: record context | prior | old (-2: the same as prior) | new."""
        topic = self.topic.encode()
        parts = [_LONG.pack(self.timestamp), _LONG.pack(self.offset), _INT.pack(len(topic)), topic]
        parts += [_INT.pack(self.partition), _INT.pack(len(self.headers))]
        for name, value in self.headers:
            parts += [_sized(name.encode()), _sized(value)]
        parts.append(_sized(self.prior))
        parts.append(_INT.pack(-2) if self.old == self.prior and self.old is not None else _sized(self.old))
        parts.append(_sized(self.new))
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Waiting:
        """Return what `pack` has written."""
        timestamp, offset = _LONG.unpack_from(data)[0], _LONG.unpack_from(data, 8)[0]
        reader = _Reader(data, 16)
        topic = (reader.sized() or b"").decode()
        partition, count = reader.number(), reader.number()
        headers = tuple(((reader.sized() or b"").decode(), reader.sized()) for _ in range(count))
        prior = reader.sized()
        length = reader.number()
        old = prior if length == -2 else reader.take(length)
        return cls(timestamp, offset, topic, partition, headers, prior, old, reader.sized())

    def size(self, key: bytes) -> int:
        """Return how many bytes Java says that it takes."""
        found = 8 + len(key) + 8 + 8 + len(self.topic.encode()) + 4
        found += sum(len(name.encode()) + len(value or b"") for name, value in self.headers)
        found += len(self.prior or b"") + len(self.new or b"")
        return found + (0 if self.old == self.prior else len(self.old or b""))


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    def number(self) -> int:
        self._position += 4
        return int(_INT.unpack_from(self._data, self._position - 4)[0])

    def take(self, length: int) -> bytes | None:
        if length < 0:
            return None
        self._position += length
        return self._data[self._position - length : self._position]

    def sized(self) -> bytes | None:
        return self.take(self.number())


def _sized(data: bytes | None) -> bytes:
    return _INT.pack(-1) if data is None else _INT.pack(len(data)) + data


def suppressing(view: SuppressView, store: str, limits: Limits) -> Make:
    """Hold changes back until their time, or until there are too many."""

    def make(context: NodeContext) -> Process:
        forward, name, task = context.forward, context.name, context.task
        state: BufferState = context.store(store)
        times = task.times_of(name, store)

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            times.advance(timestamp)
            hold(key, change, timestamp, headers)
            release()
            if over():
                if not limits.emit_early:
                    raise StreamsError(
                        f"{name} holds back {state.count} records and {state.bytes} bytes, more than max_records="
                        f"{limits.max_records} and max_bytes={limits.max_bytes} allow"
                    )
                evict(lambda when: over())

        def release(passed_ms: int = 0) -> None:
            due = times.stream_time - limits.wait_ms
            if state.first_time <= due:
                evict(lambda when: when <= due)

        def over() -> bool:
            return (limits.max_records is not None and state.count > limits.max_records) or (
                limits.max_bytes is not None and state.bytes > limits.max_bytes
            )

        def hold(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            name_bytes = state.key_bytes(key)
            old = None if change.old is None else state.value_bytes(change.old)
            new = None if change.new is None else state.value_bytes(change.new)
            there = state.get(name_bytes)
            source = task.record
            waiting = Waiting(
                timestamp,
                -1 if source is None else source.offset,
                "" if source is None else source.topic,
                -1 if source is None else source.partition,
                headers,
                old if there is None else Waiting.unpack(there[1]).prior,
                old,
                new,
            )
            when = there[0] if there is not None else key.window.end if limits.final else timestamp
            replaced = 0 if there is None else Waiting.unpack(there[1]).size(name_bytes)
            state.put(name_bytes, when, waiting.pack(), waiting.size(name_bytes) - replaced)

        def evict(more: Callable[[int], bool]) -> None:
            for name_bytes, when, data in state.oldest():
                if not more(when):
                    break
                waiting = Waiting.unpack(data)
                if waiting.new is not None or not limits.final:
                    new = None if waiting.new is None else state.read_value(waiting.new)
                    old = None if waiting.old is None else state.read_value(waiting.old)
                    forward(state.read_key(name_bytes), Change(new, old), waiting.timestamp, waiting.headers)
                state.remove(name_bytes, waiting.size(name_bytes))

        def log(key: bytes, entry: tuple[int, bytes] | None) -> Output:
            assert state.spec.changelog is not None
            if entry is None:
                return Output(state.spec.changelog, task.partition, key, None, max(times.stream_time, 0), ())
            when, data = entry
            timestamp = _LONG.unpack_from(data)[0]
            headers = (("v", b"\x03"),)
            return Output(state.spec.changelog, task.partition, key, data + pack_long(when), max(timestamp, 0), headers)

        def flush() -> None:
            for key in state.dirty:
                task.emit(log(key, state.get(key)))
            state.flushed()

        task.on_flush(flush)
        task.on_idle(release)
        return process

    return make


def restored_entry(data: bytes) -> tuple[int, bytes]:
    """Return (time that it waits by, change) of a changelog record's value."""
    return _LONG.unpack_from(data, len(data) - 8)[0], data[:-8]
