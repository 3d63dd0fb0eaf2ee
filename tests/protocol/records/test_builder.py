"""Batches made here are read back, here and by other people's code."""

from __future__ import annotations

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocol.records.strategies import record_lists

from ottla.protocol.records.batch import check_crc, read_header
from ottla.protocol.records.builder import Record, build_batch, build_empty_batch
from ottla.protocol.records.reader import iter_records, read_records
from ottla.protocol.records.walk import iter_batches
from ottla.types import CompressionType, TimestampType


@settings(deadline=None)
@given(records=record_lists(), codec=st.sampled_from(CompressionType))
def test_records_come_back(records: list[Record], codec: CompressionType) -> None:
    batch = build_batch(records, compression=codec)
    header = read_header(batch)
    assert check_crc(batch, 0, header)
    assert header.size == len(batch)
    assert header.compression is codec
    assert header.max_timestamp == max(record.timestamp for record in records)
    assert (header.base_offset, header.last_offset) == (records[0].offset, records[-1].offset)
    assert read_records(batch) == records


@settings(deadline=None)
@given(records=record_lists(), codec=st.sampled_from([CompressionType.NONE, CompressionType.GZIP]))
def test_aiokafka_reads_the_same_records(records: list[Record], codec: CompressionType) -> None:
    theirs = DefaultRecordBatch(bytes(build_batch(records, compression=codec)))
    assert theirs.validate_crc()
    assert [
        Record(record.offset, record.timestamp, record.key, record.value, tuple(record.headers)) for record in theirs
    ] == records


def test_log_append_time_is_the_time_of_every_record() -> None:
    batch = build_batch(
        [Record(0, 5, None, b"a"), Record(1, 6, None, b"b")],
        timestamp_type=TimestampType.LOG_APPEND_TIME,
        max_timestamp=99,
    )
    assert [record.timestamp for record in read_records(batch)] == [99, 99]


def test_delete_horizon_is_the_base_timestamp_and_records_keep_their_time() -> None:
    batch = build_batch([Record(3, 500, b"k", None)], delete_horizon_ms=9_000)
    header = read_header(batch)
    assert header.has_delete_horizon
    assert header.delete_horizon_ms == 9_000
    assert read_records(batch) == [Record(3, 500, b"k", None)]


def test_last_offset_of_the_original_batch_can_be_kept() -> None:
    batch = build_batch([Record(12, 0, b"k", b"v")], base_offset=10, last_offset_delta=9, base_sequence=0)
    header = read_header(batch)
    assert (header.base_offset, header.last_offset, header.last_sequence) == (10, 19, 9)
    assert read_records(batch) == [Record(12, 0, b"k", b"v")]


def test_empty_batch_keeps_offsets_and_sequences() -> None:
    batch = build_empty_batch(
        base_offset=10,
        last_offset=19,
        max_timestamp=77,
        leader_epoch=3,
        producer_id=5,
        producer_epoch=1,
        base_sequence=100,
    )
    header = read_header(batch)
    assert len(batch) == 61
    assert check_crc(batch, 0, header)
    assert (header.last_offset, header.last_sequence, header.record_count) == (19, 109, 0)
    assert read_records(batch) == []


def test_batch_needs_a_record() -> None:
    with pytest.raises(ValueError, match="needs a record"):
        build_batch([])


def test_offset_delta_beyond_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        build_batch([Record(0, 0, None, b""), Record(2**31, 0, None, b"")])


@settings(deadline=None)
@given(groups=st.lists(record_lists(max_size=3), min_size=1, max_size=4))
def test_records_of_a_run_of_batches(groups: list[list[Record]]) -> None:
    data = b"".join(build_batch(group) for group in groups)
    assert len(list(iter_batches(data))) == len(groups)
    expected = [record for group in groups for record in group]
    assert list(iter_records(data)) == expected
    assert list(iter_records(data + data[:20], may_be_cut=True)) == expected
    with pytest.raises(ValueError, match="20 bytes are left"):
        list(iter_records(data + data[:20]))


def test_wrong_crc_is_noticed_on_request() -> None:
    batch = build_batch([Record(0, 0, None, b"value")])
    batch[-3] ^= 1
    with pytest.raises(ValueError, match="CRC"):
        read_records(batch, verify_crc=True)
