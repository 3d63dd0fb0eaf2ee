"""Whether a wall clock is right: compared with the tree's, and with the boot clock in between."""

from __future__ import annotations

from ottla.clock import SystemClock
from ottla.cluster.wall_clock import OFF_MS_MAX, WallClock

TRUE_MS = 1_767_225_600_000


class Clocks(SystemClock):
    """Both clocks by hand."""

    def __init__(self) -> None:
        self.wall, self.boot = TRUE_MS, 1_000

    def wall_ms(self) -> int:
        return self.wall

    def boot_ms(self) -> int:
        return self.boot

    def pass_time(self, ms: int) -> None:
        self.wall += ms
        self.boot += ms


def test_a_clock_that_was_never_compared_is_not_trusted() -> None:
    assert not WallClock(Clocks()).is_right()


def test_a_jump_is_noticed_without_the_tree_and_forgiven_when_it_is_undone() -> None:
    clocks = Clocks()
    clock = WallClock(clocks)
    clock.on_written(TRUE_MS, TRUE_MS)
    clocks.pass_time(3_600_000)
    assert clock.is_right()
    for jump_ms in (OFF_MS_MAX + 1, -OFF_MS_MAX - 1):
        clocks.wall += jump_ms
        assert not clock.is_right()
        assert clock.off_ms() == jump_ms
        clocks.wall -= jump_ms
        assert clock.is_right()


def test_the_tree_says_that_a_clock_was_wrong_from_the_beginning() -> None:
    clocks = Clocks()
    clock = WallClock(clocks)
    clock.on_written(TRUE_MS, TRUE_MS - 86_400_000)
    assert clock.off_ms() == 86_400_000
    assert not clock.is_right()
    clocks.wall -= 86_400_000  # somebody sets it
    assert clock.is_right()


def test_a_write_that_took_long_says_less() -> None:
    """It was made at some moment in between: only what lies outside is known to be wrong."""
    clocks = Clocks()
    clock = WallClock(clocks)
    clocks.pass_time(600_000)
    clock.on_written(TRUE_MS, TRUE_MS + 100)
    assert clock.off_ms() == 0
    clock.on_written(TRUE_MS, TRUE_MS + 600_500)
    assert clock.off_ms() == -500
