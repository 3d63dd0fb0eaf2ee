"""What a connector asks of PostgreSQL: which tables there are, their keys, the publication, the slot, all rows.

Two kinds of connections: `connect` for statements, `connect_replication` for the log, on which statements go, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ottla.connect.config_def import Password
from ottla.connect.errors import ConnectError
from ottla.connect.library.change_data.pgoutput import Column, Relation, lsn_of
from ottla.connect.library.change_data.places import Server, Slot

log = logging.getLogger(__name__)
Connection = psycopg.Connection[tuple[Any, ...]]
#: Texts of values are the same whatever the server's settings are: those of rows and those of changes are read by one reader.
#: Policies that hide rows from this user raise an error, instead of hiding them.
_TEXTS = (
    "-c datestyle=ISO,YMD -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=1 -c bytea_output=hex "
    "-c xmloption=content -c row_security=off -c idle_in_transaction_session_timeout=0 -c statement_timeout=0 "
    "-c lc_monetary=C"
)
#: SQLSTATE classes that end by themselves: no connection, conflicts, no resources, the slot is in use, shutting down.
_PASSING = ("08", "40", "53", "55006", "57P")
#: What a server that refuses a connection says if it may not do so next time: a failed connection has no SQLSTATE.
_REFUSED_FOR_NOW = ("the database system is", "too many", "remaining connection slots", "number of requested standby")


class Table(NamedTuple):
    """A table whose changes are read. `keys`: the columns of its primary key, if all of a row is its identity."""

    relation: Relation
    keys: tuple[str, ...]


def conninfo_of(values: Mapping[str, Any]) -> str:
    """Return the address of a database, by a connector's configuration."""
    password: Password | None = values["database.password"]
    given = {
        "host": values["database.hostname"],
        "port": values["database.port"],
        "user": values["database.user"],
        "password": password.value if password is not None else None,
        "dbname": values["database.dbname"],
        "sslmode": values["database.sslmode"],
        "sslrootcert": values["database.sslrootcert"],
        "sslcert": values["database.sslcert"],
        "sslkey": values["database.sslkey"],
    }
    fixed: dict[str, Any] = {
        "connect_timeout": 10,
        "application_name": "ottla connect",
        "client_encoding": "UTF8",
        "options": _TEXTS,
    }
    fixed |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return make_conninfo(**fixed, **{name: value for name, value in given.items() if value is not None})


def connect(conninfo: str) -> Connection:
    """Return a connection for statements."""
    return psycopg.connect(conninfo, autocommit=True)


def connect_replication(conninfo: str) -> Connection:
    """Return a connection for the log: it takes statements without parameters."""
    return psycopg.connect(conninfo, autocommit=True, replication="database")


def may_pass(error: psycopg.Error) -> bool:
    """Whether what the server said may be gone next time."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_PASSING)
    told = str(error)
    if "FATAL:" in told and not any(part in told for part in _REFUSED_FOR_NOW):
        return False
    return isinstance(error, psycopg.OperationalError)


def told(error: psycopg.Error) -> str:
    """Return what the server said, in one line."""
    return " ".join(str(error).split())


def check_settings(connection: Connection) -> None:
    """Raise if the server does not write what is needed; warn where its disk may fill.

    Raises:
        ConnectError: it says what to change.
    """
    level, keep = _one(
        connection,
        "SELECT current_setting('wal_level'), current_setting('max_slot_wal_keep_size', true)",
    )
    if level != "logical":
        raise ConnectError(
            f"PostgreSQL's wal_level is {level}: changes can be read when it is logical (a restart of the server)"
        )
    if keep == "-1":
        log.warning(
            "PostgreSQL's max_slot_wal_keep_size has no limit: while this connector does not run, its slot keeps the log, "
            "and the server's disk may fill"
        )


def tables(connection: Connection, matches: Callable[[str], bool]) -> list[Table]:
    """Return the tables whose names, as schema.table, match.

    Raises:
        ConnectError: one says too little of its changes; the message has the statement to run.
    """
    found = []
    rows = connection.execute(
        "SELECT c.oid, n.nspname, c.relname, c.relreplident, c.relkind, c.relpersistence FROM pg_class c JOIN "
        "pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' "
        "AND n.nspname <> 'information_schema' ORDER BY 2, 3"
    ).fetchall()
    for number, schema, table, identity, kind, persistence in rows:
        name = f"{schema}.{table}"
        if not matches(name):
            continue
        if persistence != "p":
            raise ConnectError(f"Table {name} is unlogged or temporary: its changes are not in the log")
        columns, keys = _columns(connection, number, identity)
        checked = [(name, identity, any(column.is_key for column in columns))]
        if kind == "p":
            checked += _parts(connection, number)
        for part, its_identity, has_key in checked:
            _check_identity(part, its_identity, has_key)
        relation = Relation(id=number, schema=schema, table=table, identity=identity, columns=tuple(columns))
        found.append(Table(relation, tuple(keys) if identity == "f" else ()))
    return found


def _check_identity(name: str, identity: str, has_key: bool) -> None:
    if identity == "f" or has_key:
        return
    raise ConnectError(without_identity(name, identity))


def without_identity(name: str, identity: str) -> str:
    """Return what is wrong with a table whose changes name no row."""
    missing = "has no primary key" if identity == "d" else "has no replica identity"
    return (
        f"Table {name} {missing}, so that its log does not say which row was changed or deleted. ALTER TABLE {name} ADD "
        f"PRIMARY KEY (...), or ALTER TABLE {name} REPLICA IDENTITY FULL"
    )


def _parts(connection: Connection, number: int) -> list[tuple[str, str, bool]]:
    return connection.execute(
        "SELECT c.oid::regclass::text, c.relreplident::text, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND "
        "CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) FROM "
        "pg_partition_tree(%s) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf ORDER BY 1",
        (number,),
    ).fetchall()


def _columns(connection: Connection, number: int, identity: str) -> tuple[list[Column], list[str]]:
    """Return a table's columns, as a message of the log describes them, and those of its primary key."""
    rows = connection.execute(
        "SELECT a.attname, a.atttypid::bigint, a.atttypmod, "
        "EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)), "
        "EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisreplident AND a.attnum = ANY (i.indkey)) "
        "FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' "
        "ORDER BY a.attnum",
        (number,),
    ).fetchall()

    def is_key(row: tuple[Any, ...]) -> bool:
        return identity == "f" or bool({"d": row[3], "i": row[4]}.get(identity))

    return [Column(row[0], row[1], row[2], is_key(row)) for row in rows], [row[0] for row in rows if row[3]]


def primary_key(connection: Connection, schema: str, table: str) -> tuple[str, ...]:
    """Return the columns of a table's primary key, as it is now; empty: there is none, or no such table."""
    rows = connection.execute(
        "SELECT a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_index i ON i.indrelid = c.oid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) "
        "WHERE n.nspname = %s AND c.relname = %s AND i.indisprimary ORDER BY a.attnum",
        (schema, table),
    )
    return tuple(row[0] for row in rows)


def publish(connection: Connection, name: str, wanted: Sequence[Table], *, may_change: bool) -> list[str]:
    """See to it that a publication has the tables; return those that were added to one that was there.

    Raises:
        ConnectError: it has not, and may not be changed, or not by this user.
    """
    names = {f"{table.relation.schema}.{table.relation.table}" for table in wanted}
    listed = sql.SQL(", ").join(sql.Identifier(table.relation.schema, table.relation.table) for table in wanted)
    there = connection.execute(
        "SELECT puballtables, pubinsert AND pubupdate AND pubdelete FROM pg_publication WHERE pubname = %s", (name,)
    ).fetchone()
    if there is not None and not there[1]:
        raise ConnectError(
            f"The publication {name} leaves out inserts, updates or deletions: ALTER PUBLICATION {_quoted(name)} SET "
            "(publish = 'insert, update, delete, truncate')"
        )
    if there is None:
        statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)")
        added: list[str] = []
    else:
        rows = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s", (name,)
        )
        has = {row[0] for row in rows}
        if names <= has and (there[0] or not may_change or names == has):
            return []
        statement = sql.SQL("ALTER PUBLICATION {} SET TABLE {}")
        added = sorted(names - has)
    whole = statement.format(sql.Identifier(name), listed)
    if not may_change:
        raise ConnectError(
            f"The publication {name} lacks {', '.join(added or sorted(names))}, and publication.autocreate.mode is disabled: "
            f"{whole.as_string(connection)}"
        )
    try:
        connection.execute(whole)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConnectError(f"{told(error)}. Somebody who may has to run: {whole.as_string(connection)}") from error
    return added


def server_of(replication: Connection, timeline: int | None) -> Server:
    """Return what a server says of itself.

    Args:
        timeline: the one that was read last; if the server has another one, it is asked where that ended.
    """
    system, now, end, database = _one(replication, "IDENTIFY_SYSTEM")
    ends = []
    if timeline is not None and timeline != now:
        row = _one(replication, f"TIMELINE_HISTORY {int(now)}")
        content = bytes(row[1]).decode() if not isinstance(row[1], str) else row[1]
        for line in content.splitlines():
            parts = line.split("\t")
            if len(parts) >= 2 and parts[0].strip().isdigit():
                ends.append((int(parts[0]), lsn_of(parts[1].strip())))
    return Server(system=str(system), timeline=int(now), end=lsn_of(end), database=str(database), ends=ends)


def slot_of(connection: Connection, name: str) -> Slot | None:
    """Return a replication slot, or None."""
    row = connection.execute(
        "SELECT plugin::text, database::text, confirmed_flush_lsn::text, to_jsonb(s) ->> 'wal_status', active_pid "
        "FROM pg_replication_slots s WHERE slot_name = %s",
        (name,),
    ).fetchone()
    if row is None:
        return None
    plugin, database, confirmed, status, pid = row
    return Slot(
        name=name,
        plugin=str(plugin),
        database=str(database),
        confirmed=lsn_of(confirmed or "0/0"),
        is_lost=status == "lost" or confirmed is None,
        active_pid=pid,
    )


def kept_bytes(connection: Connection, name: str) -> int | None:
    """Return how much of the log a replication slot keeps; None: there is no such slot."""
    row = connection.execute(
        "SELECT coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE "
        "pg_current_wal_lsn() END, restart_lsn), 0)::bigint FROM pg_replication_slots WHERE slot_name = %s",
        (name,),
    ).fetchone()
    return None if row is None else int(row[0])


def make_slot(replication: Connection, name: str) -> tuple[int, str]:
    """Make a replication slot; return where it begins, and the name of a snapshot of the database at that place.

    The snapshot is there until the connection does something else.
    """
    statement = f"CREATE_REPLICATION_SLOT {_quoted(name)} LOGICAL pgoutput EXPORT_SNAPSHOT"
    _, begins, snapshot, _ = _one(replication, statement)
    return lsn_of(begins), str(snapshot)


def drop_slot(connection: Connection, name: str) -> None:
    """Drop a replication slot, if it is there."""
    connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,)
    )


def begin_snapshot(connection: Connection, snapshot: str | None) -> None:
    """Begin a transaction that sees one moment: that of a snapshot, or now."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if snapshot is not None:
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


def rows_of(
    connection: Connection, relation: Relation, columns: Sequence[str], key: Mapping[str, str] | None = None
) -> Iterator[tuple[str | None, ...]]:
    """Yield the rows of a table, by the texts of their values; the server keeps what was not asked for yet.

    Args:
        key: only the row with this key, by the texts of its values.
    """
    here: list[sql.Composable] = [
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(text)) for name, text in (key or {}).items()
    ]
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
        sql.SQL(", ").join(sql.Identifier(name) for name in columns),
        sql.Identifier(relation.schema, relation.table),
        sql.SQL(" AND ").join(here or [sql.SQL("true")]),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        yield from copy.rows()


def _one(connection: Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def start_statement(slot: str, publication: str, lsn: str) -> bytes:
    """Return the statement that has a server send its log."""
    named = _quoted(publication).replace("'", "''")
    return (
        f"START_REPLICATION SLOT {_quoted(slot)} LOGICAL {lsn} (proto_version '1', publication_names '{named}')"
    ).encode()
