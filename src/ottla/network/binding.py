"""Binding: sockets that listen on all addresses of a listener, and the sentence where that cannot be."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.network.limits import UNLIMITED

if TYPE_CHECKING:
    import ssl

#: The host that stands for 127.0.0.1 and ::1, whatever the system's resolver makes of it.
LOOPBACK = "localhost"
#: How often another free port is tried, where one is free on one loopback address and taken on the other.
FREE_PORTS_TRIED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """Bounds of one listener, beside those of the whole server (`listener.name.<name>.max.connections` and so on)."""

    connections_max: int = UNLIMITED
    connection_creation_rate_max: int = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where to listen, and as what.

    Attributes:
        host: "" is every address of this machine, `localhost` both loopback addresses.
        port: 0 is any free one.
        tls: returns the context of new connections; None for plain ones.
        has_login: clients have to log in before they are served (SASL): until then the connection is a stranger's.
        is_protected: brokers use it among themselves: where all connections there may be are taken, one of another
            listener makes room for one of this.
        is_shared: other processes of this user listen on the port, too: a connection goes to any of them.
    """

    name: str
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext] | None = None
    has_login: bool = False
    is_protected: bool = False
    is_shared: bool = False
    limits: ListenerLimits = field(default_factory=ListenerLimits)


class ListenError(OSError):
    """A listener could not be bound; the text names address, port and what to do."""


def localhost_ports(names: Iterable[tuple[str, int]]) -> frozenset[int]:
    """Return the ports that are bound for both loopback addresses, by themselves or with all others."""
    bound = {(host, port) for host, port, *_ in names}
    return frozenset(
        port
        for _, port in bound
        if {("127.0.0.1", port), ("0.0.0.0", port)} & bound and {("::1", port), ("::", port)} & bound
    )


async def bind_listener(listener: Listener, backlog: int) -> list[socket.socket]:
    """Listening sockets for all addresses of a listener, all on the same port."""
    where = f"{listener.host or '*'}:{listener.port}"
    try:
        addresses = await _addresses(listener)
    except OSError as error:
        raise ListenError(
            error.errno, f"cannot listen on {where}: the host name is not known ({error.strerror})"
        ) from None
    failure: OSError | None = None
    for _ in range(FREE_PORTS_TRIED if not listener.port else 1):
        sockets, failure = _bind_all(addresses, listener.port, backlog, is_shared=listener.is_shared)
        if failure is None:
            return sockets
        if failure.errno != errno.EADDRINUSE:
            break
    assert failure is not None
    if failure.errno == errno.EADDRINUSE:
        text = f"port {listener.port} is already in use ({where}): another broker? Choose another with --port"
    elif failure.errno == errno.EACCES:
        text = f"no permission to listen on {where}: ports below 1024 need a privilege"
    else:
        text = f"cannot listen on {where}: {failure.strerror or failure}"
    raise ListenError(failure.errno, text)


async def _addresses(listener: Listener) -> list[tuple[int, int, int, tuple[object, ...]]]:
    """Return family, kind, protocol and address of each socket that this listener needs; the port is not filled in."""
    if listener.host == LOOPBACK:
        stream = (int(socket.SOCK_STREAM), int(socket.IPPROTO_TCP))
        found: list[tuple[int, int, int, tuple[object, ...]]] = [(int(socket.AF_INET), *stream, ("127.0.0.1", 0))]
        if socket.has_ipv6:
            found.append((int(socket.AF_INET6), *stream, ("::1", 0, 0, 0)))
        return found
    infos = await asyncio.get_running_loop().getaddrinfo(
        listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [(family, kind, protocol, address) for family, kind, protocol, _, address in dict.fromkeys(infos)]


def _bind_all(
    addresses: Iterable[tuple[int, int, int, tuple[object, ...]]], port: int, backlog: int, *, is_shared: bool = False
) -> tuple[list[socket.socket], OSError | None]:
    """Bind all of these on one port; return the sockets, or none of them and why one could not be bound.

    An address that this machine does not have is left out (::1 where IPv6 is switched off), unless none is left. One that
    is taken is a failure even if the others are free: clients of `localhost` would reach another program, of another user
    perhaps.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, address in addresses:
        try:
            sockets.append(_bound(family, kind, protocol, (address[0], port, *address[2:]), backlog, is_shared))
            port = sockets[-1].getsockname()[1]
        except OSError as error:
            failure = error
            if error.errno in _ABSENT:
                continue
            break
    if failure is None or (sockets and failure.errno in _ABSENT):
        return sockets, None
    for bound_socket in sockets:
        bound_socket.close()
    return [], failure


_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _bound(
    family: int, kind: int, protocol: int, address: tuple[object, ...], backlog: int, is_shared: bool
) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        if hasattr(socket, "SO_REUSEADDR") and socket.AF_INET in (family, socket.AF_INET) and _posix():
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def _posix() -> bool:
    """SO_REUSEADDR means "not while TIME_WAIT" here; on Windows it would let two brokers share the port."""
    return hasattr(socket, "AF_UNIX")
