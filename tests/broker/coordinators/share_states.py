"""What a share coordinator remembers, as a model: for groups whose coordinator is under test."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ottla.broker.coordinators.share.coordinator import Write
from ottla.broker.share.persister import (
    InitialState,
    LoadedState,
    StateResult,
    StateSummary,
)
from ottla.errors import ErrorCode, error_for
from ottla.types import TopicIdPartition


class Begun(NamedTuple):
    """The state of one share partition."""

    epoch: int
    start_offset: int


class ModelPersister:
    """Implements `ShareStatePersister`, as far as groups need it.

    Attributes:
        hold: requests wait while it is set.
        failures: the error of the next request that changes something.
        history: how often a share partition has begun.
    """

    def __init__(self) -> None:
        self.states: dict[tuple[str, TopicIdPartition], Begun] = {}
        self.failures: deque[ErrorCode] = deque()
        self.hold = False
        self._waiting: list[asyncio.Future[None]] = []
        self.history: dict[tuple[str, TopicIdPartition], int] = {}

    def release(self) -> None:
        """Let what waits go on."""
        self.hold = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _pass(self) -> ErrorCode:
        while self.hold:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        return self.failures.popleft() if self.failures else ErrorCode.NONE

    async def initialize(self, group_id: str, partitions: Sequence[InitialState]) -> list[StateResult]:
        code = await self._pass()
        results = []
        for index, state in enumerate(partitions):
            key = (group_id, state.topic_id_partition)
            known = self.states.get(key)
            # A failure concerns every second partition, so that part of a topic has begun.
            failed = code if index % 2 == 0 else ErrorCode.NONE
            if not failed and known is not None and known.epoch > state.state_epoch:
                failed = ErrorCode.FENCED_STATE_EPOCH
            if not failed:
                self.states[key] = Begun(state.state_epoch, state.start_offset)
                self.history[key] = self.history.get(key, 0) + 1
            results.append(_result(state.topic_id_partition, failed))
        return results

    async def delete(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateResult]:
        code = await self._pass()
        if not code:
            for topic_id_partition in topic_id_partitions:
                self.states.pop((group_id, topic_id_partition), None)
        return [_result(topic_id_partition, code) for topic_id_partition in topic_id_partitions]

    async def read_summary(self, group_id: str, topic_id_partitions: Sequence[TopicIdPartition]) -> list[StateSummary]:
        found = []
        for topic_id_partition in topic_id_partitions:
            state = self.states.get((group_id, topic_id_partition))
            if state is None:
                found.append(StateSummary(topic_id_partition))
            else:
                count = -1 if state.start_offset == -1 else 0
                found.append(
                    StateSummary(
                        topic_id_partition,
                        state_epoch=state.epoch,
                        start_offset=state.start_offset,
                        delivery_complete_count=count,
                    )
                )
        return found

    async def read(self, group_id: str, topic_id_partition: TopicIdPartition, leader_epoch: int) -> LoadedState:
        raise AssertionError("groups do not load share partitions")

    async def write(self, group_id: str, topic_id_partition: TopicIdPartition, write: Write) -> StateResult:
        raise AssertionError("groups do not write what is acknowledged")


def _result(topic_id_partition: TopicIdPartition, code: ErrorCode) -> StateResult:
    return StateResult(topic_id_partition, code, error_for(code).message if code else None)


class LogEnds(NamedTuple):
    """What DescribeShareGroupOffsets asks of a log."""

    high_watermark: int


class ModelPartition(NamedTuple):
    log: LogEnds


class ModelReplicas:
    """Partitions of which only the end is known; one without an end is offline."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], int] = {}

    def partition(self, topic: str, index: int) -> ModelPartition | None:
        end = self.ends.get((topic, index))
        return None if end is None else ModelPartition(LogEnds(end))

    def error(self, topic: str, index: int) -> ErrorCode:
        return ErrorCode.KAFKA_STORAGE_ERROR
