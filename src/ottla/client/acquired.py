"""The records of a share consumer: acquired, handed out, acknowledged one by one (KIP-932)."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NamedTuple, Self

from ottla.client._core.partitions import Chunk, PartitionState
from ottla.client._core.share_leases import AcquiredChunk, Lease, LeaseState
from ottla.client._core.share_requests import Kind
from ottla.client.consumed import K, Record, Row, Source, V
from ottla.client.reading import ChunkReader
from ottla.errors import CorruptMessageError
from ottla.protocol.records.walk import iter_batches
from ottla.types import IsolationLevel

if TYPE_CHECKING:
    from ottla.client.sharing import ShareConsumerBase


class AcquiredRecord(Record[K, V]):
    """A record that this member of a share group has acquired: no other member gets it while its lock lasts.

        with job:
            work(job.value)      # accepted at the end; released if it raises

    Calls may come from any thread, and wait for nothing: what has become of an acknowledgement goes to `on_acknowledged`.
    """

    __slots__ = ("_consumer", "_lease")

    def __init__(self, source: Source[K, V], row: Row, consumer: ShareConsumerBase[K, V], lease: Lease) -> None:
        super().__init__(source, row)
        self._consumer = consumer
        self._lease = lease

    @property
    def delivery_count(self) -> int:
        """Which delivery of the record this is, from 1. The broker ends at `group.share.delivery.count.limit` (5)."""
        return self._lease.delivery_count

    @property
    def acknowledged(self) -> bool:
        """Whether it was accepted, released or rejected."""
        return self._lease.state is LeaseState.DONE

    def accept(self) -> None:
        """Say that it is done.

        Raises:
            InvalidRecordStateError: it was accepted, released or rejected already.
            ClosedError: the consumer is closed; the broker has released the record.
        """
        self._consumer._acknowledge(self._lease, Kind.ACCEPT)

    def release(self) -> None:
        """Give it back: it is delivered again, to any member. Raises as `accept` does."""
        self._consumer._acknowledge(self._lease, Kind.RELEASE)

    def reject(self) -> None:
        """Say that it cannot be done: no member gets it again. Raises as `accept` does."""
        self._consumer._acknowledge(self._lease, Kind.REJECT)

    def renew(self) -> None:
        """Have its lock begin anew (KIP-1222; Kafka 4.2). `with` does it by itself. Raises as `accept` does."""
        self._consumer._acknowledge(self._lease, Kind.RENEW)

    def __enter__(self) -> Self:
        self._consumer._hold(self._lease)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.acknowledged:
            self._consumer._acknowledge(self._lease, Kind.ACCEPT if kind is None else Kind.RELEASE)

    def __repr__(self) -> str:
        return super().__repr__().replace("<Record ", "<AcquiredRecord ", 1)


class Decoded(NamedTuple, Generic[K, V]):
    """What a chunk holds.

    Attributes:
        gaps: acquired offsets without a record: removed by compaction, or markers of transactions.
        damaged: records of batches that cannot be read; `error` says why.
        left: records that the answer does not hold whole.
    """

    records: list[AcquiredRecord[K, V]]
    gaps: list[Lease]
    damaged: list[Lease]
    left: list[Lease]
    error: Exception | None


def decode(
    chunk: AcquiredChunk,
    consumer: ShareConsumerBase[K, V],
    deserialize_key: Callable[[str, bytes], K] | None,
    deserialize_value: Callable[[str, bytes], V] | None,
) -> Decoded[K, V]:
    """Return the acquired records of a chunk. A damaged batch does not keep those beside it back."""
    topic, partition = chunk.topic_partition
    state = PartitionState(chunk.topic_partition, None)
    unseen = dict(chunk.leases)
    found: Decoded[K, V] = Decoded([], [], [], [], None)
    error: Exception | None = None
    end = 0
    try:
        for position, header in iter_batches(chunk.records, may_be_cut=True):
            end = max(end, header.next_offset)
            batch = Chunk(state, 0, 0, chunk.records[position : position + header.size], ())
            reader = ChunkReader(batch, IsolationLevel.READ_UNCOMMITTED)
            try:
                rows = reader.next_rows() or []
            except CorruptMessageError as problem:
                error = error or problem
                damaged = [offset for offset in unseen if header.base_offset <= offset < header.next_offset]
                found.damaged.extend(unseen.pop(offset) for offset in damaged)
                continue
            source = Source(topic, partition, reader.leader_epoch, deserialize_key, deserialize_value)
            for row in rows:
                lease = unseen.pop(row[0], None)
                if lease is not None:
                    found.records.append(AcquiredRecord(source, row, consumer, lease))
    except ValueError as problem:
        error = CorruptMessageError(f"{chunk.topic_partition} cannot be read behind offset {end}: {problem}")
    for offset, lease in unseen.items():
        (found.gaps if offset < end else found.left).append(lease)
    return found._replace(error=error)
