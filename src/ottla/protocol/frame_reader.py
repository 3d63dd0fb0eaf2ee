"""FrameReader: a request read by position, for the short cuts that read what nearly all requests of their API are.

Every method raises IndexError, ValueError or struct.error for what is not ordinary: cut short, not in ASCII, too long for the
short form of a length. The codec decides what that means.
"""

from __future__ import annotations

from struct import Struct

_INT16 = Struct(">h")
_INT32 = Struct(">i")
_INT64 = Struct(">q")


class FrameReader:
    """Reads a frame from its client id on. Everything in it is in ASCII, or it is not ordinary."""

    __slots__ = ("at", "frame")

    def __init__(self, frame: memoryview) -> None:
        self.frame = frame
        self.at = 8

    def long_string(self) -> str | None:
        """Read a string with two bytes of length; None is null."""
        (size,) = _INT16.unpack_from(self.frame, self.at)
        self.at += 2
        if size < 0:
            return None
        return self._text(size)

    def short_string(self) -> str | None:
        """Read a compact string with one byte of length; None is null."""
        size = self.frame[self.at]
        self.at += 1
        if size >= 0x80:
            raise ValueError
        return self._text(size - 1) if size else None

    def _text(self, size: int) -> str:
        begin = self.at
        self.at = end = begin + size
        if end > len(self.frame):
            raise IndexError
        return str(self.frame[begin:end], "ascii")

    def int32(self) -> int:
        """Read four bytes."""
        (value,) = _INT32.unpack_from(self.frame, self.at)
        self.at += 4
        return int(value)

    def int64(self) -> int:
        """Read eight bytes."""
        (value,) = _INT64.unpack_from(self.frame, self.at)
        self.at += 8
        return int(value)

    def no_tags(self) -> None:
        """Read an empty list of tagged fields."""
        if self.frame[self.at]:
            raise ValueError
        self.at += 1
