"""What scenarios of a simulated cluster are told with: one record in, all records out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ottla.broker.replicas.partition import Partition
from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.testing.simulated_cluster import SimulatedCluster
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

#: Settings under which scenarios are short.
QUICK = {"replica.lag.time.max.ms": 2_000, "replica.socket.timeout.ms": 2_000, "min.insync.replicas": 2}


def simulate(
    scenario: Callable[[SimulatedCluster], Awaitable[None]],
    seed: int = 1,
    count: int = 3,
    session_timeout_ms: int = 6_000,
    **settings: Any,
) -> None:
    """Run a scenario in a cluster of machines, none started."""

    async def main(loop: VirtualLoop) -> None:
        cluster = SimulatedCluster(loop, count, session_timeout_ms=session_timeout_ms, **{**QUICK, **settings})
        await scenario(cluster)

    run_virtual(seed, main)


async def produce(
    cluster: SimulatedCluster,
    node_id: int,
    *values: bytes,
    topic: str = "t",
    acks: int = -1,
    timeout_ms: int = 5_000,
    producer: tuple[int, int] = (-1, -1),
    timestamp_ms: int | None = None,
) -> tuple[ErrorCode, int]:
    """Send one batch to one broker; return the error and the first offset."""
    producer_id, sequence = producer
    stamp = cluster[node_id].clock.wall_ms() if timestamp_ms is None else timestamp_ms
    records = [Record(i, stamp, None, value) for i, value in enumerate(values)]
    batch = build_batch(
        records, producer_id=producer_id, producer_epoch=0 if producer_id >= 0 else -1, base_sequence=sequence
    )
    data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=batch)])
    client = await cluster.connect(node_id)
    try:
        answer = await client.ask(
            ProduceRequest(acks=acks, timeout_ms=timeout_ms, topic_data=[data]), 9, ProduceResponse
        )
    finally:
        client.close()
    part = answer.responses[0].partition_responses[0]
    return ErrorCode(part.error_code), part.base_offset


async def produced(cluster: SimulatedCluster, node_id: int, *values: bytes, topic: str = "t") -> int:
    """Send one batch until it is acknowledged; return its first offset."""
    while True:
        error, offset = await produce(cluster, node_id, *values, topic=topic)
        if error is ErrorCode.NONE:
            return offset
        await asyncio.sleep(0.1)


async def fetch(cluster: SimulatedCluster, node_id: int, offset: int = 0, topic: str = "t") -> PartitionData:
    """Read from one broker, as a consumer."""
    row = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
    client = await cluster.connect(node_id)
    request = FetchRequest(topics=[FetchTopic(topic=topic, partitions=[row])])
    answer = await client.ask(request, 12, FetchResponse)
    client.close()
    return answer.responses[0].partitions[0]


def values_in(records: Any) -> list[bytes]:
    return [
        bytes(record.value or b"")
        for position, _ in iter_batches(records or b"", may_be_cut=True)
        for record in read_records(records, position)
    ]


def values_on(cluster: SimulatedCluster, node_id: int, topic: str = "t") -> list[bytes]:
    """Return everything in a machine's log, committed or not."""
    replica = replica_on(cluster, node_id, topic)
    return values_in(cluster.log_bytes(node_id, topic, upper=replica.log.log_end_offset))


def replica_on(cluster: SimulatedCluster, node_id: int, topic: str = "t") -> Partition:
    broker = cluster[node_id].broker
    assert broker is not None
    replica = broker.replicas.replica(topic, 0)
    assert replica is not None
    return replica


async def is_replicated(cluster: SimulatedCluster, *node_ids: int, topic: str = "t") -> None:
    """Wait until these replicas hold the same, and know all of it to be committed."""

    def is_same() -> bool:
        logs = [replica_on(cluster, node_id, topic).log for node_id in node_ids]
        return len({log.log_end_offset for log in logs} | {log.high_watermark for log in logs}) == 1

    await cluster.until(is_same)
    assert len({cluster.log_bytes(node_id, topic) for node_id in node_ids}) == 1
