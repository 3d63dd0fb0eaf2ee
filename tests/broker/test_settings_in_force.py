"""Settings that no other test shows in force: a whole broker, asked over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import pytest

from ottla.broker.broker import Broker
from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.describe_cluster import DescribeClusterRequest, DescribeClusterResponse
from ottla.protocol.messages.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition

T = TypeVar("T")


def with_broker(settings: dict[str, object], ask: Callable[[WireClient, Broker], Awaitable[T]]) -> T:
    """Return what `ask(client, broker)` does of a broker with these settings."""

    async def scenario(loop: VirtualLoop) -> T:
        node = SimulatedBroker(loop, **settings)
        broker = await node.start()
        client = await node.connect()
        try:
            return await ask(client, broker)
        finally:
            client.close()
            await node.stop()

    return run_virtual(1, scenario)[0]


async def create(
    client: WireClient, name: str, partitions: int = 1, replication_factor: int = 1
) -> CreateTopicsResponse:
    topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=replication_factor)
    return await client.ask(CreateTopicsRequest(topics=[topic]), 7, CreateTopicsResponse)


async def metadata(client: WireClient, *names: str) -> MetadataResponse:
    request = MetadataRequest(topics=[MetadataRequestTopic(name=name) for name in names] or None)
    return await client.ask(request, 12, MetadataResponse)


def test_auto_create_topics_enable_and_num_partitions() -> None:
    async def ask(client: WireClient, broker: Broker) -> tuple[int, int]:
        topic = (await metadata(client, "t")).topics[0]
        return topic.error_code, len(topic.partitions)

    assert with_broker({"num.partitions": 3}, ask) == (ErrorCode.NONE, 3)
    refused = with_broker({"auto.create.topics.enable": "false"}, ask)
    assert refused == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 0)


def test_default_replication_factor() -> None:
    async def ask(client: WireClient, broker: Broker) -> int:
        return (await create(client, "t", -1, -1)).topics[0].error_code

    assert with_broker({}, ask) == ErrorCode.NONE
    assert with_broker({"default.replication.factor": 2}, ask) == ErrorCode.INVALID_REPLICATION_FACTOR


def test_delete_topic_enable() -> None:
    async def ask(client: WireClient, broker: Broker) -> tuple[int, list[str]]:
        await create(client, "t")
        request = DeleteTopicsRequest(topics=[DeleteTopicState(name="t")])
        answer = await client.ask(request, 6, DeleteTopicsResponse)
        return answer.responses[0].error_code, list(broker.image.topics)

    assert with_broker({}, ask) == (ErrorCode.NONE, [])
    assert with_broker({"delete.topic.enable": "false"}, ask) == (ErrorCode.TOPIC_DELETION_DISABLED, ["t"])


def test_broker_rack_and_node_id() -> None:
    async def ask(client: WireClient, broker: Broker) -> list[tuple[int, str | None]]:
        return [(b.node_id, b.rack) for b in (await metadata(client)).brokers]

    assert with_broker({"broker.rack": "r1", "node.id": 7}, ask) == [(7, "r1")]


def test_advertised_listeners() -> None:
    async def ask(client: WireClient, broker: Broker) -> set[tuple[str, int]]:
        told = {(b.host, b.port) for b in (await metadata(client)).brokers}
        cluster = await client.ask(DescribeClusterRequest(), 1, DescribeClusterResponse)
        coordinator = await client.ask(FindCoordinatorRequest(coordinator_keys=["g"]), 4, FindCoordinatorResponse)
        told |= {(b.host, b.port) for b in cluster.brokers}
        return told | {(c.host, c.port) for c in coordinator.coordinators}

    assert with_broker({}, ask) == {("127.0.0.1", 9092)}
    told = with_broker({"advertised.listeners": "PLAINTEXT://example.org:1234"}, ask)
    assert told == {("example.org", 1234)}


def test_max_request_partition_size_limit() -> None:
    async def ask(client: WireClient, broker: Broker) -> int:
        await create(client, "t", 5)
        request = DescribeTopicPartitionsRequest(topics=[TopicRequest(name="t")])
        answer = await client.ask(request, 0, DescribeTopicPartitionsResponse)
        return len(answer.topics[0].partitions)

    assert with_broker({}, ask) == 5
    assert with_broker({"max.request.partition.size.limit": 2}, ask) == 2


async def _produce(client: WireClient, topic: str, partitions: int, size: int) -> None:
    for index in range(partitions):
        records = build_batch([Record(0, -1, None, b"x" * size)])
        part = PartitionProduceData(index=index, records=records)
        request = ProduceRequest(
            acks=-1, timeout_ms=1000, topic_data=[TopicProduceData(name=topic, partition_data=[part])]
        )
        answer = await client.ask(request, 9, ProduceResponse)
        assert answer.responses[0].partition_responses[0].error_code == ErrorCode.NONE


def _fetch(topic: str, partitions: int, session_epoch: int = -1) -> FetchRequest:
    return FetchRequest(
        max_wait_ms=0,
        min_bytes=0,
        max_bytes=2**31 - 1,
        session_epoch=session_epoch,
        topics=[
            FetchTopic(
                topic=topic,
                partitions=[
                    FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=1 << 20)
                    for index in range(partitions)
                ],
            )
        ],
    )


def test_fetch_max_bytes() -> None:
    async def ask(client: WireClient, broker: Broker) -> int:
        await create(client, "t", 3)
        await _produce(client, "t", 3, 900)
        answer = await client.ask(_fetch("t", 3), 12, FetchResponse)
        return sum(bool(p.records) for t in answer.responses for p in t.partitions)

    assert with_broker({}, ask) == 3
    assert with_broker({"fetch.max.bytes": 1024}, ask) == 1


def test_max_incremental_fetch_session_cache_slots() -> None:
    async def ask(client: WireClient, broker: Broker) -> bool:
        await create(client, "t")
        return (await client.ask(_fetch("t", 1, session_epoch=0), 12, FetchResponse)).session_id != 0

    assert with_broker({}, ask) is True
    assert with_broker({"max.incremental.fetch.session.cache.slots": 0}, ask) is False


def test_settings_of_the_offsets_topic() -> None:
    async def ask(client: WireClient, broker: Broker) -> tuple[int, int, str]:
        await client.ask(FindCoordinatorRequest(coordinator_keys=["g"]), 4, FindCoordinatorResponse)
        topic = broker.image.topics[GROUP_METADATA_TOPIC]
        config = broker.image.topic_config(GROUP_METADATA_TOPIC)
        return len(topic.partitions), len(topic.partitions[0].replicas), config["segment.bytes"]

    assert with_broker({}, ask) == (50, 1, "104857600")
    settings: dict[str, object] = {
        "offsets.topic.num.partitions": 3,
        "offsets.topic.segment.bytes": 2_000_000,
        "offsets.topic.replication.factor": 1,
    }
    assert with_broker(settings, ask) == (3, 1, "2000000")


def test_flush_ms_makes_records_safe_in_time() -> None:
    """With flush.ms a record survives a power cut that comes later; without it, the page cache was all there was."""

    def survivors(settings: dict[str, object]) -> int:
        async def scenario(loop: VirtualLoop) -> int:
            node = SimulatedBroker(loop, **settings)
            await node.start()
            client = await node.connect()
            await create(client, "t")
            await _produce(client, "t", 1, 10)
            await asyncio.sleep(5)
            node.power_cut()
            broker = await node.start()
            end = broker.logs.logs[TopicPartition("t", 0)].log_end_offset
            await node.stop()
            return end

        return run_virtual(1, scenario)[0]

    soon = {"log.flush.interval.ms": 1000, "log.flush.scheduler.interval.ms": 500, "log.initial.task.delay.ms": 0}
    assert survivors(dict(soon)) == 1
    assert survivors({}) == 0


def test_file_delete_delay_ms_keeps_a_deleted_segment_for_a_while() -> None:
    async def scenario(loop: VirtualLoop) -> tuple[bool, bool]:
        node = SimulatedBroker(
            loop,
            **{
                "log.retention.bytes": 1000,
                "log.retention.check.interval.ms": 1000,
                "log.initial.task.delay.ms": 0,
                "log.segment.delete.delay.ms": 60_000,
                "log.roll.ms": 1000,
            },
        )
        await node.start()
        client = await node.connect()
        await create(client, "t")
        for _ in range(5):
            await _produce(client, "t", 1, 900)
            await asyncio.sleep(2)
        await asyncio.sleep(10)

        def deleted() -> bool:
            return any(name.endswith(".deleted") for name in node.files.listdir("data/t-0"))

        soon = deleted()
        await asyncio.sleep(90)
        late = deleted()
        await node.stop()
        return soon, late

    assert run_virtual(1, scenario)[0] == (True, False)


#: Broker keys whose effect is tested where the part that has it is tested: the value reaches that part.
REACHES: dict[str, tuple[object, Callable[[Broker], object]]] = {
    "log.retention.check.interval.ms": (11, lambda b: b.logs.settings.retention_check_interval_ms),
    "log.initial.task.delay.ms": (12, lambda b: b.logs.settings.initial_task_delay_ms),
    "log.flush.scheduler.interval.ms": (13, lambda b: b.logs.settings.flush_scheduler_interval_ms),
    "log.flush.offset.checkpoint.interval.ms": (14, lambda b: b.logs.settings.flush_offset_checkpoint_interval_ms),
    "log.flush.start.offset.checkpoint.interval.ms": (
        15,
        lambda b: b.logs.settings.flush_start_offset_checkpoint_interval_ms,
    ),
    "replica.high.watermark.checkpoint.interval.ms": (
        16,
        lambda b: b.logs.settings.high_watermark_checkpoint_interval_ms,
    ),
    "log.cleaner.enable": ("false", lambda b: str(b.logs.settings.cleaner_enable).lower()),
    "log.cleaner.backoff.ms": (17, lambda b: b.logs.settings.cleaner_backoff_ms),
    "log.cleaner.dedupe.buffer.size": (2_000_000, lambda b: b.logs.settings.cleaner_memory_bytes),
    "log.cleaner.io.buffer.load.factor": (0.25, lambda b: b.logs.settings.cleaner_load_factor),
    "log.cleaner.io.max.bytes.per.second": (1e6, lambda b: b.logs.settings.cleaner_bytes_per_second_max),
    "producer.id.expiration.ms": (18, lambda b: b.logs.settings.producer_id_expiration_ms),
    "producer.id.expiration.check.interval.ms": (
        19,
        lambda b: b.logs.settings.producer_id_expiration_check_interval_ms,
    ),
    "ottla.foreign.confirm": ("true", lambda b: str(b.logs.settings.foreign_confirmed).lower()),
    "socket.request.max.bytes": (99_999, lambda b: b.server.limits.request_bytes_max),
    "max.connections": (21, lambda b: b.server.limits.connections_max),
    "max.connections.per.ip": (22, lambda b: b.server.limits.connections_per_ip_max),
    "max.connections.per.ip.overrides": (
        "10.0.0.1:5",
        lambda b: ",".join(f"{ip}:{n}" for ip, n in b.server.limits.connections_per_ip_overrides.items()),
    ),
    "max.connection.creation.rate": (23, lambda b: b.server.limits.connection_creation_rate_max),
    "connections.max.idle.ms": (240_000, lambda b: b.server.limits.idle_ms_max),
    "queued.max.request.bytes": (200_000_000, lambda b: b.server.limits.queued_request_bytes_max),
    "socket.listen.backlog.size": (25, lambda b: b.server.limits.backlog),
}


@pytest.mark.parametrize("key", sorted(REACHES))
def test_the_value_reaches_the_part_that_acts_on_it(key: str) -> None:
    value, read = REACHES[key]

    async def ask(client: WireClient, broker: Broker) -> object:
        return read(broker)

    assert with_broker({key: value}, ask) == value
    assert with_broker({}, ask) != value


def test_group_settings_reach_the_coordinator() -> None:
    from ottla.broker.config import BrokerConfig
    from ottla.broker.coordinators.groups.config import GroupConfig

    random = Random(5)
    chosen: dict[str, int] = {
        "group.initial.rebalance.delay.ms": random.randrange(1, 5000),
        "group.min.session.timeout.ms": random.randrange(1, 5000),
        "group.max.session.timeout.ms": random.randrange(6000, 9000),
        "group.max.size": random.randrange(1, 99),
        "offset.metadata.max.bytes": random.randrange(1, 99),
        "offsets.retention.minutes": random.randrange(1, 99),
        "offsets.retention.check.interval.ms": random.randrange(1, 99),
    }
    config = GroupConfig.from_broker(BrokerConfig.from_sources(overrides=[f"{k}={v}" for k, v in chosen.items()]))
    assert (config.initial_rebalance_delay_ms, config.session_timeout_ms_min, config.session_timeout_ms_max) == (
        chosen["group.initial.rebalance.delay.ms"],
        chosen["group.min.session.timeout.ms"],
        chosen["group.max.session.timeout.ms"],
    )
    assert (config.size_max, config.offset_metadata_size_max) == (
        chosen["group.max.size"],
        chosen["offset.metadata.max.bytes"],
    )
    assert config.offsets_retention_ms == chosen["offsets.retention.minutes"] * 60_000
    assert config.offsets_retention_check_interval_ms == chosen["offsets.retention.check.interval.ms"]


def test_streams_group_settings_reach_the_coordinator() -> None:
    from ottla.broker.config import BrokerConfig
    from ottla.broker.coordinators.groups.config import GroupConfig

    chosen = {
        "group.streams.session.timeout.ms": 51_000,
        "group.streams.heartbeat.interval.ms": 7_000,
        "group.streams.initial.rebalance.delay.ms": 11,
        "group.streams.assignment.interval.ms": 22,
        "group.streams.task.offset.interval.ms": 33_000,
        "group.streams.acceptable.recovery.lag": 44,
        "group.streams.num.standby.replicas": 2,
        "group.streams.max.size": 9,
        "group.streams.rack.aware.assignment.tags": "zone,row",
        "group.streams.min.session.timeout.ms": 50_000,
        "group.streams.max.session.timeout.ms": 52_000,
        "group.streams.min.heartbeat.interval.ms": 6_000,
        "group.streams.max.heartbeat.interval.ms": 8_000,
        "group.streams.min.assignment.interval.ms": 20,
        "group.streams.max.assignment.interval.ms": 30,
        "group.streams.min.task.offset.interval.ms": 32_000,
        "group.streams.max.standby.replicas": 3,
    }
    overrides = [f"{key}={value}" for key, value in chosen.items()]
    config = GroupConfig.from_broker(BrokerConfig.from_sources(overrides=overrides)).streams
    assert (config.session_timeout_ms, config.heartbeat_interval_ms) == (51_000, 7_000)
    assert (config.initial_rebalance_delay_ms, config.assignment_interval_ms) == (11, 22)
    assert (config.task_offset_interval_ms, config.acceptable_recovery_lag) == (33_000, 44)
    assert (config.num_standby_replicas, config.max_size) == (2, 9)
    assert config.assignment_configs == {"num.standby.replicas": "2", "rack.aware.assignment.tags": "zone,row"}
    assert config.of_group({}) is config
    low = dict.fromkeys(("streams.session.timeout.ms", "streams.heartbeat.interval.ms"), "1")
    low |= dict.fromkeys(("streams.assignment.interval.ms", "streams.task.offset.interval.ms"), "1")
    own = config.of_group(low)
    assert (own.session_timeout_ms, own.heartbeat_interval_ms) == (50_000, 6_000)
    assert (own.assignment_interval_ms, own.task_offset_interval_ms) == (20, 32_000)
    own = config.of_group(dict.fromkeys(low, "70000") | {"streams.num.standby.replicas": "5"})
    assert (own.session_timeout_ms, own.heartbeat_interval_ms) == (52_000, 8_000)
    assert (own.assignment_interval_ms, own.num_standby_replicas) == (30, 3)


def test_settings_of_coordinators_reach_the_runtime() -> None:
    async def ask(client: WireClient, broker: Broker) -> Any:
        config = broker.coordinators.groups._config
        return config.append_timeout_ms, config.load_bytes_max, int(config.compression)

    settings: dict[str, object] = {
        "offsets.commit.timeout.ms": 77,
        "offsets.load.buffer.size": 1234,
        "offsets.topic.compression.codec": 4,
    }
    assert with_broker(settings, ask) == (77, 1234, 4)
