"""From a frame to a handler and back: headers, versions, errors.

Reads the request header, refuses versions that are not served, decodes the body, calls the handler and encodes its answer.
Handlers see messages and connections see buffers; only this module sees both.

There is one gate: the guard of a connection's session sees each frame before anything else does, short cuts included. While
a client has not logged in the guard answers in the place of handlers.

A request in a version that is not served closes the connection, as Kafka does: there is no form in which the answer could
be read. The exception is ApiVersions, by which clients learn the versions (KIP-511): it is answered in version 0.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from struct import Struct
from typing import TYPE_CHECKING, Any, cast

from ottla.broker.audit import CHANGES, audited
from ottla.broker.context import PASS, ClientSoftware, PartialResult, RequestContext, Route, Session
from ottla.errors import ErrorCode, KafkaError, LocalProtocolError, RemoteProtocolError
from ottla.network.connection import PendingReply, PromptReply
from ottla.protocol.api import (
    ADVERTISED,
    APIS,
    FEATURES,
    SERVED,
    TELEMETRY,
    ApiKey,
    request_header_version,
    response_header_version,
    visible_features,
)
from ottla.protocol.codec import CHUNK_SIZE_MIN, decoder, encode, encode_chunks, encoder
from ottla.protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from ottla.protocol.messages.envelope import EnvelopeRequest, EnvelopeResponse
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.schema import Message
from ottla.protocol.schema import Struct as MessagePart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ottla.broker.audit import Audit
    from ottla.broker.context import BodyToCome, Handler
    from ottla.broker.forwarding import Forwarding
    from ottla.cluster.image import ClusterImage
    from ottla.file_region import Sendable
    from ottla.network.connection import BrokerConnection, Reply
    from ottla.observability.metrics import BrokerMetrics

logger = logging.getLogger(__name__)

_KEY_AND_VERSION = Struct(">hh")
_CORRELATION_ID = Struct(">i")
_SIZE = Struct(">i")
_SIZE_AND_CORRELATION = Struct(">ii")
_SIZE_CORRELATION_TAGS = Struct(">iib")

#: To this many characters an error message is cut when the response cannot hold it.
ERROR_MESSAGE_MAX = 1000

#: What client software may call itself (KIP-511).
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")


class _ServedVersion:
    """One API in one version: its route with its codecs, looked up once per request."""

    __slots__ = (
        "api_key",
        "decode",
        "flexible_header",
        "handler",
        "header_decode",
        "metrics",
        "route",
        "short_cut",
        "version",
    )

    def __init__(self, api_key: ApiKey, version: int, route: Route, metrics: BrokerMetrics) -> None:
        spec = APIS[api_key]
        self.api_key = api_key
        self.version = version
        self.route = route
        self.handler = route.handler
        self.short_cut = route.short_cut
        self.metrics = metrics.request(spec.name)
        self.decode = decoder(spec.request_class(), version)
        encoder(spec.response_class(), version)  # built now, found by `encode_chunks`
        self.header_decode = decoder(RequestHeader, request_header_version(api_key, version))
        self.flexible_header = response_header_version(api_key, version) == 1


class Dispatcher:
    """Knows by which route each API is answered. `handle` is what connections call with each frame."""

    def __init__(
        self,
        routes: Mapping[ApiKey, Route],
        image: Callable[[], ClusterImage],
        node_id: int,
        metrics: BrokerMetrics,
        *,
        takes_telemetry: Callable[[], bool] = lambda: True,
        forwarding: Forwarding | None = None,
        begin_session: Callable[[BrokerConnection], Session] | None = None,
        guard: Callable[[ApiKey, Handler], Handler] | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._routes: dict[ApiKey, Route] = {
            **routes,
            ApiKey.API_VERSIONS: Route(self.handle_api_versions),
            ApiKey.ENVELOPE: Route(self.handle_envelope),
        }
        #: What answers on this broker what others may pass on to it.
        self._for_controller = {key: route.handler for key, route in routes.items() if route.for_controller}
        if forwarding is not None:
            for key, handler in self._for_controller.items():
                self._routes[key] = replace(self._routes[key], handler=self._passing_on(forwarding, handler))
        if guard is not None:
            self._routes = {key: _guarded(route, key, guard) for key, route in self._routes.items()}
        if audit is not None:
            for key in CHANGES.keys() & self._routes.keys():
                route = self._routes[key]
                self._routes[key] = replace(route, handler=audited(audit, key, route.handler))
        missing = SERVED.keys() - self._routes.keys()
        assert not missing, f"served, but no handler answers them: {sorted(missing)}"
        self._versions: dict[tuple[int, int], _ServedVersion] = {}
        self._image = image
        self._node_id = node_id
        self._metrics = metrics
        self._takes_telemetry = takes_telemetry
        self._forwarding = forwarding
        self._begin_session = begin_session or plain_session
        self._unfinished: set[asyncio.Task[list[Sendable] | None]] = set()
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time

    def warm(self) -> None:
        """Build the codecs that the first client of any kind needs, so that it does not wait for them."""
        for key in (ApiKey.API_VERSIONS, ApiKey.METADATA, ApiKey.PRODUCE, ApiKey.FETCH, ApiKey.INIT_PRODUCER_ID):
            self._version(key, SERVED[key][1])

    def _version(self, key: int, version: int) -> _ServedVersion:
        found = self._versions.get((key, version))
        if found is None:
            try:
                api_key = ApiKey(key)
            except ValueError:
                raise RemoteProtocolError(f"api key {key} does not exist") from None
            versions = SERVED.get(api_key)
            if versions is None or not versions[0] <= version <= versions[1]:
                raise RemoteProtocolError(f"{api_key.name} version {version} is not served")
            found = _ServedVersion(api_key, version, self._routes[api_key], self._metrics)
            self._versions[key, version] = found
        return found

    def handle(self, connection: BrokerConnection, frame: memoryview) -> Reply:
        """Answer one frame.

        Raises:
            RemoteProtocolError: the frame is no request we can read; the connection is to be closed.
        """
        session: Session = connection.session or self._begin_session(connection)
        guard = session.guard
        if guard is not None:
            reply = guard.take(session, frame)
            if reply is not PASS:
                return cast("Reply", reply)
        if len(frame) < 8:
            raise RemoteProtocolError(f"a request of {len(frame)} bytes has no header")
        key, version = _KEY_AND_VERSION.unpack_from(frame)
        if key == ApiKey.API_VERSIONS and not 0 <= version <= SERVED[ApiKey.API_VERSIONS][1]:
            return self._refuse_api_versions(frame)
        served = self._version(key, version)
        partial: PartialResult | None = None
        short_cut = served.short_cut
        if short_cut is not None:
            begun = self._now()
            body = short_cut.handle_frame(frame, version, session)
            if isinstance(body, bytes | list):
                (correlation_id,) = _CORRELATION_ID.unpack_from(frame, 4)
                served.metrics.observe((self._now() - begun) * 1000)
                return _encoded_frame(served, correlation_id, body)
            if body is None or isinstance(body, PartialResult):
                partial = body
            else:
                (correlation_id,) = _CORRELATION_ID.unpack_from(frame, 4)
                if isinstance(body, asyncio.Future):
                    return self._reply_to_come(served, correlation_id, body, begun)
                return self._body_to_come(served, correlation_id, body, begun)
        header, position = served.header_decode(frame, 0)
        # Bytes after the body are ignored, as in Kafka: librdkafka's Metadata v13 has three.
        request, _ = served.decode(frame, position)
        context = RequestContext(
            api_key=served.api_key,
            version=version,
            correlation_id=header.correlation_id,
            client_id=header.client_id,
            session=session,
        )
        started = self._now()
        try:
            if partial is None or short_cut is None or short_cut.finish is None:
                answer = served.handler(context, request)
            else:
                answer = short_cut.finish(context, request, partial)
        except KafkaError as error:
            answer = self._error_response(served, error)
        # Nearly always a message: testing for that first saves the slower test whether the answer is awaitable.
        if answer is None or isinstance(answer, Message | bytes):
            served.metrics.observe((self._now() - started) * 1000)
            return None if answer is None else _frame(served, header.correlation_id, answer)
        if isinstance(answer, asyncio.Future):
            return self._reply_to_come(served, header.correlation_id, answer, started)
        task = asyncio.ensure_future(self._answer_later(connection, served, header.correlation_id, answer, started))
        if isinstance(answer, Coroutine):  # a connection that ends at once cancels the task before it begins
            task.add_done_callback(lambda _task: answer.close())
        if served.route.ends_with_connection:
            return PendingReply(task)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        keeps_order = served.route.keeps_order
        blocks_next = keeps_order is None or not keeps_order(request)
        return PendingReply(asyncio.shield(task), blocks_next=blocks_next, work=task)

    def _body_to_come(
        self, served: _ServedVersion, correlation_id: int, body: BodyToCome, started: float
    ) -> PendingReply:
        """Return the pending answer to a request that a short cut has taken.

        The next request waits for it only where the order of effects needs that.
        """
        begun = self._now()
        reply: asyncio.Future[list[Sendable] | None] = (
            PromptReply(body.abandon) if body.is_prompt else self._loop.create_future()
        )

        def answer_with(body: bytes | list[Sendable] | Message) -> None:
            served.metrics.observe((begun - started) * 1000, (self._now() - begun) * 1000)
            if reply.done():
                return
            if isinstance(body, bytes | list):
                reply.set_result(_encoded_frame(served, correlation_id, body))
            else:
                reply.set_result(_frame(served, correlation_id, body))

        def end(reply: asyncio.Future[list[Sendable] | None]) -> None:
            if reply.cancelled():
                body.abandon()

        body.then(answer_with)
        if served.route.ends_with_connection and not body.is_prompt:
            reply.add_done_callback(end)
        return PendingReply(reply, blocks_next=served.route.keeps_order is None)

    def _reply_to_come(
        self, served: _ServedVersion, correlation_id: int, answer: asyncio.Future[Any], started: float
    ) -> PendingReply:
        """Return the pending answer that `answer` completes, without a task.

        If the client goes away the reply is cancelled, and `answer` is not: what was begun is finished.
        """
        begun = self._now()
        reply = PromptReply(_nothing)

        def finish(answer: asyncio.Future[Any]) -> None:
            if answer.cancelled():
                reply.cancel()
                return
            try:
                error = answer.exception()
                if error is None:
                    message = answer.result()
                elif isinstance(error, KafkaError):
                    message = self._error_response(served, error)
                else:
                    raise error
                served.metrics.observe((begun - started) * 1000, (self._now() - begun) * 1000)
                frame = None if message is None else _frame(served, correlation_id, message)
            except Exception as failure:
                if not reply.done():
                    reply.set_exception(failure)
                return
            if not reply.done():
                reply.set_result(frame)

        answer.add_done_callback(finish)
        return PendingReply(reply, work=answer)

    async def _answer_later(
        self,
        connection: BrokerConnection,
        served: _ServedVersion,
        correlation_id: int,
        answer: Awaitable[Any],
        started: float,
    ) -> list[Sendable] | None:
        begun = self._now()
        try:
            message = await answer
        except KafkaError as error:
            message = self._error_response(served, error)
        except RemoteProtocolError:
            if connection.closing:
                return None  # the connection is closed already, and does not retrieve this task's error
            raise
        served.metrics.observe((begun - started) * 1000, (self._now() - begun) * 1000)
        return None if message is None else _frame(served, correlation_id, message)

    def _passing_on(self, forwarding: Forwarding, handler: Handler) -> Handler:
        """Return a handler that has the controller answer; this broker if it is the controller or that cannot be asked."""

        async def pass_on(context: RequestContext, request: Message) -> Any:
            key, version = context.api_key, context.version
            header = RequestHeader(
                request_api_key=key,
                request_api_version=version,
                correlation_id=context.correlation_id,
                client_id=context.client_id,
            )
            frame = encode(header, request_header_version(key, version)) + encode(request, version)
            answer = await forwarding.forward(context.session, frame)
            if answer is not None:
                _, position = decoder(ResponseHeader, response_header_version(key, version))(answer, 0)
                return answer[position:]
            local = handler(context, request)
            return await local if isinstance(local, Awaitable) else local

        def handle(context: RequestContext, request: Message) -> Any:
            return pass_on(context, request) if forwarding.is_elsewhere() else handler(context, request)

        return handle

    # -- Envelope (key 58, version 0)

    async def handle_envelope(self, context: RequestContext, request: EnvelopeRequest) -> EnvelopeResponse:
        """Another broker passes on what a client asks of the controller; see `forwarding`."""
        if self._forwarding is None:
            return EnvelopeResponse(error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED)
        session = self._forwarding.open_envelope(context.session, request)
        if isinstance(session, ErrorCode):
            return EnvelopeResponse(error_code=session)
        frame = request.request_data
        if len(frame) < 8:
            return EnvelopeResponse(error_code=ErrorCode.INVALID_REQUEST)
        try:
            served = self._version(*_KEY_AND_VERSION.unpack_from(frame))
            header, position = served.header_decode(frame, 0)
            asked, _ = served.decode(frame, position)
        except RemoteProtocolError:
            return EnvelopeResponse(error_code=ErrorCode.INVALID_REQUEST)
        handler = self._for_controller.get(served.api_key)
        if handler is None:
            return EnvelopeResponse(error_code=ErrorCode.INVALID_REQUEST)
        inner = RequestContext(served.api_key, served.version, header.correlation_id, header.client_id, session)
        try:
            answer = handler(inner, asked)
            message = await answer if isinstance(answer, Awaitable) else answer
        except KafkaError as error:
            message = self._error_response(served, error)
        chunks = cast("list[bytes]", _frame(served, header.correlation_id, message))
        return EnvelopeResponse(response_data=b"".join(chunks)[_SIZE.size :])

    def _error_response(self, served: _ServedVersion, error: KafkaError) -> Message:
        """Put an error that a handler raised where the response has room for one.

        Raises:
            KafkaError: it has none; the connection is closed and the log says why.
        """
        served.metrics.error(error.code.name)
        response = APIS[served.api_key].response_class()()
        if not hasattr(response, "error_code"):
            raise error
        response.error_code = int(error.code)
        if hasattr(response, "error_message"):
            response.error_message = error.message
        return response

    # -- ApiVersions (key 18, versions 0-5)

    def handle_api_versions(self, context: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse:
        """v3: software name and version (KIP-511); features. v5: the cluster and node that the client means (KIP-1242)."""
        if context.version >= 3 and not (
            _SOFTWARE.fullmatch(request.client_software_name) and _SOFTWARE.fullmatch(request.client_software_version)
        ):
            return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
        if context.version >= 3:
            software = ClientSoftware(request.client_software_name, request.client_software_version)
            context.session.software = software
        if context.version >= 5 and (
            request.cluster_id not in (None, self._image().cluster_id) or request.node_id not in (-1, self._node_id)
        ):
            return ApiVersionsResponse(error_code=ErrorCode.REBOOTSTRAP_REQUIRED)
        image = self._image()
        hidden = () if self._takes_telemetry() else TELEMETRY
        return ApiVersionsResponse(
            api_keys=[
                ApiVersion(api_key=key, min_version=versions[0], max_version=versions[1])
                for key, versions in ADVERTISED.items()
                if key not in hidden
            ],
            supported_features=[
                SupportedFeatureKey(name=name, min_version=low, max_version=high)
                for name, low, high in visible_features(context.version, FEATURES)
            ],
            # Clients ignore features that come without an epoch.
            finalized_features_epoch=image.features_epoch,
            finalized_features=[
                FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
                for name, level in image.features.items()
                if level > 0
            ],
        )

    def _refuse_api_versions(self, frame: memoryview) -> Reply:
        low, high = ADVERTISED[ApiKey.API_VERSIONS]
        response = ApiVersionsResponse(
            error_code=ErrorCode.UNSUPPORTED_VERSION,
            api_keys=[ApiVersion(api_key=ApiKey.API_VERSIONS, min_version=low, max_version=high)],
        )
        (correlation_id,) = Struct(">i").unpack_from(frame, 4)
        return _frame(self._version(ApiKey.API_VERSIONS, 0), correlation_id, response)


def _guarded(route: Route, key: ApiKey, guard: Callable[[ApiKey, Handler], Handler]) -> Route:
    """Return a route whose handlers stand behind the guard of their API."""
    short_cut = route.short_cut
    if short_cut is not None and short_cut.finish is not None:
        short_cut = replace(short_cut, finish=cast(Any, guard(key, cast(Any, short_cut.finish))))
    return replace(route, handler=guard(key, route.handler), short_cut=short_cut)


def _nothing() -> None:
    """Nothing is to be done."""


def plain_session(connection: BrokerConnection) -> Session:
    """Return the session of a connection whose client need not say who it is."""
    session = Session(
        listener=connection.listener,
        client_host=connection.peer_host,
        client_port=connection.peer_port,
        local_host=connection.local_host,
        local_port=connection.local_port,
    )
    connection.session = session
    connection.on_closed = session.end
    return session


def _encoded_frame(served: _ServedVersion, correlation_id: int, body: bytes | list[Sendable]) -> list[Sendable]:
    """Return size, header and an encoded body, the first piece of which is short."""
    size = len(body) if isinstance(body, bytes) else sum(map(len, body))
    if served.flexible_header:
        head = _SIZE_CORRELATION_TAGS.pack(size + 5, correlation_id, 0)
    else:
        head = _SIZE_AND_CORRELATION.pack(size + 4, correlation_id)
    return [head + body] if isinstance(body, bytes) else [head + cast(bytes, body[0]), *body[1:]]


def _frame(served: _ServedVersion, correlation_id: int, message: Message | bytes) -> list[Sendable]:
    """Return size, header and body (encoded already, or not).

    Large record sets stay buffers of their own: nothing of them is copied here.
    """
    chunks: list[Sendable]
    if isinstance(message, bytes):
        chunks = [message]
    else:
        try:
            chunks = encode_chunks(message, served.version)
        except LocalProtocolError:
            # A message that quotes a name of 32,767 bytes, legal in a request, has outgrown what a string may be.
            if not _shorten_error_messages(message):
                raise
            chunks = encode_chunks(message, served.version)
    size = sum(map(len, chunks))
    if served.flexible_header:
        head = _SIZE_CORRELATION_TAGS.pack(size + 5, correlation_id, 0)
    else:
        head = _SIZE_AND_CORRELATION.pack(size + 4, correlation_id)
    if chunks and len(chunks[0]) < CHUNK_SIZE_MIN:
        chunks[0] = head + cast(bytes, chunks[0])
        return chunks
    return [head, *chunks]


def _shorten_error_messages(message: MessagePart) -> bool:
    """Cut every error message inside `message` to `ERROR_MESSAGE_MAX` characters; return whether there was one to cut."""
    found = False
    for name in message.__slots__:
        value = getattr(message, name)
        if name == "error_message":
            if value is not None and len(value) > ERROR_MESSAGE_MAX:
                message.error_message = value[:ERROR_MESSAGE_MAX] + "..."  # type: ignore[attr-defined]
                found = True
        elif isinstance(value, MessagePart):
            found = _shorten_error_messages(value) or found
        elif isinstance(value, list):
            for element in value:
                if isinstance(element, MessagePart):
                    found = _shorten_error_messages(element) or found
    return found
