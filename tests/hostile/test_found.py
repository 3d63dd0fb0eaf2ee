"""What mutated frames have found, each as the one request that did it. Every one of them used to close the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest, DescribeGroupsResponse
from ottla.protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

LONGEST = "x" * 32_767
NOW = 1_700_000_000_000


def with_broker(scenario: Callable[[WireClient], Awaitable[None]]) -> None:
    """Run one conversation with a simulated broker that has the topic `t`."""

    async def run(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **{"offsets.topic.num.partitions": 1, "group.initial.rebalance.delay.ms": 0})
        await node.start()
        client = await node.connect()
        topic = CreatableTopic(name="t", num_partitions=1, replication_factor=1)
        await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=9000), 5, CreateTopicsResponse)
        await scenario(client)
        client.close()
        await node.stop()

    run_virtual(1, run)


@pytest.mark.parametrize("version", [2, 5, 7])
def test_topic_name_of_32767_bytes_is_refused_with_a_message_that_fits(version: int) -> None:
    async def scenario(client: WireClient) -> None:
        topic = CreatableTopic(name=LONGEST, num_partitions=1, replication_factor=1)
        answer = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=9000), version, CreateTopicsResponse)
        assert answer.topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        assert answer.topics[0].name == LONGEST
        assert 0 < len(answer.topics[0].error_message or "") < 2000

    with_broker(scenario)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_offsets_by_time_are_told_to_clients_that_know_no_leader_epoch(version: int) -> None:
    async def scenario(client: WireClient) -> None:
        batch = bytes(build_batch([Record(0, NOW, None, b"value")]))
        data = TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=batch)])
        await client.ask(ProduceRequest(acks=-1, timeout_ms=9000, topic_data=[data]), 9, ProduceResponse)
        for timestamp in (NOW, -1, -2):
            partition = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
            request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name="t", partitions=[partition])])
            answer = await client.ask(request, version, ListOffsetsResponse)
            found = answer.topics[0].partitions[0]
            assert (found.error_code, found.offset) == (ErrorCode.NONE, 1 if timestamp == -1 else 0)

    with_broker(scenario)


@pytest.mark.parametrize(
    "cursor", [Cursor(topic_name="u", partition_index=0), Cursor(topic_name="t", partition_index=-2)]
)
def test_cursor_outside_of_the_topics_asked_for_is_an_error_of_each(cursor: Cursor) -> None:
    async def scenario(client: WireClient) -> None:
        request = DescribeTopicPartitionsRequest(
            topics=[TopicRequest(name="t")], response_partition_limit=10, cursor=cursor
        )
        answer = await client.ask(request, 0, DescribeTopicPartitionsResponse)
        assert [(topic.name, topic.error_code) for topic in answer.topics] == [("t", ErrorCode.INVALID_REQUEST)]

    with_broker(scenario)


async def find_coordinator(client: WireClient) -> None:
    while True:
        found = await client.ask(FindCoordinatorRequest(key="g", key_type=0), 3, FindCoordinatorResponse)
        if found.error_code == ErrorCode.NONE:
            return


def test_retention_of_a_commit_may_be_forever() -> None:
    async def scenario(client: WireClient) -> None:
        await find_coordinator(client)
        partition = OffsetCommitRequestPartition(partition_index=0, committed_offset=1)
        request = OffsetCommitRequest(
            group_id="g",
            generation_id_or_member_epoch=-1,
            retention_time_ms=2**63 - 1,
            topics=[OffsetCommitRequestTopic(name="t", partitions=[partition])],
        )
        answer = await client.ask(request, 3, OffsetCommitResponse)
        assert answer.topics[0].partitions[0].error_code == ErrorCode.NONE

    with_broker(scenario)


def test_member_with_an_instance_id_of_32767_bytes_can_join_and_be_described() -> None:
    async def scenario(client: WireClient) -> None:
        await find_coordinator(client)
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
            group_instance_id=LONGEST,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
        )
        joined = await client.ask(request, 6, JoinGroupResponse)
        assert joined.error_code == ErrorCode.NONE
        described = await client.ask(DescribeGroupsRequest(groups=["g"]), 5, DescribeGroupsResponse)
        assert [member.group_instance_id for member in described.groups[0].members] == [LONGEST]

    with_broker(scenario)
