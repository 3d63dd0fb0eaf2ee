"""Kafka's small numbers as words: operations, resource types, sources of configuration values, mechanisms."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from ottla.client.errors import ConfigurationError

_UNASKED: Final = -(2**31)

#: AclOperation.
OPERATIONS: Final = (
    "unknown", "any", "all", "read", "write", "create", "delete", "alter", "describe", "cluster_action",
    "describe_configs", "alter_configs", "idempotent_write", "create_tokens", "describe_tokens", "two_phase_commit",
)  # fmt: skip
#: ResourceType of ACLs.
RESOURCE_TYPES: Final = ("unknown", "any", "topic", "group", "cluster", "transactional_id", "delegation_token", "user")
#: PatternType.
PATTERN_TYPES: Final = ("unknown", "any", "match", "literal", "prefixed")
#: AclPermissionType.
PERMISSIONS: Final = ("unknown", "any", "deny", "allow")
#: ConfigResource.Type: what has a configuration.
CONFIG_RESOURCES: Final[Mapping[str, int]] = {
    "topic": 2, "broker": 4, "broker-logger": 8, "client-metrics": 16, "group": 32,
}  # fmt: skip
#: ConfigEntry.ConfigSource.
CONFIG_SOURCES: Final = (
    "unknown", "dynamic-topic", "dynamic-broker", "dynamic-default-broker", "static-broker", "default",
    "dynamic-broker-logger", "client-metrics", "group",
)  # fmt: skip
#: ConfigEntry.ConfigType.
CONFIG_TYPES: Final = (
    "unknown", "boolean", "string", "int", "short", "long", "double", "list", "class", "password",
)  # fmt: skip
#: ScramMechanism.
MECHANISMS: Final = ("unknown", "SCRAM-SHA-256", "SCRAM-SHA-512")


def word(words: tuple[str, ...], number: int) -> str:
    """Return the word of a number; "unknown" for one that is not known here."""
    return words[number] if 0 <= number < len(words) else words[0]


def number(words: tuple[str, ...], text: str, what: str) -> int:
    """Return the number of a word.

    Raises:
        ConfigurationError: there is no such word.
    """
    found = text.lower().replace("-", "_") if words is not MECHANISMS else text.upper().replace("_", "-")
    if found not in words[1:]:
        raise ConfigurationError(f"{text!r} is no {what}.", f"There are {', '.join(words[1:])}.")
    return words.index(found)


def config_resource(kind: str) -> int:
    """Return the number of a resource that has a configuration.

    Raises:
        ConfigurationError: there is none of that name.
    """
    found = CONFIG_RESOURCES.get(kind.replace("_", "-"))
    if found is None:
        raise ConfigurationError(f"{kind!r} has no configuration.", f"There are {', '.join(CONFIG_RESOURCES)}.")
    return found


def operations(bits: int) -> tuple[str, ...] | None:
    """Return the names of allowed operations from the bits of an answer; None if the broker did not say."""
    if bits == _UNASKED:
        return None
    return tuple(name for number, name in enumerate(OPERATIONS) if bits >> number & 1)


def moment(milliseconds: int) -> datetime:
    """Return the time that is so many milliseconds behind 1970-01-01 UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


def moment_or_none(milliseconds: int) -> datetime | None:
    """Return the time; None for a negative number, which stands for none."""
    return None if milliseconds < 0 else moment(milliseconds)
