"""An OffsetCommit by position and by the codec are one: same meaning, same bytes, for every version."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.test_heartbeat_frames import EPOCHS, MUTATIONS, TEXTS, damaged, framed, is_short_ascii

from ottla.errors import RemoteProtocolError
from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.commit_frames import FLEXIBLE_SINCE, INSTANCE_SINCE, TOPIC_IDS_SINCE, parse
from ottla.protocol.commit_frames import encode as encode_answer
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from ottla.types import ZERO_UUID

PARTITIONS = st.lists(
    st.builds(
        OffsetCommitRequestPartition,
        partition_index=EPOCHS,
        committed_offset=st.integers(-(1 << 63), (1 << 63) - 1),
        committed_leader_epoch=EPOCHS,
        committed_metadata=st.none() | TEXTS,
    ),
    max_size=3,
)
TOPICS = st.lists(
    st.builds(
        OffsetCommitRequestTopic, name=TEXTS, topic_id=st.binary(min_size=16, max_size=16), partitions=PARTITIONS
    ),
    max_size=3,
)
VERSIONS = st.integers(*OffsetCommitRequest.VERSIONS)


def fitted(version: int, topics: list[OffsetCommitRequestTopic]) -> list[OffsetCommitRequestTopic]:
    """Leave out what the version has no place for."""
    for topic in topics:
        if version >= TOPIC_IDS_SINCE:
            topic.name = ""
        else:
            topic.topic_id = ZERO_UUID
        for partition in topic.partitions:
            if version < 6:
                partition.committed_leader_epoch = -1
    return topics


def check(frame: bytes, version: int) -> bool:
    """Return whether the frame is read by position; what is read is what the codec reads, and so is an answer."""
    seen = parse(memoryview(frame), version)
    if seen is None:
        return False
    _, position = decode(RequestHeader, request_header_version(ApiKey.OFFSET_COMMIT, version), frame)
    request, end = decode(OffsetCommitRequest, version, frame, position)
    assert end == len(frame)
    assert seen[:5] == (
        request.group_id,
        request.generation_id_or_member_epoch,
        request.member_id,
        request.group_instance_id,
        request.retention_time_ms,
    )
    assert [(topic.name, topic.topic_id or ZERO_UUID, topic.partitions) for topic in seen.topics] == [
        (
            topic.name,
            topic.topic_id,
            [
                (each.partition_index, each.committed_offset, each.committed_leader_epoch, each.committed_metadata)
                for each in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    codes = iter(range(-1, 100))
    response = OffsetCommitResponse(
        topics=[
            OffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    OffsetCommitResponsePartition(partition_index=each.partition_index, error_code=next(codes))
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )
    assert encode_answer(version, seen.topics, iter(range(-1, 100))) == encode(response, version)
    return True


@settings(deadline=None)
@given(
    version=VERSIONS,
    client_id=st.sampled_from([None, "", "rdkafka", "é"]),
    texts=st.tuples(TEXTS, TEXTS, st.none() | TEXTS),
    epoch=EPOCHS,
    retention_ms=st.sampled_from([-1, 0, 1 << 40]),
    topics=TOPICS,
    cut=st.sampled_from([0, 0, 0, 1, 5, 30]),
    changes=st.just([]) | MUTATIONS,
)
def test_a_commit_means_the_same_by_position(
    version: int,
    client_id: str | None,
    texts: tuple[str, str, str | None],
    epoch: int,
    retention_ms: int,
    topics: list[OffsetCommitRequestTopic],
    cut: int,
    changes: list[tuple[int, int]],
) -> None:
    group_id, member_id, instance_id = texts
    instance_id = instance_id if version >= INSTANCE_SINCE else None
    topics = fitted(version, topics)
    request = OffsetCommitRequest(
        group_id=group_id,
        generation_id_or_member_epoch=epoch,
        member_id=member_id,
        group_instance_id=instance_id,
        retention_time_ms=retention_ms if version < 5 else -1,
        topics=topics,
    )
    frame = framed(ApiKey.OFFSET_COMMIT, version, client_id, request)
    every = [topic.name for topic in topics] + [
        each.committed_metadata for topic in topics for each in topic.partitions
    ]
    limit = 127 if version >= FLEXIBLE_SINCE else 1 << 15
    is_read = check(frame, version)
    if is_read or all(
        topic.partitions for topic in topics
    ):  # topics without partitions may be too many for their frame
        assert is_read == (is_short_ascii(*texts[:2], instance_id, *every, shorter_than=limit) and client_id != "é")
    try:
        check(damaged(frame, cut, changes), version)
    except RemoteProtocolError as error:
        raise AssertionError("read by position, refused by the codec") from error


def test_a_commit_that_claims_more_partitions_than_it_has_bytes_is_left_to_the_codec() -> None:
    request = OffsetCommitRequest(group_id="g", topics=[OffsetCommitRequestTopic(name="t")])
    frame = framed(ApiKey.OFFSET_COMMIT, 2, "c", request)
    assert frame.endswith(b"\0\0\0\0")
    assert parse(memoryview(frame), 2) is not None
    assert parse(memoryview(frame[:-4] + b"\x7f\xff\xff\xff"), 2) is None
