"""Answers too large to go out at once: pieces that wait for their peer, for their turn or for a disk.

asyncio's transports have no `sendfile` that keeps its order with `write`, so parts of files go past the transport to the
socket, and only while the transport holds nothing back. What the socket does not take waits here; of one piece only,
what is left is copied by the transport, which tells (`resume_writing`) when that has gone.

Three things may hold an answer up, and none of them the other connections: a peer that does not read, a peer that reads
as fast as we send (after TURN bytes others have their turn), and parts of a file that have left the page cache (they are
read off the loop).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

from ottla.file_region import Buffer, FileRegion, Sendable
from ottla.network.output import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TURN = 4 * 1024 * 1024
"""Bytes sent before other connections have their turn: 1 to 2 ms."""
WAITING_PIECE = 64 * 1024
"""Bytes of a file that wait in the transport's hands until a full socket has room again."""
COLD_PIECE = 512 * 1024
"""Bytes of a file read at a time where they are not in memory."""


class Outflow:
    """What one connection has still to send, in order.

    Args:
        socket_fd: the transport's socket if bytes may go past the transport (no TLS), else -1.
        again: called when `advance` is to be called again, except where the transport's `resume_writing` tells.
    """

    __slots__ = ("_again", "_loop", "_pieces", "_reading", "_reading_size", "_socket_fd", "_transport")

    def __init__(self, transport: asyncio.Transport, socket_fd: int, again: Callable[[], None]) -> None:
        self._transport = transport
        self._socket_fd = socket_fd
        self._again = again
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[Sendable] = deque()
        self._reading: asyncio.Task[Buffer] | None = None
        self._reading_size = 0

    def __len__(self) -> int:
        """Bytes that have not been handed over."""
        return sum(map(len, self._pieces)) + self._reading_size

    @property
    def waits_for_disk(self) -> bool:
        """Whether the peer waits for us, not we for the peer."""
        return self._reading is not None

    def add(self, pieces: Iterable[Sendable]) -> None:
        """Put pieces (see `split`) behind those that wait."""
        self._pieces.extend(pieces)

    def advance(self) -> bool:
        """Hand over what can go now; return whether nothing is left here.

        Raises:
            OSError, EOFError: half an answer is out, and the rest cannot be read, or the peer does not take it.
        """
        transport, pieces = self._transport, self._pieces
        room = TURN
        if self._reading is not None:
            if not self._reading.done():
                return False
            read, self._reading, self._reading_size = self._reading.result(), None, 0
            pieces.appendleft(read)
        while pieces:
            if transport.is_closing():  # it has begun to drop what it is given: nothing may go past it
                pieces.clear()
                break
            if transport.get_write_buffer_size():
                return False
            if room <= 0:
                self._loop.call_soon(self._again)
                return False
            piece = pieces.popleft()
            if isinstance(piece, FileRegion):
                sent = self._send(piece)
                if not sent:
                    self._read(piece)
                    return False
                if sent < len(piece):
                    pieces.appendleft(piece.after(sent))
            else:
                sent = len(piece)
                transport.write(cast(bytes, piece))
            room -= sent
        return True

    def _send(self, region: FileRegion) -> int:
        """Send from the start of a region; return how much has been handed over, 0 if it has to be read first."""
        size = PIECE
        if self._socket_fd >= 0:
            if not region.is_cached(PIECE):
                return 0
            try:
                return region.send(self._socket_fd, PIECE)
            except BlockingIOError:
                size = WAITING_PIECE
        piece = region.read_nowait(size)
        if piece is None:
            return 0
        self._transport.write(cast(bytes, piece))
        return len(piece)

    def _read(self, region: FileRegion) -> None:
        """Read the start of a region off the loop."""
        self._reading_size = min(COLD_PIECE, len(region))
        if self._reading_size < len(region):
            self._pieces.appendleft(region.after(self._reading_size))
        self._reading = self._loop.create_task(region.read(COLD_PIECE))
        self._reading.add_done_callback(self._on_read)

    def _on_read(self, reading: asyncio.Task[Buffer]) -> None:
        if not reading.cancelled():
            reading.exception()  # the connection may be gone by now; otherwise `advance` raises it
            self._again()
