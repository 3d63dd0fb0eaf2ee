"""Record caches: of many updates between two commits the last one goes on, in topological order, each under the record
that made it."""

from __future__ import annotations

from typing import Any

import pytest

from ottla.streams import App, RecordError, session, tumbling
from ottla.streams.caching import CacheBudget

CACHE = 10 << 20


def word_count(**stores: Any) -> App:
    app = App("a")
    words = app.stream("words", key=str, value=str)
    words.group_by_key().count(store="counts", **stores).to_stream().to("out")
    return app


def test_of_many_updates_between_two_commits_the_last_one_comes_out() -> None:
    with word_count().test(cache_max_bytes=CACHE, commit_interval="30s") as driver:
        for key in "abab":
            driver.topic("words").pipe(key, "x")
        assert driver.topic("out").read() == []
        assert driver.store("counts")["a"] == 2  # a read sees what waits

        driver.advance("30s")
        assert driver.topic("out").read() == [("a", 2), ("b", 2)]
        assert len(driver.topic("a-counts-changelog").raw()) == 2

        driver.topic("words").pipe("b", "x")
        driver.commit()
        assert driver.topic("out").read() == [("b", 3)]


def test_without_caches_every_update_comes_out() -> None:
    with word_count().test(commit_interval="30s") as driver:
        for key in "abab":
            driver.topic("words").pipe(key, "x")
        assert driver.topic("out").read() == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_chain_of_three_cached_stores() -> None:
    """A commit empties a chain of caches whole, in the order in which they feed each other; each result has the time and
    the headers of the record that made it."""
    app = App("a", default_value=str)
    counts = app.stream("words", key=str, value=str).group_by_key().count(store="first")
    texts = counts.map_values(lambda count: f"{count}!", store="second", value=str)
    texts.filter(lambda key, text: text != "1!", store="third").to_stream().to("out")

    with app.test(at=0, cache_max_bytes=CACHE, commit_interval="30s") as driver:
        for index, key in enumerate("abacab"):
            driver.topic("words").pipe(key, "x", at=index, headers={"n": str(index)})
        assert driver.topic("out").read() == []
        driver.commit()

        found = [(r.key, r.value, r.timestamp, r.headers) for r in driver.topic("out").records()]
        assert found == [("a", "3!", 4, (("n", b"4"),)), ("b", "2!", 5, (("n", b"5"),))]
        for store, changed in (("first", 3), ("second", 3), ("third", 2)):
            assert len(driver.topic(f"a-{store}-changelog").raw()) == changed, store
        driver.commit()
        assert driver.topic("out").read() == []  # nothing was left behind


def test_a_change_goes_from_what_the_last_commit_left_to_what_this_one_leaves() -> None:
    """A group that subtracts and adds sees one change for each commit, not its steps."""
    app = App("a", default_value=int)
    table = app.table("people", key=str, value=str)
    grouped = table.group_by(lambda key, town: (town, 1), value=int)
    grouped.count(store="towns").to_stream().to("out")

    with app.test(cache_max_bytes=CACHE, commit_interval="30s") as driver:
        people = driver.topic("people")
        people.pipe("anna", "Delft")
        driver.commit()
        people.pipe("anna", "Leiden")
        people.pipe("anna", "Gouda")
        driver.commit()
        driver.commit()

        assert dict(driver.topic("out").read()) == {"Delft": 0, "Gouda": 1}


def test_full_caches_are_emptied_before_the_commit() -> None:
    with word_count().test(cache_max_bytes=1_000, commit_interval="1h") as driver:
        for number in range(100):
            driver.topic("words").pipe(f"key {number}", "x")

        assert len(driver.topic("out").read()) > 90
        assert driver._cache.used <= 1_000


@pytest.mark.parametrize("lost_disk", [False, True])
def test_what_caches_held_is_committed_before_a_restart(lost_disk: bool) -> None:
    app = App("a")
    grouped = app.stream("in", key=str, value=str).group_by_key()
    grouped.windowed_by(tumbling("10s")).count(store="windows").to_stream().to("out")
    grouped.windowed_by(session("5s")).count(store="sessions").to_stream().to("sessions")
    with app.test(at=0, cache_max_bytes=CACHE, commit_interval="1h") as driver:
        for when in (1_000, 2_000, 11_000):
            driver.topic("in").pipe("a", "x", at=when)
        driver.restart(lost_disk=lost_disk)
        driver.topic("in").pipe("a", "x", at=12_000)
        driver.commit()

        found = {(key.window.start, value) for key, value in driver.topic("out").read()}
        assert found == {(0, 2), (10_000, 1), (10_000, 2)}
        assert [(key.window, count) for key, count in driver.topic("sessions").read()][-1] == ((11_000, 12_000), 2)


def test_an_abort_drops_what_caches_hold() -> None:
    with word_count().test(cache_max_bytes=CACHE, commit_interval="1h") as driver:
        driver.topic("words").pipe("a", "x")
        for task in driver.tasks.values():
            task.rebuild()
        assert driver._cache.used == 0
        driver.topic("words").pipe("a", "x")
        driver.commit()

        assert driver.topic("out").read() == [("a", 1)]


def test_an_error_behind_a_cache_names_the_record_that_made_the_change() -> None:
    app = App("a")
    counts = app.stream("words", key=str, value=str).group_by_key().count(store="counts")
    counts.to_stream().map_values(lambda count: 1 // (count - 2)).to("out")
    with app.test(cache_max_bytes=CACHE, commit_interval="1h") as driver:
        for key in "bab":
            driver.topic("words").pipe(key, "x")

        with pytest.raises(RecordError, match=r"words-0, offset 2"):
            driver.commit()


def test_an_object_that_can_change_is_kept_as_bytes() -> None:
    """An aggregator that changes its object in place does not change what the cache holds of an earlier one."""
    app = App("a", on_processing_error="skip")

    def grow(key: str, value: str, found: list[str]) -> list[str]:
        found.append(value)
        if value == "bad":
            raise ValueError(value)
        return found

    grouped = app.stream("in", key=str, value=str).group_by_key()
    grouped.aggregate(list, grow, value="json", store="lists").to_stream().to("out")
    with app.test(cache_max_bytes=CACHE, commit_interval="1h") as driver:
        for value in ("one", "bad", "two"):
            driver.topic("in").pipe("k", value)
        driver.commit()

        assert driver.topic("out", value="json").read() == [("k", ["one", "two"])]


def test_tasks_share_one_budget() -> None:
    with word_count().test(partitions=3, cache_max_bytes=CACHE, commit_interval="1h") as driver:
        for number in range(30):
            driver.topic("words").pipe(str(number), "x")
        used = driver._cache.used
        assert used > 30 * 100
        driver.commit()
        assert driver._cache.used == 0
    assert CacheBudget(0).max_bytes == 0
