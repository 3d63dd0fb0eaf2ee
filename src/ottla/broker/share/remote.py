"""The share coordinators of other brokers, asked with the APIs 83 to 87: about one share partition at a time.

Each method does there what the method of that name of the share coordinator does here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ottla.broker.coordinators.share.batches import StateBatch
from ottla.broker.coordinators.share.coordinator import Summary, Write
from ottla.errors import CoordinatorNotAvailableError, error_for
from ottla.protocol.messages import delete_share_group_state as delete
from ottla.protocol.messages import initialize_share_group_state as initialize
from ottla.protocol.messages import read_share_group_state as read
from ottla.protocol.messages import read_share_group_state_summary as summary
from ottla.protocol.messages import write_share_group_state as write

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.coordinators.share.records import ShareKey
    from ottla.broker.peers import Peers
    from ottla.protocol.schema import Message

M = TypeVar("M", bound="Message")


class KnownState(NamedTuple):
    """What a share coordinator knows of one share partition."""

    state_epoch: int
    start_offset: int
    batches: tuple[StateBatch, ...]


class RemoteShareStates:
    """Asks other brokers. What they refuse is raised as KafkaError.

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

    async def initialize(self, coordinator: int, key: ShareKey, state_epoch: int, start_offset: int) -> None:
        asked = initialize.PartitionData(partition=key.partition, state_epoch=state_epoch, start_offset=start_offset)
        topic = initialize.InitializeStateData(topic_id=key.topic_id, partitions=[asked])

        def request(connection_number: int) -> initialize.InitializeShareGroupStateRequest:
            return initialize.InitializeShareGroupStateRequest(
                group_id=key.group_id,
                topics=[topic],
                broker_id=self._peers.node_id,
                broker_epoch=self._broker_epoch(),
                connection_number=connection_number,
            )

        await self._row(coordinator, key, request, initialize.InitializeShareGroupStateResponse)

    async def delete(self, coordinator: int, key: ShareKey) -> None:
        topic = delete.DeleteStateData(
            topic_id=key.topic_id, partitions=[delete.PartitionData(partition=key.partition)]
        )

        def request(connection_number: int) -> delete.DeleteShareGroupStateRequest:
            return delete.DeleteShareGroupStateRequest(
                group_id=key.group_id,
                topics=[topic],
                broker_id=self._peers.node_id,
                broker_epoch=self._broker_epoch(),
                connection_number=connection_number,
            )

        await self._row(coordinator, key, request, delete.DeleteShareGroupStateResponse)

    async def summarize(self, coordinator: int, key: ShareKey) -> Summary:
        asked = summary.PartitionData(partition=key.partition, leader_epoch=-1)
        topic = summary.ReadStateSummaryData(topic_id=key.topic_id, partitions=[asked])
        request = summary.ReadShareGroupStateSummaryRequest(group_id=key.group_id, topics=[topic])
        row = await self._row(coordinator, key, request, summary.ReadShareGroupStateSummaryResponse)
        return Summary(row.state_epoch, row.leader_epoch, row.start_offset, row.delivery_complete_count)

    async def read(self, coordinator: int, key: ShareKey, leader_epoch: int) -> KnownState:
        asked = read.PartitionData(partition=key.partition, leader_epoch=leader_epoch)
        topic = read.ReadStateData(topic_id=key.topic_id, partitions=[asked])
        request = read.ReadShareGroupStateRequest(group_id=key.group_id, topics=[topic])
        row = await self._row(coordinator, key, request, read.ReadShareGroupStateResponse)
        batches = (
            StateBatch(batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
            for batch in row.state_batches
        )
        return KnownState(row.state_epoch, row.start_offset, tuple(batches))

    async def write(self, coordinator: int, key: ShareKey, wanted: Write) -> None:
        asked = write.PartitionData(
            partition=key.partition,
            state_epoch=wanted.state_epoch,
            leader_epoch=wanted.leader_epoch,
            start_offset=wanted.start_offset,
            delivery_complete_count=wanted.delivery_complete_count,
            state_batches=[
                write.StateBatch(
                    first_offset=batch.first,
                    last_offset=batch.last,
                    delivery_state=batch.state,
                    delivery_count=batch.deliveries,
                )
                for batch in wanted.batches
            ],
        )
        topic = write.WriteStateData(topic_id=key.topic_id, partitions=[asked])
        request = write.WriteShareGroupStateRequest(group_id=key.group_id, topics=[topic])
        await self._row(coordinator, key, request, write.WriteShareGroupStateResponse)

    async def _row(
        self, coordinator: int, key: ShareKey, request: Message | Callable[[int], Message], answer: type[M]
    ) -> Any:
        """Return the row of the answer about the partition.

        Raises:
            KafkaError: the coordinator refuses, cannot be reached, or does not answer.
        """
        response: Any = await self._peers.ask(coordinator, request, answer, purpose="share states")
        rows = [row for result in response.results for row in result.partitions]
        if len(rows) != 1:
            raise CoordinatorNotAvailableError(f"broker {coordinator} has not answered about {key.topic_id.hex()}")
        if rows[0].error_code:
            raise error_for(rows[0].error_code, rows[0].error_message)
        return rows[0]
