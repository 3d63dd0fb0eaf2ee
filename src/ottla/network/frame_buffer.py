"""The bytes of one connection that are not handled yet: half a frame, or frames that wait their turn.

A connection owns such a buffer only while it needs one. Complete frames are handled where they were received, in the
buffer all connections share; what is left over is copied here once, and later bytes are received here directly.

Invariants: `start <= end <= len(data)`; memory grows with the bytes that came, not with the size a peer announces
(at most twice what arrived, rounded up to a power of two below 4 MiB); growing doubles, so receiving a frame of n bytes
copies less than n bytes in total.
"""

from __future__ import annotations

from struct import Struct

_SIZE = Struct(">i")
SMALL = 64 * 1024
"""Up to here an announced frame size is believed at once."""
ROUNDED_MAX = 4 * 1024 * 1024


class FrameBuffer:
    """A growing byte buffer; the unhandled bytes are `view[start:end]`.

    Attributes:
        peak: size of the largest frame since somebody last set this to 0.
    """

    __slots__ = ("_expected", "data", "end", "peak", "start", "view")

    def __init__(self, rest: memoryview, need: int) -> None:
        """Copy `rest` in, with room to go on; `need` is the size of the first frame, or less if still unknown."""
        self.start: int = 0
        self.end: int = len(rest)
        self.peak: int = need
        #: Size of the newest frame that did not come whole: the next one may be like it.
        self._expected = need
        self._allocate(rest, need)

    def _allocate(self, rest: memoryview, need: int) -> None:
        size = len(rest)
        capacity = max(need if need <= SMALL else min(need, max(2 * size, SMALL)), size + 256)
        if SMALL <= capacity <= ROUNDED_MAX:  # the next frames are of a similar size and should not grow it again
            capacity = 1 << (capacity - 1).bit_length()
        data = bytearray(capacity)
        data[:size] = rest
        self.data: bytearray = data
        self.view: memoryview = memoryview(data)
        self.start = 0
        self.end = size

    def room(self) -> memoryview:
        """Where to receive next.

        If frames are large, there is room for one, or for its rest: of what comes after it a part would have to be moved to
        the front when this one is handled. With frames of 295 KB that was 229 KB each time. A rest that is small is received
        together with the beginning of the next frame: less is moved than another turn of the loop costs.
        """
        start, end = self.start, self.end
        if start == end:
            limit = end + self._expected
        elif end - start >= 4:
            limit = start + 4 + int(_SIZE.unpack_from(self.data, start)[0])
        else:
            return self.view[end:]
        if limit - start <= SMALL or limit <= end:  # several small ones are better received together
            return self.view[end:]
        return self.view[end : limit if limit - end > SMALL else limit + SMALL]

    def make_room(self, need: int) -> None:
        """Drop handled bytes and see that the first frame, of `need` bytes, can go on arriving.

        Args:
            need: size of the first unhandled frame with its length prefix, or 4 while that is unknown.
        """
        start, end = self.start, self.end
        if need > self.peak:
            self.peak = need
        if need > 4:
            self._expected = need
        if start == end:
            self.start = self.end = 0
            return
        capacity = len(self.data)
        if start + need <= capacity and end < capacity:
            return
        if need <= capacity and end - start < capacity:
            rest = end - start
            self.view[:rest] = self.view[start:end]  # memoryview assignment is a memmove: the ranges may overlap
            self.start, self.end = 0, rest
        else:
            self._allocate(self.view[start:end], max(need, end - start + 1))

    def add(self, chunk: memoryview) -> None:
        """Append bytes received elsewhere."""
        if self.end + len(chunk) > len(self.data):
            held = bytearray(self.view[self.start : self.end])
            held += chunk
            self._allocate(memoryview(held), len(held) + 1)
        else:
            self.view[self.end : self.end + len(chunk)] = chunk
            self.end += len(chunk)
