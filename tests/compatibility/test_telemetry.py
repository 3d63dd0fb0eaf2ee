"""Clients that really push their metrics (KIP-714), and the tools that ask them to."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from tests.compatibility.differential.scenarios import telemetry
from tests.compatibility.differential.scenarios.configs import SET
from tests.compatibility.differential.wire import Wire
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.kafka_anchor import run_tool

PATIENCE_S = 60.0


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess({"group.initial.rebalance.delay.ms": "0"}) as running:
        yield running


def lines(broker: BrokerProcess, word: str) -> list[str]:
    with urllib.request.urlopen(f"http://{broker.address}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    return [line for line in page.splitlines() if word in line and not line.startswith("#")]


def await_lines(broker: BrokerProcess, word: str, do: Callable[[], object]) -> list[str]:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := lines(broker, word)):
        assert time.monotonic() < deadline, f"nothing like {word} is shown"
        do()
    return found


def test_librdkafka_pushes_what_it_is_asked_for(broker: BrokerProcess) -> None:
    wire = Wire("ottla", broker.port)
    telemetry.alter(
        wire, None, "all", ("metrics", SET, "org.apache.kafka.producer.connection"), ("interval.ms", SET, "200")
    )
    wire.close()
    producer = Producer({"bootstrap.servers": broker.address, "client.id": "pushing"})
    producer.produce("pushed", b"x")
    producer.flush()
    (line,) = await_lines(
        broker, 'kafka_client_producer_connection_creation_total{client_id="pushing"', lambda: producer.poll(0.1)
    )
    assert float(line.split()[-1]) >= 0
    assert 'client_software_name="confluent-kafka-python"' in lines(broker, "kafka_client_info{")[0]
    assert not lines(broker, "kafka_client_producer_request_latency")


def test_librdkafka_pushes_nothing_unasked(broker: BrokerProcess) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    producer.produce("pushed", b"x")
    producer.flush()
    assert not lines(broker, "Telemetry")


@pytest.mark.kafka
def test_java_clients_and_tools(broker: BrokerProcess) -> None:
    kafka_anchor.require()

    def run(name: str, *arguments: str) -> str:
        done = run_tool(name, "--bootstrap-server", broker.address, *arguments, timeout_s=90)
        assert done.returncode == 0, done.stdout
        return done.stdout

    metrics = "kafka-client-metrics"
    run(metrics, "--alter", "--name", "java", "--metrics", "*", "--interval", "500", "--match", "client_id=j.*")
    assert run(metrics, "--list").split() == ["java"]
    described = run(metrics, "--describe", "--name", "java")
    assert all(line in described for line in ("interval.ms=500", "match=client_id=j.*", "metrics=*"))
    entity = ("--entity-type", "client-metrics")
    assert "interval.ms=500" in run("kafka-configs", *entity, "--entity-name", "java", "--describe")
    run("kafka-configs", *entity, "--entity-name", "java", "--alter", "--add-config", "interval.ms=300")
    assert "interval.ms=300" in run("kafka-configs", *entity, "--describe")
    wrong = ("--entity-name", "java", "--alter", "--add-config", "match=nobody")
    refused = run_tool("kafka-configs", "--bootstrap-server", broker.address, *entity, *wrong)
    assert "Illegal client matching pattern: nobody" in refused.stdout

    sent = ("--num-records", "2000", "--record-size", "100", "--throughput", "1000")
    for client_id in ("java", "other"):
        properties = ("--producer-props", f"bootstrap.servers={broker.address}", f"client.id={client_id}")
        done = run_tool("kafka-producer-perf-test", "--topic", "pushed", *sent, *properties, timeout_s=90)
        assert done.returncode == 0, done.stdout
    (info,) = lines(broker, "kafka_client_info{")
    assert 'client_id="java"' in info
    assert 'client_software_name="apache-kafka-java"' in info
    (total,) = lines(broker, "kafka_client_producer_record_send_total{")
    assert 0 < float(total.split()[-1]) <= 2_000
    run(metrics, "--delete", "--name", "java")
    assert run(metrics, "--list").strip() == ""
    assert lines(broker, 'errorspersec{request="PushTelemetry"') == []
