"""What all scenarios share: versions, topics, batches, and the order they run in.

A scenario is a function of a `Wire`. It must ask the same questions whatever the answers are, except for what it
has to carry over from one to the next (member ids, session ids, topic ids).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tests.compatibility.differential.oracle import Tree
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import SERVED, ApiKey
from ottla.protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from ottla.protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.types import CompressionType, uuid_from_text

Scenario = Callable[[Wire], None]

#: A time in the past that no retention of these tests minds.
TIME = 1_700_000_000_000
UNKNOWN_ID = bytes(range(16))

#: The highest versions that Kafka 4.4 has and the reference, Kafka 4.3.1, lacks: not comparable.
ONLY_IN_4_4 = {
    ApiKey.API_VERSIONS: [5], ApiKey.DELETE_GROUPS: [3], ApiKey.TXN_OFFSET_COMMIT: [6], ApiKey.STREAMS_GROUP_HEARTBEAT: [1],
    ApiKey.STREAMS_GROUP_DESCRIBE: [1], ApiKey.STREAMS_GROUP_TOPOLOGY_DESCRIPTION_UPDATE: [0],
}  # fmt: skip

#: Served, but no scenario asks them yet; the report says so.
NOT_SCRIPTED: frozenset[ApiKey] = frozenset()


def versions(key: ApiKey, low: int = 0, high: int = 99) -> list[int]:
    """The versions of an API that both brokers have, within bounds."""
    first, last = SERVED[key]
    return [
        version for version in range(max(first, low), min(last, high) + 1) if version not in ONLY_IN_4_4.get(key, [])
    ]


def newest(key: ApiKey) -> int:
    return versions(key)[-1]


def create_topic(wire: Wire, name: str, partitions: int = 1, **configs: str) -> bytes:
    """Create a topic outside the transcript and wait until it takes requests; its id."""
    rows = [CreatableTopicConfig(name=key.replace("_", "."), value=value) for key, value in configs.items()]
    topic = CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, configs=rows)
    answer = wire.ask(None, CreateTopicsRequest(topics=[topic], timeout_ms=30_000), 7, on="aside")
    error = answer.topics[0].error_code
    assert error in ("NONE", "TOPIC_ALREADY_EXISTS"), f"{wire.transcript.broker}: {name}: {error}"
    return await_topic(wire, name, partitions)


def await_topic(wire: Wire, name: str, partitions: int) -> bytes:
    """Wait until every partition of a topic answers ListOffsets; note and return its id."""
    rows = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(partitions)]
    request = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=name, partitions=rows)])

    def is_ready() -> bool:
        answer = wire.ask(None, request, 7, on="aside")
        return all(row.error_code == "NONE" for row in answer.topics[0].partitions)

    wire.settle(f"topic {name}", is_ready)
    topic = wire.topic_metadata(name)
    wire.transcript.topic_ids[topic.topic_id] = name
    return uuid_from_text(topic.topic_id)


def await_topic_gone(wire: Wire, name: str) -> None:
    wire.settle(f"deletion of {name}", lambda: wire.topic_metadata(name).error_code == "UNKNOWN_TOPIC_OR_PARTITION")


def records(
    values: Iterable[str | None] = ("a", "b", "c"), *, key: bytes | None = b"k", time: int = TIME
) -> list[Record]:
    return [
        Record(index, time + index, key, None if value is None else value.encode())
        for index, value in enumerate(values)
    ]


def batch(
    values: Iterable[str | None] = ("a", "b", "c"),
    *,
    compression: CompressionType = CompressionType.NONE,
    key: bytes | None = b"k",
    time: int = TIME,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
) -> bytes:
    return bytes(
        build_batch(
            records(values, key=key, time=time),
            base_offset=0,
            compression=compression,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
            transactional=transactional,
            control=control,
        )
    )


def produce_request(
    topic: str,
    topic_id: bytes,
    data: Sequence[bytes | None],
    *,
    acks: int = -1,
    transactional_id: str | None = None,
    first_partition: int = 0,
) -> ProduceRequest:
    """A request for one topic, naming it both ways: `data[i]` goes to partition `first_partition + i`."""
    rows = [PartitionProduceData(index=first_partition + index, records=one) for index, one in enumerate(data)]
    return ProduceRequest(
        transactional_id=transactional_id,
        acks=acks,
        timeout_ms=5_000,
        topic_data=[TopicProduceData(name=topic, topic_id=topic_id, partition_data=rows)],
    )


def fill(wire: Wire, topic: str, topic_id: bytes, data: bytes, partition: int = 0) -> Tree:
    """Produce outside the transcript; the partition's answer."""
    request = produce_request(topic, topic_id, [data], first_partition=partition)
    answer = wire.ask(None, request, 13, on="aside")
    row: Tree = answer.responses[0].partition_responses[0]
    assert row.error_code == "NONE", f"{wire.transcript.broker}: {topic}-{partition}: {row.error_code}"
    return row
