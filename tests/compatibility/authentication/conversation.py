"""What a client says to a broker and what comes back, put so that two brokers' answers can be compared.

A conversation is a list of facts: error codes, sentences, lifetimes, who the broker says one is, or that it has closed the
connection. Nothing of it depends on how long an answer took.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from ottla.protocol.api import ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from ottla.protocol.messages.create_delegation_token import CreateDelegationTokenRequest, CreateDelegationTokenResponse
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.protocol.schema import Message
from ottla.security.sasl import ClientExchange, SaslError

ANSWER_SECONDS = 15.0
#: How long a login on the listener AGAIN lasts.
SESSION_MS = 4_000


class ClosedError(Exception):
    """The broker has closed the connection instead of answering."""


class Conversation:
    """One connection; `facts` is what has been learnt by it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next_id = 0
        self.facts: list[Any] = []

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> Conversation:
        async with asyncio.timeout(ANSWER_SECONDS):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    def close(self) -> None:
        self._writer.transport.abort()

    # -- bytes

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (ConnectionError, ssl.SSLError) as error:
            raise ClosedError from error

    async def frame(self) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as error:
            raise ClosedError from error

    async def bare(self, token: bytes) -> bytes:
        """Send a token without a request around it, as after a handshake of version 0."""
        await self.send(len(token).to_bytes(4, "big") + token)
        return await self.frame()

    async def ask(self, request: Message, version: int, answer: type[Any]) -> Any:
        key = ApiKey(request.API_KEY)  # type: ignore[arg-type]
        self._next_id += 1
        header = RequestHeader(
            request_api_key=key, request_api_version=version, correlation_id=self._next_id, client_id="matrix"
        )
        body = encode(header, request_header_version(key, version)) + encode(request, version)
        await self.send(len(body).to_bytes(4, "big") + body)
        frame = await self.frame()
        found, position = decode(ResponseHeader, response_header_version(key, version), frame)
        assert found.correlation_id == self._next_id
        response, end = decode(answer, version, frame, position)
        assert end == len(frame)
        return response

    # -- steps, each of which adds a fact

    async def handshake(self, mechanism: str, version: int = 1) -> None:
        answer = await self.ask(SaslHandshakeRequest(mechanism=mechanism), version, SaslHandshakeResponse)
        self.facts.append(("handshake", answer.error_code, sorted(answer.mechanisms)))

    async def authenticate(self, token: bytes, version: int = 2) -> bytes:
        answer = await self.ask(SaslAuthenticateRequest(auth_bytes=token), version, SaslAuthenticateResponse)
        self.facts.append(
            ("authenticate", answer.error_code, answer.error_message, _shown_lifetime(answer.session_lifetime_ms))
        )
        return bytes(answer.auth_bytes)

    async def log_in(self, exchange: ClientExchange, *, version: int = 2, handshake: int = 1) -> None:
        """Go through a whole login; of its steps only the last one is a fact."""
        await self.handshake(exchange.mechanism, handshake)
        said: bytes | None = exchange.begin()
        steps = 0
        while said is not None or not exchange.is_complete:
            kept = len(self.facts)
            answer = await (self.authenticate(said or b"", version) if handshake else self.bare(said or b""))
            steps += 1
            if handshake and self.facts[-1][1]:
                self.facts[-1] = (*self.facts[-1], f"step {steps}")
                return
            try:
                said = exchange.respond(answer)
            except SaslError as error:
                self.facts.append(("the client gives up", type(error).__name__))
                return
            if handshake and not exchange.is_complete:
                del self.facts[kept:]
            if exchange.is_complete:
                return

    async def who(self) -> None:
        """Ask for a delegation token: its owner is whom the broker takes this client for."""
        request = CreateDelegationTokenRequest(max_lifetime_ms=3_600_000)
        answer = await self.ask(request, 3, CreateDelegationTokenResponse)
        owner = f"{answer.principal_type}:{answer.principal_name}" if not answer.error_code else ""
        self.facts.append(("who", answer.error_code, owner))

    async def works(self) -> None:
        answer = await self.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
        self.facts.append(("works", bool(answer.brokers)))

    async def versions(self, version: int = 3) -> None:
        request = ApiVersionsRequest(client_software_name="matrix", client_software_version="1")
        answer = await self.ask(request, version, ApiVersionsResponse)
        self.facts.append(("versions", answer.error_code))


def _shown_lifetime(ms: int) -> str:
    """Say how long a login lasts; what is left of a token's life differs by how long it took to get here."""
    if ms in (0, SESSION_MS):
        return "for ever" if ms == 0 else "a session"
    return "less than a session" if 0 < ms < SESSION_MS else f"about {round(ms / 60_000)} min"
