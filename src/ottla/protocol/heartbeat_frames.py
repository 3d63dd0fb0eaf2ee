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

#: A heartbeat without news that is longer has a client id that nobody has.
BYTES_MAX: Final = 2048

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


def parse_heartbeat(frame: memoryview, version: int) -> Beat | None:
    """Return what a Heartbeat (header included, size not) says, or None: have the codec look at it."""
    if version < FLEXIBLE_SINCE:
        return _parse_long_heartbeat(frame, version)
    if len(frame) > BYTES_MAX:
        return None
    data = bytes(frame)
    try:
        # Lengths are one more than what they count, so that they lead behind it from where they stand.
        size = data[8] << 8 | data[9]
        at = 10 + (size if size < 0x8000 else 0)
        client_id = data[10:at].decode("ascii")
        group = at + 1
        member = group + data[group] + 4
        instance = member + data[member]
        end = instance + (data[instance] or 1)
        if (
            data[at]
            or not 0 < data[group] < 0x80
            or not 0 < data[member] < 0x80
            or data[instance] >= 0x80
            or data[end]
            or end + 1 != len(data)
        ):
            return None
        (epoch,) = _INT32.unpack_from(data, member - 4)
        return Beat(
            client_id,
            data[group + 1 : member - 4].decode("ascii"),
            epoch,
            data[member + 1 : instance].decode("ascii"),
            data[instance + 1 : end].decode("ascii") if data[instance] else None,
        )
    except (IndexError, ValueError, _StructError):
        return None


def _parse_long_heartbeat(frame: memoryview, version: int) -> Beat | None:
    """Read one of the versions in which lengths take two bytes, which few clients speak."""
    reader = FrameReader(frame)
    try:
        client_id, group_id, epoch, member_id = (
            reader.long_string(),
            reader.long_string(),
            reader.int32(),
            reader.long_string(),
        )
        instance_id = reader.long_string() if version >= _INSTANCE_SINCE else None
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
    if len(frame) > BYTES_MAX:
        return None
    data = bytes(frame)
    try:
        size = data[8] << 8 | data[9]
        at = 10 + (size if size < 0x8000 else 0)
        client_id = data[10:at].decode("ascii")
        group = at + 1
        member = group + data[group]
        epoch_at = member + data[member]
        instance = epoch_at + 4
        rack = instance + (data[instance] or 1)
        if (
            data[at]
            or not 0 < data[group] < 0x80
            or not 0 < data[member] < 0x80
            or data[instance] >= 0x80
            or data[rack]
            or data[rack + 1 :] != _NO_NEWS[version > 0]
        ):
            return None
        (epoch,) = _INT32.unpack_from(data, epoch_at)
        return Beat(
            client_id,
            data[group + 1 : member].decode("ascii"),
            epoch,
            data[member + 1 : epoch_at].decode("ascii"),
            data[instance + 1 : rack].decode("ascii") if data[instance] else None,
        )
    except (IndexError, ValueError, _StructError):
        return None


def encode_alive(member_id: str, member_epoch: int, heartbeat_interval_ms: int) -> bytes:
    """Return the body of the answer to such a ConsumerGroupHeartbeat; the id is in ASCII and below 127 characters."""
    text = member_id.encode("ascii")
    return (
        _ALIVE_BEFORE + bytes((len(text) + 1,)) + text + _ALIVE_AFTER.pack(member_epoch, heartbeat_interval_ms, 0xFF, 0)
    )
