"""The caller's side of one connection: requests out, answers in, matched by correlation id.

For clients, and for brokers that fetch from each other. Knows frames, versions and deadlines; knows no topic, retries
nothing, decides nothing about which broker to ask. After a failure a channel is spent: its owner opens another.

Invariants:
  * Kafka answers in order. An answer whose correlation id is not the oldest one's ends the connection, and so does a request
    that is not answered in time: what came afterwards could belong to anything.
  * Every future that `send` returns ends: with the answer, or with an error when its deadline passes or the connection ends.
  * No answer is larger than `answer_bytes_max`. A small one is copied once out of the channel's buffer; a large one is
    received into memory of its own, and the records of its messages are views of that, valid as long as they are kept.

Sources: KIP-35 and KIP-511 (ApiVersions at the start; a broker that does not know its version says so in version 0).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from ottla import __version__
from ottla.errors import ErrorCode, KafkaError, LocalProtocolError, RemoteProtocolError, UnsupportedVersionError
from ottla.network.channel_errors import (
    AnswerTimeoutError,
    BrokerUnreachableError,
    ConnectionClosedError,
    ConnectionFailedError,
)
from ottla.network.diagnosis import explain, hint_of_silence
from ottla.protocol.api import APIS, ApiKey, common_version, request_header_version, response_header_version
from ottla.protocol.codec import Decoder, decode, decoder, encode, encode_chunks
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.primitives import Buffer
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    import ssl

M = TypeVar("M", bound=Message)

RECEIVE_SIZE: Final = 64 * 1024
#: Larger answers to the first request are no answers to it.
_FIRST_ANSWER_MAX: Final = 1024 * 1024

_SIZE = Struct(">i")
#: size, api key, version, correlation id; the client id follows, and in flexible versions a byte for no tags
_HEAD = Struct(">ihhi")
#: The same without the size.
_HEAD_SIZE = _HEAD.size - _SIZE.size

#: By API and version: whether the answer's header has tags, and what decodes the answer.
_answers: dict[tuple[ApiKey, int], tuple[bool, Decoder[Message]]] = {}


def _answer_of(key: ApiKey, version: int) -> tuple[bool, Decoder[Message]]:
    """Return what there is to know of an answer; found out once."""
    found = _answers.get((key, version))
    if found is None:
        tagged = response_header_version(key, version) > 0
        found = _answers[key, version] = tagged, decoder(APIS[key].response_class(), version)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How connections are made.

    Attributes:
        client_id: stands in each request's header, and in the broker's logs and quotas.
        ssl_context: None for plain connections.
        in_flight_max: requests of one connection without an answer (`max.in.flight.requests.per.connection`).
        answer_bytes_max: a larger frame ends the connection.
        connect_timeout_s: until the connection stands and the broker has said what it speaks
            (`socket.connection.setup.timeout.ms`).
        send_buffer_bytes, receive_buffer_bytes: -1 leaves them to the operating system.
        authenticate: called with the open channel before it is given to anybody (SASL); raises to refuse.
    """

    client_id: str | None = "ottla"
    ssl_context: ssl.SSLContext | None = None
    in_flight_max: int = 5
    answer_bytes_max: int = 256 * 1024 * 1024
    connect_timeout_s: float = 10.0
    send_buffer_bytes: int = -1
    receive_buffer_bytes: int = -1
    authenticate: Callable[[Channel], Awaitable[None]] | None = None


class EncodedRequest(NamedTuple):
    """A request in one of the versions with tagged fields, whose body is encoded already.

    Its answer is a view of the bytes that follow the header.
    """

    key: ApiKey
    body: bytes


class _Answer:
    """Takes the place of a future where a function is to have the answer in the same turn of the loop.

    A failure comes in a later turn, as a future's does: whoever closes the channel is not called back meanwhile.
    """

    __slots__ = ("_is_done", "_loop", "_on_answer", "_on_failure")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_answer: Callable[[Any], object],
        on_failure: Callable[[Exception], object],
    ) -> None:
        self._loop = loop
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, message: Any) -> None:
        self._is_done = True
        try:
            self._on_answer(message)
        except Exception as error:
            self._loop.call_exception_handler({"message": "an answer could not be taken", "exception": error})

    def set_exception(self, error: Exception) -> None:
        self._is_done = True
        self._loop.call_soon(self._on_failure, error)

    def exception(self) -> None:
        """Nothing is left to be fetched."""


_Outcome: TypeAlias = "asyncio.Future[Any] | _Answer"


class _Pending(NamedTuple):
    correlation_id: int
    key: ApiKey
    version: int
    future: _Outcome
    deadline: float
    is_encoded: bool = False


class _Held(NamedTuple):
    """A request that waits until the client has logged in again."""

    request: Message | EncodedRequest
    version: int
    future: _Outcome | None
    deadline: float


class Channel(asyncio.BufferedProtocol):
    """One connection to a broker; see `open`.

    Attributes:
        address: host:port, as it was dialled.
        versions: by API key, the lowest and highest version the broker speaks.
        features: finalized features and their levels (`transaction.version`: 2).
        on_closed: called once, with the reason, when the connection has ended.
    """

    def __init__(self, host: str, port: int, settings: ChannelSettings) -> None:
        self.host = host
        self.port = port
        self.address: str = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.versions: Mapping[int, tuple[int, int]] = {}
        self.features: Mapping[str, int] = {}
        self.on_closed: Callable[[ConnectionFailedError | AnswerTimeoutError | RemoteProtocolError], None] | None = None
        self._settings = settings
        #: As it stands in each header, with its length.
        self._client_id: bytes = encode(RequestHeader(client_id=settings.client_id), 1)[_HEAD_SIZE:]
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pending: deque[_Pending] = deque()
        #: While the client logs in again the broker takes nothing else; requests are written after that, in order.
        self._held: deque[_Held] | None = None
        self._login: asyncio.Task[None] | None = None
        self._login_timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next_id = 0
        self._error: ConnectionFailedError | AnswerTimeoutError | RemoteProtocolError | None = None
        self._ended = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._frame_max = _FIRST_ANSWER_MAX
        self._data = bytearray(RECEIVE_SIZE)
        self._view = memoryview(self._data)
        self._filled = 0
        self._large: bytearray | None = None
        self._large_filled = 0
        self._heard = b""

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, host: str, port: int, settings: ChannelSettings) -> Channel:
        """Connect, learn what the broker speaks, authenticate.

        Raises:
            BrokerUnreachableError: nothing listens there, the name does not resolve, or it took too long.
            NotKafkaError: ZooKeeper, a web server or something else answers there.
            TlsError: one end speaks TLS and the other does not, or a certificate is refused.
            ConnectionClosedError: the broker closed the connection; trying again may help.
            UnsupportedVersionError: the broker is too old for ottla.
        """
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if settings.ssl_context is not None:
            tls = {"ssl": settings.ssl_context, "server_hostname": host}
        channel: Channel | None = None
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                _, channel = await loop.create_connection(lambda: cls(host, port, settings), host, port, **tls)
                await channel._introduce()
        except TimeoutError:
            if channel is not None:
                channel.close()
            address = f"{host}:{port}"
            raise BrokerUnreachableError(
                f"{address} did not answer within {settings.connect_timeout_s:g} s"
                + (" although the connection stands." if channel is not None else "."),
                address=address,
                hint=await hint_of_silence(host, port, tls=bool(tls)) if channel is not None or tls else "",
            ) from None
        except (OSError, RemoteProtocolError) as error:
            if channel is not None:
                channel.close()
            heard = channel.heard if channel is not None else b""
            raise await explain(error, host, port, tls=bool(tls), heard=heard) from error
        except BaseException:
            if channel is not None:
                channel.close()
            raise
        return channel

    async def _introduce(self) -> None:
        spec = APIS[ApiKey.API_VERSIONS]
        version = spec.max_version
        request = ApiVersionsRequest(client_software_name="ottla", client_software_version=__version__)
        timeout = self._settings.connect_timeout_s
        answer = cast(ApiVersionsResponse, await self.send(request, version, timeout_s=timeout))
        if answer.error_code == ErrorCode.UNSUPPORTED_VERSION:
            # KIP-511: version 0, with one row that says what of ApiVersions it knows; brokers before 2.4 leave that out.
            known = [row.max_version for row in answer.api_keys if row.api_key == ApiKey.API_VERSIONS]
            version = min(known[0], version - 1) if known else 0
            answer = cast(ApiVersionsResponse, await self.send(request, version, timeout_s=timeout))
        if answer.error_code:
            raise RemoteProtocolError(f"{self.address} answers ApiVersions with error {answer.error_code}")
        self.versions = {row.api_key: (row.min_version, row.max_version) for row in answer.api_keys}
        self.features = {row.name: row.max_version_level for row in answer.finalized_features}
        self._frame_max = self._settings.answer_bytes_max
        if self._settings.authenticate is not None:
            await self._settings.authenticate(self)

    # -- asking -----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._error is None and self._transport is not None

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._pending) + len(self._held or ())

    @property
    def has_room(self) -> bool:
        """Whether `send` may be called now."""
        return self._error is None and self.in_flight < self._settings.in_flight_max

    def version(self, key: ApiKey, *, at_most: int | None = None) -> int:
        """Return the highest version of an API that both ends speak.

        Raises:
            UnsupportedVersionError: there is none. The text says what each end speaks.
        """
        chosen = common_version(self.versions, key, at_most=at_most)
        if chosen is None:
            spec = APIS[key]
            theirs = self.versions.get(key)
            if theirs is None:
                raise UnsupportedVersionError(f"The broker at {self.address} does not offer {spec.name}.")
            highest = spec.max_version if at_most is None else at_most
            raise UnsupportedVersionError(
                f"The broker at {self.address} speaks {spec.name} {theirs[0]} to {theirs[1]}, "
                f"this client {spec.min_version} to {highest}."
            )
        return chosen

    def send(self, request: Message, version: int, *, timeout_s: float) -> asyncio.Future[Message]:
        """Send a request now; the future has its answer, or one of the errors of this module.

        Cancelling the future drops the answer when it comes.

        Raises:
            LocalProtocolError: the request cannot be written in this version, or `in_flight_max` are in flight.
            ConnectionFailedError: the channel has ended.
        """
        future: asyncio.Future[Message] = self._loop.create_future()
        self._send(request, version, future, timeout_s)
        return future

    def send_to(
        self,
        request: Message,
        version: int,
        on_answer: Callable[[Message], object],
        on_failure: Callable[[Exception], object],
        *,
        timeout_s: float,
    ) -> None:
        """As `send`, for an owner to whom a turn of the loop is dear: `on_answer` is called when the answer is received.

        Of the two functions one is called, once; `on_failure` never before this returns.

        Raises:
            what `send` raises; no function is called then.
        """
        self._send(request, version, _Answer(self._loop, on_answer, on_failure), timeout_s)

    def _send(self, request: Message | EncodedRequest, version: int, future: _Outcome, timeout_s: float) -> None:
        if self._error is not None:
            raise self._error
        if self.in_flight >= self._settings.in_flight_max:
            raise LocalProtocolError(f"{self.in_flight} requests are in flight to {self.address}")
        deadline = self._loop.time() + timeout_s
        if self._held is not None:
            self._held.append(_Held(request, version, future, deadline))
        else:
            self._send_now(request, version, future, deadline)

    def send_encoded(self, request: EncodedRequest, version: int, *, timeout_s: float) -> asyncio.Future[memoryview]:
        """Send a request that is encoded already; the future has the body of its answer as it came. Errors: see `send`."""
        future: asyncio.Future[memoryview] = self._loop.create_future()
        self._send(request, version, future, timeout_s)
        return future

    def _send_now(self, request: Message | EncodedRequest, version: int, future: _Outcome, deadline: float) -> None:
        if isinstance(request, EncodedRequest):
            correlation_id = self._write_encoded(request, version)
            self._pending.append(_Pending(correlation_id, request.key, version, future, deadline, True))
        else:
            key = ApiKey(cast(int, request.API_KEY))
            correlation_id = self._write(request, key, version)
            self._pending.append(_Pending(correlation_id, key, version, future, deadline))
        if self._timer is None or deadline < self._timer_at:
            self._watch(deadline)

    def send_unanswered(self, request: Message, version: int) -> None:
        """Send a request that gets no answer (Produce with acks=0).

        Raises:
            LocalProtocolError: the request cannot be written in this version.
            ConnectionFailedError: the channel has ended.
        """
        if self._error is not None:
            raise self._error
        if self._held is not None:
            self._held.append(_Held(request, version, None, 0.0))
            return
        self._write(request, ApiKey(cast(int, request.API_KEY)), version)

    async def ask_urgently(
        self, request: Message, answer: type[M], *, at_most: int | None = None, timeout_s: float = 30.0
    ) -> M:
        """Send a request of a login, past those that are held back, and return its answer.

        Raises:
            ConnectionFailedError: the channel has ended.
        """
        if self._error is not None:
            raise self._error
        version = self.version(ApiKey(cast(int, request.API_KEY)), at_most=at_most)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._send_now(request, version, future, self._loop.time() + timeout_s)
        response = await future
        assert isinstance(response, answer)
        return response

    def log_in_again_after(self, seconds: float, log_in: Callable[[Channel], Awaitable[None]]) -> None:
        """Call `log_in` then; what is sent meanwhile waits for it (KIP-368). If it fails the connection ends."""
        if self._error is None:
            self._login_timer = self._loop.call_later(seconds, self._begin_login, log_in)

    def _begin_login(self, log_in: Callable[[Channel], Awaitable[None]]) -> None:
        self._login_timer = None
        if self._error is None:
            self._held = deque()
            self._login = self._loop.create_task(self._log_in_again(log_in))

    async def _log_in_again(self, log_in: Callable[[Channel], Awaitable[None]]) -> None:
        try:
            await log_in(self)
        except (KafkaError, RemoteProtocolError, OSError) as error:
            self._end(
                ConnectionClosedError(
                    f"{self.address} does not let the client log in again: {error}", address=self.address
                )
            )
            return
        finally:
            held, self._held = self._held, None
        for request, version, future, deadline in held or ():
            if self._error is not None:
                break
            if future is None:
                assert isinstance(request, Message)
                self._write(request, ApiKey(cast(int, request.API_KEY)), version)
            elif not future.done():
                self._send_now(request, version, future, deadline)
        if self._error is not None:
            self._fail(held or (), self._error)

    def _fail(self, held: Iterable[_Held], error: Exception) -> None:
        for _, _, future, _ in held:
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()

    async def ask(self, request: Message, answer: type[M], *, version: int | None = None, timeout_s: float = 30.0) -> M:
        """Wait for room, send a request and return its answer, which is of the class `answer`.

        Raises:
            what `send` raises and its future fails with; the deadline covers the wait for room, too.
        """
        deadline = self._loop.time() + timeout_s
        while not self.has_room and self._error is None:
            room = self._loop.create_future()
            self._waiting.append(room)
            try:
                async with asyncio.timeout_at(deadline):
                    await room
            except TimeoutError:
                raise AnswerTimeoutError(
                    f"{self.in_flight} requests are in flight to {self.address}; there was no room for "
                    f"{type(request).__name__} within {timeout_s:g} s.",
                    address=self.address,
                ) from None
            finally:
                if not room.done():
                    self._waiting.remove(room)
                elif room.cancelled():
                    self._wake()
        chosen = self.version(ApiKey(cast(int, request.API_KEY))) if version is None else version
        response = await self.send(request, chosen, timeout_s=deadline - self._loop.time())
        assert isinstance(response, answer)
        return response

    def close(self) -> None:
        """End the connection at once; what is in flight fails with ConnectionClosedError."""
        self._end(ConnectionClosedError(f"The connection to {self.address} was closed here.", address=self.address))

    async def wait_closed(self) -> None:
        """Wait until the transport has let go of the socket."""
        await asyncio.shield(self._ended)

    def _write(self, request: Message, key: ApiKey, version: int) -> int:
        transport = self._transport
        assert transport is not None
        correlation_id = self._next_id
        tail = self._client_id
        if request_header_version(key, version) > 1:
            tail += b"\0"
        chunks = cast("list[Buffer]", encode_chunks(request, version, tail))
        self._next_id = (correlation_id + 1) & 0x7FFFFFFF
        head = _HEAD.pack(_HEAD_SIZE + sum(map(len, chunks)), key, version, correlation_id)
        transport.write(head + chunks[0])
        for chunk in chunks[1:]:
            transport.write(chunk)
        return correlation_id

    def _write_encoded(self, request: EncodedRequest, version: int) -> int:
        transport = self._transport
        assert transport is not None
        correlation_id = self._next_id
        self._next_id = (correlation_id + 1) & 0x7FFFFFFF
        size = _HEAD_SIZE + len(self._client_id) + 1 + len(request.body)
        head = _HEAD.pack(size, request.key, version, correlation_id)
        transport.write(b"".join((head, self._client_id, b"\0", request.body)))
        return correlation_id

    # -- receiving --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            if self._settings.send_buffer_bytes > 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._settings.send_buffer_bytes)
            if self._settings.receive_buffer_bytes > 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._settings.receive_buffer_bytes)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return memoryview(self._large)[self._large_filled :]
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._large is None:
                self._filled += nbytes
                self._take_frames()
                return
            self._large_filled += nbytes
            if self._large_filled == len(self._large):
                frame, self._large = self._large, None
                self._on_frame(frame)
        except RemoteProtocolError as error:
            self._end(error)

    def _take_frames(self) -> None:
        data, view, end = self._data, self._view, self._filled
        start = 0
        if not self.versions and not self._heard:
            self._heard = bytes(view[: min(end, 64)])
        while end - start >= 4:
            (size,) = _SIZE.unpack_from(data, start)
            if not 4 <= size <= self._frame_max:
                raise RemoteProtocolError(
                    f"{self.address} announces an answer of {size} bytes; the limit is {self._frame_max}"
                )
            stop = start + 4 + size
            if stop > end:
                if size + 4 > RECEIVE_SIZE:
                    self._large = bytearray(size)
                    self._large_filled = end - start - 4
                    self._large[: self._large_filled] = view[start + 4 : end]
                    start = end
                break
            self._on_frame(bytes(view[start + 4 : stop]))
            start = stop
            if self._error is not None:
                break
        if start:
            view[: end - start] = view[start:end]
        self._filled = end - start

    def _on_frame(self, frame: bytes | bytearray) -> None:
        (correlation_id,) = _SIZE.unpack_from(frame)
        if not self._pending:
            raise RemoteProtocolError(f"{self.address} sent an answer to no request")
        pending = self._pending[0]
        if correlation_id != pending.correlation_id:
            raise RemoteProtocolError(
                f"{self.address} answered request {correlation_id} while the answer to {pending.correlation_id} is due"
            )
        key, version = pending.key, pending.version
        if pending.is_encoded and len(frame) > 4 and not frame[4]:  # a header without tags
            self._pending.popleft()
            if not pending.future.done():
                pending.future.set_result(memoryview(frame)[5:])
            self._wake()
            return
        if key == ApiKey.API_VERSIONS and frame[4:6] == b"\x00\x23":
            version = 0  # KIP-511: UNSUPPORTED_VERSION comes in version 0
        tagged, decode_answer = _answer_of(key, version)
        position = 4
        if tagged:
            if len(frame) > 4 and not frame[4]:  # no tags, as nearly always
                position = 5
            else:
                _, position = decode(ResponseHeader, 1, frame)
        message, end = decode_answer(frame, position)
        if end != len(frame):
            raise RemoteProtocolError(
                f"{self.address}: {len(frame) - end} bytes follow the answer to {APIS[key].name} version {version}"
            )
        self._pending.popleft()
        if not pending.future.done():
            pending.future.set_result(memoryview(frame)[position:] if pending.is_encoded else message)
        self._wake()

    def _wake(self) -> None:
        if self.has_room or self._error is not None:
            while self._waiting:
                room = self._waiting.popleft()
                if not room.done():
                    room.set_result(None)
                    return

    # -- ending -----------------------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if not self._pending:
            return
        first = min(self._pending, key=lambda pending: pending.deadline)
        if first.deadline > self._loop.time():
            self._watch(first.deadline)
            return
        name = APIS[first.key].name
        self._end(
            AnswerTimeoutError(
                f"{self.address} did not answer {name} in time; the connection was closed.", address=self.address
            )
        )

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f": {exc}" if exc is not None else "."
        self._end(ConnectionClosedError(f"{self.address} closed the connection{reason}", address=self.address))
        if not self._ended.done():
            self._ended.set_result(None)

    def _end(self, error: ConnectionFailedError | AnswerTimeoutError | RemoteProtocolError) -> None:
        if self._error is not None:
            return
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._login_timer is not None:
            self._login_timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        held, self._held = self._held, None
        self._fail(held or (), error)
        pending, self._pending = self._pending, deque()
        for request in pending:
            if not request.future.done():
                request.future.set_exception(error)
                request.future.exception()  # an owner that went away needs no warning
        waiting, self._waiting = self._waiting, deque()
        for room in waiting:
            if not room.done():
                room.set_result(None)
        if self.on_closed is not None:
            self.on_closed(error)

    @property
    def heard(self) -> bytes:
        """The first bytes of the first answer: what they look like if they are no Kafka."""
        return self._heard
