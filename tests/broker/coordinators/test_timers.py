"""Timers of a shard, in virtual time."""

from __future__ import annotations

import asyncio

from ottla.broker.coordinators.shard import Result, TimerOperation
from ottla.broker.coordinators.timers import ShardTimers
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def played(*steps: tuple[str, str, int]) -> list[tuple[int, str]]:
    """Run `(action, key, milliseconds)`: set, cancel, or wait; return what fired, and when."""
    fired: list[tuple[int, str]] = []

    async def main(loop: VirtualLoop) -> None:
        timers = ShardTimers(loop, lambda operation: fired.append((round(loop.time() * 1000), run(operation))))
        for action, key, milliseconds in steps:
            if action == "set":
                timers.schedule((key,), milliseconds, lambda now_ms, name=f"{key}{milliseconds}": Result(name))  # type: ignore[misc]
            elif action == "postpone":
                timers.postpone((key,), milliseconds)
            elif action == "cancel":
                timers.cancel((key,))
            elif action == "cancel all":
                timers.cancel_all()
            else:
                await asyncio.sleep(milliseconds / 1000)
        await asyncio.sleep(10)
        assert len(timers) == 0

    def run(operation: TimerOperation) -> str:
        return str(operation(0).response)

    run_virtual(1, main)
    return fired


def test_it_fires_once() -> None:
    assert played(("set", "a", 100)) == [(100, "a100")]


def test_setting_it_again_later_pushes_it_back_and_takes_the_new_operation() -> None:
    assert played(("set", "a", 100), ("wait", "", 60), ("set", "a", 101), ("wait", "", 50)) == [(161, "a101")]


def test_setting_it_again_earlier_brings_it_forward() -> None:
    assert played(("set", "a", 100), ("set", "a", 30)) == [(30, "a30")]


def test_pushed_back_and_then_forward() -> None:
    assert played(("set", "a", 100), ("set", "a", 300), ("set", "a", 150)) == [(150, "a150")]


def test_cancelled_timers_are_silent() -> None:
    assert played(("set", "a", 100), ("set", "b", 100), ("cancel", "a", 0), ("cancel", "c", 0)) == [(100, "b100")]
    assert played(("set", "a", 100), ("set", "b", 100), ("cancel all", "", 0)) == []


def test_a_timer_that_has_fired_can_be_set_again() -> None:
    assert played(("set", "a", 10), ("wait", "", 50), ("set", "a", 20)) == [(10, "a10"), (70, "a20")]


def test_postponing_moves_what_is_scheduled_and_nothing_else() -> None:
    assert played(("set", "a", 100), ("postpone", "a", 300)) == [(300, "a100")]
    assert played(("set", "a", 100), ("postpone", "a", 30)) == [(30, "a100")]
    assert played(("set", "a", 100), ("postpone", "a", 300), ("postpone", "a", 150)) == [(150, "a100")]
    assert played(("postpone", "a", 30)) == []
    assert played(("set", "a", 10), ("wait", "", 50), ("postpone", "a", 20)) == [(10, "a10")]
