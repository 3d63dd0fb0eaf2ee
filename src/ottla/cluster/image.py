"""ClusterImage: an immutable snapshot of what the cluster looks like, and ImageDelta: what the last change touched.

The image is what every broker believes at one moment: brokers, topics with their partitions, configurations. It is never
changed in place; `follow.MetadataFollower` builds a new one from the old one and the nodes named by a change, and tells
subscribers both. Readers may keep an image as long as they like.

Decides nothing and does no I/O. Invariants: `topic_names` is the inverse of `topics`; partition indexes are dense from 0;
configurations with no overrides have no entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from ottla.cluster.decisions.features import finalized
from ottla.security.acls import Rules
from ottla.types import INTERNAL_TOPICS, TopicPartition

# The kinds of configuration, spelled as in the tree (/config/<kind>/<name>).
TOPICS = "topics"
BROKERS = "brokers"
GROUPS = "groups"
CLIENT_METRICS = "client-metrics"

USERS = "users"
CLIENTS = "clients"
IPS = "ips"
OWN = "ottla"

NAMED_AS_NODES = frozenset({USERS, CLIENTS, IPS, OWN})
"""Kinds whose names here are those of their nodes (`sanitize`d): a user called `<default>` is not the default of all."""

DEFAULT_ENTITY = "<default>"
"""Name of the cluster-wide default of a kind, as in Kafka's tree (/config/brokers/<default>)."""

NO_LEADER = -1


class ConfigResource(NamedTuple):
    """What a configuration belongs to: `kind` is TOPICS, BROKERS, GROUPS, CLIENT_METRICS or one of `NAMED_AS_NODES`."""

    kind: str
    name: str


class Endpoint(NamedTuple):
    """Where a broker is reached on one listener. `host` may be "" with listener auto: answer with the client's address."""

    listener: str
    host: str
    port: int
    security_protocol: str


class BrokerImage(NamedTuple):
    """One live broker.

    Attributes:
        broker_epoch: the version of its epoch node: raised by each registration, and when it begins to stop.
        continues: the oldest epoch that this one continues unbroken: what was in sync under it still is.
        is_stopping: it is about to stop and is to lead nothing.
        machine: a text that only brokers have that reach each other by loopback addresses; "" if it is not known.
        process: the random text of the process that registered.
        listener: by which it reaches the other brokers (`inter.broker.listener.name`); "" if it is not known.
    """

    node_id: int
    broker_epoch: int
    endpoints: tuple[Endpoint, ...]
    rack: str | None = None
    continues: int = 0
    is_stopping: bool = False
    machine: str = ""
    process: str = ""
    listener: str = ""

    def continues_from(self, admitted_epoch: int) -> bool:
        """Return whether a replica that was in sync under this epoch of the broker still is."""
        return self.continues <= admitted_epoch

    def endpoint(self, listener: str) -> Endpoint | None:
        """Return the endpoint of the listener with this name, if the broker has one."""
        for endpoint in self.endpoints:
            if endpoint.listener == listener:
                return endpoint
        return None


class LogEnd(NamedTuple):
    """Where a log ends. Of two logs the one with the larger LogEnd has all that the other one has, or is newer."""

    last_epoch: int
    end_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerEnds:
    """What /brokers/ends/<id> says: where logs ended, by (topic id, partition), and under which epoch that was written."""

    broker_epoch: int
    ends: Mapping[tuple[bytes, int], LogEnd]


class PartitionImage(NamedTuple):
    """One partition. `leader` is NO_LEADER when no broker leads; `partition_epoch` is the version of its state node.

    Attributes:
        isr_epochs, elr_epochs: under which broker epoch each member of `isr` and of `elr` was admitted; `isr_epochs` may be
            empty: then all count as admitted under epoch 0.
        elr: replicas that are not in sync but have everything that was acknowledged (KIP-966).
        leader_recovery_state: 1 after an unclean election, until other replicas are in sync again (KIP-704).
        recovered_in: the leader epoch of the last election by log ends; -1 if there was none.
    """

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    partition_epoch: int
    adding_replicas: tuple[int, ...] = ()
    removing_replicas: tuple[int, ...] = ()
    isr_epochs: tuple[int, ...] = ()
    elr: tuple[int, ...] = ()
    elr_epochs: tuple[int, ...] = ()
    leader_recovery_state: int = 0
    recovered_in: int = -1

    def admitted(self) -> dict[int, int]:
        """Return the members of `isr` and `elr` with the broker epochs they were admitted under."""
        isr_epochs = self.isr_epochs or (0,) * len(self.isr)
        return dict(zip((*self.isr, *self.elr), (*isr_epochs, *self.elr_epochs), strict=True))


class TopicImage(NamedTuple):
    """One topic. `topic_id` is 16 bytes.

    `creating` is (node id, broker epoch) of the broker that makes the topic, until all its partitions have states.
    """

    name: str
    topic_id: bytes
    partitions: tuple[PartitionImage, ...]
    creating: tuple[int, int] | None = None

    @property
    def is_internal(self) -> bool:
        return self.name in INTERNAL_TOPICS


_NO_CONFIG: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterImage:
    """A snapshot of the cluster.

    Attributes:
        cluster_id: 22 characters of base64url, as in meta.properties.
        brokers: live brokers by node id.
        topics: by name; topic_names: topic id (16 bytes) to name.
        configs: overrides only, by ConfigResource(kind, name).
        controller_id: node id of the active controller, -1 when there is none.
        epoch: number of the last change applied; grows with every image.
        features: the level of every feature (KIP-584); features_epoch grows when one is changed.
        unfit: by node id, the (topic id, partition) pairs that a broker holds and cannot lead.
        ends: by node id, where logs end, of brokers that have said so.
        deleted: ids of topics that are deleted for good; kept for some days.
        acls: access rules by the resources they are about; the same object until one changes.
    """

    cluster_id: str = ""
    brokers: Mapping[int, BrokerImage] = field(default_factory=dict)
    topics: Mapping[str, TopicImage] = field(default_factory=dict)
    topic_names: Mapping[bytes, str] = field(default_factory=dict)
    configs: Mapping[ConfigResource, Mapping[str, str]] = field(default_factory=dict)
    controller_id: int = -1
    epoch: int = -1
    features: Mapping[str, int] = field(default_factory=lambda: finalized({}))
    features_epoch: int = 0
    unfit: Mapping[int, frozenset[tuple[bytes, int]]] = field(default_factory=dict)
    ends: Mapping[int, BrokerEnds] = field(default_factory=dict)
    deleted: frozenset[bytes] = frozenset()
    acls: Rules = field(default_factory=dict)

    def topic_by_id(self, topic_id: bytes) -> TopicImage | None:
        """Return the topic with this id, if it exists."""
        name = self.topic_names.get(topic_id)
        return None if name is None else self.topics.get(name)

    def partition(self, topic_partition: TopicPartition) -> PartitionImage | None:
        """Return the partition, or None if the topic does not exist or is smaller."""
        topic = self.topics.get(topic_partition.topic)
        if topic is None or not 0 <= topic_partition.partition < len(topic.partitions):
            return None
        return topic.partitions[topic_partition.partition]

    def config(self, kind: str, name: str) -> Mapping[str, str]:
        """Return the overrides of one resource; empty when there are none."""
        return self.configs.get(ConfigResource(kind, name), _NO_CONFIG)

    def topic_config(self, topic: str) -> Mapping[str, str]:
        """Return the topic's overrides, as strings in Kafka's spelling."""
        return self.configs.get(ConfigResource(TOPICS, topic), _NO_CONFIG)

    def partitions_on(self, node_id: int) -> Iterator[tuple[TopicPartition, PartitionImage]]:
        """Iterate over the partitions with a replica on this broker."""
        for topic in self.topics.values():
            for index, partition in enumerate(topic.partitions):
                if node_id in partition.replicas:
                    yield TopicPartition(topic.name, index), partition


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDelta:
    """What differs between the image before and the image now.

    A topic deleted and created again under the same name between two images is in both `deleted` (with the old id) and
    `created`: handle `deleted` first.

    Attributes:
        created: names of topics that are new.
        deleted: the topics that are gone, as they were.
        changed: names of topics with other partitions, leaders, ISRs or replicas than before.
        changed_partitions: by the names in `changed`, the indexes of the partitions that are new or not what they were.
        changed_configs: resources whose overrides are not what they were.
        brokers_changed: a broker came, went, moved, begins to stop or cannot lead what it could; or the controller changed.
        features_changed: a feature has another level.
        acls_changed: access rules are not what they were.
    """

    created: tuple[str, ...] = ()
    deleted: tuple[TopicImage, ...] = ()
    changed: tuple[str, ...] = ()
    changed_partitions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    changed_configs: tuple[ConfigResource, ...] = ()
    brokers_changed: bool = False
    features_changed: bool = False
    acls_changed: bool = False

    @property
    def is_empty(self) -> bool:
        return not (
            self.created
            or self.deleted
            or self.changed
            or self.changed_configs
            or self.brokers_changed
            or self.features_changed
            or self.acls_changed
        )


def delta_between(before: ClusterImage, after: ClusterImage) -> ImageDelta:
    """Compare two whole images (used after a reload; following a change knows its delta already)."""
    created: list[str] = []
    changed: dict[str, tuple[int, ...]] = {}
    deleted = [
        topic
        for name, topic in before.topics.items()
        if name not in after.topics or after.topics[name].topic_id != topic.topic_id
    ]
    for name, topic in after.topics.items():
        old = before.topics.get(name)
        if old is None or old.topic_id != topic.topic_id:
            created.append(name)
        elif old != topic:
            changed[name] = differing(old, topic)
    resources = [r for r, config in after.configs.items() if before.configs.get(r) != config]
    resources += [r for r in before.configs if r not in after.configs]
    return ImageDelta(
        created=tuple(created),
        deleted=tuple(deleted),
        changed=tuple(changed),
        changed_partitions=changed,
        changed_configs=tuple(resources),
        brokers_changed=brokers_differ(before, after),
        acls_changed=before.acls != after.acls,
        features_changed=before.features != after.features,
    )


def newest(before: TopicImage | None, after: TopicImage) -> TopicImage:
    """Return `after`, with those partitions as they were of which it knows less than `before`.

    The states of a topic are read one after the other, from servers that may lag behind what was read before. A version
    that is lower, or a state that is missing, is an older one as long as the topic is the same.
    """
    if before is None or before.topic_id != after.topic_id:
        return after
    pairs = zip(before.partitions, after.partitions, strict=False)
    stale = [
        i
        for i, (old, new) in enumerate(pairs)
        if old.isr and (not new.isr or new.partition_epoch < old.partition_epoch)
    ]
    if not stale:
        return after
    partitions = list(after.partitions)
    for index in stale:
        partitions[index] = before.partitions[index]
    return after._replace(partitions=tuple(partitions))


def differing(before: TopicImage, after: TopicImage) -> tuple[int, ...]:
    """Return the indexes of the partitions that are new in `after` or not what they were."""
    old = before.partitions
    return tuple(i for i, partition in enumerate(after.partitions) if i >= len(old) or old[i] != partition)


def brokers_differ(before: ClusterImage, after: ClusterImage) -> bool:
    """Return whether anything that is said of brokers, or who is the controller, is not what it was."""
    return any(getattr(before, name) != getattr(after, name) for name in ("brokers", "controller_id", "unfit", "ends"))
