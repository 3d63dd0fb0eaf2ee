"""Records of `__share_group_state`: built, encoded, decoded.

Key: int16 record type, group, topic id, partition. Type 0 is a snapshot (everything that is known), type 1 an update of the
snapshot before it. Value: int16 version 0 and the state; a snapshot without a value takes the share partition away. Kafka's
kafka-dump-log reads them with `--share-group-state-decoder`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ottla.broker.coordinators.shard import CoordinatorRecord
from ottla.broker.coordinators.share.batches import StateBatch
from ottla.protocol.codec import decoder, encoder
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

    from ottla.protocol.primitives import Buffer
    from ottla.protocol.schema import Message

_INT16 = struct.Struct(">h")
VALUE_VERSION: Final = 0
_TYPES: Final[dict[int, tuple[type[Message], type[Message]]]] = {
    ShareSnapshotKey.API_KEY: (ShareSnapshotKey, ShareSnapshotValue),
    ShareUpdateKey.API_KEY: (ShareUpdateKey, ShareUpdateValue),
}


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


def encode(record: CoordinatorRecord) -> tuple[bytes, bytes | None]:
    """Return key and value as bytes."""
    assert record.key.API_KEY is not None
    parts: list[Buffer] = [_INT16.pack(record.key.API_KEY)]
    encoder(type(record.key), 0)(record.key, parts.append)
    key = b"".join(parts)
    if record.value is None:
        return key, None
    parts = [_INT16.pack(record.value_version)]
    encoder(type(record.value), record.value_version)(record.value, parts.append)
    return key, b"".join(parts)


def decode(key: bytes, value: bytes | None) -> CoordinatorRecord | None:
    """Return the record, or None if its type or version is not known.

    Raises:
        RemoteProtocolError: the bytes do not fit the type.
    """
    if len(key) < 2:
        return None
    types = _TYPES.get(_INT16.unpack_from(key)[0])
    if types is None:
        return None
    decoded_key, _ = decoder(types[0], 0)(key, 2)
    if value is None or len(value) < 2:
        return CoordinatorRecord(decoded_key, None)
    (version,) = _INT16.unpack_from(value)
    lowest, highest = types[1].VERSIONS
    if not lowest <= version <= highest:
        return None
    decoded_value, _ = decoder(types[1], version)(value, 2)
    return CoordinatorRecord(decoded_key, decoded_value, version)
