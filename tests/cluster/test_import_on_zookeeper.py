"""`ottla cluster import` with real processes: a node with clients becomes broker 1 of a cluster on ZooKeeper."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic
from tests.support import zookeeper_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

pytestmark = pytest.mark.zookeeper

FAILPOINTS = ("begin", "reservation", "settings", "topics", "properties", "tree")
SETTINGS = {"group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": "4"}


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


def run_import(directory: Path, connect: str, *options: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ottla",
            "cluster",
            "import",
            "--data-dir",
            str(directory),
            "--zookeeper",
            connect,
            *options,
        ],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "OTTLA_FAILPOINTS": f"import.{failpoint}=1:kill"}
        if failpoint
        else {"PATH": "/usr/bin:/bin"},
    )


def consume(address: str, count: int, group: str = "readers") -> list[bytes]:
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    consumer.subscribe(["orders"])
    found: list[bytes] = []
    while len(found) < count:
        for message in consumer.consume(count - len(found), 1):
            assert message.error() is None, message.error()
            found.append(message.value() or b"")
    consumer.commit(asynchronous=False)
    consumer.close()
    return found


def test_clients_resume_where_they_were(ensemble: ZooKeeperEnsemble) -> None:
    """1. A node with records, a committed group, a transaction that is left open, settings. 2. It is imported, killed at each

    step and repeated; in between no broker starts on the directory. 3. The broker serves in the cluster: the group gets what
    it has not read, the producer goes on, the open transaction is fenced and aborted. 4. The single
    node does not start on the directory any more.
    """
    connect = f"{ensemble.servers[0]}/imported"
    with BrokerProcess({**SETTINGS, "node.id": "5"}) as node:
        admin = AdminClient({"bootstrap.servers": node.address})
        made = admin.create_topics([NewTopic("orders", num_partitions=2, config={"retention.ms": "-1"})])
        made["orders"].result(30)
        producer = Producer({"bootstrap.servers": node.address, "enable.idempotence": True, "log_level": 0})
        for number in range(200):
            producer.produce("orders", str(number).encode(), partition=number % 2)
        assert producer.flush(30) == 0
        assert len(consume(node.address, 120)) == 120
        open_one = Producer({"bootstrap.servers": node.address, "transactional.id": "t", "log_level": 0})
        open_one.init_transactions(30)
        open_one.begin_transaction()
        open_one.produce("orders", b"never", partition=0)
        open_one.flush(30)
        node.terminate()

        for failpoint in FAILPOINTS:
            killed = run_import(node.data_dir, connect, "--broker-id", "1", failpoint=failpoint)
            assert killed.returncode == -9, (failpoint, killed.stderr)
            if failpoint != "tree":
                refused = run_import(node.data_dir, connect, "--broker-id", "2")
                assert "was interrupted: finish that first" in refused.stderr
            node.spawn()
            assert node.wait_until_dead(timeout_s=60) == 1
            assert "run ottla cluster import again" in node.output
        done = run_import(node.data_dir, connect, "--broker-id", "1")
        assert done.returncode == 0, done.stderr
        assert run_import(node.data_dir, connect).stderr.strip().endswith("already")
        node.spawn()
        assert node.wait_until_dead(timeout_s=60) == 1
        assert "was imported into the cluster" in node.output

        options = ("--zookeeper", connect, "--host", "127.0.0.1")
        first = BrokerProcess(SETTINGS, data_dir=node.data_dir, port=node.port, options=(*options, "--broker-id", "1"))
        second = BrokerProcess(SETTINGS, options=(*options, "--broker-id", "2"))
        with first, second:
            producer.produce("orders", b"after", partition=1)
            assert producer.flush(60) == 0
            again = Producer({"bootstrap.servers": first.address, "transactional.id": "t", "log_level": 0})
            again.init_transactions(60)
            again.begin_transaction()
            again.produce("orders", b"committed", partition=0)
            again.commit_transaction(60)
            left = consume(first.address, 82)
            assert sorted(left[-82:], key=lambda v: (v.isalpha(), v))[-2:] == [b"after", b"committed"]
            everything = consume(first.address, 202, group="another")
            assert {int(v) for v in everything if v.isdigit()} == set(range(200))
            resource = ConfigResource(ConfigResource.Type.TOPIC, "orders")
            admin = AdminClient({"bootstrap.servers": second.address})
            found = admin.describe_configs([resource])[resource].result(30)
            assert found["retention.ms"].value == "-1"
