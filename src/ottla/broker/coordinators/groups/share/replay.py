"""How the records of share groups are applied, live and on loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.modern.assignor import NO_ASSIGNMENT
from ottla.broker.coordinators.groups.modern.replay import NO_ASSIGNMENT_EPOCH, ModernReplay
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


class ShareReplay(ModernReplay[ShareGroup, ShareMember]):
    """Applies records to the share groups of a partition."""

    def __init__(self, parts: ShardParts) -> None:
        super().__init__(parts, ShareGroup, lambda group_id: ShareGroup(group_id, parts.timeline), ShareMember)

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

    def _group_epoch(self, key: ShareGroupMetadataKey, value: ShareGroupMetadataValue | None) -> None:
        if value is None:
            self.delete(key.group_id)
        elif (group := self.find(key.group_id, value)) is not None:
            group.epochs.value = group.epochs.value._replace(group_epoch=value.epoch, metadata_hash=value.metadata_hash)

    def _member(self, key: ShareGroupMemberMetadataKey, value: ShareGroupMemberMetadataValue | None) -> None:
        self.replay_member(key, value, records.with_subscription)

    def _target_epoch(
        self, key: ShareGroupTargetAssignmentMetadataKey, value: ShareGroupTargetAssignmentMetadataValue | None
    ) -> None:
        if (group := self.find(key.group_id, value)) is not None:
            group.epochs.value = group.epochs.value._replace(
                assignment_epoch=NO_ASSIGNMENT_EPOCH if value is None else value.assignment_epoch,
                assignment_timestamp_ms=0 if value is None else value.assignment_timestamp,
            )

    def _target(
        self, key: ShareGroupTargetAssignmentMemberKey, value: ShareGroupTargetAssignmentMemberValue | None
    ) -> None:
        self.replay_target(key, value, records.read_target)

    def _current(
        self, key: ShareGroupCurrentMemberAssignmentKey, value: ShareGroupCurrentMemberAssignmentValue | None
    ) -> None:
        self.replay_current(key, value, records.with_current, _without_assignment)

    def _states(
        self, key: ShareGroupStatePartitionMetadataKey, value: ShareGroupStatePartitionMetadataValue | None
    ) -> None:
        if (group := self.find(key.group_id, value)) is not None:
            group.states.value = PartitionStates() if value is None else records.read_states(value)


def _without_assignment(member: ShareMember) -> ShareMember:
    return member._replace(member_epoch=LEAVE_EPOCH, previous_member_epoch=LEAVE_EPOCH, assigned=NO_ASSIGNMENT)
