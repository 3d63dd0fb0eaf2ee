"""The asynchronous producer: `ottla.aio.Producer`. It belongs to the event loop that started it.

The same names as `ottla.Producer`, awaitable. What waits for the cluster is a coroutine; nothing runs in another
thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from ottla.client._core.batch import Batch
from ottla.client._core.operation import Operation
from ottla.client._core.partitioner import PartitionFunction
from ottla.client._core.transactions import GroupMetadata, OffsetAndMetadata, State
from ottla.client.config import ProducerOptions
from ottla.client.deliveries import AsyncDelivery, AsyncTableDelivery
from ottla.client.errors import Abort, ClosedError, DeliveryError, ForkedError, TransactionAbortedError
from ottla.client.keys import Duration, duration_s
from ottla.client.producing import (
    CLOSE_TIMEOUT_INTERRUPTED_S,
    K,
    PreparedRow,
    ProducerBase,
    Serializer,
    V,
    as_offsets,
)
from ottla.client.records import HeadersLike, RecordMetadata, TimestampLike
from ottla.clock import Clock
from ottla.errors import KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.client.aio_consumer import Consumer

    #: A consumer of whatever.
    AnyConsumer = Consumer[Any, Any]
    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger(__name__)


class Producer(ProducerBase[K, V]):
    """Sends records to topics, on an event loop. Idempotent, `acks=all` and with retries unless told otherwise, as Kafka's.

        async with ottla.aio.Producer("localhost:9092") as producer:
            await producer.send("orders", b"...", key=b"42")

    The arguments are those of `ottla.Producer`. Making one binds no event loop; `start()` or `async with` does.

    Raises:
        ConfigurationError: a key is unknown, or a value cannot be.
    """

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None = None,
        *,
        key_serializer: Serializer[K] | None = None,
        value_serializer: Serializer[V] | None = None,
        partitioner: str | PartitionFunction | None = None,
        ssl_context: ssl.SSLContext | None = None,
        sasl: Sasl | None = None,
        on_delivery_error: Callable[[DeliveryError], object] | None = None,
        connect: str = "eager",
        connect_timeout: Duration = 10.0,
        config: Mapping[str, Any] | None = None,
        **options: Unpack[ProducerOptions],
    ) -> None:
        super().__init__(
            bootstrap_servers,
            key_serializer=key_serializer,
            value_serializer=value_serializer,
            partitioner=partitioner,
            ssl_context=ssl_context,
            sasl=sasl,
            on_delivery_error=on_delivery_error,
            connect=connect,
            connect_timeout=connect_timeout,
            config=config,
            options=options,
            lock=None,
            ticket=AsyncDelivery,
            clock=_surroundings[0],
            dice=_surroundings[1],
        )
        self._starting: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and with a transactional id shut earlier producers of that id out. `async with` does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        if self._starting is None:
            self._runtime = self._make_runtime()
            self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        runtime = self._runtime
        assert runtime is not None
        runtime.wake()
        if not self._eager:
            return
        try:
            if not await self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
            if self._machine.transactions is not None:
                await self._initialize()
        except BaseException:
            await self._stop()
            raise

    async def close(self, timeout: Duration | None = None) -> None:
        """Send what is there, wait for the acknowledgements, and end. An open transaction is aborted.

        Args:
            timeout: seconds; records that are not acknowledged by then fail. None waits for all outcomes, which come
                within `delivery.timeout.ms`.

        Raises:
            DeliveryErrors: records failed, and nothing has looked at that.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        limit = None if timeout is None else duration_s("timeout", timeout)
        if self._closed is None:
            try:
                if self._runtime is not None:
                    await self._finish_all(limit)
            finally:
                await self._stop()
        if (failures := self._take_failures(dropped_only=False)) is not None:
            raise failures

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
            return
        left = 0
        try:
            if not isinstance(error, Exception) and self._runtime is not None and self._closed is None:
                left = await self._finish_all(CLOSE_TIMEOUT_INTERRUPTED_S)
            await self.close()
        except KafkaError as failure:
            # Nothing is raised on top of what left the block.
            error.add_note(f"While the producer was closed: {failure}")
            logger.error("while the producer was closed because of %s: %s", type(error).__name__, failure)
        if left:
            error.add_note(f"{left} records were not acknowledged within {CLOSE_TIMEOUT_INTERRUPTED_S:g} s.")
            logger.error("%d records were not acknowledged within %g s", left, CLOSE_TIMEOUT_INTERRUPTED_S)

    def __del__(self) -> None:
        if getattr(self, "_runtime", None) is not None and self._closed is None:
            self._closed = ClosedError()
            warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)

    async def _finish_all(self, limit_s: float | None) -> int:
        """Abort an open transaction, wait for all outcomes; return how many records had none in time and failed."""
        if self._in_transaction:
            try:
                await self._end_transaction("abort", limit_s)
            except KafkaError as error:
                logger.warning("the open transaction was not aborted: %s", error)
        self._machine.begin_closing()
        operation = self._machine.flush()
        self._wake()
        if await self._wait(operation, limit_s):
            return 0
        left = self._machine.pending_records
        self._machine.fail_all(ClosedError("The producer was closed before the record was acknowledged."))
        return left

    async def _stop(self) -> None:
        self._closed = ClosedError()
        if self._runtime is not None:
            await self._runtime.stop()

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
        timestamp: TimestampLike | None = None,
    ) -> AsyncDelivery:
        """Accept a record and return a ticket to await its acknowledgement by. Awaits room, `max.block.ms` at most.

        Args:
            value: None is a tombstone: it deletes the key in a compacted topic.
            key: decides the partition, unless `partition` does.
            timestamp: milliseconds or an aware datetime; None is now.

        Raises:
            TypeError, ValueError: a part of the record cannot be written (SerializationError, RecordTooLargeError).
            BlockedTooLongError: there was no room, or no metadata of the topic, within `max.block.ms`.
            KafkaError: the topic is not valid or not permitted, or the producer has failed for good.
        """
        if headers is None and self._direct:
            delivery: AsyncDelivery | None = self._sender.send(topic, value, key, None, partition, timestamp)
            if delivery is not None:
                return delivery
        # Something has to be thought about: the record begins a batch, has headers, or is not as it should be.
        if self._closed is not None:
            raise self._closed
        if self._runtime is None:
            await self.start()
        row = self._row(topic, value, key, headers, timestamp)
        delivery = self._sender.send(topic, row[1], row[0], row[2], partition, row[3])
        return AsyncDelivery(*await self._append_row(topic, partition, row), None) if delivery is None else delivery

    async def _append_row(self, topic: str, partition: int | None, row: PreparedRow) -> tuple[Batch, int]:
        runtime = self._runtime
        assert runtime is not None
        found = self._machine.append(topic, partition, *row, runtime.now_ms)
        if found is None:
            found = await self._append_slowly(topic, partition, row)
        batch, index = found
        if index == 0 or batch.closed:
            runtime.wake()
        return batch, index

    async def _append_slowly(self, topic: str, partition: int | None, row: PreparedRow) -> tuple[Any, int]:
        """Wait for room or for metadata."""
        self._check_target(topic, partition)
        runtime = self._runtime
        assert runtime is not None
        deadline_ms = runtime.now_ms() + self._settings.max_block_ms
        while True:
            found = self._machine.append(topic, partition, *row, runtime.now_ms)
            if found is not None:
                return found
            self._check_usable()
            await self._next_try(topic, partition, deadline_ms)

    async def _next_try(self, topic: str, partition: int | None, deadline_ms: float) -> None:
        runtime = self._runtime
        assert runtime is not None
        event = asyncio.Event()
        self._await_append(topic, partition, event.set)
        runtime.wake()
        try:
            async with asyncio.timeout_at(deadline_ms / 1000):
                await event.wait()
        except TimeoutError:
            raise self._blocked_too_long(topic, partition) from None

    async def send_and_wait(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
        timestamp: TimestampLike | None = None,
        timeout: Duration | None = None,
    ) -> RecordMetadata:
        """Send a record at once, without `linger.ms`, and await its acknowledgement.

        Raises:
            what `send` raises; DeliveryError: it was not delivered; TimeoutError: no outcome within `timeout` seconds.
        """
        limit = None if timeout is None else duration_s("timeout", timeout)
        delivery = await self.send(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        delivery._batch.urgent = True
        self._wake()
        async with asyncio.timeout(limit):
            return await delivery

    async def send_many(
        self,
        topic: str,
        values: Iterable[V | None] | AsyncIterable[V | None],
        *,
        key: Callable[[V | None], K | None] | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
    ) -> int:
        """Send each value of an iterable, asynchronous or not; return how many there were.

        Their failures are told by `flush()` and `close()`.

        Args:
            key: a function of the value; None sends without keys.

        Raises:
            what `send` raises; a note says how many records were accepted before. They are sent.
        """
        self._check_usable()
        if self._runtime is None:
            await self.start()
        count = 0
        try:
            if isinstance(values, AsyncIterable):
                async for value in values:
                    await self._send_one(topic, value, key, headers, partition)
                    count += 1
            else:
                for value in values:
                    await self._send_one(topic, value, key, headers, partition)
                    count += 1
        except BaseException as error:
            error.add_note(f"{count} records were accepted before.")
            raise
        return count

    async def _send_one(
        self,
        topic: str,
        value: V | None,
        key: Callable[[V | None], K | None] | None,
        headers: HeadersLike | None,
        partition: int | None,
    ) -> None:
        row = self._row(topic, value, None if key is None else key(value), headers, None)
        if not self._sender.accept(topic, row[1], row[0], row[2], partition, row[3]):
            await self._append_row(topic, partition, row)

    async def send_table(
        self,
        topic: str,
        table: Any,
        *,
        value: str | Sequence[str] = "value",
        key: str | None = None,
        headers: str | HeadersLike | None = None,
        timestamp: str | TimestampLike | None = None,
        partition: int | str | None = None,
        timeout: Duration | None = None,
    ) -> AsyncTableDelivery:
        """Send each row of a table as a record; return a ticket for all of them. Awaits room. See the blocking producer's."""
        from ottla.client.tables import batches

        self._check_usable()
        limit = None if timeout is None else duration_s("timeout", timeout)
        self._check_target(topic, partition if isinstance(partition, int) else None)
        count = await self.partitions_for(topic)
        plan = self._table_plan(topic, value, key, headers, timestamp, partition)
        delivery = AsyncTableDelivery()
        runtime = self._runtime
        assert runtime is not None
        try:
            for made in batches(table, plan, count, self._clock.wall_ms(), lambda: self._table_batch_limit(topic)):
                self._check_size(topic, len(made.body))
                deadline_ms = runtime.now_ms() + self._settings.max_block_ms
                while (batch := self._machine.append_body(topic, *made, runtime.now_ms())) is None:
                    await self._next_try(topic, None, deadline_ms)
                delivery._add(batch)
                runtime.wake()
                await asyncio.sleep(0)
        except BaseException as error:
            error.add_note(f"{len(delivery)} records were accepted before.")
            raise
        if limit is not None:
            async with asyncio.timeout(limit):
                await delivery
        return delivery

    async def flush(self, timeout: Duration | None = None) -> None:
        """Send what is there at once and wait until every record accepted so far has an outcome.

        Raises:
            DeliveryErrors: records failed whose Delivery was dropped.
            TimeoutError: not all have an outcome within `timeout` seconds; they are still being sent.
        """
        self._check_usable()
        if self._runtime is not None:
            operation = self._machine.flush()
            self._wake()
            limit = None if timeout is None else duration_s("timeout", timeout)
            try:
                done = await self._wait(operation, limit)
            except BaseException:
                self._machine.cancel_flush(operation)
                raise
            if not done:
                self._machine.cancel_flush(operation)
                raise TimeoutError(f"{self._machine.pending_records} records have no outcome after {limit:g} s")
        if (failures := self._take_failures(dropped_only=True)) is not None:
            raise failures

    async def partitions_for(self, topic: str) -> int:
        """Return how many partitions a topic has. Asks the cluster the first time; `max.block.ms` at most.

        Raises:
            BlockedTooLongError: no answer in time, or there is no such topic.
        """
        self._check_usable()
        if self._runtime is None:
            await self.start()
        runtime = self._runtime
        assert runtime is not None
        deadline_ms = runtime.now_ms() + self._settings.max_block_ms
        while (count := self._machine.partition_count(topic)) is None:
            await self._next_try(topic, None, deadline_ms)
        return count

    # -- transactions -----------------------------------------------------------------------------------------------

    def transaction(self, consumer: AnyConsumer | None = None) -> Transaction[K, V]:
        """Return a transaction for `async with`: what is sent inside becomes visible together, or never.

            async with producer.transaction() as transaction:
                await transaction.send("out", b"...")

        The end of the block commits. An exception aborts and goes on; `raise ottla.Abort` aborts quietly.

        Args:
            consumer: one with commit="transaction": how far its records were handed out is committed, too (KIP-447), and its
                partitions do not change inside the block. After an abort those records come again. If only the
                commit fails (the group has rebalanced), that is logged, and nothing is raised before the fifth time
                in a row.

        Raises (at the end of the block):
            TransactionAbortedError: the commit failed, and the transaction was aborted; begin another one.
            TransactionOutcomeUnknownError: no answer within `max.block.ms`; the producer can only be closed.
            ProducerFencedError: another producer of the same transactional id has started.
        """
        self._check_usable()
        self._transactions()
        if consumer is not None:
            consumer._check_transactional()
        return Transaction(self, consumer)

    async def init_transactions(self) -> None:
        """Shut other producers of the transactional id out, and get a new epoch (Kafka's initTransactions).

        `async with` and the first transaction do it; again it may be called between transactions.

        Raises:
            TransactionOutcomeUnknownError: no answer within `max.block.ms`.
        """
        self._check_usable()
        self._transactions()
        if self._runtime is None:
            await self.start()
        else:
            await self._initialize()

    async def begin_transaction(self) -> None:
        """Begin a transaction at a time of your choice: what is sent from now on belongs to it. See `transaction`."""
        await self._begin_transaction()

    async def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], group: GroupMetadata | str
    ) -> None:
        """Commit how far a group has read with the transaction; see `Transaction.send_offsets`."""
        await self._send_offsets(offsets, group)

    async def commit_transaction(self) -> None:
        """Send what was accepted, and commit.

        Raises:
            KafkaError: it cannot be committed: `abort_transaction()`, unless ProducerFencedError or
                TransactionOutcomeUnknownError say that the producer can only be closed.
        """
        self._check_usable()
        await self._end_transaction("commit")

    async def abort_transaction(self) -> None:
        """Abort: readers of committed records see nothing of it. Raises as `commit_transaction` does."""
        self._check_usable()
        await self._end_transaction("abort")

    async def _initialize(self) -> None:
        operation = self._transactions().initialize()
        await self._finish_operation(operation, None)

    async def _begin_transaction(self) -> None:
        self._check_usable()
        if self._runtime is None:
            await self.start()
        if self._transactions().state is State.UNINITIALIZED:
            await self._initialize()
        self._transactions().begin(self._machine.connections.features)

    async def _end_transaction(self, how: str, limit_s: float | None = None) -> None:
        transactions = self._transactions()
        await self._finish_operation(transactions.commit() if how == "commit" else transactions.abort(), limit_s)

    async def _send_offsets(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], group: GroupMetadata | str
    ) -> None:
        self._check_usable()
        metadata = GroupMetadata(group) if isinstance(group, str) else group
        await self._finish_operation(self._transactions().send_offsets(as_offsets(offsets), metadata), None)

    async def _finish_operation(self, operation: Operation, limit_s: float | None) -> None:
        self._wake()
        if not await self._wait(operation, self._settings.max_block_ms / 1000 if limit_s is None else limit_s):
            raise self._outcome_unknown(operation)
        if operation.error is not None:
            raise operation.error

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()

    async def _wait(self, operation: Operation, limit_s: float | None) -> bool:
        """Wait for an operation; return whether it is done."""
        if not operation.done:
            event = asyncio.Event()
            operation.callbacks.append(event.set)
            try:
                async with asyncio.timeout(limit_s):
                    await event.wait()
            except TimeoutError:
                pass
        return operation.done


class Transaction(Generic[K, V]):
    """One transaction of a producer, for `async with`; see `Producer.transaction`."""

    def __init__(self, producer: Producer[K, V], consumer: AnyConsumer | None = None) -> None:
        self._producer = producer
        self._consumer = consumer

    async def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
        timestamp: TimestampLike | None = None,
    ) -> AsyncDelivery:
        """Send a record as part of the transaction; see `Producer.send`."""
        return await self._producer.send(
            topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp
        )

    async def send_many(
        self,
        topic: str,
        values: Iterable[V | None] | AsyncIterable[V | None],
        *,
        key: Callable[[V | None], K | None] | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
    ) -> int:
        """Send each value as part of the transaction; see `Producer.send_many`."""
        return await self._producer.send_many(topic, values, key=key, headers=headers, partition=partition)

    async def send_table(
        self,
        topic: str,
        table: Any,
        *,
        value: str | Sequence[str] = "value",
        key: str | None = None,
        headers: str | HeadersLike | None = None,
        timestamp: str | TimestampLike | None = None,
        partition: int | str | None = None,
        timeout: Duration | None = None,
    ) -> AsyncTableDelivery:
        """Send each row of a table as part of the transaction; see `Producer.send_table`."""
        return await self._producer.send_table(
            topic,
            table,
            value=value,
            key=key,
            headers=headers,
            timestamp=timestamp,
            partition=partition,
            timeout=timeout,
        )

    async def send_offsets(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], group: GroupMetadata | str
    ) -> None:
        """Commit how far a group has read with the transaction (KIP-447).

        Args:
            offsets: by partition, the offset of the next record to read.
            group: the group's metadata as the consumer has it, or only its id.

        Raises:
            KafkaError: the group does not know the member any more, or is not permitted; the transaction has to be
            aborted.
        """
        await self._producer._send_offsets(offsets, group)

    async def __aenter__(self) -> Self:
        await self._producer._begin_transaction()
        if self._consumer is not None:
            self._consumer._begin_transaction()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        producer, consumer = self._producer, self._consumer
        if error is None:
            offsets: dict[TopicPartition, OffsetAndMetadata] | None = None
            try:
                if consumer is not None:
                    handed_out, member = consumer._offsets_of_transaction()
                    await producer._send_offsets(handed_out, member)
                    offsets = handed_out
                await producer._end_transaction("commit")
            except BaseException as failure:
                offsets = None
                if not isinstance(failure, KafkaError) or not producer._in_transaction:
                    raise
                await producer._end_transaction("abort")
                if consumer is None or consumer._aborted_again(failure):
                    raise TransactionAbortedError(f"The transaction was aborted: {failure}") from failure
            finally:
                if consumer is not None:
                    consumer._end_transaction(offsets)
            return False
        try:
            if producer._in_transaction and producer._closed is None:
                limit_s = None if isinstance(error, Exception) else CLOSE_TIMEOUT_INTERRUPTED_S
                try:
                    await producer._end_transaction("abort", limit_s)
                except KafkaError as failure:
                    error.add_note(f"The transaction could not be aborted: {failure}")
                    logger.error("the transaction could not be aborted: %s", failure)
        finally:
            if consumer is not None:
                consumer._end_transaction(None)
        return isinstance(error, Abort)


#: Clock and dice of producers made from now on; None is the machine's. Simulations put their own here.
_surroundings: tuple[Clock | None, random.Random | None] = (None, None)
