"""Share groups of a whole broker over the wire: from the first heartbeat to the last acknowledgement, and their settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.broker.share.share_client import GROUP, Member, make_topic, produce, set_group

from ottla.broker.config import BrokerConfig
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.config import ConfigError
from ottla.errors import ErrorCode
from ottla.protocol.messages.alter_share_group_offsets import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequestPartition,
    AlterShareGroupOffsetsRequestTopic,
    AlterShareGroupOffsetsResponse,
)
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest, DeleteGroupsResponse
from ottla.protocol.messages.delete_share_group_offsets import (
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequestTopic,
    DeleteShareGroupOffsetsResponse,
)
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.describe_share_group_offsets import (
    DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequestGroup,
    DescribeShareGroupOffsetsResponse,
)
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.protocol.messages.share_group_describe import ShareGroupDescribeRequest, ShareGroupDescribeResponse
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

ACCEPT = (1,)


def story_of(
    tell: Callable[[SimulatedBroker, WireClient, bytes], Awaitable[None]], partitions: int = 1, **settings: object
) -> None:
    """Tell a story of a broker with a topic `jobs`."""

    async def scenario(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop, **settings)
        await node.start()
        client = await node.connect()
        find = FindCoordinatorRequest(key_type=0, coordinator_keys=[GROUP])
        await client.ask(find, 6, FindCoordinatorResponse)
        topic_id = await make_topic(client, partitions=partitions)
        await set_group(client, share_auto_offset_reset="earliest")
        await tell(node, client, topic_id)

    run_virtual(1, scenario)


class Worker:
    """A member of the group: heartbeats as KafkaShareConsumer sends them."""

    def __init__(self, client: WireClient, member_id: str = "one") -> None:
        self.client = client
        self.member_id = member_id
        self.epoch = 0
        self.interval_ms = 0
        self.assigned: set[tuple[bytes, int]] = set()

    async def beat(self, epoch: int | None = None) -> ErrorCode:
        sent = self.epoch if epoch is None else epoch
        request = ShareGroupHeartbeatRequest(
            group_id=GROUP,
            member_id=self.member_id,
            member_epoch=sent,
            subscribed_topic_names=["jobs"] if sent == 0 else None,
        )
        while True:
            answer = await self.client.ask(request, 1, ShareGroupHeartbeatResponse)
            if answer.error_code not in (ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS):
                break
            await asyncio.sleep(0.1)
        if answer.error_code:
            return ErrorCode(answer.error_code)
        self.epoch, self.interval_ms = answer.member_epoch, answer.heartbeat_interval_ms
        if answer.assignment is not None:
            self.assigned = {(each.topic_id, p) for each in answer.assignment.topic_partitions for p in each.partitions}
        return ErrorCode.NONE

    async def join(self) -> None:
        """Join and wait for an assignment."""
        assert await self.beat() == ErrorCode.NONE
        while not self.assigned:
            await asyncio.sleep(self.interval_ms / 1000)
            assert await self.beat() == ErrorCode.NONE


async def describe(client: WireClient) -> tuple[str, int]:
    """Return state and number of members."""
    answer = await client.ask(ShareGroupDescribeRequest(group_ids=[GROUP]), 1, ShareGroupDescribeResponse)
    [group] = answer.groups
    return ErrorCode(group.error_code).name if group.error_code else group.group_state, len(group.members)


async def offsets(client: WireClient) -> dict[tuple[str, int], tuple[int, int]]:
    """Return start offset and lag by partition."""
    asked = DescribeShareGroupOffsetsRequestGroup(group_id=GROUP, topics=None)
    request = DescribeShareGroupOffsetsRequest(groups=[asked])
    answer = await client.ask(request, 1, DescribeShareGroupOffsetsResponse)
    return {
        (topic.topic_name, row.partition_index): (row.start_offset, row.lag)
        for topic in answer.groups[0].topics
        for row in topic.partitions
    }


async def alter(client: WireClient, offset: int) -> ErrorCode:
    row = AlterShareGroupOffsetsRequestPartition(partition_index=0, start_offset=offset)
    topic = AlterShareGroupOffsetsRequestTopic(topic_name="jobs", partitions=[row])
    request = AlterShareGroupOffsetsRequest(group_id=GROUP, topics=[topic])
    return ErrorCode((await client.ask(request, 0, AlterShareGroupOffsetsResponse)).error_code)


async def delete_group(client: WireClient) -> ErrorCode:
    answer = await client.ask(DeleteGroupsRequest(groups_names=[GROUP]), 3, DeleteGroupsResponse)
    return ErrorCode(answer.results[0].error_code)


def test_from_the_first_heartbeat_to_the_last_acknowledgement() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        worker, member = Worker(client), Member(client, topic_id)
        await produce(node, client, 10)
        await worker.join()
        assert worker.assigned == {(topic_id, 0)}
        assert await member.take(wait_ms=1_000) == [(0, 9, 1)]
        assert await member.acknowledge([(0, 5, ACCEPT)]) == ErrorCode.NONE
        start, lag = (await offsets(client))["jobs", 0]
        assert lag == 4
        assert start in (0, 6)
        assert await describe(client) == ("Stable", 1)
        assert await delete_group(client) == ErrorCode.NON_EMPTY_GROUP
        assert await alter(client, 0) == ErrorCode.NON_EMPTY_GROUP
        assert await worker.beat(-1) == ErrorCode.NONE
        assert await describe(client) == ("Empty", 0)

        # The broker dies: who is in the group, and what was acknowledged, is known afterwards.
        node.power_cut()
        await node.start()
        client = await node.connect()
        worker, member = Worker(client, "two"), Member(client, topic_id, "two")
        await worker.join()
        assert await member.take(wait_ms=60_000) == [(6, 9, 1)]
        assert await member.acknowledge([(6, 9, ACCEPT)]) == ErrorCode.NONE
        assert (await offsets(client))["jobs", 0][1] == 0

    story_of(story, **{"log.flush.interval.messages": 1})


def test_offsets_are_altered_and_deleted_and_the_group_after_them() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        worker, member = Worker(client), Member(client, topic_id)
        await produce(node, client, 10)
        await worker.join()
        assert await member.take(wait_ms=1_000) == [(0, 9, 1)]
        assert await member.acknowledge([(0, 9, ACCEPT)]) == ErrorCode.NONE
        await worker.beat(-1)
        assert await alter(client, 7) == ErrorCode.NONE
        assert await offsets(client) == {("jobs", 0): (7, 3)}
        worker = Worker(client)
        await worker.join()
        assert await member.take(wait_ms=1_000) == [(7, 9, 1)]
        assert await member.acknowledge([(7, 9, ACCEPT)]) == ErrorCode.NONE
        await worker.beat(-1)

        names = [DeleteShareGroupOffsetsRequestTopic(topic_name="jobs")]
        request = DeleteShareGroupOffsetsRequest(group_id=GROUP, topics=names)
        answer = await client.ask(request, 0, DeleteShareGroupOffsetsResponse)
        assert [(row.topic_name, row.error_code) for row in answer.responses] == [("jobs", ErrorCode.NONE)]
        assert await offsets(client) == {}
        worker = Worker(client)
        await worker.join()
        assert await member.take(wait_ms=1_000) == [(0, 9, 1)]  # from the start, as the group's setting says
        await worker.beat(-1)

        assert await delete_group(client) == ErrorCode.NONE
        assert await describe(client) == ("GROUP_ID_NOT_FOUND", 0)
        assert await delete_group(client) == ErrorCode.GROUP_ID_NOT_FOUND
        worker = Worker(client)
        await worker.join()
        fresh = Member(client, topic_id, "fresh")
        assert await fresh.take(wait_ms=1_000) == [(0, 9, 1)]

    story_of(story)


@pytest.mark.parametrize(
    ("start", "code"), [(-(1 << 63), ErrorCode.OFFSET_OUT_OF_RANGE), ((1 << 63) - 1, ErrorCode.NONE)]
)
def test_a_lag_of_more_than_64_bits_is_an_error_of_its_partition(start: int, code: ErrorCode) -> None:
    async def tell(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 5)
        assert await alter(client, start) == ErrorCode.NONE
        asked = DescribeShareGroupOffsetsRequestGroup(group_id=GROUP, topics=None)
        request = DescribeShareGroupOffsetsRequest(groups=[asked])
        answer = await client.ask(request, 1, DescribeShareGroupOffsetsResponse)
        ((row,),) = ([row for topic in group.topics for row in topic.partitions] for group in answer.groups)
        assert (row.start_offset, ErrorCode(row.error_code)) == (start, code)
        if code:
            assert row.lag == -1
            assert str(start) in (row.error_message or "")
        else:
            assert row.lag == 5 - start

    story_of(tell)


def test_a_topic_that_is_deleted_is_forgotten() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        worker = Worker(client)
        await worker.join()
        gone = DeleteTopicsRequest(topics=[DeleteTopicState(name="jobs")])
        await client.ask(gone, 6, DeleteTopicsResponse)
        assert await offsets(client) == {}
        while worker.assigned:
            await asyncio.sleep(worker.interval_ms / 1000)
            assert await worker.beat() == ErrorCode.NONE
        again = await make_topic(client, partitions=2)
        while worker.assigned != {(again, 0), (again, 1)}:
            await asyncio.sleep(worker.interval_ms / 1000)
            assert await worker.beat() == ErrorCode.NONE

    story_of(story)


def test_settings_of_the_broker() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        worker = Worker(client)
        await worker.join()
        assert worker.interval_ms == 2_000
        assert await Worker(client, "two").beat() == ErrorCode.NONE
        assert await Worker(client, "three").beat() == ErrorCode.GROUP_MAX_SIZE_REACHED
        await asyncio.sleep(8.9)
        assert (await describe(client))[1] == 2
        await asyncio.sleep(0.2)
        assert await describe(client) == ("Empty", 0)

    story_of(
        story,
        **{
            "group.share.heartbeat.interval.ms": 2_000,
            "group.share.min.heartbeat.interval.ms": 1_000,
            "group.share.session.timeout.ms": 9_000,
            "group.share.min.session.timeout.ms": 5_000,
            "group.share.max.size": 2,
        },
    )


def test_settings_of_a_group_stay_within_the_bounds_of_the_broker() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        worker = Worker(client)
        await set_group(client, share_heartbeat_interval_ms="7500", share_session_timeout_ms="48000")
        assert await worker.beat() == ErrorCode.NONE
        assert worker.interval_ms == 7_500
        for name, value, bound in (
            ("heartbeat.interval.ms", "5999", "group.share.min.heartbeat.interval.ms"),
            ("heartbeat.interval.ms", "8001", "group.share.max.heartbeat.interval.ms"),
            ("session.timeout.ms", "46999", "group.share.min.session.timeout.ms"),
            ("session.timeout.ms", "50001", "group.share.max.session.timeout.ms"),
        ):
            with pytest.raises(AssertionError, match=bound):
                await set_group(client, **{f"share.{name}": value})
        await asyncio.sleep(47.9)
        assert (await describe(client))[1] == 1
        await asyncio.sleep(0.2)
        assert (await describe(client))[1] == 0

    story_of(
        story,
        **{
            "group.share.heartbeat.interval.ms": 7_000,
            "group.share.min.heartbeat.interval.ms": 6_000,
            "group.share.max.heartbeat.interval.ms": 8_000,
            "group.share.session.timeout.ms": 47_000,
            "group.share.min.session.timeout.ms": 47_000,
            "group.share.max.session.timeout.ms": 50_000,
        },
    )


def test_the_time_between_two_assignments() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        async def seconds_to_assignment(name: str) -> float:
            worker = Worker(client, name)
            began = asyncio.get_running_loop().time()
            assert await worker.beat() == ErrorCode.NONE
            while not worker.assigned:
                await asyncio.sleep(0.1)
                assert await worker.beat() == ErrorCode.NONE
            return asyncio.get_running_loop().time() - began

        assert 8.5 < await seconds_to_assignment("one") < 9.5  # the first was for nothing: nothing had begun
        change = AlterableConfig(name="group.share.assignment.interval.ms", config_operation=0, value="5000")
        resource = AlterConfigsResource(resource_type=4, resource_name="", configs=[change])
        request = IncrementalAlterConfigsRequest(resources=[resource])
        answer = await client.ask(request, 1, IncrementalAlterConfigsResponse)
        assert answer.responses[0].error_code == ErrorCode.NONE
        await asyncio.sleep(30)
        assert await seconds_to_assignment("two") < 1
        assert 4.5 < await seconds_to_assignment("three") < 5.5
        await set_group(client, share_assignment_interval_ms="12000")
        assert 11.5 < await seconds_to_assignment("four") < 12.5
        for value, bound in (
            ("3999", "group.share.min.assignment.interval.ms"),
            ("12001", "group.share.max.assignment.interval.ms"),
        ):
            with pytest.raises(AssertionError, match=bound):
                await set_group(client, share_assignment_interval_ms=value)

    story_of(
        story,
        **{
            "group.share.assignment.interval.ms": 9_000,
            "group.share.min.assignment.interval.ms": 4_000,
            "group.share.max.assignment.interval.ms": 12_000,
        },
    )


def test_the_interval_of_new_attempts_comes_from_the_settings() -> None:
    config = BrokerConfig.from_sources(overrides=["group.share.initialize.retry.interval.ms=777", "log.dirs=x"])
    assert GroupConfig.from_broker(config).share_initialize_retry_interval_ms == 777


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("group.share.heartbeat.interval.ms=20000", "between group.share.min.heartbeat.interval.ms"),
        ("group.share.session.timeout.ms=1000", "between group.share.min.session.timeout.ms"),
        ("group.share.assignment.interval.ms=99999", "between group.share.min.assignment.interval.ms"),
        ("group.share.assignors=fair", "can only be simple"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        BrokerConfig.from_sources(overrides=[setting, "log.dirs=x"])
