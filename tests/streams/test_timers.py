"""Timers: `@app.timer` and `@app.cron`, in the test driver and by themselves."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import pytest

from ottla.client.errors import ConfigurationError
from ottla.streams import App, Record
from ottla.streams.calls import Function, RetryTime
from ottla.streams.context import Output
from ottla.streams.errors import TopologyError
from ottla.streams.timers import Timer, TimerError, Timers, by_cron, every, make_timer


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def reading() -> App:
    app = App("app")
    app.stream("in").to("out")
    return app


# -- in an app ------------------------------------------------------------------------------------------------------------


def test_a_timer_fires_by_the_wall_clock_and_writes_what_it_yields() -> None:
    app = reading()

    @app.timer("10s", to="beats")
    async def beat() -> AsyncIterator[Any]:
        yield {"is": "alive"}
        yield Record("k", "text", 7)

    with app.test(at=0) as driver:
        driver.advance("9s")
        assert driver.topic("beats").read() == []
        driver.advance("12s")
        found = [(each.key, each.value, each.timestamp) for each in driver.topic("beats").records()]
        assert found == [
            (None, '{"is":"alive"}', 10_000),
            ("k", "text", 7),
            (None, '{"is":"alive"}', 20_000),
            ("k", "text", 7),
        ]


def test_a_cron_expression_counts_in_its_time_zone_and_knows_summer_time() -> None:
    """03:30 in Amsterdam is 02:30 in winter and 01:30 in summer, in UTC."""
    app = reading()
    fired: list[int] = []

    with app.test(at="2026-03-28T00:00") as driver:
        pass

    @app.cron("30 3 * * *", timezone="Europe/Amsterdam")
    async def nightly() -> None:
        fired.append(driver.now)

    with app.test(at="2026-03-28T00:00") as driver:
        driver.advance("48h")
    assert fired == [ms("2026-03-28T02:30"), ms("2026-03-29T01:30")]


def test_an_app_may_consist_of_a_leaders_timer_alone() -> None:
    app = App("app")
    fired: list[str] = []

    @app.timer("1s", on_leader=True)
    async def lead() -> None:
        fired.append("led")

    topology = app.topology()
    assert {name: topic.partitions for name, topic in topology.repartition_topics.items()} == {
        "app-leader-repartition": 1
    }
    assert app.check() == []
    with app.test() as driver:
        driver.advance("3s")
    assert fired == ["led"] * 3


def test_a_leaders_timer_leaves_the_numbers_of_tasks_as_they_were() -> None:
    app = App("app")

    @app.timer("1s", on_leader=True)
    async def lead() -> None: ...

    app.stream("in").to("out")
    subs = app.topology().sub_topologies
    assert [tuple(sub.source_topics) for sub in subs] == [("in",), ("app-leader-repartition",)]


def test_timers_are_refused_where_they_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("app")

    async def tick() -> None: ...

    async def yielding() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TopologyError, match="at least once"):
        App("app", processing_guarantee="exactly_once_v2").timer("1s")
    with pytest.raises(TopologyError, match="async def"):
        app.timer("1s")(lambda: None)  # type: ignore[type-var]
    with pytest.raises(TopologyError, match="to=topic"):
        app.timer("1s")(yielding)
    with pytest.raises(ValueError, match="1 ms or more"):
        app.timer(0)
    with pytest.raises(ValueError, match='"fail" or "skip"'):
        app.timer("1s", on_error="retry")(tick)  # type: ignore[arg-type]
    app.timer("1s")(tick)
    with pytest.raises(TopologyError, match="two timers named 'tick'"):
        app.timer("2s")(tick)
    for expression in ("", "* * * *", "61 * * * *", "0 0 30 2 *", "every day"):
        with pytest.raises(TopologyError, match="no cron expression"):
            app.cron(expression)
    with pytest.raises(TopologyError, match="time zone 'Mars/Olympus'"):
        app.cron("* * * * *", timezone="Mars/Olympus")

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("ottla.streams.timers.import_module", missing)
    with pytest.raises(ConfigurationError, match=r"ottla\[cron\]"):
        app.cron("* * * * *")
    importlib.import_module("cronsim")


# -- by themselves --------------------------------------------------------------------------------------------------------


class HeldCalls:
    """Calls that end when the test says so."""

    def __init__(self) -> None:
        self.retries = RetryTime()
        self.begun: list[tuple[Future[Any], Function]] = []

    def start(self, function: Function) -> Future[Any]:
        future: Future[Any] = Future()
        self.begun.append((future, function))
        return future

    def end(self, place: int = -1) -> None:
        future, function = self.begun[place]
        try:
            future.set_result(asyncio.run(function()))
        except Exception as error:
            future.set_exception(error)

    def close(self) -> None: ...


class Delivery:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def exception(self) -> Exception | None:
        return self.error


async def nothing() -> None: ...


def made(function: Any = nothing, **options: Any) -> Timer:
    given = {"on_leader": False, "on_error": "fail", "to": None, "name": "tick", **options}
    return make_timer("@app.timer", function, every("10s"), **given)


def test_a_timer_whose_call_still_runs_is_passed_over() -> None:
    calls = HeldCalls()
    timers = Timers([made()], 0, calls, lambda: True, lambda output: None)
    for now_ms in (10_000, 20_000, 30_000):
        timers.turn(now_ms)
    assert len(calls.begun) == 1
    calls.end()
    timers.turn(40_000)
    assert len(calls.begun) == 2


def test_a_timer_that_is_late_fires_once_and_keeps_its_pace() -> None:
    calls = HeldCalls()
    timers = Timers([made()], 0, calls, lambda: True, lambda output: None)
    timers.turn(47_000)
    assert len(calls.begun) == 1
    assert timers.next_ms == 50_000


def test_only_the_leader_fires_and_a_leader_that_is_none_any_more_gives_its_call_up() -> None:
    calls, leads = HeldCalls(), False
    timers = Timers([made(on_leader=True)], 0, calls, lambda: leads, lambda output: None)
    timers.turn(10_000)
    assert calls.begun == []
    leads = True
    timers.turn(20_000)
    ((call, _),) = calls.begun
    leads = False
    timers.turn(20_001)
    assert call.cancelled()
    leads = True
    timers.turn(30_000)
    assert len(calls.begun) == 2, "the one that was given up is not waited for"


def test_a_timer_that_raises_ends_the_app_or_fires_again(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise ValueError("out of tea")

    for on_error in ("fail", "skip"):
        calls = HeldCalls()
        timers = Timers([made(broken, on_error=on_error)], 0, calls, lambda: True, lambda output: None)
        timers.turn(10_000)
        calls.end()
        if on_error == "fail":
            with pytest.raises(
                TimerError, match=r"the timer tick failed: ValueError: out of tea \(test_timers.py:\d+\)"
            ):
                timers.turn(10_100)
        else:
            timers.turn(20_000)
            assert "out of tea" in caplog.text
            assert len(calls.begun) == 2


def test_a_record_that_was_not_written_is_a_failure_of_its_timer() -> None:
    async def telling() -> AsyncIterator[str]:
        yield "x"

    calls, sent = HeldCalls(), Delivery(RuntimeError("no room"))
    outputs: list[Output] = []

    def send(output: Output) -> Delivery:
        outputs.append(output)
        return sent

    timers = Timers([made(telling, to="out")], 0, calls, lambda: True, send)
    timers.turn(10_000)
    calls.end()
    timers.turn(10_100)
    assert outputs == [Output("out", None, None, b"x", 10_000, ())]
    sent.is_done = True
    with pytest.raises(TimerError, match="no room"):
        timers.turn(10_200)


def test_cron_of_seconds() -> None:
    following = by_cron("*/20 * * * * *", "UTC")
    assert [following(None, now) for now in (0, 19_999, 20_000)] == [20_000, 20_000, 40_000]
