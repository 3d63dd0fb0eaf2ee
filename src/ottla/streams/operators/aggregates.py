"""Aggregations of streams without windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.errors import need_function
from ottla.streams.operators.tables import _IMMUTABLE, Make, View, updating
from ottla.streams.records import Change
from ottla.streams.states import ExpiringTableState, KeyValueState


def aggregate(view: View, initializer: Callable[[], Any] | None, aggregator: Callable[[Any, Any, Any], Any]) -> Make:
    """Keep one value for each key, made of all its records so far; the time of a result is the largest of its records'.

    Args:
        initializer: None (reduce): the first value is the aggregate.
        aggregator: of (key, value, aggregate so far); None deletes the key.
    """
    for given in (aggregator,) if initializer is None else (initializer, aggregator):
        need_function("aggregate()", given)

    def make(context: NodeContext) -> Process:
        fail, drop, name = context.fail, context.task.drop, context.name
        assert view.store is not None
        state: KeyValueState = context.store(view.store)
        update = updating(context, state, send_old=view.send_old)
        expire = None
        if isinstance(state, ExpiringTableState):
            expire = expiring(context, view, state)
        reads_old = view.send_old and not state.is_cached

        def once(key: Any, value: Any, timestamp: int) -> tuple[Any, Any, int, bytes]:
            """Return (new aggregate, old one for the change, timestamp, key as bytes)."""
            stored = state.key_bytes(key)
            found = state.load(stored)
            if found is None:
                if initializer is None:
                    return value, None, timestamp, stored
                start = initializer()
                new = aggregator(key, value, start)
                if (
                    expire is not None
                ):  # a key begins anew each time that it comes back: its table has had nothing of it
                    return new, None, timestamp, stored
                # As in Java, the old value of a first change is what the initializer gives.
                old = initializer() if reads_old and type(start) not in _IMMUTABLE else start
                return new, old, timestamp, stored
            before = found[0]
            new = aggregator(key, value, before)
            if reads_old and type(before) not in _IMMUTABLE:
                before = state.get(key)  # the user's function may have changed the object
            return new, before, max(timestamp, found[1]), stored

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if key is None or value is None:
                drop(name)
                return
            if expire is not None and expire(key, timestamp):
                drop(name)
                return
            try:
                found = once(key, value, timestamp)
            except Exception as error:
                found = fail(error, key, value, timestamp, headers, lambda: once(key, value, timestamp))
                if found is SKIPPED:
                    return
            new, old, when, stored = found
            update(key, stored, new, old, when, headers)

        return process

    return make


def expiring(context: NodeContext, view: View, state: ExpiringTableState) -> Callable[[Any, int], bool]:
    """Return what tells, before each record, of the keys that are gone.

    It is a function of the record's (key, timestamp), and says whether the record is too late to count: its key has no
    aggregate, and a new one would be gone already.
    """
    forward, read_key = context.forward, state.read_key

    def tell(gone: list[tuple[bytes, Any, int]]) -> None:
        for stored, before, when in gone:
            forward(read_key(stored), Change(None, before if view.send_old else None), when, ())

    def expire(key: Any, timestamp: int) -> bool:
        tell(state.advance(timestamp))
        return state.is_over(timestamp) and state.get_timed(key) is None

    def idle(passed_ms: int) -> None:
        if state.stream_time >= 0:
            tell(state.advance(state.stream_time + passed_ms))

    # Once, though several operators of cogroup() have the store.
    context.task.shared(f"idle {view.store}", lambda: context.task.on_idle(idle))
    return expire
