"""The table of APIs against the generated messages, and the rules of headers and advertised versions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ottla.protocol.api import (
    ADVERTISED,
    APIS,
    SERVED,
    VERSIONS,
    ApiKey,
    ApiSpec,
    is_served,
    request_header_version,
    response_header_version,
    visible_features,
)


@pytest.mark.parametrize("spec", APIS.values(), ids=lambda spec: spec.name)
def test_the_table_agrees_with_the_messages(spec: ApiSpec) -> None:
    for cls in (spec.request_class(), spec.response_class()):
        assert spec.key == cls.API_KEY
        assert (spec.min_version, spec.max_version) == cls.VERSIONS == VERSIONS[spec.key]
        flexible = range(cls.FLEXIBLE[0], cls.FLEXIBLE[1] + 1)
        for version in range(spec.min_version, spec.max_version + 1):
            assert spec.is_flexible(version) == (version in flexible)


def test_keys_of_a_kraft_quorum_have_names_but_no_messages() -> None:
    assert set(ApiKey) - set(APIS) == {
        *(4, 5, 6, 7, 52, 53, 54, 59, 62, 63, 67, 70, 73, 80, 81, 82, 94),
    }
    assert ApiKey(52).name == "VOTE"


def test_what_is_served_is_the_foundation_of_a_single_node() -> None:
    assert list(SERVED) == sorted(SERVED)
    between_brokers_of_kafka = {4, 5, 6, 7}
    raft_and_its_brokers = {52, 53, 54, 56, 59, 62, 63, 67, 70, 73, 80, 81, 82}
    assert {int(key) for key in SERVED} == set(range(94)) - between_brokers_of_kafka - raft_and_its_brokers
    assert SERVED[ApiKey.FETCH] == (4, 18)


def test_produce_is_advertised_from_version_0_and_served_from_3() -> None:
    assert ADVERTISED[ApiKey.PRODUCE] == (0, 13)
    assert SERVED[ApiKey.PRODUCE] == (3, 13)
    assert not is_served(0, 2)
    assert is_served(0, 3)
    assert {key for key in ADVERTISED if SERVED[key] != ADVERTISED[key]} == {ApiKey.PRODUCE}


def test_what_only_brokers_send_is_not_advertised() -> None:
    assert SERVED.keys() - ADVERTISED.keys() == {ApiKey.ENVELOPE}


def test_the_unstable_version_of_init_producer_id_exists_and_is_not_served() -> None:
    assert VERSIONS[ApiKey.INIT_PRODUCER_ID] == (0, 6)
    assert is_served(22, 5)
    assert not is_served(22, 6)


def test_unknown_keys_are_not_served() -> None:
    assert not is_served(7, 1)
    assert not is_served(-1, 0)
    assert not is_served(1000, 0)


@pytest.mark.parametrize(
    ("key", "version", "request_version", "response_version"),
    [
        (ApiKey.PRODUCE, 8, 1, 0),
        (ApiKey.PRODUCE, 9, 2, 1),
        (ApiKey.API_VERSIONS, 2, 1, 0),
        (ApiKey.API_VERSIONS, 3, 2, 0),
        (ApiKey.API_VERSIONS, 99, 2, 0),
        (ApiKey.SASL_HANDSHAKE, 1, 1, 0),
        (ApiKey.OFFSET_DELETE, 0, 1, 0),
        (ApiKey.DESCRIBE_CLUSTER, 0, 2, 1),
    ],
)
def test_header_versions(key: int, version: int, request_version: int, response_version: int) -> None:
    assert request_header_version(key, version) == request_version
    assert response_header_version(key, version) == response_version


def test_features_with_a_lowest_version_of_0_are_hidden_from_version_3() -> None:
    features = [("group.version", 0, 1), ("metadata.version", 7, 27)]
    assert visible_features(2, features) == []
    assert visible_features(3, features) == [("metadata.version", 7, 27)]
    assert visible_features(4, features) == features


def test_importing_the_table_or_one_api_imports_no_other_messages() -> None:
    program = (
        "import sys, ottla.protocol.api, ottla.protocol.codec, ottla.protocol.messages.produce;"
        "print([name for name in sys.modules if name.startswith('ottla.protocol.messages.')])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert printed.stdout.strip() == "['ottla.protocol.messages.produce']"
