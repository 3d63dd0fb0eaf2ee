"""Values that stand elsewhere: what is resolved, what stays text, what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

import ottla
from ottla.broker.config import BrokerConfig
from ottla.client.errors import ConfigurationError
from ottla.client.property_files import read_properties
from ottla.config import BROKER, ConfigError
from ottla.config.variables import Resolved, resolve_variables
from ottla.testing import Broker

PACKAGE = "org.apache.kafka.common.config.provider"
PROVIDERS = {
    "config.providers": "file,env,dir",
    "config.providers.file.class": f"{PACKAGE}.FileConfigProvider",
    "config.providers.env.class": f"{PACKAGE}.EnvVarConfigProvider",
    "config.providers.dir.class": f"{PACKAGE}.DirectoryConfigProvider",
}
FILES = {"/s/a.properties": "user=alice\npassword=p=w d\n", "/s/token": "line\n"}


def read(path: str) -> str:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def resolve(**settings: str) -> Resolved:
    named = {name.replace("_", "."): text for name, text in settings.items()}
    return resolve_variables({**PROVIDERS, **named}, environment={"HOME": "/root", "E": ""}, read=read)


def test_variables_of_all_kinds_are_resolved_inside_texts() -> None:
    found = resolve(
        a="x${file:/s/a.properties:password}y${env:HOME}", b="${dir:/s:token}", c="${env:E}", d="$ {} plain"
    )
    assert {name: found.settings[name] for name in "abcd"} == {
        "a": "xp=w dy/root", "b": "line\n", "c": "", "d": "$ {} plain",
    }  # fmt: skip
    assert found.changed == {"a", "b", "c"}
    assert not any(name.startswith("config.providers.") for name in found.settings)


def test_what_no_provider_is_named_for_stays_text_and_is_told() -> None:
    found = resolve_variables({"a": "${env:HOME}", "b": "${vault:x:y}"}, environment={"HOME": "/root"}, read=read)
    assert found.settings == {"a": "${env:HOME}", "b": "${vault:x:y}"}
    assert found.notes == ("a: ${env:HOME} stays text, because config.providers does not name env",)


def test_what_was_resolved_is_not_resolved_again() -> None:
    FILES["/s/deep"] = "${env:HOME}"
    try:
        assert resolve(a="${dir:/s:deep}").settings["a"] == "${env:HOME}"
    finally:
        del FILES["/s/deep"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"a": "${file:/none:key}"}, "a has ${file:/none:key}: it cannot be read: No such file or directory"),
        ({"a": "${file:/s/a.properties:nothing}"}, "the file has no such key"),
        ({"a": "${env:NOTHING}"}, "there is no such environment variable"),
        ({"a": "${dir:/s/../s:token}"}, "a path with .. or a file outside of the directory"),
        ({"a": "${dir:/s:../s/token}"}, "a path with .. or a file outside of the directory"),
        ({"a": "${file:key}"}, "it must be written ${file:PATH:KEY}"),
        ({"config.providers.file.class": "com.example.Vault"}, "can be org.apache.kafka"),
        ({"config.providers.file.param.x": "1"}, "Unknown setting config.providers.file.param.x"),
        ({"config.providers.vault.class": "x"}, "about a provider that config.providers does not name"),
        ({"config.providers.env.param.allowlist.pattern": "("}, "is no pattern of RE2"),
        ({"config.providers.env.param.allowlist.pattern": "X.*", "a": "${env:HOME}"}, "the name is not allowed"),
        ({"config.providers.file.param.allowed.paths": "/t,/s/b", "a": "${file:/s/a.properties:user}"}, "not among"),
    ],
)
def test_a_mistake_is_one_sentence_that_shows_no_value(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_variables({**PROVIDERS, **settings}, environment={"HOME": "canary"}, read=read)
    assert len(error.value.mistakes) == 1
    assert sentence in str(error.value)
    assert "canary" not in str(error.value)
    assert "p=w d" not in str(error.value)


def test_allowed_paths_and_names_are_allowed() -> None:
    limits = {
        "config.providers.file.param.allowed.paths": "/s/a.properties",
        "config.providers.dir.param.allowed.paths": "/s/",
        "config.providers.env.param.allowlist.pattern": "HO.*",
    }
    found = resolve_variables(
        {**PROVIDERS, **limits, "a": "${file:/s/a.properties:user}${dir:/s:token}${env:HOME}"},
        environment={"HOME": "h"},
        read=read,
    )
    assert found.settings["a"] == "aliceline\nh"


def lines(*more: str) -> str:
    return "\n".join([*(f"{name}={text}" for name, text in PROVIDERS.items()), *more])


def test_a_broker_resolves_its_file_and_the_environment_and_hides_what_was_wrong(tmp_path: Path) -> None:
    secret = tmp_path / "secret.properties"
    secret.write_text("rack=r1\npassword=canary\n")
    config = BrokerConfig.from_sources(
        properties=lines(f"broker.rack=${{file:{secret}:rack}}", f"ssl.key.password=${{file:{secret}:password}}"),
        environment={"KAFKA_LOG_DIRS": "/data/${env:HOST}", "HOST": "h1"},
    )
    assert config.broker_rack == "r1"
    assert config.log_dirs == ("/data/h1",)
    assert config.levels.static["ssl.key.password"] == "canary"
    assert BROKER["ssl.key.password"].is_sensitive
    with pytest.raises(ConfigError) as error:
        BrokerConfig.from_sources(properties=lines(f"num.partitions=${{file:{secret}:password}}"))
    assert str(error.value) == "num.partitions is not valid; what its variables stand for is not shown"


def test_variable_in_alter_configs_stays_text(tmp_path: Path) -> None:
    """What a request sets is text, whatever providers the file names; DescribeConfigs shows it as it was set."""
    (tmp_path / "s").write_text("k=canary\n")
    variable = f"${{file:{tmp_path}/s:k}}"
    with Broker({**PROVIDERS}) as broker, ottla.Admin(broker.bootstrap_servers) as admin:
        admin.alter_configs("broker", "1", {"sasl.kerberos.service.name": variable})
        found = admin.describe_configs("broker", "1")
        assert found["sasl.kerberos.service.name"].value == variable
        assert not any("canary" in str(entry.value) for entry in found.values())


def test_a_clients_file_has_variables_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_PASSWORD", "wonder")
    path = tmp_path / "client.properties"
    path.write_text(lines("sasl.username=alice", "sasl.password=${env:CLIENT_PASSWORD}"))
    assert read_properties(str(path)) == {"sasl.username": "alice", "sasl.password": "wonder"}
    path.write_text(lines("sasl.password=${env:NOTHING_OF_THE_KIND}"))
    with pytest.raises(ConfigurationError, match="no such environment variable"):
        read_properties(str(path))
