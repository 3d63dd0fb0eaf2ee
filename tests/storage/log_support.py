"""What the tests of the log share: batches, logs in memory, reading everything back."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.records.reader import iter_records
from ottla.storage.appended import AppendInfo
from ottla.storage.appending import Append
from ottla.storage.config import LogConfig
from ottla.storage.files import Files
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles
from ottla.types import AppendOrigin, TopicPartition

NOW = 1_700_000_000_000
TP = TopicPartition("t", 0)
DIRECTORY = "data/t-0"
TOPIC_ID = bytes(range(16))


def batch(values: list[bytes], *, timestamp: int = NOW, key: bytes | None = b"k", **options: Any) -> bytearray:
    """Return a batch as a producer sends it, one record for each value."""
    return build_batch([Record(index, timestamp, key, value) for index, value in enumerate(values)], **options)


def idempotent(producer_id: int, epoch: int, sequence: int, count: int = 1, **options: Any) -> bytearray:
    """Return a batch of an idempotent producer."""
    values = [b"%d" % (sequence + index) for index in range(count)]
    return batch(values, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, **options)


def open_log(files: Files | None = None, config: LogConfig | None = None, **options: Any) -> PartitionLog:
    """Open the log of `TP`, in a new memory disk unless one is given."""
    options.setdefault("now_ms", NOW)
    return PartitionLog.open(files or MemoryFiles(lambda: NOW), DIRECTORY, TP, config or LogConfig(), **options)


def lead_and_append(
    log: PartitionLog, records: bytearray, *, leader_epoch: int | None = None, now_ms: int = NOW, **how: Any
) -> AppendInfo:
    """Append as the leader of an epoch, the log's newest unless given; `how`: other fields of `Append`."""
    if leader_epoch is None:
        leader_epoch = max(log.leader_epochs.latest, 0)
    if log.led_epoch != leader_epoch:
        log.lead(leader_epoch)
    return log.append_as_leader(Append(records, leader_epoch, **how), now_ms)


def append(log: PartitionLog, records: bytearray, *, now_ms: int = NOW, leader_epoch: int | None = None) -> AppendInfo:
    """Append as a client's batch."""
    return lead_and_append(log, records, leader_epoch=leader_epoch, now_ms=now_ms)


def append_many(log: PartitionLog, count: int, size: int = 100, **options: Any) -> None:
    """Append batches of one record each, whose value is the offset in 8 digits and padding."""
    for _ in range(count):
        append(log, batch([value_of(log.log_end_offset, size)]), **options)


def value_of(offset: int, size: int = 100) -> bytes:
    """Return the value that `append_many` gives the record at `offset`."""
    return b"%08d" % offset + b"." * (size - 8)


def old_message(magic: int, offset: int, timestamp: int, value: bytes = b"x", key: bytes | None = None) -> bytes:
    """Return an uncompressed message of format 0 or 1."""
    time = struct.pack(">q", timestamp) if magic else b""
    name = struct.pack(">i", -1) if key is None else struct.pack(">i", len(key)) + key
    body = bytes([magic, 0]) + time + name + struct.pack(">i", len(value)) + value
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


def marker(
    log: PartitionLog, kind: ControlType, producer_id: int, epoch: int, *, coordinator_epoch: int = 0, version: int = 0
) -> AppendInfo:
    """End a transaction."""
    records = end_transaction_marker(
        kind, coordinator_epoch, timestamp_ms=NOW, producer_id=producer_id, producer_epoch=epoch
    )
    return lead_and_append(log, records, origin=AppendOrigin.COORDINATOR, transaction_version=version)


def read_all(log: PartitionLog, start: int | None = None, max_bytes: int = 1 << 20) -> list[Record]:
    """Read as a consumer does, from `start` to the log end."""
    offset = log.log_start_offset if start is None else start
    records: list[Record] = []
    while offset < log.log_end_offset:
        part = log.read(offset, max_bytes, upper_offset=log.log_end_offset)
        if not part.size:
            break
        data = part.read()
        assert len(data) == part.size
        records += [record for record in iter_records(data) if record.offset >= offset]
        assert part.next_offset > offset
        offset = part.next_offset
    return records


def crash(files: MemoryFiles, log: PartitionLog) -> None:
    """Kill the process: the page cache stays."""
    files.kill()
    del log
