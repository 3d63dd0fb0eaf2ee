"""How long a group has been behind: the age of the first record that it has yet to read.

The age is the present time without the record's timestamp. For that the header of one batch is read, on the loop while it is
in memory: a consumer that reads has just had these bytes read. What is not in memory is read off the loop and known when the
page is asked for again. Inside a batch of which the group has read a part, the newest timestamp of the batch stands for that
of the record; records in one batch are a few milliseconds apart.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ottla.errors import KafkaError
from ottla.protocol.records.batch import HEADER_SIZE, MAGIC, MAGIC_POSITION, NO_TIMESTAMP, read_header
from ottla.storage.index import WouldBlockError
from ottla.types import IsolationLevel, TimestampType, TopicPartition

if TYPE_CHECKING:
    from ottla.broker.replicas.partition import Partition
    from ottla.clock import Clock
    from ottla.storage.files import Buffer

#: Reads off the loop at once; what is beyond is read when the page is asked for again.
_READS_MAX = 64
#: Timestamps remembered of what was not in memory: a group that does not move is looked up each time the page is asked for.
_REMEMBERED_MAX = 10_000


class LagAges:
    """Finds the age of the records at the offsets of groups."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._remembered: dict[tuple[TopicPartition, bytes, int], int] = {}
        self._reads: dict[tuple[TopicPartition, bytes, int], asyncio.Task[None]] = {}

    def age_seconds(self, partition: Partition, offset: int) -> float | None:
        """Return how old the first record from `offset` on is; 0 if there is none, None if that is not known (yet)."""
        log = partition.log
        offset = max(offset, log.log_start_offset)
        if offset >= log.high_watermark:
            return 0.0
        key = (partition.topic_partition, partition.topic_id, offset)
        timestamp = self._remembered.get(key)
        if timestamp is None:
            timestamp = self._timestamp(partition, offset)
        if timestamp is None and key not in self._reads and len(self._reads) < _READS_MAX:
            reading = asyncio.get_running_loop().create_task(self._read(partition, key))
            self._reads[key] = reading
            reading.add_done_callback(lambda _: self._reads.pop(key))
        if timestamp is None or timestamp == NO_TIMESTAMP:
            return None
        return max(self._clock.wall_ms() - timestamp, 0) / 1000

    def _timestamp(self, partition: Partition, offset: int) -> int | None:
        """Return the timestamp if it is in memory; NO_TIMESTAMP if it cannot be found at all."""
        try:
            found = partition.read(offset, HEADER_SIZE, IsolationLevel.READ_UNCOMMITTED, min_one=True, nowait=True)
            if found is None or found.file is None:
                return NO_TIMESTAMP
            header = found.file.pread_nowait(HEADER_SIZE, found.position)
        except WouldBlockError:
            return None
        except KafkaError:
            return NO_TIMESTAMP
        except OSError as error:
            partition.on_io_error(error)
            return NO_TIMESTAMP
        return None if header is None else _timestamp_in(header, offset)

    async def _read(self, partition: Partition, key: tuple[TopicPartition, bytes, int]) -> None:
        def read(offset: int) -> int:
            found = partition.read(offset, HEADER_SIZE, IsolationLevel.READ_UNCOMMITTED, min_one=True)
            if found is None or found.file is None:
                return NO_TIMESTAMP
            return _timestamp_in(found.file.pread(HEADER_SIZE, found.position), offset)

        try:
            timestamp = await partition.search(read, key[2])
        except KafkaError:
            return  # the log says what is wrong, and the partition's own readers meet it
        while len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = timestamp


def _timestamp_in(header: Buffer, offset: int) -> int:
    if len(header) < HEADER_SIZE or header[MAGIC_POSITION] != MAGIC:
        return NO_TIMESTAMP
    batch = read_header(header)
    if batch.timestamp_type is TimestampType.LOG_APPEND_TIME or offset > batch.base_offset:
        return batch.max_timestamp
    return batch.base_timestamp
