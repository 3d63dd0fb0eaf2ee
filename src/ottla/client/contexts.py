"""Contexts: named clusters in a file of the user's, so that addresses need not be typed.

    current = "local"

    [contexts.local]
    "bootstrap.servers" = "localhost:9092"

The file is `~/.config/ottla/config.toml` (`$XDG_CONFIG_HOME/ottla/config.toml`), or what OTTLA_CONFIG names. A context has
keys of a client that say how to reach a cluster; which one counts says OTTLA_CONTEXT, or `current`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ottla.client.errors import ConfigurationError

#: What a context may have: keys that say how to reach a cluster.
_PREFIXES = ("security.", "sasl.", "ssl.")
_KEYS = ("bootstrap.servers", "client.id")


@dataclass(slots=True)
class Contexts:
    """What the file says."""

    path: str
    current: str | None = None
    contexts: dict[str, dict[str, str]] = field(default_factory=dict)

    def find(self, name: str | None, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the keys of a context: the named one, that of OTTLA_CONTEXT, the current one; empty if there is none.

        Raises:
            ConfigurationError: the one that is named is not there.
        """
        wanted = name or environment.get("OTTLA_CONTEXT") or self.current
        if not wanted:
            return {}
        if wanted not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise ConfigurationError(f"{self.path} has no context {wanted!r}.", f"It has {known}.")
        return dict(self.contexts[wanted])

    def save(self) -> None:
        """Write the file, for its owner only: it may have secrets."""
        import json
        import tempfile

        directory = os.path.dirname(self.path)
        os.makedirs(directory, exist_ok=True)
        lines = [] if self.current is None else [f"current = {json.dumps(self.current)}"]
        for name, keys in self.contexts.items():
            lines += ["", f"[contexts.{json.dumps(name)}]"]
            lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in keys.items()]
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=".config")  # readable by its owner only
        with os.fdopen(handle, "w") as file:
            file.write("\n".join(lines) + "\n")
        os.replace(temporary, self.path)


def says_where(key: str) -> bool:
    """Return whether a key says how to reach a cluster."""
    return key in _KEYS or key.startswith(_PREFIXES)


def check_key(key: str) -> None:
    """Raise if a key does not say how to reach a cluster.

    Raises:
        ConfigurationError: it belongs elsewhere.
    """
    if not says_where(key):
        raise ConfigurationError(
            f"{key} does not say how to reach a cluster.",
            f"A context has {', '.join(_KEYS)} and keys that begin with {', '.join(_PREFIXES)}.",
        )


def config_path(environment: Mapping[str, str]) -> str:
    """Return where the file is."""
    if environment.get("OTTLA_CONFIG"):
        return os.path.abspath(environment["OTTLA_CONFIG"])
    given = environment.get("XDG_CONFIG_HOME", "")
    home = given if given.startswith("/") else os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "ottla", "config.toml")


def read_contexts(environment: Mapping[str, str]) -> Contexts:
    """Return what the file says; nothing if it is not there.

    Raises:
        ConfigurationError: it cannot be read.
    """
    import tomllib

    path = config_path(environment)
    try:
        with open(path, "rb") as file:
            told = tomllib.load(file)
    except FileNotFoundError:
        return Contexts(path)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from None
    current, contexts = told.get("current"), told.get("contexts", {})
    if not isinstance(contexts, dict) or not isinstance(current, str | None):
        raise ConfigurationError(f"{path}: 'current' is a name and 'contexts' a table.")
    made: dict[str, dict[str, str]] = {}
    for name, keys in contexts.items():
        if not isinstance(keys, dict):
            raise ConfigurationError(f"{path}: the context {name!r} is no table.")
        made[name] = {}
        for key, value in _flat(keys):
            check_key(key)
            made[name][key] = str(value)
    return Contexts(path, current, made)


def with_context(
    servers: object,
    config: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None,
) -> Mapping[str, Any] | None:
    """Return a client's `config` with the keys of the user's context, where nothing else says which cluster is meant.

    Raises:
        ConfigurationError: the file cannot be read, or OTTLA_CONTEXT names a context that is not there.
    """
    given = {key.replace("_", ".") for key, value in [*(config or {}).items(), *options.items()] if value is not None}
    if environment is None or servers is not None or environment.get("KAFKA_BOOTSTRAP_SERVERS"):
        return config
    if given & {"bootstrap.servers", "metadata.broker.list"}:
        return config
    found = read_contexts(environment).find(None, environment)
    return {**{key: value for key, value in found.items() if key not in given}, **(config or {})}


def _flat(keys: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Return (key, value) also where `bootstrap.servers` was written without quotes, which is a table in TOML."""
    found: list[tuple[str, object]] = []
    for key, value in keys.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
