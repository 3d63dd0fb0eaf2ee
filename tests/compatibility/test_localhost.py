"""A client that dials `localhost` is told `localhost`, whichever address that was: three clients, real sockets."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from tests.support.broker_process import BrokerProcess

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see test_kafka_python.py
    from kafka import KafkaAdminClient, KafkaProducer

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE_S = 30.0


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """On all addresses, whatever OTTLA_TEST_BROKER says: Apache Kafka tells what it is configured to tell."""
    if not has_ipv6():
        pytest.skip("no IPv6 on this machine: localhost is one address only, and clients are told that")
    with BrokerProcess() as running:
        yield running


def of_confluent(address: str) -> list[tuple[str, int]]:
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    hosts = [(str(node.host), node.port) for node in admin.list_topics(timeout=PATIENCE_S).brokers.values()]
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    producer.produce("of-confluent", "x")
    assert producer.flush(PATIENCE_S) == 0
    return hosts


def of_kafka_python(address: str) -> list[tuple[str, int]]:
    producer = KafkaProducer(bootstrap_servers=address)
    try:
        producer.send("of-kafka-python", b"x").get(PATIENCE_S)
    finally:
        producer.close()
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        return [(node["host"], node["port"]) for node in admin.describe_cluster()["brokers"]]
    finally:
        admin.close()


@pytest.mark.parametrize("dialled", ["localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("told", [of_confluent, of_kafka_python])
def test_clients_over_loopback_are_told_localhost(
    broker: BrokerProcess, told: Callable[[str], list[tuple[str, int]]], dialled: str
) -> None:
    assert told(f"{dialled}:{broker.port}") == [("localhost", broker.port)]


@pytest.mark.parametrize("dialled", ["localhost", "127.0.0.1", "[::1]"])
async def test_aiokafka_over_loopback_is_told_localhost(broker: BrokerProcess, dialled: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=f"{dialled}:{broker.port}")
    await producer.start()
    try:
        await producer.send_and_wait("of-aiokafka", b"x")
        assert [(one.host, one.port) for one in producer.client.cluster.brokers()] == [("localhost", broker.port)]
    finally:
        await producer.stop()
