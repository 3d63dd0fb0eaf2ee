"""The assignor of share groups: everybody has work, every partition has somebody, and little changes hands."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec, MemberSpec
from ottla.broker.coordinators.groups.share.assignor import assign

TOPICS = [bytes([number]) * 16 for number in range(3)]
JOBS = TOPICS[0]

Place = tuple[bytes, int]


def places(assignment: Assignment) -> set[Place]:
    return {(topic_id, partition) for topic_id, parts in assignment.items() for partition in parts}


def by_topic(wanted: frozenset[Place]) -> dict[bytes, frozenset[int]]:
    return {topic_id: frozenset(p for t, p in wanted if t == topic_id) for topic_id in {t for t, _ in wanted}}


@st.composite
def groups(draw: st.DrawFn, *, homogeneous: bool | None = None) -> tuple[GroupSpec, Assignment]:
    """Groups after anything may have happened: targets that overlap, of topics that grew, shrank or are unwanted now."""
    counts = {topic_id: draw(st.integers(1, 8)) for topic_id in TOPICS}
    assignable = {topic_id: draw(st.frozensets(st.integers(0, count - 1))) for topic_id, count in counts.items()}
    everything = [(topic_id, partition) for topic_id, count in counts.items() for partition in range(count + 2)]
    same = draw(st.booleans()) if homogeneous is None else homogeneous
    everybody = draw(st.frozensets(st.sampled_from(TOPICS), min_size=1))
    members = {
        f"m{number}": MemberSpec(
            topic_ids=everybody if same else draw(st.frozensets(st.sampled_from(TOPICS))),
            target=by_topic(draw(st.frozensets(st.sampled_from(everything), max_size=8))),
        )
        for number in range(draw(st.integers(1, 9)))
    }
    return GroupSpec(members=members, partition_counts=counts), assignable


@given(group=groups())
@settings(max_examples=300, deadline=None)
def test_every_partition_that_may_be_given_has_somebody_who_wants_it(group: tuple[GroupSpec, Assignment]) -> None:
    spec, assignable = group
    targets = assign(spec, assignable)
    assert set(targets) == set(spec.members)
    given_out: set[Place] = set()
    for member_id, target in targets.items():
        assert set(target) <= spec.members[member_id].topic_ids
        given_out |= places(target)
    wanted = {topic_id for member in spec.members.values() for topic_id in member.topic_ids}
    assert given_out == {(topic_id, p) for topic_id in wanted for p in assignable[topic_id]}


@given(group=groups(homogeneous=True))
@settings(max_examples=300, deadline=None)
def test_members_have_equally_many_and_partitions_equally_many_members(group: tuple[GroupSpec, Assignment]) -> None:
    spec, assignable = group
    targets = assign(spec, assignable)
    sizes = [len(places(target)) for target in targets.values()]
    shares = Counter(place for target in targets.values() for place in places(target))
    assert max(shares.values(), default=0) <= -(-len(spec.members) // max(len(shares), 1))
    if shares:
        assert min(sizes) >= 1 or len(spec.members) == 1
        assert max(sizes) - min(sizes) <= 1


@given(group=groups())
@settings(max_examples=200, deadline=None)
def test_what_is_assigned_already_stays(group: tuple[GroupSpec, Assignment]) -> None:
    spec, assignable = group
    targets = assign(spec, assignable)
    members = {
        member_id: MemberSpec(topic_ids=member.topic_ids, target=targets[member_id])
        for member_id, member in spec.members.items()
    }
    again = GroupSpec(members=members, partition_counts=spec.partition_counts)
    assert {m: places(t) for m, t in assign(again, assignable).items()} == {m: places(t) for m, t in targets.items()}


def test_a_member_more_takes_no_more_than_its_share() -> None:
    members = {
        "a": MemberSpec(topic_ids=frozenset({JOBS}), target={JOBS: frozenset(range(3))}),
        "b": MemberSpec(topic_ids=frozenset({JOBS}), target={JOBS: frozenset(range(3, 6))}),
        "c": MemberSpec(topic_ids=frozenset({JOBS})),
    }
    targets = assign(GroupSpec(members=members, partition_counts={JOBS: 6}), {JOBS: frozenset(range(6))})
    assert [len(places(targets[name])) for name in "abc"] == [2, 2, 2]
    assert places(targets["a"]) <= {(JOBS, p) for p in range(3)}
    assert places(targets["b"]) <= {(JOBS, p) for p in range(3, 6)}


def test_more_members_than_partitions_share_them() -> None:
    members = {f"m{number}": MemberSpec(topic_ids=frozenset({JOBS})) for number in range(10)}
    targets = assign(GroupSpec(members=members, partition_counts={JOBS: 2}), {JOBS: frozenset({0, 1})})
    assert Counter(place for target in targets.values() for place in places(target)) == {(JOBS, 0): 5, (JOBS, 1): 5}
