"""Definitions of configurations: names, types, defaults, validators, and what is wrong with given values.

Kafka's ConfigDef, with its words: what `PUT /connector-plugins/.../config/validate` answers is made of this, and people's
tools read those messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from ottla.connect.errors import ConnectError


class ConfigError(ConnectError):
    """A configuration cannot be accepted (Java: `ConfigException`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @classmethod
    def of(cls, name: str, value: Any, message: str | None = None) -> ConfigError:
        """Return the error about one value of one key."""
        return cls(
            f"Invalid value {shown(value)} for configuration {name}" + ("" if message is None else f": {message}")
        )


def shown(value: Any) -> str:
    """Return a value as Java prints it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return "[" + ", ".join(shown(item) for item in value) + "]"
        case Password():
            return HIDDEN
    return str(value)


#: What is shown in the place of a secret.
HIDDEN = "[hidden]"


class Password:
    """A secret: it is printed as [hidden] everywhere, `value` has it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class ConfigType(Enum):
    """The types of Kafka's definitions."""

    BOOLEAN = "BOOLEAN"
    STRING = "STRING"
    INT = "INT"
    SHORT = "SHORT"
    LONG = "LONG"
    DOUBLE = "DOUBLE"
    LIST = "LIST"
    CLASS = "CLASS"
    PASSWORD = "PASSWORD"


class Importance(Enum):
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


class Width(Enum):
    """How wide a form shows the value."""

    NONE = "NONE"
    SHORT = "SHORT"
    MEDIUM = "MEDIUM"
    LONG = "LONG"


class _NoDefault:
    def __repr__(self) -> str:
        return "no default: the key is required"


NO_DEFAULT: Final = _NoDefault()

_BITS = {ConfigType.SHORT: 16, ConfigType.INT: 32, ConfigType.LONG: 64}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DOUBLE = re.compile(r"[+-]?(NaN|Infinity|([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[fFdD]?)")
_CLASS = re.compile(r"[A-Za-z_][\w.$:-]*")


def parse(name: str, value: Any, kind: ConfigType) -> Any:
    """Return a value, mostly a text, as its type.

    Raises:
        ConfigError: it is none of that type.
    """
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else None
    match kind:
        case ConfigType.BOOLEAN:
            if text is not None and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if isinstance(value, bool):
                return value
            raise ConfigError.of(name, value, "Expected value to be either true or false")
        case ConfigType.STRING | ConfigType.CLASS:
            if text is None:
                raise ConfigError.of(name, value, f"Expected value to be a string, but it was a {type(value).__name__}")
            if kind is ConfigType.CLASS and not _CLASS.fullmatch(text):
                raise ConfigError.of(name, value, f"Class {text} could not be found.")
            return text
        case ConfigType.PASSWORD:
            if isinstance(value, Password):
                return value
            if text is None:
                raise ConfigError.of(name, value, f"Expected value to be a string, but it was a {type(value).__name__}")
            return Password(text)
        case ConfigType.LIST:
            if isinstance(value, list | tuple):
                return list(value)
            if text is None:
                raise ConfigError.of(name, value, "Expected a comma separated list.")
            return re.split(r"\s*,\s*", text) if text else []
        case ConfigType.DOUBLE:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
            if text is None or not _DOUBLE.fullmatch(text):
                raise ConfigError.of(name, value, "Not a number of type DOUBLE")
            return float(text.rstrip("fFdD") if text[-1:] in "fFdD" else text)
        case _:
            number = value if isinstance(value, int) and not isinstance(value, bool) else None
            if text is not None and _INTEGER.fullmatch(text):
                number = int(text)
            bits = _BITS[kind]
            if number is None or not -1 << bits - 1 <= number < 1 << bits - 1:
                raise ConfigError.of(name, value, f"Not a number of type {kind.value}")
            return number


class Validator(Protocol):
    """Raises ConfigError about a value that is not accepted; `str()` of it tells people which values are."""

    def __call__(self, name: str, value: Any, /) -> None:
        """Check a value."""


class check:
    """A validator made of a function and the sentence about what it accepts."""

    __slots__ = ("_function", "_text")

    def __init__(self, function: Callable[[str, Any], None], text: str) -> None:
        self._function = function
        self._text = text

    def __call__(self, name: str, value: Any, /) -> None:
        self._function(name, value)

    def __str__(self) -> str:
        return self._text


def at_least(low: float) -> Validator:
    """Accept numbers from `low` on."""

    def function(name: str, value: Any) -> None:
        if value is None:
            raise ConfigError.of(name, value, "Value must be non-null")
        if value < low:
            raise ConfigError.of(name, value, f"Value must be at least {low}")

    return check(function, f"[{low},...]")


def one_of(*texts: str) -> Validator:
    """Accept these texts."""

    def function(name: str, value: Any) -> None:
        if value not in texts:
            raise ConfigError.of(name, value, f"String must be one of: {', '.join(texts)}")

    return check(function, f"[{', '.join(texts)}]")


def one_of_any_case(*texts: str) -> Validator:
    """Accept these texts, whatever their case."""
    known = dict.fromkeys(text.upper() for text in texts)

    def function(name: str, value: Any) -> None:
        if value is None or value.upper() not in known:
            raise ConfigError.of(name, value, f"String must be one of (case insensitive): {', '.join(known)}")

    return check(function, f"(case insensitive) [{', '.join(texts)}]")


def _not_none(name: str, value: Any) -> None:
    if value is None:
        raise ConfigError.of(name, value, "entry must be non null")


def _not_empty(name: str, value: Any) -> None:
    if value is not None and not value:
        raise ConfigError.of(name, value, "String must be non-empty")


def _not_empty_list(name: str, value: Any) -> None:
    if not value:
        raise ConfigError.of(name, value, "Empty list")


def unique(what: str) -> Validator:
    """Accept lists in which nothing stands twice."""

    def function(name: str, value: Any) -> None:
        if value is None:
            raise ConfigError.of(name, value, "entry must be non null")
        if len(set(value)) < len(value):
            raise ConfigError.of(name, value, "Duplicate alias provided.")

    return check(function, f"unique {what}")


def at_least_or_none(low: float) -> Validator:
    """Accept None, and numbers from `low` on."""
    number = at_least(low)

    def function(name: str, value: Any) -> None:
        if value is not None:
            number(name, value)

    return check(function, str(number))


def _name(name: str, value: Any) -> None:
    if value is None:
        return
    if not value:
        raise ConfigError.of(name, value, "String may not be empty")
    control = sorted({ord(letter) for letter in value if ord(letter) < 32 or 127 <= ord(letter) < 160})
    if control:
        text = "String may not contain control sequences but had the following ASCII chars: "
        text += ", ".join(str(code) for code in control)
        raise ConfigError.of(name, value, text)


def _version_range(name: str, value: Any) -> None:
    if value is not None and not _RANGE.fullmatch(value.strip()):
        raise ConfigError(f"Invalid version specification: {value}")


def _topics(name: str, value: Any) -> None:
    if value is None:
        raise ConfigError(f"Configuration '{name}' values must not be null.")
    if len(set(value)) < len(value):
        raise ConfigError(f"Configuration '{name}' values must not be duplicated.")
    if any(not topic for topic in value):
        raise ConfigError(f"Configuration '{name}' values must not be empty.")


_RANGE = re.compile(r"(latest|[\w.-]+|[\[(]\s*[\w.-]*\s*,?\s*[\w.-]*\s*[\])])?")
NAME = check(_name, "non-empty string without ISO control characters")
VERSION_RANGE = check(_version_range, "a version, or a range of versions")
TOPICS = check(_topics, "[]")
NOT_NONE = check(_not_none, "non-null string")
NOT_EMPTY = check(_not_empty, "non-empty string")


def _some_names(name: str, value: Any) -> None:
    if value is None:
        raise ConfigError(f"Configuration '{name}' values must not be null.")
    if not value:
        raise ConfigError(f"Configuration '{name}' must not be empty. Valid values include: any non-empty value")
    _topics(name, value)


SOME_NAMES = check(_some_names, "[any non-empty value]")
NOT_EMPTY_LIST = check(_not_empty_list, "non-empty list")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """One row of a definition.

    Attributes:
        default: NO_DEFAULT for a key that is required.
        validator: raises ConfigError about a value that is of the type and yet wrong.
        group: the heading under which forms show it, `order` its place there.
        dependents: keys whose recommended values and visibility change with this one.
        recommend: (name, all values) -> values to choose from.
        visible: (name, all values) -> whether forms show it.
    """

    name: str
    type: ConfigType = ConfigType.STRING
    default: Any = NO_DEFAULT
    validator: Validator | None = None
    importance: Importance = Importance.MEDIUM
    documentation: str = ""
    group: str | None = None
    order: int = -1
    width: Width = Width.NONE
    display_name: str | None = None
    dependents: Sequence[str] = ()
    recommend: Callable[[str, Mapping[str, Any]], list[Any]] | None = None
    visible: Callable[[str, Mapping[str, Any]], bool] | None = None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is NO_DEFAULT


@dataclass(slots=True)
class ConfigValue:
    """What was given for a key, and what is wrong with it."""

    name: str
    value: Any = None
    recommended_values: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    visible: bool = True


class ConfigDef:
    """The rows of a configuration, in order.

    Raises:
        ConfigError: two rows have one name, or a default is not accepted by its own row.
    """

    def __init__(self, *keys: ConfigKey) -> None:
        self.keys: dict[str, ConfigKey] = {}
        self.groups: list[str] = []
        for key in keys:
            self.define(key)

    def define(self, key: ConfigKey) -> ConfigDef:
        """Add a row; return this definition."""
        if key.name in self.keys:
            raise ConfigError(f"Configuration {key.name} is defined twice.")
        if not key.required:
            default = parse(key.name, key.default, key.type)
            if key.validator is not None:
                key.validator(key.name, default)
        self.keys[key.name] = key
        if key.group is not None and key.group not in self.groups:
            self.groups.append(key.group)
        return self

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return typed values of all keys.

        Raises:
            ConfigError: about the first value that cannot be accepted.
        """
        missing = sorted({name for key in self.keys.values() for name in key.dependents if name not in self.keys})
        if missing:
            raise ConfigError(f"Some configurations in are referred in the dependents, but not defined: {missing}")
        return {key.name: self._parsed(key, given) for key in self.keys.values()}

    @staticmethod
    def _parsed(key: ConfigKey, given: Mapping[str, Any]) -> Any:
        if key.name in given:
            value = parse(key.name, given[key.name], key.type)
        elif key.required:
            raise ConfigError(f'Missing required configuration "{key.name}" which has no default value.')
        else:
            value = parse(key.name, key.default, key.type)
        if key.validator is not None:
            key.validator(key.name, value)
        return value

    def validate(self, given: Mapping[str, str | None]) -> list[ConfigValue]:
        """Return the value of each key with everything that is wrong with it."""
        found = {name: ConfigValue(name) for name in self.keys}
        parsed: dict[str, Any] = {}
        for key in self.keys.values():
            value = found[key.name]
            try:
                if key.name in given:
                    value.value = parse(key.name, given[key.name], key.type)
                elif key.required:
                    value.errors.append(f'Missing required configuration "{key.name}" which has no default value.')
                else:
                    value.value = parse(key.name, key.default, key.type)
            except ConfigError as error:
                value.errors.append(str(error))
            try:  # as Java: also where there is no value, because it was none of the type
                if key.validator is not None:
                    key.validator(key.name, value.value)
            except ConfigError as error:
                value.errors.append(str(error))
            parsed[key.name] = value.value
        for key in self.keys.values():
            value = found[key.name]
            if key.recommend is not None:
                value.recommended_values = key.recommend(key.name, parsed)
                self._check_recommended(value)
            if key.visible is not None:
                value.visible = key.visible(key.name, parsed)
        return list(found.values())

    @staticmethod
    def _check_recommended(value: ConfigValue) -> None:
        if value.value is None or not value.recommended_values:
            return
        given = value.value if isinstance(value.value, list) else [value.value]
        if any(item not in value.recommended_values for item in given):
            value.errors.append(str(ConfigError.of(value.name, value.value, "Invalid value")))
