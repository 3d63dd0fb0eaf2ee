"""Operators over columns: what comes of a run is what comes of its records one by one, and what functions would say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from ottla.streams import App, DeadLetter, RecordError, TopologyError, col, count, hopping, lit, tumbling
from ottla.streams.context import Output
from ottla.streams.driver import Driver
from ottla.streams.times import is_times

CACHE = 10 << 20


@dataclass
class Tick:
    symbol: str
    price: float | None
    size: int


def ticks(seed: int, number: int = 200) -> list[tuple[Any, Any, int]]:
    """Rows with late ones, without a key, without a value, without a field, with values that raise."""
    dice = random.Random(seed)
    now, found = 0, []
    for _ in range(number):
        now += dice.choice([0, 1, 400, 3_000])
        row: dict[str, Any] | None = {
            "symbol": dice.choice("ABC"),
            "price": dice.choice([0.1, 0.2, 3.7, -0.0, 1e16]),
            "size": 3,
        }
        match dice.random():
            case p if p < 0.03:
                row = None
            case p if p < 0.06 and row is not None:
                row["price"] = None
            case p if p < 0.09 and row is not None:
                del row["symbol"]
            case p if p < 0.12 and row is not None:
                row["size"] = dice.choice(["three", 0, 1 << 62])
        key = None if dice.random() < 0.05 else dice.choice("ab")
        found.append((key, row, max(0, now - dice.choice([0, 0, 0, 2_000, 30_000]))))
    return found


def candles() -> App:
    app = App("a", on_processing_error=DeadLetter("dead"), on_production_error=DeadLetter("dead"))
    rows = app.stream("ticks", key=str, columns=True)
    rows = rows.filter((col("price") > 0) | col("price").is_null()).with_columns(total=col("price") * col("size") * 4)
    windowed = rows.group_by("symbol", name="by-symbol").windowed_by(tumbling("10s", grace="5s"))
    windowed.agg(
        col("price").mean(), col("price").min(), col("total").max(), col("total").sum(), count(), store="candles"
    ).to_stream().to("candles")
    return app


def by_key() -> App:
    app = App("a", on_processing_error="skip")
    rows = app.stream("ticks", key=str, columns=True).select("price", double=col("size") + col("size"))
    table = (
        rows.group_by_key()
        .windowed_by(hopping("10s", advance="4s"))
        .agg(n=count(), prices=col("price").count(), double=col("double").sum(), store="hops")
    )
    table.to_stream().to("out")
    return app


def branching() -> App:
    """Two operators behind one: from there on records go one by one, in their order."""
    app = App("a", on_processing_error=DeadLetter("out"))
    rows = app.stream("ticks", key=str, columns=True).with_columns(ratio=lit(1) / col("size"))
    rows.filter(col("symbol") == "A").to("out")
    rows.rows().map_values(lambda row: len(row)).to("out")
    return app


APPS = {"candles": candles, "by_key": by_key, "branching": branching}


class CuttingDriver(Driver):
    """Its runs have the lengths that `cuts` says, one after the other."""

    cuts: Callable[[], int]

    @property
    def run_length(self) -> int:
        return self.cuts()

    @run_length.setter
    def run_length(self, length: int) -> None:
        """Not here."""


def results(make: Callable[[], App], rows: list[tuple[Any, Any, int]], cuts: Callable[[], int], cache: int) -> Any:
    """Return what was written, by topic and partition, what the stores hold, and how far time has come, with a commit
    after the 100th record and at the end."""
    driver = CuttingDriver(make(), at=0, cache_max_bytes=cache, commit_interval="1h")
    driver.cuts = cuts
    with driver:
        for part in (rows[:100], rows[100:]):
            driver.topic("ticks").pipe_many(part)
            driver.commit()
        return comparable(driver), stored(driver), {str(id): task.progress() for id, task in driver.tasks.items()}


def comparable(driver: Driver) -> dict[tuple[str, int], list[Output]]:
    found: dict[tuple[str, int], list[Output]] = {}
    for topic, rows in driver._written.items():
        for output, partition in rows:
            if not is_times(output):
                # A dead letter has the stack of the call that failed, which is another one in a run.
                headers = tuple(header for header in output.headers if header[0] != "__streams.errors.stacktrace")
                found.setdefault((topic, partition), []).append(output._replace(headers=headers))
    return found


def stored(driver: Driver) -> dict[Any, list[tuple[bytes, bytes]]]:
    return {
        (task, name): list(store.range(b"", None))
        for task, all_of in driver._stores.items()
        for name, store in all_of.items()
    }


@pytest.mark.parametrize("cache", [0, CACHE])
@pytest.mark.parametrize("name", APPS)
def test_any_cut_of_the_input_gives_the_same_output(name: str, cache: int) -> None:
    """Runs of random lengths, of one record, and one run: outputs by partition, store bytes and stream times are equal."""
    for seed in range(2):
        rows, dice = ticks(seed), random.Random(seed)
        one_by_one = results(APPS[name], rows, lambda: 1, cache)
        assert sum(map(len, one_by_one[0].values())) > 20
        for lengths in ([1_000], [1, 2, 7, 30, 100]):
            assert results(APPS[name], rows, partial(dice.choice, lengths), cache) == one_by_one


def test_columns_equal_rows() -> None:
    """The same computation with functions, in plain Python, gives the same results, bit by bit."""
    rows = ticks(7)
    with candles().test(at=0, cache_max_bytes=CACHE, commit_interval="1h") as driver:
        driver.topic("ticks").pipe_many(rows)
        driver.commit()
        found = {(key.key, key.window.start): value for key, value in driver.topic("candles", value="json").read()}

    app = App("b", on_processing_error="skip")
    stream = app.stream("ticks", key=str, value="json").filter(lambda key, row: row is not None)

    def total(row: dict[str, Any]) -> dict[str, Any]:
        made = None if row["price"] is None else row["price"] * (row["size"] + 0) * 4
        return {**row, "total": made}

    def add(key: Any, row: dict[str, Any], so_far: list[Any]) -> list[Any]:
        return [*so_far, [row["price"], row["total"]]]

    kept = stream.filter(lambda key, row: row["price"] is None or row["price"] > 0).map_values(total)
    grouped = kept.group_by(lambda key, row: row.get("symbol"), value="json")
    lists = grouped.windowed_by(tumbling("10s", grace="5s")).aggregate(list, add, value="json", store="lists")
    lists.to_stream().to("lists")
    expected = {}
    with app.test(at=0) as driver:
        driver.topic("ticks").pipe_many(rows)
        for key, pairs in driver.topic("lists", value="json").read():
            prices = [price for price, _ in pairs if price is not None]
            totals = [each for _, each in pairs if each is not None]
            expected[key.key, key.window.start] = {
                "price_mean": left_to_right(prices) / len(prices) if prices else None,
                "price_min": min(prices, default=None),
                "total_max": max(totals, default=None),
                "total_sum": left_to_right(totals) if totals else None,
                "count": len(pairs),
            }
    assert found == expected
    assert len(found) > 20


def left_to_right(values: list[float]) -> float:
    found = values[0]
    for value in values[1:]:
        found = found + value
    return found


def test_a_row_that_raises_goes_to_its_handler_and_the_others_stand() -> None:
    app = App("a")
    rows = app.stream("in", key=str, columns=True).with_columns(half=lit(1) / col("n"), on_error=DeadLetter("dead"))
    rows.to("out")
    with app.test(commit_interval="1h") as driver:
        driver.topic("in").pipe_many([("k", {"n": n}) for n in (1, 0, 2)])
        assert [value["half"] for _, value in driver.topic("out", value="json").read()] == [1.0, 0.5]
        assert len(driver.topic("dead").raw()) == 1


def test_what_is_no_row_names_its_record() -> None:
    app = App("a")
    app.stream("in", key=str, columns=True).to("out")
    with app.test(commit_interval="1h") as driver:
        topic = driver.topic("in", value=bytes)
        for bad in (b"[1]", b"{", b'{"a":1},{"b":2}'):
            with pytest.raises(RecordError, match="offset"):
                topic.pipe_many([("k", b"{}"), ("k", bad)])


def test_integers_of_more_than_64_bits_are_an_error_and_what_is_not_there_stays_so() -> None:
    def value(expression: Any, **row: Any) -> Any:
        one = expression.for_row()(row)
        assert expression.for_columns()(lambda name: [row.get(name)] * 2, 2) == [one, one]
        return one

    a, b = col("a"), col("b")
    assert value(a + b, a=1, b=2.5) == 3.5
    assert value(a + b, a="x", b="y") == "xy"
    assert value(1 - a, a=3) == -2
    assert value(a * b, a=2) is None
    assert value((a > 1) & (b > 1), a=0) is False
    assert value((a > 1) | (b > 1), a=0) is None
    assert value(~(a == 1), a=1) is False
    assert value(a.fill_null(7)) == 7
    assert value(lit("x'\"\\")) == "x'\"\\"
    for expression in (a * a, a + a, a - (lit(-3) * a)):
        with pytest.raises(OverflowError):
            value(expression, a=1 << 62)
    for wrong in (a * 2, a - 1):
        with pytest.raises(TypeError):
            value(wrong, a="text")


def test_a_field_that_the_type_does_not_have_is_refused_when_the_app_is_written() -> None:
    rows = App("a").stream("ticks", key=str, value=Tick, columns=True)
    with pytest.raises(TopologyError, match="there is no field prcie; there are: price, size, symbol"):
        rows.filter(col("prcie") > 0)
    with pytest.raises(TopologyError, match="no field total"):
        rows.group_by_key().agg(col("total").sum())
    assert rows.with_columns(total=col("price") * 2).filter(col("total") > 1) is not None
    with pytest.raises(TypeError, match="takes expressions"):
        rows.filter(lambda key, row: True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs aggregations"):
        rows.group_by_key().agg()
    with pytest.raises(TypeError, match="write & for and"):
        rows.filter(col("price") > 0 and col("size") > 0)


def test_models_and_aggregates_without_windows() -> None:
    app = App("a")
    rows = app.stream("ticks", key=str, value=Tick, columns=True).filter(col("size") > 1)
    rows.group_by("symbol", name="by-symbol").agg(
        col("price").mean(), largest=col("size").max(), store="s"
    ).to_stream().to("out")
    with app.test() as driver:
        for price, size in ((1.0, 1), (2.0, 2), (4.0, 3)):
            driver.topic("ticks").pipe("k", Tick("A", price, size))
        found = [value for _, value in driver.topic("out", value="json").read()]
        assert found[-1] == {"price_mean": 3.0, "largest": 3}
