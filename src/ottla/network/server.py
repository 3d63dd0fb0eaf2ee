"""Listeners of one broker: binds, accepts within the limits, sweeps idle connections, stops.

Owns what its connections share (`ConnectionHost`). Accepting is our own loop and not `loop.create_server`, because at
`max.connections` Kafka stops accepting until a connection ends, and because a connection over `max.connections.per.ip`
is closed before a transport is built for it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ottla.network.connection import RECEIVE_SIZE, BrokerConnection, Handle, StreamConnection
from ottla.network.http import HttpSite
from ottla.network.limits import ByteBudget, ConnectionQuota, NetworkLimits
from ottla.observability.logs import LogOncePerPeer
from ottla.observability.metrics import NetworkMetrics

logger = logging.getLogger(__name__)

SWEEP_SECONDS_MAX = 5.0
ACCEPT_RETRY_SECONDS = 1.0
ACCEPTS_PER_TURN = 128
BACKLOG_MIN = 4096
"""The kernel's queue of connections to accept is at least this long: one loop serves everything here, where Kafka has a
thread for accepting, and what does not fit waits for a SYN to be repeated, a second or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where to listen; `host` "" is every address of this machine, port 0 any free one."""

    name: str
    host: str
    port: int


class ListenError(OSError):
    """A listener could not be bound; the text names address, port and what to do."""


class Server:
    """Accepts connections on some listeners and gives every frame to one handler.

    Args:
        handle: gets each frame, see `ottla.network.connection.Handle`.
        limits: bounds, from the broker's configuration.
        http: what is served to HTTP clients on the same ports, or None.
        metrics: counters to keep.

    A bound socket buffer (`socket.receive.buffer.bytes` other than -1) switches off Linux's automatic sizing.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        limits: NetworkLimits | None = None,
        http: HttpSite | None = None,
        metrics: NetworkMetrics | None = None,
    ) -> None:
        self.handle = handle
        self.limits = limits or NetworkLimits()
        self.http = http
        self.metrics = metrics or NetworkMetrics()
        self.budget = ByteBudget(self.limits.queued_request_bytes_max)
        self.receive_view = memoryview(bytearray(RECEIVE_SIZE))
        self.now = 0.0
        self.serving = False
        self.addresses: list[tuple[str, str, int]] = []
        """(listener name, host as configured, port) of what is bound."""
        self.localhost_ports: frozenset[int] = frozenset()
        """Ports bound on both 127.0.0.1 and ::1: `localhost` leads here, whichever of them it stands for."""
        self._quota = ConnectionQuota(self.limits)
        self._room = asyncio.Event()
        self._connections: dict[BrokerConnection, None] = {}
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._log = LogOncePerPeer(logger, lambda: self.now)
        idle_s = self.limits.idle_ms_max / 1000
        self.sweep_seconds = min(SWEEP_SECONDS_MAX, idle_s / 4) if idle_s > 0 else SWEEP_SECONDS_MAX

    @property
    def connections(self) -> Sequence[BrokerConnection]:
        """The open connections."""
        return list(self._connections)

    # -- start and stop ---------------------------------------------------------------------------------------------

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Bind every listener and serve. Raises what `bind` raises."""
        await self.bind(listeners)
        self.accept()

    async def bind(self, listeners: Sequence[Listener]) -> None:
        """Take the addresses and accept; HTTP is answered at once (`/readyz`), Kafka requests wait for `accept`.

        Raises:
            ListenError: a listener cannot be bound; none is left bound then.
        """
        self.now = asyncio.get_running_loop().time()
        bound: list[tuple[Listener, socket.socket]] = []
        try:
            for listener in listeners:
                sockets = await bind_listener(listener, max(self.limits.backlog, BACKLOG_MIN))
                bound += ((listener, bound_socket) for bound_socket in sockets)
                self.addresses.append((listener.name, listener.host, sockets[0].getsockname()[1]))
        except BaseException:
            for _, bound_socket in bound:
                bound_socket.close()
            self.addresses.clear()
            raise
        self._sockets = [bound_socket for _, bound_socket in bound]
        self.localhost_ports = _localhost_ports(bound_socket.getsockname() for bound_socket in self._sockets)
        self._acceptors = [
            asyncio.get_running_loop().create_task(self._accept(bound_socket, listener.name), name="ottla-accept")
            for listener, bound_socket in bound
        ]
        self._schedule_sweep()

    def change_limits(self, limits: NetworkLimits) -> None:
        """Put other bounds in force for connections from now on; sizes of frames and idle times hold at once."""
        self.limits = limits
        self._quota.change_limits(limits)
        self._room.set()

    def accept(self) -> None:
        """Accept requests, those that have been waiting first."""
        self.serving = True
        for connection in list(self._connections):
            connection.release()

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Stop accepting, close connections after what is ready has been sent, abort those that do not take it."""
        for task in self._acceptors:
            task.cancel()
        await asyncio.gather(*self._acceptors, return_exceptions=True)
        for bound_socket in self._sockets:
            bound_socket.close()
        self._acceptors, self._sockets = [], []
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self._connections):
            connection.close("")
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._empty.wait()
            except TimeoutError:
                for connection in list(self._connections):
                    connection.abort("")
                await asyncio.sleep(0)

    # -- accepting --------------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket, listener: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._quota.full:
                self._room.clear()
                await self._room.wait()
            if (delay := self._quota.delay(loop.time())) > 0:
                await asyncio.sleep(delay)
            arrived: list[tuple[socket.socket, str]] = []
            failure: Exception | None = None
            try:
                accepted, address = await loop.sock_accept(listening)
                arrived.append((accepted, address[0]))
                # A burst overflows the kernel's queue and costs its clients a second each: take what is there.
                while len(arrived) < self._quota.burst(ACCEPTS_PER_TURN):
                    accepted, address = listening.accept()
                    arrived.append((accepted, address[0]))
            except (BlockingIOError, ConnectionError):
                pass
            except Exception as error:  # too many open files, mostly; whatever it is, a listener does not just stop
                failure = error
            for outcome in await asyncio.gather(
                *(self._adopt(*one, listener) for one in arrived), return_exceptions=True
            ):
                if isinstance(outcome, OSError):  # it went away before we could serve it
                    logger.debug("A connection ended at once: %s", outcome)
                elif isinstance(outcome, Exception):
                    logger.error("A connection could not be served", exc_info=outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
            if failure is not None:
                logger.error("Cannot accept a connection: %s; trying again in %g s", failure, ACCEPT_RETRY_SECONDS)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)

    async def _adopt(self, accepted: socket.socket, ip: str, listener: str) -> None:
        accepted.setblocking(False)
        refusal = self._quota.admit(ip)
        if refusal is not None:
            self.metrics.connections_refused += 1
            self._log.tell(ip, "Refused a connection from %s: %s", ip, refusal)
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        connection: BrokerConnection | None = None
        try:
            made = connection = BrokerConnection(self, listener, ip)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.limits.send_buffer_bytes > 0:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes)
            if self.limits.receive_buffer_bytes > 0:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.limits.receive_buffer_bytes)
            shares_buffer = isinstance(loop, asyncio.SelectorEventLoop)
            await loop.connect_accepted_socket(lambda: made if shares_buffer else StreamConnection(made), accepted)
        except BaseException:
            if connection is None or (connection not in self._connections and not connection.closing):
                self._quota.leave(ip)
                accepted.close()
            raise

    def opened(self, connection: BrokerConnection) -> None:
        """A connection is ready (called by it)."""
        self._connections[connection] = None
        self.metrics.connections_opened += 1

    def ended(self, connection: BrokerConnection, reason: str | None) -> None:
        """A connection has ended (called by it)."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self.metrics.connections_closed += 1
        self._quota.leave(connection.peer_host)
        self._room.set()
        if reason:
            self._log.tell(connection.peer_host, "Closed the connection of %s: %s", connection.peer, reason)
        if not self._connections:
            self._empty.set()

    # -- time -------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(self.sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        self._schedule_sweep()
        self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """Let every connection check what has taken too long; `now` is loop time."""
        self.now = now
        for connection in list(self._connections):
            connection.sweep(now, self.sweep_seconds)


def _localhost_ports(names: Iterable[tuple[str, int]]) -> frozenset[int]:
    """Return the ports that are bound for both loopback addresses, by themselves or with all others."""
    bound = {(host, port) for host, port, *_ in names}
    return frozenset(
        port
        for _, port in bound
        if {("127.0.0.1", port), ("0.0.0.0", port)} & bound and {("::1", port), ("::", port)} & bound
    )


async def bind_listener(listener: Listener, backlog: int) -> list[socket.socket]:
    """Listening sockets for all addresses of a listener, all on the same port."""
    loop = asyncio.get_running_loop()
    where = f"{listener.host or '*'}:{listener.port}"
    try:
        infos = await loop.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(
            error.errno, f"cannot listen on {where}: the host name is not known ({error.strerror})"
        ) from None
    sockets: list[socket.socket] = []
    port = listener.port
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(infos):
        try:
            sockets.append(_bound(family, kind, protocol, (address[0], port, *address[2:]), backlog))
            port = sockets[-1].getsockname()[1]
        except OSError as error:
            failure = error
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # e.g. ::1 where IPv6 is switched off
                continue
            break
    if failure is None or (sockets and failure.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
        return sockets
    for bound_socket in sockets:
        bound_socket.close()
    if failure.errno == errno.EADDRINUSE:
        text = f"port {listener.port} is already in use ({where}): another broker? Choose another with --port"
    elif failure.errno == errno.EACCES:
        text = f"no permission to listen on {where}: ports below 1024 need a privilege"
    else:
        text = f"cannot listen on {where}: {failure.strerror or failure}"
    raise ListenError(failure.errno, text)


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        if hasattr(socket, "SO_REUSEADDR") and socket.AF_INET in (family, socket.AF_INET) and _posix():
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def _posix() -> bool:
    """SO_REUSEADDR means "not while TIME_WAIT" here; on Windows it would let two brokers share the port."""
    return hasattr(socket, "AF_UNIX")
