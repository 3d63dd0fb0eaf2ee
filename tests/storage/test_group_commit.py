"""Group commit: several logs of one directory brought to the disk by one sync of its file system."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections import Counter
from typing import Any

import pytest
from tests.storage.log_support import NOW, TOPIC_ID, append_many, open_log, read_all

from ottla.errors import KafkaStorageError, StorageError
from ottla.offload import InlineOffload
from ottla.storage.config import LogConfig
from ottla.storage.group_commit import ROUNDS_WITHOUT, SHARED_MIN, GroupCommit
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles
from ottla.types import TopicPartition


class Bench:
    """Logs in one directory of a disk that counts what it is asked for."""

    def __init__(self, count: int = SHARED_MIN, lock: threading.RLock | None = None) -> None:
        self.files = MemoryFiles(lambda: NOW)
        self.asked: Counter[str] = Counter()
        self.files.fail = self.count
        self.files.mkdir("data")
        self.file_system = self.files.file_system("data")
        self.commits = GroupCommit(InlineOffload(), lambda: NOW, self.file_system)
        self.lock = lock
        self.logs = [self.open(number) for number in range(count)]
        for log in self.logs:
            append_many(log, 1)
            log.flush()
        self.asked.clear()

    def open(self, number: int) -> PartitionLog:
        tp = TopicPartition("t", number)
        return PartitionLog.open(
            self.files, f"data/{tp}", tp, LogConfig(), now_ms=NOW, topic_id=TOPIC_ID, lock=self.lock
        )

    def count(self, operation: str, path: str) -> None:
        self.asked[operation] += 1

    def fail(self, operation: str, code: int = errno.EIO) -> None:
        def fail(name: str, path: str) -> None:
            self.count(name, path)
            if name == operation:
                raise OSError(code, "a fault of the test", path)

        self.files.fail = fail

    async def commit(self, *logs: PartitionLog) -> list[BaseException | None]:
        """Append one record to each, commit them in one round, and return what each was told."""
        told: dict[PartitionLog, BaseException | None] = {}
        for log in logs:
            append_many(log, 1)
            self.commits.commit(log, lambda error, log=log: told.update({log: error}))  # type: ignore[misc]
        await self.commits.drain()
        return [told[log] for log in logs]


def survivors(bench: Bench, log: PartitionLog) -> int:
    """Cut the power where nothing that was not synced survives; return how many records the log has then."""

    class Unlucky(random.Random):
        def randint(self, a: int, b: int) -> int:
            return a

        def random(self) -> float:
            return 1.0

    bench.files.fail = None
    bench.files.power_cut(Unlucky())
    return len(read_all(bench.open(log.topic_partition.partition)))


async def test_several_logs_share_one_sync_of_the_file_system() -> None:
    bench = Bench()
    assert await bench.commit(*bench.logs) == [None] * SHARED_MIN
    assert bench.asked["sync_file_system"] == bench.files.whole_syncs == 1
    assert bench.asked["sync"] == 1, "one file by itself, for what syncfs keeps quiet about"
    assert [log.recovery_point for log in bench.logs] == [2] * SHARED_MIN
    assert survivors(bench, bench.logs[0]) == 2


async def test_a_sync_of_everything_that_says_nothing_of_an_error_is_not_believed() -> None:
    bench = Bench()

    def fail(operation: str, path: str) -> None:
        if operation == "sync":
            raise OSError(errno.EROFS, "remounted read-only", path)

    bench.files.fail = fail
    assert all(isinstance(problem, StorageError) for problem in await bench.commit(*bench.logs))
    assert [log.recovery_point for log in bench.logs] == [1] * SHARED_MIN


async def test_a_round_that_ends_early_calls_back_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is called once, whatever was met, and the next round brings everything to the disk."""
    bench = Bench()
    begin = PartitionLog.end_flush

    def fail(_log: PartitionLog, _point: object) -> bool:
        monkeypatch.setattr(PartitionLog, "end_flush", begin)
        raise RuntimeError("nobody has thought of this")

    monkeypatch.setattr(PartitionLog, "end_flush", fail)
    told: list[BaseException | None] = []
    for log in bench.logs:
        append_many(log, 1)
        bench.commits.commit(log, told.append)
    await bench.commits.drain()
    assert [type(problem) for problem in told] == [KafkaStorageError] * SHARED_MIN
    assert await bench.commit(*bench.logs) == [None] * SHARED_MIN
    assert [log.recovery_point for log in bench.logs] == [3] * SHARED_MIN


async def test_a_log_whose_flush_cannot_begin_is_no_matter_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(SHARED_MIN + 1)
    broken = bench.logs[1]
    begin, flush = PartitionLog.begin_flush, PartitionLog.flush

    def fail(log: PartitionLog) -> None:
        if log is broken:
            raise OSError(errno.EIO, "a fault of the test", log.directory)

    def begin_flush(log: PartitionLog, now_ms: int) -> object:
        fail(log)
        return begin(log, now_ms)

    def flush_or_fail(log: PartitionLog, **options: int) -> None:
        fail(log)
        flush(log, **options)

    monkeypatch.setattr(PartitionLog, "begin_flush", begin_flush)
    monkeypatch.setattr(PartitionLog, "flush", flush_or_fail)
    told = await bench.commit(*bench.logs)
    assert isinstance(told[1], StorageError)
    assert [told[0], *told[2:]] == [None] * SHARED_MIN
    assert [log.recovery_point for log in bench.logs] == [2, 1, *[2] * (SHARED_MIN - 1)]


@pytest.mark.parametrize("count", [1, SHARED_MIN])
async def test_without_a_thread_everybody_is_told_and_the_next_commit_covers_it(count: int) -> None:
    class NoThreads(InlineOffload):
        broken = True

        async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.broken:
                raise RuntimeError("can't start new thread")
            return function(*args, **kwargs)

    bench = Bench()
    threads = bench.commits._offload = NoThreads()
    logs = bench.logs[:count]
    assert all(isinstance(problem, KafkaStorageError) for problem in await bench.commit(*logs))
    assert [log.recovery_point for log in logs] == [1] * count
    threads.broken = False
    assert await bench.commit(*logs) == [None] * count
    assert [log.recovery_point for log in logs] == [3] * count


async def test_few_logs_are_synced_one_by_one() -> None:
    bench = Bench()
    assert await bench.commit(*bench.logs[1:]) == [None] * (SHARED_MIN - 1)
    assert bench.asked["sync_file_system"] == 0
    assert bench.asked["sync"] == SHARED_MIN - 1


async def test_what_is_appended_during_the_sync_does_not_count_as_synced() -> None:
    bench = Bench()
    late = bench.logs[0]

    def append_once(operation: str, path: str) -> None:
        bench.count(operation, path)
        if operation == "sync_file_system" and late.log_end_offset == 2:
            append_many(late, 1)

    bench.files.fail = append_once
    assert await bench.commit(*bench.logs) == [None] * SHARED_MIN
    assert (late.recovery_point, late.log_end_offset) == (2, 3)


async def test_a_commit_during_a_round_waits_for_the_next_one() -> None:
    bench = Bench()
    told: list[BaseException | None] = []

    def commit_once(operation: str, path: str) -> None:
        if operation == "sync_file_system" and not told:
            append_many(bench.logs[0], 1)
            bench.commits.commit(bench.logs[0], told.append)

    bench.files.fail = commit_once
    await bench.commit(*bench.logs)
    assert told == [None]
    assert bench.logs[0].recovery_point == bench.logs[0].log_end_offset == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE])
async def test_a_failed_sync_fails_every_log_and_is_not_tried_again(code: int) -> None:
    bench = Bench()
    bench.fail("sync_file_system", code)
    told = await bench.commit(*bench.logs)
    assert all(isinstance(error, StorageError) for error in told)
    assert [log.recovery_point for log in bench.logs] == [1] * SHARED_MIN
    assert all(log.failure is not None for log in bench.logs)
    bench.files.fail = bench.count
    bench.asked.clear()
    again: list[BaseException | None] = []
    for log in bench.logs:
        bench.commits.commit(log, again.append)
    await bench.commits.drain()
    assert all(isinstance(error, StorageError) for error in again)
    assert not bench.asked["sync_file_system"]
    assert not bench.asked["sync"]


async def test_where_much_is_dirty_single_logs_are_synced_for_a_while() -> None:
    bench = Bench()
    asked = 0

    def is_too_dirty() -> bool:
        nonlocal asked
        asked += 1
        return True

    bench.files.is_too_dirty = is_too_dirty
    for _ in range(ROUNDS_WITHOUT + 1):
        assert await bench.commit(*bench.logs) == [None] * SHARED_MIN
    assert asked == 1
    assert bench.asked["sync_file_system"] == 0
    bench.files.is_too_dirty = lambda: False
    assert await bench.commit(*bench.logs) == [None] * SHARED_MIN
    assert bench.asked["sync_file_system"] == 1
    assert [log.recovery_point for log in bench.logs] == [ROUNDS_WITHOUT + 3] * SHARED_MIN


async def test_a_log_with_more_to_do_than_data_does_it_itself() -> None:
    bench = Bench(SHARED_MIN + 1)
    rolled = bench.logs[0]
    append_many(rolled, 1)
    rolled.roll(NOW)
    assert await bench.commit(*bench.logs) == [None] * (SHARED_MIN + 1)
    assert bench.asked["sync_file_system"] == 1
    assert bench.asked["sync_dir"] == 1  # the name of its new segment
    assert survivors(bench, rolled) == rolled.recovery_point == 3


async def test_a_log_that_another_thread_changes_is_left_to_the_ordinary_way() -> None:
    lock = threading.RLock()
    log = open_log(lock=lock)
    append_many(log, 1)
    log.flush()
    append_many(log, 1)
    point = log.begin_flush(NOW)
    assert point is not None
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            assert may_go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert await asyncio.to_thread(is_held.wait, 20)
    assert log.begin_flush(NOW) is None
    assert not log.end_flush(point)
    assert log.recovery_point == 1
    may_go.set()
    thread.join()
    assert log.end_flush(point)
    assert log.recovery_point == 2


async def test_a_truncation_during_the_sync_keeps_the_recovery_point_down() -> None:
    log = open_log()
    append_many(log, 1)
    log.flush()
    append_many(log, 3)
    point = log.begin_flush(NOW)
    assert point is not None
    log.truncate_to(1)
    append_many(log, 1)
    assert log.end_flush(point)
    assert (log.recovery_point, log.log_end_offset) == (1, 2)
    assert log.begin_flush(NOW) is None  # the file became shorter


async def test_one_waiter_that_fails_does_not_take_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    told: list[BaseException | None] = []

    def fail(_error: BaseException | None) -> None:
        raise ValueError("a fault of the test")

    for log in bench.logs:
        append_many(log, 1)
        bench.commits.commit(log, fail)
        bench.commits.commit(log, told.append)
    await bench.commits.drain()
    assert told == [None] * SHARED_MIN
    assert len(caplog.records) == SHARED_MIN


async def test_without_a_descriptor_a_log_of_its_own_way_may_be_committed_later() -> None:
    bench = Bench(SHARED_MIN + 1)
    rolled = bench.logs[0]
    append_many(rolled, 1)
    rolled.roll(NOW)
    bench.fail("sync_dir", errno.EMFILE)
    told = await bench.commit(*bench.logs)
    assert [type(error) for error in told] == [KafkaStorageError] + [type(None)] * SHARED_MIN
    bench.files.fail = None
    assert await bench.commit(*bench.logs) == [None] * (SHARED_MIN + 1)
    assert survivors(bench, rolled) == 4
