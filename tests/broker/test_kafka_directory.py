"""A directory that Apache Kafka left behind is opened as it is: its records and its groups are there, nothing is deleted."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.broker.story import produce, readable, started

from ottla.errors import ErrorCode
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic, OffsetFetchResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import TopicPartition

ORDERS = TopicPartition("orders", 0)
DAY_S = 86_400


async def commit(client: WireClient, offset: int) -> None:
    request = OffsetCommitRequest(
        group_id="gk",
        topics=[
            OffsetCommitRequestTopic(
                name="orders", partitions=[OffsetCommitRequestPartition(partition_index=0, committed_offset=offset)]
            )
        ],
    )
    await client.ask(FindCoordinatorRequest(key="gk"), 2, FindCoordinatorResponse)  # makes the internal topic
    for _ in range(50):  # the coordinator is loading at first
        answer = await client.ask(request, 7, OffsetCommitResponse)
        if answer.topics[0].partitions[0].error_code == ErrorCode.NONE:
            return
    raise AssertionError(answer)


async def committed(client: WireClient) -> int:
    await client.ask(FindCoordinatorRequest(key="gk"), 2, FindCoordinatorResponse)
    request = OffsetFetchRequest(group_id="gk", topics=[OffsetFetchRequestTopic(name="orders", partition_indexes=[0])])
    answer = await client.ask(request, 5, OffsetFetchResponse)
    return answer.topics[0].partitions[0].committed_offset


def everything(node: SimulatedBroker, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    files = node.files
    return {
        f"{directory}/{name}": files.read_bytes(f"data/{directory}/{name}")
        for directory in files.listdir("data")
        if files.is_dir(f"data/{directory}")
        for name in files.listdir(f"data/{directory}")
        if name.endswith(suffixes)
    }


async def left_by_kafka(loop: VirtualLoop) -> SimulatedBroker:
    """Return a machine with what Kafka 4.3 leaves after a clean stop; the coordination tree knows nothing of it."""
    writer, client = await started(loop)
    for _ in range(10):
        assert await produce(writer, client) == ErrorCode.NONE
    await commit(client, 5)
    await writer.stop()
    files = writer.files
    files.remove("data/.ottla")
    files.mkdir("data/__cluster_metadata-0")
    files.write_atomic("data/__cluster_metadata-0/00000000000000000000.log", b"not ours to read")
    files.write_atomic("data/bootstrap.checkpoint", b"KRaft")
    files.write_atomic("data/cleaner-offset-checkpoint", b"")  # until something is cleaned
    files.write_atomic("data/log-start-offset-checkpoint", b"0\n0\n")
    node = SimulatedBroker(loop, **{"log.retention.ms": 1_000, "log.roll.ms": 1_000})
    node.files = files
    return node


def test_a_directory_of_kafka_is_served_and_nothing_in_it_deleted(caplog: pytest.LogCaptureFixture) -> None:
    async def story(loop: VirtualLoop) -> None:
        node = await left_by_kafka(loop)
        before = everything(node, (".log", ".index", ".timeindex", ".snapshot", "partition.metadata"))
        assert before["__cluster_metadata-0/00000000000000000000.log"] == b"not ours to read"
        for _ in range(2):
            with caplog.at_level(logging.WARNING):
                caplog.clear()
                broker = await node.start()
            assert "was written by Apache Kafka" in caplog.text
            assert broker.logs.directories["data"].is_foreign
            assert "__cluster_metadata" not in broker.image.topics
            log = broker.logs.logs[ORDERS]
            assert (log.log_start_offset, log.high_watermark, log.log_end_offset) == (0, 10, 10)
            client = await node.connect()
            assert await readable(client) > 10
            assert await committed(client) == 5
            loop.advance(DAY_S)
            assert await broker.logs.apply_retention() == 0
            assert await broker.logs.clean_dirtiest() is None
            await node.stop()
            after = everything(node, (".log", ".index", ".timeindex", ".snapshot", "partition.metadata"))
            assert {name: after.get(name) for name in before} == before
            assert not any("delete" in name or "cleaned" in name for name in node.files.listdir("data"))

    run_virtual(1, story)


def test_committed_offsets_of_kafka_expire_only_when_somebody_says_so() -> None:
    async def story(loop: VirtualLoop) -> None:
        files = (await left_by_kafka(loop)).files
        quick = {"offsets.retention.minutes": 1, "offsets.retention.check.interval.ms": 1_000}
        for confirmed, expected in ((False, 5), (True, -1)):
            node = SimulatedBroker(loop, **quick, **{"ottla.foreign.confirm": str(confirmed).lower()})
            node.files = files
            await node.start()
            client = await node.connect()
            assert await committed(client) in (5, expected)
            await asyncio.sleep(200)
            assert await committed(client) == expected
            await node.stop()

    run_virtual(1, story)
