"""Random groups of the consumer protocol (KIP-848), with members of the classic protocol among them, against one coordinator:
members join, change their minds, lose answers, fall silent, crash, come back and leave; topics come, grow and go; the log
fails, loses what was not committed, is compacted and replayed. Everything comes from the seed.

Checked after every step, by a model that shares nothing with the coordinator:
* a partition is held by one member at most, and what a client believes to own is held by it (I7);
* targets of members do not overlap, and epochs are in order; the group epoch never goes back;
* every count and index of a group is what its members add up to, and so is its state;
* a commit is taken only from a member, with its epoch or one at which it had the partition already (I7);
* a member that is heard of in time stays in the group, one that does not give up in time what it should does not;
* no acknowledged commit is lost or goes back, whatever becomes of the group (I8);
* after a reload a group is what the last record of each key says, and what it was before if nothing was in flight (I9).
When everything is quiet, every partition subscribed to has one owner, who knows it, and the group is Stable.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.broker.coordinators.consumer_clients import MODERN_SESSION_MS, REBALANCE_MS, ClassicClient, ModernClient
from tests.broker.coordinators.group_world import GroupWorld
from tests.support.seeds import further_seeds, run_covering, run_seeds, watching

from ottla.broker.coordinators.groups import records as group_records
from ottla.broker.coordinators.groups.classic.group import ClassicGroup
from ottla.broker.coordinators.groups.classic.states import GroupState
from ottla.broker.coordinators.groups.config import Bounded, GroupConfig
from ottla.broker.coordinators.groups.consumer.group import ConsumerGroup
from ottla.broker.coordinators.groups.consumer.member import ConsumerMember, MemberState
from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
from ottla.errors import ErrorCode, error_for
from ottla.protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from ottla.protocol.messages.group_records import (
    ConsumerGroupCurrentMemberAssignmentKey,
    ConsumerGroupMemberMetadataKey,
    ConsumerGroupMetadataKey,
    ConsumerGroupTargetAssignmentMemberKey,
)
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

EVENTS_MIN = 1_000
CLIENTS_MAX = 6
TOPICS = ("a1", "a2", "b1")
REGEXES = ("a.*", "b.*", "[ab]1", ".*2")
#: Of a group that no record gives an epoch: its members subscribe to nothing yet. Kafka's (ModernGroup).
FIRST_EPOCH = 1

Client = ModernClient | ClassicClient

COVERAGE = (
    "heartbeat NONE",
    "heartbeat FENCED_MEMBER_EPOCH",
    "heartbeat UNKNOWN_MEMBER_ID",
    "heartbeat FENCED_INSTANCE_ID",
    "heartbeat UNRELEASED_INSTANCE_ID",
    "heartbeat GROUP_ID_NOT_FOUND",
    "heartbeat GROUP_MAX_SIZE_REACHED",
    "heartbeat INVALID_REGULAR_EXPRESSION",
    "heartbeat lost",
    "moved on",
    "leave NONE",
    "static member away",
    "static member back",
    "join NONE",
    "join MEMBER_ID_REQUIRED",
    "sync NONE",
    "sync REBALANCE_IN_PROGRESS",
    "classic heartbeat NONE",
    "classic heartbeat REBALANCE_IN_PROGRESS",
    "classic leave NONE",
    "upgrade",
    "downgrade",
    "revoking",
    "waiting for others",
    "session or rebalance timeout",
    "regex resolved",
    "topic created",
    "topic grown",
    "topic deleted",
    "commit NONE",
    "commit with an earlier epoch",
    "commit STALE_MEMBER_EPOCH",
    "commit UNKNOWN_MEMBER_ID",
    "append failed",
    "append failed after writing",
    "reload",
    "crash before the commit",
    "several batches in flight",
    "compaction",
    "converged",
)


class Simulation:
    """One seed."""

    def __init__(self, world: GroupWorld, seed: int, counters: Counter[str]) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.counters = counters
        self.is_cooperative = seed % 3 == 0
        self.clients: list[Client] = []
        self.away: list[str] = []
        self.number = 0
        self.topic_number = 0
        self.is_quiet = False
        self.epoch_seen = 0
        self.seen: ConsumerGroup | None = None
        #: What has been committed and answered, by topic name and id, and partition.
        self.acknowledged: dict[tuple[str, bytes, int], int] = {}
        self.offset = 0
        #: Members that have to give something up, as they are, and until when they may stay so.
        self.giving_up: dict[str, tuple[ConsumerMember, ConsumerGroup, float]] = {}
        self.failed_appends = 0
        #: The coordinators there have been, for their counters.
        self.shards: list[GroupCoordinator] = []

    # ---------------------------------------------------------------- helpers

    def unique(self) -> int:
        self.number += 1
        return self.number

    def count(self, what: str) -> None:
        self.counters[what] += 1

    def some_topics(self) -> list[str]:
        return sorted(self.random.sample(TOPICS, self.random.choice([0, 1, 2, 3, 3])))

    def some_regex(self) -> str | None:
        if self.is_quiet or self.random.random() < 0.7:
            return self.random.choice(["", None])
        return "x**" if self.random.random() < 0.1 else self.random.choice(REGEXES)

    @property
    def is_active(self) -> bool:
        return 0 in self.world.runtime.loaded_partitions

    @property
    def group(self) -> ConsumerGroup | None:
        group = self.world.shard().groups.get("g") if self.is_active else None
        return group if isinstance(group, ConsumerGroup) else None

    async def ask(self, version: int, request: Any, what: str) -> Any:
        """Send a request; None if the answer is lost."""
        answer = await self.world.handle(version, request)
        code = ErrorCode(answer.error_code)
        self.count(f"{what} {code.name}")
        if isinstance(request, ConsumerGroupHeartbeatRequest) and code == ErrorCode.NONE:
            if request.member_epoch > 0 and answer.member_epoch > request.member_epoch:
                self.count("moved on")
            if request.member_epoch == -2:
                self.count("static member away")
        if not self.is_quiet and self.random.random() < 0.08:
            self.count(f"{what} lost")
            return None
        return answer

    # ------------------------------------------------------------------ steps

    async def step(self) -> None:
        random = self.random.random()
        if random < 0.66 and self.clients:
            await self.random.choice(self.clients).act()
        elif random < 0.76:
            self.arrive()
        elif random < 0.81 and self.clients:
            await self.depart(self.random.choice(self.clients))
        elif random < 0.89 and self.clients:
            await self.commit(self.random.choice(self.clients))
        elif random < 0.91:
            await self.impostor()
        elif random < 0.93:
            self.change_topics()
        elif random < 0.94:
            written = self.random.random() < 0.1
            self.world.log.failures.append((error_for(ErrorCode.NOT_ENOUGH_REPLICAS), written))
            self.count("append failed after writing" if written else "append failed")
        elif random < 0.943:
            await self.crash()
        elif random < 0.947:
            await self.reload(compact=self.random.random() < 0.7)
        elif random < 0.952:
            await self.slow()
        else:
            await asyncio.sleep(self.random.choice([0.1, 0.3, 1.0, 1.0, 2.5, 5.5, 10.0]))
        self.clients = [client for client in self.clients if client.alive]

    def arrive(self) -> None:
        if len(self.clients) >= CLIENTS_MAX:
            return
        instance = None
        if self.away and self.random.random() < 0.6:
            instance = self.away.pop()
            self.count("static member back")
        elif self.random.random() < 0.3:
            instance = f"i{self.random.randrange(3)}"
        made = ClassicClient if self.random.random() < 0.35 else ModernClient
        self.clients.append(made(self, self.unique(), instance))

    async def depart(self, client: Client) -> None:
        if self.random.random() < 0.4:
            # Gone without a word.
            client.owned = set()
            client.alive = False
            if isinstance(client, ClassicClient) and client.joining is not None:
                client.joining.cancel()
            return
        for_good = client.instance is None or self.random.random() < 0.3
        if not for_good and client.instance is not None:
            self.away.append(client.instance)
        await client.leave(for_good=for_good)

    async def impostor(self) -> None:
        """Somebody with an epoch of the past or the future."""
        modern = [client for client in self.clients if isinstance(client, ModernClient) and client.epoch > 0]
        if not modern:
            return
        client = self.random.choice(modern)
        epoch = client.epoch + self.random.choice([-3, -2, 2, 5])
        request = ConsumerGroupHeartbeatRequest(
            group_id="g",
            member_id=self.random.choice([client.member_id, "nobody"]),
            member_epoch=max(epoch, 1),
            topic_partitions=[],
        )
        if self.group is not None and client.member_id in self.group.members:
            known = self.group.members[client.member_id]
            if request.member_id == client.member_id and request.member_epoch in (
                known.member_epoch,
                known.previous_member_epoch,
            ):
                return  # that would be the member itself
        await self.ask(1, request, "heartbeat")

    async def commit(self, client: Client) -> None:
        if not client.owned:
            return
        topic_id, partition = self.random.choice(sorted(client.owned))
        topic = self.world.image.topic_by_id(topic_id)
        if topic is None or partition >= len(topic.partitions):
            return
        modern = isinstance(client, ModernClient)
        epoch = client.epoch if isinstance(client, ModernClient) else client.generation
        told = epoch - self.random.choice([0, 0, 0, 1, 3]) if modern else epoch
        member_id = client.member_id if self.random.random() < 0.9 else "nobody"
        group = self.group
        known = None if group is None else group.members.get(member_id)
        self.offset += 1
        offset = self.offset
        answer = await self.world.handle(
            9,
            OffsetCommitRequest(
                group_id="g",
                member_id=member_id,
                generation_id_or_member_epoch=told,
                topics=[
                    OffsetCommitRequestTopic(
                        name=topic.name,
                        partitions=[OffsetCommitRequestPartition(partition_index=partition, committed_offset=offset)],
                    )
                ],
            ),
        )
        code = ErrorCode(answer.topics[0].partitions[0].error_code)
        self.count(f"commit {code.name}")
        if code == ErrorCode.NONE and self.world.image.topic_by_id(topic_id) is not None:
            place = (topic.name, topic_id, partition)
            self.acknowledged[place] = max(offset, self.acknowledged.get(place, 0))
        if group is None or code not in (ErrorCode.NONE, ErrorCode.STALE_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID):
            return
        if known is None:
            allowed = group.is_empty and told < 0
        elif told == known.member_epoch:
            allowed = True
        else:
            epochs = {**known.assigned.get(topic_id, {}), **known.revoking.get(topic_id, {})}
            allowed = told < known.member_epoch and partition in epochs and epochs[partition] <= told
            if allowed:
                self.count("commit with an earlier epoch")
        assert (code == ErrorCode.NONE) == allowed, f"commit {code.name} with {told} by {known}"

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
        else:
            self.acknowledged = {place: offset for place, offset in self.acknowledged.items() if place[0] != name}
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
        """Requests are under way when the broker loses what was not committed."""
        if not self.is_active:
            return
        self.world.log.hold = True
        acting = [
            asyncio.ensure_future(client.act())
            for client in self.random.sample(self.clients, min(3, len(self.clients)))
        ]
        await self.world.settle()
        lost = self.world.log.lose_uncommitted()
        self.world.log.hold = False
        self.world.runtime.on_resign(0)
        self.world.runtime.on_leader(0, 1)
        await self.world.settle()
        for each in acting:
            await each
        self.counters["crashes"] += 1
        if lost:
            self.count("crash before the commit")
        self.seen = None

    async def reload(self, *, compact: bool) -> None:
        if not self.is_active:
            return
        await self.world.settle()
        held = self.world.runtime._held[0]
        is_settled = held.pipeline.is_idle and not self.world.log.failures
        before = durable(self.group)
        if compact and is_settled:
            self.world.log.compact(0)
            self.count("compaction")
        await self.world.reload()
        self.count("reload")
        self.counters["crashes"] += 1
        if is_settled and not any(isinstance(client, ClassicClient) and client.joining for client in self.clients):
            assert durable(self.group) == before
        self.seen = None
        self.check_records()

    # ------------------------------------------------------------- invariants

    def check_offsets(self) -> None:
        if not self.is_active:
            return
        offsets = self.world.shard().offsets._by_group.get("g")
        for (topic, _, partition), offset in self.acknowledged.items():
            committed = None if offsets is None else offsets.get((topic, partition))
            assert committed is not None, f"{topic}-{partition}: {offset} is lost"
            assert committed.offset >= offset, f"{topic}-{partition}: {offset} went back to {committed.offset}"

    def check(self) -> None:
        self.check_offsets()
        group = self.group
        if group is None:
            self.seen = None
            return
        if self.counters["events"] % 5 == 0 or self.is_quiet:
            self.check_sums(group)
        self.check_patience(group)
        holders: dict[tuple[bytes, int], str] = {}
        for member in group.members.values():
            for owned in (member.assigned, member.revoking):
                for topic_id, epochs in owned.items():
                    for partition in epochs:
                        assert (topic_id, partition) not in holders, f"{topic_id!r}-{partition} has two holders"
                        holders[topic_id, partition] = member.member_id
            if member.state is MemberState.UNREVOKED_PARTITIONS:
                self.count("revoking")
            elif member.state is MemberState.UNRELEASED_PARTITIONS:
                self.count("waiting for others")
            assert member.member_epoch <= group.assignment_epoch, member
        assert holders == dict(group._holders.items())
        assert group.assignment_epoch <= group.group_epoch
        targets = [(t, p) for target in group.targets.values() for t, parts in target.items() for p in parts]
        assert len(targets) == len(set(targets)), "targets overlap"
        for client in self.clients:
            if client.alive and client.keeps_what_it_owns and client.member_id in group.members:
                strange = {
                    place
                    for place in client.owned
                    if holders.get(place) != client.member_id and self.world.image.topic_by_id(place[0]) is not None
                }
                assert not strange, f"{client.member_id} believes to own {strange}"
        if self.seen is group:
            assert group.committed_epochs.group_epoch >= self.epoch_seen
        self.seen, self.epoch_seen = group, group.committed_epochs.group_epoch

    def must_give_up(self, member_id: str) -> bool:
        """Whether the coordinator waits for this member, as far as can be seen."""
        group = self.group
        member = None if group is None else group.members.get(member_id)
        return member is None or member.state is MemberState.UNREVOKED_PARTITIONS

    def check_patience(self, group: ConsumerGroup) -> None:
        """Who does not give up in time what is not its own any more is thrown out."""
        now, patience = self.world.loop.time(), REBALANCE_MS / 1000 + 0.1
        failed = self.counters["append failed"] + self.counters["append failed after writing"]
        failed -= len(self.world.log.failures)
        # An append that failed may have been the one that threw somebody out: that begins anew.
        more = (failed - self.failed_appends) * patience
        self.failed_appends = failed
        waited_for: dict[str, tuple[ConsumerMember, ConsumerGroup, float]] = {}
        for member in group.members.values():
            is_away = member.member_epoch < 0  # a static member that left for a while
            if member.state is not MemberState.UNREVOKED_PARTITIONS or member.uses_classic_protocol or is_away:
                continue
            before, seen_in, until = self.giving_up.get(member.member_id, (None, None, 0.0))
            until = until + more if before == member and seen_in is group else now + patience
            waited_for[member.member_id] = (member, group, until)
            assert now <= until, f"{member.member_id} gives nothing up: time was until {until}, now it is {now}"
        self.giving_up = waited_for

    def check_sums(self, group: ConsumerGroup) -> None:
        members = group.members.values()
        topics: Counter[str] = Counter()
        regexes: Counter[str] = Counter()
        stable: Counter[int] = Counter()
        for member in members:
            topics.update(member.topic_names)
            if member.topic_regex:
                regexes[member.topic_regex] += 1
            if member.state is MemberState.STABLE:
                stable[member.member_epoch] += 1
        for resolved in group.regexes.values():
            topics.update(resolved.topics)
        assert topics == dict(group._topics.items())
        assert regexes == dict(group._regex_members.items())
        assert stable == dict(group._stable.items())
        assert group.epochs.classic_members == sum(member.uses_classic_protocol for member in members)
        statics = {member.instance_id: member.member_id for member in members if member.instance_id is not None}
        assert statics == dict(group.static_members.items())
        if self.world.runtime._held[0].timeline.is_clean:
            assert group.state_name() == expected_state(group)

    def check_records(self) -> None:
        """The group is what the last record of every key says, read without the coordinator."""
        group = self.group
        last: dict[Any, Any] = {}
        for record in self.world.log.records(0):
            if record.key is None:
                continue
            decoded = group_records.decode(record.key, record.value)
            assert decoded is not None
            last[record.key] = decoded
        epoch: int | None = None
        for decoded in last.values():
            key, value, _ = decoded
            if isinstance(key, ConsumerGroupMetadataKey):
                epoch = None if value is None else value.epoch
            elif isinstance(key, ConsumerGroupMemberMetadataKey):
                assert (value is None) == (group is None or key.member_id not in group.members)
                if group is not None and value is not None:
                    member = group.members[key.member_id]
                    assert (sorted(member.topic_names), member.instance_id) == (
                        value.subscribed_topic_names,
                        value.instance_id,
                    )
            elif isinstance(key, ConsumerGroupCurrentMemberAssignmentKey) and value is not None:
                assert group is not None
                member = group.members[key.member_id]
                assert (member.member_epoch, member.state) == (value.member_epoch, value.state)
            elif isinstance(key, ConsumerGroupTargetAssignmentMemberKey):
                assert (value is None) == (group is None or key.member_id not in group.targets)
        # A group is made by any of its records: by a member's alone if that subscribes to nothing yet, also in the place of a
        # group that was deleted.
        if epoch is not None:
            assert group is not None
        assert group is None or group.group_epoch == (FIRST_EPOCH if epoch is None else epoch)

    # ------------------------------------------------------------ convergence

    async def converge(self) -> None:
        """Let everything be quiet: then the group settles."""
        self.is_quiet = True
        self.world.log.failures.clear()
        for client in self.clients:
            if isinstance(client, ModernClient):
                client.regex, client.changed = "", True
        for _ in range(60):
            await asyncio.sleep(0.5)
            self.clients = [client for client in self.clients if client.alive]
            for client in self.clients:
                if isinstance(client, ModernClient):
                    client.owned &= client.told
                    await client.heartbeat()
                else:
                    await client.act()
            self.check()
            if self.has_converged():
                self.count("converged")
                return
        members = [] if self.group is None else self.group.members.values()
        shown: list[Any] = [(m.member_id, m.member_epoch, m.state.name, m.assigned, m.instance_id) for m in members]
        other = self.world.classic_group("g")
        if other is not None:
            shown = [other.state, other.generation_id, list(other.members), other.pending_joins, other.static_members]
        clients = [(c.member_id, c.instance, c.names, c.owned, vars(c)) for c in self.clients]
        raise AssertionError(f"the group does not settle: members {shown}, clients {clients}")

    def has_converged(self) -> bool:
        shard = self.world.shard()
        group = shard.groups.get("g")
        if group is None or not self.clients:
            return not self.clients
        image = self.world.image
        wanted: set[tuple[bytes, int]] = set()
        for client in self.clients:
            for name in client.names:
                if name in image.topics:
                    topic = image.topics[name]
                    wanted |= {(topic.topic_id, partition) for partition in range(len(topic.partitions))}
        if isinstance(group, ClassicGroup):
            members = set(group.members)
            if group.state is not GroupState.STABLE:
                return False
        else:
            assert isinstance(group, ConsumerGroup)
            members = set(group.members)
            if group.state_name() != "Stable":
                return False
        if members != {client.member_id for client in self.clients}:
            return False
        owned = [place for client in self.clients for place in client.owned]
        return len(owned) == len(set(owned)) and set(owned) == wanted


def expected_state(group: ConsumerGroup) -> str:
    members = group.members.values()
    if not members:
        return "Empty"
    if group.group_epoch > group.assignment_epoch:
        return "Assigning"
    if all(m.state is MemberState.STABLE and m.member_epoch == group.assignment_epoch for m in members):
        return "Stable"
    return "Reconciling"


def durable(group: ConsumerGroup | None) -> Any:
    if group is None:
        return None
    return (
        dict(group.members.items()),
        dict(group.targets.items()),
        dict(group.regexes.items()),
        group.epochs,
        dict(group._holders.items()),
    )


CONFIG = GroupConfig(
    session_timeout_ms_min=1_000,
    initial_rebalance_delay_ms=100,
    consumer_session_timeout_ms=Bounded("consumer.session.timeout.ms", MODERN_SESSION_MS, 1, 60_000),
    consumer_heartbeat_interval_ms=Bounded("consumer.heartbeat.interval.ms", 1_000, 1, 60_000),
    consumer_assignment_interval_ms=Bounded("consumer.assignment.interval.ms", 0, 0, 60_000),
    consumer_size_max=CLIENTS_MAX - 1,
    consumer_regex_refresh_interval_ms=20_000,
)


def run_seed(seed: int) -> Counter[str]:
    """Run one seed; returns what happened."""
    counters: Counter[str] = Counter()

    async def main(loop: VirtualLoop) -> None:
        world = GroupWorld(loop, config=CONFIG, seed=seed)
        simulation = Simulation(world, seed, counters)
        with watching(world.runtime, counters, simulation.check_offsets):
            await play(world, simulation, counters)

    async def play(world: GroupWorld, simulation: Simulation, counters: Counter[str]) -> None:
        make_shard = world.runtime._shard_factory

        def kept(partition: int, timeline: Any, timers: Any) -> Any:
            shard = make_shard(partition, timeline, timers)
            simulation.shards.append(shard)
            return shard

        world.runtime._shard_factory = kept
        await world.start()
        simulation.change_topics()
        while counters["events"] < EVENTS_MIN or not counters["crashes"]:
            await simulation.step()
            simulation.check()
        await simulation.converge()
        for shard in simulation.shards:
            counters["upgrade"] += shard.consumers.conversion.upgrades
            counters["downgrade"] += shard.consumers.conversion.downgrades
            counters["session or rebalance timeout"] += shard.consumers.fenced
            counters["regex resolved"] += shard.consumers.regexes.resolutions
        await world.runtime.stop()

    run_virtual(seed, main)
    return counters


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_in_the_first_seeds_everything_happens() -> None:
    run_covering(sys.modules[__name__])


@pytest.mark.parametrize("seeds", further_seeds(), ids=str)
def test_seeds_keep_the_invariants(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)
