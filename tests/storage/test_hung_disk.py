"""One of two disks hangs: whatever does not need it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from pathlib import Path

from tests.storage.log_support import batch, lead_and_append

from ottla.clock import SystemClock
from ottla.offload import ThreadOffload
from ottla.storage.checkpoints import HIGH_WATERMARK_FILE, RECOVERY_POINT_FILE
from ottla.storage.config import LogConfig
from ottla.storage.files import Buffer, OsFile, OsFiles
from ottla.storage.log_manager import LogManager, LogManagerSettings
from ottla.types import TopicPartition

PATIENCE_S = 20.0
WORKERS = 2
#: More than a share has threads, in each directory.
PARTITIONS = 8


class Hanging(OsFile):
    __slots__ = ("gate",)

    gate: threading.Event

    def datasync(self) -> None:
        assert self.gate.wait(PATIENCE_S), "the test forgot to let go"
        super().datasync()


class HangingFiles(OsFiles):
    """fsyncs and checkpoints in one directory wait for the gate."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.gate = threading.Event()
        self.gate.set()
        #: Whether a checkpoint of the good directory has had the offset 2 for all of its partitions.
        self.is_complete = {name: threading.Event() for name in (HIGH_WATERMARK_FILE, RECOVERY_POINT_FILE)}

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> OsFile:
        file = super().open(path, create=create, truncate=truncate, write=write)
        if not path.startswith(self.bad):
            return file
        hanging = Hanging(file.fileno())
        hanging.gate = self.gate
        file._fd = -1  # the descriptor has a new owner
        return hanging

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        if path.startswith(self.bad):
            assert self.gate.wait(PATIENCE_S), "the test forgot to let go"
        super().write_atomic(path, data, sync=sync)
        if bytes(data).count(b" 2\n") == PARTITIONS:
            self.is_complete[Path(path).name].set()


async def test_a_disk_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    bad, good = str(tmp_path / "bad"), str(tmp_path / "good")
    files, clock, offload = HangingFiles(bad), SystemClock(), ThreadOffload(WORKERS)
    manager = LogManager(
        files,
        [bad, good],
        cluster_id=None,
        node_id=1,
        clock=clock,
        offload=offload,
        default_config=LogConfig(),
        random=random.Random(1),
        settings=LogManagerSettings(
            initial_task_delay_ms=0,
            high_watermark_checkpoint_interval_ms=10,
            flush_offset_checkpoint_interval_ms=10,
            retention_check_interval_ms=10,
            producer_id_expiration_check_interval_ms=10,
        ),
    )
    await manager.load(lambda topic: LogConfig())
    logs = [
        manager.create(TopicPartition("t", index), bytes(range(16)), LogConfig()) for index in range(2 * PARTITIONS)
    ]
    for log in logs:
        lead_and_append(log, batch([b"value"]), leader_epoch=0, now_ms=clock.wall_ms())
        log.advance_high_watermark(1)
    here = {path: [log for log in logs if log.directory.startswith(path)] for path in (bad, good)}
    assert [len(found) for found in here.values()] == [PARTITIONS, PARTITIONS]
    background = asyncio.create_task(manager.run())
    try:
        files.gate.clear()
        async with asyncio.timeout(PATIENCE_S):
            stuck = [manager.commit(log) for log in here[bad]]
            await asyncio.sleep(0)
            await asyncio.gather(*(manager.commit(log) for log in here[good]))
            assert await offload.share("tree").run(lambda: "answered") == "answered"
            assert await offload.run(lambda: "answered") == "answered"
            # Its timers go on, too: what happens now is in the next checkpoints.
            for log in here[good]:
                lead_and_append(log, batch([b"more"]), leader_epoch=0, now_ms=clock.wall_ms())
                log.advance_high_watermark(2)
                await manager.commit(log)
            for name in (HIGH_WATERMARK_FILE, RECOVERY_POINT_FILE):
                assert await asyncio.to_thread(files.is_complete[name].wait, PATIENCE_S)
            assert not any(future.done() for future in stuck)
            files.gate.set()
            await asyncio.gather(*stuck)
    finally:
        files.gate.set()
        background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await background
        await manager.close()
        offload.close()
