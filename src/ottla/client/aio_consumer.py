"""The asynchronous consumer: `ottla.aio.Consumer`. It belongs to the event loop that started it.

The same names as `ottla.Consumer`, awaitable; `async for` instead of `for`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, overload

from ottla.client._core.operation import Operation
from ottla.client._core.transactions import OffsetAndMetadata
from ottla.client.columns import NO_END, Columns
from ottla.client.config import ConsumerOptions
from ottla.client.consumed import Batch, Deserializer, K, Record, V
from ottla.client.consuming import PartitionsCallback, Place
from ottla.client.dead_letters import AsyncDeadLetters
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.grouping import CLOSE_TIMEOUT_INTERRUPTED_S, CLOSE_TIMEOUT_S, GroupedConsumer
from ottla.client.keys import Duration, duration_s
from ottla.client.lanes import Order, Retry
from ottla.client.records import make_timestamp
from ottla.client.running import AsyncRunner
from ottla.client.unreadable import OnError, Unreadable
from ottla.client.work import Call, T, Until, Wait, Work
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.client.consuming import AnyProducer
    from ottla.sasl import Sasl


logger: logging.Logger = logging.getLogger("ottla.client.consumer")


class Consumer(GroupedConsumer[K, V]):
    """Reads topics: as a member of a group, or all their partitions without one.

        async with ottla.aio.Consumer("localhost:9092", group_id="billing", topics=["orders"]) as consumer:
            async for record in consumer:
                await handle(record)

    The arguments are those of `ottla.Consumer`; callbacks may be coroutine functions. Making one binds no event loop;
    `start()` or `async with` does. Heartbeats run on that loop: a body that blocks it holds them up, and the log says so.

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        topics: Iterable[str] | None = None,
        pattern: str | None = None,
        commit: str | None = None,
        commit_after: AnyProducer | None = None,
        on_assigned: PartitionsCallback | None = None,
        on_revoked: PartitionsCallback | None = None,
        on_lost: PartitionsCallback | None = None,
        on_error: OnError | None = None,
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
            pattern=pattern,
            commit=commit,
            commit_after=commit_after,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            on_lost=on_lost,
            on_error=on_error,
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
        self._dead_letters: AsyncDeadLetters | None = None
        self._task: asyncio.Task[Any] | None = None

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
            self._begin_watching()
            if self._machine.group is not None:
                watch_loop(self)
        except BaseException:
            await self._close(clean=False, limit_s=0)
            raise

    async def close(self, timeout: Duration | None = None) -> None:
        """Commit what is finished, leave the group, end.

        The last record or batch does not count as finished: `async with` knows how its block ended, this does not; `mark()`
        and `commit()` say so.

        Args:
            timeout: seconds for the commit and the farewell; 30 at most by default. What fails is logged.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        await self._close(clean=False, limit_s=CLOSE_TIMEOUT_S if timeout is None else duration_s("timeout", timeout))

    async def _close(self, *, clean: bool, limit_s: float) -> None:
        if self._closed is not None:
            return
        try:
            if self._runtime is not None and self._runtime.connected.done:
                await self._drive(self._farewell(clean=clean, limit_s=limit_s))
        finally:
            self._end()
            self._called.set()
            if self._dead_letters is not None:
                await self._dead_letters.close()
            if self._runtime is not None:
                await self._runtime.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._closed, ForkedError):
            return
        interrupted = error is not None and not isinstance(error, Exception)
        await self._close(clean=error is None, limit_s=CLOSE_TIMEOUT_INTERRUPTED_S if interrupted else CLOSE_TIMEOUT_S)

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
        record: Record[K, V] | None = self._front.take()
        if record is None and not self._attention:
            record = self._take_ready(None)
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
        if found:
            self._take_many(found, limit)
        return found

    def batches(self, *, max_records: int = 100_000, max_wait: Duration = 0.2) -> Batches[K, V]:
        """Iterate over batches of records. Endless; `stop()` ends it.

        Args:
            max_records: in a batch.
            max_wait: seconds to wait for more once there is a first one.
        """
        self._check_columns()
        return Batches(self, max_records, duration_s("max_wait", max_wait))

    async def _next_batch(self, count: int, wait_s: float) -> Columns[K, V] | None:
        columns: Columns[K, V] = Columns(self._pool)
        loop = asyncio.get_running_loop()
        try:
            if await self._next(None, take=lambda: self._take_columns(columns, count, self._wake_waiter)) is None:
                return None
            deadline = loop.time() + wait_s
            self._called.clear()
            self._gather(columns, count, self._wake_waiter)
            while len(columns) < count and self._deferred is None and not self._attention and loop.time() < deadline:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._called.wait()
                self._called.clear()
                self._gather(columns, count, self._wake_waiter)
        except BaseException:
            self._put_back(columns)
            raise
        self._end_call()
        return columns

    async def _read_to_end(self, idle_s: float) -> Batch[K, V]:
        """Return all from the positions to the ends that there are now; perhaps nothing.

        Raises:
            TimeoutError: no record came for so many seconds.
        """
        columns: Columns[K, V] = Columns(self._pool)
        self._limits = ends = await self.end_offsets()

        def take() -> Columns[K, V] | None:
            return self._take_columns(columns, NO_END, self._wake_waiter)

        try:
            while not self._reached(ends):
                deadline = asyncio.get_running_loop().time() + idle_s
                found = await self._next(deadline, lambda: self._reached(ends), take=take)
                if found is None and not self._reached(ends):
                    raise TimeoutError(
                        f"{', '.join(self._topics)}: no record for {idle_s:g} s before the end is reached"
                    )
        finally:
            self._limits = None
        return Batch(columns)

    def records(self, *, until: str | None = "end", idle_timeout: Duration | None = None) -> BoundedRecords[K, V]:
        """Iterate over the records up to the ends that the partitions have now.

        Args:
            until: "end"; None: no end but `idle_timeout` and `stop()`.
            idle_timeout: seconds without a record after which the iteration ends, too.
        """
        if until not in ("end", None):
            raise ValueError(f"until takes 'end' or None, not {until!r}")
        idle_s = None if idle_timeout is None else duration_s("idle_timeout", idle_timeout)
        return BoundedRecords(self, idle_s, bounded=until is not None)

    async def run(
        self,
        handle: Callable[[Record[K, V]], object],
        *,
        workers: int = 1,
        order: Order = "key",
        retry: Retry | None = None,
    ) -> None:
        """Handle records by several tasks at once, until `stop()`. A record is finished when `handle` returns.

        Args:
            handle: called with each record, usually a coroutine function.
            order: "partition", "key" (records of one key one after the other) or "none".
            retry: what happens when `handle` raises; None: `run` raises that, and the record comes again.

        Raises:
            Exception: what `handle` has raised for good, once the other workers are done with theirs.
        """
        await AsyncRunner(self, handle, workers, order, retry).run()

    async def _take_for_run(self, count: int) -> list[Record[K, V]]:
        """Do what the group wants, and return records that are at hand."""
        self._begin_call()
        self._raise_deferred()
        if self._attention:
            await self._drive(self._settle())
        while count:
            try:
                return self._take_run(count, self._wake_waiter)
            except Unreadable as problem:
                await self._drive(self._deal_with(problem))
        return []

    async def _bury(self, record: Record[K, V], topic: str, error: Exception) -> None:
        if self._dead_letters is None:
            self._dead_letters = AsyncDeadLetters(self._client)
        await self._dead_letters.send(record, topic, error, 1)

    def _nudge(self) -> None:
        """A worker has news for whoever waits."""
        waiters, self._machine.waiters = self._machine.waiters, []
        for waiter in waiters:
            waiter()
        self._called.set()

    @overload
    async def _next(self, deadline: float | None, done: Callable[[], bool] | None = None) -> Record[K, V] | None: ...
    @overload
    async def _next(
        self, deadline: float | None, done: Callable[[], bool] | None = None, *, take: Callable[[], T | None]
    ) -> T | None: ...
    async def _next(
        self,
        deadline: float | None,
        done: Callable[[], bool] | None = None,
        *,
        take: Callable[[], Any] | None = None,
    ) -> Any:
        """Return the next record, or what `take` takes; None after `stop()`, when the deadline has passed, or once `done`
        says so."""
        if self._closed is not None:
            raise self._closed
        if self._runtime is None:
            await self.start()
        self._begin_call()
        self._raise_deferred()
        self._task = asyncio.current_task()
        try:
            while True:
                if self._attention:
                    await self._drive(self._settle())
                if self._stopping:
                    return None
                self._called.clear()
                try:
                    record = self._take(self._wake_waiter) if take is None else take()
                except Unreadable as problem:
                    await self._drive(self._deal_with(problem))
                    continue
                if record is not None or (done is not None and done()):
                    return record
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._called.wait()
                except TimeoutError:
                    return None
                if self._closed is not None:
                    raise self._closed
        finally:
            self._end_call()

    # -- the group --------------------------------------------------------------------------------------------------

    async def commit(
        self,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> None:
        """Commit, and wait until that is done.

        Args:
            offsets: by partition, the offset of the next record to read. None: what is finished, and with "processed" the
                record or batch at hand counts as that; with "manual" all that was handed out.
            timeout: seconds; `default.api.timeout.ms` by default.

        Raises:
            CommitFailedError: others have the partitions by now (PollIntervalExceededError: because this program was away
                for too long).
            TimeoutError: no answer in time; it may be committed all the same.
        """
        await self._ensure_started()
        await self._drive(self._commit(offsets, timeout))

    async def committed(
        self,
        partitions: Iterable[TopicPartition] | None = None,
        *,
        require_stable: bool = True,
        timeout: Duration | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """Return what the group has committed, for all assigned partitions or for these; None where nothing is.

        Args:
            require_stable: wait for transactions that may change it (KIP-447).

        Raises:
            TimeoutError: no answer within `timeout` (`default.api.timeout.ms`).
        """
        await self._ensure_started()
        return await self._drive(self._committed(partitions, require_stable, timeout))

    async def _ensure_started(self) -> None:
        self._check_usable()
        if self._runtime is None:
            await self.start()

    async def _drive(self, work: Work[T]) -> T:
        """Do a piece of work, waiting as this face waits."""
        outcome: object = None
        error: BaseException | None = None
        while True:
            try:
                item = work.send(outcome) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            outcome, error = None, None
            try:
                match item:
                    case Wait(operation, limit_s):
                        outcome = await self._wait(operation, limit_s)
                    case Until(condition, limit_s):
                        outcome = await self._until(condition, limit_s)
                    case Call(function, arguments):
                        made = function(*arguments)
                        if inspect.isawaitable(made):
                            await made
            except BaseException as problem:
                error = problem

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
        await self._ensure_started()
        while self._unassigned and not self._settling:
            await self._drive(self._settle())
            await self._await(self._topics_known, self._awaited())
        await self._await(self._topics_known, self._awaited())

    async def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds."""
        if not await self._until(condition, self._bounds.api_timeout_s):
            raise self._slow(what)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        deadline = asyncio.get_running_loop().time() + limit_s
        while not condition():
            event = asyncio.Event()
            self._machine.waiters.append(event.set)
            self._wake()
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                return False
        return True

    async def _wait(self, operation: Operation, limit_s: float | None) -> bool:
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
        self._stopping = self._attention = True
        if self._runtime is not None:
            self._runtime.call_threadsafe(self._wake_waiter)

    def _wake_waiter(self) -> None:
        self._called.set()

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()


class Batches(Generic[K, V]):
    """Batches of records, without an end; see `Consumer.batches`."""

    def __init__(self, consumer: Consumer[K, V], max_records: int, max_wait_s: float) -> None:
        self._consumer = consumer
        self._max_records = max_records
        self._max_wait_s = max_wait_s

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[K, V]:
        """Wait for the next batch and return it. A cancelled wait loses no record."""
        found = await self._consumer._next_batch(self._max_records, self._max_wait_s)
        if found is None:
            self._consumer._stopping = False
            raise StopAsyncIteration
        return self._consumer._batch(found)


class BoundedRecords(Generic[K, V]):
    """The records up to an end; see `Consumer.records`. Ending early leaves the position behind the last one handed out."""

    def __init__(self, consumer: Consumer[K, V], idle_timeout_s: float | None, *, bounded: bool) -> None:
        self._consumer = consumer
        self._idle_timeout_s = idle_timeout_s
        self._bounded = bounded
        self._ends: dict[TopicPartition, int] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record[K, V]:
        consumer = self._consumer
        if not self._bounded:
            record = await consumer._next(self._deadline())
        else:
            record = await self._next_before_the_end()
        if record is None:
            consumer._stopping = False
            raise StopAsyncIteration
        return record

    async def _next_before_the_end(self) -> Record[K, V] | None:
        consumer = self._consumer
        if self._ends is None:
            self._ends = await consumer.end_offsets()
        ends = self._ends
        if consumer._attention:
            await consumer._drive(consumer._settle())
        if new := [where for where in consumer.assignment if where not in ends]:
            ends.update(await consumer.end_offsets(new))
        if not consumer._attention and (ready := consumer._take_ready(ends)) is not None:
            return ready
        consumer._limits = ends
        try:
            return await consumer._next(self._deadline(), lambda: consumer._reached(ends))
        finally:
            consumer._limits = None

    def _deadline(self) -> float | None:
        return None if self._idle_timeout_s is None else asyncio.get_running_loop().time() + self._idle_timeout_s


#: The event loop is looked at so often, and a delay of so long is told.
_LOOK_S = 0.5
BLOCKED_S = 1.0


def watch_loop(consumer: Consumer[Any, Any]) -> None:
    """Say in the log when something blocks the loop that a consumer's heartbeats need."""
    loop = asyncio.get_running_loop()
    kept = weakref.ref(consumer)

    def look(due_s: float) -> None:
        found = kept()
        if found is None or found._closed is not None:
            return
        late_s = loop.time() - due_s
        if late_s >= BLOCKED_S:
            task = found._task
            logger.warning(
                "the event loop was blocked for %.1f s, probably by the task %s, which reads records: heartbeats to group %s "
                "were held up; await what takes long, or use asyncio.to_thread",
                late_s + _LOOK_S,
                "?" if task is None else task.get_name(),
                found._group().settings.group_id,
            )
        loop.call_at(loop.time() + _LOOK_S, look, loop.time() + _LOOK_S)

    loop.call_at(loop.time() + _LOOK_S, look, loop.time() + _LOOK_S)
