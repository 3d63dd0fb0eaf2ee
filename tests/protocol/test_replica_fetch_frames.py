"""Fetches between brokers by position say the same as the codec."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from hypothesis import given
from hypothesis import strategies as st

from ottla.file_region import FileRegion
from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
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
from ottla.protocol.replica_fetch_frames import (
    VERSION,
    AnsweredPartition,
    AskedPartition,
    ReplicaAnswer,
    ReplicaFetch,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
)

if TYPE_CHECKING:
    from ottla.file_region import SendableFile
    from ottla.offload import Offload

INT32, INT64 = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
OFFSET = st.integers(-1, (1 << 63) - 2)
TOPIC_ID = st.binary(min_size=16, max_size=16).filter(any)
ASKED = st.builds(AskedPartition, TOPIC_ID, INT32, INT32, INT64, INT32, INT64, INT32, OFFSET)
ANSWERED = st.builds(AnsweredPartition, TOPIC_ID, INT32, INT64, INT64, INT64, st.binary(max_size=300))


Row = TypeVar("Row", AskedPartition, AnsweredPartition)


def by_topic(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.topic_id)


FETCHES = st.builds(
    ReplicaFetch, INT32, INT32, INT32, INT32, INT32, INT32, INT64, st.lists(ASKED, max_size=200).map(by_topic)
)
ANSWERS = st.builds(ReplicaAnswer, INT32, st.lists(ANSWERED, max_size=200).map(by_topic))


def message_of(fetch: ReplicaFetch) -> FetchRequest:
    topics: dict[bytes, FetchTopic] = {}
    for row in fetch.partitions:
        topic = topics.setdefault(row.topic_id, FetchTopic(topic_id=row.topic_id, partitions=[]))
        topic.partitions.append(
            FetchPartition(
                partition=row.partition,
                current_leader_epoch=row.leader_epoch,
                fetch_offset=row.offset,
                last_fetched_epoch=row.last_epoch,
                log_start_offset=row.log_start_offset,
                partition_max_bytes=row.bytes_max,
                high_watermark=row.high_watermark,
            )
        )
    return FetchRequest(
        replica_state=ReplicaState(replica_id=fetch.replica_id, replica_epoch=fetch.replica_epoch),
        max_wait_ms=fetch.wait_ms_max,
        min_bytes=fetch.bytes_min,
        max_bytes=fetch.bytes_max,
        session_id=fetch.session_id,
        session_epoch=fetch.session_epoch,
        topics=list(topics.values()),
    )


def framed(body: bytes, client_id: str | None = "broker-2") -> bytes:
    header = RequestHeader(
        request_api_key=ApiKey.FETCH, request_api_version=VERSION, correlation_id=7, client_id=client_id
    )
    return encode(header, request_header_version(ApiKey.FETCH, VERSION)) + body


@given(FETCHES, st.sampled_from(["broker-2", "", None]))
def test_a_request_is_what_the_codec_writes_and_is_read_back(fetch: ReplicaFetch, client_id: str | None) -> None:
    default_state = (fetch.replica_id, fetch.replica_epoch) == (-1, -1)  # which the codec leaves out
    body = encode_request(fetch)
    assert default_state or body == encode(message_of(fetch), VERSION)
    assert parse_request(memoryview(framed(body, client_id))) == fetch


def answer_message(answer: ReplicaAnswer) -> FetchResponse:
    topics: dict[bytes, FetchableTopicResponse] = {}
    for row in answer.partitions:
        topic = topics.setdefault(row.topic_id, FetchableTopicResponse(topic_id=row.topic_id, partitions=[]))
        topic.partitions.append(
            PartitionData(
                partition_index=row.partition,
                high_watermark=row.high_watermark,
                last_stable_offset=row.last_stable_offset,
                log_start_offset=row.log_start_offset,
                aborted_transactions=None,
                records=bytes(cast("bytes", row.records)),
            )
        )
    return FetchResponse(session_id=answer.session_id, responses=list(topics.values()))


def encoded(answer: ReplicaAnswer) -> bytes:
    return b"".join(cast("list[bytes]", encode_answer(answer)))


@given(ANSWERS)
def test_an_answer_is_what_the_codec_writes_and_is_read_back(answer: ReplicaAnswer) -> None:
    body = encoded(answer)
    assert body == encode(answer_message(answer), VERSION)
    assert parse_answer(memoryview(body)) == answer


def test_records_that_stay_in_their_file_stand_alone_in_their_place() -> None:
    region = FileRegion(cast("SendableFile", None), 0, 40_000, cast("Offload", None))
    before = AnsweredPartition(b"t" * 16, 1, 2, 3, 4, b"x" * 100)
    between = before._replace(partition=2, records=region)
    after = before._replace(topic_id=b"u" * 16)
    chunks = encode_answer(ReplicaAnswer(5, [before, between, after]))
    assert [chunk is region for chunk in chunks] == [False, True, False]
    body = b"".join(bytes(40_000) if chunk is region else cast("bytes", chunk) for chunk in chunks)
    in_memory = between._replace(records=bytes(40_000))
    assert parse_answer(memoryview(body)) == ReplicaAnswer(5, [before, in_memory, after])


def test_large_records_are_read_back() -> None:
    row = AnsweredPartition(b"t" * 16, 1, 2, 3, 4, b"x" * 70_000)
    body = encoded(ReplicaAnswer(5, [row]))
    assert parse_answer(memoryview(body)) == ReplicaAnswer(5, [row])


@given(FETCHES, st.data())
def test_a_request_that_is_cut_or_changed_is_left_to_the_codec_or_read_alike(
    fetch: ReplicaFetch, data: st.DataObject
) -> None:
    frame = bytearray(framed(encode_request(fetch)))
    place = data.draw(st.integers(0, len(frame) - 1))
    assert parse_request(memoryview(frame[:place])) is None
    frame[place] ^= data.draw(st.integers(1, 255))
    found = parse_request(memoryview(frame))
    if found is None:
        return
    assert framed(encode_request(found))[18:] == bytes(frame)[18:]  # header: 8 of a client id


@given(ANSWERS, st.data())
def test_an_answer_that_is_cut_or_changed_is_left_to_the_codec_or_read_alike(
    answer: ReplicaAnswer, data: st.DataObject
) -> None:
    body = bytearray(encoded(answer))
    place = data.draw(st.integers(0, len(body) - 1))
    assert parse_answer(memoryview(body[:place])) is None
    body[place] ^= data.draw(st.integers(1, 255))
    found = parse_answer(memoryview(body))
    if found is not None:
        message, end = decode(FetchResponse, VERSION, bytes(body))
        assert end == len(body)
        assert message.session_id == found.session_id
        rows = [
            (topic.topic_id, p.partition_index, p.high_watermark, p.log_start_offset, bytes(p.records or b""))
            for topic in message.responses
            for p in topic.partitions
        ]
        assert rows == [
            (r.topic_id, r.partition, r.high_watermark, r.log_start_offset, r.records) for r in found.partitions
        ]


def test_what_is_not_ordinary_is_left_to_the_codec() -> None:
    fetch = ReplicaFetch(500, 1, 1, 5, 3, 2, 9, [])
    request = message_of(fetch)
    request.forgotten_topics_data = [ForgottenTopic(topic_id=b"t" * 16, partitions=[1])]
    assert parse_request(memoryview(framed(encode(request, VERSION)))) is None
    request = message_of(fetch)
    request.rack_id = "r"
    assert parse_request(memoryview(framed(encode(request, VERSION)))) is None
    request = message_of(fetch)
    request.isolation_level = 1
    assert parse_request(memoryview(framed(encode(request, VERSION)))) is None
    for answer in (
        FetchResponse(error_code=70, session_id=1),
        FetchResponse(
            responses=[
                FetchableTopicResponse(
                    topic_id=b"t" * 16, partitions=[PartitionData(error_code=1, aborted_transactions=None, records=b"")]
                )
            ]
        ),
    ):
        assert parse_answer(memoryview(encode(answer, VERSION))) is None
