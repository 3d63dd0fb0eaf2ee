"""The coordination tree of one machine: a supervisor holds it in a SQLite file and serves it to its brokers on a Unix socket.

Sessions are those of the brokers' processes. One ends when its broker says so, when its process has ended, or when nothing
was heard of it for its timeout. Time is counted in ticks of this process: while it is stopped, or the machine sleeps, no
session grows older. When this process is started anew the sessions that own nodes go on, each with a full timeout, as in
ZooKeeper. Only processes of the same user are let in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from ottla.cluster.tree import TreeError, TreeUnavailableError
from ottla.cluster.trees import sqlite_nodes
from ottla.cluster.trees.served_frames import (
    EVENT,
    frame,
    pack_error,
    pack_node,
    pack_result,
    read_frame,
    unpack_operation,
)

if TYPE_CHECKING:
    import sqlite3

    from ottla.offload import Offload

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

TICK_SECONDS: Final = 0.25
#: Of sessions whose broker has not come back since this process was started.
DEFAULT_TIMEOUT_MS: Final = 18_000
#: Linux takes no longer paths for sockets.
SOCKET_PATH_MAX: Final = 107


class _Session:
    __slots__ = ("connection", "heard_at", "pid", "timeout_ticks")

    def __init__(self, timeout_ms: int, now: int, pid: int = 0) -> None:
        self.pid = pid
        self.timeout_ticks = max(round(timeout_ms / 1000 / TICK_SECONDS), 1)
        self.heard_at = now
        self.connection: _Connection | None = None


class _Connection:
    __slots__ = ("pid", "session_id", "watched", "writer")

    def __init__(self, writer: asyncio.StreamWriter, pid: int) -> None:
        self.pid = pid
        self.writer = writer
        self.session_id = 0
        self.watched: set[str] = set()


class TreeServer:
    """Serves the tree in `path` on a Unix socket. `start` before use."""

    def __init__(self, path: str, socket_path: str, offload: Offload) -> None:
        self.socket_path = socket_path
        self._path = path
        self._offload = offload
        self._connection: sqlite3.Connection | None = None
        self._sessions: dict[int, _Session] = {}
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._ticks = 0
        self._server: asyncio.AbstractServer | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the file and take connections.

        Raises:
            TreeUnavailableError: the file or the socket cannot be used; one sentence says why.
        """
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_MAX:
            raise TreeUnavailableError(
                f"the path {self.socket_path} is too long for a socket, which takes {SOCKET_PATH_MAX} bytes: choose a "
                "data directory with a shorter path"
            )
        self._connection = await self._run(sqlite_nodes.open_file, self._path)
        for session_id in await self._run(sqlite_nodes.owners, self._connection):
            self._sessions[session_id] = _Session(DEFAULT_TIMEOUT_MS, self._ticks)
        try:
            os.unlink(self.socket_path)
        except FileNotFoundError:
            pass
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._take, self.socket_path)
        except OSError as error:
            raise TreeUnavailableError(f"the socket {self.socket_path} cannot be made: {error.strerror}") from error
        finally:
            os.umask(umask)
        self._ticking = asyncio.get_running_loop().create_task(self._tick(), name="tree-sessions")

    async def stop(self) -> None:
        """Serve no more. Sessions stay: their brokers may come back to the next server."""
        if self._server is not None:
            self._server.close()
        tasks = [*self._handlers, *([self._ticking] if self._ticking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._run(connection.close)
        try:
            os.unlink(self.socket_path)
        except FileNotFoundError:
            pass

    # -- sessions

    @property
    def has_absent(self) -> bool:
        """Whether there is a session whose broker is not connected: it may come back, or the session ends."""
        return any(session.connection is None for session in self._sessions.values())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._ticks += 1
            expired = [
                session_id
                for session_id, session in self._sessions.items()
                if self._ticks - session.heard_at > session.timeout_ticks
                or (session.connection is None and _has_ended(session.pid))
            ]
            if expired:
                logger.warning("%d sessions with the coordination tree have ended", len(expired))
                await self._end(expired)

    async def _end(self, session_ids: list[int]) -> None:
        for session_id in session_ids:
            session = self._sessions.pop(session_id, None)
            if session is not None and session.connection is not None:
                session.connection.writer.close()
        if self._connection is not None:
            self._tell(await self._run(sqlite_nodes.end_sessions, self._connection, set(session_ids)))

    # -- connections

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid, pid = _peer(writer.get_extra_info("socket"))
        if uid != os.getuid():
            logger.warning("a process of another user wants to use the coordination tree: refused")
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer, pid))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int) -> None:
        connection = _Connection(writer, pid)
        self._connections.add(connection)
        try:
            while True:
                number, what, *arguments = await read_frame(reader)
                answer = await self._answer(connection, what, arguments)
                writer.write(frame([number, *answer]))
                await writer.drain()
        except (OSError, EOFError, ValueError, TypeError) as error:
            logger.debug("a connection to the coordination tree has ended: %s", error)
        finally:
            self._connections.discard(connection)
            session = self._sessions.get(connection.session_id)
            if session is not None and session.connection is connection:
                session.connection = None
            writer.close()

    async def _answer(self, connection: _Connection, what: str, arguments: list[Any]) -> list[Any]:
        try:
            if what == "begin":
                return [await self._begin(connection, *arguments)]
            session = self._sessions.get(connection.session_id)
            if session is None or session.connection is not connection:
                raise ConnectionError("the session has ended")
            session.heard_at = self._ticks
            return [await self._do(connection, what, arguments)]
        except (TreeError, TreeUnavailableError) as error:
            return pack_error(error)

    async def _begin(self, connection: _Connection, session_id: int, timeout_ms: int) -> int:
        """Begin a session, or go on with one; return its id, 0 if the one to go on with has ended."""
        if session_id:
            session = self._sessions.get(session_id)
            if session is None:
                return 0
            if session.connection is not None:
                session.connection.writer.close()
        else:
            session_id = await self._run(sqlite_nodes.next_session, self._live())
        session = self._sessions[session_id] = _Session(timeout_ms, self._ticks, connection.pid)
        session.connection = connection
        connection.session_id = session_id
        return session_id

    async def _do(self, connection: _Connection, what: str, arguments: list[Any]) -> Any:
        if what == "get":
            found = await self._run(sqlite_nodes.read, self._live(), tuple(arguments[0]))
            return [pack_node(node) for node in found]
        if what == "children":
            return await self._run(sqlite_nodes.children, self._live(), arguments[0])
        if what == "multi":
            operations = tuple(unpack_operation(packed) for packed in arguments[0])
            results, changed = await self._run(sqlite_nodes.apply, self._live(), operations, connection.session_id)
            self._tell(changed)
            return [pack_result(result) for result in results]
        if what == "watch":
            connection.watched.add(arguments[0])
        elif what == "end":
            await self._end([connection.session_id])
        elif what != "ping":
            raise ConnectionError(f"{what!r} is no request")
        return True

    def _tell(self, changed: list[str]) -> None:
        for connection in self._connections:
            for path in changed:
                if path in connection.watched and not connection.writer.is_closing():
                    connection.writer.write(frame([EVENT, path]))

    def _live(self) -> sqlite3.Connection:
        if self._connection is None:
            raise TreeUnavailableError("the coordination tree is served no more")
        return self._connection

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call off the loop, after those before it; what has begun goes on if the caller is cancelled."""

        async def in_turn() -> T:
            async with self._turn:
                return await self._offload.run(sqlite_nodes.translating, function, *args, **kwargs)

        return await asyncio.shield(asyncio.ensure_future(in_turn()))


def _peer(peer: socket.socket) -> tuple[int, int]:
    """Return the user and the process at the other end; this user and 0 where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.getuid(), 0
    pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid, pid


def _has_ended(pid: int) -> bool:
    """Return whether a process is known to have ended."""
    if not pid or not os.path.isdir("/proc/self"):
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, IndexError):
        return False
