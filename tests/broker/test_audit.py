"""The audit: who came in, who did not, what was changed, as JSON lines: no secret in them, no flood, no silent gap."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.broker.test_login import (
    handshake,
    log_in,
    logged_in,
    make_user,
    stranger,
    token,
    with_broker,
    works,
)
from tests.support.broker_process import BrokerProcess

from ottla.broker.audit import LINES_PER_SECOND, Audit
from ottla.broker.context import Session
from ottla.protocol.messages.alter_client_quotas import (
    AlterClientQuotasRequest,
    AlterClientQuotasRequestEntryData,
    AlterClientQuotasResponse,
    EntityData,
    OpData,
)
from ottla.security.sasl.plain import PlainClient
from ottla.security.sasl.scram import ScramClient
from ottla.testing.simulation import SimulatedBroker


def told(
    caplog: pytest.LogCaptureFixture, scenario: Callable[[SimulatedBroker], Awaitable[None]], **settings: object
) -> list[dict[str, Any]]:
    """Run a scenario; return the lines of the audit."""
    caplog.set_level(logging.INFO, "ottla.audit")
    with_broker(scenario, **settings)
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "ottla.audit"]


def scram(user: str, password: str) -> ScramClient:
    return ScramClient("SCRAM-SHA-256", user, password, nonce="abcdefgh")


def test_logins_are_told_with_name_mechanism_and_place(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "carol", "canary-password")
        await logged_in(node)
        await log_in(await stranger(node), scram("carol", "canary-password"))
        await log_in(await stranger(node), PlainClient("alice", "canary-guess"))
        await log_in(await stranger(node), scram("mallory\n", "canary-guess"))
        await handshake(await stranger(node), "GSSAPI")

    lines = told(caplog, scenario)
    logins = [{key: value for key, value in line.items() if key != "host"} for line in lines if "login" in line]
    assert all(line["host"] for line in lines)
    assert logins[:2] == [
        {"login": "accepted", "principal": "User:alice", "mechanism": "PLAIN", "listener": "LOGIN"},
        {"login": "accepted", "principal": "User:carol", "mechanism": "SCRAM-SHA-256", "listener": "LOGIN"},
    ]
    refused = [(line["mechanism"], line.get("claimed"), line["login"]) for line in logins[2:]]
    assert refused == [("PLAIN", "alice", "refused"), ("SCRAM-SHA-256", "mallory\\n", "refused"), ("", None, "refused")]
    assert "a user that does not exist" in logins[3]["why"]
    assert "GSSAPI" in logins[4]["why"]
    assert "canary" not in caplog.text


def test_a_session_that_goes_on_and_one_that_ends_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await logged_in(node)
        await asyncio.sleep(2)
        await log_in(client, PlainClient("alice", "wonder"))
        assert await works(client)
        await asyncio.sleep(6)
        with pytest.raises(ConnectionResetError):
            await works(client)

    lines = told(caplog, scenario, **{"listener.name.login.connections.max.reauth.ms": 5_000})
    assert [line["login"] for line in lines] == ["accepted", "again", "ended"]


def test_changes_are_told_without_secrets_and_refused_ones_are_not(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(node: SimulatedBroker) -> None:
        await make_user(node, "carol", "canary-password")
        client = await logged_in(node)
        for name, value in (("producer_byte_rate", 1000.0), ("no_such_limit", 1.0)):
            entry = AlterClientQuotasRequestEntryData(
                entity=[EntityData(entity_type="user", entity_name="carol")],
                ops=[OpData(key=name, value=value, remove=False)],
            )
            await client.ask(AlterClientQuotasRequest(entries=[entry]), 1, AlterClientQuotasResponse)

    changes = [line for line in told(caplog, scenario) if "change" in line]
    assert [(line["change"], line["principal"], line["of"]) for line in changes] == [
        ("ALTER_USER_SCRAM_CREDENTIALS", "User:ANONYMOUS", ["carol (mechanism 1)"]),
        ("ALTER_CLIENT_QUOTAS", "User:alice", ["user carol: producer_byte_rate=1000.0"]),
    ]


def test_a_flood_of_wrong_passwords_hides_no_login_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ottla.audit")
    now = 0.0
    audit = Audit(lambda: now)
    session = Session(listener="LOGIN", client_host="10.0.0.9")
    for _ in range(1_000):
        audit.refused(session, "PLAIN", "root", "no")
    audit.logged_in(session, "PLAIN")
    now = 2.0
    audit.refused(session, "PLAIN", "root", "no")
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "ottla.audit"]
    assert sum(line.get("login") == "refused" for line in lines) == LINES_PER_SECOND + 1
    assert sum(line.get("login") == "accepted" for line in lines) == 1
    assert {"refused_logins_left_out": 1_000 - LINES_PER_SECOND} in lines


@pytest.mark.parametrize("has_logins", [False, True])
def test_a_process_with_secrets_leaves_no_core_file(has_logins: bool, tmp_path: Path) -> None:
    settings = tmp_path / "server.properties"
    if has_logins:
        settings.write_text(
            "listeners=LOGIN://127.0.0.1:9092\nlistener.security.protocol.map=LOGIN:SASL_PLAINTEXT\n"
            "inter.broker.listener.name=LOGIN\nsasl.enabled.mechanisms=SCRAM-SHA-512\n"
        )
    else:
        settings.write_text("num.partitions=2\n")
    with BrokerProcess(options=(str(settings),)) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    own = Path("/proc/self/limits").read_text()
    assert line.split()[4:6] == ["0", "0"] if has_logins else line in own


def test_a_step_out_of_turn_is_answered_as_by_kafka() -> None:
    async def scenario(node: SimulatedBroker) -> None:
        client = await stranger(node)
        await handshake(client, "PLAIN")
        answer = await handshake(client, "PLAIN")
        assert (answer.error_code, answer.mechanisms) == (34, [])
        await client.closed
        for said, sentence in (
            (b"a\0b", "Invalid SASL/PLAIN response: expected 3 tokens, got 2"),
            (b"\0alice\0wonder", ""),
        ):
            client = await stranger(node)
            await handshake(client, "PLAIN")
            assert (await token(client, said)).error_message == sentence

    with_broker(scenario)
