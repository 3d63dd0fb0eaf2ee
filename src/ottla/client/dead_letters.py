"""Dead letters: records that could not be handled or read, sent on to a topic of their own, with why.

The producer is made when the first one comes, and goes where its consumer does.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from ottla.client.consumed import Record
from ottla.client.lanes import dead_letter_headers

if TYPE_CHECKING:
    from ottla.client.aio_producer import Producer as AsyncProducer
    from ottla.client.config import ClientSettings
    from ottla.client.producer import Producer


class DeadLetters:
    """For any thread."""

    def __init__(self, client: ClientSettings) -> None:
        self._client = client
        self._producer: Producer[Any, Any] | None = None
        self._lock = threading.Lock()

    def send(self, record: Record[Any, Any], topic: str, error: Exception, attempts: int) -> None:
        """Send a record to a topic, and wait until it is acknowledged.

        Raises:
            KafkaError: why that failed.
        """
        with self._lock:
            if self._producer is None:
                from ottla.client.producer import Producer

                producer: Producer[Any, Any] = Producer(_servers(self._client))
                producer._client = self._client
                producer.start()
                self._producer = producer
        headers = dead_letter_headers(record, error, attempts)
        self._producer.send_and_wait(topic, record.value_bytes, key=record.key_bytes, headers=headers)

    def close(self) -> None:
        """End the producer, if there was one."""
        if self._producer is not None:
            self._producer.close()


class AsyncDeadLetters:
    """For the tasks of one event loop."""

    def __init__(self, client: ClientSettings) -> None:
        self._client = client
        self._producer: AsyncProducer[Any, Any] | None = None
        self._lock = asyncio.Lock()

    async def send(self, record: Record[Any, Any], topic: str, error: Exception, attempts: int) -> None:
        """Send a record to a topic, and wait until it is acknowledged.

        Raises:
            KafkaError: why that failed.
        """
        async with self._lock:
            if self._producer is None:
                from ottla.client.aio_producer import Producer

                producer: AsyncProducer[Any, Any] = Producer(_servers(self._client))
                producer._client = self._client
                await producer.start()
                self._producer = producer
        headers = dead_letter_headers(record, error, attempts)
        await self._producer.send_and_wait(topic, record.value_bytes, key=record.key_bytes, headers=headers)

    async def close(self) -> None:
        """End the producer, if there was one."""
        if self._producer is not None:
            await self._producer.close()


def _servers(client: ClientSettings) -> list[str]:
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in client.bootstrap]
