"""Records of `__share_group_state`: built, encoded, decoded.

Key: int16 record type, group, topic id, partition. Type 0 is a snapshot (everything that is known), type 1 an update of the
snapshot before it. Value: int16 version 0 and the state; a snapshot without a value takes the share partition away. Kafka's
kafka-dump-log reads them with `--share-group-state-decoder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.broker.coordinators.record_codec import RecordCodec
from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.broker.coordinators.share.batches import StateBatch
from ottla.protocol.messages import share_records
from ottla.protocol.messages.share_records import (
    ShareSnapshotKey,
    ShareSnapshotValue,
    ShareUpdateKey,
    ShareUpdateValue,
)
from ottla.types import uuid_to_text

if TYPE_CHECKING:
    from collections.abc import Iterable

VALUE_VERSION: Final = 0
_CODEC: Final = RecordCodec(
    {
        ShareSnapshotKey.API_KEY: (ShareSnapshotKey, ShareSnapshotValue),
        ShareUpdateKey.API_KEY: (ShareUpdateKey, ShareUpdateValue),
    }
)
encode = _CODEC.encode
decode = _CODEC.decode


class ShareKey(NamedTuple):
    """One partition of a topic, as one share group sees it."""

    group_id: str
    topic_id: bytes
    partition: int

    @property
    def coordinator_key(self) -> str:
        """The text by which the share coordinator is found."""
        return f"{self.group_id}:{uuid_to_text(self.topic_id)}:{self.partition}"


class ShareState(NamedTuple):
    """What is known of a share partition.

    `updates`, `highest_leader_epoch` and `highest_state_epoch` are not written: they follow from the records.

    Attributes:
        start_offset: -1 until a member has fetched.
        delivery_complete_count: records at or above the start offset that will not be delivered again; -1 if unknown.
        updates: updates since the last snapshot.
        snapshot_offset: where the last snapshot is in the log.
    """

    snapshot_epoch: int
    state_epoch: int
    leader_epoch: int
    start_offset: int
    delivery_complete_count: int
    batches: tuple[StateBatch, ...]
    created_ms: int
    written_ms: int
    updates: int = 0
    highest_leader_epoch: int = 0
    highest_state_epoch: int = 0
    snapshot_offset: int = -1


def snapshot(key: ShareKey, state: ShareState) -> CoordinatorRecord:
    """Return the record of everything that is known."""
    value = ShareSnapshotValue(
        snapshot_epoch=state.snapshot_epoch,
        state_epoch=state.state_epoch,
        leader_epoch=state.leader_epoch,
        start_offset=state.start_offset,
        delivery_complete_count=state.delivery_complete_count,
        create_timestamp=state.created_ms,
        write_timestamp=state.written_ms,
        state_batches=_written(state.batches),
    )
    return CoordinatorRecord(
        ShareSnapshotKey(group_id=key.group_id, topic_id=key.topic_id, partition=key.partition), value, VALUE_VERSION
    )


def update(
    key: ShareKey,
    *,
    snapshot_epoch: int,
    leader_epoch: int,
    start_offset: int,
    delivery_complete_count: int,
    batches: Iterable[StateBatch],
) -> CoordinatorRecord:
    """Return the record of what has changed; `start_offset` -1 keeps it."""
    value = ShareUpdateValue(
        snapshot_epoch=snapshot_epoch,
        leader_epoch=leader_epoch,
        start_offset=start_offset,
        delivery_complete_count=delivery_complete_count,
        state_batches=_written(batches),
    )
    return CoordinatorRecord(
        ShareUpdateKey(group_id=key.group_id, topic_id=key.topic_id, partition=key.partition), value, VALUE_VERSION
    )


def tombstone(key: ShareKey) -> CoordinatorRecord:
    """Return the record that takes a share partition away."""
    return CoordinatorRecord(
        ShareSnapshotKey(group_id=key.group_id, topic_id=key.topic_id, partition=key.partition), None
    )


def _written(batches: Iterable[StateBatch]) -> list[share_records.StateBatch]:
    return [
        share_records.StateBatch(
            first_offset=batch.first,
            last_offset=batch.last,
            delivery_state=batch.state,
            delivery_count=batch.deliveries,
        )
        for batch in batches
    ]


def read_batches(batches: Iterable[share_records.StateBatch]) -> tuple[StateBatch, ...]:
    """Return the batches of a record as values."""
    return tuple(
        StateBatch(batch.first_offset, batch.last_offset, batch.delivery_state, batch.delivery_count)
        for batch in batches
    )
