"""Transactions of both versions against the hostile cluster: all of one is visible, or nothing, and the caller knows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator

import pytest
from tests.client.core.hostile_cluster import BROKERS, POISON, Cluster, Shell, World
from tests.support.seeds import missing, run_seeds

from ottla.client._core.batch import record_size
from ottla.client._core.operation import Operation
from ottla.client._core.producer import ProducerMachine
from ottla.client._core.settings import ProducerSettings
from ottla.client._core.transactions import GroupMetadata, OffsetAndMetadata, State
from ottla.client.errors import TransactionStateError
from ottla.errors import KafkaError
from ottla.types import TopicPartition

COVERAGE = (
    "crashes",
    "leader moved",
    "answer lost",
    "request lost",
    "duplicate",
    "committed",
    "aborted",
    "end repeated",
    "commit succeeded",
    "abort succeeded",
    "commit failed, abort succeeded",
    "fenced",
    "offsets committed",
    "version 1",
    "version 2",
    "poison",
    "expired",
    "empty transaction",
)
#: Transactions that find another producer in their place end early.
EVENTS_MIN = 10


class Driver:
    """A program that produces transactions, as a coroutine that waits for conditions in virtual time."""

    def __init__(self, world: World, cluster: Cluster, machine: ProducerMachine, shell: Shell) -> None:
        self.world = world
        self.cluster = cluster
        self.machine = machine
        self.shell = shell
        #: (records, offset or None, "committed", "aborted" or "unknown")
        self.told: list[tuple[list[bytes], int | None, str]] = []
        self.finished = False
        self.fenced = False

    def run(self) -> Generator[Operation | float, None, None]:
        world, machine, dice = self.world, self.machine, self.world.random
        transactions = machine.transactions
        assert transactions is not None
        try:
            operation = transactions.initialize()
            yield operation
            if operation.error:
                raise operation.error
            for number in range(12):
                yield from self.one(number)
                if dice.random() < 0.02:
                    self.fence()
                yield dice.expovariate(0.01)
        except KafkaError:
            world.counter["fatal"] += 1
            assert transactions.state is State.FATAL, transactions.state
        self.finished = True

    def one(self, number: int) -> Generator[Operation | float, None, None]:
        world, machine, dice = self.world, self.machine, self.world.random
        transactions = machine.transactions
        assert transactions is not None
        transactions.begin(machine.connections.features)
        world.counter["version 2" if transactions.v2 else "version 1"] += 1
        values: list[bytes] = []
        offset: int | None = None
        known = "unknown"
        self.told.append((values, None, known))
        try:
            for index in range(dice.choice([0, 1, 5, 20])):
                value = b"%03d-%02d" % (number, index)
                topic = dice.choice(["orders", "clicks"])
                key = POISON if world.chance(0.004) else None
                while True:
                    found = machine.append(
                        topic,
                        None,
                        key,
                        value,
                        (),
                        1_700_000_000_000,
                        record_size(key, value, ()),
                        lambda: world.now_ms,
                    )
                    if found is not None:
                        break
                    machine.metadata.use(topic, world.now_ms)
                    self.shell.poll()
                    yield 20.0
                values.append(value)
                if world.chance(0.1):
                    self.shell.poll()
                    yield dice.expovariate(0.1)
            if world.chance(0.5):
                offset = number
                operation = transactions.send_offsets(
                    {TopicPartition("in", 0): OffsetAndMetadata(number)}, GroupMetadata("group", 3, "member")
                )
                yield operation
                if operation.error:
                    raise operation.error
            if not values and offset is None:
                world.counter["empty transaction"] += 1
            if world.chance(0.3):
                yield from self.abort("abort succeeded")
                known = "aborted"
                return
            operation = transactions.commit()
            yield operation
            if operation.error:
                raise operation.error
            world.counter["commit succeeded"] += 1
            known = "committed"
        except KafkaError as error:
            if transactions.state is not State.ABORTABLE:
                assert transactions.state is State.FATAL, transactions.state
                raise
            world.counter["expired"] += "delivery.timeout.ms" in str(error)
            yield from self.abort("commit failed, abort succeeded")
            known = "aborted"
        finally:
            self.told[-1] = (values, offset, known)

    def abort(self, what: str) -> Generator[Operation | float, None, None]:
        assert self.machine.transactions is not None
        operation = self.machine.transactions.abort()
        yield operation
        if operation.error:
            raise operation.error
        self.world.counter[what] += 1

    def fence(self) -> None:
        """Another instance with the same transactional id starts."""
        state = self.cluster.transactional.get("copy")
        if state is not None:
            self.fenced = True
            self.world.counter["fenced"] += 1
            state.epoch += 1
            self.cluster.finish(state, committed=False)

    def step(self, program: Generator[Operation | float, None, None]) -> None:
        """Run the program up to its next wait."""
        try:
            waits_for = next(program)
        except StopIteration:
            return
        self.shell.poll()
        if isinstance(waits_for, float):
            self.world.after(waits_for, lambda: self.step(program))
        elif waits_for.done:
            self.world.after(0, lambda: self.step(program))
        else:
            waits_for.callbacks.append(lambda: self.world.after(0, lambda: self.step(program)))


def run_seed(seed: int) -> Counter[str]:
    world = World(seed)
    dice = world.random
    settings = ProducerSettings(
        transactional_id="copy",
        batch_size=dice.choice([0, 60, 1_000]),
        linger_ms=dice.choice([0, 5]),
        max_in_flight=dice.choice([1, 5]),
        request_timeout_ms=2_000,
        delivery_timeout_ms=dice.choice([2_500, 30_000]),
        metadata_max_age_ms=5_000,
    )
    cluster = Cluster(
        world,
        {"orders": 2, "clicks": 1},
        transaction_version=dice.choice([1, 2]),
        mischief=dice.choice([0.2, 1.0, 1.5]),
    )
    machine = ProducerMachine(settings, [("broker0", 9092), ("broker2", 9092)], random.Random(seed))
    shell = Shell(world, cluster, machine)
    driver = Driver(world, cluster, machine, shell)

    def act_up() -> None:
        cluster.act_up()
        if cluster.mischief:
            world.after(dice.expovariate(0.003), act_up)

    world.after(0, lambda: driver.step(driver.run()))
    world.after(100, act_up)
    world.after(dice.random() * 10, lambda: cluster.crash(dice.choice(BROKERS)))
    world.after(90_000, cluster.revive)
    while not driver.finished:
        assert world.step(), "nothing left to happen"
        assert world.now_ms < 400_000, f"not finished: {machine.transactions and machine.transactions.state}"
    check(driver, cluster)
    return world.counter


def check(driver: Driver, cluster: Cluster) -> None:
    everything = [record for log in cluster.logs.values() for record in log.records]
    for values, offset, known in driver.told:
        for value in values:
            copies = [record for record in everything if record.value == value]
            assert len(copies) <= 1, value
            if known == "committed":
                assert copies, f"{value!r} was committed and is not there"
                assert copies[0].visible is True, f"{value!r} was committed and is not visible"
            elif known == "aborted":
                assert not copies or copies[0].visible is False, f"{value!r} was aborted: {copies[0].visible}"
        if offset is not None and known == "committed":
            driver.world.counter["offsets committed"] += 1
            assert cluster.committed_offsets.get("in-0", -1) >= offset
        if known == "unknown":
            states = {record.visible for record in everything if record.value in values}
            assert not {True, False} <= states, f"half of a transaction is visible: {values}"
    numbers = {offset for _, offset, known in driver.told if known == "aborted"}
    assert cluster.committed_offsets.get("in-0") not in numbers - {None}


def test_seeds() -> None:
    simulation = __import__(__name__, fromlist=["run_seed"])
    assert missing(simulation, run_seeds(simulation, range(100))) == []


def test_calls_out_of_order_say_what_is_wrong() -> None:
    machine = ProducerMachine(ProducerSettings(transactional_id="x"), [("broker0", 9092)], random.Random(0))
    transactions = machine.transactions
    assert transactions is not None
    for call in (transactions.commit, transactions.abort, lambda: transactions.begin({}), transactions.check_send):
        with pytest.raises(TransactionStateError, match="it is uninitialized"):
            call()
