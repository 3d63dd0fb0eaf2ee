"""The configuration of an admin client, and values of configurations as people write them: "1d", "10MiB", True."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ottla.client._core.asking import AskSettings
from ottla.client.config import ClientSettings, SecurityOptions, read_keys, shared_settings
from ottla.client.keys import CONSUMER_ELSEWHERE, CONSUMER_KEYS, Key, Milliseconds, Size, duration_ms
from ottla.client.keys import _size as size_bytes

if TYPE_CHECKING:
    import ssl

    from ottla.sasl import Sasl

#: What an admin client takes: what all clients do.
ADMIN_KEYS: Final[Mapping[str, Key]] = {
    name: CONSUMER_KEYS[name]
    for name in (
        "client.id",
        "connections.max.idle.ms",
        "default.api.timeout.ms",
        "enable.metrics.push",
        "metadata.max.age.ms",
        "metadata.recovery.strategy",
        "receive.buffer.bytes",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "request.timeout.ms",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "security.protocol",
        "send.buffer.bytes",
        "socket.connection.setup.timeout.ms",
    )
}


class AdminOptions(SecurityOptions, total=False):
    """The keys of an admin client as keywords; docs/client.md says what each does."""

    client_id: str
    connections_max_idle_ms: Milliseconds
    default_api_timeout_ms: Milliseconds
    enable_metrics_push: bool
    metadata_max_age_ms: Milliseconds
    metadata_recovery_strategy: str
    receive_buffer_bytes: Size
    reconnect_backoff_max_ms: Milliseconds
    reconnect_backoff_ms: Milliseconds
    request_timeout_ms: Milliseconds
    retry_backoff_max_ms: Milliseconds
    retry_backoff_ms: Milliseconds
    security_protocol: str
    send_buffer_bytes: Size
    socket_connection_setup_timeout_ms: Milliseconds


def admin_settings(
    bootstrap_servers: str | list[str] | None,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    ssl_context: ssl.SSLContext | None = None,
    sasl: Sasl | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ClientSettings, AskSettings]:
    """Return the settings of an admin client.

    Raises:
        ConfigurationError: a key is unknown, given twice, or has a value it cannot have.
    """
    client, _, values = read_keys(
        bootstrap_servers,
        config,
        options,
        ADMIN_KEYS,
        CONSUMER_ELSEWHERE,
        ssl_context=ssl_context,
        sasl=sasl,
        environment=environment,
    )
    return client, AskSettings(api_timeout_ms=values["default.api.timeout.ms"], **shared_settings(values))


#: What a value of a broker's, topic's or group's configuration may be here.
ConfigValue = str | int | float | bool | timedelta


def config_text(key: str, value: ConfigValue) -> str:
    """Return the text that brokers take: milliseconds for `*.ms`, bytes for `*.bytes`, true and false.

    Raises:
        ConfigurationError: it is neither a number nor a duration or size in words.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    last = key.rpartition(".")[2]
    if last == "ms" or isinstance(value, timedelta):
        factor = {"seconds": 1e3, "minutes": 6e4, "hours": 3.6e6}.get(last, 1.0)
        return f"{duration_ms(key, value) / factor:.0f}"
    if last == "bytes":
        return str(size_bytes(key, value))
    return str(value)
