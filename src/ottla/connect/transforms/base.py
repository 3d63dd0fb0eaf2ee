"""What transforms and predicates are, and what those that work on keys or values share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from ottla.connect.config_def import ConfigDef, ConfigKey, ConfigType
from ottla.connect.errors import DataError
from ottla.connect.java_map import HashMap
from ottla.connect.records import Record
from ottla.connect.schema import Field, Schema, Struct

Side = Literal["key", "value"]


class Transform:
    """Changes records. Subclasses are plugins (entry points `ottla.transforms`).

    Args:
        config: the keys below `transforms.<name>.`, without that prefix.
        side: what of a record it works on, where it works on one of both: Java's `$Key` and `$Value`.
    """

    CONFIG: ClassVar[ConfigDef] = ConfigDef()
    SIDED: ClassVar[bool] = False

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        self.config = self.CONFIG.parse(config or {})
        self.side: Side = side

    def apply(self, record: Record) -> Record | None:
        """Return the record that takes the place of this one; None drops it.

        Raises:
            DataError: the record is none that this works on.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was opened."""


class Predicate:
    """Says about which records a transform applies."""

    CONFIG: ClassVar[ConfigDef] = ConfigDef()

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = self.CONFIG.parse(config or {})

    def test(self, record: Record) -> bool:
        """Whether the transform applies to the record."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was opened."""


REPLACE_NULL = ConfigKey(
    name="replace.null.with.default",
    type=ConfigType.BOOLEAN,
    default=True,
    documentation="Whether a field that is null and has a default is taken as the default; else it stays null.",
)


class SidedTransform(Transform):
    """A transform of the key or of the value."""

    SIDED = True
    CACHED: ClassVar[int] = 16

    def __init__(self, config: Mapping[str, Any] | None = None, side: Side = "value") -> None:
        super().__init__(config, side)
        self.with_default: bool = self.config.get("replace.null.with.default", True)
        self._schemas: dict[Schema, Schema] = {}

    @property
    def called(self) -> str:
        """What errors call this transform."""
        return type(self).__name__.lstrip("_")

    def operating(self, record: Record) -> tuple[Schema | None, Any]:
        """Return the schema and the value of the side."""
        return (record.key_schema, record.key) if self.side == "key" else (record.value_schema, record.value)

    def changed(self, record: Record, schema: Schema | None, value: Any, **more: Any) -> Record:
        """Return the record with another schema and value on this side."""
        return record.replace(**{f"{self.side}_schema": schema, self.side: value}, **more)

    def updated(self, schema: Schema) -> Schema:
        """Return what `new_schema` makes of a schema; a few are remembered."""
        found = self._schemas.get(schema)
        if found is None:
            found = self.new_schema(schema)
            if len(self._schemas) >= self.CACHED:
                del self._schemas[next(iter(self._schemas))]
            self._schemas[schema] = found
        return found

    def new_schema(self, schema: Schema) -> Schema:
        """Return the schema of what becomes of values of a schema."""
        raise NotImplementedError

    def rebuilt(self, struct: Struct, schema: Schema, changes: Callable[[Field, Any], Any] | None = None) -> Struct:
        """Return the fields of a struct in one of another schema, each as `changes` gives it back."""
        made = Struct(schema)
        for field in struct.schema.fields:
            item = struct.get(field.name, with_default=self.with_default)
            made[field.name] = item if changes is None else changes(field, item)
        return made

    @staticmethod
    def remade(given: dict[Any, Any], names: Iterable[str], change: Callable[[str, Any], Any]) -> dict[Any, Any]:
        """Return a map with some entries changed, in the order of Java's map; what is not there is changed as None."""
        made = HashMap(given)
        for name in names:
            made[name] = change(name, given.get(name))
        return made.as_dict()

    def need_map(self, value: Any) -> dict[Any, Any]:
        """Return a value that has to be a dict."""
        if not isinstance(value, dict):
            raise DataError(f"{self.called}: without a schema this needs a map, and gets {_class_name(value)}")
        return value

    def need_struct(self, value: Any) -> Struct:
        """Return a value that has to be a struct."""
        if not isinstance(value, Struct):
            raise DataError(f"{self.called}: this needs a struct, and gets {_class_name(value)}")
        return value


def _class_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def basics(schema: Schema) -> dict[str, Any]:
    """Return what a changed schema keeps: name, version, doc, parameters; not whether it is optional, no default."""
    return {name: getattr(schema, name) for name in ("name", "version", "doc", "parameters")}
