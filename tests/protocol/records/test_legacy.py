"""Formats 0 and 1 are read as Apache Kafka and its clients read them; damage is noticed, and named."""

from __future__ import annotations

import struct
import warnings
from typing import Any

import pytest
from aiokafka.record.legacy_records import LegacyRecordBatch as AiokafkaBatch
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder as AiokafkaBuilder
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.protocol.records.legacy_support import CODECS, as_consumed, entries, message, squeeze, wrapper
from tests.protocol.records.strategies import record_lists

from ottla.protocol.records.batch import check_crc, read_header
from ottla.protocol.records.builder import Record
from ottla.protocol.records.compression import compress
from ottla.protocol.records.legacy import (
    UNKNOWN_COUNT,
    _xxh32_of_few,
    check_legacy_crc,
    first_offset,
    legacy_header,
    read_legacy_records,
    upgrade,
)
from ottla.protocol.records.reader import iter_records, read_records
from ottla.types import CompressionType, TimestampType

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it reads its schemas in a way that Python 3.11 deprecates
    from kafka.record.legacy_records import LegacyRecordBatch as KafkaPythonBatch
    from kafka.record.legacy_records import LegacyRecordBatchBuilder as KafkaPythonBuilder

NONE, GZIP, SNAPPY, LZ4 = CODECS
CREATE, APPEND = TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME
STAMP = 1_450_000_000_000

magics = st.sampled_from([0, 1])
codecs = st.sampled_from(CODECS)
timestamp_types = st.sampled_from([CREATE, APPEND])


@settings(deadline=None)
@given(record_lists(), magics, codecs, timestamp_types)
def test_records_come_back(records: list[Record], magic: int, codec: CompressionType, kind: TimestampType) -> None:
    data = entries(records, codec, magic=magic, timestamp_type=kind, stamp=STAMP)
    expected = as_consumed(records, magic=magic, timestamp_type=kind, stamp=STAMP)
    assert list(iter_records(data)) == expected
    header = legacy_header(data, 0, len(data))
    assert check_legacy_crc(data, 0, header)
    assert header.magic == magic
    assert header.compression is codec
    assert header.last_offset == (records[-1] if codec else records[0]).offset
    assert first_offset(data, 0, header) == records[0].offset
    assert header.record_count == (UNKNOWN_COUNT if codec else 1)
    in_entry = expected if codec else expected[:1]
    assert header.max_timestamp == max(record.timestamp for record in in_entry)
    assert header.timestamp_type is (kind if magic else CREATE)
    assert header.attributes == codec | (8 if magic and kind else 0)
    assert not header.has_producer_id


@settings(deadline=None)
@given(record_lists(), magics, codecs, timestamp_types)
def test_an_upgraded_entry_has_the_same_records(
    records: list[Record], magic: int, codec: CompressionType, kind: TimestampType
) -> None:
    data = entries(records if codec else records[:1], codec, magic=magic, timestamp_type=kind, stamp=STAMP)
    expected = read_legacy_records(data)
    batch = upgrade(data)
    header = read_header(batch)
    assert check_crc(batch, 0, header)
    assert read_records(batch) == expected
    assert (header.magic, header.size, header.compression) == (2, len(batch), NONE)
    assert (header.base_offset, header.last_offset) == (expected[0].offset, expected[-1].offset)
    assert (header.record_count, header.last_offset) == (len(expected), legacy_header(data, 0, len(data)).last_offset)
    assert header.timestamp_type is (kind if magic else CREATE)
    assert header.max_timestamp == max(record.timestamp for record in expected)


@settings(deadline=None)
@given(record_lists(gaps=False), magics, codecs, timestamp_types)
def test_other_clients_read_the_same(
    records: list[Record], magic: int, codec: CompressionType, kind: TimestampType
) -> None:
    assume(codec != LZ4 or magic)  # aiokafka does not know the checksum of old producers
    data = entries(records if codec else records[:1], codec, magic=magic, timestamp_type=kind, stamp=STAMP)
    ours = read_legacy_records(data)
    assert consumed_by(AiokafkaBatch(data, magic), magic) == ours
    if codec in (NONE, GZIP):  # kafka-python needs more packages for the others
        assert consumed_by(KafkaPythonBatch(data, magic), magic) == ours


@settings(deadline=None)
@given(record_lists(gaps=False), magics, codecs)
def test_what_other_clients_make_is_read(records: list[Record], magic: int, codec: CompressionType) -> None:
    assume(codec != LZ4 or magic)
    builders = [AiokafkaBuilder] if codec in (SNAPPY, LZ4) else [AiokafkaBuilder, KafkaPythonBuilder]
    records = records if codec else records[:1]
    for builder_class in builders:
        builder = builder_class(magic, codec, 1 << 20)
        for index, record in enumerate(records):
            # Producers count from 0; the broker writes the offsets, inside of wrappers of magic 0, too.
            offset = index if magic else record.offset
            builder.append(offset, timestamp=record.timestamp, key=record.key, value=record.value)
        data = struct.pack(">q", records[-1].offset) + bytes(builder.build())[8:]
        assert read_legacy_records(data, verify_crc=True) == as_consumed(records, magic=magic)


@settings(deadline=None, max_examples=300)
@given(record_lists(max_size=4), magics, codecs, timestamp_types, st.data())
def test_a_changed_byte_is_noticed_or_moves_the_offset(
    records: list[Record], magic: int, codec: CompressionType, kind: TimestampType, draw: st.DataObject
) -> None:
    data = bytearray(entries(records if codec else records[:1], codec, magic=magic, timestamp_type=kind, stamp=STAMP))
    before = read_legacy_records(data)
    position = draw.draw(st.integers(0, len(data) - 1))
    data[position] ^= draw.draw(st.integers(1, 255))
    try:
        header = legacy_header(data, 0, len(data))
    except ValueError:
        assert position >= 8
    else:
        assert check_legacy_crc(data, 0, header) is (position < 8)
    try:
        after = list(read_legacy_records(data, verify_crc=True))
        upgrade(data)
    except ValueError:
        return
    assert position < 8
    assert [record[1:] for record in after] == [record[1:] for record in before]


@settings(deadline=None)
@given(record_lists(max_size=4), magics, codecs, st.data())
def test_an_entry_that_ends_too_early_is_refused(
    records: list[Record], magic: int, codec: CompressionType, draw: st.DataObject
) -> None:
    data = entries(records if codec else records[:1], codec, magic=magic)
    kept = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(ValueError, match="bytes"):
        read_legacy_records(data[:kept])


@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_bytes_are_read_or_refused(data: bytes, position: int) -> None:
    for read in (
        lambda: legacy_header(data, position, len(data) - position),
        lambda: read_legacy_records(data, position),
        lambda: upgrade(data, position),
    ):
        try:
            read()
        except ValueError:
            continue


def test_a_message_of_format_0_byte_by_byte() -> None:
    data = bytes.fromhex(
        "0000000000000007"  # offset
        "00000015"  # size
        "5a31ad8d"  # crc
        "00"  # magic
        "00"  # attributes
        "00000003" + b"key".hex() + "00000004" + b"Zeit".hex()
    )
    assert read_legacy_records(data, verify_crc=True) == [Record(7, -1, b"key", b"Zeit")]


def test_a_message_of_format_1_byte_by_byte() -> None:
    data = bytes.fromhex(
        "0000000000000008"  # offset
        "0000001a"  # size
        "ce09df72"  # crc
        "01"  # magic
        "00"  # attributes
        "0000015d30a4ad88"  # timestamp
        "ffffffff" + "00000004" + b"Zeit".hex()
    )
    assert read_legacy_records(data, verify_crc=True) == [Record(8, 1_499_759_685_000, None, b"Zeit")]


def test_the_checksum_that_old_producers_put_into_lz4_frames() -> None:
    # Apache Kafka 3.9.1 begins a frame in format 0 with 04224d1860401a; the specification asks for 82.
    assert _xxh32_of_few(bytes.fromhex("04224d186040")) >> 8 & 0xFF == 0x1A
    assert _xxh32_of_few(bytes.fromhex("6040")) >> 8 & 0xFF == 0x82
    inner = message(3, None, b"v", magic=0)
    frame = squeeze(inner, LZ4, 0)
    assert frame[:6] == compress(LZ4, inner)[:6]
    assert frame[6] != compress(LZ4, inner)[6]
    data = message(3, None, frame, magic=0, attributes=LZ4)
    assert read_legacy_records(data) == [Record(3, -1, None, b"v")]


def test_a_wrong_checksum_of_an_lz4_frame_is_refused_in_format_1() -> None:
    frame = squeeze(message(0, None, b"v", magic=1), LZ4, 0)
    with pytest.raises(ValueError, match="lz4"):
        read_legacy_records(message(3, None, frame, magic=1, attributes=LZ4))


def test_relative_offsets_keep_the_gaps_of_compaction() -> None:
    inner = message(4, b"a", b"", magic=1, timestamp=1) + message(9, b"b", None, magic=1, timestamp=2)
    data = message(109, None, squeeze(inner, GZIP, 1), magic=1, timestamp=2, attributes=GZIP)
    assert read_legacy_records(data) == [Record(104, 1, b"a", b""), Record(109, 2, b"b", None)]
    assert read_header(upgrade(data)).base_offset == 104


def test_a_wrapper_at_offset_0_has_absolute_offsets() -> None:
    inner = message(0, None, b"a", magic=1, timestamp=1)
    data = message(0, None, squeeze(inner, GZIP, 1), magic=1, timestamp=1, attributes=GZIP)
    assert read_legacy_records(data) == [Record(0, 1, None, b"a")]


def test_messages_of_format_0_in_a_wrapper_of_format_1_have_no_time() -> None:
    inner = message(0, None, b"a", magic=0) + message(1, None, b"b", magic=1, timestamp=5)
    data = message(8, None, squeeze(inner, GZIP, 1), magic=1, timestamp=STAMP, attributes=GZIP | 8)
    expected = [Record(7, -1, None, b"a"), Record(8, STAMP, None, b"b")]
    assert read_legacy_records(data) == expected
    assert read_records(upgrade(data)) == expected


def inside(inner: bytes, *, offset: int = 5, magic: int = 1, codec: CompressionType = GZIP) -> bytes:
    return message(offset, None, squeeze(inner, codec, magic), magic=magic, timestamp=9, attributes=codec)


ONE = message(0, None, b"v", magic=1, timestamp=9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(1, None, None, magic=1, attributes=GZIP), "null value"),
        (inside(b""), "no messages"),
        (inside(inside(ONE)), "compressed message"),
        (inside(ONE + ONE[:-1]), "35 bytes, 34 are there"),
        (inside(ONE + b"\0\0\0"), "too few"),
        (inside(message(6, None, b"v", magic=1)), "relative offset 6"),
        (message(1, None, squeeze(ONE, GZIP, 1)[:-3], magic=1, attributes=GZIP), "gzip: ends too early"),
        (message(1, None, b"no gzip", magic=0, attributes=GZIP), "gzip"),
        (message(1, None, b"v", magic=1, attributes=CompressionType.ZSTD), "codec 4"),
        (message(1, None, b"v", magic=0, attributes=7), "codec 7"),
        (message(1, None, b"v", magic=2), "magic 2"),
        (inside(message(0, None, b"v", magic=2)), "magic 2"),
        (struct.pack(">qiIbb", 1, 13, 0, 0, 0) + bytes(20), "13 bytes, the least are 14"),
        (struct.pack(">qiIbb", 1, 21, 0, 1, 0) + bytes(20), "21 bytes, the least are 22"),
        (struct.pack(">qiIbbii", 1, 14, 0, 0, 0, -2, -1), "key of -2"),
        (struct.pack(">qiIbbii", 1, 14, 0, 0, 0, -1, -2), "value of -2"),
        (struct.pack(">qiIbbii", 1, 14, 0, 0, 0, 1, -1), "key of 1"),
        (struct.pack(">qiIbbiib", 1, 15, 0, 0, 0, -1, 2, 0), "value of 2"),
        (struct.pack(">qiIbbiib", 1, 15, 0, 0, 0, -1, 0, 0), "value of 0"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_legacy_records(data)


def test_a_wrong_crc_inside_a_wrapper_is_noticed_on_request() -> None:
    data = inside(ONE[:-1] + b"w")
    assert read_legacy_records(data) == [Record(5, 9, None, b"w")]
    with pytest.raises(ValueError, match="wrong CRC"):
        read_legacy_records(data, verify_crc=True)


def test_no_more_than_the_limit_is_unpacked() -> None:
    data = wrapper([Record(0, 0, None, bytes(5000))], GZIP, magic=1)
    assert len(read_legacy_records(data, max_decompressed=6000)) == 1
    with pytest.raises(ValueError, match="more than 4000 bytes"):
        read_legacy_records(data, max_decompressed=4000)


def test_only_what_the_buffer_holds_of_a_long_message_is_checked() -> None:
    data = message(5, b"k" * 20, b"v" * 100, magic=1, timestamp=7)
    for held in range(34, len(data)):
        header = legacy_header(data[:held], 0, len(data))
        assert (header.base_offset, header.size, header.max_timestamp) == (5, len(data), 7)
    longer_key = data[:26] + struct.pack(">i", 119) + data[30:]
    assert legacy_header(longer_key[:34], 0, len(data))
    with pytest.raises(ValueError, match="key of 121"):
        legacy_header(data[:26] + struct.pack(">i", 121) + data[30:34], 0, len(data))


@pytest.mark.parametrize("offsets", [(3, 3), (4, 2), (1, 6)])
def test_what_is_out_of_order_is_not_upgraded(offsets: tuple[int, int]) -> None:
    inner = b"".join(message(offset, b"k", b"v", magic=0) for offset in offsets)
    with pytest.raises(ValueError, match=r"follows|holds a message with offset 6"):
        upgrade(inside(inner, magic=0))


def consumed_by(batch: Any, magic: int) -> list[Record]:
    assert batch.validate_crc()
    return [
        Record(
            record.offset,
            -1 if magic == 0 or record.timestamp is None else record.timestamp,  # aiokafka: None for -1
            None if record.key is None else bytes(record.key),
            None if record.value is None else bytes(record.value),
        )
        for record in batch
    ]
