"""A segment whose bytes do not add up: what clients, the page, the metrics and an operator get from the running broker."""

from __future__ import annotations

import asyncio
import struct

import pytest
from tests.broker.story import fetch, log_of, produce, started

from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.pages import Pages
from ottla.errors import ErrorCode
from ottla.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.records.batch import read_header
from ottla.protocol.records.builder import Record
from ottla.protocol.records.reader import iter_records
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

COUNT, DAMAGED = 160, 1


async def with_damage(loop: VirtualLoop, *, clean: bool = True) -> tuple[SimulatedBroker, WireClient]:
    """Return a broker that was stopped, had the length of its record 1 overwritten, and was started."""
    node, client = await started(loop, **{"log.segment.bytes": 1 << 20, "log.retention.ms": 600_000})
    for _ in range(COUNT):
        assert await produce(node, client, 30_000) == ErrorCode.NONE
    assert len(log_of(node).segments) > 3
    client.close()
    await node.stop()
    path = f"data/orders-0/{0:020d}.log"
    data = bytearray(node.files.read_bytes(path))
    struct.pack_into(">i", data, DAMAGED * read_header(data).size + 8, 20)
    node.files.write_atomic(path, bytes(data))
    if not clean:
        node.files.remove("data/.kafka_cleanshutdown")
    await node.start()
    return node, await node.connect()


async def page(node: SimulatedBroker, path: str) -> tuple[int, str]:
    assert node.broker is not None
    answer = Pages(LiveFacts(node.broker)).handle(path)
    body = answer.body
    return answer.status, (body if isinstance(body, bytes) else b"".join(body)).decode()


@pytest.mark.parametrize("clean", [True, False])
def test_only_the_damaged_offset_is_refused_and_everybody_who_looks_is_told(clean: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await with_damage(loop, clean=clean)
        for offset in range(COUNT):
            data = await fetch(client, offset, max_bytes=1)
            if offset == DAMAGED:
                assert (data.error_code, data.records) == (ErrorCode.CORRUPT_MESSAGE, b"")
            else:
                assert data.error_code == ErrorCode.NONE
                assert next(iter_records(data.records or b"")).offset == offset
        assert await produce(node, client) == ErrorCode.NONE
        status, front = await page(node, "/")
        assert status == 200
        assert "a part of orders-0 cannot be read" in front
        assert (await page(node, "/readyz")) == (200, "ready\n")
        assert (await page(node, "/healthz"))[0] == 200
        metrics = (await page(node, "/metrics"))[1]
        assert 'ottla_log_unreadable_bytes{partition="0",topic="orders"} ' in metrics
        assert "ottla_log_unreadable_partitions 1\n" in metrics
        await node.stop()

    run_virtual(1, story)


def test_a_look_up_by_time_that_may_lie_in_the_damage_is_refused_and_others_are_not() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await with_damage(loop)
        times = {offset: (await first_record(client, offset)).timestamp for offset in (0, 60)}
        for offset, time in times.items():
            assert (await offset_for(client, time))[0] == ErrorCode.NONE, offset
        await node.stop()

    async def first_record(client: WireClient, offset: int) -> Record:
        return next(iter_records((await fetch(client, offset, max_bytes=1)).records or b""))

    async def offset_for(client: WireClient, time: int) -> tuple[int, int]:
        wanted = ListOffsetsPartition(partition_index=0, timestamp=time, current_leader_epoch=-1)
        request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="orders", partitions=[wanted])])
        answer = await client.ask(request, 5, ListOffsetsResponse)
        part = answer.topics[0].partitions[0]
        return part.error_code, part.offset

    run_virtual(1, story)


def test_retention_keeps_the_damaged_segment_and_delete_records_removes_it() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await with_damage(loop)
        assert node.broker is not None
        log = log_of(node)
        await asyncio.sleep(1500)  # longer than log.retention.ms
        assert log.segments[0].base_offset == 0
        client = await node.connect()  # the first one was idle for too long
        assert (await fetch(client, DAMAGED)).error_code == ErrorCode.CORRUPT_MESSAGE
        request = DeleteRecordsRequest(
            topics=[
                DeleteRecordsTopic(name="orders", partitions=[DeleteRecordsPartition(partition_index=0, offset=70)])
            ],
            timeout_ms=1_000,
        )
        answer = await client.ask(request, 2, DeleteRecordsResponse)
        assert answer.topics[0].partitions[0].error_code == ErrorCode.NONE
        await asyncio.sleep(600)
        assert log.segments[0].base_offset > DAMAGED
        assert "ottla_log_unreadable_partitions 0\n" in (await page(node, "/metrics"))[1]
        assert "cannot be read" not in (await page(node, "/"))[1]
        await node.stop()

    run_virtual(1, story)
