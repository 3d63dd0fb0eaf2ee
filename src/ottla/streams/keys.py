"""Byte formats of keys and values in stores, changelogs and topics: Java's.

windowed key        key | start int64                       (TimeWindowedSerializer)
session key         key | end int64 | start int64           (SessionWindowedSerializer)
window store        key | start int64 | sequence int32
queue               0 | time int64 | key | number int32     (joins with grace)
timestamped value   timestamp int64 | value
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

_LONG = struct.Struct(">q")
_LONGS = struct.Struct(">qq")
_INT = struct.Struct(">i")
_WINDOW = struct.Struct(">qi")

pack_long: Callable[[int], bytes] = _LONG.pack


def unpack_long(data: bytes) -> int:
    """Return the int64 of 8 bytes."""
    return int(_LONG.unpack(data)[0])


class Window(NamedTuple):
    """A window of time in ms. `end` is exclusive for tumbling and hopping windows, inclusive for sliding and session
    windows."""

    start: int
    end: int


class Windowed(NamedTuple):
    """A key in a window: what the keys of windowed tables are."""

    key: Any
    window: Window


def window_key(key: bytes, start: int, sequence: int = 0) -> bytes:
    """Return the key of an entry in a window store and its changelog."""
    return key + _WINDOW.pack(start, sequence)


def split_window_key(data: bytes) -> tuple[bytes, int, int]:
    """Return (key, start, sequence)."""
    start, sequence = _WINDOW.unpack_from(data, len(data) - 12)
    return data[:-12], start, sequence


def session_key(key: bytes, start: int, end: int) -> bytes:
    """Return the key of a session, in stores, changelogs and topics."""
    return key + _LONGS.pack(end, start)


def split_session_key(data: bytes) -> tuple[bytes, int, int]:
    """Return (key, start, end)."""
    end, start = _LONGS.unpack_from(data, len(data) - 16)
    return data[:-16], start, end


def queue_key(key: bytes, when: int, number: int) -> bytes:
    """Return the key of a record that waits in a queue ordered by time, in its store and changelog."""
    return b"\x00" + _LONG.pack(when) + key + _INT.pack(number)


def windowed_key(key: bytes, start: int) -> bytes:
    """Return the key that a windowed table has in a topic."""
    return key + _LONG.pack(start)


def timestamped(value: bytes, timestamp: int) -> bytes:
    """Return a value as timestamped stores hold it."""
    return _LONG.pack(timestamp) + value


def split_timestamped(data: bytes) -> tuple[bytes, int]:
    """Return (value, timestamp)."""
    return data[8:], _LONG.unpack_from(data)[0]
