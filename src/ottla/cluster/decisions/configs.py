"""What becomes of a request to change a configuration. Pure: overrides and operations in, new overrides or a refusal out.

Codes and messages are those of Apache Kafka (KRaft), in its order of checks. One refused key refuses the whole resource.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from ottla.cluster.decisions.refusal import Refusal
from ottla.config import (
    BROKER,
    CLIENT_METRICS,
    GROUP,
    TOPIC,
    ConfigError,
    ConfigKey,
    Status,
    Update,
    broker_key,
    client_metrics,
    listener_of_store,
)
from ottla.config.effective import Levels, broker_value, group_setting, topic_setting
from ottla.config.keys import ConfigType
from ottla.errors import ErrorCode


class Operation(IntEnum):
    """What IncrementalAlterConfigs does with a key (KIP-339)."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class Alteration(NamedTuple):
    key: str
    operation: int
    value: str | None


def check_request(alterations: Sequence[Alteration]) -> Refusal | None:
    """Refuse what is wrong with the form of the request for one resource, whatever the resource."""
    names = [alteration.key for alteration in alterations]
    if len(set(names)) < len(names):
        return Refusal(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
    nulls = [a.key for a in alterations if a.value is None and a.operation != Operation.DELETE]
    if nulls:
        return Refusal(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {', '.join(nulls)}")
    return None


def apply_alterations(
    overrides: Mapping[str, str], alterations: Sequence[Alteration], keys: Mapping[str, ConfigKey]
) -> dict[str, str] | Refusal:
    """Return the overrides after the operations. APPEND and SUBTRACT need a key that is a list."""
    changed = dict(overrides)
    for name, operation, value in alterations:
        if operation == Operation.SET:
            changed[name] = value or ""
        elif operation == Operation.DELETE:
            changed.pop(name, None)
        elif operation in (Operation.APPEND, Operation.SUBTRACT):
            key = keys.get(name)
            if key is None or key.type is not ConfigType.LIST:
                word = Operation(operation).name
                return Refusal(ErrorCode.INVALID_CONFIG, f"Can't {word} to key {name} because its type is not LIST.")
            items = [item for item in changed.get(name, key.default or "").split(",") if item]
            given = (value or "").split(",")
            if operation == Operation.APPEND:
                items += [item for item in dict.fromkeys(given) if item not in items]
            else:
                items = [item for item in items if item not in given]
            changed[name] = ",".join(items)
        else:
            # Apache Kafka fails on its own null here, and answers just this.
            return Refusal(ErrorCode.UNKNOWN_SERVER_ERROR)
    return changed


def validate_topic_config(overrides: Mapping[str, str], levels: Levels) -> Refusal | None:
    """Check a topic's overrides, alone and together with the defaults they do not replace."""
    for name in overrides:
        if name not in TOPIC:
            return Refusal(ErrorCode.INVALID_CONFIG, f"Unknown topic config name: {name}")
    try:
        for name, text in overrides.items():
            _check_allowed(TOPIC[name], text)
        low, high = (topic_setting(f"{word}.compaction.lag.ms", overrides, levels) for word in ("min", "max"))
    except ConfigError as error:
        return Refusal(ErrorCode.INVALID_CONFIG, str(error))
    if isinstance(low, int) and isinstance(high, int) and low > high:
        return Refusal(
            ErrorCode.INVALID_CONFIG,
            f"conflict topic config setting min.compaction.lag.ms ({low}) > max.compaction.lag.ms ({high})",
        )
    return None


def validate_group_config(group: str, overrides: Mapping[str, str], levels: Levels) -> Refusal | None:
    """Check a group's overrides against the bounds the broker sets for groups."""
    if not group:
        return Refusal(ErrorCode.INVALID_REQUEST, "Default group resources are not allowed.")
    for name in overrides:
        if name not in GROUP:
            return Refusal(ErrorCode.INVALID_CONFIG, f"Unknown group config name: {name}")
    try:
        for name, text in overrides.items():
            _check_allowed(GROUP[name], text)
        for name in overrides:
            kind, _, rest = name.partition(".")
            value = group_setting(name, overrides, levels)
            for bound, word in (("min", "greater"), ("max", "less")):
                limit_key = f"group.{kind}.{bound}.{rest}"
                if limit_key not in BROKER or not isinstance(value, int):
                    continue
                limit = broker_value(limit_key, levels)
                if isinstance(limit, int) and (value < limit if bound == "min" else value > limit):
                    return Refusal(ErrorCode.INVALID_CONFIG, f"{name} must be {word} than or equal to {limit_key}")
        for kind in ("consumer", "share", "streams"):
            session, heartbeat = f"{kind}.session.timeout.ms", f"{kind}.heartbeat.interval.ms"
            if session in overrides or heartbeat in overrides:
                values = [group_setting(name, overrides, levels) for name in (session, heartbeat)]
                if isinstance(values[0], int) and isinstance(values[1], int) and values[0] <= values[1]:
                    return Refusal(ErrorCode.INVALID_CONFIG, f"{session} must be greater than {heartbeat}")
    except ConfigError as error:
        return Refusal(ErrorCode.INVALID_CONFIG, str(error))
    return None


def validate_client_metrics_config(name: str, overrides: Mapping[str, str]) -> Refusal | None:
    """Check a subscription of client metrics (KIP-714)."""
    if not name:
        return Refusal(ErrorCode.INVALID_REQUEST, "Subscription name can't be empty")
    for key in overrides:
        if key not in CLIENT_METRICS:
            return Refusal(ErrorCode.INVALID_REQUEST, f"Unknown client metrics configuration: {key}")
    low, high = client_metrics.INTERVAL_MS_MIN, client_metrics.INTERVAL_MS_MAX
    try:
        for key, text in overrides.items():
            value = CLIENT_METRICS[key].parse(text)
            if key == "interval.ms" and isinstance(value, int) and not low <= value <= high:
                return Refusal(
                    ErrorCode.INVALID_REQUEST,
                    f"Invalid value {value} for interval.ms, interval must be between {low} and {high} (1 hour)",
                )
            if key == "match" and isinstance(value, list):
                client_metrics.parse_match(value)
    except ConfigError as error:
        return Refusal(ErrorCode.INVALID_CONFIG, str(error))
    return None


#: Keys Kafka can change on a running broker and ottla cannot.
FIXED_WHILE_RUNNING = frozenset(
    {"listeners", "listener.security.protocol.map", "sasl.enabled.mechanisms", "sasl.jaas.config"}
)


def validate_broker_config(overrides: Mapping[str, str], *, per_broker: bool) -> Refusal | None:
    """Check the dynamic settings of one broker (`per_broker`) or of all. Unknown keys are kept, as in Kafka."""
    keys = {name: key for name in overrides if (key := broker_key(name)) is not None}
    bare = {name: key for name, key in keys.items() if key.name == name}

    def refuse(sentence: str, names: Sequence[str]) -> Refusal:
        return Refusal(ErrorCode.INVALID_REQUEST, f"{sentence}: [{', '.join(names)}]")

    fixed = [n for n, k in bare.items() if k.update is Update.READ_ONLY or (n in FIXED_WHILE_RUNNING and per_broker)]
    fixed += [
        name
        for name, key in keys.items()
        if key.name != name and key.status is Status.ENFORCED and listener_of_store(name) is None
    ]
    if fixed:
        return refuse("Cannot update these configs dynamically", fixed)
    security = [name for name in bare if name.startswith("ssl.")]
    if security:
        sentence = "These security configs can be dynamically updated only per-listener using the listener prefix"
        return refuse(sentence, security)
    try:
        for name, text in overrides.items():
            if name in keys:
                _check_allowed(keys[name], text)
    except ConfigError as error:
        return Refusal(ErrorCode.INVALID_REQUEST, str(error))
    single = [name for name, key in keys.items() if key.update is Update.PER_BROKER]
    if single and not per_broker:
        return refuse("Cannot update these configs at default cluster level, broker id must be specified", single)
    return None


def _check_allowed(key: ConfigKey, text: str) -> None:
    value = key.parse(text)
    if key.status is Status.REFUSED and value != key.parse(key.default):
        raise ConfigError(key.reason)
