"""What dispatch and handlers share: the session of a connection, the context of a request, the route of an API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, NamedTuple, Protocol

from ottla.file_region import Sendable
from ottla.protocol.api import ApiKey

#: The principal of a client that has not authenticated.
ANONYMOUS = "User:ANONYMOUS"


class ClientSoftware(NamedTuple):
    """What a client called itself in ApiVersions (KIP-511)."""

    name: str
    version: str


class Guard(Protocol):
    """Stands before the requests of one session that may not just be handled: a login that is not finished, an expiry."""

    def take(self, session: Session, frame: memoryview) -> Any:
        """Return the reply to a frame (see `network.connection.Reply`), or `PASS`: it is to be handled as any other.

        Raises:
            RemoteProtocolError: the connection is to be closed.
        """


class _Pass:
    """What a guard answers that lets a request through."""

    __slots__ = ()


PASS: Final = _Pass()


class Session:
    """What the broker knows of the client at the other end of one connection, from its first request until it ends.

    Only what authenticates a client sets its principal and takes its guard away; handlers read them.

    Attributes:
        listener: name of the listener that accepted the connection.
        security_protocol: what that listener speaks: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        client_host, client_port: the client's address.
        local_host, local_port: the address of this broker that the client used; with `advertised.listeners=auto` it is what
            the broker answers when the client asks for its address.
        local_name: the name that it answers instead: the one the client asked for in TLS, where the certificate is for it.
        principal: on whose behalf requests are handled.
        is_by_token: whether the client has logged in with a delegation token.
        software: what the client called itself, if it did.
        rights: what was decided about this client under the access rules in force (`authorization.py`).
        quotas: whose limits count for it (`quotas/client_quotas.py`).
        guard: sees every frame of this connection before anything else does; None where any request may be handled.
    """

    __slots__ = (
        "_at_end",
        "client_host",
        "client_port",
        "guard",
        "is_by_token",
        "listener",
        "local_host",
        "local_name",
        "local_port",
        "principal",
        "quotas",
        "rights",
        "security_protocol",
        "software",
    )

    def __init__(
        self,
        *,
        listener: str,
        client_host: str,
        client_port: int = 0,
        local_host: str = "",
        local_port: int = 0,
        security_protocol: str = "PLAINTEXT",
    ) -> None:
        self.listener = listener
        self.security_protocol = security_protocol
        self.client_host = client_host
        self.client_port = client_port
        self.local_host = local_host
        self.local_port = local_port
        self.local_name: str | None = None
        self.principal = ANONYMOUS
        self.is_by_token = False
        self.software: ClientSoftware | None = None
        self.guard: Guard | None = None
        self.rights: Any = None
        self.quotas: Any = None
        self._at_end: list[Callable[[], None]] = []

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the connection has ended."""
        self._at_end.append(callback)

    def end(self) -> None:
        """The connection has ended."""
        callbacks, self._at_end = self._at_end, []
        for callback in callbacks:
            callback()


class RequestContext(NamedTuple):
    """Everything about a request but its body."""

    api_key: ApiKey
    version: int
    correlation_id: int
    client_id: str | None
    session: Session


#: Answers one request with a message or its encoded body, with something to await, or with None where the protocol has no
#: answer (acks=0).
Handler = Callable[[RequestContext, Any], Any | Awaitable[Any]]


class BodyToCome(Protocol):
    """The body of an answer, encoded or not, when it is time to give it.

    Attributes:
        is_prompt: whether it is given from a callback of the loop, never within the handling of a frame; then it goes out in
            that call, and is abandoned with the connection.
    """

    is_prompt: bool

    def then(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with the body, once, later."""
        ...

    def abandon(self) -> None:
        """The connection has ended before that: for APIs whose work ends with it (`Route.ends_with_connection`)."""
        ...


class PartialResult:
    """What a short cut has done of a request before it left the rest to `ShortCut.finish`, which alone reads it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ShortCut:
    """Answers ordinary requests of one API from their bytes, without decoding them.

    Attributes:
        handle_frame: takes a frame (header included, size not), its version and the session; returns the encoded body (in
            one piece, or in several of which the first is short bytes), at once or to come. None: nothing has been done, the
            request is to be decoded and given to the route's handler.
        finish: a handler that also takes the `PartialResult` of `handle_frame` and does the rest, at once: nothing else is
            handled in between. None: `handle_frame` does all or nothing.
    """

    handle_frame: Callable[
        [memoryview, int, Session], bytes | list[Sendable] | asyncio.Future[bytes] | BodyToCome | PartialResult | None
    ]
    finish: Callable[[RequestContext, Any, Any], Any | Awaitable[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """How the requests of one API are answered.

    Attributes:
        handler: answers a decoded request.
        short_cut: what is tried before the request is decoded.
        ends_with_connection: whether the work for an answer that comes later is cancelled when the connection ends. For
            APIs that only read; what others have begun (a topic, a commit) is finished.
        keeps_order: says of a request whose answer comes later whether the connection's next one may be handled before that
            answer and still have its effect afterwards. Without it the next request always waits.
        for_controller: only the controller can do it: another broker passes the request on.
    """

    handler: Handler
    _: KW_ONLY
    short_cut: ShortCut | None = None
    ends_with_connection: bool = False
    keeps_order: Callable[[Any], bool] | None = None
    for_controller: bool = False


#: The routes of the APIs that one family of handlers answers.
Routes = dict[ApiKey, Route]
