"""Copies of stores on the model of a cluster: they hold what is committed, and a task goes on from them."""

from __future__ import annotations

import random

import pytest
from tests.streams.runtime.model import Entry, Killed, World
from tests.streams.runtime.test_engine import Thread, found, word_world
from tests.streams.runtime.topologies import CHANGELOG, expected, key_count, word_count

from ottla.streams.context import Output
from ottla.streams.runtime.tasks import Phase
from ottla.streams.state.homes import StateError
from ottla.streams.state.memory import MemoryHome
from ottla.streams.topology import TaskId
from ottla.types import TopicPartition

TASK = TaskId(0, 0)
LOG = TopicPartition(CHANGELOG, 0)


def keyed_world(count: int) -> World:
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    for _ in range(count):
        world.write("keyed", b"a", b"")
    return world


def copying(world: World) -> tuple[Thread, dict[TaskId, MemoryHome]]:
    """A thread on another machine that has a copy of the task."""
    disk: dict[TaskId, MemoryHome] = {}
    thread = Thread(world, key_count(), transactional_id="app-2", disk=disk)
    thread.engine.standbys.want([TASK])
    return thread, disk


def value(disk: dict[TaskId, MemoryHome]) -> bytes | None:
    found = disk[TASK].get("counts", b"a")
    return None if found is None else found[8:]


def settle(thread: Thread) -> None:
    """Have a copy read what there is, and write it."""
    for _ in range(4):
        thread.run(5)
        thread.world.clock.now_ms += 1_000


def test_a_copy_follows_what_is_committed() -> None:
    world = keyed_world(3)
    owner = Thread(world, key_count())
    copy, disk = copying(world)
    owner.run(10)
    settle(copy)
    assert value(disk) == b"3"
    note = disk[TASK].note("counts")
    assert note is not None
    assert note.position == world.logs[LOG].end, "the marker at the end is passed, too"
    assert copy.engine.tasks == {}
    assert copy.engine.standbys.progress() == {TASK: note.position}


def test_standby_promoted_mid_transaction() -> None:
    """The owner dies with an open transaction: the copy has nothing of it, and the task counts on from the last commit.

    1. Three records are counted and committed; a copy follows.
    2. Two more are counted, their changelog records are written, and the owner is killed before its commit.
    3. The task comes to the copy's thread, another transactional id: it must wait until the transaction is given up.
    """
    world = keyed_world(3)
    owner = Thread(world, key_count())
    copy, disk = copying(world)
    owner.run(10)
    settle(copy)
    owner.turn()  # the next commit is an interval away
    for _ in range(2):
        world.write("keyed", b"a", b"")
    for where, records in owner.port.poll().items():
        owner.engine.add(where, records)
    assert owner.engine.process(2) == 2
    assert world.logs[LOG].open
    owner.host.die()
    settle(copy)
    assert value(disk) == b"3", "what is not committed reaches no copy"
    state = copy.engine.standbys._copies[TASK].state
    copy.engine.on_assigned(copy.partitions())
    assert copy.engine.tasks[TASK].state is state, "the stores are handed over open"
    copy.run(5)
    assert copy.engine.tasks[TASK].phase is Phase.RESTORING, "the changelog's end is not stable yet"
    world.finish("app-1", False)
    copy.run(10)
    assert copy.engine.tasks[TASK].phase is Phase.RUNNING
    assert found(world) == {"a": ["1", "2", "3", "4", "5"]}
    copy.engine.close()
    assert value(disk) == b"5"


def test_a_promoted_task_restores_what_its_copy_had_not_read() -> None:
    world = keyed_world(2)
    owner = Thread(world, key_count())
    copy, _ = copying(world)
    owner.run(10)
    settle(copy)
    world.write("keyed", b"a", b"")
    owner.run(10)
    owner.engine.close()
    copy.engine.on_assigned(copy.partitions())
    world.write("keyed", b"a", b"")
    copy.run(10)
    assert found(world) == {"a": ["1", "2", "3", "4"]}


def test_a_copy_that_is_not_wanted_any_more_lets_go_and_keeps_what_it_has() -> None:
    world = keyed_world(2)
    Thread(world, key_count()).run(10)
    copy, disk = copying(world)
    copy.run(3)
    copy.engine.standbys.want([])
    copy.run(1)
    assert copy.engine.standbys.progress() == {}
    assert not copy.host._held
    assert value(disk) == b"2"


def test_a_changelog_that_parts_from_what_was_read_begins_the_copy_anew() -> None:
    """The log lost records that the copy has (an unclean election): they must not stay."""
    world = keyed_world(2)
    owner = Thread(world, key_count())
    copy, disk = copying(world)
    owner.run(10)
    settle(copy)
    home = disk[TASK]
    home.commit({"counts": {b"ghost": b"\0" * 8 + b"9"}}, {})
    world.parted = {LOG: 1}
    settle(copy)
    assert value(disk) == b"2"
    assert home.get("counts", b"ghost") is None


def test_a_changelog_that_was_made_again_begins_the_copy_anew() -> None:
    world = keyed_world(0)
    disk: dict[TaskId, MemoryHome] = {}
    world.logs[LOG].entries.append(Entry(Output(CHANGELOG, 0, b"a", b"7", 0), None, 0))
    first = Thread(world, key_count(), transactional_id="app-2", disk=disk)
    first.engine.standbys.want([TASK])
    settle(first)
    first.engine.close()
    world.topic_ids[CHANGELOG] = "another"
    world.logs[LOG].entries[0] = Entry(Output(CHANGELOG, 0, b"b", b"8", 0), None, 0)
    second = Thread(world, key_count(), transactional_id="app-2", disk=disk)
    second.engine.standbys.want([TASK])
    settle(second)
    assert value(disk) is None
    assert disk[TASK].get("counts", b"b") == b"\0" * 8 + b"8"


def test_copies_wait_while_a_task_restores() -> None:
    """What runs here comes first: a copy reads nothing until the tasks have what they need."""
    world = keyed_world(3)
    Thread(world, key_count()).run(10)
    world.held.clear()
    world.disk.clear()
    log = world.logs[LOG]
    log.open["someone", 1] = log.end
    log.entries.append(Entry(Output(CHANGELOG, 0, b"x", b"1", 0), "someone", 1))
    thread = Thread(world, key_count())
    thread.run(3)
    assert thread.engine.tasks[TASK].phase is Phase.RESTORING
    assert set(thread.port._changelogs) == {LOG}


def test_a_copy_that_cannot_be_opened_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks that run beside it go on, and the copy is opened when it can be."""
    world = keyed_world(2)
    Thread(world, key_count()).run(10)
    copy, disk = copying(world)
    tried: list[TaskId] = []

    def fail(task: TaskId, sub_topology: object) -> None:
        tried.append(task)
        copy.host._held[task] = copy.host
        raise StateError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(copy.host, "open", fail)
        settle(copy)
        assert tried
        assert copy.engine.standbys.progress() == {}
        assert not copy.host._held, "its directory is let go"
    settle(copy)
    assert value(disk) == b"2"


def test_a_copy_that_cannot_begin_anew_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    world = keyed_world(2)
    Thread(world, key_count()).run(10)
    copy, _ = copying(world)
    settle(copy)
    state = copy.engine.standbys._copies[TASK].state

    def fail(store: str) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(state, "wipe", fail)
    world.parted = {LOG: 1}
    settle(copy)
    assert copy.engine.standbys._copies[TASK].state is not state, "it was opened again"


@pytest.mark.parametrize("seed", range(12))
def test_tasks_change_places_with_their_copies(seed: int) -> None:
    """Two machines with a disk each; one has the tasks, the other copies; they change places after kills and handovers."""
    dice = random.Random(seed)
    world, words = word_world(seed, partitions=dice.choice([1, 2]))
    world.late_markers = dice.random() < 0.5
    disks: tuple[dict[TaskId, MemoryHome], dict[TaskId, MemoryHome]] = ({}, {})
    tasks = [TaskId(1, number) for number in range(world.counts[CHANGELOG])]
    threads: list[Thread | None] = [None, None]

    def live(place: int) -> Thread:
        found = threads[place]
        if found is None:
            found = threads[place] = Thread(world, word_count(), transactional_id=f"app-{place}", disk=disks[place])
        return found

    owner = 0
    live(0).engine.on_assigned(live(0).partitions())
    live(1).engine.standbys.want(tasks)
    for _ in range(10):
        other = 1 - owner
        killed = dice.random() < 0.5
        world.kill_at = world.steps + dice.randrange(1, 80) if killed else None
        try:
            for _ in range(dice.randrange(1, 25)):
                live(owner).turn()
                live(other).turn()
        except Killed:
            # Whoever took the step dies; the model does not say who, so both do now and then.
            for place in (owner, other) if dice.random() < 0.3 else (owner,):
                threads[place] = None
        world.kill_at = None
        if threads[owner] is not None:
            if dice.random() < 0.3:
                continue
            live(owner).engine.on_revoked(live(owner).partitions())
        else:
            # The group notices only after a while; by then the coordinator has given the transaction up.
            running = world.coordinators.get(f"app-{owner}")
            if running is not None:
                running.epoch += 1
                world.finish(f"app-{owner}", False)
        world.tick()
        owner = other
        live(owner).engine.on_assigned(live(owner).partitions())
        live(1 - owner).engine.standbys.want(tasks)
    for _ in range(120):
        live(owner).turn()
    live(owner).engine.close()
    world.tick()
    assert found(world) == expected(words)
    rows = {}
    for home in disks[owner].values():
        if "counts" in home._tables:
            rows.update({key: each[8:] for key, each in home.page("counts", None, None, reverse=False, limit=99)})
    assert rows == {word.encode(): counts[-1].encode() for word, counts in expected(words).items()}
