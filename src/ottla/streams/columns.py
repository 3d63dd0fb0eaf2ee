"""A stream of rows with named fields, for expressions instead of functions: what `app.stream(..., columns=True)` returns.

    ticks = app.stream("ticks", key=str, value=Tick, columns=True)
    (ticks.filter(col("price") > 0)
          .with_columns(total=col("price") * col("size"))
          .group_by("symbol").windowed_by(tumbling("1m"))
          .agg(col("price").mean(), col("total").sum(), count())
          .to_stream().to("candles"))

Its operators take whole runs of records (`runs`); what comes out is what comes out record by record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ottla.client.keys import Duration
from ottla.serde import json
from ottla.streams.errors import TopologyError
from ottla.streams.expressions import Aggregates, Aggregation, Expression, col, lit
from ottla.streams.grouped import GroupedStream, add_windowed
from ottla.streams.operators import columns as operators
from ottla.streams.serdes import AnySerde, PlacesSerde, RowSerde, make_serde
from ottla.streams.windows import AnyWindows, TimeWindows

if TYPE_CHECKING:
    from ottla.streams.keys import Windowed
    from ottla.streams.stream import Stream
    from ottla.streams.table import Table


class ColumnStream:
    """Rows, each a record. Every method adds an operator and returns what comes out of it."""

    def __init__(self, stream: Stream[Any, Any], fields: frozenset[str] | None) -> None:
        """Use `app.stream(..., columns=True)` or `stream.columns()`.

        Args:
            fields: the names of all fields, where they are known.
        """
        self._stream = stream
        self._fields = fields

    def filter(self, condition: Expression, *, name: str | None = None, on_error: Any = None) -> ColumnStream:
        """Keep the rows for which the condition is true (not where it is None).

        ticks.filter((col("price") > 0) & (col("size") >= 100))
        """
        self._check("filter()", condition)
        return self._next(self._stream._same(name, "KSTREAM-FILTER-", operators.filtering(condition), on_error))

    def with_columns(self, *, on_error: Any = None, **made: Any) -> ColumnStream:
        """Add fields, or change them; all are computed of the row as it was.

        ticks.with_columns(total=col("price") * col("size"), venue="X")
        """
        found = self._expressions("with_columns()", made)
        stream = self._stream._same(None, "KSTREAM-MAPVALUES-", operators.with_columns(found), on_error)
        return self._next(stream, None if self._fields is None else self._fields | set(found))

    def select(self, *names: str, on_error: Any = None, **made: Any) -> ColumnStream:
        """Keep these fields, and those that are computed, and no others."""
        found = self._expressions("select()", {**{name: col(name) for name in names}, **made})
        stream = self._stream._same(None, "KSTREAM-MAPVALUES-", operators.selecting(found), on_error)
        return self._next(stream, frozenset(found))

    def group_by(
        self, by: str | Expression, *, key: Any = None, name: str | None = None, on_error: Any = None
    ) -> GroupedColumns:
        """Group by a field, or an expression. Rows go through a repartition topic, as JSON.

        Args:
            key: how the new key is written: text without it.
            name: of the operator and the repartition topic.
        """
        expression = col(by) if isinstance(by, str) else by
        self._check("group_by()", expression)
        stream, builder = self._stream, self._stream._builder
        node = builder.name(name, "KSTREAM-KEY-SELECT-")
        builder.processor(node, operators.keying(expression), [stream._node], on_error=_handler(on_error))
        grouped: GroupedStream[Any, Any] = GroupedStream(
            builder,
            node,
            node,
            make_serde("key", key, key=True),
            RowSerde(json()),
            stream._sources,
            repartition=True,
            given=name,
        )
        return GroupedColumns(self, grouped)

    def group_by_key(self, *, name: str | None = None) -> GroupedColumns:
        """Group by the key as it is."""
        return GroupedColumns(self, self._stream.group_by_key(value=RowSerde(json()), name=name))

    def rows(self) -> Stream[Any, dict[str, Any]]:
        """Return the stream for operators of functions: values are dicts."""
        return self._stream

    def to(self, topic: str, *, value: Any = None, name: str | None = None) -> None:
        """Write each row to a topic: as JSON, unless `value=` says otherwise."""
        self._stream.to(topic, value=json() if value is None else value, name=name)

    def _next(self, stream: Stream[Any, Any], fields: frozenset[str] | None = None) -> ColumnStream:
        return ColumnStream(stream, self._fields if fields is None else fields)

    def _check(self, what: str, expression: Any) -> None:
        if not isinstance(expression, Expression):
            raise TypeError(f"{what} takes expressions, as col('price') > 0, not {expression!r}")
        if self._fields is not None and (unknown := sorted(expression.fields() - self._fields)):
            raise TopologyError(
                f"{what}: there is no field {', '.join(unknown)}; there are: {', '.join(sorted(self._fields)) or 'none'}"
            )

    def _expressions(self, what: str, made: Mapping[str, Any]) -> dict[str, Expression]:
        found = {name: each if isinstance(each, Expression) else lit(each) for name, each in made.items()}
        if not found:
            raise TypeError(f"{what} needs fields")
        for each in found.values():
            self._check(what, each)
        return found


class GroupedColumns:
    """Rows in groups: what `group_by()` of columns returns."""

    def __init__(self, columns: ColumnStream, grouped: GroupedStream[Any, Any]) -> None:
        self._columns = columns
        self._grouped = grouped

    def windowed_by(self, windows: AnyWindows) -> WindowedColumns:
        """Aggregate over tumbling or hopping windows."""
        if not isinstance(windows, TimeWindows):
            raise TopologyError(
                "columns have tumbling and hopping windows; for others use .rows() and aggregate() with functions"
            )
        return WindowedColumns(self._columns, self._grouped, windows)

    def agg(
        self,
        *aggregations: Aggregation,
        store: str | None = None,
        name: str | None = None,
        home: str = "default",
        **named: Aggregation,
    ) -> Table[Any, dict[str, Any]]:
        """Keep aggregates of each group: a table of rows with a field for each; row by row."""
        aggregates = _aggregates(self._columns, aggregations, named)
        table = self._grouped.aggregate(
            aggregates.first, aggregates.aggregator(), value=PlacesSerde(), store=store, name=name, home=home
        )
        return table.map_values(aggregates.result, value="json")


class WindowedColumns:
    """Grouped rows over windows."""

    def __init__(self, columns: ColumnStream, grouped: GroupedStream[Any, Any], windows: TimeWindows) -> None:
        self._columns = columns
        self._grouped = grouped
        self._windows = windows

    def agg(
        self,
        *aggregations: Aggregation,
        store: str | None = None,
        retention: Duration | None = None,
        name: str | None = None,
        home: str = "default",
        **named: Aggregation,
    ) -> Table[Windowed, dict[str, Any]]:
        """Keep aggregates of each group and window: a table of rows with a field for each.

            .agg(col("price").mean(), col("price").max(), count())      # price_mean, price_max, count
            .agg(mean=col("price").mean(), trades=count())

        Args:
            store: its name; it holds what the aggregates are made of (a mean's sum and number).
            retention: how long windows can be asked for, counted in stream time; at least their size and grace.
        """
        from ottla.streams.table import Table as TableClass

        aggregates = _aggregates(self._columns, aggregations, named)
        grouping, builder, windows = self._grouped._grouping, self._grouped._grouping.builder, self._windows
        store_name = builder.store_name(store, "KSTREAM-AGGREGATE-")
        node = builder.name(name, "KSTREAM-AGGREGATE-")
        parent, sources = grouping.parent(store_name, store_given=store is not None)
        _, key_serde, view = add_windowed(
            builder,
            windows,
            store_name,
            grouping.key_serde,
            PlacesSerde(),
            retention,
            aggregates.first,
            aggregates.aggregator(),
            None,
            generated=store is None,
            home=home,
            on_close=False,
        )
        builder.processor(node, operators.windowed(view, windows, aggregates), [parent], [store_name])
        table: Table[Any, Any] = TableClass(builder, node, view, key_serde, PlacesSerde(), sources, windows=windows)
        return table.map_values(aggregates.result, value="json")


def _aggregates(
    columns: ColumnStream, aggregations: tuple[Aggregation, ...], named: Mapping[str, Aggregation]
) -> Aggregates:
    for each in (*aggregations, *named.values()):
        if not isinstance(each, Aggregation):
            raise TypeError(f"agg() takes aggregations, as col('price').mean() or count(), not {each!r}")
        if each.expression is not None:
            columns._check("agg()", each.expression)
    found = [*aggregations, *(each.alias(name) for name, each in named.items())]
    names = [each.name for each in found]
    if not found:
        raise TypeError("agg() needs aggregations, as col('price').mean() or count()")
    if len(set(names)) < len(names):
        raise TypeError(f"agg(): two fields have one name ({', '.join(names)}); name them with alias() or as keywords")
    return Aggregates(found)


def column_stream(stream: Stream[Any, Any], serde: AnySerde | None) -> ColumnStream:
    """Return a stream as columns; rows without a value are dropped."""
    fields = serde.fields if isinstance(serde, RowSerde) else None
    return ColumnStream(stream._same(None, "KSTREAM-FILTER-", operators.rows_only, None), fields)


def row_serde(value: Any) -> RowSerde:
    """Return the serde of rows: JSON objects, or what a type says that has fields."""
    if value is bytes:
        return RowSerde(json())
    serde = make_serde("value", value)
    assert serde is not None
    fields = None
    if isinstance(value, type):
        if dataclasses.is_dataclass(value):
            fields = frozenset(each.name for each in dataclasses.fields(value))
        else:
            known = getattr(value, "model_fields", None) or getattr(value, "__struct_fields__", None)
            fields = None if not known else frozenset(known)
    return RowSerde(serde, fields)


def _handler(on_error: Any) -> Any:
    from ottla.streams.handlers import make_handler

    return None if on_error is None else make_handler("on_error", on_error)
