"""Batches of idempotent producers that were refused for the moment: what comes behind one is refused for the same reason.

Producers have several batches on their way. If one cannot be appended just now (no space is left, too few replicas are in
sync, the leader is another broker) and the next one comes when it could be, that one would be out of order. It is: but a
producer takes OUT_OF_ORDER_SEQUENCE_NUMBER for lost records. librdkafka then begins a new epoch for all its partitions and
sends again what it has no answer for, under new sequences: records that were appended are there twice. The reason of the
first refusal makes it try all of them again, in order. A producer that is not known to the partition may begin with any
sequence: there the second batch would even be appended, and the first could never be.

Knows no log: it is asked with what a log knows of the producer. Kafka has nothing like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla.errors import KafkaError, error_for
from ottla.protocol.records.batch import HEADER_SIZE, MAGIC, MAGIC_POSITION, MAX_SEQUENCE, BatchHeader, read_header

if TYPE_CHECKING:
    from ottla.protocol.primitives import Buffer
    from ottla.storage.producer_state import ProducerEntry
    from ottla.types import TopicPartition

#: Of so many producers and partitions the last refusal is remembered.
REMEMBERED_MAX = 1_000
#: So many batches are refused because of one. A producer that leaves the refused one out hears in the end that it is missing.
FOLLOWERS_MAX = 100


@dataclass(slots=True)
class _Refusal:
    """The first batch of a producer that was refused in one partition."""

    producer_epoch: int
    sequence: int
    code: int
    followers: int = 0


class RefusedBatches:
    """What was refused lately, by partition and producer."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[TopicPartition, int], _Refusal] = {}

    def __bool__(self) -> bool:
        return bool(self._refusals)

    def note(self, topic_partition: TopicPartition, records: Buffer | None, code: int) -> None:
        """A batch was not appended, and is expected again."""
        header = _header(records)
        if header is None:
            return
        key = (topic_partition, header.producer_id)
        known = self._refusals.pop(key, None)
        is_first = (
            known is None
            or known.producer_epoch != header.producer_epoch
            or not _is_behind(header.base_sequence, known.sequence)
        )
        if known is None or is_first:
            known = _Refusal(header.producer_epoch, header.base_sequence, code)
        self._refusals[key] = known
        if len(self._refusals) > REMEMBERED_MAX:
            del self._refusals[next(iter(self._refusals))]

    def why_refused(
        self, topic_partition: TopicPartition, records: Buffer | None, producers: dict[int, ProducerEntry]
    ) -> KafkaError | None:
        """Return why a batch has to wait until one before it has been sent again; None if it has not.

        Args:
            producers: what the partition's log knows, by producer id.
        """
        header = _header(records)
        if header is None:
            return None
        key = (topic_partition, header.producer_id)
        refusal = self._refusals.get(key)
        if refusal is None or refusal.producer_epoch != header.producer_epoch:
            return None
        entry = producers.get(header.producer_id)
        if entry is not None and entry.producer_epoch == header.producer_epoch and entry.batches:
            expected = (entry.last_sequence + 1) & MAX_SEQUENCE
        else:
            expected = refusal.sequence
        if expected != refusal.sequence or refusal.followers >= FOLLOWERS_MAX:
            del self._refusals[key]
            return None
        if not _is_behind(header.base_sequence, refusal.sequence):
            return None
        refusal.followers += 1
        return error_for(
            refusal.code,
            f"{topic_partition}: the batch of sequence {refusal.sequence} has to come first: it was refused",
        )


def _is_behind(sequence: int, other: int) -> bool:
    """Whether a sequence comes after another one; after the largest comes 0."""
    return 0 < (sequence - other) & MAX_SEQUENCE <= MAX_SEQUENCE // 2


def _header(records: Buffer | None) -> BatchHeader | None:
    """Return the header of a batch with a sequence."""
    if records is None or len(records) < HEADER_SIZE or records[MAGIC_POSITION] != MAGIC:
        return None
    header = read_header(records)
    return header if header.producer_id >= 0 and header.base_sequence >= 0 else None
