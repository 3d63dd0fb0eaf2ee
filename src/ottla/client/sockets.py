"""Sockets whose reads and writes keep the interpreter, for clients that share it with the threads of their callers.

A socket of Python's gives the interpreter away for each call, also where the call cannot wait. Another thread takes it, and
gives it back when it waits itself, or after 5 ms: of a record's way through a producer and a consumer in one process
that was most of the time. Here the compiled calls of `_sockets_cy`, which never wait, keep it. Without a compiler
the sockets are Python's.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ottla.compiled import load_beside

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined, unused-ignore]
    from types import ModuleType

extension: ModuleType | None
extension, STATUS = load_beside(__file__, __package__, "_sockets_cy")
COMPILED = extension is not None


class KeepingSocket(socket.socket):
    """A socket that does not wait, and does not give the interpreter away for the calls that asyncio makes of it."""

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """As `socket.send`."""
        if flags or extension is None:
            return super().send(data, flags)
        return extension.send(self.fileno(), data)  # type: ignore[no-any-return]

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`."""
        if nbytes or flags or extension is None:
            return super().recv_into(buffer, nbytes, flags)
        return extension.receive_into(self.fileno(), buffer)  # type: ignore[no-any-return]


def keeping(plain: socket.socket) -> socket.socket:
    """Return a socket that takes the place of one that does not wait; that one is used no more."""
    if not COMPILED:
        return plain
    made = KeepingSocket(plain.family, plain.type, plain.proto, plain.detach())
    made.setblocking(False)
    return made
