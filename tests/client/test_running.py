"""`run(handle, workers=, order=, retry=)`: order, retries that hold up only their key, dead letters, rebalances, the end."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Any

import pytest
from tests.client.others import new_topic, read_all
from tests.client.test_groups import WAIT_S, committed, fill, member, new_group, poll_until
from tests.support.broker_process import RunningBroker

import ottla
from ottla.client.consumed import Record, Source
from ottla.client.lanes import Lanes
from ottla.types import TopicPartition


def records(keys: str, *, partition: int = 0) -> list[Record[bytes | None, bytes | None]]:
    source: Source[Any, Any] = Source("t", partition, 0, None, None)
    return [Record(source, (n, -1, key.encode() if key != "-" else None, b"", ())) for n, key in enumerate(keys)]


@pytest.mark.parametrize(("order", "expected"), [("partition", [0]), ("key", [0, 1, 3, 4]), ("none", [0, 1, 2, 3, 4])])
def test_what_may_be_worked_on_at_once(order: Any, expected: list[int]) -> None:
    lanes: Lanes[Any, Any] = Lanes(order)
    lanes.add(records("aba--"))
    found = []
    while (job := lanes.take(0)) is not None:
        found.append(job.record.offset)
    assert found == expected


def test_a_record_that_failed_holds_up_only_its_lane() -> None:
    lanes: Lanes[Any, Any] = Lanes("key")
    lanes.add(records("aab"))
    first = lanes.take(0)
    assert first is not None
    lanes.on_failed(first, 10)
    assert lanes.due_s == 10
    other = lanes.take(0)
    assert other is not None
    assert other.record.offset == 2
    lanes.on_done(other)
    assert lanes.take(9) is None
    assert lanes.take(10) is first
    lanes.on_done(first)
    assert lanes.outstanding == 1
    second = lanes.take(10)
    assert second is not None
    assert second.record.offset == 1
    lanes.drop(lambda where: where == ("t", 0))
    lanes.on_done(second)
    assert (lanes.outstanding, lanes.working, lanes.take(99)) == (0, {}, None)


def test_keys_keep_their_order_and_everything_is_committed(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 3), new_group()
    fill(broker.address, topic, 1_000)
    seen: dict[bytes | None, list[int]] = defaultdict(list)
    threads: set[str] = set()
    count = 0
    lock = threading.Lock()
    with member(broker, group, topic) as consumer:

        def handle(record: ottla.Record) -> None:
            nonlocal count
            with lock:
                seen[record.key].append(int(record.value or b""))
                threads.add(threading.current_thread().name)
                count += 1
                if count == 1_000:
                    consumer.stop()

        consumer.run(handle, workers=4, order="key")
        assert len(threads) > 1
        assert seen == {b"%d" % key: list(range(key, 1_000, 10)) for key in range(10)}
    with member(broker, group, topic) as consumer:
        assert list(consumer.records()) == []


def test_retries_wait_alone_and_dead_letters_go_away(broker: RunningBroker) -> None:
    topic, dead, group = new_topic(broker.address), new_topic(broker.address), new_group()
    fill(broker.address, topic, 30)
    tries: dict[int, int] = defaultdict(int)
    order: list[int] = []
    with member(broker, group, topic) as consumer:

        def handle(record: ottla.Record) -> None:
            tries[record.offset] += 1
            if record.key == b"3" and (record.offset == 13 or tries[record.offset] < 2):
                raise ValueError("no")
            order.append(record.offset)
            if len(order) == 29:
                consumer.stop()

        consumer.run(handle, workers=2, order="key", retry=ottla.Retry(delays=[0.3, 0.3], dead_letter=dead))
    assert [offset for offset in order if offset % 10 == 3] == [3, 23]
    assert order.index(3) > order.index(9)
    assert (tries[3], tries[13], tries[23], tries[0]) == (2, 3, 2, 1)
    assert committed(broker, group, topic) == 30
    (letter,) = read_all(broker.address, dead)
    assert (letter.key, letter.value) == (b"3", b"13")
    headers = dict(letter.headers)
    assert headers["dead-letter.topic"] == topic.encode()
    assert (headers["dead-letter.offset"], headers["dead-letter.attempts"]) == (b"13", b"3")
    assert headers["dead-letter.error"] == b"ValueError: no"


def test_what_cannot_be_deserialized_goes_to_the_dead_letters_at_once(broker: RunningBroker) -> None:
    topic, dead, group = new_topic(broker.address), new_topic(broker.address), new_group()
    with ottla.Producer(broker.address) as producer:
        producer.send_many(topic, [b"1", b"one", b"2"])
    handled: list[int] = []
    numbers = ottla.serde.json()
    with member(broker, group, topic, value_deserializer=numbers) as consumer:

        def handle(record: ottla.Record[Any, Any]) -> None:
            handled.append(record.value)
            if len(handled) == 2:
                consumer.stop()

        consumer.run(handle, order="partition", retry=ottla.Retry(delays=["1h"], dead_letter=dead))
    assert handled == [1, 2]
    (letter,) = read_all(broker.address, dead)
    assert (letter.value, dict(letter.headers)["dead-letter.attempts"]) == (b"one", b"1")


def test_without_retries_the_first_failure_is_raised_and_comes_again(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address), new_group()
    fill(broker.address, topic, 20)
    with member(broker, group, topic) as consumer:

        def handle(record: ottla.Record) -> None:
            if record.offset == 7:
                raise ValueError("no")

        with pytest.raises(ValueError, match="no") as caught:
            consumer.run(handle, workers=3, order="partition")
        assert f"{topic}-0@7" in caught.value.__notes__[0]
        assert next(consumer).offset == 7
        consumer.rewind()
    assert committed(broker, group, topic) == 7
    with member(broker, group, topic, commit="manual") as consumer, pytest.raises(ottla.ConfigurationError):
        consumer.run(handle)
    with member(broker, group, topic) as consumer, pytest.raises(ottla.ConfigurationError, match="order='keys'"):
        consumer.run(handle, order="keys")  # type: ignore[arg-type]


def test_partitions_that_are_given_up_are_waited_for(broker: RunningBroker) -> None:
    """1. both partitions' records are being handled; 2. another member comes; 3. nothing is handled twice."""
    topic, group = new_topic(broker.address, 2), new_group()
    with ottla.Producer(broker.address) as producer:
        for partition in range(2):
            producer.send(topic, b"x", partition=partition)
    handled: list[TopicPartition] = []
    both, go_on = threading.Semaphore(0), threading.Event()
    consumer = member(broker, group, topic)

    def handle(record: ottla.Record) -> None:
        both.release()
        assert go_on.wait(WAIT_S)
        handled.append(record.topic_partition)

    def work() -> None:
        with consumer:
            consumer.run(handle, workers=2)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert both.acquire(timeout=WAIT_S)
        assert both.acquire(timeout=WAIT_S)
        with member(broker, group, topic) as second:
            timer = threading.Timer(1.0, go_on.set)
            timer.start()
            found = poll_until(second, lambda: len(second.assignment) == 1)
            assert go_on.is_set()
            assert not found
            assert second.poll(timeout=0.5) == []
    finally:
        go_on.set()
        consumer.stop()
        thread.join(WAIT_S)
    assert sorted(handled) == [TopicPartition(topic, 0), TopicPartition(topic, 1)]


async def test_tasks_instead_of_threads(broker: RunningBroker) -> None:
    topic, dead, group = new_topic(broker.address, 2), new_topic(broker.address), new_group()
    fill(broker.address, topic, 200)
    seen: dict[bytes | None, list[int]] = defaultdict(list)
    at_once = most = 0
    async with ottla.aio.Consumer(
        broker.address, group_id=group, topics=[topic], auto_offset_reset="earliest"
    ) as consumer:

        async def handle(record: ottla.Record) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1
            if record.value == b"77":
                raise ValueError("no")
            seen[record.key].append(int(record.value or b""))
            if sum(map(len, seen.values())) == 199:
                consumer.stop()

        await consumer.run(handle, workers=5, retry=ottla.Retry(dead_letter=dead))
        assert most == 5
        for key, numbers in seen.items():
            assert numbers == [n for n in range(int(key or b""), 200, 10) if n != 77]
    assert [letter.value for letter in read_all(broker.address, dead)] == [b"77"]
    with member(broker, group, topic) as after:
        assert list(after.records()) == []
