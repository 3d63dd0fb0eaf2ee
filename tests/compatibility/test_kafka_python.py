"""kafka-python against the broker: a client that shares no code with librdkafka or Java."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.broker_process import RunningBroker

with warnings.catch_warnings():
    # It reads its schemas through importlib.resources.read_text, deprecated since Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
    from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
    from kafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
    from kafka.errors import InvalidTopicError, TopicAlreadyExistsError

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    # It leaves sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE_S = 60.0

#: This client forgets a join that takes longer than one poll: with 50 ms it dropped a SyncGroup answer that a proxy saw
#: delivered, sent no more heartbeats, and was removed from the group (3 runs of 10; 0 of 10 with 200 ms and more).
POLL_MS = 300

#: This client brings no codec but gzip; the others run where their packages are installed.
CODECS = {"gzip": has_gzip, "snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}
COMPRESSIONS = [None, *(name for name, is_there in CODECS.items() if is_there())]


@contextmanager
def admin_of(broker: RunningBroker) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        yield admin
    finally:
        admin.close()


@contextmanager
def producer_of(broker: RunningBroker, **config: Any) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=broker.address, linger_ms=2, **config)
    try:
        yield producer
    finally:
        producer.close(timeout=5)


@contextmanager
def consumer_of(broker: RunningBroker, group: str | None, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    settings = {
        "bootstrap_servers": broker.address,
        "group_id": group,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "fetch_max_wait_ms": 100,
        "heartbeat_interval_ms": 200,
        "session_timeout_ms": 6_000,
        **config,
    }
    consumer = KafkaConsumer(*topics, **settings)
    try:
        yield consumer
    finally:
        consumer.close()


def create_topic(broker: RunningBroker, name: str, partitions: int = 1) -> None:
    with admin_of(broker) as admin:
        admin.create_topics([NewTopic(name, partitions, 1)], wait_for_metadata=True)


def send(producer: KafkaProducer, topic: str, values: list[bytes], **kwargs: Any) -> None:
    for future in [producer.send(topic, value, **kwargs) for value in values]:
        future.get(timeout=PATIENCE_S)


def read(consumers: list[KafkaConsumer], count: int) -> list[list[Any]]:
    received: list[list[Any]] = [[] for _ in consumers]
    deadline = time.monotonic() + PATIENCE_S
    while sum(map(len, received)) < count:
        assert time.monotonic() < deadline, f"{list(map(len, received))} of {count} records"
        for records, consumer in zip(received, consumers, strict=True):
            for batch in consumer.poll(timeout_ms=POLL_MS).values():
                records.extend(batch)
    return received


def read_until(consumer: KafkaConsumer, value: bytes) -> list[Any]:
    records: list[Any] = []
    while value not in [record.value for record in records]:
        records += read([consumer], 1)[0]
    return records


def read_assigned(broker: RunningBroker, topic: str, count: int) -> list[Any]:
    with consumer_of(broker, None) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return read([consumer], count)[0]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_records_of_every_compression_come_back_whole(broker: RunningBroker, compression: str | None) -> None:
    topic = f"kafka-python-{compression}"
    create_topic(broker, topic)
    values = [b"%d:" % number + b"plane " * 20 for number in range(100)]
    with producer_of(broker, compression_type=compression) as producer:
        send(producer, topic, values, key=b"key", headers=[("h", b"1")], timestamp_ms=1_700_000_000_000)
    records = read_assigned(broker, topic, 100)
    assert [record.value for record in records] == values
    assert [record.offset for record in records] == list(range(100))
    assert records[0].key == b"key"
    assert list(records[0].headers) == [("h", b"1")]
    assert records[0].timestamp == 1_700_000_000_000


@pytest.mark.parametrize(("acks", "idempotent"), [(0, False), (1, False), ("all", False), ("all", True)])
def test_every_level_of_acknowledgement_stores_the_records(
    broker: RunningBroker, acks: int | str, idempotent: bool
) -> None:
    topic = f"kafka-python-acks-{acks}-{idempotent}"
    create_topic(broker, topic)
    values = [b"%d" % number for number in range(50)]
    with producer_of(broker, acks=acks, enable_idempotence=idempotent) as producer:
        send(producer, topic, values)
        producer.flush(timeout=PATIENCE_S)
    assert [record.value for record in read_assigned(broker, topic, 50)] == values


def test_group_of_two_shares_the_partitions_and_takes_over(broker: RunningBroker) -> None:
    """1. One member owns all; 2. a second joins and takes half; 3. the first leaves, the second owns all."""
    topic, group = "kafka-python-group", "kafka-python-group"
    create_topic(broker, topic, 4)
    with producer_of(broker) as producer, consumer_of(broker, group, topic) as second:
        with consumer_of(broker, group, topic) as first:
            wait_for_assignment([first, second], [2, 2])
            for partition in range(4):
                send(producer, topic, [b"%d" % number for number in range(25)], partition=partition)
            received = read([first, second], 100)
            assert [len(records) for records in received] == [50, 50]
            owned = [{record.partition for record in records} for records in received]
            assert not owned[0] & owned[1]
            first.commit()
            second.commit()
        wait_for_assignment([second], [4])
        for partition in range(4):
            send(producer, topic, [b"late"], partition=partition)
        assert sorted(record.partition for record in read([second], 4)[0]) == [0, 1, 2, 3]
        assert {second.committed(TopicPartition(topic, partition)) for partition in range(4)} == {25}


def wait_for_assignment(consumers: list[KafkaConsumer], counts: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (owned := [len(consumer.assignment()) for consumer in consumers]) != counts:
        assert time.monotonic() < deadline, f"assignments {owned} instead of {counts}"
        for consumer in consumers:
            assert not consumer.poll(timeout_ms=POLL_MS)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_everything_is_found_again_after_a_restart(private_broker: RunningBroker, how: str) -> None:
    broker = private_broker
    create_topic(broker, "kept")
    place = TopicPartition("kept", 0)
    with producer_of(broker, acks="all", retries=20) as producer, consumer_of(broker, "kept-group", "kept") as consumer:
        send(producer, "kept", [b"%d" % number for number in range(100)])
        read([consumer], 100)
        consumer.commit({place: OffsetAndMetadata(40, "note", -1)})
        broker.kill() if how == "kill" else broker.terminate()
        broker.start()
        send(producer, "kept", [b"after"])
        # The member may go on, or have to join again and begin at its commit: either way it gets there.
        assert b"after" in [record.value for record in read_until(consumer, b"after")]
    with consumer_of(broker, "kept-group", "kept") as consumer:
        records = read([consumer], 61)[0]
        assert [record.value for record in records] == [*(b"%d" % number for number in range(40, 100)), b"after"]
        assert consumer.committed(place, metadata=True).metadata == "note"


def test_offsets_by_time_and_at_the_ends(broker: RunningBroker) -> None:
    create_topic(broker, "kafka-python-time")
    place = TopicPartition("kafka-python-time", 0)
    with producer_of(broker) as producer:
        for number in range(10):
            send(producer, "kafka-python-time", [b"%d" % number], timestamp_ms=1_700_000_000_000 + 1_000 * number)
    with consumer_of(broker, None) as consumer:
        consumer.assign([place])
        found = consumer.offsets_for_times({place: 1_700_000_004_001})[place]
        assert (found.offset, found.timestamp) == (5, 1_700_000_005_000)
        assert consumer.offsets_for_times({place: 1_700_000_009_001})[place] is None
        assert consumer.beginning_offsets([place]) == {place: 0}
        assert consumer.end_offsets([place]) == {place: 10}
        consumer.seek(place, found.offset)
        assert [record.value for record in read([consumer], 5)[0]] == [b"5", b"6", b"7", b"8", b"9"]


def test_admin_manages_topics_and_configs(broker: RunningBroker) -> None:
    with admin_of(broker) as admin:
        topic = NewTopic("kafka-python-admin", 2, 1, topic_configs={"retention.ms": "60000"})
        admin.create_topics([topic], wait_for_metadata=True)
        with pytest.raises(TopicAlreadyExistsError):
            admin.create_topics([topic])
        with pytest.raises(InvalidTopicError):
            admin.create_topics([NewTopic("bad name", 1, 1)])
        admin.create_partitions({"kafka-python-admin": NewPartitions(3)})
        deadline = time.monotonic() + PATIENCE_S
        while len(admin.describe_topics(["kafka-python-admin"])[0]["partitions"]) != 3:
            assert time.monotonic() < deadline
        resource = ConfigResource(ConfigResourceType.TOPIC, "kafka-python-admin")
        assert "60000" in str(admin.describe_configs([resource]))
        admin.delete_topics(["kafka-python-admin"])
        deadline = time.monotonic() + PATIENCE_S
        while "kafka-python-admin" in admin.list_topics():
            assert time.monotonic() < deadline
        assert admin.describe_cluster()["brokers"][0]["port"] == broker.port


def test_admin_deletes_records(broker: RunningBroker) -> None:
    create_topic(broker, "kafka-python-records")
    place = TopicPartition("kafka-python-records", 0)
    with producer_of(broker) as producer, admin_of(broker) as admin, consumer_of(broker, None) as consumer:
        send(producer, "kafka-python-records", [b"%d" % number for number in range(10)])
        admin.delete_records({place: 7})
        assert consumer.beginning_offsets([place]) == {place: 7}


def test_admin_manages_groups(broker: RunningBroker) -> None:
    topic, group = "kafka-python-groups", "kafka-python-groups"
    create_topic(broker, topic)
    place = TopicPartition(topic, 0)
    with producer_of(broker) as producer, admin_of(broker) as admin:
        send(producer, topic, [b"%d" % number for number in range(10)])
        with consumer_of(broker, group, topic, client_id="the-client") as consumer:
            read([consumer], 10)
            consumer.commit()
            assert "the-client" in str(admin.describe_groups([group]))
            assert "NonEmptyGroup" in str(admin.delete_groups([group]))
        assert group in str(admin.list_groups())
        assert "10" in str(admin.list_group_offsets([group]))
        admin.alter_group_offsets(group, {place: OffsetAndMetadata(3, "", -1)})
        with consumer_of(broker, group, topic) as consumer:
            assert [record.offset for record in read([consumer], 7)[0]] == [3, 4, 5, 6, 7, 8, 9]
        admin.delete_groups([group])
        assert group not in str(admin.list_groups())
        assert "GroupIdNotFound" in str(admin.delete_groups([group]))
