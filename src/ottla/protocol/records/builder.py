"""Making record batches: for coordinators, markers, the cleaner, tests and, later, the client.

A batch made here is byte for byte what Kafka's MemoryRecordsBuilder makes of the same records (KIP-98 format): base
timestamp is the first record's, max timestamp the largest, and the body is compressed as one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    CONTROL_BIT,
    DELETE_HORIZON_BIT,
    HEADER,
    HEADER_SIZE,
    LOG_OVERHEAD,
    MAGIC,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    TIMESTAMP_TYPE_BIT,
    TRANSACTIONAL_BIT,
    write_crc,
)
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.compression import compress
from ottla.types import CompressionType, TimestampType


class Record(NamedTuple):
    """One record with its absolute offset and timestamp. A null value is a tombstone in compacted topics."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def build_batch(
    records: Sequence[Record],
    *,
    base_offset: int | None = None,
    leader_epoch: int = -1,
    compression: CompressionType = CompressionType.NONE,
    level: int | None = None,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    max_timestamp: int | None = None,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    transactional: bool = False,
    control: bool = False,
    last_offset_delta: int | None = None,
    delete_horizon_ms: int | None = None,
) -> bytearray:
    """Return the records as one batch, CRC included.

    Args:
        records: at least one; offsets within 2^31 of the base offset, in rising order.
        base_offset: of the batch; None takes the first record's.
        level: of the codec; None takes Kafka's default.
        max_timestamp: None takes the largest of the records.
        last_offset_delta: None takes the last record's. The cleaner keeps the original one.
        delete_horizon_ms: written as base timestamp, with attribute bit 6 (KIP-534).

    Raises:
        ValueError: no records, or an offset delta beyond 32 bits.
    """
    if not records:
        raise ValueError("a batch needs a record; build_empty_batch makes one without")
    first = records[0]
    base = first.offset if base_offset is None else base_offset
    base_timestamp = first.timestamp if delete_horizon_ms is None else delete_horizon_ms
    body: Buffer = kernels.encode_records(list(records), base, base_timestamp)
    return wrap_body(
        body,
        base_offset=base,
        last_offset_delta=records[-1].offset - base if last_offset_delta is None else last_offset_delta,
        record_count=len(records),
        base_timestamp=base_timestamp,
        max_timestamp=max(record.timestamp for record in records) if max_timestamp is None else max_timestamp,
        attributes=make_attributes(compression, timestamp_type, transactional, control, delete_horizon_ms is not None),
        level=level,
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def wrap_body(
    body: Buffer,
    *,
    base_offset: int,
    last_offset_delta: int,
    record_count: int,
    base_timestamp: int,
    max_timestamp: int,
    attributes: int,
    level: int | None = None,
    leader_epoch: int = -1,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
) -> bytearray:
    """Return a batch around encoded, uncompressed records; they are compressed with the codec in `attributes`."""
    codec = CompressionType(attributes & 0x07)
    return wrap_packed(
        body if codec == CompressionType.NONE else compress(codec, body, level),
        base_offset=base_offset,
        last_offset_delta=last_offset_delta,
        record_count=record_count,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        attributes=attributes,
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def wrap_packed(
    packed: Buffer,
    *,
    base_offset: int,
    last_offset_delta: int,
    record_count: int,
    base_timestamp: int,
    max_timestamp: int,
    attributes: int,
    leader_epoch: int = -1,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
) -> bytearray:
    """Return a batch around records that are encoded, and compressed with the codec in `attributes`, already."""
    batch = bytearray(HEADER_SIZE)
    batch += packed
    HEADER.pack_into(
        batch,
        0,
        base_offset,
        len(batch) - LOG_OVERHEAD,
        leader_epoch,
        MAGIC,
        0,
        attributes,
        last_offset_delta,
        base_timestamp,
        max_timestamp,
        producer_id,
        producer_epoch,
        base_sequence,
        record_count,
    )
    write_crc(batch)
    return batch


def build_empty_batch(
    *,
    base_offset: int,
    last_offset: int,
    max_timestamp: int,
    leader_epoch: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    transactional: bool = False,
    control: bool = False,
) -> bytearray:
    """Return a batch without records: what compaction leaves of one whose offsets and sequences are still needed."""
    return wrap_body(
        b"",
        base_offset=base_offset,
        last_offset_delta=last_offset - base_offset,
        record_count=0,
        base_timestamp=NO_TIMESTAMP,
        max_timestamp=max_timestamp,
        attributes=make_attributes(CompressionType.NONE, timestamp_type, transactional, control, False),
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def make_attributes(
    compression: CompressionType, timestamp_type: TimestampType, transactional: bool, control: bool, horizon: bool
) -> int:
    """Return the attribute bits of a batch."""
    return (
        compression
        | (TIMESTAMP_TYPE_BIT if timestamp_type else 0)
        | (TRANSACTIONAL_BIT if transactional else 0)
        | (CONTROL_BIT if control else 0)
        | (DELETE_HORIZON_BIT if horizon else 0)
    )
