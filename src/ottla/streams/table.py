"""A table: the last value of each key, as it changes. What `app.table()` and aggregations return."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ottla.streams.handlers import make_handler
from ottla.streams.operators import tables
from ottla.streams.operators.tables import Change, DerivedView, View
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
        return self._filter(lambda key, value: None if predicate(key, value) else value, store, name, on_error)

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

        node = self._builder.name(name, "KTABLE-SELECT-")
        handler = None if on_error is None else make_handler("on_error", on_error)
        self._builder.processor(node, tables.table_group_by(selector), [self._node], on_error=handler)
        self._view.enable_old(force=True)
        return GroupedTable(self._builder, node, make_serde("key", key, key=True), make_serde("value", value), name)

    def _filter(self, compute: Any, store: str | None, name: str | None, on_error: Any) -> Table[K, V]:
        return self._derive("KTABLE-FILTER-", compute, tables.table_filter, self._value_serde, store, name, on_error)

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
