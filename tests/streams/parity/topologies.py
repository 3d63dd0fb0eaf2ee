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
        case "drop":
            return "drop" if value == "x" else value
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
            return app.table(step["topic"], key=str, value=str, **store, **_history(step))
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
            return _aggregate(op, of, step, {**store, **_history(step)})
        case "cogroup":
            return _cogroup(made, step, {**store, **_history(step)})
        case "to_stream":
            return of.to_stream()
        case "to_table":
            return of.to_table(**store, **_history(step))
        case "suppress":
            if "limit" in step:
                return of.suppress(until_time_limit=step["limit"] / 1000, max_records=step.get("records"))
            return of.suppress("until_window_closes")
        case "join":
            return _join(of, other, step, store)
        case "versions":
            app.add_store(step["store"], key=str, value=str, **_history(step))
            return of.process(lambda: Versions(step["store"]), stores=[step["store"]])
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


class Versions:
    """Writes each value as a version, and tells what was written and what was valid at several times."""

    def __init__(self, store: str) -> None:
        self._name = store

    def init(self, context: Any) -> None:
        self._context = context
        self._store = context.store(self._name)

    def process(self, record: Record) -> None:
        if record.key is None:
            return
        when = record.timestamp
        done = self._store.put(record.key, record.value, when)
        until = -1 if done.until is None else done.until
        told = [str(until) if done.stored else "late", self._told(self._store.get_timed(record.key))]
        told += [
            "-" if when < back else self._told(self._store.get_timed(record.key, when - back))
            for back in (-4_000, -1, 0, 1, 3_000, 9_000, 21_000, 48_000, 70_000, 130_000)
        ]
        if record.value == "drop":
            before = self._store.get_timed(record.key, when + 500)
            assert self._store.delete(record.key, when + 500) == (None if before is None else before[0])
            told.append(self._told(before))
        self._context.forward(record._replace(value=" ".join(told)))

    @staticmethod
    def _told(found: tuple[Any, int] | None) -> str:
        return "none" if found is None else f"{found[0]}@{found[1]}"


def _history(step: Step) -> dict[str, float]:
    return {"history_retention": step["history"] / 1000} if "history" in step else {}


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


def _aggregate(op: str, of: Any, step: Step, store: dict[str, Any]) -> Any:
    if type(of).__name__ == "GroupedTable":
        if op == "count":
            return of.count(**store)
        if op == "reduce":
            return of.reduce(lambda one, two: add(None, two, one), subtract, **store)
        return of.aggregate(lambda: "", add, lambda key, value, aggregate: subtract(aggregate, value), **store)
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


def _cogroup(made: dict[str, Any], step: Step, store: dict[str, Any]) -> Any:
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
        grace = {"grace": step["grace"] / 1000} if "grace" in step else {}
        return kind(other, join, **grace, **({"name": step["as"]} if "as" in step else {}))
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

    yield from _joins()
    yield from _suppressed()
    for by in ("stream_time", "wall_clock"):
        yield f"process_{by}", _chain({"op": "process", "every": 5_000, "by": by}), one, {"advance": True}
    yield (
        "process_then_count",
        _chain(
            {"op": "process", "every": 7_000, "by": "stream_time"},
            {"op": "group_by_key"},
            {"op": "count"},
            {"op": "to_stream"},
        ),
        one,
        {},
    )
    yield "process_values", _chain({"op": "process_values", "fn": "upper"}), one, {}


def _two(left: str, right: str, *steps: Step) -> list[Step]:
    return [_source("left", "l", left), _source("right", "r", right), *steps]


def _joins() -> Iterator[tuple[str, list[Step], list[str], dict[str, Any]]]:
    both = ["left", "right"]
    window: Step = {"op": "join", "id": "j", "of": "l", "other": "r", "within": 5_000}
    for kind in ("inner", "left", "outer"):
        step = {**window, "kind": kind}
        yield f"stream_join_{kind}", _two("stream", "stream", step, _out("j")), both, {"step": 1_500}
        yield (
            f"stream_join_{kind}_grace",
            _two("stream", "stream", {**step, "grace": 8_000}, _out("j")),
            both,
            {"step": 1_500},
        )
        lopsided = {**step, "before": 1_000, "after": 9_000, "grace": 4_000}
        yield f"stream_join_{kind}_before_after", _two("stream", "stream", lopsided, _out("j")), both, {"step": 1_500}
        yield (
            f"stream_join_{kind}_after_map",
            _two(
                "stream",
                "stream",
                {"op": "map", "id": "lm", "of": "l", "fn": "first"},
                {"op": "map", "id": "rm", "of": "r", "fn": "first"},
                {**step, "of": "lm", "other": "rm"},
                _out("j"),
            ),
            both,
            {"step": 1_500},
        )
    yield "stream_join_named", _two("stream", "stream", {**window, "kind": "inner", "as": "pairs"}, _out("j")), both, {}
    yield (
        "stream_join_edge_of_retention",
        _two("stream", "stream", {**window, "kind": "inner", "within": 40_000, "grace": 10_000}, _out("j")),
        both,
        {"step": 20_000, "late": 60_000, "count": 150},
    )
    yield (
        "stream_join_counted",
        _two(
            "stream",
            "stream",
            {**window, "kind": "left"},
            {"op": "group_by_key", "id": "g", "of": "j"},
            {"op": "count", "id": "c", "of": "g"},
            {"op": "to_stream", "id": "o", "of": "c"},
            _out("o"),
        ),
        both,
        {"step": 1_500},
    )
    for kind in ("inner", "left"):
        step = {"op": "join", "id": "j", "of": "l", "other": "r", "kind": kind}
        yield f"stream_table_join_{kind}", _two("stream", "table", step, _out("j")), both, {}
        yield (
            f"stream_table_join_{kind}_after_map",
            _two("stream", "table", {"op": "map", "id": "m", "of": "l", "fn": "first"}, {**step, "of": "m"}, _out("j")),
            both,
            {"keys": "xyzl"},
        )
        yield (
            f"stream_global_join_{kind}",
            _two("stream", "global_table", {**step, "fn": "first"}, _out("j")),
            both,
            {"keys": "xyzl"},
        )
        yield (
            f"stream_global_join_{kind}_by_key",
            _two("stream", "global_table", {**step, "fn": "key"}, _out("j")),
            both,
            {},
        )
        foreign = {**step, "foreign": "first"}
        yield (
            f"foreign_key_join_{kind}",
            _two("table", "table", foreign, {"op": "to_stream", "id": "o", "of": "j"}, _out("o")),
            both,
            {"keys": "xyzl"},
        )
        yield (
            f"foreign_key_join_{kind}_in_named_store",
            _two("table", "table", {**foreign, "store": "kept"}, {"op": "to_stream", "id": "o", "of": "j"}, _out("o")),
            both,
            {"keys": "xyzl", "count": 150},
        )
    yield (
        "stream_table_join_named",
        _two(
            "stream",
            "table",
            {"op": "join", "id": "j", "of": "l", "other": "r", "kind": "inner", "as": "enriched"},
            _out("j"),
        ),
        both,
        {},
    )
    yield (
        "stream_joins_filtered_table",
        _two(
            "stream",
            "table",
            {"op": "filter", "id": "f", "of": "r", "fn": "long"},
            {"op": "map_values", "id": "m", "of": "f", "fn": "upper"},
            {"op": "join", "id": "j", "of": "l", "other": "m", "kind": "left"},
            _out("j"),
        ),
        both,
        {},
    )
    yield (
        "stream_joins_count",
        _two(
            "stream",
            "stream",
            {"op": "group_by_key", "id": "g", "of": "r"},
            {"op": "count", "id": "c", "of": "g"},
            {"op": "join", "id": "j", "of": "l", "other": "c", "kind": "inner"},
            _out("j"),
        ),
        both,
        {},
    )
    for kind in ("inner", "left", "outer"):
        step = {"op": "join", "id": "j", "of": "l", "other": "r", "kind": kind}
        end = [{"op": "to_stream", "id": "o", "of": "j"}, _out("o")]
        yield f"table_join_{kind}", _two("table", "table", step, *end), both, {}
        yield f"table_join_{kind}_in_named_store", _two("table", "table", {**step, "store": "kept"}, *end), both, {}
        yield (
            f"table_join_{kind}_filtered",
            _two(
                "table",
                "table",
                step,
                {"op": "filter", "id": "f", "of": "j", "fn": "no_x"},
                {"op": "to_stream", "id": "o", "of": "f"},
                _out("o"),
            ),
            both,
            {},
        )
        yield (
            f"table_join_{kind}_grouped",
            _two(
                "table",
                "table",
                step,
                {"op": "group_by", "id": "g", "of": "j", "fn": "first"},
                {"op": "aggregate", "id": "a", "of": "g"},
                {"op": "to_stream", "id": "o", "of": "a"},
                _out("o"),
            ),
            both,
            {},
        )
        yield (
            f"stream_joins_table_join_{kind}",
            [
                _source("left", "l", "table"),
                _source("right", "r", "table"),
                _source("in", "s"),
                step,
                {"op": "join", "id": "k", "of": "s", "other": "j", "kind": "inner"},
                _out("k"),
            ],
            [*both, "in"],
            {},
        )


def _suppressed() -> Iterator[tuple[str, list[Step], list[str], dict[str, Any]]]:
    one = ["in"]
    for kind, windows in WINDOWS.items():
        yield (
            f"suppress_{kind}",
            _chain(
                {"op": "group_by_key"}, {"op": "count", "windows": windows}, {"op": "suppress"}, {"op": "to_stream"}
            ),
            one,
            {"count": 90},
        )
    table = _source(op="table")
    for name, how in (
        ("limit", {"limit": 6_000}),
        ("limit_and_records", {"limit": 30_000, "records": 2}),
        ("at_once", {"limit": 0}),
    ):
        yield f"suppress_{name}", _chain({"op": "suppress", **how}, {"op": "to_stream"}, source=table), one, {}
        yield (
            f"suppress_count_{name}",
            _chain({"op": "group_by_key"}, {"op": "count"}, {"op": "suppress", **how}, {"op": "to_stream"}),
            one,
            {},
        )
    yield (
        "suppress_then_group",
        _chain(
            {"op": "suppress", "limit": 6_000},
            {"op": "group_by", "fn": "first"},
            {"op": "count"},
            {"op": "to_stream"},
            source=table,
        ),
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


def _versioned() -> Iterator[tuple[str, list[Step], list[str], dict[str, Any]]]:
    """Tables and stores with versions; the retention is sometimes shorter than records are late."""
    one, both = ["in"], ["left", "right"]
    many = {"count": 150, "keys": "abc"}
    for retention in (3_000, 20_000, 400_000):
        kept: Step = {"store": "kept", "history": retention}
        yield (
            f"versions_{retention}",
            _chain({"op": "versions", **kept}),
            one,
            {"count": 300, "keys": "ab", "step": 900},
        )
        dropped = [{"op": "map_values", "fn": "first"}, {"op": "map_values", "fn": "drop"}, {"op": "versions", **kept}]
        yield f"versions_{retention}_deleted", _chain(*dropped), one, {"count": 300, "keys": "ab", "step": 700}
        table = {"op": "table", "id": "s", "topic": "in", **kept}
        ends: list[Step] = [{"op": "to_stream"}]
        yield f"versioned_table_{retention}", _chain(*ends, source=table), one, many
        yield (
            f"versioned_table_{retention}_filter",
            _chain({"op": "filter", "fn": "no_x"}, *ends, source=table),
            one,
            many,
        )
        grouped: list[Step] = [{"op": "group_by", "fn": "first"}, {"op": "aggregate"}, *ends]
        yield f"versioned_table_{retention}_group_by", _chain(*grouped, source=table), one, many
        filtered: list[Step] = [{"op": "filter", "fn": "long"}, {"op": "map_values", "fn": "upper"}, *grouped]
        yield f"versioned_table_{retention}_filter_group_by", _chain(*filtered, source=table), one, many
        yield f"versioned_to_table_{retention}", _chain({"op": "to_table", **kept}, *ends), one, many
        left = {"op": "table", "id": "l", "topic": "left", "store": "kept-left", "history": retention}
        right = {"op": "table", "id": "r", "topic": "right", "store": "kept-right", "history": retention}
        plain: Step = {"op": "table", "id": "r", "topic": "right"}
        for kind in ("inner", "left", "outer"):
            join: Step = {"op": "join", "id": "j", "of": "l", "other": "r", "kind": kind}
            out: list[Step] = [{"op": "to_stream", "id": "o", "of": "j"}, _out("o")]
            yield f"versioned_join_{kind}_{retention}", [left, right, join, *out], both, many
            yield f"half_versioned_join_{kind}_{retention}", [left, plain, join, *out], both, many
            if kind == "outer":
                continue
            foreign: Step = {**join, "foreign": "first"}
            yield (
                f"versioned_foreign_key_join_{kind}_{retention}",
                [left, right, foreign, *out],
                both,
                {**many, "keys": "xyzlw"},
            )
            stream = _source("left", "l")
            yield f"stream_versioned_join_{kind}_{retention}", [stream, right, join, _out("j")], both, many
            derived: list[Step] = [
                {"op": "filter", "id": "f", "of": "r", "fn": "no_x"},
                {"op": "map_values", "id": "m", "of": "f", "fn": "upper"},
            ]
            through: Step = {**join, "other": "m"}
            yield (
                f"stream_versioned_derived_join_{kind}_{retention}",
                [stream, right, *derived, through, _out("j")],
                both,
                many,
            )
            # Java has a NullPointerException for a record without a key in a left join with grace.
            how = {**many, "nulls": kind == "inner"}
            for grace in (0, 2_000, 15_000):
                if grace > retention:
                    continue  # what waits could not be joined: both refuse it
                waits: Step = {**join, "grace": grace, "as": "waits"}
                name = f"stream_versioned_join_{kind}_{retention}_grace_{grace}"
                yield name, [stream, right, waits, _out("j")], both, how


def _versioned_aggregates() -> Iterator[tuple[str, list[Step], list[str], dict[str, Any]]]:
    """Aggregates with versions."""
    one, both = ["in"], ["left", "right"]
    many = {"count": 150, "keys": "abc"}
    for retention in (3_000, 20_000, 400_000):
        kept: Step = {"store": "kept", "history": retention}
        table = {"op": "table", "id": "s", "topic": "in", "store": "source", "history": retention}
        ends: list[Step] = [{"op": "to_stream"}]
        by_key: Step = {"op": "group_by_key"}
        for op in ("count", "reduce", "aggregate"):
            yield f"versioned_{op}_{retention}", _chain(by_key, {"op": op, **kept}, *ends), one, many
            regrouped: list[Step] = [{"op": "group_by", "fn": "first"}, {"op": op, **kept}, *ends]
            for origin, kind in ((_source(op="table"), "table"), (table, "versioned_table")):
                yield f"{kind}_group_by_versioned_{op}_{retention}", _chain(*regrouped, source=origin), one, many
        cogrouped: list[Step] = [
            _source("left", "s"),
            _source("right", "t"),
            {"op": "group_by_key", "id": "g", "of": "s"},
            {"op": "group_by_key", "id": "h", "of": "t"},
            {"op": "cogroup", "id": "c", "of": ["g", "h"], **kept},
            {"op": "to_stream", "id": "cs", "of": "c"},
            _out("cs"),
        ]
        yield f"versioned_cogroup_{retention}", cogrouped, both, many
        counted: list[Step] = [
            _source("left", "l"),
            _source("right", "s"),
            {"op": "group_by_key", "id": "g", "of": "s"},
            {"op": "reduce", "id": "r", "of": "g", **kept},
        ]
        joined: Step = {"op": "join", "id": "j", "of": "l", "other": "r", "kind": "inner"}
        yield f"stream_versioned_reduce_join_{retention}", [*counted, joined, _out("j")], both, many
        dropping: list[Step] = [by_key, {"op": "reduce", **kept}, {"op": "filter", "fn": "long"}, *ends]
        yield f"versioned_reduce_{retention}_filter", _chain(*dropping), one, many


#: Topologies of which the matrix of nulls, timestamps and headers is made: one for each operator.
MATRIX = (
    "filter", "filter_not", "map", "map_values", "flat_map", "flat_map_values", "select_key", "peek", "merge", "split",
    "repartition", "count_by_key", "reduce_by_key", "aggregate_by_key", "count_by_other_key", "cogroup", "table",
    "table_filter",
    "table_in_named_store", "table_filter_in_named_store", "table_map_values", "to_table", "to_table_in_named_store",
    "table_group_by_count", "table_group_by_reduce", "table_group_by_aggregate", "count_tumbling", "reduce_tumbling",
    "count_hopping",
    "count_sliding", "reduce_sliding", "count_session", "reduce_session", "count_tumbling_close", "count_sliding_close",
    "count_session_close", "stream_join_inner", "stream_join_left", "stream_join_outer", "stream_join_left_after_map",
    "stream_table_join_inner", "stream_table_join_left", "stream_table_join_left_after_map", "stream_global_join_inner",
    "stream_global_join_left", "table_join_inner", "table_join_left", "table_join_outer", "foreign_key_join_inner",
    "foreign_key_join_left", "suppress_tumbling", "suppress_limit", "process_stream_time", "process_values",
)  # fmt: skip


def matrix_inputs(topics: list[str]) -> list[list[Any]]:
    """Return every pair of a key or none and a value or none for each topic, in time and late; the last one closes all
    windows."""
    pairs = [("a", "x"), (None, "x"), ("a", None), (None, None), ("a", "yy w"), ("x", "a"), ("a", None), ("b", "zzz x")]
    found: list[list[Any]] = []
    for round_ in range(3):
        for index, (key, value) in enumerate(pairs):
            for number, topic in enumerate(topics):
                timestamp = 1_000 + round_ * 20_000 + (700 * index if round_ != 1 else 4_000 - 600 * index) + number
                found.append([topic, key, value, timestamp, [["n", f"{round_}{index}{number}"]]])
    return [*found, *([topic, "z", "end", 500_000, []] for topic in topics)]


def topologies() -> list[Step]:
    """Return all, with their inputs, as Parity.java reads them; those of the matrix are called "matrix <name>"."""
    # Their numbers are the seeds of their inputs: what is new comes last, with numbers of its own.
    every = [*enumerate(_all()), *enumerate(_versioned(), 152), *enumerate(_versioned_aggregates(), 400)]
    found = [
        {"name": name, "steps": steps, "inputs": inputs(number, topics, **how)}
        for number, (name, steps, topics, how) in every
    ]
    matrix = [
        {"name": f"matrix {name}", "steps": steps, "inputs": matrix_inputs(topics)}
        for _, (name, steps, topics, _) in every
        if name in MATRIX
    ]
    cached = [
        {
            "name": f"cached {name}",
            "steps": _in_words(steps),
            "inputs": inputs(number, topics, **{"count": 40, **how}),
            "cache": True,
        }
        for number, (name, steps, topics, how) in every
        if any(step["op"] in CACHED_OPS or "store" in step for step in steps)
        and "advance" not in how
        and not name.startswith(("version", "stream_version"))  # stores with versions have no cache
    ]
    return [*found, *matrix, *cached]


#: Operators whose stores have caches.
CACHED_OPS = ("count", "reduce", "aggregate", "cogroup", "to_table", "table")


def _in_words(steps: list[Step]) -> list[Step]:
    """Have every stream begin with the words of its values, so that a commit holds several updates of a key."""
    made: list[Step] = []
    for step in steps:
        if step["op"] != "stream":
            made.append(step)
            continue
        made.append({**step, "id": f"{step['id']}-read"})
        made.append({"op": "flat_map_values", "id": step["id"], "of": f"{step['id']}-read"})
    return made
