"""Who leads a partition. Pure: an image in, the partitions that are to change out.

Everything is decided from what is in the image now, never from what has just happened: run again it decides the same, and
what was missed once is made up for the next time.

A replica may lead if it is a member of ISR or ELR (it has everything that was acknowledged), is registered under an epoch
that continues the one it was admitted under (it has not lost it since), can lead (`unfit`), and does not stop. Of these the
first one of the assignment leads, members of the ISR before others. If there is none, no broker leads: with exceptions for
the only replica, for topics that prefer being available to keeping what was acknowledged, and for the case that all
replicas were down at once, in which the longest log of all of them leads (KIP-966 has no such election).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import NO_LEADER, ClusterImage, LogEnd, PartitionImage, TopicImage
from ottla.errors import ErrorCode
from ottla.types import TopicPartition

PREFERRED = 0
UNCLEAN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionRules:
    """What elections take from elsewhere.

    Attributes:
        min_isr: min.insync.replicas of a topic.
        is_unclean_allowed: unclean.leader.election.enable of a topic.
    """

    min_isr: Callable[[str], int] = lambda topic: 1
    is_unclean_allowed: Callable[[str], bool] = lambda topic: False


def elections(
    image: ClusterImage, partitions: Iterable[tuple[TopicImage, int]], rules: ElectionRules
) -> Iterator[tuple[TopicPartition, PartitionImage]]:
    """Yield those of the partitions that need another leader, with what they are to be."""
    for topic, index in partitions:
        elected = elect(image, topic, index, rules)
        if elected is not None:
            yield TopicPartition(topic.name, index), elected


def elect(image: ClusterImage, topic: TopicImage, index: int, rules: ElectionRules) -> PartitionImage | None:
    """Return what a partition is to be; None if it can stay as it is."""
    partition = topic.partitions[index]
    if not partition.isr:
        return None  # its state is missing: the topic is being made or deleted, and has nothing to lead
    if is_led(image, topic, index):
        return None
    candidates = _candidates(image, topic, index)
    if candidates:
        moving = [node_id for node_id in candidates if not image.brokers[node_id].is_stopping]
        if not moving and partition.leader in candidates:
            return None  # it stops, and there is no other: it leads until it is gone
        return _led_cleanly(image, topic, index, (moving or candidates)[0], rules.min_isr(topic.name))
    return _elect_without_candidates(image, topic, index, rules)


def why_led_anew(image: ClusterImage, topic: TopicImage, index: int, elected: PartitionImage) -> str:
    """Return, for people, why a partition gets another leader or epoch; `image` is what that was decided on."""
    before = topic.partitions[index]
    if before.leader == NO_LEADER:
        return "it had no leader"
    broker = image.brokers.get(before.leader)
    if broker is None:
        return f"broker {before.leader} is gone"
    if broker.is_stopping:
        return f"broker {before.leader} stops"
    if before.leader not in before.isr:
        return f"broker {before.leader} is not in sync"
    if not broker.continues_from(before.admitted()[before.leader]):
        return f"broker {before.leader} was restarted, and may have lost what was not on its disk"
    if len(before.replicas) > 1 and _is_unfit(image, topic, index, before.leader):
        return f"broker {before.leader} cannot lead it: its log directory is offline, or its log is damaged"
    if elected.leader == before.replicas[0]:
        return f"broker {elected.leader} is its preferred leader"
    return "that was asked for"


def is_led(image: ClusterImage, topic: TopicImage, index: int) -> bool:
    """Return whether the leader of a partition is one that may stay."""
    partition = topic.partitions[index]
    leader = image.brokers.get(partition.leader)
    if leader is None or leader.is_stopping or partition.leader not in partition.isr:
        return False
    if not leader.continues_from(partition.admitted()[partition.leader]):
        return False
    return len(partition.replicas) == 1 or not _is_unfit(image, topic, index, partition.leader)


def is_in_sync(image: ClusterImage, partition: PartitionImage, node_id: int) -> bool:
    """Return whether a member of ISR or ELR is registered and still has everything it was admitted with."""
    broker = image.brokers.get(node_id)
    admitted = partition.admitted().get(node_id)
    return broker is not None and admitted is not None and broker.continues_from(admitted)


def is_fit(image: ClusterImage, topic: TopicImage, index: int, node_id: int) -> bool:
    """Return whether a broker can lead the replica that it holds; an only replica leads, damaged or not."""
    return not _is_unfit(image, topic, index, node_id) or len(topic.partitions[index].replicas) == 1


def _is_unfit(image: ClusterImage, topic: TopicImage, index: int, node_id: int) -> bool:
    return (topic.topic_id, index) in image.unfit.get(node_id, ())


def _candidates(image: ClusterImage, topic: TopicImage, index: int) -> list[int]:
    """Return the replicas that may lead, the best first."""
    partition = topic.partitions[index]
    members = [n for n in partition.replicas if n in partition.isr]
    members += [n for n in partition.isr if n not in partition.replicas]  # a replica that is being taken away
    members += [n for n in partition.replicas if n in partition.elr]
    return [n for n in members if is_in_sync(image, partition, n) and not _is_unfit(image, topic, index, n)]


def _led_cleanly(image: ClusterImage, topic: TopicImage, index: int, leader: int, min_isr: int) -> PartitionImage:
    """Return the partition with this member as its leader.

    Members that are registered but have lost what they had are members no more. Members that are not registered leave the
    ISR, for the ELR if the ISR gets smaller than min.insync.replicas: nothing can be acknowledged then that they do not
    have.
    """
    partition = topic.partitions[index]
    admitted = partition.admitted()
    isr = [n for n in partition.isr if n == leader or is_in_sync(image, partition, n)]
    if leader not in isr:
        isr.append(leader)
    elr = [n for n in partition.elr if n != leader and (n not in image.brokers or is_in_sync(image, partition, n))]
    if len(isr) < min(min_isr, len(partition.replicas)):
        elr += [n for n in partition.isr if n not in image.brokers and n not in elr]
    else:
        elr = []
    epochs = {**admitted, leader: image.brokers[leader].broker_epoch}
    return partition._replace(
        leader=leader,
        leader_epoch=partition.leader_epoch + 1,
        isr=tuple(isr),
        isr_epochs=tuple(epochs[n] for n in isr),
        elr=tuple(elr),
        elr_epochs=tuple(epochs[n] for n in elr),
    )


def _elect_without_candidates(
    image: ClusterImage, topic: TopicImage, index: int, rules: ElectionRules
) -> PartitionImage | None:
    partition = topic.partitions[index]
    if len(partition.replicas) == 1:
        only = partition.replicas[0]
        # It has all there is, damaged or not, and serves what can be read of it; its log may be shorter than it was.
        if only in image.brokers:
            return _led_alone(image, partition, only)
    elif rules.is_unclean_allowed(topic.name) and not topic.is_internal:
        chosen = _first_registered(image, topic, index)
        if chosen is not None:
            return _led_alone(image, partition, chosen)._replace(leader_recovery_state=1)
    else:
        longest = _longest(image, topic, index)
        if longest is not None:
            return _led_alone(image, partition, longest)._replace(
                leader_recovery_state=1, recovered_in=partition.leader_epoch + 1
            )
    if partition.leader == NO_LEADER:
        return None
    return partition._replace(leader=NO_LEADER, leader_epoch=partition.leader_epoch + 1)


def _led_alone(image: ClusterImage, partition: PartitionImage, leader: int) -> PartitionImage:
    return partition._replace(
        leader=leader,
        leader_epoch=partition.leader_epoch + 1,
        isr=(leader,),
        isr_epochs=(image.brokers[leader].broker_epoch,),
        elr=(),
        elr_epochs=(),
    )


def _first_registered(image: ClusterImage, topic: TopicImage, index: int) -> int | None:
    for node_id in topic.partitions[index].replicas:
        broker = image.brokers.get(node_id)
        if broker is not None and not broker.is_stopping and not _is_unfit(image, topic, index, node_id):
            return node_id
    return None


def _longest(image: ClusterImage, topic: TopicImage, index: int) -> int | None:
    """Return whose log is the longest of all members of the last ISR and ELR; None as long as that is not known of all.

    An unfit log counts as one that others must not be shorter than, and cannot lead itself: then an operator decides.
    """
    partition = topic.partitions[index]
    found: list[tuple[LogEnd, int]] = []
    for node_id in (*partition.isr, *partition.elr):
        broker, said = image.brokers.get(node_id), image.ends.get(node_id)
        if broker is None or said is None or said.broker_epoch != broker.broker_epoch:
            return None
        end = said.ends.get((topic.topic_id, index))
        if end is None:
            return None
        found.append((end, node_id))
    best = max(end for end, _ in found)
    able = [n for end, n in found if end == best and not _is_unfit(image, topic, index, n)]
    return next((n for n in partition.replicas if n in able), None)


def waits_for_ends(image: ClusterImage, topic: TopicImage, index: int, node_id: int) -> bool:
    """Return whether an election needs to know where this broker's log ends: see `_longest`."""
    partition = topic.partitions[index]
    if len(partition.replicas) == 1 or not partition.isr or node_id not in (*partition.isr, *partition.elr):
        return False
    return not is_led(image, topic, index) and not _candidates(image, topic, index)


def preferred_elections(image: ClusterImage) -> Iterator[tuple[TopicPartition, PartitionImage]]:
    """Yield the partitions that can go back to their preferred leaders (the first replicas), with these."""
    for topic in image.topics.values():
        for index, partition in enumerate(topic.partitions):
            preferred = partition.replicas[0]
            if partition.leader != preferred and can_lead_in_isr(image, topic, index, preferred):
                yield (
                    TopicPartition(topic.name, index),
                    led_by(partition, preferred, image.brokers[preferred].broker_epoch),
                )


def can_lead_in_isr(image: ClusterImage, topic: TopicImage, index: int, node_id: int) -> bool:
    """Return whether leadership can be moved to this replica without anything else changing."""
    partition = topic.partitions[index]
    return (
        partition.leader != NO_LEADER
        and node_id in partition.isr
        and is_in_sync(image, partition, node_id)
        and not image.brokers[node_id].is_stopping
        and not _is_unfit(image, topic, index, node_id)
    )


def led_by(partition: PartitionImage, node_id: int, broker_epoch: int | None = None) -> PartitionImage:
    """Return the partition with this member of its ISR as leader, in a new epoch.

    Args:
        broker_epoch: under which it is registered, if that is to be noted; it continues the one it was admitted under.
    """
    admitted = partition.admitted()
    if broker_epoch is not None:
        admitted[node_id] = broker_epoch
    return partition._replace(
        leader=node_id, leader_epoch=partition.leader_epoch + 1, isr_epochs=tuple(admitted[n] for n in partition.isr)
    )


def elect_on_request(
    image: ClusterImage, topic_partition: TopicPartition, election_type: int
) -> PartitionImage | Refusal:
    """Decide about ElectLeaders for one partition; return the partition with its new leader."""
    name, index = topic_partition
    topic = image.topics.get(name)
    if topic is None:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such topic as {name}")
    if image.partition(topic_partition) is None:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"No such partition as {name}-{index}")
    partition = topic.partitions[index]
    preferred = partition.replicas[0]
    if election_type == PREFERRED:
        if partition.leader == preferred:
            return Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
        if can_lead_in_isr(image, topic, index, preferred):
            return led_by(partition, preferred, image.brokers[preferred].broker_epoch)
        return Refusal(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, "The preferred leader was not available.")
    if partition.leader != NO_LEADER:
        return Refusal(ErrorCode.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
    candidates = _candidates(image, topic, index)
    if candidates:
        return _led_cleanly(image, topic, index, candidates[0], 1)
    chosen = _first_registered(image, topic, index) if partition.isr else None
    if chosen is None:
        return Refusal(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, "Eligible topic partition leaders are not available.")
    return _led_alone(image, partition, chosen)._replace(leader_recovery_state=0 if len(partition.replicas) == 1 else 1)
