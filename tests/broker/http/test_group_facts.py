"""Groups of every type on the page and on /metrics, from a running broker: members, backlog, and its age."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker.http.test_coordinator_metrics import shown
from tests.broker.share.share_client import GROUP, Member, make_topic, set_group
from tests.broker.share.share_client import produce as produce_jobs
from tests.broker.share.test_share_groups_wire import ACCEPT, Worker
from tests.broker.story import produce, started
from tests.broker.test_kafka_directory import commit

from ottla.broker.http.facts import LiveFacts
from ottla.broker.http.pages import Pages
from ottla.errors import ErrorCode
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
)
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.streams_group_heartbeat import (
    StreamsGroupHeartbeatRequest,
    StreamsGroupHeartbeatResponse,
    Subtopology,
    Topology,
)
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

ORDERS = 'partition="0",topic="orders"'


async def join_consumer_group(client: WireClient, group: str) -> None:
    """One member of the consumer protocol joins and commits offset 1 of `orders`."""
    beat = ConsumerGroupHeartbeatRequest(
        group_id=group,
        member_id="c" * 22,
        rebalance_timeout_ms=60_000,
        subscribed_topic_names=["orders"],
        topic_partitions=[],
    )
    answer = await client.ask(beat, 1, ConsumerGroupHeartbeatResponse)
    assert answer.error_code == ErrorCode.NONE
    partition = OffsetCommitRequestPartition(partition_index=0, committed_offset=1)
    commit_request = OffsetCommitRequest(
        group_id=group,
        member_id="c" * 22,
        generation_id_or_member_epoch=answer.member_epoch,
        topics=[OffsetCommitRequestTopic(name="orders", partitions=[partition])],
    )
    committed = await client.ask(commit_request, 9, OffsetCommitResponse)
    assert committed.topics[0].partitions[0].error_code == ErrorCode.NONE


async def join_streams_group(client: WireClient, group: str) -> None:
    """One member of the streams protocol joins and commits offset 2 of `orders`."""
    beat = StreamsGroupHeartbeatRequest(
        group_id=group,
        member_id="s" * 22,
        rebalance_timeout_ms=60_000,
        topology=Topology(epoch=0, subtopologies=[Subtopology(subtopology_id="0", source_topics=["orders"])]),
        process_id="p",
        active_tasks=[],
        standby_tasks=[],
        warmup_tasks=[],
    )
    answer = await client.ask(beat, 0, StreamsGroupHeartbeatResponse)
    assert answer.error_code == ErrorCode.NONE
    partition = OffsetCommitRequestPartition(partition_index=0, committed_offset=2)
    request = OffsetCommitRequest(
        group_id=group,
        member_id="s" * 22,
        generation_id_or_member_epoch=answer.member_epoch,
        topics=[OffsetCommitRequestTopic(name="orders", partitions=[partition])],
    )
    committed = await client.ask(request, 9, OffsetCommitResponse)
    assert committed.topics[0].partitions[0].error_code == ErrorCode.NONE


def page(node: SimulatedBroker) -> str:
    assert node.broker is not None
    body = Pages(LiveFacts(node.broker)).handle("/").body
    assert not isinstance(body, bytes)
    return b"".join(body).decode()


def test_groups_of_every_type_are_shown_with_members_and_backlog() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 1})
        for _ in range(10):
            await produce(node, client)
        await commit(client, 4)  # by the group "gk", which nobody has joined
        await join_consumer_group(client, "modern")
        await join_streams_group(client, "app")
        topic_id = await make_topic(client)
        await set_group(client, share_auto_offset_reset="earliest")
        await produce_jobs(node, client, 10)
        await Worker(client).join()
        member = Member(client, topic_id)
        assert await member.take(wait_ms=1_000) == [(0, 9, 1)]
        assert await member.acknowledge([(0, 6, ACCEPT)]) == ErrorCode.NONE

        lines = shown(node)
        for group, kind, state, members in (
            ("gk", "classic", "Empty", 0),
            ("modern", "consumer", "Stable", 1),
            ("app", "streams", "Assigning", 1),
        ):
            assert f'ottla_group_info{{group="{group}",state="{state}",type="{kind}"}} 1' in lines
            assert f'kafka_consumergroup_members{{consumergroup="{group}"}} {members}' in lines
        for group, offset in (("gk", 4), ("modern", 1), ("app", 2)):
            labels = f'consumergroup="{group}",{ORDERS}'
            assert f"kafka_consumergroup_current_offset{{{labels}}} {offset}" in lines
            assert f"kafka_consumergroup_lag{{{labels}}} {10 - offset}" in lines
        assert f'ottla_group_info{{group="{GROUP}",state="Stable",type="share"}} 1' in lines
        assert f'kafka_sharegroup_members{{sharegroup="{GROUP}"}} 1' in lines
        assert f'kafka_sharegroup_lag{{sharegroup="{GROUP}",partition="0",topic="jobs"}} 3' in lines
        assert f'kafka_sharegroup_lag_sum{{sharegroup="{GROUP}",topic="jobs"}} 3' in lines
        assert not any(line.startswith(f'kafka_consumergroup_members{{consumergroup="{GROUP}"') for line in lines)
        assert "kafka_coordinator_group_groupmetadatamanager_numgroups 4" in lines

        html = page(node)
        for group, kind, state, members, topic, lag in (
            ("app", "streams", "Assigning", 1, "orders", 8),
            ("gk", "classic", "Empty", 0, "orders", 6),
            ("modern", "consumer", "Stable", 1, "orders", 9),
            (GROUP, "share", "Stable", 1, "jobs", 3),
        ):
            cells = f"<td>{group}</td><td>{kind}</td><td>{state}</td><td class=n>{members}</td><td>{topic}</td>"
            assert f"<tr>{cells}<td class=n>{lag}</td>" in html
        await node.stop()

    run_virtual(1, story)


def test_a_share_group_that_nobody_has_read_with_has_no_backlog_yet() -> None:
    """Where it begins is decided by its first fetch."""

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 1})
        await client.ask(FindCoordinatorRequest(key=GROUP), 2, FindCoordinatorResponse)  # makes the internal topic
        await make_topic(client)
        await produce_jobs(node, client, 10)
        await Worker(client).join()
        lines = shown(node)
        assert f'kafka_sharegroup_members{{sharegroup="{GROUP}"}} 1' in lines
        assert not any(line.startswith("kafka_sharegroup_lag{") for line in lines)
        await node.stop()

    run_virtual(1, story)


@pytest.mark.parametrize("cold", [False, True])
def test_the_age_of_a_lag_is_that_of_the_first_record_not_committed(cold: bool) -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 1})
        assert node.broker is not None
        facts = LiveFacts(node.broker)

        async def age() -> float | None:
            group = facts.group("gk")
            assert group is not None
            return next(iter(group.offsets)).lag_seconds

        await produce(node, client)
        await asyncio.sleep(100)
        await produce(node, client)
        await asyncio.sleep(20)
        node.files.is_cold = lambda path: cold
        await commit(client, 0)
        if cold:  # what is not in memory is read off the loop, and known at the next look
            assert await age() is None
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await age() == pytest.approx(120, abs=1)
        await asyncio.sleep(10)
        assert await age() == pytest.approx(130, abs=1)
        await commit(client, 1)
        if cold:
            await age()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await age() == pytest.approx(30, abs=1)
        await commit(client, 2)
        assert await age() == 0
        await node.stop()

    run_virtual(1, story)


def test_ones_own_topics_come_before_internal_ones() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"offsets.topic.num.partitions": 1})
        await commit(client, 0)
        await make_topic(client, "Zoo")
        assert node.broker is not None
        assert list(LiveFacts(node.broker).topics()) == ["Zoo", "orders", "__consumer_offsets"]
        html = page(node)
        assert html.index("orders") < html.index("__consumer_offsets")
        await node.stop()

    run_virtual(1, story)
