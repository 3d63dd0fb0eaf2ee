"""A second encoder of messages, written for the fuzzer: besides the bytes it tells what each of them is.

It walks the `SCHEMA` rows as the generated codecs do, a field at a time and slowly. That the bytes equal those of
`ottla.protocol.codec` is checked for every request of the fuzzer's seeds (`test_seeds.py`).
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Any, NamedTuple

from ottla.protocol.primitives import FIXED_SIZE
from ottla.protocol.schema import Field, Message, Struct, fields_of, struct_named

_rows: dict[type[Struct], list[Field]] = {}


def rows(cls: type[Struct]) -> list[Field]:
    """Return the parsed rows of a class."""
    found = _rows.get(cls)
    if found is None:
        found = _rows[cls] = fields_of(cls)
    return found


class Kind(Enum):
    """What a run of bytes means."""

    VALUE = auto()
    """A number, a truth value or a uuid; `type` says which."""
    LENGTH = auto()
    """How many bytes follow: int16, int32, or varint (of length + 1)."""
    COUNT = auto()
    """How many elements follow: int32, or varint (of count + 1)."""
    CONTENT = auto()
    """The bytes a LENGTH announced; `type` is string, bytes or records."""
    TAGS = auto()
    """How many tagged fields follow."""
    TAG = auto()
    """Number or size of a tagged field."""
    PRESENCE = auto()
    """Whether a nullable struct follows."""
    ELEMENT = auto()
    """A whole element of an array; its parts have spans of their own. `owner` is the index of the COUNT's span."""


class Span(NamedTuple):
    """Bytes `start` to `end` of a message."""

    kind: Kind
    type: str
    start: int
    end: int
    owner: int = -1


class Layout:
    """One encoded message and its spans."""

    def __init__(self, message: Message, version: int) -> None:
        low, high = message.FLEXIBLE
        self.flexible = low <= version <= high
        self.version = version
        self.data = bytearray()
        self.spans: list[Span] = []
        self._struct(message)

    def _put(self, kind: Kind, type_: str, data: bytes) -> None:
        start = len(self.data)
        self.data += data
        self.spans.append(Span(kind, type_, start, len(self.data)))

    def _struct(self, value: Struct) -> None:
        fields = [field for field in rows(type(value)) if field.exists(self.version)]
        for field in fields:
            if not field.is_tagged(self.version):
                self._field(field, getattr(value, field.name), type(value))
        if self.flexible:
            tagged = sorted(
                (field for field in fields if field.is_tagged(self.version)), key=lambda field: field.tag or 0
            )
            empty = type(value)()
            written = [field for field in tagged if getattr(value, field.name) != getattr(empty, field.name)]
            self._put(Kind.TAGS, "varint", varint(len(written)))
            for field in written:
                inner = Layout.__new__(Layout)
                inner.flexible, inner.version, inner.data, inner.spans = True, self.version, bytearray(), []
                inner._field(field, getattr(value, field.name), type(value))
                self._put(Kind.TAG, "varint", varint(field.tag or 0))
                self._put(Kind.TAG, "varint", varint(len(inner.data)))
                base, first = len(self.data), len(self.spans)
                self.data += inner.data
                for kind, type_, start, end, owner in inner.spans:
                    moved = owner + first if owner >= 0 else owner
                    self.spans.append(Span(kind, type_, start + base, end + base, moved))

    def _field(self, field: Field, value: Any, owner: type[Struct]) -> None:
        if not field.array:
            self._value(field, value, owner, inflexible=field.inflexible)
            return
        if value is None:
            self._put(Kind.COUNT, *(("varint", b"\0") if self.flexible else ("int32", b"\xff\xff\xff\xff")))
            return
        count = len(self.spans)
        if self.flexible:
            self._put(Kind.COUNT, "varint", varint(len(value) + 1))
        else:
            self._put(Kind.COUNT, "int32", struct.pack(">i", len(value)))
        for element in value:
            start = len(self.data)
            if isinstance(element, Struct):
                self._struct(element)
            else:
                self._value(field, element, owner)
            self.spans.append(Span(Kind.ELEMENT, field.type, start, len(self.data), count))

    def _value(self, field: Field, value: Any, owner: type[Struct], *, inflexible: bool = False) -> None:
        if field.type in FIXED_SIZE:
            self._put(Kind.VALUE, field.type, struct.pack(">" + FIXED_SIZE[field.type][0], value))
        elif field.type in ("string", "bytes", "records"):
            content = value.encode() if isinstance(value, str) else value
            if self.flexible and not inflexible:
                self._put(Kind.LENGTH, "varint", varint(0 if content is None else len(content) + 1))
            else:
                kind = "int16" if field.type == "string" else "int32"
                self._put(Kind.LENGTH, kind, pack(kind, -1 if content is None else len(content)))
            if content is not None:
                self._put(Kind.CONTENT, field.type, bytes(content))
        elif field.is_nullable(self.version):
            self._put(Kind.PRESENCE, "int8", b"\xff" if value is None else b"\x01")
            if value is not None:
                self._struct(value)
        else:
            assert struct_named(owner, field.type)
            self._struct(value)


def pack(type_: str, value: int) -> bytes:
    """Return `value` cut to what the type holds, as Java would cut it; varints are unsigned and 32 bits wide."""
    if type_ == "varint":
        return varint(value & 0xFFFFFFFF)
    size = FIXED_SIZE[type_][1]
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "big")


def varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)
