"""How brokers log in to each other, from a broker's configuration. Pure: text in, values out.

By which mechanism says `sasl.mechanism.inter.broker.protocol`; user and password stand in the JAAS line of that mechanism
on the listener among brokers, beside the users of its clients, as in Kafka; with GSSAPI there is the broker's keytab:

    listener.name.internal.plain.sasl.jaas.config=...PlainLoginModule required
        username="broker" password="..." user_broker="..." user_alice="...";
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ottla.broker.settings.logins import entry_of
from ottla.config import BROKER, LISTENER_PREFIX, ConfigError
from ottla.security.sasl import GSSAPI, PLAIN, SCRAM_HASHES

if TYPE_CHECKING:
    from ottla.broker.settings.kerberos import KerberosSettings
    from ottla.broker.settings.listeners import Listener

KEY = "sasl.mechanism.inter.broker.protocol"
#: By which brokers can log in.
MECHANISMS = (PLAIN, *SCRAM_HASHES, GSSAPI)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLogin:
    """As whom this broker logs in to others.

    Attributes:
        kerberos: this broker's keys, and what the others are called, with GSSAPI.
        checks_host: whether another broker's certificate has to be for the host that is dialled.
    """

    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    kerberos: KerberosSettings | None = None
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
    key = f"{prefix}{GSSAPI.lower()}.sasl.jaas.config"
    if not mechanism and key in text:
        mechanism = BROKER[KEY].default or ""
    if mechanism not in MECHANISMS:
        raise ConfigError(
            f"brokers log in to each other on the listener {listener.name}: set {KEY} to one of {', '.join(MECHANISMS)}"
            + (f", not {mechanism}" if mechanism else f" (Kafka's default, GSSAPI, needs {key})")
        )
    key = f"{prefix}{mechanism.lower()}.sasl.jaas.config"
    entry = entry_of(listener.name, mechanism, text.get(key))
    if mechanism == GSSAPI:
        from ottla.broker.settings.kerberos import resolve_kerberos

        own = f"{prefix}{mechanism.lower()}."
        kerberos = resolve_kerberos(key, entry, lambda name: text[own + name] if own + name in text else find(name))
        return PeerLogin(mechanism=mechanism, kerberos=kerberos, checks_host=checks_host)
    username, password = (None, None) if entry is None else map(entry.options.get, ("username", "password"))
    if username is None or password is None:
        raise ConfigError(
            f"brokers log in to each other on the listener {listener.name} by {mechanism}: {key} needs username and password"
        )
    return PeerLogin(mechanism=mechanism, username=username, password=password, checks_host=checks_host)
