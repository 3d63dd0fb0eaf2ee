"""Which error a client gets when an operation of a coordinator failed.

What goes wrong underneath - the internal topic lacks replicas, has moved, its disk is full - means nothing to a client of a
group: it is translated to "ask again" or "look the coordinator up again", as Apache Kafka does.
"""

from __future__ import annotations

from ottla.errors import ErrorCode, KafkaError


def client_error_code(error: KafkaError) -> ErrorCode:
    """Return the code for a client's answer."""
    match error.code:
        case ErrorCode.NETWORK_EXCEPTION:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        case (
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode.NOT_ENOUGH_REPLICAS
            | ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | ErrorCode.REQUEST_TIMED_OUT
        ):
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        case ErrorCode.NOT_LEADER_OR_FOLLOWER | ErrorCode.KAFKA_STORAGE_ERROR:
            return ErrorCode.NOT_COORDINATOR
        case ErrorCode.MESSAGE_TOO_LARGE | ErrorCode.RECORD_LIST_TOO_LARGE | ErrorCode.INVALID_FETCH_SIZE:
            return ErrorCode.UNKNOWN_SERVER_ERROR
        case code:
            return code
