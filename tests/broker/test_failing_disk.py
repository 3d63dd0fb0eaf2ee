"""A disk that fails or is full, seen from a client of the whole broker."""

from __future__ import annotations

import errno

from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient


async def produce(node: SimulatedBroker, client: WireClient, size: int = 10) -> ErrorCode:
    batch = build_batch([Record(0, node.clock.wall_ms(), None, b"x" * size)])
    request = ProduceRequest(
        acks=-1,
        timeout_ms=1_000,
        topic_data=[
            TopicProduceData(name="orders", partition_data=[PartitionProduceData(index=0, records=bytes(batch))])
        ],
    )
    answer = await client.ask(request, 9, ProduceResponse)
    return ErrorCode(answer.responses[0].partition_responses[0].error_code)


async def readable(client: WireClient) -> int:
    """Return how many bytes of records a consumer gets from the start."""
    request = FetchRequest(
        topics=[FetchTopic(topic="orders", partitions=[FetchPartition(partition=0, partition_max_bytes=1 << 20)])]
    )
    answer = await client.ask(request, 11, FetchResponse)
    return len(answer.responses[0].partitions[0].records or b"")


async def started(loop: VirtualLoop, **settings: object) -> tuple[SimulatedBroker, WireClient]:
    node = SimulatedBroker(loop, **settings)
    await node.start()
    client = await node.connect()
    await client.ask(MetadataRequest(topics=[MetadataRequestTopic(name="orders")]), 12, MetadataResponse)
    return node, client


def test_full_disk_refuses_appends_serves_reads_and_recovers_by_itself() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop)
        assert await produce(node, client) == ErrorCode.NONE
        before = await readable(client)
        node.files.capacity = node.files.used + 50
        assert await produce(node, client, 1_000) == ErrorCode.KAFKA_STORAGE_ERROR
        assert await readable(client) == before
        node.files.capacity = 1 << 62
        assert await produce(node, client) == ErrorCode.NONE
        assert await readable(client) > before
        assert node.broker is not None
        assert not node.broker.failure.done()
        node.kill()
        await node.start()
        assert await readable(await node.connect()) > before
        await node.stop()

    run_virtual(1, story)


def test_failed_fsync_is_never_acknowledged_and_ends_a_broker_without_another_disk() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"log.flush.interval.messages": 1})

        def fail(operation: str, path: str) -> None:
            if operation == "sync":
                raise OSError(errno.EIO, "the disk is gone", path)

        node.files.fail = fail
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        node.files.fail = None
        assert await produce(node, client) == ErrorCode.KAFKA_STORAGE_ERROR
        assert node.broker is not None
        assert "no log directory is left" in await node.broker.failure
        await node.stop()

    run_virtual(1, story)
