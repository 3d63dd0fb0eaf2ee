"""A session with the coordination tree of one machine, which a supervisor serves on a Unix socket (`serving`).

While the supervisor is away the session is suspended: nothing can be asked. It goes on when the supervisor is back, unless
that takes it for ended. A supervisor that does not answer for two thirds of the session's timeout counts as away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from ottla.cluster.tree import (
    Node,
    NoNodeError,
    NotSentError,
    Operation,
    Result,
    SessionEndedError,
    SessionState,
    TreeUnavailableError,
    check_operations,
    validate_path,
)
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners
from ottla.cluster.trees.served_frames import (
    EVENT,
    frame,
    pack_operation,
    read_frame,
    unpack_error,
    unpack_node,
    unpack_result,
)

logger = logging.getLogger(__name__)

PAUSE_SECONDS_MIN: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0


class ServedTree:
    """A session with a tree that is served on `socket_path`. `open` before use.

    Args:
        session_timeout_ms: after so much silence the session ends.
        connection_timeout_ms: how long `open` waits for the supervisor.
    """

    def __init__(self, socket_path: str, *, session_timeout_ms: int, connection_timeout_ms: int) -> None:
        self._path = socket_path
        self._timeout_ms = session_timeout_ms
        self._connection_timeout_ms = connection_timeout_ms
        self._session_id = 0
        self._state = SessionState.SUSPENDED
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._number = EVENT
        self._watches = ChildrenWatches()
        self._state_listeners: Listeners[[SessionState]] = Listeners()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closing = False

    async def open(self) -> None:
        """Connect and begin a session.

        Raises:
            TreeUnavailableError: nothing answers there.
        """
        began = asyncio.get_running_loop().create_future()
        keeping = asyncio.get_running_loop().create_task(self._keep(began), name="served-tree")
        self._tasks = [keeping]
        try:
            async with asyncio.timeout(self._connection_timeout_ms / 1000):
                await began
        except TimeoutError:
            await self.close()
            raise TreeUnavailableError(
                f"no supervisor serves the coordination tree on {self._path}: it did not answer within "
                f"{self._connection_timeout_ms} ms"
            ) from None
        except BaseException:
            await self.close()
            raise
        self._tasks.append(asyncio.get_running_loop().create_task(self._ping(), name="served-tree-pings"))

    # -- Tree

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self._timeout_ms

    @property
    def state(self) -> SessionState:
        return self._state

    async def get(self, path: str) -> Node:
        node = (await self.get_many([path]))[0]
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        for path in paths:
            validate_path(path)
        return [unpack_node(packed) for packed in await self._ask("get", list(paths))]

    async def children(self, path: str) -> list[str]:
        validate_path(path)
        names: list[str] = await self._ask("children", path)
        return names

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        results = await self._ask("multi", [pack_operation(operation) for operation in operations])
        return tuple(unpack_result(packed) for packed in results)

    async def sync(self) -> None:
        await self._ask("ping")  # one server, which answers in order

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        validate_path(path)
        stop = self._watches.add(path, callback)
        if self._state is SessionState.CONNECTED:
            self._watch(path)
        return stop

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        return self._state_listeners.add(callback)

    async def close(self) -> None:
        """End the session: its ephemeral nodes vanish."""
        self._watches.clear()
        self._is_closing = True
        if self._state is SessionState.CONNECTED:
            try:
                async with asyncio.timeout(1):
                    await self._ask("end")
            except (TimeoutError, TreeUnavailableError):
                pass
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._disconnect()
        self._set_state(SessionState.ENDED)

    # -- the connection

    async def _keep(self, began: asyncio.Future[None]) -> None:
        """Be connected, again and again, until the session has ended."""
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
                self._writer = writer
                writer.write(frame([EVENT, "begin", self._session_id, self._timeout_ms]))
                _, session_id = await read_frame(reader)
                if not session_id:
                    self._disconnect()
                    self._set_state(SessionState.ENDED)
                    return
                self._session_id = session_id
                pause = PAUSE_SECONDS_MIN
                self._set_state(SessionState.CONNECTED)
                if not began.done():
                    began.set_result(None)
                for path in self._watches.paths:
                    self._watch(path)
                await self._read(reader)
            except (OSError, EOFError, ValueError) as error:
                logger.debug("the coordination tree is not reached: %s", error)
            self._disconnect()
            if self._is_closing:
                return
            self._set_state(SessionState.SUSPENDED)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            number, *answer = await read_frame(reader)
            if number == EVENT:
                self._watches.tell([answer[0]])
                continue
            future = self._pending.pop(number)
            if future.done():
                continue
            if len(answer) > 1:
                future.set_exception(unpack_error(*answer[1:]))
            else:
                future.set_result(answer[0])

    def _disconnect(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(TreeUnavailableError("the supervisor went away before it answered"))

    async def _ping(self) -> None:
        """Be heard of, and see whether the supervisor answers."""
        third = self._timeout_ms / 3000
        while self._state is not SessionState.ENDED:
            await asyncio.sleep(third)
            try:
                async with asyncio.timeout(2 * third):
                    await self._ask("ping")
            except TimeoutError:
                if self._writer is not None:
                    self._writer.close()  # `_keep` sees the end, and connects anew
            except TreeUnavailableError:
                pass

    def _ask(self, what: str, *arguments: Any) -> asyncio.Future[Any]:
        """Send a request.

        Raises:
            NotSentError: the supervisor is not connected.
        """
        if self._state is SessionState.ENDED:
            raise SessionEndedError(f"the session with the coordination tree ({self._path}) has ended")
        if self._state is not SessionState.CONNECTED or self._writer is None or self._writer.is_closing():
            raise NotSentError(f"no supervisor serves the coordination tree on {self._path} now")
        self._number += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[self._number] = future
        self._writer.write(frame([self._number, what, *arguments]))
        return future

    def _watch(self, path: str) -> None:
        """Have the supervisor tell of changes from now on, and report one: there may have been some."""
        try:
            watching = self._ask("watch", path)
        except NotSentError:
            return  # the next connection watches all
        watching.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() is not None else self._watches.tell([path])
        )

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state and self._state is not SessionState.ENDED:
            self._state = state
            self._state_listeners.tell(state)
