"""A stream thread on the model of a cluster: killed at each step, fenced, refused, left without an answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest
from tests.streams.runtime.model import Entry, Host, Killed, Port, World
from tests.streams.runtime.topologies import CHANGELOG, WORDS, expected, key_count, ticking, word_count

from ottla.errors import MessageTooLargeError
from ottla.streams.caching import CacheBudget
from ottla.streams.calls import Calls
from ottla.streams.context import InputRecord, Output
from ottla.streams.handlers import DeadLetter, Handlers
from ottla.streams.keys import timestamped
from ottla.streams.runtime.engine import Engine
from ottla.streams.runtime.engine_settings import EngineSettings
from ottla.streams.runtime.ports import OutOfRange, TaskFailedError
from ottla.streams.runtime.tasks import Phase, read_time, write_time
from ottla.streams.state.homes import StateLockedError
from ottla.streams.state.memory import MemoryHome
from ottla.streams.store import Store
from ottla.streams.task import Task
from ottla.streams.topology import SubTopology, TaskId, Topology
from ottla.types import TopicPartition

SETTINGS = EngineSettings(exactly_once=True, commit_interval_ms=100)
LINES = ["the quick fox", "the lazy dog", "the end", "a fox a dog", "quick quick end", "dog"]


class Thread:
    """One life of a stream thread that has all tasks; with a `disk` of its own none, until they are assigned."""

    def __init__(
        self,
        world: World,
        topology: Topology,
        settings: EngineSettings = SETTINGS,
        handlers: Handlers | None = None,
        transactional_id: str = "app-1",
        cache: CacheBudget | None = None,
        disk: dict[TaskId, MemoryHome] | None = None,
        calls: Calls | None = None,
        idle_advance_ms: int | None = None,
    ) -> None:
        self.world = world
        self.topology = topology
        self.host = Host(world, disk)
        self.port = Port(world, transactional_id)

        def make(sub: SubTopology, partition: int, stores: Mapping[str, Store]) -> Task:
            return Task(
                sub,
                partition,
                stores,
                application_id="app",
                clock=world.clock.wall_ms,
                partition_count=world.counts.__getitem__,
                handlers=handlers,
                cache=cache,
                calls=calls,
                idle_advance_ms=idle_advance_ms,
            )

        self.engine = Engine(topology, settings, self.port, self.host, make, world.clock)
        if disk is None:
            self.engine.on_assigned(self.partitions())

    def partitions(self) -> list[TopicPartition]:
        """All that the topology reads."""
        return [
            TopicPartition(topic, number)
            for sub in self.topology.tasks
            for topic in sub.source_topics
            for number in range(self.world.counts[topic])
        ]

    def turn(self) -> None:
        """Once round the loop, 30 ms later."""
        self.world.clock.now_ms += 30
        self.engine.advance(1)
        for where, records in self.port.poll().items():
            self.engine.add(where, records)
        self.engine.process(7)
        self.engine.punctuate()
        self.engine.maybe_commit()
        if self.world.dice.random() < 0.3:
            self.world.tick()

    def run(self, turns: int = 60) -> None:
        for _ in range(turns):
            self.turn()


def word_world(seed: int = 0, partitions: int = 2) -> tuple[World, list[str]]:
    world = World({"lines": partitions, WORDS: partitions, CHANGELOG: partitions, "counts": 1}, seed)
    dice = random.Random(seed)
    for number, line in enumerate(LINES):
        world.write("lines", b"", line.encode(), number * 10, dice.randrange(partitions))
    return world, " ".join(LINES).split()


def found(world: World, topic: str = "counts") -> dict[str, list[str]]:
    """What readers of committed records see of an output topic, by key."""
    seen: dict[str, list[str]] = {}
    for where in sorted(world.logs):
        if where.topic == topic:
            for output in world.committed_records(where):
                assert output.key is not None
                assert output.value is not None
                seen.setdefault(output.key.decode(), []).append(output.value.decode())
    return seen


def stored(world: World) -> dict[bytes, bytes]:
    """What the stores on disk hold: key -> value without its time."""
    rows: dict[bytes, bytes] = {}
    for task, home in world.disk.items():
        if "counts" in home._tables:
            assert home.note("counts") is not None, task
            for key, value in home.page("counts", None, None, reverse=False, limit=1000):
                rows[key] = value[8:]
    return rows


def check(world: World, words: list[str]) -> None:
    assert found(world) == expected(words)
    assert stored(world) == {word.encode(): counts[-1].encode() for word, counts in expected(words).items()}


def test_word_count_without_trouble() -> None:
    world, words = word_world()
    thread = Thread(world, word_count())
    thread.run()
    check(world, words)
    thread.engine.close()
    assert not world.held


def _steps() -> int:
    world, _ = word_world()
    Thread(world, word_count()).run()
    return world.steps


@pytest.mark.parametrize("late_markers", [False, True])
def test_kill_at_each_commit_step(late_markers: bool) -> None:
    """The process is killed at every step it takes, and started again: the results are those of one run."""
    for step in range(1, _steps() + 1):
        world, words = word_world()
        world.late_markers = late_markers
        world.kill_at = step
        lives = 0
        while True:
            lives += 1
            thread = None
            try:
                thread = Thread(world, word_count())
                thread.run()
                break
            except Killed:
                if thread is not None:
                    thread.host.die()
                world.held.clear()
                assert lives < 3
        world.tick()
        check(world, words)


@pytest.mark.parametrize("seed", range(40))
def test_kills_at_random_steps(seed: int) -> None:
    """Killed again and again at random steps, the disk lost now and then, markers late, answers lost."""
    dice = random.Random(seed)
    world, words = word_world(seed, partitions=dice.choice([1, 2, 3]))
    world.late_markers = dice.random() < 0.5
    world.answers_lost = {dice.randrange(30): dice.random() < 0.5 for _ in range(3)}
    for _ in range(8):
        world.kill_at = world.steps + dice.randrange(1, 120)
        try:
            Thread(world, word_count()).run(25)
            world.held.clear()
        except Killed:
            world.held.clear()
            if dice.random() < 0.2:
                world.disk.clear()
    world.kill_at = None
    Thread(world, word_count()).run(120)
    world.tick()
    check(world, words)


def _endtxn_answer_lost(committed: bool) -> None:
    world, words = word_world()
    world.answers_lost = {2: committed}
    thread = Thread(world, word_count())
    epoch = thread.port.epoch
    thread.run()
    assert thread.port.epoch == epoch + 1, "a new producer has settled the outcome"
    check(world, words)


def test_endtxn_answer_lost_committed() -> None:
    """No answer to EndTxn, and the transaction was committed: stores follow the changelog, nothing is counted twice."""
    _endtxn_answer_lost(True)


def test_endtxn_answer_lost_aborted() -> None:
    """No answer to EndTxn, and the transaction was aborted: the records come again."""
    _endtxn_answer_lost(False)


def test_changelog_ends_with_marker() -> None:
    """Restoring is done when the position has passed the marker, and not before the last record."""
    world, words = word_world()
    Thread(world, word_count()).run()
    world.held.clear()
    assert any(
        log.entries and log.entries[-1].record is None for where, log in world.logs.items() if where.topic == CHANGELOG
    )
    world.disk.clear()
    thread = Thread(world, word_count())
    thread.run(20)
    assert all(task.phase is Phase.RUNNING for task in thread.engine.tasks.values())
    check(world, words)


def test_marker_late_on_changelog() -> None:
    """Offsets are committed, the changelog's marker is not there yet: the task waits for it and does not run on old state."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    for _ in range(3):
        world.write("keyed", b"a", b"")
    world.late_markers = True
    world.dice.random = lambda: 0.4  # type: ignore[method-assign]  # every marker is late, and `turn` ticks none
    thread = Thread(world, key_count())
    thread.run(4)
    assert world.offsets[TopicPartition("keyed", 0)][0] == 3
    assert len(world.pending) >= 1
    world.held.clear()
    world.disk.clear()
    world.write("keyed", b"a", b"")
    thread = Thread(world, key_count())
    thread.run(10)
    assert [task.phase for task in thread.engine.tasks.values()] == [Phase.RESTORING]
    world.tick()
    thread.run(20)
    world.tick()
    assert found(world)["a"] == ["1", "2", "3", "4"]


def test_a_changelog_that_stays_unstable_is_an_error() -> None:
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    where = TopicPartition(CHANGELOG, 0)
    world.logs[where].entries.append(Entry(Output(CHANGELOG, 0, b"a", b"1", 0), "someone else", 1))
    world.logs[where].open["someone else", 1] = 0
    thread = Thread(world, key_count())
    thread.turn()
    world.clock.now_ms += 31_000
    thread.turn()  # the broker may have been away: it is asked, and gets the same time again
    world.clock.now_ms += 31_000
    with pytest.raises(TaskFailedError, match=f"{CHANGELOG}-0 does not become stable"):
        thread.run(3)


def test_a_broker_that_was_away_gets_time_to_end_transactions() -> None:
    """A changelog gives nothing while its broker is away: the time that counts begins when it is back."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    log = world.logs[TopicPartition(CHANGELOG, 0)]
    log.entries.append(Entry(Output(CHANGELOG, 0, b"a", b"1", 0), "someone else", 1))
    log.open["someone else", 1] = 0
    thread = Thread(world, key_count())
    thread.turn()
    for _ in range(2):
        world.clock.now_ms += 20_000
        thread.turn()
    log.entries.append(Entry(None, "someone else", 1, False))
    log.open.clear()
    thread.run(3)
    assert [task.phase for task in thread.engine.tasks.values()] == [Phase.RUNNING]


def test_what_is_restored_so_far_outlives_an_abort() -> None:
    """A task restores beside one that runs, whose transaction is aborted: rows that were read of the changelog stay."""
    world = World({"keyed": 2, CHANGELOG: 2, "counts": 1})
    for _ in range(3):
        world.write("keyed", b"a", b"", partition=0)
        world.write("keyed", b"b", b"", partition=1)
    Thread(world, key_count()).run(10)
    world.held.clear()
    world.disk.clear()
    log = world.logs[TopicPartition(CHANGELOG, 1)]
    log.open["someone else", 1] = log.end
    log.entries.append(Entry(Output(CHANGELOG, 1, b"b", b"9", 0), "someone else", 1))
    world.write("keyed", b"a", b"", partition=0)
    world.write("keyed", b"b", b"", partition=1)
    thread = Thread(world, key_count())
    world.generation += 1
    thread.run(6)
    assert thread.engine.aborts >= 1
    assert thread.engine.tasks[TaskId(0, 1)].phase is Phase.RESTORING
    thread.port.generation = world.generation
    log.entries.append(Entry(None, "someone else", 1, False))
    log.open.clear()
    thread.run(10)
    assert found(world) == {"a": ["1", "2", "3", "4"], "b": ["1", "2", "3", "4"]}


def test_a_changelog_that_is_not_there_stops() -> None:
    world = World({"keyed": 1, "counts": 1})
    with pytest.raises(TaskFailedError, match="app-counts-changelog-0 is not there"):
        Thread(world, key_count()).turn()


def test_abort_does_not_make_replay_late() -> None:
    """After an abort an operator's stream time is what was committed: the same records are not late the second time."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    world.write("keyed", b"a", b"", 100)
    thread = Thread(world, key_count())
    thread.run(6)
    world.write("keyed", b"a", b"", 5_000)
    thread.turn()
    core = thread.engine.tasks[TaskId(0, 0)].core
    assert core is not None
    assert core.times_of("count").stream_time == 5_000
    world.generation += 1  # the commit will be refused
    thread.engine.commit()
    assert thread.engine.aborts == 1
    assert core.times_of("count").stream_time == 100
    assert core.stream_time == 100
    thread.port.generation = world.generation
    thread.run(6)
    assert found(world)["a"] == ["1", "2"]


def test_late_record_after_kill() -> None:
    """An operator's stream time survives a kill, and the loss of the disk: it is in the changelog."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    world.write("keyed", b"a", b"", 7_000)
    Thread(world, key_count()).run(6)
    for lose_disk in (False, True):
        world.held.clear()
        if lose_disk:
            world.disk.clear()
        thread = Thread(world, key_count())
        thread.run(6)
        core = thread.engine.tasks[TaskId(0, 0)].core
        assert core is not None
        assert core.times_of("count").stream_time == 7_000


def test_zombie_cannot_commit() -> None:
    """A thread whose partitions went to another one without its knowledge commits nothing, and goes back."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    zombie = Thread(world, key_count(), transactional_id="zombie")
    world.write("keyed", b"a", b"")
    world.clock.now_ms += 1
    zombie.engine.advance(1)
    for where, records in zombie.port.poll().items():
        zombie.engine.add(where, records)
    zombie.engine.process(10)
    world.generation += 1
    world.held.clear()
    owner = Thread(world, key_count(), transactional_id="owner")
    assert owner.engine.tasks
    zombie.engine.commit()
    assert zombie.engine.aborts == 1
    owner.run(10)
    assert found(world)["a"] == ["1"]


def test_zombie_punctuator() -> None:
    """A punctuation writes without reading: its transaction carries the task's offsets all the same, and is fenced."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    world.write("keyed", b"a", b"")
    thread = Thread(world, key_count())
    thread.run(10)
    task = thread.engine.tasks[TaskId(0, 0)]
    assert task.core is not None
    emit = task.core.emit
    task.core.schedule("count", 1000, "wall_clock", lambda now_ms: emit(Output("counts", 0, b"tick", b"1", now_ms)))
    world.clock.now_ms += 1_000
    thread.engine.punctuate()
    world.generation += 1
    thread.engine.commit()
    assert "tick" not in found(world), "the offsets did not change, and the commit was refused"
    assert thread.engine.aborts == 1


def test_punctuate_kill() -> None:
    """Killed at every step of a task that only punctuates: each number that it counts comes out once, in order."""

    def world() -> World:
        made = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
        made.write("keyed", b"a", b"x")
        return made

    whole = world()
    Thread(whole, ticking()).run(20)
    assert len(found(whole)["ticks"]) > 5
    for step in range(1, whole.steps):
        killed = world()
        killed.kill_at = step
        with pytest.raises(Killed):
            Thread(killed, ticking()).run(20)
        killed.held.clear()
        again = Thread(killed, ticking())
        again.run(20)
        again.engine.close()
        ticks = found(killed)["ticks"]
        assert ticks == [str(number + 1) for number in range(len(ticks))]
        assert stored(killed)[b"ticks"] == ticks[-1].encode()
        assert found(killed)["a"] == ["x"]


def test_purge_then_abort() -> None:
    """What is purged of a repartition topic was committed by its reader: an abort finds everything it needs."""
    world, words = word_world()
    thread = Thread(
        world, word_count(), EngineSettings(exactly_once=True, commit_interval_ms=100, repartition_purge_interval_ms=50)
    )
    for _ in range(40):
        thread.turn()
        if world.dice.random() < 0.3:
            thread.port.generation -= 1
            thread.engine.commit()
            thread.port.generation += 1
    thread.run()
    assert any(offset > 0 for _, offset in world.purged)
    check(world, words)


def test_out_of_range_of_a_repartition_topic_stops() -> None:
    world, _ = word_world()
    thread = Thread(world, word_count())
    thread.run(5)
    with pytest.raises(TaskFailedError, match="repartition topic app-words-repartition-0 are gone"):
        thread.engine.on_out_of_range(OutOfRange([TopicPartition(WORDS, 0)]))
    thread.engine.on_out_of_range(OutOfRange([TopicPartition("lines", 0)]))


def test_a_source_that_lost_records_is_read_on_where_its_log_parts() -> None:
    world, _ = word_world()
    thread = Thread(world, word_count())
    thread.run(5)
    where = TopicPartition("lines", 0)
    thread.engine.on_out_of_range(OutOfRange([where], {where: 1}))
    assert thread.port.position(where) == 1
    with pytest.raises(TaskFailedError, match=f"{WORDS}-0 has lost records from offset 3 on"):
        thread.engine.on_out_of_range(OutOfRange([TopicPartition(WORDS, 0)], {TopicPartition(WORDS, 0): 3}))


def _restoring(count: int) -> tuple[World, Thread, TopicPartition]:
    """A thread without its disk, in the middle of a changelog with so many counts of one key."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    for _ in range(count):
        world.write("keyed", b"a", b"")
    Thread(world, key_count()).run(count)
    assert found(world)["a"] == [str(number + 1) for number in range(count)]
    world.held.clear()
    world.disk.clear()
    thread = Thread(world, key_count())
    thread.turn()
    task = thread.engine.tasks[TaskId(0, 0)]
    assert task.phase is Phase.RESTORING
    return world, thread, TopicPartition(CHANGELOG, 0)


def _goes_on(world: World, thread: Thread, count: int) -> None:
    world.write("keyed", b"a", b"")
    thread.run(30)
    assert found(world)["a"] == [str(number + 1) for number in range(count + 1)]
    assert stored(world) == {b"a": str(count + 1).encode()}


def test_a_changelog_whose_start_moves_while_it_is_restored_is_begun_again() -> None:
    world, thread, where = _restoring(20)
    log = world.logs[where]
    log.start = log.end - 4
    _goes_on(world, thread, 20)


def test_a_store_is_rebuilt_when_its_changelog_loses_records_while_it_is_restored() -> None:
    world, thread, where = _restoring(20)
    task = thread.engine.tasks[TaskId(0, 0)]
    assert task.state is not None
    read = task.restoring[where].note.position
    # What the store has of a lost record: a key that the log does not have.
    task.state.stores["counts"].put(b"lost", timestamped(b"7", 0))
    task.state.commit({})
    world.parted = {where: read - 1}
    _goes_on(world, thread, 20)


def test_a_held_directory_is_waited_for() -> None:
    world, words = word_world()
    world.held[TaskId(1, 0)] = object()
    thread = Thread(world, word_count())
    thread.run(20)
    assert thread.engine.tasks[TaskId(1, 0)].phase is Phase.LOCKING
    del world.held[TaskId(1, 0)]
    thread.run()
    check(world, words)


def test_a_directory_that_stays_locked_is_named() -> None:
    world, _ = word_world()
    world.held[TaskId(1, 0)] = object()
    thread = Thread(world, word_count())
    thread.turn()
    world.clock.now_ms += 300_001
    with pytest.raises(StateLockedError, match=r"Task 1_0 waited 300 s \(task\.timeout\.ms\)"):
        thread.turn()


def test_revoking_one_task_commits_all() -> None:
    world, words = word_world()
    thread = Thread(world, word_count())
    while not world.coordinators["app-1"].is_open:
        thread.turn()
    before = dict(world.offsets)
    thread.engine.on_revoked([TopicPartition("lines", 0)])
    assert TaskId(0, 0) not in thread.engine.tasks
    assert TaskId(0, 0) not in world.held
    assert world.offsets != before
    assert not world.coordinators["app-1"].is_open
    thread.engine.on_assigned([TopicPartition("lines", 0)])
    thread.run()
    check(world, words)


def test_on_lost_never_commits() -> None:
    world, words = word_world()
    thread = Thread(world, word_count())
    while not world.coordinators["app-1"].is_open:
        thread.turn()
    before = dict(world.offsets)
    gone = list(thread.engine._by_partition)
    thread.engine.on_lost(gone)
    assert world.offsets == before
    assert not thread.engine.tasks
    assert not world.held
    thread.engine.on_assigned(gone)
    thread.run()
    check(world, words)


def test_dead_letter_aborted_with_input() -> None:
    """A record that the broker refuses: abort, and on the replay the handler gets it before it is sent."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1, "dead": 1})
    for key in (b"a", b"poison", b"a"):
        world.write("keyed", key, b"x")
    world.refuse["counts", b"poison"] = MessageTooLargeError("too large")
    thread = Thread(world, key_count(), handlers=Handlers(production=DeadLetter("dead")))
    thread.run(20)
    assert thread.engine.aborts == 1
    assert found(world) == {"a": ["1", "2"]}
    assert [(record.key, record.value) for record in world.committed_records(TopicPartition("dead", 0))] == [
        (b"poison", b"x")
    ]


def test_a_record_that_is_always_refused_stops() -> None:
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    world.write("keyed", b"a", b"x")
    world.refuse[CHANGELOG, b"a"] = MessageTooLargeError("too large")
    thread = Thread(world, key_count())
    with pytest.raises(Exception, match=r"too large|refused"):
        thread.run(60)


def test_slow_record_does_not_livelock(caplog: pytest.LogCaptureFixture) -> None:
    """One record takes longer than the transaction may be open: it is named, and goes through in one of its own."""
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    for key in (b"a", b"slow", b"a"):
        world.write("keyed", key, b"x")
    thread = Thread(world, key_count(), EngineSettings(exactly_once=True, commit_interval_ms=60_000))
    plain = thread.engine._starter.make_task
    take: Callable[[InputRecord], list[Output]] = lambda record: []  # noqa: E731

    def process(record: InputRecord) -> list[Output]:
        if record.key == b"slow":
            world.clock.now_ms += 12_000
            running = world.coordinators["app-1"]
            if running.is_open:
                world.finish("app-1", False)
                running.epoch += 1
        return take(record)

    def make_slow(sub: SubTopology, partition: int, stores: Mapping[str, Store]) -> Task:
        nonlocal take
        made = plain(sub, partition, stores)
        take, made.process = made.process, process  # type: ignore[method-assign]
        return made

    thread.engine._starter.make_task = make_slow
    thread.run(20)
    thread.engine.commit()
    assert "the record at keyed-0, offset 1, took 12.0 s" in caplog.text
    assert found(world) == {"a": ["1", "2"], "slow": ["1"]}
    assert thread.engine.aborts == 1


def test_a_large_overlay_commits_early() -> None:
    world = World({"keyed": 1, CHANGELOG: 1, "counts": 1})
    for number in range(200):
        world.write("keyed", b"%d" % number, b"x")
    thread = Thread(
        world, key_count(), EngineSettings(exactly_once=True, commit_interval_ms=10**9, uncommitted_max_bytes=2_000)
    )
    thread.run(60)
    assert thread.engine.commits > 5


def test_partition_times_travel_with_the_offsets() -> None:
    """In Kafka Streams' own format: version 1, int64."""
    assert write_time(1234) == "AQAAAAAAAATS"
    assert read_time(write_time(1234)) == 1234
    assert read_time("") == read_time("no base64") == read_time("AQ==") == -1
