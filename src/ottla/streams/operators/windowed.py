"""Aggregations over windows.

Each operator has its own stream time, which the record itself advances first; it is stored (`times`). A record without
a key is dropped and advances nothing. "On close" emits a window once, when stream time has passed its end and grace;
else every update is emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.keys import Window, Windowed
from ottla.streams.operators.tables import _IMMUTABLE, Make, View
from ottla.streams.records import Change
from ottla.streams.states import SessionState, WindowState
from ottla.streams.times import UNKNOWN
from ottla.streams.windows import SessionWindows, SlidingWindows, TimeWindows

Aggregator = Callable[[Any, Any, Any], Any]
Initializer = Callable[[], Any]


#: Takes a result: (key, its bytes in the store, window start, new value, old one, timestamp in ms, headers).
_Update = Callable[[Any, bytes, int, Any, Any, int, Headers], None]


def _updating(context: NodeContext, state: WindowState, size: int, *, send_old: bool, on_close: bool) -> _Update:
    """Return what stores the result of a window and sends its change on: at once, when a cache is flushed, or not yet
    (on close)."""
    forward, save = context.forward, state.save
    if state.listen(forward, send_old=send_old):
        keep = state.keep

        def later(key: Any, stored: bytes, start: int, new: Any, old: Any, when: int, headers: Headers) -> None:
            keep(stored, new, start, when, headers)

        return later

    def now(key: Any, stored: bytes, start: int, new: Any, old: Any, when: int, headers: Headers) -> None:
        save(stored, new, start, when)
        if not on_close:
            change = Change(new, old if send_old else None)
            forward(Windowed(key, Window(start, start + size)), change, when, headers)

    return now


def time_windowed(
    view: View, windows: TimeWindows, initializer: Initializer | None, aggregator: Aggregator, *, on_close: bool
) -> Make:
    """Aggregate over tumbling or hopping windows. Without an initializer (reduce) the first value is the aggregate."""
    size, grace = windows.size_ms, windows.grace_ms

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        assert view.store is not None
        state: WindowState = context.store(view.store)
        times = context.task.times_of(name, view.store)
        send_old = view.send_old
        update = _updating(context, state, size, send_old=send_old, on_close=on_close)
        reads_old = send_old and not state.is_cached

        def once(key: Any, stored: bytes, value: Any, timestamp: int, start: int) -> tuple[Any, Any, int]:
            found = state.load(stored, start)
            if found is None:
                if initializer is None:
                    return value, None, timestamp
                before = initializer()
                new = aggregator(key, value, before)
                return new, initializer() if reads_old and type(before) not in _IMMUTABLE else before, timestamp
            new = aggregator(key, value, found[0])
            before = found[0]
            if reads_old and type(before) not in _IMMUTABLE:
                before = state.get(key, start)
            return new, before, max(timestamp, found[1])

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if key is None:
                drop(name)
                return
            close = times.advance(timestamp) - grace
            stored = state.key_bytes(key)
            for start in windows.starts(timestamp):
                end = start + size
                if end <= close:
                    drop(name)
                    continue
                again = partial(once, key, stored, value, timestamp, start)
                try:
                    found = again()
                except Exception as error:
                    found = fail(error, key, value, timestamp, headers, again)
                    if found is SKIPPED:
                        continue
                new, old, when = found
                update(key, stored, start, new, old, when, headers)
            if on_close and close > times.emitted:
                emit(close, headers)

        def emit(close: int, headers: Headers) -> None:
            until = close - size
            if until < 0:
                return
            since = 0 if times.emitted == UNKNOWN else max(0, times.emitted - size) + 1
            if times.emitted != UNKNOWN and windows.starts(until) == windows.starts(since - 1):
                return
            found = sorted(state.entries(since, until), key=lambda entry: (entry[1], entry[0]))
            times.emit_until(close)
            for key_bytes, start, value, when in found:
                key = Windowed(state.read_key(key_bytes), Window(start, start + size))
                forward(key, Change(value, None), when, headers)

        def idle(passed_ms: int) -> None:
            close = times.stream_time - grace
            if close > times.emitted:
                emit(close, ())

        if on_close:
            context.task.on_idle(idle)
        return process

    return make


def sliding_windowed(
    view: View, windows: SlidingWindows, initializer: Initializer | None, aggregator: Aggregator, *, on_close: bool
) -> Make:
    """Aggregate over sliding windows: each distinct set of records within the size has one window.

    A window's stored timestamp is the largest of its records; it tells where the next window must begin. The steps and
    their order are those of Java, which tell the order of updates.
    """
    size, grace = windows.size_ms, windows.grace_ms

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        assert view.store is not None
        state: WindowState = context.store(view.store)
        times = context.task.times_of(name, view.store)
        update = _updating(context, state, size, send_old=view.send_old, on_close=on_close)

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if key is None or value is None:
                drop(name)
                return
            stored = state.key_bytes(key)
            close = times.advance(timestamp) - grace
            if timestamp + size < close:
                drop(name)
                return
            plan = early if timestamp < size else usual
            updates: list[tuple[int, Any, int | None]] = plan(key, timestamp)
            for start, before, when in updates:
                if when is None:  # the right window of this record: it holds later ones only
                    aggregate, latest = before
                    update(key, stored, start, aggregate, None, latest, headers)
                    continue
                if start + size < close:
                    drop(name)
                    continue
                again = partial(apply, key, value, before)
                try:
                    found = again()
                except Exception as error:
                    found = fail(error, key, value, timestamp, headers, again)
                    if found is SKIPPED:
                        continue
                new, old = found
                latest = timestamp if old is None else max(timestamp, when)
                update(key, stored, start, new, old, latest, headers)
            if on_close and close > times.emitted and timestamp >= size:
                emit(close, headers)

        def apply(key: Any, value: Any, before: bytes | None) -> tuple[Any, Any]:
            """Return (new aggregate, old one)."""
            if before is None:
                if initializer is None:
                    return value, None
                old = initializer()
                new = aggregator(key, value, old)
                return new, initializer() if type(old) not in _IMMUTABLE else old
            old = state.read_value(before)
            new = aggregator(key, value, old)
            return new, state.read_value(before) if type(old) not in _IMMUTABLE else old

        def usual(key: Any, timestamp: int) -> list[tuple[int, Any, int | None]]:
            """Return (start, aggregate before as bytes, its timestamp) for each window to update, in order."""
            updates: list[tuple[int, Any, int | None]] = []
            starts = set()
            left: tuple[bytes, int] | None = None
            right: tuple[bytes, int] | None = None
            left_exists = right_exists = False
            previous: int | None = None
            for start, data, latest in state.fetch_raw(key, max(0, timestamp - 2 * size), timestamp + 1, backward=True):
                starts.add(start)
                end = start + size
                if start == timestamp + 1:
                    right_exists = True
                elif end > timestamp:
                    if right is None:
                        right = (data, latest)
                    updates.append((start, data, latest))
                elif end == timestamp:
                    left_exists = True
                    updates.append((start, data, latest))
                    if latest >= timestamp:
                        return updates
                    previous = latest
                else:
                    left = (data, latest)
                    previous = latest
                    break
            if previous is not None and previous + 1 not in starts and previous + 1 + size >= timestamp:
                updates.append((previous + 1, None, timestamp))
            if not left_exists:
                reaches = previous is not None and timestamp - size <= previous
                assert not reaches or left is not None
                updates.append((timestamp - size, left[0] if reaches and left is not None else None, timestamp))
            if not right_exists and right is not None and right[1] > timestamp:
                updates.append((timestamp + 1, (state.read_value(right[0]), right[1]), None))
            return updates

        def early(key: Any, timestamp: int) -> list[tuple[int, Any, int | None]]:
            """The same for records before `size`, which share the window [0, size]: no window begins before 1970."""
            updates: list[tuple[int, Any, int | None]] = []
            starts = set()
            combined: tuple[bytes, int] | None = None
            right: tuple[bytes, int] | None = None
            right_exists = False
            previous: int | None = None
            for start, data, latest in state.fetch_raw(key, 0, timestamp + 1):
                starts.add(start)
                if start == 0:
                    combined = (data, latest)
                    if latest < timestamp:
                        previous = latest
                elif start <= timestamp:
                    right = (data, latest)
                    updates.append((start, data, latest))
                else:
                    right_exists = True
            if right is None and combined is not None and combined[1] > timestamp:
                right = combined
            if not right_exists and right is not None and right[1] > timestamp:
                updates.append((timestamp + 1, (state.read_value(right[0]), right[1]), None))
            if previous is not None and previous + 1 not in starts:
                updates.append((previous + 1, None, timestamp))
            updates.append((0, *combined) if combined is not None else (0, None, timestamp))
            return updates

        def emit(close: int, headers: Headers) -> None:
            until = close - size - 1
            if until < 0:
                return
            since = 0 if times.emitted == UNKNOWN else max(0, times.emitted - size)
            found = sorted(state.entries(since, until), key=lambda entry: (entry[1], entry[0]))
            times.emit_until(close)
            for key_bytes, start, value, when in found:
                key = Windowed(state.read_key(key_bytes), Window(start, start + size))
                forward(key, Change(value, None), when, headers)

        def idle(passed_ms: int) -> None:
            close = times.stream_time - grace
            if close > times.emitted:
                emit(close, ())

        if on_close:
            context.task.on_idle(idle)
        return process

    return make


def session_windowed(
    view: View,
    windows: SessionWindows,
    initializer: Initializer,
    aggregator: Aggregator,
    merger: Aggregator,
    *,
    on_close: bool,
) -> Make:
    """Aggregate over sessions; sessions that a record joins are removed (a deletion goes out for each) and merged.

    Args:
        merger: of (key, one aggregate, the other).
    """
    gap, grace = windows.gap_ms, windows.grace_ms

    def make(context: NodeContext) -> Process:
        forward, fail, drop, name = context.forward, context.fail, context.task.drop, context.name
        assert view.store is not None
        state: SessionState = context.store(view.store)
        times = context.task.times_of(name, view.store)
        send_old = view.send_old
        cached = state.listen(forward, send_old=send_old)

        def update(key: Any, window: Window, new: Any, old: Any, timestamp: int, headers: Headers) -> None:
            if cached:
                state.keep(key, window, new, timestamp, headers)
                return
            state.put(key, window, new, timestamp)
            if not on_close:
                forward(Windowed(key, window), Change(new, old), window.end, ())

        def merge(key: Any, timestamp: int) -> tuple[Any, Window, list[tuple[Window, Any]]]:
            """Return (merged aggregate without the record, merged session, sessions that it replaces)."""
            aggregate = initializer()
            start = end = timestamp
            merged = list(state.find(key, timestamp - gap, timestamp + gap))
            for window, value in merged:
                aggregate = merger(key, aggregate, value)
                start, end = min(start, window.start), max(end, window.end)
            return aggregate, Window(start, end), merged

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if key is None:
                drop(name)
                return
            close = times.advance(timestamp) - grace - gap

            def once() -> tuple[Any, Window, list[tuple[Window, Any]], bool]:
                aggregate, window, merged = merge(key, timestamp)
                if window.end < close:
                    return None, window, merged, True
                return aggregator(key, value, aggregate), window, merged, False

            try:
                found = once()
            except Exception as error:
                found = fail(error, key, value, timestamp, headers, once)
                if found is SKIPPED:
                    return
            aggregate, window, merged, late = found
            if late:
                drop(name)
            else:
                if window != (timestamp, timestamp):
                    for old_window, _ in merged:
                        old = state.get(key, *old_window) if send_old and not cached else None
                        update(key, old_window, None, old, timestamp, headers)
                update(key, window, aggregate, None, timestamp, headers)
            if on_close and close > times.emitted:
                emit(close, headers)

        def emit(close: int, headers: Headers) -> None:
            until = close - 1
            since = max(0, times.emitted)
            if until < since:
                return
            found = sorted(state.entries(since, until), key=lambda entry: (entry[1].end, entry[1].start, entry[0]))
            times.emit_until(close)
            for key_bytes, window, value in found:
                forward(Windowed(state.read_key(key_bytes), window), Change(value, None), window.end, headers)

        def idle(passed_ms: int) -> None:
            close = times.stream_time - grace - gap
            if close > times.emitted:
                emit(close, ())

        if on_close:
            context.task.on_idle(idle)
        return process

    return make
