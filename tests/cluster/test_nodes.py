"""The nodes' JSON is Kafka's (ZkData.scala of 3.9), to the byte where order does not matter less."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.cluster.image import BrokerEnds, BrokerImage, Endpoint, LogEnd
from ottla.cluster.nodes import (
    BadNodeError,
    BrokerEpoch,
    BrokerEpochNode,
    BrokerNode,
    Change,
    ChangeNode,
    ClusterIdNode,
    ConfigNode,
    ControllerNode,
    EndsNode,
    Features,
    FeaturesNode,
    Maker,
    PartitionState,
    ProducerIdBlockNode,
    StateNode,
    TopicAssignment,
    TopicNode,
    UnfitNode,
    desanitize,
    merge_changes,
    sanitize,
)
from ottla.types import uuid_from_text

ID = uuid_from_text("sOcX9Ho5RSmccRo6T7-_RA")


def test_nodes_are_written_as_kafka_writes_them() -> None:
    assert json.loads(ClusterIdNode.encode("abc")) == {"version": "1", "id": "abc"}
    assert json.loads(TopicNode.encode(TopicAssignment(topic_id=ID, partitions=((1, 2), (2, 1))))) == {
        "version": 3,
        "partitions": {"0": [1, 2], "1": [2, 1]},
        "adding_replicas": {},
        "removing_replicas": {},
        "topic_id": "sOcX9Ho5RSmccRo6T7-_RA",
    }
    state = PartitionState(leader=1, leader_epoch=5, isr=(1, 2), controller_epoch=3)
    assert StateNode.encode(state) == b'{"version":1,"leader":1,"leader_epoch":5,"controller_epoch":3,"isr":[1,2]}'
    assert StateNode.path("t", 3) == "/brokers/topics/t/partitions/3/state"
    assert json.loads(ControllerNode.encode(4, 77)) == {
        "version": 2,
        "brokerid": 4,
        "timestamp": "77",
        "kraftControllerEpoch": -1,
    }
    assert json.loads(ProducerIdBlockNode.encode(1, range(1000, 2000))) == {
        "version": 1,
        "broker": 1,
        "block_start": "1000",
        "block_end": "1999",
    }
    assert ConfigNode.encode({"b": "2", "a": "1"}) == b'{"version":1,"config":{"a":"1","b":"2"}}'
    endpoints = [Endpoint("IN", "::1", 9092, "PLAINTEXT"), Endpoint("OUT", "h", 9093, "SSL")]
    broker = json.loads(BrokerNode.encode(endpoints, "r1", 5))
    assert broker["endpoints"] == ["IN://[::1]:9092", "OUT://h:9093"]
    assert broker["listener_security_protocol_map"] == {"IN": "PLAINTEXT", "OUT": "SSL"}
    assert (broker["version"], broker["host"], broker["port"], broker["rack"]) == (5, "::1", 9092, "r1")
    assert BrokerNode.decode(3, json.dumps(broker).encode(), 99) == BrokerImage(3, 99, tuple(endpoints), "r1", 99)


UUIDS = st.binary(min_size=16, max_size=16)
EPOCHS = st.integers(0, 9)


@given(st.builds(BrokerEpoch, directories=st.lists(st.text(max_size=3)).map(tuple), page_cache=st.text(max_size=3)))
def test_broker_epochs_round_trip(epoch: BrokerEpoch) -> None:
    stopping = replace(epoch, continues=3, is_stopping=True)
    assert BrokerEpochNode.decode(1, BrokerEpochNode.encode(epoch)) == epoch
    assert BrokerEpochNode.decode(1, BrokerEpochNode.encode(stopping)) == stopping


@given(st.frozensets(st.tuples(UUIDS, EPOCHS)))
def test_unfit_partitions_round_trip(partitions: frozenset[tuple[bytes, int]]) -> None:
    assert UnfitNode.decode(1, UnfitNode.encode(partitions)) == partitions


@given(EPOCHS, st.dictionaries(st.tuples(UUIDS, EPOCHS), st.builds(LogEnd, EPOCHS, EPOCHS)))
def test_log_ends_round_trip(broker_epoch: int, ends: dict[tuple[bytes, int], LogEnd]) -> None:
    said = BrokerEnds(broker_epoch=broker_epoch, ends=ends)
    assert EndsNode.decode(1, EndsNode.encode(said)) == said


@given(
    st.lists(EPOCHS, unique=True),
    st.lists(st.integers(10, 19), unique=True),
    st.integers(-1, 3),
    st.integers(0, 1),
    UUIDS,
)
def test_states_round_trip(isr: list[int], elr: list[int], recovered_in: int, recovery: int, topic_id: bytes) -> None:
    state = PartitionState(
        leader=1,
        leader_epoch=5,
        isr=tuple(isr),
        controller_epoch=3,
        isr_epochs=tuple(n + 100 for n in isr),
        elr=tuple(elr),
        elr_epochs=tuple(n + 200 for n in elr),
        leader_recovery_state=recovery,
        recovered_in=recovered_in,
        topic_id=topic_id,
    )
    assert StateNode.decode("/s", StateNode.encode(state)) == state


def test_a_topic_that_is_being_made_says_who_makes_it() -> None:
    assignment = TopicAssignment(
        topic_id=ID, partitions=((1,),), adding={0: (2,)}, creating=Maker(node_id=1, broker_epoch=4)
    )
    assert TopicNode.decode("t", TopicNode.encode(assignment)) == assignment


def test_features_carry_the_format_of_the_tree() -> None:
    assert FeaturesNode.decode(FeaturesNode.encode(Features({"a": 1}, 7))) == Features({"a": 1}, 7)
    assert FeaturesNode.decode(b'{"version":2,"status":1,"features":{"a":1}}') == Features({"a": 1}, 0)


def test_nodes_of_an_old_kafka_are_read() -> None:
    old = b'{"version":2,"partitions":{"1":[2],"0":[1]},"adding_replicas":{"0":[3]},"removing_replicas":{}}'
    assignment = TopicNode.decode("t", old)
    assert assignment.partitions == ((1,), (2,))
    assert assignment.topic_id == bytes(16)
    assert assignment.adding == {0: (3,)}


@given(st.text())
def test_any_name_becomes_one_step_of_a_path_and_comes_back(name: str) -> None:
    encoded = sanitize(name)
    assert desanitize(encoded) == name
    assert "/" not in encoded
    assert encoded.isascii()


def test_names_are_encoded_as_in_kafka() -> None:
    assert sanitize("a b/c*ü") == "a%20b%2Fc%2A%C3%BC"
    assert (sanitize("."), sanitize(".."), sanitize("...")) == ("%2E", "%2E%2E", "...")
    assert ConfigNode.path("groups", "g/1") == "/config/groups/g%2F1"
    assert ConfigNode.path("brokers", "<default>") == "/config/brokers/<default>"


CHANGES = st.builds(
    Change,
    topics=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    partitions=st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9)), max_size=3).map(tuple),
    configs=st.lists(st.tuples(st.sampled_from(["topics", "brokers"]), st.text(max_size=3)), max_size=3).map(tuple),
    brokers=st.booleans(),
    features=st.booleans(),
)


@given(CHANGES, st.integers(0, 2**62))
def test_changes_round_trip(change: Change, timestamp_ms: int) -> None:
    assert ChangeNode.decode("/x", ChangeNode.encode(change, timestamp_ms)) == (change, timestamp_ms)


def test_merged_changes_name_everything_once() -> None:
    merged = merge_changes(
        [
            Change(topics=("a",), partitions=(("b", 0),)),
            Change(topics=("a", "c"), partitions=(("b", 0), ("c", 1), ("b", 2)), configs=(("topics", "a"),)),
            Change(brokers=True),
            Change(features=True),
        ]
    )
    # c is read as a whole anyway.
    assert merged == Change(
        topics=("a", "c"), partitions=(("b", 0), ("b", 2)), configs=(("topics", "a"),), brokers=True, features=True
    )


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (lambda d: TopicNode.decode("t", d), b"\xff"),
        (lambda d: TopicNode.decode("t", d), b"[]"),
        (lambda d: TopicNode.decode("t", d), b'{"partitions":{"1":[1]}}'),
        (lambda d: TopicNode.decode("t", d), b'{"partitions":{"0":[1]},"topic_id":"x"}'),
        (lambda d: StateNode.decode("/s", d), b'{"leader":1}'),
        (
            lambda d: StateNode.decode("/s", d),
            b'{"leader":1,"leader_epoch":0,"controller_epoch":0,"isr":[1,2],"isr_epochs":[3]}',
        ),
        (lambda d: BrokerEpochNode.decode(1, d), b'{"version":1}'),
        (lambda d: UnfitNode.decode(1, d), b'{"partitions":{"x":[1]}}'),
        (lambda d: EndsNode.decode(1, d), b'{"broker_epoch":1,"ends":[[1]]}'),
        (lambda d: FeaturesNode.decode(d), b'{"features":{"a":"b"}}'),
        (lambda d: ConfigNode.decode("/c", d), b'{"version":1}'),
        (lambda d: ChangeNode.decode("/c", d), b'{"version":1}'),
    ],
)
def test_what_does_not_belong_in_a_node_is_named_with_its_path(read: object, data: bytes) -> None:
    assert callable(read)
    with pytest.raises(BadNodeError, match="cannot be read"):
        read(data)
