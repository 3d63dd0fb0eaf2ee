"""Consumers as members of a group, on a real broker: both protocols, partitions that come and go, commits, callbacks."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer as TheirProducer
from tests.client.others import new_topic
from tests.support.broker_process import RunningBroker

import ottla
from ottla.errors import GroupIdNotFoundError
from ottla.testing import Broker
from ottla.testing.pytest_plugin import kafka_broker, kafka_broker_settings
from ottla.types import TopicPartition

__all__ = ["kafka_broker", "kafka_broker_settings"]

WAIT_S = 60.0


def fill(address: str, topic: str, count: int, *, start: int = 0) -> None:
    producer = TheirProducer({"bootstrap.servers": address, "partitioner": "murmur2", "linger.ms": 0})
    for number in range(start, start + count):
        producer.produce(topic, b"%d" % number, key=b"%d" % (number % 10))
    assert producer.flush(30) == 0


def new_group() -> str:
    return f"g-{uuid.uuid4().hex[:12]}"


def member(broker: RunningBroker, group: str, *topics: str, **options: Any) -> ottla.Consumer:
    settings = {"auto_offset_reset": "earliest", "heartbeat_interval_ms": 200, **options}
    return ottla.Consumer(broker.address, group_id=group, topics=list(topics) or None, **settings)


def committed(broker: RunningBroker, group: str, topic: str) -> int:
    """Return how far a group has come in partition 0, -1 for nothing."""
    with ottla.Consumer(broker.address, group_id=group, commit="manual") as consumer:
        found = consumer.committed([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
        return -1 if found is None else found.offset


def poll_until(consumer: ottla.Consumer, condition: Callable[[], bool]) -> list[ottla.Record]:
    found: list[ottla.Record] = []
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{consumer.assignment} after {WAIT_S} s"
        found += consumer.poll(timeout=0.05)
    return found


@contextmanager
def reading(consumer: ottla.Consumer) -> Iterator[list[ottla.Record]]:
    """Let a consumer poll in a thread of its own."""
    found: list[ottla.Record] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            with consumer:
                while not stop.is_set():
                    found.extend(consumer.poll(timeout=0.05))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not errors, errors


PROTOCOLS = ["classic", "consumer"]


def test_a_topic_whose_id_is_not_known_yet_is_waited_for_and_one_that_is_gone_is_said(kafka_broker: Broker) -> None:
    kafka_broker.produce("in", [b"1", b"2"])
    where = TopicPartition("in", 0)
    with ottla.Consumer(
        kafka_broker.bootstrap_servers,
        group_id="g",
        topics=["in"],
        commit="manual",
        auto_offset_reset="earliest",
        retry_backoff_ms=1,
        retry_backoff_max_ms=1,
    ) as consumer:
        next(consumer)
        fault = kafka_broker.fail("OffsetCommit", error="UNKNOWN_TOPIC_ID", times=3)
        consumer.commit()
        assert fault.hits == 3
        next(consumer)
        with (
            kafka_broker.fail("OffsetCommit", error="UNKNOWN_TOPIC_ID"),
            pytest.raises(ottla.CommitFailedError, match="a topic of theirs was deleted"),
        ):
            consumer.commit()
        found = consumer.committed()[where]
        assert found is not None
        assert found.offset == 1
        consumer.commit()
        found = consumer.committed()[where]
        assert found is not None
        assert found.offset == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_member_reads_everything_and_the_next_one_goes_on_behind_it(broker: RunningBroker, protocol: str) -> None:
    topic, group = new_topic(broker.address, 3), new_group()
    fill(broker.address, topic, 1_000)
    with member(broker, group, topic, group_protocol=protocol) as consumer:
        seen = [int(record.value or b"") for record in consumer.records(until="end")]
        assert sorted(seen) == list(range(1_000))
        assert len(consumer.assignment) == 3
        found = consumer.committed()
        assert all(offset is None for offset in found.values())
        consumer.commit()
        offsets = {where: offset.offset for where, offset in consumer.committed().items() if offset is not None}
        assert offsets == consumer.end_offsets()
    fill(broker.address, topic, 10, start=1_000)
    with member(broker, group, topic, group_protocol=protocol) as consumer:
        assert sorted(int(record.value or b"") for record in consumer.records(until="end")) == list(range(1_000, 1_010))
        assert [consumer.consumer_lag(where) for where in consumer.assignment] == [0, 0, 0]


@pytest.mark.parametrize(
    ("protocol", "strategy"),
    [("consumer", "range"), *(("classic", name) for name in ("range", "roundrobin", "sticky", "cooperative-sticky"))],
)
def test_partitions_are_shared_and_handed_over(broker: RunningBroker, protocol: str, strategy: str) -> None:
    """1. one member has all; 2. a second comes and they share; 3. the first goes and the second has all, at its place."""
    topic, group = new_topic(broker.address, 4), new_group()
    fill(broker.address, topic, 400)
    told: list[tuple[str, list[TopicPartition]]] = []
    options: dict[str, Any] = {"group_protocol": protocol, "partition_assignment_strategy": strategy}
    first = member(
        broker,
        group,
        topic,
        on_assigned=lambda partitions: told.append(("assigned", partitions)),
        on_revoked=lambda partitions: told.append(("revoked", partitions)),
        on_lost=lambda partitions: told.append(("lost", partitions)),
        **options,
    )
    everything = [TopicPartition(topic, number) for number in range(4)]
    with first:
        seen = poll_until(first, lambda: len(first.assignment) == 4)
        assert told == [("assigned", everything)] or sorted(told[0][1]) == everything
        while len(seen) < 400:
            seen += first.poll(timeout=1)
        second = member(broker, group, topic, **options)
        with reading(second) as theirs:
            poll_until(first, lambda: len(first.assignment) == 2)
            deadline = time.monotonic() + WAIT_S
            while len(second.assignment) != 2:
                assert time.monotonic() < deadline
                first.poll(timeout=0.05)
            assert sorted([*first.assignment, *second.assignment]) == everything
            fill(broker.address, topic, 100, start=400)
            while len(seen) + len(theirs) < 500:
                assert time.monotonic() < deadline
                seen += first.poll(timeout=0.05)
            assert sorted(int(record.value or b"") for record in [*seen, *theirs]) == list(range(500))
            revoked = [len(partitions) for what, partitions in told if what == "revoked"]
            assert revoked == ([4] if protocol == "classic" and strategy != "cooperative-sticky" else [2])
            kept = set(first.assignment)
            first.commit()  # close() does not know whether the last ones were finished
            first.close()
            while len(second.assignment) != 4:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            fill(broker.address, topic, 100, start=500)
            while len(seen) + len(theirs) < 600:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert sorted(int(record.value or b"") for record in [*seen, *theirs]) == list(range(600))
        assert told[-1][0] == "revoked"
        assert set(told[-1][1]) == kept
        assert not any(what == "lost" for what, _ in told)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_topics_by_pattern(broker: RunningBroker, protocol: str) -> None:
    """Also those that come later."""
    mark = uuid.uuid4().hex[:8]
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

    admin = AdminClient({"bootstrap.servers": broker.address})

    def create(name: str) -> None:
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)

    create(f"{mark}-a")
    create(f"x-{mark}-a")
    options = {"group_protocol": protocol, "pattern": f"{mark}-.*", "metadata_max_age_ms": 300}
    with member(broker, new_group(), **options) as consumer:
        poll_until(consumer, lambda: consumer.assignment == [TopicPartition(f"{mark}-a", 0)])
        create(f"{mark}-b")
        fill(broker.address, f"{mark}-b", 3)
        records = poll_until(consumer, lambda: len(consumer.assignment) == 2)
        while len(records) < 3:
            records += consumer.poll(timeout=1)
        assert {record.topic for record in records} == {f"{mark}-b"}
        consumer.subscribe([f"x-{mark}-a"])
        poll_until(consumer, lambda: consumer.assignment == [TopicPartition(f"x-{mark}-a", 0)])
    with pytest.raises(ottla.ConfigurationError, match=r"pattern='\(' is not valid"):
        member(broker, new_group(), pattern="(")
    with pytest.raises(ottla.ConfigurationError, match="by name or by pattern"):
        member(broker, new_group(), "t", pattern="t")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_static_member_comes_back_to_its_partitions(broker: RunningBroker, protocol: str) -> None:
    topic, group = new_topic(broker.address, 2), new_group()
    revoked: list[object] = []
    with (
        member(broker, group, topic, group_protocol=protocol, on_revoked=revoked.append) as stays,
        reading(member(broker, group, topic, group_protocol=protocol, group_instance_id="one")) as _,
    ):
        poll_until(stays, lambda: len(stays.assignment) == 1)
        kept = stays.assignment
        before = len(revoked)
    # The static member was closed first; the other one has not heard of it.
    assert len(revoked) == before + 1  # its own farewell
    with member(broker, group, topic, group_protocol=protocol, group_instance_id="one") as back:
        poll_until(back, lambda: bool(back.assignment))
        assert kept


def test_a_second_static_member_of_the_same_name_shuts_the_first_one_out(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address), new_group()
    with member(broker, group, topic, group_instance_id="one") as first:
        poll_until(first, lambda: bool(first.assignment))
        with member(broker, group, topic, group_instance_id="one") as second:
            poll_until(second, lambda: bool(second.assignment))
            with pytest.raises(
                ottla.KafkaError, match=r"Another member of group .* has started with group.instance.id"
            ):
                poll_until(first, lambda: False)


def test_a_group_of_another_type_is_refused_in_words(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address), new_group()
    with member(broker, group, topic, partition_assignment_strategy="range") as first:
        poll_until(first, lambda: bool(first.assignment))
        with member(broker, group, topic, partition_assignment_strategy="roundrobin") as second:
            with pytest.raises(ottla.KafkaError) as caught:
                second.poll(timeout=WAIT_S)
            assert "partition.assignment.strategy" in caught.value.hint


def test_an_assignor_of_the_programs_own_tells_the_leader_and_is_told(broker: RunningBroker) -> None:
    from collections.abc import Mapping, Sequence

    from ottla.client._core.assignors import GroupMember, MemberAssignment

    class ToTheBiggest:
        name = "to-the-biggest"
        cooperative = False

        def __init__(self, size: int) -> None:
            self.size = size
            self.told: list[tuple[MemberAssignment, int]] = []

        def user_data(self, topics: Sequence[str]) -> bytes:
            return b"%d" % self.size

        def assign(
            self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
        ) -> Mapping[str, MemberAssignment]:
            biggest = max(members, key=lambda each: int(each.user_data or b"0"))
            every = [TopicPartition(topic, n) for topic, count in partition_counts.items() for n in range(count)]
            return {
                each.member_id: MemberAssignment(every if each is biggest else [], b"of %d" % len(members))
                for each in members
            }

        def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
            self.told.append((assignment, generation_id))

    topic, group = new_topic(broker.address, 3), new_group()
    small, big = ToTheBiggest(1), ToTheBiggest(2)
    with member(broker, group, topic, partition_assignment_strategy=[small]) as one:
        poll_until(one, lambda: len(one.assignment) == 3)
        with reading(member(broker, group, topic, partition_assignment_strategy=[big])):
            poll_until(one, lambda: not one.assignment and bool(big.told))
            assert big.told[-1][0].user_data == b"of 2"
            assert len(big.told[-1][0].partitions) == 3
        poll_until(one, lambda: len(one.assignment) == 3)
        one.enforce_rebalance("to see whether it does")
        count = len(small.told)
        poll_until(one, lambda: len(small.told) > count)


def test_a_broker_without_the_consumer_protocol_gets_the_classic_one() -> None:
    from tests.client.conftest import make_broker

    old = make_broker("ottla", {"group.coordinator.rebalance.protocols": "classic"})
    try:
        old.start()
        topic = new_topic(old.address)
        fill(old.address, topic, 5)
        with member(old, new_group(), topic, group_protocol="consumer") as consumer:
            assert len(list(consumer.records())) == 5
    finally:
        old.close()


def test_partitions_by_hand_use_the_groups_offsets(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 2), new_group()
    fill(broker.address, topic, 100)
    where = TopicPartition(topic, 0)
    with member(broker, group, commit="manual") as consumer:
        consumer.assign([where])
        count = len(list(consumer.records()))
        consumer.commit({where: ottla.OffsetAndMetadata(3, metadata="here")})
        found = consumer.committed([where])[where]
        assert found is not None
        assert (found.offset, found.metadata) == (3, "here")
        done: list[Exception | None] = []
        called = threading.Event()

        def on_commit(error: Exception | None) -> None:
            done.append(error)
            called.set()

        consumer.commit_async(on_commit=on_commit)
        assert called.wait(30)
        assert done == [None]
    assert committed(broker, group, topic) == count
    with member(broker, group) as consumer:
        consumer.assign([where])
        assert consumer.position(where) == count
        assert consumer.group_metadata.generation_id == -1


def test_from_a_group_to_partitions_by_hand_and_back(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 2), new_group()
    fill(broker.address, topic, 20)
    where = TopicPartition(topic, 0)
    with member(broker, group, topic) as consumer:
        poll_until(consumer, lambda: len(consumer.assignment) == 2)
        consumer.assign([where])
        consumer.seek(where, "beginning")
        count = len(list(consumer.records()))
        consumer.commit()
        assert consumer.assignment == [where]
        consumer.subscribe([topic])
        poll_until(consumer, lambda: len(consumer.assignment) == 2)
    assert committed(broker, group, topic) == count


def test_none_means_an_error_where_nothing_is_committed(broker: RunningBroker) -> None:
    topic = new_topic(broker.address)
    with (
        member(broker, new_group(), topic, auto_offset_reset="none") as consumer,
        pytest.raises(ottla.KafkaError, match=r"auto.offset.reset is 'none'"),
    ):
        consumer.poll(timeout=30)


def test_the_loop_thread_sends_heartbeats_while_the_program_works(broker: RunningBroker, caplog: Any) -> None:
    """The session is much shorter than the work."""
    topic, group = new_topic(broker.address), new_group()
    fill(broker.address, topic, 2)
    lost: list[object] = []
    with member(
        broker, group, topic, session_timeout_ms=2_000, heartbeat_interval_ms=500, on_lost=lost.append
    ) as consumer:
        assert next(consumer).offset == 0
        time.sleep(3)
        assert next(consumer).offset == 1
        consumer.commit()
    assert not lost
    assert committed(broker, group, topic) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_asynchronous_face_is_a_member_too(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 2), new_group()
    fill(broker.address, topic, 100)
    told: list[list[TopicPartition]] = []

    async def on_assigned(partitions: list[TopicPartition]) -> None:
        told.append(partitions)

    settings: dict[str, Any] = {"auto_offset_reset": "earliest", "group_id": group, "topics": [topic]}
    async with ottla.aio.Consumer(broker.address, on_assigned=on_assigned, **settings) as consumer:
        count = 0
        async for _ in consumer:
            count += 1
            if count == 60:
                break
        rest = [record async for record in consumer.records()]
        assert len(rest) == 40
        await consumer.commit()
        assert sum(offset.offset for offset in (await consumer.committed()).values() if offset) == 100
        assert [sorted(each) for each in told] == [[TopicPartition(topic, 0), TopicPartition(topic, 1)]]
    fill(broker.address, topic, 10)
    async with ottla.aio.Consumer(broker.address, **settings) as consumer:
        found = 0
        async for batch in consumer.batches(max_records=7):
            assert 0 < len(batch) <= 7
            found += len(batch)
            if found == 10:
                break


def test_a_member_that_is_closed_while_it_joins_leaves() -> None:
    """Its JoinGroup waits at the broker, on the connection that has to be closed for LeaveGroup."""
    with Broker({"group.initial.rebalance.delay.ms": 3_000}) as broker:
        broker.create_topic("left")
        consumer = ottla.Consumer(
            broker.bootstrap_servers, group_id="left", topics=["left"], auto_offset_reset="earliest"
        )
        with ottla.Admin(broker.bootstrap_servers) as admin:
            consumer.start()
            while not _members(admin, "left"):
                consumer.poll(timeout=0.05)
            assert admin.describe_group("left").state == "PreparingRebalance"
            consumer.close()
            assert not _members(admin, "left")


def _members(admin: ottla.Admin, group_id: str) -> int:
    try:
        return len(admin.describe_group(group_id).members)
    except GroupIdNotFoundError:
        return 0
