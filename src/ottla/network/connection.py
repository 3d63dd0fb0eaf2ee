"""The broker's side of one connection: complete frames in, answers out in the order of the requests.

Decides when to read, when to handle the next frame and when to write; knows nothing of what is inside a frame. The
frames of most reads are complete and are handled where they were received, in the one buffer all connections of a
server share: an idle connection owns no buffer. This is sound because a selector transport asks for the buffer, fills
it and reports it without returning to the loop in between; other transports go through `StreamConnection`.

Invariants:
  * Answers leave in the order of their requests, also when later ones are ready first.
  * No frame is handled while an answer is owed that blocks the next one (Kafka mutes the channel), or while earlier
    output has not gone to the kernel: a peer that does not read costs one answer, not many.
  * One turn of the loop handles a bounded number of frames of one connection.
  * Memory held for a peer is its bytes that came (see `FrameBuffer`), READ_AHEAD bytes of waiting requests, the requests
    whose answers it does not wait for (PENDING_BYTES_MAX and one more), and its answers: one that is being sent, and
    behind an owed one up to PENDING_MAX small ones or one that is large.
  * Requests in memory, half-read or being worked on, count against `queued.max.request.bytes` until they are done.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from socket import SO_RCVLOWAT, SOL_SOCKET
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from ottla.errors import RemoteProtocolError
from ottla.file_region import Buffer, FileRegion, Sendable
from ottla.network.frame_buffer import FrameBuffer
from ottla.network.http import HttpConversation, HttpSite
from ottla.network.limits import ByteBudget, NetworkLimits
from ottla.network.outflow import Outflow
from ottla.network.output import JOIN_MAX, split
from ottla.network.transport import plain_socket

if TYPE_CHECKING:
    from ottla.network.tls import TlsTransport
    from ottla.observability.metrics import NetworkMetrics

logger: logging.Logger = logging.getLogger(__name__)


class PendingReply(NamedTuple):
    """An answer that comes later.

    Attributes:
        future: the buffers of the answer, or None for no answer. It is cancelled if the connection ends first.
        blocks_next: whether the next request of this connection waits for it. False for a produce that waits for its
            commit: it has been appended or has its place in the queue, so order is kept and pipelined produces share
            one commit. Their requests are counted while they wait.
        work: what holds the request in memory, where that may outlast `future` (and the connection).
    """

    future: asyncio.Future[list[Sendable] | None]
    blocks_next: bool = True
    work: asyncio.Future[Any] | None = None


class PromptReply(asyncio.Future["list[Sendable] | None"]):
    """An answer that goes out within `set_result`, where that of any other future waits for the next turn of the loop.

    The result (or error) is set from a callback of the loop, never within the handling of a frame: the connection's next
    frames are handled there and then.

    Args:
        abandon: called if it is cancelled: the connection has ended first.
    """

    def __init__(self, abandon: Callable[[], None]) -> None:
        super().__init__()
        self._abandon = abandon
        #: What the connection does with it.
        self.on_answer: Callable[[asyncio.Future[list[Sendable] | None]], None] | None = None

    def set_result(self, result: list[Sendable] | None, /) -> None:
        """Give the answer."""
        super().set_result(result)
        if self.on_answer is not None:
            self.on_answer(self)

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """There is no answer: the connection is closed."""
        super().set_exception(exception)
        if self.on_answer is not None:
            self.on_answer(self)

    def cancel(self, msg: object = None) -> bool:
        """The connection has ended, or is to end because there will be no answer."""
        if not super().cancel(msg):
            return False
        self._abandon()
        if self.on_answer is not None:
            self.on_answer(self)
        return True


Reply = None | list[Sendable] | PendingReply | asyncio.Future[list[Sendable] | None]
"""What a handler returns: no answer, the answer (frame size included), or one to come (a bare future blocks)."""

Handle = Callable[["BrokerConnection", memoryview], Reply]
"""Called with each frame, without its size. The view is valid only during the call: the buffer is reused."""

FRAMES_PER_TURN = 64
"""Frames of one connection handled before others get their turn; at some 15 us each this is 1 ms."""
READ_AHEAD = 64 * 1024
"""Bytes of requests read while their turn has not come. Reading on this far notices a peer that goes away."""
PENDING_MAX = 256
"""Answers one connection may be owed; clients pipeline five (`max.in.flight.requests.per.connection`)."""
PENDING_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of requests whose answers are owed while the next ones are handled: four of a producer's largest, by default."""
ADMIT_MIN = 64 * 1024
"""Half-read frames up to this size are not counted against `queued.max.request.bytes`."""
RECEIVE_SIZE = 256 * 1024
WAIT_MIN = 64 * 1024
WAIT_MAX = 512 * 1024
"""With so many bytes of a request still to come, the system is asked to report up to so many at a time."""

_SIZE = Struct(">i")
_OWED, _UNSENT, _YIELDED, _CROWDED, _STARTING, _MUTED = 1, 2, 4, 8, 16, 32
"""Why the next frame is not handled: a blocking answer is owed; output waits for the peer to read; this loop turn's
share is used up; PENDING_MAX answers are owed, or answers to PENDING_BYTES_MAX of requests; the broker is still starting
(HTTP is answered all the same); the client is over a quota."""


class ConnectionHost(Protocol):
    """What the connections of one server share (see `Server`)."""

    handle: Handle
    limits: NetworkLimits
    budget: ByteBudget
    metrics: NetworkMetrics
    receive_view: memoryview
    serving: bool
    """Whether requests are handled yet; if not, they wait for `BrokerConnection.release`."""
    now: float
    """Loop time in seconds, as of the last sweep. Coarse on purpose: stamping it costs one attribute read."""

    def http_of(self, connection: BrokerConnection) -> HttpSite | None:
        """Return what is served to the client of a connection that speaks HTTP."""

    def opened(self, connection: BrokerConnection) -> None:
        """Register."""

    def authenticated(self, connection: BrokerConnection) -> None:
        """Its client has logged in: it is a stranger no more."""

    def ended(self, connection: BrokerConnection, reason: str | None) -> None:
        """Forget, and log `reason` if we closed it."""


class BrokerConnection(asyncio.BufferedProtocol):
    """One accepted connection.

    Attributes:
        listener: name of the listener that accepted it.
        peer_host, peer_port, local_host, local_port: both ends; the local one is the address this client used.
        session: for the handler, which keeps here what it knows of the client; None at first.
        frame_bytes_max: a larger request closes the connection; None: `socket.request.max.bytes` says.
        alpn: what protocol both ends agreed on in TLS, if they did.
        on_closed: called once when the connection has ended.
        out: answers that have not been flushed; empty between two events.
    """

    __slots__ = (
        "__weakref__",
        "_admitted",
        "_blocked",
        "_buffer",
        "_closing",
        "_frame_since",
        "_fresh",
        "_host",
        "_http",
        "_loop",
        "_low_water",
        "_mute_timer",
        "_outflow",
        "_owed",
        "_paused",
        "_pending_bytes",
        "_progress",
        "_socket",
        "_socket_fd",
        "_transport",
        "alpn",
        "frame_bytes_max",
        "last_active",
        "listener",
        "local_host",
        "local_port",
        "on_closed",
        "out",
        "peer_host",
        "peer_port",
        "session",
    )

    local_port: int
    peer_port: int

    def __init__(self, host: ConnectionHost, listener: str, peer_host: str = "") -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer: FrameBuffer | None = None
        self._http: HttpConversation | None = None
        self._owed: deque[list[Sendable] | asyncio.Future[list[Sendable] | None]] | None = None
        self.out: list[Sendable] = []
        self._outflow: Outflow | None = None
        self._admitted = 0
        self._low_water = 1
        self._mute_timer: asyncio.TimerHandle | None = None
        self._socket: Any = None
        self._socket_fd = -1
        self._pending_bytes = 0
        self._blocked = 0 if host.serving else _STARTING
        self._paused = False
        self._fresh = True
        self._closing: str | None = None
        self._frame_since = 0.0
        self._progress = 0
        self.last_active: float = host.now
        self.listener: str = listener
        self.peer_host: str = peer_host
        self.local_host: str = ""
        self.peer_port = self.local_port = 0
        self.session: Any = None
        self.frame_bytes_max: int | None = None
        self.alpn: str | None = None
        self.on_closed: Callable[[], None] | None = None

    # -- transport events -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn both addresses and register with the server."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self._socket = plain_socket(transport)
        if self._socket is not None:
            self._socket_fd = self._socket.fileno()
        self.peer_host, self.peer_port = _address(transport.get_extra_info("peername")) or (self.peer_host, 0)
        self.local_host, self.local_port = _address(transport.get_extra_info("sockname")) or ("", 0)
        # 0: pause_writing means "the kernel did not take all of it", resume_writing "it has now".
        transport.set_write_buffer_limits(high=0)
        self._host.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the transport is to receive: the shared buffer, unless bytes are left over from the last time."""
        buffer = self._buffer
        if buffer is None:
            return self._host.receive_view
        if buffer.end == len(buffer.data):  # paused, but this transport goes on delivering what it has read
            buffer.make_room(buffer.end - buffer.start + max(sizehint, 1))
        return buffer.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Handle the frames that are complete; keep the rest."""
        host = self._host
        self.last_active = host.now
        host.metrics.bytes_received += nbytes
        buffer = self._buffer
        if self._fresh:
            self._recognize(host.receive_view[0])
        if self._http is not None:
            self._http.receive(host.receive_view[:nbytes])
            if not self._blocked:
                self._answer_http()
            return
        if buffer is None:
            view = host.receive_view
            rest = 0 if self._blocked else self._handle_frames(view, 0, nbytes)
            if rest < nbytes and self._closing is None:
                self._buffer = FrameBuffer(view[rest:nbytes], self._need(view, rest, nbytes))
        else:
            buffer.end += nbytes
            if not self._blocked:
                buffer.start = self._handle_frames(buffer.view, buffer.start, buffer.end)
        if self.out:
            self.flush()
        self._settle()

    def eof_received(self) -> bool:
        """The peer will send no more; answers owed to it are of no use to Kafka clients, so close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is owed, give back what was admitted, tell the server."""
        self._transport = None
        self._socket_fd = -1  # closed now, and soon another's
        reason, self._closing = self._closing, self._closing or "lost"
        owed, self._owed = self._owed, None
        for reply in owed or ():
            if type(reply) is not list:
                cast("asyncio.Future[object]", reply).cancel()
        if self._http is not None:
            self._http.abandon()
        self._buffer = self._outflow = None
        self.out = []
        self._give_back()
        self._host.budget.forget(self._on_budget)
        if self._mute_timer is not None:
            self._mute_timer.cancel()
            self._mute_timer = None
        self._host.ended(self, reason)
        if self.on_closed is not None:
            self.on_closed()

    def pause_writing(self) -> None:
        """The kernel takes no more: handle no further requests until it does."""
        self._blocked |= _UNSENT

    def resume_writing(self) -> None:
        """Everything handed over so far has gone out.

        Going on is for later: asyncio's transports do not bear being closed inside this call.
        """
        self.last_active = self._host.now
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Send what is left; when all of it is with the transport, handle the next frames or close."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size():
            return
        self._blocked &= ~_UNSENT
        if self._outflow is not None:
            self._send_on()
        if self._closing is not None:
            self._close_when_sent()
        else:
            self._advance()

    # -- for handlers and the server --------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether `connection_lost` will be called, or has been."""
        return self._transport is not None or self._closing is not None

    @property
    def closing(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._closing is not None

    def close(self, reason: str) -> None:
        """Close after sending what is ready; `reason` goes into one log line with the peer's address."""
        if self._closing is None:
            self._closing = reason
            if self.out:
                self.flush()
            if self._outflow is not None:
                self._pause()
            self._close_when_sent()

    def abort(self, reason: str) -> None:
        """Close at once, dropping what has not been sent."""
        self._closing = self._closing or reason
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, answer: list[Sendable], reason: str) -> None:
        """Send one last answer and close: nothing that has come behind the request is looked at."""
        if self._closing is None:
            self.out += answer
            self.close(reason)

    def logins_failed(self) -> None:
        """Count a login that has failed."""
        self._host.metrics.logins_failed += 1

    def authenticated(self) -> None:
        """The client has logged in: from now on it has the limits of those who are known."""
        self.frame_bytes_max = None
        self._host.metrics.logins += 1
        self._host.authenticated(self)

    @property
    def is_stranger(self) -> bool:
        """Whether its client still has to log in."""
        return self.frame_bytes_max is not None

    def mute(self, seconds: float) -> None:
        """Handle no further frames for a while (KIP-219); answers go out all the same. Of two times the later end counts."""
        if self._transport is None or seconds <= 0:
            return
        due = self._loop.time() + seconds
        timer = self._mute_timer
        if timer is not None:
            if timer.when() >= due:
                return
            timer.cancel()
        self._blocked |= _MUTED
        self._mute_timer = self._loop.call_at(due, self._unmute)

    def _unmute(self) -> None:
        self._mute_timer = None
        self._blocked &= ~_MUTED
        self._advance()

    @property
    def peer_certificate(self) -> bytes | None:
        """The certificate that the peer has proved to own, DER; None if it has shown none."""
        transport = self._transport
        return None if transport is None else transport.get_extra_info("peer_certificate")

    @property
    def server_name(self) -> str | None:
        """The name by which the client has asked for this broker in TLS (SNI); None if it has not."""
        transport = self._transport
        return None if transport is None else transport.get_extra_info("server_name")

    @property
    def is_encrypted(self) -> bool:
        """Whether its bytes go through TLS."""
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is not None

    def release(self) -> None:
        """The broker has started: handle what has been waiting."""
        self._blocked &= ~_STARTING
        self._advance()

    def sweep(self, now: float, interval: float) -> None:
        """Called by the server every `interval` seconds: end what is idle or stuck, return memory.

        A peer is idle when it neither sends nor takes anything for `connections.max.idle.ms`. One that sends a frame
        drop by drop is never idle, so a frame has that time and one second per KiB to arrive.
        """
        transport = self._transport
        if transport is None:
            return
        outflow = self._outflow
        unsent = transport.get_write_buffer_size() + (len(outflow) if outflow is not None else 0)
        if unsent != self._progress:
            self._progress = unsent
            self.last_active = now
        if self._owed or self._blocked & (_STARTING | _MUTED) or (outflow is not None and outflow.waits_for_disk):
            # the peer waits for us, not we for it
            self.last_active = now
        idle = now - self.last_active
        if self._low_water > 1 and idle >= interval:
            self._wait_for(1)  # a peer that sends slowly is not an idle one: see what it has sent
        limit = self._host.limits.idle_ms_max / 1000
        if self._closing is not None:
            if idle > interval:
                transport.abort()
            return
        buffer = self._buffer
        if idle > limit + interval and limit >= 0:
            self.abort("left an answer unread for too long" if unsent else f"idle for {idle:.0f} s")
        elif self._http is not None:
            reason = self._http.overdue(now)
            if reason is not None:
                self.abort(reason)
        elif buffer is None:
            pass
        elif buffer.start == buffer.end:
            if len(buffer.data) > 2 * buffer.peak or not buffer.peak:
                self._buffer = None
            buffer.peak = 0
        elif not self._frame_since:
            self._frame_since = now
        elif limit >= 0 and not self._blocked and now - self._frame_since > limit + (buffer.end - buffer.start) / 1024:
            self.abort(f"a request has not arrived whole in {now - self._frame_since:.0f} s")

    # -- reading ----------------------------------------------------------------------------------------------------

    def _recognize(self, first: int) -> None:
        """Tell Kafka, HTTP and TLS apart by the first byte; a request size begins with less than either."""
        self._fresh = False
        size_max = self._host.limits.request_bytes_max
        site = self._host.http_of(self) if 0x41 <= first <= 0x5A else None
        if self.alpn is not None and site is None:
            self.close(f"agreed on {self.alpn} in TLS and speaks something else")
        elif site is not None and size_max < 0x41000000:
            self._http = HttpConversation(site, self.local_host, self.local_port, self._host.now)
            self._http.owner = self
            self._http.wake = self._answer_http
            self._blocked &= ~_STARTING
        elif first == 0x16 and size_max < 0x16000000:
            self.close("speaks TLS to a plaintext listener")

    def _handle_frames(self, view: memoryview, position: int, end: int) -> int:
        """Handle complete frames of `view[position:end]`; return where the rest begins."""
        if self._closing is not None:
            return end
        handle = self._host.handle
        size_max = self.request_bytes_max
        unpack_size = _SIZE.unpack_from
        turns = FRAMES_PER_TURN
        start = position
        unsent = 0
        try:
            while end - position >= 4:
                size = unpack_size(view, position)[0]
                if size > size_max or size < 0:
                    self.close(self._too_large(size))
                    return end
                frame_end = position + 4 + size
                if frame_end > end or self._blocked:
                    break
                if not turns:
                    self._blocked |= _YIELDED
                    self._loop.call_soon(self._take_turn)
                    break
                turns -= 1
                reply = handle(self, view[position + 4 : frame_end])
                position = frame_end
                if reply is not None:
                    if type(reply) is list and not self._owed:
                        self.out += reply
                        for buffer in reply:
                            unsent += len(buffer)
                        if unsent > JOIN_MAX:
                            self.flush()
                            unsent = 0
                    else:
                        self.owe(reply, size)
                if self._closing is not None:
                    return end
        except Exception as error:
            self.handling_failed(error)
            return end
        if position != start:
            self._frame_since = 0.0
            self._host.metrics.requests += FRAMES_PER_TURN - turns
            if self._admitted:
                self._give_back()
        return position

    def is_at_rest(self) -> bool:
        """Whether nothing is half done here: frames may be handled from where they are received, and answered at once."""
        return not (
            self._blocked
            or self._owed
            or self._fresh
            or self._buffer is not None
            or self._http is not None
            or self._closing is not None
        )

    @property
    def request_bytes_max(self) -> int:
        """A larger request closes the connection."""
        return self.frame_bytes_max or self._host.limits.request_bytes_max

    def handling_failed(self, error: Exception) -> None:
        """A frame could not be handled: close, after the answers to those before it."""
        if isinstance(error, RemoteProtocolError):
            self.close(f"sent no valid request: {error}")
        else:
            logger.error(
                "Uncaught exception while handling a request of %s; closing its connection", self.peer, exc_info=error
            )
            self.close("the request could not be handled")

    def _need(self, view: memoryview, start: int, end: int) -> int:
        """Size of the first frame of `view[start:end]` with its prefix, or 4 while unknown."""
        if end - start < 4:
            return 4
        size: int = _SIZE.unpack_from(view, start)[0]
        return size + 4 if 0 <= size <= self.request_bytes_max else 4

    def _too_large(self, size: int) -> str:
        if self.frame_bytes_max is not None:
            return f"announced {size} bytes before its login (at most {self.frame_bytes_max})"
        return f"announced a request of {size} bytes (socket.request.max.bytes={self._host.limits.request_bytes_max})"

    def _settle(self) -> None:
        """After handling: make room for the rest of a frame, or stop reading while frames wait."""
        buffer = self._buffer
        if buffer is None or self._closing is not None:
            return
        waiting = buffer.end - buffer.start
        if self._blocked:
            if waiting >= READ_AHEAD:
                self._pause()
            elif buffer.end == len(buffer.data) or not waiting:
                buffer.make_room(max(2 * waiting, 4))
            return
        need = self._need(buffer.view, buffer.start, buffer.end) if waiting else 4
        if need > ADMIT_MIN and not self._admitted:
            if not self._host.budget.take(need):
                self._pause()
                self._host.budget.wait(self._on_budget)
                return
            self._admitted = need
        buffer.make_room(need)
        self._wait_for(need - waiting if need - waiting > WAIT_MIN else 1)
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def _wait_for(self, size: int) -> None:
        """Have the system report bytes when there are `size` of them, or as many as it can hold, or the end.

        A request of a megabyte arrives in a dozen pieces, and each would cost a turn of the loop. Measured with four
        batches of 256 KB a request: 0.75-0.83 instead of 0.9 CPU s/GB; with four of 16 KB: 1.9 instead of 2.1.
        """
        size = min(size, WAIT_MAX)
        if size != self._low_water and self._socket is not None:
            try:
                self._socket.setsockopt(SOL_SOCKET, SO_RCVLOWAT, size)
            except OSError:  # not on this system: pieces come as they come
                self._socket = None
            self._low_water = size

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _on_budget(self) -> None:
        self._loop.call_soon(self._advance)

    def _give_back(self) -> None:
        admitted, self._admitted = self._admitted, 0
        if admitted:
            self._host.budget.give_back(admitted)

    def _take_turn(self) -> None:
        self._blocked &= ~_YIELDED
        self._advance()

    def _advance(self) -> None:
        """Something that held frames back has ended: handle those that wait."""
        if self._blocked or self._closing is not None:
            return
        if self._http is not None:
            self._answer_http()
            return
        buffer = self._buffer
        if buffer is not None:
            if buffer.start != buffer.end:
                buffer.start = self._handle_frames(buffer.view, buffer.start, buffer.end)
                if self.out:
                    self.flush()
            self._settle()

    # -- answering --------------------------------------------------------------------------------------------------

    def owe(self, reply: list[Sendable] | PendingReply | asyncio.Future[list[Sendable] | None], size: int) -> None:
        """Queue an answer behind those still owed; `size` is its request's."""
        owed = self._owed
        if owed is None:
            owed = self._owed = deque()
        if isinstance(reply, list):
            owed.append(reply)
            if len(owed) >= PENDING_MAX or sum(map(len, reply)) > JOIN_MAX:
                self._blocked |= _OWED  # an answer that has to wait is held here: no further ones until it has gone
            return
        future, blocks, work = reply if isinstance(reply, PendingReply) else (reply, True, None)
        owed.append(future)
        if blocks:
            self._blocked |= _OWED
        else:
            self._pending_bytes += size
            self._host.budget.hold(size)
            if len(owed) >= PENDING_MAX or self._pending_bytes >= PENDING_BYTES_MAX:
                self._blocked |= _CROWDED
            if work is None:
                future.add_done_callback(lambda answered: self._on_counted_reply(size, answered))
                return
            work.add_done_callback(lambda _done: self._on_work_done(size))
        if isinstance(future, PromptReply) and not future.done():
            future.on_answer = self._on_reply
        else:
            future.add_done_callback(self._on_reply)

    def _on_counted_reply(self, size: int, answered: asyncio.Future[list[Sendable] | None]) -> None:
        """An answer that others did not wait for is ready, and its request out of memory."""
        self._on_work_done(size)
        self._on_reply(answered)

    def _on_work_done(self, size: int) -> None:
        """A request that others did not wait for is out of memory; its answer is sent by `_on_reply`."""
        self._pending_bytes -= size
        self._host.budget.give_back(size)
        if self._owed is not None and self._blocked & _CROWDED:
            self._uncrowd(len(self._owed))

    def _uncrowd(self, owed_count: int) -> None:
        if owed_count < PENDING_MAX and self._pending_bytes < PENDING_BYTES_MAX:
            self._blocked &= ~_CROWDED
            if not self._blocked:
                self._loop.call_soon(self._advance)

    def _on_reply(self, answered: asyncio.Future[list[Sendable] | None]) -> None:
        """An owed answer is ready: send it and all ready ones behind it, unless earlier ones are still owed."""
        owed = self._owed
        if owed is None or self._closing is not None:
            if not answered.cancelled():
                answered.exception()  # the peer has gone
            return
        out = self.out
        while owed:
            reply = owed[0]
            if isinstance(reply, list):
                out += reply
            elif not reply.done():
                break
            elif reply.cancelled():
                self.close("the request was cancelled")
                return
            elif (error := reply.exception()) is not None:
                if isinstance(error, RemoteProtocolError):
                    self.close(f"sent no valid request: {error}")
                else:
                    logger.error(
                        "Uncaught exception while answering %s; closing its connection", self.peer, exc_info=error
                    )
                    self.close("the request could not be handled")
                return
            elif (buffers := reply.result()) is not None:
                out += buffers
            owed.popleft()
        if len(owed) < PENDING_MAX and self._pending_bytes < PENDING_BYTES_MAX:
            self._blocked &= ~_CROWDED
        if not owed:
            self._blocked &= ~_OWED
        if out:
            self.flush()
        if not self._blocked:
            self._advance()

    def flush(self) -> None:
        """Send `out` with few system calls and without copying large bodies."""
        transport = self._transport
        out, self.out = self.out, []
        if transport is None:
            return
        size = sum(map(len, out))
        self._host.metrics.bytes_sent += size
        outflow = self._outflow
        if outflow is None:
            if size <= JOIN_MAX and FileRegion not in map(type, out):
                transport.write(cast(bytes, out[0]) if len(out) == 1 else b"".join(cast("list[bytes]", out)))
                return
            outflow = self._outflow = Outflow(transport, self._socket_fd, self._go_on)
            outflow.add(split(out))
            self._send_on()
        else:
            outflow.add(split(out))

    def _send_on(self) -> None:
        """Send what a large answer has left; frames wait until it is with the transport."""
        outflow, transport = self._outflow, self._transport
        if outflow is None or transport is None:
            return
        try:
            if outflow.advance():
                self._outflow = None
            else:
                self._blocked |= _UNSENT
        except (OSError, EOFError) as error:
            self._outflow = None
            self._blocked |= _UNSENT  # for good: nothing more is handled
            self.abort("" if isinstance(error, ConnectionError) else f"an answer could not be sent: {error}")

    def _close_when_sent(self) -> None:
        """End the connection once everything is with the transport, which sends it first."""
        if self._outflow is None and self._transport is not None:
            self._transport.close()

    def _answer_http(self) -> None:
        """Answer the HTTP requests that have arrived, slice by slice where the answer is long."""
        http = self._http
        assert http is not None
        while not self._blocked & (_UNSENT | _YIELDED):
            answer = http.step(self._host.now)
            if answer is None:
                break
            if not answer:  # one more slice of a long answer is ready; others first
                self._blocked |= _YIELDED
                self._loop.call_soon(self._take_turn)
                break
            self.out.append(answer)
            self.flush()
        if http.finished:
            self.close("")

    @property
    def peer(self) -> str:
        """The peer's address for people."""
        host = f"[{self.peer_host}]" if ":" in self.peer_host else self.peer_host
        return f"{host}:{self.peer_port}"


class StreamConnection(asyncio.Protocol):
    """Feeds a `BrokerConnection` from a transport that may not share its receive buffer (Windows' proactor loop)."""

    def __init__(self, connection: BrokerConnection | TlsTransport) -> None:
        self._connection = connection
        self.connection_made = connection.connection_made  # type: ignore[method-assign]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def data_received(self, data: bytes) -> None:
        """Copy in, part by part."""
        feed(self._connection, data)


def feed(connection: BrokerConnection | TlsTransport, data: Buffer) -> None:
    """Deliver bytes the way a transport does; also for tests."""
    rest = memoryview(data)
    while rest and not connection.closing:
        room = connection.get_buffer(len(rest))
        count = min(len(room), len(rest))
        room[:count] = rest[:count]
        connection.buffer_updated(count)
        rest = rest[count:]


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket name; None for other kinds of sockets or one that is gone already."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
