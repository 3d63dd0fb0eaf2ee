"""Fetches of consumers by position and by the codec are one: same meaning, same bytes, plain and compiled."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extensions import compiled_kernel

from ottla.errors import RemoteProtocolError
from ottla.protocol import consumer_fetch_frames
from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.consumer_fetch_frames import (
    FIRST_VERSION,
    ConsumerFetch,
    FetchedPartition,
    encode_answer,
    parse,
)
from ottla.protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ForgottenTopic,
    PartitionData,
    ReplicaState,
)
from ottla.protocol.messages.headers import RequestHeader

VERSIONS = st.integers(11, FetchRequest.VERSIONS[1])
INT32, INT64 = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
TOPIC_ID = st.binary(min_size=16, max_size=16)
#: The last one: how many bytes of records.
ROW = st.tuples(TOPIC_ID, INT32, INT64, INT64, INT64, st.sampled_from([0, 1, 70, 126, 127, 16_382, 16_383, 17_000]))
Row = tuple[bytes, int, int, int, int, int]


def records_of(size: int) -> bytes:
    return (b"0123456789" * (size // 10 + 1))[:size]


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, int]:
    """Whole requests with the header, most of them ordinary; half are about at most one partition."""
    version = draw(VERSIONS)
    usual = draw(st.integers(0, 3))  # 0: anything may be unusual
    counts = draw(st.lists(st.integers(0, 3), max_size=3) | st.sampled_from([[], [1], [1], [1], [130]]))
    topics = [
        FetchTopic(
            topic="" if version >= FIRST_VERSION else "orders",
            topic_id=draw(TOPIC_ID) if version >= FIRST_VERSION else bytes(16),
            partitions=[
                FetchPartition(
                    partition=draw(INT32) if count < 100 else number,
                    current_leader_epoch=draw(st.sampled_from([-1, 0, 7])),
                    fetch_offset=draw(INT64) if count < 100 else number,
                    last_fetched_epoch=draw(st.sampled_from([-1, -1, 3])) if version >= 12 else -1,
                    log_start_offset=draw(st.sampled_from([-1, 5])),
                    partition_max_bytes=draw(st.sampled_from([0, 1 << 20])),
                )
                for number in range(count)
            ],
        )
        for count in counts
    ]
    request = FetchRequest(
        max_wait_ms=draw(INT32),
        min_bytes=draw(INT32),
        max_bytes=draw(INT32),
        isolation_level=draw(st.sampled_from([0, 1] if usual else [0, 1, 2, -1])),
        session_id=draw(st.sampled_from([0, 1, 1 << 30])),
        session_epoch=draw(st.sampled_from([-1, 0, 1, 1 << 30])),
        topics=topics,
        rack_id=draw(st.sampled_from(["", "", "", "a", "r" * 126] if usual else ["é", "r" * 127, "r" * 200])),
    )
    if not usual and draw(st.booleans()):
        request.forgotten_topics_data = [ForgottenTopic(topic="orders", partitions=[1])]
        if version >= FIRST_VERSION:
            request.forgotten_topics_data = [ForgottenTopic(topic_id=b"i" * 16, partitions=[1])]
    if not usual and draw(st.booleans()):
        if version < 15:
            request.replica_id = 3
        else:
            request.replica_state = ReplicaState(replica_id=3, replica_epoch=9)
    client_id = draw(st.sampled_from([None, "", "rdkafka"] if usual else ["é", "c" * 300]))
    header = RequestHeader(
        request_api_key=ApiKey.FETCH, request_api_version=version, correlation_id=7, client_id=client_id
    )
    frame = encode(header, request_header_version(ApiKey.FETCH, version)) + encode(request, version)
    return frame + draw(st.sampled_from([b""] if usual else [b"", b"\0\0\0"])), version


def check(frame: bytes, version: int) -> ConsumerFetch | None:
    """Return what is read by position, if anything is, and compare it with what the codec reads."""
    seen = parse(memoryview(frame), version)
    if seen is None:
        return None
    _, position = decode(RequestHeader, request_header_version(ApiKey.FETCH, version), frame)
    request, _ = decode(FetchRequest, version, frame, position)
    assert version >= FIRST_VERSION
    assert request.replica_id == request.replica_state.replica_id == -1
    assert request.cluster_id is None
    assert not request.forgotten_topics_data
    assert request.isolation_level in (0, 1)
    assert seen[:6] == (
        request.max_wait_ms,
        request.min_bytes,
        request.max_bytes,
        request.isolation_level,
        request.session_id,
        request.session_epoch,
    )
    assert seen.has_rack == (request.rack_id != "")
    assert [row[:7] for row in seen.partitions] == [
        (
            topic.topic_id,
            part.partition,
            part.current_leader_epoch,
            part.fetch_offset,
            part.last_fetched_epoch,
            part.log_start_offset,
            part.partition_max_bytes,
        )
        for topic in request.topics
        for part in topic.partitions
    ]
    return seen


@settings(deadline=None)
@given(made=frames())
def test_a_request_means_the_same_by_position(made: tuple[bytes, int]) -> None:
    frame, version = made
    seen = check(frame, version)
    _, position = decode(RequestHeader, request_header_version(ApiKey.FETCH, version), frame)
    request, end = decode(FetchRequest, version, frame, position)
    if (
        version >= FIRST_VERSION
        and end == len(frame)
        and frame.isascii() is not None
        and b"\xc3\xa9" not in frame
        and not request.forgotten_topics_data
        and request.replica_id == request.replica_state.replica_id == -1
        and request.isolation_level in (0, 1)
        and len(request.rack_id) < 127
        and (request.session_epoch > 0 or (request.session_epoch == -1 and not request.session_id))
    ):
        assert seen is not None


@settings(deadline=None, max_examples=150)
@given(made=frames(), cut=st.integers(0, 90), changes=st.lists(st.tuples(st.integers(8, 120), st.integers(0, 255))))
def test_whatever_the_bytes_are_nothing_is_read_that_the_codec_refuses(
    made: tuple[bytes, int], cut: int, changes: list[tuple[int, int]]
) -> None:
    frame, version = made
    damaged = bytearray(frame)
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    del damaged[len(damaged) - min(cut, len(damaged)) :]
    try:
        check(bytes(damaged), version)
    except RemoteProtocolError as error:  # pragma: no cover - the failure says what was read
        pytest.fail(f"read by position, refused by the codec: {error}")


@settings(deadline=None)
@given(
    version=st.integers(FIRST_VERSION, FetchResponse.VERSIONS[1]),
    session_id=INT32,
    rows=st.lists(ROW, max_size=4).flatmap(lambda rows: st.permutations(rows * 2)),
    is_committed=st.booleans(),
)
def test_answers_are_the_codecs_bytes(version: int, session_id: int, rows: list[Row], is_committed: bool) -> None:
    topics: dict[bytes, FetchableTopicResponse] = {}
    for topic_id, index, high_watermark, last_stable, log_start, size in rows:
        topics.setdefault(topic_id, FetchableTopicResponse(topic_id=topic_id)).partitions.append(
            PartitionData(
                partition_index=index,
                high_watermark=high_watermark,
                last_stable_offset=last_stable,
                log_start_offset=log_start,
                aborted_transactions=[] if is_committed else None,
                records=records_of(size),
            )
        )
    expected = encode(FetchResponse(session_id=session_id, responses=list(topics.values())), version)
    ours = encode_answer(
        session_id, [FetchedPartition(*row[:5], records_of(row[5])) for row in rows], is_committed=is_committed
    )
    assert b"".join(ours) == expected  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled kernel: that beside the source if it is fresh, else just built."""
    return compiled_kernel(Path(consumer_fetch_frames.__file__).with_name("_fetch_cy.py"), tmp_path_factory)


def plain_of_one(frame: bytes, version: int) -> ConsumerFetch | None:
    """What `parse` says of a request that names at most one partition, and no topic without one."""
    found = parse(memoryview(frame), version)
    if found is None or len(found.partitions) > 1:
        return None
    return found


def same(kernels: ConsumerFetch | None, plain: ConsumerFetch | None) -> bool:
    """Whether the kernel reads what the plain twin does, or leaves to it what has topics without partitions."""
    if kernels is None:
        return plain is None or not plain.partitions
    return plain is not None and kernels[:7] == plain[:7] and list(kernels.partitions) == list(plain.partitions)


@settings(deadline=None, max_examples=150)
@given(made=frames())
def test_the_kernel_reads_requests_of_one_partition(kernel: ModuleType, made: tuple[bytes, int]) -> None:
    frame, version = made
    plain = plain_of_one(frame, version)
    found = kernel.parse_one(memoryview(frame), version)
    assert same(found, plain)
    if plain is not None and len(plain.partitions) == 1 and frame.count(plain.partitions[0].topic_id) == 1:
        _, position = decode(RequestHeader, request_header_version(ApiKey.FETCH, version), frame)
        request, _ = decode(FetchRequest, version, frame, position)
        assert (found is not None) == (len(request.topics) == 1)


@settings(deadline=None, max_examples=250)
@given(
    made=frames(),
    cut=st.integers(0, 200),
    changes=st.lists(st.tuples(st.integers(8, 120), st.integers(0, 255)), max_size=3),
)
def test_the_kernel_reads_damaged_requests_alike(
    kernel: ModuleType, made: tuple[bytes, int], cut: int, changes: list[tuple[int, int]]
) -> None:
    frame, version = made
    damaged = bytearray(frame)
    for position, value in changes:
        if position < len(damaged):
            damaged[position] = value
    for size in {len(damaged), len(damaged) - min(cut, len(damaged))}:
        seen = bytes(damaged[:size])
        found, plain = kernel.parse_one(memoryview(seen), version), parse(memoryview(seen), version)
        if found is not None:
            assert plain is not None
            assert same(found, plain)
        elif plain is not None:
            _, position = decode(RequestHeader, request_header_version(ApiKey.FETCH, version), seen)
            request, _ = decode(FetchRequest, version, seen, position)
            assert [len(topic.partitions) for topic in request.topics] not in ([], [1])


@settings(deadline=None)
@given(session_id=INT32, row=ROW, is_committed=st.booleans(), kind=st.sampled_from([bytes, bytearray, memoryview]))
def test_the_kernel_answers_alike(
    kernel: ModuleType,
    session_id: int,
    row: Row,
    is_committed: bool,
    kind: type[bytes],
) -> None:
    given_row = FetchedPartition(*row[:5], kind(records_of(row[5])))
    [expected] = encode_answer(session_id, [given_row], is_committed=is_committed)
    assert kernel.encode_one(session_id, is_committed, *given_row) == expected
