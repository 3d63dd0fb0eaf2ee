"""From a valid request to one that is wrong somewhere: the fuzzer's frames.

`Frames(seeds, seed)[i]` is the i-th frame, its size prefix included, and depends on nothing else: a run can be cut into
pieces, continued, or narrowed down to one frame. Bytes 8 to 12 always hold `i` as the correlation id, except where
the frame is shorter: by it the sender learns which frame an answer belongs to.

What is wrong is chosen so that most frames still decode and reach a handler; the rest tries the framing and the
decoders. Requests that would really fill the disk, or change the broker for everybody, are replaced (`_is_harmful`).
"""

from __future__ import annotations

import random as dice
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.hostile.batches import extreme
from tests.hostile.layout import Kind, Layout, Span, pack, varint
from tests.hostile.seeds import Seeds

from ottla.errors import RemoteProtocolError
from ottla.protocol.api import APIS, SERVED, ApiKey, request_header_version
from ottla.protocol.codec import decode
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.primitives import FIXED_SIZE
from ottla.types import GROUP_METADATA_TOPIC

HARMFUL_KEYS = frozenset(
    {
        ApiKey.CREATE_TOPICS,
        ApiKey.CREATE_PARTITIONS,
        ApiKey.ALTER_CONFIGS,
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        ApiKey.DELETE_TOPICS,
    }
)
_HEADER_SIZE_MIN = 8
_FORMATS = {name: ">" + letter for name, (letter, _) in FIXED_SIZE.items()}


class Frame(NamedTuple):
    """One frame to send.

    Attributes:
        data: with its size prefix.
        key, version: of the request it was made from.
        mutation: the name of what was done to it.
    """

    data: bytes
    key: ApiKey
    version: int
    mutation: str


class Frames:
    """A sequence of frames without end."""

    def __init__(self, seeds: Seeds, seed: int) -> None:
        self._seeds = seeds
        self._seed = seed

    def __getitem__(self, index: int) -> Frame:
        random = dice.Random(self._seed << 32 | index)
        while True:
            frame = self._make(index, random)
            if not _is_harmful(frame):
                return frame

    def _make(self, index: int, random: dice.Random) -> Frame:
        message, version = self._seeds.request(random)
        key = ApiKey(message.API_KEY)  # type: ignore[arg-type]
        header = RequestHeader(
            request_api_key=key, request_api_version=version, correlation_id=index & 0x7FFFFFFF, client_id="fuzz"
        )
        head = Layout(header, request_header_version(key, version))
        body = Layout(message, version)
        mutate = random.choices(_MUTATIONS, cum_weights=_CUMULATIVE)[0]
        prefix, payload = mutate(head, body, random)
        size = len(payload) if prefix is None else prefix
        return Frame(struct.pack(">i", size) + payload, key, version, mutate.__name__.strip("_"))


#: A mutation returns the size to announce (None: the right one) and the bytes after it.
Mutated = tuple[int | None, bytes]
Mutation = Callable[[Layout, Layout, dice.Random], Mutated]


def _nothing(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Valid, as far as the frame goes: what is hostile are its batches or its combination of values."""
    return None, bytes(head.data + body.data)


def _extreme_values(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Numbers, ids and truth values nobody means. Decodes."""
    spans = [span for span in body.spans if span.kind is Kind.VALUE]
    data = bytearray(body.data)
    for span in random.sample(spans, min(len(spans), random.choice((1, 1, 2, 3)))):
        if span.type == "uuid":
            value = random.choice((bytes(16), bytes(15) + b"\1", random.randbytes(16)))
        elif span.type in ("bool", "float64"):
            value = random.randbytes(span.end - span.start)
        else:
            value = pack(span.type, extreme(_FORMATS[span.type].replace("H", "h"), random))
        data[span.start : span.end] = value
    return None, bytes(head.data + data)


def _strange_text(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Other content with the right length: foreign scripts, separators, NUL, very long. Decodes."""
    spans = [span for span in body.spans if span.kind is Kind.CONTENT and span.type in ("string", "bytes")]
    if not spans:
        return _extreme_values(head, body, random)
    chosen = random.choice(spans)
    text = random.choice(
        (
            "", ".", "..", "a/b", "../../etc", "\0", "\r\n", "%s%n", "\u202e", "\U0001f980" * 5, "__consumer_offsets",
            "x" * 249, "x" * 250, "x" * 32767, "é" * 16383, "fuzz-0", "-1", "2147483648",
        )
    ).encode()  # fmt: skip
    return None, bytes(head.data + _with_content(body, chosen, text))


def _bad_utf8(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Bytes that are no text."""
    spans = [span for span in body.spans if span.kind is Kind.CONTENT and span.type == "string"]
    if not spans:
        return _wrong_length(head, body, random)
    text = random.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"a\xe2\x82"))
    return None, bytes(head.data + _with_content(body, random.choice(spans), text))


def _many_elements(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """One element of an array, hundreds of times. Decodes: expensive to answer, and legal."""
    spans = [span for span in body.spans if span.kind is Kind.ELEMENT]
    if not spans:
        return _extreme_values(head, body, random)
    chosen = random.choice(spans)
    count = body.spans[chosen.owner]
    siblings = sum(1 for span in spans if span.owner == chosen.owner)
    element = body.data[chosen.start : chosen.end]
    more = min(random.choice((1, 2, 100, 1000)), 1 + 60_000 // max(len(element), 1))
    data = bytearray(body.data)
    data[chosen.end : chosen.end] = element * more
    number = siblings + more
    data[count.start : count.end] = varint(number + 1) if count.type == "varint" else struct.pack(">i", number)
    return None, bytes(head.data + data)


def _unknown_tags(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Tagged fields of a future Kafka, which must be skipped. Decodes where the version is flexible."""
    spans = [span for span in body.spans if span.kind is Kind.TAGS and body.data[span.start] == 0]
    if not spans:
        return _extreme_values(head, body, random)
    chosen = random.choice(spans)
    tags = sorted(random.sample(range(10_000, 2_000_000_000), random.choice((1, 2, 50))))
    section = bytearray(varint(len(tags)))
    for tag in tags:
        value = random.randbytes(random.choice((0, 1, 200)))
        section += varint(tag) + varint(len(value)) + value
    data = bytearray(body.data)
    data[chosen.start : chosen.end] = section
    return None, bytes(head.data + data)


def _wrong_tags(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Known tags with foreign content, repeated or unordered tags, sections that end too late."""
    spans = [span for span in body.spans if span.kind is Kind.TAGS]
    if not spans:
        return _wrong_length(head, body, random)
    chosen = random.choice(spans)
    section = random.choice(
        (
            b"\x01\x00\x01\x00",
            b"\x01\x00\x05\x00",
            b"\x02\x00\x00\x00\x00",
            b"\x02\x05\x00\x01\x00",
            b"\xff\xff\xff\xff\x0f",
            b"\x01\x00\xff\xff\xff\xff\x0f",
            b"\x01\xff\xff\xff\xff\x1f\x00",
            b"\x80\x80\x80\x80\x80\x80\x00",
            b"\x01",
        )
    )
    data = bytearray(body.data)
    data[chosen.start : chosen.end] = section
    return None, bytes(head.data + data)


def _wrong_length(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """A length or count that says null, less, more, far too much, or is no number at all."""
    spans = [span for span in body.spans if span.kind in (Kind.LENGTH, Kind.COUNT, Kind.TAG, Kind.PRESENCE)]
    if not spans:
        return _cut_short(head, body, random)
    chosen = random.choice(spans)
    data = bytearray(body.data)
    if chosen.type == "varint":
        old = data[chosen.start] & 127
        value = random.choice((0, 1, old + 1, max(old - 1, 0), 1 << 14, 1 << 31, (1 << 32) - 1))
        new = random.choice(
            (varint(value), varint(value), varint(value), b"\xff" * 5 + b"\x01", b"\x80\x80\x80\x80\x80\x00")
        )
    else:
        old = int.from_bytes(data[chosen.start : chosen.end], "big")
        new = pack(chosen.type, random.choice((-1, 0, -2, old + 1, old - 1, 0x7FFF, 0x7FFFFFFF, 1 << 31, 1 << 20)))
    data[chosen.start : chosen.end] = new
    return None, bytes(head.data + data)


def _flipped_bits(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """One to four bits of the body, anywhere."""
    data = bytearray(body.data)
    for _ in range(random.randrange(1, 5) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return None, bytes(head.data + data)


def _cut_short(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Whole as a frame, but the message ends too early."""
    data = bytes(head.data + body.data)
    return None, data[: random.randrange(_HEADER_SIZE_MIN, max(len(data), _HEADER_SIZE_MIN + 1))]


def _too_long(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Bytes after the end of the message."""
    return None, bytes(head.data + body.data) + random.randbytes(random.choice((1, 2, 100, 5000)))


def _moved_bytes(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """A piece of the body removed, repeated, or put elsewhere."""
    data = bytearray(body.data)
    if len(data) > 2:
        start = random.randrange(len(data) - 1)
        end = min(len(data), start + random.randrange(1, 17))
        piece = bytes(data[start:end])
        match random.randrange(3):
            case 0:
                del data[start:end]
            case 1:
                data[end:end] = piece
            case _:
                del data[start:end]
                at = random.randrange(len(data) + 1)
                data[at:at] = piece
    return None, bytes(head.data + data)


def _wrong_header(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """Another API, another version, a broken client id."""
    data = bytearray(head.data)
    match random.randrange(4):
        case 0:
            struct.pack_into(">h", data, 0, random.choice((-1, 4, 7, 17, 36, 52, 68, 99, 32767, random.randrange(80))))
        case 1:
            struct.pack_into(">h", data, 2, random.choice((-1, 0, 1, 14, 99, 32767)))
        case 2:
            struct.pack_into(">h", data, 8, random.choice((-1, -2, 0, 5, 32767)))
        case _:
            data[8:14] = struct.pack(">h", 3) + random.choice((b"\xff\xff\xff", b"a\r\n", b"\0\0\0"))
    return None, bytes(data + body.data)


def _noise(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """No request at all."""
    data = random.randbytes(random.choice((0, 1, 7, 8, 9, 30, 300)))
    return None, data[:4] + bytes(head.data[4:8]) + data[8:] if len(data) >= _HEADER_SIZE_MIN else data


def _wrong_size(head: Layout, body: Layout, random: dice.Random) -> Mutated:
    """The size of the frame lies: what follows is read as something else."""
    data = bytes(head.data + body.data)
    size = random.choice((-1, -(1 << 31), 0x7FFFFFFF, 104857601, 0x16030100, 0x47455420, len(data) - 1, 0))
    return size, data


def _with_content(body: Layout, span: Span, content: bytes) -> bytearray:
    """Return the body with other content in a LENGTH, CONTENT pair."""
    length = body.spans[body.spans.index(span) - 1]
    data = bytearray(body.data)
    data[span.start : span.end] = content
    new = varint(len(content) + 1) if length.type == "varint" else pack(length.type, len(content))
    data[length.start : length.end] = new
    return data


_WEIGHTED: dict[Mutation, float] = {
    _nothing: 14,
    _extreme_values: 26,
    _strange_text: 10,
    _many_elements: 6,
    _unknown_tags: 6,
    _wrong_tags: 4,
    _bad_utf8: 3,
    _wrong_length: 9,
    _flipped_bits: 9,
    _cut_short: 3,
    _too_long: 2,
    _moved_bytes: 4,
    _wrong_header: 2,
    _noise: 1.5,
    _wrong_size: 0.5,
}
_MUTATIONS = tuple(_WEIGHTED)
_CUMULATIVE = [sum(list(_WEIGHTED.values())[: index + 1]) for index in range(len(_WEIGHTED))]


def _is_harmful(frame: Frame) -> bool:
    """Whether the frame, as it is, is an administrator's right and wish: topics without bound, another configuration,
    the internal topic deleted (Kafka allows that). What follows from those is not the decoder's fault."""
    data = memoryview(frame.data)[4:]
    if len(data) < _HEADER_SIZE_MIN:
        return False
    number, version = struct.unpack_from(">hh", data)
    if number not in HARMFUL_KEYS:
        return False
    key = ApiKey(number)
    low, high = SERVED[key]
    if not low <= version <= high:
        return False
    try:
        _, position = decode(RequestHeader, request_header_version(key, version), data)
        request, _ = decode(APIS[key].request_class(), version, data, position)
    except RemoteProtocolError:
        return False
    if isinstance(request, DeleteTopicsRequest):
        return GROUP_METADATA_TOPIC in (*request.topic_names, *(topic.name for topic in request.topics))
    return not getattr(request, "validate_only", True)
