"""docs/moving-from-kafka.md, the whole way: from a running Apache Kafka to ottla with MirrorMaker 2, and back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).parents[2] / "docs" / "moving-from-kafka.md"
GROUP = "readers"


def until(condition: Callable[[], bool], what: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@contextmanager
def mirror(name: str, folder: Path, old: str, new: str) -> Iterator[Path]:
    """Run MirrorMaker with the file of this name on the page; yield its log. It is stopped as an operator does."""
    (text,) = re.findall(rf"```properties\n(# {name}.*?)```", PAGE.read_text(), re.DOTALL)
    text = text.replace("kafka1.example.com:9092", old).replace("ottla1.example.com:9092", new)
    file, log = folder / name, folder / f"{name}.log"
    file.write_text(re.sub(r"replication\.factor = 3$", "replication.factor = 1", text, flags=re.MULTILINE))
    environment = {**os.environ, "KAFKA_HEAP": "-Xmx512m -XX:TieredStopAtLevel=1", "LOG_LEVEL": "INFO"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(kafka_anchor.ANCHOR / "tool"), "connect-mirror-maker", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Side:
    """One of the two clusters, as clients see it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.admin = AdminClient({"bootstrap.servers": address, "log_level": 0})

    def send(self, values: range) -> None:
        producer = Producer({"bootstrap.servers": self.address, "enable.idempotence": True, "log_level": 0})
        for value in values:
            producer.produce(
                "orders", str(value), key=str(value % 7), headers={"n": str(value)}, timestamp=10**12 + value
            )
        assert producer.flush(60) == 0

    def consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": GROUP,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )

    def read(self, last: int, count: int) -> list[int]:
        """Read as a member of the group until `last` values, or `count` of them, were seen; commit."""
        consumer = self.consumer()
        consumer.subscribe(["orders"])
        found: list[int] = []

        def take() -> bool:
            for message in consumer.consume(min(50, count - len(found)), 0.5):
                if not message.error():
                    assert dict(message.headers() or ())["n"] == message.value()
                    assert message.timestamp()[1] == 10**12 + int(message.value() or b"")
                    found.append(int(message.value() or b""))
            return len(found) >= count or last in found

        until(take, lambda: found)
        consumer.commit(asynchronous=False)
        consumer.close()
        return found

    def everything(self, count: int) -> list[int]:
        """Read all records without a group."""
        consumer = self.consumer()
        consumer.assign([TopicPartition("orders", partition, 0) for partition in (0, 1)])
        found: list[int] = []

        def take() -> bool:
            found.extend(int(m.value() or b"") for m in consumer.consume(500, 0.5) if not m.error())
            return len(found) >= count

        until(take, lambda: (len(found), count))
        consumer.close()
        return sorted(found)

    def committed(self) -> int:
        """Return the sum of the group's offsets."""
        consumer = self.consumer()
        offsets = consumer.committed([TopicPartition("orders", partition) for partition in (0, 1)], 10)
        consumer.close()
        return sum(max(place.offset, 0) for place in offsets)

    def ends(self) -> int:
        """Return the number of records, 0 as long as there is no topic."""
        if "orders" not in self.admin.list_topics(timeout=10).topics:
            return 0
        consumer = self.consumer()
        total = sum(consumer.get_watermark_offsets(TopicPartition("orders", p), 10)[1] for p in (0, 1))
        consumer.close()
        return total


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. Mirror, while producers write. 2. The group moves, then the producers. 3. Both go back, with what was written, and

    the group gets at least what it has not read.
    """
    kafka_anchor.require()
    monkeypatch.setattr(kafka_anchor, "START_TIMEOUT_S", 180.0)  # a busy machine starts Java slowly
    theirs = kafka_anchor.KafkaProcess()
    try:
        theirs.start()
        with BrokerProcess({"group.initial.rebalance.delay.ms": "0"}) as ours:
            old, new = Side(theirs.address), Side(ours.address)
            old.admin.create_topics([NewTopic("orders", 2, 1, config={"retention.ms": "-1"})])["orders"].result(60)
            old.send(range(300))
            first = old.read(-1, 200)

            with mirror("mirror.properties", tmp_path, old.address, new.address) as log:
                until(lambda: new.ends() == 300, log.read_text)
                first += old.read(-1, 100)  # it has caught up, and stops
                until(lambda: new.committed() == 300, lambda: (new.committed(), log.read_text()))
                old.send(range(300, 400))
                until(lambda: new.ends() == 400, log.read_text)
            assert len(new.admin.list_topics(timeout=10).topics["orders"].partitions) == 2
            second = new.read(-1, 100)
            assert sorted(first + second) == list(range(400)), "the group goes on where it was"

            with mirror("back.properties", tmp_path, old.address, new.address) as log:
                until(lambda: _is_at_the_ends(log), log.read_text)
                new.send(range(400, 500))
                third = new.read(-1, 50)
                until(lambda: old.ends() == 500, log.read_text)
            assert old.everything(500) == list(range(500)), "nothing is missing or doubled in the old cluster"
            unread = set(range(500)) - set(first) - set(second) - set(third)
            assert len(unread) == 50
            assert unread <= set(old.read(-1, old.ends() - old.committed())), "the group leaves nothing out"
    finally:
        theirs.close()


def _is_at_the_ends(log: Path) -> bool:
    """Whether the mirror has looked up where the partitions end."""
    return len(re.findall(r"Resetting offset for partition orders-\d", log.read_text())) >= 2
