"""Mirrors between two brokers: what is copied, where a restart goes on, and what is never copied."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.connect.test_standalone import until
from tests.support.broker_process import BrokerProcess

from ottla import Admin, Consumer, Producer, TopicPartition
from ottla.connect import ConfigError, RetriableError, SourceContext, SourceRecord, SourceTask
from ottla.connect.library.mirror import MirrorCheckpointConnector, MirrorHeartbeatConnector, MirrorSourceConnector
from ottla.connect.library.mirror.policy import IdentityReplicationPolicy, ReplicationPolicy
from ottla.connect.library.mirror.syncs import Pair, PairsToWrite, Translation
from ottla.connect.runtime.validation import secrets_of
from ottla.errors import ErrorCode, error_for
from ottla.testing import Broker

BYTES = "org.apache.kafka.connect.converters.ByteArrayConverter"


@pytest.fixture(scope="module")
def brokers() -> Iterator[tuple[Broker, Broker]]:
    with Broker() as source, Broker() as target:
        yield source, target


class Mirror:
    """A connector of one task at work, with what a worker keeps; `restart` begins a new task behind what it kept.

    Args:
        said: gets what the task says of what it waits for.
    """

    def __init__(
        self,
        kind: Any,
        source: str,
        target: str,
        alias: str,
        *said: list[str | None],
        **more: str,
    ) -> None:
        self.kind, self.target, self.said = kind, target, said
        self.config = {
            "name": "mirror",
            "source.cluster.alias": alias,
            "target.cluster.alias": "B",
            "source.cluster.bootstrap.servers": source,
            "target.cluster.bootstrap.servers": target,
            "replication.factor": "1",
            "refresh.topics.interval.seconds": "1",
            "sync.topic.configs.interval.seconds": "1",
            "emit.checkpoints.interval.seconds": "1",
            **{f"{part}.converter": BYTES for part in ("key", "value", "header")},
        } | {name.replace("__", "-").replace("_", "."): value for name, value in more.items()}
        self.kept: dict[str, dict[str, Any]] = {}
        self.producer = Producer[Any, Any](target)
        self.begin()

    def begin(self) -> None:
        made = self.kind(self.config, self.kind.CONFIG.parse(self.config))
        (own,) = made.task_configs(1)
        self.task: SourceTask = self.kind.Task(own, self.kind.CONFIG.parse(own))
        self.task.context = SourceContext(lambda place: self.kept.get(_name(place)), threading.Event())
        for each in self.said:
            self.task.context.on_waiting = each.append
        self.task.start()

    def step(self) -> list[SourceRecord]:
        """Poll once; what comes is sent, acknowledged, and its offsets are kept."""
        found = [each for each in self.task.poll() or () if isinstance(each, SourceRecord)]
        receipts = [
            self.producer.send(
                each.topic,
                each.value,
                key=each.key,
                partition=each.partition,
                timestamp=each.timestamp,
                headers=[(header.name, header.value) for header in each.headers],
            )
            for each in found
        ]
        self.producer.flush()
        for each, receipt in zip(found, receipts, strict=True):
            self.task.commit_record_at(each, receipt.result(10))
            self.kept[_name(each.source_partition)] = dict(each.source_offset or {})
        return found

    def until_copied(self, count: int) -> list[SourceRecord]:
        found: list[SourceRecord] = []

        def are_there() -> bool:
            found.extend(self.step())
            return len(found) >= count

        until(are_there, f"{count} records")
        return found

    def restart(self) -> None:
        self.task.stop()
        self.begin()

    def close(self) -> None:
        self.task.stop()
        self.producer.close()


def _name(place: Any) -> str:
    return json.dumps(place, sort_keys=True)


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    made: list[Mirror] = []
    yield made
    for each in made:
        each.close()


def values_of(servers: str, topic: str, count: int) -> list[Any]:
    with Consumer[Any, Any](servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(count)])
        return sorted(
            (r.partition, r.offset, r.key, r.value, r.headers.multi_items(), r.timestamp_ms) for r in consumer.records()
        )


def test_records_topics_and_configurations_are_copied(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Producer[Any, Any](source) as producer:
        now = int(time.time() * 1000) - 1000
        admin.create_topic("copied", partitions=3, configs={"retention.ms": "777000", "min.insync.replicas": "1"})
        for number in range(30):
            producer.send(
                "copied", f"v{number}".encode(), key=b"k", partition=number % 3, timestamp=now + number,
                headers=[("h", b"\x00\xff"), ("h", None)],
            )  # fmt: skip
        producer.send("copied", None, key=b"gone", partition=0)
        producer.flush()
        mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="copied"))
        mirror.until_copied(31)
        assert values_of(target, "A.copied", 3) == values_of(source, "copied", 3)
        mirror.restart()
        producer.send("copied", b"later", partition=1)
        producer.flush()
        assert [record.value for record in mirror.until_copied(1)] == [b"later"], (
            "a restart goes on behind what was kept"
        )
        with Admin(target) as there:
            assert there.describe_configs("topic", "A.copied")["retention.ms"].value == "777000"
            assert there.describe_configs("topic", "A.copied")["min.insync.replicas"].is_default
            admin.alter_configs("topic", "copied", {"retention.ms": None, "max.message.bytes": "2000000"})
            admin.create_partitions("copied", 4)
            producer.send("copied", b"fourth", partition=3)
            producer.flush()
            (record,) = mirror.until_copied(1)
            assert (record.topic, record.partition, record.value) == ("A.copied", 3, b"fourth")

            def is_synced() -> bool:
                mirror.step()
                now = there.describe_configs("topic", "A.copied")
                return now["retention.ms"].is_default and now["max.message.bytes"].value == "2000000"

            until(is_synced, "the configuration")


def test_aborted_transaction_mirrored(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    """What was aborted in the source does not come to the target."""
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin:
        admin.create_topic("transactions", partitions=1)
    with Producer[Any, Any](source, transactional_id="mirrored") as producer:
        for number in range(4):
            producer.begin_transaction()
            producer.send("transactions", str(number).encode())
            if number % 2:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
    mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="transactions"))
    assert [record.value for record in mirror.until_copied(2)] == [b"0", b"2"]
    assert not mirror.step()


def test_source_topic_recreated(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    """A topic that was made anew is copied from its beginning, whatever offset was kept, and pairs of before are void."""
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Producer[Any, Any](source) as producer:
        admin.create_topic("again", partitions=1)
        for number in range(5):
            producer.send("again", f"old {number}".encode())
        producer.flush()
        mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="again"))
        mirror.until_copied(5)
        mirror.task.stop()
        admin.delete_topic("again")
        admin.create_topic("again", partitions=1)
    with Producer[Any, Any](source) as producer:
        for number in range(7):
            producer.send("again", f"new {number}".encode())
    mirror.begin()
    assert [record.value for record in mirror.until_copied(7)] == [f"new {number}".encode() for number in range(7)]
    translation = Translation()
    assert not translation.add("again", 0, Pair(4, 4))
    assert translation.add("again", 0, Pair(0, 5))
    assert translation.downstream("again", 0, 4) == 6, "from the pair of the new topic, not of the old one"


def test_a_topic_made_anew_while_it_is_copied_loses_nothing(
    brokers: tuple[Broker, Broker], mirrors: list[Mirror]
) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin:
        admin.create_topic("swapped", partitions=1)
        with Producer[Any, Any](source) as producer:
            producer.send("swapped", b"old")
        mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="swapped"))
        mirror.until_copied(1)
        admin.delete_topic("swapped")
        admin.create_topic("swapped", partitions=1)
        with Producer[Any, Any](source) as producer:
            for number in range(3):
                producer.send("swapped", f"new {number}".encode())
        seen: set[bytes] = set()

        def all_there() -> bool:
            seen.update(record.value for record in mirror.step())
            return {b"new 0", b"new 1", b"new 2"} <= seen

        until(all_there, "all records of the new topic")


def test_identity_loop_refused(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Producer[Any, Any](source) as producer:
        admin.create_topic("same-name", partitions=1)
        producer.send("same-name", b"v")
    policy = {"replication_policy_class": "org.apache.kafka.connect.mirror.IdentityReplicationPolicy"}
    mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="same-name", **policy))
    (record,) = mirror.until_copied(1)
    assert record.topic == "same-name"
    with pytest.raises(ConfigError, match="would go round for ever"):
        Mirror(MirrorSourceConnector, target, source, "B", target_cluster_alias="A", topics="same-name", **policy)
    with pytest.raises(ConfigError, match="one cluster"):
        Mirror(MirrorSourceConnector, source, source, "A", topics="same-name", **policy)


def test_two_clusters_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"target\.cluster\.alias"):
        Mirror(MirrorSourceConnector, "localhost:1", "localhost:2", "B")


def test_a_source_that_is_away_at_the_start_is_waited_for(brokers: tuple[Broker, Broker], tmp_path: Path) -> None:
    """1. Nothing listens where the source is to be: the task says that it waits.  2. The source comes.  3. It is copied."""
    _, target = (broker.bootstrap_servers for broker in brokers)
    said: list[str | None] = []
    late = BrokerProcess(data_dir=tmp_path)
    begun: list[Mirror] = []

    def begin() -> None:
        begun.append(Mirror(MirrorSourceConnector, late.address, target, "late", said, topics="things"))

    starting = threading.Thread(target=begin)
    starting.start()
    try:
        until(lambda: bool(said), "a word about the wait")
        assert str(said[-1]).startswith("The mirror waits for a cluster")
        late.start()
        with Producer[Any, Any](late.address) as producer:
            producer.send("things", b"v")
        until(lambda: bool(begun), "the start")
        assert said[-1] is None
        (record,) = begun[0].until_copied(1)
        assert (record.topic, record.value) == ("late.things", b"v")
    finally:
        starting.join(30)
        for mirror in begun:
            mirror.close()
        late.close()


def test_converters_that_change_bytes_are_refused(brokers: tuple[Broker, Broker]) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with pytest.raises(ConfigError, match=r"value\.converter.*ByteArrayConverter"):
        Mirror(MirrorSourceConnector, source, target, "A", value_converter="JsonConverter")


def test_groups_go_on_in_the_target_where_they_were(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    """A group's offset in the target never lies behind a record that the group has not read, nor does a later one go back."""
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Admin(target) as there, Producer[Any, Any](source) as producer:
        admin.create_topic("read", partitions=1)
        there.create_topic("A.read", partitions=1)
        with Producer[Any, Any](target) as other:
            other.send("A.read", b"of before: offsets differ")
        for number in range(10):
            producer.send("read", str(number).encode())
        producer.flush()
        mirrors.append(
            mirror := Mirror(
                MirrorSourceConnector, source, target, "A", topics="read", offset__syncs_topic_location="source"
            )
        )
        mirror.until_copied(10)
        admin.alter_group_offsets("readers", {TopicPartition("read", 0): 10})
        admin.alter_group_offsets("ahead", {TopicPartition("read", 0): 4})
        there.alter_group_offsets("ahead", {TopicPartition("A.read", 0): 9})
        mirrors.append(
            groups := Mirror(
                MirrorCheckpointConnector, source, target, "A", topics="read", groups="readers,ahead",
                sync_group_offsets_enabled="true", sync_group_offsets_interval_seconds="1",
            )
        )  # fmt: skip

        def has_offset() -> bool:
            mirror.step()
            groups.step()
            found = there.list_group_offsets("readers").get(TopicPartition("A.read", 0))
            assert found is None or found.offset <= 11
            return found is not None and found.offset == 11

        until(has_offset, "the group's offset")
        assert there.list_group_offsets("ahead")[TopicPartition("A.read", 0)].offset == 9
        (first, *_) = values_of(target, "A.checkpoints.internal", 1)
        assert first[2].startswith(b"\x00\x05ahead") or first[2].startswith(b"\x00\x07readers")


def test_offsets_of_a_group_with_members_are_left_alone(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Admin(target) as there, Producer[Any, Any](source) as producer:
        admin.create_topic("live", partitions=1)
        for number in range(5):
            producer.send("live", str(number).encode())
        producer.flush()
        mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="live"))
        mirror.until_copied(5)
        admin.alter_group_offsets("living", {TopicPartition("live", 0): 3})
        with Consumer[Any, Any](
            target, topics=["A.live"], group_id="living", commit="manual", auto_offset_reset="earliest"
        ) as member:
            until(lambda: bool(member.poll(timeout=0.5)), "the member's first records")
            mirrors.append(
                groups := Mirror(
                    MirrorCheckpointConnector, source, target, "A", topics="live", groups="living",
                    sync_group_offsets_enabled="true", sync_group_offsets_interval_seconds="1",
                )
            )  # fmt: skip
            until(lambda: bool(groups.step()), "a checkpoint")
            assert not there.list_group_offsets("living")


def test_heartbeats(brokers: tuple[Broker, Broker], mirrors: list[Mirror]) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    mirrors.append(beating := Mirror(MirrorHeartbeatConnector, source, target, "A"))
    (record, *_) = beating.until_copied(1)
    assert (record.topic, record.key, len(record.value)) == ("heartbeats", b"\x00\x01A\x00\x01B", 10)


def test_secrets_of_both_clusters_are_hidden() -> None:
    props = {"source.cluster.sasl.jaas.config": "x", "target.admin.ssl.key.password": "y", "source.cluster.alias": "A"}
    assert secrets_of(MirrorSourceConnector, props) == [
        "source.cluster.sasl.jaas.config",
        "target.admin.ssl.key.password",
    ]


def test_names() -> None:
    policy, same = ReplicationPolicy(), IdentityReplicationPolicy()
    assert policy.remote_topic("A", "t") == "A.t"
    assert policy.goes_round("B.t", "B")
    assert policy.goes_round("C.B.t", "B")
    assert not policy.goes_round("C.A.t", "B")
    assert policy.is_heartbeats("C.B.heartbeats")
    assert not policy.is_heartbeats("C.t")
    assert all(map(policy.is_internal, ("__consumer_offsets", "mm2-offset-syncs.B.internal", "A.checkpoints.internal")))
    assert (same.remote_topic("A", "t"), same.remote_topic("A", "heartbeats")) == ("t", "A.heartbeats")
    assert not same.goes_round("A.t", "A")


def test_pairs_are_written_when_the_distance_changes_and_translate_to_no_later_record() -> None:
    pairs = PairsToWrite(lag_max=100)
    written = [offset for offset in range(250) if pairs.add(Pair(offset, offset + 7))]
    assert written == [0, 100, 200]
    assert pairs.take_rest() == Pair(249, 256)
    assert pairs.take_rest() is None
    assert pairs.add(Pair(3, 400)), "the topic was made anew"
    translation = Translation()
    for upstream, downstream in ((0, 7), (100, 107), (200, 260)):
        translation.add("t", 0, Pair(upstream, downstream))
    assert [translation.downstream("t", 0, offset) for offset in (0, 1, 99, 100, 150, 200, 999)] == [
        7, 8, 8, 107, 108, 260, 261,
    ]  # fmt: skip
    assert translation.downstream("t", 1, 5) is None
    late = Translation()
    late.add("t", 0, Pair(50, 60))
    assert late.downstream("t", 0, 49) is None
    for number in range(5000):
        late.add("t", 0, Pair(100 + number * 10, 200 + number * 10))
    assert len(late._pairs["t", 0]) <= 1025
    assert late.downstream("t", 0, 100 + 49_990) == 200 + 49_990


def test_an_error_while_topics_are_looked_for_forgets_no_topic_that_was_made_anew(
    brokers: tuple[Broker, Broker], mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (broker.bootstrap_servers for broker in brokers)
    with Admin(source) as admin, Admin(target) as there:
        admin.create_topic("first-anew", partitions=1)
        with Producer[Any, Any](source) as producer:
            for number in range(3):
                producer.send("first-anew", f"old {number}".encode())
        mirrors.append(mirror := Mirror(MirrorSourceConnector, source, target, "A", topics="(first|second)-anew"))
        mirror.until_copied(3)
        admin.delete_topic("first-anew")
        admin.create_topic("first-anew", partitions=1)
        admin.create_topic("second-anew", partitions=1)
        make = mirror.task._copies.make  # type: ignore[attr-defined]
        failed: list[Any] = []

        def fails_once(topic: Any) -> None:
            if topic.name == "second-anew" and not failed:
                failed.append(topic)
                raise error_for(ErrorCode.NETWORK_EXCEPTION)
            make(topic)

        monkeypatch.setattr(mirror.task._copies, "make", fails_once)  # type: ignore[attr-defined]
        with Producer[Any, Any](source) as producer:
            for number in range(5):
                producer.send("first-anew", f"new {number}".encode())
        seen: set[bytes] = set()

        def all_there() -> bool:
            try:
                seen.update(record.value for record in mirror.step())
            except RetriableError:
                return False
            return bool(failed) and {f"new {number}".encode() for number in range(5)} <= seen

        until(all_there, "all records of the new topic")
        assert "A.second-anew" in {topic.name for topic in there.list_topics()}
