"""Every setting of share partitions and of their coordinator does what it says."""

from __future__ import annotations

import asyncio

import pytest
from tests.broker.share.share_client import (
    GROUP,
    Member,
    begin,
    make_topic,
    produce,
    read_state,
    set_group,
    states,
    with_jobs,
)

from ottla.broker.config import BrokerConfig
from ottla.broker.share.config import ShareConfig, duration_ms
from ottla.errors import ErrorCode
from ottla.protocol.records.walk import iter_batches
from ottla.storage.log import PartitionLog
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.wire import WireClient
from ottla.types import SHARE_GROUP_STATE_TOPIC, CompressionType, IsolationLevel, TopicPartition, uuid_to_text

ACCEPT, RELEASE, RENEW = (1,), (2,), (4,)


def state_log(node: SimulatedBroker, topic_id: bytes) -> PartitionLog:
    """The log of the share coordinator that is responsible for partition 0 of a topic."""
    assert node.broker is not None
    index = node.broker.coordinators.share_states.partition_for(f"{GROUP}:{uuid_to_text(topic_id)}:0")
    return node.broker.logs.logs[TopicPartition(SHARE_GROUP_STATE_TOPIC, index)]


def test_settings_of_a_group() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await set_group(
            client,
            share_record_lock_duration_ms="15000",
            share_delivery_count_limit="2",
            share_renew_acknowledge_enable="false",
        )
        await produce(node, client, 1)
        member = Member(client, topic_id)
        assert await member.take(wait_ms=1_000) == [(0, 0, 1)]
        assert await member.acknowledge([(0, 0, RENEW)], renew=True) == ErrorCode.INVALID_RECORD_STATE
        began = asyncio.get_running_loop().time()
        assert await member.take(wait_ms=60_000) == [(0, 0, 2)]
        assert 14 < asyncio.get_running_loop().time() - began < 16
        assert await member.acknowledge([(0, 0, RELEASE)]) == ErrorCode.NONE
        assert await member.take(wait_ms=1_000) == []

    with_jobs(story)


def test_settings_of_the_broker() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 1)
        member = Member(client, topic_id)
        began = asyncio.get_running_loop().time()
        assert await member.take(wait_ms=60_000) == [(0, 0, 1)]
        assert await member.take(wait_ms=60_000) == [(0, 0, 2)]
        assert 1 <= asyncio.get_running_loop().time() - began < 3
        assert await member.take(wait_ms=5_000) == []

    settings = {"group.share.record.lock.duration.ms": 1_000, "group.share.delivery.count.limit": 2}
    with_jobs(story, **settings)


@pytest.mark.parametrize(
    ("key", "broker", "asked", "field", "expected"),
    [
        ("share.delivery.count.limit", "group.share.max.delivery.count.limit=6", "9", "delivery_count_limit", 6),
        ("share.delivery.count.limit", "group.share.min.delivery.count.limit=4", "2", "delivery_count_limit", 4),
        (
            "share.record.lock.duration.ms",
            "group.share.max.record.lock.duration.ms=40000",
            "60000",
            "record_lock_duration_ms",
            40_000,
        ),
        (
            "share.record.lock.duration.ms",
            "group.share.min.record.lock.duration.ms=20000",
            "1000",
            "record_lock_duration_ms",
            20_000,
        ),
        (
            "share.partition.max.record.locks",
            "group.share.max.partition.max.record.locks=3000",
            "9000",
            "record_locks_max",
            3_000,
        ),
        (
            "share.partition.max.record.locks",
            "group.share.min.partition.max.record.locks=300",
            "100",
            "record_locks_max",
            300,
        ),
    ],
)
def test_what_a_group_may_ask_for_is_bounded(key: str, broker: str, asked: str, field: str, expected: int) -> None:
    config = BrokerConfig.from_sources(overrides=[broker])
    assert getattr(ShareConfig.for_group(config, {key: asked}), field) == expected


def test_other_settings_of_a_group() -> None:
    config = ShareConfig.for_group(
        BrokerConfig.from_sources(),
        {"share.auto.offset.reset": "by_duration:PT1H", "share.isolation.level": "read_committed"},
    )
    assert config.isolation is IsolationLevel.READ_COMMITTED
    assert duration_ms(config.auto_offset_reset) == 3_600_000
    assert duration_ms("by_duration:P1DT2H3M4.5S") == 93_784_500


@pytest.mark.parametrize(("reset", "first"), [("earliest", 0), ("latest", 5), ("by_duration:PT10S", 3)])
def test_where_a_group_begins(reset: str, first: int) -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await set_group(client, share_auto_offset_reset=reset)
        await produce(node, client, 3)
        await asyncio.sleep(20)
        await produce(node, client, 2)
        member = Member(client, topic_id)
        await member.take()
        await asyncio.sleep(1)
        await produce(node, client, 1)
        taken = await member.take(wait_ms=1_000)
        assert (taken[0][0], taken[-1][1]) == (first, 5)

    with_jobs(story, offset=-1)


def test_the_topic_of_the_coordinator() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        assert node.broker is not None
        topic = node.broker.image.topics[SHARE_GROUP_STATE_TOPIC]
        assert len(topic.partitions) == 7
        assert len(topic.partitions[0].replicas) == 1
        assert node.broker.image.topic_config(SHARE_GROUP_STATE_TOPIC) == {
            "cleanup.policy": "delete",
            "compression.type": "producer",
            "min.insync.replicas": "1",
            "retention.ms": "-1",
            "segment.bytes": "2000000",
        }
        log = state_log(node, topic_id)
        part = log.read(0, 1 << 20, upper_offset=log.log_end_offset, min_one=True)
        assert {header.compression for _, header in iter_batches(memoryview(part.read()))} == {CompressionType.GZIP}

    settings = {
        "share.coordinator.state.topic.num.partitions": 7,
        "share.coordinator.state.topic.replication.factor": 2,
        "share.coordinator.state.topic.min.isr": 2,
        "share.coordinator.state.topic.segment.bytes": 2_000_000,
        "share.coordinator.state.topic.compression.codec": 1,
    }
    with_jobs(story, **settings)


def test_superseded_state_is_deleted() -> None:
    """Ten updates a snapshot; a share partition that nobody uses is snapshotted again, so that nothing holds up pruning."""

    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        member = Member(client, topic_id)
        for _ in range(25):
            await produce(node, client, 1)
            [(first, last, _count)] = await member.take(wait_ms=1_000)
            assert await member.acknowledge([(first, last, ACCEPT)]) == ErrorCode.NONE
        log = state_log(node, topic_id)
        assert log.log_start_offset == 0
        await asyncio.sleep(11)
        assert 22 <= log.log_start_offset < log.log_end_offset
        # The rest still says everything.
        await node.stop()
        await node.start()
        again = await node.connect()
        state = await read_state(again, topic_id)
        assert (state.state_epoch, state.start_offset, states(state)) == (1, 24, [(24, 24, 2, 1)])
        again.close()

    settings = {
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.snapshot.update.records.per.snapshot": 10,
        "share.coordinator.state.topic.prune.interval.ms": 10_000,
        "share.coordinator.load.buffer.size": 1_000,
    }
    with_jobs(story, **settings)


def test_cold_share_partitions_do_not_hold_up_pruning() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        other = await make_topic(client, "other")
        await begin(client, other)
        member = Member(client, topic_id)
        for _ in range(25):
            await produce(node, client, 1)
            [(first, last, _count)] = await member.take(wait_ms=1_000)
            assert await member.acknowledge([(first, last, ACCEPT)]) == ErrorCode.NONE
            await asyncio.sleep(1)
        log = state_log(node, topic_id)
        await asyncio.sleep(20)
        assert log.log_start_offset > 1
        assert states(await read_state(client, topic_id)) == [(24, 24, 2, 1)]

    settings = {
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.cold.partition.snapshot.interval.ms": 5_000,
        "share.coordinator.state.topic.prune.interval.ms": 5_000,
        "share.coordinator.append.linger.ms": 20,
        "share.coordinator.write.timeout.ms": 3_000,
    }
    with_jobs(story, **settings)
