"""Clients of a simulated broker, the one who kills it, and what must be true at the end.

Producers are idempotent and retry with the same sequence until they get an answer; a consumer reads everything in order;
members of a group rebalance and commit. What a client was told is kept in a `Ledger` and compared with what the broker
serves in the end: acknowledged records are there once, at the offset that was told, in the order they were sent (I1, I3, I4
of the reliability plan); committed offsets do not go back (I8).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
)
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.reader import read_records
from ottla.protocol.records.walk import iter_batches
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop
from ottla.testing.wire import WireClient

Place = tuple[str, int]

TOPICS = {
    "plain": {"segment.bytes": str(1 << 20)},
    "small": {"internal.segment.bytes": "2000"},
    "compacted": {
        "cleanup.policy": "compact",
        "internal.segment.bytes": "2000",
        "min.cleanable.dirty.ratio": "0.01",
        "segment.ms": "3000",
    },
}
PARTITIONS = 2
COMPACTED_KEYS = 5
RETRIABLE = {
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
}
DUPLICATE = ErrorCode.DUPLICATE_SEQUENCE_NUMBER


@dataclass
class Ledger:
    """What clients were told, and how often what happened."""

    acknowledged: dict[Place, dict[int, str]] = field(default_factory=dict)
    sent: dict[tuple[int, Place], list[str]] = field(default_factory=dict)
    committed: dict[Place, int] = field(default_factory=dict)
    seen: dict[Place, dict[int, str]] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)


async def connect(node: SimulatedBroker, name: str) -> WireClient:
    """Connect, however long it takes."""
    while True:
        try:
            return await node.connect(name)
        except ConnectionError:
            await asyncio.sleep(0.05)


async def producer(node: SimulatedBroker, ledger: Ledger, number: int, dice: random.Random, until: float) -> None:
    """Send numbered records to random partitions, several requests in flight, until `until`; then drain."""
    loop = asyncio.get_running_loop()
    client = await connect(node, f"producer-{number}")
    producer_id = -1
    while producer_id < 0:
        try:
            answer = await client.ask(
                InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000), 4, InitProducerIdResponse
            )
            producer_id = answer.producer_id
        except ConnectionError:
            client = await connect(node, f"producer-{number}")
    sequences: Counter[Place] = Counter()
    count = 0
    while loop.time() < until:
        batches: list[tuple[Place, bytearray, list[str]]] = []
        for place in dice.sample([(t, p) for t in TOPICS for p in range(PARTITIONS)], dice.randint(1, 3)):
            size = dice.randint(1, 4)
            values = [f"{number}:{place[0]}:{place[1]}:{sequences[place] + i}" for i in range(size)]
            records = [
                Record(i, node.clock.wall_ms(), f"key-{dice.randrange(COMPACTED_KEYS)}".encode(), value.encode())
                for i, value in enumerate(values)
            ]
            batches.append(
                (
                    place,
                    build_batch(records, producer_id=producer_id, producer_epoch=0, base_sequence=sequences[place]),
                    values,
                )
            )
            ledger.sent.setdefault((number, place), []).extend(values)
            sequences[place] += size
            count += size
        client = await _send_until_answered(node, ledger, client, batches, f"producer-{number}")
        await asyncio.sleep(dice.expovariate(20))
    client.close()


async def _send_until_answered(
    node: SimulatedBroker,
    ledger: Ledger,
    client: WireClient,
    batches: list[tuple[Place, bytearray, list[str]]],
    name: str,
) -> WireClient:
    waiting = batches
    while waiting:
        again: list[tuple[Place, bytearray, list[str]]] = []
        # One request for each, pipelined: as a client with several requests in flight.
        futures = [
            client.send(
                ProduceRequest(
                    acks=-1,
                    timeout_ms=5_000,
                    topic_data=[
                        TopicProduceData(
                            name=place[0],
                            partition_data=[PartitionProduceData(index=place[1], records=bytes(batch))],
                        )
                    ],
                ),
                9,
            )
            for place, batch, _ in waiting
        ]
        for item, future in zip(waiting, futures, strict=True):
            place, _, values = item
            try:
                answer = await future
            except ConnectionError:
                ledger.happened["produce repeated after a lost connection"] += 1
                again.append(item)
                continue
            assert isinstance(answer, ProduceResponse)
            part = answer.responses[0].partition_responses[0]
            if part.error_code in RETRIABLE:
                ledger.happened["produce repeated after an error"] += 1
                again.append(item)
            elif part.error_code == DUPLICATE:
                # Only for a batch older than the five last ones: then its offset is not known to the client.
                ledger.happened["duplicate"] += 1
            else:
                assert part.error_code == ErrorCode.NONE, ErrorCode(part.error_code).name
                told = ledger.acknowledged.setdefault(place, {})
                for index, value in enumerate(values):
                    assert told.get(part.base_offset + index, value) == value, (place, part.base_offset + index)
                    told[part.base_offset + index] = value
                ledger.happened["acknowledged"] += len(values)
        waiting = again
        if waiting:
            await asyncio.sleep(0.1)
            if client.closed.done():
                client = await connect(node, name)
    return client


async def consumer(node: SimulatedBroker, ledger: Ledger, dice: random.Random, until: float | None) -> None:
    """Read every partition in order; `until` None: to the end, and then return."""
    positions: dict[Place, int] = {(t, p): 0 for t in TOPICS for p in range(PARTITIONS)}
    client = await connect(node, "consumer")
    loop = asyncio.get_running_loop()
    while until is None or loop.time() < until:
        request = FetchRequest(
            max_wait_ms=0 if until is None else 200,
            min_bytes=1,
            max_bytes=dice.choice((1, 500, 100_000)) if until is not None else 100_000,
            topics=[
                FetchTopic(
                    topic=topic,
                    partitions=[
                        FetchPartition(
                            partition=index, fetch_offset=positions[topic, index], partition_max_bytes=50_000
                        )
                        for index in range(PARTITIONS)
                    ],
                )
                for topic in dice.sample(sorted(TOPICS), len(TOPICS))
            ],
        )
        try:
            answer = await client.ask(request, 11, FetchResponse)
        except ConnectionError:
            client = await connect(node, "consumer")
            continue
        progress = False
        for topic in answer.responses:
            for part in topic.partitions:
                place = (topic.topic, part.partition_index)
                if part.error_code in RETRIABLE:
                    progress = True
                    await asyncio.sleep(0.01)
                    continue
                assert part.error_code == ErrorCode.NONE, (place, ErrorCode(part.error_code).name, positions[place])
                progress |= _note_records(ledger, place, positions, part.records)
        if until is None and not progress:
            break
    client.close()


def _note_records(
    ledger: Ledger, place: Place, positions: dict[Place, int], data: bytes | bytearray | memoryview | None
) -> bool:
    progress = False
    for position, header in iter_batches(data or b""):
        for record in read_records(data or b"", position):
            if record.offset < positions[place]:
                continue
            assert record.value is not None
            known = ledger.seen.setdefault(place, {})
            assert known.get(record.offset, record.value.decode()) == record.value.decode(), (place, record.offset)
            known[record.offset] = record.value.decode()
            ledger.happened["consumed"] += 1
        if header.last_offset + 1 > positions[place]:
            positions[place] = header.last_offset + 1
            progress = True
    return progress


async def member(node: SimulatedBroker, ledger: Ledger, number: int, dice: random.Random, until: float) -> None:
    """Join a group, commit growing offsets while in it, check what others committed, leave or vanish, begin again."""
    loop = asyncio.get_running_loop()
    place = (sorted(TOPICS)[number], 0)  # its own: two members that commit for one place would race
    while loop.time() < until:
        client = await connect(node, f"member-{number}")
        try:
            found = await client.ask(
                FindCoordinatorRequest(key_type=0, coordinator_keys=["workers"]), 4, FindCoordinatorResponse
            )
            if found.coordinators[0].error_code:
                await asyncio.sleep(0.1)
                continue
            member_id = ""
            for _ in range(dice.randint(1, 6)):
                joined = await _join(client, member_id)
                if joined.error_code == ErrorCode.MEMBER_ID_REQUIRED:
                    member_id = joined.member_id
                    continue
                if joined.error_code:
                    member_id = "" if joined.error_code == ErrorCode.UNKNOWN_MEMBER_ID else member_id
                    await asyncio.sleep(0.1)
                    continue
                member_id = joined.member_id
                synced = await client.ask(
                    SyncGroupRequest(
                        group_id="workers",
                        generation_id=joined.generation_id,
                        member_id=member_id,
                        protocol_type="consumer",
                        protocol_name="range",
                        assignments=[
                            SyncGroupRequestAssignment(member_id=m.member_id, assignment=b"all") for m in joined.members
                        ],
                    ),
                    5,
                    SyncGroupResponse,
                )
                if synced.error_code:
                    continue
                ledger.happened["generation"] += 1
                await _commit_some(client, ledger, place, member_id, joined.generation_id, dice)
        except ConnectionError:
            pass
        finally:
            client.close()


async def _join(client: WireClient, member_id: str) -> JoinGroupResponse:
    return await client.ask(
        JoinGroupRequest(
            group_id="workers",
            session_timeout_ms=6_000,
            rebalance_timeout_ms=3_000,
            member_id=member_id,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
        ),
        7,
        JoinGroupResponse,
    )


async def _commit_some(
    client: WireClient, ledger: Ledger, place: Place, member_id: str, generation: int, dice: random.Random
) -> None:
    for _ in range(dice.randint(1, 5)):
        offset = max(await _fetch_committed(client, ledger, place), 0) + 1
        answer = await client.ask(
            OffsetCommitRequest(
                group_id="workers",
                generation_id_or_member_epoch=generation,
                member_id=member_id,
                topics=[
                    OffsetCommitRequestTopic(
                        name=place[0],
                        partitions=[OffsetCommitRequestPartition(partition_index=place[1], committed_offset=offset)],
                    )
                ],
            ),
            8,
            OffsetCommitResponse,
        )
        if answer.topics[0].partitions[0].error_code:
            return
        ledger.happened["offset committed"] += 1
        ledger.committed[place] = max(ledger.committed.get(place, 0), offset)
        await asyncio.sleep(dice.expovariate(10))


async def _fetch_committed(client: WireClient, ledger: Ledger, place: Place) -> int:
    told_before = ledger.committed.get(place, -1)
    answer = await client.ask(
        OffsetFetchRequest(
            groups=[
                OffsetFetchRequestGroup(
                    group_id="workers", topics=[OffsetFetchRequestTopics(name=place[0], partition_indexes=[place[1]])]
                )
            ],
            require_stable=True,
        ),
        8,
        OffsetFetchResponse,
    )
    if answer.groups[0].error_code:
        raise ConnectionResetError("the coordinator is loading")
    part = answer.groups[0].topics[0].partitions[0]
    if part.error_code == ErrorCode.UNSTABLE_OFFSET_COMMIT:
        raise ConnectionResetError("a commit is under way")
    assert part.error_code == ErrorCode.NONE
    assert part.committed_offset >= told_before, "a committed offset went back"
    return part.committed_offset


async def nemesis(
    node: SimulatedBroker, ledger: Ledger, dice: random.Random, until: float, *, cuts_power: bool
) -> None:
    """Kill the broker, cut its power or stop it, at random moments, in the middle of a write too; start it again."""
    loop = asyncio.get_running_loop()
    # The first is a crash, and comes while there is work: a seed without one shows little.
    pause = dice.uniform(0, 0.8) * (until - loop.time())
    while True:
        await asyncio.sleep(pause)
        if loop.time() >= until:
            return
        pause = dice.expovariate(0.5)
        kind = dice.choice(("kill", "kill in a write", "stop", "power cut" if cuts_power else "kill"))
        if kind == "stop" and not ledger.happened["crashes"]:
            kind = "kill"
        if kind == "kill in a write":
            await _tear_a_write(node, dice)
        if kind == "stop":
            await node.stop()
        elif kind == "power cut" or (cuts_power and dice.random() < 0.5):
            node.power_cut()
        else:
            node.kill()
        ledger.happened[kind] += 1
        ledger.happened["crashes"] += kind != "stop"
        await asyncio.sleep(dice.random())
        await node.start()


async def _tear_a_write(node: SimulatedBroker, dice: random.Random) -> None:
    """Let the process die in the middle of one of the next writes."""
    countdown = dice.randint(0, 5)

    def torn(size: int) -> int | None:
        nonlocal countdown
        countdown -= 1
        return dice.randint(0, size - 1) if countdown == 0 and size else None

    life = node.files.life
    node.files.torn_append = torn
    for _ in range(100):
        await asyncio.sleep(0.01)
        if node.files.life != life:
            break
    node.files.torn_append = lambda _size: None


async def create_topics(node: SimulatedBroker) -> None:
    client = await connect(node, "admin")
    answer = await client.ask(
        CreateTopicsRequest(
            timeout_ms=10_000,
            topics=[
                CreatableTopic(
                    name=name,
                    num_partitions=PARTITIONS,
                    replication_factor=1,
                    configs=[CreatableTopicConfig(name=k, value=v) for k, v in configs.items()],
                )
                for name, configs in TOPICS.items()
            ],
        ),
        7,
        CreateTopicsResponse,
    )
    assert [t.error_code for t in answer.topics] == [0] * len(TOPICS), answer
    client.close()


async def run(loop: VirtualLoop, *, cuts_power: bool, seconds: float) -> Ledger:
    """One seed's story: clients and a nemesis for `seconds`, then peace, then the reckoning."""
    loop.time_limit = 3_600
    ledger = Ledger()
    settings: dict[str, object] = {
        "group.initial.rebalance.delay.ms": 100,
        "offsets.topic.num.partitions": 2,
        "log.cleaner.backoff.ms": 500,
        "log.initial.task.delay.ms": 500,
        "log.retention.check.interval.ms": 1_000,
        "log.flush.offset.checkpoint.interval.ms": 2_000,
        "log.segment.delete.delay.ms": 1_000,
    }
    if cuts_power:
        settings["log.flush.interval.messages"] = 1
    node = SimulatedBroker(loop, **settings)
    node.slow_disk = loop.random.random() < 0.5
    if node.slow_disk:
        ledger.happened["slow disk"] += 1
        disk_dice = random.Random(loop.random.random())
        node.files.is_cold = lambda _path: disk_dice.random() < 0.2
        node.files.is_too_dirty = lambda: disk_dice.random() < 0.01
    await node.start()
    await create_topics(node)
    until = loop.time() + seconds

    def dice() -> random.Random:
        return random.Random(loop.random.random())

    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(producer(node, ledger, number, dice(), until))
        for number in range(3):
            group.create_task(member(node, ledger, number, dice(), until))
        group.create_task(consumer(node, ledger, dice(), until))
        group.create_task(nemesis(node, ledger, dice(), until, cuts_power=cuts_power))
    if node.broker is None:
        await node.start()
    cleaned = node.broker
    assert cleaned is not None
    await consumer(node, ledger, dice(), None)
    reckon(ledger)
    await node.stop()
    ledger.happened["events"] = loop.deliveries
    ledger.happened["synced as a whole"] = node.files.whole_syncs
    return ledger


def reckon(ledger: Ledger) -> None:
    """Compare what clients were told with what was read in the end."""
    for place, told in ledger.acknowledged.items():
        seen = ledger.seen.get(place, {})
        values = Counter(seen.values())
        twice = [value for value, count in values.items() if count > 1]
        assert not twice, f"{place}: read twice at different offsets: {twice[:3]}"
        if place[0] == "compacted":
            for offset, value in told.items():
                assert seen.get(offset, value) == value, (place, offset)
            continue
        for offset, value in told.items():
            assert seen.get(offset) == value, f"{place}@{offset}: acknowledged {value}, read {seen.get(offset)}"
        for number in {n for n, p in ledger.sent if p == place}:
            order = [v for _, v in sorted(seen.items()) if v.startswith(f"{number}:")]
            sent = ledger.sent[number, place]
            assert order == [v for v in sent if v in values], f"{place}: producer {number}'s order was not kept"
