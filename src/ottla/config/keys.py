"""ConfigKey: one row per configuration key, and how its text becomes a value.

The tables (`topic`, `group`, `broker_*`) are lists of these rows; the parser, DescribeConfigs and docs/configuration.md
are produced from them. Names, types, defaults and bounds are Apache Kafka's; where we differ, the row says why.

Every key has exactly one status. ENFORCED: the broker does what it says, and a test shows it. INERT: accepted, changes
nothing, `reason` says why. REFUSED: any value but the default stops the start (or the request), with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1


class ConfigError(ValueError):
    """Keys or values that cannot be accepted: one sentence fit for a user for each. Mostly there is one."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "; ".join(self.mistakes)


class ConfigType(IntEnum):
    """The types of DescribeConfigs v3+ (numbers on the wire)."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class Update(Enum):
    """How a broker key can change: not at run time, on one broker, or for all brokers at once as well."""

    READ_ONLY = "read-only"
    PER_BROKER = "per-broker"
    CLUSTER_WIDE = "cluster-wide"


class Status(Enum):
    ENFORCED = "enforced"
    INERT = "inert"
    REFUSED = "refused"


Value = bool | int | float | str | list[str] | None


@dataclass(frozen=True, slots=True)
class Valid:
    """The values a key may have: `text` for people, `check` raises ConfigError with the sentence after the colon."""

    text: str
    check: Callable[[str, Value], None]


ANYTHING = Valid("", lambda name, value: None)


def at_least(low: float) -> Valid:
    def check(name: str, value: Value) -> None:
        if isinstance(value, int | float) and value < low:
            raise _invalid(name, value, f"Value must be at least {low}")

    return Valid(f"[{low},...]", check)


def between(low: float, high: float) -> Valid:
    def check(name: str, value: Value) -> None:
        if isinstance(value, int | float):
            if value < low:
                raise _invalid(name, value, f"Value must be at least {low}")
            if value > high:
                raise _invalid(name, value, f"Value must be no more than {high}")

    return Valid(f"[{low},...,{high}]", check)


def between_or(low: int, high: int, other: int) -> Valid:
    def check(name: str, value: Value) -> None:
        if isinstance(value, int) and value != other and not low <= value <= high:
            raise _invalid(name, value, f"Value must be between {low} and {high} or equal to {other}")

    return Valid(f"[{low},...,{high}] or {other}", check)


def one_of(*choices: str, ignore_case: bool = False) -> Valid:
    """One of these words, or, for a list, only these words."""
    folded = frozenset(c.lower() for c in choices) if ignore_case else frozenset(choices)

    def check(name: str, value: Value) -> None:
        for item in value if isinstance(value, list) else [value]:
            if item is not None and (str(item).lower() if ignore_case else item) not in folded:
                note = " (case insensitive)" if ignore_case else ""
                raise _invalid(name, item, f"String must be one of{note}: {', '.join(choices)}")

    return Valid(("(case insensitive) " if ignore_case else "") + f"[{', '.join(choices)}]", check)


def _check_not_empty(name: str, value: Value) -> None:
    if isinstance(value, str) and not value:
        raise _invalid(name, value, "String must be non-empty")


NOT_EMPTY = Valid("non-empty string", _check_not_empty)


def _check_throttled_replicas(name: str, value: Value) -> None:
    if not isinstance(value, list) or value == ["*"]:
        return
    for item in value:
        partition, colon, broker = item.partition(":")
        if not (colon and partition.strip().isdecimal() and broker.strip().isdecimal()):
            raise _invalid(
                name,
                f"[{', '.join(value)}]",
                f"{name} must be the literal '*' or a list of replicas in the following format: "
                f"{THROTTLED_REPLICAS.text}",
            )


def _check_offset_reset(name: str, value: Value) -> None:
    text = str(value)
    if text not in ("latest", "earliest") and not _is_duration(text.removeprefix("by_duration:"), text):
        raise _invalid(
            name,
            value,
            f"Invalid value `{text}` for configuration {name}. The value must be either 'earliest', 'latest' or of the "
            "format 'by_duration:<PnDTnHnMn.nS>'.",
        )


def _is_duration(duration: str, text: str) -> bool:
    """Tell whether this is a positive ISO 8601 duration of days, hours, minutes and seconds."""
    if not text.startswith("by_duration:") or not duration.startswith("P"):
        return False
    date, t, time_ = duration[1:].partition("T")
    units = _duration_units(date, "D") + (_duration_units(time_, "HMS") if t else [])
    return bool(units) and None not in units and not (t and not time_)


def _duration_units(text: str, allowed: str) -> list[str | None]:
    """Return the units of "3H10M" in order; None for anything that does not belong there."""
    units: list[str | None] = []
    number = ""
    for char in text:
        if char.isdecimal() or (char == "." and "." not in number):
            number += char
            continue
        place = allowed.find(char)
        units.append(char if number and place >= 0 else None)
        allowed, number = allowed[place + 1 :], ""
    return [*units, None] if number else units


OFFSET_RESET = Valid("[latest, earliest, by_duration:PnDTnHnMn.nS]", _check_offset_reset)

THROTTLED_REPLICAS = Valid("[partitionId]:[brokerId],[partitionId]:[brokerId],...", _check_throttled_replicas)

_INTEGER_BOUNDS = {
    ConfigType.SHORT: 2**15,
    ConfigType.INT: 2**31,
    ConfigType.LONG: 2**63,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """One key. `default` is text as DescribeConfigs shows it; None is Kafka's null."""

    name: str
    type: ConfigType
    default: str | None
    valid: Valid
    importance: str
    doc: str
    update: Update
    status: Status
    reason: str
    internal: bool

    @property
    def is_sensitive(self) -> bool:
        """Passwords are never shown."""
        return self.type is ConfigType.PASSWORD

    @property
    def unit(self) -> str:
        """The unit in the key's name: "ms", "bytes", "hours", "minutes", "seconds", or ""."""
        for word in reversed(self.name.split(".")):
            if word in ("ms", "bytes", "hours", "minutes", "seconds"):
                return word
            if word in ("millis", "secs"):
                return {"millis": "ms", "secs": "seconds"}[word]
        return ""

    def parse(self, text: str | None) -> Value:
        """Return the value of this text, checked.

        Raises:
            ConfigError: the text has another type, or the value is outside the bounds.
        """
        value = _parse_type(self.name, self.type, text)
        self.valid.check(self.name, value)
        return value


def _parse_type(name: str, type_: ConfigType, text: str | None) -> Value:
    if text is None:
        return None
    stripped = text.strip()
    if type_ in (ConfigType.STRING, ConfigType.CLASS):
        return stripped
    if type_ is ConfigType.PASSWORD:
        return text
    if type_ is ConfigType.LIST:
        return split_list(stripped)
    if type_ is ConfigType.BOOLEAN:
        if stripped.lower() in ("true", "false"):
            return stripped.lower() == "true"
        raise _invalid(name, text, "Expected value to be either true or false")
    try:
        if type_ is ConfigType.DOUBLE:
            return float(stripped)
        # Java's parser knows neither the underscores nor the non-ASCII digits that int() accepts.
        if not stripped.isascii() or "_" in stripped:
            raise ValueError
        number = int(stripped)
    except ValueError:
        raise _invalid(name, text, f"Not a number of type {type_.name}") from None
    bound = _INTEGER_BOUNDS[type_]
    if not -bound <= number < bound:
        raise _invalid(name, text, f"Not a number of type {type_.name}")
    return number


def split_list(text: str) -> list[str]:
    """Return the items of a comma-separated list, trimmed, each once; "" is the empty list."""
    return list(dict.fromkeys(item.strip() for item in text.split(","))) if text.strip() else []


def to_text(value: Value) -> str | None:
    """Return a value as DescribeConfigs shows it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, float):
        return java_double(value)
    return str(value)


def java_double(value: float) -> str:
    """Return Java's text of a double: 0.5, 1.0E10, 1.7976931348623157E308."""
    if value != value or value in (float("inf"), float("-inf")):
        return {True: "NaN"}.get(value != value, "Infinity" if value > 0 else "-Infinity")
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value) if "e" not in repr(value) else f"{value:f}"
    mantissa, _, exponent = f"{value!r}".partition("e")
    if not exponent:
        digits = repr(value).rstrip("0").rstrip(".")
        sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
        whole, _, fraction = digits.partition(".")
        all_digits = (whole + fraction).lstrip("0")
        power = len(whole) - 1 if whole.strip("0") else -(len(fraction) - len(fraction.lstrip("0")) + 1)
        tail = all_digits[1:].rstrip("0") or "0"
        return f"{sign}{all_digits[0]}.{tail}E{power}"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent)}"


def _invalid(name: str, value: Value, why: str) -> ConfigError:
    shown = value if isinstance(value, str) else to_text(value)
    return ConfigError(f"Invalid value {shown} for configuration {name}: {why}")


def row(
    name: str,
    type_: ConfigType,
    default: str | None,
    valid: Valid,
    importance: str,
    doc: str,
    *,
    update: Update = Update.READ_ONLY,
    inert: str = "",
    refused: str = "",
    internal: bool = False,
) -> ConfigKey:
    """Make one row. `inert` or `refused` carry the reason; with neither the key is enforced."""
    assert not (inert and refused), name
    status = Status.INERT if inert else Status.REFUSED if refused else Status.ENFORCED
    return ConfigKey(
        name=name,
        type=type_,
        default=default,
        valid=valid,
        importance=importance,
        doc=doc,
        update=update,
        status=status,
        reason=inert or refused,
        internal=internal,
    )


def table(*groups: Sequence[ConfigKey]) -> dict[str, ConfigKey]:
    """Return the rows by name; a name must not occur twice."""
    rows: dict[str, ConfigKey] = {}
    for group in groups:
        for key in group:
            assert key.name not in rows, f"{key.name} has two rows"
            rows[key.name] = key
    return rows
