"""Loading a coordinator partition: how long it takes, and what ends it, with a log whose high watermark moves late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from ottla.broker.coordinators.loader import LoadSummary, load
from ottla.broker.coordinators.shard import Shard
from ottla.errors import CorruptMessageError, KafkaError, KafkaStorageError, NotLeaderOrFollowerError
from ottla.protocol.records.batch import set_offset_and_epoch
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

RECORDS = 10


def batch(base_offset: int) -> bytes:
    written = build_batch([Record(index, 0, b"k", b"v") for index in range(RECORDS)])
    set_offset_and_epoch(written, 0, base_offset, 1)
    return bytes(written)


class Log:
    """Two batches of ten records; the high watermark moves when a test says so."""

    def __init__(self, high_watermark: int) -> None:
        self.data = {0: batch(0), RECORDS: batch(RECORDS)}
        self.start = 0
        self.high_watermark_is = high_watermark
        self.errors: list[KafkaError] = []
        self._moved: list[asyncio.Future[None]] = []

    def commit(self, offset: int) -> None:
        self.high_watermark_is = offset
        waiting, self._moved = self._moved, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def committed(self, topic: str, partition: int, last_offset: int) -> None:
        while self.high_watermark_is <= last_offset:
            self._moved.append(asyncio.get_running_loop().create_future())
            await self._moved[-1]

    async def read(self, topic: str, partition: int, from_offset: int, max_bytes: int) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return next((data for base, data in self.data.items() if base + RECORDS > from_offset), b"")

    def start_offset(self, topic: str, partition: int) -> int:
        return self.start

    def high_watermark(self, topic: str, partition: int) -> int:
        return self.high_watermark_is

    def end_offset(self, topic: str, partition: int) -> int:
        return 2 * RECORDS


class CountingShard:
    def __init__(self) -> None:
        self.replayed: list[int] = []

    def decode(self, key: bytes, value: bytes | None) -> object:
        return key, value

    def replay(self, offset: int, producer_id: int, record: object) -> None:
        self.replayed.append(offset)


class World:
    def __init__(self, loop: VirtualLoop, high_watermark: int) -> None:
        self.loop = loop
        self.log = Log(high_watermark)
        self.shard = CountingShard()
        self.is_led = True

    def load(self) -> asyncio.Task[LoadSummary]:
        return self.loop.create_task(
            load(
                cast(Any, self.log),
                "t",
                0,
                cast(Shard, self.shard),
                max_bytes=1 << 20,
                is_current=lambda: self.is_led,
            )
        )


def in_world(main: Callable[[World], Coroutine[Any, Any, None]], *, high_watermark: int = 2 * RECORDS) -> None:
    async def run(loop: VirtualLoop) -> None:
        await main(World(loop, high_watermark))

    run_virtual(1, run)


def test_loading_waits_for_a_commit_however_late_it_comes() -> None:
    """A follower has left the in-sync replicas only after 8 seconds, or 8 hours."""

    async def main(world: World) -> None:
        loading = world.load()
        await asyncio.sleep(8)
        assert world.shard.replayed == list(range(RECORDS))
        await asyncio.sleep(8 * 3600)
        assert not loading.done()
        world.log.commit(2 * RECORDS)
        summary = await loading
        assert (summary.next_offset, world.shard.replayed) == (2 * RECORDS, list(range(2 * RECORDS)))

    in_world(main, high_watermark=RECORDS)


def test_loading_stops_when_the_partition_is_led_no_more() -> None:
    async def main(world: World) -> None:
        world.log.errors = [NotLeaderOrFollowerError()] * 1000
        loading = world.load()
        await asyncio.sleep(60)
        assert not loading.done()
        world.is_led = False
        await asyncio.sleep(60)
        assert loading.done()
        assert world.shard.replayed == []

    in_world(main)


def test_a_read_that_fails_is_tried_again_where_it_failed() -> None:
    async def main(world: World) -> None:
        world.log.errors = [KafkaStorageError("an I/O error"), KafkaStorageError("an I/O error")]
        summary = await world.load()
        assert summary.next_offset == 2 * RECORDS
        assert world.shard.replayed == list(range(2 * RECORDS))

    in_world(main)


def test_what_is_deleted_while_loading_is_passed_over() -> None:
    async def main(world: World) -> None:
        loading = world.load()
        await asyncio.sleep(1)
        world.log.start = RECORDS + 5
        world.log.commit(2 * RECORDS)
        await loading
        assert world.shard.replayed == [*range(RECORDS), *range(RECORDS + 5, 2 * RECORDS)]

    in_world(main, high_watermark=RECORDS)


def test_offsets_without_batches_are_passed_over_at_once_when_they_are_committed() -> None:
    async def main(world: World) -> None:
        del world.log.data[RECORDS]
        summary = await world.load()
        assert (summary.next_offset, world.loop.time()) == (2 * RECORDS, 0)

    in_world(main)


def test_bytes_that_are_no_batch_end_loading_with_an_error() -> None:
    async def main(world: World) -> None:
        world.log.data[RECORDS] = b"\0" * 100
        with pytest.raises(ValueError, match="no record batch"):
            await world.load()
        assert world.shard.replayed == list(range(RECORDS))

    in_world(main)


def test_a_damaged_batch_is_not_read_over_and_over() -> None:
    async def main(world: World) -> None:
        world.log.errors = [CorruptMessageError("a bad length")]
        with pytest.raises(CorruptMessageError):
            await world.load()

    in_world(main)
