"""A broker that answers ordinary produce requests from their bytes, and one that decodes each: nobody can tell them apart.

Both get the same requests: batches in order, again, out of order, damaged, compressed, of transactions, too large, for
partitions that are not there or that are named twice, several of them in one request.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest
from tests.broker.story import replace_short_cut, started

from ottla.broker.context import PartialResult, Session, ShortCut
from ottla.broker.replicas.partition import Partition
from ottla.protocol.codec import encode
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.storage.appended import AppendInfo
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.types import CompressionType, TopicPartition

PARTITIONS = 3


def some_batch(random: Random, now_ms: int) -> bytes:
    """Mostly the next batch of an idempotent producer, or one without."""
    count = random.choice([1, 1, 3, 20])
    producer_id = random.choice([-1, -1, 4000, 4001])
    batch = build_batch(
        [
            Record(
                k, now_ms + random.choice([0, k, -k]), random.choice([None, b"k"]), b"v" * random.choice([0, 10, 300])
            )
            for k in range(count)
        ],
        compression=CompressionType(random.choice([0, 0, 0, 0, 0, 1, 2, 3, 4])),
        producer_id=producer_id,
        producer_epoch=random.choice([0, 0, 0, 0, 1]) if producer_id >= 0 else -1,
        base_sequence=random.choice([0, 0, 1, 2, 3, 4, 5]) if producer_id >= 0 else -1,
        transactional=producer_id >= 0 and random.random() < 0.05,
    )
    if random.random() < 0.1:
        batch[random.randrange(len(batch))] ^= 1 << random.randrange(8)
    if random.random() < 0.05:
        batch = batch[: len(batch) - random.randrange(4)] + bytes(random.randrange(3))
    return bytes(batch)


def some_request(random: Random, now_ms: int, version: int, topic_id: bytes) -> ProduceRequest:
    topics = []
    for _ in range(random.choice([1, 1, 1, 2])):
        indexes = random.choice([[0], [1], [0, 1, 2], [2, 1], [0, 0], [1, PARTITIONS]])
        known = random.random() < 0.95
        topics.append(
            TopicProduceData(
                name="" if version >= 13 else "orders" if known else "nowhere",
                topic_id=(topic_id if known else b"?" * 16) if version >= 13 else bytes(16),
                partition_data=[PartitionProduceData(index=k, records=some_batch(random, now_ms)) for k in indexes],
            )
        )
    return ProduceRequest(acks=random.choice([-1, 1, 1, 7]), timeout_ms=1000, topic_data=topics)


def log_bytes(node: SimulatedBroker, index: int) -> list[bytes]:
    assert node.broker is not None
    log = node.broker.logs.logs[TopicPartition("orders", index)]
    return [segment.file.pread(segment.size, 0) for segment in log.segments]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"log.cleanup.policy": "compact", "log.index.interval.bytes": 0},
        {"message.max.bytes": 1000},
        {"compression.type": "uncompressed"},
        {"log.flush.interval.messages": 1},
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_answers_and_logs_are_the_same(seed: int, settings: dict[str, object]) -> None:
    answered_from_bytes = 0

    def play(by_position: bool) -> tuple[list[bytes], list[list[bytes]], dict[str, int], list[bytes]]:
        answers: list[bytes] = []
        outcome: tuple[list[list[bytes]], dict[str, int], list[bytes]]

        async def story(loop: VirtualLoop) -> None:
            nonlocal answered_from_bytes, outcome
            node, client = await started(loop, **{"num.partitions": PARTITIONS, **settings})
            assert node.broker is not None
            topic_id = node.broker.image.topics["orders"].topic_id

            def counted(short_cut: ShortCut, frame: memoryview, version: int, session: Session) -> Any:
                nonlocal answered_from_bytes
                body = short_cut.handle_frame(frame, version, session) if by_position else None
                answered_from_bytes += body is not None and not isinstance(body, PartialResult)
                return body

            replace_short_cut(node.broker.dispatcher, counted)
            random = Random(seed)
            for _ in range(150):
                version = random.choice([3, 7, 8, 9, 11, 13])
                request = some_request(random, 1_700_000_000_000, version, topic_id)
                response = await client.ask(request, version, ProduceResponse)
                for topic in response.responses:
                    topic.topic_id = bytes(16)  # of chance
                answers.append(encode(response, version))
            counts = node.broker.metrics.topic("orders")
            logs = [log_bytes(node, index) for index in range(PARTITIONS)]
            snapshots = [
                node.broker.logs.logs[TopicPartition("orders", index)].producers.snapshot()
                for index in range(PARTITIONS)
            ]
            outcome = (logs, {name: getattr(counts, name) for name in counts.__slots__}, snapshots)
            await node.stop()

        run_virtual(seed, story)
        return answers, *outcome

    with_codec = play(by_position=False)
    assert answered_from_bytes == 0
    by_position = play(by_position=True)
    assert answered_from_bytes > 0
    for left, right in zip(by_position, with_codec, strict=True):
        assert left == right


def test_the_first_batches_are_not_appended_twice_when_a_later_one_needs_a_second_look() -> None:
    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": 2})
        good = build_batch([Record(0, node.clock.wall_ms(), None, b"x")])
        bad = bytearray(good)
        struct.pack_into(">I", bad, 17, 0)
        request = ProduceRequest(
            acks=-1,
            timeout_ms=1000,
            topic_data=[
                TopicProduceData(
                    name="orders",
                    partition_data=[
                        PartitionProduceData(index=0, records=bytes(good)),
                        PartitionProduceData(index=1, records=bytes(bad)),
                    ],
                )
            ],
        )
        response = await client.ask(request, 9, ProduceResponse)
        parts = response.responses[0].partition_responses
        assert [(part.error_code, part.base_offset) for part in parts] == [(0, 0), (2, -1)]
        assert node.broker is not None
        logs = node.broker.logs.logs
        assert [logs[TopicPartition("orders", index)].log_end_offset for index in range(2)] == [1, 0]
        await node.stop()

    run_virtual(1, story)


def test_a_bug_in_the_middle_of_a_request_leaves_nothing_behind_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """1. Of two batches the first is appended, the second meets a bug. 2. The next request's batches are its own."""
    append = Partition.append_ordinary

    def append_or_fail(partition: Partition, records: memoryview, now_ms: int, *, acks_all: bool) -> AppendInfo | None:
        if partition.topic_partition.partition == 1:
            raise ZeroDivisionError("a bug")
        return append(partition, records, now_ms)

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": 2})
        batch = bytes(build_batch([Record(0, node.clock.wall_ms(), None, b"x")]))

        def request(*indexes: int) -> ProduceRequest:
            data = [PartitionProduceData(index=index, records=batch) for index in indexes]
            topic = TopicProduceData(name="orders", partition_data=data)
            return ProduceRequest(acks=-1, timeout_ms=1000, topic_data=[topic])

        await client.ask(request(0, 1), 9, ProduceResponse)  # the first one makes the files
        monkeypatch.setattr(Partition, "append_ordinary", append_or_fail)
        with pytest.raises(ConnectionError):
            await client.ask(request(0, 1), 9, ProduceResponse)
        monkeypatch.setattr(Partition, "append_ordinary", lambda *_, **__: None)  # the long way
        client = await node.connect()
        response = await client.ask(request(0), 9, ProduceResponse)
        assert response.responses[0].partition_responses[0].base_offset == 2
        await node.stop()

    run_virtual(1, story)
    assert "ZeroDivisionError" in caplog.text
