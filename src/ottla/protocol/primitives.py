"""Varints, tagged fields and the struct formats of Kafka's fixed-size types: what generated codecs call.

Lengths in flexible versions (KIP-482) are unsigned varints of length + 1, where 0 is null. Readers take a buffer and a
position and return the new position; they let IndexError escape at the end of the buffer, and the generated decoder
around them turns it into RemoteProtocolError. All lengths are at most 32 bits.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ottla.errors import LocalProtocolError, RemoteProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

# type -> (format character for `struct`, size in bytes)
FIXED_SIZE: Final[dict[str, tuple[str, int]]] = {
    "bool": ("?", 1),
    "int8": ("b", 1),
    "int16": ("h", 2),
    "uint16": ("H", 2),
    "int32": ("i", 4),
    "uint32": ("I", 4),
    "int64": ("q", 8),
    "float64": ("d", 8),
    "uuid": ("16s", 16),
}

# Kafka refuses longer strings even where the length is a varint.
STRING_SIZE_MAX: Final = 0x7FFF

# Limits of Kafka 4.4 that bound what one frame can make us allocate.
ARRAY_COUNT_MAX: Final = 1_000_000
TAGGED_COUNT_MAX: Final = 10_000


def encode_varint(value: int) -> bytes:
    """Return an unsigned varint: seven bits a byte, lowest first."""
    if value < 0:
        raise LocalProtocolError(f"{value} is negative")
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


#: The varints of 0 to 255: most lengths.
VARINTS: Final = [encode_varint(value) for value in range(256)]


def encode_string_length(size: int) -> bytes:
    """Return the compact length of a string of `size` bytes."""
    if size > STRING_SIZE_MAX:
        raise LocalProtocolError(f"string of {size} bytes; Kafka allows {STRING_SIZE_MAX}")
    return encode_varint(size + 1)


def encode_tagged(tag: int, value: bytes) -> bytes:
    """Return one tagged field: tag, size, value."""
    return encode_varint(tag) + encode_varint(len(value)) + value


def read_varint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Read an unsigned varint; return it and the position after it."""
    value = buffer[position]
    if value < 128:
        return value, position + 1
    return continue_varint(buffer, position + 1, value)


def continue_varint(buffer: Buffer, position: int, first: int) -> tuple[int, int]:
    """Read the rest of a varint whose first byte, above 127, has been read already."""
    value = first & 127
    shift = 7
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value > 0xFFFFFFFF:
                raise RemoteProtocolError("varint of more than 32 bits")
            return value, position
        shift += 7
        if shift > 28:
            raise RemoteProtocolError("varint of more than 5 bytes")


def continue_string_length(buffer: Buffer, position: int, first: int) -> tuple[int, int]:
    """Read the rest of a compact string length (+ 1), which Kafka bounds."""
    value, position = continue_varint(buffer, position, first)
    if value > STRING_SIZE_MAX + 1:
        raise RemoteProtocolError(f"string of {value - 1} bytes; Kafka allows {STRING_SIZE_MAX}")
    return value, position


def continue_tagged_count(buffer: Buffer, position: int, first: int) -> tuple[int, int]:
    """Read the rest of a number of tagged fields, which Kafka bounds."""
    value, position = continue_varint(buffer, position, first)
    if value > TAGGED_COUNT_MAX:
        raise RemoteProtocolError(f"{value} tagged fields; Kafka allows {TAGGED_COUNT_MAX}")
    return value, position


def skip_tagged(buffer: Buffer, position: int) -> int:
    """Skip a section of tagged fields none of which is known; return the position after it.

    That position may lie behind the end of the buffer; the decoder checks once, at its end.
    """
    count = buffer[position]
    position += 1
    if count > 127:
        count, position = continue_tagged_count(buffer, position, count)
    for _ in range(count):
        _, position = read_varint(buffer, position)
        size, position = read_varint(buffer, position)
        position += size
    return position
