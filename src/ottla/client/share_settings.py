"""The configuration of a share consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ottla.client._core.share_requests import ShareSettings
from ottla.client.config import ClientSettings, SecurityOptions, read_keys, shared_settings
from ottla.client.errors import ConfigurationError
from ottla.client.keys import SHARE_ELSEWHERE, SHARE_KEYS, Milliseconds, Size

if TYPE_CHECKING:
    import ssl

    from ottla.sasl import Sasl


class ShareConsumerOptions(SecurityOptions, total=False):
    """The keys of a share consumer as keywords; docs/client.md says what each does."""

    client_id: str
    client_rack: str
    connections_max_idle_ms: Milliseconds
    enable_metrics_push: bool
    default_api_timeout_ms: Milliseconds
    fetch_max_bytes: Size
    fetch_max_wait_ms: Milliseconds
    fetch_min_bytes: Size
    group_id: str
    max_poll_records: int
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
    share_acknowledgement_mode: str
    share_acquire_mode: str
    socket_connection_setup_timeout_ms: Milliseconds


class ShareBounds(NamedTuple):
    """What of a share consumer's configuration the core does not need to know.

    Attributes:
        implicit: whether asking for more accepts what was handed out.
    """

    api_timeout_s: float
    max_poll_records: int
    implicit: bool


def share_settings(
    bootstrap_servers: str | list[str] | None,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    max_processing_ms: float,
    ssl_context: ssl.SSLContext | None = None,
    sasl: Sasl | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ClientSettings, ShareSettings, ShareBounds]:
    """Return the settings of a share consumer.

    Raises:
        ConfigurationError: a key is unknown, given twice, or has a value it cannot have; there is no group.
    """
    client, _, values = read_keys(
        bootstrap_servers,
        config,
        options,
        SHARE_KEYS,
        SHARE_ELSEWHERE,
        ssl_context=ssl_context,
        sasl=sasl,
        environment=environment,
    )
    if not values["group.id"]:
        raise ConfigurationError("A share consumer is a member of a group.", "Pass group_id=.")
    settings = ShareSettings(
        group_id=values["group.id"],
        client_rack=values["client.rack"],
        fetch_min_bytes=values["fetch.min.bytes"],
        fetch_max_bytes=values["fetch.max.bytes"],
        fetch_max_wait_ms=int(values["fetch.max.wait.ms"]),
        max_poll_records=values["max.poll.records"],
        record_limit=values["share.acquire.mode"] == "record_limit",
        max_processing_ms=max_processing_ms,
        **shared_settings(values),
    )
    bounds = ShareBounds(
        api_timeout_s=values["default.api.timeout.ms"] / 1000,
        max_poll_records=values["max.poll.records"],
        implicit=values["share.acknowledgement.mode"] == "implicit",
    )
    return client, settings, bounds
