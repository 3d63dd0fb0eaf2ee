"""What ConsumerGroupDescribe says of a group: the committed view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.consumer.member import without_epochs
from ottla.broker.coordinators.groups.modern.assignor import NO_ASSIGNMENT
from ottla.protocol.messages.consumer_group_describe import Assignment as AssignmentAnswer
from ottla.protocol.messages.consumer_group_describe import DescribedGroup, Member, TopicPartitions

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
    from ottla.broker.coordinators.groups.modern.assignor import Assignment
    from ottla.cluster.image import ClusterImage

_CLASSIC_MEMBER, _CONSUMER_MEMBER = 0, 1


def describe(group: ConsumerGroup, default_assignor: str, image: ClusterImage) -> DescribedGroup:
    """Return the group. What a member was asked to give up is still shown as its own."""
    epochs = group.committed_epochs
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.state_name(),
        group_epoch=epochs.group_epoch,
        assignment_epoch=epochs.assignment_epoch,
        assignor_name=group.preferred_assignor(committed=True) or default_assignor,
        members=[
            Member(
                member_id=member.member_id,
                instance_id=member.instance_id,
                rack_id=member.rack_id,
                member_epoch=member.member_epoch,
                client_id=member.client_id,
                client_host=member.client_host,
                subscribed_topic_names=sorted(member.topic_names),
                subscribed_topic_regex=member.topic_regex,
                assignment=_shown([without_epochs(member.assigned), without_epochs(member.revoking)], image),
                target_assignment=_shown([group.targets.get_committed(member.member_id) or NO_ASSIGNMENT], image),
                member_type=_CLASSIC_MEMBER if member.uses_classic_protocol else _CONSUMER_MEMBER,
            )
            for _, member in group.members.items_committed()
        ],
    )


def _shown(assignments: list[Assignment], image: ClusterImage) -> AssignmentAnswer:
    """Topics that are gone cannot be named, and are left out."""
    partitions: dict[bytes, set[int]] = {}
    for assignment in assignments:
        for topic_id, parts in assignment.items():
            partitions.setdefault(topic_id, set()).update(parts)
    return AssignmentAnswer(
        topic_partitions=[
            TopicPartitions(topic_id=topic_id, topic_name=topic.name, partitions=sorted(parts))
            for topic_id, parts in partitions.items()
            if (topic := image.topic_by_id(topic_id)) is not None
        ]
    )
