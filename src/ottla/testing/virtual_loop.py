"""An asyncio event loop whose time is virtual and whose network is in memory.

Time stands still while callbacks run and jumps to the next timer when nothing is ready, so an hour of timeouts passes
in milliseconds. `create_server` and `create_connection` join protocols of the same loop through pipes whose delays and
chunk sizes come from one seeded `random.Random`. The code under test is ordinary asyncio code: it cannot tell.

Code that was started in a *life* (`begin_life`) can be ended from outside, like a killed process: its callbacks and tasks
never run again, its connections are reset. A life runs on a machine; the link from one machine to another can be cut: what
is sent then arrives when it is healed, and no connection is made meanwhile. A life can be frozen, like a stopped process.

The trace hash covers every delivery (time, pipe, bytes): the same seed must give the same hash.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import heapq
import inspect
import random
from collections import deque
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar

T = TypeVar("T")

#: 2026-01-01 UTC: where the wall clock of a simulation starts.
EPOCH_MS = 1_767_225_600_000

#: What several connections send may arrive together at multiples of this.
MEETING_SECONDS = 1e-4

#: So much of what is written goes out at once; a transport with more on its way is full.
KERNEL_BYTES = 64 * 1024

#: Which simulated process the running code belongs to; None for the test itself.
_life: contextvars.ContextVar[int | None] = contextvars.ContextVar("life", default=None)
#: On which machine it runs; the test and its clients have one of their own.
_machine: contextvars.ContextVar[str] = contextvars.ContextVar("machine", default="client")

Link = tuple[str, str]
"""From one machine to another."""


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set, and the main coroutine has not finished."""


class _NoSelector:
    """Stands where asyncio expects a selector: instead of waiting for sockets it moves time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Deadlock("no callback is ready and no timer is set")
        if timeout > 0:
            self._loop.advance(timeout)
        return []

    def close(self) -> None:
        return None


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. `random` decides delays; `trace` is the hash of everything that was delivered."""

    deliveries: int

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.random: random.Random = random.Random(seed)
        self.time_limit: float = 7 * 86_400.0
        self._now = 0.0
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-6
        self._servers: dict[tuple[str, int], MemoryServer] = {}
        self._next_port = 40_000
        self._hash = hashlib.sha256()
        self.deliveries = 0
        self._lives = 0
        self._lives_of: dict[asyncio.Task[Any], int | None] = {}
        self._zombies: list[asyncio.Task[Any]] = []
        #: From where the connection comes that is being made.
        self.dialing: str = ""
        self._dialed: dict[MemoryTransport, int | None] = {}
        self._cut: set[Link] = set()
        self._stuck: dict[Link, list[Callable[[], object]]] = {}
        self._frozen: dict[int, tuple[list[Any], list[Any]]] = {}
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        if self._now > self.time_limit:
            raise Deadlock(f"not finished after {self.time_limit:.0f} virtual seconds: something waits for ever")

    @property
    def trace(self) -> str:
        return self._hash.hexdigest()

    def note(self, what: bytes) -> None:
        """Add `what` and the present time to the trace."""
        self.deliveries += 1
        self._hash.update(b"%d " % round(self._now * 1e6))
        self._hash.update(what)

    def _process_events(self, event_list: Any) -> None:
        return None

    def _write_to_self(self) -> None:
        return None

    def delay(self) -> float:
        """Return how long the next delivery takes: mostly a loopback's tens of microseconds, at times 20 ms.

        One in three takes no time or ends on a whole 100 us, so that what several connections send meets in one turn.
        """
        kind = self.random.random()
        if kind < 0.15:
            return 0.0
        if kind < 0.33:
            return MEETING_SECONDS - self._now % MEETING_SECONDS
        return self.random.expovariate(20_000) if kind < 0.98 else self.random.random() * 0.02

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        address = (host if isinstance(host, str) else "127.0.0.1", port or self.free_port())
        if address in self._servers:
            raise OSError(98, f"address {address[0]}:{address[1]} is in use")
        server = MemoryServer(self, address, protocol_factory)
        self._servers[address] = server
        return server

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        machine = _machine.get()
        while self.is_cut(machine, host) or self.is_cut(host, machine):
            linked = self.create_future()
            for link in ((machine, host), (host, machine)):
                if link in self._cut:
                    self._stuck[link].append(lambda linked=linked: linked.done() or linked.set_result(None))  # type: ignore[misc]
                    break
            await linked
        server = self._servers.get((host, port))
        if server is None:
            raise ConnectionRefusedError(111, f"nothing listens on {host}:{port}")
        client_address = ("127.0.0.1" if machine == "client" else machine, self.free_port())
        self.dialing = client_address[0]
        remote = server.context.copy().run(server.factory)
        client = protocol_factory()
        near = MemoryTransport(self, client, client_address, (host, port), contextvars.copy_context(), machine)
        far = MemoryTransport(self, remote, (host, port), client_address, server.context.copy(), host)
        near.peer, far.peer = far, near
        self._dialed = {transport: life for transport, life in self._dialed.items() if not transport.is_lost}
        self._dialed[near] = _life.get()
        server.transports[far] = None
        client.connection_made(near)
        far.context.run(remote.connection_made, far)
        return near, client

    # -- processes

    def _make_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        self._lives_of[task] = _life.get()
        task.add_done_callback(self._lives_of.pop)
        return task

    async def begin_life(
        self,
        main: Callable[[], Coroutine[Any, Any, T]],
        machine: str = "client",
        begun: Callable[[int], None] = lambda life: None,
    ) -> tuple[int, T]:
        """Run `main()` as the start of a new process on a machine; return the number to end it by, and the result.

        `begun` gets the number at once: a process may be killed while it starts.
        """
        self._lives += 1
        life = self._lives
        begun(life)

        async def start() -> T:
            _life.set(life)
            _machine.set(machine)
            return await self.create_task(main())

        return life, await self.create_task(start())

    def end_life(self, life: int) -> None:
        """Kill a process: nothing of it runs again, nothing it had in flight arrives, its peers see a reset."""
        self._frozen.pop(life, None)
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            if handle._context.get(_life) == life:
                handle.cancel()
        # Kept, so that they are not collected (and complained about) as long as the loop lives.
        self._zombies += [task for task, owner in self._lives_of.items() if owner == life]
        for server in list(self._servers.values()):
            if server.context.get(_life) == life:
                server.close()
                for transport in list(server.transports):
                    transport.vanish()
        for transport, owner in self._dialed.items():
            if owner == life:
                transport.vanish()

    def freeze(self, life: int) -> None:
        """Stop a process: nothing of it runs until `thaw`, time goes on."""
        self._frozen[life] = ([], [])

    def thaw(self, life: int) -> None:
        """Let a stopped process go on: with everything that was due meanwhile."""
        ready, scheduled = self._frozen.pop(life)
        self._ready.extend(ready)  # type: ignore[attr-defined]
        for handle in scheduled:
            handle._scheduled = True
            heapq.heappush(self._scheduled, handle)  # type: ignore[attr-defined]

    def thaw_all(self) -> None:
        for life in list(self._frozen):
            self.thaw(life)

    def _run_once(self) -> None:
        if self._frozen:
            self._set_frozen_aside()
        super()._run_once()  # type: ignore[misc]

    def _set_frozen_aside(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        for source, kind in ((ready, 0), (scheduled, 1)):
            kept = []
            for handle in source:
                frozen = self._frozen.get(handle._context.get(_life))
                if frozen is None or handle._cancelled:
                    kept.append(handle)
                else:
                    frozen[kind].append(handle)
            source.clear()
            source.extend(kept)
        heapq.heapify(scheduled)

    # -- links

    def cut(self, sender: str, receiver: str) -> None:
        """Cut the way from one machine to another; the way back is another one."""
        if (sender, receiver) not in self._cut:
            self._cut.add((sender, receiver))
            self._stuck[sender, receiver] = []

    def heal(self, sender: str, receiver: str) -> None:
        """Let everything through again; what was sent meanwhile arrives now, in order."""
        self._cut.discard((sender, receiver))
        for action in self._stuck.pop((sender, receiver), ()):
            action()

    def heal_all(self) -> None:
        for link in sorted(self._cut):
            self.heal(*link)

    def is_cut(self, sender: str, receiver: str) -> bool:
        return (sender, receiver) in self._cut

    def when_linked(self, sender: str, receiver: str, action: Callable[[], object]) -> None:
        """Do something at once, or when the way is healed."""
        if (sender, receiver) in self._cut:
            self._stuck[sender, receiver].append(action)
        else:
            action()


class VirtualClock:
    """The clock of a simulation: the loop's time, with a wall clock that starts in 2026."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._waits = 0
        #: How far the wall clock has jumped.
        self.wall_offset_ms = 0

    def monotonic_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def wall_ms(self) -> int:
        return EPOCH_MS + self.wall_offset_ms + int(self._loop.time() * 1000)

    def boot_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def thread_waits(self) -> int:
        """Nothing takes time here but waiting."""
        self._waits += 1
        return self._waits


class _ListeningSocket:
    """What `server.sockets[0].getsockname()` needs."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class MemoryServer:
    """A listener of a `VirtualLoop`; looks like `asyncio.Server` to those who start and stop one."""

    def __init__(self, loop: VirtualLoop, address: tuple[str, int], factory: Callable[[], Any]) -> None:
        self._loop = loop
        self.address = address
        self.factory = factory
        self.context: contextvars.Context = contextvars.copy_context()
        self.transports: dict[MemoryTransport, None] = {}
        self.sockets: list[_ListeningSocket] = [_ListeningSocket(address)]

    def close(self) -> None:
        self._loop._servers.pop(self.address, None)

    def is_serving(self) -> bool:
        return self._loop._servers.get(self.address) is self

    async def wait_closed(self) -> None:
        return None

    async def start_serving(self) -> None:
        return None


class MemoryTransport(asyncio.Transport):
    """One end of an in-memory connection; bytes arrive in order, late and in pieces."""

    def __init__(
        self,
        loop: VirtualLoop,
        protocol: Any,
        local: tuple[str, int],
        remote: tuple[str, int],
        context: contextvars.Context,
        machine: str,
    ) -> None:
        super().__init__({"sockname": local, "peername": remote})
        self._loop = loop
        self.machine = machine
        self._protocol = protocol
        self.context = context
        self.peer: MemoryTransport | None = None
        self._inbox: deque[bytes] = deque()
        self._in_flight = 0
        self._is_full = False
        self._paused = False
        self._closing = False
        self._lost = False
        self._eof = False
        self._last_arrival = 0.0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._drain, context=self.context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return max(0, self._in_flight - KERNEL_BYTES)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, 65536)

    def can_write_eof(self) -> bool:
        return False

    @property
    def is_lost(self) -> bool:
        return self._lost

    def _towards_peer(self, action: Callable[[], object]) -> None:
        assert self.peer is not None
        self._loop.when_linked(self.machine, self.peer.machine, action)

    def write(self, data: Any) -> None:
        if self._closing or self.peer is None:
            return
        rest = bytes(data)
        self._in_flight += len(rest)
        if self._in_flight > KERNEL_BYTES and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()
        self._towards_peer(lambda: self._send(rest))

    def _send(self, rest: bytes) -> None:
        while rest:
            size = len(rest)
            if size > 1 and self._loop.random.random() < 0.1:
                size = self._loop.random.randint(1, size)
            chunk, rest = rest[:size], rest[size:]
            peer = self.peer
            assert peer is not None
            # In order: nothing overtakes what was sent before.
            # A little later each: timers of the same moment run in any order.
            peer._last_arrival = max(peer._last_arrival + 1e-7, self._loop.time() + self._loop.delay())
            self._loop.call_at(peer._last_arrival, peer._arrive, self, chunk, context=peer.context)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _arrive(self, sender: MemoryTransport, chunk: bytes) -> None:
        sender.on_taken(len(chunk))
        if not self._lost:
            local, remote = self.get_extra_info("sockname"), self.get_extra_info("peername")
            self._loop.note(b"%d>%d " % (remote[1], local[1]) + chunk)
            self._inbox.append(chunk)
            self._drain()

    def on_taken(self, size: int) -> None:
        """The peer has got some of what was written."""
        self._in_flight -= size
        if self._is_full and self._in_flight <= KERNEL_BYTES:
            self._is_full = False
            if not self._closing:
                self._loop.call_soon(self._protocol.resume_writing, context=self.context)

    def _drain(self) -> None:
        while self._inbox and not self._paused and not self._lost:
            chunk = self._inbox.popleft()
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                buffer = memoryview(self._protocol.get_buffer(len(chunk)))
                assert len(buffer), "get_buffer() returned an empty buffer"
                size = min(len(buffer), len(chunk))
                buffer[:size] = chunk[:size]
                if size < len(chunk):
                    self._inbox.appendleft(chunk[size:])
                self._protocol.buffer_updated(size)
            else:
                self._protocol.data_received(chunk)
        if self._eof and not self._inbox and not self._lost:
            self._lose(None)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, None, context=self.context)
            if self.peer is not None:
                self._towards_peer(self._send_end)

    def _send_end(self) -> None:
        peer = self.peer
        assert peer is not None
        peer._last_arrival = max(peer._last_arrival + 1e-7, self._loop.time() + self._loop.delay())
        self._loop.call_at(peer._last_arrival, peer._peer_closed, context=peer.context)

    def abort(self) -> None:
        self.close()

    def vanish(self) -> None:
        """The process behind this end is gone: no callback here, the other end sees a reset."""
        self._lost = self._closing = True
        if self.peer is not None and not self.peer._lost:
            self._towards_peer(self._send_reset)

    def _send_reset(self) -> None:
        peer = self.peer
        assert peer is not None
        reset = ConnectionResetError("the peer was killed")
        self._loop.call_later(self._loop.delay(), peer._lose, reset, context=peer.context)

    def _peer_closed(self) -> None:
        self._eof = True
        self._drain()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(error)


def run_virtual(seed: int, main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> tuple[T, str]:
    """Run `main(loop)` to its end in virtual time; return its result and the trace hash."""
    loop = VirtualLoop(seed)
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main(loop))
        return result, loop.trace
    finally:
        # What was killed or left behind ends now, quietly: its cleaning up finds a dead disk.
        loop.thaw_all()
        pending = asyncio.all_tasks(loop)
        loop.set_exception_handler(lambda _loop, _context: None)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=60))
        for task in pending:
            coroutine = task.get_coro()
            if isinstance(coroutine, CoroutineType) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # killed before its first step: nobody forgot to await it
        asyncio.set_event_loop(None)
        loop.close()
