"""A client's metrics under Kafka's names: a snapshot, the same as Prometheus' text, and what is pushed (KIP-714).

Counting costs plain additions in the core; names, averages and rates are made when somebody asks (`_snapshots`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from ottla.client._core.otlp import Metric
from ottla.observability.exposition import Family, label_set
from ottla.types import TopicPartition


class Metrics(Mapping[str, float]):
    """A snapshot: Kafka's metric names and their values. Sizes in bytes, times in milliseconds, rates per second.

    Attributes:
        by_topic: for each topic, its metrics.
        by_partition: for each partition, its metrics.
        client_id: the client's.
    """

    #: The kind of client, as names have it.
    kind: ClassVar[str]
    #: Kafka's groups of metrics, where they are not `<kind>-metrics`: the beginnings of names and the group.
    groups: ClassVar[Mapping[str, str]] = {}
    #: Kafka's groups of those of topics and partitions.
    topic_group: ClassVar[str]

    def __init__(
        self,
        values: Mapping[str, float],
        by_topic: Mapping[str, Mapping[str, float]],
        client_id: str,
        by_partition: Mapping[TopicPartition, Mapping[str, float]] | None = None,
    ) -> None:
        self._values = values
        self.by_topic: Mapping[str, Mapping[str, float]] = by_topic
        self.by_partition: Mapping[TopicPartition, Mapping[str, float]] = by_partition or {}
        self.client_id: str = client_id

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"

    def prometheus(self) -> str:
        """Return Prometheus' text format (version 0.0.4): `kafka_producer_record_send_total{client_id="ottla"} 17`."""
        families: dict[str, Family] = {}
        kind = self.kind.replace("-", "_")

        def add(shown: str, name: str, value: float, *labels: tuple[str, str]) -> None:
            family = families.get(shown)
            if family is None:
                sort = "counter" if name.endswith("-total") else "gauge"
                family = families[shown] = Family(shown, sort, f"Kafka's {name}.")
            family.add(value, label_set(("client_id", self.client_id), *labels))

        for name, value in self._values.items():
            add(f"kafka_{kind}_{name.replace('-', '_')}", name, value)
        for topic, values in self.by_topic.items():
            for name, value in values.items():
                add(f"kafka_{kind}_topic_{name.replace('-', '_')}", name, value, ("topic", topic))
        for where, values in self.by_partition.items():
            for name, value in values.items():
                shown = f"kafka_{kind}_partition_{name.replace('-', '_')}"
                add(shown, name, value, ("topic", where.topic), ("partition", str(where.partition)))
        return b"".join(family.render() for family in families.values()).decode()

    def pushed(self) -> list[Metric]:
        """Return what brokers are sent: names as KIP-714 makes them of Kafka's groups; nothing that is not known now."""

        def metric(group: str, name: str, value: float, *attributes: tuple[str, str]) -> Metric:
            full = f"org.apache.kafka.{group.replace('-', '.')}.{name.replace('-', '.')}"
            return Metric(full, value, name.endswith("-total"), attributes)

        found = [metric(self._group(name), name, value) for name, value in self._values.items()]
        for topic, values in self.by_topic.items():
            found += [metric(self.topic_group, name, value, ("topic", topic)) for name, value in values.items()]
        for (topic, partition), values in self.by_partition.items():
            where = (("topic", topic), ("partition", str(partition)))
            found += [metric(self.topic_group, name, value, *where) for name, value in values.items()]
        return [each for each in found if each.value == each.value]

    def _group(self, name: str) -> str:
        return next((group for begin, group in self.groups.items() if name.startswith(begin)), self.kind)


class ProducerMetrics(Metrics):
    """A producer's: Kafka's `producer-metrics`. `by_topic` has `record-send-total`."""

    kind: ClassVar[str] = "producer"
    topic_group: ClassVar[str] = "producer-topic"


class ConsumerMetrics(Metrics):
    """A consumer's: Kafka's `consumer-fetch-manager-metrics`, `consumer-coordinator-metrics` and `consumer-metrics`.

    Rates are those of the last minute. `by_topic` has `bytes-consumed-total` and `records-consumed-total`; `by_partition` has
    `records-lag` (offsets between the position and the end, as of the last answer) and `records-lead` (between the
    beginning and the position), for partitions of which both are known. Not a number: not known now.
    """

    kind: ClassVar[str] = "consumer"
    groups: ClassVar[Mapping[str, str]] = {
        "bytes-": "consumer-fetch-manager",
        "fetch-": "consumer-fetch-manager",
        "records-": "consumer-fetch-manager",
        "assigned-": "consumer-coordinator",
        "commit-": "consumer-coordinator",
        "rebalance-": "consumer-coordinator",
    }
    topic_group: ClassVar[str] = "consumer-fetch-manager"


class ShareConsumerMetrics(Metrics):
    """A share consumer's: Kafka's `consumer-share-fetch-manager-metrics` and `consumer-share-metrics`, in part."""

    kind: ClassVar[str] = "consumer-share"
    groups: ClassVar[Mapping[str, str]] = {
        "acknowledgements-": "consumer-share-fetch-manager",
        "records-": "consumer-share-fetch-manager",
    }
    topic_group: ClassVar[str] = "consumer-share-fetch-manager"


class AdminMetrics(Metrics):
    """An admin client's: Kafka's `admin-client-metrics`, as far as it counts."""

    kind: ClassVar[str] = "admin-client"
    topic_group: ClassVar[str] = "admin-client"
