from __future__ import annotations

from dataclasses import replace

from tests.cluster.cluster_support import image_with

from ottla.cluster.decisions.election import PREFERRED, UNCLEAN, elect_on_request, elections_at_start
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from ottla.errors import ErrorCode
from ottla.types import TopicPartition

T0 = TopicPartition("t", 0)


def image_of(partition: PartitionImage, *node_ids: int) -> ClusterImage:
    image = image_with({"t": 1}, *node_ids)
    topic = image.topics["t"]._replace(partitions=(partition,))
    return replace(image, topics={"t": topic})


def test_a_partition_that_has_its_preferred_leader_needs_no_election() -> None:
    refusal = elect_on_request(image_with({"t": 1}), T0, PREFERRED)
    assert refusal == Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")


def test_what_does_not_exist_is_named() -> None:
    image = image_with({"t": 1})
    none = Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "No such topic as zz")
    assert elect_on_request(image, TopicPartition("zz", 0), PREFERRED) == none
    gone = elect_on_request(image, TopicPartition("t", 9), PREFERRED)
    assert gone == Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "No such partition as t-9")


def test_leadership_goes_back_to_a_preferred_replica_in_sync() -> None:
    partition = PartitionImage((1, 2), (1, 2), 2, 5, 7)
    assert elect_on_request(image_of(partition, 1, 2), T0, PREFERRED) == partition._replace(leader=1, leader_epoch=6)


def test_a_preferred_replica_that_is_behind_or_dead_does_not_lead() -> None:
    behind = elect_on_request(image_of(PartitionImage((1, 2), (2,), 2, 5, 7), 1, 2), T0, PREFERRED)
    dead = elect_on_request(image_of(PartitionImage((1, 2), (1, 2), 2, 5, 7), 2), T0, PREFERRED)
    assert isinstance(behind, Refusal)
    assert isinstance(dead, Refusal)
    assert behind.error is dead.error is ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE


def test_an_unclean_election_takes_who_lives_and_forgets_the_others() -> None:
    partition = PartitionImage((1, 2), (1,), NO_LEADER, 5, 7)
    elected = elect_on_request(image_of(partition, 2), T0, UNCLEAN)
    assert elected == partition._replace(leader=2, leader_epoch=6, isr=(2,))
    led = elect_on_request(image_of(partition._replace(leader=2), 2), T0, UNCLEAN)
    assert isinstance(led, Refusal)
    assert led.error is ErrorCode.ELECTION_NOT_NEEDED


def test_at_the_start_only_who_may_have_lost_records_begins_a_new_epoch() -> None:
    partition = PartitionImage((1, 2), (1,), 1, 5, 7)
    assert list(elections_at_start(image_of(partition, 1), {1}, clean=True)) == []
    assert list(elections_at_start(image_of(partition, 1, 3), {3}, clean=False)) == []
    assert list(elections_at_start(image_of(partition, 1), {1}, clean=False)) == [
        (T0, partition._replace(leader_epoch=6))
    ]


def test_at_the_start_a_leader_is_chosen_from_the_in_sync_replicas() -> None:
    partition = PartitionImage((1, 2, 3), (3, 2), 1, 5, 7)
    ((_, elected),) = elections_at_start(image_of(partition, 2, 3), {2}, clean=True)
    assert (elected.leader, elected.leader_epoch, elected.isr) == (2, 6, (3, 2))
    # 1 lives, but was not in sync: nobody may lead.
    assert list(elections_at_start(image_of(partition._replace(leader=NO_LEADER), 1), {1}, clean=False)) == []
