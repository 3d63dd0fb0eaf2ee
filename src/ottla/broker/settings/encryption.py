"""TLS of each listener, from a broker's configuration. Pure: text in, values out; files are read where contexts are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.config import BROKER, LISTENER_PREFIX, ConfigError, listener_of_store
from ottla.config.mistakes import Mistakes
from ottla.security.mapping import MappingRuleError, PrincipalMapping
from ottla.security.tls_settings import TlsSettings

if TYPE_CHECKING:
    from ottla.broker.settings.listeners import Listener
    from ottla.config.keys import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTls:
    """TLS of one listener.

    Attributes:
        mapping: how the name in a client's certificate becomes the name of a user.
        allow_dn_changes, allow_san_changes: what a certificate that takes the place of another one may differ in.
    """

    settings: TlsSettings
    mapping: PrincipalMapping
    allow_dn_changes: bool
    allow_san_changes: bool


def resolve_tls(text: Mapping[str, str], listeners: Iterable[Listener]) -> dict[str, ListenerTls]:
    """Return the settings of each listener with TLS, by its name. `text` has the static settings as they were written.

    Raises:
        ConfigError: a value is wrong, or something is missing.
    """
    found: dict[str, ListenerTls] = {}
    mistakes = Mistakes()
    for listener in listeners:
        if listener.security_protocol.endswith("SSL"):
            with mistakes.caught():
                found[listener.name] = _tls_of(text, listener)
    mistakes.raise_all()
    return found


def with_stores(
    found: Mapping[str, ListenerTls], static: Mapping[str, str], own: Mapping[str, str], listeners: Iterable[Listener]
) -> Mapping[str, ListenerTls]:
    """Return the same with the stores that were set for single listeners while the broker runs (`own`: all that was set).

    Raises:
        ConfigError: as `resolve_tls`.
    """
    stores = {name: text for name, text in own.items() if listener_of_store(name) is not None}
    return resolve_tls({**static, **stores}, listeners) if stores else found


def _tls_of(text: Mapping[str, str], listener: Listener) -> ListenerTls:
    def find(key: str) -> Value:
        own = text.get(f"{LISTENER_PREFIX}{listener.name.lower()}.{key}")
        value = own if own is not None else text.get(key)
        return BROKER[key].parse(BROKER[key].default if value is None else value)

    def word(key: str) -> str | None:
        value = find(key)
        return str(value) if value not in (None, "") else None

    def words(key: str) -> tuple[str, ...]:
        value = find(key)
        return tuple(value) if isinstance(value, list) else ()

    auth = word("ssl.client.auth") or "none"
    if (
        auth != "none"
        and listener.security_protocol == "SASL_SSL"
        and (f"{LISTENER_PREFIX}{listener.name.lower()}.ssl.client.auth" not in text)
    ):
        auth = "none"  # as in Kafka: with SASL a certificate is asked for only where the listener itself says so
    settings = TlsSettings(
        keystore_type=word("ssl.keystore.type") or "JKS",
        keystore_location=word("ssl.keystore.location"),
        keystore_key=word("ssl.keystore.key"),
        keystore_certificate_chain=word("ssl.keystore.certificate.chain"),
        keystore_password=word("ssl.keystore.password"),
        key_password=word("ssl.key.password"),
        truststore_type=word("ssl.truststore.type") or "JKS",
        truststore_location=word("ssl.truststore.location"),
        truststore_password=word("ssl.truststore.password"),
        truststore_certificates=word("ssl.truststore.certificates"),
        enabled_protocols=words("ssl.enabled.protocols"),
        cipher_suites=words("ssl.cipher.suites"),
        client_auth=auth,
    )
    if not (settings.keystore_location or settings.keystore_key):
        raise ConfigError(
            f"the listener {listener.name} speaks TLS and has no key: set ssl.keystore.location, and ssl.keystore.type to "
            "PEM or PKCS12"
        )
    try:
        mapping = PrincipalMapping(word("ssl.principal.mapping.rules") or "DEFAULT")
    except MappingRuleError as error:
        raise ConfigError(str(error)) from None
    return ListenerTls(
        settings=settings,
        mapping=mapping,
        allow_dn_changes=bool(find("ssl.allow.dn.changes")),
        allow_san_changes=bool(find("ssl.allow.san.changes")),
    )
