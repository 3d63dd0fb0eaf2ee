"""Times as people write them."""

from __future__ import annotations

import re

from ottla.connect.config_def import ConfigError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def seconds_of(text: str | float) -> float:
    """Return "10s", "1m", "500ms", or a number of seconds, as seconds.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(text, int | float):
        return float(text)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)\s*", text)
    if found is None:
        raise ConfigError(f"{text!r} is no time such as 500ms, 10s, 1m")
    return float(found[1]) * _UNITS[found[2]]
