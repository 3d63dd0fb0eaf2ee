"""What a core asks its shell to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ottla.client._core.connections import Connect, Disconnect
from ottla.protocol.api import ApiKey
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    from ottla.client._core.batch import Batch

FOREVER: Final = float("inf")


class Send:
    """What the shell is to do: build the message, send it in this version, report the answer or the failure.

    Attributes:
        answered: False for Produce with acks=0: report `on_sent_unanswered` instead.
        purpose: what it is for; the core knows the answer by it.
        context: what the core wants to find again with the answer.
        names: of the topics in a Produce or Fetch request, by id.
        on_answer, on_failure: the part of the core that the answer goes to, or the reason why there is none.
    """

    __slots__ = (
        "answered",
        "batches",
        "build",
        "context",
        "generation",
        "key",
        "names",
        "node_id",
        "on_answer",
        "on_failure",
        "purpose",
        "sent_ms",
        "timeout_ms",
        "version",
    )

    def __init__(
        self,
        purpose: str,
        node_id: int,
        key: ApiKey,
        version: int,
        build: Callable[[int], Message],
        *,
        timeout_ms: float,
        answered: bool = True,
        batches: Sequence[Batch] = (),
        names: Mapping[bytes, str] | None = None,
        context: object = None,
    ) -> None:
        self.purpose: str = purpose
        self.node_id: int = node_id
        self.key: ApiKey = key
        self.version: int = version
        self.build: Callable[[int], Message] = build
        self.timeout_ms: float = timeout_ms
        self.answered: bool = answered
        self.batches: Sequence[Batch] = batches
        self.names: Mapping[bytes, str] = names or {}
        self.context: object = context
        self.sent_ms: float = 0.0
        self.generation: int = 0
        self.on_answer: Callable[[Send, Message, float], None] | None = None
        self.on_failure: Callable[[Send, Exception, float], None] | None = None


Action = Send | Connect | Disconnect
