"""Thousands of connections from one process, for benchmarks that need many clients and do not measure them.

A frame is encoded once and sent as often as wanted: every request has correlation id 0, and answers are told apart by
their order, which the protocol guarantees for each connection. What is not decoded costs next to nothing.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar, cast

from ottla.protocol.api import APIS, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.schema import Message

_SIZE = struct.Struct(">i")
_RECEIVE_SIZE = 1 << 18
#: Requests sent between two looks at what has come back.
_BURST = 50

M = TypeVar("M", bound=Message)

#: Takes an answer: header and body, without the size.
OnAnswer = Callable[[bytes], None]


def frame(request: Message, version: int) -> bytes:
    """Return a request as it goes over the wire."""
    key = ApiKey(cast(int, request.API_KEY))
    header = RequestHeader(
        request_api_key=key, request_api_version=version, correlation_id=0, client_id="ottla-benchmark"
    )
    body = encode(header, request_header_version(key, version)) + encode(request, version)
    return _SIZE.pack(len(body)) + body


def answer(body: bytes, request: type[Message], version: int, kind: type[M]) -> M:
    """Decode an answer to a `request`."""
    key = ApiKey(cast(int, request.API_KEY))
    _, position = decode(ResponseHeader, response_header_version(key, version), body)
    response, _ = decode(APIS[key].response_class(), version, body, position)
    assert isinstance(response, kind)
    return response


class Line:
    """One connection."""

    __slots__ = ("_received", "_unsent", "socket", "waiting")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        #: Who waits for an answer, in the order of the requests.
        self.waiting: deque[OnAnswer] = deque()
        self._received = b""
        self._unsent = b""

    def send(self, data: bytes) -> bool:
        """Send; returns whether everything is with the kernel."""
        data = self._unsent + data
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]
        return not self._unsent

    def receive(self) -> int:
        """Hand on the answers that have come; returns how many.

        Raises:
            ConnectionError: the broker has closed the connection.
        """
        part = self.socket.recv(_RECEIVE_SIZE)
        if not part:
            raise ConnectionResetError("the broker closed the connection")
        data = self._received + part if self._received else part
        position = count = 0
        while len(data) - position >= 4:
            end = position + 4 + _SIZE.unpack_from(data, position)[0]
            if end > len(data):
                break
            self.waiting.popleft()(data[position + 4 : end])
            count += 1
            position = end
        self._received = data[position:]
        return count


class Swarm:
    """Connections to one broker."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._owed = 0

    def open(self, count: int) -> list[Line]:
        """Open connections."""
        lines = [Line(self._port) for _ in range(count)]
        for line in lines:
            self._lines[line.socket.fileno()] = line
            self._poll.register(line.socket.fileno(), select.EPOLLIN)
        return lines

    def close(self) -> None:
        """Close every connection."""
        for line in self._lines.values():
            line.socket.close()
        self._lines.clear()
        self._poll.close()

    def send(self, line: Line, data: bytes, on_answer: OnAnswer) -> None:
        """Send one request."""
        line.waiting.append(on_answer)
        self._owed += 1
        if not line.send(data):
            self._poll.modify(line.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def turn(self, timeout_s: float) -> None:
        """Take what has come, waiting for at most this long."""
        for number, events in self._poll.poll(timeout_s, 1024):
            line = self._lines[number]
            if events & select.EPOLLOUT and line.send(b""):
                self._poll.modify(number, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                self._owed -= line.receive()

    def send_all(self, requests: Iterable[tuple[Line, bytes, OnAnswer]]) -> None:
        """Send requests as fast as possible."""
        for number, (line, data, on_answer) in enumerate(requests):
            self.send(line, data, on_answer)
            if number % _BURST == 0:
                self.turn(0)

    def wait(self, timeout_s: float = 120.0) -> None:
        """Wait until nothing is owed.

        Raises:
            TimeoutError: something still is.
        """
        deadline = time.monotonic() + timeout_s
        while self._owed:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._owed} answers did not come")
            self.turn(1.0)

    def ask(self, line: Line, request: Message, version: int, kind: type[M]) -> M:
        """Send one request and wait for its answer."""
        bodies: list[bytes] = []
        self.send(line, frame(request, version), bodies.append)
        self.wait()
        return answer(bodies[0], type(request), version, kind)

    def pace(self, sends: Sequence[Callable[[], None]], seconds: float) -> None:
        """Call each of `sends` once, evenly spread over this time, and wait until it is over."""
        began = time.perf_counter()
        for number, send in enumerate(sends):
            due = began + number * seconds / len(sends)
            while (left := due - time.perf_counter()) > 0:
                self.turn(left)
            send()
            if number % _BURST == 0:
                self.turn(0)
        while (left := began + seconds - time.perf_counter()) > 0:
            self.turn(left)
