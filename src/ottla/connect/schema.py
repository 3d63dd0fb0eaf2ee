"""Connect's data model: schemas, structs, and whether a value fits its schema.

A value and its schema travel together; both may be None. What a schema's values are in Python:

    INT8 INT16 INT32 INT64   int within the bounds        STRING   str
    FLOAT32 FLOAT64          float                        BYTES    bytes
    BOOLEAN                  bool                         ARRAY    list
    STRUCT                   Struct                       MAP      dict

Logical types (`ottla.connect.logical`) are schemas with a name of Kafka's: their values are `decimal.Decimal`,
`datetime.date`, `datetime.time` and `datetime.datetime`. Without a schema an int counts as INT64 and a float as FLOAT64.
Java's `org.apache.kafka.connect.data`, whose rules and words these are.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from ottla.connect.errors import DataError, SchemaBuilderError


class Type(Enum):
    """The types of the data model; each value is the name in JSON."""

    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float"
    FLOAT64 = "double"
    BOOLEAN = "boolean"
    STRING = "string"
    BYTES = "bytes"
    ARRAY = "array"
    MAP = "map"
    STRUCT = "struct"

    def __str__(self) -> str:
        return self.name


#: Bits of the types that hold integers.
INTEGER_BITS = {Type.INT8: 8, Type.INT16: 16, Type.INT32: 32, Type.INT64: 64}

DECIMAL_NAME = "org.apache.kafka.connect.data.Decimal"
DATE_NAME = "org.apache.kafka.connect.data.Date"
TIME_NAME = "org.apache.kafka.connect.data.Time"
TIMESTAMP_NAME = "org.apache.kafka.connect.data.Timestamp"

_CLASSES: dict[Type, tuple[type, ...]] = {
    Type.INT8: (int,),
    Type.INT16: (int,),
    Type.INT32: (int,),
    Type.INT64: (int,),
    Type.FLOAT32: (float,),
    Type.FLOAT64: (float,),
    Type.BOOLEAN: (bool,),
    Type.STRING: (str,),
    Type.BYTES: (bytes, bytearray, memoryview),
    Type.ARRAY: (list, tuple),
    Type.MAP: (dict,),
}
#: A date or a timestamp beyond what datetime can hold is the int of days or milliseconds.
_LOGICAL_CLASSES: dict[str, tuple[type, ...]] = {
    DECIMAL_NAME: (decimal.Decimal,),
    DATE_NAME: (datetime.date, int),
    TIME_NAME: (datetime.time,),
    TIMESTAMP_NAME: (datetime.datetime, int),
}


class Field:
    """One field of a struct's schema: its name, its place, its schema."""

    __slots__ = ("index", "name", "schema")

    def __init__(self, name: str, index: int, schema: Schema) -> None:
        self.name = name
        self.index = index
        self.schema = schema

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Field):
            return NotImplemented
        return self.name == other.name and self.index == other.index and self.schema == other.schema

    def __hash__(self) -> int:
        return hash((self.name, self.index, self.schema))

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.schema!r})"


class Schema:
    """What a value looks like. Immutable; two schemas are equal if all that can be said of them is.

        ORDER = Schema.struct({"id": INT64, "note": OPTIONAL_STRING}, name="order")

    Args:
        type: the type of the values.
        optional: whether None is a value.
        default: what takes the place of None.
        name: of a logical type, or what a registry knows the schema by.
        version: a number of the maker's.
        doc: for people.
        parameters: more about the schema; a Decimal's scale is one.
        fields: name -> schema, of STRUCT.
        keys: the schema of the keys, of MAP.
        values: the schema of the values, of MAP and ARRAY.

    Raises:
        SchemaBuilderError: a part is missing, a field has no name, the default does not fit.
    """

    __slots__ = (
        "_by_name", "_fields", "_hash", "default", "doc", "keys", "name", "optional", "parameters", "type", "values",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        type: Type,
        *,
        optional: bool = False,
        default: Any = None,
        name: str | None = None,
        version: int | None = None,
        doc: str | None = None,
        parameters: Mapping[str, str] | None = None,
        fields: Mapping[str, Schema] | Sequence[tuple[str, Schema]] = (),
        keys: Schema | None = None,
        values: Schema | None = None,
    ) -> None:
        self.type = type
        self.optional = optional
        self.default = default
        self.name = name
        self.version = version
        self.doc = doc
        self.parameters: dict[str, str] | None = dict(parameters) if parameters else None
        self.keys = keys
        self.values = values
        self._hash: int | None = None
        self._by_name: dict[str, Field] = {}
        for field_name, schema in fields.items() if isinstance(fields, Mapping) else fields:
            self._add(field_name, schema)
        self._fields = tuple(self._by_name.values())
        if default is not None:
            try:
                validate_value(self, default)
            except DataError as error:
                raise SchemaBuilderError(f"Invalid default value: {error}") from error

    def _add(self, name: str, schema: Schema) -> None:
        if self.type is not Type.STRUCT:
            raise SchemaBuilderError(f"Cannot create fields on type {self.type}")
        if not name:
            raise SchemaBuilderError("fieldName cannot be null.")
        if schema is None:
            raise SchemaBuilderError(f"fieldSchema for field {name} cannot be null.")
        if name in self._by_name:
            raise SchemaBuilderError(f"Cannot create field because of field name duplication {name}")
        self._by_name[name] = Field(name, len(self._by_name), schema)

    @classmethod
    def struct(
        cls, fields: Mapping[str, Schema] | Sequence[tuple[str, Schema]], *, name: str | None = None, **more: Any
    ) -> Schema:
        """Return the schema of structs with these fields."""
        return cls(Type.STRUCT, fields=fields, name=name, **more)

    @classmethod
    def array(cls, values: Schema, **more: Any) -> Schema:
        """Return the schema of lists of `values`."""
        if values is None:
            raise SchemaBuilderError("valueSchema cannot be null.")
        return cls(Type.ARRAY, values=values, **more)

    @classmethod
    def map(cls, keys: Schema, values: Schema, **more: Any) -> Schema:
        """Return the schema of dicts from `keys` to `values`."""
        if keys is None:
            raise SchemaBuilderError("keySchema cannot be null.")
        if values is None:
            raise SchemaBuilderError("valueSchema cannot be null.")
        return cls(Type.MAP, keys=keys, values=values, **more)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields, in order.

        Raises:
            DataError: this is no STRUCT.
        """
        if self.type is not Type.STRUCT:
            raise DataError(f"{self.type} has no fields")
        return self._fields

    def field(self, name: str) -> Field | None:
        """Return the field of that name, or None.

        Raises:
            DataError: this is no STRUCT.
        """
        if self.type is not Type.STRUCT:
            raise DataError(f"{self.type} has no fields")
        return self._by_name.get(name)

    def replace(self, **changes: Any) -> Schema:
        """Return a schema that differs in what is given, under the names of the arguments of Schema."""
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("type", "optional", "default", "name", "version", "doc", "parameters", "keys", "values")
        }
        given["fields"] = [(field.name, field.schema) for field in self._fields]
        return Schema(**(given | changes))

    def as_optional(self) -> Schema:
        """Return this schema with None among its values."""
        return self if self.optional else self.replace(optional=True)

    def _facts(self) -> tuple[Any, ...]:
        # 0.0 and -0.0 are equal in Python, and so are decimals of two scales; as text they are not.
        default = None if self.default is None else repr(self.default)
        parameters = tuple(sorted(self.parameters.items())) if self.parameters else None
        return (
            self.type,
            self.optional,
            self.version,
            self.name,
            self.doc,
            self._fields,
            self.keys,
            self.values,
            parameters,
            default,
        )

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Schema):
            return NotImplemented
        return hash(self) == hash(other) and self._facts() == other._facts()

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(self._facts())
        return self._hash

    def __repr__(self) -> str:
        return f"Schema{{{self.name}:{self.type}}}" if self.name is not None else f"Schema{{{self.type}}}"


class Struct:
    """A value with named fields, each checked against its schema when it is set.

        order = Struct(ORDER, id=7)
        order["note"] = "gift"

    Reading a field that is None gives its schema's default.

    Raises:
        DataError: there is no such field, or the value does not fit.
    """

    __slots__ = ("_values", "schema")

    def __init__(self, schema: Schema, values: Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        if schema.type is not Type.STRUCT:
            raise DataError(f"{schema!r} is no schema of structs")
        self.schema = schema
        self._values: list[Any] = [None] * len(schema.fields)
        for name, value in (values or {}).items():
            self[name] = value
        for name, value in fields.items():
            self[name] = value

    def _find(self, name: str) -> Field:
        field = self.schema._by_name.get(name)
        if field is None:
            raise DataError(f"there is no field {name}")
        return field

    def __getitem__(self, name: str) -> Any:
        field = self._find(name)
        value = self._values[field.index]
        return field.schema.default if value is None else value

    def __setitem__(self, name: str, value: Any) -> None:
        field = self._find(name)
        _validate(field.schema, value, f'field: "{name}"')
        self._values[field.index] = value

    def without_default(self, name: str) -> Any:
        """Return a field's value as it was set: None stays None."""
        return self._values[self._find(name).index]

    def get(self, name: str, *, with_default: bool = True) -> Any:
        """Return a field's value, with its schema's default in the place of None or without."""
        return self[name] if with_default else self.without_default(name)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Return names and values, defaults in the place of None."""
        return ((field.name, self[field.name]) for field in self.schema.fields)

    def as_dict(self) -> dict[str, Any]:
        """Return names and values; structs within become dicts, too."""
        return {name: _plain(value) for name, value in self.items()}

    def validate(self) -> None:
        """Check every field again.

        Raises:
            DataError: a field that is required was never set.
        """
        for field in self.schema.fields:
            value = self._values[field.index]
            if value is None and (field.schema.optional or field.schema.default is not None):
                continue
            _validate(field.schema, value, f'field: "{field.name}"')

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Struct):
            return NotImplemented
        return self.schema == other.schema and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        told = ",".join(
            f"{field.name}={value}"
            for field, value in zip(self.schema.fields, self._values, strict=True)
            if value is not None
        )
        return f"Struct{{{told}}}"


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return value.as_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def validate_value(schema: Schema, value: Any) -> None:
    """Check that a value fits its schema.

    Raises:
        DataError: it does not; the message names the place within the value.
    """
    _validate(schema, value, "value")


def _validate(schema: Schema, value: Any, place: str) -> None:
    if value is None:
        if not schema.optional:
            raise DataError(f"{place} is null, and {schema.type} is not optional there")
        return
    if not _is_of(schema, value):
        name = f' "{schema.name}"' if schema.name is not None else ""
        found = type(value).__name__
        raise DataError(f"{place} is a {found}, which is no value of{name} {schema.type}, or is out of its bounds")
    match schema.type:
        case Type.STRUCT:
            if value.schema != schema:
                raise DataError(f"{place} is a struct of another schema")
            value.validate()
        case Type.ARRAY:
            inside = f"element of array {place}"
            values = _given(schema.values, inside)
            for item in value:
                _validate(values, item, inside)
        case Type.MAP:
            keys = _given(schema.keys, f"key of map {place}")
            values = _given(schema.values, f"value of map {place}")
            for key, item in value.items():
                _validate(keys, key, f"key of map {place}")
                _validate(values, item, f"value of map {place}")


def _is_of(schema: Schema, value: Any) -> bool:
    """Whether a value is of the schema's class, and an integer within its bounds."""
    classes = _LOGICAL_CLASSES.get(schema.name) if schema.name is not None else None
    if classes is not None:
        if not isinstance(value, classes) or isinstance(value, bool):
            return False
        if schema.name == TIMESTAMP_NAME and isinstance(value, datetime.datetime):
            if value.tzinfo is None:
                raise DataError("A timestamp needs a time zone: datetime.now(datetime.UTC), not datetime.now()")
            return True
        return not (schema.name == DATE_NAME and isinstance(value, datetime.datetime))
    if schema.type is Type.STRUCT:
        return isinstance(value, Struct)
    bits = INTEGER_BITS.get(schema.type)
    if bits is not None:
        return isinstance(value, int) and not isinstance(value, bool) and -1 << bits - 1 <= value < 1 << bits - 1
    return isinstance(value, _CLASSES[schema.type])


def _given(schema: Schema | None, place: str) -> Schema:
    if schema is None:
        raise DataError(f"{place} has no schema")
    return schema


def schema_type(value: Any) -> Type | None:
    """Return the type of a value that has no schema; None if the data model has no such values."""
    if isinstance(value, bool):
        return Type.BOOLEAN
    if isinstance(value, Struct):
        return Type.STRUCT
    for kind, classes in _TYPES:
        if isinstance(value, classes):
            return kind
    return None


_TYPES = [
    (kind, _CLASSES[kind]) for kind in (Type.INT64, Type.FLOAT64, Type.STRING, Type.BYTES, Type.ARRAY, Type.MAP)
]  # fmt: skip

INT8 = Schema(Type.INT8)
INT16 = Schema(Type.INT16)
INT32 = Schema(Type.INT32)
INT64 = Schema(Type.INT64)
FLOAT32 = Schema(Type.FLOAT32)
FLOAT64 = Schema(Type.FLOAT64)
BOOLEAN = Schema(Type.BOOLEAN)
STRING = Schema(Type.STRING)
BYTES = Schema(Type.BYTES)
OPTIONAL_INT8 = INT8.as_optional()
OPTIONAL_INT16 = INT16.as_optional()
OPTIONAL_INT32 = INT32.as_optional()
OPTIONAL_INT64 = INT64.as_optional()
OPTIONAL_FLOAT32 = FLOAT32.as_optional()
OPTIONAL_FLOAT64 = FLOAT64.as_optional()
OPTIONAL_BOOLEAN = BOOLEAN.as_optional()
OPTIONAL_STRING = STRING.as_optional()
OPTIONAL_BYTES = BYTES.as_optional()
