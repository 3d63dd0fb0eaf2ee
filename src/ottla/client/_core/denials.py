"""What an answer that says "not authorized" is about: brokers name neither the operation nor the resource.

The operation is that of the ACL which is missing, in Kafka's words (`READ on topic 'orders'`), so that it can be added.
"""

from __future__ import annotations

from typing import Final

from ottla.errors import ErrorCode, KafkaError, error_for

#: The kind of resource, by code.
_KINDS: Final = {
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: "topic",
    ErrorCode.GROUP_AUTHORIZATION_FAILED: "group",
    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: "cluster",
}
#: The codes of such answers.
DENIED: Final = frozenset(_KINDS)


def error_of(
    code: int,
    message: str | None = None,
    *,
    topic: tuple[str, str] | None = None,
    group: tuple[str, str] | None = None,
    transactional_id: str | None = None,
) -> KafkaError:
    """Return the error of a code.

    Args:
        message: what the broker says, if anything.
        topic, group: (the operation that was asked for, the name).
        transactional_id: it was to be written under.
    """
    asked: tuple[str, str] | None = None
    match code:
        case ErrorCode.TOPIC_AUTHORIZATION_FAILED:
            asked = topic
        case ErrorCode.GROUP_AUTHORIZATION_FAILED:
            asked = group
        case ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED if transactional_id is not None:
            asked = "WRITE", transactional_id
    if asked is None:
        return error_for(code, message or None)
    operation, name = asked
    return error_for(code, f"Not authorized: {operation} on {_KINDS[ErrorCode(code)]} {name!r}.")
