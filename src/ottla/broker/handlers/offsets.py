"""Committed offsets: OffsetCommit 2-10, OffsetFetch 1-10, OffsetDelete 0, TxnOffsetCommit 0-6.

OffsetCommit: v2-4 a retention time of the offset's own; v6 leader epochs; v7 static members; v9 GROUP_ID_NOT_FOUND for a
group that does not exist; v10 topic ids instead of names (KIP-848). The topic's id is kept with the offset in every version.
OffsetFetch: v2 null means all topics, and the group has an error code of its own; v7 `require_stable` (KIP-447); v8
several groups (KIP-709); v9 member id and epoch, which groups of the consumer protocol check; v10 topic ids. A partition
without a committed offset is no error: offset -1.
OffsetDelete: topics that members subscribe to are refused (KIP-496).
TxnOffsetCommit: offsets that take effect with a transaction (KIP-98). v2 COORDINATOR_LOAD_IN_PROGRESS is known; v3 member and
generation (KIP-447); v4 TRANSACTION_ABORTABLE is known; v5 the group's partition is added to the transaction here (KIP-890
part 2); v6 topic ids. The coordinator is asked each time, where Kafka takes an open transaction in the log for an answer.
"""

from __future__ import annotations

import asyncio
from itertools import repeat
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from ottla.broker.context import Route, ShortCut
from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.coordinator import Commit
from ottla.broker.coordinators.groups.offsets import FetchedOffset, PartitionCommit
from ottla.broker.coordinators.shard import Result
from ottla.broker.transactions.gate import data_error_code
from ottla.errors import ErrorCode, KafkaError
from ottla.protocol.api import ApiKey
from ottla.protocol.commit_frames import TOPIC_IDS_SINCE, encode, parse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from ottla.protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from ottla.protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from ottla.protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)
from ottla.storage.verification import UNCHECKED
from ottla.types import GROUP_METADATA_TOPIC, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ottla.broker.context import RequestContext, Routes, Session
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.transactions.gate import TransactionGate
    from ottla.cluster.image import ClusterImage, TopicImage

T = TypeVar("T")
Topic = TypeVar("Topic")
Row = TypeVar("Row", OffsetCommitResponsePartition, TxnOffsetCommitResponsePartition)

_TOPIC_IDS: Final = 10
_FETCH_BATCHED: Final = 8
_FETCH_GROUP_ERROR: Final = 2
_TXN_LOADING_KNOWN: Final = 2
_TXN_ABORTABLE_KNOWN: Final = 4
_TXN_ADDS_PARTITION: Final = 5
_TXN_TOPIC_IDS: Final = 6


class OffsetsHandler:
    """Offsets that groups commit.

    Args:
        may_read_group, may_read_topic: whether a client may, without a note of a denial; None where everybody may. The short
            cut asks; a guard does for other requests.
    """

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        *,
        image: Callable[[], ClusterImage],
        gate: TransactionGate,
        may_read_group: Callable[[Session, str], bool] | None = None,
        may_read_topic: Callable[[Session, str], bool] | None = None,
    ) -> None:
        self._may_read_group = may_read_group
        self._may_read_topic = may_read_topic
        self._runtime = runtime
        self._image = image
        self._gate = gate

    def routes(self) -> Routes:
        return {
            ApiKey.OFFSET_COMMIT: Route(self.handle_offset_commit, short_cut=ShortCut(self.handle_frame)),
            ApiKey.OFFSET_FETCH: Route(self.handle_offset_fetch),
            ApiKey.OFFSET_DELETE: Route(self.handle_offset_delete),
            ApiKey.TXN_OFFSET_COMMIT: Route(self.handle_txn_offset_commit),
        }

    # ----------------------------------------------------------------- commit

    def handle_frame(self, frame: memoryview, version: int, session: Session) -> asyncio.Future[bytes] | None:
        """Take a commit of partitions that exist, by a client that may; None: nothing was done, it is to be decoded."""
        asked = parse(frame, version)
        if asked is None or not asked.group_id:
            return None
        group_id, generation_id, member_id, instance_id, retention_ms, topics = asked
        if self._may_read_group is not None and not self._may_read_group(session, group_id):
            return None
        image, may_read = self._image(), self._may_read_topic
        commits: list[PartitionCommit] = []
        for name, topic_id, partitions in topics:
            found = image.topic_by_id(topic_id) if version >= TOPIC_IDS_SINCE else image.topics.get(name)
            if found is None or (may_read is not None and not may_read(session, found.name)):
                return None
            count = len(found.partitions)
            for index, offset, leader_epoch, metadata in partitions:
                if not 0 <= index < count:
                    return None
                commits.append(PartitionCommit(found.name, found.topic_id, index, offset, leader_epoch, metadata))
        if not commits:
            return None
        commit = Commit(
            group_id=group_id,
            generation_id=generation_id,
            member_id=member_id,
            group_instance_id=instance_id,
            retention_ms=retention_ms,
            partitions=commits,
            version=version,
        )

        def operation(shard: GroupCoordinator, now_ms: int) -> Result[bytes]:
            result = shard.commit_offsets(commit, now_ms)
            return Result(encode(version, topics, iter(result.response)), result.records)

        def refusal(error: KafkaError) -> bytes:
            return encode(version, topics, repeat(client_error_code(error)))

        try:
            return self._runtime.write(self._runtime.partition_for(group_id), operation, refusal=refusal)
        except KafkaError:  # refused before anything was decided: the codec's way says what is wrong, in its order
            return None

    def handle_offset_commit(
        self, context: RequestContext, request: OffsetCommitRequest
    ) -> OffsetCommitResponse | Awaitable[OffsetCommitResponse]:
        """Answer without a task: commits are many where each record is committed."""
        found = _resolve(
            self._image(),
            request.topics,
            OffsetCommitResponsePartition,
            OffsetCommitResponseTopic,
            uses_ids=context.version >= _TOPIC_IDS,
        )
        response = OffsetCommitResponse(topics=found.topics)
        if not found.commits:
            return response
        commit = Commit(
            group_id=request.group_id,
            generation_id=request.generation_id_or_member_epoch,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
            retention_ms=request.retention_time_ms,
            partitions=found.commits,
            version=context.version,
        )

        def operation(shard: GroupCoordinator, now_ms: int) -> Result[OffsetCommitResponse]:
            result = shard.commit_offsets(commit, now_ms)
            for row, code in zip(found.rows, result.response, strict=True):
                row.error_code = code
            return Result(response, result.records)

        def refusal(error: KafkaError) -> OffsetCommitResponse:
            code = client_error_code(error)
            for row in found.rows:
                row.error_code = code
            return response

        try:
            return self._runtime.write(self._runtime.partition_for(commit.group_id), operation, refusal=refusal)
        except KafkaError as error:
            return refusal(error)

    async def handle_txn_offset_commit(
        self, context: RequestContext, request: TxnOffsetCommitRequest
    ) -> TxnOffsetCommitResponse:
        found = _resolve(
            self._image(),
            request.topics,
            TxnOffsetCommitResponsePartition,
            TxnOffsetCommitResponseTopic,
            uses_ids=context.version >= _TXN_TOPIC_IDS,
        )
        if found.commits:
            codes = await self._commit_in_transaction(context.version, request, found.commits)
            for row, code in zip(found.rows, codes, strict=True):
                if code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS and context.version < _TXN_LOADING_KNOWN:
                    code = ErrorCode.COORDINATOR_NOT_AVAILABLE  # producers before 2.0 crash (KAFKA-7296)
                row.error_code = code
        return TxnOffsetCommitResponse(topics=found.topics)

    async def _commit_in_transaction(
        self, version: int, request: TxnOffsetCommitRequest, commits: list[PartitionCommit]
    ) -> list[ErrorCode]:
        if not request.group_id:
            return [ErrorCode.INVALID_GROUP_ID] * len(commits)
        partition = self._runtime.partition_for(request.group_id)
        adds = version >= _TXN_ADDS_PARTITION
        producer = (request.producer_id, request.producer_epoch)
        verification = UNCHECKED
        if not self._gate.is_open(adds=adds):
            topic_partition = TopicPartition(GROUP_METADATA_TOPIC, partition)
            try:
                admissions = await self._gate.admit(
                    request.transactional_id,
                    *producer,
                    [topic_partition],
                    adds=adds,
                    begin=lambda _topic_partition: self._runtime.begin_verification(partition, producer),
                )
            except KafkaError as error:
                return [client_error_code(error)] * len(commits)
            admitted, verification = admissions[topic_partition]
            code = data_error_code(admitted, is_abortable_known=version >= _TXN_ABORTABLE_KNOWN)
            if code:
                return [code] * len(commits)
        commit = Commit(
            group_id=request.group_id,
            generation_id=request.generation_id_or_member_epoch,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
            retention_ms=-1,
            partitions=commits,
            version=version,
        )
        try:
            return await self._runtime.write(
                partition,
                lambda shard, now_ms: shard.commit_offsets_in_transaction(commit, now_ms),
                producer=producer,
                verification=verification,
            )
        except KafkaError as error:
            return [client_error_code(error)] * len(commits)

    # ------------------------------------------------------------------ fetch

    async def handle_offset_fetch(self, context: RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse:
        if context.version >= _FETCH_BATCHED:
            groups = await asyncio.gather(
                *(self._fetch_group(context.version, group, request.require_stable) for group in request.groups)
            )
            return OffsetFetchResponse(groups=list(groups))
        topics = request.topics
        group = await self._fetch_group(
            context.version,
            OffsetFetchRequestGroup(
                group_id=request.group_id,
                topics=None
                if topics is None
                else [
                    OffsetFetchRequestTopics(name=each.name, partition_indexes=each.partition_indexes)
                    for each in topics
                ],
            ),
            request.require_stable,
        )
        if context.version < _FETCH_GROUP_ERROR and group.error_code != ErrorCode.NONE:
            return OffsetFetchResponse(
                topics=[
                    OffsetFetchResponseTopic(
                        name=each.name,
                        partitions=[
                            OffsetFetchResponsePartition(
                                partition_index=index, committed_offset=-1, metadata="", error_code=group.error_code
                            )
                            for index in each.partition_indexes
                        ],
                    )
                    for each in topics or ()
                ]
            )
        return OffsetFetchResponse(
            error_code=group.error_code,
            topics=[
                OffsetFetchResponseTopic(
                    name=each.name,
                    partitions=[
                        OffsetFetchResponsePartition(
                            partition_index=row.partition_index,
                            committed_offset=row.committed_offset,
                            committed_leader_epoch=row.committed_leader_epoch,
                            metadata=row.metadata,
                            error_code=row.error_code,
                        )
                        for row in each.partitions
                    ],
                )
                for each in group.topics
            ],
        )

    async def _fetch_group(
        self, version: int, request: OffsetFetchRequestGroup, stable: bool
    ) -> OffsetFetchResponseGroup:
        try:
            if request.topics is None:
                topics = await self._fetch_all(version, request, stable)
            else:
                topics = await self._fetch_some(version, request, request.topics, stable)
        except KafkaError as error:
            code = client_error_code(error)
            # Consumers before 3.9 do not ask again after COORDINATOR_NOT_AVAILABLE here.
            if code == ErrorCode.COORDINATOR_NOT_AVAILABLE:
                code = ErrorCode.NOT_COORDINATOR
            return OffsetFetchResponseGroup(group_id=request.group_id, error_code=code)
        return OffsetFetchResponseGroup(group_id=request.group_id, topics=topics)

    async def _fetch_all(
        self, version: int, request: OffsetFetchRequestGroup, stable: bool
    ) -> list[OffsetFetchResponseTopics]:
        found = await self._query(
            request, stable, lambda shard: shard.fetch_all_offsets(request.group_id, stable=stable)
        )
        known = self._image().topics
        return [
            OffsetFetchResponseTopics(
                name=name,
                topic_id=known[name].topic_id if name in known else bytes(16),
                partitions=[_row(index, fetched) for index, fetched in partitions.items()],
            )
            for name, partitions in found.items()
            # With ids only, a topic that is gone cannot be named.
            if version < _TOPIC_IDS or name in known
        ]

    async def _fetch_some(
        self, version: int, request: OffsetFetchRequestGroup, topics: list[OffsetFetchRequestTopics], stable: bool
    ) -> list[OffsetFetchResponseTopics]:
        image = self._image()
        asked: list[tuple[OffsetFetchRequestTopics, str, bytes]] = []
        unknown: list[OffsetFetchRequestTopics] = []
        for topic in topics:
            if version < _TOPIC_IDS:
                asked.append((topic, topic.name, bytes(16)))
            else:
                known: TopicImage | None = image.topic_by_id(topic.topic_id)
                if known is None:
                    unknown.append(topic)
                else:
                    asked.append((topic, known.name, topic.topic_id))
        wanted = [(name, topic_id, topic.partition_indexes) for topic, name, topic_id in asked]
        found = await self._query(
            request, stable, lambda shard: shard.fetch_offsets(request.group_id, wanted, stable=stable)
        )
        answers = [
            OffsetFetchResponseTopics(
                name=name,
                topic_id=topic_id,
                partitions=[_row(index, fetched) for index, fetched in zip(topic.partition_indexes, row, strict=True)],
            )
            for (topic, name, topic_id), row in zip(asked, found, strict=True)
        ]
        gone = FetchedOffset(error_code=ErrorCode.UNKNOWN_TOPIC_ID)
        answers += [
            OffsetFetchResponseTopics(
                topic_id=topic.topic_id, partitions=[_row(index, gone) for index in topic.partition_indexes]
            )
            for topic in unknown
        ]
        return answers

    async def _query(self, request: OffsetFetchRequestGroup, stable: bool, query: Callable[[GroupCoordinator], T]) -> T:
        """Run a query: on what is committed or, if stability is asked for, on everything, once that is committed."""
        partition = self._runtime.partition_for(request.group_id)

        def checked(shard: GroupCoordinator) -> T:
            shard.validate_offset_fetch(request.group_id, request.member_id, request.member_epoch, stable=stable)
            return query(shard)

        proof = self._runtime.prove(partition)
        if proof is not None:
            await proof
        if not stable:
            return self._runtime.read(partition, checked)
        return await self._runtime.write(partition, lambda shard, now_ms: Result(checked(shard), barrier=True))

    # ----------------------------------------------------------------- delete

    async def handle_offset_delete(self, context: RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse:
        group_id = request.group_id
        if not group_id:
            return OffsetDeleteResponse(error_code=ErrorCode.INVALID_GROUP_ID)
        image = self._image()
        existing: list[tuple[str, list[int]]] = []
        answers: list[list[OffsetDeleteResponsePartition]] = []
        topics: list[OffsetDeleteResponseTopic] = []
        for topic in request.topics:
            found = image.topics.get(topic.name)
            rows = [OffsetDeleteResponsePartition(partition_index=each.partition_index) for each in topic.partitions]
            topics.append(OffsetDeleteResponseTopic(name=topic.name, partitions=rows))
            valid = []
            for row in rows:
                if found is None or not 0 <= row.partition_index < len(found.partitions):
                    row.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                else:
                    valid.append(row)
            if valid:
                existing.append((topic.name, [row.partition_index for row in valid]))
                answers.append(valid)
        try:
            codes = await self._runtime.write(
                self._runtime.partition_for(group_id), lambda shard, now_ms: shard.delete_offsets(group_id, existing)
            )
        except KafkaError as error:
            return OffsetDeleteResponse(error_code=client_error_code(error))
        for valid, code in zip(answers, codes, strict=True):
            for row in valid:
                row.error_code = code
        return OffsetDeleteResponse(topics=topics)


def _row(partition: int, fetched: FetchedOffset) -> OffsetFetchResponsePartitions:
    return OffsetFetchResponsePartitions(
        partition_index=partition,
        committed_offset=fetched.offset,
        committed_leader_epoch=fetched.leader_epoch,
        metadata=fetched.metadata,
        error_code=fetched.error_code,
    )


class _Resolved(NamedTuple, Generic[Topic, Row]):
    """What a request commits: the answer's topics, and, side by side, what is committed and the rows that answer it."""

    topics: list[Topic]
    commits: list[PartitionCommit]
    rows: list[Row]


def _resolve(
    image: ClusterImage,
    asked: Sequence[OffsetCommitRequestTopic | TxnOffsetCommitRequestTopic],
    row_class: Callable[..., Row],
    topic_class: Callable[..., Topic],
    *,
    uses_ids: bool,
) -> _Resolved[Topic, Row]:
    """Look the partitions of a commit up; the rows of those that do not exist say so, the others are still to be answered."""
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if uses_ids else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    resolved: _Resolved[Topic, Row] = _Resolved([], [], [])
    for topic in asked:
        found = image.topic_by_id(topic.topic_id) if uses_ids else image.topics.get(topic.name)
        rows: list[Row] = []
        for partition in topic.partitions:
            index = partition.partition_index
            if found is None:
                rows.append(row_class(partition_index=index, error_code=unknown))
            elif not 0 <= index < len(found.partitions):
                rows.append(row_class(partition_index=index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            else:
                row = row_class(partition_index=index)
                rows.append(row)
                resolved.rows.append(row)
                resolved.commits.append(
                    PartitionCommit(
                        found.name,
                        found.topic_id,
                        index,
                        partition.committed_offset,
                        partition.committed_leader_epoch,
                        partition.committed_metadata,
                    )
                )
        name = topic.name if found is None else found.name
        resolved.topics.append(topic_class(name=name, topic_id=topic.topic_id, partitions=rows))
    return resolved
