"""What one partition remembers of its producers: sequences and epochs (idempotence), open and aborted transactions.

Decides whether a batch is new, a duplicate or out of order (`check_batch`, `check_marker`) and, after the write, takes
it in (`add_batch`, `add_marker`): nothing changes between, so a failed write leaves no trace. Knows no files: snapshots
are encoded and decoded here, `log` and `recovery` store them.

Rules (KIP-98, KIP-360, KIP-890; Kafka's ProducerAppendInfo, ProducerStateManager):
* the last 5 batches of a producer are kept; one with the same epoch, first and last sequence is a duplicate;
* the next sequence is the last one plus 1, after 2^31-1 comes 0; a new epoch starts at 0;
* a producer that is not known here may start with any sequence (its state may have expired or been deleted);
* a transaction begins only with a guard that is still good, where the broker verifies transactions (`verification`).

Differences to Kafka:
* A producer expires by the later of its batches' timestamps and the time it was last seen here, so that producers of old
  timestamps keep their protection.
* A snapshot has all batches that are kept, so that after a start the repetition of any of them is a duplicate, not only that
  of the last one: a producer has up to five on their way. Each batch is a row, the last one of a producer comes last; a
  reader that keeps one row of each producer, as Kafka does, keeps that one.

An older duplicate than the five is out of order here as there. What a leader of several replicas makes of it says
`end_of_old_duplicates`: a producer that sends to a new leader before the one before has answered has more than five batches
on their way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ottla.errors import (
    InvalidProducerEpochError,
    InvalidTxnStateError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
    TransactionCoordinatorFencedError,
)
from ottla.protocol.records.batch import MAX_SEQUENCE, NO_PRODUCER_EPOCH, NO_SEQUENCE, BatchHeader
from ottla.protocol.records.checksum import crc32c
from ottla.protocol.records.control import ControlType, EndTransactionMarker
from ottla.storage.appended import BATCHES_KEPT, BatchMetadata
from ottla.storage.ends import ProducerEnd
from ottla.storage.index import AbortedTransaction
from ottla.storage.verification import UNCHECKED, Verification, VerificationGuard
from ottla.types import AppendOrigin

if TYPE_CHECKING:
    from ottla.types import TopicPartition

SNAPSHOT_VERSION = 1
_SNAPSHOT_HEADER = struct.Struct(">hIi")
_SNAPSHOT_ENTRY = struct.Struct(">qhiqiqiq")
_CRC_START = 6


class SnapshotError(ValueError):
    """A snapshot that cannot be used: it is deleted and an older one is taken."""


class ProducerEntry(ProducerEnd):
    """One producer id's state in one partition.

    Attributes:
        run_start: every sequence from this one to the last one of this epoch is in the log; -1: not known.
    """

    __slots__ = (
        "coordinator_epoch",
        "producer_id",
        "run_start",
    )

    def __init__(
        self,
        producer_id: int,
        producer_epoch: int = NO_PRODUCER_EPOCH,
        *,
        last_timestamp: int = -1,
        coordinator_epoch: int = -1,
        current_txn_first_offset: int = -1,
    ) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.last_timestamp = last_timestamp
        self.coordinator_epoch = coordinator_epoch
        self.current_txn_first_offset = current_txn_first_offset
        self.last_seen_ms = -1
        self.batches = []
        self.run_start = NO_SEQUENCE

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.producer_epoch:
            self.batches.clear()
            self.producer_epoch = epoch


class CompletedTransaction(NamedTuple):
    """A transaction that a marker has ended."""

    producer_id: int
    first_offset: int
    last_offset: int
    is_aborted: bool


class ProducerState:
    """All producers of one partition."""

    __slots__ = ("_expiration_ms", "_guards", "_open", "_topic_partition", "_unreplicated", "end_offset", "entries")

    def __init__(self, topic_partition: TopicPartition, expiration_ms: int) -> None:
        self._topic_partition = topic_partition
        self._expiration_ms = expiration_ms
        self.entries: dict[int, ProducerEntry] = {}
        #: The offset after the last batch that was taken in.
        self.end_offset = 0
        #: Open transactions: first offset -> producer id, in the order of their first offsets.
        self._open: dict[int, int] = {}
        #: Ended ones whose marker is not below the high watermark yet, by first offset.
        self._unreplicated: dict[int, CompletedTransaction] = {}
        #: Producer id -> the guard of a transaction that is about to begin. Not part of snapshots.
        self._guards: dict[int, VerificationGuard] = {}

    # Verification

    def begin_verification(
        self, producer_id: int, producer_epoch: int, leader_epoch: int, now_ms: int
    ) -> VerificationGuard:
        """Return the guard to verify a transaction with; requests that verify at the same time share it.

        A producer that has been replaced by a newer epoch gets a guard that is void: it must not take the newer one's away.
        """
        known = self._guards.get(producer_id)
        if known is not None and (known.producer_epoch, known.leader_epoch) == (producer_epoch, leader_epoch):
            return known
        guard = VerificationGuard(producer_id, producer_epoch, leader_epoch, now_ms)
        if known is None or known.leader_epoch != leader_epoch or known.producer_epoch < producer_epoch:
            self._guards[producer_id] = guard
        return guard

    def check_verification(self, header: BatchHeader, verification: Verification | None, leader_epoch: int) -> None:
        """Check that a new batch belongs to the open transaction of its producer, or may begin one.

        Args:
            verification: of the batch; None if it was not verified, since its transaction was open when it came.
            leader_epoch: under which the batch is appended.

        Raises:
            NotLeaderOrFollowerError: it was verified under another leader epoch; a retry is verified anew.
            InvalidTxnStateError: the transaction that was verified has ended.
        """
        if verification is UNCHECKED or not header.is_transactional:
            return
        entry = self.entries.get(header.producer_id)
        if entry is not None and entry.current_txn_first_offset >= 0 and entry.producer_epoch == header.producer_epoch:
            return
        if verification is None:
            raise self._unverified(header, "the transaction it belonged to has ended")
        guard, coordinator_epoch = verification
        if guard.leader_epoch != leader_epoch:
            raise NotLeaderOrFollowerError(
                f"{self._topic_partition}: a transaction of producer {header.producer_id} was verified under leader epoch "
                f"{guard.leader_epoch}, now it is {leader_epoch}"
            )
        if self._guards.get(header.producer_id) is not guard or guard.producer_epoch != header.producer_epoch:
            raise self._unverified(header, "the transaction that was verified has ended")
        if entry is not None and entry.coordinator_epoch > coordinator_epoch:
            raise self._unverified(
                header,
                f"it was verified by a coordinator of epoch {coordinator_epoch}, and one of epoch "
                f"{entry.coordinator_epoch} has ended a transaction here",
            )

    def _unverified(self, header: BatchHeader, reason: str) -> InvalidTxnStateError:
        return InvalidTxnStateError(
            f"{self._topic_partition}: a batch of producer {header.producer_id} epoch {header.producer_epoch} is not part "
            f"of an open transaction: {reason}"
        )

    # Checks, before the write

    def check_batch(self, header: BatchHeader, origin: AppendOrigin) -> BatchMetadata | None:
        """Check a data batch with a producer id; return the batch it duplicates, or None if it is new.

        Raises:
            InvalidProducerEpochError: a newer epoch is known (the producer is a zombie).
            OutOfOrderSequenceNumberError: records before it are missing, or it is an old duplicate.
            InvalidTxnStateError: a transaction is open and the batch does not belong to it.
        """
        entry = self.entries.get(header.producer_id)
        if entry is None:
            return None
        epoch = header.producer_epoch
        if origin is AppendOrigin.CLIENT:
            batches = entry.batches
            if epoch == entry.producer_epoch and batches:
                first = header.base_sequence
                expected = (batches[-1].last_sequence + 1) & MAX_SEQUENCE
                if first != expected:
                    last = header.last_sequence
                    for kept in batches:
                        if kept.last_sequence == last and kept.first_sequence == first:
                            return kept
                    raise self._out_of_order(entry, header)
            elif epoch < entry.producer_epoch:
                raise self._fenced(entry, header)
            elif entry.producer_epoch != NO_PRODUCER_EPOCH and header.base_sequence != 0:
                raise self._out_of_order(entry, header)
        elif origin is AppendOrigin.COORDINATOR and epoch < entry.producer_epoch:
            raise self._fenced(entry, header)
        if entry.current_txn_first_offset >= 0 and not header.is_transactional:
            raise InvalidTxnStateError(
                f"{self._topic_partition}: producer {entry.producer_id} wrote outside of its open transaction, "
                f"which began at offset {entry.current_txn_first_offset}"
            )
        return None

    def end_of_old_duplicates(self, header: BatchHeader) -> int | None:
        """Return an offset below which the records of this batch are, older than the kept ones; None if that is not known.

        It is known of what lies between the first sequence that was taken in and the kept batches, in the same epoch.
        """
        entry = self.entries.get(header.producer_id)
        if entry is None or entry.producer_epoch != header.producer_epoch or not entry.batches or entry.run_start < 0:
            return None
        oldest = entry.batches[0]
        if oldest.last_sequence < 0 or header.base_sequence < 0:
            return None
        last, first = entry.last_sequence, oldest.first_sequence
        if (last - first) & MAX_SEQUENCE > (last - entry.run_start) & MAX_SEQUENCE:
            return None  # there is a gap between the kept ones
        # How far the batch begins, and ends, before the kept ones, around the largest sequence.
        begins = (first - header.base_sequence) & MAX_SEQUENCE
        ends = (first - 1 - header.last_sequence) & MAX_SEQUENCE
        # What is further back than half of all sequences is not that, but ahead.
        known = min((first - entry.run_start) & MAX_SEQUENCE, MAX_SEQUENCE // 2)
        return oldest.first_offset if ends < begins <= known else None

    def check_marker(
        self, header: BatchHeader, marker: EndTransactionMarker, origin: AppendOrigin, transaction_version: int = 0
    ) -> None:
        """Check the control batch that ends a transaction.

        With transaction version 2 the marker's epoch must be newer than the producer's (KIP-890), except for the
        repetition of a marker that is here already.

        Raises:
            InvalidProducerEpochError: the marker comes too late.
            TransactionCoordinatorFencedError: a newer coordinator has written here.
        """
        entry = self.entries.get(header.producer_id)
        if entry is None or origin is AppendOrigin.REPLICATION:
            return
        epoch = header.producer_epoch
        if epoch < entry.producer_epoch or (
            transaction_version >= 2 and epoch == entry.producer_epoch and entry.current_txn_first_offset >= 0
        ):
            raise self._fenced(entry, header)
        if entry.coordinator_epoch > marker.coordinator_epoch:
            raise TransactionCoordinatorFencedError(
                f"{self._topic_partition}: a marker for producer {entry.producer_id} has coordinator epoch "
                f"{marker.coordinator_epoch}, {entry.coordinator_epoch} is known"
            )

    def _fenced(self, entry: ProducerEntry, header: BatchHeader) -> InvalidProducerEpochError:
        return InvalidProducerEpochError(
            f"{self._topic_partition}: producer {entry.producer_id} has epoch {header.producer_epoch}, "
            f"{entry.producer_epoch} is known"
        )

    def _out_of_order(self, entry: ProducerEntry, header: BatchHeader) -> OutOfOrderSequenceNumberError:
        return OutOfOrderSequenceNumberError(
            f"{self._topic_partition}: producer {entry.producer_id} epoch {header.producer_epoch} sent sequence "
            f"{header.base_sequence}; the last one here is {entry.last_sequence} of epoch {entry.producer_epoch}"
        )

    # Changes, after the write

    def add_batch(self, header: BatchHeader, base_offset: int, now_ms: int) -> None:
        """Take in a data batch that was written at `base_offset`."""
        producer_id = header.producer_id
        entry = self.entries.get(producer_id)
        if entry is None:
            entry = self.entries[producer_id] = ProducerEntry(producer_id)
        if entry.producer_epoch != header.producer_epoch:
            entry.set_epoch(header.producer_epoch)
        if not entry.batches or header.base_sequence != (entry.last_sequence + 1) & MAX_SEQUENCE:
            entry.run_start = header.base_sequence
        delta = header.last_offset_delta
        entry.take_in(header.base_sequence, delta, base_offset, header.max_timestamp, now_ms)
        if header.is_transactional and entry.current_txn_first_offset < 0:
            entry.current_txn_first_offset = base_offset
            self._guards.pop(producer_id, None)
            self._open[base_offset] = producer_id
        self.end_offset = base_offset + delta + 1

    def add_marker(
        self, header: BatchHeader, marker: EndTransactionMarker, offset: int, now_ms: int
    ) -> CompletedTransaction | None:
        """Take in a marker that was written at `offset`; return the transaction it ended, None if it was empty."""
        producer_id = header.producer_id
        entry = self.entries.get(producer_id)
        if entry is None:
            entry = self.entries[producer_id] = ProducerEntry(producer_id)
        self._guards.pop(producer_id, None)
        entry.set_epoch(header.producer_epoch)
        entry.coordinator_epoch = marker.coordinator_epoch
        entry.last_timestamp = header.max_timestamp
        entry.last_seen_ms = now_ms
        self.end_offset = offset + 1
        first = entry.current_txn_first_offset
        if first < 0:
            return None
        entry.current_txn_first_offset = -1
        self._open.pop(first, None)
        completed = CompletedTransaction(producer_id, first, offset, marker.kind is ControlType.ABORT)
        self._unreplicated[first] = completed
        return completed

    def aborted_entry(self, completed: CompletedTransaction) -> AbortedTransaction:
        """Return what the transaction index says of an aborted transaction (call right after `add_marker`)."""
        stable = min(self._open, default=completed.last_offset + 1)
        return AbortedTransaction(completed.producer_id, completed.first_offset, completed.last_offset, stable)

    def on_high_watermark(self, high_watermark: int) -> None:
        """Forget ended transactions whose markers are below the high watermark."""
        if self._unreplicated:
            self._unreplicated = {
                first: done for first, done in self._unreplicated.items() if done.last_offset >= high_watermark
            }

    def on_log_start(self, log_start_offset: int) -> None:
        """Forget ended transactions that were deleted."""
        if self._unreplicated:
            self._unreplicated = {
                first: done for first, done in self._unreplicated.items() if done.last_offset >= log_start_offset
            }
        self.end_offset = max(self.end_offset, log_start_offset)

    @property
    def has_transactions(self) -> bool:
        """Whether anything holds back the last stable offset."""
        return bool(self._open or self._unreplicated)

    @property
    def first_unstable_offset(self) -> int | None:
        """The first offset of a transaction that is open, or ended by a marker above the high watermark."""
        if not self._open and not self._unreplicated:
            return None
        # First offsets grow, and dictionaries keep their order, but a snapshot may list them in any.
        return min(min(self._open, default=1 << 63), min(self._unreplicated, default=1 << 63))

    def is_expired(self, entry: ProducerEntry, now_ms: int) -> bool:
        """Whether a producer was silent for `producer.id.expiration.ms`; never inside a transaction."""
        if entry.current_txn_first_offset >= 0:
            return False
        return now_ms - max(entry.last_timestamp, entry.last_seen_ms) >= self._expiration_ms

    def active(self) -> list[ProducerEntry]:
        """Return all producers, for DescribeProducers."""
        return list(self.entries.values())

    def set_expiration(self, expiration_ms: int) -> None:
        """Change `producer.id.expiration.ms` while running."""
        self._expiration_ms = expiration_ms

    def remove_expired(self, now_ms: int) -> int:
        """Forget silent producers; return how many."""
        expired = [entry.producer_id for entry in self.entries.values() if self.is_expired(entry, now_ms)]
        for producer_id in expired:
            del self.entries[producer_id]
        for guard in list(self._guards.values()):
            if now_ms - guard.taken_ms >= self._expiration_ms:
                self._guards.pop(guard.producer_id, None)
        return len(expired)

    def clear(self, end_offset: int) -> None:
        """Forget everything."""
        self.entries.clear()
        self._open.clear()
        self._unreplicated.clear()
        self._guards.clear()
        self.end_offset = end_offset

    # Snapshots

    def snapshot(self) -> bytes:
        """Return the content of a .snapshot file: of each producer its batches, the last one with all else that is known."""
        rows: list[bytes] = []
        for producer_id, entry in self.entries.items():
            # No newer than the last one, or a reader that drops what has expired could keep an earlier one and not that.
            rows += [
                _SNAPSHOT_ENTRY.pack(
                    producer_id,
                    entry.producer_epoch,
                    kept.last_sequence,
                    kept.last_offset,
                    kept.offset_delta,
                    min(kept.timestamp, entry.last_timestamp),
                    entry.coordinator_epoch,
                    -1,
                )
                for kept in entry.batches[:-1]
            ]
            last = entry.batches[-1] if entry.batches else None
            rows.append(
                _SNAPSHOT_ENTRY.pack(
                    producer_id,
                    entry.producer_epoch,
                    last.last_sequence if last else NO_SEQUENCE,
                    last.last_offset if last else -1,
                    last.offset_delta if last else 0,
                    entry.last_timestamp,
                    entry.coordinator_epoch,
                    entry.current_txn_first_offset,
                )
            )
        body = b"".join((struct.pack(">i", len(rows)), *rows))
        return struct.pack(">hI", SNAPSHOT_VERSION, crc32c(body)) + body

    def load(self, data: bytes, end_offset: int, now_ms: int) -> None:
        """Replace everything by a snapshot taken at `end_offset`; producers count as seen now.

        Raises:
            SnapshotError: the content is damaged or of another version. Nothing is changed.
        """
        entries = list(read_snapshot(data))
        self.clear(end_offset)
        for entry in entries:
            entry.last_seen_ms = now_ms
            self.entries[entry.producer_id] = entry
            if entry.current_txn_first_offset >= 0:
                self._open[entry.current_txn_first_offset] = entry.producer_id


def read_snapshot(data: bytes) -> Iterable[ProducerEntry]:
    """Return the producers of a .snapshot file.

    Raises:
        SnapshotError: the content is damaged or of another version.
    """
    if len(data) < _SNAPSHOT_HEADER.size:
        raise SnapshotError(f"only {len(data)} bytes")
    version, crc, count = _SNAPSHOT_HEADER.unpack_from(data)
    if version != SNAPSHOT_VERSION:
        raise SnapshotError(f"version {version}, this release reads {SNAPSHOT_VERSION}")
    if crc32c(memoryview(data)[_CRC_START:]) != crc:
        raise SnapshotError("the CRC is wrong")
    if len(data) != _SNAPSHOT_HEADER.size + count * _SNAPSHOT_ENTRY.size:
        raise SnapshotError(f"{len(data)} bytes for {count} rows")
    entries: dict[int, ProducerEntry] = {}
    for fields in _SNAPSHOT_ENTRY.iter_unpack(memoryview(data)[_SNAPSHOT_HEADER.size :]):
        producer_id, epoch, last_sequence, last_offset, delta, timestamp, coordinator_epoch, first = fields
        entry = ProducerEntry(
            producer_id,
            epoch,
            last_timestamp=timestamp,
            coordinator_epoch=coordinator_epoch,
            current_txn_first_offset=first,
        )
        before = entries.get(producer_id)
        if before is not None and before.producer_epoch == epoch:
            entry.batches += before.batches[1 - BATCHES_KEPT :]
        # Kafka keeps a batch if its offset is known: a producer that only ended a transaction has none.
        if last_offset >= 0:
            batch = BatchMetadata(last_sequence, last_offset, delta, timestamp)
            follows = bool(entry.batches) and batch.first_sequence == (entry.last_sequence + 1) & MAX_SEQUENCE
            entry.run_start = before.run_start if before is not None and follows else batch.first_sequence
            entry.batches.append(batch)
        entries[producer_id] = entry
    return entries.values()
