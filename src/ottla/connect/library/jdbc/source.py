"""JdbcSourceConnector: rows of tables into topics, all of them or the new ones.

Rows of a transaction that commits late must not be passed over. With a timestamp column, PostgreSQL is asked for the start
of its oldest open transaction, and only rows from before that are read; elsewhere rows wait until they are older than
`timestamp.delay.interval.ms`. A number alone (mode incrementing) cannot be guarded like that, which is said at the start.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    Table,
    Text,
    and_,
    cast,
    func,
    inspect,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy import types as sql_types
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

from ottla.connect.config_def import (
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    check,
    one_of,
)
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.library.jdbc.columns import Reader as ValueReader
from ottla.connect.library.jdbc.columns import moment, schema_of
from ottla.connect.library.jdbc.database import KEYS, may_pass, open_engine, told
from ottla.connect.library.jdbc.pages import Mark, Page, Reader, mark_of
from ottla.connect.records import SourceRecord
from ottla.connect.schema import Schema, Struct

log = logging.getLogger(__name__)
_TABLES = "ottla.tables"
#: PostgreSQL shows a transaction a little after it has taken its time.
_MARGIN = datetime.timedelta(milliseconds=100)
_OLDEST = """
    SELECT least(clock_timestamp(), (SELECT min(xact_start) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid())),
    (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
    pg_has_role(current_user, 'pg_read_all_stats', 'member')
"""


class _NotThereError(ConnectError):
    """There is no such table."""


class _Shape:
    """What a table's rows are: columns, their schemas, and what makes values of them."""

    def __init__(self, table: Table, dialect: str, zone: ZoneInfo, numbers: Any) -> None:
        self.table = table
        self.columns: list[Any] = []
        self.readers: list[ValueReader] = []
        fields: list[tuple[str, Schema]] = []
        for column in table.c:
            schema, reader, as_text = schema_of(column.type, dialect=dialect, zone=zone, numbers=numbers)
            fields.append((column.name, schema.as_optional() if column.nullable else schema))
            self.readers.append(reader)
            self.columns.append(cast(column, Text).label(column.name) if as_text else column)
        self.schema = Schema.struct(fields, name=table.name)

    def struct(self, row: Sequence[Any]) -> Struct:
        """Return a row as a value."""
        made = Struct(self.schema)
        for part, reader, value in zip(self.schema.fields, self.readers, row, strict=False):
            if value is not None:
                made[part.name] = reader(value)
        return made


class JdbcSourceTask(SourceTask):
    """Reads some tables, one after the other."""

    def start(self) -> None:
        given = self.values
        self._engine: Engine = _engine(given)
        self._dialect = self._engine.dialect.name
        self._mode: Any = given["mode"]
        self._zone = zone_of(given["db.timezone"])
        self._delay = datetime.timedelta(milliseconds=given["timestamp.delay.interval.ms"])
        self._names = [name for name in self.config[_TABLES].split("\n") if name]
        self._shapes: dict[str, _Shape] = {}
        self._readers: dict[str, Reader] = {}
        self._bulk: Iterator[list[SourceRecord]] | None = None
        self._round: list[str] = []
        self._prepared_bound: datetime.datetime | None = None
        self._told: set[str] = set()
        #: Of tables that are not there yet, what is said of that.
        self._waits: dict[str, str] = {}
        #: Tables that were there.
        self._seen: set[str] = set()
        if self._mode == "incrementing":
            log.warning(
                "connector %s: rows of transactions that commit after later numbers are passed over with mode incrementing; "
                "timestamp+incrementing passes over none",
                self.config.get("name"),
            )

    def preview(self, rows: int) -> Sequence[SourceRecord]:
        return self.first_rows(rows)

    def poll(self) -> Sequence[SourceRecord] | None:
        if not self._round:
            self._round = list(self._names)
        name = self._round[0]
        try:
            if self._mode == "bulk":
                records = self._next_of_bulk(name)
            else:
                records = self._page(name)
        except SQLAlchemyError as error:
            self._bulk = None
            if may_pass(error):
                log.warning("connector %s: %s; it is tried again", self.config.get("name"), told(error))
                raise RetriableError(told(error)) from error
            raise ConnectError(f"Table {name}: {told(error)}") from error
        except _NotThereError as error:
            if name in self._seen:
                raise
            self._bulk, records = None, []
            waits = f"{error} yet; it is looked for every {self.values['poll.interval.ms']} ms"
            self._say(waits)
            self._waits[name] = waits
        else:
            self._waits.pop(name, None)
        self.context.waits_for("\n".join(self._waits.values()) or None)
        if records:
            return records
        self._round.pop(0)
        self._shapes.pop(name, None)  # columns may be others next time
        if not self._round:
            self.context.wait(self.values["poll.interval.ms"] / 1000)
        return None

    def _shape(self, name: str) -> _Shape:
        if name not in self._shapes:
            table = _reflect(self._engine, name)
            self._shapes[name] = _Shape(table, self._dialect, self._zone, self.values["numeric.mapping"])
            self._check(table)
            self._seen.add(name)
        return self._shapes[name]

    def _check(self, table: Table) -> None:
        """Raise if columns of the mode are not there, or may be null and must not."""
        for column in self._order(table):
            if column.nullable and self.values["validate.non.null"]:
                raise ConnectError(
                    f"Column {column.name} of table {table.fullname} may be null: rows without it would never come "
                    "(ALTER TABLE ... SET NOT NULL, or validate.non.null=false)"
                )

    def _order(self, table: Table) -> list[Column[Any]]:
        """Return the columns of the mode, the timestamp first.

        Raises:
            ConnectError: one is not there.
        """
        names = []
        if "timestamp" in self._mode:
            names.append(self.values["timestamp.column.name"])
        if "incrementing" in self._mode:
            names.append(self.values["incrementing.column.name"])
        for name in names:
            if name not in table.c:
                raise ConnectError(f"Table {table.fullname} has no column {name}, which mode={self._mode} needs")
        return [table.c[name] for name in names]

    # All rows

    def _next_of_bulk(self, name: str) -> list[SourceRecord]:
        if self._bulk is None:
            self._bulk = self._all(name)
        records = next(self._bulk, None)
        if records is None:
            self._bulk = None
            return []
        return records

    def _all(self, name: str) -> Iterator[list[SourceRecord]]:
        shape = self._shape(name)
        with self._engine.connect() as connection:
            rows = connection.execution_options(stream_results=True).execute(select(*shape.columns))
            for part in rows.partitions(self.values["batch.max.rows"]):
                yield [self._record(name, shape, row, None) for row in part]

    # New rows

    def _reader(self, name: str) -> Reader:
        if name not in self._readers:
            mark = mark_of(self.context.offset(self._partition(name)))
            if mark == Mark() and "timestamp" in self._mode and self.values["timestamp.initial"] is not None:
                first = _moment_of_ms(self.values["timestamp.initial"])
                if self._mode == "timestamp":  # rows behind a mark come, and this one is to come, too
                    first -= datetime.timedelta(microseconds=1)
                mark = Mark(first, None)
            self._readers[name] = Reader(self._mode, mark, self.values["batch.max.rows"])
        return self._readers[name]

    def _page(self, name: str) -> list[SourceRecord]:
        shape, reader = self._shape(name), self._reader(name)
        order = self._order(shape.table)
        with self._engine.connect() as connection:
            below = self._bound(connection, reader.mark) if "timestamp" in self._mode else None
            for _ in range(2):  # a page of one moment only is followed by that moment as a whole
                rows = self._select(connection, shape, order, reader.ask(below))
                width = len(shape.columns)
                offsets = reader.take([self._mark(order, row[width:]) for row in rows])
                if offsets or not rows:
                    break
        return [self._record(name, shape, row, mark) for row, mark in zip(rows, offsets, strict=False)]

    def _mark(self, order: Sequence[Column[Any]], values: Sequence[Any]) -> Mark:
        found: dict[str, Any] = {}
        for column, value in zip(order, values, strict=True):
            if column.name == self.values["timestamp.column.name"] and "timestamp" in self._mode:
                found["moment"] = moment(_as_datetime(value), self._zone)
            else:
                found["number"] = int(value)
        return Mark(**found)

    def _select(self, connection: Connection, shape: _Shape, order: Sequence[Column[Any]], page: Page) -> Sequence[Any]:
        keys = [self._comparable(column) for column in order]
        question = select(*shape.columns, *(column.label(f"ottla_mark_{n}") for n, column in enumerate(keys)))
        question = question.where(*(column.is_not(None) for column in order))
        moment_key = keys[0] if "timestamp" in self._mode else None
        if page.at is not None:
            assert moment_key is not None
            return connection.execute(question.where(moment_key == self._bind(page.at, order[0]))).all()
        if page.below is not None and moment_key is not None:
            question = question.where(moment_key < self._bind(page.below, order[0]))
        after = [
            self._bind(value, column)
            if isinstance(value, datetime.datetime)
            else literal(value, sql_types.BigInteger())
            for column, value in zip(order, [part for part in page.after if part is not None], strict=False)
        ]
        if len(after) == 2:
            question = question.where(or_(keys[0] > after[0], and_(keys[0] == after[0], keys[1] > after[1])))
        elif after and len(keys) == 2:
            question = question.where(keys[0] >= after[0])  # from timestamp.initial on
        elif after:
            question = question.where(keys[0] > after[0])
        return connection.execute(question.order_by(*keys).limit(page.limit)).all()

    def _comparable(self, column: Column[Any]) -> Any:
        """Return what stands for a column in comparisons: SQLite has texts for moments, and they differ in length."""
        if self._dialect != "sqlite" or column.name != self.values["timestamp.column.name"]:
            return column
        plain = func.replace(cast(column, Text), "T", " ")
        pointed = func.iif(func.instr(plain, ".") > 0, plain, plain.concat("."))
        return func.substr(pointed.concat("000000"), 1, 26)

    def _bind(self, value: datetime.datetime, column: Column[Any]) -> Any:
        """Return a moment as the database compares it with a column."""
        if self._dialect == "sqlite":
            return literal(value.astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S.%f"), Text())
        if getattr(column.type, "timezone", False):
            return literal(value, sql_types.DateTime(timezone=True))
        return literal(value.astimezone(self._zone).replace(tzinfo=None), sql_types.DateTime())

    def _bound(self, connection: Connection, mark: Mark) -> datetime.datetime:
        """Return the moment before which no row can appear any more."""
        if self._dialect != "postgresql":
            delay = self._delay or datetime.timedelta(seconds=5)
            asked = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if self._dialect == "sqlite" else "UTC_TIMESTAMP(6)"
            now = connection.execute(text(f"SELECT {asked}")).scalar_one()
            return _as_datetime(now).replace(tzinfo=datetime.UTC) - delay
        oldest, prepared, sees_all = connection.execute(text(_OLDEST)).one()
        connection.rollback()  # the rows that count are those of a snapshot after this answer
        if not sees_all:
            self._say(
                "the user does not see transactions of others (GRANT pg_read_all_stats); rows wait until they are "
                f"{max(self._delay, datetime.timedelta(seconds=5)).total_seconds():g} s old"
            )
            oldest = min(oldest, datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=5))
        bound: datetime.datetime = oldest.astimezone(datetime.UTC) - _MARGIN - self._delay
        if prepared:
            self._say(f"{prepared} prepared transactions are open; rows from after their start wait for them")
            bound = min(bound, self._prepared_bound or mark.moment or _moment_of_ms(0))
        self._prepared_bound = bound
        return bound

    def _say(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning("connector %s: %s", self.config.get("name"), sentence)

    def _partition(self, name: str) -> dict[str, Any]:
        return {"protocol": "1", "table": name}

    def _record(self, name: str, shape: _Shape, row: Sequence[Any], mark: Mark | None) -> SourceRecord:
        return SourceRecord(
            topic=self.values["topic.prefix"] + shape.table.name,
            value_schema=shape.schema,
            value=shape.struct(row),
            timestamp=time.time_ns() // 1_000_000,
            source_partition=self._partition(name),
            source_offset=None if mark is None else mark.as_offset(),
        )

    def stop(self) -> None:
        if hasattr(self, "_engine"):
            self._bulk = None
            self._engine.dispose()


def _as_datetime(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    try:
        return datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConnectError(f"{value!r} is no moment such as 2026-01-31 12:00:00") from None


def _moment_of_ms(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(milliseconds=ms)


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError):
        raise ConfigError.of("db.timezone", name, "Invalid time zone identifier") from None


def _engine(given: Mapping[str, Any]) -> Engine:
    return open_engine(given["connection.url"], given["connection.user"], given["connection.password"])


def _reflect(engine: Engine, name: str) -> Table:
    schema, _, short = name.rpartition(".")
    try:
        return Table(short, MetaData(), autoload_with=engine, schema=schema or None, resolve_fks=False)
    except NoSuchTableError:
        raise _NotThereError(f"There is no table {name}") from None


def _no_query(name: str, value: Any) -> None:
    if value is not None:
        raise ConfigError("query is not supported: make a view of it, and name that in table.whitelist")


def _check_zone(name: str, value: Any) -> None:
    zone_of(value)


class JdbcSourceConnector(SourceConnector):
    """Rows of tables."""

    CONFIG = ConfigDef(
        *KEYS,
        ConfigKey(
            name="mode",
            validator=one_of("bulk", "incrementing", "timestamp", "timestamp+incrementing"),
            importance=Importance.HIGH,
            documentation="bulk: all rows, again and again; the others: rows that are new or changed, by the columns below.",
        ),
        ConfigKey(
            name="incrementing.column.name",
            default="",
            documentation="A number that every new row has a greater one of.",
        ),
        ConfigKey(
            name="timestamp.column.name",
            default="",
            documentation="When the row was written last, by the database's clock.",
        ),
        ConfigKey(
            name="timestamp.initial",
            type=ConfigType.LONG,
            default=None,
            documentation="The first moment, in ms since 1970.",
        ),
        ConfigKey(
            name="timestamp.delay.interval.ms",
            type=ConfigType.LONG,
            default=0,
            validator=at_least(0),
            documentation="How old a row has to be. PostgreSQL needs none; elsewhere 0 stands for 5000.",
        ),
        ConfigKey(
            name="validate.non.null",
            type=ConfigType.BOOLEAN,
            default=True,
            documentation="Whether columns of the mode must be NOT NULL. Rows without them never come.",
        ),
        ConfigKey(
            name="table.whitelist",
            type=ConfigType.LIST,
            importance=Importance.HIGH,
            default="",
            documentation="Tables and views, as name or schema.name; * stands for any text.",
        ),
        ConfigKey(
            name="query",
            default=None,
            validator=check(_no_query, "not supported: a view in table.whitelist does it"),
            documentation="There are no queries here: make a view, and name it in table.whitelist.",
        ),
        ConfigKey(
            name="topic.prefix", default="", importance=Importance.HIGH, documentation="Topic: this and the table."
        ),
        ConfigKey(
            name="poll.interval.ms",
            type=ConfigType.INT,
            default=5000,
            validator=at_least(1),
            documentation="The pause after a round that brought nothing new.",
        ),
        ConfigKey(
            name="batch.max.rows",
            type=ConfigType.INT,
            default=100,
            validator=at_least(1),
            documentation="The most rows of one table at once.",
        ),
        ConfigKey(
            name="numeric.mapping",
            default="none",
            validator=one_of("none", "best_fit"),
            documentation="none: NUMERIC columns are decimals; best_fit: integers and doubles where 18 digits are enough.",
        ),
        ConfigKey(
            name="db.timezone",
            default="UTC",
            validator=check(_check_zone, "Any valid time zone"),
            documentation="What moments without a zone are in.",
        ),
    )
    Task = JdbcSourceTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        given = self.values
        for part in ("timestamp", "incrementing"):
            if part in given["mode"] and not given[f"{part}.column.name"]:
                raise ConfigError(f"mode={given['mode']} needs {part}.column.name")
        if not given["table.whitelist"]:
            raise ConfigError('Missing required configuration "table.whitelist" which has no default value.')
        engine = _engine(given)
        try:
            names = _tables(engine, given["table.whitelist"])
        except SQLAlchemyError as error:
            raise ConnectError(f"The database says: {told(error)}") from error
        finally:
            engine.dispose()
        count = min(tasks_max, len(names))
        return [self.config | {_TABLES: "\n".join(names[number::count])} for number in range(count)]


def _tables(engine: Engine, wanted: Sequence[str]) -> list[str]:
    """Return the tables and views that are named. One that is not there yet is waited for by its task.

    Raises:
        ConnectError: there is none for a pattern.
    """
    found: list[str] = []
    for pattern in wanted:
        schema, _, short = pattern.rpartition(".")
        inspector = inspect(engine)
        there = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
        matching = [f"{schema}.{name}" if schema else name for name in there if fnmatchcase(name, short)]
        if not matching:
            if any(sign in short for sign in "*?["):
                raise ConnectError(f"There is no table {pattern}: patterns are looked at when the connector starts")
            matching = [pattern]
        found += [name for name in matching if name not in found]
    return found
