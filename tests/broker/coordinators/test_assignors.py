"""The assignors of consumer groups: every partition once, in balance, and as few as possible change hands."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.broker.coordinators.groups.consumer.assignors import ASSIGNORS
from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec, MemberSpec, changed_targets

TOPICS = [bytes([number]) * 16 for number in range(4)]


def partitions(assignment: Assignment) -> set[tuple[bytes, int]]:
    return {(topic_id, partition) for topic_id, parts in assignment.items() for partition in parts}


@st.composite
def groups(draw: st.DrawFn, *, homogeneous: bool | None = None) -> GroupSpec:
    """Groups after anything may have happened: members that came, topics that grew, targets that overlap nowhere."""
    counts = {topic_id: draw(st.integers(1, 9)) for topic_id in TOPICS}
    same = draw(st.booleans()) if homogeneous is None else homogeneous
    everybody = draw(st.frozensets(st.sampled_from(TOPICS)))
    members = {}
    free = {(topic_id, partition) for topic_id, count in counts.items() for partition in range(count + 2)}
    for number in range(draw(st.integers(1, 7))):
        had = draw(st.frozensets(st.sampled_from(sorted(free)), max_size=12)) if free else frozenset()
        free -= had
        target: dict[bytes, frozenset[int]] = {}
        for topic_id, partition in had:
            target[topic_id] = target.get(topic_id, frozenset()) | {partition}
        members[f"m{number}"] = MemberSpec(
            topic_ids=everybody if same else draw(st.frozensets(st.sampled_from(TOPICS))),
            target=target,
            instance_id=draw(st.sampled_from([None, None, f"i{9 - number}"])),
            rack_id=draw(st.sampled_from([None, "a", "b"])),
        )
    subscribed = {topic_id for member in members.values() for topic_id in member.topic_ids}
    return GroupSpec(members=members, partition_counts={topic_id: counts[topic_id] for topic_id in subscribed})


@pytest.mark.parametrize("name", ["uniform", "range"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_partition_goes_to_one_subscriber(name: str, data: st.DataObject) -> None:
    spec = data.draw(groups())
    targets = ASSIGNORS[name].assign(spec)
    given_away: Counter[tuple[bytes, int]] = Counter()
    for member_id, target in targets.items():
        assert set(target) <= spec.members[member_id].topic_ids
        given_away.update(partitions(target))
    assert given_away == {(t, p): 1 for t, count in spec.partition_counts.items() for p in range(count)}


@given(spec=groups(homogeneous=True))
@settings(max_examples=200, deadline=None)
def test_uniform_balances_and_moves_no_more_than_it_must(spec: GroupSpec) -> None:
    targets = ASSIGNORS["uniform"].assign(spec)
    sizes = {member_id: len(partitions(target)) for member_id, target in targets.items()}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    valid = {
        member_id: {
            (t, p) for t, p in partitions(member.target) if t in member.topic_ids and p < spec.partition_counts[t]
        }
        for member_id, member in spec.members.items()
    }
    kept = sum(len(valid[member_id] & partitions(targets[member_id])) for member_id in spec.members)
    quota, extra = divmod(sum(sizes.values()), len(sizes))
    holdings = sorted(map(len, valid.values()), reverse=True)
    assert kept == sum(min(count, quota + (rank < extra)) for rank, count in enumerate(holdings))


@given(spec=groups(homogeneous=False))
@settings(max_examples=200, deadline=None)
def test_uniform_leaves_no_move_that_would_help(spec: GroupSpec) -> None:
    """No partition could go to a subscriber who has two fewer than its owner."""
    targets = ASSIGNORS["uniform"].assign(spec)
    loads = {member_id: len(partitions(target)) for member_id, target in targets.items()}
    for owner, target in targets.items():
        for topic_id in target:
            takers = [loads[each] for each, member in spec.members.items() if topic_id in member.topic_ids]
            assert loads[owner] - min(takers) <= 1


@pytest.mark.parametrize("name", ["uniform", "range"])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_assigned_stays_assigned_and_racks_do_not_count(name: str, data: st.DataObject) -> None:
    spec = data.draw(groups())
    targets = ASSIGNORS[name].assign(spec)
    again = GroupSpec(
        members={
            member_id: MemberSpec(
                topic_ids=member.topic_ids, target=targets[member_id], instance_id=member.instance_id, rack_id="z"
            )
            for member_id, member in spec.members.items()
        },
        partition_counts=spec.partition_counts,
    )
    assert changed_targets(again, ASSIGNORS[name].assign(again)) == {}


def test_range_gives_runs_and_static_members_their_place() -> None:
    first, second = TOPICS[:2]
    topics = frozenset((first, second))
    spec = GroupSpec(
        members={
            "a": MemberSpec(topic_ids=topics),
            "b": MemberSpec(topic_ids=topics, instance_id="i2"),
            "c": MemberSpec(topic_ids=topics, instance_id="i1"),
        },
        partition_counts={first: 7, second: 3},
    )
    targets = ASSIGNORS["range"].assign(spec)
    assert targets["c"] == {first: frozenset({0, 1, 2}), second: frozenset({0})}
    assert targets["b"] == {first: frozenset({3, 4}), second: frozenset({1})}
    assert targets["a"] == {first: frozenset({5, 6}), second: frozenset({2})}
