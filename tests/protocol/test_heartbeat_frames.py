"""Heartbeats by position and by the codec are one: same meaning, same bytes, for every version."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.errors import RemoteProtocolError
from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.heartbeat_frames import (
    FLEXIBLE_SINCE,
    encode_alive,
    encode_heartbeat,
    parse_consumer_heartbeat,
    parse_heartbeat,
)
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.schema import Message

TEXTS = st.sampled_from(["", "g", "member-7", "x" * 126]) | st.text("ab é", max_size=5) | st.just("x" * 127)
EPOCHS = st.integers(-(1 << 31), (1 << 31) - 1)
MUTATIONS = st.lists(st.tuples(st.integers(8, 80), st.integers(0, 255)), max_size=2)


def framed(key: ApiKey, version: int, client_id: str | None, request: Message) -> bytes:
    header = RequestHeader(request_api_key=key, request_api_version=version, correlation_id=7, client_id=client_id)
    return encode(header, request_header_version(key, version)) + encode(request, version)


def damaged(frame: bytes, cut: int, changes: list[tuple[int, int]]) -> bytes:
    made = bytearray(frame)
    for position, value in changes:
        if position < len(made):
            made[position] = value
    return bytes(made[: len(made) - min(cut, len(made))])


def is_short_ascii(*texts: str | None, shorter_than: int) -> bool:
    return all(text is None or (text.isascii() and len(text) < shorter_than) for text in texts)


def check_heartbeat(frame: bytes, version: int) -> bool:
    seen = parse_heartbeat(memoryview(frame), version)
    if seen is None:
        return False
    header, position = decode(RequestHeader, request_header_version(ApiKey.HEARTBEAT, version), frame)
    request, end = decode(HeartbeatRequest, version, frame, position)
    assert end == len(frame)
    assert seen == (
        header.client_id or "",
        request.group_id,
        request.generation_id,
        request.member_id,
        request.group_instance_id,
    )
    return True


@settings(deadline=None)
@given(
    version=st.integers(*HeartbeatRequest.VERSIONS),
    client_id=st.sampled_from([None, "", "rdkafka", "é"]),
    texts=st.tuples(TEXTS, TEXTS, st.none() | TEXTS),
    epoch=EPOCHS,
    cut=st.sampled_from([0, 0, 0, 1, 5, 30]),
    changes=st.just([]) | MUTATIONS,
)
def test_a_heartbeat_means_the_same_by_position(
    version: int,
    client_id: str | None,
    texts: tuple[str, str, str | None],
    epoch: int,
    cut: int,
    changes: list[tuple[int, int]],
) -> None:
    group_id, member_id, instance_id = texts
    instance_id = instance_id if version >= 3 else None
    request = HeartbeatRequest(
        group_id=group_id, generation_id=epoch, member_id=member_id, group_instance_id=instance_id
    )
    frame = framed(ApiKey.HEARTBEAT, version, client_id, request)
    limit = 127 if version >= FLEXIBLE_SINCE else 1 << 15
    is_read = check_heartbeat(frame, version)
    assert is_read == (is_short_ascii(*texts[:2], instance_id, shorter_than=limit) and client_id != "é")
    try:
        check_heartbeat(damaged(frame, cut, changes), version)
    except RemoteProtocolError as error:
        raise AssertionError("read by position, refused by the codec") from error


@given(version=st.integers(*HeartbeatRequest.VERSIONS), code=st.integers(-1, 120))
def test_answers_to_heartbeats_are_the_codecs_bytes(version: int, code: int) -> None:
    assert encode_heartbeat(version, code) == encode(HeartbeatResponse(error_code=code), version)


def check_consumer_heartbeat(frame: bytes, version: int) -> bool:
    seen = parse_consumer_heartbeat(memoryview(frame), version)
    if seen is None:
        return False
    key = ApiKey.CONSUMER_GROUP_HEARTBEAT
    header, position = decode(RequestHeader, request_header_version(key, version), frame)
    request, end = decode(ConsumerGroupHeartbeatRequest, version, frame, position)
    assert end == len(frame)
    assert seen == (
        header.client_id or "",
        request.group_id,
        request.member_epoch,
        request.member_id,
        request.instance_id,
    )
    assert request.rack_id is request.server_assignor is request.subscribed_topic_regex is None
    assert request.subscribed_topic_names is request.topic_partitions is None
    assert request.rebalance_timeout_ms == -1
    return True


NEWS = st.sampled_from(
    [
        {},
        {},
        {},
        {"rack_id": "r"},
        {"rebalance_timeout_ms": 5},
        {"subscribed_topic_names": []},
        {"server_assignor": "uniform"},
        {"topic_partitions": []},
        {"topic_partitions": [TopicPartitions(topic_id=b"i" * 16, partitions=[1])]},
    ]
)


@settings(deadline=None)
@given(
    version=st.integers(*ConsumerGroupHeartbeatRequest.VERSIONS),
    client_id=st.sampled_from([None, "", "rdkafka", "é"]),
    texts=st.tuples(TEXTS, TEXTS, st.none() | TEXTS),
    epoch=EPOCHS,
    news=NEWS,
    cut=st.sampled_from([0, 0, 0, 1, 5, 30]),
    changes=st.just([]) | MUTATIONS,
)
def test_a_consumers_heartbeat_means_the_same_by_position(
    version: int,
    client_id: str | None,
    texts: tuple[str, str, str | None],
    epoch: int,
    news: dict[str, object],
    cut: int,
    changes: list[tuple[int, int]],
) -> None:
    group_id, member_id, instance_id = texts
    request = ConsumerGroupHeartbeatRequest(
        group_id=group_id,
        member_id=member_id,
        member_epoch=epoch,
        instance_id=instance_id,
        **news,  # type: ignore[arg-type]
    )
    frame = framed(ApiKey.CONSUMER_GROUP_HEARTBEAT, version, client_id, request)
    is_read = check_consumer_heartbeat(frame, version)
    assert is_read == (not news and is_short_ascii(*texts, shorter_than=127) and client_id != "é")
    try:
        check_consumer_heartbeat(damaged(frame, cut, changes), version)
    except RemoteProtocolError as error:
        raise AssertionError("read by position, refused by the codec") from error


@given(
    version=st.integers(*ConsumerGroupHeartbeatRequest.VERSIONS),
    member_id=st.text("ab-_", max_size=126),
    epoch=EPOCHS,
    interval_ms=EPOCHS,
)
def test_answers_to_consumers_heartbeats_are_the_codecs_bytes(
    version: int, member_id: str, epoch: int, interval_ms: int
) -> None:
    response = ConsumerGroupHeartbeatResponse(
        member_id=member_id, member_epoch=epoch, heartbeat_interval_ms=interval_ms
    )
    assert encode_alive(member_id, epoch, interval_ms) == encode(response, version)
