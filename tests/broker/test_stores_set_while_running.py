"""Keys and certificates that `kafka-configs` sets for one listener of a running broker, as Apache Kafka takes them; and what
becomes of handshakes that fail.

Each is tried out before it is taken; what was refused leaves everything as it was, and what was taken holds after a restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.support.ports import free_port

from ottla.protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResponse,
)
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.security.authority import make_authority, make_certificate
from ottla.security.certificates import subject_of
from ottla.testing.wire import WireClient

BROKER, SET, DELETE = 4, 0, 1
KEY = "listener.name.secure.ssl.keystore.location"


def store(path: Path, name: str = "localhost") -> Path:
    now = datetime.now(UTC) - timedelta(hours=1)
    pair = make_certificate(make_authority("tests", now=now, days=2), [name, "127.0.0.1"], now=now, days=2)
    path.write_bytes(pair.key + pair.certificate)
    path.chmod(0o600)
    return path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess()
    listeners = f"ADMIN://127.0.0.1:{process.port},SECURE://127.0.0.1:{free_port()}"
    properties = tmp_path / "server.properties"
    properties.write_text(f"ssl.keystore.type=PEM\nssl.keystore.location={store(tmp_path / 'first.pem')}\n")
    process.settings = {
        "listeners": listeners,
        "listener.security.protocol.map": "ADMIN:PLAINTEXT,SECURE:SSL",
        "inter.broker.listener.name": "ADMIN",
    }
    process._options = (str(properties),)
    with process:
        yield process


def alter(broker: BrokerProcess, name: str, value: str | None, node: str = "1") -> str | None:
    """Set a key of the broker, or take it back; return why it was refused."""

    async def go() -> str | None:
        client = await WireClient.connect("127.0.0.1", broker.port)
        config = AlterableConfig(name=name, config_operation=DELETE if value is None else SET, value=value)
        resource = AlterConfigsResource(resource_type=BROKER, resource_name=node, configs=[config])
        request = IncrementalAlterConfigsRequest(resources=[resource])
        answer = (await client.ask(request, 1, IncrementalAlterConfigsResponse)).responses[0]
        client.close()
        assert bool(answer.error_code) == (answer.error_message is not None)
        return answer.error_message

    return asyncio.run(go())


def described(broker: BrokerProcess, name: str) -> tuple[str | None, bool]:
    async def go() -> tuple[str | None, bool]:
        client = await WireClient.connect("127.0.0.1", broker.port)
        resource = DescribeConfigsResource(resource_type=BROKER, resource_name="1", configuration_keys=[name])
        answer = await client.ask(DescribeConfigsRequest(resources=[resource]), 4, DescribeConfigsResponse)
        client.close()
        (row,) = answer.results[0].configs
        return row.value, row.is_sensitive

    return asyncio.run(go())


def shown(broker: BrokerProcess) -> bytes:
    """The certificate that a new connection of the listener is shown, DER."""
    port = int(broker.settings["listeners"].rpartition(":")[2])
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


def certificate_in(path: Path) -> bytes:
    text = path.read_text()
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERT") :])


def wait_for(broker: BrokerProcess, path: Path) -> None:
    deadline = time.monotonic() + 30
    while shown(broker) != certificate_in(path):
        assert time.monotonic() < deadline, f"the listener does not show {path.name}:\n{broker.output}"
        time.sleep(0.02)


def test_another_store_is_taken_at_once_and_after_a_restart(broker: BrokerProcess, tmp_path: Path) -> None:
    """1. another file is taken while the broker runs; 2. a restart keeps it; 3. taken back, that of the file counts again."""
    second = store(tmp_path / "second.pem")
    assert shown(broker) == certificate_in(tmp_path / "first.pem")
    assert alter(broker, KEY, str(second)) is None
    wait_for(broker, second)
    assert "listener SECURE has a new certificate" in broker.output
    assert broker.terminate() == 0
    broker.start()
    assert shown(broker) == certificate_in(second)
    assert alter(broker, KEY, None) is None
    wait_for(broker, tmp_path / "first.pem")


def test_failed_handshakes_are_in_the_audit_and_on_the_page(broker: BrokerProcess) -> None:
    """Plain bytes, a client that trusts another authority: a line with address and reason each; a mere probe is counted."""
    port = int(broker.settings["listeners"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"\x00\x00\x00\x10plain bytes here")
        while plain.recv(100):
            pass
    with socket.create_connection(("127.0.0.1", port)) as below, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(below, server_hostname="localhost")
    socket.create_connection(("127.0.0.1", port)).close()
    deadline = time.monotonic() + 30
    while "ottla_tls_handshakes_failed_total 3" not in page(broker):
        assert time.monotonic() < deadline, page(broker)
        time.sleep(0.02)
    lines = [line.partition("ottla.audit: ")[2] for line in broker.output.splitlines() if "ottla.audit: " in line]
    told = [json.loads(line) for line in lines]
    assert [(row["login"], row["mechanism"], row["host"], row["listener"]) for row in told] == [
        ("refused", "TLS", "127.0.0.1", "SECURE")
    ] * 2
    assert sorted(row["why"] for row in told) == [
        "TLS failed: tlsv1 alert unknown ca",
        "speaks no TLS to a TLS listener",
    ]


def page(broker: BrokerProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_what_cannot_be_used_is_refused_and_changes_nothing(broker: BrokerProcess, tmp_path: Path) -> None:
    """Files that are none, other names, listeners that are none, and settings that a restart is needed for."""
    torn = tmp_path / "torn.pem"
    torn.write_text("-----BEGIN CERTIFICATE-----\n")
    other = store(tmp_path / "other.pem", "example.com")
    os.mkfifo(tmp_path / "pipe")
    for name, value, why in (
        (KEY, str(tmp_path / "missing.pem"), "missing.pem cannot be read"),
        (KEY, "/dev/zero", "/dev/zero is no regular file"),
        (KEY, str(tmp_path / "pipe"), "pipe is no regular file"),
        (KEY, str(torn), "has no key and certificate that fit"),
        (KEY, str(other), f"its name is CN=example.com, not {subject_of(shown(broker))} (ssl.allow.dn.changes=true"),
        ("listener.name.secure.ssl.keystore.type", "JKS", "is no such store"),
        ("listener.name.admin.ssl.keystore.location", str(other), "names begin with one of: listener.name.secure."),
        ("listener.name.SECURE.ssl.keystore.location", str(other), "names begin with one of: listener.name.secure."),
        ("listener.name.secure.ssl.client.auth", "required", "Cannot update these configs dynamically"),
        ("ssl.keystore.location", str(other), "only per-listener using the listener prefix"),
    ):
        said = alter(broker, name, value)
        assert said is not None, name
        assert why in said, (name, said)
    assert "at default cluster level" in (alter(broker, KEY, str(tmp_path / "first.pem"), node="") or "")
    assert shown(broker) == certificate_in(tmp_path / "first.pem")
    assert alter(broker, "listener.name.secure.ssl.key.password", "canary") is None
    assert described(broker, "listener.name.secure.ssl.key.password") == (None, True)
    assert "canary" not in broker.output
