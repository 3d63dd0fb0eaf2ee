"""Client metrics keys: subscriptions of KIP-714 (IncrementalAlterConfigs, type CLIENT_METRICS)."""

from __future__ import annotations

from ottla.config.keys import ConfigError, ConfigType, Valid, Value, row
from ottla.patterns import Pattern, PatternError, compile_pattern

INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 3_600_000
#: What a client is asked to keep to if no subscription says less.
INTERVAL_MS_DEFAULT = 300_000
#: In `metrics`: everything the client has.
ALL_METRICS = "*"

MATCH_KEYS = (
    "client_id",
    "client_instance_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
)


def _check_items(name: str, value: Value) -> None:
    if isinstance(value, list) and "" in value:
        raise ConfigError(f"Configuration '{name}' values must not be empty.")


NO_EMPTY_ITEMS = Valid("no empty items", _check_items)

ROWS = (
    row(
        "interval.ms",
        ConfigType.INT,
        str(INTERVAL_MS_DEFAULT),
        # What is out of bounds is another error in Kafka than what is no number, so it is checked by itself.
        Valid(f"[{INTERVAL_MS_MIN},...,{INTERVAL_MS_MAX}]", lambda name, value: None),
        "MEDIUM",
        "How often matching clients push. The shortest of all that match counts, and never more than five minutes.",
    ),
    row(
        "match",
        ConfigType.LIST,
        "",
        NO_EMPTY_ITEMS,
        "MEDIUM",
        "Which clients push: `key=pattern` with the keys client_id, client_instance_id, client_software_name, "
        "client_software_version, client_source_address, client_source_port; patterns are RE2's. All must match; without "
        "any, all clients do.",
    ),
    row(
        "metrics",
        ConfigType.LIST,
        "",
        NO_EMPTY_ITEMS,
        "MEDIUM",
        "Prefixes of the metrics to push; `*` is all. What is pushed is shown on /metrics.",
    ),
)


def parse_match(patterns: list[str]) -> dict[str, Pattern]:
    """Return what a client must match, by attribute; of two patterns for one the later counts.

    RE2's expressions instead of Java's: they agree on what people write here, and no text makes them run for long.

    Raises:
        ConfigError: a pattern does not have the form `key=pattern`, with a key that exists and a pattern that compiles.
    """
    found: dict[str, Pattern] = {}
    for pattern in patterns:
        # As Java splits: what is empty at the end does not count.
        parts = pattern.rstrip("=").split("=")
        try:
            if len(parts) != 2 or parts[0].strip() not in MATCH_KEYS:
                raise ValueError(pattern)
            found[parts[0].strip()] = compile_pattern(parts[1].strip())
        except (ValueError, PatternError):
            raise ConfigError(f"Illegal client matching pattern: {pattern}") from None
    return found
