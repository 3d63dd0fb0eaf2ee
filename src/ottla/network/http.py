"""The few plain HTTP answers of the broker's port: GET and HEAD, nothing that changes anything.

Decides bytes from bytes and a given time; knows no sockets. Written plainly because importing a framework would
stall the broker's loop for a fifth of a second. RFC 9112 as far as it goes: HTTP/1.0 and 1.1, keep-alive, pipelining
in order, no request bodies. The Host header is checked, so that a web page cannot read the broker through a name of its
own that it points at this address (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import ip_address
from typing import Any, TypeAlias

HEAD_BYTES_MAX = 16 * 1024
HEAD_SECONDS_MAX = 15.0
KEEP_ALIVE_SECONDS = 75.0
SLICE = 64 * 1024
"""A long answer is built in slices of about this size, one per turn of the loop."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
_PRIVATE_SUFFIXES = (".localhost", ".internal", ".local", ".test", ".home.arpa")


OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What is answered to everybody, in one word."""


class Verdict(Enum):
    """What becomes of a request for a page of a listener whose Kafka clients have to log in."""

    COME_IN = auto()
    WHO_ARE_YOU = auto()
    FORBIDDEN = auto()
    BUSY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """An answer; a body given as an iterable is drawn from slice by slice, so that it may be long.

    An empty slice returns to the loop at once.
    """

    body: bytes | Iterable[bytes]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


class LaterResponse:
    """An answer that is not known yet: who makes it calls `resolve` once."""

    __slots__ = ("response", "wake")

    def __init__(self) -> None:
        self.response: HttpResponse | None = None
        #: Called when the answer is known.
        self.wake: Callable[[], None] = lambda: None

    def resolve(self, response: HttpResponse) -> None:
        """Say what the answer is."""
        self.response = response
        self.wake()


Handler: TypeAlias = Callable[[str], HttpResponse | LaterResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSite:
    """What is served.

    Attributes:
        handler: path, without its query -> answer.
        handlers: by local port, what answers there in the place of `handler`.
        hosts: lower-case names this broker is known by besides localhost and plain addresses (those of the listeners
            and the advertised ones).
        on_error: told about an exception of the handler.
        may_see: whether the pages are for the client of a connection; None: they are for all.
        strangers_handler: answers `OPEN_PATHS` in the place of `handler` on listeners whose Kafka clients have to log in, and
            everything to a client that may not see the pages.
        login: where it is set each request for another path is decided about first: it is given the connection, the
            Authorization header, and what it has to call with its verdict, at once or later.
    """

    handler: Handler
    handlers: Mapping[int, Handler] = field(default_factory=dict)
    hosts: frozenset[str] = frozenset()
    on_error: Callable[[str, Exception], None] = lambda path, error: None
    may_see: Callable[[Any], bool] | None = None
    strangers_handler: Callable[[str], HttpResponse] = lambda path: HttpResponse(status=403, body=b"")
    login: Callable[[Any, str, Callable[[Verdict], None]], None] | None = None


def host_is_ours(host: str, local_host: str, names: frozenset[str]) -> bool:
    """Whether a Host header names this broker, and not a stranger's domain pointed at its address.

    Addresses are safe: rebinding needs a name. Where the client came over a real network, names that no stranger can register
    publicly (one label as in a compose file, `.internal` ...) are accepted too; over loopback only `localhost` and
    configured names are, because there a web page in a local browser is the attacker to think of.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower().rstrip(".")
    if name == "localhost" or name in names or name.strip("[]") in names:
        return True
    try:
        ip_address(name.strip("[]"))
        return True
    except ValueError:
        pass
    try:
        loopback = ip_address(local_host.partition("%")[0]).is_loopback
    except ValueError:
        loopback = True
    return not loopback and ("." not in name or name.endswith(_PRIVATE_SUFFIXES))


class HttpConversation:
    """One connection that turned out to speak HTTP: bytes in by `receive`, bytes out by `step`."""

    __slots__ = (
        "_asks",
        "_chunks",
        "_handler",
        "_head_only",
        "_input",
        "_keep",
        "_later",
        "_local_host",
        "_minor",
        "_path",
        "_port",
        "_response",
        "_since",
        "_site",
        "_slices",
        "_verdict",
        "_waits",
        "finished",
        "owner",
        "wake",
    )  # fmt: skip

    def __init__(self, site: HttpSite, local_host: str, local_port: int, now: float) -> None:
        self._site = site
        self._local_host = local_host
        self._port = local_port
        self._handler = site.handlers.get(local_port, site.handler)
        self._later: LaterResponse | None = None
        self._input = bytearray()
        self._since = now
        self._slices: Iterator[bytes] | None = None
        self._chunks: list[bytes] = []
        self._response: HttpResponse | None = None
        self._head_only = False
        self._keep = True
        self._minor = 1
        self._path = ""
        self._asks = False
        self._waits = False
        self._verdict: Verdict | None = None
        self.finished: bool = False
        #: The connection, for whom `HttpSite.login` decides, and what is called when it has decided later.
        self.owner: Any = None
        self.wake: Callable[[], None] = lambda: None

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer; far more than a head is never kept."""
        if not self.finished and len(self._input) <= HEAD_BYTES_MAX:
            self._input += data

    def overdue(self, now: float) -> str | None:
        """Why the connection should end, if it has taken too long."""
        waited = now - self._since
        if self._input and self._slices is None and waited > HEAD_SECONDS_MAX:
            return f"an HTTP request has not arrived whole in {waited:.0f} s"
        return "" if waited > KEEP_ALIVE_SECONDS else None

    def abandon(self) -> None:
        """The peer has gone: stop building an answer."""
        self._slices = None
        self._later = None
        self.finished = True

    def step(self, now: float) -> bytes | None:
        """The next whole answer; b"" if one is still being built (call again later); None if there is nothing to do."""
        if self._slices is not None:
            return self._build(now)
        if self.finished or (self._waits and self._verdict is None):
            return None
        if self._waits:
            return self._go_on(now)
        if self._later is not None:
            return self._take_later(self._later, now)
        head = self._take_head()
        if head is None:
            if len(self._input) > HEAD_BYTES_MAX:
                return self._refuse(431, f"The head of a request is limited to {HEAD_BYTES_MAX} bytes.")
            return None
        self._since = now
        return self._answer(head, now)

    def _take_head(self) -> bytes | None:
        while self._input[:2] == b"\r\n":  # RFC 9112 2.2: ignore empty lines before a request
            del self._input[:2]
        end = self._input.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX + 4)
        if end < 0:
            return None
        head = bytes(self._input[:end])
        del self._input[: end + 4]
        return head

    def _answer(self, head: bytes, now: float) -> bytes | None:
        request_line, *lines = head.split(b"\r\n")
        parts = request_line.split(b" ")
        if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
            return self._refuse(400, "This is no HTTP request.")
        method, target, version = parts
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            return self._refuse(505 if version.startswith(b"HTTP/") else 400, "HTTP/1.0 and HTTP/1.1 are spoken here.")
        self._minor = version[-1] - 0x30
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name):
                return self._refuse(400, "A header line is malformed.")
            key = name.decode("ascii").lower()
            text = value.strip(b" \t").decode("latin-1")
            if key == "host" and key in headers:
                return self._refuse(400, "There must be one Host header.")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self._head_only = method == b"HEAD"
        options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
        self._keep = "close" not in options if self._minor else "keep-alive" in options
        if "transfer-encoding" in headers or headers.get("content-length", "0").strip("0"):
            return self._refuse(413, "Requests with a body are not taken here.")
        host = headers.get("host")
        if target[:1] != b"/" and target.lower().startswith(b"http://"):  # absolute form: its host counts
            host, _, path = target[7:].decode("ascii").partition("/")
            target = b"/" + path.encode()
        if host is None and self._minor:
            return self._refuse(400, "HTTP/1.1 needs a Host header.")
        if host is not None and not host_is_ours(host, self._local_host, self._site.hosts):
            return self._refuse(
                421,
                "This broker is not known by the name in the Host header, so it does not answer "
                f"(protection against DNS rebinding). Use http://localhost:{self._port}/ or the address of the host, "
                "or start the broker with --advertise NAME:PORT.",
            )
        if method not in (b"GET", b"HEAD"):
            return self._refuse(405, "Only GET and HEAD: nothing can be changed through this port.")
        if target[:1] != b"/":
            return self._refuse(400, "The request target is no path.")
        self._path = target.partition(b"?")[0].partition(b"#")[0].decode("ascii")
        login = self._site.login
        if login is None:
            return self._serve(self._handler, now)
        if self._path in OPEN_PATHS:
            return self._serve(self._site.strangers_handler, now)
        self._waits, self._asks = True, True
        login(self.owner, headers.get("authorization", ""), self._decide)
        self._asks = False
        return None if self._verdict is None else self._go_on(now)

    def _decide(self, verdict: Verdict) -> None:
        """What `HttpSite.login` calls, once for each request."""
        self._verdict = verdict
        if not self.finished and not self._asks:  # decided at once, it is answered at once
            self.wake()

    def _go_on(self, now: float) -> bytes | None:
        """Answer a request that has been decided about."""
        verdict, self._verdict, self._waits = self._verdict, None, False
        self._since = now
        if verdict is Verdict.COME_IN:
            return self._serve(self._handler, now)
        if verdict is Verdict.WHO_ARE_YOU:
            return self._refuse(
                401, "Pages are for users that log in (Basic or Bearer); /healthz and /readyz are open."
            )
        if verdict is Verdict.BUSY:
            return self._refuse(503, "Too many logins at once; try again.")
        return self._serve(self._site.strangers_handler, now)

    def _serve(self, handler: Handler, now: float) -> bytes | None:
        try:
            response = handler(self._path)
        except Exception as error:
            return self._failed(error)
        if isinstance(response, LaterResponse):
            self._later = response
            if response.response is None:
                response.wake = self._on_later
                return None
            return self._take_later(response, now)
        return self._begin(response, now)

    def _on_later(self) -> None:
        if not self.finished:
            self.wake()

    def _take_later(self, later: LaterResponse, now: float) -> bytes | None:
        """Begin with an answer that had to be waited for, if it is known."""
        if later.response is None:
            return None
        self._later = None
        return self._begin(later.response, now)

    def _begin(self, response: HttpResponse, now: float) -> bytes:
        if isinstance(response.body, bytes):
            return self._render(response, response.body)
        self._response = response
        self._slices = iter(response.body)
        return self._build(now)

    def _build(self, now: float) -> bytes:
        """Draw one slice of a long answer."""
        slices, response = self._slices, self._response
        assert slices is not None
        assert response is not None
        self._since = now
        size = 0
        try:
            for chunk in slices:
                self._chunks.append(chunk)
                size += len(chunk)
                if not chunk or size >= SLICE:
                    return b""
        except Exception as error:
            return self._failed(error)
        body = b"".join(self._chunks)
        self._slices, self._chunks, self._response = None, [], None
        return self._render(response, body)

    def _failed(self, error: Exception) -> bytes:
        self._slices, self._chunks, self._response = None, [], None
        self._site.on_error(self._path, error)
        return self._refuse(500, "The answer could not be made; the broker's log says why.")

    def _refuse(self, status: int, text: str) -> bytes:
        self._keep = False
        return self._render(HttpResponse(status=status, body=b""), f"{text}\n".encode())

    def _render(self, response: HttpResponse, body: bytes) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Status')}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "X-Frame-Options: DENY",
            "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ]
        if response.status == 401:
            lines.append('WWW-Authenticate: Basic realm="ottla", charset="UTF-8"')
            lines.append('WWW-Authenticate: Bearer realm="ottla"')
        if response.status == 405:
            lines.append("Allow: GET, HEAD")
        if not self._keep:
            lines.append("Connection: close")
            self.finished = True
            self._input.clear()
        elif not self._minor:
            lines.append("Connection: keep-alive")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        return head if self._head_only else head + body
