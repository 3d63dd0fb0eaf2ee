"""Tasks of a streams application: which there are, who should run them, who runs them.

A task is a subtopology and a partition of its input. It is run by one member (active), kept ready by others (standby),
or being made ready (warm-up). An active task that a member runs carries the epoch in which it was assigned: a commit of an
older epoch comes from before. KIP-1071, KIP-1251.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class TaskId(NamedTuple):
    """Names a task: tasks sort by subtopology, then partition."""

    subtopology: str
    partition: int


TaskSet = frozenset[TaskId]
NO_TASK: TaskSet = frozenset()


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks by role: a target, or what a member says it owns."""

    active: TaskSet = NO_TASK
    standby: TaskSet = NO_TASK
    warmup: TaskSet = NO_TASK

    def has_any_of(self, other: AssignedTasks) -> bool:
        """Whether some task of `other` is here in the same role."""
        return (
            not self.active.isdisjoint(other.active)
            or not self.standby.isdisjoint(other.standby)
            or not self.warmup.isdisjoint(other.warmup)
        )


@dataclass(frozen=True, slots=True)
class AssignedTasks:
    """Tasks that a member has been given, the active ones with the epoch in which it got them."""

    active: Mapping[TaskId, int]
    standby: TaskSet = NO_TASK
    warmup: TaskSet = NO_TASK

    def __bool__(self) -> bool:
        return bool(self.active or self.standby or self.warmup)

    def covers(self, owned: Tasks) -> bool:
        """Whether everything `owned` is here in the same role."""
        return owned.active <= self.active.keys() and owned.standby <= self.standby and owned.warmup <= self.warmup

    def merged(self, other: AssignedTasks) -> AssignedTasks:
        """Return both together."""
        return AssignedTasks({**self.active, **other.active}, self.standby | other.standby, self.warmup | other.warmup)

    def with_epochs_zero(self) -> AssignedTasks:
        """Return the same tasks as if assigned in epoch 0: those of a static member that may come back."""
        return AssignedTasks(dict.fromkeys(self.active, 0), self.standby, self.warmup)


NOTHING = Tasks()
NOTHING_ASSIGNED = AssignedTasks({})


class HasTaskIds(Protocol):
    """The shape in which messages and records carry the tasks of one subtopology."""

    subtopology_id: str
    partitions: list[int]


def task_set(carried: Iterable[HasTaskIds]) -> TaskSet:
    """Return the tasks that a message or record carries."""
    return frozenset(TaskId(ids.subtopology_id, partition) for ids in carried for partition in ids.partitions)


def by_subtopology(tasks: Iterable[TaskId]) -> list[tuple[str, list[int]]]:
    """Return the tasks as messages and records carry them: sorted partitions of sorted subtopologies."""
    grouped: dict[str, list[int]] = {}
    for subtopology, partition in sorted(tasks):
        grouped.setdefault(subtopology, []).append(partition)
    return list(grouped.items())
