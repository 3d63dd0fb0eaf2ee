"""The topologies that Java's TopologyTestDriver and ours run, their seeded inputs, and how ours are built.

`Parity.java` builds the same from the same steps; both have the functions below under the same names. Inputs have late
records, null keys, null values, several records of one time, and headers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from ottla.streams import App, Record, hopping, session, sliding, tumbling

Step = dict[str, Any]


# Functions; Parity.java has the same.


def test(name: str, key: Any, value: Any) -> bool:
    match name:
        case "long":
            return value is not None and len(value) > 3
        case "key_a":
            return bool(key == "a")
        case "even":
            return value is not None and value % 2 == 0
        case "has_value":
            return value is not None
        case "no_x":
            return value is None or "x" not in value
    raise ValueError(name)


test.__test__ = False  # type: ignore[attr-defined]


def change(name: str, key: Any, value: Any) -> Any:
    match name:
        case "upper":
            return None if value is None else value.upper()
        case "with_key":
            return f"{_java(key)}={_java(value)}"
        case "text":
            return None if value is None else str(value)
        case "null_x":
            return None if value is None or "x" in value else value
        case "first":
            return value[:1] if value else None
        case "key":
            return key
        case "last":
            return value[-1:] if value else None
        case "constant":
            return "all"
    raise ValueError(name)


def pair(name: str, key: Any, value: Any) -> tuple[Any, Any]:
    match name:
        case "swap":
            return value, key
        case "first":
            return change("first", key, value), value
        case "constant":
            return "all", value
        case "window_key":
            return f"{key.key}@{key.window.start}", _java(value)
    raise ValueError(name)


def words(value: Any) -> list[str]:
    return [] if value is None else value.split(" ")


def join(left: Any, right: Any) -> str:
    return f"{_java(left)}+{_java(right)}"


def add(key: Any, value: Any, aggregate: Any) -> str:
    return f"{_java(aggregate)},{_java(value)}"[-40:]


def subtract(aggregate: Any, value: Any) -> str:
    return f"{_java(aggregate)}-{_java(value)}"


def _java(value: Any) -> str:
    return "null" if value is None else str(value)


# Building ours.


def build(steps: list[Step]) -> App:
    """Return our app of the steps."""
    app = App("app", default_key=str, default_value=str)
    made: dict[str, Any] = {}
    for step in steps:
        result = _step(app, made, step)
        if isinstance(result, list):
            made.update({f"{step['id']}{index}": branch for index, branch in enumerate(result)})
        elif "id" in step:
            made[step["id"]] = result
    return app


def _step(app: Any, made: dict[str, Any], step: Step) -> Any:
    op, fn, name = step["op"], step.get("fn", ""), step.get("as")
    of: Any = made[step["of"]] if isinstance(step.get("of"), str) else None
    other = made.get(step.get("other", ""))
    store = {"store": step["store"]} if "store" in step else {}
    match op:
        case "stream":
            return app.stream(step["topic"], key=str, value=str, name=name)
        case "table":
            return app.table(step["topic"], key=str, value=str, **store)
        case "global_table":
            return app.global_table(step["topic"], key=str, value=str, **store)
        case "filter":
            return of.filter(lambda key, value: test(fn, key, value), name=name, **store)
        case "filter_not":
            return of.filter_not(lambda key, value: test(fn, key, value))
        case "map":
            return of.map(lambda key, value: pair(fn, key, value))
        case "map_values":
            return of.map_values(lambda key, value: change(fn, key, value), with_key=True, name=name, **store)
        case "flat_map":
            return of.flat_map(lambda key, value: [(word, key) for word in words(value)])
        case "flat_map_values":
            return of.flat_map_values(words)
        case "select_key":
            return of.select_key(lambda key, value: change(fn, key, value))
        case "peek":
            return of.peek(lambda key, value: None)
        case "foreach":
            return of.foreach(lambda key, value: None)
        case "merge":
            return of.merge(other)
        case "split":
            branches = of.split(name=name)
            for predicate, *rest in step["branches"]:
                branches.branch(lambda key, value, p=predicate: test(p, key, value), name=rest[0] if rest else None)
            found = branches.default_branch() if "default" in step else branches.no_default_branch()
            return [found[name] for name in sorted(found)]
        case "repartition":
            return of.repartition(name=name, partitions=1 if name else None)
        case "group_by_key":
            return of.group_by_key(name=name)
        case "group_by":
            if type(of).__name__ == "Table":
                return of.group_by(lambda key, value: pair(fn, key, value))
            return of.group_by(lambda key, value: change(fn, key, value), name=name)
        case "count" | "reduce" | "aggregate":
            return _aggregate(op, of, step, store)
        case "cogroup":
            return _cogroup(made, step, store)
        case "to_stream":
            return of.to_stream()
        case "to_table":
            return of.to_table(**store)
        case "suppress":
            if "limit" in step:
                return of.suppress(until_time_limit=step["limit"] / 1000, max_records=step.get("records"))
            return of.suppress("until_window_closes")
        case "join":
            return _join(of, other, step, store)
        case "process":
            return of.process(lambda: Ticker(step))
        case "process_values":
            return of.process_values(lambda: _twice(fn))
        case "to":
            return of.to(step["topic"])
    raise ValueError(op)


class Ticker:
    """Counts, and tells what it has counted when the time comes."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._seen = 0

    def init(self, context: Any) -> None:
        self._context = context
        context.schedule(self._step["every"] / 1000, self._tick, by=self._step["by"])

    def _tick(self, now: int) -> None:
        self._context.forward(Record("tick", str(self._seen), now))

    def process(self, record: Record) -> None:
        self._seen += 1
        self._context.forward(record)
        self._context.forward(record._replace(key="copy", timestamp=record.timestamp + 1))


def _twice(fn: str) -> Callable[[Any], Iterator[Any]]:
    def process(record: Record) -> Iterator[Any]:
        yield record._replace(value=change(fn, record.key, record.value))
        yield record._replace(value="again", timestamp=record.timestamp + 1)

    return process


def _windows(windows: Step) -> Any:
    size, grace = windows["size"] / 1000, windows.get("grace", 0) / 1000
    match windows["type"]:
        case "tumbling":
            return tumbling(size, grace=grace)
        case "hopping":
            return hopping(size, advance=windows["advance"] / 1000, grace=grace)
        case "sliding":
            return sliding(size, grace=grace)
    return session(size, grace=grace)


def _aggregate(op: str, of: Any, step: Step, store: dict[str, str]) -> Any:
    if type(of).__name__ == "GroupedTable":
        if op == "count":
            return of.count(**store)
        if op == "reduce":
            return of.reduce(lambda one, two: add(None, two, one), subtract)
        return of.aggregate(lambda: "", add, lambda key, value, aggregate: subtract(aggregate, value))
    if "windows" in step:
        of = of.windowed_by(_windows(step["windows"]))
        if "emit" in step:
            of = of.emit_strategy("on_window_close")
    if op == "count":
        return of.count(**store)
    if op == "reduce":
        return of.reduce(lambda one, two: add(None, two, one), **store)
    if "windows" in step:
        return of.aggregate(lambda: "", add, merger=lambda key, one, two: f"{one}&{two}", **store)
    return of.aggregate(lambda: "", add, **store)


def _cogroup(made: dict[str, Any], step: Step, store: dict[str, str]) -> Any:
    cogrouped: Any = None
    for index, name in enumerate(step["of"]):

        def aggregator(key: Any, value: Any, aggregate: Any, mark: str = f"{index}:") -> str:
            return add(key, mark + _java(value), aggregate)

        grouped = made[name]
        cogrouped = grouped.cogroup(aggregator) if cogrouped is None else cogrouped.cogroup(grouped, aggregator)
    if "windows" in step:
        cogrouped = cogrouped.windowed_by(_windows(step["windows"]))
        return cogrouped.aggregate(lambda: "", merger=lambda key, one, two: f"{one}&{two}")
    return cogrouped.aggregate(lambda: "", **store)


def _join(of: Any, other: Any, step: Step, store: dict[str, str]) -> Any:
    kind = {"inner": of.join, "left": getattr(of, "left_join", None), "outer": getattr(of, "outer_join", None)}[
        step["kind"]
    ]
    if "foreign" in step:
        return kind(other, join, foreign_key=lambda value: change(step["foreign"], None, value), **store)
    if type(of).__name__ == "Table":
        return kind(other, join, **store)
    if type(other).__name__ == "GlobalTable":
        return kind(other, join, key=lambda key, value: change(step["fn"], key, value))
    if type(other).__name__ == "Table":
        return kind(other, join, **({"name": step["as"]} if "as" in step else {}))
    seconds = {name: step[name] / 1000 for name in ("within", "grace", "before", "after") if name in step}
    return kind(other, join, **seconds, **({"name": step["as"], "store": step["as"]} if "as" in step else {}))


# Inputs.


def inputs(
    seed: int,
    topics: list[str],
    count: int = 60,
    *,
    late: int = 12_000,
    step: int = 2_500,
    keys: str = "abcd",
    nulls: bool = True,
    advance: bool = False,
) -> list[list[Any]]:
    """Return records [topic, key, value, timestamp, headers], or ["$advance", ms]."""
    dice = random.Random(seed)
    now = 0
    found: list[list[Any]] = []
    for index in range(count):
        now += dice.choice([0, 0, 1, step // 3, step, step, 2 * step])
        if dice.random() < 0.03:
            now += 40_000
        timestamp = max(0, now - dice.choice([0, 0, 0, 1, late // 4, late // 2, late, 2 * late]))
        key = None if nulls and dice.random() < 0.06 else dice.choice(keys)
        value = (
            None
            if nulls and dice.random() < 0.1
            else " ".join(dice.choices(["x", "yy", "zzz", "long", "w"], k=dice.randint(1, 2)))
        )
        headers = [["n", str(index)]] if dice.random() < 0.3 else []
        found.append([dice.choice(topics), key, value, timestamp, headers])
        if advance and dice.random() < 0.3:
            found.append(["$advance", dice.choice([500, 1_000, 7_000])])
    return found


def _source(topic: str = "in", name: str = "s", op: str = "stream") -> Step:
    return {"op": op, "id": name, "topic": topic}


def _out(of: str = "o", topic: str = "out") -> Step:
    return {"op": "to", "of": of, "topic": topic}


def _chain(*steps: Step, source: Step | None = None) -> list[Step]:
    """Steps of which each works on the one before; the last goes to "out"."""
    made = [source or _source()]
    for index, step in enumerate(steps):
        made.append({**step, "id": f"c{index}", "of": made[-1]["id"]})
    return [*made, _out(made[-1]["id"])]


def _windowed(op: str, windows: Step, **more: Any) -> list[Step]:
    return _chain({"op": "group_by_key"}, {"op": op, "windows": windows, **more}, {"op": "to_stream"})


def _all() -> Iterator[tuple[str, list[Step], list[str], dict[str, Any]]]:
    """Yield (name, steps, input topics, how inputs differ)."""
    one = ["in"]
    # Stateless.
    yield "pass_through", _chain(), one, {}
    yield "filter", _chain({"op": "filter", "fn": "long"}), one, {}
    yield "filter_named", _chain({"op": "filter", "fn": "long", "as": "keep-long"}), one, {}
    yield "filter_not", _chain({"op": "filter_not", "fn": "long"}), one, {}
    yield "map", _chain({"op": "map", "fn": "swap"}), one, {}
    yield "map_values", _chain({"op": "map_values", "fn": "upper"}), one, {}
    yield "map_values_with_key", _chain({"op": "map_values", "fn": "with_key", "as": "told"}), one, {}
    yield "flat_map", _chain({"op": "flat_map"}), one, {}
    yield "flat_map_values", _chain({"op": "flat_map_values"}), one, {}
    yield "select_key", _chain({"op": "select_key", "fn": "first"}), one, {}
    yield "peek", _chain({"op": "peek"}, {"op": "map_values", "fn": "text"}), one, {}
    yield "foreach_beside_to", [_source(), {"op": "foreach", "of": "s"}, _out("s")], one, {}
    yield (
        "merge",
        [_source("in"), _source("in2", "t"), {"op": "merge", "id": "m", "of": "s", "other": "t"}, _out("m")],
        ["in", "in2"],
        {},
    )
    yield (
        "merge_with_itself",
        [
            _source(),
            {"op": "map_values", "id": "u", "of": "s", "fn": "upper"},
            {"op": "merge", "id": "m", "of": "s", "other": "u"},
            _out("m"),
        ],
        one,
        {},
    )
    branches: Step = {"op": "split", "id": "b", "of": "s", "branches": [["long"], ["key_a"]], "default": True}
    yield "split", [_source(), branches, _out("b0", "out0"), _out("b1", "out1"), _out("b2", "out2")], one, {}
    named: Step = {"op": "split", "id": "b", "of": "s", "as": "by-", "branches": [["key_a", "a"], ["long", "long"]]}
    yield "split_named", [_source(), named, _out("b0", "out0"), _out("b1", "out1")], one, {}
    yield "repartition", _chain({"op": "repartition"}, {"op": "map_values", "fn": "upper"}), one, {}
    yield (
        "repartition_named",
        _chain({"op": "select_key", "fn": "first"}, {"op": "repartition", "as": "by-first"}),
        one,
        {},
    )
    yield (
        "one_source_read_twice",
        [_source("in", "s"), _source("in", "t"), _out("s", "out"), _out("t", "out2")],
        one,
        {},
    )
    yield (
        "diamond",
        [
            _source(),
            {"op": "filter", "id": "f", "of": "s", "fn": "has_value"},
            {"op": "map_values", "id": "l", "of": "f", "fn": "upper"},
            {"op": "map_values", "id": "r", "of": "f", "fn": "with_key"},
            {"op": "merge", "id": "m", "of": "l", "other": "r"},
            _out("m"),
        ],
        one,
        {},
    )
    # Aggregations.
    for op in ("count", "reduce", "aggregate"):
        yield f"{op}_by_key", _chain({"op": "group_by_key"}, {"op": op}, {"op": "to_stream"}), one, {}
        yield f"{op}_by_other_key", _chain({"op": "group_by", "fn": "first"}, {"op": op}, {"op": "to_stream"}), one, {}
        yield (
            f"{op}_in_named_store",
            _chain({"op": "group_by_key"}, {"op": op, "store": "kept"}, {"op": "to_stream"}),
            one,
            {},
        )
    yield (
        "word_count",
        _chain(
            {"op": "flat_map_values"},
            {"op": "group_by", "fn": "with_key", "as": "words"},
            {"op": "count", "store": "counts"},
            {"op": "to_stream"},
        ),
        one,
        {},
    )
    yield (
        "group_by_key_after_map",
        _chain({"op": "map", "fn": "first"}, {"op": "group_by_key"}, {"op": "count"}, {"op": "to_stream"}),
        one,
        {},
    )
    yield (
        "group_by_key_after_map_named",
        _chain(
            {"op": "map", "fn": "first"}, {"op": "group_by_key", "as": "grouped"}, {"op": "count"}, {"op": "to_stream"}
        ),
        one,
        {},
    )
    yield (
        "two_aggregates_of_one_group",
        [
            _source(),
            {"op": "group_by", "id": "g", "of": "s", "fn": "first", "as": "by-first"},
            {"op": "count", "id": "c", "of": "g"},
            {"op": "reduce", "id": "r", "of": "g"},
            {"op": "to_stream", "id": "cs", "of": "c"},
            {"op": "to_stream", "id": "rs", "of": "r"},
            _out("cs", "out"),
            _out("rs", "out2"),
        ],
        one,
        {},
    )
    yield (
        "cogroup",
        [
            _source("in", "s"),
            _source("in2", "t"),
            {"op": "group_by_key", "id": "g", "of": "s"},
            {"op": "group_by_key", "id": "h", "of": "t"},
            {"op": "cogroup", "id": "c", "of": ["g", "h"]},
            {"op": "to_stream", "id": "cs", "of": "c"},
            _out("cs"),
        ],
        ["in", "in2"],
        {},
    )
    yield (
        "cogroup_in_named_store",
        [
            _source("in", "s"),
            _source("in2", "t"),
            {"op": "group_by_key", "id": "g", "of": "s"},
            {"op": "group_by_key", "id": "h", "of": "t"},
            {"op": "cogroup", "id": "c", "of": ["g", "h"], "store": "kept"},
            {"op": "to_stream", "id": "cs", "of": "c"},
            _out("cs"),
        ],
        ["in", "in2"],
        {},
    )
    for kind, windows in WINDOWS.items():
        if kind in ("tumbling_grace", "session_grace", "sliding_grace"):
            yield (
                f"cogroup_{kind}",
                [
                    _source("in", "s"),
                    _source("in2", "t"),
                    {"op": "group_by_key", "id": "g", "of": "s"},
                    {"op": "group_by_key", "id": "h", "of": "t"},
                    {"op": "cogroup", "id": "c", "of": ["g", "h"], "windows": windows},
                    {"op": "to_stream", "id": "cs", "of": "c"},
                    _out("cs"),
                ],
                ["in", "in2"],
                {},
            )
    # Tables.
    table = _source(op="table")
    yield "table", _chain({"op": "to_stream"}, source=table), one, {}
    yield "table_in_named_store", _chain({"op": "to_stream"}, source={**table, "store": "kept"}), one, {}
    yield "table_filter", _chain({"op": "filter", "fn": "long"}, {"op": "to_stream"}, source=table), one, {}
    yield "table_filter_not", _chain({"op": "filter_not", "fn": "long"}, {"op": "to_stream"}, source=table), one, {}
    yield (
        "table_filter_in_named_store",
        _chain({"op": "filter", "fn": "long", "store": "kept"}, {"op": "to_stream"}, source=table),
        one,
        {},
    )
    yield "table_map_values", _chain({"op": "map_values", "fn": "upper"}, {"op": "to_stream"}, source=table), one, {}
    yield (
        "table_map_values_in_named_store",
        _chain({"op": "map_values", "fn": "null_x", "store": "kept"}, {"op": "to_stream"}, source=table),
        one,
        {},
    )
    yield (
        "table_filter_of_map",
        _chain({"op": "map_values", "fn": "upper"}, {"op": "filter", "fn": "long"}, {"op": "to_stream"}, source=table),
        one,
        {},
    )
    yield "to_table", _chain({"op": "to_table"}, {"op": "to_stream"}), one, {}
    yield "to_table_in_named_store", _chain({"op": "to_table", "store": "kept"}, {"op": "to_stream"}), one, {}
    yield "to_table_after_map", _chain({"op": "map", "fn": "first"}, {"op": "to_table"}, {"op": "to_stream"}), one, {}
    yield (
        "count_filter",
        _chain({"op": "group_by_key"}, {"op": "count"}, {"op": "filter", "fn": "even"}, {"op": "to_stream"}),
        one,
        {},
    )
    for op in ("count", "reduce", "aggregate"):
        yield (
            f"table_group_by_{op}",
            _chain({"op": "group_by", "fn": "first"}, {"op": op}, {"op": "to_stream"}, source=table),
            one,
            {},
        )
    yield (
        "table_group_by_constant",
        _chain(
            {"op": "group_by", "fn": "constant"}, {"op": "count", "store": "kept"}, {"op": "to_stream"}, source=table
        ),
        one,
        {},
    )
    yield (
        "table_filter_group_by",
        _chain(
            {"op": "filter", "fn": "long"},
            {"op": "group_by", "fn": "first"},
            {"op": "aggregate"},
            {"op": "to_stream"},
            source=table,
        ),
        one,
        {},
    )
    yield (
        "table_map_group_by",
        _chain(
            {"op": "map_values", "fn": "upper"},
            {"op": "group_by", "fn": "first"},
            {"op": "reduce"},
            {"op": "to_stream"},
            source=table,
        ),
        one,
        {},
    )
    yield (
        "count_of_counts",
        _chain(
            {"op": "group_by_key"},
            {"op": "count"},
            {"op": "map_values", "fn": "text"},
            {"op": "group_by", "fn": "first"},
            {"op": "count"},
            {"op": "to_stream"},
        ),
        one,
        {},
    )
    # Windows.
    for kind, windows in WINDOWS.items():
        for op in ("count", "reduce", "aggregate"):
            yield f"{op}_{kind}", _windowed(op, windows), one, {}
        yield f"count_{kind}_close", _windowed("count", windows, emit="close"), one, {}
    yield "count_tumbling_in_named_store", _windowed("count", WINDOWS["tumbling"], store="kept"), one, {}
    yield (
        "windowed_keys_mapped",
        _chain(
            {"op": "group_by_key"},
            {"op": "count", "windows": WINDOWS["tumbling"]},
            {"op": "to_stream"},
            {"op": "map", "fn": "window_key"},
        ),
        one,
        {},
    )
    yield (
        "windowed_after_group_by",
        _chain({"op": "group_by", "fn": "first"}, {"op": "count", "windows": WINDOWS["hopping"]}, {"op": "to_stream"}),
        one,
        {},
    )


WINDOWS: dict[str, Step] = {
    "tumbling": {"type": "tumbling", "size": 10_000},
    "tumbling_grace": {"type": "tumbling", "size": 10_000, "grace": 6_000},
    "hopping": {"type": "hopping", "size": 12_000, "advance": 5_000},
    "hopping_grace": {"type": "hopping", "size": 12_000, "advance": 4_000, "grace": 10_000},
    "sliding": {"type": "sliding", "size": 8_000},
    "sliding_grace": {"type": "sliding", "size": 8_000, "grace": 9_000},
    "session": {"type": "session", "size": 5_000},
    "session_grace": {"type": "session", "size": 4_000, "grace": 9_000},
}


def topologies() -> list[Step]:
    """Return all, with their inputs, as Parity.java reads them."""
    return [
        {"name": name, "steps": steps, "inputs": inputs(number, topics, **how)}
        for number, (name, steps, topics, how) in enumerate(_all())
    ]
