"""A well-behaved client beside the storm: a producer, a consumer and a group member on one connection.

    python -m tests.hostile.calm_client PORT [USER PASSWORD]

Each round it produces one record, reads it back and sends a heartbeat, and measures the three. It runs until its
standard input ends, then reads everything once more and prints JSON. Any wrong answer, missing record, or closed
connection ends it with a traceback: it must not notice what others send.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from ottla.errors import ErrorCode
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.reader import read_records
from ottla.testing.wire import WireClient

TOPIC, GROUP = "calm", "calm-group"
PAUSE_S = 0.01
#: How long a single answer may take. Far above what a quiet broker needs: the machine of a test is shared.
ANSWER_S_MAX = 10.0


def _expect(code: int, what: str) -> None:
    if code:
        raise AssertionError(f"{what}: {ErrorCode(code).name}")


class CalmClient:
    """One connection; every method checks its answer."""

    def __init__(self, wire: WireClient, group: str = GROUP) -> None:
        self.wire = wire
        self.group = group
        self.member_id = ""
        self.generation_id = -1
        self.produced = 0

    async def prepare(self) -> None:
        """Create the topic and become the only member of the group."""
        created = await self.wire.ask(
            CreateTopicsRequest(
                topics=[CreatableTopic(name=TOPIC, num_partitions=1, replication_factor=1)], timeout_ms=9000
            ),
            5,
            CreateTopicsResponse,
        )
        _expect(created.topics[0].error_code, "CreateTopics")
        await self.join()

    async def join(self) -> None:
        """Become the only member of the group."""
        while True:
            found = await self.wire.ask(FindCoordinatorRequest(key=self.group, key_type=0), 3, FindCoordinatorResponse)
            if not found.error_code:
                joined = await self._join()
                if joined.error_code == ErrorCode.MEMBER_ID_REQUIRED:
                    self.member_id = joined.member_id
                    joined = await self._join()
                if not joined.error_code:
                    break
                if joined.error_code not in (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.NOT_COORDINATOR):
                    _expect(joined.error_code, "JoinGroup")
            await asyncio.sleep(0.05)
        self.member_id, self.generation_id = joined.member_id, joined.generation_id
        synced = await self.wire.ask(
            SyncGroupRequest(
                group_id=self.group,
                generation_id=self.generation_id,
                member_id=self.member_id,
                assignments=[SyncGroupRequestAssignment(member_id=self.member_id, assignment=b"mine")],
            ),
            3,
            SyncGroupResponse,
        )
        _expect(synced.error_code, "SyncGroup")

    async def _join(self) -> JoinGroupResponse:
        return await self.wire.ask(
            JoinGroupRequest(
                group_id=self.group,
                session_timeout_ms=10_000,
                rebalance_timeout_ms=10_000,
                member_id=self.member_id,
                protocol_type="consumer",
                protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
            ),
            5,
            JoinGroupResponse,
        )

    async def produce(self) -> None:
        """Produce one record that holds its own offset."""
        batch = build_batch([Record(0, int(time.time() * 1000), None, b"%d" % self.produced)])
        answer = await self.wire.ask(
            ProduceRequest(
                acks=-1,
                timeout_ms=9000,
                topic_data=[
                    TopicProduceData(name=TOPIC, partition_data=[PartitionProduceData(index=0, records=bytes(batch))])
                ],
            ),
            9,
            ProduceResponse,
        )
        partition = answer.responses[0].partition_responses[0]
        _expect(partition.error_code, "Produce")
        assert partition.base_offset == self.produced, (partition.base_offset, self.produced)
        self.produced += 1

    async def fetch(self, offset: int) -> list[Record]:
        """Fetch from `offset`."""
        answer = await self.wire.ask(
            FetchRequest(
                replica_id=-1,
                max_wait_ms=5000,
                min_bytes=1,
                max_bytes=1 << 20,
                session_epoch=-1,
                topics=[
                    FetchTopic(
                        topic=TOPIC,
                        partitions=[FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)],
                    )
                ],
            ),
            12,
            FetchResponse,
        )
        _expect(answer.error_code, "Fetch")
        partition = answer.responses[0].partitions[0]
        _expect(partition.error_code, "Fetch")
        records: list[Record] = []
        data = bytes(partition.records or b"")
        position = 0
        while position < len(data):
            records += read_records(data, position)
            position += 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        return records

    async def heartbeat(self) -> None:
        answer = await self.wire.ask(
            HeartbeatRequest(group_id=self.group, generation_id=self.generation_id, member_id=self.member_id),
            3,
            HeartbeatResponse,
        )
        _expect(answer.error_code, "Heartbeat")

    async def round(self) -> float:
        """Produce, read it back, heartbeat; the seconds it took."""
        began = time.perf_counter()
        async with asyncio.timeout(ANSWER_S_MAX):
            await self.produce()
            (record,) = await self.fetch(self.produced - 1)
            await self.heartbeat()
        assert record.value == b"%d" % (self.produced - 1), record
        return time.perf_counter() - began

    async def read_all(self) -> int:
        """Read everything from the start; the number of records, each checked."""
        offset = 0
        while offset < self.produced:
            for record in await self.fetch(offset):
                assert (record.offset, record.value) == (offset, b"%d" % offset), (offset, record)
                offset += 1
        return offset


async def log_in(wire: WireClient, user: str, password: str) -> None:
    """Log in by PLAIN."""
    shaken = await wire.ask(SaslHandshakeRequest(mechanism="PLAIN"), 1, SaslHandshakeResponse)
    _expect(shaken.error_code, "SaslHandshake")
    said = SaslAuthenticateRequest(auth_bytes=f"\0{user}\0{password}".encode())
    _expect((await wire.ask(said, 2, SaslAuthenticateResponse)).error_code, "SaslAuthenticate")


async def run(port: int, *login: str) -> dict[str, float]:
    """Go round until standard input ends; `login` is a user and a password, or nothing."""
    client = CalmClient(await WireClient.connect("127.0.0.1", port, client_id="calm"))
    if login:
        await log_in(client.wire, *login)
    await client.prepare()
    quiet = [await client.round() for _ in range(100)]
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    rounds: list[float] = []
    while not ended.done():
        rounds.append(await client.round())
        await asyncio.sleep(PAUSE_S)
    read = await client.read_all()
    rounds.sort()
    quiet.sort()
    return {
        "rounds": len(rounds),
        "records": read,
        "quiet_p50_ms": quiet[len(quiet) // 2] * 1000,
        "quiet_p99_ms": quiet[len(quiet) * 99 // 100] * 1000,
        "p50_ms": rounds[len(rounds) // 2] * 1000,
        "p99_ms": rounds[len(rounds) * 99 // 100] * 1000,
        "max_ms": rounds[-1] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), *sys.argv[2:]))), flush=True)
