"""Our codec against Kafka's own, for every message and version: what kio lacks, and everything else too."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.protocol.kafka_clients import KafkaClients, java_values
from tests.protocol.messages import all_messages, at_version, filled, structs, versions_of

from ottla.errors import RemoteProtocolError
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.metadata import MetadataRequest
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest
from ottla.protocol.messages.produce import ProduceRequest
from ottla.protocol.primitives import ARRAY_COUNT_MAX, encode_varint
from ottla.protocol.schema import Message

pytestmark = pytest.mark.kafka

every_message = pytest.mark.parametrize("cls", list(all_messages()), ids=lambda cls: cls.__name__)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaClients]:
    with KafkaClients(tmp_path_factory.mktemp("oracle")) as clients:
        yield clients


@every_message
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_kafka_reads_the_same_values_and_writes_the_same_bytes(
    kafka: KafkaClients, cls: type[Message], data: st.DataObject
) -> None:
    full = data.draw(structs(cls))
    for version in versions_of(cls):
        message = at_version(full, version)
        encoded = encode(message, version)
        assert kafka.read(cls, version, encoded) == (len(encoded), encoded, java_values(message))


@every_message
def test_defaults_are_kafkas(kafka: KafkaClients, cls: type[Message]) -> None:
    """What the constructor sets is what Kafka has after reading a version that lacks the field or has it untagged."""
    for version in versions_of(cls):
        encoded = encode(at_version(cls(), version), version)
        answer = kafka.read(cls, version, encoded)
        assert answer == (len(encoded), encoded, java_values(decode(cls, version, encoded)[0]))


@every_message
def test_damaged_bytes_are_refused_by_both_or_mean_the_same(kafka: KafkaClients, cls: type[Message]) -> None:
    """We are stricter in three things: strings must be UTF-8, tagged fields as long as announced, and counts must fit."""
    randomness = random.Random(cls.__name__)
    for version in {*cls.VERSIONS}:
        encoded = encode(filled(cls, version, randomness), version)
        for _ in range(30):
            damaged = bytearray(encoded or b"\0")
            damaged[randomness.randrange(len(damaged))] = randomness.choice((0, 1, 2, 127, 128, 254, 255))
            answer = kafka.read(cls, version, damaged)
            refused, message, end = "", None, 0
            try:
                message, end = decode(cls, version, bytes(damaged))
            except RemoteProtocolError as error:
                refused = str(error)
            if isinstance(answer, str):
                assert refused, (message, answer)
            elif refused:
                assert any(reason in refused for reason in ("UTF-8", "size of tag", "elements in")), (refused, answer)
            else:
                consumed, _, values = answer
                assert (consumed, values) == (end, java_values(message))


@pytest.mark.parametrize(
    ("cls", "version", "data"),
    [
        (MetadataRequest, 1, b"\x80\0\0\0"),  # any negative length is null
        (MetadataRequest, 1, struct.pack(">i", ARRAY_COUNT_MAX) + b"\0\0" * ARRAY_COUNT_MAX),
        (MetadataRequest, 1, struct.pack(">i", ARRAY_COUNT_MAX + 1) + b"\0\0" * (ARRAY_COUNT_MAX + 1)),
        (OffsetFetchRequest, 1, b"\xff\xff" + bytes(4)),  # null where it is not allowed
        (ProduceRequest, 9, b"\0\0\0\0\0\0\0\0\0"),
        (MetadataRequest, 12, b"\x01\0\0" + encode_varint(10_000) + b"\x05\0" * 10_000),
        (MetadataRequest, 12, b"\x01\0\0" + encode_varint(10_001) + b"\x05\0" * 10_001),
        (MetadataRequest, 12, b"\x80\x80\x80\x80\x80\x01\0\0\0"),
    ],
    ids=[
        "negative null", "most elements", "too many elements", "null string", "null array", "most tags", "too many tags",
        "long varint",
    ],
)  # fmt: skip
def test_limits_are_kafkas(kafka: KafkaClients, cls: type[Message], version: int, data: bytes) -> None:
    refused = isinstance(kafka.read(cls, version, data), str)
    try:
        decode(cls, version, data)
    except RemoteProtocolError:
        assert refused
    else:
        assert not refused
