"""Shapes of group answers, version by version. The protocol itself is in tests/scenarios/groups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.broker.coordinators.group_world import ME, GroupWorld, in_group_world
from tests.broker.coordinators.scenario import subscription

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.errors import ErrorCode, KafkaStorageError
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.offset_commit import OffsetCommitRequest
from ottla.protocol.messages.offset_delete import OffsetDeleteRequest
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from ottla.types import GROUP_METADATA_TOPIC

NO_DELAY = GroupConfig(initial_rebalance_delay_ms=0)


def over_the_wire(version: int, message: Any) -> Any:
    """Encode and decode: fails if a field is set that the version lacks."""
    data = encode(message, version)
    decoded, end = decode(type(message), version, data)
    assert end == len(data)
    return decoded


async def ask(world: GroupWorld, version: int, request: Any, **options: Any) -> Any:
    return over_the_wire(version, await world.handle(version, over_the_wire(version, request), **options))


def join_request(member_id: str = "", **fields: Any) -> JoinGroupRequest:
    values: dict[str, Any] = {
        "group_id": "g",
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 60_000,
        "protocol_type": "consumer",
        "protocols": [JoinGroupRequestProtocol(name="range", metadata=subscription(["orders"]))],
        "member_id": member_id,
    }
    return JoinGroupRequest(**{**values, **fields})


async def member_of_stable_group(world: GroupWorld) -> str:
    joined = await ask(world, 3, join_request())
    await ask(
        world,
        3,
        SyncGroupRequest(
            group_id="g",
            generation_id=1,
            member_id=joined.member_id,
            assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"A")],
        ),
    )
    return str(joined.member_id)


# ------------------------------------------------------------ find coordinator


@pytest.mark.parametrize("version", range(7))
def test_find_coordinator_answers_with_the_leader_of_the_groups_partition(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        if version < 4:
            answer = await ask(world, version, FindCoordinatorRequest(key="g"))
            assert answer.error_message == ("NONE" if version else "")
        else:
            response = await ask(world, version, FindCoordinatorRequest(coordinator_keys=["g", "h"]))
            assert [each.key for each in response.coordinators] == ["g", "h"]
            answer = response.coordinators[0]
        assert (answer.error_code, answer.node_id, answer.host, answer.port) == (0, ME, "broker", 9092)

    in_group_world(main)


def test_find_coordinator_makes_the_internal_topic_and_waits_for_it() -> None:
    async def main(world: GroupWorld) -> None:
        world.delete_topic(GROUP_METADATA_TOPIC)
        response = await ask(world, 4, FindCoordinatorRequest(coordinator_keys=["g", "h"]))
        assert world.created == [GROUP_METADATA_TOPIC]
        assert [each.error_code for each in response.coordinators] == [0, 0]

    in_group_world(main)


def test_find_coordinator_without_topic_or_broker_is_not_available() -> None:
    async def main(world: GroupWorld) -> None:
        async def refuse(name: str) -> None:
            raise KafkaStorageError("no")

        image = world.image
        world.groups._ensure_topic = refuse
        world.delete_topic(GROUP_METADATA_TOPIC)
        answer = await ask(world, 1, FindCoordinatorRequest(key="g"))
        assert answer.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert (answer.node_id, answer.host, answer.port) == (-1, "", -1)
        assert answer.error_message
        world.image = image
        world.groups._addresses.of_broker = lambda node_id, session: None  # type: ignore[method-assign]
        answer = await ask(world, 1, FindCoordinatorRequest(key="g"))
        assert answer.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE

    in_group_world(main)


@pytest.mark.parametrize(
    ("version", "key_type", "key", "expected"),
    [
        (6, 1, "k", ErrorCode.NONE),
        (6, 2, "k:AAAAAAAAAAAAAAAAAAAAAQ:0", ErrorCode.NONE),
        (6, 2, "k", ErrorCode.INVALID_REQUEST),
        (5, 2, "k", ErrorCode.INVALID_REQUEST),
        (6, 3, "k", ErrorCode.INVALID_REQUEST),
        (4, -1, "k", ErrorCode.INVALID_REQUEST),
    ],
)
def test_find_coordinator_of_other_kinds(version: int, key_type: int, key: str, expected: ErrorCode) -> None:
    async def main(world: GroupWorld) -> None:
        response = await ask(world, version, FindCoordinatorRequest(coordinator_keys=[key], key_type=key_type))
        assert response.coordinators[0].error_code == expected

    in_group_world(main)


# ----------------------------------------------------------------- membership


@pytest.mark.parametrize("version", range(10))
def test_a_member_joins_syncs_beats_and_leaves_in_every_version(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        joined = await ask(world, version, join_request())
        if version >= 4:
            assert joined.error_code == ErrorCode.MEMBER_ID_REQUIRED
            joined = await ask(world, version, join_request(joined.member_id))
        assert joined.error_code == ErrorCode.NONE
        assert joined.member_id.startswith("client-")
        assert (joined.leader, joined.generation_id, joined.protocol_name) == (joined.member_id, 1, "range")
        assert joined.protocol_type == ("consumer" if version >= 7 else None)
        assert [member.metadata for member in joined.members] == [subscription(["orders"])]
        for sync_version in range(6):
            synced = await ask(
                world,
                sync_version,
                SyncGroupRequest(
                    group_id="g",
                    generation_id=1,
                    member_id=joined.member_id,
                    protocol_type="consumer" if sync_version >= 5 else None,
                    protocol_name="range" if sync_version >= 5 else None,
                    assignments=[SyncGroupRequestAssignment(member_id=joined.member_id, assignment=b"A")],
                ),
            )
            assert (synced.error_code, synced.assignment) == (0, b"A")
            assert synced.protocol_name == ("range" if sync_version >= 5 else None)
        for beat_version in range(5):
            beat = HeartbeatRequest(group_id="g", generation_id=1, member_id=joined.member_id)
            assert (await ask(world, beat_version, beat)).error_code == 0
        leave_version = min(version, 5)
        if leave_version < 3:
            left = await ask(world, leave_version, LeaveGroupRequest(group_id="g", member_id=joined.member_id))
        else:
            members = [MemberIdentity(member_id=joined.member_id)]
            left = await ask(world, leave_version, LeaveGroupRequest(group_id="g", members=members))
            assert [member.error_code for member in left.members] == [0]
        assert left.error_code == 0

    in_group_world(main, config=NO_DELAY)


@pytest.mark.parametrize("version", [0, 6, 7, 9])
def test_a_refused_join_has_a_protocol_name_that_its_version_allows(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        await member_of_stable_group(world)
        answer = await ask(world, version, join_request("nobody"))
        assert answer.error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert answer.protocol_name == ("" if version < 7 else None)
        answer = await ask(world, version, join_request(protocol_type="connect"))
        assert answer.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        assert answer.protocol_name == ("" if version < 7 else None)

    in_group_world(main, config=NO_DELAY)


def test_join_v0_uses_the_session_timeout_for_rebalances() -> None:
    async def main(world: GroupWorld) -> None:
        joined = await ask(world, 0, join_request(rebalance_timeout_ms=-1, session_timeout_ms=7_000))
        group = world.classic_group("g")
        assert group is not None
        assert group.members[joined.member_id].rebalance_timeout_ms == 7_000

    in_group_world(main, config=NO_DELAY)


def test_a_client_without_id_and_one_with_an_instance_id() -> None:
    async def main(world: GroupWorld) -> None:
        joined = await ask(world, 9, join_request(), client_id=None)
        assert joined.member_id.startswith("-")
        joined = await ask(world, 9, join_request(group_instance_id="worker-1"))
        assert joined.member_id.startswith("worker-1-")

    in_group_world(main, config=NO_DELAY)


def test_protocols_named_twice_count_once() -> None:
    async def main(world: GroupWorld) -> None:
        twice = [
            JoinGroupRequestProtocol(name="range", metadata=b"1"),
            JoinGroupRequestProtocol(name="range", metadata=b"2"),
        ]
        joined = await ask(world, 3, join_request(protocols=twice))
        assert [member.metadata for member in joined.members] == [b"1"]

    in_group_world(main, config=NO_DELAY)


@pytest.mark.parametrize("missing", ["protocol_type", "protocol_name"])
def test_sync_v5_must_name_the_protocol(missing: str) -> None:
    async def main(world: GroupWorld) -> None:
        fields: dict[str, Any] = {"protocol_type": "consumer", "protocol_name": "range", missing: None}
        answer = await ask(world, 5, SyncGroupRequest(group_id="g", generation_id=1, member_id="m", **fields))
        assert answer.error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL

    in_group_world(main)


@pytest.mark.parametrize(
    ("version", "request_message"),
    [
        (9, join_request(group_id="")),
        (4, SyncGroupRequest(group_id="")),
        (4, HeartbeatRequest(group_id="")),
        (5, LeaveGroupRequest(group_id="", members=[])),
        (2, LeaveGroupRequest(group_id="", member_id="m")),
        (0, OffsetDeleteRequest(group_id="")),
    ],
    ids=["join", "sync", "heartbeat", "leave", "leave v2", "offset delete"],
)
def test_an_empty_group_id_is_invalid(version: int, request_message: Any) -> None:
    async def main(world: GroupWorld) -> None:
        assert (await ask(world, version, request_message)).error_code == ErrorCode.INVALID_GROUP_ID

    in_group_world(main)


def test_the_empty_group_id_may_commit_and_be_described() -> None:
    async def main(world: GroupWorld) -> None:
        assert (await ask(world, 9, OffsetCommitRequest(group_id="", topics=[]))).topics == []
        described = await ask(world, 5, DescribeGroupsRequest(groups=[""]))
        assert described.groups[0].group_state == "Dead"
        deleted = await ask(world, 1, DeleteGroupsRequest(groups_names=[""]))
        assert deleted.results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND

    in_group_world(main)


def test_answers_while_loading_and_by_somebody_else() -> None:
    """A heartbeat during the load is answered NONE: nothing is known, and nothing is wrong."""

    async def main(world: GroupWorld) -> None:
        heartbeat = HeartbeatRequest(group_id="g", generation_id=1, member_id="m")
        leave = LeaveGroupRequest(group_id="g", members=[MemberIdentity(member_id="m")])
        fetch = OffsetFetchRequest(group_id="g", topics=None)

        async def codes() -> list[ErrorCode]:
            answers = [
                await ask(world, 9, join_request()),
                await ask(world, 4, SyncGroupRequest(group_id="g")),
                await ask(world, 4, heartbeat),
                await ask(world, 5, leave),
                await ask(world, 3, ListGroupsRequest()),
                await ask(world, 5, fetch),
                (await ask(world, 6, DescribeGroupsRequest(groups=["g"]))).groups[0],
                (await ask(world, 2, DeleteGroupsRequest(groups_names=["g"]))).results[0],
            ]
            return [ErrorCode(answer.error_code) for answer in answers]

        world.runtime.on_resign(0)
        expected = [ErrorCode.NOT_COORDINATOR] * 8
        expected[4] = ErrorCode.NONE  # groups of other brokers are listed by them
        assert await codes() == expected
        world.log._ends[0] = 1  # a log that does not come
        world.runtime.on_leader(0, 2)
        await asyncio.sleep(0.1)
        expected = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 8
        expected[2] = ErrorCode.NONE
        assert await codes() == expected

    in_group_world(main)


# ------------------------------------------------------------- administration


@pytest.mark.parametrize("version", range(7))
def test_describe_groups_in_every_version(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        member_id = await member_of_stable_group(world)
        request = DescribeGroupsRequest(groups=["g", "nobody"], include_authorized_operations=version >= 3)
        known, unknown = (await ask(world, version, request)).groups
        assert (known.group_state, known.protocol_type, known.protocol_data) == ("Stable", "consumer", "range")
        (member,) = known.members
        assert (member.member_id, member.client_id, member.client_host) == (member_id, "client", "/10.0.0.7")
        assert (member.member_metadata, member.member_assignment) == (subscription(["orders"]), b"A")
        assert known.authorized_operations == (3400 if version >= 3 else -(2**31))
        assert (unknown.group_state, unknown.members) == ("Dead", [])
        if version >= 6:
            assert unknown.error_code == ErrorCode.GROUP_ID_NOT_FOUND
            assert unknown.error_message == "Group nobody not found."
            assert unknown.authorized_operations == -(2**31)
        else:
            assert unknown.error_code == ErrorCode.NONE

    in_group_world(main, config=NO_DELAY)


@pytest.mark.parametrize("version", range(6))
def test_list_groups_in_every_version(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        await member_of_stable_group(world)
        (group,) = (await ask(world, version, ListGroupsRequest())).groups
        assert (group.group_id, group.protocol_type) == ("g", "consumer")
        assert group.group_state == ("Stable" if version >= 4 else "")
        assert group.group_type == ("classic" if version >= 5 else "")

    in_group_world(main, config=NO_DELAY)


@pytest.mark.parametrize("version", range(4))
def test_delete_groups_in_every_version_over_several_partitions(version: int) -> None:
    async def main(world: GroupWorld) -> None:
        await member_of_stable_group(world)
        names = ["g", "a", "b", "c", "a"]
        response = await ask(world, version, DeleteGroupsRequest(groups_names=names))
        codes = {result.group_id: ErrorCode(result.error_code) for result in response.results}
        assert len(response.results) == 4
        assert codes["g"] == ErrorCode.NON_EMPTY_GROUP
        assert {codes[name] for name in "abc"} == {ErrorCode.GROUP_ID_NOT_FOUND}

    in_group_world(main, config=NO_DELAY, partition_count=5)


def test_a_deletion_that_cannot_be_written_is_not_done() -> None:
    async def main(world: GroupWorld) -> None:
        member_id = await member_of_stable_group(world)
        await ask(world, 5, LeaveGroupRequest(group_id="g", members=[MemberIdentity(member_id=member_id)]))
        world.log.failures.append((KafkaStorageError("full"), False))
        response = await ask(world, 2, DeleteGroupsRequest(groups_names=["g"]))
        assert response.results[0].error_code == ErrorCode.NOT_COORDINATOR
        assert [group.group_id for group in (await ask(world, 5, ListGroupsRequest())).groups] == ["g"]
        response = await ask(world, 2, DeleteGroupsRequest(groups_names=["g"]))
        assert response.results[0].error_code == ErrorCode.NONE
        assert (await ask(world, 5, ListGroupsRequest())).groups == []

    in_group_world(main, config=NO_DELAY)


def test_every_group_api_has_a_handler() -> None:
    async def main(world: GroupWorld) -> None:
        assert set(world.routes) == {
            ApiKey.FIND_COORDINATOR,
            ApiKey.CONSUMER_GROUP_HEARTBEAT,
            ApiKey.CONSUMER_GROUP_DESCRIBE,
            ApiKey.SHARE_GROUP_HEARTBEAT,
            ApiKey.SHARE_GROUP_DESCRIBE,
            ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS,
            ApiKey.ALTER_SHARE_GROUP_OFFSETS,
            ApiKey.DELETE_SHARE_GROUP_OFFSETS,
            ApiKey.JOIN_GROUP,
            ApiKey.HEARTBEAT,
            ApiKey.LEAVE_GROUP,
            ApiKey.SYNC_GROUP,
            ApiKey.DESCRIBE_GROUPS,
            ApiKey.LIST_GROUPS,
            ApiKey.DELETE_GROUPS,
            ApiKey.OFFSET_COMMIT,
            ApiKey.OFFSET_FETCH,
            ApiKey.OFFSET_DELETE,
            ApiKey.TXN_OFFSET_COMMIT,
            ApiKey.STREAMS_GROUP_HEARTBEAT,
            ApiKey.STREAMS_GROUP_DESCRIBE,
            ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE,
        }

    in_group_world(main)


def test_a_static_member_that_came_back_twice_without_being_written_is_who_it_was() -> None:
    """Both replacements share a batch that cannot be written: the later one is undone first."""

    async def main(world: GroupWorld) -> None:
        joined = asyncio.ensure_future(ask(world, 9, join_request(group_instance_id="i")))
        await asyncio.sleep(5)
        member_id, generation = (await joined).member_id, (await joined).generation_id
        sync = SyncGroupRequest(
            group_id="g", generation_id=generation, member_id=member_id, group_instance_id="i", assignments=[]
        )
        assert (await ask(world, 3, sync)).error_code == ErrorCode.NONE
        world.log.failures.append((KafkaStorageError("full"), False))
        answers = await asyncio.gather(*(ask(world, 9, join_request(group_instance_id="i")) for _ in range(2)))
        assert sorted(answer.error_code for answer in answers) == [
            ErrorCode.NOT_COORDINATOR,
            ErrorCode.FENCED_INSTANCE_ID,
        ]
        group = world.classic_group("g")
        assert group is not None
        assert (list(group.members), group.static_members, group.leader_id) == (
            [member_id],
            {"i": member_id},
            member_id,
        )

    in_group_world(main)
