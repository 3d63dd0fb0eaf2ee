"""How every client connects: the settings of its connections, and why it did not come about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.client.security import context_of, login_for
from ottla.errors import KafkaError
from ottla.network.channel import ChannelSettings
from ottla.network.channel_errors import BrokerUnreachableError

if TYPE_CHECKING:
    from ottla.client._core.connections import Connections
    from ottla.client.config import ClientSettings


def channel_settings(client: ClientSettings) -> ChannelSettings:
    """Return how connections are made."""
    return ChannelSettings(
        client_id=client.client_id,
        ssl_context=context_of(client),
        authenticate=login_for(client),
        connect_timeout_s=client.connect_timeout_ms / 1000,
        send_buffer_bytes=client.send_buffer_bytes,
        receive_buffer_bytes=client.receive_buffer_bytes,
    )


def not_connected(connections: Connections, client: ClientSettings, timeout_s: float) -> KafkaError:
    """Return why no connection came about within a time."""
    error = connections.error
    if isinstance(error, KafkaError):
        return error
    where = ", ".join(f"{host}:{port}" for host, port in client.bootstrap)
    return BrokerUnreachableError(f"No broker answered within {timeout_s:g} s: {where}.", address=where)
