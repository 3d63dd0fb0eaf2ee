"""ShareCoordinator: the state machine of one partition of `__share_group_state`.

Remembers for every share partition where its window starts and what was delivered how often. Requests in, records and
answers out, `replay` back. Knows no log, no loop, no clock; one instance per partition that this broker leads, driven by
`coordinators.runtime`. What it cannot do itself, deleting records that are of no use any more, it asks for through `prune`.

Two epochs fence: the leader epoch of the topic partition (a leader that has lost its role may not write) and the state epoch
(initialising the state anew, by altering or deleting offsets, shuts out share partitions of before). KIP-932.

Invariants: an update follows the snapshot it belongs to; nothing at or above the oldest snapshot that counts is pruned.
Kafka's ShareCoordinatorShard decides the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ottla.broker.coordinators.shard import CoordinatorRecord, DeletedTopic, Result
from ottla.broker.coordinators.share import records
from ottla.broker.coordinators.share.batches import StateBatch, combine
from ottla.broker.coordinators.share.records import ShareKey, ShareState
from ottla.broker.coordinators.timeline import TimelineDict
from ottla.errors import (
    FencedLeaderEpochError,
    FencedStateEpochError,
    InvalidRequestError,
    UnknownTopicOrPartitionError,
)
from ottla.protocol.messages.share_records import (
    ShareSnapshotKey,
    ShareSnapshotValue,
    ShareUpdateKey,
    ShareUpdateValue,
)

if TYPE_CHECKING:
    from ottla.broker.coordinators.shard import Timers
    from ottla.broker.coordinators.share.config import ShareCoordinatorConfig
    from ottla.broker.coordinators.timeline import Timeline
    from ottla.cluster.image import ClusterImage, ImageDelta
    from ottla.errors import KafkaError

NO_EPOCH: Final = -1
NO_OFFSET: Final = -1
UNKNOWN_COUNT: Final = -1
#: The epochs of a share partition that was never initialised (Kafka's PartitionFactory).
DEFAULT_EPOCH: Final = 0

_PRUNE_TIMER = ("prune",)
_SNAPSHOT_TIMER = ("cold-snapshots",)


class Write(NamedTuple):
    """What the leader of a share partition wants to have remembered."""

    state_epoch: int
    leader_epoch: int
    start_offset: int
    delivery_complete_count: int
    batches: Sequence[StateBatch]


class Summary(NamedTuple):
    """What is known of a share partition without its batches."""

    state_epoch: int
    leader_epoch: int
    start_offset: int
    delivery_complete_count: int


def lag_of(start_offset: int, delivery_complete_count: int, high_watermark: int) -> int:
    """Return how many records of a share partition are not finished yet (KIP-1226); -1 if that is not known."""
    if start_offset == NO_OFFSET or delivery_complete_count == UNKNOWN_COUNT:
        return -1
    return high_watermark - start_offset - delivery_complete_count


class SharePartitionNotFoundError(UnknownTopicOrPartitionError):
    """The partition asked about does not exist; not to be taken for trouble with the coordinator's own topic."""


class ShareCoordinator:
    """The share partitions of one partition of the topic.

    Args:
        partition_count_of: how many partitions the topic of this id has, 0 if there is none.
        prune: called with the partition and an offset: records before it are of no use.
    """

    def __init__(
        self,
        partition: int,
        timeline: Timeline,
        timers: Timers,
        *,
        config: ShareCoordinatorConfig,
        partition_count_of: Callable[[bytes], int],
        prune: Callable[[int, int], None],
    ) -> None:
        self.partition = partition
        self._timers = timers
        self._config = config
        self._partition_count_of = partition_count_of
        self._prune = prune
        self._pruned = 0
        self.states: TimelineDict[ShareKey, ShareState] = TimelineDict(timeline)
        #: Where the newest tombstone is: with no share partition left, everything before it is of no use.
        self._tombstones: TimelineDict[str, int] = TimelineDict(timeline)

    # --------------------------------------------------------------- requests

    def initialize(self, key: ShareKey, state_epoch: int, start_offset: int, now_ms: int) -> Result[None]:
        """Handle an InitializeShareGroupState of one partition: forget what was, begin at `start_offset`.

        Raises:
            KafkaError: INVALID_REQUEST, FENCED_STATE_EPOCH, UNKNOWN_TOPIC_OR_PARTITION.
        """
        _check_partition(key)
        known = self.states.get(key)
        if known is not None and state_epoch != NO_EPOCH and known.highest_state_epoch > state_epoch:
            raise FencedStateEpochError()
        self._check_exists(key)
        state = ShareState(
            snapshot_epoch=0 if known is None else known.snapshot_epoch + 1,
            state_epoch=state_epoch,
            leader_epoch=DEFAULT_EPOCH,
            start_offset=start_offset,
            delivery_complete_count=UNKNOWN_COUNT if start_offset == NO_OFFSET else 0,
            batches=(),
            created_ms=now_ms,
            written_ms=now_ms,
        )
        return Result(None, [records.snapshot(key, state)])

    def read(self, key: ShareKey, leader_epoch: int, now_ms: int) -> Result[ShareState]:
        """Handle a ReadShareGroupState of one partition; a newer leader epoch is remembered.

        Raises:
            KafkaError: INVALID_REQUEST, FENCED_LEADER_EPOCH, UNKNOWN_TOPIC_OR_PARTITION.
        """
        _check_partition(key)
        known = self.states.get(key)
        if known is None:
            raise InvalidRequestError("Read operation on uninitialized share partition not allowed.")
        _check_leader(known, leader_epoch)
        self._check_exists(key)
        if leader_epoch in (NO_EPOCH, known.highest_leader_epoch):
            return Result(known, barrier=True)
        write = Write(known.state_epoch, leader_epoch, known.start_offset, known.delivery_complete_count, ())
        return Result(known, [self._record(key, known, write, leader_epoch, now_ms)])

    def write(self, key: ShareKey, write: Write, now_ms: int) -> Result[None]:
        """Handle a WriteShareGroupState of one partition.

        Raises:
            KafkaError: INVALID_REQUEST, FENCED_LEADER_EPOCH, FENCED_STATE_EPOCH, UNKNOWN_TOPIC_OR_PARTITION.
        """
        _check_partition(key)
        known = self.states.get(key)
        if known is None:
            raise InvalidRequestError("Write operation on uninitialized share partition not allowed.")
        _check_leader(known, write.leader_epoch)
        if write.state_epoch != NO_EPOCH and known.highest_state_epoch > write.state_epoch:
            raise FencedStateEpochError()
        self._check_exists(key)
        return Result(None, [self._record(key, known, write, known.leader_epoch, now_ms)])

    def delete(self, key: ShareKey) -> Result[None]:
        """Handle a DeleteShareGroupState of one partition; what is not there is deleted already.

        Raises:
            KafkaError: INVALID_REQUEST, UNKNOWN_TOPIC_OR_PARTITION.
        """
        _check_partition(key)
        self._check_exists(key)
        if key not in self.states:
            return Result(None, barrier=True)
        return Result(None, [records.tombstone(key)])

    def summarize(self, key: ShareKey) -> Summary:
        """Handle a ReadShareGroupStateSummary of one partition, from what is committed.

        Raises:
            KafkaError: INVALID_REQUEST, UNKNOWN_TOPIC_OR_PARTITION.
        """
        _check_partition(key)
        self._check_exists(key)
        known = self.states.get_committed(key)
        if known is None:
            return Summary(DEFAULT_EPOCH, DEFAULT_EPOCH, NO_OFFSET, UNKNOWN_COUNT)
        return Summary(known.state_epoch, known.leader_epoch, known.start_offset, known.delivery_complete_count)

    def _check_exists(self, key: ShareKey) -> None:
        if self._partition_count_of(key.topic_id) <= key.partition:
            raise SharePartitionNotFoundError()

    def _record(
        self, key: ShareKey, known: ShareState, write: Write, leader_epoch: int, now_ms: int
    ) -> CoordinatorRecord:
        """Return an update, or a snapshot once there have been enough updates."""
        if known.updates < self._config.updates_per_snapshot:
            return records.update(
                key,
                snapshot_epoch=known.snapshot_epoch,
                leader_epoch=leader_epoch,
                start_offset=write.start_offset,
                delivery_complete_count=write.delivery_complete_count,
                batches=combine((), write.batches, write.start_offset),
            )
        start_offset = known.start_offset if write.start_offset == NO_OFFSET else write.start_offset
        return records.snapshot(
            key,
            known._replace(
                snapshot_epoch=known.snapshot_epoch + 1,
                leader_epoch=leader_epoch,
                start_offset=start_offset,
                delivery_complete_count=write.delivery_complete_count,
                batches=tuple(combine(known.batches, write.batches, start_offset)),
                created_ms=now_ms,
                written_ms=now_ms,
            ),
        )

    # ----------------------------------------------------------------- timers

    def snapshot_cold(self, now_ms: int) -> Result[None]:
        """Write the snapshots of share partitions again that have not been written for long.

        An old snapshot holds up pruning. If all of them are cold already, nothing grows and nothing is written.
        """
        self._timers.schedule(_SNAPSHOT_TIMER, self._config.cold_snapshot_interval_ms, self.snapshot_cold)
        items = self.states.items()
        if all(state.created_ms != state.written_ms for _, state in items):
            return Result(None)
        written = [
            records.snapshot(key, state._replace(snapshot_epoch=state.snapshot_epoch + 1, written_ms=now_ms))
            for key, state in items
            if now_ms - state.written_ms >= self._config.cold_snapshot_interval_ms
        ]
        return Result(None, written, atomic=False)

    def prune(self, now_ms: int) -> Result[None]:
        """Ask for the deletion of the records before the oldest snapshot that counts."""
        self._timers.schedule(_PRUNE_TIMER, self._config.prune_interval_ms, self.prune)
        before = self.redundant_before()
        if before > self._pruned:
            self._pruned = before
            self._prune(self.partition, before)
        return Result(None)

    def redundant_before(self) -> int:
        """Return the offset before which no record is needed; 0 if there is none."""
        committed = self.states.items_committed()
        if committed:
            return min(state.snapshot_offset for _, state in committed)
        return self._tombstones.get_committed("") or 0

    # ----------------------------------------------------------- shard's part

    encode = staticmethod(records.encode)
    decode = staticmethod(records.decode)

    def replay(self, offset: int, producer_id: int, record: CoordinatorRecord) -> None:
        """Apply a record to the durable state."""
        key, value, _ = record
        assert isinstance(key, ShareSnapshotKey | ShareUpdateKey)
        share_key = ShareKey(key.group_id, key.topic_id, key.partition)
        known = self.states.get(share_key)
        if isinstance(value, ShareSnapshotValue):
            self.states[share_key] = self._after_snapshot(known, value, offset)
        elif isinstance(value, ShareUpdateValue):
            self.states[share_key] = _after_update(known, value, offset)
        elif isinstance(key, ShareSnapshotKey):
            self.states.pop(share_key)
            self._tombstones[""] = offset

    def _after_snapshot(self, known: ShareState | None, value: ShareSnapshotValue, offset: int) -> ShareState:
        updates = 0 if known is None else known.updates
        return ShareState(
            snapshot_epoch=value.snapshot_epoch,
            state_epoch=value.state_epoch,
            leader_epoch=value.leader_epoch,
            start_offset=value.start_offset,
            delivery_complete_count=value.delivery_complete_count,
            batches=records.read_batches(value.state_batches),
            created_ms=value.create_timestamp,
            written_ms=value.write_timestamp,
            updates=0 if updates >= self._config.updates_per_snapshot else updates,
            highest_leader_epoch=max(
                value.leader_epoch, DEFAULT_EPOCH if known is None else known.highest_leader_epoch
            ),
            highest_state_epoch=max(value.state_epoch, NO_EPOCH if known is None else known.highest_state_epoch),
            snapshot_offset=offset,
        )

    def replay_end_transaction(self, producer_id: int, committed: bool) -> None:
        """Nothing: records of this topic are written outside of transactions."""

    def on_loaded(self, now_ms: int) -> None:
        """Set the timers."""
        self._timers.schedule(_PRUNE_TIMER, self._config.prune_interval_ms, self.prune)
        self._timers.schedule(_SNAPSHOT_TIMER, self._config.cold_snapshot_interval_ms, self.snapshot_cold)

    def on_unloaded(self, now_ms: int) -> None:
        """Nothing: no request is parked here."""

    def on_rolled_back(self, discarded: Sequence[Any], error: KafkaError) -> None:
        """All state is on the timeline."""

    def on_topics_deleted(self, topics: Sequence[DeletedTopic], now_ms: int) -> Result[None]:
        """Forget the share partitions of these topics."""
        gone = {topic.topic_id for topic in topics}
        return Result(None, [records.tombstone(key) for key in self.states if key.topic_id in gone], atomic=False)

    def on_image(self, image: ClusterImage, delta: ImageDelta, now_ms: int) -> Result[None]:
        """What exists is asked when it matters."""
        return Result(None)


def _after_update(known: ShareState | None, value: ShareUpdateValue, offset: int) -> ShareState:
    if known is None:
        # Its snapshot is missing: a log that was cut. What is here is better than nothing.
        known = ShareState(
            snapshot_epoch=value.snapshot_epoch,
            state_epoch=DEFAULT_EPOCH,
            leader_epoch=value.leader_epoch,
            start_offset=value.start_offset,
            delivery_complete_count=value.delivery_complete_count,
            batches=(),
            created_ms=-1,
            written_ms=-1,
            snapshot_offset=offset,
        )
    start_offset = known.start_offset if value.start_offset == NO_OFFSET else value.start_offset
    leader_epoch = known.leader_epoch if value.leader_epoch == NO_EPOCH else value.leader_epoch
    return known._replace(
        leader_epoch=leader_epoch,
        start_offset=start_offset,
        delivery_complete_count=value.delivery_complete_count,
        batches=tuple(combine(known.batches, records.read_batches(value.state_batches), start_offset)),
        updates=known.updates + 1,
        highest_leader_epoch=max(known.highest_leader_epoch, value.leader_epoch),
    )


def _check_partition(key: ShareKey) -> None:
    if key.partition < 0:
        raise InvalidRequestError("The partition id cannot be a negative number.")


def _check_leader(known: ShareState, leader_epoch: int) -> None:
    if leader_epoch != NO_EPOCH and known.highest_leader_epoch > leader_epoch:
        raise FencedLeaderEpochError()
