"""Share groups over the wire of a whole simulated broker: fetch, acknowledge, locks, sessions, crashes."""

from __future__ import annotations

import asyncio

from tests.broker.share.share_client import Member, produce, read_state, states, with_jobs

from ottla.errors import ErrorCode
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.wire import WireClient

ACCEPT, RELEASE, REJECT, RENEW = (1,), (2,), (3,), (4,)


def test_records_are_delivered_once_and_remembered() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        member = Member(client, topic_id)
        await produce(node, client, 5)
        assert await member.take() == []  # the share partition is loading
        assert await member.take(wait_ms=1_000) == [(0, 4, 1)]
        assert await member.take([(0, 2, ACCEPT), (3, 4, (3, 2))], wait_ms=1_000) == [(4, 4, 2)]
        assert await member.acknowledge([(4, 4, ACCEPT)]) == ErrorCode.NONE
        assert states(await read_state(client, topic_id)) == [(4, 4, 2, 2)]
        assert (await read_state(client, topic_id)).start_offset == 4
        assert await member.take(wait_ms=500) == []

    with_jobs(story)


def test_a_fetch_waits_for_an_append() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        member = Member(client, topic_id)
        other = await node.connect()
        waiting = asyncio.ensure_future(member.take(wait_ms=10_000))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await produce(node, other, 1)
        assert await waiting == [(0, 0, 1)]
        assert asyncio.get_running_loop().time() - began < 1
        other.close()

    with_jobs(story)


def test_a_fetch_waits_for_what_another_member_gives_back() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 3)
        first, second = Member(client, topic_id), Member(await node.connect(), topic_id, "two")
        assert await first.take(wait_ms=1_000) == [(0, 2, 1)]
        waiting = asyncio.ensure_future(second.take(wait_ms=10_000))
        await asyncio.sleep(1)
        assert await first.acknowledge([(1, 1, RELEASE)]) == ErrorCode.NONE
        assert await waiting == [(1, 1, 2)]

    with_jobs(story)


def test_a_lock_runs_out_and_can_be_renewed() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 2)
        first, second = Member(client, topic_id), Member(await node.connect(), topic_id, "two")
        assert await first.take(wait_ms=1_000) == [(0, 1, 1)]
        await asyncio.sleep(20)
        answer = await first.ask([(0, 0, RENEW)], renew=True)
        assert answer.responses[0].partitions[0].acknowledge_error_code == ErrorCode.NONE
        assert answer.acquisition_lock_timeout_ms == 30_000
        began = asyncio.get_running_loop().time()
        assert await second.take(wait_ms=60_000) == [(1, 1, 2)]
        assert 9 < asyncio.get_running_loop().time() - began < 11
        assert await first.acknowledge([(0, 0, ACCEPT)]) == ErrorCode.NONE
        assert await first.acknowledge([(1, 1, ACCEPT)]) == ErrorCode.INVALID_RECORD_STATE

    with_jobs(story)


def test_a_record_that_fails_too_often_is_given_up() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 1)
        member = Member(client, topic_id)
        for count in range(1, 6):
            assert await member.take(wait_ms=1_000) == [(0, 0, count)]
            assert await member.acknowledge([(0, 0, RELEASE)]) == ErrorCode.NONE
        assert await member.take(wait_ms=1_000) == []
        state = await read_state(client, topic_id)
        assert states(state) == [(0, 0, 4, 5)]

    with_jobs(story)


def test_a_lost_connection_gives_back_what_its_member_had() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 2)
        lost = await node.connect()
        first, second = Member(lost, topic_id), Member(client, topic_id, "two")
        assert await first.take(wait_ms=1_000) == [(0, 1, 1)]
        assert await second.take() == []
        waiting = asyncio.ensure_future(second.take(wait_ms=10_000))
        await asyncio.sleep(0.1)
        lost.close()
        assert await waiting == [(0, 1, 2)]

    with_jobs(story)


def test_what_was_not_acknowledged_before_a_crash_is_delivered_again() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 4)
        member = Member(client, topic_id)
        assert await member.take(wait_ms=1_000) == [(0, 3, 1)]
        assert await member.acknowledge([(1, 1, ACCEPT), (2, 2, RELEASE)]) == ErrorCode.NONE
        client.close()
        node.kill()
        await node.start()
        again = await node.connect()
        member = Member(again, topic_id)
        taken = []
        for _ in range(4):
            taken += await member.take(wait_ms=2_000)
            if len(taken) >= 3:
                break
        assert sorted(taken) == [(0, 0, 1), (2, 2, 2), (3, 3, 1)]
        again.close()

    with_jobs(story)


def test_sessions_answer_with_kafkas_errors() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 1)
        member = Member(client, topic_id)
        assert (await member.ask(epoch=1)).error_code == ErrorCode.SHARE_SESSION_NOT_FOUND
        assert (await member.ask(epoch=-1)).error_code == ErrorCode.SHARE_SESSION_NOT_FOUND
        assert await member.acknowledge([(0, 0, ACCEPT)], epoch=0) == ErrorCode.INVALID_SHARE_SESSION_EPOCH
        assert await member.acknowledge([(0, 0, ACCEPT)], epoch=1) == ErrorCode.SHARE_SESSION_NOT_FOUND
        assert (await member.ask([(0, 0, ACCEPT)])).error_code == ErrorCode.INVALID_REQUEST
        assert await member.take(wait_ms=1_000) == [(0, 0, 1)]
        assert (await member.ask(epoch=7)).error_code == ErrorCode.INVALID_SHARE_SESSION_EPOCH
        assert await member.acknowledge([(0, 0, ACCEPT)], epoch=9) == ErrorCode.INVALID_SHARE_SESSION_EPOCH
        assert (await Member(client, topic_id, "x" * 37).ask()).error_code == ErrorCode.INVALID_REQUEST
        assert (await Member(client, topic_id, "").ask()).error_code == ErrorCode.INVALID_REQUEST

    with_jobs(story)


def test_acknowledgements_answer_with_kafkas_errors() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 3)
        member, other = Member(client, topic_id), Member(client, topic_id, "two")
        assert await member.take(wait_ms=1_000) == [(0, 2, 1)]
        assert await other.take() == []
        for wrong in ([(2, 1, ACCEPT)], [(0, 1, ())], [(0, 1, (1, 1, 1))], [(0, 0, (5,))], [(0, 0, RENEW)]):
            assert await member.acknowledge(wrong) == ErrorCode.INVALID_REQUEST
        assert await member.acknowledge([(1, 1, ACCEPT), (0, 0, ACCEPT)]) == ErrorCode.INVALID_REQUEST
        assert await member.acknowledge([(0, 3, ACCEPT)]) == ErrorCode.INVALID_REQUEST
        assert await member.acknowledge([(5, 5, ACCEPT)]) == ErrorCode.INVALID_REQUEST
        assert await member.acknowledge([(0, 0, (4,))], version=1) == ErrorCode.INVALID_REQUEST
        assert await other.acknowledge([(0, 2, ACCEPT)]) == ErrorCode.INVALID_RECORD_STATE
        # One bad batch: nothing of the request has happened.
        assert await member.acknowledge([(0, 0, ACCEPT), (0, 0, ACCEPT)]) == ErrorCode.INVALID_RECORD_STATE
        assert await member.acknowledge([(0, 2, ACCEPT)]) == ErrorCode.NONE
        assert await member.acknowledge([(0, 2, ACCEPT)]) == ErrorCode.NONE  # below the window: long done

    with_jobs(story)


def test_sessions_are_limited() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        assert (await Member(client, topic_id).ask()).error_code == ErrorCode.NONE
        began = asyncio.get_running_loop().time()
        answer = await Member(await node.connect(), topic_id, "two").ask(wait_ms=500)
        assert answer.error_code == ErrorCode.SHARE_SESSION_LIMIT_REACHED
        assert asyncio.get_running_loop().time() - began >= 0.5

    with_jobs(story, **{"group.share.max.share.sessions": 1})


def test_locks_limit_what_is_in_flight() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        for _ in range(15):
            await produce(node, client, 10)
        member = Member(client, topic_id)
        assert await member.take(wait_ms=1_000) == [(0, 99, 1)]
        assert await member.take() == []
        assert await member.take([(0, 9, ACCEPT)], wait_ms=1_000) == [(100, 109, 1)]

    with_jobs(story, **{"group.share.partition.max.record.locks": 100})


def test_record_limit_takes_no_more_than_asked_for() -> None:
    async def story(node: SimulatedBroker, client: WireClient, topic_id: bytes) -> None:
        await produce(node, client, 10)
        member = Member(client, topic_id)
        assert await member.take(wait_ms=1_000, records_max=3, mode=1) == [(0, 2, 1)]
        assert await member.take(records_max=3, mode=0) == [(3, 9, 1)]

    with_jobs(story)
