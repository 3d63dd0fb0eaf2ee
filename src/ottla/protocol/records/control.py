"""Control batches: the markers that end a transaction in a partition's log (KIP-98).

A marker is a batch of one record with the control and transactional attributes, no sequence, key {version i16, type
i16} and value {version i16, coordinator epoch i32}. Consumers never see it; brokers read it when they rebuild producer
state.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import Buffer
from ottla.protocol.records.reader import read_records

_KEY = struct.Struct(">hh")
_VALUE = struct.Struct(">hi")


class ControlType(IntEnum):
    """The type in a control record's key. Types from 2 on belong to KRaft's own log."""

    UNKNOWN = -1
    ABORT = 0
    COMMIT = 1
    LEADER_CHANGE = 2
    SNAPSHOT_HEADER = 3
    SNAPSHOT_FOOTER = 4
    KRAFT_VERSION = 5
    KRAFT_VOTERS = 6


class EndTransactionMarker(NamedTuple):
    """What a marker says: how the transaction ended, and by which incarnation of the coordinator."""

    kind: ControlType
    coordinator_epoch: int


def end_transaction_marker(
    kind: ControlType,
    coordinator_epoch: int,
    *,
    timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    base_offset: int = 0,
    leader_epoch: int = -1,
) -> bytearray:
    """Return the control batch that ends a transaction of this producer."""
    if kind not in (ControlType.ABORT, ControlType.COMMIT):
        raise ValueError(f"{kind.name} ends no transaction")
    record = Record(base_offset, timestamp_ms, _KEY.pack(0, kind), _VALUE.pack(0, coordinator_epoch))
    return build_batch(
        [record],
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        transactional=True,
        control=True,
    )


def control_type(key: bytes | None) -> ControlType:
    """Return the type named by a control record's key; later versions may have more fields, and unknown types occur.

    Raises:
        ValueError: the key is too short or of a negative version.
    """
    if key is None or len(key) < _KEY.size:
        raise ValueError(f"a control record's key needs {_KEY.size} bytes, got {key!r}")
    version, kind = _KEY.unpack_from(key)
    if version < 0:
        raise ValueError(f"control record of version {version}")
    return ControlType(kind) if 0 <= kind <= ControlType.KRAFT_VOTERS else ControlType.UNKNOWN


def read_marker(buffer: Buffer, position: int = 0) -> EndTransactionMarker | None:
    """Return what the control batch at `position` says, or None if it ends no transaction or compaction emptied it.

    Raises:
        ValueError: it is damaged.
    """
    records = read_records(buffer, position)
    if not records:
        return None
    kind = control_type(records[0].key)
    if kind not in (ControlType.ABORT, ControlType.COMMIT):
        return None
    value = records[0].value
    if value is None or len(value) < _VALUE.size:
        raise ValueError(f"a transaction marker's value needs {_VALUE.size} bytes, got {value!r}")
    version, coordinator_epoch = _VALUE.unpack_from(value)
    if version < 0:
        raise ValueError(f"transaction marker of version {version}")
    return EndTransactionMarker(kind, coordinator_epoch)
