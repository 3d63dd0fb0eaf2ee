"""ShareFetch: one fetch of one member, from several share partitions.

Looks at each in turn, reads what it has to offer and has it handed out; or waits until records are appended or given back.
Reading follows the rules of `handlers.fetch`: what is in the page cache is read on the loop, the rest off it. While a share
partition is read off the loop no other fetch reads it: both would hand out the same records. Kafka's DelayedShareFetch.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ottla.broker.replicas.purgatory import FetchWaiter
from ottla.errors import (
    CorruptMessageError,
    ErrorCode,
    KafkaError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from ottla.protocol.messages.share_fetch import AcquiredRecords, PartitionData
from ottla.protocol.records.control import ControlType, read_marker
from ottla.protocol.records.legacy import first_offset
from ottla.protocol.records.walk import iter_batches
from ottla.storage.index import WouldBlockError
from ottla.types import IsolationLevel, TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ottla.broker.share.config import ShareConfig
    from ottla.broker.share.manager import LedSharePartition, SharePartitionManager
    from ottla.broker.share.share_partition import Acquired, AcquireRequest
    from ottla.clock import Clock
    from ottla.offload import Offload
    from ottla.protocol.primitives import Buffer
    from ottla.storage.slices import LogSlice


logger = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much a fetch wants, and how long it waits for it."""

    bytes_min: int
    bytes_max: int
    wait_ms: int


class _Look(NamedTuple):
    """A share partition that may hand something out: where to read, and what is there."""

    led: LedSharePartition
    offset: int
    part: LogSlice | None


class _Batch(NamedTuple):
    """A batch among the bytes that were read: its offsets and its position."""

    first: int
    last: int
    position: int
    end: int


class ShareFetch:
    """One fetch. `run` returns an answer for each partition that has one."""

    # may_read: says of a topic, by its id, whether the client may read it now; None: everybody may.

    def __init__(
        self,
        manager: SharePartitionManager,
        group_id: str,
        request: AcquireRequest,
        limits: Limits,
        topic_id_partitions: Sequence[TopicIdPartition],
        *,
        offload: Offload,
        clock: Clock,
        may_read: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._may_read = may_read
        self._manager = manager
        self._group_id = group_id
        self._request = request
        self._limits = limits
        self._offload = offload
        self._clock = clock
        self._answers: dict[TopicIdPartition, PartitionData] = {}
        self._led: list[LedSharePartition] = []
        for topic_id_partition in topic_id_partitions:
            try:
                self._led.append(manager.get_or_load(group_id, topic_id_partition))
            except KafkaError as error:
                self._refuse(topic_id_partition, error)

    async def run(self) -> dict[TopicIdPartition, PartitionData]:
        """Return what was handed out, at once or when there is enough, and after `wait_ms` what there is."""
        limits = self._limits
        if not self._request.records_max or not limits.bytes_max:
            return self._answers
        deadline_ms = self._clock.monotonic_ms() + limits.wait_ms
        while self._led:
            now_ms = self._clock.monotonic_ms()
            self._drop_fenced()
            self._drop_denied()
            config = self._manager.config_of(self._group_id)
            with self._waiting(config) as waiter:
                looks = await self._look(config)
                try:
                    size = sum(look.part.size for look in looks if look.part is not None)
                    enough = bool(looks) and (size >= limits.bytes_min or bool(self._answers))
                    if not self._led or enough or now_ms >= deadline_ms:
                        await self._hand_out(looks, config)
                        return self._answers
                finally:
                    self._unlock(looks, waiter)
                if not waiter.done.done():  # else a share partition has changed since the look began
                    waiter.bytes_wanted = max(limits.bytes_min - size, 1)
                    await waiter.wait(deadline_ms - now_ms)
        return self._answers

    @contextmanager
    def _waiting(self, config: ShareConfig) -> Iterator[FetchWaiter]:
        """Register a waiter that wakes at the first byte, or at any other change, from now on."""
        watched = list(self._led)
        waiter = FetchWaiter([led.partition for led in watched], 1, config.isolation)
        for led in watched:
            led.waiters[waiter] = None
        try:
            yield waiter
        finally:
            waiter.leave()
            for led in watched:
                led.waiters.pop(waiter, None)

    def _drop_fenced(self) -> None:
        for led in self._led:
            if led.error is not None:
                self._refuse(led.topic_id_partition, led.error)
        self._led = [led for led in self._led if led.error is None]

    def _drop_denied(self) -> None:
        """Ask for the right again at every look: it may have been taken away while the fetch waited."""
        if self._may_read is None:
            return
        for led in self._led:
            if not self._may_read(led.topic_id_partition.topic_id):
                self._refuse(led.topic_id_partition, TopicAuthorizationFailedError())
        self._led = [led for led in self._led if led.topic_id_partition not in self._answers]

    def _refuse(self, topic_id_partition: TopicIdPartition, error: KafkaError) -> None:
        self._answers[topic_id_partition] = PartitionData(
            partition_index=topic_id_partition.partition,
            error_code=error.code,
            error_message=error.message,
            records=b"",
        )

    def _refuse_damaged(self, led: LedSharePartition, offset: int, error: ValueError) -> None:
        message = f"what was read from offset {offset} on is damaged: {error}"
        logger.error("%s: %s", led.partition.topic_partition, message)
        self._refuse(led.topic_id_partition, CorruptMessageError(message))

    async def _look(self, config: ShareConfig) -> list[_Look]:
        """Find what every share partition has to offer; those in the result are locked."""
        free: list[LedSharePartition] = []
        for led in self._led:
            if led.is_read:
                led.was_wanted = True
            elif led.state is not None and led.state.can_acquire(config):
                free.append(led)
        for led in free:
            led.is_read = True
        found: list[_Look] = []
        room = self._limits.bytes_max // max(len(free), 1)
        is_first = True
        try:
            for led in free:
                try:
                    look = await self._look_at(led, room, config, is_first)
                except KafkaError as error:
                    self._refuse(led.topic_id_partition, error)
                    continue
                found.append(look)
                if look.part is not None and look.part.size:
                    is_first = False
        except BaseException:
            self._unlock(free)
            raise
        kept = {id(look.led) for look in found}
        self._unlock([led for led in free if id(led) not in kept])
        return found

    async def _look_at(self, led: LedSharePartition, room: int, config: ShareConfig, is_first: bool) -> _Look:
        partition = led.partition
        while True:
            if led.state is None:
                raise led.error or NotLeaderOrFollowerError()
            offset = led.state.next_fetch_offset()
            try:
                try:
                    part = partition.read(offset, room, config.isolation, min_one=is_first, nowait=True)
                except WouldBlockError:
                    part = await self._offload.run(
                        partial(partition.read, offset, room, config.isolation, min_one=is_first)
                    )
            except OffsetOutOfRangeError:
                log_start = partition.log.log_start_offset
                if log_start <= offset:
                    raise
                if led.state is not None:
                    led.state.on_log_start(log_start)
                continue
            return _Look(led, offset, part)

    @staticmethod
    def _unlock(looks: Sequence[_Look | LedSharePartition], waiter: FetchWaiter | None = None) -> None:
        """Let others read; those that wanted to meanwhile look again. `waiter` is one's own."""
        for look in looks:
            led = look.led if isinstance(look, _Look) else look
            led.is_read = False
            if led.was_wanted:
                led.was_wanted = False
                led.wake(but=waiter)

    # --------------------------------------------------------------- hand out

    async def _hand_out(self, looks: Sequence[_Look], config: ShareConfig) -> None:
        left = self._request.records_max
        for look in looks:
            led, partition = look.led, look.led.partition
            data = PartitionData(partition_index=led.key.partition, records=b"")
            if led.topic_id_partition not in self._answers:
                self._answers[led.topic_id_partition] = data
            if look.part is None or not look.part.size or left <= 0:
                continue
            try:
                records = look.part.read_nowait()
                if records is None:
                    records = await self._offload.run(look.part.read)
                aborted = self._aborted_producers(look, config)
            except OSError as error:
                self._refuse(led.topic_id_partition, partition.on_io_error(error))
                continue
            if led.state is None:
                self._refuse(led.topic_id_partition, led.error or NotLeaderOrFollowerError())
                continue
            try:
                batches = _batches(records)
                gone = _aborted_batches(records, aborted) if aborted else []
            except ValueError as error:
                self._refuse_damaged(led, look.offset, error)
                continue
            acquired = led.state.acquire(
                self._request._replace(records_max=left),
                look.offset,
                [(batch.first, batch.last) for batch in batches],
                gone,
                config,
                self._clock.monotonic_ms(),
            )
            if not acquired:
                continue
            left -= sum(piece.last - piece.first + 1 for piece in acquired)
            data.records = _slice(records, batches, acquired)
            data.acquired_records = [
                AcquiredRecords(first_offset=piece.first, last_offset=piece.last, delivery_count=piece.deliveries)
                for piece in acquired
            ]
            self._manager.on_acquired(led)
        for look in looks:
            look.led.is_read = False
            look.led.wake()

    @staticmethod
    def _aborted_producers(look: _Look, config: ShareConfig) -> list[tuple[int, int]]:
        if config.isolation is not IsolationLevel.READ_COMMITTED:
            return []
        log = look.led.partition.log
        return log.aborted_transactions(look.offset, log.last_stable_offset)


def _batches(records: Buffer) -> list[_Batch]:
    """Return where the batches are among whole batches that were read.

    Raises:
        ValueError: one is damaged.
    """
    view = memoryview(records)
    return [
        _Batch(first_offset(view, position, header), header.last_offset, position, position + header.size)
        for position, header in iter_batches(view)
    ]


def _aborted_batches(records: Buffer, aborted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the offsets of the batches that belong to aborted transactions, by the rules consumers use (KIP-98)."""
    waiting = sorted(((first, producer_id) for producer_id, first in aborted), reverse=True)
    open_now: set[int] = set()
    found: list[tuple[int, int]] = []
    view = memoryview(records)
    for position, header in iter_batches(view):
        if header.producer_id < 0:
            continue
        while waiting and waiting[-1][0] <= header.last_offset:
            open_now.add(waiting.pop()[1])
        if header.is_control:
            marker = read_marker(view, position)
            if marker is not None and marker.kind is ControlType.ABORT:
                open_now.discard(header.producer_id)
        elif header.is_transactional and header.producer_id in open_now:
            found.append((header.base_offset, header.last_offset))
    return found


def _slice(records: Buffer, batches: Sequence[_Batch], acquired: Sequence[Acquired]) -> Buffer:
    """Return the bytes of the batches from the first to the last record that was handed out."""
    if len(batches) == 1:
        return records
    first, last = acquired[0].first, acquired[-1].last
    kept = [batch for batch in batches if batch.last >= first and batch.first <= last]
    if len(kept) == len(batches):
        return records
    return memoryview(records)[kept[0].position : kept[-1].end]


def refusal(topic_id_partition: TopicIdPartition, code: ErrorCode) -> PartitionData:
    """Return the answer about a partition that cannot be fetched."""
    return PartitionData(partition_index=topic_id_partition.partition, error_code=code, records=b"")
