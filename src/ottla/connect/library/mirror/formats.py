"""The records that mirrors keep in their own topics, as MirrorMaker 2 writes and reads them (connect-mirror-client).

Each is a struct of Kafka's protocol types; values of checkpoints and heartbeats begin with a version, 0.
"""

from __future__ import annotations

from struct import Struct
from struct import error as _StructError
from typing import NamedTuple

_SHORT, _INT, _LONGS = Struct(">h"), Struct(">i"), Struct(">qq")
_VERSIONED_LONG, _VERSIONED_LONGS = Struct(">hq"), Struct(">hqq")


class OffsetSync(NamedTuple):
    """A record that stands at `upstream` in the source stands at `downstream` in the target."""

    topic: str
    partition: int
    upstream: int
    downstream: int

    def key(self) -> bytes:
        return _text(self.topic) + _INT.pack(self.partition)

    def value(self) -> bytes:
        return _LONGS.pack(self.upstream, self.downstream)


class Checkpoint(NamedTuple):
    """What a group of the source has committed for a partition, and the offset in the target that stands for it.

    Attributes:
        topic: as it is called in the target.
    """

    group: str
    topic: str
    partition: int
    upstream: int
    downstream: int
    metadata: str = ""

    def key(self) -> bytes:
        return _text(self.group) + _text(self.topic) + _INT.pack(self.partition)

    def value(self) -> bytes:
        return _VERSIONED_LONGS.pack(0, self.upstream, self.downstream) + _text(self.metadata)


class Heartbeat(NamedTuple):
    """A mirror from one cluster to another was alive at a time."""

    source: str
    target: str
    timestamp_ms: int

    def key(self) -> bytes:
        return _text(self.source) + _text(self.target)

    def value(self) -> bytes:
        return _VERSIONED_LONG.pack(0, self.timestamp_ms)


def read_offset_sync(key: bytes, value: bytes) -> OffsetSync:
    """Return an offset sync.

    Raises:
        ValueError: it is none.
    """
    try:
        (size,) = _SHORT.unpack_from(key)
        topic = key[2 : 2 + size].decode()
        (partition,) = _INT.unpack_from(key, 2 + size)
        return OffsetSync(topic, partition, *_LONGS.unpack(value))
    except (_StructError, UnicodeDecodeError) as error:
        raise ValueError(f"no offset sync: {error}") from error


def _text(value: str) -> bytes:
    data = value.encode()
    return _SHORT.pack(len(data)) + data
