"""How the records of consumer groups are applied, live and on loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.member import LEAVE_EPOCH, NOTHING, ConsumerMember, MemberState
from ottla.broker.coordinators.groups.modern.replay import NO_ASSIGNMENT_EPOCH, ModernReplay
from ottla.protocol.messages.group_records import (
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupCurrentMemberAssignmentValue,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMemberMetadataValue,
    ConsumerGroupMetadataKey,
    ConsumerGroupMetadataValue,
    ConsumerGroupPartitionMetadataKey,
    ConsumerGroupPartitionMetadataValue,
    ConsumerGroupRegularExpressionKey,
    ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import Replay, ShardParts
    from ottla.protocol.schema import Message


class ConsumerReplay(ModernReplay[ConsumerGroup, ConsumerMember]):
    """Applies records to the consumer groups of a partition."""

    def __init__(self, parts: ShardParts) -> None:
        super().__init__(parts, ConsumerGroup, lambda group_id: ConsumerGroup(group_id, parts.timeline), ConsumerMember)

    def handlers(self) -> Mapping[type[Message], Replay]:
        """Return what is done with each type of record."""
        return {
            ConsumerGroupMetadataKey: self._group_epoch,
            ConsumerGroupPartitionMetadataKey: self._partition_metadata,
            ConsumerGroupMemberMetadataKey: self._member,
            ConsumerGroupTargetAssignmentMetadataKey: self._target_epoch,
            ConsumerGroupTargetAssignmentMemberKey: self._target,
            ConsumerGroupCurrentMemberAssignmentKey: self._current,
            ConsumerGroupRegularExpressionKey: self._regex,
        }

    def _group_epoch(self, key: ConsumerGroupMetadataKey, value: ConsumerGroupMetadataValue | None) -> None:
        if value is None:
            self.delete(key.group_id)
        elif (group := self.find(key.group_id, value)) is not None:
            group.set_group_epoch(value.epoch, value.metadata_hash)

    def _partition_metadata(
        self, key: ConsumerGroupPartitionMetadataKey, value: ConsumerGroupPartitionMetadataValue | None
    ) -> None:
        if (group := self.find(key.group_id, value)) is not None:
            group.set_has_partition_metadata(value is not None)

    def _member(self, key: ConsumerGroupMemberMetadataKey, value: ConsumerGroupMemberMetadataValue | None) -> None:
        self.replay_member(key, value, records.with_subscription)

    def _target_epoch(
        self, key: ConsumerGroupTargetAssignmentMetadataKey, value: ConsumerGroupTargetAssignmentMetadataValue | None
    ) -> None:
        group = self.find(key.group_id, value)
        if group is None:
            return
        if value is None:
            group.set_assignment_epoch(NO_ASSIGNMENT_EPOCH, 0)
        else:
            group.set_assignment_epoch(value.assignment_epoch, value.assignment_timestamp)

    def _target(
        self, key: ConsumerGroupTargetAssignmentMemberKey, value: ConsumerGroupTargetAssignmentMemberValue | None
    ) -> None:
        self.replay_target(key, value, records.read_target)

    def _current(
        self, key: ConsumerGroupCurrentMemberAssignmentKey, value: ConsumerGroupCurrentMemberAssignmentValue | None
    ) -> None:
        self.replay_current(key, value, records.with_current, _without_assignment)

    def _regex(self, key: ConsumerGroupRegularExpressionKey, value: ConsumerGroupRegularExpressionValue | None) -> None:
        group = self.find(key.group_id, value)
        if group is None:
            return
        resolved = None
        if value is not None:
            resolved = records.ResolvedRegex(frozenset(value.topics), value.version, value.timestamp)
        group.set_regex(key.regular_expression, resolved)


def _without_assignment(member: ConsumerMember) -> ConsumerMember:
    return member._replace(
        member_epoch=LEAVE_EPOCH,
        previous_member_epoch=LEAVE_EPOCH,
        state=MemberState.STABLE,
        assigned=NOTHING,
        revoking=NOTHING,
    )
