"""Logins by Kerberos (GSSAPI) in a realm of its own: our client, kafka-python, aiokafka and Java, and what fails how."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compatibility.authentication.conversation import ClosedError, Conversation
from tests.hostile.strangers import WANTED, request
from tests.support import kafka_anchor, kdc
from tests.support.broker_process import BrokerProcess
from tests.support.kdc import Kdc
from tests.support.ports import free_port

import ottla
from ottla.errors import ErrorCode
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest
from ottla.security.kerberos import Keys, initiating
from ottla.security.sasl.gssapi import Context

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaProducer

pytestmark = [pytest.mark.kerberos, pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning")]

MODULE = "com.sun.security.auth.module.Krb5LoginModule required"


class Kerberized:
    """A realm with `alice` and a broker that takes its tickets; this process finds the realm."""

    def __init__(self, realm: Kdc, directory: Path) -> None:
        self.realm = realm
        self.alice = realm.keytab("alice")
        self.keys = realm.keytab("kafka/localhost")
        realm.keytab("other/localhost")  # a service whose keys the broker does not have
        self.process = BrokerProcess(environment=realm.environment)
        self.address = f"localhost:{self.process.port}"
        file = directory / "server.properties"
        file.write_text(
            f"listeners=KRB://localhost:{self.process.port}\nlistener.security.protocol.map=KRB:SASL_PLAINTEXT\n"
            "inter.broker.listener.name=KRB\nsasl.enabled.mechanisms=GSSAPI\nsasl.kerberos.service.name=kafka\n"
            "connection.failed.authentication.delay.ms=5\noffsets.topic.num.partitions=1\n"
            f"listener.name.krb.gssapi.sasl.jaas.config={jaas(self.keys, f'kafka/localhost@{realm.realm}')}\n"
        )
        self.process._options = (str(file),)

    def producer(self, sasl: ottla.sasl.Kerberos) -> ottla.Producer:
        return ottla.Producer(
            self.address, security_protocol="sasl_plaintext", sasl=sasl, delivery_timeout_ms=6_000, max_block_ms=6_000,
            request_timeout_ms=5_000,
        )  # fmt: skip

    def context(self) -> Context:
        """Return alice's side of a context with the broker."""
        keys = Keys(principal=f"alice@{self.realm.realm}", keytab=str(self.alice))
        return initiating(keys, "kafka", "localhost")()

    def refusal(self, sasl: ottla.sasl.Kerberos) -> str:
        with pytest.raises(ottla.KafkaError) as caught, self.producer(sasl) as producer:
            producer.send("t", b"x").result(20)
        return str(caught.value)


def jaas(keytab: Path, principal: str) -> str:
    return f'{MODULE} useKeyTab=true storeKey=true keyTab="{keytab}" principal="{principal}";'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kerberized]:
    kdc.require()
    directory = tmp_path_factory.mktemp("kerberos")
    with Kdc(directory / "kdc") as realm, pytest.MonkeyPatch.context() as patch:
        for name, value in realm.environment.items():
            patch.setenv(name, value)
        made = Kerberized(realm, directory)
        with made.process:
            yield made


def test_our_client_logs_in_with_a_keytab_and_with_tickets(place: Kerberized) -> None:
    cache = place.realm.tickets("alice", place.alice)
    for sasl in (
        ottla.sasl.Kerberos("kafka", "alice", str(place.alice)),
        ottla.sasl.Kerberos("kafka", ticket_cache=str(cache)),
    ):
        with place.producer(sasl) as producer:
            producer.send("ours", b"x").result(20)
    logins = re.findall(r'"login": "accepted", "principal": "([^"]+)", "mechanism": "GSSAPI"', place.process.output)
    assert set(logins) == {"User:alice"}


def test_the_command_line_takes_a_file_as_java_does(place: Kerberized, tmp_path: Path) -> None:
    file = tmp_path / "alice.properties"
    file.write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=GSSAPI\nsasl.kerberos.service.name=kafka\n"
        f"sasl.jaas.config={jaas(place.alice, f'alice@{place.realm.realm}')}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ottla", "topic", "list", "-b", place.address, "-F", str(file)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_silent_key_distribution_centre_is_named(place: Kerberized, tmp_path: Path) -> None:
    """No key distribution centre answers: the client may try again, and says why it fails in the end."""
    carol = place.realm.keytab("carol")  # of whom nothing is known here yet
    conf = tmp_path / "krb5.conf"
    conf.write_text(re.sub(r"kdc = 127\.0\.0\.1:\d+", "kdc = 127.0.0.1:1", place.realm.krb5_conf.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRB5_CONFIG", str(conf))
        told = place.refusal(ottla.sasl.Kerberos("kafka", "carol@" + place.realm.realm, str(carol)))
    assert "Cannot contact any KDC" in told


def test_what_keeps_a_client_out_is_named(place: Kerberized, tmp_path: Path) -> None:
    realm = place.realm
    missing = tmp_path / "missing.keytab"
    told = {
        "no keytab": place.refusal(ottla.sasl.Kerberos("kafka", "alice@X", str(missing))),
        "not in it": place.refusal(ottla.sasl.Kerberos("kafka", f"bob@{realm.realm}", str(place.alice))),
        "no tickets": place.refusal(ottla.sasl.Kerberos("kafka", ticket_cache=str(tmp_path / "none.cc"))),
        "no such service": place.refusal(ottla.sasl.Kerberos("nothing", "alice", str(place.alice))),
        "another service": place.refusal(ottla.sasl.Kerberos("other", "alice", str(place.alice))),
    }
    assert "invalid credentials with SASL mechanism GSSAPI" in told["another service"]
    sentences = {
        "no keytab": "missing.keytab",
        "not in it": "bob",
        "no tickets": "none.cc",
        "no such service": "not found in Kerberos database",
    }
    for name, part in sentences.items():
        assert part in told[name], (name, told[name])
        assert told[name].count("no Kerberos ticket for ") == 1, told[name]
    assert re.search(r'"login": "refused", "mechanism": "GSSAPI".*a ticket that is not taken', place.process.output)


def test_a_broker_without_its_keys_says_so_at_start(place: Kerberized, tmp_path: Path) -> None:
    file = tmp_path / "server.properties"

    def start() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ottla", "serve", "--data-dir", str(tmp_path / "data"), str(file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stderr

    for keytab, principal, words in (
        (tmp_path / "missing", "kafka/localhost", "missing"),
        (place.alice, f"kafka/localhost@{place.realm.realm}", "kafka/localhost"),
    ):
        file.write_text(
            f"listeners=SASL_PLAINTEXT://localhost:{free_port()}\nsecurity.inter.broker.protocol=SASL_PLAINTEXT\n"
            f"listener.name.sasl_plaintext.gssapi.sasl.jaas.config={jaas(keytab, principal)}\n"
        )
        told = start()
        assert "listener SASL_PLAINTEXT: the keys of kafka/localhost" in told, told
        assert words in told
        assert "Traceback" not in told


@pytest.mark.parametrize("version", [0, 1])
async def test_nothing_behind_an_unfinished_login_is_handled(place: Kerberized, version: int) -> None:
    """A right ticket, whose step works in a thread, and behind it in one write what only users may do."""
    said = [request(SaslHandshakeRequest(mechanism="GSSAPI"), version)]
    for token in (place.context().step(b""), *((b"",) if version == 0 else ())):
        step = request(SaslAuthenticateRequest(auth_bytes=token), 2)
        said.append(step if version else len(token).to_bytes(4, "big") + token)
    client = await Conversation.open(place.process.port)
    await client.send(b"".join((*said, *WANTED)))
    for _ in said:
        await client.frame()
    with pytest.raises(ClosedError):
        await client.frame()
    client.close()


async def test_the_brokers_own_offer_sent_back_is_no_choice(place: Kerberized) -> None:
    context = place.context()
    client = await Conversation.open(place.process.port)
    await client.handshake("GSSAPI")
    context.step(await client.authenticate(context.step(b"")))
    offer = await client.authenticate(b"")
    await client.authenticate(offer)
    assert [fact[1] for fact in client.facts] == [0, 0, 0, ErrorCode.SASL_AUTHENTICATION_FAILED]
    with pytest.raises(ClosedError):
        await client.works()
    client.close()


def test_kafka_python_logs_in(place: Kerberized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{place.realm.tickets('alice', place.alice, name='python')}")
    producer = KafkaProducer(
        bootstrap_servers=place.address,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="GSSAPI",
        sasl_kerberos_service_name="kafka",
        sasl_kerberos_domain_name="localhost",
    )
    try:
        assert producer.send("python", b"x").get(timeout=30).topic == "python"
    finally:
        producer.close()


async def test_aiokafka_logs_in(place: Kerberized, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiokafka import AIOKafkaProducer

    monkeypatch.setenv("KRB5CCNAME", f"FILE:{place.realm.tickets('alice', place.alice, name='aio')}")
    async with asyncio.timeout(60):
        producer = AIOKafkaProducer(
            bootstrap_servers=place.address,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="GSSAPI",
            sasl_kerberos_service_name="kafka",
            sasl_kerberos_domain_name="localhost",
        )
        await producer.start()
        try:
            assert (await producer.send_and_wait("aio", b"x")).topic == "aio"
        finally:
            await producer.stop()


@pytest.mark.kafka
def test_the_java_client_logs_in(place: Kerberized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kafka_anchor.require()
    file = tmp_path / "alice.properties"
    file.write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=GSSAPI\nsasl.kerberos.service.name=kafka\n"
        f"sasl.jaas.config={jaas(place.alice, f'alice@{place.realm.realm}')}\n"
    )
    monkeypatch.setenv(
        "KAFKA_HEAP", f"-Xmx256m -XX:TieredStopAtLevel=1 -Djava.security.krb5.conf={place.realm.krb5_conf}"
    )
    kafka_anchor.tool(
        "kafka-console-producer", "--bootstrap-server", place.address, "--topic", "java", "--command-config", str(file),
        stdin="by Kerberos\n",
    )  # fmt: skip
    read = kafka_anchor.tool(
        "kafka-console-consumer", "--bootstrap-server", place.address, "--topic", "java", "--command-config", str(file),
        "--from-beginning", "--max-messages", "1", "--timeout-ms", "30000",
    )  # fmt: skip
    assert "by Kerberos" in read
    file.write_text(file.read_text().replace("service.name=kafka", "service.name=other"))
    refused = kafka_anchor.tool(
        "kafka-topics", "--bootstrap-server", place.address, "--list", "--command-config", str(file)
    )
    assert "invalid credentials with SASL mechanism GSSAPI" in refused


def test_librdkafka_logs_in_if_it_is_built_with_gssapi(place: Kerberized) -> None:
    import confluent_kafka

    settings = {
        "bootstrap.servers": place.address, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "GSSAPI",
        "sasl.kerberos.service.name": "kafka", "sasl.kerberos.keytab": str(place.alice), "sasl.kerberos.principal": "alice",
    }  # fmt: skip
    try:
        producer = confluent_kafka.Producer(settings)
    except confluent_kafka.KafkaException as error:
        if "No provider for SASL mechanism GSSAPI" not in str(error):
            raise
        pytest.skip("this librdkafka is built without GSSAPI (the wheel of confluent-kafka is)")
    told: list[object] = []
    producer.produce("rd", b"x", on_delivery=lambda error, message: told.append(error))
    producer.flush(30)
    assert told == [None]
