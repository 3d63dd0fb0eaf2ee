"""Peers: connections to the other brokers, for what brokers ask each other besides records.

Opened when something is asked, shared by all that ask for the same purpose, opened anew after they ended. Which broker is to
be asked, and whether to ask again, decide the callers. A broker answers the requests of one connection in order, so what may
take long there has a purpose, and so a connection, of its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from ottla.errors import BrokerNotAvailableError, KafkaError, RemoteProtocolError
from ottla.network.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.cluster.image import ClusterImage
    from ottla.network.channel import ChannelSettings
    from ottla.protocol.schema import Message

logger = logging.getLogger(__name__)

M = TypeVar("M", bound="Message")

#: An answer that takes longer is not waited for: the connection ends, and whoever asked asks again.
TIMEOUT_SECONDS = 30.0


class Peers:
    """The other brokers of the cluster.

    Args:
        image: says where they are.
        listener: the listener by which brokers reach each other (`inter.broker.listener.name`).
    """

    def __init__(
        self, node_id: int, image: Callable[[], ClusterImage], *, listener: str, settings: ChannelSettings
    ) -> None:
        self.node_id = node_id
        self.listener = listener
        self._image = image
        self._settings = settings
        self._open: dict[tuple[int, str], asyncio.Task[_Connection]] = {}
        self._number = 0

    async def ask(
        self,
        node_id: int,
        request: Message | Callable[[int], Message],
        answer: type[M],
        *,
        version: int | None = None,
        purpose: str = "",
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> M:
        """Ask one broker.

        Args:
            request: or what makes it, given the number of the connection on which it is sent.
            version: the highest that both speak unless given.
            purpose: requests of one purpose share a connection.

        Raises:
            BrokerNotAvailableError: it is not registered, cannot be reached, or has not answered; in the last case the
                request may have been carried out.
        """
        connection = await self._connection(node_id, purpose)
        try:
            message = request(connection.number) if callable(request) else request
            return await connection.channel.ask(message, answer, version=version, timeout_s=timeout_s)
        except (KafkaError, RemoteProtocolError) as error:
            self._forget((node_id, purpose), connection)
            raise BrokerNotAvailableError(f"broker {node_id} does not answer: {error}") from error

    async def stop(self) -> None:
        """End all connections."""
        opened, self._open = list(self._open.values()), {}
        for task in opened:
            task.cancel()
        for found in await asyncio.gather(*opened, return_exceptions=True):
            if isinstance(found, _Connection):
                found.channel.close()

    async def _connection(self, node_id: int, purpose: str) -> _Connection:
        broker = self._image().brokers.get(node_id)
        endpoint = None if broker is None else broker.endpoint(self.listener)
        if endpoint is None:
            raise BrokerNotAvailableError(f"broker {node_id} is not there, or has no listener {self.listener}")
        address = (endpoint.host or "localhost", endpoint.port)
        key = (node_id, purpose)
        task = self._open.get(key)
        if task is not None and task.done():
            found = None if task.cancelled() or task.exception() is not None else task.result()
            if found is None or not found.channel.is_open or found.address != address:
                if found is not None:
                    found.channel.close()
                task = None
        if task is None:
            self._number += 1
            task = asyncio.get_running_loop().create_task(self._connect(address, self._number))
            self._open[key] = task
        try:
            return await asyncio.shield(task)
        except (KafkaError, RemoteProtocolError) as error:
            raise BrokerNotAvailableError(f"broker {node_id} cannot be reached: {error}") from error

    async def _connect(self, address: tuple[str, int], number: int) -> _Connection:
        return _Connection(await Channel.open(*address, self._settings), address, number)

    def _forget(self, key: tuple[int, str], connection: _Connection) -> None:
        connection.channel.close()
        task = self._open.get(key)
        is_made = task is not None and task.done() and not task.cancelled() and task.exception() is None
        if task is not None and is_made and task.result() is connection:
            del self._open[key]


class _Connection:
    """A channel, where it leads, and its number: those made later have higher ones."""

    __slots__ = ("address", "channel", "number")

    def __init__(self, channel: Channel, address: tuple[str, int], number: int) -> None:
        self.channel = channel
        self.address = address
        self.number = number
