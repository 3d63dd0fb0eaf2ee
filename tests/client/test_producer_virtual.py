"""The asynchronous producer and a real broker in one virtual loop: kills, lost power, delays, from a seed."""

from __future__ import annotations

import asyncio
import random

import pytest

import ottla
from ottla.client import aio_producer
from ottla.errors import KafkaError
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.records.reader import iter_records
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual

ADDRESS = "127.0.0.1:9092"
COUNT = 600


async def read(node: SimulatedBroker, topic: str, partitions: int) -> list[list[bytes]]:
    """Return the values of each partition, as a reader of committed records sees them (aborted ones are not looked for)."""
    client = await node.connect()
    found: list[list[bytes]] = []
    for partition in range(partitions):
        values: list[bytes] = []
        offset = 0
        while True:
            part = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=1 << 20)
            request = FetchRequest(
                replica_id=-1, max_bytes=1 << 20, topics=[FetchTopic(topic=topic, partitions=[part])], session_epoch=-1
            )
            answer = await client.ask(request, 12, FetchResponse)
            data = answer.responses[0].partitions[0]
            records = [record for record in iter_records(data.records or b"") if record.offset >= offset]
            if not records:
                assert offset == data.high_watermark
                break
            values += [record.value or b"" for record in records]
            offset = records[-1].offset + 1
        found.append(values)
    client.close()
    return found


async def produce_through_deaths(loop: VirtualLoop, seed: int) -> list[int]:
    """Produce while the broker dies and comes back; return the offsets that were told."""
    dice = random.Random(seed)
    safe = dice.random() < 0.5
    settings = {"log.flush.interval.messages": 1} if safe else {}
    node = SimulatedBroker(loop, **{"num.partitions": 3, **settings})
    await node.start()
    aio_producer._surroundings = (VirtualClock(loop), random.Random(seed))
    acknowledged: dict[bytes, tuple[int, int]] = {}
    async with ottla.aio.Producer(ADDRESS, linger_ms=2, batch_size=400, request_timeout_ms=5_000) as producer:

        async def work() -> None:
            pending = []
            for number in range(COUNT):
                value = b"%04d" % number
                pending.append((value, await producer.send("t", value, key=b"%d" % (number % 12))))
                if dice.random() < 0.1:
                    await asyncio.sleep(dice.random() * 0.3)
            for value, delivery in pending:
                found = await delivery
                acknowledged[value] = (found.partition, found.offset)

        task = asyncio.create_task(work())
        while not task.done():
            await asyncio.sleep(dice.random() * 3)
            if task.done():
                break
            if safe and dice.random() < 0.5:
                node.power_cut()
            else:
                node.kill()
            await asyncio.sleep(dice.random() * 2)
            await node.start()
        await task
    logs = await read(node, "t", 3)
    assert sorted(value for values in logs for value in values) == [b"%04d" % number for number in range(COUNT)]
    for value, (partition, offset) in acknowledged.items():
        assert offset == -1 or logs[partition][offset] == value
    for values in logs:
        by_key: dict[int, list[int]] = {}
        for value in values:
            by_key.setdefault(int(value) % 12, []).append(int(value))
        assert all(numbers == sorted(numbers) for numbers in by_key.values())
    await node.stop()
    return [offset for _, offset in acknowledged.values()]


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_or_twice_or_out_of_order(seed: int) -> None:
    try:
        run_virtual(seed, lambda loop: produce_through_deaths(loop, seed))
    finally:
        aio_producer._surroundings = (None, None)


def test_the_same_seed_gives_the_same_trace() -> None:
    try:
        first, again = (run_virtual(3, lambda loop: produce_through_deaths(loop, 3)) for _ in range(2))
    finally:
        aio_producer._surroundings = (None, None)
    assert first == again


async def transactions_through_deaths(loop: VirtualLoop, seed: int) -> tuple[int, int]:
    """Transactions while the broker dies; return (committed, aborted)."""
    dice = random.Random(seed)
    node = SimulatedBroker(
        loop, **{"num.partitions": 2, "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000}
    )
    await node.start()
    aio_producer._surroundings = (VirtualClock(loop), random.Random(seed))
    committed: list[bytes] = []
    aborted = 0
    async with ottla.aio.Producer(ADDRESS, transactional_id="x", linger_ms=0, request_timeout_ms=5_000) as producer:

        async def work() -> None:
            nonlocal aborted
            for number in range(25):
                values = [b"%02d-%02d" % (number, index) for index in range(dice.randrange(1, 12))]
                try:
                    async with producer.transaction() as transaction:
                        await transaction.send_many("t", values)
                        await transaction.send_offsets({ottla.TopicPartition("t", 0): number}, "g")
                        if dice.random() < 0.3:
                            raise ottla.Abort
                    committed.extend(values)
                except ottla.Abort:
                    raise AssertionError("not swallowed") from None
                except KafkaError:
                    aborted += 1

        task = asyncio.create_task(work())
        while not task.done():
            await asyncio.sleep(dice.random() * 2)
            if not task.done():
                node.kill()
                await asyncio.sleep(dice.random())
                await node.start()
        await task
    await node.stop()
    return len(committed), aborted


@pytest.mark.parametrize("seed", range(4))
def test_transactions_get_through(seed: int) -> None:
    try:
        (committed, aborted), _ = run_virtual(seed, lambda loop: transactions_through_deaths(loop, seed))
    finally:
        aio_producer._surroundings = (None, None)
    assert committed > 0
    assert aborted == 0
