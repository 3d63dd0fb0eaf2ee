"""Replicas move between log directories of a broker (AlterReplicaLogDirs) while clients go on: a process and real disks."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Assigned
from tests.cli.test_supervisor import until
from tests.support.broker_process import BrokerProcess

from ottla import Admin
from ottla.errors import KafkaError, LogDirNotFoundError
from ottla.types import TopicPartition

FIRST, SECOND = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def directories() -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="ottla-jbod-") as made:
        yield f"{made}/1", f"{made}/2"


def where(admin: Admin) -> dict[TopicPartition, str]:
    """Return the directory of each replica of `t`; copies that grow do not count."""
    found = {}
    for directory in admin.describe_log_dirs()[1]:
        for tp, replica in directory.replicas.items():
            if tp.topic == "t" and not replica.is_future:
                found[tp] = directory.path
    return found


def broker_on(directories: tuple[str, str]) -> BrokerProcess:
    return BrokerProcess(
        {"log.dirs": ",".join(directories), "log.segment.bytes": "1048576"}, data_dir=Path(directories[0])
    )


class Load:
    """A producer in a thread: numbers to both partitions."""

    def __init__(self, address: str) -> None:
        self._producer = Producer(
            {"bootstrap.servers": address, "enable.idempotence": True, "log_level": 0, "linger.ms": 2}
        )
        self.sent: list[int] = [0, 0]
        self.failed: list[object] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.wait(0.005):
            for partition in (0, 1):
                value = b"%08d" % self.sent[partition] + b"." * 2_000
                self._producer.produce("t", value, partition=partition, on_delivery=self._on_delivery)
                self.sent[partition] += 1
            self._producer.poll(0)

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self.failed.append(error)

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(30)
        assert self._producer.flush(60) == 0
        assert self.failed == []


def numbers_of(address: str, counts: list[int]) -> list[list[int]]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "readers", "log_level": 0})
    consumer.assign([Assigned("t", partition, 0) for partition in (0, 1)])
    found: list[list[int]] = [[], []]

    def take() -> bool:
        for m in consumer.consume(1_000, 0.5):
            assert not m.error()
            found[int(m.partition() or 0)].append(int((m.value() or b"")[:8]))
        return sum(map(len, found)) >= sum(counts)

    until(take)
    consumer.close()
    return found


def test_replicas_move_between_directories_under_load(directories: tuple[str, str]) -> None:
    """1. Both partitions move to the other directory. 2. Nothing is lost or doubled, order is kept, also after a restart.

    3. What cannot be done is refused, one by one.
    """
    with broker_on(directories) as broker, Admin(broker.address) as admin:
        admin.create_topic("t", partitions=2)
        before = where(admin)
        assert set(before.values()) == set(directories)
        load = Load(broker.address)
        try:
            until(lambda: min(load.sent) > 200)
            others = {tp: next(d for d in directories if d != path) for tp, path in before.items()}
            admin.alter_replica_log_dirs(others, broker=1)
            until(lambda: where(admin) == others)
            sent = load.sent[0]
            until(lambda: load.sent[0] > sent + 200)
            admin.alter_replica_log_dirs({FIRST: others[FIRST]}, broker=1)  # it is there
        finally:
            load.stop()
        expected = [list(range(count)) for count in load.sent]
        assert numbers_of(broker.address, load.sent) == expected
        with pytest.raises(LogDirNotFoundError):
            admin.alter_replica_log_dirs({FIRST: "/nowhere"}, broker=1)
        with pytest.raises(KafkaError):
            admin.alter_replica_log_dirs({TopicPartition("none", 0): directories[0]}, broker=1)
        broker.terminate()
        broker.start()
        assert where(admin) == others
        assert numbers_of(broker.address, load.sent) == expected


def test_a_topic_is_made_where_it_was_asked_for_before_it_was_there(directories: tuple[str, str]) -> None:
    with broker_on(directories) as broker, Admin(broker.address) as admin:
        for tp in (FIRST, SECOND):
            with pytest.raises(KafkaError):
                admin.alter_replica_log_dirs({tp: directories[1]}, broker=1, timeout=2)
        admin.create_topic("t", partitions=2)
        assert where(admin) == {FIRST: directories[1], SECOND: directories[1]}
