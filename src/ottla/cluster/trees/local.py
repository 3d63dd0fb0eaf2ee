"""The coordination tree of a single node: one SQLite file (WAL, synchronous=FULL), with ZooKeeper's versions and ids.

A change is on disk when `multi` returns. All calls run through Offload, one at a time, in the order they were made: a disk
that is slow stalls the tree, never the loop. SQLite knows no watches; all changes go through this object, so it tells its own
watchers. Sessions of earlier runs are over when the file is opened: their ephemeral nodes are removed.

The file is small (some hundred bytes per partition) and can be lost: topics are rebuilt from partition.metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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
    SessionEndedError,
    SessionState,
    SetData,
    Stat,
    TreeUnavailableError,
    check_operations,
    parent_of,
    sequential_path,
)
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners

if TYPE_CHECKING:
    import sqlite3

    from ottla.offload import Offload

P = ParamSpec("P")
T = TypeVar("T")

#: 2: the tree in it may have format 1, which the first releases do not know; they refuse the file because of this number.
FORMAT_VERSION = 2
#: A session lasts as long as the file is open; this is what others reckon with (Kafka's default for ZooKeeper).
SESSION_TIMEOUT_MS = 18_000
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


class LocalTree:
    """A session with the tree in one file. `open` before use."""

    def __init__(self, path: str, offload: Offload) -> None:
        self._path = path
        self._offload = offload
        self._connection: sqlite3.Connection | None = None
        self._session_id = 0
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()
        self._watches = ChildrenWatches()
        self._state_listeners: Listeners[[SessionState]] = Listeners()

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return SESSION_TIMEOUT_MS

    @property
    def state(self) -> SessionState:
        return SessionState.ENDED if self._connection is None else SessionState.CONNECTED

    async def open(self) -> None:
        """Open the file, or make it, and begin a session.

        Raises:
            TreeUnavailableError: the file cannot be opened, is damaged, or was written by a newer release.
        """
        try:
            self._connection, self._session_id = await self._run(_open, self._path)
        except TreeUnavailableError as error:
            raise TreeUnavailableError(
                f"{self._path}, which holds the topics and their settings, cannot be opened ({error}); if it "
                "is lost, move it away: topics are then rebuilt from the data directories, without their settings"
            ) from error

    async def get(self, path: str) -> Node:
        node = (await self._run(_read, self._live(), (path,)))[0]
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        return await self._run(_read, self._live(), tuple(paths))

    async def children(self, path: str) -> list[str]:
        return await self._run(_children, self._live(), path)

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        connection = self._live()

        def apply() -> tuple[Result, ...]:
            results, changed = _multi(connection, tuple(operations), self._session_id)
            # From here and not after the wait: the caller may be gone by then, and the change is made all the same.
            loop.call_soon_threadsafe(self._watches.tell, changed)
            return results

        loop = asyncio.get_running_loop()
        return await self._run(apply)

    async def sync(self) -> None:
        self._live()  # every change goes through this object

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._watches.add(path, callback)

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        return self._state_listeners.add(callback)

    async def close(self) -> None:
        """End the session and close the file."""
        connection, self._connection = self._connection, None
        self._watches.clear()
        if connection is not None:
            await self._run(_close, connection)
            self._state_listeners.tell(SessionState.ENDED)

    def _live(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SessionEndedError(f"{self._path} is not open")
        return self._connection

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call off the loop, after the calls before it.

        A caller may be cancelled; what has begun goes on, and the next call waits for it. The connection must not be
        used by two threads at once.
        """

        async def in_turn() -> T:
            async with self._turn:
                return await self._offload.run(_translating, function, *args, **kwargs)

        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(in_turn())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _translating(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Turn SQLite's errors into ours."""
    import sqlite3

    try:
        return function(*args, **kwargs)
    except sqlite3.Error as error:
        raise TreeUnavailableError(f"the coordination tree cannot be used: {error}") from error


def _open(path: str) -> tuple[sqlite3.Connection, int]:
    import sqlite3  # 5 ms, and only a broker with a local tree needs it

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
        connection.execute("BEGIN IMMEDIATE")
        zxid = connection.execute("SELECT value FROM counter WHERE name = 'zxid'").fetchone()[0]
        if connection.execute("DELETE FROM node WHERE owner != 0").rowcount:
            connection.execute("UPDATE counter SET value = ? WHERE name = 'zxid'", (zxid + 1,))
        connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'session'")
        session = connection.execute("SELECT value FROM counter WHERE name = 'session'").fetchone()[0]
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection, session


def _close(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("DELETE FROM node WHERE owner != 0").rowcount:
            connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'zxid'")
        connection.execute("COMMIT")
    finally:
        connection.close()


_NODE_COLUMNS = "data, czxid, mzxid, version, owner"


def _read(connection: sqlite3.Connection, paths: tuple[str, ...]) -> list[Node | None]:
    found: list[Node | None] = []
    for path in paths:
        row = connection.execute(f"SELECT {_NODE_COLUMNS} FROM node WHERE path = ?", (path,)).fetchone()
        found.append(None if row is None else Node(row[0], Stat(*row[1:])))
    return found


def _children(connection: sqlite3.Connection, path: str) -> list[str]:
    rows = connection.execute("SELECT path FROM node WHERE parent = ?", (path,)).fetchall()
    if not rows and _read(connection, (path,))[0] is None:
        raise NoNodeError(path)
    return sorted(parent_of(row[0])[1] for row in rows)


def _multi(
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
