"""The shell around `compaction`: picks the log that needs it most, runs a pass in slices, keeps the checkpoint.

Between two slices the loop, and other work of the executor, get their turn, and `log.cleaner.io.max.bytes.per.second`
is held. A log that cannot be cleaned is left alone until the next start, and reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from ottla.errors import KafkaStorageError, StorageError
from ottla.offload import run_to_end
from ottla.storage.checkpoints import CLEANER_FILE
from ottla.storage.compaction import (
    DEFAULT_LOAD_FACTOR,
    DEFAULT_MEMORY_BYTES,
    CleaningAbortedError,
    CleaningPlan,
    CleaningResult,
    UncleanableError,
    clean,
    plan_cleaning,
)
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.storage.log import PartitionLog
    from ottla.storage.log_directory import LogDirectory

logger = logging.getLogger(__name__)


class Cleaner:
    """Compacts logs, one at a time.

    Attributes:
        uncleanable: partition -> why it is left alone.
        cleaned: how many passes were completed.
    """

    def __init__(
        self,
        offload: Offload,
        clock: Clock,
        *,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        load_factor: float = DEFAULT_LOAD_FACTOR,
        bytes_per_second_max: float = float("inf"),
    ) -> None:
        self.uncleanable: dict[TopicPartition, str] = {}
        self.cleaned = 0
        self._offload = offload
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._load_factor = load_factor
        self._bytes_per_second_max = bytes_per_second_max
        self._offsets: dict[str, dict[TopicPartition, int]] = {}

    def change_limits(self, *, memory_bytes: int, load_factor: float, bytes_per_second_max: float) -> None:
        """Use other limits from the next cleaning on."""
        self._memory_bytes = memory_bytes
        self._load_factor = load_factor
        self._bytes_per_second_max = bytes_per_second_max

    def add_directory(self, path: str, offsets: dict[TopicPartition, int]) -> None:
        """Take over a directory's cleaner-offset-checkpoint."""
        self._offsets[path] = offsets

    def forget(self, path: str, topic_partition: TopicPartition) -> None:
        """The log was deleted: a new one of its name begins anew."""
        self._offsets.get(path, {}).pop(topic_partition, None)
        self.uncleanable.pop(topic_partition, None)

    async def clean_dirtiest(
        self, logs: Sequence[PartitionLog], directories: Mapping[str, LogDirectory]
    ) -> CleaningResult | None:
        """Clean the log that is dirtiest, overdue ones first; None if none needs it or the pass was given up."""
        candidates = [log for log in logs if log.config.cleanup_compact and log.topic_partition not in self.uncleanable]
        if not candidates:
            return None
        best = await self._offload.run(self._choose, candidates)
        if best is None:
            return None
        log, plan = best
        path = log.log_directory
        passes = clean(log, plan, self._clock.wall_ms(), memory_bytes=self._memory_bytes, load_factor=self._load_factor)
        try:
            result = await self._run(passes)
        except CleaningAbortedError as error:
            logger.info("cleaning of %s was given up: %s", log.topic_partition, error)
            return None
        except UncleanableError as error:
            logger.error("%s cannot be cleaned and is left alone: %s", log.topic_partition, error)
            self.uncleanable[log.topic_partition] = str(error)
            return None
        except (StorageError, KafkaStorageError) as error:
            logger.warning("cleaning of %s failed: %s", log.topic_partition, error)
            return None
        except OSError as error:
            log.on_io_error(error)
            logger.warning("cleaning of %s failed: %s", log.topic_partition, error)
            return None
        finally:
            passes.close()
        offsets = self._offsets.setdefault(path, {})
        offsets[log.topic_partition] = result.next_dirty_offset
        directory = directories.get(path)
        if directory is not None:
            await run_to_end(self._offload, directory.write_offsets, CLEANER_FILE, dict(offsets))
        self.cleaned += 1
        logger.info(
            "%s was cleaned up to offset %d: %d of %d records kept, %d bytes became %d",
            log.topic_partition,
            result.next_dirty_offset,
            result.records_kept,
            result.records_read,
            result.bytes_read,
            result.bytes_written,
        )
        return result

    def _choose(self, logs: list[PartitionLog]) -> tuple[PartitionLog, CleaningPlan] | None:
        now_ms = self._clock.wall_ms()
        best: tuple[PartitionLog, CleaningPlan] | None = None
        for log in logs:
            if log.failure is not None or len(log.segments) == 1:
                continue  # the active segment is never cleaned
            path = log.log_directory
            try:
                plan = plan_cleaning(log, self._offsets.get(path, {}).get(log.topic_partition), now_ms)
            except FileNotFoundError:
                continue  # a segment was deleted meanwhile
            if plan.is_due(log.config) and (best is None or _urgency(plan) > _urgency(best[1])):
                best = (log, plan)
        return best

    async def _run(self, passes: Generator[int, None, CleaningResult]) -> CleaningResult:
        while True:
            began_ms = self._clock.monotonic_ms()
            # After a cancellation the generator is closed: that is possible only when no thread runs it.
            step = await run_to_end(self._offload, _step, passes)
            if isinstance(step, CleaningResult):
                return step
            least_ms = step / self._bytes_per_second_max * 1000
            await asyncio.sleep(max(least_ms - (self._clock.monotonic_ms() - began_ms), 0) / 1000)


def _urgency(plan: CleaningPlan) -> tuple[bool, float]:
    return plan.is_overdue, plan.dirty_ratio


def _step(passes: Generator[int, None, CleaningResult]) -> int | CleaningResult:
    # StopIteration cannot travel through a future.
    try:
        return next(passes)
    except StopIteration as stop:
        result: CleaningResult = stop.value
        return result
