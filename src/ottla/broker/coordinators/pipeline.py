"""AppendPipeline: how one coordinator partition writes. Records are gathered into batches, appended, and answered.

**Records are replayed when they are decided, not when they are committed** (as Kafka's CoordinatorRuntime does), and
undone if the append fails. Applying them after the commit would be simpler, but then either one operation at a time may be
in flight per partition (with replication that is one operation per round trip), or a decision does not see the records of
the decision before it: OffsetDelete would miss the offset committed a moment ago. The two views (`timeline`) keep what is
not committed from clients.

A batch passes through three stages:

1. it gathers records, in `_queue`: what is decided in the same turn of the loop shares a batch;
2. it is being appended (`_appending`), one batch at a time: its place in the log is known before the next batch is appended;
3. it is in the log and not committed (`_uncommitted`): many batches may be. The high watermark commits them in order.

So an operation waits for one replication round trip, whatever else is under way, and never for the round trip of the batch
before it. Where the log commits at once, the third stage takes no time.

An append that fails and has written nothing undoes its own batch and everything decided on top of it; batches that are in
the log already stand. If the failed append did reach the log, if an offset is not the expected one, or if the wait for a
commit fails, then memory and log may disagree: everything undecided fails, and the partition is loaded again (`on_broken`).

What is written in a transaction is a batch of its own, with the producer's id and epoch, and so is the marker that ends it.
If the log fences such a batch, the operations behind it are answered with COORDINATOR_NOT_AVAILABLE: it was not their fault.

Invariants: batches are appended in the order in which they were decided, each after the append before it has succeeded; a
response is given only after every record it depends on is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ottla.broker.coordinators.batches import BATCH_OVERHEAD, Batch, Producer, Waiter, record_size
from ottla.broker.coordinators.shard import NO_PRODUCER_ID, Result, Shard
from ottla.errors import (
    CoordinatorNotAvailableError,
    KafkaError,
    KafkaStorageError,
    RecordListTooLargeError,
    StorageError,
    UnknownServerError,
)
from ottla.protocol.records.control import ControlType, EndTransactionMarker
from ottla.storage.verification import UNCHECKED
from ottla.types import CompressionType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.coordinators.loader import CoordinatorLog
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.clock import Clock
    from ottla.storage.verification import Verification

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Shard)
R = TypeVar("R")

#: Batches of no transaction that may be in the log without being committed. What comes then gathers into larger batches,
#: for a sixteenth of a round trip on average; with more in flight every operation would be a batch of its own.
UNCOMMITTED_BATCHES_MAX: Final = 16
#: The same for batches of transactions and markers, which cannot be gathered.
UNCOMMITTED_TRANSACTIONAL_BATCHES_MAX: Final = 1_000
#: Batches that may wait for their append before further writes are refused (clients look the coordinator up again).
_QUEUED_BATCHES_MAX: Final = 8
#: Transactions have batches of their own, which may be many and small.
_QUEUED_TRANSACTIONAL_BATCHES_MAX: Final = 1_000


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


class AppendCounts:
    """What the pipelines of one runtime have done since the start, for metrics and tests."""

    __slots__ = ("appends", "records", "rollbacks")

    def __init__(self) -> None:
        self.appends = 0
        self.records = 0
        self.rollbacks = 0


class AppendPipeline(Generic[S]):
    """Writes for one loaded partition.

    Args:
        next_offset: the end of the log, up to which `shard` has been replayed.
        on_broken: called when memory and log may disagree: the partition has to be loaded again.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        leader_epoch: int,
        *,
        log: CoordinatorLog,
        shard: S,
        timeline: Timeline,
        next_offset: int,
        config: RuntimeConfig,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        counts: AppendCounts,
        on_broken: Callable[[], None],
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._leader_epoch = leader_epoch
        self._log = log
        self._shard = shard
        self._timeline = timeline
        self._next_offset = next_offset
        self._config = config
        self._clock = clock
        self._loop = loop
        self._counts = counts
        self._on_broken = on_broken
        #: Sealed batches and, last, the one that gathers records.
        self._queue: deque[Batch] = deque()
        self._appending: Batch | None = None
        self._uncommitted: deque[Batch] = deque()
        self._uncommitted_plain = 0
        self._commit: asyncio.Future[None] | None = None
        self._is_flush_scheduled = False
        self._is_closed = False

    @property
    def uncommitted_count(self) -> int:
        """How many batches are in the log and wait for the high watermark."""
        return len(self._uncommitted)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was decided is committed."""
        return self._last_batch() is None

    def close(self, error: KafkaError) -> None:
        """Answer every operation that waits with `error` and write nothing more."""
        self._is_closed = True
        if self._commit is not None:
            self._commit.cancel()
        for batch in self._take_all():
            batch.complete(error)

    # ------------------------------------------------------------ operations

    def check_room(self) -> None:
        """Refuse further writes while the log does not keep up.

        Raises:
            CoordinatorNotAvailableError: too many batches wait for their append.
        """
        if not self.has_room:
            raise CoordinatorNotAvailableError("the log of the coordinator does not keep up")

    @property
    def has_room(self) -> bool:
        """Whether the log keeps up: no more than so many batches wait for their append."""
        queue = self._queue
        if len(queue) <= _QUEUED_BATCHES_MAX:
            return True
        plain = sum(batch.producer is None for batch in queue)
        return plain <= _QUEUED_BATCHES_MAX and len(queue) <= _QUEUED_TRANSACTIONAL_BATCHES_MAX

    def submit(
        self,
        operation: Callable[[S, int], Result[R]],
        producer: Producer | None = None,
        refusal: Callable[[KafkaError], R] | None = None,
        verification: Verification | None = UNCHECKED,
    ) -> asyncio.Future[R]:
        """Let an operation decide, and write its records; the future resolves with its response when they are committed.

        Raises:
            KafkaError: the operation refuses.
        """
        result = operation(self._shard, self._clock.wall_ms())
        future: asyncio.Future[R] = self._loop.create_future()
        waiter = Waiter(future, result.response, result.on_appended, refusal)
        if result.records:
            self._gather(result, waiter, producer, verification)
        elif result.barrier and (last := self._last_batch()) is not None:
            self._wait_for(last, waiter)
        else:
            if result.on_appended is not None:
                result.on_appended(None)
            future.set_result(result.response)
        return future

    def write_unasked(self, result: Result[None]) -> None:
        """Write what a timer has decided; no request waits for it."""
        if result.records:
            self._gather(result, Waiter(None, None, result.on_appended))

    def end_transaction(
        self, producer: Producer, marker: EndTransactionMarker, transaction_version: int
    ) -> asyncio.Future[None]:
        """Write the marker that ends a transaction; its effect on the shard is decided before this returns."""
        future: asyncio.Future[None] = self._loop.create_future()
        batch = self._open_batch(producer, is_marker=True)
        batch.marker = marker
        batch.transaction_version = transaction_version
        self._shard.replay_end_transaction(producer[0], marker.kind is ControlType.COMMIT)
        self._next_offset += 1
        self._wait_for(batch, Waiter(future, None))
        return future

    # ----------------------------------------------------------- gathering

    def _gather(
        self,
        result: Result[Any],
        waiter: Waiter,
        producer: Producer | None = None,
        verification: Verification | None = UNCHECKED,
    ) -> None:
        shard = self._shard
        timestamp_ms = self._clock.wall_ms()
        encoded = [(record, *shard.encode(record)) for record in result.records]
        total = sum(record_size(key, value) for _, key, value in encoded)
        limit = self._config.batch_bytes_max
        if result.atomic and total + BATCH_OVERHEAD > limit:
            waiter.complete(
                RecordListTooLargeError(f"{total} bytes of records do not fit into a batch of {limit} bytes")
            )
            return
        batch = self._open_batch(producer, verification)
        if batch.records and batch.size + total > limit:
            batch = self._seal(producer, verification)
        for record, key, value in encoded:
            if batch.records and batch.size + record_size(key, value) > limit:
                batch = self._seal(producer, verification)
            batch.add_record(timestamp_ms, key, value)
            if result.replay:
                shard.replay(self._next_offset, NO_PRODUCER_ID if producer is None else producer[0], record)
            self._next_offset += 1
        self._wait_for(batch, waiter)
        # What is full gains nothing by waiting for the end of the turn, in which thousands of members may join.
        while len(self._queue) > 1 and self._may_append:
            self._append_next()

    def _last_batch(self) -> Batch | None:
        """Return the batch that was decided last, if it is not committed."""
        if self._queue:
            return self._queue[-1]
        return self._appending or (self._uncommitted[-1] if self._uncommitted else None)

    def _wait_for(self, batch: Batch, waiter: Waiter) -> None:
        batch.add_waiter(waiter, self._loop, self._config.append_timeout_ms)

    def _open_batch(
        self,
        producer: Producer | None,
        verification: Verification | None = UNCHECKED,
        *,
        is_marker: bool = False,
    ) -> Batch:
        """Return the batch that gathers records of this producer under this verification.

        If there is none, make one, and see to its append.
        """
        if self._queue:
            last = self._queue[-1]
            is_same = last.producer == producer and last.verification == verification
            if is_same and last.marker is None and not is_marker:
                return last
            return self._seal(producer, verification)
        batch = Batch(producer, verification)
        self._queue.append(batch)
        self._schedule_flush(self._config.append_linger_ms)
        return batch

    def _seal(self, producer: Producer | None, verification: Verification | None) -> Batch:
        """Close the batch that gathers records and start the next one."""
        self._queue[-1].epoch = self._timeline.advance()
        batch = Batch(producer, verification)
        self._queue.append(batch)
        return batch

    # ----------------------------------------------------------- appending

    @property
    def _may_append(self) -> bool:
        """Whether there is a batch that may be appended now."""
        if self._is_closed or self._appending is not None or not self._queue:
            return False
        if self._queue[0].producer is None:
            return self._uncommitted_plain < UNCOMMITTED_BATCHES_MAX
        return len(self._uncommitted) - self._uncommitted_plain < UNCOMMITTED_TRANSACTIONAL_BATCHES_MAX

    def _schedule_flush(self, linger_ms: int = 0) -> None:
        if self._is_flush_scheduled or not self._may_append:
            return
        self._is_flush_scheduled = True
        if linger_ms > 0:
            self._loop.call_later(linger_ms / 1000, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        while self._may_append:
            self._append_next()

    def _append_next(self) -> None:
        batch = self._appending = self._queue.popleft()
        if batch.epoch < 0:
            batch.epoch = self._timeline.advance()
        end_offset = -1
        try:
            end_offset = self._log.end_offset(self._topic, self._partition)
            data = batch.encode(self._leader_epoch, self._config.compression, self._clock.wall_ms())
            appended = self._log.append(
                self._topic, self._partition, data, batch.transaction_version, batch.verification
            )
        except Exception as error:
            self._on_append_failed(batch, end_offset, error)
            return
        self._counts.appends += 1
        self._counts.records += len(batch.records)
        if isinstance(appended, int):
            self._on_appended(batch, end_offset, appended)
        else:
            self._await_append(batch, end_offset, appended)

    def _await_append(self, batch: Batch, end_offset: int, appended: Awaitable[int]) -> None:
        def on_done(future: asyncio.Future[int]) -> None:
            error = asyncio.CancelledError() if future.cancelled() else future.exception()
            if self._is_closed or self._appending is not batch:
                return
            if error is not None:
                self._on_append_failed(batch, end_offset, error)
            else:
                self._on_appended(batch, end_offset, future.result())
                # Not at once: what the answers just given bring in this turn of the loop shares the append.
                self._schedule_flush()

        asyncio.ensure_future(appended).add_done_callback(on_done)

    def _on_appended(self, batch: Batch, end_offset: int, last_offset: int) -> None:
        """The batch is in the log."""
        self._appending = None
        expected = end_offset + batch.offset_count - 1
        batch.last_offset = last_offset
        batch.records = []  # the log has them
        self._uncommitted.append(batch)
        self._uncommitted_plain += batch.producer is None
        if last_offset != expected:
            logger.error(
                "%s-%d: a batch that was to end at offset %d ends at %d",
                self._topic,
                self._partition,
                expected,
                last_offset,
            )
            self._break(UnknownServerError())
        elif self._commit is None:
            self._follow_high_watermark()

    def _on_append_failed(self, batch: Batch, end_offset: int, cause: BaseException) -> None:
        """Undo the batch and what was decided on top of it. What is in the log already stands."""
        error = self._translate(cause, "append")
        failed = [batch, *self._queue]
        self._appending = None
        self._queue.clear()
        discarded = self._timeline.roll_back(batch.epoch)
        self._counts.rollbacks += 1
        self._next_offset -= sum(each.offset_count for each in failed)
        for each in reversed(failed):
            each.complete(error if each is batch or batch.producer is None else CoordinatorNotAvailableError())
        self._shard.on_rolled_back(discarded, error)
        try:
            is_untouched = self._log.end_offset(self._topic, self._partition) == end_offset
        except KafkaError:
            is_untouched = False
        if not is_untouched:
            logger.warning("%s-%d: the failed append may have reached the log", self._topic, self._partition)
            self._on_broken()

    # ---------------------------------------------------------- committing

    def _follow_high_watermark(self) -> None:
        """Answer what the high watermark has passed, and wait for the rest."""
        uncommitted = self._uncommitted
        try:
            high_watermark = self._log.high_watermark(self._topic, self._partition)
        except KafkaError as error:
            self._break(self._translate(error, "commit"))
            return
        while uncommitted and uncommitted[0].last_offset < high_watermark:
            batch = uncommitted.popleft()
            self._uncommitted_plain -= batch.producer is None
            self._timeline.commit(batch.epoch)
            batch.complete(None)
            if self._is_closed:
                return
        if uncommitted:
            commit = self._log.committed(self._topic, self._partition, uncommitted[0].last_offset)
            self._commit = asyncio.ensure_future(commit)
            self._commit.add_done_callback(self._on_commit)

    def _on_commit(self, commit: asyncio.Future[None]) -> None:
        error = asyncio.CancelledError() if commit.cancelled() else commit.exception()
        if self._is_closed or self._commit is not commit:
            return
        self._commit = None
        if error is not None:
            self._break(self._translate(error, "commit"))
            return
        self._follow_high_watermark()
        self._schedule_flush()

    def _break(self, error: KafkaError) -> None:
        """What is in the log may or may not stay there: everything that waits fails, and the partition is loaded again."""
        failed = self._take_all()
        discarded = self._timeline.roll_back()
        self._counts.rollbacks += 1
        for batch in reversed(failed):
            batch.complete(error)
        self._shard.on_rolled_back(discarded, error)
        self._on_broken()

    def _take_all(self) -> list[Batch]:
        taken = [*self._uncommitted, *((self._appending,) if self._appending is not None else ()), *self._queue]
        self._uncommitted.clear()
        self._uncommitted_plain = 0
        self._appending = None
        self._queue.clear()
        return taken

    def _translate(self, cause: BaseException, what: str) -> KafkaError:
        if isinstance(cause, KafkaError | StorageError):
            logger.warning("%s-%d: %s failed: %s", self._topic, self._partition, what, cause)
            return cause if isinstance(cause, KafkaError) else KafkaStorageError(str(cause))
        logger.error("%s-%d: %s failed", self._topic, self._partition, what, exc_info=cause)
        return UnknownServerError()
