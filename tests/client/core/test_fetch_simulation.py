"""The consumer's core against the hostile cluster: every record once, in order; seeks land where they point."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from tests.client.core.hostile_cluster import BROKERS, Cluster, Shell, World
from tests.support.seeds import missing, run_seeds

from ottla.client._core.consumer import ConsumerMachine
from ottla.client._core.fetching import FetchSettings
from ottla.client.reading import read_chunk
from ottla.errors import CorruptMessageError, ErrorCode
from ottla.protocol.messages.fetch import (
    AbortedTransaction,
    FetchableTopicResponse,
    FetchRequest,
    FetchResponse,
    LeaderIdAndEpoch,
    PartitionData,
)
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.schema import Message
from ottla.types import EARLIEST, LATEST, CompressionType, IsolationLevel, TopicPartition

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
    "asked for offsets",
)
EVENTS_MIN = 40


class FetchCluster(Cluster):
    """Brokers with logs that are full already; committed and aborted transactions among them."""

    def __init__(self, world: World, *, mischief: float, count: int) -> None:
        super().__init__(world, {"orders": 3, "clicks": 1}, mischief=mischief)
        self.batches: dict[tuple[str, int], list[tuple[int, int, bytes]]] = {}
        self.values: dict[tuple[str, int], list[tuple[int, bytes, bool]]] = {}
        self.aborted: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
        for key in self.logs:
            self.fill(key, count)

    def fill(self, key: tuple[str, int], count: int) -> None:
        dice = self.world.random
        batches: list[tuple[int, int, bytes]] = []
        values: list[tuple[int, bytes, bool]] = []
        aborted: list[tuple[int, int, int]] = []
        offset = dice.choice([0, 17])
        while len(values) < count:
            size = dice.randrange(1, 12)
            records = []
            base = offset
            for _ in range(size):
                records.append(
                    Record(offset, 1_700_000_000_000 + offset, None, b"%d" % offset + b"." * dice.randrange(30))
                )
                offset += dice.choice([1, 1, 1, 4])  # compaction leaves gaps
            codec = dice.choice([CompressionType.NONE, CompressionType.ZSTD])
            if dice.random() < 0.3:
                dies = dice.random() < 0.5
                data = build_batch(
                    records, compression=codec, producer_id=5, producer_epoch=0, base_sequence=0, transactional=True
                )
                kind = ControlType.ABORT if dies else ControlType.COMMIT
                batches.append((base, records[-1].offset + 1, bytes(data)))
                marker = end_transaction_marker(
                    kind, 1, timestamp_ms=1, producer_id=5, producer_epoch=0, base_offset=offset
                )
                batches.append((offset, offset + 1, bytes(marker)))
                if dies:
                    aborted.append((5, base, offset))
                offset += 1
                values += [(record.offset, record.value or b"", not dies) for record in records]
            else:
                batches.append((base, records[-1].offset + 1, bytes(build_batch(records, compression=codec))))
                values += [(record.offset, record.value or b"", True) for record in records]
        self.batches[key], self.values[key], self.aborted[key] = batches, values, aborted

    def answer(self, broker: int, request: Message, version: int) -> Message | None:
        match request:
            case FetchRequest():
                return self.fetch(broker, request, version)
            case ListOffsetsRequest():
                return self.list_offsets(broker, request)
        return super().answer(broker, request, version)

    def refusal(self, broker: int, key: tuple[str, int]) -> int:
        if self.logs[key].leader != broker:
            self.world.counter["not the leader"] += 1
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        if self.trouble(0.1):
            self.world.counter["refused for now"] += 1
            return self.world.random.choice(
                [
                    ErrorCode.KAFKA_STORAGE_ERROR,
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
                    ErrorCode.UNKNOWN_LEADER_EPOCH,
                    ErrorCode.REPLICA_NOT_AVAILABLE,
                ]
            )
        return ErrorCode.NONE

    def list_offsets(self, broker: int, request: ListOffsetsRequest) -> ListOffsetsResponse:
        topics = []
        for topic in request.topics:
            parts = []
            for part in topic.partitions:
                key = (topic.name, part.partition_index)
                self.world.counter["asked for offsets"] += 1
                code = self.refusal(broker, key)
                batches = self.batches[key]
                offset = batches[0][0] if part.timestamp == EARLIEST else batches[-1][1]
                if part.timestamp >= 0:
                    later = [n for n, _, _ in self.values[key] if 1_700_000_000_000 + n >= part.timestamp]
                    offset = later[0] if later else -1
                parts.append(
                    ListOffsetsPartitionResponse(
                        partition_index=part.partition_index, error_code=code, offset=-1 if code else offset
                    )
                )
            topics.append(ListOffsetsTopicResponse(name=topic.name, partitions=parts))
        return ListOffsetsResponse(topics=topics)

    def fetch(self, broker: int, request: FetchRequest, version: int) -> FetchResponse:
        names = {topic_id: topic for topic, topic_id in self.ids.items()}
        topics = []
        for topic in request.topics:
            name = names[topic.topic_id] if version >= 13 else topic.topic
            parts = []
            for part in topic.partitions:
                key = (name, part.partition)
                if self.trouble(0.02):
                    self.world.counter["partition left out"] += 1
                    continue
                data = PartitionData(partition_index=part.partition, error_code=self.refusal(broker, key))
                if data.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER and version >= 12 and self.world.chance(0.5):
                    log = self.logs[key]
                    data.current_leader = LeaderIdAndEpoch(leader_id=log.leader, leader_epoch=log.leader_epoch)
                if data.error_code == ErrorCode.NONE:
                    self.read(key, part.fetch_offset, part.partition_max_bytes, data)
                parts.append(data)
            topics.append(FetchableTopicResponse(topic=name, topic_id=self.ids[name], partitions=parts))
        return FetchResponse(responses=topics)

    def read(self, key: tuple[str, int], offset: int, size_max: int, data: PartitionData) -> None:
        batches = self.batches[key]
        data.high_watermark = data.last_stable_offset = batches[-1][1]
        wanted = [batch for batch in batches if batch[1] > offset]
        first = b"".join(batch[2] for batch in wanted[:1])
        records = b"".join(batch[2] for batch in wanted[:40])
        if len(records) > max(size_max, len(first)):
            self.world.counter["cut"] += 1
            records = records[: max(size_max, len(first))]
        if records and self.trouble(0.02):
            self.world.counter["damaged"] += 1
            broken = bytearray(records)
            # The CRC covers what follows it; of the offset ahead of it only nonsense can be noticed.
            place = self.world.random.choice([1, self.world.random.randrange(17, min(len(first), len(broken)))])
            broken[place] ^= 1 << self.world.random.randrange(8)
            records = bytes(broken)
        data.records = records
        data.aborted_transactions = [
            AbortedTransaction(producer_id=producer_id, first_offset=first_offset)
            for producer_id, first_offset, last_offset in self.aborted[key]
            if last_offset >= offset
        ]


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

    def run(self) -> None:
        world, machine, dice = self.world, self.machine, self.world.random
        for _ in range(dice.randrange(1, 6)):
            try:
                chunk = machine.take()
            except CorruptMessageError:
                continue
            if chunk is None:
                break
            self.read(chunk)
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
        if states and world.chance(0.03):
            state = dice.choice(states)
            state.paused = not state.paused
            world.counter["paused"] += state.paused
        if not self.cluster.mischief:
            for state in states:
                state.paused = False
        self.shell.poll()
        world.after(dice.expovariate(0.05), self.run)

    def read(self, chunk: Any) -> None:
        state = chunk.state
        where = state.topic_partition
        assert not state.paused
        if chunk.generation != state.generation:
            return
        try:
            for rows, _, following in read_chunk(chunk, self.machine.settings.isolation):
                for row in rows:
                    expected = self.expected[where][self.place[where]]
                    assert (row[0], row[3]) == expected, (where, row[0], expected)
                    self.place[where] += 1
                    self.world.counter["read"] += 1
                state.position = following
        except CorruptMessageError as error:
            self.machine.fail(state, error)

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
