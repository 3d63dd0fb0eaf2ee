"""Listeners of one broker: binds, accepts within the limits, sweeps idle connections, stops.

Owns what its connections share (`ConnectionHost`). Accepting is our own loop and not `loop.create_server`, because at
`max.connections` Kafka stops accepting until a connection ends, and because a connection over `max.connections.per.ip`
is closed before a transport is built for it. It waits for no handshake: connections of TLS and those whose clients have to
log in are strangers (`strangers.py`) from the moment they are accepted until they have done so.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ottla.network.binding import Listener, ListenerLimits, bind_listener, localhost_ports
from ottla.network.connection import FRAMES_PER_TURN, RECEIVE_SIZE, BrokerConnection, Handle, StreamConnection
from ottla.network.http import HttpSite
from ottla.network.limits import AddressRates, ByteBudget, ConnectionQuota, NetworkLimits
from ottla.network.reactor import Reactor, new_reactor
from ottla.network.strangers import LOGIN_SECONDS, Strangers
from ottla.observability.logs import LogOncePerPeer
from ottla.observability.metrics import NetworkMetrics

if TYPE_CHECKING:
    from ottla.network.tls import TlsTransport

logger: logging.Logger = logging.getLogger(__name__)

SWEEP_SECONDS_MAX = 5.0
ACCEPT_RETRY_SECONDS = 1.0
ACCEPTS_PER_TURN = 128
HELD_MAX = 1000
"""Connections that came too quickly and wait for their end, so that who makes them is slowed down; more end at once."""
FIRST_FRAME_BYTES_MAX = 64 * 1024
"""A client that has to log in can say nothing that is longer before it has begun to."""
BACKLOG_MIN = 4096
"""The kernel's queue of connections to accept is at least this long: one loop serves everything here, where Kafka has a
thread for accepting, and what does not fit waits for a SYN to be repeated, a second or more."""


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
        self.limits: NetworkLimits = limits or NetworkLimits()
        self.http = http
        self.metrics: NetworkMetrics = metrics or NetworkMetrics()
        self.budget: ByteBudget = ByteBudget(self.limits.queued_request_bytes_max)
        self.receive_view: memoryview = memoryview(bytearray(RECEIVE_SIZE))
        self.now: float = 0.0
        self.serving: bool = False
        self.addresses: list[tuple[str, str, int]] = []
        """(listener name, host as configured, port) of what is bound."""
        self.localhost_ports: frozenset[int] = frozenset()
        """Ports bound on both 127.0.0.1 and ::1: `localhost` leads here, whichever of them it stands for."""
        #: Where encrypted bytes are received; made with the first listener of TLS.
        self.cipher_view: memoryview = memoryview(b"")
        #: Called with listener, address and reason when a handshake has failed; not where a peer just went away.
        self.on_handshake_failed: Callable[[str, str, str], None] = lambda listener, ip, reason: None
        #: Connections per second of each address.
        self.address_rates: AddressRates = AddressRates()
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}
        self._quota = ConnectionQuota(self.limits)
        self._listener_quotas: dict[str, ConnectionQuota] = {}
        self._has_login: dict[str, bool] = {}
        self._protected: frozenset[str] = frozenset()
        self._strangers = Strangers()
        self._room = asyncio.Event()
        self._connections: dict[BrokerConnection, None] = {}
        self._reactor: Reactor | None = None
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()
        self._log = LogOncePerPeer(logger, lambda: self.now)
        idle_s = self.limits.idle_ms_max / 1000
        self.sweep_seconds: float = min(SWEEP_SECONDS_MAX, idle_s / 4) if idle_s > 0 else SWEEP_SECONDS_MAX

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
                if not listener.is_shared:
                    self.addresses.append((listener.name, listener.host, sockets[0].getsockname()[1]))
        except BaseException:
            for _, bound_socket in bound:
                bound_socket.close()
            self.addresses.clear()
            raise
        self._sockets = [bound_socket for _, bound_socket in bound]
        self._reactor = new_reactor(self, frames_max=FRAMES_PER_TURN)
        self.localhost_ports = localhost_ports(bound_socket.getsockname() for bound_socket in self._sockets)
        self._know(listeners)
        self._acceptors = [
            asyncio.get_running_loop().create_task(self._accept(bound_socket, listener), name="ottla-accept")
            for listener, bound_socket in bound
        ]
        self._schedule_sweep()

    def _know(self, listeners: Sequence[Listener]) -> None:
        """Prepare what the listeners need."""
        self._has_login = {listener.name: listener.has_login for listener in listeners}
        self._listener_quotas = {li.name: ConnectionQuota(_as_network_limits(li.limits)) for li in listeners}
        if len(listeners) > 1:
            self._protected = frozenset(listener.name for listener in listeners if listener.is_protected)
        if any(listener.tls is not None for listener in listeners):
            self.cipher_view = memoryview(bytearray(RECEIVE_SIZE))

    def change_listener_limits(self, limits: Mapping[str, ListenerLimits]) -> None:
        """Put other bounds of single listeners in force, by their names."""
        for name, quota in self._listener_quotas.items():
            if name in limits:
                quota.change_limits(_as_network_limits(limits[name]))
        self._room.set()

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
        for held, timer in self._held.items():
            timer.cancel()
            held.close()
        self._held.clear()
        for stranger in self._strangers.overdue(float("inf")):
            _end(stranger, "")
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
        if self._reactor is not None:
            self._reactor.close()
            self._reactor = None

    # -- accepting --------------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        own = self._listener_quotas[listener.name]
        while True:
            while (self._quota.full and listener.name not in self._protected) or own.full:
                self._room.clear()
                await self._room.wait()
            delay = max(self._quota.delay(loop.time()), own.delay(loop.time()))
            if delay > 0:
                await asyncio.sleep(delay)
            arrived: list[tuple[socket.socket, str]] = []
            failure: Exception | None = None
            try:
                accepted, address = await loop.sock_accept(listening)
                arrived.append((accepted, address[0]))
                # A burst overflows the kernel's queue and costs its clients a second each: take what is there.
                while len(arrived) < min(self._quota.burst(ACCEPTS_PER_TURN), own.burst(ACCEPTS_PER_TURN)):
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

    def _make_room(self) -> None:
        """A broker's connection came although all are taken: another listener's, idle for longest, goes (KIP-402)."""
        others = [connection for connection in self._connections if connection.listener not in self._protected]
        if others:
            idlest = min(others, key=lambda connection: connection.last_active)
            idlest.abort("max.connections is reached, and a broker connects")

    async def _adopt(self, accepted: socket.socket, ip: str, listener: Listener) -> None:
        accepted.setblocking(False)
        if listener.name in self._protected and self._quota.full:
            self._make_room()
        if self.address_rates.in_force and listener.name not in self._protected and self._is_too_quick(accepted, ip):
            return
        refusal = self._quota.admit(ip)
        if refusal is not None:
            self.metrics.connections_refused += 1
            self._log.tell(ip, "Refused a connection from %s: %s", ip, refusal)
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        below: BrokerConnection | TlsTransport | None = None
        self._listener_quotas[listener.name].count += 1
        try:
            made = below = self.new_connection(listener, ip)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self.limits.send_buffer_bytes > 0:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes)
            if self.limits.receive_buffer_bytes > 0:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.limits.receive_buffer_bytes)
            shares_buffer = isinstance(loop, asyncio.SelectorEventLoop)
            if listener.tls is not None:
                from ottla.network.tls import TlsTransport

                below = TlsTransport(self, made, listener.tls(), ip)
            if listener.tls is not None or listener.has_login:
                self.count_stranger(below, ip)
            if self._reactor is not None and below is made:
                self._reactor.adopt(accepted, made)
                return
            protocol = below if shares_buffer else StreamConnection(below)
            await loop.connect_accepted_socket(lambda: protocol, accepted)
        except BaseException:
            if below is None or not below.has_begun:
                self._strangers.remove(below)
                self._leave(listener.name, ip)
                accepted.close()
            raise

    def _is_too_quick(self, accepted: socket.socket, ip: str) -> bool:
        """Count a connection of its address; if there are too many a second, close it, later (KIP-612)."""
        loop = asyncio.get_running_loop()
        throttle_ms = self.address_rates.throttle_ms(ip, loop.time() * 1000)
        if not throttle_ms:
            return False
        self.metrics.connections_refused += 1
        self._log.tell(ip, "Refused a connection from %s: too many a second (connection_creation_rate)", ip)
        if len(self._held) >= HELD_MAX:
            accepted.close()
        else:
            self._held[accepted] = loop.call_later(throttle_ms / 1000, self._let_go, accepted)
        return True

    def _let_go(self, held: socket.socket) -> None:
        del self._held[held]
        held.close()

    def http_of(self, connection: BrokerConnection) -> HttpSite | None:
        """Return what is served to an HTTP client: next to nothing where Kafka clients log in, or have rights it has not."""
        site = self.http
        if site is None:
            return None
        if self._has_login.get(connection.listener):
            return site if site.login is not None else replace(site, handler=site.strangers_handler, handlers={})
        if site.may_see is not None and not site.may_see(connection):
            return replace(site, handler=site.strangers_handler, handlers={}, login=None)
        return replace(site, login=None) if site.login is not None else site

    def count_stranger(self, connection: BrokerConnection | TlsTransport, ip: str) -> None:
        """Count a connection whose client is not known yet; end another one if there are too many."""
        leaves = self._strangers.add(connection, ip, asyncio.get_running_loop().time())
        if leaves is not None:
            self.metrics.connections_refused += 1
            _end(leaves, "too many connections have not logged in, and this is the oldest")

    def new_connection(self, listener: Listener, ip: str) -> BrokerConnection:
        """Return a connection of a listener, with the limits of those who are not known yet."""
        connection = BrokerConnection(self, listener.name, ip)
        if listener.has_login:
            connection.frame_bytes_max = FIRST_FRAME_BYTES_MAX
        return connection

    def handshaken(self, tls: TlsTransport) -> None:
        """A handshake is done (called by it)."""
        if self._has_login[tls.connection.listener]:
            self._strangers.replace(tls, tls.connection)
        else:
            self._strangers.remove(tls)

    def handshake_ended(self, tls: TlsTransport, reason: str) -> None:
        """A connection has ended in its handshake (called by it)."""
        self._strangers.remove(tls)
        self.metrics.handshakes_failed += 1
        self._leave(tls.connection.listener, tls.ip)
        if reason:
            self.on_handshake_failed(tls.connection.listener, tls.ip, reason)
        self._log.tell(tls.ip, "Closed the connection of %s: %s", tls.ip, reason or "the TLS handshake was broken off")

    def authenticated(self, connection: BrokerConnection) -> None:
        """The client of a connection has logged in (called by it)."""
        self._strangers.remove(connection)

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
        self._strangers.remove(connection)
        self._leave(connection.listener, connection.peer_host)
        if reason:
            self._log.tell(connection.peer_host, "Closed the connection of %s: %s", connection.peer, reason)
        if not self._connections:
            self._empty.set()

    def _leave(self, listener: str, ip: str) -> None:
        self._quota.leave(ip)
        quota = self._listener_quotas.get(listener)
        if quota is not None:
            quota.count -= 1
        self._room.set()

    # -- time -------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(self.sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        self._schedule_sweep()
        self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """Let every connection check what has taken too long; `now` is loop time."""
        self.now = now
        for stranger in self._strangers.overdue(now):
            _end(stranger, f"not logged in within {LOGIN_SECONDS:g} s")
        for connection in list(self._connections):
            connection.sweep(now, self.sweep_seconds)


def _end(stranger: object, reason: str) -> None:
    """End a connection, or the handshake before it."""
    if isinstance(stranger, BrokerConnection):
        stranger.abort(reason)
    else:
        cast("TlsTransport", stranger).fail(reason)


def _as_network_limits(limits: ListenerLimits) -> NetworkLimits:
    return NetworkLimits(
        connections_max=limits.connections_max, connection_creation_rate_max=limits.connection_creation_rate_max
    )
