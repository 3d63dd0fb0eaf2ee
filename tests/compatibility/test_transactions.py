"""Transactions with confluent-kafka (librdkafka, transaction version 1). Clients and broker are killed in `copying`."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaException, Message, TopicPartition
from tests.compatibility.test_confluent import consumer_of, create_topic, producer_of
from tests.support.broker_process import RunningBroker

LIMIT_S = 90.0


def read_committed(broker: RunningBroker, topic: str, partitions: int, count: int) -> list[bytes]:
    """Return what a consumer of committed records gets: `count` of them, and whatever comes in half a second after."""
    consumer = consumer_of(broker, "reader", isolation_level="read_committed")
    consumer.assign([TopicPartition(topic, index, 0) for index in range(partitions)])
    values: list[bytes] = []
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        messages = consumer.consume(500, 0.5)
        for message in messages:
            value = message.value()
            assert message.error() is None
            assert value is not None
            values.append(value)
        if not messages and len(values) >= count:
            break
    consumer.close()
    return values


def test_committed_aborted_and_open_transactions(broker: RunningBroker) -> None:
    create_topic(broker, "mixed")
    producer = producer_of(broker, transactional_id="mixed")
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        for index in range(3):
            producer.produce("mixed", value=f"{number}-{index}")
        producer.flush()
        if number % 2:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
    producer.begin_transaction()
    producer.produce("mixed", value="open")
    producer.flush()
    values = read_committed(broker, "mixed", 1, 9)
    assert values == [f"{number}-{index}".encode() for number in (0, 2, 4) for index in range(3)]
    producer.abort_transaction(30)


def test_a_second_producer_fences_the_first(broker: RunningBroker) -> None:
    create_topic(broker, "fenced")
    first = producer_of(broker, transactional_id="fenced")
    first.init_transactions(30)
    first.begin_transaction()
    first.produce("fenced", value="zombie")
    first.flush()
    second = producer_of(broker, transactional_id="fenced")
    second.init_transactions(30)
    second.begin_transaction()
    second.produce("fenced", value="alive")
    second.commit_transaction(30)
    with pytest.raises(KafkaException) as refused:
        first.commit_transaction(30)
    assert refused.value.args[0].fatal()
    assert read_committed(broker, "fenced", 1, 1) == [b"alive"]


def test_offsets_of_a_group_with_members_are_committed_in_a_transaction(broker: RunningBroker) -> None:
    create_topic(broker, "grouped")
    plain = producer_of(broker)
    for number in range(10):
        plain.produce("grouped", value=str(number))
    plain.flush()
    producer = producer_of(broker, transactional_id="grouped")
    producer.init_transactions(30)
    consumer = consumer_of(broker, "grouped-readers")
    consumer.subscribe(["grouped"])
    messages: list[Message] = []
    deadline = time.monotonic() + LIMIT_S
    while len(messages) < 10 and time.monotonic() < deadline:
        messages += consumer.consume(10, 0.5)
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition("grouped", 0, 7)], consumer.consumer_group_metadata(), 30)
    producer.commit_transaction(30)
    assert consumer.committed([TopicPartition("grouped", 0)], 30)[0].offset == 7
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition("grouped", 0, 9)], consumer.consumer_group_metadata(), 30)
    producer.abort_transaction(30)
    assert consumer.committed([TopicPartition("grouped", 0)], 30)[0].offset == 7
    consumer.close()
