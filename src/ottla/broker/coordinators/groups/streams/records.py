"""The records of streams groups: types 17 and 19 to 23 of `__consumer_offsets`, to and from our values.

Lists are sorted as Kafka sorts them, so the same state is written as the same bytes. KIP-1071; versions of Kafka 4.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ottla.broker.coordinators.groups.streams.member import LEAVE_EPOCH, MemberState, StreamsMember
from ottla.broker.coordinators.groups.streams.tasks import (
    NOTHING_ASSIGNED,
    AssignedTasks,
    TaskId,
    Tasks,
    by_subtopology,
    task_set,
)
from ottla.broker.coordinators.groups.streams.topology import Topology
from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.protocol.messages.group_records import (
    Endpoint,
    KeyValue,
    LastAssignmentConfig,
    StreamsGroupCurrentMemberAssignmentKey,
    StreamsGroupCurrentMemberAssignmentValue,
    StreamsGroupCurrentMemberAssignmentValueTaskIds,
    StreamsGroupMemberMetadataKey,
    StreamsGroupMemberMetadataValue,
    StreamsGroupMetadataKey,
    StreamsGroupMetadataValue,
    StreamsGroupTargetAssignmentMemberKey,
    StreamsGroupTargetAssignmentMemberValue,
    StreamsGroupTargetAssignmentMemberValueTaskIds,
    StreamsGroupTargetAssignmentMetadataKey,
    StreamsGroupTargetAssignmentMetadataValue,
    StreamsGroupTopologyKey,
)


def metadata(
    group_id: str,
    epoch: int,
    *,
    metadata_hash: int,
    validated_topology_epoch: int,
    assignment_configs: Mapping[str, str],
    description_epochs: tuple[int, int] = (-1, -1),
) -> CoordinatorRecord:
    """The group: its epoch, and what that epoch stands on."""
    stored, failed = description_epochs
    return CoordinatorRecord(
        StreamsGroupMetadataKey(group_id=group_id),
        StreamsGroupMetadataValue(
            epoch=epoch,
            metadata_hash=metadata_hash,
            validated_topology_epoch=validated_topology_epoch,
            last_assignment_configs=[
                LastAssignmentConfig(key=key, value=value) for key, value in sorted(assignment_configs.items())
            ],
            stored_description_topology_epoch=stored,
            failed_description_topology_epoch=failed,
        ),
    )


def topology(group_id: str, value: Topology) -> CoordinatorRecord:
    return CoordinatorRecord(StreamsGroupTopologyKey(group_id=group_id), value.to_record())


def member(group_id: str, value: StreamsMember) -> CoordinatorRecord:
    """What a member said of itself."""
    endpoint = None if value.endpoint is None else Endpoint(host=value.endpoint[0], port=value.endpoint[1])
    return CoordinatorRecord(
        StreamsGroupMemberMetadataKey(group_id=group_id, member_id=value.member_id),
        StreamsGroupMemberMetadataValue(
            instance_id=value.instance_id,
            rack_id=value.rack_id,
            client_id=value.client_id,
            client_host=value.client_host,
            rebalance_timeout_ms=value.rebalance_timeout_ms,
            topology_epoch=value.topology_epoch,
            process_id=value.process_id,
            user_endpoint=endpoint,
            client_tags=[KeyValue(key=key, value=tag) for key, tag in sorted(value.client_tags.items())],
        ),
    )


def with_member_record(value: StreamsMember, record: StreamsGroupMemberMetadataValue) -> StreamsMember:
    """Return the member with what the record says."""
    endpoint = record.user_endpoint
    return replace(
        value,
        instance_id=record.instance_id,
        rack_id=record.rack_id,
        client_id=record.client_id,
        client_host=record.client_host,
        rebalance_timeout_ms=record.rebalance_timeout_ms,
        topology_epoch=record.topology_epoch,
        process_id=record.process_id,
        endpoint=None if endpoint is None else (endpoint.host, endpoint.port),
        client_tags={tag.key: tag.value for tag in record.client_tags},
    )


def current_assignment(group_id: str, value: StreamsMember) -> CoordinatorRecord:
    """Where a member stands: its epoch and tasks."""
    return CoordinatorRecord(
        StreamsGroupCurrentMemberAssignmentKey(group_id=group_id, member_id=value.member_id),
        StreamsGroupCurrentMemberAssignmentValue(
            member_epoch=value.member_epoch,
            previous_member_epoch=value.previous_member_epoch,
            state=value.state,
            active_tasks=_active(value.assigned),
            standby_tasks=_replicas(value.assigned.standby),
            warmup_tasks=_replicas(value.assigned.warmup),
            active_tasks_pending_revocation=_active(value.revoking),
            standby_tasks_pending_revocation=_replicas(value.revoking.standby),
            warmup_tasks_pending_revocation=_replicas(value.revoking.warmup),
        ),
    )


def with_current_assignment(
    value: StreamsMember, record: StreamsGroupCurrentMemberAssignmentValue | None
) -> StreamsMember:
    """Return the member as the record has it; after a tombstone it has left and holds nothing."""
    if record is None:
        return replace(
            value,
            member_epoch=LEAVE_EPOCH,
            previous_member_epoch=LEAVE_EPOCH,
            assigned=NOTHING_ASSIGNED,
            revoking=NOTHING_ASSIGNED,
        )
    known = record.state in (MemberState.STABLE, MemberState.UNREVOKED_TASKS, MemberState.UNRELEASED_TASKS)
    return replace(
        value,
        member_epoch=record.member_epoch,
        previous_member_epoch=record.previous_member_epoch,
        state=MemberState(record.state) if known else MemberState.UNKNOWN,
        assigned=AssignedTasks(
            _epochs(record.active_tasks, record.member_epoch),
            task_set(record.standby_tasks),
            task_set(record.warmup_tasks),
        ),
        revoking=AssignedTasks(
            _epochs(record.active_tasks_pending_revocation, record.member_epoch),
            task_set(record.standby_tasks_pending_revocation),
            task_set(record.warmup_tasks_pending_revocation),
        ),
    )


def target_metadata(group_id: str, epoch: int, now_ms: int) -> CoordinatorRecord:
    """The epoch of the target, and when it was computed."""
    return CoordinatorRecord(
        StreamsGroupTargetAssignmentMetadataKey(group_id=group_id),
        StreamsGroupTargetAssignmentMetadataValue(assignment_epoch=epoch, assignment_timestamp=now_ms),
    )


def target_member(group_id: str, member_id: str, tasks: Tasks) -> CoordinatorRecord:
    """The target of one member."""
    return CoordinatorRecord(
        StreamsGroupTargetAssignmentMemberKey(group_id=group_id, member_id=member_id),
        StreamsGroupTargetAssignmentMemberValue(
            active_tasks=_target(tasks.active),
            standby_tasks=_target(tasks.standby),
            warmup_tasks=_target(tasks.warmup),
        ),
    )


def target_of_record(record: StreamsGroupTargetAssignmentMemberValue) -> Tasks:
    return Tasks(task_set(record.active_tasks), task_set(record.standby_tasks), task_set(record.warmup_tasks))


def member_tombstones(group_id: str, member_id: str) -> list[CoordinatorRecord]:
    """The records that remove a member."""
    return [
        CoordinatorRecord(StreamsGroupCurrentMemberAssignmentKey(group_id=group_id, member_id=member_id), None),
        CoordinatorRecord(StreamsGroupTargetAssignmentMemberKey(group_id=group_id, member_id=member_id), None),
        CoordinatorRecord(StreamsGroupMemberMetadataKey(group_id=group_id, member_id=member_id), None),
    ]


def group_tombstones(group_id: str, member_ids: Iterable[str]) -> list[CoordinatorRecord]:
    """The records that remove a group."""
    members = sorted(member_ids)
    keys = [
        *(StreamsGroupCurrentMemberAssignmentKey(group_id=group_id, member_id=member_id) for member_id in members),
        *(StreamsGroupTargetAssignmentMemberKey(group_id=group_id, member_id=member_id) for member_id in members),
        StreamsGroupTargetAssignmentMetadataKey(group_id=group_id),
        *(StreamsGroupMemberMetadataKey(group_id=group_id, member_id=member_id) for member_id in members),
        StreamsGroupMetadataKey(group_id=group_id),
        StreamsGroupTopologyKey(group_id=group_id),
    ]
    return [CoordinatorRecord(key, None) for key in keys]


def _active(assigned: AssignedTasks) -> list[StreamsGroupCurrentMemberAssignmentValueTaskIds]:
    return [
        StreamsGroupCurrentMemberAssignmentValueTaskIds(
            subtopology_id=subtopology,
            partitions=partitions,
            assignment_epochs=[assigned.active[TaskId(subtopology, partition)] for partition in partitions],
        )
        for subtopology, partitions in by_subtopology(assigned.active)
    ]


def _replicas(tasks: Iterable[TaskId]) -> list[StreamsGroupCurrentMemberAssignmentValueTaskIds]:
    return [
        StreamsGroupCurrentMemberAssignmentValueTaskIds(subtopology_id=subtopology, partitions=partitions)
        for subtopology, partitions in by_subtopology(tasks)
    ]


def _target(tasks: Iterable[TaskId]) -> list[StreamsGroupTargetAssignmentMemberValueTaskIds]:
    return [
        StreamsGroupTargetAssignmentMemberValueTaskIds(subtopology_id=subtopology, partitions=partitions)
        for subtopology, partitions in by_subtopology(tasks)
    ]


def _epochs(carried: Iterable[StreamsGroupCurrentMemberAssignmentValueTaskIds], member_epoch: int) -> dict[TaskId, int]:
    """Epochs of active tasks; records of before KIP-1251 have none, then it is the member's."""
    found: dict[TaskId, int] = {}
    for ids in carried:
        epochs = ids.assignment_epochs
        if epochs is None or len(epochs) != len(ids.partitions):
            epochs = [member_epoch] * len(ids.partitions)
        found.update(
            (TaskId(ids.subtopology_id, partition), epoch)
            for partition, epoch in zip(ids.partitions, epochs, strict=True)
        )
    return found
