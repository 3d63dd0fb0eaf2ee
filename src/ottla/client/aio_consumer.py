"""The asynchronous consumer: `ottla.aio.Consumer`. It belongs to the event loop that started it.

The same names as `ottla.Consumer`, awaitable; `async for` instead of `for`.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from ottla.client._core.operation import Operation
from ottla.client.config import ConsumerOptions
from ottla.client.consumed import Deserializer, K, Record, V
from ottla.client.consuming import ConsumerBase, Place
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.keys import Duration, duration_s
from ottla.client.records import make_timestamp
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.sasl import Sasl


class Consumer(ConsumerBase[K, V]):
    """Reads topics, all their partitions, without a group: nothing is committed.

        async with ottla.aio.Consumer("localhost:9092", topics=["orders"], auto_offset_reset="earliest") as consumer:
            async for record in consumer:
                print(record.offset, record.value)

    The arguments are those of `ottla.Consumer`. Making one binds no event loop; `start()` or `async with` does.

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        topics: Iterable[str] | None = None,
        key_deserializer: Deserializer[K] | None = None,
        value_deserializer: Deserializer[V] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        sasl: Sasl | None = None,
        connect_timeout: Duration = 10.0,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        super().__init__(
            bootstrap_servers,
            topics=topics,
            key_deserializer=key_deserializer,
            value_deserializer=value_deserializer,
            ssl_context=ssl_context,
            sasl=sasl,
            connect_timeout=connect_timeout,
            config=config,
            options=options,
            lock=nullcontext(),
        )
        self._starting: asyncio.Task[None] | None = None
        self._called = asyncio.Event()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect. `async with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        if self._starting is None:
            self._begin(self._make_runtime())
            self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        runtime = self._runtime
        assert runtime is not None
        runtime.wake()
        try:
            if not await self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End: nothing is fetched any more."""
        if isinstance(self._closed, ForkedError):
            raise self._closed
        self._end()
        self._called.set()
        if self._runtime is not None:
            await self._runtime.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if getattr(self, "_runtime", None) is not None and self._closed is None:
            self._closed = ClosedError()
            warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)

    # -- records ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record[K, V]:
        """Wait for the next record and return it. After `stop()` the loop ends; another loop goes on behind it.

        A cancelled wait loses no record.
        """
        record = self._take_ready(None) if not self._stopping else None
        if record is not None:
            return record
        record = await self._next(None)
        if record is None:
            self._stopping = False
            raise StopAsyncIteration
        return record

    async def poll(self, max_records: int | None = None, timeout: Duration = 1.0) -> list[Record[K, V]]:
        """Return the records that are there, `max_records` (`max.poll.records`) at most.

        Args:
            timeout: seconds to wait for a first one; the list is empty if none comes.
        """
        limit = self._bounds.max_poll_records if max_records is None else max_records
        deadline = asyncio.get_running_loop().time() + duration_s("timeout", timeout)
        first = await self._next(deadline)
        self._stopping = False
        found = [] if first is None else [first]
        while found and len(found) < limit:
            record = self._take()
            if record is None:
                break
            found.append(record)
        return found

    def records(self, *, until: str = "end", idle_timeout: Duration | None = None) -> BoundedRecords[K, V]:
        """Iterate over the records up to the ends that the partitions have now.

        Args:
            until: "end".
            idle_timeout: seconds without a record after which the iteration ends, too.
        """
        if until != "end":
            raise ValueError(f"until takes 'end', not {until!r}")
        return BoundedRecords(self, None if idle_timeout is None else duration_s("idle_timeout", idle_timeout))

    async def _next(self, deadline: float | None, done: Callable[[], bool] | None = None) -> Record[K, V] | None:
        """Return the next record; None after `stop()`, when the deadline has passed, or once `done` says so."""
        if self._closed is not None:
            raise self._closed
        if self._runtime is None:
            await self.start()
        while not self._stopping:
            record = self._take(self._wake_waiter)
            if record is not None or (done is not None and done()):
                return record
            self._called.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._called.wait()
            except TimeoutError:
                return None
            if self._closed is not None:
                raise self._closed
        return None

    # -- positions --------------------------------------------------------------------------------------------------

    async def seek(self, where: TopicPartition, place: Place) -> None:
        """Go on at an offset, at the first record of a time or later (an aware datetime), at the "beginning" or the "end".

        Raises:
            UnknownTopicOrPartitionError: the partition is not assigned.
            TimeoutError: the topics are not known within `default.api.timeout.ms`.
        """
        await self._await_topics()
        self._seek(TopicPartition(*where), place)

    async def position(self, where: TopicPartition) -> int:
        """Return the offset of the next record of a partition.

        Raises:
            UnknownTopicOrPartitionError: the partition is not assigned.
            TimeoutError: it is not known within `default.api.timeout.ms`.
        """
        await self._await_topics()
        await self._await(lambda: self._position_known(where), f"the position of {TopicPartition(*where)}")
        position = self._state(*where).position
        assert position is not None
        return position

    async def beginning_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Return the first offset of partitions (of all that are assigned)."""
        return await self._ask(partitions, EARLIEST)

    async def end_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of partitions (of all that are assigned); for readers of committed
        records the last stable offset."""
        return await self._ask(partitions, LATEST)

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, datetime | int]
    ) -> dict[TopicPartition, int | None]:
        """Return the offset of the first record of each time or later; None if there is none."""
        await self._await_topics()
        found = await self._query({TopicPartition(*where): make_timestamp(when) for where, when in times.items()})
        return {where: offset if offset >= 0 else None for where, offset in found.items()}

    async def _ask(self, partitions: Iterable[TopicPartition] | None, place: int) -> dict[TopicPartition, int]:
        await self._await_topics()
        return await self._query(self._places(partitions, place))

    async def _query(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        runtime = self._runtime
        assert runtime is not None
        query = self._machine.query(places, runtime.now_ms())
        self._wake()
        try:
            done = await self._wait(query, self._bounds.api_timeout_s)
        finally:
            self._machine.cancel(query)
        if not done:
            raise self._slow("offsets")
        if query.error is not None:
            raise query.error
        return query.offsets

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def _await_topics(self) -> None:
        self._check_usable()
        if self._runtime is None:
            await self.start()
        await self._await(self._topics_known, f"metadata of {', '.join(self._topics)}")

    async def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        deadline = asyncio.get_running_loop().time() + self._bounds.api_timeout_s
        while not condition():
            event = asyncio.Event()
            self._machine.waiters.append(event.set)
            self._wake()
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                raise self._slow(what) from None

    async def _wait(self, operation: Operation, limit_s: float) -> bool:
        if not operation.done:
            event = asyncio.Event()
            operation.callbacks.append(event.set)
            try:
                async with asyncio.timeout(limit_s):
                    await event.wait()
            except TimeoutError:
                pass
        return operation.done

    def stop(self) -> None:
        """End loops over this consumer after the record they have. For any thread, and for signal handlers."""
        self._stopping = True
        if self._runtime is not None:
            self._runtime.call_threadsafe(self._wake_waiter)

    def _wake_waiter(self) -> None:
        self._called.set()

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()


class BoundedRecords(Generic[K, V]):
    """The records up to an end; see `Consumer.records`. Ending early leaves the position behind the last one handed out."""

    def __init__(self, consumer: Consumer[K, V], idle_timeout_s: float | None) -> None:
        self._consumer = consumer
        self._idle_timeout_s = idle_timeout_s
        self._ends: dict[TopicPartition, int] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record[K, V]:
        consumer = self._consumer
        if self._ends is None:
            self._ends = await consumer.end_offsets()
        ends = self._ends
        if not consumer._stopping and (ready := consumer._take_ready(ends)) is not None:
            return ready
        deadline = None
        if self._idle_timeout_s is not None:
            deadline = asyncio.get_running_loop().time() + self._idle_timeout_s
        consumer._limits = ends
        try:
            record = await consumer._next(deadline, lambda: consumer._reached(ends))
        finally:
            consumer._limits = None
        if record is None:
            consumer._stopping = False
            raise StopAsyncIteration
        return record
