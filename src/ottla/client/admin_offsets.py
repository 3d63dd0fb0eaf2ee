"""Admin calls about offsets: of partitions by place or time, of groups, and how far groups are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ottla.client._core.transactions import OffsetAndMetadata
from ottla.client.admin_base import COORDINATOR_ERRORS, bounded, check, outcome, unwrap
from ottla.client.admin_groups import GroupCalls
from ottla.client.admin_results import ConsumerLag, MemberDescription, OffsetInfo
from ottla.client.admin_topics import TopicCalls, by_topic
from ottla.client.admin_words import moment_or_none
from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration
from ottla.client.records import make_timestamp
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError, error_for
from ottla.protocol.messages import (
    alter_share_group_offsets,
    delete_share_group_offsets,
    describe_share_group_offsets,
    offset_commit,
    offset_delete,
    offset_fetch,
)
from ottla.protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from ottla.types import (
    EARLIEST,
    EARLIEST_LOCAL,
    EARLIEST_PENDING_UPLOAD,
    LATEST,
    LATEST_TIERED,
    MAX_TIMESTAMP,
    IsolationLevel,
    TopicPartition,
)

#: A place in a partition: "earliest", "latest", "max_timestamp", ..., a time (aware, or milliseconds).
Place = str | int | datetime
#: Where a group is to go on: an offset, with what is kept beside it, or a place.
NewOffset = int | OffsetAndMetadata | str | datetime

_PLACES: Final[Mapping[str, tuple[int, int]]] = {
    # place -> (the time that stands for it, the first version of ListOffsets that knows it)
    "earliest": (EARLIEST, 1),
    "latest": (LATEST, 1),
    "max_timestamp": (MAX_TIMESTAMP, 7),
    "earliest_local": (EARLIEST_LOCAL, 8),
    "latest_tiered": (LATEST_TIERED, 9),
    "earliest_pending_upload": (EARLIEST_PENDING_UPLOAD, 11),
    "beginning": (EARLIEST, 1),
    "end": (LATEST, 1),
}


@dataclass(frozen=True, slots=True)
class _Found:
    offset: int
    timestamp: int
    leader_epoch: int


class OffsetCalls(TopicCalls, GroupCalls):
    """Offsets."""

    @bounded
    async def list_offsets(
        self,
        partitions: str | Iterable[TopicPartition] | Mapping[TopicPartition, Place],
        place: Place = "latest",
        *,
        isolation_level: str = "read_uncommitted",
        timeout: Duration | None = None,
    ) -> dict[TopicPartition, OffsetInfo]:
        """Return an offset of each partition.

        Args:
            partitions: a topic, partitions, or a place for each partition.
            place: "earliest", "latest", "max_timestamp" (the youngest record), a time (aware datetime, or milliseconds: the
                first record of then or later); with tiered storage "earliest_local", "latest_tiered".
            isolation_level: with "read_committed" the end is the last stable offset.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
            AdminErrors: some of several partitions failed.
        """
        if isinstance(partitions, str):
            partitions = await self._partitions_of(partitions)
        wanted = (
            {TopicPartition(*where): each for where, each in partitions.items()}
            if isinstance(partitions, Mapping)
            else {TopicPartition(*where): place for where in partitions}
        )
        isolation = _isolation(isolation_level)
        found = await self._list_offsets({where: _time(each) for where, each in wanted.items()}, isolation)
        return {
            where: OffsetInfo(
                offset=row.offset if row.offset >= 0 else None,
                timestamp=moment_or_none(row.timestamp),
                leader_epoch=row.leader_epoch if row.leader_epoch >= 0 else None,
            )
            for where, row in found.items()
        }

    async def _list_offsets(
        self, places: Mapping[TopicPartition, tuple[int, int]], isolation: IsolationLevel
    ) -> dict[TopicPartition, _Found]:
        async def ask(
            node_id: int, partitions: list[TopicPartition], deadline_ms: float
        ) -> dict[TopicPartition, _Found | KafkaError]:
            needed = max(places[where][1] for where in partitions)

            def build(version: int) -> ListOffsetsRequest:
                if version < needed:
                    raise UnsupportedVersionError("The broker is too old to know this place in a log.")
                request = ListOffsetsRequest(
                    replica_id=-1,
                    topics=[
                        ListOffsetsTopic(
                            name=topic,
                            partitions=[
                                ListOffsetsPartition(
                                    partition_index=number, timestamp=places[TopicPartition(topic, number)][0]
                                )
                                for number in numbers
                            ],
                        )
                        for topic, numbers in by_topic(partitions).items()
                    ],
                    timeout_ms=int(self._settings.request_timeout_ms),
                )
                if version >= 2:
                    request.isolation_level = isolation
                return request

            answer = await self._ask(build, ListOffsetsResponse, node_id, deadline_ms=deadline_ms)
            return {
                TopicPartition(topic.name, row.partition_index): outcome(
                    row.error_code, None, _Found(row.offset, row.timestamp, row.leader_epoch)
                )
                for topic in answer.topics
                for row in topic.partitions
            }

        return await self._for_leaders(places, ask)

    # -- committed offsets ------------------------------------------------------------------------------------------

    @bounded
    async def list_group_offsets(
        self,
        group_id: str,
        partitions: Iterable[TopicPartition] | None = None,
        *,
        require_stable: bool = False,
        timeout: Duration | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what a group has committed, by partition; partitions without an offset are left out.

        Args:
            partitions: None for all.
            require_stable: wait for open transactions that commit offsets (KIP-447).
        """
        return (await self.list_groups_offsets([group_id], partitions, require_stable=require_stable))[group_id]

    @bounded
    async def list_groups_offsets(
        self,
        group_ids: Iterable[str],
        partitions: Iterable[TopicPartition] | None = None,
        *,
        require_stable: bool = False,
        timeout: Duration | None = None,
    ) -> dict[str, dict[TopicPartition, OffsetAndMetadata]]:
        """Return what groups have committed, by group and partition; see `list_group_offsets`.

        Raises:
            AdminErrors: some of several groups failed.
        """
        topics = None if partitions is None else by_topic(TopicPartition(*where) for where in partitions)
        Found = dict[TopicPartition, OffsetAndMetadata]

        async def ask(node_id: int, ids: list[str], deadline_ms: float) -> dict[str, Found | KafkaError]:
            answer, version = await self._ask_version(
                lambda version: _fetch_request(ids, topics, require_stable, version),
                offset_fetch.OffsetFetchResponse,
                node_id,
                at_most=9,  # 10 has topic ids only
                deadline_ms=deadline_ms,
            )
            if version >= 8:
                return {row.group_id: _committed(row.error_code, row.topics) for row in answer.groups}
            found: dict[str, Found | KafkaError] = {ids[0]: _committed(answer.error_code, answer.topics)}
            for group_id in ids[1:]:  # brokers before 3.0 take one group a request
                found.update(await ask(node_id, [group_id], deadline_ms))
            return found

        return unwrap(await self._for_groups(group_ids, ask))

    @bounded
    async def alter_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, NewOffset], *, timeout: Duration | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Have a group without members go on elsewhere: at an offset, "earliest", "latest", or a time.

        A time behind the last record means the end, as for `kafka-consumer-groups --reset-offsets`.

        Returns:
            what was committed, by partition.

        Raises:
            UnknownMemberIdError, NonEmptyGroupError: the group has members; stop them first.
            AdminErrors: some of several partitions failed.
        """
        wanted = {TopicPartition(*where): place for where, place in offsets.items()}
        made = await self._resolve(wanted)

        async def ask(node_id: int, deadline_ms: float) -> dict[TopicPartition, OffsetAndMetadata | KafkaError]:
            request = offset_commit.OffsetCommitRequest(
                group_id=group_id,
                topics=[
                    offset_commit.OffsetCommitRequestTopic(
                        name=topic,
                        partitions=[
                            offset_commit.OffsetCommitRequestPartition(
                                partition_index=number,
                                committed_offset=made[TopicPartition(topic, number)].offset,
                                committed_leader_epoch=made[TopicPartition(topic, number)].leader_epoch,
                                committed_metadata=made[TopicPartition(topic, number)].metadata,
                            )
                            for number in numbers
                        ],
                    )
                    for topic, numbers in by_topic(made).items()
                ],
            )
            answer = await self._ask(
                request, offset_commit.OffsetCommitResponse, node_id, at_most=9, deadline_ms=deadline_ms
            )
            found: dict[TopicPartition, OffsetAndMetadata | KafkaError] = {}
            for topic in answer.topics:
                for row in topic.partitions:
                    if row.error_code in COORDINATOR_ERRORS:  # of the whole group, though each partition says so
                        raise error_for(row.error_code)
                    where = TopicPartition(topic.name, row.partition_index)
                    text = None
                    if row.error_code == ErrorCode.UNKNOWN_MEMBER_ID:
                        text = f"Group {group_id!r} has members: stop them first."
                    found[where] = outcome(row.error_code, text, made[where])
            return found

        return unwrap(await self._for_group(group_id, ask))

    async def _resolve(self, wanted: Mapping[TopicPartition, NewOffset]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return offsets; places are asked for."""
        made = {
            where: OffsetAndMetadata(*place) if isinstance(place, tuple) else OffsetAndMetadata(place)
            for where, place in wanted.items()
            if isinstance(place, int | tuple)
        }
        places = {where: _time(place) for where, place in wanted.items() if isinstance(place, str | datetime)}
        found = await self._list_offsets(places, IsolationLevel.READ_UNCOMMITTED) if places else {}
        behind = {where: _PLACES["latest"] for where, row in found.items() if row.offset < 0}
        if behind:
            found |= await self._list_offsets(behind, IsolationLevel.READ_UNCOMMITTED)
        for where, row in found.items():
            made[where] = OffsetAndMetadata(row.offset)
        return made

    @bounded
    async def delete_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition], *, timeout: Duration | None = None
    ) -> None:
        """Delete what a group has committed for partitions of topics that no member reads now (KIP-496).

        Raises:
            GroupSubscribedToTopicError: a member reads the topic.
            AdminErrors: some of several partitions failed.
        """
        wanted = [TopicPartition(*where) for where in partitions]
        request = offset_delete.OffsetDeleteRequest(
            group_id=group_id,
            topics=[
                offset_delete.OffsetDeleteRequestTopic(
                    name=topic,
                    partitions=[
                        offset_delete.OffsetDeleteRequestPartition(partition_index=number) for number in numbers
                    ],
                )
                for topic, numbers in by_topic(wanted).items()
            ],
        )

        async def ask(node_id: int, deadline_ms: float) -> dict[TopicPartition, KafkaError | None]:
            answer = await self._ask(request, offset_delete.OffsetDeleteResponse, node_id, deadline_ms=deadline_ms)
            check(answer.error_code)
            return {
                TopicPartition(topic.name, row.partition_index): outcome(row.error_code, None, None)
                for topic in answer.topics
                for row in topic.partitions
            }

        unwrap(await self._for_group(group_id, ask))

    # -- lag --------------------------------------------------------------------------------------------------------

    @bounded
    async def consumer_lag(
        self, group_id: str, *, isolation_level: str = "read_uncommitted", timeout: Duration | None = None
    ) -> dict[TopicPartition, ConsumerLag]:
        """Return how far a group is behind, and who reads what, by partition; of share groups (KIP-932), too.

        Partitions are those it has committed offsets for or reads now. Of a share group `committed` is where its window
        begins, and `lag` what it has yet to finish (KIP-1226; with brokers before Kafka 4.2 what follows that offset).

        Args:
            isolation_level: "read_committed" measures up to the last stable offset.

        Raises:
            GroupIdNotFoundError: there is no such group.
        """
        group = await self.describe_group(group_id)
        left: dict[TopicPartition, int] = {}
        if group.type == "share":
            shared = await self._share_group_windows(group_id)
            committed = {where: window for where, (window, _) in shared.items()}
            left = {where: lag for where, (_, lag) in shared.items() if lag >= 0}
        else:
            committed = await self.list_group_offsets(group_id)
        readers: dict[TopicPartition, list[MemberDescription]] = {}
        for member in group.members:
            for where in member.assignment:
                readers.setdefault(where, []).append(member)
        owners = {where: members[0] for where, members in readers.items() if len(members) == 1}
        partitions = sorted({*committed, *readers})
        topics = await self._topics({where.topic for where in partitions}) if partitions else {}
        # A topic may have been deleted since.
        there = [where for where in partitions if where.topic in topics and not topics[where.topic].error_code]
        isolation = _isolation(isolation_level)
        starts, ends = await asyncio.gather(
            self._list_offsets(dict.fromkeys(there, _PLACES["earliest"]), isolation),
            self._list_offsets(dict.fromkeys(there, _PLACES["latest"]), isolation),
        )
        found = {}
        for where in there:
            offset = committed[where].offset if where in committed else None
            owner = owners.get(where)
            end = ends[where].offset
            found[where] = ConsumerLag(
                partition=where,
                committed=offset,
                start=starts[where].offset,
                end=end,
                lag=left.get(where, None if offset is None else max(end - offset, 0)),
                member_id=owner.member_id if owner is not None else "",
                client_id=owner.client_id if owner is not None else "",
                host=owner.host if owner is not None else "",
            )
        return found

    # -- share groups -----------------------------------------------------------------------------------------------

    @bounded
    async def list_share_group_offsets(
        self, group_id: str, *, timeout: Duration | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return where a share group's window begins, by partition (KIP-932)."""
        return {where: window for where, (window, _) in (await self._share_group_windows(group_id)).items()}

    async def _share_group_windows(self, group_id: str) -> dict[TopicPartition, tuple[OffsetAndMetadata, int]]:
        """Return where a share group's window begins, and its lag, -1 where the broker does not say (KIP-1226)."""
        request = describe_share_group_offsets.DescribeShareGroupOffsetsRequest(
            groups=[describe_share_group_offsets.DescribeShareGroupOffsetsRequestGroup(group_id=group_id, topics=None)]
        )

        async def ask(node_id: int, deadline_ms: float) -> dict[TopicPartition, tuple[OffsetAndMetadata, int]]:
            answer = await self._ask(
                request,
                describe_share_group_offsets.DescribeShareGroupOffsetsResponse,
                node_id,
                deadline_ms=deadline_ms,
            )
            found = {}
            for group in answer.groups:
                check(group.error_code, group.error_message)
                for topic in group.topics:
                    for row in topic.partitions:
                        check(row.error_code, row.error_message)
                        if row.start_offset >= 0:
                            where = TopicPartition(topic.topic_name, row.partition_index)
                            found[where] = OffsetAndMetadata(row.start_offset, row.leader_epoch), row.lag
            return found

        return await self._for_group(group_id, ask)

    @bounded
    async def alter_share_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, NewOffset], *, timeout: Duration | None = None
    ) -> None:
        """Have a share group without members begin elsewhere; see `alter_group_offsets`."""
        made = await self._resolve({TopicPartition(*where): place for where, place in offsets.items()})
        request = alter_share_group_offsets.AlterShareGroupOffsetsRequest(
            group_id=group_id,
            topics=[
                alter_share_group_offsets.AlterShareGroupOffsetsRequestTopic(
                    topic_name=topic,
                    partitions=[
                        alter_share_group_offsets.AlterShareGroupOffsetsRequestPartition(
                            partition_index=number, start_offset=made[TopicPartition(topic, number)].offset
                        )
                        for number in numbers
                    ],
                )
                for topic, numbers in by_topic(made).items()
            ],
        )

        async def ask(node_id: int, deadline_ms: float) -> dict[TopicPartition, KafkaError | None]:
            answer = await self._ask(
                request, alter_share_group_offsets.AlterShareGroupOffsetsResponse, node_id, deadline_ms=deadline_ms
            )
            check(answer.error_code, answer.error_message)
            return {
                TopicPartition(topic.topic_name, row.partition_index): outcome(row.error_code, row.error_message, None)
                for topic in answer.responses
                for row in topic.partitions
            }

        unwrap(await self._for_group(group_id, ask))

    @bounded
    async def delete_share_group_offsets(
        self, group_id: str, topics: Iterable[str], *, timeout: Duration | None = None
    ) -> None:
        """Forget where a share group without members is in topics."""
        request = delete_share_group_offsets.DeleteShareGroupOffsetsRequest(
            group_id=group_id,
            topics=[
                delete_share_group_offsets.DeleteShareGroupOffsetsRequestTopic(topic_name=topic)
                for topic in dict.fromkeys(topics)
            ],
        )

        async def ask(node_id: int, deadline_ms: float) -> dict[str, KafkaError | None]:
            answer = await self._ask(
                request, delete_share_group_offsets.DeleteShareGroupOffsetsResponse, node_id, deadline_ms=deadline_ms
            )
            check(answer.error_code, answer.error_message)
            return {row.topic_name: outcome(row.error_code, row.error_message, None) for row in answer.responses}

        unwrap(await self._for_group(group_id, ask))


def _time(place: Place) -> tuple[int, int]:
    if isinstance(place, str):
        found = _PLACES.get(place.replace("-", "_"))
        if found is None:
            raise ConfigurationError(f"{place!r} is no place in a log.", f"There are {', '.join(_PLACES)}, and times.")
        return found
    return make_timestamp(place), 1


def _isolation(level: str) -> IsolationLevel:
    if level not in ("read_uncommitted", "read_committed"):
        raise ConfigurationError(f"isolation_level={level!r} is not valid: read_uncommitted or read_committed.")
    return IsolationLevel[level.upper()]


def _fetch_request(
    ids: list[str], topics: Mapping[str, list[int]] | None, require_stable: bool, version: int
) -> offset_fetch.OffsetFetchRequest:
    if require_stable and version < 7:
        raise UnsupportedVersionError("The broker is too old to wait for stable offsets (Kafka 2.5).")
    if version >= 8:
        request = offset_fetch.OffsetFetchRequest(
            groups=[
                offset_fetch.OffsetFetchRequestGroup(
                    group_id=group_id,
                    topics=None
                    if topics is None
                    else [
                        offset_fetch.OffsetFetchRequestTopics(name=name, partition_indexes=numbers)
                        for name, numbers in topics.items()
                    ],
                )
                for group_id in ids
            ]
        )
    else:
        request = offset_fetch.OffsetFetchRequest(
            group_id=ids[0],
            topics=None
            if topics is None
            else [
                offset_fetch.OffsetFetchRequestTopic(name=name, partition_indexes=numbers)
                for name, numbers in topics.items()
            ],
        )
    if require_stable:
        request.require_stable = True
    return request


def _committed(code: int, topics: Iterable[Any]) -> dict[TopicPartition, OffsetAndMetadata] | KafkaError:
    if code:
        return error_for(code)
    found = {}
    for topic in topics:
        for row in topic.partitions:
            if row.error_code:
                return error_for(row.error_code)
            if row.committed_offset >= 0:
                where = TopicPartition(topic.name, row.partition_index)
                found[where] = OffsetAndMetadata(row.committed_offset, row.committed_leader_epoch, row.metadata or "")
    return found
