"""Admin calls about topics, their partitions and records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ottla.client._core.asking import ANY, CONTROLLER
from ottla.client.admin_base import MISSING_LOOKS, AdminBase, bounded, outcome, topic_error
from ottla.client.admin_results import NewTopic, PartitionDescription, TopicDescription, TopicListing
from ottla.client.admin_settings import ConfigValue, config_text
from ottla.client.admin_words import operations
from ottla.client.errors import ConfigurationError
from ottla.client.keys import Duration
from ottla.errors import ErrorCode, KafkaError, UnsupportedVersionError
from ottla.protocol.messages import create_partitions, create_topics, delete_topics
from ottla.protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
)
from ottla.protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from ottla.types import ZERO_UUID, TopicPartition, uuid_to_text

_NO_TOPIC: Final = (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_ID)
#: Up to the partition's end, in DeleteRecords.
_HIGH_WATERMARK: Final = -1


class TopicCalls(AdminBase):
    """Topics."""

    @bounded
    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replication_factor: int | None = None,
        replicas: Sequence[Sequence[int]] | None = None,
        configs: Mapping[str, ConfigValue] | None = None,
        exists_ok: bool = False,
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Make a topic.

        Args:
            partitions, replication_factor: None for the brokers' defaults.
            replicas: broker ids of each partition, the leader first; instead of the two above.
            configs: Kafka's keys; durations and sizes in words, too: `{"retention.ms": "1d", "segment.bytes": "64MiB"}`.
            exists_ok: a topic that is there already is no error (and is left as it is).
            validate_only: only check whether it could be made.

        Raises:
            TopicAlreadyExistsError, InvalidTopicError, InvalidPartitionsError, InvalidReplicationFactorError,
            InvalidConfigError, PolicyViolationError: as the name says.
        """
        topic = NewTopic(
            name=name,
            partitions=partitions,
            replication_factor=replication_factor,
            replicas=replicas,
            configs=configs or {},
        )
        await self.create_topics([topic], exists_ok=exists_ok, validate_only=validate_only)

    @bounded
    async def create_topics(
        self,
        topics: Iterable[NewTopic],
        *,
        exists_ok: bool = False,
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Make topics.

        Raises:
            AdminErrors: some of several were not made; `errors` says why, by name.
        """
        wanted = {topic.name: topic for topic in topics}

        async def attempt(names: list[str], deadline_ms: float) -> dict[str, KafkaError | None]:
            def build(version: int) -> create_topics.CreateTopicsRequest:
                return create_topics.CreateTopicsRequest(
                    topics=[_creatable(wanted[name], version) for name in names],
                    timeout_ms=int(self._settings.request_timeout_ms),
                    validate_only=validate_only,
                )

            answer = await self._ask(build, create_topics.CreateTopicsResponse, CONTROLLER, deadline_ms=deadline_ms)
            return {
                row.name: None
                if row.error_code == ErrorCode.TOPIC_ALREADY_EXISTS and exists_ok
                else outcome(row.error_code, row.error_message, None)
                for row in answer.topics
            }

        await self._all(wanted, attempt)
        if not validate_only:
            self._made.update(dict.fromkeys(wanted))

    @bounded
    async def delete_topic(self, name: str, *, missing_ok: bool = False, timeout: Duration | None = None) -> None:
        """Delete a topic and its records.

        Raises:
            UnknownTopicOrPartitionError: there is none, unless `missing_ok`.
        """
        await self.delete_topics([name], missing_ok=missing_ok)

    @bounded
    async def delete_topics(
        self, names: Iterable[str], *, missing_ok: bool = False, timeout: Duration | None = None
    ) -> None:
        """Delete topics.

        Raises:
            AdminErrors: some of several were not deleted.
        """

        async def attempt(left: list[str], deadline_ms: float) -> dict[str, KafkaError | None]:
            def build(version: int) -> delete_topics.DeleteTopicsRequest:
                request = delete_topics.DeleteTopicsRequest(timeout_ms=int(self._settings.request_timeout_ms))
                if version >= 6:
                    request.topics = [delete_topics.DeleteTopicState(name=name) for name in left]
                else:
                    request.topic_names = left
                return request

            answer = await self._ask(build, delete_topics.DeleteTopicsResponse, CONTROLLER, deadline_ms=deadline_ms)
            found: dict[str, KafkaError | None] = {}
            for row in answer.responses:
                if row.name is None or (row.error_code in _NO_TOPIC and missing_ok):
                    found[row.name or ""] = None
                elif row.error_code in _NO_TOPIC:
                    found[row.name] = topic_error(row.error_code, row.name)
                else:
                    found[row.name] = outcome(row.error_code, row.error_message, None)
            return found

        asked = list(names)
        await self._all(asked, attempt)
        for name in asked:
            self._made.pop(name, None)

    @bounded
    async def list_topics(self, *, internal: bool = False, timeout: Duration | None = None) -> list[TopicListing]:
        """Return all topics, by name; with `internal` also the brokers' own (`__consumer_offsets`, ...)."""
        rows = await self._topics(None)
        return [
            TopicListing(
                name=name,
                topic_id=_id_text(row.topic_id),
                partitions=len(row.partitions),
                replication_factor=max((len(part.replica_nodes) for part in row.partitions), default=0),
                is_internal=row.is_internal,
            )
            for name, row in sorted(rows.items())
            if internal or not row.is_internal
        ]

    @bounded
    async def describe_topic(
        self, name: str, *, authorized_operations: bool = False, timeout: Duration | None = None
    ) -> TopicDescription:
        """Return a topic's partitions, leaders and replicas.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
        """
        return (await self.describe_topics([name], authorized_operations=authorized_operations))[name]

    @bounded
    async def describe_topics(
        self, names: Iterable[str], *, authorized_operations: bool = False, timeout: Duration | None = None
    ) -> dict[str, TopicDescription]:
        """Return topics by name.

        Raises:
            AdminErrors: some of several could not be described.
        """

        async def attempt(left: list[str], deadline_ms: float) -> dict[str, TopicDescription | KafkaError]:
            try:
                rows = await self._describe_pages(left, deadline_ms)
            except UnsupportedVersionError:  # before Kafka 3.7
                answer = await self._metadata(left, deadline_ms, operations=authorized_operations)
                rows = {row.name or "": row for row in answer.topics}
            return {
                name: topic_error(row.error_code, name)
                if row.error_code
                else _description(name, row, authorized_operations)
                for name, row in rows.items()
            }

        asked = list(names)
        # What this client has made may not have come to every broker yet.
        return await self._all(asked, attempt, missing_looks=MISSING_LOOKS if self._made.keys() & set(asked) else 0)

    async def _describe_pages(self, names: list[str], deadline_ms: float) -> dict[str, Any]:
        """Ask page by page (KIP-966): a page has some 2,000 partitions."""
        rows: dict[str, Any] = {}
        cursor: Cursor | None = None
        ordered = sorted(names)
        while True:
            request = DescribeTopicPartitionsRequest(
                topics=[TopicRequest(name=name) for name in ordered if cursor is None or name >= cursor.topic_name],
                cursor=cursor,
            )
            answer = await self._ask(request, DescribeTopicPartitionsResponse, ANY, deadline_ms=deadline_ms)
            for row in answer.topics:
                known = rows.get(row.name or "")
                if known is None:
                    rows[row.name or ""] = row
                else:
                    known.partitions += row.partitions
            following = answer.next_cursor
            if following is None:
                return rows
            place = (following.topic_name, following.partition_index)
            if cursor is not None and place <= (cursor.topic_name, cursor.partition_index):
                raise KafkaError(f"The broker describes topics in circles: its cursor went back to {place}.")
            cursor = following

    @bounded
    async def create_partitions(
        self,
        topic: str,
        total: int,
        *,
        replicas: Sequence[Sequence[int]] | None = None,
        validate_only: bool = False,
        timeout: Duration | None = None,
    ) -> None:
        """Have a topic grow to `total` partitions. Keys go to other partitions from then on.

        Args:
            replicas: broker ids of each new partition.

        Raises:
            InvalidPartitionsError: it has as many or more already.
        """

        async def attempt(left: list[str], deadline_ms: float) -> dict[str, KafkaError | None]:
            request = create_partitions.CreatePartitionsRequest(
                topics=[
                    create_partitions.CreatePartitionsTopic(
                        name=topic,
                        count=total,
                        assignments=None
                        if replicas is None
                        else [create_partitions.CreatePartitionsAssignment(broker_ids=list(ids)) for ids in replicas],
                    )
                ],
                timeout_ms=int(self._settings.request_timeout_ms),
                validate_only=validate_only,
            )
            answer = await self._ask(
                request, create_partitions.CreatePartitionsResponse, CONTROLLER, deadline_ms=deadline_ms
            )
            return {
                row.name: topic_error(row.error_code, topic)
                if row.error_code in _NO_TOPIC
                else outcome(row.error_code, row.error_message, None)
                for row in answer.results
            }

        await self._all([topic], attempt)

    @bounded
    async def delete_records(
        self, before: Mapping[TopicPartition, int | str], *, timeout: Duration | None = None
    ) -> dict[TopicPartition, int]:
        """Delete the records ahead of an offset in each partition; "end" deletes all that are there.

        Returns:
            by partition, the offset the log begins with now.

        Raises:
            OffsetOutOfRangeError: the offset is behind the end.
            AdminErrors: some of several partitions failed.
        """
        offsets = {TopicPartition(*where): _deletion_offset(place) for where, place in before.items()}

        async def ask(
            node_id: int, partitions: list[TopicPartition], deadline_ms: float
        ) -> dict[TopicPartition, int | KafkaError]:
            request = DeleteRecordsRequest(
                topics=[
                    DeleteRecordsTopic(
                        name=name,
                        partitions=[
                            DeleteRecordsPartition(partition_index=number, offset=offsets[TopicPartition(name, number)])
                            for number in numbers
                        ],
                    )
                    for name, numbers in by_topic(partitions).items()
                ],
                timeout_ms=int(self._settings.request_timeout_ms),
            )
            answer = await self._ask(request, DeleteRecordsResponse, node_id, deadline_ms=deadline_ms)
            return {
                TopicPartition(topic.name, row.partition_index): outcome(row.error_code, None, row.low_watermark)
                for topic in answer.topics
                for row in topic.partitions
            }

        return await self._for_leaders(offsets, ask)

    async def _partitions_of(self, topic: str) -> list[TopicPartition]:
        """Return all partitions of a topic."""
        for delay_s in (0.1, 0.4, 1.0, None):
            row = (await self._topics([topic])).get(topic)
            if row is not None and not row.error_code and row.partitions:
                return [TopicPartition(topic, part.partition_index) for part in row.partitions]
            if delay_s is not None:
                await asyncio.sleep(delay_s)
        raise topic_error(row.error_code if row is not None and row.error_code else 3, topic)


def by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    """Return the numbers of partitions by topic."""
    found: dict[str, list[int]] = {}
    for topic, partition in partitions:
        found.setdefault(topic, []).append(partition)
    return found


def _creatable(topic: NewTopic, version: int) -> create_topics.CreatableTopic:
    if topic.replicas is not None and (topic.partitions is not None or topic.replication_factor is not None):
        raise ConfigurationError(f"Topic {topic.name!r}: replicas= says how many partitions and replicas there are.")
    if version < 4 and topic.replicas is None and None in (topic.partitions, topic.replication_factor):
        # KIP-464, Kafka 2.4.
        raise ConfigurationError(
            f"Topic {topic.name!r}: this broker is too old to choose for itself.",
            "Pass partitions= and replication_factor=.",
        )
    return create_topics.CreatableTopic(
        name=topic.name,
        num_partitions=-1 if topic.partitions is None else topic.partitions,
        replication_factor=-1 if topic.replication_factor is None else topic.replication_factor,
        assignments=[
            create_topics.CreatableReplicaAssignment(partition_index=number, broker_ids=list(ids))
            for number, ids in enumerate(topic.replicas or ())
        ],
        configs=[
            create_topics.CreatableTopicConfig(name=key, value=config_text(key, value))
            for key, value in topic.configs.items()
        ],
    )


def _deletion_offset(place: int | str) -> int:
    if place == "end":
        return _HIGH_WATERMARK
    if isinstance(place, int) and not isinstance(place, bool) and place >= 0:
        return place
    raise ValueError(f"records are deleted up to an offset or 'end', not {place!r}")


def _description(name: str, row: Any, authorized: bool) -> TopicDescription:
    return TopicDescription(
        name=name,
        topic_id=_id_text(row.topic_id),
        is_internal=row.is_internal,
        partitions=tuple(
            PartitionDescription(
                partition=part.partition_index,
                leader=part.leader_id if part.leader_id >= 0 else None,
                leader_epoch=part.leader_epoch,
                replicas=tuple(part.replica_nodes),
                in_sync_replicas=tuple(part.isr_nodes),
                offline_replicas=tuple(part.offline_replicas),
                eligible_leaders=tuple(getattr(part, "eligible_leader_replicas", None) or ()),
            )
            for part in sorted(row.partitions, key=lambda part: part.partition_index)
        ),
        authorized_operations=operations(row.topic_authorized_operations) if authorized else None,
    )


def _id_text(topic_id: bytes) -> str:
    return "" if topic_id == ZERO_UUID else uuid_to_text(topic_id)
