"""Share consumers against hostile brokers: every job is done in the end, and no word about a job reaches another delivery.

Workers come, go, die, are slow and lose their connections; each is the real `ShareConsumerBase` above the core. What a broker
takes is compared with what the worker has said of that very delivery; each acknowledgement has exactly one outcome, and one
that is good is what the broker has.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, World
from tests.client.core.hostile_shares import ACCEPT, GAP, REJECT, RELEASE, RENEW, Key, ShareCluster, ShareShell
from tests.support.seeds import missing, run_seeds

from ottla.client.acquired import AcquiredRecord
from ottla.client.sharing import ShareConsumerBase
from ottla.errors import CorruptMessageError, KafkaError

COVERAGE = (
    "crashes",
    "leader moved",
    "not the leader",
    "refused for now",
    "request lost",
    "answer lost",
    "no answer in time",
    "member forgotten",
    "session forgotten",
    "session ended with its connection",
    "sessions opened",
    "sessions closed",
    "locks ended",
    "not persisted",
    "acknowledged too late",
    "gap",
    "accepted",
    "released",
    "rejected",
    "renewed",
    "workers died",
    "workers closed",
    "was slow",
    "acknowledged after the session",
    "cut",
    "done again",
)
EVENTS_MIN = 300


class Worker(ShareConsumerBase[bytes | None, bytes | None]):
    """A member and its program: takes jobs, works for a while, says what has become of them."""

    def __init__(self, group: Group, number: int) -> None:
        world, dice = group.world, group.world.random
        self.group = group
        self.world = world
        self.name = f"worker {number}"
        self.dead = False
        self.said: dict[tuple[Key, int, int], int] = {}
        #: Of what is said, how often no outcome came yet, by offset.
        self.open: Counter[tuple[Key, int]] = Counter()
        super().__init__(
            ["broker0", "broker1"],
            topics=["orders", "clicks"],
            on_acknowledged=None,
            max_processing=8,
            key_deserializer=None,
            value_deserializer=None,
            ssl_context=None,
            sasl=None,
            connect_timeout=10,
            config=None,
            options={
                "group_id": "g",
                "request_timeout_ms": 2_000,
                "metadata_max_age_ms": 5_000,
                "share_acquire_mode": dice.choice(["record_limit", "batch_optimized"]),
            },
            lock=nullcontext(),
        )
        self._machine.random = random.Random(dice.random())
        self._machine.membership.member_id = self.name
        self.shell = ShareShell(world, group.cluster, self._machine)  # type: ignore[arg-type]
        self._begin(self)  # type: ignore[arg-type]  # it tells the time, too
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

    # -- the program

    def step(self) -> None:
        if self.dead or self not in self.group.running:
            return
        if not self.group.calm and self.world.chance(0.02):
            if self.world.chance(0.5):
                self.die()
            else:
                self.leave()
            return
        self.hear()
        dice = self.world.random
        count = dice.choice([1, 1, 3, 20])
        jobs: list[AcquiredRecord[Any, Any]] = []
        try:
            self._want(count)
            while len(jobs) < count and (job := self._take(hold=dice.random() < 0.5)) is not None:
                assert not job._lease.gone
                jobs.append(job)
        except CorruptMessageError:
            raise AssertionError("nothing is damaged here") from None
        except KafkaError:
            self.world.counter["errors"] += 1
        if jobs:
            self._want(0)
            slow = not self.group.calm and self.world.chance(0.05)
            self.world.counter["was slow"] += slow
            delay_ms = dice.uniform(3_000, 9_000) if slow else dice.expovariate(0.05)
            beside = self.world.chance(0.3)  # as `run` does
            self.world.after(delay_ms, lambda: self.work(jobs, beside=beside))
            if beside:
                self.world.after(1, self.step)
        else:
            self.world.after(20, self.step)

    def work(self, jobs: list[AcquiredRecord[Any, Any]], *, beside: bool) -> None:
        if self.dead or self not in self.group.running:
            return
        dice = self.world.random
        for job in jobs:
            key = (job.topic, job.partition)
            assert job.value == self.group.values[key][job.offset]
            choice = dice.random()
            kind = ACCEPT if self.group.calm or choice < 0.8 else RELEASE if choice < 0.95 else REJECT
            if job._lease.gone:
                self.world.counter["acknowledged after the session"] += 1
            if kind != RELEASE:
                self.world.counter["done again"] += job.delivery_count > 1
            self.said[key, job.offset, job.delivery_count] = kind
            self.open[key, job.offset] += 1
            {ACCEPT: job.accept, RELEASE: job.release, REJECT: job.reject}[kind]()
        if not self.group.calm and self.world.chance(0.02):
            self.leave()
        elif not beside:
            self.step()

    def hear(self) -> None:
        for where, offsets, error in self._outcomes():
            key = (where.topic, where.partition)
            for offset in offsets:
                self.open[key, offset] -= 1
                assert self.open[key, offset] >= 0, f"{self.name}: a second outcome of {key}, {offset}"
                if error is None:
                    self.group.check_taken(self, key, offset)

    def leave(self) -> None:
        self.world.counter["workers closed"] += 1
        self.group.running.remove(self)
        self._farewell()
        self.watch(self.world.now_ms + 5_000)

    def watch(self, deadline: float) -> None:
        if self._left() or self.world.now_ms >= deadline:
            self.hear()
            if self._left():
                assert not +self.open, f"{self.name} left, and knows nothing of {+self.open}"
            self.end()
        else:
            self.poll()
            self.world.after(20, lambda: self.watch(deadline))

    def end(self) -> None:
        self.dead = True
        self._machine.poll = lambda now_ms: ([], float("inf"))  # type: ignore[method-assign]
        for link in list(self.shell.links.values()):
            link.break_down("closed")

    def die(self) -> None:
        """kill -9."""
        self.world.counter["workers died"] += 1
        self.group.running.remove(self)
        self.end()


class Group:
    """The workers of one group, and what they have done together."""

    def __init__(self, world: World, cluster: ShareCluster) -> None:
        self.world = world
        self.cluster = cluster
        self.calm = False
        self.running: list[Worker] = []
        self.workers: dict[str, Worker] = {}
        self.values = {key: {offset: value for offset, value, _ in rows} for key, rows in cluster.values.items()}
        #: What brokers have taken, by member and offset.
        self.taken: Counter[tuple[str, Key, int]] = Counter()
        cluster.on_acknowledge = self.check

    def start_one(self) -> None:
        worker = Worker(self, len(self.workers) + 1)
        self.workers[worker.name] = worker
        self.running.append(worker)

    def check(self, member: str, key: Key, offset: int, count: int, kind: int) -> None:
        """A broker takes an acknowledgement of the delivery `count`."""
        if offset not in self.values[key]:
            assert kind in (GAP, RELEASE, RENEW), f"{member} says {kind} of {key}, {offset}, where no record is"
            return
        assert kind != GAP, f"{member} takes the record at {key}, {offset}, for a gap"
        self.taken[member, key, offset] += 1
        if kind in (ACCEPT, REJECT):
            said = self.workers[member].said.get((key, offset, count))
            assert said == kind, f"{member} said {said} of delivery {count} of {key}, {offset}; the broker takes {kind}"

    def check_taken(self, worker: Worker, key: Key, offset: int) -> None:
        """A worker hears that a broker has taken what it said."""
        self.taken[worker.name, key, offset] -= 1
        assert self.taken[worker.name, key, offset] >= 0, f"{worker.name}: no broker has {key}, {offset}"

    @property
    def finished(self) -> bool:
        return all(self.cluster.states[key][offset].done for key, rows in self.values.items() for offset in rows)


def run_seed(seed: int) -> Counter[str]:
    world = World(seed)
    dice = world.random
    cluster = ShareCluster(world, mischief=dice.choice([0.3, 1.0, 1.5]), count=dice.choice([50, 150]))
    group = Group(world, cluster)
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
    world.after(15_000, calm)
    while not group.calm or world.counter["events"] % 50 or not group.finished:
        assert world.step(), "nothing left to happen"
        assert world.now_ms < 120_000, {
            key: [offset for offset in rows if not cluster.states[key][offset].done][:5]
            for key, rows in group.values.items()
        }
    for worker in list(group.running):
        worker.leave()
    while not all(worker.dead for worker in group.workers.values()):
        assert world.step()
    return world.counter


def test_seeds() -> None:
    simulation = __import__(__name__, fromlist=["run_seed"])
    assert missing(simulation, run_seeds(simulation, range(12))) == []
