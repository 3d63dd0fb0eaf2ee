"""The test driver, and operators through it: what a newcomer tries first."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ottla.client.errors import ConfigurationError
from ottla.streams import (
    App,
    DeadLetter,
    RecordError,
    Retry,
    StreamsError,
    TopologyError,
    Window,
    Windowed,
    hopping,
    session,
    sliding,
    tumbling,
)
from ottla.streams.errors import MutationError


@dataclass
class Order:
    country: str
    amount: int


def test_orders_by_country_over_windows() -> None:
    app = App("orders-by-country")
    orders = app.stream("orders", key=str, value=Order)
    large = orders.filter(lambda key, order: order.amount > 100)
    counts = (
        large.group_by(lambda key, order: order.country)
        .windowed_by(tumbling("30s", grace="5s"))
        .count(store="by-country")
    )
    counts.to_stream().to("counts")

    with app.test() as driver:
        driver.topic("orders").pipe("anna", Order("NL", 200), at="10:00:01")
        driver.topic("orders").pipe("bert", Order("NL", 50), at="10:00:02")
        driver.topic("orders").pipe("carl", Order("NL", 300), at="10:00:29")
        start = driver.now + 10 * 3600 * 1000
        window = Windowed("NL", Window(start, start + 30_000))

        assert driver.topic("counts").read() == [(window, 1), (window, 2)]
        assert driver.store("by-country")[window] == 2


def test_partitions_keep_keys_apart() -> None:
    app = App("words")
    counts = (
        app.stream("lines", value=str).flat_map_values(str.split).group_by(lambda key, word: word).count(store="counts")
    )
    counts.to_stream().to("counts")

    with app.test(partitions=4) as driver:
        for _ in range(3):
            driver.topic("lines").pipe(b"k", "to be or not to be")

        assert dict(driver.store("counts").items()) == {"to": 6, "be": 6, "or": 3, "not": 3}
        assert len(driver.tasks) == 8


def test_unknown_topic_is_named() -> None:
    app = App("a")
    app.stream("in").to("out")

    with app.test() as driver, pytest.raises(Exception, match="does not read typo; it reads in"):
        driver.topic("typo").pipe(b"k", b"v")


def test_app_without_sources_is_refused() -> None:
    with pytest.raises(TopologyError, match="reads no topic"):
        App("a").topology()


def test_joined_topics_with_different_counts_are_named() -> None:
    app = App("a")
    left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
    left.group_by_key().cogroup(lambda key, value, found: found + value).cogroup(
        right.group_by_key(), lambda key, value, found: found + value
    ).aggregate(lambda: "")

    with pytest.raises(TopologyError, match=r"left has 3, right has 4; put \.repartition\(partitions=4\)"):
        app.topology().partition_counts({"left": 3, "right": 4})


def test_same_key_any_field_order() -> None:
    """Equal keys are written alike, whatever order their fields were given in; NaN is refused."""
    app = App("a")
    app.stream("in", key="json", value=str).group_by_key().count().to_stream().to("out")

    with app.test() as driver:
        driver.topic("in").pipe({"a": 1, "b": 2}, "x")
        driver.topic("in").pipe({"b": 2, "a": 1}, "x")

        assert driver.topic("out").read() == [({"a": 1, "b": 2}, 1), ({"a": 1, "b": 2}, 2)]
        with pytest.raises(ValueError, match="not JSON compliant"):
            driver.topic("in").pipe({"a": float("nan")}, "x")


def test_aggregate_mutates_in_place() -> None:
    """An aggregator that changes and returns its aggregate spoils neither the store nor the old value that is
    subtracted."""
    app = App("a", default_value="json")

    def collect(key: str, value: str, found: list[str]) -> list[str]:
        found.append(value)
        return found

    lists = app.stream("in", key=str, value=str).group_by_key().aggregate(list, collect, store="lists")
    sizes = lists.group_by(lambda key, found: ("sizes", len(found)))
    sizes.reduce(lambda one, two: one + two, lambda one, two: one - two, store="sum").to_stream().to("sum")

    with app.test() as driver:
        for key, value in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3")]:
            driver.topic("in").pipe(key, value)

        assert driver.store("lists")["a"] == ["1", "2", "3"]
        assert driver.store("sum")["sizes"] == 4


def test_branch_that_changes_what_others_see_is_found() -> None:
    app = App("a")
    values = app.stream("in", key=str, value="json")
    values.map_values(lambda value: value.update(seen=True) or value).to("one")
    values.to("two")

    with app.test() as driver, pytest.raises(MutationError, match="was changed there"):
        driver.topic("in").pipe("k", {"a": 1})


def test_retry_after_count() -> None:
    """A retry runs the failing operator alone: what counted before it counts once."""
    tries: list[int] = []

    def flaky(count: int) -> int:
        tries.append(count)
        if len(tries) < 3:
            raise OSError("not yet")
        return count * 10

    app = App("a", on_processing_error=Retry(["1s", "5s"]))
    app.stream("in", key=str, value=str).group_by_key().count(store="counts").to_stream().map_values(
        flaky, value=int
    ).to("out")

    with app.test() as driver:
        before = driver.now
        driver.topic("in").pipe("k", "v")

        assert driver.topic("out").read() == [("k", 10)]
        assert driver.store("counts")["k"] == 1
        assert tries == [1, 1, 1]
        assert driver.now - before == 6_000


def test_operator_that_fails_is_named_with_the_record() -> None:
    app = App("a")
    app.stream("in", key=str, value=int).map_values(lambda value: 1 // value, name="divide").to("out")

    with app.test() as driver:
        driver.topic("in").pipe("k", 1)
        with pytest.raises(RecordError, match="divide failed on the record at in-0, offset 1,") as raised:
            driver.topic("in").pipe("k", 0)

    assert raised.value.operator == "divide"


def test_handler_of_one_operator_goes_before_that_of_the_app() -> None:
    app = App("a", on_processing_error="fail")
    app.stream("in", key=str, value=int).map_values(lambda value: 1 // value, on_error=DeadLetter("dead")).to("out")

    with app.test() as driver:
        driver.topic("in").pipe("k", 0)
        (letter,) = driver.topic("dead").raw()

        assert letter.value == bytes(8)
        assert dict(letter.headers)["__streams.errors.exception"] == b"builtins.ZeroDivisionError"
        assert driver.topic("out").read() == []


@pytest.mark.parametrize(
    ("windows", "last_in_time"),
    [
        (tumbling("10s", grace="2s"), 32_000),
        (hopping("10s", advance="10s", grace="2s"), 32_000),
        (sliding("10s", grace="2s"), 23_001),
        (session("10s", grace="2s"), 33_001),
    ],
)
def test_lateness_edges(windows: object, last_in_time: int) -> None:
    """A record of time 21,000 counts until stream time reaches the edge, and no longer."""
    for stream_time, counted in ((last_in_time - 1, True), (last_in_time, False)):
        app = App("a")
        counts = app.stream("in", key=str, value=str).group_by_key().windowed_by(windows).count(store="c")  # type: ignore[arg-type]
        counts.to_stream().to("out")
        with app.test(at=0) as driver:
            driver.topic("in").pipe("other", "x", at=stream_time)
            driver.topic("out").read()
            driver.topic("in").pipe("late", "x", at=21_000)

            assert bool(driver.topic("out").read()) is counted, (windows, stream_time)


def test_record_without_key_does_not_advance_stream_time() -> None:
    app = App("a")
    app.stream("in", key=str, value=str).group_by_key().windowed_by(tumbling("10s")).count().to_stream().to("out")

    with app.test(at=0) as driver:
        driver.topic("in").pipe(None, "x", at=100_000)
        driver.topic("in").pipe("k", "x", at=0)

        assert [value for _, value in driver.topic("out").read()] == [1]


def test_emit_on_close_emits_each_window_once() -> None:
    app = App("a")
    grouped = app.stream("in", key=str, value=str).group_by_key().windowed_by(tumbling("10s", grace="1s"))
    grouped.emit_strategy("on_window_close").count().to_stream().to("out")

    with app.test(at=0) as driver:
        for at in (1_000, 2_000, 10_500, 9_000, 11_000, 12_000):
            driver.topic("in").pipe("k", "x", at=at)

        assert driver.topic("out").read() == [(Windowed("k", Window(0, 10_000)), 3)]


def test_picture_names_topics_and_stores() -> None:
    app = App("a")
    app.stream("in", key=str).group_by_key().count(store="counts").to_stream().to("out")

    picture = app.describe().mermaid()

    assert picture.startswith("flowchart TD\n")
    assert '[("in")]' in picture
    assert '[/"counts"/]' in picture
    assert "<svg" in app.describe()._repr_html_()


def test_inserted_operator_renumbers() -> None:
    """A counted name changes when an operator comes before it, and `check()` tells of it; a name of one's own stays."""

    def make(*, inserted: bool, store: str | None) -> App:
        app = App("a")
        words = app.stream("in", key=str, value=str)
        if inserted:
            words = words.filter(lambda key, value: True)
        words.group_by(lambda key, value: value, name=store and "by-word").count(store=store).to_stream().to("out")
        return app

    def changelogs(app: App) -> list[str]:
        return [topic for sub in app.topology().sub_topologies for topic in sub.changelogs]

    assert changelogs(make(inserted=False, store=None)) != changelogs(make(inserted=True, store=None))
    assert [sentence.split(" has ")[0] for sentence in make(inserted=False, store=None).check()] == [
        "The store KSTREAM-AGGREGATE-STATE-STORE-0000000002",
        "The repartition topic a-KSTREAM-AGGREGATE-STATE-STORE-0000000002-repartition",
    ]
    assert changelogs(make(inserted=False, store="c")) == changelogs(make(inserted=True, store="c"))
    assert make(inserted=True, store="c").check() == []


def test_examples_of_the_documentation_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    assert len(examples) >= 4
    for example in examples:
        module = ModuleType("docs_streams")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(example, "docs/streams.md", "exec"), module.__dict__)


def test_key_that_cannot_be_written_is_told_with_its_record() -> None:
    app = App("a")
    words = app.stream("in", key=str, value=str).map(lambda key, value: (len(value), value))
    words.group_by_key().count(store="c")

    with app.test() as driver, pytest.raises(RecordError, match=r"record at in-0, offset 0.*text is needed, not int"):
        driver.topic("in").pipe("k", "value")


def test_a_record_error_names_the_line_of_the_function_that_raised() -> None:
    app = App("a")
    app.stream("in", value=str).map_values(lambda value: json.loads(value)).to("out")
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]

    with app.test() as driver, pytest.raises(RecordError, match=rf"test_driver\.py:{line}\)"):
        driver.topic("in").pipe(None, "{")


@pytest.mark.parametrize(
    "write",
    [
        lambda words: words.map_values(3),
        lambda words: words.filter("x"),
        lambda words: words.peek(None),
        lambda words: words.to_table().filter(1),
        lambda words: words.join(words, "x", within="1s"),
        lambda words: words.group_by("x"),
        lambda words: words.group_by_key().reduce("sum"),
        lambda words: words.group_by_key().aggregate(0, lambda key, value, total: total + 1),
        lambda words: words.group_by_key().windowed_by(tumbling("1s")).aggregate(dict, "x"),
        lambda words: words.to(""),
        lambda words: words.to("a/b"),
        lambda words: DeadLetter(""),
        lambda words: Retry(["1 parsec"]),
        lambda words: Retry("1s"),
        lambda words: Retry([1, -1]),
    ],
)
def test_a_bad_value_is_refused_where_it_is_given(write: Callable[[Any], object]) -> None:
    words = App("a").stream("in", key=str, value=str)

    with pytest.raises((TopologyError, ConfigurationError)):
        write(words)


def test_what_a_test_asks_wrongly_is_told() -> None:
    app = App("a", on_processing_error=DeadLetter("dead"))
    app.stream("in", key=str, value=str).group_by_key().count(store="counts").to_stream().to("out")

    with app.test() as driver:
        assert driver.topic("out").read() == driver.topic("dead").read() == []
        with pytest.raises(StreamsError, match="does not write to uot; it writes to: a-counts-changelog, dead, out"):
            driver.topic("uot").read()
        with pytest.raises(KeyError, match="no store 'count'; there are: counts"):
            driver.store("count")
        with pytest.raises(ValueError, match="at='tomorrow' is no time"):
            driver.topic("in").pipe("k", "v", at="tomorrow")


def test_an_answer_to_a_row_that_has_changed_since_is_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    """The row has asked again."""
    app = App("a", default_value=str)
    left, right = app.table("left", key=str, value=str), app.table("right", key=str, value=str)
    left.join(right, lambda one, other: one + other, foreign_key=lambda value: value[0]).to_stream().to("out")

    with app.test() as driver:
        driver.topic("right").pipe("A", "!")
        driver.topic("left").pipe_many([("k", "A1"), ("k", "A2")])
        assert driver.topic("out").read() == [("k", "A2!")]
        assert not caplog.records


def test_records_that_are_passed_over_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    app = App("a", on_processing_error="skip")
    app.stream("in", key=str, value=str).map_values(int, name="parse").to("out")

    with app.test() as driver:
        for _ in range(3):
            driver.topic("in").pipe("k", "x")
        driver.advance("1m")
        driver.topic("in").pipe("k", "x")
        assert [record.getMessage().partition(" passed over ")[2] for record in caplog.records] == [
            "in-0, offset 0, as late, without a key, or failed (1 since the last such line)",
            "in-0, offset 3, as late, without a key, or failed (3 since the last such line)",
        ]
