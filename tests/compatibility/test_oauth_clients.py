"""Clients log in with signed tokens: librdkafka, kafka-python, aiokafka, Java, and ours, which gets new ones in time."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider as AsyncTokenProvider
from tests.security.identities import AUDIENCE, ISSUER, key_set, public_jwk, rsa_key, signed
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

import ottla

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaProducer

pytestmark = [pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning")]


def new_token(seconds: int = 300) -> str:
    now = time.time()
    return signed(now, exp=int(now) + seconds)


class Endpoint(BaseHTTPRequestHandler):
    """Keys by GET, tokens by POST."""

    tokens = 0

    def do_GET(self) -> None:
        self._answer(key_set(public_jwk(rsa_key(), "r")))

    def do_POST(self) -> None:
        type(self).tokens += 1
        assert self.headers["Authorization"].startswith("Basic ")
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(json.dumps({"access_token": new_token(4), "expires_in": 4, "token_type": "Bearer"}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    made = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def broker(provider: str) -> Iterator[str]:
    """The address of a listener that takes tokens of the provider."""
    port = free_port()
    process = BrokerProcess(
        {"offsets.topic.num.partitions": "1", "sasl.oauthbearer.jwks.endpoint.url": f"{provider}/keys"},
        environment={
            "KAFKA_SASL_ENABLED_MECHANISMS": "OAUTHBEARER",
            "KAFKA_SASL_OAUTHBEARER_EXPECTED_AUDIENCE": AUDIENCE,
            "KAFKA_SASL_OAUTHBEARER_EXPECTED_ISSUER": ISSUER,
        },
    )
    process.environment["KAFKA_LISTENERS"] = f"PLAINTEXT://127.0.0.1:{process.port},SASL_PLAINTEXT://127.0.0.1:{port}"
    with process:
        yield f"127.0.0.1:{port}"


def test_librdkafka_logs_in_with_a_token(broker: str) -> None:
    def get(_config: str) -> tuple[str, float]:
        return new_token(), time.time() + 300

    settings: dict[str, Any] = {
        "bootstrap.servers": broker,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "oauth_cb": get,
    }
    told: list[object] = []
    producer = confluent_kafka.Producer(settings)
    producer.produce("tokens", b"x", on_delivery=lambda error, message: told.append(error))
    producer.flush(30)
    assert told == [None]


def test_kafka_python_logs_in_with_a_token(broker: str) -> None:
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Tokens(AbstractTokenProvider):  # type: ignore[misc]
        def token(self) -> str:
            return new_token()

    producer = KafkaProducer(
        bootstrap_servers=broker,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_provider=Tokens(),
    )
    producer.send("tokens", b"x").get(20)
    producer.close(5)


async def test_aiokafka_logs_in_with_a_token(broker: str) -> None:
    class Tokens(AsyncTokenProvider):  # type: ignore[misc]
        async def token(self) -> str:
            return new_token()

    producer = AIOKafkaProducer(
        bootstrap_servers=broker,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_provider=Tokens(),
    )
    await producer.start()
    await producer.send_and_wait("tokens", b"x")
    await producer.stop()


def test_our_client_gets_new_tokens_while_it_sends(broker: str, provider: str) -> None:
    """Tokens live four seconds: the connection outlives two of them, because the client logs in again (KIP-368)."""
    before = Endpoint.tokens
    config = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.token.endpoint.url": f"{provider}/token",
        "sasl.oauthbearer.client.credentials.client.id": "app",
        "sasl.oauthbearer.client.credentials.client.secret": "secret",
    }
    sent = 0
    with ottla.Producer(broker, config=config) as producer:
        while Endpoint.tokens < before + 3:
            producer.send_and_wait("tokens", b"x")
            sent += 1
    assert sent > 3


def test_our_client_says_that_a_token_is_not_taken_or_cannot_be_had(broker: str) -> None:
    old = signed(time.time() - 10_000)
    with (
        pytest.raises(ottla.KafkaError, match="invalid_token"),
        ottla.Producer(broker, security_protocol="sasl_plaintext", sasl=ottla.sasl.OAuthBearer(old)) as producer,
    ):
        producer.partitions_for("tokens")
    broken = ottla.sasl.OAuthBearer(ottla.sasl.ClientCredentials("http://127.0.0.1:1/token", "a", "b"))
    with (
        pytest.raises(ottla.KafkaError, match="no token: 127"),
        ottla.Producer(broker, security_protocol="sasl_plaintext", sasl=broken, connect_timeout=3) as producer,
    ):
        producer.partitions_for("tokens")


@pytest.mark.kafka
def test_the_java_client_logs_in_with_a_token(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kafka_anchor.require()
    good, bad = tmp_path / "token", tmp_path / "old"
    good.write_text(new_token())
    bad.write_text(signed(time.time() - 10_000, exp=int(time.time()) + 300, aud="files"))
    for path, expected in ((good, "Created topic by-java"), (bad, "invalid_token")):
        urls = path.as_uri()
        monkeypatch.setenv(
            "JAVA_TOOL_OPTIONS",
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={urls} "
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={path}",
        )
        config = tmp_path / "client.properties"
        config.write_text(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\n"
            f"sasl.oauthbearer.token.endpoint.url={urls}\n"
            "sasl.oauthbearer.jwt.retriever.class=org.apache.kafka.common.security.oauthbearer.FileJwtRetriever\n"
            "sasl.login.callback.handler.class="
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler\n"
            "sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;\n"
        )
        assert os.environ["JAVA_TOOL_OPTIONS"]
        told = kafka_anchor.tool(
            "kafka-topics",
            "--bootstrap-server",
            broker,
            "--create",
            "--topic",
            "by-java",
            "--command-config",
            str(config),
        )
        assert expected in told, told
