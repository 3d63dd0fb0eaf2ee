"""A producer's metrics under Kafka's names: a snapshot, and the same as Prometheus' text.

Counting costs plain additions in the core; names, averages and rates are made when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ottla.client._core.producer import ProducerMachine
from ottla.observability.exposition import Family, label_set

_TOTALS = frozenset(
    {
        "batch-split-total",
        "connection-creation-total",
        "record-error-total",
        "record-retry-total",
        "record-send-total",
        "request-total",
        "response-total",
    }
)


class ProducerMetrics(Mapping[str, float]):
    """A snapshot: Kafka's metric names (`producer-metrics`) and their values. Sizes in bytes, times in milliseconds.

    Attributes:
        by_topic: for each topic, `record-send-total`.
        client_id: the client's.
    """

    def __init__(self, values: dict[str, float], by_topic: dict[str, dict[str, float]], client_id: str) -> None:
        self._values = values
        self.by_topic = by_topic
        self.client_id = client_id

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ProducerMetrics({self._values!r})"

    def prometheus(self) -> str:
        """Return Prometheus' text format (version 0.0.4): `kafka_producer_record_send_total{client_id="ottla"} 17`."""
        parts: list[bytes] = []
        labels = label_set(("client_id", self.client_id))
        for name, value in self._values.items():
            family = Family(_prometheus_name(name), "counter" if name in _TOTALS else "gauge", f"Kafka's {name}.")
            family.add(value, labels)
            parts.append(family.render())
        topics = Family("kafka_producer_topic_record_send_total", "counter", "Kafka's record-send-total, by topic.")
        for topic, values in self.by_topic.items():
            topics.add(values["record-send-total"], label_set(("client_id", self.client_id), ("topic", topic)))
        parts.append(topics.render())
        return b"".join(parts).decode()


def _prometheus_name(name: str) -> str:
    return "kafka_producer_" + name.replace("-", "_")


def snapshot(machine: ProducerMachine, client_id: str, age_s: float) -> ProducerMetrics:
    """Return what a producer has counted since it was started `age_s` seconds ago."""
    counts = machine.counts
    memory = machine.settings.buffer_memory

    def mean(total: float, count: float) -> float:
        return total / count if count else 0.0

    def rate(total: float) -> float:
        return total / age_s if age_s > 0 else 0.0

    values: dict[str, float] = {
        "batch-size-avg": mean(counts.packed_bytes, counts.batches),
        "batch-size-max": counts.batch_bytes_max,
        "batch-split-total": counts.batches_split,
        "buffer-available-bytes": memory - machine.accumulator.used,
        "buffer-total-bytes": memory,
        "compression-rate-avg": mean(counts.packed_bytes, counts.batch_bytes) if machine.settings.compression else 1.0,
        "connection-creation-total": counts.connections,
        "produce-throttle-time-avg": mean(counts.throttle_ms, counts.answers),
        "produce-throttle-time-max": counts.throttle_ms_max,
        "record-error-rate": rate(counts.records_failed),
        "record-error-total": counts.records_failed,
        "record-queue-time-avg": mean(counts.queue_ms, counts.batches_done),
        "record-queue-time-max": counts.queue_ms_max,
        "record-retry-rate": rate(counts.records_retried),
        "record-retry-total": counts.records_retried,
        "record-send-rate": rate(counts.records_sent),
        "record-send-total": counts.records_sent,
        "records-per-request-avg": mean(counts.records_sent, counts.requests),
        "request-latency-avg": mean(counts.request_ms, counts.answers),
        "request-latency-max": counts.request_ms_max,
        "request-total": counts.requests,
        "response-total": counts.answers,
        "waiting-threads": len(machine.accumulator.waiters),
    }
    by_topic = {topic: {"record-send-total": float(count)} for topic, count in counts.sent_by_topic.items()}
    return ProducerMetrics(values, by_topic, client_id)
