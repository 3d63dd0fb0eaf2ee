"""MurmurHash3 x64 128 with the seed of Kafka Streams, which tells whether a row of a foreign-key join still is the
same.

The algorithm is Austin Appleby's, in the public domain.
"""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFFFFFFFFFF
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F
_SEED = 104729
_BLOCK = struct.Struct("<QQ")
_RESULT = struct.Struct(">QQ")


def hash128(data: bytes) -> bytes:
    """Return the hash: two int64, big-endian, as Kafka Streams writes it."""
    first = second = _SEED
    end = len(data) & ~15
    for low, high in _BLOCK.iter_unpack(data[:end]):
        first ^= _mix_low(low)
        first = ((_rotate(first, 27) + second) * 5 + 0x52DCE729) & _MASK
        second ^= _mix_high(high)
        second = ((_rotate(second, 31) + first) * 5 + 0x38495AB5) & _MASK
    tail = data[end:]
    if len(tail) > 8:
        second ^= _mix_high(int.from_bytes(tail[8:], "little"))
    if tail:
        first ^= _mix_low(int.from_bytes(tail[:8], "little"))
    first ^= len(data)
    second ^= len(data)
    first = (first + second) & _MASK
    second = (second + first) & _MASK
    first, second = _finish(first), _finish(second)
    first = (first + second) & _MASK
    second = (second + first) & _MASK
    return _RESULT.pack(first, second)


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _mix_low(block: int) -> int:
    return _rotate(block * _C1 & _MASK, 31) * _C2 & _MASK


def _mix_high(block: int) -> int:
    return _rotate(block * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
