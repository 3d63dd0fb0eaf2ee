"""What the producer's core is told: typed values, made from Kafka's keys by `ottla.client.config`."""

from __future__ import annotations

from dataclasses import dataclass

from ottla.client._core.backoff import RECONNECT, RETRY, Backoff
from ottla.client._core.partitioner import PartitionFunction
from ottla.types import CompressionType


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults (4.4); times in milliseconds, sizes in bytes.

    Attributes:
        acks: -1 for all, 1, or 0.
        partitioner: None for Kafka's default, or see `partitioner.TopicPartitioner`.
    """

    acks: int = -1
    batch_size: int = 16_384
    linger_ms: float = 5
    buffer_memory: int = 33_554_432
    max_request_size: int = 1_048_576
    max_in_flight: int = 5
    max_block_ms: float = 60_000
    delivery_timeout_ms: float = 120_000
    request_timeout_ms: float = 30_000
    retries: int = 2_147_483_647
    retry_backoff: Backoff = RETRY
    reconnect_backoff: Backoff = RECONNECT
    enable_idempotence: bool = True
    transactional_id: str | None = None
    transaction_timeout_ms: int = 60_000
    compression: CompressionType = CompressionType.NONE
    compression_level: int | None = None
    partitioner: str | PartitionFunction | None = None
    partitioner_ignore_keys: bool = False
    partitioner_adaptive: bool = True
    metadata_max_age_ms: float = 300_000
    metadata_max_idle_ms: float = 300_000
    connections_max_idle_ms: float = 540_000
    rebootstrap: bool = True
