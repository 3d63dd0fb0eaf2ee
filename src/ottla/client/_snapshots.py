"""What cores have counted, as metrics under Kafka's names; and what pushes them (KIP-714)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from weakref import WeakMethod

from ottla.client._core.counts import WINDOWS
from ottla.client._core.telemetry import Snapshot, Telemetry
from ottla.client.metrics import AdminMetrics, ConsumerMetrics, Metrics, ProducerMetrics, ShareConsumerMetrics
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from random import Random

    from ottla.client._core.asking import AskMachine
    from ottla.client._core.connections import Connections
    from ottla.client._core.consumer import ConsumerMachine
    from ottla.client._core.producer import ProducerMachine
    from ottla.client._core.share_consumer import ShareMachine
    from ottla.client.config import ClientSettings

NAN: Final = float("nan")


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


def share_snapshot(machine: ShareMachine, client_id: str) -> ShareConsumerMetrics:
    """Return what a share consumer has counted so far."""
    sessions = machine.sessions
    values = {
        "acknowledgements-error-total": float(sessions.refused),
        "acknowledgements-send-total": float(sessions.acknowledged + sessions.refused),
        "connection-creation-total": float(machine.connections.created),
        "records-consumed-total": float(sessions.acquired),
    }
    return ShareConsumerMetrics(values, {}, client_id)


def admin_snapshot(machine: AskMachine, client_id: str) -> AdminMetrics:
    """Return what an admin client has counted so far."""
    counts = machine.counts
    values = {
        "connection-creation-total": float(machine.connections.created),
        "request-latency-avg": _mean(counts.latency_ms, counts.answers),
        "request-latency-max": counts.latency_ms_max,
        "request-total": float(counts.requests),
        "response-total": float(counts.answers),
    }
    return AdminMetrics(values, {}, client_id)


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
