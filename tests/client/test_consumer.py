"""The blocking consumer, without a group, against a real broker: what others wrote and what we wrote."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer as TheirProducer
from confluent_kafka import TopicPartition as TheirPartition
from confluent_kafka.admin import AdminClient
from tests.client.others import new_topic
from tests.support.broker_process import RunningBroker

import ottla
from ottla.clock import SystemClock
from ottla.errors import ErrorCode, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from ottla.types import TopicPartition


def fill(address: str, topic: str, count: int, *, start: int = 0, **options: str) -> None:
    producer = TheirProducer({"bootstrap.servers": address, "partitioner": "murmur2", **options})
    for number in range(start, start + count):
        producer.produce(topic, b"%d" % number, key=b"%d" % (number % 10))
    assert producer.flush(30) == 0


def reader(broker: RunningBroker, *topics: str, **options: str) -> ottla.Consumer:
    return ottla.Consumer(broker.address, topics=list(topics), config={"auto.offset.reset": "earliest", **options})


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_what_librdkafka_wrote_is_read(broker: RunningBroker, codec: str) -> None:
    topic = new_topic(broker.address)
    headers: list[tuple[str, str | bytes | None]] = [("h", b"1"), ("h", None), ("é", b"")]
    rows = [(b"k", b"v"), (None, b"v"), (b"k", None), (b"", b""), (b"big", b"x" * 9_000)]
    producer = TheirProducer({"bootstrap.servers": broker.address, "compression.type": codec})
    for number, (key, value) in enumerate(rows):
        producer.produce(topic, value, key=key, headers=headers, timestamp=1_700_000_000_000 + number)
    assert producer.flush(30) == 0
    with reader(broker, topic) as consumer:
        found = list(consumer.records(until="end"))
    assert [(record.key, record.value) for record in found] == rows
    assert [record.offset for record in found] == list(range(5))
    assert all((record.topic, record.partition) == (topic, 0) for record in found)
    first = found[0]
    assert first.headers.multi_items() == tuple(headers)
    assert first.headers["h"] is None
    assert first.headers.get_all("h") == [b"1", None]
    assert list(first.headers) == ["h", "é"]
    assert first.timestamp == datetime.fromtimestamp(1_700_000_000, UTC)
    assert first.leader_epoch >= 0


def test_everything_is_read_in_order_and_loops_go_on(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, 3)
    fill(broker.address, topic, 5_000)
    by_key: dict[bytes | None, list[int]] = {}
    with reader(broker, topic, **{"max.partition.fetch.bytes": "5000"}) as consumer:
        for count, record in enumerate(consumer, 1):
            by_key.setdefault(record.key, []).append(int(record.value or b""))
            if count == 1_234:
                break
        for record in consumer.records():
            by_key.setdefault(record.key, []).append(int(record.value or b""))
        assert by_key == {b"%d" % key: list(range(key, 5_000, 10)) for key in range(10)}
        assert consumer.poll(timeout=0) == []
        fill(broker.address, topic, 10, start=5_000)
        more: list[int] = []
        while len(more) < 10:
            more += [int(record.value or b"") for record in consumer.poll(max_records=3, timeout=30)]
        assert sorted(more) == list(range(5_000, 5_010))
        assert len(consumer.assignment) == 3
        assert [consumer.consumer_lag(where) for where in consumer.assignment] == [0, 0, 0]


def test_an_end_is_as_old_as_the_request_that_asked_for_it(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 100)
    clock = SystemClock()
    began_ms = clock.monotonic_ms()
    with reader(broker, topic) as consumer:
        assert len(list(consumer.records(until="end"))) == 100
        asked = [state.end_asked_ms for state in consumer._machine.partitions.values()]
        assert all(began_ms <= asked_ms <= clock.monotonic_ms() for asked_ms in asked)


def test_bounded_reading_stops_at_the_end_of_now(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 100)
    with reader(broker, topic) as consumer:
        bounded = consumer.records(until="end")
        first = next(bounded)
        fill(broker.address, topic, 50, start=100)
        assert [int(record.value or b"") for record in [first, *bounded]] == list(range(100))
        assert [int(record.value or b"") for record in consumer.records()] == list(range(100, 150))
        assert list(consumer.records()) == []
    with ottla.Consumer(broker.address, topics=[topic]) as latest:
        assert list(latest.records()) == []
        assert latest.position(TopicPartition(topic, 0)) == 150
        with pytest.raises(ValueError, match="until takes 'end'"):
            latest.records(until="never")


def test_seek_position_and_offsets(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    where = TopicPartition(topic, 0)
    producer = TheirProducer({"bootstrap.servers": broker.address})
    for number in range(100):
        producer.produce(topic, b"%d" % number, timestamp=1_700_000_000_000 + 1_000 * number)
    assert producer.flush(30) == 0
    with reader(broker, topic) as consumer:
        assert consumer.position(where) == 0
        assert consumer.beginning_offsets() == {where: 0}
        assert consumer.end_offsets() == {where: 100}
        for place, expected in (
            (50, 50),
            (datetime.fromtimestamp(1_700_000_030, UTC), 30),
            ("beginning", 0),
            (99, 99),
            (datetime.fromtimestamp(1_699_999_999, UTC), 0),
        ):
            consumer.seek(where, place)
            record = next(consumer)
            assert record.offset == expected, place
            assert consumer.position(where) == expected + 1
        consumer.seek(where, "end")
        assert consumer.position(where) == 100
        consumer.seek(where, datetime.fromtimestamp(1_800_000_000, UTC))
        assert consumer.position(where) == 100
        times = {where: 1_700_000_050_500}
        assert consumer.offsets_for_times(times) == {where: 51}
        assert consumer.offsets_for_times({where: 1_800_000_000_000}) == {where: None}
        for bad in (-1, "middle"):
            with pytest.raises(ValueError, match=r"(a place|an offset) is"):
                consumer.seek(where, bad)
        with pytest.raises(UnknownTopicOrPartitionError, match="is not assigned"):
            consumer.seek(TopicPartition(topic, 7), 0)


def test_assign_pause_and_resume(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, 2)
    producer = TheirProducer({"bootstrap.servers": broker.address})
    for number in range(200):
        producer.produce(topic, b"%d" % number, partition=number % 2)
    assert producer.flush(30) == 0
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    with ottla.Consumer(broker.address, auto_offset_reset="earliest") as consumer:
        assert consumer.assignment == []
        assert consumer.poll(timeout=0) == []
        consumer.assign([first])
        assert consumer.assignment == [first]
        assert {record.partition for record in consumer.records()} == {0}
        consumer.assign([first, second])
        assert next(consumer).partition == 1
        consumer.pause([second])
        assert consumer.poll(timeout=0.3) == []
        consumer.seek(first, 90)
        assert [record.offset for record in consumer.poll(timeout=30)] == list(range(90, 100))
        consumer.resume()
        rest = list(consumer.records())
        assert [(record.partition, record.offset) for record in rest] == [(1, offset) for offset in range(1, 100)]


def test_only_what_was_committed_is_read(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, transactional_id=uuid.uuid4().hex, linger_ms=0) as producer:
        for number in range(6):
            with producer.transaction() as transaction:
                for index in range(10):
                    transaction.send(topic, b"%d-%d" % (number, index)).result(30)
                if number % 2:
                    raise ottla.Abort
    expected = [b"%d-%d" % (number, index) for number in (0, 2, 4) for index in range(10)]
    with reader(broker, topic, **{"isolation.level": "read_committed"}) as consumer:
        assert [record.value for record in consumer.records()] == expected
        where = TopicPartition(topic, 0)
        assert consumer.position(where) == consumer.end_offsets()[where]
        consumer.seek(where, 12)  # into the middle of an aborted transaction
        assert [record.value for record in consumer.records()] == expected[10:]
    with reader(broker, topic) as consumer:
        assert len(list(consumer.records())) == 60


def test_deserialization_is_lazy_and_its_errors_carry_the_record(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address) as producer:
        for value in (b'{"a":1}', b"{", None):
            producer.send(topic, value, key=b"\0\0\0\5")
    with ottla.Consumer(
        broker.address,
        topics=[topic],
        auto_offset_reset="earliest",
        value_deserializer=ottla.serde.json(),
        key_deserializer=lambda topic, data: int.from_bytes(data, "big"),
    ) as consumer:
        good, bad, tombstone = consumer.records()
        assert good.key == 5
        assert good.value == {"a": 1}
        with pytest.raises(ottla.DeserializationError, match=r"The value of the record at .*-0, offset 1, cannot be"):
            _ = bad.value
        assert bad.value_bytes == b"{"
        assert tombstone.value is None


def test_records_that_are_gone_are_told_or_passed_by_as_configured(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 100)
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_records([TheirPartition(topic, 0, 40)])
    where = TopicPartition(topic, 0)
    deadline = time.monotonic() + 30
    with ottla.Consumer(broker.address, auto_offset_reset="none") as strict:
        strict.assign([where])
        while strict.beginning_offsets()[where] != 40:
            assert time.monotonic() < deadline
        with pytest.raises(OffsetOutOfRangeError, match=r"no position for .*, and auto.offset.reset is 'none'"):
            strict.poll(timeout=30)
        strict.seek(where, 10)
        for _ in range(2):
            with pytest.raises(OffsetOutOfRangeError, match=r"has no offset 10, and auto.offset.reset is 'none'"):
                strict.poll(timeout=30)
        strict.seek(where, 60)
        assert strict.poll(timeout=30)[0].offset == 60
    with reader(broker, topic) as earliest:
        earliest.seek(where, 10)
        assert next(earliest).offset == 40
    with ottla.Consumer(broker.address, topics=[topic], auto_offset_reset="by_duration:P1D") as recent:
        assert next(recent).offset == 40


def test_a_topic_that_comes_later_and_grows_is_read_from_its_beginning(broker: RunningBroker) -> None:
    name = f"later-{uuid.uuid4().hex[:8]}"
    config = {"metadata.max.age.ms": "200", "allow.auto.create.topics": "false", "auto.offset.reset": "earliest"}
    with ottla.Consumer(broker.address, topics=[name], config=config) as consumer:
        assert consumer.poll(timeout=0.2) == []
        fill(broker.address, name, 5)
        assert len([next(consumer) for _ in range(5)]) == 5
        admin = AdminClient({"bootstrap.servers": broker.address})
        from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

        count = len(consumer.assignment)
        admin.create_partitions([NewPartitions(name, count + 1)])[name].result(30)
        producer = TheirProducer({"bootstrap.servers": broker.address, "topic.metadata.refresh.interval.ms": 100})
        while True:
            try:
                producer.produce(name, b"new", partition=count)
                break
            except Exception:
                producer.poll(0.1)
        producer.flush(30)
        record = next(consumer)
        assert (record.partition, record.value) == (count, b"new")


def test_errors_of_topics_are_raised(broker: RunningBroker) -> None:
    with ottla.Consumer(broker.address, topics=["no spaces"]) as consumer:
        with pytest.raises(ottla.KafkaError) as caught:
            consumer.poll(timeout=30)
        assert caught.value.code == ErrorCode.INVALID_TOPIC_EXCEPTION
    with pytest.raises(ottla.ConfigurationError, match=r"Write topics=\['t'\]"):
        ottla.Consumer(broker.address, topics="t")
    with pytest.raises(ottla.ConfigurationError, match="of use with a group only"):
        ottla.Consumer(broker.address, commit="marked")
    with pytest.raises(ottla.ConfigurationError, match=r"Did you mean 'fetch.min.bytes'\?"):
        ottla.Consumer(broker.address, config={"fetch.min.byte": 1})
    with pytest.raises(ottla.ConfigurationError, match="by_duration"):
        ottla.Consumer(broker.address, auto_offset_reset="by_duration:soon")


def test_stop_ends_loops_from_another_thread(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 1)
    with reader(broker, topic) as consumer:
        threading.Timer(0.3, consumer.stop).start()
        assert [record.value for record in consumer] == [b"0"]
        fill(broker.address, topic, 1, start=1)
        assert next(consumer).value == b"1"
    with pytest.raises(ottla.ClosedError):
        next(consumer)
    with pytest.raises(ottla.ClosedError):
        consumer.poll()


STOPPING = """
import signal, sys, ottla
with ottla.Consumer(sys.argv[1], topics=[sys.argv[2]]) as consumer:
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    print("ready", flush=True)
    for record in consumer:
        pass
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_waiting_loop(broker: RunningBroker, number: signal.Signals) -> None:
    topic = new_topic(broker.address)
    program = subprocess.Popen(
        [sys.executable, "-c", STOPPING, broker.address, topic],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(number)
    output, errors = program.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert (output, program.returncode) == ("stopped\n", 0), errors
    else:
        assert "KeyboardInterrupt" in errors


def test_a_dropped_consumer_warns(broker: RunningBroker) -> None:
    consumer: ottla.Consumer | None = ottla.Consumer(broker.address, topics=[new_topic(broker.address)])
    assert consumer is not None
    consumer.start()
    thread = consumer._thread
    assert thread is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        consumer = None
        import gc

        gc.collect()
    assert any("was dropped without being closed" in str(warning.message) for warning in caught)
    thread._thread.join(30)
    assert not thread._thread.is_alive()


async def test_the_asynchronous_face(broker: RunningBroker) -> None:
    import asyncio

    topic = new_topic(broker.address, 2)
    fill(broker.address, topic, 1_000)
    where = TopicPartition(topic, 0)
    async with ottla.aio.Consumer(broker.address, topics=[topic], auto_offset_reset="earliest") as consumer:
        seen = []
        async for record in consumer:
            seen.append(record.value)
            if len(seen) == 300:
                break
        seen += [record.value async for record in consumer.records()]
        assert sorted(int(value or b"") for value in seen) == list(range(1_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(consumer), 0.05)
        assert await consumer.poll(timeout=0) == []
        ends = await consumer.end_offsets()
        assert await consumer.position(where) == ends[where]
        assert await consumer.beginning_offsets([where]) == {where: 0}
        await consumer.seek(where, 5)
        assert (await anext(consumer)).offset == 5
        asyncio.get_running_loop().call_later(0.2, consumer.stop)
        async for record in consumer:
            assert record.partition == 0
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.position(TopicPartition(topic, 9))
    with pytest.raises(ottla.ClosedError):
        await consumer.poll()


def test_records_without_an_end_go_on_until_nothing_comes(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    fill(broker.address, topic, 3)
    with reader(broker, topic) as consumer, pytest.raises(ValueError, match="'end' or None"):
        consumer.records(until="tomorrow")
    with reader(broker, topic) as consumer:
        found = []
        for record in consumer.records(until=None, idle_timeout=2):
            found.append(record.value)
            if record.value == b"2":
                fill(broker.address, topic, 1, start=3)
        assert found == [b"0", b"1", b"2", b"3"]
