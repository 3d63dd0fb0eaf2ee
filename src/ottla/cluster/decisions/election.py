"""Who leads a partition: after a start, on request. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import NO_LEADER, ClusterImage, PartitionImage
from ottla.errors import ErrorCode
from ottla.types import TopicPartition

PREFERRED = 0
UNCLEAN = 1


def elect_on_request(
    image: ClusterImage, topic_partition: TopicPartition, election_type: int
) -> PartitionImage | Refusal:
    """Decide about ElectLeaders for one partition; return the partition with its new leader."""
    name, index = topic_partition
    if name not in image.topics:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such topic as {name}")
    partition = image.partition(topic_partition)
    if partition is None:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such partition as {name}-{index}")
    preferred = partition.replicas[0]
    if election_type == PREFERRED:
        if partition.leader == preferred:
            return Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
        if preferred in image.brokers and preferred in partition.isr:
            return led_by(partition, preferred)
        return Refusal(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, "The preferred leader was not available.")
    if partition.leader != NO_LEADER:
        return Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
    for node_id in partition.replicas:
        if node_id in image.brokers:
            chosen = led_by(partition, node_id)
            return chosen if node_id in partition.isr else chosen._replace(isr=(node_id,))
    return Refusal(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, "Eligible topic partition leaders are not available.")


def elections_at_start(
    image: ClusterImage, restarted: Collection[int], *, clean: bool
) -> Iterator[tuple[TopicPartition, PartitionImage]]:
    """Yield the partitions that need a leader, or a new leader epoch, after these brokers came back.

    A leader that stopped uncleanly may have lost the end of its log and will write other records at the same offsets:
    only a new epoch tells followers and consumers where the two histories part (KIP-101, KIP-320). After a clean stop the
    log is what it was, and the epoch stays.
    """
    for topic in image.topics.values():
        for index, partition in enumerate(topic.partitions):
            if partition.leader in image.brokers and (clean or partition.leader not in restarted):
                continue
            if partition.leader in image.brokers:
                yield TopicPartition(topic.name, index), led_by(partition, partition.leader)
                continue
            in_sync = [node_id for node_id in partition.replicas if node_id in partition.isr]
            # A partition without a state was being made when its maker died: its first replica has all there is.
            candidates = in_sync or list(partition.replicas)
            live = [node_id for node_id in candidates if node_id in image.brokers]
            if live:
                isr = partition.isr or (live[0],)
                yield TopicPartition(topic.name, index), led_by(partition, live[0])._replace(isr=isr)


def led_by(partition: PartitionImage, node_id: int) -> PartitionImage:
    """Return the partition with this leader, in a new epoch."""
    return partition._replace(leader=node_id, leader_epoch=partition.leader_epoch + 1)
