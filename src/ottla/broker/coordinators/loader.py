"""Rebuild the state of a coordinator partition: read its log from the start and replay every record.

Reads in pieces and gives the loop a turn between them, so that a large partition does not hold up heartbeats of others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from ottla.broker.coordinators.shard import NO_PRODUCER_ID
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import DamagedBatchError, iter_batches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.coordinators.shard import Shard

#: Records replayed before the loop gets a turn (about 2 ms).
RECORDS_PER_TURN: Final = 200
#: How long to wait when the end of the log is not committed yet, and how often: 5 s in all. What has not appeared by then
#: was compacted away (the offsets stay, the batches go), and there is nothing to wait for.
_UNCOMMITTED_WAIT_SECONDS: Final = 0.02
_UNCOMMITTED_WAITS_MAX: Final = 250


class CoordinatorLog(Protocol):
    """What the runtime needs of the logs of an internal topic."""

    def append(self, topic: str, partition: int, batch: bytearray, transaction_version: int = 0) -> Awaitable[int]:
        """Append one batch as the leader; resolves with its last offset when it is committed.

        `transaction_version` is that of a marker.

        An already completed `asyncio.Future` saves a turn of the loop. Appends of one partition are never in flight
        together. Raises KafkaError, directly or through the awaitable; if `end_offset` has not moved then, nothing was
        written.
        """
        ...

    def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> Awaitable[bytes]:
        """Return whole batches from `from_offset` (at least one, if there is one) that are committed; else b""."""
        ...

    def start_offset(self, topic: str, partition: int) -> int:
        """Return the log start offset."""
        ...

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the log end offset: what the next append will get, committed or not."""
        ...


class LoadSummary:
    """What a load did, for the log line."""

    __slots__ = ("next_offset", "records", "unknown_records")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.records = 0
        self.unknown_records = 0


async def load(
    log: CoordinatorLog, topic: str, partition: int, shard: Shard, *, max_bytes: int, is_current: Callable[[], bool]
) -> LoadSummary:
    """Replay the partition into `shard`, up to the log end at the time of the call.

    What the previous leader wrote but did not commit commits with us, since we have it: wait for it rather than skip it.
    Stops early once `is_current()` is false (the partition was given away meanwhile).

    Raises:
        ValueError: a batch is damaged. A state without what it said would be wrong, and would be acted upon.
    """
    summary = LoadSummary(log.start_offset(topic, partition))
    end_offset = log.end_offset(topic, partition)
    waits = 0
    while summary.next_offset < end_offset and is_current():
        data = await log.read(topic, partition, summary.next_offset, max_bytes)
        if data:
            await _replay_batches(memoryview(data), shard, summary, is_current)
            continue
        waits += 1
        if waits > _UNCOMMITTED_WAITS_MAX:
            summary.next_offset = end_offset
            break
        await asyncio.sleep(_UNCOMMITTED_WAIT_SECONDS)
    return summary


async def _replay_batches(data: memoryview, shard: Shard, summary: LoadSummary, is_current: Callable[[], bool]) -> None:
    replayed = 0
    for position, header in iter_batches(data):
        if header.last_offset < summary.next_offset:
            raise DamagedBatchError(position, f"offset {header.last_offset} where {summary.next_offset} comes next")
        if header.is_control:
            marker = read_marker(data, position)
            if marker is not None:
                shard.replay_end_transaction(header.producer_id, marker.kind == ControlType.COMMIT)
        else:
            producer_id = header.producer_id if header.is_transactional else NO_PRODUCER_ID
            for record in read_records(data, position, verify_crc=True):
                if record.offset < summary.next_offset or record.key is None:
                    continue
                decoded = shard.decode(record.key, record.value)
                if decoded is None:
                    summary.unknown_records += 1
                else:
                    shard.replay(record.offset, producer_id, decoded)
                summary.records += 1
                replayed += 1
                if replayed >= RECORDS_PER_TURN:
                    replayed = 0
                    await asyncio.sleep(0)
                    if not is_current():
                        return
        summary.next_offset = header.last_offset + 1
