"""Metadata (key 3, versions 0-13): which topics there are, and where.

v0: an empty list means all topics; from v1 on null does and an empty list means none. v4: auto-creation only if the client
allows it. v5: offline replicas. v7: leader epochs. v8-10: authorized operations of the cluster; v8+: of topics.
v10: topic ids. v12: lookup by id. v13: a top-level error (KIP-1242).

Where we differ from Apache Kafka: a topic that this request creates is answered with its partitions at once, where Kafka
answers UNKNOWN_TOPIC_OR_PARTITION and lets the client ask again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from ottla.types import INTERNAL_TOPICS, ZERO_UUID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.handlers.addresses import Addresses
    from ottla.cluster.image import ClusterImage, TopicImage

#: Bit fields of the operations an unguarded resource allows: bit n is ACL operation n (KIP-430).
TOPIC_OPERATIONS = sum(1 << operation for operation in (3, 4, 5, 6, 7, 8, 10, 11))
CLUSTER_OPERATIONS = sum(1 << operation for operation in (5, 7, 8, 9, 10, 11, 12))

#: The first version in which a topic can be asked for by id.
LOOKUP_BY_ID = 12


#: Encoded answers kept until the image changes: every client of an application asks for the same topics.
KEPT_MAX = 32


class MetadataHandler:
    """Answers from the image of the moment; creates topics on demand."""

    def __init__(
        self,
        image: Callable[[], ClusterImage],
        addresses: Addresses,
        *,
        auto_create: bool,
        create_topic: Callable[[str], Awaitable[ErrorCode]],
        check_name: Callable[[str], str | None],
    ) -> None:
        self._image = image
        self._addresses = addresses
        self._auto_create = auto_create
        self._create_topic = create_topic
        self._check_name = check_name
        self._kept_of: ClusterImage | None = None
        self._kept: dict[object, bytes] = {}

    def routes(self) -> Routes:
        return {ApiKey.METADATA: Route(self.handle_metadata)}

    def handle_metadata(
        self, context: RequestContext, request: MetadataRequest
    ) -> MetadataResponse | bytes | Awaitable[MetadataResponse]:
        """Answer, encoded where it can be kept: what an image says of the same topics at the same address is the same."""
        image = self._image()
        if image is not self._kept_of:
            self._kept_of = image
            self._kept = {}
        key = (
            context.version,
            None if request.topics is None else tuple((t.name, t.topic_id) for t in request.topics),
            request.include_cluster_authorized_operations,
            request.include_topic_authorized_operations,
            tuple(self._addresses.of_brokers(context)),
        )
        body = self._kept.get(key)
        if body is not None:
            return body
        answer = self._describe_topics(context, request)
        if isinstance(answer, MetadataResponse):
            if (
                len(self._kept) >= KEPT_MAX
            ):  # those who ask for other topics each time push out each other, and one of us
                del self._kept[next(iter(self._kept))]
            body = self._kept[key] = encode(answer, context.version)
            return body
        return answer

    def _describe_topics(
        self, context: RequestContext, request: MetadataRequest
    ) -> MetadataResponse | Awaitable[MetadataResponse]:
        version = context.version
        topics = request.topics
        if version < LOOKUP_BY_ID and any(t.name is None or t.topic_id != ZERO_UUID for t in topics or ()):
            return MetadataResponse(
                topics=[
                    MetadataResponseTopic(error_code=ErrorCode.INVALID_REQUEST, name=t.name or "", topic_id=t.topic_id)
                    for t in topics or ()
                ],
                error_code=ErrorCode.INVALID_REQUEST,
            )
        described: list[MetadataResponseTopic]
        if topics is None or (version == 0 and not topics):
            described = [self._describe(t, request) for t in self._image().topics.values()]
        elif any(t.topic_id != ZERO_UUID for t in topics):
            described = [self._by_id(t.topic_id, request) for t in topics if t.topic_id != ZERO_UUID]
        else:
            names = dict.fromkeys(t.name for t in topics if t.name is not None)
            known = self._image().topics
            if any(name not in known for name in names):
                return self._describe_named(context, request, names)
            described = [self._describe(known[name], request) for name in names]
        return self._answer(context, request, described)

    async def _describe_named(
        self, context: RequestContext, request: MetadataRequest, names: Iterable[str]
    ) -> MetadataResponse:
        """Some of the topics are not there: they may have to be made."""
        return self._answer(context, request, [await self._by_name(name, request) for name in names])

    def _answer(
        self, context: RequestContext, request: MetadataRequest, described: list[MetadataResponseTopic]
    ) -> MetadataResponse:
        listed = self._addresses.of_brokers(context)
        response = MetadataResponse(
            brokers=[
                MetadataResponseBroker(node_id=node_id, host=host, port=port, rack=rack)
                for node_id, host, port, rack in listed
            ],
            cluster_id=self._image().cluster_id,
            controller_id=self._addresses.controller(listed),
            topics=described,
        )
        if request.include_cluster_authorized_operations:
            response.cluster_authorized_operations = CLUSTER_OPERATIONS
        return response

    async def _by_name(self, name: str, request: MetadataRequest) -> MetadataResponseTopic:
        topic = self._image().topics.get(name)
        if topic is not None:
            return self._describe(topic, request)
        error = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if self._check_name(name) is not None:
            error = ErrorCode.INVALID_TOPIC_EXCEPTION
        elif request.allow_auto_topic_creation and self._auto_create:
            error = await self._create_topic(name)
            topic = self._image().topics.get(name)
            if topic is not None:
                return self._describe(topic, request)
            error = error or ErrorCode.LEADER_NOT_AVAILABLE
        return MetadataResponseTopic(error_code=error, name=name, is_internal=name in INTERNAL_TOPICS)

    def _by_id(self, topic_id: bytes, request: MetadataRequest) -> MetadataResponseTopic:
        topic = self._image().topic_by_id(topic_id)
        if topic is None:
            return MetadataResponseTopic(error_code=ErrorCode.UNKNOWN_TOPIC_ID, name=None, topic_id=topic_id)
        return self._describe(topic, request)

    def _describe(self, topic: TopicImage, request: MetadataRequest) -> MetadataResponseTopic:
        live = self._image().brokers
        answer = MetadataResponseTopic(
            name=topic.name,
            topic_id=topic.topic_id,
            is_internal=topic.is_internal,
            partitions=[
                MetadataResponsePartition(
                    error_code=ErrorCode.NONE if p.leader in live else ErrorCode.LEADER_NOT_AVAILABLE,
                    partition_index=index,
                    leader_id=p.leader,
                    leader_epoch=p.leader_epoch,
                    replica_nodes=list(p.replicas),
                    isr_nodes=list(p.isr),
                    offline_replicas=[r for r in p.replicas if r not in live],
                )
                for index, p in enumerate(topic.partitions)
            ],
        )
        if request.include_topic_authorized_operations:
            answer.topic_authorized_operations = TOPIC_OPERATIONS
        return answer
