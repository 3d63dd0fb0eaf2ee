"""Tables: what goes on between their operators (changes), and how other operators look into them (views).

A change has the new value and, where somebody needs it, the old one. None as the new value is a deletion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ottla.streams.context import SKIPPED, Headers, NodeContext, Process
from ottla.streams.keys import Windowed
from ottla.streams.records import Change
from ottla.streams.states import KeyValueState, SessionState, VersionedState, WindowState

if TYPE_CHECKING:
    from ottla.streams.builder import Builder

Make = Callable[[NodeContext], Process]
#: Looks up (value, timestamp in ms) of a key, or None.
Getter = Callable[[Any], "tuple[Any, int] | None"]
#: The same of (key, time in ms): what the table held then.
GetterAsOf = Callable[[Any, int], "tuple[Any, int] | None"]

_IMMUTABLE = frozenset({int, str, bytes, float, bool, type(None)})


class View:
    """How a table is looked into while the topology is written; the tasks make getters of it.

    Attributes:
        store: the table's own store, or None: it is computed from its parent's.
        send_old: its changes carry old values.
        is_versioned: it can say what it held at some time (KIP-914), and its changes may be of versions that came late.
    """

    def __init__(self, store: str | None = None, *, is_versioned: bool = False) -> None:
        self.store = store
        self.send_old: bool = False
        self.is_versioned = is_versioned

    def enable_old(self, *, force: bool) -> bool:
        """Have changes carry old values; return whether they do.

        Args:
            force: a source table makes a store for it if need be.
        """
        self.send_old = True
        return True

    def stores(self) -> list[str]:
        """The stores that a getter reads."""
        assert self.store is not None
        return [self.store]

    def getter(self, context: NodeContext) -> Getter:
        """Return what looks up one key in a task."""
        assert self.store is not None
        return store_getter(context.store(self.store))

    def getter_as_of(self, context: NodeContext) -> GetterAsOf:
        """Return what looks up one key as of a time; only versioned tables have it."""
        assert self.store is not None
        state: VersionedState = context.store(self.store)
        return state.get_timed


def store_getter(state: Any) -> Getter:
    """Return what looks up a key of a store of any kind."""
    if isinstance(state, KeyValueState):
        return state.get_timed
    if isinstance(state, WindowState):
        return lambda key: state.get_timed(key.key, key.window.start)
    assert isinstance(state, SessionState)

    def session(key: Windowed) -> tuple[Any, int] | None:
        found = state.get(key.key, *key.window)
        return None if found is None else (found, key.window.end)

    return session


class SourceView(View):
    """A table that is read from a topic. It gets a store when somebody needs one."""

    def __init__(
        self,
        builder: Builder,
        node: str,
        name: str,
        make_store: Callable[[], str],
        *,
        materialized: bool,
        is_versioned: bool = False,
    ) -> None:
        super().__init__(None, is_versioned=is_versioned)
        self._builder = builder
        self._node = node
        self._make_store = make_store
        if materialized:
            self.materialize()

    def materialize(self) -> None:
        """Give it a store."""
        if self.store is None:
            made = self._make_store()
            self.store: str | None = made
            self._builder.nodes[self._node].stores.append(made)  # type: ignore[union-attr]

    def enable_old(self, *, force: bool) -> bool:
        if self.store is None and not force:
            return False
        self.materialize()
        self.send_old = True
        return True

    def stores(self) -> list[str]:
        self.materialize()
        return super().stores()


class DerivedView(View):
    """A table that is computed from another one, with or without a store of its own.

    Args:
        compute: makes, of (key, parent's value), this table's value; None stays None and is not asked.
    """

    def __init__(self, parent: View, store: str | None, compute: Callable[[Any, Any], Any]) -> None:
        super().__init__(store, is_versioned=store is None and parent.is_versioned)
        self.parent = parent
        self.compute = compute

    def enable_old(self, *, force: bool) -> bool:
        if self.store is not None:
            self.send_old: bool = True
            return True
        if self.parent.enable_old(force=force):
            self.send_old = True
        return self.send_old

    def stores(self) -> list[str]:
        return [self.store] if self.store is not None else self.parent.stores()

    def getter(self, context: NodeContext) -> Getter:
        """Return what looks up one key in a task."""
        if self.store is not None:
            return super().getter(context)
        get, compute = self.parent.getter(context), self.compute

        def computed(key: Any) -> tuple[Any, int] | None:
            found = get(key)
            if found is None:
                return None
            value = compute(key, found[0])
            return None if value is None else (value, found[1])

        return computed

    def getter_as_of(self, context: NodeContext) -> GetterAsOf:
        """Return what looks up one key as of a time."""
        get, compute = self.parent.getter_as_of(context), self.compute

        def computed(key: Any, as_of: int) -> tuple[Any, int] | None:
            found = get(key, as_of)
            if found is None:
                return None
            value = compute(key, found[0])
            return None if value is None else (value, found[1])

        return computed


#: Takes a result: (key, its bytes in the store, new value, old one, timestamp in ms, headers).
Update = Callable[[Any, bytes, Any, Any, int, Headers], None]


def updating(context: NodeContext, state: KeyValueState, *, send_old: bool) -> Update:
    """Return what stores a result and sends its change on: at once or, with a cache, when that is flushed."""
    forward = context.forward
    if state.listen(forward, send_old=send_old):
        keep = state.keep

        def later(key: Any, stored: bytes, new: Any, old: Any, when: int, headers: Headers) -> None:
            keep(stored, new, when, headers)

        return later
    if isinstance(state, VersionedState):
        write = state.write

        def version(key: Any, stored: bytes, new: Any, old: Any, when: int, headers: Headers) -> None:
            done = write(stored, new, when)
            if done.stored:
                forward(key, Change(new, old if send_old else None, done.until is None), when, headers)

        return version
    save = state.save

    def now(key: Any, stored: bytes, new: Any, old: Any, when: int, headers: Headers) -> None:
        save(stored, new, when)
        forward(key, Change(new, old if send_old else None), when, headers)

    return now


def table_source(view: View) -> Make:
    """Turn the records of a topic into changes. Records without a key are dropped."""

    def make(context: NodeContext) -> Process:
        forward, drop, name = context.forward, context.task.drop, context.name
        state: KeyValueState | None = None if view.store is None else context.store(view.store)
        send_old = view.send_old
        if state is None:

            def pass_changes(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
                if key is None:
                    drop(name)
                else:
                    forward(key, Change(value, None), timestamp, headers)

            return pass_changes
        update = updating(context, state, send_old=send_old)
        reads_old = send_old and not state.is_cached

        def process(key: Any, value: Any, timestamp: int, headers: Headers) -> None:
            if key is None:
                drop(name)
                return
            stored = state.key_bytes(key)
            found = state.load(stored) if reads_old else None
            update(key, stored, value, None if found is None else found[0], timestamp, headers)

        return process

    return make


def table_filter(view: DerivedView, compute: Callable[[Any, Any], Any]) -> Make:
    """Keep what passes; a key that no longer does is deleted, if it was there. Of versions each change counts: the old value
    is not that of the same time."""
    return _derived(view, compute, skip_absent=not view.parent.is_versioned)


def table_map_values(view: DerivedView, compute: Callable[[Any, Any], Any]) -> Make:
    """Compute each value anew."""
    return _derived(view, compute, skip_absent=False)


def _derived(view: DerivedView, compute: Callable[[Any, Any], Any], *, skip_absent: bool) -> Make:
    """Compute a table of another one.

    Args:
        skip_absent: pass over changes of a key that is absent and was absent, where old values tell.
    """

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail
        state: KeyValueState | None = None if view.store is None else context.store(view.store)
        send_old = view.send_old
        update = None if state is None else updating(context, state, send_old=send_old)

        def both(key: Any, change: Change) -> tuple[Any, Any]:
            new = None if change.new is None else compute(key, change.new)
            if not send_old:
                return new, None
            if state is not None:
                return new, state.get(key)
            return new, None if change.old is None else compute(key, change.old)

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            try:
                found = both(key, change)
            except Exception as error:
                found = fail(error, key, change.new, timestamp, headers, lambda: both(key, change))
                if found is SKIPPED:
                    return
            new, old = found
            if skip_absent and send_old and old is None and new is None:
                return
            if state is None or update is None:
                forward(key, Change(new, old, change.is_newest), timestamp, headers)
            else:
                update(key, state.key_bytes(key), new, old, timestamp, headers)

        return process

    return make


def to_stream(context: NodeContext) -> Process:
    """Forward new values as records."""
    forward = context.forward

    def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
        forward(key, change.new, timestamp, headers)

    return process


def table_group_by(parent: View, selector: Callable[[Any, Any], Any]) -> Make:
    """Say, under the new key, what is to be subtracted and what to be added; in one record if the key stays. A version that
    came late changes nothing: aggregates are of the newest ones."""

    def make(context: NodeContext) -> Process:
        forward, fail = context.forward, context.fail

        def pair(key: Any, value: Any) -> tuple[Any, Any] | None:
            if value is None:
                return None
            found = selector(key, value)
            if type(found) is not tuple or len(found) != 2:
                raise TypeError(f"group_by() of a table needs a function that returns (key, value), not {found!r}")
            return None if found[0] is None or found[1] is None else found

        def both(key: Any, change: Change) -> tuple[Any, Any]:
            return pair(key, change.new), pair(key, change.old)

        skips_late = parent.is_versioned

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            if skips_late and not change.is_newest:
                return
            try:
                found = both(key, change)
            except Exception as error:
                found = fail(error, key, change.new, timestamp, headers, lambda: both(key, change))
                if found is SKIPPED:
                    return
            new, old = found
            if new is not None and old is not None and new[0] == old[0]:
                forward(new[0], Change(new[1], old[1]), timestamp, headers)
                return
            if old is not None:
                forward(old[0], Change(None, old[1]), timestamp, headers)
            if new is not None:
                forward(new[0], Change(new[1], None), timestamp, headers)

        return process

    return make


def table_aggregate(
    view: View,
    initializer: Callable[[], Any] | None,
    adder: Callable[[Any, Any, Any], Any],
    subtractor: Callable[[Any, Any, Any], Any],
) -> Make:
    """Subtract the old value, then add the new one. Without an initializer (reduce) the first value is the
    aggregate."""

    def apply(key: Any, change: Change, aggregate: Any, timestamp: int, before: int) -> tuple[Any, int]:
        """Return (aggregate, timestamp)."""
        known = aggregate is not None
        if change.old is not None and aggregate is not None:
            aggregate = subtractor(key, change.old, aggregate)
            timestamp = max(timestamp, before)
        if change.new is not None:
            if aggregate is not None:
                aggregate = adder(key, change.new, aggregate)
            elif initializer is None:
                return change.new, timestamp
            else:
                aggregate = adder(key, change.new, initializer())
            if known:
                timestamp = max(timestamp, before)
        return aggregate, timestamp

    def make(context: NodeContext) -> Process:
        fail = context.fail
        assert view.store is not None
        state: KeyValueState = context.store(view.store)
        send_old = view.send_old
        update = updating(context, state, send_old=send_old)

        def once(key: Any, change: Change, timestamp: int) -> tuple[Any, Any, int]:
            found = state.get_timed(key)
            aggregate, before = (None, -1) if found is None else found
            new, when = apply(key, change, aggregate, timestamp, before)
            if send_old and type(aggregate) not in _IMMUTABLE:
                aggregate = state.get(key)  # the user's function may have changed the object
            return new, aggregate, when

        def process(key: Any, change: Change, timestamp: int, headers: Headers) -> None:
            try:
                found = once(key, change, timestamp)
            except Exception as error:
                found = fail(error, key, change, timestamp, headers, lambda: once(key, change, timestamp))
                if found is SKIPPED:
                    return
            new, old, when = found
            update(key, state.key_bytes(key), new, old, when, headers)

        return process

    return make
