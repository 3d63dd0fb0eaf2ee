"""A broker that does not lead names the leader (KIP-951), so that clients go on without a question for Metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.replication.story import produced, simulate

from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic, ReplicaState
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch

if TYPE_CHECKING:
    from ottla.testing.simulated_cluster import SimulatedCluster


async def ask(cluster: SimulatedCluster, node_id: int, request: Any, version: int, answer_class: type[Any]) -> Any:
    client = await cluster.connect(node_id)
    try:
        return await client.ask(request, version, answer_class)
    finally:
        client.close()


def topic_id(cluster: SimulatedCluster) -> bytes:
    broker = cluster[1].broker
    assert broker is not None
    return broker.image.topics["t"].topic_id


def producing(cluster: SimulatedCluster, version: int) -> ProduceRequest:
    batch = build_batch([Record(0, cluster[1].clock.wall_ms(), None, b"v")])
    topic = TopicProduceData(partition_data=[PartitionProduceData(index=0, records=batch)])
    if version < 13:
        topic.name = "t"
    else:
        topic.topic_id = topic_id(cluster)
    return ProduceRequest(acks=-1, timeout_ms=5_000, topic_data=[topic])


def fetching(cluster: SimulatedCluster, **fields: Any) -> FetchRequest:
    row = FetchPartition(partition=0, partition_max_bytes=1 << 20, **fields)
    return FetchRequest(topics=[FetchTopic(topic_id=topic_id(cluster), partitions=[row])])


def named(answer: Any, part: Any) -> tuple[ErrorCode, int, int, list[tuple[int, str, int]]]:
    leader = part.current_leader
    nodes = [(node.node_id, node.host, node.port) for node in answer.node_endpoints]
    return ErrorCode(part.error_code), leader.leader_id, leader.leader_epoch, nodes


def address(cluster: SimulatedCluster, node_id: int) -> tuple[int, str, int]:
    broker = cluster[1].broker
    assert broker is not None
    endpoint = broker.image.brokers[node_id].endpoint("PLAINTEXT")
    assert endpoint is not None
    return node_id, endpoint.host, endpoint.port


@pytest.mark.parametrize("version", [10, 12, 13])
def test_produce_to_a_follower_names_the_leader(version: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        answer = await ask(cluster, 2, producing(cluster, version), version, ProduceResponse)
        [part] = answer.responses[0].partition_responses
        assert named(answer, part) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, 1, 0, [address(cluster, 1)])
        answer = await ask(cluster, 2, producing(cluster, 9), 9, ProduceResponse)
        [part] = answer.responses[0].partition_responses
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER, "older clients hear the error alone"

    simulate(scenario)


@pytest.mark.parametrize("version", [16, 18])
def test_fetch_with_an_old_epoch_names_the_new_leader(version: int) -> None:
    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2, 3)])
        await produced(cluster, 1, b"v")
        cluster[1].kill()
        await cluster.has_leader("t", 2)
        await cluster.start(1)
        await cluster.has_isr("t", 1, 2, 3)
        epoch = cluster.state("t").leader_epoch
        for node_id in (1, 2):  # a follower can be read (KIP-392), but not with an epoch that is over
            answer = await ask(cluster, node_id, fetching(cluster, current_leader_epoch=0), version, FetchResponse)
            [part] = answer.responses[0].partitions
            assert named(answer, part) == (ErrorCode.FENCED_LEADER_EPOCH, 2, epoch, [address(cluster, 2)])
        answer = await ask(cluster, 2, fetching(cluster, current_leader_epoch=0), 15, FetchResponse)
        assert answer.responses[0].partitions[0].error_code == ErrorCode.FENCED_LEADER_EPOCH

    simulate(scenario)


def test_what_is_no_replica_is_refused_in_every_version_and_with_the_leaders_name() -> None:
    """As Apache Kafka: also in versions in which a follower cannot say which process of its broker it is."""

    async def scenario(cluster: SimulatedCluster) -> None:
        await cluster.start()
        await cluster.make_topic("t", [(1, 2)])
        for replica in (2, 3):
            request = fetching(cluster)
            request.replica_id = replica
            answer = await ask(cluster, 1, request, 14, FetchResponse)
            assert answer.error_code == ErrorCode.NONE
            assert answer.responses[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            request = fetching(cluster)
            request.replica_state = ReplicaState(replica_id=replica, replica_epoch=-1)
            answer = await ask(cluster, 1, request, 18, FetchResponse)
            [part] = answer.responses[0].partitions
            assert named(answer, part) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, 1, 0, [])

    simulate(scenario)
