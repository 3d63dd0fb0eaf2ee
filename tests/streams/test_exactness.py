"""What comes out does not depend on aborts, restarts and lost disks: the outputs stay those of an undisturbed run in
Java."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from tests.streams.parity.oracle import kept_results
from tests.streams.parity.topologies import build
from tests.streams.test_parity import ALL, as_input, comparable, outputs_of

from ottla.streams import App, DeadLetter, Record, session, tumbling
from ottla.streams.context import Output
from ottla.streams.driver import Driver

#: Operators that remember something; users' processors keep what they like in memory, so that they are not here.
REMEMBERING = (
    "aggregate_by_other_key",
    "cogroup",
    "count_hopping_grace",
    "count_session_grace_close",
    "count_tumbling_grace_close",
    "foreign_key_join_inner_in_named_store",
    "foreign_key_join_left",
    "reduce_sliding_grace",
    "aggregate_session",
    "count_sliding_close",
    "stream_join_edge_of_retention",
    "stream_join_inner_grace",
    "stream_join_left_after_map",
    "stream_join_outer_before_after",
    "stream_joins_table_join_left",
    "stream_table_join_inner",
    "suppress_count_limit_and_records",
    "suppress_session_grace",
    "suppress_tumbling_grace",
    "table_group_by_aggregate",
    "table_join_outer_grouped",
    "word_count",
)


@pytest.fixture(scope="module")
def java() -> dict[str, Any]:
    return kept_results()


class Committed:
    """What a driver has committed, to return to."""

    def __init__(self, driver: Driver) -> None:
        self._stores = {task: {n: s.copy() for n, s in stores.items()} for task, stores in driver._stores.items()}
        self._offsets = dict(driver._offsets)
        self._written = {topic: list(found) for topic, found in driver._written.items()}
        self._changelogs = {topic: list(found) for topic, found in driver._changelogs.items()}

    def restore(self, driver: Driver) -> None:
        """Abort: stores, offsets and topics are as they were, and every task is rebuilt."""
        for task, stores in driver._stores.items():
            for name, store in stores.items():
                store.__dict__.update(self._stores[task][name].__dict__)
        driver._offsets = dict(self._offsets)
        driver._written = copy.copy(self._written)
        driver._changelogs = {topic: list(found) for topic, found in self._changelogs.items()}
        for one in driver.tasks.values():
            one.rebuild()


def assert_like_java(name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for topic, rows in expected.items():
        assert comparable(found[topic], rows) == comparable(rows, rows), (name, topic)


@pytest.mark.parametrize("name", REMEMBERING)
def test_abort_does_not_make_replay_late(name: str, java: dict[str, Any]) -> None:
    """Records are processed, aborted and processed again, at random: nothing of an aborted attempt is remembered."""
    dice = random.Random(name)
    with build(ALL[name]["steps"]).test(at=0) as driver:
        for row in ALL[name]["inputs"]:
            if dice.random() < 0.3:
                committed = Committed(driver)
                driver.pipe_raw(as_input(row))
                committed.restore(driver)
            driver.pipe_raw(as_input(row))

        assert_like_java(name, outputs_of(driver), java[name]["outputs"])


@pytest.mark.parametrize("lost_disk", [False, True])
@pytest.mark.parametrize("name", REMEMBERING)
def test_late_record_after_kill(name: str, lost_disk: bool, java: dict[str, Any]) -> None:
    """The app is killed several times, with and without its disk: stream times come back, and late records stay
    late."""
    dice = random.Random(name)
    with build(ALL[name]["steps"]).test(at=0) as driver:
        for row in ALL[name]["inputs"]:
            if dice.random() < 0.1:
                driver.restart(lost_disk=lost_disk)
            driver.pipe_raw(as_input(row))

        assert_like_java(name, outputs_of(driver), java[name]["outputs"])


def test_late_record_after_the_disk_is_lost_is_dropped() -> None:
    app = App("a")
    app.stream("in", key=str, value=str).group_by_key().windowed_by(tumbling("10s")).count(store="c").to_stream().to(
        "out"
    )

    with app.test(at=0) as driver:
        driver.topic("in").pipe("k", "x", at=50_000)
        driver.topic("out").read()
        driver.restart(lost_disk=True)
        driver.topic("in").pipe("k", "x", at=5_000)

        assert driver.topic("out").read() == []


def test_equal_timestamps_survive_restart() -> None:
    """Records of one key and time on both sides of a restart are all kept for the other side."""
    app = App("a", default_value=str)
    left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
    left.join(right, lambda one, other: f"{one}{other}", within="10s").to("out")

    with app.test(at=0) as driver:
        driver.topic("left").pipe("k", "a", at=1_000)
        driver.restart()
        driver.topic("left").pipe("k", "b", at=1_000)
        driver.restart(lost_disk=True)
        driver.topic("left").pipe("k", "c", at=1_000)
        driver.topic("right").pipe("k", "1", at=1_000)

        assert [value for _, value in driver.topic("out").read()] == ["a1", "b1", "c1"]


@pytest.mark.parametrize("lost_disk", [False, True])
def test_outer_join_emits_after_restart(lost_disk: bool) -> None:
    """What waits for a partner comes out after a restart, too: the time of the oldest is read from the store."""
    app = App("a", default_value=str)
    left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
    left.outer_join(right, lambda one, other: f"{one}+{other}", within="10s").to("out")

    with app.test(at=0) as driver:
        driver.topic("left").pipe("k", "a", at=1_000)
        driver.topic("right").pipe("other", "b", at=2_000)
        driver.restart(lost_disk=lost_disk)
        driver.topic("right").pipe("z", "c", at=50_000)

        assert driver.topic("out").read() == [("k", "a+None"), ("other", "None+b")]


def test_join_at_segment_edge() -> None:
    """A partner is seen until stream time is `retention` ahead of it, to the millisecond, whatever segment it lies
    in."""
    retention = 2 * 40_000 + 10_000
    for ahead, seen in ((retention - 1, True), (retention, False)):
        app = App("a", default_value=str)
        left, right = app.stream("left", key=str, value=str), app.stream("right", key=str, value=str)
        left.join(right, lambda one, other: f"{one}{other}", within="40s", grace="10s").to("out")
        with app.test(at=0) as driver:
            driver.topic("right").pipe("k", "1", at=60_000)
            driver.topic("right").pipe("other", "2", at=60_000 + ahead)
            driver.topic("left").pipe("k", "a", at=60_000)

            assert driver.topic("out").read() == ([("k", "a1")] if seen else []), ahead


def test_table_join_tombstones() -> None:
    """A deletion goes out only for what was sent: through a filter behind a join, and once."""
    app = App("a", default_value=str)
    left, right = app.table("left", key=str, value=str), app.table("right", key=str, value=str)
    joined = left.join(right, lambda one, other: f"{one}{other}").filter(lambda key, value: "x" not in value)
    joined.to_stream().to("out")

    with app.test() as driver:
        driver.topic("left").pipe("k", "a")
        driver.topic("left").pipe("k", None)
        assert driver.topic("out").read() == []
        driver.topic("left").pipe("k", "x")
        driver.topic("right").pipe("k", "1")
        assert driver.topic("out").read() == []
        driver.topic("left").pipe("k", "a")
        driver.topic("left").pipe("k", None)
        driver.topic("right").pipe("k", None)
        assert driver.topic("out").read() == [("k", "a1"), ("k", None)]


def test_fk_flip_flop() -> None:
    """Rows move from one foreign key to another and back while right rows change: the result is that of a batch
    join."""
    for kind in ("join", "left_join"):
        app = App("a", default_value=str)
        left, right = app.table("left", key=str, value=str), app.table("right", key=str, value=str)
        join = getattr(left, kind)
        join(right, lambda one, other: f"{one}+{other}", foreign_key=lambda value: value[0], store="joined")
        dice = random.Random(kind)
        rows: dict[str, str] = {}
        others: dict[str, str] = {}
        with app.test(partitions=3) as driver:
            for number in range(400):
                if dice.random() < 0.3:
                    key, value = dice.choice("ABC"), dice.choice([None, f"r{number}"])
                    _update(others, key, value)
                    driver.topic("right").pipe(key, value)
                else:
                    key, value = (
                        dice.choice("123456"),
                        dice.choice([None, f"A{number % 7}", f"B{number % 7}", "A", "B"]),
                    )
                    _update(rows, key, value)
                    driver.topic("left").pipe(key, value)

            expected = {
                key: f"{value}+{others.get(value[0])}"
                for key, value in rows.items()
                if value[0] in others or kind == "left_join"
            }
            assert dict(driver.store("joined").items()) == expected


def _update(table: dict[str, str], key: str, value: str | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


class Summing:
    """Adds values up in a store; a schedule moves the sum on and begins again."""

    def init(self, context: Any) -> None:
        self.context = context
        self.sums = context.store("sums")
        context.schedule("10s", self.tell, by="stream_time")

    def process(self, record: Record) -> None:
        self.sums.put("sum", (self.sums.get("sum") or 0) + record.value)

    def tell(self, now: int) -> None:
        self.context.forward(Record("sum", self.sums.get("sum") or 0, now))
        self.sums.put("sum", 0)


def test_punctuate_kill() -> None:
    """A schedule fires in the transaction of the record: aborted with it, it fires again with the replay, and nothing
    is lost."""
    app = App("a")
    app.add_store("sums", key=str, value=int)
    app.stream("in", key=str, value=int).process(Summing, stores=["sums"], value=int).to("out")
    dice = random.Random(4)

    with app.test(at=0) as driver:
        for number in range(100):
            record = Output("in", 0, b"k", (number).to_bytes(8, "big"), number * 3_000, ())
            if dice.random() < 0.4:
                committed = Committed(driver)
                driver.pipe_raw(record)
                committed.restore(driver)
            if dice.random() < 0.1:
                driver.restart(lost_disk=bool(number % 2))
            driver.pipe_raw(record)
        told = sum(value for _, value in driver.topic("out").read())

        assert told + driver.store("sums")["sum"] == sum(range(100))


def test_dead_letter_aborted_with_input() -> None:
    """A dead letter is an output like any other: of an aborted attempt nothing is left, and the replay writes it
    once."""
    app = App("a", on_processing_error=DeadLetter("dead"))
    app.stream("in", key=str, value=int).map_values(lambda value: 1 // value, value=int).to("out")

    with app.test() as driver:
        committed = Committed(driver)
        driver.topic("in").pipe("k", 0)
        committed.restore(driver)
        driver.topic("in").pipe("k", 0)
        driver.topic("in").pipe("k", 1)

        assert len(driver.topic("dead").raw()) == 1
        assert driver.topic("out").read() == [("k", 1)]


def test_idle_partition_visible() -> None:
    """A partition without records holds its windows open; the task says how far its time is, and how many wait."""
    app = App("a")
    grouped = app.stream("in", key=str, value=str).group_by_key().windowed_by(tumbling("10s", grace="5s"))
    grouped.count(store="c", name="count").suppress("until_window_closes").to_stream().to("out")

    with app.test(partitions=2, at=0) as driver:
        driver.topic("in").pipe("a", "x", at=1_000, partition=0)
        driver.topic("in").pipe("b", "x", at=2_000, partition=1)
        driver.topic("in").pipe("b", "x", at=31_000, partition=1)
        driver.advance("1m")
        idle, busy = (task.progress() for task in driver.tasks.values())

        assert (idle.stream_time, idle.stream_time_age_ms, idle.open_windows) == (1_000, 59_000, {"c": 1})
        assert (busy.stream_time, busy.stream_time_age_ms, busy.open_windows) == (31_000, 29_000, {"c": 1})
        assert busy.operators["count"] == 31_000
        assert [value for _, value in driver.topic("out").read()] == [1]


def test_sessions_merged_after_a_restart() -> None:
    app = App("a")
    app.stream("in", key=str, value=str).group_by_key().windowed_by(session("10s", grace="10s")).count(
        store="c"
    ).to_stream().to("out")

    with app.test(at=0) as driver:
        driver.topic("in").pipe("k", "x", at=0)
        driver.topic("in").pipe("k", "x", at=15_000)
        driver.restart(lost_disk=True)
        driver.topic("in").pipe("k", "x", at=8_000)

        assert [value for _, value in driver.topic("out").read()] == [1, 1, None, None, 3]
