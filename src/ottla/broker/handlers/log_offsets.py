"""Offsets in logs: ListOffsets (key 2, versions 1-11), OffsetForLeaderEpoch (23, 2-4), DeleteRecords (21, 0-2).

ListOffsets. v2: isolation level. v4: leader epochs (KIP-320). v6: flexible. v7: max timestamp (KIP-734). v8: earliest local
(KIP-405). v9: latest tiered. v10: timeout. v11: earliest pending upload (KIP-1023). Without tiered storage the local log
is the whole log, and there is no latest tiered offset.
OffsetForLeaderEpoch. v3: replica id. v4: flexible. DeleteRecords. v2: flexible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.errors import ErrorCode, KafkaError, StorageError
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
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
from ottla.types import (
    EARLIEST,
    EARLIEST_LOCAL,
    EARLIEST_PENDING_UPLOAD,
    INTERNAL_TOPICS,
    LATEST,
    LATEST_TIERED,
    MAX_TIMESTAMP,
    IsolationLevel,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.replicas.manager import ReplicaManager
    from ottla.broker.replicas.partition import Partition

#: From which version on ListOffsets knows a special timestamp.
SINCE_VERSION = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
HIGH_WATERMARK = -1


class LogOffsetHandlers:
    """Finds offsets by time, by special timestamp and by epoch; moves log starts."""

    def __init__(self, replicas: ReplicaManager) -> None:
        self._replicas = replicas

    def routes(self) -> Routes:
        return {
            ApiKey.LIST_OFFSETS: Route(self.handle_list_offsets),
            ApiKey.OFFSET_FOR_LEADER_EPOCH: Route(self.handle_offset_for_leader_epoch),
            ApiKey.DELETE_RECORDS: Route(self.handle_delete_records),
        }

    async def handle_list_offsets(self, context: RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse:
        response = ListOffsetsResponse()
        seen: dict[tuple[str, int], int] = {}
        for topic in request.topics:
            for p in topic.partitions:
                seen[topic.name, p.partition_index] = seen.get((topic.name, p.partition_index), 0) + 1
        known_isolation = request.isolation_level in (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
        isolation = IsolationLevel(request.isolation_level & 1)
        for topic in request.topics:
            answer = ListOffsetsTopicResponse(name=topic.name)
            response.topics.append(answer)
            answered: set[int] = set()
            for p in topic.partitions:
                part = ListOffsetsPartitionResponse(partition_index=p.partition_index)
                repeated = seen[topic.name, p.partition_index] > 1
                if repeated and p.partition_index in answered:
                    continue  # refused once, however often it is there
                answered.add(p.partition_index)
                answer.partitions.append(part)
                partition = self._replicas.partition(topic.name, p.partition_index)
                if not known_isolation:
                    part.error_code = ErrorCode.UNKNOWN_SERVER_ERROR
                elif repeated:
                    part.error_code = ErrorCode.INVALID_REQUEST
                elif p.timestamp < EARLIEST_PENDING_UPLOAD or context.version < SINCE_VERSION.get(p.timestamp, 0):
                    part.error_code = ErrorCode.UNSUPPORTED_VERSION
                elif partition is None:
                    part.error_code = self._replicas.error(topic.name, p.partition_index)
                else:
                    part.error_code = partition.check_epoch(p.current_leader_epoch)
                    if not part.error_code:
                        try:
                            if request.replica_id >= 0 and p.timestamp == LATEST:
                                part.offset = partition.log.log_end_offset  # a follower looks for its place
                                part.leader_epoch = partition.leader_epoch
                            else:
                                await self._find_offset(partition, p, isolation, part)
                        except KafkaError as error:  # this response has no place for an error of its own
                            part.error_code = error.code
                        if context.version < 4:
                            part.leader_epoch = -1  # not known yet to the response, and not ignorable there
        return response

    async def _find_offset(
        self,
        partition: Partition,
        asked: ListOffsetsPartition,
        isolation: IsolationLevel,
        part: ListOffsetsPartitionResponse,
    ) -> None:
        log = partition.log
        found: tuple[int, int, int] | None = None
        match asked.timestamp:
            case timestamp if timestamp == LATEST:
                part.offset = partition.upper_offset(isolation)
                part.leader_epoch = partition.leader_epoch
            case timestamp if timestamp in (EARLIEST, EARLIEST_LOCAL):
                part.offset = log.log_start_offset
                part.leader_epoch = log.leader_epochs.epoch_for(part.offset)
            case timestamp if timestamp in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
                part.offset = -1
            case timestamp if timestamp == MAX_TIMESTAMP:
                found = await partition.search(log.offset_of_max_timestamp)
            case _:
                found = await partition.search(log.offset_for_timestamp, asked.timestamp)
        if found is not None and found[0] < partition.upper_offset(isolation):
            part.offset, part.timestamp, part.leader_epoch = found

    def handle_offset_for_leader_epoch(
        self, context: RequestContext, request: OffsetForLeaderEpochRequest
    ) -> OffsetForLeaderEpochResponse:
        response = OffsetForLeaderEpochResponse()
        for topic in request.topics:
            answer = OffsetForLeaderTopicResult(topic=topic.topic)
            response.topics.append(answer)
            for p in topic.partitions:
                part = EpochEndOffset(partition=p.partition)
                answer.partitions.append(part)
                partition = self._replicas.partition(topic.topic, p.partition)
                if partition is None:
                    part.error_code = self._replicas.error(topic.topic, p.partition)
                    continue
                part.error_code = partition.check_epoch(p.current_leader_epoch)
                if not part.error_code:
                    part.leader_epoch, part.end_offset = partition.log.end_offset_for_epoch(p.leader_epoch)
        return response

    async def handle_delete_records(
        self, context: RequestContext, request: DeleteRecordsRequest
    ) -> DeleteRecordsResponse:
        response = DeleteRecordsResponse()
        for topic in request.topics:
            answer = DeleteRecordsTopicResult(name=topic.name)
            response.topics.append(answer)
            for p in topic.partitions:
                part = DeleteRecordsPartitionResult(partition_index=p.partition_index, low_watermark=-1)
                answer.partitions.append(part)
                partition = self._replicas.partition(topic.name, p.partition_index)
                if partition is None:
                    part.error_code = self._replicas.error(topic.name, p.partition_index)
                    continue
                log = partition.log
                before = log.high_watermark if p.offset == HIGH_WATERMARK else p.offset
                if topic.name in INTERNAL_TOPICS:
                    part.error_code = ErrorCode.INVALID_TOPIC_EXCEPTION
                elif not log.config.cleanup_delete:
                    part.error_code = ErrorCode.POLICY_VIOLATION
                elif before < 0 or before > log.high_watermark:
                    part.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
                else:
                    try:
                        part.low_watermark = await partition.delete_records(before)
                    except (KafkaError, StorageError, OSError) as error:
                        part.error_code = getattr(error, "code", ErrorCode.KAFKA_STORAGE_ERROR)
        return response
