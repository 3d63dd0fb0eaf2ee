"""What guards share: putting refusals into an answer that comes now or later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from ottla.errors import ErrorCode
from ottla.protocol.api import APIS
from ottla.protocol.codec import decode
from ottla.security.acls import Operation

if TYPE_CHECKING:
    from ottla.broker.authorization import Authorizer
    from ottla.broker.context import RequestContext, Session
    from ottla.cluster.image import ClusterImage

READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE = (
    Operation.READ,
    Operation.WRITE,
    Operation.CREATE,
    Operation.DELETE,
    Operation.ALTER,
    Operation.DESCRIBE,
)
CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS = (
    Operation.CLUSTER_ACTION,
    Operation.DESCRIBE_CONFIGS,
    Operation.ALTER_CONFIGS,
)

TOPIC_DENIED = ErrorCode.TOPIC_AUTHORIZATION_FAILED
GROUP_DENIED = ErrorCode.GROUP_AUTHORIZATION_FAILED
CLUSTER_DENIED = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
TRANSACTIONAL_ID_DENIED = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
#: Kafka's sentences.
SENTENCES = {
    TOPIC_DENIED: "Topic authorization failed.",
    GROUP_DENIED: "Group authorization failed.",
    CLUSTER_DENIED: "Cluster authorization failed.",
    TRANSACTIONAL_ID_DENIED: "Transactional Id authorization failed.",
}

Proceed = Callable[[Any], Any]
"""Calls the handler with what is left of a request; returns what the handler returns."""


class Around(Protocol):
    """What guards look at besides the request.

    Attributes:
        authorizer: decides.
    """

    @property
    def authorizer(self) -> Authorizer: ...

    @property
    def auto_creates_topics(self) -> bool: ...

    def image(self) -> ClusterImage: ...


Guard = Callable[[Around, "RequestContext", Any, Proceed], Any]


def then(context: RequestContext, answer: Any, finish: Callable[[Any], Any]) -> Any:
    """Return what `finish` makes of an answer, now or when it comes; None stays None, encoded ones are decoded first."""
    if isinstance(answer, Awaitable):
        return _later(context, answer, finish)
    if answer is None:
        return None
    if isinstance(answer, bytes):
        answer, _ = decode(APIS[context.api_key].response_class(), context.version, answer)
    return finish(answer)


async def _later(context: RequestContext, answer: Awaitable[Any], finish: Callable[[Any], Any]) -> Any:
    return then(context, await answer, finish)


def name_of(around: Around, name: str | None, topic_id: bytes) -> str | None:
    """Return the name of a topic that a request names, or identifies; None if no topic has the id."""
    return name if name else around.image().topic_names.get(topic_id)


def may_topic(around: Around, session: Session, operation: Operation, name: str | None) -> bool:
    """Return whether a topic may be handed on: also one that no id stands for, about which the handler says so."""
    from ottla.broker.authorization import TOPIC

    return name is None or around.authorizer.allows(session, operation, TOPIC, name)


def split(
    around: Around, session: Session, operation: Operation, topics: list[Any], *, by: str = "name"
) -> tuple[list[Any], list[Any]]:
    """Divide topics of a request into those that may be touched and those that may not."""
    allowed: list[Any] = []
    denied: list[Any] = []
    for topic in topics:
        name = name_of(around, getattr(topic, by), getattr(topic, "topic_id", b""))
        (allowed if may_topic(around, session, operation, name) else denied).append(topic)
    return allowed, denied
