"""The coordination tree of a single node: one SQLite file, opened by this process alone.

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
    Node,
    NoNodeError,
    Operation,
    Result,
    SessionEndedError,
    SessionState,
    TreeUnavailableError,
    check_operations,
)
from ottla.cluster.trees import sqlite_nodes
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners

if TYPE_CHECKING:
    import sqlite3

    from ottla.offload import Offload

P = ParamSpec("P")
T = TypeVar("T")

#: A session lasts as long as the file is open; this is what others reckon with (Kafka's default for ZooKeeper).
SESSION_TIMEOUT_MS = 18_000


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
            self._connection, self._session_id = await self._run(_open_alone, self._path)
        except TreeUnavailableError as error:
            raise TreeUnavailableError(
                f"{self._path}, which holds the topics and their settings, cannot be opened ({error}); if it "
                "is lost, move it away: topics are then rebuilt from the data directories, without their settings"
            ) from error

    async def get(self, path: str) -> Node:
        node = (await self._run(sqlite_nodes.read, self._live(), (path,)))[0]
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        return await self._run(sqlite_nodes.read, self._live(), tuple(paths))

    async def children(self, path: str) -> list[str]:
        return await self._run(sqlite_nodes.children, self._live(), path)

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        connection = self._live()

        def apply() -> tuple[Result, ...]:
            results, changed = sqlite_nodes.apply(connection, tuple(operations), self._session_id)
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
                return await self._offload.run(sqlite_nodes.translating, function, *args, **kwargs)

        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(in_turn())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _open_alone(path: str) -> tuple[sqlite3.Connection, int]:
    """Open the file and begin a session; all before it are over."""
    connection = sqlite_nodes.open_file(path)
    try:
        sqlite_nodes.end_sessions(connection)
        return connection, sqlite_nodes.next_session(connection)
    except BaseException:
        connection.close()
        raise


def _close(connection: sqlite3.Connection) -> None:
    try:
        sqlite_nodes.end_sessions(connection)
    finally:
        connection.close()
