"""What the error codes of a Produce answer mean for the batch: look for another leader, doubt, try again, begin anew.

Sources: Kafka's Java client (Sender, TransactionManager.canRetry); KIP-360.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from ottla.client._core.batch import Batch
    from ottla.client._core.sequences import Sequences

#: Another broker may do: look for the leader again.
STALE_METADATA: Final = frozenset(
    {
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.LISTENER_NOT_FOUND,
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.INCONSISTENT_TOPIC_ID,
    }
)
#: After these a batch may have been written all the same.
DOUBTFUL: Final = frozenset(
    {
        ErrorCode.NETWORK_EXCEPTION,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        ErrorCode.UNKNOWN_SERVER_ERROR,
        ErrorCode.KAFKA_STORAGE_ERROR,
    }
)
#: The broker takes no batch of this size.
TOO_LARGE: Final = (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.RECORD_LIST_TOO_LARGE)
#: The broker misses what it should have, or has forgotten the producer.
_FORGOTTEN: Final = (ErrorCode.UNKNOWN_PRODUCER_ID, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)


def is_retriable(
    batch: Batch, error: KafkaError, sequences: Sequences | None, *, log_start_offset: int, transactional: bool
) -> bool:
    """Return whether a batch may go out again after an error; have its sequence begun anew if that is needed.

    Args:
        sequences: of an idempotent producer.
        log_start_offset: that of the partition by the answer, -1 if it says none.
        transactional: the producer has a transactional id, so its epoch is raised by the coordinator.
    """
    if sequences is None or error.code not in _FORGOTTEN or not batch.has_sequence:
        return error.retriable
    queue = batch.queue
    if error.code == ErrorCode.UNKNOWN_PRODUCER_ID:
        if log_start_offset == -1 or batch.was_reset:
            return True
        if transactional:
            if queue.last_acked_offset >= log_start_offset:
                return False
            # Retention has deleted everything this producer wrote, and with it what the broker knew of it.
            sequences.restart(queue)
            return True
    elif not queue.unresolved and (batch.was_reset or not sequences.is_next(batch)):
        return True  # what is ahead of it comes first
    elif transactional:
        return False
    sequences.request_bump(batch)
    return True
