"""What a coordinator appends as one batch, and the operations that wait for it.

A batch carries records, of no transaction or of one producer's transaction, or it is the marker that ends a transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ottla.errors import KafkaError, RequestTimedOutError, UnknownServerError
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import EndTransactionMarker, end_transaction_marker
from ottla.storage.verification import UNCHECKED

if TYPE_CHECKING:
    from ottla.storage.verification import Verification
    from ottla.types import CompressionType

logger = logging.getLogger(__name__)

#: Upper bound of what a record costs in a batch beside key and value: lengths, attributes, deltas, headers.
_RECORD_OVERHEAD: Final = 32
BATCH_OVERHEAD: Final = 61

#: Producer id and epoch of a transaction.
Producer = tuple[int, int]


def record_size(key: bytes, value: bytes | None) -> int:
    """Return how many bytes a record takes in a batch, at most."""
    return len(key) + (len(value) if value else 0) + _RECORD_OVERHEAD


class Waiter:
    """An operation that waits for its batch.

    Args:
        future: resolves with `response`; None for an operation of a timer, which no request waits for.
        on_appended: called first, with None or with the error.
        refusal: makes the response from an error; without it the future fails with the error.
    """

    __slots__ = ("future", "on_appended", "refusal", "response")

    def __init__(
        self,
        future: asyncio.Future[Any] | None,
        response: Any,
        on_appended: Callable[[KafkaError | None], None] | None = None,
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


class Batch:
    """Records that will be appended together, and the operations that wait for them.

    Attributes:
        producer: whose transaction the records belong to.
        verification: of that transaction.
        marker: the end of the producer's transaction, instead of records.
        epoch: of the timeline, once the batch is sealed; -1 while it gathers records.
        last_offset: of the batch in the log, once it is there; -1 before.
    """

    __slots__ = (
        "_deadline",
        "epoch",
        "last_offset",
        "marker",
        "producer",
        "records",
        "size",
        "transaction_version",
        "verification",
        "waiters",
    )

    def __init__(self, producer: Producer | None = None, verification: Verification | None = UNCHECKED) -> None:
        self.producer = producer
        self.verification = verification
        self.marker: EndTransactionMarker | None = None
        self.transaction_version = 0
        self.records: list[Record] = []
        self.size = BATCH_OVERHEAD
        self.waiters: list[Waiter] = []
        self.epoch = -1
        self.last_offset = -1
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def offset_count(self) -> int:
        """How many offsets the batch takes in the log."""
        return 1 if self.marker is not None else len(self.records)

    def add_record(self, timestamp_ms: int, key: bytes, value: bytes | None) -> None:
        """Put a record at the end."""
        self.records.append(Record(len(self.records), timestamp_ms, key, value))
        self.size += record_size(key, value)

    def add_waiter(self, waiter: Waiter, loop: asyncio.AbstractEventLoop, timeout_ms: int) -> None:
        """Let `waiter` wait for the commit, but not longer than for `timeout_ms`, counted from the first waiter on."""
        self.waiters.append(waiter)
        if self._deadline is None:
            self._deadline = loop.call_later(timeout_ms / 1000, self._time_out)

    def _time_out(self) -> None:
        self._deadline = None
        self.complete(RequestTimedOutError())

    def complete(self, error: KafkaError | None) -> None:
        """Answer the waiters, once; after a failure the last first, as what was decided later is undone first."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        waiters, self.waiters = self.waiters, []
        for waiter in waiters if error is None else reversed(waiters):
            try:
                waiter.complete(error)
            except Exception:
                logger.exception("a coordinator operation failed after its append")
                if waiter.future is not None and not waiter.future.done():
                    waiter.future.set_exception(UnknownServerError())

    def encode(self, leader_epoch: int, compression: CompressionType, now_ms: int) -> bytearray:
        """Return the batch as the log takes it; the log gives it its offsets."""
        if self.producer is None:
            return build_batch(self.records, base_offset=0, leader_epoch=leader_epoch, compression=compression)
        producer_id, producer_epoch = self.producer
        if self.marker is not None:
            return end_transaction_marker(
                self.marker.kind,
                self.marker.coordinator_epoch,
                timestamp_ms=now_ms,
                producer_id=producer_id,
                producer_epoch=producer_epoch,
                leader_epoch=leader_epoch,
            )
        return build_batch(
            self.records,
            base_offset=0,
            leader_epoch=leader_epoch,
            compression=compression,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            transactional=True,
        )
