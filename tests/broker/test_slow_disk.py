"""A disk that hangs: whoever waits for it waits, and nobody else does.

A whole broker on the real event loop with real threads. Its disk can be told to hang: from then on every write of a
log, or every fsync, blocks its thread until the test lets go. What is asserted is what others were answered meanwhile.
The first slow write is met on the loop, costs its own time once, and teaches the broker; so the disk is slow before it
hangs, as disks are.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ottla.broker.broker import Broker
from ottla.broker.config import BrokerConfig
from ottla.broker.replicas.disk_pace import SLOW_MS
from ottla.broker.replicas.hand_offs import LANES
from ottla.broker.wiring.surroundings import Surroundings
from ottla.clock import SystemClock
from ottla.cluster.trees.memory import MemoryStore, MemoryTree
from ottla.errors import ErrorCode
from ottla.offload import ThreadOffload
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.metadata import MetadataRequest, MetadataResponse
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message
from ottla.storage.files import Buffer, OsFile, OsFiles
from ottla.testing.wire import WireClient

GROUP = "members"
#: More than the broker has threads for disks.
PARTITIONS = 12
WORKERS = 4
ROUNDS = 30
PATIENCE_S = 20.0


class Gate:
    """Open: the disk is quick. `slow_s`: each operation takes so long. `hang`: none returns before `let_go`."""

    def __init__(self) -> None:
        self.slow_s = 0.0
        self.loop_thread = threading.get_ident()
        self.waiting = 0
        self.waited_on_loop = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()

    def hang(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self.slow_s = 0.0
        self._open.set()

    def pass_through(self) -> None:
        """What the disk does before it does what it was asked."""
        if self.slow_s:
            time.sleep(self.slow_s)
        if self._open.is_set():
            return
        with self._lock:
            self.waiting += 1
            if threading.get_ident() == self.loop_thread:
                self.waited_on_loop += 1
        if threading.get_ident() == self.loop_thread:
            return  # counted, and the test fails: waiting here would never end
        try:
            assert self._open.wait(PATIENCE_S), "the test forgot to let go"
        finally:
            with self._lock:
                self.waiting -= 1


class SlowFile(OsFile):
    """A file on that disk."""

    __slots__ = ("_appends", "_syncs")

    def __init__(self, fd: int, appends: Gate | None, syncs: Gate | None) -> None:
        super().__init__(fd)
        self._appends = appends
        self._syncs = syncs

    def append(self, data: Buffer) -> None:
        if self._appends is not None:
            self._appends.pass_through()
        super().append(data)

    def datasync(self) -> None:
        if self._syncs is not None:
            self._syncs.pass_through()
        super().datasync()


class SlowDisk(OsFiles):
    """The machine's disk with two gates, one before the writes and one before the fsyncs of logs."""

    def __init__(self) -> None:
        self.appends = Gate()
        self.syncs = Gate()

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> OsFile:
        file = super().open(path, create=create, truncate=truncate, write=write)
        is_log = write and path.endswith(".log")
        slow = SlowFile(file.fileno(), self.appends if is_log else None, self.syncs if is_log else None)
        file._fd = -1  # the descriptor has a new owner
        return slow


class Node:
    """A broker in this process, and clients of it."""

    def __init__(self, broker: Broker, disk: SlowDisk) -> None:
        self.broker = broker
        self.disk = disk
        self.port = broker.server.addresses[0][2]

    async def connect(self) -> WireClient:
        return await WireClient.connect("127.0.0.1", self.port)


@asynccontextmanager
async def running_broker(directory: Path, **settings: object) -> AsyncIterator[Node]:
    disk, offload, store = SlowDisk(), ThreadOffload(WORKERS), MemoryStore()

    async def open_tree(_path: str) -> MemoryTree:
        return store.session()

    overrides = {
        "log.dirs": str(directory),
        "listeners": "PLAINTEXT://127.0.0.1:0",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        **settings,
    }
    broker = Broker(
        BrokerConfig.from_sources(overrides=[f"{key}={value}" for key, value in overrides.items()]),
        Surroundings(
            clock=SystemClock(),
            offload=offload,
            files=disk,
            random=random.Random(1),
            secret_bytes=random.Random(2).randbytes,
            open_tree=open_tree,
        ),
    )
    await broker.start()
    try:
        yield Node(broker, disk)
    finally:
        disk.appends.let_go()
        disk.syncs.let_go()
        await broker.stop()
        offload.close()


async def create_topic(client: WireClient, name: str) -> None:
    topic = CreatableTopic(name=name, num_partitions=PARTITIONS, replication_factor=1)
    answer = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=9000), 5, CreateTopicsResponse)
    assert answer.topics[0].error_code == ErrorCode.NONE


def produce(client: WireClient, topic: str, partition: int) -> asyncio.Future[Message]:
    batch = bytes(build_batch([Record(0, int(time.time() * 1000), None, b"value")]))
    data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=partition, records=batch)])
    return client.send(ProduceRequest(acks=-1, timeout_ms=60_000, topic_data=[data]), 9)


def error_of(answer: Message) -> ErrorCode:
    assert isinstance(answer, ProduceResponse)
    return ErrorCode(answer.responses[0].partition_responses[0].error_code)


class GroupMember:
    """The only member of a group; its heartbeats are what a slow disk must not cost."""

    def __init__(self, client: WireClient) -> None:
        self.client = client
        self.member_id = ""
        self.generation_id = -1

    async def join(self) -> None:
        await self.client.ask(FindCoordinatorRequest(key=GROUP, key_type=0), 3, FindCoordinatorResponse)
        while True:
            joined = await self.client.ask(
                JoinGroupRequest(
                    group_id=GROUP,
                    session_timeout_ms=10_000,
                    rebalance_timeout_ms=10_000,
                    member_id=self.member_id,
                    protocol_type="consumer",
                    protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
                ),
                5,
                JoinGroupResponse,
            )
            self.member_id, self.generation_id = joined.member_id or self.member_id, joined.generation_id
            if joined.error_code == ErrorCode.NONE:
                break
            assert joined.error_code in (ErrorCode.MEMBER_ID_REQUIRED, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        synced = await self.client.ask(
            SyncGroupRequest(
                group_id=GROUP,
                generation_id=self.generation_id,
                member_id=self.member_id,
                assignments=[SyncGroupRequestAssignment(member_id=self.member_id, assignment=b"all")],
            ),
            3,
            SyncGroupResponse,
        )
        assert synced.error_code == ErrorCode.NONE

    async def heartbeat(self) -> None:
        request = HeartbeatRequest(group_id=GROUP, generation_id=self.generation_id, member_id=self.member_id)
        answer = await self.client.ask(request, 3, HeartbeatResponse)
        assert answer.error_code == ErrorCode.NONE


async def others_are_served(node: Node, member: GroupMember, reader: WireClient, topic: str) -> None:
    """Heartbeats, metadata and a fetch of what is there, `ROUNDS` times."""
    partition = FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=1 << 20)
    fetch = FetchRequest(
        replica_id=-1,
        max_wait_ms=0,
        min_bytes=1,
        max_bytes=1 << 20,
        session_epoch=-1,
        topics=[FetchTopic(topic=topic, partitions=[partition])],
    )
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(ROUNDS):
            await member.heartbeat()
            metadata = await reader.ask(MetadataRequest(topics=None), 9, MetadataResponse)
            assert any(found.name == topic for found in metadata.topics)
            fetched = await reader.ask(fetch, 12, FetchResponse)
            assert fetched.responses[0].partitions[0].records


async def until_waiting(gate: Gate, count: int) -> None:
    """Wait until so many threads hang in the gate."""
    async with asyncio.timeout(PATIENCE_S):
        while gate.waiting < count:  # noqa: ASYNC110  # other threads count
            await asyncio.sleep(0.001)


async def hung_writes(directory: Path, hung_partitions: int) -> None:
    """1. Some records, a group. 2. One slow write. 3. The disk hangs; writers wait. 4. Others are served. 5. It lets go."""
    async with running_broker(directory) as node:
        gate = node.disk.appends
        writer, reader = await node.connect(), await node.connect()
        await create_topic(writer, "t")
        assert error_of(await produce(writer, "t", 0)) == ErrorCode.NONE
        member = GroupMember(await node.connect())
        await member.join()

        gate.slow_s = (SLOW_MS + 10) / 1000
        assert error_of(await produce(writer, "t", 0)) == ErrorCode.NONE
        gate.slow_s = 0.0

        gate.hang()
        writers = [await node.connect() for _ in range(hung_partitions)]
        half = (hung_partitions + 1) // 2  # what comes in one turn of the loop shares one lane
        answers = [produce(writers[partition], "t", partition) for partition in range(half)]
        await until_waiting(gate, 1)
        answers += [produce(writers[partition], "t", partition) for partition in range(half, hung_partitions)]
        await until_waiting(gate, min(hung_partitions, LANES))

        await others_are_served(node, member, reader, "t")
        assert gate.waiting >= min(hung_partitions, LANES)
        assert gate.waited_on_loop == 0
        assert not any(answer.done() for answer in answers)

        gate.let_go()
        async with asyncio.timeout(PATIENCE_S):
            for answer in answers:
                assert error_of(await answer) == ErrorCode.NONE


async def test_hung_write_holds_nobody_but_its_producer(tmp_path: Path) -> None:
    await hung_writes(tmp_path / "data", 1)


async def test_more_hung_writes_than_threads_hold_nobody_but_their_producers(tmp_path: Path) -> None:
    await hung_writes(tmp_path / "data", PARTITIONS)


@pytest.mark.parametrize("partitions", [1, PARTITIONS])
async def test_hung_fsync_holds_nobody_but_its_producers(tmp_path: Path, partitions: int) -> None:
    """With flush.messages=1 each acknowledgement waits for an fsync."""
    async with running_broker(tmp_path / "data", **{"log.flush.interval.messages": 1}) as node:
        gate = node.disk.syncs
        writer, reader = await node.connect(), await node.connect()
        await create_topic(writer, "t")
        assert error_of(await produce(writer, "t", 0)) == ErrorCode.NONE
        member = GroupMember(await node.connect())
        await member.join()

        gate.hang()
        writers = [await node.connect() for _ in range(partitions)]
        answers = [produce(client, "t", partition) for partition, client in enumerate(writers)]
        await until_waiting(gate, 1)

        await others_are_served(node, member, reader, "t")
        assert gate.waited_on_loop == 0
        assert not any(answer.done() for answer in answers)

        gate.let_go()
        async with asyncio.timeout(PATIENCE_S):
            for answer in answers:
                assert error_of(await answer) == ErrorCode.NONE


async def test_first_slow_write_costs_others_its_own_time_and_the_next_ones_nothing(tmp_path: Path) -> None:
    """Five writes of a quarter of a second: only the first may be waited for on the loop."""
    async with running_broker(tmp_path / "data") as node:
        gate = node.disk.appends
        writer = await node.connect()
        await create_topic(writer, "t")
        member = GroupMember(await node.connect())
        await member.join()
        lags: list[float] = []
        ended = False

        async def beat() -> None:
            while not ended:
                began = time.monotonic()
                await member.heartbeat()
                lags.append(time.monotonic() - began)
                await asyncio.sleep(0.005)

        gate.slow_s = 0.25
        beating = asyncio.ensure_future(beat())
        for _ in range(5):
            assert error_of(await produce(writer, "t", 0)) == ErrorCode.NONE
        ended = True
        await beating
        waited_long = [lag for lag in lags if lag > 0.2]
        assert len(waited_long) <= 2, lags  # one of them the machine's own, if it must be
        assert len(lags) >= 5 * 4, lags
