"""Workers that share tasks, under kills, freezes, partitions, slow tasks and changes: no task runs twice, none is forgotten.

A coordinator as Kafka's, a network that delays and loses, processes that end when they are told, when they are killed, or
when their lease is over. `python -m tests.soak.seeds connect-groups` runs thousands of seeds.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.support.seeds import further_seeds, run_covering, run_seeds

from ottla.connect.distributed.membership import Membership, grace_s
from ottla.connect.distributed.sharing import Assignment, Leader, WorkerState
from ottla.connect.runtime.changes import Change, Delete, PutConnector, PutTasks, Restart
from ottla.connect.runtime.herder import Herder
from ottla.connect.runtime.runs import EndTasks, HostView, StartHost, TaskId, decide

COVERAGE = (
    "crashes", "freezes", "partitions", "leader changes", "lost members", "leases over", "tasks held back", "tasks revoked",
    "rebalances", "leader killed",
)  # fmt: skip
SESSION_S, HEARTBEAT_S, REBALANCE_S, STEP_S, GRACE_S = 6.0, 1.0, 20.0, 0.1, 3.0
#: How long all has to be well at the end: longer than a session with a rebalance after it.
QUIET_STEPS = 150
NAMES = ("a", "b", "c", "d")


@dataclass
class Seat:
    """A member as the coordinator knows it."""

    deadline: float
    state: WorkerState | None = None
    answer: Callable[[str, object], None] | None = None


class Coordinator:
    """A classic group: members, sessions, rebalances."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seats: dict[str, Seat] = {}
        self.generation = 0
        self.phase = "stable"
        self.deadline = 0.0
        self.leader = ""
        self.given: dict[str, bytes] = {}
        self.syncs: dict[str, Callable[[str, object], None]] = {}
        self.dropped: set[str] = set()

    def _prepare(self) -> None:
        if self.phase == "preparing":
            return
        self.phase, self.deadline = "preparing", self.world.now + REBALANCE_S
        for answer in self.syncs.values():
            answer("rebalance", None)
        self.syncs.clear()

    def join(self, member: str, state: WorkerState, answer: Callable[[str, object], None]) -> None:
        if member in self.dropped:
            answer("unknown", None)
            return
        self._prepare()
        self.seats[member] = Seat(float("inf"), state, answer)

    def sync(
        self, member: str, generation: int, given: dict[str, bytes], answer: Callable[[str, object], None]
    ) -> None:
        if member not in self.seats:
            return answer("unknown", None)
        if generation != self.generation:
            return answer("unknown", None)
        self.seats[member].deadline = self.world.now + SESSION_S
        if self.phase == "preparing":
            return answer("rebalance", None)
        if self.phase == "stable":
            return answer("ok", self.given.get(member, b""))
        self.syncs[member] = answer
        if member == self.leader:
            self.given, self.phase = given, "stable"
            for each, waiting in self.syncs.items():
                waiting("ok", given.get(each, b""))
            self.syncs.clear()
        return None

    def heartbeat(self, member: str, generation: int, answer: Callable[[str, object], None]) -> None:
        if member not in self.seats or generation != self.generation:
            return answer("unknown", None)
        if self.seats[member].state is None:
            self.seats[member].deadline = self.world.now + SESSION_S
        return answer("rebalance" if self.phase == "preparing" else "ok", None)

    def leave(self, member: str) -> None:
        if self.seats.pop(member, None) is not None:
            self._prepare()

    def tick(self) -> None:
        now = self.world.now
        for member in [each for each, seat in self.seats.items() if seat.deadline <= now]:
            del self.seats[member]
            self.dropped.add(member)
            self.world.counters["lost members"] += 1
            self._prepare()
        if self.phase != "preparing":
            return
        joined = {member: seat for member, seat in self.seats.items() if seat.answer is not None}
        if not joined and not self.seats:
            self.phase = "stable"
        elif joined and (len(joined) == len(self.seats) or now >= self.deadline):
            self.dropped |= self.seats.keys() - joined.keys()
            self.seats, self.phase = joined, "syncing"
            self.generation += 1
            before, self.leader = self.leader, self.leader if self.leader in joined else min(joined)
            self.world.counters["leader changes"] += before != self.leader
            self.world.counters["rebalances"] += 1
            states = {member: seat.state for member, seat in joined.items()}
            for member, seat in joined.items():
                answer, seat.answer, seat.state = seat.answer, None, None
                seat.deadline = now + SESSION_S
                assert answer is not None
                answer("ok", (self.generation, states if member == self.leader else None))


@dataclass
class Host:
    """A process with tasks of one connector."""

    view: HostView
    ends_at: float | None = None
    lease: float = 0.0


@dataclass
class Worker:
    """One worker: the deciding parts are the real ones."""

    world: World
    url: str
    session: Membership = field(init=False)
    herder: Herder = field(init=False)
    leader: Leader = field(init=False)
    hosts: dict[int, Host] = field(default_factory=dict)
    read: int = 0
    member: str = ""
    phase: str = "joining"
    confirmed: float | None = None
    next_beat: float = 0.0
    asked_at: float | None = None
    attempt: int = 0
    frozen: bool = False
    cut: bool = False
    alive: bool = True

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A fresh process at the same address."""
        self.session = Membership(self.url, SESSION_S)
        self.herder = Herder(self.url, shares=True)
        self.leader = Leader(delay_s=self.world.delay_s, grace_s=grace_s(SESSION_S))
        self.hosts, self.read, self.phase, self.confirmed, self.asked_at = {}, 0, "joining", None, None
        self.world.last += 1
        self.member = f"{self.url}-{self.world.last}"
        self.attempt += 1
        self.frozen, self.alive = False, True

    def running(self) -> set[TaskId]:
        return {(host.view.connector, number) for host in self.hosts.values() for number in host.view.runs}

    # The client

    def ask(
        self, send: Callable[[Callable[[str, object], None]], None], on_answer: Callable[[str, object], None]
    ) -> None:
        self.asked_at = self.world.now
        attempt, self.attempt = self.attempt + 1, self.attempt + 1

        def answered(code: str, what: object) -> None:
            self.world.later(self, lambda: self.done(attempt, on_answer, code, what))

        self.world.later(self, lambda: send(answered))

    def done(self, attempt: int, on_answer: Callable[[str, object], None], code: str, what: object) -> None:
        if self.attempt == attempt:
            self.asked_at = None
            on_answer(code, what)

    def client(self) -> None:
        now, group = self.world.now, self.world.coordinator
        if self.asked_at is not None:
            if now - self.asked_at < (REBALANCE_S + 5 if self.phase == "joining" else 3):
                return
            self.asked_at = None
            if self.phase == "syncing":
                self.phase = "joining"
        if self.phase == "joining":
            state = self.session.state(self.read, self.running(), is_member=self.session.generation >= 0)
            self.ask(lambda answer: group.join(self.member, state, answer), self.on_join)
        elif self.phase == "stable" and now >= self.next_beat:
            self.next_beat = now + HEARTBEAT_S
            member, generation = self.member, self.session.generation

            def on_beat(code: str, _: object) -> None:
                if code == "ok":
                    self.confirmed = now
                elif code == "rebalance":
                    self.session.on_rebalancing()
                    self.phase = "joining"
                else:
                    self.on_lost()

            self.ask(lambda answer: group.heartbeat(member, generation, answer), on_beat)

    def on_join(self, code: str, what: object) -> None:
        if code == "unknown":
            self.on_lost()
            return
        generation: int
        states: dict[str, WorkerState] | None
        generation, states = what  # type: ignore[misc]
        given: dict[str, bytes] = {}
        if states is not None:
            told = dict(self.world.statuses)
            shared = self.leader.share(self.world.now, generation, states, self.herder.task_ids(), told, {})
            given = {
                each: Assignment(leader_url=self.url, tasks=frozenset(tasks)).encode() for each, tasks in shared.items()
            }
            self.world.counters["tasks held back"] += self.leader.due_s() is not None
            claims = {task for state in states.values() for task in state.tasks}
            self.world.counters["tasks revoked"] += bool(claims - set().union(*shared.values()))
        sent, is_leader = self.world.now, states is not None
        self.phase = "syncing"

        def on_sync(code: str, data: object) -> None:
            if code == "rebalance":
                self.phase = "joining"
            elif code == "unknown":
                self.on_lost()
            else:
                assert isinstance(data, bytes)
                self.confirmed, self.phase, self.next_beat = sent, "stable", self.world.now + HEARTBEAT_S
                self.session.on_joined(
                    generation, is_leader, Assignment.decode(data) if data else Assignment(leader_url="")
                )
                self.herder.assign(self.session.assigned)

        member = self.member
        self.ask(lambda answer: self.world.coordinator.sync(member, generation, given, answer), on_sync)

    def on_lost(self) -> None:
        self.session.on_lost()
        self.herder.assign(())
        self.world.last += 1
        self.member, self.phase = f"{self.url}-{self.world.last}", "joining"

    # The worker

    def act(self) -> None:
        now, world = self.world.now, self.world
        if world.dice.random() < 0.7:
            for change in world.log[self.read :]:
                self.herder.apply(change)
            self.read = len(world.log)
        allowed = self.session.allowed(now, self.confirmed)
        wanted = {task: what for task, what in self.herder.wanted().items() if task in allowed}
        for action in decide(wanted, {number: host.view for number, host in self.hosts.items()}):
            match action:
                case StartHost():
                    world.last += 1
                    runs = {number: what.run for number, what in action.tasks.items()}
                    for number in runs:
                        world.statuses[action.connector, number] = self.url.removeprefix("http://")
                    self.hosts[world.last] = Host(HostView(connector=action.connector, runs=runs))
                case EndTasks():
                    host = self.hosts[action.host]
                    host.view.ending.update(action.tasks)
                    host.ends_at = host.ends_at or now + world.dice.choice((0.1, 0.5, GRACE_S))
        for host in self.hosts.values():
            host.lease = self.session.lease_s(self.confirmed)
        if self.phase != "stable" or self.asked_at is not None:
            return
        if self.session.has_given_up(self.running()) or (
            self.session.is_leader
            and (
                self.leader.is_outdated(self.herder.task_ids(), self.herder.unasked(), {})
                or (self.leader.due_s() or float("inf")) <= now
            )
        ):
            self.session.on_rebalancing()
            self.phase = "joining"

    def end_hosts(self) -> None:
        """What processes do by themselves, however their worker is."""
        for number, host in list(self.hosts.items()):
            if host.lease <= self.world.now:
                self.world.counters["leases over"] += 1
                del self.hosts[number]
            elif host.ends_at is not None and host.ends_at <= self.world.now:
                for task in host.view.ending:
                    host.view.runs.pop(task, None)
                host.view.ending.clear()
                host.ends_at = None
                if not host.view.runs:
                    del self.hosts[number]


class World:
    """All of it. The invariant is looked at after every step."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.last = 0
        self.counters: Counter[str] = Counter()
        self.delay_s = self.dice.choice((0.0, 5.0, 15.0))
        self.log: list[Change] = []
        self.statuses: dict[TaskId, str] = {}
        self.mail: list[tuple[float, Worker, int, Callable[[], object]]] = []
        self.coordinator = Coordinator(self)
        self.workers = [Worker(self, f"http://w{number}") for number in range(self.dice.choice((2, 3, 3, 4)))]

    def later(self, worker: Worker, what: Callable[[], object]) -> None:
        """Deliver something from or to a worker, unless the network or the process is gone by then."""
        self.mail.append((self.now + self.dice.random() * 0.3, worker, id(worker.session), what))

    def step(self) -> None:
        self.now += STEP_S
        due = [each for each in self.mail if each[0] <= self.now]
        self.mail = [each for each in self.mail if each[0] > self.now]
        for _, worker, session, what in sorted(due, key=lambda each: each[0]):
            if worker.frozen:
                self.mail.append((self.now + STEP_S, worker, session, what))  # it is there when the worker wakes
            elif worker.alive and not worker.cut and session == id(worker.session):
                what()
                self.counters["events"] += 1
        self.coordinator.tick()
        for worker in self.workers:
            worker.end_hosts()
            if worker.alive and not worker.frozen:
                worker.client()
                worker.act()
            self.counters["events"] += 1
        running = Counter(task for worker in self.workers for task in worker.running())
        twice = [task for task, count in running.items() if count > 1]
        assert not twice, f"{self.now:.1f}: {twice} run on {[w.url for w in self.workers if twice[0] in w.running()]}"

    def trouble(self) -> None:
        worker = self.dice.choice(self.workers)
        match self.dice.randrange(8):
            case 0 if worker.alive:
                self.counters["crashes"] += 1
                self.counters["leader killed"] += worker.session.is_leader
                worker.alive, worker.hosts = False, {}
            case 1 | 2 if not worker.alive:
                worker.begin()
            case 3:
                worker.frozen = worker.alive and not worker.frozen
                self.counters["freezes"] += worker.frozen
            case 4:
                worker.cut = not worker.cut
                self.counters["partitions"] += worker.cut
            case 5 | 6:
                name = self.dice.choice(NAMES)
                tasks = [{"n": str(number)} for number in range(self.dice.randrange(1, 5))]
                config = {"name": name, "v": str(self.dice.random())}
                self.log += [PutConnector(name=name, config=config), PutTasks(name=name, tasks=tasks)]
            case 7:
                name = self.dice.choice(NAMES)
                self.log.append(
                    self.dice.choice((Delete(name=name), Restart(name=name, with_tasks=True, only_failed=False)))
                )

    def heal(self) -> None:
        for worker in self.workers:
            worker.frozen = worker.cut = False
            if not worker.alive:
                worker.begin()


def run_seed(seed: int) -> Counter[str]:
    """1. Trouble, now and then.  2. All is well: every task runs once, and the load is even."""
    world = World(seed)
    for number in range(600):
        if number == 20 or world.dice.random() < 0.06:
            world.trouble()
        world.step()
    if not world.counters["crashes"]:
        world.workers[0].alive, world.workers[0].hosts = False, {}
        world.counters["crashes"] += 1
    world.heal()
    known = Herder("", shares=True)
    for change in world.log:
        known.apply(change)
    wanted = sorted(known.task_ids())
    quiet = 0
    for _ in range(1200):
        world.step()
        running = sorted(task for worker in world.workers for task in worker.running())
        loads = [len(worker.running()) for worker in world.workers]
        quiet = quiet + 1 if running == wanted and max(loads) - min(loads) <= 1 else 0
        if quiet == QUIET_STEPS:
            return world.counters
    raise AssertionError(f"after two minutes {running} run, and not {wanted}; loads: {loads}")


def test_no_task_runs_twice_and_none_is_forgotten() -> None:
    run_covering(sys.modules[__name__], 30)


def test_loads_are_even_again_after_tasks_are_gone() -> None:
    run_seed(186)


def test_tasks_that_are_to_come_again_are_not_gone() -> None:
    leader = Leader(delay_s=0.0, grace_s=0.0)
    leader.share(0.0, 1, {"m": WorkerState(url="http://w0", offset=0)}, {("a", 0), ("b", 0)}, {}, {})
    assert not leader.is_outdated({("a", 0)}, in_change=["b"], bound={})
    assert leader.is_outdated({("a", 0)}, in_change=[], bound={})
    assert leader.is_outdated({("a", 0), ("b", 0), ("b", 1)}, in_change=[], bound={})


def test_tasks_of_a_bound_connector_run_on_its_worker_or_nowhere() -> None:
    """1. Its worker is away.  2. It is there.  3. The connector is bound to another one: the task is taken away first.  4. It
    is given when nobody claims it."""
    leader = Leader(delay_s=0.0, grace_s=0.0)
    files, other = ("files", 0), ("other", 0)
    first, second = WorkerState(url="http://w1", offset=0), WorkerState(url="http://w2", offset=0)
    assert leader.share(0.0, 1, {"a": first}, {files, other}, {}, {"files": "w2"}) == {"a": {other}}
    first = replace(first, tasks=frozenset({other}))
    shared = leader.share(0.0, 2, {"a": first, "b": second}, {files, other}, {}, {"files": "w2"})
    assert shared == {"a": {other}, "b": {files}}
    assert leader.is_outdated({files, other}, [], bound={"files": "w1"})
    second = replace(second, tasks=frozenset({files}))
    shared = leader.share(0.0, 3, {"a": first, "b": second}, {files, other}, {}, {"files": "w1"})
    assert shared == {"a": {other}, "b": set()}
    second = replace(second, tasks=frozenset())
    shared = leader.share(0.0, 4, {"a": first, "b": second}, {files, other}, {}, {"files": "w1"})
    assert files in shared["a"]
    assert not shared["b"]


def test_balance_takes_no_task_from_the_worker_that_it_is_bound_to() -> None:
    leader = Leader(delay_s=0.0, grace_s=0.0)
    tasks = frozenset({("files", 0), ("files", 1)})
    workers = {"a": WorkerState(url="http://w1", offset=0, tasks=tasks), "b": WorkerState(url="http://w2", offset=0)}
    assert leader.share(0.0, 1, workers, tasks, {}, {"files": "w1"}) == {"a": set(tasks), "b": set()}


@pytest.mark.parametrize("seeds", further_seeds(30, 50))
def test_more_seeds(seeds: range) -> None:
    run_seeds(sys.modules[__name__], seeds)
