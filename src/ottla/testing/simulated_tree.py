"""A session with a simulated ensemble: the client's side, as the adapter to a real ensemble looks to a broker.

Requests and answers travel in order, with delays. When the connection breaks, every request under way ends with
TreeUnavailableError: some of them were made, some never will be, and a late one is made after the reconnect, before anything
that is sent then. The client looks for another server by itself; whether its session still lives only a server can tell.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ottla.cluster.tree import (
    Node,
    NoNodeError,
    NotSentError,
    Operation,
    Result,
    SessionEndedError,
    SessionState,
    TreeError,
    TreeUnavailableError,
    check_operations,
)
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners

if TYPE_CHECKING:
    from ottla.testing.simulated_ensemble import Server, SimulatedEnsemble

T = TypeVar("T")

TICK = 1e-7
#: Longest pause before a client looks for a server again.
BACK_OFF_SECONDS = 1.0


class SimulatedTree:
    """Implements `Tree`."""

    def __init__(self, ensemble: SimulatedEnsemble, session_id: int, server: Server) -> None:
        self._ensemble = ensemble
        self._session_id = session_id
        self._context = contextvars.copy_context()
        self._state = SessionState.CONNECTED
        self._server: Server | None = server
        #: Counts connections: what was sent on an earlier one does not arrive.
        self._connection = 0
        #: The network between client and servers swallows everything; the client does not know yet.
        self._is_black_hole = False
        #: Something was swallowed on this connection.
        self._has_lost = False
        #: The process is gone: nothing of the client runs any more.
        self._is_gone = False
        self._last_sent = 0.0
        self._last_received = 0.0
        self._in_flight: dict[asyncio.Future[Any], None] = {}
        self._late: list[tuple[Operation, ...]] = []
        self._watches = ChildrenWatches()
        self._state_listeners: Listeners[[SessionState]] = Listeners()
        server.sessions[self] = None

    # -- what brokers use

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self._ensemble.session_timeout_ms

    @property
    def state(self) -> SessionState:
        return self._state

    async def get(self, path: str) -> Node:
        node = await self._read(lambda server: server.store.node(path))
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        if not paths:
            self._check()
        # In several requests, as over a network: others write in between.
        found: list[Node | None] = []
        for first in range(0, len(paths), 50):
            some = paths[first : first + 50]
            found += await self._read(lambda server, some=some: [server.store.node(path) for path in some])  # type: ignore[misc]
        return found

    async def children(self, path: str) -> list[str]:
        return await self._read(lambda server: server.store.children(path))

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        wanted = tuple(operations)
        return await self._request(lambda server, future: self._write(server, future, wanted))

    async def sync(self) -> None:
        await self._request(self._sync)

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        return self._watches.add(path, callback)

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        return self._state_listeners.add(callback)

    async def close(self) -> None:
        if self._state is SessionState.CONNECTED and not self._is_black_hole:
            self._ensemble.expire(self._session_id)
        self._end()

    # -- what tests do

    def break_connection(self) -> None:
        """Break the connection; the client notices at once and looks for a server."""
        if self._server is not None:
            self._server.sessions.pop(self, None)
            self._server = None
        self._connection += 1
        self._has_lost = False
        self._ensemble.on_silence(self)
        if self._state is not SessionState.CONNECTED or self._is_gone:
            return
        self._set_state(SessionState.SUSPENDED)
        self._fail_requests(TreeUnavailableError("the connection to the ensemble broke"))
        self._look_later()

    def swallow(self) -> None:
        """From now on the network swallows everything, both ways. The client notices after two thirds of a timeout."""
        self._is_black_hole = True
        self._ensemble.on_silence(self)
        self._client_later(self.session_timeout_ms / 1500, self._on_no_ping)

    def let_through(self) -> None:
        """The network lets everything through again. A connection that has lost something is reset."""
        self._is_black_hole = False
        if self._has_lost:
            self.break_connection()
        elif self._server is not None:
            self.on_server_touch()

    def vanish(self) -> None:
        """The process is killed: nothing of the client runs any more, the servers hear of it by its silence."""
        self._is_gone = True
        self._in_flight.clear()
        self.break_connection()

    # -- the way to the server and back

    def _check(self) -> None:
        if self._state is SessionState.ENDED:
            raise SessionEndedError("the session has ended")
        if self._state is SessionState.SUSPENDED:
            raise NotSentError("no server of the ensemble is connected")

    async def _request(self, serve: Callable[[Server, asyncio.Future[T]], None]) -> T:
        """Send a request; `serve` runs at the server and resolves the future, by way of `_answer`."""
        self._check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._in_flight[future] = None
        self._last_sent = max(self._last_sent + TICK, loop.time() + self._ensemble.delay())
        self._ensemble.call_at(self._last_sent, self._arrive, self._connection, serve, future)
        try:
            return await future
        finally:
            self._in_flight.pop(future, None)

    def _arrive(
        self, connection: int, serve: Callable[[Server, asyncio.Future[T]], None], future: asyncio.Future[T]
    ) -> None:
        if connection != self._connection or self._server is None:
            return
        if self._is_black_hole:
            self._has_lost = True
            return
        if not self._ensemble.is_live(self._session_id) and self._server.in_touch:
            self._answer_end()
            return
        serve(self._server, future)

    async def _read(self, read: Callable[[Server], T]) -> T:
        def serve(server: Server, future: asyncio.Future[T]) -> None:
            if self._ensemble.chance("connection_lost", self._ensemble.faults.connection_lost):
                self._client_later(0, self.break_connection)
                return
            try:
                result = read(server)
            except TreeError as error:
                self._answer(future, error=error)
            else:
                self._answer(future, result)

        return await self._request(serve)

    def _sync(self, server: Server, future: asyncio.Future[None]) -> None:
        if not server.in_touch:
            self._has_lost = True  # the server asks the leader, which does not answer
            return
        if self._ensemble.chance("connection_lost", self._ensemble.faults.connection_lost):
            self._client_later(0, self.break_connection)
            return
        server.when_applied(self._ensemble.committed_count, lambda: self._answer(future, None))

    def _write(
        self, server: Server, future: asyncio.Future[tuple[Result, ...]], operations: tuple[Operation, ...]
    ) -> None:
        if not server.in_touch:
            self._has_lost = True
            return
        ensemble = self._ensemble
        if ensemble.chance("late_request", ensemble.faults.late_request):
            self._late.append(operations)
            self._client_later(0, self.break_connection)
            return
        is_answered = not ensemble.chance("answer_lost", ensemble.faults.answer_lost)
        try:
            results = ensemble.commit(operations, self._session_id)
        except TreeError as error:
            refusal = error
            server.when_applied(ensemble.committed_count, lambda: self._answer(future, error=refusal))
            return
        if is_answered:
            server.when_applied(ensemble.committed_count, lambda: self._answer(future, results))
        else:
            self._client_later(0, self.break_connection)

    def _answer(self, future: asyncio.Future[T], result: T | None = None, error: Exception | None = None) -> None:
        def arrive() -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)  # type: ignore[arg-type]

        self._receive(arrive)

    def _receive(self, arrive: Callable[[], object]) -> None:
        """Have something that the server sends arrive at the client, in order, unless the connection breaks before."""
        connection = self._connection
        now = asyncio.get_running_loop().time()
        self._last_received = max(self._last_received + TICK, now + self._ensemble.delay())

        def deliver() -> None:
            if connection != self._connection:
                return
            if self._is_black_hole:
                self._has_lost = True
            else:
                arrive()

        self._client_later(self._last_received - now, deliver)

    def _answer_end(self) -> None:
        """A server says that the session is no more."""
        self._receive(self._end)

    def _client_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run something of the client's later; not at all if its process is gone by then."""
        asyncio.get_running_loop().call_later(
            seconds, lambda: None if self._is_gone else function(), context=self._context
        )

    # -- events

    def on_children_changed(self, paths: Collection[str]) -> None:
        """The server has applied a change of the children of these paths."""
        watched = [path for path in self._watches.paths if path in paths]
        if watched and not self._ensemble.chance("watch_lost", self._ensemble.faults.watch_lost):
            self._receive(lambda: self._watches.tell(watched))

    def on_server_touch(self, gives_up_after: float | None = None) -> None:
        """The session's server lost its leader, or found one again."""
        server = self._server
        if server is None:
            return
        if not server.in_touch:
            self._ensemble.on_silence(self)
            if gives_up_after is None:
                gives_up_after = self._ensemble.random.uniform(0.3, 2.5) * self.session_timeout_ms / 1000
            self._ensemble.call_later(gives_up_after, self._on_server_gave_up, self._connection)
        elif not self._is_black_hole:
            if self._has_lost:
                self.break_connection()
                return
            self._ensemble.on_heard(self)
            if not self._ensemble.is_live(self._session_id):
                self._answer_end()

    def on_session_closed(self) -> None:
        """The servers have ended the session: the one that has the connection closes it."""
        if self._server is not None and self._server.in_touch and not self._is_black_hole:
            self.break_connection()

    def _on_server_gave_up(self, connection: int) -> None:
        if connection == self._connection and self._server is not None and not self._server.in_touch:
            self.break_connection()

    def _on_no_ping(self) -> None:
        if self._is_black_hole and self._state is SessionState.CONNECTED:
            self.break_connection()

    def _look_later(self) -> None:
        self._client_later(self._ensemble.random.random() * BACK_OFF_SECONDS, self._look_for_server)

    def _look_for_server(self) -> None:
        if self._state is not SessionState.SUSPENDED:
            return
        server = None if self._is_black_hole else self._ensemble.pick_server()
        if server is None:
            self._look_later()
            return
        if not self._ensemble.is_live(self._session_id):
            self._end()
            return
        ensemble = self._ensemble
        ensemble.on_heard(self)
        late, self._late = self._late, []
        for operations in late:
            try:
                ensemble.commit(operations, self._session_id)
            except TreeError:
                pass  # its client was told long ago that it does not know
        server.catch_up(ensemble.committed_count)
        server.sessions[self] = None
        self._server = server
        self._set_state(SessionState.CONNECTED)
        if not ensemble.chance("watch_lost", ensemble.faults.watch_lost):
            self._watches.tell(self._watches.paths)

    def _end(self) -> None:
        if self._state is SessionState.ENDED:
            return
        if self._server is not None:
            self._server.sessions.pop(self, None)
            self._server = None
        self._connection += 1
        self._late.clear()
        self._watches.clear()
        self._fail_requests(SessionEndedError("the session has ended"))
        self._set_state(SessionState.ENDED)

    def _fail_requests(self, error: TreeUnavailableError) -> None:
        for future in list(self._in_flight):
            if not future.done():
                future.set_exception(error)
        self._in_flight.clear()

    def _set_state(self, state: SessionState) -> None:
        self._state = state
        self._state_listeners.tell(state)
