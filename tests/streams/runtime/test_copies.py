"""Where copies of state are kept: with other disks than the owner's; and a task moves when its copy is good enough."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.streams.runtime.test_assignor import COUNTS

from ottla.assignors import GroupMember
from ottla.streams.runtime.assignor import MemberInfo, SubTopologyInfo, TaskAssignor
from ottla.streams.runtime.copies import CopySettings
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

COUNT = SubTopologyInfo(0, "hash-a", ("orders",), stateful=True)
PLAIN = SubTopologyInfo(1, "hash-b", ("words",))
ONE_EACH = CopySettings(standby_replicas=1)
END = 1_000_000


class Group:
    """Members with stores that grow while they own a task or have a copy of it."""

    def __init__(self, settings: CopySettings = ONE_EACH, orders: int = 4) -> None:
        self.settings = settings
        self.counts = {**COUNTS, "orders": orders}
        self.infos: dict[str, MemberInfo] = {}
        self.owned: dict[str, set[TopicPartition]] = {}
        self.copies: dict[str, frozenset[TaskId]] = {}
        self.prober: set[str] = set()
        self.generation = 0

    def join(self, process: str, **positions: int) -> None:
        self.infos[process] = MemberInfo(process=process, sub_topologies=(COUNT, PLAIN), positions=positions)
        self.owned[process] = set()

    def leave(self, process: str) -> None:
        for each in (self.infos, self.owned, self.copies):
            each.pop(process, None)

    def settle(self) -> dict[str, set[TaskId]]:
        for _ in range(10):
            if not self.round():
                return self.tasks()
        raise AssertionError("the group does not come to rest")

    def round(self) -> bool:
        self.generation += 1
        members = [
            GroupMember(name, ("orders", "words"), sorted(self.owned[name]), self.generation - 1, info.to_bytes())
            for name, info in self.infos.items()
        ]
        shares = TaskAssignor(lambda: self.infos[""], settings=self.settings).assign(members, self.counts)
        again = False
        self.prober = set()
        for name, share in shares.items():

            def told(tasks: frozenset[TaskId], probes: bool, name: str = name) -> None:
                self.copies[name] = tasks
                if probes:
                    self.prober.add(name)

            TaskAssignor(lambda: self.infos[""], on_copies=told).on_assignment(share, self.generation)
            again |= bool(self.owned[name] - set(share.partitions))
            self.owned[name] = set(share.partitions)
        return again

    def catch_up(self) -> None:
        """Owners and copies come to the end of the changelogs."""
        for name, info in self.infos.items():
            here = [task for task in self.tasks()[name] | self.copies[name] if task.sub_topology == 0]
            self.infos[name] = replace(info, positions={**info.positions, **{str(task): END for task in here}})

    def tasks(self) -> dict[str, set[TaskId]]:
        subs = {"orders": 0, "words": 1}
        return {
            name: {TaskId(subs[where.topic], where.partition) for where in owned} for name, owned in self.owned.items()
        }

    def owner(self, task: TaskId) -> str:
        return next(name for name, tasks in self.tasks().items() if task in tasks)

    def check_copies(self) -> None:
        """Every task with state has a copy, on another disk than the owner's; tasks without state have none."""
        for number in range(self.counts["orders"]):
            task = TaskId(0, number)
            hosts = [self.infos[name].host for name, copies in self.copies.items() if task in copies]
            assert len(hosts) == len(set(hosts)) == 1, (task, hosts)
            assert self.infos[self.owner(task)].host not in hosts
        assert all(task.sub_topology == 0 for copies in self.copies.values() for task in copies)


def test_each_task_with_state_has_a_copy_elsewhere() -> None:
    group = Group()
    for name in ("a-0", "b-0", "c-0"):
        group.join(name)
    group.settle()
    group.check_copies()
    assert max(map(len, group.copies.values())) <= 2


def test_processes_that_share_a_directory_keep_no_copies_for_each_other() -> None:
    group = Group()
    for name in ("a-0", "a-1"):
        group.join(name)
    group.settle()
    assert set(group.copies.values()) == {frozenset()}
    group.join("b-0")
    group.settle()
    assert group.copies["b-0"] >= {
        task for name in ("a-0", "a-1") for task in group.tasks()[name] if not task.sub_topology
    }


def test_a_task_goes_to_its_copy_when_its_owner_is_gone() -> None:
    group = Group()
    for name in ("a-0", "b-0", "c-0"):
        group.join(name)
    group.settle()
    group.catch_up()
    copies = {task: name for name, tasks in group.copies.items() for task in tasks}
    gone = [task for task in group.tasks()["a-0"] if task.sub_topology == 0]
    assert gone
    group.leave("a-0")
    group.settle()
    for task in gone:
        assert group.owner(task) == copies[task]
    group.check_copies()


def test_a_task_moves_when_the_copy_there_is_good_enough() -> None:
    """KIP-441: a new instance gets a copy first, and one member asks again; tasks without state go at once."""
    group = Group(CopySettings(standby_replicas=0), orders=6)
    group.join("a-0")
    group.settle()
    group.catch_up()
    group.join("b-0")
    group.settle()
    assert all(task.sub_topology == 1 for task in group.tasks()["b-0"])
    assert len(group.copies["b-0"]) == 1, "of nine tasks four go: three without state, one that waits for its copy"
    assert len(group.prober) == 1
    group.catch_up()
    waited = set(group.copies["b-0"])
    group.settle()
    assert waited <= group.tasks()["b-0"]
    assert not group.prober
    assert not group.copies["b-0"]


def test_at_most_so_many_tasks_warm_up_at_one_time() -> None:
    group = Group(CopySettings(warmup_max=2), orders=12)
    group.join("a-0")
    group.settle()
    group.catch_up()
    group.join("b-0")
    moved = 0
    for _ in range(8):
        group.settle()
        assert len(group.copies["b-0"]) <= 2
        group.catch_up()
        if not group.prober:
            break
        moved += len(group.copies["b-0"])
    assert not group.prober
    assert moved == len([task for task in group.tasks()["b-0"] if task.sub_topology == 0])
    assert abs(len(group.tasks()["a-0"]) - len(group.tasks()["b-0"])) <= 1


def test_a_small_state_is_not_waited_for() -> None:
    group = Group(CopySettings(standby_replicas=0))
    group.join("a-0", **{f"0_{number}": 9_000 for number in range(4)})
    group.settle()
    group.join("b-0")
    group.settle()
    assert not group.prober
    assert len(group.tasks()["b-0"]) == 3


@pytest.mark.parametrize("seed", range(15))
def test_members_come_and_go_and_copies_follow(seed: int) -> None:
    """After any changes each task is once somewhere, its copy on another disk, and nobody waits for ever."""
    dice = random.Random(seed)
    group = Group(CopySettings(standby_replicas=1, warmup_max=dice.randrange(1, 4)), orders=dice.randrange(1, 9))
    everything = {TaskId(0, n) for n in range(group.counts["orders"])} | {TaskId(1, n) for n in range(3)}
    number = 0
    for _ in range(10):
        if len(group.infos) > 2 and dice.random() < 0.4:
            group.leave(dice.choice(sorted(group.infos)))
        else:
            number += 1
            group.join(f"h{number}-0")
        if len(group.infos) < 2:
            continue
        for _ in range(12):
            tasks = group.settle()
            assert set().union(*tasks.values()) == everything
            assert sum(map(len, tasks.values())) == len(everything)
            group.catch_up()
            if not group.prober:
                break
        assert not group.prober, "tasks wait for ever"
        assert max(map(len, tasks.values())) - min(map(len, tasks.values())) <= 1
        group.check_copies()
