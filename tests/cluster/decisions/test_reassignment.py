"""Where replicas are to be: what is planned, what ends, what is taken back, and how topics grow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.cluster.cluster_support import brokers

from ottla.cluster.decisions.reassignment import Move, finished, grown_min_isr, growth, plan_reassignment
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import ClusterImage, PartitionImage, TopicImage
from ottla.errors import ErrorCode
from ottla.types import TopicPartition

T0 = TopicPartition("t", 0)


def partition(
    replicas: Sequence[int],
    isr: Sequence[int] | None = None,
    *,
    leader: int | None = None,
    adding: Sequence[int] = (),
    removing: Sequence[int] = (),
) -> PartitionImage:
    isr = tuple(replicas if isr is None else isr)
    return PartitionImage(
        tuple(replicas),
        isr,
        isr[0] if leader is None else leader,
        5,
        7,
        adding_replicas=tuple(adding),
        removing_replicas=tuple(removing),
        isr_epochs=(0,) * len(isr),
    )


def image(*partitions: PartitionImage, living: Sequence[int] = (1, 2, 3, 4)) -> ClusterImage:
    topic = TopicImage("t", bytes([1]) * 16, partitions)
    return ClusterImage(brokers=brokers(*living), topics={"t": topic}, topic_names={topic.topic_id: "t"})


def planned(found: PartitionImage, target: Sequence[int] | None) -> Move | Refusal:
    return plan_reassignment(image(found), T0, target)


@pytest.mark.parametrize(
    ("found", "target", "move"),
    [
        (partition([1, 2]), [3, 4], Move((3, 4, 1, 2), (3, 4), (1, 2))),
        (partition([1, 2]), [2, 3], Move((2, 3, 1), (3,), (1,))),
        (partition([1, 2]), [2, 1], Move((2, 1))),
        (partition([1, 2]), [1], Move((1, 2), (), (2,))),
        (partition([1]), [1, 2, 3], Move((1, 2, 3), (2, 3))),
        # Another one is begun before the first has ended: 3 still has to come in sync, 4 is to go again.
        (partition([3, 4, 1], [1], adding=[3, 4], removing=[1]), [3, 2], Move((3, 2, 4, 1), (3, 2), (4, 1))),
    ],
)
def test_what_is_planned(found: PartitionImage, target: list[int], move: Move) -> None:
    assert planned(found, target) == move


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ([], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "empty replica list"),
        ([1, 1], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "the broker 1 more than once"),
        ([1, 9], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "broker 9, but no such broker is registered"),
        (None, ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "No partition reassignment is in progress"),
    ],
)
def test_what_is_refused(target: list[int] | None, error: ErrorCode, words: str) -> None:
    refusal = planned(partition([1, 2]), target)
    assert isinstance(refusal, Refusal)
    assert refusal.error is error
    assert words in (refusal.message or "")


def test_the_number_of_replicas_changes_only_where_that_is_allowed() -> None:
    now = image(partition([1, 2]))
    refusal = plan_reassignment(now, T0, [3], may_change_count=False)
    assert refusal == Refusal(ErrorCode.INVALID_REPLICATION_FACTOR, "The replication factor is changed from 2 to 1")
    assert plan_reassignment(now, T0, [3, 4], may_change_count=False) == Move((3, 4, 1, 2), (3, 4), (1, 2))
    unknown = plan_reassignment(now, TopicPartition("t", 4), [1])
    assert isinstance(unknown, Refusal)
    assert unknown.error is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def ended(found: PartitionImage, living: Sequence[int] = (1, 2, 3, 4)) -> Move | None:
    now = image(found, living=living)
    moves = dict(finished(now, [(now.topics["t"], 0)]))
    return moves.get(T0)


def test_it_ends_when_what_was_added_is_in_sync() -> None:
    assert ended(partition([3, 4, 1, 2], [1, 2, 3], adding=[3, 4], removing=[1, 2])) is None
    move = ended(partition([3, 4, 1, 2], [1, 2, 3, 4], leader=1, adding=[3, 4], removing=[1, 2]))
    assert move is not None
    assert move.state is not None
    assert move[:3] == ((3, 4), (), ())
    assert (move.state.isr, move.state.leader, move.state.leader_epoch) == ((3, 4), 3, 6)
    assert move.state.partition_epoch == 7
    # A leader that stays goes on, in a new epoch all the same: others stop to fetch from what was.
    move = ended(partition([2, 3, 1], [1, 2, 3], leader=2, adding=[3], removing=[1]))
    assert move is not None
    assert move.state is not None
    assert (move.state.leader, move.state.leader_epoch) == (2, 6)


def test_it_does_not_end_with_a_replica_that_is_away_or_has_bounced() -> None:
    moving = partition([3, 1], [1, 3], leader=1, adding=[3], removing=[1])
    assert ended(moving, living=(1, 2)) is None
    now = image(moving)
    bounced = now.brokers[3]._replace(broker_epoch=4, continues=4)
    now = ClusterImage(brokers={**now.brokers, 3: bounced}, topics=now.topics, topic_names=now.topic_names)
    assert list(finished(now, [(now.topics["t"], 0)])) == []


def test_it_is_taken_back() -> None:
    moving = partition([3, 4, 1, 2], [1, 2, 3], leader=3, adding=[3, 4], removing=[1, 2])
    move = planned(moving, None)
    assert isinstance(move, Move)
    assert move.state is not None
    assert move.replicas == (1, 2)
    assert (move.state.isr, move.state.leader) == ((1, 2), 1)
    # None of the old replicas has all records.
    refusal = planned(partition([3, 1], [3], adding=[3], removing=[1]), None)
    assert isinstance(refusal, Refusal)
    assert "because it would require an unclean leader election" in (refusal.message or "")


def test_a_topic_grows_where_its_fewest_replicas_are() -> None:
    now = image(partition([1]), partition([1, 2]), partition([2]), living=(1, 2, 3))
    moves = dict(growth(now, now.topics["t"], 3))
    assert {tp.partition: move.replicas for tp, move in moves.items()} == {
        0: (1, 3, 2),
        1: (1, 2, 3),
        2: (2, 1, 3),
    }
    assert {tp.partition: move.adding for tp, move in moves.items()} == {0: (3, 2), 1: (3,), 2: (1, 3)}
    assert dict(growth(now, now.topics["t"], 1)) == {}
    few = image(partition([1]), living=(1,))
    assert dict(growth(few, few.topics["t"], 3)) == {}
    going_on = image(partition([2, 1], [1], adding=[2]), living=(1, 2, 3))
    assert dict(growth(going_on, going_on.topics["t"], 3)) == {}


def test_min_insync_replicas_grows_with_the_replicas() -> None:
    def wanted(value: str | None, *partitions: PartitionImage) -> int | None:
        topic = TopicImage("t", bytes(16), partitions)
        return grown_min_isr(topic, {} if value is None else {"min.insync.replicas": value}, 2)

    assert wanted("1", partition([1])) is None
    assert wanted("1", partition([1, 2]), partition([2, 1, 3])) == 2
    assert wanted("1", partition([1, 2]), partition([2])) is None
    assert wanted("1", partition([1, 2], [1], adding=[2])) is None
    assert wanted("3", partition([1, 2, 3])) is None
    assert wanted(None, partition([1, 2, 3])) is None
