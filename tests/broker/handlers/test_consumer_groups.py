"""ConsumerGroupHeartbeat and ConsumerGroupDescribe as clients see them, and every setting of these groups."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld, in_group_world

from ottla.broker.config import BrokerConfig, ConfigError
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.cluster.image import BROKERS, DEFAULT_ENTITY, GROUPS, ConfigResource, ImageDelta
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from ottla.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, TopicPartitions
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.describe_groups import DescribeGroupsRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.list_groups import ListGroupsRequest
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup


def from_settings(**settings: Any) -> GroupConfig:
    """Return what a broker with these settings (dots as underscores) tells its group coordinator."""
    given = [f"{key.replace('_', '.')}={value}" for key, value in settings.items()]
    return GroupConfig.from_broker(BrokerConfig.from_sources(overrides=given))


async def join(world: GroupWorld, member_id: str = "a", **fields: Any) -> Any:
    """Join; returns the response."""
    request = ConsumerGroupHeartbeatRequest(
        group_id="g",
        member_id=member_id,
        member_epoch=0,
        rebalance_timeout_ms=60_000,
        subscribed_topic_names=["orders"],
        topic_partitions=[],
    )
    for name, value in fields.items():
        setattr(request, name, value)
    return await world.handle(1, request)


async def beat(world: GroupWorld, member_id: str, epoch: int, owned: list[int] | None = None, **fields: Any) -> Any:
    topic_id = world.image.topics["orders"].topic_id
    partitions = None if owned is None else [TopicPartitions(topic_id=topic_id, partitions=owned)]
    request = ConsumerGroupHeartbeatRequest(
        group_id="g", member_id=member_id, member_epoch=epoch, topic_partitions=partitions
    )
    for name, value in fields.items():
        setattr(request, name, value)
    return await world.handle(1, request)


def shown(response: Any) -> list[int] | None:
    """Return the partitions that a response assigns."""
    if response.assignment is None:
        return None
    return sorted(index for each in response.assignment.topic_partitions for index in each.partitions)


async def describe(world: GroupWorld, group_id: str = "g") -> Any:
    return (await world.handle(1, ConsumerGroupDescribeRequest(group_ids=[group_id]))).groups[0]


def set_configs(world: GroupWorld, kind: str, name: str, **configs: Any) -> None:
    resource = ConfigResource(kind, name)
    told = {key.replace("_", "."): str(value) for key, value in configs.items()}
    world.image = replace(world.image, configs={**world.image.configs, resource: told})
    world.runtime.on_image(world.image, ImageDelta(changed_configs=(resource,)))


NO_WAIT = from_settings(group_consumer_assignment_interval_ms=0)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"group_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"member_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"instance_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"rack_id": " "}, ErrorCode.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": None}, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -2}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -3}, ErrorCode.INVALID_REQUEST),
        ({"server_assignor": "sticky"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"member_epoch": 1}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"member_epoch": -1}, ErrorCode.GROUP_ID_NOT_FOUND),
        ({"subscribed_topic_regex": "x**"}, ErrorCode.INVALID_REGULAR_EXPRESSION),
        ({"subscribed_topic_regex": ""}, ErrorCode.NONE),
        ({}, ErrorCode.NONE),
    ],
)
def test_what_a_request_must_say(fields: dict[str, Any], code: ErrorCode) -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        assert (await join(world, **fields)).error_code == code

    in_group_world(main)


def test_partitions_change_hands_without_ever_having_two_owners() -> None:
    """1. a has all. 2. b joins, and gets nothing yet. 3. a is told to give up half. 4. b gets it once a has."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 4)
        first = await join(world, "a")
        assert (first.member_epoch, shown(first), first.heartbeat_interval_ms) == (2, [0, 1, 2, 3], 5_000)
        second = await join(world, "b")
        assert (second.member_epoch, shown(second)) == (3, [])
        told = await beat(world, "a", 2)
        assert told.member_epoch == 2
        kept = shown(told)
        assert kept is not None
        assert len(kept) == 2
        assert shown(await beat(world, "b", 3)) is None
        assert (await describe(world)).group_state == "Reconciling"
        released = await beat(world, "a", 2, owned=kept)
        assert released.member_epoch == 3
        moved = await beat(world, "b", 3)
        assert sorted([*kept, *(shown(moved) or [])]) == [0, 1, 2, 3]
        described = await describe(world)
        assert (described.group_state, described.group_epoch, described.assignment_epoch) == ("Stable", 3, 3)
        assert described.assignor_name == "uniform"
        assert [each.member_type for each in described.members] == [1, 1]

    in_group_world(main, config=NO_WAIT)


def test_a_member_is_not_thrown_out_for_what_it_was_never_told() -> None:
    """1. a has all, b joins. 2. What would tell a to give up half cannot be written. 3. Its time to do so is nothing to a."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a", rebalance_timeout_ms=10_000)
        await join(world, "b")
        world.log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), False))
        assert (await beat(world, "a", 2)).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        await asyncio.sleep(11)
        assert (await beat(world, "a", 2)).error_code == ErrorCode.NONE
        await asyncio.sleep(11)
        assert (await beat(world, "a", 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID  # now it was told

    in_group_world(main, config=NO_WAIT)


def test_who_is_refused_the_place_of_an_instance_does_not_keep_that_there_for_ever() -> None:
    """1. A static member leaves for a while. 2. Who would take its place is refused. 3. Its session ends all the same."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a", instance_id="i")
        await beat(world, "a", -2, instance_id="i")
        refused = await join(world, "b", instance_id="i", subscribed_topic_regex="x**")
        assert refused.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
        assert [each.member_id for each in (await describe(world)).members] == ["a"]
        await asyncio.sleep(NO_WAIT.consumer_session_timeout_ms.value / 1000 + 1)
        assert (await describe(world)).members == []

    in_group_world(main, config=NO_WAIT)


def test_who_is_refused_does_not_disturb_the_classic_group_it_would_have_converted() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        subscription = b"\0\1" + b"\0\0\0\1" + b"\0\6orders" + b"\0\0\0\0" + b"\0\0\0\0"
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=30_000,
            rebalance_timeout_ms=30_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=subscription)],
        )
        request.member_id = (await world.handle(9, request)).member_id
        waiting = asyncio.ensure_future(world.handle(9, request))
        await asyncio.sleep(0.1)
        refused = await join(world, "b", subscribed_topic_regex="x**")
        assert refused.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION
        assert (await waiting).error_code == ErrorCode.NONE

    in_group_world(main, config=NO_WAIT)


def test_a_classic_member_whose_joining_was_written_late_does_not_stay_for_ever() -> None:
    """1. Its record takes so long that it is told of an error. 2. It is written all the same. 3. It is heard of no more."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")
        world.log.hold = True
        subscription = b"\0\1" + b"\0\0\0\1" + b"\0\6orders" + b"\0\0\0\0" + b"\0\0\0\0"
        request = JoinGroupRequest(
            group_id="g",
            member_id="",
            group_instance_id="i",
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=subscription)],
        )
        assert (await world.handle(9, request)).error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        world.log.hold = False
        world.log.release()
        await world.settle()
        assert len((await describe(world)).members) == 2
        epoch = (await beat(world, "a", 2)).member_epoch
        for _ in range(4):
            await asyncio.sleep(5)
            epoch = (await beat(world, "a", epoch)).member_epoch
        assert [each.member_id for each in (await describe(world)).members] == ["a"]

    in_group_world(main, config=NO_WAIT)


def test_the_epoch_before_is_accepted_from_a_member_that_lost_an_answer() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")
        await join(world, "b")
        await beat(world, "a", 2)
        assert (await beat(world, "a", 2, owned=[0])).member_epoch == 3
        # The answer was lost: the member says again what it said before.
        again = await beat(world, "a", 2, owned=[0])
        assert (again.error_code, again.member_epoch) == (ErrorCode.NONE, 3)
        assert (await beat(world, "a", 2, owned=[0, 1])).error_code == ErrorCode.FENCED_MEMBER_EPOCH
        assert (await beat(world, "a", 8)).error_code == ErrorCode.FENCED_MEMBER_EPOCH
        assert (await beat(world, "nobody", 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID

    in_group_world(main, config=NO_WAIT)


def test_offsets_are_for_members_in_their_epoch() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")

        async def fetch(member_id: str | None, epoch: int) -> ErrorCode:
            request = OffsetFetchRequest(
                groups=[OffsetFetchRequestGroup(group_id="g", member_id=member_id, member_epoch=epoch, topics=None)]
            )
            return ErrorCode((await world.handle(9, request)).groups[0].error_code)

        assert await fetch(None, -1) == ErrorCode.NONE
        assert await fetch("a", 2) == ErrorCode.NONE
        assert await fetch("a", 3) == ErrorCode.STALE_MEMBER_EPOCH
        assert await fetch("b", 2) == ErrorCode.UNKNOWN_MEMBER_ID

    in_group_world(main)


def test_groups_of_both_kinds_are_listed_described_and_deleted() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")
        listed = (await world.handle(5, ListGroupsRequest(types_filter=["consumer"]))).groups
        assert [(each.group_id, each.group_type, each.group_state) for each in listed] == [("g", "consumer", "Stable")]
        assert (await world.handle(5, ListGroupsRequest(types_filter=["classic"]))).groups == []
        assert (await world.handle(5, ListGroupsRequest(states_filter=["Empty"]))).groups == []
        old = (await world.handle(6, DescribeGroupsRequest(groups=["g"]))).groups[0]
        assert (old.error_code, old.error_message) == (
            ErrorCode.GROUP_ID_NOT_FOUND,
            "Group g is not a classic group.",
        )
        refused = await world.handle(2, DeleteGroupsRequest(groups_names=["g"]))
        assert refused.results[0].error_code == ErrorCode.NON_EMPTY_GROUP
        await beat(world, "a", -1)
        assert (await describe(world)).group_state == "Empty"
        deleted = await world.handle(2, DeleteGroupsRequest(groups_names=["g"]))
        assert deleted.results[0].error_code == ErrorCode.NONE
        gone = await describe(world)
        assert (gone.error_code, gone.error_message) == (ErrorCode.GROUP_ID_NOT_FOUND, "Group g not found.")
        assert (await describe(world, "")).error_code == ErrorCode.INVALID_GROUP_ID
        await world.reload()
        assert (await world.handle(5, ListGroupsRequest())).groups == []

    in_group_world(main)


@pytest.mark.parametrize("is_written", [True, False])
def test_an_empty_group_is_described_by_its_type_until_the_other_is_committed(is_written: bool) -> None:
    """1. a leaves. 2. A classic member is given its id at once. 3. As long as that is on its way into the log, DescribeGroups
    does not find a classic group, as in Apache Kafka (GroupMetadataManager asks at the committed offset). 4. Then it does,
    unless the append fails: then the consumer group has never gone."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")
        await beat(world, "a", -1)
        world.log.hold = True
        if not is_written:
            world.log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), False))
        request = JoinGroupRequest(
            group_id="g",
            session_timeout_ms=30_000,
            rebalance_timeout_ms=30_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range")],
        )
        assert (await world.handle(9, request)).error_code == ErrorCode.MEMBER_ID_REQUIRED
        assert world.classic_group("g") is not None
        assert await described_as(world) == (ErrorCode.GROUP_ID_NOT_FOUND, "Group g is not a classic group.", "Dead")
        assert (await describe(world)).group_state == "Empty"
        world.log.hold = False
        world.log.release()
        await world.settle()
        if is_written:
            assert await described_as(world) == (ErrorCode.NONE, None, "Empty")
            assert (await describe(world)).error_code == ErrorCode.GROUP_ID_NOT_FOUND
        else:
            assert (await described_as(world))[0] == ErrorCode.GROUP_ID_NOT_FOUND
            assert (await describe(world)).group_state == "Empty"
        listed = (await world.handle(5, ListGroupsRequest())).groups
        assert [(each.group_type, each.group_state) for each in listed] == [
            ("classic" if is_written else "consumer", "Empty")
        ]

    async def described_as(world: GroupWorld) -> tuple[int, str | None, str]:
        group = (await world.handle(6, DescribeGroupsRequest(groups=["g"]))).groups[0]
        return group.error_code, group.error_message, group.group_state

    in_group_world(main)


# ------------------------------------------------------------------ settings


def test_without_the_protocol_members_are_told_so() -> None:
    async def main(world: GroupWorld) -> None:
        assert (await join(world)).error_code == ErrorCode.UNSUPPORTED_VERSION
        assert (await describe(world)).error_code == ErrorCode.UNSUPPORTED_VERSION

    in_group_world(main, config=from_settings(group_coordinator_rebalance_protocols="classic"))


def test_session_and_interval_come_from_the_broker_or_the_group() -> None:
    """group.consumer.session.timeout.ms, group.consumer.heartbeat.interval.ms and what a group sets for itself, in bounds."""
    config = from_settings(
        group_consumer_session_timeout_ms=40_000,
        group_consumer_min_session_timeout_ms=20_000,
        group_consumer_max_session_timeout_ms=50_000,
        group_consumer_heartbeat_interval_ms=7_000,
        group_consumer_min_heartbeat_interval_ms=6_000,
        group_consumer_max_heartbeat_interval_ms=9_000,
    )

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        assert (await join(world)).heartbeat_interval_ms == 7_000
        set_configs(world, GROUPS, "g", consumer_session_timeout_ms=30_000, consumer_heartbeat_interval_ms=99_000)
        assert (await beat(world, "a", 2)).heartbeat_interval_ms == 9_000
        await asyncio.sleep(29)
        assert (await beat(world, "a", 2)).error_code == ErrorCode.NONE
        await asyncio.sleep(31)
        assert (await beat(world, "a", 2)).error_code == ErrorCode.UNKNOWN_MEMBER_ID

    in_group_world(main, config=config)


@pytest.mark.parametrize("level", ["broker", "cluster", "group"])
def test_assignments_keep_their_distance(level: str) -> None:
    """group.consumer.assignment.interval.ms, its bounds, and consumer.assignment.interval.ms: two joins, one assignment."""
    config = from_settings(
        group_consumer_assignment_interval_ms=4_000 if level == "broker" else 0,
        group_consumer_min_assignment_interval_ms=0,
        group_consumer_max_assignment_interval_ms=4_000,
    )

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 4)
        if level == "cluster":
            set_configs(world, BROKERS, DEFAULT_ENTITY, group_consumer_assignment_interval_ms=4_000)
        elif level == "group":
            set_configs(world, GROUPS, "g", consumer_assignment_interval_ms=5_000)
        await join(world, "a")
        await join(world, "b")
        assert (await describe(world)).group_state == "Assigning"
        await asyncio.sleep(3.9)
        assert shown(await beat(world, "a", 2)) is None
        await asyncio.sleep(0.2)
        assert shown(await beat(world, "a", 2)) is not None

    in_group_world(main, config=config)


def test_the_epochs_of_an_empty_group_are_equal() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 4)
        await join(world, "a")
        await beat(world, "a", -1)
        described = await describe(world)
        assert (described.group_state, described.group_epoch, described.assignment_epoch) == ("Empty", 3, 3)

    in_group_world(main, config=NO_WAIT)


def test_a_member_joins_anew_whatever_its_epoch() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 2)
        await join(world, "a")
        for other in ("b", "c"):
            await join(world, other)
            await beat(world, "a", 0 if other == "b" else 99)
            await beat(world, other, -1)
        again = await join(world, "a")
        assert (again.error_code, shown(again)) == (ErrorCode.NONE, [0, 1])

    in_group_world(main, config=NO_WAIT)


def test_a_group_is_full() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 4)
        assert (await join(world, "a")).error_code == ErrorCode.NONE
        assert (await join(world, "b")).error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
        assert (await join(world, "a")).error_code == ErrorCode.NONE

    in_group_world(main, config=from_settings(group_consumer_max_size=1))


def test_the_first_assignor_is_the_default() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 4)
        await join(world, "a")
        assert (await describe(world)).assignor_name == "range"
        assert (await join(world, "b", server_assignor="uniform")).error_code == ErrorCode.UNSUPPORTED_ASSIGNOR

    in_group_world(main, config=from_settings(group_consumer_assignors="range"))


def test_patterns_are_resolved_again() -> None:
    """With the first topics at once; later ones when they have been created, or group.consumer.regex.refresh.interval.ms."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 1, 1)
        pattern = {"subscribed_topic_names": None, "subscribed_topic_regex": "ord.*"}
        # As long as the first pattern of a group is not resolved the member stays in the group's first epoch.
        assert (await join(world, "a", **pattern)).member_epoch == 1
        await world.settle()
        assert shown(await join(world, "a", **pattern)) == [0]
        world.add_topic("ordinary", 2, 1)
        await asyncio.sleep(11)
        await beat(world, "a", 2)
        await world.settle()
        assert shown(await beat(world, "a", 2)) == [0, 0]
        before = world.shard().consumers.regexes.resolutions
        for _ in range(4):
            await asyncio.sleep(6)
            await beat(world, "a", 3)
        assert world.shard().consumers.regexes.resolutions == before + 1

    in_group_world(
        main,
        config=from_settings(group_consumer_regex_refresh_interval_ms=15_000, group_consumer_assignment_interval_ms=0),
    )


@pytest.mark.parametrize(
    "setting",
    [
        "group.consumer.session.timeout.ms=1000",
        "group.consumer.heartbeat.interval.ms=1000",
        "group.consumer.assignment.interval.ms=99999",
        "group.consumer.assignors=sticky",
        "group.coordinator.rebalance.protocols=consumer",
    ],
)
def test_settings_that_contradict_each_other_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError):
        BrokerConfig.from_sources(overrides=[setting])


@pytest.mark.parametrize(("policy", "up"), [("upgrade", True), ("downgrade", False), ("DISABLED", False)])
def test_the_migration_policy_is_read(policy: str, up: bool) -> None:
    assert from_settings(group_consumer_migration_policy=policy).consumer_migration_policy.can_upgrade is up


def test_a_retry_is_not_told_what_is_not_committed_yet() -> None:
    """The answer to a join got lost, its records are under way: with the coordinator they may still vanish."""

    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 7, 2)
        world.log.hold = True
        first = asyncio.ensure_future(join(world))
        await world.settle()
        again = asyncio.ensure_future(join(world))
        await world.settle()
        assert not first.done()
        assert not again.done()
        world.log.release()
        assert shown(await again) == [0, 1]
        assert shown(await first) == [0, 1]

    in_group_world(main, config=NO_WAIT)


def test_a_heartbeat_that_shows_nothing_new_does_not_wait_for_a_commit() -> None:
    async def main(world: GroupWorld) -> None:
        world.add_topic("orders", 7, 2)
        epoch = (await join(world)).member_epoch
        assert shown(await beat(world, "a", epoch, [0, 1])) is None
        world.log.hold = True
        other = asyncio.ensure_future(join(world, "b", group_id="another"))
        await world.settle()
        assert not other.done()
        response = await beat(world, "a", epoch)
        assert (response.error_code, shown(response)) == (ErrorCode.NONE, None)
        world.log.release()
        await other

    in_group_world(main, config=NO_WAIT)
