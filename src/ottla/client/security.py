"""How a client proves who it is and whom it trusts: `security.protocol`, `sasl.*` and `ssl.*`, for clients of every kind.

Pure but for what `context_of` reads. Stores are PEM unless their type says PKCS12 (Kafka's default is JKS, which Python
cannot read). A value of these keys is never shown in an error.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.client.errors import ConfigurationError
from ottla.client.keys import Key, choice
from ottla.security.jaas import JaasError, parse_jaas
from ottla.security.tls_settings import TlsSettings, TlsSettingsError

if TYPE_CHECKING:
    import ssl

    from ottla.client.config import ClientSettings
    from ottla.network.channel import Channel
    from ottla.sasl import Sasl

_MECHANISMS: Final = ("plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "gssapi")


def _hidden(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} is not valid: it takes text.")
    return value


def _row(name: str, parse: Callable[[str, Any], Any], default: Any, text: str) -> Key:
    return Key(name, parse, default, None, None, text)


#: Keys of every client, by Kafka's name.
SECURITY_KEYS: Final[Mapping[str, Key]] = {
    row.name: row
    for row in (
        _row(
            "sasl.jaas.config", _hidden, None, "User and password as Java writes them: a login module with its options."
        ),
        _row("sasl.kerberos.keytab", _hidden, None, "A file with the principal's keys (librdkafka's key)."),
        _row("sasl.kerberos.principal", _hidden, None, "Who logs in by Kerberos (librdkafka's key)."),
        _row("sasl.kerberos.service.name", _hidden, None, "The first part of the brokers' principals: kafka, mostly."),
        _row(
            "sasl.mechanism", choice(*_MECHANISMS), None, "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or GSSAPI."
        ),
        _row("sasl.oauthbearer.client.credentials.client.id", _hidden, None, "The client's id at the token endpoint."),
        _row(
            "sasl.oauthbearer.client.credentials.client.secret",
            _hidden,
            None,
            "The client's secret at the token endpoint.",
        ),
        _row("sasl.oauthbearer.scope", _hidden, None, "The scope that is asked for."),
        _row(
            "sasl.oauthbearer.token.endpoint.url",
            _hidden,
            None,
            "Where tokens come from (https://), or a file that has one (file:///path).",
        ),
        _row("sasl.password", _hidden, None, "The password (librdkafka's key)."),
        _row("sasl.username", _hidden, None, "The user (librdkafka's key)."),
        _row(
            "ssl.endpoint.identification.algorithm",
            choice("https", ""),
            "https",
            "https: the certificate has to be for the host that is dialled; empty: any host's will do.",
        ),
        _row("ssl.key.password", _hidden, None, "The password of the private key."),
        _row("ssl.keystore.certificate.chain", _hidden, None, "The client's certificate and those above it, PEM."),
        _row("ssl.keystore.key", _hidden, None, "The client's private key, PEM."),
        _row("ssl.keystore.location", _hidden, None, "A file with the client's key and certificate chain."),
        _row("ssl.keystore.password", _hidden, None, "The password of a PKCS#12 store."),
        _row(
            "ssl.keystore.type",
            choice("pem", "pkcs12", "jks"),
            "pem",
            "PEM or PKCS12 (with the extra `security`); Kafka's default is JKS, which cannot be read.",
        ),
        _row("ssl.truststore.certificates", _hidden, None, "The authorities to trust, PEM."),
        _row(
            "ssl.truststore.location", _hidden, None, "A file with the authorities to trust; without it the system's."
        ),
        _row("ssl.truststore.password", _hidden, None, "The password of a PKCS#12 store."),
        _row("ssl.truststore.type", choice("pem", "pkcs12", "jks"), "pem", "As ssl.keystore.type."),
    )
}


#: Whose values are secrets.
SECRET_KEYS: Final = frozenset(
    {
        "sasl.jaas.config",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.key",
        "ssl.keystore.password",
        "ssl.truststore.password",
    }
)


class ClientSecurity(NamedTuple):
    """What the keys say together."""

    tls: bool
    sasl: Sasl | None
    tls_settings: TlsSettings
    checks_host: bool


def client_security(values: Mapping[str, Any], *, has_context: bool, sasl: Sasl | None) -> ClientSecurity:
    """Return what the keys say together.

    Raises:
        ConfigurationError: they contradict each other.
    """
    protocol = values["security.protocol"]
    from_keys = _sasl_of(values)
    if sasl is not None and from_keys is not None:
        raise ConfigurationError("How to log in is given twice: by sasl= and by sasl.* keys.")
    login = sasl if sasl is not None else from_keys
    if protocol.startswith("sasl_") and login is None:
        raise ConfigurationError(
            f"security.protocol={protocol} needs a user.", "Pass sasl=ottla.sasl.Scram(user, password) or sasl.* keys."
        )
    if login is not None and not protocol.startswith("sasl_"):
        raise ConfigurationError(
            f"A user is given, and security.protocol={protocol} does not log in.",
            "Set security_protocol='sasl_ssl' (or 'sasl_plaintext' on a network that nobody else is in).",
        )
    settings = TlsSettings(
        keystore_type=values["ssl.keystore.type"].upper(),
        keystore_location=values["ssl.keystore.location"],
        keystore_key=values["ssl.keystore.key"],
        keystore_certificate_chain=values["ssl.keystore.certificate.chain"],
        keystore_password=values["ssl.keystore.password"],
        key_password=values["ssl.key.password"],
        truststore_type=values["ssl.truststore.type"].upper(),
        truststore_password=values["ssl.truststore.password"],
        truststore_location=values["ssl.truststore.location"],
        truststore_certificates=values["ssl.truststore.certificates"],
    )
    tls = has_context or protocol in ("ssl", "sasl_ssl")
    if has_context and (settings.files or settings.keystore_key or settings.truststore_certificates):
        raise ConfigurationError("TLS is given twice: by ssl_context= and by ssl.* keys.")
    return ClientSecurity(tls, login, settings, values["ssl.endpoint.identification.algorithm"] == "https")


def _sasl_of(values: Mapping[str, Any]) -> Sasl | None:
    mechanism, line = values["sasl.mechanism"], values["sasl.jaas.config"]
    user, password = values["sasl.username"], values["sasl.password"]
    options: Mapping[str, str] = {}
    if line is not None:
        try:
            options = parse_jaas(line).options
        except JaasError as error:
            raise ConfigurationError(f"sasl.jaas.config is not valid: {error}.") from None
        user, password = options.get("username", user), options.get("password", password)
    if mechanism == "oauthbearer":
        return _tokens_of(values, options)
    if mechanism == "gssapi":
        return _kerberos_of(values, options)
    if mechanism is None and user is None and password is None:
        return None
    if mechanism is None or user is None or password is None:
        raise ConfigurationError(
            "Of a login some is missing: it takes sasl.mechanism, and a user and password.",
            "Give sasl.username and sasl.password, or sasl.jaas.config.",
        )
    from ottla.sasl import Plain, Scram

    if mechanism == "plain":
        return Plain(user, password)
    return Scram(user, password, mechanism.upper(), is_token=options.get("tokenauth", "").lower() == "true")


def _kerberos_of(values: Mapping[str, Any], options: Mapping[str, str]) -> Sasl:
    from ottla.sasl import Kerberos
    from ottla.security.kerberos import KerberosSettingsError, Keys, keys_of

    service = values["sasl.kerberos.service.name"] or options.get("serviceName")
    if not service:
        raise ConfigurationError(
            "sasl.mechanism=GSSAPI needs the brokers' service name.", "Set sasl.kerberos.service.name (kafka, mostly)."
        )
    if options.get("serviceName") not in (None, service):
        raise ConfigurationError("sasl.jaas.config has another serviceName than sasl.kerberos.service.name.")
    keys = Keys(principal=values["sasl.kerberos.principal"] or "", keytab=values["sasl.kerberos.keytab"] or "")
    try:
        if options:
            keys = keys_of(options)
        return Kerberos(service, keys.principal or None, keys.keytab or None, keys.ticket_cache or None)
    except KerberosSettingsError as error:
        raise ConfigurationError(f"sasl.jaas.config is not valid: {error}.") from None
    except ValueError:
        raise ConfigurationError("sasl.kerberos.keytab needs sasl.kerberos.principal: whose keys they are.") from None


def _tokens_of(values: Mapping[str, Any], options: Mapping[str, str]) -> Sasl:
    from ottla.sasl import ClientCredentials, OAuthBearer

    url = values["sasl.oauthbearer.token.endpoint.url"]
    if url is None:
        raise ConfigurationError(
            "sasl.mechanism=OAUTHBEARER needs a token.",
            "Set sasl.oauthbearer.token.endpoint.url, or pass sasl=ottla.sasl.OAuthBearer(...).",
        )
    own = "sasl.oauthbearer.client.credentials.client."
    try:
        found = ClientCredentials(
            url,
            values[f"{own}id"] or options.get("clientId", ""),
            values[f"{own}secret"] or options.get("clientSecret", ""),
            scope=values["sasl.oauthbearer.scope"] or options.get("scope"),
        )
    except ValueError as error:
        raise ConfigurationError(f"sasl.oauthbearer.token.endpoint.url is not valid: {error}.") from None
    return OAuthBearer(
        found, {k.removeprefix("extension_"): v for k, v in options.items() if k.startswith("extension_")}
    )


def context_of(client: ClientSettings) -> ssl.SSLContext | None:
    """Return the context of a client's connections; None for plain ones.

    Raises:
        ConfigurationError: a store cannot be used.
    """
    if not client.tls or client.ssl_context is not None:
        return client.ssl_context
    from ottla.security.tls import client_context

    try:
        return client_context(client.tls_settings, checks_host=client.checks_host)
    except TlsSettingsError as error:
        raise ConfigurationError(f"{error}.") from None


def login_for(client: ClientSettings) -> Callable[[Channel], Awaitable[None]] | None:
    """Return what logs a client's connections in; None where it does not log in."""
    sasl = client.sasl
    if sasl is None:
        return None
    from ottla.network.login import login_of

    return login_of(lambda host: sasl.exchange(os.urandom, host), timeout_s=client.connect_timeout_ms / 1000)
