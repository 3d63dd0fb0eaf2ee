"""What `send()` returns: a ticket that leads to a record's outcome; and the failures that nothing has looked at yet.

A ticket is a batch and a place in it (`appending.Ticket`); the outcome is written once, into the batch. A batch knows which
of its tickets are held: who has kept one is told by it, who has dropped it is told by `flush()` and `close()`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from ottla.client._core.appending import Ticket
from ottla.client._core.batch import Batch, Outcome
from ottla.client.background import check_may_wait
from ottla.client.errors import DELIVERY_ERRORS_MAX, DeliveryError, DeliveryErrors
from ottla.client.records import RecordMetadata

logger: logging.Logger = logging.getLogger("ottla.client.producer")

#: Bytes of failed records that are kept for `flush()` and `close()`; of further ones only their number is.
FAILED_BYTES_MAX = 16 * 1024 * 1024
#: One line in the log for each topic and so many milliseconds.
LOG_INTERVAL_MS = 10_000


def delivery_error(batch: Batch, index: int) -> DeliveryError | None:
    """Return why a record was not delivered; None if it was, or has no outcome yet."""
    cause = batch.error_of(index)
    if cause is None:
        return None
    holder, place = batch.locate(index)
    _, timestamp_ms, key, value, headers = holder.unfold()[place]
    return DeliveryError(
        cause,
        topic=batch.topic,
        partition=batch.partition,
        key=key,
        value=value,
        headers=headers,
        timestamp_ms=timestamp_ms,
    )


class _Ticket(Ticket):
    __slots__ = ()

    _batch: Batch

    def done(self) -> bool:
        """Return whether the record has an outcome."""
        return self._batch.outcome is not Outcome.PENDING

    def _outcome(self) -> RecordMetadata | DeliveryError:
        """Return the outcome, and note that it was looked at."""
        batch, index = self._batch, self._index
        error = delivery_error(batch, index)
        if error is not None:
            batch.reported.add(index)
            return error
        return RecordMetadata(batch.topic, batch.partition, *batch.metadata_of(index))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._batch.topic}-{self._batch.partition} {self._batch.outcome.value}>"


class Delivery(_Ticket):
    """The acknowledgement of one record, to come. May be used from any thread."""

    __slots__ = ()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the acknowledgement and return where the record is.

        Args:
            timeout: seconds; None waits for the outcome, which comes within `delivery.timeout.ms`.

        Raises:
            DeliveryError: the record was not delivered.
            TimeoutError: there is no outcome yet; ask again.
        """
        outcome = self._wait(timeout)
        if isinstance(outcome, DeliveryError):
            raise outcome
        return outcome

    def exception(self, timeout: float | None = None) -> DeliveryError | None:
        """Wait for the outcome; return why the record was not delivered, or None.

        Raises:
            TimeoutError: there is no outcome yet.
        """
        outcome = self._wait(timeout)
        return outcome if isinstance(outcome, DeliveryError) else None

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Call `callback(self)` once there is an outcome: on the client's own thread, or at once if there is one already.

        Keep it short: while it runs, nothing is sent. What it raises is logged.
        """
        with self._lock:
            if self._batch.is_pending:
                self._batch.callbacks.append(lambda: callback(self))
                return
        callback(self)

    def _wait(self, timeout: float | None) -> RecordMetadata | DeliveryError:
        batch = self._batch
        if batch.is_pending:
            check_may_wait()
            event = threading.Event()
            with self._lock:
                if batch.is_pending:
                    batch.callbacks.append(event.set)
                else:
                    event.set()
            if not event.wait(timeout):
                raise TimeoutError(f"no acknowledgement from {batch.topic}-{batch.partition} within {timeout} s")
        return self._outcome()


class AsyncDelivery(_Ticket):
    """The acknowledgement of one record, to come: await it. Belongs to the event loop of its producer.

    `await delivery` returns a RecordMetadata or raises DeliveryError. It may be awaited more than once; cancelling such
    a wait changes nothing.
    """

    __slots__ = ()

    def __await__(self) -> Generator[object, None, RecordMetadata]:
        if self._batch.is_pending:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake() -> None:
                if not future.done():
                    future.set_result(None)

            self._batch.callbacks.append(wake)
            yield from future
        outcome = self._outcome()
        if isinstance(outcome, DeliveryError):
            raise outcome
        return outcome


@dataclass(frozen=True, slots=True)
class PartitionWritten:
    """What of a table went to a partition.

    Attributes:
        base_offset: of the first record; -1 if the broker did not say (`acks=0`).
        count: records. They follow one another unless others write to the partition, too.
    """

    partition: int
    base_offset: int
    count: int


class _TableTicket:
    """The acknowledgements of the records of a table, to come."""

    __slots__ = ("__weakref__", "_batches")

    def __init__(self) -> None:
        self._batches: list[Batch] = []

    def _add(self, batch: Batch) -> None:
        batch.table = weakref.ref(self)
        self._batches.append(batch)

    def __len__(self) -> int:
        """How many records there are."""
        return sum(batch.count for batch in self._batches)

    def done(self) -> bool:
        """Return whether all records have an outcome."""
        return all(batch.outcome is not Outcome.PENDING for batch in self._batches)

    def _outcome(self) -> dict[int, PartitionWritten] | DeliveryErrors:
        """Return the outcome, and note that it was looked at."""
        found: dict[int, PartitionWritten] = {}
        errors: list[DeliveryError] = []
        count = 0
        for batch in self._batches:
            before = found.get(batch.partition)
            if batch.error is None and not batch.parts:
                first = batch.metadata_of(0)[0]
                if before is None:
                    found[batch.partition] = PartitionWritten(batch.partition, first, batch.count)
                else:
                    found[batch.partition] = replace(before, count=before.count + batch.count)
                continue
            for index in range(batch.count):
                batch.reported.add(index)
                error = delivery_error(batch, index) if len(errors) < DELIVERY_ERRORS_MAX else batch.error_of(index)
                if error is None:
                    before = found.get(batch.partition) or PartitionWritten(
                        batch.partition, batch.metadata_of(index)[0], 0
                    )
                    found[batch.partition] = replace(before, count=before.count + 1)
                    continue
                count += 1
                if isinstance(error, DeliveryError):
                    errors.append(error)
        return DeliveryErrors(errors, count) if errors else found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} records, {'done' if self.done() else 'pending'}>"


class TableDelivery(_TableTicket):
    """The acknowledgements of the records of a table, to come. May be used from any thread."""

    __slots__ = ("_lock",)

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        super().__init__()
        self._lock = lock

    def result(self, timeout: float | None = None) -> dict[int, PartitionWritten]:
        """Wait for all acknowledgements; return what was written, by partition.

        Args:
            timeout: seconds; None waits for the outcomes, which come within `delivery.timeout.ms`.

        Raises:
            DeliveryErrors: records were not delivered. Others may have been.
            TimeoutError: not all have an outcome yet; ask again.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for batch in self._batches:
            if batch.is_pending:
                check_may_wait()
                event = threading.Event()
                with self._lock:
                    if batch.is_pending:
                        batch.callbacks.append(event.set)
                    else:
                        event.set()
                if not event.wait(None if deadline is None else max(deadline - time.monotonic(), 0)):
                    raise TimeoutError(f"not all of {len(self)} records were acknowledged within {timeout} s")
        outcome = self._outcome()
        if isinstance(outcome, DeliveryErrors):
            raise outcome
        return outcome


class AsyncTableDelivery(_TableTicket):
    """The acknowledgements of the records of a table, to come: await it, as often as you like."""

    __slots__ = ()

    def __await__(self) -> Generator[object, None, dict[int, PartitionWritten]]:
        loop = asyncio.get_running_loop()
        for batch in self._batches:
            if batch.is_pending:
                future: asyncio.Future[None] = loop.create_future()
                batch.callbacks.append(partial(_set_done, future))
                yield from future
        outcome = self._outcome()
        if isinstance(outcome, DeliveryErrors):
            raise outcome
        return outcome


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Failures:
    """Failed records that were not looked at, and the log lines about them.

    Args:
        on_error: the caller's function, called with each failure at once; None writes log lines.
        now_ms: the time.
    """

    def __init__(self, on_error: Callable[[DeliveryError], object] | None, now_ms: Callable[[], float]) -> None:
        self._on_error = on_error
        self._now_ms = now_ms
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._more = 0
        self._logged: dict[str, tuple[float, int]] = {}
        self._last: tuple[Batch, int] | None = None

    @property
    def last(self) -> DeliveryError | None:
        """The last failure, whether or not anything has looked at it."""
        return delivery_error(*self._last) if self._last is not None else None

    def add(self, batch: Batch) -> None:
        """Take in a batch that has failed, on the client's thread. The parts of a split one come with it."""
        if batch.parent is not None:
            return
        numbers = [index for index in range(batch.count) if batch.error_of(index) is not None]
        if not numbers:
            return  # it was split, and its parts were delivered
        self._last = (batch, numbers[0])
        if self._on_error is None:
            self._log(batch, len(numbers))
        else:
            for index in numbers:
                error = delivery_error(batch, index)
                assert error is not None
                try:
                    self._on_error(error)
                except Exception:
                    logger.exception("on_delivery_error failed")
        if self._bytes < FAILED_BYTES_MAX:
            self._batches.append(batch)
            self._bytes += batch.size
        else:
            self._more += len(numbers)

    def take(self, *, dropped_only: bool) -> DeliveryErrors | None:
        """Return the failures that were not looked at, and count them as looked at.

        Args:
            dropped_only: leave out those whose ticket is still held: its keeper learns of them by it.
        """
        errors: list[DeliveryError] = []
        count = self._more
        self._more = 0
        kept: deque[Batch] = deque()
        for batch in self._batches:
            held = False
            for index in self._unseen(batch):
                if dropped_only and batch.has_ticket(index):
                    held = True
                    continue
                batch.reported.add(index)
                count += 1
                if len(errors) < DELIVERY_ERRORS_MAX and (error := delivery_error(batch, index)) is not None:
                    errors.append(error)
            if held:
                kept.append(batch)
        self._batches = kept
        self._bytes = sum(batch.size for batch in kept)
        return DeliveryErrors(errors, count) if errors else None

    @staticmethod
    def _unseen(batch: Batch) -> Iterator[int]:
        for index in range(batch.count):
            if index not in batch.reported and batch.error_of(index) is not None:
                yield index

    def _log(self, batch: Batch, count: int) -> None:
        now_ms = self._now_ms()
        since_ms, waiting = self._logged.get(batch.topic, (float("-inf"), 0))
        waiting += count
        if now_ms - since_ms >= LOG_INTERVAL_MS:
            index = next(index for index in range(batch.count) if batch.error_of(index) is not None)
            logger.error(
                "%d record%s for topic %s not delivered: %s",
                waiting,
                "s were" if waiting > 1 else " was",
                batch.topic,
                batch.error_of(index),
            )
            since_ms, waiting = now_ms, 0
        self._logged[batch.topic] = (since_ms, waiting)
