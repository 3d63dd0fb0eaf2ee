"""The leader of share partitions: in which order changes are persisted, and what becomes of locks when they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from ottla.broker.coordinators.share.coordinator import Write
from ottla.broker.coordinators.share.records import ShareKey
from ottla.broker.share.config import ShareConfig
from ottla.broker.share.manager import LedSharePartition, SharePartitionManager
from ottla.broker.share.persister import ShareStatePersister, StateResult
from ottla.broker.share.share_partition import ACCEPT, Acknowledgement, AcquireRequest, SharePartition
from ottla.errors import CoordinatorNotAvailableError, ErrorCode, KafkaError
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import TopicIdPartition

CONFIG = ShareConfig(record_lock_duration_ms=1_000)
PLACE = TopicIdPartition(b"\1" * 16, 0)


class HandPersister:
    """Answers each write when the test says so."""

    def __init__(self) -> None:
        self.writes: list[tuple[Write, asyncio.Future[ErrorCode]]] = []

    async def write(self, group_id: str, topic_id_partition: TopicIdPartition, write: Write) -> StateResult:
        answer: asyncio.Future[ErrorCode] = asyncio.get_running_loop().create_future()
        self.writes.append((write, answer))
        return StateResult(topic_id_partition, await answer)

    async def answer(self, code: ErrorCode = ErrorCode.NONE) -> None:
        self.writes[-1][1].set_result(code)
        await asyncio.sleep(0.01)


class Bench:
    """One share partition that this broker leads, with records handed out to members."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.clock = VirtualClock(loop)
        self.persister = HandPersister()
        self.manager = SharePartitionManager(
            cast(Any, SimpleNamespace()),
            cast(ShareStatePersister, self.persister),
            config_of=lambda _group: CONFIG,
            sessions_max=10,
            clock=self.clock,
        )
        key = ShareKey("g", *PLACE)
        self.led = LedSharePartition(key, cast(Any, SimpleNamespace(leader_epoch=0)))
        self.state = self.led.state = SharePartition(state_epoch=1, leader_epoch=0, start_offset=0)
        self.manager._led[key] = self.led

    def hand_out(self, member: str, first: int, last: int) -> None:
        request = AcquireRequest(member, last - first + 1, last - first + 1, True)
        self.state.acquire(request, first, [(first, last)], [], CONFIG, self.clock.monotonic_ms())
        self.manager.on_acquired(self.led)

    def accept(self, member: str, first: int, last: int) -> asyncio.Task[KafkaError | None]:
        async def acknowledge() -> KafkaError | None:
            wanted = {PLACE: [Acknowledgement(first, last, [ACCEPT])]}
            return (await self.manager.acknowledge("g", member, wanted))[PLACE]

        return asyncio.get_running_loop().create_task(acknowledge())


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        await story(bench)
        await bench.manager.stop()

    run_virtual(1, main)


def test_a_change_that_is_persisted_late_does_not_come_behind_later_ones() -> None:
    """1. The middle is acknowledged, which takes long to persist. 2. So are both ends. 3. They follow, together."""

    async def story(bench: Bench) -> None:
        for member, first in (("A", 0), ("B", 10), ("A", 20)):
            bench.hand_out(member, first, first + 9)
        middle = bench.accept("B", 10, 19)
        await asyncio.sleep(0.01)
        ends = [bench.accept("A", 0, 9), bench.accept("A", 20, 29)]
        await asyncio.sleep(0.1)
        assert len(bench.persister.writes) == 1
        await bench.persister.answer()
        assert await middle is None
        earlier, later = (write for write, _ in bench.persister.writes)
        assert [(each.first, each.last) for each in earlier.batches] == [(10, 19)]
        assert sorted((each.first, each.last) for each in later.batches) == [(0, 9), (20, 29)]
        await bench.persister.answer()
        assert await asyncio.gather(*ends) == [None, None]
        assert bench.state.start_offset == 30
        assert [write.start_offset for write, _ in bench.persister.writes] == [0, 0]

    play(story)


def test_the_lock_of_records_whose_acknowledgement_was_not_persisted_ends() -> None:
    async def story(bench: Bench) -> None:
        bench.hand_out("A", 0, 9)
        accepted = bench.accept("A", 0, 9)
        await asyncio.sleep(0.5)  # the lock's timer comes while this is being persisted
        bench.state.window.runs[0].deadline_ms += 1_000  # as if it had been renewed
        await asyncio.sleep(0.6)
        await bench.persister.answer(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        assert isinstance(await accepted, CoordinatorNotAvailableError)
        assert bench.state.next_fetch_offset() == 10
        await asyncio.sleep(1)
        assert bench.state.next_fetch_offset() == 0, "they can be handed out again"
        await bench.persister.answer()

    play(story)
