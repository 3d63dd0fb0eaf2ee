"""Typed configuration of one topic's logs: Kafka's topic keys as fields, Kafka's defaults and units.

Built from strings by `ottla.broker.config`; the log sees only this.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Every topic key the log enforces. Times in milliseconds, sizes in bytes; -1 means "no limit" where Kafka has it."""

    cleanup_delete: bool = True
    cleanup_compact: bool = False
    retention_ms: int = 604_800_000
    retention_bytes: int = -1
    segment_bytes: int = 1_073_741_824
    segment_ms: int = 604_800_000
    segment_jitter_ms: int = 0
    segment_index_bytes: int = 10_485_760
    index_interval_bytes: int = 4096
    max_message_bytes: int = 1_048_588
    #: "producer" keeps the producer's codec; else "uncompressed", "gzip", "snappy", "lz4", "zstd".
    compression_type: str = "producer"
    compression_gzip_level: int = -1
    compression_lz4_level: int = 9
    compression_zstd_level: int = 3
    message_timestamp_type: str = "CreateTime"
    message_timestamp_before_max_ms: int = LONG_MAX
    message_timestamp_after_max_ms: int = 3_600_000
    max_decompressed_message_bytes: int = 2_147_483_639
    min_insync_replicas: int = 1
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = LONG_MAX
    delete_retention_ms: int = 86_400_000
    flush_messages: int = LONG_MAX
    flush_ms: int = LONG_MAX
    file_delete_delay_ms: int = 60_000
    preallocate: bool = False
    unclean_leader_election_enable: bool = False
