"""confluent-kafka (librdkafka) against the broker: what most programs outside Java run on."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import confluent_kafka.admin
import pytest
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ElectionType,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from tests.support.broker_process import RunningBroker

#: Its factories carry no types.
OffsetSpec: Any = confluent_kafka.admin.OffsetSpec  # type: ignore[attr-defined]

PATIENCE_S = 60.0
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def admin_of(broker: RunningBroker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.address, "log_level": 0})


def create_topic(broker: RunningBroker, name: str, partitions: int = 1, **config: str) -> None:
    keys = {key.replace("_", "."): value for key, value in config.items()}
    admin = admin_of(broker)  # named: a client that is collected drops its requests
    admin.create_topics([NewTopic(name, partitions, 1, config=keys)])[name].result(PATIENCE_S)


def producer_of(broker: RunningBroker, **config: Any) -> Producer:
    keys = {key.replace("_", "."): value for key, value in config.items()}
    return Producer({"bootstrap.servers": broker.address, "log_level": 0, "linger.ms": 2, **keys})


def consumer_of(broker: RunningBroker, group: str, **config: Any) -> Consumer:
    keys = {key.replace("_", "."): value for key, value in config.items()}
    return Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "heartbeat.interval.ms": 200,
            "session.timeout.ms": 6_000,
            "fetch.wait.max.ms": 100,
            "log_level": 0,
            **keys,
        }
    )


def send(producer: Producer, topic: str, values: list[str], **kwargs: Any) -> list[Any]:
    """Produce `values` and wait for every acknowledgement."""
    delivered: list[Any] = []
    failed: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, message: Any) -> None:
        if error is None:
            delivered.append(message)
        else:
            failed.append(error)

    for value in values:
        producer.produce(topic, value.encode(), on_delivery=on_delivery, **kwargs)
    assert producer.flush(PATIENCE_S) == 0, "not everything was acknowledged"
    assert not failed, failed
    return delivered


def read(consumers: list[Consumer], count: int, seconds: float = PATIENCE_S) -> list[list[Any]]:
    """Poll the consumers in turn until they have `count` messages together."""
    received: list[list[Any]] = [[] for _ in consumers]
    deadline = time.monotonic() + seconds
    while sum(map(len, received)) < count:
        assert time.monotonic() < deadline, f"{list(map(len, received))} of {count} messages after {seconds} s"
        for messages, consumer in zip(received, consumers, strict=True):
            if (message := consumer.poll(0.05)) is not None:
                assert message.error() is None, message.error()
                messages.append(message)
    return received


def values_of(messages: list[Any]) -> list[str]:
    return [message.value().decode() for message in messages]


def read_assigned(broker: RunningBroker, topic: str, count: int, partition: int = 0, offset: int = 0) -> list[Any]:
    """Read `count` messages from one partition, without a group's help."""
    consumer = consumer_of(broker, f"assigned-{topic}")
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        return read([consumer], count)[0]
    finally:
        consumer.close()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_records_of_every_compression_come_back_whole(broker: RunningBroker, compression: str) -> None:
    topic = f"confluent-{compression}"
    create_topic(broker, topic)
    producer = producer_of(broker, compression_type=compression, linger_ms=50)
    values = [f"{number}:" + "flight " * 20 for number in range(200)]
    headers = [("h", b"1"), ("h", b"2"), ("empty", None)]
    send(producer, topic, values, key=b"key", headers=headers, timestamp=1_700_000_000_000)
    messages = read_assigned(broker, topic, 200)
    assert values_of(messages) == values
    assert [message.offset() for message in messages] == list(range(200))
    assert messages[0].key() == b"key"
    assert messages[0].headers() == [("h", b"1"), ("h", b"2"), ("empty", None)]
    assert messages[0].timestamp() == (1, 1_700_000_000_000)


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_level_of_acknowledgement_stores_the_records(broker: RunningBroker, acks: str) -> None:
    topic = f"confluent-acks-{acks}"
    create_topic(broker, topic)
    values = [str(number) for number in range(50)]
    send(producer_of(broker, acks=acks), topic, values)
    assert values_of(read_assigned(broker, topic, 50)) == values


def test_idempotent_producer_numbers_its_batches(broker: RunningBroker) -> None:
    create_topic(broker, "confluent-idempotent", 3)
    producer = producer_of(broker, enable_idempotence=True)
    delivered = send(producer, "confluent-idempotent", [str(number) for number in range(600)])
    places = [(message.partition(), message.offset()) for message in delivered]
    assert len(set(places)) == 600
    per_partition: dict[int, list[int]] = defaultdict(list)
    for partition, offset in places:
        per_partition[partition].append(offset)
    for offsets in per_partition.values():
        assert sorted(offsets) == list(range(len(offsets)))


def test_topic_of_a_first_produce_is_created(broker: RunningBroker) -> None:
    send(producer_of(broker), "confluent-auto-created", ["first"])
    assert values_of(read_assigned(broker, "confluent-auto-created", 1)) == ["first"]


def test_tombstones_and_empty_values_stay_apart(broker: RunningBroker) -> None:
    create_topic(broker, "confluent-nulls")
    producer = producer_of(broker)
    producer.produce("confluent-nulls", value=None, key=b"gone")
    producer.produce("confluent-nulls", value=b"", key=b"")
    assert producer.flush(PATIENCE_S) == 0
    messages = read_assigned(broker, "confluent-nulls", 2)
    assert [(message.key(), message.value()) for message in messages] == [(b"gone", None), (b"", b"")]


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "cooperative-sticky"])
def test_group_of_two_shares_the_partitions_and_takes_over(broker: RunningBroker, strategy: str) -> None:
    """1. One member owns all; 2. a second joins and takes half; 3. the first leaves, the second owns all."""
    topic, group = f"confluent-group-{strategy}", f"confluent-{strategy}"
    create_topic(broker, topic, 4)
    producer = producer_of(broker)
    first = consumer_of(broker, group, partition_assignment_strategy=strategy)
    second = consumer_of(broker, group, partition_assignment_strategy=strategy)
    try:
        first.subscribe([topic])
        wait_for_assignment([first], [4])
        second.subscribe([topic])
        wait_for_assignment([first, second], [2, 2])
        for partition in range(4):
            send(producer, topic, [f"{partition}-{number}" for number in range(25)], partition=partition)
        received = read([first, second], 100)
        assert [len(messages) for messages in received] == [50, 50]
        owned = [{(message.partition()) for message in messages} for messages in received]
        assert not owned[0] & owned[1]
        for consumer in (first, second):
            consumer.commit(asynchronous=False)
        first.close()
        wait_for_assignment([second], [4])
        for partition in range(4):
            send(producer, topic, [f"{partition}-late"], partition=partition)
        assert sorted(values_of(read([second], 4)[0])) == [f"{partition}-late" for partition in range(4)]
    finally:
        second.close()


def wait_for_assignment(consumers: list[Consumer], counts: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (owned := [len(consumer.assignment()) for consumer in consumers]) != counts:
        assert time.monotonic() < deadline, f"assignments {owned} instead of {counts}"
        for consumer in consumers:
            message = consumer.poll(0.05)
            assert message is None, f"unexpected message {message}"


def test_static_member_comes_back_to_its_partitions_without_a_rebalance(broker: RunningBroker) -> None:
    topic, group = "confluent-static", "confluent-static"
    create_topic(broker, topic, 4)
    rebalances: list[str] = []
    first = consumer_of(broker, group, group_instance_id="one")
    second = consumer_of(broker, group, group_instance_id="two")
    try:
        first.subscribe([topic], on_assign=lambda *_: rebalances.append("assign"))
        second.subscribe([topic])
        wait_for_assignment([first, second], [2, 2])
        owned = {partition.partition for partition in second.assignment()}
        rebalances.clear()
        second.close()  # a static member does not leave
        second = consumer_of(broker, group, group_instance_id="two")
        second.subscribe([topic])
        wait_for_assignment([first, second], [2, 2])
        assert {partition.partition for partition in second.assignment()} == owned
        assert rebalances == []
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_everything_is_found_again_after_a_restart(private_broker: RunningBroker, how: str) -> None:
    """Records, committed offsets, topics and configs survive SIGTERM and kill -9; the same clients go on."""
    broker = private_broker
    create_topic(broker, "kept", 2, retention_ms="123456789")
    producer = producer_of(broker, enable_idempotence=True)
    for partition in range(2):
        send(producer, "kept", [str(number) for number in range(100)], partition=partition)
    consumer = consumer_of(broker, "kept-group")
    consumer.subscribe(["kept"])
    read([consumer], 60)
    positions = [place for place in consumer.position(consumer.assignment()) if place.offset >= 0]
    consumer.commit(offsets=positions, asynchronous=False)

    broker.kill() if how == "kill" else broker.terminate()
    broker.start()

    send(producer, "kept", ["after"], partition=0)
    assert values_of(read_assigned(broker, "kept", 101)) == [*map(str, range(100)), "after"]
    committed = consumer.committed(positions, timeout=PATIENCE_S)
    assert [place.offset for place in committed] == [place.offset for place in positions]
    rest = 200 - sum(place.offset for place in positions) + 1
    received = read([consumer], rest)[0]
    assert len(received) == rest
    consumer.close()
    resource = ConfigResource(ResourceType.TOPIC, "kept")
    admin = admin_of(broker)
    config = admin.describe_configs([resource])[resource].result(PATIENCE_S)
    assert config["retention.ms"].value == "123456789"
    assert len(admin.list_topics("kept", timeout=PATIENCE_S).topics["kept"].partitions) == 2


def test_seek_by_time(broker: RunningBroker) -> None:
    create_topic(broker, "confluent-time")
    producer = producer_of(broker)
    start = 1_700_000_000_000
    for number in range(10):
        send(producer, "confluent-time", [str(number)], timestamp=start + 1_000 * number)
    consumer = consumer_of(broker, "confluent-time")
    asked = {start - 5: 0, start + 4_000: 4, start + 4_001: 5, start + 9_001: OFFSET_END}
    for timestamp, offset in asked.items():
        [found] = consumer.offsets_for_times([TopicPartition("confluent-time", 0, timestamp)], timeout=PATIENCE_S)
        assert found.offset == offset, timestamp
    consumer.assign([TopicPartition("confluent-time", 0, asked[start + 4_001])])
    assert values_of(read([consumer], 5)[0]) == ["5", "6", "7", "8", "9"]
    assert consumer.get_watermark_offsets(TopicPartition("confluent-time", 0), timeout=PATIENCE_S) == (0, 10)
    consumer.close()


def test_offset_out_of_range_is_reset(broker: RunningBroker) -> None:
    create_topic(broker, "confluent-reset")
    send(producer_of(broker), "confluent-reset", ["a", "b"])
    assert values_of(read_assigned(broker, "confluent-reset", 2, offset=1_000)) == ["a", "b"]
    strict = consumer_of(broker, "confluent-reset", auto_offset_reset="error")
    strict.assign([TopicPartition("confluent-reset", 0, 1_000)])
    deadline = time.monotonic() + PATIENCE_S
    while (message := strict.poll(0.1)) is None:
        assert time.monotonic() < deadline
    error = message.error()
    assert error is not None
    assert error.code() == KafkaError._AUTO_OFFSET_RESET
    strict.close()


def test_admin_creates_grows_describes_and_deletes_topics(broker: RunningBroker) -> None:
    admin = admin_of(broker)
    create_topic(broker, "confluent-admin", 2)
    with pytest.raises(KafkaException) as caught:
        create_topic(broker, "confluent-admin", 2)
    assert caught.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    with pytest.raises(KafkaException) as caught:
        create_topic(broker, "bad/name")
    assert caught.value.args[0].code() == KafkaError.TOPIC_EXCEPTION
    validated = admin.create_topics([NewTopic("confluent-unborn", 1, 1)], validate_only=True)
    validated["confluent-unborn"].result(PATIENCE_S)
    admin.create_partitions([NewPartitions("confluent-admin", 5)])["confluent-admin"].result(PATIENCE_S)
    described = admin.describe_topics(TopicCollection(["confluent-admin"]))["confluent-admin"].result(PATIENCE_S)
    assert [partition.id for partition in described.partitions] == [0, 1, 2, 3, 4]
    assert all(len(partition.isr) == 1 for partition in described.partitions)
    assert not described.is_internal
    admin.delete_topics(["confluent-admin"])["confluent-admin"].result(PATIENCE_S)
    wait_until_gone(admin, "confluent-admin")
    assert "confluent-unborn" not in admin.list_topics(timeout=PATIENCE_S).topics


def wait_until_gone(admin: AdminClient, topic: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while topic in admin.list_topics(timeout=PATIENCE_S).topics:
        assert time.monotonic() < deadline, f"{topic} is still there"


def test_admin_changes_and_describes_configs(broker: RunningBroker) -> None:
    admin = admin_of(broker)
    create_topic(broker, "confluent-configs", 1, cleanup_policy="compact")
    change = ConfigResource(
        ResourceType.TOPIC,
        "confluent-configs",
        incremental_configs=[
            ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET),
            ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.APPEND),
        ],
    )
    admin.incremental_alter_configs([change])[change].result(PATIENCE_S)
    config = wait_for_config(admin, change, "retention.ms", "60000")
    assert config["retention.ms"].source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    assert config["cleanup.policy"].value == "compact,delete"
    assert config["segment.bytes"].source == ConfigSource.DEFAULT_CONFIG.value
    back = ConfigResource(
        ResourceType.TOPIC,
        "confluent-configs",
        incremental_configs=[ConfigEntry("retention.ms", "", incremental_operation=AlterConfigOpType.DELETE)],
    )
    admin.incremental_alter_configs([back])[back].result(PATIENCE_S)
    wait_for_config(admin, back, "retention.ms", "604800000")
    wrong = ConfigResource(
        ResourceType.TOPIC,
        "confluent-configs",
        incremental_configs=[ConfigEntry("retention.ms", "soon", incremental_operation=AlterConfigOpType.SET)],
    )
    with pytest.raises(KafkaException) as caught:
        admin.incremental_alter_configs([wrong])[wrong].result(PATIENCE_S)
    assert caught.value.args[0].code() == KafkaError.INVALID_CONFIG
    node = str(next(iter(admin.list_topics(timeout=PATIENCE_S).brokers)))
    resource = ConfigResource(ResourceType.BROKER, node)
    described = admin.describe_configs([resource])[resource].result(PATIENCE_S)
    assert described["group.initial.rebalance.delay.ms"].value == "0"
    assert described["group.initial.rebalance.delay.ms"].source == ConfigSource.STATIC_BROKER_CONFIG.value


def wait_for_config(admin: AdminClient, resource: ConfigResource, name: str, value: str) -> dict[str, Any]:
    """Describe until a change is visible (Kafka's broker learns of it a moment after the answer); all entries."""
    deadline = time.monotonic() + PATIENCE_S
    while (config := admin.describe_configs([resource])[resource].result(PATIENCE_S))[name].value != value:
        assert time.monotonic() < deadline, f"{name} is {config[name].value}, not {value}"
    return config  # type: ignore[no-any-return]


def test_admin_deletes_records_and_finds_offsets(broker: RunningBroker) -> None:
    admin = admin_of(broker)
    create_topic(broker, "confluent-records")
    start = 1_700_000_000_000
    producer = producer_of(broker)
    for number in (3, 1, 2):
        send(producer, "confluent-records", [str(number)], timestamp=start + number)
    found = {}
    for name, spec in {
        "earliest": OffsetSpec.earliest(),
        "latest": OffsetSpec.latest(),
        "max": OffsetSpec.max_timestamp(),
        "time": OffsetSpec.for_timestamp(start + 2),
    }.items():
        partition = TopicPartition("confluent-records", 0)
        found[name] = admin.list_offsets({partition: spec})[partition].result(PATIENCE_S).offset
    assert found == {"earliest": 0, "latest": 3, "max": 0, "time": 0}
    place = TopicPartition("confluent-records", 0, 2)
    assert admin.delete_records([place])[place].result(PATIENCE_S).low_watermark == 2
    partition = TopicPartition("confluent-records", 0)
    assert admin.list_offsets({partition: OffsetSpec.earliest()})[partition].result(PATIENCE_S).offset == 2
    assert values_of(read_assigned(broker, "confluent-records", 1)) == ["2"]
    end = TopicPartition("confluent-records", 0, OFFSET_END)
    assert admin.delete_records([end])[end].result(PATIENCE_S).low_watermark == 3
    beyond = TopicPartition("confluent-records", 0, 99)
    with pytest.raises(KafkaException) as caught:
        admin.delete_records([beyond])[beyond].result(PATIENCE_S)
    assert caught.value.args[0].code() == KafkaError.OFFSET_OUT_OF_RANGE


def test_admin_lists_describes_alters_and_deletes_groups(broker: RunningBroker) -> None:
    admin = admin_of(broker)
    topic, group = "confluent-groups", "confluent-admin-group"
    create_topic(broker, topic, 2)
    send(producer_of(broker), topic, [str(number) for number in range(10)], partition=0)
    consumer = consumer_of(broker, group, client_id="the-client", partition_assignment_strategy="range")
    consumer.subscribe([topic])
    read([consumer], 10)
    consumer.commit(asynchronous=False)

    described = admin.describe_consumer_groups([group])[group].result(PATIENCE_S)
    assert described.state == ConsumerGroupState.STABLE
    assert described.partition_assignor == "range"
    [member] = described.members
    assert member.client_id == "the-client"
    assert {place.partition for place in member.assignment.topic_partitions} == {0, 1}
    with pytest.raises(KafkaException) as caught:
        admin.delete_consumer_groups([group])[group].result(PATIENCE_S)
    assert caught.value.args[0].code() == KafkaError.NON_EMPTY_GROUP

    consumer.close()
    listing = admin.list_consumer_groups(states={ConsumerGroupState.EMPTY}).result(PATIENCE_S)
    assert group in {found.group_id for found in listing.valid}
    request = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0)])
    offsets = admin.list_consumer_group_offsets([request])[group].result(PATIENCE_S)
    assert [place.offset for place in offsets.topic_partitions] == [10]

    change = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 4)])
    admin.alter_consumer_group_offsets([change])[group].result(PATIENCE_S)
    again = consumer_of(broker, group)
    again.subscribe([topic])
    assert values_of(read([again], 6)[0]) == ["4", "5", "6", "7", "8", "9"]
    again.close()
    admin.delete_consumer_groups([group])[group].result(PATIENCE_S)
    listing = admin.list_consumer_groups().result(PATIENCE_S)
    assert group not in {found.group_id for found in listing.valid}
    with pytest.raises(KafkaException) as caught:
        admin.delete_consumer_groups([group])[group].result(PATIENCE_S)
    assert caught.value.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND


def test_admin_describes_the_cluster_and_finds_no_need_for_an_election(broker: RunningBroker) -> None:
    admin = admin_of(broker)
    cluster = admin.describe_cluster().result(PATIENCE_S)
    [node] = cluster.nodes
    assert node.host in ("127.0.0.1", "localhost")
    assert node.port == broker.port
    assert cluster.controller.id == cluster.nodes[0].id
    create_topic(broker, "confluent-election")
    place = TopicPartition("confluent-election", 0)
    outcome = admin.elect_leaders(ElectionType.PREFERRED, [place]).result(PATIENCE_S)
    assert outcome[place].code() == KafkaError.ELECTION_NOT_NEEDED


def test_messages_too_large_are_refused_and_smaller_ones_go_on(broker: RunningBroker) -> None:
    create_topic(broker, "confluent-large", max_message_bytes="2000")
    producer = producer_of(broker)
    outcomes: list[int] = []
    producer.produce(
        "confluent-large", b"x" * 5_000, on_delivery=lambda error, _: outcomes.append(error.code() if error else 0)
    )
    assert producer.flush(PATIENCE_S) == 0
    assert outcomes == [KafkaError.MSG_SIZE_TOO_LARGE]
    send(producer, "confluent-large", ["small"])
    assert values_of(read_assigned(broker, "confluent-large", 1)) == ["small"]
