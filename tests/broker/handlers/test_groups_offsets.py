"""Shapes of offset answers, version by version. The rules are in tests/scenarios/groups."""

from __future__ import annotations

from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld, in_group_world
from tests.broker.handlers.test_groups import ask

from ottla.errors import ErrorCode, KafkaStorageError
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
)

ORDERS = (7).to_bytes(16, "big")
UNKNOWN = b"?" * 16


def commit_request(offset: int, partitions: tuple[int, ...] = (0,), **fields: Any) -> OffsetCommitRequest:
    return OffsetCommitRequest(
        group_id="s",
        topics=[
            OffsetCommitRequestTopic(
                name="orders",
                topic_id=ORDERS,
                partitions=[
                    OffsetCommitRequestPartition(
                        partition_index=index, committed_offset=offset, committed_metadata="m", committed_leader_epoch=4
                    )
                    for index in partitions
                ],
            )
        ],
        **fields,
    )


async def world_with_orders(world: GroupWorld) -> None:
    world.add_topic("orders", 7, 2)


@pytest.mark.parametrize("version", range(2, 11))
def test_commit_in_every_version(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        response = await ask(world, version, commit_request(5, (0, 1, 2)))
        (topic,) = response.topics
        assert (topic.name, topic.topic_id) == (("orders", bytes(16)) if version < 10 else ("", ORDERS))
        assert [(row.partition_index, row.error_code) for row in topic.partitions] == [(0, 0), (1, 0), (2, 3)]
        committed = world.shard().offsets.snapshot()["s", "orders", 0]
        assert (committed.offset, committed.metadata, committed.topic_id) == (5, "m", ORDERS)
        assert committed.leader_epoch == (4 if version >= 6 else -1)

    in_group_world(main)


def test_a_commit_of_unknown_topics_only_does_not_even_make_a_group() -> None:
    async def main(world: GroupWorld) -> None:
        response = await ask(world, 10, commit_request(5))
        assert response.topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID
        response = await ask(world, 9, commit_request(5, group_instance_id="i"))
        assert response.topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert world.log.batch_count == 0

    in_group_world(main)


def test_an_error_of_the_group_stands_at_every_valid_partition() -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        response = await ask(world, 9, commit_request(5, (0, 9), generation_id_or_member_epoch=3, member_id="m"))
        assert [row.error_code for row in response.topics[0].partitions] == [
            ErrorCode.GROUP_ID_NOT_FOUND,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ]

    in_group_world(main)


@pytest.mark.parametrize("version", range(1, 8))
def test_fetch_of_one_group_in_every_version(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        await ask(world, 9, commit_request(5))
        topics = [OffsetFetchRequestTopic(name="orders", partition_indexes=[0, 1])]
        response = await ask(world, version, OffsetFetchRequest(group_id="s", topics=topics))
        (topic,) = response.topics
        rows = [(row.partition_index, row.committed_offset, row.metadata, row.error_code) for row in topic.partitions]
        assert rows == [(0, 5, "m", 0), (1, -1, "", 0)]
        assert topic.partitions[0].committed_leader_epoch == (4 if version >= 5 else -1)
        if version >= 2:
            response = await ask(world, version, OffsetFetchRequest(group_id="s", topics=None))
            assert [(t.name, [p.committed_offset for p in t.partitions]) for t in response.topics] == [("orders", [5])]

    in_group_world(main)


@pytest.mark.parametrize("version", [8, 9, 10])
@pytest.mark.parametrize("stable", [False, True])
def test_fetch_of_several_groups_in_every_version(version: int, stable: bool) -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        await ask(world, 9, commit_request(5))
        topics = [OffsetFetchRequestTopics(name="orders", topic_id=ORDERS, partition_indexes=[1, 0])]
        gone = [OffsetFetchRequestTopics(name="gone", topic_id=UNKNOWN, partition_indexes=[3])]
        response = await ask(
            world,
            version,
            OffsetFetchRequest(
                require_stable=stable,
                groups=[
                    OffsetFetchRequestGroup(group_id="s", topics=gone + topics),
                    OffsetFetchRequestGroup(group_id="s", topics=None),
                    OffsetFetchRequestGroup(group_id="nobody", topics=topics, member_id="m", member_epoch=3),
                ],
            ),
        )
        some, everything, nobody = response.groups
        rows = {
            (topic.name, topic.topic_id): [
                (p.partition_index, p.committed_offset, p.error_code) for p in topic.partitions
            ]
            for topic in some.topics
        }
        if version < 10:
            assert rows == {("gone", bytes(16)): [(3, -1, 0)], ("orders", bytes(16)): [(1, -1, 0), (0, 5, 0)]}
        else:
            assert rows == {
                ("", UNKNOWN): [(3, -1, ErrorCode.UNKNOWN_TOPIC_ID)],
                ("", ORDERS): [(1, -1, 0), (0, 5, 0)],
            }
        assert [p.committed_offset for topic in everything.topics for p in topic.partitions] == [5]
        assert [topic.topic_id for topic in everything.topics] == [ORDERS if version >= 10 else bytes(16)]
        assert [p.committed_offset for topic in nobody.topics for p in topic.partitions] == [-1, -1]
        assert [group.error_code for group in response.groups] == [0, 0, 0]

    in_group_world(main)


def test_with_topic_ids_a_topic_that_is_gone_is_left_out() -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        await ask(world, 9, commit_request(5))
        del world.image.topics["orders"]  # type: ignore[attr-defined]
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="s", topics=None)])
        assert (await ask(world, 10, request)).groups[0].topics == []
        assert [topic.name for topic in (await ask(world, 9, request)).groups[0].topics] == ["orders"]

    in_group_world(main)


def test_a_topic_made_anew_has_no_committed_offsets_for_those_who_ask_by_id() -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        await ask(world, 9, commit_request(5))
        world.add_topic("orders", 8, 2)
        asked = [OffsetFetchRequestTopics(topic_id=(8).to_bytes(16, "big"), partition_indexes=[0])]
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="s", topics=asked)])
        response = await ask(world, 10, request)
        assert response.groups[0].topics[0].partitions[0].committed_offset == -1

    in_group_world(main)


@pytest.mark.parametrize("version", [1, 2, 7, 8])
def test_where_the_error_of_a_group_stands(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        world.runtime.on_resign(0)
        if version < 8:
            topics = [OffsetFetchRequestTopic(name="orders", partition_indexes=[4])]
            response = await ask(world, version, OffsetFetchRequest(group_id="s", topics=topics))
        else:
            request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id="s", topics=None)])
            response = (await ask(world, version, request)).groups[0]
        if version == 1:
            row = response.topics[0].partitions[0]
            assert (row.partition_index, row.committed_offset) == (4, -1)
            assert row.error_code == ErrorCode.NOT_COORDINATOR
        else:
            assert (response.error_code, response.topics) == (ErrorCode.NOT_COORDINATOR, [])

    in_group_world(main)


def test_a_stable_fetch_behind_a_failing_commit_says_look_again() -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        world.log.failures.append((KafkaStorageError("full"), False))
        commit = ask(world, 9, commit_request(5))
        topics = [OffsetFetchRequestTopic(name="orders", partition_indexes=[0])]
        import asyncio

        committed, fetched = await asyncio.gather(
            commit, ask(world, 7, OffsetFetchRequest(group_id="s", topics=topics, require_stable=True))
        )
        assert committed.topics[0].partitions[0].error_code == ErrorCode.NOT_COORDINATOR
        assert fetched.error_code == ErrorCode.NOT_COORDINATOR

    in_group_world(main)


def test_offset_delete_answers_partition_by_partition() -> None:
    async def main(world: GroupWorld) -> None:
        await world_with_orders(world)
        await ask(world, 9, commit_request(5))

        def request(group: str, *partitions: int) -> OffsetDeleteRequest:
            rows = [OffsetDeleteRequestPartition(partition_index=index) for index in partitions]
            return OffsetDeleteRequest(
                group_id=group, topics=[OffsetDeleteRequestTopic(name="orders", partitions=rows)]
            )

        response = await ask(world, 0, request("s", 0, 1, 2))
        assert response.error_code == 0
        assert [(row.partition_index, row.error_code) for row in response.topics[0].partitions] == [
            (0, 0),
            (1, 0),
            (2, 3),
        ]
        assert world.shard().offsets.snapshot() == {}
        response = await ask(world, 0, request("nobody", 0))
        assert (response.error_code, response.topics) == (ErrorCode.GROUP_ID_NOT_FOUND, [])

    in_group_world(main)
