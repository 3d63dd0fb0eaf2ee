"""The consumer's core against the hostile cluster: every record once, in order; seeks land where they point."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, Shell, World
from tests.client.core.hostile_logs import FetchCluster
from tests.support.seeds import missing, run_seeds

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.fetching import FetchSettings
from ottla.client.columns import NO_END, Columns, Pool
from ottla.client.consumed import Source
from ottla.client.reading import ChunkReader
from ottla.errors import CorruptMessageError
from ottla.types import EARLIEST, LATEST, IsolationLevel, TopicPartition

COVERAGE = (
    "crashes",
    "leader moved",
    "stale metadata",
    "not the leader",
    "refused for now",
    "partition left out",
    "cut",
    "damaged",
    "request lost",
    "answer lost",
    "no answer in time",
    "sought",
    "paused",
    "aborted",
    "read",
    "columns",
    "asked for offsets",
)
EVENTS_MIN = 40


class Reader:
    """A program that takes chunks, seeks and pauses now and then, and checks each record it gets."""

    def __init__(self, world: World, cluster: FetchCluster, machine: ConsumerMachine, shell: Shell) -> None:
        self.world = world
        self.cluster = cluster
        self.machine = machine
        self.shell = shell
        committed = machine.settings.isolation is IsolationLevel.READ_COMMITTED
        self.expected = {
            TopicPartition(*key): [(n, value) for n, value, visible in rows if visible or not committed]
            for key, rows in cluster.values.items()
        }
        self.place = dict.fromkeys(self.expected, 0)
        self.pool = Pool()

    def run(self) -> None:
        world, machine, dice = self.world, self.machine, self.world.random
        # The core is polled where `handing` does it: else it must have nothing to do.
        has_news = False
        for _ in range(dice.randrange(1, 6)):
            try:
                chunk = machine.take()
            except CorruptMessageError:
                has_news = True
                continue
            if chunk is None:
                break
            has_news |= machine.fetcher.held_back
            has_news |= not self.read(chunk)
        states = list(machine.partitions.values())
        if states and self.cluster.mischief and world.chance(0.03):
            state = dice.choice(states)
            rows = self.expected[state.topic_partition]
            place = dice.randrange(len(rows) + 1)
            world.counter["sought"] += 1
            if place == len(rows):
                machine.seek_to(state, LATEST)
            elif world.chance(0.5):
                machine.seek(state, rows[place][0])
            else:
                machine.seek_to(state, 1_700_000_000_000 + rows[place][0])
            self.place[state.topic_partition] = place
            has_news = True
        if states and world.chance(0.03):
            state = dice.choice(states)
            state.paused = not state.paused
            world.counter["paused"] += state.paused
            has_news = True
        if not self.cluster.mischief:
            for state in states:
                has_news |= state.paused
                state.paused = False
        if has_news:
            self.shell.poll()
        else:
            world.counter["nothing new"] += 1
            assert machine.poll(world.now_ms)[0] == []
        world.after(dice.expovariate(0.05), self.run)

    def read(self, chunk: Any) -> bool:
        """Read a chunk; return whether it could be read."""
        state = chunk.state
        where = state.topic_partition
        assert not state.paused
        if chunk.generation != state.generation:
            return True
        reader = ChunkReader(chunk, self.machine.settings.isolation)
        try:
            while not reader.at_end:
                for offset, value in self.read_some(reader):
                    expected = self.expected[where][self.place[where]]
                    assert (offset, value) == expected, (where, offset, expected)
                    self.place[where] += 1
                    self.world.counter["read"] += 1
                state.position = reader.next_offset
        except CorruptMessageError as error:
            self.machine.fail(state, error)
            return False
        return True

    def read_some(self, reader: ChunkReader) -> list[tuple[int, bytes | None]]:
        """Read on, as rows or into columns."""
        dice = self.world.random
        if dice.random() < 0.5:
            return [(row[0], row[3]) for row in reader.next_rows() or []]
        columns: Columns[bytes | None, bytes | None] = Columns(self.pool)
        source: Source[bytes | None, bytes | None] = Source("t", 0, -1, None, None)
        reader.fill(columns, lambda epoch: columns.begin(source), NO_END, dice.randint(1, 20))
        self.world.counter["columns"] += len(columns)
        return [(record.offset, record.value_bytes) for record in columns.records(0, len(columns))]

    @property
    def finished(self) -> bool:
        """Whether everything was read, and each seek has come where it pointed."""
        everything = all(place == len(self.expected[where]) for where, place in self.place.items())
        return everything and all(state.position is not None for state in self.machine.partitions.values())


def run_seed(seed: int) -> Counter[str]:
    world = World(seed)
    dice = world.random
    cluster = FetchCluster(world, mischief=dice.choice([0.3, 1.0, 2.0]), count=dice.choice([50, 300]))
    settings = FetchSettings(
        reset=EARLIEST,
        isolation=dice.choice(list(IsolationLevel)),
        fetch_max_bytes=dice.choice([2_000, 1_000_000]),
        max_partition_fetch_bytes=dice.choice([100, 1_000, 100_000]),
        request_timeout_ms=2_000,
        metadata_max_age_ms=5_000,
    )
    machine = ConsumerMachine(settings, [("broker0", 9092), ("broker1", 9092)], random.Random(seed), lambda: 0)
    shell = Shell(world, cluster, machine)  # type: ignore[arg-type]
    reader = Reader(world, cluster, machine, shell)
    world.counter["aborted"] += sum(map(len, cluster.aborted.values()))
    if dice.random() < 0.5:
        machine.follow(["orders", "clicks"], 0)
    else:
        machine.assign(list(reader.expected), 0)

    def act_up() -> None:
        cluster.act_up()
        if cluster.mischief:
            world.after(dice.expovariate(0.003), act_up)

    world.after(0, shell.poll)
    world.after(0, reader.run)
    world.after(100, act_up)
    world.after(dice.random() * 100, lambda: cluster.crash(dice.choice(BROKERS)))
    world.after(20_000, cluster.revive)
    while cluster.mischief or not reader.finished:
        assert world.step(), "nothing left to happen"
        assert world.now_ms < 200_000, f"not finished: {reader.place}"
    return world.counter


def test_seeds() -> None:
    simulation = __import__(__name__, fromlist=["run_seed"])
    assert missing(simulation, run_seeds(simulation, range(25))) == []
