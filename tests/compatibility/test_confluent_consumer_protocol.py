"""confluent-kafka (librdkafka) with `group.protocol=consumer` (KIP-848): groups, patterns, static members, migration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from tests.compatibility.test_confluent import admin_of, create_topic, producer_of, read, send, values_of
from tests.support.broker_process import RunningBroker

PATIENCE_S = 40.0


@contextmanager
def consumers_of(
    broker: RunningBroker, group: str, count: int, *, protocol: str = "consumer", **config: Any
) -> Iterator[list[Consumer]]:
    """Make consumers that begin at the earliest offset, and close them."""
    keys = {key.replace("_", "."): value for key, value in config.items()}
    if protocol == "classic":
        keys |= {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 200, "partition.assignment.strategy": "range"}
    made = [
        Consumer(
            {
                "bootstrap.servers": broker.address,
                "group.id": group,
                "group.protocol": protocol,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "topic.metadata.refresh.interval.ms": 500,
                "log_level": 0,
                **keys,
            }
        )
        for _ in range(count)
    ]
    try:
        yield made
    finally:
        for consumer in made:
            consumer.close()


def settle(consumers: list[Consumer], sizes: list[int], seconds: float = PATIENCE_S) -> list[set[tuple[str, int]]]:
    """Poll until the consumers have as many partitions as `sizes` says (in any order), each partition once."""
    deadline = time.monotonic() + seconds
    while True:
        for consumer in consumers:
            message = consumer.poll(0.05)
            assert message is None or message.error() is None, message.error()
        owned = [{(each.topic, each.partition) for each in consumer.assignment()} for consumer in consumers]
        if sorted(map(len, owned)) == sorted(sizes) and len(set().union(*owned)) == sum(sizes):
            return owned
        assert time.monotonic() < deadline, f"{[len(each) for each in owned]} partitions after {seconds} s, not {sizes}"


def test_members_share_and_inherit_partitions(broker: RunningBroker) -> None:
    """1. Two members share six partitions. 2. One leaves and the other has them all. 3. Offsets are where they were."""
    create_topic(broker, "shared848", 6)
    with consumers_of(broker, "g848", 1) as (stays,):
        stays.subscribe(["shared848"])
        settle([stays], [6])
        with consumers_of(broker, "g848", 1) as (leaves,):
            leaves.subscribe(["shared848"])
            settle([stays, leaves], [3, 3])
            send(producer_of(broker), "shared848", [str(number) for number in range(200)])
            received = read([stays, leaves], 200)
            assert sorted(int(value) for part in received for value in values_of(part)) == list(range(200))
            stays.commit(asynchronous=False)
            leaves.commit(asynchronous=False)
        settle([stays], [6])
        committed = stays.committed([TopicPartition("shared848", index) for index in range(6)])
        assert sum(each.offset for each in committed if each.offset > 0) == 200


def test_a_pattern_follows_new_topics(broker: RunningBroker) -> None:
    create_topic(broker, "pattern-a", 2)
    create_topic(broker, "other", 2)
    with consumers_of(broker, "gregex", 1) as (consumer,):
        consumer.subscribe(["^pattern-.*"])
        assert settle([consumer], [2])[0] == {("pattern-a", 0), ("pattern-a", 1)}


def test_a_pattern_that_is_none_is_refused(broker: RunningBroker) -> None:
    with consumers_of(broker, "gwrong", 1) as (consumer,):
        consumer.subscribe(["^x**"])  # librdkafka looks at patterns too, but accepts this one
        deadline = time.monotonic() + PATIENCE_S
        while (message := consumer.poll(0.2)) is None or message.error() is None:
            assert time.monotonic() < deadline
        assert "regular expression is not valid" in str(message.error())


def test_a_static_member_comes_back_to_its_partitions(broker: RunningBroker) -> None:
    create_topic(broker, "static848", 4)
    with consumers_of(broker, "gstatic", 1, group_instance_id="one") as (first,):
        first.subscribe(["static848"])
        settle([first], [4])
        with consumers_of(broker, "gstatic", 1, group_instance_id="two") as (second,):
            second.subscribe(["static848"])
            before = settle([first, second], [2, 2])
        with consumers_of(broker, "gstatic", 1, group_instance_id="two") as (second,):
            second.subscribe(["static848"])
            assert settle([first, second], [2, 2]) == before


def test_a_group_moves_from_one_protocol_to_the_other_and_back(broker: RunningBroker) -> None:
    """1. Two classic members. 2. One is replaced by one of the consumer protocol, while the other goes on. 3. So is the
    other. 4. And back again. All the while, every record is read, and every partition has one reader."""
    create_topic(broker, "moving", 4)
    producer = producer_of(broker)
    seen: list[str] = []

    def work(consumers: list[Consumer], sizes: list[int], number: int) -> None:
        settle(consumers, sizes)
        send(producer, "moving", [f"{number}-{index}" for index in range(20)])
        for part in read(consumers, 20):
            seen.extend(values_of(part))
        for consumer in consumers:
            with suppress(KafkaException):  # nothing has been read by this one
                consumer.commit(asynchronous=False)

    admin = admin_of(broker)

    def group_type() -> str:
        listed = admin.list_consumer_groups(request_timeout=20).result()
        return next(str(each.type.name) for each in listed.valid if each.group_id == "gmoving")

    path = ["classic", "classic", "consumer", "consumer", "classic", "classic"]
    held: list[tuple[Any, Consumer]] = []
    for number, protocol in enumerate(path):
        manager = consumers_of(broker, "gmoving", 1, protocol=protocol)
        (consumer,) = manager.__enter__()
        consumer.subscribe(["moving"])
        held.append((manager, consumer))
        work([each for _, each in held], [4] if len(held) == 1 else [2, 2], number * 2)
        if len(held) == 2:
            if number in (2, 3):
                assert group_type() == "CONSUMER"
            manager, _ = held.pop(0)
            manager.__exit__(None, None, None)
            work([each for _, each in held], [4], number * 2 + 1)
    assert group_type() == "CLASSIC"
    for manager, _ in held:
        manager.__exit__(None, None, None)
    assert len(seen) == len(set(seen)) == 220
