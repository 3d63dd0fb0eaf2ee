"""A disk that hangs under a broker of a real ensemble: `hung_disk_gives_up_leadership` with processes.

The file system of one broker's data is frozen (`fsfreeze`): every write waits, and nothing fails. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.crash.test_power_cut import LoopDisk
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

pytestmark = [pytest.mark.crash, pytest.mark.zookeeper]

TOPIC = "t"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or shutil.which("fsfreeze") is None:
        pytest.skip("freezing a loop device needs root, mkfs.ext4 and fsfreeze")
    try:
        made = LoopDisk(tmp_path, megabytes=400)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device: {error.stderr}")
    try:
        yield made
    finally:
        subprocess.run(["fsfreeze", "-u", str(made.path)], check=False, capture_output=True)
        made.close()


def leader_and_isr(address: str) -> tuple[int, set[int]]:
    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    partition = client.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0]
    return partition.leader, set(partition.isrs)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def send(bootstrap: str, value: bytes) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "message.timeout.ms": 60_000,
            "request.timeout.ms": 5_000,  # a process that hangs in a write answers nothing, and closes nothing
            "socket.timeout.ms": 10_000,
            "log_level": 0,
        }
    )
    failed: list[object] = []
    producer.produce(TOPIC, value, on_delivery=lambda error, _message: failed.append(error) if error else None)
    assert producer.flush(70) == 0
    assert failed == []


def test_hung_disk_gives_up_leadership(disk: LoopDisk) -> None:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    ensemble.start()
    try:
        connect = f"{','.join(ensemble.servers)}/hung"
        brokers = EnsembleBrokers(connect, settings={"min.insync.replicas": "2", "log.initial.task.delay.ms": "1000"})
        brokers[1].data_dir = disk.path / "1"
        with brokers:
            admin = AdminClient({"bootstrap.servers": brokers.bootstrap, "log_level": 0})
            admin.create_topics([NewTopic(TOPIC, num_partitions=1, replica_assignment=[[1, 2, 3]])])[TOPIC].result(20)
            send(brokers.bootstrap, b"before")
            subprocess.run(["fsfreeze", "-f", str(disk.path)], check=True)
            try:
                others = f"{brokers[2].address},{brokers[3].address}"
                send(others, b"while it hangs")  # acknowledged by the others, whoever led
                until(lambda: leader_and_isr(brokers[2].address)[0] in (2, 3))
            finally:
                subprocess.run(["fsfreeze", "-u", str(disk.path)], check=True)

            def is_whole() -> bool:
                if not brokers[1].is_running():  # its watchdog has ended it, as soon as the write came back
                    brokers[1].start(timeout_s=60)
                return leader_and_isr(brokers[2].address)[1] == {1, 2, 3}

            until(is_whole)
    finally:
        ensemble.stop()
