"""May this producer write into these partitions now? Produce and TxnOffsetCommit ask before they append (KIP-890).

Clients of transaction version 2 do not announce which partitions a transaction has: the broker that gets the data adds them.
Older clients have announced them with AddPartitionsToTxn, and the gate only checks that they have. The answer may be late,
and the coordinator on another broker: so each partition gives a guard before the question is asked, and its log takes the
batch only while the guard is good (`storage.verification`). No record of a transaction lands behind its marker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.transactions.state import EPOCH_BUMP_VERSION, NO_EPOCH
from ottla.cluster.image import NO_LEADER
from ottla.errors import ErrorCode, KafkaError
from ottla.storage.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.broker.transactions.remote import RemoteTransactions
    from ottla.clock import Clock
    from ottla.storage.verification import VerificationGuard
    from ottla.types import TopicPartition


class Admission(NamedTuple):
    """What the coordinator says of one partition; without an error the batch is appended with `verification`."""

    code: ErrorCode
    verification: Verification


class TransactionGate:
    """Asks the transaction coordinator.

    Args:
        verifies: whether partitions of older clients are checked (`transaction.partition.verification.enable`).
        remote: asks coordinators on other brokers; without it all are on this one.
        coordinator_of: returns which broker leads a partition of `__transaction_state`, as far as is known.
        retry_backoff_ms, retry_ms_max: pause between tries while the transaction before is still being ended, and for how
            long (`add.partitions.to.txn.retry.backoff.ms`, `.max.ms`).
    """

    def __init__(
        self,
        runtime: CoordinatorRuntime[TransactionCoordinator],
        *,
        verifies: Callable[[], bool],
        retry_backoff_ms: int,
        retry_ms_max: int,
        clock: Clock,
        remote: RemoteTransactions | None = None,
        coordinator_of: Callable[[int], int | None] = lambda partition: None,
    ) -> None:
        self._remote = remote
        self._coordinator_of = coordinator_of
        self._runtime = runtime
        self._verifies = verifies
        self._retry_backoff_ms = retry_backoff_ms
        self._retry_ms_max = retry_ms_max
        self._clock = clock

    def is_open(self, *, adds: bool) -> bool:
        """Return whether nothing has to be asked."""
        return not adds and not self._verifies()

    async def admit(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic_partitions: Sequence[TopicPartition],
        *,
        adds: bool,
        begin: Callable[[TopicPartition], VerificationGuard],
    ) -> dict[TopicPartition, Admission]:
        """Add the partitions to the transaction, or only look whether they are in it.

        Args:
            begin: takes a guard of the partition's log for this producer, each time before the coordinator is asked.
        """
        deadline_ms = self._clock.monotonic_ms() + self._retry_ms_max
        while True:
            guards = [begin(topic_partition) for topic_partition in topic_partitions]
            codes, coordinator_epoch = await self._ask(
                transactional_id, producer_id, producer_epoch, topic_partitions, adds=adds
            )
            if ErrorCode.CONCURRENT_TRANSACTIONS not in codes or self._clock.monotonic_ms() >= deadline_ms:
                return {
                    topic_partition: Admission(code, Verification(guard, coordinator_epoch))
                    for topic_partition, code, guard in zip(topic_partitions, codes, guards, strict=True)
                }
            await asyncio.sleep(self._retry_backoff_ms / 1000)

    async def _ask(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        topic_partitions: Sequence[TopicPartition],
        *,
        adds: bool,
    ) -> tuple[Sequence[ErrorCode], int]:
        """Return a code for each partition, and the epoch of the coordinator that gave them."""
        partition = self._runtime.partition_for(transactional_id)
        coordinator = self._coordinator_of(partition)
        if self._remote is not None and coordinator not in (None, NO_LEADER, self._remote.node_id):
            assert coordinator is not None
            return await self._remote.add_partitions(
                coordinator, transactional_id, (producer_id, producer_epoch), topic_partitions, adds=adds
            )
        try:
            coordinator_epoch = self._runtime.leader_epoch(partition)
            if not adds:
                codes = await self._runtime.write(
                    partition,
                    lambda shard, _now_ms: shard.verify_partitions(
                        transactional_id, producer_id, producer_epoch, topic_partitions
                    ),
                )
                return codes, coordinator_epoch
            await self._runtime.write(
                partition,
                lambda shard, now_ms: shard.add_partitions(
                    transactional_id, producer_id, producer_epoch, topic_partitions, EPOCH_BUMP_VERSION, now_ms
                ),
            )
        except KafkaError as error:
            return [client_error_code(error)] * len(topic_partitions), NO_EPOCH
        return [ErrorCode.NONE] * len(topic_partitions), coordinator_epoch


def data_error_code(code: ErrorCode, *, is_abortable_known: bool) -> ErrorCode:
    """Translate what the coordinator says into what a client that sends data understands.

    Args:
        is_abortable_known: the client knows TRANSACTION_ABORTABLE (Produce v11+, TxnOffsetCommit v4+).
    """
    if code == ErrorCode.PRODUCER_FENCED:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    if code == ErrorCode.TRANSACTION_ABORTABLE and not is_abortable_known:
        return ErrorCode.INVALID_TXN_STATE
    return code
