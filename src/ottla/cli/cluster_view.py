"""A cluster as an admin client sees it: brokers, whether each answers, what it holds; what is wrong with partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ottla.cli.balance import ClusterLoad, PartitionLoad
from ottla.client.admin_errors import AdminErrors
from ottla.errors import ClusterAuthorizationFailedError, KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.cli.running import Connection
    from ottla.client.admin import Admin
    from ottla.client.admin_results import LogDirDescription, PartitionDescription

#: A broker that says nothing for so long does not answer, though it may still be registered.
ANSWER_MS: Final = 4_000


@dataclass(slots=True, kw_only=True)
class BrokerView:
    """A broker that is registered. `error` says why it does not answer; `size` is None where it does not say."""

    id: int
    address: str
    rack: str | None
    error: str | None = None
    size: int | None = None
    offline_dirs: tuple[str, ...] = ()
    leads: int = 0
    replicas: int = 0
    out_of_sync: int = 0

    @property
    def answers(self) -> bool:
        return self.error is None


@dataclass(slots=True, kw_only=True)
class ClusterView:
    """What was found. `sizes`: bytes of the largest replica, by partition."""

    cluster_id: str
    controller: int | None
    brokers: Mapping[int, BrokerView]
    partitions: Mapping[TopicPartition, PartitionDescription]
    topic_count: int = 0
    sizes: Mapping[TopicPartition, int] = field(default_factory=dict)

    @property
    def without_leader(self) -> list[str]:
        """Partitions that no broker leads that answers."""
        return [str(tp) for tp, part in self.partitions.items() if not self._is_up(part.leader)]

    @property
    def under_replicated(self) -> list[str]:
        return [str(tp) for tp, part in self.partitions.items() if self.lacking(part)]

    @property
    def absent(self) -> list[int]:
        """Brokers that hold replicas and are not registered."""
        return sorted({n for part in self.partitions.values() for n in part.replicas} - self.brokers.keys())

    def lacking(self, part: PartitionDescription) -> list[int]:
        return [n for n in part.replicas if n not in part.in_sync_replicas or not self._is_up(n)]

    def _is_up(self, node_id: int | None) -> bool:
        broker = None if node_id is None else self.brokers.get(node_id)
        return broker is not None and broker.answers

    def load(self) -> ClusterLoad:
        """Return what plans are made of: brokers that answer, and all partitions."""
        return ClusterLoad(
            racks={n: broker.rack for n, broker in self.brokers.items() if broker.answers},
            partitions={
                tp: PartitionLoad(replicas=part.replicas, size=self.sizes.get(tp, 0))
                for tp, part in self.partitions.items()
            },
        )


def look_at(connection: Connection) -> ClusterView:
    """Ask any broker about the cluster, and each about itself.

    Raises:
        KafkaError: no broker answers.
    """
    with connection.admin() as admin:
        cluster = admin.describe_cluster()
        names = [topic.name for topic in admin.list_topics(internal=True)]
        partitions = describe_partitions(admin, names)
    brokers = {
        row.id: BrokerView(id=row.id, address=f"{row.host}:{row.port}", rack=row.rack)
        for row in sorted(cluster.brokers, key=lambda row: row.id)
    }
    with connection.admin(default_api_timeout_ms=ANSWER_MS) as admin:
        directories = log_directories(admin, brokers)
    sizes: dict[TopicPartition, int] = {}
    for node_id, found in directories.items():
        broker = brokers[node_id]
        if isinstance(found, ClusterAuthorizationFailedError):
            continue  # it answers, and does not say
        if isinstance(found, KafkaError):
            broker.error = str(found)
            continue
        broker.offline_dirs = tuple(directory.path for directory in found if directory.error)
        replicas = [item for directory in found for item in directory.replicas.items() if not item[1].is_future]
        broker.size = sum(info.size_bytes for _, info in replicas)
        for tp, info in replicas:
            sizes[tp] = max(sizes.get(tp, 0), info.size_bytes)
    view = ClusterView(
        cluster_id=cluster.cluster_id,
        controller=cluster.controller,
        brokers=brokers,
        partitions=partitions,
        topic_count=len({tp.topic for tp in partitions}),
        sizes=sizes,
    )
    for part in partitions.values():
        lacking = view.lacking(part)
        for node_id in part.replicas:
            if node_id in brokers:
                brokers[node_id].replicas += 1
                brokers[node_id].out_of_sync += node_id in lacking
        if part.leader in brokers:
            brokers[part.leader].leads += 1
    return view


def describe_partitions(admin: Admin, names: Sequence[str]) -> dict[TopicPartition, PartitionDescription]:
    """Return the partitions of topics; those that have just been deleted are left out."""
    try:
        topics = admin.describe_topics(names)
    except AdminErrors as error:
        topics = dict(error.results)
    return {
        TopicPartition(name, part.partition): part
        for name, topic in sorted(topics.items())
        for part in topic.partitions
    }


def log_directories(
    admin: Admin, brokers: Sequence[int] | Mapping[int, object], partitions: Sequence[TopicPartition] | None = None
) -> dict[int, list[LogDirDescription] | KafkaError]:
    """Return the log directories of each broker, or why it does not tell."""
    wanted = list(brokers)
    try:
        return dict(admin.describe_log_dirs(wanted, partitions))
    except AdminErrors as error:
        return {**error.results, **error.errors}
    except KafkaError as error:
        return dict.fromkeys(wanted, error)
