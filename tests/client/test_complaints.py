"""What users of other Kafka clients complain about most, each with the test that it does not happen here.

The numbers are those of the list of pains that this client was made from; files without a folder are beside this one:

|  # | the pain | here |
|----|----------|------|
|  1 | a dead broker is silence | below; test_admin.py, tests/network/test_channel.py (what else may listen there) |
|  2 | a slow handler is evicted, and its record comes for ever | below; test_groups.py, test_group_processes.py |
|  3 | what a commit means surprises | below; test_finished.py |
|  4 | no retry with delay, no dead letters | below; test_running.py, test_unreadable.py |
|  5 | tests need Docker | below; tests/testing |
|  6 | brokers made for tests are not faithful | below; tests/testing |
|  7 | starting and stopping takes long in tests | below |
|  8 | a JVM for a few records | the broker's: tests/comparison, benchmarks |
|  9 | other brokers' own traps | the broker's: tests/crash, tests/hostile |
| 10 | images that vanish | deploy: tests/test_deploy.py |
| 11 | advertised.listeners | below; tests/cli: `ottla doctor` |
| 12 | Windows: deleting a topic ends the broker | the broker's; it was not tried on Windows |
| 13 | installing is painful | below; tests/test_packaging.py: an empty environment, with and without a compiler |
| 14 | asyncio bolted on | below; test_twins.py |
| 15 | no types | below; `make verify-types` |
| 16 | an API that is not Python's | below; test_docs.py |
| 17 | an object for each record | below; test_columns.py, test_tables.py |
| 18 | BufferError: queue full | below |
| 19 | exactly once goes wrong by default | below; test_copying.py, test_producer_transactions.py |
| 20 | state is recovered slowly, or not | streams: tests/streams |
| 21 | state cannot be read from outside | streams: tests/streams |
|  - | runners-up: a stall after an offset that is gone; Ctrl-C; typing errors in keys | below |
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars
import pytest
from tests.support.ports import free_port

import ottla
import ottla.aio
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("make", [ottla.Producer, ottla.Consumer, ottla.Admin])
def test_complaint_1_a_dead_broker_is_an_exception_that_says_what_to_do(make: type) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ottla.BrokerUnreachableError, match=f"Nothing listens on {address}.*ottla serve"):
        make(address, connect_timeout=0.3).start()


def test_complaint_1_an_admin_client_says_so_at_once() -> None:
    """Without a limit of its own it does not wait ten seconds where nothing listens."""
    began = time.monotonic()
    with pytest.raises(ottla.BrokerUnreachableError, match="Nothing listens on"):
        ottla.Admin(f"127.0.0.1:{free_port()}").list_topics()
    assert time.monotonic() - began < 8


async def test_complaint_1_asynchronous_clients_do_not_wait_for_ever_either() -> None:
    with pytest.raises(ottla.BrokerUnreachableError):
        async with ottla.aio.Consumer(f"127.0.0.1:{free_port()}", topics=["in"], connect_timeout=0.3):
            pass


def test_complaint_2_heartbeats_do_not_wait_for_a_slow_handler(kafka_broker: Broker) -> None:
    """While the handler works, the client's own thread sends one heartbeat after the other, and the member stays."""
    kafka_broker.produce("in", [b"1", b"2"])
    with ottla.Consumer(
        kafka_broker.bootstrap_servers,
        group_id="g",
        topics=["in"],
        auto_offset_reset="earliest",
        heartbeat_interval_ms=50,
    ) as consumer:
        assert next(consumer).value == b"1"
        before = kafka_broker.admin.describe_group("g").members[0].member_id
        heartbeats = kafka_broker.delay("Heartbeat", seconds=0, times=10)
        until(lambda: heartbeats.hits == 10)
        assert kafka_broker.admin.describe_group("g").members[0].member_id == before
        assert next(consumer).value == b"2"
        consumer.commit()


def test_complaint_2_who_was_too_slow_is_told_by_how_much_and_with_which_record(
    kafka_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """1. the handler takes longer than allowed; 2. the log and the next commit say so; 3. nothing comes twice."""
    kafka_broker.produce("in", [b"1", b"2"])
    with ottla.Consumer(
        kafka_broker.bootstrap_servers,
        group_id="g",
        topics=["in"],
        auto_offset_reset="earliest",
        max_poll_interval_ms=1_000,
        heartbeat_interval_ms=50,
    ) as consumer:
        record = next(consumer)
        until(lambda: not kafka_broker.admin.describe_group("g").members)
        with pytest.raises(ottla.PollIntervalExceededError, match="after in-0 offset 0 was handed out") as caught:
            consumer.commit()
        assert caught.value.where == (record.topic_partition, 0)
        assert caught.value.exceeded_ms >= 0
        assert "max.poll.interval.ms" in caught.value.hint
        assert "longer than max.poll.interval.ms" in caplog.text
        assert next(consumer).value == b"2"
        assert consumer.metrics()["poll-interval-exceeded-total"] == 1


def test_complaint_3_a_record_whose_handling_failed_comes_again(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"good", b"bad", b"later"])
    seen = []

    def run() -> None:
        with ottla.Consumer(
            kafka_broker.bootstrap_servers, group_id="g", topics=["in"], auto_offset_reset="earliest"
        ) as consumer:
            for record in consumer:
                seen.append(record.value)
                if seen.count(b"bad") == 1 and record.value == b"bad":
                    raise ZeroDivisionError
                if record.value == b"later":
                    return

    with pytest.raises(ZeroDivisionError):
        run()
    run()
    assert seen == [b"good", b"bad", b"bad", b"later"]


def test_complaint_4_a_failed_record_is_tried_again_later_and_then_set_aside(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("in.failed")
    kafka_broker.produce("in", [b"1", b"poison", b"2"])
    tries: list[bytes | None] = []
    with ottla.Consumer(
        kafka_broker.bootstrap_servers, group_id="g", topics=["in"], auto_offset_reset="earliest"
    ) as consumer:

        def handle(record: ottla.Record) -> None:
            tries.append(record.value)
            if record.value == b"poison":
                raise ValueError("cannot be read")

        def stop_after_the_last() -> None:
            kafka_broker.topic("in.failed").values(1, timeout=30)
            consumer.stop()

        watch = threading.Thread(target=stop_after_the_last)
        watch.start()
        consumer.run(handle, workers=2, order="none", retry=ottla.Retry(delays=["1ms", "1ms"], dead_letter="in.failed"))
        watch.join()
    assert sorted(tries, key=str) == [b"1", b"2", b"poison", b"poison", b"poison"]
    (failed,) = kafka_broker.topic("in.failed").records(1)
    assert b"cannot be read" in (failed.headers["dead-letter.error"] or b"")
    assert failed.headers["dead-letter.topic"] == b"in"


def test_complaint_5_and_6_a_test_has_a_real_broker_that_fails_on_demand(kafka_broker: Broker) -> None:
    fault = kafka_broker.fail("Produce", error="NOT_ENOUGH_REPLICAS", times=2)
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        producer.send_and_wait("out", b"1", timeout=30)
    assert fault.hits == 2
    assert kafka_broker.topic("out").values() == [b"1"]


def test_a_producer_that_gets_no_producer_id_says_so(kafka_broker: Broker) -> None:
    """As from a broker that was started while its supervisor is dead: it can give none, and records wait."""
    kafka_broker.fail("InitProducerId", error="COORDINATOR_LOAD_IN_PROGRESS")
    words = "the brokers give no producer id, which needs their coordination tree"
    with (
        ottla.Producer(kafka_broker.bootstrap_servers, delivery_timeout_ms=500, request_timeout_ms=300) as producer,
        pytest.raises(ottla.KafkaError, match=words),
    ):
        producer.send_and_wait("out", b"1", timeout=30)


def test_complaint_7_a_consumer_starts_and_leaves_without_waiting(kafka_broker: Broker) -> None:
    """No heartbeat interval, session or rebalance delay passes: twelve members one after the other, each reads and leaves."""
    kafka_broker.produce("in", [b"%d" % number for number in range(12)])
    for number in range(12):
        with ottla.Consumer(
            kafka_broker.bootstrap_servers, group_id="g", topics=["in"], auto_offset_reset="earliest"
        ) as consumer:
            assert next(iter(consumer)).value == b"%d" % number
        assert kafka_broker.admin.describe_group("g").members == ()


def test_complaint_11_an_address_that_leads_nowhere_is_named(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with (
        Broker({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"}) as broker,
        ottla.Producer(
            broker.bootstrap_servers, max_block_ms=500, delivery_timeout_ms=900, request_timeout_ms=500
        ) as producer,
        pytest.raises(ottla.KafkaError),
    ):
        producer.send_and_wait("out", b"1", timeout=5)
    assert f"broker 1 advertises 127.0.0.1:{port}, which cannot be reached from here" in caplog.text


def test_complaint_13_without_a_compiler_the_client_works_all_the_same(kafka_broker: Broker) -> None:
    program = (
        "import sys, ottla\n"
        "with ottla.Producer(sys.argv[1]) as producer: producer.send('out', b'1')\n"
        "with ottla.Consumer(sys.argv[1], topics=['out'], auto_offset_reset='earliest') as consumer:\n"
        "    print(next(consumer).value, any(name.endswith('_cy') for name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, kafka_broker.bootstrap_servers],
        env={**os.environ, "OTTLA_PLAIN": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["b'1'", "False"]


async def test_complaint_14_asyncio_is_native(kafka_broker: Broker) -> None:
    """No thread is made, and many things wait at once."""
    before = threading.active_count()
    async with ottla.aio.Producer(kafka_broker.bootstrap_servers) as producer:
        deliveries = [await producer.send("out", b"%d" % number) for number in range(1_000)]
        assert len(await asyncio.gather(*deliveries)) == 1_000
        assert threading.active_count() <= before + 1  # the resolver's, for a moment


@pytest.mark.parametrize("kind", [ottla.Producer, ottla.Consumer, ottla.Admin, ottla.aio.Producer, ottla.aio.Admin])
def test_complaint_15_everything_public_has_types(kind: type) -> None:
    assert (Path(inspect.getfile(ottla)).parent / "py.typed").is_file()
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_"):
            continue
        signature = inspect.signature(member)
        assert signature.return_annotation is not inspect.Signature.empty, name
        for parameter in list(signature.parameters.values())[1:]:
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter.name)


def test_complaint_16_with_for_and_keywords(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", ["a", "b"])
    with ottla.Consumer(kafka_broker.bootstrap_servers, topics=["in"], auto_offset_reset="earliest") as consumer:
        assert [record.value for record in consumer.records(until="end")] == [b"a", b"b"]


def test_complaint_17_a_batch_is_columns_and_no_object_is_made_for_a_record(
    kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka_broker.produce("in", [b"%d" % number for number in range(1_000)])

    def refuse(*_: object) -> None:
        raise AssertionError("a record was asked for")

    for name in ("__getitem__", "__iter__", "rows"):
        monkeypatch.setattr(ottla.Batch, name, refuse)
    batch = ottla.read("in", kafka_broker.bootstrap_servers)
    frame = polars.DataFrame(batch)
    assert frame["value"].cast(polars.String).to_list() == [str(number) for number in range(1_000)]
    assert frame["offset"].to_list() == list(range(1_000))


def test_complaint_18_a_full_buffer_waits_and_loses_nothing(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("out")
    with ottla.Producer(kafka_broker.bootstrap_servers, buffer_memory="64KiB", batch_size="4KiB") as producer:
        for number in range(2_000):
            producer.send("out", b"%0200d" % number)
    assert [int(value or b"") for value in kafka_broker.topic("out").values()] == list(range(2_000))


def test_complaint_19_exactly_once_needs_no_care(kafka_broker: Broker) -> None:
    """A program that fails halfway through a transaction and begins again: each record is there once, offsets and all."""
    kafka_broker.produce("in", [b"%d" % number for number in range(10)])
    address = kafka_broker.bootstrap_servers

    def copy(fail_at: bytes | None) -> None:
        with (
            ottla.Producer(address, transactional_id="copy") as producer,
            ottla.Consumer(
                address, group_id="copy", topics=["in"], commit="transaction", auto_offset_reset="earliest"
            ) as consumer,
        ):
            done = 0
            while done < 10:
                batch = consumer.poll(max_records=3, timeout=1)
                if not batch:
                    continue
                with producer.transaction(consumer) as transaction:
                    for record in batch:
                        if record.value == fail_at:
                            raise ZeroDivisionError
                        transaction.send("out", record.value)
                if batch[-1].offset == 9:
                    return

    with pytest.raises(ZeroDivisionError):
        copy(b"4")
    copy(None)
    assert kafka_broker.topic("out").values(10, timeout=30) == [b"%d" % number for number in range(10)]
    assert len(kafka_broker.topic("out").values()) == 10


def test_ctrl_c_ends_a_loop_that_waits(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("in")
    with ottla.Consumer(kafka_broker.bootstrap_servers, topics=["in"], auto_offset_reset="earliest") as consumer:
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(iter(consumer))


def test_runner_up_an_offset_that_is_gone_stalls_nothing(kafka_broker: Broker) -> None:
    """As retention leaves it: the consumer goes on with the first record there is, or says what is wrong."""
    kafka_broker.produce("in", [b"0", b"1", b"2"])
    where = ottla.TopicPartition("in", 0)
    kafka_broker.admin.delete_records({where: 2})
    address = kafka_broker.bootstrap_servers
    with ottla.Consumer(address, topics=["in"], auto_offset_reset="earliest") as consumer:
        consumer.seek(where, 0)
        assert next(consumer).value == b"2"
    with ottla.Consumer(address, topics=["in"], auto_offset_reset="none") as strict:
        strict.seek(where, 0)
        with pytest.raises(ottla.KafkaError, match="in-0 has no offset 0"):
            next(strict)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ottla.ConfigurationError, match=r"liner_ms.*linger_ms"):
        ottla.Producer("localhost:9092", liner_ms=3)  # type: ignore[call-arg]
