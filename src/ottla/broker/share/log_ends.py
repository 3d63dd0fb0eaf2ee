"""Where the committed part of a partition ends, on whichever broker it is led: for the lag of share groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ottla.cluster.image import NO_LEADER
from ottla.errors import CoordinatorNotAvailableError, error_for
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.peers import Peers
    from ottla.broker.replicas.manager import ReplicaManager

#: Asks for the high watermark (with isolation level read_uncommitted).
_LATEST: Final = -1
_CLIENT: Final = -1


class LogEnds:
    """Asks the partitions of this broker, and other brokers for theirs.

    Args:
        leader_of: returns which broker leads a partition of a topic, as far as is known.
        peers: None where there are no other brokers.
    """

    def __init__(
        self, replicas: ReplicaManager, leader_of: Callable[[str, int], int | None], peers: Peers | None
    ) -> None:
        self._replicas = replicas
        self._leader_of = leader_of
        self._peers = peers

    async def high_watermark(self, topic: str, index: int) -> int:
        """Return the high watermark of a partition.

        Raises:
            KafkaError: its leader refuses to tell, or cannot be reached.
        """
        leader = self._leader_of(topic, index)
        if self._peers is None or leader in (None, NO_LEADER, self._peers.node_id):
            partition = self._replicas.partition(topic, index)
            if partition is None:
                raise error_for(self._replicas.error(topic, index))
            return partition.log.high_watermark
        assert leader is not None
        asked = ListOffsetsPartition(partition_index=index, timestamp=_LATEST)
        request = ListOffsetsRequest(replica_id=_CLIENT, topics=[ListOffsetsTopic(name=topic, partitions=[asked])])
        answer = await self._peers.ask(leader, request, ListOffsetsResponse)
        rows = [row for found in answer.topics for row in found.partitions]
        if len(rows) != 1:
            raise CoordinatorNotAvailableError(f"broker {leader} has not answered about {topic}-{index}")
        if rows[0].error_code:
            raise error_for(rows[0].error_code)
        return rows[0].offset
