"""Guards of topics: what they are, making and deleting them."""

from __future__ import annotations

from typing import Any

from ottla.broker.context import RequestContext
from ottla.broker.guards.base import (
    ALTER,
    CREATE,
    DELETE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    SENTENCES,
    TOPIC_DENIED,
    Around,
    Proceed,
    then,
)
from ottla.errors import ErrorCode
from ottla.protocol.messages import (
    create_partitions,
    create_topics,
    delete_topics,
    describe_topic_partitions,
    metadata,
)
from ottla.security.acls import CLUSTER_NAME, ResourceType
from ottla.types import INTERNAL_TOPICS, ZERO_UUID

TOPIC = ResourceType.TOPIC
#: The first version in which Metadata can be asked by id.
BY_ID = 12
_FAILED = "Authorization failed."


def guard_metadata(around: Around, context: RequestContext, request: metadata.MetadataRequest, proceed: Proceed) -> Any:
    """DESCRIBE on each topic, CREATE on those that it would make.

    Of all topics those without DESCRIBE are left out. By name a denial looks the same whether there is such a topic or not;
    by id a topic that is there is denied without its name, and one that is not is unknown. The handler gets names only that
    the client may know, so what it keeps for the next one who asks is kept by those names.
    """
    authorizer, session = around.authorizer, context.session
    topics = request.topics
    refused: list[metadata.MetadataResponseTopic] = []
    if topics is None or (context.version == 0 and not topics):
        every = authorizer.allowed(session, DESCRIBE, TOPIC, around.image().topics, is_logged=False)
        request.topics = [metadata.MetadataRequestTopic(name=n) for n in around.image().topics if n in every]
        if not request.topics and context.version == 0:  # an empty list would mean all of them
            return proceed_without_topics(around, context, request, proceed)
    elif context.version >= BY_ID or all(topic.name is not None and topic.topic_id == ZERO_UUID for topic in topics):
        by_id = any(topic.topic_id != ZERO_UUID for topic in topics)
        request.topics = []
        for topic in topics:
            if by_id:
                name = around.image().topic_names.get(topic.topic_id)
                if name is None or authorizer.allows(session, DESCRIBE, TOPIC, name):
                    request.topics.append(topic)
                elif topic.topic_id != ZERO_UUID:
                    refused.append(_denied(None, topic.topic_id))
            elif topic.name is not None:
                if not authorizer.allows(session, DESCRIBE, TOPIC, topic.name) or not _may_make(
                    around, context, request, topic.name
                ):
                    refused.append(_denied(topic.name, ZERO_UUID))
                else:
                    request.topics.append(topic)
        if not request.topics and context.version == 0:
            return proceed_without_topics(around, context, request, proceed, refused)
    wants_cluster = request.include_cluster_authorized_operations
    wants_topics = request.include_topic_authorized_operations
    if not (refused or wants_cluster or wants_topics):
        return proceed(request)
    request.include_cluster_authorized_operations = request.include_topic_authorized_operations = False

    def finish(answer: metadata.MetadataResponse) -> metadata.MetadataResponse:
        if wants_topics:
            for topic in answer.topics:
                if topic.error_code == ErrorCode.NONE and topic.name is not None:
                    topic.topic_authorized_operations = authorizer.operations(session, TOPIC, topic.name)
        if wants_cluster:
            answer.cluster_authorized_operations = cluster_operations(around, context)
        answer.topics += refused
        return answer

    return then(context, proceed(request), finish)


def proceed_without_topics(
    around: Around,
    context: RequestContext,
    request: metadata.MetadataRequest,
    proceed: Proceed,
    refused: list[metadata.MetadataResponseTopic] | None = None,
) -> Any:
    """Answer a request of version 0 that may see no topic: there an empty list cannot be said."""
    request.topics = [metadata.MetadataRequestTopic(name="-")]  # a name that no topic is looked up by
    request.allow_auto_topic_creation = False

    def finish(answer: metadata.MetadataResponse) -> metadata.MetadataResponse:
        answer.topics = refused or []
        return answer

    return then(context, proceed(request), finish)


def _may_make(around: Around, context: RequestContext, request: metadata.MetadataRequest, name: str) -> bool:
    """Return whether the handler may meet this name: the topic is there, or would not be made, or may be."""
    if name in around.image().topics or not (request.allow_auto_topic_creation and around.auto_creates_topics):
        return True
    authorizer, session = around.authorizer, context.session
    return authorizer.allows_cluster(session, CREATE, is_logged=False) or authorizer.allows(
        session, CREATE, TOPIC, name
    )


def _denied(name: str | None, topic_id: bytes) -> metadata.MetadataResponseTopic:
    return metadata.MetadataResponseTopic(
        error_code=TOPIC_DENIED, name=name, topic_id=topic_id, is_internal=name in INTERNAL_TOPICS
    )


def cluster_operations(around: Around, context: RequestContext) -> int:
    """Return what the client may do with the cluster; nothing where it may not even describe it."""
    if not around.authorizer.allows_cluster(context.session, DESCRIBE, is_logged=False):
        return 0
    return around.authorizer.operations(context.session, ResourceType.CLUSTER, CLUSTER_NAME)


def guard_describe_topic_partitions(
    around: Around,
    context: RequestContext,
    request: describe_topic_partitions.DescribeTopicPartitionsRequest,
    proceed: Proceed,
) -> Any:
    """DESCRIBE on each topic; of all topics those without it are left out."""
    authorizer, session = around.authorizer, context.session
    types = describe_topic_partitions
    refused: list[describe_topic_partitions.DescribeTopicPartitionsResponseTopic] = []
    if not request.topics:
        names = authorizer.allowed(session, DESCRIBE, TOPIC, around.image().topics, is_logged=False)
        cursor = request.cursor
        if not names:
            return types.DescribeTopicPartitionsResponse()
        if cursor is not None:  # as Kafka: topics before the cursor are not looked at
            names = {name for name in names if name >= cursor.topic_name}
        request.topics = [types.TopicRequest(name=name) for name in sorted(names)]
        if not names:
            return types.DescribeTopicPartitionsResponse()
    else:
        allowed = authorizer.allowed(session, DESCRIBE, TOPIC, [topic.name for topic in request.topics])
        refused = [
            types.DescribeTopicPartitionsResponseTopic(
                error_code=TOPIC_DENIED, name=topic.name, is_internal=topic.name in INTERNAL_TOPICS
            )
            for topic in request.topics
            if topic.name not in allowed
        ]
        request.topics = [topic for topic in request.topics if topic.name in allowed]
        if not request.topics:
            return types.DescribeTopicPartitionsResponse(topics=refused)

    def finish(answer: types.DescribeTopicPartitionsResponse) -> types.DescribeTopicPartitionsResponse:
        for topic in answer.topics:
            if topic.error_code == ErrorCode.NONE and topic.name is not None:
                topic.topic_authorized_operations = authorizer.operations(session, TOPIC, topic.name)
        answer.topics += refused
        return answer

    return then(context, proceed(request), finish)


def guard_create_topics(
    around: Around, context: RequestContext, request: create_topics.CreateTopicsRequest, proceed: Proceed
) -> Any:
    """CREATE on the cluster, or on each topic; DESCRIBE_CONFIGS shows what was made."""
    authorizer, session = around.authorizer, context.session
    names = [topic.name for topic in request.topics]
    if authorizer.allows_cluster(session, CREATE, is_logged=False):
        allowed = set(names)
    else:
        allowed = authorizer.allowed(session, CREATE, TOPIC, names)
    denied = [name for name in dict.fromkeys(names) if name not in allowed]
    request.topics = [topic for topic in request.topics if topic.name in allowed]

    def finish(answer: create_topics.CreateTopicsResponse) -> create_topics.CreateTopicsResponse:
        shown = authorizer.allowed(session, DESCRIBE_CONFIGS, TOPIC, allowed, is_logged=False)
        for topic in answer.topics:
            if topic.error_code == ErrorCode.NONE and topic.name not in shown:
                topic.topic_config_error_code = TOPIC_DENIED
                topic.num_partitions = topic.replication_factor = -1
                topic.configs = []
        answer.topics += [
            create_topics.CreatableTopicResult(
                name=name,
                error_code=TOPIC_DENIED,
                error_message=_FAILED,
                num_partitions=-1,
                replication_factor=-1,
                configs=[],
            )
            for name in denied
        ]
        return answer

    return then(context, proceed(request), finish)


def guard_delete_topics(
    around: Around, context: RequestContext, request: delete_topics.DeleteTopicsRequest, proceed: Proceed
) -> Any:
    """DELETE on the cluster, or on each topic. By id a topic's name is shown to those who may DESCRIBE it."""
    authorizer, session = around.authorizer, context.session
    if authorizer.allows_cluster(session, DELETE, is_logged=False):
        return proceed(request)
    refused: list[delete_topics.DeletableTopicResult] = []

    def refuse(name: str | None, topic_id: bytes) -> None:
        refused.append(
            delete_topics.DeletableTopicResult(
                name=name, topic_id=topic_id, error_code=TOPIC_DENIED, error_message=SENTENCES[TOPIC_DENIED]
            )
        )

    names, request.topic_names = request.topic_names, []
    for name in names:
        if authorizer.allows(session, DELETE, TOPIC, name):
            request.topic_names.append(name)
        else:
            refuse(name, ZERO_UUID)
    topics, request.topics = request.topics, []
    known: str | None
    for topic in topics:
        known = topic.name if topic.name is not None else around.image().topic_names.get(topic.topic_id)
        if known is None or authorizer.allows(session, DELETE, TOPIC, known):
            request.topics.append(topic)
        elif topic.name is not None:
            refuse(known, ZERO_UUID)
        else:
            is_shown = authorizer.allows(session, DESCRIBE, TOPIC, known, is_logged=False)
            refuse(known if is_shown else None, topic.topic_id)

    def finish(answer: delete_topics.DeleteTopicsResponse) -> delete_topics.DeleteTopicsResponse:
        answer.responses += refused
        return answer

    return then(context, proceed(request), finish) if refused else proceed(request)


def guard_create_partitions(
    around: Around, context: RequestContext, request: create_partitions.CreatePartitionsRequest, proceed: Proceed
) -> Any:
    """ALTER on each topic."""
    allowed = around.authorizer.allowed(context.session, ALTER, TOPIC, [topic.name for topic in request.topics])
    denied = [name for name in dict.fromkeys(topic.name for topic in request.topics) if name not in allowed]
    request.topics = [topic for topic in request.topics if topic.name in allowed]

    def finish(answer: create_partitions.CreatePartitionsResponse) -> create_partitions.CreatePartitionsResponse:
        answer.results += [
            create_partitions.CreatePartitionsTopicResult(name=name, error_code=TOPIC_DENIED, error_message=None)
            for name in denied
        ]
        return answer

    return then(context, proceed(request), finish) if denied else proceed(request)
