"""Who of a group works on which task: a sticky assignor over the classic protocol of consumers.

Its protocol name is its own, so that a member never joins a group of Kafka Streams' Java library (its protocol is "stream"):
the broker refuses it. What a member tells the leader is JSON: a version, its process, and for each of its sub-topologies a
hash and the topics, and how far its stores on disk have come. So the leader needs no topology of its own: it may be older or
newer than the others, and shares out what they say.

  * A sub-topology goes only to members with its hash. Where members differ about the same topics, as while an application
    is being replaced, the version that has most of them now goes on, and the others wait.
  * All partitions of a task go to one member. A task moves only after its owner has given it up (KIP-429): in one round it
    is taken away, in the next it is given.
  * Tasks stay where they are, then go where their state is, then to who has least; nobody has two more than another who
    could take them, but while a task waits for a copy of its state there (`copies`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from ottla.assignors import GroupMember, MemberAssignment
from ottla.streams.runtime.copies import CopySettings, hold_back, lag, place_standbys
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

logger: logging.Logger = logging.getLogger(__name__)

#: The protocol's name.
NAME: Final = "ottla-streams"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class SubTopologyInfo:
    """What members have to agree about to share a sub-topology's tasks.

    Attributes:
        stateful: whether its tasks have state that can be copied from changelogs.
    """

    id: int
    hash: str
    topics: tuple[str, ...]
    stateful: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberInfo:
    """What one member tells the leader.

    Attributes:
        process: its process id and slot.
        endpoint: where others can ask for its state, "host:port"; "" if nowhere.
        positions: by task whose stores it has, running or not: how far they have come, as the sum of their changelog
            positions.
        probes: how often it asked for another look at copies. A member that joins again with the same words changes nothing.
    """

    process: str
    sub_topologies: tuple[SubTopologyInfo, ...]
    endpoint: str = ""
    positions: Mapping[str, int] = field(default_factory=dict)
    probes: int = 0

    @property
    def host(self) -> str:
        """Its process id: members that share it share a state directory."""
        return self.process.rpartition("-")[0] or self.process

    def to_bytes(self) -> bytes:
        """Return it as it goes to the leader."""
        return json.dumps(
            {
                "version": VERSION,
                "readable_from": VERSION,
                "process": self.process,
                "endpoint": self.endpoint,
                "sub_topologies": [[sub.id, sub.hash, sub.topics, sub.stateful] for sub in self.sub_topologies],
                "positions": dict(self.positions),
                "probes": self.probes,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes | None) -> MemberInfo | None:
        """Return what a member says; None if this release cannot read it."""
        try:
            found: Any = json.loads(data or b"")
            if found["readable_from"] > VERSION:
                return None
            return cls(
                process=str(found["process"]),
                endpoint=str(found.get("endpoint", "")),
                sub_topologies=tuple(
                    SubTopologyInfo(int(sub[0]), str(sub[1]), tuple(map(str, sub[2])), len(sub) > 3 and bool(sub[3]))
                    for sub in found["sub_topologies"]
                ),
                positions={str(task): int(each) for task, each in found.get("positions", {}).items()},
                probes=int(found.get("probes", 0)),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None


#: Where each task is, for those who look for a key: by task, the endpoint of its owner.
Owners = Mapping[str, str]


class TaskAssignor:
    """For `partition_assignment_strategy=`.

    Args:
        info: what this member tells; called at each join.
        on_owners: called with where each task is, and the generation, at each assignment; on the client's thread.
        on_copies: called there with the tasks that this member is to have copies of, and with whether it is the one to ask
            for another look when `probing.rebalance.interval.ms` are over.
        settings: of copies; the leader's count.
    """

    name = NAME
    cooperative = True

    def __init__(
        self,
        info: Callable[[], MemberInfo],
        on_owners: Callable[[Owners, int], object] | None = None,
        on_copies: Callable[[frozenset[TaskId], bool], object] | None = None,
        settings: CopySettings | None = None,
    ) -> None:
        self._info = info
        self._on_owners = on_owners
        self._on_copies = on_copies
        self._settings = settings or CopySettings()

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        """Return what this member tells the leader."""
        return self._info().to_bytes()

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        """Return what each member gets."""
        infos: dict[str, MemberInfo] = {}
        for member in members:
            info = MemberInfo.from_bytes(member.user_data)
            if info is None:
                logger.warning(
                    "member %s says what this release cannot read; it gets no tasks while an older member leads",
                    member.member_id,
                )
            else:
                infos[member.member_id] = info
        plan = assign_tasks(members, infos, partition_counts, self._settings)
        wanted, withheld = plan.tasks, plan.withheld
        owners = {
            str(task): infos[member_id].endpoint
            for member_id, tasks in wanted.items()
            for task in tasks
            if task not in withheld and infos[member_id].endpoint
        }
        prober = min(infos, default="") if plan.waits else ""

        def told(member_id: str) -> bytes:
            return json.dumps(
                {
                    "version": VERSION,
                    "owners": owners,
                    "copies": [str(task) for task in sorted(plan.copies.get(member_id, ()))],
                    "probe": member_id == prober,
                },
                separators=(",", ":"),
            ).encode()

        return {
            member.member_id: MemberAssignment(
                [
                    where
                    for task in sorted(wanted.get(member.member_id, {}))
                    if task not in withheld
                    for where in wanted[member.member_id][task]
                ],
                told(member.member_id),
            )
            for member in members
        }

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        """This member has got its part, and where the others are."""
        owners: dict[str, str] = {}
        copies: frozenset[TaskId] = frozenset()
        probes = False
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(assignment.user_data or b"")
            owners = {str(task): str(where) for task, where in found["owners"].items()}
            copies = frozenset(_read_task(task) for task in found.get("copies", ()))
            probes = bool(found.get("probe", False))
        if self._on_owners is not None:
            self._on_owners(owners, generation_id)
        if self._on_copies is not None:
            self._on_copies(copies, probes)


def _read_task(text: str) -> TaskId:
    sub_topology, _, partition = text.partition("_")
    return TaskId(int(sub_topology), int(partition))


#: By task, the partitions that it reads.
Tasks = dict[TaskId, tuple[TopicPartition, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who is to have what.

    Attributes:
        tasks: by member.
        withheld: tasks that their present owners have to give up first.
        copies: by member, the tasks whose stores it follows.
        waits: whether tasks wait for a copy where they are to go.
    """

    tasks: dict[str, Tasks]
    withheld: set[TaskId]
    copies: dict[str, list[TaskId]]
    waits: bool


def assign_tasks(
    members: Sequence[GroupMember],
    infos: Mapping[str, MemberInfo],
    partition_counts: Mapping[str, int],
    settings: CopySettings,
) -> Plan:
    """Return who is to have which task."""
    owner_of = _owners(members)
    stateful: set[TaskId] = set()
    eligible: dict[TaskId, list[str]] = {}
    partitions_of: Tasks = {}
    for sub, readers in _chosen(infos, owner_of):
        count = max((partition_counts.get(topic, 0) for topic in sub.topics), default=0)
        missing = [topic for topic in sub.topics if topic not in partition_counts]
        if missing:
            logger.warning("sub-topology %d has no tasks: %s not there", sub.id, ", ".join(missing))
            continue
        for partition in range(count):
            task = TaskId(sub.id, partition)
            partitions_of[task] = tuple(
                TopicPartition(topic, partition) for topic in sub.topics if partition < partition_counts[topic]
            )
            eligible[task] = readers
            if sub.stateful:
                stateful.add(task)
    holder = {
        task: next((owner_of[where] for where in partitions if where in owner_of), None)
        for task, partitions in partitions_of.items()
    }
    share: dict[str, list[TaskId]] = {member_id: [] for member_id in infos}
    free: list[TaskId] = []
    for task in sorted(partitions_of):
        present = holder[task]
        if present is not None and present in eligible[task]:
            share[present].append(task)
        else:
            free.append(task)
    _place(free, share, eligible, infos, settings.acceptable_lag)
    placed = {task: member_id for member_id, tasks in share.items() for task in tasks}
    _balance(share, eligible, infos, stateful)
    waiting = hold_back(share, placed, stateful, infos, settings)
    withheld = {
        task
        for member_id, tasks in share.items()
        for task in tasks
        if any(owner_of.get(where, member_id) != member_id for where in partitions_of[task])
    }
    copies: dict[str, list[TaskId]] = {member_id: [] for member_id in infos}
    for task, member_id in waiting:
        if member_id:
            copies[member_id].append(task)
    place_standbys(share, eligible, copies, infos, dict.fromkeys(stateful, settings.standby_replicas))
    for member_id, tasks in share.items():
        for task in stateful.intersection(withheld, tasks):
            # Its copy goes on until the task is given.
            if infos[holder[task] or member_id].host != infos[member_id].host:
                copies[member_id].append(task)
    return Plan(
        tasks={member_id: {task: partitions_of[task] for task in tasks} for member_id, tasks in share.items()},
        withheld=withheld,
        copies=copies,
        waits=bool(waiting),
    )


def _owners(members: Sequence[GroupMember]) -> dict[TopicPartition, str]:
    """Who owns which partition: the newest claim counts, of equally new ones none but as a reason to wait."""
    claims: dict[TopicPartition, tuple[int, str]] = {}
    for member in sorted(members, key=lambda member: (member.generation_id, member.member_id)):
        for where in member.owned:
            claims[where] = (member.generation_id, member.member_id)
    return {where: member_id for where, (_, member_id) in claims.items()}


def _chosen(
    infos: Mapping[str, MemberInfo], owner_of: Mapping[TopicPartition, str]
) -> list[tuple[SubTopologyInfo, list[str]]]:
    """Return the sub-topologies that are worked on, each with the members that have it.

    Of two that read a topic in common one is: the one whose members own most partitions of it now, then the one that more
    members have, then the one whose hash sorts first.
    """
    readers: dict[tuple[int, str], tuple[SubTopologyInfo, list[str]]] = {}
    for member_id in sorted(infos):
        for sub in infos[member_id].sub_topologies:
            readers.setdefault((sub.id, sub.hash), (sub, []))[1].append(member_id)

    def rank(entry: tuple[SubTopologyInfo, list[str]]) -> tuple[int, int, str]:
        sub, members = entry
        owned = sum(where.topic in sub.topics and owner in members for where, owner in owner_of.items())
        return -owned, -len(members), sub.hash

    taken: set[str] = set()
    ids: set[int] = set()
    chosen = []
    for sub, members in sorted(readers.values(), key=rank):
        if taken.isdisjoint(sub.topics) and sub.id not in ids:
            taken.update(sub.topics)
            ids.add(sub.id)
            chosen.append((sub, members))
        else:
            logger.info(
                "sub-topology %d (%s) waits: other members work on its topics or its number", sub.id, sub.hash[:8]
            )
    return chosen


def _place(
    free: Sequence[TaskId],
    share: Mapping[str, list[TaskId]],
    eligible: Mapping[TaskId, Sequence[str]],
    infos: Mapping[str, MemberInfo],
    acceptable_lag: int,
) -> None:
    """Give tasks that nobody has to who has most of their state and not more than a fair part, else to who has least.

    Where the others would have to restore much, a fair part does not count: the task moves on when there is a copy.
    """
    fair = -(-(sum(map(len, share.values())) + len(free)) // max(len(share), 1))
    for task in sorted(free, key=lambda task: (len(eligible[task]), task)):
        able = [member_id for member_id in eligible[task] if lag(task, infos[member_id], infos) <= acceptable_lag]
        able = able or list(eligible[task])
        with_state = [
            member_id for member_id in able if str(task) in infos[member_id].positions and len(share[member_id]) < fair
        ]
        if with_state:
            best = min(
                with_state,
                key=lambda member_id: (-infos[member_id].positions[str(task)], len(share[member_id]), member_id),
            )
        else:
            best = min(able, key=lambda member_id: (len(share[member_id]), member_id))
        share[best].append(task)


def _balance(
    share: Mapping[str, list[TaskId]],
    eligible: Mapping[TaskId, Sequence[str]],
    infos: Mapping[str, MemberInfo],
    stateful: Collection[TaskId],
) -> None:
    """Move tasks from members that have two or more too many; first those that have no state, or theirs is there."""
    moved = True
    while moved:
        moved = False
        for giver in sorted(share, key=lambda member_id: (-len(share[member_id]), member_id)):
            best: tuple[tuple[int, int, TaskId], str] | None = None
            for task in share[giver]:
                taker = min(eligible[task], key=lambda member_id: (len(share[member_id]), member_id))
                if len(share[taker]) + 1 < len(share[giver]):
                    known = int(task in stateful and str(task) not in infos[taker].positions)
                    rank = (known, len(share[taker]), task)
                    if best is None or rank < best[0]:
                        best = (rank, taker)
            if best is not None:
                (_, _, task), taker = best
                share[giver].remove(task)
                share[taker].append(task)
                moved = True
                break
