"""Which value wins: the levels of a broker's configuration and the synonyms of its keys.

A broker key can be set at four levels: for this broker (dynamic), for all brokers (dynamic), in its static
configuration, and by default. Some are one setting under several names and units (`log.retention.ms`, `.minutes`,
`.hours`: the first that is set wins). A topic key falls back to its broker synonym. DescribeConfigs shows exactly these
steps; the log gets the result.

Pure: mappings of text in, text and values out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from ottla.config import BROKER, GROUP, TOPIC, broker_key
from ottla.config.keys import ConfigType, Value, to_text


class Source(IntEnum):
    """Where a value comes from (numbers on the wire)."""

    UNKNOWN = 0
    TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5
    BROKER_LOGGER = 6
    CLIENT_METRICS = 7
    GROUP = 8


class Synonym(NamedTuple):
    """One place where a value was found. `value` None: null, or hidden because it is sensitive."""

    name: str
    value: str | None
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """A broker's settings at the three levels above the defaults, as text."""

    broker: Mapping[str, str] = field(default_factory=dict)
    default: Mapping[str, str] = field(default_factory=dict)
    static: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> tuple[str, Source] | None:
        """Return the text set for this very name and its source; None if only the default is left."""
        for level, source in (
            (self.broker, Source.DYNAMIC_BROKER),
            (self.default, Source.DYNAMIC_DEFAULT_BROKER),
            (self.static, Source.STATIC_BROKER),
        ):
            if name in level:
                return level[name], source
        return None


_HOUR_MS = 3_600_000
_MINUTE_MS = 60_000

#: Keys that are one setting under several names, the strongest first, each with the factor to milliseconds.
_FAMILIES: tuple[tuple[tuple[str, int], ...], ...] = (
    (("log.retention.ms", 1), ("log.retention.minutes", _MINUTE_MS), ("log.retention.hours", _HOUR_MS)),
    (("log.roll.ms", 1), ("log.roll.hours", _HOUR_MS)),
    (("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", _HOUR_MS)),
    (("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)),
)
# log.flush.scheduler.interval.ms is a setting of its own that only lends its value.
_FAMILY_OF = {name: family for family in _FAMILIES for name, _ in family if name != "log.flush.scheduler.interval.ms"}

#: The broker key a topic key falls back to; topic keys that are not here have a default of their own.
TOPIC_SYNONYMS: dict[str, str] = {
    "cleanup.policy": "log.cleanup.policy",
    "compression.gzip.level": "compression.gzip.level",
    "compression.lz4.level": "compression.lz4.level",
    "compression.type": "compression.type",
    "compression.zstd.level": "compression.zstd.level",
    "delete.retention.ms": "log.cleaner.delete.retention.ms",
    "file.delete.delay.ms": "log.segment.delete.delay.ms",
    "flush.messages": "log.flush.interval.messages",
    "flush.ms": "log.flush.interval.ms",
    "index.interval.bytes": "log.index.interval.bytes",
    "local.retention.bytes": "log.local.retention.bytes",
    "local.retention.ms": "log.local.retention.ms",
    "max.compaction.lag.ms": "log.cleaner.max.compaction.lag.ms",
    "max.decompressed.message.bytes": "max.decompressed.message.bytes",
    "max.message.bytes": "message.max.bytes",
    "message.timestamp.after.max.ms": "log.message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
    "message.timestamp.type": "log.message.timestamp.type",
    "min.cleanable.dirty.ratio": "log.cleaner.min.cleanable.ratio",
    "min.compaction.lag.ms": "log.cleaner.min.compaction.lag.ms",
    "min.insync.replicas": "min.insync.replicas",
    "preallocate": "log.preallocate",
    "remote.copy.lag.bytes": "log.remote.copy.lag.bytes",
    "remote.copy.lag.ms": "log.remote.copy.lag.ms",
    "retention.bytes": "log.retention.bytes",
    "retention.ms": "log.retention.ms",
    "segment.bytes": "log.segment.bytes",
    "segment.index.bytes": "log.index.size.max.bytes",
    "segment.jitter.ms": "log.roll.jitter.ms",
    "segment.ms": "log.roll.ms",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
}


def broker_value(name: str, levels: Levels) -> Value:
    """Return the value of one broker key under its own name (no synonyms)."""
    key = BROKER[name]
    found = levels.find(name)
    return key.parse(key.default if found is None else found[0])


def broker_setting(name: str, levels: Levels) -> Value:
    """Return what the broker does: the strongest of the setting's synonyms that is set, in the first one's unit."""
    for synonym, factor in _FAMILY_OF.get(name, ((name, 1),)):
        value = broker_value(synonym, levels)
        if value is not None:
            if name == "log.retention.ms" and isinstance(value, int) and value < 0:
                return -1
            return value * factor if isinstance(value, int) and factor != 1 else value
    return None


def topic_setting(name: str, overrides: Mapping[str, str], levels: Levels) -> Value:
    """Return the value a topic key has with these overrides."""
    key = TOPIC[name]
    if name in overrides:
        return key.parse(overrides[name])
    synonym = TOPIC_SYNONYMS.get(name)
    return key.parse(key.default) if synonym is None else broker_setting(synonym, levels)


def group_setting(name: str, overrides: Mapping[str, str], levels: Levels) -> Value:
    """Return the value a group key has with these overrides."""
    key = GROUP[name]
    if name in overrides:
        return key.parse(overrides[name])
    return broker_value(f"group.{name}", levels) if f"group.{name}" in BROKER else key.parse(key.default)


def broker_synonyms(name: str, levels: Levels) -> list[Synonym]:
    """Return every place a broker setting is given, the strongest first, as DescribeConfigs lists them.

    The order is Kafka's: first by level, within a level by name. What stands before the first entry of `name` itself is
    left out.
    """
    names = [synonym for synonym, _ in _FAMILY_OF.get(name, ((name, 1),))]
    found = list(_all_places(names, levels))
    while found and found[0].name != name:
        del found[0]
    return found


def _all_places(names: list[str], levels: Levels) -> Iterator[Synonym]:
    for level, source in (
        (levels.broker, Source.DYNAMIC_BROKER),
        (levels.default, Source.DYNAMIC_DEFAULT_BROKER),
        (levels.static, Source.STATIC_BROKER),
    ):
        for name in names:
            if name in level:
                yield Synonym(name, shown_text(name, level[name]), source)
    for name in names:
        key = BROKER.get(name)
        if key is not None and key.default is not None and name not in NO_DEFAULT_IN_KAFKA:
            yield Synonym(name, None if key.is_sensitive else key.default, Source.DEFAULT)


#: Keys Kafka demands; the defaults in our rows are ottla's, and are shown as set, not as Kafka's.
NO_DEFAULT_IN_KAFKA = frozenset({"controller.listener.names", "node.id", "process.roles"})


def shown_text(name: str, text: str) -> str | None:
    """Return the text of a broker setting as it may be shown: nothing for passwords and keys we do not know."""
    key = broker_key(name)
    return None if key is None or key.type is ConfigType.PASSWORD else text


def topic_synonyms(name: str, overrides: Mapping[str, str], levels: Levels) -> list[Synonym]:
    """Return every place a topic setting is given, the strongest first."""
    places: list[Synonym] = []
    if name in overrides:
        places.append(Synonym(name, to_text(TOPIC[name].parse(overrides[name])), Source.TOPIC))
    synonym = TOPIC_SYNONYMS.get(name)
    return places if synonym is None else places + broker_synonyms(synonym, levels)


def group_synonyms(name: str, overrides: Mapping[str, str], levels: Levels) -> list[Synonym]:
    """Return every place a group setting is given, the strongest first."""
    synonym = f"group.{name}"
    if name in overrides:
        first = [Synonym(name, to_text(GROUP[name].parse(overrides[name])), Source.GROUP)]
    elif synonym in BROKER:
        first = []
    else:
        first = [Synonym(name, GROUP[name].default, Source.DEFAULT)]
    return first + (broker_synonyms(synonym, levels) if synonym in BROKER else [])
