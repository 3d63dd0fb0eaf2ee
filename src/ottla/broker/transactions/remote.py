"""What transactions ask of other brokers: markers for partitions that they lead (WriteTxnMarkers), and whether a partition
takes part in a transaction of a coordinator there (AddPartitionsToTxn from version 4 on).

An answer that does not come is a code that says to ask again.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from ottla.errors import BrokerNotAvailableError, ErrorCode
from ottla.protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)
from ottla.protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ottla.broker.peers import Peers
    from ottla.protocol.messages.add_partitions_to_txn import AddPartitionsToTxnResult

#: The version in which brokers ask.
_BATCHED: Final = 5
_LAGGING: Final = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.OPERATION_NOT_ATTEMPTED)


class RemoteTransactions:
    """Asks other brokers.

    Args:
        broker_epoch: of this broker.
    """

    def __init__(self, peers: Peers, broker_epoch: Callable[[], int]) -> None:
        self._peers = peers
        self._broker_epoch = broker_epoch

    @property
    def node_id(self) -> int:
        """This broker."""
        return self._peers.node_id

    async def write_markers(
        self,
        leader: int,
        topic_partitions: Sequence[TopicPartition],
        make: Callable[[], WritableTxnMarker],
    ) -> dict[TopicPartition, ErrorCode]:
        """Have one broker append a marker to partitions; return how it went for each.

        Args:
            make: returns the marker, without partitions, when it is about to be sent; may raise.
        """

        def request(connection_number: int) -> WriteTxnMarkersRequest:
            marker = make()
            marker.topics = [
                WritableTxnMarkerTopic(name=name, partition_indexes=[index for _, index in found])
                for name, found in groupby(sorted(topic_partitions), lambda tp: tp.topic)
            ]
            return WriteTxnMarkersRequest(
                markers=[marker],
                broker_id=self._peers.node_id,
                broker_epoch=self._broker_epoch(),
                connection_number=connection_number,
            )

        codes = dict.fromkeys(topic_partitions, ErrorCode.BROKER_NOT_AVAILABLE)
        try:
            answer = await self._peers.ask(leader, request, WriteTxnMarkersResponse, purpose="markers")
        except BrokerNotAvailableError:
            return codes
        for result in answer.markers:
            for topic in result.topics:
                for row in topic.partitions:
                    codes[TopicPartition(topic.name, row.partition_index)] = ErrorCode(row.error_code)
        return codes

    async def add_partitions(
        self,
        coordinator: int,
        transactional_id: str,
        producer: tuple[int, int],
        topic_partitions: Sequence[TopicPartition],
        *,
        adds: bool,
    ) -> tuple[list[ErrorCode], int]:
        """Add partitions to a transaction, or look whether they are in it.

        Returns:
            A code for each partition, and the epoch of the coordinator that gave them, -1 if none did.
        """
        request = AddPartitionsToTxnRequest(
            transactions=[
                AddPartitionsToTxnTransaction(
                    transactional_id=transactional_id,
                    producer_id=producer[0],
                    producer_epoch=producer[1],
                    verify_only=not adds,
                    topics=[
                        AddPartitionsToTxnTopic(name=name, partitions=[index for _, index in found])
                        for name, found in groupby(sorted(topic_partitions), lambda tp: tp.topic)
                    ],
                )
            ]
        )
        try:
            answer = await self._peers.ask(
                coordinator, request, AddPartitionsToTxnResponse, version=_BATCHED, purpose="transactions"
            )
        except BrokerNotAvailableError:
            return [ErrorCode.COORDINATOR_NOT_AVAILABLE] * len(topic_partitions), -1
        if answer.error_code:
            return [ErrorCode(answer.error_code)] * len(topic_partitions), -1
        found = _codes(answer.results_by_transaction)
        missing = ErrorCode.COORDINATOR_NOT_AVAILABLE
        epochs = [result.coordinator_epoch for result in answer.results_by_transaction]
        codes = [found.get(name, missing) for name in topic_partitions]
        # This broker leads the partitions: a coordinator that does not know them has not heard of the topic yet.
        return [missing if code in _LAGGING else code for code in codes], epochs[0] if epochs else -1


def _codes(results: Sequence[AddPartitionsToTxnResult]) -> dict[TopicPartition, ErrorCode]:
    return {
        TopicPartition(topic.name, row.partition_index): ErrorCode(row.partition_error_code)
        for result in results
        for topic in result.topic_results
        for row in topic.results_by_partition
    }
