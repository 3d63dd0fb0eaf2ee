"""Message formats 0 and 1 (magic 0 and 1): read, never written. Directories that an older Kafka wrote still hold them.

An entry is one message. One with a codec is a *wrapper*: its value is a run of entries, compressed as one block, and its
offset is that of the last of them.

    0 offset i64 · 8 size i32 (bytes after this field) · 12 crc u32 · 16 magic i8 · 17 attributes i8 (0-2 codec, 3
    timestamp type, magic 1 only) · [18 timestamp i64, magic 1 only] · key length i32 · key · value length i32 · value

The CRC is CRC-32 (zlib's) of what follows it; a length of -1 is null. Inside a wrapper offsets are absolute in magic 0
and relative in magic 1 (KIP-31: the last one belongs to the wrapper's offset); timestamps are the messages' own, or the
wrapper's where the broker stamped it (KIP-32). Kafka's AbstractLegacyRecordBatch and LegacyRecord read the same.
Positions are into the caller's buffer.
"""

from __future__ import annotations

import struct
import zlib

from ottla.protocol.records.batch import (
    COMPRESSION_MASK,
    LOG_OVERHEAD,
    MAGIC,
    MAGIC_POSITION,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    TIMESTAMP_TYPE_BIT,
    BatchHeader,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.compression import MAX_BODY_SIZE, decompress
from ottla.types import CompressionType, TimestampType

#: The least `size` of a message: crc, magic, attributes, timestamp (magic 1), two lengths. Indexed by magic.
SIZE_MIN = (14, 22)
#: The least bytes of an entry, indexed by magic: as many must be there to read its header.
ENTRY_MIN = (LOG_OVERHEAD + SIZE_MIN[0], LOG_OVERHEAD + SIZE_MIN[1])
#: The `record_count` of a wrapper: how many messages it holds is known when it is unpacked.
UNKNOWN_COUNT = -1

_CODECS = (CompressionType.NONE, CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4)
_FRONT = struct.Struct(">qiIbb")
_TIMESTAMP = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_FRONT_END = _FRONT.size
_TIMESTAMP_END = _FRONT_END + _TIMESTAMP.size
_LZ4_MAGIC = b"\x04\x22\x4d\x18"


def legacy_header(buffer: Buffer, position: int, available: int) -> BatchHeader:
    """Return the header of the entry at `position` in the shape that batches of magic 2 have.

    `base_offset` and `last_offset` both are the entry's offset: in a wrapper that is the *last* message's, the first
    one's is known after unpacking. Both timestamps are the entry's (of a wrapper: the largest inside it), -1 for magic
    0. `attributes` holds the codec and, for magic 1, the timestamp type. `record_count` is 1, or -1 for a wrapper. What
    these formats do not have (producer, sequence, leader epoch) is -1.

    `available` says how many bytes there are from `position` on, wherever they are. The buffer may hold fewer: what it
    holds is checked. An entry that is longer than `available` is not refused: as with magic 2, the caller compares
    `size`.

    Raises:
        ValueError: the entry does not add up: too short, lengths of key and value that do not fill it, a codec that
            these formats do not have, another magic.
    """
    end = min(len(buffer), position + available)
    if end - position < ENTRY_MIN[0]:
        raise ValueError(f"{end - position} bytes are too few for a message of format 0 or 1")
    offset, size, crc, magic, attributes = _FRONT.unpack_from(buffer, position)
    if not 0 <= magic < MAGIC:
        raise ValueError(f"magic {magic} is not message format 0 or 1")
    if size < SIZE_MIN[magic]:
        raise ValueError(f"a message of format {magic} says it has {size} bytes, the least are {SIZE_MIN[magic]}")
    if end - position < ENTRY_MIN[magic]:
        raise ValueError(f"{end - position} bytes are too few for a message of format {magic}")
    codec = attributes & COMPRESSION_MASK
    if codec not in _CODECS:
        raise ValueError(f"codec {codec} does not exist in message format {magic}")
    timestamp, kept = NO_TIMESTAMP, COMPRESSION_MASK
    if magic:
        (timestamp,) = _TIMESTAMP.unpack_from(buffer, position + _FRONT_END)
        kept = COMPRESSION_MASK | TIMESTAMP_TYPE_BIT
    _key_and_value(buffer, position, end, magic, size)
    return BatchHeader(
        base_offset=offset,
        batch_length=size,
        partition_leader_epoch=-1,
        magic=magic,
        crc=crc,
        attributes=attributes & kept,
        last_offset_delta=0,
        base_timestamp=timestamp,
        max_timestamp=timestamp,
        producer_id=NO_PRODUCER_ID,
        producer_epoch=NO_PRODUCER_EPOCH,
        base_sequence=NO_SEQUENCE,
        record_count=UNKNOWN_COUNT if codec else 1,
    )


def check_legacy_crc(buffer: Buffer, position: int, header: BatchHeader) -> bool:
    """Return whether the CRC of the entry at `position` is right. One that ends too early is wrong."""
    if header.batch_length < SIZE_MIN[0] or position + header.size > len(buffer):
        return False
    return zlib.crc32(memoryview(buffer)[position + MAGIC_POSITION : position + header.size]) == header.crc


def read_legacy_records(
    buffer: Buffer, position: int = 0, *, max_decompressed: int = MAX_BODY_SIZE, verify_crc: bool = False
) -> list[Record]:
    """Return the records of the entry at `position`, with absolute offsets and the timestamps a consumer sees.

    Records of magic 0 have timestamp -1. The entry must be there as a whole. `verify_crc` looks at the CRC of the entry
    and of each message inside it.

    Raises:
        ValueError: the entry is damaged, in itself or inside: it ends too early, holds nothing, holds compressed
            messages, its codec cannot read it or it grows beyond `max_decompressed`.
    """
    header = _whole_header(buffer, position, verify_crc)
    key, value = _contents(buffer, position, header)
    codec = header.compression
    if not codec:
        return [Record(header.base_offset, header.max_timestamp, key, value)]
    if value is None:
        raise ValueError(f"the wrapper at offset {header.base_offset} has a null value")
    if codec == CompressionType.LZ4 and header.magic == 0:
        value = _with_right_lz4_checksum(value)
    records = _inner_records(decompress(codec, value, max_decompressed), header, verify_crc)
    if not records:
        raise ValueError(f"the wrapper at offset {header.base_offset} holds no messages")
    shift = _offset_shift(header, records[-1].offset)
    return [record._replace(offset=record.offset + shift) for record in records] if shift else records


def first_offset(buffer: Buffer, position: int, header: BatchHeader) -> int:
    """Return the offset of the first record of a batch of any format, which must be there as a whole.

    Raises:
        ValueError: it is a wrapper and damaged.
    """
    is_wrapper = header.magic < MAGIC and header.compression_id
    return read_legacy_records(buffer, position)[0].offset if is_wrapper else header.base_offset


def upgrade(buffer: Buffer, position: int = 0, *, max_decompressed: int = MAX_BODY_SIZE) -> bytearray:
    """Return the records of the entry at `position` as one uncompressed batch of magic 2.

    Offsets, timestamps and the timestamp type are the same; base offset and last offset are those of the first and last
    record. Meant for compaction, whose kernels read magic 2 only: nothing on disk or on its way to a client is upgraded.

    Raises:
        ValueError: the entry is damaged (see `read_legacy_records`), or its offsets do not rise, or they pass its own.
    """
    records = read_legacy_records(buffer, position, max_decompressed=max_decompressed)
    header = legacy_header(buffer, position, len(buffer) - position)
    previous = -1
    for record in records:
        if record.offset <= previous:
            raise ValueError(f"in the wrapper at offset {header.base_offset}, {record.offset} follows {previous}")
        previous = record.offset
    if previous > header.last_offset:
        raise ValueError(f"the wrapper at offset {header.base_offset} holds a message with offset {previous}")
    kind = header.timestamp_type
    if any(record.timestamp != header.max_timestamp for record in records):
        kind = TimestampType.CREATE_TIME  # messages of magic 0 inside a stamped wrapper have no time
    return build_batch(records, timestamp_type=kind)


def _whole_header(buffer: Buffer, position: int, verify_crc: bool) -> BatchHeader:
    available = len(buffer) - position
    header = legacy_header(buffer, position, available)
    if header.size > available:
        raise ValueError(f"the message at offset {header.base_offset} has {header.size} bytes, {available} are there")
    if verify_crc and not check_legacy_crc(buffer, position, header):
        raise ValueError(f"the message at offset {header.base_offset} has a wrong CRC")
    return header


def _contents(buffer: Buffer, position: int, header: BatchHeader) -> tuple[bytes | None, bytes | None]:
    key_start, key_end, value_start, value_end = _key_and_value(
        buffer, position, len(buffer), header.magic, header.batch_length
    )
    view = memoryview(buffer)
    return (
        None if key_end < key_start else view[key_start:key_end].tobytes(),
        None if value_end < value_start else view[value_start:value_end].tobytes(),
    )


def _key_and_value(buffer: Buffer, position: int, end: int, magic: int, size: int) -> tuple[int, int, int, int]:
    """Return where key and value start and end, as far as `end` lets see (0 otherwise); null ends before it starts.

    Raises:
        ValueError: the lengths do not fill the message.
    """
    message_end = position + LOG_OVERHEAD + size
    key_at = position + (_TIMESTAMP_END if magic else _FRONT_END)
    (key_length,) = _LENGTH.unpack_from(buffer, key_at)
    key_start = key_at + 4
    value_at = key_start + max(key_length, 0)
    if key_length < -1 or value_at + 4 > message_end:
        raise ValueError(f"a message of {size} bytes has a key of {key_length}")
    if value_at + 4 > end:
        return key_start, key_start + key_length, 0, 0
    (value_length,) = _LENGTH.unpack_from(buffer, value_at)
    value_start = value_at + 4
    if value_length < -1 or value_start + max(value_length, 0) != message_end:
        raise ValueError(f"a message of {size} bytes with a key of {key_length} has a value of {value_length}")
    return key_start, key_start + key_length, value_start, value_start + value_length


def _inner_records(body: Buffer, wrapper: BatchHeader, verify_crc: bool) -> list[Record]:
    """Return the messages inside a wrapper, with their offsets as they are written there."""
    is_stamped = wrapper.timestamp_type == TimestampType.LOG_APPEND_TIME
    records = []
    position = 0
    while position < len(body):
        try:
            header = _whole_header(body, position, verify_crc)
        except ValueError as error:
            raise ValueError(f"in the wrapper at offset {wrapper.base_offset}: {error}") from None
        if header.compression:
            raise ValueError(f"the wrapper at offset {wrapper.base_offset} holds a compressed message")
        timestamp = wrapper.max_timestamp if is_stamped and header.magic else header.max_timestamp
        records.append(Record(header.base_offset, timestamp, *_contents(body, position, header)))
        position += header.size
    return records


def _offset_shift(wrapper: BatchHeader, last_inner: int) -> int:
    """Return what to add to offsets inside a wrapper (KIP-31)."""
    # A wrapper with offset 0 and more than one message is what librdkafka once produced; Kafka leaves its offsets alone.
    if wrapper.magic == 0 or wrapper.base_offset == 0:
        return 0
    if wrapper.base_offset < last_inner:
        raise ValueError(f"the wrapper at offset {wrapper.base_offset} ends with relative offset {last_inner}")
    return wrapper.base_offset - last_inner


def _with_right_lz4_checksum(frame: bytes) -> bytes:
    """Return the frame with the checksum of its header that lz4 asks for.

    Producers of format 0 computed it over the magic number, too; Kafka ignores it there (KAFKA-3160).
    """
    if len(frame) < 7 or frame[:4] != _LZ4_MAGIC:
        return frame  # no frame: the codec says so
    flags = frame[4]
    end = 6 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
    return frame[:end] + bytes([_xxh32_of_few(frame[4:end]) >> 8 & 0xFF]) + frame[end + 1 :]


def _xxh32_of_few(data: bytes) -> int:
    """Return xxHash32 with seed 0 of fewer than 16 bytes (https://github.com/Cyan4973/xxHash, the specification)."""
    mask = 0xFFFFFFFF
    value = 374761393 + len(data)
    words = len(data) & ~3
    for start in range(0, words, 4):
        value = (value + int.from_bytes(data[start : start + 4], "little") * 3266489917) & mask
        value = ((value << 17 | value >> 15) & mask) * 668265263 & mask
    for byte in data[words:]:
        value = (value + byte * 374761393) & mask
        value = ((value << 11 | value >> 21) & mask) * 2654435761 & mask
    value = (value ^ value >> 15) * 2246822519 & mask
    value = (value ^ value >> 13) * 3266489917 & mask
    return value ^ value >> 16
