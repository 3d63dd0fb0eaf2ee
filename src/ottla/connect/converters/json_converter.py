"""JsonConverter: data as JSON, with its schema beside it or without.

With `schemas.enable=true` (Kafka's default) each key and value is `{"schema": ..., "payload": ...}`; without, the
payload alone: whole numbers are read as INT64, others as FLOAT64, objects as maps. Bytes are equal to Java's
JsonConverter, for Java's HashMaps too.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ottla.connect.config_def import ConfigDef, ConfigKey, ConfigType, Importance, Width, one_of_any_case
from ottla.connect.converters import json_text
from ottla.connect.converters.base import Converter, SchemaAndValue, converter_type
from ottla.connect.errors import DataError
from ottla.connect.java_map import hash_map, hash_order
from ottla.connect.java_text import as_float32, decimal_text, double_text, float_text
from ottla.connect.logical import (
    LOGICAL_NAMES,
    bytes_to_decimal,
    date_to_days,
    days_to_date,
    decimal_to_bytes,
    ms_to_time,
    ms_to_timestamp,
    time_to_ms,
    timestamp_to_ms,
)
from ottla.connect.schema import (
    DATE_NAME,
    DECIMAL_NAME,
    INTEGER_BITS,
    TIME_NAME,
    TIMESTAMP_NAME,
    Field,
    Schema,
    Struct,
    Type,
    schema_type,
)
from ottla.connect.values import wrapped

_TYPES = {kind.value: kind for kind in Type}
_ENVELOPE = {"schema", "payload"}
#: How many envelopes a converter remembers: topics, or versions of a schema, that come in turn.
_ENVELOPES = 4
_BOUNDS = {kind: (-1 << bits - 1, (1 << bits - 1) - 1) for kind, bits in INTEGER_BITS.items()}
_LEAST, _GREATEST = _BOUNDS[Type.INT64]
#: A field; the class that its usual value has in JSON, the bounds of it, and what makes it the field's value.
_Part = tuple[Field, type | None, Any, Any, Callable[[Any], Any] | None]


class JsonConverter(Converter):
    """JSON. See the module for what is written."""

    CONFIG = ConfigDef(
        converter_type(),
        ConfigKey(
            name="schemas.enable",
            type=ConfigType.BOOLEAN,
            default=True,
            importance=Importance.HIGH,
            documentation="Whether the schema stands beside each key and value.",
            group="Schemas",
            order=0,
            width=Width.MEDIUM,
            display_name="Enable Schemas",
        ),
        ConfigKey(
            name="schemas.cache.size",
            type=ConfigType.INT,
            default=1000,
            importance=Importance.HIGH,
            documentation="How many schemas are remembered, in either direction.",
            group="Schemas",
            order=1,
            width=Width.MEDIUM,
            display_name="Schema Cache Size",
        ),
        ConfigKey(
            name="schema.content",
            default=None,
            importance=Importance.HIGH,
            documentation="A schema in JSON: with schemas.enable all that is read is of it, without an envelope (KIP-1054).",
            group="Schemas",
            order=2,
            width=Width.MEDIUM,
            display_name="Schema Content",
        ),
        ConfigKey(
            name="decimal.format",
            default="BASE64",
            validator=one_of_any_case("NUMERIC", "BASE64"),
            importance=Importance.LOW,
            documentation="How decimals are written: BASE64 or NUMERIC, in any case.",
            group="Serialization",
            order=0,
            width=Width.MEDIUM,
            display_name="Decimal Format",
        ),
        ConfigKey(
            name="replace.null.with.default",
            type=ConfigType.BOOLEAN,
            default=True,
            importance=Importance.LOW,
            documentation="Whether a field that is null and has a default is written as the default.",
            group="Serialization",
            order=1,
            width=Width.MEDIUM,
            display_name="Replace null with default",
        ),
    )

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self._with_schemas: bool = self.config["schemas.enable"]
        self._numeric = self.config["decimal.format"].upper() == "NUMERIC"
        self._defaults: bool = self.config["replace.null.with.default"]
        self._cache_size: int = self.config["schemas.cache.size"]
        self._written: dict[Schema, str] = {}
        self._read: dict[str, Schema] = {}
        #: What stands before the payload in the envelopes that came last, and the schema that it says.
        self._envelopes: deque[tuple[bytes, Schema]] = deque(maxlen=_ENVELOPES)
        self._parts: dict[Schema, list[_Part]] = {}
        self._content = self._schema_content(self.config["schema.content"])

    def from_connect(self, topic: str, schema: Schema | None, value: Any) -> bytes | None:
        if schema is None and value is None:
            return None
        text = self._text(schema, value)
        if self._with_schemas:
            text = f'{{"schema":{self.schema_text(schema)},"payload":{text}}}'
        return text.encode()

    def to_connect(self, topic: str, data: bytes | None) -> SchemaAndValue:
        if data is None:
            return SchemaAndValue(None, None)
        given = bytes(data)
        for begin, known in self._envelopes:
            if given.startswith(begin) and (found := json_text.read_last(given, len(begin))) is not None:
                return SchemaAndValue(known, self._data(known, found[0]))
        try:
            node = json_text.read(given)
        except ValueError as error:
            raise DataError(f"this is no JSON: {error}") from error
        if not self._with_schemas:
            return SchemaAndValue(None, self._without_schema(node))
        if self._content is not None:
            return SchemaAndValue(self._content, self._data(self._content, node))
        if not isinstance(node, dict) or node.keys() != _ENVELOPE:
            raise DataError(
                'schemas.enable=true means objects of "schema" and "payload" alone; schemas.enable=false reads other JSON'
            )
        schema = self.schema_of(node["schema"])
        if schema is not None and (before := json_text.before_payload(given)) is not None:
            self._envelopes.appendleft((before, schema))
        return SchemaAndValue(schema, self._data(schema, node["payload"]))

    def _schema_content(self, text: str | None) -> Schema | None:
        if not text:
            return None
        try:
            return self.schema_of(json_text.read(text.encode()))
        except ValueError as error:
            raise DataError(f"schema.content is no JSON: {error}") from error

    # Writing

    def schema_text(self, schema: Schema | None) -> str:
        """Return a schema as JSON."""
        if schema is None:
            return "null"
        text = self._written.get(schema)
        if text is None:
            text = self._schema_text(schema)
            if len(self._written) >= self._cache_size > 0:
                del self._written[next(iter(self._written))]
            self._written[schema] = text
        return text

    def _schema_text(self, schema: Schema) -> str:
        parts = [f'"type":"{schema.type.value}"']
        match schema.type:
            case Type.ARRAY:
                parts.append(f'"items":{self.schema_text(schema.values)}')
            case Type.MAP:
                parts += [f'"keys":{self.schema_text(schema.keys)}', f'"values":{self.schema_text(schema.values)}']
            case Type.STRUCT:
                fields = (
                    f'{self.schema_text(field.schema)[:-1]},"field":{json_text.quoted(field.name)}}}'
                    for field in schema.fields
                )
                parts.append(f'"fields":[{",".join(fields)}]')
        parts.append(f'"optional":{"true" if schema.optional else "false"}')
        if schema.name is not None:
            parts.append(f'"name":{json_text.quoted(schema.name)}')
        if schema.version is not None:
            parts.append(f'"version":{schema.version}')
        if schema.doc is not None:
            parts.append(f'"doc":{json_text.quoted(schema.doc)}')
        if schema.parameters is not None:
            given = (f"{json_text.quoted(name)}:{json_text.quoted(text)}" for name, text in schema.parameters.items())
            parts.append(f'"parameters":{{{",".join(given)}}}')
        if schema.default is not None:
            parts.append(f'"default":{self._text(schema, schema.default)}')
        return "{" + ",".join(parts) + "}"

    def _text(self, schema: Schema | None, value: Any) -> str:
        if schema is None:
            kind = value.__class__
            if kind is str:
                return json_text.quoted(value)
            if kind is int and _LEAST <= value <= _GREATEST:
                return str(value)
            if kind is dict:
                return self._map_text(None, value)
        if value is None:
            if schema is None:
                return "null"
            if schema.default is not None and self._defaults:
                return self._text(schema, schema.default)
            if schema.optional:
                return "null"
            raise DataError(f"a {schema.type} is null, which is not optional and has no default")
        if schema is not None and schema.name in LOGICAL_NAMES:
            return self._logical_text(schema, value)
        kind = schema_type(value) if schema is None else schema.type
        if kind is None:
            raise DataError(f"a {type(value).__name__} is no value of a Connect record")
        try:
            return self._plain_text(kind, schema, value)
        except (AttributeError, TypeError) as error:
            named = "unknown schema" if schema is None else str(schema.type)
            raise DataError(f"a {type(value).__name__} is no value of {named}") from error

    def _plain_text(self, kind: Type, schema: Schema | None, value: Any) -> str:
        match kind:
            case Type.STRING if isinstance(value, str):
                return json_text.quoted(value)
            case Type.INT8 | Type.INT16 | Type.INT32 | Type.INT64 if isinstance(value, int) and not isinstance(
                value, bool
            ):
                bits = INTEGER_BITS[kind]
                if not -1 << bits - 1 <= value < 1 << bits - 1:
                    raise DataError(f"{value} is out of the bounds of {kind}")
                return str(value)
            case Type.FLOAT64 if isinstance(value, float):
                text = double_text(value)
                return text if math.isfinite(value) else f'"{text}"'
            case Type.FLOAT32 if isinstance(value, float):
                text = float_text(value)
                return text if math.isfinite(as_float32(value)) else f'"{text}"'
            case Type.BOOLEAN if isinstance(value, bool):
                return "true" if value else "false"
            case Type.BYTES if isinstance(value, bytes | bytearray | memoryview):
                return json_text.encoded(bytes(value))
            case Type.ARRAY if isinstance(value, list | tuple):
                inside = None if schema is None else schema.values
                return f"[{','.join([self._text(inside, item) for item in value])}]"
            case Type.MAP if isinstance(value, dict):
                return self._map_text(schema, value)
            case Type.STRUCT if isinstance(value, Struct):
                if value.schema != schema:
                    raise DataError("a struct has another schema than its place")
                return self._struct_text(value)
        raise TypeError(type(value).__name__)

    def _struct_text(self, value: Struct) -> str:
        parts = [
            f"{json_text.quoted(field.name)}:{self._text(field.schema, item)}"
            for field, item in zip(value.schema.fields, value._values, strict=True)
        ]
        return "{" + ",".join(parts) + "}"

    def _map_text(self, schema: Schema | None, value: dict[Any, Any]) -> str:
        if schema is None and all(key.__class__ is str for key in value):
            return (
                "{"
                + ",".join([f"{json_text.quoted(key)}:{self._text(None, item)}" for key, item in value.items()])
                + "}"
            )
        keys, values = (None, None) if schema is None else (schema.keys, schema.values)
        as_object = all(isinstance(key, str) for key in value) if keys is None else keys.type is Type.STRING
        if not as_object:
            pairs = [f"[{self._text(keys, key)},{self._text(values, item)}]" for key, item in value.items()]
            return "[" + ",".join(pairs) + "]"
        named: dict[str, str] = {}
        for key, item in value.items():
            text = self._text(keys, key)
            named[text if text[0] == '"' else f'"{text}"'] = self._text(values, item)
        return "{" + ",".join([f"{key}:{item}" for key, item in named.items()]) + "}"

    def _logical_text(self, schema: Schema, value: Any) -> str:
        match schema.name, value:
            case "org.apache.kafka.connect.data.Decimal", decimal.Decimal():
                if self._numeric:
                    return decimal_text(value)
                return json_text.encoded(decimal_to_bytes(schema, value))
            case "org.apache.kafka.connect.data.Timestamp", datetime.datetime() | int() if not isinstance(value, bool):
                return str(timestamp_to_ms(value))
            case "org.apache.kafka.connect.data.Time", datetime.time():
                return str(time_to_ms(value))
            case "org.apache.kafka.connect.data.Date", datetime.date() | int() if not isinstance(
                value, datetime.datetime | bool
            ):
                return str(date_to_days(value))
        name = str(schema.name).rpartition(".")[2]
        raise DataError(f"a {type(value).__name__} is no {name}")

    # Reading

    def schema_of(self, node: Any) -> Schema | None:
        """Return the schema that JSON describes.

        Raises:
            DataError: it describes none.
        """
        if node is None:
            return None
        key = json.dumps(node, default=str)
        schema = self._read.get(key)
        if schema is None:
            schema = self._schema_of(node)
            if len(self._read) >= self._cache_size > 0:
                del self._read[next(iter(self._read))]
            self._read[key] = schema
        return schema

    def _schema_of(self, node: Any) -> Schema:
        given: dict[str, Any] = node if isinstance(node, dict) else {}
        name = given.get("type")
        if not isinstance(name, str):
            raise DataError("a schema has no type")
        kind = _TYPES.get(name)
        if kind is None:
            raise DataError(f"{name} is no type of a schema")
        more: dict[str, Any] = self._parts_of(kind, given)
        if isinstance(given.get("name"), str):
            more["name"] = given["name"]
        if _is_int(given.get("version")):
            more["version"] = wrapped(given["version"], 32)
        if isinstance(given.get("doc"), str):
            more["doc"] = given["doc"]
        parameters = given.get("parameters")
        if isinstance(parameters, dict):
            if not all(isinstance(text, str) for text in parameters.values()):
                raise DataError("a parameter of a schema is no text")
            more["parameters"] = parameters
        schema = Schema(kind, optional=given.get("optional") is True, **more)
        if "default" in given:
            schema = schema.replace(default=self._data(schema, given["default"]))
        return schema

    def _parts_of(self, kind: Type, given: Mapping[str, Any]) -> dict[str, Any]:
        match kind:
            case Type.ARRAY:
                if given.get("items") is None:
                    raise DataError("the schema of an array has no items")
                return {"values": self.schema_of(given["items"])}
            case Type.MAP:
                if "keys" not in given:
                    raise DataError("the schema of a map has no keys")
                if "values" not in given:
                    raise DataError("the schema of a map has no values")
                made = Schema.map(self.schema_of(given["keys"]), self.schema_of(given["values"]))  # type: ignore[arg-type]
                return {"keys": made.keys, "values": made.values}
            case Type.STRUCT:
                fields = given.get("fields")
                if not isinstance(fields, list):
                    raise DataError("the fields of a struct's schema are no array")
                return {"fields": [self._field_of(field) for field in fields]}
        return {}

    def _field_of(self, node: Any) -> tuple[str, Schema]:
        if not isinstance(node, dict) or not isinstance(node.get("field"), str):
            raise DataError("a field of a struct's schema has no name")
        schema = self.schema_of(node)
        assert schema is not None
        return node["field"], schema

    def _without_schema(self, node: Any) -> Any:
        kind = node.__class__
        if kind is str:
            return node
        if kind is int:
            return node if _LEAST <= node <= _GREATEST else wrapped(node, 64)
        if kind is decimal.Decimal:
            return _real(node)
        if kind is list:
            return [self._without_schema(item) for item in node]
        if kind is dict:
            return {key: self._without_schema(node[key]) for key in hash_order(tuple(node))}
        return None if kind is json_text.Missing else node

    def _data(self, schema: Schema | None, node: Any) -> Any:
        if schema is None:
            return self._without_schema(node)
        if node is None or node is json_text.MISSING:
            if schema.default is not None and self._defaults:
                return schema.default
            if schema.optional:
                return None
            raise DataError(f"a {schema.type} is null, which is not optional and has no default")
        if schema.name in LOGICAL_NAMES:
            return _logical(schema, node)
        match schema.type:
            case Type.STRING:
                return node if isinstance(node, str) else None
            case Type.INT8 | Type.INT16 | Type.INT32:
                return wrapped(wrapped(_whole(node), 32), INTEGER_BITS[schema.type])
            case Type.INT64:
                return wrapped(_whole(node), 64)
            case Type.FLOAT64:
                return _real(node)
            case Type.FLOAT32:
                return as_float32(_real(node))
            case Type.BOOLEAN:
                return node is True
            case Type.BYTES:
                return _bytes(node)
            case Type.ARRAY:
                items = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
                return [self._data(schema.values, item) for item in items]
            case Type.MAP:
                return self._map(schema, node)
            case _:
                return self._struct(schema, node)

    def _struct(self, schema: Schema, node: Any) -> Struct:
        if not isinstance(node, dict):
            raise DataError(f"a struct is an object in JSON, and this is {_kind(node)}")
        parts = self._parts.get(schema)
        if parts is None:
            parts = self._parts[schema] = [_part(field) for field in schema.fields]
            if len(self._parts) > self._cache_size > 0:
                del self._parts[next(iter(self._parts))]
        made = Struct(schema)
        values = made._values
        for field, kind, low, high, change in parts:
            item = node.get(field.name)
            if item.__class__ is kind and (low is None or low <= item <= high):
                values[field.index] = item if change is None else change(item)
            else:
                made[field.name] = self._data(field.schema, item)
        return made

    def _map(self, schema: Schema, node: Any) -> dict[Any, Any]:
        assert schema.keys is not None
        if schema.keys.type is Type.STRING:
            if not isinstance(node, dict):
                raise DataError(f"a map with texts as keys is an object in JSON, and this is {_kind(node)}")
            return hash_map([(key, self._data(schema.values, item)) for key, item in node.items()])
        if not isinstance(node, list):
            raise DataError(
                f"a map with {schema.keys.type} as keys is an array of pairs in JSON, and this is {_kind(node)}"
            )
        entries = []
        for entry in node:
            if not isinstance(entry, list):
                raise DataError(f"an entry of a map is {_kind(entry)}, no pair")
            if len(entry) != 2:
                raise DataError(f"an entry of a map has {len(entry)} parts, not 2")
            entries.append((self._data(schema.keys, entry[0]), self._data(schema.values, entry[1])))
        try:
            return hash_map(entries, schema.keys.type)
        except TypeError:
            raise DataError(f"Keys of type {schema.keys.type} cannot be those of a dict") from None


def _part(field: Field) -> _Part:
    """Return which class the usual value of a field has in JSON, its bounds, and what makes it the field's value."""
    schema = field.schema
    if schema.name == TIMESTAMP_NAME:
        return field, int, *_BOUNDS[Type.INT64], ms_to_timestamp
    if schema.name in LOGICAL_NAMES:
        return field, None, None, None, None
    match schema.type:
        case Type.STRING:
            return field, str, None, None, None
        case Type.BOOLEAN:
            return field, bool, None, None, None
        case Type.FLOAT64:
            return field, decimal.Decimal, None, None, _real
        case whole if whole in _BOUNDS:
            return field, int, *_BOUNDS[whole], None
    return field, None, None, None, None


def _logical(schema: Schema, node: Any) -> Any:
    if schema.name == DECIMAL_NAME:
        if _is_int(node):
            return decimal.Decimal(node)
        if isinstance(node, decimal.Decimal):
            return node.copy_abs() if node.is_zero() else node
        if isinstance(node, str):
            try:
                return bytes_to_decimal(schema, json_text.decoded(node))
            except (ValueError, DataError) as error:
                raise DataError(f"a Decimal has bytes that are none: {error}") from error
        raise DataError(f"a Decimal is a number or bytes in base 64, and this is {_kind(node)}")
    if schema.name == TIMESTAMP_NAME:
        if not _is_int(node):
            raise DataError(f"a Timestamp is a whole number, and this is {_kind(node)}")
        return ms_to_timestamp(wrapped(node, 64))
    name = "Date" if schema.name == DATE_NAME else "Time"
    if not _is_int(node) or not -(1 << 31) <= node < 1 << 31:
        raise DataError(f"a {name} is a whole number of 32 bits, and this is {_kind(node)}")
    return ms_to_time(node) if schema.name == TIME_NAME else days_to_date(node)


def _is_int(node: Any) -> bool:
    return isinstance(node, int) and not isinstance(node, bool)


def _whole(node: Any) -> int:
    if isinstance(node, decimal.Decimal):
        if node.adjusted() > 400:  # all of its lowest bits are zero, and there may be very many
            return 0
        return int(node)
    return node if _is_int(node) else 0


def _real(node: Any) -> float:
    if not isinstance(node, decimal.Decimal) and not _is_int(node):
        return 0.0
    try:
        return float(node) + 0.0
    except OverflowError:
        return math.inf if node > 0 else -math.inf


def _bytes(node: Any) -> bytes | None:
    if not isinstance(node, str):
        return None
    try:
        return json_text.decoded(node)
    except ValueError:
        raise DataError("a text that should be bytes is no base 64") from None


def _kind(node: Any) -> str:
    """Return what Jackson calls a node."""
    match node:
        case None:
            return "NULL"
        case bool():
            return "BOOLEAN"
        case int() | decimal.Decimal():
            return "NUMBER"
        case str():
            return "STRING"
        case list():
            return "ARRAY"
    return "OBJECT"
