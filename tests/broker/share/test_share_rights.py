"""Share sessions and access control: rights that go and come back during a session, and sessions of others."""

from __future__ import annotations

import asyncio

from tests.broker.share.share_client import GROUP as WORKERS
from tests.broker.share.share_client import Member, begin
from tests.broker.test_authorization import GROUP, READ, TOPIC, as_user, grant, make_topic, produce, revoke, with_broker

from ottla.errors import ErrorCode
from ottla.protocol.messages.produce import ProduceResponse
from ottla.protocol.messages.share_fetch import PartitionData, ShareFetchResponse
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.wire import WireClient

DENIED = ErrorCode.TOPIC_AUTHORIZATION_FAILED
ACCEPT = (1,)


async def put(admin: WireClient, *topics: str) -> None:
    for topic in topics:
        answer = await admin.ask(produce(topic), 9, ProduceResponse)
        assert answer.responses[0].partition_responses[0].error_code == 0


def rows(answer: ShareFetchResponse) -> list[PartitionData]:
    assert answer.error_code == 0
    return [part for topic in answer.responses for part in topic.partitions]


async def prepared(node: SimulatedBroker) -> tuple[WireClient, WireClient, Member]:
    """A topic, what alice needs to work on it, and a member of hers whose session has begun."""
    topic_id = await make_topic(node, "jobs")
    for kind, name in ((TOPIC, "jobs"), (GROUP, WORKERS)):
        await grant(node, "alice", READ, kind, name)
    admin, alice = await as_user(node, "admin"), await as_user(node, "alice")
    await begin(admin, topic_id)
    member = Member(alice, topic_id)
    assert await member.take() == []  # the share partition is loading
    await put(admin, "jobs")
    assert await member.take(wait_ms=1_000) == [(0, 0, 1)]
    return admin, alice, member


def test_share_topic_revoked_mid_session() -> None:
    """1. alice works. 2. Her right on the topic goes: nothing is delivered, acknowledged or acquired in her session.

    3. It comes back: so do the records, in the same session, and none has been counted as delivered meanwhile.
    """

    async def scenario(node: SimulatedBroker) -> None:
        admin, _, member = await prepared(node)
        assert await member.take([(0, 0, ACCEPT)]) == []
        await put(admin, "jobs")
        await revoke(node, "alice")
        await grant(node, "alice", READ, GROUP, WORKERS)
        for _ in range(2):  # each request of the session says so
            (row,) = rows(await member.ask(partitions=()))
            assert (row.error_code, bytes(row.records or b""), row.acquired_records) == (DENIED, b"", [])
        await grant(node, "alice", READ, TOPIC, "jobs")
        assert await member.take(partitions=(), wait_ms=1_000) == [(1, 1, 1)]
        # Acknowledgements need the right, too: without it the record stays where it was.
        await revoke(node, "alice")
        await grant(node, "alice", READ, GROUP, WORKERS)
        (row,) = rows(await member.ask([(1, 1, ACCEPT)]))
        assert (row.error_code, row.acknowledge_error_code) == (DENIED, DENIED)
        assert await member.acknowledge([(1, 1, ACCEPT)]) == DENIED
        await grant(node, "alice", READ, TOPIC, "jobs")
        assert await member.acknowledge([(1, 1, ACCEPT)]) == ErrorCode.NONE

    with_broker(scenario)


def test_a_parked_share_fetch_is_asked_again() -> None:
    """A fetch waits; the right is taken away; records come: it acquires none of them."""

    async def scenario(node: SimulatedBroker) -> None:
        admin, _, member = await prepared(node)
        parked = asyncio.ensure_future(member.ask([(0, 0, ACCEPT)], wait_ms=20_000))
        await asyncio.sleep(1)
        assert not parked.done()
        await revoke(node, "alice")
        await put(admin, "jobs")
        answer = await parked
        (row,) = rows(answer)
        assert (row.error_code, bytes(row.records or b""), row.acquired_records) == (DENIED, b"", [])

    with_broker(scenario)


def test_the_share_session_of_another_user_is_unknown() -> None:
    """bob, who may do the same as alice, says that he is her member: he sees no session, and hers goes on."""

    async def scenario(node: SimulatedBroker) -> None:
        admin, _, member = await prepared(node)
        for kind, name in ((TOPIC, "jobs"), (GROUP, WORKERS)):
            await grant(node, "bob", READ, kind, name)
        thief = Member(await as_user(node, "bob"), member.topic_id)
        for epoch in (0, member.epoch, -1):
            answer = await thief.ask(epoch=epoch)
            assert answer.error_code == ErrorCode.SHARE_SESSION_NOT_FOUND, epoch
        for epoch in (member.epoch, -1):
            assert await thief.acknowledge([(0, 0, ACCEPT)], epoch=epoch) == ErrorCode.SHARE_SESSION_NOT_FOUND
        await put(admin, "jobs")
        assert await member.take([(0, 0, ACCEPT)], wait_ms=1_000) == [(1, 1, 1)]

    with_broker(scenario)
