"""A cluster in memory, as far as a stream thread sees it, that can be killed before and after every step.

Logs with transactions, markers that are written late, a last stable offset, committed offsets that belong to transactions,
fencing of producers by epoch and of members by generation. Time is a number. What is on "disk" is a `MemoryHome` that
outlives the engine: it holds what was committed to it, as SQLite does.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ottla.client._core.partitioner import murmur2
from ottla.streams.context import InputRecord, Output
from ottla.streams.runtime.ports import Committed, Fenced, OutcomeUnknown, OutOfRange, Refused
from ottla.streams.state.currency import Changelog
from ottla.streams.state.homes import StateLockedError, StoreNote
from ottla.streams.state.memory import MemoryHome
from ottla.streams.state.overlay import TaskState
from ottla.streams.topology import SubTopology, TaskId
from ottla.types import TopicPartition


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Entry:
    """One offset of a log: a record, or the marker of a transaction (`record` is None)."""

    record: Output | None
    producer: str | None
    transaction: int
    committed: bool | None = None


@dataclass
class Log:
    """One partition. `open` has the first offset of each transaction without a marker."""

    entries: list[Entry] = field(default_factory=list)
    start: int = 0
    open: dict[tuple[str, int], int] = field(default_factory=dict)
    outcomes: dict[tuple[str, int], bool] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return len(self.entries)

    @property
    def stable(self) -> int:
        return min(self.open.values(), default=self.end)


@dataclass
class Running:
    """What the coordinator knows of one transactional id."""

    epoch: int = 0
    number: int = 0
    partitions: set[TopicPartition] = field(default_factory=set)
    offsets: dict[TopicPartition, Committed] = field(default_factory=dict)
    is_open: bool = False


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_ms(self) -> int:
        return self.now_ms

    boot_ms = monotonic_ms

    def thread_waits(self) -> int:
        return 0


class World:
    """The cluster and the disk.

    Attributes:
        kill_at: the step at which the process is killed; None: never.
        lose_answer_at: a commit or abort whose answer does not come, by its number.
        late_markers: markers stay away until `tick`.
        parted: told once to who reads changelogs: there the log parts from what was read.
    """

    def __init__(self, topics: Mapping[str, int], seed: int = 0) -> None:
        self.logs = {TopicPartition(topic, number): Log() for topic, count in topics.items() for number in range(count)}
        self.topic_ids = {topic: f"id-of-{topic}" for topic in topics}
        self.counts = dict(topics)
        self.offsets: dict[TopicPartition, Committed] = {}
        self.coordinators: dict[str, Running] = {}
        self.pending: list[tuple[TopicPartition, str, int, bool]] = []
        self.generation = 1
        self.clock = Clock()
        self.dice = random.Random(seed)
        self.steps = 0
        self.step_names: list[str] = []
        self.kill_at: int | None = None
        self.late_markers = False
        self.answers_lost: dict[int, bool] = {}
        self.ends = 0
        self.purged: list[tuple[TopicPartition, int]] = []
        self.disk: dict[TaskId, MemoryHome] = {}
        self.held: dict[TaskId, object] = {}
        self.refuse: dict[tuple[str, bytes], Exception] = {}
        self.parted: dict[TopicPartition, int] = {}

    def step(self, name: str) -> None:
        """One more step; the process may be killed instead."""
        self.steps += 1
        self.step_names.append(name)
        if self.kill_at is not None and self.steps >= self.kill_at:
            self.kill_at = None
            raise Killed(name)

    def write(self, topic: str, key: bytes, value: bytes | None, timestamp: int = 0, partition: int = 0) -> None:
        """Somebody else writes a record, without a transaction."""
        where = TopicPartition(topic, partition)
        self.logs[where].entries.append(Entry(Output(topic, partition, key, value, timestamp), None, 0))

    def committed_records(self, where: TopicPartition) -> list[Output]:
        """Return what a reader of committed records sees of a partition."""
        return [output for _, output in _visible(self.logs[where], 0, self.logs[where].stable)]

    def tick(self) -> None:
        """Write the markers that are late."""
        pending, self.pending = self.pending, []
        for where, producer, number, committed in pending:
            self._mark(where, producer, number, committed)

    def finish(self, transactional_id: str, committed: bool) -> None:
        """The coordinator ends a transaction: offsets first, markers now or later, in any order."""
        running = self.coordinators[transactional_id]
        if not running.is_open:
            return
        running.is_open = False
        if committed:
            self.offsets.update(running.offsets)
        partitions = sorted(running.partitions)
        self.dice.shuffle(partitions)
        for where in partitions:
            if self.late_markers and self.dice.random() < 0.5:
                self.pending.append((where, transactional_id, running.number, committed))
            else:
                self._mark(where, transactional_id, running.number, committed)
        running.partitions, running.offsets = set(), {}

    def _mark(self, where: TopicPartition, producer: str, number: int, committed: bool) -> None:
        log = self.logs[where]
        log.entries.append(Entry(None, producer, number, committed))
        log.open.pop((producer, number), None)
        log.outcomes[producer, number] = committed


def _visible(log: Log, start: int, end: int) -> Iterable[tuple[int, Output]]:
    for offset in range(max(start, log.start), end):
        entry = log.entries[offset]
        if entry.record is not None and (
            entry.producer is None or log.outcomes.get((entry.producer, entry.transaction), False)
        ):
            yield offset, entry.record


class Port:
    """One stream thread's `Cluster`."""

    def __init__(self, world: World, transactional_id: str = "app-1", *, reads: int = 5) -> None:
        self.world = world
        self.generation = world.generation
        self._id = transactional_id
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._changelogs: dict[TopicPartition, int] = {}
        self._reads = reads
        self._ends: dict[TopicPartition, int] = {}
        self._count = 0
        self._refused: dict[int, Exception] = {}
        self.epoch = -1
        self.renew()

    # -- the producer

    def _running(self) -> Running:
        running = self.world.coordinators[self._id]
        if running.epoch != self.epoch:
            raise Fenced(f"{self._id} has epoch {running.epoch}, this producer {self.epoch}")
        return running

    def renew(self) -> None:
        self.world.step("renew")
        running = self.world.coordinators.setdefault(self._id, Running())
        self.world.finish(self._id, False)
        running.epoch += 1
        running.number += 1
        self.epoch = running.epoch
        self._ends, self._count, self._refused = {}, 0, {}

    def begin(self) -> None:
        running = self._running()
        assert not running.is_open, "a transaction in a transaction"
        running.is_open = True
        running.number += 1
        self._ends, self._count, self._refused = {}, 0, {}

    def send(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self._send(output)

    def _send(self, output: Output) -> None:
        self.world.step(f"send to {output.topic}")
        running = self._running()
        assert running.is_open, "a record outside of a transaction"
        index, self._count = self._count, self._count + 1
        refusal = self.world.refuse.get((output.topic, output.key or b""))
        if refusal is not None:
            self._refused[index] = refusal
            return
        partition = output.partition
        if partition is None:
            partition = (murmur2(output.key or b"") & 0x7FFFFFFF) % self.world.counts[output.topic]
        where = TopicPartition(output.topic, partition)
        log = self.world.logs[where]
        running.partitions.add(where)
        log.open.setdefault((self._id, running.number), log.end)
        log.entries.append(Entry(output, self._id, running.number))
        self._ends[where] = log.end

    def await_deliveries(self) -> dict[TopicPartition, int]:
        self.world.step("await deliveries")
        self._running()
        if self._refused:
            raise Refused("the broker refused a record", self._refused)
        ends, self._ends, self._count = self._ends, {}, 0
        return ends

    def commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        self.world.step("send offsets")
        running = self._running()
        assert running.is_open
        assert offsets, "no offsets, no fence"
        if self.generation != self.world.generation:
            raise Refused("ILLEGAL_GENERATION")
        running.offsets.update(offsets)
        self.world.step("end transaction")
        self.world.ends += 1
        lost = self.world.answers_lost.get(self.world.ends)
        if lost is None:
            self.world.finish(self._id, True)
            self.world.step("transaction committed")
            return
        if lost:
            self.world.finish(self._id, True)
        raise OutcomeUnknown("no answer")

    def abort(self) -> None:
        self.world.step("abort")
        self._running()
        self.world.finish(self._id, False)
        self._ends, self._count, self._refused = {}, 0, {}

    # -- partitions that are read

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Committed | None]:
        self.world.step("fetch committed offsets")
        wanted = list(partitions)
        for transactional_id, running in self.world.coordinators.items():
            if running.is_open and running.offsets.keys() & set(wanted):
                self.world.finish(transactional_id, False)  # require_stable waits: the coordinator gives it up
        return {where: self.world.offsets.get(where) for where in wanted}

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        log = self.world.logs[partition]
        return log.start, log.stable

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._positions.update(offsets)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def position(self, partition: TopicPartition) -> int | None:
        return self._positions.get(partition)

    def lag(self, partition: TopicPartition) -> int | None:
        position = self._positions.get(partition)
        return None if position is None else self.world.logs[partition].stable - position

    def purge(self, before: Mapping[TopicPartition, int]) -> None:
        self.world.step("purge")
        for where, offset in before.items():
            self.world.purged.append((where, offset))
            self.world.logs[where].start = max(self.world.logs[where].start, offset)

    def poll(self) -> dict[TopicPartition, list[InputRecord]]:
        """What a consumer would hand out now."""
        found = {}
        for where in sorted(self._positions):
            if where in self._paused:
                continue
            records, self._positions[where] = self._read(where, self._positions[where])
            if records:
                found[where] = records
        return found

    def _read(self, where: TopicPartition, start: int) -> tuple[list[InputRecord], int]:
        log = self.world.logs[where]
        assert start >= log.start, f"{where}: {start} is below the start {log.start}"
        records: list[InputRecord] = []
        position = max(start, log.stable)
        for offset, output in _visible(log, start, log.stable):
            if len(records) == self._reads:
                position = offset
                break
            records.append(InputRecord(*where, offset, output.timestamp, output.key, output.value, output.headers))
        return records, position

    # -- changelogs

    def changelogs(self, partitions: Mapping[TopicPartition, StoreNote | None]) -> dict[TopicPartition, Changelog]:
        self.world.step("describe changelogs")
        found = {}
        for where in partitions:
            if where not in self.world.logs:
                raise LookupError(str(where))
            log = self.world.logs[where]
            found[where] = Changelog(
                topic=where.topic,
                topic_id=self.world.topic_ids[where.topic],
                start=log.start,
                end=log.end,
                delete_retention_ms=86_400_000,
            )
        return found

    def restore_from(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._changelogs = dict(offsets)

    def restored(self, wait_ms: int, limit: int) -> dict[TopicPartition, tuple[Sequence[InputRecord], int]]:
        self.world.step("read changelogs")
        self.world.clock.now_ms += wait_ms
        found: dict[TopicPartition, tuple[Sequence[InputRecord], int]] = {}
        gone = [where for where, position in self._changelogs.items() if position < self.world.logs[where].start]
        if gone or self.world.parted:
            parted, self.world.parted = self.world.parted, {}
            raise OutOfRange([*gone, *parted], parted)
        for where, position in self._changelogs.items():
            records, self._changelogs[where] = self._read(where, position)
            found[where] = records, self._changelogs[where]
        return found


class Host:
    """The disk of one process: every task's home is what an earlier process has committed to it.

    Args:
        disk: of a process that shares no disk with the others; without it, the world's.
    """

    def __init__(self, world: World, disk: dict[TaskId, MemoryHome] | None = None) -> None:
        self._world = world
        self._disk = world.disk if disk is None else disk
        self._held: dict[TaskId, object] = world.held if disk is None else {}

    def open(self, task: TaskId, sub_topology: SubTopology) -> TaskState:
        self._world.step("open the stores")
        if self._held.get(task, self) is not self:
            raise StateLockedError(f"{task} is in use")
        self._held[task] = self
        home = self._disk.setdefault(task, MemoryHome())
        for spec in sub_topology.stores:
            home.open_table(spec.name, spec.kind.value)
        return KillableState(self._world, dict.fromkeys((spec.name for spec in sub_topology.stores), home))

    def wipe(self, task: TaskId) -> None:
        self._disk.pop(task, None)

    def release(self, task: TaskId) -> None:
        self._held.pop(task, None)

    def die(self) -> None:
        """The process is gone; the operating system lets its locks go."""
        for task in [task for task, holder in self._held.items() if holder is self]:
            del self._held[task]


class KillableState(TaskState):
    """Stores whose commit is a step."""

    def __init__(self, world: World, homes: Mapping[str, MemoryHome]) -> None:
        super().__init__(homes)
        self._world = world

    def commit(self, notes: Mapping[str, StoreNote]) -> None:
        self._world.step("commit the stores")
        super().commit(notes)
        self._world.step("the stores are committed")
