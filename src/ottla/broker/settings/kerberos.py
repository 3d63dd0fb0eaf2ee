"""Kerberos (GSSAPI) on a listener, for its clients and among brokers, from a broker's configuration. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.config import BROKER, ConfigError
from ottla.config.keys import split_list
from ottla.security.kerberos import KerberosSettingsError, Keys, keys_of
from ottla.security.kerberos_names import KerberosNames
from ottla.security.mapping import MappingRuleError

if TYPE_CHECKING:
    from ottla.security.jaas import JaasEntry

_RULES = "sasl.kerberos.principal.to.local.rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class KerberosSettings:
    """Kerberos on one listener.

    Attributes:
        keys: the broker's own.
        rules: `sasl.kerberos.principal.to.local.rules`.
        service: `sasl.kerberos.service.name`: as what other brokers are asked for.
    """

    keys: Keys
    rules: tuple[str, ...]
    service: str


def resolve_kerberos(key: str, entry: JaasEntry | None, find: Callable[[str], str | None]) -> KerberosSettings:
    """Return Kerberos on one listener.

    Args:
        key: the name of the JAAS line, for errors.
        find: returns the text of a setting of this listener and mechanism.

    Raises:
        ConfigError: the broker's own keys are missing, or a rule cannot be read.
    """
    if entry is None:
        raise ConfigError(
            f"GSSAPI (Kerberos, Kafka's default of sasl.enabled.mechanisms) needs the broker's keys: set {key} to "
            'com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true keyTab="/etc/ottla/kafka.keytab" '
            'principal="kafka/broker.example.com@EXAMPLE.COM"; or enable other mechanisms'
        )
    try:
        keys = keys_of(entry.options)
    except KerberosSettingsError as error:
        raise ConfigError(f"{key}: {error}") from None
    if not keys.keytab:
        raise ConfigError(f"{key}: a broker needs useKeyTab=true: a cache of tickets lets nobody in")
    text = find(_RULES)
    rules = tuple(split_list(BROKER[_RULES].default or "" if text is None else text))
    try:
        KerberosNames(rules, "")
    except MappingRuleError as error:
        raise ConfigError(f"{_RULES}: {error}") from None
    names = {name for name in (entry.options.get("serviceName"), find("sasl.kerberos.service.name")) if name}
    if len(names) > 1:
        raise ConfigError(f"{key} has another serviceName than sasl.kerberos.service.name")
    primary = keys.principal.partition("@")[0].partition("/")[0]
    return KerberosSettings(keys=keys, rules=rules, service=names.pop() if names else primary)
