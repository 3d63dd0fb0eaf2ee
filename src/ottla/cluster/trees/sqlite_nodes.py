"""The nodes of a coordination tree in one SQLite file (WAL, synchronous=FULL), with ZooKeeper's versions and ids.

Plain functions on a connection, one call at a time; a change is on the disk when `apply` returns. Whose session it is in say
the callers: one that lasts as long as the file is open (`local`), or those of several processes (`served`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ottla.cluster.tree import (
    ANY_VERSION,
    BadVersionError,
    Check,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    Result,
    SetData,
    Stat,
    TreeUnavailableError,
    parent_of,
    sequential_path,
)

if TYPE_CHECKING:
    import sqlite3

P = ParamSpec("P")
T = TypeVar("T")

#: 2: the tree in it may have format 1, which the first releases do not know; they refuse the file because of this number.
FORMAT_VERSION = 2
#: "ottl" in the file's header, so that `file` and others can tell.
APPLICATION_ID = 0x6F74746C

_SCHEMA = """
CREATE TABLE node (
    path TEXT PRIMARY KEY,
    parent TEXT NOT NULL,
    data BLOB NOT NULL,
    czxid INTEGER NOT NULL,
    mzxid INTEGER NOT NULL,
    version INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX node_by_parent ON node (parent);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('zxid', 0), ('session', 0);
INSERT INTO node VALUES ('/', '', x'', 0, 0, 0, 0, 0);
"""

#: Names that ZooKeeper does not take, and now no tree: groups called "." and ".." that have settings.
_FROM_1 = """
UPDATE node SET path = parent || '/%2E' WHERE path = parent || '/.';
UPDATE node SET path = parent || '/%2E%2E' WHERE path = parent || '/..';
"""


def translating(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Turn SQLite's errors into ours."""
    import sqlite3

    try:
        return function(*args, **kwargs)
    except sqlite3.Error as error:
        raise TreeUnavailableError(f"the coordination tree cannot be used: {error}") from error


def _keep_private(path: str) -> None:
    """Let only its owner read the file: it holds what passwords are checked with.

    SQLite gives the files beside it (-wal, -shm) the same mode.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if os.stat(path).st_mode & 0o077:
            os.chmod(path, 0o600)
    except OSError as error:
        raise TreeUnavailableError(f"the coordination tree cannot be used: {error.strerror or error}") from error


def open_file(path: str) -> sqlite3.Connection:
    """Open a file, or make it.

    Raises:
        TreeUnavailableError: a newer release wrote it, or it cannot be opened.
    """
    import sqlite3  # 5 ms, and only a broker with a local tree needs it

    _keep_private(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; {_SCHEMA}"
                f" PRAGMA user_version={FORMAT_VERSION}; COMMIT"
            )
        elif version == 1:
            connection.executescript(f"BEGIN IMMEDIATE; {_FROM_1} PRAGMA user_version={FORMAT_VERSION}; COMMIT")
        elif version != FORMAT_VERSION:
            raise TreeUnavailableError(
                f"{path} has format {version}, and this release knows {FORMAT_VERSION}: it was written by a newer one"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def next_session(connection: sqlite3.Connection) -> int:
    """Return the id of a session that is begun now; none is given twice."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'session'")
    session: int = connection.execute("SELECT value FROM counter WHERE name = 'session'").fetchone()[0]
    connection.execute("COMMIT")
    return session


def owners(connection: sqlite3.Connection) -> list[int]:
    """Return the sessions that own ephemeral nodes."""
    return [row[0] for row in connection.execute("SELECT DISTINCT owner FROM node WHERE owner != 0")]


def end_sessions(connection: sqlite3.Connection, sessions: Collection[int] | None = None) -> list[str]:
    """Remove the ephemeral nodes of these sessions, of all unless given; return the parents whose children changed."""
    connection.execute("BEGIN IMMEDIATE")
    rows = connection.execute("SELECT path, parent, owner FROM node WHERE owner != 0").fetchall()
    gone = [(path, parent) for path, parent, owner in rows if sessions is None or owner in sessions]
    connection.executemany("DELETE FROM node WHERE path = ?", [(path,) for path, _ in gone])
    if gone:
        connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'zxid'")
    connection.execute("COMMIT")
    return list(dict.fromkeys(parent for _, parent in gone))


def read_file(path: str) -> dict[str, bytes]:
    """Return the data of all persistent nodes of a file, as of one moment, whether a process uses it or not.

    Raises:
        TreeUnavailableError: there is no such file, or it is none of ours.
    """
    import sqlite3
    from contextlib import closing
    from urllib.parse import quote

    def read_all() -> dict[str, bytes]:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=5)) as connection:
            return dict(connection.execute("SELECT path, data FROM node WHERE owner = 0 ORDER BY path").fetchall())

    return translating(read_all)


_NODE_COLUMNS = "data, czxid, mzxid, version, owner"


def read(connection: sqlite3.Connection, paths: tuple[str, ...]) -> list[Node | None]:
    """Return the nodes, None for those that do not exist."""
    found: list[Node | None] = []
    for path in paths:
        row = connection.execute(f"SELECT {_NODE_COLUMNS} FROM node WHERE path = ?", (path,)).fetchone()
        found.append(None if row is None else Node(row[0], Stat(*row[1:])))
    return found


def children(connection: sqlite3.Connection, path: str) -> list[str]:
    """Return the names of a node's children, sorted. Raises NoNodeError."""
    rows = connection.execute("SELECT path FROM node WHERE parent = ?", (path,)).fetchall()
    if not rows and read(connection, (path,))[0] is None:
        raise NoNodeError(path)
    return sorted(parent_of(row[0])[1] for row in rows)


def apply(
    connection: sqlite3.Connection, operations: tuple[Operation, ...], session_id: int
) -> tuple[tuple[Result, ...], list[str]]:
    """Apply the operations in one transaction; return the results and the parents whose children changed."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        zxid = connection.execute("SELECT value FROM counter WHERE name = 'zxid'").fetchone()[0]
        changed: dict[str, None] = {}
        results: list[Result] = []
        if any(not isinstance(operation, Check) for operation in operations):
            zxid += 1
            connection.execute("UPDATE counter SET value = ? WHERE name = 'zxid'", (zxid,))
        for operation in operations:
            if isinstance(operation, Create):
                results.append(_create(connection, operation, session_id, zxid, changed))
            else:
                results.append(_change(connection, operation, zxid, changed))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    return tuple(results), list(changed)


def _create(
    connection: sqlite3.Connection, operation: Create, session_id: int, zxid: int, changed: dict[str, None]
) -> str:
    parent = parent_of(operation.path)[0]
    row = connection.execute("SELECT owner, sequence FROM node WHERE path = ?", (parent,)).fetchone()
    if row is None:
        raise NoNodeError(operation.path, "its parent does not exist")
    if row[0]:
        raise NoChildrenForEphemeralsError(operation.path)
    path = sequential_path(operation.path, row[1]) if operation.sequential else operation.path
    if connection.execute("SELECT 1 FROM node WHERE path = ?", (path,)).fetchone():
        raise NodeExistsError(operation.path)
    owner = session_id if operation.ephemeral else 0
    connection.execute(
        "INSERT INTO node (path, parent, data, czxid, mzxid, version, owner) VALUES (?, ?, ?, ?, ?, 0, ?)",
        (path, parent, bytes(operation.data), zxid, zxid, owner),
    )
    connection.execute("UPDATE node SET sequence = sequence + 1 WHERE path = ?", (parent,))
    changed[parent] = None
    return path


def _change(
    connection: sqlite3.Connection, operation: SetData | Delete | Check, zxid: int, changed: dict[str, None]
) -> Stat | None:
    path = operation.path
    row = connection.execute("SELECT czxid, version, owner FROM node WHERE path = ?", (path,)).fetchone()
    if row is None:
        raise NoNodeError(path)
    czxid, version, owner = row
    if operation.version not in (ANY_VERSION, version):
        raise BadVersionError(path, f"it is in version {version}, expected was {operation.version}")
    if isinstance(operation, Check):
        return None
    if isinstance(operation, SetData):
        connection.execute(
            "UPDATE node SET data = ?, mzxid = ?, version = version + 1 WHERE path = ?",
            (bytes(operation.data), zxid, path),
        )
        return Stat(czxid, zxid, version + 1, owner)
    count = connection.execute("SELECT count(*) FROM node WHERE parent = ?", (path,)).fetchone()[0]
    if count:
        raise NotEmptyError(path, f"it has {count} children")
    connection.execute("DELETE FROM node WHERE path = ?", (path,))
    changed[parent_of(path)[0]] = None
    return None
