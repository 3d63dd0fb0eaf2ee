"""aiokafka against the broker: the asyncio client, with the oldest request versions still in wide use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError
from tests.support.broker_process import RunningBroker

PATIENCE_S = 60.0


@asynccontextmanager
async def admin_of(broker: RunningBroker) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def producer_of(broker: RunningBroker, **config: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.address, linger_ms=2, **config)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consumer_of(broker: RunningBroker, group: str | None, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        *topics,
        bootstrap_servers=broker.address,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=100,
        heartbeat_interval_ms=200,
        session_timeout_ms=6_000,
        retry_backoff_ms=50,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def create_topic(broker: RunningBroker, name: str, partitions: int = 1) -> None:
    async with admin_of(broker) as admin:
        await admin.create_topics([NewTopic(name, partitions, 1)])


async def read(consumers: list[AIOKafkaConsumer], count: int) -> list[list[Any]]:
    received: list[list[Any]] = [[] for _ in consumers]
    async with asyncio.timeout(PATIENCE_S):
        while sum(map(len, received)) < count:
            for records, consumer in zip(received, consumers, strict=True):
                for batch in (await consumer.getmany(timeout_ms=50)).values():
                    records.extend(batch)
    return received


async def read_assigned(broker: RunningBroker, topic: str, count: int) -> list[Any]:
    async with consumer_of(broker, None) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return (await read([consumer], count))[0]


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_records_of_every_compression_come_back_whole(broker: RunningBroker, compression: str | None) -> None:
    topic = f"aiokafka-{compression}"
    await create_topic(broker, topic)
    values = [b"%d:" % number + b"plane " * 20 for number in range(100)]
    async with producer_of(broker, compression_type=compression) as producer:
        for value in values:
            await producer.send(
                topic, value, key=b"key", headers=[("h", b"1")], timestamp_ms=1_700_000_000_000, partition=0
            )
        await producer.flush()
    records = await read_assigned(broker, topic, 100)
    assert [record.value for record in records] == values
    assert [record.offset for record in records] == list(range(100))
    assert records[0].key == b"key"
    assert list(records[0].headers) == [("h", b"1")]
    assert records[0].timestamp == 1_700_000_000_000


@pytest.mark.parametrize(("acks", "idempotent"), [(0, False), (1, False), ("all", False), ("all", True)])
async def test_every_level_of_acknowledgement_stores_the_records(
    broker: RunningBroker, acks: int | str, idempotent: bool
) -> None:
    topic = f"aiokafka-acks-{acks}-{idempotent}"
    await create_topic(broker, topic)
    async with producer_of(broker, acks=acks, enable_idempotence=idempotent) as producer:
        for number in range(50):
            await producer.send_and_wait(topic, b"%d" % number)
    assert [record.value for record in await read_assigned(broker, topic, 50)] == [b"%d" % n for n in range(50)]


async def test_group_of_two_shares_the_partitions_and_takes_over(broker: RunningBroker) -> None:
    """1. Two members own half each; 2. both commit; 3. one leaves, the other owns all."""
    topic, group = "aiokafka-group", "aiokafka-group"
    await create_topic(broker, topic, 4)
    async with producer_of(broker) as producer, consumer_of(broker, group, topic) as second:
        async with consumer_of(broker, group, topic) as first:
            await wait_for_assignment([first, second], [2, 2])
            for number in range(100):
                await producer.send_and_wait(topic, b"%d" % number, partition=number % 4)
            received = await read([first, second], 100)
            assert [len(records) for records in received] == [50, 50]
            await first.commit()
            await second.commit()
        await wait_for_assignment([second], [4])
        assert {await second.committed(TopicPartition(topic, partition)) for partition in range(4)} == {25}


async def wait_for_assignment(consumers: list[AIOKafkaConsumer], counts: list[int]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while [len(consumer.assignment()) for consumer in consumers] != counts:
            for consumer in consumers:
                assert not await consumer.getmany(timeout_ms=50)


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_everything_is_found_again_after_a_restart(private_broker: RunningBroker, how: str) -> None:
    broker = private_broker
    await create_topic(broker, "kept")
    place = TopicPartition("kept", 0)
    async with producer_of(broker, acks="all") as producer:
        # The consumer leaves before the restart: aiokafka's may raise CancelledError when it is stopped in its retries.
        async with consumer_of(broker, "kept-group", "kept") as consumer:
            for number in range(100):
                await producer.send_and_wait("kept", b"%d" % number)
            await read([consumer], 100)
            await consumer.commit({place: (40, "note")})
        await asyncio.to_thread(broker.kill if how == "kill" else broker.terminate)
        await asyncio.to_thread(broker.start)
        await producer.send_and_wait("kept", b"after")
    async with consumer_of(broker, "kept-group", "kept") as consumer:
        records = (await read([consumer], 61))[0]
        assert [record.value for record in records] == [*(b"%d" % number for number in range(40, 100)), b"after"]


async def test_offsets_by_time_and_at_the_ends(broker: RunningBroker) -> None:
    await create_topic(broker, "aiokafka-time")
    place = TopicPartition("aiokafka-time", 0)
    async with producer_of(broker) as producer:
        for number in range(10):
            await producer.send_and_wait("aiokafka-time", b"%d" % number, timestamp_ms=1_700_000_000_000 + number)
    async with consumer_of(broker, None) as consumer:
        consumer.assign([place])
        found = (await consumer.offsets_for_times({place: 1_700_000_000_005}))[place]
        assert (found.offset, found.timestamp) == (5, 1_700_000_000_005)
        assert (await consumer.offsets_for_times({place: 1_700_000_000_010}))[place] is None
        assert await consumer.beginning_offsets([place]) == {place: 0}
        assert await consumer.end_offsets([place]) == {place: 10}


async def test_admin_manages_topics_records_configs_and_groups(broker: RunningBroker) -> None:
    topic = "aiokafka-admin"
    async with admin_of(broker) as admin, producer_of(broker) as producer:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"retention.ms": "60000"})])
        again = await admin.create_topics([NewTopic(topic, 1, 1)])
        assert [row[1] for row in again.topic_errors] == [TopicAlreadyExistsError.errno]
        await admin.create_partitions({topic: NewPartitions(2)})
        async with asyncio.timeout(PATIENCE_S):
            while len((await admin.describe_topics([topic]))[0]["partitions"]) != 2:
                pass
        described = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        assert "60000" in str(described)
        for number in range(10):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=4)})
        async with consumer_of(broker, "aiokafka-admin-group", topic) as consumer:
            assert [record.offset for record in (await read([consumer], 6))[0]] == [4, 5, 6, 7, 8, 9]
            await consumer.commit()
            assert ("aiokafka-admin-group", "consumer") in await admin.list_consumer_groups()
            assert "Stable" in str(await admin.describe_consumer_groups(["aiokafka-admin-group"]))
        offsets = await admin.list_consumer_group_offsets("aiokafka-admin-group")
        assert offsets[TopicPartition(topic, 0)].offset == 10
        await admin.delete_topics([topic])
        async with asyncio.timeout(PATIENCE_S):
            while topic in await admin.list_topics():
                pass
