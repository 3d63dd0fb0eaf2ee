"""The configuration of an admin client, and values of configurations as people write them: "1d", "10MiB", True."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ottla.client._core.asking import AskSettings
from ottla.client._core.backoff import Backoff
from ottla.client.config import ClientSettings, SecurityOptions, _merge, _value, client_settings
from ottla.client.contexts import with_context
from ottla.client.errors import ConfigurationError
from ottla.client.keys import CONSUMER_ELSEWHERE, CONSUMER_KEYS, Key, Milliseconds, Size, duration_ms
from ottla.client.keys import _size as size_bytes
from ottla.client.security import SECURITY_KEYS

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
    config = with_context(bootstrap_servers, config, options, environment)
    keys = {**ADMIN_KEYS, **SECURITY_KEYS}
    given = _merge(config, options, keys, CONSUMER_ELSEWHERE)
    servers = given.pop("bootstrap.servers", None)
    if servers is not None and bootstrap_servers is not None:
        raise ConfigurationError("bootstrap.servers is given twice.")
    values = {name: _value(key, given.get(name)) for name, key in keys.items()}
    client = client_settings(
        bootstrap_servers if servers is None else servers, values, ssl_context, environment or {}, sasl=sasl
    )
    return client, AskSettings(
        api_timeout_ms=values["default.api.timeout.ms"],
        request_timeout_ms=values["request.timeout.ms"],
        retry_backoff=Backoff(values["retry.backoff.ms"], values["retry.backoff.max.ms"]),
        reconnect_backoff=Backoff(values["reconnect.backoff.ms"], values["reconnect.backoff.max.ms"]),
        metadata_max_age_ms=values["metadata.max.age.ms"],
        connections_max_idle_ms=values["connections.max.idle.ms"],
        rebootstrap=values["metadata.recovery.strategy"] == "rebootstrap",
    )


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
