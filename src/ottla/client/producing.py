"""What the blocking and the asynchronous producer have in common: everything but waiting.

Turns what callers pass into rows, checks what is wrong at once, and says in plain words why a wait came to nothing.
`client.producer` and `client.aio_producer` wait in their own ways.
"""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from ottla.client._core.appending import Sender, Ticket
from ottla.client._core.batch import RECORD_OVERHEAD, RECORD_OVERHEAD_MAX, SMALL, Batch, Headers, record_size
from ottla.client._core.operation import Operation
from ottla.client._core.partitioner import PartitionFunction
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.transactions import OffsetAndMetadata, State, Transactions
from ottla.client._snapshots import snapshot, telemetry
from ottla.client.config import producer_settings
from ottla.client.deliveries import Failures
from ottla.client.errors import (
    BlockedTooLongError,
    ConfigurationError,
    DeliveryError,
    DeliveryErrors,
    ForkedError,
    RecordTooLargeError,
    SerializationError,
    TransactionOutcomeUnknownError,
    TransactionStateError,
)
from ottla.client.keys import Duration, duration_s
from ottla.client.metrics import ProducerMetrics
from ottla.client.records import HeadersLike, TimestampLike, make_headers, make_timestamp
from ottla.client.runtime import Runtime
from ottla.client.security import context_of, login_for
from ottla.clock import Clock, SystemClock
from ottla.errors import KafkaError
from ottla.network.channel import ChannelSettings
from ottla.network.channel_errors import BrokerUnreachableError
from ottla.protocol.records.batch import HEADER_SIZE
from ottla.types import TopicPartition

if TYPE_CHECKING:
    import ssl

    from typing_extensions import TypeVar

    from ottla.client.tables import TablePlan
    from ottla.sasl import Sasl

    #: Keys and values: what the serializers take. Bytes and text need none.
    K = TypeVar("K", default=bytes | str)
    V = TypeVar("V", default=bytes | str)
    T_contra = TypeVar("T_contra", contravariant=True)
else:
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")
    T_contra = TypeVar("T_contra", contravariant=True)

#: Seconds that closing takes at most after Ctrl-C, and at the end of the process.
CLOSE_TIMEOUT_INTERRUPTED_S: Final = 5.0


#: (key, value, headers, timestamp, size): a record as the core takes it.
PreparedRow = tuple[bytes | None, bytes | None, Headers, int, int]


class SerializerFunction(Protocol[T_contra]):
    """Turns a key or value into bytes: any function of (topic, value)."""

    def __call__(self, topic: str, value: T_contra, /) -> bytes | None: ...


class SerializerObject(Protocol[T_contra]):
    """The same as an object with a method; `ottla.serde` has ready ones."""

    def serialize(self, topic: str, value: T_contra, /) -> bytes | None: ...


#: What producers take as `key_serializer=` and `value_serializer=`.
Serializer = SerializerFunction[T_contra] | SerializerObject[T_contra]


class ProducerBase(Generic[K, V]):
    """One producer's configuration and core. Not for use by itself."""

    def __init__(
        self,
        bootstrap_servers: str | list[str] | None,
        *,
        key_serializer: Serializer[K] | None,
        value_serializer: Serializer[V] | None,
        partitioner: str | PartitionFunction | None,
        ssl_context: ssl.SSLContext | None,
        sasl: Sasl | None,
        on_delivery_error: Callable[[DeliveryError], object] | None,
        connect: str,
        connect_timeout: Duration,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        lock: AbstractContextManager[object] | None,
        ticket: type[Ticket],
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._why_closed: KafkaError | None = None
        if connect not in ("eager", "lazy"):
            raise ConfigurationError(f"connect={connect!r} is not valid: it takes 'eager' or 'lazy'.")
        self._eager = connect == "eager"
        self._connect_timeout_s = duration_s("connect_timeout", connect_timeout)
        self._client, self._settings = producer_settings(
            bootstrap_servers,
            config,
            options,
            partitioner=partitioner,
            ssl_context=ssl_context,
            sasl=sasl,
            environment=os.environ,
        )
        self._key_serializer = _function(key_serializer)
        self._value_serializer = _function(value_serializer)
        self._clock = clock or SystemClock()
        self._lock: AbstractContextManager[object] = lock or nullcontext()
        self._machine = ProducerMachine(self._settings, self._client.bootstrap, dice or random.Random())
        self._failures = Failures(on_delivery_error, self._clock.monotonic_ms)
        self._size_max = min(self._settings.max_request_size, self._settings.buffer_memory)
        #: Whether keys and values are bytes or text as they are passed.
        self._direct = self._key_serializer is None and self._value_serializer is None
        self._sender = Sender(
            self._machine.accumulator,
            self._machine.accumulator.topics,
            ticket,
            lock,
            self._size_max,
            None if type(self._clock) is SystemClock else self._clock.wall_ms,
            None if self._machine.transactions is None else self._machine.transactions.check_send,
            self._direct,
        )
        self._runtime: Runtime | None = None
        self._started_ms = 0
        clients.add(self)

    # -- records ----------------------------------------------------------------------------------------------------

    def _row(
        self,
        topic: str,
        value: V | None,
        key: K | None,
        headers: HeadersLike | None,
        timestamp: TimestampLike | None,
    ) -> PreparedRow:
        """Return (key, value, headers, timestamp, size) of a record.

        Raises:
            TypeError, ValueError: what `send` says.
        """
        # The usual cases, without a call each: bytes, no key, no headers.
        key_bytes: bytes | None = None
        if key is not None:
            key_bytes = self._serialize(topic, key, self._key_serializer, "key")
        if type(value) is bytes and self._value_serializer is None:
            value_bytes: bytes | None = value
        else:
            value_bytes = self._serialize(topic, value, self._value_serializer, "value")
        if headers:
            made = make_headers(headers)
            size = record_size(key_bytes, value_bytes, made)
        else:
            made = ()
            size = (len(value_bytes) if value_bytes is not None else 0) + (
                len(key_bytes) if key_bytes is not None else 0
            )
            size += RECORD_OVERHEAD if size < SMALL else RECORD_OVERHEAD_MAX
        if size > self._size_max:
            self._check_size(topic, size)
        stamp = self._clock.wall_ms() if timestamp is None else make_timestamp(timestamp)
        return key_bytes, value_bytes, made, stamp, size

    @staticmethod
    def _serialize(topic: str, item: Any, serializer: SerializerFunction[Any] | None, what: str) -> bytes | None:
        kind = type(item)
        if serializer is None:
            if kind is bytes or item is None:
                return item  # type: ignore[no-any-return]
            if kind is str:
                try:
                    return item.encode()  # type: ignore[no-any-return]
                except UnicodeEncodeError as error:
                    raise SerializationError(
                        f"The {what} of a record for {topic!r} is no valid text: {error}"
                    ) from error
            if isinstance(item, bytes | bytearray | memoryview):
                return bytes(item)
            raise TypeError(
                f"the {what} of a record is bytes, text or None, not {kind.__name__}; for others "
                f"pass {what}_serializer=, such as ottla.serde.json()"
            )
        if item is None:
            return None
        try:
            made = serializer(topic, item)
        except Exception as error:
            raise SerializationError(f"The {what} of a record for {topic!r} cannot be serialized: {error}") from error
        if type(made) is bytes or made is None:
            return made
        if isinstance(made, bytes | bytearray | memoryview):
            return bytes(made)
        raise SerializationError(f"The {what}_serializer returned {type(made).__name__} instead of bytes.")

    def _table_plan(
        self,
        topic: str,
        value: str | Sequence[str],
        key: str | None,
        headers: str | HeadersLike | None,
        timestamp: str | TimestampLike | None,
        partition: int | str | None,
    ) -> TablePlan:
        """Return what is to be done with a table; the topic is known."""
        from ottla.client.tables import TablePlan  # with what it takes: ctypes

        def bound(serializer: SerializerFunction[Any] | None, what: str) -> Callable[[Any], bytes | None] | None:
            return None if serializer is None else lambda item: self._serialize(topic, item, serializer, what)

        topics = self._machine.accumulator.topics[topic]
        count = len(topics.queues)
        kafkas = self._settings.partitioner is None and not self._settings.partitioner_ignore_keys
        return TablePlan(
            value=value,
            key=key,
            headers=headers,
            timestamp=timestamp,
            partition=partition,
            serialize_value=bound(self._value_serializer, "value"),
            serialize_key=bound(self._key_serializer, "key"),
            choose=None if kafkas else lambda item: topics.partitioner.choose(item, count, topics.available),
        )

    def _table_batch_limit(self, topic: str) -> int:
        """Return how many bytes the rows of one batch may have: as in Kafka's producer the header counts, too."""
        return max(min(self._machine.batch_limit(topic), self._size_max) - HEADER_SIZE, 1)

    def _check_size(self, topic: str, size: int) -> None:
        """Raise if a record, or a batch of one, is too large to be sent."""
        if size > self._size_max:
            limit = "max.request.size" if size > self._settings.max_request_size else "buffer.memory"
            raise RecordTooLargeError(
                f"A record for topic {topic!r} takes {size} bytes, more than {limit} ({self._size_max})."
            )

    @staticmethod
    def _check_target(topic: str, partition: int | None) -> None:
        if not isinstance(topic, str) or not topic:
            raise TypeError(f"a topic is a name, not {topic!r}")
        if partition is not None and (not isinstance(partition, int) or partition < 0):
            raise ValueError(f"a partition is a number from 0, not {partition!r}")

    def _await_append(self, topic: str, partition: int | None, wake: Callable[[], object]) -> None:
        """A record was not accepted: have `wake` called when another try may succeed. Called with the lock held.

        Raises:
            KafkaError: waiting would not help.
        """
        machine = self._machine
        if machine.knows(topic, partition):
            machine.accumulator.waiters.append(wake)
            return
        error = machine.metadata.errors.get(topic)
        if error is not None and not error.retriable:
            machine.metadata.forget(topic)
            raise error
        if not machine.metadata.use(topic, self._now_ms()):
            machine.metadata.request_update()
        machine.metadata_waiters.append(wake)

    def _blocked_too_long(self, topic: str, partition: int | None) -> BlockedTooLongError:
        machine = self._machine
        seconds = f"max.block.ms ({self._settings.max_block_ms / 1000:g} s)"
        cause: Exception | None = None
        count = machine.partition_count(topic)
        if machine.knows(topic, partition):
            text = (
                f"There was no room in buffer.memory within {seconds}: brokers take records more slowly than they come."
            )
            cause = machine.connections.error
        elif count is not None:
            text = f"Topic {topic!r} has {count} partitions, not a partition {partition}; waited {seconds}."
        else:
            cause = machine.metadata.errors.get(topic) or machine.connections.error
            text = f"There is no metadata of topic {topic!r} within {seconds}" + (f": {cause}" if cause else ".")
        error = BlockedTooLongError(text)
        error.__cause__ = cause
        return error

    @property
    def _closed(self) -> KafkaError | None:
        """Why every call raises, or None."""
        return self._why_closed

    @_closed.setter
    def _closed(self, error: KafkaError | None) -> None:
        self._why_closed = error
        self._sender.open = False

    # -- life -------------------------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        assert self._runtime is not None
        return self._runtime.now_ms()

    def _make_runtime(self) -> Runtime:
        """Return the runtime, on the running loop."""
        settings = ChannelSettings(
            client_id=self._client.client_id,
            ssl_context=context_of(self._client),
            authenticate=login_for(self._client),
            in_flight_max=self._settings.max_in_flight,
            connect_timeout_s=self._client.connect_timeout_ms / 1000,
            send_buffer_bytes=self._client.send_buffer_bytes,
            receive_buffer_bytes=self._client.receive_buffer_bytes,
        )
        self._started_ms = self._clock.monotonic_ms()
        return Runtime(
            self._machine,
            settings,
            self._lock,
            finished_handler(self._failures, self._settings.transactional_id),
            telemetry(
                self._client,
                self._machine.connections,
                self._snapshot,
                self._described,
                self._machine._random,
                self._clock.wall_ms,
            ),
        )

    def _not_connected(self) -> KafkaError:
        """Why no connection came about within `connect_timeout`."""
        error = self._machine.connections.error
        if isinstance(error, KafkaError):
            return error
        where = ", ".join(f"{host}:{port}" for host, port in self._client.bootstrap)
        return BrokerUnreachableError(
            f"No broker answered within {self._connect_timeout_s:g} s: {where}.", address=where
        )

    def _check_usable(self) -> None:
        if self._closed is not None:
            raise self._closed

    def _take_failures(self, *, dropped_only: bool) -> DeliveryErrors | None:
        with self._lock:
            self._sender.forget_last()
            return self._failures.take(dropped_only=dropped_only)

    def _watermark(self) -> Operation:
        """Return an operation that is done when all records accepted so far have an outcome."""
        with self._lock:
            operation = self._machine.flush()
        self._wake()
        return operation

    def _delivery_errors(self) -> DeliveryErrors:
        """Return what `commit_after` raises: the failures that nothing has looked at yet, or the last one."""
        errors = self._take_failures(dropped_only=False)
        if errors is not None:
            return errors
        last = self._failures.last or DeliveryError(
            KafkaError("the log says why"), topic="?", partition=-1, key=None, value=None, headers=(), timestamp_ms=-1
        )
        return DeliveryErrors([last], 1)

    def _wake(self) -> None:
        raise NotImplementedError

    def metrics(self) -> ProducerMetrics:
        """Return a snapshot under Kafka's metric names; `.prometheus()` is the same as text."""
        self._check_usable()
        return self._snapshot()

    def _snapshot(self) -> ProducerMetrics:
        age_s = (self._clock.monotonic_ms() - self._started_ms) / 1000
        with self._lock:
            return snapshot(self._machine, self._client.client_id, age_s)

    def _described(self) -> list[tuple[str, str]]:
        """Return what describes this client to the broker that its metrics are pushed to; names of KIP-714."""
        name = self._settings.transactional_id
        return [("transactional_id", name)] if name is not None else []

    # -- transactions -----------------------------------------------------------------------------------------------

    def _transactions(self) -> Transactions:
        found = self._machine.transactions
        if found is None:
            raise TransactionStateError("The producer has no transactional_id.")
        return found

    def _outcome_unknown(self, operation: Operation) -> TransactionOutcomeUnknownError:
        """No end of a transaction within `max.block.ms`: give the producer up."""
        cause = self._transactions().obstacle or self._machine.connections.error
        seconds = f"max.block.ms ({self._settings.max_block_ms / 1000:g} s)"
        error = TransactionOutcomeUnknownError(
            f"No answer within {seconds} to: {operation.name}"
            + (f" ({cause})" if cause is not None else "")
            + ". It may happen yet, or not; the producer can only be closed."
        )
        error.__cause__ = cause
        with self._lock:
            self._transactions().give_up(error)
        return error

    @property
    def _in_transaction(self) -> bool:
        transactions = self._machine.transactions
        return transactions is not None and transactions.state in (State.IN_TRANSACTION, State.ABORTABLE)


def _function(serializer: Any) -> SerializerFunction[Any] | None:
    found: SerializerFunction[Any] | None = getattr(serializer, "serialize", serializer)
    if found is not None and not callable(found):
        raise TypeError(
            f"a serializer is a function (topic, object) or one of ottla.serde, such as json(): not {found!r}"
        )
    return found


def finished_handler(failures: Failures, transactional_id: str | None) -> Callable[[list[Batch]], None]:
    """Return what the runtime calls with finished batches. It holds no producer: one that is dropped can be collected.

    A transaction tells of its failures by its own end.
    """

    def handle(batches: list[Batch]) -> None:
        for batch in batches:
            if batch.error is not None or batch.parts:
                failures.add(batch)

    return handle if transactional_id is None else lambda batches: None


def as_offsets(offsets: Mapping[TopicPartition, int | OffsetAndMetadata]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return offsets with what is kept beside them; a bare number is the offset of the next record to read."""
    return {
        TopicPartition(*where): offset if isinstance(offset, OffsetAndMetadata) else OffsetAndMetadata(offset)
        for where, offset in offsets.items()
    }


#: Every client of this process that was not collected.
clients: weakref.WeakSet[Any] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(clients):
        client._closed = ForkedError(ForkedError.default_message + " " + ForkedError.hint)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
