"""The file in which a standalone worker keeps the offsets of sources, in the format of Java's.

Java's worker serializes a `HashMap<byte[], byte[]>` (Java Object Serialization Stream Protocol, version 5). Keys are JSON,
["connector", {partition}], values {offset} or nothing. A key that was read keeps its bytes, so that a Java worker finds it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from ottla.connect.errors import ConnectError

_HEADER = bytes.fromhex("aced0005")
_HASH_MAP = (
    b"\x73\x72" + struct.pack(">H", 17) + b"java.util.HashMap" + bytes.fromhex("0507dac1c31660d103")
    + b"\x00\x02F\x00\nloadFactorI\x00\tthreshold\x78\x70"
)  # fmt: skip
_BYTES = b"\x75\x72\x00\x02[B" + bytes.fromhex("acf317f8060854e002") + b"\x00\x00\x78\x70"
#: The second class of the stream: handles begin at 0x7e0000 with HashMap's class, then the map itself.
_BYTES_AGAIN = b"\x75\x71\x00\x7e\x00\x02"
_NULL = b"\x70"
_END = b"\x78"


def dump(offsets: Mapping[bytes, bytes | None]) -> bytes:
    """Return the content of the file."""
    capacity = 16
    while len(offsets) * 4 > capacity * 3:
        capacity *= 2
    threshold = capacity * 3 // 4
    out = bytearray(_HEADER + _HASH_MAP + struct.pack(">fi", 0.75, threshold))
    out += b"\x77\x08" + struct.pack(">ii", capacity, len(offsets))
    described = False
    for entry in offsets.items():
        for data in entry:
            if data is None:
                out += _NULL
                continue
            out += (_BYTES_AGAIN if described else _BYTES) + struct.pack(">i", len(data)) + data
            described = True
    return bytes(out + _END)


def load(data: bytes) -> dict[bytes, bytes | None]:
    """Return the offsets in a file.

    Raises:
        ConnectError: it is no such file, or one that was cut off.
    """
    reader = _Reader(data)
    reader.expect(_HEADER + _HASH_MAP)
    reader.take(8)
    reader.expect(b"\x77\x08")
    count = struct.unpack(">ii", reader.take(8))[1]
    found: dict[bytes, bytes | None] = {}
    arrays = reader.arrays(count * 2)
    for key in arrays:
        if key is None:
            raise reader.wrong()
        found[key] = next(arrays)
    reader.expect(_END)
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) < size or size < 0:
            raise self.wrong()
        self._at += size
        return found

    def expect(self, wanted: bytes) -> None:
        if self.take(len(wanted)) != wanted:
            raise self.wrong()

    def wrong(self) -> ConnectError:
        return ConnectError(f"the file of offsets is not Java's map of bytes, or is cut off (at byte {self._at})")

    def arrays(self, count: int) -> Iterator[bytes | None]:
        described = False
        for _ in range(count):
            if self._data[self._at : self._at + 1] == _NULL:
                self._at += 1
                yield None
                continue
            self.expect(_BYTES_AGAIN if described else _BYTES)
            described = True
            yield self.take(struct.unpack(">i", self.take(4))[0])
