"""Guards of groups of all types, and of their offsets."""

from __future__ import annotations

from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import (
    CREATE,
    DELETE,
    DESCRIBE,
    GROUP_DENIED,
    READ,
    SENTENCES,
    TOPIC_DENIED,
    Around,
    Proceed,
    name_of,
    split,
    then,
)
from ottla.errors import ErrorCode
from ottla.protocol.api import APIS
from ottla.protocol.messages import (
    alter_share_group_offsets,
    consumer_group_describe,
    delete_groups,
    delete_share_group_offsets,
    describe_groups,
    describe_share_group_offsets,
    find_coordinator,
    join_group,
    offset_commit,
    offset_delete,
    offset_fetch,
    share_acknowledge,
    share_fetch,
    share_group_describe,
    streams_group_describe,
)
from ottla.security.acls import WILDCARD, Operation, ResourceType

GROUP, TOPIC = ResourceType.GROUP, ResourceType.TOPIC
_UNDESCRIBABLE = "The group has described topic(s) that the client is not authorized to describe."


def guard_member(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """READ on the group: SyncGroup, Heartbeat, LeaveGroup, the update of a topology."""
    if around.authorizer.allows(context.session, READ, GROUP, request.group_id):
        return proceed(request)
    return _refused(context)


def _refused(context: RequestContext, error: ErrorCode = GROUP_DENIED) -> Any:
    answer: Any = APIS[context.api_key].response_class()()
    answer.error_code = error
    if hasattr(answer, "error_message"):
        answer.error_message = SENTENCES[error]
    return answer


def guard_join_group(
    around: Around, context: RequestContext, request: join_group.JoinGroupRequest, proceed: Proceed
) -> Any:
    """READ on the group."""
    if around.authorizer.allows(context.session, READ, GROUP, request.group_id):
        return proceed(request)
    return join_group.JoinGroupResponse(
        error_code=GROUP_DENIED,
        generation_id=-1,
        protocol_type=None,
        protocol_name=None if context.version >= 7 else "",
    )


def guard_describe_groups(
    around: Around, context: RequestContext, request: describe_groups.DescribeGroupsRequest, proceed: Proceed
) -> Any:
    """DESCRIBE on each group."""
    authorizer, session = around.authorizer, context.session
    denied = [name for name in request.groups if not authorizer.allows(session, DESCRIBE, GROUP, name)]
    request.groups = [name for name in request.groups if name not in denied]
    wants_operations, request.include_authorized_operations = request.include_authorized_operations, False

    def finish(answer: describe_groups.DescribeGroupsResponse) -> describe_groups.DescribeGroupsResponse:
        if wants_operations:
            for group in answer.groups:
                if group.error_code == ErrorCode.NONE:
                    group.authorized_operations = authorizer.operations(session, GROUP, group.group_id)
        answer.groups += [
            describe_groups.DescribedGroup(error_code=GROUP_DENIED, error_message=None, group_id=name)
            for name in denied
        ]
        return answer

    return then(context, proceed(request), finish)


def guard_list_groups(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """DESCRIBE on the cluster shows all; else those with DESCRIBE on the group."""
    authorizer, session = around.authorizer, context.session
    if authorizer.allows_cluster(session, DESCRIBE, is_logged=False):
        return proceed(request)

    def finish(answer: Any) -> Any:
        answer.groups = [
            group
            for group in answer.groups
            if authorizer.allows(session, DESCRIBE, GROUP, group.group_id, is_logged=False)
        ]
        return answer

    return then(context, proceed(request), finish)


def guard_delete_groups(
    around: Around, context: RequestContext, request: delete_groups.DeleteGroupsRequest, proceed: Proceed
) -> Any:
    """DELETE on each group."""
    denied = [n for n in request.groups_names if not around.authorizer.allows(context.session, DELETE, GROUP, n)]
    request.groups_names = [name for name in request.groups_names if name not in denied]

    def finish(answer: delete_groups.DeleteGroupsResponse) -> delete_groups.DeleteGroupsResponse:
        answer.results += [
            delete_groups.DeletableGroupResult(group_id=name, error_code=GROUP_DENIED, error_message=None)
            for name in dict.fromkeys(denied)
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


# -- committed offsets


def guard_offset_commit(
    around: Around, context: RequestContext, request: offset_commit.OffsetCommitRequest, proceed: Proceed
) -> Any:
    """READ on the group, READ on each topic."""
    if not around.authorizer.allows(context.session, READ, GROUP, request.group_id):
        return offset_commit.OffsetCommitResponse(topics=_refused_commits(request.topics, GROUP_DENIED))
    request.topics, denied = split(around, context.session, READ, request.topics)
    if not denied:
        return proceed(request)
    refused = _refused_commits(denied, TOPIC_DENIED)
    if not request.topics:
        return offset_commit.OffsetCommitResponse(topics=refused)

    def finish(answer: offset_commit.OffsetCommitResponse) -> offset_commit.OffsetCommitResponse:
        answer.topics += refused
        return answer

    return then(context, proceed(request), finish)


def _refused_commits(topics: list[Any], error: ErrorCode) -> list[Any]:
    return [
        offset_commit.OffsetCommitResponseTopic(
            name=topic.name,
            topic_id=topic.topic_id,
            partitions=[
                offset_commit.OffsetCommitResponsePartition(partition_index=partition.partition_index, error_code=error)
                for partition in topic.partitions
            ],
        )
        for topic in topics
    ]


def guard_offset_fetch(
    around: Around, context: RequestContext, request: offset_fetch.OffsetFetchRequest, proceed: Proceed
) -> Any:
    """DESCRIBE on each group, DESCRIBE on each topic; where all topics are asked for those without it are left out."""
    if context.version < 8:
        return _guard_one_offset_fetch(around, context, request, proceed)
    authorizer, session = around.authorizer, context.session
    denied_groups = [g for g in request.groups if not authorizer.allows(session, DESCRIBE, GROUP, g.group_id)]
    refused_ids = {id(group) for group in denied_groups}
    request.groups = [group for group in request.groups if id(group) not in refused_ids]
    denied: dict[str, list[Any]] = {}
    whole: set[str] = set()
    for group in request.groups:
        if group.topics is None:
            whole.add(group.group_id)
        else:
            group.topics, refused = split(around, session, DESCRIBE, group.topics)
            denied.setdefault(group.group_id, []).extend(refused)

    def finish(answer: offset_fetch.OffsetFetchResponse) -> offset_fetch.OffsetFetchResponse:
        for group in answer.groups:
            if group.group_id in whole:
                group.topics = [
                    topic
                    for topic in group.topics
                    if (name := name_of(around, topic.name, topic.topic_id)) is None
                    or authorizer.allows(session, DESCRIBE, TOPIC, name, is_logged=False)
                ]
            elif not group.error_code:
                group.topics += [
                    offset_fetch.OffsetFetchResponseTopics(
                        name=topic.name,
                        topic_id=topic.topic_id,
                        partitions=[
                            offset_fetch.OffsetFetchResponsePartitions(
                                partition_index=index,
                                committed_offset=-1,
                                committed_leader_epoch=-1,
                                metadata="",
                                error_code=TOPIC_DENIED,
                            )
                            for index in topic.partition_indexes
                        ],
                    )
                    for topic in denied.get(group.group_id, ())
                ]
        answer.groups += [
            offset_fetch.OffsetFetchResponseGroup(group_id=group.group_id, error_code=GROUP_DENIED)
            for group in denied_groups
        ]
        return answer

    return then(context, proceed(request), finish)


def _guard_one_offset_fetch(
    around: Around, context: RequestContext, request: offset_fetch.OffsetFetchRequest, proceed: Proceed
) -> Any:
    authorizer, session = around.authorizer, context.session
    if not authorizer.allows(session, DESCRIBE, GROUP, request.group_id):
        return offset_fetch.OffsetFetchResponse(
            error_code=GROUP_DENIED,
            topics=_refused_fetches(request.topics or [], GROUP_DENIED) if context.version < 2 else [],
        )
    if request.topics is None:

        def leave_out(answer: offset_fetch.OffsetFetchResponse) -> offset_fetch.OffsetFetchResponse:
            allowed = authorizer.allowed(session, DESCRIBE, TOPIC, [t.name for t in answer.topics], is_logged=False)
            answer.topics = [topic for topic in answer.topics if topic.name in allowed]
            return answer

        return then(context, proceed(request), leave_out)
    request.topics, denied = split(around, session, DESCRIBE, request.topics)

    def finish(answer: offset_fetch.OffsetFetchResponse) -> offset_fetch.OffsetFetchResponse:
        if not answer.error_code:
            answer.topics += _refused_fetches(denied, TOPIC_DENIED)
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def _refused_fetches(topics: list[Any], error: ErrorCode) -> list[Any]:
    return [
        offset_fetch.OffsetFetchResponseTopic(
            name=topic.name,
            partitions=[
                offset_fetch.OffsetFetchResponsePartition(
                    partition_index=index,
                    committed_offset=-1,
                    committed_leader_epoch=-1,
                    metadata="",
                    error_code=error,
                )
                for index in topic.partition_indexes
            ],
        )
        for topic in topics
    ]


def guard_offset_delete(
    around: Around, context: RequestContext, request: offset_delete.OffsetDeleteRequest, proceed: Proceed
) -> Any:
    """DELETE on the group, READ on each topic."""
    if not around.authorizer.allows(context.session, DELETE, GROUP, request.group_id):
        return offset_delete.OffsetDeleteResponse(error_code=GROUP_DENIED)
    request.topics, denied = split(around, context.session, READ, request.topics)

    def finish(answer: offset_delete.OffsetDeleteResponse) -> offset_delete.OffsetDeleteResponse:
        if not answer.error_code:
            answer.topics += [
                offset_delete.OffsetDeleteResponseTopic(
                    name=topic.name,
                    partitions=[
                        offset_delete.OffsetDeleteResponsePartition(
                            partition_index=partition.partition_index, error_code=TOPIC_DENIED
                        )
                        for partition in topic.partitions
                    ],
                )
                for topic in denied
            ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


# -- groups that the broker assigns


def guard_group_heartbeat(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """READ on the group; DESCRIBE on the topics that a member of the consumer or share protocol subscribes to.

    A pattern could show names that the member may not see. Kafka leaves those out of what it matches for the member that
    asks; here a pattern is for members that may DESCRIBE every topic there is, and every one that may come.
    """
    authorizer, session = around.authorizer, context.session
    if not authorizer.allows(session, READ, GROUP, request.group_id):
        return _refused(context)
    names = request.subscribed_topic_names
    if names and len(authorizer.allowed(session, DESCRIBE, TOPIC, names)) < len(set(names)):
        return _refused(context, TOPIC_DENIED)
    if getattr(request, "subscribed_topic_regex", None):
        everything = [WILDCARD, *around.image().topics]
        if len(authorizer.allowed(session, DESCRIBE, TOPIC, everything, is_logged=False)) < len(set(everything)):
            authorizer.allows(session, DESCRIBE, TOPIC, WILDCARD)
            return _refused(context, TOPIC_DENIED)
    return proceed(request)


def guard_streams_heartbeat(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """READ on the group; DESCRIBE on the topology's topics; CREATE on those of its internal topics that are missing.

    Kafka lets a member in that may not create internal topics, and tells it that they are missing; here it is refused.
    """
    authorizer, session = around.authorizer, context.session
    if not authorizer.allows(session, READ, GROUP, request.group_id):
        return _refused(context)
    if request.topology is not None:
        sources: set[str] = set()
        internal: set[str] = set()
        for part in request.topology.subtopologies:
            sources.update(part.source_topics, part.repartition_sink_topics)
            internal.update(topic.name for topic in part.state_changelog_topics)
            internal.update(topic.name for topic in part.repartition_source_topics)
            if part.source_topic_regex and not authorizer.allows(session, DESCRIBE, TOPIC, WILDCARD):
                return _refused(context, TOPIC_DENIED)
        every = sources | internal
        if len(authorizer.allowed(session, DESCRIBE, TOPIC, sorted(every))) < len(every):
            return _refused(context, TOPIC_DENIED)
        missing = sorted(internal - around.image().topics.keys())
        if (
            missing
            and not authorizer.allows_cluster(session, CREATE, is_logged=False)
            and len(authorizer.allowed(session, CREATE, TOPIC, missing)) < len(missing)
        ):
            return _refused(context, TOPIC_DENIED)
    return proceed(request)


def guard_describe_members(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """DESCRIBE on each group, and on the topics that its members have, of the consumer, share and streams protocols."""
    authorizer, session = around.authorizer, context.session
    denied = [name for name in request.group_ids if not authorizer.allows(session, DESCRIBE, GROUP, name)]
    request.group_ids = [name for name in request.group_ids if name not in denied]
    wants_operations, request.include_authorized_operations = request.include_authorized_operations, False
    described = {
        consumer_group_describe.ConsumerGroupDescribeResponse: consumer_group_describe.DescribedGroup,
        share_group_describe.ShareGroupDescribeResponse: share_group_describe.DescribedGroup,
        streams_group_describe.StreamsGroupDescribeResponse: streams_group_describe.DescribedGroup,
    }

    def finish(answer: Any) -> Any:
        for group in answer.groups:
            if group.error_code:
                continue
            topics = _topics_of(group)
            if len(authorizer.allowed(session, DESCRIBE, TOPIC, topics, is_logged=False)) < len(topics):
                group.error_code, group.error_message, group.members = TOPIC_DENIED, _UNDESCRIBABLE, []
                if hasattr(group, "topology"):
                    group.topology = None
            elif wants_operations:
                group.authorized_operations = authorizer.operations(session, GROUP, group.group_id)
        answer.groups += [
            described[type(answer)](group_id=name, error_code=GROUP_DENIED, error_message=SENTENCES[GROUP_DENIED])
            for name in denied
        ]
        return answer

    return then(context, proceed(request), finish)


def _topics_of(group: Any) -> set[str]:
    """The names that a description of a group shows."""
    names: set[str] = set()
    topology = getattr(group, "topology", None)
    for part in (topology.subtopologies or []) if topology is not None else ():
        names.update(part.source_topics, part.repartition_sink_topics)
        names.update(topic.name for topic in part.state_changelog_topics)
        names.update(topic.name for topic in part.repartition_source_topics)
    for member in group.members:
        names.update(getattr(member, "subscribed_topic_names", None) or ())
        for assignment in (member.assignment, getattr(member, "target_assignment", None)):
            names.update(topic.topic_name for topic in getattr(assignment, "topic_partitions", ()))
    return names


# -- share groups


def guard_share_fetch(
    around: Around, context: RequestContext, request: share_fetch.ShareFetchRequest, proceed: Proceed
) -> Any:
    """READ on the group. On topics the handler asks for it, at every look: a session has more of them than a request."""
    if not around.authorizer.allows(context.session, READ, GROUP, request.group_id or ""):
        return _refused(context)
    return proceed(request)


def guard_share_acknowledge(
    around: Around, context: RequestContext, request: share_acknowledge.ShareAcknowledgeRequest, proceed: Proceed
) -> Any:
    """READ on the group and on each topic."""
    if not around.authorizer.allows(context.session, READ, GROUP, request.group_id or ""):
        return _refused(context)
    denied = _without_denied(around, context, request)

    def finish(answer: share_acknowledge.ShareAcknowledgeResponse) -> share_acknowledge.ShareAcknowledgeResponse:
        if not answer.error_code:
            answer.responses += [
                share_acknowledge.ShareAcknowledgeTopicResponse(
                    topic_id=topic_id,
                    partitions=[
                        share_acknowledge.PartitionData(
                            partition_index=index, error_code=TOPIC_DENIED, error_message=SENTENCES[TOPIC_DENIED]
                        )
                    ],
                )
                for topic_id, index in denied
            ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def _without_denied(around: Around, context: RequestContext, request: Any) -> list[tuple[bytes, int]]:
    """Take the topics that may not be read out of a request; return their partitions."""
    denied: list[tuple[bytes, int]] = []
    allowed = []
    for topic in request.topics:
        name = around.image().topic_names.get(topic.topic_id)
        if name is None or around.authorizer.allows(context.session, READ, TOPIC, name):
            allowed.append(topic)
        else:
            denied += [(topic.topic_id, partition.partition_index) for partition in topic.partitions]
    request.topics = allowed
    return denied


def guard_describe_share_offsets(
    around: Around,
    context: RequestContext,
    request: describe_share_group_offsets.DescribeShareGroupOffsetsRequest,
    proceed: Proceed,
) -> Any:
    """DESCRIBE on each group, DESCRIBE on each topic; of all topics those without it are left out."""
    authorizer, session = around.authorizer, context.session
    denied_groups = [g.group_id for g in request.groups if not authorizer.allows(session, DESCRIBE, GROUP, g.group_id)]
    request.groups = [group for group in request.groups if group.group_id not in denied_groups]
    denied: dict[str, list[Any]] = {}
    for group in request.groups:
        if group.topics is not None:
            group.topics, denied[group.group_id] = split(around, session, DESCRIBE, group.topics, by="topic_name")
    types = describe_share_group_offsets

    def finish(answer: types.DescribeShareGroupOffsetsResponse) -> types.DescribeShareGroupOffsetsResponse:
        for group in answer.groups:
            if group.group_id not in denied:
                group.topics = [
                    topic
                    for topic in group.topics
                    if authorizer.allows(session, DESCRIBE, TOPIC, topic.topic_name, is_logged=False)
                ]
            elif not group.error_code:
                group.topics += [
                    types.DescribeShareGroupOffsetsResponseTopic(
                        topic_name=topic.topic_name,
                        partitions=[
                            types.DescribeShareGroupOffsetsResponsePartition(
                                partition_index=index,
                                start_offset=-1,
                                leader_epoch=0,
                                error_code=TOPIC_DENIED,
                                error_message=SENTENCES[TOPIC_DENIED],
                            )
                            for index in topic.partitions
                        ],
                    )
                    for topic in denied[group.group_id]
                ]
        answer.groups += [
            types.DescribeShareGroupOffsetsResponseGroup(
                group_id=name, error_code=GROUP_DENIED, error_message=SENTENCES[GROUP_DENIED]
            )
            for name in denied_groups
        ]
        return answer

    return then(context, proceed(request), finish)


def guard_alter_share_offsets(
    around: Around,
    context: RequestContext,
    request: alter_share_group_offsets.AlterShareGroupOffsetsRequest,
    proceed: Proceed,
) -> Any:
    """READ on the group, READ on each topic."""
    if not around.authorizer.allows(context.session, READ, GROUP, request.group_id):
        return _refused(context)
    request.topics, denied = split(around, context.session, READ, request.topics, by="topic_name")
    types = alter_share_group_offsets

    def finish(answer: types.AlterShareGroupOffsetsResponse) -> types.AlterShareGroupOffsetsResponse:
        if not answer.error_code:
            answer.responses += [
                types.AlterShareGroupOffsetsResponseTopic(
                    topic_name=topic.topic_name,
                    partitions=[
                        types.AlterShareGroupOffsetsResponsePartition(
                            partition_index=partition.partition_index,
                            error_code=TOPIC_DENIED,
                            error_message=SENTENCES[TOPIC_DENIED],
                        )
                        for partition in topic.partitions
                    ],
                )
                for topic in denied
            ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_delete_share_offsets(
    around: Around,
    context: RequestContext,
    request: delete_share_group_offsets.DeleteShareGroupOffsetsRequest,
    proceed: Proceed,
) -> Any:
    """DELETE on the group, READ on each topic."""
    if not around.authorizer.allows(context.session, DELETE, GROUP, request.group_id):
        return _refused(context)
    request.topics, denied = split(around, context.session, READ, request.topics, by="topic_name")
    types = delete_share_group_offsets

    def finish(answer: types.DeleteShareGroupOffsetsResponse) -> types.DeleteShareGroupOffsetsResponse:
        if not answer.error_code:
            answer.responses += [
                types.DeleteShareGroupOffsetsResponseTopic(
                    topic_name=topic.topic_name,
                    error_code=TOPIC_DENIED,
                    error_message=SENTENCES[TOPIC_DENIED],
                )
                for topic in denied
            ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)


def guard_share_state(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """CLUSTER_ACTION: what share partitions have delivered is for brokers to read and write."""
    from ottla.broker.guards.base import CLUSTER_DENIED

    if around.authorizer.allows_cluster(context.session, Operation.CLUSTER_ACTION):
        return proceed(request)
    spec = APIS[context.api_key]
    module = __import__(f"ottla.protocol.messages.{spec.module}", fromlist=["PartitionResult"])
    response = spec.response_class()()
    result_class = getattr(
        module, f"{spec.name.removesuffix('GroupState').removesuffix('GroupStateSummary')}Result", None
    )
    result_class = result_class or next(
        value for key, value in vars(module).items() if key.endswith("Result") and key != "PartitionResult"
    )
    response.results = [  # type: ignore[attr-defined]
        result_class(
            topic_id=topic.topic_id,
            partitions=[
                module.PartitionResult(
                    partition=partition.partition,
                    error_code=CLUSTER_DENIED,
                    error_message=SENTENCES[CLUSTER_DENIED],
                )
                for partition in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    return response


def guard_find_coordinator(around: Around, context: RequestContext, request: Any, proceed: Proceed) -> Any:
    """DESCRIBE on each group or transactional id; CLUSTER_ACTION for share partitions, which only brokers look for."""
    authorizer, session = around.authorizer, context.session
    kind, error = {
        0: (GROUP, GROUP_DENIED),
        1: (ResourceType.TRANSACTIONAL_ID, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        2: (ResourceType.CLUSTER, ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
    }.get(request.key_type, (None, ErrorCode.NONE))
    if kind is None:
        return proceed(request)

    def may(name: str) -> bool:
        if kind is ResourceType.CLUSTER:
            return authorizer.allows_cluster(session, Operation.CLUSTER_ACTION)
        return authorizer.allows(session, DESCRIBE, kind, name)

    if context.version < 4:
        if may(request.key):
            return proceed(request)
        return find_coordinator.FindCoordinatorResponse(
            error_code=error, error_message=SENTENCES[error], node_id=-1, host="", port=-1
        )
    denied = [key for key in request.coordinator_keys if not may(key)]
    request.coordinator_keys = [key for key in request.coordinator_keys if key not in denied]

    def finish(answer: find_coordinator.FindCoordinatorResponse) -> find_coordinator.FindCoordinatorResponse:
        answer.coordinators += [
            find_coordinator.Coordinator(key=key, node_id=-1, host="", port=-1, error_code=error, error_message="")
            for key in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)
