"""Incremental fetch sessions: leaving out partitions at a look gives the answers that looking closely gives."""

from __future__ import annotations

from random import Random

import pytest
from tests.broker.story import started

from ottla.broker.handlers.fetch import FetchHandler
from ottla.protocol.codec import encode
from ottla.protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData
from ottla.protocol.records.builder import Record, build_batch
from ottla.testing.virtual_loop import VirtualLoop, run_virtual

PARTITIONS = 6


def play(seed: int) -> list[bytes]:
    answers: list[bytes] = []

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": PARTITIONS})
        assert node.broker is not None
        random = Random(seed)
        session = epoch = 0
        isolation = random.choice([0, 1])
        offsets = dict.fromkeys(range(PARTITIONS), 0)
        changed = dict(offsets)
        for _ in range(80):
            index = random.randrange(PARTITIONS)
            match random.randrange(6):
                case 0 | 1:
                    producer_id = random.choice([-1, -1, -1, 4000 + random.randrange(1000)])
                    batch = build_batch([Record(0, 1_700_000_000_000, None, b"x" * 50)], producer_id=producer_id)
                    data = [PartitionProduceData(index=index, records=bytes(batch))]
                    topic = TopicProduceData(name="orders", partition_data=data)
                    await client.ask(ProduceRequest(acks=1, timeout_ms=100, topic_data=[topic]), 9, ProduceResponse)
                case 2:
                    partition = node.broker.replicas.partition("orders", index)
                    assert partition is not None
                    if partition.log.high_watermark:
                        await partition.delete_records(random.randrange(partition.log.high_watermark + 1))
                case 3:
                    changed[index] = offsets[index] = max(0, offsets[index] + random.choice([-1, 1]))
            request = FetchRequest(
                max_wait_ms=random.choice([0, 100]),
                min_bytes=1,
                max_bytes=random.choice([100, 1 << 20]),
                isolation_level=isolation,
                session_id=session,
                session_epoch=epoch,
                topics=[
                    FetchTopic(
                        topic="orders",
                        partitions=[
                            FetchPartition(
                                partition=which,
                                fetch_offset=offset,
                                partition_max_bytes=1 << 20,
                                current_leader_epoch=random.choice([-1, -1, -1, 0, 5]),
                                last_fetched_epoch=random.choice([-1, -1, -1, 0]),
                            )
                            for which, offset in changed.items()
                        ],
                    )
                ],
            )
            response = await client.ask(request, 12, FetchResponse)
            assert not response.error_code
            session, epoch = response.session_id, epoch + 1
            answers.append(encode(response, 12))
            changed = {}
            for found in (part for topic in response.responses for part in topic.partitions):
                if found.error_code:
                    partition = node.broker.replicas.partition("orders", found.partition_index)
                    assert partition is not None
                    offsets[found.partition_index] = changed[found.partition_index] = partition.log.log_start_offset
                elif found.records:
                    offsets[found.partition_index] = changed[found.partition_index] = found.high_watermark
        await node.stop()

    run_virtual(seed, story)
    return answers


@pytest.mark.parametrize("seed", range(6))
def test_a_look_leaves_out_what_a_close_look_leaves_out(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = 0
    look = FetchHandler._find_without_news

    def counted(self: FetchHandler, *arguments: object) -> object:
        nonlocal left_out
        found = look(self, *arguments)  # type: ignore[arg-type]
        left_out += found is not None
        return found

    monkeypatch.setattr(FetchHandler, "_find_without_news", counted)
    at_a_look = play(seed)
    assert left_out > 100
    monkeypatch.setattr(FetchHandler, "_find_without_news", lambda *_: None)
    assert play(seed) == at_a_look
