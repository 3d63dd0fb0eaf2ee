"""A stop that comes while a thread compacts, or writes a checkpoint: the thread's step ends first, then the stop goes on."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from tests.storage.log_support import append_many, read_all

from ottla.clock import SystemClock
from ottla.offload import ThreadOffload, run_to_end
from ottla.storage.checkpoints import HIGH_WATERMARK_FILE
from ottla.storage.compaction import CleaningResult, clean
from ottla.storage.config import LogConfig
from ottla.storage.files import Buffer, OsFiles
from ottla.storage.log_manager import LogManager, LogManagerSettings
from ottla.types import TopicPartition

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 20.0
TABLE = TopicPartition("table", 0)
COMPACTED = LogConfig(segment_bytes=900, cleanup_compact=True, cleanup_delete=False)


class HeldStep:
    """Holds the first call of a function on its thread: `begun` says that it is there, `go_on` lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def hold(self, function: Callable[P, T]) -> Callable[P, T]:
        def held(*args: P.args, **kwargs: P.kwargs) -> T:
            if not self.begun.is_set():
                self.begun.set()
                assert self.go_on.wait(PATIENCE_S), "the test forgot to let go"
            return function(*args, **kwargs)

        return held


class FilesWithHeld(OsFiles):
    """The first file with the suffix that a compaction finishes, or a checkpoint writes, waits on its thread."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.step = HeldStep()
        self.writers = 0
        self.most_writers = 0

    def set_mtime_ms(self, path: str, mtime_ms: int) -> None:
        function = super().set_mtime_ms
        (self.step.hold(function) if path.endswith(self.suffix) else function)(path, mtime_ms)

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        if not path.endswith(self.suffix):
            super().write_atomic(path, data, sync=sync)
            return
        self.writers += 1
        self.most_writers = max(self.most_writers, self.writers)
        self.step.hold(super().write_atomic)(path, data, sync=sync)
        self.writers -= 1


async def turns() -> None:
    """Let the loop do what it can do without the thread."""
    for _ in range(5):
        await asyncio.sleep(0)


def make(files: OsFiles, path: Path, offload: ThreadOffload) -> LogManager:
    return LogManager(
        files,
        [str(path)],
        cluster_id=None,
        node_id=1,
        clock=SystemClock(),
        offload=offload,
        default_config=COMPACTED,
        random=random.Random(1),
        settings=LogManagerSettings(initial_task_delay_ms=0, cleaner_backoff_ms=0),
    )


async def test_a_stop_waits_for_the_step_of_a_compaction_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator was closed while the thread ran it: that failed, the cancellation was lost, the stop waited for ever."""
    made: list[Generator[int, None, CleaningResult]] = []

    def kept(*args: Any, **kwargs: Any) -> Generator[int, None, CleaningResult]:
        made.append(clean(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("ottla.storage.cleaner.clean", kept)
    files, offload = FilesWithHeld(".cleaned"), ThreadOffload(2)
    manager = make(files, tmp_path / "data", offload)
    await manager.load()
    log = manager.create(TABLE, bytes(range(16)), COMPACTED)
    append_many(log, 50)
    log.advance_high_watermark(50)
    before = read_all(log), [segment.base_offset for segment in log.segments]
    cleaning = asyncio.create_task(manager.clean_dirtiest())
    try:
        assert await asyncio.to_thread(files.step.begun.wait, PATIENCE_S)
        cleaning.cancel()
        await turns()
        assert not cleaning.done(), "the step still runs"
    finally:
        files.step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await cleaning
    assert len(made) == 1
    assert inspect.getgeneratorstate(made[0]) == inspect.GEN_CLOSED
    names = {path.name for path in (tmp_path / "data" / "table-0").iterdir()}
    assert not [name for name in names if name.endswith((".cleaned", ".swap"))]
    assert (read_all(log), [segment.base_offset for segment in log.segments]) == before, "nothing was swapped"
    await manager.close()
    offload.close()


async def test_a_stop_writes_no_checkpoint_while_a_timer_writes_the_same(tmp_path: Path) -> None:
    """Both used one temporary file: the later rename failed, and the directory went offline during the stop."""
    files, offload = FilesWithHeld(HIGH_WATERMARK_FILE), ThreadOffload(4)
    manager = make(files, tmp_path / "data", offload)
    await manager.load()
    log = manager.create(TABLE, bytes(range(16)), COMPACTED)
    append_many(log, 2)
    log.advance_high_watermark(1)
    timer = asyncio.create_task(manager.checkpoint_high_watermarks())
    try:
        assert await asyncio.to_thread(files.step.begun.wait, PATIENCE_S)
        timer.cancel()
        await turns()
        assert not timer.done(), "the thread still writes"
    finally:
        files.step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await timer
    log.advance_high_watermark(2)
    await manager.close()
    assert files.most_writers == 1
    assert (tmp_path / "data" / HIGH_WATERMARK_FILE).read_bytes() == b"0\n1\ntable 0 2\n"
    offload.close()


async def test_work_that_fails_after_the_cancellation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    step, offload = HeldStep(), ThreadOffload(1)

    def fail() -> None:
        raise OSError("the disk is gone")

    task = asyncio.create_task(run_to_end(offload, step.hold(fail)))
    assert await asyncio.to_thread(step.begun.wait, PATIENCE_S)
    task.cancel()
    await turns()
    task.cancel()  # a second time, as an impatient owner does
    await turns()
    step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the disk is gone" in caplog.text
    offload.close()


async def test_work_that_has_not_begun_is_not_done(caplog: pytest.LogCaptureFixture) -> None:
    step, offload = HeldStep(), ThreadOffload(1)
    done: list[str] = []
    first = asyncio.create_task(run_to_end(offload, step.hold(done.append), "first"))
    assert await asyncio.to_thread(step.begun.wait, PATIENCE_S)
    second = asyncio.create_task(run_to_end(offload, done.append, "second"))
    await turns()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second  # though the only thread is busy
    step.go_on.set()
    await first
    offload.close()
    assert done == ["first"]
    assert not caplog.text
