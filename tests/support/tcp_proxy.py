"""A proxy in front of one port: the network between a client and a server, which can swallow bytes or be cut."""

from __future__ import annotations

import asyncio


class TcpProxy:
    """Forwards connections to a port of this machine.

    Attributes:
        port: where it listens.
        swallows_requests, swallows_answers: bytes of that direction vanish; connections stay up.
        connections_made: how many clients have connected so far.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.swallows_requests = self.swallows_answers = False
        self.connections_made = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def swallow(self, swallows: bool = True) -> None:
        """Swallow everything, both ways, or no longer."""
        self.swallows_requests = self.swallows_answers = swallows

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(server_writer)
        try:
            requests = asyncio.ensure_future(self._forward(reader, server_writer, is_request=True))
            answers = asyncio.ensure_future(self._forward(server_reader, writer, is_request=False))
            _, left = await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
            for other in left:
                other.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)
        finally:
            for end in (writer, server_writer):
                end.transport.abort()
                self._writers.discard(end)
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        while data := await reader.read(65536):
            if not (self.swallows_requests if is_request else self.swallows_answers):
                writer.write(data)
                await writer.drain()
