"""Bytes of __consumer_offsets, as Apache Kafka 4.4 writes and reads them."""

from __future__ import annotations

import pytest

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.records import CommittedOffset
from ottla.errors import RemoteProtocolError
from ottla.protocol.messages.group_records import (
    GroupMetadataKey,
    GroupMetadataValue,
    LegacyOffsetCommitKey,
    LegacyOffsetCommitValue,
    MemberMetadata,
    OffsetCommitKey,
    OffsetCommitValue,
)

TOPIC_ID = bytes(range(16))


def test_an_offset_is_written_in_version_4_with_the_topic_id_as_tagged_field() -> None:
    record = records.offset_commit("g", "t", 3, CommittedOffset(5, 2, "m", 1000, topic_id=TOPIC_ID))
    key, value = records.encode(record)
    assert key == bytes.fromhex("0001 0001 67 0001 74 00000003")
    assert value == bytes.fromhex("0004 0000000000000005 00000002 02 6d 00000000000003e8 01 00 10") + TOPIC_ID
    assert records.decode(key, value) == record


def test_an_offset_without_topic_id_has_no_tagged_field() -> None:
    _, value = records.encode(records.offset_commit("g", "t", 3, CommittedOffset(5, -1, "", 1000)))
    assert value == bytes.fromhex("0004 0000000000000005 ffffffff 01 00000000000003e8 00")


def test_an_offset_with_an_expiry_of_its_own_is_written_in_version_1() -> None:
    _, value = records.encode(records.offset_commit("g", "t", 3, CommittedOffset(5, 2, "m", 1000, 2000, TOPIC_ID)))
    assert value == bytes.fromhex("0001 0000000000000005 0001 6d 00000000000003e8 00000000000007d0")


def test_a_group_is_written_in_version_3() -> None:
    value = GroupMetadataValue(
        protocol_type="consumer",
        generation=4,
        protocol="range",
        leader="m",
        current_state_timestamp=9,
        members=[MemberMetadata(member_id="m", client_id="c", client_host="/h", session_timeout=7, assignment=b"A")],
    )
    record = records.group_metadata("g", value)
    key, data = records.encode(record)
    assert key == bytes.fromhex("0002 0001 67")
    assert data is not None
    assert data.startswith(bytes.fromhex("0003 0008") + b"consumer" + bytes.fromhex("00000004 0005") + b"range")
    assert records.decode(key, data) == record


def test_tombstones_have_no_value() -> None:
    assert records.encode(records.offset_commit_tombstone("g", "t", 3))[1] is None
    assert records.encode(records.group_metadata_tombstone("g")) == (bytes.fromhex("0002 0001 67"), None)
    decoded = records.decode(bytes.fromhex("0002 0001 67"), None)
    assert decoded is not None
    assert decoded.value is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "0000 0000000000000005 0001 6d 00000000000003e8",
            OffsetCommitValue(offset=5, metadata="m", commit_timestamp=1000),
        ),
        (
            "0001 0000000000000005 0001 6d 00000000000003e8 00000000000007d0",
            OffsetCommitValue(offset=5, metadata="m", commit_timestamp=1000, expire_timestamp=2000),
        ),
        (
            "0002 0000000000000005 0001 6d 00000000000003e8",
            OffsetCommitValue(offset=5, metadata="m", commit_timestamp=1000),
        ),
        (
            "0003 0000000000000005 00000002 0001 6d 00000000000003e8",
            OffsetCommitValue(offset=5, leader_epoch=2, metadata="m", commit_timestamp=1000),
        ),
        (
            # A tagged field of a later version is skipped (KIP-915).
            "0004 0000000000000005 00000002 02 6d 00000000000003e8 01 63 02 aabb",
            OffsetCommitValue(offset=5, leader_epoch=2, metadata="m", commit_timestamp=1000),
        ),
    ],
    ids=["v0", "v1", "v2", "v3", "v4 from the future"],
)
def test_offsets_of_every_version_are_read(value: str, expected: OffsetCommitValue) -> None:
    decoded = records.decode(bytes.fromhex("0001 0001 67 0001 74 00000003"), bytes.fromhex(value))
    assert decoded is not None
    assert decoded.key == OffsetCommitKey(group="g", topic="t", partition=3)
    assert decoded.value == expected


def test_offsets_from_before_kafka_0_9_are_read() -> None:
    decoded = records.decode(
        bytes.fromhex("0000 0001 67 0001 74 00000003"), bytes.fromhex("0000 0000000000000005 0001 6d 00000000000003e8")
    )
    assert decoded is not None
    assert decoded.key == LegacyOffsetCommitKey(group="g", topic="t", partition=3)
    assert decoded.value == LegacyOffsetCommitValue(offset=5, metadata="m", commit_timestamp=1000)


def test_groups_of_version_0_are_read() -> None:
    decoded = records.decode(
        bytes.fromhex("0002 0001 67"),
        bytes.fromhex("0000 0008") + b"consumer" + bytes.fromhex("00000004 ffff ffff 00000000"),
    )
    assert decoded is not None
    assert decoded.key == GroupMetadataKey(group="g")
    assert decoded.value == GroupMetadataValue(protocol_type="consumer", generation=4, protocol=None, leader=None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("0063 0001 67", "0000"), ("0002 0001 67", "0063 00"), ("00", "0000"), ("", "0000")],
    ids=["unknown type", "unknown version", "one byte", "nothing"],
)
def test_what_is_not_known_is_left_alone(key: str, value: str) -> None:
    assert records.decode(bytes.fromhex(key), bytes.fromhex(value)) is None


def test_damage_is_noticed() -> None:
    with pytest.raises(RemoteProtocolError):
        records.decode(bytes.fromhex("0002 0009 67"), None)
