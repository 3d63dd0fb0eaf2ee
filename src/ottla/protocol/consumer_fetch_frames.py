"""Fetches of consumers by position: what nearly all of them are, without an object for each part.

From version 13 on, which name topics by their ids. `parse` understands requests without a session and those that go on
with one and forget nothing; None for everything else, right or wrong: the codec decides what that means. `encode_answer`
writes answers without an error or another surprise. Tests hold both to the codec. `parse_one` and `encode_one` do the same
for at most one partition, which most requests and answers name, and are replaced by the kernel (`_fetch_cy`) where there
is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as _StructError
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from ottla.compiled import load_beside
from ottla.protocol.primitives import encode_varint
from ottla.protocol.replica_fetch_frames import AskedPartition, count_at

if TYPE_CHECKING:
    from ottla.file_region import Buffer, Sendable

#: Earlier versions name topics, not ids.
FIRST_VERSION: Final = 13
#: From here on the replica that asks stands in a tag, and no consumer has one.
_REPLICA_IN_TAG_SINCE: Final = 15

_CLIENT_ID = Struct(">h")
_REPLICA_ID = Struct(">i")
#: max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch
_HEAD = Struct(">iiibii")
#: partition, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, partition_max_bytes, tags
_ASKED = Struct(">iiqiqiB")
#: throttle_time_ms, error_code, session_id
_ANSWER_HEAD = Struct(">ihi")
#: partition_index, error_code, high_watermark, last_stable_offset, log_start_offset, aborted transactions (0: null, 1: none),
#: preferred_read_replica
_ANSWERED = Struct(">ihqqqBi")
_UUID: Final = 16
#: Of no meaning in what a consumer asks.
_NO_HIGH_WATERMARK: Final = -1


class ConsumerFetch(NamedTuple):
    """A consumer's request. `session_id` 0, `session_epoch` -1: without a session. `has_rack`: it says where it is."""

    wait_ms_max: int
    bytes_min: int
    bytes_max: int
    isolation: int
    session_id: int
    session_epoch: int
    has_rack: bool
    partitions: Sequence[AskedPartition]


class FetchedPartition(NamedTuple):
    """What is told of one partition. `records` may be empty, or a region of a file."""

    topic_id: bytes
    partition: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    records: Sendable


def parse(frame: memoryview, version: int) -> ConsumerFetch | None:
    """Return what a frame (header included, size not) asks for, or None: have the codec look at it.

    Ordinary: a client id in ASCII or none, no replica, no tags, read_uncommitted or read_committed.
    """
    try:
        return _parse(frame, version)
    except (IndexError, ValueError, _StructError):
        return None


def _parse(frame: memoryview, version: int) -> ConsumerFetch | None:
    (size,) = _CLIENT_ID.unpack_from(frame, 8)
    at = 10 + max(size, 0)
    if version < FIRST_VERSION or not bytes(frame[10:at]).isascii() or frame[at]:
        return None
    at += 1
    if version < _REPLICA_IN_TAG_SINCE:
        if _REPLICA_ID.unpack_from(frame, at)[0] != -1:
            return None
        at += 4
    wait_ms, bytes_min, bytes_max, isolation, session_id, session_epoch = _HEAD.unpack_from(frame, at)
    topics, at = count_at(frame, at + _HEAD.size)
    if isolation not in (0, 1) or topics < 0 or not (session_epoch > 0 or (session_epoch == -1 and not session_id)):
        return None
    rows: list[AskedPartition] = []
    for _ in range(topics):
        topic_id = bytes(frame[at : at + _UUID])
        count, at = count_at(frame, at + _UUID)
        if count < 0 or at + count * _ASKED.size >= len(frame):
            return None
        for _ in range(count):
            *asked, tags = _ASKED.unpack_from(frame, at)
            if tags:
                return None
            rows.append(AskedPartition._make((topic_id, *asked, _NO_HIGH_WATERMARK)))
            at += _ASKED.size
        if frame[at]:
            return None
        at += 1
    # No forgotten topics, the rack in ASCII, no tags.
    rack = frame[at + 1]
    end = at + 1 + rack
    if frame[at] != 1 or not 0 < rack < 0x80 or not bytes(frame[at + 2 : end]).isascii():
        return None
    if frame[end] or end + 1 != len(frame):
        return None
    return ConsumerFetch(wait_ms, bytes_min, bytes_max, isolation, session_id, session_epoch, rack > 1, rows)


def encode_answer(session_id: int, rows: Sequence[FetchedPartition], *, is_committed: bool) -> list[Sendable]:
    """Return the body of the answer; regions of files stay what they are, everything else is joined.

    Topics stand in the order of their first partition.

    Args:
        is_committed: of a read_committed request, none of whose records are of aborted transactions.
    """
    topics: dict[bytes, list[FetchedPartition]] = {}
    for row in rows:
        topics.setdefault(row.topic_id, []).append(row)
    chunks: list[Sendable] = []
    out: list[Any] = [_ANSWER_HEAD.pack(0, 0, session_id), encode_varint(len(topics) + 1)]
    aborted = 1 if is_committed else 0
    for topic_id, parts in topics.items():
        out += [topic_id, encode_varint(len(parts) + 1)]
        for _, index, high_watermark, last_stable, log_start, records in parts:
            out.append(_ANSWERED.pack(index, 0, high_watermark, last_stable, log_start, aborted, -1))
            out.append(encode_varint(len(records) + 1))
            if isinstance(records, bytes | bytearray | memoryview):
                out.append(records)
            else:
                chunks += [b"".join(out), records]
                out = []
            out.append(b"\0")
        out.append(b"\0")
    out.append(b"\0")
    chunks.append(b"".join(out))
    return chunks


def parse_one(frame: memoryview, version: int) -> ConsumerFetch | None:
    """Do as `parse` for a request that names at most one partition; None: it is not ordinary or names more.

    Without a kernel None always.
    """
    return None


def encode_one(
    session_id: int,
    is_committed: bool,
    topic_id: bytes,
    index: int,
    high_watermark: int,
    last_stable_offset: int,
    log_start_offset: int,
    records: Buffer,
) -> bytes:
    """Do as `encode_answer` for one partition whose records are bytes."""
    row = FetchedPartition(topic_id, index, high_watermark, last_stable_offset, log_start_offset, records)
    return cast(bytes, encode_answer(session_id, [row], is_committed=is_committed)[0])


_extension: Any
_extension, _ = load_beside(__file__, __package__, "_fetch_cy")
if _extension is not None:
    parse_one = _extension.parse_one
    encode_one = _extension.encode_one
