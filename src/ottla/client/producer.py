"""The blocking producer: `ottla.Producer`. Any thread may use it.

A thread of its own runs the event loop; `send()` puts the record into the shared accumulator under a lock
(`_core.appending`) and wakes that thread once a batch, not once a record.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from ottla.client._core.appending import make_lock, send_method
from ottla.client._core.operation import Operation
from ottla.client._core.partitioner import PartitionFunction
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.transactions import GroupMetadata, OffsetAndMetadata, State
from ottla.client.background import LoopThread, check_may_wait, forget, register
from ottla.client.config import ProducerOptions
from ottla.client.deliveries import Delivery, TableDelivery
from ottla.client.errors import (
    Abort,
    ClosedError,
    DeliveryError,
    ForkedError,
    TransactionAbortedError,
)
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
from ottla.client.runtime import Runtime
from ottla.errors import KafkaError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.client.consumer import Consumer
    from ottla.client.tables import Encoded

    #: A consumer of whatever.
    AnyConsumer = Consumer[Any, Any]
    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger(__name__)

#: Records that `send_many` puts into the accumulator before it lets others have the lock.
_CHUNK = 256


class Producer(ProducerBase[K, V]):
    """Sends records to topics. Idempotent, `acks=all` and with retries unless told otherwise, as Kafka's.

        with ottla.Producer("localhost:9092") as producer:
            producer.send("orders", b"...", key=b"42")

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        key_serializer, value_serializer: functions (topic, object) -> bytes; bytes and text need none. See
            `ottla.serde`.
        partitioner: None for Kafka's (a key always goes to the partition the Java client chooses), "consistent_random"
            (librdkafka's), "round_robin", "random", or a function (topic, key, partition count) -> partition.
        ssl_context: for brokers that speak TLS.
        sasl: how to log in: `ottla.sasl.Plain(...)` or `ottla.sasl.Scram(...)`.
        on_delivery_error: called with each DeliveryError at once, on the client's thread; without it a line is logged
            for each topic and 10 s. Failures are raised by `flush()` and `close()` either way.
        connect: "eager": `with`, or the first call, connects and raises if that fails. "lazy": it does not wait.
        connect_timeout: seconds.
        config: keys with dots; the same may be passed as keywords (`linger_ms=5`). docs/client.md lists them.

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
            lock=(make_lock or threading.Lock)(),
            ticket=Delivery,
        )
        self._thread: LoopThread | None = None
        self._starting = threading.Lock()

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and with a transactional id shut earlier producers of that id out. `with` does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        with self._starting:
            if self._thread is not None:
                return
            thread = LoopThread("ottla-producer")
            runtime = thread.call(self._make_runtime)
            self._runtime = runtime
            self._thread = thread
        register(self)
        runtime.wake_threadsafe()
        if not self._eager:
            return
        try:
            if not self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
            if self._machine.transactions is not None:
                self._initialize()
        except BaseException:
            self._stop()
            raise

    def close(self, timeout: Duration | None = None) -> None:
        """Send what is there, wait for the acknowledgements, and end. An open transaction is aborted.

        Args:
            timeout: seconds; records that are not acknowledged by then fail. None waits for all outcomes, which come
                within `delivery.timeout.ms`.

        Raises:
            DeliveryErrors: records failed, and nothing has looked at that.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        limit = None if timeout is None else duration_s("timeout", timeout)
        if self._closed is None:
            try:
                if self._thread is not None:
                    self._finish_all(limit)
            finally:
                self._stop()
        if (failures := self._take_failures(dropped_only=False)) is not None:
            raise failures

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        interrupted = not isinstance(error, Exception)
        left = 0
        try:
            if interrupted and self._thread is not None and self._closed is None:
                left = self._finish_all(CLOSE_TIMEOUT_INTERRUPTED_S)
            self.close()
        except KafkaError as failure:
            # Nothing is raised on top of what left the block.
            error.add_note(f"While the producer was closed: {failure}")
            logger.error("while the producer was closed because of %s: %s", type(error).__name__, failure)
        if left:
            error.add_note(f"{left} records were not acknowledged within {CLOSE_TIMEOUT_INTERRUPTED_S:g} s.")
            logger.error("%d records were not acknowledged within %g s", left, CLOSE_TIMEOUT_INTERRUPTED_S)

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is None or self._closed is not None:
            return
        self._closed = ClosedError()
        warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)
        runtime = self._runtime
        if runtime is not None:
            thread.stop_soon(_finish_dropped(self._machine, runtime, self._lock))

    def _finish_all(self, limit_s: float | None) -> int:
        """Abort an open transaction, wait for all outcomes; return how many records had none in time and failed."""
        if self._in_transaction:
            try:
                self._end_transaction("abort", limit_s)
            except KafkaError as error:
                logger.warning("the open transaction was not aborted: %s", error)
        with self._lock:
            self._machine.begin_closing()
            operation = self._machine.flush()
        self._wake()
        if self._wait(operation, limit_s):
            return 0
        with self._lock:
            left = self._machine.pending_records
            self._machine.fail_all(ClosedError("The producer was closed before the record was acknowledged."))
        return left

    def _stop(self) -> None:
        self._closed = ClosedError()
        forget(self)
        thread, self._thread = self._thread, None
        if thread is not None and self._runtime is not None:
            thread.stop(self._runtime.stop())

    def _close_at_exit(self) -> None:
        if self._closed is None and self._thread is not None:
            left = self._finish_all(CLOSE_TIMEOUT_INTERRUPTED_S)
            if left:
                logger.error(
                    "the producer was not closed; %d records were not acknowledged at the end of the process", left
                )
            self._stop()

    # -- sending ----------------------------------------------------------------------------------------------------

    @send_method
    def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
        timestamp: TimestampLike | None = None,
    ) -> Delivery:
        """Accept a record and return a ticket for its acknowledgement. Waits for room, `max.block.ms` at most.

        Args:
            value: None is a tombstone: it deletes the key in a compacted topic.
            key: decides the partition, unless `partition` does.
            timestamp: milliseconds or an aware datetime; None is now.

        Raises:
            TypeError, ValueError: a part of the record cannot be written (SerializationError, RecordTooLargeError).
            BlockedTooLongError: there was no room, or no metadata of the topic, within `max.block.ms`.
            KafkaError: the topic is not valid or not permitted, or the producer has failed for good.
        """
        return self._send(topic, value, key, headers, partition, timestamp)

    def _send(
        self,
        topic: str,
        value: V | None,
        key: K | None,
        headers: HeadersLike | None,
        partition: int | None,
        timestamp: TimestampLike | None,
    ) -> Delivery:
        """Send a record that has to be thought about: it begins a batch, has headers, or is not as it should be."""
        if self._why_closed is not None:
            raise self._why_closed
        row = self._row(topic, value, key, headers, timestamp)
        delivery: Delivery | None = self._sender.send(topic, row[1], row[0], row[2], partition, row[3])
        return self._send_row(topic, partition, row) if delivery is None else delivery

    def _send_row(self, topic: str, partition: int | None, row: PreparedRow) -> Delivery:
        if self._thread is None:
            self.start()
        machine, runtime = self._machine, self._runtime
        assert runtime is not None
        with self._lock:
            found = machine.append(topic, partition, *row, runtime.now_ms)
            if found is not None:
                batch, index = found
                delivery = Delivery(batch, index, self._lock)
        if found is None:
            return self._send_slowly(topic, partition, *row)
        if index == 0 or batch.closed:
            runtime.wake_threadsafe()
        return delivery

    def _send_slowly(self, topic: str, partition: int | None, *row: Any) -> Delivery:
        """Wait for room or for metadata."""
        check_may_wait()
        self._check_target(topic, partition)
        runtime = self._runtime
        assert runtime is not None
        key, value, headers, stamp, size = row
        deadline_ms = runtime.now_ms() + self._settings.max_block_ms
        while True:
            event = threading.Event()
            with self._lock:
                found = self._machine.append(topic, partition, key, value, headers, stamp, size, runtime.now_ms)
                if found is not None:
                    batch, index = found
                    delivery = Delivery(batch, index, self._lock)
                    break
                self._check_usable()
                self._await_append(topic, partition, event.set)
            runtime.wake_threadsafe()
            if not event.wait(max(deadline_ms - runtime.now_ms(), 0) / 1000):
                raise self._blocked_too_long(topic, partition)
        runtime.wake_threadsafe()
        return delivery

    def send_and_wait(
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
        """Send a record at once, without `linger.ms`, and wait for its acknowledgement.

        Raises:
            what `send` raises; DeliveryError: it was not delivered; TimeoutError: no outcome within `timeout` seconds.
        """
        limit = None if timeout is None else duration_s("timeout", timeout)
        delivery = self.send(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)
        with self._lock:
            delivery._batch.urgent = True
        self._wake()
        return delivery.result(limit)

    def send_many(
        self,
        topic: str,
        values: Iterable[V | None],
        *,
        key: Callable[[V | None], K | None] | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
    ) -> int:
        """Send each value of an iterable; return how many there were. Their failures are told by `flush()` and `close()`.

        Args:
            key: a function of the value; None sends without keys.

        Raises:
            what `send` raises; a note says how many records were accepted before. They are sent.
        """
        self._check_usable()
        if self._thread is None:
            self.start()
        count = 0
        rows: list[PreparedRow] = []
        try:
            for value in values:
                rows.append(self._row(topic, value, None if key is None else key(value), headers, None))
                if len(rows) >= _CHUNK:
                    count += self._append_rows(topic, partition, rows)
                    rows = []
        except BaseException as error:
            count += self._append_rows(topic, partition, rows)
            error.add_note(f"{count} records were accepted before.")
            raise
        return count + self._append_rows(topic, partition, rows)

    def _append_rows(self, topic: str, partition: int | None, rows: list[PreparedRow]) -> int:
        machine, runtime = self._machine, self._runtime
        assert runtime is not None
        done = 0
        while done < len(rows):
            with self._lock:
                while done < len(rows):
                    found = machine.append(topic, partition, *rows[done], runtime.now_ms)
                    if found is None:
                        break
                    done += 1
            if done < len(rows):
                self._send_slowly(topic, partition, *rows[done])
                done += 1
        runtime.wake_threadsafe()
        return done

    def send_table(
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
    ) -> TableDelivery:
        """Send each row of a table as a record; return a ticket for all of them. Waits for room, `max.block.ms` a batch.

            producer.send_table("orders", frame, value="body", key="user_id").result()

        Args:
            table: anything with Arrow's PyCapsule interface: of pyarrow, polars, pandas or duckdb, or a batch of a consumer.
                Only the columns that are named here are read, and no Python object is made for a row of bytes or text.
            value: the column of values, bytes or text; others go through the `value_serializer`. Several columns are given
                to it as a dict. Null is a tombstone.
            key: the column of keys. A key goes where the Java client sends it; rows without one go as records without one.
            headers: a column as `Batch` has it, or headers for every record.
            timestamp: a column of times or milliseconds, or one for every record; None and null are now.
            partition: a number, or a column of numbers.
            timeout: seconds; waits for all acknowledgements that long.

        Raises:
            TypeError, ValueError, KeyError: the table, or a column of it, cannot be sent (SerializationError,
                RecordTooLargeError). A note says how many records were accepted before; they are sent.
            BlockedTooLongError: there was no room, or no metadata of the topic, within `max.block.ms`.
            DeliveryErrors, TimeoutError: with `timeout`, as `TableDelivery.result` raises them.
        """
        from ottla.client.tables import batches

        self._check_usable()
        limit = None if timeout is None else duration_s("timeout", timeout)
        self._check_target(topic, partition if isinstance(partition, int) else None)
        count = self.partitions_for(topic)
        plan = self._table_plan(topic, value, key, headers, timestamp, partition)
        delivery = TableDelivery(self._lock)
        runtime = self._runtime
        assert runtime is not None
        try:
            for made in batches(table, plan, count, self._clock.wall_ms(), lambda: self._table_batch_limit(topic)):
                self._check_size(topic, len(made.body))
                self._append_body(topic, made, delivery, runtime)
        except BaseException as error:
            error.add_note(f"{len(delivery)} records were accepted before.")
            raise
        if limit is not None:
            delivery.result(limit)
        return delivery

    def _append_body(self, topic: str, made: Encoded, delivery: TableDelivery, runtime: Runtime) -> None:
        deadline_ms: float | None = None
        while True:
            event = None
            with self._lock:
                batch = self._machine.append_body(topic, *made, runtime.now_ms())
                if batch is not None:
                    delivery._add(batch)
                else:
                    self._check_usable()
                    event = threading.Event()
                    self._await_append(topic, None, event.set)
            runtime.wake_threadsafe()
            if event is None:
                return
            check_may_wait()
            if deadline_ms is None:
                deadline_ms = runtime.now_ms() + self._settings.max_block_ms
            if not event.wait(max(deadline_ms - runtime.now_ms(), 0) / 1000):
                raise self._blocked_too_long(topic, None)

    def flush(self, timeout: Duration | None = None) -> None:
        """Send what is there at once and wait until every record accepted so far has an outcome.

        Raises:
            DeliveryErrors: records failed whose Delivery was dropped.
            TimeoutError: not all have an outcome within `timeout` seconds; they are still being sent.
        """
        self._check_usable()
        if self._thread is not None:
            with self._lock:
                operation = self._machine.flush()
            self._wake()
            limit = None if timeout is None else duration_s("timeout", timeout)
            if not self._wait(operation, limit):
                with self._lock:
                    self._machine.cancel_flush(operation)
                    left = self._machine.pending_records
                raise TimeoutError(f"{left} records have no outcome after {limit:g} s")
        if (failures := self._take_failures(dropped_only=True)) is not None:
            raise failures

    def partitions_for(self, topic: str) -> int:
        """Return how many partitions a topic has. Asks the cluster the first time; `max.block.ms` at most.

        Raises:
            BlockedTooLongError: no answer in time, or there is no such topic.
        """
        self._check_usable()
        if self._thread is None:
            self.start()
        runtime = self._runtime
        assert runtime is not None
        deadline_ms = runtime.now_ms() + self._settings.max_block_ms
        while True:
            event = threading.Event()
            with self._lock:
                count = self._machine.partition_count(topic)
                if count is not None:
                    return count
                self._await_append(topic, None, event.set)
            runtime.wake_threadsafe()
            if not event.wait(max(deadline_ms - runtime.now_ms(), 0) / 1000):
                raise self._blocked_too_long(topic, None)

    # -- transactions -----------------------------------------------------------------------------------------------

    def transaction(self, consumer: AnyConsumer | None = None) -> Transaction[K, V]:
        """Return a transaction for `with`: what is sent inside becomes visible together, or never.

            with producer.transaction() as transaction:
                transaction.send("out", b"...")

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

    def init_transactions(self) -> None:
        """Shut other producers of the transactional id out, and get a new epoch (Kafka's initTransactions).

        `with` and the first transaction do it; again it may be called between transactions.

        Raises:
            TransactionOutcomeUnknownError: no answer within `max.block.ms`.
        """
        self._check_usable()
        self._transactions()
        if self._thread is None:
            self.start()
        else:
            self._initialize()

    def begin_transaction(self) -> None:
        """Begin a transaction at a time of your choice: what is sent from now on belongs to it. See `transaction`."""
        self._begin_transaction()

    def send_offsets_to_transaction(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], group: GroupMetadata | str
    ) -> None:
        """Commit how far a group has read with the transaction; see `Transaction.send_offsets`."""
        self._send_offsets(offsets, group)

    def commit_transaction(self) -> None:
        """Send what was accepted, and commit.

        Raises:
            KafkaError: it cannot be committed: `abort_transaction()`, unless ProducerFencedError or
                TransactionOutcomeUnknownError say that the producer can only be closed.
        """
        self._check_usable()
        self._end_transaction("commit")

    def abort_transaction(self) -> None:
        """Abort: readers of committed records see nothing of it. Raises as `commit_transaction` does."""
        self._check_usable()
        self._end_transaction("abort")

    def _initialize(self) -> None:
        with self._lock:
            operation = self._transactions().initialize()
        self._wake()
        if not self._wait(operation, self._settings.max_block_ms / 1000):
            raise self._outcome_unknown(operation)
        if operation.error is not None:
            raise operation.error

    def _begin_transaction(self) -> None:
        self._check_usable()
        if self._thread is None:
            self.start()
        if self._transactions().state is State.UNINITIALIZED:
            self._initialize()
        with self._lock:
            self._transactions().begin(self._machine.connections.features)

    def _end_transaction(self, how: str, limit_s: float | None = None) -> None:
        transactions = self._transactions()
        with self._lock:
            operation = transactions.commit() if how == "commit" else transactions.abort()
        self._wake()
        if not self._wait(operation, self._settings.max_block_ms / 1000 if limit_s is None else limit_s):
            raise self._outcome_unknown(operation)
        if operation.error is not None:
            raise operation.error

    def _send_offsets(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata], group: GroupMetadata | str
    ) -> None:
        self._check_usable()
        metadata = GroupMetadata(group) if isinstance(group, str) else group
        with self._lock:
            operation = self._transactions().send_offsets(as_offsets(offsets), metadata)
        self._wake()
        if not self._wait(operation, self._settings.max_block_ms / 1000):
            raise self._outcome_unknown(operation)
        if operation.error is not None:
            raise operation.error

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake_threadsafe()

    def _wait(self, operation: Operation, limit_s: float | None) -> bool:
        """Wait for an operation; return whether it is done."""
        check_may_wait()
        event = threading.Event()
        with self._lock:
            if operation.done:
                return True
            operation.callbacks.append(event.set)
        return event.wait(limit_s) or operation.done


async def _finish_dropped(machine: ProducerMachine, runtime: Runtime, lock: AbstractContextManager[object]) -> None:
    """Send what a producer that was dropped has accepted, for a while, and end."""
    done = asyncio.Event()
    with lock:
        machine.begin_closing()
        operation = machine.flush()
        if operation.done:
            done.set()
        operation.callbacks.append(done.set)
    runtime.wake()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_INTERRUPTED_S):
            await done.wait()
    except TimeoutError:
        logger.error("a producer was dropped without being closed; %d records were not sent", machine.pending_records)
    await runtime.stop()


class Transaction(Generic[K, V]):
    """One transaction of a producer, for `with`; see `Producer.transaction`."""

    def __init__(self, producer: Producer[K, V], consumer: AnyConsumer | None = None) -> None:
        self._producer = producer
        self._consumer = consumer

    def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
        timestamp: TimestampLike | None = None,
    ) -> Delivery:
        """Send a record as part of the transaction; see `Producer.send`."""
        return self._producer.send(topic, value, key=key, headers=headers, partition=partition, timestamp=timestamp)

    def send_many(
        self,
        topic: str,
        values: Iterable[V | None],
        *,
        key: Callable[[V | None], K | None] | None = None,
        headers: HeadersLike | None = None,
        partition: int | None = None,
    ) -> int:
        """Send each value as part of the transaction; see `Producer.send_many`."""
        return self._producer.send_many(topic, values, key=key, headers=headers, partition=partition)

    def send_table(
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
    ) -> TableDelivery:
        """Send each row of a table as part of the transaction; see `Producer.send_table`."""
        return self._producer.send_table(
            topic,
            table,
            value=value,
            key=key,
            headers=headers,
            timestamp=timestamp,
            partition=partition,
            timeout=timeout,
        )

    def send_offsets(
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
        self._producer._send_offsets(offsets, group)

    def __enter__(self) -> Self:
        self._producer._begin_transaction()
        if self._consumer is not None:
            self._consumer._begin_transaction()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        producer, consumer = self._producer, self._consumer
        if error is None:
            offsets: dict[TopicPartition, OffsetAndMetadata] | None = None
            try:
                if consumer is not None:
                    handed_out, member = consumer._offsets_of_transaction()
                    producer._send_offsets(handed_out, member)
                    offsets = handed_out
                producer._end_transaction("commit")
            except BaseException as failure:
                offsets = None
                if not isinstance(failure, KafkaError) or not producer._in_transaction:
                    raise
                producer._end_transaction("abort")
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
                    producer._end_transaction("abort", limit_s)
                except KafkaError as failure:
                    error.add_note(f"The transaction could not be aborted: {failure}")
                    logger.error("the transaction could not be aborted: %s", failure)
        finally:
            if consumer is not None:
                consumer._end_transaction(None)
        return isinstance(error, Abort)
