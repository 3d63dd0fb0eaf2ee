"""Writes joins into the topology: nodes, stores and topics under Java's names. `Stream` and `Table` call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ottla.client.keys import Duration
from ottla.streams.errors import TopologyError, need_function
from ottla.streams.operators import stream_joins, table_joins
from ottla.streams.operators.stream_joins import Joiner, JoinWindow, StreamJoin
from ottla.streams.operators.table_joins import AnswerSerde, JoinView, Kind, SubscriptionSerde
from ottla.streams.operators.tables import SourceView, View, table_source
from ottla.streams.serdes import RAW, AnySerde, make_serde
from ottla.streams.topology import RepartitionTopic, SinkNode, SourceNode, StoreKind
from ottla.streams.windows import milliseconds

if TYPE_CHECKING:
    from ottla.streams.builder import Builder
    from ottla.streams.stream import Stream
    from ottla.streams.table import Table


class GlobalTable:
    """A table that every instance holds whole: what `app.global_table()` returns. Streams join it by any key."""

    def __init__(self, builder: Builder, store: str) -> None:
        self._builder = builder
        self._view = View(store)


def with_key(joiner: Callable[..., Any], *, takes_key: bool) -> Joiner:
    """Return a joiner of (key, left, right)."""
    need_function("a join", joiner)
    return joiner if takes_key else lambda key, left, right: joiner(left, right)


def join_window(
    within: Duration | None, before: Duration | None, after: Duration | None, grace: Duration
) -> JoinWindow:
    """Return the window of a stream-stream join.

    Raises:
        TopologyError: it has no size.
    """
    if within is None and before is None and after is None:
        raise TopologyError('a join of two streams needs within="10m", or before= and after=')
    least = 0 if within is None else within
    return JoinWindow(
        before_ms=milliseconds("before", least if before is None else before),
        after_ms=milliseconds("after", least if after is None else after),
        grace_ms=milliseconds("grace", grace),
    )


def join_streams(
    left: Stream[Any, Any],
    right: Stream[Any, Any],
    joiner: Joiner,
    window: JoinWindow,
    kind: Kind,
    *,
    name: str | None,
    store: str | None,
    key: Any,
    left_value: Any,
    right_value: Any,
    value: Any,
) -> Stream[Any, Any]:
    """Add a stream-stream join."""
    from ottla.streams.stream import Stream

    builder = left._builder
    key_serde = make_serde("key", key, key=True)
    this, other = left, right
    if left._repartition:
        prefix = f"{name}-left" if name else left._name
        this = left._for_join(prefix, given=name is not None, key=key_serde, value=make_serde("left_value", left_value))
    if right._repartition:
        prefix = f"{name}-right" if name else right._name
        other = right._for_join(
            prefix, given=name is not None, key=key_serde, value=make_serde("right_value", right_value)
        )
    outer_left, outer_right = kind != "inner", kind == "outer"
    this_windowed = builder.name(f"{name}-this-windowed" if name else None, "KSTREAM-WINDOWED-")
    other_windowed = builder.name(f"{name}-other-windowed" if name else None, "KSTREAM-WINDOWED-")
    this_numbered = builder.new_name("KSTREAM-OUTERTHIS-" if outer_right else "KSTREAM-JOINTHIS-")
    other_numbered = builder.new_name("KSTREAM-OUTEROTHER-" if outer_left else "KSTREAM-JOINOTHER-")
    this_suffix = "-outer-this-join" if outer_right else "-this-join"
    other_suffix = "-outer-other-join" if outer_left else "-other-join"
    this_name = f"{name}{this_suffix}" if name else this_numbered
    other_name = f"{name}{other_suffix}" if name else other_numbered
    merged = builder.name(f"{name}-merge" if name else None, "KSTREAM-MERGE-")
    waiting = None
    keys = key_serde or this._key_serde or other._key_serde
    if outer_left:
        shared = "-outer-shared-join" if outer_right else "-left-shared-join"
        number = this_numbered.rpartition("-")[2]
        waiting = (f"{store}{shared}" if store else f"KSTREAM-OUTERSHARED-{number}") + "-store"
    join = StreamJoin(
        name=merged,
        window=window,
        left_store=(f"{store}{this_suffix}" if store else this_numbered) + "-store",
        right_store=(f"{store}{other_suffix}" if store else other_numbered) + "-store",
        waiting=waiting,
        joiner=joiner,
    )
    sides = (
        (join.left_store, make_serde("left_value", left_value) or this._value_serde),
        (join.right_store, make_serde("right_value", right_value) or other._value_serde),
    )
    for store_name, serde in sides:
        builder.windowed_store(
            store_name,
            StoreKind.WINDOW,
            keys,
            serde,
            size_ms=window.before_ms + window.after_ms,
            retention_ms=window.retention_ms,
            generated=store is None,
            duplicates=True,
        )
    if waiting is not None:
        builder.key_value_store(waiting, keys, RAW, kind=StoreKind.KEY_VALUE, generated=store is None)
    builder.processor(this_windowed, stream_joins.join_window(join.left_store), [this._node], [join.left_store])
    builder.processor(other_windowed, stream_joins.join_window(join.right_store), [other._node], [join.right_store])
    extra = [] if waiting is None else [waiting]
    builder.processor(
        this_name,
        stream_joins.stream_side(join, left=True, outer=outer_left),
        [this_windowed],
        [join.right_store, *extra],
    )
    builder.processor(
        other_name,
        stream_joins.stream_side(join, left=False, outer=outer_right),
        [other_windowed],
        [join.left_store, *extra],
    )
    builder.processor(merged, lambda context: context.forward, [this_name, other_name])
    if outer_left:
        builder.null_key_joins.append(merged)
    sources = this._sources | other._sources
    builder.copartition(merged, sources)
    return Stream(builder, merged, merged, keys, make_serde("value", value), sources, repartition=False)


def join_table(
    left: Stream[Any, Any],
    right: Table[Any, Any],
    joiner: Joiner,
    kind: Kind,
    *,
    name: str | None,
    key: Any,
    left_value: Any,
    value: Any,
    grace_ms: int | None,
) -> Stream[Any, Any]:
    """Add a stream-table join.

    Raises:
        TopologyError: it has a grace period, and the table has no versions.
    """
    from ottla.streams.stream import Stream

    builder = left._builder
    this = left
    if left._repartition:
        this = left._for_join(
            name or left._name,
            given=name is not None,
            key=make_serde("key", key, key=True),
            value=make_serde("left_value", left_value),
        )
    node = builder.name(name, "KSTREAM-LEFTJOIN-" if kind == "left" else "KSTREAM-JOIN-")
    stores = right._view.stores()
    if grace_ms is None:
        make = stream_joins.table_side(right._view, joiner, None, left=kind == "left")
    else:
        if not right._view.is_versioned:
            raise TopologyError(
                "a join of a stream with a table that has grace= needs a table with versions: give it history_retention="
            )
        history = builder.stores[stores[0]].retention_ms
        if history is not None and history < grace_ms:
            raise TopologyError(
                f"a join of a stream with a table that has grace={grace_ms} ms needs a table that keeps its versions for as "
                f"long at least; its history_retention is {history} ms"
            )
        queue = f"{node}-Buffer"
        builder.key_value_store(
            queue,
            make_serde("key", key, key=True) or this._key_serde,
            make_serde("left_value", left_value) or this._value_serde,
            kind=StoreKind.QUEUE,
            generated=name is None,
        )
        make = stream_joins.table_side_with_grace(right._view, joiner, queue, grace_ms, left=kind == "left")
        stores = [*stores, queue]
    builder.processor(node, make, [this._node], stores)
    if kind == "left":
        builder.null_key_joins.append(node)
    sources = this._sources | right._sources
    builder.copartition(node, sources)
    return Stream(builder, node, node, this._key_serde, make_serde("value", value), sources, repartition=False)


def join_global_table(
    left: Stream[Any, Any],
    right: GlobalTable,
    joiner: Joiner,
    select: Callable[[Any, Any], Any],
    kind: Kind,
    *,
    name: str | None,
    value: Any,
) -> Stream[Any, Any]:
    """Add a join of a stream with a global table."""
    from ottla.streams.stream import Stream

    builder = left._builder
    node = builder.name(name, "KSTREAM-LEFTJOIN-")
    make = stream_joins.table_side(right._view, joiner, select, left=kind == "left")
    builder.processor(node, make, [left._node])
    if kind == "left":
        builder.null_key_joins.append(node)
    return Stream(
        builder,
        node,
        node,
        left._key_serde,
        make_serde("value", value),
        left._sources,
        repartition=left._repartition,
    )


def join_tables(
    left: Table[Any, Any],
    right: Table[Any, Any],
    joiner: Joiner,
    kind: Kind,
    *,
    name: str | None,
    store: str | None,
    value: Any,
) -> Table[Any, Any]:
    """Add a join of two tables by key."""
    from ottla.streams.table import Table

    builder = left._builder
    merged = builder.name(name, "KTABLE-MERGE-")
    if kind != "inner":
        left._view.enable_old(force=True)
    if kind == "outer":
        right._view.enable_old(force=True)
    serde = make_serde("value", value)
    view = JoinView(left._view, right._view, kind, joiner, store)
    this = builder.name(f"{name}-join-this" if name else None, "KTABLE-JOINTHIS-")
    other = builder.name(f"{name}-join-other" if name else None, "KTABLE-JOINOTHER-")
    stores = []
    if store is not None:
        builder.key_value_store(store, left._key_serde, serde)
        stores.append(store)
    left_stores, right_stores = left._view.stores(), right._view.stores()
    make = table_joins.table_side(view, left._view, right._view, joiner, kind, left=True)
    builder.processor(this, make, [left._node], right_stores)
    make = table_joins.table_side(view, right._view, left._view, joiner, kind, left=False)
    builder.processor(other, make, [right._node], left_stores)
    builder.processor(merged, table_joins.table_merge(view), [this, other], stores)
    sources = left._sources | right._sources
    builder.copartition(merged, sources)
    return Table(builder, merged, view, left._key_serde, serde, sources)


def join_foreign(
    left: Table[Any, Any],
    right: Table[Any, Any],
    joiner: Joiner,
    extract: Callable[[Any, Any], Any],
    kind: Kind,
    *,
    name: str | None,
    store: str | None,
    value: Any,
) -> Table[Any, Any]:
    """Add a join of two tables by a foreign key."""
    from ottla.streams.table import Table

    builder, is_left = left._builder, kind == "left"
    right._view.enable_old(force=True)
    left._view.enable_old(force=True)

    def named(suffix: str, prefix: str) -> str:
        return builder.name(f"{name}{suffix}" if name else None, prefix)

    join = "KTABLE-FK-JOIN-"
    registration = f"{join}SUBSCRIPTION-REGISTRATION-"
    processor = f"{join}SUBSCRIPTION-PROCESSOR-"
    topic = named("-subscription-registration", registration) + "-topic"
    full = f"{builder.application_id}-{topic}"
    foreign_serde = builder.key_or_default(right._key_serde)
    key_serde = builder.key_or_default(left._key_serde)
    value_serde = builder.value_or_default(left._value_serde)
    subscription_serde = SubscriptionSerde(key_serde)
    sender = named("-subscription-registration-processor", registration)
    make = table_joins.send_subscription(left._view, extract, foreign_serde, value_serde, full, left=is_left)
    builder.processor(sender, make, [left._node])
    source = _internal_topic(
        builder,
        topic,
        [sender],
        named("-subscription-registration-sink", "KTABLE-SINK-"),
        named("-subscription-registration-source", "KTABLE-SOURCE-"),
        foreign_serde,
        subscription_serde,
        None,
        generated=name is None,
    )
    builder.copartition(source, right._sources | {source})
    subscriptions = named("-subscription-store", f"{join}SUBSCRIPTION-STATE-STORE-")
    builder.key_value_store(subscriptions, RAW, subscription_serde, generated=name is None, cached=False)
    receiver = named("-subscription-receive", processor)
    make = table_joins.receive_subscription(subscriptions, foreign_serde, key_serde, full)
    builder.processor(receiver, make, [source], [subscriptions])
    answering = named("-subscription-join-foreign", processor)
    builder.processor(answering, table_joins.answer_subscription(right._view), [receiver], right._view.stores())
    telling = named("-foreign-join-subscription", processor)
    make = table_joins.tell_subscribers(right._view, subscriptions, foreign_serde, full)
    builder.processor(telling, make, [right._node], [subscriptions])
    answers = named("-subscription-response", f"{join}SUBSCRIPTION-RESPONSE-") + "-topic"
    back = _internal_topic(
        builder,
        answers,
        [answering, telling],
        named("-subscription-response-sink", "KTABLE-SINK-"),
        named("-subscription-response-source", "KTABLE-SOURCE-"),
        key_serde,
        AnswerSerde(builder.value_or_default(right._value_serde)),
        table_joins.answer_partition,
        generated=name is None,
    )
    sources = left._sources | {back}
    builder.copartition(back, sources)
    resolver = named("-subscription-response-resolver", f"{join}SUBSCRIPTION-RESPONSE-RESOLVER-PROCESSOR-")
    make = table_joins.resolve_answer(left._view, value_serde, joiner, full, left=is_left)
    builder.processor(resolver, make, [back], left._view.stores())
    node = named("-result", f"{join}OUTPUT-")
    serde: AnySerde | None = make_serde("value", value)
    store_name = builder.store_name(store, f"{join}OUTPUT-")
    view = SourceView(
        builder,
        node,
        store_name,
        lambda: builder.key_value_store(store_name, key_serde, serde, generated=store is None),
        materialized=False,
    )
    builder.processor(node, lambda context: table_source(view)(context), [resolver])
    if store is not None:
        view.materialize()
    return Table(builder, node, view, key_serde, serde, frozenset(sources))


def _internal_topic(
    builder: Builder,
    short: str,
    parents: list[str],
    sink: str,
    source: str,
    key_serde: AnySerde,
    value_serde: Any,
    partitioner: Any,
    *,
    generated: bool,
) -> str:
    from ottla.streams.builder import REPARTITION_CONFIGS

    topic = f"{builder.application_id}-{short}"
    builder.repartition_topics[topic] = RepartitionTopic(
        name=topic, configs=REPARTITION_CONFIGS, generated_name=generated
    )
    builder.add(
        SinkNode(name=sink, topic=topic, key_serde=key_serde, value_serde=value_serde, partitioner=partitioner), parents
    )
    return builder.add(
        SourceNode(name=source, topics=(topic,), key_serde=key_serde, value_serde=value_serde, offset_reset="earliest"),
        (),
    )
