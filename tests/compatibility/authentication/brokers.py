"""Two brokers with the same doors: Apache Kafka and ottla, with listeners of all kinds, the same users and certificates."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.compatibility.authentication.conversation import SESSION_MS
from tests.security.identities import AUDIENCE, ISSUER, key_set, public_jwk, rsa_key
from tests.support import kafka_anchor
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.security.authority import KeyPair, make_authority, make_certificate

LOGIN_LISTENERS = {"LOGIN": "SASL_PLAINTEXT", "AGAIN": "SASL_PLAINTEXT", "SECURE": "SASL_SSL"}
TLS_LISTENERS = {"NONE": "none", "REQUESTED": "requested", "REQUIRED": "required", "MAPPED": "required"}
MECHANISMS = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
PASSWORDS = {"alice": "wonder", "bob": "builder"}
_MODULES = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Identities:
    """Certificates of clients, as files for Python's ssl, and what the brokers need."""

    directory: Path
    authority: KeyPair = field(repr=False)
    clients: dict[str, Path]

    def client_context(self, who: str | None, version: ssl.TLSVersion | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        if version is not None:
            if version < ssl.TLSVersion.TLSv1_2:
                context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = version
        if who is not None:
            context.load_cert_chain(self.clients[who])
        return context


def make_identities(directory: Path) -> Identities:
    now = datetime.now(UTC)
    ours, others = (make_authority(name, now=now, days=3) for name in ("ours", "others"))
    long_ago = now - timedelta(days=30)
    made = {
        "good": make_certificate(ours, ["app"], now=now, days=2),
        "mapped": make_certificate(ours, ["orders-7.example.com"], now=now, days=2),
        "wrong authority": make_certificate(others, ["app"], now=now, days=2),
        "expired": make_certificate(ours, ["app"], now=long_ago, days=2),
        "not yet valid": make_certificate(ours, ["app"], now=now + timedelta(days=30), days=2),
    }
    clients: dict[str, Path] = {}
    for name, pair in made.items():
        clients[name] = directory / f"{name.replace(' ', '-')}.pem"
        clients[name].write_bytes(pair.key + pair.certificate)
    broker = make_certificate(ours, ["localhost", "127.0.0.1"], now=now, days=2)
    (directory / "broker.pem").write_bytes(broker.key + broker.certificate)
    (directory / "broker.pem").chmod(0o600)
    (directory / "ca.pem").write_bytes(ours.certificate)
    (directory / "keys.json").write_bytes(key_set(public_jwk(rsa_key(), "r")))
    return Identities(directory, ours, clients)


@dataclass(frozen=True)
class Doors:
    """Where one broker is reached: `ports` by listener."""

    name: str
    ports: dict[str, int]
    identities: Identities


def _settings(identities: Identities) -> dict[str, str]:
    store = identities.directory
    users = " ".join(f'user_{user}="{password}"' for user, password in PASSWORDS.items())
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LOGIN_LISTENERS}
    protocols |= dict.fromkeys(TLS_LISTENERS, "SSL")
    found = {
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": MECHANISMS,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(store / "ca.pem"),
        "delegation.token.secret.key": "of-the-cluster",
        "listener.name.again.connections.max.reauth.ms": str(SESSION_MS),
        "listener.name.mapped.ssl.principal.mapping.rules": r"RULE:^CN=([a-z]+)-[0-9]+\.example\.com$/$1/U",
        "sasl.oauthbearer.jwks.endpoint.url": (store / "keys.json").as_uri(),
        "sasl.oauthbearer.expected.issuer": ISSUER,
        "sasl.oauthbearer.expected.audience": AUDIENCE,
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
    }
    for name, wanted in TLS_LISTENERS.items():
        found[f"listener.name.{name.lower()}.ssl.client.auth"] = wanted
    for name in LOGIN_LISTENERS:
        found[f"listener.name.{name.lower()}.plain.sasl.jaas.config"] = (
            f"{_MODULES}.plain.PlainLoginModule required {users};"
        )
    return found


def _ports() -> dict[str, int]:
    taken: set[int] = set()
    found: dict[str, int] = {}
    for name in (*LOGIN_LISTENERS, *TLS_LISTENERS):
        while (port := free_port()) in taken:
            pass
        taken.add(port)
        found[name] = port
    return found


@contextmanager
def ottla_doors(identities: Identities) -> Iterator[Doors]:
    ports = _ports()
    process = BrokerProcess()
    ports = {"PLAINTEXT": process.port, **ports}
    file = identities.directory / "ottla.properties"
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    lines = {"listeners": listeners, **_settings(identities)}
    file.write_text("".join(f"{key}={_escaped(value)}\n" for key, value in lines.items()))
    file.chmod(0o600)
    process._options = (str(file),)
    with process:
        yield Doors("ottla", ports, identities)


@contextmanager
def kafka_doors(identities: Identities) -> Iterator[Doors]:
    kafka_anchor.require()
    process = kafka_anchor.KafkaProcess()
    ports = {"PLAINTEXT": process.port, **_ports()}
    listeners = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    settings = _settings(identities)
    validator = f"{_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"
    for name in LOGIN_LISTENERS:
        prefix = f"listener.name.{name.lower()}."
        settings[prefix + "oauthbearer.sasl.server.callback.handler.class"] = validator
        settings[prefix + "oauthbearer.sasl.jaas.config"] = f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required;"
        for number in (256, 512):
            settings[prefix + f"scram-sha-{number}.sasl.jaas.config"] = f"{_MODULES}.scram.ScramLoginModule required;"
    process.settings = {
        "listeners": ",".join([*listeners.values(), f"CONTROLLER://127.0.0.1:{process.port + 1}"]),
        "advertised.listeners": ",".join(listeners.values()),
        **{key: _escaped(value) for key, value in settings.items()},
    }
    heap = os.environ.get("KAFKA_HEAP")
    # Kafka reads keys from no address that this property does not name.
    allowed = settings["sasl.oauthbearer.jwks.endpoint.url"]
    os.environ["KAFKA_HEAP"] = f"-Xms256m -Xmx512m -Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={allowed}"
    try:
        process.start()
        yield Doors("Apache Kafka", ports, identities)
    finally:
        if heap is None:
            del os.environ["KAFKA_HEAP"]
        else:
            os.environ["KAFKA_HEAP"] = heap
        process.close()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
