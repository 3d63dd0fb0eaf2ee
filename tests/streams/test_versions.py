"""Stores with versions (KIP-889) against a list of everything that was written, and what they keep across restarts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ottla.streams import App
from ottla.streams.driver import Driver
from ottla.streams.errors import TopologyError
from ottla.streams.restoring import Restorer
from ottla.streams.store import MemoryStore
from ottla.streams.topology import TIMES_STORE
from ottla.streams.versions import Version, Versions, segment_interval_ms


class Everything:
    """All versions of one key, for ever."""

    def __init__(self) -> None:
        self.versions: dict[int, bytes | None] = {}

    def get(self, as_of: int) -> Version | None:
        times = sorted(self.versions)
        before = [when for when in times if when <= as_of]
        if not before or (value := self.versions[before[-1]]) is None:
            return None
        return Version(value, before[-1], next((when for when in times if when > as_of), None))


@pytest.mark.parametrize("retention", [0, 700, 5_000, 100_000])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_valid_is_what_all_versions_say(seed: int, retention: int) -> None:
    """Versions come in any order, some late, some twice for one time, some as deletions: keys that begin alike included."""
    dice = random.Random(seed)
    store = MemoryStore()
    versions = Versions(store, retention, segment_interval_ms(retention), -1)
    keys = (b"a", b"ab", b"")
    models = {key: Everything() for key in keys}
    now = 0
    for number in range(250):
        now += dice.choice([0, 0, 1, 300, 2_000])
        when = max(0, now - dice.choice([0, 0, 0, 1, 600, 3_000, 9_000]))
        key, value = dice.choice(keys), dice.choice([b"%d" % number, b"%d" % number, b"", None])
        behind = when < versions.stream_time - retention
        following = min((at for at in models[key].versions if at > when), default=None)
        done = versions.put(key, value, when)
        assert done.stored != behind
        if behind:
            continue
        models[key].versions[when] = value
        assert done.until == following
        for each, model in models.items():
            found = versions.newest(each)
            assert found == model.get(1 << 60)
            oldest = versions.stream_time - retention
            for back in (0, 1, 500, 2_500, 8_000):
                as_of = versions.stream_time - back
                expected = model.get(as_of)
                if as_of < oldest and (expected is None or expected.until is not None):
                    expected = None
                assert versions.get(each, as_of) == expected
    oldest = max(0, versions.stream_time - retention)
    for each, model in models.items():
        looked = {oldest, *(when for when in model.versions if when > oldest)}
        wanted = {found for as_of in looked if (found := model.get(as_of)) is not None}
        assert list(versions.history(each, oldest, now)) == sorted(wanted, key=lambda version: version.since)
    alive = sum(len(model.versions) for model in models.values())
    assert len(list(store.prefix(b"v"))) <= alive
    if retention < 5_000:
        assert len(list(store.prefix(b"v"))) < alive / 2, "what is behind the retention goes"


def priced() -> App:
    app = App("app")
    prices = app.table("prices", key=str, value=str, store="prices", history_retention="1m")
    orders = app.stream("orders", key=str, value=str)
    orders.join(prices, lambda order, price: f"{order} at {price}", grace="10s", name="priced").to("priced")
    return app


def pipe(driver: Driver, topic: str, *rows: tuple[str, str | None, int]) -> list[Any]:
    for key, value, at in rows:
        driver.topic(topic).pipe(key, value, at=at)
    return [(record.value, record.timestamp) for record in driver.topic("priced").records()]


def test_an_order_has_the_price_of_its_time() -> None:
    with priced().test(at=0) as driver:
        pipe(driver, "prices", ("x", "1", 1_000), ("x", "3", 30_000))
        assert pipe(driver, "orders", ("x", "early", 25_000), ("x", "now", 31_000)) == []
        pipe(driver, "prices", ("x", "2", 20_000))  # late, and still in time for what waits
        assert pipe(driver, "orders", ("x", "last", 60_000)) == [("early at 2", 25_000), ("now at 3", 31_000)]
        assert pipe(driver, "orders", ("x", "too late", 15_000)) == [("too late at 1", 15_000)], "joined at once"


@pytest.mark.parametrize("lost_disk", [False, True])
def test_versions_and_what_waits_are_there_after_a_restart(lost_disk: bool) -> None:
    """1. versions, and orders of one key and time that wait; 2. a restart; 3. what waits is there, in its order, and what was
    valid, and what is too late for the store."""
    with priced().test(at=0) as driver:
        pipe(driver, "prices", ("x", "1", 1_000), ("x", None, 50_000), ("x", "2", 20_000), ("y", "9", 100_000))
        assert pipe(driver, "orders", ("x", "a", 45_000), ("x", "b", 45_000), ("x", "none", 52_000)) == []
        driver.restart(lost_disk=lost_disk)
        pipe(driver, "prices", ("x", "too late", 39_999), ("x", "3", 47_000))
        assert pipe(driver, "orders", ("x", "c", 45_000), ("x", "d", 48_000), ("x", "end", 90_000)) == [
            ("a at 2", 45_000),
            ("b at 2", 45_000),
            ("c at 2", 45_000),
            ("d at 3", 48_000),
        ]


def test_a_restore_in_two_parts_knows_what_was_late() -> None:
    """A process is killed between two batches of its changelog: what the first one says of time holds for the second."""
    app = priced()
    spec = app.topology().store("prices")
    stores: dict[str, MemoryStore] = {"prices": MemoryStore(), TIMES_STORE: MemoryStore()}

    def restored(*rows: tuple[bytes, bytes | None, int]) -> None:
        from ottla.streams.context import InputRecord

        restorer = Restorer(spec, stores)
        restorer.apply_all(InputRecord("log", 0, 0, when, key, value) for key, value, when in rows)

    restored((b"x", b"1", 100_000))
    restored((b"y", b"late", 39_999), (b"y", b"in time", 40_000))
    versions = Versions(stores["prices"], 60_000, spec.segment_interval_ms or 0, 100_000)
    assert list(versions.history(b"y", 0, 1 << 40)) == [Version(b"in time", 40_000, None)]


def test_a_store_that_is_lost_alone_gets_back_what_is_older_than_its_retention() -> None:
    """Times are in the default home: a store in memory is lost at each restart, and they are not."""
    spec = priced().topology().store("prices")
    times = MemoryStore()
    for _ in range(2):
        store = MemoryStore()
        restorer = Restorer(spec, {"prices": store, TIMES_STORE: times})
        restorer.apply(b"tea", b"2.0", 100)
        restorer.apply(b"milk", b"1.0", 10_000_000)
        restorer.finish()
        versions = Versions(store, spec.retention_ms or 0, spec.segment_interval_ms or 0, 10_000_000)
        assert versions.newest(b"tea") == Version(b"2.0", 100, None)


def test_a_processor_reads_what_was_valid() -> None:
    app = App("app")
    app.add_store("seen", key=str, value=int, history_retention="1m")

    class Compare:
        def init(self, context: Any) -> None:
            self.context, self.store = context, context.store("seen")

        def process(self, record: Any) -> None:
            done = self.store.put(record.key, record.value)
            before = self.store.get(record.key, as_of=record.timestamp - 1)
            kept = list(self.store.history(record.key, until=record.timestamp))
            self.context.forward(record._replace(value=f"{before} {done.until} {len(kept)} {dict(self.store.all())}"))

    app.stream("in", key=str, value=int).process(Compare, stores=["seen"]).to("out")
    with app.test(at=0) as driver:
        for value, at in ((1, 1_000), (3, 3_000), (2, 2_000)):
            driver.topic("in").pipe("a", value, at=at)
        assert [record.value for record in driver.topic("out").records()] == [
            "None None 1 {'a': 1}",
            "1 None 2 {'a': 3}",
            "1 3000 2 {'a': 3}",
        ]


def test_grace_needs_versions_and_suppress_none() -> None:
    app = App("app")
    plain = app.table("plain", key=str, value=str)
    kept = app.table("kept", key=str, value=str, history_retention="1m")
    stream = app.stream("in", key=str, value=str)
    with pytest.raises(TopologyError, match="history_retention"):
        stream.join(plain, lambda left, right: left, grace="1s")
    with pytest.raises(TopologyError, match="60000 ms"):
        stream.join(kept, lambda left, right: left, grace="2m")
    with pytest.raises(TopologyError, match="joins with streams"):
        stream.join(app.global_table("all"), lambda left, right: left, key=lambda key, value: key, grace="1s")
    with pytest.raises(TopologyError, match="without versions"):
        kept.filter(lambda key, value: True).suppress(until_time_limit="1s")
    with pytest.raises(TopologyError, match="changelog"):
        app.add_store("unlogged", history_retention="1m", logged=False)


def test_the_changelog_keeps_versions_from_compaction() -> None:
    configs = priced().topology().store("prices").changelog_configs
    assert configs["cleanup.policy"] == "compact"
    assert configs["min.compaction.lag.ms"] == str(60_000 + 86_400_000)
