from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ottla.cluster.decisions.recovery import KEEP_EVERYTHING, FoundPartition, rebuild_topics

A, B = b"a" * 16, b"b" * 16


def test_topics_come_back_with_their_ids_and_higher_epochs() -> None:
    rebuilt = rebuild_topics([FoundPartition("t", 1, A, 7), FoundPartition("t", 0, A)], 3, Random(1))
    (plan,) = rebuilt.plans
    assert (plan.name, plan.topic_id, plan.configs) == ("t", A, KEEP_EVERYTHING)
    assert [(p.replicas, p.leader, p.leader_epoch) for p in plan.partitions] == [((3,), 3, 0), ((3,), 3, 8)]
    assert [note.partition(":")[0] for note in rebuilt.notes] == ["the settings of topics were lost"]


def test_what_is_odd_is_said() -> None:
    rebuilt = rebuild_topics(
        [
            FoundPartition("gap", 2, A),
            FoundPartition("two", 0, A),
            FoundPartition("two", 1, B),
            FoundPartition("two", 2, B),
            FoundPartition("no/topic", 0, A),
        ],
        1,
        Random(1),
        settings={},
    )
    assert {plan.name: plan.topic_id for plan in rebuilt.plans} == {"gap": A, "two": B}
    assert rebuilt.notes == (
        "gap has no directory for partition 0, 1: made again, empty",
        "the directories of no/topic are left alone: it is no name of a topic",
        "the directories of two have 2 different topic ids; the one of most was taken",
        "two has no directory for partition 0: made again, empty",
    )


@given(
    st.lists(
        st.builds(
            FoundPartition,
            st.sampled_from(["t", "u", "v"]),
            st.integers(0, 5),
            st.sampled_from([A, B, bytes(16)]),
            st.integers(-1, 9),
        )
    )
)
def test_every_directory_found_has_a_partition_and_the_order_does_not_matter(found: list[FoundPartition]) -> None:
    plans = {plan.name: plan for plan in rebuild_topics(found, 1, Random(1)).plans}
    for partition in found:
        plan = plans[partition.topic]
        if partition.topic_id == plan.topic_id:
            assert partition.partition < len(plan.partitions)
    assert rebuild_topics(reversed(found), 1, Random(1)).plans == tuple(plans.values())
