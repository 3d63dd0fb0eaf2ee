"""What a crash leaves in a directory, and what is made of it."""

from __future__ import annotations

import random
import struct

import pytest
from tests.storage.log_support import (
    DIRECTORY,
    NOW,
    append,
    append_many,
    batch,
    idempotent,
    marker,
    old_message,
    open_log,
    read_all,
    value_of,
)

from ottla.protocol.records.control import ControlType
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles

#: Five records of 100 bytes in each segment.
SMALL = LogConfig(segment_bytes=900, index_interval_bytes=0)


def disk_with_segments(count: int = 20, *, close: bool = False) -> tuple[MemoryFiles, PartitionLog]:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    append_many(log, count)
    assert len(log.segments) == count // 5
    if close:
        log.close()
    files.kill()
    return files, log


def overwrite(files: MemoryFiles, path: str, position: int, data: bytes) -> None:
    old = files.read_bytes(path)
    files.write_atomic(path, old[:position] + data + old[position + len(data) :])


def names(files: MemoryFiles, suffix: str) -> list[int]:
    return [int(name[:20]) for name in files.listdir(DIRECTORY) if name.endswith(suffix)]


def offsets(log: PartitionLog) -> list[int]:
    return [record.offset for record in read_all(log)]


def test_a_clean_log_is_opened_without_reading_batches() -> None:
    files, closed = disk_with_segments(close=True)
    reads: list[str] = []
    files.fail = lambda operation, path: reads.append(path) if operation == "pread" else None
    log = open_log(files, SMALL, clean=True, recovery_point=20)
    assert log.log_end_offset == 20
    assert reads == []
    assert log.recovery_point == 20
    assert closed.log_end_offset == 20
    assert offsets(log) == list(range(20))


def test_a_clean_log_without_its_last_snapshot_is_read_from_the_last_index_entry() -> None:
    files, _ = disk_with_segments(close=True)
    files.remove(f"{DIRECTORY}/{20:020d}.snapshot")
    log = open_log(files, SMALL, clean=True, recovery_point=20)
    assert log.log_end_offset == 20
    assert log.recovered_bytes == 0


@pytest.mark.parametrize("is_clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("count", [5, 12])
def test_after_a_start_each_of_the_last_five_batches_is_recognised(is_clean: bool, count: int) -> None:
    """A producer has that many on its way, and repeats all of them when the broker that it asked is gone.

    After a clean stop, and for what lies before the segment that is read again, only the last one was known: the others
    were out of order, for which a producer begins a new epoch and sends all records again.
    """
    files = MemoryFiles(lambda: NOW)
    config = LogConfig(segment_bytes=300, index_interval_bytes=0)
    log = open_log(files, config)
    for number in range(count):
        append(log, idempotent(7, 0, number))
    assert len(log.segments) > 1
    if is_clean:
        log.close()
    files.kill()
    log = open_log(files, config, clean=is_clean, recovery_point=count)
    for number in range(count - 5, count):
        info = append(log, idempotent(7, 0, number))
        assert (info.duplicate, info.first_offset) == (True, number)
    assert append(log, idempotent(7, 0, count)).first_offset == count


def test_only_segments_from_the_recovery_point_on_are_read() -> None:
    files, _ = disk_with_segments()
    log = open_log(files, SMALL, recovery_point=12)
    assert log.recovered_bytes == sum(segment.size for segment in log.segments[2:])
    assert offsets(log) == list(range(20))


@pytest.mark.parametrize("cut", [1, 60, 61, 100, 170])
def test_a_torn_tail_is_cut_off(cut: int) -> None:
    files, log = disk_with_segments()
    path = log.segments[-1].path(".log")
    size = files.size(path)
    files.open(path).truncate(size - cut)
    log = open_log(files, SMALL)
    assert offsets(log) == list(range(19))
    append_many(log, 3)
    assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(22)]


@pytest.mark.parametrize("tail", [b"\0" * 10, b"\0" * 500, b"garbage" * 30])
def test_garbage_behind_the_last_batch_is_cut_off(tail: bytes) -> None:
    files, log = disk_with_segments()
    files.open(log.segments[-1].path(".log")).append(tail)
    log = open_log(files, SMALL)
    assert offsets(log) == list(range(20))
    assert files.size(log.segments[-1].path(".log")) == log.segments[-1].size


def test_a_wrong_crc_ends_the_log_and_later_segments_go() -> None:
    files, log = disk_with_segments()
    second = log.segments[1]
    overwrite(files, second.path(".log"), second.size - 20, b"X")
    log = open_log(files, SMALL)
    assert offsets(log) == list(range(9))
    assert names(files, ".log") == [0, 5]
    assert names(files, ".snapshot") == [5]
    assert log.log_end_offset == 9


def test_a_wrong_crc_below_the_recovery_point_is_left_to_the_readers() -> None:
    """A log with rot below its recovery point must not shrink: it would take others' data with it."""
    files, log = disk_with_segments()
    overwrite(files, log.segments[0].path(".log"), 100, b"X")
    assert open_log(files, SMALL, recovery_point=12).log_end_offset == 20


def test_offsets_that_go_back_end_the_log() -> None:
    files, log = disk_with_segments()
    last = log.segments[-1]
    overwrite(files, last.path(".log"), last.size - 170, struct.pack(">q", 3))
    assert open_log(files, SMALL).log_end_offset < 20


def test_missing_and_damaged_indexes_are_rebuilt() -> None:
    files, log = disk_with_segments(close=True)
    wanted = [(segment.offset_index.entries(), segment.time_index.entries()) for segment in log.segments]
    assert all(entry[0] for entry in wanted)
    for segment in log.segments:
        files.remove(segment.path(".index"))
        files.remove(segment.path(".timeindex"))
    log = open_log(files, SMALL, clean=True, recovery_point=20)
    assert [(segment.offset_index.entries(), segment.time_index.entries()) for segment in log.segments] == wanted
    log.abandon("test")
    overwrite(files, log.segments[0].path(".index"), 0, bytes(files.size(log.segments[0].path(".index"))))
    log = open_log(files, SMALL, recovery_point=12)
    assert log.segments[0].offset_index.entries() == wanted[0][0]


def test_an_index_without_a_segment_is_removed() -> None:
    files, _ = disk_with_segments(close=True)
    for suffix in (".index", ".timeindex", ".txnindex"):
        files.write_atomic(f"{DIRECTORY}/{99:020d}{suffix}", b"")
    open_log(files, SMALL, clean=True, recovery_point=20)
    assert all(99 not in names(files, suffix) for suffix in (".index", ".timeindex", ".txnindex"))


def test_unfinished_and_retired_files_are_removed() -> None:
    files, _ = disk_with_segments()
    for name in (".log.cleaned", ".index.cleaned", ".log.deleted", ".snapshot.deleted"):
        files.write_atomic(f"{DIRECTORY}/{5:020d}{name}", b"whatever")
    log = open_log(files, SMALL)
    assert offsets(log) == list(range(20))
    assert not [name for name in files.listdir(DIRECTORY) if name.endswith((".cleaned", ".deleted"))]


def swap_file(files: MemoryFiles, log: PartitionLog) -> bytes:
    """The second and third segment as one, without the odd offsets: what compaction would write."""
    parts = []
    for segment in log.segments[1:3]:
        data = files.read_bytes(segment.path(".log"))
        parts += [data[at : at + header.size] for at, header in segment.headers() if header.base_offset % 2 == 0]
    return b"".join(parts)


def test_a_finished_swap_takes_the_place_of_its_segments() -> None:
    files, log = disk_with_segments()
    log = open_log(files, SMALL)
    files.write_atomic(f"{DIRECTORY}/{5:020d}.log.swap", swap_file(files, log))
    files.write_atomic(f"{DIRECTORY}/{5:020d}.index.swap", b"")
    files.kill()
    log = open_log(files, SMALL)
    assert offsets(log) == [*range(5), 6, 8, 10, 12, 14, *range(15, 20)]
    assert names(files, ".log") == [0, 5, 15]
    assert names(files, ".swap") == []
    assert read_all(log, start=9)[0].offset == 10


def test_a_swap_beside_an_unfinished_one_is_given_up() -> None:
    files, log = disk_with_segments()
    log = open_log(files, SMALL)
    files.write_atomic(f"{DIRECTORY}/{5:020d}.log.swap", swap_file(files, log))
    files.write_atomic(f"{DIRECTORY}/{0:020d}.log.cleaned", b"half")
    files.kill()
    log = open_log(files, SMALL)
    assert offsets(log) == list(range(20))
    assert names(files, ".log") == [0, 5, 10, 15]


def test_producers_are_rebuilt_from_snapshot_and_batches() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for sequence in range(30):
        append(log, idempotent(7, 0, sequence))
    files.kill()
    log = open_log(files, SMALL)
    assert append(log, idempotent(7, 0, 28)).duplicate
    assert append(log, idempotent(7, 0, 30)).first_offset == 30


def test_a_damaged_snapshot_is_replaced_by_an_older_one() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for sequence in range(30):
        append(log, idempotent(7, 0, sequence))
    log.close()
    files.kill()
    overwrite(files, f"{DIRECTORY}/{30:020d}.snapshot", 3, b"XX")
    log = open_log(files, SMALL, clean=True, recovery_point=30)
    assert 30 not in names(files, ".snapshot")
    assert append(log, idempotent(7, 0, 30)).first_offset == 30


def test_snapshots_that_belong_to_no_segment_are_removed_except_the_newest() -> None:
    files, _ = disk_with_segments(close=True)
    files.write_atomic(f"{DIRECTORY}/{7:020d}.snapshot", b"")
    open_log(files, SMALL, clean=True, recovery_point=20)
    assert names(files, ".snapshot") == [5, 10, 15, 20]


def test_leader_epochs_are_learned_from_the_batches() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for number in range(9):
        append(log, batch([b"x"]), leader_epoch=number // 3)
    files.kill()
    assert open_log(files, SMALL).leader_epochs.entries == [(0, 0), (1, 3), (2, 6)]


def test_epochs_beyond_the_end_are_dropped() -> None:
    files, log = disk_with_segments()
    files.write_atomic(f"{DIRECTORY}/leader-epoch-checkpoint", b"0\n2\n0 0\n5 99\n")
    log = open_log(files, SMALL)
    assert log.leader_epochs.entries == [(0, 0)]


@pytest.mark.parametrize("clean", [True, False])
def test_lost_leader_epochs_are_read_from_the_batches(clean: bool) -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    for epoch in (0, 3, 4):
        append_many(log, 7, leader_epoch=epoch)
    expected = log.leader_epochs.entries
    log.close()
    files.write_atomic(f"{DIRECTORY}/leader-epoch-checkpoint", b"rubbish")
    log = open_log(files, SMALL, clean=clean, recovery_point=21)
    assert log.leader_epochs.entries == expected == [(0, 0), (3, 7), (4, 14)]


def test_the_log_start_comes_from_the_checkpoint_or_the_first_segment() -> None:
    files, _ = disk_with_segments()
    assert open_log(files, SMALL, log_start_offset=7).log_start_offset == 7
    for suffix in (".log", ".index", ".timeindex"):
        files.remove(f"{DIRECTORY}/{0:020d}{suffix}")
    assert open_log(files, SMALL, log_start_offset=3).log_start_offset == 5


def test_a_log_that_ends_before_its_start_begins_anew_there() -> None:
    files, _ = disk_with_segments()
    log = open_log(files, SMALL, log_start_offset=50, high_watermark=50)
    assert (log.log_start_offset, log.log_end_offset) == (50, 50)
    append_many(log, 1)
    assert offsets(log) == [50]


def test_an_empty_directory_becomes_an_empty_log() -> None:
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    assert open_log(files).log_end_offset == 0


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_before_0_11_are_recovered(magic: int) -> None:
    files = MemoryFiles(lambda: NOW)
    files.mkdir(DIRECTORY)
    data = b"".join(old_message(magic, offset, NOW + offset) for offset in range(5))
    files.write_atomic(f"{DIRECTORY}/{0:020d}.log", data + data[:20])
    log = open_log(files)
    assert (log.log_end_offset, log.size) == (5, len(data))
    assert log.read(2, 1 << 20, upper_offset=5).read() == data[2 * len(data) // 5 :]


def durable_disk() -> MemoryFiles:
    files = MemoryFiles(lambda: NOW)
    files.mkdir("data")
    files.sync_dir("")
    return files


@pytest.mark.parametrize("seed", range(20))
def test_what_recovery_cut_off_does_not_come_back_with_a_second_crash(seed: int) -> None:
    files = durable_disk()
    log = open_log(files, SMALL)
    append_many(log, 20)
    log.flush()
    overwrite(files, log.segments[1].path(".log"), 300, b"X")
    files.kill()
    end = open_log(files, SMALL).log_end_offset
    assert end < 10
    files.power_cut(random.Random(seed))
    assert open_log(files, SMALL).log_end_offset == end


@pytest.mark.parametrize("seed", range(20))
def test_what_was_truncated_and_flushed_does_not_come_back(seed: int) -> None:
    files = durable_disk()
    log = open_log(files, SMALL)
    append_many(log, 8)
    log.flush()
    log.truncate_to(6, now_ms=NOW)
    log.flush()
    files.power_cut(random.Random(seed))
    assert open_log(files, SMALL).log_end_offset == 6


@pytest.mark.parametrize("seed", range(20))
def test_the_segment_that_ends_at_the_recovery_point_is_read_again(seed: int) -> None:
    """1. Its batches are synced. 2. It is sealed: last index entries, aborted transactions. 3. The power goes."""
    files = durable_disk()
    log = open_log(files, SMALL)
    append(log, idempotent(7, 0, 0, transactional=True))
    marker(log, ControlType.ABORT, 7, 0)
    append(log, batch([b"x"], timestamp=NOW + 9))
    recovery_point = log.flush()
    log.roll(NOW)
    files.power_cut(random.Random(seed))
    log = open_log(files, SMALL, recovery_point=recovery_point)
    assert log.log_end_offset == 3
    assert log.aborted_transactions(0, 3) == [(7, 0)]
    assert log.offset_of_max_timestamp() == (2, NOW + 9, 0)
