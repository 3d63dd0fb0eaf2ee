"""Brokers with logs that are full already, for consumers: committed and aborted transactions, gaps, damage, cut answers."""

from __future__ import annotations

from typing import Any

from tests.client.core.hostile_cluster import Cluster, World

from ottla.errors import ErrorCode
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
from ottla.protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderTopicResult,
)
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.control import ControlType, end_transaction_marker
from ottla.protocol.schema import Message
from ottla.types import EARLIEST, CompressionType


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
                    records,
                    compression=codec,
                    leader_epoch=0,
                    producer_id=5,
                    producer_epoch=0,
                    base_sequence=0,
                    transactional=True,
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
                batches.append(
                    (base, records[-1].offset + 1, bytes(build_batch(records, compression=codec, leader_epoch=0)))
                )
                values += [(record.offset, record.value or b"", True) for record in records]
        self.batches[key], self.values[key], self.aborted[key] = batches, values, aborted

    def answer(self, broker: int, request: Message, version: int) -> Any:
        match request:
            case FetchRequest():
                return self.fetch(broker, request, version)
            case ListOffsetsRequest():
                return self.list_offsets(broker, request)
            case OffsetForLeaderEpochRequest():
                return self.epoch_ends(broker, request)
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

    def epoch_ends(self, broker: int, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse:
        """Nothing is ever cut off here: each epoch ends at the end of the log, or beyond what was read of it."""
        topics = []
        for topic in request.topics:
            parts = []
            for part in topic.partitions:
                key = (topic.topic, part.partition)
                self.world.counter["validated"] += 1
                parts.append(
                    EpochEndOffset(
                        partition=part.partition,
                        error_code=self.refusal(broker, key),
                        leader_epoch=part.leader_epoch,
                        end_offset=self.batches[key][-1][1],
                    )
                )
            topics.append(OffsetForLeaderTopicResult(topic=topic.topic, partitions=parts))
        return OffsetForLeaderEpochResponse(topics=topics)

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
