"""A small HTTP server in threads of its own, for what is no broker: the state of streams apps, Connect's REST interface.

Who uses it gives a function from a request to a response; it may be called in several threads. On a loopback address requests
for other host names are refused, so that a web page cannot ask through a name that it points there (DNS rebinding), and so
is what a browser sends for a page of another machine. A rim module: it stands on the standard library's server. The
broker's own pages are `network/http.py`, which shares the loop and the port with Kafka's protocol.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

logger = logging.getLogger(__name__)

#: A body may be no longer.
BODY_BYTES_MAX: Final = 8 << 20
#: Seconds after which a connection that says nothing is closed.
IDLE_S: Final = 30
#: Connections of one server at one time, each of which has a thread.
CONNECTIONS_MAX: Final = 128
_FULL_BODY: Final = b'{"error": "too many connections at one time: ask again"}'
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)
_LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRequest:
    """What came.

    Attributes:
        path: its parts, decoded: `/stores/a%2Fb` is `("stores", "a/b")`, `/` is `("",)`.
        query: the values of each name, in order.
        headers: names in any case.
    """

    method: str
    target: str
    path: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    headers: Message
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WebResponse:
    """What goes back. A body that is no text and no bytes is sent as JSON; None sends none."""

    status: int = 200
    body: Any = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> tuple[bytes, str | None]:
        """Return the body's bytes, and of which type they are."""
        match self.body:
            case None:
                return b"", self.content_type
            case bytes():
                return self.body, self.content_type
            case str():
                return self.body.encode(), self.content_type or "text/html; charset=utf-8"
        text = json.dumps(self.body, ensure_ascii=False, separators=(",", ":"))
        return text.encode(), self.content_type or "application/json"


Answer: TypeAlias = Callable[[WebRequest], WebResponse]


class WebServer:
    """Listens from the start; answers from `start()` on.

    Args:
        port: 0 is any free one.
        tls: makes it HTTPS.
        methods: what is answered; all else is 501.

    Attributes:
        endpoint: "host:port", with the port that it has.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        methods: Sequence[str] = ("GET",),
    ) -> None:
        self._is_closed = False
        self.answer: Answer = lambda request: WebResponse(status=503, body={"error": "not ready yet"})
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        family, address = found[0], str(found[4][0])

        class Server(_Server):
            address_family = family
            is_plain = tls is None

            def finish_request(self, request: Any, client_address: Any) -> None:
                """Runs in the connection's own thread: a client that is slow to agree on TLS holds up nobody else."""
                if tls is not None:
                    request.settimeout(IDLE_S)
                    request = tls.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)
                if tls is not None:
                    self.shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                logger.debug("the connection of %s ended", client_address, exc_info=True)

        class Handler(_Handler):
            web = self

        for method in (*methods, *(("HEAD",) if "GET" in methods else ())):
            setattr(Handler, f"do_{method}", _Handler.handle_request)
        self._server = Server((address, port), Handler)
        bound = str(self._server.server_address[0])
        self.is_loopback = ipaddress.ip_address(bound.partition("%")[0]).is_loopback
        self.host = host or bound
        self.scheme = "http" if tls is None else "https"
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.port: int = self._server.server_address[1]
        self.endpoint = f"{shown}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=name, daemon=True)

    def start(self, answer: Answer) -> None:
        """Answer from now on."""
        self.answer = answer
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Answer no more, on connections that are open either."""
        self._is_closed = True
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def is_named(self, host_header: str) -> bool:
        """Whether a Host header is one that this address may be asked by."""
        if not self.is_loopback:
            return True
        name = urlsplit(f"//{host_header}").hostname
        return name in _LOOPBACK_NAMES or name == self.host.lower()

    def is_of(self, origin: str | None) -> bool:
        """Whether an Origin header is that of a page which may ask here; programs send none."""
        return origin is None or self.is_named(urlsplit(origin).netloc)


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to a number: who comes after that is asked to try again."""

    daemon_threads = True
    is_plain = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            if self.is_plain:
                with suppress(OSError):
                    request.sendall(_FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


class _Handler(BaseHTTPRequestHandler):
    web: WebServer
    protocol_version = "HTTP/1.1"
    server_version = "ottla"
    sys_version = ""
    timeout = IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s: " + format, self.address_string(), *args)

    def handle_request(self) -> None:
        """Read the request, have it answered, send the answer."""
        try:
            is_ours = self.web.is_named(self.headers.get("Host", "")) and self.web.is_of(self.headers.get("Origin"))
        except ValueError:
            is_ours = False
        if not is_ours:
            self.close_connection = True
            self._send(WebResponse(status=403, body={"error": "this address is for programs on this machine"}))
            return
        if self.web.is_closed:
            self.close_connection = True
            self._send(WebResponse(status=503, body={"error": "this server is closed"}))
            return
        body = self._body()
        if body is None:
            return
        address = urlsplit(self.path)
        try:
            path = tuple(unquote(part, errors="strict") for part in address.path.split("/")[1:])
        except UnicodeDecodeError as error:
            self._send(WebResponse(status=400, body={"error": f"the address is not in UTF-8: {error}"}))
            return
        request = WebRequest(
            method=self.command,
            target=self.path,
            path=path,
            query=parse_qs(address.query, keep_blank_values=True),
            headers=self.headers,
            body=body,
        )
        try:
            response = self.web.answer(request)
        except Exception as error:
            logger.warning("%s %s was not answered", self.command, address.path, exc_info=True)
            response = WebResponse(status=500, body={"error": f"{type(error).__name__}: {error}"})
        self._send(response)

    def _body(self) -> bytes | None:
        """Return the body; None if it was refused."""
        if self.headers.get("Transfer-Encoding") is not None:
            self._refuse(411, "a body needs a Content-Length")
            return None
        try:
            size = int(self.headers.get("Content-Length", 0))
        except ValueError:
            size = -1
        if size < 0:
            self._refuse(400, "the Content-Length is no number")
            return None
        if size > BODY_BYTES_MAX:
            self._refuse(413, f"a body may have {BODY_BYTES_MAX} bytes")
            return None
        return self.rfile.read(size)

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True  # the body was not read
        self._send(WebResponse(status=status, body={"error": text}))

    def _send(self, response: WebResponse) -> None:
        data, kind = response.data()
        self.send_response(response.status)
        if kind is not None and data:
            self.send_header("Content-Type", kind)
        if response.status != 204:
            self.send_header("Content-Length", str(len(data)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
