"""The broker that users test with: what it serves, what it does when told to fail, how time passes in it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import Producer as ConfluentProducer
from tests.support import kafka_anchor

import ottla
import ottla.testing
from ottla import TopicPartition
from ottla.config import ConfigError
from ottla.errors import (
    GroupIdNotFoundError,
    NotLeaderOrFollowerError,
    TopicAuthorizationFailedError,
)
from ottla.testing import Broker


def until(condition: Callable[[], bool], turn: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        turn()


# -- records ----------------------------------------------------------------------------------------------------------


def test_what_is_produced_is_there(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"1", "2", None, ("key", b"3")])
    topic = kafka_broker.topic("in")
    assert topic.values(4) == [b"1", b"2", None, b"3"]
    assert topic.keys() == [None, None, None, b"key"]
    assert topic.values(2) == [b"1", b"2"]
    assert [record.offset for record in topic.records()] == [0, 1, 2, 3]


def test_what_is_still_to_come_is_awaited(kafka_broker: Broker) -> None:
    thread = threading.Timer(0.05, lambda: kafka_broker.produce("out", [b"late"]))
    thread.start()
    assert kafka_broker.topic("out").values(1, timeout=10) == [b"late"]
    thread.join()


def test_what_does_not_come_fails_and_shows_what_is_there(kafka_broker: Broker) -> None:
    kafka_broker.produce("out", [b"only"])
    with pytest.raises(AssertionError, match=r"1 of 2 records are in 'out' after 0.05 s: \[b'only'\]"):
        kafka_broker.topic("out").values(2, timeout="50ms")
    with pytest.raises(AssertionError, match="there is no topic 'never'; those that are there: out"):
        kafka_broker.topic("never").values()


def test_aborted_records_are_not_there_unless_asked_for(kafka_broker: Broker) -> None:
    with ottla.Producer(kafka_broker.bootstrap_servers, transactional_id="t") as producer:
        with producer.transaction() as transaction:
            transaction.send("out", b"kept")
        with producer.transaction() as transaction:
            transaction.send("out", b"gone").result(30)
            raise ottla.Abort
    assert kafka_broker.topic("out").values(1) == [b"kept"]
    assert kafka_broker.topic("out").values(committed=False) == [b"kept", b"gone"]


def test_each_test_has_a_broker_of_its_own(kafka_broker: Broker) -> None:
    assert kafka_broker.admin.list_topics() == []


def test_topics_have_partitions_and_configurations(kafka_broker: Broker) -> None:
    topic = kafka_broker.create_topic("orders", partitions=3, configs={"retention.ms": "1h"})
    kafka_broker.produce("orders", [b"b"], partition=2)
    kafka_broker.produce("orders", [b"a"], partition=0)
    assert topic.values(2) == [b"a", b"b"]
    assert kafka_broker.admin.describe_configs("topic", "orders")["retention.ms"].value == "3600000"


def test_other_peoples_clients_are_served(kafka_broker: Broker) -> None:
    producer = ConfluentProducer({"bootstrap.servers": kafka_broker.bootstrap_servers})
    producer.produce("in", b"from librdkafka")
    producer.flush(30)
    assert kafka_broker.topic("in").values(1) == [b"from librdkafka"]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_an_error_is_answered_so_many_times_and_the_client_gets_over_it(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("out")
    with ottla.Producer(kafka_broker.bootstrap_servers, retry_backoff_ms=1) as producer:
        with kafka_broker.fail("Produce", error="NOT_LEADER_OR_FOLLOWER", times=3) as fault:
            producer.send_and_wait("out", b"1", timeout=30)
        assert fault.hits == 3
        assert fault.is_over
    assert kafka_broker.topic("out").values() == [b"1"]


def test_an_error_that_cannot_be_repaired_reaches_the_caller(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("out")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        fault = kafka_broker.fail("produce", error=TopicAuthorizationFailedError)
        with pytest.raises(ottla.DeliveryError) as caught:
            producer.send_and_wait("out", b"1", timeout=30)
        assert isinstance(caught.value.cause, TopicAuthorizationFailedError)
        fault.stop()
        producer.send_and_wait("out", b"2", timeout=30)
    assert kafka_broker.topic("out").values() == [b"2"]


def test_a_fault_does_not_hit_the_tests_own_calls(kafka_broker: Broker) -> None:
    with kafka_broker.fail("Produce", error="NOT_LEADER_OR_FOLLOWER"), kafka_broker.fail("Fetch"):
        kafka_broker.produce("in", [b"1"])
        assert kafka_broker.topic("in").values(1) == [b"1"]


def test_a_fetch_that_fails_is_tried_again(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"1", b"2"])
    with ottla.Consumer(
        kafka_broker.bootstrap_servers, topics=["in"], auto_offset_reset="earliest", retry_backoff_ms=1
    ) as consumer:
        assert next(iter(consumer)).value == b"1"
        with kafka_broker.fail("Fetch", error=NotLeaderOrFollowerError, times=2) as fault:
            kafka_broker.produce("in", [b"3"])
            assert [record.value for record in (next(consumer), next(consumer))] == [b"2", b"3"]
            until(lambda: fault.is_over, lambda: consumer.poll(timeout=0.01))


def test_a_lost_answer_leaves_the_record_once(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("out")
    with ottla.Producer(kafka_broker.bootstrap_servers) as producer:
        producer.send_and_wait("out", b"0", timeout=30)
        with kafka_broker.lose("Produce", times=2) as fault:
            producer.send_and_wait("out", b"1", timeout=30)
        assert fault.hits == 2
    assert kafka_broker.topic("out").values() == [b"0", b"1"]


def test_a_delay_holds_an_answer_back_until_time_has_passed(kafka_broker: Broker) -> None:
    kafka_broker.create_topic("out")
    with (
        ottla.Producer(kafka_broker.bootstrap_servers) as producer,
        kafka_broker.delay("Produce", seconds=600) as fault,
    ):
        delivery = producer.send("out", b"1")
        until(lambda: fault.hits == 1)
        assert not delivery.done()
        kafka_broker.clock.advance(minutes=10)
        delivery.result(timeout=30)


def test_clients_come_back_after_connections_broke_and_after_restarts(kafka_broker: Broker) -> None:
    address = kafka_broker.bootstrap_servers
    with ottla.Producer(address, reconnect_backoff_ms=1) as producer:
        producer.send_and_wait("out", b"1", timeout=30)
        kafka_broker.disconnect()
        producer.send_and_wait("out", b"2", timeout=30)
        kafka_broker.restart()
        producer.send_and_wait("out", b"3", timeout=30)
        kafka_broker.restart(kill=True)
        producer.send_and_wait("out", b"4", timeout=30)
    assert kafka_broker.bootstrap_servers == address
    assert kafka_broker.topic("out").values() == [b"1", b"2", b"3", b"4"]


def test_misspelt_names_are_told_with_the_nearest(kafka_broker: Broker) -> None:
    with pytest.raises(ValueError, match="did you mean Produce"):
        kafka_broker.fail("Prduce")
    with pytest.raises(ValueError, match="did you mean NOT_LEADER_OR_FOLLOWER"):
        kafka_broker.fail("Produce", error="NOT_LEADER_FOR_FOLLOWER")


# -- groups -----------------------------------------------------------------------------------------------------------


class Member:
    """A member of a group, of librdkafka, that notes what it is assigned."""

    def __init__(self, broker: Broker, protocol: str) -> None:
        settings = {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "group",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
        }
        if protocol == "classic":
            settings["heartbeat.interval.ms"] = "100"
        self.changes: Counter[str] = Counter()
        self.consumer = ConfluentConsumer(settings)
        self.consumer.subscribe(
            ["in"],
            on_assign=lambda _consumer, partitions: self.changes.update(["assigned"]),
            on_revoke=lambda _consumer, partitions: self.changes.update(["revoked"]),
            on_lost=lambda _consumer, partitions: self.changes.update(["revoked"]),
        )

    def poll(self) -> None:
        self.consumer.poll(0.05)


@pytest.fixture(params=["classic", "consumer"])
def member(kafka_broker: Broker, request: pytest.FixtureRequest) -> Iterator[Member]:
    kafka_broker.create_topic("in", partitions=2)
    made = Member(kafka_broker, request.param)
    try:
        until(lambda: made.changes["assigned"] == 1, made.poll)
        yield made
    finally:
        made.consumer.close()


def test_a_group_rebalances_when_it_is_told_to(kafka_broker: Broker, member: Member) -> None:
    thread = threading.Thread(target=lambda: kafka_broker.rebalance("group"))
    thread.start()
    until(lambda: member.changes["assigned"] >= 2 and member.changes["revoked"] >= 1, member.poll)
    thread.join()


def test_members_are_sent_away_when_their_sessions_expire(kafka_broker: Broker, member: Member) -> None:
    kafka_broker.expire(sessions="group")
    assert kafka_broker.admin.describe_group("group").members == ()
    until(lambda: member.changes["assigned"] >= 2, member.poll)
    assert len(kafka_broker.admin.describe_group("group").members) == 1


def test_a_group_without_members_can_neither_rebalance_nor_expire(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"1"])
    kafka_broker.admin.alter_group_offsets("empty", {TopicPartition("in", 0): 0})
    for call in (kafka_broker.rebalance, lambda group: kafka_broker.expire(sessions=group)):
        with pytest.raises(GroupIdNotFoundError):
            call("empty")
        with pytest.raises(GroupIdNotFoundError):
            call("never")


# -- time -------------------------------------------------------------------------------------------------------------


def test_records_expire_when_time_has_passed(kafka_broker: Broker) -> None:
    topic = kafka_broker.create_topic("in", configs={"retention.ms": "1d"})
    kafka_broker.produce("in", [b"1", b"2"])
    kafka_broker.expire(retention=True)
    assert topic.values() == [b"1", b"2"]
    kafka_broker.clock.advance(hours=25)
    kafka_broker.expire(retention=True)
    assert topic.values() == []
    assert kafka_broker.admin.list_offsets("in", "earliest")[TopicPartition("in", 0)].offset == 2


def test_a_transaction_is_aborted_when_its_time_is_over(kafka_broker: Broker) -> None:
    producer = ottla.Producer(kafka_broker.bootstrap_servers, transactional_id="t", transaction_timeout_ms=60_000)
    producer.start()
    transaction = producer.transaction()
    transaction.__enter__()
    transaction.send("out", b"1").result(30)
    kafka_broker.clock.advance(minutes=5)
    until(lambda: kafka_broker.admin.describe_transaction("t").state == "CompleteAbort")
    producer.close()


def test_time_does_not_go_back(kafka_broker: Broker) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        kafka_broker.clock.advance(hours=-1)


# -- without pytest ---------------------------------------------------------------------------------------------------


def test_settings_are_kafkas_and_mistakes_are_told() -> None:
    with Broker({"num.partitions": 4}) as broker:
        broker.produce("in", [b"1"])
        assert len(broker.admin.describe_topic("in").partitions) == 4
    with pytest.raises(ConfigError, match=r"num\.partitions"):
        Broker({"num.partitons": 4}).start()


def test_a_broker_that_does_not_run_says_so() -> None:
    broker = ottla.testing.Broker()
    for use in (lambda: broker.bootstrap_servers, lambda: broker.produce("in", [b"1"]), broker.disconnect):
        with pytest.raises(RuntimeError, match="does not run"):
            use()
    broker.close()


def test_a_port_can_be_chosen_and_a_broker_leaves_no_thread() -> None:
    with Broker() as first:
        port = first.port
    before = threading.active_count()
    with Broker(port=port) as second:
        assert second.bootstrap_servers == f"127.0.0.1:{port}"
    until(lambda: threading.active_count() <= before)
    with pytest.raises(AttributeError, match="no attribute 'Brokr'"):
        ottla.testing.Brokr  # noqa: B018


def test_large_batches_go_out_whole(kafka_broker: Broker) -> None:
    values: list[bytes | str | None] = [bytes([number % 251]) * 10_000 for number in range(500)]
    kafka_broker.produce("in", [*values])
    assert kafka_broker.topic("in").values(500, timeout=30) == values


@pytest.mark.kafka
def test_javas_own_clients_are_served_and_meet_faults(kafka_broker: Broker) -> None:
    kafka_anchor.require()
    address = kafka_broker.bootstrap_servers
    kafka_broker.create_topic("in", partitions=2)
    with kafka_broker.fail("Produce", error="NOT_LEADER_OR_FOLLOWER", times=2) as fault:
        kafka_anchor.tool("kafka-console-producer", "--bootstrap-server", address, "--topic", "in", stdin="a\nb\n")
    assert fault.hits == 2
    assert sorted(kafka_broker.topic("in").values(2), key=str) == [b"a", b"b"]
    assert "in" in kafka_anchor.tool("kafka-topics", "--bootstrap-server", address, "--list").split()
