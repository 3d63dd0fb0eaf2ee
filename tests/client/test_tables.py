"""`send_table`: what a table holds arrives, whatever library it comes from, once, also while brokers die."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import Any

import polars
import pyarrow
import pytest
from tests.client.conftest import make_broker
from tests.support.broker_process import RunningBroker

import ottla
from ottla.client._core.partitioner import java_partition
from ottla.client.deliveries import PartitionWritten
from ottla.client.tables import TablePlan, batches
from ottla.errors import KafkaError

FRAME: dict[str, list[Any]] = {
    "value": [b"one", None, b"", b"four" * 10],
    "key": ["a", "b", None, "d" * 20],
    "when": [datetime(2026, 1, 1, tzinfo=UTC), None, datetime(2026, 1, 2, tzinfo=UTC), None],
    "number": [1, 2, 3, 4],
    "where": [0, 1, 0, 1],
    "flag": [True, None, False, True],
}


def rows_of(topic: str, broker: RunningBroker) -> list[tuple[Any, ...]]:
    batch = ottla.read(topic, broker.address)
    return sorted(
        ((record.key, record.value, record.partition) for record in batch), key=lambda row: tuple(map(repr, row))
    )


def make_topic(broker: RunningBroker, name: str, partitions: int = 2) -> str:
    with ottla.Admin(broker.address) as admin:
        admin.create_topic(name, partitions=partitions)
    return name


@pytest.mark.parametrize("library", ["polars", "pyarrow", "large", "chunked", "sliced"])
def test_tables_of_every_library_arrive(broker: RunningBroker, library: str) -> None:
    topic = make_topic(broker, f"from-{library}")
    table: Any = polars.DataFrame(FRAME)
    if library != "polars":
        table = pyarrow.table(FRAME)
    if library == "large":
        table = table.cast(
            table.schema.set(0, pyarrow.field("value", pyarrow.large_binary())).set(
                1, pyarrow.field("key", pyarrow.large_string())
            )
        )
    if library == "chunked":
        table = pyarrow.concat_tables([table, table, table.slice(1, 2)])
    if library == "sliced":
        table = pyarrow.concat_tables([table] * 5).combine_chunks().slice(3, 9)
    with ottla.Producer(broker.address) as producer:
        delivery = producer.send_table(topic, table, key="key")
        assert len(delivery) == len(table)
        written = delivery.result(10)
        assert delivery.done()
    plain = table.to_dicts() if library == "polars" else table.to_pylist()
    keyed = [(row["key"].encode(), row["value"]) for row in plain if row["key"] is not None]
    found = rows_of(topic, broker)
    assert sorted(((key, value, part) for key, value, part in found if key is not None), key=repr) == sorted(
        ((key, value, java_partition(key, 2)) for key, value in keyed), key=repr
    )
    assert sum(key is None for key, _, _ in found) == len(plain) - len(keyed)
    assert sum(part.count for part in written.values()) == len(plain)
    assert all(part.base_offset == 0 for part in written.values())


def test_every_argument(broker: RunningBroker) -> None:
    topic = make_topic(broker, "arguments")
    with ottla.Producer(broker.address) as producer:
        frame = polars.DataFrame(FRAME)
        producer.send_table(topic, frame, timestamp="when", partition="where", headers={"a": "1"}, timeout=10)
        written = producer.send_table(topic, frame, partition=1, timestamp=5).result(10)
    assert written == {1: PartitionWritten(1, 2, 4)}
    batch = ottla.read(topic, broker.address)
    first = [record for record in batch if record.headers]
    assert [(record.value, record.timestamp) for record in first if record.partition == 0] == [
        (b"one", FRAME["when"][0]),
        (b"", FRAME["when"][2]),
    ]
    assert all(record.timestamp is not None and record.headers["a"] == b"1" for record in first)
    assert [record.timestamp_ms for record in batch if not record.headers] == [5] * 4


def test_serializers(broker: RunningBroker) -> None:
    topic = make_topic(broker, "serialized", 1)
    with ottla.Producer(
        broker.address, value_serializer=ottla.serde.json(), key_serializer=ottla.serde.int32
    ) as producer:
        producer.send_table(topic, polars.DataFrame(FRAME), value=["number", "flag"], key="number")
    batch = ottla.read(topic, broker.address)
    assert [(record.key, record.value) for record in batch] == [
        (number.to_bytes(4, "big"), b'{"number":%d,"flag":%s}' % (number, flag))
        for number, flag in zip([1, 2, 3, 4], [b"true", b"null", b"false", b"true"], strict=True)
    ]


def test_a_batch_of_a_consumer_is_a_table_with_headers(broker: RunningBroker) -> None:
    make_topic(broker, "source", 1)
    make_topic(broker, "copy", 1)
    with ottla.Producer(broker.address) as producer:
        for number in range(20):
            producer.send(
                "source", b"%d" % number, key=b"k", headers={"n": b"%d" % number, "none": None} if number % 3 else {}
            )
        producer.flush()
        source = ottla.read("source", broker.address)
        producer.send_table("copy", source, key="key", headers="headers", timestamp="timestamp")
    copy = ottla.read("copy", broker.address)
    for one, other in zip(source, copy, strict=True):
        assert one._row == other._row


def test_what_cannot_be_sent_is_said_at_once(broker: RunningBroker) -> None:
    topic = make_topic(broker, "refused")
    frame = polars.DataFrame(FRAME)
    with ottla.Producer(broker.address, max_request_size=500) as producer:
        for error, message, arguments in (
            (TypeError, "int does not", {"table": 5}),
            (KeyError, "no column 'body'; it has 'value', 'key'", {"value": "body"}),
            (
                TypeError,
                "value column is of Arrow's type 'l': it takes bytes or text, or a value_serializer",
                {"value": "number"},
            ),
            (TypeError, "need a value_serializer", {"value": ["key", "number"]}),
            (ValueError, "no partition 2; the topic has 2", {"partition": 2}),
            (ValueError, "no partition 2; the topic has 2", {"partition": "number"}),
            (TypeError, "timestamps are times", {"timestamp": "key"}),
            (TypeError, "headers are a list", {"headers": "key"}),
        ):
            everything: dict[str, Any] = {"topic": topic, "table": frame, **arguments}
            with pytest.raises(error, match=message):
                producer.send_table(**everything)
        large = polars.DataFrame({"value": [b"small", b"x" * 1000]})
        with pytest.raises(ottla.RecordTooLargeError, match=r"takes 10.. bytes, more than max\.request\.size"):
            producer.send_table(topic, large, partition=0)
        producer.flush()
    assert [record.value for record in ottla.read(topic, broker.address)][-1] == b"small"


def test_in_a_transaction(broker: RunningBroker) -> None:
    topic = make_topic(broker, "transacted", 3)
    frame = polars.DataFrame({"value": [b"%d" % number for number in range(1000)]})
    with ottla.Producer(broker.address, transactional_id="tables", batch_size=500) as producer:
        for number in range(3):
            with producer.transaction() as transaction:
                transaction.send_table(topic, frame)
                if number == 1:
                    raise ottla.Abort
    batch = ottla.read(topic, broker.address, isolation_level="read_committed")
    assert sorted(int(value) for value in polars.DataFrame(batch)["value"]) == sorted(list(range(1000)) * 2)


async def test_async(broker: RunningBroker) -> None:
    topic = make_topic(broker, "async-table")
    async with ottla.aio.Producer(broker.address, batch_size=200) as producer:
        delivery = await producer.send_table(topic, polars.DataFrame({"value": [b"%d" % n for n in range(500)]}))
        written = await delivery
    assert sum(part.count for part in written.values()) == 500
    assert len(ottla.read(topic, broker.address)) == 500


def test_failures_are_told_to_who_keeps_the_ticket_and_else_by_flush(broker: RunningBroker) -> None:
    topic = make_topic(broker, "too-large", 1)
    with ottla.Admin(broker.address) as admin:
        admin.alter_configs("topic", topic, {"max.message.bytes": "300"})
    frame = polars.DataFrame({"value": [b"x" * 50, b"y" * 400, b"z" * 50]})
    with ottla.Producer(broker.address) as producer:
        kept = producer.send_table(topic, frame)
        with pytest.raises(ottla.DeliveryErrors) as caught:
            kept.result(20)
        assert caught.value.count == 1
        first = caught.value.exceptions[0]
        assert isinstance(first, ottla.DeliveryError)
        assert first.value == b"y" * 400
        producer.flush()
        del kept
        producer.send_table(topic, frame)
        with pytest.raises(ottla.DeliveryErrors):
            producer.flush()
    assert [record.value for record in ottla.read(topic, broker.address)] == [b"x" * 50, b"z" * 50] * 2


def test_a_batch_that_is_split_and_delivered_is_no_failure(
    broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make_topic(broker, "split", 1)
    with ottla.Admin(broker.address) as admin:
        admin.alter_configs("topic", topic, {"max.message.bytes": "300"})
    frame = polars.DataFrame({"value": [b"%03d" % number * 10 for number in range(20)]})
    with ottla.Producer(broker.address) as producer:
        written = producer.send_table(topic, frame).result(20)
        producer.flush()
        assert producer.metrics()["batch-split-total"] > 0
    assert written == {0: PartitionWritten(0, 0, 20)}
    assert [record.value for record in ottla.read(topic, broker.address)] == frame["value"].to_list()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")]


@pytest.mark.slow
def test_tables_survive_kills_of_the_broker_without_loss_or_doubles() -> None:
    dice = random.Random(5)
    broker = make_broker("ottla")
    try:
        broker.start()
        make_topic(broker, "killed", 3)
        frame = polars.DataFrame(
            {"value": [b"%d" % number for number in range(3000)], "key": [b"%d" % (n % 50) for n in range(3000)]}
        )
        with ottla.Producer(broker.address, batch_size=2000) as producer:
            deliveries = []
            for round_ in range(4):
                deliveries.append(producer.send_table("killed", frame, key="key"))
                if dice.random() < 0.8 and round_ < 3:
                    broker.kill()
                    broker.start()
            for delivery in deliveries:
                assert sum(part.count for part in delivery.result(60).values()) == 3000
        batch = ottla.read("killed", broker.address)
        values: dict[tuple[int, bytes | None], list[int]] = {}
        for record in batch:
            values.setdefault((record.partition, record.key), []).append(int(record.value or b""))
        for numbers in values.values():
            assert numbers == sorted(numbers[:60]) * 4, "each once a round, in order"
    finally:
        broker.close()


# -- without a broker ---------------------------------------------------------------------------------------------------


def plan(**changes: Any) -> TablePlan:
    empty = dict.fromkeys(TablePlan._fields)
    return TablePlan(**{**empty, "value": "value", **changes})


def encoded(table: Any, made: TablePlan, partitions: int = 3, size_max: int = 100) -> Generator[Any, None, None]:
    return batches(table, made, partitions, 7, lambda: size_max)


def test_batches_are_no_larger_than_asked_for_and_keep_the_order_of_a_partition() -> None:
    frame = polars.DataFrame({"value": [b"%03d" % number for number in range(300)], "k": ["a", "b", None] * 100})
    seen: dict[int, list[bytes]] = {}
    for one in encoded(frame, plan(key="k")):
        assert len(one.body) <= 100
        from ottla.protocol.records import kernels

        rows = kernels.decode_records(one.body, one.rows, 0, one.base_timestamp, None)
        seen.setdefault(one.partition, []).extend(row[3] or b"" for row in rows)
    assert all(values == sorted(values) for values in seen.values())
    assert sum(map(len, seen.values())) == 300
    assert len(seen[-1]) == 100


def test_another_partitioner_is_asked_for_each_row() -> None:
    frame = polars.DataFrame({"value": [b"1", b"2"], "k": ["a", None]})
    asked: list[bytes | None] = []

    def choose(key: bytes | None) -> int:
        asked.append(key)
        return 2

    assert [one.partition for one in encoded(frame, plan(key="k", choose=choose))] == [2]
    assert asked == [b"a", None]


def test_the_table_is_released_whatever_happens() -> None:
    before = pyarrow.total_allocated_bytes()
    table: Any = pyarrow.table({"value": [b"x" * 1000] * 1000})
    held = pyarrow.total_allocated_bytes() - before
    assert held > 0
    stream = encoded(table, plan())
    next(stream)
    stream.close()
    with pytest.raises(KeyError):
        list(encoded(table, plan(value="other")))
    del table
    assert pyarrow.total_allocated_bytes() == before


def test_a_library_that_cannot_give_its_table_says_so() -> None:
    def fail() -> Iterator[Any]:
        yield pyarrow.record_batch({"value": [b"x"]})
        raise KafkaError("the source is gone")

    reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema([("value", pyarrow.binary())]), fail())
    with pytest.raises(TypeError, match="cannot be read"):
        list(encoded(reader, plan()))
