"""How the records of consumer groups are applied, live and on loading.

Tombstones of what is not there are ignored: compaction may have taken what they were for. A group appears with the first of
its records, whichever it is, and goes with the tombstone of its epoch. A *simple* classic group, which only committed offsets
speak of, gives way: its offsets may lie before the group's first record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.consumer import records
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.member import LEAVE_EPOCH, NOTHING, ConsumerMember, MemberState
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

logger = logging.getLogger(__name__)

#: The epoch of a target assignment that has been taken away.
_NO_ASSIGNMENT_EPOCH = -1


class ConsumerReplay:
    """Applies records to the groups of a partition."""

    def __init__(self, parts: ShardParts) -> None:
        self._parts = parts

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

    def _existing(self, group_id: str) -> ConsumerGroup | None:
        group = self._parts.groups.get(group_id)
        return group if isinstance(group, ConsumerGroup) else None

    def _group(self, group_id: str) -> ConsumerGroup:
        group = self._parts.groups.get(group_id)
        if isinstance(group, ConsumerGroup):
            return group
        if group is not None and not (isinstance(group, ClassicGroup) and group.is_simple):
            # Only a log that was written wrongly says so; the newer record counts.
            logger.error("group %s was a %s group and becomes a consumer group", group_id, group.group_type.value)
        made = self._parts.groups[group_id] = ConsumerGroup(group_id, self._parts.timeline)
        return made

    def _group_epoch(self, key: ConsumerGroupMetadataKey, value: ConsumerGroupMetadataValue | None) -> None:
        if value is not None:
            self._group(key.group_id).set_group_epoch(value.epoch, value.metadata_hash)
        elif self._existing(key.group_id) is not None:
            self._parts.groups.pop(key.group_id)

    def _partition_metadata(
        self, key: ConsumerGroupPartitionMetadataKey, value: ConsumerGroupPartitionMetadataValue | None
    ) -> None:
        if value is not None:
            self._group(key.group_id).set_has_partition_metadata(True)
        elif (group := self._existing(key.group_id)) is not None:
            group.set_has_partition_metadata(False)

    def _member(self, key: ConsumerGroupMemberMetadataKey, value: ConsumerGroupMemberMetadataValue | None) -> None:
        if value is not None:
            group = self._group(key.group_id)
            before = group.members.get(key.member_id) or ConsumerMember(key.member_id)
            group.update_member(records.with_subscription(before, value))
        elif (existing := self._existing(key.group_id)) is not None:
            existing.remove_member(key.member_id)

    def _target_epoch(
        self, key: ConsumerGroupTargetAssignmentMetadataKey, value: ConsumerGroupTargetAssignmentMetadataValue | None
    ) -> None:
        if value is not None:
            self._group(key.group_id).set_assignment_epoch(value.assignment_epoch, value.assignment_timestamp)
        elif (group := self._existing(key.group_id)) is not None:
            group.set_assignment_epoch(_NO_ASSIGNMENT_EPOCH, 0)

    def _target(
        self, key: ConsumerGroupTargetAssignmentMemberKey, value: ConsumerGroupTargetAssignmentMemberValue | None
    ) -> None:
        if value is not None:
            self._group(key.group_id).targets[key.member_id] = records.read_target(value)
        elif (group := self._existing(key.group_id)) is not None:
            group.targets.pop(key.member_id)

    def _current(
        self, key: ConsumerGroupCurrentMemberAssignmentKey, value: ConsumerGroupCurrentMemberAssignmentValue | None
    ) -> None:
        if value is not None:
            group = self._group(key.group_id)
            before = group.members.get(key.member_id) or ConsumerMember(key.member_id)
            group.update_member(records.with_current(before, value))
            return
        existing = self._existing(key.group_id)
        member = None if existing is None else existing.members.get(key.member_id)
        if existing is not None and member is not None:
            existing.update_member(
                member._replace(
                    member_epoch=LEAVE_EPOCH,
                    previous_member_epoch=LEAVE_EPOCH,
                    state=MemberState.STABLE,
                    assigned=NOTHING,
                    revoking=NOTHING,
                )
            )

    def _regex(self, key: ConsumerGroupRegularExpressionKey, value: ConsumerGroupRegularExpressionValue | None) -> None:
        if value is not None:
            resolved = records.ResolvedRegex(frozenset(value.topics), value.version, value.timestamp)
            self._group(key.group_id).set_regex(key.regular_expression, resolved)
        elif (group := self._existing(key.group_id)) is not None:
            group.set_regex(key.regular_expression, None)
