"""What is refused about a heartbeat: its shape, the member's epoch and instance id, tasks that do not exist.

Each check raises Kafka's error with Kafka's code. KIP-1071; Kafka's GroupCoordinatorService and GroupMetadataManager (4.4).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.streams.member import JOIN_EPOCH, STATIC_LEAVE_EPOCH, StreamsMember
from ottla.broker.coordinators.groups.streams.tasks import TaskId, Tasks, task_set
from ottla.errors import (
    FencedInstanceIdError,
    FencedMemberEpochError,
    InvalidRequestError,
    StreamsInvalidTopologyError,
    UnknownMemberIdError,
    UnreleasedInstanceIdError,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.streams.internal_topics import ConfiguredTopology
    from ottla.protocol.messages.streams_group_heartbeat import StreamsGroupHeartbeatRequest, TaskOffset


def check_request(request: StreamsGroupHeartbeatRequest) -> None:
    """Check what needs no group.

    Raises:
        InvalidRequestError: a field is missing, or must not be there.
        StreamsInvalidTopologyError: a changelog with a number of partitions of its own.
    """
    topology = request.topology
    if topology is not None and any(part.source_topic_regex for part in topology.subtopologies):
        raise InvalidRequestError("Regular expressions for source topics are not supported yet.")
    for name, text in (
        ("MemberId", request.member_id),
        ("GroupId", request.group_id),
        ("InstanceId", request.instance_id),
        ("RackId", request.rack_id),
    ):
        if text is not None and not text.strip():
            raise InvalidRequestError(f"{name} can't be empty.")
    given = {
        "ActiveTasks": request.active_tasks,
        "StandbyTasks": request.standby_tasks,
        "WarmupTasks": request.warmup_tasks,
    }
    if request.member_epoch == JOIN_EPOCH:
        if request.rebalance_timeout_ms == -1:
            raise InvalidRequestError("RebalanceTimeoutMs must be provided in first request.")
        for name, tasks in given.items():
            # As in Kafka: here they may not be left out, only be empty.
            if tasks is None or tasks:
                raise InvalidRequestError(f"{name} must be empty when (re-)joining.")
        if topology is None:
            raise InvalidRequestError("Topology must be non-null when (re-)joining.")
        if topology.epoch < 0:
            raise InvalidRequestError(f"The topology's epoch is {topology.epoch}, but must not be negative.")
        for part in topology.subtopologies:
            for topic in part.state_changelog_topics:
                if topic.partitions != 0:
                    raise StreamsInvalidTopologyError(
                        f"Changelog topic {topic.name} must have an undefined partition count, but it is set to "
                        f"{topic.partitions}."
                    )
    elif request.member_epoch == STATIC_LEAVE_EPOCH:
        if request.instance_id is None:
            raise InvalidRequestError("InstanceId can't be null.")
    elif request.member_epoch < STATIC_LEAVE_EPOCH:
        raise InvalidRequestError(f"MemberEpoch is {request.member_epoch}, but must be greater than or equal to -2.")
    left_out = [tasks is None for tasks in given.values()]
    if any(left_out) and not all(left_out):
        raise InvalidRequestError("If one task-type is non-null, all must be non-null.")
    if request.member_epoch != JOIN_EPOCH and topology is not None:
        raise InvalidRequestError("Topology can only be provided when (re-)joining.")


def owned_tasks(request: StreamsGroupHeartbeatRequest) -> Tasks | None:
    """Return what a member says it has; None if it does not say."""
    if request.active_tasks is None or request.standby_tasks is None or request.warmup_tasks is None:
        return None
    return Tasks(task_set(request.active_tasks), task_set(request.standby_tasks), task_set(request.warmup_tasks))


def check_epoch(member: StreamsMember, request: StreamsGroupHeartbeatRequest, owned: Tasks | None) -> None:
    """Check that the member is where it thinks it is. One epoch behind is fine if it has only what is its own: the answer
    with the new epoch may have been lost.

    Raises:
        FencedMemberEpochError: it is somewhere else, and must join again.
    """
    received = request.member_epoch
    if received in (JOIN_EPOCH, member.member_epoch):
        return
    if received > member.member_epoch:
        raise FencedMemberEpochError(
            f"The streams group member has a greater member epoch ({received}) than the one known by the group "
            f"coordinator ({member.member_epoch}). The member must abandon all its partitions and rejoin."
        )
    if received != member.previous_member_epoch or owned is None or not member.assigned.covers(owned):
        raise FencedMemberEpochError(
            f"The streams group member has a smaller member epoch ({received}) than the one known by the group "
            f"coordinator ({member.member_epoch}). The member must abandon all its partitions and rejoin."
        )


def check_known(member: StreamsMember | None, instance_id: str) -> StreamsMember:
    """Return the static member.

    Raises:
        UnknownMemberIdError: no member has this instance id.
    """
    if member is None:
        raise UnknownMemberIdError(f"Instance id {instance_id} is unknown.")
    return member


def check_fenced(member: StreamsMember, member_id: str, instance_id: str) -> None:
    """Check that an instance id still is this member's.

    Raises:
        FencedInstanceIdError: another one has it.
    """
    if member.member_id != member_id:
        raise FencedInstanceIdError(
            f"Static member {member_id} with instance id {instance_id} was fenced by member {member.member_id}."
        )


def check_released(member: StreamsMember, member_id: str, instance_id: str) -> None:
    """Check that an instance id is free.

    Raises:
        UnreleasedInstanceIdError: its member has not left.
    """
    if member.member_epoch != STATIC_LEAVE_EPOCH:
        raise UnreleasedInstanceIdError(
            f"Static member {member_id} with instance id {instance_id} cannot join the group because the instance id is "
            f"owned by {member.member_id} member."
        )


def check_tasks(configured: ConfiguredTopology, request: StreamsGroupHeartbeatRequest) -> None:
    """Check that the tasks that a member says it has exist.

    Raises:
        InvalidRequestError: one does not.
    """
    for tasks in (request.active_tasks, request.standby_tasks, request.warmup_tasks):
        for ids in tasks or ():
            part = (configured.subtopologies or {}).get(ids.subtopology_id)
            if part is None:
                raise InvalidRequestError(f"Subtopology {ids.subtopology_id} does not exist in the topology.")
            for partition in ids.partitions:
                if not 0 <= partition < part.tasks:
                    raise InvalidRequestError(
                        f"Task {partition} for subtopology {ids.subtopology_id} is invalid. Number of tasks for this "
                        f"subtopology: {part.tasks}"
                    )


def reported_offsets(reported: Iterable[TaskOffset] | None) -> dict[TaskId, int] | None:
    """Return the offsets of tasks that a member reports; None if it does not say.

    Raises:
        InvalidRequestError: a task comes twice.
    """
    if reported is None:
        return None
    offsets: dict[TaskId, int] = {}
    for offset in reported:
        task = TaskId(offset.subtopology_id, offset.partition)
        if task in offsets:
            raise InvalidRequestError(
                f"Task offsets contain a duplicate entry for subtopology {task.subtopology} and partition "
                f"{task.partition}."
            )
        offsets[task] = offset.offset
    return offsets
