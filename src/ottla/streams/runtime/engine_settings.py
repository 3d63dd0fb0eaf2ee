"""What a stream thread is told, with types and defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Kafka's names with `_` for `.`, Kafka's defaults; times in milliseconds, sizes in bytes."""

    exactly_once: bool
    commit_interval_ms: int
    transaction_timeout_ms: int = 10_000
    max_task_idle_ms: int = 0
    task_timeout_ms: int = 300_000
    buffered_records_per_partition: int = 1000
    uncommitted_max_bytes: int = 64 << 20
    repartition_purge_interval_ms: int = 30_000
    auto_offset_reset: str = "earliest"
