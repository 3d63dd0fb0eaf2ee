"""Writes the markers that end transactions, and has the coordinator complete the transaction when all are written.

The shell around `TransactionCoordinator.send_markers`: tasks, retries, appends; other brokers are asked for the partitions
that they lead. Markers for `__consumer_offsets` go through the group coordinator, which applies them to its pending offsets.

Invariants: that a partition is gone says only this broker's own image, read after a `sync`; from another broker the same
answer means that it has not heard of the topic yet. Right before each append the coordinator is asked whether the markers are
still due, with nothing between. So a marker is never behind the first record of the next transaction, however late or often
this task runs: a late commit that ended the next transaction is the fault found in KAFKA-17754.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ottla.cluster.image import NO_LEADER
from ottla.cluster.tree import TreeUnavailableError
from ottla.errors import (
    CoordinatorNotAvailableError,
    ErrorCode,
    KafkaError,
    NotLeaderOrFollowerError,
    UnknownTopicOrPartitionError,
    error_for,
)
from ottla.protocol.messages.write_txn_markers import WritableTxnMarker
from ottla.protocol.records.control import ControlType, EndTransactionMarker, end_transaction_marker
from ottla.storage.appended import AppendInfo
from ottla.types import GROUP_METADATA_TOPIC, AppendOrigin, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime, Producer
    from ottla.broker.coordinators.transactions.coordinator import Markers, TransactionCoordinator
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.transactions.remote import RemoteTransactions
    from ottla.clock import Clock

logger = logging.getLogger(__name__)

_RETRY_SECONDS_MIN: Final = 0.02
_RETRY_SECONDS_MAX: Final = 1.0

#: The partition knows a newer epoch: there is nothing left to end.
_NOTHING_TO_END: Final = frozenset({ErrorCode.INVALID_PRODUCER_EPOCH, ErrorCode.TRANSACTION_COORDINATOR_FENCED})


class MarkerLog:
    """Appends markers to any partition of this broker."""

    def __init__(self, replicas: ReplicaManager, groups: CoordinatorRuntime[GroupCoordinator], clock: Clock) -> None:
        self._replicas = replicas
        self._groups = groups
        self._clock = clock

    def append(
        self,
        topic_partition: TopicPartition,
        producer: Producer,
        marker: EndTransactionMarker,
        transaction_version: int,
    ) -> Awaitable[None]:
        """Append a marker; its offset is decided now, what is returned resolves when it is committed.

        Raises:
            KafkaError: directly or through the awaitable.
        """
        if self._replicas.partition(*topic_partition) is None:
            raise error_for(self._replicas.error(*topic_partition))
        if topic_partition.topic == GROUP_METADATA_TOPIC:
            return self._groups.end_transaction(topic_partition.partition, producer, marker, transaction_version)
        return self._append(topic_partition, producer, marker, transaction_version)

    def _append(
        self,
        topic_partition: TopicPartition,
        producer: Producer,
        marker: EndTransactionMarker,
        transaction_version: int,
    ) -> Awaitable[None]:
        partition = self._replicas.partition(*topic_partition)
        if partition is None:
            raise UnknownTopicOrPartitionError()
        batch = end_transaction_marker(
            marker.kind,
            marker.coordinator_epoch,
            timestamp_ms=self._clock.wall_ms(),
            producer_id=producer[0],
            producer_epoch=producer[1],
        )
        info = partition.append(batch, AppendOrigin.COORDINATOR, transaction_version=transaction_version)

        async def committed() -> None:
            appended = info if isinstance(info, AppendInfo) else await info
            commit = partition.committed(appended.last_offset)
            if commit is not None:
                await commit

        return committed()


class TransactionMarkers:
    """One task per transaction that is being ended.

    `transactions` is set before the first use: the coordinator and this know each other.

    Args:
        log: the partitions that this broker leads.
        leader_of: returns which broker leads a partition, NO_LEADER if none does, None if the partition is not known.
        remote: has other brokers append; without it all partitions are on this one.
        refresh: brings what `leader_of` knows up to date.
    """

    transactions: CoordinatorRuntime[TransactionCoordinator]

    def __init__(
        self,
        log: MarkerLog,
        *,
        leader_of: Callable[[TopicPartition], int | None],
        remote: RemoteTransactions | None = None,
        refresh: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._log = log
        self._leader_of = leader_of
        self._remote = remote
        self._refresh = refresh
        self._tasks: dict[tuple[int, Markers], asyncio.Task[None]] = {}
        #: "commit" and "abort" -> transactions ended since the start.
        self.ended = {"commit": 0, "abort": 0}

    def __len__(self) -> int:
        """How many transactions are being ended."""
        return len(self._tasks)

    def send(self, coordinator_partition: int, markers: Markers) -> None:
        """Begin to write these markers, unless that has begun."""
        key = (coordinator_partition, markers)
        if key not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._end(coordinator_partition, markers))
            self._tasks[key] = task
            task.add_done_callback(lambda ended: self._on_done(key, ended))

    async def stop(self) -> None:
        """Leave the rest to the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, key: tuple[int, Markers], task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("markers of a transaction could not be written", exc_info=error)

    async def _end(self, coordinator_partition: int, markers: Markers) -> None:
        left = list(markers.partitions)
        pause = _RETRY_SECONDS_MIN
        while True:
            try:
                left = await self._write(coordinator_partition, markers, left)
                if not left:
                    await self.transactions.write(
                        coordinator_partition, lambda shard, now_ms: shard.complete(markers, now_ms)
                    )
                    self.ended["commit" if markers.commit else "abort"] += 1
                    return
            except KafkaError as error:
                if error.code in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS):
                    return  # the coordinator that loads the partition begins again
                logger.warning("%s: the transaction cannot be completed yet: %s", markers.transactional_id, error)
            except _NoLongerDueError:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _RETRY_SECONDS_MAX)

    async def _write(
        self, coordinator_partition: int, markers: Markers, topic_partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        """Write the markers; return those that have to be tried again."""
        await self._look_again(topic_partitions)
        own: list[TopicPartition] = []
        elsewhere: dict[int, list[TopicPartition]] = {}
        for topic_partition in topic_partitions:
            leader = self._leader_of(topic_partition)
            if leader is None:
                logger.warning("%s: no marker in %s: it was deleted", markers.transactional_id, topic_partition)
            elif self._remote is None or leader == self._remote.node_id:
                own.append(topic_partition)
            else:
                elsewhere.setdefault(leader, []).append(topic_partition)
        found = await asyncio.gather(
            self._write_here(coordinator_partition, markers, own),
            *(
                self._write_there(coordinator_partition, markers, leader, theirs)
                for leader, theirs in elsewhere.items()
            ),
        )
        return [topic_partition for again in found for topic_partition in again]

    async def _look_again(self, topic_partitions: list[TopicPartition]) -> None:
        """Before a partition counts as gone: what this broker knows may be older than the partition."""
        if self._refresh is not None and any(self._leader_of(name) is None for name in topic_partitions):
            try:
                await self._refresh()
            except TreeUnavailableError as error:
                raise CoordinatorNotAvailableError(str(error)) from error

    def _due_marker(self, coordinator_partition: int, markers: Markers) -> EndTransactionMarker:
        """Return the marker if it still is to be written."""
        if not self.transactions.read(coordinator_partition, lambda shard: shard.is_pending(markers)):
            raise _NoLongerDueError
        kind = ControlType.COMMIT if markers.commit else ControlType.ABORT
        return EndTransactionMarker(kind, self.transactions.leader_epoch(coordinator_partition))

    async def _write_here(
        self, coordinator_partition: int, markers: Markers, topic_partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        producer = (markers.producer_id, markers.producer_epoch)
        again: list[TopicPartition] = []
        written: list[tuple[TopicPartition, asyncio.Future[None]]] = []
        try:
            for topic_partition in topic_partitions:
                marker = self._due_marker(coordinator_partition, markers)
                try:
                    appended = self._log.append(topic_partition, producer, marker, markers.transaction_version)
                except KafkaError as error:
                    if not self._is_over(topic_partition, markers, error.code):
                        again.append(topic_partition)
                else:
                    written.append((topic_partition, asyncio.ensure_future(appended)))
        finally:
            results = await asyncio.gather(*(future for _, future in written), return_exceptions=True)
        for (topic_partition, _), result in zip(written, results, strict=True):
            if isinstance(result, KafkaError):
                if not self._is_over(topic_partition, markers, result.code):
                    again.append(topic_partition)
            elif result is not None:
                raise result
        return again

    async def _write_there(
        self, coordinator_partition: int, markers: Markers, leader: int, topic_partitions: list[TopicPartition]
    ) -> list[TopicPartition]:
        if leader == NO_LEADER or self._remote is None:
            return topic_partitions

        def make() -> WritableTxnMarker:
            marker = self._due_marker(coordinator_partition, markers)
            return WritableTxnMarker(
                producer_id=markers.producer_id,
                producer_epoch=markers.producer_epoch,
                transaction_result=markers.commit,
                coordinator_epoch=marker.coordinator_epoch,
                transaction_version=markers.transaction_version,
            )

        codes = await self._remote.write_markers(leader, topic_partitions, make)
        return [
            topic_partition
            for topic_partition, code in codes.items()
            if code and not self._is_over(topic_partition, markers, code)
        ]

    def _is_over(self, topic_partition: TopicPartition, markers: Markers, code: ErrorCode) -> bool:
        if code in _NOTHING_TO_END:
            logger.warning("%s: no marker in %s: %s", markers.transactional_id, topic_partition, code.name)
            return True
        logger.debug("%s: a marker in %s has to wait: %s", markers.transactional_id, topic_partition, code.name)
        return False


class _NoLongerDueError(Exception):
    """The transaction has been completed, or another coordinator has taken over."""


def marker_error_code(error: KafkaError) -> ErrorCode:
    """Return the code for the answer to a WriteTxnMarkers: a group coordinator that is not ready is no leader yet."""
    match error.code:
        case ErrorCode.COORDINATOR_NOT_AVAILABLE | ErrorCode.COORDINATOR_LOAD_IN_PROGRESS | ErrorCode.NOT_COORDINATOR:
            return NotLeaderOrFollowerError.code
        case code:
            return code
