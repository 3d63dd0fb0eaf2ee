"""Replication between real processes on a real ensemble, under the load of somebody else's clients."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

pytestmark = pytest.mark.zookeeper

TOPIC, PARTITIONS = "replicated", 3


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(3)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


@pytest.fixture
def brokers(ensemble: ZooKeeperEnsemble, request: pytest.FixtureRequest) -> Iterator[EnsembleBrokers]:
    settings = {"zookeeper.session.timeout.ms": "6000", "min.insync.replicas": "2", "replica.lag.time.max.ms": "5000"}
    with EnsembleBrokers(f"{','.join(ensemble.servers)}/{request.node.name}", settings=settings) as brokers:
        yield brokers


class Load:
    """A producer of numbered records to every partition; `acknowledged` is where it was told that they are."""

    def __init__(self, bootstrap: str) -> None:
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.failed: list[str] = []
        self._bootstrap = bootstrap
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 90_000,
                "topic.metadata.refresh.interval.ms": 500,
                "log_level": 0,
            }
        )
        number = 0
        while not self._stopped.is_set():
            for index in range(PARTITIONS):
                producer.produce(TOPIC, b"%d" % number, partition=index, on_delivery=self._on_delivery)
            number += 1
            producer.poll(0.002)
        producer.flush(100)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        value, partition, offset = message.value(), message.partition(), message.offset()
        if error is not None:
            self.failed.append(str(error))
        else:
            assert value is not None
            assert partition is not None
            assert offset is not None
            self.acknowledged[partition, offset] = int(value)


def describe(bootstrap: str) -> dict[int, tuple[int, set[int]]]:
    """Return leader and ISR of every partition."""
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    found = client.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    return {index: (partition.leader, set(partition.isrs)) for index, partition in found.items()}


def until_whole(bootstrap: str, seconds: float = 60) -> None:
    """Wait until every partition has all its replicas in sync."""
    deadline = time.monotonic() + seconds
    while True:
        found = describe(bootstrap)
        if len(found) == PARTITIONS and all(len(isr) == 3 and leader in isr for leader, isr in found.values()):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def records(bootstrap: str) -> dict[tuple[int, int], int]:
    """Read everything."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "all", "enable.partition.eof": True, "log_level": 0}
    )
    found: dict[tuple[int, int], int] = {}
    try:
        consumer.assign([TopicPartition(TOPIC, index, 0) for index in range(PARTITIONS)])
        ended: set[int] = set()
        deadline = time.monotonic() + 60
        while len(ended) < PARTITIONS and time.monotonic() < deadline:
            for message in consumer.consume(5_000, 0.5):
                partition, offset, value, error = (
                    message.partition(),
                    message.offset(),
                    message.value(),
                    message.error(),
                )
                assert partition is not None
                assert offset is not None
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(partition)
                else:
                    assert value is not None
                    found[partition, offset] = int(value)
        assert len(ended) == PARTITIONS
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("how", ["kill", "terminate", "stop"])
def test_leaders_die_under_load_and_nothing_acknowledged_is_lost(brokers: EnsembleBrokers, how: str) -> None:
    """Three times the broker that leads partition 0 dies, is stopped cleanly or is paused for longer than its session."""
    client = AdminClient({"bootstrap.servers": brokers.bootstrap, "log_level": 0})
    client.create_topics([NewTopic(TOPIC, PARTITIONS, 3)])[TOPIC].result(30)
    until_whole(brokers.bootstrap)
    with Load(brokers.bootstrap) as load:
        for _ in range(3):
            time.sleep(2)
            leader = describe(brokers.bootstrap)[0][0]
            if how == "stop":
                brokers[leader].signal(signal.SIGSTOP)
                others = ",".join(broker.address for n, broker in brokers.brokers.items() if n != leader)
                deadline = time.monotonic() + 60
                while describe(others)[0][0] in (leader, -1):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                time.sleep(1)
                brokers[leader].signal(signal.SIGCONT)
            else:
                getattr(brokers[leader], how)()
                brokers[leader].start(timeout_s=60)
            until_whole(brokers.bootstrap)
    assert load.failed == []
    assert len(load.acknowledged) > 1_000
    found = records(brokers.bootstrap)
    lost = {place: value for place, value in load.acknowledged.items() if found.get(place) != value}
    assert lost == {}
    for index in range(PARTITIONS):
        values = [value for (partition, _), value in sorted(found.items()) if partition == index]
        assert [value for value, count in Counter(values).items() if count > 1] == []
        assert values == sorted(values)
