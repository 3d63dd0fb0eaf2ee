"""What becomes of processes: the runs of tasks that are wanted here, compared with those that there are, without I/O.

Invariant: of a task that some process may still run no other run is started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TaskId = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A task that is to run.

    Attributes:
        run: its number; another one is another run.
    """

    run: int
    is_paused: bool
    config: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class HostView:
    """A process with tasks of one connector.

    Attributes:
        runs: of each task that it may run, which run.
        ending: tasks that it was told to end.
    """

    connector: str
    runs: dict[int, int]
    is_paused: bool = False
    ending: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartHost:
    """Start a process with these tasks."""

    connector: str
    tasks: Mapping[int, Wanted]
    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndTasks:
    """Have a process end tasks."""

    host: int
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Have the tasks of a process pause, or go on."""

    host: int
    is_paused: bool


Action = StartHost | EndTasks | Pause


def decide(wanted: Mapping[TaskId, Wanted], hosts: Mapping[int, HostView]) -> list[Action]:
    """Return what is to be done so that what is wanted runs, and nothing else."""
    actions: list[Action] = []
    taken: set[TaskId] = set()
    for host, view in hosts.items():
        taken.update((view.connector, number) for number in view.runs)
        over = [
            number
            for number, run in view.runs.items()
            if number not in view.ending and not _is_wanted(wanted.get((view.connector, number)), run)
        ]
        if over:
            actions.append(EndTasks(host=host, tasks=tuple(over)))
        mine = [wanted[view.connector, number] for number in view.runs if (view.connector, number) in wanted]
        if mine and mine[0].is_paused != view.is_paused:
            actions.append(Pause(host=host, is_paused=mine[0].is_paused))
    new: dict[str, dict[int, Wanted]] = {}
    for task, what in wanted.items():
        if task not in taken:
            new.setdefault(task[0], {})[task[1]] = what
    for connector, tasks in new.items():
        is_paused = next(iter(tasks.values())).is_paused
        actions.append(StartHost(connector=connector, tasks=tasks, is_paused=is_paused))
    return actions


def _is_wanted(what: Wanted | None, run: int) -> bool:
    return what is not None and what.run == run
