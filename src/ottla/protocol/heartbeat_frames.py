"""Heartbeats of members by position: what nearly all of them are, without an object for each part.

A Heartbeat of any version, and a ConsumerGroupHeartbeat that says nothing but that the member is there. The two functions
that parse return None for everything else, right or wrong: the codec decides what that means. Tests hold all four to it.
"""

from __future__ import annotations

from struct import Struct
from struct import error as _StructError
from typing import Final, NamedTuple

#: From these versions on Heartbeat is flexible, and knows static members.
FLEXIBLE_SINCE: Final = 4
_INSTANCE_SINCE: Final = 3

_INT16 = Struct(">h")
_INT32 = Struct(">i")
#: rebalance_timeout_ms: not given; subscribed topic names, assignor, partitions, tags. From version 1 on a pattern follows
#: the names.
_NO_NEWS: Final = (b"\xff\xff\xff\xff\0\0\0\0", b"\xff\xff\xff\xff\0\0\0\0\0")
#: throttle_time_ms, error_code, error_message
_ALIVE_BEFORE: Final = b"\0\0\0\0\0\0\0"
#: member_epoch, heartbeat_interval_ms, no assignment, no tags
_ALIVE_AFTER = Struct(">iiBB")


class Beat(NamedTuple):
    """A Heartbeat, or a ConsumerGroupHeartbeat without news; `epoch` is the generation or the member epoch."""

    client_id: str
    group_id: str
    epoch: int
    member_id: str
    instance_id: str | None


class _Reader:
    """Reads a frame from its client id on. Everything in it is in ASCII, or it is not ordinary."""

    __slots__ = ("at", "frame")

    def __init__(self, frame: memoryview) -> None:
        self.frame = frame
        self.at = 8

    def long_string(self) -> str | None:
        (size,) = _INT16.unpack_from(self.frame, self.at)
        self.at += 2
        if size < 0:
            return None
        return self._text(size)

    def short_string(self) -> str | None:
        size = self.frame[self.at]
        self.at += 1
        if size >= 0x80:
            raise ValueError
        return self._text(size - 1) if size else None

    def _text(self, size: int) -> str:
        begin = self.at
        self.at = end = begin + size
        if end > len(self.frame):
            raise IndexError
        return str(self.frame[begin:end], "ascii")

    def int32(self) -> int:
        (value,) = _INT32.unpack_from(self.frame, self.at)
        self.at += 4
        return int(value)


def parse_heartbeat(frame: memoryview, version: int) -> Beat | None:
    """Return what a Heartbeat (header included, size not) says, or None: have the codec look at it."""
    reader = _Reader(frame)
    is_flexible = version >= FLEXIBLE_SINCE
    string = reader.short_string if is_flexible else reader.long_string
    try:
        client_id = reader.long_string()
        if is_flexible:
            if frame[reader.at]:
                return None
            reader.at += 1
        group_id, epoch, member_id = string(), reader.int32(), string()
        instance_id = string() if version >= _INSTANCE_SINCE else None
        if is_flexible:
            if frame[reader.at]:
                return None
            reader.at += 1
    except (IndexError, ValueError, _StructError):
        return None
    if group_id is None or member_id is None or reader.at != len(frame):
        return None
    return Beat(client_id or "", group_id, epoch, member_id, instance_id)


def encode_heartbeat(version: int, error_code: int) -> bytes:
    """Return the body of the answer to a Heartbeat."""
    code = _INT16.pack(error_code)
    if version == 0:
        return code
    return b"\0\0\0\0" + code + (b"\0" if version >= FLEXIBLE_SINCE else b"")


def parse_consumer_heartbeat(frame: memoryview, version: int) -> Beat | None:
    """Return what a ConsumerGroupHeartbeat says of which member is there; None as well where it says more."""
    reader = _Reader(frame)
    try:
        client_id = reader.long_string()
        if frame[reader.at]:
            return None
        reader.at += 1
        group_id, member_id, epoch, instance_id = (
            reader.short_string(),
            reader.short_string(),
            reader.int32(),
            reader.short_string(),
        )
        if frame[reader.at]:  # a rack
            return None
    except (IndexError, ValueError, _StructError):
        return None
    if group_id is None or member_id is None or bytes(frame[reader.at + 1 :]) != _NO_NEWS[version > 0]:
        return None
    return Beat(client_id or "", group_id, epoch, member_id, instance_id)


def encode_alive(member_id: str, member_epoch: int, heartbeat_interval_ms: int) -> bytes:
    """Return the body of the answer to such a ConsumerGroupHeartbeat; the id is in ASCII and below 127 characters."""
    text = member_id.encode("ascii")
    return (
        _ALIVE_BEFORE + bytes((len(text) + 1,)) + text + _ALIVE_AFTER.pack(member_epoch, heartbeat_interval_ms, 0xFF, 0)
    )
