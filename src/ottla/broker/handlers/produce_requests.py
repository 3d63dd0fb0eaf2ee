"""What a Produce asks for, before anything is appended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.produce_frames import BY_ID, FLEXIBLE_SINCE
from ottla.protocol.records.batch import ATTRIBUTES_END, HEADER_SIZE, MAGIC, MAGIC_POSITION, TRANSACTIONAL_BIT

if TYPE_CHECKING:
    from ottla.broker.replicas.manager import ReplicaManager

ACKS_NONE, ACKS_LEADER, ACKS_ALL = 0, 1, -1


def name_of(key: bytes, version: int, replicas: ReplicaManager) -> str | None:
    """Return the topic that a frame means by its name or id; None if there is none such."""
    if version >= BY_ID:
        return replicas.image.topic_names.get(key)
    try:
        name = key[1 if version >= FLEXIBLE_SINCE else 2 :].decode()
    except UnicodeDecodeError:
        return None
    return name if name in replicas.image.topics else None


def refuse_whole(request: ProduceRequest) -> ErrorCode:
    """Return the error that every partition of this request gets; NONE if the request as a whole is allowed."""
    if request.transactional_id is None and any(
        is_transactional(data.records) for topic in request.topic_data for data in topic.partition_data
    ):
        # As Kafka: without a transactional id there is nothing whose permission could be checked.
        return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    if request.acks not in (ACKS_NONE, ACKS_LEADER, ACKS_ALL):
        return ErrorCode.INVALID_REQUIRED_ACKS
    return ErrorCode.NONE


def without_repetitions(topics: list[TopicProduceData]) -> list[TopicProduceData]:
    """Return the topics with every partition once; of a partition that is there twice the last one counts, as in Kafka."""
    keys = [(topic.name, topic.topic_id, data.index) for topic in topics for data in topic.partition_data]
    if len(keys) == 1 or len(set(keys)) == len(keys):
        return topics
    merged: dict[tuple[str, bytes], dict[int, PartitionProduceData]] = {}
    for topic in topics:
        merged.setdefault((topic.name, topic.topic_id), {}).update({data.index: data for data in topic.partition_data})
    return [
        TopicProduceData(name=name, topic_id=topic_id, partition_data=list(partitions.values()))
        for (name, topic_id), partitions in merged.items()
    ]


def is_transactional(records: Any) -> bool:
    """Look at one bit of a batch that has not been checked yet; in other formats than magic 2 it is a bit of the message."""
    return (
        records is not None
        and len(records) >= HEADER_SIZE
        and records[MAGIC_POSITION] == MAGIC
        and bool(records[ATTRIBUTES_END] & TRANSACTIONAL_BIT)
    )
