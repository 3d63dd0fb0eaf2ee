"""Writes OTLP payloads for tests: protocol buffers by the encoding's rules, independent of the reader."""

from __future__ import annotations

import struct


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def any_value(value: str | int | float | bool) -> bytes:
    if isinstance(value, str):
        return block(1, value)
    if isinstance(value, bool):
        return number(2, value)
    if isinstance(value, int):
        return number(3, value)
    return varint(4 << 3 | 1) + struct.pack("<d", value)


def key_value(key: str, value: str | int | float | bool) -> bytes:
    return block(1, key) + block(2, any_value(value))


def data_point(value: float, **attributes: str | int | float | bool) -> bytes:
    stamps = varint(2 << 3 | 1) + bytes(8) + varint(3 << 3 | 1) + struct.pack("<q", 5)
    kind = (6 << 3 | 1, "<q") if isinstance(value, int) else (4 << 3 | 1, "<d")
    body = stamps + varint(kind[0]) + struct.pack(kind[1], value)
    return body + b"".join(block(7, key_value(key, item)) for key, item in attributes.items())


def gauge(name: str, *points: bytes, description: str = "") -> bytes:
    return block(1, name) + block(2, description) + block(5, b"".join(block(1, point) for point in points))


def total(name: str, *points: bytes, delta: bool = True, monotonic: bool = True) -> bytes:
    body = b"".join(block(1, point) for point in points)
    return block(1, name) + block(7, body + number(2, 1 if delta else 2) + number(3, monotonic))


def payload(*metrics: bytes, **resource: str) -> bytes:
    scope = block(1, block(1, "a scope")) + b"".join(block(2, metric) for metric in metrics)
    attributes = b"".join(block(1, key_value(key, value)) for key, value in resource.items())
    return block(1, block(1, attributes) + block(2, scope))
