"""The producer's core against the hostile cluster: nothing lost, nothing twice, in order, everything with an outcome."""

from __future__ import annotations

import random
from collections import Counter

from tests.client.core.hostile_cluster import BROKERS, POISON, Cluster, Shell, World
from tests.support.seeds import missing, run_seeds

from ottla.client._core.batch import Batch, Outcome, record_size
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.settings import ProducerSettings
from ottla.types import CompressionType

COVERAGE = (
    "leader moved",
    "crashes",
    "stale metadata",
    "no leader",
    "topic unknown",
    "not the leader",
    "refused for now",
    "written, and refused",
    "too large",
    "poison",
    "out of order",
    "new epoch",
    "duplicate",
    "producer forgotten",
    "unknown producer",
    "partition left out",
    "slow",
    "request lost",
    "answer lost",
    "no answer in time",
    "no connection",
    "acknowledged",
    "failed",
    "expired",
    "no room",
)
#: Few and large batches make few events.
EVENTS_MIN = 40


class Driver:
    """A program that produces, in virtual time, and remembers what it sent in which order."""

    def __init__(self, world: World, machine: ProducerMachine, shell: Shell, count: int, *, poison: float) -> None:
        self.world = world
        self.machine = machine
        self.shell = shell
        self.left = count
        self.poison = poison
        self.sent: list[tuple[bytes, Batch, int]] = []
        self.by_partition: dict[tuple[str, int], list[bytes]] = {}

    def run(self) -> None:
        """Send a few records now, the rest later."""
        world, machine = self.world, self.machine
        for _ in range(world.random.randrange(1, 30)):
            if not self.left:
                return
            number = self.left
            value = b"%06d" % number + b"." * world.random.randrange(0, 120)
            key = None if world.chance(0.5) else b"%d" % world.random.randrange(20)
            if world.chance(self.poison):
                key = POISON
            topic = world.random.choice(["orders", "clicks"])
            found = machine.append(
                topic,
                None,
                key,
                value,
                (),
                1_700_000_000_000 + number,
                record_size(key, value, ()),
                lambda: world.now_ms,
            )
            if found is None:
                if machine.knows(topic):
                    world.counter["no room"] += 1
                    machine.accumulator.waiters.append(lambda: None)
                else:
                    machine.metadata.use(topic, world.now_ms)
                break
            self.left -= 1
            batch, index = found
            self.sent.append((value, batch, index))
            self.by_partition.setdefault((topic, batch.partition), []).append(value)
        self.shell.poll()
        if self.left:
            world.after(world.random.expovariate(0.02), self.run)


def run_seed(seed: int) -> Counter[str]:
    world = World(seed)
    dice = world.random
    acks = dice.choice([-1, -1, -1, 1, 0])
    idempotent = acks == -1 and dice.random() < 0.8
    settings = ProducerSettings(
        acks=acks,
        enable_idempotence=idempotent,
        batch_size=dice.choice([0, 300, 1_000]),
        linger_ms=dice.choice([0, 5, 200]),
        buffer_memory=dice.choice([2_000, 100_000]),
        max_request_size=dice.choice([1_500, 1_000_000]),
        max_in_flight=dice.choice([1, 2, 5]),
        request_timeout_ms=2_000,
        delivery_timeout_ms=dice.choice([4_000, 30_000, 120_000]),
        retries=dice.choice([3, 2_147_483_647, 2_147_483_647]),
        compression=dice.choice([CompressionType.NONE, CompressionType.ZSTD]),
        metadata_max_age_ms=5_000,
    )
    cluster = Cluster(world, {"orders": 3, "clicks": 1}, mischief=dice.choice([0.3, 1.0, 2.0]))
    machine = ProducerMachine(settings, [("broker0", 9092), ("broker1", 9092)], random.Random(seed))
    shell = Shell(world, cluster, machine)
    driver = Driver(world, machine, shell, 500, poison=dice.choice([0, 0.005]))

    def act_up() -> None:
        cluster.act_up()
        if cluster.mischief:
            world.after(dice.expovariate(0.003), act_up)

    world.after(0, driver.run)
    world.after(100, act_up)
    world.after(dice.random() * 100, lambda: cluster.crash(dice.choice(BROKERS)))
    world.after(60_000, cluster.revive)
    limit = 400_000.0
    flushed = None
    while True:
        if not driver.left and flushed is None:
            flushed = machine.flush()
        if flushed is not None and flushed.done:
            break
        assert world.step(), "nothing left to happen, and records without an outcome"
        assert world.now_ms < limit, (
            f"not finished: {driver.left} to send, {machine.pending_records} without an outcome"
        )
    check(driver, cluster, settings)
    return world.counter


def check(driver: Driver, cluster: Cluster, settings: ProducerSettings) -> None:
    world, machine = driver.world, driver.machine
    assert machine.accumulator.used == 0
    assert not machine.accumulator.active
    assert machine.pending_records == 0
    logs = {
        key: [(record.offset, record.value) for record in log.records if record.visible]
        for key, log in cluster.logs.items()
    }
    for value, batch, index in driver.sent:
        found, place = batch.locate(index)
        written = [offset for offset, stored in logs[batch.topic, batch.partition] if stored == value]
        if settings.enable_idempotence:
            remaining = [
                record for record in cluster.logs[batch.topic, batch.partition].records if record.value == value
            ]
            assert sum(not record.deleted for record in remaining) <= 1, (value, written)
        if found.outcome is Outcome.DONE:
            world.counter["acknowledged"] += 1
            if settings.acks:
                assert written, f"{value!r} was acknowledged and is not there"
                assert found.base_offset == -1 or found.base_offset + place in written, (found.base_offset, written)
        else:
            assert found.outcome is Outcome.FAILED
            world.counter["failed"] += 1
            world.counter["expired"] += "delivery.timeout.ms" in str(found.error)
            assert batch.error_of(index) is not None
    if settings.enable_idempotence:
        for key, values in driver.by_partition.items():
            stored = [record.value for record in cluster.logs[key].records if not record.deleted]
            order = {value: number for number, value in enumerate(values)}
            numbers = [order[value] for value in stored]
            assert numbers == sorted(numbers), (key, numbers)


def test_seeds() -> None:
    simulation = __import__(__name__, fromlist=["run_seed"])
    assert missing(simulation, run_seeds(simulation, range(30))) == []
