"""The record batch header (magic 2), read and patched in place.

A batch is the unit of everything: what producers send, what lies on disk, what consumers get. The broker treats it as
bytes and touches only the 61 bytes in front; records are read by `reader`, checked by the kernels. The CRC covers the
bytes from 21 (attributes) to the end, so base offset and leader epoch can be written without touching it, and a
timestamp type cannot.

    0 baseOffset i64 · 8 batchLength i32 (bytes after this field) · 12 partitionLeaderEpoch i32 · 16 magic i8 · 17 crc
    u32 21 attributes i16 · 23 lastOffsetDelta i32 · 27 baseTimestamp i64 · 35 maxTimestamp i64 · 43 producerId i64
    51 producerEpoch i16 · 53 baseSequence i32 · 57 recordCount i32 · 61 records

Source: KIP-98 (format), KIP-534 (delete horizon), Kafka's DefaultRecordBatch. Positions are into the caller's buffer.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ottla.protocol.records.checksum import Buffer, crc32c
from ottla.types import CompressionType, TimestampType

#: Bytes of a batch before its records.
HEADER_SIZE = 61
#: Bytes that `batch_length` does not count: base offset and the length itself.
LOG_OVERHEAD = 12
MAGIC = 2
MAX_SEQUENCE = 0x7FFFFFFF
NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1

MAGIC_POSITION = 16
CRC_POSITION = 17
#: Where the low byte of the attributes is, with the codec in it.
ATTRIBUTES_END = 22
ATTRIBUTES_POSITION = 21
MAX_TIMESTAMP_POSITION = 35

COMPRESSION_MASK = 0x07
TIMESTAMP_TYPE_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
DELETE_HORIZON_BIT = 0x40

HEADER = struct.Struct(">qiibIhiqqqhii")
#: The first 16 bytes: what a leader writes, and the length between.
OFFSET_LENGTH_EPOCH = struct.Struct(">qii")
_OFFSET = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_EPOCH = struct.Struct(">i")
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_TIMESTAMP = struct.Struct(">q")


class BatchHeader(NamedTuple):
    """The 61 bytes in front of a batch's records, as numbers."""

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size(self) -> int:
        """The whole batch in bytes, header included."""
        return LOG_OVERHEAD + self.batch_length

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def compression_id(self) -> int:
        """The codec bits, which may name no codec (5-7): see `compression`."""
        return self.attributes & COMPRESSION_MASK

    @property
    def compression(self) -> CompressionType:
        """The codec.

        Raises:
            ValueError: the bits name no codec that Kafka knows.
        """
        return CompressionType(self.attributes & COMPRESSION_MASK)

    @property
    def timestamp_type(self) -> TimestampType:
        return TimestampType.LOG_APPEND_TIME if self.attributes & TIMESTAMP_TYPE_BIT else TimestampType.CREATE_TIME

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL_BIT)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL_BIT)

    @property
    def has_delete_horizon(self) -> bool:
        """Whether `base_timestamp` is the time from which tombstones and markers of this batch may go (KIP-534)."""
        return bool(self.attributes & DELETE_HORIZON_BIT)

    @property
    def delete_horizon_ms(self) -> int | None:
        return self.base_timestamp if self.attributes & DELETE_HORIZON_BIT else None

    @property
    def has_producer_id(self) -> bool:
        return self.producer_id > NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record; after 2^31-1 comes 0. -1 for a batch without sequences."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return increment_sequence(self.base_sequence, self.last_offset_delta)


def increment_sequence(sequence: int, increment: int) -> int:
    """Return the sequence `increment` records later; after 2^31-1 comes 0."""
    return (sequence + increment) & MAX_SEQUENCE


def read_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """Return the header at `position`, whatever it says: nothing is checked.

    Raises:
        struct.error: fewer than 61 bytes are left.
    """
    return BatchHeader._make(HEADER.unpack_from(buffer, position))


def check_crc(buffer: Buffer, position: int, header: BatchHeader) -> bool:
    """Return whether the CRC of the batch at `position` is right. A batch shorter than its header is wrong."""
    size = LOG_OVERHEAD + header.batch_length
    if size < HEADER_SIZE or position + size > len(buffer):
        return False
    return crc32c(memoryview(buffer)[position + ATTRIBUTES_POSITION : position + size]) == header.crc


def set_offset_and_epoch(buffer: bytearray | memoryview, position: int, base_offset: int, leader_epoch: int) -> None:
    """Write base offset and leader epoch in place. The CRC does not cover them."""
    _OFFSET.pack_into(buffer, position, base_offset)
    _EPOCH.pack_into(buffer, position + 12, leader_epoch)


def set_timestamp_type(
    buffer: bytearray | memoryview, position: int, timestamp_type: TimestampType, max_timestamp_ms: int
) -> bool:
    """Write timestamp type and max timestamp in place, and a new CRC if either changed; return whether."""
    (attributes,) = _ATTRIBUTES.unpack_from(buffer, position + ATTRIBUTES_POSITION)
    (max_timestamp,) = _TIMESTAMP.unpack_from(buffer, position + MAX_TIMESTAMP_POSITION)
    wanted = attributes & ~TIMESTAMP_TYPE_BIT | (TIMESTAMP_TYPE_BIT if timestamp_type else 0)
    if wanted == attributes and max_timestamp == max_timestamp_ms:
        return False
    _ATTRIBUTES.pack_into(buffer, position + ATTRIBUTES_POSITION, wanted)
    _TIMESTAMP.pack_into(buffer, position + MAX_TIMESTAMP_POSITION, max_timestamp_ms)
    write_crc(buffer, position)
    return True


def set_log_append_time(buffer: bytearray | memoryview, position: int, timestamp_ms: int) -> None:
    """Stamp the batch with the broker's time: attribute bit 3, max timestamp, CRC. Records keep their deltas."""
    set_timestamp_type(buffer, position, TimestampType.LOG_APPEND_TIME, timestamp_ms)


def write_crc(buffer: bytearray | memoryview, position: int = 0) -> None:
    """Compute and write the CRC of the batch at `position`; its length must be right already."""
    (length,) = _LENGTH.unpack_from(buffer, position + 8)
    # The view must be gone before a bytearray may grow again.
    with memoryview(buffer) as view:
        crc = crc32c(view[position + ATTRIBUTES_POSITION : position + LOG_OVERHEAD + length])
    _CRC.pack_into(buffer, position + CRC_POSITION, crc)
