"""What one worker may run, by what its group has told it and when: decided without I/O.

The coordinator drops a member that it has not heard of for `session.timeout.ms`, and others get its tasks. So a
worker's tasks have a lease: they end before a session can have ended that began with the last request that the
coordinator has answered. While the member joins it is not told that it is still one: that lasts half a session longer, and
leaders wait for so long before they give away what a vanished worker ran (`grace_s`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ottla.connect.distributed.sharing import Assignment, WorkerState
from ottla.connect.runtime.runs import TaskId

#: Of a session: how long a join may take beyond its end, and how long before the lease's end tasks are told to end.
_JOIN_PART = 0.5
_STOP_PART = 0.2


def grace_s(session_s: float) -> float:
    """Return how long after it was dropped from the group a worker's tasks may still run."""
    return session_s * _JOIN_PART


class Membership:
    """See the module.

    Attributes:
        assigned: what the leader has given it.
        giving_up: what it has to end before others can get it.
        leader_url: where the leader is; None while that is not known.
        generation: -1 while it is no member.
    """

    def __init__(self, url: str, session_s: float) -> None:
        self.url = url
        self.assigned: frozenset[TaskId] = frozenset()
        self.giving_up: frozenset[TaskId] = frozenset()
        self.leader_url: str | None = None
        self.generation = -1
        self.is_leader = False
        self._session_s = session_s
        self._is_joining = True
        self._claimed: frozenset[TaskId] = frozenset()

    def state(self, offset: int, running: Iterable[TaskId], *, is_member: bool) -> WorkerState:
        """Return what is told at a join.

        Args:
            running: tasks that a process may still run.
            is_member: whether the group still knows the member. What it was given before counts for nothing once it does not:
                others may have had it since. `on_lost` may come later than the join.
        """
        self._claimed = (self.assigned | self.giving_up if is_member else frozenset()) | frozenset(running)
        return WorkerState(url=self.url, offset=offset, tasks=self._claimed)

    def on_joined(self, generation: int, is_leader: bool, assignment: Assignment) -> None:
        """The member is part of a generation."""
        self.generation, self.is_leader = generation, is_leader
        self.leader_url = assignment.leader_url
        self.assigned = assignment.tasks
        self.giving_up = self._claimed - assignment.tasks
        self._is_joining = False

    def on_rebalancing(self) -> None:
        """The group rebalances: tasks go on meanwhile."""
        self._is_joining = True
        self.leader_url = None
        self.is_leader = False

    def on_lost(self) -> None:
        """The group does not know the member any more."""
        self.on_rebalancing()
        self.generation = -1
        self.assigned = self.giving_up = frozenset()

    def has_given_up(self, running: Iterable[TaskId]) -> bool:
        """Return whether what was to be given up has ended now: then the group is to rebalance. Said once."""
        if self._is_joining or not self.giving_up or not self.giving_up.isdisjoint(running):
            return False
        self.giving_up = frozenset()
        return True

    def lease_s(self, confirmed_s: float | None) -> float:
        """Return until when tasks may run.

        Args:
            confirmed_s: when the request was sent that the coordinator has last answered as it answers a member.
        """
        if confirmed_s is None:
            return float("-inf")
        return confirmed_s + self._session_s * (1 + (_JOIN_PART if self._is_joining else 0))

    def allowed(self, now_s: float, confirmed_s: float | None) -> frozenset[TaskId]:
        """Return what is to run now: nothing shortly before the lease ends, so that tasks can end by themselves."""
        return self.assigned if now_s < self.lease_s(confirmed_s) - self._session_s * _STOP_PART else frozenset()
