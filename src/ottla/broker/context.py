"""RequestContext: everything about a request but its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ottla.protocol.api import ApiKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
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


#: Answers one request with a message, with something to await, or with None where the protocol has no answer (acks=0).
Handler = Callable[[RequestContext, Any], Any | Awaitable[Any]]
