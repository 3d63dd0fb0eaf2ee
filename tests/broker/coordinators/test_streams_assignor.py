"""The sticky assignor of streams tasks, and one member's step towards what it says: properties over random groups."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.broker.coordinators.groups.streams.assignor import MemberSpec, assign
from ottla.broker.coordinators.groups.streams.group import StreamsGroup
from ottla.broker.coordinators.groups.streams.internal_topics import StatusCode, configure
from ottla.broker.coordinators.groups.streams.member import MemberState, StreamsMember
from ottla.broker.coordinators.groups.streams.reconciliation import reconcile
from ottla.broker.coordinators.groups.streams.tasks import TaskId, Tasks
from ottla.broker.coordinators.groups.streams.topology import InternalTopic, Subtopology, Topology
from ottla.broker.coordinators.timeline import Timeline
from ottla.cluster.image import ClusterImage

TASKS = st.frozensets(st.builds(TaskId, st.sampled_from("012"), st.integers(0, 5)), max_size=8)
SPECS = st.builds(
    MemberSpec,
    process_id=st.sampled_from("pqrs"),
    active=TASKS,
    standby=TASKS,
    offsets=st.dictionaries(
        st.builds(TaskId, st.sampled_from("012"), st.integers(0, 5)), st.integers(0, 99), max_size=4
    ),
)
GROUPS = st.dictionaries(st.sampled_from("abcdefgh"), SPECS, min_size=1)
COUNTS = st.dictionaries(st.sampled_from("012"), st.integers(1, 6), min_size=1)


@given(GROUPS, COUNTS, st.frozensets(st.sampled_from("012")), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_every_task_runs_once_and_its_copies_are_elsewhere(
    members: dict[str, MemberSpec], counts: dict[str, int], stateful: frozenset[str], replicas: int
) -> None:
    target = assign(members, counts, stateful=stateful, standby_replicas=replicas)
    assert target.keys() == members.keys()
    tasks = {TaskId(name, index) for name, count in counts.items() for index in range(count)}
    assert Counter(task for each in target.values() for task in each.active) == Counter(tasks)
    held: Counter[tuple[str, TaskId]] = Counter()
    copies: Counter[TaskId] = Counter()
    for member_id, each in target.items():
        held.update((members[member_id].process_id, task) for task in each.active | each.standby)
        copies.update(each.standby)
    assert set(held.values()) <= {1}
    processes = len({spec.process_id for spec in members.values()})
    expected = min(replicas, processes - 1)
    assert copies == Counter({task: expected for task in tasks if task.subtopology in stateful and expected})


@given(GROUPS, COUNTS, st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_order_of_members_makes_no_difference(
    members: dict[str, MemberSpec], counts: dict[str, int], replicas: int
) -> None:
    backwards = dict(reversed(members.items()))
    first = assign(members, counts, stateful="01", standby_replicas=replicas)
    assert first == assign(backwards, counts, stateful="01", standby_replicas=replicas)


@given(st.integers(1, 6), COUNTS)
@settings(max_examples=60, deadline=None)
def test_what_is_assigned_stays_where_it_is(size: int, counts: dict[str, int]) -> None:
    """Members with a process each: the same group keeps its tasks, and one more member takes only what it gets."""
    fresh = {f"m{n}": MemberSpec(process_id=f"p{n}") for n in range(size)}
    before = assign(fresh, counts, stateful=(), standby_replicas=0)
    known = {name: MemberSpec(process_id=fresh[name].process_id, active=before[name].active) for name in fresh}
    assert assign(known, counts, stateful=(), standby_replicas=0) == before
    grown = assign({**known, "new": MemberSpec(process_id="new")}, counts, stateful=(), standby_replicas=0)
    moved = sum(len(grown[name].active - before[name].active) for name in fresh)
    assert moved == 0
    sizes = [len(each.active) for each in grown.values()]
    assert max(sizes) - min(sizes) <= 1


def test_a_copy_becomes_the_task_when_its_process_is_gone() -> None:
    copy = MemberSpec(process_id="q", standby=frozenset({TaskId("0", 1)}))
    other = MemberSpec(process_id="r")
    target = assign({"b": copy, "c": other}, {"0": 2}, stateful="0", standby_replicas=1)
    assert TaskId("0", 1) in target["b"].active
    assert TaskId("0", 1) in target["c"].standby


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pq"), st.booleans()), max_size=40),
    st.lists(
        st.dictionaries(st.builds(TaskId, st.just("0"), st.integers(0, 3)), st.sampled_from("ab")),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=60, deadline=None)
def test_members_reach_their_target_and_never_share_a_task(
    steps: list[tuple[str, str, bool]], owners: list[dict[TaskId, str]]
) -> None:
    """Targets follow each other; members step in any order, and confirm late or at once what they gave up."""
    timeline = Timeline(tracks=False)
    group = StreamsGroup("g", timeline, ClusterImage)
    for name, process in (("a", "p"), ("b", "q")):
        group.update_member(StreamsMember(member_id=name, process_id=process))

    def step(name: str, epoch: int, target: dict[TaskId, str], *, confirms: bool) -> None:
        member = group.member(name)
        mine = frozenset(task for task, owner in target.items() if owner == name)
        has = member.assigned.active.keys() | (frozenset() if confirms else member.revoking.active.keys())
        group.update_member(reconcile(member, epoch, Tasks(mine), Tasks(frozenset(has)), group))
        one, other = group.member("a"), group.member("b")
        held = [*one.assigned.active, *one.revoking.active, *other.assigned.active, *other.revoking.active]
        assert len(held) == len(set(held))

    moves = iter(steps)
    for number, target in enumerate(owners):
        for name, _, confirms in [*(move for _, move in zip(range(5), moves, strict=False))]:
            step(name, number + 2, target, confirms=confirms)
    last = len(owners) + 1
    for _ in range(4):
        for name in "ab":
            step(name, last, owners[-1], confirms=True)
    for name in "ab":
        member = group.member(name)
        assert (member.state, member.member_epoch) == (MemberState.STABLE, last)
        assert member.assigned.active.keys() == {task for task, owner in owners[-1].items() if owner == name}


def subtopology(name: str, *, reads: str = "", sources: str = "", writes: str = "", logs: str = "") -> Subtopology:
    def internal(names: str) -> tuple[InternalTopic, ...]:
        return tuple(InternalTopic(topic, 0, 0, ()) for topic in names.split())

    return Subtopology(
        subtopology_id=name,
        source_topics=tuple(reads.split()),
        source_topic_regex=(),
        repartition_sink_topics=tuple(writes.split()),
        repartition_source_topics=internal(sources),
        state_changelog_topics=internal(logs),
        copartition_groups=(),
    )


def test_partitions_flow_down_from_the_sources() -> None:
    topology = Topology(
        0,
        {
            "0": subtopology("0", sources="late", logs="store"),
            "1": subtopology("1", reads="wide narrow", writes="early"),
            "2": subtopology("2", sources="early", writes="late"),
        },
    )
    exist = {"wide": 7, "narrow": 2}
    configured = configure(topology, exist.get)
    assert configured.problem is not None
    assert configured.problem.code is StatusCode.MISSING_INTERNAL_TOPICS
    assert {topic.name: topic.partitions for topic in configured.to_create} == {"early": 7, "late": 7, "store": 7}
    exist |= {topic.name: topic.partitions for topic in configured.to_create}
    ready = configure(topology, exist.get)
    assert ready.is_ready
    assert ready.subtopologies is not None
    assert {name: part.tasks for name, part in ready.subtopologies.items()} == {"0": 7, "1": 7, "2": 7}
