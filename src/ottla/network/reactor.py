"""Where plain connections get their sockets from: the compiled reactor where there is one, asyncio elsewhere.

The reactor (`_reactor_cy`) takes half of asyncio's time for a small request. It needs a compiler at installation, Linux's
epoll, and a loop that watches descriptors. TLS, the simulation and everything else is served by asyncio's transports:
a `BrokerConnection` cannot tell which of them is below it.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any, Protocol, cast

from ottla.compiled import load_beside
from ottla.network.output import JOIN_MAX

if TYPE_CHECKING:
    import socket

    from ottla.network.connection import BrokerConnection, ConnectionHost

#: Elsewhere an extension that was built could not even be loaded.
_HAS_EPOLL = hasattr(select, "epoll")

_extension: Any = None
STATUS = "plain: no epoll on this system"
if _HAS_EPOLL:
    _extension, STATUS = load_beside(__file__, __package__, "_reactor_cy")


class Reactor(Protocol):
    """Serves the sockets of plain connections for one loop."""

    def adopt(self, connected: socket.socket, connection: BrokerConnection, /) -> None:
        """Serve `connection` on a connected socket that does not block; raises OSError if it is gone already."""

    def close(self) -> None:
        """Let go of the loop, when its connections have ended."""


def new_reactor(host: ConnectionHost, *, frames_max: int) -> Reactor | None:
    """Return a reactor for the running loop; None where asyncio has to serve. See `_reactor_cy.Reactor`."""
    loop = asyncio.get_running_loop()
    if _extension is None or not isinstance(loop, asyncio.SelectorEventLoop):
        return None
    return cast(Reactor, _extension.Reactor(loop, host, join_max=JOIN_MAX, frames_max=frames_max))
