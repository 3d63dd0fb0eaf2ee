"""The configuration of mirrors: MirrorMaker 2's keys, defaults and units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    NOT_EMPTY_LIST,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    check,
)
from ottla.connect.library.mirror.policy import ReplicationPolicy, replication_policy
from ottla.connect.settings import below

_BYTES = "ByteArrayConverter"


def _check_patterns(name: str, value: Any) -> None:
    for pattern in value or ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError.of(name, pattern, f"no regular expression: {error}") from error


_PATTERNS = check(_check_patterns, "regular expressions")

#: What says between which clusters, and under which names.
CLUSTERS = (
    ConfigKey(
        name="source.cluster.alias",
        validator=NOT_EMPTY,
        importance=Importance.HIGH,
        documentation="What the cluster that is copied is called, in names of topics, too.",
    ),
    ConfigKey(
        name="target.cluster.alias",
        default="target",
        validator=NOT_EMPTY,
        importance=Importance.HIGH,
        documentation="What the cluster that is copied to is called.",
    ),
    ConfigKey(
        name="source.cluster.bootstrap.servers",
        type=ConfigType.LIST,
        validator=NOT_EMPTY_LIST,
        importance=Importance.HIGH,
        documentation="Brokers of the cluster that is copied. More keys of clients may stand below source.cluster., below "
        "source.consumer. and source.admin. those of one kind.",
    ),
    ConfigKey(
        name="target.cluster.bootstrap.servers",
        type=ConfigType.LIST,
        validator=NOT_EMPTY_LIST,
        importance=Importance.HIGH,
        documentation="Brokers of the cluster that is copied to, which is the worker's own. More keys of clients may stand "
        "below target.cluster. and target.admin.",
    ),
    ConfigKey(
        name="replication.policy.class",
        default="DefaultReplicationPolicy",
        importance=Importance.LOW,
        documentation="DefaultReplicationPolicy puts the source's alias before names of topics, IdentityReplicationPolicy "
        "keeps names, and is for one direction only.",
    ),
    ConfigKey(
        name="replication.policy.separator",
        default=".",
        validator=NOT_EMPTY,
        importance=Importance.LOW,
        documentation="What stands between the alias and the name.",
    ),
    ConfigKey(
        name="offset-syncs.topic.location",
        default="source",
        importance=Importance.LOW,
        documentation="In which cluster the pairs of offsets are kept: source or target.",
    ),
    ConfigKey(
        name="offset-syncs.topic.replication.factor",
        type=ConfigType.SHORT,
        default=3,
        importance=Importance.LOW,
        documentation="Replicas of that topic; where there are fewer brokers, as many.",
    ),
)
TOPICS = (
    ConfigKey(
        name="topics",
        type=ConfigType.LIST,
        default=[".*"],
        validator=_PATTERNS,
        importance=Importance.HIGH,
        documentation="Which topics: names or regular expressions.",
    ),
    ConfigKey(
        name="topics.exclude",
        type=ConfigType.LIST,
        default=[r"mm2.*\.internal", r".*\.replica", "__.*"],
        validator=_PATTERNS,
        importance=Importance.HIGH,
        documentation="Which of them not.",
    ),
)
GROUPS = (
    ConfigKey(
        name="groups",
        type=ConfigType.LIST,
        default=[".*"],
        validator=_PATTERNS,
        importance=Importance.HIGH,
        documentation="Which consumer groups: names or regular expressions.",
    ),
    ConfigKey(
        name="groups.exclude",
        type=ConfigType.LIST,
        default=["console-consumer-.*", "connect-.*", "__.*"],
        validator=_PATTERNS,
        importance=Importance.HIGH,
        documentation="Which of them not.",
    ),
)


def enabled(name: str, documentation: str, *, default: bool = True) -> ConfigKey:
    return ConfigKey(
        name=f"{name}.enabled",
        type=ConfigType.BOOLEAN,
        default=default,
        importance=Importance.LOW,
        documentation=documentation,
    )


def interval(name: str, seconds: int, documentation: str) -> ConfigKey:
    return ConfigKey(
        name=f"{name}.interval.seconds",
        type=ConfigType.LONG,
        default=seconds,
        validator=at_least(1),
        importance=Importance.LOW,
        documentation=documentation,
    )


class Names:
    """Which names patterns mean: all of some, none of others."""

    def __init__(self, included: list[str], excluded: list[str]) -> None:
        self._included = [re.compile(pattern) for pattern in included]
        self._excluded = [re.compile(pattern) for pattern in excluded]

    def __contains__(self, name: str) -> bool:
        return any(each.fullmatch(name) for each in self._included) and not any(
            each.fullmatch(name) for each in self._excluded
        )


def policy_of(values: Mapping[str, Any]) -> ReplicationPolicy:
    return replication_policy(values["replication.policy.class"], values["replication.policy.separator"])


def client_of(config: Mapping[str, str], cluster: str, kind: str) -> dict[str, str]:
    """Return the configuration of a client of a cluster, `source` or `target`."""
    found = below(config, f"{cluster}.cluster.") | below(config, f"{cluster}.{kind}.")
    return {name: value for name, value in found.items() if name not in ("alias", "bootstrap.servers")}


def check_converters(config: Mapping[str, str]) -> None:
    """Refuse converters that would write bytes as something else.

    Raises:
        ConfigError: the connector does not name ByteArrayConverter.
    """
    for part in ("key", "value", "header"):
        name = f"{part}.converter"
        if config.get(name, "").rpartition(".")[2] != _BYTES:
            raise ConfigError.of(
                name,
                config.get(name),
                f"a mirror copies bytes as they are: {_BYTES} is needed, in its own configuration",
            )
