"""What is run in which order: the important first, and every case once before any has all its pairs.

Round by round: two pairs of the starred cases (those with five), one of the others, one of the long ones, the rest of the
starred, the second ones. Within a round in the order of the table. So a run that is cut short has something of
everything, and most of what matters most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from benchmarks.compare.cases import STARRED, Case

#: Round in which a pair runs, by its number.
ROUNDS_STARRED = (0, 1, 4, 5, 6)
ROUNDS_OTHERS = (2, 7)
ROUNDS_LATE = (3, 8)
#: Starting both brokers and warming them up, once a run.
WARM_UP_S = 75.0


@dataclass(frozen=True)
class Task:
    """One pair of one case."""

    case: Case
    number: int

    @property
    def round(self) -> int:
        rounds: tuple[int, ...] = ROUNDS_STARRED if self.case.pairs >= STARRED else ROUNDS_OTHERS
        if self.case.late:
            rounds = ROUNDS_LATE
        return rounds[min(self.number, len(rounds) - 1)]


def plan(cases: Iterable[Case], pairs: int | None = None) -> list[Task]:
    """Return all pairs in order; `pairs` bounds how many of each."""
    tasks = [
        Task(case, number)
        for case in cases
        for number in range(case.pairs if pairs is None else min(pairs, case.pairs))
    ]
    return sorted(tasks, key=lambda task: task.round)


def within(
    tasks: Iterable[Task], budget_s: float, elapsed_s: Callable[[], float], estimate_s: Callable[[Task], float]
) -> Iterable[tuple[Task, bool]]:
    """Yield each task with whether it still fits. One that does not is passed over: a shorter one behind it may fit."""
    for task in tasks:
        yield task, elapsed_s() + estimate_s(task) <= budget_s


def order(contestants: Collection[str], number: int) -> tuple[str, ...]:
    """Return who runs first: turn and turn about."""
    names = tuple(contestants)
    return names if number % 2 == 0 else names[::-1]


def estimate(task: Task, scale: float, took: Collection[float]) -> float:
    """Return the seconds a pair will take: what earlier pairs of the case took, else the table's figure.

    Starting brokers and JVMs does not get shorter with less load: about a third of a case.
    """
    if took:
        return max(took)
    return task.case.seconds * (0.35 + 0.65 * min(1.0, scale) if scale <= 1 else scale)
