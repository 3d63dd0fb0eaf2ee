"""A broker that answers commits from their bytes, and one that decodes each, answer and commit the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.broker.handlers.test_heartbeat_by_position import joined_classic
from tests.broker.story import started

from ottla.broker.context import Session
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from ottla.protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def replace_short_cut(node: SimulatedBroker, counts: list[int], *, by_position: bool) -> None:
    """Count what the short cut answers, or have it do nothing."""
    assert node.broker is not None
    dispatcher = node.broker.dispatcher
    route = dispatcher._routes[ApiKey.OFFSET_COMMIT]
    short_cut = route.short_cut
    assert short_cut is not None
    handle_frame = short_cut.handle_frame

    def counted(frame: memoryview, version: int, session: Session) -> Any:
        body = handle_frame(frame, version, session) if by_position else None
        counts[0] += body is not None
        return body

    dispatcher._routes[ApiKey.OFFSET_COMMIT] = replace(route, short_cut=replace(short_cut, handle_frame=counted))
    dispatcher._versions.clear()


def play(seed: int, *, by_position: bool) -> tuple[list[bytes], int]:
    answers: list[bytes] = []
    counts = [0]

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": 3, "offset.metadata.max.bytes": 20})
        assert node.broker is not None
        replace_short_cut(node, counts, by_position=by_position)
        find = FindCoordinatorRequest(key_type=0, coordinator_keys=["classic"])
        await client.ask(find, 6, FindCoordinatorResponse)
        await asyncio.sleep(1)
        member_id, generation = await joined_classic(client)
        random = Random(seed)
        for number in range(100):
            version = random.choice([2, 4, 6, 8, 9, 9, 10, 10])
            group_id, member, epoch = random.choice(
                [("classic", member_id, generation)] * 6
                + [("classic", "stranger", generation), ("classic", member_id, generation + 1)]
                + [("simple", "", -1), ("nobody's", "x", 3), ("", "", -1)]
            )
            topic = node.broker.image.topics["orders"]
            is_unknown = random.random() < 0.1
            request = OffsetCommitRequest(
                group_id=group_id,
                generation_id_or_member_epoch=epoch,
                member_id=member,
                retention_time_ms=random.choice([-1, 5_000]) if version < 5 else -1,
                topics=[
                    OffsetCommitRequestTopic(
                        name="" if version >= 10 else "unknown" if is_unknown else "orders",
                        topic_id=bytes(16) if version < 10 else b"u" * 16 if is_unknown else topic.topic_id,
                        partitions=[
                            OffsetCommitRequestPartition(
                                partition_index=random.choice([0, 0, 1, 1, 2, 2, 2, 3]),
                                committed_offset=number,
                                committed_leader_epoch=random.choice([-1, 0]) if version >= 6 else -1,
                                committed_metadata=random.choice(["", None, "note", "n" * 21]),
                            )
                            for _ in range(random.choice([0, 1, 1, 2]))
                        ],
                    )
                    for _ in range(random.choice([1, 1, 2]))
                ],
            )
            response = await client.ask(request, version, OffsetCommitResponse)
            for part in response.topics:
                part.topic_id = bytes(16) if part.topic_id == topic.topic_id else part.topic_id
            answers.append(encode(response, version))
            await asyncio.sleep(random.choice([0.1, 1, 3]))
        for group_id in ("classic", "simple", "nobody's"):
            fetch = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group_id, topics=None)])
            answers.append(encode(await client.ask(fetch, 9, OffsetFetchResponse), 9))
        client.close()
        await node.stop()

    run_virtual(seed, story)
    return answers, counts[0]


@pytest.mark.parametrize("seed", range(2))
def test_answers_and_offsets_are_the_same(seed: int) -> None:
    with_codec, count = play(seed, by_position=False)
    assert count == 0
    by_position, count = play(seed, by_position=True)
    assert count > 25
    assert len(by_position) == len(with_codec) == 103
    for number, (ours, codecs) in enumerate(zip(by_position, with_codec, strict=True)):
        assert ours == codecs, number
