"""RequestContext: everything about a request but its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ottla.protocol.api import ApiKey


class ClientSoftware(NamedTuple):
    """What a client called itself in ApiVersions (KIP-511)."""

    name: str
    version: str


class RequestContext(NamedTuple):
    """Who asks what, and from where.

    Attributes:
        local_host, local_port: the address of this broker that the client used; with `advertised.listeners=auto` it is what
            the client is told to use again.
        connection: identity of the connection, for what lives as long as it does.
    """

    api_key: ApiKey
    version: int
    correlation_id: int
    client_id: str | None
    principal: str
    listener: str
    client_host: str
    local_host: str
    local_port: int
    connection: object

    @property
    def client_port(self) -> int:
        """The port the client comes from; 0 if nobody knows."""
        return getattr(self.connection, "peer_port", 0)

    @property
    def client_software(self) -> ClientSoftware | None:
        """What the client called itself on this connection, if it did."""
        known = getattr(self.connection, "session", None)
        return known if isinstance(known, ClientSoftware) else None


#: Answers one request with a message or its encoded body, with something to await, or with None where the protocol has no
#: answer (acks=0).
Handler = Callable[[RequestContext, Any], Any | Awaitable[Any]]


class BodyToCome(Protocol):
    """The encoded body of an answer to a request that has been carried out, when it is safe to give it."""

    def then(self, tell: Callable[[bytes], None]) -> None:
        """Have `tell` called with it, once, later."""
        ...


class PartialResult:
    """What a short cut has done of a request before it left the rest to `ShortCut.finish`, which alone reads it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ShortCut:
    """Answers ordinary requests of one API from their bytes, without decoding them.

    Attributes:
        handle_frame: takes a frame (header included, size not) and its version; returns the encoded body, at once or to come.
            None: nothing has been done, the request is to be decoded and given to the API's handler.
        finish: a handler that also takes the `PartialResult` of `handle_frame` and does the rest, at once: nothing else is
            handled in between.
    """

    handle_frame: Callable[[memoryview, int], bytes | BodyToCome | PartialResult | None]
    finish: Callable[[RequestContext, Any, Any], Any | Awaitable[Any]]
