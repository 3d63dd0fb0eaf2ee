"""How brokers log in to each other, from a broker's configuration. Pure: text in, values out.

By which mechanism says `sasl.mechanism.inter.broker.protocol`; user and password stand in the JAAS line of that mechanism
on the listener among brokers, beside the users of its clients, as in Kafka:

    listener.name.internal.plain.sasl.jaas.config=...PlainLoginModule required
        username="broker" password="..." user_broker="..." user_alice="...";
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.broker.settings.logins import entry_of
from ottla.config import LISTENER_PREFIX, ConfigError
from ottla.security.sasl import plain, scram

if TYPE_CHECKING:
    from ottla.broker.settings.listeners import Listener

KEY = "sasl.mechanism.inter.broker.protocol"
#: By which brokers can log in.
MECHANISMS = (plain.MECHANISM, *scram.HASHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLogin:
    """As whom this broker logs in to others.

    Attributes:
        checks_host: whether another broker's certificate has to be for the host that is dialled.
    """

    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    checks_host: bool = True


def resolve_peer_login(text: Mapping[str, str], listener: Listener | None, *, is_needed: bool) -> PeerLogin:
    """Return how this broker is known to others on the listener among brokers.

    Args:
        is_needed: whether there are others; without them what is missing is not missed.

    Raises:
        ConfigError: the listener logs its clients in, and what a broker needs for that is missing.
    """
    if listener is None:
        return PeerLogin()
    prefix = f"{LISTENER_PREFIX}{listener.name.lower()}."

    def find(key: str) -> str | None:
        own = text.get(prefix + key)
        return own if own is not None else text.get(key)

    algorithm = find("ssl.endpoint.identification.algorithm")
    checks_host = (algorithm if algorithm is not None else "https").strip().lower() == "https"
    if not listener.security_protocol.startswith("SASL_"):
        return PeerLogin(checks_host=checks_host)
    mechanism = (find(KEY) or "").strip()
    if not is_needed and mechanism not in MECHANISMS:
        return PeerLogin(checks_host=checks_host)
    if mechanism not in MECHANISMS:
        raise ConfigError(
            f"brokers log in to each other on the listener {listener.name}: set {KEY} to one of {', '.join(MECHANISMS)}"
            + (f", not {mechanism}" if mechanism else " (Kafka's default, GSSAPI, is not served)")
        )
    key = f"{prefix}{mechanism.lower()}.sasl.jaas.config"
    entry = entry_of(listener.name, mechanism, text.get(key))
    username, password = (None, None) if entry is None else map(entry.options.get, ("username", "password"))
    if username is None or password is None:
        raise ConfigError(
            f"brokers log in to each other on the listener {listener.name} by {mechanism}: {key} needs username and password"
        )
    return PeerLogin(mechanism=mechanism, username=username, password=password, checks_host=checks_host)
