from __future__ import annotations

import pytest

from ottla.broker.config import BrokerConfig, ConfigError, Flags, Listener


def config(*overrides: str, flags: Flags | None = None) -> BrokerConfig:
    return BrokerConfig.from_sources(overrides=overrides, flags=flags)


def test_names_hosts_and_ports() -> None:
    found = config(
        "listeners=internal://[::1]:9092, EXTERNAL://0.0.0.0:0",
        "listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:plaintext",
        "inter.broker.listener.name=external",
    )
    assert found.listeners == (Listener("INTERNAL", "::1", 9092), Listener("EXTERNAL", "0.0.0.0", 0))
    assert found.inter_broker_listener_name == "EXTERNAL"
    assert config("listeners=X://:1", "listener.security.protocol.map=X:PLAINTEXT").inter_broker_listener_name == "X"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["listeners=SSL://:9093"], "the listener SSL speaks TLS and has no key: set ssl.keystore.location"),
        (["listeners=FOO://:9093"], "listeners: no security protocol is defined for listener FOO"),
        (["listeners=PLAINTEXT://:9092,PLAINTEXT://:9093"], "listeners: each listener must have a name of its own"),
        (
            ["listeners=PLAINTEXT://:9092,A://:9092", "listener.security.protocol.map=A:PLAINTEXT,PLAINTEXT:PLAINTEXT"],
            "listeners: each listener must have a port of its own",
        ),
        (["listeners=PLAINTEXT:9092"], "listeners: cannot read 'PLAINTEXT:9092'; write it as NAME://host:port"),
        (["listeners=PLAINTEXT://:99999"], "listeners: cannot read 'PLAINTEXT://:99999'"),
        (["listeners=PLAINTEXT://::1:9092"], "an IPv6 address stands in brackets"),
        (["listeners="], "listeners must contain at least one listener for clients"),
        (["listeners=CONTROLLER://:1", "controller.listener.names=CONTROLLER"], "at least one listener for clients"),
        (["advertised.listeners=PLAINTEXT://0.0.0.0:9092"], "clients cannot connect to PLAINTEXT://0.0.0.0:9092"),
        (["advertised.listeners=OTHER://h:9092"], "advertised.listeners: OTHER is not one of the listeners PLAINTEXT"),
        (["inter.broker.listener.name=OTHER"], "must be one of the listeners PLAINTEXT, not OTHER"),
        (["listener.security.protocol.map=A:FOO"], "listener.security.protocol.map: cannot read 'A:FOO'"),
    ],
)
def test_mistakes_are_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(*overrides)
    assert sentence in str(error.value)


def test_auto_is_the_default_and_can_be_said() -> None:
    assert config().advertised_listeners is None
    assert config("advertised.listeners=auto").advertised_listeners is None
    assert config("advertised.listeners=").advertised_listeners is None


@pytest.mark.parametrize(
    ("flags", "listener", "advertised"),
    [
        (Flags(port=1), Listener("PLAINTEXT", "localhost", 1), None),
        (Flags(host="127.0.0.1"), Listener("PLAINTEXT", "127.0.0.1", 9092), None),
        (Flags(host="::1", port=0), Listener("PLAINTEXT", "::1", 0), None),
        (
            Flags(advertise="example.org"),
            Listener("PLAINTEXT", "localhost", 9092),
            Listener("PLAINTEXT", "example.org", 9092),
        ),
        (Flags(advertise="h:7", port=1), Listener("PLAINTEXT", "localhost", 1), Listener("PLAINTEXT", "h", 7)),
        (Flags(advertise="::1"), Listener("PLAINTEXT", "localhost", 9092), Listener("PLAINTEXT", "::1", 9092)),
        (Flags(advertise="[::1]:7"), Listener("PLAINTEXT", "localhost", 9092), Listener("PLAINTEXT", "::1", 7)),
    ],
)
def test_flags_speak_about_the_first_listener(flags: Flags, listener: Listener, advertised: Listener | None) -> None:
    found = config(flags=flags)
    assert found.listeners == (listener,)
    assert found.advertised_listeners == (None if advertised is None else (advertised,))


def test_a_port_given_as_a_flag_is_advertised_too() -> None:
    found = config(
        "listeners=PLAINTEXT://:9092,CONTROLLER://:9093",
        "controller.listener.names=CONTROLLER",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "advertised.listeners=PLAINTEXT://localhost:9092",
        flags=Flags(port=19092),
    )
    assert found.listeners == (Listener("PLAINTEXT", "", 19092),)
    assert found.advertised_listeners == (Listener("PLAINTEXT", "localhost", 19092),)
    behind_nat = config("advertised.listeners=PLAINTEXT://public:443", flags=Flags(port=19092))
    assert behind_nat.advertised_listeners == (Listener("PLAINTEXT", "public", 443),)


def test_auto_can_be_asked_for_against_the_file() -> None:
    found = config("advertised.listeners=PLAINTEXT://h:1", flags=Flags(advertise="auto"))
    assert found.advertised_listeners is None


def test_limits_of_single_addresses() -> None:
    found = config("max.connections.per.ip.overrides=127.0.0.1:50,[::1]:3, host:0", "max.connections.per.ip=0")
    assert found.max_connections_per_ip_overrides == {"127.0.0.1": 50, "::1": 3, "host": 0}


def test_a_listener_has_limits_of_its_own() -> None:
    found = config(
        "listeners=PLAINTEXT://:9092,INSIDE://:9093",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT",
        "listener.name.inside.max.connections=7",
        "max.connections=100",
    )
    assert found.limit_of_listener("INSIDE", "max.connections") == 7
    assert found.limit_of_listener("PLAINTEXT", "max.connections") == 2**31 - 1
    assert found.max_connections == 100


@pytest.mark.parametrize("flags", [Flags(port=0), Flags(advertise="kafka.example:9092"), Flags()])
def test_closed_by_default(flags: Flags) -> None:
    assert [listener.host for listener in config(flags=flags).listeners] == ["localhost"]
