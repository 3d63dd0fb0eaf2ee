"""What DescribeConfigs shows of one resource: an entry per key, with its value, source, synonyms and documentation.

Apache Kafka's rules: a topic shows every key it can have; a broker every key that is not internal, and what else was set; the
cluster default (broker "") only what was set for it. The source is that of the strongest synonym; where there is none the
default is left. Passwords, and keys in no table (they might be passwords), are shown as null and sensitive. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ottla.config import BROKER, CLIENT_METRICS, EXTRA, GROUP, TOPIC, ConfigKey, Update, broker_key
from ottla.config.effective import (
    Levels,
    Source,
    Synonym,
    broker_synonyms,
    group_setting,
    group_synonyms,
    topic_setting,
    topic_synonyms,
)
from ottla.config.keys import to_text

#: The type of a key that is in no table.
UNKNOWN_TYPE = 0


class ConfigEntry(NamedTuple):
    name: str
    value: str | None
    source: Source
    read_only: bool
    is_sensitive: bool
    type: int
    synonyms: tuple[Synonym, ...]
    documentation: str | None


def topic_entries(
    overrides: Mapping[str, str], levels: Levels, names: Iterable[str] | None = None
) -> list[ConfigEntry]:
    """Return the entries of a topic with these overrides; `names` None is all."""
    return [
        _entry(key, to_text(topic_setting(name, overrides, levels)), topic_synonyms(name, overrides, levels))
        for name, key in _chosen(TOPIC, names)
        if not key.internal or name in overrides
    ]


def group_entries(
    overrides: Mapping[str, str], levels: Levels, names: Iterable[str] | None = None
) -> list[ConfigEntry]:
    """Return the entries of a group with these overrides."""
    return [
        _entry(key, to_text(group_setting(name, overrides, levels)), group_synonyms(name, overrides, levels))
        for name, key in _chosen(GROUP, names)
        if not key.internal or name in overrides
    ]


def client_metrics_entries(overrides: Mapping[str, str], names: Iterable[str] | None = None) -> list[ConfigEntry]:
    """Return the entries of a subscription of client metrics; its defaults if there is no such subscription."""
    entries: list[ConfigEntry] = []
    for name, key in _chosen(CLIENT_METRICS, names):
        if name in overrides:
            value = to_text(key.parse(overrides[name]))
            entries.append(_entry(key, value, [Synonym(name, value, Source.CLIENT_METRICS)]))
        else:
            entries.append(_entry(key, key.default, []))
    return entries


def broker_entries(levels: Levels, names: Iterable[str] | None = None) -> list[ConfigEntry]:
    """Return the entries of this broker."""
    # Settings that no table of Kafka has are shown if they were set, as nulls.
    extra = {n: None for level in (levels.static, levels.default, levels.broker) for n in level if n not in BROKER}
    wanted = None if names is None else set(names)
    entries = []
    for name in [*BROKER, *extra]:
        key = BROKER.get(name)
        found = levels.find(name)
        if (wanted is not None and name not in wanted) or (key is not None and key.internal and found is None):
            continue
        entries.append(_broker_entry(name, broker_synonyms(name, levels), levels))
    return entries


def broker_default_entries(levels: Levels, names: Iterable[str] | None = None) -> list[ConfigEntry]:
    """Return the entries of the cluster default: what was set for all brokers."""
    wanted = None if names is None else set(names)
    return [
        _broker_entry(
            name,
            [s for s in broker_synonyms(name, levels) if s.source is Source.DYNAMIC_DEFAULT_BROKER],
            Levels(default=levels.default),
        )
        for name in sorted(levels.default)
        if wanted is None or name in wanted
    ]


def _broker_entry(name: str, synonyms: list[Synonym], levels: Levels) -> ConfigEntry:
    # A key that is in none of Kafka's tables is unknown there, even if we have a row for it.
    key = None if name in EXTRA else broker_key(name)
    if key is None or key.is_sensitive:
        value = None
        synonyms = [synonym._replace(value=None) for synonym in synonyms]
    else:
        found = levels.find(name)
        value = key.default if found is None else to_text(key.parse(found[0]))
    return ConfigEntry(
        name=name,
        value=value,
        source=synonyms[0].source if synonyms else Source.DEFAULT,
        read_only=key is None or key.update is Update.READ_ONLY,
        is_sensitive=key is None or key.is_sensitive,
        type=UNKNOWN_TYPE if key is None else key.type,
        synonyms=tuple(synonyms),
        documentation=None if key is None else key.doc,
    )


def _entry(key: ConfigKey, value: str | None, synonyms: list[Synonym]) -> ConfigEntry:
    return ConfigEntry(
        name=key.name,
        value=None if key.is_sensitive else value,
        source=synonyms[0].source if synonyms else Source.DEFAULT,
        read_only=False,
        is_sensitive=key.is_sensitive,
        type=key.type,
        synonyms=tuple(synonyms),
        documentation=key.doc,
    )


def _chosen(table: Mapping[str, ConfigKey], names: Iterable[str] | None) -> list[tuple[str, ConfigKey]]:
    if names is None:
        return list(table.items())
    wanted = set(names)
    return [(name, key) for name, key in table.items() if name in wanted]
