"""Stores whose values live for a time: `app.add_store(ttl=...)`."""

from __future__ import annotations

from typing import Any

import pytest

from ottla.streams import App
from ottla.streams.driver import Driver
from ottla.streams.errors import TopologyError


class Seen:
    """Tells the values of its store, and writes the record's."""

    def init(self, context: Any) -> None:
        self.context, self.store = context, context.store("seen")

    def process(self, record: Any) -> None:
        if record.value is not None:
            self.store.put(record.key, record.value)
        told = dict(self.store.all())
        assert all(self.store.get(key) == value for key, value in told.items())
        assert told == dict(self.store.range("a", "z"))
        self.context.forward(record._replace(value=told))


def app_of() -> App:
    app = App("app")
    app.add_store("seen", key=str, value=str, ttl="10s")
    app.stream("in", key=str, value=str).process(Seen, stores=["seen"]).to("out", value="json")
    return app


def pipe(driver: Driver, key: str, value: str | None, at: int) -> Any:
    driver.topic("in").pipe(key, value, at=at)
    return driver.topic("out", value="json").read()[-1][1]


def test_a_value_is_gone_when_its_time_is_over() -> None:
    with app_of().test(at=0) as driver:
        assert pipe(driver, "a", "1", 1_000) == {"a": "1"}
        assert pipe(driver, "b", "2", 5_000) == {"a": "1", "b": "2"}
        assert pipe(driver, "c", None, 10_999) == {"a": "1", "b": "2"}
        assert pipe(driver, "c", None, 11_000) == {"b": "2"}
        assert pipe(driver, "b", "3", 14_000) == {"b": "3"}, "written anew: it lives anew"
        assert pipe(driver, "c", None, 23_999) == {"b": "3"}
        assert pipe(driver, "c", None, 24_000) == {}
        deletions = [(out.key, out.timestamp) for out in driver.topic("app-seen-changelog").raw() if out.value is None]
        assert [row for row in deletions if row[0] in (b"a", b"b")] == [(b"a", 11_000), (b"b", 24_000)]


def test_what_is_seen_does_not_depend_on_when_it_is_committed() -> None:
    rows = [
        ("a", "1", 1_000),
        ("b", "2", 8_000),
        ("a", None, 11_500),
        ("c", "3", 4_000),
        ("a", None, 18_000),
        ("a", "4", 9_000),
    ]
    told = []
    for interval in (0, "1h"):
        with app_of().test(at=0, commit_interval=interval) as driver:
            told.append([pipe(driver, *row) for row in rows])
    assert told[0] == told[1]
    assert told[0][-1] == {"a": "4"}


def test_a_value_that_comes_too_late_is_not_there() -> None:
    """It takes the place of the one before it, as every write does, and is gone at once."""
    with app_of().test(at=0) as driver:
        pipe(driver, "a", "1", 20_000)
        assert pipe(driver, "a", "late", 10_000) == {}
        assert pipe(driver, "b", "in time", 10_001) == {"b": "in time"}


@pytest.mark.parametrize("lost_disk", [False, True])
def test_what_was_gone_is_gone_after_a_restart(lost_disk: bool) -> None:
    """1. a value is gone for all that has been read; 2. a restart; 3. an older record, which could have seen it, does not."""
    with app_of().test(at=0) as driver:
        pipe(driver, "a", "1", 1_000)
        pipe(driver, "b", "2", 5_000)
        pipe(driver, "c", None, 11_000)
        driver.restart(lost_disk=lost_disk)
        assert pipe(driver, "c", None, 6_000) == {"b": "2"}
        assert pipe(driver, "c", None, 15_000) == {}


def test_a_store_has_versions_or_a_time_to_live() -> None:
    with pytest.raises(TopologyError, match="not both"):
        App("app").add_store("seen", ttl="1s", history_retention="1s")
    with pytest.raises(ValueError, match="ttl"):
        App("app").add_store("seen", ttl=0)
