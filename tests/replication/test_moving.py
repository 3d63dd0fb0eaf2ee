"""Replicas that are moved under a throttle, and consumers that are sent to a replica in their rack."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.replication.story import produce, produced, replica_on, simulate, values_in, values_on

from ottla.errors import ErrorCode
from ottla.protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartition,
    ReassignableTopic,
)
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.testing.simulated_cluster import SimulatedCluster

TOPIC_TYPE, BROKER_TYPE = 2, 4


async def alter(cluster: SimulatedCluster, kind: int, name: str, **values: str) -> None:
    """Set keys whose dots are underscores here."""
    client = await cluster.connect(int(name) if kind == BROKER_TYPE else 1)
    rows = [
        AlterableConfig(name=key.replace("_", "."), config_operation=0, value=value) for key, value in values.items()
    ]
    resource = AlterConfigsResource(resource_type=kind, resource_name=name, configs=rows)
    request = IncrementalAlterConfigsRequest(resources=[resource])
    answer = await client.ask(request, 1, IncrementalAlterConfigsResponse)
    assert not answer.responses[0].error_code, answer.responses[0].error_message
    client.close()


async def reassign(cluster: SimulatedCluster, replicas: list[int]) -> None:
    client = await cluster.connect(1)
    part = ReassignablePartition(partition_index=0, replicas=replicas)
    request = AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name="t", partitions=[part])])
    answer = await client.ask(request, 0, AlterPartitionReassignmentsResponse)
    assert not answer.responses[0].partitions[0].error_code
    client.close()


def test_the_only_replica_takes_a_broker_that_came_later() -> None:
    """Until then its leader had no use for what it heard of brokers; it must know the newcomer all the same."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        await cluster.make_topic("t", [(1,)])
        assert (await produce(cluster, 1, b"before", acks=1))[0] is ErrorCode.NONE
        await cluster.start(2)
        await reassign(cluster, [2])
        await cluster.has_isr("t", 2)
        assert values_on(cluster, 2) == [b"before"]

    simulate(scenario, count=2)


def throttled(side: str) -> None:
    """A replica of 800 KB is moved at 10 KB/s on one side; it takes as long as that, and those in sync go on."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2)])
        for _ in range(40):
            assert (await produce(cluster, 1, bytes(20_000), acks=1))[0] is ErrorCode.NONE
        replicas = "0:1,0:2" if side == "leader" else "0:3"
        await alter(cluster, TOPIC_TYPE, "t", **{f"{side}_replication_throttled_replicas": replicas})
        for broker in ("1", "2", "3"):
            await alter(cluster, BROKER_TYPE, broker, **{f"{side}_replication_throttled_rate": "10000"})
        begun = cluster.loop.time()
        await reassign(cluster, [1, 2, 3])
        await asyncio.sleep(10)
        assert cluster.state("t").isr == (1, 2)
        took = cluster.loop.time()
        assert (await produce(cluster, 1, b"meanwhile", timeout_ms=1_000))[0] is ErrorCode.NONE  # acks=all of 1 and 2
        assert cluster.loop.time() - took < 0.5
        await cluster.has_isr("t", 1, 2, 3, seconds=200)
        assert 60 < cluster.loop.time() - begun < 110  # 80 s at 10 KB/s, ten seconds' worth of it at once
        # The throttle is taken away: the next one is quick.
        for broker in ("1", "2", "3"):
            await alter(cluster, BROKER_TYPE, broker, **{f"{side}_replication_throttled_rate": str(10**9)})
        await reassign(cluster, [1, 2])
        await cluster.has_isr("t", 1, 2)
        begun = cluster.loop.time()
        await reassign(cluster, [1, 2, 3])
        await cluster.has_isr("t", 1, 2, 3)
        assert cluster.loop.time() - begun < 30
        assert values_on(cluster, 3) == values_on(cluster, 1)

    simulate(scenario, **{"replica.fetch.response.max.bytes": 30_000, "replica.fetch.max.bytes": 30_000})


def test_a_leader_sends_a_moved_replica_no_more_than_its_throttle() -> None:
    throttled("leader")


def test_a_follower_fetches_a_moved_replica_no_faster_than_its_throttle() -> None:
    throttled("follower")


async def fetch_in_rack(cluster: SimulatedCluster, node_id: int, rack: str, offset: int = 0) -> PartitionData:
    row = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
    client = await cluster.connect(node_id)
    request = FetchRequest(topics=[FetchTopic(topic="t", partitions=[row])], rack_id=rack, max_wait_ms=500, min_bytes=1)
    answer = await client.ask(request, 12, FetchResponse)
    client.close()
    return answer.responses[0].partitions[0]


def test_a_consumer_is_sent_to_the_replica_in_its_rack() -> None:
    """KIP-392: the leader names a replica in sync in the consumer's rack, which serves it."""

    async def scenario(cluster: SimulatedCluster) -> None:
        for node_id, machine in cluster.machines.items():
            machine._settings["broker.rack"] = f"rack-{node_id}"
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        await produced(cluster, 1, b"a")
        await cluster.until(lambda: all(replica_on(cluster, n).log.high_watermark == 1 for n in (1, 2, 3)))
        sent = await fetch_in_rack(cluster, 1, "rack-2")
        assert (sent.preferred_read_replica, bytes(sent.records or b""), sent.high_watermark) == (2, b"", 1)
        assert values_in((await fetch_in_rack(cluster, 2, "rack-2")).records) == [b"a"]
        for rack in ("rack-1", "rack-9", ""):
            served = await fetch_in_rack(cluster, 1, rack)
            assert served.preferred_read_replica == -1
            assert values_in(served.records) == [b"a"]
        cluster[2].kill()
        await cluster.has_isr("t", 1, 3)
        await asyncio.sleep(0.1)
        assert values_in((await fetch_in_rack(cluster, 1, "rack-2")).records) == [b"a"]

    settings: dict[str, Any] = {"replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector"}
    simulate(scenario, **settings)


def test_without_a_selector_the_leader_serves_everybody() -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        cluster[2]._settings["broker.rack"] = "rack-2"
        await cluster.start()
        await cluster.make_topic("t", [(1, 2)])
        await produced(cluster, 1, b"a")
        assert values_in((await fetch_in_rack(cluster, 1, "rack-2")).records) == [b"a"]

    simulate(scenario)
