"""What a message looks like: base classes of the generated messages, and the rows that describe their fields.

A row is one line of text, kept as written in Kafka's message definitions and parsed only when a codec is built:

    name type versions [nullable=versions] [tag=number:versions] [default=value] [ignorable] [inflexible]

`type` is a primitive, the name of a class in the same module, or either with `[]` in front. `versions` is `3`, `3-7`
or `3+`. `inflexible` marks the one string (the client id of the request header) that keeps its int16 length in
flexible versions. Rows are plain constants, so that importing a messages module costs next to nothing.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Final, NamedTuple

VERSION_MAX: Final = 0x7FFF
NO_VERSIONS: Final = (1, 0)

# The default of an argument that is an array or struct: "make a new one". Not None, which is null where that is allowed.
EMPTY: Final[Any] = []


class Struct:
    """A group of fields inside a message.

    Fields a version lacks keep their defaults on decoding. Equality is by type and fields; instances are mutable and
    therefore not hashable.
    """

    __slots__: tuple[str, ...] = ()
    SCHEMA: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Message(Struct):
    """A whole message: what travels in one frame, or in one record of an internal topic.

    `API_KEY` is the key of a request or response and the record type of a coordinator's record; None elsewhere.
    `VERSIONS` and `FLEXIBLE` are inclusive; `FLEXIBLE` is empty (lowest above highest) if no version is flexible.
    """

    __slots__ = ()
    API_KEY: ClassVar[int | None] = None
    VERSIONS: ClassVar[tuple[int, int]]
    FLEXIBLE: ClassVar[tuple[int, int]] = NO_VERSIONS


class Field(NamedTuple):
    """One parsed row. Spans of versions are inclusive."""

    name: str
    type: str
    array: bool
    versions: tuple[int, int]
    nullable: tuple[int, int]
    tag: int | None
    tagged: tuple[int, int]
    default: str | None
    ignorable: bool
    inflexible: bool

    def exists(self, version: int) -> bool:
        return self.versions[0] <= version <= self.versions[1]

    def is_nullable(self, version: int) -> bool:
        return self.nullable[0] <= version <= self.nullable[1]

    def is_tagged(self, version: int) -> bool:
        return self.tagged[0] <= version <= self.tagged[1]


def parse_span(text: str) -> tuple[int, int]:
    """Return the inclusive bounds of `3`, `3-7`, `3+` or `none`."""
    if text == "none":
        return NO_VERSIONS
    if text.endswith("+"):
        return int(text[:-1]), VERSION_MAX
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def parse_field(row: str) -> Field:
    """Parse one row of a `SCHEMA`."""
    name, kind, versions, *options = row.split()
    nullable = tagged = NO_VERSIONS
    tag: int | None = None
    default: str | None = None
    ignorable = inflexible = False
    for option in options:
        key, _, value = option.partition("=")
        match key:
            case "nullable":
                nullable = parse_span(value)
            case "tag":
                number, _, span = value.partition(":")
                tag, tagged = int(number), parse_span(span)
            case "default":
                default = value
            case "ignorable":
                ignorable = True
            case "inflexible":
                inflexible = True
            case _:
                raise ValueError(f"unknown option {option!r} in {row!r}")
    array = kind.startswith("[]")
    return Field(
        name=name,
        type=kind.removeprefix("[]"),
        array=array,
        versions=parse_span(versions),
        nullable=nullable,
        tag=tag,
        tagged=tagged,
        default=default,
        ignorable=ignorable,
        inflexible=inflexible,
    )


def fields_of(struct: type[Struct]) -> list[Field]:
    """Return the parsed rows of a class, in wire order."""
    return [parse_field(row) for row in struct.SCHEMA]


def struct_named(owner: type[Struct], name: str) -> type[Struct]:
    """Return the class a row of `owner` names; it lives in the same module."""
    found: type[Struct] = getattr(sys.modules[owner.__module__], name)
    return found
