"""The requests that `request_path` hands to a broker, and what has to be there before they are ordinary."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.compare import raw

from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest, CreateTopicsResponse
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.wire import WireClient
from ottla.types import ZERO_UUID, CompressionType

TOPIC, GROUP = "measured", "measured"
APIS = ("produce", "fetch", "empty-fetch", "tail", "heartbeat", "consumer-heartbeat", "commit")
#: The versions of a Java client 4.x.
FETCH_VERSION, HEARTBEAT_VERSION, CONSUMER_HEARTBEAT_VERSION, COMMIT_VERSION = 18, 4, 1, 10
_EPOCH = struct.Struct(">i")

M = TypeVar("M")

#: Gives the frame of the request of this number, its size in front.
Frames = Callable[[int], bytes]


class Requests:
    """Makes requests for a broker at `port`.

    Args:
        batch: of each partition.
    """

    def __init__(self, port: int, partitions: int, batch: bytes) -> None:
        self._port = port
        self._partitions = partitions
        self._batch = batch
        self._topic_id = ZERO_UUID

    async def prepare(self, api: str) -> Frames:
        """Make the topic, and what else the requests of this API need; return them."""
        client = await WireClient.connect("127.0.0.1", self._port, client_id=raw.CLIENT_ID)
        topic = CreatableTopic(name=TOPIC, num_partitions=self._partitions, replication_factor=1)
        made = await client.ask(CreateTopicsRequest(topics=[topic], timeout_ms=10_000), 7, CreateTopicsResponse)
        self._topic_id = made.topics[0].topic_id
        produce = self._produce()
        await client.ask(produce, raw.PRODUCE_VERSION, ProduceResponse)
        if api == "produce":
            frames = _always(raw.frame(ApiKey.PRODUCE, raw.PRODUCE_VERSION, produce))
        elif api in ("fetch", "empty-fetch", "tail"):
            frames = await self._fetch(client, api)
        else:
            question = FindCoordinatorRequest(key_type=0, coordinator_keys=[GROUP])
            await client.ask(question, 6, FindCoordinatorResponse)
            frames = _always(
                await (self._consumer(client) if api == "consumer-heartbeat" else self._classic(client, api))
            )
        client.close()
        return frames

    def produce(self) -> bytes:
        """Return the frame of a produce."""
        return raw.frame(ApiKey.PRODUCE, raw.PRODUCE_VERSION, self._produce())

    def _produce(self) -> ProduceRequest:
        parts = [PartitionProduceData(index=index, records=self._batch) for index in range(self._partitions)]
        topics = [TopicProduceData(name=TOPIC, partition_data=parts)]
        return ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=topics)

    async def _fetch(self, client: WireClient, api: str) -> Frames:
        """Return fetches of a session; of `tail`, the batch behind those that were there before."""

        def asked(offset: int) -> list[FetchTopic]:
            parts = [
                FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=1 << 20)
                for index in range(self._partitions)
            ]
            return [FetchTopic(topic_id=self._topic_id, partitions=parts)]

        def request(epoch: int, offset: int | None, session_id: int = 0) -> FetchRequest:
            return FetchRequest(
                max_wait_ms=500 if api == "tail" else 0,
                min_bytes=1,
                session_id=session_id,
                session_epoch=epoch,
                topics=[] if offset is None else asked(offset),
            )

        offset = 0 if api == "fetch" else _record_count(self._batch)
        if api == "tail":
            first = await client.ask(request(0, 0), FETCH_VERSION, FetchResponse)
        else:
            first = await client.ask(request(0, offset), FETCH_VERSION, FetchResponse)
        _check(first)

        def frame(number: int) -> bytes:
            if api == "tail":
                offset_now: int | None = _record_count(self._batch) * (number + 1)
            else:
                offset_now = None if api == "empty-fetch" else 0
            if number and offset_now in (None, 0):
                return known[:position] + _EPOCH.pack(number + 1) + known[position + 4 :]
            return raw.frame(ApiKey.FETCH, FETCH_VERSION, request(number + 1, offset_now, first.session_id))

        known = frame(0)
        position = known.index(_EPOCH.pack(first.session_id)) + 4
        return frame

    async def _consumer(self, client: WireClient) -> bytes:
        """Return the heartbeat of a member that has what it is to have."""

        async def beat(epoch: int, **more: object) -> ConsumerGroupHeartbeatResponse:
            request = ConsumerGroupHeartbeatRequest(group_id=GROUP, member_id="m" * 22, member_epoch=epoch, **more)  # type: ignore[arg-type]
            answer = await client.ask(request, CONSUMER_HEARTBEAT_VERSION, ConsumerGroupHeartbeatResponse)
            _check(answer)
            return answer

        answer = await beat(0, rebalance_timeout_ms=60_000, subscribed_topic_names=[TOPIC], topic_partitions=[])
        owned = [TopicPartitions(topic_id=self._topic_id, partitions=list(range(self._partitions)))]
        answer = await beat(answer.member_epoch, topic_partitions=owned)
        request = ConsumerGroupHeartbeatRequest(group_id=GROUP, member_id="m" * 22, member_epoch=answer.member_epoch)
        return raw.frame(ApiKey.CONSUMER_GROUP_HEARTBEAT, CONSUMER_HEARTBEAT_VERSION, request)

    async def _classic(self, client: WireClient, api: str) -> bytes:
        """Return the heartbeat, or the commit of each partition, of the only member of a group."""
        join = JoinGroupRequest(
            group_id=GROUP,
            session_timeout_ms=300_000,
            rebalance_timeout_ms=60_000,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
        )
        join.member_id = (await client.ask(join, 9, JoinGroupResponse)).member_id
        joined = await client.ask(join, 9, JoinGroupResponse)
        _check(joined)
        sync = SyncGroupRequest(
            group_id=GROUP,
            generation_id=joined.generation_id,
            member_id=join.member_id,
            protocol_type="consumer",
            protocol_name="range",
            assignments=[SyncGroupRequestAssignment(member_id=join.member_id, assignment=b"")],
        )
        _check(await client.ask(sync, 5, SyncGroupResponse))
        if api == "heartbeat":
            beat = HeartbeatRequest(group_id=GROUP, generation_id=joined.generation_id, member_id=join.member_id)
            return raw.frame(ApiKey.HEARTBEAT, HEARTBEAT_VERSION, beat)
        parts = [
            OffsetCommitRequestPartition(partition_index=index, committed_offset=1) for index in range(self._partitions)
        ]
        commit = OffsetCommitRequest(
            group_id=GROUP,
            generation_id_or_member_epoch=joined.generation_id,
            member_id=join.member_id,
            topics=[OffsetCommitRequestTopic(topic_id=self._topic_id, partitions=parts)],
        )
        return raw.frame(ApiKey.OFFSET_COMMIT, COMMIT_VERSION, commit)


def make_batch(records: int, size: int, codec: str) -> bytes:
    """Return the batch that is produced."""
    now_ms = int(time.time() * 1000)
    made = [Record(number, now_ms, None, bytes(size)) for number in range(records)]
    return bytes(build_batch(made, compression=CompressionType[codec.upper()]))


def _record_count(batch: bytes) -> int:
    return _EPOCH.unpack_from(batch, 57)[0]  # type: ignore[no-any-return]


def _always(frame: bytes) -> Frames:
    return lambda _number: frame


def _check(answer: object) -> None:
    code = getattr(answer, "error_code", 0)
    if code:
        raise RuntimeError(f"{type(answer).__name__}: {ErrorCode(code).name}")
