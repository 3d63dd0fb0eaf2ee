"""Apache Kafka's tools for transactions against ottla: one is found hanging, and ended; its log of transactions is dumped."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaException, Producer
from tests.compatibility.differential.script import batch, create_topic, produce_request
from tests.compatibility.differential.wire import Wire
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.kafka_anchor import run_tool

from ottla.protocol.messages.init_producer_id import InitProducerIdRequest

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    kafka_anchor.require()
    settings = {
        "node.id": "3",
        "group.initial.rebalance.delay.ms": "0",
        # What lets a transaction hang: records of a producer that never said which partitions take part.
        "transaction.partition.verification.enable": "false",
    }
    with BrokerProcess(settings) as running:
        yield running


def run(broker: BrokerProcess, name: str, *arguments: str) -> str:
    """Run a tool against the broker and insist on exit code 0; its output."""
    done = run_tool(name, "--bootstrap-server", broker.address, *arguments)
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def rows(printed: str) -> list[list[str]]:
    """The lines of a table without its head."""
    return [line.split() for line in printed.strip().splitlines()[1:] if line.strip()]


def test_transactions_are_listed_and_described(broker: BrokerProcess) -> None:
    with_topic = Wire("ottla", broker.port)
    create_topic(with_topic, "tools-txn", 2)
    with_topic.close()
    producer = Producer({"bootstrap.servers": broker.address, "transactional.id": "tools-open", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("tools-txn", value="open", partition=1)
    assert producer.flush(30) == 0
    [row] = rows(run(broker, "kafka-transactions", "list"))
    assert (row[0], row[3]) == ("tools-open", "Ongoing")
    assert rows(run(broker, "kafka-transactions", "list", "--duration-filter", "3600000")) == []
    assert rows(run(broker, "kafka-transactions", "list", "--transactional-id-pattern", "tools-.*")) == [row]
    assert rows(run(broker, "kafka-transactions", "list", "--transactional-id-pattern", "nobody")) == []
    described = run(broker, "kafka-transactions", "describe", "--transactional-id", "tools-open")
    assert re.search(r"tools-open\s+\d+\s+0\s+Ongoing\s+60000\s.*tools-txn-1", described), described
    place = ("--topic", "tools-txn", "--partition", "1")
    [active] = rows(run(broker, "kafka-transactions", "describe-producers", *place))
    assert active[0] == row[2]
    assert active[-1] == "0"  # where its transaction began
    unknown = run_tool(
        "kafka-transactions", "--bootstrap-server", broker.address, "describe", "--transactional-id", "nobody"
    )
    assert unknown.returncode != 0
    assert "could not be found" in unknown.stdout or "TransactionalIdNotFound" in unknown.stdout
    producer.commit_transaction(30)
    [active] = rows(run(broker, "kafka-transactions", "describe-producers", *place))
    assert active[-1] == "None"
    described = run(broker, "kafka-transactions", "describe", "--transactional-id", "tools-open")
    assert "CompleteCommit" in described
    producer.begin_transaction()
    producer.produce("tools-txn", value="to be ended", partition=1)
    assert producer.flush(30) == 0
    run(broker, "kafka-transactions", "forceTerminateTransaction", "--transactionalId", "tools-open")
    with pytest.raises(KafkaException):
        producer.commit_transaction(30)
    assert rows(run(broker, "kafka-transactions", "describe-producers", *place))[0][-1] == "None"


def test_a_hanging_transaction_is_found_and_ended(broker: BrokerProcess) -> None:
    """1. Records of a transaction that the coordinator does not know. 2. Nobody reads past them. 3. Found, ended, read."""
    wire = Wire("ottla", broker.port)
    topic_id = create_topic(wire, "tools-hanging")
    found = wire.ask(None, InitProducerIdRequest(transactional_id="tools-hangs", transaction_timeout_ms=60_000), 4)
    data = batch(
        ["lost"],
        producer_id=found.producer_id,
        producer_epoch=found.producer_epoch,
        base_sequence=0,
        transactional=True,
    )
    message = produce_request("tools-hanging", topic_id, [data], transactional_id="tools-hangs")
    answer = wire.ask(None, message, 9)
    assert answer.responses[0].partition_responses[0].error_code == "NONE"
    wire.close()
    plain = Producer({"bootstrap.servers": broker.address, "log_level": 0})
    plain.produce("tools-hanging", value="waits")
    assert plain.flush(30) == 0
    reading = ("--topic", "tools-hanging", "--from-beginning", "--isolation-level", "read_committed")
    before = run(broker, "kafka-console-consumer", *reading, "--timeout-ms", "3000")
    assert "waits" not in before
    [hanging] = rows(run(broker, "kafka-transactions", "find-hanging", "--broker-id", "3"))
    assert hanging[:6] == [
        "tools-hanging",
        "0",
        str(found.producer_id),
        str(found.producer_epoch),
        hanging[4],
        "0",
    ]
    place = ("--topic", "tools-hanging", "--partition", "0")
    assert rows(run(broker, "kafka-transactions", "find-hanging", *place)) != []
    run(broker, "kafka-transactions", "abort", *place, "--start-offset", "0")
    assert rows(run(broker, "kafka-transactions", "find-hanging", "--broker-id", "3")) == []
    after = run(broker, "kafka-console-consumer", *reading, "--max-messages", "1", "--timeout-ms", "20000")
    assert "waits" in after
    assert "lost" not in after


def test_perf_test_with_transactions_and_dump_of_the_transaction_log(broker: BrokerProcess) -> None:
    wire = Wire("ottla", broker.port)
    create_topic(wire, "tools-txn-perf", 2)
    wire.close()
    produced = run_tool(
        "kafka-producer-perf-test", "--topic", "tools-txn-perf", "--num-records", "20000", "--record-size", "100",
        "--throughput", "-1", "--transaction-duration-ms", "20", "--transactional-id", "tools-perf",
        "--producer-props", f"bootstrap.servers={broker.address}",
    )  # fmt: skip
    assert re.search(r"^20000 records sent", produced.stdout, re.MULTILINE), produced.stdout
    described = run(broker, "kafka-transactions", "describe", "--transactional-id", "tools-perf")
    assert re.search(r"tools-perf\s+\d+\s+\d+\s+CompleteCommit", described), described
    reading = ("--topic", "tools-txn-perf", "--from-beginning", "--isolation-level", "read_committed")
    read = run(broker, "kafka-console-consumer", *reading, "--max-messages", "20000", "--timeout-ms", "20000")
    assert "Processed a total of 20000 messages" in read
    assert broker.terminate() == 0
    files = [str(path) for path in broker.data_dir.glob("__transaction_state-*/*.log") if path.stat().st_size]
    dumped = run_tool(
        "kafka-dump-log", "--transaction-log-decoder", "--deep-iteration", "--files", ",".join(files)
    ).stdout
    broker.start()
    statuses = re.findall(r'"tools-perf".*?"transactionStatus":(\d)', dumped)
    assert {"0", "1", "2", "4"} <= set(statuses), dumped[-3000:]  # Empty, Ongoing, PrepareCommit, CompleteCommit
    assert "isvalid: false" not in dumped
