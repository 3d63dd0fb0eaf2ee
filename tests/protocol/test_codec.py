"""The codec against itself: every message, every version, and bytes that are no message."""

from __future__ import annotations

import random
import tracemalloc
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.protocol.messages import all_messages, at_version, filled, structs, versions_of

from ottla.errors import LocalProtocolError, RemoteProtocolError
from ottla.protocol.codec import CHUNK_SIZE_MIN, decode, decoder, encode, encode_chunks, encoder
from ottla.protocol.messages.add_partitions_to_txn import AddPartitionsToTxnRequest, AddPartitionsToTxnTransaction
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.describe_topic_partitions import Cursor, DescribeTopicPartitionsRequest
from ottla.protocol.messages.fetch import (
    EpochEndOffset,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    PartitionData,
)
from ottla.protocol.messages.group_records import ClassicMemberMetadata, ConsumerGroupMemberMetadataValue
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.schema import Message

ALL = list(all_messages())

every_message = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


@every_message
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_decoding_what_was_encoded_returns_the_message(cls: type[Message], data: st.DataObject) -> None:
    full = data.draw(structs(cls))
    for version in versions_of(cls):
        message = at_version(full, version)
        encoded = encode(message, version)
        assert decode(cls, version, encoded) == (message, len(encoded))


@every_message
def test_defaults_survive_and_tagged_ones_are_not_written(cls: type[Message]) -> None:
    for version in versions_of(cls):
        message = at_version(cls(), version)
        encoded = encode(message, version)
        assert decode(cls, version, encoded) == (message, len(encoded))
        if cls.FLEXIBLE[0] <= version <= cls.FLEXIBLE[1]:
            assert encoded.endswith(b"\0")  # an empty section of tagged fields


@every_message
def test_position_and_trailing_bytes_are_respected(cls: type[Message]) -> None:
    for version in versions_of(cls):
        message = at_version(cls(), version)
        encoded = encode(message, version)
        for buffer in (b"abc" + encoded + b"xy", bytearray(b"abc" + encoded + b"xy")):
            assert decode(cls, version, memoryview(buffer), 3) == (message, 3 + len(encoded))
            assert decode(cls, version, buffer, 3) == (message, 3 + len(encoded))


@every_message
def test_every_truncation_is_a_protocol_error(cls: type[Message]) -> None:
    for version in {*cls.VERSIONS, *(v for v in versions_of(cls) if v == cls.FLEXIBLE[0])}:
        encoded = encode(filled(cls, version, random.Random(1)), version)
        decoding = decoder(cls, version)
        assert decoding(encoded, 0)[1] == len(encoded)
        for size in range(len(encoded)):
            with pytest.raises(RemoteProtocolError):
                decoding(encoded[:size], 0)


@every_message
def test_damaged_bytes_decode_or_are_a_protocol_error(cls: type[Message]) -> None:
    randomness = random.Random(cls.__name__)
    for version in {*cls.VERSIONS}:
        encoded = encode(filled(cls, version, randomness), version)
        decoding = decoder(cls, version)
        for _ in range(200):
            damaged = bytearray(encoded)
            for _ in range(randomness.choice((1, 1, 2, 5))):
                if damaged:
                    position = randomness.randrange(len(damaged))
                    damaged[position] = randomness.choice((0, 1, 127, 128, 255, randomness.randrange(256)))
            try:
                _, end = decoding(bytes(damaged), 0)
                assert end <= len(damaged)
            except RemoteProtocolError:
                pass


@given(data=st.binary(max_size=60), cls=st.sampled_from(ALL), which=st.sampled_from([0, 1]))
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes_decode_or_are_a_protocol_error(data: bytes, cls: type[Message], which: int) -> None:
    try:
        _, end = decode(cls, cls.VERSIONS[which], data)
    except RemoteProtocolError:
        return
    assert end <= len(data)


@pytest.mark.parametrize(
    ("cls", "version", "head", "count"),
    [
        (MetadataRequest, 1, b"", b"\x7f\xff\xff\xff"),
        (FetchRequest, 4, bytes(17), b"\x7f\xff\xff\xff"),
        (OffsetFetchRequest, 1, b"\0\0\0\0\0\x01\0\0", b"\x7f\xff\xff\xff"),
        (MetadataRequest, 12, b"", b"\x80\x80\x80\x80\x08"),
        (MetadataRequest, 12, b"", b"\xff\xff\xff\xff\x0f"),
        (MetadataResponse, 12, bytes(4), b"\xff\xff\xff\xff\x0f"),
        (FetchResponse, 12, bytes(10), b"\xff\xff\xff\xff\x0f"),
    ],
)
def test_absurd_counts_allocate_nothing(cls: type[Message], version: int, head: bytes, count: bytes) -> None:
    decoding = decoder(cls, version)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decoding(head + count + bytes(100), 0)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("cls", "version", "data", "reason"),
    [
        (OffsetFetchRequest, 1, b"\xff\xff" + bytes(4), "group_id is null"),
        (OffsetFetchRequest, 1, b"\x00\x01g\xff\xff\xff\xff", "topics is null"),
        (OffsetFetchRequest, 1, b"\x00\x01\xff" + bytes(4), "UTF-8"),
        (MetadataRequest, 9, b"\x80\x80\x80\x80\x80\x01", "more than 5 bytes"),
        (MetadataRequest, 9, b"\x80\x80\x80\x80\x7f", "more than 32 bits"),
        (ApiVersionsRequest, 3, b"\x81\x80\x02" + b"x" * 32768 + b"\x01\x00", "string of 32768 bytes"),
        (ApiVersionsRequest, 3, b"\x02a\x02", "too early"),
        (RequestHeader, 2, b"\0\x03\0\x0c\0\0\0\x01\0\x05ab", "too early"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_bytes_are_refused_with_the_reason(
    cls: type[Message], version: int, data: bytes, reason: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode(cls, version, data)


def test_a_negative_length_is_null_where_null_is_allowed() -> None:
    # Apache Kafka takes every negative length for null, not only -1.
    assert decode(MetadataRequest, 1, b"\x80\0\0\0")[0].topics is None
    assert decode(RequestHeader, 1, bytes(8) + b"\xff\xfe")[0].client_id is None


def test_unknown_tagged_fields_are_skipped() -> None:
    plain = encode(ApiVersionsRequest(client_software_name="a", client_software_version="1"), 3)
    tagged = plain[:-1] + b"\x02" + b"\x05\x03abc" + b"\x80\x01\x00"
    assert decode(ApiVersionsRequest, 3, tagged) == (decode(ApiVersionsRequest, 3, plain)[0], len(tagged))


def test_a_tagged_field_whose_size_is_wrong_is_refused() -> None:
    # FetchRequest v12: cluster_id is tag 0, a nullable compact string.
    plain = encode(FetchRequest(), 12)
    assert decode(FetchRequest, 12, plain[:-1] + b"\x01\x00\x02\x02c")[0].cluster_id == "c"
    with pytest.raises(RemoteProtocolError, match="size of tag 0"):
        decode(FetchRequest, 12, plain[:-1] + b"\x01\x00\x03\x02cc")


def test_the_client_id_keeps_its_int16_length_in_a_flexible_header() -> None:
    header = RequestHeader(request_api_key=3, request_api_version=12, correlation_id=7, client_id="me")
    assert encode(header, 2) == b"\0\x03\0\x0c\0\0\0\x07\0\x02me\0"
    assert encode(ResponseHeader(correlation_id=7), 1) == b"\0\0\0\x07\0"


def test_records_are_views_of_the_buffer_and_writable_if_it_is() -> None:
    partition = PartitionProduceData(index=1, records=b"0123456789")
    request = ProduceRequest(acks=-1, topic_data=[TopicProduceData(name="t", partition_data=[partition])])
    buffer = bytearray(encode(request, 9))
    decoded, _ = decode(ProduceRequest, 9, buffer)
    records = decoded.topic_data[0].partition_data[0].records
    assert isinstance(records, memoryview)
    records[0] = ord("X")
    assert b"X123456789" in buffer


def test_large_records_are_sent_uncopied() -> None:
    large = memoryview(bytearray(CHUNK_SIZE_MIN))
    partitions = [PartitionData(partition_index=0, records=b"small"), PartitionData(partition_index=1, records=large)]
    response = FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])
    chunks = encode_chunks(response, 11, b"head")
    assert len(chunks) == 2
    assert chunks[1] is large
    assert b"".join(cast("list[bytes]", chunks)) == b"head" + encode(response, 11)
    response = FetchResponse(
        responses=[FetchableTopicResponse(topic="t", partitions=partitions)], throttle_time_ms=1, session_id=2
    )
    assert b"".join(cast("list[bytes]", encode_chunks(response, 12))) == encode(response, 12)


def test_small_messages_are_one_chunk() -> None:
    assert encode_chunks(MetadataRequest(), 12, b"head") == [b"head" + encode(MetadataRequest(), 12)]


def test_a_field_the_version_lacks_must_not_be_dropped_silently() -> None:
    request = MetadataRequest(topics=[MetadataRequestTopic(name="t")], allow_auto_topic_creation=False)
    with pytest.raises(LocalProtocolError, match="allow_auto_topic_creation"):
        encode(request, 3)
    transaction = AddPartitionsToTxnRequest(transactions=[AddPartitionsToTxnTransaction(transactional_id="x")])
    with pytest.raises(LocalProtocolError, match="transactions"):
        encode(transaction, 3)


def test_an_ignorable_field_the_version_lacks_is_dropped() -> None:
    response = MetadataResponse(throttle_time_ms=5, cluster_id="c")
    assert decode(MetadataResponse, 0, encode(response, 0))[0].cluster_id is None


@pytest.mark.parametrize(
    "message",
    [
        ApiVersionsRequest(client_software_name=None),  # type: ignore[arg-type]
        ApiVersionsRequest(client_software_name="x" * 40000),
        ApiVersionsRequest(client_software_name="\ud800"),
        ApiVersionsRequest(client_software_name=b"bytes"),  # type: ignore[arg-type]
    ],
    ids=["null", "too long", "no UTF-8", "bytes"],
)
def test_values_that_do_not_fit_their_field_are_the_callers_error(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match="ApiVersionsRequest v3"):
        encode(message, 3)


def test_numbers_and_uuids_that_do_not_fit_are_the_callers_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode(FetchRequest(max_bytes=2**31), 4)
    with pytest.raises(LocalProtocolError, match="16 bytes"):
        encode(MetadataRequest(topics=[MetadataRequestTopic(topic_id=b"short")]), 12)


def test_nullable_structs_are_announced_by_a_byte() -> None:
    assert encode(DescribeTopicPartitionsRequest(), 0).endswith(b"\xff\0")
    request = DescribeTopicPartitionsRequest(cursor=Cursor(topic_name="t", partition_index=3))
    assert encode(request, 0).endswith(b"\x01\x02t\0\0\0\x03\0\0")


def test_a_tagged_nullable_struct_is_announced_by_a_varint() -> None:
    # The only one in Kafka 4.4; null, an empty struct (its default) and a filled one all survive.
    for metadata in (None, ClassicMemberMetadata(), ClassicMemberMetadata(session_timeout_ms=5)):
        value = ConsumerGroupMemberMetadataValue(classic_member_metadata=metadata)
        assert decode(ConsumerGroupMemberMetadataValue, 0, encode(value, 0))[0] == value
    assert encode(ConsumerGroupMemberMetadataValue(classic_member_metadata=None), 0).endswith(b"\x01\x00\x01\x00")


def test_tagged_structs_are_written_if_any_field_is_set() -> None:
    partition = PartitionData(records=b"", diverging_epoch=EpochEndOffset(epoch=3))
    response = FetchResponse(responses=[FetchableTopicResponse(partitions=[partition])])
    decoded = decode(FetchResponse, 12, encode(response, 12))[0]
    assert decoded.responses[0].partitions[0].diverging_epoch == EpochEndOffset(epoch=3, end_offset=-1)


def test_versions_kafka_does_not_have_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="versions 3 to 13, not 2"):
        decoder(ProduceRequest, 2)
    with pytest.raises(LocalProtocolError, match="not 14"):
        encoder(ProduceRequest, 14)


def test_messages_compare_by_value_and_do_not_share_defaults() -> None:
    assert MetadataRequest(topics=None) != MetadataRequest()
    assert ProduceRequest() == ProduceRequest()
    assert ProduceRequest() != MetadataRequest()
    one = ProduceRequest()
    one.topic_data.append(TopicProduceData(name="t"))
    assert ProduceRequest().topic_data == []
    assert repr(TopicProduceData(name="t")).startswith("TopicProduceData(name='t', topic_id=")
    with pytest.raises(TypeError):
        hash(one)
