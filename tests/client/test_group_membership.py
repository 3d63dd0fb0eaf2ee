"""Members of groups of any protocol type, and transactions at a time of the program's choice, against real brokers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.client.others import new_topic, read_all
from tests.support.broker_process import RunningBroker

import ottla
from ottla.assignors import GroupMember, MemberAssignment, RangeAssignor
from ottla.errors import KafkaError

TASKS = [b"a", b"b", b"c"]


def share_out(protocol: str, members: Sequence[ottla.JoinedMember]) -> Mapping[str, bytes]:
    """One task after the other to one member after the other, by what they call themselves."""
    assert protocol == "v2"
    ordered = sorted(members, key=lambda member: member.metadata)
    return {member.member_id: b",".join(TASKS[number :: len(ordered)]) for number, member in enumerate(ordered)}


def membership(broker: RunningBroker, group: str, name: bytes, **options: Any) -> ottla.GroupMembership:
    return ottla.GroupMembership(
        broker.address,
        group_id=group,
        protocol_type="work",
        protocols=[("v2", name), ("v1", name)],
        assign=share_out,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=200,
        **options,
    )


def joined(member: ottla.GroupMembership) -> ottla.Joined:
    event = member.wait(30)
    assert isinstance(event, ottla.Joined), event
    return event


def test_members_of_any_type_share_work(broker: RunningBroker) -> None:
    """1. one member has everything 2. a second comes: both give up and share 3. it leaves: one has everything again."""
    group = f"work-{uuid.uuid4().hex[:8]}"
    with membership(broker, group, b"one") as one:
        first = joined(one)
        assert (first.protocol, first.assignment, first.is_leader) == ("v2", b"a,b,c", True)
        assert one.wait(0.1) is None
        with membership(broker, group, b"two") as two:
            assert one.wait(30) == ottla.Rebalancing()
            assert one.wait(0) is None  # this joins
            second = joined(two)
            assert (second.assignment, second.is_leader) == (b"b", False)
            again = joined(one)
            assert again.assignment == b"a,c"
            assert again.generation_id == second.generation_id > first.generation_id
            with ottla.Admin(broker.address) as admin:
                assert admin.describe_group(group).protocol_type == "work"
                assert {member.member_id for member in admin.describe_group(group).members} == {
                    first.member_id,
                    second.member_id,
                }
        assert one.wait(30) == ottla.Rebalancing()
        assert joined(one).assignment == b"a,b,c"
        one.rejoin("new metadata")
        assert one.wait(30) == ottla.Rebalancing()
        assert joined(one).generation_id > again.generation_id


def test_a_group_of_another_type_refuses_the_member(broker: RunningBroker) -> None:
    group, topic = f"work-{uuid.uuid4().hex[:8]}", new_topic(broker.address)
    with ottla.Consumer(broker.address, group_id=group, topics=[topic]) as consumer:
        consumer.position(ottla.TopicPartition(topic, 0))
        with membership(broker, group, b"one") as one, pytest.raises(KafkaError, match="do not fit"):
            one.wait(30)
    with pytest.raises(ottla.ConfigurationError, match="group_id"):
        membership(broker, "", b"one")


def test_the_asynchronous_face_loses_nothing_when_a_wait_is_cancelled(broker: RunningBroker) -> None:
    async def main() -> None:
        async with ottla.aio.GroupMembership(
            broker.address,
            group_id=f"work-{uuid.uuid4().hex[:8]}",
            protocol_type="work",
            protocols=lambda: [("v2", b"one")],
            assign=share_out,
        ) as member:
            found = None
            for _ in range(1_000):
                try:
                    async with asyncio.timeout(0.01):
                        found = await member.wait()
                        break
                except TimeoutError:
                    continue
            assert isinstance(found, ottla.Joined)
            assert await member.wait(0.05) is None

    asyncio.run(main())


class Weighted(RangeAssignor):
    """All partitions to the member that says it is the strongest."""

    name = "weighted"

    def __init__(self, strength: int) -> None:
        self.strength = strength
        self.told: bytes | None = None

    def user_data(self, topics: Sequence[str]) -> bytes | None:
        return b"%d" % self.strength

    def assign(
        self, members: Sequence[GroupMember], partition_counts: Mapping[str, int]
    ) -> Mapping[str, MemberAssignment]:
        strongest = max(members, key=lambda member: int(member.user_data or b"0"))
        everything = [ottla.TopicPartition(topic, n) for topic, count in partition_counts.items() for n in range(count)]
        return {
            member.member_id: MemberAssignment(everything if member is strongest else [], strongest.user_data)
            for member in members
        }

    def on_assignment(self, assignment: MemberAssignment, generation_id: int) -> None:
        self.told = assignment.user_data


def test_an_assignor_of_ones_own_with_user_data(broker: RunningBroker) -> None:
    topic, group = new_topic(broker.address, 3), f"g-{uuid.uuid4().hex[:8]}"
    weak, strong = Weighted(1), Weighted(7)
    with (
        ottla.Consumer(
            broker.address,
            group_id=group,
            topics=[topic],
            partition_assignment_strategy=[weak],
            heartbeat_interval_ms=200,
        ) as first,
        ottla.Consumer(
            broker.address,
            group_id=group,
            topics=[topic],
            partition_assignment_strategy=[strong],
            heartbeat_interval_ms=200,
        ) as second,
    ):
        for _ in range(300):
            first.poll(timeout=0.05)
            second.poll(timeout=0.05)
            # A member without partitions may be on its way into the generation: what it is told comes at the end.
            if (len(first.assignment), len(second.assignment), weak.told) == (0, 3, b"7"):
                break
        assert (first.assignment, len(second.assignment)) == ([], 3)
        assert weak.told == strong.told == b"7"


def test_transactions_at_a_time_of_ones_own_choice(broker: RunningBroker) -> None:
    topic, name = new_topic(broker.address), f"t-{uuid.uuid4().hex[:8]}"
    with ottla.Producer(broker.address, transactional_id=name, delivery_timeout_ms=float("inf")) as producer:
        producer.begin_transaction()
        producer.send(topic, b"1")
        producer.send_offsets_to_transaction({ottla.TopicPartition(topic, 0): 17}, f"g-{name}")
        producer.commit_transaction()
        producer.begin_transaction()
        producer.send(topic, b"2").result(30)
        producer.abort_transaction()
        producer.init_transactions()  # again, on the same id
        producer.begin_transaction()
        producer.send(topic, b"3")
        producer.commit_transaction()
        with ottla.Admin(broker.address) as admin:
            assert admin.list_group_offsets(f"g-{name}")[ottla.TopicPartition(topic, 0)].offset == 17
            admin.fence_producers([name])
        producer.begin_transaction()
        with pytest.raises(KafkaError):
            producer.commit_transaction() if producer.send(topic, b"4").result(30) else None
    assert [seen.value for seen in read_all(broker.address, topic)] == [b"1", b"3"]


def test_positions_and_ends_of_a_topic_that_ends_with_a_marker(broker: RunningBroker) -> None:
    """What a processor restores from: read to the end, read_committed, position and lag are beyond the last marker."""
    topic = new_topic(broker.address)
    where = ottla.TopicPartition(topic, 0)
    with ottla.Producer(broker.address, transactional_id=f"t-{uuid.uuid4().hex[:8]}") as producer:
        with producer.transaction() as transaction:
            transaction.send(topic, b"1")
        with producer.transaction() as transaction:
            transaction.send(topic, b"2").result(30)
            raise ottla.Abort
    options: dict[str, Any] = {"topics": [topic], "auto_offset_reset": "earliest"}
    with ottla.Consumer(broker.address, isolation_level="read_committed", **options) as consumer:
        assert [record.value for record in consumer.records(until="end")] == [b"1"]
        assert consumer.end_offsets() == {where: 4}
        assert (consumer.position(where), consumer.consumer_lag(where)) == (4, 0)
    with ottla.Consumer(broker.address, **options) as consumer:
        assert [record.value for record in consumer.records(until="end")] == [b"1", b"2"]
        assert consumer.position(where) == 4
