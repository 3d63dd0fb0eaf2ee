"""Brokers on a real ensemble that speak TLS to each other and obey access rules, and a plain cluster that becomes one."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from tests.cli.test_supervisor import until
from tests.support import zookeeper_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port
from tests.support.secure_cluster import Security, password_of
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

import ottla

pytestmark = pytest.mark.zookeeper

COMMON = {
    "zookeeper.session.timeout.ms": "6000",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "3",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
}
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:broker;User:admin",
}


@pytest.fixture(scope="module")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(1)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()


class SecureBrokers:
    """Three brokers, each with a port for plain clients and one for SASL_SSL; a settings file of its own each.

    Attributes:
        ports: (plain, secure) of each broker.
    """

    def __init__(self, connect: str, security: Security, directory: Path) -> None:
        self._connect = connect
        self._security = security
        self.ports = {node_id: (free_port(), free_port()) for node_id in (1, 2, 3)}
        self.brokers: dict[int, BrokerProcess] = {}
        self._directory = directory

    def at(self, *node_ids: int, secure: bool = True) -> str:
        return ",".join(f"127.0.0.1:{self.ports[n][secure]}" for n in node_ids or (1, 2, 3))

    def begin(self, node_id: int, listeners: str, settings: dict[str, str]) -> None:
        """Start a broker, or start it again, with these settings; do not wait.

        Args:
            listeners: with PLAIN and SECURE in the place of ports.
        """
        old = self.brokers.get(node_id)
        plain, secure = self.ports[node_id]
        written = listeners.replace("PLAINPORT", str(plain)).replace("SECUREPORT", str(secure))
        file = self._security.write(
            f"{node_id}.properties",
            {**COMMON, "zookeeper.connect": self._connect, "broker.id": str(node_id), "listeners": written, **settings},
        )
        if old is not None and old.is_running():
            old.terminate()
        first = int(written.split(",")[0].rpartition(":")[2])
        self.brokers[node_id] = BrokerProcess(data_dir=self._directory / str(node_id), port=first, options=(str(file),))
        self.brokers[node_id].spawn()

    def start(self, listeners: str, settings: dict[str, str]) -> None:
        for node_id in self.ports:
            self.begin(node_id, listeners, settings)
        for broker in self.brokers.values():
            broker.wait_until_ready(timeout_s=60)

    def close(self) -> None:
        for broker in self.brokers.values():
            broker.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ottla-secure-") as made:
        yield Path(made)


def isrs(client: AdminClient, topic: str) -> list[tuple[int, set[int]]]:
    found = client.list_topics(topic, timeout=10).topics[topic].partitions
    return [(found[n].leader, set(found[n].isrs)) for n in sorted(found)]


def is_whole(client: AdminClient, *topics: str) -> bool:
    return all(leader >= 0 and isr == {1, 2, 3} for topic in topics for leader, isr in isrs(client, topic))


def allow(admin: AdminClient, user: str, topic: str, operation: AclOperation) -> None:
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
    admin.create_acls([binding])[binding].result(20)


def code_of(future: Any) -> int:
    """Return the error code that a request of an admin client came to; 0 for none."""
    try:
        future.result(30)
    except KafkaException as error:
        return int(error.args[0].code())
    return 0


def produced(config: dict[str, Any], topic: str, value: bytes) -> int:
    """Return the error code with which a record was refused; 0: it was acknowledged."""
    producer = Producer({**config, "acks": "all", "message.timeout.ms": 60_000})
    codes: list[int] = []
    producer.produce(topic, value, on_delivery=lambda error, _: codes.append(error.code() if error else 0))
    producer.flush(70)
    return codes[0]


def values_in(config: dict[str, Any], topic: str, count: int) -> list[bytes]:
    """Return all values of a topic, of each partition in order, when there are `count`."""
    consumer = Consumer(
        {
            **config,
            "group.id": f"readers-{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    found: list[tuple[int, int, bytes]] = []

    def take() -> bool:
        came = [m for m in consumer.consume(1000, 0.5) if not m.error()]
        found.extend((int(m.partition() or 0), int(m.offset() or 0), m.value() or b"") for m in came)
        return len(found) >= count

    until(take, 90)
    consumer.close()
    return [value for _, _, value in sorted(found)]


def test_brokers_that_speak_tls_and_obey_rules(ensemble: ZooKeeperEnsemble, directory: Path) -> None:
    """1. Brokers log in to each other over TLS and replicate. 2. Rules hold on every broker, also for what is passed on.

    3. A leader dies and another one takes over; rules hold there. 4. It comes back and is in sync.
    """
    security = Security(directory / "security", ("broker", "admin", "alice"))
    brokers = SecureBrokers(f"{ensemble.servers[0]}/secure", security, directory)
    settings = {
        "listener.security.protocol.map": "CLIENTS:SASL_SSL,BROKERS:SASL_SSL",
        "inter.broker.listener.name": "BROKERS",
        **security.tls(),
        **security.scram("BROKERS", among_brokers=True),
        **AUTHORIZER,
        "ssl.client.auth": "none",
    }
    listeners = "CLIENTS://127.0.0.1:SECUREPORT,BROKERS://127.0.0.1:PLAINPORT"
    try:
        brokers.start(listeners, settings)
        admin = AdminClient(security.client(brokers.at(), "admin"))
        until(lambda: len(admin.list_topics(timeout=10).brokers) == 3)
        topics = [
            NewTopic(name, 3, replica_assignment=[[1, 2, 3], [2, 3, 1], [3, 1, 2]]) for name in ("open", "closed")
        ]
        for future in admin.create_topics(topics).values():
            future.result(30)
        until(lambda: is_whole(admin, "open", "closed"))
        for operation in (AclOperation.WRITE, AclOperation.READ):
            allow(admin, "alice", "open", operation)

        for node_id in (1, 2, 3):
            alice = security.client(brokers.at(node_id), "alice")

            def may_write(config: dict[str, Any] = alice) -> bool:
                return produced(config, "open", b"a") == 0  # this broker may hear of the rule a moment later

            until(may_write)
            assert produced(alice, "closed", b"a") == KafkaError.TOPIC_AUTHORIZATION_FAILED
            own = AdminClient(alice)
            assert code_of(own.delete_topics(["open"])["open"]) == KafkaError.TOPIC_AUTHORIZATION_FAILED
            assert code_of(own.create_topics([NewTopic("hers", 1)])["hers"]) in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            )
            stranger = {**alice, "sasl.password": "guessed", "message.timeout.ms": 3_000}
            assert produced(stranger, "open", b"x") != 0
        assert {"open", "closed"} <= set(admin.list_topics(timeout=10).topics)

        allow(admin, "alice", "hers", AclOperation.CREATE)
        allow(admin, "alice", "hers", AclOperation.DELETE)
        for node_id in (
            1,
            2,
            3,
        ):  # two of them pass the deletion on to the controller, which believes that it is Alice's
            own = AdminClient(security.client(brokers.at(node_id), "alice"))

            def may_create(client: AdminClient = own) -> bool:
                return code_of(client.create_topics([NewTopic("hers", 1)])["hers"]) == 0

            until(may_create)
            until(lambda: "hers" in admin.list_topics(timeout=10).topics)
            assert code_of(own.delete_topics(["hers"])["hers"]) == 0
            until(lambda: "hers" not in admin.list_topics(timeout=10).topics)

        with ottla.Admin(brokers.at(2, 3), config=client_of_ours(security, "admin")) as ours:
            assert set(ours.describe_topics(["open"])) == {"open"}
        brokers.brokers[1].kill()
        survivors = security.client(brokers.at(2, 3), "alice")
        until(lambda: all(leader in (2, 3) for leader, _ in isrs(admin, "open")), 60)
        assert produced(survivors, "open", b"after") == 0
        assert produced(survivors, "closed", b"after") == KafkaError.TOPIC_AUTHORIZATION_FAILED
        brokers.begin(1, listeners, settings)
        until(lambda: is_whole(admin, "open", "closed"), 90)
    finally:
        brokers.close()


def client_of_ours(security: Security, user: str) -> dict[str, str]:
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.jaas.config": f'{module} username="{user}" password="{password_of(user)}";',
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(security.authority),
    }


class Load:
    """A producer in a thread of its own, to every partition of a topic; each number is sent once."""

    def __init__(self, config: dict[str, Any], topic: str, name: str) -> None:
        self._producer = Producer({**config, "enable.idempotence": True, "message.timeout.ms": 120_000, "linger.ms": 5})
        self._topic, self._name = topic, name
        self.sent: deque[bytes] = deque()
        self.failed: list[object] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ends.wait(0.01):
            for _ in range(3):
                value = b"%s %06d" % (self._name.encode(), number)
                self._producer.produce(self._topic, value, partition=number % 3, on_delivery=self._on_delivery)
                self.sent.append(value)
                number += 1
            self._producer.poll(0)

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self.failed.append(error)

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(30)
        assert self._producer.flush(120) == 0
        assert self.failed == []


def test_a_plain_cluster_becomes_a_secure_one_while_clients_go_on(ensemble: ZooKeeperEnsemble, directory: Path) -> None:
    """The steps of docs/cluster-security.md, under load: nothing is lost or doubled, and order is kept."""
    security = Security(directory / "security")
    brokers = SecureBrokers(f"{ensemble.servers[0]}/becomes-secure", security, directory)
    both = "PLAINTEXT://127.0.0.1:PLAINPORT,SECURE://127.0.0.1:SECUREPORT"
    protocols = {"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL"}
    opened = {**protocols, **security.tls(), **security.scram("SECURE", among_brokers=True)}
    between = {**opened, "inter.broker.listener.name": "SECURE"}
    loads: list[Load] = []

    def round_of(listeners: str, settings: dict[str, str], watching: AdminClient, *, admins: bool = False) -> None:
        for node_id in (1, 2, 3):
            brokers.begin(node_id, listeners, settings)
            brokers.brokers[node_id].wait_until_ready(timeout_s=60)
            until(lambda: is_whole(watching, "t"), 90)
            if admins:  # each broker passes on to the controller what only that one can do, whichever have been moved
                for asked in (1, 2, 3):
                    own = AdminClient({"bootstrap.servers": brokers.at(asked, secure=False), "log_level": 0})
                    name = f"of-{node_id}-{asked}"
                    assert code_of(own.create_topics([NewTopic(name, 1)])[name]) == 0
                    assert code_of(own.delete_topics([name])[name]) == 0

    try:
        brokers.start("PLAINTEXT://127.0.0.1:PLAINPORT", {})
        plain = AdminClient({"bootstrap.servers": brokers.at(secure=False), "log_level": 0})
        until(lambda: len(plain.list_topics(timeout=10).brokers) == 3)
        topic = NewTopic("t", 3, replica_assignment=[[1, 2, 3], [2, 3, 1], [3, 1, 2]])
        plain.create_topics([topic])["t"].result(30)
        until(lambda: is_whole(plain, "t"))
        loads.append(Load({"bootstrap.servers": brokers.at(secure=False), "log_level": 0}, "t", "plain"))
        # users first: a broker cannot log in as one that is not in the tree
        with ottla.Admin(brokers.at(secure=False)) as admin:
            for user in ("broker", "admin", "alice"):
                admin.upsert_user_scram_credential(user, password_of(user))
        # 1. a second listener
        round_of(both, opened, plain)
        # 2. brokers use it among themselves
        round_of(both, between, plain, admins=True)
        # 3. clients move
        loads.append(Load(security.client(brokers.at(), "alice"), "t", "secure"))
        loads[0].stop()
        # 4. the plain listener goes, rules come; what has no rule yet is open
        secure = AdminClient(security.client(brokers.at(), "admin"))
        alone = "SECURE://127.0.0.1:SECUREPORT"
        lenient = {**between, **AUTHORIZER, "allow.everyone.if.no.acl.found": "true"}
        round_of(alone, lenient, secure)
        for operation in (AclOperation.WRITE, AclOperation.READ):
            allow(secure, "alice", "t", operation)
        group = AclBinding(
            *(ResourceType.GROUP, "readers-", ResourcePatternType.PREFIXED, "User:alice", "*", AclOperation.READ),
            AclPermissionType.ALLOW,
        )
        secure.create_acls([group])[group].result(20)
        # 5. what has no rule is closed
        round_of(alone, {**between, **AUTHORIZER}, secure)
        loads[1].stop()
        alice = security.client(brokers.at(), "alice")
        sent = [*loads[0].sent, *loads[1].sent]
        found = values_in(alice, "t", len(sent))
        assert sorted(found) == sorted(sent)
        for load in loads:
            own = load.sent[0].split()[0]
            for partition in range(3):
                expected = [v for v in load.sent if int(v.split()[1]) % 3 == partition]
                assert [v for v in found if v.split()[0] == own and int(v.split()[1]) % 3 == partition] == expected
        assert produced(alice, "another", b"x") != 0
    finally:
        for load in loads:
            load._ends.set()
        brokers.close()
