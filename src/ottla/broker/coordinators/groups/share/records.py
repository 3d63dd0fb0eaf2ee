"""The records of share groups: types 10 to 15 of `__consumer_offsets`, from and to values.

Lists are sorted, so the same state is written as the same bytes. KIP-932; versions of Kafka 4.4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from ottla.broker.coordinators.groups.modern.assignor import Assignment
from ottla.broker.coordinators.groups.share.member import ShareMember
from ottla.broker.coordinators.groups.share.states import PartitionStates, TopicPartitions, Topics
from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.protocol.messages.group_records import (
    ShareGroupCurrentMemberAssignmentKey,
    ShareGroupCurrentMemberAssignmentValue,
    ShareGroupCurrentMemberAssignmentValueTopicPartitions,
    ShareGroupMemberMetadataKey,
    ShareGroupMemberMetadataValue,
    ShareGroupMetadataKey,
    ShareGroupMetadataValue,
    ShareGroupStatePartitionMetadataKey,
    ShareGroupStatePartitionMetadataValue,
    ShareGroupStatePartitionMetadataValueTopicInfo,
    ShareGroupTargetAssignmentMemberKey,
    ShareGroupTargetAssignmentMemberValue,
    ShareGroupTargetAssignmentMetadataKey,
    ShareGroupTargetAssignmentMetadataValue,
    TopicPartition,
    TopicPartitionsInfo,
)

#: A member's state in the record of its assignment: there is only one, nothing is ever waited for.
_STABLE: Final = 0


def group_epoch(group_id: str, epoch: int, metadata_hash: int) -> CoordinatorRecord:
    """Return the record of a group's epoch."""
    return CoordinatorRecord(
        ShareGroupMetadataKey(group_id=group_id), ShareGroupMetadataValue(epoch=epoch, metadata_hash=metadata_hash)
    )


def member(group_id: str, value: ShareMember) -> CoordinatorRecord:
    """Return the record of a member's subscription."""
    return CoordinatorRecord(
        ShareGroupMemberMetadataKey(group_id=group_id, member_id=value.member_id),
        ShareGroupMemberMetadataValue(
            rack_id=value.rack_id,
            client_id=value.client_id,
            client_host=value.client_host,
            subscribed_topic_names=sorted(value.topic_names),
        ),
    )


def target(group_id: str, member_id: str, assignment: Assignment) -> CoordinatorRecord:
    """Return the record of a member's target assignment."""
    return CoordinatorRecord(
        ShareGroupTargetAssignmentMemberKey(group_id=group_id, member_id=member_id),
        ShareGroupTargetAssignmentMemberValue(
            topic_partitions=[
                TopicPartition(topic_id=topic_id, partitions=sorted(partitions))
                for topic_id, partitions in sorted(assignment.items())
            ]
        ),
    )


def target_epoch(group_id: str, epoch: int, timestamp_ms: int) -> CoordinatorRecord:
    """Return the record of the epoch of the target assignment."""
    return CoordinatorRecord(
        ShareGroupTargetAssignmentMetadataKey(group_id=group_id),
        ShareGroupTargetAssignmentMetadataValue(assignment_epoch=epoch, assignment_timestamp=timestamp_ms),
    )


def current(group_id: str, value: ShareMember) -> CoordinatorRecord:
    """Return the record of what a member has."""
    return CoordinatorRecord(
        ShareGroupCurrentMemberAssignmentKey(group_id=group_id, member_id=value.member_id),
        ShareGroupCurrentMemberAssignmentValue(
            member_epoch=value.member_epoch,
            previous_member_epoch=value.previous_member_epoch,
            state=_STABLE,
            assigned_partitions=[
                ShareGroupCurrentMemberAssignmentValueTopicPartitions(topic_id=topic_id, partitions=sorted(partitions))
                for topic_id, partitions in sorted(value.assigned.items())
            ],
        ),
    )


def states(group_id: str, value: PartitionStates) -> CoordinatorRecord:
    """Return the record of which share partitions have begun."""
    return CoordinatorRecord(
        ShareGroupStatePartitionMetadataKey(group_id=group_id),
        ShareGroupStatePartitionMetadataValue(
            initializing_topics=_written(value.initializing),
            initialized_topics=_written(value.initialized),
            deleting_topics=[
                ShareGroupStatePartitionMetadataValueTopicInfo(topic_id=topic_id, topic_name=name)
                for topic_id, name in sorted(value.deleting.items())
            ],
        ),
    )


def removed_members(group_id: str, member_ids: Collection[str]) -> list[CoordinatorRecord]:
    """Return the records that take members away; the last of a member is its subscription."""
    return [
        *(
            CoordinatorRecord(ShareGroupCurrentMemberAssignmentKey(group_id=group_id, member_id=member_id), None)
            for member_id in member_ids
        ),
        *(
            CoordinatorRecord(ShareGroupTargetAssignmentMemberKey(group_id=group_id, member_id=member_id), None)
            for member_id in member_ids
        ),
        *(
            CoordinatorRecord(ShareGroupMemberMetadataKey(group_id=group_id, member_id=member_id), None)
            for member_id in member_ids
        ),
    ]


def group_tombstones(group_id: str, member_ids: Collection[str]) -> list[CoordinatorRecord]:
    """Return the records that delete a group."""
    return [
        *removed_members(group_id, member_ids),
        CoordinatorRecord(ShareGroupTargetAssignmentMetadataKey(group_id=group_id), None),
        CoordinatorRecord(ShareGroupStatePartitionMetadataKey(group_id=group_id), None),
        CoordinatorRecord(ShareGroupMetadataKey(group_id=group_id), None),
    ]


def with_subscription(before: ShareMember, value: ShareGroupMemberMetadataValue) -> ShareMember:
    """Return the member with what the record says about its subscription."""
    return before._replace(
        rack_id=value.rack_id,
        client_id=value.client_id,
        client_host=value.client_host,
        topic_names=frozenset(value.subscribed_topic_names),
    )


def with_current(before: ShareMember, value: ShareGroupCurrentMemberAssignmentValue) -> ShareMember:
    """Return the member with what the record says about its partitions."""
    return before._replace(
        member_epoch=value.member_epoch,
        previous_member_epoch=value.previous_member_epoch,
        assigned={each.topic_id: frozenset(each.partitions) for each in value.assigned_partitions},
    )


def read_target(value: ShareGroupTargetAssignmentMemberValue) -> Assignment:
    """Return the target assignment that a record holds."""
    return {each.topic_id: frozenset(each.partitions) for each in value.topic_partitions}


def read_states(value: ShareGroupStatePartitionMetadataValue) -> PartitionStates:
    """Return what a record says of share partitions."""
    return PartitionStates(
        _read(value.initializing_topics),
        _read(value.initialized_topics),
        {each.topic_id: each.topic_name for each in value.deleting_topics},
    )


def _written(topics: Topics) -> list[TopicPartitionsInfo]:
    return [
        TopicPartitionsInfo(topic_id=topic_id, topic_name=topic.name, partitions=sorted(topic.partitions))
        for topic_id, topic in sorted(topics.items())
    ]


def _read(topics: Iterable[TopicPartitionsInfo]) -> dict[bytes, TopicPartitions]:
    return {each.topic_id: TopicPartitions(each.topic_name, frozenset(each.partitions)) for each in topics}
