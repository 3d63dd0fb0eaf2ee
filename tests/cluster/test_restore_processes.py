"""The tree is lost and restored from a backup that is older than the logs: three brokers as processes lose nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.cli.test_supervisor import SupervisorProcess, until
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.ports import free_port
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

SETTINGS = {
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "3",
    "default.replication.factor": "3",
}


def ottla(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "ottla", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


class Clients:
    """A producer that lives through everything, and readers of what it has sent."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.sent = 0
        self.failed: list[object] = []
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0, "message.timeout.ms": 120_000}
        )
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def create(self, topic: str, **config: str) -> None:
        self.admin.create_topics([NewTopic(topic, 4, config=config)])[topic].result(60)

    def send(self, topic: str, count: int) -> None:
        for _ in range(count):
            self.producer.produce(topic, str(self.sent), on_delivery=self._on_delivery)
            self.sent += 1
        assert self.producer.flush(120) == 0
        assert self.failed == []

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self.failed.append(error)

    def read(self, topic: str, group: str, count: int) -> list[int]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([topic])
        found: list[int] = []

        def take() -> bool:
            found.extend(int(m.value() or b"") for m in consumer.consume(count, 0.5) if not m.error())
            return len(found) >= count

        until(take, 90)
        consumer.commit(asynchronous=False)
        consumer.close()
        return sorted(found)

    def is_led(self, topic: str) -> bool:
        partitions = self.admin.list_topics(timeout=10).topics[topic].partitions.values()
        return bool(partitions) and all(p.leader >= 0 and len(p.isrs) == 3 for p in partitions)


def check_after(clients: Clients) -> None:
    """Everything is there, groups go on where they were, old and new producers write."""
    until(lambda: clients.is_led("orders"), 90)
    clients.send("orders", 50)
    assert clients.read("orders", "readers", clients.sent - 200) == list(range(200, clients.sent))
    assert clients.read("orders", "another", clients.sent) == list(range(clients.sent))
    new = Clients(clients.bootstrap)
    new.create("new")
    new.send("new", 50)
    assert new.read("new", "readers of the new one", 50) == list(range(50))


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: it holds a socket."""
    made = Path(tempfile.mkdtemp(prefix="ottla-up-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def before_and_after_the_backup(clients: Clients, backup: Callable[[], object], bounce: Callable[[], object]) -> None:
    clients.create("orders", **{"retention.ms": "-1"})
    until(lambda: clients.is_led("orders"), 60)
    clients.send("orders", 200)
    assert clients.read("orders", "readers", 200) == list(range(200))
    backup()
    clients.send("orders", 100)
    bounce()  # leaders get epochs that the backup does not know
    until(lambda: clients.is_led("orders"), 90)
    clients.send("orders", 100)
    clients.create("late")


@pytest.mark.crash
def test_a_cluster_of_one_machine_is_restored(directory: Path, tmp_path: Path) -> None:
    port = free_port(neighbours=3)
    settings = [part for key, value in SETTINGS.items() for part in ("-X", f"{key}={value}")]
    up = SupervisorProcess(directory, "cluster", "up", "--port", str(port), *settings)
    file = tmp_path / "tree.jsonl"
    try:
        up.start()
        clients = Clients(f"127.0.0.1:{port}")

        def bounce() -> None:
            before = up.brokers()
            for pid in before.values():
                assert pid is not None
            subprocess.run(["kill", "-TERM", str(before[2])], check=True)
            until(lambda: up.brokers()[2] not in (None, before[2]), 60)

        before_and_after_the_backup(
            clients, lambda: ottla("cluster", "backup", str(file), "--data-dir", str(directory)), bounce
        )
        assert file.stat().st_mode & 0o077 == 0
        up.terminate()
        for path in directory.glob("ottla.sqlite*"):
            path.unlink()
        refused = SupervisorProcess(directory, "cluster", "up", "--port", str(port), *settings)
        with pytest.raises(AssertionError, match="is it the right one"):
            refused.start()
        refused.close()
        for path in directory.glob("ottla.sqlite*"):
            path.unlink()
        told = ottla("cluster", "restore", str(file), "--data-dir", str(directory), "--yes")
        assert "start the brokers now" in told
        up.start()
        check_after(clients)
        assert list(directory.glob("**/late-0*-stray"))
    finally:
        up.close()


@pytest.mark.zookeeper
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_cluster_on_zookeeper_is_restored(tmp_path: Path, end: signal.Signals) -> None:
    """All of ZooKeeper's data are lost, and the brokers are stopped, in order or by kill -9."""
    zookeeper_anchor.require()
    file = tmp_path / "tree.jsonl"
    ensemble = ZooKeeperEnsemble(1)
    ensemble.start()
    brokers = EnsembleBrokers(f"{ensemble.servers[0]}/lost", settings={**SETTINGS, "min.insync.replicas": "2"})
    try:
        with brokers:
            clients = Clients(brokers.bootstrap)

            def bounce() -> None:
                brokers[2].terminate()
                brokers[2].start(timeout_s=60)

            before_and_after_the_backup(
                clients, lambda: ottla("cluster", "backup", str(file), "--zookeeper", brokers.connect), bounce
            )
            for broker in brokers.brokers.values():
                broker.signal(end)
            for broker in brokers.brokers.values():
                broker.wait_until_dead(timeout_s=60)
            ensemble.stop()
            ensemble = ZooKeeperEnsemble(1)
            ensemble.start()
            for broker in brokers.brokers.values():
                broker.settings["zookeeper.connect"] = f"{ensemble.servers[0]}/lost"
            brokers[1].spawn()
            assert brokers[1].wait_until_dead(timeout_s=60) == 1
            assert "the coordination tree has no cluster" in brokers[1].output
            connect = brokers[1].settings["zookeeper.connect"]
            # The broker that was refused has made the chroot, and nothing in it.
            ottla("cluster", "restore", str(file), "--zookeeper", connect, "--yes")
            brokers.start()
            check_after(clients)
    finally:
        brokers.close()
        ensemble.stop()
