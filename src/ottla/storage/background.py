"""When the background work of a `LogManager` runs: intervals, and what happens when a round fails.

Each directory has its own rounds: a disk that hangs holds up no other's. Only compaction goes from directory to directory,
always to the dirtiest log. What a round does is the log manager's affair.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ottla.storage.disk_watch import HUNG_TICKS, TICK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.storage.log_manager import LogManager

logger = logging.getLogger(__name__)

#: How often logs with `flush.ms` are looked at.
FLUSH_TICK_MS = 500
#: How often it is looked for files whose delay is over.
REMOVAL_TICK_MS = 1_000


async def run_in_background(logs: LogManager) -> None:
    """Do it all until cancelled."""
    async with asyncio.TaskGroup() as group:
        for path in logs.directories:
            _run_directory(group, logs, path)
        group.create_task(_clean(logs))
        group.create_task(logs.shortages.watch())
        group.create_task(_watch_disks(logs))


def _run_directory(group: asyncio.TaskGroup, logs: LogManager, path: str) -> None:
    settings = logs.settings
    checkpoint_interval_ms = min(
        settings.flush_offset_checkpoint_interval_ms, settings.flush_start_offset_checkpoint_interval_ms
    )
    for interval_ms, task in (
        (settings.retention_check_interval_ms, logs.apply_retention),
        (settings.high_watermark_checkpoint_interval_ms, logs.checkpoint_high_watermarks),
        (checkpoint_interval_ms, logs.checkpoint),
        (settings.producer_id_expiration_check_interval_ms, logs.expire_producers),
    ):
        group.create_task(_every(interval_ms, task, path, settings.initial_task_delay_ms))
    group.create_task(_flush(logs, path))
    group.create_task(_remove(logs, path))


async def _every(interval_ms: int, task: Callable[[str], Awaitable[object]], path: str, initial_delay_ms: int) -> None:
    await asyncio.sleep(initial_delay_ms / 1000)
    while True:
        try:
            await task(path)
        except Exception:
            logger.exception("background task %s failed and is tried again", task)
        await asyncio.sleep(interval_ms / 1000)


async def _flush(logs: LogManager, path: str) -> None:
    tick_ms = min(FLUSH_TICK_MS, logs.settings.flush_scheduler_interval_ms)
    while True:
        await asyncio.sleep(tick_ms / 1000)
        await logs.flush_by_time(path)


async def _watch_disks(logs: LogManager) -> None:
    while True:
        await asyncio.sleep(TICK_SECONDS)
        before = logs.disk_watch.hung
        if logs.disk_watch.tick():
            for path in logs.disk_watch.hung - before:
                logger.error(
                    "the disk of log directory %s hangs: what was begun %d s ago has not ended", path, HUNG_TICKS
                )
            for path in before - logs.disk_watch.hung:
                logger.warning("the disk of log directory %s goes on", path)
            logs.on_hung()


async def _remove(logs: LogManager, path: str) -> None:
    while True:
        await logs.remove_deleted_files(path)
        await asyncio.sleep(REMOVAL_TICK_MS / 1000)


async def _clean(logs: LogManager) -> None:
    while True:
        try:
            busy = logs.settings.cleaner_enable and await logs.clean_dirtiest() is not None
        except Exception:
            logger.exception("compaction failed and is tried again")
            busy = False
        if not busy:
            await asyncio.sleep(logs.settings.cleaner_backoff_ms / 1000)
