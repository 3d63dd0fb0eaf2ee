"""Three brokers are restarted one by one from an earlier commit's program to this one, under load: nothing is lost.

OTTLA_UPGRADE_FROM names the commit; by default the first one whose cluster was whole. Without a repository, or in
one that does not go back so far, there is nothing to upgrade from.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka import TopicPartition as Place
from kazoo.client import KazooClient
from tests.cli.test_supervisor import until
from tests.cluster.test_restore_processes import Clients
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

pytestmark = [pytest.mark.crash, pytest.mark.zookeeper]

ROOT = Path(__file__).parents[2]
FROM = os.environ.get("OTTLA_UPGRADE_FROM") or "5d4a1769329fd34ad2eb02b03efa98e5e72c4aa9"
SETTINGS = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.min.isr": "2",
}


@pytest.fixture
def older() -> Iterator[Path]:
    """The source of the earlier program, with the kernels of this one if they fit; its plain ones do without."""
    archive = subprocess.run(["git", "archive", FROM, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"no commit {FROM} here: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="ottla-older-") as directory:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(directory, filter="data")
        yield Path(directory) / "src"


class Copying:
    """Copies `orders` to `copies` in transactions: consume, produce, send offsets, commit, until it is told to end."""

    def __init__(self, bootstrap: str) -> None:
        common = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._consumer = Consumer(
            {
                **common,
                "group.id": "copying",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        self._producer = Producer({**common, "transactional.id": "copying", "transaction.timeout.ms": 60_000})
        self._told = threading.Event()
        self.copied = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._producer.init_transactions(60)
            self._consumer.subscribe(["orders"])
            while not self._told.is_set():
                batch = [message for message in self._consumer.consume(200, 0.5) if not message.error()]
                if batch:
                    self._copy(batch)
        except BaseException as error:
            self.failure = error
        finally:
            self._consumer.close()

    def _copy(self, batch: list[Message]) -> None:
        self._producer.begin_transaction()
        ends: dict[tuple[str, int], int] = {}
        for message in batch:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            self._producer.produce("copies", message.value())
            ends[topic, partition] = max(ends.get((topic, partition), 0), offset + 1)
        offsets = [Place(topic, partition, offset) for (topic, partition), offset in ends.items()]
        self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), 60)
        self._producer.commit_transaction(60)
        self.copied += len(batch)

    def stop(self) -> None:
        self._told.set()
        self._thread.join(90)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


def test_brokers_are_upgraded_one_by_one_under_load(older: Path) -> None:
    """1. Three brokers of the earlier program, a producer and an exactly-once copy. 2. Each is stopped and started with this

    program, when the others are in sync. 3. Everything sent is there once, in the source and in the copy. 4. A program that
    is older than the tree refuses to start.
    """
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    ensemble.start()
    brokers = EnsembleBrokers(f"{ensemble.servers[0]}/upgrade", settings=SETTINGS)
    for broker in brokers.brokers.values():
        broker.environment["PYTHONPATH"] = str(older)
    try:
        with brokers:
            assert _programs(brokers) == {str(older)}
            clients = Clients(brokers.bootstrap)
            clients.create("orders")
            clients.create("copies")
            until(lambda: clients.is_led("orders") and clients.is_led("copies"), 60)
            told = threading.Event()

            def send() -> None:
                while not told.wait(0.02):
                    clients.send("orders", 20)

            sending = threading.Thread(target=send)
            sending.start()
            copying = Copying(brokers.bootstrap)
            try:
                for broker in brokers.brokers.values():
                    until(lambda: copying.failure is not None or copying.copied > 100, 60)
                    assert broker.terminate() == 0, broker.output
                    del broker.environment["PYTHONPATH"]
                    broker.start(timeout_s=60)
                    until(lambda: clients.is_led("orders") and clients.is_led("copies"), 90)
            finally:
                told.set()
                sending.join(150)
            until(lambda: copying.failure is not None or copying.copied >= clients.sent, 120)
            copying.stop()
            assert _programs(brokers) == {str(ROOT / "src")}
            assert clients.failed == []
            for topic in ("orders", "copies"):
                assert clients.read(topic, f"readers of {topic}", clients.sent) == list(range(clients.sent))
            print(f"\n{clients.sent} records sent and copied exactly once from {FROM} to this program")

            brokers[3].terminate()
            _raise_format(ensemble.servers[0], "/upgrade/feature")
            brokers[3].spawn()
            assert brokers[3].wait_until_dead(timeout_s=60) == 1
            assert "the coordination tree has format 99" in brokers[3].output
    finally:
        brokers.close()
        ensemble.stop()


def _programs(brokers: EnsembleBrokers) -> set[str]:
    """Return where the program of each running broker lies."""
    found = set()
    for broker in brokers.brokers.values():
        path = Path(f"/proc/{broker.pid}/environ").read_bytes().decode().split("\0")
        own = [line.partition("=")[2] for line in path if line.startswith("PYTHONPATH=")]
        found.add(own[0] if own else str(ROOT / "src"))
    return found


def _raise_format(server: str, path: str) -> None:
    client = KazooClient(server)
    client.start()
    data = json.loads(client.get(path)[0])
    client.set(path, json.dumps({**data, "ottla_format": 99}).encode())
    client.stop()
    client.close()
