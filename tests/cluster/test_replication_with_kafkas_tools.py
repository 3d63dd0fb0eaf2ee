"""Replication as Kafka's tools and clients use it: throttled moves, and reading from the nearest replica."""

from __future__ import annotations

import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from tests.cli.test_supervisor import until
from tests.support import kafka_anchor, zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla import Admin
from ottla.types import TopicPartition

pytestmark = [pytest.mark.kafka, pytest.mark.zookeeper]

RACKS = {
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    "offsets.topic.num.partitions": "1",
}


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    kafka_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


@pytest.fixture(scope="module")
def brokers(ensemble: ZooKeeperEnsemble) -> Iterator[EnsembleBrokers]:
    """Three brokers, each in a rack of its own."""
    found = EnsembleBrokers(f"{ensemble.servers[0]}/racks", settings=RACKS)
    for node_id, broker in found.brokers.items():
        broker.settings["broker.rack"] = f"rack{node_id}"
    with found:
        yield found


def fill(brokers: EnsembleBrokers, topic: str, count: int, size: int) -> None:
    producer = Producer({"bootstrap.servers": brokers.bootstrap, "acks": "all", "log_level": 0})
    for _ in range(count):
        producer.produce(topic, b"x" * size, partition=0)
    assert producer.flush(90) == 0


def fetches_of_consumers(brokers: EnsembleBrokers, node_id: int, topic: str) -> int:
    """Return how many fetches of consumers a broker has counted for a topic."""
    with urllib.request.urlopen(f"http://{brokers[node_id].address}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    found = re.findall(
        rf'^kafka_server_brokertopicmetrics_totalfetchrequestspersec{{topic="{topic}"}} (\d+)', page, re.M
    )
    return sum(map(int, found))


def test_a_throttled_move_takes_its_time_and_verify_takes_the_throttle_away(brokers: EnsembleBrokers) -> None:
    """1. 8 MB move at 0.3 MB a second. Ten seconds' worth of it goes at once, as in Kafka, and a fetch may overshoot by 1 MB:

    the rest takes a dozen seconds. 2. Producers are not held up meanwhile.
    """
    with Admin(brokers.bootstrap) as admin, tempfile.TemporaryDirectory() as directory:
        admin.create_topic("moved", replicas=[[1, 2]])
        fill(brokers, "moved", 8_000, 1_000)
        plan = Path(directory) / "plan.json"
        row = {"topic": "moved", "partition": 0, "replicas": [1, 3], "log_dirs": ["any", "any"]}
        plan.write_text(json.dumps({"version": 1, "partitions": [row]}))
        tool = (
            *("kafka-reassign-partitions", "--bootstrap-server", brokers.bootstrap),
            *("--reassignment-json-file", str(plan)),
        )
        began = time.monotonic()
        done = kafka_anchor.run_tool(*tool, "--execute", "--throttle", "300000", timeout_s=180)
        assert done.returncode == 0, done.stdout
        assert admin.describe_configs("topic", "moved")["follower.replication.throttled.replicas"].value == "0:3"
        assert TopicPartition("moved", 0) in admin.list_partition_reassignments()
        fill(brokers, "moved", 10, 100)
        until(lambda: not admin.list_partition_reassignments(), 120)
        assert time.monotonic() - began > 5
        verified = kafka_anchor.run_tool(*tool, "--verify", timeout_s=180)
        assert "Clearing broker-level throttles" in verified.stdout, verified.stdout
        for kind, name in (("topic", "moved"), ("broker", "1"), ("broker", "3")):
            entries = admin.describe_configs(kind, name)
            assert all(entry.source == "default" for key, entry in entries.items() if "throttled" in key), (kind, name)
        (described,) = admin.describe_topics(["moved"]).values()
        assert sorted(described.partitions[0].replicas) == [1, 3]


def test_a_consumer_reads_from_the_replica_in_its_rack(brokers: EnsembleBrokers) -> None:
    with Admin(brokers.bootstrap) as admin:
        admin.create_topic("near", replicas=[[1, 2, 3]])
    fill(brokers, "near", 500, 100)
    before = {n: fetches_of_consumers(brokers, n, "near") for n in (2, 3)}
    consumer = Consumer(
        {
            "bootstrap.servers": brokers.bootstrap,
            "group.id": "near",
            "client.rack": "rack3",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe(["near"])
    found: list[bytes] = []

    def take() -> bool:
        found.extend(m.value() or b"" for m in consumer.consume(500, 0.5) if not m.error())
        return len(found) >= 500

    until(take, 60)
    consumer.close()
    assert fetches_of_consumers(brokers, 3, "near") > before[3]
    assert fetches_of_consumers(brokers, 2, "near") == before[2]


def test_kafkas_own_consumer_reads_from_the_replica_in_its_rack(brokers: EnsembleBrokers) -> None:
    before = fetches_of_consumers(brokers, 2, "near")
    read = kafka_anchor.run_tool(
        *("kafka-console-consumer", "--bootstrap-server", brokers.bootstrap, "--topic", "near", "--from-beginning"),
        *("--max-messages", "500", "--timeout-ms", "60000", "--command-property", "client.rack=rack2"),
        timeout_s=180,
    )
    assert "Processed a total of 500 messages" in read.stdout, read.stdout[-500:]
    assert fetches_of_consumers(brokers, 2, "near") > before
