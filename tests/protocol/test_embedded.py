"""Keys and values of internal records, and what consumers hand each other."""

from __future__ import annotations

import pytest

from ottla.errors import RemoteProtocolError
from ottla.protocol.embedded import (
    decode_consumer_protocol,
    decode_key,
    decode_versioned,
    encode_key,
    encode_versioned,
    read_prefix,
)
from ottla.protocol.messages.consumer_protocol import ConsumerProtocolSubscription
from ottla.protocol.messages.group_records import (
    GroupMetadataKey,
    GroupMetadataValue,
    OffsetCommitKey,
    OffsetCommitValue,
)


def test_the_key_of_a_committed_offset_is_kafkas() -> None:
    key = OffsetCommitKey(group="g", topic="t", partition=3)
    encoded = encode_key(key)
    assert encoded == b"\0\x01" + b"\0\x01g" + b"\0\x01t" + b"\0\0\0\x03"
    assert read_prefix(encoded) == OffsetCommitKey.API_KEY
    assert decode_key(OffsetCommitKey, encoded) == key


def test_the_type_of_a_group_metadata_key_is_2_though_its_version_is_0() -> None:
    assert encode_key(GroupMetadataKey(group="g")) == b"\0\x02\0\x01g"


@pytest.mark.parametrize("version", range(5))
def test_values_carry_their_version(version: int) -> None:
    value = GroupMetadataValue(protocol_type="consumer", generation=4, protocol="range", leader="m")
    encoded = encode_versioned(value, version)
    assert read_prefix(encoded) == version
    assert decode_versioned(GroupMetadataValue, encoded) == value


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x09" + bytes(40), b"\xff\xff", b"\0\x03\0", b"\0\x03" + bytes(60)])
def test_what_is_no_value_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_versioned(OffsetCommitValue, data)


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="record of type 2, not OffsetCommitKey"):
        decode_key(OffsetCommitKey, encode_key(GroupMetadataKey(group="g")))


def test_only_keys_have_a_record_type() -> None:
    with pytest.raises(TypeError, match="ConsumerProtocolSubscription is not the key"):
        encode_key(ConsumerProtocolSubscription())


def test_a_subscription_of_the_future_is_read_as_the_newest_known_version() -> None:
    subscription = ConsumerProtocolSubscription(topics=["a", "b"], user_data=b"u", generation_id=3, rack_id="r")
    encoded = encode_versioned(subscription, 3)
    assert decode_consumer_protocol(ConsumerProtocolSubscription, encoded) == subscription
    newer = b"\0\x09" + encoded[2:] + b"more"
    assert decode_consumer_protocol(ConsumerProtocolSubscription, newer) == subscription
    with pytest.raises(RemoteProtocolError):
        decode_consumer_protocol(ConsumerProtocolSubscription, b"\xff\xff" + encoded[2:])
