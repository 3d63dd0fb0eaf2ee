"""Aggregates whose keys live for a time: `count(ttl=...)`, `reduce`, `aggregate`, `cogroup`."""

from __future__ import annotations

from typing import Any

import pytest

from ottla.streams import App, tumbling
from ottla.streams.driver import Driver
from ottla.streams.errors import TopologyError


def counting(**options: Any) -> App:
    """Counts each key, and how many keys have each count."""
    app = App("app", **options)
    counts = app.stream("in", key=str, value=str).group_by_key().count(store="counts", ttl="10s")
    counts.to_stream().to("out")
    counts.group_by(lambda key, count: (str(count), "x"), key=str, value=str).count(store="spread").to_stream().to(
        "spread"
    )
    return app


def pipe(driver: Driver, *rows: tuple[str, int]) -> list[tuple[str, Any, int]]:
    """Pipe keys at times; return what comes out as (key, value, time)."""
    for key, at in rows:
        driver.topic("in").pipe(key, "x", at=at)
    return [(each.key, each.value, each.timestamp) for each in driver.topic("out").records()]


def test_a_key_is_deleted_when_its_time_is_over_and_begins_anew() -> None:
    with counting().test(at=0) as driver:
        assert pipe(driver, ("a", 1_000), ("a", 2_000), ("b", 5_000)) == [
            ("a", 1, 1_000),
            ("a", 2, 2_000),
            ("b", 1, 5_000),
        ]
        assert pipe(driver, ("b", 11_999)) == [("b", 2, 11_999)]
        assert pipe(driver, ("b", 12_000)) == [("a", None, 12_000), ("b", 3, 12_000)]
        assert "a" not in driver.store("counts")
        assert pipe(driver, ("a", 12_500), ("c", 60_000)) == [
            ("a", 1, 12_500),
            ("b", None, 22_000),
            ("a", None, 22_500),
            ("c", 1, 60_000),
        ]
        assert dict(driver.store("counts").items()) == {"c": 1}


def test_tables_behind_it_hear_of_a_deletion() -> None:
    with counting().test(at=0) as driver:
        pipe(driver, ("a", 1_000), ("b", 2_000), ("b", 3_000))
        assert dict(driver.store("spread").items()) == {"1": 1, "2": 1}
        pipe(driver, ("c", 11_500))
        assert dict(driver.store("spread").items()) == {"1": 1, "2": 1}
        pipe(driver, ("c", 13_000))
        assert dict(driver.store("spread").items()) == {"1": 0, "2": 1}


def test_a_record_that_comes_too_late_for_its_key_is_passed_over() -> None:
    with counting().test(at=0) as driver:
        pipe(driver, ("a", 20_000))
        assert pipe(driver, ("b", 10_000)) == []
        assert pipe(driver, ("b", 10_001)) == [("b", 1, 10_001)]
        assert pipe(driver, ("a", 3_000)) == [("a", 2, 20_000)], "its key is alive"


def test_what_comes_out_does_not_depend_on_commits() -> None:
    rows = [("a", 1_000), ("b", 8_000), ("a", 4_000), ("b", 14_500), ("c", 30_000), ("a", 21_000)]
    told = []
    for interval in (0, "5s", "1h"):
        with counting().test(at=0, commit_interval=interval) as driver:
            told.append([pipe(driver, row) for row in rows])
    assert told[0] == told[1] == told[2]
    assert told[0][-2] == [("b", None, 24_500), ("c", 1, 30_000)]


@pytest.mark.parametrize("lost_disk", [False, True])
def test_after_a_restart_keys_go_at_the_same_time(lost_disk: bool) -> None:
    with counting().test(at=0) as driver:
        pipe(driver, ("a", 1_000), ("b", 5_000), ("c", 11_500))
        driver.restart(lost_disk=lost_disk)
        assert pipe(driver, ("b", 1_400)) == [("b", 2, 5_000)]
        assert pipe(driver, ("c", 15_000)) == [("b", None, 15_000), ("c", 2, 15_000)]
        assert pipe(driver, ("d", 5_000)) == [], "too late, as before the restart"


def test_idle_advance_lets_keys_go() -> None:
    with counting(idle_advance="30s").test(at=0) as driver:
        pipe(driver, ("a", 1_000))
        driver.advance("29s")
        assert pipe(driver) == []
        driver.advance("2s")
        assert pipe(driver) == [("a", None, 11_000)]


def test_streams_join_what_is_alive() -> None:
    app = App("app")
    sums = app.stream("in", key=str, value=int).group_by_key().reduce(lambda one, two: one + two, store="s", ttl="10s")
    app.stream("asked", key=str, value=str).left_join(sums, lambda asked, found: str(found)).to("told")
    with app.test(at=0) as driver:
        driver.topic("in").pipe_many([("a", 1, 1_000), ("a", 2, 2_000), ("b", 5, 11_000)])
        driver.topic("asked").pipe("a", "?", at=3_000)
        driver.topic("in").pipe("b", 6, at=12_000)
        driver.topic("asked").pipe("a", "?", at=3_000)
        driver.topic("asked").pipe("b", "?", at=3_000)
        assert driver.topic("told").read() == [("a", "3"), ("a", "None"), ("b", "11")]


def test_an_aggregate_of_several_streams_has_one_time() -> None:
    app = App("app", idle_advance="30s")
    one, two = (app.stream(topic, key=str, value=str).group_by_key() for topic in ("in", "in2"))
    (
        one.cogroup(lambda key, value, so_far: so_far + value)
        .cogroup(two, lambda key, value, so_far: so_far + value.upper())
        .aggregate(lambda: "", value=str, store="s", ttl="10s")
        .to_stream()
        .to("out")
    )
    with app.test(at=0) as driver:
        driver.topic("in").pipe("a", "x", at=1_000)
        driver.topic("in2").pipe("a", "y", at=2_000)
        driver.topic("in2").pipe("b", "y", at=12_000)
        told = [(each.key, each.value, each.timestamp) for each in driver.topic("out").records()]
        assert told == [("a", "x", 1_000), ("a", "xY", 2_000), ("a", None, 12_000), ("b", "Y", 12_000)]
        driver.advance("30s")
        driver.topic("in").pipe("b", "z", at=41_000)
        told = [(each.key, each.value, each.timestamp) for each in driver.topic("out").records()]
        assert told == [("b", None, 22_000), ("b", "z", 41_000)], "time was moved on once, to 42,000: 41,000 is in time"


def test_what_cannot_be_kept_is_refused() -> None:
    grouped = App("app").stream("in").group_by_key()
    with pytest.raises(TopologyError, match="not both"):
        grouped.count(ttl="1s", history_retention="1s")
    with pytest.raises(ValueError, match="ttl"):
        grouped.count(ttl=0)

    def same(key: Any, value: Any, so_far: int) -> int:
        return so_far

    windowed = grouped.cogroup(same).windowed_by(tumbling("1s"))
    with pytest.raises(TopologyError, match="retention="):
        windowed.aggregate(lambda: 0, ttl="1s")


def test_an_order_has_the_count_of_its_time() -> None:
    """`history_retention` of an aggregate: streams join what it was then."""
    app = App("app")
    counts = app.stream("in", key=str, value=str).group_by_key().count(store="counts", history_retention="1m")
    app.stream("asked", key=str, value=str).join(counts, lambda asked, count: str(count)).to("told")
    with app.test(at=0) as driver:
        driver.topic("in").pipe_many([("a", "x", 1_000), ("a", "x", 5_000), ("a", "x", 20_000)])
        driver.topic("asked").pipe_many([("a", "?", 4_999), ("a", "?", 19_000), ("a", "?", 30_000)])
        assert driver.topic("told").read() == [("a", "1"), ("a", "2"), ("a", "3")]


def test_counts_of_a_table_whose_keys_come_and_go_are_those_of_the_keys_that_are_there() -> None:
    """The finding: at each return of a key the initializer's value was taken off, and the count sank below 0."""
    app = App("app")
    counts = app.stream("in", key=str, value=str).group_by_key().count(store="counts", ttl="10s")
    active = counts.group_by(lambda key, count: ("all", count), key=str, value=int).count(store="active")
    active.to_stream().to("out")
    with app.test(at=0) as driver:
        for day in range(5):
            for number, key in enumerate("abc"):
                driver.topic("in").pipe(key, "x", at=day * 20_000 + number)
            assert dict(driver.store("active").items()) == {"all": 3}
            assert len(dict(driver.store("counts").items())) == 3
