"""Random groups against one coordinator: consumers that join, consume, commit, fall silent, restart and leave, over a log
that fails, stalls and is replayed. Everything comes from the seed.

Invariants, checked as it happens:
* no two members of one generation own the same partition, by what they were told, and after every step by what the
  coordinator believes (I7);
* a commit with a generation that has been superseded is refused (I7);
* after every step, no acknowledged commit is lost, and a fetch shows it, or something committed after it (I8);
* after every step, a group's generation has not gone back, and its members, instances and leader fit together;
* after a reload, groups and offsets are exactly what the log's last records say; and a group that was Stable or Empty with
  nothing in flight is what it was before (I9).
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld
from tests.broker.coordinators.scenario import subscription
from tests.support.seeds import further_seeds, run_covering, run_seeds, watching

from ottla.broker.coordinators.groups import records
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.rebalance import Rebalance
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.group import Group
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.group_records import GroupMetadataKey, GroupMetadataValue, OffsetCommitKey
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

#: How long consumers live on, at least; they go on until there were EVENTS_MIN events and a crash.
VIRTUAL_SECONDS = 50
EVENTS_MIN = 1_000
PARTITIONS = 6
SIZE_MAX = 4
GROUPS = ("alpha", "beta")

#: What 200 seeds must have met, each at least once.
COVERAGE = (
    "append failed",
    "join",
    "join as leader",
    "join MEMBER_ID_REQUIRED",
    "join UNKNOWN_MEMBER_ID",
    "join GROUP_MAX_SIZE_REACHED",
    "join NOT_COORDINATOR",
    "join COORDINATOR_NOT_AVAILABLE",
    "join FENCED_INSTANCE_ID",
    "join INCONSISTENT_GROUP_PROTOCOL",
    "join without rebalance",
    "join skip-assignment",
    "sync",
    "sync REBALANCE_IN_PROGRESS",
    "sync ILLEGAL_GENERATION",
    "sync UNKNOWN_MEMBER_ID",
    "sync NOT_COORDINATOR",
    "sync COORDINATOR_NOT_AVAILABLE",
    "heartbeat",
    "heartbeat REBALANCE_IN_PROGRESS",
    "heartbeat UNKNOWN_MEMBER_ID",
    "heartbeat ILLEGAL_GENERATION",
    "heartbeat FENCED_INSTANCE_ID",
    "commit",
    "commit REBALANCE_IN_PROGRESS",
    "commit UNKNOWN_MEMBER_ID",
    "commit ILLEGAL_GENERATION",
    "commit FENCED_INSTANCE_ID",
    "commit NOT_COORDINATOR",
    "commit COORDINATOR_NOT_AVAILABLE",
    "stale commit refused",
    "leave",
    "delete NONE",
    "delete NON_EMPTY_GROUP",
    "reload",
    "reload of a rebalancing group",
    "reload of a stable group",
    "compaction",
    "crash before the commit",
    "several batches in flight",
    "session expired",
    "pending member expired",
    "sync timeout",
    "rebalance timeout",
    "offsets expired",
    "shared append",
)


class Simulation:
    """One seed: a world, its consumers, and what they have been promised."""

    def __init__(self, world: GroupWorld, seed: int, coverage: Counter[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.coverage = coverage
        self.owners: dict[tuple[str, int, int], str] = {}
        self.generations: dict[str, int] = {}
        self.acknowledged: dict[tuple[str, int], int] = {}
        self.epoch: dict[str, int] = {}
        self.next_offset = 1
        self.instances = 0
        #: Groups that may be other than the log says, as in Kafka: they became Empty while the log failed, and stay so; or a
        #: static member's return was refused because its record was late, and the record came after all.
        self.not_written: set[str] = set()
        #: The highest generation of each group in this life of the coordinator.
        self.generation_seen: dict[str, tuple[ClassicGroup, int]] = {}

    # -------------------------------------------------------------- every step

    def check(self) -> None:
        """What must be true of the coordinator's memory after every step."""
        if 0 not in self.world.runtime.loaded_partitions:
            return
        shard = self.world.shard()
        by_group = shard.offsets._by_group
        for (group_id, partition), offset in self.acknowledged.items():
            offsets = by_group.get(group_id)
            committed = None if offsets is None else offsets.get(("orders", partition))
            assert committed is not None, f"{group_id} orders-{partition}: {offset} is lost"
            assert committed.offset >= offset, (
                f"{group_id} orders-{partition}: {offset} went back to {committed.offset}"
            )
        for group_id in GROUPS:
            group = shard.groups.get(group_id)
            if not isinstance(group, ClassicGroup):
                continue
            seen, generation = self.generation_seen.get(group_id, (group, 0))
            assert seen is not group or group.generation_id >= generation, (
                f"{group_id} goes back to {group.generation_id}"
            )
            self.generation_seen[group_id] = (group, group.generation_id)
            self.check_members(group)

    def check_members(self, group: ClassicGroup) -> None:
        members = group.members
        statics = {m.group_instance_id: m.member_id for m in members.values() if m.group_instance_id is not None}
        assert statics == dict(group.static_members), f"{group.group_id}: {statics}, {group.static_members}"
        assert members.keys().isdisjoint(group.pending_joins)
        if group.state is GroupState.EMPTY:
            assert not members
        if group.state is not GroupState.STABLE:
            return
        # While it rebalances there may be more: those who do not come back make room.
        assert sum(not member.is_static for member in members.values()) <= SIZE_MAX
        assert group.leader_id in members, f"{group.group_id} is led by {group.leader_id}"
        owned = [partition for member in members.values() for partition in member.assignment]
        assert len(owned) == len(set(owned)), f"{group.group_id}: {sorted(owned)} has two owners"

    def count(self, what: str, code: int = 0) -> None:
        self.coverage[what if code == 0 else f"{what} {ErrorCode(code).name}"] += 1

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.random.uniform(least, most))

    # --------------------------------------------------------------- consumers

    async def consumer(self, number: int) -> None:
        """Live as one consumer process after another."""
        # Two of them are configured with the same instance id, by mistake.
        instance = f"i{number % 6}" if number % 3 == 0 else None
        while True:
            await self.pause(0, 4)
            group = self.random.choice(GROUPS) if instance is None else GROUPS[number % 6 % len(GROUPS)]
            await Consumer(self, f"c{number}", group, instance).run()

    async def run(self) -> None:
        tasks = [asyncio.ensure_future(self.consumer(number)) for number in range(7)]
        tasks.append(asyncio.ensure_future(self.trouble()))
        tasks.append(asyncio.ensure_future(self.simple_commits()))
        done: set[asyncio.Task[None]] = set()
        while not done and (
            self.world.loop.time() < VIRTUAL_SECONDS
            or self.coverage["events"] < EVENTS_MIN
            or not self.coverage["crashes"]
        ):
            done, _ = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]
        if self.world.log.hold:
            self.not_written.update(GROUPS)
        self.world.log.hold = False
        self.world.log.release()
        await self.world.settle()
        await self.reload()
        await self.check_acknowledged()

    def on_join(self, group: str, generation: int) -> None:
        # An answer may be from before a reload of this very moment, which forgot that generation.
        if generation <= self.generation_in_memory(group):
            self.generations[group] = max(self.generations.get(group, 0), generation)

    def on_assignment(self, group: str, generation: int, owner: str, partitions: bytes) -> None:
        for partition in partitions:
            other = self.owners.setdefault((group, generation, partition), owner)
            assert other == owner, f"{group} generation {generation}: {partition} belongs to {other} and {owner}"

    async def commit(
        self, group: str, generation: int, member_id: str, instance: str | None, partitions: bytes
    ) -> ErrorCode:
        offset = self.next_offset
        self.next_offset += 1
        is_stale = 0 <= generation < self.generations.get(group, 0)
        epoch = self.epoch.get(group, 0)
        response = await self.world.handle(
            9,
            OffsetCommitRequest(
                group_id=group,
                generation_id_or_member_epoch=generation,
                member_id=member_id,
                group_instance_id=instance,
                topics=[
                    OffsetCommitRequestTopic(
                        name="orders",
                        partitions=[
                            OffsetCommitRequestPartition(partition_index=partition, committed_offset=offset)
                            for partition in partitions
                        ],
                    )
                ],
            ),
        )
        codes = {row.error_code for topic in response.topics for row in topic.partitions}
        assert len(codes) == 1
        code = ErrorCode(codes.pop())
        self.count("commit", code)
        if is_stale:
            assert code != ErrorCode.NONE, f"{group}: commit of generation {generation} after {self.generations[group]}"
            self.count("stale commit refused")
        if code == ErrorCode.NONE and self.epoch.get(group, 0) == epoch:
            for partition in partitions:
                before = self.acknowledged.get((group, partition), 0)
                self.acknowledged[group, partition] = max(before, offset)
        return code

    async def simple_commits(self) -> None:
        """Commit without a group of members, several at once, and let it expire now and then."""
        while True:
            await self.pause(1, 20)
            before = self.world.log.batch_count
            codes = await asyncio.gather(
                *(self.commit("simple", -1, "", None, bytes([partition])) for partition in range(3))
            )
            if self.world.log.batch_count == before + 1 and codes == [ErrorCode.NONE] * 3:
                self.count("shared append")

    # ----------------------------------------------------------------- trouble

    async def trouble(self) -> None:
        log = self.world.log
        while True:
            await self.pause(1, 8)
            match self.random.randrange(9):
                case 0 | 1:
                    log.hold = False
                    log.release()
                    await self.world.settle()
                    await self.reload()
                case 2:
                    code = self.random.choice([ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.KAFKA_STORAGE_ERROR])
                    log.failures.append((error_for(code), False))
                case 3:
                    log.failures.append((error_for(ErrorCode.REQUEST_TIMED_OUT), True))
                case 4:
                    log.hold = True
                    held_since = self.world.loop.time()
                    await self.pause(0, 7)
                    log.hold = False
                    if self.world.loop.time() - held_since >= self.world.runtime._config.append_timeout_ms / 1000:
                        self.not_written.update(GROUPS)
                    if self.random.random() < 0.4:
                        await self.reload()
                    log.release()
                case 5:
                    if not log.hold:
                        log.compact(0)
                        self.count("compaction")
                case 6:
                    await self.delete(self.random.choice([*GROUPS, "simple"]))
                case 7:
                    await self.check_acknowledged()
                case _:
                    await self.pause(5, 15)

    async def delete(self, group: str) -> None:
        # From here on what was acknowledged before may be gone, whatever the answer will be.
        self.epoch[group] = self.epoch.get(group, 0) + 1
        for key in [key for key in self.acknowledged if key[0] == group]:
            del self.acknowledged[key]
        response = await self.world.handle(3, DeleteGroupsRequest(groups_names=[group]))
        code = ErrorCode(response.results[0].error_code)
        self.coverage[f"delete {code.name}"] += 1
        if code in (ErrorCode.NONE, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR):
            # Generations begin anew; owners of the old ones must not be mixed up with owners of the new ones.
            self.epoch[group] += 1
            self.generations[group] = self.generation_in_memory(group)
            self.owners = {key: owner for key, owner in self.owners.items() if key[0] != group}
            for key in [key for key in self.acknowledged if key[0] == group]:
                del self.acknowledged[key]

    def generation_in_memory(self, group_id: str) -> int:
        if 0 not in self.world.runtime.loaded_partitions:
            return 0
        group = self.world.classic_group(group_id)
        return 0 if group is None else group.generation_id

    async def check_acknowledged(self) -> None:
        expected = dict(self.acknowledged)
        groups = sorted({group for group, _ in expected})
        if not groups:
            return
        response = await self.world.handle(
            9,
            OffsetFetchRequest(
                groups=[OffsetFetchRequestGroup(group_id=group, topics=None) for group in groups], require_stable=True
            ),
        )
        if any(group.error_code for group in response.groups):
            return
        found = {
            (group.group_id, row.partition_index): row.committed_offset
            for group in response.groups
            for topic in group.topics
            for row in topic.partitions
        }
        for (group, partition), offset in expected.items():
            if (group, partition) in self.acknowledged:  # not deleted or expired meanwhile
                assert found.get((group, partition), 0) >= offset, f"{group} orders-{partition}: {offset} is lost"

    # ------------------------------------------------------------------ reload

    async def reload(self) -> None:
        world = self.world
        if 0 not in world.runtime.loaded_partitions:
            return
        shard = world.shard()
        before = {group.group_id: durable(group) for group in world.classic_groups()}
        settled = [
            group.group_id
            for group in world.classic_groups()
            if group.state in (GroupState.STABLE, GroupState.EMPTY) and group.group_id not in self.not_written
        ]
        self.not_written.clear()
        for group in world.classic_groups():
            if group.state is GroupState.STABLE:
                self.count("reload of a stable group")
            elif group.state is not GroupState.EMPTY:
                self.count("reload of a rebalancing group")
        offsets_before = shard.offsets.snapshot()
        held = world.runtime._held[0]
        is_quiet = held.pipeline.is_idle
        written = world.log.end_offset("", 0)
        self.count("crashes")
        self.coverage["crash before the commit"] += await world.reload(loses=True)
        if 0 not in world.runtime.loaded_partitions or world.log.hold:
            return
        self.count("reload")
        after_shard = world.shard()
        # What clients did in the turns of the reload itself may have been written already.
        if world.log.end_offset("", 0) != written or not is_quiet:
            return
        after = {group.group_id: durable(group) for group in world.classic_groups()}
        groups, offsets = self.replay_independently()
        assert after == groups
        assert {key: value.offset for key, value in after_shard.offsets.snapshot().items()} == offsets
        assert after_shard.offsets.snapshot() == offsets_before
        for group_id in settled:
            assert after.get(group_id) == before[group_id], f"{group_id} changed by being reloaded"

    def replay_independently(self) -> tuple[dict[str, Any], dict[tuple[str, str, int], int]]:
        """Return what the last record of every key says, without the code under test."""
        last = {record.key: record.value for record in self.world.log.records(0)}
        groups: dict[str, Any] = {}
        offsets: dict[tuple[str, str, int], int] = {}
        for key_bytes, value_bytes in last.items():
            assert key_bytes is not None
            decoded = records.decode(key_bytes, value_bytes)
            assert decoded is not None
            key, value = decoded.key, decoded.value
            if isinstance(key, OffsetCommitKey) and value is not None:
                offsets[key.group, key.topic, key.partition] = value.offset  # type: ignore[attr-defined]
            elif isinstance(key, GroupMetadataKey) and isinstance(value, GroupMetadataValue):
                groups[key.group] = (
                    value.generation,
                    value.protocol_type or None,
                    value.protocol,
                    value.leader,
                    {m.member_id: (m.group_instance_id, m.session_timeout, m.assignment) for m in value.members},
                )
        for group_id, _, _ in offsets:
            groups.setdefault(group_id, (0, None, None, None, {}))
        return groups, offsets


def durable(group: ClassicGroup) -> Any:
    """Return what a reload must not change."""
    return (
        group.generation_id,
        group.protocol_type,
        group.protocol_name,
        group.leader_id,
        {m.member_id: (m.group_instance_id, m.session_timeout_ms, m.assignment) for m in group.members.values()},
    )


class Consumer:
    """One life of a consumer process, as a client library leads it."""

    def __init__(self, simulation: Simulation, name: str, group: str, instance: str | None) -> None:
        self.simulation = simulation
        self.world = simulation.world
        self.random = simulation.random
        self.name = name
        self.group = group
        self.instance = instance
        self.owner = instance or ""
        self.member_id = ""
        self.generation = -1
        self.version = self.random.choice([0, 3, 5, 8, 9, 9, 9]) if instance is None else self.random.choice([8, 9, 9])
        self.protocols = ["range", "sticky"]
        if self.random.random() < 0.2:
            self.protocols.reverse()
        if self.random.random() < 0.03:
            self.protocols = ["exotic"]
        self.topics = ["orders"]

    async def run(self) -> None:
        lives_until = self.world.loop.time() + self.random.uniform(1, 60)
        while self.world.loop.time() < lives_until:
            if not await self.join():
                await self.simulation.pause(0, 1)
                continue
            await self.consume(lives_until)
        if self.random.random() < 0.5 and self.member_id:
            await self.leave()

    async def join(self) -> bool:
        """Join and sync once; True if there is an assignment to work on."""
        simulation = self.simulation
        group_before = self.world.classic_group(self.group) if 0 in self.world.runtime.loaded_partitions else None
        generation_before = group_before.generation_id if group_before else -1
        request = JoinGroupRequest(
            group_id=self.group,
            member_id=self.member_id,
            group_instance_id=self.instance,
            session_timeout_ms=6_000,
            rebalance_timeout_ms=self.random.choice([4_000, 9_000]),
            protocol_type="consumer",
            protocols=[
                JoinGroupRequestProtocol(name=name, metadata=subscription(self.topics)) for name in self.protocols
            ],
        )
        answer = asyncio.ensure_future(self.world.handle(self.version, request, self.name))
        # Some give up on an answer, and ask again or go away.
        patience = self.random.choice([60.0, 60.0, 60.0, 2.0])
        done, _ = await asyncio.wait([answer], timeout=patience)
        if not done:
            answer.cancel()
            return False
        response = answer.result()
        code = ErrorCode(response.error_code)
        simulation.count("join", code)
        if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
            self.member_id = ""
            if code == ErrorCode.FENCED_INSTANCE_ID:
                await simulation.pause(2, 5)
            return False
        if code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = response.member_id
            if self.random.random() < 0.1:
                await simulation.pause(4, 9)  # forgets to come back
            return False
        if code != ErrorCode.NONE:
            await simulation.pause(0.5, 2)
            return False
        if response.generation_id == generation_before:
            simulation.count("join without rebalance")
        self.member_id = response.member_id
        self.owner = self.instance or self.member_id
        self.generation = response.generation_id
        simulation.on_join(self.group, self.generation)
        assignments: list[SyncGroupRequestAssignment] = []
        if response.skip_assignment:
            simulation.count("join skip-assignment")
        elif response.members:
            assert response.leader == self.member_id
            simulation.count("join as leader")
            ids = sorted(member.member_id for member in response.members)
            assignments = [
                SyncGroupRequestAssignment(
                    member_id=member_id,
                    assignment=bytes(p for p in range(PARTITIONS) if ids[p % len(ids)] == member_id),
                )
                for member_id in ids
            ]
        if self.random.random() < 0.06:
            await simulation.pause(3, 12)  # too slow for its own good
        if self.random.random() < 0.05:
            await simulation.commit(self.group, self.generation, self.member_id, self.instance, b"\0")
        return await self.sync(assignments)

    async def sync(self, assignments: list[SyncGroupRequestAssignment]) -> bool:
        simulation = self.simulation
        generation = self.generation
        response = await self.world.handle(
            3,
            SyncGroupRequest(
                group_id=self.group,
                generation_id=generation,
                member_id=self.member_id,
                group_instance_id=self.instance,
                assignments=assignments,
            ),
        )
        code = ErrorCode(response.error_code)
        simulation.count("sync", code)
        if code == ErrorCode.NONE:
            simulation.on_assignment(self.group, generation, self.owner, response.assignment)
            self.partitions = response.assignment
            return True
        if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
            self.member_id = ""
        return False

    async def consume(self, until: float) -> None:
        simulation = self.simulation
        while self.world.loop.time() < until:
            await simulation.pause(0.5, 2.5)
            if self.random.random() < 0.02:
                await simulation.pause(4, 12)  # a long pause: the session may end
            if self.random.random() < 0.04:
                self.topics = ["orders", "payments"] if self.topics == ["orders"] else ["orders"]
                return  # joins again with other metadata
            if self.random.random() < 0.03:
                return  # joins again as it is
            if self.random.random() < 0.03 and self.instance is not None:
                self.member_id = ""  # restarts at once, as a static member may
                return
            if self.partitions and self.random.random() < 0.01:
                generation = self.generation - 1  # a commit that was on its way for too long
                await simulation.commit(self.group, generation, self.member_id, self.instance, self.partitions)
            if self.partitions and self.random.random() < 0.5:
                code = await simulation.commit(
                    self.group, self.generation, self.member_id, self.instance, self.partitions
                )
                if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
                    self.member_id = ""
                    return
                if code == ErrorCode.ILLEGAL_GENERATION:
                    return
            response = await self.world.handle(
                3,
                HeartbeatRequest(
                    group_id=self.group,
                    generation_id=self.generation,
                    member_id=self.member_id,
                    group_instance_id=self.instance,
                ),
            )
            code = ErrorCode(response.error_code)
            simulation.count("heartbeat", code)
            if code == ErrorCode.REBALANCE_IN_PROGRESS and self.random.random() < 0.2:
                continue  # busy with records; it may still commit, and may be too late to rejoin
            if code in (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID):
                if self.random.random() < 0.3 and self.partitions:
                    await simulation.commit(self.group, self.generation, self.member_id, self.instance, self.partitions)
                self.member_id = ""
                return
            if code not in (ErrorCode.NONE, ErrorCode.NOT_COORDINATOR):
                return

    async def leave(self) -> None:
        response = await self.world.handle(
            5,
            LeaveGroupRequest(
                group_id=self.group,
                members=[MemberIdentity(member_id=self.member_id, group_instance_id=self.instance)],
            ),
        )
        if not response.error_code and not response.members[0].error_code:
            self.simulation.count("leave")


def simulate(seed: int, coverage: Counter[str]) -> str:
    """Run one seed; return the hash of its log, to compare runs."""

    async def main(loop: VirtualLoop) -> str:
        config = GroupConfig(
            session_timeout_ms_min=1_000,
            initial_rebalance_delay_ms=seed % 3 * 500,
            size_max=SIZE_MAX,
            offsets_retention_ms=10_000,
            offsets_retention_check_interval_ms=5_000,
        )
        world = GroupWorld(loop, config=config, seed=seed)
        world.add_topic("orders", 1, PARTITIONS)
        world.add_topic("payments", 2, PARTITIONS)
        simulation = Simulation(world, seed, coverage)
        watch(world, simulation)
        with watching(world.runtime, coverage, simulation.check):
            await world.start()
            await simulation.run()
            await world.runtime.stop()
        return repr(world.log.records(0))

    result, _ = run_virtual(seed, main)
    return result


def watch(world: GroupWorld, simulation: Simulation) -> None:
    """Let the simulation know what is taken away on purpose, and to which generation a reload goes back."""
    from ottla.broker.coordinators.groups.offsets import Offsets

    shard_factory = world.runtime._shard_factory

    def factory(partition: int, timeline: Any, timers: Any) -> Any:
        shard = shard_factory(partition, timeline, timers)
        expire = shard.offsets.expire

        def watched(group: Group, now_ms: int) -> Any:
            expired, nothing_left = expire(group, now_ms)
            for record in expired:
                simulation.count("offsets expired")
                simulation.acknowledged.pop((group.group_id, record.key.partition), None)
            if expired or nothing_left:
                simulation.epoch[group.group_id] = simulation.epoch.get(group.group_id, 0) + 1
            if nothing_left and group.is_empty:
                simulation.generations[group.group_id] = 0
                simulation.owners = {k: v for k, v in simulation.owners.items() if k[0] != group.group_id}
            return expired, nothing_left

        on_loaded = shard.on_loaded

        def loaded(now_ms: int) -> None:
            # A generation whose assignment was not written is forgotten; its number will be used again.
            for group_id in GROUPS:
                group = shard.groups.get(group_id)
                simulation.generations[group_id] = 0 if group is None else group.generation_id
            on_loaded(now_ms)

        on_rolled_back = shard.on_rolled_back

        def rolled_back(*arguments: Any) -> None:
            simulation.count("append failed")
            simulation.not_written |= {group_id for group_id, group in shard.groups.items() if group.is_empty}
            on_rolled_back(*arguments)

        assert isinstance(shard.offsets, Offsets)
        shard.offsets.expire = watched  # type: ignore[method-assign]
        shard.on_loaded = loaded
        shard.on_rolled_back = rolled_back
        return shard

    world.runtime._shard_factory = factory


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of warnings about failing appends are half of the time."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@contextmanager
def counting(counter: Counter[str]) -> Iterator[None]:
    """Count what happens inside, too."""
    end_of_sync, expire_heartbeat, complete_join = (
        Rebalance._end_of_sync,
        Rebalance._expire_session,
        Rebalance.complete_join,
    )

    def counted_sync(self: Rebalance, group: ClassicGroup, generation_id: int, now_ms: int) -> Any:
        counter["sync timeout"] += bool(group.pending_syncs)
        return end_of_sync(self, group, generation_id, now_ms)

    def counted_expiry(self: Rebalance, group: ClassicGroup, member_id: str, now_ms: int) -> Any:
        was_pending = member_id in group.pending_joins
        was_member = member_id in group.members
        result = expire_heartbeat(self, group, member_id, now_ms)
        counter["pending member expired"] += was_pending
        counter["session expired"] += was_member and member_id not in group.members
        return result

    def counted_join(self: Rebalance, group: ClassicGroup, now_ms: int) -> Any:
        late = [m for m in group.members.values() if not m.is_awaiting_join and not m.is_static]
        counter["rebalance timeout"] += bool(late)
        return complete_join(self, group, now_ms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rebalance, "_end_of_sync", counted_sync)
        patch.setattr(Rebalance, "_expire_session", counted_expiry)
        patch.setattr(Rebalance, "complete_join", counted_join)
        yield


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    coverage: Counter[str] = Counter()
    with counting(coverage):
        simulate(seed, coverage)
    return coverage


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__])


@pytest.mark.parametrize("seeds", further_seeds(), ids=str)
def test_seeds_keep_the_invariants(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)


def test_a_seed_determines_everything() -> None:
    assert simulate(4, Counter()) == simulate(4, Counter())
    assert simulate(4, Counter()) != simulate(5, Counter())
