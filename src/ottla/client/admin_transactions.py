"""Admin calls about transactions and producers (KIP-664, KIP-360)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from ottla.client.admin_base import TRANSACTION, AdminBase, bounded, outcome, unwrap
from ottla.client.admin_results import ProducerDescription, TransactionDescription, TransactionListing
from ottla.client.admin_topics import by_topic
from ottla.client.admin_words import moment_or_none
from ottla.client.keys import Duration, duration_s
from ottla.errors import ErrorCode, InvalidTxnStateError, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    TopicRequest,
)
from ottla.protocol.messages.describe_transactions import DescribeTransactionsRequest, DescribeTransactionsResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.list_transactions import ListTransactionsRequest, ListTransactionsResponse
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from ottla.types import TopicPartition

#: What a fenced transactional id is given until its next producer names another one: as Kafka's Java client.
_FENCE_TIMEOUT_MS: Final = 60_000


class TransactionCalls(AdminBase):
    """Transactions."""

    @bounded
    async def list_transactions(
        self,
        *,
        states: Iterable[str] | None = None,
        producer_ids: Iterable[int] | None = None,
        longer_than: Duration | None = None,
        pattern: str | None = None,
        timeout: Duration | None = None,
    ) -> list[TransactionListing]:
        """Return the transactional ids that all brokers know, with the state of their transactions.

        Args:
            states: only these: "Ongoing", "PrepareCommit", "CompleteAbort", "Empty", ...
            producer_ids: only these.
            longer_than: only transactions that have run for longer (KIP-994).
            pattern: only ids that this regular expression (RE2) describes (KIP-1152).
        """
        least_ms = -1 if longer_than is None else int(duration_s("longer_than", longer_than) * 1000)

        def build(version: int) -> ListTransactionsRequest:
            request = ListTransactionsRequest(
                state_filters=list(states or ()), producer_id_filters=list(producer_ids or ())
            )
            if least_ms >= 0 or version >= 1:
                if version < 1:
                    raise UnsupportedVersionError("The broker is too old to look for long transactions (Kafka 3.8).")
                request.duration_filter = least_ms
            if pattern is not None:
                if version < 2:
                    raise UnsupportedVersionError("The broker is too old to look for ids by pattern (Kafka 4.1).")
                request.transactional_id_pattern = pattern
            return request

        brokers = [broker.node_id for broker in (await self._metadata([])).brokers]

        async def ask(left: list[int], deadline_ms: float) -> dict[int, list[Any] | KafkaError]:
            answers = await asyncio.gather(
                *(self._ask(build, ListTransactionsResponse, node_id, deadline_ms=deadline_ms) for node_id in left)
            )
            return {
                node_id: outcome(answer.error_code, None, answer.transaction_states)
                for node_id, answer in zip(left, answers, strict=True)
            }

        rows = await self._all(brokers, ask)
        return sorted(
            (
                TransactionListing(
                    transactional_id=row.transactional_id, producer_id=row.producer_id, state=row.transaction_state
                )
                for found in rows.values()
                for row in found
            ),
            key=lambda listing: listing.transactional_id,
        )

    @bounded
    async def describe_transaction(
        self, transactional_id: str, *, timeout: Duration | None = None
    ) -> TransactionDescription:
        """Return the state of a transactional id and the partitions of its transaction.

        Raises:
            TransactionalIdNotFoundError: the cluster does not know it.
        """
        return (await self.describe_transactions([transactional_id]))[transactional_id]

    @bounded
    async def describe_transactions(
        self, transactional_ids: Iterable[str], *, timeout: Duration | None = None
    ) -> dict[str, TransactionDescription]:
        """Return transactions by transactional id.

        Raises:
            AdminErrors: some of several could not be described.
        """

        async def ask(
            node_id: int, ids: list[str], deadline_ms: float
        ) -> dict[str, TransactionDescription | KafkaError]:
            answer = await self._ask(
                DescribeTransactionsRequest(transactional_ids=ids),
                DescribeTransactionsResponse,
                node_id,
                deadline_ms=deadline_ms,
            )
            return {row.transactional_id: _transaction(row, node_id) for row in answer.transaction_states}

        return unwrap(await self._for_groups(transactional_ids, ask, kind=TRANSACTION))

    @bounded
    async def describe_producers(
        self, partitions: Iterable[TopicPartition], *, broker: int | None = None, timeout: Duration | None = None
    ) -> dict[TopicPartition, list[ProducerDescription]]:
        """Return the producers that partitions remember.

        Args:
            broker: ask this broker, a replica, instead of the leaders.

        Raises:
            AdminErrors: some of several partitions failed.
        """

        async def ask(
            node_id: int, wanted: list[TopicPartition], deadline_ms: float
        ) -> dict[TopicPartition, list[ProducerDescription] | KafkaError]:
            request = DescribeProducersRequest(
                topics=[
                    TopicRequest(name=topic, partition_indexes=numbers) for topic, numbers in by_topic(wanted).items()
                ]
            )
            answer = await self._ask(request, DescribeProducersResponse, node_id, deadline_ms=deadline_ms)
            return {
                TopicPartition(topic.name, row.partition_index): outcome(
                    row.error_code, row.error_message, [_producer(found) for found in row.active_producers]
                )
                for topic in answer.topics
                for row in topic.partitions
            }

        if broker is None:
            return await self._for_leaders(partitions, ask)
        asked = broker

        async def attempt(
            left: list[TopicPartition], deadline_ms: float
        ) -> dict[TopicPartition, list[ProducerDescription] | KafkaError]:
            return await ask(asked, left, deadline_ms)

        return await self._all([TopicPartition(*where) for where in partitions], attempt)

    @bounded
    async def abort_transaction(
        self,
        partition: TopicPartition,
        *,
        start_offset: int | None = None,
        producer_id: int | None = None,
        producer_epoch: int | None = None,
        coordinator_epoch: int | None = None,
        timeout: Duration | None = None,
    ) -> None:
        """Write an abort marker for a transaction that hangs in one partition: its coordinator knows it no more.

        Name the transaction by the offset at which it began, or by its producer id; the epochs are looked up unless given.
        For a transaction that is merely long use `fence_producers`.

        Raises:
            InvalidTxnStateError: there is no such open transaction in the partition.
        """
        where = TopicPartition(*partition)
        if (start_offset is None) == (producer_id is None):
            raise ValueError("give start_offset or producer_id, one of them")
        if producer_epoch is None:
            rows = (await self.describe_producers([where]))[where]
            found = [
                row
                for row in rows
                if row.transaction_start_offset is not None
                and (row.transaction_start_offset == start_offset or row.producer_id == producer_id)
            ]
            if not found:
                told = f"offset {start_offset}" if producer_id is None else f"producer {producer_id}"
                raise InvalidTxnStateError(f"{where} has no open transaction of {told}.")
            producer_id, producer_epoch = found[0].producer_id, found[0].producer_epoch
            coordinator_epoch = found[0].coordinator_epoch
        assert producer_id is not None
        marker = WritableTxnMarker(
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            transaction_result=False,
            topics=[WritableTxnMarkerTopic(name=where.topic, partition_indexes=[where.partition])],
            # KIP-664: a transaction that never had a marker has no coordinator epoch yet.
            coordinator_epoch=max(coordinator_epoch if coordinator_epoch is not None else 0, 0),
        )

        async def ask(
            node_id: int, wanted: list[TopicPartition], deadline_ms: float
        ) -> dict[TopicPartition, KafkaError | None]:
            answer = await self._ask(
                WriteTxnMarkersRequest(markers=[marker]), WriteTxnMarkersResponse, node_id, deadline_ms=deadline_ms
            )
            return {
                TopicPartition(topic.name, row.partition_index): outcome(row.error_code, None, None)
                for told in answer.markers
                for topic in told.topics
                for row in topic.partitions
            }

        await self._for_leaders([where], ask)

    @bounded
    async def fence_producers(
        self, transactional_ids: Iterable[str], *, timeout: Duration | None = None
    ) -> dict[str, tuple[int, int]]:
        """Shut the present producers of transactional ids out; their open transactions are aborted (KIP-588).

        Returns:
            by id, (producer id, producer epoch) that the next producer comes after.

        Raises:
            AdminErrors: some of several failed.
        """

        async def ask(node_id: int, ids: list[str], deadline_ms: float) -> dict[str, tuple[int, int] | KafkaError]:
            async def fence(transactional_id: str) -> tuple[int, int] | KafkaError:
                request = InitProducerIdRequest(
                    transactional_id=transactional_id, transaction_timeout_ms=_FENCE_TIMEOUT_MS
                )
                answer = await self._ask(request, InitProducerIdResponse, node_id, deadline_ms=deadline_ms)
                return outcome(answer.error_code, None, (answer.producer_id, answer.producer_epoch))

            return dict(zip(ids, await asyncio.gather(*map(fence, ids)), strict=True))

        return unwrap(await self._for_groups(transactional_ids, ask, kind=TRANSACTION))


def _transaction(row: Any, node_id: int) -> TransactionDescription | KafkaError:
    if row.error_code:
        text = None
        if row.error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND:
            text = f"The cluster does not know the transactional id {row.transactional_id!r}."
        return error_for(row.error_code, text)
    return TransactionDescription(
        transactional_id=row.transactional_id,
        coordinator=node_id,
        state=row.transaction_state,
        producer_id=row.producer_id,
        producer_epoch=row.producer_epoch,
        timeout_ms=row.transaction_timeout_ms,
        started=moment_or_none(row.transaction_start_time_ms),
        partitions=tuple(TopicPartition(topic.topic, number) for topic in row.topics for number in topic.partitions),
    )


def _producer(row: Any) -> ProducerDescription:
    return ProducerDescription(
        producer_id=row.producer_id,
        producer_epoch=row.producer_epoch,
        last_sequence=row.last_sequence,
        last_timestamp=moment_or_none(row.last_timestamp),
        coordinator_epoch=row.coordinator_epoch,
        transaction_start_offset=row.current_txn_start_offset if row.current_txn_start_offset >= 0 else None,
    )
