"""What becomes of a request to make, delete or enlarge topics. Pure: an image and the request in, a plan or a refusal out.

Codes and messages are those of Apache Kafka's controller (KRaft), in its order of checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.cluster.decisions.configs import validate_topic_config
from ottla.cluster.decisions.placement import place
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.decisions.topic_names import colliding_names, unified, why_invalid
from ottla.cluster.image import BrokerImage, PartitionImage
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from random import Random

    from ottla.cluster.image import ClusterImage
    from ottla.config.effective import Levels

#: More than this in one request is refused, whatever the topics.
PARTITIONS_PER_REQUEST_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to be made.

    Attributes:
        num_partitions, replication_factor: -1 is the broker's default.
        assignments: (partition, replicas) pairs as given; if there are any, the two numbers must be -1.
        configs: overrides; None is an error of the client.
    """

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    assignments: Sequence[tuple[int, Sequence[int]]] = ()
    configs: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """A topic that can be made."""

    name: str
    topic_id: bytes
    partitions: tuple[PartitionImage, ...]
    configs: Mapping[str, str]


def plan_topics(
    image: ClusterImage,
    topics: Sequence[NewTopic],
    *,
    num_partitions: int,
    replication_factor: int,
    levels: Levels,
    random: Random,
) -> list[TopicPlan | Refusal]:
    """Decide about each topic of a request; names are unique in it. The defaults are what -1 stands for."""
    total = sum(
        len(t.assignments) or (num_partitions if t.num_partitions == -1 else max(t.num_partitions, 0)) for t in topics
    )
    if total > PARTITIONS_PER_REQUEST_MAX:
        excess = Refusal(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")
        return [excess for _ in topics]
    taken = colliding_names(image.topics)
    plans: list[TopicPlan | Refusal] = []
    for topic in topics:
        refusal = _check_name(topic.name, image, taken)
        configs: dict[str, str] = {}
        if refusal is None:
            nulls = [name for name, value in topic.configs.items() if value is None]
            configs = {name: value for name, value in topic.configs.items() if value is not None}
            if nulls:
                refusal = Refusal(
                    ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {','.join(nulls)}"
                )
            else:
                refusal = validate_topic_config(configs, levels)
        if refusal is not None:
            plans.append(refusal)
            continue
        replicas = _assign(image.brokers, topic, num_partitions, replication_factor, random)
        if isinstance(replicas, Refusal):
            plans.append(replicas)
            continue
        plans.append(
            TopicPlan(
                name=topic.name,
                topic_id=new_topic_id(random),
                partitions=tuple(new_partition(r, image.brokers) for r in replicas),
                configs=configs,
            )
        )
    return plans


def new_topic_id(random: Random) -> bytes:
    """Return a random uuid (version 4) that no tool mistakes for a flag: its text does not begin with "-"."""
    while True:
        uuid = bytearray(random.randbytes(16))
        uuid[6] = uuid[6] & 0x0F | 0x40
        uuid[8] = uuid[8] & 0x3F | 0x80
        if uuid[0] >> 2 != 62:  # 62 is "-" in URL-safe base64
            return bytes(uuid)


def new_partition(replicas: Sequence[int], brokers: Mapping[int, BrokerImage]) -> PartitionImage:
    """Return a partition as it begins: the live replicas in sync, the first of them leads."""
    isr = tuple(node_id for node_id in replicas if node_id in brokers)
    epochs = tuple(brokers[node_id].broker_epoch for node_id in isr)
    return PartitionImage(tuple(replicas), isr, isr[0], 0, 0, isr_epochs=epochs)


def _check_name(name: str, image: ClusterImage, taken: Mapping[str, str]) -> Refusal | None:
    if name in image.topics:
        return Refusal(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
    invalid = why_invalid(name)
    if invalid is not None:
        return Refusal(ErrorCode.INVALID_TOPIC_EXCEPTION, invalid)
    if ("." in name or "_" in name) and unified(name) in taken:
        return Refusal(
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            f"Topic '{name}' collides with existing topic: {taken[unified(name)]}",
        )
    return None


def _assign(
    brokers: Mapping[int, BrokerImage], topic: NewTopic, num_partitions: int, replication_factor: int, random: Random
) -> list[tuple[int, ...]] | Refusal:
    if topic.assignments:
        return _assign_as_told(brokers, topic)
    if topic.replication_factor < -1 or topic.replication_factor == 0:
        return Refusal(
            ErrorCode.INVALID_REPLICATION_FACTOR,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    if topic.num_partitions < -1 or topic.num_partitions == 0:
        return Refusal(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    return place(
        brokers,
        num_partitions if topic.num_partitions == -1 else topic.num_partitions,
        replication_factor if topic.replication_factor == -1 else topic.replication_factor,
        random,
    )


def _assign_as_told(brokers: Mapping[int, BrokerImage], topic: NewTopic) -> list[tuple[int, ...]] | Refusal:
    for value, what in ((topic.replication_factor, "replication factor"), (topic.num_partitions, "numPartitions")):
        if value != -1:
            return Refusal(
                ErrorCode.INVALID_REQUEST,
                f"A manual partition assignment was specified, but {what} was not set to -1.",
            )
    told: dict[int, tuple[int, ...]] = {}
    expected: int | None = None
    for index, replicas in topic.assignments:
        if index in told:
            return Refusal(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"Found multiple manual partition assignments for partition {index}",
            )
        refusal = check_assignment(replicas, brokers, expected)
        if refusal is not None:
            return refusal
        expected = len(replicas)
        told[index] = tuple(replicas)
    if set(told) != set(range(len(told))):
        return Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence"
        )
    return [told[index] for index in range(len(told))]


def check_assignment(
    replicas: Sequence[int], brokers: Mapping[int, BrokerImage], replication_factor: int | None
) -> Refusal | None:
    """Return what is wrong with the replicas a client wants, None if they are fine."""
    start = "The manual partition assignment includes "
    message = None
    if not replicas:
        message = start + "an empty replica list."
    before: int | None = None
    for node_id in sorted(replicas):
        if node_id not in brokers:
            message = f"{start}broker {node_id}, but no such broker is registered."
        elif node_id == before:
            message = f"{start}the broker {node_id} more than once."
        if message is not None:
            break
        before = node_id
    if message is None and replication_factor is not None and len(replicas) != replication_factor:
        message = (
            f"{start}a partition with {len(replicas)} replica(s), but this is not consistent with previous "
            f"partitions, which have {replication_factor} replica(s)."
        )
    return None if message is None else Refusal(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)


def plan_growth(
    image: ClusterImage, name: str, count: int, assignments: Sequence[Sequence[int]] | None, random: Random
) -> tuple[PartitionImage, ...] | Refusal:
    """Decide about more partitions for a topic; return the new ones."""
    topic = image.topics.get(name)
    if topic is None:
        return Refusal(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    if topic.is_internal:
        # Keys are hashed with the count: with another one a group or a transaction would have a second coordinator.
        return Refusal(ErrorCode.INVALID_REQUEST, f"The internal topic {name} cannot be given more partitions.")
    now = len(topic.partitions)
    if count == now:
        return Refusal(ErrorCode.INVALID_PARTITIONS, f"Topic already has {now} partition(s).")
    if count < now:
        return Refusal(
            ErrorCode.INVALID_PARTITIONS,
            f"The topic {name} currently has {now} partition(s); {count} would not be an increase.",
        )
    more = count - now
    if assignments is not None and len(assignments) != more:
        return Refusal(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            f"Attempted to add {more} additional partition(s), but only {len(assignments)} assignment(s) were specified.",
        )
    if more > PARTITIONS_PER_REQUEST_MAX:
        return Refusal(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")
    replication_factor = len(topic.partitions[0].replicas)
    if assignments is None:
        placed = place(image.brokers, more, replication_factor, random)
        if isinstance(placed, Refusal):
            return placed._replace(message=(placed.message or "").partition(": ")[2] or placed.message)
        assignments = placed
    else:
        for replicas in assignments:
            refusal = check_assignment(replicas, image.brokers, replication_factor)
            if refusal is not None:
                return refusal
    return tuple(new_partition(replicas, image.brokers) for replicas in assignments)
