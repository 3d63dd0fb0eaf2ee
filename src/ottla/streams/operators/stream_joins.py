"""Joins of a stream: with another stream within a window of time, and with a table.

Windows are closed: a pair joins when left - before <= right <= left + after. Both sides of a stream-stream join share
one stream time. What has found nothing (left and outer joins) waits in a store, ordered by time, until no partner can
come any more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ottla.streams.context import SKIPPED, Headers, InputRecord, NodeContext, Process
from ottla.streams.operators.suppress import Waiting
from ottla.streams.operators.tables import Getter, GetterAsOf, Make, View
from ottla.streams.states import KeyValueState, QueueState, WindowState
from ottla.streams.store import Store
from ottla.streams.times import UNKNOWN, Times

#: Makes a joined value: of (key, left value, right value).
Joiner = Callable[[Any, Any, Any], Any]

_SIDE = struct.Struct(">q?")
_LIST_HEAD = struct.Struct(">bi")
_INT = struct.Struct(">i")
#: As the time of the oldest entry: there is none.
_NOTHING = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinWindow:
    """How far a partner may be, in ms, and how late it may come."""

    before_ms: int
    after_ms: int
    grace_ms: int

    @property
    def retention_ms(self) -> int:
        """How long records are kept."""
        return self.before_ms + self.after_ms + self.grace_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamJoin:
    """What both sides of one join share.

    Attributes:
        name: of the join; its stream time is stored under it.
        left_store, right_store: names of the stores of records.
        waiting: name of the store of records without a partner; None for inner joins.
    """

    name: str
    window: JoinWindow
    left_store: str
    right_store: str
    waiting: str | None
    joiner: Joiner


class _MinTime:
    """From which time on something may wait; infinite if nothing does.

    It decides when unjoined records come out, so it is kept with the join's stream time. Where it was never stored, the
    oldest entry tells it (Java begins with the smallest number and relies on overflow).
    """

    __slots__ = ("_times",)

    def __init__(self, times: Times, store: Store | None) -> None:
        self._times = times
        if times.emitted == UNKNOWN:
            first = None if store is None else next(store.range(b"", None), None)
            times.emit_until(_NOTHING if first is None else _SIDE.unpack_from(first[0])[0])

    @property
    def value(self) -> int:
        return self._times.emitted

    @value.setter
    def value(self, value: int) -> None:
        self._times.emit_until(value)


def join_window(store: str) -> Make:
    """Keep each record for the other side, after it has been joined."""

    def make(context: NodeContext) -> Process:
        forward = context.forward
        state: WindowState = context.store(store)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            forward(key, value, timestamp, headers)
            if key is not None:
                state.add(key, value, timestamp, headers)

        return process

    return make


def stream_side(join: StreamJoin, *, left: bool, outer: bool) -> Make:
    """One side of a stream-stream join.

    Args:
        outer: records of this side come out alone if they find no partner.
    """
    window = join.window
    before, after = (window.before_ms, window.after_ms) if left else (window.after_ms, window.before_ms)

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name, task = context.forward, context.fail, context.task.drop, context.name, context.task
        other: WindowState = context.store(join.right_store if left else join.left_store)
        waiting: KeyValueState | None = None if join.waiting is None else context.store(join.waiting)
        times = task.times_of(join.name, join.left_store)
        oldest: _MinTime = task.shared(join.name, lambda: _MinTime(times, None if waiting is None else waiting.store))
        joiner = join.joiner

        def joined(key: Any, this: Any, that: Any) -> Any:
            return joiner(key, this, that) if left else joiner(key, that, this)

        def partners(key: Any, value: Any, timestamp: int) -> list[tuple[int, Any]]:
            """Return (time, joined value) of each partner."""
            found = other.fetch(key, max(0, timestamp - before), max(0, timestamp + after))
            return [(when, joined(key, value, that)) for when, that in found]

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            stream_time = times.advance(timestamp)
            alone = partial(joined, key, value, None)
            if key is None or value is None:
                if outer and value is not None:
                    send(alone, key, value, timestamp, headers)
                else:
                    drop(name)
                return
            if waiting is not None and timestamp == stream_time:
                emit_unjoined(waiting, stream_time, timestamp, headers)
            again = partial(partners, key, value, timestamp)
            try:
                found = again()
            except Exception as error:
                found = fail(error, key, value, timestamp, headers, again)
                if found is SKIPPED:
                    return
            for when, made in found:
                if waiting is not None:
                    name_there = _SIDE.pack(when, not left) + waiting.key_bytes(key)
                    if waiting.store.get(name_there) is not None:
                        waiting.store.delete(name_there)
                        waiting.log(name_there, None, timestamp)
                forward(key, made, max(timestamp, when), headers)
            if found or not outer:
                return
            if waiting is None or timestamp + after < stream_time:
                send(alone, key, value, timestamp, headers)
                return
            oldest.value = min(oldest.value, timestamp)
            name_here = _SIDE.pack(timestamp, left) + waiting.key_bytes(key)
            entry = bytes((left,)) + (other if not left else own).value_bytes(value)
            listed = _append(waiting.store.get(name_here), entry)
            waiting.store.put(name_here, listed)
            waiting.log(name_here, listed, timestamp)

        def send(make_value: Callable[[], Any], key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            try:
                made = make_value()
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, make_value)
                if made is SKIPPED:
                    return
            forward(key, made, timestamp, headers)

        def emit_unjoined(waiting: KeyValueState, stream_time: int, now: int, headers: Headers) -> None:
            if oldest.value + after + window.grace_ms >= stream_time:
                return
            oldest.value = _NOTHING
            open_left = open_right = False
            for name_there, entries in waiting.store.range(b"", None):
                when, is_left = _SIDE.unpack_from(name_there)
                oldest.value = when
                if open_left and open_right:
                    break
                reach = window.after_ms if is_left else window.before_ms
                if when + reach + window.grace_ms >= stream_time:
                    open_left, open_right = open_left or is_left, open_right or not is_left
                    continue
                key = waiting.read_key(name_there[9:])
                serde = own_left if is_left else own_right
                for entry in _entries(entries):
                    value = serde.read_value(entry[1:])
                    sides = (value, None) if is_left else (None, value)
                    send(partial(joiner, key, *sides), key, value, when, headers)
                waiting.store.delete(name_there)
                waiting.log(name_there, None, now)

        own: WindowState = context.store(join.left_store if left else join.right_store)
        own_left, own_right = (own, other) if left else (other, own)
        if waiting is not None and left:  # for both sides
            task.on_idle(lambda passed_ms: emit_unjoined(waiting, times.stream_time, times.stream_time, ()))
        return process

    return make


def _append(listed: bytes | None, entry: bytes) -> bytes:
    """Add to a list of bytes in the format of Java's ListSerializer: flag, count, and each with its length."""
    count = 0 if listed is None else _LIST_HEAD.unpack_from(listed)[1]
    rest = b"" if listed is None else listed[_LIST_HEAD.size :]
    return _LIST_HEAD.pack(1, count + 1) + rest + _INT.pack(len(entry)) + entry


def _entries(listed: bytes) -> list[bytes]:
    """Return what `_append` has put together."""
    found = []
    position = _LIST_HEAD.size
    while position < len(listed):
        (length,) = _INT.unpack_from(listed, position)
        position += _INT.size
        found.append(listed[position : position + length])
        position += length
    return found


def table_side(view: View, joiner: Joiner, select: Callable[[Any, Any], Any] | None, *, left: bool) -> Make:
    """Join each record with what a table holds now.

    Args:
        select: the key to look up, of (key, value); None: the record's own.
        left: a record that finds nothing comes out with None.
    """

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        if view.is_versioned:
            get = view.getter_as_of(context)
        else:
            get = _without_time(view.getter(context))

        def once(key: Any, value: Any, timestamp: int) -> Any:
            wanted = key if select is None else select(key, value)
            if value is None or (wanted is None and not left):
                return SKIPPED
            found = None if wanted is None else get(wanted, timestamp)
            if found is None and not left:
                return None
            return (joiner(key, value, None if found is None else found[0]),)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            again = partial(once, key, value, timestamp)
            try:
                made = again()
            except Exception as error:
                made = fail(error, key, value, timestamp, headers, again)
                if made is SKIPPED:
                    return
            if made is SKIPPED:
                drop(name)
            elif made is not None:
                forward(key, made[0], timestamp, headers)

        return process

    return make


def _without_time(get: Getter) -> GetterAsOf:
    return lambda key, as_of: get(key)


def table_side_with_grace(view: View, joiner: Joiner, queue: str, grace_ms: int, *, left: bool) -> Make:
    """Hold each record back until stream time has passed it by a grace period, and join it with what the table held at its
    time (KIP-923).

    Records come out in the order of their time, then of their key. One that comes later than the grace period is joined at
    once; so is one without a key, in left joins.

    Args:
        queue: name of the store of records that wait.
    """

    def make(context: NodeContext) -> Process:
        drop, name, task = context.task.drop, context.name, context.task
        state: QueueState = context.store(queue)
        join = table_side(view, joiner, None, left=left)(context)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if value is None or (key is None and not left):
                drop(name)
                return
            if key is None or timestamp < state.stream_time - grace_ms:
                join(key, value, timestamp, headers)
                return
            source = task.record
            place = (-1, "", -1) if source is None else (source.offset, source.topic, source.partition)
            state.add(key, timestamp, Waiting(timestamp, *place, headers, None, None, state.value_bytes(value)).pack())
            release(state.stream_time - grace_ms)

        def release(until: int) -> None:
            at_hand = task.record
            try:
                for entry, key_bytes, data in state.until(until):
                    waited = Waiting.unpack(data)
                    if waited.topic:  # a failure is about the record that has waited
                        task.record = InputRecord(
                            *(waited.topic, waited.partition, waited.offset, waited.timestamp),
                            *(key_bytes, waited.new, waited.headers),
                        )
                    value = state.read_value(waited.new or b"")
                    join(state.read_key(key_bytes), value, waited.timestamp, waited.headers)
                    state.remove(entry)
            finally:
                task.record = at_hand

        def idle(passed_ms: int) -> None:
            state.pass_time(passed_ms)
            release(state.stream_time - grace_ms)

        task.on_idle(idle)
        return process

    return make
