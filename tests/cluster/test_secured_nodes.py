"""Whose the nodes of a cluster are: two brokers on a real ZooKeeper with zookeeper.set.acl, and what strangers can do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import Permissions
from tests.support import zookeeper_anchor
from tests.support.ensemble_brokers import EnsembleBrokers
from tests.support.zookeeper_anchor import ZooKeeperEnsemble

from ottla.security.sasl.scram import credential_from_salted, credential_to_text

pytestmark = pytest.mark.zookeeper

JAAS = (
    "ottla.zookeeper.sasl.jaas.config=org.apache.zookeeper.server.auth.DigestLoginModule required "
    'username="ottla" password="secret";'
)
#: What is not for everybody's eyes: credentials, settings of brokers, tokens, the cluster's secrets.
HIDDEN = ("/config/users", "/config/brokers", "/config/ottla", "/delegation_token")


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[ZooKeeperEnsemble]:
    zookeeper_anchor.require()
    jaas = tmp_path / "jaas.conf"
    jaas.write_text('Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_ottla="secret"; };')
    made = ZooKeeperEnsemble(
        configuration=["authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"],
        options=[f"-Djava.security.auth.login.config={jaas}"],
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


def nodes(client: KazooClient, path: str = "/ottla") -> Iterator[str]:
    yield path
    for name in client.get_children(path):
        yield from nodes(client, f"{path}/{name}")


@contextmanager
def connected(ensemble: ZooKeeperEnsemble, **more: object) -> Iterator[KazooClient]:
    client = KazooClient(ensemble.servers[0], timeout=10, **more)
    client.start(timeout=20)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def use_everything(brokers: EnsembleBrokers) -> None:
    """Topics, records, groups, users, rules, quotas, settings, a second leader: all that leaves nodes behind."""
    password = Path(brokers[1].data_dir).parent / "password"
    password.write_text("wonder\n")
    address = ("-b", brokers.bootstrap)
    rule = ("acl", "add", "--principal", "User:alice", "--operation", "Read", "--topic", "t")
    for command in (
        ("topic", "create", "t", "--partitions", "3", "--replication-factor", "2"),
        ("user", "create", "alice", "--password-file", str(password)),
        rule,
        (
            "acl",
            "add",
            "--principal",
            "User:alice",
            "--operation",
            "Read",
            "--topic",
            "t",
            "--resource-pattern-type",
            "prefixed",
        ),
        ("quota", "set", "--user", "alice", "producer_byte_rate=1000"),
        ("quota", "set", "--client-id", "x", "producer_byte_rate=1000"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ottla", *command, *address], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    producer = Producer({"bootstrap.servers": brokers.bootstrap})
    for number in range(30):
        producer.produce("t", str(number))
    assert producer.flush(30) == 0


def test_zookeeper_nodes_not_world_writable(ensemble: ZooKeeperEnsemble, tmp_path: Path) -> None:
    """Each node is its makers'; the world reads most of them, none of those with secrets, and changes nothing."""
    settings = tmp_path / "server.properties"
    credential = credential_from_salted("SCRAM-SHA-512", bytes(64), b"salt", 4096)
    settings.write_text(
        f"{JAAS}\nottla.scram.users=first:SCRAM-SHA-512:{credential_to_text(credential)}\nzookeeper.set.acl=true\nauthorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
        "super.users=User:ANONYMOUS\ndelegation.token.secret.key=of-the-cluster\n"
    )
    brokers = EnsembleBrokers(f"{ensemble.servers[0]}/ottla", count=2, properties=settings)
    identity = {"mechanism": "DIGEST-MD5", "username": "ottla", "password": "secret"}
    with brokers, connected(ensemble, sasl_options=identity) as owner, connected(ensemble) as stranger:
        use_everything(brokers)
        seen: list[str] = []
        for path in nodes(owner):
            seen.append(path)
            acls, _ = owner.get_acls(path)
            is_hidden = path.removeprefix("/ottla").startswith(HIDDEN)
            for acl in acls:
                if acl.id.scheme == "world":
                    assert acl.perms == Permissions.READ, f"{path}: {acl}"
                    assert not is_hidden, f"{path} is for everybody's eyes"
                else:
                    assert (acl.id.scheme, acl.id.id) == ("sasl", "ottla"), f"{path}: {acl}"
            with pytest.raises(NoAuthError):
                stranger.set(path, b"changed")
            with pytest.raises(NoAuthError):
                stranger.create(f"{path}/planted", b"")
            if is_hidden:
                with pytest.raises(NoAuthError):
                    stranger.get(path)
        below = {path.removeprefix("/ottla") for path in seen}
        expected = {"/brokers/ids/1", "/brokers/ids/2", "/brokers/topics/t", "/controller", "/config/users/alice"}
        assert expected | {"/config/clients/x", "/config/ottla/secrets"} <= below
        assert any(path.startswith("/kafka-acl/Topic/t") for path in below)
        assert any(path.startswith("/kafka-acl-extended/prefixed/Topic/t") for path in below)
