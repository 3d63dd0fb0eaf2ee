"""What a connection needs of the thing below it that moves bytes: plain asyncio or TLS.

asyncio's own transports are this as they are. What is peculiar about a socket, receiving at least so many bytes at a time
and sending parts of files past the transport, is offered by plain ones only, and only here: on a socket that carries TLS
such a call would put bytes into the stream that no one has encrypted, or wait for a number of bytes that are not coming.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import asyncio

    from ottla.file_region import Buffer


class Transport(Protocol):
    """Takes bytes to the peer, in order, and calls `BrokerConnection` with those that come.

    `write` never blocks; what the kernel does not take waits, and then `pause_writing` is called, and `resume_writing` when
    all of it has gone. `get_write_buffer_size` is what waits, as the kernel counts it.
    """

    def write(self, data: Buffer, /) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool: ...

    def close(self) -> None:
        """End the connection when what was written has gone."""
        ...

    def abort(self) -> None:
        """End the connection at once."""
        ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername`, `sockname`, and of TLS `peer_certificate` (DER, or None) and `server_name` (SNI)."""
        ...


def plain_socket(transport: Transport | asyncio.Transport) -> socket.socket | None:
    """Return the socket of a transport whose bytes are those of the stream; None for all others."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    return cast("socket.socket | None", transport.get_extra_info("socket"))
