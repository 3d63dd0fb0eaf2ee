"""Clients in Go and JavaScript log in by every mechanism they have, over TLS and plain, send, and read back what they sent.

Needs `go`, `node` and `npm`, which fetch franz-go, Sarama and KafkaJS once, into a directory of the user's cache
(OTTLA_LANGUAGES names another); a language that is not there is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import confluent_kafka.admin
import pytest
from tests.security.identities import AUDIENCE, ISSUER, key_set, public_jwk, rsa_key, signed
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.security.authority import make_authority, make_certificate

pytestmark = pytest.mark.languages

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("OTTLA_LANGUAGES") or Path.home() / ".cache" / "ottla-languages")
CLIENTS = ("franz", "sarama", "kafkajs")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
USER, PASSWORD = "alice", "won,der=ful"


@cache
def command_of(client: str) -> tuple[str, ...]:
    """Return what runs a client's program, built on first use; skips where its language is not installed."""
    needed = "npm" if client == "kafkajs" else "go"
    if shutil.which(needed) is None:
        pytest.skip(f"no {needed} command")
    place = CACHE / client
    shutil.copytree(HERE / client, place, dirs_exist_ok=True)
    if client == "kafkajs":
        build = ["npm", "ci", "--no-audit", "--no-fund"]
    else:
        build = ["go", "build", "-o", "login", "."]
    done = subprocess.run(build, cwd=place, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{client} cannot be built: {done.stderr[-2000:]}"
    return ("node", str(place / "main.js")) if client == "kafkajs" else (str(place / "login"),)


class Doors:
    """A broker with listeners of all kinds: `ports` by security protocol."""

    def __init__(self, directory: Path) -> None:
        now = datetime.now(UTC)
        authority = make_authority("tests", now=now, days=2)
        pair = make_certificate(authority, ["localhost", "127.0.0.1"], now=now, days=2)
        self.authority = directory / "ca.pem"
        self.authority.write_bytes(authority.certificate)
        store, keys = directory / "broker.pem", directory / "keys.json"
        store.write_bytes(pair.key + pair.certificate)
        store.chmod(0o600)
        keys.write_bytes(key_set(public_jwk(rsa_key(), "r")))
        line = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        self.process = BrokerProcess()
        self.ports = {"PLAINTEXT": self.process.port}
        self.ports |= {name: free_port() for name in ("SSL", "SASL_PLAINTEXT", "SASL_SSL")}
        settings = {
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": line,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": line,
            "sasl.oauthbearer.jwks.endpoint.url": keys.as_uri(),
            "sasl.oauthbearer.expected.issuer": ISSUER,
            "sasl.oauthbearer.expected.audience": AUDIENCE,
            "offsets.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        file = directory / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self.process._options = (str(file),)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made = Doors(tmp_path_factory.mktemp("doors"))
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


def said_by(doors: Doors, client: str, protocol: str, mechanism: str, password: str) -> str:
    """Run a client; return its last line."""
    environment = {
        **os.environ,
        "LOGIN_BROKER": f"127.0.0.1:{doors.ports[protocol]}",
        "LOGIN_CA": str(doors.authority) if protocol.endswith("SSL") else "",
        "LOGIN_MECHANISM": mechanism,
        "LOGIN_USER": USER,
        "LOGIN_PASSWORD": password,
        "LOGIN_TOPIC": f"{client}-{protocol}-{mechanism or 'none'}".lower(),
    }
    done = subprocess.run(command_of(client), env=environment, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr[-2000:]
    return lines[-1]


def password_for(mechanism: str) -> str:
    return signed(time.time()) if mechanism == "OAUTHBEARER" else PASSWORD


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_logs_in(doors: Doors, client: str, protocol: str, mechanism: str) -> None:
    assert said_by(doors, client, protocol, mechanism, password_for(mechanism)) == "SERVED 100"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_served_without_a_login(doors: Doors, client: str, protocol: str) -> None:
    assert said_by(doors, client, protocol, "", "") == "SERVED 100"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_with_a_wrong_password_is_told(doors: Doors, client: str, mechanism: str) -> None:
    """What each of them makes of Kafka's code 58 and its sentence."""
    wrong = signed(time.time() - 900) if mechanism == "OAUTHBEARER" else "wrong"
    said = said_by(doors, client, "SASL_SSL", mechanism, wrong)
    assert said.startswith("FAILED")
    if (client, mechanism) == ("kafkajs", "OAUTHBEARER"):
        # It takes the broker's JSON for success and goes on with a request, which ends the connection (RFC 7628 wants 0x01).
        assert "Closed connection" in said
        return
    assert any(word in said.lower() for word in ("authentication", "sasl", "invalid", "credentials")), said
