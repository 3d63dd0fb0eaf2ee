"""Partition: what consumers may see, who is woken, and where writes run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from ottla.broker.replicas.disk_pace import BRIEF_MS, CALM_MS, QUEUED_BYTES_MAX, SLOW_MS, DiskPace
from ottla.broker.replicas.hand_offs import HandOffs
from ottla.broker.replicas.partition import Partition
from ottla.broker.replicas.purgatory import FetchWaiter
from ottla.errors import ErrorCode, KafkaError, KafkaStorageError, OffsetOutOfRangeError, RequestTimedOutError
from ottla.offload import InlineOffload, Offload
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.appended import AppendInfo
from ottla.storage.config import LogConfig
from ottla.storage.group_commit import Then
from ottla.storage.log import PartitionLog
from ottla.testing.memory_files import MemoryFiles
from ottla.types import CompressionType, IsolationLevel, TopicPartition

UNCOMMITTED = IsolationLevel.READ_UNCOMMITTED


class HandClock:
    """A clock that the test moves; reading it may cost time, as a slow write does, and that time may be spent waiting."""

    def __init__(self) -> None:
        self.now = 1_000
        self.cost = 0
        self.waits = True
        self._waited = 0

    def monotonic_ms(self) -> int:
        self.now += self.cost
        return self.now

    def wall_ms(self) -> int:
        return self.now

    def boot_ms(self) -> int:
        return self.now

    def thread_waits(self) -> int:
        self._waited += self.waits
        return self._waited


class HandCommits:
    """Group commits that end when the test says so."""

    def __init__(self) -> None:
        self.pending: list[tuple[PartitionLog, Then]] = []

    def commit(self, log: PartitionLog, then: Then) -> None:
        self.pending.append((log, then))

    async def finish(self, error: Exception | None = None, meanwhile: Callable[[], object] | None = None) -> None:
        log, then = self.pending.pop(0)
        if error is None:
            log.flush()
        if meanwhile is not None:
            meanwhile()
        then(error)
        await asyncio.sleep(0)


class Bench:
    """A partition with everything around it in the test's hands."""

    def __init__(
        self,
        flush_messages: int = LogConfig().flush_messages,
        lock: threading.RLock | None = None,
        disk: Offload | None = None,
    ) -> None:
        self.disk = disk or InlineOffload()
        self.clock = HandClock()
        self.commits = HandCommits()
        self.pace = DiskPace()
        self.files = MemoryFiles()
        topic_partition = TopicPartition("orders", 0)
        self.log = PartitionLog.open(
            self.files,
            "data/orders-0",
            topic_partition,
            LogConfig(flush_messages=flush_messages),
            now_ms=self.clock.now,
            lock=lock,
        )
        self.hand_offs = HandOffs(self.disk)
        self.partition = self._partition_of(self.log)

    def another(self, topic: str) -> Partition:
        """Return another partition on the same disk."""
        topic_partition = TopicPartition(topic, 0)
        log = PartitionLog.open(self.files, f"data/{topic}-0", topic_partition, LogConfig(), now_ms=self.clock.now)
        return self._partition_of(log)

    def _partition_of(self, log: PartitionLog) -> Partition:
        partition = Partition(
            log,
            bytes(16),
            commits=self.commits,
            pace=self.pace,
            hand_offs=self.hand_offs,
            unpacking=asyncio.Lock(),
            offload=self.disk,
            clock=self.clock,
        )
        partition.become_leader(3)
        return partition

    def append(self, count: int = 1) -> AppendInfo:
        info = self.partition.append(batch(count))
        assert isinstance(info, AppendInfo)
        return info


def batch(count: int = 1) -> bytearray:
    return build_batch([Record(i, 1_000, b"key", b"value") for i in range(count)])


async def test_append_is_readable_at_once() -> None:
    bench = Bench()
    assert bench.append(3).last_offset == 2
    assert bench.partition.committed(2) is None
    part = bench.partition.read(0, 10_000, UNCOMMITTED, min_one=True)
    assert part is not None
    assert len(part.read()) == len(batch(3))
    assert bench.partition.read(3, 10_000, UNCOMMITTED, min_one=True) is None
    with pytest.raises(OffsetOutOfRangeError):
        bench.partition.read(4, 10_000, UNCOMMITTED, min_one=True)


async def test_with_flush_messages_1_nothing_is_shown_before_the_fsync() -> None:
    bench = Bench(flush_messages=1)
    bench.append(2)
    waiting = bench.partition.committed(1)
    assert waiting is not None
    assert not waiting.done()
    assert bench.log.high_watermark == 0
    assert bench.partition.read(0, 10_000, UNCOMMITTED, min_one=True) is None
    await bench.commits.finish()
    assert waiting.done()
    assert bench.log.high_watermark == 2


async def test_appends_during_a_commit_share_the_next_one() -> None:
    bench = Bench(flush_messages=1)
    bench.append()
    first = bench.commits.pending[0]
    for _ in range(5):
        bench.append()
    assert bench.commits.pending == [first]
    # The fsync that was under way when they came covers what the file held when it began; here that is all of it.
    await bench.commits.finish()
    assert bench.log.high_watermark == 6
    assert not bench.commits.pending


async def test_failed_commit_fails_those_who_wait_and_shows_nothing() -> None:
    bench = Bench(flush_messages=1)
    bench.append()
    waiting = bench.partition.committed(0)
    assert waiting is not None
    await bench.commits.finish(OSError(5, "the disk is gone"))
    with pytest.raises(KafkaStorageError):
        await waiting
    assert bench.log.high_watermark == 0


async def test_resigning_fails_those_who_wait() -> None:
    bench = Bench(flush_messages=1)
    bench.append()
    waiting = bench.partition.committed(0)
    assert waiting is not None
    bench.partition.resign()
    assert waiting.exception() is not None
    assert bench.partition.leader_epoch == -1


async def test_fetch_waits_for_enough_bytes() -> None:
    bench = Bench()
    size = len(batch())
    waiter = FetchWaiter([bench.partition], 2 * size, UNCOMMITTED)
    bench.append()
    assert not waiter.done.done()
    bench.append()
    assert waiter.done.done()


async def test_waiter_leaves_its_partitions_when_done() -> None:
    bench = Bench()
    waiter = FetchWaiter([bench.partition], 1, UNCOMMITTED)
    task = asyncio.ensure_future(waiter.wait(1_000_000))
    await asyncio.sleep(0)
    bench.append()
    await task
    assert not bench.partition.fetch_waiters


async def test_slow_write_sends_the_next_ones_off_the_loop_in_order() -> None:
    bench = Bench()
    bench.clock.cost = SLOW_MS
    assert isinstance(bench.partition.append(batch()), AppendInfo)
    bench.clock.cost = 0
    later = [bench.partition.append(batch(n)) for n in (1, 2, 3)]
    infos = [await info for info in later if not isinstance(info, AppendInfo)]
    assert [(info.first_offset, info.last_offset) for info in infos] == [(1, 1), (2, 3), (4, 6)]
    assert bench.log.high_watermark == 7
    bench.clock.now += CALM_MS
    assert isinstance(bench.partition.append(batch()), AppendInfo)


async def test_write_that_only_waited_for_a_processor_leaves_the_next_ones_on_the_loop() -> None:
    bench = Bench()
    bench.clock.cost, bench.clock.waits = SLOW_MS, False
    assert [isinstance(bench.partition.append(batch()), AppendInfo) for _ in range(3)] == [True] * 3
    ordinary = bench.partition.append_ordinary(memoryview(batch()), bench.clock.now)
    assert ordinary is not None
    assert ordinary.first_offset == 3


async def test_writes_come_back_to_the_loop_when_threads_found_the_disk_quick() -> None:
    """However long it took until a thread had its turn."""
    bench = Bench()
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    bench.partition._offload = offload = HandOffload()
    later = bench.partition.append(batch())
    assert isinstance(later, asyncio.Future)
    bench.clock.now += BRIEF_MS
    offload.go.set()
    await later
    await asyncio.sleep(0)
    assert isinstance(bench.partition.append(batch()), AppendInfo)


@pytest.mark.parametrize("codec", [codec for codec in CompressionType if codec])
async def test_batch_that_unpacks_to_much_is_checked_off_the_loop_and_keeps_its_place(codec: CompressionType) -> None:
    bench = Bench()
    large = build_batch([Record(0, 1_000, None, bytes(20 << 20))], compression=codec)
    appends = [bench.partition.append(b) for b in (batch(2), large, batch(3))]
    assert [isinstance(info, AppendInfo) for info in appends] == [True, False, False]
    infos = [info if isinstance(info, AppendInfo) else await info for info in appends]
    assert [info.last_offset for info in infos] == [1, 2, 5]
    small = build_batch([Record(0, 1_000, None, b"x" * 1_000)], compression=codec)
    assert isinstance(bench.partition.append(small), AppendInfo)


@pytest.mark.parametrize(
    ("epoch", "error"),
    [
        (-1, ErrorCode.NONE),
        (3, ErrorCode.NONE),
        (2, ErrorCode.FENCED_LEADER_EPOCH),
        (4, ErrorCode.UNKNOWN_LEADER_EPOCH),
    ],
)
async def test_client_with_another_leader_epoch_is_told(epoch: int, error: ErrorCode) -> None:
    assert Bench().partition.check_epoch(epoch) == error


async def test_epoch_start_is_noted_before_the_first_append() -> None:
    bench = Bench()
    bench.append(2)
    bench.partition.become_leader(5)
    bench.append(1)
    assert bench.log.end_offset_for_epoch(3) == (3, 2)
    assert bench.log.end_offset_for_epoch(5) == (5, 3)


class HandOffload(InlineOffload):
    """Runs when the test says so."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.hand_offs = 0

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.hand_offs += 1
        await self.go.wait()
        return function(*args, **kwargs)


async def test_what_waits_for_a_slow_disk_shares_hand_offs_to_a_thread() -> None:
    bench = Bench(disk=(disk := HandOffload()))
    other = bench.another("payments")
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    waiting = [partition.append(batch()) for _ in range(5) for partition in (bench.partition, other)]
    disk.go.set()
    for number, info in enumerate(waiting):
        assert isinstance(info, asyncio.Future)
        assert (await info).last_offset == number // 2
    assert disk.hand_offs == 1


async def test_who_waits_for_a_thread_that_changes_its_log_holds_up_no_other_partition() -> None:
    class Threads(InlineOffload):
        async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(function, *args, **kwargs)

    lock = threading.RLock()
    bench = Bench(lock=lock, disk=Threads())
    other = bench.another("payments")
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    with lock:
        stuck = bench.partition.append(batch())
        async with asyncio.timeout(20):
            for offset in range(5):
                info = other.append(batch())
                assert isinstance(info, asyncio.Future)
                assert (await info).last_offset == offset
        assert isinstance(stuck, asyncio.Future)
        assert not stuck.done()
    assert (await asyncio.wait_for(stuck, 20)).last_offset == 0


async def test_a_write_that_took_long_is_answered_before_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(disk=(disk := HandOffload()))
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    append = bench.log.append_as_leader_nowait

    def append_slowly(*args: Any, **kwargs: Any) -> Any:
        bench.clock.now += SLOW_MS
        return append(*args, **kwargs)

    monkeypatch.setattr(bench.log, "append_as_leader_nowait", append_slowly)
    waiting = [bench.partition.append(batch()) for _ in range(3)]
    disk.go.set()
    for offset, info in enumerate(waiting):
        assert isinstance(info, asyncio.Future)
        assert (await info).last_offset == offset
    assert disk.hand_offs == 3


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_refusal_does_not_keep_the_batch_in_memory(is_slow: bool) -> None:
    """Frames in its traceback would: the queue holds the error, and they hold the queue."""
    bench = Bench()
    if is_slow:
        bench.pace.on_write(SLOW_MS, bench.clock.now)
    large = build_batch([Record(0, 1_000, None, bytes(20 << 20))], compression=CompressionType.LZ4)
    large[-1] ^= 1
    refused = [bench.partition.append(large), bench.partition.append(bytearray(large))]
    assert all(isinstance(each, asyncio.Future) for each in refused)
    await asyncio.wait(cast("list[asyncio.Future[AppendInfo]]", refused))
    for each in cast("list[asyncio.Future[AppendInfo]]", refused):
        error: BaseException | None = each.exception()
        assert isinstance(error, KafkaError)
        while error is not None:
            assert error.__traceback__ is None
            error = error.__cause__ or error.__context__


async def test_a_queue_ends_while_new_batches_go_on_coming() -> None:
    bench = Bench(disk=(disk := HandOffload()))
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    waiting = [bench.partition.append(batch())]
    await asyncio.sleep(0)
    waiting += [bench.partition.append(batch()) for _ in range(100)]
    bench.clock.now += BRIEF_MS
    disk.go.set()
    for _ in range(100):
        if isinstance(info := bench.partition.append(batch()), AppendInfo):
            break
        waiting.append(info)
        await asyncio.sleep(0)
    assert isinstance(info, AppendInfo), "batches that come one a turn do not keep the queue alive"
    for offset, queued in enumerate(waiting):
        assert isinstance(queued, asyncio.Future)
        assert (await queued).last_offset == offset


async def test_what_waits_for_a_slow_disk_is_bounded_and_dropped_by_those_who_give_up() -> None:
    bench = Bench(disk=(offload := HandOffload()))
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    size = len(batch())
    begun, given_up, last = (bench.partition.append(batch()) for _ in range(3))
    await asyncio.sleep(0)
    assert isinstance(begun, asyncio.Future)
    assert isinstance(given_up, asyncio.Future)
    assert isinstance(last, asyncio.Future)
    assert bench.pace.queued_bytes == 3 * size
    given_up.cancel()
    await asyncio.sleep(0)
    assert bench.pace.queued_bytes == 2 * size
    bench.pace.queued_bytes += QUEUED_BYTES_MAX
    with pytest.raises(RequestTimedOutError):
        bench.partition.append(batch())
    bench.pace.queued_bytes -= QUEUED_BYTES_MAX
    offload.go.set()
    assert (await begun).last_offset == 0
    assert (await last).last_offset == 1
    await asyncio.sleep(0)
    assert bench.pace.queued_bytes == 0


async def test_a_queue_that_has_begun_goes_on_on_the_loop_once_nothing_keeps_it_off() -> None:
    lock = threading.RLock()
    # Nobody lets the disk go: whatever went there would wait for ever.
    bench = Bench(lock=lock, disk=HandOffload())
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    waiting = [bench.partition.append(batch()) for _ in range(3)]
    release.set()
    thread.join()
    async with asyncio.timeout(20):
        for offset, info in enumerate(waiting):
            assert isinstance(info, asyncio.Future)
            assert (await info).last_offset == offset


async def test_append_does_not_wait_on_the_loop_for_a_thread_that_changes_the_log() -> None:
    lock = threading.RLock()
    bench = Bench(lock=lock, disk=(offload := HandOffload()))
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    first, second = bench.partition.append(batch()), bench.partition.append(batch())
    release.set()
    thread.join()
    third = bench.partition.append(batch())
    offload.go.set()
    for offset, info in enumerate((first, second, third)):
        assert isinstance(info, asyncio.Future)
        assert (await info).last_offset == offset
    await asyncio.sleep(0)
    assert bench.append().last_offset == 3


async def test_what_is_appended_during_an_fsync_is_told_of_when_it_can_be_read() -> None:
    """1. A first batch is synced. 2. A second comes meanwhile. 3. Only the first can be read. 4. So can the second."""
    bench = Bench(flush_messages=1)
    size = len(batch())
    bench.append()
    waiter = FetchWaiter([bench.partition], size + 1, UNCOMMITTED)
    await bench.commits.finish(meanwhile=bench.append)
    assert bench.log.high_watermark == 1
    assert (waiter.bytes_wanted, waiter.done.done()) == (1, False)
    await bench.commits.finish()
    assert bench.log.high_watermark == 2
    assert waiter.done.done()


async def test_batches_that_a_thread_appended_together_are_all_told_of() -> None:
    bench = Bench(disk=(disk := HandOffload()))
    size = len(batch())
    bench.pace.on_write(SLOW_MS, bench.clock.now)
    waiting = [bench.partition.append(batch()) for _ in range(5)]
    waiter = FetchWaiter([bench.partition], 5 * size, UNCOMMITTED)
    disk.go.set()
    for info in waiting:
        assert isinstance(info, asyncio.Future)
        await info
    assert waiter.done.done()
    assert waiter.bytes_wanted == 0


async def test_progress_is_counted_in_bytes_of_the_batches_a_commit_covers() -> None:
    bench = Bench(flush_messages=1)
    size = len(batch())
    waiter = FetchWaiter([bench.partition], 2 * size + 1, UNCOMMITTED)
    bench.append()
    bench.append()
    await bench.commits.finish()
    assert (waiter.bytes_wanted, waiter.done.done()) == (1, False)
    bench.append()
    await bench.commits.finish()
    assert waiter.done.done()
