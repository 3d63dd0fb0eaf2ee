"""A bare client: one connection, messages in, messages out. For tests; it hides nothing and retries nothing."""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, TypeVar, cast

from ottla.protocol.api import APIS, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.framing import FrameReader
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.schema import Message

if TYPE_CHECKING:
    import ssl

_SIZE = Struct(">i")

M = TypeVar("M", bound=Message)


class WireClient(asyncio.Protocol):
    """Sends requests in any version, several at a time if wanted, and matches answers by correlation id."""

    def __init__(self, client_id: str | None = "wire") -> None:
        self.client_id = client_id
        self._reader = FrameReader(1 << 30)
        self._waiting: dict[int, tuple[Message, int, asyncio.Future[Message]]] = {}
        self._next_id = 0
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        client_id: str | None = "wire",
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> WireClient:
        """Open a connection on the running loop, virtual or not; with `tls` a real one that asks for `server_name`."""
        loop = asyncio.get_running_loop()
        if tls is None:
            _, client = await loop.create_connection(lambda: cls(client_id), host, port)
        else:
            _, client = await loop.create_connection(
                lambda: cls(client_id), host, port, ssl=tls, server_hostname=server_name or host
            )
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            (correlation_id,) = _SIZE.unpack_from(frame)
            request, version, future = self._waiting.pop(correlation_id)
            key = ApiKey(cast(int, request.API_KEY))
            _, position = decode(ResponseHeader, response_header_version(key, version), frame)
            response, end = decode(APIS[key].response_class(), version, frame, position)
            assert end == len(frame), (
                f"{len(frame) - end} bytes after the answer to {type(request).__name__} v{version}"
            )
            if not future.done():
                future.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionResetError("the broker closed the connection")
        waiting, self._waiting = self._waiting, {}
        for _, _, future in waiting.values():
            if not future.done():
                future.set_exception(error)
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, request: Message, version: int) -> asyncio.Future[Message]:
        """Send one request; the future resolves with its answer, or fails when the connection ends first."""
        assert self._transport is not None
        key = ApiKey(cast(int, request.API_KEY))
        self._next_id += 1
        header = RequestHeader(
            request_api_key=key,
            request_api_version=version,
            correlation_id=self._next_id,
            client_id=self.client_id,
        )
        frame = encode(header, request_header_version(key, version)) + encode(request, version)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self._transport.is_closing() or self.closed.done():
            future.set_exception(ConnectionResetError("the connection is closed"))
            return future
        self._waiting[self._next_id] = (request, version, future)
        self._transport.write(_SIZE.pack(len(frame)) + frame)
        return future

    async def ask(self, request: Message, version: int, answer: type[M]) -> M:
        """Send one request and return its answer, which is of the class `answer`."""
        response = await self.send(request, version)
        assert isinstance(response, answer)
        return response

    def write_raw(self, data: bytes) -> None:
        """Send bytes that need be no request."""
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """End the connection; what is owed fails."""
        if self._transport is not None:
            self._transport.close()
