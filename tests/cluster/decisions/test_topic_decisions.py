"""What becomes of wishes about topics: Apache Kafka's codes and sentences, asked of 4.3.1 with the same requests."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.cluster_support import brokers, image_with

from ottla.cluster.decisions.placement import place
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topic_names import why_invalid
from ottla.cluster.decisions.topics import NewTopic, TopicPlan, new_topic_id, plan_growth, plan_topics
from ottla.cluster.image import ClusterImage
from ottla.config.effective import Levels
from ottla.errors import ErrorCode
from ottla.types import uuid_to_text


def plan(*topics: NewTopic, image: ClusterImage | None = None) -> list[TopicPlan | Refusal]:
    return plan_topics(
        image if image is not None else image_with({"t1": 1, "a.b": 1}),
        topics,
        num_partitions=3,
        replication_factor=1,
        levels=Levels(),
        random=Random(1),
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bad/name", "'bad/name' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
        ("", "the empty string is not allowed"),
        (".", "'.' is not allowed"),
        ("..", "'..' is not allowed"),
        ("x" * 250, f"the length of '{'x' * 250}' is longer than the max allowed length 249"),
        ("ü", "'ü' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
    ],
)
def test_names_kafka_refuses_are_refused(name: str, why: str) -> None:
    assert why_invalid(name) == f"Topic name is invalid: {why}"
    assert plan(NewTopic(name=name)) == [Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {why}")]


@pytest.mark.parametrize("name", ["a", "...", "A-b_c.9", "x" * 249])
def test_names_kafka_takes_are_taken(name: str) -> None:
    assert why_invalid(name) is None


REGISTERED = "because only 1 broker(s) are registered or some brokers have all their log directories cordoned."
MANUAL = "The manual partition assignment includes "


@pytest.mark.parametrize(
    ("topic", "error", "message"),
    [
        (NewTopic(name="t1"), "TOPIC_ALREADY_EXISTS", "Topic 't1' already exists."),
        (NewTopic(name="a_b"), "INVALID_TOPIC_EXCEPTION", "Topic 'a_b' collides with existing topic: a.b"),
        (
            NewTopic(name="n", num_partitions=0),
            "INVALID_PARTITIONS",
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            NewTopic(name="n", num_partitions=-2),
            "INVALID_PARTITIONS",
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            NewTopic(name="n", num_partitions=0, replication_factor=0),
            "INVALID_REPLICATION_FACTOR",
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            NewTopic(name="n", replication_factor=-2),
            "INVALID_REPLICATION_FACTOR",
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            NewTopic(name="n", replication_factor=2),
            "INVALID_REPLICATION_FACTOR",
            f"Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached {REGISTERED}",
        ),
        (
            NewTopic(name="n", num_partitions=1, assignments=[(0, [1])]),
            "INVALID_REQUEST",
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            NewTopic(name="n", replication_factor=1, assignments=[(0, [1])]),
            "INVALID_REQUEST",
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ),
        (
            NewTopic(name="n", assignments=[(0, [1]), (0, [1])]),
            "INVALID_REPLICA_ASSIGNMENT",
            "Found multiple manual partition assignments for partition 0",
        ),
        (
            NewTopic(name="n", assignments=[(0, [1, 1])]),
            "INVALID_REPLICA_ASSIGNMENT",
            MANUAL + "the broker 1 more than once.",
        ),
        (
            NewTopic(name="n", assignments=[(0, [2])]),
            "INVALID_REPLICA_ASSIGNMENT",
            MANUAL + "broker 2, but no such broker is registered.",
        ),
        (
            NewTopic(name="n", assignments=[(0, [])]),
            "INVALID_REPLICA_ASSIGNMENT",
            MANUAL + "an empty replica list.",
        ),
        (
            NewTopic(name="n", assignments=[(1, [1])]),
            "INVALID_REPLICA_ASSIGNMENT",
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (NewTopic(name="n", configs={"nokey": "1"}), "INVALID_CONFIG", "Unknown topic config name: nokey"),
        (
            NewTopic(name="n", configs={"retention.ms": None}),
            "INVALID_CONFIG",
            "Null value not supported for topic configs: retention.ms",
        ),
        (
            NewTopic(name="n", configs={"retention.ms": "abc"}),
            "INVALID_CONFIG",
            "Invalid value abc for configuration retention.ms: Not a number of type LONG",
        ),
        (
            NewTopic(name="n", num_partitions=10_001),
            "POLICY_VIOLATION",
            "Excessively large number of partitions per request.",
        ),
    ],
)
def test_refusals_are_those_of_kafka(topic: NewTopic, error: str, message: str) -> None:
    assert plan(topic) == [Refusal(ErrorCode[error], message)]


def test_two_brokers_need_replica_lists_of_one_length() -> None:
    image = image_with({}, 1, 2)
    topic = NewTopic(name="n", assignments=[(0, [1, 2]), (1, [1])])
    sentence = (
        MANUAL + "a partition with 1 replica(s), but this is not consistent with previous partitions, "
        "which have 2 replica(s)."
    )
    assert plan(topic, image=image) == [Refusal(ErrorCode.INVALID_REPLICA_ASSIGNMENT, sentence)]


def test_defaults_stand_for_minus_one_and_assignments_are_kept() -> None:
    default, told = plan(NewTopic(name="n"), NewTopic(name="m", assignments=[(1, [1]), (0, [1])]))
    assert isinstance(default, TopicPlan)
    assert isinstance(told, TopicPlan)
    assert [p.replicas for p in default.partitions] == [(1,)] * 3
    assert [(p.replicas, p.isr, p.leader, p.leader_epoch) for p in told.partitions] == [((1,), (1,), 1, 0)] * 2
    assert default.topic_id != told.topic_id


def test_colliding_names_in_one_request_are_both_made_as_in_kafka() -> None:
    assert all(isinstance(p, TopicPlan) for p in plan(NewTopic(name="c.d"), NewTopic(name="c_d")))


def test_replicas_that_do_not_live_are_not_in_sync() -> None:
    image = image_with({}, 1, 2, 3)
    (told,) = plan(NewTopic(name="n", assignments=[(0, [3, 1])]), image=image)
    assert isinstance(told, TopicPlan)
    assert (told.partitions[0].leader, told.partitions[0].isr) == (3, (3, 1))


@pytest.mark.parametrize(
    ("name", "count", "assignments", "error", "message"),
    [
        ("none", 2, None, "UNKNOWN_TOPIC_OR_PARTITION", None),
        ("t", 2, None, "INVALID_PARTITIONS", "Topic already has 2 partition(s)."),
        (
            "t",
            -1,
            None,
            "INVALID_PARTITIONS",
            "The topic t currently has 2 partition(s); -1 would not be an increase.",
        ),
        (
            "t",
            4,
            [[1]],
            "INVALID_REPLICA_ASSIGNMENT",
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        ("t", 3, [[2]], "INVALID_REPLICA_ASSIGNMENT", MANUAL + "broker 2, but no such broker is registered."),
        ("t", 3, [[]], "INVALID_REPLICA_ASSIGNMENT", MANUAL + "an empty replica list."),
    ],
)
def test_growth_refused_as_in_kafka(
    name: str, count: int, assignments: list[list[int]] | None, error: str, message: str | None
) -> None:
    assert plan_growth(image_with({"t": 2}), name, count, assignments, Random(1)) == Refusal(ErrorCode[error], message)


def test_growth_adds_only_what_is_new() -> None:
    image = image_with({"t": 2}, 1, 2)
    grown = plan_growth(image, "t", 4, [[2], [1]], Random(1))
    assert not isinstance(grown, Refusal)
    assert [p.replicas for p in grown] == [(2,), (1,)]
    assert len(plan_growth(image, "t", 9, None, Random(1))) == 7


@given(
    nodes=st.dictionaries(st.integers(0, 50), st.sampled_from([None, "r1", "r2", "r3"]), min_size=1, max_size=9),
    count=st.integers(1, 30),
    seed=st.integers(),
    data=st.data(),
)
def test_replicas_are_distinct_spread_over_racks_and_leaders_even(
    nodes: dict[int, str | None], count: int, seed: int, data: st.DataObject
) -> None:
    factor = data.draw(st.integers(1, len(nodes)))
    racks = {node_id: rack for node_id, rack in nodes.items() if rack is not None}
    placed = place(brokers(*nodes, racks=racks), count, factor, Random(seed))
    assert not isinstance(placed, Refusal)
    assert len(placed) == count
    for replicas in placed:
        assert len(set(replicas)) == len(replicas) == factor
        if None not in nodes.values():
            assert len({racks[node_id] for node_id in replicas}) == min(factor, len(set(racks.values())))
    leaders = Counter(replicas[0] for replicas in placed)
    assert max(leaders.values()) - min(leaders[node_id] for node_id in nodes) <= 1


def test_topic_ids_are_uuids_that_do_not_look_like_flags() -> None:
    random = Random(3)
    ids = [new_topic_id(random) for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert not any(uuid_to_text(uuid).startswith("-") for uuid in ids)
    assert {uuid[6] >> 4 for uuid in ids} == {4}
