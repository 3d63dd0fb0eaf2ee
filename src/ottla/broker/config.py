"""BrokerConfig: everything the broker is told, as typed values, and where each value came from.

Fields are Kafka's keys with underscores (`log.retention.ms` -> `log_retention_ms`); what Kafka derives from several keys is
one property (`advertised_endpoints`, `directories`). Strings come in through `from_sources`: a server.properties file, the
environment, `-X key=value`, flags; the later in this list, the stronger. The key tables live in `ottla.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ottla.storage.config import INT_MAX, LONG_MAX, LogConfig


class Listener(NamedTuple):
    """One `listeners` entry. `host` is "" for all interfaces; port 0 asks for any free port."""

    name: str
    host: str
    port: int
    security_protocol: str = "PLAINTEXT"


#: `advertised.listeners=auto`: each connection is answered with the address it used. For a single node.
ADVERTISE_AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """One broker's static configuration. Times in milliseconds, sizes in bytes unless the name says otherwise."""

    # identity and places
    node_id: int = 1
    cluster_id: str | None = None  #: CLUSTER_ID or --cluster-id; None: made on the first start
    broker_rack: str | None = None
    log_dirs: tuple[str, ...] = ("/tmp/kafka-logs",)
    listeners: tuple[Listener, ...] = (Listener("PLAINTEXT", "", 9092),)
    #: None means `auto`.
    advertised_listeners: tuple[Listener, ...] | None = None
    inter_broker_listener_name: str = "PLAINTEXT"

    # topics
    auto_create_topics_enable: bool = True
    delete_topic_enable: bool = True
    num_partitions: int = 1
    default_replication_factor: int = 1
    max_request_partition_size_limit: int = 2000

    # connections and requests
    max_connections: int = INT_MAX
    max_connections_per_ip: int = INT_MAX
    max_connections_per_ip_overrides: Mapping[str, int] = field(default_factory=dict)
    max_connection_creation_rate: int = INT_MAX
    connections_max_idle_ms: int = 600_000
    socket_listen_backlog_size: int = 50
    socket_receive_buffer_bytes: int = 102_400
    socket_send_buffer_bytes: int = 102_400
    socket_request_max_bytes: int = 104_857_600
    queued_max_requests: int = 500
    queued_max_request_bytes: int = -1
    fetch_max_bytes: int = 57_671_680
    max_incremental_fetch_session_cache_slots: int = 1000

    # the log's background work
    log_retention_check_interval_ms: int = 300_000
    log_initial_task_delay_ms: int = 30_000
    log_flush_scheduler_interval_ms: int = LONG_MAX
    log_flush_offset_checkpoint_interval_ms: int = 60_000
    log_flush_start_offset_checkpoint_interval_ms: int = 60_000
    replica_high_watermark_checkpoint_interval_ms: int = 5_000
    log_cleaner_enable: bool = True
    log_cleaner_backoff_ms: int = 15_000
    log_cleaner_dedupe_buffer_size: int = 134_217_728
    log_cleaner_io_buffer_size: int = 524_288
    log_cleaner_io_buffer_load_factor: float = 0.9
    log_cleaner_io_max_bytes_per_second: float = 1.7976931348623157e308
    num_recovery_threads_per_data_dir: int = 2
    producer_id_expiration_ms: int = 86_400_000
    producer_id_expiration_check_interval_ms: int = 600_000
    #: Extension: retention and cleaning in a directory written by Apache Kafka.
    ottla_foreign_confirm: bool = False

    # groups and committed offsets
    group_initial_rebalance_delay_ms: int = 3_000
    group_min_session_timeout_ms: int = 6_000
    group_max_session_timeout_ms: int = 1_800_000
    group_max_size: int = INT_MAX
    offset_metadata_max_bytes: int = 4_096
    offsets_commit_timeout_ms: int = 5_000
    offsets_load_buffer_size: int = 5_242_880
    offsets_retention_minutes: int = 10_080
    offsets_retention_check_interval_ms: int = 600_000
    offsets_topic_num_partitions: int = 50
    offsets_topic_replication_factor: int = 3
    offsets_topic_segment_bytes: int = 104_857_600
    offsets_topic_compression_codec: int = 0

    #: What a topic without overrides gets (log.* keys after synonyms).
    topic_defaults: LogConfig = LogConfig()
    #: Every static value that was set, as text in Kafka's spelling.
    originals: Mapping[str, str] = field(default_factory=dict)

    def log_config(self, overrides: Mapping[str, str], broker_overrides: Mapping[str, str] | None = None) -> LogConfig:
        """Return the configuration of a topic with these overrides (and dynamic broker settings, if any)."""
        raise NotImplementedError
