"""A broker that answers heartbeats from their bytes, and one that decodes each, cannot be told apart.

Members of a group of the consumer protocol and of a classic one join, beat, leave and lose their sessions; they beat with
epochs of others, as members of nothing, and while a topic grows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from tests.broker.story import started

from ottla.broker.context import Session, ShortCut
from ottla.protocol.api import ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)
from ottla.protocol.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from ottla.protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse
from ottla.protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

KEYS = (ApiKey.HEARTBEAT, ApiKey.CONSUMER_GROUP_HEARTBEAT)


def replace_short_cuts(node: SimulatedBroker, counts: dict[ApiKey, int], *, by_position: bool) -> None:
    """Count what the short cuts answer, or have them do nothing."""
    assert node.broker is not None
    dispatcher = node.broker.dispatcher
    for key in KEYS:
        route = dispatcher._routes[key]
        short_cut = route.short_cut
        assert short_cut is not None
        counts[key] = 0

        def counted(short_cut: ShortCut, key: ApiKey, frame: memoryview, version: int, session: Session) -> Any:
            body = short_cut.handle_frame(frame, version, session) if by_position else None
            counts[key] += body is not None
            return body

        dispatcher._routes[key] = replace(
            route, short_cut=replace(short_cut, handle_frame=partial(counted, short_cut, key))
        )
    dispatcher._versions.clear()


async def joined_classic(client: WireClient) -> tuple[str, int]:
    """Return member and generation of the only member of the group `classic`."""
    join = JoinGroupRequest(
        group_id="classic",
        session_timeout_ms=30_000,
        rebalance_timeout_ms=10_000,
        protocol_type="consumer",
        protocols=[JoinGroupRequestProtocol(name="range", metadata=b"")],
    )
    join.member_id = (await client.ask(join, 9, JoinGroupResponse)).member_id
    answer = await client.ask(join, 9, JoinGroupResponse)
    sync = SyncGroupRequest(
        group_id="classic",
        generation_id=answer.generation_id,
        member_id=join.member_id,
        protocol_type="consumer",
        protocol_name="range",
        assignments=[SyncGroupRequestAssignment(member_id=join.member_id, assignment=b"a")],
    )
    assert (await client.ask(sync, 5, SyncGroupResponse)).error_code == 0
    return join.member_id, answer.generation_id


def play(seed: int, *, by_position: bool) -> tuple[list[bytes], dict[ApiKey, int]]:
    answers: list[bytes] = []
    counts: dict[ApiKey, int] = {}

    async def story(loop: VirtualLoop) -> None:
        node, client = await started(loop, **{"num.partitions": 3, "group.consumer.session.timeout.ms": 45_000})
        assert node.broker is not None
        replace_short_cuts(node, counts, by_position=by_position)
        find = FindCoordinatorRequest(key_type=0, coordinator_keys=["modern", "classic"])
        await client.ask(find, 6, FindCoordinatorResponse)
        await asyncio.sleep(1)
        member_id, generation = await joined_classic(client)
        random = Random(seed)
        epochs: dict[str, int] = {}
        owned: dict[str, list[TopicPartitions] | None] = {}
        for _ in range(120):
            if random.random() < 0.3:
                request = HeartbeatRequest(
                    group_id=random.choice(["classic"] * 20 + ["", "nobody's"]),
                    generation_id=generation + random.choice([0] * 9 + [1]),
                    member_id=random.choice([member_id] * 15 + ["stranger"]),
                )
                version = random.choice([0, 3, 4])
                answers.append(encode(await client.ask(request, version, HeartbeatResponse), version))
                await asyncio.sleep(random.choice([0.5, 1, 1, 2, 2] * 8 + [40]))
                continue
            name = random.choice(["m-1", "m-2", "m-3"])
            static = "i-3" if name == "m-3" else None
            beat = ConsumerGroupHeartbeatRequest(group_id="modern", member_id=name, instance_id=static)
            if name not in epochs:
                beat.member_epoch, beat.rebalance_timeout_ms = 0, 60_000
                beat.subscribed_topic_names, beat.topic_partitions = ["orders"], []
            else:
                beat.member_epoch = random.choice([epochs[name]] * 40 + [epochs[name] + 1, -1, 1])
                beat.topic_partitions = owned.pop(name, None)
                if random.random() < 0.05:
                    beat.group_id = "nobody's"
            version = random.choice([0, 1])
            response = await client.ask(beat, version, ConsumerGroupHeartbeatResponse)
            if response.assignment is not None:
                for part in response.assignment.topic_partitions:
                    part.topic_id = bytes(16)
                topic_id = node.broker.image.topics["orders"].topic_id
                owned[name] = [
                    TopicPartitions(topic_id=topic_id, partitions=list(part.partitions))
                    for part in response.assignment.topic_partitions
                ]
            if response.error_code or response.member_epoch < 0:
                epochs.pop(name, None)
            else:
                epochs[name] = response.member_epoch
            answers.append(encode(response, version))
            await asyncio.sleep(random.choice([0.1, 0.5, 3]))
        client.close()
        await node.stop()

    run_virtual(seed, story)
    return answers, counts


@pytest.mark.parametrize("seed", range(2))
def test_answers_are_the_same(seed: int) -> None:
    with_codec, counts = play(seed, by_position=False)
    assert set(counts.values()) == {0}
    by_position, counts = play(seed, by_position=True)
    assert min(counts.values()) > 5, counts
    assert len(by_position) == len(with_codec) == 120
    for number, (ours, codecs) in enumerate(zip(by_position, with_codec, strict=True)):
        assert ours == codecs, number
