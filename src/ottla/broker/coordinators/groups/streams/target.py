"""A new target for a streams group: what the assignor says, and the records of what changes (TargetAssignmentBuilder)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.streams import records
from ottla.broker.coordinators.groups.streams.assignor import MemberSpec, assign
from ottla.broker.coordinators.groups.streams.group import StreamsGroup, TaskOffsets
from ottla.broker.coordinators.groups.streams.tasks import NOTHING, Tasks

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.streams.internal_topics import ConfiguredTopology
    from ottla.broker.coordinators.groups.streams.member import StreamsMember
    from ottla.broker.coordinators.shard import CoordinatorRecord


def new_target(
    group: StreamsGroup,
    members: Mapping[str, StreamsMember],
    targets: Mapping[str, Tasks],
    configured: ConfiguredTopology,
    epoch: int,
    configs: Mapping[str, str],
    now_ms: int,
) -> tuple[list[CoordinatorRecord], dict[str, Tasks]]:
    """Return a new target for the group, and the records of what it changes; it is empty while topics lack."""
    if configured.is_ready:
        assert configured.subtopologies is not None
        nothing_known = TaskOffsets()
        new = assign(
            {
                member_id: MemberSpec(
                    process_id=member.process_id,
                    active=targets.get(member_id, NOTHING).active,
                    standby=targets.get(member_id, NOTHING).standby,
                    offsets=group.task_offsets.get(member_id, nothing_known).offsets,
                )
                for member_id, member in members.items()
            },
            {name: part.tasks for name, part in configured.subtopologies.items()},
            stateful=[name for name, part in configured.subtopologies.items() if part.is_stateful],
            standby_replicas=int(configs.get("num.standby.replicas", "0")),
        )
    else:
        new = dict.fromkeys(members, NOTHING)
    written = [
        records.target_member(group.group_id, member_id, new[member_id])
        for member_id in sorted(new)
        if targets.get(member_id) != new[member_id]
    ]
    written.append(records.target_metadata(group.group_id, epoch, now_ms))
    return written, new
