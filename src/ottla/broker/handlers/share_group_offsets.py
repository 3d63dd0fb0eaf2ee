"""DescribeShareGroupOffsets (90, versions 0-1), AlterShareGroupOffsets (91, 0), DeleteShareGroupOffsets (92, 0).

What a share group's administrators ask (KIP-932). Describe v1 has the lag (KIP-1226): records after the start offset that
will still be delivered. Where nothing is known the start offset is -1, which is no error: so it is for a topic or a group
that does not exist. Alter and delete want a group without members; altering makes the group if need be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ottla.broker.context import Route
from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.coordinators.groups.share.partition_states import NewOffset
from ottla.broker.coordinators.share.coordinator import lag_of
from ottla.broker.share.persister import StateSummary
from ottla.cluster.decisions.features import SHARE_VERSION
from ottla.errors import ErrorCode, KafkaError, error_for
from ottla.protocol.api import ApiKey
from ottla.protocol.messages import alter_share_group_offsets as alter
from ottla.protocol.messages import delete_share_group_offsets as delete
from ottla.protocol.messages import describe_share_group_offsets as describe
from ottla.types import TopicIdPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from ottla.broker.context import RequestContext, Routes
    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime
    from ottla.broker.share.group_states import GroupStates
    from ottla.broker.share.log_ends import LogEnds
    from ottla.broker.share.persister import ShareStatePersister
    from ottla.cluster.image import ClusterImage

_UNKNOWN: Final = -1
_INT64_END: Final = 1 << 63
_NOTHING_TO_DELETE: Final = "There is no offset information to delete."


class ShareGroupOffsetsHandler:
    """Where share groups are, and how that is changed from outside."""

    def __init__(
        self,
        runtime: CoordinatorRuntime[GroupCoordinator],
        states: GroupStates,
        persister: ShareStatePersister,
        log_ends: LogEnds,
        *,
        image: Callable[[], ClusterImage],
    ) -> None:
        self._runtime = runtime
        self._states = states
        self._persister = persister
        self._log_ends = log_ends
        self._image = image

    def _is_enabled(self) -> bool:
        return self._image().features[SHARE_VERSION] > 0

    def routes(self) -> Routes:
        return {
            ApiKey.DESCRIBE_SHARE_GROUP_OFFSETS: Route(self.handle_describe),
            ApiKey.ALTER_SHARE_GROUP_OFFSETS: Route(self.handle_alter),
            ApiKey.DELETE_SHARE_GROUP_OFFSETS: Route(self.handle_delete),
        }

    # -------------------------------------------------------------------- describe

    async def handle_describe(
        self, context: RequestContext, request: describe.DescribeShareGroupOffsetsRequest
    ) -> describe.DescribeShareGroupOffsetsResponse:
        if not self._is_enabled():
            code = ErrorCode.UNSUPPORTED_VERSION
            return describe.DescribeShareGroupOffsetsResponse(
                groups=[
                    describe.DescribeShareGroupOffsetsResponseGroup(group_id=group.group_id, error_code=code)
                    for group in request.groups
                ]
            )
        return describe.DescribeShareGroupOffsetsResponse(
            groups=[await self._describe(group) for group in request.groups]
        )

    async def _describe(
        self, asked: describe.DescribeShareGroupOffsetsRequestGroup
    ) -> describe.DescribeShareGroupOffsetsResponseGroup:
        group_id = asked.group_id
        described = describe.DescribeShareGroupOffsetsResponseGroup(group_id=group_id)
        image = self._image()
        topic_id_partitions: list[TopicIdPartition] = []
        unknown: list[describe.DescribeShareGroupOffsetsResponseTopic] = []
        if asked.topics is None:
            try:
                partition = self._runtime.partition_for(group_id)
                initialized = await self._runtime.proven(
                    partition,
                    lambda: self._runtime.read(
                        partition, lambda shard: shard.shares.states.initialized_partitions(group_id)
                    ),
                )
            except KafkaError as error:
                described.error_code = client_error_code(error)
                described.error_message = error_for(client_error_code(error)).message
                return described
            for topic_id, partitions in initialized.items():
                if image.topic_by_id(topic_id) is not None:
                    topic_id_partitions += (TopicIdPartition(topic_id, partition) for partition in sorted(partitions))
        for wanted in asked.topics or ():
            topic = image.topics.get(wanted.topic_name)
            if topic is not None:
                topic_id_partitions += (TopicIdPartition(topic.topic_id, partition) for partition in wanted.partitions)
                continue
            nothing = [
                describe.DescribeShareGroupOffsetsResponsePartition(partition_index=partition, start_offset=_UNKNOWN)
                for partition in wanted.partitions
            ]
            unknown.append(
                describe.DescribeShareGroupOffsetsResponseTopic(topic_name=wanted.topic_name, partitions=nothing)
            )
        topics: dict[bytes, describe.DescribeShareGroupOffsetsResponseTopic] = {}
        summaries = await self._persister.read_summary(group_id, topic_id_partitions)
        names = [image.topic_names[summary.topic_id_partition.topic_id] for summary in summaries]
        rows = await asyncio.gather(*map(self._row, names, summaries))
        for name, summary, row in zip(names, summaries, rows, strict=True):
            topic_id = summary.topic_id_partition.topic_id
            if topic_id not in topics:
                topics[topic_id] = describe.DescribeShareGroupOffsetsResponseTopic(topic_name=name, topic_id=topic_id)
            topics[topic_id].partitions.append(row)
        described.topics = [*topics.values(), *unknown]
        return described

    async def _row(self, topic: str, summary: StateSummary) -> describe.DescribeShareGroupOffsetsResponsePartition:
        row = describe.DescribeShareGroupOffsetsResponsePartition(
            partition_index=summary.topic_id_partition.partition, start_offset=_UNKNOWN
        )
        if summary.error_code:
            return row
        row.start_offset, row.leader_epoch = summary.start_offset, summary.leader_epoch
        if _UNKNOWN in (summary.start_offset, summary.delivery_complete_count):
            return row
        try:
            end = await self._log_ends.high_watermark(topic, summary.topic_id_partition.partition)
        except KafkaError as error:
            return describe.DescribeShareGroupOffsetsResponsePartition(
                partition_index=summary.topic_id_partition.partition,
                error_code=error.code,
                error_message=error.message,
            )
        lag = lag_of(summary.start_offset, summary.delivery_complete_count, end)
        if -_INT64_END <= lag < _INT64_END:
            row.lag = lag
        else:  # an administrator may set any start offset
            row.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
            row.error_message = (
                f"The lag has more than 64 bits: the start offset is {summary.start_offset}, the log ends at {end}."
            )
        return row

    # ----------------------------------------------------------------------- alter

    async def handle_alter(
        self, context: RequestContext, request: alter.AlterShareGroupOffsetsRequest
    ) -> alter.AlterShareGroupOffsetsResponse:
        if not self._is_enabled():
            return _alter_error(ErrorCode.UNSUPPORTED_VERSION)
        group_id = request.group_id
        if not group_id:
            return _alter_error(ErrorCode.INVALID_GROUP_ID)
        if not request.topics:
            return alter.AlterShareGroupOffsetsResponse()
        changes = [
            NewOffset(topic.topic_name, asked.partition_index, asked.start_offset)
            for topic in request.topics
            for asked in topic.partitions
        ]
        try:
            codes, results = await self._states.alter_offsets(group_id, changes)
        except KafkaError as error:
            code = client_error_code(error)
            return _alter_error(code, error.message if code == error.code else None)
        failed = {
            (result.topic_id_partition.topic_id, result.topic_id_partition.partition): result
            for result in results
            if result.error_code
        }
        image = self._image()
        response = alter.AlterShareGroupOffsetsResponse()
        outcome = iter(codes)
        for topic in request.topics:
            known = image.topics.get(topic.topic_name)
            answer = alter.AlterShareGroupOffsetsResponseTopic(topic_name=topic.topic_name)
            if known is not None:
                answer.topic_id = known.topic_id
            for asked in topic.partitions:
                code, message = next(outcome), None
                result = failed.get((answer.topic_id, asked.partition_index))
                if code == ErrorCode.NONE and result is not None:
                    code, message = result.error_code, result.error_message
                answer.partitions.append(
                    alter.AlterShareGroupOffsetsResponsePartition(
                        partition_index=asked.partition_index,
                        error_code=code,
                        error_message=None if code == ErrorCode.NONE else message or error_for(code).message,
                    )
                )
            response.responses.append(answer)
        return response

    # ---------------------------------------------------------------------- delete

    async def handle_delete(
        self, context: RequestContext, request: delete.DeleteShareGroupOffsetsRequest
    ) -> delete.DeleteShareGroupOffsetsResponse:
        if not self._is_enabled():
            return _delete_error(ErrorCode.UNSUPPORTED_VERSION)
        group_id = request.group_id
        if not group_id:
            return _delete_error(ErrorCode.INVALID_GROUP_ID)
        names = [topic.topic_name for topic in request.topics]
        try:
            deletion, codes = await self._states.delete_offsets(group_id, names)
        except KafkaError as error:
            code = client_error_code(error)
            return _delete_error(code, error.message if code == error.code else None)
        rows = [
            delete.DeleteShareGroupOffsetsResponseTopic(
                topic_name=deletion.topics[topic_id].name,
                topic_id=topic_id,
                error_code=code,
                error_message=None if code == ErrorCode.NONE else error_for(code).message,
            )
            for topic_id, code in codes.items()
        ]
        known = self._image().topics
        refused = [
            delete.DeleteShareGroupOffsetsResponseTopic(
                topic_name=name,
                error_code=code,
                error_message=_NOTHING_TO_DELETE if name in known else error_for(code).message,
            )
            for name, code in deletion.refused.items()
        ]
        return delete.DeleteShareGroupOffsetsResponse(responses=[*rows, *refused])


def _alter_error(code: ErrorCode, message: str | None = None) -> alter.AlterShareGroupOffsetsResponse:
    return alter.AlterShareGroupOffsetsResponse(error_code=code, error_message=message or error_for(code).message)


def _delete_error(code: ErrorCode, message: str | None = None) -> delete.DeleteShareGroupOffsetsResponse:
    return delete.DeleteShareGroupOffsetsResponse(error_code=code, error_message=message or error_for(code).message)
