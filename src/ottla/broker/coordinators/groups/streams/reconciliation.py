"""One step of a member from the tasks it has towards its target.

A member first gives up what is not its any more (and stays in its epoch until it says that it has), then gets what no one
else holds, and waits for the rest. A task that only changes its role on one member is not given up in between. Learned from
Kafka's CurrentAssignmentBuilder (4.4); KIP-1071.

Invariants: no task is active at two members; a process does not hold a task in two roles, except while one of its members
turns a copy into the active task or back.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from typing import Protocol

from ottla.broker.coordinators.groups.streams.member import MemberState, StreamsMember
from ottla.broker.coordinators.groups.streams.tasks import (
    NOTHING_ASSIGNED,
    AssignedTasks,
    TaskId,
    Tasks,
    TaskSet,
)
from ottla.errors import FencedMemberEpochError

_IsHeld = Callable[[TaskId], bool]


class Holders(Protocol):
    """Which processes hold a task now, in which role."""

    def active(self, task: TaskId) -> str | None: ...

    def standby(self, task: TaskId) -> Container[str]: ...

    def warmup(self, task: TaskId) -> Container[str]: ...


def reconcile(
    member: StreamsMember, target_epoch: int, target: Tasks, owned: Tasks | None, holders: Holders
) -> StreamsMember:
    """Return the member after its next step; the same value if there is none to take.

    Args:
        owned: what the member says it has; None if it did not say.

    Raises:
        FencedMemberEpochError: its state is not known and it still has tasks.
    """
    if member.state is MemberState.STABLE:
        if member.member_epoch == target_epoch:
            return member
        return _step(member, member.member_epoch, target_epoch, target, owned, holders)
    if member.state is MemberState.UNREVOKED_TASKS:
        if owned is None or owned.has_any_of(member.revoking):
            return member
        return _step(member, member.member_epoch + 1, target_epoch, target, owned, holders)
    if member.state is MemberState.UNRELEASED_TASKS:
        return _step(member, member.member_epoch, target_epoch, target, owned, holders)
    if owned is None or owned != Tasks():
        raise FencedMemberEpochError(
            "The streams group member is in a unknown state. The member must abandon all its tasks and rejoin."
        )
    return _step(member, target_epoch, target_epoch, target, owned, holders)


def _step(
    member: StreamsMember, member_epoch: int, target_epoch: int, target: Tasks, owned: Tasks | None, holders: Holders
) -> StreamsMember:
    process, has = member.process_id, member.assigned

    def standby_elsewhere(task: TaskId) -> bool:
        return process in holders.standby(task) and task not in has.standby

    def warmup_elsewhere(task: TaskId) -> bool:
        return process in holders.warmup(task) and task not in has.warmup

    def active_is_held(task: TaskId) -> bool:
        return holders.active(task) is not None or standby_elsewhere(task) or warmup_elsewhere(task)

    def standby_is_held(task: TaskId) -> bool:
        runs_beside = holders.active(task) == process and task not in has.active
        return runs_beside or process in holders.standby(task) or warmup_elsewhere(task)

    def warmup_is_held(task: TaskId) -> bool:
        return holders.active(task) == process or standby_elsewhere(task) or process in holders.warmup(task)

    kept = {task: epoch for task, epoch in has.active.items() if task in target.active}
    wanted = target.active - kept.keys()
    granted = {task for task in wanted if not active_is_held(task)}
    standby, standby_granted, standby_waits = _replicas(has.standby, target.standby, standby_is_held)
    warmup, warmup_granted, warmup_waits = _replicas(has.warmup, target.warmup, warmup_is_held)
    waits = len(granted) < len(wanted) or standby_waits or warmup_waits
    revoked_standby, revoked_warmup = has.standby - target.standby, has.warmup - target.warmup

    # What only changes its role: an active task becomes a copy, a copy one of the other kind ...
    demoted = standby_granted & has.active.keys()
    cooled = standby_granted & has.warmup
    warmed = warmup_granted & has.standby
    standby |= demoted | cooled
    warmup |= warmed
    standby_granted -= demoted | cooled
    warmup_granted -= warmed
    # ... and a copy the active task, which it stays until it is.
    revoking = AssignedTasks(
        {task: epoch for task, epoch in has.active.items() if task not in kept},
        revoked_standby - warmed - target.active,
        revoked_warmup - cooled - target.active,
    )
    must_revoke = bool(revoking) and (owned is None or owned.has_any_of(revoking))
    promoted = frozenset() if must_revoke else granted
    standby |= (has.standby & target.active) - promoted
    warmup |= (has.warmup & target.active) - promoted

    assigned = AssignedTasks(kept, frozenset(standby), frozenset(warmup))
    if must_revoke:
        return replace(
            member,
            state=MemberState.UNREVOKED_TASKS,
            member_epoch=member_epoch,
            previous_member_epoch=member.member_epoch,
            assigned=assigned,
            revoking=revoking,
        )
    new = AssignedTasks(
        dict.fromkeys(sorted(granted), target_epoch), frozenset(standby_granted), frozenset(warmup_granted)
    )
    return replace(
        member,
        state=MemberState.UNRELEASED_TASKS if waits else MemberState.STABLE,
        member_epoch=target_epoch,
        previous_member_epoch=member.member_epoch,
        assigned=assigned.merged(new),
        revoking=NOTHING_ASSIGNED,
    )


def _replicas(has: TaskSet, target: TaskSet, is_held: _IsHeld) -> tuple[set[TaskId], set[TaskId], bool]:
    """Return which copies stay, which are granted, and whether some have to be waited for."""
    wanted = target - has
    granted = {task for task in wanted if not is_held(task)}
    return set(has & target), granted, len(granted) < len(wanted)
