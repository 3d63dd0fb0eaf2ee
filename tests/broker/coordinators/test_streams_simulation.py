"""Random streams applications against one coordinator: members that join, run tasks, give them up late, fall silent, come
back and leave; topics that come, go and grow; a log that fails, stalls, is compacted and replayed. All from the seed.

Invariants, checked as it happens:
* no task is run by two members, as far as they still hear from the coordinator in time (I7);
* a member is never told to run a task that it has been told to give up and has not given up (I7);
* after every step of the coordinator, a task is active at one member and in one target at most, who holds what is what the
  members add up to, epochs are in order, and the group's epoch has not gone back (I7);
* a commit with an epoch that the member has never had, or from before it was given the task, is refused (I7);
* after every step no acknowledged commit is lost or has gone back (I8);
* after a reload, groups are what was committed: the same members, epochs, tasks, targets and offsets (I9);
* left in peace, a group becomes Stable: every task is run once, copies are on other processes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld
from tests.broker.coordinators.streams_scenario import topology_of
from tests.support.seeds import further_seeds, run_covering, run_seeds, watching

from ottla.broker.coordinators.groups.config import GroupConfig
from ottla.broker.coordinators.groups.streams.config import StreamsConfig
from ottla.broker.coordinators.groups.streams.group import StreamsGroup
from ottla.broker.coordinators.groups.streams.internal_topics import StatusCode
from ottla.broker.coordinators.groups.streams.member import MemberState
from ottla.broker.coordinators.groups.streams.tasks import TaskId, by_subtopology, task_set
from ottla.cluster.image import GROUPS, ConfigResource, ImageDelta
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.streams_group_describe import StreamsGroupDescribeRequest
from ottla.protocol.messages.streams_group_heartbeat import (
    Endpoint,
    StreamsGroupHeartbeatRequest,
    StreamsGroupHeartbeatResponse,
    TaskIds,
    TaskOffset,
)
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

EVENTS_MIN = 1_000
#: What the time at the end takes, when nothing disturbs the groups any more.
EVENTS_OF_PEACE = 150
SESSION_MS = 10_000
GROUPS_OF = ("alpha", "beta")
TOPOLOGY = topology_of(
    ["0:reads=lines,writes=words", "1:from=words,log=counts", "2:reads=left+right,log=joined,together=left+right"]
)

#: What the seeds must have met, each at least once.
COVERAGE = (
    "joined",
    "joined again",
    "joined as a static member that was away",
    "left",
    "left for a while",
    "fell silent",
    "told to give up",
    "gave up",
    "session expired",
    "reload",
    "reload of a stable group",
    "compaction",
    "crash before the commit",
    "several batches in flight",
    "topic grew",
    "topic deleted",
    "standbys changed",
    "commit NONE",
    "commit STALE_MEMBER_EPOCH",
    "commit refused from before the task was given",
    "beat FENCED_MEMBER_EPOCH",
    "beat UNKNOWN_MEMBER_ID",
    "beat NOT_COORDINATOR",
    "beat COORDINATOR_NOT_AVAILABLE",
    "beat UNRELEASED_INSTANCE_ID",
    "told MISSING_SOURCE_TOPICS",
    "told MISSING_INTERNAL_TOPICS",
    "told INCORRECTLY_PARTITIONED_TOPICS",
    "told ASSIGNMENT_DELAYED",
    "told SHUTDOWN_APPLICATION",
    "quiet at last",
)


class Member:
    """A stream thread and what it believes."""

    def __init__(self, name: str, group: str, process: str, instance: str | None) -> None:
        self.name, self.group, self.process, self.instance = name, group, process, instance
        self.lives = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything, as a thread that has been fenced does."""
        self.lives += 1
        self.member_id = f"{self.name}#{self.lives}"
        self.epoch = 0
        self.active: frozenset[TaskId] = frozenset()
        self.standby: frozenset[TaskId] = frozenset()
        #: Still closing these.
        self.closing: frozenset[TaskId] = frozenset()
        #: Epoch in which it was given a task, or the earliest in which that can have been.
        self.given: dict[TaskId, int] = {}
        #: The last heartbeat failed. It may have been written all the same.
        self.has_failed = False
        #: The epoch it knew when a heartbeat failed that may have given it tasks, in an epoch that it is never told of. None:
        #: it has been told all its tasks since.
        self.unsure_since: int | None = None
        #: What it has told that it has, if that was answered.
        self.reported: tuple[frozenset[TaskId], frozenset[TaskId]] | None = None
        self.heard_at = -1.0
        #: A heartbeat is under way: the next one waits for its answer.
        self.is_asking = False
        self.away = False


class Simulation:
    """One seed."""

    def __init__(self, world: GroupWorld, seed: int, coverage: Counter[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.coverage = coverage
        self.members = [
            Member(f"{group}-{number}", group, f"{group}-p{number // 2}", f"i{number}" if number == 3 else None)
            for group in GROUPS_OF
            for number in range(4)
        ]
        self.standbys = dict.fromkeys(GROUPS_OF, 0)
        self.trace: list[str] = []
        self.is_peace = False
        #: Of tasks that nobody waits for.
        self.failures: list[BaseException] = []
        #: What has been committed and answered: group, topic id, partition of `lines`.
        self.acknowledged: dict[tuple[str, bytes, int], int] = {}
        self.offset = 0
        #: Where the coordinator was at the last look, and the epoch of every group then.
        self.looked_at: tuple[object, int, int] = (None, 0, 0)
        self.epochs: dict[str, int] = {}

    # --------------------------------------------------------------- every step

    def check(self) -> None:
        """What must be true of the coordinator's memory after every step."""
        if 0 not in self.world.runtime.loaded_partitions:
            return
        shard, timeline = self.world.shard(), self.world.runtime._held[0].timeline
        now = (shard, timeline.epoch, len(timeline._undo))
        if now == self.looked_at:
            return
        if shard is not self.looked_at[0]:
            self.epochs.clear()
        self.looked_at = now
        for (group_id, _, partition), offset in self.acknowledged.items():
            offsets = shard.offsets._by_group.get(group_id)
            committed = None if offsets is None else offsets.get(("lines", partition))
            assert committed is not None, f"{group_id} lines-{partition}: {offset} is lost"
            assert committed.offset >= offset, f"{group_id} lines-{partition}: {offset} went back to {committed.offset}"
        for group in shard.groups.values():
            if isinstance(group, StreamsGroup):
                self.check_group(group)

    def check_group(self, group: StreamsGroup) -> None:
        scalars = group.scalars.value
        assert scalars.assignment_epoch <= scalars.epoch, scalars
        committed = group.scalars.committed.epoch
        assert committed >= self.epochs.get(group.group_id, 0), f"{group.group_id} goes back to epoch {committed}"
        self.epochs[group.group_id] = committed
        active: dict[TaskId, str] = {}
        holders: dict[str, dict[TaskId, set[str]]] = {"standby": {}, "warmup": {}}
        for member in group.members.values():
            assert member.member_epoch <= scalars.assignment_epoch, f"{member} in {scalars}"
            if member.state is MemberState.STABLE:
                assert not member.revoking, member
            for held in (member.assigned, member.revoking):
                for task in held.active:
                    assert task not in active, f"{task} is active twice: {group.members.values()}"
                    active[task] = member.process_id
                for role, tasks in (("standby", held.standby), ("warmup", held.warmup)):
                    for task in tasks:
                        holders[role].setdefault(task, set()).add(member.process_id)
        assert active == group._active._values
        assert holders["standby"] == group._standby._values
        assert holders["warmup"] == group._warmup._values
        targets = [task for target in group.targets.values() for task in target.active]
        assert len(targets) == len(set(targets)), "targets overlap"
        statics = {m.instance_id: m.member_id for m in group.members.values() if m.instance_id is not None}
        assert statics == group.static_members._values

    # ----------------------------------------------------------------- members

    async def beat(self, member: Member, *, shutdown: bool = False) -> None:
        if member.is_asking:
            return
        joins = member.epoch == 0
        owned = member.active | member.closing
        holds = (owned, member.standby)
        # In peace as the Java client does: what has changed since it was last told. Before, now and then a beat late.
        tells = joins or (holds != member.reported and (self.is_peace or self.random.random() < 0.6))
        tells = tells or self.random.random() < 0.1
        request = StreamsGroupHeartbeatRequest(
            group_id=member.group,
            member_id=member.member_id,
            member_epoch=member.epoch,
            instance_id=member.instance,
            rebalance_timeout_ms=20_000 if joins else -1,
            topology=TOPOLOGY if joins else None,
            process_id=member.process if joins else None,
            user_endpoint=Endpoint(host=member.name, port=1) if joins and self.random.random() < 0.5 else None,
            active_tasks=ids(owned) if tells else None,
            standby_tasks=ids(member.standby) if tells else None,
            warmup_tasks=[] if tells else None,
            shutdown_application=shutdown,
        )
        if self.random.random() < 0.1:
            request.task_offsets = [
                TaskOffset(subtopology_id=task.subtopology, partition=task.partition, offset=self.random.randrange(100))
                for task in sorted(member.active)
            ]
        sent_at, life = self.world.loop.time(), member.lives
        member.is_asking = True
        response: StreamsGroupHeartbeatResponse = await self.world.handle(1, request)
        if member.lives != life:
            return
        member.is_asking = False
        code = ErrorCode(response.error_code)
        self.trace.append(f"{sent_at:.3f} {member.member_id} {code.name} {response.member_epoch}")
        if code != ErrorCode.NONE:
            self.coverage[f"beat {code.name}"] += 1
            fenced = (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID)
            if code in (*fenced, ErrorCode.GROUP_ID_NOT_FOUND):
                member.reset()
            else:
                member.has_failed = True
                member.unsure_since = member.epoch if member.unsure_since is None else member.unsure_since
            member.reported = None  # as the Java client: after an error it says everything again
            return
        if tells:
            member.reported = holds
        for status in response.status or ():
            self.coverage[f"told {StatusCode(status.status_code).name}"] += 1
        if joins:
            self.coverage["joined" if member.lives == 1 else "joined again"] += 1
        member.heard_at, member.has_failed = sent_at, False
        member.epoch = response.member_epoch
        if response.active_tasks is not None:
            assert response.standby_tasks is not None
            active = task_set(response.active_tasks)
            assert active.isdisjoint(member.closing), "given a task that is being given up"
            gone = member.active - active
            self.coverage["told to give up"] += bool(gone)
            member.closing |= gone
            given = response.member_epoch if member.unsure_since is None else member.unsure_since
            member.given = {task: member.given.get(task, given) for task in active}
            member.active, member.standby = active, task_set(response.standby_tasks)
            member.unsure_since = None
        self.check_nobody_shares(member)

    def close_tasks(self, member: Member) -> None:
        self.coverage["gave up"] += bool(member.closing)
        member.closing = frozenset()

    async def leave(self, member: Member) -> None:
        if member.epoch == 0:
            return
        for_a_while = member.instance is not None and self.random.random() < 0.6
        request = StreamsGroupHeartbeatRequest(
            group_id=member.group,
            member_id=member.member_id,
            member_epoch=-2 if for_a_while else -1,
            instance_id=member.instance,
        )
        member.reset()
        response = await self.world.handle(1, request)
        if response.error_code == ErrorCode.NONE:
            self.coverage["left for a while" if for_a_while else "left"] += 1
            member.away = for_a_while

    async def commit(self, member: Member) -> None:
        """Commit one of the own tasks, sometimes with an older epoch."""
        mine = sorted(task for task in member.active if task.subtopology == "0")
        if not mine or member.epoch <= 0:
            return
        task = self.random.choice(mine)
        epoch = member.epoch if self.random.random() < 0.6 else self.random.randint(1, member.epoch + 1)
        self.offset += 1
        offset, topic = self.offset, self.world.image.topics.get("lines")
        row = OffsetCommitRequestPartition(partition_index=task.partition, committed_offset=offset)
        request = OffsetCommitRequest(
            group_id=member.group,
            generation_id_or_member_epoch=epoch,
            member_id=member.member_id,
            group_instance_id=member.instance,
            topics=[OffsetCommitRequestTopic(name="lines", partitions=[row])],
        )
        given, current, life = member.given[task], member.epoch, member.lives
        # The coordinator may have moved it on already, if it waits for an answer or has got none.
        is_current = not (member.is_asking or member.has_failed)
        response = await self.world.handle(9, request)
        if not response.topics or not response.topics[0].partitions:
            return
        is_done = response.topics[0].partitions[0].error_code == ErrorCode.NONE
        if is_done and topic is not None and self.world.image.topic_by_id(topic.topic_id) is not None:
            place = (member.group, topic.topic_id, task.partition)
            self.acknowledged[place] = max(offset, self.acknowledged.get(place, 0))
        if member.lives != life:
            return
        code = ErrorCode(response.topics[0].partitions[0].error_code)
        self.coverage[f"commit {code.name}"] += 1
        if epoch > current:
            assert code != ErrorCode.NONE or not is_current, "committed with an epoch of the future"
        elif epoch < given and member.instance is None:
            assert code != ErrorCode.NONE, f"committed {task} in epoch {epoch}, given in {given}"
            self.coverage["commit refused from before the task was given"] += code == ErrorCode.STALE_MEMBER_EPOCH

    def check_nobody_shares(self, member: Member) -> None:
        """Nobody else who is in the group in time runs, or still closes, a task of this member."""
        now = self.world.loop.time()
        for other in self.members:
            if other is member or other.group != member.group or other.epoch <= 0:
                continue
            if now - other.heard_at >= SESSION_MS / 1000 or other.away:
                continue
            shared = member.active & (other.active | other.closing)
            if shared and self.is_member(other):
                raise AssertionError(f"{sorted(shared)} at {member.member_id} and {other.member_id}")

    def is_member(self, member: Member) -> bool:
        """Whether the coordinator still counts it in (it may not have heard that it is out)."""
        group = self.world.shard().groups.get(member.group)
        known = group.members.get(member.member_id) if isinstance(group, StreamsGroup) else None
        return known is not None and known.member_epoch >= member.epoch

    # ------------------------------------------------------------- surroundings

    def disturb(self) -> None:
        random, world = self.random, self.world
        what = random.random()
        if random.random() < 0.5 and any(group.configured and group.configured.problem for group in self.groups()):
            self.mend_topics()  # or nobody would have tasks for most of the time
        elif what < 0.25:
            code = random.choice((ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_ENOUGH_REPLICAS))
            world.log.failures.append((error_for(code), random.random() < 0.3))
        elif what < 0.4:
            world.log.hold = True
            world.loop.call_later(random.random(), self.release)
        elif what < 0.5:
            self.compact()
        elif what < 0.75:
            self.change_topics()
        else:
            group = random.choice(GROUPS_OF)
            self.set_standbys(group, random.randrange(3))

    def compact(self) -> None:
        self.world.log.compact(0)
        self.coverage["compaction"] += 1

    def set_standbys(self, group: str, number: int) -> None:
        self.standbys[group] = number
        resource = ConfigResource(GROUPS, group)
        config = {"streams.num.standby.replicas": str(number)}
        self.world.image = replace(self.world.image, configs={**self.world.image.configs, resource: config})
        self.world.runtime.on_image(self.world.image, ImageDelta(changed_configs=(resource,)))
        self.coverage["standbys changed"] += 1

    def change_topics(self) -> None:
        world, random = self.world, self.random
        missing = [name for name in ("lines", "left", "right") if name not in world.image.topics]
        sizes = {len(world.image.topics[name].partitions) for name in ("left", "right") if name in world.image.topics}
        if (missing or len(sizes) > 1) and random.random() < 0.8:
            self.mend_topics()
            return
        name = random.choice(("lines", "left", "right", "words", "counts", "joined"))
        topic = world.image.topics.get(name)
        if topic is not None and random.random() < 0.5:
            self.delete_topic(name)
            self.coverage["topic deleted"] += 1
        else:
            count = min(5, len(topic.partitions) + 1) if topic is not None else random.randint(1, 4)
            number = 3_000 + random.randrange(10**6) if topic is None else int.from_bytes(topic.topic_id, "big")
            world.add_topic(name, number, count)
            self.coverage["topic grew"] += topic is not None

    def mend_topics(self) -> None:
        """Make the sources anew, and let the coordinator make the internal topics."""
        for name in ("words", "counts", "joined", "lines", "left", "right"):
            if name in self.world.image.topics:
                self.delete_topic(name)
        for name, count in (("lines", 4), ("left", 3), ("right", 3)):
            self.world.add_topic(name, 3_000 + self.random.randrange(10**6), count)

    def delete_topic(self, name: str) -> None:
        gone = self.world.image.topics[name].topic_id
        self.acknowledged = {place: offset for place, offset in self.acknowledged.items() if place[1] != gone}
        self.world.delete_topic(name)

    def release(self) -> None:
        self.world.log.hold = False
        self.world.log.release()

    async def reload(self) -> None:
        """Lose the partition and get it back: what is committed is there again."""
        if self.random.random() < 0.5:
            self.release()
            await self.world.settle()
        if self.random.random() < 0.4:
            self.compact()
        before = self.committed()
        stable = any(group.state_name() == "Stable" for group in self.groups())
        if self.world.log.lose_uncommitted():
            self.coverage["crash before the commit"] += 1
        self.world.log.hold = False
        await self.world.reload()
        assert self.committed() == before
        self.coverage["reload"] += 1
        self.coverage["crashes"] += 1
        self.coverage["reload of a stable group"] += stable

    def groups(self) -> list[StreamsGroup]:
        if 0 not in self.world.runtime.loaded_partitions:
            return []
        found = [group for _, group in self.world.shard().groups.items_committed()]
        return [group for group in found if isinstance(group, StreamsGroup)]

    def committed(self) -> dict[str, Any]:
        return {
            group.group_id: (
                group.scalars.committed,
                dict(group.members.items_committed()),
                dict(group.targets.items_committed()),
                dict(group._active.items_committed()),
                dict(group._standby.items_committed()),
                dict(group.static_members.items_committed()),
            )
            for group in self.groups()
        }

    # --------------------------------------------------------------------- run

    async def run(self) -> None:
        world, random = self.world, self.random
        for name, count in (("lines", 3), ("left", 2), ("right", 2)):
            world.add_topic(name, 10 + count + len(name), count)
        tasks: set[asyncio.Task[Any]] = set()

        def over(task: asyncio.Task[Any]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failures.append(error)

        def soon(coroutine: Any) -> None:
            task = asyncio.ensure_future(coroutine)
            tasks.add(task)
            task.add_done_callback(over)

        silent: dict[str, float] = {}
        while not self.failures and (
            self.coverage["events"] < EVENTS_MIN - EVENTS_OF_PEACE or not self.coverage["crashes"]
        ):
            await asyncio.sleep(random.choice((0.05, 0.3, 1.0)) * random.random())
            member = random.choice(self.members)
            if silent.get(member.name, 0.0) > world.loop.time():
                continue
            what = random.random()
            if member.closing and what < 0.5:
                self.close_tasks(member)
            if what < 0.02:
                silent[member.name] = world.loop.time() + random.uniform(5, 25)
                self.coverage["fell silent"] += 1
            elif what < 0.06:
                soon(self.leave(member))
            elif what < 0.07:
                member.reset()  # a thread that died; its member stays until the session ends
            elif what < 0.25:
                soon(self.commit(member))
            elif what < 0.29:
                self.disturb()
            elif what < 0.31:
                if random.random() < 0.5:
                    world.log.hold = True
                    soon(self.beat(random.choice(self.members)))
                    await world.settle()
                await self.reload()
            else:
                if member.epoch == 0 and member.away:
                    self.coverage["joined as a static member that was away"] += 1
                    member.away = False
                soon(self.beat(member, shutdown=what > 0.995)) if world.log.hold else await self.beat(
                    member, shutdown=what > 0.995
                )
        await self.settle_down(tasks)
        if self.failures:
            raise self.failures[0]

    async def settle_down(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Leave the groups in peace, on topics that fit."""
        world = self.world
        self.is_peace = True
        self.release()
        world.log.failures.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.mend_topics()
        for number in range(26):
            if number == 14:  # nothing else changes the epoch now
                for group_id in GROUPS_OF:
                    self.set_standbys(group_id, self.random.randrange(3))
            for member in self.members:
                self.close_tasks(member)
                await self.beat(member)
            await asyncio.sleep(1)
        response = await world.handle(1, StreamsGroupDescribeRequest(group_ids=list(GROUPS_OF)))
        for described in response.groups:
            assert described.group_state == "Stable", described.group_state
            alive = [member for member in self.members if member.group == described.group_id]
            wanted = (
                {TaskId("0", n) for n in range(4)}
                | {TaskId("1", n) for n in range(4)}
                | {TaskId("2", n) for n in range(3)}
            )
            run_by = Counter(task for member in alive for task in member.active)
            assert run_by == Counter(wanted)
            copies = Counter(task for member in alive for task in member.standby)
            expected = min(self.standbys[described.group_id], len({member.process for member in alive}) - 1)
            assert copies == Counter({task: expected for task in wanted if task.subtopology != "0" and expected})
            for member in alive:
                beside = [other for other in alive if other.process == member.process]
                assert not any(member.standby & other.active for other in beside), "a copy beside its task"
        self.coverage["quiet at last"] += 1


def ids(tasks: frozenset[TaskId]) -> list[TaskIds]:
    return [TaskIds(subtopology_id=name, partitions=partitions) for name, partitions in by_subtopology(tasks)]


def simulate(seed: int, coverage: Counter[str]) -> list[str]:
    """Run one seed; return its trace."""

    async def main(loop: VirtualLoop) -> list[str]:
        streams = StreamsConfig(
            session_timeout_ms=SESSION_MS, initial_rebalance_delay_ms=1_000, assignment_interval_ms=200
        )
        world = GroupWorld(loop, config=GroupConfig(streams=streams), seed=seed)
        simulation = Simulation(world, seed, coverage)
        with watching(world.runtime, coverage, simulation.check):
            return await play(world, simulation)

    async def play(world: GroupWorld, simulation: Simulation) -> list[str]:
        await world.start()
        fence = type(world.shard().streams)._fence

        def counted(self: Any, group: StreamsGroup, member: Any) -> Any:
            frame = sys._getframe(1).f_code.co_name
            coverage["session expired"] += frame == "expire"
            return fence(self, group, member)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(world.shard().streams), "_fence", counted)
            try:
                await simulation.run()
            finally:
                await world.runtime.stop()
        return simulation.trace

    trace, _ = run_virtual(seed, main)
    return trace


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; what `tests.soak.seeds` calls."""
    coverage: Counter[str] = Counter()
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
