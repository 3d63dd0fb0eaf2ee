"""The blocking consumer: `ottla.Consumer`. It belongs to one thread; `stop()`, `mark()`, `pause()` and
`resume()` are for any.

A thread of its own runs the event loop and fetches; raw batches cross over, and are decoded where they are used.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, overload

from ottla.client._core.handing import next_method
from ottla.client._core.offset_queries import Query
from ottla.client._core.operation import Operation
from ottla.client._core.transactions import OffsetAndMetadata
from ottla.client.background import LoopThread, check_may_wait, forget, register
from ottla.client.columns import NO_END, Columns
from ottla.client.config import ConsumerOptions
from ottla.client.consumed import Batch, Deserializer, K, Record, V
from ottla.client.consuming import PartitionsCallback, Place
from ottla.client.dead_letters import DeadLetters
from ottla.client.errors import ClosedError, ForkedError
from ottla.client.grouping import CLOSE_TIMEOUT_INTERRUPTED_S, CLOSE_TIMEOUT_S, GroupedConsumer
from ottla.client.keys import Duration, duration_s
from ottla.client.lanes import Order, Retry
from ottla.client.records import make_timestamp
from ottla.client.running import Runner
from ottla.client.unreadable import OnError, Unreadable
from ottla.client.work import Call, T, Until, Wait, Work
from ottla.types import EARLIEST, LATEST, TopicPartition

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from ottla.client.consuming import AnyProducer
    from ottla.sasl import Sasl

logger: logging.Logger = logging.getLogger(__name__)

#: How long a wait may be before the thread looks around. A signal that the system hands to another thread wakes no waiting
#: one, and Python runs its handler, `stop()` perhaps, only in the main thread.
_LOOK_S: Final = 1.0


class Consumer(GroupedConsumer[K, V]):
    """Reads topics: as a member of a group, or all their partitions without one.

        with ottla.Consumer("localhost:9092", group_id="billing", topics=["orders"]) as consumer:
            for record in consumer:
                handle(record)

    The loop is endless; `stop()` ends it, `records(until="end")` ends by itself. In a group what is finished is committed:
    docs/client.md says what that is. Without a group nothing is committed.

    Args:
        bootstrap_servers: "host:port", several separated by commas; by default KAFKA_BOOTSTRAP_SERVERS.
        topics: names. None: see `subscribe` and `assign`.
        pattern: topics whose whole name matches, in RE2's syntax; needs a group.
        commit: "processed" (the default in a group), "marked", "manual" or "transaction".
        commit_after: a producer: what is finished is committed only once everything that it had taken by then is
            acknowledged. A failed delivery stops commits, and the next step raises it.
        on_assigned, on_revoked, on_lost: called with partitions, in the caller's thread, inside the caller's calls.
            `on_revoked` may commit; without `on_lost` it is called for lost ones, too (as in Kafka).
        on_error: what becomes of records whose key or value cannot be deserialized. None: looking at it raises, in your
            body. Else each is deserialized before it is handed out, and one that cannot be is raised ("raise"), passed over
            with a line in the log ("skip"), sent on with headers that say why ("dead_letter:TOPIC"), or given to a function
            as a `DeserializationError`: when the function returns, the record is finished.
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
            lock=threading.Lock(),
        )
        self._thread: LoopThread | None = None
        self._dead_letters: DeadLetters | None = None
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
            self._begin_watching()
        except BaseException:
            self._close(clean=False, limit_s=0)
            raise

    def close(self, timeout: Duration | None = None) -> None:
        """Commit what is finished, leave the group, end.

        The last record or batch does not count as finished: `with` knows how its block ended, this does not; `mark()` and
        `commit()` say so.

        Args:
            timeout: seconds for the commit and the farewell; 30 at most by default. What fails is logged.
        """
        if isinstance(self._closed, ForkedError):
            raise self._closed
        check_may_wait()
        self._close(clean=False, limit_s=CLOSE_TIMEOUT_S if timeout is None else duration_s("timeout", timeout))

    def _close(self, *, clean: bool, limit_s: float) -> None:
        if self._closed is not None:
            return
        try:
            if self._thread is not None and self._runtime is not None and self._runtime.connected.done:
                self._drive(self._farewell(clean=clean, limit_s=limit_s))
        finally:
            self._end()
            forget(self)
            if self._dead_letters is not None:
                self._dead_letters.close()
            thread, self._thread = self._thread, None
            if thread is not None and self._runtime is not None:
                thread.stop(self._runtime.stop())

    def _close_at_exit(self) -> None:
        self._close(clean=False, limit_s=CLOSE_TIMEOUT_INTERRUPTED_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._closed, ForkedError):
            return
        interrupted = error is not None and not isinstance(error, Exception)
        self._close(clean=error is None, limit_s=CLOSE_TIMEOUT_INTERRUPTED_S if interrupted else CLOSE_TIMEOUT_S)

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

    @next_method
    def __next__(self) -> Record[K, V]:
        """Wait for the next record and return it. After `stop()` the loop ends; another loop goes on behind it."""
        record: Record[K, V] | None = self._front.take()
        return self._next_record() if record is None else record

    def _next_record(self) -> Record[K, V]:
        record = self._take_ready(None) if not self._attention else None
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

    def _next_batch(self, count: int, wait_s: float) -> Columns[K, V] | None:
        columns: Columns[K, V] = Columns(self._pool)
        try:
            if self._next(None, take=lambda: self._take_columns(columns, count, self._wake_waiter)) is None:
                return None
            deadline = time.monotonic() + wait_s
            self._gather(columns, count, self._wake_waiter)
            while len(columns) < count and self._deferred is None and not self._attention:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                with suppress(Empty):
                    self._calls.get(timeout=left_s)
                self._gather(columns, count, self._wake_waiter)
        except BaseException:
            self._put_back(columns)
            raise
        self._end_call()
        return columns

    def _read_to_end(self, idle_s: float) -> Batch[K, V]:
        """Return all from the positions to the ends that there are now; perhaps nothing.

        Raises:
            TimeoutError: no record came for so many seconds.
        """
        columns: Columns[K, V] = Columns(self._pool)
        self._limits = ends = self.end_offsets()

        def take() -> Columns[K, V] | None:
            return self._take_columns(columns, NO_END, self._wake_waiter)

        try:
            while not self._reached(ends):
                deadline = time.monotonic() + idle_s
                found = self._next(deadline, lambda: self._reached(ends), take=take)
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

    def run(
        self,
        handle: Callable[[Record[K, V]], object],
        *,
        workers: int = 1,
        order: Order = "key",
        retry: Retry | None = None,
    ) -> None:
        """Handle records by several threads at once, until `stop()`. A record is finished when `handle` returns.

            consumer.run(handle, workers=8, order="key", retry=ottla.Retry(delays=["1s", "10s"], dead_letter="orders.dlq"))

        Args:
            handle: called with each record, in a worker's thread.
            order: "partition", "key" (records of one key one after the other) or "none".
            retry: what happens when `handle` raises; None: `run` raises that, and the record comes again.

        Raises:
            Exception: what `handle` has raised for good, once the other workers are done with theirs.
        """
        Runner(self, handle, workers, order, retry).run()

    def _take_for_run(self, count: int) -> list[Record[K, V]]:
        """Do what the group wants, and return records that are at hand."""
        self._begin_call()
        self._raise_deferred()
        if self._attention:
            self._drive(self._settle())
        while count:
            try:
                return self._take_run(count, self._wake_waiter)
            except Unreadable as problem:
                self._drive(self._deal_with(problem))
        return []

    def _bury(self, record: Record[K, V], topic: str, error: Exception) -> None:
        if self._dead_letters is None:
            self._dead_letters = DeadLetters(self._client)
        self._dead_letters.send(record, topic, error, 1)

    def _nudge(self) -> None:
        """A worker has news for whoever waits; for any thread."""
        with self._lock:
            waiters, self._machine.waiters = self._machine.waiters, []
        for waiter in waiters:
            waiter()
        self._calls.put(None)

    @overload
    def _next(self, deadline: float | None, done: Callable[[], bool] | None = None) -> Record[K, V] | None: ...
    @overload
    def _next(
        self, deadline: float | None, done: Callable[[], bool] | None = None, *, take: Callable[[], T | None]
    ) -> T | None: ...
    def _next(
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
        if self._thread is None:
            self.start()
        self._begin_call()
        self._raise_deferred()
        try:
            while True:
                if self._attention:
                    self._drive(self._settle())
                if self._stopping:
                    return None
                try:
                    record = self._take(self._wake_waiter) if take is None else take()
                except Unreadable as problem:
                    self._drive(self._deal_with(problem))
                    continue
                if record is not None or (done is not None and done()):
                    return record
                check_may_wait()
                left_s = _LOOK_S if deadline is None else deadline - time.monotonic()
                try:
                    self._calls.get(timeout=max(min(left_s, _LOOK_S), 0))
                except Empty:
                    if left_s <= _LOOK_S and deadline is not None:
                        return None
                if self._closed is not None:
                    raise self._closed
        finally:
            self._end_call()

    # -- the group --------------------------------------------------------------------------------------------------

    def commit(
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
        self._ensure_started()
        self._drive(self._commit(offsets, timeout))

    def commit_async(
        self,
        offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None,
        *,
        on_commit: Callable[[Exception | None], object] | None = None,
    ) -> None:
        """Commit, as `commit` does, without waiting.

        Args:
            on_commit: called with None, or with the reason why it failed, on the client's own thread.

        Raises:
            PollIntervalExceededError: others have the partitions by now.
        """
        self._check_usable()
        self._ensure_started()
        with self._lock:
            operation = self._group().offsets.commit(self._to_commit(offsets))
            if on_commit is not None and not operation.done:
                operation.callbacks.append(lambda: on_commit(operation.error))
        if on_commit is not None and operation.done and operation.error is None and not operation.offsets:
            on_commit(None)
        self._wake()

    def committed(
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
        self._ensure_started()
        return self._drive(self._committed(partitions, require_stable, timeout))

    def _ensure_started(self) -> None:
        self._check_usable()
        if self._thread is None:
            self.start()

    def _drive(self, work: Work[T]) -> T:
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
                        outcome = self._wait(operation, limit_s)
                    case Until(condition, limit_s):
                        outcome = self._until(condition, limit_s)
                    case Call(function, arguments):
                        function(*arguments)
            except BaseException as problem:
                error = problem

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
        self._ensure_started()
        while self._unassigned and not self._settling:
            self._drive(self._settle())
            self._await(self._topics_known, self._awaited())
        self._await(self._topics_known, self._awaited())

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds, which is looked at with the lock held."""
        if not self._until(condition, self._bounds.api_timeout_s):
            raise self._slow(what)

    def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while True:
            event = threading.Event()
            with self._lock:
                if condition():
                    return True
                self._machine.waiters.append(event.set)
            self._wake()
            check_may_wait()
            if not event.wait(max(deadline - time.monotonic(), 0)):
                return False

    def _wait(self, operation: Operation, limit_s: float | None) -> bool:
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


class Batches(Generic[K, V]):
    """Batches of records, without an end; see `Consumer.batches`."""

    def __init__(self, consumer: Consumer[K, V], max_records: int, max_wait_s: float) -> None:
        self._consumer = consumer
        self._max_records = max_records
        self._max_wait_s = max_wait_s

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch[K, V]:
        """Wait for the next batch and return it. An exception while it waits loses no record."""
        found = self._consumer._next_batch(self._max_records, self._max_wait_s)
        if found is None:
            self._consumer._stopping = False
            raise StopIteration
        return self._consumer._batch(found)


class BoundedRecords(Generic[K, V]):
    """The records up to an end; see `Consumer.records`. Ending early leaves the position behind the last one handed out."""

    def __init__(self, consumer: Consumer[K, V], idle_timeout_s: float | None, *, bounded: bool) -> None:
        self._consumer = consumer
        self._idle_timeout_s = idle_timeout_s
        self._bounded = bounded
        self._ends: dict[TopicPartition, int] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        consumer = self._consumer
        record = self._next_before_the_end() if self._bounded else consumer._next(self._deadline())
        if record is None:
            consumer._stopping = False
            raise StopIteration
        return record

    def _next_before_the_end(self) -> Record[K, V] | None:
        consumer = self._consumer
        if self._ends is None:
            self._ends = consumer.end_offsets()
        ends = self._ends
        if consumer._attention:
            consumer._drive(consumer._settle())
        if new := [where for where in consumer.assignment if where not in ends]:
            ends.update(consumer.end_offsets(new))
        if not consumer._attention and (ready := consumer._take_ready(ends)) is not None:
            return ready
        consumer._limits = ends
        try:
            return consumer._next(self._deadline(), lambda: consumer._reached(ends))
        finally:
            consumer._limits = None

    def _deadline(self) -> float | None:
        return None if self._idle_timeout_s is None else time.monotonic() + self._idle_timeout_s
