"""A client's configuration: Kafka's keys with Kafka's defaults, as keywords (`linger_ms=5`) or in `config={"linger.ms": 5}`.

Pure: values in, `ProducerSettings` and friends out. An unknown key is an error that names the nearest one. librdkafka's
names are taken where they mean the same, with a line in the log that says Kafka's. The keys are in `ottla.client.keys`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, cast

from ottla.client._core.assignors import ASSIGNORS, Assignor
from ottla.client._core.backoff import Backoff
from ottla.client._core.fetching import FetchSettings
from ottla.client._core.group import GroupSettings
from ottla.client._core.partitioner import PartitionFunction
from ottla.client._core.settings import ProducerSettings
from ottla.client.contexts import with_context
from ottla.client.errors import ConfigurationError
from ottla.client.keys import (
    ALIASES,
    CONSUMER_ELSEWHERE,
    CONSUMER_KEYS,
    ELSEWHERE,
    INERT,
    PRODUCER_KEYS,
    Key,
    Milliseconds,
    Size,
    integer,
    parse_period_ms,
)
from ottla.client.security import SECURITY_KEYS, client_security
from ottla.security.tls_settings import TlsSettings
from ottla.types import EARLIEST, LATEST, CompressionType, IsolationLevel

if TYPE_CHECKING:
    import ssl

    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger(__name__)


class SecurityOptions(TypedDict, total=False):
    """The keys of every client about security as keywords."""

    sasl_jaas_config: str
    sasl_kerberos_keytab: str
    sasl_kerberos_principal: str
    sasl_kerberos_service_name: str
    sasl_mechanism: str
    sasl_oauthbearer_client_credentials_client_id: str
    sasl_oauthbearer_client_credentials_client_secret: str
    sasl_oauthbearer_scope: str
    sasl_oauthbearer_token_endpoint_url: str
    sasl_password: str
    sasl_username: str
    ssl_endpoint_identification_algorithm: str
    ssl_key_password: str
    ssl_keystore_certificate_chain: str
    ssl_keystore_key: str
    ssl_keystore_location: str
    ssl_keystore_password: str
    ssl_keystore_type: str
    ssl_truststore_certificates: str
    ssl_truststore_location: str
    ssl_truststore_password: str
    ssl_truststore_type: str


class ReaderOptions(SecurityOptions, total=False):
    """The keys of a consumer as keywords, but for its group; docs/client.md says what each does."""

    allow_auto_create_topics: bool
    auto_commit_interval_ms: Milliseconds
    auto_offset_reset: str
    client_id: str
    client_rack: str
    connections_max_idle_ms: Milliseconds
    default_api_timeout_ms: Milliseconds
    enable_auto_commit: bool
    enable_metrics_push: bool
    exclude_internal_topics: bool
    fetch_max_bytes: Size
    fetch_max_wait_ms: Milliseconds
    fetch_min_bytes: Size
    group_instance_id: str
    group_protocol: str
    group_remote_assignor: str
    heartbeat_interval_ms: Milliseconds
    isolation_level: str
    max_partition_fetch_bytes: Size
    max_poll_interval_ms: Milliseconds
    max_poll_records: int
    metadata_max_age_ms: Milliseconds
    metadata_recovery_strategy: str
    partition_assignment_strategy: str | Sequence[str | Assignor]
    receive_buffer_bytes: Size
    reconnect_backoff_max_ms: Milliseconds
    reconnect_backoff_ms: Milliseconds
    request_timeout_ms: Milliseconds
    retry_backoff_max_ms: Milliseconds
    retry_backoff_ms: Milliseconds
    security_protocol: str
    send_buffer_bytes: Size
    session_timeout_ms: Milliseconds
    socket_connection_setup_timeout_ms: Milliseconds


class ConsumerOptions(ReaderOptions, total=False):
    """The keys of a consumer as keywords; docs/client.md says what each does."""

    group_id: str


#: What is committed, and when; None without a group.
CommitMode = Literal["processed", "marked", "manual", "transaction"]


class ConsumerBounds(NamedTuple):
    """What of a consumer's configuration the core does not need to know.

    Attributes:
        commit: None without a group.
        commit_interval_ms: None where nothing is committed by the clock.
    """

    api_timeout_s: float
    max_poll_records: int
    commit: CommitMode | None
    commit_interval_ms: float | None


class ProducerOptions(SecurityOptions, total=False):
    """The keys of a producer as keywords; docs/client.md says what each does."""

    acks: int | str
    batch_size: Size
    buffer_memory: Size
    client_id: str
    compression_type: str
    compression_gzip_level: int
    compression_lz4_level: int
    compression_zstd_level: int
    connections_max_idle_ms: Milliseconds
    delivery_timeout_ms: Milliseconds
    enable_idempotence: bool
    enable_metrics_push: bool
    linger_ms: Milliseconds
    max_block_ms: Milliseconds
    max_in_flight_requests_per_connection: int
    max_request_size: Size
    metadata_max_age_ms: Milliseconds
    metadata_max_idle_ms: Milliseconds
    metadata_recovery_strategy: str
    partitioner_adaptive_partitioning_enable: bool
    partitioner_ignore_keys: bool
    receive_buffer_bytes: Size
    reconnect_backoff_max_ms: Milliseconds
    reconnect_backoff_ms: Milliseconds
    request_timeout_ms: Milliseconds
    retries: int
    retry_backoff_max_ms: Milliseconds
    retry_backoff_ms: Milliseconds
    security_protocol: str
    send_buffer_bytes: Size
    socket_connection_setup_timeout_ms: Milliseconds
    transaction_timeout_ms: Milliseconds
    transactional_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What every client has: where to connect, and how.

    Attributes:
        bootstrap: (host, port) of `bootstrap.servers`.
        tls: whether to speak TLS; `ssl_context` is the caller's, or None where `tls_settings` say it.
        sasl: how to log in; None: not at all.
    """

    bootstrap: tuple[tuple[str, int], ...]
    client_id: str
    tls: bool
    ssl_context: ssl.SSLContext | None
    connect_timeout_ms: float
    send_buffer_bytes: int
    receive_buffer_bytes: int
    sasl: Sasl | None = None
    tls_settings: TlsSettings = field(default_factory=TlsSettings)
    checks_host: bool = True
    enable_metrics_push: bool = True
    request_timeout_ms: float = 30_000


def producer_settings(
    bootstrap_servers: str | list[str] | None,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    partitioner: str | PartitionFunction | None = None,
    ssl_context: ssl.SSLContext | None = None,
    sasl: Sasl | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ClientSettings, ProducerSettings]:
    """Return the settings of a producer.

    Raises:
        ConfigurationError: a key is unknown, given twice, or has a value it cannot have; or keys contradict each other.
    """
    client, given, values = read_keys(
        bootstrap_servers,
        config,
        options,
        PRODUCER_KEYS,
        ELSEWHERE,
        ssl_context=ssl_context,
        sasl=sasl,
        environment=environment,
    )
    _check(given, values)
    compression = CompressionType[values["compression.type"].upper()]
    level = None
    if f"compression.{values['compression.type']}.level" in given:
        level = values[f"compression.{values['compression.type']}.level"]
    if isinstance(partitioner, str) and partitioner not in ("consistent_random", "round_robin", "random"):
        raise ConfigurationError(
            f"partitioner={partitioner!r} is not valid: it takes 'consistent_random', 'round_robin', 'random' or a function."
        )
    return client, ProducerSettings(
        acks=values["acks"],
        batch_size=values["batch.size"],
        linger_ms=values["linger.ms"],
        buffer_memory=values["buffer.memory"],
        max_request_size=values["max.request.size"],
        max_in_flight=values["max.in.flight.requests.per.connection"],
        max_block_ms=values["max.block.ms"],
        delivery_timeout_ms=values["delivery.timeout.ms"],
        request_timeout_ms=values["request.timeout.ms"],
        retries=values["retries"],
        retry_backoff=Backoff(values["retry.backoff.ms"], values["retry.backoff.max.ms"]),
        reconnect_backoff=Backoff(values["reconnect.backoff.ms"], values["reconnect.backoff.max.ms"]),
        enable_idempotence=values["enable.idempotence"],
        transactional_id=values["transactional.id"],
        transaction_timeout_ms=int(values["transaction.timeout.ms"]),
        compression=compression,
        compression_level=level,
        partitioner=partitioner,
        partitioner_ignore_keys=values["partitioner.ignore.keys"],
        partitioner_adaptive=values["partitioner.adaptive.partitioning.enable"],
        metadata_max_age_ms=values["metadata.max.age.ms"],
        metadata_max_idle_ms=values["metadata.max.idle.ms"],
        connections_max_idle_ms=values["connections.max.idle.ms"],
        rebootstrap=values["metadata.recovery.strategy"] == "rebootstrap",
    )


def consumer_settings(
    bootstrap_servers: str | list[str] | None,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    commit: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    sasl: Sasl | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ClientSettings, FetchSettings, GroupSettings | None, ConsumerBounds]:
    """Return the settings of a consumer; see `producer_settings`."""
    client, given, values = read_keys(
        bootstrap_servers,
        config,
        options,
        CONSUMER_KEYS,
        CONSUMER_ELSEWHERE,
        ssl_context=ssl_context,
        sasl=sasl,
        environment=environment,
    )
    mode = _commit_mode(commit, given, values)
    isolation = IsolationLevel[values["isolation.level"].upper()]
    if mode == "transaction":
        if given.get("isolation.level") not in (None, "read_committed"):
            raise ConfigurationError("commit='transaction' reads what is committed: isolation.level=read_committed.")
        isolation = IsolationLevel.READ_COMMITTED
    fetch = FetchSettings(
        reset={"earliest": EARLIEST, "latest": LATEST, "none": None}.get(values["auto.offset.reset"], LATEST),
        reset_period_ms=parse_period_ms(values["auto.offset.reset"]),
        isolation=isolation,
        fetch_min_bytes=values["fetch.min.bytes"],
        fetch_max_bytes=values["fetch.max.bytes"],
        fetch_max_wait_ms=int(values["fetch.max.wait.ms"]),
        max_partition_fetch_bytes=values["max.partition.fetch.bytes"],
        client_rack=values["client.rack"],
        allow_auto_create_topics=values["allow.auto.create.topics"],
        **shared_settings(values),
    )
    bounds = ConsumerBounds(
        api_timeout_s=values["default.api.timeout.ms"] / 1000,
        max_poll_records=values["max.poll.records"],
        commit=mode,
        commit_interval_ms=values["auto.commit.interval.ms"] if mode in ("processed", "marked") else None,
    )
    return client, fetch, _group_settings(given, values), bounds


def _commit_mode(commit: str | None, given: Mapping[str, Any], values: Mapping[str, Any]) -> CommitMode | None:
    automatic = given.get("enable.auto.commit")
    if commit is not None and automatic is not None:
        raise ConfigurationError("commit= and enable.auto.commit are given: one says what the other does.")
    if commit not in (None, "processed", "marked", "manual", "transaction"):
        raise ConfigurationError(
            f"commit={commit!r} is not valid: it takes 'processed', 'marked', 'manual' or 'transaction'."
        )
    if values["group.id"] is None:
        if commit is not None or values["group.instance.id"] is not None:
            what = "commit=" if commit is not None else "group.instance.id"
            raise ConfigurationError(f"{what} is of use with a group only.", "Pass group_id=, too.")
        return None
    if commit is not None:
        return cast(CommitMode, commit)
    return "processed" if values["enable.auto.commit"] else "manual"


def _group_settings(given: Mapping[str, Any], values: Mapping[str, Any]) -> GroupSettings | None:
    group_id = values["group.id"]
    if group_id is None:
        return None
    if not group_id:
        raise ConfigurationError("group.id is empty.")
    if values["heartbeat.interval.ms"] >= values["session.timeout.ms"]:
        raise ConfigurationError(
            f"heartbeat.interval.ms ({values['heartbeat.interval.ms']:g}) must be less than session.timeout.ms "
            f"({values['session.timeout.ms']:g}); a third of it is usual."
        )
    assignors: list[Assignor] = [
        ASSIGNORS[each]() if isinstance(each, str) else each for each in values["partition.assignment.strategy"]
    ]
    return GroupSettings(
        group_id=group_id,
        group_instance_id=values["group.instance.id"],
        protocol=values["group.protocol"],
        remote_assignor=values["group.remote.assignor"],
        assignors=assignors,
        session_timeout_ms=values["session.timeout.ms"],
        heartbeat_interval_ms=values["heartbeat.interval.ms"],
        max_poll_interval_ms=values["max.poll.interval.ms"],
        client_rack=values["client.rack"],
        exclude_internal_topics=values["exclude.internal.topics"],
    )


def read_keys(
    bootstrap_servers: str | list[str] | None,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    keys: Mapping[str, Key],
    elsewhere: Mapping[str, str],
    *,
    ssl_context: ssl.SSLContext | None,
    sasl: Sasl | None,
    environment: Mapping[str, str] | None,
) -> tuple[ClientSettings, dict[str, Any], dict[str, Any]]:
    """Return (what every client has, what was given by Kafka's names, the values of all keys).

    Raises:
        ConfigurationError: a key is unknown, given twice, or has a value it cannot have.
    """
    config = with_context(bootstrap_servers, config, options, environment)
    keys = {**keys, **SECURITY_KEYS}
    given = _merge(config, options, keys, elsewhere)
    servers = given.pop("bootstrap.servers", None)
    if servers is not None and bootstrap_servers is not None:
        raise ConfigurationError("bootstrap.servers is given twice.")
    values = {name: _value(key, given.get(name)) for name, key in keys.items()}
    client = client_settings(
        bootstrap_servers if servers is None else servers, values, ssl_context, environment or {}, sasl=sasl
    )
    return client, given, values


def shared_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the cores of all clients without records to send have."""
    return {
        "request_timeout_ms": values["request.timeout.ms"],
        "retry_backoff": Backoff(values["retry.backoff.ms"], values["retry.backoff.max.ms"]),
        "reconnect_backoff": Backoff(values["reconnect.backoff.ms"], values["reconnect.backoff.max.ms"]),
        "metadata_max_age_ms": values["metadata.max.age.ms"],
        "connections_max_idle_ms": values["connections.max.idle.ms"],
        "rebootstrap": values["metadata.recovery.strategy"] == "rebootstrap",
    }


def client_settings(
    servers: str | list[str] | None,
    values: Mapping[str, Any],
    ssl_context: ssl.SSLContext | None,
    environment: Mapping[str, str],
    *,
    sasl: Sasl | None = None,
) -> ClientSettings:
    """Return what every client has. Without `servers` KAFKA_BOOTSTRAP_SERVERS of `environment` counts."""
    if servers is None:
        servers = environment.get("KAFKA_BOOTSTRAP_SERVERS")
    if not servers:
        raise ConfigurationError(
            "No broker is given.",
            "Pass 'host:port', set KAFKA_BOOTSTRAP_SERVERS, or choose a context (`ottla context`); `ottla serve` listens on "
            "localhost:9092.",
        )
    security = client_security(values, has_context=ssl_context is not None, sasl=sasl)
    return ClientSettings(
        bootstrap=tuple(parse_servers(servers)),
        client_id=values["client.id"],
        tls=security.tls,
        ssl_context=ssl_context,
        sasl=security.sasl,
        tls_settings=security.tls_settings,
        checks_host=security.checks_host,
        connect_timeout_ms=values["socket.connection.setup.timeout.ms"],
        send_buffer_bytes=values["send.buffer.bytes"],
        receive_buffer_bytes=values["receive.buffer.bytes"],
        enable_metrics_push=values["enable.metrics.push"],
        request_timeout_ms=values["request.timeout.ms"],
    )


def parse_servers(servers: str | list[str]) -> list[tuple[str, int]]:
    """Return (host, port) of each "host:port", comma-separated or in a list; "[::1]:9092" for IPv6, 9092 without a port."""
    found = []
    for part in servers.split(",") if isinstance(servers, str) else servers:
        text = part.strip()
        if not text:
            continue
        _, _, rest = text.rpartition("://")  # PLAINTEXT://host:port, as listeners are written
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest, "9092"
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or (":" in host and not host.startswith("[")):
            raise ConfigurationError(
                f"bootstrap.servers: {text!r} is no address.", "Write host:port, or [::1]:9092 for IPv6."
            )
        found.append((host.strip("[]"), int(port)))
    if not found:
        raise ConfigurationError("bootstrap.servers is empty.")
    return found


def _merge(
    config: Mapping[str, Any] | None, options: Mapping[str, Any], keys: Mapping[str, Key], elsewhere: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is given, by Kafka's names; None counts as not given."""
    given: dict[str, Any] = {}
    for spelled, value in [*(config or {}).items(), *options.items()]:
        if value is None:
            continue
        name = spelled.replace("_", ".")
        alias = ALIASES.get(name)
        if alias is not None:
            logger.warning("%s is librdkafka's name; Kafka's is %s", spelled, alias[0])
            name = alias[0]
            if alias[1] != 1:
                value = integer(spelled, value) * int(alias[1])
        if name in elsewhere:
            raise ConfigurationError(f"{spelled} is no key of this client.", elsewhere[name])
        if name.startswith(("sasl.", "ssl.")) and name not in keys and name not in INERT:
            ways = "Pass sasl=ottla.sasl.Scram(...), Plain(...), OAuthBearer(...) or Kerberos(...)."
            hint = "Pass ssl_context=." if name.startswith("ssl.") else ways
            raise ConfigurationError(f"{spelled} is no key of this client.", hint)
        if name in INERT:
            continue
        if name not in keys and name != "bootstrap.servers":
            raise ConfigurationError(f"Unknown key {spelled!r}.", _nearest(spelled, name, keys))
        if name in given:
            raise ConfigurationError(f"{name} is given twice.")
        given[name] = value
    return given


def _nearest(spelled: str, name: str, keys: Mapping[str, Key]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, [*keys, "bootstrap.servers"], n=1, cutoff=0.6)
    if not found:
        return ""
    meant = found[0] if "." in spelled else found[0].replace(".", "_")
    return f"Did you mean {meant!r}?"


def _value(key: Key, given: Any) -> Any:
    if given is None and key.default is None:
        return None
    value = key.parse(key.name, key.default if given is None else given)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if key.low is not None and value < key.low:
            raise ConfigurationError(f"{key.name}={given!r} is not valid: it must be at least {key.low}.")
        if key.high is not None and value > key.high:
            raise ConfigurationError(f"{key.name}={given!r} is not valid: it must be no more than {key.high}.")
    return value


def _check(given: Mapping[str, Any], values: dict[str, Any]) -> None:
    """Settle what depends on several keys, as Kafka's ProducerConfig does."""
    transactional = values["transactional.id"] is not None
    demanded = transactional or "enable.idempotence" in given
    problems = []
    if values["acks"] != -1:
        problems.append("acks must be 'all'")
    if values["retries"] == 0:
        problems.append("retries must not be 0")
    if values["max.in.flight.requests.per.connection"] > 5:
        problems.append("max.in.flight.requests.per.connection must be at most 5")
    if values["enable.idempotence"] and problems:
        if demanded:
            why = "a transactional.id" if transactional else "enable.idempotence"
            raise ConfigurationError(f"With {why}, {' and '.join(problems)}.")
        values["enable.idempotence"] = False
    if transactional and not values["enable.idempotence"]:
        raise ConfigurationError("A transactional.id needs enable.idempotence.")
    shortest = values["linger.ms"] + values["request.timeout.ms"]
    if values["delivery.timeout.ms"] < shortest:
        if "delivery.timeout.ms" in given:
            raise ConfigurationError(
                f"delivery.timeout.ms={given['delivery.timeout.ms']!r} must be at least linger.ms + request.timeout.ms "
                f"({shortest:g}).",
                "Lower request.timeout.ms, too.",
            )
        values["delivery.timeout.ms"] = shortest
