"""Fetches of brokers from each other by position: what nearly all of them are, without an object for each part.

Of version 18 only, which brokers of this release speak. `parse_request` understands what a session goes on with: partitions
that are asked for differently now, none that is forgotten. `parse_answer` understands answers without an error, a
divergence or another surprise. Both return None for everything else, right or wrong: the codec decides what that means. Tests
hold all four functions to the codec.
"""

from __future__ import annotations

from itertools import groupby
from struct import Struct
from struct import error as _StructError
from typing import Any, Final, NamedTuple

from ottla.file_region import FileRegion, Sendable
from ottla.protocol.primitives import encode_varint

VERSION: Final = 18

_CLIENT_ID = Struct(">h")
#: max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch
_HEAD = Struct(">iiibii")
#: partition, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, partition_max_bytes; one tag, 1, of
#: 8 bytes: the high watermark
_ASKED = Struct(">iiqiqiBBBq")
_ASKED_TAGS = (1, 1, 8)
#: no forgotten topics, no rack; one tag, 1, of 13 bytes: id and epoch of the replica, without tags
_TAIL = Struct(">BBBBBiqB")
_TAIL_BEFORE, _TAIL_AFTER = (1, 1, 1, 1, 13), 0

#: throttle_time_ms, error_code, session_id
_ANSWER_HEAD = Struct(">ihi")
#: partition_index, error_code, high_watermark, last_stable_offset, log_start_offset, aborted transactions (0: null),
#: preferred_read_replica
_ANSWERED = Struct(">ihqqqBi")
_UUID: Final = 16


class AskedPartition(NamedTuple):
    """What is asked of one partition."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    offset: int
    last_epoch: int
    log_start_offset: int
    bytes_max: int
    high_watermark: int


class ReplicaFetch(NamedTuple):
    """A follower's request in a session that goes on."""

    wait_ms_max: int
    bytes_min: int
    bytes_max: int
    session_id: int
    session_epoch: int
    replica_id: int
    replica_epoch: int
    partitions: list[AskedPartition]


class AnsweredPartition(NamedTuple):
    """What is new of one partition. `records` may be empty; a leader may leave them in their file."""

    topic_id: bytes
    partition: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    records: Sendable


class ReplicaAnswer(NamedTuple):
    """The answer to a `ReplicaFetch`."""

    session_id: int
    partitions: list[AnsweredPartition]


def encode_request(fetch: ReplicaFetch) -> bytes:
    """Return the body of the request; partitions of one topic stand next to each other."""
    out = [
        _HEAD.pack(fetch.wait_ms_max, fetch.bytes_min, fetch.bytes_max, 0, fetch.session_id, fetch.session_epoch),
        b"",
    ]
    topics = 0
    for topic_id, rows in groupby(fetch.partitions, key=_topic_of):
        topics += 1
        packed = [_ASKED.pack(*row[1:7], *_ASKED_TAGS, row.high_watermark) for row in rows]
        out += [topic_id, encode_varint(len(packed) + 1), *packed, b"\0"]
    out[1] = encode_varint(topics + 1)
    out.append(_TAIL.pack(*_TAIL_BEFORE, fetch.replica_id, fetch.replica_epoch, _TAIL_AFTER))
    return b"".join(out)


def looks_like_one(frame: memoryview) -> bool:
    """Whether a replica stands at the end of a frame, as far as one glance tells."""
    return (
        len(frame) > _TAIL.size
        and frame[-_TAIL.size + 3] == _TAIL_BEFORE[3]
        and frame[-_TAIL.size + 4] == _TAIL_BEFORE[4]
    )


def parse_request(frame: memoryview) -> ReplicaFetch | None:
    """Return what a frame (header included, size not) asks for, or None: have the codec look at it."""
    try:
        (size,) = _CLIENT_ID.unpack_from(frame, 8)
        at = 10 + max(size, 0)
        if frame[at]:
            return None
        wait_ms, bytes_min, bytes_max, isolation, session_id, session_epoch = _HEAD.unpack_from(frame, at + 1)
        topics, at = count_at(frame, at + 1 + _HEAD.size)
        if isolation or topics < 0:
            return None
        rows: list[AskedPartition] = []
        for _ in range(topics):
            topic_id = bytes(frame[at : at + _UUID])
            count, at = count_at(frame, at + _UUID)
            if count < 0 or at + count * _ASKED.size >= len(frame):
                return None
            for _ in range(count):
                *asked, tags, tag, tag_size, high_watermark = _ASKED.unpack_from(frame, at)
                if (tags, tag, tag_size) != _ASKED_TAGS:
                    return None
                rows.append(AskedPartition._make((topic_id, *asked, high_watermark)))
                at += _ASKED.size
            if frame[at]:
                return None
            at += 1
        *before, replica_id, replica_epoch, after = _TAIL.unpack_from(frame, at)
        if tuple(before) != _TAIL_BEFORE or after != _TAIL_AFTER or at + _TAIL.size != len(frame):
            return None
    except (IndexError, ValueError, _StructError):
        return None
    return ReplicaFetch(wait_ms, bytes_min, bytes_max, session_id, session_epoch, replica_id, replica_epoch, rows)


def encode_answer(answer: ReplicaAnswer) -> list[Sendable]:
    """Return the body of the answer; partitions of one topic stand next to each other.

    Regions of files stay what they are, everything else is joined.
    """
    topics = [(topic_id, list(rows)) for topic_id, rows in groupby(answer.partitions, key=_topic_of)]
    chunks: list[Sendable] = []
    out: list[Any] = [_ANSWER_HEAD.pack(0, 0, answer.session_id), encode_varint(len(topics) + 1)]
    for topic_id, rows in topics:
        out += [topic_id, encode_varint(len(rows) + 1)]
        for _, index, high_watermark, last_stable, log_start, records in rows:
            out.append(_ANSWERED.pack(index, 0, high_watermark, last_stable, log_start, 0, -1))
            out.append(encode_varint(len(records) + 1))
            if isinstance(records, FileRegion):
                chunks += [b"".join(out), records]
                out = []
            else:
                out.append(records)
            out.append(b"\0")
        out.append(b"\0")
    out.append(b"\0")
    chunks.append(b"".join(out))
    return chunks


def parse_answer(body: memoryview) -> ReplicaAnswer | None:
    """Return what an answer (header and size not included) brings, or None: have the codec look at it.

    Records are views of `body`.
    """
    try:
        _, error_code, session_id = _ANSWER_HEAD.unpack_from(body)
        topics, at = count_at(body, _ANSWER_HEAD.size)
        if error_code or topics < 0:
            return None
        rows: list[AnsweredPartition] = []
        for _ in range(topics):
            topic_id = bytes(body[at : at + _UUID])
            count, at = count_at(body, at + _UUID)
            if count < 0:
                return None
            for _ in range(count):
                index, code, high_watermark, last_stable, log_start, aborted, preferred = _ANSWERED.unpack_from(
                    body, at
                )
                size, at = count_at(body, at + _ANSWERED.size)
                if code or aborted or preferred != -1 or size < 0 or body[at + size]:
                    return None
                rows.append(
                    AnsweredPartition(topic_id, index, high_watermark, last_stable, log_start, body[at : at + size])
                )
                at += size + 1
            if body[at]:
                return None
            at += 1
        if body[at] or at + 1 != len(body):
            return None
    except (IndexError, ValueError, _StructError):
        return None
    return ReplicaAnswer(session_id, rows)


def count_at(data: memoryview, at: int) -> tuple[int, int]:
    """Return the length that stands at a place, and where it ends; -1 for null, or for one of more than three bytes."""
    low = data[at]
    if low < 0x80:
        return low - 1, at + 1
    middle = data[at + 1]
    if middle < 0x80:
        return (low & 0x7F | middle << 7) - 1, at + 2
    high = data[at + 2]
    return ((low & 0x7F | (middle & 0x7F) << 7 | high << 14) - 1, at + 3) if high < 0x80 else (-1, at)


def _topic_of(row: AskedPartition | AnsweredPartition) -> bytes:
    return row.topic_id
