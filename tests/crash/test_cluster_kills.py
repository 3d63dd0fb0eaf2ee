"""Three replicated brokers of one machine, killed again and again under load: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.cli.test_supervisor import SupervisorProcess
from tests.support.ports import free_port

pytestmark = pytest.mark.crash

PARTITIONS = 6
KILLS = int(os.environ.get("OTTLA_CLUSTER_KILLS", "10"))


class Load:
    """A producer that does not rest; what was acknowledged, by partition, is its to remember."""

    def __init__(self, bootstrap: str) -> None:
        self.acknowledged: dict[int, list[int]] = {index: [] for index in range(PARTITIONS)}
        self.failed: list[object] = []
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 120_000, "linger.ms": 5}
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(0.002):
            index = number % PARTITIONS
            try:
                self._producer.produce("t", str(number), partition=index, on_delivery=self._on_delivery(index, number))
                number += 1
            except BufferError:
                pass
            self._producer.poll(0)

    def _on_delivery(self, index: int, number: int):  # type: ignore[no-untyped-def]
        def note(error: object, _message: object) -> None:
            if error:
                self.failed.append(error)
            else:
                self.acknowledged[index].append(number)

        return note

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(120) == 0


def test_nothing_acknowledged_is_lost() -> None:
    directory, port = Path(tempfile.mkdtemp(prefix="ottla-up-")), free_port(neighbours=2)
    up = SupervisorProcess(directory, "cluster", "up", "--port", str(port))
    bootstrap = ",".join(f"127.0.0.1:{port + number}" for number in range(3))
    dice = random.Random(5)
    try:
        up.start()
        client = AdminClient({"bootstrap.servers": bootstrap})
        topic = NewTopic("t", PARTITIONS, 3, config={"min.insync.replicas": "2"})
        client.create_topics([topic])["t"].result(30)
        load = Load(bootstrap)
        for _ in range(KILLS):
            time.sleep(2)  # under load
            victim = dice.choice([1, 2, 3])
            pid = up.brokers()[victim]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 120
            while up.brokers()[victim] in (None, pid) or not in_sync(client):
                assert time.monotonic() < deadline, up.output
                time.sleep(0.1)
        load.stop()
        assert load.failed == []
        for index, acknowledged in load.acknowledged.items():
            assert acknowledged
            values = everything(bootstrap, index)
            assert values == sorted(values), "order was not kept"
            assert len(values) == len(set(values)), "a record is there twice"
            assert set(acknowledged) <= set(values), "an acknowledged record is lost"
    finally:
        up.close()
        shutil.rmtree(directory, ignore_errors=True)


def in_sync(client: AdminClient) -> bool:
    try:
        found = client.list_topics("t", timeout=5)
    except KafkaException:
        return False
    return len(found.brokers) == 3 and all(len(p.isrs) == 3 for p in found.topics["t"].partitions.values())


def everything(bootstrap: str, index: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "check", "auto.offset.reset": "earliest"})
    try:
        place = TopicPartition("t", index, 0)
        consumer.assign([place])
        _, end = consumer.get_watermark_offsets(place, timeout=20)
        found: list[int] = []
        last, deadline = -1, time.monotonic() + 60
        while last < end - 1 and time.monotonic() < deadline:
            for message in consumer.consume(2_000, 1):
                if not message.error():
                    value, offset = message.value(), message.offset()
                    assert value is not None
                    assert offset is not None
                    found.append(int(value))
                    last = offset
        return found
    finally:
        consumer.close()
