"""A transport and a server without sockets: what the kernel takes and when time passes is the test's decision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ottla.network.connection import BrokerConnection, Reply
from ottla.network.http import HttpSite
from ottla.network.limits import ByteBudget, NetworkLimits
from ottla.observability.metrics import NetworkMetrics


class FakeTransport(asyncio.Transport):
    """Collects what is written; takes `room` bytes before it asks the connection to pause, as a full socket does."""

    def __init__(self, protocol: BrokerConnection, room: int = 1 << 60) -> None:
        super().__init__()
        self.protocol = protocol
        self.room = room
        self.sent = bytearray()
        self.writes = 0
        self.waiting = bytearray()
        self.reading = True
        self.closed = False
        self.lost = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.7", 4321), "sockname": ("127.0.0.1", 9092)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after close"
        self.writes += 1
        full = bool(self.waiting)
        taken = 0 if full else min(len(data), self.room)
        self.room -= taken
        self.sent += data[:taken]
        self.waiting += data[taken:]
        if self.waiting and not full:
            self.protocol.pause_writing()

    def peer_reads(self, count: int) -> None:
        """The kernel takes `count` bytes more."""
        taken = min(count, len(self.waiting))
        self.sent += self.waiting[:taken]
        del self.waiting[:taken]
        if taken and not self.waiting:
            self.room += count - taken
            self.protocol.resume_writing()
            self._maybe_lose()
        elif not self.waiting:
            self.room += count

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def close(self) -> None:
        self.closed = True
        self._maybe_lose()

    def abort(self) -> None:
        self.closed = True
        self.waiting.clear()
        self._maybe_lose()

    def _maybe_lose(self) -> None:
        if self.closed and not self.waiting and not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class FakeHost:
    """What `Server` is to its connections."""

    def __init__(
        self,
        handle: Callable[[BrokerConnection, memoryview], Reply],
        limits: NetworkLimits | None = None,
        http: HttpSite | None = None,
    ) -> None:
        self.handle = handle
        self.limits = limits or NetworkLimits()
        self.budget = ByteBudget(self.limits.queued_request_bytes_max)
        self.metrics = NetworkMetrics()
        self.http = http
        self.receive_view = memoryview(bytearray(4096))
        self.now = 1000.0
        self.serving = True
        self.open: list[BrokerConnection] = []
        self.reasons: list[str | None] = []

    def http_of(self, connection: BrokerConnection) -> HttpSite | None:
        return self.http

    def authenticated(self, connection: BrokerConnection) -> None:
        pass

    def opened(self, connection: BrokerConnection) -> None:
        self.open.append(connection)

    def ended(self, connection: BrokerConnection, reason: str | None) -> None:
        self.open.remove(connection)
        self.reasons.append(reason)

    def connect(self, room: int = 1 << 60) -> tuple[BrokerConnection, FakeTransport]:
        connection = BrokerConnection(self, "PLAINTEXT")
        transport = FakeTransport(connection, room)
        connection.connection_made(transport)
        return connection, transport


def frame(body: bytes) -> bytes:
    """A body with its size before it."""
    return len(body).to_bytes(4, "big") + body


async def turn(count: int = 1) -> None:
    """Let the loop run what is due."""
    for _ in range(count):
        await asyncio.sleep(0)
