"""A log of three terabytes opens, seeks and serves at once: what is counted is what is asked of the disk, not time.

The disk is real, the log is sparse: 1,500 sealed segments of 2 GiB, each with real batches at its start, middle and end,
a batch header before each hole that says the hole belongs to it, and real index entries for all of them. The last
segment was written by `PartitionLog` itself.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.storage.log_support import lead_and_append

from ottla.protocol.records.batch import HEADER_SIZE, read_header
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.reader import read_records
from ottla.storage.config import LogConfig
from ottla.storage.files import Buffer, File, FileLock, OsFiles
from ottla.storage.log import PartitionLog
from ottla.storage.open_files import OpenFiles
from ottla.types import TopicPartition

SEGMENTS = 1_500
SEGMENT_BYTES = 2**31 - 1
#: Where the real batches of a segment are; each is found through an entry of the index.
POSITIONS = (0, 700_000_000, 1_400_000_000, 2_147_000_000)
BATCH_RECORDS = 10
#: A hole's batch holds this many offsets.
HOLE_OFFSETS = 1_000_000
SEGMENT_OFFSETS = len(POSITIONS) * (BATCH_RECORDS + HOLE_OFFSETS)
END = SEGMENTS * SEGMENT_OFFSETS
TAIL_BATCHES = 200
NOW = 1_790_000_000_000
TP = TopicPartition("sparse", 0)
SEGMENT_MS = 1_000_000


@dataclass
class Asked:
    """What was asked of the disk."""

    opened: int = 0
    reads: int = 0
    bytes_read: int = 0
    stats: int = 0
    listed: int = 0

    @property
    def calls(self) -> int:
        return self.opened + self.reads + self.stats + self.listed


class CountingFile:
    def __init__(self, file: File, asked: Asked) -> None:
        self._file = file
        self._asked = asked

    def append(self, data: Buffer) -> None:
        self._file.append(data)

    def pread(self, size: int, position: int) -> bytes:
        data = self._file.pread(size, position)
        self._asked.reads += 1
        self._asked.bytes_read += len(data)
        return data

    def pread_nowait(self, size: int, position: int) -> Buffer | None:
        data = self._file.pread_nowait(size, position)
        self._asked.reads += 1
        self._asked.bytes_read += len(data or b"")
        return data

    def is_cached(self, size: int, position: int) -> bool:
        return self._file.is_cached(size, position)

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        return self._file.send_to(socket_fd, size, position)

    def reserve(self, size: int, position: int) -> bool:
        return self._file.reserve(size, position)

    def release_reserve(self) -> None:
        self._file.release_reserve()

    def size(self) -> int:
        self._asked.stats += 1
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def datasync(self) -> None:
        self._file.datasync()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


@dataclass
class CountingFiles(OsFiles):
    """The machine's files, counted."""

    asked: Asked = field(default_factory=Asked)

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> File:  # type: ignore[override]
        self.asked.opened += 1
        return CountingFile(super().open(path, create=create, truncate=truncate, write=write), self.asked)

    def listdir(self, path: str) -> list[str]:
        self.asked.listed += 1
        return super().listdir(path)

    def entries(self, path: str) -> dict[str, bool]:
        self.asked.listed += 1
        return super().entries(path)

    def exists(self, path: str) -> bool:
        self.asked.stats += 1
        return super().exists(path)

    def size(self, path: str) -> int:
        self.asked.stats += 1
        return super().size(path)

    def read_bytes(self, path: str) -> bytes:
        data = super().read_bytes(path)
        self.asked.opened += 1
        self.asked.reads += 1
        self.asked.bytes_read += len(data)
        return data

    def lock(self, path: str) -> FileLock:
        return super().lock(path)

    def since(self) -> Asked:
        """Return what was asked since the last call."""
        asked, self.asked = self.asked, Asked()
        return asked


def small_batch(base_offset: int, timestamp: int) -> bytes:
    """A batch of ten records, a millisecond apart."""
    records = [
        Record(base_offset + number, timestamp + number, None, b"%d" % (base_offset + number))
        for number in range(BATCH_RECORDS)
    ]
    return bytes(build_batch(records, leader_epoch=0))


def segment_files(base_offset: int, timestamp: int) -> tuple[list[tuple[int, bytes]], bytes, bytes]:
    """Return the real parts of a segment (position, bytes), its offset index and its time index."""
    parts: list[tuple[int, bytes]] = []
    index, time_index = bytearray(), bytearray()
    offset = base_offset
    for number, position in enumerate(POSITIONS):
        batch = small_batch(offset, timestamp + number * 1000)
        end = POSITIONS[number + 1] if number + 1 < len(POSITIONS) else SEGMENT_BYTES
        hole = end - position - len(batch)
        header = bytearray(build_batch([Record(offset + BATCH_RECORDS, timestamp + number * 1000, None, b"")]))[:61]
        struct.pack_into(">i", header, 8, hole - 12)
        struct.pack_into(">i", header, 23, HOLE_OFFSETS - 1)
        parts.append((position, batch + bytes(header)))
        if number:
            last = offset + BATCH_RECORDS - 1 - base_offset
            index += struct.pack(">ii", last, position)
            time_index += struct.pack(">qi", timestamp + number * 1000 + BATCH_RECORDS - 1, last)
        offset += BATCH_RECORDS + HOLE_OFFSETS
    return parts, bytes(index), bytes(time_index)


def first_offset(segment: int, number: int) -> int:
    """The first offset of a real batch of a sparse segment."""
    return segment * SEGMENT_OFFSETS + number * (BATCH_RECORDS + HOLE_OFFSETS)


def first_timestamp(segment: int, number: int) -> int:
    return NOW - (SEGMENTS - segment) * SEGMENT_MS + number * 1000


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ottla-sparse-") as folder:
        path = str(Path(folder) / "sparse-0")
        log = PartitionLog.open(OsFiles(), path, TP, LogConfig(), now_ms=NOW, log_start_offset=END, topic_id=bytes(16))
        for number in range(TAIL_BATCHES):
            batch = bytearray(small_batch(0, NOW + number * 1000))
            lead_and_append(log, batch, leader_epoch=0, now_ms=NOW)
        snapshot = log.producers.snapshot()
        log.close()
        Path(f"{path}/{END:020d}.snapshot").write_bytes(snapshot)  # as the roll to the last segment leaves it
        try:
            for number in range(SEGMENTS):
                base = number * SEGMENT_OFFSETS
                parts, index, time_index = segment_files(base, first_timestamp(number, 0))
                fd = os.open(f"{path}/{base:020d}.log", os.O_WRONLY | os.O_CREAT)
                os.ftruncate(fd, SEGMENT_BYTES)
                for position, data in parts:
                    os.pwrite(fd, data, position)
                os.close(fd)
                Path(f"{path}/{base:020d}.index").write_bytes(index)
                Path(f"{path}/{base:020d}.timeindex").write_bytes(time_index)
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.ENOSPC):
                pytest.skip(f"no sparse files of 2 GiB here: {error}")
            raise
        if os.stat(f"{path}/{0:020d}.log").st_blocks * 512 > 1 << 20:
            pytest.skip("this file system fills holes")
        yield path


def open_sparse(files: OsFiles, path: str, *, clean: bool, recovery_point: int) -> PartitionLog:
    return PartitionLog.open(
        files,
        path,
        TP,
        LogConfig(),
        now_ms=NOW,
        clean=clean,
        recovery_point=recovery_point,
        high_watermark=END + TAIL_BATCHES * BATCH_RECORDS,
        open_files=OpenFiles(files),
    )


def served_record(log: PartitionLog, offset: int) -> Record:
    """Fetch as a consumer with a small buffer does; the record at `offset`."""
    part = log.read(offset, 2_000, upper_offset=log.high_watermark)
    data = part.read()
    (record,) = [record for record in read_records(data) if record.offset == offset]
    return record


def test_clean_open_reads_no_sealed_segment(directory: str) -> None:
    files = CountingFiles()
    log = open_sparse(files, directory, clean=True, recovery_point=END + TAIL_BATCHES * BATCH_RECORDS)
    asked = files.since()
    assert len(log.segments) == SEGMENTS + 1
    assert (log.log_start_offset, log.log_end_offset) == (0, END + TAIL_BATCHES * BATCH_RECORDS)
    assert asked.calls < 30, asked
    assert asked.bytes_read < 50_000, asked
    log.close()


def test_open_after_a_crash_reads_batches_of_the_last_segment_only(directory: str) -> None:
    files = CountingFiles()
    # A recovery point at the very start of the last segment would count the one before, too: see LogLoader.
    log = open_sparse(files, directory, clean=False, recovery_point=END + BATCH_RECORDS)
    asked = files.since()
    assert log.log_end_offset == END + TAIL_BATCHES * BATCH_RECORDS
    # Both indexes of each sealed segment are checked by their last entry; no batch of those is read.
    assert asked.bytes_read < log.active_segment.size + 40 * SEGMENTS + 50_000, asked
    assert asked.opened < 2 * SEGMENTS + 30, asked
    log.close()


def test_any_offset_is_served_with_a_handful_of_small_reads(directory: str) -> None:
    files = CountingFiles()
    log = open_sparse(files, directory, clean=True, recovery_point=END + TAIL_BATCHES * BATCH_RECORDS)
    files.since()
    for segment in (0, 1, SEGMENTS // 2, SEGMENTS - 1):
        for number in range(len(POSITIONS)):
            offset = first_offset(segment, number) + 7
            record = served_record(log, offset)
            assert (record.value, record.timestamp) == (b"%d" % offset, first_timestamp(segment, number) + 7)
            asked = files.since()
            # The log file, its index; header scans; the batch itself.
            assert asked.calls <= 12, (segment, number, asked)
            assert asked.bytes_read <= 30_000, (segment, number, asked)
    for offset in (END, END + 999, END + TAIL_BATCHES * BATCH_RECORDS - 1):
        assert served_record(log, offset).value == b"%d" % ((offset - END) % BATCH_RECORDS)
    log.close()


def test_any_time_is_found_with_one_small_read_for_each_segment_once(directory: str) -> None:
    """Timestamps are the producers': any segment may hold the time, so each time index is asked, once, for its last."""
    files = CountingFiles()
    log = open_sparse(files, directory, clean=True, recovery_point=END + TAIL_BATCHES * BATCH_RECORDS)
    files.since()
    wanted = first_timestamp(SEGMENTS - 1, 2) + 3
    found = log.offset_for_timestamp(wanted)
    assert found is not None
    assert (found.offset, found.timestamp) == (first_offset(SEGMENTS - 1, 2) + 3, wanted)
    first = files.since()
    assert first.reads <= SEGMENTS + 20, first
    assert first.calls <= 5 * SEGMENTS, first
    assert first.bytes_read <= 12 * SEGMENTS + 200_000, first
    for segment, number in ((SEGMENTS // 2, 1), (0, 3), (SEGMENTS - 2, 0)):
        wanted = first_timestamp(segment, number) + 5
        found = log.offset_for_timestamp(wanted)
        assert found is not None
        assert (found.offset, found.timestamp) == (first_offset(segment, number) + 5, wanted)
        first_look = files.since()  # compares this segment's largest timestamp, and its neighbour's, with the batches
        assert first_look.calls <= 25, first_look
        assert first_look.bytes_read <= 250_000, first_look
        assert log.offset_for_timestamp(wanted) == found
        again = files.since()
        assert again.calls <= 15, again
        assert again.bytes_read <= 250_000, again
    assert log.offset_for_timestamp(NOW + TAIL_BATCHES * 1000) is None
    log.close()


def test_the_holes_are_where_the_headers_say(directory: str) -> None:
    """The fixture itself: batches and holes fill a segment without a gap."""
    with open(f"{directory}/{0:020d}.log", "rb") as file:
        position, offset, batches = 0, 0, 0
        while position < SEGMENT_BYTES:
            file.seek(position)
            header = read_header(file.read(HEADER_SIZE))
            assert header.base_offset == offset
            position += header.size
            offset = header.next_offset
            batches += 1
    assert (position, offset, batches) == (SEGMENT_BYTES, SEGMENT_OFFSETS, 2 * len(POSITIONS))
