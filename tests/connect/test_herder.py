"""What a worker decides: which tasks run, under random requests, failures and deaths of processes."""

from __future__ import annotations

import random

import pytest

from ottla.connect.runtime.changes import Told
from ottla.connect.runtime.herder import Herder, HerderError
from ottla.connect.runtime.runs import EndTasks, HostView, Pause, StartHost, decide

NAMES = ("a", "b", "c")
SECRET = Told(kind="source", secrets=frozenset({"password"}))


class World:
    """A herder and imagined processes. Each run that was started is noted; the invariant is looked at after every step."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.herder = Herder("worker:1")
        self.hosts: dict[int, HostView] = {}
        self.started: set[tuple[str, int, int]] = set()
        self.last = 0

    def act(self) -> None:
        for action in decide(self.herder.wanted(), self.hosts):
            match action:
                case StartHost():
                    self.last += 1
                    runs = {number: what.run for number, what in action.tasks.items()}
                    for number, run in runs.items():
                        assert (action.connector, number, run) not in self.started or self.herder.knows(
                            action.connector
                        )
                        self.started.add((action.connector, number, run))
                    self.hosts[self.last] = HostView(connector=action.connector, runs=runs, is_paused=action.is_paused)
                case EndTasks():
                    self.hosts[action.host].ending.update(action.tasks)
                case Pause():
                    self.hosts[action.host].is_paused = action.is_paused
        self.check()

    def check(self) -> None:
        running = [(host.connector, number) for host in self.hosts.values() for number in host.runs]
        assert len(running) == len(set(running)), f"a task runs twice: {running}"

    def happen(self) -> None:
        """Something ends, fails or dies."""
        if not self.hosts:
            return
        number = self.dice.choice(list(self.hosts))
        host = self.hosts[number]
        if host.ending:
            task = self.dice.choice(sorted(host.ending))
            host.ending.discard(task)
            host.runs.pop(task, None)
        elif host.runs and self.dice.random() < 0.3:
            task = self.dice.choice(sorted(host.runs))
            self.herder.on_failed(host.connector, task, host.runs[task], "failed")
            del host.runs[task]
        elif host.runs and self.dice.random() < 0.2:
            for task, run in host.runs.items():
                self.herder.on_failed(host.connector, task, run, "died")
            host.runs.clear()
        if not host.runs:
            del self.hosts[number]

    def request(self) -> None:
        name, herder = self.dice.choice(NAMES), self.herder
        try:
            match self.dice.randrange(8):
                case 0 | 1:
                    herder.put(name, {"name": name, "n": str(self.dice.random())}, SECRET, None, may_replace=True)
                    if herder.needs_tasks(name):
                        herder.set_tasks(name, [{"task": str(n)} for n in range(self.dice.randrange(1, 4))])
                case 2:
                    herder.set_target(name, "PAUSED")
                case 3:
                    herder.set_target(name, "RUNNING")
                    herder.set_tasks(name, [{"task": "0"}])
                case 4:
                    herder.set_target(name, "STOPPED")
                case 5:
                    herder.restart(name, with_tasks=True, only_failed=self.dice.random() < 0.5)
                case 6:
                    herder.restart_task(name, self.dice.randrange(3))
                case 7:
                    herder.delete(name)
        except HerderError:
            pass  # there is no such connector or task


@pytest.mark.parametrize("seed", range(50))
def test_no_task_runs_twice_and_none_is_forgotten(seed: int) -> None:
    """1. Requests, failures and deaths in any order.  2. When all is quiet, exactly what is wanted runs."""
    world = World(seed)
    for _ in range(120):
        world.dice.choice((world.request, world.happen, world.act))()
        world.check()
    for _ in range(100):
        world.act()
        for host in world.hosts.values():
            for task in list(host.ending):
                host.runs.pop(task, None)
            host.ending.clear()
        world.hosts = {number: host for number, host in world.hosts.items() if host.runs}
    running = {
        (host.connector, n): (run, host.is_paused) for host in world.hosts.values() for n, run in host.runs.items()
    }
    assert running == {task: (what.run, what.is_paused) for task, what in world.herder.wanted().items()}


def herder_with(config: dict[str, str]) -> Herder:
    herder = Herder("worker:1")
    herder.put("a", config, SECRET, None, may_replace=False)
    herder.set_tasks("a", [config])
    return herder


def test_masked_config_put_back() -> None:
    """What an answer shows can be put back: the secret stays what it is. Where there is none, the mask is refused."""
    config = {"name": "a", "url": "x", "password": "opensesame"}
    herder = herder_with(config)
    shown = herder.config("a")
    assert shown == config | {"password": "[hidden]"}
    assert herder.tasks("a")[0]["config"]["password"] == "[hidden]"
    assert herder.with_kept_secrets("a", shown | {"url": "y"}, is_new=False)["password"] == "opensesame"
    with pytest.raises(HerderError, match="The value of password is \\[hidden\\]") as found:
        herder.with_kept_secrets("a", shown, is_new=True)
    assert found.value.status == 400
    with pytest.raises(HerderError):
        herder.with_kept_secrets("a", {"url": "[hidden]"}, is_new=False)


def test_a_secret_that_stands_elsewhere_is_shown_as_it_is_written() -> None:
    herder = herder_with({"name": "a", "password": "${file:/run/secrets:db}"})
    assert herder.config("a")["password"] == "${file:/run/secrets:db}"


def test_what_is_told_about_an_older_run_is_dropped() -> None:
    herder = herder_with({"name": "a"})
    old = herder.wanted()["a", 0].run
    herder.restart_task("a", 0)
    herder.on_failed("a", 0, old, "too late")
    assert herder.task_status("a", 0)["state"] == "RESTARTING"
    herder.on_running("a", 0, herder.wanted()["a", 0].run, False)
    assert herder.task_status("a", 0)["state"] == "RUNNING"


def test_recreated_connector_inherits_nothing() -> None:
    herder = herder_with({"name": "a"})
    run = herder.wanted()["a", 0].run
    herder.on_failed("a", 0, run, "failed")
    herder.on_topics("a", ["t"])
    herder.delete("a")
    herder.put("a", {"name": "a"}, SECRET, "STOPPED", may_replace=False)
    assert herder.status("a")["tasks"] == []
    assert herder.known("a").topics == set()
    assert herder.wanted() == {}
    herder.on_failed("a", 0, run, "too late")
    assert herder.status("a")["tasks"] == []


RESTARTS = {"name": "a", "errors.restart.enable": "true"}


def fail(herder: Herder, now_s: float, *, has_new_offsets: bool = False) -> float | None:
    run = herder.wanted()["a", 0].run
    return herder.on_failed("a", 0, run, "bad row", has_new_offsets=has_new_offsets, now_s=now_s)


def test_poison_record_stops_restarting() -> None:
    """1. Four restarts, each after twice the time.  2. The fifth failure is the last.  3. By hand it goes on."""
    herder = herder_with(RESTARTS)
    pauses, now_s = [], 100.0
    for _ in range(4):
        pause_s = fail(herder, now_s)
        assert pause_s is not None
        pauses.append(pause_s)
        assert herder.task_status("a", 0) == {"id": 0, "state": "FAILED", "worker_id": "worker:1", "trace": "bad row"}
        herder.tick(now_s + pause_s - 0.1)
        assert ("a", 0) not in herder.wanted()
        now_s += pause_s
        herder.tick(now_s)
        assert ("a", 0) in herder.wanted()
    assert pauses == [1, 2, 4, 8]
    assert fail(herder, now_s) is None
    herder.tick(now_s + 1e6)
    assert herder.wanted() == {}
    assert not herder.waits()
    herder.restart_task("a", 0)
    assert fail(herder, now_s) == 1


def test_new_offsets_begin_the_count_anew() -> None:
    herder = herder_with(RESTARTS)
    for now_s in range(0, 100, 10):
        assert fail(herder, now_s, has_new_offsets=True) == 1
        herder.tick(now_s + 1)


def test_a_failed_task_stays_so_unless_a_restart_is_asked_for() -> None:
    """As Java's: people's alerts look at FAILED."""
    herder = herder_with({"name": "a"})
    assert fail(herder, 0) is None
    herder.tick(1e6)
    assert herder.wanted() == {}


def test_a_connector_that_is_changed_or_stopped_is_not_started_again() -> None:
    herder = herder_with(RESTARTS)
    fail(herder, 0)
    herder.set_target("a", "STOPPED")
    herder.tick(1e6)
    assert herder.wanted() == {}
    assert not herder.waits()


@pytest.mark.parametrize("password", ["pa${ss", "secret${env:X}"])
def test_a_secret_is_hidden_although_it_looks_like_a_variable(password: str) -> None:
    herder = Herder("worker:1")
    herder.put("a", {"name": "a", "password": password}, SECRET, None, may_replace=False)
    assert herder.config("a")["password"] == "[hidden]"
    assert herder.with_kept_secrets("a", herder.config("a"), is_new=False)["password"] == password
