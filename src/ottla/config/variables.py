"""Values that stand elsewhere: `${file:/path:key}`, `${env:NAME}`, `${dir:/path:file}` in a configuration (KIP-297, 421).

Kafka's three providers, switched on as there: `config.providers=file` and `config.providers.file.class=...`. Only what a
person wrote into a file or the environment is resolved, once, at the start; what requests set is text.

Different from Apache Kafka: a variable that names nothing is an error here; Kafka leaves its text in place, and a broker
would then have `${file:...}` for a password. An error names the variable, never a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ottla.config.keys import ConfigError, split_list
from ottla.config.mistakes import Mistakes
from ottla.config.properties import parse_properties
from ottla.patterns import Pattern, PatternError, compile_pattern

#: Kafka's ConfigTransformer: provider, path (may be missing), key.
_VARIABLE = re.compile(r"\$\{([^}:]*):(?:([^}]*?):)?([^}:]*)\}")
#: Begins the keys of one provider.
PREFIX = "config.providers."
_CLASSES = {
    "FileConfigProvider": "file",
    "EnvVarConfigProvider": "env",
    "DirectoryConfigProvider": "dir",
}
_PARAMETERS = {"file": "allowed.paths", "dir": "allowed.paths", "env": "allowlist.pattern"}


class Resolved(NamedTuple):
    """What settings are with their variables resolved.

    Attributes:
        changed: keys whose values came, in part, from elsewhere.
        notes: sentences about texts that look like variables and are none.
    """

    settings: dict[str, str]
    changed: frozenset[str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Provider:
    kind: str
    allowed_paths: tuple[str, ...] = ()
    allowed_names: Pattern | None = None


@dataclass(slots=True)
class _Sources:
    read: Callable[[str], str]
    environment: Mapping[str, str]
    files: dict[str, Mapping[str, str]] = field(default_factory=dict)


def resolve_variables(
    settings: Mapping[str, str],
    *,
    environment: Mapping[str, str],
    read: Callable[[str], str],
    mistakes: Mistakes | None = None,
) -> Resolved:
    """Return settings with variables resolved, and without the keys of the providers themselves.

    Args:
        read: returns the text of a file; raises OSError.
        mistakes: gathers what is wrong; without it the mistakes are raised.

    Raises:
        ConfigError: a variable names nothing, or a provider is none of the three.
    """
    found = Mistakes() if mistakes is None else mistakes
    plain = {name: text for name, text in settings.items() if not name.startswith(PREFIX)}
    providers: dict[str, _Provider] = {}
    declared = split_list(settings.get("config.providers", ""))
    for name in declared:
        with found.caught():
            providers[name] = _provider(name, settings)
    for name in settings:
        if name.startswith(PREFIX) and name.split(".")[2] not in declared:
            found.add(f"{name} is about a provider that config.providers does not name")
    sources = _Sources(read, environment)
    resolved: dict[str, str] = {}
    changed: set[str] = set()
    notes: list[str] = []
    for name, text in plain.items():
        resolved[name] = text
        if "${" not in text or name == "config.providers":
            continue

        def put(match: re.Match[str], name: str = name) -> str:
            provider = providers.get(match[1])
            if provider is None:
                if match[1] in _PARAMETERS and match[1] not in declared:
                    notes.append(f"{name}: {match[0]} stays text, because config.providers does not name {match[1]}")
                return match[0]
            try:
                value = _look(provider, match[2] or "", match[3], sources)
            except ConfigError as error:
                raise ConfigError(f"{name} has {match[0]}: {error}") from None
            changed.add(name)
            return value

        with found.caught():
            resolved[name] = _VARIABLE.sub(put, text)
    if mistakes is None:
        found.raise_all()
    return Resolved(resolved, frozenset(changed), tuple(notes))


def _provider(name: str, settings: Mapping[str, str]) -> _Provider:
    prefix = f"{PREFIX}{name}."
    own = {key.removeprefix(prefix): text for key, text in settings.items() if key.startswith(prefix)}
    java_class = own.pop("class", "").strip()
    kind = _CLASSES.get(java_class.rpartition(".")[2])
    if kind is None:
        raise ConfigError(
            f"{prefix}class can be org.apache.kafka.common.config.provider.{', '.join(_CLASSES)}, but it is "
            f"{java_class or 'not set'}"
        )
    limit = own.pop(f"param.{_PARAMETERS[kind]}", "").strip()
    if own:
        raise ConfigError(f"Unknown setting {prefix}{min(own)}; there are class and param.{_PARAMETERS[kind]}")
    if kind != "env":
        return _Provider(kind, tuple(split_list(limit)))
    try:
        return _Provider(kind, (), compile_pattern(limit) if limit else None)
    except PatternError as error:
        raise ConfigError(f"{prefix}param.allowlist.pattern is no pattern of RE2: {error}") from None


def _look(provider: _Provider, path: str, key: str, sources: _Sources) -> str:
    if provider.kind == "env":
        if path:
            raise ConfigError("it must be written ${env:NAME}")
        if provider.allowed_names is not None and not provider.allowed_names.fullmatch(key):
            raise ConfigError("the name is not allowed by param.allowlist.pattern")
        if key not in sources.environment:
            raise ConfigError("there is no such environment variable")
        return sources.environment[key]
    if not path or not key:
        what = "${file:PATH:KEY}" if provider.kind == "file" else "${dir:PATH:FILE}"
        raise ConfigError(f"it must be written {what}")
    parts = path.split("/")
    if ".." in parts or ("/" in key and provider.kind == "dir"):
        raise ConfigError("a path with .. or a file outside of the directory is not looked at")
    if provider.allowed_paths and not any(_is_below(path, allowed) for allowed in provider.allowed_paths):
        raise ConfigError("the path is not among param.allowed.paths")
    try:
        if provider.kind == "dir":
            return sources.read(f"{path}/{key}")
        if path not in sources.files:
            sources.files[path] = parse_properties(sources.read(path), path)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError("it is no text in UTF-8") from None
    if key not in sources.files[path]:
        raise ConfigError("the file has no such key")
    return sources.files[path][key]


def _is_below(path: str, directory: str) -> bool:
    place = directory.rstrip("/")
    return path == place or path.startswith(f"{place}/")


def read_text(path: str) -> str:
    """Return the text of a file, for `resolve_variables`."""
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()
