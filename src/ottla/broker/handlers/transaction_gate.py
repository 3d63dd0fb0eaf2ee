"""May this producer write into these partitions now? Produce and TxnOffsetCommit ask before they append (KIP-890).

Clients of transaction version 2 do not say beforehand which partitions take part: the broker that gets the data adds them.
Older clients have said it with AddPartitionsToTxn, and it is only checked that they have. Either way the last question is
asked with nothing between it and what the caller does next, and markers are written only after the coordinator has decided
the end: so no record of a transaction lands behind its marker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.transactions.state import EPOCH_BUMP_VERSION
from ottla.errors import ErrorCode, KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.coordinators.transactions.coordinator import TransactionCoordinator
    from ottla.clock import Clock
    from ottla.types import TopicPartition


class TransactionGate:
    """Asks the transaction coordinator.

    Args:
        verifies: whether partitions of older clients are checked (`transaction.partition.verification.enable`).
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
    ) -> None:
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
    ) -> dict[TopicPartition, ErrorCode]:
        """Add the partitions to the transaction, or only look whether they are in it; answers a code for each.

        What the caller does before its next await happens while the answer is still true.
        """
        deadline_ms = self._clock.monotonic_ms() + self._retry_ms_max
        while True:
            code = ErrorCode.NONE
            if adds:
                code = await self._add(transactional_id, producer_id, producer_epoch, topic_partitions)
            codes = (
                dict.fromkeys(topic_partitions, code)
                if code
                else self._verify(transactional_id, producer_id, producer_epoch, topic_partitions)
            )
            if ErrorCode.CONCURRENT_TRANSACTIONS not in codes.values() or self._clock.monotonic_ms() >= deadline_ms:
                return codes
            await asyncio.sleep(self._retry_backoff_ms / 1000)

    async def _add(
        self, transactional_id: str, producer_id: int, producer_epoch: int, topic_partitions: Sequence[TopicPartition]
    ) -> ErrorCode:
        try:
            await self._runtime.write(
                self._runtime.partition_for(transactional_id),
                lambda shard, now_ms: shard.add_partitions(
                    transactional_id, producer_id, producer_epoch, topic_partitions, EPOCH_BUMP_VERSION, now_ms
                ),
            )
        except KafkaError as error:
            return client_error_code(error)
        return ErrorCode.NONE

    def _verify(
        self, transactional_id: str, producer_id: int, producer_epoch: int, topic_partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, ErrorCode]:
        try:
            codes = self._runtime.run(
                self._runtime.partition_for(transactional_id),
                lambda shard, _now_ms: shard.verify_partitions(
                    transactional_id, producer_id, producer_epoch, topic_partitions
                ),
            )
        except KafkaError as error:
            return dict.fromkeys(topic_partitions, client_error_code(error))
        return dict(zip(topic_partitions, codes, strict=True))


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
