"""The blocking producer against a real broker, read by librdkafka and kafka-python."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Message
from tests.client.others import new_topic, read_all
from tests.support.broker_process import RunningBroker

import ottla
from ottla.client.deliveries import Failures
from ottla.errors import ErrorCode, MessageTooLargeError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def small(broker: RunningBroker) -> str:
    """A topic whose broker refuses records of more than 2,000 bytes."""
    return new_topic(broker.address, max_message_bytes="2000")


TOO_LARGE = b"x" * 5_000


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_librdkafka_and_kafka_python_read_what_was_sent(broker: RunningBroker, compression: str) -> None:
    topic = new_topic(broker.address)
    headers = [("h", b"1"), ("h", None), ("é", b"")]
    rows: list[tuple[bytes | None, bytes | None]] = [
        (b"k", b"v"),
        (None, b"v"),
        (b"k", None),
        (b"", b""),
        (b"big", b"x" * 9_000),
    ]
    with ottla.Producer(broker.address, compression_type=compression) as producer:
        deliveries = [
            producer.send(topic, value, key=key, headers=headers, timestamp=1_700_000_000_000 + number)
            for number, (key, value) in enumerate(rows)
        ]
        metadata = [delivery.result(30) for delivery in deliveries]
    assert [(found.topic, found.partition, found.offset) for found in metadata] == [(topic, 0, n) for n in range(5)]
    assert [found.timestamp_ms for found in metadata] == [1_700_000_000_000 + n for n in range(5)]
    seen = read_all(broker.address, topic)
    assert [(record.key, record.value) for record in seen] == rows
    assert all(record.headers == tuple(headers) for record in seen)
    assert [record.timestamp for record in seen] == [1_700_000_000_000 + n for n in range(5)]
    if compression in ("none", "gzip"):  # it brings no other codec
        reader = KafkaConsumer(
            bootstrap_servers=broker.address, auto_offset_reset="earliest", consumer_timeout_ms=20_000
        )
        reader.assign([TopicPartition(topic, 0)])
        theirs = [next(reader) for _ in rows]
        assert [(record.key, record.value) for record in theirs] == rows
        assert [record.headers for record in theirs] == [headers] * len(rows)
        reader.close()


def test_a_key_goes_to_the_partition_java_chooses_and_order_is_kept(broker: RunningBroker) -> None:
    from ottla.client._core.partitioner import java_partition

    topic = new_topic(broker.address, 5)
    with ottla.Producer(broker.address, linger_ms=0, batch_size=200) as producer:
        for number in range(2_000):
            producer.send(topic, b"%d" % number, key=b"%d" % (number % 50))
    seen = read_all(broker.address, topic)
    assert len(seen) == 2_000
    for record in seen:
        assert record.key is not None
        assert record.partition == java_partition(record.key, 5)
    by_key: dict[bytes, list[int]] = {}
    for record in seen:
        by_key.setdefault(record.key or b"", []).append(int(record.value or b""))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


@pytest.mark.parametrize("columns", [False, True])
def test_partitioners_that_do_not_look_at_keys(broker: RunningBroker, columns: bool) -> None:
    """Round-robin, random and a function, record by record and as a table."""
    import polars

    kinds: dict[str, Any] = {
        "round_robin": "round_robin",
        "random": "random",
        "function": lambda topic, key, count: int(key) % count,
    }
    for name, kind in kinds.items():
        topic = new_topic(broker.address, 4)
        keys = [b"%d" % number for number in range(100)]
        with ottla.Producer(broker.address, partitioner=kind) as producer:
            if columns:
                producer.send_table(topic, polars.DataFrame({"key": keys, "value": keys}), key="key")
            else:
                for key in keys:
                    producer.send(topic, key, key=key)
        seen = read_all(broker.address, topic)
        assert sorted(int(record.key or b"") for record in seen) == list(range(100))
        counts = Counter(record.partition for record in seen)
        if name == "random":
            assert counts.keys() == {0, 1, 2, 3}
        else:
            assert set(counts.values()) == {25}
        if name == "function":
            assert all(int(record.key or b"") % 4 == record.partition for record in seen)


def test_consistent_random_sends_keys_where_librdkafka_does(broker: RunningBroker) -> None:
    from confluent_kafka import Producer as TheirProducer

    topic = new_topic(broker.address, 7)
    keys = [b"key-%d" % number for number in range(500)]
    theirs: dict[bytes | None, int | None] = {}

    def note(error: object, message: Message) -> None:
        theirs[message.key()] = message.partition()

    producer = TheirProducer({"bootstrap.servers": broker.address, "partitioner": "consistent_random"})
    for key in keys:
        producer.produce(topic, b"", key=key, callback=note)
    assert producer.flush(30) == 0
    with ottla.Producer(broker.address, partitioner="consistent_random") as ours:
        deliveries = {key: ours.send(topic, b"", key=key) for key in keys}
        assert {key: delivery.result(30).partition for key, delivery in deliveries.items()} == theirs


def test_without_a_key_all_partitions_are_used(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, 4)
    with ottla.Producer(broker.address, batch_size=500) as producer:
        assert producer.send_many(topic, (b"x" * 100 for _ in range(2_000))) == 2_000
    counts = [0] * 4
    for record in read_all(broker.address, topic):
        counts[record.partition] += 1
    assert sum(counts) == 2_000
    assert min(counts) > 100


def test_text_goes_as_utf8_and_objects_through_a_serializer(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address) as producer:
        producer.send(topic, "grün", key="schlüssel")
        producer.send(topic, bytearray(b"bytes"), key=memoryview(b"view"))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="is bytes, text or None, not int"):
            producer.send(topic, 5)  # type: ignore[arg-type]
        with pytest.raises(ottla.SerializationError, match="no valid text"):
            producer.send(topic, "\udc80")
    with ottla.Producer(broker.address, value_serializer=ottla.serde.json(), key_serializer=ottla.serde.int32) as typed:
        typed.send(topic, {"a": [1, None]}, key=7)
        with pytest.raises(ottla.SerializationError, match="cannot be serialized"):
            typed.send(topic, {"a": object()})
    seen = read_all(broker.address, topic)
    assert [(record.key, record.value) for record in seen] == [
        ("schlüssel".encode(), "grün".encode()),
        (b"view", b"bytes"),
        (b"\0\0\0\7", b'{"a":[1,null]}'),
    ]


def test_send_and_wait_does_not_linger(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, linger_ms="1h", delivery_timeout_ms="2h") as producer:
        began = time.monotonic()
        assert producer.send_and_wait(topic, b"x", timeout=30).offset == 0
        assert producer.send_and_wait(topic, b"y", key=b"k", timeout="30s").offset == 1
        assert time.monotonic() - began < 60
        lingering = producer.send(topic, b"z")
        with pytest.raises(TimeoutError, match=r"no acknowledgement from .* within 0.01 s"):
            lingering.result(0.01)
        assert not lingering.done()
        producer.flush(30)
        assert lingering.done()
        assert lingering.result(0).offset == 2


def test_timestamps_and_headers(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    before = int(time.time() * 1000)
    with ottla.Producer(broker.address) as producer:
        when = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
        assert producer.send(topic, b"", timestamp=when, headers={"a": "text", "b": None}).result(
            30
        ).timestamp_ms == int(when.timestamp() * 1000)
        assert before <= producer.send(topic, b"").result(30).timestamp_ms <= int(time.time() * 1000)
        for bad in (-1, 1 << 63, datetime(2026, 1, 1)):
            with pytest.raises(ValueError, match="timestamp"):
                producer.send(topic, b"", timestamp=bad)
        with pytest.raises(TypeError, match="header"):
            producer.send(topic, b"", headers={"a": 1})  # type: ignore[arg-type]
    assert read_all(broker.address, topic)[0].headers == (("a", b"text"), ("b", None))


def test_where_the_topic_says_log_append_time_the_brokers_time_is_told(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000) - 1_000
    with ottla.Producer(broker.address) as producer:
        assert producer.send(topic, b"", timestamp=1).result(30).timestamp_ms >= before


@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_acks(broker: RunningBroker, acks: int | str) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, acks=acks) as producer:
        metadata = [producer.send(topic, b"%d" % n).result(30) for n in range(3)]
    assert [found.offset for found in metadata] == ([-1] * 3 if acks == 0 else [0, 1, 2])
    deadline = time.monotonic() + 30
    while len(read_all(broker.address, topic)) < 3:
        assert time.monotonic() < deadline


# -- where an error appears


def test_what_is_wrong_at_once_is_raised_by_send(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, max_block_ms=300, max_request_size=10_000) as producer:
        with pytest.raises(ottla.RecordTooLargeError, match=r"takes 20\d\d\d bytes, more than max.request.size"):
            producer.send(topic, b"x" * 20_000)
        with pytest.raises(ottla.KafkaError, match="no name for a topic") as invalid:
            producer.send("no spaces", b"x")
        assert invalid.value.code == ErrorCode.INVALID_TOPIC_EXCEPTION
        with pytest.raises(
            ottla.BlockedTooLongError, match=r"has 1 partitions, not a partition 7; waited max.block.ms \(0.3 s\)"
        ):
            producer.send(topic, b"x", partition=7)
        with pytest.raises(ValueError, match="a partition is a number from 0"):
            producer.send(topic, b"x", partition=-1)
        with pytest.raises(TypeError, match="a topic is a name"):
            producer.send(b"bytes", b"x")  # type: ignore[arg-type]


def test_a_kept_delivery_tells_its_keeper_and_nobody_else(small: str, broker: RunningBroker) -> None:
    with ottla.Producer(broker.address) as producer:
        kept = producer.send(small, TOO_LARGE, key=b"k", headers={"h": b"1"})
        producer.flush()
        with pytest.raises(ottla.DeliveryError, match=r"was not delivered") as caught:
            kept.result(30)
        error = caught.value
        assert (error.topic, error.partition, error.key, error.value) == (small, 0, b"k", TOO_LARGE)
        assert error.headers == (("h", b"1"),)
        assert isinstance(error.cause, MessageTooLargeError)
        assert error.code == ErrorCode.MESSAGE_TOO_LARGE
        assert not error.retriable
        assert not isinstance(error, TimeoutError)
        assert isinstance(kept.exception(), ottla.DeliveryError)


def test_failures_of_dropped_deliveries_are_raised_by_flush_once(small: str, broker: RunningBroker) -> None:
    with ottla.Producer(broker.address) as producer:
        for _ in range(3):
            producer.send(small, TOO_LARGE)
        fine = producer.send(small, b"fine")
        with pytest.raises(ottla.DeliveryErrors, match=r"3 records were not delivered; the first: ") as caught:
            producer.flush()
        assert caught.value.count == 3
        assert len(caught.value.exceptions) == 3
        assert isinstance(caught.value, ottla.KafkaError)
        assert fine.result(30).offset == 0
        producer.flush()


def test_close_raises_every_failure_that_was_not_looked_at(small: str, broker: RunningBroker) -> None:
    producer = ottla.Producer(broker.address)
    kept, looked_at, timed_out = (producer.send(small, TOO_LARGE) for _ in range(3))
    producer.send_many(small, [TOO_LARGE] * 150)
    try:
        timed_out.result(0)
    except (TimeoutError, ottla.DeliveryError) as error:
        looked = isinstance(error, ottla.DeliveryError)
    assert looked_at.exception(30) is not None
    with pytest.raises(ottla.DeliveryErrors) as caught:
        producer.close()
    assert caught.value.count == 152 - looked
    assert len(caught.value.exceptions) == 100
    assert kept.done()
    with pytest.raises(ottla.ClosedError):
        producer.send(small, b"x")
    with pytest.raises(ottla.ClosedError):
        producer.flush()
    producer.close()


def test_the_callback_is_called_at_once_and_the_log_has_one_line(
    small: str, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[ottla.DeliveryError] = []
    with ottla.Producer(broker.address, on_delivery_error=told.append) as producer:
        producer.send(small, TOO_LARGE)
        with pytest.raises(ottla.DeliveryErrors):
            producer.flush()
        assert [error.topic for error in told] == [small]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    with ottla.Producer(broker.address) as producer:
        for _ in range(5):
            producer.send(small, TOO_LARGE).exception(30)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"1 record for topic {small} was not delivered") or small in lines[0]


def test_failures_that_nobody_asks_for_do_not_fill_memory(
    monkeypatch: pytest.MonkeyPatch, small: str, broker: RunningBroker
) -> None:
    monkeypatch.setattr("ottla.client.deliveries.FAILED_BYTES_MAX", 20_000)
    producer = ottla.Producer(broker.address)
    for _ in range(50):
        producer.send(small, TOO_LARGE)
    with pytest.raises(ottla.DeliveryErrors) as caught:
        producer.close()
    assert caught.value.count == 50
    assert len(caught.value.exceptions) < 10
    assert isinstance(producer._failures, Failures)


def test_nothing_is_raised_on_top_of_another_exception(
    small: str, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError) as caught, ottla.Producer(broker.address) as producer:  # noqa: PT012
        producer.send(small, TOO_LARGE)
        raise ZeroDivisionError
    assert "1 record was not delivered" in caught.value.__notes__[0]
    assert "while the producer was closed because of ZeroDivisionError" in caplog.text


def test_a_done_callback_may_look_but_not_wait(
    small: str, broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Any] = []
    came = threading.Event()

    def look(delivery: ottla.Delivery) -> None:
        outcomes.append(delivery.exception(0))
        try:
            producer.flush()
        except RuntimeError as error:
            outcomes.append(error)
        came.set()

    with ottla.Producer(broker.address) as producer:
        producer.send(small, TOO_LARGE).add_done_callback(look)
        assert came.wait(30)
        assert isinstance(outcomes[0], ottla.DeliveryError)
        assert "a callback of the client's" in str(outcomes[1])
        done = producer.send(small, b"fine")
        done.result(30)
        done.add_done_callback(lambda delivery: outcomes.append(delivery.result().offset))
        assert outcomes[-1] == 0
        producer.send(small, b"x").add_done_callback(lambda delivery: 1 / 0)
        producer.flush(30)
    assert "ZeroDivisionError" in caplog.text


# -- back pressure, threads


def test_send_waits_for_room(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, buffer_memory=5_000, linger_ms=0) as producer:
        for number in range(2_000):
            producer.send(topic, b"%06d" % number + b"x" * 94)
            assert producer._machine.accumulator.used <= 5_000
    assert [int((record.value or b"")[:6]) for record in read_all(broker.address, topic)] == list(range(2_000))


def test_without_room_for_max_block_ms_send_gives_up() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        producer = ottla.Producer(f"127.0.0.1:{deaf.getsockname()[1]}", connect="lazy", max_block_ms=200)
        began = time.monotonic()
        with pytest.raises(ottla.BlockedTooLongError, match=r"no metadata of topic 't' within max.block.ms \(0.2 s\)"):
            producer.send("t", b"x")
        assert time.monotonic() - began < 10
        producer.close(timeout=1)


def test_many_threads_share_a_producer(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, 3)
    with ottla.Producer(broker.address) as producer:

        def work(name: int) -> None:
            for number in range(300):
                producer.send(topic, b"%d-%d" % (name, number), key=b"%d" % name)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    by_key: dict[bytes, list[int]] = {}
    for record in read_all(broker.address, topic):
        by_key.setdefault(record.key or b"", []).append(int((record.value or b"").split(b"-")[1]))
    assert by_key == {b"%d" % name: list(range(300)) for name in range(8)}


# -- connecting


def test_with_raises_what_is_wrong_with_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ottla.BrokerUnreachableError, match=f"Nothing listens on {address}") as caught:
            ottla.Producer(address, connect_timeout=0.3).__enter__()
        assert isinstance(caught.value, ConnectionError)
        assert "ottla serve" in caught.value.hint
        with pytest.raises(ottla.BrokerUnreachableError):
            ottla.Producer(address, connect_timeout=0.3).send("t", b"x")
        lazy = ottla.Producer(
            address, connect="lazy", delivery_timeout_ms=500, request_timeout_ms=100, max_block_ms=300
        )
        with lazy, pytest.raises(ottla.BlockedTooLongError, match="Nothing listens on"):
            lazy.send("t", b"x")


def test_a_broker_that_comes_later_is_found(broker: RunningBroker) -> None:
    with ottla.Producer(f"127.0.0.1:1,{broker.address}") as producer:
        assert producer.send_and_wait(new_topic(broker.address), b"x", timeout=30).offset == 0


def test_partitions_for(broker: RunningBroker) -> None:
    topic = new_topic(broker.address, 6)
    with ottla.Producer(broker.address, max_block_ms=20_000) as producer:
        assert producer.partitions_for(topic) == 6


def test_metrics_have_kafkas_names(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address, client_id='meter"1') as producer:
        producer.send_many(topic, [b"x" * 100] * 1_000)
        producer.flush()
        metrics = producer.metrics()
        assert metrics["record-send-total"] == 1_000
        assert metrics["record-error-total"] == 0
        assert metrics["buffer-available-bytes"] == metrics["buffer-total-bytes"] == 33_554_432
        assert 0 < metrics["request-latency-avg"] <= metrics["request-latency-max"]
        assert metrics.by_topic == {topic: {"record-send-total": 1_000}}
        text = metrics.prometheus()
        assert 'kafka_producer_record_send_total{client_id="meter\\"1"} 1000' in text
        assert f'kafka_producer_topic_record_send_total{{client_id="meter\\"1",topic="{topic}"}} 1000.0' in text


# -- the end of things


def test_a_dropped_producer_warns_and_still_sends_what_it_accepted(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    producer: ottla.Producer | None = ottla.Producer(broker.address, linger_ms=1_000)
    assert producer is not None
    producer.send(topic, b"x").add_done_callback(lambda _: None)
    thread = producer._thread
    assert thread is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        producer = None
        gc.collect()
    assert any("was dropped without being closed" in str(warning.message) for warning in caught)
    thread._thread.join(30)
    assert not thread._thread.is_alive()
    assert len(read_all(broker.address, topic)) == 1


def test_close_gives_up_after_its_timeout_and_says_how_many(broker: RunningBroker) -> None:
    producer = ottla.Producer(broker.address, linger_ms="1h", delivery_timeout_ms="3h")
    delivery = producer.send(new_topic(broker.address), b"x")
    producer._machine.poll = lambda now_ms: ([], float("inf"))  # type: ignore[method-assign]  # nothing goes out any more
    began = time.monotonic()
    with pytest.raises(
        ottla.DeliveryErrors, match=r"1 record was not delivered.*was closed before the record was acknowledged"
    ):
        producer.close(timeout=0.2)
    assert time.monotonic() - began < 15
    delivery.exception(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_fork_every_call_of_the_child_raises(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address) as producer:
        producer.send_and_wait(topic, b"parent", timeout=30)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            lines = []
            for call in (
                lambda: producer.send(topic, b"child"),
                producer.flush,
                producer.close,
                producer.metrics,
                producer.start,
                lambda: producer.partitions_for(topic),
                lambda: producer.send_many(topic, [b"child"]),
                lambda: producer.send_and_wait(topic, b"child"),
            ):
                try:
                    call()
                    lines.append("accepted")
                except BaseException as error:
                    lines.append(type(error).__name__)
            os.write(writing, ",".join(lines).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert pipe.read().split(",") == ["ForkedError"] * 8
        assert os.waitpid(child, 0)[1] == 0
        assert producer.send_and_wait(topic, b"parent again", timeout=30).offset == 1


def chunks() -> Iterator[bytes]:
    yield b"a"
    yield b"b"
    raise ZeroDivisionError


def test_send_many_says_how_many_were_accepted_before_an_error(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with ottla.Producer(broker.address) as producer:
        with pytest.raises(ZeroDivisionError) as caught:
            producer.send_many(topic, chunks(), key=lambda value: value)
        assert caught.value.__notes__ == ["2 records were accepted before."]
    assert [(record.key, record.value) for record in read_all(broker.address, topic)] == [(b"a", b"a"), (b"b", b"b")]
