"""The batch header: read, patched in place, walked over."""

from __future__ import annotations

import pytest

from ottla.protocol.records.batch import (
    MAX_SEQUENCE,
    check_crc,
    increment_sequence,
    read_header,
    set_log_append_time,
    set_offset_and_epoch,
    set_timestamp_type,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import crc32c
from ottla.types import CompressionType, TimestampType


def batch(count: int = 3, base_offset: int = 0) -> bytearray:
    records = [Record(base_offset + index, 1000 + index, b"k", b"v") for index in range(count)]
    return build_batch(records, producer_id=7, producer_epoch=2, base_sequence=40)


def test_crc32c_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(memoryview(bytearray(b"123456789"))) == 0xE3069283


def test_header_fields_of_a_batch() -> None:
    header = read_header(batch(3, base_offset=5))
    assert (header.base_offset, header.last_offset, header.next_offset) == (5, 7, 8)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence) == (7, 2, 40, 42)
    assert (header.base_timestamp, header.max_timestamp, header.record_count) == (1000, 1002, 3)
    assert header.compression is CompressionType.NONE
    assert header.timestamp_type is TimestampType.CREATE_TIME
    assert not header.is_control
    assert not header.is_transactional
    assert header.delete_horizon_ms is None


def test_sequence_after_the_largest_is_zero() -> None:
    assert increment_sequence(MAX_SEQUENCE, 1) == 0
    assert increment_sequence(MAX_SEQUENCE - 1, 3) == 1
    header = read_header(build_batch([Record(0, 0, None, b"")] * 1, base_sequence=MAX_SEQUENCE, last_offset_delta=2))
    assert header.last_sequence == 1


def test_batch_without_sequence_has_no_last_sequence() -> None:
    assert read_header(build_batch([Record(0, 0, None, b""), Record(1, 0, None, b"")])).last_sequence == -1


def test_offset_and_epoch_are_outside_of_the_crc() -> None:
    data = batch()
    set_offset_and_epoch(data, 0, 2**40, 9)
    header = read_header(data)
    assert (header.base_offset, header.partition_leader_epoch) == (2**40, 9)
    assert check_crc(data, 0, header)


def test_offset_and_epoch_at_a_position_touch_only_that_batch() -> None:
    first, second = batch(), batch()
    data = first + second
    set_offset_and_epoch(data, len(first), 77, 3)
    assert data[: len(first)] == first
    assert read_header(data, len(first)).base_offset == 77


def test_log_append_time_sets_attribute_maximum_and_crc() -> None:
    data = batch()
    set_log_append_time(data, 0, 5_000)
    header = read_header(data)
    assert header.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert header.max_timestamp == 5_000
    assert header.base_timestamp == 1000
    assert check_crc(data, 0, header)


def test_right_timestamps_are_left_alone() -> None:
    data = batch()
    before = bytes(data)
    set_timestamp_type(data, 0, TimestampType.CREATE_TIME, 1002)
    assert data == before


@pytest.mark.parametrize("position", [21, 23, 27, 35, 43, 57, 61, -1])
def test_crc_notices_a_flipped_bit(position: int) -> None:
    data = batch()
    data[position] ^= 1
    assert not check_crc(data, 0, read_header(data))


def test_crc_of_a_batch_that_is_cut_is_wrong() -> None:
    data = batch()
    assert not check_crc(data[:-1], 0, read_header(data))


def test_crc_of_a_batch_shorter_than_its_header_is_wrong() -> None:
    data = batch()
    data[8:12] = (20).to_bytes(4, "big")
    assert not check_crc(data, 0, read_header(data))
