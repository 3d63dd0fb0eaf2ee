"""ShareFetch (key 78, versions 1-2) and ShareAcknowledge (key 79, versions 1-2).

v1: max records and batch size (KIP-932 as released). v2: acquire mode (KIP-1206), renewed locks (KIP-1222), the lock's
duration in the answer of ShareAcknowledge. A request that renews locks fetches nothing.

As in Kafka membership is not checked: a request that names a group and a member id has a session. What is acknowledged with a
fetch is decided before anything is fetched, and its outcome stands beside the partition.

Where we differ from Apache Kafka: a member over its quota gets what was acquired for it, and is held back afterwards. Kafka
empties the answer, and the records wait until their locks run out.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ottla.broker.context import Route
from ottla.broker.quotas.client_quotas import ClientQuotas
from ottla.broker.quotas.reading import ReadQuota
from ottla.broker.share.fetch import Limits, ShareFetch, refusal
from ottla.broker.share.sessions import FINAL_EPOCH, INITIAL_EPOCH, next_epoch
from ottla.broker.share.share_partition import RENEW, Acknowledgement, AcquireRequest
from ottla.cluster.decisions.features import SHARE_VERSION
from ottla.errors import (
    ErrorCode,
    InvalidRequestError,
    KafkaError,
    ShareSessionLimitReachedError,
    TopicAuthorizationFailedError,
    UnknownServerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import share_acknowledge, share_fetch
from ottla.protocol.messages.share_acknowledge import ShareAcknowledgeRequest, ShareAcknowledgeResponse
from ottla.protocol.messages.share_fetch import ShareFetchRequest, ShareFetchResponse
from ottla.types import TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.handlers.leader_hints import LeaderHints
    from ottla.broker.share.manager import SharePartitionManager
    from ottla.broker.share.sessions import ShareSession
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage
    from ottla.observability.metrics import BrokerMetrics
    from ottla.offload import Offload

_RENEWING: Final = 2
_MEMBER_ID_MAX: Final = 36
#: share_acquire_mode: whole batches, or exactly as many records as asked for.
_BATCH_OPTIMIZED, _RECORD_LIMIT = 0, 1

#: What went wrong with the acknowledgements of each partition, None where nothing did.
Outcomes = dict[TopicIdPartition, KafkaError | None]


class ShareFetchHandler:
    """Delivers records to members of share groups, and takes their acknowledgements."""

    def __init__(
        self,
        manager: SharePartitionManager,
        metrics: BrokerMetrics,
        *,
        image: Callable[[], ClusterImage],
        leaders: LeaderHints,
        fetch_max_bytes: int,
        offload: Offload,
        clock: Clock,
        quota: ReadQuota | None = None,
        may_read: Callable[[Session, str], bool] | None = None,
    ) -> None:
        self._may_read = may_read
        self._quota = quota or ReadQuota(ClientQuotas(), lambda: 0.0)
        self._manager = manager
        self._metrics = metrics
        self._image = image
        self._leaders = leaders
        self._fetch_max_bytes = fetch_max_bytes
        self._offload = offload
        self._clock = clock

    def routes(self) -> Routes:
        return {
            ApiKey.SHARE_FETCH: Route(self.handle_share_fetch, ends_with_connection=True),
            ApiKey.SHARE_ACKNOWLEDGE: Route(self.handle_share_acknowledge),
        }

    # ------------------------------------------------------------------ fetch

    async def handle_share_fetch(self, context: RequestContext, request: ShareFetchRequest) -> ShareFetchResponse:
        try:
            self._check_enabled()
            return await self._fetch(context, request)
        except ShareSessionLimitReachedError as error:
            # A client that asks again at once gets the same answer: as in Kafka it waits as if there were nothing to fetch.
            await asyncio.sleep(max(request.max_wait_ms, 0) / 1000)
            return ShareFetchResponse(error_code=error.code)
        except KafkaError as error:
            return ShareFetchResponse(error_code=error.code)

    def _check_enabled(self) -> None:
        if self._image().features[SHARE_VERSION] == 0:
            raise UnsupportedVersionError()

    async def _fetch(self, context: RequestContext, request: ShareFetchRequest) -> ShareFetchResponse:
        group_id, member_id = _identity(request.group_id, request.member_id)
        is_renewal = context.version >= _RENEWING and request.is_renew_ack
        if is_renewal and (request.max_bytes or request.min_bytes or request.max_records or request.max_wait_ms):
            raise InvalidRequestError()
        acknowledgements = {
            TopicIdPartition(topic.topic_id, p.partition_index): _acknowledgements(p.acknowledgement_batches)
            for topic in request.topics
            for p in topic.partitions
        }
        has_acks = any(acknowledgements.values())
        session = self._session(context, request, (group_id, member_id), acknowledgements, has_acks)
        acks: asyncio.Task[Outcomes] | None = None
        if has_acks:
            # A client that goes away takes no acknowledgement back.
            acks = self._manager.spawn(self._acknowledge(context, group_id, member_id, acknowledgements, is_renewal))
            await asyncio.sleep(0)  # decided before anything is fetched
        answers: dict[TopicIdPartition, share_fetch.PartitionData] = {}
        if session is not None and not is_renewal:
            answers = await self._deliver(context, request, session, group_id, member_id)
        if session is not None and session.epoch != next_epoch(max(request.share_session_epoch, 0)):
            return ShareFetchResponse(error_code=ErrorCode.INVALID_SHARE_SESSION_EPOCH)
        outcomes = {} if acks is None else await asyncio.shield(acks)
        if request.share_session_epoch == FINAL_EPOCH:
            self._manager.release_session((group_id, member_id))
        elif session is not None and request.share_session_epoch != INITIAL_EPOCH:
            answers = _news(session, answers)
        response = self._response(context, group_id, answers, outcomes)
        if self._quota.in_force:
            bucket = self._quota.bucket_of(context)
            if bucket is not None:
                sizes = [len(data.records) for data in answers.values() if data.records]
                response.throttle_time_ms = self._quota.count(bucket, sizes)
        return response

    def _session(
        self,
        context: RequestContext,
        request: ShareFetchRequest,
        key: tuple[str, str],
        wanted: Mapping[TopicIdPartition, Any],
        has_acks: bool,
    ) -> ShareSession | None:
        """Return the session a request belongs to; None if it is the last one, which fetches nothing."""
        sessions = self._manager.sessions
        if request.share_session_epoch == FINAL_EPOCH:
            sessions.check_exists(key, context.session)
            return None
        if request.share_session_epoch == INITIAL_EPOCH:
            session = sessions.open(key, list(wanted), has_acks=has_acks, connection=context.session)
            self._manager.bind(session)
            return session
        forgotten = (
            TopicIdPartition(topic.topic_id, index)
            for topic in request.forgotten_topics_data
            for index in topic.partitions
        )
        return sessions.go_on(key, request.share_session_epoch, wanted, forgotten, connection=context.session)

    async def _deliver(
        self,
        context: RequestContext,
        request: ShareFetchRequest,
        session: ShareSession,
        group_id: str,
        member_id: str,
    ) -> dict[TopicIdPartition, share_fetch.PartitionData]:
        if request.share_acquire_mode not in (_BATCH_OPTIMIZED, _RECORD_LIMIT):
            raise UnknownServerError()
        image = self._image()
        answers: dict[TopicIdPartition, share_fetch.PartitionData] = {}
        topic_id_partitions: list[TopicIdPartition] = []
        for topic_id_partition in session.partitions:
            topic = image.topic_by_id(topic_id_partition.topic_id)
            if topic is None:
                answers[topic_id_partition] = refusal(topic_id_partition, ErrorCode.UNKNOWN_TOPIC_ID)
            elif self._may_read is not None and not self._may_read(context.session, topic.name):
                # It stays in the session: when the client may read it again, it is delivered again.
                answers[topic_id_partition] = refusal(topic_id_partition, ErrorCode.TOPIC_AUTHORIZATION_FAILED)
            elif not 0 <= topic_id_partition.partition < len(topic.partitions):
                answers[topic_id_partition] = refusal(topic_id_partition, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            else:
                topic_id_partitions.append(topic_id_partition)
        if topic_id_partitions:
            # Each session begins with another partition, and each of its requests with the next one.
            turn = max(request.share_session_epoch, 0) % len(topic_id_partitions)
            bytes_max = max(min(request.max_bytes, self._fetch_max_bytes), 0)
            fetch = ShareFetch(
                self._manager,
                group_id,
                AcquireRequest(
                    member_id, request.max_records, request.batch_size, request.share_acquire_mode == _RECORD_LIMIT
                ),
                Limits(min(request.min_bytes, bytes_max), bytes_max, request.max_wait_ms),
                [*topic_id_partitions[turn:], *topic_id_partitions[:turn]],
                offload=self._offload,
                clock=self._clock,
                may_read=None if self._may_read is None else partial(self._may_still_read, context.session),
            )
            answers = {**await fetch.run(), **answers}
        for topic_id_partition, data in answers.items():
            if data.records:
                self._metrics.topic(image.topic_names.get(topic_id_partition.topic_id, "")).bytes_out += len(
                    data.records
                )
        return answers

    def _may_still_read(self, asking: Session, topic_id: bytes) -> bool:
        """Say for a fetch that waits whether its client may read a topic now."""
        assert self._may_read is not None
        name = self._image().topic_names.get(topic_id)
        return name is None or self._may_read(asking, name)

    def _response(
        self,
        context: RequestContext,
        group_id: str,
        answers: dict[TopicIdPartition, share_fetch.PartitionData],
        outcomes: Outcomes,
    ) -> ShareFetchResponse:
        response = ShareFetchResponse(
            acquisition_lock_timeout_ms=self._manager.config_of(group_id).record_lock_duration_ms
        )
        for topic_id_partition, error in outcomes.items():
            data = answers.get(topic_id_partition)
            if data is None:
                data = answers[topic_id_partition] = share_fetch.PartitionData(
                    partition_index=topic_id_partition.partition, records=b""
                )
            if error is not None:
                data.acknowledge_error_code = error.code
                data.acknowledge_error_message = error.message
        topics: dict[bytes, share_fetch.ShareFetchableTopicResponse] = {}
        for topic_id_partition, data in answers.items():
            topic = topics.get(topic_id_partition.topic_id)
            if topic is None:
                topic = topics[topic_id_partition.topic_id] = share_fetch.ShareFetchableTopicResponse(
                    topic_id=topic_id_partition.topic_id
                )
                response.responses.append(topic)
            topic.partitions.append(data)
        response.node_endpoints = self._leaders.fill(
            context.session,
            _parts_of(response.responses),
            share_fetch.LeaderIdAndEpoch,
            share_fetch.NodeEndpoint,
        )
        return response

    # ------------------------------------------------------------ acknowledge

    async def handle_share_acknowledge(
        self, context: RequestContext, request: ShareAcknowledgeRequest
    ) -> ShareAcknowledgeResponse:
        try:
            self._check_enabled()
            group_id, member_id = _identity(request.group_id, request.member_id)
            self._manager.sessions.acknowledge(
                (group_id, member_id), request.share_session_epoch, connection=context.session
            )
        except KafkaError as error:
            return ShareAcknowledgeResponse(error_code=error.code)
        acknowledgements = {
            TopicIdPartition(topic.topic_id, p.partition_index): _acknowledgements(p.acknowledgement_batches)
            for topic in request.topics
            for p in topic.partitions
        }
        is_renewal = context.version >= _RENEWING and request.is_renew_ack
        outcomes = await self._acknowledge(context, group_id, member_id, acknowledgements, is_renewal)
        if request.share_session_epoch == FINAL_EPOCH:
            self._manager.release_session((group_id, member_id))
        response = ShareAcknowledgeResponse(
            acquisition_lock_timeout_ms=self._manager.config_of(group_id).record_lock_duration_ms
        )
        topics: dict[bytes, share_acknowledge.ShareAcknowledgeTopicResponse] = {}
        for topic_id_partition, problem in outcomes.items():
            topic = topics.get(topic_id_partition.topic_id)
            if topic is None:
                topic = topics[topic_id_partition.topic_id] = share_acknowledge.ShareAcknowledgeTopicResponse(
                    topic_id=topic_id_partition.topic_id
                )
                response.responses.append(topic)
            row = share_acknowledge.PartitionData(partition_index=topic_id_partition.partition)
            if problem is not None:
                row.error_code, row.error_message = problem.code, problem.message
            topic.partitions.append(row)
        response.node_endpoints = self._leaders.fill(
            context.session,
            _parts_of(response.responses),
            share_acknowledge.LeaderIdAndEpoch,
            share_acknowledge.NodeEndpoint,
        )
        return response

    async def _acknowledge(
        self,
        context: RequestContext,
        group_id: str,
        member_id: str,
        wanted: Mapping[TopicIdPartition, Sequence[Acknowledgement]],
        is_renewal: bool,
    ) -> Outcomes:
        outcomes: Outcomes = {}
        accepted: dict[TopicIdPartition, Sequence[Acknowledgement]] = {}
        image = self._image()
        version = context.version
        for topic_id_partition, acknowledgements in wanted.items():
            topic = image.topic_by_id(topic_id_partition.topic_id)
            if topic is None:
                outcomes[topic_id_partition] = UnknownTopicIdError()
            elif acknowledgements and self._may_read is not None and not self._may_read(context.session, topic.name):
                outcomes[topic_id_partition] = TopicAuthorizationFailedError()
            elif not _is_valid(acknowledgements, RENEW if version >= _RENEWING else RENEW - 1, is_renewal):
                outcomes[topic_id_partition] = InvalidRequestError()
            elif not 0 <= topic_id_partition.partition < len(topic.partitions):
                outcomes[topic_id_partition] = UnknownTopicOrPartitionError()
            elif acknowledgements:
                accepted[topic_id_partition] = acknowledgements
        if accepted:
            # Kafka answers about partitions without acknowledgements only beside others.
            outcomes.update(
                {
                    topic_id_partition: None
                    for topic_id_partition in wanted
                    if topic_id_partition not in outcomes and topic_id_partition not in accepted
                }
            )
            outcomes.update(await self._manager.acknowledge(group_id, member_id, accepted))
        return outcomes


def _parts_of(topics: Iterable[Any]) -> Iterator[tuple[str, bytes, int, Any]]:
    """The partitions of an answer, as `LeaderHints` takes them."""
    return (("", topic.topic_id, part.partition_index, part) for topic in topics for part in topic.partitions)


def _identity(group_id: str | None, member_id: str | None) -> tuple[str, str]:
    if group_id is None or not member_id or len(member_id) > _MEMBER_ID_MAX:
        raise InvalidRequestError()
    return group_id, member_id


def _acknowledgements(batches: Iterable[Any]) -> list[Acknowledgement]:
    return [Acknowledgement(batch.first_offset, batch.last_offset, batch.acknowledge_types) for batch in batches]


def _is_valid(acknowledgements: Sequence[Acknowledgement], kind_max: int, is_renewal: bool) -> bool:
    """Whether the batches are in order and each has one type, or one for each of its offsets."""
    end = -1
    for first, last, types in acknowledgements:
        if first > last or first < end or not types:
            return False
        if len(types) > 1 and last - first != len(types) - 1:
            return False
        if min(types) < 0 or max(types) > kind_max or (RENEW in types and not is_renewal):
            return False
        end = last
    return True


def _news(
    session: ShareSession, answers: dict[TopicIdPartition, share_fetch.PartitionData]
) -> dict[TopicIdPartition, share_fetch.PartitionData]:
    """Return the answer to a later request of a session: records, errors, and once each partition added or recovered."""
    news: dict[TopicIdPartition, share_fetch.PartitionData] = {}
    for topic_id_partition, data in answers.items():
        is_due = session.partitions.get(topic_id_partition, False)
        if data.records or data.error_code or is_due:
            news[topic_id_partition] = data
        if topic_id_partition in session.partitions:
            if data.records:
                del session.partitions[topic_id_partition]
            session.partitions[topic_id_partition] = bool(data.error_code)
    return news
