"""JdbcSinkConnector: records of topics as rows of tables, exactly once.

Rows and the offset of each partition stand in one transaction. When a partition comes, reading goes on where the table of
offsets says; the offset of the group is a hint. The offset moves from the value that this task knows, or not at all: a task
that lost its partition without noticing writes nothing. After an answer that did not come the table says whether the
transaction was made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    inspect,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from ottla.connect.config_def import ConfigDef, ConfigError, ConfigKey, ConfigType, Importance, at_least, one_of
from ottla.connect.connectors import SinkConnector, SinkTask
from ottla.connect.errors import ConnectError, DataError, RetriableError
from ottla.connect.library.jdbc.columns import column_type
from ottla.connect.library.jdbc.database import KEYS, may_pass, open_engine, told
from ottla.connect.library.jdbc.plan import (
    UNKNOWN,
    Row,
    Rules,
    Step,
    columns_of,
    missing,
    row_of,
    steps_of,
    without_unknown,
)
from ottla.connect.records import SinkRecord

if TYPE_CHECKING:
    from ottla import TopicPartition

log = logging.getLogger(__name__)
#: A partition as the table of offsets knows it: topic id (its name where there is none) and number.
Place = tuple[str, int]


class _Moved(Exception):
    """Another task has moved an offset of ours."""


class JdbcSinkTask(SinkTask):
    """Writes the records of its partitions."""

    def start(self) -> None:
        given = self.values
        rules = rules_of(given)
        self._rules = rules
        self._format: str = given["table.name.format"]
        self._connector = self.config.get("name", "")
        self._engine: Engine = open_engine(
            given["connection.url"], given["connection.user"], given["connection.password"]
        )
        self._tables: dict[str, Table] = {}
        self._ids: dict[str, str] = {}
        #: The offset that comes next, as this task knows it, of partitions that have a row.
        self._next: dict[Place, int] = {}
        self._failures = 0
        self._lock = threading.RLock()
        self._offsets: Table | None = None
        if given["offsets.table"]:
            self._offsets = Table(
                given["offsets.table"],
                MetaData(),
                Column("connector", String(200), primary_key=True),
                Column("topic_id", String(200), primary_key=True),
                Column("topic_partition", Integer, primary_key=True, autoincrement=False),
                Column("topic", String(250), nullable=False),
                Column("next_offset", BigInteger, nullable=False),
            )
        self._try_for_a_while(self._prepare)

    def _prepare(self) -> None:
        with self._engine.connect():
            pass
        if self._offsets is not None and not inspect(self._engine).has_table(self._offsets.name):
            self._create(self._offsets)

    def _create(self, table: Table) -> None:
        try:
            with self._engine.begin() as connection:
                table.create(connection)
        except SQLAlchemyError:
            if not inspect(self._engine).has_table(table.name, table.schema):  # another task may have been first
                raise

    def _try_for_a_while(self, work: Any) -> None:
        """Do what has to be done before records come, and again while the database is not there."""
        for attempt in range(self.values["max.retries"] + 1):
            try:
                work()
                return
            except SQLAlchemyError as error:
                if not may_pass(error) or attempt == self.values["max.retries"]:
                    raise ConnectError(f"The database {self._where()} says: {told(error)}") from error
                log.warning("connector %s: %s; it is tried again", self._connector, told(error))
                time.sleep(self.values["retry.backoff.ms"] / 1000)

    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    def open(self, partitions: Sequence[TopicPartition]) -> None:
        if self._offsets is None:
            return
        with self._lock:
            for where in partitions:
                self._ids[where.topic] = self.context.topic_id(where.topic) or where.topic
            places = [(self._ids[where.topic], where.partition) for where in partitions]
            self._try_for_a_while(lambda: self._next.update(self._kept(places)))
            for where, place in zip(partitions, places, strict=True):
                if place in self._next:
                    self.context.seek(where, self._next[place])

    def close(self, partitions: Sequence[TopicPartition]) -> None:
        with self._lock:
            for where in partitions:
                self._next.pop((self._ids.get(where.topic, where.topic), where.partition), None)

    def _kept(self, places: Iterable[Place]) -> dict[Place, int]:
        """Return the offsets that the table has."""
        table = self._offsets
        assert table is not None
        wanted = set(places)
        with self._engine.connect() as connection:
            found = connection.execute(
                select(table.c.topic_id, table.c.topic_partition, table.c.next_offset).where(
                    table.c.connector == self._connector
                )
            )
            return {(row[0], row[1]): row[2] for row in found if (row[0], row[1]) in wanted}

    def put(self, records: Sequence[SinkRecord]) -> None:
        with self._lock:
            size = self.values["batch.size"]
            for start in range(0, len(records), size):
                self._put(records[start : start + size])

    def _put(self, records: Sequence[SinkRecord]) -> None:
        try:
            self._write(records)
            self._failures = 0
        except _Moved as error:
            self._know_again(records)
            raise RetriableError(f"Another task has moved the offset of {error}; its row is read again") from None
        except SQLAlchemyError as error:
            self._failures += 1
            if not may_pass(error) or self._failures > self.values["max.retries"]:
                raise ConnectError(f"The database {self._where()} says: {told(error)}") from error
            log.warning("connector %s: %s; the batch comes again", self._connector, told(error))
            time.sleep(self.values["retry.backoff.ms"] / 1000)
            try:
                self._know_again(records)
            except SQLAlchemyError as again:  # it is read before the next attempt
                raise RetriableError(told(again)) from again
            raise RetriableError(told(error)) from error

    def _place(self, record: SinkRecord) -> Place:
        assert record.partition is not None
        return self._ids.get(record.topic, record.topic), record.partition

    def _know_again(self, records: Sequence[SinkRecord]) -> None:
        """Read the offsets again: a transaction whose answer was lost may have been made.

        Raises:
            ConnectError: one went back, or is gone: records between would be lost.
        """
        if self._offsets is None:
            return
        places = {self._place(record) for record in records}
        found = self._kept(places)
        for place in places & self._next.keys() - found.keys():
            raise ConnectError(
                f"The table {self._offsets.name} has no row any more for partition {place[1]} of {place[0]}, where offset "
                f"{self._next[place]} came next. A restart goes on where the consumer group says"
            )
        for place, kept in found.items():
            if kept < self._next.get(place, 0):
                raise ConnectError(
                    f"The table {self._offsets.name} says that offset {kept} comes next in partition {place[1]} of "
                    f"{place[0]}, and it was {self._next[place]}: the database is an older one. A restart goes on there"
                )
            self._next[place] = kept

    def _write(self, records: Sequence[SinkRecord]) -> None:
        """Write a batch in one transaction.

        Raises:
            _Moved: an offset is not where this task left it.
            SQLAlchemyError: what the database says.
        """
        ends: dict[Place, tuple[str, int]] = {}
        tables: dict[str, list[Row]] = {}
        for record in records:
            place = self._place(record)
            if self._offsets is not None:
                if record.offset < self._next.get(place, 0):
                    continue  # it is there: the answer to its transaction was lost, or another task was first
                ends[place] = (record.topic, record.offset + 1)
            try:
                row = row_of(record, self._rules)
            except DataError as error:
                self.context.reject(record, error)  # raises where no failure is tolerated
                continue
            tables.setdefault(self._format.replace("${topic}", record.topic), []).append(row)
        known = {name: self._table(name, rows) for name, rows in tables.items()}
        with self._engine.begin() as connection:
            for place, (topic, end) in ends.items():
                self._move(connection, place, topic, end)
            for name, rows in tables.items():
                there = frozenset(known[name].c.keys())
                for step in steps_of([without_unknown(row, there) for row in rows], self._rules.mode):
                    self._run(connection, known[name], step)
            self.context.deliver_rejected()  # what is before the offsets does not come again
        self._next |= {place: end for place, (_, end) in ends.items()}

    def _move(self, connection: Connection, place: Place, topic: str, end: int) -> None:
        table = self._offsets
        assert table is not None
        key = {"connector": self._connector, "topic_id": place[0], "topic_partition": place[1]}
        if place not in self._next:
            try:
                with connection.begin_nested():
                    connection.execute(insert(table).values(**key, topic=topic, next_offset=end))
            except IntegrityError:
                raise _Moved(f"partition {place[1]} of {topic}") from None
            return
        here = and_(true(), *(table.c[name] == value for name, value in key.items()))
        moved = connection.execute(
            update(table).where(here, table.c.next_offset == self._next[place]).values(next_offset=end)
        )
        if moved.rowcount != 1:
            raise _Moved(f"partition {place[1]} of {topic}")

    # Tables

    def _table(self, name: str, rows: Sequence[Row]) -> Table:
        """Return a table that has all columns of these rows; it is made, or columns are added, where that is wanted.

        Raises:
            ConnectError: it is not there, or lacks columns, and may not be changed.
        """
        wanted = columns_of(rows)
        table = self._tables.get(name)
        if table is not None and all(column in table.c for column in wanted):
            return table
        schema, _, short = name.rpartition(".") if self._engine.dialect.name != "sqlite" else ("", "", name)
        if not inspect(self._engine).has_table(short, schema or None):
            if not self.values["auto.create"]:
                raise ConnectError(f"There is no table {name}; auto.create=true makes it")
            made = [
                Column(
                    column,
                    column_type(kind, key=is_key),
                    primary_key=is_key,
                    nullable=not is_key and (kind.optional or kind.default is not None or self._partly(column, rows)),
                    autoincrement=False,
                )
                for column, (kind, is_key) in wanted.items()
            ]
            if not made:
                raise ConnectError(f"There is no table {name}, and a deletion does not say which columns it has")
            self._create(Table(short, MetaData(), *made, schema=schema or None))
        table = Table(short, MetaData(), autoload_with=self._engine, schema=schema or None, resolve_fks=False)
        lacking = missing(name, list(table.c.keys()), wanted, evolve=self.values["auto.evolve"])
        if lacking:
            for column, kind in lacking.items():
                self._add(table, Column(column, column_type(kind)))
            table = Table(short, MetaData(), autoload_with=self._engine, schema=schema or None, resolve_fks=False)
        self._tables[name] = table
        return table

    @staticmethod
    def _partly(column: str, rows: Sequence[Row]) -> bool:
        """Whether there are rows without a column: maps without a schema leave out what is null."""
        return any(row.values is not None and column not in row.values and column not in row.key for row in rows)

    def _add(self, table: Table, column: Column[Any]) -> None:
        """Add a column; it takes None, so that rows that are there keep their place."""
        dialect = self._engine.dialect
        whole = dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(column).compile(dialect=dialect)
        try:
            with self._engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE {whole} ADD COLUMN {definition}"))
        except SQLAlchemyError:
            names = {found["name"] for found in inspect(self._engine).get_columns(table.name, table.schema)}
            if column.name not in names:  # another task may have been first
                raise

    # Rows

    def _run(self, connection: Connection, table: Table, step: Step) -> None:
        """Write rows; if the database refuses some, one after the other, so that the others are kept.

        Of a row that was put together from several, each is tried by itself.
        """
        statement = self._statement(table, step)
        try:
            with connection.begin_nested():
                if step.kind == "insert" and self._engine.driver == "psycopg":
                    _copy(connection, table, step)
                else:
                    connection.execute(statement, _named(step.parameters()))
        except DBAPIError as error:
            if may_pass(error):
                raise
            for row, parameters in zip(step.rows, _named(step.parameters()), strict=True):
                try:
                    with connection.begin_nested():
                        connection.execute(statement, parameters)
                except DBAPIError as its:
                    if may_pass(its):
                        raise
                    for part in row.parts:
                        self._run(connection, table, Step(step.kind, (*part.key, *(part.values or ())), [part]))
                    if not row.parts:
                        self.context.reject(row.record, DataError(f"table {table.name}: {told(its)}"))

    def _statement(self, table: Table, step: Step) -> Any:
        key = [name for name in step.columns if name in step.rows[0].key]
        rest = [name for name in step.columns if name not in key]
        bound = {name: bindparam(f"c_{name}", type_=self._bound_type(table, name, step)) for name in step.columns}
        here = and_(true(), *(table.c[name] == bound[name] for name in key))
        match step.kind:
            case "delete":
                return delete(table).where(here)
            case "update":
                if not rest:
                    return select(1)  # the key is all there is
                return update(table).where(here).values({name: bound[name] for name in rest})
            case "insert":
                return insert(table).values(bound)
        return self._upsert(table, bound, key, rest)

    @staticmethod
    def _bound_type(table: Table, name: str, step: Step) -> Any:
        """Return the type that values are bound as: that of the schema; the column's where there is no schema."""
        schema = step.rows[0].schemas[name]
        return table.c[name].type if schema is UNKNOWN else column_type(schema)

    def _upsert(self, table: Table, bound: Mapping[str, Any], key: Sequence[str], rest: Sequence[str]) -> Any:
        if self._engine.dialect.name in ("mysql", "mariadb"):
            mine = mysql.insert(table).values(bound)
            return mine.on_duplicate_key_update({name: mine.inserted[name] for name in (rest or key)})
        ours = (postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)).values(
            bound
        )
        if not rest:
            return ours.on_conflict_do_nothing(index_elements=key)
        return ours.on_conflict_do_update(index_elements=key, set_={name: ours.excluded[name] for name in rest})

    def stop(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.dispose()


def _copy(connection: Connection, table: Table, step: Step) -> None:
    """Insert rows into a table of PostgreSQL by COPY, which takes a quarter of the time of as many INSERTs.

    Raises:
        DBAPIError: what the database says, as SQLAlchemy has it.
    """
    import psycopg

    quote = connection.dialect.identifier_preparer
    columns = ", ".join(map(quote.quote, step.columns))
    statement = f"COPY {quote.format_table(table)} ({columns}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in step.tuples():
                copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(
            statement, None, error, psycopg.Error, connection_invalidated=driver.closed, dialect=connection.dialect
        ) from error


def _named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{f"c_{name}": value for name, value in row.items()} for row in rows]


def rules_of(given: Mapping[str, Any]) -> Rules:
    """Return what a configuration says about rows.

    Raises:
        ConfigError: its parts contradict each other.
    """
    mode, key_mode, fields = given["insert.mode"], given["pk.mode"], tuple(given["pk.fields"])
    if mode != "insert" and key_mode == "none":
        raise ConfigError(f"insert.mode={mode} needs a key: pk.mode may be record_key, record_value or kafka")
    if given["delete.enabled"] and key_mode != "record_key":
        raise ConfigError("delete.enabled=true needs pk.mode=record_key: a deletion has a key and no value")
    if key_mode == "kafka" and len(fields) not in (0, 3):
        raise ConfigError("pk.fields names three columns with pk.mode=kafka: for topic, partition and offset")
    return Rules(
        mode=mode,
        key_mode=key_mode,
        key_fields=fields,
        delete=given["delete.enabled"],
        only=frozenset(given["fields.whitelist"]),
    )


class JdbcSinkConnector(SinkConnector):
    """Rows of tables, exactly once."""

    CONFIG = ConfigDef(
        *KEYS,
        ConfigKey(
            name="table.name.format",
            default="${topic}",
            documentation="The table; ${topic} stands for the topic. What is before a point is the schema.",
        ),
        ConfigKey(
            name="insert.mode",
            default="insert",
            validator=one_of("insert", "upsert", "update"),
            importance=Importance.HIGH,
            documentation="insert: every record is a new row; upsert: a row of the same key is replaced, column by column; "
            "update: rows that are not there are left out.",
        ),
        ConfigKey(
            name="pk.mode",
            default="none",
            validator=one_of("none", "kafka", "record_key", "record_value"),
            importance=Importance.HIGH,
            documentation="Where the primary key comes from: nowhere, topic with partition and offset, the record's key, "
            "fields of its value.",
        ),
        ConfigKey(
            name="pk.fields",
            type=ConfigType.LIST,
            default="",
            documentation="Columns of the primary key; all fields if it is empty. Of a key that is one value: its column.",
        ),
        ConfigKey(
            name="delete.enabled",
            type=ConfigType.BOOLEAN,
            default=False,
            documentation="Whether a record without a value deletes the row of its key.",
        ),
        ConfigKey(
            name="fields.whitelist", type=ConfigType.LIST, default="", documentation="The only fields that are written."
        ),
        ConfigKey(name="auto.create", type=ConfigType.BOOLEAN, default=False, documentation="Whether tables are made."),
        ConfigKey(
            name="auto.evolve", type=ConfigType.BOOLEAN, default=False, documentation="Whether columns are added."
        ),
        ConfigKey(
            name="batch.size",
            type=ConfigType.INT,
            default=3000,
            validator=at_least(1),
            documentation="The most records of one transaction.",
        ),
        ConfigKey(
            name="max.retries",
            type=ConfigType.INT,
            default=10,
            validator=at_least(0),
            documentation="How often a batch is tried again before the task fails.",
        ),
        ConfigKey(
            name="retry.backoff.ms",
            type=ConfigType.INT,
            default=3000,
            validator=at_least(0),
            documentation="The pause before that.",
        ),
        ConfigKey(
            name="offsets.table",
            default="ottla_connect_offsets",
            documentation="ottla's own key: where the offsets stand that make it exactly once; empty: at least once.",
        ),
    )
    Task = JdbcSinkTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        rules_of(self.values)
        engine = open_engine(
            self.values["connection.url"], self.values["connection.user"], self.values["connection.password"]
        )
        return super().task_configs(1 if engine.dialect.name == "sqlite" else tasks_max)
