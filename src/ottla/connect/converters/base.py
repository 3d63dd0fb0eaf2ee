"""What a converter is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from ottla.connect.config_def import ConfigDef, ConfigKey, Importance, one_of
from ottla.connect.schema import Schema


class SchemaAndValue(NamedTuple):
    """A value and what it looks like; either may be None."""

    schema: Schema | None
    value: Any


def converter_type() -> ConfigKey:
    """Return the row of `converter.type`, which the worker sets."""
    return ConfigKey(
        name="converter.type",
        validator=one_of("key", "value", "header"),
        importance=Importance.LOW,
        documentation="What the converter is used for: key, value or header.",
    )


class Converter:
    """Turns bytes of a topic into data and back. Subclasses are plugins (entry points `ottla.converters`).

    Args:
        config: the keys below `key.converter.` or `value.converter.`, without that prefix.
    """

    CONFIG: ClassVar[ConfigDef] = ConfigDef(converter_type())

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = self.CONFIG.parse({"converter.type": "value"} | dict(config or {}))

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        """Return the bytes of a key or a value; None is a tombstone.

        Raises:
            DataError: it cannot be written.
        """
        raise NotImplementedError

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        """Return the data in bytes.

        Raises:
            DataError: they are not of this converter's.
        """
        raise NotImplementedError

    def from_connect_header(self, topic: str, name: str, schema: Schema | None, value: Any) -> bytes | None:
        """Return the bytes of a header."""
        return self.from_connect(topic, schema, value)

    def to_connect_header(self, topic: str, name: str, data: bytes | None) -> SchemaAndValue:
        """Return the data in a header."""
        return self.to_connect(topic, data)
