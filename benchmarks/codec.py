"""How long encoding and decoding one message takes, in microseconds: best of several runs, beside kio.

    python benchmarks/codec.py

The messages are those a broker spends its time on. Records are 10 KB a partition and are not looked into.
kio (compiled, immutable) is the yardstick because it is the fastest other codec of all messages; it is left out
if it is not installed.
"""

from __future__ import annotations

import io
import timeit
from collections.abc import Callable
from functools import partial
from importlib import import_module

from ottla.protocol.codec import decoder, encode
from ottla.protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from ottla.protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.heartbeat import HeartbeatRequest
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from ottla.protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.schema import Message

RECORDS = bytes(10_000)
UUID = bytes(range(16))

MESSAGES: list[tuple[str, Message, int, str]] = [
    (
        "request header",
        RequestHeader(request_api_key=1, request_api_version=16, correlation_id=7, client_id="client-1"),
        2,
        "kio.schema.request_header.v2.header",
    ),
    (
        "Heartbeat request",
        HeartbeatRequest(group_id="group", generation_id=3, member_id="m" * 40),
        4,
        "kio.schema.heartbeat.v4.request",
    ),
    (
        "ApiVersions response, 33 keys",
        ApiVersionsResponse(api_keys=[ApiVersion(api_key=key, max_version=9) for key in range(33)]),
        4,
        "kio.schema.api_versions.v4.response",
    ),
    (
        "Produce request, 1 partition",
        ProduceRequest(
            acks=-1,
            timeout_ms=30000,
            topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=RECORDS)])],
        ),
        12,
        "kio.schema.produce.v12.request",
    ),
    (
        "Produce request, 10 partitions",
        ProduceRequest(
            acks=-1,
            topic_data=[
                TopicProduceData(
                    name="topic",
                    partition_data=[PartitionProduceData(index=index, records=RECORDS) for index in range(10)],
                )
            ],
        ),
        12,
        "kio.schema.produce.v12.request",
    ),
    (
        "Fetch request, 10 partitions",
        FetchRequest(
            max_wait_ms=500,
            topics=[FetchTopic(topic_id=UUID, partitions=[FetchPartition(partition=index) for index in range(10)])],
        ),
        16,
        "kio.schema.fetch.v16.request",
    ),
    (
        "Fetch response, 10 partitions",
        FetchResponse(
            responses=[
                FetchableTopicResponse(
                    topic_id=UUID,
                    partitions=[
                        PartitionData(
                            partition_index=index, high_watermark=9, aborted_transactions=None, records=RECORDS
                        )
                        for index in range(10)
                    ],
                )
            ]
        ),
        16,
        "kio.schema.fetch.v16.response",
    ),
    (
        "JoinGroup request",
        JoinGroupRequest(
            group_id="group",
            session_timeout_ms=45000,
            member_id="m" * 40,
            protocol_type="consumer",
            protocols=[JoinGroupRequestProtocol(name=name, metadata=bytes(60)) for name in ("range", "cooperative")],
        ),
        9,
        "kio.schema.join_group.v9.request",
    ),
    (
        "OffsetCommit request, 10 partitions",
        OffsetCommitRequest(
            group_id="group",
            member_id="m" * 40,
            topics=[
                OffsetCommitRequestTopic(
                    name="topic",
                    partitions=[
                        OffsetCommitRequestPartition(partition_index=index, committed_offset=10**6)
                        for index in range(10)
                    ],
                )
            ],
        ),
        8,
        "kio.schema.offset_commit.v8.request",
    ),
    (
        "Metadata response, 100 topics of 3",
        MetadataResponse(
            brokers=[MetadataResponseBroker(node_id=1, host="localhost", port=9092)],
            cluster_id="c" * 22,
            topics=[
                MetadataResponseTopic(
                    name=f"topic-{topic}",
                    topic_id=UUID,
                    partitions=[
                        MetadataResponsePartition(
                            partition_index=index, leader_id=1, leader_epoch=0, replica_nodes=[1], isr_nodes=[1]
                        )
                        for index in range(3)
                    ],
                )
                for topic in range(100)
            ],
        ),
        12,
        "kio.schema.metadata.v12.response",
    ),
]


def best_us(call: Callable[[], object]) -> float:
    """Return the microseconds of one call in the best of five runs."""
    number, seconds = timeit.Timer(call).autorange()
    number = max(1, int(number * 0.1 / max(seconds, 1e-9)))
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def kio_calls(module: str, name: str, data: bytes) -> tuple[Callable[[], object], Callable[[], object]] | None:
    """Return kio's (encode, decode) of the same message, or None without kio."""
    try:
        from kio.serial import entity_reader, entity_writer
    except ImportError:
        return None
    cls = getattr(import_module(module), name)
    read, write = entity_reader(cls), entity_writer(cls)
    entity, _ = read(data, 0)
    return (lambda: write(io.BytesIO(), entity)), partial(read, data, 0)


def main() -> None:
    print(f"{'':36} {'encode':>9} {'decode':>9} {'kio enc':>9} {'kio dec':>9}   us")
    for title, message, version, module in MESSAGES:
        data = encode(message, version)
        row = [best_us(partial(encode, message, version)), best_us(partial(decoder(type(message), version), data, 0))]
        other = kio_calls(module, type(message).__name__, data)
        row += [best_us(call) for call in other] if other else []
        print(f"{title:36} " + " ".join(f"{figure:9.2f}" for figure in row))


if __name__ == "__main__":
    main()
