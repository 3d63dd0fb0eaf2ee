"""The coordination tree on a ZooKeeper ensemble, through kazoo. The only module that knows kazoo, and where its threads end.

One `ZooKeeperTree` is one session and one kazoo client. kazoo by itself begins a new session when one has expired, and keeps
what is asked of it while no server is connected, to do it later: both would do in one session what was decided in another. So
a request is refused unless the client is connected, and once the session has ended this client is not let out to a server
again (`_Handler.create_connection`). A broker that goes on opens another tree.

Four more things kazoo leaves to its users:

* Watches fire once, and with NONE at every break. After each event and each reconnect they are armed again first, and
  reported as changed then.
* A failed multi does not raise: it returns exceptions in the places of results.
* A server that takes connections and says nothing costs a whole session timeout. Here it costs a third of one, shared by all
  servers: a silence is noticed after two thirds, so the last third is enough to try them all before the session expires.
* Pings go on while the loop of this process hangs, so that others believe in a broker that does nothing. Here they stop
  when the loop has not ticked for a third of the session timeout.

kazoo keeps to itself which timeout the servers granted; `_Connection` reads it from what kazoo computes of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from kazoo import exceptions as errors
from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.states import KazooState, KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE

from ottla.cluster.tree import (
    BadVersionError,
    ConnectionLostError,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    NotSentError,
    Operation,
    Result,
    SessionEndedError,
    SessionState,
    SetData,
    Stat,
    TreeError,
    TreeUnavailableError,
    check_operations,
    validate_path,
)
from ottla.cluster.trees.listeners import ChildrenWatches, Listeners

if TYPE_CHECKING:
    from ottla.cluster.trees.zookeeper_options import TlsOptions, ZooKeeperOptions
    from ottla.offload import Offload

logger = logging.getLogger(__name__)

#: Pauses between rounds of all servers: 0.1 s and then longer, with up to 40 % of chance, 1 s at most.
_BACK_OFF: Final = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_jitter": 0.4, "max_delay": 0.7}

#: Reads of one `get_many` that are under way at once.
READS_IN_FLIGHT_MAX: Final = 1000

#: Nodes below these are not for everybody's eyes: settings of users and brokers, tokens (as in Kafka), the cluster's secrets.
_SENSITIVE: Final = ("/config/users", "/config/brokers", "/config/ottla", "/delegation_token")

_REFUSALS: Final[dict[type[Exception], type[TreeError]]] = {
    errors.NoNodeError: NoNodeError,
    errors.NodeExistsError: NodeExistsError,
    errors.BadVersionError: BadVersionError,
    errors.NotEmptyError: NotEmptyError,
    errors.NoChildrenForEphemeralsError: NoChildrenForEphemeralsError,
}


class ZooKeeperTree:
    """A session with an ensemble. `open` before use.

    Args:
        offload: for the end of a session, which waits for kazoo's threads.

    Raises:
        TreeUnavailableError: a file with certificates or keys cannot be used.
    """

    def __init__(self, options: ZooKeeperOptions, offload: Offload) -> None:
        self._options = options
        self._offload = offload
        self._loop: asyncio.AbstractEventLoop
        try:
            self._handler = _Handler(options)
        except (OSError, ssl.SSLError) as error:
            raise TreeUnavailableError(f"TLS to ZooKeeper is not possible: {error} ({options.tls})") from error
        self._client: Any = None
        self._connection: _Connection
        self._session_id = 0
        self._state = SessionState.SUSPENDED
        self._first_state: asyncio.Future[None]
        self._watches = ChildrenWatches()
        self._armed: set[str] = set()
        self._state_listeners: Listeners[[SessionState]] = Listeners()
        self._mail: deque[Callable[[], object]] = deque()
        self._is_awake = False
        self._pulse: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Connect, and make the chroot if it is missing.

        Raises:
            TreeUnavailableError: with one sentence that says why it is not possible.
        """
        self._loop = asyncio.get_running_loop()
        self._first_state = self._loop.create_future()
        self._client = client = self._make_client()
        self._tick()
        client.start_async()
        try:
            async with asyncio.timeout(self._options.connection_timeout_ms / 1000):
                await self._first_state
            self._session_id = client.client_id[0] if client.client_id else 0
            await self._make_chroot()
            await self.sync()
        except TimeoutError:
            await self.close()
            raise TreeUnavailableError(
                f"no ZooKeeper server of {self._options} could be reached within {self._options.connection_timeout_ms} ms"
            ) from None
        except BaseException:
            await self.close()
            raise

    def _make_client(self) -> Any:
        options = self._options
        sasl = options.sasl
        sasl_options = None
        if sasl is not None:
            sasl_options = {"mechanism": sasl.mechanism, "service": sasl.service}
            more = {"username": sasl.username, "password": sasl.password, "principal": sasl.principal}
            sasl_options |= {name: value for name, value in more.items() if value is not None}
        retry = KazooRetry(**_BACK_OFF)
        client = KazooClient(
            hosts=",".join(options.servers),
            timeout=options.session_timeout_ms / 1000,
            handler=self._handler,
            connection_retry=retry,
            use_ssl=options.tls is not None,
            logger=logger,
            sasl_options=sasl_options,
        )
        self._connection = _Connection(client, retry.copy(), logger=logger, sasl_options=sasl_options)
        self._connection.silence_seconds_max = self._handler.connect_seconds_max
        client._connection = self._connection
        client.add_listener(self._on_kazoo_state)
        return client

    async def _make_chroot(self) -> None:
        path = ""
        for name in self._options.chroot[1:].split("/") if self._options.chroot else ():
            path += "/" + name
            try:
                await self._call(partial(self._client.create_async, path, b"", acl=self._acl("/")))
            except errors.NodeExistsError:
                pass
            except errors.ZookeeperError as error:
                raise TreeUnavailableError(
                    f"the chroot {self._options.chroot} cannot be made in {','.join(self._options.servers)}: "
                    f"ZooKeeper says {type(error).__name__} of {path}"
                ) from error

    # -- Tree

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self._connection.granted_ms or self._options.session_timeout_ms

    @property
    def state(self) -> SessionState:
        return self._state

    async def get(self, path: str) -> Node:
        node = (await self.get_many([path]))[0]
        if node is None:
            raise NoNodeError(path)
        return node

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        self._check()
        found: list[Node | None] = []
        for first in range(0, len(paths), READS_IN_FLIGHT_MAX):
            some = paths[first : first + READS_IN_FLIGHT_MAX]
            for path in some:
                validate_path(path)
            reads = [self._begin(partial(self._client.get_async, self._full(path))) for path in some]
            answers = await asyncio.gather(*reads, return_exceptions=True)
            for path, answer in zip(some, answers, strict=True):
                if isinstance(answer, BaseException):
                    if not isinstance(answer, errors.NoNodeError):
                        raise _unavailable(answer, path) from answer
                    found.append(None)
                else:
                    found.append(Node(answer[0] or b"", _stat(answer[1])))
        return found

    async def children(self, path: str) -> list[str]:
        validate_path(path)
        try:
            names = await self._call(partial(self._client.get_children_async, self._full(path)))
        except errors.NoNodeError:
            raise NoNodeError(path) from None
        except errors.KazooException as error:
            raise _unavailable(error, path) from error
        return sorted(names)

    async def multi(self, operations: Sequence[Operation]) -> tuple[Result, ...]:
        check_operations(operations)
        self._check()
        if not operations:
            return ()
        transaction = self._client.transaction()
        for operation in operations:
            self._add(transaction, operation)
        try:
            results = await self._call(transaction.commit_async)
        except errors.KazooException as error:
            raise _unavailable(error, operations[0].path) from error
        for operation, result in zip(operations, results, strict=True):
            # Those before the one that failed are rolled back, those after it were not tried.
            if isinstance(result, Exception) and not isinstance(
                result, errors.RolledBackError | errors.RuntimeInconsistency
            ):
                refusal = _REFUSALS.get(type(result))
                raise refusal(operation.path) if refusal is not None else _unavailable(result, operation.path)
        return tuple(self._result(operation, result) for operation, result in zip(operations, results, strict=True))

    async def sync(self) -> None:
        try:
            await self._call(partial(self._client.sync_async, self._full("/")))
        except errors.KazooException as error:
            raise _unavailable(error, "/") from error

    def watch_children(self, path: str, callback: Callable[[], None]) -> Callable[[], None]:
        validate_path(path)
        stop = self._watches.add(path, callback)
        self._arm(path)
        return stop

    def watch_state(self, callback: Callable[[SessionState], None]) -> Callable[[], None]:
        return self._state_listeners.add(callback)

    async def close(self) -> None:
        self._watches.clear()
        await asyncio.shield(self._stop())

    # -- requests

    def _check(self) -> None:
        """Refuse what would not be sent now. Asks kazoo itself: the loop may not have heard of a break yet."""
        if self._handler.is_over or self._client is None or self._stopping is not None:
            raise SessionEndedError(f"the session with ZooKeeper ({self._options}) has ended")
        if self._client.client_state != KeeperState.CONNECTED:
            raise NotSentError(f"no ZooKeeper server ({self._options}) is connected")

    def _begin(self, start: Callable[[], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        start().rawlink(lambda answer: self._post(partial(_settle, future, answer)))
        return future

    async def _call(self, start: Callable[[], Any]) -> Any:
        """Send a request and return its answer. Raises kazoo's exceptions, and those of `_check`."""
        self._check()
        return await self._begin(start)

    def _add(self, transaction: Any, operation: Operation) -> None:
        path = self._full(operation.path)
        if isinstance(operation, Create):
            transaction.create(
                path,
                bytes(operation.data),
                self._acl(operation.path),
                ephemeral=operation.ephemeral,
                sequence=operation.sequential,
            )
        elif isinstance(operation, SetData):
            transaction.set_data(path, bytes(operation.data), operation.version)
        elif isinstance(operation, Delete):
            transaction.delete(path, operation.version)
        else:
            transaction.check(path, operation.version)

    def _result(self, operation: Operation, result: Any) -> Result:
        if isinstance(operation, Create):
            return cast("str", result)[len(self._options.chroot) :] or "/"
        return _stat(result) if isinstance(operation, SetData) else None

    def _full(self, path: str) -> str:
        if path == "/":
            return self._options.chroot or "/"
        return self._options.chroot + path

    def _acl(self, path: str) -> Any:
        if not self._options.set_acl:
            return OPEN_ACL_UNSAFE
        if any(path == root or path.startswith(root + "/") for root in _SENSITIVE):
            return CREATOR_ALL_ACL
        return [*CREATOR_ALL_ACL, *READ_ACL_UNSAFE]

    # -- from kazoo's threads to the loop

    def _post(self, event: Callable[[], object]) -> None:
        """Have something run on the loop, in order. Many answers that come together cost one wake-up."""
        self._mail.append(event)
        if not self._is_awake:
            self._is_awake = True
            try:
                self._loop.call_soon_threadsafe(self._read_mail)
            except RuntimeError:  # the loop is closed, and with it all that could hear of this
                pass

    def _read_mail(self) -> None:
        self._is_awake = False  # first, so that what is added from here on wakes the loop again
        while self._mail:
            self._mail.popleft()()

    def _on_kazoo_state(self, state: str) -> None:
        """In kazoo's thread, while it waits."""
        if state == KazooState.LOST:
            self._handler.is_over = True
        self._post(partial(self._on_state, state, self._client.client_state))

    def _on_state(self, state: str, detail: str) -> None:
        if self._state is SessionState.ENDED:
            return
        if state == KazooState.CONNECTED:
            self._armed.clear()
            self._set_state(SessionState.CONNECTED)
            for path in self._watches.paths:
                self._arm(path)
            if not self._first_state.done():
                self._first_state.set_result(None)
        elif state == KazooState.SUSPENDED:
            self._set_state(SessionState.SUSPENDED)
        else:
            if not self._first_state.done():
                why = (
                    "refused the credentials" if detail == KeeperState.AUTH_FAILED else f"ended the session ({detail})"
                )
                self._first_state.set_exception(TreeUnavailableError(f"ZooKeeper ({self._options}) {why}"))
            self._set_state(SessionState.ENDED)
            self._watches.clear()
            self._stop()

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self._state_listeners.tell(state)

    def _stop(self) -> asyncio.Future[None]:
        """End the session and kazoo's threads."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop_kazoo())
        return self._stopping

    async def _stop_kazoo(self) -> None:
        client = self._client
        if client is not None:
            await self._offload.run(_stop_and_close, client)
        self._handler.is_over = True
        if self._pulse is not None:
            self._pulse.cancel()
        self._read_mail()
        self._set_state(SessionState.ENDED)

    def _tick(self) -> None:
        """Show kazoo's thread that the loop runs."""
        self._handler.ticked_at = time.monotonic()
        self._pulse = self._loop.call_later(min(1.0, self._options.session_timeout_ms / 12_000), self._tick)

    # -- watches

    def _arm(self, path: str) -> None:
        """Have ZooKeeper tell of the next change below a path, then report it as changed: there may have been one."""
        if path in self._armed or self._state is not SessionState.CONNECTED or self._stopping is not None:
            return
        self._armed.add(path)
        watch = partial(self._on_kazoo_event, path)
        read = self._begin(partial(self._client.get_children_async, self._full(path), watch=watch))
        read.add_done_callback(partial(self._on_armed, path))

    def _on_armed(self, path: str, read: asyncio.Future[Any]) -> None:
        if read.cancelled():
            return
        error = read.exception()
        if error is None:
            self._watches.tell([path])
        elif isinstance(error, errors.NoNodeError):
            # There is nothing to watch yet but that it comes.
            watch = partial(self._on_kazoo_event, path)
            seen = self._begin(partial(self._client.exists_async, self._full(path), watch=watch))
            seen.add_done_callback(partial(self._on_existence_armed, path))
        else:
            self._armed.discard(path)  # the next CONNECTED arms it

    def _on_existence_armed(self, path: str, seen: asyncio.Future[Any]) -> None:
        if not seen.cancelled() and (seen.exception() is not None or seen.result() is not None):
            self._armed.discard(path)
            if seen.exception() is None:
                self._arm(path)  # it came in between

    def _on_kazoo_event(self, path: str, _event: Any) -> None:
        """In kazoo's thread: a watch fired, or was lost with the connection (NONE)."""
        self._post(partial(self._on_event, path))

    def _on_event(self, path: str) -> None:
        self._armed.discard(path)
        if path in self._watches.paths:
            self._arm(path)


def _stop_and_close(client: Any) -> None:
    client.stop()
    client.close()


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # the caller has gone away
        return
    if answer.exception is not None:
        future.set_exception(answer.exception)
    else:
        future.set_result(answer.value)


def _stat(stat: Any) -> Stat:
    return Stat(stat.czxid, stat.mzxid, stat.version, stat.ephemeralOwner, stat.mtime)


def _unavailable(error: BaseException, path: str) -> BaseException:
    """Turn what kazoo says into what the interface says."""
    if isinstance(error, TreeError | TreeUnavailableError) or not isinstance(error, errors.KazooException):
        return error
    name = type(error).__name__
    if isinstance(error, errors.SessionExpiredError | errors.ConnectionClosedError):
        # Not SessionEndedError: the request may have been sent before.
        return ConnectionLostError(f"the session with ZooKeeper ended during a request ({name})")
    if isinstance(error, errors.AuthFailedError):
        return TreeUnavailableError("ZooKeeper refused the credentials of this broker")
    if isinstance(error, errors.NoAuthError):
        return TreeUnavailableError(f"ZooKeeper does not allow this broker's identity to use {path} (NoAuthError)")
    return ConnectionLostError(f"ZooKeeper did not answer a request for {path} ({name})")


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, sockets and waiting.

    Attributes:
        is_over: the session has ended: no connection is made any more.
        ticked_at: when the loop last ran, by time.monotonic().
    """

    def __init__(self, options: ZooKeeperOptions) -> None:
        super().__init__()
        self.is_over = False
        self.ticked_at = time.monotonic()
        self._silence_seconds_max = options.session_timeout_ms / 3000
        self.connect_seconds_max = options.session_timeout_ms / 3000 / len(options.servers)
        self._context = None if options.tls is None else _ssl_context(options.tls)

    def create_connection(
        self, address: Any, hostname: str | None = None, timeout: float | None = None, **_: Any
    ) -> Any:
        if self.is_over:
            raise ConnectionAbortedError("the session is over")
        seconds = min(timeout or self.connect_seconds_max, self.connect_seconds_max)
        connection = socket.create_connection(address, seconds)
        if self._context is None:
            return connection
        try:
            return self._context.wrap_socket(connection, server_hostname=hostname)
        except BaseException:
            connection.close()
            raise

    def select(self, *args: Any, **kwargs: Any) -> Any:
        # kazoo's thread comes by here before every ping.
        while time.monotonic() - self.ticked_at > self._silence_seconds_max and not self.is_over:
            time.sleep(0.05)
        return super().select(*args, **kwargs)


class _Connection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's connection, with a limit to what one server may cost, telling which session timeout was granted."""

    silence_seconds_max = 6.0
    granted_ms = 0

    def _connect(self, *args: Any) -> Any:
        read_timeout, connect_timeout = super()._connect(*args)
        # kazoo returns two thirds of it, and it divided by the number of servers.
        self.granted_ms = round(connect_timeout * len(self.client.hosts))
        return read_timeout, connect_timeout

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        return super()._invoke(min(timeout, self.silence_seconds_max), request, xid)


def _ssl_context(tls: TlsOptions) -> ssl.SSLContext:
    """Return the context of connections to ZooKeeper.

    Raises:
        OSError, ssl.SSLError: a file cannot be read or holds something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion[tls.protocols[0].replace(".", "_")]
    context.maximum_version = ssl.TLSVersion[tls.protocols[1].replace(".", "_")]
    context.check_hostname = tls.check_hostname
    if tls.truststore is not None:
        context.load_verify_locations(tls.truststore)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.keystore is not None:
        context.load_cert_chain(tls.keystore, password=tls.keystore_password or "")
    if tls.cipher_suites is not None:
        context.set_ciphers(tls.cipher_suites)
    return context
