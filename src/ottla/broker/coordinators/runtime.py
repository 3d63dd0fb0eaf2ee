"""CoordinatorRuntime: runs the state machines of an internal topic, one per partition this broker leads.

It decides nothing about groups or transactions. It serialises operations, gathers their records into batches, appends
them, and gives the responses once the batch is committed; it loads a partition by replaying it and runs its timers.

**Records are replayed when they are decided, not when they are committed** (as Kafka's CoordinatorRuntime does), and
undone if the append fails. Applying after the commit would be simpler, but then either one operation at a time may be in
flight per partition - with replication that is one commit per round trip - or a decision does not see the records of the
decision before it: OffsetDelete would miss the offset committed a moment ago. The two views (`timeline`) keep what is not
committed from clients.

At most one append per partition is in flight; whatever is decided meanwhile, or in the same turn of the loop, gathers into
the next batch. So many OffsetCommits share one append, and when an append fails, everything decided on top of it is known
and has not been written: state goes back to what is committed, and all those operations fail with the same error. If the
failed append did reach the log (the end offset moved), memory and log may disagree: the partition is loaded again.

Operations that write nothing (heartbeats above all) never wait for the disk.

What is written in a transaction is a batch of its own, with the producer's id and epoch, and so is the marker that ends
it; both go through the same queue, so that log and memory agree about their order. If the log fences such a batch, those
behind it are told to ask again: it was not their fault.

Invariants: a batch is appended only after the batch before it is committed; a response is given only after every record it
depends on is committed; a shard is used only between `on_loaded` and `on_unloaded`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ottla.broker.coordinators.loader import CoordinatorLog, load
from ottla.broker.coordinators.shard import (
    NO_PRODUCER_ID,
    DeletedTopic,
    Result,
    Shard,
    ShardFactory,
    TimerOperation,
)
from ottla.broker.coordinators.timeline import Timeline
from ottla.broker.coordinators.timers import ShardTimers
from ottla.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    KafkaStorageError,
    NotCoordinatorError,
    RecordListTooLargeError,
    RequestTimedOutError,
    StorageError,
    UnknownServerError,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, EndTransactionMarker, end_transaction_marker
from ottla.types import CompressionType, coordinator_partition

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.cluster.image import ClusterImage, ImageDelta

__all__ = ["CoordinatorLog", "CoordinatorRuntime", "RuntimeConfig"]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Shard)
R = TypeVar("R")

#: Upper bound of what a record costs in a batch beside key and value: lengths, attributes, deltas, headers.
_RECORD_OVERHEAD: Final = 32
_BATCH_OVERHEAD: Final = 61
#: Batches that may wait behind a stalled disk before further writes are refused (clients look the coordinator up again).
_QUEUED_BATCHES_MAX: Final = 8
#: Transactions have batches of their own, which may be many and small.
_QUEUED_TRANSACTIONAL_BATCHES_MAX: Final = 1_000

#: Producer id and epoch of a transaction.
Producer = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How a runtime appends and loads.

    Attributes:
        append_timeout_ms: how long an operation waits for its commit (`offsets.commit.timeout.ms`).
        append_linger_ms: how long to gather records before an append; -1 and 0: until the end of the loop's turn
            (`group.coordinator.append.linger.ms`).
        batch_bytes_max: the largest batch (`message.max.bytes` of the internal topic).
        compression: codec of the batches (`offsets.topic.compression.codec`).
        load_bytes_max: bytes per read while loading (`offsets.load.buffer.size`).
    """

    append_timeout_ms: int = 5_000
    append_linger_ms: int = -1
    batch_bytes_max: int = 1_048_588
    compression: CompressionType = CompressionType.NONE
    load_bytes_max: int = 5_242_880


class _State(Enum):
    LOADING = "loading"
    ACTIVE = "active"
    FAILED = "failed"
    CLOSED = "closed"


class _Waiter:
    """An operation that waits for its batch."""

    __slots__ = ("future", "on_appended", "refusal", "response")

    def __init__(
        self,
        future: asyncio.Future[Any] | None,
        response: Any,
        on_appended: Callable[[KafkaError | None], None] | None,
        refusal: Callable[[KafkaError], Any] | None = None,
    ) -> None:
        self.future = future
        self.response = response
        self.on_appended = on_appended
        self.refusal = refusal

    def complete(self, error: KafkaError | None) -> None:
        if self.on_appended is not None:
            self.on_appended(error)
        if self.future is not None and not self.future.done():
            if error is None:
                self.future.set_result(self.response)
            elif self.refusal is not None:
                self.future.set_result(self.refusal(error))
            else:
                self.future.set_exception(error)


class _Batch:
    """Records that will be appended together, and the operations that wait for them."""

    __slots__ = ("_deadline", "epoch", "marker", "producer", "records", "size", "transaction_version", "waiters")

    def __init__(self, producer: Producer | None = None) -> None:
        #: Whose transaction the records belong to.
        self.producer = producer
        #: The end of the producer's transaction, instead of records.
        self.marker: EndTransactionMarker | None = None
        self.transaction_version = 0
        self.records: list[Record] = []
        self.size = _BATCH_OVERHEAD
        self.waiters: list[_Waiter] = []
        self.epoch = -1
        self._deadline: asyncio.TimerHandle | None = None

    def add_waiter(self, waiter: _Waiter, loop: asyncio.AbstractEventLoop, timeout_ms: int) -> None:
        """Let `waiter` wait for the commit, but not longer than for `timeout_ms` (from the first who waits)."""
        self.waiters.append(waiter)
        if self._deadline is None:
            self._deadline = loop.call_later(timeout_ms / 1000, self._time_out)

    def _time_out(self) -> None:
        self._deadline = None
        self.complete(RequestTimedOutError())

    def complete(self, error: KafkaError | None) -> None:
        """Answer the waiters, once."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            try:
                waiter.complete(error)
            except Exception:
                logger.exception("a coordinator operation failed after its append")
                if waiter.future is not None and not waiter.future.done():
                    waiter.future.set_exception(UnknownServerError())


class _Held(Generic[S]):
    """A partition this broker leads. `queue` holds sealed batches and, last, the one that is gathering."""

    __slots__ = (
        "deleted_topics",
        "flush_scheduled",
        "in_flight",
        "leader_epoch",
        "next_offset",
        "partition",
        "queue",
        "shard",
        "state",
        "timeline",
        "timers",
    )

    def __init__(self, partition: int, leader_epoch: int) -> None:
        self.partition = partition
        self.leader_epoch = leader_epoch
        self.state = _State.LOADING
        self.timeline = Timeline(tracks=False)
        self.timers: ShardTimers | None = None
        self.shard: S | None = None
        self.next_offset = 0
        self.queue: deque[_Batch] = deque()
        self.in_flight: _Batch | None = None
        self.flush_scheduled = False
        #: Deleted while loading.
        self.deleted_topics: list[DeletedTopic] = []


class CoordinatorRuntime(Generic[S]):
    """Runs the shards of one internal topic.

    Args:
        topic: the internal topic.
        log: its logs.
        shard_factory: makes the state machine of a partition.
        partition_count: how many partitions the topic has (or will have).
    """

    def __init__(
        self,
        *,
        topic: str,
        log: CoordinatorLog,
        shard_factory: ShardFactory,
        partition_count: Callable[[], int],
        clock: Clock,
        config: RuntimeConfig | None = None,
    ) -> None:
        self.topic = topic
        self._log = log
        self._shard_factory = shard_factory
        self._partition_count = partition_count
        self._clock = clock
        self._config = config or RuntimeConfig()
        self._held: dict[int, _Held[S]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Appends and records since the start, for metrics and tests.
        self.append_count = 0
        self.record_count = 0
        self.load_count = 0

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Answer everybody who waits and forget all state; the log has it."""
        for partition in list(self._held):
            self.on_resign(partition)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_leader(self, partition: int, leader_epoch: int) -> None:
        """This broker leads the partition: load it. A newer epoch of a partition that is loaded changes nothing else."""
        held = self._held.get(partition)
        if held is not None and held.state is not _State.FAILED:
            held.leader_epoch = max(held.leader_epoch, leader_epoch)
            return
        self._load(partition, leader_epoch)

    def on_resign(self, partition: int, leader_epoch: int | None = None) -> None:
        """This broker no longer leads the partition (or, with an epoch, did not since that epoch)."""
        held = self._held.get(partition)
        if held is None or (leader_epoch is not None and leader_epoch < held.leader_epoch):
            return
        del self._held[partition]
        self._close(held)

    def on_topics_deleted(self, topics: Sequence[DeletedTopic]) -> None:
        """Topics are gone: every shard forgets what belongs to them."""
        for held in list(self._held.values()):
            if held.state is _State.LOADING:
                held.deleted_topics += topics
            elif held.state is _State.ACTIVE:
                self._forget_topics(held, topics)

    def on_image(self, image: ClusterImage, delta: ImageDelta) -> None:
        """The cluster has changed: every loaded shard is told (one that loads looks at the image itself)."""
        for held in list(self._held.values()):
            if held.state is _State.ACTIVE:
                future = self._submit(held, lambda shard, now_ms: shard.on_image(image, delta, now_ms))
                future.add_done_callback(_log_failed_refresh)

    # ------------------------------------------------------------ operations

    def partition_for(self, key: str) -> int:
        """Return the partition whose coordinator is responsible for a group id (or transactional id)."""
        return coordinator_partition(key, self._partition_count())

    def leader_epoch(self, partition: int) -> int:
        """Return the leader epoch of a partition that answers: the epoch of its coordinator.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        return self._active(partition).leader_epoch

    @property
    def loaded_partitions(self) -> list[int]:
        """Partitions that answer."""
        return [partition for partition, held in self._held.items() if held.state is _State.ACTIVE]

    def partition_states(self) -> dict[str, int]:
        """How many partitions are loading, active or failed."""
        states: dict[str, int] = {}
        for held in self._held.values():
            states[held.state.value] = states.get(held.state.value, 0) + 1
        return states

    def loaded_shards(self) -> list[S]:
        """The state machines that answer, for whoever counts: partitions that are being loaded are missing."""
        return [held.shard for held in self._held.values() if held.state is _State.ACTIVE and held.shard is not None]

    def run(self, partition: int, operation: Callable[[S, int], Result[R]]) -> R:
        """Return the response of an operation that writes nothing. Never waits.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        held = self._active(partition)
        assert held.shard is not None
        result = operation(held.shard, self._clock.wall_ms())
        assert not result.records, "an operation without a wait must not write"
        return result.response

    def read(self, partition: int, query: Callable[[S], R]) -> R:
        """Return what `query` finds; it should look at the committed view.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS.
        """
        held = self._active(partition)
        assert held.shard is not None
        return query(held.shard)

    def read_all(self, query: Callable[[S], R]) -> Iterator[R]:
        """Yield what `query` finds on every partition of this broker.

        Raises:
            CoordinatorLoadInProgressError: a partition is being loaded.
        """
        for held in list(self._held.values()):
            if held.state is _State.LOADING:
                raise CoordinatorLoadInProgressError()
            if held.state is _State.ACTIVE and held.shard is not None:
                yield query(held.shard)

    def write(
        self,
        partition: int,
        operation: Callable[[S, int], Result[R]],
        *,
        producer: Producer | None = None,
        refusal: Callable[[KafkaError], R] | None = None,
    ) -> asyncio.Future[R]:
        """Run an operation; the future resolves with its response when its records are committed.

        The decision is taken before this returns, so operations take effect in the order of the calls.

        Args:
            producer: write the records in the open transaction of this producer id and epoch.
            refusal: what the future resolves with when the append fails; without it, the future has the error.

        Raises:
            KafkaError: refused, NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS; also through the future, when the
                append fails. Retriable errors mean that the outcome is not known.
        """
        held = self._active(partition)
        if len(held.queue) > _QUEUED_BATCHES_MAX:
            mixed = [batch for batch in held.queue if batch.producer is None]
            if len(mixed) > _QUEUED_BATCHES_MAX or len(held.queue) > _QUEUED_TRANSACTIONAL_BATCHES_MAX:
                raise CoordinatorNotAvailableError("the log of the coordinator does not keep up")
        return self._submit(held, operation, producer, refusal)

    def end_transaction(
        self, partition: int, producer: Producer, marker: EndTransactionMarker, transaction_version: int = 0
    ) -> asyncio.Future[None]:
        """Write the marker that ends a transaction; the future resolves when it is committed.

        Its place in the log, and its effect on the shard, are decided before this returns.

        Raises:
            KafkaError: NOT_COORDINATOR or COORDINATOR_LOAD_IN_PROGRESS; through the future, what the log refuses.
        """
        held = self._active(partition)
        assert held.shard is not None
        future: asyncio.Future[None] = self._running_loop().create_future()
        batch = self._open_batch(held, producer, is_marker=True)
        batch.marker = marker
        batch.transaction_version = transaction_version
        held.shard.replay_end_transaction(producer[0], marker.kind is ControlType.COMMIT)
        held.next_offset += 1
        self._wait_for(batch, _Waiter(future, None, None))
        return future

    # -------------------------------------------------------------- internal

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _active(self, partition: int) -> _Held[S]:
        held = self._held.get(partition)
        if held is None or held.state in (_State.FAILED, _State.CLOSED):
            raise NotCoordinatorError()
        if held.state is _State.LOADING:
            raise CoordinatorLoadInProgressError()
        return held

    def _submit(
        self,
        held: _Held[S],
        operation: Callable[[S, int], Result[R]],
        producer: Producer | None = None,
        refusal: Callable[[KafkaError], R] | None = None,
    ) -> asyncio.Future[R]:
        assert held.shard is not None
        result = operation(held.shard, self._clock.wall_ms())
        future: asyncio.Future[R] = self._running_loop().create_future()
        last = held.queue[-1] if held.queue else held.in_flight
        if result.records:
            self._gather(held, result, _Waiter(future, result.response, result.on_appended, refusal), producer)
        elif result.barrier and last is not None:
            self._wait_for(last, _Waiter(future, result.response, result.on_appended, refusal))
        else:
            if result.on_appended is not None:
                result.on_appended(None)
            future.set_result(result.response)
        return future

    def _gather(self, held: _Held[S], result: Result[Any], waiter: _Waiter, producer: Producer | None = None) -> None:
        shard = held.shard
        assert shard is not None
        timestamp = self._clock.wall_ms()
        encoded = [(record, *shard.encode(record)) for record in result.records]
        total = sum(len(key) + (len(value) if value else 0) + _RECORD_OVERHEAD for _, key, value in encoded)
        limit = self._config.batch_bytes_max
        if result.atomic and total + _BATCH_OVERHEAD > limit:
            waiter.complete(
                RecordListTooLargeError(f"{total} bytes of records do not fit into a batch of {limit} bytes")
            )
            return
        batch = self._open_batch(held, producer)
        if batch.records and batch.size + total > limit:
            batch = self._seal(held, producer)
        for record, key, value in encoded:
            size = len(key) + (len(value) if value else 0) + _RECORD_OVERHEAD
            if batch.records and batch.size + size > limit:
                batch = self._seal(held, producer)
            batch.records.append(Record(len(batch.records), timestamp, key, value))
            batch.size += size
            if result.replay:
                shard.replay(held.next_offset, NO_PRODUCER_ID if producer is None else producer[0], record)
            held.next_offset += 1
        self._wait_for(batch, waiter)
        # What is full gains nothing by waiting for the end of the turn, in which thousands of members may join.
        while len(held.queue) > 1 and held.in_flight is None:
            self._append_next(held)

    def _wait_for(self, batch: _Batch, waiter: _Waiter) -> None:
        batch.add_waiter(waiter, self._running_loop(), self._config.append_timeout_ms)

    def _open_batch(self, held: _Held[S], producer: Producer | None = None, *, is_marker: bool = False) -> _Batch:
        """Return the batch that is gathering for this producer; make one, and see to its append, if there is none."""
        if held.queue:
            last = held.queue[-1]
            if last.producer == producer and last.marker is None and not is_marker:
                return last
            return self._seal(held, producer)
        batch = self._new_batch(held, producer)
        if held.in_flight is None and not held.flush_scheduled:
            held.flush_scheduled = True
            linger_ms = self._config.append_linger_ms
            if linger_ms > 0:
                self._running_loop().call_later(linger_ms / 1000, self._flush, held)
            else:
                self._running_loop().call_soon(self._flush, held)
        return batch

    def _new_batch(self, held: _Held[S], producer: Producer | None) -> _Batch:
        batch = _Batch(producer)
        held.queue.append(batch)
        return batch

    def _seal(self, held: _Held[S], producer: Producer | None = None) -> _Batch:
        """Close the batch that is gathering and start the next one."""
        held.queue[-1].epoch = held.timeline.advance()
        return self._new_batch(held, producer)

    def _flush(self, held: _Held[S]) -> None:
        held.flush_scheduled = False
        if held.state is _State.ACTIVE and held.in_flight is None and held.queue:
            self._append_next(held)

    def _append_next(self, held: _Held[S]) -> None:
        batch = held.queue.popleft()
        if batch.epoch < 0:
            batch.epoch = held.timeline.advance()
        held.in_flight = batch
        end_offset = self._log.end_offset(self.topic, held.partition)
        try:
            data = self._encode(held, batch)
            appended = asyncio.ensure_future(
                self._log.append(self.topic, held.partition, data, batch.transaction_version)
            )
        except Exception as error:
            self._on_failed(held, batch, end_offset, error)
            return
        self.append_count += 1
        self.record_count += len(batch.records)
        if appended.done():
            self._on_appended(held, batch, end_offset, appended)
        else:
            appended.add_done_callback(lambda future: self._on_appended(held, batch, end_offset, future))

    def _encode(self, held: _Held[S], batch: _Batch) -> bytearray:
        if batch.producer is None:
            return build_batch(
                batch.records,
                base_offset=0,
                leader_epoch=held.leader_epoch,
                compression=self._config.compression,
            )
        producer_id, producer_epoch = batch.producer
        if batch.marker is not None:
            return end_transaction_marker(
                batch.marker.kind,
                batch.marker.coordinator_epoch,
                timestamp_ms=self._clock.wall_ms(),
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                leader_epoch=held.leader_epoch,
            )
        return build_batch(
            batch.records,
            base_offset=0,
            leader_epoch=held.leader_epoch,
            compression=self._config.compression,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            transactional=True,
        )

    def _on_appended(self, held: _Held[S], batch: _Batch, end_offset: int, appended: asyncio.Future[int]) -> None:
        error = asyncio.CancelledError() if appended.cancelled() else appended.exception()
        if held.state is not _State.ACTIVE or held.in_flight is not batch:
            return
        if error is not None:
            self._on_failed(held, batch, end_offset, error)
            return
        held.in_flight = None
        held.timeline.commit(batch.epoch)
        batch.complete(None)
        if held.state is _State.ACTIVE and held.queue and not held.flush_scheduled:
            # Not at once: what the answers just given bring in this turn of the loop shares the append.
            held.flush_scheduled = True
            self._running_loop().call_soon(self._flush, held)

    def _on_failed(self, held: _Held[S], batch: _Batch, end_offset: int, cause: BaseException) -> None:
        if isinstance(cause, KafkaError | StorageError):
            error = cause if isinstance(cause, KafkaError) else KafkaStorageError(str(cause))
            logger.warning("%s-%d: append failed: %s", self.topic, held.partition, cause)
        else:
            error = UnknownServerError()
            logger.error("%s-%d: append failed", self.topic, held.partition, exc_info=cause)
        failed = [batch, *held.queue]
        held.in_flight = None
        held.queue.clear()
        discarded = held.timeline.roll_back()
        written = self._log.end_offset(self.topic, held.partition) != end_offset
        held.next_offset = end_offset
        for each in failed:
            each.complete(error if each is batch or batch.producer is None else CoordinatorNotAvailableError())
        if held.shard is not None:
            held.shard.on_rolled_back(discarded, error)
        if written and self._held.get(held.partition) is held:
            logger.warning("%s-%d: the failed append reached the log; loading again", self.topic, held.partition)
            del self._held[held.partition]
            self._close(held)
            self._load(held.partition, held.leader_epoch)

    def _forget_topics(self, held: _Held[S], topics: Sequence[DeletedTopic]) -> None:
        future = self._submit(held, lambda shard, now_ms: shard.on_topics_deleted(topics, now_ms))
        future.add_done_callback(_log_failed_deletion)

    def _on_timer(self, held: _Held[S], operation: TimerOperation) -> None:
        if held.state is not _State.ACTIVE:
            return
        try:
            result = operation(self._clock.wall_ms())
            if result.records:
                self._gather(held, result, _Waiter(None, None, result.on_appended))
        except Exception:
            logger.exception("%s-%d: a timer of the coordinator failed", self.topic, held.partition)

    def _load(self, partition: int, leader_epoch: int) -> None:
        held: _Held[S] = _Held(partition, leader_epoch)
        held.timers = ShardTimers(self._running_loop(), lambda operation: self._on_timer(held, operation))
        held.shard = self._shard_factory(partition, held.timeline, held.timers)
        self._held[partition] = held
        self._spawn(self._load_task(held))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_task(self, held: _Held[S]) -> None:
        def is_current() -> bool:
            return held.state is _State.LOADING

        assert held.shard is not None
        try:
            summary = await load(
                self._log,
                self.topic,
                held.partition,
                held.shard,
                max_bytes=self._config.load_bytes_max,
                is_current=is_current,
            )
            if not is_current():
                return
            held.timeline.tracks = True
            held.next_offset = summary.next_offset
            held.state = _State.ACTIVE
            held.shard.on_loaded(self._clock.wall_ms())
            self.load_count += 1
            if held.deleted_topics:
                self._forget_topics(held, held.deleted_topics)
        except asyncio.CancelledError:
            raise
        except Exception:
            if held.state is not _State.CLOSED:
                held.state = _State.FAILED
            logger.exception("%s-%d: loading failed", self.topic, held.partition)
            return
        if summary.unknown_records:
            logger.warning(
                "%s-%d: %d records of types this version does not know were skipped",
                self.topic,
                held.partition,
                summary.unknown_records,
            )
        logger.debug("%s-%d: loaded %d records", self.topic, held.partition, summary.records)

    def _close(self, held: _Held[S]) -> None:
        was_active = held.state is _State.ACTIVE
        held.state = _State.CLOSED
        batches = [*([held.in_flight] if held.in_flight else ()), *held.queue]
        held.in_flight = None
        held.queue.clear()
        for batch in batches:
            batch.complete(NotCoordinatorError())
        if was_active and held.shard is not None:
            held.shard.on_unloaded(self._clock.wall_ms())
        if held.timers is not None:
            held.timers.cancel_all()


def _log_failed_deletion(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("offsets of deleted topics stay until they expire: %s", error)


def _log_failed_refresh(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a change of the cluster could not be followed: %s", error)
