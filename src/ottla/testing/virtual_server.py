"""The broker's listener on a `VirtualLoop`: the real connections, in-memory transports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from ottla.network.binding import Listener
from ottla.network.connection import BrokerConnection
from ottla.network.server import Server
from ottla.testing.virtual_loop import MemoryServer, VirtualLoop


class VirtualServer(Server):
    """Takes the place of `Server`: accepts from the virtual loop instead of sockets; everything behind is the same."""

    _listening: list[MemoryServer]

    async def bind(self, listeners: Sequence[Listener]) -> None:
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        self.now: float = loop.time()
        self._listening = []
        self._know(listeners)
        for listener in listeners:

            def connect(listener: Listener = listener) -> BrokerConnection:
                self._quota.admit(loop.dialing)
                self._listener_quotas[listener.name].count += 1
                connection = self.new_connection(listener, loop.dialing)
                if listener.has_login:
                    self.count_stranger(connection, loop.dialing)
                return connection

            server = await loop.create_server(connect, listener.host or "127.0.0.1", listener.port)
            self._listening.append(server)
            self.addresses.append((listener.name, listener.host, server.address[1]))
        self._schedule_sweep()

    async def stop(self, grace_seconds: float = 2.0) -> None:
        for server in self._listening:
            server.close()
        await super().stop(grace_seconds)
