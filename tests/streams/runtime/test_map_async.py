"""Calls of map_async on the model of a cluster: they end when the test says so, and the process is killed in between."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import Future
from typing import Any

import pytest
from tests.streams.runtime.model import Killed, World
from tests.streams.runtime.test_engine import Thread, found
from tests.streams.runtime.topologies import CHANGELOG

from ottla.errors import MessageTooLargeError
from ottla.streams import App
from ottla.streams import calls as calls_module
from ottla.streams.calls import Function, LoopCalls, RetryTime
from ottla.streams.handlers import DeadLetter, Handlers, Retry, Skip
from ottla.streams.records import Record
from ottla.streams.topology import TaskId, Topology

TASK = TaskId(0, 0)


class HeldCalls:
    """Calls that end when they are let go."""

    def __init__(self) -> None:
        self.retries = RetryTime()
        self.held: list[tuple[Future[Any], Function]] = []
        self.begun = 0

    def start(self, function: Function) -> Future[Any]:
        future: Future[Any] = Future()
        self.held.append((future, function))
        self.begun += 1
        return future

    def end(self, place: int = 0) -> None:
        """Let one call come back."""
        future, function = self.held.pop(place)
        if future.cancelled():
            return
        try:
            function().send(None)
        except StopIteration as ended:
            future.set_result(ended.value)
        except Exception as error:
            future.set_exception(error)
        else:
            raise AssertionError("these functions await nothing")

    def close(self) -> None:
        self.held.clear()


async def same(value: str) -> str:
    return value


async def told(count: int) -> str:
    return f"{count}!"


def counting(*, ordered: bool = True, concurrency: int = 3) -> Topology:
    """A look-up, a count per key, and a look-up for each count."""
    app = App("app")
    (
        app.stream("keyed", key=str, value=str)
        .map_async(same, concurrency=concurrency, ordered=ordered, value=str)
        .group_by_key()
        .count(store="counts")
        .to_stream()
        .map_async(told, concurrency=concurrency, ordered=ordered, value=str)
        .to("counts", key=str, value=str)
    )
    return app.topology()


def keyed(keys: str) -> World:
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1, "dead": 1})
    for number, key in enumerate(keys):
        world.write("keyed", key.encode(), b"x", number)
    return world


def wanted(keys: str) -> dict[str, list[str]]:
    return {key: [f"{number + 1}!" for number in range(keys.count(key))] for key in dict.fromkeys(keys)}


KEYS = "abacabadab"


def test_results_go_on_in_the_order_of_their_records() -> None:
    world, calls = keyed("abc"), HeldCalls()
    thread = Thread(world, counting(), calls=calls)
    thread.run(3)
    assert calls.begun == 3
    calls.end(2)
    thread.run(2)
    assert calls.begun == 3, "c waits for a and b"
    calls.end(0)
    calls.end(0)
    thread.turn()
    assert calls.begun == 6
    while calls.held:
        calls.end()
        thread.turn()
    thread.run(5)
    assert found(world) == wanted("abc")


def test_without_order_what_comes_back_first_goes_on_first() -> None:
    world, calls = keyed("abc"), HeldCalls()
    thread = Thread(world, counting(ordered=False), calls=calls)
    thread.run(3)
    calls.end(2)
    thread.turn()
    assert calls.begun == 4, "c is counted, and its count looked up"


def test_no_more_calls_than_concurrency_and_no_record_is_taken_meanwhile() -> None:
    world, calls = keyed("a" * 20), HeldCalls()
    thread = Thread(world, counting(concurrency=4), calls=calls)
    thread.run(3)
    assert len(calls.held) == 4
    assert thread.engine.tasks[TASK].next_offsets[thread.partitions()[0]] == 4


def test_a_commit_waits_for_the_calls_and_takes_nothing_meanwhile() -> None:
    """Rule 28: offsets are committed when no call is in flight; until then no record is taken."""
    world, calls = keyed(KEYS), HeldCalls()
    thread = Thread(world, counting(concurrency=3), calls=calls)
    thread.run(30)
    assert world.offsets == {}, "three records wait, and a commit was due long ago"
    begun = calls.begun
    calls.end()
    thread.turn()
    calls.end(1)
    thread.turn()
    assert all(each.done() is False for each, _ in calls.held)
    assert calls.begun > begun, "what comes back goes on"
    task = thread.engine.tasks[TASK]
    assert task.next_offsets[thread.partitions()[0]] == 3
    while calls.held:
        calls.end()
        thread.turn()
        if world.offsets:
            break
    assert world.offsets[thread.partitions()[0]][0] == 3


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_async_kill_between(seed: int, ordered: bool) -> None:
    """Killed at random steps while calls are in flight: each record counts once, each count is looked up for one result."""
    dice = random.Random(seed)
    world = keyed(KEYS)
    world.late_markers = dice.random() < 0.5
    for _ in range(6):
        world.kill_at = world.steps + dice.randrange(1, 60)
        calls = HeldCalls()
        try:
            thread = Thread(world, counting(ordered=ordered), calls=calls)
            for _ in range(40):
                thread.turn()
                if calls.held and dice.random() < 0.7:
                    calls.end(dice.randrange(len(calls.held)))
        except Killed:
            pass
        world.held.clear()
        if dice.random() < 0.2:
            world.disk.clear()
    world.kill_at = None
    calls = HeldCalls()
    thread = Thread(world, counting(ordered=ordered), calls=calls)
    for _ in range(200):
        thread.turn()
        if calls.held:
            calls.end()
    world.tick()
    counts = found(world)
    if not ordered:
        counts = {key: sorted(values, key=lambda text: int(text[:-1])) for key, values in counts.items()}
    assert counts == wanted(KEYS)


def test_async_revoked_result_dropped() -> None:
    """A partition is revoked while calls are in flight: nothing of them is committed, and the next owner calls again."""
    world, calls = keyed("ab"), HeldCalls()
    first = Thread(world, counting(), calls=calls)
    first.run(3)
    calls.end()  # it came back, and was not collected yet
    first.engine.on_revoked(first.partitions())
    assert world.offsets == {}
    assert first.engine.tasks == {}
    assert all(future.cancelled() for future, _ in calls.held)
    first.run(3)
    assert found(world) == {}
    later = HeldCalls()
    second = Thread(world, counting(), transactional_id="app-2", calls=later)
    for _ in range(20):
        second.turn()
        if later.held:
            later.end()
    assert later.begun == 4, "two records, two counts"
    assert found(world) == wanted("ab")


def test_a_revocation_without_calls_in_flight_commits() -> None:
    world, calls = keyed("ab"), HeldCalls()
    thread = Thread(world, counting(), calls=calls)
    for _ in range(10):
        thread.turn()
        if calls.held:
            calls.end()
    thread.engine.on_revoked(thread.partitions())
    assert found(world) == wanted("ab")


def test_dead_letter_of_a_call_that_fails_goes_with_its_input() -> None:
    """The handler is asked about the record whose call failed, not about the one at hand."""
    asked: list[int] = []

    async def picky(value: str) -> str:
        if value == "bad":
            raise ValueError("no such thing")
        return value

    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(picky, value=str).to("counts")

    def handler(record: Any) -> Any:
        asked.append(record.source.offset)
        return DeadLetter("dead")

    world, calls = keyed(""), HeldCalls()
    for value in (b"good", b"bad", b"good"):
        world.write("keyed", b"k", value)
    handlers = Handlers(processing=handler)
    thread = Thread(world, app.topology(), handlers=handlers, calls=calls)
    thread.run(3)
    while calls.held:
        calls.end()
    thread.run(8)
    assert found(world)["k"] == ["good", "good"]
    assert found(world, "dead") == {"k": ["bad"]}
    assert asked == [1]


def test_an_output_that_the_broker_refuses_is_blamed_on_its_record() -> None:
    """On replay the production handler gets the output of the call before it is sent."""
    world = keyed("abc")
    world.refuse = {("counts", b"b"): MessageTooLargeError("too large")}
    handlers = Handlers(production=DeadLetter("dead"))
    calls = HeldCalls()
    thread = Thread(world, counting(), handlers=handlers, calls=calls)
    for _ in range(60):
        thread.turn()
        while calls.held:
            calls.end()
    assert found(world) == {"a": ["1!"], "c": ["1!"]}
    assert found(world, "dead") == {"b": ["x"]}


def test_a_call_that_is_no_coroutine_says_what_to_write() -> None:
    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(str.upper, value=str).to("counts")  # type: ignore[arg-type]
    with app.test() as driver, pytest.raises(Exception, match="needs an async function"):
        driver.topic("keyed").pipe("k", "v")


def test_the_driver_waits_for_each_call() -> None:
    async def looked_up(key: str, value: str) -> str:
        await asyncio.sleep(0)
        return f"{key}={value}"

    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(looked_up, with_key=True, value=str).to("counts")
    with app.test() as driver:
        driver.topic("keyed").pipe("k", "v", at=5)
        records = driver.topic("counts").read()
    assert records == [("k", "k=v")]


class Ticker:
    """Forwards a record at each tick of the wall clock, nothing else."""

    def init(self, context: Any) -> None:
        self.context = context
        context.schedule("30ms", self.tick, by="wall_clock")

    def process(self, record: Record) -> None:
        """Take a record, and forward nothing."""

    def tick(self, now_ms: int) -> None:
        self.context.forward(Record("tick", "x", now_ms))


def test_a_schedule_that_begins_calls_does_not_keep_a_commit_waiting() -> None:
    """A call takes longer than the schedule's interval, so that there is one in flight at any time."""
    app = App("app")
    (
        app.stream("keyed", key=str, value=str)
        .process(Ticker, key=str, value=str)
        .map_async(same, concurrency=50, value=str)
        .to("counts", key=str, value=str)
    )
    world, calls = keyed("abc"), HeldCalls()
    thread = Thread(world, app.topology(), calls=calls)
    for _ in range(200):
        old = len(calls.held)
        thread.turn()
        for _ in range(old):
            calls.end()
    assert thread.engine.commits > 10
    assert world.offsets[thread.partitions()[0]][0] == 3
    assert len(found(world)["tick"]) > 20, "and the schedule fires between commits"


def test_a_schedule_fires_though_every_turn_ends_with_a_commit_that_waits() -> None:
    app = App("app")
    (
        app.stream("keyed", key=str, value=str)
        .process(Ticker, key=str, value=str)
        .map_async(same, concurrency=50, value=str)
        .to("counts", key=str, value=str)
    )
    world, calls = keyed("abc"), HeldCalls()
    thread = Thread(world, app.topology(), calls=calls)
    thread.run(3)
    begun = calls.begun
    for _ in range(20):
        thread.engine.commit()
        thread.turn()
        while calls.held:
            calls.end()
    assert calls.begun > begun + 5


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_call_that_wants_to_end_the_process_comes_back_as_an_error(error: type[BaseException]) -> None:
    """It does not end the event loop, behind which all other calls would wait for ever."""

    async def ends() -> None:
        raise error

    async def works() -> str:
        return "works"

    calls = LoopCalls()
    try:
        with pytest.raises(RuntimeError, match=error.__name__):
            calls.start(ends).result(10)
        assert calls.start(works).result(10) == "works"
    finally:
        calls.close()


def test_a_call_of_a_retry_that_does_not_come_back_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits for it, and no longer than so; nothing is left for the next try, and the handler says what follows."""
    monkeypatch.setattr(calls_module, "RETRIES_S", 0.05)
    given_up: list[str] = []
    tries: list[str] = []

    async def hangs(value: str) -> str:
        if value == "good":
            return value
        tries.append(value)
        if len(tries) == 1:
            raise ConnectionError("away")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.append(value)
            raise
        return value

    app = App("app")
    app.stream("keyed", key=str, value=str).map_async(hangs, value=str).to("counts")
    world, calls = keyed(""), LoopCalls()
    for value in (b"bad", b"good"):
        world.write("keyed", b"k", value)
    handlers = Handlers(processing=Retry(["0s", "0s"], then=Skip()))
    try:
        thread = Thread(world, app.topology(), handlers=handlers, calls=calls)
        deadline = time.monotonic() + 30
        while found(world).get("k") != ["good"] and time.monotonic() < deadline:
            thread.run(1)
        assert found(world)["k"] == ["good"]
    finally:
        calls.close()
    assert tries == ["bad"] * 2
    assert given_up == ["bad"]


def test_retries_share_their_time_until_the_next_commit() -> None:
    """Two records whose calls are made again cannot together outlast a transaction; after a commit all the time is back."""
    retries, calls = RetryTime(), LoopCalls()

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def quick() -> str:
        return "here"

    try:
        retries.left_s = 0.05
        with pytest.raises(TimeoutError, match="share 8 s"):
            retries.run(lambda: calls.start(hangs))
        with pytest.raises(TimeoutError, match="not made again"):
            retries.run(lambda: calls.start(quick))
        retries.begin_anew()
        assert retries.run(lambda: calls.start(quick)) == "here"
        assert 0 < retries.left_s < 8
    finally:
        calls.close()


def test_a_commit_gives_retries_their_time_back() -> None:
    world, calls = keyed("a"), HeldCalls()
    thread = Thread(world, counting(), calls=calls)
    calls.retries.left_s = 0.0
    thread.run(3)
    while calls.held:
        calls.end()
        thread.turn()
    thread.run(5)
    assert found(world) == wanted("a")
    assert calls.retries.left_s == 8.0
