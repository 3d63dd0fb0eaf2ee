"""What a producer counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla.client._core.batch import Batch


@dataclass(slots=True)
class ProducerCounts:
    """Sums and maxima so far; `ottla.client.metrics` gives them Kafka's names."""

    records_sent: int = 0
    records_failed: int = 0
    records_retried: int = 0
    batches: int = 0
    batch_bytes: int = 0
    packed_bytes: int = 0
    batch_bytes_max: int = 0
    batches_done: int = 0
    requests: int = 0
    batches_split: int = 0
    queue_ms: float = 0.0
    queue_ms_max: float = 0.0
    request_ms: float = 0.0
    request_ms_max: float = 0.0
    answers: int = 0
    throttle_ms: float = 0.0
    throttle_ms_max: float = 0.0
    connections: int = 0
    sent_by_topic: dict[str, int] = field(default_factory=dict)

    def on_request(self, batches: Sequence[Batch]) -> None:
        """A Produce request with these batches, encoded, goes out."""
        self.requests += 1
        self.batches += len(batches)
        for batch in batches:
            self.batch_bytes += batch.size
            self.packed_bytes += batch.packed_size
            self.batch_bytes_max = max(self.batch_bytes_max, batch.packed_size)

    def on_answer(self, waited_ms: float) -> None:
        """A Produce request was answered."""
        self.answers += 1
        self.request_ms += waited_ms
        self.request_ms_max = max(self.request_ms_max, waited_ms)

    def on_throttled(self, throttle_ms: int) -> None:
        """A quota has held an answer back."""
        self.throttle_ms += throttle_ms
        self.throttle_ms_max = max(self.throttle_ms_max, throttle_ms)

    def on_written(self, batch: Batch) -> None:
        """A batch was acknowledged."""
        waited_ms = batch.drained_ms - batch.created_ms
        self.queue_ms += waited_ms
        self.queue_ms_max = max(self.queue_ms_max, waited_ms)
        self.batches_done += 1
        self.records_sent += batch.count
        self.sent_by_topic[batch.topic] = self.sent_by_topic.get(batch.topic, 0) + batch.count
