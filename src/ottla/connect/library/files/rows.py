"""Bytes of files: records as Parquet in columns, as lines of JSON, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ottla.connect.converters.json_converter import JsonConverter
from ottla.connect.errors import ConnectError, DataError
from ottla.connect.library.files.plan import widened
from ottla.connect.logical import scale_of
from ottla.connect.records import SinkRecord
from ottla.connect.schema import DATE_NAME, DECIMAL_NAME, TIME_NAME, TIMESTAMP_NAME, Schema, Struct, Type

Format = Literal["parquet", "jsonl", "csv"]
_PLAIN = {
    Type.INT8: pa.int8(),
    Type.INT16: pa.int16(),
    Type.INT32: pa.int32(),
    Type.INT64: pa.int64(),
    Type.FLOAT32: pa.float32(),
    Type.FLOAT64: pa.float64(),
    Type.BOOLEAN: pa.bool_(),
    Type.STRING: pa.string(),
    Type.BYTES: pa.binary(),
}
_JSON = JsonConverter({"schemas.enable": "false", "decimal.format": "NUMERIC"})


def check(record: SinkRecord, form: Format) -> None:
    """Raise if a record cannot be part of a file of that format.

    Raises:
        DataError: it cannot.
    """
    if form == "jsonl":
        _JSON.from_connect(record.topic, record.value_schema, record.value)
        return
    if not isinstance(record.value, Struct | dict):
        raise DataError(
            f"the value is a {type(record.value).__name__}: columns are made of a struct or a map (HoistField)"
        )
    if isinstance(record.value, dict) and not all(isinstance(name, str) for name in record.value):
        raise DataError("the value is a map whose keys are no names of columns")
    if form == "csv":
        for name, item in _items(record.value):
            if isinstance(item, Struct | dict | list):
                raise DataError(
                    f"the field {name} is a {type(item).__name__}, which is no column of a CSV file (Flatten)"
                )


def to_bytes(records: Sequence[SinkRecord], form: Format) -> bytes:
    """Return a file.

    Raises:
        ConnectError: values without a schema have no columns in common.
    """
    match form:
        case "jsonl":
            lines = [_JSON.from_connect(record.topic, record.value_schema, record.value) for record in records]
            return b"".join((line or b"null") + b"\n" for line in lines)
        case "csv":
            return _csv(records)
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(_table(records), sink, compression="zstd")
            return sink.getvalue()


def _items(value: Any) -> Any:
    return value.items()


def _csv(records: Sequence[SinkRecord]) -> bytes:
    names = list(dict.fromkeys(name for record in records for name, _ in _items(record.value)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        row = dict(_items(record.value))
        writer.writerow([_text(row.get(name)) for name in names])
    return out.getvalue().encode()


def _text(value: Any) -> Any:
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.hex()
        case _ if hasattr(value, "isoformat"):
            return value.isoformat()
    return value


def _table(records: Sequence[SinkRecord]) -> pa.Table:
    if any(not isinstance(record.value, Struct) for record in records):
        try:
            return pa.Table.from_pylist(_with_all_names([dict(_items(record.value)) for record in records]))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ConnectError(
                f"Values without a schema from offset {records[0].offset} on make no columns: {error}. jsonl takes them"
            ) from error
    schema = records[0].value.schema
    for record in records:
        if record.value.schema is not schema:
            wider = widened(schema, record.value.schema)
            assert wider is not None  # else the range had been closed
            schema = wider
    columns: dict[str, list[Any]] = {part.name: [] for part in schema.fields}
    known: dict[int, list[str]] = {}
    for record in records:
        value: Struct = record.value
        names = known.setdefault(id(value.schema), [part.name for part in value.schema.fields])
        found = dict(zip(names, (value[name] for name in names), strict=True))
        for name, column in columns.items():
            column.append(found.get(name))
    fields = [pa.field(part.name, arrow_type(part.schema), nullable=part.schema.optional) for part in schema.fields]
    arrays = [
        pa.array([_arrow_value(part.schema, item) for item in columns[part.name]], type=field.type)
        for part, field in zip(schema.fields, fields, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _with_all_names(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def arrow_type(schema: Schema) -> pa.DataType:
    """Return the type of a column."""
    match schema.name:
        case n if n == DECIMAL_NAME:
            return pa.decimal128(38, scale_of(schema))
        case n if n == DATE_NAME:
            return pa.date32()
        case n if n == TIME_NAME:
            return pa.time32("ms")
        case n if n == TIMESTAMP_NAME:
            return pa.timestamp("ms", tz="UTC")
    match schema.type:
        case Type.ARRAY:
            assert schema.values is not None
            return pa.list_(arrow_type(schema.values))
        case Type.MAP:
            assert schema.keys is not None
            assert schema.values is not None
            return pa.map_(arrow_type(schema.keys), arrow_type(schema.values))
        case Type.STRUCT:
            return pa.struct([pa.field(part.name, arrow_type(part.schema)) for part in schema.fields])
    return _PLAIN[schema.type]


def _arrow_value(schema: Schema, value: Any) -> Any:
    match schema.type:
        case Type.STRUCT if isinstance(value, Struct):
            mine = {part.name for part in value.schema.fields}
            return {
                part.name: _arrow_value(part.schema, value[part.name] if part.name in mine else None)
                for part in schema.fields
            }
        case Type.ARRAY if value is not None:
            assert schema.values is not None
            return [_arrow_value(schema.values, item) for item in value]
        case Type.MAP if value is not None:
            assert schema.values is not None
            return [(key, _arrow_value(schema.values, item)) for key, item in value.items()]
    return value
