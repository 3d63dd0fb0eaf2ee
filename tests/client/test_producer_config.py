"""Kafka's keys, as keywords and in config=; what is wrong is said before anything is connected."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ottla
from ottla.client.config import ConsumerOptions, ProducerOptions, parse_servers, producer_settings
from ottla.client.keys import CONSUMER_KEYS, PRODUCER_KEYS, duration_ms, duration_s
from ottla.client.security import SECURITY_KEYS
from ottla.types import CompressionType

KERBEROS = {"sasl.mechanism": "GSSAPI", "sasl.kerberos.service.name": "kafka"}
DOCS = Path(__file__).parents[2] / "docs" / "client.md"


def settings(config: dict[str, Any] | None = None, **options: Any) -> Any:
    return producer_settings("localhost", config, options)[1]


def test_defaults_are_kafkas() -> None:
    made = settings()
    assert (made.acks, made.enable_idempotence, made.linger_ms, made.batch_size) == (-1, True, 5, 16_384)
    assert (made.delivery_timeout_ms, made.request_timeout_ms, made.max_block_ms) == (120_000, 30_000, 60_000)
    assert (made.buffer_memory, made.max_request_size, made.max_in_flight) == (33_554_432, 1_048_576, 5)
    assert made.compression is CompressionType.NONE


def test_keywords_and_config_are_the_same_keys() -> None:
    assert (
        settings(linger_ms=7)
        == settings({"linger.ms": 7})
        == settings({"linger.ms": "7"})
        == settings({"linger_ms": "7ms"})
    )
    with pytest.raises(ottla.ConfigurationError, match=r"linger.ms is given twice"):
        settings({"linger.ms": 7}, linger_ms=7)
    with pytest.raises(ottla.ConfigurationError, match="given twice"):
        producer_settings("a:1", {"bootstrap.servers": "b:1"}, {})
    assert set(ProducerOptions.__annotations__) == {
        name.replace(".", "_") for name in {**PRODUCER_KEYS, **SECURITY_KEYS}
    }
    assert set(ConsumerOptions.__annotations__) == {
        name.replace(".", "_") for name in {**CONSUMER_KEYS, **SECURITY_KEYS}
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10s", 10_000),
        ("1.5m", 90_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        (timedelta(seconds=3), 3_000),
        (12, 12),
        ("12", 12),
    ],
)
def test_durations_in_words(value: Any, expected: float) -> None:
    assert duration_ms("x.ms", value) == expected


def test_bare_numbers_are_seconds_in_methods() -> None:
    assert duration_s("timeout", 5) == duration_s("timeout", "5") == duration_s("timeout", "5s") == 5
    with pytest.raises(ottla.ConfigurationError, match="timeout='soon' is not valid"):
        duration_s("timeout", "soon")


def test_sizes_in_words() -> None:
    assert settings(batch_size="64KiB", buffer_memory="1GiB").batch_size == 65_536


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"liner.ms": 5}, r"Unknown key 'liner.ms'. Did you mean 'linger.ms'\?"),
        ({"liner_ms": 5}, r"Did you mean 'linger_ms'\?"),
        ({"foo.bar": 5}, r"Unknown key 'foo.bar'.$"),
        ({"linger.ms": "soon"}, r"linger.ms='soon' is not valid"),
        ({"linger.ms": -1}, r"linger.ms=-1 is not valid: it must be at least 0"),
        ({"acks": 2}, r"acks=2 is not valid: it takes 'all', 1 or 0"),
        ({"compression.type": "brotli"}, r"it takes none, gzip, snappy, lz4, zstd"),
        ({"enable.idempotence": "yes"}, r"it takes true or false"),
        ({"retries": 1.5}, "whole number"),
        ({"enable.idempotence": True, "acks": 1}, r"With enable.idempotence, acks must be 'all'"),
        ({"enable.idempotence": True, "retries": 0}, "retries must not be 0"),
        ({"enable.idempotence": True, "max.in.flight": 6}, r"max.in.flight.requests.per.connection must be at most 5"),
        ({"transactional.id": "x", "acks": 1}, r"With a transactional.id, acks must be 'all'"),
        ({"transactional.id": "x", "enable.idempotence": False}, "needs enable.idempotence"),
        ({"delivery.timeout.ms": 1_000}, r"must be at least linger.ms \+ request.timeout.ms"),
        ({"value.serializer": "org.apache.kafka.common.serialization.StringSerializer"}, "Pass value_serializer="),
        ({"partitioner.class": "x"}, "Pass partitioner="),
        ({"sasl.mechanism": "PLAIN"}, "Of a login some is missing"),
        ({"sasl.mechanism": "DIGEST-MD5"}, "it takes plain, scram-sha-256, scram-sha-512, oauthbearer, gssapi"),
        ({"sasl.mechanism": "GSSAPI"}, "needs the brokers' service name. Set sasl.kerberos.service.name"),
        ({**KERBEROS, "sasl.kerberos.keytab": "x"}, "sasl.kerberos.keytab needs sasl.kerberos.principal"),
        ({**KERBEROS, "sasl.jaas.config": "x.Krb5LoginModule required serviceName=other;"}, "another serviceName"),
        ({**KERBEROS, "sasl.jaas.config": "x.Krb5LoginModule required a=b;"}, "it needs useKeyTab=true with keyTab"),
        ({"sasl.login.refresh.window.factor": "x"}, "Pass sasl="),
        ({"ssl.engine.factory.class": "x"}, "Pass ssl_context="),
        ({"security.protocol": "SASL_SSL"}, "needs a user"),
        ({"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "p"}, "does not log in"),
        (
            {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.jaas.config": "x"},
            "ends too early|must be one of",
        ),
        ({"queue.buffering.max.messages": 5}, r"buffer.memory"),
        ({"batch.num.messages": 5}, r"batch.size"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ottla.ConfigurationError, match=message) as caught:
        ottla.Producer("localhost", config=given)
    assert isinstance(caught.value, ValueError)


def test_kerberos_as_java_and_librdkafka_write_it() -> None:
    module = "com.sun.security.auth.module.Krb5LoginModule required"
    common = {**KERBEROS, "security.protocol": "SASL_PLAINTEXT", "sasl.kerberos.kinit.cmd": "/usr/bin/kinit"}

    def read(**more: str) -> object:
        given = {**common, **{name.replace("_", "."): value for name, value in more.items()}}
        return producer_settings("localhost", given, {})[0].sasl

    by_keytab = ottla.sasl.Kerberos("kafka", "alice@R", "/k")
    assert read(sasl_jaas_config=f'{module} useKeyTab=true keyTab="/k" principal="alice@R";') == by_keytab
    assert read(sasl_kerberos_keytab="/k", sasl_kerberos_principal="alice@R") == by_keytab
    by_cache = ottla.sasl.Kerberos("kafka", ticket_cache="/c")
    assert read(sasl_jaas_config=f"{module} useTicketCache=true ticketCache=/c;") == by_cache
    assert read() == ottla.sasl.Kerberos("kafka")


def test_librdkafkas_names_are_taken_with_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = settings({"queue.buffering.max.ms": 9, "queue.buffering.max.kbytes": 100, "request.required.acks": 1})
    assert (made.linger_ms, made.buffer_memory, made.acks) == (9, 102_400, 1)
    assert "queue.buffering.max.ms is librdkafka's name; Kafka's is linger.ms" in caplog.text


def test_what_is_not_demanded_gives_way() -> None:
    assert not settings(acks=1).enable_idempotence
    assert not settings(max_in_flight_requests_per_connection=10).enable_idempotence
    assert settings(request_timeout_ms="10m").delivery_timeout_ms == 600_005


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_servers("a, b:1,[::1]:2 ,[::2],PLAINTEXT://c:3") == [
        ("a", 9092),
        ("b", 1),
        ("::1", 2),
        ("::2", 9092),
        ("c", 3),
    ]
    for bad in ("a:b", ":1", "a:0", "a:70000", "::1", " , "):
        with pytest.raises(ottla.ConfigurationError, match=r"bootstrap.servers"):
            parse_servers(bad)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(ottla.ConfigurationError, match="No broker is given"):
        ottla.Producer()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "somewhere:1")
    assert ottla.Producer()._client.bootstrap == (("somewhere", 1),)


def test_partitioners_and_connect() -> None:
    with pytest.raises(ottla.ConfigurationError, match="partitioner='murmur' is not valid"):
        ottla.Producer("a", partitioner="murmur")
    with pytest.raises(ottla.ConfigurationError, match="connect='soon' is not valid"):
        ottla.Producer("a", connect="soon")


def test_the_page_lists_every_key_with_its_default() -> None:
    text = DOCS.read_text()
    for key in {**PRODUCER_KEYS, **CONSUMER_KEYS, **SECURITY_KEYS}.values():
        default = (
            ""
            if key.default is None
            else str(key.default).lower()
            if isinstance(key.default, bool)
            else str(key.default)
        )
        assert f"| `{key.name}` | {default} | {key.text} |" in text, f"| `{key.name}` | {default} | {key.text} |"
