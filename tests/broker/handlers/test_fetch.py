"""Fetch: who is woken, what is counted, what is read off the loop. A whole broker, simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.broker.story import fetch_request, log_of, produce, produce_request, started

from ottla.errors import ErrorCode
from ottla.offload import InlineOffload
from ottla.protocol.messages.fetch import FetchResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.records.walk import iter_batches
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import AppendOrigin


class OffTheLoop(InlineOffload):
    """Counts what is run off the loop; `now` is set meanwhile."""

    def __init__(self) -> None:
        self.now = False
        self.runs = 0

    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        self.now, self.runs = True, self.runs + 1
        try:
            return function(*args, **kwargs)
        finally:
            self.now = False


def records_of(answer: object) -> bytes:
    assert isinstance(answer, FetchResponse)
    part = answer.responses[0].partitions[0]
    assert part.error_code == ErrorCode.NONE
    return bytes(part.records or b"")


def test_a_fetch_and_an_append_of_the_same_turn_of_the_loop_meet() -> None:
    """The append ran between the fetch's look and its waiter: it called nobody, and the fetch waited for its time-out."""

    async def story(loop: VirtualLoop) -> None:
        node, consumer = await started(loop)
        producer = await node.connect()
        loop.delay = lambda: 0.0  # type: ignore[method-assign]
        began = loop.time()
        fetched = consumer.send(fetch_request(wait_ms=30_000), 11)
        produced = producer.send(produce_request(node), 9)
        await produced
        assert records_of(await fetched)
        assert loop.time() - began < 1
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("settings", [{}, {"log.flush.interval.messages": 1}])
def test_min_bytes_counts_the_bytes_of_appends_whether_synced_or_not(settings: dict[str, object]) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, consumer = await started(loop, **settings)
        producer = await node.connect()
        fetched = consumer.send(fetch_request(wait_ms=30_000, min_bytes=3_000), 11)
        await asyncio.sleep(0.1)
        for _ in range(2):
            assert await produce(node, producer, 1_000) == ErrorCode.NONE
            await asyncio.sleep(0.1)
            assert not fetched.done()
        assert await produce(node, producer, 1_000) == ErrorCode.NONE
        await asyncio.sleep(0.1)
        assert fetched.done()
        assert len(records_of(await fetched)) >= 3_000
        await node.stop()

    run_virtual(1, story)


def test_a_committed_reader_is_answered_when_a_transaction_is_decided_and_not_before() -> None:
    """1. A transaction writes again and again. 2. It is committed: now there is something to answer."""

    async def story(loop: VirtualLoop) -> None:
        node, consumer = await started(loop)
        assert node.broker is not None
        partition = node.broker.replicas.partition("orders", 0)
        assert partition is not None
        request = fetch_request(wait_ms=30_000)
        request.isolation_level = 1
        fetched = consumer.send(request, 11)
        size = 0
        for number in range(20):
            records = [Record(0, node.clock.wall_ms(), None, b"x" * 1000)]
            data = build_batch(records, producer_id=9, producer_epoch=0, base_sequence=number, transactional=True)
            size += len(data)
            partition.append(data)
            await asyncio.sleep(0.1)
        assert not fetched.done()
        assert node.broker.metrics.topic("orders").fetch_requests == 1
        marker = end_transaction_marker(
            ControlType.COMMIT, 0, timestamp_ms=node.clock.wall_ms(), producer_id=9, producer_epoch=0
        )
        partition.append(marker, AppendOrigin.COORDINATOR)
        assert len(records_of(await asyncio.wait_for(fetched, 1))) == size + len(marker)
        await node.stop()

    run_virtual(1, story)


def test_bytes_out_counts_what_is_sent_once_however_often_it_was_looked_at() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client, 1_000) == ErrorCode.NONE
        answer = await client.send(fetch_request(wait_ms=100, min_bytes=5_000), 11)
        assert node.broker is not None
        assert node.broker.metrics.topic("orders").bytes_out == len(records_of(answer)) > 1_000
        await node.stop()

    run_virtual(1, story)


def test_a_place_that_is_not_in_memory_is_looked_up_and_read_off_the_loop() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        for _ in range(40):
            assert await produce(node, client, 200) == ErrorCode.NONE
        log = log_of(node)
        log.roll(node.clock.wall_ms())
        assert await produce(node, client) == ErrorCode.NONE
        assert node.broker is not None
        offload = OffTheLoop()
        partition = node.broker.replicas.partition("orders", 0)
        assert partition is not None
        partition._offload = offload
        on_the_loop: list[str] = []

        def watch(operation: str, path: str) -> None:
            if operation == "pread" and not offload.now:
                on_the_loop.append(path)

        node.files.is_cold = lambda _path: not offload.now
        node.files.fail = watch
        for offset in (0, 7, 31):
            log.reader.forget_places()
            answer = await client.send(fetch_request(offset, max_bytes=600), 11)
            heads = [header.base_offset for _, header in iter_batches(records_of(answer))]
            assert heads == [offset, offset + 1], heads
        assert on_the_loop == []
        assert offload.runs == 2 * 3
        node.files.fail = None
        await node.stop()

    run_virtual(1, story)
