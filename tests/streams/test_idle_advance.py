"""Stream time that follows the wall clock while no records come: `App(idle_advance=...)`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.streams.runtime.model import World
from tests.streams.runtime.test_engine import Thread, found

from ottla.streams import App, session, sliding, tumbling
from ottla.streams.windows import AnyWindows


def app_of(windows: AnyWindows, how: str, idle_advance: Any = "30s") -> App:
    app = App("app", idle_advance=idle_advance)
    grouped = app.stream("in", key=str, value=str).group_by_key().windowed_by(windows)
    if how == "close":
        counts = grouped.emit_strategy("on_window_close").count(store="counts")
    else:
        counts = grouped.count(store="counts").suppress("until_window_closes", name="last")
    counts.to_stream(name="out").map(lambda key, count: (key.key, str(count))).to("out", key=str, value=str)
    return app


WINDOWS: dict[str, AnyWindows] = {
    "tumbling": tumbling("10s", grace="2s"),
    "sliding": sliding("10s", grace="2s"),
    "session": session("10s", grace="2s"),
}


@pytest.mark.parametrize("how", ["close", "suppress"])
@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_closes_without_another_record(kind: str, how: str) -> None:
    """1. nothing for less than the time that was said; 2. then the window closes, once; 3. what belongs to it is late, after
    a restart, too."""
    app = app_of(WINDOWS[kind], how)
    with app.test(at=0) as driver:
        driver.topic("in").pipe("a", "x", at=1_000)
        driver.advance("29s")
        assert driver.topic("out").read() == []
        driver.advance("2s")
        assert driver.topic("out").read() == [("a", "1")]
        driver.advance("1h")
        assert driver.topic("out").read() == []
        for lost_disk in (False, True):
            driver.restart(lost_disk=lost_disk)
            driver.topic("in").pipe("a", "late", at=1_001)
            driver.advance("1m")
            assert driver.topic("out").read() == []


def test_it_is_off_unless_it_is_asked_for() -> None:
    with app_of(WINDOWS["tumbling"], "close", None).test(at=0) as driver:
        driver.topic("in").pipe("a", "x", at=1_000)
        driver.advance("10h")
        assert driver.topic("out").read() == []


def test_a_record_ends_the_pause() -> None:
    """Stream time follows from the last record on, not from the first pause on."""
    with app_of(WINDOWS["tumbling"], "close").test(at=0) as driver:
        for second in (1, 2, 3):
            driver.topic("in").pipe("a", "x", at=second * 1_000)
            driver.advance("20s")
        assert driver.topic("out").read() == []
        driver.advance("10s")
        assert driver.topic("out").read() == [("a", "3")]


def test_a_task_that_never_had_a_record_has_no_time() -> None:
    app = app_of(WINDOWS["tumbling"], "close")
    with app.test(at=0, partitions=2) as driver:
        driver.advance("1h")
        assert {task.stream_time for task in driver.tasks.values()} == {-1}
        assert {task.next_punctuation_ms for task in driver.tasks.values()} == {None}


def test_joins_give_up_waiting() -> None:
    app = App("app", idle_advance="30s")
    left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
    left.left_join(right, lambda one, two: f"{one}+{two}", within="5s", grace="1s", name="pairs", store="pairs").to(
        "pairs"
    )
    table = app.table("table", key=str, value=str, store="table", history_retention="1m")
    app.stream("orders", key=str, value=str).join(table, lambda one, two: f"{one}@{two}", grace="5s", name="priced").to(
        "priced"
    )
    with app.test(at=0) as driver:
        driver.topic("left").pipe("a", "x", at=1_000)
        driver.topic("table").pipe("a", "1", at=500)
        driver.topic("orders").pipe("a", "o", at=1_000)
        driver.advance("31s")
        assert driver.topic("pairs").read() == [("a", "x+None")]
        assert driver.topic("priced").read() == [("a", "o@1")]
        driver.topic("orders").pipe("a", "late", at=1_000)
        assert driver.topic("priced").read() == [("a", "late@1")], "joined at once"


def test_schedules_by_stream_time_fire() -> None:
    class Tick:
        def init(self, context: Any) -> None:
            context.schedule("10s", lambda now: told.append(now), by="stream_time")

        def process(self, record: Any) -> None:
            pass

    told: list[int] = []
    app = App("app", idle_advance="30s")
    app.stream("in", key=str, value=str).process(Tick)
    with app.test(at=0) as driver:
        driver.topic("in").pipe("a", "x", at=1_000)
        assert told == [1_000]
        driver.advance("30s")
        assert told == [1_000, 31_000]


def test_a_task_whose_records_may_be_on_their_way_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """1. a broker that does not say how far the partition goes; 2. it does: there is nothing more, and the window closes."""
    changelog = "app-counts-changelog"
    world = World({"in": 1, changelog: 1, "out": 1})
    world.write("in", b"a", b"x", 1_000)
    thread = Thread(world, app_of(WINDOWS["tumbling"], "close").topology(), idle_advance_ms=30_000)
    thread.run(20)
    with monkeypatch.context() as unknown:
        unknown.setattr(thread.port, "lag", lambda where: None)
        world.clock.now_ms += 3_600_000
        thread.run(20)
        assert found(world, "out") == {}
    thread.run(20)
    assert found(world, "out") == {}
    world.clock.now_ms += 30_000
    thread.run(20)
    assert found(world, "out") == {"a": ["1"]}


@pytest.mark.parametrize("idle_advance", [0, -1, "0s"])
def test_it_is_a_time(idle_advance: Any) -> None:
    with pytest.raises(ValueError, match="idle_advance"):
        App("app", idle_advance=idle_advance)
