"""Every rule of the table in `ottla.storage.validation`, with the error Kafka answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.records.batch import BatchHeader, check_crc, read_header, write_crc
from ottla.protocol.records.builder import Record, build_batch, wrap_body
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.records.reader import read_records
from ottla.storage import validation
from ottla.storage.config import LogConfig
from ottla.storage.validation import ValidatedBatch, validate_batch
from ottla.types import AppendOrigin, CompressionType, TimestampType

NOW = 1_700_000_000_000
CONFIG = LogConfig()
RECORDS = [Record(index, NOW - 10 + index, b"k%d" % index, b"value %d" % index) for index in range(5)]
CODECS = list(CompressionType)


def check(
    records: bytes | bytearray | memoryview,
    config: LogConfig = CONFIG,
    origin: AppendOrigin = AppendOrigin.CLIENT,
    api_version: int | None = 12,
) -> ValidatedBatch:
    return validate_batch(records, config=config, origin=origin, now_ms=NOW, api_version=api_version)


def refused(
    records: bytes | bytearray | memoryview, code: ErrorCode, config: LogConfig = CONFIG, **more: Any
) -> KafkaError:
    with pytest.raises(KafkaError) as caught:
        check(records, config, **more)
    assert caught.value.code is code, caught.value
    return caught.value


def batch(**more: Any) -> bytearray:
    return build_batch(RECORDS, **more)


def patched(position: int, value: int, size: int, data: bytearray | None = None, crc: bool = True) -> bytearray:
    """A batch with one header field changed, and the right CRC for it."""
    data = batch() if data is None else data
    data[position : position + size] = value.to_bytes(size, "big", signed=True)
    if crc:
        write_crc(data)
    return data


# ------------------------------------------------------------------------------------------------ accepted


@pytest.mark.parametrize("codec", CODECS)
def test_good_batch_is_returned_as_it_is(codec: CompressionType) -> None:
    data = batch(compression=codec, producer_id=4, producer_epoch=0, base_sequence=0, transactional=True)
    before = bytes(data)
    validated = check(data)
    assert validated.records is data
    assert data == before
    assert validated.header == read_header(before)
    assert validated.max_timestamp == RECORDS[-1].timestamp
    assert validated.offset_of_max_timestamp_delta == 4
    assert validated.log_append_time_ms == -1


def test_bytes_are_copied_so_that_offsets_can_be_written() -> None:
    data = bytes(batch())
    validated = check(data)
    assert bytes(validated.records) == data
    assert not memoryview(validated.records).readonly


def test_writable_view_is_used_in_place() -> None:
    frame = bytearray(b"head") + batch()
    view = memoryview(frame)[4:]
    validated = check(view)
    memoryview(validated.records)[0] = 1
    assert frame[4] == 1


def test_tail_too_short_for_another_batch_is_cut_off() -> None:
    data = batch()
    assert check(data + b"elevenbytes").records == data


def test_coordinator_may_write_markers_and_need_not_start_at_zero() -> None:
    marker = end_transaction_marker(
        ControlType.COMMIT, 3, timestamp_ms=NOW, producer_id=1, producer_epoch=0, base_offset=50
    )
    assert check(marker, origin=AppendOrigin.COORDINATOR).records == marker


def test_marker_is_not_compressed_by_the_topics_codec() -> None:
    marker = end_transaction_marker(ControlType.ABORT, 3, timestamp_ms=NOW, producer_id=1, producer_epoch=0)
    config = replace(CONFIG, compression_type="gzip")
    assert check(marker, config, origin=AppendOrigin.COORDINATOR).records == marker


# ------------------------------------------------------------------------------------------------ one batch of magic 2


@pytest.mark.parametrize("size", [0, 5, 11, 17, 60, 61, 100])
def test_partial_batch_is_no_batch(size: int) -> None:
    refused(batch()[:size], ErrorCode.INVALID_RECORD)


def test_two_batches_are_refused() -> None:
    refused(batch() + batch(), ErrorCode.INVALID_RECORD)


def test_garbage_after_the_batch_is_corrupt() -> None:
    refused(batch() + bytes(12), ErrorCode.CORRUPT_MESSAGE)


@pytest.mark.parametrize("length", [-1, 0, 13])
def test_length_too_short_for_any_format_is_corrupt(length: int) -> None:
    refused(patched(8, length, 4, crc=False), ErrorCode.CORRUPT_MESSAGE)


def test_batch_shorter_than_its_header_is_corrupt() -> None:
    refused(patched(8, 48, 4, crc=False)[:60], ErrorCode.CORRUPT_MESSAGE)


@pytest.mark.parametrize(
    ("magic", "code"),
    [
        (0, ErrorCode.INVALID_RECORD),
        (1, ErrorCode.INVALID_RECORD),
        (3, ErrorCode.CORRUPT_MESSAGE),
        (-1, ErrorCode.CORRUPT_MESSAGE),
    ],
)
def test_other_magics_are_refused(magic: int, code: ErrorCode) -> None:
    refused(patched(16, magic, 1), code)


def test_zstd_needs_produce_7() -> None:
    data = batch(compression=CompressionType.ZSTD)
    refused(data, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, api_version=6)
    check(data, api_version=7)
    check(data, api_version=None)


# ------------------------------------------------------------------------------------------------ header


def test_base_offset_must_be_zero() -> None:
    refused(build_batch(RECORDS, base_offset=-1), ErrorCode.INVALID_RECORD)
    refused(build_batch([Record(7, NOW, b"k", b"v")]), ErrorCode.INVALID_RECORD)


def test_batch_above_max_message_bytes_is_too_large() -> None:
    data = batch()
    check(bytes(data), replace(CONFIG, max_message_bytes=len(data)))
    refused(data, ErrorCode.MESSAGE_TOO_LARGE, replace(CONFIG, max_message_bytes=len(data) - 1))


def test_batch_above_segment_bytes_is_a_list_too_large() -> None:
    data = batch()
    refused(data, ErrorCode.RECORD_LIST_TOO_LARGE, replace(CONFIG, segment_bytes=len(data) - 1))


def test_size_is_checked_before_the_crc() -> None:
    data = batch()
    data[-1] ^= 1
    refused(data, ErrorCode.MESSAGE_TOO_LARGE, replace(CONFIG, max_message_bytes=len(data) - 1))
    refused(data, ErrorCode.CORRUPT_MESSAGE)


@settings(deadline=None)
@given(position=st.integers(17, len(batch()) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_corrupt(position: int, bit: int) -> None:
    data = batch()
    data[position] ^= 1 << bit
    # zstd's number in a flipped attribute is no matter at version 12
    refused(data, ErrorCode.CORRUPT_MESSAGE)


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_unknown_codec_is_an_unknown_server_error_as_in_kafka(codec: int) -> None:
    refused(patched(21, codec, 2), ErrorCode.UNKNOWN_SERVER_ERROR)


@pytest.mark.parametrize("count", [-1, 0, 4, 6, 2**31 - 1])
def test_count_must_be_the_range_of_offsets(count: int) -> None:
    refused(patched(57, count, 4), ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("delta", [-1, -(2**31), 3, 5, 2**31 - 1])
def test_range_of_offsets_must_be_the_count(delta: int) -> None:
    refused(patched(23, delta, 4), ErrorCode.INVALID_RECORD)


def test_clients_may_not_write_control_batches() -> None:
    marker = end_transaction_marker(ControlType.COMMIT, 3, timestamp_ms=NOW, producer_id=1, producer_epoch=0)
    refused(marker, ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("sequence", [-1, -2])
def test_idempotent_batch_needs_a_sequence(sequence: int) -> None:
    refused(batch(producer_id=1, producer_epoch=0, base_sequence=sequence), ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("count", [-1, 1])
def test_coordinators_count_is_checked_too(count: int) -> None:
    data = patched(57, count, 4, patched(8, 49, 4, batch()[:61], crc=False))
    refused(data, ErrorCode.INVALID_RECORD, origin=AppendOrigin.COORDINATOR)


# ------------------------------------------------------------------------------------------------ records


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [4, 6])
def test_records_must_be_as_many_as_the_header_says(codec: CompressionType, count: int) -> None:
    data = batch(compression=codec)
    refused(patched(57, count, 4, patched(23, count - 1, 4, data)), ErrorCode.INVALID_RECORD)


@settings(deadline=None)
@given(st.binary(max_size=30), st.sampled_from(CODECS))
def test_malformed_records_are_invalid(body: bytes, codec: CompressionType) -> None:
    data = wrap_body(
        b"\x7f" + body,
        base_offset=0,
        last_offset_delta=0,
        record_count=1,
        base_timestamp=NOW,
        max_timestamp=NOW,
        attributes=codec,
    )
    refused(data, ErrorCode.INVALID_RECORD)


@pytest.mark.parametrize("codec", CODECS)
def test_length_beyond_32_bits_is_an_unknown_server_error_unless_compressed(codec: CompressionType) -> None:
    data = wrap_body(
        b"\xff" * 20,
        base_offset=0,
        last_offset_delta=0,
        record_count=1,
        base_timestamp=NOW,
        max_timestamp=NOW,
        attributes=codec,
    )
    refused(data, ErrorCode.INVALID_RECORD if codec else ErrorCode.UNKNOWN_SERVER_ERROR)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_what_the_codec_cannot_read_is_an_unknown_server_error_as_in_kafka(codec: CompressionType) -> None:
    data = batch()
    refused(patched(21, codec, 2, data), ErrorCode.UNKNOWN_SERVER_ERROR)


@pytest.mark.parametrize("codec", CODECS)
def test_large_record_counts_only_decompressed(codec: CompressionType) -> None:
    """max.decompressed.message.bytes is about one record, and about compressed batches."""
    config = replace(CONFIG, max_decompressed_message_bytes=100)
    small = build_batch([Record(index, NOW, None, bytes(80)) for index in range(20)], compression=codec)
    check(small, config)
    large = build_batch([Record(0, NOW, None, bytes(120))], compression=codec)
    if codec:
        refused(large, ErrorCode.INVALID_RECORD, config)
    else:
        check(large, config)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_bomb_is_refused(codec: CompressionType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MAX_BODY_SIZE", 10_000)
    check(build_batch([Record(index, NOW, None, bytes(90)) for index in range(100)], compression=codec))
    bomb = build_batch([Record(index, NOW, None, bytes(90)) for index in range(110)], compression=codec)
    refused(bomb, ErrorCode.INVALID_RECORD)


OFFSETS = [(0, 2, 3), (1, 0, 2), (0, 0, 0), (5, 6, 7)]


def misnumbered(offsets: tuple[int, ...], codec: CompressionType) -> tuple[list[Record], bytearray]:
    records = [Record(offset, NOW + offset, b"k", b"%d" % offset, (("h", None),)) for offset in offsets]
    data = build_batch(
        records, base_offset=0, compression=codec, last_offset_delta=2, producer_id=9, producer_epoch=1, base_sequence=7
    )
    return records, data


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("target", ["producer", "gzip"])
def test_wrong_offset_deltas_are_renumbered(offsets: tuple[int, ...], target: str) -> None:
    """Kafka accepts them too; of an uncompressed batch it keeps even the wrong deltas, which we do not."""
    for codec in (CompressionType.NONE,) if target == "producer" else (CompressionType.NONE, CompressionType.ZSTD):
        records, data = misnumbered(offsets, codec)
        validated = check(data, replace(CONFIG, compression_type=target))
        assert check_crc(validated.records, 0, validated.header)
        assert validated.header.last_sequence == 9
        assert read_records(validated.records) == [
            record._replace(offset=index) for index, record in enumerate(records)
        ]


@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("offsets", OFFSETS)
def test_wrong_offset_deltas_in_a_compressed_batch_are_an_unknown_server_error(
    offsets: tuple[int, ...], codec: CompressionType
) -> None:
    _, data = misnumbered(offsets, codec)
    refused(data, ErrorCode.UNKNOWN_SERVER_ERROR)
    refused(data, ErrorCode.UNKNOWN_SERVER_ERROR, replace(CONFIG, compression_type=codec.name.lower()))


# ------------------------------------------------------------------------------------------------ compacted topics


@pytest.mark.parametrize("codec", CODECS)
def test_compacted_topic_needs_keys_and_names_the_records_without(codec: CompressionType) -> None:
    records = [Record(index, NOW, None if index in (1, 3) else b"k", b"v") for index in range(5)]
    data = build_batch(records, compression=codec)
    check(data)
    error = refused(data, ErrorCode.INVALID_RECORD, replace(CONFIG, cleanup_compact=True))
    assert [index for index, _ in error.record_errors] == [1, 3]
    assert "key" in error.record_errors[0][1]


def test_tombstones_are_welcome_in_compacted_topics() -> None:
    check(build_batch([Record(0, NOW, b"k", None)]), replace(CONFIG, cleanup_compact=True))


# ------------------------------------------------------------------------------------------------ timestamps

LIMITS = replace(CONFIG, message_timestamp_before_max_ms=1000, message_timestamp_after_max_ms=500)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("timestamp", "accepted"),
    [(NOW - 1000, True), (NOW - 1001, False), (NOW + 500, True), (NOW + 501, False), (-1, True)],
)
def test_timestamps_must_lie_within_the_limits(codec: CompressionType, timestamp: int, accepted: bool) -> None:
    data = build_batch([Record(0, NOW, None, b""), Record(1, timestamp, None, b"")], compression=codec)
    if accepted:
        check(data, LIMITS)
        return
    error = refused(data, ErrorCode.INVALID_TIMESTAMP, LIMITS)
    assert [index for index, _ in error.record_errors] == [1]
    assert str(timestamp) in error.record_errors[0][1]


def test_an_hour_ahead_is_refused_by_default() -> None:
    refused(build_batch([Record(0, NOW + 3_600_001, None, b"")]), ErrorCode.INVALID_TIMESTAMP)
    check(build_batch([Record(0, NOW + 3_600_000, None, b"")]))


def test_one_wrong_time_decides_the_code_of_a_batch_without_keys() -> None:
    records = [Record(0, NOW, None, b""), Record(1, NOW - 5000, b"k", b"")]
    error = refused(build_batch(records), ErrorCode.INVALID_TIMESTAMP, replace(LIMITS, cleanup_compact=True))
    assert [index for index, _ in error.record_errors] == [0, 1]


def test_no_more_than_a_thousand_records_are_named() -> None:
    records = [Record(index, NOW, None, b"") for index in range(1500)]
    error = refused(build_batch(records), ErrorCode.INVALID_RECORD, replace(CONFIG, cleanup_compact=True))
    assert len(error.record_errors) == 1000


def test_walk_for_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_RECORDS_NAMED_MAX", 3)
    records = [Record(index, NOW if index < 4 else 1, b"k", b"") for index in range(5)]
    assert refused(build_batch(records), ErrorCode.INVALID_TIMESTAMP, LIMITS).record_errors == []


@pytest.mark.parametrize("codec", CODECS)
def test_wrong_max_timestamp_is_corrected(codec: CompressionType) -> None:
    validated = check(batch(compression=codec, max_timestamp=NOW + 100_000))
    assert validated.max_timestamp == validated.header.max_timestamp == RECORDS[-1].timestamp
    assert check_crc(validated.records, 0, validated.header)


APPEND_TIME = replace(CONFIG, message_timestamp_type="LogAppendTime")


@pytest.mark.parametrize("codec", CODECS)
def test_log_append_time_rewrites_only_the_header(codec: CompressionType) -> None:
    data = batch(compression=codec)
    body = bytes(data[61:])
    validated = check(data, APPEND_TIME)
    assert validated.records is data
    assert data[61:] == body
    assert check_crc(data, 0, validated.header)
    assert validated.log_append_time_ms == validated.max_timestamp == NOW
    assert [record.timestamp for record in read_records(data)] == [NOW] * 5


def test_log_append_time_ignores_the_producers_times() -> None:
    check(build_batch([Record(0, 1, None, b"")]), replace(LIMITS, message_timestamp_type="LogAppendTime"))


def test_producer_may_not_claim_log_append_time() -> None:
    data = batch(timestamp_type=TimestampType.LOG_APPEND_TIME)
    error = refused(data, ErrorCode.INVALID_TIMESTAMP, APPEND_TIME)
    assert len(error.record_errors) == 5


def test_claimed_log_append_time_becomes_create_time() -> None:
    validated = check(batch(timestamp_type=TimestampType.LOG_APPEND_TIME, max_timestamp=NOW + 5))
    assert validated.header.timestamp_type is TimestampType.CREATE_TIME
    assert validated.max_timestamp == NOW + 5


def test_claimed_log_append_time_without_a_time_is_refused() -> None:
    data = batch(timestamp_type=TimestampType.LOG_APPEND_TIME, max_timestamp=-1)
    assert len(refused(data, ErrorCode.INVALID_TIMESTAMP).record_errors) == 5


# ------------------------------------------------------------------------------------------------ recompression


@pytest.mark.parametrize("append_time", [False, True])
@pytest.mark.parametrize("target", ["uncompressed", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("codec", CODECS)
def test_topics_codec_wins(codec: CompressionType, target: str, append_time: bool) -> None:
    config = replace(APPEND_TIME if append_time else CONFIG, compression_type=target)
    data = batch(compression=codec, producer_id=3, producer_epoch=2, base_sequence=11)
    before = bytes(data)
    wanted = CompressionType.NONE if target == "uncompressed" else CompressionType[target.upper()]
    validated = check(data, config)
    header = validated.header
    assert header.compression is wanted
    assert check_crc(validated.records, 0, header)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.record_count) == (3, 2, 11, 5)
    times = [NOW] * 5 if append_time else [record.timestamp for record in RECORDS]
    assert read_records(validated.records) == [
        record._replace(timestamp=time) for record, time in zip(RECORDS, times, strict=True)
    ]
    if wanted is codec and not append_time:
        assert bytes(validated.records) == before


def test_level_of_the_topic_is_used() -> None:
    text = b"".join(b'{"id":%d,"delay":%d}' % (index * 7919 % 1000, index % 60) for index in range(3000))
    data = bytes(build_batch([Record(0, NOW, None, text)]))

    def size(**config: Any) -> int:
        return check(data, replace(CONFIG, **config)).header.size

    assert size(compression_type="gzip", compression_gzip_level=9) < size(
        compression_type="gzip", compression_gzip_level=1
    )
    assert size(compression_type="lz4", compression_lz4_level=12) < size(
        compression_type="lz4", compression_lz4_level=1
    )
    assert size(compression_type="zstd", compression_zstd_level=19) < size(
        compression_type="zstd", compression_zstd_level=-5
    )


def test_size_counts_again_after_recompression() -> None:
    data = build_batch([Record(0, NOW, None, bytes(10_000))], compression=CompressionType.GZIP)
    config = replace(CONFIG, max_message_bytes=1000)
    check(bytes(data), config)
    refused(data, ErrorCode.MESSAGE_TOO_LARGE, replace(config, compression_type="uncompressed"))


# ------------------------------------------------------------------------------------------------ anything at all


@settings(deadline=None)
@given(
    fields=st.lists(
        st.sampled_from(
            [(8, 4), (16, 1), (21, 2), (23, 4), (27, 8), (35, 8), (43, 8), (51, 2), (53, 4), (57, 4)]
        ).flatmap(
            lambda field: st.tuples(
                st.just(field), st.integers(-(2 ** (field[1] * 8 - 1)), 2 ** (field[1] * 8 - 1) - 1)
            )
        ),
        max_size=3,
    ),
    tail=st.binary(max_size=40),
    origin=st.sampled_from([AppendOrigin.CLIENT, AppendOrigin.COORDINATOR]),
    config=st.sampled_from(
        [CONFIG, LIMITS, APPEND_TIME, replace(CONFIG, compression_type="gzip", cleanup_compact=True)]
    ),
)
def test_any_header_is_answered_by_a_code_or_a_sound_batch(
    fields: list[tuple[tuple[int, int], int]], tail: bytes, origin: AppendOrigin, config: LogConfig
) -> None:
    data = batch()[:61] + tail
    data[8:12] = (len(data) - 12).to_bytes(4, "big")
    for (position, size), value in fields:
        data[position : position + size] = value.to_bytes(size, "big", signed=True)
    if read_header(data).size == len(data):
        write_crc(data)
    try:
        validated = check(data, config, origin)
    except KafkaError:
        return
    header: BatchHeader = validated.header
    assert check_crc(validated.records, 0, header)
    assert len(read_records(validated.records)) == header.record_count
