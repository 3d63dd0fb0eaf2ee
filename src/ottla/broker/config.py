"""BrokerConfig: the configuration of a broker, as typed values.

Fields are Kafka's keys with underscores (`log.cleaner.backoff.ms` -> `log_cleaner_backoff_ms`); several keys that are one
setting are one field. `from_sources` reads text: a server.properties file, the environment, `-X key=value`, flags; a later
source in this list overrides an earlier one. `with_dynamic` is the same configuration with what was set at run time.
The key tables live in `ottla.config`; parsing of addresses in `ottla.broker.settings.listeners`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ottla.broker.settings.access import AccessSettings, resolve_access
from ottla.broker.settings.contradictions import contradictions
from ottla.broker.settings.encryption import ListenerTls, resolve_tls, with_stores
from ottla.broker.settings.listeners import (
    ADVERTISE_AUTO,
    LOOPBACK,
    PER_LISTENER,
    Listener,
    apply_flags,
    parse_ip_overrides,
    resolve_advertised,
    resolve_inter_broker,
    resolve_listeners,
)
from ottla.broker.settings.logins import FirstUser, ListenerLogins, resolve_first_users, resolve_logins
from ottla.broker.settings.peers import PeerLogin, resolve_peer_login
from ottla.config import (
    BROKER,
    DYNAMIC_ONLY,
    EXTRA,
    FOREIGN_PREFIXES,
    LISTENER_PREFIX,
    ConfigError,
    ConfigKey,
    Status,
    broker_key,
)
from ottla.config.effective import Levels, broker_setting, topic_setting
from ottla.config.environment import read_environment
from ottla.config.keys import INT_MAX, LONG_MAX, Value
from ottla.config.mistakes import Mistakes
from ottla.config.properties import parse_properties
from ottla.config.variables import PREFIX as PROVIDER_PREFIX
from ottla.config.variables import Resolved, read_text, resolve_variables
from ottla.storage.config import LogConfig

if TYPE_CHECKING:
    from ottla.cluster.trees.zookeeper_options import ZooKeeperOptions

__all__ = ["ADVERTISE_AUTO", "BrokerConfig", "ConfigError", "Flags", "Listener"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of `ottla serve` that stand for settings."""

    port: int | None = None
    host: str | None = None
    data_dir: str | None = None
    #: "host" or "host:port": the address clients get instead of the one they used.
    advertise: str | None = None
    cluster_id: str | None = None
    zookeeper: str | None = None
    broker_id: int | None = None
    #: A broker is going to listen; else somebody reads the settings of one.
    is_to_serve: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """One broker's configuration. Times in milliseconds, sizes in bytes unless the name says otherwise."""

    # identity and places
    node_id: int = 1
    cluster_id: str | None = None  #: CLUSTER_ID or --cluster-id; None: made on the first start
    broker_rack: str | None = None
    log_dirs: tuple[str, ...] = ("/tmp/kafka-logs",)
    listeners: tuple[Listener, ...] = (Listener("PLAINTEXT", LOOPBACK, 9092),)
    #: None means `auto`: each connection is answered with the address it used.
    advertised_listeners: tuple[Listener, ...] | None = None
    inter_broker_listener_name: str = "PLAINTEXT"
    #: By the names of the listeners that have them.
    tls: Mapping[str, ListenerTls] = field(default_factory=dict)
    logins: Mapping[str, ListenerLogins] = field(default_factory=dict)
    peer_login: PeerLogin = field(default_factory=PeerLogin)
    connection_failed_authentication_delay_ms: int = 100
    ottla_scram_users: tuple[FirstUser, ...] = ()
    delegation_token_secret_key: str | None = None
    delegation_token_expiry_check_interval_ms: int = 3_600_000
    delegation_token_expiry_time_ms: int = 86_400_000
    delegation_token_max_lifetime_ms: int = 604_800_000
    access: AccessSettings | None = None  #: None: no authorizer, everybody may do everything
    zookeeper: ZooKeeperOptions | None = None  #: None: a cluster of one broker, whose tree is a file
    ottla_tree_socket: str | None = None  #: or the brokers of one machine, whose tree a supervisor serves
    ottla_shared_port: int = 0

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
    quota_window_num: int = 11
    quota_window_size_seconds: int = 1
    controller_quota_window_num: int = 11
    controller_quota_window_size_seconds: int = 1
    socket_listen_backlog_size: int = 50
    telemetry_max_bytes: int = 1_048_576
    socket_request_max_bytes: int = 104_857_600
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
    replica_lag_time_max_ms: int = 30_000
    replica_selector_class: str | None = None
    replica_fetch_backoff_ms: int = 1_000
    replica_fetch_max_bytes: int = 1_048_576
    replica_fetch_min_bytes: int = 1
    replica_fetch_response_max_bytes: int = 10_485_760
    replica_fetch_wait_max_ms: int = 500
    replica_socket_receive_buffer_bytes: int = 65_536
    replica_socket_timeout_ms: int = 30_000
    log_cleaner_enable: bool = True
    log_cleaner_backoff_ms: int = 15_000
    log_cleaner_dedupe_buffer_size: int = 134_217_728
    log_cleaner_io_buffer_load_factor: float = 0.9
    log_cleaner_io_max_bytes_per_second: float = 1.7976931348623157e308
    producer_id_expiration_ms: int = 86_400_000
    producer_id_expiration_check_interval_ms: int = 600_000
    #: Extension: retention and cleaning in a directory written by Apache Kafka.
    ottla_foreign_confirm: bool = False
    ottla_client_telemetry_enable: bool = False

    # groups and committed offsets
    group_initial_rebalance_delay_ms: int = 3_000
    group_min_session_timeout_ms: int = 6_000
    group_max_session_timeout_ms: int = 1_800_000
    group_max_size: int = INT_MAX
    group_coordinator_rebalance_protocols: tuple[str, ...] = ("classic", "consumer", "streams")
    group_consumer_assignment_interval_ms: int = 1_000
    group_consumer_assignors: tuple[str, ...] = ("uniform", "range")
    group_consumer_heartbeat_interval_ms: int = 5_000
    group_consumer_max_assignment_interval_ms: int = 15_000
    group_consumer_max_heartbeat_interval_ms: int = 15_000
    group_consumer_max_session_timeout_ms: int = 60_000
    group_consumer_max_size: int = INT_MAX
    group_consumer_migration_policy: str = "bidirectional"
    group_consumer_min_assignment_interval_ms: int = 0
    group_consumer_min_heartbeat_interval_ms: int = 5_000
    group_consumer_min_session_timeout_ms: int = 45_000
    group_consumer_regex_refresh_interval_ms: int = 600_000
    group_consumer_session_timeout_ms: int = 45_000
    group_streams_acceptable_recovery_lag: int = 10_000
    group_streams_assignment_interval_ms: int = 1_000
    group_streams_heartbeat_interval_ms: int = 5_000
    group_streams_initial_rebalance_delay_ms: int = 3_000
    group_streams_max_assignment_interval_ms: int = 15_000
    group_streams_max_heartbeat_interval_ms: int = 15_000
    group_streams_max_session_timeout_ms: int = 60_000
    group_streams_max_size: int = INT_MAX
    group_streams_max_standby_replicas: int = 2
    group_streams_min_assignment_interval_ms: int = 0
    group_streams_min_heartbeat_interval_ms: int = 5_000
    group_streams_min_session_timeout_ms: int = 45_000
    group_streams_min_task_offset_interval_ms: int = 15_000
    group_streams_num_standby_replicas: int = 0
    group_streams_rack_aware_assignment_tags: Sequence[str] = field(default_factory=list)
    group_streams_session_timeout_ms: int = 45_000
    group_streams_task_offset_interval_ms: int = 60_000
    offset_metadata_max_bytes: int = 4_096
    offsets_commit_timeout_ms: int = 5_000
    offsets_load_buffer_size: int = 5_242_880
    offsets_retention_minutes: int = 10_080
    offsets_retention_check_interval_ms: int = 600_000
    offsets_topic_num_partitions: int = 50
    offsets_topic_replication_factor: int = 3
    offsets_topic_segment_bytes: int = 104_857_600
    offsets_topic_compression_codec: int = 0

    # transactions
    add_partitions_to_txn_retry_backoff_max_ms: int = 100
    add_partitions_to_txn_retry_backoff_ms: int = 20
    transaction_abort_timed_out_transaction_cleanup_interval_ms: int = 10_000
    transaction_max_timeout_ms: int = 900_000
    transaction_partition_verification_enable: bool = True
    transaction_remove_expired_transaction_cleanup_interval_ms: int = 3_600_000
    transaction_state_log_load_buffer_size: int = 5_242_880
    transaction_state_log_min_isr: int = 2
    transaction_state_log_num_partitions: int = 50
    transaction_state_log_replication_factor: int = 3
    transaction_state_log_segment_bytes: int = 104_857_600
    transactional_id_expiration_ms: int = 604_800_000

    # share groups
    group_share_assignment_interval_ms: int = 1_000
    group_share_assignors: tuple[str, ...] = ("simple",)
    group_share_delivery_count_limit: int = 5
    group_share_heartbeat_interval_ms: int = 5_000
    group_share_initialize_retry_interval_ms: int = 30_000
    group_share_max_assignment_interval_ms: int = 15_000
    group_share_max_delivery_count_limit: int = 10
    group_share_max_heartbeat_interval_ms: int = 15_000
    group_share_max_partition_max_record_locks: int = 4_000
    group_share_max_record_lock_duration_ms: int = 60_000
    group_share_max_session_timeout_ms: int = 60_000
    group_share_max_share_sessions: int = 2_000
    group_share_max_size: int = 200
    group_share_min_assignment_interval_ms: int = 0
    group_share_min_delivery_count_limit: int = 2
    group_share_min_heartbeat_interval_ms: int = 5_000
    group_share_min_partition_max_record_locks: int = 100
    group_share_min_record_lock_duration_ms: int = 15_000
    group_share_min_session_timeout_ms: int = 45_000
    group_share_partition_max_record_locks: int = 2_000
    group_share_record_lock_duration_ms: int = 30_000
    group_share_session_timeout_ms: int = 45_000
    share_coordinator_append_linger_ms: int = -1
    share_coordinator_cold_partition_snapshot_interval_ms: int = 300_000
    share_coordinator_load_buffer_size: int = 5_242_880
    share_coordinator_snapshot_update_records_per_snapshot: int = 500
    share_coordinator_state_topic_compression_codec: int = 0
    share_coordinator_state_topic_min_isr: int = 2
    share_coordinator_state_topic_num_partitions: int = 50
    share_coordinator_state_topic_prune_interval_ms: int = 300_000
    share_coordinator_state_topic_replication_factor: int = 3
    share_coordinator_state_topic_segment_bytes: int = 104_857_600
    share_coordinator_write_timeout_ms: int = 5_000

    #: What a topic without overrides gets (log.* keys after synonyms).
    topic_defaults: LogConfig = field(default_factory=LogConfig)
    #: The settings as text, by level (static, dynamic for all, dynamic for this broker).
    levels: Levels = field(default_factory=Levels)
    #: Sentences for the log: settings that change nothing, variables that name nothing.
    notes: tuple[str, ...] = ()

    @classmethod
    def from_sources(
        cls,
        *,
        properties: str | None = None,
        properties_name: str = "server.properties",
        environment: Mapping[str, str] | None = None,
        overrides: Sequence[str] = (),
        flags: Flags | None = None,
    ) -> BrokerConfig:
        """Return the configuration that these sources give together.

        Args:
            properties: the text of a server.properties file; `properties_name` is its name in messages.
            environment: environment variables.
            overrides: `-X` arguments, `key=value` each.
            flags: flags of the command line.

        Raises:
            ConfigError: all mistakes that there are; each is one sentence naming the key, the value, what is allowed, and
                where it was set.
        """
        mistakes = Mistakes()
        from_environment = read_environment(environment or {})
        from_file = {} if properties is None else parse_properties(properties, properties_name, mistakes=mistakes)
        from_options = _parse_overrides(overrides, mistakes)
        written = {**from_file, **from_environment.settings}
        written |= {name: text for name, text in from_options.items() if name.startswith("config.providers")}
        resolved: Resolved | None = None
        if "config.providers" in written or any("${" in text for text in written.values()):
            resolved = resolve_variables(written, environment=environment or {}, read=read_text, mistakes=mistakes)
        settings: dict[str, str] = {}
        origin: dict[str, str] = {}
        for place, found in (
            (properties_name, from_file),
            ("the environment", from_environment.settings),
            ("-X", from_options),
        ):
            for name, text in found.items():
                if place == properties_name and name.startswith(FOREIGN_PREFIXES):
                    continue
                if name.startswith(PROVIDER_PREFIX):
                    continue  # read above
                settings[name] = text if resolved is None or place == "-X" else resolved.settings.get(name, text)
                origin[name] = place
        merged = _merge_flags(flags or Flags(), from_environment.flags, mistakes)
        if merged.is_to_serve and merged.zookeeper is not None and merged.host is None and "listeners" not in settings:
            mistakes.add(
                "--zookeeper alone would make a broker that no other machine reaches: say on which address it listens, "
                "--host 0.0.0.0 or listeners in the file (--host 127.0.0.1 if all brokers are on this machine)"
            )
        with mistakes.caught():
            settings.update(apply_flags(settings, host=merged.host, port=merged.port, advertise=merged.advertise))
        if merged.data_dir is not None:
            settings["log.dirs"] = merged.data_dir
            settings.pop("log.dir", None)
        if merged.zookeeper is not None:
            settings["zookeeper.connect"] = merged.zookeeper
        if merged.broker_id is not None:
            settings["broker.id"] = str(merged.broker_id)
            settings.pop("node.id", None)
        notes = [*from_environment.notes, *(resolved.notes if resolved is not None else ())]
        right: dict[str, str] = {}
        for name, text in settings.items():
            with mistakes.caught():
                try:
                    notes.extend(_check(name, text, origin.get(name, "the command line")))
                except ConfigError:
                    if resolved is None or name not in resolved.changed or origin[name] == "-X":
                        raise
                    raise ConfigError(f"{name} is not valid; what its variables stand for is not shown") from None
                right[name] = text
        return _build(
            Levels(static=right),
            cluster_id=merged.cluster_id,
            notes=tuple(notes),
            mistakes=mistakes,
            wrong=frozenset(settings.keys() - right.keys()),
        )

    @property
    def has_secrets(self) -> bool:
        """Whether a broker has keys, passwords or credentials in its memory."""
        zookeeper = self.zookeeper
        return bool(
            self.tls
            or self.logins
            or self.peer_login.mechanism
            or self.ottla_scram_users
            or self.delegation_token_secret_key
            or (zookeeper is not None and (zookeeper.sasl or zookeeper.tls))
        )

    def with_dynamic(self, broker: Mapping[str, str], default: Mapping[str, str]) -> BrokerConfig:
        """Return this configuration with what was set at run time for this broker and for all.

        Raises:
            ConfigError: a value is not valid, alone or together with the others.
        """
        known = Levels(
            static=self.levels.static,
            default={name: text for name, text in default.items() if name in BROKER},
            broker={name: text for name, text in broker.items() if name in BROKER},
        )
        return replace(
            _build(known, cluster_id=self.cluster_id, notes=self.notes, mistakes=Mistakes()),
            # Identity and addresses are not changed under a running broker.
            node_id=self.node_id,
            listeners=self.listeners,
            tls=with_stores(self.tls, self.levels.static, broker, self.listeners),
            logins=self.logins,
            access=self.access,
            advertised_listeners=self.advertised_listeners,
            inter_broker_listener_name=self.inter_broker_listener_name,
            zookeeper=self.zookeeper,
            ottla_tree_socket=self.ottla_tree_socket,
            ottla_shared_port=self.ottla_shared_port,
            log_dirs=self.log_dirs,
            levels=Levels(static=self.levels.static, default=default, broker=broker),
        )

    def limit_of_listener(self, listener: str, key: str) -> int:
        """Return a limit of one listener alone: unlike other settings it is not inherited."""
        text = self.levels.static.get(f"{LISTENER_PREFIX}{listener.lower()}.{key}")
        value = INT_MAX if text is None else BROKER[key].parse(text)
        assert isinstance(value, int)
        return value

    def log_config(self, overrides: Mapping[str, str]) -> LogConfig:
        """Return the log configuration of a topic with these overrides.

        Overrides come from the tree, where they were checked when they were set; what is unknown or invalid (another
        release wrote it) is left out, the topic then has the default.
        """
        changed: dict[str, Any] = {}
        for name in overrides:
            try:
                changed.update(_log_fields(name, topic_setting(name, overrides, self.levels)))
            except (ConfigError, KeyError):
                continue
        return replace(self.topic_defaults, **changed) if changed else self.topic_defaults


#: Topic keys that are fields of LogConfig under the same name.
_LOG_KEYS = (
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "max.compaction.lag.ms",
    "max.decompressed.message.bytes",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
)


def _log_fields(name: str, value: Value) -> dict[str, Any]:
    """Return the fields of LogConfig that a topic key sets."""
    if name == "cleanup.policy":
        policies = value if isinstance(value, list) else []
        return {"cleanup_delete": "delete" in policies, "cleanup_compact": "compact" in policies}
    if name == "internal.segment.bytes":
        return {} if value is None else {"segment_bytes": value}
    if name in _LOG_KEYS:
        return {name.replace(".", "_"): LONG_MAX if name == "flush.ms" and value is None else value}
    return {}


#: Fields that are exactly one broker key.
_PLAIN_FIELDS = tuple(
    name
    for name in BrokerConfig.__dataclass_fields__
    if name.replace("_", ".") in BROKER
    and name not in ("listeners", "advertised_listeners", "log_dirs", "node_id", "max_connections_per_ip_overrides")
    and name != "inter_broker_listener_name"
)

#: ottla's own keys.
_OWN_KEYS = ("ottla.foreign.confirm", "ottla.client.telemetry.enable", "ottla.tree.socket", "ottla.shared.port")


def _build(
    levels: Levels,
    *,
    cluster_id: str | None,
    notes: tuple[str, ...],
    mistakes: Mistakes,
    wrong: frozenset[str] = frozenset(),
) -> BrokerConfig:
    """Make the typed configuration and check the rules that involve several values.

    Args:
        mistakes: what has been found already.
        wrong: keys that were left out because their values are wrong.

    Raises:
        ConfigError: all that was found.
    """
    fields: dict[str, Any] = {name: broker_setting(name.replace("_", "."), levels) for name in _PLAIN_FIELDS}
    for name in ("group_coordinator_rebalance_protocols", "group_consumer_assignors", "group_share_assignors"):
        fields[name] = tuple(fields[name] or ())
    log_fields: dict[str, Any] = {}
    for name in ("cleanup.policy", *_LOG_KEYS):
        log_fields.update(_log_fields(name, topic_setting(name, {}, levels)))
    text = {name: found[0] for name in BROKER if (found := levels.find(name)) is not None}
    # What cannot be read keeps its default, so that the rest can be looked at before all mistakes are raised.
    with mistakes.caught():
        listeners = fields["listeners"] = resolve_listeners(text)
        with mistakes.caught():
            fields["advertised_listeners"] = resolve_advertised(text, listeners)
        with mistakes.caught():
            fields["inter_broker_listener_name"] = resolve_inter_broker(text, listeners)
        with mistakes.caught():
            fields["tls"] = resolve_tls(levels.static, listeners)
        with mistakes.caught():
            fields["logins"] = resolve_logins(levels.static, listeners)
        with mistakes.caught():
            between = fields.get("inter_broker_listener_name")
            among = next((listener for listener in listeners if listener.name == between), None)
            has_peers = bool(levels.static.get("zookeeper.connect") or levels.static.get("ottla.tree.socket"))
            fields["peer_login"] = resolve_peer_login(levels.static, among, is_needed=has_peers)
    with mistakes.caught():
        fields["ottla_scram_users"] = resolve_first_users(levels.static)
    with mistakes.caught():
        fields["access"] = resolve_access(levels.static, fields.get("listeners", ()))
    with mistakes.caught():
        fields["node_id"] = _node_id(text)
    with mistakes.caught():
        fields["log_dirs"] = _log_dirs(text)
    with mistakes.caught():
        fields["zookeeper"] = _zookeeper(levels.static)
    with mistakes.caught():
        fields["max_connections_per_ip_overrides"] = parse_ip_overrides(
            text.get("max.connections.per.ip.overrides", "")
        )
    zookeeper: ZooKeeperOptions | None = fields.get("zookeeper")
    config_note: str | None = None
    if zookeeper is not None and not zookeeper.set_acl and (fields.get("access") or fields.get("logins")):
        config_note = (
            "zookeeper.set.acl is not true: whoever reaches ZooKeeper can read and change this cluster's users, rules and "
            "secrets, and its topics"
        )
    own = {name: EXTRA[name].parse(levels.static.get(name, EXTRA[name].default)) for name in _OWN_KEYS}
    config = BrokerConfig(
        **fields,
        cluster_id=cluster_id,
        ottla_foreign_confirm=bool(own["ottla.foreign.confirm"]),
        ottla_client_telemetry_enable=bool(own["ottla.client.telemetry.enable"]),
        ottla_tree_socket=levels.static.get("ottla.tree.socket") or None,
        ottla_shared_port=int(levels.static.get("ottla.shared.port") or 0),
        topic_defaults=LogConfig(**log_fields),
        levels=levels,
        notes=notes if config_note is None else (*notes, config_note),
    )
    for sentence, keys in contradictions(config, text):
        if not keys & wrong:
            mistakes.add(sentence)
    mistakes.raise_all()
    return config


def _node_id(text: Mapping[str, str]) -> int:
    node, broker = text.get("node.id"), text.get("broker.id")
    values = [
        BROKER[name].parse(value) for name, value in (("node.id", node), ("broker.id", broker)) if value is not None
    ]
    ids = [value for value in values if isinstance(value, int) and value >= 0]
    if len(set(ids)) > 1:
        raise ConfigError(f"node.id ({node}) and broker.id ({broker}) contradict each other: set one of them")
    return ids[0] if ids else 1


def _zookeeper(settings: Mapping[str, str]) -> ZooKeeperOptions | None:
    if not settings.get("zookeeper.connect"):
        return None
    from ottla.cluster.trees.zookeeper_options import zookeeper_options

    return zookeeper_options(settings)


def _log_dirs(text: Mapping[str, str]) -> tuple[str, ...]:
    key = "log.dirs" if text.get("log.dirs") else "log.dir"
    value = BROKER[key].parse(text.get(key, BROKER[key].default))
    dirs = tuple(directory for directory in value if directory) if isinstance(value, list) else ()
    if not dirs:
        raise ConfigError(f"{key} must name at least one directory")
    return dirs


def _parse_overrides(overrides: Sequence[str], mistakes: Mistakes) -> dict[str, str]:
    settings: dict[str, str] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if equals and name.strip():
            settings[name.strip()] = text.strip()
        else:
            mistakes.add(f"-X {override}: write it as key=value")
    return settings


def _merge_flags(flags: Flags, environment: Mapping[str, str], mistakes: Mistakes) -> Flags:
    """Fill flags that were not given from OTTLA_* variables."""
    port = flags.port
    if port is None and "port" in environment:
        if environment["port"].isdecimal():
            port = int(environment["port"])
        else:
            mistakes.add(f"OTTLA_PORT must be a port number, but it is {environment['port']}")
    return Flags(
        port=port,
        host=flags.host if flags.host is not None else environment.get("host"),
        data_dir=flags.data_dir if flags.data_dir is not None else environment.get("data_dir"),
        advertise=flags.advertise if flags.advertise is not None else environment.get("advertise"),
        cluster_id=flags.cluster_id if flags.cluster_id is not None else environment.get("cluster_id"),
        zookeeper=flags.zookeeper,
        broker_id=flags.broker_id,
        is_to_serve=flags.is_to_serve,
    )


def _check(name: str, text: str, place: str) -> list[str]:
    """Check one setting alone; return sentences worth logging."""
    key = broker_key(name)
    if key is None:
        from ottla.config.unknown_keys import what_is_meant

        raise ConfigError(f"Unknown setting {name} in {place}{what_is_meant(name)}")
    if key.name in DYNAMIC_ONLY:
        raise ConfigError(
            f"{name} in {place} is refused: Kafka reads it only where kafka-configs --alter has set it on a running broker"
        )
    try:
        value = key.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{error} (set in {place}{_allowed(key)})") from None
    if place == "-X" and key.is_sensitive:
        raise ConfigError(
            f"{name} on the command line is refused: other users of this machine can read it there; put it into the file"
        )
    is_default = value == key.parse(key.default) or (text.strip() == "" and key.default is None)
    if key.status is Status.REFUSED and not is_default:
        raise ConfigError(f"{name}={text} in {place} is refused: {key.reason}")
    if name.startswith(LISTENER_PREFIX) and key.status is Status.ENFORCED and key.name not in PER_LISTENER:
        raise ConfigError(f"{name} in {place} is refused: settings for one listener are not served yet, set {key.name}")
    if (
        key.name == "sasl.jaas.config"
        and name.count(".") < len(["listener", "name", "l", "m", "sasl", "jaas", "config"]) - 1
    ):
        return [
            f"{name} changes nothing: it is read as listener.name.<listener>.<mechanism>.sasl.jaas.config, as in Kafka"
        ]
    if key.status is Status.INERT and not is_default:
        return [f"{name} changes nothing: {key.reason}"]
    return []


def _allowed(key: ConfigKey) -> str:
    return f"; allowed: {key.valid.text}" if key.valid.text else ""
