"""The sticky assignor: who runs which task, and who keeps a copy of its state.

Tasks stay where they are, then go where a copy of their state is, then where least is done, as long as no member gets more
than its share; a process never holds a task twice. Standby copies go first to who ran the task, then to who had a copy.
Learned from Kafka's StickyTaskAssignor and ProcessState (4.4); where Kafka's choice hangs on the order of a hash map, ours is
the order of member ids, so the same group always gets the same answer.

Invariants: every task of every subtopology is active at exactly one member; a task has at most as many standby copies as
asked for, on processes that hold it in no other role. Knows neither clients' tags nor racks: as in Kafka, they are kept for
assignors that would use them.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ottla.broker.coordinators.groups.streams.tasks import NO_TASK, TaskId, Tasks, TaskSet


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """What the assignor knows of a member: its target so far, and how far its copies of tasks' state reach."""

    process_id: str
    active: TaskSet = NO_TASK
    standby: TaskSet = NO_TASK
    offsets: Mapping[TaskId, int] = field(default_factory=dict)


def assign(
    members: Mapping[str, MemberSpec],
    task_counts: Mapping[str, int],
    *,
    stateful: Collection[str],
    standby_replicas: int,
) -> dict[str, Tasks]:
    """Return the target of every member.

    Args:
        members: by member id; at least one.
        task_counts: how many tasks each subtopology has.
        stateful: subtopologies that have state to copy.
        standby_replicas: how many copies of each of their tasks.
    """
    assignment = _Assignment(members, task_counts, stateful, standby_replicas)
    assignment.assign_active()
    if standby_replicas > 0:
        assignment.assign_standby()
    return assignment.result()


class _Quota:
    """The share of a member: what is left over the members that are not full yet, rounded up."""

    __slots__ = ("_members", "_tasks", "share")

    def __init__(self, tasks: int, members: int) -> None:
        self._tasks = tasks
        self._members = members
        self.share = -(-tasks // members) if members else 0

    def on_assigned(self, count: int) -> None:
        """A member has `count` tasks now: if that is its share, the others divide the rest."""
        if count == self.share:
            self._members -= 1
            self._tasks -= count
            self.share = -(-self._tasks // self._members) if self._members else 0


class _Process:
    """A process, its members and what they have been given."""

    __slots__ = ("_by_load", "active", "counts", "held", "number", "standby")

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts: dict[str, int] = {}
        self.held: set[TaskId] = set()
        self.active: dict[str, set[TaskId]] = {}
        self.standby: dict[str, set[TaskId]] = {}
        self._by_load: list[tuple[int, int, str]] | None = None

    @property
    def load(self) -> float:
        return len(self.held) / len(self.counts)

    def add_member(self, member_id: str) -> None:
        self.counts[member_id] = 0
        self.active[member_id] = set()
        self.standby[member_id] = set()

    def add(self, member_id: str, task: TaskId, *, active: bool) -> int:
        """Give a member a task; how many it has then."""
        self._by_load = None
        return self._add(member_id, task, active)

    def add_to_least_loaded(self, task: TaskId, *, active: bool) -> int:
        """Give the member that has least a task; how many it has then."""
        if self._by_load is None:
            self._by_load = [(count, index, member) for index, (member, count) in enumerate(self.counts.items())]
            heapq.heapify(self._by_load)
        _, index, member_id = self._by_load[0]
        count = self._add(member_id, task, active)
        heapq.heapreplace(self._by_load, (count, index, member_id))
        return count

    def _add(self, member_id: str, task: TaskId, active: bool) -> int:
        self.held.add(task)
        (self.active if active else self.standby)[member_id].add(task)
        self.counts[member_id] += 1
        return self.counts[member_id]


class _Assignment:
    """One run of the assignor."""

    def __init__(
        self,
        members: Mapping[str, MemberSpec],
        task_counts: Mapping[str, int],
        stateful: Collection[str],
        standby_replicas: int,
    ) -> None:
        self._standby_replicas = standby_replicas
        self._tasks = [TaskId(name, index) for name in sorted(task_counts) for index in range(task_counts[name])]
        self._stateful_tasks = [task for task in self._tasks if task.subtopology in stateful]
        copies = len(self._stateful_tasks) * standby_replicas
        self._active_quota = _Quota(len(self._tasks), len(members))
        self._quota = _Quota(len(self._tasks) + copies, len(members))
        self._processes: dict[str, _Process] = {}
        self._process_of: dict[str, _Process] = {}
        self._ran: dict[TaskId, str] = {}
        self._had_copy: dict[TaskId, list[str]] = {}
        candidates: dict[TaskId, list[tuple[bool, int, str]]] = {}
        for member_id in sorted(members):
            spec = members[member_id]
            process = self._processes.get(spec.process_id)
            if process is None:
                process = self._processes[spec.process_id] = _Process(len(self._processes))
            process.add_member(member_id)
            self._process_of[member_id] = process
            for task in spec.active:
                self._ran[task] = member_id
            for task in spec.standby:
                candidates.setdefault(task, []).append((False, -spec.offsets.get(task, 0), member_id))
            for task, offset in spec.offsets.items():
                if task not in spec.standby:  # left-over state of a task it once had
                    candidates.setdefault(task, []).append((True, -offset, member_id))
        for task, ranked in candidates.items():
            self._had_copy[task] = [member_id for _, _, member_id in sorted(ranked)]

    def assign_active(self) -> None:
        """Who ran it, then who has a copy of its state, then who has least to do."""
        left: list[TaskId] = []
        for task in sorted(self._tasks, key=_by_partition):
            ran = self._ran.get(task)
            if ran is None or not self._add_within(self._active_quota, ran, task, active=True):
                left.append(task)
        homeless: list[TaskId] = []
        for task in left:
            copy = self._least_loaded_with_copy(task)
            if copy is None or not self._add_within(self._active_quota, copy, task, active=True):
                homeless.append(task)
        processes = self._by_load()
        for task in sorted(homeless):
            _, _, process = processes[0]
            count = process.add_to_least_loaded(task, active=True)
            self._active_quota.on_assigned(count)
            self._quota.on_assigned(count)
            heapq.heapreplace(processes, (process.load, process.number, process))

    def assign_standby(self) -> None:
        """Who ran it, then who had a copy, then who has least to do, always on a process that does not hold it."""
        left: list[tuple[TaskId, int]] = []
        for task in sorted(self._stateful_tasks, key=_by_partition, reverse=True):
            for done in range(self._standby_replicas):
                if not self._add_standby_where_it_was(task):
                    left.append((task, self._standby_replicas - done))
                    break
        processes = self._by_load()
        for task, copies in sorted(left, reverse=True):
            for _ in range(copies):
                if not self._add_standby_to_least_loaded(processes, task):
                    break  # fewer processes than copies

    def result(self) -> dict[str, Tasks]:
        return {
            member_id: Tasks(frozenset(process.active[member_id]), frozenset(process.standby[member_id]))
            for member_id, process in self._process_of.items()
        }

    def _add_within(self, quota: _Quota, member_id: str, task: TaskId, *, active: bool) -> bool:
        process = self._process_of[member_id]
        if process.counts[member_id] >= quota.share:
            return False
        count = process.add(member_id, task, active=active)
        if active:
            self._active_quota.on_assigned(count)
        self._quota.on_assigned(count)
        return True

    def _add_standby_where_it_was(self, task: TaskId) -> bool:
        ran = self._ran.get(task)
        if (
            ran is not None
            and task not in self._process_of[ran].held
            and self._add_within(self._quota, ran, task, active=False)
        ):
            return True
        copy = self._least_loaded_with_copy(task, not_held=True)
        return copy is not None and self._add_within(self._quota, copy, task, active=False)

    def _least_loaded_with_copy(self, task: TaskId, *, not_held: bool = False) -> str | None:
        """The best of those that have a copy; a later one must be better both as a process and as a member."""
        best: str | None = None
        best_load, best_count = 0.0, 0
        for member_id in self._had_copy.get(task, ()):
            process = self._process_of[member_id]
            if not_held and task in process.held:
                continue
            load, count = process.load, process.counts[member_id]
            if best is None or (load < best_load and count < best_count):
                best, best_load, best_count = member_id, load, count
        return best

    def _add_standby_to_least_loaded(self, processes: list[tuple[float, int, _Process]], task: TaskId) -> bool:
        passed: list[tuple[float, int, _Process]] = []
        found = False
        while processes and not found:
            entry = heapq.heappop(processes)
            process = entry[2]
            if task in process.held:
                passed.append(entry)
                continue
            self._quota.on_assigned(process.add_to_least_loaded(task, active=False))
            passed.append((process.load, process.number, process))
            found = True
        for entry in passed:
            heapq.heappush(processes, entry)
        return found

    def _by_load(self) -> list[tuple[float, int, _Process]]:
        heap = [(process.load, process.number, process) for process in self._processes.values()]
        heapq.heapify(heap)
        return heap


def _by_partition(task: TaskId) -> tuple[int, str]:
    return task.partition, task.subtopology
