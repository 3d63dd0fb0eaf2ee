"""Which name a client of TLS is answered with: a whole broker, asked under names for which its certificate is and is not."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess

from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.security.authority import make_authority, make_certificate
from ottla.security.certificates import covers
from ottla.testing.wire import WireClient


def certificate_for(*hosts: str) -> tuple[str, str]:
    """Return an authority's certificate, and a key with a certificate of its own, both PEM."""
    now = datetime.now(UTC)
    authority = make_authority("tests", now=now, days=2)
    pair = make_certificate(authority, list(hosts), now=now, days=2)
    return authority.certificate.decode(), (pair.key + pair.certificate).decode()


@pytest.mark.parametrize(
    ("host", "is_covered"),
    [
        ("broker.example.com", True),
        ("BROKER.example.com.", True),
        ("other.example.com", False),
        ("a.wild.example.com", True),
        ("wild.example.com", False),
        ("a.b.wild.example.com", False),
        ("*.wild.example.com", False),
        ("10.1.2.3", True),
        ("10.1.2.4", False),
        ("::1", False),
        ("", False),
        ("broker.example.com\n", False),
    ],
)
def test_which_names_a_certificate_is_for(host: str, is_covered: bool) -> None:
    _, pem = certificate_for("broker.example.com", "*.wild.example.com", "10.1.2.3")
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :])
    assert covers(der, host) is is_covered


def test_sni_not_in_certificate(tmp_path: Path) -> None:
    """The name of the certificate comes back; one that it is not for does not, and the log says once what helps."""
    authority, pem = certificate_for("broker.example.com", "*.wild.example.com")
    store = tmp_path / "broker.pem"
    store.write_text(pem)
    store.chmod(0o600)
    context = ssl.create_default_context(cadata=authority)
    context.check_hostname = False

    async def told(port: int, name: str) -> str:
        client = await WireClient.connect("127.0.0.1", port, tls=context, server_name=name)
        answer = await client.ask(MetadataRequest(topics=[]), 12, MetadataResponse)
        client.close()
        await client.closed
        assert [broker.port for broker in answer.brokers] == [port]
        return answer.brokers[0].host

    async def names(port: int) -> list[str]:
        asked = ("broker.example.com", "a.wild.example.com", "evil.example.org", "evil2.example.org", "127.0.0.1")
        return [await told(port, name) for name in asked]

    settings = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    properties = tmp_path / "server.properties"
    properties.write_text("\n".join(f"{key}={value}" for key, value in settings.items()))
    protocols = {"listener.security.protocol.map": "TLS:SSL", "inter.broker.listener.name": "TLS"}
    process = BrokerProcess({**protocols, "listeners": "TLS://127.0.0.1:0"}, options=(str(properties),))
    with process:
        assert asyncio.run(names(process.port)) == [
            "broker.example.com",
            "a.wild.example.com",
            "127.0.0.1",
            "127.0.0.1",
            "127.0.0.1",
        ]
        assert process.output.count("--advertise NAME:PORT") == 1
        assert "asked for evil.example.org" in process.output
