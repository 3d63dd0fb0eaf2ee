"""Several brokers as real processes on a real ensemble, with somebody else's client."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from kazoo.client import KazooClient
from kazoo.security import READ_ACL_UNSAFE
from tests.support import zookeeper_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.ports import free_port
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.errors import ErrorCode
from ottla.protocol.codec import encode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicsResponse, DeleteTopicState
from ottla.protocol.messages.elect_leaders import ElectLeadersRequest, ElectLeadersResponse, TopicPartitions
from ottla.protocol.messages.envelope import EnvelopeRequest, EnvelopeResponse
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.testing.wire import WireClient

T = TypeVar("T")

pytestmark = pytest.mark.zookeeper


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
    with EnsembleBrokers(f"{','.join(ensemble.servers)}/{request.node.name}") as brokers:
        yield brokers


def until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def admin(broker: BrokerProcess) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.address, "topic.metadata.refresh.interval.ms": 500})


def ask(broker: BrokerProcess, question: Callable[[AdminClient], Future[T]]) -> T:
    """Wait for an answer; the client lives until then."""
    client = admin(broker)
    return question(client).result(30)


def controller(broker: BrokerProcess) -> int:
    """Return who is the controller, as a broker knows it, -1 if there is none or it is gone: librdkafka waits for it then."""
    client = admin(broker)  # kept while the future is waited for: it ends with its client
    try:
        node = client.describe_cluster(request_timeout=10).result(20).controller
    except KafkaException:
        return -1
    return -1 if node is None else node.id


def leaders(broker: BrokerProcess, topic: str) -> dict[int, int]:
    """Leader by partition, as this broker knows it."""
    found = admin(broker).list_topics(topic, timeout=10).topics[topic]
    return {index: partition.leader for index, partition in found.partitions.items()}


def produce(bootstrap: str, topic: str, values: range) -> None:
    failed = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 60_000})
    for value in values:
        producer.produce(topic, str(value), on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert failed == []


def consume(bootstrap: str, topic: str, group: str, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        found: list[int] = []
        deadline = time.monotonic() + 60
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(1_000, 0.5):
                if not message.error():
                    value = message.value()
                    assert value is not None
                    found.append(int(value))
        consumer.commit(asynchronous=False)
        return sorted(found)
    finally:
        consumer.close()


def test_three_brokers_share_the_work(brokers: EnsembleBrokers) -> None:
    """1. All start at once on a new chroot, and agree on one cluster. 2. Topics, records, groups. 3. More partitions, by

    any broker. 4. A controlled stop, and kill -9, of the controller: the others go on, and it comes back.
    """
    described = [ask(broker, lambda client: client.describe_cluster()) for broker in brokers.brokers.values()]
    assert len({cluster.cluster_id for cluster in described}) == 1
    for broker in brokers.brokers.values():
        until(lambda: sorted(admin(broker).list_topics(timeout=10).brokers) == [1, 2, 3])  # noqa: B023

    ask(brokers[2], lambda client: client.create_topics([NewTopic("t", 6, 1)])["t"])
    for broker in brokers.brokers.values():
        assert sorted(leaders(broker, "t").values()) == [1, 1, 2, 2, 3, 3]
    produce(brokers[3].address, "t", range(1_000))
    assert consume(brokers[1].address, "t", "g", 1_000) == list(range(1_000))
    coordinators = leaders(brokers[2], "__consumer_offsets")
    assert set(coordinators.values()) == {1, 2, 3}

    ask(brokers[3], lambda client: client.create_partitions([NewPartitions("t", 9)])["t"])
    until(lambda: all(len(leaders(broker, "t")) == 9 for broker in brokers.brokers.values()))

    for end in ("terminate", "kill"):
        gone = controller(brokers[1])
        getattr(brokers[gone], end)()
        others = [broker for node_id, broker in brokers.brokers.items() if node_id != gone]
        until(lambda: all(controller(b) not in (gone, -1) for b in others))  # noqa: B023
        brokers[gone].start(timeout_s=60)
        until(lambda: all(-1 not in leaders(broker, "t").values() for broker in brokers.brokers.values()))
        produce(brokers.bootstrap, "t", range(1_000))
    assert len(consume(brokers.bootstrap, "t", "late", 3_000)) == 3_000
    ask(brokers[1], lambda client: client.delete_topics(["t"])["t"])
    until(lambda: all("t" not in admin(broker).list_topics(timeout=10).topics for broker in brokers.brokers.values()))


def test_a_stopped_process_is_taken_for_dead(brokers: EnsembleBrokers) -> None:
    """SIGSTOP for longer than the session: another one is the controller; when it goes on it registers anew."""
    gone = controller(brokers[1])
    brokers[gone].signal(signal.SIGSTOP)
    others = [broker for node_id, broker in brokers.brokers.items() if node_id != gone]
    until(lambda: all(controller(b) not in (gone, -1) for b in others))
    brokers[gone].signal(signal.SIGCONT)
    until(lambda: gone in admin(others[0]).list_topics(timeout=10).brokers)
    assert brokers[gone].is_running()


def refusal(connect: str, node_id: int, **more: str) -> str:
    """Start a broker with a new directory that is refused; return what it says."""
    settings = {
        "zookeeper.connect": connect,
        "broker.id": str(node_id),
        "zookeeper.connection.timeout.ms": "5000",
        **more,
    }
    broker = BrokerProcess(settings, data_dir=Path(settings.pop("log.dirs")) if more.get("log.dirs") else None)
    try:
        broker.spawn()
        assert broker.wait_until_dead(timeout_s=60) == 1
        assert "Traceback" not in broker.output
        return broker.output.splitlines()[-1]
    finally:
        broker.close()


def test_what_only_the_controller_can_do_any_broker_passes_on(brokers: EnsembleBrokers) -> None:
    """1. Deletions and elections, asked of a broker that is not the controller. 2. That broker shows what was done. 3. An

    Envelope from somebody who is no broker is not believed.
    """

    async def story() -> None:
        at = controller(brokers[1])
        asked = brokers[next(node_id for node_id in (1, 2, 3) if node_id != at)]
        client = await WireClient.connect("127.0.0.1", asked.port)
        topic = CreatableTopic(name="t", num_partitions=3, replication_factor=1)
        created = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=20_000), 7, CreateTopicsResponse)
        assert created.topics[0].error_code == ErrorCode.NONE

        election = ElectLeadersRequest(topic_partitions=[TopicPartitions(topic="t", partitions=[0])], timeout_ms=20_000)
        elected = await client.ask(election, 2, ElectLeadersResponse)
        row = elected.replica_election_results[0].partition_result[0]
        assert row.error_code == ErrorCode.ELECTION_NOT_NEEDED

        deleting = DeleteTopicsRequest(topics=[DeleteTopicState(name="t")], timeout_ms=20_000)
        for error in (ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION):
            deleted = await client.ask(deleting, 6, DeleteTopicsResponse)
            assert [row.error_code for row in deleted.responses] == [error]
            metadata = await client.ask(MetadataRequest(topics=None), 12, MetadataResponse)
            assert [found.name for found in metadata.topics] == []

        at_controller = await WireClient.connect("127.0.0.1", brokers[at].port)
        inner = encode(RequestHeader(request_api_key=20, request_api_version=6, client_id=None), 2) + encode(
            deleting, 6
        )
        for sender in (-1, asked_id(brokers, asked)):
            forged = EnvelopeRequest(request_data=inner, request_principal=b"User:admin", broker_id=sender, process="x")
            answer = await at_controller.ask(forged, 0, EnvelopeResponse)
            assert answer.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        client.close()
        at_controller.close()

    asyncio.run(story())


def asked_id(brokers: EnsembleBrokers, broker: BrokerProcess) -> int:
    return next(node_id for node_id, one in brokers.brokers.items() if one is broker)


def test_transactions_span_brokers(brokers: EnsembleBrokers) -> None:
    """Partitions, group and transaction coordinators are on different brokers: 1. committed and aborted transactions;

    2. copies with offsets in the transaction, while brokers are killed and started again: each input exactly once.
    """
    ask(brokers[1], lambda client: client.create_topics([NewTopic("in", 6, 1)])["in"])
    ask(brokers[1], lambda client: client.create_topics([NewTopic("out", 6, 1)])["out"])
    producer = Producer({"bootstrap.servers": brokers.bootstrap, "transactional.id": "loader"})
    producer.init_transactions(60)
    for number in range(10):
        producer.begin_transaction()
        for value in range(60):
            producer.produce("in", str(number * 60 + value), partition=value % 6)
        if number % 2:
            producer.commit_transaction(60)
        else:
            producer.abort_transaction(60)
    committed = sorted(number * 60 + value for number in range(1, 10, 2) for value in range(60))
    assert consume(brokers.bootstrap, "in", "reader", len(committed)) == committed

    copier = Copier(brokers.bootstrap)
    for victim in (1, 2, 3, 1):
        copier.copy(50)
        brokers[victim].kill()
        killed = threading.Thread(target=brokers[victim].start, kwargs={"timeout_s": 60})
        killed.start()
        copier.copy(20)
        killed.join()
    copier.copy_all(len(committed))
    assert consume(brokers.bootstrap, "out", "checker", len(committed)) == committed


class Copier:
    """Copies `in` to `out`, a transaction for each batch, with the offsets in it. A failed one is begun again."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.copied = 0
        self._begin()

    def _begin(self) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "copier",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "session.timeout.ms": 6_000,
            }
        )
        self._consumer.subscribe(["in"])
        self._producer = Producer({"bootstrap.servers": self._bootstrap, "transactional.id": "copier"})
        deadline = time.monotonic() + 90
        while True:
            try:
                return self._producer.init_transactions(30)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise

    def copy(self, count: int) -> None:
        """Copy at least so many records more, or what there is."""
        wanted, deadline = self.copied + count, time.monotonic() + 120
        while self.copied < wanted:
            assert time.monotonic() < deadline, f"{self.copied} copied"
            messages = [m for m in self._consumer.consume(10, 2) if not m.error()]
            if messages:
                self._transaction(messages)

    def copy_all(self, count: int) -> None:
        self.copy(count - self.copied)

    def _transaction(self, messages: list[Message]) -> None:
        try:
            self._producer.begin_transaction()
            for message in messages:
                self._producer.produce("out", message.value(), partition=message.partition() or 0)
            offsets = self._consumer.position(self._consumer.assignment())
            self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), 60)
            self._producer.commit_transaction(60)
        except KafkaException:
            # What the transaction did is undone by the next producer of this id; the consumer goes back to what is committed.
            self._consumer.close()
            self._begin()
        else:
            self.copied += len(messages)


def cluster_id_in(directory: Path) -> str:
    lines = (directory / "meta.properties").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))


def test_bad_input_is_one_sentence_and_changes_nothing(
    ensemble: ZooKeeperEnsemble, brokers: EnsembleBrokers, tmp_path: Path
) -> None:
    """A taken id, an address that another broker advertises, a directory of another cluster, a chroot of Apache Kafka, one

    that cannot be made, no server.
    """
    before = ask(brokers[1], lambda client: client.describe_cluster())
    here = {"listeners": "PLAINTEXT://127.0.0.1:0"}
    assert f"broker id 2 is taken by a living broker at {brokers[2].address}" in refusal(brokers.connect, 2, **here)
    advertised = f"PLAINTEXT://{brokers[2].address}"
    sentence = f"broker 2 is registered under {brokers[2].address}, as broker 4 would be"
    assert sentence in refusal(brokers.connect, 4, **{"advertised.listeners": advertised})

    with BrokerProcess(data_dir=tmp_path / "single") as single:
        assert single.is_running()
    sentence = f"single belongs to the cluster {cluster_id_in(tmp_path / 'single')}, this one is {before.cluster_id}"
    assert sentence in refusal(brokers.connect, 1, **{"log.dirs": str(tmp_path / "single")})
    new = brokers.connect + "/new"
    sentence = "and the coordination tree has no cluster: is it the right one (the chroot in zookeeper.connect)?"
    assert sentence in refusal(new, 1, **{"log.dirs": str(tmp_path / "single")})

    client = KazooClient(",".join(ensemble.servers))
    client.start()
    try:
        client.create("/kafka/cluster/id", b'{"version":"1","id":"theirs"}', makepath=True)
        client.create("/closed", b"", acl=READ_ACL_UNSAFE)
    finally:
        client.stop()
        client.close()
    servers = ",".join(ensemble.servers)
    sentence = "this chroot of ZooKeeper has the nodes of a cluster of Apache Kafka (theirs)"
    assert sentence in refusal(f"{servers}/kafka", 1)
    sentence = f"the chroot /closed/ottla cannot be made in {servers}: ZooKeeper says NoAuthError of /closed/ottla"
    assert sentence in refusal(f"{servers}/closed/ottla", 1)
    nowhere = f"127.0.0.1:{free_port()}"
    assert f"no ZooKeeper server of {nowhere}/x could be reached within 5000 ms" in refusal(f"{nowhere}/x", 1)

    after = ask(brokers[1], lambda client: client.describe_cluster())
    assert sorted(node.id for node in after.nodes) == [1, 2, 3]
    assert (after.cluster_id, after.controller.id) == (before.cluster_id, before.controller.id)
