"""How this broker connects to others: in the clear or by TLS, and as whom it logs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.config import ConfigError
from ottla.network.channel import ChannelSettings
from ottla.security.sasl import GSSAPI, PLAIN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ottla.broker.config import BrokerConfig
    from ottla.broker.settings.peers import PeerLogin
    from ottla.offload import Offload
    from ottla.security.sasl import ClientExchange


def peer_channel_settings(
    config: BrokerConfig, secret_bytes: Callable[[int], bytes], offload: Offload
) -> ChannelSettings:
    """Return how connections to other brokers are made, and how this broker logs in on them.

    Raises:
        ConfigError: a store of keys or certificates cannot be used.
    """
    login = config.peer_login
    authenticate = None
    if login.mechanism:
        from ottla.network.login import login_of

        authenticate = login_of(_exchanges(login, secret_bytes), off_loop=offload.run)
    return ChannelSettings(
        client_id=f"broker-{config.node_id}", ssl_context=_peer_context(config), authenticate=authenticate
    )


def _peer_context(config: BrokerConfig) -> ssl.SSLContext | None:
    tls = config.tls.get(config.inter_broker_listener_name)
    if tls is None:
        return None
    from ottla.security.tls import client_context
    from ottla.security.tls_settings import TlsSettingsError

    try:
        return client_context(tls.settings, checks_host=config.peer_login.checks_host)
    except TlsSettingsError as error:
        raise ConfigError(f"listener {config.inter_broker_listener_name}, to other brokers: {error}") from None


def _exchanges(login: PeerLogin, secret_bytes: Callable[[int], bytes]) -> Callable[[str], ClientExchange]:
    if login.mechanism == GSSAPI:
        return _kerberos_exchanges(login)
    if login.mechanism == PLAIN:
        from ottla.security.sasl.plain import PlainClient

        return lambda _: PlainClient(login.username, login.password)
    from ottla.security.sasl.scram import ScramClient, new_nonce, salted_password

    salted: dict[tuple[bytes, int], bytes] = {}

    def salt(mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
        key = (salt, iterations)
        if key not in salted:
            salted.clear()  # another broker may know another salt for a moment
            salted[key] = salted_password(mechanism, password, salt, iterations)
        return salted[key]

    return lambda _: ScramClient(
        login.mechanism, login.username, login.password, nonce=new_nonce(secret_bytes), salt=salt
    )


def _kerberos_exchanges(login: PeerLogin) -> Callable[[str], ClientExchange]:
    from ottla.security.extra import MissingExtraError
    from ottla.security.kerberos import check_library, initiating
    from ottla.security.sasl.gssapi import GssapiClient

    settings = login.kerberos
    assert settings is not None
    try:
        check_library()
    except MissingExtraError as error:
        raise ConfigError(str(error)) from None
    return lambda host: GssapiClient(initiating(settings.keys, settings.service, host), settings.keys.principal)
