"""Record batches no broker should choke on: broken, lying, and small ones that grow huge when decompressed.

`hostile_batch(random)` returns one. About half of them have a right CRC, so that what lies behind it is reached.
"""

from __future__ import annotations

import random as dice
import struct
from collections.abc import Callable
from functools import cache

from ottla.protocol.records.batch import HEADER_SIZE, write_crc
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.compression import compress
from ottla.types import CompressionType

CODECS = (CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4, CompressionType.ZSTD)
#: What a bomb becomes when unpacked; small enough when packed to pass max.message.bytes (1 MiB).
BOMB_BYTES = {
    CompressionType.GZIP: 128 << 20,  # 130 KB
    CompressionType.SNAPPY: 16 << 20,  # 790 KB: snappy packs no better than 21 to 1
    CompressionType.LZ4: 128 << 20,  # 560 KB
    CompressionType.ZSTD: 256 << 20,  # 8 KB
}

#: This share of hostile batches are bombs: each costs the broker up to 0.1 s, and a few show what it holds meanwhile.
BOMB_SHARE = 0.002

#: name -> (format, position) in the batch header, as read by the JVM and by us.
HEADER_FIELDS = {
    "base_offset": (">q", 0),
    "batch_length": (">i", 8),
    "partition_leader_epoch": (">i", 12),
    "magic": (">b", 16),
    "crc": (">I", 17),
    "attributes": (">h", 21),
    "last_offset_delta": (">i", 23),
    "base_timestamp": (">q", 27),
    "max_timestamp": (">q", 35),
    "producer_id": (">q", 43),
    "producer_epoch": (">h", 51),
    "base_sequence": (">i", 53),
    "record_count": (">i", 57),
}
_BITS = {"b": 8, "h": 16, "i": 32, "I": 32, "q": 64}


def good_batch(random: dice.Random) -> bytearray:
    """Return a batch a broker appends: one to three small records, any codec."""
    now = 1_790_000_000_000 + random.randrange(1_000_000)
    records = [
        Record(offset, now + offset, random.choice((None, b"key-%d" % offset)), random.randbytes(random.randrange(40)))
        for offset in range(random.randrange(1, 4))
    ]
    codec = random.choice((CompressionType.NONE, CompressionType.NONE, *CODECS))
    if random.random() < 0.2:
        return build_batch(
            records, compression=codec, producer_id=random.randrange(4), producer_epoch=0, base_sequence=0
        )
    return build_batch(records, compression=codec)


def hostile_batch(random: dice.Random) -> bytes:
    """Return bytes that are no batch a broker may append, or hardly one."""
    make = _bomb if random.random() < BOMB_SHARE else random.choice(_KINDS)
    return bytes(make(random))


def extreme(format_: str, random: dice.Random) -> int:
    """Return a number that is seldom meant, for a `struct` format of one integer."""
    letter = format_[-1]
    bits = _BITS[letter]
    value = random.choice(
        (0, 1, -1, -2, 2, 127, 1 << bits - 1, (1 << bits - 1) - 1, -(1 << bits - 1) + 1, random.getrandbits(bits))
    )
    value &= (1 << bits) - 1
    return value if letter == "I" or value < 1 << bits - 1 else value - (1 << bits)


def _wrong_header_field(random: dice.Random) -> bytearray:
    batch = good_batch(random)
    name = random.choice(tuple(HEADER_FIELDS))
    format_, position = HEADER_FIELDS[name]
    struct.pack_into(format_, batch, position, extreme(format_, random))
    if name not in ("crc", "batch_length", "magic"):
        write_crc(batch)
    return batch


def _flipped_bits(random: dice.Random) -> bytearray:
    batch = good_batch(random)
    for _ in range(random.randrange(1, 4)):
        batch[random.randrange(len(batch))] ^= 1 << random.randrange(8)
    return batch


def _flipped_body_with_right_crc(random: dice.Random) -> bytearray:
    """Records whose varints, lengths or compressed blocks lie, behind a CRC that vouches for them."""
    batch = good_batch(random)
    for _ in range(random.randrange(1, 4)):
        batch[random.randrange(HEADER_SIZE, len(batch))] = random.choice(
            (0, 1, 0x7F, 0x80, 0xFF, random.randrange(256))
        )
    write_crc(batch)
    return batch


def _cut_off(random: dice.Random) -> bytearray:
    batch = good_batch(random)
    return batch[: random.randrange(len(batch))]


def _cut_off_with_right_length(random: dice.Random) -> bytearray:
    batch = good_batch(random)
    del batch[random.randrange(HEADER_SIZE, len(batch)) :]
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    write_crc(batch)
    return batch


def _bomb(random: dice.Random) -> bytearray:
    """A little that a codec turns into `BOMB_BYTES` of zeros."""
    codec = random.choice(CODECS)
    return _wrapped(_packed_zeros(codec), codec, random.choice((1, 1000, 0x7FFFFFFF)))


def _broken_block(random: dice.Random) -> bytearray:
    codec = random.choice(CODECS)
    packed = bytearray(_packed_text(codec))
    match random.randrange(3):
        case 0:
            packed = packed[: random.randrange(len(packed))]
        case 1:
            for _ in range(random.randrange(1, 6)):
                packed[random.randrange(len(packed))] = random.randrange(256)
        case _:
            packed = bytearray(random.randbytes(random.randrange(200)))
    return _wrapped(bytes(packed), codec, 3)


def _lying_snappy(random: dice.Random) -> bytearray:
    """Blocks that announce up to 4 GiB: raw snappy and the framing of snappy-java."""
    size = random.choice((0x7FFFFFFF, 0xFFFFFFFF, 1 << 30))
    announced = bytearray()
    while size > 127:
        announced.append(size & 127 | 128)
        size >>= 7
    announced.append(size)
    raw = bytes(announced) + b"\xfe\x01\x00" * random.randrange(1, 200)
    if random.random() < 0.5:
        raw = b"\x82SNAPPY\x00" + struct.pack(">iii", 1, 1, random.choice((len(raw), 0x7FFFFFFF, -1))) + raw
    return _wrapped(raw, CompressionType.SNAPPY, 1)


def _record_with_lies(random: dice.Random) -> bytearray:
    """One hand-made record with a length, key length or header count that cannot be."""
    lies = (b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x01")
    parts = [b"\x00", b"\x00", b"\x00", b"\x01", b"\x02", b"v", b"\x00"]
    parts[random.randrange(1, len(parts))] = random.choice(lies)
    body = b"".join(parts)
    length = bytes([len(body) * 2 & 0x7F]) if random.random() < 0.7 else random.choice(lies)
    return _wrapped(length + body, CompressionType.NONE, 1)


def _old_magic(random: dice.Random) -> bytearray:
    """A message set of Kafka before 0.11, and magics that never were."""
    batch = good_batch(random)
    batch[16] = random.choice((0, 1, 3, 127, 255))
    return batch


def _two_batches(random: dice.Random) -> bytearray:
    return good_batch(random) + good_batch(random)


def _noise(random: dice.Random) -> bytearray:
    return bytearray(random.randbytes(random.randrange(120)))


def _wrapped(body: bytes, codec: CompressionType, count: int) -> bytearray:
    batch = build_batch([Record(0, 1_790_000_000_000, None, b"")])
    del batch[HEADER_SIZE:]
    batch += body
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">h", batch, 21, codec)
    struct.pack_into(">i", batch, 23, count - 1)
    struct.pack_into(">i", batch, 57, count)
    write_crc(batch)
    return batch


@cache
def _packed_zeros(codec: CompressionType) -> bytes:
    return bytes(compress(codec, bytes(BOMB_BYTES[codec])))


@cache
def _packed_text(codec: CompressionType) -> bytes:
    return bytes(compress(codec, b"".join(b"record %d " % number for number in range(60))))


_KINDS: tuple[Callable[[dice.Random], bytearray], ...] = (
    _wrong_header_field,
    _wrong_header_field,
    _wrong_header_field,
    _flipped_bits,
    _flipped_body_with_right_crc,
    _flipped_body_with_right_crc,
    _cut_off,
    _cut_off_with_right_length,
    _broken_block,
    _broken_block,
    _lying_snappy,
    _record_with_lies,
    _old_magic,
    _two_batches,
    _noise,
)
