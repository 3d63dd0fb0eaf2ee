"""Every order of a few events: no leader lacks an acknowledged record.

The default run walks a part, the soak run all of it.
"""

from __future__ import annotations

from collections import deque

import pytest
from tests.replication.leader_model import Budget, World

#: Worlds of the default run: those that are reached by the fewest events.
WORLDS = 4_000


def walk(worlds_max: int | None, budget: Budget | None = None) -> int:
    """Visit worlds in the order of how many events lead there; return how many."""
    first = World()
    if budget is not None:
        first.budget = budget
    seen = {first.key()}
    waiting: deque[tuple[World, tuple[str, ...]]] = deque([(first, ())])
    while waiting and (worlds_max is None or len(seen) < worlds_max):
        world, story = waiting.popleft()
        try:
            for event, after in world.next():
                key = after.key()
                if key in seen:
                    continue
                seen.add(key)
                path = (*story, event)
                after.check()
                waiting.append((after, path))
        except AssertionError as error:
            error.add_note("; ".join(story))
            raise
    return len(seen)


def test_no_leader_lacks_what_was_acknowledged() -> None:
    assert walk(WORLDS) >= WORLDS


@pytest.mark.parametrize(
    "budget",
    [
        Budget(records=1, crashes=1, bounces=1, lost_answers=0, lags=1),
        Budget(records=1, crashes=0, bounces=1, lost_answers=1, lags=1),
        Budget(records=2, crashes=1, bounces=0, lost_answers=1, lags=0),
    ],
    ids=str,
)
def test_deeper_with_less(budget: Budget) -> None:
    """With fewer events of each kind the same number of worlds reaches deeper."""
    walk(WORLDS, budget)


@pytest.mark.soak
def test_everything() -> None:
    assert walk(None) > WORLDS
