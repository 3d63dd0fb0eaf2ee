"""Random share groups against one group coordinator: members join, lose answers, change their minds, fall silent and leave;
administrators alter and delete offsets and the group; topics come, grow and go; the share coordinator is slow and fails; the
log fails, loses what was not committed, is compacted and replayed. Everything comes from the seed.

Checked after every step, by a model that shares nothing with the coordinator:
* whoever has a partition may have it: it is initialized, which it is only when the share coordinator has its state;
* a partition that members may fetch is never begun a second time beneath them: that would forget what they acknowledged;
* the share coordinator has no state that the group does not know of, and would leave behind;
* epochs are in order, the group epoch never goes back, and a heartbeat is fenced exactly when its epoch is wrong;
* every count of a group is what its members add up to, and so is its state;
* after a reload a group is what the last record of each key says, and what it was before if nothing was in flight.
When everything is quiet every partition that is subscribed to has a member, members have about equally many, and know it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.broker.coordinators.group_world import GroupWorld
from tests.broker.coordinators.share_states import ModelPersister
from tests.support.seeds import run_covering, watching

from ottla.broker.coordinators.groups import records as group_records
from ottla.broker.coordinators.groups.config import Bounded, GroupConfig
from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
from ottla.broker.coordinators.groups.share.group import ShareGroup
from ottla.broker.share.group_states import GroupStates
from ottla.broker.share.persister import InitialState, StateResult
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.alter_share_group_offsets import (
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsRequestPartition,
    AlterShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.delete_groups import DeleteGroupsRequest
from ottla.protocol.messages.delete_share_group_offsets import (
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsRequestTopic,
)
from ottla.protocol.messages.group_records import (
    ShareGroupCurrentMemberAssignmentKey,
    ShareGroupMemberMetadataKey,
    ShareGroupMetadataKey,
    ShareGroupStatePartitionMetadataKey,
    ShareGroupTargetAssignmentMemberKey,
)
from ottla.protocol.messages.share_group_heartbeat import ShareGroupHeartbeatRequest
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import TopicIdPartition

#: The default run has many seeds, but short ones; `python -m tests.soak.seeds` runs them in full.
#: So many of the short ones are needed until everything has happened.
COVERING_SHORT = 160
EVENTS_SHORT = 60
EVENTS_MIN = 1_000
CLIENTS_MAX = 6
TOPICS = ("jobs", "mail", "news")

COVERAGE = (
    "heartbeat NONE",
    "heartbeat FENCED_MEMBER_EPOCH",
    "heartbeat UNKNOWN_MEMBER_ID",
    "heartbeat GROUP_ID_NOT_FOUND",
    "heartbeat GROUP_MAX_SIZE_REACHED",
    "heartbeat lost",
    "heartbeat with the epoch before",
    "joined again",
    "moved on",
    "leave NONE",
    "session timeout",
    "shared partition",
    "topic created",
    "topic grown",
    "topic deleted",
    "begun",
    "begun again",
    "could not begin",
    "share coordinator slow",
    "alter NONE",
    "alter NON_EMPTY_GROUP",
    "alter failed for a partition",
    "delete offsets NONE",
    "delete offsets NON_EMPTY_GROUP",
    "delete group NONE",
    "delete group NON_EMPTY_GROUP",
    "delete group failed",
    "append failed",
    "append failed after writing",
    "reload",
    "crash before the commit",
    "several batches in flight",
    "compaction",
    "converged",
)


class Client:
    """A member, as KafkaShareConsumer is one."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.member_id = f"m{number}"
        self.epoch = 0
        self.owned: set[tuple[bytes, int]] = set()
        self.names = simulation.some_topics()
        self.changed = False
        #: An answer was lost, and an assignment perhaps with it: the next heartbeat says everything, as Java's does.
        self.is_unsure = False
        self.alive = True

    async def act(self) -> None:
        random = self.simulation.random
        if self.epoch and random.random() < 0.06:
            self.names, self.changed = self.simulation.some_topics(), True
        await self.heartbeat(full=random.random() < 0.05)

    async def heartbeat(self, *, full: bool = False) -> None:
        tells = full or self.changed or self.is_unsure or self.epoch == 0
        request = ShareGroupHeartbeatRequest(
            group_id="g",
            member_id=self.member_id,
            member_epoch=self.epoch,
            subscribed_topic_names=list(self.names) if tells else None,
        )
        answer = await self.simulation.beat(request)
        self.is_unsure = answer is None or answer.error_code != ErrorCode.NONE
        if answer is None:
            return
        code = ErrorCode(answer.error_code)
        if code in (ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.GROUP_ID_NOT_FOUND):
            self.epoch, self.owned = 0, set()
        elif code == ErrorCode.GROUP_MAX_SIZE_REACHED:
            self.alive = self.simulation.is_quiet
        elif code == ErrorCode.NONE:
            self.epoch, self.changed = answer.member_epoch, self.changed and not tells
            if answer.assignment is not None:
                self.owned = {
                    (each.topic_id, partition)
                    for each in answer.assignment.topic_partitions
                    for partition in each.partitions
                }

    async def leave(self) -> None:
        if self.epoch:
            request = ShareGroupHeartbeatRequest(group_id="g", member_id=self.member_id, member_epoch=-1)
            await self.simulation.beat(request, "leave")
        self.alive = False


class WatchedPersister(ModelPersister):
    """Looks at what is asked of it."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation

    async def initialize(self, group_id: str, partitions: Any) -> list[StateResult]:
        simulation = self._simulation
        await asyncio.sleep(simulation.random.choice([0, 0, 0.05]))
        simulation.on_initialize(partitions)
        if self.hold:
            simulation.count("share coordinator slow")
        known = [(group_id, state.topic_id_partition) in self.states for state in partitions]
        results = await super().initialize(group_id, partitions)
        for was_known, result in zip(known, results, strict=True):
            if result.error_code:
                simulation.count("could not begin")
            else:
                simulation.count("begun again" if was_known else "begun")
        return results


class Simulation:
    """One seed."""

    def __init__(self, world: GroupWorld, seed: int, counters: Counter[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.counters = counters
        self.persister = WatchedPersister(self)
        self.clients: list[Client] = []
        self.number = 0
        self.topic_number = 0
        self.is_quiet = False
        self.epoch_seen = 0
        #: Where the coordinator was at the last look.
        self.looked_at: Any = None
        self.seen: ShareGroup | None = None
        self.admins: set[asyncio.Task[None]] = set()
        #: The coordinators there have been, for their counters.
        self.shards: list[GroupCoordinator] = []
        self.plug_in()

    def plug_in(self) -> None:
        """Give the handlers a new broker's hands."""
        world = self.world
        world.group_states = GroupStates(world.runtime, self.persister, forget=world.forgotten.append)
        world.shares._states = world.share_offsets._states = world.group_states
        world.share_offsets._persister = self.persister
        world.groups._deleting_shares = world.group_states.deleting_groups

    # ---------------------------------------------------------------- helpers

    def count(self, what: str) -> None:
        self.counters[what] += 1

    def some_topics(self) -> list[str]:
        return sorted(self.random.sample(TOPICS, self.random.choice([1, 2, 3, 3])))

    @property
    def is_active(self) -> bool:
        return 0 in self.world.runtime.loaded_partitions

    @property
    def group(self) -> ShareGroup | None:
        group = self.world.shard().groups.get("g") if self.is_active else None
        return group if isinstance(group, ShareGroup) else None

    @property
    def is_settled(self) -> bool:
        if not self.is_active:
            return False
        held = self.world.runtime._held[0]
        return held.pipeline.is_idle and not self.world.log.failures

    async def beat(self, request: ShareGroupHeartbeatRequest, what: str = "heartbeat") -> Any:
        """Send a heartbeat; None if the answer is lost."""
        expected = self.expected(request) if self.is_settled and not self.world.log.hold else None
        member = None if self.group is None else self.group.members.get(request.member_id)
        if member is not None and expected == ErrorCode.NONE and 0 < request.member_epoch < member.member_epoch:
            self.count("heartbeat with the epoch before")
        if member is not None and request.member_epoch == 0:
            self.count("joined again")
        answer = await self.world.handle(1, request)
        code = ErrorCode(answer.error_code)
        self.count(f"{what} {code.name}")
        if expected is not None:
            assert code == expected, f"{code.name} instead of {expected.name} for epoch {request.member_epoch}"
        if code == ErrorCode.NONE and 0 < request.member_epoch < answer.member_epoch:
            self.count("moved on")
        if not self.is_quiet and self.random.random() < 0.08:
            self.count(f"{what} lost")
            return None
        return answer

    def expected(self, request: ShareGroupHeartbeatRequest) -> ErrorCode:
        """What the coordinator should answer, said by KIP-932."""
        group, epoch = self.group, request.member_epoch
        member = None if group is None else group.members.get(request.member_id)
        if epoch == 0:
            is_full = group is not None and member is None and len(group.members) >= CONFIG.share_size_max
            return ErrorCode.GROUP_MAX_SIZE_REACHED if is_full else ErrorCode.NONE
        if group is None:
            return ErrorCode.GROUP_ID_NOT_FOUND
        if member is None:
            is_full = epoch > 0 and len(group.members) >= CONFIG.share_size_max
            return ErrorCode.GROUP_MAX_SIZE_REACHED if is_full else ErrorCode.UNKNOWN_MEMBER_ID
        if epoch < 0 or epoch in (member.member_epoch, member.previous_member_epoch):
            return ErrorCode.NONE
        return ErrorCode.FENCED_MEMBER_EPOCH

    # ------------------------------------------------------------------ steps

    async def step(self) -> None:
        random = self.random.random()
        if random < 0.66 and self.clients:
            await self.random.choice(self.clients).act()
        elif random < 0.76:
            self.arrive()
        elif random < 0.81 and self.clients:
            await self.depart(self.random.choice(self.clients))
        elif random < 0.83:
            await self.impostor()
        elif random < 0.88:
            self.administer()
        elif random < 0.90:
            self.change_topics()
        elif random < 0.92:
            self.persister.failures.append(self.random.choice((ErrorCode.NOT_COORDINATOR, ErrorCode.REQUEST_TIMED_OUT)))
        elif random < 0.935:
            self.persister.hold = True
        elif random < 0.945:
            written = self.random.random() < 0.1
            self.world.log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), written))
            self.count("append failed after writing" if written else "append failed")
        elif random < 0.955:
            await self.crash()
        elif random < 0.965:
            await self.reload(compact=self.random.random() < 0.7)
        elif random < 0.97:
            await self.slow()
        else:
            await asyncio.sleep(self.random.choice([0.1, 0.3, 1.0, 1.0, 2.5, 7.0]))
        if self.persister.hold and self.random.random() < 0.1:
            self.persister.release()
        self.clients = [client for client in self.clients if client.alive]

    def arrive(self) -> None:
        if len(self.clients) < CLIENTS_MAX:
            self.number += 1
            self.clients.append(Client(self, self.number))

    async def depart(self, client: Client) -> None:
        if self.random.random() < 0.3:
            # All go: now administrators may do something.
            for each in self.clients:
                await each.leave()
            self.administer()
            self.administer()
        elif self.random.random() < 0.4:
            client.alive = False  # gone without a word
        else:
            await client.leave()

    async def impostor(self) -> None:
        """Somebody with an epoch of the past or the future."""
        client = self.random.choice(self.clients) if self.clients else None
        epoch = max((0 if client is None else client.epoch) + self.random.choice([-3, -2, 2, 5]), 1)
        member_id = "nobody" if client is None else self.random.choice([client.member_id, client.member_id, "nobody"])
        await self.beat(ShareGroupHeartbeatRequest(group_id="g", member_id=member_id, member_epoch=epoch))

    def administer(self) -> None:
        """An administrator's request, which may take its time."""
        what = self.random.choice((self.alter, self.delete_offsets, self.delete_group))
        task = asyncio.ensure_future(what())
        self.admins.add(task)
        task.add_done_callback(self.admins.discard)

    async def alter(self) -> None:
        image = self.world.image
        topics = [
            AlterShareGroupOffsetsRequestTopic(
                topic_name=name,
                partitions=[
                    AlterShareGroupOffsetsRequestPartition(
                        partition_index=index, start_offset=self.random.randint(0, 9)
                    )
                    for index in range(len(image.topics[name].partitions))
                ],
            )
            for name in self.some_topics()
            if name in image.topics
        ]
        answer = await self.world.handle(0, AlterShareGroupOffsetsRequest(group_id="g", topics=topics))
        self.count(f"alter {ErrorCode(answer.error_code).name}")
        if any(row.error_code for topic in answer.responses for row in topic.partitions):
            self.count("alter failed for a partition")

    async def delete_offsets(self) -> None:
        topics = [DeleteShareGroupOffsetsRequestTopic(topic_name=name) for name in self.some_topics()]
        answer = await self.world.handle(0, DeleteShareGroupOffsetsRequest(group_id="g", topics=topics))
        self.count(f"delete offsets {ErrorCode(answer.error_code).name}")

    async def delete_group(self) -> None:
        answer = await self.world.handle(3, DeleteGroupsRequest(groups_names=["g"]))
        code = ErrorCode(answer.results[0].error_code)
        known = code in (ErrorCode.NONE, ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND)
        self.count(f"delete group {code.name}" if known else "delete group failed")

    def change_topics(self) -> None:
        topics = self.world.image.topics
        name = self.random.choice(TOPICS)
        if name not in topics:
            self.topic_number += 1
            self.world.add_topic(name, self.topic_number, self.random.randint(1, 4))
            self.count("topic created")
        elif self.random.random() < 0.5:
            number = int.from_bytes(topics[name].topic_id, "big")
            self.world.add_topic(name, number, len(topics[name].partitions) + 1)
            self.count("topic grown")
        elif not self.world.log.failures and not self.persister.hold:
            self.world.delete_topic(name)
            self.count("topic deleted")

    async def slow(self) -> None:
        """Commits take their time: several batches are in flight, and the high watermark moves in steps."""
        if not self.is_active:
            return
        log = self.world.log
        log.hold = True
        acting = []
        for client in self.random.sample(self.clients, min(4, len(self.clients))):
            if self.random.random() < 0.1:
                log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), False))
                self.count("append failed")
            acting.append(asyncio.ensure_future(client.act()))
            await self.world.settle()
        log.commit_up_to(0, self.random.randint(log.high_watermark("", 0), log.end_offset("", 0)))
        await self.world.settle()
        log.hold = False
        log.release()
        for each in acting:
            await each

    async def crash(self) -> None:
        """Requests are under way when the broker dies and what was not committed is lost."""
        if not self.is_active:
            return
        self.world.log.hold = True
        some = self.random.sample(self.clients, min(3, len(self.clients)))
        acting = [asyncio.ensure_future(client.act()) for client in some]
        self.administer()
        await self.world.settle()
        lost = self.world.log.lose_uncommitted()
        self.world.log.hold = False
        self.world.runtime.on_resign(0)
        for admin in self.admins:
            admin.cancel()
        await self.world.group_states.stop()
        self.persister.release()
        self.plug_in()
        self.world.runtime.on_leader(0, 1)
        await self.world.settle()
        for each in acting:
            await each
        self.counters["crashes"] += 1
        if lost:
            self.count("crash before the commit")
        self.seen = None

    async def reload(self, *, compact: bool) -> None:
        """The coordinator moves; what is under way elsewhere goes on."""
        if not self.is_active:
            return
        await self.world.settle()
        is_settled = self.is_settled and not self.admins
        before = durable(self.group)
        if compact and is_settled:
            self.world.log.compact(0)
            self.count("compaction")
        await self.world.reload()
        self.count("reload")
        self.counters["crashes"] += 1
        if is_settled and not self.world.group_states._tasks:
            assert durable(self.group) == before
        self.seen = None
        self.check_records()

    # ------------------------------------------------------------- invariants

    def on_initialize(self, partitions: list[InitialState]) -> None:
        group = self.group
        if group is None:
            return
        for state in partitions:
            if state.start_offset == -1:
                known = group.states.value.initialized.get(state.topic_id_partition.topic_id)
                assert known is None or state.topic_id_partition.partition not in known.partitions, (
                    f"{state.topic_id_partition} begins beneath"
                )

    def exists(self, topic_id: bytes) -> bool:
        return self.world.image.topic_by_id(topic_id) is not None

    def check(self) -> None:
        group = self.group
        if group is None:
            self.seen = None
            return
        timeline = self.world.runtime._held[0].timeline
        now = (group, timeline.epoch, len(timeline._undo), len(self.admins), len(self.world.group_states._tasks))
        if now == self.looked_at:
            return
        self.looked_at = now
        for states in (group.states.value, group.states.committed):
            for topic_id, topic in states.initialized.items():
                for partition in topic.partitions:
                    topic_id_partition = ("g", TopicIdPartition(topic_id, partition))
                    assert topic_id_partition in self.persister.states, (
                        f"{topic.name}-{partition} is initialized, but has no state"
                    )
        initialized = group.states.value.assignable
        holders: Counter[tuple[bytes, int]] = Counter()
        for member in group.members.values():
            for topic_id, partitions in member.assigned.items():
                holders.update((topic_id, partition) for partition in partitions)
                if self.exists(topic_id):
                    assert partitions <= initialized.get(topic_id, frozenset()), f"{member} has what has not begun"
            assert member.previous_member_epoch <= member.member_epoch <= group.epochs.value.assignment_epoch
        self.counters["shared partition"] += any(count > 1 for count in holders.values())
        epochs = group.epochs.value
        assert epochs.assignment_epoch <= epochs.group_epoch
        if self.seen is group:
            assert group.epochs.committed.group_epoch >= self.epoch_seen, "the group epoch has gone back"
        self.seen, self.epoch_seen = group, group.epochs.committed.group_epoch
        subscribed = Counter(name for member in group.members.values() for name in member.topic_names)
        assert subscribed == dict(group._topics.items())
        assert set(group.targets) <= set(group.members)
        if timeline.is_clean:
            assert group.state_name() == ("Stable" if len(group.members) else "Empty")
        if self.is_settled and not self.admins and not self.world.group_states._tasks:
            self.check_nothing_left(group)

    def check_nothing_left(self, group: ShareGroup) -> None:
        states = group.states.value
        for group_id, topic_id_partition in self.persister.states:
            if group_id == "g" and self.exists(topic_id_partition.topic_id):
                known = any(
                    topic_id_partition.topic_id in topics
                    and topic_id_partition.partition in topics[topic_id_partition.topic_id].partitions
                    for topics in (states.initialized, states.initializing)
                )
                assert known or topic_id_partition.topic_id in states.deleting, f"{topic_id_partition} is left over"

    def check_records(self) -> None:
        """The group is what the last record of every key says, read without the coordinator."""
        group = self.group
        last: dict[Any, Any] = {}
        for record in self.world.log.records(0):
            assert record.key is not None
            decoded = group_records.decode(record.key, record.value)
            assert decoded is not None
            last[record.key] = decoded
        for key, value, _ in last.values():
            if isinstance(key, ShareGroupMetadataKey) and value is not None:
                assert group is not None
                assert group.epochs.value.group_epoch == value.epoch
            elif isinstance(key, ShareGroupMemberMetadataKey):
                assert (value is None) == (group is None or key.member_id not in group.members)
                if group is not None and value is not None:
                    assert sorted(group.members[key.member_id].topic_names) == value.subscribed_topic_names
            elif isinstance(key, ShareGroupCurrentMemberAssignmentKey) and value is not None:
                assert group is not None
                assert group.members[key.member_id].member_epoch == value.member_epoch
            elif isinstance(key, ShareGroupTargetAssignmentMemberKey):
                assert (value is None) == (group is None or key.member_id not in group.targets)
            elif isinstance(key, ShareGroupStatePartitionMetadataKey) and value is not None:
                assert group is not None
                found = {each.topic_id: frozenset(each.partitions) for each in value.initialized_topics}
                assert group.states.value.assignable == found

    # ------------------------------------------------------------ convergence

    async def converge(self) -> None:
        """Let everything be quiet: then every partition has somebody."""
        self.is_quiet = True
        self.world.log.failures.clear()
        self.persister.failures.clear()
        self.persister.release()
        await asyncio.gather(*self.admins)
        self.clients = self.clients[: CONFIG.share_size_max]
        while not self.clients:
            self.arrive()
        for _ in range(60):
            await asyncio.sleep(1)
            for client in self.clients:
                await client.heartbeat()
            await self.world.settle()
            self.check()
            if self.has_converged():
                self.count("converged")
                return
        group = self.group
        shown = None if group is None else (list(group.members.values()), group.epochs.value, group.states.value)
        raise AssertionError(f"the group does not settle: {shown}, clients {[vars(c) for c in self.clients]}")

    def has_converged(self) -> bool:
        group, image = self.group, self.world.image
        if group is None or set(group.members) != {client.member_id for client in self.clients}:
            return False
        wanted = {
            (image.topics[name].topic_id, partition)
            for client in self.clients
            for name in client.names
            if name in image.topics
            for partition in range(len(image.topics[name].partitions))
        }
        if {topic_id_partition for client in self.clients for topic_id_partition in client.owned} != wanted:
            return False
        counts = [len(client.owned) for client in self.clients]
        is_homogeneous = len({tuple(client.names) for client in self.clients}) == 1
        return not is_homogeneous or max(counts) - min(counts) <= 1


def durable(group: ShareGroup | None) -> Any:
    if group is None:
        return None
    return (
        dict(group.members.items()),
        dict(group.targets.items()),
        group.epochs.value,
        group.states.value,
    )


CONFIG = replace(
    GroupConfig(),
    share_session_timeout_ms=Bounded("share.session.timeout.ms", 6_000, 1, 60_000),
    share_heartbeat_interval_ms=Bounded("share.heartbeat.interval.ms", 1_000, 1, 60_000),
    share_assignment_interval_ms=Bounded("share.assignment.interval.ms", 500, 0, 60_000),
    share_size_max=CLIENTS_MAX - 1,
    share_initialize_retry_interval_ms=3_000,
)


def run_seed(seed: int, events: int = EVENTS_MIN) -> Counter[str]:
    """Run one seed; returns what happened."""
    counters: Counter[str] = Counter()

    async def main(loop: VirtualLoop) -> None:
        world = GroupWorld(loop, config=CONFIG, seed=seed)
        simulation = Simulation(world, seed, counters)
        make_shard = world.runtime._shard_factory

        def kept(partition: int, timeline: Any, timers: Any) -> Any:
            shard = make_shard(partition, timeline, timers)
            simulation.shards.append(shard)
            return shard

        world.runtime._shard_factory = kept
        with watching(world.runtime, counters, simulation.check):
            await play(world, simulation)

    async def play(world: GroupWorld, simulation: Simulation) -> None:
        await world.start()
        simulation.change_topics()
        while counters["events"] < events or not counters["crashes"]:
            await simulation.step()
            simulation.check()
        await simulation.converge()
        for shard in simulation.shards:
            counters["session timeout"] += shard.shares.fenced
        await world.group_states.stop()
        await world.runtime.stop()

    run_virtual(seed, main)
    return counters


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Short:
    """The same simulation with fewer events in a seed: what the default tests run."""

    COVERAGE = COVERAGE
    EVENTS_MIN = 1

    @staticmethod
    def run_seed(seed: int) -> Counter[str]:
        return run_seed(seed, EVENTS_SHORT)


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(Short, COVERING_SHORT)


def test_the_same_seed_does_the_same() -> None:
    assert run_seed(7, 300) == run_seed(7, 300)
