"""Which converters, transforms and predicates there are, by the names that configurations use.

Java's class names stand for ours of the same name, and so does their last part: `JsonConverter`, `Cast$Value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ottla.connect.config_def import ConfigError
from ottla.connect.converters.base import Converter
from ottla.connect.transforms.base import Predicate, Side, Transform

_CONVERTERS = {
    "org.apache.kafka.connect.json.JsonConverter": "json_converter",
    "org.apache.kafka.connect.storage.StringConverter": "simple",
    "org.apache.kafka.connect.storage.SimpleHeaderConverter": "simple",
    **{
        f"org.apache.kafka.connect.converters.{name}Converter": "simple"
        for name in ("Boolean", "ByteArray", "Double", "Float", "Integer", "Long", "Short")
    },
}
_TRANSFORMS = {
    "fields": ("ExtractField", "Flatten", "HeaderFrom", "HoistField", "InsertField", "ReplaceField", "ValueToKey"),
    "values": ("Cast", "MaskField", "SetSchemaMetadata", "TimestampConverter"),
    "routing": ("DropHeaders", "Filter", "InsertHeader", "RegexRouter", "TimestampRouter"),
}
_PREDICATES = ("HasHeaderKey", "RecordIsTombstone", "TopicNameMatches")
TRANSFORMS = tuple(sorted(name for names in _TRANSFORMS.values() for name in names))
_TRANSFORM_PACKAGE = "org.apache.kafka.connect.transforms."
_PREDICATE_PACKAGE = "org.apache.kafka.connect.transforms.predicates."


HEADER_CONVERTERS = tuple(sorted(_CONVERTERS))
CONVERTERS = tuple(name for name in HEADER_CONVERTERS if not name.endswith("SimpleHeaderConverter"))


def converter_class(name: str) -> type[Converter]:
    """Return the converter of that name.

    Raises:
        ConfigError: there is none.
    """
    for java, module in _CONVERTERS.items():
        if name in (java, java.rpartition(".")[2]):
            found: type[Converter] = getattr(
                import_module(f"ottla.connect.converters.{module}"), java.rpartition(".")[2]
            )
            assert issubclass(found, Converter)
            return found
    raise ConfigError(f"Class {name} could not be found.")


def java_name(kind: type[Converter]) -> str:
    """Return what Java calls a converter."""
    return next(java for java in _CONVERTERS if java.rpartition(".")[2] == kind.__name__)


def transform_class(name: str) -> tuple[type[Transform], Side, str]:
    """Return a transform, the side that it works on, and Java's name of it.

    Raises:
        ConfigError: there is none of that name.
    """
    short, _, side = name.removeprefix(_TRANSFORM_PACKAGE).partition("$")
    for module, names in _TRANSFORMS.items():
        if short in names:
            found: type[Transform] = getattr(import_module(f"ottla.connect.transforms.{module}"), short)
            assert issubclass(found, Transform)
            sides: dict[str, Side] = {"Key": "key", "Value": "value"} if found.SIDED else {"": "value"}
            if side in sides:
                return found, sides[side], _TRANSFORM_PACKAGE + short + (f"${side}" if side else "")
            if not side:
                raise ConfigError(f"{name} works on keys or on values: {short}$Key or {short}$Value")
    raise ConfigError(f"Class {name} could not be found.")


def make_transform(name: str, config: Mapping[str, Any]) -> Transform:
    """Return a transform, configured.

    Raises:
        ConfigError: there is none of that name, or the configuration is wrong.
    """
    found, side, _ = transform_class(name)
    return found(config, side)


def transform_names() -> list[str]:
    """Return Java's names of all transforms."""
    found = []
    for short in TRANSFORMS:
        module = next(module for module, names in _TRANSFORMS.items() if short in names)
        kind: type[Transform] = getattr(import_module(f"ottla.connect.transforms.{module}"), short)
        found += [f"{_TRANSFORM_PACKAGE}{short}{side}" for side in (("$Key", "$Value") if kind.SIDED else ("",))]
    return found


def predicate_class(name: str) -> tuple[type[Predicate], str]:
    """Return a predicate, and Java's name of it.

    Raises:
        ConfigError: there is none of that name.
    """
    short = name.removeprefix(_PREDICATE_PACKAGE)
    if short not in _PREDICATES:
        raise ConfigError(f"Class {name} could not be found.")
    found: type[Predicate] = getattr(import_module("ottla.connect.transforms.routing"), short)
    assert issubclass(found, Predicate)
    return found, _PREDICATE_PACKAGE + short


def predicate_names() -> list[str]:
    """Return Java's names of all predicates."""
    return [_PREDICATE_PACKAGE + short for short in _PREDICATES]


def make_predicate(name: str, config: Mapping[str, Any]) -> Predicate:
    """Return a predicate, configured.

    Raises:
        ConfigError: there is none of that name, or the configuration is wrong.
    """
    return predicate_class(name)[0](config)
