"""Streams and tables in groups: count, reduce, aggregate, over windows or not, and several streams into one aggregate
(cogroup)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ottla.client.keys import Duration
from ottla.streams.errors import TopologyError, need_function
from ottla.streams.operators import aggregates, tables, windowed
from ottla.streams.operators.tables import View
from ottla.streams.serdes import INT64, AnySerde, SessionWindowedSerde, TimeWindowedSerde, make_serde
from ottla.streams.table import ChangeSerde, Table
from ottla.streams.topology import StoreKind
from ottla.streams.windows import (
    AnyWindows,
    SessionWindows,
    SlidingWindows,
    TimeWindows,
    history_ms,
    milliseconds,
    positive_ms,
)

if TYPE_CHECKING:
    from ottla.streams.builder import Builder
    from ottla.streams.keys import Windowed

K = TypeVar("K")
V = TypeVar("V")
A = TypeVar("A")

EmitStrategy = Literal["on_window_update", "on_window_close"]


@dataclass(frozen=True, slots=True)
class _Keeps:
    """How an aggregation without windows keeps its results."""

    store: str | None
    history_retention: Duration | None
    ttl: Duration | None
    home: str

    def add(self, builder: Builder, store: str, key_serde: AnySerde | None, value_serde: AnySerde | None) -> View:
        """Add the store, and return the view of it.

        Raises:
            TopologyError: it has versions and a time to live.
        """
        history = history_ms(self.history_retention)
        builder.table_store(
            store,
            key_serde,
            value_serde,
            history_ms=history,
            ttl_ms=None if self.ttl is None else positive_ms("ttl", self.ttl),
            generated=self.store is None,
            home=self.home,
        )
        return View(store, is_versioned=history is not None)


class _Grouping:
    """Where an aggregation stands: its parent, its serdes, and whether it must be repartitioned."""

    def __init__(
        self,
        builder: Builder,
        name: str,
        node: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        sources: frozenset[str],
        *,
        repartition: bool,
        given: str | None,
    ) -> None:
        self.builder = builder
        self.name = name
        self.node = node
        self.key_serde = key_serde
        self.value_serde = value_serde
        self.sources = sources
        self.repartition = repartition
        self.given = given
        self._source: str | None = None

    def parent(self, store: str, *, store_given: bool) -> tuple[str, frozenset[str]]:
        """Return the node to stand behind and its sources, with a repartition topic in between where one is needed."""
        if not self.repartition:
            return self.node, self.sources
        if self._source is not None and self.given is not None:
            for letter in ("SINK", "FILTER", "SOURCE"):  # Java counts them, and reads the topic that is there
                self.builder.new_name(f"KSTREAM-{letter}-")
            return self._source, frozenset([self._source])
        prefix = self.given or store
        self._source = self.builder.repartition(
            prefix, self.node, self.key_serde, self.value_serde, generated=self.given is None and not store_given
        )
        return self._source, frozenset([self._source])


class GroupedStream(Generic[K, V]):
    """A stream in groups: what `group_by()` and `group_by_key()` return."""

    def __init__(
        self,
        builder: Builder,
        name: str,
        node: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        sources: frozenset[str],
        *,
        repartition: bool,
        given: str | None,
    ) -> None:
        self._grouping = _Grouping(
            builder, name, node, key_serde, value_serde, sources, repartition=repartition, given=given
        )

    def count(
        self,
        *,
        store: str | None = None,
        history_retention: Duration | None = None,
        ttl: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, int]:
        """Count the records of each key. Records without key or value do not count.

        Args:
            store: the name under which the result can be asked for; its changelog is "<app>-<store>-changelog".
            history_retention: keep versions of each result for so long, in stream time (KIP-889): streams then join what it
                was at a record's time.
            ttl: a key is deleted when stream time has passed its last record by so much, and begins anew with the next one.
            home: where the store is: "default" (as the app says), "memory", "sqlite", "rocksdb".
        """
        keeps = _Keeps(store, history_retention, ttl, home)
        return self._aggregate("AGGREGATE", keeps, name, INT64, lambda: 0, lambda key, value, count: count + 1)

    def reduce(
        self,
        function: Callable[[V, V], V],
        *,
        value: Any = None,
        store: str | None = None,
        history_retention: Duration | None = None,
        ttl: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, V]:
        """Combine the values of each key: `function(so far, new)`; the first value stands for itself.

        Args:
            history_retention, ttl: as for `count`.
        """
        need_function("reduce()", function)
        serde = make_serde("value", value) or self._grouping.value_serde
        keeps = _Keeps(store, history_retention, ttl, home)
        return self._aggregate("REDUCE", keeps, name, serde, None, lambda key, new, so_far: function(so_far, new))

    def aggregate(
        self,
        initializer: Callable[[], A],
        aggregator: Callable[[K, V, A], A | None],
        *,
        value: Any = None,
        store: str | None = None,
        history_retention: Duration | None = None,
        ttl: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, A]:
        """Keep an aggregate of each key: `aggregator(key, value, aggregate so far)`, beginning with `initializer()`.

        Args:
            value: how aggregates are written into the store; JSON without it.
            history_retention, ttl: as for `count`.
        """
        keeps = _Keeps(store, history_retention, ttl, home)
        return self._aggregate("AGGREGATE", keeps, name, make_serde("value", value), initializer, aggregator)

    def windowed_by(self, windows: AnyWindows) -> WindowedStream[K, V]:
        """Aggregate over windows: `tumbling`, `hopping`, `sliding` or `session`."""
        return WindowedStream(self._grouping, windows, "on_window_update")

    def cogroup(self, aggregator: Callable[[K, V, A], A | None]) -> CogroupedStream[K, A]:
        """Begin an aggregate that several grouped streams feed, each with an aggregator of its own."""
        return CogroupedStream([(self._grouping, aggregator)])

    def _aggregate(
        self,
        kind: str,
        keeps: _Keeps,
        name: str | None,
        serde: AnySerde | None,
        initializer: Any,
        aggregator: Any,
    ) -> Table[Any, Any]:
        grouping, builder = self._grouping, self._grouping.builder
        store_name = builder.store_name(keeps.store, f"KSTREAM-{kind}-")
        node = builder.name(name, f"KSTREAM-{kind}-")
        parent, sources = grouping.parent(store_name, store_given=keeps.store is not None)
        view = keeps.add(builder, store_name, grouping.key_serde, serde)
        make = aggregates.aggregate(view, initializer, aggregator)
        builder.processor(node, make, [parent], [store_name])
        return Table(builder, node, view, grouping.key_serde, serde, sources)


class WindowedStream(Generic[K, V]):
    """A grouped stream over windows. Keys of the results are `Windowed(key, Window(start, end))`."""

    def __init__(self, grouping: _Grouping, windows: AnyWindows, emit: EmitStrategy) -> None:
        self._grouping = grouping
        self._windows = windows
        self._emit = emit

    def emit_strategy(self, strategy: EmitStrategy) -> WindowedStream[K, V]:
        """Choose when results come: "on_window_update" (each update, the default) or "on_window_close".

        On close, one result for each window comes when stream time has passed its end and grace. The last windows come
        only when
        stream time moves on: without new records nothing closes.
        """
        if strategy not in ("on_window_update", "on_window_close"):
            raise ValueError(f'emit_strategy() takes "on_window_update" or "on_window_close", not {strategy!r}')
        return WindowedStream(self._grouping, self._windows, strategy)

    def count(
        self,
        *,
        store: str | None = None,
        retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[Windowed, int]:
        """Count the records of each key and window.

        Args:
            retention: how long windows can be asked for, counted in stream time; at least their size and grace.
        """
        return self._aggregate(
            "AGGREGATE",
            store,
            name,
            retention,
            INT64,
            lambda: 0,
            lambda key, value, count: count + 1,
            lambda key, one, other: one + other,
            home,
        )

    def reduce(
        self,
        function: Callable[[V, V], V],
        *,
        value: Any = None,
        store: str | None = None,
        retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[Windowed, V]:
        """Combine the values of each key and window: `function(so far, new)`."""
        need_function("reduce()", function)
        serde = make_serde("value", value) or self._grouping.value_serde

        def combine(key: Any, new: Any, so_far: Any) -> Any:
            return new if so_far is None else function(so_far, new)

        def merge(key: Any, one: Any, other: Any) -> Any:
            return other if one is None else function(one, other)

        first = (lambda: None) if isinstance(self._windows, SessionWindows) else None
        return self._aggregate("REDUCE", store, name, retention, serde, first, combine, merge, home)

    def aggregate(
        self,
        initializer: Callable[[], A],
        aggregator: Callable[[K, V, A], A | None],
        *,
        merger: Callable[[K, A, A], A] | None = None,
        value: Any = None,
        store: str | None = None,
        retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[Windowed, A]:
        """Keep an aggregate of each key and window.

        Args:
            merger: sessions need it: `merger(key, one aggregate, other)`, for when a record joins two of them.
        """
        serde = make_serde("value", value)
        return self._aggregate("AGGREGATE", store, name, retention, serde, initializer, aggregator, merger, home)

    def _aggregate(
        self,
        kind: str,
        store: str | None,
        name: str | None,
        retention: Duration | None,
        serde: AnySerde | None,
        initializer: Any,
        aggregator: Any,
        merger: Any,
        home: str,
    ) -> Table[Any, Any]:
        grouping, builder, windows = self._grouping, self._grouping.builder, self._windows
        store_name = builder.store_name(store, f"KSTREAM-{kind}-")
        node = builder.name(name, f"KSTREAM-{kind}-")
        parent, sources = grouping.parent(store_name, store_given=store is not None)
        make, key_serde, view = add_windowed(
            builder,
            windows,
            store_name,
            grouping.key_serde,
            serde,
            retention,
            initializer,
            aggregator,
            merger,
            generated=store is None,
            home=home,
            on_close=self._emit == "on_window_close",
        )
        builder.processor(node, make, [parent], [store_name])
        return Table(builder, node, view, key_serde, serde, sources, windows=windows)


def add_windowed(
    builder: Builder,
    windows: AnyWindows,
    store: str,
    key_serde: AnySerde | None,
    value_serde: AnySerde | None,
    retention: Duration | None,
    initializer: Any,
    aggregator: Any,
    merger: Any,
    *,
    generated: bool,
    home: str,
    on_close: bool,
) -> tuple[Any, AnySerde, View]:
    """Add the store of a windowed aggregation; return what makes the operator, the serde of its keys, and its view.

    Raises:
        TopologyError: the retention is shorter than what the windows need, or sessions have no merger.
    """
    for given in (aggregator,) if initializer is None else (initializer, aggregator):
        need_function("aggregate()", given)
    retention_ms = windows.retention_ms if retention is None else milliseconds("retention", retention)
    if retention_ms < windows.retention_ms:
        raise TopologyError(
            f"the store {store} keeps {retention_ms} ms and its windows need {windows.retention_ms} ms: "
            f"make retention= longer"
        )
    view = View(store)
    inner = builder.key_or_default(key_serde)
    match windows:
        case SessionWindows():
            if merger is None:
                raise TopologyError("aggregate() over sessions needs merger=, for when two sessions become one")
            kind, size = StoreKind.SESSION, windows.gap_ms
            make = windowed.session_windowed(view, windows, initializer, aggregator, merger, on_close=on_close)
            serde: AnySerde = SessionWindowedSerde(inner)
        case SlidingWindows():
            kind, size = StoreKind.TIMESTAMPED_WINDOW, windows.size_ms
            make = windowed.sliding_windowed(view, windows, initializer, aggregator, on_close=on_close)
            serde = TimeWindowedSerde(inner, size)
        case TimeWindows():
            kind, size = StoreKind.TIMESTAMPED_WINDOW, windows.size_ms
            make = windowed.time_windowed(view, windows, initializer, aggregator, on_close=on_close)
            serde = TimeWindowedSerde(inner, size)
    builder.windowed_store(
        store,
        kind,
        key_serde,
        value_serde,
        size_ms=size,
        retention_ms=retention_ms,
        generated=generated,
        home=home,
        time_ordered=on_close,
        open_ms=windows.open_ms,
    )
    return make, serde, view


class CogroupedStream(Generic[K, A]):
    """One aggregate of several grouped streams: what `cogroup()` returns."""

    def __init__(self, inputs: list[tuple[_Grouping, Any]], windows: AnyWindows | None = None) -> None:
        self._inputs = inputs
        self._windows = windows

    def cogroup(
        self, grouped: GroupedStream[K, Any], aggregator: Callable[[K, Any, A], A | None]
    ) -> CogroupedStream[K, A]:
        """Add another grouped stream, with its aggregator."""
        return CogroupedStream([*self._inputs, (grouped._grouping, aggregator)], self._windows)

    def windowed_by(self, windows: AnyWindows) -> CogroupedStream[K, A]:
        """Aggregate over windows."""
        return CogroupedStream(self._inputs, windows)

    def aggregate(
        self,
        initializer: Callable[[], A],
        *,
        merger: Callable[[K, A, A], A] | None = None,
        value: Any = None,
        store: str | None = None,
        retention: Duration | None = None,
        history_retention: Duration | None = None,
        ttl: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, A]:
        """Keep the aggregate, beginning with `initializer()`.

        Args:
            merger: sessions need it.
            value: how aggregates are written into the store; JSON without it.
            retention: of windows.
            history_retention, ttl: as for `count`; without windows.
        """
        if self._windows is not None and (history_retention is not None or ttl is not None):
            raise TopologyError("windows have retention=, and neither history_retention= nor ttl=")
        builder = self._inputs[0][0].builder
        serde = make_serde("value", value)
        store_name = builder.store_name(store, "COGROUPKSTREAM-AGGREGATE-")
        parents: list[str] = []
        sources: list[frozenset[str]] = []
        for grouping, _ in self._inputs:
            parent, found = grouping.parent(
                store_name if len(self._inputs) == 1 else f"{store_name}", store_given=store is not None
            )
            parents.append(parent)
            sources.append(found)
        key_serde = self._inputs[0][0].key_serde
        view: View | None = None
        result_key = key_serde
        nodes = []
        for index, (_, aggregator) in enumerate(self._inputs):
            node = builder.name(f"{name}-cogroup-agg-{index}" if name else None, "COGROUPKSTREAM-AGGREGATE-")
            if view is None:
                if self._windows is None:
                    view = _Keeps(store, history_retention, ttl, home).add(builder, store_name, key_serde, serde)
                    make: Any = aggregates.aggregate(view, initializer, aggregator)
                else:
                    make, result_key, view = add_windowed(
                        builder,
                        self._windows,
                        store_name,
                        key_serde,
                        serde,
                        retention,
                        initializer,
                        aggregator,
                        merger,
                        generated=store is None,
                        home=home,
                        on_close=False,
                    )
            else:
                make = self._another(view, initializer, aggregator, merger)
            builder.processor(node, make, [parents[index]], [store_name])
            nodes.append(node)
        assert view is not None
        merged = builder.name(f"{name}-cogroup-merge" if name else None, "COGROUPKSTREAM-MERGE-")
        builder.processor(merged, lambda context: context.forward, nodes)
        together = frozenset().union(*sources)
        if len(self._inputs) > 1:
            builder.copartition(merged, together)
        return Table(builder, merged, view, result_key, serde, together, windows=self._windows)

    def _another(self, view: View, initializer: Any, aggregator: Any, merger: Any) -> Any:
        match self._windows:
            case None:
                return aggregates.aggregate(view, initializer, aggregator)
            case SessionWindows() as windows:
                return windowed.session_windowed(view, windows, initializer, aggregator, merger, on_close=False)
            case SlidingWindows() as windows:
                return windowed.sliding_windowed(view, windows, initializer, aggregator, on_close=False)
            case TimeWindows() as windows:
                return windowed.time_windowed(view, windows, initializer, aggregator, on_close=False)


class GroupedTable(Generic[K, V]):
    """A table in groups: what `group_by()` of a table returns. Values that leave a group are subtracted from it."""

    def __init__(
        self,
        builder: Builder,
        node: str,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        given: str | None,
    ) -> None:
        self._builder = builder
        self._node = node
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._given = given
        self._source: str | None = None

    def count(
        self,
        *,
        store: str | None = None,
        history_retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, int]:
        """Count the keys of the table in each group.

        Args:
            history_retention: keep versions of each result for so long, in stream time (KIP-889).
        """
        return self._aggregate(
            "AGGREGATE",
            _Keeps(store, history_retention, None, home),
            name,
            INT64,
            lambda: 0,
            lambda key, value, count: count + 1,
            lambda key, value, count: count - 1,
        )

    def reduce(
        self,
        adder: Callable[[V, V], V],
        subtractor: Callable[[V, V], V],
        *,
        value: Any = None,
        store: str | None = None,
        history_retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, V]:
        """Combine the values of a group: `adder(so far, value)`, `subtractor(so far, value that leaves)`."""
        serde = make_serde("value", value) or self._value_serde
        return self._aggregate(
            "REDUCE",
            _Keeps(store, history_retention, None, home),
            name,
            serde,
            None,
            lambda key, new, so_far: adder(so_far, new),
            lambda key, old, so_far: subtractor(so_far, old),
        )

    def aggregate(
        self,
        initializer: Callable[[], A],
        adder: Callable[[K, V, A], A | None],
        subtractor: Callable[[K, V, A], A | None],
        *,
        value: Any = None,
        store: str | None = None,
        history_retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
    ) -> Table[K, A]:
        """Keep an aggregate of a group: a value that changes is subtracted as it was and added as it is now."""
        serde = make_serde("value", value)
        keeps = _Keeps(store, history_retention, None, home)
        return self._aggregate("AGGREGATE", keeps, name, serde, initializer, adder, subtractor)

    def _aggregate(
        self,
        kind: str,
        keeps: _Keeps,
        name: str | None,
        serde: AnySerde | None,
        initializer: Any,
        adder: Any,
        subtractor: Any,
    ) -> Table[Any, Any]:
        builder = self._builder
        store_name = builder.store_name(keeps.store, "KTABLE-AGGREGATE-")
        sink = builder.name(f"{name}-sink" if name else None, "KSTREAM-SINK-")
        source = builder.name(f"{name}-source" if name else None, "KSTREAM-SOURCE-")
        node = builder.name(name, f"KTABLE-{kind}-")
        if self._source is None or self._given is None:
            change = ChangeSerde(builder.value_or_default(self._value_serde))
            self._source = builder.through_topic(
                f"{self._given or store_name}-repartition",
                self._node,
                sink,
                source,
                self._key_serde,
                change,
                generated=self._given is None and keeps.store is None,
            )
        view = keeps.add(builder, store_name, self._key_serde, serde)
        make = tables.table_aggregate(view, initializer, adder, subtractor)
        builder.processor(node, make, [self._source], [store_name])
        return Table(builder, node, view, self._key_serde, serde, frozenset([self._source]))
