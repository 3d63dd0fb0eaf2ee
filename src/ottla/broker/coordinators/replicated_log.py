"""What coordinators see of their partitions: append, wait for the commit, read what is committed.

Coordinators know nothing of replicas; this is the one place where they meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ottla.errors import NotCoordinatorError, NotLeaderOrFollowerError
from ottla.storage.appended import AppendInfo
from ottla.storage.verification import UNCHECKED
from ottla.types import AppendOrigin, IsolationLevel

if TYPE_CHECKING:
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition
    from ottla.storage.verification import Verification, VerificationGuard


class ReplicatedCoordinatorLog:
    """The partitions of internal topics that this broker leads. Implements `CoordinatorLog`."""

    def __init__(self, replicas: ReplicaManager) -> None:
        self._replicas = replicas

    def _partition(self, topic: str, index: int) -> Partition:
        partition = self._replicas.partition(topic, index)
        if partition is None:
            raise NotCoordinatorError(f"{topic}-{index} is not led here")
        return partition

    def append(
        self,
        topic: str,
        partition: int,
        batch: bytearray,
        transaction_version: int = 0,
        verification: Verification | None = UNCHECKED,
    ) -> int | Awaitable[int]:
        """Append one batch; returns its last offset, or resolves with it where the disk is slow."""
        held = self._partition(topic, partition)
        info = held.append(
            batch, AppendOrigin.COORDINATOR, transaction_version=transaction_version, verification=verification
        )
        return info.last_offset if isinstance(info, AppendInfo) else _append_later(info)

    def begin_verification(self, topic: str, partition: int, producer: tuple[int, int]) -> VerificationGuard:
        """Return the guard with which to verify a transaction before its first append."""
        return self._partition(topic, partition).begin_verification(*producer)

    def committed(self, topic: str, partition: int, last_offset: int) -> Awaitable[None]:
        """Resolve when the high watermark has passed `last_offset`."""
        commit = self._partition(topic, partition).committed(last_offset)
        if commit is None:
            commit = asyncio.get_running_loop().create_future()
            commit.set_result(None)
        return commit

    def prove(self, topic: str, partition: int) -> Awaitable[None] | None:
        """Return None if no other broker can lead the partition now, else what resolves when that is proven.

        Raises:
            NotCoordinatorError: another one may; also through what is returned.
        """
        try:
            proof = self._replicas.prove(self._partition(topic, partition))
        except NotLeaderOrFollowerError as error:
            raise NotCoordinatorError(error.message) from error
        return None if proof is None else _proven(proof)

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

    def high_watermark(self, topic: str, partition: int) -> int:
        """Return the offset up to which everything is committed."""
        return self._partition(topic, partition).log.high_watermark

    def end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""
        return self._partition(topic, partition).log.log_end_offset


async def _proven(proof: Awaitable[None]) -> None:
    try:
        await proof
    except NotLeaderOrFollowerError as error:
        raise NotCoordinatorError(error.message) from error


async def _append_later(append: Awaitable[AppendInfo]) -> int:
    return (await append).last_offset
