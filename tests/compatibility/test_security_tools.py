"""Kafka's own tools and its Java client against a broker with TLS, SCRAM and access rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.network.certificates import server_context
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

pytestmark = pytest.mark.kafka


class Secured:
    """A broker; `plain` is for its administrators on this machine, `secure` for clients that log in over TLS."""

    def __init__(self, directory: Path) -> None:
        kafka_anchor.require()
        _, self.authority = server_context(directory)
        self.directory = directory
        store = directory / "store.pem"
        store.write_text((directory / "key.pem").read_text() + self.authority.read_text())
        store.chmod(0o600)
        port = free_port()
        self.process = BrokerProcess(
            {
                "offsets.topic.num.partitions": "1",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(store),
            }
        )
        self.process.environment["KAFKA_LISTENERS"] = (
            f"PLAINTEXT://127.0.0.1:{self.process.port},SASL_SSL://127.0.0.1:{port}"
        )
        self.plain = self.process.address
        self.secure = f"127.0.0.1:{port}"

    def properties(self, user: str, password: str, mechanism: str) -> str:
        path = self.directory / f"{user}-{password}-{mechanism}.properties"
        path.write_text(
            "security.protocol=SASL_SSL\n"
            f"sasl.mechanism={mechanism}\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{user}" password="{password}";\n'
            f"ssl.truststore.type=PEM\nssl.truststore.location={self.authority}\n"
        )
        return str(path)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    with made.process:
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            kafka_anchor.tool(
                "kafka-configs", "--bootstrap-server", made.plain, "--alter", "--entity-type", "users", "--entity-name",
                "alice", "--add-config", f"{mechanism}=[iterations=4096,password=wonder]",
            )  # fmt: skip
        for topic in ("open", "closed"):
            kafka_anchor.tool("kafka-topics", "--bootstrap-server", made.plain, "--create", "--topic", topic)
        yield made


def test_kafka_acls_and_the_java_client_by_every_mechanism(broker: Secured) -> None:
    for resource in (("--operation", "Write", "--topic", "open"), ("--group", "g")):
        added = kafka_anchor.tool(
            "kafka-acls", "--bootstrap-server", broker.plain, "--add", "--allow-principal", "User:alice", "--operation",
            "Read", "--resource-pattern-type", "prefixed", *resource,
        )  # fmt: skip
        assert "Adding ACLs for resource" in added
    listed = kafka_anchor.tool("kafka-acls", "--bootstrap-server", broker.plain, "--list")
    assert "ResourcePattern(resourceType=TOPIC, name=open, patternType=PREFIXED)" in listed
    assert "(principal=User:alice, host=*, operation=READ, permissionType=ALLOW)" in listed
    for number, mechanism in enumerate(("SCRAM-SHA-256", "SCRAM-SHA-512")):
        config = broker.properties("alice", "wonder", mechanism)
        kafka_anchor.tool(
            "kafka-console-producer", "--bootstrap-server", broker.secure, "--topic", "open", "--command-config", config,
            stdin=f"by {mechanism}\n",
        )  # fmt: skip
        read = kafka_anchor.tool(
            "kafka-console-consumer", "--bootstrap-server", broker.secure, "--topic", "open", "--command-config", config,
            "--group", f"g{number}", "--from-beginning", "--max-messages", str(number + 1), "--timeout-ms", "30000",
        )  # fmt: skip
        assert f"by {mechanism}" in read
    refused = kafka_anchor.tool(
        "kafka-console-producer", "--bootstrap-server", broker.secure, "--topic", "closed", "--command-config",
        broker.properties("alice", "wonder", "SCRAM-SHA-512"), stdin="x\n",
    )  # fmt: skip
    assert "TopicAuthorizationException" in refused


def test_a_wrong_password_is_told_to_the_java_client(broker: Secured) -> None:
    told = kafka_anchor.tool(
        "kafka-topics", "--bootstrap-server", broker.secure, "--list", "--command-config",
        broker.properties("alice", "wrong", "SCRAM-SHA-512"),
    )  # fmt: skip
    assert "SaslAuthenticationException" in told
    assert "invalid credentials with SASL mechanism SCRAM-SHA-512" in told
