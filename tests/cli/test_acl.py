"""`ottla acl`: rules in the words of kafka-acls."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.cli.conftest import Run

from ottla.testing import Broker

AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Broker]:
    with Broker({"authorizer.class.name": AUTHORIZER, "super.users": "User:ANONYMOUS"}) as broker:
        yield broker


@pytest.fixture(autouse=True)
def no_rules(ottla: Run) -> None:
    ottla("acl", "remove", "--principal", "User:*", "--yes")
    for rule in rules(ottla):
        ottla("acl", "remove", "--principal", rule[0], "--resource-pattern-type", "any", "--yes")
        ottla("acl", "remove", "--deny-principal", rule[0], "--resource-pattern-type", "any", "--yes")
    assert rules(ottla) == set()


def rules(ottla: Run, *arguments: str) -> set[tuple[str, ...]]:
    shown = json.loads(ottla("acl", "list", *arguments, "--json").out)
    columns = ("principal", "permission", "operation", "resource_type", "resource_name", "pattern_type", "host")
    return {tuple(row[column] for column in columns) for row in shown}


def test_a_producer_and_a_consumer_get_what_kafka_acls_gives_them(ottla: Run) -> None:
    assert (
        ottla("acl", "add", "--principal", "alice", "--producer", "--topic", "t", "--transactional-id", "x").code == 0
    )
    assert rules(ottla) == {
        ("User:alice", "allow", operation, kind, name, "literal", "*")
        for kind, name, operations in (("topic", "t", ("write", "describe", "create")),
                                       ("transactional_id", "x", ("write", "describe")))
        for operation in operations
    }  # fmt: skip
    added = ottla("acl", "add", "--allow-principal", "User:bob", "--consumer", "--topic", "t", "--group", "g")
    assert added.code == 0
    assert {rule[2:5] for rule in rules(ottla, "--principal", "User:bob")} == {
        ("read", "topic", "t"), ("describe", "topic", "t"), ("read", "group", "g"),
    }  # fmt: skip


def test_denials_hosts_prefixes_and_operations_by_either_spelling(ottla: Run) -> None:
    done = ottla(
        "acl", "add", "--principal", "User:a", "--deny-principal", "User:b", "--allow-host", "10.0.0.1", "--deny-host",
        "10.0.0.2", "--operation", "DescribeConfigs", "--operation", "alter-configs", "--topic", "p-",
        "--resource-pattern-type", "prefixed",
    )  # fmt: skip
    assert done.code == 0
    assert rules(ottla) == {
        (who, how, operation, "topic", "p-", "prefixed", host)
        for who, how, host in (("User:a", "allow", "10.0.0.1"), ("User:b", "deny", "10.0.0.2"))
        for operation in ("describe_configs", "alter_configs")
    }
    assert len(rules(ottla, "--topic", "p-x", "--resource-pattern-type", "match")) == 4
    assert rules(ottla, "--topic", "p-x") == set()


def test_rules_are_removed_as_they_are_named(ottla: Run) -> None:
    for topic in ("one", "two"):
        ottla("acl", "add", "--principal", "User:a", "--operation", "Read", "--operation", "Write", "--topic", topic)
    assert ottla("acl", "remove", "--principal", "User:a", "--operation", "Read", "--topic", "one", "--yes").code == 0
    left = {("write", "topic", "one"), ("read", "topic", "two"), ("write", "topic", "two")}
    assert {rule[2:5] for rule in rules(ottla)} == left
    assert "1 removed" in ottla("acl", "remove", "--topic", "one", "--yes").err
    assert "there are no such rules" in ottla("acl", "remove", "--topic", "one", "--yes").err
    unsure = ottla("acl", "remove", "--topic", "two")
    assert unsure.code == 2
    assert "--yes" in unsure.err
    assert len(rules(ottla)) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("add", "--topic", "t"), "say who"),
        (("add", "--principal", "User:a"), "--transactional-id, ...; see"),
        (("add", "--principal", "User:a", "--producer"), "need --topic"),
        (("add", "--principal", "User:a", "--consumer", "--topic", "t"), "--consumer needs --group"),
        (("add", "--principal", "User:a", "--producer", "--topic", "t", "--operation", "Read"), "leave out the others"),
        (("add", "--principal", "User:a", "--topic", "t", "--operation", "Reed"), "is no operation"),
        (("remove", "--yes"), "say which rules"),
    ],
)
def test_what_is_contradictory_is_said(ottla: Run, arguments: tuple[str, ...], text: str) -> None:
    done = ottla("acl", *arguments)
    assert done.code == 2
    assert text in done.err
