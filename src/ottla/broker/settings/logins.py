"""How clients of each listener log in, from a broker's configuration: mechanisms, users, times. Pure: text in, values out.

`sasl.enabled.mechanisms` may be set for one listener; a mechanism's own settings stand under
`listener.name.<listener>.<mechanism>.`, as in Kafka, and nowhere else: a `sasl.jaas.config` without listener and mechanism
would be everybody's password on every listener.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ottla.config import BROKER, LISTENER_PREFIX, ConfigError
from ottla.config.keys import split_list
from ottla.config.mistakes import Mistakes
from ottla.security.sasl import GSSAPI, OAUTHBEARER, PLAIN, SCRAM_HASHES

if TYPE_CHECKING:
    from ottla.broker.settings.kerberos import KerberosSettings
    from ottla.broker.settings.listeners import Listener
    from ottla.broker.settings.oauth import OAuthSettings
    from ottla.security.jaas import JaasEntry

#: Mechanisms that are served.
MECHANISMS = (PLAIN, *SCRAM_HASHES, OAUTHBEARER, GSSAPI)
_JAAS = "sasl.jaas.config"
_MODULES = {
    PLAIN: "PlainLoginModule",
    **dict.fromkeys(SCRAM_HASHES, "ScramLoginModule"),
    OAUTHBEARER: "OAuthBearerLoginModule",
    GSSAPI: "Krb5LoginModule",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLogins:
    """How clients of one listener log in.

    Attributes:
        mechanisms: the enabled ones, in order.
        passwords: of PLAIN's users (`user_<name>="..."` in the JAAS line).
        reauthenticate_ms: by mechanism, `connections.max.reauth.ms`.
        token_bytes_max: `sasl.server.max.receive.size`.
        oauth: which tokens OAUTHBEARER takes.
        kerberos: whose tickets GSSAPI takes, and what their users are called.
    """

    mechanisms: tuple[str, ...]
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    reauthenticate_ms: Mapping[str, int] = field(default_factory=dict)
    token_bytes_max: int = 524_288
    oauth: OAuthSettings | None = None
    kerberos: KerberosSettings | None = None


class FirstUser(NamedTuple):
    """A user of `ottla.scram.users`. `credential` is the text of its keys, as it stands in the tree."""

    name: str
    mechanism: str
    credential: str

    def __repr__(self) -> str:
        return f"FirstUser({self.name}, {self.mechanism}, [hidden])"


def resolve_first_users(text: Mapping[str, str]) -> tuple[FirstUser, ...]:
    """Return the users of `ottla.scram.users`.

    Raises:
        ConfigError: one cannot be read; the text shows no value.
    """
    written = text.get("ottla.scram.users") or ""
    if not written.strip():
        return ()
    from ottla.security.sasl.scram import credential_from_text

    found: list[FirstUser] = []
    for number, item in enumerate(written.split(";"), 1):
        if not item.strip():
            continue
        name, _, rest = item.strip().partition(":")
        mechanism, _, credential = rest.partition(":")
        if not name or mechanism not in SCRAM_HASHES or credential_from_text(credential) is None:
            raise ConfigError(
                f"ottla.scram.users: user {number} cannot be read; write it as "
                "name:SCRAM-SHA-512:salt=...,stored_key=...,server_key=...,iterations=8192, or let `ottla security init` "
                "do it"
            )
        found.append(FirstUser(name, mechanism, credential))
    return tuple(found)


def resolve_logins(text: Mapping[str, str], listeners: Iterable[Listener]) -> dict[str, ListenerLogins]:
    """Return the logins of each listener with SASL, by its name. `text` has the static settings as they were written.

    Raises:
        ConfigError: a mechanism is not served, or its JAAS line is missing or wrong.
    """
    found: dict[str, ListenerLogins] = {}
    mistakes = Mistakes()
    for listener in listeners:
        if listener.security_protocol.startswith("SASL_"):
            with mistakes.caught():
                found[listener.name] = _logins_of(text, listener)
    mistakes.raise_all()
    return found


def _logins_of(text: Mapping[str, str], of: Listener) -> ListenerLogins:
    listener = of.name

    def find(key: str, mechanism: str = "") -> str | None:
        prefix = f"{LISTENER_PREFIX}{listener.lower()}."
        if mechanism and (value := text.get(f"{prefix}{mechanism.lower()}.{key}")) is not None:
            return value
        value = text.get(f"{prefix}{key}")
        return value if value is not None else text.get(key)

    key = "sasl.enabled.mechanisms"
    names = split_list(find(key) or BROKER[key].default or "")
    unserved = [name for name in names if name not in MECHANISMS]
    if unserved:
        raise ConfigError(
            f"{key} of the listener {listener} names {', '.join(unserved)}; served are {', '.join(MECHANISMS)}"
        )
    passwords: dict[str, str] = {}
    kerberos = None
    for name in names:
        line = text.get(f"{LISTENER_PREFIX}{listener.lower()}.{name.lower()}.{_JAAS}")
        entry = entry_of(listener, name, line)
        if name == PLAIN:
            if entry is None:
                raise ConfigError(
                    f"the listener {listener} has PLAIN and no users: set "
                    f"{LISTENER_PREFIX}{listener.lower()}.plain.{_JAAS} to "
                    'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="..."; '
                )
            passwords = {
                option.removeprefix("user_"): value
                for option, value in entry.options.items()
                if option.startswith("user_")
            }
        elif name == GSSAPI:
            from ottla.broker.settings.kerberos import resolve_kerberos

            jaas_key = f"{LISTENER_PREFIX}{listener.lower()}.{name.lower()}.{_JAAS}"
            kerberos = resolve_kerberos(jaas_key, entry, lambda key: find(key, GSSAPI))
    oauth = None
    if OAUTHBEARER in names:
        from ottla.broker.settings.oauth import resolve_oauth

        oauth = resolve_oauth(lambda key: find(key, OAUTHBEARER), of)
    reauthenticate = {
        name: _number("connections.max.reauth.ms", find("connections.max.reauth.ms", name)) for name in names
    }
    return ListenerLogins(
        mechanisms=tuple(names),
        passwords=passwords,
        reauthenticate_ms=reauthenticate,
        token_bytes_max=_number("sasl.server.max.receive.size", find("sasl.server.max.receive.size")),
        oauth=oauth,
        kerberos=kerberos,
    )


def _number(key: str, text: str | None) -> int:
    value = BROKER[key].parse(BROKER[key].default if text is None else text)
    assert isinstance(value, int)
    return value


def entry_of(listener: str, mechanism: str, line: str | None) -> JaasEntry | None:
    """Return what the JAAS line of a mechanism on a listener says; raises ConfigError if it is none of that mechanism."""
    if line is None:
        return None
    from ottla.security.jaas import JaasError, parse_jaas

    try:
        entry = parse_jaas(line)
    except JaasError as error:
        raise ConfigError(f"{_JAAS} of the listener {listener} for {mechanism}: {error}") from None
    if entry.module_name != _MODULES[mechanism]:
        raise ConfigError(
            f"{_JAAS} of the listener {listener} for {mechanism} names {entry.module}; it must be a {_MODULES[mechanism]}"
        )
    return entry
