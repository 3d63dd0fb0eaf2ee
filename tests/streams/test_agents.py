"""Agents: coroutines that take a stream's records one after the other, in the test driver and at their inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from ottla.streams import App, DeadLetter, Record, Records, Retry, Skip
from ottla.streams.agents import Inbox
from ottla.streams.errors import RecordError, TopologyError


def record(key: str, value: Any = None) -> Record:
    return Record(key, value, 0)


def letters(keys: str) -> list[Record]:
    return [record(key) for key in keys]


# -- in an app ------------------------------------------------------------------------------------------------------------


def test_what_an_agent_yields_is_written_under_the_key_and_time_of_its_record() -> None:
    app = App("app")

    @app.agent("in", key=str, value="json", to="out")
    async def double(records: Records) -> AsyncIterator[Any]:
        async for each in records:
            if each.value["n"] > 1:
                yield {"n": each.value["n"] * 2}
                yield Record("other", "text", 5)

    with app.test() as driver:
        driver.topic("in").pipe_many([("a", {"n": 1}, 10), ("b", {"n": 2}, 20)])
        assert [(each.key, each.value, each.timestamp) for each in driver.topic("out").records()] == [
            ("b", '{"n":4}', 20),
            ("other", "text", 5),
        ]


def test_an_agent_takes_a_stream_and_remembers_what_it_likes() -> None:
    app = App("app")
    found: list[tuple[int, str]] = []

    @app.agent(app.stream("in", key=str, value=str).filter(lambda key, value: value != "no"))
    async def remember(records: Records) -> None:
        count = 0
        async for each in records:
            count += 1
            found.append((count, each.value))

    with app.test() as driver:
        driver.topic("in").pipe_many([("k", "a"), ("k", "no"), ("k", "b")])
    assert found == [(1, "a"), (2, "b")]


def test_the_function_stays_the_users_own() -> None:
    app = App("app")

    @app.agent("in", to="out")
    async def upper(records: AsyncIterator[Record]) -> AsyncIterator[str]:
        async for each in records:
            yield each.value.upper()

    async def given() -> AsyncIterator[Record]:
        yield record("k", "a")

    async def run() -> list[str]:
        return [value async for value in upper(given())]

    assert asyncio.run(run()) == ["A"]


def failing(on_error: Any) -> tuple[App, list[str]]:
    """An agent that fails at each "bad" for the first time, and tells which records it was given."""
    app = App("app")
    given: list[str] = []

    @app.agent("in", key=str, value=str, to="out", on_error=on_error)
    async def choosy(records: Records) -> AsyncIterator[str]:
        async for each in records:
            given.append(each.value)
            yield f"{each.value} seen"
            if each.value == "bad" and given.count("bad") == 1:
                raise ValueError("not this one")

    return app, given


def test_an_agent_that_raises_fails_the_app_with_the_record_and_the_line() -> None:
    app, _ = failing(None)
    with (
        app.test() as driver,
        pytest.raises(RecordError, match=r"agent-choosy .* in-0, offset 1, .*test_agents.py:\d+"),
    ):
        driver.topic("in").pipe_many([("k", "good"), ("k", "bad")])


def test_a_record_that_is_skipped_leaves_nothing_and_the_next_one_begins_the_agent_anew() -> None:
    app, given = failing(Skip())
    with app.test() as driver:
        driver.topic("in").pipe_many([("k", "bad"), ("k", "good")])
        assert driver.topic("out").read() == [("k", "good seen")]
    assert given == ["bad", "good"]


def test_a_dead_letter() -> None:
    app, _ = failing(DeadLetter("dead"))
    with app.test() as driver:
        driver.topic("in").pipe("k", "bad")
        assert driver.topic("dead").read() == [("k", "bad")]


def test_a_retry_gives_the_record_to_a_new_agent() -> None:
    app, given = failing(Retry(["10ms"]))
    with app.test() as driver:
        driver.topic("in").pipe_many([("k", "bad"), ("k", "good")])
        assert driver.topic("out").read() == [("k", "bad seen"), ("k", "good seen")]
    assert given == ["bad", "bad", "good"]


def test_agents_are_refused_where_they_cannot_keep_a_promise() -> None:
    async def plain(records: Records) -> None: ...

    async def yielding(records: Records) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TopologyError, match="at least once"):
        App("app", processing_guarantee="exactly_once_v2").agent("in")
    with pytest.raises(TopologyError, match="async def"):
        App("app").agent("in")(lambda records: None)
    with pytest.raises(TopologyError, match="to=topic"):
        App("app").agent("in")(yielding)
    app = App("app")
    with pytest.raises(TopologyError, match="takes no key="):
        app.agent(app.stream("in"), key=str)(plain)
    with pytest.raises(TopologyError, match="name of a topic"):
        App("app").agent("in", to="not a topic")(plain)


# -- at the inbox ---------------------------------------------------------------------------------------------------------


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


async def settled() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_record_is_done_when_the_next_one_is_asked_for() -> None:
    async def main() -> None:
        goes_on = asyncio.Event()

        async def slow(records: Records) -> AsyncIterator[str]:
            async for each in records:
                yield f"{each.key}1"
                await goes_on.wait()
                yield f"{each.key}2"

        inbox = Inbox("slow", slow)
        first, second = [asyncio.ensure_future(inbox.handle(each)) for each in letters("ab")]
        await settled()
        assert not first.done()
        goes_on.set()
        assert [each.value for each in await first] == ["a1", "a2"]
        assert [each.value for each in await second] == ["b1", "b2"]
        await inbox.close()

    run(main)


def test_batches_are_done_together_and_do_not_wait_for_ever() -> None:
    async def main() -> None:
        batches: list[str] = []

        async def storing(records: Records) -> AsyncIterator[str]:
            async for batch in records.take(2, within="5ms"):
                batches.append("".join(each.key for each in batch))
                yield batches[-1]

        inbox = Inbox("storing", storing)
        made = await asyncio.gather(*map(inbox.handle, letters("abc")))
        assert batches == ["ab", "c"]
        assert [[each.value for each in found] for found in made] == [[], ["ab"], ["c"]]
        await inbox.close()

    run(main)


def test_nothing_comes_before_a_record_that_failed_is_decided_about() -> None:
    async def main() -> None:
        given: list[str] = []

        async def failing_at_a(records: Records) -> None:
            async for each in records:
                given.append(each.key)
                if given.count("a") < 3:
                    raise ValueError(each.key)

        inbox = Inbox("failing", failing_at_a)
        first, second = [asyncio.ensure_future(inbox.handle(each)) for each in letters("ab")]
        with pytest.raises(ValueError, match="a"):
            await first
        await settled()
        with pytest.raises(ValueError, match="a"):
            await inbox.again(record("a"))
        assert await inbox.again(record("a")) == []
        await settled()
        assert given == ["a", "a", "a"]
        assert not second.done()
        await inbox.settle()
        await second
        assert given == ["a", "a", "a", "b"]
        await inbox.close()

    run(main)


def test_a_batch_fails_as_a_whole_and_is_retried_record_by_record() -> None:
    async def main() -> None:
        given: list[str] = []

        async def failing_once(records: Records) -> None:
            async for batch in records.take(2, within="5ms"):
                given.append("".join(each.key for each in batch))
                if len(given) == 1:
                    raise ValueError("no")

        inbox = Inbox("failing", failing_once)
        waiting = [asyncio.ensure_future(inbox.handle(each)) for each in letters("abcd")]
        for each, failed in zip(letters("ab"), waiting[:2], strict=True):
            with pytest.raises(ValueError, match="no"):
                await failed
            await inbox.again(each)
            await inbox.settle()
        await asyncio.gather(*waiting[2:])
        assert given == ["ab", "a", "b", "cd"]
        await inbox.close()

    run(main)


def test_an_agent_that_returns_is_begun_anew() -> None:
    async def main() -> None:
        begun = 0

        async def only_one(records: Records) -> None:
            nonlocal begun
            begun += 1
            async for _ in records:
                return

        inbox = Inbox("only", only_one)
        await asyncio.gather(*map(inbox.handle, letters("abc")))
        assert begun == 3

    run(main)


@pytest.mark.parametrize("error", [None, SystemExit(3), ValueError("not today")])
def test_an_agent_that_takes_nothing_fails_the_record_instead_of_stalling(error: BaseException | None) -> None:
    async def main() -> None:
        async def idle(records: Records) -> None:
            if error is not None:
                raise error

        with pytest.raises(Exception, match=r"without having taken|raised SystemExit|not today"):
            await Inbox("idle", idle).handle(record("a"))

    run(main)


def test_a_closed_inbox_ends_its_agent() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def careful(records: Records) -> None:
            try:
                async for _ in records:
                    await asyncio.Event().wait()
            finally:
                ended.append("cleaned up")

        inbox = Inbox("careful", careful)
        waiting = asyncio.ensure_future(inbox.handle(record("a")))
        await settled()
        waiting.cancel()
        await inbox.close()
        assert ended == ["cleaned up"]

    run(main)
