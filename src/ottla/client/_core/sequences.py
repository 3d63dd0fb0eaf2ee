"""Idempotence: producer id, epoch and sequences (KIP-98, KIP-360): a retry is never written twice nor out of order.

Works on the numbers in `PartitionQueue`. Knows no requests; it is told how batches fared and says whether they may be
sent.

  * A batch keeps its sequence through all retries. Five batches of a partition may be in flight; one that has to be
    sent again goes first, and others that have a sequence wait for it.
  * A batch that was refused for good leaves a gap: once what is ahead of it has an outcome, the epoch is raised, and
    what is behind it is numbered from 0. It cannot have been written.
  * A batch that was given up without an answer may have been written or not. No new batch is sent until all others of
    the partition have an outcome; if the last acknowledged sequence is the last one given, all is well, otherwise the
    epoch is raised.
  * The first batch of a partition goes alone: brokers take any sequence of a producer they do not know, so that a
    second batch would be written although the first one was refused for the moment.
  * Partitions take a new epoch up when nothing of the old one is in flight.
"""

from __future__ import annotations

from collections.abc import Iterable

from ottla.client._core.accumulator import PartitionQueue
from ottla.client._core.batch import Batch
from ottla.protocol.records.batch import MAX_SEQUENCE, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, increment_sequence

#: Batches of a partition whose sequences a broker remembers (KIP-98).
IN_FLIGHT_MAX = 5
EPOCH_MAX = 32_767


class Sequences:
    """The producer's identity and what follows from it.

    Attributes:
        producer_id, epoch: -1 while there is none.
        transactional: epochs are then raised by the transaction coordinator, never here.
    """

    producer_id: int
    epoch: int

    def __init__(self, *, transactional: bool) -> None:
        self.producer_id = NO_PRODUCER_ID
        self.epoch = NO_PRODUCER_EPOCH
        self.transactional = transactional
        self._gaps: dict[PartitionQueue, tuple[int, ...]] = {}
        self._unresolved: dict[PartitionQueue, None] = {}
        self._touched: dict[PartitionQueue, None] = {}

    @property
    def has_identity(self) -> bool:
        return self.producer_id != NO_PRODUCER_ID

    @property
    def is_unsettled(self) -> bool:
        """Whether `settle` has something to do, or will have."""
        return bool(self._gaps or self._unresolved)

    def set_identity(self, producer_id: int, epoch: int) -> None:
        """Take an identity that a coordinator gave out."""
        self.producer_id = producer_id
        self.epoch = epoch

    def start_over(self) -> None:
        """A new epoch of a transactional id: every partition begins with sequence 0. Nothing may be in flight."""
        for queue in self._touched:
            assert not queue.in_flight, (queue.topic, queue.partition)
            self._begin(queue)
        self._unresolved.clear()

    # -- sending ----------------------------------------------------------------------------------------------------

    def may_send(self, queue: PartitionQueue, batch: Batch) -> bool:
        """Return whether the first batch of a queue may go out now."""
        if batch.has_sequence:
            return queue.in_flight[0] is batch  # a retry waits until everything ahead of it has an outcome
        if queue.unresolved or len(queue.in_flight) >= IN_FLIGHT_MAX:
            return False
        if not queue.known and queue.in_flight:
            return False
        if queue in self._gaps:
            return False
        stale = (queue.producer_id, queue.epoch) != (self.producer_id, self.epoch)
        return not (stale and queue.in_flight)

    def assign(self, batch: Batch) -> None:
        """Give a batch that goes out for the first time its sequence."""
        queue = batch.queue
        if batch.has_sequence:
            return
        if (queue.producer_id, queue.epoch) != (self.producer_id, self.epoch):
            self._begin(queue)
        batch.set_producer(self.producer_id, self.epoch, queue.next_sequence)
        queue.next_sequence = increment_sequence(queue.next_sequence, batch.count)
        queue.in_flight.append(batch)
        self._touched[queue] = None

    def _begin(self, queue: PartitionQueue) -> None:
        queue.known &= queue.producer_id == self.producer_id
        queue.producer_id = self.producer_id
        queue.epoch = self.epoch
        queue.next_sequence = 0
        queue.last_acked_sequence = -1
        queue.unresolved = False

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def is_next(self, batch: Batch) -> bool:
        """Return whether everything ahead of a batch was acknowledged."""
        return batch.base_sequence == increment_sequence(batch.queue.last_acked_sequence, 1)

    def on_acknowledged(self, batch: Batch, base_offset: int) -> None:
        """A batch was written."""
        queue = batch.queue
        self._remove(batch)
        queue.known |= batch.producer_id == queue.producer_id
        if batch.producer_epoch != queue.epoch or batch.producer_id != queue.producer_id:
            return
        last = batch.last_sequence
        # Newer than the last one, also where the numbers begin anew after 2^31-1.
        if queue.last_acked_sequence < 0 or 0 < (last - queue.last_acked_sequence) & MAX_SEQUENCE < MAX_SEQUENCE // 2:
            queue.last_acked_sequence = last
        if base_offset >= 0:
            queue.last_acked_offset = max(queue.last_acked_offset, base_offset + batch.count - 1)

    def on_split(self, batch: Batch, parts: Iterable[Batch]) -> None:
        """A batch was split; its parts take its place."""
        queue = batch.queue
        if batch in queue.in_flight:
            place = queue.in_flight.index(batch)
            queue.in_flight[place : place + 1] = parts

    def on_failed(self, batch: Batch) -> None:
        """A batch failed for good. Was it surely not written, its sequences are missing now; else its fate is unknown."""
        queue = batch.queue
        if not batch.has_sequence or batch not in queue.in_flight:
            return
        if batch.doubtful:
            self._remove(batch)
            queue.unresolved = True
            self._unresolved[queue] = None
            return
        later = queue.in_flight[queue.in_flight.index(batch) + 1 :]
        self._remove(batch)
        if not self.transactional:
            self.request_bump(batch)
            return
        # The transaction is aborted anyway; until then what follows is numbered as if the batch had never been.
        if (batch.producer_id, batch.producer_epoch) != (queue.producer_id, queue.epoch):
            return
        for other in later:
            sequence = (other.base_sequence - batch.count) & MAX_SEQUENCE
            other.set_producer(other.producer_id, other.producer_epoch, sequence)
        queue.next_sequence = (queue.next_sequence - batch.count) & MAX_SEQUENCE

    def request_bump(self, batch: Batch) -> None:
        """From this batch on the partition has to begin anew in another epoch.

        It was refused for good, or the broker misses records that were acknowledged, or has forgotten the producer.
        What is ahead of
        it keeps its sequences, and is waited for: it may have been written.
        """
        if not self.transactional:
            known = self._gaps.get(batch.queue)
            self._gaps[batch.queue] = batch.order if known is None else min(known, batch.order)

    def restart(self, queue: PartitionQueue) -> None:
        """The broker forgot this transactional producer: number what is in flight of the partition from 0."""
        self._renumber(queue)

    def settle(self) -> list[PartitionQueue]:
        """Settle what can be, raise the epoch if that is needed.

        Returns:
            Transactional producers only: partitions of which records may be missing; the transaction has to be aborted.
        """
        doubtful: list[PartitionQueue] = []
        for queue in list(self._unresolved):
            if queue.in_flight:
                continue
            del self._unresolved[queue]
            queue.unresolved = False
            if queue.next_sequence == increment_sequence(queue.last_acked_sequence, 1):
                continue
            if self.transactional:
                doubtful.append(queue)
            else:
                self._gaps[queue] = (0,)
        ready = [queue for queue, gap in self._gaps.items() if not queue.in_flight or queue.in_flight[0].order >= gap]
        if ready and self.has_identity:
            if self.epoch >= EPOCH_MAX:
                # Epochs are used up: the next identity comes from a broker, and partitions begin anew with it.
                self.producer_id, self.epoch = NO_PRODUCER_ID, NO_PRODUCER_EPOCH
                return doubtful
            self.epoch += 1
            for queue in ready:
                del self._gaps[queue]
                self._unresolved.pop(queue, None)
                self._renumber(queue)
        return doubtful

    def _renumber(self, queue: PartitionQueue) -> None:
        self._begin(queue)
        for batch in queue.in_flight:
            batch.set_producer(self.producer_id, self.epoch, queue.next_sequence)
            queue.next_sequence = increment_sequence(queue.next_sequence, batch.count)

    def _remove(self, batch: Batch) -> None:
        if batch in batch.queue.in_flight:
            batch.queue.in_flight.remove(batch)
