"""Who keeps copies of which task's stores: standbys, and warm-ups for tasks that are to move (KIP-441).

Members are compared by how far the stores of a task have come with them, the sum of their changelog positions. The owner's is
the end, so that the leader needs not ask for the ends of changelogs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ottla.streams.topology import TaskId


class Holder(Protocol):
    """What is asked of a member."""

    @property
    def host(self) -> str:
        """Names what it shares its disk with."""
        ...

    @property
    def positions(self) -> Mapping[str, int]:
        """By task whose stores it has: how far they have come."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """Kafka Streams' `num.standby.replicas`, `acceptable.recovery.lag` (offsets), `max.warmup.replicas` and
    `probing.rebalance.interval.ms`."""

    standby_replicas: int = 0
    acceptable_lag: int = 10_000
    warmup_max: int = 2
    probing_interval_ms: int = 600_000


def furthest(task: TaskId, members: Mapping[str, Holder]) -> int:
    """Return how far the stores of a task have come with the member where they are furthest; 0 if nobody has any."""
    return max((member.positions.get(str(task), 0) for member in members.values()), default=0)


def lag(task: TaskId, member: Holder, members: Mapping[str, Holder]) -> int:
    """Return how many offsets a member's stores are behind the furthest."""
    return furthest(task, members) - member.positions.get(str(task), 0)


def hold_back(
    share: Mapping[str, list[TaskId]],
    placed: Mapping[TaskId, str],
    stateful: Collection[TaskId],
    members: Mapping[str, Holder],
    settings: CopySettings,
) -> list[tuple[TaskId, str]]:
    """Leave tasks where they are whose new owner would have to restore much first.

    Args:
        share: by member, its tasks; such a task goes back to where it was.
        placed: by task, the member that has it, or the best copy of it.

    Returns:
        The tasks, and for the first of them the member that makes a copy now; "" for those that wait for their turn.
    """
    found: list[tuple[TaskId, str]] = []
    for member_id in sorted(share):
        for task in list(share[member_id]):
            before = placed[task]
            if before == member_id or task not in stateful:
                continue
            behind = lag(task, members[member_id], members) - lag(task, members[before], members)
            if behind > settings.acceptable_lag:
                share[member_id].remove(task)
                share[before].append(task)
                found.append((task, member_id if len(found) < settings.warmup_max else ""))
    return found


def place_standbys(
    share: Mapping[str, Sequence[TaskId]],
    eligible: Mapping[TaskId, Sequence[str]],
    copies: Mapping[str, list[TaskId]],
    members: Mapping[str, Holder],
    replicas: Mapping[TaskId, int],
) -> None:
    """Add `replicas` standbys of each task to `copies`, each with a disk of its own.

    A standby stays where there is a copy already, unless that member has more than its part.
    """
    owner = {task: member_id for member_id, tasks in share.items() for task in tasks}
    total = sum(replicas.values())
    fair = -(-total // max(len(members), 1))
    standbys = dict.fromkeys(members, 0)
    for round_ in range(max(replicas.values(), default=0)):
        for task in sorted(task for task, count in replicas.items() if count > round_ and task in owner):
            hosts = {members[owner[task]].host}
            hosts |= {members[member_id].host for member_id, tasks in copies.items() if task in tasks}
            able = [member_id for member_id in eligible[task] if members[member_id].host not in hosts]
            if not able:
                continue
            best = min(
                able,
                key=lambda member_id: (
                    standbys[member_id] >= fair,
                    -members[member_id].positions.get(str(task), -1),
                    standbys[member_id],
                    member_id,
                ),
            )
            copies[best].append(task)
            standbys[best] += 1
