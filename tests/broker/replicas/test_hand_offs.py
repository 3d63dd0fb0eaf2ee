"""Blocking calls that share a hop to a thread: each gets its own outcome, and one that hangs holds up few."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ottla.broker.replicas.hand_offs import LANES, HandOffs
from ottla.offload import InlineOffload


class Hops(InlineOffload):
    """Threads that begin when the test says so; `broken`: none is to be had."""

    def __init__(self) -> None:
        self.count = 0
        self.let_go = asyncio.Semaphore(0)
        self.broken = False

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.broken:
            raise RuntimeError("cannot start new thread")
        self.count += 1
        await self.let_go.acquire()
        return function(*args, **kwargs)


def fail() -> None:
    raise OSError("no disk")


async def test_calls_of_one_turn_go_together_and_each_has_its_own_outcome() -> None:
    threads = Hops()
    hand_offs = HandOffs(threads)
    one, bad, two = hand_offs.run(lambda: 1), hand_offs.run(fail), hand_offs.run(lambda: 2)
    threads.let_go.release()
    assert (await one, await two) == (1, 2)
    with pytest.raises(OSError, match="no disk"):
        await bad
    assert threads.count == 1


async def test_what_comes_while_all_lanes_are_taken_goes_together_in_the_next() -> None:
    threads = Hops()
    hand_offs = HandOffs(threads)
    early = []
    for number in range(LANES):
        early.append(hand_offs.run(lambda number=number: number))  # type: ignore[misc]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    late = [hand_offs.run(lambda number=number: number) for number in range(10)]  # type: ignore[misc]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert threads.count == LANES
    for _ in range(LANES + 1):
        threads.let_go.release()
    assert await asyncio.gather(*early) == list(range(LANES))
    assert await asyncio.gather(*late) == list(range(10))
    assert threads.count == LANES + 1


async def test_without_a_thread_everybody_is_told_and_later_ones_are_tried() -> None:
    threads = Hops()
    hand_offs = HandOffs(threads)
    threads.broken = True
    first, second = hand_offs.run(lambda: 1), hand_offs.run(lambda: 2)
    for waiting in first, second:
        with pytest.raises(RuntimeError, match="cannot start"):
            await waiting
    threads.broken = False
    threads.let_go.release()
    assert await hand_offs.run(lambda: 3) == 3


async def test_a_call_runs_even_if_nobody_waits_for_it_any_more() -> None:
    threads, ran = Hops(), asyncio.Event()
    waiting = HandOffs(threads).run(ran.set)
    waiting.cancel()
    assert not ran.is_set()
    threads.let_go.release()
    await asyncio.wait_for(ran.wait(), 20)
    assert ran.is_set()
    assert waiting.cancelled()
