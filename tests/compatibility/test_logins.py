"""Clients of other people, and ours, log in: every mechanism they have, over TLS and plain; wrong passwords, wrong trust."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import confluent_kafka.admin
import pytest
from aiokafka import AIOKafkaProducer
from tests.network.certificates import server_context
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

import ottla

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

pytestmark = [
    pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
USER, PASSWORD = "alice", "won,der=ful"


class SecureBroker:
    """A broker with listeners of all kinds: `ports` by security protocol; `authority` is who signed its certificate."""

    def __init__(self, directory: Path) -> None:
        _, self.authority = server_context(directory)
        store = directory / "store.pem"
        store.write_text((directory / "key.pem").read_text() + self.authority.read_text())
        store.chmod(0o600)
        self.ports = {name: free_port() for name in ("SSL", "SASL_PLAINTEXT", "SASL_SSL")}
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        self.process = BrokerProcess(
            {"offsets.topic.num.partitions": "1"},
            environment={
                "KAFKA_SSL_KEYSTORE_LOCATION": str(store),
                "KAFKA_SSL_KEYSTORE_TYPE": "PEM",
                "KAFKA_SASL_ENABLED_MECHANISMS": ",".join(MECHANISMS),
                "KAFKA_LISTENER_NAME_SASL__PLAINTEXT_PLAIN_SASL_JAAS_CONFIG": plain,
                "KAFKA_LISTENER_NAME_SASL__SSL_PLAIN_SASL_JAAS_CONFIG": plain,
            },
        )
        listeners = {"PLAINTEXT": self.process.port, **self.ports}
        self.process.environment["KAFKA_LISTENERS"] = ",".join(
            f"{name}://127.0.0.1:{port}" for name, port in listeners.items()
        )

    def address(self, protocol: str) -> str:
        return f"127.0.0.1:{self.ports[protocol]}"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    made = SecureBroker(tmp_path_factory.mktemp("secure"))
    with made.process:
        scram: Any = confluent_kafka.admin
        admin = scram.AdminClient({"bootstrap.servers": made.process.address})
        upsertions = [
            scram.UserScramCredentialUpsertion(USER, scram.ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            for mechanism in (scram.ScramMechanism.SCRAM_SHA_256, scram.ScramMechanism.SCRAM_SHA_512)
        ]
        for future in admin.alter_user_scram_credentials(upsertions).values():
            future.result(30)
        yield made


def through_confluent(broker: SecureBroker, protocol: str, mechanism: str | None, password: str) -> None:
    settings: dict[str, str | int] = {
        "bootstrap.servers": broker.address(protocol),
        "security.protocol": protocol,
        "ssl.ca.location": str(broker.authority),
        "message.timeout.ms": 8_000,
    }
    if mechanism is not None:
        settings |= {"sasl.mechanism": mechanism, "sasl.username": USER, "sasl.password": password}
    failures: list[object] = []
    if not protocol.endswith("SSL"):
        del settings["ssl.ca.location"]
    producer = confluent_kafka.Producer(settings, error_cb=failures.append)
    delivered: list[object] = []
    producer.produce("logins", b"x", on_delivery=lambda error, message: delivered.append(error))
    while not delivered and not any("uthentication" in str(failure) for failure in failures):
        producer.poll(0.05)
    if failures:
        producer.purge()
        producer.flush(1)
        raise PermissionError(str(failures[0]))
    assert delivered == [None]


def through_kafka_python(broker: SecureBroker, protocol: str, mechanism: str | None, password: str) -> None:
    producer = KafkaProducer(
        bootstrap_servers=broker.address(protocol),
        security_protocol=protocol,
        ssl_cafile=str(broker.authority) if protocol.endswith("SSL") else None,
        sasl_mechanism=mechanism,
        sasl_plain_username=USER if mechanism else None,
        sasl_plain_password=password if mechanism else None,
        max_block_ms=8_000,
    )
    try:
        producer.send("logins", b"x").get(8)
    except KafkaError as error:
        raise PermissionError(str(error)) from error
    finally:
        producer.close(1)


def through_aiokafka(broker: SecureBroker, protocol: str, mechanism: str | None, password: str) -> None:
    async def send() -> None:
        context = ssl.create_default_context(cafile=str(broker.authority)) if protocol.endswith("SSL") else None
        producer = AIOKafkaProducer(
            bootstrap_servers=broker.address(protocol),
            security_protocol=protocol,
            ssl_context=context,
            sasl_mechanism=mechanism or "PLAIN",
            sasl_plain_username=USER if mechanism else None,
            sasl_plain_password=password if mechanism else None,
        )
        try:
            await producer.start()
            await producer.send_and_wait("logins", b"x")
        except Exception as error:
            raise PermissionError(str(error)) from error
        finally:
            await producer.stop()

    asyncio.run(send())


def through_ottla(broker: SecureBroker, protocol: str, mechanism: str | None, password: str) -> None:
    config: dict[str, object] = {"security.protocol": protocol}
    if protocol.endswith("SSL"):
        config["ssl.truststore.location"] = str(broker.authority)
    if mechanism is not None:
        config |= {"sasl.mechanism": mechanism, "sasl.username": USER, "sasl.password": password}
    try:
        with ottla.Producer(broker.address(protocol), config=config) as producer:
            producer.send("logins", b"x").result(8)
    except ottla.KafkaError as error:
        raise PermissionError(str(error)) from error


Client = Callable[[SecureBroker, str, str | None, str], None]
CLIENTS: list[Client] = [through_confluent, through_kafka_python, through_aiokafka, through_ottla]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_client_logs_in(broker: SecureBroker, client: Client, protocol: str, mechanism: str) -> None:
    client(broker, protocol, mechanism, PASSWORD)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_speaks_tls(broker: SecureBroker, client: Client) -> None:
    client(broker, "SSL", None, "")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.parametrize("client", [through_confluent, through_ottla])  # the others try again and again
def test_a_wrong_password_is_told(broker: SecureBroker, client: Client, mechanism: str) -> None:
    with pytest.raises(PermissionError, match=r"(?i)authentication|invalid|Auth"):
        client(broker, "SASL_SSL", mechanism, "wrong")


def test_our_client_reads_what_it_wrote_by_sasl_object_and_context(broker: SecureBroker) -> None:
    context = ssl.create_default_context(cafile=str(broker.authority))
    sasl = ottla.sasl.Scram(USER, PASSWORD)
    address = broker.address("SASL_SSL")
    with ottla.Producer(address, security_protocol="sasl_ssl", ssl_context=context, sasl=sasl) as producer:
        producer.send_many("mine", [b"%d" % number for number in range(1_000)], partition=0)
    with ottla.Consumer(
        address,
        topics=["mine"],
        security_protocol="sasl_ssl",
        ssl_context=context,
        sasl=sasl,
        auto_offset_reset="earliest",
    ) as consumer:
        values = []
        for record in consumer:
            values.append(record.value)
            if len(values) == 1_000:
                break
    assert values == [b"%d" % number for number in range(1_000)]
    assert PASSWORD not in repr(sasl)


def test_our_client_refuses_a_broker_it_does_not_trust(broker: SecureBroker) -> None:
    with pytest.raises(ottla.TlsError), ottla.Producer(broker.address("SSL"), security_protocol="ssl") as producer:
        producer.partitions_for("logins")
