"""A full disk, a failing disk: what is refused, what stays readable, and that nothing is acknowledged wrongly."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from tests.storage.log_support import DIRECTORY, NOW, append, append_many, batch, open_log, read_all, value_of

from ottla.errors import KafkaStorageError, StorageError
from ottla.storage.config import LogConfig
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles

SMALL = LogConfig(segment_bytes=900, index_interval_bytes=0)


class Hooks:
    def __init__(self) -> None:
        self.flush_due = 0
        self.removed: list[str] = []
        self.failures: list[OSError] = []

    def on_flush_due(self, log: PartitionLog) -> None:
        self.flush_due += 1

    def on_files_removed(self, log: PartitionLog, paths: list[str]) -> None:
        self.removed += paths

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
