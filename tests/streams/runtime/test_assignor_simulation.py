"""The classic assignor, rebalanced a hundred times a seed: no task twice, none forgotten, copies on other disks.

Members come, go, die, fall out of the group without knowing it and come back with what they believe to own; some share a
process and its disk; some run another version of a sub-topology; their leader is any of them. A member gives up what it has
not been given any more, and the group meets again (KIP-429); before it has come to rest, others may come and go. Checked:

* in each round: no partition is given to two, none to anybody while another member of the last generation still owns it;
* at rest: each task of a version that is worked on runs once, at a member that has it; each copy is of a task with state,
  beside no other copy of it and not on its owner's disk; there are as many as there are disks for;
* at rest, with all copies at their ends: nobody waits, nobody has two tasks more than another who could take them.
"""

from __future__ import annotations

import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from tests.support.seeds import run_covering, run_seeds

from ottla.assignors import GroupMember
from ottla.streams.runtime.assignor import MemberInfo, SubTopologyInfo, TaskAssignor
from ottla.streams.runtime.copies import CopySettings
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

EVENTS_MIN = 100
COVERAGE = (
    "crashes",
    "joined",
    "left",
    "fell out",
    "came back",
    "unsettled",
    "two versions",
    "version gone",
    "waited for a copy",
    "copies",
    "probed",
    "shared a disk",
    "state lost",
    "moved",
    "quiet at last",
)
END = 1_000_000
OLD = (
    SubTopologyInfo(0, "hash-a", ("orders", "users"), stateful=True),
    SubTopologyInfo(1, "hash-b", ("words",)),
    SubTopologyInfo(2, "hash-c", ("clicks",), stateful=True),
)
NEW = (replace(OLD[0], hash="hash-new"), *OLD[1:])


@dataclass
class Member:
    """One instance."""

    name: str
    info: MemberInfo
    owned: set[TopicPartition] = field(default_factory=set)
    copies: frozenset[TaskId] = frozenset()
    #: In which it was assigned what it owns.
    generation: int = -1
    probes: bool = False

    def takes(self, tasks: frozenset[TaskId], probes: bool) -> None:
        self.copies, self.probes = tasks, probes


class Simulation:
    """One seed."""

    def __init__(self, seed: int, coverage: Counter[str]) -> None:
        self.random = random.Random(seed)
        self.coverage = coverage
        dice = self.random
        self.counts = {name: dice.randrange(1, 7) for name in ("orders", "users", "words", "clicks")}
        self.settings = CopySettings(standby_replicas=dice.randrange(3), warmup_max=dice.randrange(1, 4))
        self.members: dict[str, Member] = {}
        #: Those whose session has ended and who do not know it.
        self.outside: list[Member] = []
        self.generation = 0
        self.number = 0

    def run(self) -> None:
        dice = self.random
        while self.coverage["events"] < EVENTS_MIN or not self.coverage["crashes"]:
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                self.change()
            if not self.members:
                continue
            if dice.random() < 0.3:
                self.coverage["unsettled"] += 1
                self.round()
                continue
            self.settle()
            self.check_rest()
            if dice.random() < 0.5:
                self.catch_up()
        if not self.members:
            self.join(OLD)
        for _ in range(40):
            self.settle()
            self.catch_up()
            if not any(member.probes for member in self.members.values()):
                break
            self.coverage["probed"] += 1
        self.settle()
        self.check_rest()
        self.check_balance()
        self.coverage["quiet at last"] += 1

    # -- what happens

    def change(self) -> None:
        dice = self.random
        what = dice.random()
        if not self.members or (what < 0.4 and len(self.members) < 6):
            self.join(NEW if dice.random() < 0.15 else OLD)
        elif what < 0.55:
            self.members.pop(dice.choice(sorted(self.members)))
            self.coverage["left"] += 1
        elif what < 0.65:
            self.members.pop(dice.choice(sorted(self.members)))
            self.coverage["crashes"] += 1
        elif what < 0.75:
            self.outside.append(self.members.pop(dice.choice(sorted(self.members))))
            self.coverage["fell out"] += 1
        elif what < 0.9 and self.outside:
            # It did not know that it was out, and says what it believes to own.
            member = self.outside.pop(dice.randrange(len(self.outside)))
            self.members[member.name] = member
            self.coverage["came back"] += 1
        else:
            member = self.members[dice.choice(sorted(self.members))]
            member.info = replace(member.info, positions={})
            self.coverage["state lost"] += 1

    def join(self, subs: tuple[SubTopologyInfo, ...]) -> None:
        self.number += 1
        shared = self.random.random() < 0.3
        host = f"h{self.number - 1 if shared else self.number}"
        self.coverage["shared a disk"] += shared
        name = f"m{self.random.randrange(1000)}-{self.number}"
        self.members[name] = Member(name, MemberInfo(process=f"{host}-{self.number}", sub_topologies=subs))
        self.coverage["joined"] += 1

    def catch_up(self) -> None:
        """Owners and copies come to the end of the changelogs."""
        for member in self.members.values():
            here = [task for task in self.tasks(member) | member.copies if task.sub_topology != 1]
            positions = {**member.info.positions, **{str(task): END for task in here}}
            member.info = replace(member.info, positions=positions)

    # -- the protocol

    def round(self) -> bool:
        """One rebalance; whether another one has to follow."""
        self.coverage["events"] += 1
        self.generation += 1
        before = {member.name: set(member.owned) for member in self.members.values()}
        current = {member.name for member in self.members.values() if member.generation == self.generation - 1}
        told = [
            GroupMember(
                member.name, tuple(self.counts), sorted(member.owned), member.generation, member.info.to_bytes()
            )
            for member in self.members.values()
        ]
        shares = TaskAssignor(lambda: MemberInfo(process="", sub_topologies=()), settings=self.settings).assign(
            told, self.counts
        )
        assert shares.keys() == self.members.keys()
        given: dict[TopicPartition, str] = {}
        for name, share in shares.items():
            for where in share.partitions:
                assert where not in given, f"{where} at {given[where]} and {name}"
                given[where] = name
                for other in current - {name}:
                    assert where not in before[other], f"{where} goes to {name} before {other} gave it up"
        again = False
        for name, share in shares.items():
            member = self.members[name]
            TaskAssignor(
                lambda member=member: member.info,  # type: ignore[misc]
                on_copies=member.takes,
                settings=self.settings,
            ).on_assignment(share, self.generation)
            again |= bool(member.owned - set(share.partitions))
            self.coverage["moved"] += len(set(share.partitions) - member.owned)
            member.owned = set(share.partitions)
            member.generation = self.generation
        return again

    def settle(self) -> None:
        for _ in range(12):
            if not self.round():
                return
        raise AssertionError("the group does not come to rest")

    # -- what is looked at

    def tasks(self, member: Member) -> set[TaskId]:
        sub_of = {topic: sub.id for sub in member.info.sub_topologies for topic in sub.topics}
        return {TaskId(sub_of[where.topic], where.partition) for where in member.owned}

    def check_rest(self) -> None:
        owners = Counter(task for member in self.members.values() for task in self.tasks(member))
        wanted = {
            TaskId(sub.id, number) for sub in OLD for number in range(max(self.counts[topic] for topic in sub.topics))
        }
        assert owners == Counter(wanted), f"run: {sorted(owners.elements())}"
        versions = {
            sub.hash
            for member in self.members.values()
            for sub in member.info.sub_topologies
            if any(task.sub_topology == sub.id for task in self.tasks(member))
        }
        assert len(versions) == 3, f"two versions work on one group's topics: {versions}"
        there = {sub.hash for member in self.members.values() for sub in member.info.sub_topologies}
        self.coverage["two versions"] += len(there) > 3
        self.coverage["version gone"] += "hash-a" not in there
        self.check_copies(versions)

    def check_copies(self, versions: set[str]) -> None:
        able = {
            sub.id: {
                member.info.host
                for member in self.members.values()
                if any(its.id == sub.id and its.hash in versions for its in member.info.sub_topologies)
            }
            for sub in OLD
        }
        waits = any(member.probes for member in self.members.values())
        self.coverage["waited for a copy"] += waits
        for member in self.members.values():
            assert not self.tasks(member) & member.copies, f"{member.name} copies what it runs"
        for task in {task for member in self.members.values() for task in self.tasks(member)}:
            owner = next(member for member in self.members.values() if task in self.tasks(member))
            hosts = [member.info.host for member in self.members.values() if task in member.copies]
            self.coverage["copies"] += len(hosts)
            if task.sub_topology == 1:
                assert not hosts, f"a copy of {task}, which has no state"
                continue
            assert len(hosts) == len(set(hosts)), f"two copies of {task} on one disk: {hosts}"
            # One more may be made for the member that the task is to move to.
            least = min(self.settings.standby_replicas, len(able[task.sub_topology]) - 1)
            assert least <= len(hosts) <= self.settings.standby_replicas + waits, f"{task}: {hosts}"
            if not waits:
                assert owner.info.host not in hosts, f"a copy of {task} beside it"

    def check_balance(self) -> None:
        assert not any(member.probes for member in self.members.values()), "tasks wait for ever"
        subs = {sub.hash for member in self.members.values() for sub in member.info.sub_topologies}
        if len(subs) == 3:
            loads = [len(self.tasks(member)) for member in self.members.values()]
            assert max(loads) - min(loads) <= 1, loads


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    coverage: Counter[str] = Counter()
    Simulation(seed, coverage).run()
    return coverage


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__], 25)


def test_seeds_keep_the_invariants() -> None:
    run_seeds(sys.modules[__name__], range(25, 50))
