"""Produce requests and answers by position: what nearly every one of them is, without an object for each part.

`parse` understands what producers send outside of transactions and returns None for everything else, right or wrong:
the codec is the one that decides what a request means and what is wrong with it. `encode_accepted` writes the answer to a
request all of whose batches were appended, committed or not. Tests hold both to the codec's answers, for every version.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from ottla.compiled import load_beside
from ottla.protocol.primitives import encode_varint
from ottla.types import CompressionType

#: From this version on a topic is named by its id (KIP-516).
BY_ID: Final = 13
FLEXIBLE_SINCE: Final = 9
ZSTD_SINCE: Final = 7
#: A batch's header: shorter ones are nothing ordinary.
_BATCH_MIN: Final = 61
_ATTRIBUTES: Final = 21
_ZSTD: Final = int(CompressionType.ZSTD)
_UUID: Final = 16

_CLIENT_ID = Struct(">h")
_ACKS_TIMEOUT_COUNT = Struct(">hii")
_ACKS_TIMEOUT = Struct(">hi")
_LENGTH = Struct(">i")
_INDEX_AND_LENGTH = Struct(">ii")

#: index, error, base offset, log append time, log start offset, record errors, error message, tags
_PART_3 = Struct(">ihqq")
_PART_5 = Struct(">ihqqq")
_PART_8 = Struct(">ihqqqih")
_PART_9 = Struct(">ihqqqBBB")


class ProducedTopic(NamedTuple):
    """One topic of a request. `key`: its name with the length, or its id, as an answer repeats it."""

    key: bytes
    partitions: list[tuple[int, memoryview]]


class ProducedBatches(NamedTuple):
    """A request: acks, how long its client waits, and batches, which are views of the frame."""

    acks: int
    timeout_ms: int
    topics: list[ProducedTopic]


class AcceptedPart(NamedTuple):
    """What an answer says of one batch that was appended; `error_code` if it could not be committed."""

    partition: int
    base_offset: int
    log_append_time_ms: int
    log_start_offset: int
    error_code: int = 0


def parse(frame: memoryview, version: int) -> ProducedBatches | None:
    """Return the batches of an ordinary request (header included), or None: have the codec look at it.

    Ordinary: a client id in ASCII or none, no transactional id, no tagged fields, and for each partition at least the
    header of a batch without any flag but its codec, one that this version knows. Nothing else about the batches is checked.
    """
    try:
        found = _parse_flexible(frame, version) if version >= FLEXIBLE_SINCE else _parse_old(frame, version)
    except (IndexError, ValueError):
        return None
    return found


def parse_one(frame: memoryview, version: int) -> tuple[int, int, bytes, int, memoryview] | None:
    """Return (acks, timeout_ms, `ProducedTopic.key`, partition, batch) of an ordinary request of one batch.

    None: it is not ordinary, has more than one, or there is no kernel.
    """
    return None


def encode_one(version: int, key: bytes, partition: int, base_offset: int, log_start_offset: int) -> bytes:
    """Do as `encode_accepted` for one batch that was appended with its producer's timestamps."""
    return encode_accepted(version, [(key, [AcceptedPart(partition, base_offset, -1, log_start_offset)])])


def _after_client_id(frame: memoryview) -> int:
    if len(frame) < 28:
        raise IndexError
    size = _CLIENT_ID.unpack_from(frame, 8)[0]
    if size <= 0:
        return 10
    if not bytes(frame[10 : 10 + size]).isascii():
        raise ValueError
    return 10 + int(size)


def _parse_old(frame: memoryview, version: int) -> ProducedBatches | None:
    end = len(frame)
    codec_max = CompressionType.ZSTD if version >= ZSTD_SINCE else CompressionType.LZ4
    p = _after_client_id(frame)
    if end - p < 12 or frame[p] != 0xFF or frame[p + 1] != 0xFF:
        return None
    acks, timeout_ms, topic_count = _ACKS_TIMEOUT_COUNT.unpack_from(frame, p + 2)
    p += 12
    topics: list[ProducedTopic] = []
    for _ in range(topic_count):
        size = _CLIENT_ID.unpack_from(frame, p)[0] if end - p >= 2 else -1
        if size < 0 or end - p < 2 + size + 4:
            return None
        key = bytes(frame[p : p + 2 + size])
        p += 2 + size
        (count,) = _LENGTH.unpack_from(frame, p)
        p += 4
        if count < 0:
            return None
        partitions: list[tuple[int, memoryview]] = []
        for _ in range(count):
            if end - p < 8:
                return None
            index, size = _INDEX_AND_LENGTH.unpack_from(frame, p)
            p += 8
            if size < _BATCH_MIN or size > end - p or frame[p + _ATTRIBUTES] or frame[p + _ATTRIBUTES + 1] > codec_max:
                return None
            partitions.append((index, frame[p : p + size]))
            p += size
        topics.append(ProducedTopic(key, partitions))
    return ProducedBatches(acks, timeout_ms, topics) if topic_count >= 0 else None


def _parse_flexible(frame: memoryview, version: int) -> ProducedBatches | None:
    end = len(frame)
    p = _after_client_id(frame)
    if end - p < 10 or frame[p] or frame[p + 1]:  # tags of the header, transactional id
        return None
    acks, timeout_ms = _ACKS_TIMEOUT.unpack_from(frame, p + 2)
    p += 8
    topic_count = frame[p]
    p += 1
    if not 0 < topic_count < 0x80:
        return None
    topics: list[ProducedTopic] = []
    for _ in range(topic_count - 1):
        if version >= BY_ID:
            q = p + _UUID
        else:
            size = frame[p]
            if not 0 < size < 0x80:
                return None
            q = p + size
        key = bytes(frame[p:q])
        count = frame[q]
        p = q + 1
        if count > 0x7F:
            count = (count & 0x7F) | frame[p] << 7
            p += 1
            if count > 0x3FFF:
                return None
        if not count:
            return None
        partitions: list[tuple[int, memoryview]] = []
        for _ in range(count - 1):
            if end - p < 8:
                return None
            (index,) = _LENGTH.unpack_from(frame, p)
            size = shift = 0
            p += 4
            while True:
                byte = frame[p]
                p += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 28:
                    return None
            q = p + size - 1
            if (
                size <= _BATCH_MIN
                or q >= end
                or frame[p + _ATTRIBUTES]
                or frame[p + _ATTRIBUTES + 1] > _ZSTD
                or frame[q]
            ):
                return None
            partitions.append((index, frame[p:q]))
            p = q + 1
        if frame[p]:
            return None
        p += 1
        topics.append(ProducedTopic(key, partitions))
    return None if frame[p] else ProducedBatches(acks, timeout_ms, topics)


def encode_accepted(version: int, answers: Sequence[tuple[bytes, Sequence[AcceptedPart]]]) -> bytes:
    """Return the body of the answer: for each topic its `ProducedTopic.key` and what became of its batches."""
    flexible = version >= FLEXIBLE_SINCE
    out = [encode_varint(len(answers) + 1) if flexible else _LENGTH.pack(len(answers))]
    for key, parts in answers:
        out.append(key)
        if flexible:
            pack = _PART_9.pack
            out.append(encode_varint(len(parts) + 1))
            out += [pack(index, code, base, time, start, 1, 0, 0) for index, base, time, start, code in parts]
            out.append(b"\0")
            continue
        out.append(_LENGTH.pack(len(parts)))
        for index, base, time, start, code in parts:
            if version >= 8:
                out.append(_PART_8.pack(index, code, base, time, start, 0, -1))
            elif version >= 5:
                out.append(_PART_5.pack(index, code, base, time, start))
            else:
                out.append(_PART_3.pack(index, code, base, time))
    out.append(b"\0\0\0\0\0" if flexible else b"\0\0\0\0")
    return b"".join(out)


_extension: Any
_extension, _ = load_beside(__file__, __package__, "_produce_cy")
if _extension is not None:
    parse_one = _extension.parse_one
    encode_one = _extension.encode_one
