"""Appends of a leader: the fence, the checks of a batch, its offsets.

A log takes the batches of the leader epoch it is led in, and of no other. A batch that nothing is remarkable about takes
a shorter way (`append_ordinary`), which does what the long one does. What a batch must be is decided in `validation`,
what the producers may send in `producer_state`; `writing` writes.

Sources: Kafka's UnifiedLog.appendAsLeader; KIP-101 (leader epochs), KIP-98 (idempotent producers), KIP-890.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ottla import failpoints
from ottla.errors import NotLeaderOrFollowerError, StorageError
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import (
    ATTRIBUTES_END,
    COMPRESSION_MASK,
    CONTROL_BIT,
    NO_TIMESTAMP,
    OFFSET_LENGTH_EPOCH,
    set_offset_and_epoch,
)
from ottla.protocol.records.checksum import crc32c
from ottla.protocol.records.control import read_marker
from ottla.storage.locking import try_locked
from ottla.storage.validation import is_taken_as_it_is, look_into, ordinary_packed_header, validate_batch
from ottla.storage.verification import UNCHECKED, Verification
from ottla.types import AppendOrigin

if TYPE_CHECKING:
    from ottla.protocol.records.control import EndTransactionMarker
    from ottla.storage.log import PartitionLog
    from ottla.storage.validation import ValidatedBatch

#: The led epoch of a log that is led by another broker, or by none: no append has it, not even one without an epoch (-1).
NOT_LED = -2


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


class AppendInfo(NamedTuple):
    """What an append did. For a duplicate: what the first append of the batch did."""

    first_offset: int
    last_offset: int
    log_append_time_ms: int
    log_start_offset: int
    duplicate: bool = False


class LogAppender:
    """Appends to one log as its leader.

    Attributes:
        led_epoch: the leader epoch whose appends are taken, or `NOT_LED`. Set with the lock held, taken back without.
        followed_epoch: the leader epoch in which another broker is followed, or `NOT_LED`, likewise.
    """

    __slots__ = (
        "_epochs",
        "_health",
        "_lock",
        "_log",
        "_producers",
        "_reader",
        "_writer",
        "followed_epoch",
        "led_epoch",
    )

    def __init__(self, log: PartitionLog) -> None:
        self.led_epoch = NOT_LED
        self.followed_epoch = NOT_LED
        self._log = log
        self._lock = log.lock
        self._health = log.health
        self._epochs = log.leader_epochs
        self._producers = log.producers
        self._reader = log.reader
        self._writer = log.writer

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

    def append_ordinary(self, records: memoryview, leader_epoch: int, now_ms: int) -> AppendInfo | None:
        """Append a client's batch if nothing about it, the producer or this log needs a second look.

        That is so for nearly every batch, and takes half of the time. None: nothing was done; `append_as_leader`
        appends the batch or refuses it. `records`, at least a batch's header, is patched in place.

        Raises:
            KafkaStorageError, StorageError: as for `append_as_leader`.
        """
        lock = self._lock
        if not lock.acquire(False):
            return None
        try:
            log = self._log
            config = log.config
            active = log.active_segment
            if (
                self._health.failure is not None
                or failpoints.ENABLED
                or not active.is_warm
                or leader_epoch != self._epochs.latest
                or leader_epoch != self.led_epoch
            ):
                return None
            packed = records[ATTRIBUTES_END] & COMPRESSION_MASK
            fields: tuple[int, ...] | None
            if packed:
                fields = ordinary_packed_header(records, config)
            else:
                fields, null_keys, smallest = kernels.check_batch(records, crc32c) or (None, 0, 0)
            if fields is None:
                return None
            _, length, _, _, _, attributes, delta, _, max_timestamp, producer_id, producer_epoch, sequence, _ = fields
            size = len(records)
            first = log.log_end_offset
            end = first + delta + 1
            if attributes != packed or not active.surely_fits(size, end - 1, max_timestamp, config):
                return None
            producer = None
            if producer_id >= 0:
                producer = self._producers.plainly_next(producer_id, producer_epoch, sequence)
                if producer is None:
                    return None
            if packed:  # last: unpacking costs more than everything else together
                seen = look_into(records, fields, config)
                if seen is None:
                    return None
                null_keys, smallest = seen
            if not is_taken_as_it_is(records, size, null_keys, smallest, max_timestamp, config, now_ms):
                return None
            OFFSET_LENGTH_EPOCH.pack_into(records, 0, first, length, leader_epoch)
            try:
                position = active.append(records)
            except OSError as error:
                raise self._writer.undo(active, active.size, error) from error
            active.note_batch(position, size, end - 1, max_timestamp, config.index_interval_bytes)
            if producer is not None:
                producer.take_in(sequence, delta, first, max_timestamp, now_ms)
            self._reader.note(first, position)
            self._writer.publish(end)
        finally:
            lock.release()
        return AppendInfo(first, end - 1, NO_TIMESTAMP, log.log_start_offset)

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
        writer.publish(last + 1)
        return AppendInfo(first, last, log_append_time_ms, log.log_start_offset)
