"""Where the replicas of a partition are to be instead: what begins, ends and takes back a reassignment (KIP-455). Pure.

While a partition is being reassigned its replicas are the ones that are wanted, followed by those that are to go. It ends
when those that were added are in sync: then only the wanted ones stay, one of them leads, in a new epoch. An end and a
cancellation change the topic's node and the partition's state in one transaction: between two, a replica could be in the ISR,
or lead, whose log its broker deletes.

Codes and messages are those of Apache Kafka's controller (KRaft). Where we differ: a replica that an unfinished reassignment
has added still counts as added if another one is begun, so that the new one does not end before it is in sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ottla.cluster.decisions.election import is_fit, is_in_sync
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topics import check_assignment
from ottla.cluster.image import NO_LEADER, ClusterImage, PartitionImage, TopicImage
from ottla.errors import ErrorCode
from ottla.types import TopicPartition


class Move(NamedTuple):
    """What is to be written of one partition: its place in the topic's node, and its state unless that stays as it is."""

    replicas: tuple[int, ...]
    adding: tuple[int, ...] = ()
    removing: tuple[int, ...] = ()
    state: PartitionImage | None = None


def plan_reassignment(
    image: ClusterImage,
    topic_partition: TopicPartition,
    target: Sequence[int] | None,
    *,
    may_change_count: bool = True,
) -> Move | Refusal:
    """Decide about a request for one partition.

    Args:
        target: the wanted replicas, the preferred leader first; None takes back the reassignment that goes on.
        may_change_count: whether there may be more or fewer replicas than before.
    """
    name, index = topic_partition
    topic = image.topics.get(name)
    partition = image.partition(topic_partition)
    if topic is None or partition is None:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find a partition named {name}:{index}.")
    if target is None:
        return _cancellation(image, topic, index)
    refusal = check_assignment(target, image.brokers, None)
    if refusal is not None:
        return refusal
    before = [n for n in partition.replicas if n not in partition.adding_replicas]
    if not may_change_count and len(target) != len(before):
        return Refusal(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            f"The replication factor is changed from {len(before)} to {len(target)}",
        )
    adding = tuple(n for n in target if n not in before)
    removing = tuple(n for n in partition.replicas if n not in target)
    return Move((*target, *removing), adding, removing)


def _cancellation(image: ClusterImage, topic: TopicImage, index: int) -> Move | Refusal:
    partition = topic.partitions[index]
    if not is_reassigned(partition):
        return Refusal(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "No partition reassignment is in progress.")
    before = tuple(n for n in partition.replicas if n not in partition.adding_replicas)
    state = _within(image, topic, index, before)
    if state is None:
        return Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Unable to revert partition assignment for {topic.name}:{index} because it would require an unclean "
            "leader election.",
        )
    return Move(before, state=state)


def is_reassigned(partition: PartitionImage) -> bool:
    """Return whether a partition is being reassigned."""
    return bool(partition.adding_replicas or partition.removing_replicas)


def finished(
    image: ClusterImage, partitions: Iterable[tuple[TopicImage, int]]
) -> Iterator[tuple[TopicPartition, Move]]:
    """Yield those of the partitions whose reassignment can end, with how they are then."""
    for topic, index in partitions:
        partition = topic.partitions[index]
        if not is_reassigned(partition):
            continue
        if not all(n in partition.isr and is_in_sync(image, partition, n) for n in partition.adding_replicas):
            continue
        target = tuple(n for n in partition.replicas if n not in partition.removing_replicas)
        state = _within(image, topic, index, target)
        if state is not None:
            yield TopicPartition(topic.name, index), Move(target, state=state)


def _within(image: ClusterImage, topic: TopicImage, index: int, target: tuple[int, ...]) -> PartitionImage | None:
    """Return the partition with these replicas only, led by one of them; None if none of them can lead."""
    partition = topic.partitions[index]
    admitted = partition.admitted()
    isr = [n for n in partition.isr if n in target]
    able = [n for n in target if n in isr and is_in_sync(image, partition, n) and is_fit(image, topic, index, n)]
    steady = [n for n in able if not image.brokers[n].is_stopping]
    if not able:
        return None
    leader = partition.leader if partition.leader in steady else (steady or able)[0]
    elr = tuple(n for n in partition.elr if n in target)
    admitted[leader] = image.brokers[leader].broker_epoch
    return partition._replace(
        replicas=target,
        adding_replicas=(),
        removing_replicas=(),
        leader=leader,
        leader_epoch=partition.leader_epoch + 1,
        isr=tuple(isr),
        isr_epochs=tuple(admitted[n] for n in isr),
        elr=elr,
        elr_epochs=tuple(admitted[n] for n in elr),
    )


def growth(image: ClusterImage, topic: TopicImage, wanted: int) -> Iterator[tuple[TopicPartition, Move]]:
    """Yield what gives the partitions of a topic as many replicas as are wanted and brokers are there.

    Replicas are added where the fewest of the topic's are, and never taken away.
    """
    living = [n for n, broker in image.brokers.items() if not broker.is_stopping]
    wanted = min(wanted, len(living))
    load = dict.fromkeys(living, 0)
    for partition in topic.partitions:
        for node_id in partition.replicas:
            if node_id in load:
                load[node_id] += 1
    for index, partition in enumerate(topic.partitions):
        if is_reassigned(partition) or len(partition.replicas) >= wanted or partition.leader == NO_LEADER:
            continue
        target = list(partition.replicas)
        while len(target) < wanted:
            free = [n for n in living if n not in target]
            if not free:
                break
            chosen = min(free, key=lambda node_id: (load[node_id], node_id))
            load[chosen] += 1
            target.append(chosen)
        added = tuple(target[len(partition.replicas) :])
        if added:
            yield TopicPartition(topic.name, index), Move(tuple(target), added)


def grown_min_isr(topic: TopicImage, configs: Mapping[str, str], wanted: int) -> int | None:
    """Return what min.insync.replicas of a topic is to be now that it has grown; None if it can stay.

    A topic that was made by few brokers asks for as few replicas in sync. It is raised when all partitions have grown, and
    only where the topic has a value of its own; what an operator has set higher stays.
    """
    text = configs.get("min.insync.replicas", "")
    if not text.isdecimal() or any(is_reassigned(partition) for partition in topic.partitions):
        return None
    possible = min(wanted, *(len(partition.replicas) for partition in topic.partitions))
    return possible if possible > int(text) else None
