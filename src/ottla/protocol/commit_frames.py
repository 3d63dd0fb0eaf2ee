"""OffsetCommit by position: what nearly all of them are, without an object for each part.

`parse` returns None for everything else, right or wrong: the codec decides what that means. Tests hold both functions to it,
in every version.
"""

from __future__ import annotations

from struct import Struct
from struct import error as _StructError
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.protocol.frame_reader import FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Since these versions there are static members, lengths in the short form and tags, ids of topics in the place of names,
#: leader epochs, and a throttle time in the answer; a retention time until the one before `_RETENTION_ENDS`.
INSTANCE_SINCE: Final = 7
FLEXIBLE_SINCE: Final = 8
TOPIC_IDS_SINCE: Final = 10
_EPOCH_SINCE: Final = 6
_THROTTLE_SINCE: Final = 3
_RETENTION_ENDS: Final = 5

_INT16 = Struct(">h")
_INT32 = Struct(">i")
_INDEX_AND_OFFSET = Struct(">iq")
_INDEX_OFFSET_EPOCH = Struct(">iqi")
_ROW = Struct(">ih")
_NO_EPOCH: Final = -1
_TOPIC_ID_SIZE: Final = 16
#: Each partition takes more bytes than this: more of them than the frame can hold are not looked for.
_PARTITION_BYTES_MIN: Final = 12


class AskedPartition(NamedTuple):
    """One partition of a commit."""

    partition: int
    offset: int
    leader_epoch: int
    metadata: str | None


class AskedTopic(NamedTuple):
    """One topic of a commit, by its name or, in versions with ids, by its id; the other one is empty."""

    name: str
    topic_id: bytes
    partitions: list[AskedPartition]


class CommitFrame(NamedTuple):
    """An OffsetCommit. `generation_id` is the generation or the member epoch, `retention_ms` -1 where none is given."""

    group_id: str
    generation_id: int
    member_id: str
    instance_id: str | None
    retention_ms: int
    topics: list[AskedTopic]


def parse(frame: memoryview, version: int) -> CommitFrame | None:
    """Return what an OffsetCommit (header included, size not) says, or None: have the codec look at it."""
    reader = FrameReader(frame)
    is_flexible = version >= FLEXIBLE_SINCE
    string = reader.short_string if is_flexible else reader.long_string
    try:
        reader.long_string()  # the client id
        if is_flexible:
            reader.no_tags()
        group_id, generation_id, member_id = string(), reader.int32(), string()
        instance_id = string() if version >= INSTANCE_SINCE else None
        retention_ms = reader.int64() if version < _RETENTION_ENDS else -1
        topics = [_topic(reader, version) for _ in range(_count(reader, is_flexible=is_flexible))]
        if is_flexible:
            reader.no_tags()
    except (IndexError, ValueError, _StructError):
        return None
    if group_id is None or member_id is None or reader.at != len(frame):
        return None
    return CommitFrame(group_id, generation_id, member_id, instance_id, retention_ms, topics)


def _count(reader: FrameReader, *, is_flexible: bool) -> int:
    if is_flexible:
        count = reader.frame[reader.at] - 1
        reader.at += 1
        if count >= 0x7F:
            raise ValueError
    else:
        count = reader.int32()
    if not 0 <= count <= len(reader.frame) // _PARTITION_BYTES_MIN:
        raise ValueError
    return count


def _topic(reader: FrameReader, version: int) -> AskedTopic:
    is_flexible = version >= FLEXIBLE_SINCE
    string = reader.short_string if is_flexible else reader.long_string
    name: str | None = ""
    topic_id = b""
    if version >= TOPIC_IDS_SINCE:
        topic_id = bytes(reader.frame[reader.at : reader.at + _TOPIC_ID_SIZE])
        reader.at += _TOPIC_ID_SIZE
    else:
        name = string()
    if name is None:
        raise ValueError
    partitions: list[AskedPartition] = []
    for _ in range(_count(reader, is_flexible=is_flexible)):
        if version >= _EPOCH_SINCE:
            index, offset, epoch = _INDEX_OFFSET_EPOCH.unpack_from(reader.frame, reader.at)
            reader.at += 16
        else:
            index, offset = _INDEX_AND_OFFSET.unpack_from(reader.frame, reader.at)
            epoch = _NO_EPOCH
            reader.at += 12
        partitions.append(AskedPartition(index, offset, epoch, string()))
        if is_flexible:
            reader.no_tags()
    if is_flexible:
        reader.no_tags()
    return AskedTopic(name, topic_id, partitions)


def encode(version: int, topics: Sequence[AskedTopic], codes: Iterator[int]) -> bytes:
    """Return the body of the answer to what `parse` has read; `codes` has an error code for each partition, in order."""
    is_flexible = version >= FLEXIBLE_SINCE
    parts = [b"\0\0\0\0" if version >= _THROTTLE_SINCE else b"", _counted(len(topics), is_flexible=is_flexible)]
    for topic in topics:
        if version >= TOPIC_IDS_SINCE:
            parts.append(topic.topic_id)
        else:
            text = topic.name.encode("ascii")
            parts += (bytes((len(text) + 1,)) if is_flexible else _INT16.pack(len(text)), text)
        parts.append(_counted(len(topic.partitions), is_flexible=is_flexible))
        for asked in topic.partitions:
            parts.append(_ROW.pack(asked.partition, next(codes)))
            if is_flexible:
                parts.append(b"\0")
        if is_flexible:
            parts.append(b"\0")
    if is_flexible:
        parts.append(b"\0")
    return b"".join(parts)


def _counted(count: int, *, is_flexible: bool) -> bytes:
    return bytes((count + 1,)) if is_flexible else _INT32.pack(count)
