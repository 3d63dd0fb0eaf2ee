"""Agents and timers where instances run: on the model of a cluster, and on a broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import groupby
from typing import Any

import pytest
from tests.streams.runtime.conftest import Instance, Start, wait_for
from tests.streams.runtime.model import World
from tests.streams.runtime.test_engine import Thread, found

import ottla
from ottla.streams import App, Record, Records
from ottla.streams.calls import LoopCalls
from ottla.streams.errors import StreamsError
from ottla.testing import Broker


class Held:
    """An agent that is done with a record when the test lets its key go."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.let_go: set[str] = set()

    async def __call__(self, records: Records) -> AsyncIterator[str]:
        async for record in records:
            self.given.append(record.key)
            while record.key not in self.let_go:  # noqa: ASYNC110 - it is let go on another thread, which knows no loop
                await asyncio.sleep(0.001)
            yield f"{record.key}!"


def app_of(held: Held) -> App:
    app = App("app")

    @app.agent("keyed", key=str, value=str, to="out", name="held")
    async def agent(records: Records) -> AsyncIterator[str]:
        async for value in held(records):
            yield value

    return app


def turn_until(thread: Thread, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        thread.turn()
        time.sleep(0.001)


def keyed(keys: str) -> World:
    world = World({"keyed": 1, "out": 1})
    for number, key in enumerate(keys):
        world.write("keyed", key.encode(), b"x", number)
    return world


def test_a_record_that_an_agent_has_at_hand_is_not_committed_and_comes_again() -> None:
    world, held, calls = keyed("abc"), Held(), LoopCalls()
    first = Thread(world, app_of(held).topology(), calls=calls)
    held.let_go.add("a")
    turn_until(first, lambda: held.given == ["a", "b"])
    first.run(30)
    assert world.offsets == {}, "a commit was due long ago, and waits for b"
    calls.close()  # killed
    world.held.clear()

    held, calls = Held(), LoopCalls()
    held.let_go.update("abc")
    second = Thread(world, app_of(held).topology(), calls=calls)
    turn_until(second, lambda: bool(world.offsets) and next(iter(world.offsets.values()))[0] == 3)
    assert held.given == ["a", "b", "c"]
    second.engine.close()
    calls.close()
    world.tick()
    assert found(world, "out") == {"a": ["a!"], "b": ["b!"], "c": ["c!"]}


def test_a_partition_that_is_revoked_ends_its_agent() -> None:
    world, held, calls = keyed("ab"), Held(), LoopCalls()
    thread = Thread(world, app_of(held).topology(), calls=calls)
    turn_until(thread, lambda: held.given == ["a"])
    thread.engine.on_revoked(thread.partitions())
    assert thread.engine.tasks == {}
    assert world.offsets == {}
    held.let_go.update("ab")
    thread.engine.on_assigned(thread.partitions())
    turn_until(thread, lambda: bool(world.offsets))
    assert held.given == ["a", "a", "b"]
    thread.engine.close()
    calls.close()


def test_an_agent_on_a_broker(kafka_broker: Broker, start: Start) -> None:
    app = App("app")

    @app.agent("in", key=str, value=str, to="out")
    async def shout(records: Records) -> AsyncIterator[str]:
        async for batch in records.take(10, within="20ms"):
            for record in batch:
                yield record.value.upper()

    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic("in", partitions=1)
        admin.create_topic("out", partitions=1)
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        for number in range(25):
            producer.send("in", f"v{number}".encode(), key=b"k")
    instance = start(app.topology(), guarantee="at_least_once", commit_interval_ms=100)
    wait_for(lambda: len(values(kafka_broker, "out")) == 25, "what the agent yields")
    instance.stop()
    assert values(kafka_broker, "out") == [f"V{number}" for number in range(25)]
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        assert [each.lag for each in admin.consumer_lag("app").values()] == [0]


def values(broker: Broker, topic: str) -> list[str]:
    with ottla.Consumer(broker.bootstrap_servers, topics=[topic], auto_offset_reset="earliest") as reader:
        return [str(record.value, "utf-8") for record in reader.records(until="end") if record.value is not None]


def leading(name: str) -> App:
    app = App("app")

    @app.timer("50ms", on_leader=True, to="beats")
    async def lead() -> AsyncIterator[Any]:
        yield Record(name, name, 0)

    return app


@pytest.mark.parametrize("protocol", ["classic", "streams"])
def test_one_leader(kafka_broker: Broker, start: Start, protocol: str) -> None:
    """Rule 32: of two instances one fires; when it leaves the other one does."""
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin:
        admin.create_topic("beats", partitions=1)

    def begin(name: str) -> Instance:
        app = leading(name)
        return start(app.topology(), state=name, guarantee="at_least_once", timers=app.timers, group_protocol=protocol)

    def beats(name: str) -> int:
        return values(kafka_broker, "beats").count(name)

    first = begin("first")
    wait_for(lambda: beats("first") >= 2, "the first leader")
    second = begin("second")
    wait_for(lambda: second.worker._cluster is not None and second.worker._cluster.confirmed_ms is not None, "a member")
    seen = beats("first")
    wait_for(lambda: beats("first") >= seen + 3, "one of two goes on")
    first.stop()
    wait_for(lambda: beats("second") >= 2, "the second leader")
    second.stop()
    assert [name for name, _ in groupby(values(kafka_broker, "beats"))] == ["first", "second"]


def test_a_timer_that_raises_stops_the_instance(kafka_broker: Broker, start: Start) -> None:
    app = App("app")

    @app.timer("20ms", on_leader=True)
    async def broken() -> None:
        raise ValueError("out of tea")

    instance = start(app.topology(), guarantee="at_least_once", timers=app.timers)
    with pytest.raises(StreamsError, match="the timer broken failed: ValueError: out of tea"):
        instance.join()
