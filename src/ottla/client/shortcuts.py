"""A whole topic as one batch, and a topic followed batch by batch: what analysts want of a consumer, in one call each."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self

from ottla.client import aio_consumer, consumer
from ottla.client.config import ReaderOptions
from ottla.client.consumed import Batch, K, V
from ottla.client.keys import Duration, duration_s

if TYPE_CHECKING:
    from typing import Unpack

#: Seconds without a record after which `read` gives up.
_IDLE: Final = 60.0
#: Options of reading once: it is no member of a group, begins where the topic begins, and makes no topic.
_READ: Final[dict[str, Any]] = {"auto_offset_reset": "earliest", "allow_auto_create_topics": False}
#: Options of following: a new group begins where the topic begins.
_FOLLOW: Final[dict[str, Any]] = {"auto_offset_reset": "earliest"}


def read(
    topic: str,
    bootstrap_servers: str | list[str] | None = None,
    *,
    idle_timeout: Duration = _IDLE,
    **options: Unpack[ReaderOptions],
) -> Batch:
    """Return a topic as one batch: from its start to the end that it has now, all partitions.

        frame = polars.DataFrame(ottla.read("orders"))

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        idle_timeout: seconds without a record after which it gives up.
        options: keys of a consumer (`isolation_level="read_committed"`). docs/client.md lists them.

    Returns:
        The batch; unlike those of `Consumer.batches` it may be empty.

    Raises:
        UnknownTopicOrPartitionError, TimeoutError: there is no such topic, or no answer.
    """
    with consumer.Consumer(bootstrap_servers, topics=[topic], config=None, **{**_READ, **options}) as reader:
        return reader._read_to_end(duration_s("idle_timeout", idle_timeout))


async def read_async(
    topic: str,
    bootstrap_servers: str | list[str] | None = None,
    *,
    idle_timeout: Duration = _IDLE,
    **options: Unpack[ReaderOptions],
) -> Batch:
    """Return a topic as one batch: from its start to the end that it has now, all partitions. See `ottla.read`."""
    async with aio_consumer.Consumer(bootstrap_servers, topics=[topic], config=None, **{**_READ, **options}) as reader:
        return await reader._read_to_end(duration_s("idle_timeout", idle_timeout))


def follow(
    topic: str,
    bootstrap_servers: str | list[str] | None = None,
    *,
    group_id: str,
    every: Duration = 5.0,
    max_records: int = 1_000_000,
    **options: Unpack[ReaderOptions],
) -> Following:
    """Follow a topic as a member of a group: a batch at least every so often while records come. Endless.

        with ottla.follow("orders", group_id="ml", every="5s") as batches:
            for batch in batches:
                model.learn(polars.DataFrame(batch))

    Asking for the next batch finishes the one at hand; leaving the block with an exception leaves it unfinished. A new
    group begins where the topic begins, unless `auto_offset_reset` says otherwise.

    Args:
        every: how long a batch is gathered, in seconds, once there is a first record.
        max_records: in a batch.
        options: keys of a consumer. docs/client.md lists them.
    """
    made: consumer.Consumer[Any, Any] = consumer.Consumer(
        bootstrap_servers, topics=[topic], config=None, **{**_FOLLOW, **options, "group_id": group_id}
    )
    return Following(made, max_records, every)


def follow_async(
    topic: str,
    bootstrap_servers: str | list[str] | None = None,
    *,
    group_id: str,
    every: Duration = 5.0,
    max_records: int = 1_000_000,
    **options: Unpack[ReaderOptions],
) -> AsyncFollowing:
    """Follow a topic as a member of a group; `async with` and `async for`. See `ottla.follow`."""
    made: aio_consumer.Consumer[Any, Any] = aio_consumer.Consumer(
        bootstrap_servers, topics=[topic], config=None, **{**_FOLLOW, **options, "group_id": group_id}
    )
    return AsyncFollowing(made, max_records, every)


class Following(Generic[K, V]):
    """A topic that is followed; see `follow`.

    Attributes:
        consumer: who reads it.
    """

    def __init__(self, made: consumer.Consumer[K, V], max_records: int, every: Duration) -> None:
        self.consumer = made
        self._batches = made.batches(max_records=max_records, max_wait=every)

    def stop(self) -> None:
        """End the loop after the batch at hand; for any thread, and for signal handlers."""
        self.consumer.stop()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch[K, V]:
        """Wait for the next batch and return it."""
        return next(self._batches)

    def __enter__(self) -> Self:
        self.consumer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.consumer.__exit__(kind, error, traceback)


class AsyncFollowing(Generic[K, V]):
    """A topic that is followed; see `follow_async`.

    Attributes:
        consumer: who reads it.
    """

    def __init__(self, made: aio_consumer.Consumer[K, V], max_records: int, every: Duration) -> None:
        self.consumer = made
        self._batches = made.batches(max_records=max_records, max_wait=every)

    def stop(self) -> None:
        """End the loop after the batch at hand."""
        self.consumer.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[K, V]:
        """Wait for the next batch and return it."""
        return await anext(self._batches)

    async def __aenter__(self) -> Self:
        await self.consumer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.consumer.__aexit__(kind, error, traceback)
