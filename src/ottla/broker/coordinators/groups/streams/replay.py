"""How the records of streams groups are applied, live and on loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.modern.replay import NO_ASSIGNMENT_EPOCH, ModernReplay
from ottla.broker.coordinators.groups.streams import records
from ottla.broker.coordinators.groups.streams.group import StreamsGroup
from ottla.broker.coordinators.groups.streams.member import StreamsMember
from ottla.broker.coordinators.groups.streams.topology import Topology
from ottla.protocol.messages.group_records import (
    StreamsGroupCurrentMemberAssignmentKey,
    StreamsGroupCurrentMemberAssignmentValue,
    StreamsGroupMemberMetadataKey,
    StreamsGroupMemberMetadataValue,
    StreamsGroupMetadataKey,
    StreamsGroupMetadataValue,
    StreamsGroupTargetAssignmentMemberKey,
    StreamsGroupTargetAssignmentMemberValue,
    StreamsGroupTargetAssignmentMetadataKey,
    StreamsGroupTargetAssignmentMetadataValue,
    StreamsGroupTopologyKey,
    StreamsGroupTopologyValue,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.group import Replay, ShardParts
    from ottla.protocol.schema import Message


class StreamsReplay(ModernReplay[StreamsGroup, StreamsMember]):
    """Applies records to the streams groups of a partition."""

    def __init__(self, parts: ShardParts) -> None:
        super().__init__(
            parts,
            StreamsGroup,
            lambda group_id: StreamsGroup(group_id, parts.timeline, parts.image),
            lambda member_id: StreamsMember(member_id=member_id),
        )

    def handlers(self) -> Mapping[type[Message], Replay]:
        """Return what is done with each type of record."""
        return {
            StreamsGroupMetadataKey: self._metadata,
            StreamsGroupTopologyKey: self._topology,
            StreamsGroupMemberMetadataKey: self._member,
            StreamsGroupCurrentMemberAssignmentKey: self._current,
            StreamsGroupTargetAssignmentMetadataKey: self._target_epoch,
            StreamsGroupTargetAssignmentMemberKey: self._target,
        }

    def _metadata(self, key: StreamsGroupMetadataKey, value: StreamsGroupMetadataValue | None) -> None:
        if value is None:
            self.delete(key.group_id)
        elif (group := self.find(key.group_id, value)) is not None:
            group.scalars.value = group.scalars.value._replace(
                epoch=value.epoch,
                metadata_hash=value.metadata_hash,
                validated_topology_epoch=value.validated_topology_epoch,
                assignment_configs=tuple((config.key, config.value) for config in value.last_assignment_configs or ()),
                description_epochs=(value.stored_description_topology_epoch, value.failed_description_topology_epoch),
            )

    def _topology(self, key: StreamsGroupTopologyKey, value: StreamsGroupTopologyValue | None) -> None:
        if (group := self.find(key.group_id, value)) is not None:
            topology = None if value is None else Topology.of(value)
            group.scalars.value = group.scalars.value._replace(topology=topology)

    def _member(self, key: StreamsGroupMemberMetadataKey, value: StreamsGroupMemberMetadataValue | None) -> None:
        self.replay_member(key, value, records.with_member_record)

    def _current(
        self, key: StreamsGroupCurrentMemberAssignmentKey, value: StreamsGroupCurrentMemberAssignmentValue | None
    ) -> None:
        self.replay_current(
            key,
            value,
            records.with_current_assignment,
            lambda member: records.with_current_assignment(member, None),
        )

    def _target_epoch(
        self, key: StreamsGroupTargetAssignmentMetadataKey, value: StreamsGroupTargetAssignmentMetadataValue | None
    ) -> None:
        if (group := self.find(key.group_id, value)) is not None:
            group.scalars.value = group.scalars.value._replace(
                assignment_epoch=NO_ASSIGNMENT_EPOCH if value is None else value.assignment_epoch,
                assignment_timestamp_ms=0 if value is None else value.assignment_timestamp,
            )

    def _target(
        self, key: StreamsGroupTargetAssignmentMemberKey, value: StreamsGroupTargetAssignmentMemberValue | None
    ) -> None:
        self.replay_target(key, value, records.target_of_record)
