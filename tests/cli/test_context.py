"""Contexts: named clusters in a file, and which of several addresses counts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.cli.conftest import Run

import ottla as package
from ottla.cli.running import Connection
from ottla.client.contexts import config_path, read_contexts


def test_contexts_are_made_used_listed_and_deleted(ottla: Run) -> None:
    assert ottla("context", "set", "local", "-b", "localhost:9092").code == 0
    assert ottla("context", "set", "far", "-b", "kafka:9093", "-X", "security.protocol=ssl").code == 0
    assert ottla("context", "use", "far").code == 0
    lines = ottla("context", "list").lines
    assert ["no", "local", "localhost:9092", "-"] in lines
    assert ["yes", "far", "kafka:9093", "security.protocol"] in lines
    assert ottla("context", "delete", "far").code == 0
    assert read_contexts(os.environ).current is None
    missing = ottla("context", "use", "far")
    assert (missing.code, "It has local." in missing.err) == (2, True)


def test_the_file_is_for_its_owner_only(ottla: Run, tmp_path: Path) -> None:
    (tmp_path / "client.properties").write_text("sasl.password=x\n")
    ottla("context", "set", "secret", "-b", "kafka:9093", "-F", str(tmp_path / "client.properties"))
    path = config_path(os.environ)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert "sasl.password" in ottla("context", "list").out


def test_only_keys_of_a_connection_belong_into_a_context(ottla: Run) -> None:
    refused = ottla("context", "set", "odd", "-X", "linger.ms=3")
    assert (refused.code, "linger.ms does not say how to reach a cluster" in refused.err) == (2, True)
    assert ottla("context", "set", "empty").code == 2


def test_what_is_nearer_counts(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(
        'current = "a"\n[contexts.a]\nbootstrap.servers = "a:1"\n[contexts.b]\n"bootstrap.servers" = "b:1"\n'
    )
    file = {"OTTLA_CONFIG": str(path)}
    assert Connection(None, None, [], {}).servers == "localhost:9092"
    assert Connection(None, None, [], file).servers == "a:1"
    assert Connection(None, None, [], {**file, "OTTLA_CONTEXT": "b"}).servers == "b:1"
    assert Connection(None, None, [], {**file, "KAFKA_BOOTSTRAP_SERVERS": "env:1"}).servers == "env:1"
    assert Connection(None, "b", [], {**file}).servers == "b:1"
    assert Connection(None, "b", [], {**file, "KAFKA_BOOTSTRAP_SERVERS": "env:1"}).servers == "b:1"
    assert Connection("line:1", "b", [], {**file}).servers == "line:1"
    assert Connection("line:1", None, [], {**file, "KAFKA_BOOTSTRAP_SERVERS": "env:1"}).servers == "line:1"
    assert Connection(None, None, ["bootstrap.servers=x:1"], file).servers == "x:1"


def test_a_file_without_addresses_says_where_the_command_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\n")
    assert Connection("line:1", None, [], {}, str(path)).servers == "line:1"
    assert capsys.readouterr().err == ""
    assert Connection(None, None, [], {}, str(path)).servers == "localhost:9092"
    assert f"{path} has no bootstrap.servers: this goes to localhost:9092" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["current = ", "current = 3", 'contexts = "x"', "[contexts]\na = 1", "[contexts.a]\nlinger = 1"]
)
def test_a_broken_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(package.ConfigurationError):
        read_contexts({"OTTLA_CONFIG": str(path)})


def test_the_file_is_where_it_belongs(tmp_path: Path) -> None:
    assert config_path({"XDG_CONFIG_HOME": str(tmp_path)}) == f"{tmp_path}/ottla/config.toml"
    assert config_path({}).endswith("/.config/ottla/config.toml")


def test_a_client_without_an_address_takes_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.toml"
    path.write_text('current = "a"\n[contexts.a]\n"bootstrap.servers" = "127.0.0.1:1"\n"client.id" = "me"\n')
    monkeypatch.setenv("OTTLA_CONFIG", str(path))
    there = (("127.0.0.1", 1),)
    for client in (package.Producer(), package.Consumer(), package.aio.Admin()):
        assert (client._client.bootstrap, client._client.client_id) == (there, "me")
    assert package.Producer(client_id="other")._client.client_id == "other"
    assert package.aio.Admin("b:2")._client.client_id == "ottla"
    assert package.Consumer(config={"bootstrap.servers": "b:2"})._client.bootstrap == (("b", 2),)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "c:3")
    assert package.Producer()._client.bootstrap == (("c", 3),)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    monkeypatch.setenv("OTTLA_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(package.ConfigurationError, match="No broker is given"):
        package.Admin()
