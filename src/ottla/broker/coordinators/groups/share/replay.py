"""What the records of share groups do to their state: the same when they have just been written and after a restart.

Tombstones of what is not there are ignored: compaction may have taken what they refer to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.modern.assignor import NO_ASSIGNMENT
from ottla.broker.coordinators.groups.share import records
from ottla.broker.coordinators.groups.share.group import ShareGroup
from ottla.broker.coordinators.groups.share.member import LEAVE_EPOCH, ShareMember
from ottla.broker.coordinators.groups.share.states import PartitionStates
from ottla.protocol.messages.group_records import (
    ShareGroupCurrentMemberAssignmentKey,
    ShareGroupCurrentMemberAssignmentValue,
    ShareGroupMemberMetadataKey,
    ShareGroupMemberMetadataValue,
    ShareGroupMetadataKey,
    ShareGroupMetadataValue,
    ShareGroupStatePartitionMetadataKey,
    ShareGroupStatePartitionMetadataValue,
    ShareGroupTargetAssignmentMemberKey,
    ShareGroupTargetAssignmentMemberValue,
    ShareGroupTargetAssignmentMetadataKey,
    ShareGroupTargetAssignmentMetadataValue,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import Replay, ShardParts
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)

#: The epoch of a target assignment that has been taken away.
_NO_ASSIGNMENT_EPOCH: Final = -1


class ShareReplay:
    """Applies records to the groups of a partition."""

    def __init__(self, parts: ShardParts) -> None:
        self._parts = parts

    def handlers(self) -> Mapping[type[Message], Replay]:
        """Return what is done with each type of record."""
        return {
            ShareGroupMetadataKey: self._group_epoch,
            ShareGroupMemberMetadataKey: self._member,
            ShareGroupTargetAssignmentMetadataKey: self._target_epoch,
            ShareGroupTargetAssignmentMemberKey: self._target,
            ShareGroupCurrentMemberAssignmentKey: self._current,
            ShareGroupStatePartitionMetadataKey: self._states,
        }

    def _existing(self, group_id: str) -> ShareGroup | None:
        group = self._parts.groups.get(group_id)
        return group if isinstance(group, ShareGroup) else None

    def _group(self, group_id: str) -> ShareGroup:
        group = self._parts.groups.get(group_id)
        if isinstance(group, ShareGroup):
            return group
        if group is not None and not (isinstance(group, ClassicGroup) and group.is_simple):
            # Only a log that was written wrongly says so; the newer record counts.
            logger.error("group %s was a %s group and becomes a share group", group_id, group.group_type.value)
        made = self._parts.groups[group_id] = ShareGroup(group_id, self._parts.timeline)
        return made

    def _group_epoch(self, key: ShareGroupMetadataKey, value: ShareGroupMetadataValue | None) -> None:
        if value is not None:
            group = self._group(key.group_id)
            group.epochs.value = group.epochs.value._replace(group_epoch=value.epoch, metadata_hash=value.metadata_hash)
        elif self._existing(key.group_id) is not None:
            self._parts.groups.pop(key.group_id)

    def _member(self, key: ShareGroupMemberMetadataKey, value: ShareGroupMemberMetadataValue | None) -> None:
        if value is not None:
            group = self._group(key.group_id)
            before = group.members.get(key.member_id) or ShareMember(key.member_id)
            group.update_member(records.with_subscription(before, value))
        elif (existing := self._existing(key.group_id)) is not None:
            existing.remove_member(key.member_id)

    def _target_epoch(
        self, key: ShareGroupTargetAssignmentMetadataKey, value: ShareGroupTargetAssignmentMetadataValue | None
    ) -> None:
        if value is not None:
            epoch, timestamp_ms = value.assignment_epoch, value.assignment_timestamp
            group: ShareGroup | None = self._group(key.group_id)
        else:
            epoch, timestamp_ms = _NO_ASSIGNMENT_EPOCH, 0
            group = self._existing(key.group_id)
        if group is not None:
            group.epochs.value = group.epochs.value._replace(
                assignment_epoch=epoch, assignment_timestamp_ms=timestamp_ms
            )

    def _target(
        self, key: ShareGroupTargetAssignmentMemberKey, value: ShareGroupTargetAssignmentMemberValue | None
    ) -> None:
        if value is not None:
            self._group(key.group_id).targets[key.member_id] = records.read_target(value)
        elif (group := self._existing(key.group_id)) is not None:
            group.targets.pop(key.member_id)

    def _current(
        self, key: ShareGroupCurrentMemberAssignmentKey, value: ShareGroupCurrentMemberAssignmentValue | None
    ) -> None:
        if value is not None:
            group = self._group(key.group_id)
            before = group.members.get(key.member_id) or ShareMember(key.member_id)
            group.update_member(records.with_current(before, value))
            return
        existing = self._existing(key.group_id)
        member = None if existing is None else existing.members.get(key.member_id)
        if existing is not None and member is not None:
            existing.update_member(
                member._replace(member_epoch=LEAVE_EPOCH, previous_member_epoch=LEAVE_EPOCH, assigned=NO_ASSIGNMENT)
            )

    def _states(
        self, key: ShareGroupStatePartitionMetadataKey, value: ShareGroupStatePartitionMetadataValue | None
    ) -> None:
        if value is not None:
            self._group(key.group_id).states.value = records.read_states(value)
        elif (group := self._existing(key.group_id)) is not None:
            group.states.value = PartitionStates()
