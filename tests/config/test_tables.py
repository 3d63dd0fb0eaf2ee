"""The tables are complete and say what Apache Kafka 4.4 says; where they do not, the difference is listed here.

`data` holds name, type, default, bounds and importance of every key, read out of Kafka's jars; each file says where from.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ottla.broker.config import BrokerConfig
from ottla.broker.settings.listeners import PER_LISTENER
from ottla.config import BROKER, CLIENT_METRICS, DYNAMIC_ONLY, EXTRA, GROUP, TOPIC, ConfigKey, Status, Update, nearest
from ottla.config.effective import TOPIC_SYNONYMS
from ottla.storage.config import LogConfig

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[2]
TABLES = {
    "4.4.0-broker": BROKER,
    "4.3.1-broker-dynamic": DYNAMIC_ONLY,
    "4.4.0-topic": TOPIC,
    "4.4.0-group": GROUP,
}

#: Kafka demands a value; a node that starts without any configuration needs one.
OUR_DEFAULTS = {"node.id": "1", "process.roles": "broker,controller", "controller.listener.names": ""}
#: Closed by default: only this machine is let in.
OUR_DEFAULTS["listeners"] = "PLAINTEXT://localhost:9092"
#: Bounds that Kafka writes down but does not check ("", null and empty lists are taken).
UNCHECKED_BOUNDS = {"non-empty list", "non-null string"}


@dataclasses.dataclass(frozen=True)
class Fact:
    name: str
    internal: bool
    type: str
    default: str | None
    valid: str
    importance: str


def facts(table: str) -> list[Fact]:
    found = []
    for line in (DATA / f"configs-{table}.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, type_, default, valid, importance = line.split("\t")
        text: str | None = default.removeprefix("class ")
        if default == "null":
            text = None
        elif default.startswith("["):
            text = default.strip("[]").replace(", ", ",")
        found.append(Fact(name.lstrip("*"), name.startswith("*"), type_, text, valid, importance))
    return found


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_key_of_kafka_has_a_row_and_no_other(table: str) -> None:
    assert sorted(TABLES[table]) == sorted(fact.name for fact in facts(table))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_types_defaults_and_bounds_are_those_of_kafka(table: str) -> None:
    for fact in facts(table):
        key = TABLES[table][fact.name]
        assert (key.type.name, key.importance, key.internal) == (fact.type, fact.importance, fact.internal), fact.name
        assert key.default == OUR_DEFAULTS.get(fact.name, fact.default), fact.name
        if fact.valid not in UNCHECKED_BOUNDS:
            assert key.valid.text == fact.valid, fact.name


def all_keys() -> list[ConfigKey]:
    return [key for table in (BROKER, DYNAMIC_ONLY, EXTRA, TOPIC, GROUP, CLIENT_METRICS) for key in table.values()]


def test_every_key_has_one_status_and_a_reason_where_it_does_nothing() -> None:
    for key in all_keys():
        assert bool(key.reason) == (key.status is not Status.ENFORCED), key.name
        assert key.doc.endswith((".", "?")), key.name


def test_defaults_are_within_their_bounds() -> None:
    for key in all_keys():
        key.parse(key.default)


def test_every_topic_key_falls_back_to_a_broker_key_of_the_same_type() -> None:
    for name, synonym in TOPIC_SYNONYMS.items():
        assert BROKER[synonym].type is TOPIC[name].type, name
    #: Those without a broker default, as in Kafka.
    assert sorted(set(TOPIC) - set(TOPIC_SYNONYMS)) == [
        "errors.deadletterqueue.group.enable",
        "follower.replication.throttled.replicas",
        "internal.segment.bytes",
        "leader.replication.throttled.replicas",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
    ]


# -- "enforced" is a promise: somebody reads the value, and a test shows it


def _sources(directory: str, *excluded: str) -> str:
    files = [p for p in sorted((ROOT / directory).rglob("*.py")) if not any(e in p.as_posix() for e in excluded)]
    return "\n".join(path.read_text() for path in files)


def _log_field(topic_key: str) -> str:
    return {"cleanup.policy": "cleanup_compact", "internal.segment.bytes": "segment_bytes"}.get(
        topic_key, topic_key.replace(".", "_")
    )


#: Broker keys that reach the code under another name: resolved into these fields of BrokerConfig.
FIELDS = {
    "broker.id": "node_id",
    "controller.listener.names": "listeners",
    "listener.security.protocol.map": "listeners",
    "log.dir": "log_dirs",
    "process.roles": "node_id",
}


#: Read for the listener among brokers.
PEERS = {"sasl.mechanism.inter.broker.protocol", "ssl.endpoint.identification.algorithm"}


def test_what_is_enforced_is_read() -> None:
    code = _sources(
        "src/ottla", "/ottla/config/", "broker/config.py", "broker/settings/listeners.py", "protocol/messages"
    )
    by_listener = "".join(
        (ROOT / "src/ottla/broker/settings" / name).read_text()
        for name in ("access.py", "encryption.py", "kerberos.py", "logins.py", "oauth.py", "peers.py")
    )
    read_by = {name: TOPIC_SYNONYMS[name] for name in TOPIC_SYNONYMS}
    topic_fields = {f.name for f in dataclasses.fields(LogConfig)}
    broker_fields = {f.name for f in dataclasses.fields(BrokerConfig)}
    defaults_of_topics = set(read_by.values()) | {
        "log.retention.hours",
        "log.retention.minutes",
        "log.roll.hours",
        "log.roll.jitter.hours",
    }
    unread = []
    for name, key in TOPIC.items():
        field = _log_field(name)
        if name.endswith(".replication.throttled.replicas"):
            continue  # by side: replicas/throttles.py
        if key.status is Status.ENFORCED and not (field in topic_fields and re.search(rf"\.{field}\b", code)):
            unread.append(name)
    for name, key in BROKER.items():
        if key.status is not Status.ENFORCED or name in defaults_of_topics:
            continue
        if name in ("inter.broker.listener.name", "security.inter.broker.protocol"):
            continue  # broker/settings/listeners.py, resolve_inter_broker
        if name == "config.providers":
            continue  # read where it is written: config/variables.py, tests/config/test_variables.py
        if name in {*PER_LISTENER, *PEERS, "authorizer.class.name"} and f'"{name}"' in by_listener:
            continue
        field = FIELDS.get(name, name.replace(".", "_"))
        if not (field in broker_fields and re.search(rf"\.{field}\b", code)):
            unread.append(name)
    assert unread == []


def test_what_is_enforced_is_tested() -> None:
    tests = _sources("tests", "tests/config/test_tables.py")
    untested = [
        key.name
        for key in all_keys()
        if key.status is Status.ENFORCED
        and key.name not in tests
        and not re.search(rf"\b{_log_field(key.name)}\b", tests)
    ]
    assert untested == []


def test_a_mistyped_key_gets_the_right_one_named() -> None:
    assert nearest("num.partition", BROKER) == "num.partitions"
    assert nearest("log.retention.m", BROKER) == "log.retention.ms"
    assert nearest("retention", TOPIC) == "retention.ms"
    assert nearest("qwertz", BROKER) is None


def test_internal_keys_are_not_suggested() -> None:
    assert nearest("log.initial.task.delay", BROKER) != "log.initial.task.delay.ms"


def test_how_keys_can_change_is_known() -> None:
    """The keys that Kafka 4.3.1 shows as changeable, by DescribeConfigs of a broker."""
    assert BROKER["num.partitions"].update is Update.READ_ONLY
    assert BROKER["log.retention.ms"].update is Update.CLUSTER_WIDE
    assert BROKER["ssl.keystore.location"].update is Update.PER_BROKER
    assert sum(key.update is not Update.READ_ONLY for key in BROKER.values()) == 99
    assert {key.update for key in DYNAMIC_ONLY.values()} == {Update.CLUSTER_WIDE}
