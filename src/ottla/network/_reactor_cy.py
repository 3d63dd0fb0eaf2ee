# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# mypy: ignore-errors
# ruff: noqa: F821
"""The reactor for the compiler, in Cython's pure Python mode: sockets of plain connections, without asyncio's transports.

Only ever run compiled (`ottla.compiled`); asyncio's transports are the twin, and the tests of network run over both. The
sockets lie in an epoll set of their own, whose descriptor the loop watches: one callback receives from all that are ready,
and sends.

A connection that is at rest (`BrokerConnection.is_at_rest`) has nothing half done. What comes for it is received in the
buffer that all connections share, its frames are handed on from there, and their answers leave in one write. Everything else
takes the way that it takes with asyncio: `get_buffer`, `buffer_updated`, and `write` of a `ReactorTransport`, which is what
`network.transport.Transport` describes.

Invariants:
  * A descriptor is in the epoll set while something is to be done with it, and only then: an error is reported for all there.
  * A transport ends outside of `poll`, in a callback of the loop: no socket is closed, and no number given to another,
    while `poll` goes through what is ready.
  * One call of `poll` serves each ready connection once: `FRAMES_PER_TURN` frames, and as many again by `buffer_updated`.
"""

import os
import select
import socket

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.errno import EAGAIN, EINTR, errno
from cython.cimports.libc.string import memmove
from cython.cimports.posix.unistd import read, write

SOURCE_HASH = "@SOURCE_HASH@"

#: Ready connections served before the loop's other callbacks have their turn.
READY_MAX = 128

_IN = cython.declare(cython.int, select.EPOLLIN)
_OUT = cython.declare(cython.int, select.EPOLLOUT)


@cython.cclass
class Reactor:
    """Serves sockets for one loop.

    Args:
        loop: a selector loop.
        host: what the connections share (`network.connection.ConnectionHost`).
        join_max: answers up to so many bytes in sum are joined.
        frames_max: frames of one connection handled in one turn.
    """

    _loop: object
    _host: object
    _epoll: object
    _transports: dict
    _view: object
    _room: cython.p_uchar
    _room_size: cython.Py_ssize_t
    _join_max: cython.Py_ssize_t
    _frames_max: cython.int

    def __cinit__(self, loop, host, *, join_max, frames_max):
        self._loop = loop
        self._host = host
        self._transports = {}
        self._join_max = join_max
        self._frames_max = frames_max
        self._view = host.receive_view
        room: Py_buffer
        PyObject_GetBuffer(self._view, cython.address(room), PyBUF_SIMPLE | PyBUF_WRITABLE)
        self._room = cython.cast(cython.p_uchar, room.buf)  # where it is for as long as there is `_view`
        self._room_size = room.len
        PyBuffer_Release(cython.address(room))
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self.poll)

    def adopt(self, connected, connection):
        """Serve `connection` on a connected socket that does not block."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport: ReactorTransport = ReactorTransport(self, connected, connection)
        self._transports[transport._fd] = transport
        connection.connection_made(transport)
        if not transport._is_closing:
            transport._watch(_IN)

    def close(self):
        """Let go of the loop. Connections that are still open are dropped."""
        if self._epoll.closed:
            return
        self._loop.remove_reader(self._epoll.fileno())
        for transport in list(self._transports.values()):
            transport._end(None)
        self._epoll.close()

    def poll(self):
        """Receive from and send to what is ready."""
        transport: ReactorTransport
        events: cython.int
        for fd, mask in self._epoll.poll(0, READY_MAX):
            transport = self._transports[fd]
            events = mask
            # An error or the end of the peer is reported with every event, and found by reading or writing.
            if events & ~_OUT and transport._interest & _IN:
                try:
                    self._receive(transport)
                except Exception as error:
                    transport._fail(error, "receiving")
            if events & ~_IN and transport._interest & _OUT:
                try:
                    transport._send_on()
                except Exception as error:
                    transport._fail(error, "sending")

    @cython.cfunc
    def _receive(self, transport: ReactorTransport):
        connection = transport._connection
        room: Py_buffer
        count: cython.Py_ssize_t
        if connection.is_at_rest():
            count = read(transport._fd, self._room, self._room_size)
            if count > 0:
                self._handle(connection, transport, count)
                return
        else:
            PyObject_GetBuffer(connection.get_buffer(-1), cython.address(room), PyBUF_SIMPLE | PyBUF_WRITABLE)
            count = read(transport._fd, room.buf, room.len)
            PyBuffer_Release(cython.address(room))
            if count > 0:
                connection.buffer_updated(count)
                return
        if count == 0:
            connection.eof_received()
            transport.close()
        elif errno != EAGAIN and errno != EINTR:
            transport._drop(_os_error())

    @cython.cfunc
    def _handle(self, connection, transport: ReactorTransport, end: cython.Py_ssize_t):
        """Hand on complete frames of a connection at rest, send their answers; `buffer_updated` gets what is left."""
        host = self._host
        handle = host.handle
        data: cython.p_uchar = self._room
        size_max: cython.longlong = connection.request_bytes_max
        position: cython.Py_ssize_t = 0
        size: cython.longlong
        unsent: cython.Py_ssize_t = 0
        frames: cython.int = 0
        connection.last_active = host.now
        while end - position >= 4 and frames < self._frames_max:
            size = (
                cython.cast(cython.longlong, data[position]) << 24
                | data[position + 1] << 16
                | data[position + 2] << 8
                | data[position + 3]
            )
            if size > size_max or size > end - position - 4:  # one that is negative is large here
                break
            frames += 1
            try:
                reply = handle(connection, self._view[position + 4 : position + 4 + size])
            except Exception as error:
                connection.handling_failed(error)
                break
            position += 4 + size
            if type(reply) is list:
                connection.out += reply
                for answer in cython.cast(list, reply):
                    unsent += len(answer)
                if unsent > self._join_max:
                    connection.flush()
                    unsent = 0
            elif reply is not None:
                connection.owe(reply, size)
            if position == end or not connection.is_at_rest():
                break
        metrics = host.metrics
        metrics.requests += frames
        metrics.bytes_received += position
        self._send(connection, transport)
        if position < end and not connection.closing:
            memmove(data, data + position, end - position)
            connection.buffer_updated(end - position)

    @cython.cfunc
    def _send(self, connection, transport: ReactorTransport):
        """Send what the frames were answered with."""
        out: list = connection.out
        size: cython.Py_ssize_t = 0
        if not out:
            return
        for answer in out:
            if type(answer) is not bytes:
                connection.flush()
                return
            size += PyBytes_GET_SIZE(answer)
        if size > self._join_max:
            connection.flush()
            return
        connection.out = []
        self._host.metrics.bytes_sent += size
        transport.write(out[0] if len(out) == 1 else b"".join(out))


@cython.cclass
class ReactorTransport:
    """The socket of one connection. Calls what asyncio's transports call, in the same order."""

    _reactor: Reactor
    _connection: object
    _socket: object
    _fd: cython.int
    _interest: cython.int
    _waiting: object
    _is_closing: cython.bint
    _is_over: cython.bint

    def __cinit__(self, reactor: Reactor, connected, connection):
        self._reactor = reactor
        self._socket = connected
        self._connection = connection
        self._fd = connected.fileno()
        self._interest = 0
        self._waiting = None

    @cython.cfunc
    def _watch(self, interest: cython.int):
        if interest == self._interest:
            return
        epoll = self._reactor._epoll
        if not interest:
            epoll.unregister(self._fd)
        elif self._interest:
            epoll.modify(self._fd, interest)
        else:
            epoll.register(self._fd, interest)
        self._interest = interest

    # -- sending

    def write(self, data):
        """Send, or keep what the kernel does not take."""
        view: Py_buffer
        sent: cython.Py_ssize_t
        if self._is_over:
            return
        if self._waiting is not None:
            self._waiting += data
            return
        if type(data) is bytes:
            if not PyBytes_GET_SIZE(data):
                return
            sent = write(self._fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if sent == PyBytes_GET_SIZE(data):
                return
        else:
            PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
            sent = write(self._fd, view.buf, view.len)
            PyBuffer_Release(cython.address(view))
            if sent == len(data):
                return
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self._drop(_os_error())
                return
            sent = 0
        self._waiting = bytearray(memoryview(data)[sent:])
        self._watch(self._interest | _OUT)
        self._connection.pause_writing()

    @cython.cfunc
    def _send_on(self):
        """The socket has room again."""
        view: Py_buffer
        sent: cython.Py_ssize_t
        PyObject_GetBuffer(self._waiting, cython.address(view), PyBUF_SIMPLE)
        sent = write(self._fd, view.buf, view.len)
        PyBuffer_Release(cython.address(view))
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self._drop(_os_error())
            return
        del self._waiting[:sent]
        if self._waiting:
            return
        self._waiting = None
        self._watch(self._interest & ~_OUT)
        self._connection.resume_writing()
        if self._is_closing:
            self._leave(None)

    def get_write_buffer_size(self):
        """Bytes that the kernel has not taken yet."""
        return 0 if self._waiting is None else len(self._waiting)

    def set_write_buffer_limits(self, high=None, low=None):
        """The connection is always told when the kernel does not take all, and when it has."""

    # -- receiving

    def pause_reading(self):
        """Receive nothing more for now."""
        if not self._is_closing:
            self._watch(self._interest & ~_IN)

    def resume_reading(self):
        """Receive again."""
        if not self._is_closing:
            self._watch(self._interest | _IN)

    # -- the end

    def is_closing(self):
        """Whether `close` or `abort` was called, or the connection broke."""
        return self._is_closing

    def close(self):
        """End the connection when what was written has gone."""
        if self._is_closing:
            return
        self._is_closing = True
        self._watch(self._interest & ~_IN)
        if self._waiting is None:
            self._leave(None)

    def abort(self):
        """End the connection at once."""
        self._drop(None)

    @cython.cfunc
    def _drop(self, error):
        self._waiting = None
        self._is_closing = True
        self._watch(0)
        self._leave(error)

    @cython.cfunc
    def _fail(self, error, action):
        """A part of ours has failed: say so and end the connection."""
        self._reactor._loop.call_exception_handler(
            {"message": f"Fatal error: {action} for a connection failed", "exception": error, "transport": self}
        )
        self._drop(error)

    @cython.cfunc
    def _leave(self, error):
        """Nothing more is to be sent or received: the connection hears of its end in a call of its own."""
        if not self._is_over:
            self._is_over = True
            self._reactor._loop.call_soon(self._end, error)

    def _end(self, error):
        connected, self._socket = self._socket, None
        if connected is None:
            return
        self._is_over = self._is_closing = True
        self._watch(0)
        del self._reactor._transports[self._fd]
        try:
            self._connection.connection_lost(error)
        finally:
            connected.close()

    def get_extra_info(self, name, default=None):
        """Return `socket`, `peername` or `sockname`."""
        connected = self._socket
        if connected is None:
            return default
        try:
            if name == "socket":
                return connected
            if name == "peername":
                return connected.getpeername()
            if name == "sockname":
                return connected.getsockname()
        except OSError:  # it is gone already
            pass
        return default


@cython.cfunc
def _os_error():
    number: cython.int = errno
    return OSError(number, os.strerror(number))
