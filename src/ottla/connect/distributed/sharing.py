"""Which worker of a group runs which task: decided by the group's leader at each rebalance, without I/O.

Tasks stay where they are; only what is needed for balance is taken away, and is given to another worker in the round after
the one in which its worker has ended it (KIP-415). What a worker that has vanished ran is held back for
`scheduled.rebalance.max.delay.ms`: it may come back, and gets its tasks again at once.

Invariant: a task is given to a worker only when no other one claims it, and when the last one that may have run it is here
without a claim, has given it up, or has been away for so long that its tasks have ended (`membership.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ottla.connect.errors import ConnectError
from ottla.connect.runtime.runs import TaskId

#: The protocol's name is not Java's: the broker refuses whichever kind of worker comes second to a group.
PROTOCOL = "ottla-1"
PROTOCOL_TYPE = "connect"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """What a worker tells the leader.

    Attributes:
        url: where its REST interface is.
        offset: how far it has read the topic of configurations.
        tasks: what it may run, or what may still run there.
    """

    url: str
    offset: int
    tasks: frozenset[TaskId] = frozenset()

    @property
    def worker_id(self) -> str:
        """What statuses call the worker."""
        return urlsplit(self.url).netloc

    def encode(self) -> bytes:
        """Return it as bytes."""
        return _dump({"url": self.url, "offset": self.offset, "tasks": sorted(self.tasks)})

    @classmethod
    def decode(cls, data: bytes) -> WorkerState:
        """Undo `encode`.

        Raises:
            ConnectError: these are no such bytes.
        """
        found = _load(data)
        return cls(url=found["url"], offset=found["offset"], tasks=_tasks(found["tasks"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the leader gives a worker: all that it runs from now on."""

    leader_url: str
    tasks: frozenset[TaskId] = frozenset()

    def encode(self) -> bytes:
        """Return it as bytes."""
        return _dump({"leader_url": self.leader_url, "tasks": sorted(self.tasks)})

    @classmethod
    def decode(cls, data: bytes) -> Assignment:
        """Undo `encode`.

        Raises:
            ConnectError: these are no such bytes.
        """
        found = _load(data)
        return cls(leader_url=found["leader_url"], tasks=_tasks(found["tasks"]))


def _dump(what: Mapping[str, Any]) -> bytes:
    return json.dumps(what, separators=(",", ":")).encode()


def _load(data: bytes) -> Any:
    try:
        found = json.loads(data)
        return found if isinstance(found, dict) else {}
    except ValueError as error:
        raise ConnectError(f"A member of the group says something that is no JSON: {error}") from None


def _tasks(rows: Iterable[Sequence[Any]]) -> frozenset[TaskId]:
    return frozenset((str(name), int(number)) for name, number in rows)


class Leader:
    """What a leader keeps between rebalances. Of the one before it knows nothing.

    Args:
        delay_s: for how long tasks of a vanished worker are held back.
        grace_s: how long after a worker was dropped from the group its tasks may still run.
    """

    def __init__(self, *, delay_s: float, grace_s: float) -> None:
        self._delay_s = delay_s
        self._grace_s = grace_s
        self._generation: int | None = None
        #: The worker that a task was last with; tasks that are gone stay here: they may come back.
        self._last: dict[TaskId, str] = {}
        self._held: dict[TaskId, float] = {}
        self._bound: dict[str, str] = {}
        #: All tasks that were shared out, or held back, in the last round.
        self.shared: set[TaskId] = set()

    def due_s(self) -> float | None:
        """Return when tasks are to be given away that are held back; None: there are none."""
        return min(self._held.values(), default=None)

    def share(
        self,
        now_s: float,
        generation: int,
        members: Mapping[str, WorkerState],
        tasks: Iterable[TaskId],
        running_at: Mapping[TaskId, str],
        bound: Mapping[str, str],
    ) -> dict[str, set[TaskId]]:
        """Return the tasks of each member.

        Args:
            tasks: all that are to run.
            running_at: the worker at which a task was last said to run: what a leader that is new knows of those before.
            bound: of connectors whose tasks run on one worker only, that one; while it is away they run nowhere.
        """
        wanted = set(tasks)
        self._bound = dict(bound)
        is_new = self._generation is None or generation != self._generation + 1
        self._generation = generation
        if is_new:
            self._last, self._held = dict(running_at), {}
        claims: dict[TaskId, list[str]] = {}
        for member in sorted(members):
            for task in members[member].tasks:
                claims.setdefault(task, []).append(member)
        given: dict[str, set[TaskId]] = {member: set() for member in sorted(members)}
        free: list[TaskId] = []
        held, self._held = self._held, {}
        present = {state.worker_id for state in members.values()}
        for task in sorted(wanted):
            claimants = claims.get(task, [])
            if claimants:
                keeper = self._keeper(task, claimants, members)
                if self._may_run(task, members[keeper]):  # else it is taken away, and given in the next round
                    given[keeper].add(task)
            elif self._last.get(task) in {None, *present}:
                free.append(task)
            else:
                due = held.get(task, now_s + (self._grace_s if is_new else max(self._delay_s, self._grace_s)))
                if due > now_s:
                    self._held[task] = due
                else:
                    free.append(task)
        for task in free:
            able = {member: found for member, found in given.items() if self._may_run(task, members[member])}
            if able:
                given[_least_loaded(able, task, members)].add(task)
        self._last |= {task: members[claimants[0]].worker_id for task, claimants in claims.items()}
        self._last |= {task: members[owner].worker_id for owner, found in given.items() for task in found}
        if not self._held:
            _balance(given, set(bound))
        self.shared = wanted
        return given

    def _may_run(self, task: TaskId, worker: WorkerState) -> bool:
        return self._bound.get(task[0], worker.worker_id) == worker.worker_id

    def _keeper(self, task: TaskId, claimants: Sequence[str], members: Mapping[str, WorkerState]) -> str:
        """Return who keeps a task: of several, the one that it was given to last."""
        for member in claimants:
            if members[member].worker_id == self._last.get(task):
                return member
        return claimants[0]

    def is_outdated(self, tasks: Iterable[TaskId], in_change: Iterable[str], bound: Mapping[str, str]) -> bool:
        """Return whether tasks are new since the last round, or gone: then the loads of workers may be uneven.

        So they are when a connector is bound to another worker.

        Args:
            tasks: all that are to run.
            in_change: connectors that are asked for their tasks at the moment: theirs are not gone, they are to come again.
        """
        now, names = set(tasks), set(in_change)
        return (
            bool(now - self.shared) or self._bound != bound or any(name not in names for name, _ in self.shared - now)
        )


def _least_loaded(given: Mapping[str, set[TaskId]], task: TaskId, members: Mapping[str, WorkerState]) -> str:
    def load(member: str) -> tuple[int, int, str]:
        return len(given[member]), sum(name == task[0] for name, _ in given[member]), members[member].worker_id

    return min(given, key=load)


def _balance(given: Mapping[str, set[TaskId]], bound: set[str]) -> None:
    """Take tasks away from workers that have more than their share; others get them in the next round.

    Those of connectors that are bound to a worker stay. None of these was free in this round: what was went to the worker
    with least.
    """
    least, more = divmod(sum(map(len, given.values())), len(given)) if given else (0, 0)
    for tasks in sorted(given.values(), key=len, reverse=True):
        share = least
        if more and len(tasks) > least:
            share, more = least + 1, more - 1
        of = Counter(name for name, _ in tasks)
        free = {task for task in tasks if task[0] not in bound}
        while len(tasks) > share and free:
            task = max(free, key=lambda one: (of[one[0]], one))  # of the connector that has most tasks here
            free.discard(task)
            tasks.discard(task)
            of[task[0]] -= 1
