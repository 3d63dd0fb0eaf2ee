"""`read` and `follow`, and batches of a consumer, against a broker."""

from __future__ import annotations

import polars
import pytest
from tests.support.broker_process import RunningBroker

import ottla


def produce(broker: RunningBroker, topic: str, count: int, start: int = 0) -> None:
    with ottla.Producer(broker.address) as producer:
        for number in range(start, start + count):
            producer.send(topic, b"%d" % number, key=b"%d" % (number % 10), headers={"n": b"%d" % number})


def test_read_returns_a_topic_from_start_to_end(broker: RunningBroker) -> None:
    with ottla.Admin(broker.address) as admin:
        admin.create_topic("whole", partitions=3)
    produce(broker, "whole", 500)
    batch = ottla.read("whole", broker.address)
    assert sorted(int(value) for value in polars.DataFrame(batch)["value"].to_list()) == list(range(500))
    for partition in range(3):
        offsets = [record.offset for record in batch if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    assert all(record.headers["n"] == record.value for record in batch)


def test_read_of_an_empty_topic_is_an_empty_batch(broker: RunningBroker) -> None:
    with ottla.Admin(broker.address) as admin:
        admin.create_topic("nothing")
    batch = ottla.read("nothing", broker.address)
    assert len(batch) == 0
    assert polars.DataFrame(batch).columns == list(ottla.Batch.columns)


def test_read_of_a_topic_that_is_not_there_ends_and_makes_none(broker: RunningBroker) -> None:
    with pytest.raises(TimeoutError, match="metadata of no-such-topic"):
        ottla.read("no-such-topic", broker.address, default_api_timeout_ms=300)
    with ottla.Admin(broker.address) as admin:
        assert "no-such-topic" not in [topic.name for topic in admin.list_topics()]


def test_read_leaves_out_what_was_aborted(broker: RunningBroker) -> None:
    with ottla.Producer(broker.address, transactional_id="t") as producer:
        for number in range(4):
            try:
                with producer.transaction() as transaction:
                    transaction.send_many("half", [b"%d" % number] * 5)
                    if number % 2:
                        raise ottla.Abort
            except ottla.TransactionAbortedError:
                pass
    batch = ottla.read("half", broker.address, isolation_level="read_committed")
    assert [record.value for record in batch] == [b"0"] * 5 + [b"2"] * 5


async def test_read_async(broker: RunningBroker) -> None:
    produce(broker, "async-whole", 100)
    batch = await ottla.aio.read("async-whole", broker.address)
    assert sorted(int(record.value or b"") for record in batch) == list(range(100))


def test_follow_commits_what_is_finished(broker: RunningBroker) -> None:
    produce(broker, "followed", 30)
    seen: list[bytes | None] = []
    with ottla.follow("followed", broker.address, group_id="f", every="100ms", max_records=10) as batches:
        for batch in batches:
            assert len(batch) <= 10
            seen += [record.value for record in batch]
            if len(seen) == 20:
                batches.stop()

    def fail() -> None:
        with ottla.follow("followed", broker.address, group_id="f", every="100ms") as again:
            for batch in again:
                assert [record.value for record in batch] == [b"%d" % number for number in range(20, 30)]
                raise RuntimeError("the batch at hand is not finished")

    with pytest.raises(RuntimeError, match="not finished"):
        fail()
    with ottla.follow("followed", broker.address, group_id="f", every="100ms") as once_more:
        seen += [record.value for record in next(once_more)]
    assert seen == [b"%d" % number for number in range(30)]


async def test_follow_async(broker: RunningBroker) -> None:
    produce(broker, "async-followed", 10)
    async with ottla.aio.follow("async-followed", broker.address, group_id="af", every="50ms") as batches:
        async for batch in batches:
            assert [record.value for record in batch] == [b"%d" % number for number in range(10)]
            batches.stop()


def test_loops_and_batches_may_take_turns(broker: RunningBroker) -> None:
    produce(broker, "turns", 60)
    seen: list[bytes | None] = []
    with ottla.Consumer(broker.address, topics=["turns"], auto_offset_reset="earliest") as consumer:
        while len(seen) < 60:
            seen.append(next(consumer).value)
            if len(seen) < 60:
                seen += [record.value for record in next(consumer.batches(max_records=7, max_wait=0.01))]
    assert seen == [b"%d" % number for number in range(60)]
