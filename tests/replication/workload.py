"""Producers and consumers of a simulated cluster, the one who breaks it, and what must be true at the end.

Each producer is idempotent and sends a batch again with the same sequence until it gets an answer. One of them has several
batches on their way to a partition, and another one sends batches for all partitions of a leader in one request; both send
again what is refused of them, one by one. At the end everything is healed and started; then every partition must have a
leader and a whole ISR, and:

* what was acknowledged is there, once, at the offset that was told, and each producer's records are in their order;
* what a consumer has read is there, where it read it;
* the replicas hold the same bytes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from ottla.broker.replicas.partition import Partition
from ottla.errors import ErrorCode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.testing.simulated_cluster import SimulatedCluster
from ottla.testing.simulated_ensemble import EnsembleFaults
from ottla.testing.virtual_loop import VirtualLoop
from ottla.testing.wire import WireClient
from ottla.types import TopicPartition

Place = tuple[str, int]
Made = tuple[Place, bytearray, list[str]]
"""A batch, where it goes and what is in it."""

ASSIGNMENTS: dict[str, list[tuple[int, ...]]] = {"a": [(1, 2, 3), (2, 3, 1)], "b": [(3, 1, 2)], "pair": [(2, 1)]}
PLACES: list[Place] = [(topic, index) for topic, rows in ASSIGNMENTS.items() for index in range(len(rows))]
PATIENCE_S = 8.0
SETTLED_S = 180.0
#: After everything has been mended clients go on for a while: so long, and until so much has been delivered.
HEALTHY_S = 2.0
#: So many batches are on their way to a partition at most (max.in.flight.requests.per.connection).
IN_FLIGHT_MAX = 5
#: How often those producers do so that can send several batches together.
TOGETHER = 0.25
DELIVERIES_MIN = 1_200


@dataclass
class Ledger:
    """What clients were told, and how often what happened."""

    acknowledged: dict[Place, dict[int, str]] = field(default_factory=dict)
    #: Acknowledged as duplicates whose offsets are not known any more.
    somewhere: dict[Place, set[str]] = field(default_factory=dict)
    sent: dict[tuple[int, Place], list[str]] = field(default_factory=dict)
    seen: dict[Place, dict[int, str]] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    is_over: bool = False


class Clients:
    """Connections of one client, by broker."""

    def __init__(self, cluster: SimulatedCluster, dice: random.Random) -> None:
        self.cluster = cluster
        self.dice = dice
        self._open: dict[int, WireClient] = {}

    def leader_of(self, place: Place) -> int | None:
        """Return who leads, as some broker believes: what Metadata would say."""
        running = [m.broker for m in self.cluster.running if m.broker is not None and m.broker.is_ready]
        if not running:
            return None
        state = self.dice.choice(running).image.partition(TopicPartition(*place))
        return None if state is None or state.leader < 0 else state.leader

    async def to(self, node_id: int) -> WireClient:
        """Return a connection.

        Raises:
            OSError, TimeoutError: there is none.
        """
        client = self._open.get(node_id)
        if client is None or client.closed.done():
            async with asyncio.timeout(PATIENCE_S):
                client = self._open[node_id] = await self.cluster.connect(node_id)
        return client

    def drop(self, node_id: int) -> None:
        client = self._open.pop(node_id, None)
        if client is not None:
            client.close()


async def new_producer_id(clients: Clients) -> int:
    while True:
        node_id = clients.dice.choice(list(clients.cluster.machines))
        try:
            client = await clients.to(node_id)
            async with asyncio.timeout(PATIENCE_S):
                answer = await client.ask(
                    InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000),
                    4,
                    InitProducerIdResponse,
                )
            if not answer.error_code:
                return answer.producer_id
        except (OSError, TimeoutError):
            clients.drop(node_id)
        await asyncio.sleep(0.1)


async def producer(cluster: SimulatedCluster, ledger: Ledger, number: int, dice: random.Random) -> None:
    """Send numbered records to one partition after the other."""
    clients = Clients(cluster, dice)
    producer_id = await new_producer_id(clients)
    sequences: Counter[Place] = Counter()

    def make(place: Place) -> tuple[bytearray, list[str]]:
        count = dice.randint(1, 3)
        first = sequences[place]
        values = [f"{number}:{place[0]}:{place[1]}:{first + i}" for i in range(count)]
        ledger.sent.setdefault((number, place), []).extend(values)
        records = [
            Record(i, cluster.machines[1].clock.wall_ms(), b"k", value.encode()) for i, value in enumerate(values)
        ]
        sequences[place] += count
        return build_batch(records, producer_id=producer_id, producer_epoch=0, base_sequence=first), values

    while not ledger.is_over:
        place = dice.choice(PLACES)
        is_plain = dice.random() >= TOGETHER
        if number == 0 and not is_plain:
            made = [(place, *make(place)) for _ in range(dice.randint(1, IN_FLIGHT_MAX))]
            made = await send_behind_each_other(clients, ledger, made)
        elif number == 1 and not is_plain:
            leader = clients.leader_of(place)
            made = [(where, *make(where)) for where in PLACES if where == place or clients.leader_of(where) == leader]
            made = await send_as_one(clients, ledger, leader, made)
        else:
            made = [(place, *make(place))]
        for where, batch, values in made:
            await send(clients, ledger, where, batch, values)
        await asyncio.sleep(dice.expovariate(20))


async def send_behind_each_other(clients: Clients, ledger: Ledger, made: list[Made]) -> list[Made]:
    """Send batches of one partition without waiting for the answers in between; return those that are not acknowledged."""
    leader = clients.leader_of(made[0][0])
    if leader is None:
        return made
    try:
        client = await clients.to(leader)
    except (OSError, TimeoutError):
        clients.drop(leader)
        return made
    answers = await asyncio.gather(*(ask(client, [one]) for one in made), return_exceptions=True)
    left = []
    for one, answer in zip(made, answers, strict=True):
        if isinstance(answer, OSError | TimeoutError):
            clients.drop(leader)
        elif isinstance(answer, BaseException):
            raise answer
        elif take_in(ledger, one, answer[one[0]]):
            continue
        left.append(one)
    ledger.happened["some of several batches refused"] += 0 < len(left) < len(made)
    return left


async def send_as_one(clients: Clients, ledger: Ledger, leader: int | None, made: list[Made]) -> list[Made]:
    """Send batches of several partitions in one request; return those that are not acknowledged."""
    if leader is None:
        return made
    try:
        answers = await ask(await clients.to(leader), made)
    except (OSError, TimeoutError):
        clients.drop(leader)
        return made
    left = [one for one in made if not take_in(ledger, one, answers[one[0]])]
    ledger.happened["some of several partitions refused"] += 0 < len(left) < len(made)
    return left


async def send(clients: Clients, ledger: Ledger, place: Place, batch: bytearray, values: list[str]) -> None:
    """Send a batch until it is acknowledged."""
    one = (place, batch, values)
    while True:
        leader = clients.leader_of(place)
        if leader is None:
            await asyncio.sleep(0.1)
            continue
        try:
            answer = (await ask(await clients.to(leader), [one]))[place]
        except (OSError, TimeoutError):
            clients.drop(leader)
            ledger.happened["produce without an answer"] += 1
            await asyncio.sleep(0.05)
            continue
        if take_in(ledger, one, answer):
            return
        code = ErrorCode(answer.error_code)
        assert code not in (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.UNKNOWN_PRODUCER_ID), (
            f"{place}: {values} get {code.name}: the records before them are lost"
        )
        await asyncio.sleep(0.1)


async def ask(client: WireClient, made: list[Made]) -> dict[Place, PartitionProduceResponse]:
    """Send one request, of one batch for each of some partitions; return what is answered for each of them.

    Raises:
        OSError, TimeoutError: there is no answer.
    """
    topics: dict[str, TopicProduceData] = {}
    for (name, index), batch, _ in made:
        topic = topics.setdefault(name, TopicProduceData(name=name, partition_data=[]))
        topic.partition_data.append(PartitionProduceData(index=index, records=bytes(batch)))
    request = ProduceRequest(acks=-1, timeout_ms=4_000, topic_data=list(topics.values()))
    async with asyncio.timeout(PATIENCE_S):
        answer = await client.ask(request, 9, ProduceResponse)
    rows = [((topic.name, part.index), part) for topic in answer.responses for part in topic.partition_responses]
    assert sorted(place for place, _ in rows) == sorted(place for place, _, _ in made), "not what was asked for"
    return dict(rows)


def take_in(ledger: Ledger, one: Made, answer: PartitionProduceResponse) -> bool:
    """Write down what a client was told of a batch; return whether it is acknowledged."""
    place, _, values = one
    code = ErrorCode(answer.error_code)
    if code is ErrorCode.NONE:
        known = ledger.acknowledged.setdefault(place, {})
        for i, value in enumerate(values):
            before = known.setdefault(answer.base_offset + i, value)
            assert before == value, f"{place} {answer.base_offset + i}: {value} was acknowledged, and {before} before"
        ledger.happened["acknowledged"] += 1
        return True
    if code is ErrorCode.DUPLICATE_SEQUENCE_NUMBER:
        ledger.somewhere.setdefault(place, set()).update(values)
        return True
    ledger.happened[code.name] += 1
    return False


async def consumer(cluster: SimulatedCluster, ledger: Ledger, dice: random.Random) -> None:
    """Read all partitions, from leaders and at times from followers, again and again."""
    clients = Clients(cluster, dice)
    positions: Counter[Place] = Counter()
    while not ledger.is_over:
        place = dice.choice(PLACES)
        leader = clients.leader_of(place)
        if dice.random() < 0.3:
            leader = dice.choice(list(ASSIGNMENTS[place[0]][place[1]]))
        if dice.random() < 0.05:
            positions[place] = 0
        if leader is None:
            await asyncio.sleep(0.1)
            continue
        data = FetchPartition(partition=place[1], fetch_offset=positions[place], partition_max_bytes=1 << 20)
        request = FetchRequest(max_wait_ms=200, min_bytes=1, topics=[FetchTopic(topic=place[0], partitions=[data])])
        try:
            client = await clients.to(leader)
            async with asyncio.timeout(PATIENCE_S):
                answer = await client.ask(request, 12, FetchResponse)
        except (OSError, TimeoutError):
            clients.drop(leader)
            continue
        part = answer.responses[0].partitions[0]
        if part.error_code or not part.records:
            await asyncio.sleep(0.05)
            continue
        seen = ledger.seen.setdefault(place, {})
        for offset, value in values_of(part.records):
            before = seen.setdefault(offset, value)
            assert before == value, f"{place} {offset}: read was {before}, and now {value}"
            positions[place] = max(positions[place], offset + 1)
        ledger.happened["consumed"] += 1


def values_of(records: bytes | bytearray | memoryview) -> list[tuple[int, str]]:
    return [
        (record.offset, bytes(record.value or b"").decode())
        for position, _ in iter_batches(records, may_be_cut=True)
        for record in read_records(records, position)
    ]


class Nemesis:
    """Breaks things, one after the other, and mends them again."""

    def __init__(
        self, cluster: SimulatedCluster, ledger: Ledger, dice: random.Random, until: float, *, cuts_power: bool
    ) -> None:
        self.cluster = cluster
        self.ledger = ledger
        self.dice = dice
        self.until = until
        self.cuts_power = cuts_power

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        await self._pause(3)
        await self.crash()
        faults = [self.crash] * 3
        faults += [self.cut_link, self.isolate, self.expire, self.cut_server, self.stop, self.freeze]
        faults += [self.fill_disk, self.fill_disk, self.fail_disk, self.fail_disk]
        while loop.time() < self.until:
            await asyncio.sleep(self.dice.expovariate(0.7))
            if loop.time() < self.until:
                await self.dice.choice(faults)()

    def _note(self, what: str) -> None:
        self.ledger.happened[what] += 1
        self.cluster.loop.note(what.encode())

    async def _pause(self, longest: float) -> None:
        await asyncio.sleep(self.dice.random() * longest)

    async def crash(self) -> None:
        """One or several machines at once."""
        victims = [m for m in self.cluster.machines.values() if m.is_running]
        if not victims:
            return
        count = self.dice.choice([1, 1, 1, 1, 2, 3])
        for machine in self.dice.sample(victims, min(count, len(victims))):
            if self.cuts_power and self.dice.random() < 0.6:
                machine.power_cut()
                self._note("power cut")
            else:
                machine.kill()
                self._note("kill")
            self.ledger.happened["crashes"] += 1
        await self._pause(12)
        await start_all(self.cluster)

    async def stop(self) -> None:
        running = self.cluster.running
        if running:
            machine = self.dice.choice(running)
            self._note("stop")
            try:
                await machine.stop()
            except Exception:  # without a tree it may not be a clean one
                if machine.is_running:
                    machine.kill()
            await self._pause(2)
            await start_all(self.cluster)

    async def fill_disk(self) -> None:
        """A machine has no room for a while; its process may be killed then. A crash of others often follows."""
        machine = self.dice.choice(list(self.cluster.machines.values()))
        machine.fill_disk(self.dice.choice([0, 0, 100, 1_000]))
        self._note("disk full")
        await self._pause(8)
        if machine.is_running and self.dice.random() < 0.5:
            machine.kill()
            self._note("kill")
        machine.make_room()
        await start_all(self.cluster)
        if self.dice.random() < 0.5:
            await self._pause(2)
            await self.crash()

    async def fail_disk(self) -> None:
        """Writes fail, or syncs find no room: the log directory goes offline. Its broker begins anew on a disk that works."""
        machine = self.dice.choice(list(self.cluster.machines.values()))
        is_full = self.cuts_power and self.dice.random() < 0.6  # else there is next to nothing that is synced
        machine.fail_disk(is_full=is_full)
        self._note("fsync finds no room" if is_full else "disk fails")
        await self._pause(6)
        if machine.is_running:
            machine.kill()
            self._note("kill")
        machine.repair_disk()
        await start_all(self.cluster)

    async def cut_link(self) -> None:
        one, other = self.dice.sample(list(self.cluster.machines), 2)
        both_ways = self.dice.random() < 0.5
        self.cluster.cut(one, other, both_ways=both_ways)
        self._note("link cut" if both_ways else "link cut one way")
        await self._pause(15)
        self.cluster.heal()

    async def isolate(self) -> None:
        node_id = self.dice.choice(list(self.cluster.machines))
        from_tree = self.dice.random() < 0.7
        self.cluster.isolate(node_id, from_tree=from_tree)
        self._note("isolated" if from_tree else "isolated from brokers")
        await self._pause(15)
        self.cluster.heal()

    async def expire(self) -> None:
        running = self.cluster.running
        if running:
            self.cluster.ensemble.expire(self.dice.choice(running).tree.session_id)
            self._note("session expired")

    async def cut_server(self) -> None:
        for number in self.dice.sample(range(3), self.dice.choice([1, 1, 2])):
            self.cluster.ensemble.cut_off(number)
        self._note("server cut off")
        await self._pause(10)
        self.cluster.ensemble.heal()

    async def freeze(self) -> None:
        running = self.cluster.running
        if running:
            machine = self.dice.choice(running)
            machine.freeze()
            self._note("frozen")
            await self._pause(12)
            if machine.is_running:
                machine.thaw()


async def start_all(cluster: SimulatedCluster) -> None:
    """Start what does not run; as an init system does, again and again while the tree is out of reach."""
    for machine in cluster.machines.values():
        for attempt in range(40):
            if machine.is_running:
                break
            try:
                await machine.start()
            except Exception:
                if attempt == 39:
                    raise
                await asyncio.sleep(1)


async def run(loop: VirtualLoop, *, cuts_power: bool, seconds: float, with_faults: bool = True) -> Ledger:
    """Run one seed."""
    dice = random.Random(loop.random.random())
    faults = EnsembleFaults(delay_seconds_max=0.004)
    if with_faults and dice.random() < 0.6:
        faults = EnsembleFaults(
            answer_lost=0.03,
            late_request=0.03,
            connection_lost=0.003,
            watch_lost=0.1,
            early_end=0.1,
            late_end=0.1,
            delay_seconds_max=0.01,
        )
    cluster = SimulatedCluster(
        loop,
        3,
        faults=EnsembleFaults(delay_seconds_max=0.004),
        **{
            "min.insync.replicas": 2,
            "replica.lag.time.max.ms": dice.choice([1_000, 3_000, 10_000]),
            "log.flush.interval.messages": 1 if cuts_power else 10_000,
            "replica.fetch.wait.max.ms": dice.choice([50, 500]),
            "replica.socket.timeout.ms": 2_000,
        },
    )
    ledger = Ledger()
    for machine in cluster.machines.values():
        machine.slow_disk = dice.random() < 0.4
    await start_all(cluster)
    for topic, rows in ASSIGNMENTS.items():
        await cluster.make_topic(topic, rows)
    cluster.ensemble.faults = faults
    until = loop.time() + seconds
    nemesis = Nemesis(cluster, ledger, dice, until, cuts_power=cuts_power)
    clients = [
        *(producer(cluster, ledger, number, random.Random(dice.random())) for number in range(3)),
        consumer(cluster, ledger, random.Random(dice.random())),
    ]
    tasks = [loop.create_task(main) for main in clients]
    try:
        breaking = loop.create_task(nemesis.run())
        tasks.append(breaking)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION, timeout=seconds)
        _raise_first(tasks)
        await asyncio.wait([breaking], timeout=60)
        _raise_first(tasks)
        cluster.heal()
        await start_all(cluster)
        await asyncio.sleep(HEALTHY_S)
        while loop.deliveries < DELIVERIES_MIN:  # noqa: ASYNC110 - it is virtual time
            await asyncio.sleep(0.1)
        ledger.is_over = True
        _, late = await asyncio.wait(tasks, timeout=SETTLED_S)
        _raise_first(tasks)
        assert not late, "clients get no answer though everything is well"
        await settle(cluster)
    finally:
        for task in tasks:
            task.cancel()
    check(cluster, ledger)
    ledger.happened["events"] = loop.deliveries
    for name, count in cluster.ensemble.happened.items():
        ledger.happened[name] += count
    for machine in cluster.machines.values():
        ledger.happened.update(machine.happened)
    for machine in cluster.running:
        assert machine.broker is not None
        ledger.happened["ISR shrinks"] += machine.broker.replication.isrs.shrinks
        ledger.happened["ISR expansions"] += machine.broker.replication.isrs.expansions
    return ledger


def _raise_first(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]


def replicas_of(place: Place) -> tuple[int, ...]:
    return ASSIGNMENTS[place[0]][place[1]]


async def settle(cluster: SimulatedCluster) -> None:
    """Wait until every partition has a leader, a whole ISR, and everything in it is committed everywhere."""

    def is_settled() -> bool:
        for place in PLACES:
            state = cluster.state(*place)
            if state.leader < 0 or set(state.isr) != set(replicas_of(place)):
                return False
            ends = set()
            for node_id in replicas_of(place):
                broker = cluster[node_id].broker
                replica = None if broker is None else broker.replicas.replica(*place)
                if replica is None:
                    return False
                ends |= {replica.log.log_end_offset, replica.log.high_watermark}
            if len(ends) > 1:
                return False
        return True

    try:
        await cluster.until(is_settled, SETTLED_S)
    except AssertionError:
        lines = []
        for place in PLACES:
            lines.append(f"{place}: {cluster.state(*place)}")
            for node_id in replicas_of(place):
                broker = cluster[node_id].broker
                replica = None if broker is None else broker.replicas.replica(*place)
                lines.append(f"  {node_id}: {None if replica is None else describe(replica)}")
        raise AssertionError("it does not settle:\n" + "\n".join(lines)) from None


def describe(replica: Partition) -> str:
    log, leader, follower = replica.log, replica.leader, replica.follower
    role = (leader and f"leads, {leader.pending}, {leader.progress}") or (follower and f"follows, {follower.refused}")
    offsets = f"{log.log_start_offset} {log.high_watermark} {log.log_end_offset}"
    return f"{offsets}, epoch {replica.leader_epoch}, {role}"


def check(cluster: SimulatedCluster, ledger: Ledger) -> None:
    for place in PLACES:
        logs = {node_id: cluster.log_bytes(node_id, *place) for node_id in replicas_of(place)}
        assert len(set(logs.values())) == 1, f"{place}: the replicas differ: { {n: len(b) for n, b in logs.items()} }"
        rows = values_of(next(iter(logs.values())))
        found = dict(rows)
        values = [value for _, value in rows]
        assert len(set(values)) == len(values), f"{place}: {[v for v, n in Counter(values).items() if n > 1]} twice"
        for offset, value in ledger.acknowledged.get(place, {}).items():
            assert found.get(offset) == value, (
                f"{place} {offset}: {value} was acknowledged, there is {found.get(offset)}"
            )
        for offset, value in ledger.seen.get(place, {}).items():
            assert found.get(offset) == value, f"{place} {offset}: {value} was read, there is {found.get(offset)}"
        assert ledger.somewhere.get(place, set()) <= set(values), f"{place}: acknowledged, and lost"
        for (number, where), sent in ledger.sent.items():
            if where == place:
                own = [value for value in values if value.startswith(f"{number}:")]
                assert own == sent[: len(own)], f"{place}: records of producer {number} are out of order or missing"
