"""What is known of one transactional id, and the transitions it can make.

Values, no I/O. Every transition returns a new `Transaction`; what it writes is `records.transaction`. The states and what may
follow what are Kafka's (TransactionState, TransactionMetadata):

    Empty, CompleteCommit, CompleteAbort -> Ongoing       the first partition is added
    Ongoing -> PrepareCommit | PrepareAbort               the point of no return: markers follow
    Empty, CompleteCommit, CompleteAbort -> PrepareAbort  abort of an empty transaction (transaction version 2)
    PrepareCommit -> CompleteCommit, PrepareAbort -> CompleteAbort   all markers are written
    Empty, CompleteCommit, CompleteAbort -> Empty         InitProducerId

Epochs. The highest epoch a client may have is 32,766: the one above it is left for the marker that ends its last transaction.
With transaction version 2 (KIP-890) every end of a transaction raises the epoch, and at the highest one the producer goes on
with another id and epoch 0. Dead and PrepareEpochFence are names only: here a fence and its abort are one transition, and
an expired id is one tombstone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from ottla.types import TopicPartition

NO_PRODUCER_ID: Final = -1
NO_EPOCH: Final = -1
#: The highest epoch of a marker; a client gets at most one less.
EPOCH_MAX: Final = 2**15 - 1

#: Transaction version 2: the epoch rises with every transaction, partitions are added by the brokers that get the data.
EPOCH_BUMP_VERSION: Final = 2


class TransactionState(IntEnum):
    """The state as it is written; `text` is what Kafka's tools show."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6
    PREPARE_EPOCH_FENCE = 7

    @property
    def text(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def is_preparing(self) -> bool:
        """Decided, and its markers are being written."""
        return self in (TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)

    @property
    def is_idle(self) -> bool:
        """No transaction is under way."""
        return self in (TransactionState.EMPTY, TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """One transactional id.

    Attributes:
        producer_id, producer_epoch: who may write; while preparing, what the markers carry.
        previous_producer_id: the id before the last transition (it differs right after a change of ids).
        next_producer_id: the id with which the producer goes on when the markers are written, -1: the same one.
        last_producer_epoch: the epoch before the last rise, by which a repeated request is known. Not in the record, as in
            Kafka: after a reload it is -1.
        started_ms: when the first partition was added, -1 if there is no transaction.
        client_version: 2 if the epoch rises with the end of the transaction, else 0.
        record_offset: where its record lies in the log: no two states have the same.
    """

    transactional_id: str
    producer_id: int
    producer_epoch: int = NO_EPOCH
    previous_producer_id: int = NO_PRODUCER_ID
    next_producer_id: int = NO_PRODUCER_ID
    last_producer_epoch: int = NO_EPOCH
    timeout_ms: int
    state: TransactionState = TransactionState.EMPTY
    partitions: frozenset[TopicPartition] = frozenset()
    started_ms: int = -1
    updated_ms: int
    client_version: int = 0
    record_offset: int = -1

    @property
    def is_exhausted(self) -> bool:
        """The epoch cannot rise any more for a client."""
        return self.producer_epoch >= EPOCH_MAX - 1

    @property
    def client_identity(self) -> tuple[int, int]:
        """Producer id and epoch with which the client goes on."""
        if self.next_producer_id != NO_PRODUCER_ID:
            return self.next_producer_id, 0
        return self.producer_id, self.producer_epoch

    def with_epoch(self, epoch: int, last_epoch: int, timeout_ms: int, now_ms: int) -> Transaction:
        """InitProducerId: the same producer id under this epoch."""
        return replace(
            self,
            producer_epoch=epoch,
            last_producer_epoch=last_epoch,
            previous_producer_id=self.producer_id,
            next_producer_id=NO_PRODUCER_ID,
            timeout_ms=timeout_ms,
            state=TransactionState.EMPTY,
            partitions=frozenset(),
            started_ms=-1,
            updated_ms=now_ms,
        )

    def with_producer_id(self, producer_id: int, last_epoch: int, timeout_ms: int, now_ms: int) -> Transaction:
        """InitProducerId when the epochs are used up: another producer id, from epoch 0 on."""
        return replace(self.with_epoch(0, last_epoch, timeout_ms, now_ms), producer_id=producer_id)

    def with_partitions(self, added: frozenset[TopicPartition], client_version: int, now_ms: int) -> Transaction:
        """Partitions take part; the first ones begin the transaction."""
        return replace(
            self,
            state=TransactionState.ONGOING,
            partitions=self.partitions | added,
            previous_producer_id=self.producer_id,
            next_producer_id=NO_PRODUCER_ID,
            started_ms=self.started_ms if self.state is TransactionState.ONGOING else now_ms,
            updated_ms=now_ms,
            client_version=client_version,
        )

    def prepared(self, *, commit: bool, client_version: int, next_producer_id: int, now_ms: int) -> Transaction:
        """The end is decided. With version 2 the epoch rises; an idle id gets an empty transaction to abort."""
        raised = client_version >= EPOCH_BUMP_VERSION
        return replace(
            self,
            state=TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT,
            producer_epoch=min(self.producer_epoch + 1, EPOCH_MAX) if raised else self.producer_epoch,
            last_producer_epoch=self.producer_epoch if raised else self.last_producer_epoch,
            previous_producer_id=self.producer_id,
            next_producer_id=next_producer_id,
            started_ms=self.started_ms if self.state is TransactionState.ONGOING else now_ms,
            updated_ms=now_ms,
            client_version=client_version,
        )

    def completed(self, now_ms: int) -> Transaction:
        """All markers are written. What `client_identity` has promised comes into force."""
        producer_id, epoch = self.client_identity
        return replace(
            self,
            state=TransactionState.COMPLETE_COMMIT
            if self.state is TransactionState.PREPARE_COMMIT
            else TransactionState.COMPLETE_ABORT,
            producer_id=producer_id,
            producer_epoch=epoch,
            previous_producer_id=self.producer_id,
            next_producer_id=NO_PRODUCER_ID,
            partitions=frozenset(),
            updated_ms=now_ms,
        )
