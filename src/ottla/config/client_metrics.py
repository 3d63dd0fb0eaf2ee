"""Client metrics keys: subscriptions of KIP-714 (IncrementalAlterConfigs, type CLIENT_METRICS).

Subscriptions can be stored and read back; nothing is collected yet.
"""

from __future__ import annotations

from ottla.config.keys import ANYTHING, ConfigError, ConfigType, between, row

NOT_COLLECTED = "Stored and shown; GetTelemetrySubscriptions is not offered yet, so clients push nothing."
INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 3_600_000
MATCH_KEYS = (
    "client_id",
    "client_instance_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
)

ROWS = (
    row(
        "interval.ms",
        ConfigType.INT,
        "300000",
        between(INTERVAL_MS_MIN, INTERVAL_MS_MAX),
        "MEDIUM",
        "How often matching clients push.",
        inert=NOT_COLLECTED,
    ),
    row(
        "match",
        ConfigType.LIST,
        "",
        ANYTHING,
        "MEDIUM",
        "Which clients push: `key=pattern` with the keys client_id, client_instance_id, client_software_name, "
        "client_software_version, client_source_address, client_source_port.",
        inert=NOT_COLLECTED,
    ),
    row(
        "metrics",
        ConfigType.LIST,
        "",
        ANYTHING,
        "MEDIUM",
        "Prefixes of the metrics to push; `*` is all.",
        inert=NOT_COLLECTED,
    ),
)


def check_match(patterns: list[str]) -> None:
    """Raise ConfigError if a pattern does not have the form `key=pattern` with a key that exists."""
    for pattern in patterns:
        key, equals, _ = pattern.partition("=")
        if not equals or key.strip() not in MATCH_KEYS:
            raise ConfigError(f"Illegal client matching pattern: {pattern}")
