"""What a batch of records does to tables: rows, deletions, columns that are missing.

Decides, and knows no database. A batch leaves one last row per key: rows of one key are put together, so that a column that
a later record leaves alone (an unchanged TOAST column of Debezium's) keeps what an earlier one said.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ottla.connect.errors import ConnectError, DataError
from ottla.connect.library import debezium
from ottla.connect.logical import LOGICAL_NAMES
from ottla.connect.records import SinkRecord
from ottla.connect.schema import BOOLEAN, BYTES, FLOAT64, INT32, INT64, STRING, Schema, Struct, Type

#: In the place of a column that was not sent because it had not changed, in a text and in bytes.
_NOT_SENT = (debezium.UNAVAILABLE, debezium.UNAVAILABLE.encode())
KAFKA_KEYS = ("__connect_topic", "__connect_partition", "__connect_offset")
_NO_COLUMN = (Type.ARRAY, Type.MAP, Type.STRUCT)
_INFERRED: tuple[tuple[type, Schema], ...] = (
    (bool, BOOLEAN),
    (int, INT64),
    (float, FLOAT64),
    (str, STRING),
    (bytes, BYTES),
)

#: How many schemas of values are remembered.
_SHAPES = 1000

#: Of a field that is None and has no schema: its column is written if it is there, and not made.
UNKNOWN = STRING.replace(optional=True, name="ottla.unknown")

Mode = Literal["insert", "upsert", "update"]
Part = tuple[str, int, Any, Callable[[Schema, Any], Any] | None, Schema]
KeyMode = Literal["none", "kafka", "record_key", "record_value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How records become rows: the sink's configuration.

    Attributes:
        key_fields: `pk.fields`.
        only: `fields.whitelist`; empty: all.
        shapes: what schemas of values mean under these rules, as far as it was asked; None: each record has to be looked at.
    """

    mode: Mode
    key_mode: KeyMode
    key_fields: tuple[str, ...] = ()
    delete: bool = False
    only: frozenset[str] = frozenset()
    shapes: dict[Schema, Shape | None] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The rows that structs of one schema make, if the key is of the value, of Kafka, or there is none.

    Attributes:
        key, values: name, place in the struct, default, and what makes a column's value of the struct's.
        schemas: of all columns.
    """

    key: tuple[Part, ...]
    values: tuple[Part, ...]
    schemas: Mapping[str, Schema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record as a row. `values` None: the row of that key is deleted.

    Attributes:
        parts: the rows that were put together to this one, in their order; empty: it is one record's.
    """

    record: SinkRecord
    key: Mapping[str, Any]
    values: Mapping[str, Any] | None
    schemas: Mapping[str, Schema]
    parts: tuple[Row, ...] = ()


@dataclass(slots=True)
class Step:
    """Rows that one statement writes: all have the same columns."""

    kind: Literal["insert", "upsert", "update", "delete"]
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def parameters(self) -> list[dict[str, Any]]:
        """Return the values of each row, by column."""
        return [{**row.key, **(row.values or {})} for row in self.rows]

    def tuples(self) -> Iterable[tuple[Any, ...]]:
        """Return the values of each row, in the order of the columns."""
        return ((*row.key.values(), *(row.values or {}).values()) for row in self.rows)


def row_of(record: SinkRecord, rules: Rules) -> Row:
    """Return the row that a record stands for.

    Raises:
        DataError: it stands for none under these rules.
    """
    if record.value.__class__ is Struct and (row := _usual_row(record, rules)) is not None:
        return row
    schemas: dict[str, Schema] = {}
    deleted, schema, value = _value_of(record)
    fields = None if deleted else _fields(schema, value, "value")
    key = _key_of(record, rules, fields, schemas)
    if deleted:
        if not rules.delete:
            raise DataError("the record deletes a row (its value is null), and delete.enabled is false")
        return Row(record=record, key=key, values=None, schemas=schemas)
    assert fields is not None
    values = {}
    for name, (its_schema, its_value) in fields.items():
        if name in key or (rules.only and name not in rules.only) or its_value in _NOT_SENT:
            continue
        _check(name, its_schema)
        values[name], schemas[name] = plain(its_schema, its_value), its_schema
    if not key and not values:
        raise DataError("the record has no fields that make a row")
    return Row(record=record, key=key, values=values, schemas=schemas)


def _usual_row(record: SinkRecord, rules: Rules) -> Row | None:
    """Return the row of a struct whose schema says all that there is to know; None: `row_of` looks at it."""
    struct: Struct = record.value
    try:
        shape = rules.shapes[struct.schema]
    except KeyError:
        shape = rules.shapes[struct.schema] = _shape(struct.schema, rules)
        if len(rules.shapes) > _SHAPES:
            del rules.shapes[next(iter(rules.shapes))]
    if shape is None:
        return None
    given = struct._values
    key: dict[str, Any] = {}
    if rules.key_mode == "kafka":
        key = dict(zip(rules.key_fields or KAFKA_KEYS, (record.topic, record.partition, record.offset), strict=True))
    for name, index, default, change, schema in shape.key:
        item = default if given[index] is None else given[index]
        if item is None:
            return None
        key[name] = item if change is None else change(schema, item)
    values: dict[str, Any] = {}
    for name, index, default, change, schema in shape.values:
        item = default if given[index] is None else given[index]
        if item not in _NOT_SENT:
            values[name] = item if change is None else change(schema, item)
    return Row(record=record, key=key, values=values, schemas=shape.schemas)


def _shape(schema: Schema, rules: Rules) -> Shape | None:
    names = {part.name for part in schema.fields}
    if {"before", "after", "op", "source"} <= names or rules.key_mode == "record_key":
        return None
    if any(part.schema.type in _NO_COLUMN for part in schema.fields):
        return None
    keys: tuple[str, ...] = ()
    if rules.key_mode == "record_value":
        keys = rules.key_fields or tuple(part.name for part in schema.fields)
    if not set(keys) <= names:
        return None

    def part_of(name: str) -> Part:
        part = schema.field(name)
        assert part is not None
        change = None if part.schema.name is None and part.schema.type is not Type.BYTES else plain
        return name, part.index, part.schema.default, change, part.schema

    taken = rules.key_fields or KAFKA_KEYS if rules.key_mode == "kafka" else keys
    rest = [
        part.name for part in schema.fields if part.name not in taken and (not rules.only or part.name in rules.only)
    ]
    if not taken and not rest:
        return None
    shape = Shape(key=tuple(map(part_of, keys)), values=tuple(map(part_of, rest)), schemas={})
    schemas = dict(zip(taken, (STRING, INT32, INT64), strict=True)) if rules.key_mode == "kafka" else {}
    return replace(shape, schemas=schemas | {part[0]: part[4] for part in (*shape.key, *shape.values)})


def _value_of(record: SinkRecord) -> tuple[bool, Schema | None, Any]:
    """Return whether a record deletes, else what its row is made of; of Debezium's envelope that is `after`."""
    schema, value = record.value_schema, record.value
    if value is None:
        return True, None, None
    if isinstance(value, Struct):
        schema, names = value.schema, {part.name for part in value.schema.fields}
    else:
        names = set(value) if isinstance(value, dict) else set()
    if {"before", "after", "op", "source"} <= names:
        after = value["after"]
        if value["op"] == "t":
            raise DataError("the record truncates a table, which a sink of rows does not do")
        return after is None, None, after
    return False, schema, value


def _fields(schema: Schema | None, value: Any, side: str) -> dict[str, tuple[Schema, Any]]:
    if isinstance(value, Struct):
        return {part.name: (part.schema, value[part.name]) for part in value.schema.fields}
    if isinstance(value, dict):
        found = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise DataError(f"the {side} is a map with the key {name!r}: columns have names")
            found[name] = (_inferred(name, item), item)
        return found
    kind = schema.type if schema is not None else type(value).__name__
    raise DataError(f"the {side} is a {kind}: a row is made of a struct or a map (HoistField makes one)")


def _inferred(name: str, value: Any) -> Schema:
    if value is None:
        return UNKNOWN
    for kind, schema in _INFERRED:
        if isinstance(value, kind):
            return schema.as_optional()
    raise DataError(f"the field {name} is a {type(value).__name__}, for which there is no column (Flatten)")


def _check(name: str, schema: Schema) -> None:
    if schema.type in _NO_COLUMN and schema.name not in LOGICAL_NAMES:
        raise DataError(f"the field {name} is a {schema.type}, for which there is no column (Flatten)")


def _key_of(
    record: SinkRecord, rules: Rules, value: Mapping[str, tuple[Schema, Any]] | None, schemas: dict[str, Schema]
) -> dict[str, Any]:
    match rules.key_mode:
        case "none":
            if value is None:
                raise DataError("the value is null")
            return {}
        case "kafka":
            if value is None:
                raise DataError("the value is null")
            names = rules.key_fields or KAFKA_KEYS
            schemas.update(zip(names, (STRING, INT32, INT64), strict=True))
            return dict(zip(names, (record.topic, record.partition, record.offset), strict=True))
        case "record_key":
            if record.key is None:
                raise DataError("the key is null, and pk.mode is record_key")
            if isinstance(record.key, Struct | dict):
                fields = _fields(record.key_schema, record.key, "key")
            else:
                if len(rules.key_fields) != 1:
                    raise DataError("the key is one value: pk.fields has to name its column")
                (name,) = rules.key_fields
                fields = {name: (record.key_schema or _inferred(name, record.key), record.key)}
            side = "key"
        case "record_value":
            if value is None:
                raise DataError("the value is null, and pk.mode is record_value")
            fields, side = dict(value), "value"
    key = {}
    for name in rules.key_fields or fields:
        if name not in fields or fields[name][1] is None:
            raise DataError(f"the {side} has no field {name}, which pk.fields names")
        _check(name, fields[name][0])
        key[name], schemas[name] = plain(fields[name][0], fields[name][1]), fields[name][0]
    return key


def plain(schema: Schema, value: Any) -> Any:
    """Return a value as drivers take it: moments in UTC, without a zone but for columns that have one.

    Raises:
        DataError: no driver takes it: infinity, a year after 9999.
    """
    if schema.name is not None and value is not None and schema.name.startswith(debezium.PREFIX):
        return debezium.as_python(schema.name, value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def steps_of(rows: Iterable[Row], mode: Mode) -> list[Step]:
    """Return what rows of one table make the database do, in order.

    With "insert" every row is one, in its order. Else the rows of a key since its last deletion are put together, and the
    order between keys is free: deletions come first, and rows with the same columns are written together.
    """
    if mode == "insert":
        steps: list[Step] = []
        for row in rows:
            kind: Any = "delete" if row.values is None else "insert"
            columns = tuple(row.key) if row.values is None else (*row.key, *row.values)
            if not steps or (steps[-1].kind, steps[-1].columns) != (kind, columns):
                steps.append(Step(kind, columns))
            steps[-1].rows.append(row)
        return steps
    last: dict[tuple[Any, ...], Row] = {}
    gone: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        identity = tuple(row.key.values())
        before = last.get(identity)
        if row.values is None:
            gone[identity] = row
            last.pop(identity, None)
            continue
        if before is not None:
            assert before.values is not None
            values, schemas = {**before.values, **row.values}, {**before.schemas, **row.schemas}
            parts = (*(before.parts or (before,)), row)
            row = Row(record=row.record, key=row.key, values=values, schemas=schemas, parts=parts)
        elif identity in gone and mode == "update":
            continue  # a row that is gone is not updated
        last[identity] = row
    groups: dict[tuple[str, tuple[str, ...]], Step] = {}
    for row in (*gone.values(), *last.values()):
        kind = "delete" if row.values is None else mode
        columns = tuple(row.key) if row.values is None else (*row.key, *row.values)
        groups.setdefault((kind, columns), Step(kind, columns)).rows.append(row)
    return sorted(groups.values(), key=lambda step: step.kind != "delete")


def columns_of(rows: Iterable[Row]) -> dict[str, tuple[Schema, bool]]:
    """Return the columns that rows have, in order: the schema, and whether it is of the key."""
    found: dict[str, tuple[Schema, bool]] = {}
    whole: Mapping[str, Schema] | None = None
    for row in rows:
        if row.schemas is whole:
            continue
        if len(row.key) + len(row.values or ()) == len(row.schemas):
            whole = row.schemas  # further rows of them have no other columns
        for name in (*row.key, *(row.values or ())):
            if row.schemas[name] is UNKNOWN:
                continue
            found.setdefault(name, (row.schemas[name], name in row.key))
    return found


def without_unknown(row: Row, there: Collection[str]) -> Row:
    """Return a row without the fields whose type is not known and that the table has no column for."""
    if row.values is None or all(name in there for name in row.values):
        return row
    kept = {name: value for name, value in row.values.items() if name in there or row.schemas[name] is not UNKNOWN}
    return Row(record=row.record, key=row.key, values=kept, schemas=row.schemas)


def missing(
    table: str, there: Sequence[str], wanted: Mapping[str, tuple[Schema, bool]], *, evolve: bool
) -> dict[str, Schema]:
    """Return the columns to add to a table.

    Raises:
        ConnectError: columns are missing that may not be added.
    """
    lacking = {name: found for name, found in wanted.items() if name not in there}
    if not lacking:
        return {}
    names = ", ".join(lacking)
    if not evolve:
        raise ConnectError(
            f"Table {table} has no column {names}; auto.evolve=true adds columns, fields.whitelist leaves some out"
        )
    fixed = [
        name
        for name, (schema, is_key) in lacking.items()
        if is_key or not (schema.optional or schema.default is not None)
    ]
    if fixed:
        raise ConnectError(
            f"Table {table} has no column {', '.join(fixed)}, which cannot be added: rows that are there would have none "
            "(a field that is optional, or has a default, can)"
        )
    return {name: schema for name, (schema, _) in lacking.items()}
