"""A full disk, a failing disk: what is refused, what stays readable, and that nothing is acknowledged wrongly."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable

import pytest
from tests.storage.log_support import DIRECTORY, NOW, append, append_many, batch, open_log, read_all, value_of

from ottla.errors import KafkaStorageError, StorageError
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.storage.segment import Segment
from ottla.testing.memory_files import MemoryFiles

SMALL = LogConfig(segment_bytes=900, index_interval_bytes=0)


class Hooks:
    def __init__(self) -> None:
        self.flush_due = 0
        self.removed: list[str] = []
        self.refused: list[OSError] = []
        self.failures: list[OSError] = []

    def on_flush_due(self, log: PartitionLog) -> None:
        self.flush_due += 1

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        self.removed += paths

    def on_refused(self, log: PartitionLog, error: OSError) -> None:
        self.refused.append(error)

    def on_failed(self, log: PartitionLog, error: OSError) -> None:
        self.failures.append(error)


def failing(operation: str, suffix: str = "", code: int = errno.EIO) -> Callable[[str, str], None]:
    def fail(name: str, path: str) -> None:
        if name == operation and path.endswith(suffix):
            raise OSError(code, "a fault of the test", path)

    return fail


def started(config: LogConfig = SMALL) -> tuple[MemoryFiles, PartitionLog, Hooks]:
    files, hooks = MemoryFiles(lambda: NOW), Hooks()
    log = open_log(files, config, hooks=hooks)
    append_many(log, 3)
    return files, log, hooks


@pytest.mark.parametrize("room", [0, 1, 60, 61, 150])
def test_on_a_full_disk_appends_are_refused_and_leave_nothing(room: int) -> None:
    files, log, hooks = started()
    files.capacity = files.used + room
    for _ in range(3):
        with pytest.raises(KafkaStorageError):
            append(log, batch([b"." * 100]))
    assert len(read_all(log)) == 3, "reads go on"
    assert files.size(log.segments[-1].path(".log")) == log.size
    assert not hooks.failures
    files.capacity = 1 << 40
    append_many(log, 3)
    assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(6)]


def test_a_full_disk_refuses_a_roll_and_it_succeeds_later() -> None:
    files, log, hooks = started()
    append_many(log, 2)
    files.fail = failing("open", ".log", errno.ENOSPC)
    for _ in range(2):
        with pytest.raises(KafkaStorageError):
            append(log, batch([b"." * 100]))
    files.fail = None
    append_many(log, 6)
    assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(11)]
    files.kill()
    assert len(read_all(open_log(files, SMALL))) == 11
    assert not hooks.failures


@pytest.mark.parametrize(("operation", "suffix"), [("append", ".log"), ("open", ".log"), ("write_atomic", ".snapshot")])
def test_any_other_error_of_an_append_or_a_roll_fails_the_log_for_good(operation: str, suffix: str) -> None:
    files, log, hooks = started()
    append_many(log, 2)
    files.fail = failing(operation, suffix)
    with pytest.raises(StorageError):
        append(log, batch([b"." * 100]))
    files.fail = None
    assert len(hooks.failures) == 1
    with pytest.raises(StorageError, match="failed"):
        append(log, batch([b"x"]))
    with pytest.raises(StorageError, match="failed"):
        log.read(0, 100, upper_offset=1)


def test_a_partial_write_that_cannot_be_taken_back_fails_the_log() -> None:
    files, log, hooks = started()
    files.capacity = files.used + 10
    files.fail = failing("truncate", ".log")
    with pytest.raises(StorageError):
        append(log, batch([b"." * 100]))
    assert len(hooks.failures) == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_fsync_is_final(code: int) -> None:
    """Its pages count as clean after it: a second fsync would succeed and prove nothing. Even where it says ENOSPC."""
    files, log, hooks = started()
    files.fail = failing("sync", ".log", code)
    with pytest.raises(StorageError):
        log.flush()
    files.fail = None
    assert log.recovery_point == 0
    with pytest.raises(StorageError):
        log.flush()
    with pytest.raises(StorageError):
        log.close()
    assert len(hooks.failures) == 1


@pytest.mark.parametrize(("operation", "suffix"), [("sync_dir", "t-0"), ("write_atomic", "leader-epoch-checkpoint")])
def test_what_a_flush_needs_besides_the_data_must_succeed(operation: str, suffix: str) -> None:
    files, log, hooks = started()
    files.fail = failing(operation, suffix)
    with pytest.raises(StorageError):
        log.flush()
    assert log.recovery_point == 0
    assert len(hooks.failures) == 1


def test_a_read_error_fails_the_log() -> None:
    files, log, hooks = started()
    append_many(log, 30)
    files.fail = failing("pread")
    with pytest.raises(StorageError):
        log.read(0, 100, upper_offset=33)
    assert len(hooks.failures) == 1


def test_errors_after_a_log_was_given_up_are_nobodys_business() -> None:
    files, log, hooks = started()
    log.abandon("deleted")
    files.fail = failing("sync")
    with pytest.raises(StorageError, match="deleted"):
        log.flush()
    assert not hooks.failures


def test_flush_messages_asks_for_a_flush_when_that_many_wait() -> None:
    files, hooks = MemoryFiles(lambda: NOW), Hooks()
    log = open_log(files, LogConfig(flush_messages=3), hooks=hooks)
    append_many(log, 2)
    assert hooks.flush_due == 0
    append_many(log, 1)
    assert hooks.flush_due == 1
    log.flush()
    append_many(log, 2)
    assert hooks.flush_due == 1
    assert not log.flush_needed_before_ack
    assert open_log(config=LogConfig(flush_messages=1)).flush_needed_before_ack


def test_removed_files_are_renamed_and_handed_over() -> None:
    files, log, hooks = started()
    append_many(log, 12)
    log.advance_high_watermark(15)
    log.advance_log_start(10)
    log.delete_old_segments(NOW)
    assert all(path.endswith(".deleted") and files.exists(path) for path in hooks.removed)
    assert {path[len(DIRECTORY) + 1 :][20:] for path in hooks.removed} == {
        ".log.deleted",
        ".index.deleted",
        ".timeindex.deleted",
        ".snapshot.deleted",
    }


def test_a_flush_syncs_sealed_segments_and_their_directory_entries_first() -> None:
    files, log, _ = started()
    append_many(log, 12)
    order: list[str] = []
    files.fail = lambda operation, path: order.append(path[len(DIRECTORY) + 1 :]) if "sync" in operation else None
    assert log.flush() == 15
    files.fail = None
    logs = [name for name in order if name.endswith(".log")]
    assert logs == [f"{base:020d}.log" for base in (0, 5, 10)]
    assert "" in order, "the directory itself"
    assert f"{0:020d}.timeindex" in order
    assert log.flush() == 15


# ------------------------------------------------------------------------------------------------ errors that pass

OUT_OF_DESCRIPTORS = [errno.EMFILE, errno.ENFILE]


def flush_and_lose_power(files: MemoryFiles, log: PartitionLog) -> None:
    """What a flush that failed once must still bring to the disk."""
    end = log.log_end_offset
    assert log.flush() == end == log.recovery_point
    files.sync_dir(".")  # the name of the log directory is not the log's business
    files.power_cut(random.Random(1))
    again = open_log(files, SMALL, recovery_point=end)
    assert [record.value for record in read_all(again)] == [value_of(offset) for offset in range(end)]
    assert again.leader_epochs.entries == log.leader_epochs.entries
    assert again.recovered_bytes <= SMALL.segment_bytes * 2


def test_a_flush_without_room_for_the_leader_epochs_is_left_for_the_next_one() -> None:
    files, log, hooks = started()
    append_many(log, 9)
    files.fail = failing("write_atomic", "leader-epoch-checkpoint", errno.ENOSPC)
    for _ in range(2):
        with pytest.raises(KafkaStorageError):
            log.flush()
    assert (log.recovery_point, log.failure, hooks.failures) == (0, None, [])
    append_many(log, 1)
    files.fail = None
    flush_and_lose_power(files, log)


@pytest.mark.parametrize("code", OUT_OF_DESCRIPTORS)
@pytest.mark.parametrize(
    ("operation", "suffix"),
    [("sync", ".snapshot"), ("sync", "index"), ("sync_dir", "t-0"), ("sync_dir", "data"), ("write_atomic", "point")],
)
def test_a_flush_without_a_descriptor_is_left_for_the_next_one(operation: str, suffix: str, code: int) -> None:
    files, log, hooks = started()
    append_many(log, 9)
    files.fail = failing(operation, suffix, code)
    with pytest.raises(KafkaStorageError):
        log.flush()
    assert (log.recovery_point, log.failure, hooks.failures) == (0, None, [])
    files.fail = None
    flush_and_lose_power(files, log)


@pytest.mark.parametrize("code", OUT_OF_DESCRIPTORS)
def test_without_a_descriptor_reads_and_appends_are_refused_and_succeed_later(code: int) -> None:
    files, log, hooks = started()
    append_many(log, 9)
    log.close()
    log = open_log(files, SMALL, clean=True, recovery_point=12, hooks=hooks)
    files.fail = failing("open", code=code)
    with pytest.raises(KafkaStorageError):
        log.read(0, 100, upper_offset=12)
    with pytest.raises(KafkaStorageError):
        append(log, batch([value_of(12)]))
    files.fail = None
    append_many(log, 3)
    assert [record.value for record in read_all(log)] == [value_of(offset) for offset in range(15)]
    assert (log.failure, hooks.failures) == (None, [])


@pytest.mark.parametrize("code", [*OUT_OF_DESCRIPTORS, errno.ENOSPC])
@pytest.mark.parametrize("suffix", [".snapshot", "leader-epoch-checkpoint"])
def test_a_close_that_fails_for_now_can_be_repeated(suffix: str, code: int) -> None:
    files, log, hooks = started()
    files.fail = failing("write_atomic", suffix, code)
    with pytest.raises(KafkaStorageError):
        log.close()
    assert (log.failure, hooks.failures) == (None, [])
    files.fail = None
    log.close()
    again = open_log(files, SMALL, clean=True, recovery_point=3)
    assert len(read_all(again)) == 3
    assert again.leader_epochs.latest == 0


@pytest.mark.parametrize("code", OUT_OF_DESCRIPTORS)
def test_where_it_cannot_be_taken_back_the_log_is_given_up_but_not_its_directory(code: int) -> None:
    files, log, hooks = started()
    append_many(log, 9)
    files.fail = failing("rename", code=code)
    with pytest.raises(StorageError):
        log.truncate_to(2)
    assert log.failure is not None
    assert not hooks.failures


def test_an_error_that_passes_is_no_reason_to_give_a_log_up() -> None:
    _, log, hooks = started()
    for code in (*OUT_OF_DESCRIPTORS, errno.ENOSPC):
        log.on_io_error(OSError(code, "for now"))
    assert (log.failure, hooks.failures) == (None, [])
    log.on_io_error(OSError(errno.EIO, "for good"))
    assert log.failure is not None
    assert len(hooks.failures) == 1


# ------------------------------------------------------------------------------------------------ the lock


def is_held_for_others(lock: threading.RLock) -> bool:
    """Whether another thread would have to wait."""
    answers: list[bool] = []

    def ask() -> None:
        taken = lock.acquire(blocking=False)
        if taken:
            lock.release()
        answers.append(not taken)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


def compacted(log: PartitionLog) -> tuple[Segment, list[Segment]]:
    """Return a segment without the odd offsets of the two it was made from."""
    old = log.segments[1:3]
    new = Segment(old[0].open_files, DIRECTORY, old[0].base_offset, suffix=".cleaned")
    new.create(NOW)
    for segment in old:
        for _, header, data in segment.batches():
            if not header.base_offset % 2:
                new.note_batch(new.append(data), header.size, header.last_offset, header.max_timestamp, 0)
    new.finish()
    new.sync()
    new.close()
    return new, old


def test_a_swap_waits_for_the_disk_without_the_lock() -> None:
    files = MemoryFiles(lambda: NOW)
    lock = threading.RLock()
    log = open_log(files, SMALL, lock=lock)
    append_many(log, 20)
    new, old = compacted(log)
    would_wait: list[bool] = []

    def look(operation: str, path: str) -> None:
        if operation == "sync_dir":
            files.fail = None
            would_wait.append(is_held_for_others(lock))
            append_many(log, 6)  # with a roll
            log.advance_high_watermark(log.log_end_offset)
            log.advance_log_start(10)
            assert log.delete_old_segments(NOW) == (0 if len(would_wait) == 1 else 1), "none between the two"
            files.fail = look

    files.fail = look
    log.replace_segments([new], old)
    files.fail = None
    assert would_wait == [False, False]
    assert [record.offset for record in read_all(log)] == [10, 12, 14, *range(15, 32)]
    files.kill()
    again = open_log(files, SMALL, log_start_offset=10)
    assert [record.offset for record in read_all(again)] == [10, 12, 14, *range(15, 32)]


def test_a_truncation_takes_back_segments_that_are_being_swapped_in() -> None:
    files = MemoryFiles(lambda: NOW)
    log = open_log(files, SMALL)
    append_many(log, 20)
    new, old = compacted(log)

    def cut(operation: str, path: str) -> None:
        if operation == "sync_dir":
            files.fail = None
            log.truncate_to(7)

    files.fail = cut
    with pytest.raises(ValueError, match="cut off"):
        log.replace_segments([new], old)
    assert new.suffix == ".cleaned"
    append_many(log, 2)
    for case in (log, None):
        if case is None:
            files.kill()
        records = read_all(case or open_log(files, SMALL))
        assert [record.value for record in records] == [value_of(offset) for offset in range(9)]


def test_a_swap_without_a_descriptor_is_taken_back() -> None:
    files, log, hooks = started()
    append_many(log, 17)
    new, old = compacted(log)
    files.fail = failing("sync_dir", code=errno.EMFILE)
    with pytest.raises(KafkaStorageError):
        log.replace_segments([new], old)
    files.fail = None
    assert (new.suffix, log.failure, hooks.failures) == (".cleaned", None, [])
    assert len(read_all(log)) == 20
    log.replace_segments([new], old)
    assert len(read_all(log)) == 15
    files.kill()
    assert len(read_all(open_log(files, SMALL))) == 15
