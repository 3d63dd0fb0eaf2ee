"""What a Fetch is answered with, once it is known what each partition gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.replicas.fetch_sessions import FetchContext, FetchPartition
from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchResponse,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionData,
)
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from ottla.broker.context import Session
    from ottla.broker.handlers.leader_hints import LeaderHints

TOPIC_IDS_SINCE = 13
LEADERS_SINCE = 16


def refuse_whole(asked: FetchContext, version: int, code: ErrorCode) -> FetchResponse:
    """One error for everything: up to v12 also for every partition, from v13 on (topic ids) only at the top."""
    answers: list[tuple[FetchPartition, PartitionData]] = []
    if version < TOPIC_IDS_SINCE:
        for want in asked.partitions:
            data = PartitionData(partition_index=want.partition, error_code=code, high_watermark=-1, records=b"")
            answers.append((want, data))
    response = shape(FetchContext(ErrorCode.NONE, asked.partitions), answers)
    response.error_code = code
    return response


def shape(asked: FetchContext, answers: list[tuple[FetchPartition, PartitionData]]) -> FetchResponse:
    """Put the partitions under their topics, in a session only what is new, and name leaders where that was asked for."""
    response = FetchResponse(session_id=asked.session_id, throttle_time_ms=asked.throttle_ms)
    topics: dict[tuple[str, bytes], FetchableTopicResponse] = {}
    for want, data in asked.shape(answers):
        key = (want.topic if want.topic_id == ZERO_UUID else "", want.topic_id)
        topic = topics.get(key)
        if topic is None:
            topic = topics[key] = FetchableTopicResponse(topic=want.topic, topic_id=want.topic_id)
            response.responses.append(topic)
        topic.partitions.append(data)
    if asked.name_leaders is not None and any(data.error_code for _, data in answers):
        asked.name_leaders(response)
    return response


def name_leaders(leaders: LeaderHints, client: Session, is_follower: bool, response: FetchResponse) -> None:
    """Name the leaders; a follower knows the brokers, and as from Kafka gets no addresses."""
    nodes = leaders.fill(
        client,
        (
            (topic.topic, topic.topic_id, part.partition_index, part)
            for topic in response.responses
            for part in topic.partitions
        ),
        LeaderIdAndEpoch,
        NodeEndpoint,
    )
    if not is_follower:
        response.node_endpoints = nodes
