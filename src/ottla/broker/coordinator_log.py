"""What coordinators see of their partitions: append and wait for the commit, read what is committed.

Coordinators know nothing of replicas; this is the one place where they meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ottla.errors import NotCoordinatorError
from ottla.storage.log import AppendInfo
from ottla.types import AppendOrigin, IsolationLevel

if TYPE_CHECKING:
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition


class ReplicatedCoordinatorLog:
    """The partitions of internal topics that this broker leads."""

    def __init__(self, replicas: ReplicaManager) -> None:
        self._replicas = replicas

    def _partition(self, topic: str, index: int) -> Partition:
        partition = self._replicas.partition(topic, index)
        if partition is None:
            raise NotCoordinatorError(f"{topic}-{index} is not led here")
        return partition

    def append(self, topic: str, partition: int, batch: bytearray, transaction_version: int = 0) -> Awaitable[int]:
        """Append one batch; what is returned resolves with its last offset when that is below the high watermark."""
        held = self._partition(topic, partition)
        info = held.append(batch, AppendOrigin.COORDINATOR, transaction_version=transaction_version)
        if not isinstance(info, AppendInfo):
            return _append_later(held, info)
        commit = held.committed(info.last_offset)
        if commit is not None:
            return _commit_later(commit, info)
        # Done already, as nearly always: no task, no turn of the loop.
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(info.last_offset)
        return done

    async def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> bytes:
        """Return whole batches from `from_offset` up to the high watermark, nothing at the end."""
        held = self._partition(topic, partition)

        def read() -> bytes:
            part = held.read(from_offset, max_bytes, IsolationLevel.READ_UNCOMMITTED, min_one=True)
            return b"" if part is None else part.read()

        return await held.search(read)

    def start_offset(self, topic: str, partition: int) -> int:
        """Return the first offset of the log."""
        return self._partition(topic, partition).log.log_start_offset

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""
        return self._partition(topic, partition).log.log_end_offset


async def _append_later(held: Partition, append: Awaitable[AppendInfo]) -> int:
    info = await append
    commit = held.committed(info.last_offset)
    return info.last_offset if commit is None else await _commit_later(commit, info)


async def _commit_later(commit: asyncio.Future[None], info: AppendInfo) -> int:
    await commit
    return info.last_offset
