"""A coordinator's log in memory: real batches, commits on command, failures on command."""

from __future__ import annotations

import asyncio
from collections import deque

from ottla.errors import KafkaError
from ottla.protocol.records.batch import read_header, set_offset_and_epoch
from ottla.protocol.records.builder import Record
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.storage.verification import UNCHECKED, Verification, VerificationGuard


class MemoryCoordinatorLog:
    """Implements `CoordinatorLog`.

    Attributes:
        hold: while true, appends are written but not committed until `release`.
        failures: errors of the next appends; `(error, True)` fails after writing.
        batch_count: appends that were written.
    """

    def __init__(self) -> None:
        self.hold = False
        self.failures: deque[tuple[KafkaError, bool]] = deque()
        self.batch_count = 0
        self._batches: dict[int, list[bytes]] = {}
        self._ends: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def append(
        self,
        topic: str,
        partition: int,
        batch: bytearray,
        transaction_version: int = 0,
        verification: Verification | None = UNCHECKED,
    ) -> int | asyncio.Future[int]:
        failure = self.failures.popleft() if self.failures else None
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if failure is not None and not failure[1]:
            future.set_exception(failure[0])
            return future
        header = read_header(batch)
        end = self._ends.get(partition, 0)
        set_offset_and_epoch(batch, 0, end, 1)
        self._batches.setdefault(partition, []).append(bytes(batch))
        self._ends[partition] = end + header.last_offset_delta + 1
        self.batch_count += 1
        if failure is not None:
            self._committed[partition] = self._ends[partition]
            future.set_exception(failure[0])
            return future
        if not self.hold:
            self.commit_up_to(partition, self._ends[partition])
        return self._ends[partition] - 1

    def begin_verification(self, topic: str, partition: int, producer: tuple[int, int]) -> VerificationGuard:
        return VerificationGuard(*producer, 1, 0)

    def prove(self, topic: str, partition: int) -> None:
        return None

    def committed(self, topic: str, partition: int, last_offset: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.high_watermark(topic, partition) > last_offset:
            future.set_result(None)
        else:
            self._waiting.append((partition, last_offset, future))
        return future

    def commit_up_to(self, partition: int, offset: int) -> None:
        """Move the high watermark."""
        self._committed[partition] = max(offset, self._committed.get(partition, 0))
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            index, last_offset, future = waiter
            if index != partition or last_offset >= offset:
                self._waiting.append(waiter)
            elif not future.done():
                future.set_result(None)

    def release(self) -> None:
        """Commit what is written."""
        for partition, end in self._ends.items():
            self.commit_up_to(partition, end)

    def fail_commits(self, error: KafkaError) -> None:
        """Fail everybody who waits for a commit, as a log does whose disk fails."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def lose_uncommitted(self) -> bool:
        """Forget what was written but not committed, as a power cut does; return whether there was something."""
        self._waiting = []
        lost = False
        for partition, batches in self._batches.items():
            committed = self._committed.get(partition, 0)
            while batches and read_header(batches[-1]).last_offset >= committed:
                batches.pop()
                lost = True
            self._ends[partition] = committed
        return lost

    async def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> bytes:
        found = b""
        for batch in self._batches.get(partition, ()):
            header = read_header(batch)
            if header.last_offset < from_offset or header.last_offset >= self._committed.get(partition, 0):
                continue
            if found and len(found) + len(batch) > max_bytes:
                break
            found += batch
        return found

    def start_offset(self, topic: str, partition: int) -> int:
        return self._starts.get(partition, 0)

    def high_watermark(self, topic: str, partition: int) -> int:
        return self._committed.get(partition, 0)

    def end_offset(self, topic: str, partition: int) -> int:
        return self._ends.get(partition, 0)

    def inject(self, partition: int, batch: bytearray) -> None:
        """Put a batch of somebody else into the log."""
        end = self._ends.get(partition, 0)
        set_offset_and_epoch(batch, 0, end, 1)
        self._batches.setdefault(partition, []).append(bytes(batch))
        self._ends[partition] = self._committed[partition] = end + read_header(batch).last_offset_delta + 1

    def records(self, partition: int) -> list[Record]:
        """Return everything that was written."""
        return [
            record
            for batch in self._batches.get(partition, ())
            for position, _ in iter_batches(batch)
            for record in read_records(batch, position)
        ]

    def sizes(self, partition: int) -> list[int]:
        """Return how many records each append had."""
        return [read_header(batch).record_count for batch in self._batches.get(partition, ())]

    def delete_before(self, partition: int, offset: int) -> None:
        """Move the log start, as DeleteRecords does: not past what is committed."""
        start = min(offset, self._committed.get(partition, 0))
        self._starts[partition] = max(start, self._starts.get(partition, 0))
        self._batches[partition] = [
            batch for batch in self._batches.get(partition, ()) if read_header(batch).last_offset >= start
        ]

    def compact(self, partition: int) -> None:
        """Of what is committed keep only the last record of every key, with its offset, as the cleaner does.

        One batch per record. What is not committed yet stays as it is: it may still be lost.
        """
        from ottla.protocol.records.builder import build_batch

        committed = self._committed.get(partition, 0)
        last: dict[bytes, Record] = {}
        for record in self.records(partition):
            assert record.key is not None
            if record.offset < committed:
                last[record.key] = record
        batches = self._batches.get(partition, [])
        tail = [batch for batch in batches if read_header(batch).last_offset >= committed]
        self._batches[partition] = [
            *(bytes(build_batch([record], leader_epoch=1)) for record in sorted(last.values())),
            *tail,
        ]
