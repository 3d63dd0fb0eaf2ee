"""Records of `__transaction_state`: built, encoded, decoded.

Key: int16 record type 0 and the transactional id. Value: int16 version and the state; no value is a tombstone. Version 1
(flexible) is written from transaction.version 1 on. Version 0, of Kafka before 3.9, lacks what transactions of newer clients
need; what cannot do without that is written in version 1 at every level. Kafka's kafka-dump-log reads both, with
`--transaction-log-decoder`.
"""

from __future__ import annotations

from typing import Final

from ottla.broker.coordinators.record_codec import RecordCodec
from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.broker.coordinators.transactions.state import NO_EPOCH, NO_PRODUCER_ID, Transaction, TransactionState
from ottla.protocol.messages.transaction_records import PartitionsSchema, TransactionLogKey, TransactionLogValue
from ottla.types import TopicPartition

PLAIN_VERSION: Final = 0
FLEXIBLE_VERSION: Final = 1
_CODEC: Final = RecordCodec({0: (TransactionLogKey, TransactionLogValue)})
encode = _CODEC.encode
decode = _CODEC.decode


class LiveTransactionLogValue(TransactionLogValue):
    """A value that was decided here, with what the record has no room for."""

    __slots__ = ("last_producer_epoch",)
    last_producer_epoch: int


def transaction(state: Transaction, level: int) -> CoordinatorRecord:
    """Return the record of a transactional id, written at this level of transaction.version."""
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(state.partitions):
        by_topic.setdefault(topic, []).append(partition)
    value = LiveTransactionLogValue(
        producer_id=state.producer_id,
        previous_producer_id=state.previous_producer_id,
        next_producer_id=state.next_producer_id,
        producer_epoch=state.producer_epoch,
        transaction_timeout_ms=state.timeout_ms,
        transaction_status=state.state,
        transaction_partitions=None
        if state.state is TransactionState.EMPTY
        else [PartitionsSchema(topic=topic, partition_ids=ids) for topic, ids in by_topic.items()],
        transaction_last_update_timestamp_ms=state.updated_ms,
        transaction_start_timestamp_ms=state.started_ms,
        client_transaction_version=state.client_version,
    )
    value.last_producer_epoch = state.last_producer_epoch
    version = PLAIN_VERSION if level < 1 and _fits_plain(state) else FLEXIBLE_VERSION
    if version == PLAIN_VERSION:
        value.previous_producer_id = NO_PRODUCER_ID
    return CoordinatorRecord(TransactionLogKey(transactional_id=state.transactional_id), value, version)


def _fits_plain(state: Transaction) -> bool:
    has_one_id = state.previous_producer_id in (NO_PRODUCER_ID, state.producer_id)
    return has_one_id and state.next_producer_id == NO_PRODUCER_ID and state.client_version == 0


def tombstone(transactional_id: str) -> CoordinatorRecord:
    """Return the record that takes a transactional id away."""
    return CoordinatorRecord(TransactionLogKey(transactional_id=transactional_id), None)


def to_transaction(transactional_id: str, value: TransactionLogValue, record_offset: int = -1) -> Transaction:
    """Return the state that a record describes."""
    return Transaction(
        transactional_id=transactional_id,
        producer_id=value.producer_id,
        producer_epoch=value.producer_epoch,
        previous_producer_id=value.previous_producer_id,
        next_producer_id=value.next_producer_id,
        last_producer_epoch=value.last_producer_epoch if isinstance(value, LiveTransactionLogValue) else NO_EPOCH,
        timeout_ms=value.transaction_timeout_ms,
        state=TransactionState(value.transaction_status),
        partitions=frozenset(
            TopicPartition(part.topic, index)
            for part in value.transaction_partitions or ()
            for index in part.partition_ids
        ),
        started_ms=value.transaction_start_timestamp_ms,
        updated_ms=value.transaction_last_update_timestamp_ms,
        client_version=value.client_transaction_version,
        record_offset=record_offset,
    )
