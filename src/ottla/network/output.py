"""How answers are cut for sending: few system calls, no copies of large bodies.

asyncio's transports have one `write(bytes-like)`: what the kernel does not take is copied into their own buffer (and
before Python 3.12 `writelines` joins everything first). So small buffers are joined into one, a large body is passed
as slices of itself, and its head is joined with the first bytes of the body so that it does not cost a packet of its
own. Measured with `benchmarks/network_echo.py`, bodies of 1 MB, CPU s/GB: everything joined 1.2, head and body written
apart 0.14-0.20, cut as here 0.11-0.19, `sendmsg` past the transport 0.10-0.17; in pieces of 128 KiB 0.23-0.33.

A `FileRegion` (records that lie in a file) stays what it is: `Outflow` gives it to the socket past the transport.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ottla.file_region import Buffer, FileRegion, Sendable

JOIN_MAX = 128 * 1024
"""An answer up to this size is joined: cheaper than another system call, and below malloc's limit for fresh pages."""
HEAD = 16 * 1024
"""The first piece of a large body is joined with what precedes it up to this size."""
PIECE = 2 * 1024 * 1024
"""Handed to the transport at a time; at most this much is copied when the kernel's buffer is full."""


def split(buffers: Iterable[Sendable]) -> deque[Sendable]:
    """Cut the concatenation of `buffers` into pieces of at most PIECE bytes, joining only small ones; regions stay whole."""
    pieces: deque[Sendable] = deque()
    small: list[Buffer] = []
    small_size = 0
    for buffer in buffers:
        size = len(buffer)
        if isinstance(buffer, FileRegion):
            if small:
                start = _read_start(buffer, HEAD - small_size)
                small.append(start)
                pieces.append(b"".join(small))
                small, small_size = [], 0
                buffer = buffer.after(len(start))
            if buffer:
                pieces.append(buffer)
            continue
        if size + small_size <= JOIN_MAX:
            small.append(buffer)
            small_size += size
            continue
        view = memoryview(buffer)
        taken = 0
        if small:
            taken = max(HEAD - small_size, 0)
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


def _read_start(region: FileRegion, size_max: int) -> Buffer:
    """Return what may go with the head of an answer; nothing if it is not to be had now: sending the rest shows why."""
    if size_max <= 0:
        return b""
    try:
        return region.read_nowait(size_max) or b""
    except OSError:
        return b""
