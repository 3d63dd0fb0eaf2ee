"""A server and clients on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from tests.network.fakes import frame

from ottla.network.binding import Listener
from ottla.network.connection import BrokerConnection, Reply
from ottla.network.http import HttpResponse, HttpSite
from ottla.network.limits import NetworkLimits
from ottla.network.server import Server

LOCAL = [Listener(name="PLAINTEXT", host="127.0.0.1", port=0)]


def echo(connection: BrokerConnection, body: memoryview) -> Reply:
    return [frame(bytes(body))]


@asynccontextmanager
async def serving(
    handle: Callable[[BrokerConnection, memoryview], Reply] = echo, **limits: object
) -> AsyncIterator[Server]:
    server = Server(
        handle,
        limits=NetworkLimits(**limits),  # type: ignore[arg-type]
        http=HttpSite(handler=lambda path: HttpResponse(body=path.encode())),
    )
    await server.start(LOCAL)
    try:
        yield server
    finally:
        await server.stop(grace_seconds=0.2)


class Client:
    """Reads and writes frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, server: Server) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", server.addresses[0][2]))

    async def ask(self, body: bytes) -> bytes:
        self.writer.write(frame(body))
        return await self.answer()

    async def answer(self) -> bytes:
        async with asyncio.timeout(10):
            size = int.from_bytes(await self.reader.readexactly(4), "big")
            return await self.reader.readexactly(size)

    async def ended(self) -> bytes:
        """Read to the end."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    @property
    def reading(self) -> asyncio.ReadTransport:
        return cast(asyncio.ReadTransport, self.writer.transport)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
