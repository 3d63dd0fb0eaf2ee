"""Converters of single values: text, bytes, numbers and booleans, as Kafka's serializers write them."""

from __future__ import annotations

import codecs
import logging
import struct
from collections.abc import Mapping
from typing import Any, ClassVar

from ottla.connect.config_def import ConfigDef, ConfigKey, Importance, Width
from ottla.connect.converters.base import Converter, SchemaAndValue, converter_type
from ottla.connect.errors import DataError
from ottla.connect.java_text import java_text
from ottla.connect.literals import parse_text
from ottla.connect.schema import (
    BYTES,
    OPTIONAL_BOOLEAN,
    OPTIONAL_BYTES,
    OPTIONAL_FLOAT32,
    OPTIONAL_FLOAT64,
    OPTIONAL_INT16,
    OPTIONAL_INT32,
    OPTIONAL_INT64,
    OPTIONAL_STRING,
    Schema,
    Type,
)
from ottla.connect.values import to_text

log = logging.getLogger(__name__)


class StringConverter(Converter):
    """Text: anything is written as Java prints it, everything is read as a STRING."""

    CONFIG = ConfigDef(
        converter_type(),
        ConfigKey(
            name="converter.encoding",
            default="UTF-8",
            importance=Importance.HIGH,
            width=Width.MEDIUM,
            display_name="Encoding",
            documentation="The encoding of the text, a name that Java knows.",
        ),
    )

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self._encoding: str = self.config["converter.encoding"]
        try:
            codecs.lookup(self._encoding)
        except LookupError:
            raise DataError(f"There is no encoding {self._encoding}") from None

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        return None if value is None else java_text(schema, value).encode(self._encoding, "replace")

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        return SchemaAndValue(OPTIONAL_STRING, None if data is None else bytes(data).decode(self._encoding, "replace"))


class SimpleHeaderConverter(Converter):
    """Headers as text that tells its type: 7 is an INT8, 2021-05-01 a date, [1,2] a list; what is none of these a string.

    What cannot be read is taken as bytes.
    """

    CONFIG = ConfigDef()

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        text = to_text(schema, value)
        return None if text is None else text.encode()

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        if data is None:
            return SchemaAndValue(None, None)
        try:
            return parse_text(bytes(data).decode("utf-8", "replace"))
        except (DataError, RecursionError) as error:
            log.warning("a header on topic %s cannot be read, and is taken as bytes: %s", topic, error)
            return SchemaAndValue(BYTES, data)


class ByteArrayConverter(Converter):
    """Bytes as they are."""

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        if schema is not None and schema.type is not Type.BYTES:
            raise DataError(f"ByteArrayConverter writes BYTES, not {schema.type}")
        if value is not None and not isinstance(value, bytes | bytearray | memoryview):
            raise DataError(f"ByteArrayConverter writes bytes, not a {type(value).__name__}")
        return None if value is None else bytes(value)

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        return SchemaAndValue(OPTIONAL_BYTES, data)


class BooleanConverter(Converter):
    """One byte: 1 or 0."""

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        if schema is not None and schema.type is not Type.BOOLEAN:
            raise DataError(f"BooleanConverter writes BOOLEAN, not {schema.type}")
        if value is not None and not isinstance(value, bool):
            raise DataError(f"BooleanConverter writes a bool, not a {type(value).__name__}")
        return None if value is None else b"\x01" if value else b"\x00"

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        if data is None:
            return SchemaAndValue(OPTIONAL_BOOLEAN, None)
        if data not in (b"\x00", b"\x01"):
            raise DataError(f"{len(data)} bytes are no boolean, which is one byte: 0 or 1")
        return SchemaAndValue(OPTIONAL_BOOLEAN, data == b"\x01")


class _Number(Converter):
    """A number of a fixed size, big-endian."""

    NAME: ClassVar[str]
    SCHEMA: ClassVar[Schema]
    FORM: ClassVar[struct.Struct]

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        if value is None:
            return None
        wanted = float if self.SCHEMA.type in (Type.FLOAT32, Type.FLOAT64) else int
        mismatch = schema is not None and schema.type is not self.SCHEMA.type
        if isinstance(value, bool) or not isinstance(value, wanted) or mismatch:
            found = type(value).__name__ if schema is None else f"{schema.type}"
            raise DataError(f"{found} is no {self.NAME}")
        try:
            return self.FORM.pack(value)
        except (struct.error, OverflowError):
            raise DataError(f"{value} is out of the bounds of {self.NAME}") from None

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        if data is None:
            return SchemaAndValue(self.SCHEMA, None)
        if len(data) != self.FORM.size:
            raise DataError(f"{len(data)} bytes are no {self.NAME}, which has {self.FORM.size}")
        return SchemaAndValue(self.SCHEMA, self.FORM.unpack(data)[0])


class ShortConverter(_Number):
    """INT16, two bytes."""

    NAME, SCHEMA, FORM = "short", OPTIONAL_INT16, struct.Struct(">h")


class IntegerConverter(_Number):
    """INT32, four bytes."""

    NAME, SCHEMA, FORM = "integer", OPTIONAL_INT32, struct.Struct(">i")


class LongConverter(_Number):
    """INT64, eight bytes."""

    NAME, SCHEMA, FORM = "long", OPTIONAL_INT64, struct.Struct(">q")


class FloatConverter(_Number):
    """FLOAT32, four bytes."""

    NAME, SCHEMA, FORM = "float", OPTIONAL_FLOAT32, struct.Struct(">f")


class DoubleConverter(_Number):
    """FLOAT64, eight bytes."""

    NAME, SCHEMA, FORM = "double", OPTIONAL_FLOAT64, struct.Struct(">d")
