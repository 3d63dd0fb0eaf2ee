"""Transforms that add, take, rename and move the fields of a key or a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ottla.connect.config_def import (
    NOT_EMPTY_LIST,
    SOME_NAMES,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    check,
    one_of,
)
from ottla.connect.errors import DataError
from ottla.connect.java_map import HashMap, hash_map
from ottla.connect.logical import TIMESTAMP, ms_to_timestamp
from ottla.connect.records import Header, Record, SinkRecord
from ottla.connect.schema import INT32, INT64, STRING, Schema, Struct, Type, schema_type
from ottla.connect.transforms.base import REPLACE_NULL, Side, SidedTransform, Transform, basics
from ottla.connect.transforms.paths import SYNTAX, FieldPath


class _Insertion(NamedTuple):
    name: str
    optional: bool

    @classmethod
    def read(cls, text: str | None) -> _Insertion | None:
        if text is None:
            return None
        return cls(text[:-1], text[-1] == "?") if text[-1:] in ("?", "!") else cls(text, True)

    def schema(self, kind: Schema) -> Schema:
        return kind.as_optional() if self.optional else kind


class _Origin(NamedTuple):
    """What a field is filled from: its schema, and how a record gives it; None if it has none."""

    schema: Schema
    of: Callable[[Record], Any]


def _offset(record: Record) -> int:
    if not isinstance(record, SinkRecord):
        raise DataError("InsertField: a record of a source has no offset yet")
    return record.offset


#: In the order of the fields. The static text is the transform's own.
_ORIGINS = {
    "topic": _Origin(STRING, lambda record: record.topic),
    "partition": _Origin(INT32, lambda record: record.partition),
    "offset": _Origin(INT64, _offset),
    "timestamp": _Origin(TIMESTAMP, lambda record: record.timestamp),
    "static": _Origin(STRING, lambda record: None),
}


class InsertField(SidedTransform):
    """Adds the topic, the partition, the offset, the time or a fixed text as fields."""

    CONFIG = ConfigDef(
        ConfigKey(name="topic.field", default=None, documentation="Field for the topic. NAME! makes it required."),
        ConfigKey(
            name="partition.field", default=None, documentation="Field for the partition. NAME! makes it required."
        ),
        ConfigKey(name="offset.field", default=None, documentation="Field for the offset, of sinks only."),
        ConfigKey(name="timestamp.field", default=None, documentation="Field for the record's time."),
        ConfigKey(name="static.field", default=None, documentation="Field for the text in static.value."),
        ConfigKey(name="static.value", default=None, documentation="What static.field gets."),
        REPLACE_NULL,
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        named = {origin: _Insertion.read(self.config[f"{origin}.field"]) for origin in _ORIGINS}
        self._insertions = {origin: insertion for origin, insertion in named.items() if insertion is not None}
        self._text = self.config["static.value"]
        if not self._insertions:
            raise ConfigError("No field insertion configured")
        static = self._insertions.get("static")
        if static is not None and self._text is None:
            raise ConfigError.of("static.value", None, f"No value specified for static field: {static.name}")

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if value is None:
            return record
        if schema is None:
            made = HashMap(self.need_map(value))
            for name, item in self._inserted(record, False):
                made[name] = item
            return self.changed(record, None, made.as_dict())
        struct = self.need_struct(value)
        updated = self.updated(struct.schema)
        changed = self.rebuilt(struct, updated)
        for name, item in self._inserted(record, True):
            changed[name] = item
        return self.changed(record, updated, changed)

    def _inserted(self, record: Record, with_schema: bool) -> Iterator[tuple[str, Any]]:
        for origin, insertion in self._insertions.items():
            item = self._text if origin == "static" else _ORIGINS[origin].of(record)
            if item is not None:
                yield insertion.name, ms_to_timestamp(item) if with_schema and origin == "timestamp" else item

    def new_schema(self, schema: Schema) -> Schema:
        fields = [(field.name, field.schema) for field in schema.fields]
        fields += [(found.name, found.schema(_ORIGINS[origin].schema)) for origin, found in self._insertions.items()]
        return Schema(Type.STRUCT, fields=fields, **basics(schema))


def _renames(mappings: list[str]) -> dict[str, str]:
    found = {}
    for mapping in mappings:
        parts = split_java(mapping)
        if len(parts) != 2:
            raise ConfigError.of("renames", mappings, f"Invalid rename mapping: {mapping}")
        found[parts[0]] = parts[1]
    return found


def _valid_renames(name: str, value: list[str]) -> None:
    _renames(value)


def split_java(mapping: str) -> list[str]:
    """Split at colons as `String.split` does: empty parts at the end do not count."""
    parts = mapping.split(":")
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts


#: What a list of renames or casts looks like, for people.
PAIRS = "list of colon-delimited pairs, e.g. <code>foo:bar,abc:xyz</code>"


class ReplaceField(SidedTransform):
    """Leaves out fields, or renames them."""

    CONFIG = ConfigDef(
        ConfigKey(name="exclude", type=ConfigType.LIST, default="", documentation="Fields to leave out, included or not."),
        ConfigKey(name="include", type=ConfigType.LIST, default="", documentation="If given, only these fields are kept."),
        ConfigKey(
            name="renames",
            type=ConfigType.LIST,
            default="",
            validator=check(_valid_renames, PAIRS),
            documentation="Renames: OLD:NEW,...",
        ),
        REPLACE_NULL,
    )  # fmt: skip

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._exclude = set(self.config["exclude"])
        self._include = set(self.config["include"])
        self._renames = _renames(self.config["renames"])
        self._back = {new: old for old, new in hash_map(self._renames.items()).items()}

    def _kept(self, name: Any) -> bool:
        return name not in self._exclude and (not self._include or name in self._include)

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if value is None:
            return record
        if schema is None:
            given = self.need_map(value)
            made = HashMap(expected=len(given))
            for name, item in given.items():
                if self._kept(name):
                    made[self._renames.get(name, name)] = item
            return self.changed(record, None, made.as_dict())
        struct = self.need_struct(value)
        updated = self.updated(struct.schema)
        changed = Struct(updated)
        for field in updated.fields:
            changed[field.name] = struct.get(self._back.get(field.name, field.name), with_default=self.with_default)
        return self.changed(record, updated, changed)

    def new_schema(self, schema: Schema) -> Schema:
        fields = [
            (self._renames.get(field.name, field.name), field.schema)
            for field in schema.fields
            if self._kept(field.name)
        ]
        return Schema(Type.STRUCT, fields=fields, **basics(schema))


class ExtractField(SidedTransform):
    """Puts one field in the place of the whole key or value."""

    CONFIG = ConfigDef(ConfigKey(name="field", documentation="The field to extract."), REPLACE_NULL, SYNTAX)

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._path = FieldPath(self.config["field"], self.config["field.syntax.version"])

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if schema is None:
            return self.changed(record, None, None if value is None else self._path.in_map(self.need_map(value)))
        struct = None if value is None else self.need_struct(value)
        field = self._path.field(schema)
        if field is None:
            raise DataError(f"ExtractField: the schema has no field {self.config['field']}")
        found = None if struct is None else self._path.in_struct(struct, with_default=self.with_default)
        return self.changed(record, field.schema, found)


class HoistField(SidedTransform):
    """Wraps the whole key or value into a struct or map with one field."""

    CONFIG = ConfigDef(ConfigKey(name="field", documentation="The name of the one field."))

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        name = self.config["field"]
        if schema is None:
            return self.changed(record, None, {name: value})
        updated = self.updated(schema)
        return self.changed(record, updated, Struct(updated, {name: value}))

    def new_schema(self, schema: Schema) -> Schema:
        return Schema.struct({self.config["field"]: schema})


class Flatten(SidedTransform):
    """Makes one level of nested structs or maps; names are joined by a delimiter."""

    CONFIG = ConfigDef(ConfigKey(name="delimiter", default=".", documentation="What joins the names."))

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if value is None:
            return record
        if schema is None:
            return self.changed(record, None, dict(self._leaves(self.need_map(value).items(), _in_map)))
        struct = self.need_struct(value)
        updated = self.updated(schema)
        return self.changed(record, updated, Struct(updated, dict(self._leaves(_items(struct), _in_struct))))

    def new_schema(self, schema: Schema) -> Schema:
        root = _Node(schema, schema.optional, schema.default)
        leaves = self._leaves(root.children(), _in_schema)
        fields = [(name, leaf.schema.replace(optional=leaf.optional, default=leaf.default)) for name, leaf in leaves]
        return Schema(Type.STRUCT, fields=fields, **basics(schema))

    def _leaves(
        self,
        items: Iterable[tuple[str, Any]],
        inside: Callable[[str, Any], Iterable[tuple[str, Any]] | None],
        prefix: str = "",
    ) -> Iterator[tuple[str, Any]]:
        """Give the leaves of a tree of maps, structs or schemas, each with its joined name.

        Args:
            items: what is on one level, by name.
            inside: (joined name, item) -> what is below an item; None: it is a leaf.
        """
        for last, item in items:
            name = f"{prefix}{last}" if prefix else last
            below = inside(name, item)
            if below is None:
                yield name, item
            else:
                yield from self._leaves(below, inside, f"{name}{self.config['delimiter']}" if name else "")


def _in_map(name: str, item: Any) -> Iterable[tuple[str, Any]] | None:
    if isinstance(item, dict):
        return item.items()
    if item is None or schema_type(item) not in (None, Type.STRUCT):
        return None
    raise DataError(f"Flatten: {name} is a {type(item).__name__}, which a record without a schema cannot hold")


def _items(struct: Struct) -> Iterator[tuple[str, Any]]:
    """Give what fields hold, without structs that are not there."""
    for field in struct.schema.fields:
        if field.schema.type is not Type.STRUCT:
            yield field.name, struct[field.name]
        elif (inside := struct.without_default(field.name)) is not None:
            yield field.name, inside


def _in_struct(name: str, item: Any) -> Iterable[tuple[str, Any]] | None:
    return _items(item) if isinstance(item, Struct) else None


class _Node(NamedTuple):
    """A schema below others: it is optional if one of them is, and has its place in their default if it has none itself."""

    schema: Schema
    optional: bool
    default: Any

    def children(self) -> Iterator[tuple[str, _Node]]:
        for field in self.schema.fields:
            name, schema = field.name, field.schema
            default = self.default[name] if schema.default is None and self.default is not None else schema.default
            yield name, _Node(schema, self.optional or schema.optional, default)


def _in_schema(name: str, node: _Node) -> Iterable[tuple[str, _Node]] | None:
    if node.schema.type is Type.MAP:
        raise DataError(f"Flatten: {name} is a MAP, and a schema does not say which keys it has")
    return node.children() if node.schema.type is Type.STRUCT else None


class HeaderFrom(SidedTransform):
    """Copies or moves fields into headers."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="fields",
            type=ConfigType.LIST,
            validator=NOT_EMPTY_LIST,
            importance=Importance.HIGH,
            documentation="The fields.",
        ),
        ConfigKey(
            name="headers",
            type=ConfigType.LIST,
            validator=NOT_EMPTY_LIST,
            importance=Importance.HIGH,
            documentation="Names of the headers, in the order of the fields.",
        ),
        ConfigKey(
            name="operation",
            validator=one_of("move", "copy"),
            importance=Importance.HIGH,
            documentation="move: the fields are no longer in the key or value; copy: they are.",
        ),
        REPLACE_NULL,
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._fields: list[str] = self.config["fields"]
        self._headers: list[str] = self.config["headers"]
        self._move = self.config["operation"] == "move"
        if len(self._fields) != len(self._headers):
            raise ConfigError("'fields' config must have the same number of elements as 'headers' config.")

    def apply(self, record: Record) -> Record | None:
        schema, value = self.operating(record)
        if schema is None:
            given = self.need_map(value)
            made = HashMap(given)
            added = []
            for field, header in zip(self._fields, self._headers, strict=True):
                if self._move:
                    made.pop(field)
                added.append(Header(header, None, given.get(field)))
            return self.changed(record, None, made.as_dict(), headers=(*record.headers, *added))
        struct = self.need_struct(value)
        updated, changed = schema, struct
        if self._move:
            updated = self.updated(schema)
            changed = Struct(updated)
            for kept in updated.fields:
                changed[kept.name] = struct.get(kept.name, with_default=self.with_default)
        added = []
        for name, header in zip(self._fields, self._headers, strict=True):
            found = schema.field(name)
            if found is None:
                raise DataError(f"HeaderFrom: the schema has no field {name}")
            added.append(Header(header, found.schema, struct.get(name, with_default=self.with_default)))
        return self.changed(record, updated, changed, headers=(*record.headers, *added))

    def new_schema(self, schema: Schema) -> Schema:
        fields = [(field.name, field.schema) for field in schema.fields if field.name not in self._fields]
        return Schema(Type.STRUCT, fields=fields, **basics(schema))


class ValueToKey(Transform):
    """Makes a key of some fields of the value."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="fields",
            type=ConfigType.LIST,
            validator=SOME_NAMES,
            importance=Importance.HIGH,
            documentation="Fields of the value.",
        ),
        REPLACE_NULL,
    )

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self._maker = _ValueToKey(self.config["fields"])

    def apply(self, record: Record) -> Record | None:
        fields: list[str] = self.config["fields"]
        if record.value_schema is None:
            given = self._maker.need_map(record.value)
            made = HashMap(expected=len(fields))
            for name in fields:
                made[name] = given.get(name)
            return record.replace(key_schema=None, key=made.as_dict())
        struct = self._maker.need_struct(record.value)
        schema = self._maker.updated(struct.schema)
        with_default = self.config["replace.null.with.default"]
        key = Struct(schema, {name: struct.get(name, with_default=with_default) for name in fields})
        return record.replace(key_schema=schema, key=key, value_schema=struct.schema)


class _ValueToKey(SidedTransform):
    """Makes schemas of keys, and remembers a few."""

    def __init__(self, fields: list[str]) -> None:
        super().__init__()
        self._fields = fields

    def new_schema(self, schema: Schema) -> Schema:
        for name in self._fields:
            if schema.field(name) is None:
                raise DataError(f"ValueToKey: the schema has no field {name}")
        return Schema.struct([(name, schema._by_name[name].schema) for name in self._fields])
