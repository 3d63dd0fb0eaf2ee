"""Rebuild the state of a coordinator partition: read its log from the start and replay every record.

Reads in pieces and gives the loop a turn between them, so that a large partition does not hold up heartbeats of others.

Loading goes on as long as this broker leads the partition. It ends when the whole log has been replayed, and in no other
way: a log whose end is not committed yet is waited for, however long that takes (what the previous leader wrote but did not
commit commits with this leader, which has it), and a read that fails for a while is tried again. A record that cannot be
understood ends loading with an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from ottla.broker.coordinators.shard import NO_PRODUCER_ID
from ottla.errors import CorruptMessageError, KafkaError, OffsetOutOfRangeError, StorageError
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import DamagedBatchError, iter_batches
from ottla.storage.verification import UNCHECKED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.coordinators.shard import Shard
    from ottla.storage.verification import Verification, VerificationGuard

logger = logging.getLogger(__name__)

#: Records replayed before the loop gets a turn (about 2 ms).
RECORDS_PER_TURN: Final = 200
#: Pauses between attempts to read a log that cannot be read now: the first, and the longest.
_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 10.0


class CoordinatorLog(Protocol):
    """What the runtime needs of the logs of an internal topic.

    Every method raises a KafkaError, directly or through what it returns, if this broker does not lead the partition.
    """

    def append(
        self,
        topic: str,
        partition: int,
        batch: bytearray,
        transaction_version: int = 0,
        verification: Verification | None = UNCHECKED,
    ) -> int | Awaitable[int]:
        """Append one batch as the leader; returns its last offset, or resolves with it once the batch is in the log.

        The batch need not be committed by then. The runtime appends to a partition only after its append before has ended.

        Args:
            transaction_version: of a marker.
            verification: of the transaction that the batch belongs to.

        Raises:
            KafkaError: directly or through the awaitable. If `end_offset` has not moved then, nothing was written.
        """
        ...

    def begin_verification(self, topic: str, partition: int, producer: tuple[int, int]) -> VerificationGuard:
        """Return the guard with which to verify a transaction of this producer id and epoch before its first append."""
        ...

    def committed(self, topic: str, partition: int, last_offset: int) -> Awaitable[None]:
        """Resolve when the high watermark has passed `last_offset`; fail if that may never happen."""
        ...

    def prove(self, topic: str, partition: int) -> Awaitable[None] | None:
        """Return None if no other broker can lead the partition now, else what resolves when that is proven."""
        ...

    def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> Awaitable[bytes]:
        """Return whole batches from `from_offset` (at least one, if there is one) that are committed; else b""."""
        ...

    def start_offset(self, topic: str, partition: int) -> int:
        """Return the log start offset."""
        ...

    def high_watermark(self, topic: str, partition: int) -> int:
        """Return the offset up to which everything is committed."""
        ...

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the log end offset: what the next append will get, committed or not."""
        ...


class LoadSummary:
    """What a load did, for the log line.

    Attributes:
        next_offset: everything before it has been replayed.
    """

    __slots__ = ("next_offset", "records", "unknown_records")

    def __init__(self) -> None:
        self.next_offset = 0
        self.records = 0
        self.unknown_records = 0


async def load(
    log: CoordinatorLog, topic: str, partition: int, shard: Shard, *, max_bytes: int, is_current: Callable[[], bool]
) -> LoadSummary:
    """Replay the whole partition into `shard`.

    Returns early only once `is_current()` is false: the partition has been given away, or is led in a newer epoch.

    Raises:
        ValueError: a batch is damaged. A state without what it said would be wrong, and would be acted upon.
        CorruptMessageError: as ValueError, found by the log.
        Exception: a record cannot be decoded or applied.
    """
    summary = LoadSummary()
    pause = _RETRY_SECONDS_MIN
    while is_current():
        try:
            # The start may have moved since (DeleteRecords); what lies before it is gone.
            summary.next_offset = max(summary.next_offset, log.start_offset(topic, partition))
            if summary.next_offset >= log.end_offset(topic, partition):
                break
            data = await _read(log, topic, partition, summary, max_bytes)
            pause = _RETRY_SECONDS_MIN
        except (KafkaError, StorageError) as error:
            if not _may_pass(error):
                raise
            logger.warning("%s-%d: loading waits for its log: %s", topic, partition, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _RETRY_SECONDS_MAX)
            continue
        if data:
            await _replay_batches(memoryview(data), shard, summary, is_current)
    return summary


async def _read(log: CoordinatorLog, topic: str, partition: int, summary: LoadSummary, max_bytes: int) -> bytes:
    """Return the next batches; b"" after waiting for a commit, or after going past offsets that compaction has emptied."""
    high_watermark = log.high_watermark(topic, partition)
    if high_watermark <= summary.next_offset:
        logger.info("%s-%d: loading waits until offset %d is committed", topic, partition, summary.next_offset)
        await log.committed(topic, partition, summary.next_offset)
        return b""
    data = await log.read(topic, partition, summary.next_offset, max_bytes)
    if not data:
        # Everything up to the high watermark was there to be read: the offsets are left, their batches were compacted away.
        logger.info("%s-%d: no records from offset %d to %d", topic, partition, summary.next_offset, high_watermark)
        summary.next_offset = high_watermark
    return data


def _may_pass(error: KafkaError | StorageError) -> bool:
    """Whether the same read may succeed later."""
    if isinstance(error, CorruptMessageError):
        return False  # what is on the disk does not change
    return isinstance(error, StorageError | OffsetOutOfRangeError) or error.retriable


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
