"""The asynchronous producer against a real broker."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator

import pytest
from tests.client.others import new_topic, read_all
from tests.support.broker_process import RunningBroker

import ottla

# ruff: noqa: PT012

TOO_LARGE = b"x" * 5_000


async def test_send_await_and_send_and_wait(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    async with ottla.aio.Producer(broker.address) as producer:
        delivery = await producer.send(topic, b"1", key=b"k", headers={"h": "v"}, timestamp=1_700_000_000_000)
        assert await delivery == (topic, 0, 0, 1_700_000_000_000)
        assert delivery.done()
        assert (await delivery).offset == 0
        assert (await producer.send_and_wait(topic, b"2", timeout=30)).offset == 1
        deliveries = [await producer.send(topic, b"%d" % number) for number in range(500)]
        assert [found.offset for found in await asyncio.gather(*deliveries)] == list(range(2, 502))
    assert len(read_all(broker.address, topic)) == 502


async def test_send_many_takes_both_kinds_of_iterables(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)

    async def produce() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % number

    async with ottla.aio.Producer(broker.address) as producer:
        assert await producer.send_many(topic, produce(), key=lambda value: value) == 100
        assert await producer.send_many(topic, [b"a", b"b"]) == 2
    assert len(read_all(broker.address, topic)) == 102


async def test_failures(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, max_message_bytes="2000")
    async with ottla.aio.Producer(broker.address) as producer:
        kept = await producer.send(topic, TOO_LARGE)
        await producer.send(topic, TOO_LARGE)
        with pytest.raises(ottla.DeliveryErrors) as caught:
            await producer.flush()
        assert caught.value.count == 1
        with pytest.raises(ottla.DeliveryError):
            await kept
        with pytest.raises(ottla.DeliveryError):
            await producer.send_and_wait(topic, TOO_LARGE)
    with pytest.raises(ottla.DeliveryErrors):
        async with ottla.aio.Producer(broker.address) as producer:
            await producer.send(topic, TOO_LARGE)
    with pytest.raises(ZeroDivisionError) as left:
        async with ottla.aio.Producer(broker.address) as producer:
            await producer.send(topic, TOO_LARGE)
            raise ZeroDivisionError
    assert "1 record was not delivered" in left.value.__notes__[0]


async def test_back_pressure_waits_and_a_cancelled_send_leaves_no_trace(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    async with ottla.aio.Producer(broker.address, buffer_memory=3_000, linger_ms=0) as producer:
        await producer.send_many(topic, [b"%05d" % number + b"x" * 95 for number in range(500)])
        tasks = [asyncio.create_task(producer.send(topic, b"y" * 100)) for _ in range(200)]
        await asyncio.sleep(0)
        cancelled = sum(task.cancel() for task in tasks[100:])
        done = await asyncio.gather(*tasks, return_exceptions=True)
        accepted = sum(not isinstance(result, BaseException) for result in done)
        assert accepted >= 200 - cancelled
    seen = read_all(broker.address, topic)
    assert [int((record.value or b"")[:5]) for record in seen[:500]] == list(range(500))
    assert len(seen) == 500 + accepted


async def test_cancelling_what_waits_for_a_delivery_changes_nothing(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    async with ottla.aio.Producer(broker.address, linger_ms="1h", delivery_timeout_ms="2h") as producer:
        delivery = await producer.send(topic, b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_wait(delivery), 0.01)
        await producer.flush()
        assert (await delivery).offset == 0


async def _wait(delivery: ottla.aio.Delivery) -> object:
    return await delivery


async def test_a_constructor_binds_no_loop_and_nothing_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        producer = ottla.aio.Producer(f"127.0.0.1:{probe.getsockname()[1]}", connect_timeout=0.2)
        with pytest.raises(ottla.BrokerUnreachableError, match="Nothing listens on"):
            await producer.start()
        with pytest.raises(ottla.ClosedError):
            await producer.send("t", b"x")


def test_a_producer_made_outside_a_loop_works_in_one(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    producer = ottla.aio.Producer(broker.address, connect="lazy")

    async def main() -> None:
        async with producer:
            assert (await producer.send_and_wait(topic, b"x")).offset == 0
            assert await producer.partitions_for(topic) == 1
            assert producer.metrics()["record-send-total"] == 1

    asyncio.run(main())


async def test_a_dropped_producer_warns(broker: RunningBroker) -> None:
    producer: ottla.aio.Producer | None = ottla.aio.Producer(broker.address)
    assert producer is not None
    await producer.start()
    runtime = producer._runtime
    assert runtime is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        producer = None
        gc.collect()
    assert any("was dropped without being closed" in str(warning.message) for warning in caught)
    await runtime.stop()
