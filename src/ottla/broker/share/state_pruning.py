"""Deletes records of `__share_group_state` that newer snapshots have made useless (KIP-932: the topic is not compacted).

The share coordinator says before which offset; what fails is asked for again at its next turn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ottla.errors import KafkaError, StorageError
from ottla.types import SHARE_GROUP_STATE_TOPIC

if TYPE_CHECKING:
    from ottla.broker.replicas.manager import ReplicaManager

logger = logging.getLogger(__name__)


class ShareStatePruning:
    """Moves the log start of partitions of the topic, in the background."""

    def __init__(self, replicas: ReplicaManager) -> None:
        self._replicas = replicas
        self._tasks: set[asyncio.Task[None]] = set()

    def prune(self, index: int, before_offset: int) -> None:
        """Delete the records before an offset."""
        task = asyncio.get_running_loop().create_task(self._prune(index, before_offset))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prune(self, index: int, before_offset: int) -> None:
        partition = self._replicas.partition(SHARE_GROUP_STATE_TOPIC, index)
        if partition is None:
            return
        try:
            await partition.delete_records(min(before_offset, partition.log.high_watermark))
        except (KafkaError, StorageError, OSError) as error:
            logger.warning("%s-%d is not pruned: %s", SHARE_GROUP_STATE_TOPIC, index, error)

    async def stop(self) -> None:
        """Cancel what is being deleted."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
