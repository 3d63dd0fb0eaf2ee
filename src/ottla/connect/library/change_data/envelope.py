"""Records of changes, in Debezium's envelope: before, after, where it comes from, and what was done.

No I/O. A record's key has the columns of the table's key. A row whose key changes is deleted and made anew; behind a
deletion stands a record without a value, so that a compacted topic forgets the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ottla.connect.errors import ConnectError
from ottla.connect.library.change_data.columns import Decimals, Reader, Times, placeholder_of, schema_of
from ottla.connect.library.change_data.pgoutput import UNCHANGED, Cell, Change, Relation
from ottla.connect.records import SourceRecord
from ottla.connect.schema import INT64, OPTIONAL_INT64, OPTIONAL_STRING, STRING, Schema, Struct


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rows become records: the connector's configuration."""

    prefix: str
    database: str
    version: str
    decimals: Decimals
    times: Times
    placeholder: str
    tombstones: bool


class Origin(NamedTuple):
    """Where a change comes from. `at_ms`: when it was committed; `now_ms`: when it was read."""

    lsn: int
    xid: int | None
    at_ms: int
    now_ms: int
    in_snapshot: bool = False


def topic_of(prefix: str, table: str) -> str:
    """Return the topic of a table: what a topic's name cannot have becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{prefix}.{table}")


class Missing(NamedTuple):
    """Values that a row of a new key lacks: the names of their columns, and that key, by the texts of its values."""

    columns: tuple[str, ...]
    key: Mapping[str, str]


class Shape:
    """The records of one table, as it is now.

    Args:
        keys: the names of the primary key's columns, in order; empty: there is none, and records have no keys.
    """

    def __init__(self, relation: Relation, keys: Sequence[str], rules: Rules) -> None:
        self.relation = relation
        self._rules = rules
        self.name = f"{relation.schema}.{relation.table}"
        self.topic = topic_of(rules.prefix, self.name)
        self._readers: list[Reader] = []
        fields: list[tuple[str, Schema]] = []
        for column in relation.columns:
            schema, reader = schema_of(column.kind, column.modifier, decimals=rules.decimals, times=rules.times)
            # What is NOT NULL today may not have been, or not stay so; and of a deleted row there is mostly the key alone.
            fields.append((column.name, schema if column.name in keys else schema.as_optional()))
            self._readers.append(reader)
        places = {column.name: number for number, column in enumerate(relation.columns)}
        self._keys = [(name, places[name]) for name in keys if name in places]
        by_name = dict(fields)
        key_fields = [(name, by_name[name]) for name, _ in self._keys]
        self.key_schema = Schema.struct(key_fields, name=f"{self.topic}.Key") if self._keys else None
        row = Schema.struct(fields, name=f"{self.topic}.Value", optional=True)
        self._row = row
        self._source = _SOURCE
        self._envelope = Schema.struct(
            {
                "before": row,
                "after": row,
                "source": self._source,
                "op": STRING,
                "ts_ms": OPTIONAL_INT64,
            },
            name=f"{self.topic}.Envelope",
        )

    def read(self, cells: Sequence[str | None], origin: Origin) -> SourceRecord:
        """Return the record of a row that is there, by its texts (op r)."""
        after = self._struct([None if text is None else self._value(at, text) for at, text in enumerate(cells)])
        return self._record("r", None, after, self._key(after), origin)

    def records(self, change: Change, origin: Origin) -> list[SourceRecord]:
        """Return the records of a change, in order.

        Raises:
            ConnectError: a value cannot be what the schema says.
        """
        if change.op == "c":
            assert change.new is not None
            after = self._struct(self._values(change.new))
            return [self._record("c", None, after, self._key(after), origin)]
        if change.op == "d":
            assert change.old is not None
            before = self._struct(self._values(change.old, key_only=change.has_key_only))
            return self._deletion(before, origin)
        after = self._struct(self._values(_completed(change)))
        key = self._key(after)
        if change.old is None:
            return [self._record("u", None, after, key, origin)]
        before = self._struct(self._values(change.old, key_only=change.has_key_only))
        if key is not None and self._key(before) != key:
            return [*self._deletion(before, origin), self._record("c", None, after, key, origin)]
        return [self._record("u", before, after, key, origin)]

    def missing(self, change: Change) -> Missing | None:
        """Return what a row whose key has changed lacks: nobody who follows the new key has had it.

        None: it has all, or its key is the old one.
        """
        if not self._keys or change.op != "u" or change.old is None or change.new is None:
            return None
        cells = _completed(change)
        if UNCHANGED not in cells or all(cells[at] == change.old[at] for _, at in self._keys):
            return None
        key = {name: cells[at] for name, at in self._keys}
        columns = tuple(
            column.name for column, cell in zip(self.relation.columns, cells, strict=True) if cell is UNCHANGED
        )
        return Missing(columns, {name: cell.decode() for name, cell in key.items() if isinstance(cell, bytes)})

    def filled(self, change: Change, texts: Mapping[str, str | None]) -> Change:
        """Return a change with values that it lacked, by the names of their columns."""
        assert change.new is not None
        cells = tuple(
            _cell(texts[column.name]) if cell is UNCHANGED and column.name in texts else cell
            for column, cell in zip(self.relation.columns, change.new, strict=True)
        )
        return replace(change, new=cells)

    def truncation(self, origin: Origin) -> SourceRecord:
        """Return the record that says that the table was emptied (op t)."""
        return self._record("t", None, None, None, origin)

    def _deletion(self, before: Struct, origin: Origin) -> list[SourceRecord]:
        key = self._key(before)
        found = [self._record("d", before, None, key, origin)]
        if self._rules.tombstones and key is not None:
            found.append(SourceRecord(topic=self.topic, key_schema=self.key_schema, key=key))
        return found

    def _values(self, cells: Sequence[Cell], *, key_only: bool = False) -> list[Any]:
        """Return the values of a row; the placeholder stands for those that were not sent."""
        if len(cells) != len(self._readers):
            raise ConnectError(f"A row of {self.name} has {len(cells)} values for {len(self._readers)} columns")
        found: list[Any] = []
        for at, cell in enumerate(cells):
            if isinstance(cell, bytes):
                found.append(self._value(at, cell.decode()))
            elif cell is None:
                found.append(None)
            else:
                found.append(None if key_only else self._placeholder(at))
        return found

    def _value(self, at: int, text: str) -> Any:
        try:
            return self._readers[at](text)
        except (ConnectError, ValueError, ArithmeticError) as error:
            raise ConnectError(f"Column {self.relation.columns[at].name} of {self.name}: {error}") from error

    def _placeholder(self, at: int) -> Any:
        found = placeholder_of(self._row.fields[at].schema, self._rules.placeholder)
        if found is None:
            raise ConnectError(
                f"Column {self.relation.columns[at].name} of {self.name} was not sent, as it had not changed and is stored "
                f"apart; its schema has no value that says so. ALTER TABLE {self.name} REPLICA IDENTITY FULL sends it from "
                "then on; decimal.handling.mode=string has room for the placeholder"
            )
        return found

    def _struct(self, values: Sequence[Any]) -> Struct:
        made = Struct(self._row)
        for part, value in zip(self._row.fields, values, strict=True):
            if value is not None:
                made[part.name] = value
        return made

    def _key(self, row: Struct) -> Struct | None:
        if self.key_schema is None:
            return None
        made = Struct(self.key_schema)
        for name, _ in self._keys:
            made[name] = row[name]
        return made

    def _record(
        self, op: str, before: Struct | None, after: Struct | None, key: Struct | None, origin: Origin
    ) -> SourceRecord:
        relation, rules = self.relation, self._rules
        source: Mapping[str, Any] = {
            "version": rules.version,
            "connector": "postgresql",
            "name": rules.prefix,
            "ts_ms": origin.at_ms,
            "snapshot": "true" if origin.in_snapshot else "false",
            "db": rules.database,
            "schema": relation.schema,
            "table": relation.table,
            "txId": origin.xid,
            "lsn": origin.lsn,
        }
        value = Struct(self._envelope)
        if before is not None:
            value["before"] = before
        if after is not None:
            value["after"] = after
        value["source"] = Struct(self._source, source)
        value["op"] = op
        value["ts_ms"] = origin.now_ms
        return SourceRecord(
            topic=self.topic, key_schema=self.key_schema, key=key, value_schema=self._envelope, value=value
        )


def _completed(change: Change) -> tuple[Cell, ...]:
    """Return the row after an update; what was not sent again is the old row's, as far as that was sent."""
    assert change.new is not None
    old = change.old
    if old is None or UNCHANGED not in change.new or len(old) != len(change.new):
        return change.new
    # Of an old row that is a key alone, the other columns came as NULL, which says nothing.
    return tuple(
        before if cell is UNCHANGED and not (change.has_key_only and before is None) else cell
        for cell, before in zip(change.new, old, strict=True)
    )


def _cell(text: str | None) -> Cell:
    return None if text is None else text.encode()


_SOURCE = Schema.struct(
    {
        "version": STRING,
        "connector": STRING,
        "name": STRING,
        "ts_ms": INT64,
        "snapshot": OPTIONAL_STRING,
        "db": STRING,
        "schema": STRING,
        "table": STRING,
        "txId": OPTIONAL_INT64,
        "lsn": OPTIONAL_INT64,
    },
    name="io.debezium.connector.postgresql.Source",
)
