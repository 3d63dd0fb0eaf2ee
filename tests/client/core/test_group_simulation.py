"""Consumers of a group against hostile coordinators of both protocols: no partition is owned twice, no record is skipped.

Members come, go, die, are slow, and lose their connections; each runs the real `GroupedConsumer` above the core, with a face
that waits in virtual time. A commit that goes beyond what was handled is caught when it is accepted; in the end every record
has been handled.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, Shell, World
from tests.client.core.hostile_groups import GroupCluster
from tests.support.seeds import missing, run_seeds

from ottla.client._core.classic_group import ClassicMembership
from ottla.client._core.classic_member import Phase
from ottla.client._core.modern_group import ModernMembership
from ottla.client._core.operation import Operation
from ottla.client.consumed import Record
from ottla.client.grouping import GroupedConsumer
from ottla.client.work import Call, Until, Wait, Work
from ottla.errors import CorruptMessageError, KafkaError
from ottla.types import TopicPartition

COVERAGE = (
    "crashes",
    "leader moved",
    "coordinator moved",
    "wrong coordinator",
    "not the coordinator",
    "coordinator loads",
    "rebalances",
    "did not join in time",
    "sessions ended",
    "forgotten",
    "left",
    "request lost",
    "answer lost",
    "no answer in time",
    "committed",
    "commit refused",
    "stale commit",
    "unstable offsets",
    "validated",
    "members died",
    "members closed",
    "was slow",
    "interrupted",
    "lost",
    "revoked",
    "assigned",
    "rewound",
    "marked out of order",
    "handled",
    "handled again",
)
EVENTS_MIN = 300


class SimulatedClock:
    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic_ms(self) -> int:
        return int(self._world.now_ms)

    def boot_ms(self) -> int:
        return self.monotonic_ms()

    def wall_ms(self) -> int:
        return 0

    def thread_waits(self) -> int:
        return 0


class Interruption:
    """A lock that is free again: the loop's thread may take in an answer before the caller's goes on."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        program = self._program
        if program.group.calm or not program.world.chance(0.02):
            return
        client = program._machine.group
        membership = client.membership if client is not None else None
        if isinstance(membership, ClassicMembership) and membership._member.phase is Phase.STABLE:
            program.world.counter["interrupted"] += 1
            membership.on_rebalance()


class Program(GroupedConsumer[bytes | None, bytes | None]):
    """A member and its program: takes records, handles them for a while, asks for more."""

    def __init__(self, group: Group, number: int) -> None:
        world, dice = group.world, group.world.random
        self.name = f"program {number}"
        self.group = group
        self.world = world
        self.dead = False
        self.on_batch = 0
        commit = dice.choice(["processed", "processed", "marked"])
        super().__init__(
            ["broker0", "broker1"],
            topics=["orders", "clicks"],
            pattern=None,
            commit=commit,
            commit_after=None,
            on_assigned=self.note_assigned,
            on_revoked=self.note_revoked,
            on_lost=self.note_lost,
            key_deserializer=None,
            value_deserializer=None,
            ssl_context=None,
            sasl=None,
            connect_timeout=10,
            config=None,
            options={
                "group_id": "g",
                "auto_offset_reset": "earliest",
                "group_protocol": "consumer" if group.cluster.modern else "classic",
                "partition_assignment_strategy": group.strategy,
                "session_timeout_ms": 3_000,
                "heartbeat_interval_ms": 300,
                "max_poll_interval_ms": 2_000,
                "auto_commit_interval_ms": 500,
                "request_timeout_ms": 2_000,
                "metadata_max_age_ms": 5_000,
                "max_partition_fetch_bytes": dice.choice([200, 5_000]),
            },
            lock=Interruption(self),
            clock=SimulatedClock(world),
            dice=random.Random(dice.random()),
        )
        self.shell = Shell(world, group.cluster, self._machine)  # type: ignore[arg-type]
        self._begin(self)  # type: ignore[arg-type]  # it tells the time, too
        self._begin_watching()
        world.after(0, self.step)

    def now_ms(self) -> float:
        return self.world.now_ms

    def _wake(self) -> None:
        if not self.dead:
            self.world.after(0, self.poll)

    def poll(self) -> None:
        if not self.dead:
            self.shell.poll()

    def _wake_waiter(self) -> None: ...

    # -- what callbacks see

    def note_assigned(self, partitions: list[TopicPartition]) -> None:
        self.world.counter["assigned"] += len(partitions)
        self.group.check_owners(self, partitions)

    def note_revoked(self, partitions: list[TopicPartition]) -> None:
        self.world.counter["revoked"] += len(partitions)

    def note_lost(self, partitions: list[TopicPartition]) -> None:
        self.world.counter["lost"] += len(partitions)

    # -- driving work

    def drive(self, work: Work[None], then: Callable[[], None]) -> None:
        def go_on(outcome: object = None) -> None:
            if self.dead:
                return
            while True:
                try:
                    item = work.send(outcome)
                except StopIteration:
                    then()
                    return
                except (KafkaError, TimeoutError):
                    self.world.counter["refused"] += 1
                    then()
                    return
                match item:
                    case Call(function, arguments):
                        function(*arguments)
                        outcome = None
                    case Wait(operation, limit_s):
                        if operation.done:
                            outcome = True
                            continue
                        self.await_operation(operation, limit_s, Once(go_on))
                        return
                    case Until(condition, limit_s):
                        self.watch(condition, self.world.now_ms + limit_s * 1000, go_on)
                        return

        go_on()

    def await_operation(self, operation: Operation, limit_s: float | None, once: Once) -> None:
        operation.callbacks.append(lambda: self.world.after(0, lambda: once(True)))
        self.world.after((limit_s or 1e9) * 1000, lambda: once(operation.done))
        self.poll()

    def watch(self, condition: Callable[[], bool], deadline: float, go_on: Callable[[object], None]) -> None:
        if condition() or self.world.now_ms >= deadline:
            go_on(condition())
        else:
            self.world.after(20, lambda: None if self.dead else self.watch(condition, deadline, go_on))
            self.poll()

    # -- the program

    def step(self) -> None:
        if self.dead:
            return
        dice = self.world.random
        if self.group.calm or self.world.chance(0.97):
            if self.world.chance(0.1):
                self.drive(self._commit(None, 3), self.ask)
            else:
                self.ask()
        elif self.world.chance(0.4):
            self.die()
        elif self.world.chance(0.5):
            self.world.counter["members closed"] += 1
            self.group.running.remove(self)
            clean = self.world.chance(0.5)
            self.drive(self._farewell(clean=clean, limit_s=3), self.end)
        else:
            self.world.counter["was slow"] += 1
            self._end_call()
            self.world.after(dice.uniform(2_000, 6_000), self.step)

    def ask(self) -> None:
        self._begin_call()
        self.drive(self._settle(), self.take)

    def end(self) -> None:
        self.dead = True
        self._machine.poll = lambda now_ms: ([], float("inf"))  # type: ignore[method-assign]
        for link in list(self.shell.links.values()):
            link.break_down("closed")

    def die(self) -> None:
        """kill -9."""
        self.world.counter["members died"] += 1
        self.group.running.remove(self)
        self.end()

    def take(self) -> None:
        dice = self.world.random
        found: list[Record[Any, Any]] = []
        try:
            self._raise_deferred()
            self._take_many(found, dice.randrange(1, 40))
        except CorruptMessageError:
            pass
        self._end_call()
        if found and self.world.chance(0.05):
            self.world.counter["rewound"] += 1
            if self._bounds.commit == "processed":
                self.rewind()
                found = []
        self.world.after(dice.expovariate(0.05), lambda: self.handle(found))

    def handle_one(self, record: Record[Any, Any]) -> None:
        """A worker of its own does it."""
        if not self.dead:
            self.group.handled(record)
            self.mark(record)

    def handle(self, found: list[Record[Any, Any]]) -> None:
        if self.dead:
            return
        dice = self.world.random
        if self._bounds.commit == "marked":
            order = list(found)
            if self.world.chance(0.3):
                self.world.counter["marked out of order"] += 1
                dice.shuffle(order)
            for record in order:
                self.world.after(dice.random() * 300, lambda record=record: self.handle_one(record))  # type: ignore[misc]
        else:
            for record in found:
                self.group.handled(record)
        self.step()


class Once:
    def __init__(self, call: Callable[[object], None]) -> None:
        self._call: Callable[[object], None] | None = call

    def __call__(self, outcome: object) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(outcome)


class Group:
    """The programs of one group, and what they have done together."""

    def __init__(self, world: World, cluster: GroupCluster, strategy: str) -> None:
        self.world = world
        self.cluster = cluster
        self.strategy = strategy
        self.calm = False
        self.running: list[Program] = []
        self.done: dict[TopicPartition, set[int]] = {TopicPartition(*key): set() for key in cluster.logs}
        self.expected = {
            TopicPartition(*key): [offset for offset, _, _ in rows] for key, rows in cluster.values.items()
        }
        self.values = {
            TopicPartition(*key): {offset: value for offset, value, _ in rows} for key, rows in cluster.values.items()
        }
        self._number = 0
        cluster.on_commit = self.check_commit

    def start_one(self) -> None:
        self._number += 1
        self.running.append(Program(self, self._number))

    def handled(self, record: Record[Any, Any]) -> None:
        where = record.topic_partition
        assert record.value == self.values[where][record.offset], (where, record.offset)
        self.world.counter["handled again" if record.offset in self.done[where] else "handled"] += 1
        self.done[where].add(record.offset)

    def check_commit(self, member_id: str, where: TopicPartition, offset: int) -> None:
        missing = [each for each in self.expected[where] if each < offset and each not in self.done[where]]
        assert not missing, f"{member_id} commits {where} at {offset}, but {missing[:5]} were not handled"

    def check_owners(self, newcomer: Program, partitions: list[TopicPartition]) -> None:
        for program in self.running:
            if program is newcomer or not self.is_current(program) or not self.is_current(newcomer):
                continue
            twice = set(partitions) & set(program._machine.partitions)
            assert not twice, f"{twice} belong to {program.name} and to {newcomer.name}"

    def is_current(self, program: Program) -> bool:
        """Whether the coordinator takes the program's member for one that owns what it owns."""
        client = program._machine.group
        assert client is not None
        membership = client.membership
        if membership is None:
            return False
        identity = membership.identity
        member = self.cluster.members.get(identity.member_id)
        if member is None:
            return False
        if isinstance(membership, ModernMembership):
            return not membership._lost and identity.generation_id in (member.epoch, member.before) and member.epoch > 0
        assert isinstance(membership, ClassicMembership)
        return not membership._lost and identity.generation_id == self.cluster.generation

    @property
    def finished(self) -> bool:
        owned = Counter(where for program in self.running for where in program._machine.partitions)
        everything = all(self.done[where] >= set(offsets) for where, offsets in self.expected.items())
        return everything and owned == Counter(list(self.expected))


def run_seed(seed: int) -> Counter[str]:
    world = World(seed)
    dice = world.random
    modern = dice.random() < 0.4
    cluster = GroupCluster(world, mischief=dice.choice([0.3, 1.0, 1.5]), count=dice.choice([50, 200]), modern=modern)
    group = Group(world, cluster, dice.choice(["range", "roundrobin", "sticky", "cooperative-sticky"]))
    for _ in range(dice.randrange(1, 4)):
        group.start_one()

    def act_up() -> None:
        cluster.act_up()
        if cluster.mischief:
            if len(group.running) < 3 and world.chance(0.6):
                group.start_one()
            world.after(dice.expovariate(0.002), act_up)

    def calm() -> None:
        cluster.revive()
        group.calm = True
        while len(group.running) < 2:
            group.start_one()

    world.after(100, act_up)
    world.after(dice.random() * 100, lambda: cluster.crash(dice.choice(BROKERS)))
    world.after(20_000, calm)
    while not group.calm or not group.finished:
        assert world.step(), "nothing left to happen"
        assert world.now_ms < 200_000, {
            where: sorted(set(offsets) - group.done[where])[:5] for where, offsets in group.expected.items()
        }
    return world.counter


def test_seeds() -> None:
    simulation = __import__(__name__, fromlist=["run_seed"])
    assert missing(simulation, run_seeds(simulation, range(25))) == []
