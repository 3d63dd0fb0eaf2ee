"""What the network side refuses: sizes, counts and times, and the counters that enforce them.

Decides on numbers it is given; knows no sockets and no clock. Names are Kafka's keys where a key exists
(`socket.request.max.bytes`, `max.connections`, `max.connections.per.ip`, `connections.max.idle.ms`,
`queued.max.request.bytes`); the other bounds are ours and are explained where they are defined.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ottla.network.strangers import place_of
from ottla.rates import SampledRate, Windows

UNLIMITED = 2147483647
#: Addresses whose connections per second are counted, and when one is forgotten that makes none.
ADDRESSES_MAX = 10_000
FORGET_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLimits:
    """Bounds for one server; the defaults are Kafka's.

    Attributes:
        request_bytes_max: `socket.request.max.bytes`. A larger frame closes the connection.
        connections_max: `max.connections`. At the limit accepting stops until a connection closes, as in Kafka.
        connections_per_ip_max: `max.connections.per.ip`. Above it a new connection is closed at once.
        connections_per_ip_overrides: `max.connections.per.ip.overrides`, by IP address.
        connection_creation_rate_max: `max.connection.creation.rate`, per second. Above it accepting is delayed.
        idle_ms_max: `connections.max.idle.ms`. Also bounds how long a peer may leave an answer unread, and how long
            a frame may take to arrive beyond what its bytes need (see `BrokerConnection.sweep`).
        queued_request_bytes_max: `queued.max.request.bytes`, -1 for no bound: bytes of half-read and waiting
            requests over all connections. Large requests are not read on above it (see `ADMIT_MIN`). Like Kafka's pool it
            may be exceeded by one request, here also by those up to that size.
        send_buffer_bytes, receive_buffer_bytes: `socket.send.buffer.bytes`, `socket.receive.buffer.bytes`;
            -1 leaves it to the operating system. Kafka's default of 102,400 fixes the size where Linux would adapt
            it, and costs 2-3 times the CPU on receiving (0.44 instead of 0.15 CPU s/GB for 1 MB requests on
            loopback), so pass it only where a user has set it.
        backlog: `socket.listen.backlog.size`; the kernel's queue is made longer than that, see `Server`.
    """

    request_bytes_max: int = 104857600
    connections_max: int = UNLIMITED
    connections_per_ip_max: int = UNLIMITED
    connections_per_ip_overrides: Mapping[str, int] = field(default_factory=dict)
    connection_creation_rate_max: int = UNLIMITED
    idle_ms_max: int = 600000
    queued_request_bytes_max: int = -1
    send_buffer_bytes: int = -1
    receive_buffer_bytes: int = -1
    backlog: int = 50


class ByteBudget:
    """Bytes of requests held in memory over all connections (`queued.max.request.bytes`).

    A request is admitted whole, by its announced size, while the budget is not yet used up: admitting part by part
    could leave every connection with half a request and none able to finish. So what is admitted stays below limit +
    one request; `hold` counts requests too small to ask. Who is refused is called back, first come first served, when
    bytes are given back.
    """

    __slots__ = ("_waiting", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.used: int = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, size: int) -> bool:
        """Admit a request of `size` bytes, or return False."""
        if 0 <= self.limit <= self.used:
            return False
        self.used += size
        return True

    def hold(self, size: int) -> None:
        """Count a request that is in memory already; `give_back` when it is not any more."""
        self.used += size

    def wait(self, retry: Callable[[], None]) -> None:
        """Call `retry` once when there may be room; it takes again or waits again."""
        self._waiting.append(retry)

    def forget(self, retry: Callable[[], None]) -> None:
        """Drop a waiter whose connection has ended."""
        if retry in self._waiting:
            self._waiting.remove(retry)

    def give_back(self, size: int) -> None:
        """Return what `take` admitted and wake waiters while there is room."""
        self.used -= size
        assert self.used >= 0, self.used
        for _ in range(len(self._waiting)):
            if 0 <= self.limit <= self.used:
                return
            self._waiting.popleft()()


class AddressRates:
    """Connections per second of each address (`connection_creation_rate`, KIP-612).

    Who is over the rate is to be closed after a while, and was not counted. Bounded: addresses that made no connection for
    a minute are forgotten, and above `ADDRESSES_MAX` those that came first.
    """

    __slots__ = ("_limit_of", "_rates", "_swept_ms", "in_force", "windows")

    def __init__(self, windows: Windows | None = None) -> None:
        self.windows: Windows = windows or Windows()
        self.in_force: bool = False
        self._limit_of: Callable[[str], float | None] = lambda ip: None
        self._rates: OrderedDict[str, tuple[float, SampledRate]] = OrderedDict()
        self._swept_ms = 0.0

    def change(self, limit_of: Callable[[str], float | None], *, in_force: bool) -> None:
        """Put other limits in force; `limit_of` returns connections per second by address, None for no limit."""
        self._limit_of = limit_of
        self.in_force = in_force
        if not in_force:
            self._rates.clear()

    def throttle_ms(self, ip: str, now_ms: float) -> int:
        """Count a connection; or return after how many milliseconds it is to be closed, at most a window."""
        limit = self._limit_of(ip)
        if limit is None:
            return 0
        key = place_of(ip)
        known = self._rates.pop(key, None)
        rate = SampledRate() if known is None else known[1]
        self._rates[key] = (now_ms, rate)
        if len(self._rates) > ADDRESSES_MAX or now_ms - self._swept_ms > FORGET_MS:
            self._forget(now_ms)
        rate.record(1, now_ms, self.windows)
        throttle_ms = min(rate.throttle_ms(limit, now_ms, self.windows), self.windows.size_ms)
        if throttle_ms:
            rate.record(-1, now_ms, self.windows)
        return throttle_ms

    def _forget(self, now_ms: float) -> None:
        self._swept_ms = now_ms
        rates = self._rates
        while rates:  # the one that was used last is at the end; each connection of a new address comes here: no walk
            key, known = rates.popitem(last=False)
            if len(rates) < ADDRESSES_MAX and now_ms - known[0] < FORGET_MS:
                rates[key] = known
                rates.move_to_end(key, last=False)
                return


class ConnectionQuota:
    """Counts connections in total, per IP address and per second."""

    __slots__ = ("_limits", "_next_s", "_per_ip", "count")

    def __init__(self, limits: NetworkLimits) -> None:
        self._limits = limits
        self._per_ip: dict[str, int] = {}
        self._next_s = 0.0
        self.count: int = 0

    def change_limits(self, limits: NetworkLimits) -> None:
        """Count on under other limits; no connection that is in has to leave."""
        self._limits = limits

    def delay(self, now_s: float) -> float:
        """Seconds to wait before the next connection may be accepted, which this call counts.

        Up to a second's worth may come at once (`max.connection.creation.rate` is an average over a window in Kafka).
        """
        rate = self._limits.connection_creation_rate_max
        if rate >= UNLIMITED:
            return 0.0
        self._next_s = max(self._next_s, now_s - 1.0) + 1.0 / max(rate, 1)
        return self._next_s - now_s

    def burst(self, most: int) -> int:
        """How many connections may be accepted at once."""
        if self._limits.connection_creation_rate_max < UNLIMITED:
            return 1
        return min(most, self._limits.connections_max - self.count)

    @property
    def full(self) -> bool:
        """Whether accepting should stop (`max.connections`)."""
        return self.count >= self._limits.connections_max

    def admit(self, ip: str) -> str | None:
        """Count a connection from `ip`; or return why it is refused, and count nothing."""
        limit = self._limits.connections_per_ip_overrides.get(ip, self._limits.connections_per_ip_max)
        here = self._per_ip.get(ip, 0)
        if here >= limit:
            return f"already {here} connections from {ip} (max.connections.per.ip)"
        self._per_ip[ip] = here + 1
        self.count += 1
        return None

    def leave(self, ip: str) -> None:
        """A connection counted by `admit` has ended."""
        self.count -= 1
        left = self._per_ip[ip] - 1
        if left:
            self._per_ip[ip] = left
        else:
            del self._per_ip[ip]
