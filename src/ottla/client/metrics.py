"""A client's metrics under Kafka's names: a snapshot, the same as Prometheus' text, and what is pushed (KIP-714).

Counting costs plain additions in the core; names, averages and rates are made when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakMethod

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.counts import WINDOWS
from ottla.client._core.otlp import Metric
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.telemetry import Snapshot, Telemetry
from ottla.observability.exposition import Family, label_set
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from random import Random

    from ottla.client._core.connections import Connections
    from ottla.client.config import ClientSettings

NAN: Final = float("nan")


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

        def add(shown: str, name: str, value: float, *labels: tuple[str, str]) -> None:
            family = families.get(shown)
            if family is None:
                kind = "counter" if name.endswith("-total") else "gauge"
                family = families[shown] = Family(shown, kind, f"Kafka's {name}.")
            family.add(value, label_set(("client_id", self.client_id), *labels))

        for name, value in self._values.items():
            add(f"kafka_{self.kind}_{name.replace('-', '_')}", name, value)
        for topic, values in self.by_topic.items():
            for name, value in values.items():
                add(f"kafka_{self.kind}_topic_{name.replace('-', '_')}", name, value, ("topic", topic))
        for where, values in self.by_partition.items():
            for name, value in values.items():
                shown = f"kafka_{self.kind}_partition_{name.replace('-', '_')}"
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

    kind = "producer"
    topic_group = "producer-topic"


class ConsumerMetrics(Metrics):
    """A consumer's: Kafka's `consumer-fetch-manager-metrics`, `consumer-coordinator-metrics` and `consumer-metrics`.

    Rates are those of the last minute. `by_topic` has `bytes-consumed-total` and `records-consumed-total`; `by_partition` has
    `records-lag` (offsets between the position and the end, as of the last answer) and `records-lead` (between the
    beginning and the position), for partitions of which both are known. Not a number: not known now.
    """

    kind = "consumer"
    groups = {
        "bytes-": "consumer-fetch-manager",
        "fetch-": "consumer-fetch-manager",
        "records-": "consumer-fetch-manager",
        "assigned-": "consumer-coordinator",
        "commit-": "consumer-coordinator",
        "rebalance-": "consumer-coordinator",
    }
    topic_group = "consumer-fetch-manager"


def _mean(total: float, count: float) -> float:
    return total / count if count else 0.0


def snapshot(machine: ProducerMachine, client_id: str, age_s: float) -> ProducerMetrics:
    """Return what a producer has counted since it was started `age_s` seconds ago."""
    counts = machine.counts
    memory = machine.settings.buffer_memory

    def rate(total: float) -> float:
        return total / age_s if age_s > 0 else 0.0

    compression = _mean(counts.packed_bytes, counts.batch_bytes) if machine.settings.compression else 1.0
    values: dict[str, float] = {
        "batch-size-avg": _mean(counts.packed_bytes, counts.batches),
        "batch-size-max": counts.batch_bytes_max,
        "batch-split-total": counts.batches_split,
        "buffer-available-bytes": memory - machine.accumulator.used,
        "buffer-total-bytes": memory,
        "compression-rate-avg": compression,
        "connection-creation-total": counts.connections,
        "produce-throttle-time-avg": _mean(counts.throttle_ms, counts.answers),
        "produce-throttle-time-max": counts.throttle_ms_max,
        "record-error-rate": rate(counts.records_failed),
        "record-error-total": counts.records_failed,
        "record-queue-time-avg": _mean(counts.queue_ms, counts.batches_done),
        "record-queue-time-max": counts.queue_ms_max,
        "record-retry-rate": rate(counts.records_retried),
        "record-retry-total": counts.records_retried,
        "record-send-rate": rate(counts.records_sent),
        "record-send-total": counts.records_sent,
        "records-per-request-avg": _mean(counts.records_sent, counts.requests),
        "request-latency-avg": _mean(counts.request_ms, counts.answers),
        "request-latency-max": counts.request_ms_max,
        "request-total": counts.requests,
        "response-total": counts.answers,
        "waiting-threads": len(machine.accumulator.waiters),
    }
    by_topic = {topic: {"record-send-total": float(count)} for topic, count in counts.sent_by_topic.items()}
    return ProducerMetrics(values, by_topic, client_id)


def consumer_snapshot(
    machine: ConsumerMachine, client_id: str, now_ms: float, poll_intervals_exceeded: int
) -> ConsumerMetrics:
    """Return what a consumer has counted so far."""
    counts = machine.fetcher.counts
    counts.sample(now_ms)
    by_partition: dict[TopicPartition, Mapping[str, float]] = {}
    for where, state in machine.partitions.items():
        end = state.last_stable_offset if machine.settings.isolation else state.high_watermark
        if end >= 0 and state.position is not None:
            by_partition[where] = {
                "records-lag": float(max(end - state.position, 0)),
                "records-lead": float(max(state.position - state.log_start_offset, 0)),
            }
    group = machine.group
    membership = group.membership if group is not None else None
    values: dict[str, float] = {
        "assigned-partitions": len(machine.partitions),
        "bytes-consumed-rate": counts.byte_rate.per_second(now_ms, WINDOWS),
        "bytes-consumed-total": counts.bytes,
        "commit-total": group.offsets.commits if group is not None else 0,
        "connection-creation-total": machine.connections.created,
        "fetch-latency-avg": _mean(counts.latency_ms, counts.answers),
        "fetch-latency-max": counts.latency_ms_max,
        "fetch-rate": counts.fetch_rate.per_second(now_ms, WINDOWS),
        "fetch-size-avg": _mean(counts.bytes, counts.answers),
        "fetch-size-max": counts.size_max,
        "fetch-throttle-time-avg": _mean(counts.throttle_ms, counts.answers),
        "fetch-throttle-time-max": counts.throttle_ms_max,
        "fetch-total": counts.answers,
        "poll-interval-exceeded-total": poll_intervals_exceeded,
        "rebalance-total": membership.rebalances if membership is not None else 0,
        "records-consumed-rate": counts.record_rate.per_second(now_ms, WINDOWS),
        "records-consumed-total": counts.records,
        "records-lag-max": max((each["records-lag"] for each in by_partition.values()), default=NAN),
        "records-lead-min": min((each["records-lead"] for each in by_partition.values()), default=NAN),
        "records-per-request-avg": _mean(counts.records, counts.answers - counts.empty),
    }
    by_topic = {
        topic: {"bytes-consumed-total": float(each.bytes), "records-consumed-total": float(each.records)}
        for topic, each in counts.by_topic.items()
    }
    return ConsumerMetrics(values, by_topic, client_id, by_partition)


def telemetry(
    client: ClientSettings,
    connections: Connections,
    collect: Callable[[], Metrics],
    resource: Callable[[], list[tuple[str, str]]],
    random: Random,
    wall_ms: Callable[[], int],
) -> Telemetry | None:
    """Return what pushes a client's metrics where brokers ask for them; None with enable.metrics.push=false.

    `collect` and `resource` are methods of the client. They do not keep it: a client that its program drops is to end.
    """
    if not client.enable_metrics_push:
        return None
    methods = WeakMethod(collect), WeakMethod(resource)

    def snapshot() -> Snapshot:
        collected, described = methods[0](), methods[1]()
        if collected is None or described is None:  # the client was dropped, and its runtime is about to end
            return Snapshot([])
        return Snapshot(collected().pushed(), described())

    return Telemetry(
        connections,
        snapshot,
        random,
        wall_ms,
        request_timeout_ms=client.request_timeout_ms,
    )
