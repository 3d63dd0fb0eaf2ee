"""Questions to stores with versions, and to stores whose values live for a time."""

from __future__ import annotations

import pytest
from tests.streams.queries.world import NOTES

from ottla.streams import App
from ottla.streams.errors import QuestionError
from ottla.streams.queries.answers import Question
from ottla.streams.queries.board import Board, Standing
from ottla.streams.queries.desk import Desk
from ottla.streams.queries.routing import Routes
from ottla.streams.queries.store import StoreView
from ottla.streams.queries.wire import pack_question, unpack_question
from ottla.streams.records import Record
from ottla.streams.state.memory import MemoryHome


@pytest.fixture(scope="module")
def desk() -> Desk:
    """An instance whose stores hold what these records have made, committed."""
    app = App("app")
    app.table("prices", key=str, value=str, store="prices", history_retention="1m")
    app.table("plain", key=str, value=str, store="plain")
    app.add_store("seen", key=str, value=str, ttl="10s")

    class Keep:
        def init(self, context: object) -> None:
            self.store = context.store("seen")  # type: ignore[attr-defined]

        def process(self, record: Record) -> None:
            self.store.put(record.key, record.value)

    app.stream("in", key=str, value=str).process(Keep, stores=["seen"])
    topology = app.topology()
    board = Board(lambda: 0.0, lambda: 0.0, 6_000)
    with app.test(at=0) as driver:
        for key, value, at in (("tea", "1", 1_000), ("tea", "3", 30_000), ("tea", "2", 20_000), ("ink", "9", 85_000)):
            driver.topic("prices").pipe(key, value, at=at)
        for key, at in (("a", 1_000), ("b", 5_000), ("c", 11_000)):
            driver.topic("in").pipe(key, key * 2, at=at)
        for task_id, stores in driver._stores.items():
            home = MemoryHome()
            for spec in driver.tasks[task_id].sub_topology.stores:
                home.open_table(spec.name, "")
            home.commit({name: dict(store.range(b"", None)) for name, store in stores.items()}, NOTES)
            sub = driver.tasks[task_id].sub_topology
            board.open(task_id, sub, {spec.name: home for spec in sub.stores})
            board.tell(task_id, Standing(positions={}, lag={}, time_ms=0))
    return Desk(board, Routes(topology, dict.fromkeys(topology.source_topics, 1), ""))


def view(desk: Desk, store: str) -> StoreView:
    return StoreView(desk, desk.routes.spec(store))


def test_a_key_of_a_store_with_versions_is_asked_for_a_time(desk: Desk) -> None:
    prices = view(desk, "prices")
    assert prices["tea"] == "3"
    assert [prices.get("tea", as_of=at) for at in (30_000, 29_999, 25_000, 1 << 70)] == ["3", "2", "2", "3"]
    assert prices.get("tea", "forgotten", as_of=24_999) == "forgotten", "a minute before stream time"
    assert prices.get("milk", as_of=30_000) is None
    assert list(prices.range()) == [("ink", "9"), ("tea", "3")]
    assert list(prices.range("j", "tea")) == [("tea", "3")]


def test_only_versions_are_asked_for_a_time(desk: Desk) -> None:
    with pytest.raises(QuestionError, match="no versions"):
        view(desk, "plain").get("tea", as_of=1)


def test_another_instance_is_asked_for_the_same_time() -> None:
    question = Question(store="prices", key=b"tea", as_of=25_000)
    assert unpack_question(pack_question(question)) == question


def test_what_is_gone_is_not_answered(desk: Desk) -> None:
    seen = view(desk, "seen")
    assert list(seen.range()) == [("b", "bb"), ("c", "cc")]
    assert seen.get("a") is None
    assert seen["b"] == "bb"
