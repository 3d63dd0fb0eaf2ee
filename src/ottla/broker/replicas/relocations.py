"""Replicas on their way to other log directories of this broker (AlterReplicaLogDirs, KIP-113).

One task for each: copies beside the replica's work, then has the copy take the log's place. A replica that is deleted
meanwhile, a directory that fails, another target: the copy is given up.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ottla.errors import ErrorCode, KafkaError, StorageError
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.replicas.partition import Partition
    from ottla.clock import Clock
    from ottla.storage.log import PartitionLog
    from ottla.storage.log_manager import LogManager
    from ottla.storage.relocation import Relocation

logger = logging.getLogger(__name__)

#: How many replicas are copied at the same time; the others wait.
AT_ONCE = 4


class Replicas(Protocol):
    """What relocations need of the replica manager."""

    def replica(self, topic: str, index: int) -> Partition | None:
        """Return the partition if this broker holds a replica of it."""
        ...

    def on_relocated(self, topic_partition: TopicPartition, log: PartitionLog) -> None:
        """The log has moved."""
        ...


class Future(NamedTuple):
    """A copy that grows. `offset_lag`: how many offsets it lacks."""

    topic_partition: TopicPartition
    directory: str
    size: int
    offset_lag: int


class Relocations:
    """All moves of this broker. Belongs to the loop's thread.

    Args:
        bytes_per_second: replica.alter.log.dirs.io.max.bytes.per.second, asked for at each step.
    """

    def __init__(
        self, logs: LogManager, replicas: Replicas, clock: Clock, bytes_per_second: Callable[[], float]
    ) -> None:
        self._logs = logs
        self._replicas = replicas
        self._clock = clock
        self._bytes_per_second = bytes_per_second
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._moves: dict[TopicPartition, Relocation] = {}
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}

    def move(self, topic_partition: TopicPartition, directory: str) -> ErrorCode:
        """Begin to move a replica; or say why not. One that is not here is made there when it comes."""
        path = directory.rstrip("/") or "/"
        if path in self._logs.offline_dirs:
            return ErrorCode.KAFKA_STORAGE_ERROR
        if path not in self._logs.directories:
            return ErrorCode.LOG_DIR_NOT_FOUND
        log = self._logs.logs.get(topic_partition)
        if log is None:
            if topic_partition in self._logs.unusable:
                return ErrorCode.KAFKA_STORAGE_ERROR
            self._logs.prefer(topic_partition, path)
            return ErrorCode.REPLICA_NOT_AVAILABLE
        under_way = self._moves.get(topic_partition)
        if under_way is not None and under_way.target == path:
            return ErrorCode.NONE
        self.cancel(topic_partition)
        if log.log_directory == path:
            return ErrorCode.NONE
        relocation = self._logs.relocation(topic_partition, path)
        self._moves[topic_partition] = relocation
        task = asyncio.get_running_loop().create_task(self._run(topic_partition, relocation), name="relocation")
        self._tasks[topic_partition] = task
        return ErrorCode.NONE

    def futures(self) -> list[Future]:
        """Return the copies that there are."""
        return [
            Future(topic_partition, move.target, move.copy.size, move.lag)
            for topic_partition, move in self._moves.items()
            if move.copy is not None
        ]

    def cancel(self, topic_partition: TopicPartition) -> None:
        """Give up the move of a replica, if there is one."""
        self._moves.pop(topic_partition, None)
        task = self._tasks.pop(topic_partition, None)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Give up all moves."""
        tasks = list(self._tasks.values())
        for topic_partition in list(self._moves):
            self.cancel(topic_partition)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until nothing moves."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _run(self, topic_partition: TopicPartition, move: Relocation) -> None:
        offload = self._logs.offload_of(move.target)
        log = move.log
        done = False
        try:
            async with self._slots:
                logger.info("%s moves from %s to %s", topic_partition, log.log_directory, move.target)
                await offload.run(move.begin)
                while not move.is_near:
                    await self._copy(move)
                while await self._copy(move):
                    if move.is_near:
                        break
                await offload.run(move.flush)
                await self._finish(topic_partition, move)
                done = True
                logger.info("%s has moved to %s", topic_partition, move.target)
        except (KafkaError, StorageError, OSError) as error:
            if self._moves.get(topic_partition) is move:
                logger.error("%s does not move to %s: %s", topic_partition, move.target, error)
        finally:
            if self._moves.get(topic_partition) is move:
                del self._moves[topic_partition]
                del self._tasks[topic_partition]
            if not done:
                await self._give_up(move)

    async def _finish(self, topic_partition: TopicPartition, move: Relocation) -> None:
        """Have the copy take the log's place: to its end, if the move is cancelled meanwhile; half of it is no log."""
        finishing = asyncio.ensure_future(self._logs.offload_of(move.target).run(move.finish, self._clock.wall_ms()))
        cancelled: asyncio.CancelledError | None = None
        while not finishing.done():
            try:
                await asyncio.wait([finishing])
            except asyncio.CancelledError as error:
                cancelled = error
        new = finishing.result()
        move.copy = None
        self._replicas.on_relocated(topic_partition, new)
        if cancelled is not None:
            raise cancelled

    async def _copy(self, move: Relocation) -> int:
        if move.target in self._logs.offline_dirs:
            raise StorageError(f"log directory {move.target} is offline")
        size = await self._logs.offload_of(move.target).run(move.copy_some, self._clock.wall_ms())
        rate = self._bytes_per_second()
        if size and rate < 1 << 62:
            await asyncio.sleep(size / max(rate, 1))
        return size

    async def _give_up(self, move: Relocation) -> None:
        try:
            await self._logs.offload_of(move.target).run(move.give_up)
        except (StorageError, OSError) as error:
            logger.warning("what was copied to %s is deleted at the next start: %s", move.target, error)
