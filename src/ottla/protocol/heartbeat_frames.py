"""Heartbeats of members by position: what nearly all of them are, without an object for each part.

A Heartbeat of any version, and a ConsumerGroupHeartbeat that says nothing but that the member is there. The two functions
that parse return None for everything else, right or wrong: the codec decides what that means. Tests hold all four to it.
"""

from __future__ import annotations

from struct import Struct
from struct import error as _StructError
from typing import Final, NamedTuple

from ottla.protocol.frame_reader import FrameReader

#: From these versions on Heartbeat is flexible, and knows static members.
FLEXIBLE_SINCE: Final = 4
_INSTANCE_SINCE: Final = 3

_INT16 = Struct(">h")
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


def parse_heartbeat(frame: memoryview, version: int) -> Beat | None:
    """Return what a Heartbeat (header included, size not) says, or None: have the codec look at it."""
    reader = FrameReader(frame)
    is_flexible = version >= FLEXIBLE_SINCE
    string = reader.short_string if is_flexible else reader.long_string
    try:
        client_id = reader.long_string()
        if is_flexible:
            reader.no_tags()
        group_id, epoch, member_id = string(), reader.int32(), string()
        instance_id = string() if version >= _INSTANCE_SINCE else None
        if is_flexible:
            reader.no_tags()
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
    reader = FrameReader(frame)
    try:
        client_id = reader.long_string()
        reader.no_tags()
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
