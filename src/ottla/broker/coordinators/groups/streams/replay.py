"""What the records of streams groups do to their state: the same when they have just been written and after a restart.

Tombstones of what is not there are ignored: compaction may have taken what they refer to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.classic.group import ClassicGroup
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
    from ottla.broker.coordinators.groups.group import Group, Replay
    from ottla.broker.coordinators.timeline import Timeline, TimelineDict
    from ottla.cluster.image import ClusterImage
    from ottla.protocol.schema import Message


class StreamsReplay:
    """Applies records to the groups of a partition."""

    def __init__(self, groups: TimelineDict[str, Group], timeline: Timeline, image: Callable[[], ClusterImage]) -> None:
        self._groups = groups
        self._timeline = timeline
        self._image = image

    def table(self) -> Mapping[type[Message], Replay]:
        """Return which method applies records of which key."""
        return {
            StreamsGroupMetadataKey: self._metadata,
            StreamsGroupTopologyKey: self._topology,
            StreamsGroupMemberMetadataKey: self._member,
            StreamsGroupCurrentMemberAssignmentKey: self._current_assignment,
            StreamsGroupTargetAssignmentMetadataKey: self._target_metadata,
            StreamsGroupTargetAssignmentMemberKey: self._target_member,
        }

    def _metadata(self, key: StreamsGroupMetadataKey, value: StreamsGroupMetadataValue | None) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is None:
            return
        if value is None:
            self._groups.pop(key.group_id)
            return
        configs = tuple((config.key, config.value) for config in value.last_assignment_configs or ())
        group.scalars.value = group.scalars.value._replace(
            epoch=value.epoch,
            metadata_hash=value.metadata_hash,
            validated_topology_epoch=value.validated_topology_epoch,
            assignment_configs=configs,
            description_epochs=(value.stored_description_topology_epoch, value.failed_description_topology_epoch),
        )

    def _topology(self, key: StreamsGroupTopologyKey, value: StreamsGroupTopologyValue | None) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is not None:
            topology = None if value is None else Topology.of(value)
            group.scalars.value = group.scalars.value._replace(topology=topology)

    def _member(self, key: StreamsGroupMemberMetadataKey, value: StreamsGroupMemberMetadataValue | None) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is None:
            return
        if value is None:
            group.remove_member(key.member_id)
            return
        member = group.members.get(key.member_id) or StreamsMember(member_id=key.member_id)
        group.update_member(records.with_member_record(member, value))

    def _current_assignment(
        self, key: StreamsGroupCurrentMemberAssignmentKey, value: StreamsGroupCurrentMemberAssignmentValue | None
    ) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is None:
            return
        member = group.members.get(key.member_id)
        if member is None:
            if value is None:
                return
            member = StreamsMember(member_id=key.member_id)
        group.update_member(records.with_current_assignment(member, value))

    def _target_metadata(
        self, key: StreamsGroupTargetAssignmentMetadataKey, value: StreamsGroupTargetAssignmentMetadataValue | None
    ) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is not None:
            group.scalars.value = group.scalars.value._replace(
                assignment_epoch=-1 if value is None else value.assignment_epoch,
                assignment_timestamp_ms=0 if value is None else value.assignment_timestamp,
            )

    def _target_member(
        self, key: StreamsGroupTargetAssignmentMemberKey, value: StreamsGroupTargetAssignmentMemberValue | None
    ) -> None:
        group = self._find(key.group_id, create=value is not None)
        if group is None:
            return
        if value is None:
            group.targets.pop(key.member_id)
        else:
            group.targets[key.member_id] = records.target_of_record(value)

    def _find(self, group_id: str, *, create: bool) -> StreamsGroup | None:
        group = self._groups.get(group_id)
        if isinstance(group, StreamsGroup):
            return group
        if not create or not (group is None or (isinstance(group, ClassicGroup) and group.is_simple)):
            return None
        made = StreamsGroup(group_id, self._timeline, self._image)
        self._groups[group_id] = made
        return made
