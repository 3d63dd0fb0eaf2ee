"""`ottla token`, and Kafka's kafka-delegation-tokens: a token is made, used, renewed, ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_security import Runner, served
from tests.support import kafka_anchor
from tests.support.ports import free_port

ADMIN = "ottla-secure/admin.properties"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.chdir(tmp_path)
    return Runner(capfd)


@pytest.fixture
def port(run: Runner, tmp_path: Path) -> Iterator[int]:
    """The port of a broker made by `ottla security init`, with a key for tokens."""
    number = free_port()
    assert run("security", "init", "--port", str(number)).code == 0
    with open("ottla-secure/server.properties", "a") as file:
        file.write("delegation.token.secret.key=canary\n")
    with served("ottla-secure/server.properties", number, tmp_path / "data") as broker:
        yield number
        assert "canary" not in broker.output


def test_a_token_is_made_used_renewed_and_ended(run: Runner, port: int) -> None:
    assert run("user", "create", "alice", "--client-file", "alice.properties", "-F", ADMIN).code == 0
    assert run("acl", "add", "--principal", "alice", "--producer", "--topic", "t", "-F", ADMIN).code == 0
    made = run("token", "create", "--max-lifetime", "2d", "--client-file", "t.properties", "-F", "alice.properties")
    assert (made.code, made.out) == (0, "")
    token_id = made.err.split()[0]
    text = Path("t.properties").read_text()
    assert Path("t.properties").stat().st_mode & 0o777 == 0o600
    secret = re.search(r'password="([^"]+)" tokenauth="true"', text)
    assert secret is not None
    assert secret[1] not in made.err
    (listed,) = json.loads(run("token", "list", "--json", "-F", "alice.properties").out)
    assert (listed["token_id"], listed["owner"]) == (token_id, "User:alice")
    assert secret[1] not in json.dumps(listed)
    assert run("produce", "t", "-v", "by a token", "-F", "t.properties").code == 0
    assert run("token", "renew", token_id, "--period", "1h", "-F", "alice.properties").code == 0
    assert "cannot be managed over this connection" in run("token", "list", "-F", "t.properties").err
    assert "there is no token nothing" in run("token", "expire", "nothing", "-F", "alice.properties").err
    assert run("token", "expire", token_id, "-F", "alice.properties").code == 0
    assert "uthentication" in run("produce", "t", "-v", "x", "-F", "t.properties").err
    for_alice = run("token", "create", "--owner", "User:alice", "--client-file", "u.properties", "-F", ADMIN)
    assert "is a token of User:alice" in for_alice.err
    assert run("produce", "t", "-v", "by another token", "-F", "u.properties").code == 0


@pytest.mark.kafka
def test_kafka_delegation_tokens(run: Runner, port: int, tmp_path: Path) -> None:
    kafka_anchor.require()

    def tool(name: str, *arguments: str, config: str = ADMIN) -> str:
        return kafka_anchor.tool(
            name, "--bootstrap-server", f"localhost:{port}", "--command-config", str(tmp_path / config), *arguments
        )

    made = tool(
        "kafka-delegation-tokens", "--create", "--max-life-time-period", "-1", "--renewer-principal", "User:bob"
    )
    row = re.search(r"(?m)^(\S+)\s+(\S+==)\s+User:admin\s+User:admin\s+\[User:bob\]", made)
    assert row is not None, made
    token_id, hmac = row[1], row[2]
    assert token_id in tool("kafka-delegation-tokens", "--describe", "--owner-principal", "User:admin")
    renewed = tool("kafka-delegation-tokens", "--renew", "--renew-time-period", "3600000", "--hmac", hmac)
    assert "Completed renew operation" in renewed
    admin = (tmp_path / ADMIN).read_text()
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    by_token = re.sub(
        r"(?m)^sasl.jaas.config=.*$",
        lambda _: f'sasl.jaas.config={login} username="{token_id}" password="{hmac}" tokenauth="true";',
        admin,
    )
    (tmp_path / "token.properties").write_text(by_token)
    tool("kafka-topics", "--create", "--topic", "by-token", config="token.properties")
    assert "by-token" in tool("kafka-topics", "--list", config="token.properties")
    assert "Delegation Token requests are not allowed" in tool(
        "kafka-delegation-tokens", "--describe", config="token.properties"
    )
    assert "Completed expire operation" in tool(
        "kafka-delegation-tokens", "--expire", "--expiry-time-period", "-1", "--hmac", hmac
    )
    assert "SaslAuthenticationException" in tool("kafka-topics", "--list", config="token.properties")
