"""How answers are cut for sending: few system calls, no copies of large bodies, bounded work per loop turn.

asyncio's transports have one `write(bytes-like)`: what the kernel does not take is copied into their own buffer (and
before Python 3.12 `writelines` joins everything first). So small buffers are joined into one, a large body is passed
as slices of itself, and its head is joined with the first bytes of the body so that it does not cost a packet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

Buffer = bytes | bytearray | memoryview

JOIN_MAX = 64 * 1024
"""Up to here joining is cheaper than another system call."""
PIECE = 256 * 1024
"""Handed to the transport at a time; at most this much is copied when the kernel's buffer is full."""


def split(buffers: Iterable[Buffer]) -> deque[Buffer]:
    """Cut the concatenation of `buffers` into pieces of at most PIECE bytes, copying at most JOIN_MAX per piece."""
    pieces: deque[Buffer] = deque()
    small: list[Buffer] = []
    small_size = 0
    for buffer in buffers:
        size = len(buffer)
        if size + small_size <= JOIN_MAX:
            small.append(buffer)
            small_size += size
            continue
        view = memoryview(buffer)
        taken = 0
        if small:
            taken = JOIN_MAX - small_size
            small.append(view[:taken])
            pieces.append(b"".join(small))
            small, small_size = [], 0
        while size - taken > JOIN_MAX:
            piece = view[taken : taken + PIECE]
            pieces.append(piece)
            taken += len(piece)
        if taken < size:
            small, small_size = [view[taken:]], size - taken
    if small:
        pieces.append(b"".join(small) if len(small) > 1 else small[0])
    return pieces
