"""Two timers write checkpoints, and both fire when a broker is 30 s old: they must not meet in one file."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest
from tests.storage.log_support import batch, lead_and_append

from ottla.clock import SystemClock
from ottla.offload import ThreadOffload
from ottla.storage.checkpoints import HIGH_WATERMARK_FILE
from ottla.storage.config import LogConfig
from ottla.storage.files import Buffer, OsFiles
from ottla.storage.log_manager import LogManager
from ottla.types import TopicPartition


class MeetingFiles(OsFiles):
    """A writer of the high watermarks waits a moment for another one to come in as well."""

    def __init__(self) -> None:
        self.most_writers = 0
        self._writers = 0
        self._lock = threading.Lock()
        self._met = threading.Event()

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        if not path.endswith(HIGH_WATERMARK_FILE):
            super().write_atomic(path, data, sync=sync)
            return
        with self._lock:
            self._writers += 1
            self.most_writers = max(self.most_writers, self._writers)
            if self._writers > 1:
                self._met.set()
        self._met.wait(0.1)
        try:
            super().write_atomic(path, data, sync=sync)
        finally:
            with self._lock:
                self._writers -= 1


@pytest.mark.parametrize("attempt", range(3))
async def test_checkpoint_of_high_watermarks_has_one_writer_at_a_time(tmp_path: Path, attempt: int) -> None:
    """A second one renamed the first one's temporary file away, and the whole directory went offline."""
    files, clock, offload = MeetingFiles(), SystemClock(), ThreadOffload(4)
    manager = LogManager(
        files,
        [str(tmp_path / "data")],
        cluster_id=None,
        node_id=1,
        clock=clock,
        offload=offload,
        default_config=LogConfig(),
        random=random.Random(attempt),
    )
    await manager.take_directories()
    await manager.load(lambda topic: LogConfig())
    log = manager.create(TopicPartition("t", 0), bytes(range(16)), LogConfig())
    lead_and_append(log, batch([b"value"]), leader_epoch=0, now_ms=clock.wall_ms())
    log.advance_high_watermark(1)
    await asyncio.gather(manager.checkpoint(), manager.checkpoint_high_watermarks())
    assert files.most_writers == 1
    assert manager.offline_dirs == {}
    await manager.close()
    offload.close()
