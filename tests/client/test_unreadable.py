"""Records that cannot be deserialized: `on_error=` of a consumer, in loops, `poll()` and `run()`, and `null="error"`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

import pytest

import ottla
import ottla.aio
from ottla import serde
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]

IN = ottla.TopicPartition("in", 0)
#: What is in the topic: two of these are no JSON.
VALUES = [b"0", b"{", b"2", b"}", b"4"]


@dataclass
class Order:
    id: int


def made(broker: Broker, on_error: Any, **options: Any) -> ottla.Consumer[Any, Any]:
    settings = {"group_id": "g", "auto_offset_reset": "earliest", "value_deserializer": serde.json(), **options}
    return ottla.Consumer(broker.bootstrap_servers, topics=["in"], on_error=on_error, **settings)


def committed(broker: Broker) -> int:
    with ottla.Consumer(broker.bootstrap_servers, group_id="g", commit="manual") as consumer:
        found = consumer.committed([IN])[IN]
        return -1 if found is None else found.offset


@pytest.fixture
def filled(kafka_broker: Broker) -> Broker:
    kafka_broker.create_topic("in.failed")
    kafka_broker.produce("in", VALUES)
    return kafka_broker


def test_skip_passes_over_and_says_so(filled: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with made(filled, "skip") as consumer:
        assert [record.value for record in consumer.records(until="end")] == [0, 2, 4]
    assert committed(filled) == 5
    said = [record.getMessage() for record in caplog.records if record.name.startswith("ottla.client")]
    assert [text.split(":")[0] for text in said if "deserialized" in text] == ["passed over"] * 2
    assert "in-0, offset 1" in caplog.text


def test_what_is_passed_over_at_the_end_is_finished_before_another_record_comes(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"0", b"{"])
    with made(kafka_broker, "skip", auto_commit_interval_ms=20) as consumer:
        assert [record.value for record in consumer.poll(timeout=30)] == [0]
        assert consumer.poll(timeout=0.01) == []
        consumer.commit()
        assert committed(kafka_broker) == 2


def test_raise_raises_before_the_record_is_handed_out_and_it_comes_again(filled: Broker) -> None:
    seen: list[int] = []
    with pytest.raises(ottla.DeserializationError) as caught, made(filled, "raise") as consumer:
        seen.extend(record.value for record in consumer)
    assert seen == [0]
    assert (caught.value.record.offset, caught.value.record.value_bytes, caught.value.part) == (1, b"{", "value")
    assert committed(filled) == 1
    with made(filled, "raise") as consumer:
        with pytest.raises(ottla.DeserializationError):
            next(consumer)
        assert next(consumer).value == 2  # looping again goes on behind it
        consumer.rewind()
        assert next(consumer).value == 2


def test_poll_stops_ahead_of_it_and_loses_nothing(filled: Broker) -> None:
    with made(filled, "raise") as consumer:
        assert [record.value for record in consumer.poll(timeout=30)] == [0]
        with pytest.raises(ottla.DeserializationError):
            consumer.poll(timeout=30)
        assert [record.value for record in consumer.poll(timeout=30)] == [2]


def test_dead_letters_are_acknowledged_before_the_offset_goes_on(filled: Broker) -> None:
    with made(filled, "dead_letter:in.failed") as consumer:
        assert [record.value for record in consumer.records(until="end")] == [0, 2, 4]
    letters = filled.topic("in.failed").records(2)
    assert [letter.value for letter in letters] == [b"{", b"}"]
    assert letters[0].headers["dead-letter.offset"] == b"1"
    assert (letters[0].headers["dead-letter.error"] or b"").startswith(b"DeserializationError: The value of the record")
    assert committed(filled) == 5


def test_a_dead_letter_that_cannot_be_sent_is_raised_and_the_record_stays(filled: Broker) -> None:
    with made(filled, "dead_letter:in.failed") as consumer:
        assert next(consumer).value == 0
        with (
            filled.fail("Produce", error="TOPIC_AUTHORIZATION_FAILED"),
            pytest.raises(ottla.DeliveryError, match=r"in\.failed-0 was not delivered"),
        ):
            next(consumer)
        consumer.commit()
        assert committed(filled) == 1
        assert next(consumer).value == 2
    assert filled.topic("in.failed").values(1) == [b"{"]


def test_a_function_decides(filled: Broker) -> None:
    seen = []

    def decide(error: ottla.DeserializationError) -> None:
        seen.append(error.record.offset)
        if error.record.offset == 3:
            raise ZeroDivisionError

    with made(filled, decide) as consumer:
        assert [next(consumer).value for _ in range(2)] == [0, 2]
        with pytest.raises(ZeroDivisionError):
            next(consumer)
        assert next(consumer).value == 4
    assert seen == [1, 3]


@pytest.mark.parametrize(("on_error", "dead"), [("skip", []), ("dead_letter:in.failed", [b"{", b"}"])])
def test_run_never_sees_it(filled: Broker, on_error: str, dead: list[bytes]) -> None:
    seen: list[int] = []
    with made(filled, on_error) as consumer:

        def handle(record: ottla.Record[Any, Any]) -> None:
            seen.append(record.value)
            if len(seen) == 3:
                consumer.stop()

        consumer.run(handle, workers=2, order="none")
    assert sorted(seen) == [0, 2, 4]
    assert committed(filled) == 5
    assert filled.topic("in.failed").values() == dead


def test_run_raises_it_and_it_comes_again(filled: Broker) -> None:
    with pytest.raises(ottla.DeserializationError), made(filled, "raise") as consumer:
        consumer.run(lambda record: None)
    assert committed(filled) == 1


@pytest.mark.parametrize("mode", ["marked", "manual"])
def test_other_ways_to_commit(filled: Broker, mode: str) -> None:
    with made(filled, "skip", commit=mode) as consumer:
        for record in consumer.records(until="end"):
            if mode == "marked" and record.offset != 2:
                consumer.mark(record)
        consumer.commit()
    assert committed(filled) == (2 if mode == "marked" else 5)


async def test_the_asynchronous_face_awaits(filled: Broker) -> None:
    seen = []

    async def decide(error: ottla.DeserializationError) -> None:
        await asyncio.sleep(0)
        seen.append(error.record.value_bytes)

    on_error: Callable[..., object] | str
    for group, on_error in (("f", decide), ("d", "dead_letter:in.failed")):
        async with ottla.aio.Consumer(
            filled.bootstrap_servers,
            group_id=group,
            topics=["in"],
            auto_offset_reset="earliest",
            value_deserializer=serde.json(),
            on_error=on_error,
        ) as consumer:
            assert [record.value async for record in consumer.records(until="end")] == [0, 2, 4]
    assert seen == [b"{", b"}"]
    assert await asyncio.to_thread(filled.topic("in.failed").values, 2) == [b"{", b"}"]


async def test_tasks_never_see_it(filled: Broker) -> None:
    seen: list[int] = []
    async with ottla.aio.Consumer(
        filled.bootstrap_servers,
        group_id="g",
        topics=["in"],
        auto_offset_reset="earliest",
        value_deserializer=serde.json(),
        on_error="skip",
    ) as consumer:

        async def handle(record: ottla.Record[Any, Any]) -> None:
            seen.append(record.value)
            if len(seen) == 3:
                consumer.stop()

        await consumer.run(handle)
    assert seen == [0, 2, 4]


def test_what_makes_no_sense_is_refused(filled: Broker) -> None:
    with pytest.raises(ottla.ConfigurationError, match=r"on_error='ignore'.*dead_letter:TOPIC"):
        made(filled, "ignore")
    with pytest.raises(ottla.ConfigurationError, match="has no deserializer"):
        made(filled, "skip", value_deserializer=None)
    consumer = made(filled, "skip")
    with pytest.raises(ottla.ConfigurationError, match="columns of bytes"):
        consumer.batches()


def test_without_it_looking_raises_in_the_body(filled: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with made(filled, None) as consumer:
        found = []
        for record in consumer.records(until="end"):
            try:
                found.append(record.value)
            except ottla.DeserializationError as error:
                found.append(error.record.value_bytes)
    assert found == [0, b"{", 2, b"}", 4]


def test_null_is_an_object_or_an_error_as_the_type_says(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b'{"id":1}', None])
    address = kafka_broker.bootstrap_servers
    with ottla.Consumer(
        address, topics=["in"], value_deserializer=serde.json(Order), auto_offset_reset="earliest"
    ) as consumer:
        first, second = consumer.records()
        assert_type(first.value, Order | None)
        assert (first.value, second.value) == (Order(1), None)
    with ottla.Consumer(
        address, topics=["in"], value_deserializer=serde.json(Order, null="error"), auto_offset_reset="earliest"
    ) as strict:
        one, two = strict.records()
        assert_type(one.value, Order)
        assert one.value == Order(1)
        with pytest.raises(ottla.DeserializationError, match=r"offset 1.*it is None, and ottla\.serde\.json\(Order"):
            two.value  # noqa: B018
    with pytest.raises(ValueError, match="null='fail'"):
        serde.json(null="fail")  # type: ignore[call-overload]
