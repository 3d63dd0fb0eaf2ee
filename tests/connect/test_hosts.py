"""Hosts and Host: what happens between a worker and its processes, without processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ottla.connect.runtime.children import Child, Nursery
from ottla.connect.runtime.host import Host, decode_entry
from ottla.connect.runtime.hosts import Hosts
from ottla.connect.runtime.runs import Action, EndTasks, HostView, Pause
from ottla.connect.runtime.source_runner import SourceRunner

LIMIT_S = 30.0


class Ending:
    """A lock; when it is given back, or views are looked up without it, the process has ended."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.is_held = False

    def __enter__(self) -> None:
        self.is_held = True

    def __exit__(self, *_: object) -> None:
        self.is_held = False
        self.end()

    def end(self) -> None:
        if not self.is_held:
            self._hosts._children.clear()


class Views(dict[int, HostView]):
    """Views of hosts, which may go when they were looked up."""

    def __init__(self, lock: Ending) -> None:
        super().__init__({1: HostView(connector="a", runs={0: 1})})
        self._lock = lock

    def get(self, number: int, default: Any = None) -> Any:
        self._lock.end()
        return self[number]


class Watched:
    """A lock that says when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_wanted = threading.Event()

    def __enter__(self) -> None:
        if self._lock.locked():
            self.is_wanted.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("action", [EndTasks(host=1, tasks=(0,)), Pause(host=1, is_paused=True)])
def test_a_process_that_ends_while_it_is_told_something(action: Action) -> None:
    hosts = Hosts(SimpleNamespace(), lambda name: {}, lambda *told: None, 1.0, lambda: None)  # type: ignore[arg-type]
    said: list[Any] = []
    hosts._children[1] = SimpleNamespace(say=said.append)  # type: ignore[assignment]
    hosts._lock = lock = Ending(hosts)  # type: ignore[assignment]
    hosts.views = Views(lock)
    hosts.act(action)
    assert len(said) == 1


def test_offsets_are_told_in_the_order_in_which_they_were_taken() -> None:
    """1. The loop takes offset 1 and is slow to tell it.  2. The end of the task takes offset 2.  3. 2 is told last."""
    told: list[Any] = []
    is_slow, goes_on = threading.Event(), threading.Event()

    def tell(event: dict[str, Any]) -> None:
        if not is_slow.is_set():
            is_slow.set()
            goes_on.wait(LIMIT_S)
        told.append(event["entries"])

    order = {"worker": {}, "config": {"name": "a"}, "offsets": [], "tasks": [[0, 1, {}]]}
    host = Host(order, tell)
    host._lock = lock = Watched()  # type: ignore[assignment]
    runner: Any = object.__new__(SourceRunner)
    offsets = iter(range(1, 3))
    runner.take_offsets = lambda: [({"part": 0}, {"at": next(offsets)})]
    host._runners[0] = runner
    loop = threading.Thread(target=host.write_offsets)
    loop.start()
    assert is_slow.wait(LIMIT_S)

    def end_task() -> None:
        host.write_offsets()
        lock.is_wanted.set()

    end = threading.Thread(target=end_task)
    end.start()
    assert lock.is_wanted.wait(LIMIT_S)  # it waits for the first one, or has overtaken it
    goes_on.set()
    for thread in (loop, end):
        thread.join(LIMIT_S)
    expected = [[host._kept.set("a", {"part": 0}, {"at": number})] for number in (1, 2)]
    assert [[decode_entry(*entry) for entry in entries] for entries in told] == expected


def test_a_refusal_does_not_show_what_a_variable_stands_for(tmp_path: Path) -> None:
    """The file was changed after the connector was checked."""
    (tmp_path / "values").write_text("tasks=confidential\n")
    worker = {
        "config.providers": "file",
        "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
        "offset.storage.file.filename": str(tmp_path / "offsets"),
    }
    config = {
        "name": "a",
        "connector.class": "DatagenSource",
        "topic": "t",
        "tasks.max": f"${{file:{tmp_path}/values:tasks}}",
    }
    nursery = Nursery()
    child = nursery.start("ottla.connect.runtime.host")
    try:
        child.say({"worker": worker, "config": config, "offsets": [], "tasks": [[0, 1, config]]})
        (event,) = child.lines()
        child.wait(LIMIT_S)
    finally:
        child.kill()
        child.wait()
        child.close()
        nursery.close()
    assert event["event"] == "refused"
    assert "[hidden]" in event["message"]
    assert "confidential" not in str(event)


@pytest.fixture
def pipes() -> Iterator[tuple[Child, int, int]]:
    """A child that is nobody: what was said to it is in the second, it says what is written to the third."""
    commands, said = os.pipe()
    events, says = os.pipe()
    mine, theirs = socket.socketpair()
    child = Child(said, events, mine, lambda: None)
    try:
        yield child, commands, says
    finally:
        os.close(commands)
        theirs.close()
        child.close()


def test_a_process_that_is_killed_while_it_says_something_is_gone(pipes: tuple[Child, int, int]) -> None:
    """Half a line was an error in the thread that reads: the process stayed in the list, and its tasks RUNNING."""
    child, _, says = pipes
    os.write(says, b'{"event": "running"}\n{"event": "offsets", "ent')
    os.close(says)
    assert list(child.lines()) == [{"event": "running"}]


def test_a_process_that_hangs_keeps_no_lease_from_the_others(pipes: tuple[Child, int, int]) -> None:
    """Its pipe is full. It waited for room, and the leases of all other processes of the worker ended."""
    hanging, commands, says = pipes
    os.close(says)
    os.set_blocking(hanging._commands.fileno(), False)
    while True:
        try:
            os.write(hanging._commands.fileno(), bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(hanging._commands.fileno(), True)
    said: list[Any] = []
    hosts = Hosts(SimpleNamespace(), lambda name: {}, lambda *told: None, 1.0, lambda: None)  # type: ignore[arg-type]
    hosts._children = {1: hanging, 2: SimpleNamespace(say_nowait=said.append, say=said.append)}  # type: ignore[dict-item]
    leasing = threading.Thread(target=hosts.lease, args=(7.0,))
    leasing.start()
    leasing.join(LIMIT_S)
    is_late = leasing.is_alive()
    os.read(commands, 1 << 20)  # it may go on now
    leasing.join(LIMIT_S)
    assert not is_late
    assert said == [{"lease": 7.0}]


def test_what_nobody_can_take_does_not_keep_a_process_in_the_list(pipes: tuple[Child, int, int]) -> None:
    """1. A process says something that raises where it is taken, and ends.  2. Its tasks are free to start elsewhere."""
    child, _, says = pipes
    os.write(says, b'{"event": "topics", "topics": ["a"]}\n')
    os.close(says)

    def refuse(*told: object) -> None:
        raise RuntimeError("not this")

    hosts = Hosts(SimpleNamespace(), lambda name: {}, refuse, 1.0, lambda: None)  # type: ignore[arg-type]
    view = HostView(connector="a", runs={0: 1})
    hosts.views, hosts._children = {1: view}, {1: child}
    child._code = 0
    hosts._read(1, view, child)
    assert hosts.snapshot() == {}


def test_processes_are_forks_of_one_thread_and_outlive_none_of_it() -> None:
    """What forks has one thread. A killed fork has its signal's code, and leaves the others alone. When the process that
    forks ends, they do, and the next one is a fork of a new one."""
    nursery = Nursery()
    children = [nursery.start("ottla.connect.runtime.inspector") for _ in range(3)]
    try:
        for child in children[:2]:
            child.say({})
            child.say({"do": "definition", "plugin": "FileStreamSource"})
            assert next(child.lines())["answer"]
        assert nursery._process is not None
        assert len(list(Path(f"/proc/{nursery._process.pid}/task").iterdir())) == 1
        children[0].kill()
        assert children[0].wait(LIMIT_S) == -signal.SIGKILL
        assert not children[1].has_ended()
        nursery._process.kill()
        assert children[1].wait(LIMIT_S) == -signal.SIGKILL
        assert list(children[1].lines()) == []
        # A process that dies may still take what it is sent: its forks' sockets close first.
        nursery._process.wait(LIMIT_S)
        children.append(nursery.start("ottla.connect.runtime.inspector"))
        children[-1].say({})
        children[-1].say({"do": "definition", "plugin": "FileStreamSource"})
        assert next(children[-1].lines())["answer"]
    finally:
        nursery.close()
        for child in children:
            child.wait(LIMIT_S)
            child.close()
    assert children[-1].wait() in (0, -signal.SIGKILL)  # its input has ended, or the process that forks
