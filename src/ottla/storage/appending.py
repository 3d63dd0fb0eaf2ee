"""Appends of a leader: the fence, the checks of a batch, its offsets.

A log takes the batches of the leader epoch it is led in, and of no other. A batch that nothing is remarkable about takes
a shorter way (`LogEnd.append_ordinary`), which does what the long one does. What a batch must be is decided in
`validation`, what the producers may send in `producer_state`; `writing` writes.

Sources: Kafka's UnifiedLog.appendAsLeader; KIP-101 (leader epochs), KIP-98 (idempotent producers), KIP-890.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ottla.errors import NotLeaderOrFollowerError, StorageError
from ottla.protocol.records.batch import (
    CONTROL_BIT,
    set_offset_and_epoch,
)
from ottla.protocol.records.control import read_marker
from ottla.storage.appended import NOT_LED, AppendInfo
from ottla.storage.ends import LogEnd
from ottla.storage.locking import try_locked
from ottla.storage.validation import validate_batch
from ottla.storage.verification import UNCHECKED, Verification
from ottla.types import AppendOrigin

if TYPE_CHECKING:
    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.validation import ValidatedBatch


class Append(NamedTuple):
    """One batch on its way into a log, and how it is to be appended.

    Attributes:
        records: the batch; patched in place.
        leader_epoch: written into the batch; the log takes no other than the one it is led in.
        origin: a client is checked fully, a coordinator for epochs.
        api_version: of the Produce request.
        transaction_version: of the WriteTxnMarkers request.
        verification: of the transaction that the batch belongs to (`ProducerState.check_verification`).
    """

    records: bytearray | memoryview
    leader_epoch: int
    origin: AppendOrigin = AppendOrigin.CLIENT
    api_version: int | None = None
    transaction_version: int = 0
    verification: Verification | None = UNCHECKED


class LogAppender(LogEnd):
    """Appends to one log as its leader."""

    __slots__ = ()

    # -- the fence

    def lead(self, leader_epoch: int) -> bool:
        """Take appends of this leader epoch. See `PartitionLog.lead`; returns True."""
        with self._lock:
            latest = self._epochs.latest
            if leader_epoch < latest:
                raise NotLeaderOrFollowerError(
                    f"{self._log.topic_partition} cannot be led in epoch {leader_epoch}: "
                    f"it holds batches of epoch {latest}"
                )
            self._epochs.assign(leader_epoch, self._log.log_end_offset)
            self.followed_epoch = NOT_LED
            self.led_epoch = leader_epoch
            return True

    def lead_nowait(self, leader_epoch: int) -> bool:
        """Do as `lead`; or nothing, and return False, if another thread changes the log right now."""
        return try_locked(self._lock, self.lead, leader_epoch) is not None

    def follow(self, leader_epoch: int) -> None:
        """Take what the leader of this epoch sends, and nothing else. Whatever waits for the lock is of another role."""
        self.led_epoch = NOT_LED
        self.followed_epoch = leader_epoch

    def fence(self) -> None:
        """Take no appends any more, as leader or follower. One that holds the lock right now is finished."""
        self.led_epoch = self.followed_epoch = NOT_LED

    # -- append

    def append_as_leader(self, append: Append, now_ms: int) -> AppendInfo:
        """Append one batch: check it, give it the next offsets, write it.

        Raises:
            NotLeaderOrFollowerError: this log is not led in that epoch, now that its turn has come.
            KafkaError: the batch is refused and nothing was appended. KafkaStorageError: no space or no descriptor is left.
            StorageError: the disk failed, now or before.
        """
        batch = self._validated(append, now_ms)
        with self._lock:
            return self._append(batch, append, now_ms)

    def append_as_leader_nowait(self, append: Append, now_ms: int) -> AppendInfo | None:
        """Do as `append_as_leader`; or nothing, and return None, if another thread changes the log right now."""
        return try_locked(self._lock, self.append_as_leader, append, now_ms)

    def _validated(self, append: Append, now_ms: int) -> ValidatedBatch:
        return validate_batch(
            append.records,
            config=self._log.config,
            origin=append.origin,
            now_ms=now_ms,
            api_version=append.api_version,
        )

    def _append(self, batch: ValidatedBatch, append: Append, now_ms: int) -> AppendInfo:
        if self._health.failure is not None:
            raise StorageError(self._health.failure)
        log, writer, epochs = self._log, self._writer, self._epochs
        leader_epoch = append.leader_epoch
        if leader_epoch != self.led_epoch:
            raise NotLeaderOrFollowerError(
                f"{log.topic_partition}: a batch of leader epoch {leader_epoch}, the log is led in "
                + (f"epoch {self.led_epoch}" if self.led_epoch >= 0 else "none")
            )
        data, header, _, _, log_append_time_ms = batch
        marker: EndTransactionMarker | None = None
        if header.producer_id >= 0:
            if header.attributes & CONTROL_BIT:
                marker = read_marker(data)
                if marker is not None:
                    self._producers.check_marker(header, marker, append.origin, append.transaction_version)
            else:
                known = self._producers.check_batch(header, append.origin)
                if known is not None:
                    return AppendInfo(
                        known.first_offset, known.last_offset, known.timestamp, log.log_start_offset, True
                    )
                if append.verification is not UNCHECKED:
                    self._producers.check_verification(header, append.verification, leader_epoch)
        first = log.log_end_offset
        last = first + header.last_offset_delta
        set_offset_and_epoch(data, 0, first, leader_epoch)
        size = len(data)
        if not log.active_segment.surely_fits(size, last, header.max_timestamp, log.config) and writer.should_roll(
            size, last, header.max_timestamp, now_ms
        ):
            writer.roll(first, now_ms)
        if leader_epoch > epochs.latest:
            epochs.assign(leader_epoch, first)
        position = writer.write(data)
        writer.note(header, first, position, marker, now_ms)
        self.publish(last + 1)
        return AppendInfo(first, last, log_append_time_ms, log.log_start_offset)
