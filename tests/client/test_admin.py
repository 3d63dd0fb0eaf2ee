"""The admin client against a broker of each kind: what it makes is there, what fails says why."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Consumer as ConfluentConsumer
from tests.support.broker_process import RunningBroker
from tests.support.ports import free_port

import ottla
import ottla.aio
from ottla import Admin, AdminErrors, NewTopic, TopicPartition
from ottla.errors import (
    BrokerNotAvailableError,
    GroupIdNotFoundError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidTxnStateError,
    NonEmptyGroupError,
    OffsetOutOfRangeError,
    ProducerFencedError,
    TopicAlreadyExistsError,
    TransactionalIdNotFoundError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings

__all__ = ["kafka_broker", "kafka_broker_settings"]

_numbers = itertools.count()


@pytest.fixture
def admin(broker: RunningBroker) -> Iterator[Admin]:
    with Admin(broker.address, request_timeout_ms="20s") as made:
        yield made


@pytest.fixture
def topic(admin: Admin) -> str:
    name = f"topic-{next(_numbers)}"
    admin.create_topic(name, partitions=2)
    # Apache Kafka answers when its controller has the topic; the broker hears of it a moment later.
    eventually(lambda: any(listing.name == name for listing in admin.list_topics()))
    return name


def fill(broker: RunningBroker, topic: str, count: int, partition: int = 0) -> None:
    with ottla.Producer(broker.address) as producer:
        for number in range(count):
            producer.send(topic, b"%d" % number, partition=partition, timestamp=1_000_000 + number)


def eventually(check: Callable[[], bool]) -> None:
    """Ask again until it holds: brokers learn of a change a moment after the controller has made it."""
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline


# -- topics -----------------------------------------------------------------------------------------------------------


def test_a_topic_is_made_described_and_deleted(admin: Admin) -> None:
    admin.create_topic("made", partitions=3, replication_factor=1, configs={"retention.ms": "1d"})
    described = admin.describe_topic("made")
    assert [part.partition for part in described.partitions] == [0, 1, 2]
    assert all(part.leader in part.replicas == part.in_sync_replicas for part in described.partitions)
    (listed,) = [listing for listing in admin.list_topics() if listing.name == "made"]
    assert (listed.topic_id, listed.partitions, listed.replication_factor) == (described.topic_id, 3, 1)
    entry = admin.describe_configs("topic", "made", keys=["retention.ms"])["retention.ms"]
    assert (entry.value, entry.source, entry.is_default) == ("86400000", "dynamic-topic", False)
    admin.delete_topic("made")
    with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'made'"):
        admin.delete_topic("made")
    admin.delete_topic("made", missing_ok=True)


def test_a_topic_that_exists_is_an_error_unless_that_is_fine(admin: Admin, topic: str) -> None:
    with pytest.raises(TopicAlreadyExistsError, match=topic):
        admin.create_topic(topic)
    admin.create_topic(topic, partitions=9, exists_ok=True)
    assert len(admin.describe_topic(topic).partitions) == 2


def test_of_several_topics_the_error_says_which_failed_and_the_others_are_made(admin: Admin, topic: str) -> None:
    with pytest.raises(AdminErrors, match="2 of 3 failed") as caught:
        admin.create_topics([NewTopic(name=topic), NewTopic(name="good", partitions=1), NewTopic(name="not good")])
    assert caught.value.errors.keys() == {topic, "not good"}
    assert caught.value.results.keys() == {"good"}
    assert isinstance(caught.value.errors[topic], TopicAlreadyExistsError)
    assert admin.describe_topic("good").name == "good"


def test_validating_only_makes_nothing(admin: Admin) -> None:
    admin.create_topic("thought-of", validate_only=True)
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.describe_topic("thought-of")


def test_replicas_can_be_chosen(admin: Admin) -> None:
    (me,) = admin.describe_cluster().brokers
    admin.create_topic("chosen", replicas=[[me.id], [me.id]])
    assert [part.replicas for part in admin.describe_topic("chosen").partitions] == [(me.id,)] * 2
    with pytest.raises(ottla.ConfigurationError, match="replicas= says how many"):
        admin.create_topic("both", replicas=[[me.id]], partitions=1)


def test_many_topics_are_described_page_by_page(admin: Admin) -> None:
    names = [f"page-{number}" for number in range(5)]
    admin.create_topics([NewTopic(name=name, partitions=7) for name in names])
    described = admin.describe_topics(names)
    assert {name: len(topic.partitions) for name, topic in described.items()} == dict.fromkeys(names, 7)


def test_partitions_are_added_but_not_taken_away(admin: Admin, topic: str) -> None:
    admin.create_partitions(topic, 5)
    eventually(lambda: len(admin.describe_topic(topic).partitions) == 5)
    with pytest.raises(InvalidPartitionsError):
        admin.create_partitions(topic, 4)
    with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'none'"):
        admin.create_partitions("none", 4)


def test_records_ahead_of_an_offset_are_deleted(admin: Admin, broker: RunningBroker, topic: str) -> None:
    fill(broker, topic, 10)
    where = TopicPartition(topic, 0)
    assert admin.delete_records({where: 4}) == {where: 4}
    assert admin.list_offsets([where], "earliest")[where].offset == 4
    assert admin.delete_records({where: "end", TopicPartition(topic, 1): 0}) == {where: 10, TopicPartition(topic, 1): 0}
    with pytest.raises(OffsetOutOfRangeError):
        admin.delete_records({where: 11})
    with pytest.raises(ValueError, match="an offset or 'end'"):
        admin.delete_records({where: -1})


# -- configurations ---------------------------------------------------------------------------------------------------


def test_keys_are_changed_one_by_one_and_taken_back(admin: Admin, topic: str) -> None:
    admin.alter_configs("topic", topic, {"retention.bytes": "1GiB", "retention.ms": timedelta(hours=2)})
    admin.alter_configs("topic", topic, append={"cleanup.policy": "compact"})

    def values() -> dict[str, str | None]:
        return {
            key: entry.value for key, entry in admin.describe_configs("topic", topic).items() if not entry.is_default
        }

    eventually(lambda: "cleanup.policy" in values())
    told = values()
    assert (told["retention.bytes"], told["retention.ms"]) == (str(2**30), "7200000")
    assert sorted(str(told["cleanup.policy"]).split(",")) == ["compact", "delete"]
    admin.alter_configs(
        "topic", topic, {"retention.bytes": None, "retention.ms": None}, subtract={"cleanup.policy": "compact"}
    )
    eventually(lambda: values().get("cleanup.policy", "delete") == "delete")
    told = values()
    assert "retention.bytes" not in told


def test_offsets_are_set_when_the_coordinator_is_there(kafka_broker: Broker) -> None:
    """A fresh Apache Kafka says NOT_COORDINATOR of each partition for a moment; the finding: that was raised."""
    kafka_broker.create_topic("in", partitions=2)
    fault = kafka_broker.fail("OffsetCommit", error="NOT_COORDINATOR", times=2)
    both = {TopicPartition("in", 0): 0, TopicPartition("in", 1): 0}
    with Admin(kafka_broker.bootstrap_servers) as admin:
        admin.alter_group_offsets("g", both)
        assert fault.hits == 2
        assert admin.list_group_offsets("g").keys() == both.keys()


def test_a_wrong_key_or_value_changes_nothing(admin: Admin, topic: str) -> None:
    with pytest.raises(InvalidConfigError):
        admin.alter_configs("topic", topic, {"no.such.key": "1", "retention.ms": "1h"})
    with pytest.raises(ottla.ConfigurationError, match="a duration such as"):
        admin.alter_configs("topic", topic, {"retention.ms": "soon"})
    assert admin.describe_configs("topic", topic)["retention.ms"].is_default
    with pytest.raises(ottla.ConfigurationError, match="topic, broker"):
        admin.describe_configs("tpoic", topic)
    with pytest.raises(UnknownTopicOrPartitionError):
        admin.describe_configs("topic", "none")


def test_a_brokers_configuration_is_asked_of_that_broker(admin: Admin) -> None:
    (me,) = admin.describe_cluster().brokers
    entries = admin.describe_configs("broker", me.id, synonyms=True, documentation=True)
    assert entries["log.retention.hours"].type == "int"
    assert entries["log.retention.hours"].documentation
    admin.alter_configs("broker", "", {"log.cleaner.threads": 2})
    eventually(lambda: "log.cleaner.threads" in admin.describe_configs("broker", ""))
    assert admin.describe_configs("broker", "")["log.cleaner.threads"].source == "dynamic-default-broker"
    admin.alter_configs("broker", "", {"log.cleaner.threads": None})
    with pytest.raises(BrokerNotAvailableError, match=f"no broker {me.id + 1}"):
        admin.describe_configs("broker", me.id + 1)


def test_groups_and_client_metrics_have_configurations(admin: Admin) -> None:
    admin.alter_configs("group", "configured", {"consumer.session.timeout.ms": "50s"})
    eventually(lambda: admin.describe_configs("group", "configured")["consumer.session.timeout.ms"].value == "50000")
    admin.alter_configs("client-metrics", "all", {"interval.ms": "1m"})
    eventually(lambda: len(admin.list_config_resources(["client-metrics"])) == 1)
    listed = admin.list_config_resources(["client-metrics", "group"])
    assert listed == [("client-metrics", "all"), ("group", "configured")]


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_with_a_member(admin: Admin, broker: RunningBroker, topic: str, protocol: str) -> None:
    fill(broker, topic, 10)
    group_id = f"group-{topic}"
    settings = {
        "bootstrap.servers": broker.address,
        "group.id": group_id,
        "group.protocol": protocol,
        "auto.offset.reset": "earliest",
        "client.id": "a-client",
        "enable.auto.commit": False,
    }
    member = ConfluentConsumer(settings)
    try:
        member.subscribe([topic])
        message = member.poll(30)
        assert message is not None
        assert message.error() is None
        member.commit(message=message, asynchronous=False)
        group = admin.describe_group(group_id)
        assert (group.type, group.state) == (protocol, "Stable")
        (only,) = group.members
        assert only.client_id == "a-client"
        assert only.assignment == (TopicPartition(topic, 0), TopicPartition(topic, 1))
        assert only.subscribed_topics == (topic,)
        lag = admin.consumer_lag(group_id)
        behind = lag[TopicPartition(topic, 0)]
        assert (behind.committed, behind.end, behind.lag, behind.client_id) == (1, 10, 9, "a-client")
        unread = lag[TopicPartition(topic, 1)]
        assert (unread.committed, unread.lag, unread.member_id) == (None, None, only.member_id)
        with pytest.raises(NonEmptyGroupError):
            admin.delete_group(group_id)
        with pytest.raises(UnknownMemberIdError, match="has members"):
            admin.alter_group_offsets(group_id, {TopicPartition(topic, 0): "earliest"})
    finally:
        member.close()
    (listed,) = [listing for listing in admin.list_groups() if listing.group_id == group_id]
    assert (listed.type, listed.state) == (protocol, "Empty")
    admin.delete_group(group_id)
    with pytest.raises(GroupIdNotFoundError, match=group_id):
        admin.describe_group(group_id)


def test_offsets_of_a_group_are_set_by_offset_place_and_time(admin: Admin, broker: RunningBroker, topic: str) -> None:
    fill(broker, topic, 10)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    group_id = f"reset-{topic}"
    assert admin.list_group_offsets(group_id) == {}
    places: list[tuple[int | str | datetime | ottla.OffsetAndMetadata, int]] = [
        (3, 3),
        ("latest", 10),
        ("earliest", 0),
        (datetime.fromtimestamp(1_000.007, UTC), 7),
        (datetime.fromtimestamp(2_000, UTC), 10),
        (ottla.OffsetAndMetadata(5, metadata="why"), 5),
    ]
    for place, offset in places:
        assert admin.alter_group_offsets(group_id, {one: place})[one].offset == offset
        assert admin.list_group_offsets(group_id)[one].offset == offset
    assert admin.list_group_offsets(group_id)[one].metadata == "why"
    admin.alter_group_offsets(group_id, {two: 0})
    assert admin.list_group_offsets(group_id, [two]).keys() == {two}
    admin.delete_group_offsets(group_id, [one])
    assert admin.list_group_offsets(group_id, require_stable=True).keys() == {two}
    assert admin.list_groups_offsets([group_id, "none"]).keys() == {group_id, "none"}


def test_of_several_groups_the_error_says_which_failed(admin: Admin, topic: str) -> None:
    admin.alter_group_offsets("kept", {TopicPartition(topic, 0): 0})
    with pytest.raises(AdminErrors) as caught:
        admin.describe_groups(["kept", "never"])
    assert caught.value.results.keys() == {"kept"}
    assert isinstance(caught.value.errors["never"], GroupIdNotFoundError)


def test_a_share_groups_offsets(admin: Admin, broker: RunningBroker, topic: str) -> None:
    fill(broker, topic, 4)
    where = TopicPartition(topic, 0)
    group_id = f"share-{topic}"
    admin.alter_share_group_offsets(group_id, {where: "latest"})
    assert admin.list_share_group_offsets(group_id)[where].offset == 4
    assert admin.describe_group(group_id).type == "share"
    admin.delete_share_group_offsets(group_id, [topic])
    assert admin.list_share_group_offsets(group_id) == {}
    admin.delete_group(group_id)


# -- offsets ----------------------------------------------------------------------------------------------------------


def test_offsets_by_place_and_time(admin: Admin, broker: RunningBroker, topic: str) -> None:
    fill(broker, topic, 5)
    where = TopicPartition(topic, 0)

    def offset(place: str | int | datetime) -> int | None:
        return admin.list_offsets({where: place})[where].offset

    assert [offset(place) for place in ("earliest", "latest", "max_timestamp", "end")] == [0, 5, 4, 5]
    assert offset(1_000_002) == 2
    assert offset(2_000_000) is None
    found = admin.list_offsets([where], "max_timestamp")[where]
    assert found.timestamp == datetime.fromtimestamp(1_000.004, UTC)
    assert admin.list_offsets(topic).keys() == {where, TopicPartition(topic, 1)}
    with pytest.raises(UnknownTopicOrPartitionError, match="has 2 partitions"):
        admin.list_offsets({TopicPartition(topic, 2): "latest"})
    with pytest.raises(ottla.ConfigurationError, match="no place in a log"):
        admin.list_offsets(topic, "the middle")


# -- transactions -----------------------------------------------------------------------------------------------------


def test_transactions_are_listed_described_and_fenced(admin: Admin, broker: RunningBroker, topic: str) -> None:
    name = f"tx-{topic}"
    where = TopicPartition(topic, 0)
    with pytest.raises(TransactionalIdNotFoundError, match=name):
        admin.describe_transaction(name)
    producer = ottla.Producer(broker.address, transactional_id=name)
    producer.start()
    transaction = producer.transaction()
    transaction.__enter__()
    transaction.send(topic, b"1", partition=0).result(30)
    described = admin.describe_transaction(name)
    assert (described.state, described.partitions) == ("Ongoing", (where,))
    assert described.started is not None
    (remembered,) = admin.describe_producers([where])[where]
    assert remembered.transaction_start_offset == 0
    assert name in [listing.transactional_id for listing in admin.list_transactions(states=["Ongoing"])]
    assert name not in [listing.transactional_id for listing in admin.list_transactions(longer_than="1h")]
    assert admin.list_offsets([where], isolation_level="read_committed")[where].offset == 0
    assert admin.fence_producers([name])[name][1] > described.producer_epoch
    with pytest.raises(ProducerFencedError):
        transaction.__exit__(None, None, None)
    producer.close()
    (remembered,) = admin.describe_producers([where])[where]
    assert remembered.transaction_start_offset is None
    with pytest.raises(InvalidTxnStateError, match="no open transaction"):
        admin.abort_transaction(where, start_offset=0)


def test_a_transaction_that_hangs_in_a_partition_is_aborted(admin: Admin, broker: RunningBroker, topic: str) -> None:
    where = TopicPartition(topic, 0)
    producer = ottla.Producer(broker.address, transactional_id=f"hangs-{topic}")
    producer.start()
    transaction = producer.transaction()
    transaction.__enter__()
    transaction.send(topic, b"1", partition=0).result(30)
    assert admin.list_offsets([where], isolation_level="read_committed")[where].offset == 0
    admin.abort_transaction(where, start_offset=0)
    assert admin.list_offsets([where], isolation_level="read_committed")[where].offset == 2
    producer.close()


# -- the cluster ------------------------------------------------------------------------------------------------------


def test_the_cluster(admin: Admin, topic: str) -> None:
    cluster = admin.describe_cluster()
    (me,) = cluster.brokers
    assert cluster.cluster_id
    assert cluster.controller == me.id
    assert admin.api_versions()["Fetch"][1] >= 11
    assert admin.describe_features()["group.version"].finalized_level == 1
    (directory,) = admin.describe_log_dirs([me.id])[me.id]
    assert directory.error == ""
    assert TopicPartition(topic, 1) in directory.replicas
    assert directory.total_bytes is None or directory.total_bytes > 0
    only = admin.describe_log_dirs(partitions=[TopicPartition(topic, 0)])[me.id][0]
    assert only.replicas.keys() == {TopicPartition(topic, 0)}
    assert admin.list_partition_reassignments() == {}
    assert admin.elect_leaders([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): False}
    assert admin.describe_metadata_quorum().voters


def test_what_the_broker_does_not_serve_is_said(admin: Admin) -> None:
    served = admin.api_versions()
    calls: dict[str, Callable[[], object]] = {
        "DescribeAcls": admin.describe_acls,
        "DescribeDelegationToken": admin.describe_delegation_tokens,
        "DescribeUserScramCredentials": admin.describe_user_scram_credentials,
        "DescribeClientQuotas": admin.describe_client_quotas,
    }
    missing = calls.keys() - served.keys()
    for name in missing:
        with pytest.raises(UnsupportedVersionError, match=f"does not serve {name}"):
            calls[name]()


def test_quotas_and_passwords(admin: Admin) -> None:
    if not {"AlterClientQuotas", "AlterUserScramCredentials"} <= admin.api_versions().keys():
        pytest.skip("this broker has neither")
    admin.alter_client_quotas({"user": "alice"}, {"producer_byte_rate": 1e6})
    eventually(lambda: bool(admin.describe_client_quotas({"user": "alice"})))
    (quota,) = admin.describe_client_quotas({"user": "alice"})
    assert (quota.entity, quota.values) == ({"user": "alice"}, {"producer_byte_rate": 1e6})
    admin.alter_client_quotas({"user": "alice"}, {"producer_byte_rate": None})
    eventually(lambda: admin.describe_client_quotas({"user": "*"}) == [])
    admin.upsert_user_scram_credential("bob", "secret", mechanism="SCRAM-SHA-256")
    eventually(lambda: "bob" in admin.describe_user_scram_credentials())
    (credential,) = admin.describe_user_scram_credentials(["bob"])["bob"]
    assert (credential.mechanism, credential.iterations) == ("SCRAM-SHA-256", 8192)
    admin.delete_user_scram_credential("bob", mechanism="SCRAM-SHA-256")


# -- the client -------------------------------------------------------------------------------------------------------


async def test_the_asynchronous_face_makes_many_calls_at_once(broker: RunningBroker) -> None:
    import asyncio

    async with ottla.aio.Admin(broker.address) as admin:
        await admin.create_topic("at-once", partitions=1, exists_ok=True)
        answers = await asyncio.gather(*(admin.describe_topic("at-once") for _ in range(50)))
        assert {answer.name for answer in answers} == {"at-once"}
    with pytest.raises(ottla.ClosedError):
        await admin.list_topics()


def test_any_thread_may_call(admin: Admin, topic: str) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(admin.describe_topic(topic).name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [topic] * 8


def test_no_broker_is_said_within_the_timeout() -> None:
    with pytest.raises(ottla.BrokerUnreachableError, match="localhost"):
        Admin(f"localhost:{free_port()}", connect_timeout=0.5).start()


def test_a_call_has_a_limit_of_its_own_and_the_next_one_another(kafka_broker: Broker) -> None:
    with ottla.Admin(kafka_broker.bootstrap_servers) as admin, kafka_broker.delay("CreateTopics", seconds=20):
        began = time.monotonic()
        with pytest.raises(ottla.CallTimeoutError, match=r"CreateTopics was not answered within 0\.3 s"):
            admin.create_topic("late", timeout="300ms")
        assert time.monotonic() - began < 10
        assert admin.list_groups(timeout=30) == []
        with pytest.raises(ottla.ConfigurationError, match="timeout='soon'"):
            admin.list_groups(timeout="soon")


async def test_a_limit_covers_the_connection_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        admin = ottla.aio.Admin(address)
        with pytest.raises(ottla.CallTimeoutError, match=r"within 0\.2 s"):
            await admin.list_topics(timeout=0.2)
        await admin.close()

        def blocking() -> None:
            admin = ottla.Admin(address)
            with pytest.raises(ottla.CallTimeoutError, match=r"within 0\.2 s"):
                admin.list_topics(timeout=0.2)
            admin.close()

        await asyncio.to_thread(blocking)


def test_every_call_takes_a_limit() -> None:
    for kind in (ottla.Admin, ottla.aio.Admin):
        calls = [name for name in dir(kind) if not name.startswith("_")]
        calls = [name for name in calls if name not in ("start", "close", "metrics")]  # the last asks no broker
        assert len(calls) > 50
        for name in calls:
            parameter = inspect.signature(getattr(kind, name)).parameters["timeout"]
            assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, None), name


def test_a_key_that_is_not_known_names_the_nearest() -> None:
    with pytest.raises(ottla.ConfigurationError, match=r"request_timeout_ms"):
        Admin("localhost:9092", request_timout_ms=3)  # type: ignore[call-arg]


def test_the_blocking_calls_are_those_of_the_asynchronous_ones() -> None:
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "tools/generate_blocking_admin.py", "--check"], check=False).returncode == 0
