"""Who works on which task: sticky, in two rounds, whatever members differ in."""

from __future__ import annotations

import json
import random

import pytest

from ottla.assignors import GroupMember
from ottla.streams.runtime.assignor import MemberInfo, Owners, SubTopologyInfo, TaskAssignor
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

ONE = SubTopologyInfo(0, "hash-a", ("orders", "users"))
TWO = SubTopologyInfo(1, "hash-b", ("words",))
COUNTS = {"orders": 4, "users": 4, "words": 3}


def info(process: str, *subs: SubTopologyInfo, positions: dict[str, int] | None = None) -> MemberInfo:
    return MemberInfo(
        process=process, sub_topologies=subs or (ONE, TWO), endpoint=f"{process}:80", positions=positions or {}
    )


class Group:
    """Members that do what the protocol says: what is taken from them they give up, and then the group meets again."""

    def __init__(self, counts: dict[str, int] = COUNTS) -> None:
        self.counts = dict(counts)
        self.infos: dict[str, MemberInfo | bytes] = {}
        self.owned: dict[str, set[TopicPartition]] = {}
        self.generation = 0
        self.owners: Owners = {}
        self.moves = 0

    def join(self, member_id: str, what: MemberInfo | bytes) -> None:
        self.infos[member_id] = what
        self.owned.setdefault(member_id, set())

    def leave(self, member_id: str) -> None:
        del self.infos[member_id], self.owned[member_id]

    def round(self) -> bool:
        """One rebalance; whether another one has to follow."""
        self.generation += 1
        assignor = TaskAssignor(lambda: info("leader"), self._on_owners)
        members = [
            GroupMember(
                member_id,
                ("orders", "users", "words"),
                sorted(self.owned[member_id]),
                self.generation - 1,
                what if isinstance(what, bytes) else what.to_bytes(),
            )
            for member_id, what in self.infos.items()
        ]
        shares = assignor.assign(members, self.counts)
        assert set(shares) == set(self.infos)
        again = False
        given: list[TopicPartition] = []
        for member_id, share in shares.items():
            given += share.partitions
            others = set().union(*(owned for other, owned in self.owned.items() if other != member_id))
            assert not others & set(share.partitions), "a task moved before its owner gave it up"
            assignor.on_assignment(share, self.generation)
        assert len(given) == len(set(given))
        for member_id, share in shares.items():
            again |= bool(self.owned[member_id] - set(share.partitions))
            self.moves += len(set(share.partitions) - self.owned[member_id])
            self.owned[member_id] = set(share.partitions)
        return again

    def _on_owners(self, owners: Owners, generation: int) -> None:
        self.owners = owners
        assert generation == self.generation

    def settle(self) -> dict[str, set[TaskId]]:
        for _ in range(10):
            if not self.round():
                return self.tasks()
        raise AssertionError("the group does not come to rest")

    def tasks(self) -> dict[str, set[TaskId]]:
        subs = {"orders": 0, "users": 0, "words": 1}
        return {
            member_id: {TaskId(subs[where.topic], where.partition) for where in owned}
            for member_id, owned in self.owned.items()
        }


ALL = {TaskId(0, number) for number in range(4)} | {TaskId(1, number) for number in range(3)}


def test_one_member_has_all_tasks() -> None:
    group = Group()
    group.join("a", info("a"))
    assert group.settle() == {"a": ALL}
    assert group.owners == {str(task): "a:80" for task in ALL}


def test_a_second_member_gets_half_and_the_rest_stays() -> None:
    group = Group()
    group.join("a", info("a"))
    group.settle()
    before = group.tasks()["a"]
    group.join("b", info("b"))
    assert group.round(), "a gives tasks up in the first round"
    assert not group.owned["b"]
    tasks = group.settle()
    assert sorted(map(len, tasks.values())) == [3, 4]
    assert tasks["a"] < before
    assert tasks["a"] | tasks["b"] == ALL


def test_the_partitions_of_a_task_stay_together() -> None:
    group = Group({"orders": 4, "users": 2, "words": 0})
    for name in "abc":
        group.join(name, info(name))
    group.settle()
    for owned in group.owned.values():
        assert {where.partition for where in owned if where.topic == "users"} <= {
            where.partition for where in owned if where.topic == "orders"
        }


def test_a_task_goes_where_its_state_is() -> None:
    group = Group()
    group.join("a", info("a", positions={"0_1": 3, "0_0": 0}))
    group.join("b", info("b", positions={"0_1": 500, "1_0": 9}))
    tasks = group.settle()
    assert {TaskId(0, 1), TaskId(1, 0)} <= tasks["b"]
    assert TaskId(0, 0) in tasks["a"]


def test_two_topologies_in_one_group() -> None:
    """Half of the members run a new version of sub-topology 0: it stays with the old one until nobody has that."""
    new = SubTopologyInfo(0, "hash-new", ("orders", "users"))
    group = Group()
    group.join("a", info("a"))
    group.settle()
    group.join("b", info("b", new, TWO))
    group.join("c", info("c", new, TWO))
    tasks = group.settle()
    assert all(task.sub_topology == 1 for task in tasks["b"] | tasks["c"])
    assert set().union(*tasks.values()) == ALL
    group.leave("a")
    tasks = group.settle()
    assert tasks["b"] | tasks["c"] == ALL
    assert abs(len(tasks["b"]) - len(tasks["c"])) <= 1


def test_leader_older_than_member() -> None:
    """A newer member says more than this release knows: what can be read counts; what cannot gets nothing for now."""
    extra = SubTopologyInfo(2, "hash-c", ("more",))
    later = json.loads(info("b", ONE, TWO, extra).to_bytes())
    later |= {"version": 7, "standby_tasks": ["0_0"]}
    group = Group(COUNTS | {"more": 2})
    group.join("a", info("a"))
    group.join("b", json.dumps(later).encode())
    group.round()
    group.round()
    assert {where for where in group.owned["b"] if where.topic == "more"} == {TopicPartition("more", n) for n in (0, 1)}
    later["readable_from"] = 7
    group.join("b", json.dumps(later).encode())
    for _ in range(3):
        group.round()
    assert not group.owned["b"]
    assert len(group.owned["a"]) == 11


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\x00\x01", b"[]", b'{"readable_from":1,"process":"x","sub_topologies":[[0]]}']
)
def test_user_data_that_makes_no_sense_gets_nothing(data: bytes) -> None:
    group = Group()
    group.join("a", info("a"))
    group.join("b", data)
    assert group.settle()["a"] == ALL


def test_what_a_member_tells_is_read_back() -> None:
    told = info("a", positions={"0_1": 5})
    assert MemberInfo.from_bytes(told.to_bytes()) == told


@pytest.mark.parametrize("seed", range(50))
def test_members_come_and_go(seed: int) -> None:
    """After any changes the group comes to rest: each task once, nobody with two more than another."""
    dice = random.Random(seed)
    group = Group({"orders": dice.randrange(1, 9), "users": dice.randrange(1, 9), "words": dice.randrange(1, 9)})
    everything = {TaskId(0, n) for n in range(max(group.counts["orders"], group.counts["users"]))}
    everything |= {TaskId(1, n) for n in range(group.counts["words"])}
    number = 0
    for _ in range(12):
        if group.infos and dice.random() < 0.4:
            group.leave(dice.choice(sorted(group.infos)))
        else:
            number += 1
            group.join(f"m{number}", info(f"m{number}", positions={f"0_{dice.randrange(8)}": dice.randrange(100)}))
        if not group.infos:
            continue
        if dice.random() < 0.3:
            group.round()  # somebody comes or goes before the second round
            continue
        tasks = group.settle()
        assert set().union(*tasks.values()) == everything
        assert max(map(len, tasks.values())) - min(map(len, tasks.values())) <= 1
