"""What --advertise takes, and what it refuses in one sentence."""

from __future__ import annotations

import pytest

from ottla.broker.config import BrokerConfig, Flags
from ottla.config import ConfigError


def advertised(text: str) -> tuple[str, int]:
    listeners = BrokerConfig.from_sources(flags=Flags(port=9999, advertise=text)).advertised_listeners
    assert listeners is not None
    return listeners[0].host, listeners[0].port


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("kafka.example.com", ("kafka.example.com", 9999)),
        ("kafka_1:1234", ("kafka_1", 1234)),
        ("10.0.0.7:65535", ("10.0.0.7", 65535)),
        ("[2001:db8::1]:9092", ("2001:db8::1", 9092)),
        ("2001:db8::1", ("2001:db8::1", 9999)),
    ],
)
def test_host_with_or_without_port_is_what_clients_are_told(text: str, address: tuple[str, int]) -> None:
    assert advertised(text) == address


@pytest.mark.parametrize(
    "text", ["foo:abc", "http://foo:9092", "PLAINTEXT://foo:9092", "a b:9092", "foo:0", "foo:70000", ":9092", ""]
)
def test_what_clients_could_not_use_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--advertise"):
        advertised(text)
