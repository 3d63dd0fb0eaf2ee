"""From a chunk of raw batches to the rows a consumer hands out, batch by batch.

Checks CRCs, leaves out control records and, for readers of committed records, what aborted transactions wrote (KIP-98).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ottla.client._core.partitions import Chunk
from ottla.client.consumed import Row
from ottla.errors import CorruptMessageError
from ottla.protocol.records import kernels
from ottla.protocol.records.batch import MAGIC, BatchHeader
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.formats import check_any_crc
from ottla.protocol.records.legacy import read_legacy_records
from ottla.protocol.records.reader import read_body
from ottla.protocol.records.walk import iter_batches
from ottla.types import IsolationLevel, TimestampType


def read_chunk(chunk: Chunk, isolation: IsolationLevel) -> Iterator[tuple[list[Row], int, int]]:
    """Yield (records, leader epoch, offset behind them) of each batch; records may be empty.

    Raises:
        CorruptMessageError: a batch is damaged. Those before it have been yielded.
    """
    committed = isolation is IsolationLevel.READ_COMMITTED
    to_come = deque(chunk.aborted)
    aborted: set[int] = set()
    view = chunk.records
    for position, header in iter_batches(view):
        # Before anything is believed: what the header says of offsets and kinds is covered by the CRC.
        if not check_any_crc(view, position, header):
            raise _damaged(chunk, header.base_offset, "its CRC is wrong")
        following = header.next_offset
        while to_come and to_come[0][1] < following:
            aborted.add(to_come.popleft()[0])
        if header.is_control:
            try:
                marker = read_marker(view, position) if header.has_producer_id else None
            except ValueError as error:
                raise _damaged(chunk, header.base_offset, str(error)) from error
            if marker is not None and marker.kind is ControlType.ABORT:
                aborted.discard(header.producer_id)
            yield [], header.partition_leader_epoch, following
            continue
        if following <= chunk.offset or (committed and header.is_transactional and header.producer_id in aborted):
            yield [], header.partition_leader_epoch, following
            continue
        try:
            rows = _rows(view, position, header)
        except ValueError as error:
            raise _damaged(chunk, header.base_offset, str(error)) from error
        if rows and rows[0][0] < chunk.offset:
            rows = [row for row in rows if row[0] >= chunk.offset]
        yield rows, header.partition_leader_epoch, following


def _rows(view: memoryview, position: int, header: BatchHeader) -> list[Row]:
    if header.magic < MAGIC:
        return list(read_legacy_records(view, position))
    if not header.record_count:
        return []
    body = read_body(view, position, header)
    append_time = header.max_timestamp if header.timestamp_type is TimestampType.LOG_APPEND_TIME else None
    return kernels.decode_records(body, header.record_count, header.base_offset, header.base_timestamp, append_time)


def _damaged(chunk: Chunk, base_offset: int, problem: str) -> CorruptMessageError:
    where = f"{chunk.state.topic_partition}, offset {max(base_offset, chunk.offset)}"
    return CorruptMessageError(f"The batch at {where} is damaged: {problem}")
