"""From topic to topic: transactions that take a consumer's offsets along, and commits that wait for deliveries."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from tests.client.others import new_topic, read_all
from tests.client.test_groups import committed, fill, member, new_group, poll_until
from tests.support.broker_process import RunningBroker

import ottla
from ottla.client._core.classic_group import ClassicMembership
from ottla.client._core.transactions import GroupMetadata
from ottla.types import TopicPartition


def copier(broker: RunningBroker) -> ottla.Producer:
    return ottla.Producer(broker.address, transactional_id=uuid.uuid4().hex, linger_ms=0)


def copied(broker: RunningBroker, topic: str) -> list[int]:
    return sorted(int(record.value or b"") for record in read_all(broker.address, topic))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_offsets_go_with_the_transaction(broker: RunningBroker, protocol: str) -> None:
    source, target, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, source, 100)
    with (
        copier(broker) as producer,
        member(broker, group, source, commit="transaction", group_protocol=protocol) as consumer,
    ):
        for batch in consumer.batches(max_records=30, max_wait=0.05):
            with producer.transaction(consumer) as transaction:
                for record in batch:
                    transaction.send(target, record.value)
            if batch[-1].offset == 99:
                break
        assert copied(broker, target) == list(range(100))
        assert committed(broker, group, source) == 100
        with pytest.raises(ottla.ConfigurationError, match=r"producer\.transaction\(consumer\)"):
            consumer.commit()


def test_what_was_aborted_comes_again(broker: RunningBroker) -> None:
    """1. the block raises; 2. it leaves quietly; 3. it commits; then the next records come."""
    source, target, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, source, 10)
    with copier(broker) as producer, member(broker, group, source, commit="transaction") as consumer:
        batches = consumer.batches(max_records=4, max_wait=5)
        batch = next(batches)
        with pytest.raises(TypeError), producer.transaction(consumer) as transaction:
            transaction.send_many(target, [*(record.value for record in batch), 5])  # type: ignore[list-item]
        batch = next(batches)
        assert [record.offset for record in batch] == [0, 1, 2, 3]
        with producer.transaction(consumer) as transaction:
            transaction.send_many(target, [record.value for record in batch])
            raise ottla.Abort
        for expected in ([0, 1, 2, 3], [4, 5, 6, 7]):
            batch = next(batches)
            assert [record.offset for record in batch] == expected
            with producer.transaction(consumer) as transaction:
                transaction.send_many(target, [record.value for record in batch])
        with producer.transaction(consumer):
            assert next(consumer).offset == 8
        next(consumer)
    assert copied(broker, target) == list(range(8))
    assert committed(broker, group, source) == 9


def test_a_rebalance_at_the_commit_aborts_and_the_batch_comes_again(broker: RunningBroker, caplog: Any) -> None:
    source, target, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, source, 10)
    with copier(broker) as producer, member(broker, group, source, commit="transaction") as consumer:
        batches = consumer.batches(max_records=4, max_wait=5)
        for times in range(3):
            batch = next(batches)
            assert [record.offset for record in batch] == [0, 1, 2, 3]
            with producer.transaction(consumer) as transaction:
                transaction.send_many(target, [record.value for record in batch])
                if times < 2:
                    right = forget_the_member(consumer)
            give_back(consumer, right)
        batch = next(batches)
        assert [record.offset for record in batch] == [4, 5, 6, 7]
    assert copied(broker, target) == [0, 1, 2, 3]
    assert len([each for each in caplog.records if "its records come again" in each.getMessage()]) == 2


def forget_the_member(consumer: ottla.Consumer) -> GroupMetadata:
    """Have the group refuse what the member commits; return who it really is."""
    membership = membership_of(consumer)
    identity = membership._identity
    membership._identity = identity._replace(generation_id=identity.generation_id + 7)
    return identity


def give_back(consumer: ottla.Consumer, identity: GroupMetadata) -> None:
    membership_of(consumer)._identity = identity


def membership_of(consumer: ottla.Consumer) -> ClassicMembership:
    client = consumer._machine.group
    assert client is not None
    assert isinstance(client.membership, ClassicMembership)
    return client.membership


def test_the_fifth_failure_in_a_row_is_raised(broker: RunningBroker, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    source, group = new_topic(broker.address), new_group()
    fill(broker.address, source, 10)
    with copier(broker) as producer, member(broker, group, source, commit="transaction") as consumer:
        for _ in range(4):
            next(consumer)
            with producer.transaction(consumer):
                forget_the_member(consumer)
        next(consumer)
        with pytest.raises(ottla.TransactionAbortedError), producer.transaction(consumer):
            forget_the_member(consumer)
        with (
            pytest.raises(ottla.ConfigurationError, match="commit='transaction'"),
            member(broker, group, source) as plain,
        ):
            producer.transaction(plain)


def test_a_fenced_producer_is_final(broker: RunningBroker) -> None:
    source, target, group, name = new_topic(broker.address), new_topic(broker.address), new_group(), uuid.uuid4().hex
    fill(broker.address, source, 5)
    with (
        ottla.Producer(broker.address, transactional_id=name) as producer,
        member(broker, group, source, commit="transaction") as consumer,
    ):
        next(consumer)
        transaction = producer.transaction(consumer)
        transaction.__enter__()
        transaction.send(target, b"of the first").result(30)
        with ottla.Producer(broker.address, transactional_id=name), pytest.raises(ottla.ProducerFencedError):
            transaction.__exit__(None, None, None)
        assert next(consumer).offset == 0
    assert committed(broker, group, source) == -1
    assert copied(broker, target) == []


async def test_asynchronous_copying(broker: RunningBroker) -> None:
    source, target, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, source, 50)
    async with (
        ottla.aio.Producer(broker.address, transactional_id=uuid.uuid4().hex, linger_ms=0) as producer,
        ottla.aio.Consumer(
            broker.address, group_id=group, topics=[source], commit="transaction", auto_offset_reset="earliest"
        ) as consumer,
    ):
        aborted = 0
        async for batch in consumer.batches(max_records=10):
            async with producer.transaction(consumer) as transaction:
                await transaction.send_many(target, [record.value for record in batch])
                if aborted < 2:
                    aborted += 1
                    raise ottla.Abort
            if batch[-1].offset == 49:
                break
    assert copied(broker, target) == list(range(50))
    assert committed(broker, group, source) == 50


def test_commits_wait_for_what_was_sent(broker: RunningBroker) -> None:
    """1. nothing is acknowledged, and nothing is committed; 2. it is acknowledged, and committed without another call."""
    source, target, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, source, 10)
    with ottla.Producer(broker.address) as producer:
        producer.partitions_for(target)
        poll = producer._machine.poll
        held = True
        producer._machine.poll = lambda now_ms: ([], now_ms + 20) if held else poll(now_ms)  # type: ignore[method-assign]
        with member(broker, group, source, commit_after=producer, auto_commit_interval_ms=20) as consumer:
            for record in consumer:
                if record.offset == 4:
                    break
                producer.send(target, record.value)
            assert committed(broker, group, source) in (-1, 0)
            held = False
            poll_until_committed(broker, group, source, 4)
    assert committed(broker, group, source) == 5


def poll_until_committed(broker: RunningBroker, group: str, topic: str, expected: int) -> None:
    import time

    deadline = time.monotonic() + 60
    while committed(broker, group, topic) != expected:
        assert time.monotonic() < deadline


def test_a_failed_delivery_stops_commits_and_is_raised_by_the_next_step(broker: RunningBroker) -> None:
    source, group = new_topic(broker.address), new_group()
    target = new_topic(broker.address, max_message_bytes="2000")
    fill(broker.address, source, 10)
    producer = ottla.Producer(broker.address, linger_ms=0)

    def work() -> None:
        with producer, member(broker, group, source, commit_after=producer, auto_commit_interval_ms=20) as consumer:
            assert next(consumer).offset == 0
            producer.send(target, b"fine").result(30)
            assert next(consumer).offset == 1
            producer.send(target, b"x" * 5_000).exception(30)
            with pytest.raises(ottla.DeliveryErrors, match="1 record was not delivered"):
                poll_until(consumer, lambda: False)
            consumer.rewind()
            assert next(consumer).offset <= 1
            dropped = producer.send(target, b"x" * 5_000)
            while not dropped.done():
                pass
            del dropped
            next(consumer)

    with pytest.raises(ottla.DeliveryErrors) as caught:
        work()
    assert caught.value.count == 1
    assert committed(broker, group, source) <= 1
    with pytest.raises(ottla.ConfigurationError, match="commit_after= goes with"):
        member(broker, group, source, commit="manual", commit_after=producer)


def test_offsets_by_hand_with_the_members_identity(broker: RunningBroker) -> None:
    """For programs that begin and commit at a time of their own: a stream processor, a connector."""
    source, group = new_topic(broker.address), new_group()
    fill(broker.address, source, 5)
    with copier(broker) as producer, member(broker, group, source, commit="manual") as consumer:
        next(consumer)
        with producer.transaction() as transaction:
            offsets = {TopicPartition(source, 0): ottla.OffsetAndMetadata(1, metadata="state")}
            transaction.send_offsets(offsets, consumer.group_metadata)
        found = consumer.committed()[TopicPartition(source, 0)]
        assert found is not None
        assert found.metadata == "state"
