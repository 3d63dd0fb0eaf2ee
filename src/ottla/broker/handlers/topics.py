"""Topics: CreateTopics (key 19, versions 2-7), DeleteTopics (20, 1-6), CreatePartitions (37, 0-3).

CreateTopics v4: -1 for partitions and replication factor is the broker's default. v5: the answer has the number of
partitions and the effective settings (KIP-525). v7: and the topic's id. DeleteTopics v5: error messages. v6: by id.
CreatePartitions v0-3: as Kafka.

Where we differ from Apache Kafka: answers are in the order of the request (Kafka's is random).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ottla.broker.context import RequestContext, Route
from ottla.broker.handlers.config_entries import topic_entries
from ottla.broker.quotas.client_quotas import MutationQuota
from ottla.cluster.controller import NewTopic, TopicResult
from ottla.cluster.decisions.topic_names import CLUSTER_METADATA_TOPIC
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopicResult,
)
from ottla.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.protocol.messages.delete_topics import DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from ottla.broker.context import Routes
    from ottla.cluster.controller import Controller
    from ottla.cluster.image import ClusterImage

#: Kafka's sentences for codes that the controller gives without one.
_DEFAULT_MESSAGES = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "This server does not host this topic-partition.",
    ErrorCode.UNKNOWN_TOPIC_ID: "This server does not host this topic ID.",
}


Mutations = Callable[[RequestContext, bool], MutationQuota]
"""Returns what a client may change with one request (KIP-599); the second argument: whether too much is refused."""

#: Since these versions clients know THROTTLING_QUOTA_EXCEEDED.
_STRICT_SINCE = {ApiKey.CREATE_TOPICS: 6, ApiKey.DELETE_TOPICS: 5, ApiKey.CREATE_PARTITIONS: 3}
_THROTTLED = "The throttling quota has been exceeded."


def _unlimited(context: RequestContext, is_strict: bool) -> MutationQuota:
    return MutationQuota(None, is_strict=is_strict, now_ms=0)


class TopicHandlers:
    """Makes, deletes and enlarges topics through the controller."""

    def __init__(
        self,
        image: Callable[[], ClusterImage],
        controller: Controller,
        *,
        delete_topic_enable: bool,
        mutations: Mutations = _unlimited,
    ) -> None:
        self._mutations = mutations
        self._image = image
        self._controller = controller
        self._delete_topic_enable = delete_topic_enable

    def routes(self) -> Routes:
        return {
            ApiKey.CREATE_TOPICS: Route(self.handle_create_topics),
            ApiKey.DELETE_TOPICS: Route(self.handle_delete_topics, for_controller=True),
            ApiKey.CREATE_PARTITIONS: Route(self.handle_create_partitions),
        }

    async def handle_create_topics(self, context: RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse:
        quota = self._quota(context)
        counts = Counter(topic.name for topic in request.topics)
        answers: dict[str, CreatableTopicResult] = {}
        requested: dict[str, NewTopic] = {}
        for topic in request.topics:
            if counts[topic.name] > 1:
                answers[topic.name] = _refused(topic.name, ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            elif topic.name == CLUSTER_METADATA_TOPIC:
                sentence = f"Creation of internal topic {CLUSTER_METADATA_TOPIC} is prohibited."
                answers[topic.name] = _refused(topic.name, ErrorCode.INVALID_REQUEST, sentence)
            else:
                requested[topic.name] = _new_topic(topic)
        if quota.is_limited:  # as in Kafka only what would be made is counted
            for result in await self._create(list(requested.values()), validate_only=True):
                name = result.name or ""
                if result.error is ErrorCode.NONE and not quota.takes(result.num_partitions):
                    answers[name] = _refused(name, ErrorCode.THROTTLING_QUOTA_EXCEEDED, _THROTTLED)
                    del requested[name]
        for result in await self._create(list(requested.values()), validate_only=request.validate_only):
            assert result.name is not None
            answers[result.name] = self._created(result)
        return CreateTopicsResponse(throttle_time_ms=quota.throttle_ms, topics=[answers[name] for name in counts])

    def _quota(self, context: RequestContext) -> MutationQuota:
        return self._mutations(context, context.version >= _STRICT_SINCE[context.api_key])

    async def _create(self, topics: list[NewTopic], *, validate_only: bool) -> list[TopicResult]:
        try:
            return await self._controller.create_topics(topics, validate_only=validate_only)
        except KafkaError as error:
            return [TopicResult(name=topic.name, error=error.code, message=error.message) for topic in topics]

    def _created(self, result: TopicResult) -> CreatableTopicResult:
        if result.error is not ErrorCode.NONE:
            return _refused(result.name or "", result.error, result.message)
        return CreatableTopicResult(
            name=result.name or "",
            topic_id=result.topic_id,
            error_message=None,
            num_partitions=result.num_partitions,
            replication_factor=result.replication_factor,
            configs=[
                CreatableTopicConfigs(
                    name=entry.name,
                    value=result.configs.get(entry.name, entry.value),  # as it was given, blanks and all
                    read_only=entry.read_only,
                    config_source=entry.source,
                    is_sensitive=entry.is_sensitive,
                )
                for entry in topic_entries(result.configs, self._controller.levels)
            ],
        )

    async def handle_delete_topics(self, context: RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
        quota = self._quota(context)
        answers: list[DeletableTopicResult] = []
        asked: list[tuple[str | None, bytes]] = [(name, ZERO_UUID) for name in request.topic_names]
        asked += [(topic.name, topic.topic_id) for topic in request.topics]
        if not self._delete_topic_enable:
            old = context.version < 3
            error = ErrorCode.INVALID_REQUEST if old else ErrorCode.TOPIC_DELETION_DISABLED
            sentence = "Topic deletion is disabled."
            return DeleteTopicsResponse(responses=[_not_deleted(*topic, error, sentence) for topic in asked])
        counts = Counter(asked)
        requested: list[tuple[str, bool]] = []  # name, asked for by id
        for (name, topic_id), count in counts.items():
            refusal = _why_not_deletable(name, topic_id, count)
            if refusal is not None:
                answers.extend([refusal] * (count if name is None and topic_id == ZERO_UUID else 1))
            elif name is not None:
                requested.append((name, False))
            else:
                topic = self._image().topic_by_id(topic_id)
                if topic is None:
                    answers.append(_not_deleted(None, topic_id, ErrorCode.UNKNOWN_TOPIC_ID))
                else:
                    requested.append((topic.name, True))
        twice = {name for name, times in Counter(name for name, _ in requested).items() if times > 1}
        for name in sorted(twice):
            sentence = "The provided topic name maps to an ID that was already supplied."
            topic_id = self._image().topics[name].topic_id
            answers.append(_not_deleted(name, topic_id, ErrorCode.INVALID_REQUEST, sentence))
        names = []
        for name in (name for name, _ in requested if name not in twice):
            topic = self._image().topics.get(name)
            if topic is None or quota.takes(len(topic.partitions)):
                names.append(name)
            else:
                answers.append(_not_deleted(name, topic.topic_id, ErrorCode.THROTTLING_QUOTA_EXCEEDED, _THROTTLED))
        try:
            results = await self._controller.delete_topics(names)
        except KafkaError as error:
            results = [TopicResult(name=name, error=error.code, message=error.message) for name in names]
        for result in results:
            if result.error is ErrorCode.NONE:
                answers.append(DeletableTopicResult(name=result.name, topic_id=result.topic_id))
            else:
                answers.append(_not_deleted(result.name, ZERO_UUID, result.error, result.message))
        return DeleteTopicsResponse(throttle_time_ms=quota.throttle_ms, responses=answers)

    async def handle_create_partitions(
        self, context: RequestContext, request: CreatePartitionsRequest
    ) -> CreatePartitionsResponse:
        quota = self._quota(context)
        counts = Counter(topic.name for topic in request.topics)
        answers: dict[str, CreatePartitionsTopicResult] = {}
        for topic in request.topics:
            if counts[topic.name] > 1:
                answers[topic.name] = CreatePartitionsTopicResult(
                    name=topic.name, error_code=ErrorCode.INVALID_REQUEST, error_message="Duplicate topic name."
                )
                continue
            known = self._image().topics.get(topic.name)
            added = 0 if known is None else topic.count - len(known.partitions)
            if added > 0 and not quota.takes(added):
                answers[topic.name] = CreatePartitionsTopicResult(
                    name=topic.name, error_code=ErrorCode.THROTTLING_QUOTA_EXCEEDED, error_message=_THROTTLED
                )
                continue
            try:
                result = await self._controller.create_partitions(
                    topic.name,
                    topic.count,
                    None if topic.assignments is None else [a.broker_ids for a in topic.assignments],
                    validate_only=request.validate_only,
                )
            except KafkaError as error:
                result = TopicResult(name=topic.name, error=error.code, message=error.message)
            answers[topic.name] = CreatePartitionsTopicResult(
                name=topic.name, error_code=result.error, error_message=result.message
            )
        return CreatePartitionsResponse(throttle_time_ms=quota.throttle_ms, results=list(answers.values()))


def _new_topic(topic: CreatableTopic) -> NewTopic:
    return NewTopic(
        name=topic.name,
        num_partitions=topic.num_partitions,
        replication_factor=topic.replication_factor,
        assignments=[(a.partition_index, a.broker_ids) for a in topic.assignments],
        # A key that occurs twice: the last counts, as in Kafka.
        configs={config.name: config.value for config in topic.configs},
    )


def _refused(name: str, error: ErrorCode, message: str | None) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=error, error_message=message)


def _why_not_deletable(name: str | None, topic_id: bytes, count: int) -> DeletableTopicResult | None:
    if name is None and topic_id == ZERO_UUID:
        return _not_deleted(None, ZERO_UUID, ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
    if name is not None and topic_id != ZERO_UUID:
        sentence = "You may not specify both topic name and topic id."
        return _not_deleted(name, topic_id, ErrorCode.INVALID_REQUEST, sentence)
    if count > 1:
        sentence = "Duplicate topic id." if name is None else "Duplicate topic name."
        return _not_deleted(name, topic_id, ErrorCode.INVALID_REQUEST, sentence)
    return None


def _not_deleted(
    name: str | None, topic_id: bytes, error: ErrorCode, message: str | None = None
) -> DeletableTopicResult:
    return DeletableTopicResult(
        name=name, topic_id=topic_id, error_code=error, error_message=message or _DEFAULT_MESSAGES.get(error)
    )
