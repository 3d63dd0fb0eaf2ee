"""RequestContext: everything about a request but its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
