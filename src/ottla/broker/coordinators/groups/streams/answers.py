"""The shapes of answers: tasks and endpoints in a heartbeat's, a whole group in StreamsGroupDescribe's. KIP-1071."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ottla.broker.coordinators.groups.streams.tasks import NOTHING, AssignedTasks, TaskId, Tasks, by_subtopology
from ottla.protocol.messages import streams_group_describe as describing
from ottla.protocol.messages.streams_group_heartbeat import (
    Endpoint,
    EndpointToPartitions,
    TaskIds,
    TopicPartition,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.streams.group import StreamsGroup, TaskOffsets
    from ottla.broker.coordinators.groups.streams.internal_topics import ConfiguredTopology
    from ottla.broker.coordinators.groups.streams.member import StreamsMember
    from ottla.broker.coordinators.groups.streams.topology import InternalTopic, Subtopology
    from ottla.cluster.image import ClusterImage

#: The only assignor that there is.
ASSIGNOR_NAME = "sticky"


def task_ids(tasks: Iterable[TaskId]) -> list[TaskIds]:
    return [TaskIds(subtopology_id=name, partitions=partitions) for name, partitions in by_subtopology(tasks)]


def endpoint_of(
    member: StreamsMember, configured: ConfiguredTopology, image: ClusterImage
) -> EndpointToPartitions | None:
    """Return which partitions of which topics can be asked for at a member; None if it does not answer queries."""
    if member.endpoint is None:
        return None
    host, port = member.endpoint
    copies = member.assigned.standby | member.assigned.warmup
    return EndpointToPartitions(
        user_endpoint=Endpoint(host=host, port=port),
        active_partitions=_partitions(member.assigned.active, configured, image),
        standby_partitions=_partitions(copies, configured, image),
    )


def _partitions(tasks: Iterable[TaskId], configured: ConfiguredTopology, image: ClusterImage) -> list[TopicPartition]:
    found = []
    for name, partitions in by_subtopology(tasks):
        part = (configured.subtopologies or {}).get(name)
        for topic in sorted(part.subtopology.sources) if part is not None else ():
            known = image.topics.get(topic)
            count = 0 if known is None else len(known.partitions)
            of_topic = [partition for partition in partitions if partition < count]
            if of_topic:
                found.append(TopicPartition(topic=topic, partitions=of_topic))
    return found


def describe(group: StreamsGroup) -> describing.DescribedGroup:
    """Return what is committed of a group."""
    scalars = group.scalars.committed
    topology = None
    if scalars.topology is not None:
        configured = group.configured
        parts: Mapping[str, Subtopology] = scalars.topology.subtopologies
        if configured is not None and configured.is_ready and configured.topology == scalars.topology:
            parts = {name: part.subtopology for name, part in (configured.subtopologies or {}).items()}
        topology = describing.Topology(
            epoch=scalars.topology.epoch, subtopologies=[_subtopology(part) for part in parts.values()]
        )
    return describing.DescribedGroup(
        group_id=group.group_id,
        group_state=group.state_name(),
        group_epoch=scalars.epoch,
        assignment_epoch=scalars.assignment_epoch,
        assignor_name=ASSIGNOR_NAME,
        topology=topology,
        members=[
            _member(member, group.targets.get_committed(member_id) or NOTHING, group.task_offsets.get(member_id))
            for member_id, member in group.members.items_committed()
        ],
    )


def _subtopology(part: Subtopology) -> describing.Subtopology:
    return describing.Subtopology(
        subtopology_id=part.subtopology_id,
        source_topics=sorted(part.source_topics),
        repartition_sink_topics=sorted(part.repartition_sink_topics),
        state_changelog_topics=_topics(part.state_changelog_topics),
        repartition_source_topics=_topics(part.repartition_source_topics),
    )


def _topics(topics: Iterable[InternalTopic]) -> list[describing.TopicInfo]:
    return [
        describing.TopicInfo(
            name=topic.name,
            partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            topic_configs=[describing.KeyValue(key=key, value=value) for key, value in topic.configs],
        )
        for topic in sorted(topics, key=lambda topic: topic.name)
    ]


def _member(member: StreamsMember, target: Tasks, offsets: TaskOffsets | None) -> describing.Member:
    endpoint = member.endpoint
    described = describing.Member(
        member_id=member.member_id,
        member_epoch=member.member_epoch,
        instance_id=member.instance_id,
        rack_id=member.rack_id,
        client_id=member.client_id,
        client_host=member.client_host,
        topology_epoch=member.topology_epoch,
        process_id=member.process_id,
        user_endpoint=None if endpoint is None else describing.Endpoint(host=endpoint[0], port=endpoint[1]),
        client_tags=[describing.KeyValue(key=key, value=tag) for key, tag in sorted(member.client_tags.items())],
        assignment=_assignment(member.assigned),
        target_assignment=_assignment(target),
    )
    if offsets is not None:
        described.task_offsets = _offsets(offsets.offsets)
        described.task_end_offsets = _offsets(offsets.end_offsets)
    return described


def _assignment(tasks: Tasks | AssignedTasks) -> describing.Assignment:
    return describing.Assignment(
        active_tasks=_task_ids(tasks.active),
        standby_tasks=_task_ids(tasks.standby),
        warmup_tasks=_task_ids(tasks.warmup),
    )


def _task_ids(tasks: Iterable[TaskId]) -> list[describing.TaskIds]:
    return [
        describing.TaskIds(subtopology_id=name, partitions=partitions) for name, partitions in by_subtopology(tasks)
    ]


def _offsets(offsets: Mapping[TaskId, int]) -> list[describing.TaskOffset]:
    return [
        describing.TaskOffset(subtopology_id=task.subtopology, partition=task.partition, offset=offset)
        for task, offset in sorted(offsets.items())
    ]
