"""A stream of records: what `app.stream()` returns. Every method adds an operator to the app and returns what comes out
of it.

Names of methods, operators and internal topics are Kafka Streams'. `name=` names an operator; without it operators are
numbered. `value=` and `key=` say how objects are written where they must be: to a topic between operators, or into a
store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Literal, TextIO, TypeVar, overload

from ottla.client.keys import Duration
from ottla.streams import joins
from ottla.streams.branches import Branches
from ottla.streams.builder import pass_on
from ottla.streams.errors import TopologyError
from ottla.streams.grouped import GroupedStream
from ottla.streams.handlers import make_handler
from ottla.streams.joins import GlobalTable
from ottla.streams.operators import asynchronous, stateless
from ottla.streams.operators.processing import processing
from ottla.streams.operators.table_joins import Kind
from ottla.streams.operators.tables import SourceView, table_source
from ottla.streams.serdes import AnySerde, make_serde
from ottla.streams.table import Table
from ottla.streams.topology import SourceNode
from ottla.streams.windows import history_ms, milliseconds

if TYPE_CHECKING:
    from ottla.streams.builder import Builder

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")


class Stream(Generic[K, V]):
    """Records with keys K and values V."""

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
    ) -> None:
        self._builder = builder
        self._name = name
        self._node = node
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._sources = sources
        self._repartition = repartition
        self._repartitioned: tuple[str, Stream[K, V]] | None = None

    def filter(
        self, predicate: Callable[[K, V], object], *, name: str | None = None, on_error: Any = None
    ) -> Stream[K, V]:
        """Keep records for which `predicate(key, value)` is true.

        orders.filter(lambda key, order: order.amount > 100)
        """
        return self._same(name, "KSTREAM-FILTER-", stateless.filtering(predicate, keep=True), on_error)

    def filter_not(
        self, predicate: Callable[[K, V], object], *, name: str | None = None, on_error: Any = None
    ) -> Stream[K, V]:
        """Drop records for which `predicate(key, value)` is true."""
        return self._same(name, "KSTREAM-FILTER-", stateless.filtering(predicate, keep=False), on_error)

    def map(
        self,
        function: Callable[[K, V], tuple[K2, V2]],
        *,
        key: Any = None,
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K2, V2]:
        """Make a new (key, value) of each record. What groups or joins behind it is repartitioned."""
        return self._other(
            name, "KSTREAM-MAP-", stateless.mapping(function), key=key, value=value, new_key=True, on_error=on_error
        )

    @overload
    def map_values(
        self,
        function: Callable[[V], V2],
        *,
        value: Any = ...,
        with_key: Literal[False] = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Stream[K, V2]: ...
    @overload
    def map_values(
        self,
        function: Callable[[K, V], V2],
        *,
        value: Any = ...,
        with_key: Literal[True],
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Stream[K, V2]: ...
    def map_values(
        self,
        function: Callable[..., V2],
        *,
        value: Any = None,
        with_key: bool = False,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K, V2]:
        """Make a new value of each record: `function(value)`, or `function(key, value)` with `with_key=True`."""
        make = stateless.mapping_values(function, with_key=with_key)
        return self._other(name, "KSTREAM-MAPVALUES-", make, value=value, on_error=on_error)

    def map_async(
        self,
        function: Callable[..., Awaitable[V2]],
        *,
        concurrency: int = 16,
        ordered: bool = True,
        value: Any = None,
        with_key: bool = False,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K, V2]:
        """Make a new value of each record by a call to elsewhere: `await function(value)`, many at one time.

        For look-ups over HTTP or in a database. Before each commit the calls that run are waited for; after a crash or when a
        partition goes to another instance some are made again: exactly once ends at our topics.

        orders.map_async(look_up_price, concurrency=32)

        Args:
            function: `async def`; one that blocks goes into `asyncio.to_thread`. It runs on a loop of its own, and is best
                quicker than transaction.timeout.ms.
            concurrency: calls at one time, of each task.
            ordered: records go on in the order in which they came; else as their calls end, which makes some of them late for
                windows behind it.
            with_key: `function(key, value)`.
        """
        make = asynchronous.calling(function, concurrency=concurrency, ordered=ordered, with_key=with_key)
        return self._other(name, "KSTREAM-MAPASYNC-", make, value=value, on_error=on_error)

    def flat_map(
        self,
        function: Callable[[K, V], Iterable[tuple[K2, V2]]],
        *,
        key: Any = None,
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K2, V2]:
        """Make any number of (key, value) of each record."""
        return self._other(
            name,
            "KSTREAM-FLATMAP-",
            stateless.flat_mapping(function),
            key=key,
            value=value,
            new_key=True,
            on_error=on_error,
        )

    @overload
    def flat_map_values(
        self,
        function: Callable[[V], Iterable[V2]],
        *,
        value: Any = ...,
        with_key: Literal[False] = ...,
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Stream[K, V2]: ...
    @overload
    def flat_map_values(
        self,
        function: Callable[[K, V], Iterable[V2]],
        *,
        value: Any = ...,
        with_key: Literal[True],
        name: str | None = ...,
        on_error: Any = ...,
    ) -> Stream[K, V2]: ...
    def flat_map_values(
        self,
        function: Callable[..., Iterable[V2]],
        *,
        value: Any = None,
        with_key: bool = False,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K, V2]:
        """Make any number of values of each record.

        lines.flat_map_values(str.split)
        """
        make = stateless.flat_mapping_values(function, with_key=with_key)
        return self._other(name, "KSTREAM-FLATMAPVALUES-", make, value=value, on_error=on_error)

    def select_key(
        self, function: Callable[[K, V], K2], *, key: Any = None, name: str | None = None, on_error: Any = None
    ) -> Stream[K2, V]:
        """Choose a new key for each record. What groups or joins behind it is repartitioned."""
        node = self._builder.name(name, "KSTREAM-KEY-SELECT-")
        self._builder.processor(node, stateless.selecting_key(function), [self._node], on_error=_handler(on_error))
        return Stream(
            self._builder,
            node,
            node,
            make_serde("key", key, key=True),
            self._value_serde,
            self._sources,
            repartition=True,
        )

    def peek(self, action: Callable[[K, V], object], *, name: str | None = None, on_error: Any = None) -> Stream[K, V]:
        """Call `action(key, value)` for each record, and pass it on."""
        return self._same(name, "KSTREAM-PEEK-", stateless.looking(action), on_error)

    def foreach(self, action: Callable[[K, V], object], *, name: str | None = None, on_error: Any = None) -> None:
        """Call `action(key, value)` for each record; nothing comes out of it."""
        self._same(name, "KSTREAM-FOREACH-", stateless.looking(action), on_error)

    def print(self, *, label: str | None = None, file: TextIO | None = None, name: str | None = None) -> None:
        """Write each record to standard output, or to a file: "[label]: key, value"."""
        self._same(name, "KSTREAM-PRINTER-", stateless.printing(label or self._name, file), None)

    def split(self, *, name: str | None = None) -> Branches[K, V]:
        """Begin to send each record to one of several streams; `branch()` says which.

        branches = (orders.split(name="size-")
                          .branch(lambda key, order: order.amount > 1000, name="large")
                          .default_branch(name="small"))
        branches["size-large"].to("large-orders")
        """
        return Branches(self, self._builder.name(name, "KSTREAM-BRANCH-"))

    def merge(self, other: Stream[K, V], *, name: str | None = None) -> Stream[K, V]:
        """Put two streams into one. The order between their records is not promised."""
        node = self._builder.name(name, "KSTREAM-MERGE-")
        self._builder.processor(node, pass_on, [self._node, other._node])
        return Stream(
            self._builder,
            node,
            node,
            self._key_serde if self._key_serde is other._key_serde else None,
            self._value_serde if self._value_serde is other._value_serde else None,
            self._sources | other._sources,
            repartition=self._repartition or other._repartition,
        )

    def repartition(
        self,
        *,
        partitions: int | None = None,
        key: Any = None,
        value: Any = None,
        partitioner: Callable[[str, K, V, int], int | None] | None = None,
        name: str | None = None,
    ) -> Stream[K, V]:
        """Write the stream to a topic of its own, "<app>-<name>-repartition", and read it from there.

        Args:
            partitions: how many; without it as many as the topics have that are read.
            partitioner: chooses a partition of (topic, key, value, count), or None for Kafka's own choice.
        """
        builder = self._builder
        prefix = builder.new_name("KSTREAM-REPARTITION-") if name is None else name
        key_serde = make_serde("key", key, key=True) or self._key_serde
        value_serde = make_serde("value", value) or self._value_serde
        source = builder.repartition(
            prefix,
            self._node,
            key_serde,
            value_serde,
            partitions=partitions,
            partitioner=partitioner,
            generated=name is None,
        )
        return Stream(builder, source, source, key_serde, value_serde, frozenset([source]), repartition=False)

    def to(
        self,
        topic: str | Callable[[K, V, Any], str],
        *,
        key: Any = None,
        value: Any = None,
        partitioner: Callable[[str, K, V, int], int | None] | None = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> None:
        """Write each record to a topic, which must exist.

        Args:
            topic: a name, or a function of (key, value, input record) that names one.
            key, value: how they are written. Without them as they were read; objects that operators have made are
                written as they are if they are bytes, as UTF-8 if they are text, and else as JSON.
        """
        node = self._builder.name(name, "KSTREAM-SINK-")
        key_serde = make_serde("key", key, key=True) or self._key_serde
        value_serde = make_serde("value", value) or self._value_serde
        self._builder.sink(node, self._node, topic, key_serde, value_serde, partitioner, _handler(on_error))

    def through(
        self,
        topic: str,
        *,
        key: Any = None,
        value: Any = None,
        partitioner: Callable[[str, K, V, int], int | None] | None = None,
        name: str | None = None,
    ) -> Stream[K, V]:
        """Write to a topic of yours, and go on reading from it. The topic must exist; `repartition()` makes one."""
        self.to(topic, key=key, value=value, partitioner=partitioner, name=name)
        key_serde = self._builder.key_or_default(make_serde("key", key, key=True) or self._key_serde)
        value_serde = self._builder.value_or_default(make_serde("value", value) or self._value_serde)
        node = self._builder.source(
            SourceNode(
                name=self._builder.new_name("KSTREAM-SOURCE-"),
                topics=(topic,),
                key_serde=key_serde,
                value_serde=value_serde,
            )
        )
        return Stream(self._builder, node, node, key_serde, value_serde, frozenset([node]), repartition=False)

    def group_by_key(self, *, key: Any = None, value: Any = None, name: str | None = None) -> GroupedStream[K, V]:
        """Group by the key as it is; it is repartitioned only if the key was changed before.

        Args:
            name: of the repartition topic, where there is one.
        """
        return GroupedStream(
            self._builder,
            self._name,
            self._node,
            make_serde("key", key, key=True) or self._key_serde,
            make_serde("value", value) or self._value_serde,
            self._sources,
            repartition=self._repartition,
            given=name,
        )

    def group_by(
        self,
        function: Callable[[K, V], K2],
        *,
        key: Any = None,
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> GroupedStream[K2, V]:
        """Group by a key that the function makes. Records go through a repartition topic, so that each key is in one
        task.

        Args:
            key: how the new key is written; text without it.
            name: of the operator and the repartition topic.
        """
        node = self._builder.name(name, "KSTREAM-KEY-SELECT-")
        self._builder.processor(node, stateless.selecting_key(function), [self._node], on_error=_handler(on_error))
        return GroupedStream(
            self._builder,
            node,
            node,
            make_serde("key", key, key=True),
            make_serde("value", value) or self._value_serde,
            self._sources,
            repartition=True,
            given=name,
        )

    def join(
        self,
        other: Stream[K, Any] | Table[K, Any] | GlobalTable,
        joiner: Callable[..., V2],
        *,
        within: Duration | None = None,
        before: Duration | None = None,
        after: Duration | None = None,
        grace: Duration | None = None,
        key: Any = None,
        left_value: Any = None,
        right_value: Any = None,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Stream[K, V2]:
        """Join with another stream, a table or a global table; what finds no partner does not come out.

            clicks.join(orders, lambda click, order: (click, order), within="10m", grace="1m")
            orders.join(users, lambda order, user: order.with_country(user.country))
            orders.join(shops, merge, key=lambda key, order: order.shop_id)  # a global table

        With a stream, a pair joins when left - before <= right <= left + after; `within` is both. With a table, a
        record joins what the table holds when it comes; with one that has versions, what it held at the record's time.
        Topics must have the same number of partitions (except those of global tables).

        Args:
            joiner: `joiner(left, right)`, or `joiner(key, left, right)` with `with_key=True`.
            grace: how late a record may come, for joins of streams (0 without it). With a table that has versions
                (`history_retention=`): records wait until stream time has passed them by so much, and join what the table
                held at their time (KIP-923).
            key: for a global table, the function of (key, value) that says which of its keys to look up; else how keys
                are written, where they are repartitioned.
            left_value, right_value, value: how values of the sides and results are written, where they must be.
            store: begins the names of the stores of a join of streams.
        """
        return self._join(
            "inner",
            other,
            joiner,
            within,
            before,
            after,
            grace,
            key,
            left_value,
            right_value,
            value,
            with_key,
            store,
            name,
        )

    def left_join(
        self,
        other: Stream[K, Any] | Table[K, Any] | GlobalTable,
        joiner: Callable[..., V2],
        *,
        within: Duration | None = None,
        before: Duration | None = None,
        after: Duration | None = None,
        grace: Duration | None = None,
        key: Any = None,
        left_value: Any = None,
        right_value: Any = None,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Stream[K, V2]:
        """Join; records of this stream that find no partner come out with None as the other value.

        With a stream they come out when stream time has passed their window and its grace: when no partner can come any
        more.
        """
        return self._join(
            "left",
            other,
            joiner,
            within,
            before,
            after,
            grace,
            key,
            left_value,
            right_value,
            value,
            with_key,
            store,
            name,
        )

    def outer_join(
        self,
        other: Stream[K, Any],
        joiner: Callable[..., V2],
        *,
        within: Duration | None = None,
        before: Duration | None = None,
        after: Duration | None = None,
        grace: Duration | None = None,
        key: Any = None,
        left_value: Any = None,
        right_value: Any = None,
        value: Any = None,
        with_key: bool = False,
        store: str | None = None,
        name: str | None = None,
    ) -> Stream[K, V2]:
        """Join two streams; records of both that find no partner come out with None as the other value."""
        if not isinstance(other, Stream):
            raise TopologyError("outer_join() of a stream takes a stream; tables have join() and left_join()")
        return self._join(
            "outer",
            other,
            joiner,
            within,
            before,
            after,
            grace,
            key,
            left_value,
            right_value,
            value,
            with_key,
            store,
            name,
        )

    def _join(
        self,
        kind: Kind,
        other: Any,
        joiner: Any,
        within: Duration | None,
        before: Duration | None,
        after: Duration | None,
        grace: Duration | None,
        key: Any,
        left_value: Any,
        right_value: Any,
        value: Any,
        with_key: bool,
        store: str | None,
        name: str | None,
    ) -> Stream[Any, Any]:
        function = joins.with_key(joiner, takes_key=with_key)
        if isinstance(other, Stream):
            window = joins.join_window(within, before, after, 0 if grace is None else grace)
            return joins.join_streams(
                self,
                other,
                function,
                window,
                kind,
                name=name,
                store=store,
                key=key,
                left_value=left_value,
                right_value=right_value,
                value=value,
            )
        if within is not None or before is not None or after is not None:
            raise TopologyError("within=, before= and after= are for joins of two streams")
        if isinstance(other, joins.GlobalTable):
            if grace is not None:
                raise TopologyError("grace= is for joins with streams and with tables that have versions")
            if not callable(key) or isinstance(key, type):
                raise TopologyError("a join with a global table needs key=, a function of (key, value)")
            return joins.join_global_table(self, other, function, key, kind, name=name, value=value)
        return joins.join_table(
            self,
            other,
            function,
            kind,
            name=name,
            key=key,
            left_value=left_value,
            value=value,
            grace_ms=None if grace is None else milliseconds("grace", grace),
        )

    def process(
        self,
        supplier: Callable[[], Any],
        *,
        stores: Iterable[str] = (),
        key: Any = None,
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[Any, Any]:
        """Process records with an object, or a function, of yours, which can use stores and the clock.

            class Deduplicate:
                def init(self, context):
                    self.context, self.seen = context, context.store("seen")

                def process(self, record):
                    if self.seen.get(record.key) != record.value:
                        self.seen.put(record.key, record.value)
                        self.context.forward(record)

            app.add_store("seen", key=str, value=str)
            records.process(Deduplicate, stores=["seen"])

        Args:
            supplier: is called once for each task. It returns an object with process(record) and, if it likes,
                init(context) and close(); or a function of the record, which may yield records.
            stores: names of the stores that it uses.
            key, value: how keys and values of what comes out are written, where they must be.
        """
        return self._process("KSTREAM-PROCESSOR-", supplier, stores, key, value, name, on_error, fixed_key=False)

    def process_values(
        self,
        supplier: Callable[[], Any],
        *,
        stores: Iterable[str] = (),
        value: Any = None,
        name: str | None = None,
        on_error: Any = None,
    ) -> Stream[K, Any]:
        """The same for what leaves keys as they are, so that nothing is repartitioned; another key is an error."""
        return self._process("KSTREAM-PROCESSVALUES-", supplier, stores, None, value, name, on_error, fixed_key=True)

    def _process(
        self,
        prefix: str,
        supplier: Callable[[], Any],
        stores: Iterable[str],
        key: Any,
        value: Any,
        name: str | None,
        on_error: Any,
        *,
        fixed_key: bool,
    ) -> Stream[Any, Any]:
        node = self._builder.new_name(prefix) if name is None else name
        make = processing(supplier, fixed_key=fixed_key)
        self._builder.processor(node, make, [self._node], stores, on_error=_handler(on_error))
        return Stream(
            self._builder,
            node,
            node,
            self._key_serde if fixed_key else make_serde("key", key, key=True),
            make_serde("value", value),
            self._sources,
            repartition=self._repartition or not fixed_key,
        )

    def to_table(
        self,
        *,
        store: str | None = None,
        history_retention: Duration | None = None,
        key: Any = None,
        value: Any = None,
        name: str | None = None,
    ) -> Table[K, V]:
        """Read the stream as a table: the last value of each key, None deletes.

        Args:
            history_retention: as of `App.table`.
        """
        builder = self._builder
        node = builder.name(name, "KSTREAM-TOTABLE-")
        store_name = builder.store_name(store, "KSTREAM-TOTABLE-")
        key_serde = make_serde("key", key, key=True) or self._key_serde
        value_serde = make_serde("value", value) or self._value_serde
        parent, sources = self._node, self._sources
        if self._repartition:
            parent = builder.repartition(node, parent, key_serde, value_serde, generated=name is None)
            sources = frozenset([parent])
        history = history_ms(history_retention)
        view = SourceView(
            builder,
            node,
            store_name,
            lambda: builder.table_store(
                store_name, key_serde, value_serde, history_ms=history, generated=store is None
            ),
            materialized=False,
            is_versioned=history is not None,
        )
        builder.processor(node, lambda context: table_source(view)(context), [parent])
        if store is not None or history is not None:
            view.materialize()
        return Table(builder, node, view, key_serde, value_serde, sources)

    def _for_join(self, prefix: str, *, given: bool, key: Any = None, value: Any = None) -> Stream[K, V]:
        """Return the stream with its keys in their partitions."""
        key_serde, value_serde = key or self._key_serde, value or self._value_serde
        if self._repartitioned is not None and self._name == prefix:
            # Java counts the three names here, and reads the topic that is there.
            for letter in ("SINK", "FILTER", "SOURCE"):
                self._builder.new_name(f"KSTREAM-{letter}-")
            return self._repartitioned[1]
        source = self._builder.repartition(prefix, self._node, key_serde, value_serde, generated=not given)
        made: Stream[K, V] = Stream(
            self._builder, source, source, key_serde, value_serde, frozenset([source]), repartition=False
        )
        self._repartitioned = (prefix, made)
        return made

    def _same(self, name: str | None, prefix: str, make: Any, on_error: Any) -> Stream[K, V]:
        node = self._builder.name(name, prefix)
        self._builder.processor(node, make, [self._node], on_error=_handler(on_error))
        return Stream(
            self._builder,
            node,
            node,
            self._key_serde,
            self._value_serde,
            self._sources,
            repartition=self._repartition,
        )

    def _other(
        self,
        name: str | None,
        prefix: str,
        make: Any,
        *,
        value: Any,
        key: Any = None,
        new_key: bool = False,
        on_error: Any = None,
    ) -> Stream[Any, Any]:
        node = self._builder.name(name, prefix)
        self._builder.processor(node, make, [self._node], on_error=_handler(on_error))
        return Stream(
            self._builder,
            node,
            node,
            make_serde("key", key, key=True) if new_key else self._key_serde,
            make_serde("value", value),
            self._sources,
            repartition=self._repartition or new_key,
        )


def _handler(on_error: Any) -> Any:
    return None if on_error is None else make_handler("on_error", on_error)
