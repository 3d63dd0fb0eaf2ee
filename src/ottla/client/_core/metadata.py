"""What a client knows of the cluster: brokers, topics, leaders; and when to ask again.

Decides when the next Metadata request is due and what of an answer to believe. Knows no connection. Rules of Kafka's
Java client:

  * After `metadata.max.age.ms`, and as soon as something shows that the image is wrong (`request_update`), but with
    back-off while answers bring nothing new (KIP-580). A topic that is named for the first time is asked for at once.
  * A partition keeps its leader against an answer of an older leader epoch (KIP-320): brokers learn of changes at
    different times. A topic of another id is another topic, and its epochs start anew (KIP-516).
  * Leaders that Produce and Fetch answers name are believed if their epoch is newer (KIP-951).
  * Topics that were not used for `metadata.max.idle.ms` are forgotten (KIP-526).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ottla.client._core.backoff import RETRY, Backoff
from ottla.errors import ErrorCode, KafkaError, error_for
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.types import ZERO_UUID

if TYPE_CHECKING:
    from random import Random

NO_LEADER = -1
NO_EPOCH = -1


class Node(NamedTuple):
    """A broker, under the address it advertises."""

    id: int
    host: str
    port: int
    rack: str | None = None


class PartitionInfo(NamedTuple):
    """One partition as an answer told it; `leader` -1: it has none, `leader_epoch` -1: the broker is too old to say."""

    leader: int
    leader_epoch: int
    replicas: tuple[int, ...] = ()
    in_sync_replicas: tuple[int, ...] = ()
    offline_replicas: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic: partition `n` is `partitions[n]`. `id` is all zero where the broker knows no topic ids."""

    name: str
    id: bytes
    partitions: tuple[PartitionInfo, ...]
    is_internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterImage:
    """An immutable snapshot of what is known."""

    cluster_id: str | None = None
    controller_id: int = -1
    nodes: Mapping[int, Node] = field(default_factory=dict)
    topics: Mapping[str, TopicInfo] = field(default_factory=dict)

    def leader(self, topic: str, partition: int) -> PartitionInfo | None:
        """Return the partition if it is known and has a leader that is known, else None."""
        info = self.topics.get(topic)
        if info is None or partition >= len(info.partitions):
            return None
        found = info.partitions[partition]
        return found if found.leader in self.nodes else None

    def topic_named(self, topic_id: bytes) -> TopicInfo | None:
        """Return the topic of an id."""
        return next((info for info in self.topics.values() if info.id == topic_id), None)


class Metadata:
    """The image, which topics it is to hold, and when it is refreshed.

    Attributes:
        image: what is known.
        errors: by topic, why the last answer did not describe it.
        updates: how many answers have been taken in.
        all_topics: whether the image is to hold every topic, also those that nothing has named.
    """

    updates: int

    def __init__(
        self,
        *,
        max_age_ms: float = 300_000,
        max_idle_ms: float = 300_000,
        backoff: Backoff = RETRY,
        random: Random,
        allow_auto_topic_creation: bool = True,
    ) -> None:
        self.image: ClusterImage = ClusterImage()
        self.errors: dict[str, KafkaError] = {}
        self.updates = 0
        self.rebootstrap: bool = False
        self.all_topics = False
        self._max_age_ms = max_age_ms
        self._max_idle_ms = max_idle_ms
        self._backoff = backoff
        self._random = random
        self._allow_auto_topic_creation = allow_auto_topic_creation
        self._last_used: dict[str, float] = {}
        self._wanted = True
        self._urgent = True
        self._in_flight = False
        self._asked_for: frozenset[str] = frozenset()
        self._refreshed_at: float | None = None
        self._fruitless = 0
        self._not_before = 0.0

    # -- what is to be known ----------------------------------------------------------------------------------------

    @property
    def topics(self) -> Iterable[str]:
        """The topics the image is to hold, in the order they were first named."""
        return self._last_used

    def use(self, topic: str, now_ms: float) -> bool:
        """Note that a topic is used; return whether it is new, and therefore asked for at once."""
        new = topic not in self._last_used
        self._last_used[topic] = now_ms
        if new:
            self._wanted = self._urgent = True
        return new

    def forget(self, topic: str) -> None:
        """Drop a topic from the image and ask for it no more."""
        self._last_used.pop(topic, None)
        self.errors.pop(topic, None)
        if topic in self.image.topics:
            self.image = replace(self.image, topics={k: v for k, v in self.image.topics.items() if k != topic})

    def request_update(self) -> None:
        """Something shows that the image is out of date: ask again, after the back-off."""
        self._wanted = True

    # -- asking -----------------------------------------------------------------------------------------------------

    def due_ms(self) -> float:
        """Return when the next request is due; infinity while one is in flight."""
        if self._in_flight:
            return float("inf")
        if self._urgent:
            return 0.0
        if self._wanted or self._refreshed_at is None:
            return self._not_before
        return max(self._refreshed_at + self._max_age_ms, self._not_before)

    def make_request(self, now_ms: float, version: int) -> MetadataRequest:
        """Return the request that is due, in a version of Metadata, and note that it is in flight."""
        idle = [topic for topic, used in self._last_used.items() if used + self._max_idle_ms <= now_ms]
        for topic in idle:
            self.forget(topic)
        self._in_flight = True
        self._wanted = self._urgent = False
        self._asked_for = frozenset(self._last_used)
        if self.all_topics:
            request = MetadataRequest(topics=None if version >= 1 else [])
        else:
            request = MetadataRequest(topics=[MetadataRequestTopic(name=topic) for topic in self._last_used])
        if version >= 4:
            request.allow_auto_topic_creation = self._allow_auto_topic_creation
        return request

    def on_failure(self, now_ms: float) -> None:
        """The request in flight failed."""
        self._in_flight = False
        self._wanted = True
        self._back_off(now_ms)

    def on_response(self, response: MetadataResponse, now_ms: float) -> None:
        """Take an answer in."""
        self._in_flight = False
        if response.error_code == ErrorCode.REBOOTSTRAP_REQUIRED:
            self.rebootstrap = True
        if response.error_code or not response.brokers:
            # A broker that has just started may not know the others yet, nor itself.
            self._wanted = True
            self._back_off(now_ms)
            return
        before = self.image
        topics: dict[str, TopicInfo] = {}
        for told in response.topics:
            name = told.name
            if name is None or (name not in self._last_used and not self.all_topics):
                continue
            if told.error_code:
                self.errors[name] = error_for(
                    told.error_code, _TOPIC_PROBLEMS.get(told.error_code, "").format(name) or None
                )
                self._wanted |= self.errors[name].retriable
                continue
            self.errors.pop(name, None)
            known = before.topics.get(name)
            topics[name] = info = self._merge(known, told)
            # A partition without a leader gets one soon.
            self._wanted |= any(part.leader == NO_LEADER for part in info.partitions)
        for name in self._last_used.keys() - self._asked_for:
            if name in before.topics and name not in topics:
                topics[name] = before.topics[name]
        if self.all_topics:
            for name in self._last_used.keys() - topics.keys() - self.errors.keys():
                self.errors[name] = error_for(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        self.image = ClusterImage(
            cluster_id=response.cluster_id,
            controller_id=response.controller_id,
            nodes={
                broker.node_id: Node(broker.node_id, broker.host, broker.port, broker.rack)
                for broker in response.brokers
            },
            topics=topics,
        )
        self.updates += 1
        self._refreshed_at = now_ms
        if self._wanted and self.image == before:
            self._back_off(now_ms)
        else:
            self._fruitless = 0
            self._not_before = now_ms + self._backoff.delay_ms(1, self._random)

    def learn_leader(
        self, topic: str, partition: int, leader: int, leader_epoch: int, nodes: Iterable[Node] = ()
    ) -> bool:
        """Take in a leader that another answer named; return whether that was news (KIP-951)."""
        info = self.image.topics.get(topic)
        if info is None or partition >= len(info.partitions) or leader < 0:
            return False
        known = info.partitions[partition]
        if leader_epoch <= known.leader_epoch:
            return False
        addresses = dict(self.image.nodes)
        addresses.update((node.id, node) for node in nodes)
        if leader not in addresses:
            return False
        partitions = list(info.partitions)
        partitions[partition] = known._replace(leader=leader, leader_epoch=leader_epoch)
        topics = dict(self.image.topics)
        topics[topic] = replace(info, partitions=tuple(partitions))
        self.image = replace(self.image, nodes=addresses, topics=topics)
        self.updates += 1
        return True

    def _merge(self, known: TopicInfo | None, told: object) -> TopicInfo:
        from ottla.protocol.messages.metadata import MetadataResponseTopic

        assert isinstance(told, MetadataResponseTopic)
        same = known is not None and (known.id == told.topic_id or ZERO_UUID in (known.id, told.topic_id))
        count = 1 + max((part.partition_index for part in told.partitions), default=-1)
        partitions = [PartitionInfo(NO_LEADER, NO_EPOCH)] * count
        for part in told.partitions:
            fresh = PartitionInfo(
                part.leader_id,
                part.leader_epoch,
                tuple(part.replica_nodes),
                tuple(part.isr_nodes),
                tuple(part.offline_replicas),
            )
            if same and known is not None and part.partition_index < len(known.partitions):
                old = known.partitions[part.partition_index]
                if NO_EPOCH < fresh.leader_epoch < old.leader_epoch:
                    fresh = old
            partitions[part.partition_index] = fresh
        assert told.name is not None
        return TopicInfo(told.name, told.topic_id, tuple(partitions), told.is_internal)

    def _back_off(self, now_ms: float) -> None:
        self._fruitless += 1
        self._not_before = now_ms + self._backoff.delay_ms(self._fruitless, self._random)


_TOPIC_PROBLEMS: Mapping[int, str] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "There is no topic {!r} on the cluster, and naming it did not create it.",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "{!r} is no name for a topic: at most 249 letters, digits, '.', '_' and '-'.",
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: "Not authorized: DESCRIBE on topic {!r}.",
}
