"""What ShareGroupDescribe says of a group: the committed view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.share import assignor
from ottla.protocol.messages.share_group_describe import Assignment as AssignmentAnswer
from ottla.protocol.messages.share_group_describe import DescribedGroup, Member, TopicPartitions

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.modern.assignor import Assignment
    from ottla.broker.coordinators.groups.share.group import ShareGroup
    from ottla.cluster.image import ClusterImage


def describe(group: ShareGroup, image: ClusterImage) -> DescribedGroup:
    """Return the group; topics that are gone cannot be named, and are left out."""
    epochs = group.epochs.committed
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.state_name(),
        group_epoch=epochs.group_epoch,
        assignment_epoch=epochs.assignment_epoch,
        assignor_name=assignor.NAME,
        members=[
            Member(
                member_id=member.member_id,
                rack_id=member.rack_id,
                member_epoch=member.member_epoch,
                client_id=member.client_id,
                client_host=member.client_host,
                subscribed_topic_names=sorted(member.topic_names),
                assignment=_shown(member.assigned, image),
            )
            for _, member in group.members.items_committed()
        ],
    )


def _shown(assigned: Assignment, image: ClusterImage) -> AssignmentAnswer:
    return AssignmentAnswer(
        topic_partitions=[
            TopicPartitions(topic_id=topic_id, topic_name=topic.name, partitions=sorted(partitions))
            for topic_id, partitions in assigned.items()
            if (topic := image.topic_by_id(topic_id)) is not None
        ]
    )
