"""Fetch, its sessions, ListOffsets, OffsetForLeaderEpoch and DeleteRecords: everything that reads a log's offsets."""

from __future__ import annotations

from typing import Any

from tests.compatibility.differential.script import TIME, UNKNOWN_ID, batch, create_topic, fill, newest, versions
from tests.compatibility.differential.wire import Wire

from ottla.protocol.api import ApiKey
from ottla.protocol.messages.delete_records import DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic, ReplicaState
from ottla.protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from ottla.protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from ottla.types import CompressionType

NEWEST = newest(ApiKey.FETCH)


def row(
    partition: int, offset: int, *, max_bytes: int = 1 << 20, epoch: int = -1, last_epoch: int = -1
) -> FetchPartition:
    return FetchPartition(
        partition=partition,
        fetch_offset=offset,
        partition_max_bytes=max_bytes,
        current_leader_epoch=epoch,
        last_fetched_epoch=last_epoch,
    )


def request(topics: list[tuple[str, bytes, list[FetchPartition]]], **fields: Any) -> FetchRequest:
    defaults: dict[str, Any] = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1 << 20, "session_epoch": -1}
    rows = [FetchTopic(topic=name, topic_id=topic_id, partitions=partitions) for name, topic_id, partitions in topics]
    return FetchRequest(topics=rows, **{**defaults, **fields})


def every_version(wire: Wire) -> None:
    topic_id = create_topic(wire, "fetch-versions", 2)
    for number in range(4):
        fill(
            wire, "fetch-versions", topic_id, batch([f"{number}a", f"{number}b", f"{number}c"], time=TIME + 10 * number)
        )
    fill(wire, "fetch-versions", topic_id, batch(["z" * 50] * 5, compression=CompressionType.LZ4), partition=1)
    for version in versions(ApiKey.FETCH):

        def ask(name: str, *partitions: FetchPartition, version: int = version, **fields: Any) -> None:
            wire.ask(name, request([("fetch-versions", topic_id, list(partitions))], **fields), version)

        ask("both from the start", row(0, 0), row(1, 0))
        ask("the middle of a batch", row(0, 4))
        ask("the end", row(0, 12))
        ask("beyond the end", row(0, 13))
        ask("negative", row(0, -1))
        ask("partition 9", row(9, 0))
        ask("at least one batch", row(0, 0, max_bytes=1))
        ask("at least one batch of the response", row(0, 0), row(1, 0), max_bytes=1)
        ask("two batches fit", row(0, 0, max_bytes=200))
        ask("max bytes 0", row(0, 0, max_bytes=0), max_bytes=0)
        ask("read committed", row(0, 0), isolation_level=1)
        ask("isolation level 7", row(0, 0), isolation_level=7)
        ask("the same partition twice", row(0, 0), row(0, 6))
        ask("a short wait for more", row(0, 12), max_wait_ms=50, min_bytes=1)
        ask("an error does not wait", row(0, 12), row(0, 99), max_wait_ms=10_000, min_bytes=1)
        ask("min bytes in hand", row(0, 0), max_wait_ms=10_000, min_bytes=10)
        ask("rack", row(0, 0), rack_id="somewhere") if version >= 11 else None
        wire.ask("unknown topic", request([("nowhere", UNKNOWN_ID, [row(0, 0)])]), version)
        wire.ask("no topics", request([]), version)
        wire.ask(
            "known and unknown",
            request([("nowhere", UNKNOWN_ID, [row(0, 0)]), ("fetch-versions", topic_id, [row(0, 9)])]),
            version,
        )
        if version >= 9:
            ask("leader epoch 0", row(0, 9, epoch=0))
            ask("leader epoch 7", row(0, 9, epoch=7))
        if version >= 12:
            ask("last fetched epoch 0", row(0, 9, last_epoch=0))
            ask("last fetched epoch 0 beyond the end", row(0, 40, last_epoch=0))
            ask("last fetched epoch 5", row(0, 9, last_epoch=5, epoch=0))
    for replica in (1, 5, -2, -3):
        for version in (12, 14):
            fields = {"replica_id": replica}
            wire.ask(f"as replica {replica}", request([("fetch-versions", topic_id, [row(0, 9)])], **fields), version)
        state = ReplicaState(replica_id=replica, replica_epoch=-1)
        wire.ask(
            f"as replica {replica}", request([("fetch-versions", topic_id, [row(0, 9)])], replica_state=state), NEWEST
        )


def sessions(wire: Wire) -> None:
    for version in (7, 11, 12, 13, NEWEST):
        topic = f"fetch-session-{version}"
        topic_id = create_topic(wire, topic, 3)
        for partition in range(3):
            fill(wire, topic, topic_id, batch(), partition)

        def ask(
            name: str, session: int, epoch: int, *partitions: FetchPartition, forget: list[int] | None = None,
            topic: str = topic, topic_id: bytes = topic_id, version: int = version,
        ) -> int:  # fmt: skip
            forgotten = [ForgottenTopic(topic=topic, topic_id=topic_id, partitions=forget)] if forget else []
            topics = [(topic, topic_id, list(partitions))] if partitions else []
            message = request(topics, session_id=session, session_epoch=epoch, forgotten_topics_data=forgotten)
            return int(wire.ask(name, message, version).get("session_id", 0))

        session = ask("a new session", 0, 0, row(0, 0), row(1, 0), row(2, 3))
        ask("advancing", session, 1, row(0, 3), row(1, 3))
        ask("nothing new", session, 2)
        fill(wire, topic, topic_id, batch(["new"]), 1)
        ask("one changed", session, 3)
        ask("still unread, so sent again", session, 4)
        ask("read", session, 5, row(1, 4))
        ask("forgetting one", session, 6, forget=[0])
        fill(wire, topic, topic_id, batch(["unseen"]), 0)
        ask("the forgotten one changed", session, 7)
        ask("taking it back", session, 8, row(0, 3))
        ask("out of range within", session, 9, row(2, 99))
        ask("unknown partition within", session, 10, row(9, 0))
        ask("wrong epoch", session, 9)
        ask("after the wrong epoch", session, 11)
        ask("unknown session", session ^ 0x55555, 1)
        ask("unknown session, closing", session ^ 0x55555, -1)
        ask("epoch 0 replaces it", session, 0, row(0, 0))
        ask("the replaced one", session, 12)
        closing = ask("another", 0, 0, row(0, 0))
        ask("closing it", closing, -1, row(1, 0))
        ask("after closing", closing, 1)
        ask("a session without partitions", 0, 0)
        ask("epoch 5 without a session", 0, 5, row(0, 0))


def list_offsets(wire: Wire) -> None:
    topic_id = create_topic(wire, "offsets-list", 2)
    for stamps in ((0, 5, 3), (9, 1, 2), (4, 4, 4)):
        for stamp in stamps:
            fill(wire, "offsets-list", topic_id, batch(["v"], time=TIME + stamp))
    fill(wire, "offsets-list", topic_id, batch(["x"] * 4, time=TIME + 20, compression=CompressionType.ZSTD))
    special = {"latest": -1, "earliest": -2, "max timestamp": -3, "earliest local": -4, "latest tiered": -5}
    special |= {"earliest pending upload": -6, "-7": -7, "-99": -99}
    for version in versions(ApiKey.LIST_OFFSETS):

        def ask(
            name: str, timestamp: int, *, topic: str = "offsets-list", partition: int = 0, epoch: int = -1,
            replica: int = -1, isolation: int = 0, version: int = version,
        ) -> None:  # fmt: skip
            rows = [ListOffsetsPartition(partition_index=partition, timestamp=timestamp, current_leader_epoch=epoch)]
            topics = [ListOffsetsTopic(name=topic, partitions=rows)]
            message = ListOffsetsRequest(replica_id=replica, isolation_level=isolation, topics=topics, timeout_ms=1_000)
            wire.ask(name, message, version)

        for name, timestamp in special.items():
            ask(name, timestamp)
            ask(f"{name} of an empty partition", timestamp, partition=1)
        for delta in (-1, 0, 1, 4, 5, 6, 9, 10, 20, 22, 23, 24):
            ask(f"time +{delta}", TIME + delta)
        ask("time 0", 0)
        ask("unknown topic", -1, topic="nowhere")
        ask("invalid topic", -1, topic="no/where")
        ask("partition 9", -1, partition=9)
        if version >= 2:
            ask("read committed", -1, isolation=1)
            ask("read committed, by time", TIME, isolation=1)
            ask("isolation level 7", -1, isolation=7)
        if version >= 4:
            ask("leader epoch 0", -1, epoch=0)
            ask("leader epoch 7", -1, epoch=7)
        ask("as replica 1", -1, replica=1)
        ask("as replica 7", -1, replica=7)
        ask("as a debugging consumer", -1, replica=-2)
        row0 = ListOffsetsPartition(partition_index=0, timestamp=-1)
        row1 = ListOffsetsPartition(partition_index=0, timestamp=-2)
        twice = [ListOffsetsTopic(name="offsets-list", partitions=[row0, row1])]
        wire.ask("a partition twice", ListOffsetsRequest(replica_id=-1, topics=twice), version)
        wire.ask("no topics", ListOffsetsRequest(replica_id=-1), version)


def leader_epochs(wire: Wire) -> None:
    topic_id = create_topic(wire, "offsets-epochs", 2)
    fill(wire, "offsets-epochs", topic_id, batch())
    for version in versions(ApiKey.OFFSET_FOR_LEADER_EPOCH):

        def ask(
            name: str,
            epoch: int,
            *,
            topic: str = "offsets-epochs",
            partition: int = 0,
            current: int = -1,
            replica: int = -1,
            version: int = version,
        ) -> None:
            rows = [OffsetForLeaderPartition(partition=partition, leader_epoch=epoch, current_leader_epoch=current)]
            topics = [OffsetForLeaderTopic(topic=topic, partitions=rows)]
            wire.ask(name, OffsetForLeaderEpochRequest(replica_id=replica, topics=topics), version)

        for epoch in (0, -1, 1, 5):
            ask(f"epoch {epoch}", epoch)
            ask(f"epoch {epoch} of an empty partition", epoch, partition=1)
        ask("current leader epoch 0", 0, current=0)
        ask("current leader epoch 7", 0, current=7)
        ask("unknown topic", 0, topic="nowhere")
        ask("partition 9", 0, partition=9)
        ask("as a debugging consumer", 0, replica=-2)
        ask("as replica 1", 0, replica=1)
        wire.ask("no topics", OffsetForLeaderEpochRequest(replica_id=-1), version)


def delete_records(wire: Wire) -> None:
    for version in versions(ApiKey.DELETE_RECORDS):
        topic = f"offsets-delete-{version}"
        compacted = f"offsets-delete-compacted-{version}"
        topic_id, compacted_id = create_topic(wire, topic, 2), create_topic(wire, compacted, cleanup_policy="compact")
        for _ in range(4):
            fill(wire, topic, topic_id, batch())
        fill(wire, compacted, compacted_id, batch())

        def ask(name: str, offset: int, *, topic: str = topic, partition: int = 0, version: int = version) -> None:
            rows = [DeleteRecordsPartition(partition_index=partition, offset=offset)]
            topics = [DeleteRecordsTopic(name=topic, partitions=rows)]
            wire.ask(name, DeleteRecordsRequest(topics=topics, timeout_ms=5_000), version)

        ask("to the middle of a batch", 4)
        ask("back", 2)
        ask("to 0", 0)
        ask("beyond the end", 13)
        ask("-2", -2)
        ask("unknown topic", 1, topic="nowhere")
        ask("partition 9", 1, partition=9)
        ask("a compacted topic", 1, topic=compacted)
        ask("the internal topic", 1, topic="__consumer_offsets")
        ask("an empty partition", -1, partition=1)

        def fetch(name: str, offset: int, topic: str = topic, topic_id: bytes = topic_id) -> None:
            wire.ask(name, request([(topic, topic_id, [row(0, offset)])]), NEWEST)

        fetch(f"{topic}: below the start", 3)
        fetch(f"{topic}: at the start", 4)
        for name, timestamp in {"earliest": -2, "time": TIME, "max timestamp": -3}.items():
            rows = [ListOffsetsPartition(partition_index=0, timestamp=timestamp)]
            message = ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=topic, partitions=rows)])
            wire.ask(f"{topic}: {name} after deletion", message, newest(ApiKey.LIST_OFFSETS))
        ask("to the high watermark", -1)
        fetch(f"{topic}: empty now", 12)
        wire.ask("no topics", DeleteRecordsRequest(timeout_ms=1_000), version)


SCENARIOS = [every_version, sessions, list_offsets, leader_epochs, delete_records]
