"""What becomes of wishes about configurations: Apache Kafka's codes and sentences, asked of 4.3.1."""

from __future__ import annotations

import pytest

from ottla.cluster.decisions.configs import (
    Alteration,
    Operation,
    apply_alterations,
    check_request,
    validate_broker_config,
    validate_client_metrics_config,
    validate_group_config,
    validate_topic_config,
)
from ottla.cluster.decisions.refusal import Refusal
from ottla.config import TOPIC
from ottla.config.effective import Levels
from ottla.errors import ErrorCode

SET, DELETE, APPEND, SUBTRACT = Operation


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (
            "cleanup.policy",
            "foo",
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete",
        ),
        (
            "compression.type",
            "",
            "Invalid value  for configuration compression.type: String must be one of: "
            "uncompressed, zstd, lz4, snappy, gzip, producer",
        ),
        ("retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"),
        ("retention.ms", "", "Invalid value  for configuration retention.ms: Not a number of type LONG"),
        ("retention.ms", "1.5", "Invalid value 1.5 for configuration retention.ms: Not a number of type LONG"),
        ("retention.ms", "1_000", "Invalid value 1_000 for configuration retention.ms: Not a number of type LONG"),
        (
            "retention.ms",
            "9" * 22,
            f"Invalid value {'9' * 22} for configuration retention.ms: Not a number of type LONG",
        ),
        ("segment.bytes", "14", "Invalid value 14 for configuration segment.bytes: Value must be at least 1048576"),
        (
            "segment.bytes",
            "99999999999",
            "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT",
        ),
        (
            "min.cleanable.dirty.ratio",
            "2",
            "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1",
        ),
        (
            "min.cleanable.dirty.ratio",
            "x",
            "Invalid value x for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE",
        ),
        (
            "preallocate",
            "maybe",
            "Invalid value maybe for configuration preallocate: Expected value to be either true or false",
        ),
        (
            "compression.gzip.level",
            "0",
            "Invalid value 0 for configuration compression.gzip.level: Value must be between 1 and 9 or equal to -1",
        ),
        (
            "compression.lz4.level",
            "99",
            "Invalid value 99 for configuration compression.lz4.level: Value must be no more than 17",
        ),
        (
            "leader.replication.throttled.replicas",
            "x",
            "Invalid value [x] for configuration leader.replication.throttled.replicas: "
            "leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following "
            "format: [partitionId]:[brokerId],[partitionId]:[brokerId],...",
        ),
        (
            "remote.storage.enable",
            "true",
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage.",
        ),
        ("message.format.version", "3.0", "Unknown topic config name: message.format.version"),
        (
            "message.timestamp.type",
            "x",
            "Invalid value x for configuration message.timestamp.type: "
            "String must be one of: CreateTime, LogAppendTime",
        ),
        ("min.insync.replicas", "0", "Invalid value 0 for configuration min.insync.replicas: Value must be at least 1"),
    ],
)
def test_bad_topic_settings_are_refused_as_in_kafka(key: str, value: str, why: str) -> None:
    assert validate_topic_config({key: value}, Levels()) == Refusal(ErrorCode.INVALID_CONFIG, why)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cleanup.policy", ""),
        ("cleanup.policy", "delete,delete"),
        ("cleanup.policy", " compact , delete "),
        ("retention.ms", " 77 "),
        ("preallocate", "TRUE"),
        ("leader.replication.throttled.replicas", "*"),
        ("leader.replication.throttled.replicas", "0:1,1:2"),
        ("local.retention.ms", "999999999999"),
        ("retention.bytes", "-5"),
        ("internal.segment.bytes", "1000"),
        ("remote.storage.enable", "false"),
    ],
)
def test_topic_settings_kafka_takes_are_taken(key: str, value: str) -> None:
    assert validate_topic_config({key: value}, Levels()) is None


@pytest.mark.parametrize(
    ("before", "operation", "value", "after"),
    [
        ({}, SET, "compact", {"cleanup.policy": "compact"}),
        ({"cleanup.policy": "compact"}, DELETE, None, {}),
        ({}, DELETE, None, {}),
        ({}, APPEND, "compact", {"cleanup.policy": "delete,compact"}),
        ({"cleanup.policy": "compact"}, APPEND, "compact,delete", {"cleanup.policy": "compact,delete"}),
        ({"cleanup.policy": "compact,delete"}, SUBTRACT, "compact", {"cleanup.policy": "delete"}),
        ({}, SUBTRACT, "delete", {"cleanup.policy": ""}),
        ({"cleanup.policy": ""}, SUBTRACT, "delete", {"cleanup.policy": ""}),
    ],
)
def test_operations(before: dict[str, str], operation: int, value: str | None, after: dict[str, str]) -> None:
    assert apply_alterations(before, [Alteration("cleanup.policy", operation, value)], TOPIC) == after


@pytest.mark.parametrize("key", ["retention.ms", "nokey"])
def test_only_lists_can_be_appended_to(key: str) -> None:
    assert apply_alterations({}, [Alteration(key, APPEND, "5")], TOPIC) == Refusal(
        ErrorCode.INVALID_CONFIG, f"Can't APPEND to key {key} because its type is not LIST."
    )


def test_an_unknown_operation_is_refused() -> None:
    assert apply_alterations({}, [Alteration("retention.ms", 9, "5")], TOPIC) == Refusal(ErrorCode.UNKNOWN_SERVER_ERROR)


def test_the_form_of_a_request_is_checked_first() -> None:
    assert check_request([Alteration("a", SET, "1"), Alteration("a", SET, "2")]) == Refusal(
        ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys"
    )
    assert check_request([Alteration("a", SET, None)]) == Refusal(
        ErrorCode.INVALID_REQUEST, "Null value not supported for : a"
    )
    assert check_request([Alteration("a", DELETE, None)]) is None


@pytest.mark.parametrize(
    ("overrides", "per_broker", "why"),
    [
        ({"num.partitions": "3"}, True, "Cannot update these configs dynamically: [num.partitions]"),
        ({"listeners": "PLAINTEXT://:1"}, True, "Cannot update these configs dynamically: [listeners]"),
        (
            {"listeners": "PLAINTEXT://:1"},
            False,
            "Cannot update these configs at default cluster level, broker id must be specified: [listeners]",
        ),
        (
            {"ssl.keystore.type": "JKS"},
            True,
            "These security configs can be dynamically updated only per-listener using the listener prefix: "
            "[ssl.keystore.type]",
        ),
        (
            {"log.retention.ms": "abc"},
            True,
            "Invalid value abc for configuration log.retention.ms: Not a number of type LONG",
        ),
        (
            {"background.threads": "0"},
            True,
            "Invalid value 0 for configuration background.threads: Value must be at least 1",
        ),
    ],
)
def test_bad_broker_settings_are_refused_as_in_kafka(overrides: dict[str, str], per_broker: bool, why: str) -> None:
    assert validate_broker_config(overrides, per_broker=per_broker) == Refusal(ErrorCode.INVALID_REQUEST, why)


@pytest.mark.parametrize(
    ("overrides", "per_broker"),
    [
        ({"log.retention.ms": "1000"}, True),
        ({"log.retention.ms": "1000"}, False),
        ({"nokey": "3"}, False),
        ({"max.connections": "100"}, False),
    ],
)
def test_broker_settings_kafka_takes_are_taken(overrides: dict[str, str], per_broker: bool) -> None:
    assert validate_broker_config(overrides, per_broker=per_broker) is None


@pytest.mark.parametrize(
    ("group", "overrides", "error", "why"),
    [
        ("", {}, "INVALID_REQUEST", "Default group resources are not allowed."),
        ("g", {"nokey": "1"}, "INVALID_CONFIG", "Unknown group config name: nokey"),
        (
            "g",
            {"consumer.session.timeout.ms": "1"},
            "INVALID_CONFIG",
            "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms",
        ),
        (
            "g",
            {"consumer.session.timeout.ms": "60001"},
            "INVALID_CONFIG",
            "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms",
        ),
        (
            "g",
            {"share.auto.offset.reset": "x"},
            "INVALID_CONFIG",
            "Invalid value x for configuration share.auto.offset.reset: Invalid value `x` for configuration "
            "share.auto.offset.reset. The value must be either 'earliest', 'latest' or of the format "
            "'by_duration:<PnDTnHnMn.nS>'.",
        ),
    ],
)
def test_bad_group_settings_are_refused_as_in_kafka(
    group: str, overrides: dict[str, str], error: str, why: str
) -> None:
    assert validate_group_config(group, overrides, Levels()) == Refusal(ErrorCode[error], why)


@pytest.mark.parametrize("value", ["earliest", "latest", "by_duration:PT1H", "by_duration:P1DT2H3M4.5S"])
def test_share_groups_begin_anywhere_kafka_lets_them(value: str) -> None:
    assert validate_group_config("g", {"share.auto.offset.reset": value}, Levels()) is None


@pytest.mark.parametrize(
    "value", ["by_duration:", "by_duration:P", "by_duration:PT", "by_duration:1H", "by_duration:PT1D"]
)
def test_durations_are_read_strictly(value: str) -> None:
    assert validate_group_config("g", {"share.auto.offset.reset": value}, Levels()) is not None


@pytest.mark.parametrize(
    ("name", "overrides", "error", "why"),
    [
        ("", {"interval.ms": "1000"}, "INVALID_REQUEST", "Subscription name can't be empty"),
        ("m", {"nokey": "1"}, "INVALID_REQUEST", "Unknown client metrics configuration: nokey"),
        (
            "m",
            {"interval.ms": "5"},
            "INVALID_REQUEST",
            "Invalid value 5 for interval.ms, interval must be between 100 and 3600000 (1 hour)",
        ),
        ("m", {"match": "zz"}, "INVALID_CONFIG", "Illegal client matching pattern: zz"),
        ("m", {"match": "client_id="}, "INVALID_CONFIG", "Illegal client matching pattern: client_id="),
        ("m", {"match": "client_id=a=b"}, "INVALID_CONFIG", "Illegal client matching pattern: client_id=a=b"),
        ("m", {"match": "client_id=("}, "INVALID_CONFIG", "Illegal client matching pattern: client_id=("),
        ("m", {"match": "CLIENT_ID=a"}, "INVALID_CONFIG", "Illegal client matching pattern: CLIENT_ID=a"),
        ("m", {"match": "client_id=a,,"}, "INVALID_CONFIG", "Configuration 'match' values must not be empty."),
        ("m", {"metrics": "a,,b"}, "INVALID_CONFIG", "Configuration 'metrics' values must not be empty."),
    ],
)
def test_bad_client_metrics_are_refused_as_in_kafka(name: str, overrides: dict[str, str], error: str, why: str) -> None:
    assert validate_client_metrics_config(name, overrides) == Refusal(ErrorCode[error], why)


def test_good_client_metrics_are_taken() -> None:
    overrides = {"interval.ms": "100", "metrics": "a.b,c,c", "match": "client_id=x.*, client_source_port = 1="}
    assert validate_client_metrics_config("m", overrides) is None
