"""Nodes about topics: replicas, the state of each partition, ids that are taken, ids that are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ottla.cluster.image import PartitionImage
from ottla.cluster.nodes.encoding import dump, read
from ottla.types import ZERO_UUID, uuid_from_text, uuid_to_text

BROKER_TOPICS: Final = "/brokers/topics"
TOPIC_IDS: Final = "/topic_ids"
DELETED: Final = "/deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Who makes a topic: a broker, under the epoch it had when it began."""

    node_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicAssignment:
    """What /brokers/topics/<topic> says: which replicas each partition has. Partitions are dense from 0.

    Attributes:
        adding, removing: replicas by partition, while it is being reassigned.
        creating: its maker has not written all states yet; None once they are there.
    """

    topic_id: bytes
    partitions: tuple[tuple[int, ...], ...]
    adding: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    removing: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    creating: Maker | None = None


class TopicNode:
    """/brokers/topics/<topic>: the assignment."""

    @staticmethod
    def path(topic: str) -> str:
        return f"{BROKER_TOPICS}/{topic}"

    @staticmethod
    def partitions_path(topic: str) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions"

    @staticmethod
    def encode(assignment: TopicAssignment) -> bytes:
        value: dict[str, Any] = {
            "version": 3,
            "partitions": _by_index(dict(enumerate(assignment.partitions))),
            "adding_replicas": _by_index(assignment.adding),
            "removing_replicas": _by_index(assignment.removing),
            "topic_id": uuid_to_text(assignment.topic_id),
        }
        if assignment.creating is not None:
            value["creating"] = {
                "broker": assignment.creating.node_id,
                "broker_epoch": assignment.creating.broker_epoch,
            }
        return dump(value)

    @staticmethod
    def decode(topic: str, data: bytes) -> TopicAssignment:
        def take(value: dict[str, Any]) -> TopicAssignment:
            partitions, creating = value["partitions"], value.get("creating")
            return TopicAssignment(
                topic_id=uuid_from_text(value["topic_id"]) if value.get("topic_id") else ZERO_UUID,
                partitions=tuple(tuple(partitions[str(index)]) for index in range(len(partitions))),
                adding={int(k): tuple(v) for k, v in value.get("adding_replicas", {}).items() if v},
                removing={int(k): tuple(v) for k, v in value.get("removing_replicas", {}).items() if v},
                creating=None
                if creating is None
                else Maker(node_id=int(creating["broker"]), broker_epoch=int(creating["broker_epoch"])),
            )

        return read(TopicNode.path(topic), data, take)


def _by_index(replicas: Mapping[int, Sequence[int]]) -> dict[str, list[int]]:
    return {str(index): list(nodes) for index, nodes in replicas.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """What /brokers/topics/<topic>/partitions/<p>/state says. The node's version is the partition epoch.

    Attributes:
        isr_epochs: the broker epoch under which each member of `isr` was admitted; empty in states of the first releases,
            which count as admitted under epoch 0.
        elr, elr_epochs: replicas that are not in sync and have everything that was acknowledged (KIP-966), likewise.
        leader_recovery_state: 1 as long as an uncleanly elected leader has not been joined by others (KIP-704).
        recovered_in: the leader epoch of the last election by log ends, after all replicas had been down; -1: there was none.
        topic_id: whose state it is; ZERO_UUID in states of the first releases.
    """

    leader: int
    leader_epoch: int
    isr: tuple[int, ...]
    controller_epoch: int
    isr_epochs: tuple[int, ...] = ()
    elr: tuple[int, ...] = ()
    elr_epochs: tuple[int, ...] = ()
    leader_recovery_state: int = 0
    recovered_in: int = -1
    topic_id: bytes = ZERO_UUID


class StateNode:
    @staticmethod
    def partition_path(topic: str, partition: int) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions/{partition}"

    @staticmethod
    def path(topic: str, partition: int) -> str:
        return f"{BROKER_TOPICS}/{topic}/partitions/{partition}/state"

    @staticmethod
    def encode(state: PartitionState) -> bytes:
        """Return Kafka's fields, and those of ours that say something."""
        assert len(state.isr_epochs) in (0, len(state.isr)), state
        assert len(state.elr_epochs) == len(state.elr), state
        value: dict[str, Any] = {
            "version": 1,
            "leader": state.leader,
            "leader_epoch": state.leader_epoch,
            "controller_epoch": state.controller_epoch,
            "isr": list(state.isr),
        }
        if state.leader_recovery_state:
            value["leader_recovery_state"] = state.leader_recovery_state
        if state.topic_id != ZERO_UUID:
            value["topic_id"] = uuid_to_text(state.topic_id)
        if state.isr_epochs:
            value["isr_epochs"] = list(state.isr_epochs)
        if state.elr:
            value |= {"elr": list(state.elr), "elr_epochs": list(state.elr_epochs)}
        if state.recovered_in >= 0:
            value["recovered_in"] = state.recovered_in
        return dump(value)

    @staticmethod
    def decode(path: str, data: bytes) -> PartitionState:
        def take(value: dict[str, Any]) -> PartitionState:
            isr, elr = tuple(value["isr"]), tuple(value.get("elr", ()))
            isr_epochs = tuple(value.get("isr_epochs", (0,) * len(isr)))
            elr_epochs = tuple(value.get("elr_epochs", ()))
            if len(isr) != len(isr_epochs) or len(elr) != len(elr_epochs):
                raise ValueError("its members and their epochs do not match")
            return PartitionState(
                leader=value["leader"],
                leader_epoch=value["leader_epoch"],
                isr=isr,
                controller_epoch=value["controller_epoch"],
                isr_epochs=isr_epochs,
                elr=elr,
                elr_epochs=elr_epochs,
                leader_recovery_state=value.get("leader_recovery_state", 0),
                recovered_in=value.get("recovered_in", -1),
                topic_id=uuid_from_text(value["topic_id"]) if "topic_id" in value else ZERO_UUID,
            )

        return read(path, data, take)


def state_of(partition: PartitionImage, topic_id: bytes, controller_epoch: int) -> PartitionState:
    """Return what is to be written of a partition."""
    return PartitionState(
        leader=partition.leader,
        leader_epoch=partition.leader_epoch,
        isr=partition.isr,
        controller_epoch=controller_epoch,
        isr_epochs=partition.isr_epochs,
        elr=partition.elr,
        elr_epochs=partition.elr_epochs,
        leader_recovery_state=partition.leader_recovery_state,
        recovered_in=partition.recovered_in,
        topic_id=topic_id,
    )


def with_state(partition: PartitionImage, state: PartitionState, version: int) -> PartitionImage:
    """Return the partition with what its state node says in this version."""
    return partition._replace(
        isr=state.isr,
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        partition_epoch=version,
        isr_epochs=state.isr_epochs,
        elr=state.elr,
        elr_epochs=state.elr_epochs,
        leader_recovery_state=state.leader_recovery_state,
        recovered_in=state.recovered_in,
    )


class TopicIdNode:
    """/topic_ids/<topic id>: the topic exists. Each writer of a partition's state checks this node in its transaction.

    The versions of a topic that was deleted and made again under its name start at 0 again, so a late compare-and-set of
    the old topic's would fit the new one's states.
    """

    @staticmethod
    def path(topic_id: bytes) -> str:
        return f"{TOPIC_IDS}/{uuid_to_text(topic_id)}"

    @staticmethod
    def encode(topic: str) -> bytes:
        return dump({"version": 1, "topic": topic})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedTopic:
    """What /deleted/<topic id> says: which topic it was, and when (ms since 1970) it was deleted."""

    name: str
    timestamp_ms: int


class DeletedNode:
    """/deleted/<topic id>: the topic is deleted, whatever else of it is still in the tree.

    Written first; the controller then takes the topic's nodes away, in as many transactions as it takes, and a controller
    that is elected in between goes on. A topic of that id never comes back, so a broker that was away may delete its log.
    """

    @staticmethod
    def path(topic_id: bytes) -> str:
        return f"{DELETED}/{uuid_to_text(topic_id)}"

    @staticmethod
    def topic_id(name: str) -> bytes:
        """Return the topic id in the name of such a node."""
        return uuid_from_text(name)

    @staticmethod
    def encode(topic: DeletedTopic) -> bytes:
        return dump({"version": 1, "topic": topic.name, "timestamp": str(topic.timestamp_ms)})

    @staticmethod
    def decode(path: str, data: bytes) -> DeletedTopic:
        return read(path, data, lambda value: DeletedTopic(name=value["topic"], timestamp_ms=int(value["timestamp"])))
