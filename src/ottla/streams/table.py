"""A table: the last value of each key, as it changes. What `app.table()` and aggregations return."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ottla.client.keys import Duration
from ottla.streams import suppressing
from ottla.streams.errors import need_function
from ottla.streams.handlers import make_handler
from ottla.streams.operators import tables
from ottla.streams.operators.table_joins import Kind
from ottla.streams.operators.tables import DerivedView, View
from ottla.streams.records import Change
from ottla.streams.serdes import AnySerde, make_serde

if TYPE_CHECKING:
    from ottla.streams.builder import Builder
    from ottla.streams.grouped import GroupedTable
    from ottla.streams.stream import Stream
    from ottla.streams.windows import AnyWindows

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")


class Table(Generic[K, V]):
    """Keys K, each with its last value V. A change to None deletes."""

    def __init__(
        self,
        builder: Builder,
        node: str,
        view: View,
        key_serde: AnySerde | None,
        value_serde: AnySerde | None,
        sources: frozenset[str],
        *,
        windows: AnyWindows | None = None,
    ) -> None:
        self._builder = builder
        self._node = node
        self._view = view
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._sources = sources
        self._windows = windows

    def filter(
        self,
        predicate: Callable[[K, V], object],
        *,
        store: str | None = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Table[K, V]:
        """Keep keys whose value passes; one that no longer does is deleted."""
        need_function("filter()", predicate)
        return self._filter(lambda key, value: value if predicate(key, value) else None, store, name, on_error)

    def filter_not(
        self,
        predicate: Callable[[K, V], object],
        *,
        store: str | None = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Table[K, V]:
        """Keep keys whose value does not pass."""
        need_function("filter_not()", predicate)
        return self._filter(lambda key, value: None if predicate(key, value) else value, store, name, on_error)

    @overload
    def map_values(
        self,
        function: Callable[[V], V2],
        *,
        value: Any = ...,
        with_key: Literal[False] = ...,
        store: str | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[K, V2]: ...
    @overload
    def map_values(
        self,
        function: Callable[[K, V], V2],
        *,
        value: Any = ...,
        with_key: Literal[True],
        store: str | None = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Table[K, V2]: ...
    def map_values(
        self,
        function: Callable[..., V2],
        *,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Table[K, V2]:
        """Compute each value anew: `function(value)`, or `function(key, value)` with `with_key=True`.

        Args:
            store: keep the results in a store of this name; without it they are computed again when they are looked up.
        """
        need_function("map_values()", function)
        compute = function if with_key else (lambda key, found: function(found))
        serde = make_serde("value", value)
        return self._derive("KTABLE-MAPVALUES-", compute, tables.table_map_values, serde, store, name, on_error)

    def to_stream(self, *, name: str | None = None) -> Stream[K, V]:
        """Return the changes as a stream: each new value under its key, None for a deletion."""
        from ottla.streams.stream import Stream

        node = self._builder.name(name, "KTABLE-TOSTREAM-")
        self._builder.processor(node, tables.to_stream, [self._node])
        return Stream(self._builder, node, node, self._key_serde, self._value_serde, self._sources, repartition=False)

    def group_by(
        self,
        selector: Callable[[K, V], tuple[K2, V2]],
        *,
        key: Any = None,
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> GroupedTable[K2, V2]:
        """Group the table by another key: `selector(key, value)` returns (group, what is aggregated).

        users.group_by(lambda user_id, user: (user.country, user)).count()
        """
        from ottla.streams.grouped import GroupedTable

        need_function("group_by()", selector)
        node = self._builder.name(name, "KTABLE-SELECT-")
        handler = None if on_error is None else make_handler("on_error", on_error)
        self._builder.processor(node, tables.table_group_by(self._view, selector), [self._node], on_error=handler)
        self._view.enable_old(force=True)
        return GroupedTable(self._builder, node, make_serde("key", key, key=True), make_serde("value", value), name)

    def join(
        self,
        other: Table[Any, Any],
        joiner: Callable[..., V2],
        *,
        foreign_key: Callable[..., Any] | None = None,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Table[K, V2]:
        """Join with another table, by key or by a foreign key; keys that are in one table only are not in the result.

            profiles.join(companies, merge, foreign_key=lambda profile: profile.company_id)

        By key, both topics must have the same number of partitions. By foreign key they need not: rows subscribe to the
        other table through topics of the app's own.

        Args:
            joiner: `joiner(left, right)`, or `joiner(key, left, right)` with `with_key=True`.
            foreign_key: a function of the left value (with `with_key=True`: of key and value) that names a key of the
                other table.
            store: keep the result in a store of this name.
        """
        return self._join("inner", other, joiner, foreign_key, value, with_key, store, name)

    def left_join(
        self,
        other: Table[Any, Any],
        joiner: Callable[..., V2],
        *,
        foreign_key: Callable[..., Any] | None = None,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Table[K, V2]:
        """Join; keys of this table that the other one does not have are joined with None."""
        return self._join("left", other, joiner, foreign_key, value, with_key, store, name)

    def outer_join(
        self,
        other: Table[K, Any],
        joiner: Callable[..., V2],
        *,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Table[K, V2]:
        """Join by key; keys that are in one of the tables are in the result, with None for the other value."""
        return self._join("outer", other, joiner, None, value, with_key, store, name)

    def _join(
        self,
        kind: Kind,
        other: Table[Any, Any],
        joiner: Any,
        foreign_key: Any,
        value: Any,
        with_key: bool,
        store: str | None,
        name: str | None,
    ) -> Table[Any, Any]:
        from ottla.streams import joins

        function = joins.with_key(joiner, takes_key=with_key)
        if foreign_key is None:
            return joins.join_tables(self, other, function, kind, name=name, store=store, value=value)
        extract = foreign_key if with_key else (lambda key, found: foreign_key(found))
        return joins.join_foreign(self, other, function, extract, kind, name=name, store=store, value=value)

    def suppress(
        self,
        until: Literal["until_window_closes"] | None = None,
        *,
        until_time_limit: Duration | None = None,
        max_records: int | None = None,
        max_bytes: int | None = None,
        when_full: Literal["emit_early", "fail"] | None = None,
        store: str | None = None,
        name: str | None = None,
    ) -> Table[K, V]:
        """Hold changes back, so that fewer go out.

            counts.suppress("until_window_closes")  # one result for each window
            counts.suppress(until_time_limit="10s", max_records=1000)  # the last change of each key in 10 seconds

        Time is stream time: the last window comes only when stream time moves on, and with no new records nothing comes
        out.

        Args:
            until: "until_window_closes": for windowed tables; a result comes when stream time >= end + grace.
            until_time_limit: or a change comes so long after the first one that was held back for its key.
            max_records, max_bytes: how much is held back at most; bytes are counted as Java counts them.
            when_full: what happens then: "emit_early" sends the oldest (only with until_time_limit, its default),
                "fail" stops the app (the default until a window closes).
        """
        return suppressing.add(self, until, until_time_limit, max_records, max_bytes, when_full, store, name)

    def _filter(self, compute: Any, store: str | None, name: str | None, on_error: Any) -> Table[K, V]:
        made = self._derive("KTABLE-FILTER-", compute, tables.table_filter, self._value_serde, store, name, on_error)
        # Where old values are there anyway, a key that never passed is not deleted again and again.
        made._view.send_old = self._view.enable_old(force=False)
        return made

    def _derive(
        self,
        prefix: str,
        compute: Callable[[Any, Any], Any],
        operator: Any,
        serde: AnySerde | None,
        store: str | None,
        name: str | None,
        on_error: Any,
    ) -> Table[Any, Any]:
        builder = self._builder
        node = builder.name(name, prefix)
        stores = []
        if store is not None:
            builder.key_value_store(store, self._key_serde, serde)
            stores.append(store)
        view = DerivedView(self._view, store, compute)
        handler = None if on_error is None else make_handler("on_error", on_error)
        builder.processor(node, operator(view, compute), [self._node], stores, on_error=handler)
        return Table(builder, node, view, self._key_serde, serde, self._sources, windows=self._windows)


class ChangeSerde:
    """Changes in repartition topics, in Java's format: old|0, new|1, or length of new (zigzag varint)|new|old|2."""

    takes_none = False

    def __init__(self, inner: AnySerde) -> None:
        self._inner = inner

    def serialize(self, topic: str, change: Change, /) -> bytes:
        new = None if change.new is None else self._inner.serialize(topic, change.new)
        old = None if change.old is None else self._inner.serialize(topic, change.old)
        if new is not None and old is not None:
            return _varint(len(new)) + new + old + b"\x02"
        if new is not None:
            return new + b"\x01"
        if old is not None:
            return old + b"\x00"
        raise ValueError("a change has an old or a new value")

    def deserialize(self, topic: str, data: bytes, /) -> Change:
        read, flag = self._inner.deserialize, data[-1]
        if flag == 0:
            return Change(None, read(topic, data[:-1]))
        if flag == 1:
            return Change(read(topic, data[:-1]), None)
        if flag != 2:
            raise ValueError(f"a change ends with 0, 1 or 2, not {flag}")
        length, start = _read_varint(data)
        return Change(read(topic, data[start : start + length]), read(topic, data[start + length : -1]))

    def __repr__(self) -> str:
        return f"change({self._inner!r})"


def _varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 31)
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _read_varint(data: bytes) -> tuple[int, int]:
    """Return (number, first byte behind it)."""
    number = shift = index = 0
    while True:
        byte = data[index]
        index += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), index
