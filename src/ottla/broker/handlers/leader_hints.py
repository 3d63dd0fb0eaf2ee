"""Who leads a partition instead, told to a client that asked the wrong broker (KIP-951).

The client need not ask for Metadata first: it goes on at once with the leader that the answer names, if that one's epoch is
newer than the one it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ottla.broker.context import Session
    from ottla.broker.handlers.addresses import Addresses, BrokerAddress
    from ottla.cluster.image import ClusterImage, TopicImage

#: What a client hears of a broker that does not lead (any more).
ASKED_THE_WRONG_BROKER = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH})


class LeaderHint(NamedTuple):
    """The leader of a partition, -1 while there is none, and where this client finds it, if it can."""

    leader: int
    leader_epoch: int
    address: BrokerAddress | None


class LeaderHints:
    """Names leaders, each with the address that the asking client can reach."""

    def __init__(self, image: Callable[[], ClusterImage], addresses: Addresses) -> None:
        self._image = image
        self._addresses = addresses

    def of(self, session: Session, name: str, topic_id: bytes, partition: int) -> LeaderHint | None:
        """Return the leader of a partition, its topic meant by name or else by id; None: there is none."""
        image = self._image()
        topic: TopicImage | None = image.topics.get(name) if name else image.topic_by_id(topic_id)
        if topic is None or not 0 <= partition < len(topic.partitions):
            return None
        state = topic.partitions[partition]
        return LeaderHint(state.leader, state.leader_epoch, self._addresses.of_broker(state.leader, session))

    def fill(
        self,
        session: Session,
        parts: Iterable[tuple[str, bytes, int, Any]],
        leader_class: type[Any],
        node_class: type[Any],
        codes: frozenset[ErrorCode] = ASKED_THE_WRONG_BROKER,
    ) -> list[Any]:
        """Name the leaders in the partitions of an answer.

        Args:
            parts: topic name, topic id, partition and its part of the answer, which has `error_code` and `current_leader`.
            leader_class: of `current_leader`, which each API has of its own.
            node_class: of the answer's `node_endpoints`.
            codes: the errors that are told together with a leader.

        Returns:
            The answer's `node_endpoints`: each broker that was named, once.
        """
        nodes: dict[int, Any] = {}
        for name, topic_id, partition, part in parts:
            if part.error_code not in codes:
                continue
            hint = self.of(session, name, topic_id, partition)
            if hint is None:
                continue
            part.current_leader = leader_class(leader_id=hint.leader, leader_epoch=hint.leader_epoch)
            if hint.address is not None:
                node_id, host, port, rack = hint.address
                nodes[node_id] = node_class(node_id=node_id, host=host, port=port, rack=rack)
        return list(nodes.values())
