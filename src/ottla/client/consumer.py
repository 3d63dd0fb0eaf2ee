"""The blocking consumer: `ottla.Consumer`. It belongs to one thread; `stop()`, `pause()` and `resume()` are for any.

A thread of its own runs the event loop and fetches; raw batches cross over, and are decoded where they are used.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self

from ottla.client._core.fetching import Query
from ottla.client._core.operation import Operation
from ottla.client.background import LoopThread, check_may_wait, forget, register
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

logger = logging.getLogger(__name__)


class Consumer(ConsumerBase[K, V]):
    """Reads topics, all their partitions, without a group: nothing is committed.

        with ottla.Consumer("localhost:9092", topics=["orders"], auto_offset_reset="earliest") as consumer:
            for record in consumer:
                print(record.offset, record.value)

    The loop is endless; `stop()` ends it, `records(until="end")` ends by itself.

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        topics: names. Partitions that are added later are read from their beginning. None: see `assign`.
        key_deserializer, value_deserializer: functions (topic, bytes) -> object, or an `ottla.serde`; called when a
            record's key or value is looked at.
        ssl_context: for brokers that speak TLS.
        sasl: how to log in: `ottla.sasl.Plain(...)` or `ottla.sasl.Scram(...)`.
        connect_timeout: seconds.
        config: keys with dots; the same may be passed as keywords (`fetch_min_bytes=1`). docs/client.md lists them.

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
            lock=threading.Lock(),
        )
        self._thread: LoopThread | None = None
        # Its put() may be called in a signal handler.
        self._calls: SimpleQueue[None] = SimpleQueue()

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect. `with`, or the first call, does it.

        Raises:
            KafkaError: it did not come about within `connect_timeout`; the text says why.
        """
        self._check_usable()
        if self._thread is not None:
            return
        self._thread = LoopThread("ottla-consumer")
        runtime = self._thread.call(self._make_runtime)
        self._begin(runtime)
        register(self)
        runtime.wake_threadsafe()
        try:
            if not self._wait(runtime.connected, self._connect_timeout_s):
                raise self._not_connected()
            if runtime.connected.error is not None:
                raise runtime.connected.error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End: nothing is fetched any more."""
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        self._end()
        forget(self)
        thread, self._thread = self._thread, None
        if thread is not None and self._runtime is not None:
            thread.stop(self._runtime.stop())

    def _close_at_exit(self) -> None:
        if self._closed is None:
            self.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is None or self._closed is not None or self._runtime is None:
            return
        self._closed = ClosedError()
        warnings.warn(f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2)
        thread.stop_soon(self._runtime.stop())

    # -- records ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        """Wait for the next record and return it. After `stop()` the loop ends; another loop goes on behind it."""
        record = self._take_ready(None) if not self._stopping else None
        if record is not None:
            return record
        record = self._next(None)
        if record is None:
            self._stopping = False
            raise StopIteration
        return record

    def poll(self, max_records: int | None = None, timeout: Duration = 1.0) -> list[Record[K, V]]:
        """Return the records that are there, `max_records` (`max.poll.records`) at most.

        Args:
            timeout: seconds to wait for a first one; the list is empty if none comes.
        """
        limit = self._bounds.max_poll_records if max_records is None else max_records
        deadline = time.monotonic() + duration_s("timeout", timeout)
        first = self._next(deadline)
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

    def _next(self, deadline: float | None, done: Callable[[], bool] | None = None) -> Record[K, V] | None:
        """Return the next record; None after `stop()`, when the deadline has passed, or once `done` says so."""
        if self._closed is not None:
            raise self._closed
        if self._thread is None:
            self.start()
        while not self._stopping:
            record = self._take(self._wake_waiter)
            if record is not None or (done is not None and done()):
                return record
            check_may_wait()
            try:
                self._calls.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
            except Empty:
                return None
            if self._closed is not None:
                raise self._closed
        return None

    # -- positions --------------------------------------------------------------------------------------------------

    def seek(self, where: TopicPartition, place: Place) -> None:
        """Go on at an offset, at the first record of a time or later (an aware datetime), at the "beginning" or the "end".

        Raises:
            UnknownTopicOrPartitionError: the partition is not assigned.
            TimeoutError: the topics are not known within `default.api.timeout.ms`.
        """
        self._await_topics()
        self._seek(TopicPartition(*where), place)

    def position(self, where: TopicPartition) -> int:
        """Return the offset of the next record of a partition.

        Raises:
            UnknownTopicOrPartitionError: the partition is not assigned.
            TimeoutError: it is not known within `default.api.timeout.ms`.
        """
        self._await_topics()
        self._await(lambda: self._position_known(where), f"the position of {TopicPartition(*where)}")
        position = self._state(*where).position
        assert position is not None
        return position

    def beginning_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Return the first offset of partitions (of all that are assigned)."""
        return self._ask(partitions, EARLIEST)

    def end_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Return the offset behind the last record of partitions (of all that are assigned); for readers of committed
        records the last stable offset."""
        return self._ask(partitions, LATEST)

    def offsets_for_times(self, times: Mapping[TopicPartition, datetime | int]) -> dict[TopicPartition, int | None]:
        """Return the offset of the first record of each time or later; None if there is none."""
        self._await_topics()
        found = self._query({TopicPartition(*where): make_timestamp(when) for where, when in times.items()})
        return {where: offset if offset >= 0 else None for where, offset in found.items()}

    def _ask(self, partitions: Iterable[TopicPartition] | None, place: int) -> dict[TopicPartition, int]:
        self._await_topics()
        return self._query(self._places(partitions, place))

    def _query(self, places: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        runtime = self._runtime
        assert runtime is not None
        with self._lock:
            query: Query = self._machine.query(places, runtime.now_ms())
        self._wake()
        if not self._wait(query, self._bounds.api_timeout_s):
            with self._lock:
                self._machine.cancel(query)
            raise self._slow("offsets")
        if query.error is not None:
            raise query.error
        return query.offsets

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _await_topics(self) -> None:
        self._check_usable()
        if self._thread is None:
            self.start()
        self._await(self._topics_known, f"metadata of {', '.join(self._topics)}")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds, which is looked at with the lock held."""
        deadline = time.monotonic() + self._bounds.api_timeout_s
        while True:
            event = threading.Event()
            with self._lock:
                if condition():
                    return
                self._machine.waiters.append(event.set)
            self._wake()
            check_may_wait()
            if not event.wait(max(deadline - time.monotonic(), 0)):
                raise self._slow(what)

    def _wait(self, operation: Operation, limit_s: float) -> bool:
        check_may_wait()
        event = threading.Event()
        with self._lock:
            if operation.done:
                return True
            operation.callbacks.append(event.set)
        return event.wait(limit_s) or operation.done

    def _wake_waiter(self) -> None:
        self._calls.put(None)

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake_threadsafe()


class BoundedRecords(Generic[K, V]):
    """The records up to an end; see `Consumer.records`. Ending early leaves the position behind the last one handed out."""

    def __init__(self, consumer: Consumer[K, V], idle_timeout_s: float | None) -> None:
        self._consumer = consumer
        self._idle_timeout_s = idle_timeout_s
        self._ends: dict[TopicPartition, int] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        consumer = self._consumer
        if self._ends is None:
            self._ends = consumer.end_offsets()
        ends = self._ends
        if not consumer._stopping and (ready := consumer._take_ready(ends)) is not None:
            return ready
        deadline = None if self._idle_timeout_s is None else time.monotonic() + self._idle_timeout_s
        consumer._limits = ends
        try:
            record = consumer._next(deadline, lambda: consumer._reached(ends))
        finally:
            consumer._limits = None
        if record is None:
            consumer._stopping = False
            raise StopIteration
        return record
