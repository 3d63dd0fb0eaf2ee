"""Rows of a Parquet file as structs: by groups of rows, so that a file may be larger than memory."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ottla.connect.library.directory.places import COMPARED, Place, UnreadableFileError, digest
from ottla.connect.logical import DATE, TIME, TIMESTAMP, decimal_schema
from ottla.connect.schema import (
    BOOLEAN,
    BYTES,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    Schema,
    Struct,
    Type,
)

_MAGIC = b"PAR1"
_SMALLEST = 12
_PLAIN: list[tuple[Any, Schema]] = [
    (pa.types.is_boolean, BOOLEAN),
    (pa.types.is_int8, INT8),
    (lambda kind: pa.types.is_int16(kind) or pa.types.is_uint8(kind), INT16),
    (lambda kind: pa.types.is_int32(kind) or pa.types.is_uint16(kind), INT32),
    (lambda kind: pa.types.is_int64(kind) or pa.types.is_uint32(kind), INT64),
    (lambda kind: pa.types.is_float16(kind) or pa.types.is_float32(kind), FLOAT32),
    (pa.types.is_float64, FLOAT64),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind), STRING),
    (
        lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind),
        BYTES,
    ),
    (pa.types.is_date, DATE),
    (pa.types.is_time, TIME),
    (pa.types.is_timestamp, TIMESTAMP),
]


def is_whole(file: IO[bytes], size: int) -> bool:
    """Whether a file has its footer: it is written last."""
    if size < _SMALLEST:
        return False
    file.seek(0)
    begin = file.read(4)
    file.seek(size - 4)
    return begin == _MAGIC and file.read(4) == _MAGIC


class ParquetRows:
    """Rows of an open file, from a place on.

    Raises:
        UnreadableFileError: it is no Parquet, or has columns of types that Connect does not have.
    """

    def __init__(self, file: IO[bytes], place: Place, size: int, batch: int) -> None:
        file.seek(0)
        head = file.read(COMPARED)
        file.seek(max(0, size - COMPARED))
        self._known = Place(head=digest(head), head_size=len(head), tail=digest(file.read(COMPARED)))
        try:
            self._file = pq.ParquetFile(file)
            kind = self._file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise UnreadableFileError(f"this is no Parquet: {error}") from error
        self._schema = Schema.struct({field.name: schema_of(field.type, field.name) for field in kind})
        self._read_as = pa.schema([pa.field(field.name, _readable(field.type)) for field in kind])
        self.position = place.position
        self.count: int = self._file.metadata.num_rows
        self._rows = self._from(place.position, batch)

    def next(self) -> tuple[Schema | None, Any] | None:
        """Return the next row; None: that was the last.

        Raises:
            DataError: it has a value that Connect does not have; we stand behind it.
            UnreadableFileError: it is damaged.
        """
        try:
            row = next(self._rows, None)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise UnreadableFileError(f"the rows from {self.position} on cannot be read: {error}") from error
        if row is None:
            return None
        self.position += 1
        return self._schema, value_of(self._schema, row)

    def place(self) -> Place:
        """Return the place behind the last row."""
        return replace(self._known, position=self.position)

    def _from(self, position: int, batch: int) -> Iterator[dict[str, Any]]:
        """Return rows from a place on; groups before it are not read."""
        before = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            skipped = max(0, position - before)
            before += count
            if skipped >= count:
                continue
            for part in self._file.iter_batches(batch_size=batch, row_groups=[group]):
                if skipped >= part.num_rows:
                    skipped -= part.num_rows
                    continue
                rows = pa.Table.from_batches([part.slice(skipped)]).cast(self._read_as, safe=False)
                skipped = 0
                yield from rows.to_pylist()


def schema_of(kind: pa.DataType, name: str) -> Schema:
    """Return the schema of a column; all may be null.

    Raises:
        UnreadableFileError: Connect has no such type.
    """
    for is_kind, schema in _PLAIN:
        if is_kind(kind):
            return schema.as_optional()
    if pa.types.is_decimal(kind):
        return decimal_schema(kind.scale, optional=True)
    if pa.types.is_uint64(kind):
        return decimal_schema(0, optional=True)
    if pa.types.is_dictionary(kind):
        return schema_of(kind.value_type, name)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return Schema(Type.ARRAY, values=schema_of(kind.value_type, name), optional=True)
    if pa.types.is_map(kind):
        keys = schema_of(kind.key_type, name)
        return Schema(Type.MAP, keys=keys, values=schema_of(kind.item_type, name), optional=True)
    if pa.types.is_struct(kind):
        fields = {field.name: schema_of(field.type, f"{name}.{field.name}") for field in kind}
        return Schema(Type.STRUCT, fields=fields, optional=True)
    raise UnreadableFileError(f"the column {name} is a {kind}, which Connect does not have")


def _readable(kind: pa.DataType) -> pa.DataType:
    """Return the type as which Python gets values: microseconds, in UTC where there is a zone, and no dictionaries."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz is not None else None)
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_dictionary(kind):
        return _readable(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_readable(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, _readable(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _readable(field.type)) for field in kind])
    return kind


def value_of(schema: Schema, value: Any) -> Any:
    """Return a value of pyarrow's as Connect has it.

    Raises:
        DataError: it does not fit.
    """
    if value is None:
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=datetime.UTC)
    match schema.type:
        case Type.STRUCT:
            return Struct(schema, {field.name: value_of(field.schema, value[field.name]) for field in schema.fields})
        case Type.ARRAY:
            assert schema.values is not None
            return [value_of(schema.values, item) for item in value]
        case Type.MAP:
            assert schema.keys is not None
            assert schema.values is not None
            return {value_of(schema.keys, key): value_of(schema.values, item) for key, item in value}
    return value
