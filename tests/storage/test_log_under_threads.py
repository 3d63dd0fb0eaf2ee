"""A log that one thread closes or compacts while another appends or reads: what a review has found, step by step.

The other thread's part runs inside the disk's operation at which it would come between: no thread, no time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.storage.log_support import lead_and_append

from ottla.errors import KafkaError, StorageError
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.walk import iter_batches
from ottla.storage.config import LogConfig
from ottla.storage.locating import locate
from ottla.storage.log import PartitionLog
from ottla.storage.segment import Segment
from ottla.testing.memory_files import MemoryFile, MemoryFiles
from ottla.types import TopicPartition

DIRECTORY = "data/t-0"
COUNT = 50


def opened(files: MemoryFiles, **options: object) -> PartitionLog:
    return PartitionLog.open(
        files,
        DIRECTORY,
        TopicPartition("t", 0),
        LogConfig(index_interval_bytes=100),
        now_ms=1,
        hooks=KeepFiles(),
        **options,  # type: ignore[arg-type]
    )


class KeepFiles:
    """Removed files stay for file.delete.delay.ms, as in the broker."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


def put(log: PartitionLog, number: int) -> None:
    batch = build_batch([Record(0, 1, b"k%d" % number, b"v" * (100 + number))])
    lead_and_append(log, batch, leader_epoch=0, now_ms=1)


class Disk(MemoryFiles):
    """A memory disk that lets the other thread run after a file was opened, too."""

    opened: Callable[[str], None] = staticmethod(lambda _path: None)

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> MemoryFile:
        file = super().open(path, create=create, truncate=truncate, write=write)
        self.opened(path)
        return file


def once(files: Disk, operation: str, suffix: str, other_thread: Callable[[], None]) -> list[str]:
    """Have `other_thread` run at the first such operation; return the list of when it has."""
    done: list[str] = []

    def run(path: str) -> None:
        if path.endswith(suffix) and not done:
            done.append(path)
            other_thread()

    if operation == "open":
        files.opened = run
    else:
        files.fail = lambda asked, path: run(path) if asked == operation else None
    return done


def compact(log: PartitionLog, keep: Callable[[int], bool]) -> None:
    """Replace the first segment by one with some of its batches."""
    old = log.segments[0]
    new = Segment(old.open_files, old.directory, old.base_offset, suffix=".cleaned")
    new.create(1)
    for _, header, data in list(old.batches()):
        if keep(header.base_offset):
            position = new.append(bytes(data))
            new.note_batch(position, header.size, header.last_offset, header.max_timestamp, 100)
    new.finish()
    new.sync()
    new.close()
    log.replace_segments([new], [old])


def compactable() -> tuple[Disk, PartitionLog]:
    files = Disk()
    log = opened(files)
    for number in range(COUNT):
        put(log, number)
    log.roll(1)
    put(log, COUNT)
    log.flush()
    return files, log


def offsets(log: PartitionLog, offset: int) -> list[int]:
    log.reader.forget_places()
    data = log.read(offset, 400, upper_offset=COUNT + 1).read()
    return [header.base_offset for _, header in iter_batches(data)]


def test_an_append_during_close_is_refused_and_the_next_start_has_every_offset_once() -> None:
    files = Disk()
    log = opened(files)
    for number in range(3):
        put(log, number)
    refused: list[Exception] = []

    def late() -> None:
        try:
            put(log, 3)
        except (KafkaError, StorageError) as error:
            refused.append(error)

    done = once(files, "sync", ".log", late)
    log.close()
    assert (len(done), len(refused)) == (1, 1)
    files.fail = None
    again = opened(files, clean=True, recovery_point=log.recovery_point, high_watermark=log.high_watermark)
    assert again.log_end_offset == 3
    put(again, 3)
    assert [header.base_offset for _, header in again.active_segment.headers()] == [0, 1, 2, 3]


@pytest.mark.parametrize("operation", ["open", "pread"])
@pytest.mark.parametrize("suffix", ["0.log", "0.index"])
def test_a_reader_that_compaction_comes_between_reads_whole_batches_and_leaves_nothing_stale(
    operation: str, suffix: str
) -> None:
    files, log = compactable()
    log.open_files.close()
    done = once(files, operation, suffix, lambda: compact(log, lambda offset: offset % 2 == 1))
    log.reader.forget_places()
    data = log.read(31, 400, upper_offset=COUNT + 1).read()
    assert done
    assert next(header.base_offset for _, header in iter_batches(data)) in (30, 31)
    files.fail = None
    assert log.failure is None
    for offset in (0, 11, 30, 31):
        assert offsets(log, offset)[0] == offset | 1, offset


def test_a_slice_that_was_found_before_compaction_is_read_after_it() -> None:
    _, log = compactable()
    log.reader.forget_places()
    part = log.read(20, 400, upper_offset=COUNT + 1)
    before = part.read()
    held = log.segments[0]
    compact(log, lambda offset: offset % 2 == 1)
    log.open_files.close()
    assert part.read() == before
    assert [header.base_offset for _, header in held.headers()] == list(range(COUNT))
    assert locate(held, 30, held.size) is not None
