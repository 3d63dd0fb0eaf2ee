"""The settings of parts that have some of their own, from a broker's configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ottla.broker.wiring.descriptors import cached_files_max, connections_max
from ottla.cluster.controller import ControllerSettings
from ottla.network.binding import Listener, ListenerLimits
from ottla.network.limits import NetworkLimits
from ottla.storage.log_manager import LogManagerSettings
from ottla.storage.open_files import DEFAULT_CAPACITY

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ottla.broker.config import BrokerConfig


def controller_settings(config: BrokerConfig) -> ControllerSettings:
    """Return what the controller has to know of this broker."""
    return ControllerSettings(
        node_id=config.node_id,
        rack=config.broker_rack,
        num_partitions=config.num_partitions,
        default_replication_factor=config.default_replication_factor,
        offsets_topic_num_partitions=config.offsets_topic_num_partitions,
        offsets_topic_replication_factor=config.offsets_topic_replication_factor,
        offsets_topic_segment_bytes=config.offsets_topic_segment_bytes,
        transaction_topic_num_partitions=config.transaction_state_log_num_partitions,
        transaction_topic_replication_factor=config.transaction_state_log_replication_factor,
        transaction_topic_min_isr=config.transaction_state_log_min_isr,
        transaction_topic_segment_bytes=config.transaction_state_log_segment_bytes,
        share_topic_num_partitions=config.share_coordinator_state_topic_num_partitions,
        share_topic_replication_factor=config.share_coordinator_state_topic_replication_factor,
        share_topic_min_isr=config.share_coordinator_state_topic_min_isr,
        share_topic_segment_bytes=config.share_coordinator_state_topic_segment_bytes,
        static=config.levels.static,
    )


def log_settings(config: BrokerConfig, descriptor_limit: int | None) -> LogManagerSettings:
    """Return what the log manager does how often; `descriptor_limit`: files this process may have open."""
    return LogManagerSettings(
        open_files_max=DEFAULT_CAPACITY if descriptor_limit is None else cached_files_max(descriptor_limit),
        retention_check_interval_ms=config.log_retention_check_interval_ms,
        initial_task_delay_ms=config.log_initial_task_delay_ms,
        flush_scheduler_interval_ms=config.log_flush_scheduler_interval_ms,
        flush_offset_checkpoint_interval_ms=config.log_flush_offset_checkpoint_interval_ms,
        flush_start_offset_checkpoint_interval_ms=config.log_flush_start_offset_checkpoint_interval_ms,
        high_watermark_checkpoint_interval_ms=config.replica_high_watermark_checkpoint_interval_ms,
        cleaner_enable=config.log_cleaner_enable,
        cleaner_backoff_ms=config.log_cleaner_backoff_ms,
        cleaner_memory_bytes=config.log_cleaner_dedupe_buffer_size,
        cleaner_load_factor=config.log_cleaner_io_buffer_load_factor,
        cleaner_bytes_per_second_max=config.log_cleaner_io_max_bytes_per_second,
        producer_id_expiration_ms=config.producer_id_expiration_ms,
        producer_id_expiration_check_interval_ms=config.producer_id_expiration_check_interval_ms,
        foreign_confirmed=config.ottla_foreign_confirm,
    )


def server_listeners(
    config: BrokerConfig, context_of: Callable[[str], Callable[[], ssl.SSLContext] | None]
) -> list[Listener]:
    """Return what the server has to know of each listener, and of the port that the first one shares with other brokers."""
    own = [
        Listener(
            name=listener.name,
            host=listener.host,
            port=listener.port,
            tls=context_of(listener.name),
            has_login=listener.name in config.logins,
            is_protected=listener.name == config.inter_broker_listener_name,
            limits=ListenerLimits(
                connections_max=config.limit_of_listener(listener.name, "max.connections"),
                connection_creation_rate_max=config.limit_of_listener(listener.name, "max.connection.creation.rate"),
            ),
        )
        for listener in config.listeners
    ]
    if not config.ottla_shared_port:
        return own
    return [*own, replace(own[0], port=config.ottla_shared_port, is_shared=True)]


def network_limits(config: BrokerConfig, descriptor_limit: int | None, log_count: int) -> NetworkLimits:
    """Return the limits of the listeners; connections get the open files that `log_count` logs leave them."""
    connections = config.max_connections
    if descriptor_limit is not None:
        connections = min(connections, connections_max(descriptor_limit, log_count))
    return NetworkLimits(
        request_bytes_max=config.socket_request_max_bytes,
        connections_max=connections,
        connections_per_ip_max=config.max_connections_per_ip,
        connections_per_ip_overrides=config.max_connections_per_ip_overrides,
        connection_creation_rate_max=config.max_connection_creation_rate,
        idle_ms_max=config.connections_max_idle_ms,
        queued_request_bytes_max=config.queued_max_request_bytes,
        backlog=config.socket_listen_backlog_size,
    )
