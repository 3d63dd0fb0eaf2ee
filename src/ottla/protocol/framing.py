"""Frames: an int32 size and that many bytes. The same rules in both directions.

`FrameReader` is fed whatever a transport delivers and returns the frames that are complete; it does no I/O. It never
holds more bytes than it was given: a peer that announces 100 MiB and sends 10 bytes costs 10 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from ottla.errors import RemoteProtocolError
from ottla.protocol.primitives import Buffer

#: Kafka's default of `socket.request.max.bytes`.
FRAME_SIZE_MAX: Final = 100 * 1024 * 1024

_SIZE: Final = struct.Struct(">i")


def check_size(size: int, size_max: int) -> int:
    """Return a frame's announced size if it is acceptable.

    Raises:
        RemoteProtocolError: it is negative or above the limit. Nothing can be read after that: close the connection.
    """
    if size < 0:
        raise RemoteProtocolError(f"frame of {size} bytes")
    if size > size_max:
        raise RemoteProtocolError(f"frame of {size} bytes; the limit is {size_max}")
    return size


def frame(parts: Iterable[Buffer]) -> list[Buffer]:
    """Return the parts behind the size of them all, uncopied."""
    body = list(parts)
    return [_SIZE.pack(sum(map(len, body))), *body]


class FrameReader:
    """Cuts a stream of bytes into frames.

    After a RemoteProtocolError the reader is spent: the stream cannot be understood from there on.
    """

    def __init__(self, size_max: int = FRAME_SIZE_MAX) -> None:
        self._size_max = size_max
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished frame are held, its size included."""
        return len(self._buffer)

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Take bytes in order of their arrival; yield the bodies of the frames they complete.

        Exhaust the iterator before feeding more.

        Raises:
            RemoteProtocolError: a size is negative or above the limit. Raised by the iterator, after the frames ahead
                of it, as soon as the size is complete.
        """
        self._buffer += data
        return self._complete_frames()

    def _complete_frames(self) -> Iterator[bytes]:
        buffer = self._buffer
        position = 0
        try:
            while len(buffer) - position >= 4:
                size = check_size(_SIZE.unpack_from(buffer, position)[0], self._size_max)
                end = position + 4 + size
                if end > len(buffer):
                    break
                body = bytes(memoryview(buffer)[position + 4 : end])
                position = end
                yield body
        finally:
            del buffer[:position]
