"""Messages of formats 0 and 1, made by hand: ottla only reads them, so nothing in it can write them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.compression import compress
from ottla.protocol.records.legacy import _xxh32_of_few
from ottla.types import CompressionType, TimestampType

BASE_MS = 1_600_000_000_000
#: What these formats can be compressed with.
CODECS = (CompressionType.NONE, CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4)


def message(
    offset: int,
    key: bytes | None,
    value: bytes | None,
    *,
    magic: int,
    timestamp: int = -1,
    attributes: int = 0,
) -> bytes:
    """One entry, CRC included."""
    body = struct.pack(">bb", magic, attributes)
    if magic:
        body += struct.pack(">q", timestamp)
    for part in (key, value):
        body += struct.pack(">i", -1 if part is None else len(part)) + (part or b"")
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


def wrapper(
    records: Sequence[Record],
    codec: CompressionType,
    *,
    magic: int,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    stamp: int = -1,
) -> bytes:
    """The records inside one compressed message, as a broker of Kafka 0.8 to 2.8 stored them.

    `stamp`: the broker's time, for LOG_APPEND_TIME; the messages inside keep the producer's.
    """
    last = records[-1].offset
    # KIP-31: relative to the first offset of what the producer sent; compaction may have removed that record.
    base = records[0].offset if magic else 0
    inner = b"".join(
        message(record.offset - base, record.key, record.value, magic=magic, timestamp=record.timestamp)
        for record in records
    )
    is_stamped = timestamp_type == TimestampType.LOG_APPEND_TIME
    return message(
        last,
        None,
        squeeze(inner, codec, magic),
        magic=magic,
        timestamp=stamp if is_stamped else max(record.timestamp for record in records),
        attributes=codec | (8 if magic and is_stamped else 0),
    )


def entries(
    records: Sequence[Record],
    codec: CompressionType,
    *,
    magic: int,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    stamp: int = -1,
) -> bytes:
    """The records as a broker stored them: one by one without a codec, in one wrapper with one."""
    if codec:
        return wrapper(records, codec, magic=magic, timestamp_type=timestamp_type, stamp=stamp)
    is_stamped = timestamp_type == TimestampType.LOG_APPEND_TIME
    return b"".join(
        message(
            record.offset,
            record.key,
            record.value,
            magic=magic,
            timestamp=stamp if is_stamped else record.timestamp,
            attributes=8 if magic and is_stamped else 0,
        )
        for record in records
    )


def squeeze(data: bytes, codec: CompressionType, magic: int) -> bytes:
    """Compress as producers of the format did: lz4 in magic 0 with the header checksum of KAFKA-3160."""
    squeezed = compress(codec, data)
    if codec == CompressionType.LZ4 and magic == 0:
        wrong = _xxh32_of_few(squeezed[:6]) >> 8 & 0xFF  # over the frame's magic number, too
        return squeezed[:6] + bytes([wrong]) + squeezed[7:]
    return squeezed


def as_consumed(
    records: Sequence[Record],
    *,
    magic: int,
    timestamp_type: TimestampType = TimestampType.CREATE_TIME,
    stamp: int = -1,
) -> list[Record]:
    """The records as consumers see them: without times in magic 0, with the broker's where it stamped them."""
    if magic == 0:
        return [record._replace(timestamp=-1, headers=()) for record in records]
    if timestamp_type == TimestampType.LOG_APPEND_TIME:
        return [record._replace(timestamp=stamp, headers=()) for record in records]
    return [record._replace(headers=()) for record in records]


class Run(NamedTuple):
    """Records that are stored together: in one batch or wrapper, or, in magic 0 and 1 without a codec, one by one."""

    magic: int
    codec: CompressionType
    records: list[Record]
    timestamp_type: TimestampType = TimestampType.CREATE_TIME

    @property
    def stamp(self) -> int:
        return self.records[-1].timestamp + 123

    def encoded(self) -> bytes:
        if self.magic == 2:
            return bytes(build_batch(self.records, compression=self.codec, leader_epoch=0))
        return entries(self.records, self.codec, magic=self.magic, timestamp_type=self.timestamp_type, stamp=self.stamp)

    def consumed(self) -> list[Record]:
        if self.magic == 2:
            return self.records
        return as_consumed(self.records, magic=self.magic, timestamp_type=self.timestamp_type, stamp=self.stamp)


def record_runs(dice: random.Random, count: int, *, size_max: int = 9, base_ms: int = BASE_MS) -> list[list[Record]]:
    """Records as compaction leaves them: with gaps and tombstones; their times wobble and some have no key."""
    offset, runs = 0, []
    for _ in range(count):
        run = []
        for _ in range(dice.randint(1, size_max)):
            key = None if dice.random() < 0.1 else b"key %d" % dice.randrange(17)
            value = None if key and dice.random() < 0.2 else dice.randbytes(dice.randrange(80))
            run.append(Record(offset, base_ms + offset * 1000 + dice.randint(-5000, 5000), key, value))
            offset += dice.choice((1, 1, 1, 2, 9))
        runs.append(run)
    return runs


def mixed_runs(dice: random.Random, count: int, *, base_ms: int = BASE_MS) -> list[Run]:
    """Records in formats 0, 1 and 2 and every codec, in any order."""
    return [
        Run(dice.choice((0, 1, 2)), dice.choice(CODECS), records)
        for records in record_runs(dice, count, base_ms=base_ms)
    ]


def segments(runs: Sequence[Run], count: int) -> dict[int, bytes]:
    """Return base offset -> bytes of about `count` segments that hold the runs."""
    size = -(-len(runs) // count)
    return {
        runs[start].records[0].offset: b"".join(run.encoded() for run in runs[start : start + size])
        for start in range(0, len(runs), size)
    }
