"""Transforms that change what fields hold: other types, masks, other forms of timestamps; and a schema's name."""

from __future__ import annotations

import base64
import datetime
import decimal
import re
from collections.abc import Mapping
from typing import Any

from ottla.connect.config_def import (
    NOT_EMPTY,
    SOME_NAMES,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    check,
    one_of,
)
from ottla.connect.errors import ConnectError, DataError
from ottla.connect.java_dates import DateFormat
from ottla.connect.java_map import hash_map
from ottla.connect.java_text import Float32, as_float32, epoch_ms, iso_text, java_text
from ottla.connect.logical import (
    DATE,
    DAY_MS,
    LOGICAL_NAMES,
    TIME,
    TIMESTAMP,
    days_to_date,
    ms_to_time,
    ms_to_timestamp,
    to_plain,
)
from ottla.connect.records import Record
from ottla.connect.schema import (
    DATE_NAME,
    DECIMAL_NAME,
    INT64,
    INTEGER_BITS,
    STRING,
    TIME_NAME,
    TIMESTAMP_NAME,
    Field,
    Schema,
    Struct,
    Type,
    schema_type,
)
from ottla.connect.transforms.base import REPLACE_NULL, Side, SidedTransform, basics
from ottla.connect.transforms.fields import PAIRS, split_java
from ottla.connect.values import float_to_whole, to_real, to_whole, wrapped

_CASTABLE = (*INTEGER_BITS, Type.FLOAT32, Type.FLOAT64, Type.BOOLEAN, Type.STRING)
_NAMES = "[" + ", ".join(str(kind) for kind in _CASTABLE) + "]"
_INTEGER = re.compile(r"[+-]?[0-9]+")
_REAL = re.compile(r"[+-]?(NaN|Infinity|([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[fFdD]?)")


def _casts(spec: list[str]) -> dict[str | None, Type]:
    """Return the type of each field; that of the whole value under None."""
    found: dict[str | None, Type] = {}
    for mapping in spec:
        parts = split_java(mapping)
        if len(parts) > 2:
            raise ConfigError.of("renames", spec, f"Invalid rename mapping: {mapping}")
        text = parts[-1].strip()
        kind = Type.__members__.get(text.upper())
        if kind is None:
            raise ConfigError(f"Invalid type found in casting spec: {text}")
        if kind not in _CASTABLE:
            raise ConfigError(f"Cast transformation does not support casting to {kind}; supported types are {_NAMES}")
        found[None if len(parts) == 1 else parts[0].strip()] = kind
    if None in found and len(spec) > 1:
        raise ConfigError(
            "Cast transformations that specify a type to cast the entire value to"
            " may only specify a single cast in their spec"
        )
    return found


def _valid_spec(name: str, value: list[str] | None) -> None:
    if not value:
        raise ConfigError("Must specify at least one field to cast.")
    _casts(value)


class Cast(SidedTransform):
    """Makes other types of fields or of the whole key or value."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="spec",
            type=ConfigType.LIST,
            validator=check(_valid_spec, PAIRS),
            importance=Importance.HIGH,
            documentation="FIELD:TYPE,... or one TYPE for the whole: int8, int16, int32, int64, float32, float64, boolean,"
            " string. Bytes become strings only.",
        ),
        REPLACE_NULL,
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        casts = _casts(self.config["spec"])
        self._whole = casts.pop(None, None)
        self._casts: dict[str, Type] = hash_map((name, kind) for name, kind in casts.items() if name is not None)

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if value is None:
            return record
        whole = self._whole
        if schema is None and whole is None:
            made = self.remade(
                self.need_map(value), self._casts, lambda name, item: cast(None, item, self._casts[name])
            )
            return self.changed(record, None, made)
        updated = None if schema is None else self.updated(schema)
        if updated is None or whole is not None:
            assert whole is not None
            return self.changed(record, updated, cast(schema, value, whole))
        return self.changed(record, updated, self.rebuilt(self.need_struct(value), updated, self._cast_field))

    def _cast_field(self, field: Field, item: Any) -> Any:
        kind = self._casts.get(field.name)
        return item if kind is None else cast(field.schema, item, kind)

    def new_schema(self, schema: Schema) -> Schema:
        kind = Type.STRUCT if self._whole is None else self._whole
        default = cast(schema, schema.default, kind)
        if self._whole is not None:
            return Schema(kind, optional=schema.optional, default=default, **basics(schema))
        fields = [(field.name, self._field_schema(field.name, field.schema)) for field in schema.fields]
        return Schema(Type.STRUCT, fields=fields, optional=schema.optional, default=default, **basics(schema))

    def _field_schema(self, name: str, schema: Schema) -> Schema:
        kind = self._casts.get(name)
        if kind is None:
            return schema
        return Schema(kind, optional=schema.optional, default=cast(schema, schema.default, kind))


def cast(schema: Schema | None, value: Any, kind: Type) -> Any:
    """Return a value as another type.

    Raises:
        DataError: it cannot be one.
    """
    if value is None:
        return None
    given = schema_type(value) if schema is None else schema.type
    if given is None:
        found = type(value).__name__
        raise DataError(f"Cast: a {found} is no value of a Connect record")
    if given not in (*_CASTABLE, Type.BYTES):
        raise DataError(f"Cast: {given} cannot be cast; {_NAMES} and BYTES can")
    if schema is not None and schema.name in LOGICAL_NAMES - {DECIMAL_NAME} and kind is not Type.STRING:
        value = to_plain(schema, value)
    if kind is Type.STRING:
        return _as_text(schema, value)
    plain = _bare_number(value, kind)
    if kind is Type.BOOLEAN:
        return to_whole(plain, 64) != 0
    if kind in INTEGER_BITS:
        bits = INTEGER_BITS[kind]
        return float_to_whole(plain, bits) if isinstance(plain, float) else wrapped(int(plain), bits)
    return as_float32(to_real(plain)) if kind is Type.FLOAT32 else to_real(plain)


def _as_text(schema: Schema | None, value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return iso_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    return java_text(schema, value)


def _bare_number(value: Any, kind: Type) -> int | float | decimal.Decimal:
    """Return the number that a value stands for on its way to another type: a boolean is 0 or 1, a text is read as `kind`."""
    if isinstance(value, int | float | decimal.Decimal):
        return int(value) if isinstance(value, bool) else value
    if not isinstance(value, str):
        raise DataError(f"Cast: a {type(value).__name__} becomes nothing but a string")
    if kind is Type.BOOLEAN:
        return int(value.lower() == "true")
    bits = INTEGER_BITS.get(kind)
    if bits is None:
        text = value.strip("".join(map(chr, range(33))))
        if _REAL.fullmatch(text):
            return float(text.rstrip("fFdD") if text[-1] in "fFdD" else text)
    elif _INTEGER.fullmatch(value) and -1 << bits - 1 <= int(value) < 1 << bits - 1:
        return int(value)
    raise DataError(f"Cast: the text {value!r} is no {kind}, or is out of its bounds")


class MaskField(SidedTransform):
    """Puts nothing, or a fixed value, in the place of what fields hold."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="fields",
            type=ConfigType.LIST,
            validator=SOME_NAMES,
            importance=Importance.HIGH,
            documentation="The fields.",
        ),
        ConfigKey(
            name="replacement",
            default=None,
            validator=NOT_EMPTY,
            importance=Importance.LOW,
            documentation="What numbers and texts become; without it 0, an empty text, an empty list.",
        ),
        REPLACE_NULL,
    )  # fmt: skip

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        fields: list[str] = self.config["fields"]
        if schema is None:
            names = hash_map((name, None) for name in fields)
            made = self.remade(self.need_map(value), names, lambda _, item: self._masked(None, item))
            return self.changed(record, None, made)
        struct = self.need_struct(value)
        changed = self.rebuilt(
            struct,
            struct.schema,
            lambda field, item: self._masked(field.schema, item) if field.name in fields else item,
        )
        return self.changed(record, schema, changed)

    def _masked(self, schema: Schema | None, value: Any) -> Any:
        if value is None:
            return None
        text = self.config["replacement"]
        return _nothing(schema, value) if text is None else _replacement(schema, value, text)


def _nothing(schema: Schema | None, value: Any) -> Any:
    match value:
        case bool():
            return False
        case int() if schema is not None and schema.name in (DATE_NAME, TIMESTAMP_NAME):
            return days_to_date(0) if schema.name == DATE_NAME else ms_to_timestamp(0)
        case int():
            return 0
        case float():
            return type(value)(0.0)
        case decimal.Decimal():
            return decimal.Decimal(0)
        case datetime.datetime():
            return ms_to_timestamp(0)
        case datetime.date():
            return days_to_date(0)
        case datetime.time():
            return ms_to_time(0)
        case str():
            return ""
        case list():
            return []
        case dict():
            return {}
    raise DataError(f"MaskField has nothing to put in the place of a {type(value).__name__}")


def _replacement(schema: Schema | None, value: Any, text: str) -> Any:
    if isinstance(value, str):
        return text
    if isinstance(value, int) and not isinstance(value, bool) and (schema is None or schema.name not in LOGICAL_NAMES):
        return to_whole(text, 64 if schema is None else INTEGER_BITS[schema.type])
    if isinstance(value, float):
        narrow = isinstance(value, Float32) if schema is None else schema.type is Type.FLOAT32
        return as_float32(to_real(text)) if narrow else to_real(text)
    if isinstance(value, decimal.Decimal):
        try:
            return decimal.Decimal(text)
        except decimal.InvalidOperation:
            raise DataError(f"MaskField: the replacement {text!r} is no number") from None
    raise DataError(
        f"MaskField puts the replacement in the place of numbers and texts, not of a {type(value).__name__}"
    )


class SetSchemaMetadata(SidedTransform):
    """Sets the name or the version of the schema."""

    CONFIG = ConfigDef(
        ConfigKey(name="schema.name", default=None, importance=Importance.HIGH, documentation="The name."),
        ConfigKey(
            name="schema.version", type=ConfigType.INT, default=None, importance=Importance.HIGH, documentation="The version."
        ),
        REPLACE_NULL,
    )  # fmt: skip

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        if self.config["schema.name"] is None and self.config["schema.version"] is None:
            raise ConfigError("Neither schema name nor version configured")

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if schema is None and value is None:
            return record
        if schema is None:
            raise DataError(f"{self.called}: the record has no schema")
        updated = self.updated(schema)
        if isinstance(value, Struct):
            given = {field.name: value.get(field.name, with_default=self.with_default) for field in updated.fields}
            value = Struct(updated, given)
        return self.changed(record, updated, value)

    def new_schema(self, schema: Schema) -> Schema:
        if schema.type is not Type.STRUCT:  # Java asks for the fields, whatever the type
            raise DataError(f"{self.called}: {schema!r} is no struct")
        given = {"name": self.config["schema.name"], "version": self.config["schema.version"]}
        changes = {name: found for name, found in given.items() if found is not None}
        if not isinstance(schema.default, Struct):
            return schema.replace(**changes)
        bare = schema.replace(default=None, **changes)
        return bare.replace(default=Struct(bare, dict(schema.default.items())))


_PRECISIONS = {"seconds": 1, "milliseconds": 1000, "microseconds": 10**6, "nanoseconds": 10**9}
_LONG_MAX = (1 << 63) - 1
_TARGETS = {"string": STRING, "unix": INT64, "Date": DATE, "Time": TIME, "Timestamp": TIMESTAMP}


class TimestampConverter(SidedTransform):
    """Gives a timestamp another form: text, a number, a date, a time of day, a timestamp."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="field", default="", importance=Importance.HIGH, documentation="The field; empty: the whole key or value."
        ),
        ConfigKey(
            name="target.type",
            validator=one_of("string", "unix", "Date", "Time", "Timestamp"),
            importance=Importance.HIGH,
            documentation="The form: string, unix, Date, Time or Timestamp.",
        ),
        ConfigKey(name="format", default="", documentation="The pattern of texts, as java.text.SimpleDateFormat has it."),
        ConfigKey(
            name="unix.precision",
            default="milliseconds",
            validator=one_of("nanoseconds", "microseconds", "milliseconds", "seconds"),
            importance=Importance.LOW,
            documentation="What numbers count. Timestamps have milliseconds: what is finer is lost.",
        ),
        REPLACE_NULL,
    )  # fmt: skip

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._target: str = self.config["target.type"]
        pattern: str = self.config["format"]
        self._format: DateFormat | None = None
        if pattern.strip():
            try:
                self._format = DateFormat(pattern, datetime.datetime.now(datetime.UTC).year)
            except ValueError as error:
                raise ConfigError(
                    "TimestampConverter requires a SimpleDateFormat-compatible pattern for string timestamps:"
                    f" {pattern} ({error})"
                ) from None
        elif self._target == "string":
            raise ConfigError("TimestampConverter requires format option to be specified when using string timestamps")

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        name: str = self.config["field"]
        if schema is None:
            if value is None or not name:
                return self.changed(record, None, self._converted(None, value))
            made = self.remade(self.need_map(value), [name], lambda _, item: self._converted(None, item))
            return self.changed(record, None, made)
        if not name:
            return self.changed(record, self._target_schema(schema), self._converted(_form_of(schema), value))
        updated = self.updated(schema)
        struct = None if value is None else self.rebuilt(self.need_struct(value), updated, self._converted_field)
        return self.changed(record, updated, struct)

    def _converted_field(self, field: Field, item: Any) -> Any:
        return self._converted(_form_of(field.schema), item) if field.name == self.config["field"] else item

    def _target_schema(self, schema: Schema) -> Schema:
        target = _TARGETS[self._target]
        return target.as_optional() if schema.optional else target

    def new_schema(self, schema: Schema) -> Schema:
        fields = [
            (field.name, self._target_schema(field.schema) if field.name == self.config["field"] else field.schema)
            for field in schema.fields
        ]
        bare = Schema(Type.STRUCT, fields=fields, optional=schema.optional, **basics(schema))
        return (
            bare
            if schema.default is None
            else bare.replace(default=self.rebuilt(schema.default, bare, self._converted_field))
        )

    def _converted(self, form: str | None, value: Any) -> Any:
        if value is None:
            return None
        return self._written(self._moment(_inferred(value) if form is None else form, value))

    def _moment(self, form: str, value: Any) -> int:
        match form:
            case "string":
                if not isinstance(value, str):
                    raise DataError(f"TimestampConverter: a {type(value).__name__} is where a text should be")
                if self._format is None:
                    raise DataError("TimestampConverter cannot read a text without the pattern in format")
                return self._format.parse(value)
            case "unix":
                if not isinstance(value, int) or isinstance(value, bool):
                    raise DataError(f"TimestampConverter: a {type(value).__name__} is where an integer should be")
                return _scaled(value, 1000, _PRECISIONS[self.config["unix.precision"]])
        if isinstance(value, int):
            return value * DAY_MS if form == "Date" else value
        return epoch_ms(value)

    def _written(self, ms: int) -> Any:
        match self._target:
            case "string":
                assert self._format is not None
                return self._format.format(ms)
            case "unix":
                return _scaled(ms, _PRECISIONS[self.config["unix.precision"]], 1000)
            case "Date":
                return days_to_date(ms // DAY_MS)
            case "Time":
                return ms_to_time(ms % DAY_MS)
        return ms_to_timestamp(ms)


def _scaled(number: int, to: int, per: int) -> int:
    """Return a number of other units; parts are cut off towards zero, and too large ones are the largest."""
    if to >= per:
        return max(-_LONG_MAX - 1, min(_LONG_MAX, number * (to // per)))
    found = abs(number) // (per // to)
    return -found if number < 0 else found


#: What a schema says about its moments: the name of a logical type, or else the type.
_FORMS: dict[str | Type | None, str] = {
    TIMESTAMP_NAME: "Timestamp",
    DATE_NAME: "Date",
    TIME_NAME: "Time",
    Type.STRING: "string",
    Type.INT64: "unix",
}


def _form_of(schema: Schema) -> str:
    found = _FORMS.get(schema.name) or _FORMS.get(schema.type)
    if found is None:
        raise ConnectError(f"TimestampConverter: {schema!r} is no form of a timestamp")
    return found


def _inferred(value: Any) -> str:
    match value:
        case bool():
            pass
        case datetime.date() | datetime.time():
            return "Timestamp"
        case int():
            return "unix"
        case str():
            return "string"
    raise DataError(f"TimestampConverter: a {type(value).__name__} is no timestamp")
