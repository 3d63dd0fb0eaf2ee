"""Transactions of both faces against a real broker, seen by librdkafka."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as TheirPartition
from confluent_kafka.admin import AdminClient
from tests.client.others import new_topic, read_all
from tests.support.broker_process import RunningBroker

import ottla
from ottla.errors import ErrorCode

# ruff: noqa: PT012


def new_id() -> str:
    return f"id-{uuid.uuid4().hex[:8]}"


def values(address: str, topic: str, *, committed: bool = True) -> list[bytes | None]:
    return [record.value for record in read_all(address, topic, committed=committed)]


def committed_offset(address: str, group: str, topic: str) -> int:
    admin = AdminClient({"bootstrap.servers": address})
    request = [ConsumerGroupTopicPartitions(group, [TheirPartition(topic, 0)])]
    found = admin.list_consumer_group_offsets(request)[group].result(30)
    offset: int = found.topic_partitions[0].offset
    return offset


def test_the_end_of_the_block_commits(broker: RunningBroker) -> None:
    topic, source = new_topic(broker.address, 3), new_topic(broker.address)
    with ottla.Producer(broker.address, transactional_id=new_id()) as producer:
        for number in range(5):
            with producer.transaction() as transaction:
                transaction.send_many(topic, [b"%d-%d" % (number, index) for index in range(20)])
                transaction.send_offsets({ottla.TopicPartition(source, 0): 10 + number}, "readers")
                last = transaction.send(topic, b"last", key=b"k")
            assert last.result(0).offset >= 0
    assert len(values(broker.address, topic)) == 105
    assert committed_offset(broker.address, "readers", source) == 14


def test_what_is_aborted_is_never_seen(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, transactional_id=new_id(), linger_ms=0) as producer:
        with producer.transaction() as transaction:
            transaction.send(topic, b"aborted").result(30)
            raise ottla.Abort
        with pytest.raises(ZeroDivisionError) as caught, producer.transaction() as transaction:
            transaction.send(topic, b"aborted, too").result(30)
            raise ZeroDivisionError
        assert not hasattr(caught.value, "__notes__")
        with producer.transaction() as transaction:
            transaction.send(topic, b"committed")
        with producer.transaction():
            pass
    assert values(broker.address, topic) == [b"committed"]
    assert values(broker.address, topic, committed=False) == [b"aborted", b"aborted, too", b"committed"]


def test_a_record_that_fails_aborts_the_transaction_and_the_next_one_works(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, max_message_bytes="2000")
    with ottla.Producer(broker.address, transactional_id=new_id()) as producer:
        with (
            pytest.raises(ottla.TransactionAbortedError, match="The transaction was aborted: ") as caught,
            producer.transaction() as transaction,
        ):
            transaction.send(topic, b"fine")
            failed = transaction.send(topic, b"x" * 5_000)
        assert isinstance(caught.value.__cause__, ottla.KafkaError)
        assert caught.value.__cause__.code == ErrorCode.MESSAGE_TOO_LARGE
        assert isinstance(failed.exception(0), ottla.DeliveryError)
        with producer.transaction() as transaction:
            transaction.send(topic, b"after")
    assert values(broker.address, topic) == [b"after"]


def test_a_second_producer_of_the_same_id_shuts_the_first_one_out(broker: RunningBroker) -> None:
    topic, name = new_topic(broker.address), new_id()
    with ottla.Producer(broker.address, transactional_id=name) as first:
        open_transaction = first.transaction()
        open_transaction.__enter__()
        open_transaction.send(topic, b"of the first").result(30)
        with ottla.Producer(broker.address, transactional_id=name) as second:
            with second.transaction() as transaction:
                transaction.send(topic, b"of the second")
            with pytest.raises(ottla.ProducerFencedError, match="Another producer with") as caught:
                open_transaction.__exit__(None, None, None)
            assert "transactional id of its own" in caught.value.hint
            with pytest.raises(ottla.KafkaError):
                first.send(topic, b"x")
            with pytest.raises(ottla.KafkaError), first.transaction():
                pass
    assert values(broker.address, topic) == [b"of the second"]


def test_a_group_that_does_not_know_the_member_aborts_the_transaction(broker: RunningBroker) -> None:
    """KIP-447: a member of an older generation cannot commit its offsets."""
    topic = new_topic(broker.address)
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": topic, "session.timeout.ms": 30_000})
    consumer.subscribe([topic])
    try:
        while not consumer.assignment():
            consumer.poll(0.2)
        with ottla.Producer(broker.address, transactional_id=new_id()) as producer:
            with pytest.raises(ottla.KafkaError) as caught, producer.transaction() as transaction:
                transaction.send_offsets(
                    {ottla.TopicPartition(topic, 0): 5}, ottla.GroupMetadata(topic, 1, "a stranger")
                )
            assert caught.value.code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.ILLEGAL_GENERATION)
            with producer.transaction() as transaction:
                transaction.send(topic, b"the next one works")
        assert committed_offset(broker.address, topic, topic) < 0
    finally:
        consumer.close()


def test_closing_aborts_what_is_open(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, transactional_id=new_id()) as producer:
        transaction = producer.transaction()
        transaction.__enter__()
        transaction.send(topic, b"x").result(30)
    assert values(broker.address, topic) == []
    assert values(broker.address, topic, committed=False) == [b"x"]


def test_misuse_says_what_is_wrong(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with (
        ottla.Producer(broker.address) as plain,
        pytest.raises(ottla.TransactionStateError, match="no transactional_id"),
    ):
        plain.transaction()
    with ottla.Producer(broker.address, transactional_id=new_id(), max_block_ms=5_000) as producer:
        producer.partitions_for(topic)
        with pytest.raises(ottla.TransactionStateError, match="cannot send now: it is ready"):
            producer.send(topic, b"outside")
        with producer.transaction():
            with (
                pytest.raises(ottla.TransactionStateError, match="cannot begin a transaction now"),
                producer.transaction(),
            ):
                pass
            producer.send(topic, b"inside")
    assert values(broker.address, topic) == [b"inside"]


async def test_asynchronous_transactions(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, max_message_bytes="2000")
    async with ottla.aio.Producer(broker.address, transactional_id=new_id()) as producer:
        async with producer.transaction() as transaction:
            delivery = await transaction.send(topic, b"1")
            await transaction.send_many(topic, [b"2", b"3"])
            await transaction.send_offsets(
                {ottla.TopicPartition(topic, 0): ottla.OffsetAndMetadata(3, metadata="m")}, topic
            )
        assert (await delivery).offset == 0
        async with producer.transaction() as transaction:
            await transaction.send(topic, b"aborted")
            raise ottla.Abort
        with pytest.raises(ZeroDivisionError):
            async with producer.transaction() as transaction:
                await transaction.send(topic, b"aborted, too")
                raise ZeroDivisionError
        with pytest.raises(ottla.TransactionAbortedError):
            async with producer.transaction() as transaction:
                await transaction.send(topic, b"x" * 5_000)
                await transaction.send(topic, b"aborted, too")
    assert values(broker.address, topic) == [b"1", b"2", b"3"]
    assert committed_offset(broker.address, topic, topic) == 3
