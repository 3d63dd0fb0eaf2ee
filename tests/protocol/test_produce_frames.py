"""Produce by position and Produce by the codec are one: same meaning, same bytes, for every version."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.extensions import compiled_kernel

from ottla.errors import RemoteProtocolError
from ottla.protocol import produce_frames
from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from ottla.protocol.produce_frames import BY_ID, FLEXIBLE_SINCE, AcceptedPart, encode_accepted, parse
from ottla.types import ZERO_UUID

VERSIONS = st.integers(*ProduceRequest.VERSIONS)
NAMES = st.text("abc.-_", min_size=1, max_size=20) | st.just("n" * 200)
INT64 = st.integers(-1, 2**63 - 1)
ACCEPTED = st.builds(AcceptedPart, st.integers(0, 2**31 - 1), INT64, INT64, INT64, st.sampled_from([0, 7, 56]))


def records(size: int, flags: int) -> bytes:
    made = bytearray(size)
    if size > 22:
        made[22] = flags
    return bytes(made)


RECORDS = st.builds(records, st.sampled_from([0, 22, 60, 61, 62, 190, 20_000]), st.sampled_from([0, 0, 0, 1, 4, 5, 16]))
PARTS = st.lists(
    st.builds(lambda i, r: PartitionProduceData(index=i, records=r), st.integers(-1, 3), RECORDS), max_size=3
)


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, int]:
    """Whole requests, most of them ordinary, with the header."""
    version = draw(VERSIONS)
    topics = [
        TopicProduceData(
            name="" if version >= BY_ID else draw(NAMES),
            topic_id=draw(st.binary(min_size=16, max_size=16)) if version >= BY_ID else ZERO_UUID,
            partition_data=draw(
                PARTS | st.just([PartitionProduceData(index=k, records=bytes(70)) for k in range(130)])
            ),
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    request = ProduceRequest(
        transactional_id=draw(st.sampled_from([None, None, None, "t"])),
        acks=draw(st.sampled_from([-1, 0, 1, 5])),
        timeout_ms=30_000,
        topic_data=topics,
    )
    header = RequestHeader(
        request_api_key=ApiKey.PRODUCE,
        request_api_version=version,
        correlation_id=7,
        client_id=draw(st.sampled_from([None, "", "rdkafka", "é"])),
    )
    frame = encode(header, request_header_version(ApiKey.PRODUCE, version)) + encode(request, version)
    return frame + draw(st.sampled_from([b"", b"\0\0\0"])), version


def codec_max(version: int) -> int:
    """zstd is for Produce from version 7 on (KIP-110)."""
    return 4 if version >= 7 else 3


def check(frame: bytes, version: int) -> bool:
    """Compare the two readings; return whether the request was read by position."""
    seen = parse(memoryview(frame), version)
    if seen is None:
        return False
    _, position = decode(RequestHeader, request_header_version(ApiKey.PRODUCE, version), frame)
    request, _ = decode(ProduceRequest, version, frame, position)
    assert request.transactional_id is None
    assert request.acks == seen.acks
    assert len(request.topic_data) == len(seen.topics)
    for topic, ours in zip(request.topic_data, seen.topics, strict=True):
        prefix = 0 if version >= BY_ID else 1 if version >= FLEXIBLE_SINCE else 2
        assert ours.key[prefix:] == (topic.topic_id if version >= BY_ID else topic.name.encode())
        assert [(data.index, bytes(data.records or b"")) for data in topic.partition_data] == [
            (index, bytes(view)) for index, view in ours.partitions
        ]
        assert all(len(view) >= 61 and view[22] <= codec_max(version) for _, view in ours.partitions)
    return True


@settings(deadline=None)
@given(made=frames())
def test_a_request_means_the_same_by_position(made: tuple[bytes, int]) -> None:
    frame, version = made
    is_read = check(frame, version)
    request, _ = decode(
        ProduceRequest, version, frame, decode(RequestHeader, 1 if version < FLEXIBLE_SINCE else 2, frame)[1]
    )
    everything = [data.records or b"" for topic in request.topic_data for data in topic.partition_data]
    ordinary = request.transactional_id is None and all(
        len(r) >= 61 and r[22] <= codec_max(version) for r in everything
    )
    names_are_short = version < FLEXIBLE_SINCE or all(len(topic.name) < 127 for topic in request.topic_data)
    if everything and ordinary and names_are_short and "é".encode() not in frame:
        assert is_read


@settings(deadline=None, max_examples=300)
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
    except RemoteProtocolError as error:
        if "UTF-8" not in str(error):  # the handler reads the name itself, and leaves such a one to the codec
            raise


@settings(deadline=None)
@given(
    version=VERSIONS,
    topics=st.lists(
        st.tuples(NAMES, st.lists(ACCEPTED, max_size=3)),
        max_size=2,
    ),
)
def test_answers_are_the_codecs_bytes(version: int, topics: list[tuple[str, list[AcceptedPart]]]) -> None:
    by_id = version >= BY_ID
    response = ProduceResponse(
        responses=[
            TopicProduceResponse(
                name="" if by_id else name,
                topic_id=name.encode().ljust(16)[:16] if by_id else ZERO_UUID,
                partition_responses=[
                    PartitionProduceResponse(
                        index=part.partition,
                        error_code=part.error_code,
                        base_offset=part.base_offset,
                        log_append_time_ms=part.log_append_time_ms,
                        log_start_offset=part.log_start_offset if version >= 5 else -1,
                    )
                    for part in parts
                ],
            )
            for name, parts in topics
        ]
    )
    prefix = (
        (lambda n: b"") if by_id else (lambda n: bytes([n + 1])) if version >= 9 else (lambda n: n.to_bytes(2, "big"))
    )
    if not by_id and version >= FLEXIBLE_SINCE:
        topics = [(name, parts) for name, parts in topics if len(name) < 127]
        response.responses = [topic for topic in response.responses if len(topic.name) < 127]
    keys = [
        (name.encode().ljust(16)[:16] if by_id else prefix(len(name)) + name.encode(), parts) for name, parts in topics
    ]
    assert encode_accepted(version, keys) == encode(response, version)


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The compiled kernel: that beside the source if it is fresh, else just built."""
    return compiled_kernel(Path(produce_frames.__file__).with_name("_produce_cy.py"), tmp_path_factory)


def only_batch(frame: bytes, version: int) -> tuple[int, int, bytes, int, bytes] | None:
    """What `parse` says of a request of one batch."""
    found = parse(memoryview(frame), version)
    if found is None or len(found.topics) != 1 or len(found.topics[0].partitions) != 1:
        return None
    (key, [(index, batch)]) = found.topics[0]
    return found.acks, found.timeout_ms, key, index, bytes(batch)


def kernels_batch(kernel: ModuleType, frame: bytes, version: int) -> tuple[int, int, bytes, int, bytes] | None:
    found = kernel.parse_one(memoryview(frame), version)
    return None if found is None else (*found[:4], bytes(found[4]))


@st.composite
def frames_of_one(draw: st.DrawFn) -> tuple[bytes, int]:
    """Requests of one batch."""
    version = draw(VERSIONS)
    by_id = version >= BY_ID
    part = PartitionProduceData(index=draw(st.integers(-1, 200)), records=draw(RECORDS))
    topic = TopicProduceData(name="" if by_id else draw(NAMES), topic_id=bytes(range(16)), partition_data=[part])
    if not by_id:
        topic.topic_id = ZERO_UUID
    request = ProduceRequest(acks=draw(st.sampled_from([-1, 1, 0, 300])), timeout_ms=1 << 30, topic_data=[topic])
    client_id = draw(st.sampled_from([None, "", "rdkafka", "é", "c" * 300]))
    header = RequestHeader(
        request_api_key=ApiKey.PRODUCE, request_api_version=version, correlation_id=7, client_id=client_id
    )
    frame = encode(header, request_header_version(ApiKey.PRODUCE, version)) + encode(request, version)
    return frame + draw(st.sampled_from([b"", b"\0\0\0"])), version


@settings(deadline=None, max_examples=300)
@given(made=frames() | frames_of_one())
def test_the_kernel_reads_requests_of_one_batch(kernel: ModuleType, made: tuple[bytes, int]) -> None:
    frame, version = made
    assert kernels_batch(kernel, frame, version) == only_batch(frame, version)


@settings(deadline=None, max_examples=600)
@given(
    made=frames_of_one(),
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
        assert kernels_batch(kernel, bytes(damaged[:size]), version) == only_batch(bytes(damaged[:size]), version)


@settings(deadline=None)
@given(version=VERSIONS, name=NAMES, index=st.integers(0, 2**31 - 1), base=INT64, start=INT64)
def test_the_kernel_answers_alike(
    kernel: ModuleType, version: int, name: str, index: int, base: int, start: int
) -> None:
    key = (
        bytes(16)
        if version >= BY_ID
        else (bytes([len(name) + 1]) if version >= 9 else bytes([0, len(name)])) + name.encode()
    )
    expected = encode_accepted(version, [(key, [AcceptedPart(index, base, -1, start)])])
    assert kernel.encode_one(version, key, index, base, start) == expected
