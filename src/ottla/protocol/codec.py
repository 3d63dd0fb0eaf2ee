"""Messages to bytes and back, for every version of every message.

A codec is a plain Python function written for one class and one version: nested loops inlined, runs of fixed-size
fields read and written by one `struct` call, values unpacked straight into the slots of new objects. It is built from
the `SCHEMA` rows on first use (about a millisecond) and kept; `decoding` and `encoding` write its source.

Decoding trusts nothing: whatever the bytes are, the result is a message or RemoteProtocolError, and no more elements
are made than the buffer could hold. Bytes after the message are the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from ottla.errors import LocalProtocolError
from ottla.file_region import Sendable
from ottla.protocol.primitives import Buffer
from ottla.protocol.schema import Message

M = TypeVar("M", bound=Message)

#: (buffer, position) -> (message, position after it)
Decoder = Callable[[Buffer, int], tuple[M, int]]
#: (message, write): calls `write` with one buffer after the other. What it is given is not copied.
Encoder = Callable[[M, Callable[[Buffer], object]], None]

# Buffers of this size and more are sent as they are; copying a smaller one is cheaper than sending it apart.
CHUNK_SIZE_MIN: Final = 16 * 1024

_decoders: dict[tuple[type[Message], int], Any] = {}
_encoders: dict[tuple[type[Message], int], Any] = {}


def decode(cls: type[M], version: int, buffer: Buffer, position: int = 0) -> tuple[M, int]:
    """Decode one message that starts at `position`; return it and the position after it.

    Fields of type `records` are views of `buffer`, valid as long as it is; everything else is copied.

    Raises:
        RemoteProtocolError: the bytes are not a message of this class and version.
    """
    return decoder(cls, version)(buffer, position)


def encode(message: Message, version: int) -> bytes:
    """Return the message as bytes.

    Raises:
        LocalProtocolError: a value does not fit its field, null where that is not allowed, or a field is set that
            this version lacks and that must not be dropped silently (not `ignorable`).
    """
    parts: list[Buffer] = []
    encoder(type(message), version)(message, parts.append)
    return b"".join(parts)


def encode_chunks(message: Message, version: int, head: bytes = b"") -> list[Sendable]:
    """Return `head` and the message as a short list of buffers, large ones (records) uncopied.

    Records may be a `FileRegion` of CHUNK_SIZE_MIN bytes or more, which is passed on as it is.
    """
    parts: list[Any] = [head]
    encoder(type(message), version)(message, parts.append)
    if sum(map(len, parts)) < CHUNK_SIZE_MIN:
        return [b"".join(parts)]
    chunks: list[Sendable] = []
    start = 0
    for index, part in enumerate(parts):
        if len(part) >= CHUNK_SIZE_MIN:
            if start < index:
                chunks.append(b"".join(parts[start:index]))
            chunks.append(part)
            start = index + 1
    if start < len(parts):
        chunks.append(b"".join(parts[start:]))
    return chunks


def decoder(cls: type[M], version: int) -> Decoder[M]:
    """Return the function that decodes one version of a message; built on first use."""
    found = _decoders.get((cls, version))
    if found is None:
        from ottla.protocol.decoding import decoder_source

        found = _decoders[cls, version] = _build(cls, version, *decoder_source(cls, _checked(cls, version)))
    return cast("Decoder[M]", found)


def encoder(cls: type[M], version: int) -> Encoder[M]:
    """Return the function that encodes one version of a message; built on first use."""
    found = _encoders.get((cls, version))
    if found is None:
        from ottla.protocol.encoding import encoder_source

        found = _encoders[cls, version] = _build(cls, version, *encoder_source(cls, _checked(cls, version)))
    return cast("Encoder[M]", found)


def _checked(cls: type[Message], version: int) -> int:
    low, high = cls.VERSIONS
    if not low <= version <= high:
        raise LocalProtocolError(f"{cls.__name__} has versions {low} to {high}, not {version}")
    return version


def _build(cls: type[Message], version: int, source: str, names: dict[str, Any]) -> Any:
    """Compile `source`, which defines one function called `codec` and uses the objects in `names`."""
    exec(compile(source, f"<codec of {cls.__name__} v{version}>", "exec"), names)
    return names["codec"]
