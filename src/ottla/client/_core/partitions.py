"""What a consumer's core knows of one partition that it reads: where it is, what waits to be taken, what went wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from ottla.client._core.handing import Position
from ottla.types import TopicPartition

#: A place beside those of ListOffsets: where the group has committed.
COMMITTED: Final = -100
NO_EPOCH: Final = -1


class Chunk(NamedTuple):
    """What one Fetch answer has of a partition: whole batches, and perhaps a part of one at the end.

    Attributes:
        state: the partition.
        generation: of its position when this was asked for; a seek makes it stale.
        offset: the first offset that is wanted: a batch may begin before it.
        records: a view of the answer's memory.
        aborted: (producer id, first offset) of aborted transactions in it, by offset.
    """

    state: PartitionState
    generation: int
    offset: int
    records: memoryview
    aborted: Sequence[tuple[int, int]]


class PartitionState(Position):
    """One assigned partition; `Position` has more of it.

    Attributes:
        position_epoch: the leader epoch of the batch before `position`; -1 if that is not known.
        fetch_offset: the offset to fetch next; ahead of `position` by what waits in chunks.
        fetch_epoch: the leader epoch of the batch before `fetch_offset`.
        leader_epoch: of the leader under which `fetch_offset` is known to be right (KIP-320).
        validating: whether a leader is being asked about that.
        wanted: the time or place that is asked for while `position` is None.
        resume: (what the group had committed, where to go on) if this was given up only for being slow.
        committed: what the group has committed, as far as this member knows; -1: nothing, None: unknown.
        base: where `position` was when it was last sought or committed.
        read_replica, read_replica_until_ms: a follower that the leader says is nearer (KIP-392); -1 for none.
        high_watermark, last_stable_offset, log_start_offset: as the last answer told them; -1 before.
        end_asked_ms: when the request was sent that this answered (monotonic ms); what was written by then is below them.
        error: what the next take raises.
    """

    __slots__ = (
        "base",
        "chunks",
        "committed",
        "end_asked_ms",
        "error",
        "failures",
        "fetch_epoch",
        "fetch_offset",
        "high_watermark",
        "in_flight",
        "last_stable_offset",
        "leader_epoch",
        "log_start_offset",
        "position_epoch",
        "read_replica",
        "read_replica_until_ms",
        "resume",
        "retry_ms",
        "topic_partition",
        "validating",
        "wanted",
    )

    base: int
    fetch_epoch: int
    fetch_offset: int
    generation: int  # of Position
    high_watermark: int
    last_stable_offset: int
    leader_epoch: int
    log_start_offset: int
    position_epoch: int

    def __init__(self, topic_partition: TopicPartition, wanted: int | None) -> None:
        super().__init__()
        self.topic_partition: TopicPartition = topic_partition
        self.position_epoch = self.fetch_epoch = self.leader_epoch = NO_EPOCH
        self.fetch_offset = self.base = 0
        self.validating: bool = False
        self.wanted = wanted
        self.resume: tuple[int | None, int] | None = None
        self.committed: int | None = None
        self.chunks: deque[Chunk] = deque()
        self.in_flight: bool = False
        self.read_replica: int = -1
        self.read_replica_until_ms: float = 0.0
        self.high_watermark = self.last_stable_offset = self.log_start_offset = -1
        self.end_asked_ms: float = 0.0
        self.retry_ms: float = 0.0
        self.failures: int = 0
        self.error: Exception | None = None

    def seek(self, offset: int, leader_epoch: int = NO_EPOCH) -> None:
        """Go to an offset; what was fetched is dropped."""
        self.generation += 1
        self.position = self.fetch_offset = self.base = offset
        self.position_epoch = self.fetch_epoch = leader_epoch
        self.leader_epoch = NO_EPOCH
        self.validating = False
        self.wanted = None
        self.chunks.clear()
        self.error = None
        self.retry_ms = 0.0
        self.failures = 0

    def seek_to(self, place: int | None) -> None:
        """Go to a time, to an end of the log or to what is committed, which a broker has to be asked for."""
        self.seek(-1)
        self.position = None
        self.wanted = place
