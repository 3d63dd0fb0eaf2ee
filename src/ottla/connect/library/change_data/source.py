"""PostgresConnector: first all rows of its tables, then every change, from a replication slot.

The slot is made before the rows are read, at the moment that they are read at. If that is cut off, the slot stays and the
rows are read anew: what was deleted between the two readings comes as a deletion, from the slot. An offset is written down
before the server is told that it may forget what comes before: so a slot that is ahead of the offset was made anew.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from ottla import __version__
from ottla.connect.config_def import (
    NOT_EMPTY,
    ConfigDef,
    ConfigError,
    ConfigKey,
    ConfigType,
    Importance,
    at_least,
    check,
    one_of,
)
from ottla.connect.connectors import Place as PlainPlace
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.java_regex import compile_pattern
from ottla.connect.library.change_data import server
from ottla.connect.library.change_data.envelope import Missing, Origin, Rules, Shape, topic_of
from ottla.connect.library.change_data.pgoutput import Change, Keepalive, Payload, Relation, Truncate, decode, lsn_text
from ottla.connect.library.change_data.places import Kept, Place, Reading, check_place, check_slot, kept_of
from ottla.connect.library.change_data.stream import Stream
from ottla.connect.library.debezium import UNAVAILABLE
from ottla.connect.records import Position, SourceRecord

log = logging.getLogger(__name__)
_WAIT_S = 0.5
#: Seconds between tries to reach a server that is gone: the first, and the longest.
_RETRY_S = (0.5, 10.0)
#: Seconds for which a slot may be in use: the server notices late that its last reader is gone.
_IN_USE_S = 120.0
_SLOT = re.compile(r"[a-z0-9_]{1,63}")


class PostgresTask(SourceTask):
    """Reads the tables of one database."""

    def start(self) -> None:
        given = self.values
        self._name = self.config.get("name", "")
        self._slot_name = slot_name_of(self._name, given)
        self._publication = given["publication.name"] or self._slot_name
        self._conninfo = server.conninfo_of(given)
        self._partition = {"server": given["topic.prefix"]}
        self._rules = Rules(
            prefix=given["topic.prefix"],
            database=given["database.dbname"],
            version=__version__,
            decimals=given["decimal.handling.mode"],
            times=given["time.precision.mode"],
            placeholder=given["unavailable.value.placeholder"],
            tombstones=given["tombstones.on.delete"],
        )
        self._kept = kept_of(self.context.offset(self._partition))
        self._stream: Stream | None = None
        self._snapshot: Iterator[list[SourceRecord]] | None = None
        self._reading: Reading | None = None
        self._shapes: dict[int, Shape] = {}
        #: For questions about single rows and keys, while changes are read.
        self._asking: server.Connection | None = None
        self._pause_s = _RETRY_S[0]
        self._in_use_since: float | None = None
        #: The log before it may go, as far as offsets are written down.
        self._confirmed = 0

    def stop(self) -> None:
        self._close()

    def commit(self, offsets: Sequence[tuple[PlainPlace, PlainPlace]]) -> None:
        kept = kept_of(offsets[-1][1])
        if kept is None or kept.in_snapshot:
            return
        self._confirmed = max(self._confirmed, kept.place.lsn)
        stream = self._stream
        if stream is not None:
            stream.confirm(self._confirmed)

    @property
    def held_bytes(self) -> int:
        """How much of the log was read and is not handed over yet."""
        return 0 if self._stream is None else self._stream.held_bytes

    def poll(self) -> Sequence[SourceRecord | Position] | None:
        try:
            found = self._poll()
        except psycopg.Error as error:
            self._close()
            if not server.may_pass(error):
                raise ConnectError(f"PostgreSQL: {server.told(error)}") from error
            self._wait_for_server(server.told(error))
            raise RetriableError(server.told(error)) from error
        except RetriableError as error:
            self._close()
            self._wait_for_server(str(error))
            raise
        self._pause_s = _RETRY_S[0]
        return found

    def _wait_for_server(self, reason: str) -> None:
        log.warning("connector %s: %s; it is tried again", self._name, reason)
        self.context.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _RETRY_S[1])

    def _poll(self) -> Sequence[SourceRecord | Position] | None:
        if self._stream is None and self._snapshot is None:
            self._open()
        if self._snapshot is not None:
            records = next(self._snapshot, None)
            if records is not None:
                return records
            self._snapshot = None
            assert self._kept is not None
            return [self._go_on(self._kept.place)]
        return self._changes()

    def _close(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()  # type: ignore[attr-defined]
            self._snapshot = None
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    # Where it begins

    def _open(self) -> None:
        """Look at the server, and begin or go on: `_stream` or `_snapshot` is there then.

        Raises:
            ConnectError: changes are missing, or the server is not set up for it.
        """
        with server.connect(self._conninfo) as connection:
            server.check_settings(connection)
            wanted = self._tables(connection)
            may_change = self.values["publication.autocreate.mode"] == "filtered"
            added = server.publish(connection, self._publication, wanted, may_change=may_change)
            slot = server.slot_of(connection, self._slot_name)
        kept = self._kept
        with server.connect_replication(self._conninfo) as replication:
            about = server.server_of(replication, None if kept is None else kept.timeline)
        if slot is not None:
            if slot.active_pid is not None:
                self._wait_for_slot(slot.active_pid)
            self._in_use_since = None
            check_slot(self._name, slot, about)
        if kept is not None:
            check_place(self._name, kept, slot, about)
        if kept is not None and not kept.in_snapshot:
            if added:
                log.warning(
                    "connector %s: %s joined the publication %s now: rows that were there before do not come, changes do",
                    self._name,
                    ", ".join(added),
                    self._publication,
                )
            self._kept = Kept(system=about.system, timeline=about.timeline, slot=self._slot_name, place=kept.place)
            self._begin_stream(kept.place)
            return
        known = {"system": about.system, "timeline": about.timeline, "slot": self._slot_name}
        if slot is None:
            self._snapshot = self._read_all(wanted, known, None)
        else:
            log.warning(
                "connector %s: an earlier reading of all rows had not ended: they are read anew; changes come from %s on, "
                "where the replication slot %s began",
                self._name,
                lsn_text(slot.confirmed),
                slot.name,
            )
            self._snapshot = self._read_all(wanted, known, slot.confirmed)

    def _tables(self, connection: server.Connection) -> list[server.Table]:
        patterns = [compile_pattern(text) for text in self.values["table.include.list"]]
        found = server.tables(connection, lambda name: any(pattern.fullmatch(name) for pattern in patterns))
        names = [f"{table.relation.schema}.{table.relation.table}" for table in found]
        missing = [
            text
            for text, pattern in zip(self.values["table.include.list"], patterns, strict=True)
            if not any(pattern.fullmatch(name) for name in names)
        ]
        if missing:
            raise ConnectError(
                f"There is no table {', '.join(missing)} in the database {self._rules.database}: table.include.list has "
                "names such as public.orders, and regular expressions for them"
            )
        topics: dict[str, str] = {}
        for name in names:
            topic = topic_of(self._rules.prefix, name)
            if topic in topics:
                raise ConnectError(f"The tables {topics[topic]} and {name} would share the topic {topic}")
            topics[topic] = name
        return found

    def _wait_for_slot(self, pid: int) -> None:
        """Raise: the slot is in use.

        Raises:
            RetriableError: it may be our own, of a process that was killed.
            ConnectError: it has been for too long.
        """
        now = time.monotonic()
        self._in_use_since = self._in_use_since or now
        message = f"The replication slot {self._slot_name} is in use by process {pid} of the server"
        if now - self._in_use_since > _IN_USE_S:
            raise ConnectError(f"{message}: another connector has the same slot.name")
        raise RetriableError(message)

    def _begin_stream(self, place: Place) -> None:
        self._reading = Reading(place)
        self._shapes = {}  # the server describes every table anew
        connection = server.connect_replication(self._conninfo)
        interval_s = self.values["status.update.interval.ms"] / 1000
        self._stream = Stream(connection, self._slot_name, self._publication, place.lsn, interval_s)
        self._stream.confirm(self._confirmed)

    # All rows

    def _read_all(
        self, wanted: Sequence[server.Table], known: Mapping[str, Any], begins: int | None
    ) -> Iterator[list[SourceRecord]]:
        """Yield all rows of the tables, as they are at one moment; then nothing is left but changes.

        Args:
            begins: where the slot begins; None: it is made.
        """
        with server.connect(self._conninfo) as connection:
            if begins is None:
                with server.connect_replication(self._conninfo) as replication:
                    begins, snapshot = server.make_slot(replication, self._slot_name)
                    self._kept = Kept(**known, place=Place(begins, 0), in_snapshot=True)
                    server.begin_snapshot(connection, snapshot)
            else:
                self._kept = Kept(**known, place=Place(begins, 0), in_snapshot=True)
                server.begin_snapshot(connection, None)
            if self.values["snapshot.mode"] == "initial":
                offset = self._kept.as_offset()
                for table in wanted:
                    yield from self._read_table(connection, table, begins, offset)

    def _read_table(
        self, connection: server.Connection, table: server.Table, begins: int, offset: Mapping[str, Any]
    ) -> Iterator[list[SourceRecord]]:
        identity = [column.name for column in table.relation.columns if column.is_key]
        shape = Shape(table.relation, table.keys if table.relation.identity == "f" else identity, self._rules)
        batch: list[SourceRecord] = []
        now = _now_ms()
        for row in server.rows_of(connection, table.relation, [column.name for column in table.relation.columns]):
            record = shape.read(row, Origin(begins, None, now, now, in_snapshot=True))
            batch.append(self._placed(record, offset))
            if len(batch) >= self.values["max.batch.size"]:
                yield batch
                batch, now = [], _now_ms()
        if batch:
            yield batch

    def _go_on(self, place: Place) -> Position:
        """Begin with the changes after all rows; return that place."""
        assert self._kept is not None
        self._kept = Kept(
            system=self._kept.system, timeline=self._kept.timeline, slot=self._kept.slot, place=place, in_snapshot=False
        )
        self._begin_stream(place)
        return self._position(place)

    # Changes

    def _changes(self) -> Sequence[SourceRecord | Position] | None:
        assert self._stream is not None
        assert self._reading is not None
        pieces = self._stream.take(self.values["max.batch.size"], _WAIT_S)
        if not pieces:
            return None
        before = self._reading.place
        now = _now_ms()
        found: list[SourceRecord | Position] = []
        placed = before
        for piece in pieces:
            if isinstance(piece, Keepalive):
                self._reading.on_keepalive(piece)
                continue
            records = self._records(piece, now)
            if records:
                placed = self._reading.place
                offset = self._offset(placed)
                found += [self._placed(record, None) for record in records[:-1]]
                found.append(self._placed(records[-1], offset))
        place = self._reading.place
        assert self._kept is not None
        if place > placed:
            found.append(self._position(place))
        # After a lost connection, reading goes on here: all of it is handed over when this returns.
        self._kept = Kept(system=self._kept.system, timeline=self._kept.timeline, slot=self._kept.slot, place=place)
        return found

    def _records(self, piece: Payload, now_ms: int) -> list[SourceRecord]:
        """Return the records of one message of the log; none if it is no change, or one that came already."""
        assert self._reading is not None
        message = decode(piece.data)
        if message is None:
            return []
        if isinstance(message, Relation):
            self._shapes[message.id] = self._shape_of(message)
            return []
        if not self._reading.on_message(message):
            return []
        transaction = self._reading.transaction
        assert transaction is not None
        origin = Origin(piece.start, transaction.xid, transaction.at_us // 1000, now_ms)
        match message:
            case Change():
                shape = self._shape(message.relation)
                missing = shape.missing(message)
                if missing is not None:
                    message = shape.filled(message, self._texts(shape.relation, missing))
                return shape.records(message, origin)
            case Truncate():
                return [self._shape(number).truncation(origin) for number in message.relations]
        raise AssertionError(message)

    def _shape_of(self, relation: Relation) -> Shape:
        name = f"{relation.schema}.{relation.table}"
        names = [column.name for column in relation.columns]
        keys: Sequence[str] = [column.name for column in relation.columns if column.is_key]
        if relation.identity == "f":  # the log names all columns then
            keys = server.primary_key(self._ask(), relation.schema, relation.table)
            if not set(keys) <= set(names):
                raise ConnectError(
                    f"The primary key of table {name} is ({', '.join(keys)}) now, and changes from before that are still to "
                    f"come, with the columns {', '.join(names)}: what their key was is not known any more"
                )
        elif not keys:
            raise ConnectError(server.without_identity(name, relation.identity))
        return Shape(relation, keys, self._rules)

    def _ask(self) -> server.Connection:
        if self._asking is None:
            self._asking = server.connect(self._conninfo)
        return self._asking

    def _texts(self, relation: Relation, missing: Missing) -> dict[str, str | None]:
        """Return values of a row as they are now; none if the row or the columns are not there any more.

        A later change of that row comes behind, so that nothing is newer here than what all readers end with.
        """
        try:
            found = list(server.rows_of(self._ask(), relation, missing.columns, missing.key))
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
            return {}
        return dict(zip(missing.columns, found[0], strict=True)) if found else {}

    def _shape(self, number: int) -> Shape:
        if number not in self._shapes:
            raise ConnectError(f"PostgreSQL sent a change of table {number}, which it has not described")
        return self._shapes[number]

    def _offset(self, place: Place) -> dict[str, Any]:
        assert self._kept is not None
        kept = Kept(system=self._kept.system, timeline=self._kept.timeline, slot=self._kept.slot, place=place)
        return kept.as_offset()

    def _position(self, place: Place) -> Position:
        return Position(source_partition=self._partition, source_offset=self._offset(place))

    def _placed(self, record: SourceRecord, offset: Mapping[str, Any] | None) -> SourceRecord:
        return record.replace(source_partition=self._partition, source_offset=offset)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def slot_name_of(connector: str, values: Mapping[str, Any]) -> str:
    """Return the name of a connector's replication slot."""
    given: str = values["slot.name"]
    return given or re.sub(r"[^a-z0-9_]", "_", f"ottla_{connector.lower()}")[:63]


def _check_slot_name(name: str, value: Any) -> None:
    if value and not _SLOT.fullmatch(value):
        raise ConfigError.of(name, value, "a replication slot has small letters, digits and _ in its name, 63 at most")


def _check_patterns(name: str, value: Any) -> None:
    for text in value or ():
        try:
            compile_pattern(text)
        except re.error as error:
            raise ConfigError.of(name, text, f"it is no regular expression: {error}") from None


class PostgresConnector(SourceConnector):
    """Changes of tables. One task: a slot has one reader."""

    CONFIG = ConfigDef(
        ConfigKey(
            name="database.hostname",
            validator=NOT_EMPTY,
            importance=Importance.HIGH,
            documentation="PostgreSQL's host.",
        ),
        ConfigKey(name="database.port", type=ConfigType.INT, default=5432, documentation="Its port."),
        ConfigKey(
            name="database.user",
            importance=Importance.HIGH,
            validator=NOT_EMPTY,
            documentation="One with REPLICATION, who may read the tables; their owner, where a publication is to be made.",
        ),
        ConfigKey(
            name="database.password",
            type=ConfigType.PASSWORD,
            default=None,
            importance=Importance.HIGH,
            documentation="The user's password.",
        ),
        ConfigKey(
            name="database.dbname", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="The database."
        ),
        ConfigKey(
            name="database.sslmode",
            default="prefer",
            validator=one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
            documentation="Whether the connection is encrypted, and what is checked: libpq's words.",
        ),
        ConfigKey(name="database.sslrootcert", default=None, documentation="A file of authorities' certificates."),
        ConfigKey(name="database.sslcert", default=None, documentation="A file with the user's certificate."),
        ConfigKey(name="database.sslkey", default=None, documentation="A file with its key."),
        ConfigKey(
            name="topic.prefix",
            validator=NOT_EMPTY,
            importance=Importance.HIGH,
            documentation="Topics are prefix.schema.table; offsets belong to the prefix.",
        ),
        ConfigKey(
            name="table.include.list",
            type=ConfigType.LIST,
            validator=check(_check_patterns, "regular expressions"),
            importance=Importance.HIGH,
            documentation="Tables, as schema.table: regular expressions for the whole of it. There is no way to name none: "
            "never are all of a database's tables read unasked.",
        ),
        ConfigKey(
            name="slot.name",
            default="",
            validator=check(_check_slot_name, "small letters, digits and _"),
            importance=Importance.HIGH,
            documentation="The replication slot; ottla_ and the connector's name, if it is empty. It is made, and stays.",
        ),
        ConfigKey(
            name="publication.name", default="", documentation="The publication; if it is empty, the name of the slot."
        ),
        ConfigKey(
            name="publication.autocreate.mode",
            default="filtered",
            validator=one_of("filtered", "disabled"),
            documentation="filtered: it is made, and has the tables of table.include.list; disabled: it is there.",
        ),
        ConfigKey(
            name="plugin.name",
            default="pgoutput",
            validator=one_of("pgoutput"),
            documentation="PostgreSQL's own plugin.",
        ),
        ConfigKey(
            name="snapshot.mode",
            default="initial",
            validator=one_of("initial", "no_data", "never"),
            documentation="initial: all rows first; no_data, or never: changes only.",
        ),
        ConfigKey(
            name="decimal.handling.mode",
            default="precise",
            validator=one_of("precise", "string", "double"),
            documentation="NUMERIC with a scale: decimals, texts or doubles. Without a scale: texts or doubles.",
        ),
        ConfigKey(
            name="time.precision.mode",
            default="adaptive",
            validator=one_of("adaptive", "connect"),
            documentation="adaptive: as precise as the column, in Debezium's types; connect: Connect's, in milliseconds.",
        ),
        ConfigKey(
            name="unavailable.value.placeholder",
            default=UNAVAILABLE,
            documentation="In the place of a value that was not sent, because it has not changed.",
        ),
        ConfigKey(
            name="tombstones.on.delete",
            type=ConfigType.BOOLEAN,
            default=True,
            documentation="Whether a record without a value follows a deletion.",
        ),
        ConfigKey(
            name="max.batch.size",
            type=ConfigType.INT,
            default=2048,
            validator=at_least(1),
            documentation="The most messages that are taken at once.",
        ),
        ConfigKey(
            name="status.update.interval.ms",
            type=ConfigType.INT,
            default=10000,
            validator=at_least(1),
            documentation="How often the server is told of its reader. Less than its wal_sender_timeout.",
        ),
    )
    Task = PostgresTask

    def task_configs(self, tasks_max: int) -> list[dict[str, str]]:
        if not self.values["table.include.list"]:
            raise ConfigError('Missing required configuration "table.include.list" which has no default value.')
        _check_slot_name("slot.name", slot_name_of(self.config.get("name", ""), self.values))
        return [self.config]

    def exactly_once_support(self) -> bool:
        """Changes come once for each offset; rows that are read first come again if that is cut off."""
        return bool(self.values["snapshot.mode"] != "initial")

    def alter_offsets(self, offsets: Sequence[tuple[PlainPlace, PlainPlace | None]]) -> bool:
        """Forget them: the replication slot is dropped. Others cannot be set: the slot says where reading goes on.

        Raises:
            ConnectError: they are to be set, or the slot cannot be dropped.
        """
        if any(offset is not None for _, offset in offsets):
            raise ConnectError(
                "The offsets of changes cannot be set, only reset: the replication slot has its own place"
            )
        _retried(lambda: self._drop_slot())
        return True

    def left_behind(self) -> str | None:
        name = slot_name_of(self.config.get("name", ""), self.values)
        whole = (
            f"the replication slot {name} in the database {self.values['database.dbname']} stays, and PostgreSQL keeps "
            f"its log from there on until its disk is full: SELECT pg_drop_replication_slot('{name}') drops it"
        )
        try:
            with server.connect(server.conninfo_of(self.values)) as connection:
                kept = server.kept_bytes(connection, name)
        except psycopg.Error as error:
            return f"{whole}, if it was made (PostgreSQL: {server.told(error)})"
        return None if kept is None else f"{whole}. It keeps {kept / (1 << 20):.1f} MiB now"

    def _drop_slot(self) -> None:
        with server.connect(server.conninfo_of(self.values)) as connection:
            server.drop_slot(connection, slot_name_of(self.config.get("name", ""), self.values))


def _retried(do: Callable[[], None], limit_s: float = 10.0) -> None:
    """Do something until it works, while the slot is in use by a reader that has just gone."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return do()
        except psycopg.Error as error:
            if error.sqlstate != "55006" or time.monotonic() > deadline:
                raise ConnectError(f"PostgreSQL: {server.told(error)}") from error
            time.sleep(0.2)
