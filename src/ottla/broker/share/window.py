"""Window: the records of a share partition that are in flight, as runs of offsets that share their fate.

A run is split only where a part of it changes its state alone; neighbours are not joined again, they leave together when the
window moves. Knows numbers and states; knows no members' rights, no limits, no time.

Invariants: runs are ordered and do not overlap; every offset of a run is at or above `start_offset` and below `frontier`, the
first offset that was never handed out; `start_offset` and `frontier` only move forward.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.share.batches import DeliveryState, StateBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_MEMBER = ""


class Batch(NamedTuple):
    """Offsets that were delivered together at first; what a record that fails again and again is isolated from."""

    first: int
    last: int


class Transition:
    """A change of state that is being persisted: it takes effect, or is taken back, as a whole."""

    __slots__ = ("updates",)

    def __init__(self) -> None:
        self.updates: list[StateBatch] = []


class Run:
    """Offsets `first` to `last`, both included.

    Attributes:
        member_id: the member that has acquired them.
        deadline_ms: until when.
        pending: the change on its way to `next_state`, if there is one. No other change may touch the run meanwhile.
    """

    __slots__ = (
        "batch",
        "deadline_ms",
        "deliveries",
        "first",
        "last",
        "member_id",
        "next_state",
        "pending",
        "state",
    )

    def __init__(self, first: int, last: int, state: DeliveryState, deliveries: int, batch: Batch) -> None:
        self.first = first
        self.last = last
        self.state = state
        self.deliveries = deliveries
        self.batch = batch
        self.member_id = NO_MEMBER
        self.deadline_ms = 0
        self.pending: Transition | None = None
        self.next_state = state

    @property
    def is_available(self) -> bool:
        return self.state is DeliveryState.AVAILABLE and self.pending is None

    @property
    def is_done(self) -> bool:
        """Whether nothing more will happen to these records."""
        return self.state.is_terminal and self.pending is None

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def tail(self, first: int) -> Run:
        """Cut the run before `first`; return what is cut off."""
        other = Run(first, self.last, self.state, self.deliveries, self.batch)
        other.member_id, other.deadline_ms = self.member_id, self.deadline_ms
        other.pending, other.next_state = self.pending, self.next_state
        self.last = first - 1
        return other


class Window:
    """The runs in flight."""

    __slots__ = ("_firsts", "frontier", "runs", "start_offset")

    def __init__(self, start_offset: int) -> None:
        self.start_offset = start_offset
        self.frontier = start_offset
        self.runs: list[Run] = []
        #: `first` of every run, for bisection.
        self._firsts: list[int] = []

    @property
    def in_flight(self) -> int:
        """How many offsets the window spans."""
        return self.frontier - self.start_offset if self.runs else 0

    def append(self, run: Run) -> None:
        """Add records that were never handed out before."""
        assert run.first >= self.frontier
        if not self.runs:
            self.start_offset = run.first
        self.runs.append(run)
        self._firsts.append(run.first)
        self.frontier = run.last + 1

    def between(self, first: int, last: int) -> list[Run]:
        """Return the runs that have an offset in [first, last]."""
        low, high = self._span(first, last)
        return self.runs[low:high]

    def cut(self, first: int, last: int) -> Iterator[Run]:
        """Yield the parts of runs in [first, last], cut out where they are only a part."""
        low, high = self._span(first, last)
        index = low
        while index < high:
            run = self.runs[index]
            if run.first < first:
                self._insert(index + 1, run.tail(first))
                high += 1
                index += 1
                run = self.runs[index]
            if run.last > last:
                self._insert(index + 1, run.tail(last + 1))
            yield run
            index += 1

    def split(self, run: Run, first: int) -> None:
        """Make `first` the beginning of a run of its own."""
        self._insert(bisect_right(self._firsts, run.first), run.tail(first))

    def move_start(self, offset: int) -> None:
        """Forget everything below `offset`: the log does not have it any more."""
        if offset <= self.start_offset:
            return
        kept = bisect_right(self._firsts, offset) - 1
        if kept >= 0:
            if self.runs[kept].last >= offset:
                self.runs[kept].first = self._firsts[kept] = offset
            else:
                kept += 1
            del self.runs[:kept], self._firsts[:kept]
        self.start_offset = offset
        self.frontier = max(self.frontier, offset)

    def advance(self) -> bool:
        """Let go what is done at the beginning; return whether the start has moved."""
        done = 0
        for run in self.runs:
            if not run.is_done:
                break
            done += 1
        if not done:
            return False
        del self.runs[:done], self._firsts[:done]
        self.start_offset = self.runs[0].first if self.runs else self.frontier
        return True

    def count_complete(self) -> int:
        """Return how many records will not be delivered again, those included whose change is being persisted."""
        return sum(run.size for run in self.runs if (run.state if run.pending is None else run.next_state).is_terminal)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        low = max(bisect_right(self._firsts, first) - 1, 0)
        if low < len(self.runs) and self.runs[low].last < first:
            low += 1
        return low, max(bisect_right(self._firsts, last), low)

    def _insert(self, index: int, run: Run) -> None:
        self.runs.insert(index, run)
        self._firsts.insert(index, run.first)
